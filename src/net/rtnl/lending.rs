//! A link that goes to another network namespace and comes back: what it has is read before, and given to it again after.

use std::os::fd::{AsRawFd, BorrowedFd};

use anyhow::{Context, Result, anyhow};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::LinkUnspec;

use super::{Mac, Request, Rtnl, as_route, messages, outgoing, parse, push, requests::set_link};

/// A netlink message, as bytes to be kept.
pub type Kept = Vec<u8>;

fn kept(message: RouteNetlinkMessage) -> Kept {
    let mut bytes = Vec::new();
    push(&mut bytes, message, 0, 0);
    bytes
}

fn read(kept: &Kept) -> Result<RouteNetlinkMessage> {
    let message = messages(kept).next().context("read what a link had: no message")?;
    parse(&message)?.ok_or_else(|| anyhow!("read what a link had: no message of rtnetlink"))
}

impl Rtnl {
    /// The addresses of a link, but for those that the kernel gives it by itself.
    pub fn addresses_to_keep(&mut self, link: u32) -> Result<Vec<Kept>> {
        let own = |message: &AddressMessage| {
            !message.attributes.iter().any(|attribute| {
                matches!(attribute, AddressAttribute::Address(std::net::IpAddr::V6(address)) if address.is_unicast_link_local())
            })
        };
        let mut all = self.addresses(link)?;
        all.extend(self.addresses6(link)?);
        Ok(all.into_iter().filter(own).map(|message| kept(RouteNetlinkMessage::NewAddress(message))).collect())
    }

    /// The routes of the main table by a link, but for those that come with its addresses; whether one is a default route.
    pub fn routes_to_keep(&mut self, link: u32) -> Result<(Vec<Kept>, bool)> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            let answer = self.dump(&RouteNetlinkMessage::GetRoute(question)).context("list routes")?;
            all.extend(answer.into_iter().filter_map(as_route));
        }
        let own = |route: &RouteMessage| {
            let RouteHeader { table, protocol, kind, .. } = route.header;
            table == RouteHeader::RT_TABLE_MAIN
                && protocol != RouteProtocol::Kernel
                && kind == RouteType::Unicast
                && outgoing(route) == Some(link)
        };
        all.retain(own);
        let way_out = all.iter().any(|route| route.header.destination_prefix_length == 0);
        // A next hop is found by the routes without one.
        let by_gateway =
            |route: &RouteMessage| route.attributes.iter().any(|one| matches!(one, RouteAttribute::Gateway(_)));
        all.sort_by_key(by_gateway);
        Ok((all.into_iter().map(|route| kept(RouteNetlinkMessage::NewRoute(route))).collect(), way_out))
    }
}

/// What was kept of link `name`, as the command that gives it back; `None` of what is no address and no route.
pub fn command(kept: &Kept, name: &str) -> Option<String> {
    match read(kept).ok()? {
        RouteNetlinkMessage::NewAddress(message) => {
            let of = |local: bool| {
                message.attributes.iter().find_map(|one| match one {
                    AddressAttribute::Local(address) if local => Some(*address),
                    AddressAttribute::Address(address) if !local => Some(*address),
                    _ => None,
                })
            };
            let address = of(true).or(of(false))?;
            let option = if address.is_ipv4() { "brd +" } else { "nodad" };
            Some(format!("ip addr add {address}/{} dev {name} {option}", message.header.prefix_len))
        }
        RouteNetlinkMessage::NewRoute(route) => {
            let mut words = String::new();
            let mut destination = "default".to_owned();
            for attribute in &route.attributes {
                match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(to)) => destination = to.to_string(),
                    RouteAttribute::Destination(RouteAddress::Inet6(to)) => destination = to.to_string(),
                    RouteAttribute::Gateway(RouteAddress::Inet(by)) => words.push_str(&format!(" via {by}")),
                    RouteAttribute::Gateway(RouteAddress::Inet6(by)) => words.push_str(&format!(" via {by}")),
                    RouteAttribute::Priority(metric) => words.push_str(&format!(" metric {metric}")),
                    _ => {}
                }
            }
            let length = route.header.destination_prefix_length;
            let family = if route.header.address_family == AddressFamily::Inet6 { " -6" } else { "" };
            Some(format!("ip{family} route add {destination}/{length} dev {name}{words}"))
        }
        _ => None,
    }
}

/// The link with this index goes to the network namespace of process `pid`, under a new name and index.
pub fn lend(index: u32, name: &str, new_index: u32, pid: u32) -> Request {
    let link = LinkUnspec::new_with_index(index).name(name.to_owned()).setns_by_pid(pid);
    set_link(link.append_extra_attribute(LinkAttribute::NewIfIndex(new_index as i32)).build())
}

/// It goes to a network namespace that is open.
pub fn give_back(index: u32, name: &str, new_index: Option<u32>, to: BorrowedFd<'_>) -> Request {
    let mut link = LinkUnspec::new_with_index(index).name(name.to_owned()).setns_by_fd(to.as_raw_fd());
    if let Some(index) = new_index {
        link = link.append_extra_attribute(LinkAttribute::NewIfIndex(index as i32));
    }
    set_link(link.build())
}

/// Sets the MTU of a link.
pub fn set_mtu_at(index: u32, mtu: u32) -> Request {
    set_link(LinkUnspec::new_with_index(index).mtu(mtu).build())
}

/// Sets its hardware address.
pub fn set_mac_at(index: u32, mac: Mac) -> Request {
    set_link(LinkUnspec::new_with_index(index).address(mac.to_vec()).build())
}

/// An address or a route that was kept, for the link with this index.
pub fn again(kept: &Kept, index: u32) -> Result<Request> {
    let message = match read(kept)? {
        RouteNetlinkMessage::NewAddress(mut address) => {
            address.header.index = index;
            RouteNetlinkMessage::NewAddress(address)
        }
        RouteNetlinkMessage::NewRoute(mut route) => {
            route.attributes.retain(|one| !matches!(one, RouteAttribute::Oif(_) | RouteAttribute::CacheInfo(_)));
            route.attributes.push(RouteAttribute::Oif(index));
            route.header.flags &= RouteFlags::Onlink;
            RouteNetlinkMessage::NewRoute(route)
        }
        _ => return Err(anyhow!("read what a link had: neither an address nor a route")),
    };
    let replace = if matches!(message, RouteNetlinkMessage::NewAddress(_)) { NLM_F_REPLACE } else { 0 };
    Ok(Request { message, flags: NLM_F_CREATE | replace })
}
