//! Step: the closed list of changes to a network.
//!
//! The modes (`mod.rs`) produce lists of steps; `apply.rs` does and undoes them, `explain.rs` prints them. Nothing reaches
//! the kernel's network state by another way, so that what is printed is what is done.

use std::net::IpAddr;

use ipnet::IpNet;

use super::lent::Device;
use super::program::{Direction, Filter};
use super::rate::Rate;
use super::rtnl::Mac;
use super::table::Change;
use super::vxlan::Tunnel;

/// The network namespace in which a step acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// Where the bridges are: the host's namespace.
    Hub,
    /// The container's namespace.
    Container,
}

/// Options of a bridge by their names in the kernel (ip-link(8)), times in hundredths of a second.
pub const BRIDGE_OPTIONS: [&str; 7] =
    ["stp_state", "ageing_time", "forward_delay", "hello_time", "max_age", "priority", "mcast_snooping"];
/// Options of a port of a bridge, by their names in bridge(8).
pub const PORT_OPTIONS: [&str; 5] = ["hairpin", "isolated", "cost", "priority", "learning"];

/// What links of one parent do with each other, by their names in the kernel (ip-link(8)).
pub const MACVLAN_MODES: [&str; 4] = ["bridge", "private", "vepa", "passthru"];

/// One change to a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A bridge in the hub, down.
    AddBridge {
        /// The link's name.
        name: String,
        /// Its own hardware address, so that it does not take and follow its ports'.
        mac: Mac,
        /// What differs from the kernel's defaults, by the names of [`BRIDGE_OPTIONS`].
        options: Vec<(&'static str, u32)>,
    },
    /// A text on a link of the hub that says whose it is.
    SetAlias {
        /// The link's name.
        link: String,
        /// The text.
        alias: String,
    },
    /// An address with the length of its network; the kernel adds the route to that network.
    AddAddress {
        /// Where the link is.
        place: Place,
        /// The link's name.
        link: String,
        /// The address itself, with the prefix length of its network.
        address: IpNet,
    },
    /// No IPv6 link-local address made by the kernel. Comes before the link goes up.
    NoLinkLocal {
        /// Where the link is.
        place: Place,
        /// The link's name.
        link: String,
    },
    /// A link goes up.
    SetUp {
        /// Where the link is.
        place: Place,
        /// The link's name.
        link: String,
    },
    /// A veth pair: one end in the hub, down; the other born in the container.
    AddVeth {
        /// The end in the hub.
        host: String,
        /// Of both ends, in bytes.
        mtu: u32,
        /// The end in the container.
        peer: String,
        /// Its hardware address.
        peer_mac: Mac,
        /// Its index, so that later steps need not ask for it; the kernel's choice where it is 0.
        peer_index: u32,
    },
    /// A place at a link where frames are looked at.
    AddEntrance {
        /// Where the link is.
        place: Place,
        /// The link's name.
        link: String,
        /// Which frames.
        direction: Direction,
    },
    /// Drops there what a filter does not let pass.
    AddFilter {
        /// Where the link is.
        place: Place,
        /// The link's name.
        link: String,
        /// Which frames.
        direction: Direction,
        /// The filter.
        filter: Filter,
    },
    /// A link of its own on one of the hub, born in the container.
    AddMacvlan {
        /// The link in the hub.
        parent: String,
        /// One of [`MACVLAN_MODES`].
        mode: &'static str,
        /// Its name in the container.
        name: String,
        /// Its hardware address; in mode passthru the parent's, whatever is said.
        mac: Mac,
        /// In bytes, no more than the parent's.
        mtu: u32,
        /// Its index, so that later steps need not ask for it; the kernel's choice where it is 0.
        index: u32,
    },
    /// A tunnel in the hub, down.
    AddVxlan {
        /// The link's name.
        name: String,
        /// In bytes.
        mtu: u32,
        /// Where it leads.
        tunnel: Tunnel,
    },
    /// A further host that a tunnel sends to what it does not know the place of.
    AddFlood {
        /// The tunnel.
        link: String,
        /// The host's address.
        remote: IpAddr,
    },
    /// A link of the hub moves into the container.
    MoveLink {
        /// The link in the hub, down.
        link: String,
        /// What it is called there.
        name: String,
        /// Its hardware address there.
        mac: Mac,
        /// In bytes.
        mtu: u32,
        /// Its index there; the kernel's choice where it is 0.
        index: u32,
    },
    /// A link goes, if it is there.
    DeleteLink {
        /// Where it is.
        place: Place,
        /// Its name.
        link: String,
    },
    /// The host's end becomes a port of the bridge, tagged with `alias`.
    SetPort {
        /// The end in the hub.
        link: String,
        /// The bridge's name.
        bridge: String,
        /// Whose it is.
        alias: String,
    },
    /// A property of a port of a bridge.
    SetPortOption {
        /// The end in the hub.
        link: String,
        /// One of [`PORT_OPTIONS`].
        option: &'static str,
        /// What it becomes; 1 is on.
        value: u32,
    },
    /// A property of a bridge that is there.
    SetBridgeOption {
        /// The bridge's name.
        link: String,
        /// One of [`BRIDGE_OPTIONS`].
        option: &'static str,
        /// What it becomes.
        value: u32,
    },
    /// What leaves by a link leaves no faster than so.
    Shape {
        /// Where the link is.
        place: Place,
        /// The link's name.
        link: String,
        /// How fast.
        rate: Rate,
        /// So many bytes may leave at once.
        burst: u32,
    },
    /// The size of the largest packet of a link.
    SetMtu {
        /// Where the link is.
        place: Place,
        /// The link's name.
        link: String,
        /// In bytes.
        mtu: u32,
    },
    /// The hardware address of a link.
    SetMac {
        /// Where the link is.
        place: Place,
        /// The link's name.
        link: String,
        /// What it becomes.
        mac: Mac,
    },
    /// A link of the container gets its name back.
    Rename {
        /// What it is called.
        link: String,
        /// What it becomes.
        name: String,
    },
    /// The way to everywhere else, in the container, in the place of another one.
    ReplaceDefaultRoute {
        /// The next hop.
        gateway: IpAddr,
    },
    /// A link of the hub goes to the container.
    Lend {
        /// What it is in the hub.
        device: Box<Device>,
        /// Its name in the container.
        name: String,
    },
    /// A tap device in the container that stays without a program that has it open.
    AddTap {
        /// Its name.
        link: String,
        /// Its index, so that it takes none that a later link is to have.
        index: u32,
        /// The user who may open it, as the host counts.
        owner: u32,
    },
    /// The way to everywhere else, in the container.
    AddDefaultRoute {
        /// The next hop.
        gateway: IpAddr,
    },
    /// A kernel setting.
    Sysctl {
        /// Whose namespace's.
        place: Place,
        /// The file below /proc/sys, as `net/ipv4/conf/eth0/forwarding`.
        key: String,
        /// What is written to it.
        value: String,
    },
    /// The neighbours are told of a link's addresses. Its settings say so before that, and it is plugged in.
    Announce {
        /// The link's name in the container.
        link: String,
        /// Its hardware address, which stays: the kernel tells of one that is set.
        mac: Mac,
    },
    /// A change to the nftables table of the hub. Neighbouring ones are one transaction.
    Nft(Change),
    /// A change to the nftables table in the container's own namespace.
    NftInside(Change),
}

impl Step {
    /// The namespace in which the step acts.
    pub fn place(&self) -> Place {
        match self {
            Self::AddAddress { place, .. }
            | Self::AddEntrance { place, .. }
            | Self::AddFilter { place, .. }
            | Self::NoLinkLocal { place, .. }
            | Self::SetUp { place, .. }
            | Self::DeleteLink { place, .. }
            | Self::SetMtu { place, .. }
            | Self::SetMac { place, .. }
            | Self::Shape { place, .. }
            | Self::Sysctl { place, .. } => *place,
            Self::Lend { .. }
            | Self::AddTap { .. }
            | Self::AddDefaultRoute { .. }
            | Self::ReplaceDefaultRoute { .. }
            | Self::Rename { .. }
            | Self::Announce { .. }
            | Self::NftInside(_) => Place::Container,
            Self::AddBridge { .. }
            | Self::SetAlias { .. }
            | Self::AddVeth { .. }
            | Self::AddMacvlan { .. }
            | Self::AddVxlan { .. }
            | Self::AddFlood { .. }
            | Self::MoveLink { .. }
            | Self::SetPort { .. }
            | Self::SetPortOption { .. }
            | Self::SetBridgeOption { .. }
            | Self::Nft(_) => Place::Hub,
        }
    }
}
