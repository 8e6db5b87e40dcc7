//! The rules: those of the host's table, which are the same on every host, and those of a container's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::table::{
    BRIDGES, CHAINS, CLOSED, COMMENT, Change, GATEWAYS4, GATEWAYS6, GUARDED, Hook, LET_IN, MEMBERS4, MEMBERS6, Match,
    NEIGHBOR_ADVERTISEMENT, NEIGHBOR_SOLICITATION, OUTWARD, OWN4, OWN6, PORTS4, PORTS6, RANGES4, RANGES6, Table,
    Verdict, WITHIN, What,
};

/// The table with its chains, rules and empty sets.
pub fn skeleton() -> Vec<Change> {
    let sets = [
        &BRIDGES, &OUTWARD, &CLOSED, &WITHIN, &GUARDED, &OWN4, &GATEWAYS4, &MEMBERS4, &OWN6, &GATEWAYS6, &MEMBERS6,
        &PORTS4, &PORTS6, &RANGES4, &RANGES6,
    ];
    let mut changes = vec![Change::AddTable];
    changes.extend(sets.into_iter().map(Change::AddSet));
    changes.extend(translation());
    changes.extend(sent());
    changes.extend(input());
    changes.extend(forward());
    changes.extend(postrouting());
    changes
}

const IN: &[What] = &[What::InLink];
const OUT: &[What] = &[What::OutLink];
const IN_OUT: &[What] = &[What::InLink, What::OutLink];
const SERVICE4: &[What] = &[What::DestinationPort, What::Protocol, What::Destination4];
const SERVICE6: &[What] = &[What::DestinationPort, What::Protocol, What::Destination6];

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

/// What the host itself sends, whatever the address it sends from; also to its own addresses, where it is published: which way
/// such a packet goes in truth is not known yet.
fn sent() -> [Change; 3] {
    let chain = "sent";
    [
        Change::AddChain { name: chain, hook: Some(Hook::Sent) },
        rule(chain, vec![Match::In(OUT, &BRIDGES)], Verdict::Mark(LET_IN)),
        rule(chain, vec![Match::ByLoopback, Match::DestinationNatted], Verdict::Mark(LET_IN)),
    ]
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
        rule(chain, vec![Match::In(OUT, &BRIDGES)], Verdict::Mark(LET_IN)),
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
/// port at which it listens, so that port 53 is left to the container's programs. At the loopback device and without a state:
/// no other packet of the container pays for it.
pub fn inside(address: Ipv4Addr, port: u16) -> Vec<Change> {
    const PORT: u16 = super::dns::PORT;
    let chain = "names";
    let server = IpNet::new_assert(address.into(), 32);
    let mut changes = vec![Change::AddTable, Change::AddChain { name: chain, hook: Some(Hook::Loopback) }];
    for protocol in [17, 6] {
        let query = vec![Match::Destination(server), Match::To(protocol, PORT)];
        changes.push(rule(chain, query, Verdict::SetDestinationPort(protocol, port)));
        let answer = vec![Match::Source(server), Match::From(protocol, port)];
        changes.push(rule(chain, answer, Verdict::SetSourcePort(protocol, PORT)));
    }
    changes
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
