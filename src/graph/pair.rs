//! From what the kernel tells of each namespace to links that know their other ends. Pure functions.
//!
//! A link names its other end by an index and, where that is in another namespace, by a number that only its own namespace
//! gives to others (`IFLA_LINK_NETNSID`). `Numbers` says which these are; no end is guessed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::model::{End, Link, Route, Stats};
use crate::net::rtnl::survey::{Seen, SeenAddress, SeenRoute, number};

/// Which namespace another one means by a number.
pub type Numbers = HashMap<(u64, i32), u64>;

/// What one namespace has, as the kernel tells.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// The namespace.
    pub id: u64,
    /// Its links.
    pub links: Vec<Seen>,
    /// Its addresses.
    pub addresses: Vec<SeenAddress>,
    /// Its default routes.
    pub routes: Vec<SeenRoute>,
}

/// The numbers that a namespace gives to others and that nobody has explained yet.
pub fn unexplained(view: &View, numbers: &Numbers) -> BTreeSet<i32> {
    let used = view.links.iter().filter_map(|link| link.link_namespace.filter(|number| *number >= 0));
    used.filter(|number| !numbers.contains_key(&(view.id, *number))).collect()
}

/// The links of `views[at]`, by index.
pub fn links(views: &[View], at: usize, numbers: &Numbers, stats: bool) -> Vec<Link> {
    let view = &views[at];
    let mut addresses: HashMap<u32, Vec<IpNet>> = HashMap::new();
    for seen in &view.addresses {
        addresses.entry(seen.link).or_default().extend(IpNet::new(seen.address, seen.prefix));
    }
    let mut links: Vec<Link> = view.links.iter().map(|seen| link(seen, view, views, numbers, stats)).collect();
    for link in &mut links {
        link.addresses = addresses.remove(&link.index).unwrap_or_default();
    }
    links.sort_by_key(|link| link.index);
    links
}

/// The default routes, the best of each family first.
pub fn routes(seen: &[SeenRoute]) -> Vec<Route> {
    let ipv6 = |route: &SeenRoute| matches!(route.gateway, Some(IpAddr::V6(_)));
    let one =
        |route: &SeenRoute| Route { gateway: route.gateway, link: route.link, ipv6: ipv6(route), metric: route.metric };
    let mut all: Vec<Route> = seen.iter().map(one).collect();
    all.sort_by_key(|route| (route.ipv6, route.metric));
    all
}

fn link(seen: &Seen, view: &View, views: &[View], numbers: &Numbers, stats: bool) -> Link {
    const UP: u32 = 0x1;
    const LOOPBACK: u32 = 0x8;
    const LOWER_UP: u32 = 0x1_0000;
    let kind = match &seen.kind {
        Some(kind) => kind.as_str(),
        None if seen.flags & LOOPBACK != 0 => "loopback",
        None => "device",
    };
    let peer = other_end(seen, view, views, numbers);
    // Of a tunnel that is bound to no link the kernel says that link 0 is below.
    let has_other = seen.link.is_some_and(|link| link != 0 && (link != seen.index || seen.link_namespace.is_some()));
    let mac = seen.mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":");
    let network = seen.alias.as_deref().and_then(|alias| alias.strip_prefix("minirun:network:"));
    let counters =
        |[rx_packets, tx_packets, rx_bytes, tx_bytes]: [u64; 4]| Stats { rx_packets, rx_bytes, tx_packets, tx_bytes };
    Link {
        index: seen.index,
        name: seen.name.clone(),
        kind: kind.to_owned(),
        alias: seen.alias.clone(),
        network: network.filter(|_| ["bridge", "veth"].contains(&kind)).map(str::to_owned),
        mac: Some(mac).filter(|_| seen.mac.len() == 6 && kind != "loopback"),
        mtu: seen.mtu,
        up: seen.flags & UP != 0 && seen.flags & LOWER_UP != 0,
        master: seen.master,
        peer,
        peer_unseen: has_other && peer.is_none(),
        options: options(kind, seen),
        stats: seen.stats.filter(|_| stats).map(counters),
        ..Link::default()
    }
}

/// The other end of a pair, or the link below.
fn other_end(seen: &Seen, view: &View, views: &[View], numbers: &Numbers) -> Option<End> {
    let link = seen.link.filter(|link| *link != 0)?;
    let namespace = match seen.link_namespace {
        None if link == seen.index => return None,
        None => view.id,
        Some(number) => *numbers.get(&(view.id, number))?,
    };
    let there = views.iter().find(|other| other.id == namespace)?;
    there.links.iter().any(|other| other.index == link).then_some(End { namespace, link })
}

/// What is worth telling of a link's kind (linux/if_link.h, `IFLA_BR_*` and so on), by the names that ip(8) uses.
fn options(kind: &str, seen: &Seen) -> BTreeMap<String, String> {
    let find = |all: &[(u16, Vec<u8>)], wanted: u16| {
        all.iter().find(|(found, _)| *found == wanted).map(|(_, value)| value.clone())
    };
    let data = |wanted: u16| find(&seen.data, wanted);
    let mut options = BTreeMap::new();
    let mut add = |key: &str, value: Option<String>| options.extend(value.map(|value| (key.to_owned(), value)));
    let byte = |value: Option<Vec<u8>>| value.and_then(|value| value.first().copied());
    let short = |value: Option<Vec<u8>>| value.and_then(|value| Some(u16::from_ne_bytes(value.try_into().ok()?)));
    let long = |value: Option<Vec<u8>>| value.and_then(|value| number(&value));
    let name = |value: Option<u32>, names: &[(u32, &str)]| {
        let value = value?;
        let known = names.iter().find(|(number, _)| *number == value);
        Some(known.map_or_else(|| value.to_string(), |(_, name)| (*name).to_owned()))
    };
    match kind {
        "bridge" => {
            for (key, wanted) in
                [("forward_delay", 1), ("hello_time", 2), ("max_age", 3), ("ageing_time", 4), ("stp_state", 5)]
            {
                add(key, long(data(wanted)).map(|value| value.to_string()));
            }
            add("priority", short(data(6)).map(|value| value.to_string()));
            add("vlan_filtering", byte(data(7)).map(|value| value.to_string()));
            add("mcast_snooping", byte(data(23)).map(|value| value.to_string()));
        }
        "vlan" => add("id", short(data(1)).map(|value| value.to_string())),
        "vxlan" => add("id", long(data(1)).map(|value| value.to_string())),
        "macvlan" | "macvtap" => {
            let names = [(1, "private"), (2, "vepa"), (4, "bridge"), (8, "passthru"), (16, "source")];
            add("mode", name(long(data(1)), &names));
        }
        "ipvlan" => add("mode", name(short(data(1)).map(u32::from), &[(0, "l2"), (1, "l3"), (2, "l3s")])),
        "bond" => {
            let names =
                ["balance-rr", "active-backup", "balance-xor", "broadcast", "802.3ad", "balance-tlb", "balance-alb"];
            let mode = byte(data(1)).map(usize::from);
            add("mode", mode.map(|mode| names.get(mode).map_or_else(|| mode.to_string(), |name| (*name).into())));
        }
        "tun" => add("type", name(byte(data(3)).map(u32::from), &[(1, "tun"), (2, "tap")])),
        _ => {}
    }
    // Of a port of a bridge.
    for (key, wanted) in [("hairpin", 4), ("learning", 8), ("isolated", 33)] {
        add(&format!("port_{key}"), byte(find(&seen.port, wanted)).map(|value| value.to_string()));
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(index: u32, kind: &str, link: Option<u32>, link_namespace: Option<i32>) -> Seen {
        let kind = Some(kind.to_owned());
        Seen { index, name: format!("l{index}"), kind, link, link_namespace, flags: 0x1_0001, ..Seen::default() }
    }

    #[test]
    fn ends_are_told_by_numbers_and_never_guessed() {
        // Two pairs between namespaces, all with the same indices, and one whose other end is out of sight.
        let views: Vec<View> = [10, 20, 30, 40]
            .map(|id| View { id, links: vec![seen(2, "veth", Some(2), Some(0))], ..View::default() })
            .into_iter()
            .chain([View { id: 50, links: vec![seen(2, "veth", Some(9), Some(7))], ..View::default() }])
            .collect();
        let numbers = Numbers::from([((10, 0), 40), ((40, 0), 10), ((20, 0), 30), ((30, 0), 20)]);
        let peer = |at: usize| links(&views, at, &numbers, false)[0].peer.map(|end| (end.namespace, end.link));
        assert_eq!([0, 1, 2, 3].map(peer), [Some((40, 2)), Some((30, 2)), Some((20, 2)), Some((10, 2))]);
        let alone = &links(&views, 4, &numbers, false)[0];
        assert!(alone.peer.is_none() && alone.peer_unseen);
        assert_eq!(unexplained(&views[4], &numbers), BTreeSet::from([7]));
        assert!(unexplained(&views[0], &numbers).is_empty());
    }

    #[test]
    fn both_ends_may_be_in_one_namespace() {
        let both = vec![seen(2, "veth", Some(3), None), seen(3, "veth", Some(2), None), seen(4, "sit", Some(0), None)];
        let views = [View { id: 1, links: both, ..View::default() }];
        let all = links(&views, 0, &Numbers::new(), false);
        let peers: Vec<_> = all.iter().map(|link| link.peer.map(|end| end.link)).collect();
        assert_eq!(peers, [Some(3), Some(2), None]);
        assert!(all.iter().all(|link| link.up && !link.peer_unseen));
    }
}
