//! A Step as the commands it stands for, and the reason.
//!
//! Used by `--dry-run` and by error messages. The commands are those of iproute2 (ip, bridge, tc), nft(8) and sysctl(8); typed by hand in
//! this order they build the same network. The container's namespace is called by name, as one made by `ip netns add`.

use ipnet::IpNet;

use super::program::Instruction;
use super::rate::LATENCY;
use super::rtnl::Mac;
use super::script::word;
use super::step::{Place, Step};
use super::table::{
    COMMENT, Change, Element, Field, Hook, Match, NEIGHBOR_ADVERTISEMENT, NEIGHBOR_SOLICITATION, TABLE, Value, Verdict,
    What,
};
use super::vxlan::Tunnel;

/// The commands that a step stands for. `netns` is the name of the container's namespace.
pub fn commands(step: &Step, netns: &str) -> Vec<String> {
    let netns = word(netns);
    let ip = |place: &Place| match place {
        Place::Hub => "ip".to_owned(),
        Place::Container => format!("ip -n {netns}"),
    };
    let tc = |place: &Place| match place {
        Place::Hub => "tc".to_owned(),
        Place::Container => format!("tc -n {netns}"),
    };
    match step {
        Step::AddBridge { name, mac, options } => {
            let options: String = options.iter().map(|(option, value)| format!(" {option} {value}")).collect();
            vec![format!("ip link add {name} address {} type bridge{options}", colons(mac))]
        }
        Step::SetAlias { link, alias } => vec![format!("ip link set {link} alias {alias}")],
        Step::AddAddress { place, link, address } => {
            let option = if address.addr().is_ipv4() { "brd +" } else { "nodad" };
            vec![format!("{} addr add {address} dev {link} {option}", ip(place))]
        }
        Step::NoLinkLocal { place, link } => vec![format!("{} link set {link} addrgenmode none", ip(place))],
        Step::SetUp { place, link } => vec![format!("{} link set {link} up", ip(place))],
        Step::AddVeth { host, mtu, peer, peer_mac, peer_index } => {
            let peer =
                format!("{peer}{} address {} mtu {mtu} netns {netns}", index_text(*peer_index), colons(peer_mac));
            vec![format!("ip link add {host} mtu {mtu} type veth peer name {peer}")]
        }
        Step::AddEntrance { place, link, direction } => {
            vec![format!("{} qdisc replace dev {link} {}", tc(place), direction.discipline())]
        }
        Step::AddFilter { place, link, direction, filter } => {
            let program = filter.program();
            let one = |(code, then, otherwise, value): &Instruction| format!(",{code} {then} {otherwise} {value}");
            let code: String = program.iter().map(one).collect();
            let bytecode = format!("{}{code}", program.len());
            let (tc, direction) = (tc(place), direction.name());
            vec![format!(
                "{tc} filter replace dev {link} {direction} protocol all pref 1 handle 1 bpf da bytecode '{bytecode}'"
            )]
        }
        Step::AddMacvlan { parent, mode, name, mac, mtu, index } => {
            let mac = if *mode == "passthru" { String::new() } else { format!(" address {}", colons(mac)) };
            vec![format!(
                "ip link add link {parent} name {name}{}{mac} mtu {mtu} netns {netns} type macvlan mode {mode}",
                index_text(*index)
            )]
        }
        Step::AddVxlan { name, mtu, tunnel } => {
            let Tunnel { vni, port, to, local, dev } = tunnel;
            let to = to.map_or_else(String::new, |to| match to.is_multicast() {
                true => format!(" group {to}"),
                false => format!(" remote {to}"),
            });
            let local = local.map_or_else(String::new, |local| format!(" local {local}"));
            let dev = dev.as_ref().map_or_else(String::new, |dev| format!(" dev {dev}"));
            vec![format!("ip link add {name} mtu {mtu} type vxlan id {vni} dstport {port}{to}{local}{dev}")]
        }
        Step::AddFlood { link, remote } => {
            vec![format!("bridge fdb append 00:00:00:00:00:00 dev {link} dst {remote}")]
        }
        Step::MoveLink { link, name, mac, mtu, index } => vec![format!(
            "ip link set {link} netns {netns} name {name}{} address {} mtu {mtu} alias ''",
            index_text(*index),
            colons(mac)
        )],
        Step::DeleteLink { place, link } => vec![format!("{} link del {link} 2>/dev/null || :", ip(place))],
        Step::SetPort { link, bridge, alias } => vec![format!("ip link set {link} master {bridge} alias {alias}")],
        Step::SetPortOption { link, option, value } => {
            let value = match (*option, *value) {
                ("cost" | "priority", number) => number.to_string(),
                (_, 0) => "off".to_owned(),
                _ => "on".to_owned(),
            };
            vec![format!("bridge link set dev {link} {option} {value}")]
        }
        Step::SetBridgeOption { link, option, value } => {
            vec![format!("ip link set {link} type bridge {option} {value}")]
        }
        Step::SetMtu { place, link, mtu } => vec![format!("{} link set {link} mtu {mtu}", ip(place))],
        Step::SetMac { place, link, mac } => vec![format!("{} link set {link} address {}", ip(place), colons(mac))],
        Step::Rename { link, name } => vec![format!("ip -n {netns} link set {link} name {name}")],
        Step::ReplaceDefaultRoute { gateway } => vec![format!("ip -n {netns} route replace default via {gateway}")],
        Step::Shape { place, link, rate, burst } => {
            let (tc, latency) = (tc(place), LATENCY / 1000);
            vec![format!("{tc} qdisc add dev {link} root tbf rate {rate} burst {burst} latency {latency}ms")]
        }
        Step::Lend { device, name } => vec![format!("ip link set {} name {name} netns {netns}", device.name)],
        Step::AddTap { link, owner, .. } => {
            vec![format!("ip -n {netns} tuntap add dev {link} mode tap user {owner}")]
        }
        Step::AddDefaultRoute { gateway } => vec![format!("ip -n {netns} route add default via {gateway}")],
        Step::Sysctl { place, key, value } => {
            let inside = if *place == Place::Container { format!("ip netns exec {netns} ") } else { String::new() };
            vec![format!("{inside}sysctl -qw {}", word(&format!("{key}={value}")))]
        }
        Step::Announce { link, mac } => vec![format!("ip -n {netns} link set {link} address {}", colons(mac))],
        Step::Nft(change) => vec![format!("nft '{}'", nft(change))],
        Step::NftInside(change) => vec![format!("ip netns exec {netns} nft '{}'", nft(change))],
    }
}

fn index_text(index: u32) -> String {
    if index == 0 { String::new() } else { format!(" index {index}") }
}

/// The change as nft(8) takes it.
fn nft(change: &Change) -> String {
    match change {
        Change::AddTable => format!("add table inet {TABLE} {{ comment \"{COMMENT}\"; }}"),
        Change::DeleteTable => format!("delete table inet {TABLE}"),
        Change::AddSet(set) => {
            let kind = if set.value.is_empty() { "set" } else { "map" };
            let value = if set.value.is_empty() { String::new() } else { format!(" : {}", types(set.value)) };
            let flags = if set.intervals { " flags interval;" } else { "" };
            format!("add {kind} inet {TABLE} {} {{ type {}{value};{flags} }}", set.name, types(set.key))
        }
        Change::AddElement(element) => {
            let verb = if element.value.is_empty() { "add" } else { "create" };
            format!("{verb} element inet {TABLE} {}", element_text(element, true))
        }
        Change::DeleteElement(element) => format!("delete element inet {TABLE} {}", element_text(element, false)),
        Change::AddChain { name, hook: None } => format!("add chain inet {TABLE} {name}"),
        Change::AddChain { name, hook: Some(hook) } => {
            let hook = match hook {
                Hook::Prerouting => "type nat hook prerouting priority dstnat",
                Hook::Output => "type nat hook output priority -100",
                Hook::Sent => "type filter hook output priority filter",
                Hook::Loopback => "type filter hook ingress device \"lo\" priority filter",
                Hook::Input => "type filter hook input priority filter",
                Hook::Forward => "type filter hook forward priority filter",
                Hook::Postrouting => "type nat hook postrouting priority srcnat",
            };
            format!("add chain inet {TABLE} {name} {{ {hook}; policy accept; }}")
        }
        Change::AddRule { chain, matches, verdict } => {
            let mut words: Vec<String> = matches.iter().map(condition).collect();
            words.push(match verdict {
                Verdict::Accept => "accept".to_owned(),
                Verdict::Drop => "drop".to_owned(),
                Verdict::Masquerade => "masquerade fully-random".to_owned(),
                Verdict::Mark(bit) => format!("meta mark set meta mark or {bit:#010x}"),
                Verdict::Jump(chain) => format!("jump {chain}"),
                Verdict::SetDestinationPort(protocol, port) => format!("{} dport set {port}", name_of(*protocol)),
                Verdict::SetSourcePort(protocol, port) => format!("{} sport set {port}", name_of(*protocol)),
                Verdict::RedirectTo(address, port) => format!("dnat ip to {address}:{port}"),
                Verdict::Redirect(what, map) => {
                    let family = if map.value[0] == Field::Ipv4 { "ip" } else { "ip6" };
                    format!("dnat {family} to {} map @{}", properties(what), map.name)
                }
            });
            format!("add rule inet {TABLE} {chain} {}", words.join(" "))
        }
    }
}

fn name_of(protocol: u8) -> String {
    match protocol {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        number => number.to_string(),
    }
}

fn types(fields: &[Field]) -> String {
    let name = |field: &Field| match field {
        Field::Link => "ifname",
        Field::Ipv4 => "ipv4_addr",
        Field::Ipv6 => "ipv6_addr",
        Field::Protocol => "inet_proto",
        Field::Port => "inet_service",
    };
    fields.iter().map(name).collect::<Vec<_>>().join(" . ")
}

/// An element as nft(8) takes it, with its set; `whole` is with its comment and what it leads to.
pub fn element_text(element: &Element, whole: bool) -> String {
    let text = |value: &Value| match value {
        Value::Link(name) => format!("\"{name}\""),
        Value::Ipv4(address) => address.to_string(),
        Value::Ipv6(address) => address.to_string(),
        Value::Protocol(number) => name_of(*number),
        Value::Port(number) => number.to_string(),
    };
    let part = |(at, value): (usize, &Value)| match element.end.get(at).filter(|end| *end != value) {
        Some(end) => format!("{}-{}", text(value), text(end)),
        None => text(value),
    };
    let join = |values: Vec<String>| values.join(" . ");
    let mut words = join(element.key.iter().enumerate().map(part).collect());
    if whole && !element.comment.is_empty() {
        words.push_str(&format!(" comment \"{}\"", element.comment));
    }
    if whole && !element.value.is_empty() {
        words.push_str(&format!(" : {}", join(element.value.iter().map(text).collect())));
    }
    format!("{} {{ {words} }}", element.set.name)
}

fn properties(what: &[What]) -> String {
    let name = |what: &What| match what {
        What::InLink => "iifname",
        What::OutLink => "oifname",
        What::Destination4 => "ip daddr",
        What::Destination6 => "ip6 daddr",
        What::Source4 => "ip saddr",
        What::Source6 => "ip6 saddr",
        What::Protocol => "meta l4proto",
        What::DestinationPort => "th dport",
    };
    what.iter().map(name).collect::<Vec<_>>().join(" . ")
}

fn condition(condition: &Match) -> String {
    let family = |network: &IpNet| if network.addr().is_ipv4() { "ip" } else { "ip6" };
    match condition {
        Match::EstablishedOrRelated => "ct state established,related".into(),
        Match::DestinationNatted => "ct status dnat".into(),
        Match::In(what, set) => format!("{} @{}", properties(what), set.name),
        Match::NotIn(what, set) => format!("{} != @{}", properties(what), set.name),
        Match::ToHost => "fib daddr type local".into(),
        Match::ByLoopback => "oifname \"lo\"".into(),
        Match::To(protocol, port) => format!("{} dport {port}", name_of(*protocol)),
        Match::From(protocol, port) => format!("{} sport {port}", name_of(*protocol)),
        Match::HasPorts => "meta l4proto { tcp, udp, sctp }".into(),
        Match::Icmp6(NEIGHBOR_SOLICITATION) => "icmpv6 type nd-neighbor-solicit".into(),
        Match::Icmp6(NEIGHBOR_ADVERTISEMENT) => "icmpv6 type nd-neighbor-advert".into(),
        Match::Icmp6(kind) => format!("icmpv6 type {kind}"),
        Match::Source(network) => format!("{} saddr {network}", family(network)),
        Match::Destination(network) => format!("{} daddr {network}", family(network)),
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
        Step::AddMacvlan { parent, name, .. } => format!("add macvlan link `{name}` on `{parent}`"),
        Step::AddVxlan { name, .. } => format!("add tunnel `{name}`"),
        Step::AddFlood { link, remote } => format!("lead tunnel `{link}` to `{remote}`"),
        Step::MoveLink { link, .. } => format!("move link `{link}` into the container"),
        Step::DeleteLink { link, .. } => format!("delete link `{link}`"),
        Step::AddEntrance { link, direction, .. } => format!("add qdisc {} to `{link}`", direction.discipline()),
        Step::AddFilter { link, .. } => format!("add a filter to `{link}`"),
        Step::SetPort { link, bridge, .. } => format!("make `{link}` a port of `{bridge}`"),
        Step::SetPortOption { link, option, .. } => format!("set `{option}` of port `{link}`"),
        Step::SetBridgeOption { link, option, .. } => format!("set `{option}` of bridge `{link}`"),
        Step::SetMtu { link, .. } => format!("set the MTU of `{link}`"),
        Step::SetMac { link, .. } => format!("set the hardware address of `{link}`"),
        Step::Rename { link, name } => format!("rename link `{link}` to `{name}`"),
        Step::ReplaceDefaultRoute { gateway } => format!("set default route by `{gateway}`"),
        Step::Shape { link, rate, .. } => format!("limit what leaves by `{link}` to {rate}"),
        Step::Lend { device, .. } => format!("lend `{}`", device.name),
        Step::AddTap { link, .. } => format!("add tap device `{link}`"),
        Step::AddDefaultRoute { gateway } => format!("add default route by `{gateway}`"),
        Step::Sysctl { key, value, .. } => format!("set `{key}` to {value}"),
        Step::Announce { link, .. } => format!("tell the neighbours of `{link}`"),
        Step::Nft(change) | Step::NftInside(change) => match change {
            Change::AddTable => format!("add nftables table `inet {TABLE}`"),
            Change::DeleteTable => format!("delete nftables table `inet {TABLE}`"),
            Change::AddSet(set) => format!("add nftables set `{}`", set.name),
            Change::AddElement(element) => format!("add an element to nftables set `{}`", element.set.name),
            Change::DeleteElement(element) => format!("delete an element of nftables set `{}`", element.set.name),
            Change::AddChain { name, .. } => format!("add nftables chain `{name}`"),
            Change::AddRule { chain, .. } => format!("add a rule to nftables chain `{chain}`"),
        },
    }
}

/// A hardware address as people write it.
pub fn colons(mac: &Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
