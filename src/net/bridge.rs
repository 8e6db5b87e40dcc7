//! What a bridge and its ports say of themselves beyond what minirun sets: the spanning tree, the forwarding database, the
//! neighbours. Read for `network inspect`; nothing is decided from it.

use std::net::IpAddr;

use anyhow::Result;
use netlink_packet_route::link::{
    BridgeId, BridgePortState, InfoBridge, InfoBridgePort, InfoData, InfoPortData, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use serde::Serialize;

use super::explain::colons;
use super::rtnl::{Mac, Rtnl};
use super::seen;

/// Ticks a second of the times that the kernel tells (USER_HZ).
const TICKS: f64 = 100.0;

/// A bridge and its spanning tree, times in seconds.
#[derive(Debug, Default, Serialize)]
pub struct Bridge {
    /// The link's name.
    pub name: String,
    /// The kernel's number for it.
    #[serde(skip)]
    pub index: u32,
    /// Whether the spanning tree protocol is on.
    pub stp: bool,
    /// Priority and hardware address, as brctl(8) writes them.
    pub bridge_id: String,
    /// The same of the root of the tree.
    pub designated_root: String,
    /// The number of the port that leads to the root; 0 where the bridge is the root itself.
    pub root_port: u16,
    /// What the way to the root costs.
    pub root_path_cost: u32,
    /// After which time what the root said is forgotten.
    pub max_age: f64,
    /// How often the root says something.
    pub hello_time: f64,
    /// How long a port listens, and then learns.
    pub forward_delay: f64,
    /// After which time a hardware address is forgotten.
    pub ageing_time: f64,
    /// Until the next word.
    pub hello_timer: f64,
    /// Until a change is told again.
    pub tcn_timer: f64,
    /// Until a change is over.
    pub topology_change_timer: f64,
    /// Until old addresses are looked for.
    pub gc_timer: f64,
    /// Whether the tree changes.
    pub topology_change: bool,
    /// Whether this bridge has seen it.
    pub topology_change_detected: bool,
}

/// A port and its place in the spanning tree, times in seconds.
#[derive(Debug, Default, Serialize)]
pub struct Port {
    /// The link's name.
    pub port: String,
    /// The kernel's number for the link.
    #[serde(skip)]
    pub index: u32,
    /// Its number on the bridge.
    pub number: u16,
    /// Priority and number, as brctl(8) writes them.
    pub id: String,
    /// `disabled`, `listening`, `learning`, `forwarding` or `blocking`.
    pub state: &'static str,
    /// `root`, `designated`, `alternate` or `disabled`.
    pub role: &'static str,
    /// Whether the link is up.
    pub up: bool,
    /// In bytes.
    pub mtu: u32,
    /// What the way over it costs.
    pub cost: u32,
    /// The lowest wins.
    pub priority: u16,
    /// Whether the bridge sends a frame back by it.
    pub hairpin: bool,
    /// Whether it exchanges no frames with others that are.
    pub isolated: bool,
    /// Whether addresses are learned from what comes by it.
    pub learning: bool,
    /// Whether frames for an unknown address go out by it.
    pub flood: bool,
    /// The root of the tree, as it is told there.
    pub designated_root: String,
    /// The bridge that is nearest to the root there.
    pub designated_bridge: String,
    /// Its port.
    pub designated_port: String,
    /// What the way from there costs.
    pub designated_cost: u16,
    /// Until what the root said is forgotten.
    pub message_age_timer: f64,
    /// Until the next state.
    pub forward_delay_timer: f64,
    /// Until something may be said again.
    pub hold_timer: f64,
}

/// An entry of the forwarding database.
#[derive(Debug, Serialize)]
pub struct Address {
    /// The link by which it is reached.
    pub port: String,
    /// The port's number; 0 is the bridge itself.
    pub number: u16,
    /// The hardware address.
    pub mac: String,
    /// Whether it is the port's own.
    pub local: bool,
    /// Seconds since it was seen; 0 for one that is not forgotten.
    pub age: f64,
}

/// A neighbour: an address of the network, and at which hardware address it was found.
#[derive(Debug, Serialize)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address, where it is known.
    pub mac: Option<String>,
    /// As ip-neighbour(8) calls it, in capitals.
    pub state: &'static str,
}

impl Bridge {
    /// Reads what the kernel says of a bridge.
    pub fn of(message: &LinkMessage) -> Self {
        let link = seen::link(message);
        let mut bridge = Self { name: link.name, index: link.index, ..Self::default() };
        let data = infos(message).filter_map(|info| match info {
            LinkInfo::Data(InfoData::Bridge(data)) => Some(data),
            _ => None,
        });
        for one in data.flatten() {
            match one {
                InfoBridge::StpState(state) => bridge.stp = u32::from(*state) != 0,
                InfoBridge::BridgeId(id) => bridge.bridge_id = written(id),
                InfoBridge::RootId(id) => bridge.designated_root = written(id),
                InfoBridge::RootPort(number) => bridge.root_port = *number,
                InfoBridge::RootPathCost(cost) => bridge.root_path_cost = *cost,
                InfoBridge::MaxAge(time) => bridge.max_age = seconds(*time),
                InfoBridge::HelloTime(time) => bridge.hello_time = seconds(*time),
                InfoBridge::ForwardDelay(time) => bridge.forward_delay = seconds(*time),
                InfoBridge::AgeingTime(time) => bridge.ageing_time = seconds(*time),
                InfoBridge::HelloTimer(time) => bridge.hello_timer = timer(*time),
                InfoBridge::TcnTimer(time) => bridge.tcn_timer = timer(*time),
                InfoBridge::TopologyChangeTimer(time) => bridge.topology_change_timer = timer(*time),
                InfoBridge::GcTimer(time) => bridge.gc_timer = timer(*time),
                InfoBridge::TopologyChange(is) => bridge.topology_change = *is != 0,
                InfoBridge::TopologyChangeDetected(is) => bridge.topology_change_detected = *is != 0,
                _ => {}
            }
        }
        bridge
    }

    /// Its ports, by number.
    pub fn ports(&self, rtnl: &mut Rtnl) -> Result<Vec<Port>> {
        let mut ports: Vec<Port> = rtnl.ports(self.index)?.iter().map(|message| self.port(message)).collect();
        ports.sort_by_key(|port| port.number);
        Ok(ports)
    }

    fn port(&self, message: &LinkMessage) -> Port {
        let link = seen::link(message);
        let mut port = Port { port: link.name, index: link.index, up: link.up, mtu: link.mtu, ..Port::default() };
        let data = infos(message).filter_map(|info| match info {
            LinkInfo::PortData(InfoPortData::BridgePort(data)) => Some(data),
            _ => None,
        });
        for one in data.flatten() {
            match one {
                InfoBridgePort::State(state) => port.state = state_of(*state),
                InfoBridgePort::PortNumber(number) => port.number = *number,
                InfoBridgePort::PortId(id) => port.id = format!("{id:04x}"),
                InfoBridgePort::Cost(cost) => port.cost = *cost,
                InfoBridgePort::Priority(number) => port.priority = *number,
                InfoBridgePort::HairpinMode(on) => port.hairpin = *on,
                InfoBridgePort::Isolated(on) => port.isolated = *on,
                InfoBridgePort::Learning(on) => port.learning = *on,
                InfoBridgePort::UnicastFlood(on) => port.flood = *on,
                InfoBridgePort::RootId(id) => port.designated_root = written(id),
                InfoBridgePort::BridgeId(id) => port.designated_bridge = written(id),
                InfoBridgePort::DesignatedPort(id) => port.designated_port = format!("{id:04x}"),
                InfoBridgePort::DesignatedCost(cost) => port.designated_cost = *cost,
                InfoBridgePort::MessageAgeTimer(time) => port.message_age_timer = timer(*time),
                InfoBridgePort::ForwardDelayTimer(time) => port.forward_delay_timer = timer(*time),
                InfoBridgePort::HoldTimer(time) => port.hold_timer = timer(*time),
                _ => {}
            }
        }
        port.role = match &port {
            Port { state: "disabled", .. } => "disabled",
            Port { number, .. } if *number == self.root_port => "root",
            // What is told there is told by this bridge itself (br_is_designated_port).
            Port { designated_bridge, designated_port, id, .. }
                if *designated_bridge == self.bridge_id && designated_port == id =>
            {
                "designated"
            }
            _ => "alternate",
        };
        port
    }

    /// Its forwarding database, as brctl(8) sorts it; an address that several VLANs have is one.
    pub fn addresses(&self, rtnl: &mut Rtnl, ports: &[Port]) -> Result<Vec<Address>> {
        let database = rtnl.forwarding_database(self.index)?;
        let mut all: Vec<Address> = database.iter().filter_map(|entry| self.address(entry, ports)).collect();
        all.sort_by(|one, other| (&one.mac, one.number, other.local).cmp(&(&other.mac, other.number, one.local)));
        all.dedup_by(|one, other| one.mac == other.mac && one.number == other.number);
        Ok(all)
    }

    fn address(&self, entry: &NeighbourMessage, ports: &[Port]) -> Option<Address> {
        let (mut mac, mut age, mut own) = (None, 0.0, false);
        for attribute in &entry.attributes {
            match attribute {
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
                NeighbourAttribute::CacheInfo(info) => age = seconds(info.updated),
                // Links have lists of their own, which are in the answer too.
                NeighbourAttribute::Controller(bridge) => own = *bridge == self.index,
                _ => {}
            }
        }
        let port = ports.iter().find(|port| port.index == entry.header.ifindex);
        let name = port.map_or(&self.name, |port| &port.port).clone();
        let known = own && (port.is_some() || entry.header.ifindex == self.index);
        let stays = matches!(entry.header.state, NeighbourState::Permanent | NeighbourState::Noarp);
        Some(Address {
            port: name,
            number: port.map_or(0, |port| port.number),
            mac: colons(&mac.filter(|_| known)?),
            local: entry.header.state == NeighbourState::Permanent,
            age: if stays { 0.0 } else { age },
        })
    }

    /// The neighbours that the host knows on it.
    pub fn neighbours(&self, rtnl: &mut Rtnl) -> Result<Vec<Neighbour>> {
        let mut all: Vec<Neighbour> = rtnl.neighbours_of(self.index)?.iter().filter_map(neighbour).collect();
        all.sort_by_key(|neighbour| neighbour.address);
        Ok(all)
    }
}

fn infos(message: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    let lists = message.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    lists.flatten()
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let state = match message.header.state {
        NeighbourState::Incomplete => "INCOMPLETE",
        NeighbourState::Reachable => "REACHABLE",
        NeighbourState::Stale => "STALE",
        NeighbourState::Delay => "DELAY",
        NeighbourState::Probe => "PROBE",
        NeighbourState::Failed => "FAILED",
        NeighbourState::Permanent => "PERMANENT",
        // Multicast and the like, which ip-neighbour(8) does not list either.
        _ => return None,
    };
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(own)) => address = Some(IpAddr::from(*own)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(own)) => address = Some(IpAddr::from(*own)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::try_from(bytes.as_slice()).ok(),
            _ => {}
        }
    }
    Some(Neighbour { address: address?, mac: mac.map(|mac| colons(&mac)), state })
}

/// `8000.02d60ad60001`
fn written(id: &BridgeId) -> String {
    let digits: String = id.address.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{:04x}.{digits}", id.priority)
}

fn seconds(ticks: u32) -> f64 {
    f64::from(ticks) / TICKS
}

fn timer(ticks: u64) -> f64 {
    ticks as f64 / TICKS
}

fn state_of(state: BridgePortState) -> &'static str {
    match state {
        BridgePortState::Listening => "listening",
        BridgePortState::Learning => "learning",
        BridgePortState::Forwarding => "forwarding",
        BridgePortState::Blocking => "blocking",
        _ => "disabled",
    }
}
