//! Requests by which `doctor` finds out what kinds of links and queues the kernel has, in a namespace that goes with them.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoMacVlan, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use super::Request;

/// A link of a kind.
fn link(name: &str, kind: InfoKind, data: InfoData, parent: Option<u32>) -> Request {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    link.attributes.extend(parent.map(LinkAttribute::Link));
    link.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]));
    Request { message: RouteNetlinkMessage::NewLink(link), flags: NLM_F_CREATE | NLM_F_EXCL }
}

/// A macvlan link above the link with index `parent`.
pub fn macvlan(name: &str, parent: u32) -> Request {
    let data = InfoData::MacVlan(vec![InfoMacVlan::Mode(MacVlanMode::Bridge)]);
    link(name, InfoKind::MacVlan, data, Some(parent))
}

/// A vxlan link.
pub fn vxlan(name: &str) -> Request {
    let data = InfoData::Vxlan(vec![InfoVxlan::Id(77), InfoVxlan::Port(4789)]);
    link(name, InfoKind::Vxlan, data, None)
}

/// A token bucket at the link with index `index`: eight megabit a second.
pub fn tbf(index: u32) -> Request {
    const ETHERNET: u8 = 1;
    // `struct tc_tbf_qopt`: a rate and a peak rate of twelve bytes each, limit, buffer and mtu.
    let mut options = vec![0u8; 36];
    options[1] = ETHERNET;
    options[8..12].copy_from_slice(&1_000_000u32.to_ne_bytes());
    options[24..28].copy_from_slice(&100_000u32.to_ne_bytes());
    // In ticks of the scheduler's clock, of 64 ns: what 15 kB take.
    options[28..32].copy_from_slice(&234_375u32.to_ne_bytes());
    let parameters = netlink_packet_core::DefaultNla::new(1, options);
    let mut message = TcMessage::with_index(i32::try_from(index).unwrap_or_default());
    message.header.parent = TcHandle::ROOT;
    message.attributes.push(TcAttribute::Kind("tbf".into()));
    message.attributes.push(TcAttribute::Options(vec![TcOption::Other(parameters)]));
    Request { message: RouteNetlinkMessage::NewQueueDiscipline(message), flags: NLM_F_CREATE | NLM_F_EXCL }
}
