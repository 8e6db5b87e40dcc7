//! The rules: those of the host's table, which are the same on every host, and those of a container's own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::table::{
    BRIDGES, CHAINS, CLOSED, COMMENT, Change, Element, GATEWAYS4, GATEWAYS6, GUARDED, Hook, MEMBERS4, MEMBERS6, Match,
    NEIGHBOR_ADVERTISEMENT, NEIGHBOR_SOLICITATION, OPEN, OUTWARD, OWN4, OWN6, PORTS4, PORTS6, RANGES4, RANGES6, Table,
    Value, Verdict, WITHIN, What, element,
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
    let [lo4, lo6] = everywhere("lo");
    vec![
        Change::AddSet(&MEMBERS4),
        Change::AddSet(&MEMBERS6),
        Change::AddSet(&OPEN),
        Change::AddElement(lo4),
        Change::AddElement(lo6),
        Change::AddChain { name: arriving, hook: Some(Hook::RawPrerouting) },
        rule(arriving, vec![Match::In(FROM4, &MEMBERS4)], Verdict::NoTrack),
        rule(arriving, vec![Match::In(FROM6, &MEMBERS6)], Verdict::NoTrack),
        rule(leaving, vec![Match::In(TO4, &MEMBERS4)], Verdict::NoTrack),
        rule(leaving, vec![Match::In(TO6, &MEMBERS6)], Verdict::NoTrack),
        Change::AddChain { name: chain, hook: Some(Hook::Input) },
        rule(chain, vec![Match::In(FROM4, &MEMBERS4)], Verdict::Accept),
        rule(chain, vec![Match::In(FROM6, &MEMBERS6)], Verdict::Accept),
        rule(chain, vec![Match::EstablishedOrRelated], Verdict::Accept),
        rule(chain, vec![Match::In(&[What::DestinationPort, What::Protocol], &OPEN)], Verdict::Accept),
        rule(chain, vec![], Verdict::Drop),
    ]
}

/// All addresses, where they come by the link `link`.
pub fn everywhere(link: &str) -> [Element; 2] {
    let range = |set, first: IpAddr, last: IpAddr| Element {
        end: vec![Value::Link(link.to_owned()), last.into()],
        ..element(set, vec![Value::Link(link.to_owned()), first.into()])
    };
    [
        range(&MEMBERS4, Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::BROADCAST.into()),
        range(&MEMBERS6, Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::from(u128::MAX).into()),
    ]
}

/// All addresses there are, by a container's interface `link`.
pub fn everybody(link: &str, ipv6: bool) -> Vec<Element> {
    let all6 = ipv6.then(|| Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0));
    members(link, Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0), all6)
}

/// A range of IPv6 addresses by a container's interface `link`.
pub fn members6(link: &str, net: Ipv6Net) -> Element {
    Element {
        end: vec![Value::Link(link.to_owned()), Value::Ipv6(net.broadcast())],
        ..element(&MEMBERS6, vec![Value::Link(link.to_owned()), Value::Ipv6(net.network())])
    }
}

/// The addresses of a network whose members reach a container by its interface `link`.
pub fn members(link: &str, address: Ipv4Net, address6: Option<Ipv6Net>) -> Vec<Element> {
    let end = vec![Value::Link(link.to_owned()), Value::Ipv4(address.broadcast())];
    let first = vec![Value::Link(link.to_owned()), Value::Ipv4(address.network())];
    let own = Element { end, ..element(&MEMBERS4, first) };
    std::iter::once(own).chain(address6.map(|net| members6(link, net))).collect()
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
