//! The one nftables table, `inet minirun`: what it can hold, and what is in it.
//!
//! A rule is a list of [`Match`]es and a [`Verdict`], and each of them is known both as bytes (`nft.rs`) and as the text of
//! nft(8) (`explain.rs`): what is printed is what is done. The rules are the same on every host. What differs from host to
//! host, networks and published ports, are elements of sets: a packet costs the same whatever their number.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The family and name of the table.
pub const TABLE: &str = "minirun";

/// The name of the table that stays when all others are flushed (`anchor.rs`).
pub const ANCHOR: &str = "minirun-anchor";

/// What its comment says: another layout of minirun's is another text.
pub const COMMENT: &str = "minirun 4";

/// The bit of a packet's mark that says that the rules let it into a network (`guard.rs`); it is gone in the container. Nothing
/// else has it but what the host itself sends to its own addresses and somebody publishes.
pub const LET_IN: u32 = 0x2000;

/// A part of a set's key or value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// A link's name.
    Link,
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// A transport protocol.
    Protocol,
    /// A port.
    Port,
}

/// A set, or a map where it has a value.
#[derive(Debug, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: &'static str,
    /// The parts of a key.
    pub key: &'static [Field],
    /// The parts of what a key leads to; none in a set.
    pub value: &'static [Field],
    /// Whether an element may be a range.
    pub intervals: bool,
}

const fn set(name: &'static str, key: &'static [Field]) -> Set {
    Set { name, key, value: &[], intervals: false }
}

/// The managed bridges.
pub static BRIDGES: Set = set("bridges", &[Field::Link]);
/// Those whose containers reach the outside.
pub static OUTWARD: Set = set("outward", &[Field::Link]);
/// Those whose containers reach neither the outside nor the host.
pub static CLOSED: Set = set("closed", &[Field::Link]);
/// The ways from a bridge back to itself.
pub static WITHIN: Set = set("within", &[Field::Link, Field::Link]);
/// Links on which minirun turned forwarding on.
pub static GUARDED: Set = set("guarded", &[Field::Link]);
/// The bridges' own addresses, each with its bridge.
pub static OWN4: Set = set("own4", &[Field::Link, Field::Ipv4]);
/// The bridges' own addresses.
pub static GATEWAYS4: Set = set("gateways4", &[Field::Ipv4]);
/// [`OWN4`] for IPv6.
pub static OWN6: Set = set("own6", &[Field::Link, Field::Ipv6]);
/// [`GATEWAYS4`] for IPv6.
pub static GATEWAYS6: Set = set("gateways6", &[Field::Ipv6]);
/// The addresses of each network, with its bridge.
pub static MEMBERS4: Set = Set { name: "members4", key: &[Field::Link, Field::Ipv4], value: &[], intervals: true };
/// [`MEMBERS4`] for IPv6.
pub static MEMBERS6: Set = Set { name: "members6", key: &[Field::Link, Field::Ipv6], value: &[], intervals: true };
/// A key of published ports. The port is first: of a set of ranges the kernel goes through all elements that fit the first part of
/// the key (net/netfilter/nft_set_pipapo.c), and every port that is published at all addresses fits an address.
const SERVICE4: &[Field] = &[Field::Port, Field::Protocol, Field::Ipv4];
/// [`SERVICE4`] for IPv6.
const SERVICE6: &[Field] = &[Field::Port, Field::Protocol, Field::Ipv6];
/// Published ports: which address and port of the host lead to which of a container.
pub static PORTS4: Set = Set { name: "ports4", key: SERVICE4, value: &[Field::Ipv4, Field::Port], intervals: true };
/// [`PORTS4`] for IPv6.
pub static PORTS6: Set = Set { name: "ports6", key: SERVICE6, value: &[Field::Ipv6, Field::Port], intervals: true };
/// In a container's own namespace: the addresses by which it knows the host, with the protocols that are led to its holder.
pub static HOSTS4: Set = set("hosts4", &[Field::Ipv4, Field::Protocol]);
/// Published ranges whose ports are the same in the container: one element a range.
pub static RANGES4: Set = Set { name: "ranges4", key: SERVICE4, value: &[Field::Ipv4], intervals: true };
/// [`RANGES4`] for IPv6.
pub static RANGES6: Set = Set { name: "ranges6", key: SERVICE6, value: &[Field::Ipv6], intervals: true };

/// A part of a key or value, filled in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// A link's name.
    Link(String),
    /// An IPv4 address.
    Ipv4(Ipv4Addr),
    /// An IPv6 address.
    Ipv6(Ipv6Addr),
    /// TCP is 6, UDP 17, SCTP 132.
    Protocol(u8),
    /// A port.
    Port(u16),
}

impl From<IpAddr> for Value {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::Ipv4(address),
            IpAddr::V6(address) => Self::Ipv6(address),
        }
    }
}

/// An element of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The set.
    pub set: &'static Set,
    /// Its key, or the first one of a range.
    pub key: Vec<Value>,
    /// The last key of a range, in a set of ranges.
    pub end: Vec<Value>,
    /// What it leads to, in a map.
    pub value: Vec<Value>,
    /// Whose it is, at most 127 bytes.
    pub comment: String,
}

/// Where a chain is called from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Packets that came in, before it is decided where they go, at the usual priority of destination NAT.
    Prerouting,
    /// Packets that a program of the host sends, at the usual priority of destination NAT.
    Output,
    /// Packets that a program of the host sends, at the usual priority of filters.
    Sent,
    /// Packets that came in by the loopback device, before anything else looks at them.
    Loopback,
    /// Packets for the host itself, at the usual priority of filters.
    Input,
    /// Packets that the host passes on, at the usual priority of filters.
    Forward,
    /// Packets about to leave, at the usual priority of source NAT.
    Postrouting,
}

/// A property of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The link that it came in by.
    InLink,
    /// The link that it goes out by.
    OutLink,
    /// Where an IPv4 packet goes.
    Destination4,
    /// Where an IPv6 packet goes.
    Destination6,
    /// Where an IPv4 packet comes from.
    Source4,
    /// Where an IPv6 packet comes from.
    Source6,
    /// Its transport protocol.
    Protocol,
    /// The port that it goes to.
    DestinationPort,
}

/// A condition of a rule; all must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// The packet belongs to a connection that is known, or is an error about one.
    EstablishedOrRelated,
    /// The destination was changed by a NAT rule: somebody published it.
    DestinationNatted,
    /// These properties together are in the set.
    In(&'static [What], &'static Set),
    /// They are not.
    NotIn(&'static [What], &'static Set),
    /// It goes to an address of the host's own.
    ToHost,
    /// It was to leave by the loopback device; where a rule has changed its destination, it leaves by another.
    ByLoopback,
    /// It has ports: TCP, UDP or SCTP.
    HasPorts,
    /// It goes to this port of a protocol.
    To(u8, u16),
    /// It comes from this port of a protocol.
    From(u8, u16),
    /// It is a message of ICMPv6 of this type.
    Icmp6(u8),
    /// Its source is in this network.
    Source(IpNet),
    /// Its destination is in this network.
    Destination(IpNet),
}

/// What happens to a packet that a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// This table has no objection.
    Accept,
    /// The packet is dropped.
    Drop,
    /// The source becomes the address of the link it leaves by, with a random port.
    Masquerade,
    /// The packet gets this bit in its mark; the rules that follow are not asked less for it.
    Mark(u32),
    /// The rules of another chain are asked.
    Jump(&'static str),
    /// The port that it goes to becomes this one; the rules that follow are not asked less for it.
    SetDestinationPort(u8, u16),
    /// The port that it comes from becomes this one.
    SetSourcePort(u8, u16),
    /// The destination becomes this address and port; a condition says that the packet is of IPv4.
    RedirectTo(Ipv4Addr, u16),
    /// The destination becomes what the map says of these properties, if it says something.
    Redirect(&'static [What], &'static Set),
}

/// A change to the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The table, with a comment by which a later command knows its layout.
    AddTable,
    /// The table and all in it.
    DeleteTable,
    /// A set.
    AddSet(&'static Set),
    /// An element. One that is there already is an error in a map, which leads somewhere else then.
    AddElement(Element),
    /// An element goes.
    DeleteElement(Element),
    /// A chain.
    AddChain {
        /// The chain's name.
        name: &'static str,
        /// Where the kernel calls it from, with the policy accept; `None` for one that rules jump to.
        hook: Option<Hook>,
    },
    /// A rule at the end of a chain.
    AddRule {
        /// The chain's name.
        chain: &'static str,
        /// The conditions.
        matches: Vec<Match>,
        /// What is done where all of them hold.
        verdict: Verdict,
    },
}

/// The table as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// Its comment.
    pub comment: String,
    /// How many rules its chains have, in the order of [`CHAINS`]; `None` for a chain that is not there.
    pub rules: [Option<u32>; CHAINS.len()],
}

/// The chains of the table.
pub const CHAINS: [&str; 7] = ["published", "prerouting", "output", "sent", "input", "forward", "postrouting"];

/// The element that is one link's name.
pub fn link_in(set: &'static Set, link: &str) -> Element {
    element(set, vec![Value::Link(link.to_owned())])
}

/// An element with this key.
pub fn element(set: &'static Set, key: Vec<Value>) -> Element {
    Element { set, key, end: vec![], value: vec![], comment: String::new() }
}

/// Types of ICMPv6 (RFC 4861).
pub const NEIGHBOR_SOLICITATION: u8 = 135;
/// The answer.
pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;
