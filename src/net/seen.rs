//! A network namespace as the kernel tells of it: all that the steps of `step.rs` can make.
//!
//! Taken by `reload.rs` and compared in `verify.rs`. The namespace of a container is never entered by minirun itself: a
//! process of its own opens sockets there and hands them over (`change::in_namespace`).

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoMacVlan,
    InfoPortData, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use netlink_sys::Socket;
use std::net::IpAddr;

use super::change::in_namespace;
use super::nft::{self, dump::Whole};
use super::rtnl::{Disciplines, Mac, Rtnl};

/// Options of a bridge that are the root's where another bridge is that.
const TOLD_BY_ROOT: [&str; 3] = ["forward_delay", "hello_time", "max_age"];

/// A link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number for it.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is a bridge.
    pub is_bridge: bool,
    /// Whether it is an end of a veth pair.
    pub is_veth: bool,
    /// Whether it is set up.
    pub up: bool,
    /// In bytes.
    pub mtu: u32,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// The text that says whose it is.
    pub alias: String,
    /// The index of the bridge that it is a port of.
    pub bridge: Option<u32>,
    /// The index of the other end, in the namespace where that is; of a link on another one, that one's.
    pub peer: Option<u32>,
    /// As a link on another one, its mode, one of [`MACVLAN_MODES`](super::step::MACVLAN_MODES) or nothing known.
    pub macvlan: Option<&'static str>,
    /// As a tunnel, where it leads.
    pub tunnel: Option<Tunnel>,
    /// Whether the kernel makes it no IPv6 link-local address; where it has no IPv6, neither.
    pub no_link_local: bool,
    /// As a bridge, by the names of [`BRIDGE_OPTIONS`](super::step::BRIDGE_OPTIONS).
    pub bridge_options: Vec<(&'static str, u32)>,
    /// As a port, by the names of [`PORT_OPTIONS`](super::step::PORT_OPTIONS).
    pub port_options: Vec<(&'static str, u32)>,
}

/// A tunnel of VXLAN, as the kernel tells of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// The network's number.
    pub vni: u32,
    /// The UDP port.
    pub port: u16,
    /// The host or the group that it was made with.
    pub to: Option<IpAddr>,
    /// The address that it sends from, where that was said.
    pub local: Option<IpAddr>,
    /// The index of the link that it sends by, where that was said.
    pub dev: Option<u32>,
    /// Whom it sends to what it does not know the place of.
    pub remotes: Vec<IpAddr>,
}

/// A network namespace at one moment.
#[derive(Debug, Default)]
pub struct Seen {
    /// Its links.
    pub links: Vec<Link>,
    /// Their addresses, by index.
    pub addresses: Vec<(u32, IpNet)>,
    /// The next hops of its default routes.
    pub gateways: Vec<IpAddr>,
    /// What is at the entries and exits of its links.
    pub disciplines: Disciplines,
    /// minirun's table.
    pub table: Option<Whole>,
    /// The settings that were asked for; `None` for one that is not there.
    pub settings: HashMap<String, Option<String>>,
}

impl Seen {
    /// The namespace that this process is in. `settings` are files below /proc/sys.
    pub fn here(settings: &[&str]) -> Result<Self> {
        let socket = nft::open().context("open nfnetlink socket")?;
        let settings = settings.iter().map(|key| ((*key).to_owned(), read(key))).collect();
        Self::by(Rtnl::open()?, socket, settings)
    }

    /// The namespace of process `pid`.
    pub fn inside(pid: i32, settings: &[&str]) -> Result<Self> {
        let mut sockets = in_namespace(pid, || {
            let mut said = File::from(rustix::fs::memfd_create("settings", rustix::fs::MemfdFlags::CLOEXEC)?);
            let values: HashMap<&str, Option<String>> = settings.iter().map(|key| (*key, read(key))).collect();
            said.write_all(&serde_json::to_vec(&values)?)?;
            let nft = nft::open().context("open nfnetlink socket")?;
            Ok(vec![Rtnl::open()?.into_fd()?, nft.as_fd().try_clone_to_owned()?, said.into()])
        })?;
        let mut next = || if sockets.is_empty() { bail!("look into it: no socket") } else { Ok(sockets.remove(0)) };
        let (rtnl, nft, said): (OwnedFd, OwnedFd, OwnedFd) = (next()?, next()?, next()?);
        let mut text = Vec::new();
        let mut said = File::from(said);
        said.seek(SeekFrom::Start(0)).and_then(|_| said.read_to_end(&mut text)).context("read its settings")?;
        Self::by(Rtnl::from_fd(rtnl), crate::sys::netlink_socket(nft), serde_json::from_slice(&text)?)
    }

    fn by(mut rtnl: Rtnl, socket: Socket, settings: HashMap<String, Option<String>>) -> Result<Self> {
        let mut links: Vec<Link> = rtnl.links()?.iter().map(link).collect();
        for link in &mut links {
            if let Some(tunnel) = &mut link.tunnel {
                let database = rtnl.database_of_tunnel(link.index)?;
                tunnel.remotes = database.iter().filter_map(remote).collect();
            }
        }
        let addresses = rtnl.addresses(0)?.into_iter().chain(rtnl.addresses6(0)?);
        let addresses = addresses.filter_map(|message| address(&message)).collect();
        let gateways = rtnl.default_gateways()?;
        let disciplines = rtnl.disciplines()?;
        let table = nft::dump::whole(&socket)?;
        nft::let_the_kernel_close(socket);
        Ok(Self { links, addresses, gateways, disciplines, table, settings })
    }

    /// The link called `name`.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// The name of the link with this index.
    pub fn name_of(&self, index: u32) -> &str {
        self.links.iter().find(|link| link.index == index).map_or("nothing", |link| link.name.as_str())
    }
}

/// The host that an entry for all addresses leads to.
fn remote(entry: &NeighbourMessage) -> Option<IpAddr> {
    let (mut all, mut remote) = (false, None);
    for attribute in &entry.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(mac) => all = mac.iter().all(|byte| *byte == 0),
            // The message is one of bridges, and so does not say of which version its addresses are.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                let four = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
                remote = four.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from)).ok();
            }
            _ => {}
        }
    }
    remote.filter(|_| all)
}

fn read(key: &str) -> Option<String> {
    let text = std::fs::read_to_string(Path::new("/proc/sys").join(key)).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn address(message: &AddressMessage) -> Option<(u32, IpNet)> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            // Of IPv4 this is the own one; the other may be that of a peer.
            AddressAttribute::Local(local) => address = Some(*local),
            AddressAttribute::Address(other) => address = address.or(Some(*other)),
            _ => {}
        }
    }
    Some((message.header.index, IpNet::new(address?, message.header.prefix_len).ok()?))
}

/// What a message says of a link.
pub fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        no_link_local: true,
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Controller(index) => link.bridge = Some(*index).filter(|index| *index != 0),
            LinkAttribute::Link(index) => link.peer = Some(*index).filter(|index| *index != 0),
            LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| tell_kind(&mut link, info)),
            LinkAttribute::AfSpecUnspec(families) => {
                let inet6 = families.iter().filter_map(|family| match family {
                    AfSpecUnspec::Inet6(inet6) => Some(inet6),
                    _ => None,
                });
                let makes = |spec: &AfSpecInet6| matches!(spec, AfSpecInet6::AddrGenMode(mode) if *mode != In6AddrGenMode::None);
                link.no_link_local = !inet6.flatten().any(makes);
            }
            _ => {}
        }
    }
    link
}

fn tell_kind(link: &mut Link, info: &LinkInfo) {
    match info {
        LinkInfo::Kind(kind) => {
            link.is_bridge = *kind == InfoKind::Bridge;
            link.is_veth = *kind == InfoKind::Veth;
        }
        LinkInfo::Data(InfoData::Bridge(data)) => {
            link.bridge_options = data.iter().filter_map(bridge_option).collect();
            // Where another bridge is the root of the tree, its times hold, and its own are not told.
            let root = data.iter().find_map(|one| match one {
                InfoBridge::RootId(id) => Some(id),
                _ => None,
            });
            if !data.iter().any(|one| matches!(one, InfoBridge::BridgeId(id) if Some(id) == root)) {
                link.bridge_options.retain(|(option, _)| !TOLD_BY_ROOT.contains(option));
            }
        }
        LinkInfo::Data(InfoData::MacVlan(data)) => {
            link.macvlan = data.iter().find_map(|one| match one {
                InfoMacVlan::Mode(mode) => Some(mode_name(mode)),
                _ => None,
            });
        }
        LinkInfo::Data(InfoData::Vxlan(data)) => link.tunnel = Some(tunnel(data)),
        LinkInfo::PortData(InfoPortData::BridgePort(data)) => {
            link.port_options = data.iter().filter_map(port_option).collect();
        }
        _ => {}
    }
}

fn mode_name(mode: &MacVlanMode) -> &'static str {
    match mode {
        MacVlanMode::Bridge => "bridge",
        MacVlanMode::Private => "private",
        MacVlanMode::Vepa => "vepa",
        MacVlanMode::Passthrough => "passthru",
        MacVlanMode::Source => "source",
        _ => "another",
    }
}

fn tunnel(data: &[InfoVxlan]) -> Tunnel {
    let mut tunnel = Tunnel::default();
    for one in data {
        match one {
            InfoVxlan::Id(vni) => tunnel.vni = *vni,
            InfoVxlan::Port(port) => tunnel.port = *port,
            InfoVxlan::Group(to) => tunnel.to = Some(IpAddr::from(*to)),
            InfoVxlan::Group6(to) => tunnel.to = Some(IpAddr::from(*to)),
            InfoVxlan::Local(local) => tunnel.local = Some(IpAddr::from(*local)),
            InfoVxlan::Local6(local) => tunnel.local = Some(IpAddr::from(*local)),
            InfoVxlan::Link(dev) => tunnel.dev = Some(*dev).filter(|dev| *dev != 0),
            _ => {}
        }
    }
    tunnel
}

fn bridge_option(info: &InfoBridge) -> Option<(&'static str, u32)> {
    Some(match info {
        // 2 is a program of the host's that does the protocol.
        InfoBridge::StpState(state) => ("stp_state", u32::from(*state).min(1)),
        InfoBridge::AgeingTime(time) => ("ageing_time", *time),
        InfoBridge::ForwardDelay(time) => ("forward_delay", *time),
        InfoBridge::HelloTime(time) => ("hello_time", *time),
        InfoBridge::MaxAge(time) => ("max_age", *time),
        InfoBridge::Priority(number) => ("priority", u32::from(*number)),
        InfoBridge::MulticastSnooping(on) => ("mcast_snooping", u32::from(*on)),
        _ => return None,
    })
}

fn port_option(info: &InfoBridgePort) -> Option<(&'static str, u32)> {
    Some(match info {
        InfoBridgePort::HairpinMode(on) => ("hairpin", u32::from(*on)),
        InfoBridgePort::Isolated(on) => ("isolated", u32::from(*on)),
        InfoBridgePort::Learning(on) => ("learning", u32::from(*on)),
        InfoBridgePort::Priority(number) => ("priority", u32::from(*number)),
        InfoBridgePort::Cost(number) => ("cost", *number),
        _ => return None,
    })
}
