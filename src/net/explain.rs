//! A Step as the commands it stands for, and the reason.
//!
//! Used by `--dry-run` and by error messages. The commands are those of iproute2, nft(8) and sysctl(8); typed by hand in
//! this order they build the same network. The container's namespace is called by name, as one made by `ip netns add`.

use super::rtnl::Mac;
use super::step::{Place, Step};
use super::table::{Change, Hook, Match, TABLE, Verdict};

/// The commands that a step stands for. `netns` is the name of the container's namespace.
pub fn commands(step: &Step, netns: &str) -> Vec<String> {
    let ip = |place: &Place| match place {
        Place::Hub => "ip".to_owned(),
        Place::Container => format!("ip -n {netns}"),
    };
    match step {
        Step::AddBridge { name, mac } => vec![format!("ip link add {name} address {} type bridge", colons(mac))],
        Step::SetAlias { link, alias } => vec![format!("ip link set {link} alias {alias}")],
        Step::AddAddress { place, link, address } => vec![format!("{} addr add {address} brd + dev {link}", ip(place))],
        Step::NoLinkLocal { place, link } => vec![format!("{} link set {link} addrgenmode none", ip(place))],
        Step::SetUp { place, link } => vec![format!("{} link set {link} up", ip(place))],
        Step::AddVeth { host, mtu, peer, peer_mac, peer_index } => vec![format!(
            "ip link add {host} mtu {mtu} type veth peer name {peer} index {peer_index} address {} mtu {mtu} netns {netns}",
            colons(peer_mac)
        )],
        Step::SetPort { link, bridge, alias } => vec![format!("ip link set {link} master {bridge} alias {alias}")],
        Step::AddDefaultRoute { gateway } => vec![format!("ip -n {netns} route add default via {gateway}")],
        Step::Sysctl { place, key, value } => {
            let inside = if *place == Place::Container { format!("ip netns exec {netns} ") } else { String::new() };
            vec![format!("{inside}sysctl -qw '{}={value}'", key)]
        }
        Step::Nft(change) => vec![format!("nft '{}'", nft(change))],
    }
}

/// The change as nft(8) takes it.
fn nft(change: &Change) -> String {
    match change {
        Change::AddTable { comment } => format!("add table inet {TABLE} {{ comment \"{comment}\"; }}"),
        Change::DeleteTable => format!("delete table inet {TABLE}"),
        Change::AddSet { name, pairs } => {
            let kind = if *pairs { "ifname . ifname" } else { "ifname" };
            format!("add set inet {TABLE} {name} {{ type {kind}; }}")
        }
        Change::AddElement { set, links } => {
            let names: Vec<String> = links.iter().map(|link| format!("\"{link}\"")).collect();
            format!("add element inet {TABLE} {set} {{ {} }}", names.join(" . "))
        }
        Change::AddChain { name, hook } => {
            let hook = match hook {
                Hook::Forward => "type filter hook forward priority filter",
                Hook::Postrouting => "type nat hook postrouting priority srcnat",
            };
            format!("add chain inet {TABLE} {name} {{ {hook}; policy accept; }}")
        }
        Change::AddRule { chain, matches, verdict } => {
            let mut words: Vec<String> = matches.iter().map(condition).collect();
            words.push(
                match verdict {
                    Verdict::Accept => "accept",
                    Verdict::Drop => "drop",
                    Verdict::Masquerade => "masquerade fully-random",
                }
                .to_owned(),
            );
            format!("add rule inet {TABLE} {chain} {}", words.join(" "))
        }
    }
}

fn condition(condition: &Match) -> String {
    match condition {
        Match::EstablishedOrRelated => "ct state established,related".into(),
        Match::DestinationNatted => "ct status dnat".into(),
        Match::InSet(set) => format!("iifname @{set}"),
        Match::OutSet(set) => format!("oifname @{set}"),
        Match::PairInSet(set) => format!("iifname . oifname @{set}"),
        Match::SourceIn(network) => format!("ip saddr {network}"),
        Match::OutNot(link) => format!("oifname != \"{link}\""),
    }
}

/// What a step does, as the beginning of an error: `verb object`.
pub fn deed(step: &Step) -> String {
    match step {
        Step::AddBridge { name, .. } => format!("add bridge `{name}`"),
        Step::SetAlias { link, .. } => format!("set the alias of `{link}`"),
        Step::AddAddress { link, address, .. } => format!("add address `{address}` to `{link}`"),
        Step::NoLinkLocal { link, .. } => format!("turn off link-local addresses of `{link}`"),
        Step::SetUp { link, .. } => format!("set link `{link}` up"),
        Step::AddVeth { host, peer, .. } => format!("add veth pair `{host}` and `{peer}`"),
        Step::SetPort { link, bridge, .. } => format!("make `{link}` a port of `{bridge}`"),
        Step::AddDefaultRoute { gateway } => format!("add default route by `{gateway}`"),
        Step::Sysctl { key, value, .. } => format!("set `{key}` to {value}"),
        Step::Nft(change) => match change {
            Change::AddTable { .. } => format!("add nftables table `inet {TABLE}`"),
            Change::DeleteTable => format!("delete nftables table `inet {TABLE}`"),
            Change::AddSet { name, .. } => format!("add nftables set `{name}`"),
            Change::AddElement { set, .. } => format!("add an element to nftables set `{set}`"),
            Change::AddChain { name, .. } => format!("add nftables chain `{name}`"),
            Change::AddRule { chain, .. } => format!("add a rule to nftables chain `{chain}`"),
        },
    }
}

/// Why the step is there, in one sentence.
pub fn reason(step: &Step) -> String {
    match step {
        Step::AddBridge { .. } => "a bridge is a switch in software: every container is a port of it; its own fixed \
             hardware address keeps it from taking its ports'"
            .into(),
        Step::SetAlias { .. } => "says whose it is: minirun uses no bridge that does not say so".into(),
        Step::AddAddress { place: Place::Hub, .. } => {
            "the bridge's own address is the gateway of its containers, and gives the host a route to them".into()
        }
        Step::AddAddress { place: Place::Container, .. } => {
            "an address that no other container has; its length brings the route to the neighbours".into()
        }
        Step::NoLinkLocal { .. } => {
            "this network is IPv4 only: no fe80:: address is made, none has to be checked for twins".into()
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
        Step::SetPort { .. } => "plugs the host's end into the bridge; the alias says whose it is".into(),
        Step::AddDefaultRoute { .. } => "everything that is not a neighbour goes to the gateway".into(),
        Step::Sysctl { key, .. } if key.ends_with("/forwarding") => {
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
        Step::Sysctl { .. } => "asked for by --sysctl".into(),
        Step::Nft(change) => nft_reason(change).into(),
    }
}

fn nft_reason(change: &Change) -> &'static str {
    match change {
        Change::AddTable { .. } => {
            "minirun's only table: what it filters and translates is in here, and nothing else is touched"
        }
        Change::DeleteTable => "the table was made for other addresses",
        Change::AddSet { name: "bridges", .. } => {
            "the links that are minirun's bridges: one look-up, however many there are"
        }
        Change::AddSet { name: "within", .. } => "the ways from a bridge back to itself",
        Change::AddSet { .. } => "the links on which minirun turned forwarding on",
        Change::AddElement { set: "guarded", .. } => {
            "forwarding was off here: what is neither from nor to a container is still not passed on"
        }
        Change::AddElement { .. } => "the bridge",
        Change::AddChain { hook: Hook::Forward, .. } => "sees every packet that the host passes on",
        Change::AddChain { hook: Hook::Postrouting, .. } => "sees the first packet of every connection that leaves",
        Change::AddRule { verdict: Verdict::Masquerade, .. } => {
            "what leaves by another link takes that link's address, to which answers find back"
        }
        Change::AddRule { matches, verdict, .. } => match (matches.first(), verdict) {
            (Some(Match::EstablishedOrRelated), _) => "answers to what a container asked",
            (Some(Match::DestinationNatted), _) => "what was published by a NAT rule",
            (Some(Match::PairInSet(_)), _) => {
                "container to container, where a bridge's frames pass the host's rules too"
            }
            (Some(Match::OutSet(_)), _) => "nobody outside opens a connection to a container",
            (Some(Match::InSet(_)), Verdict::Accept) => "containers may open connections to the outside",
            _ => "what minirun's forwarding would let pass from one of the host's neighbours to another",
        },
    }
}

/// A hardware address as people write it.
pub fn colons(mac: &Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
