//! The hub: the network namespace in which the bridges are, as the kernel tells of it.
//!
//! One [`View`] is taken at the start of a command, by a handful of questions whose cost does not grow with the containers.
//! Everything that is decided about a network is decided from it; the kernel is the truth, not a file.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecUnspec, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};

use super::nft;
use super::rtnl::{Mac, Rtnl};
use super::table::{Element, Table};

/// A destination that stands for "everywhere else" where the way out is looked up (RFC 5737, TEST-NET-3: never on a host's
/// own links). No packet is sent.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// The same for IPv6 (RFC 3849, the documentation prefix).
const ELSEWHERE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1);

/// The index of `lo` in every network namespace.
const LOOPBACK: u32 = 1;
/// So many routes are looked at for the links by which they leave.
const MOST_ROUTES: usize = 256;

/// A link of the hub.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is a bridge.
    pub bridge: bool,
    /// Whether it is the loopback device.
    pub loopback: bool,
    /// Whether it is set up.
    pub up: bool,
    /// In bytes.
    pub mtu: u32,
    /// Whether IPv4 packets that come in by it may be passed on.
    pub forwarding: bool,
    /// Whether IPv6 packets that come in by it may be passed on; looked at only where a network has IPv6.
    pub forwarding6: bool,
    /// The free text that says whose it is.
    pub alias: String,
    /// Whether its addresses are Ethernet's.
    pub ethernet: bool,
    /// Its hardware address.
    pub mac: Mac,
    /// The bridge or bond that it is a port of.
    pub master: Option<u32>,
}

/// The hub at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The managed bridges that there are of those asked for, and the links by which routes leave.
    pub links: Vec<Link>,
    /// The link of the default route.
    pub uplink: Option<Link>,
    /// minirun's nftables table, `None` where there is no table.
    pub table: Option<Table>,
    /// Whether it has each of the elements that were asked for.
    pub elements: Vec<bool>,
    /// Whether the whole host is a router (`net.ipv4.ip_forward`), by somebody else's will: minirun does not touch it.
    pub router: bool,
    /// Whether the kernel speaks IPv6.
    pub ipv6: bool,
    /// Whether it forwards IPv6 for all links or none: kernels before 6.17.
    pub forwards_all6: bool,
}

/// The setting by which the kernel forwards IPv6 for all links.
pub const FORWARDING6_OF_ALL: &str = "net/ipv6/conf/all/forwarding";

impl View {
    /// Asks the kernel: for these bridges, for the links by which routes leave, and for these elements of the table. The
    /// cost does not grow with the containers, nor with other networks.
    pub fn take(rtnl: &mut Rtnl, bridges: &[&str], elements: &[Element]) -> Result<Self> {
        let out = rtnl.route_to(ELSEWHERE)?;
        let mut messages: Vec<LinkMessage> = Vec::new();
        for bridge in bridges {
            messages.extend(rtnl.link_called(bridge)?);
        }
        let bridges: Vec<u32> = messages.iter().map(|link| link.header.index).collect();
        let mut wanted = rtnl.links_of_routes(MOST_ROUTES)?;
        wanted.extend(out.filter(|index| !wanted.contains(index)));
        for index in wanted.into_iter().filter(|index| !bridges.contains(index)) {
            messages.extend(rtnl.link(index)?);
        }
        // Where there is no other link, the loopback device tells of IPv6.
        let ipv6 = messages.iter().any(speaks_ipv6) || rtnl.link(LOOPBACK)?.as_ref().is_some_and(speaks_ipv6);
        let links: Vec<Link> = messages.iter().map(link).collect();
        let uplink = links.iter().find(|link| Some(link.index) == out && !link.loopback).cloned();
        let router = std::fs::read("/proc/sys/net/ipv4/ip_forward").is_ok_and(|value| value.first() == Some(&b'1'));
        let (table, elements) = nft::table(elements)?.unzip();
        let elements = elements.unwrap_or_default();
        Ok(Self { links, uplink, table, elements, router, ipv6, forwards_all6: false })
    }

    /// Looks at what of IPv6 there is as well: the link of its default route, and which links forward it.
    pub fn look_at_ipv6(&mut self, rtnl: &mut Rtnl) -> Result<()> {
        if let Some(index) = rtnl.route_to6(ELSEWHERE6)?
            && !self.links.iter().any(|link| link.index == index)
        {
            self.links.extend(rtnl.link(index)?.as_ref().map(link));
        }
        let set = |key: &str| std::fs::read(format!("/proc/sys/{key}")).is_ok_and(|value| value.first() == Some(&b'1'));
        self.forwards_all6 = !Path::new("/proc/sys/net/ipv6/conf/all/force_forwarding").exists();
        let all = set(FORWARDING6_OF_ALL);
        for link in &mut self.links {
            let key = format!("net/ipv6/conf/{}/force_forwarding", link.name);
            link.forwarding6 = all || (!self.forwards_all6 && set(&key));
        }
        Ok(())
    }

    /// The setting that makes the kernel forward what comes in by `link`. (One link's own is since Linux 6.17.)
    pub fn forwarding6_key(&self, link: &str) -> Option<String> {
        if !self.ipv6 {
            return None;
        }
        let own = || format!("net/ipv6/conf/{link}/force_forwarding");
        Some(if self.forwards_all6 { FORWARDING6_OF_ALL.to_owned() } else { own() })
    }

    /// The link called `name`.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The MTU that a container gets: its packets must fit the way out.
    pub fn mtu(&self) -> u32 {
        self.uplink.as_ref().map_or(1500, |uplink| uplink.mtu)
    }
}

/// What is known of a link from the kernel's message about it.
pub fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        loopback: message.header.link_layer_type == LinkLayerType::Loopback,
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(address) => link.mac = address.as_slice().try_into().unwrap_or_default(),
            LinkAttribute::Controller(index) => link.master = Some(*index).filter(|index| *index != 0),
            LinkAttribute::LinkInfo(infos) => {
                link.bridge = infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Bridge)));
            }
            LinkAttribute::AfSpecUnspec(families) => {
                link.forwarding = families.iter().any(|family| {
                    let AfSpecUnspec::Inet(inet) = family else { return false };
                    inet.iter().any(|spec| matches!(spec, AfSpecInet::DevConf(conf) if conf.forwarding != 0))
                });
            }
            _ => {}
        }
    }
    link
}

fn speaks_ipv6(message: &LinkMessage) -> bool {
    message.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::AfSpecUnspec(families) => families.iter().any(|family| matches!(family, AfSpecUnspec::Inet6(_))),
        _ => false,
    })
}

/// The first IPv4 address of a link, with the prefix length of its network.
pub fn address_of(rtnl: &mut Rtnl, link: u32) -> Result<Option<Ipv4Net>> {
    Ok(rtnl.addresses(link)?.iter().find_map(network_of))
}

/// All addresses of a link.
pub fn addresses_of(rtnl: &mut Rtnl, link: u32) -> Result<Vec<IpAddr>> {
    let mut all = rtnl.addresses(link)?.iter().filter_map(own_address).collect::<Vec<_>>();
    all.extend(addresses6_of(rtnl, link)?);
    Ok(all)
}

/// All IPv6 addresses of a link.
pub fn addresses6_of(rtnl: &mut Rtnl, link: u32) -> Result<Vec<IpAddr>> {
    Ok(rtnl.addresses6(link)?.iter().filter_map(own_address).collect())
}

fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

fn network_of(message: &AddressMessage) -> Option<Ipv4Net> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
        _ => None,
    })?;
    Ipv4Net::new(local, message.header.prefix_len).ok()
}

/// A range of addresses that somebody on the host uses, and who.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The range.
    pub range: Ipv4Net,
    /// As people call it: "route by eth0", "resolver".
    pub holder: String,
}

/// All ranges that the host uses: by its routes and addresses, and `resolvers`. A default route takes nothing.
pub fn taken(rtnl: &mut Rtnl, resolvers: &[Ipv4Addr]) -> Result<Vec<Taken>> {
    let links: Vec<Link> = rtnl.links()?.iter().map(link).collect();
    let name = |index: u32| links.iter().find(|link| link.index == index).map_or("no link", |link| link.name.as_str());
    let mut taken: Vec<Taken> = resolvers
        .iter()
        .map(|resolver| Taken { range: Ipv4Net::from(*resolver), holder: "a resolver of this host".into() })
        .collect();
    for message in rtnl.addresses(0)? {
        if let Some(range) = network_of(&message) {
            taken.push(Taken { range: range.trunc(), holder: format!("an address of {}", name(message.header.index)) });
        }
    }
    for message in rtnl.routes()? {
        if let Some((range, link)) = range_of(&message) {
            taken.push(Taken { range, holder: format!("a route by {}", name(link)) });
        }
    }
    Ok(taken)
}

fn range_of(message: &RouteMessage) -> Option<(Ipv4Net, u32)> {
    // Broadcast and multicast entries stand beside an address that is in the list already.
    if !matches!(
        message.header.kind,
        RouteType::Unicast | RouteType::Local | RouteType::BlackHole | RouteType::Prohibit
    ) {
        return None;
    }
    let mut destination = None;
    let mut link = 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = Some(*address),
            RouteAttribute::Oif(index) => link = *index,
            _ => {}
        }
    }
    let range = Ipv4Net::new(destination?, message.header.destination_prefix_length).ok()?;
    // A default route takes nothing, nor does one in parts: VPNs route 0.0.0.0/1 and 128.0.0.0/1.
    (range.prefix_len() >= 8).then_some((range, link))
}

/// Where the files about this hub are. The bridges belong to the network namespace, whatever `--root` a command was given:
/// two roots must not hand out the same address. The number is the kernel's own for the namespace and never used again; a
/// reboot loses the directory and the namespace alike.
pub fn directory(rtnl: &Rtnl) -> Result<PathBuf> {
    Ok(PathBuf::from(format!("/run/minirun/hub-{}", number(rtnl)?)))
}

/// The kernel's number for this hub.
pub fn number(rtnl: &Rtnl) -> Result<u64> {
    crate::sys::netns_cookie(rtnl.as_fd()).context("ask for the network namespace's number")
}
