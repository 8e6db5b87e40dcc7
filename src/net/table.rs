//! The one nftables table, `inet minirun`: what it can hold, and what is in it.
//!
//! A rule is a list of [`Match`]es and a [`Verdict`], and each of them is known both as bytes (`nft.rs`) and as the text of
//! nft(8) (`explain.rs`): what is printed is what is done. The rules are the same on every host. What differs from host to
//! host, networks and published ports, are elements of sets: a packet costs the same whatever their number.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The family and name of the table.
pub const TABLE: &str = "minirun";

/// What its comment says: another layout of minirun's is another text.
pub const COMMENT: &str = "minirun 2";

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
/// Published ports: which address and port of the host lead to which of a container.
pub static PORTS4: Set = Set {
    name: "ports4",
    key: &[Field::Ipv4, Field::Protocol, Field::Port],
    value: &[Field::Ipv4, Field::Port],
    intervals: true,
};
/// [`PORTS4`] for IPv6.
pub static PORTS6: Set = Set {
    name: "ports6",
    key: &[Field::Ipv6, Field::Protocol, Field::Port],
    value: &[Field::Ipv6, Field::Port],
    intervals: true,
};
/// In a container's own namespace: its ports that are published.
pub static OPEN: Set = Set { name: "open", key: &[Field::Protocol, Field::Port], value: &[], intervals: true };
/// Published ranges whose ports are the same in the container: one element a range.
pub static RANGES4: Set =
    Set { name: "ranges4", key: &[Field::Ipv4, Field::Protocol, Field::Port], value: &[Field::Ipv4], intervals: true };
/// [`RANGES4`] for IPv6.
pub static RANGES6: Set =
    Set { name: "ranges6", key: &[Field::Ipv6, Field::Protocol, Field::Port], value: &[Field::Ipv6], intervals: true };

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
    /// Packets that a program sends, before anything else looks at them.
    RawOutput,
    /// Packets that came in, before anything else looks at them.
    RawPrerouting,
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
    /// The connection of the packet is not remembered.
    NoTrack,
    /// The rules of another chain are asked.
    Jump(&'static str),
    /// The port that it goes to becomes this one; the rules that follow are not asked less for it.
    SetDestinationPort(u8, u16),
    /// The port that it comes from becomes this one.
    SetSourcePort(u8, u16),
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
pub const CHAINS: [&str; 6] = ["published", "prerouting", "output", "input", "forward", "postrouting"];

/// The element that is one link's name.
pub fn link_in(set: &'static Set, link: &str) -> Element {
    element(set, vec![Value::Link(link.to_owned())])
}

/// An element with this key.
pub fn element(set: &'static Set, key: Vec<Value>) -> Element {
    Element { set, key, end: vec![], value: vec![], comment: String::new() }
}

/// The table with its chains, rules and empty sets.
pub fn skeleton() -> Vec<Change> {
    let sets = [
        &BRIDGES, &OUTWARD, &CLOSED, &WITHIN, &GUARDED, &OWN4, &GATEWAYS4, &MEMBERS4, &OWN6, &GATEWAYS6, &MEMBERS6,
        &PORTS4, &PORTS6, &RANGES4, &RANGES6,
    ];
    let mut changes = vec![Change::AddTable];
    changes.extend(sets.into_iter().map(Change::AddSet));
    changes.extend(translation());
    changes.extend(input());
    changes.extend(forward());
    changes.extend(postrouting());
    changes
}

/// Types of ICMPv6 (RFC 4861).
pub const NEIGHBOR_SOLICITATION: u8 = 135;
/// The answer.
pub const NEIGHBOR_ADVERTISEMENT: u8 = 136;

const IN: &[What] = &[What::InLink];
const OUT: &[What] = &[What::OutLink];
const IN_OUT: &[What] = &[What::InLink, What::OutLink];
const SERVICE4: &[What] = &[What::Destination4, What::Protocol, What::DestinationPort];
const SERVICE6: &[What] = &[What::Destination6, What::Protocol, What::DestinationPort];

fn rule(chain: &'static str, matches: Vec<Match>, verdict: Verdict) -> Change {
    Change::AddRule { chain, matches, verdict }
}

/// What is published: one look-up a family and kind, whatever the number of ports.
fn translation() -> Vec<Change> {
    let chain = "published";
    let mut changes = vec![Change::AddChain { name: chain, hook: None }];
    for (service, map) in [(SERVICE4, &PORTS4), (SERVICE4, &RANGES4), (SERVICE6, &PORTS6), (SERVICE6, &RANGES6)] {
        changes.push(rule(chain, vec![Match::HasPorts], Verdict::Redirect(service, map)));
    }
    for (from, hook) in [("prerouting", Hook::Prerouting), ("output", Hook::Output)] {
        changes.push(Change::AddChain { name: from, hook: Some(hook) });
        // First of all, because what is translated is not looked at any more as a packet to the loopback device: whoever
        // may send such a packet would reach what is published for the host alone. The host's own come by `output`.
        if hook == Hook::Prerouting {
            changes.push(rule(from, vec![loopback4()], Verdict::Accept));
        }
        changes.push(rule(from, vec![Match::ToHost], Verdict::Jump(chain)));
    }
    changes
}

/// It goes to an IPv4 address of the loopback device. (One of IPv6 the kernel takes from no other link.)
fn loopback4() -> Match {
    Match::Destination(IpNet::new_assert(Ipv4Addr::new(127, 0, 0, 0).into(), 8))
}

/// What a container may ask of the host: its own gateway, unless its network is closed, and no other network's.
fn input() -> Vec<Change> {
    let chain = "input";
    vec![
        Change::AddChain { name: chain, hook: Some(Hook::Input) },
        rule(chain, vec![Match::EstablishedOrRelated], Verdict::Accept),
        // Where a neighbour is, which IPv4 asks by ARP: without it the host itself could not send to a container.
        rule(chain, vec![Match::In(IN, &CLOSED), Match::Icmp6(NEIGHBOR_SOLICITATION)], Verdict::Accept),
        rule(chain, vec![Match::In(IN, &CLOSED), Match::Icmp6(NEIGHBOR_ADVERTISEMENT)], Verdict::Accept),
        rule(chain, vec![Match::In(IN, &CLOSED)], Verdict::Drop),
        rule(chain, vec![Match::In(IN, &BRIDGES), loopback4()], Verdict::Drop),
        rule(chain, vec![Match::In(&[What::InLink, What::Destination4], &OWN4)], Verdict::Accept),
        rule(chain, vec![Match::In(&[What::InLink, What::Destination6], &OWN6)], Verdict::Accept),
        rule(chain, vec![Match::In(IN, &BRIDGES), Match::In(&[What::Destination4], &GATEWAYS4)], Verdict::Drop),
        rule(chain, vec![Match::In(IN, &BRIDGES), Match::In(&[What::Destination6], &GATEWAYS6)], Verdict::Drop),
    ]
}

fn forward() -> Vec<Change> {
    let chain = "forward";
    vec![
        Change::AddChain { name: chain, hook: Some(Hook::Forward) },
        rule(chain, vec![Match::EstablishedOrRelated], Verdict::Accept),
        rule(chain, vec![Match::DestinationNatted], Verdict::Accept),
        rule(chain, vec![Match::In(IN_OUT, &WITHIN)], Verdict::Accept),
        rule(chain, vec![Match::In(OUT, &BRIDGES)], Verdict::Drop),
        rule(chain, vec![Match::In(IN, &OUTWARD)], Verdict::Accept),
        rule(chain, vec![Match::In(IN, &BRIDGES)], Verdict::Drop),
        rule(chain, vec![Match::In(IN, &GUARDED)], Verdict::Drop),
    ]
}

/// Where the source has to change, so that answers find back.
fn postrouting() -> Vec<Change> {
    let chain = "postrouting";
    let loopback = |address: IpAddr, length| Match::Source(IpNet::new_assert(address, length));
    let to_container = || Match::In(OUT, &BRIDGES);
    vec![
        Change::AddChain { name: chain, hook: Some(Hook::Postrouting) },
        rule(chain, vec![Match::In(IN, &OUTWARD), Match::NotIn(OUT, &BRIDGES)], Verdict::Masquerade),
        // Not by the link that it came in by: where the bridge itself asks the rules, that is not known here.
        rule(
            chain,
            vec![Match::In(&[What::OutLink, What::Source4], &MEMBERS4), Match::DestinationNatted],
            Verdict::Masquerade,
        ),
        rule(
            chain,
            vec![Match::In(&[What::OutLink, What::Source6], &MEMBERS6), Match::DestinationNatted],
            Verdict::Masquerade,
        ),
        rule(chain, vec![loopback(Ipv4Addr::new(127, 0, 0, 0).into(), 8), to_container()], Verdict::Masquerade),
        rule(chain, vec![loopback(Ipv6Addr::LOCALHOST.into(), 128), to_container()], Verdict::Masquerade),
        rule(chain, vec![Match::In(OUT, &CLOSED), Match::DestinationNatted], Verdict::Masquerade),
    ]
}

/// The rules in a container's own namespace by which its name server is found: what is sent to it at `address` goes to the
/// port at which it listens, so that port 53 is left to the container's programs. Without a state, because a state costs
/// every packet.
pub fn inside(address: Ipv4Addr, port: u16) -> Vec<Change> {
    const PORT: u16 = super::dns::PORT;
    let chain = "names";
    let server = IpNet::new_assert(address.into(), 32);
    let mut changes = vec![Change::AddTable, Change::AddChain { name: chain, hook: Some(Hook::RawOutput) }];
    for protocol in [17, 6] {
        let query = vec![Match::Destination(server), Match::To(protocol, PORT)];
        changes.push(rule(chain, query, Verdict::SetDestinationPort(protocol, port)));
        let answer = vec![Match::Source(server), Match::From(protocol, port)];
        changes.push(rule(chain, answer, Verdict::SetSourcePort(protocol, PORT)));
    }
    changes
}

/// The rules in a container's own namespace by which nobody but the members of its networks opens a connection to what is
/// not published. The host's rules say so too; these are there when somebody has flushed those. Only what comes from
/// elsewhere has a state, which costs every packet.
pub fn guard() -> Vec<Change> {
    const FROM4: &[What] = &[What::InLink, What::Source4];
    const FROM6: &[What] = &[What::InLink, What::Source6];
    const TO4: &[What] = &[What::OutLink, What::Destination4];
    const TO6: &[What] = &[What::OutLink, What::Destination6];
    let (arriving, leaving, chain) = ("arriving", "names", "guard");
    let everywhere = |set, first: IpAddr, last: IpAddr| Element {
        end: vec![Value::Link("lo".into()), last.into()],
        ..element(set, vec![Value::Link("lo".into()), first.into()])
    };
    let (all4, all6) = (Ipv4Addr::BROADCAST, Ipv6Addr::from(u128::MAX));
    vec![
        Change::AddSet(&MEMBERS4),
        Change::AddSet(&MEMBERS6),
        Change::AddSet(&OPEN),
        Change::AddElement(everywhere(&MEMBERS4, Ipv4Addr::UNSPECIFIED.into(), all4.into())),
        Change::AddElement(everywhere(&MEMBERS6, Ipv6Addr::UNSPECIFIED.into(), all6.into())),
        Change::AddChain { name: arriving, hook: Some(Hook::RawPrerouting) },
        rule(arriving, vec![Match::In(FROM4, &MEMBERS4)], Verdict::NoTrack),
        rule(arriving, vec![Match::In(FROM6, &MEMBERS6)], Verdict::NoTrack),
        rule(leaving, vec![Match::In(TO4, &MEMBERS4)], Verdict::NoTrack),
        rule(leaving, vec![Match::In(TO6, &MEMBERS6)], Verdict::NoTrack),
        Change::AddChain { name: chain, hook: Some(Hook::Input) },
        rule(chain, vec![Match::In(FROM4, &MEMBERS4)], Verdict::Accept),
        rule(chain, vec![Match::In(FROM6, &MEMBERS6)], Verdict::Accept),
        rule(chain, vec![Match::EstablishedOrRelated], Verdict::Accept),
        rule(chain, vec![Match::In(&[What::Protocol, What::DestinationPort], &OPEN)], Verdict::Accept),
        rule(chain, vec![], Verdict::Drop),
    ]
}

/// The addresses of a network whose members reach a container by its interface `link`.
pub fn members(link: &str, address: Ipv4Net, address6: Option<Ipv6Net>) -> Vec<Element> {
    let range = |set, first: IpAddr, last: IpAddr| Element {
        end: vec![Value::Link(link.to_owned()), last.into()],
        ..element(set, vec![Value::Link(link.to_owned()), first.into()])
    };
    let mut all = vec![range(&MEMBERS4, address.network().into(), address.broadcast().into())];
    all.extend(address6.map(|net| range(&MEMBERS6, net.network().into(), net.broadcast().into())));
    all
}

/// The table that these changes make, as the kernel will tell of it.
pub fn wanted() -> Table {
    let rules = skeleton();
    // The kernel counts who uses a chain: its rules, and those that jump to it.
    let uses = |change: &&Change, name: &str| match change {
        Change::AddRule { chain, verdict, .. } => *chain == name || matches!(verdict, Verdict::Jump(to) if *to == name),
        _ => false,
    };
    let count = |name: &str| rules.iter().filter(|change| uses(change, name)).count();
    Table { comment: COMMENT.to_owned(), rules: CHAINS.map(|chain| Some(count(chain) as u32)) }
}
