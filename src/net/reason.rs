//! Why a Step is there, in one sentence: what `--dry-run`, `--explain` and `explain` say above its commands.

use ipnet::IpNet;

use super::explain::colons;
use super::program::{Direction, Filter};
use super::step::{Place, Step};
use super::table::{Change, Hook, Match, Verdict, What};

/// Why the step is there, in one sentence.
pub fn reason(step: &Step) -> String {
    match step {
        Step::AddBridge { .. } => "a bridge is a switch in software: every container is a port of it; its own fixed \
             hardware address keeps it from taking its ports'"
            .into(),
        Step::SetAlias { .. } => "says whose it is: minirun uses no link that does not say so".into(),
        Step::AddAddress { place: Place::Hub, address: IpNet::V6(address), .. }
            if address.addr().is_unicast_link_local() =>
        {
            "the host asks by it where a container is when it passes on what others send there (RFC 4861); given by hand, it \
             is usable at once"
                .into()
        }
        Step::AddAddress { place: Place::Hub, .. } => {
            "the bridge's own address is the gateway of its containers, and gives the host a route to them".into()
        }
        Step::AddAddress { place: Place::Container, address: IpNet::V6(address), .. }
            if address.addr().is_unicast_link_local() =>
        {
            "a container that routes for others asks by it where its neighbours are (RFC 4861)".into()
        }
        Step::AddAddress { place: Place::Container, .. } => {
            "an address that no other container has; its length brings the route to the neighbours".into()
        }
        Step::NoLinkLocal { .. } => {
            "the kernel makes no fe80:: address by itself, which would have to be checked for twins first".into()
        }
        Step::SetUp { place: Place::Container, link } if link == "lo" => {
            "programs talk to themselves over 127.0.0.1".into()
        }
        Step::SetUp { .. } => "a link carries packets only when it is up".into(),
        Step::AddVeth { .. } => {
            "a veth pair is a cable between two namespaces: what goes in at one end comes out at the \
             other; the far end is born in the container"
                .into()
        }
        Step::AddEntrance { place: Place::Container, .. } => {
            "a place where each frame is looked at that comes from the LAN".into()
        }
        Step::AddEntrance { direction: Direction::In, .. } => {
            "a place where the host sees each frame that the container sends, before the bridge".into()
        }
        Step::AddEntrance { direction: Direction::Out, .. } => {
            "a place where each frame is looked at that the host sends into the network, its own or another's".into()
        }
        Step::AddFilter { place: Place::Container, .. } => {
            "drops what does not come from an address of the network: it is an internal one".into()
        }
        Step::AddFilter { filter: Filter::Guard(_), .. } => {
            "drops what comes from elsewhere without the mark of the rules below: who flushes the rules opens no container".into()
        }
        Step::AddFilter { filter: Filter::Origin(origin), .. } => {
            let second = origin.address6.map(|address| format!(" and {address}")).unwrap_or_default();
            format!(
                "drops frames that do not come from {} with {}{second}, so that the container takes nobody's place",
                colons(&origin.mac),
                origin.address
            )
        }
        Step::AddMacvlan { .. } => {
            "a link of the container's own on one of the host's: a further machine on that LAN, with a \
             hardware address that the LAN sees"
                .into()
        }
        Step::AddVxlan { .. } => {
            "a tunnel packs frames into UDP and sends them to the other hosts, whose tunnels unpack them".into()
        }
        Step::AddFlood { .. } => "a further host: what the tunnel knows no place of is sent to each of them".into(),
        Step::MoveLink { .. } => "the end that was waiting moves into the container: the cable is plugged in".into(),
        Step::DeleteLink { .. } => "what one that has ended left is in the way; its other end goes with it".into(),
        Step::SetPort { alias, .. } if alias.starts_with("minirun:network:") => {
            "plugs the tunnel into the bridge: what is on the other hosts is behind this port".into()
        }
        Step::SetPort { .. } => "plugs the host's end into the bridge; the alias says whose it is".into(),
        Step::SetPortOption { option, .. } => match *option {
            "isolated" => "a port that is isolated exchanges no frames with other isolated ones".into(),
            "hairpin" => "the bridge may send a frame back by the port that it came from".into(),
            _ => "asked for".into(),
        },
        Step::Shape { place, .. } => {
            let what = if *place == Place::Hub { "the container receives" } else { "the container sends" };
            format!(
                "a bucket that fills at this rate: {what} no faster; it holds back what leaves, so it is at the sending end"
            )
        }
        Step::Lend { .. } => "a link is in one namespace at a time: in the container it has no address, and the host has it no more".into(),
        Step::AddTap { .. } => {
            "a tap device is a cable whose other end is a program: its owner opens it at /dev/net/tun, without a capability"
                .into()
        }
        Step::SetBridgeOption { .. } => "asked for by `network set`, or what a new bridge has".into(),
        Step::SetMtu { .. } => "the largest packet that fits the whole way out".into(),
        Step::SetMac { .. } => "follows from the address, so that no neighbour remembers another one".into(),
        Step::Rename { .. } => "the name that programs in the container know".into(),
        Step::AddDefaultRoute { .. } | Step::ReplaceDefaultRoute { .. } => {
            "everything that is not a neighbour goes to the gateway".into()
        }
        Step::Sysctl { key, .. } if key.ends_with("/forwarding") || key.ends_with("/force_forwarding") => {
            "the kernel passes on packets that came in by this link: the way out of a container and back".into()
        }
        Step::Sysctl { key, .. } if key.ends_with("/disable_ipv6") => {
            "this network is IPv4 only: no router advertisement from a container is listened to".into()
        }
        Step::Sysctl { key, .. } if key.ends_with("/ping_group_range") => {
            "every group may send echo requests, so that ping needs no capability".into()
        }
        Step::Sysctl { key, .. } if key.ends_with("/ip_unprivileged_port_start") => {
            "the ports of this namespace are the container's own: any user in it may listen below 1024".into()
        }
        Step::Sysctl { key, .. } if key.ends_with("/accept_ra") => {
            "nobody tells it about routers: what a container says of them is not listened to".into()
        }
        Step::Sysctl { key, .. } if key.ends_with("/route_localnet") => {
            "what is published on 127.0.0.1 reaches a container by this bridge, which the kernel else takes for a forgery".into()
        }
        Step::Sysctl { key, .. } if key.ends_with("_notify") => {
            "has the kernel tell the neighbours when the hardware address is set".into()
        }
        Step::Announce { .. } => {
            "the same address again: neighbours that know this IP address by another one hear of it now".into()
        }
        Step::Sysctl { .. } => "asked for by --sysctl".into(),
        Step::Nft(change) | Step::NftInside(change) => nft_reason(change).into(),
    }
}

fn nft_reason(change: &Change) -> &'static str {
    match change {
        Change::AddTable => {
            "minirun's only table: what it filters and translates is in here, and nothing else is touched"
        }
        Change::DeleteTable => "the table is not as it should be: it is made anew",
        Change::AddSet(set) => match set.name {
            "bridges" => "the links that are minirun's bridges: one look-up, however many there are",
            "outward" => "the bridges whose containers reach the outside",
            "closed" => "the bridges whose containers reach neither the outside nor the host",
            "within" => "the ways from a bridge back to itself",
            "hosts4" => "the addresses by which this container knows the host",
            "guarded" => "the links on which minirun turned forwarding on",
            "own4" | "own6" => "each bridge with its own address: its containers may ask the host there",
            "members4" | "members6" => "each bridge with the addresses of its network",
            "gateways4" | "gateways6" => "the addresses of all bridges: other networks' containers may not",
            "ports4" | "ports6" => "published ports: from an address and port of the host to those of a container",
            _ => "published ranges whose ports stay the same: one element each",
        },
        Change::AddElement(element) => match element.set.name {
            "guarded" => "forwarding was off here: what is neither from nor to a container is still not passed on",
            "ports4" | "ports6" | "ranges4" | "ranges6" => {
                "published: what comes to the host there goes to the container"
            }
            "own4" | "own6" | "gateways4" | "gateways6" => "the bridge's address",
            "members4" | "members6" => "the addresses of the network",
            "hosts4" => "the host, for this container",
            _ => "the bridge",
        },
        Change::DeleteElement(_) => "it is no longer so",
        Change::AddChain { hook: None, .. } => "looks up what is published",
        Change::AddChain { name: "host", .. } => {
            "sees the first packet of every connection that a program in here opens"
        }
        Change::AddChain { hook: Some(hook), .. } => match hook {
            Hook::Prerouting => "sees the first packet of every connection that comes in",
            Hook::Output => "sees the first packet of every connection that a program of the host opens",
            Hook::Sent => "sees every packet that a program of the host sends",
            Hook::Loopback => {
                "sees what programs in here send to each other, and nothing else: it costs no other packet"
            }
            Hook::Input => "sees every packet for the host itself",
            Hook::Forward => "sees every packet that the host passes on",
            Hook::Postrouting => "sees the first packet of every connection that leaves",
        },
        Change::AddRule { chain, matches, verdict } => rule_reason(chain, matches, *verdict),
    }
}

fn rule_reason(chain: &str, matches: &[Match], verdict: Verdict) -> &'static str {
    let (first, second) = (matches.first(), matches.get(1));
    match (chain, first, second, verdict) {
        (.., Verdict::RedirectTo(..)) => {
            "what is sent to the host goes to minirun, which listens in here and passes it on to the host's loopback device"
        }
        (_, _, _, Verdict::Jump(_)) => "only what is sent to an address of the host can be for a published port",
        (_, _, _, Verdict::SetDestinationPort(..)) => {
            "the name server listens at another port, so that the container's programs may have port 53"
        }
        (_, _, _, Verdict::SetSourcePort(..)) => "its answers come from where it was asked",
        ("sent", Some(Match::ByLoopback), ..) => {
            "also what it sends to its own address, where that is a published port"
        }
        ("sent", ..) => "what the host itself sends is let in by the bridge's filter",
        (_, _, _, Verdict::Mark(_)) => "says to the bridge's filter that the rules below have looked at it",
        ("prerouting", _, _, Verdict::Accept) => {
            "nobody but the host itself reaches what is published on its loopback device"
        }
        (_, _, _, Verdict::Redirect(..)) => "what comes to a published port of the host goes to its container",
        (_, Some(Match::EstablishedOrRelated), ..) => "answers to what was asked",
        (_, Some(Match::DestinationNatted), ..) => "what was published by a NAT rule",
        ("input", Some(Match::In(_, set)), None, Verdict::Drop) if set.name == "closed" => {
            "the containers of an internal network do not reach the host"
        }
        ("input", _, Some(Match::Icmp6(_)), _) => {
            "but tell it where they are, so that their published ports are reached"
        }
        ("input", _, Some(Match::Destination(_)), _) => "the host's loopback device is no container's business",
        ("input", _, _, Verdict::Accept) => "the gateway of one's own network may be asked",
        ("input", ..) => "the gateway of another network may not",
        ("postrouting", Some(Match::In(_, set)), _, _) if set.name == "outward" => {
            "what leaves by another link takes that link's address, to which answers find back"
        }
        ("postrouting", Some(Match::In(_, set)), _, _) if set.name.starts_with("members") => {
            "a container that asks a published port of its own network: the answer has to come by the host too"
        }
        ("postrouting", Some(Match::Source(_)), ..) => "no container knows the way to the host's loopback device",
        ("postrouting", ..) => "the containers of an internal network know no way but to their neighbours",
        (_, Some(Match::In(_, set)), ..) if set.name == "within" => {
            "container to container, where a bridge's frames pass the host's rules too"
        }
        (_, Some(Match::In([What::OutLink], _)), ..) => "nobody outside opens a connection to a container",
        (_, Some(Match::In(_, set)), _, Verdict::Accept) if set.name == "outward" => {
            "containers may open connections to the outside"
        }
        (_, Some(Match::In(_, set)), ..) if set.name == "bridges" => "the containers of an internal network may not",
        _ => "what minirun's forwarding would let pass from one of the host's neighbours to another",
    }
}
