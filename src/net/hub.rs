//! The hub: the network namespace in which the bridges are, as the kernel tells of it.
//!
//! One [`View`] is taken at the start of a command, by a handful of questions whose cost does not grow with the containers.
//! Everything that is decided about a network is decided from it; the kernel is the truth, not a file.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet, AfSpecUnspec, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};

use super::network::BRIDGE;
use super::nft;
use super::rtnl::Rtnl;
use super::table::Table;

/// A destination that stands for "everywhere else" where the way out is looked up (RFC 5737, TEST-NET-3: never on a host's
/// own links). No packet is sent.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

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
    /// The free text that says whose it is.
    pub alias: String,
}

/// The hub at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    /// The managed bridge, if there is one, and the links by which routes leave.
    pub links: Vec<Link>,
    /// The link of the default route.
    pub uplink: Option<Link>,
    /// minirun's nftables table, `None` where there is no table.
    pub table: Option<Table>,
    /// Whether the whole host is a router (`net.ipv4.ip_forward`), by somebody else's will: minirun does not touch it.
    pub router: bool,
    /// Whether the kernel speaks IPv6.
    pub ipv6: bool,
}

impl View {
    /// Asks the kernel: for the bridge, and for the links by which routes leave. The cost does not grow with the containers.
    pub fn take(rtnl: &mut Rtnl) -> Result<Self> {
        let out = rtnl.route_to(ELSEWHERE)?;
        let mut messages: Vec<LinkMessage> = rtnl.link_called(BRIDGE)?.into_iter().collect();
        let bridge = messages.first().map(|link| link.header.index);
        let mut wanted = rtnl.links_of_routes(MOST_ROUTES)?;
        wanted.extend(out.filter(|index| !wanted.contains(index)));
        for index in wanted.into_iter().filter(|index| Some(*index) != bridge) {
            messages.extend(rtnl.link(index)?);
        }
        // Where there is no other link, the loopback device tells of IPv6.
        let ipv6 = messages.iter().any(speaks_ipv6) || rtnl.link(LOOPBACK)?.as_ref().is_some_and(speaks_ipv6);
        let links: Vec<Link> = messages.iter().map(link).collect();
        let uplink = links.iter().find(|link| Some(link.index) == out && !link.loopback).cloned();
        let router = std::fs::read("/proc/sys/net/ipv4/ip_forward").is_ok_and(|value| value.first() == Some(&b'1'));
        Ok(Self { links, uplink, table: nft::table()?, router, ipv6 })
    }

    /// The link called `name`.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// Whether links that a container uses can have IPv6: a link that is too small for it has none (RFC 8200, section 5).
    pub fn ipv6_on_links(&self) -> bool {
        self.ipv6 && self.mtu() >= 1280
    }

    /// The MTU that a container gets: its packets must fit the way out.
    pub fn mtu(&self) -> u32 {
        self.uplink.as_ref().map_or(1500, |uplink| uplink.mtu)
    }
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        loopback: message.header.link_layer_type == LinkLayerType::Loopback,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
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

fn network_of(message: &AddressMessage) -> Option<Ipv4Net> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(std::net::IpAddr::V4(address)) => Some(*address),
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
    let cookie = crate::sys::netns_cookie(rtnl.as_fd()).context("ask for the network namespace's number")?;
    Ok(PathBuf::from(format!("/run/minirun/hub-{cookie}")))
}
