//! Changes to links, addresses and routes as requests, to be sent by [`Rtnl::batch`](super::Rtnl::batch).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{DefaultNla, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData, InfoKind,
    InfoMacVlan, InfoPortData, InfoPortKind, InfoVeth, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteMessage, RouteProtocol};
use netlink_packet_route::tc::{TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::{AddressMessageBuilder, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::super::program::{Direction, Instruction};
use super::super::rate::Rate;
use super::super::vxlan::Tunnel;
use super::{Mac, Request};

/// A new bridge, down, with a hardware address of its own: without one it would take its ports' and change with them. Its
/// MTU follows its ports' by itself. `options` are those of [`BRIDGE_OPTIONS`](super::super::step::BRIDGE_OPTIONS).
pub fn add_bridge(name: &str, mac: Mac, options: &[(&str, u32)]) -> Request {
    let info = options.iter().filter_map(|(option, value)| bridge_option(option, *value));
    let mut link = LinkMessageBuilder::<LinkBridge>::new(name).address(mac.to_vec());
    let info: Vec<InfoBridge> = info.collect();
    if !info.is_empty() {
        link = link.set_info_data(InfoData::Bridge(info));
    }
    let link = link.build();
    Request { message: RouteNetlinkMessage::NewLink(link), flags: NLM_F_CREATE | NLM_F_EXCL }
}

fn bridge_option(option: &str, value: u32) -> Option<InfoBridge> {
    Some(match option {
        "stp_state" => InfoBridge::StpState(BridgeStpState::from(value)),
        "ageing_time" => InfoBridge::AgeingTime(value),
        "forward_delay" => InfoBridge::ForwardDelay(value),
        "hello_time" => InfoBridge::HelloTime(value),
        "max_age" => InfoBridge::MaxAge(value),
        "priority" => InfoBridge::Priority(value as u16),
        "mcast_snooping" => InfoBridge::MulticastSnooping(value != 0),
        _ => return None,
    })
}

/// Sets an option of a bridge that is there, one of [`BRIDGE_OPTIONS`](super::super::step::BRIDGE_OPTIONS).
pub fn set_bridge_option(name: &str, option: &str, value: u32) -> Request {
    let data = InfoData::Bridge(bridge_option(option, value).into_iter().collect());
    let info = vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(data)];
    let link = LinkUnspec::new_with_name(name).append_extra_attribute(LinkAttribute::LinkInfo(info)).build();
    Request { message: RouteNetlinkMessage::NewLink(link), flags: 0 }
}

/// Sets the MTU of a link, in bytes.
pub fn set_mtu(name: &str, mtu: u32) -> Request {
    set_link(LinkUnspec::new_with_name(name).mtu(mtu).build())
}

/// Sets the hardware address of a link.
pub fn set_mac(name: &str, mac: Mac) -> Request {
    set_link(LinkUnspec::new_with_name(name).address(mac.to_vec()).build())
}

/// Gives the link with this index another name. (While it is up, since Linux 6.2.)
pub fn rename(index: u32, name: &str) -> Request {
    set_link(LinkUnspec::new_with_index(index).name(name).build())
}

/// A new veth pair in one message. The host's end stays down; the peer is born in the network namespace of process `pid`
/// with its final name, index and address.
pub fn add_veth(host: &str, mtu: u32, peer: &str, peer_mac: Mac, peer_index: u32, pid: u32) -> Request {
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .index(peer_index)
        .name(peer)
        .address(peer_mac.to_vec())
        .mtu(mtu)
        .setns_by_pid(pid)
        .build();
    let link = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(host)
        .mtu(mtu)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .build();
    Request { message: RouteNetlinkMessage::NewLink(link), flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// A new macvlan link on the one with index `parent`, born in the network namespace of process `pid` with its final name and
/// index. (The parent's index is one of the namespace that is asked.) Without `mac` it has what the mode gives it.
pub fn add_macvlan(parent: u32, mode: &str, name: &str, mac: Option<Mac>, mtu: u32, index: u32, pid: u32) -> Request {
    let mode = match mode {
        "private" => MacVlanMode::Private,
        "vepa" => MacVlanMode::Vepa,
        "passthru" => MacVlanMode::Passthrough,
        _ => MacVlanMode::Bridge,
    };
    let link = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::MacVlan)
        .set_info_data(InfoData::MacVlan(vec![InfoMacVlan::Mode(mode)]))
        .append_extra_attribute(LinkAttribute::Link(parent))
        .index(index)
        .name(name)
        .mtu(mtu)
        .setns_by_pid(pid);
    let link = match mac {
        Some(mac) => link.address(mac.to_vec()),
        None => link,
    };
    Request { message: RouteNetlinkMessage::NewLink(link.build()), flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// A new tunnel, down. `dev` is the index of the link that it sends by.
pub fn add_vxlan(name: &str, mtu: u32, tunnel: &Tunnel, dev: Option<u32>) -> Request {
    let mut info = vec![InfoVxlan::Id(tunnel.vni), InfoVxlan::Port(tunnel.port)];
    info.extend(tunnel.to.map(|to| match to {
        IpAddr::V4(to) => InfoVxlan::Group(to),
        IpAddr::V6(to) => InfoVxlan::Group6(to),
    }));
    info.extend(tunnel.local.map(|local| match local {
        IpAddr::V4(local) => InfoVxlan::Local(local),
        IpAddr::V6(local) => InfoVxlan::Local6(local),
    }));
    info.extend(dev.map(InfoVxlan::Link));
    // Said by name, because without this attribute the kernel takes it for off.
    info.push(InfoVxlan::Learning(true));
    let link = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Vxlan)
        .set_info_data(InfoData::Vxlan(info))
        .name(name)
        .mtu(mtu)
        .build();
    Request { message: RouteNetlinkMessage::NewLink(link), flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// Has the tunnel with this index send to `remote` too what it does not know the place of: an entry more for the address
/// that stands for all (bridge(8), `fdb append`).
pub fn add_flood(index: u32, remote: IpAddr) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    let remote = match remote {
        IpAddr::V4(remote) => NeighbourAddress::Inet(remote),
        IpAddr::V6(remote) => NeighbourAddress::Inet6(remote),
    };
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(vec![0; 6]));
    message.attributes.push(NeighbourAttribute::Destination(remote));
    Request { message: RouteNetlinkMessage::NewNeighbour(message), flags: NLM_F_CREATE | NLM_F_APPEND }
}

/// Moves the link with this index into the network namespace of process `pid`, with what it is to be there. Its alias, which
/// said that it waits, goes. Kernels before 5.13 choose the index themselves.
pub fn move_link(link: u32, name: &str, mac: Mac, mtu: u32, index: u32, pid: u32) -> Request {
    let link = LinkUnspec::new_with_index(link).setns_by_pid(pid).name(name).address(mac.to_vec()).mtu(mtu).alias("");
    let link = match index {
        0 => link,
        index => link.append_extra_attribute(LinkAttribute::NewIfIndex(index as i32)),
    };
    set_link(link.build())
}

pub(super) fn set_link(link: LinkMessage) -> Request {
    Request { message: RouteNetlinkMessage::SetLink(link), flags: 0 }
}

/// Makes the link `name` a port of the bridge with index `bridge`, and says in its alias whose it is.
pub fn set_port(name: &str, bridge: u32, alias: &str) -> Request {
    set_link(LinkUnspec::new_with_name(name).controller(bridge).alias(alias).build())
}

/// Sets an option of a port, one of [`PORT_OPTIONS`](super::super::step::PORT_OPTIONS).
pub fn set_port_option(name: &str, option: &str, value: u32) -> Request {
    let info = match option {
        "hairpin" => InfoBridgePort::HairpinMode(value != 0),
        "isolated" => InfoBridgePort::Isolated(value != 0),
        "learning" => InfoBridgePort::Learning(value != 0),
        "priority" => InfoBridgePort::Priority(value as u16),
        _ => InfoBridgePort::Cost(value),
    };
    let info = vec![LinkInfo::PortKind(InfoPortKind::Bridge), LinkInfo::PortData(InfoPortData::BridgePort(vec![info]))];
    let link = LinkUnspec::new_with_name(name).append_extra_attribute(LinkAttribute::LinkInfo(info)).build();
    // The kernel reads what is said of a port in this message only; the link is there, so none is made.
    Request { message: RouteNetlinkMessage::NewLink(link), flags: 0 }
}

/// What is above the filters of a direction, as tc(8) says it (`TC_H_CLSACT` with `TC_H_MIN_INGRESS` or `TC_H_MIN_EGRESS`).
pub fn above(direction: Direction) -> TcHandle {
    let minor = if direction == Direction::In { 0xfff2 } else { 0xfff3 };
    TcHandle { major: 0xffff, minor }
}

/// Attributes of a filter that is a program (linux/pkt_cls.h).
const TCA_BPF_OPS_LEN: u16 = 4;
pub const TCA_BPF_OPS: u16 = 5;

/// A place where frames of a link are looked at (`sch_ingress`), or the one that is there.
pub fn add_entrance(index: u32, direction: Direction) -> Request {
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = TcHandle::INGRESS;
    message.header.handle = TcHandle { major: 0xffff, minor: 0 };
    message.attributes.push(TcAttribute::Kind(direction.discipline().to_owned()));
    Request { message: RouteNetlinkMessage::NewQueueDiscipline(message), flags: NLM_F_CREATE | NLM_F_REPLACE }
}

/// Has a program decide there what becomes of each frame, of whatever protocol (`cls_bpf`), in the place of an earlier one.
pub fn add_filter(index: u32, direction: Direction, program: &[Instruction]) -> Request {
    const ETH_P_ALL: u16 = 3;
    let mut code = Vec::with_capacity(8 * program.len());
    for (instruction, then, otherwise, value) in program {
        code.extend(instruction.to_ne_bytes());
        code.extend([*then, *otherwise]);
        code.extend(value.to_ne_bytes());
    }
    let length = (program.len() as u16).to_ne_bytes().to_vec();
    let option = |option| TcOption::Bpf(option);
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = above(direction);
    message.header.handle = TcHandle { major: 0, minor: 1 };
    // Its place among others, and the protocol, in the order of the network.
    message.header.info = 1 << 16 | u32::from(ETH_P_ALL.to_be());
    message.attributes.push(TcAttribute::Kind("bpf".to_owned()));
    message.attributes.push(TcAttribute::Options(vec![
        option(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
        option(TcFilterBpfOption::Other(DefaultNla::new(TCA_BPF_OPS_LEN, length))),
        option(TcFilterBpfOption::Other(DefaultNla::new(TCA_BPF_OPS, code))),
    ]));
    Request { message: RouteNetlinkMessage::NewTrafficFilter(message), flags: NLM_F_CREATE | NLM_F_REPLACE }
}

/// Says in a link's alias whose it is.
pub fn set_alias(name: &str, alias: &str) -> Request {
    set_link(LinkUnspec::new_with_name(name).alias(alias).build())
}

/// Brings a link up.
pub fn set_up(name: &str) -> Request {
    set_link(LinkUnspec::new_with_name(name).up().build())
}

/// Has the kernel make no IPv6 link-local address on a link by itself. Must come before the link goes up.
pub fn no_link_local(name: &str) -> Request {
    let inet6 = vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)];
    let spec = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(inet6)]);
    set_link(LinkUnspec::new_with_name(name).append_extra_attribute(spec).build())
}

/// Deletes the link with this index.
pub fn delete_link(index: u32) -> Request {
    Request { message: RouteNetlinkMessage::DelLink(LinkUnspec::new_with_index(index).build()), flags: 0 }
}

/// Gives a link an address; the kernel adds the route to its network.
pub fn add_address(index: u32, address: IpNet) -> Request {
    let message = match address {
        IpNet::V4(address) => {
            AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(address.addr(), address.prefix_len()).build()
        }
        IpNet::V6(address) => {
            let builder = AddressMessageBuilder::<Ipv6Addr>::new();
            let mut message = builder.index(index).address(address.addr(), address.prefix_len()).build();
            // No twin can have it: it need not be looked for, and the address is usable at once.
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            message
        }
    };
    Request { message: RouteNetlinkMessage::NewAddress(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// A default route by `gateway`.
pub fn add_default_route(gateway: IpAddr) -> Request {
    Request { message: RouteNetlinkMessage::NewRoute(default_route(gateway)), flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// The same in the place of the default route that there is.
pub fn replace_default_route(gateway: IpAddr) -> Request {
    Request { message: RouteNetlinkMessage::NewRoute(default_route(gateway)), flags: NLM_F_CREATE | NLM_F_REPLACE }
}

fn default_route(gateway: IpAddr) -> RouteMessage {
    // As one that is typed: `ip route` marks them so.
    match gateway {
        IpAddr::V4(gateway) => {
            RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).protocol(RouteProtocol::Boot).build()
        }
        IpAddr::V6(gateway) => {
            RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).protocol(RouteProtocol::Boot).build()
        }
    }
}

/// Attributes of a token bucket filter (linux/pkt_sched.h).
pub const TCA_TBF_PARMS: u16 = 1;
pub const TCA_TBF_RATE64: u16 = 4;

/// A token bucket filter as the root queue of the link with this index: `burst` bytes at once, `rate` in the long run.
pub fn shape(index: u32, rate: Rate, burst: u32) -> Request {
    const TCA_TBF_BURST: u16 = 6;
    const TC_LINKLAYER_ETHERNET: u8 = 1;
    // `struct tc_tbf_qopt` with two `tc_ratespec`.
    let mut parameters = vec![0, TC_LINKLAYER_ETHERNET, 0, 0, 0, 0, 0, 0];
    parameters.extend(u32::try_from(rate.bytes).unwrap_or(u32::MAX).to_ne_bytes());
    // No peak rate.
    parameters.extend([0; 12]);
    parameters.extend(rate.limit(burst).to_ne_bytes());
    // The burst again as a time, for kernels that know no bytes (before 3.13), and the size of a burst at the peak rate.
    parameters.extend([0; 8]);
    let mut options = vec![TcOption::Other(DefaultNla::new(TCA_TBF_PARMS, parameters))];
    if u32::try_from(rate.bytes).is_err() {
        options.push(TcOption::Other(DefaultNla::new(TCA_TBF_RATE64, rate.bytes.to_ne_bytes().to_vec())));
    }
    options.push(TcOption::Other(DefaultNla::new(TCA_TBF_BURST, burst.to_ne_bytes().to_vec())));
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = TcHandle::ROOT;
    message.attributes = vec![TcAttribute::Kind("tbf".to_owned()), TcAttribute::Options(options)];
    Request { message: RouteNetlinkMessage::NewQueueDiscipline(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}
