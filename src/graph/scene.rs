//! What stands where in a picture, whatever it is drawn with: for each namespace that has more than the end of something, its
//! uplinks, its bridges and other links, and what hangs on them.
//!
//! Pure. All text in a scene was made harmless (`escape::shown`); the formats add their own escaping.

use std::collections::HashSet;
use std::net::IpAddr;

use super::escape::shown;
use super::model::{End, Graph, Kind, Link, Namespace, Published, Stats};
use crate::listing::cells::decimal;

/// On a link with more than this, only the first [`SHOWN`] are drawn.
const MOST: usize = 10;
/// So many are drawn of more than [`MOST`].
const SHOWN: usize = 6;

/// A picture's contents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scene {
    /// The host's first.
    pub sections: Vec<Section>,
    /// Namespaces without any link that leads somewhere.
    pub alone: Vec<String>,
    /// What there is beside, a line each.
    pub notes: Vec<String>,
}

/// One namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Section {
    /// Its number.
    pub namespace: u64,
    /// Its name; none for the host's.
    pub title: Option<String>,
    /// Containers without a network of their own.
    pub guests: Vec<String>,
    /// The links with the default routes.
    pub uplinks: Vec<Item>,
    /// Its other links that are no port of one.
    pub items: Vec<Item>,
}

/// A link, with what hangs on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Item {
    /// The link.
    pub link: u32,
    /// What people call it: its network, or its own name.
    pub label: String,
    /// Its kind, and its own name where that is not the label.
    pub what: String,
    /// Addresses.
    pub addresses: Vec<String>,
    /// Default routes, masquerade, options.
    pub notes: Vec<String>,
    /// Whether its containers get out.
    pub routed: bool,
    /// Whether it was drawn already, as the far end of something.
    pub again: bool,
    /// What hangs on it.
    pub rows: Vec<Row>,
    /// What else does.
    pub folded: Option<Folded>,
}

/// What hangs on a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    /// What it belongs to: a namespace, or the link itself.
    pub node: Node,
    /// The name of a container, a namespace or a link.
    pub title: String,
    /// `docker`, `netns` and so on; empty for minirun's own.
    pub tag: String,
    /// The name of the far end.
    pub interface: String,
    /// The name of the near end.
    pub near: String,
    /// The first address of the far end.
    pub address: String,
    /// Its others.
    pub more: Vec<String>,
    /// Its hardware address.
    pub mac: String,
    /// Published ports: where on the host, and where in the container.
    pub published: Vec<(String, String)>,
    /// Options, state.
    pub notes: Vec<String>,
    sort: Option<IpAddr>,
}

/// What a row belongs to: rows of the same node are drawn as one where the format can.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Node {
    /// Nothing that is known.
    #[default]
    Unknown,
    /// A namespace.
    Namespace(u64),
    /// A link that is no end of a pair.
    Link(End),
}

/// What is not drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folded {
    /// How many.
    pub count: usize,
    /// The first and last of their addresses.
    pub range: Option<(String, String)>,
}

impl Folded {
    /// `… and 194 more (10.214.0.8 – 10.214.0.205)`
    pub fn text(&self) -> String {
        let range = self.range.as_ref().map_or_else(String::new, |(first, last)| format!(" ({first} – {last})"));
        format!("… and {} more{range}", self.count)
    }
}

/// What stands where. With `all`, everything is drawn, however much it is.
pub fn scene(graph: &Graph, all: bool) -> Scene {
    let mut stage = Stage { graph, all, told: HashSet::new(), reached: HashSet::new() };
    let mut scene = Scene::default();
    // The host first, then those with bridges: what hangs on a bridge is told there.
    let has_hub = |one: &&Namespace| one.kind == Kind::Host || one.links.iter().any(|link| link.is_hub() && link.up);
    let (hubs, others): (Vec<_>, Vec<_>) = graph.namespaces.iter().partition(has_hub);
    for namespace in hubs.into_iter().chain(others) {
        let section = stage.section(namespace);
        let fresh = !section.items.is_empty() || section.uplinks.iter().any(|item| !item.again);
        if fresh || !section.guests.is_empty() {
            scene.sections.push(section);
        }
    }
    let alone = |namespace: &&Namespace| {
        let drawn = scene.sections.iter().any(|section| section.namespace == namespace.id);
        namespace.kind != Kind::Host && !drawn && !stage.reached.contains(&namespace.id)
    };
    scene.alone = graph.namespaces.iter().filter(alone).map(title).collect();
    scene.notes = notes(graph);
    scene
}

fn title(namespace: &Namespace) -> String {
    let (title, tag) = (shown(&namespace.title()), namespace.kind.word());
    if tag.is_empty() { title } else { format!("{title} ({tag})") }
}

struct Stage<'a> {
    graph: &'a Graph,
    all: bool,
    /// Links that were drawn as the far end of something.
    told: HashSet<End>,
    /// Namespaces with such a link.
    reached: HashSet<u64>,
}

impl Stage<'_> {
    fn section(&mut self, namespace: &Namespace) -> Section {
        let host = namespace.kind == Kind::Host;
        let is_uplink = |link: &Link| match namespace.routes.is_empty() {
            false => namespace.routes.iter().any(|route| route.link == link.index),
            true => host && link.kind == "device" && !link.addresses.is_empty(),
        };
        let mut section = Section { namespace: namespace.id, ..Section::default() };
        if host {
            section.guests = namespace.names.iter().map(|name| shown(name)).collect();
        } else {
            section.title = Some(title(namespace));
        }
        let stands = |link: &&Link| {
            link.master.is_none_or(|master| namespace.link(master).is_none()) && matters(link, namespace)
        };
        for link in namespace.links.iter().filter(stands) {
            let end = End { namespace: namespace.id, link: link.index };
            let uplink = is_uplink(link);
            // The far end of something that was drawn already is drawn again only where it is the way out.
            if self.told.contains(&end) && !uplink {
                continue;
            }
            let again = self.told.contains(&end);
            let item = self.item(namespace, link, again);
            if uplink { section.uplinks.push(item) } else { section.items.push(item) }
        }
        section.uplinks.sort_by_key(|item| namespace.routes.iter().position(|route| route.link == item.link));
        section.items.sort_by_key(|item| (item.rows.is_empty(), !item.what.starts_with("bridge"), item.link));
        section
    }

    /// A link and what hangs on it. Of one that is told `again` only the name of its other end is.
    fn item(&mut self, namespace: &Namespace, link: &Link, again: bool) -> Item {
        let name = shown(&link.name);
        let (label, what) = match &link.network {
            Some(network) => (shown(network), format!("{} {name}", link.kind)),
            None if link.kind == "device" => (name, String::new()),
            None => (name, shown(&link.kind)),
        };
        let mut item = Item {
            link: link.index,
            label,
            what,
            addresses: link.addresses.iter().map(ToString::to_string).collect(),
            notes: self.item_notes(namespace, link),
            routed: !link.closed && !link.addresses.is_empty(),
            again,
            ..Item::default()
        };
        if again {
            if let Some((there, other)) = link.peer.and_then(|end| self.graph.end(end)) {
                let of = if there.id == namespace.id { String::new() } else { format!(" of {}", title(there)) };
                item.notes.push(format!("⇄ {}{of}", shown(&other.name)));
            }
            return item;
        }
        let mut rows = Vec::new();
        for port in namespace.links.iter().filter(|port| port.master == Some(link.index)) {
            rows.push(self.row(namespace, port));
        }
        let own = End { namespace: namespace.id, link: link.index };
        if link.is_pair() {
            rows.extend(self.far_end(namespace, link));
        }
        rows.extend(self.above(own));
        rows.sort_by(|a, b| (a.sort.is_none(), a.sort, &a.title).cmp(&(b.sort.is_none(), b.sort, &b.title)));
        if !self.all && rows.len() > MOST {
            item.folded = Some(fold(&rows[SHOWN..]));
            rows.truncate(SHOWN);
        }
        item.rows = rows;
        item
    }

    /// The links that lie on this one: macvlan, vlan and the like, here or elsewhere.
    fn above(&mut self, own: End) -> Vec<Row> {
        let mut rows = Vec::new();
        for namespace in &self.graph.namespaces {
            for link in namespace.links.iter().filter(|link| link.peer == Some(own) && !link.is_pair()) {
                // One of the same namespace has something on it by itself.
                let itself = namespace.id == own.namespace;
                if itself && link.master.is_some() {
                    continue;
                }
                let mut row = self.row_of(namespace, link);
                row.notes.insert(0, kind_of(link));
                row.notes.extend(link.network.as_ref().map(|network| format!("network {}", shown(network))));
                if itself {
                    row.node = Node::Link(End { namespace: namespace.id, link: link.index });
                    (row.title, row.interface, row.tag) = (shown(&link.name), String::new(), String::new());
                }
                rows.push(row);
            }
        }
        rows
    }

    /// A port of a bridge, or of what else has ports.
    fn row(&mut self, namespace: &Namespace, port: &Link) -> Row {
        let far = if port.is_pair() { self.far_end(namespace, port) } else { None };
        let mut row = far.unwrap_or_else(|| {
            let end = End { namespace: namespace.id, link: port.index };
            let mut row = Row { node: Node::Link(end), title: shown(&port.name), ..Row::default() };
            row.notes = if port.peer_unseen { vec!["other end out of sight".into()] } else { vec![kind_of(port)] };
            row.notes.extend(port.stats.map(counters));
            row
        });
        row.notes.extend(port_notes(port));
        row
    }

    /// The other end of a pair. None where it is out of sight.
    fn far_end(&mut self, namespace: &Namespace, near: &Link) -> Option<Row> {
        let (there, far) = self.graph.end(near.peer?)?;
        let mut row = self.row_of(there, far);
        row.near = shown(&near.name);
        if there.id == namespace.id {
            row.title = shown(&far.name);
            (row.interface, row.tag) = (String::new(), String::new());
            row.node = Node::Link(near.peer?);
        }
        if let Some(master) = far.master.and_then(|master| there.link(master)) {
            row.notes.push(format!("port of {}", shown(&master.name)));
        }
        Some(row)
    }

    fn row_of(&mut self, namespace: &Namespace, link: &Link) -> Row {
        self.told.insert(End { namespace: namespace.id, link: link.index });
        self.reached.insert(namespace.id);
        let first = link.first_address();
        let text = |net: &ipnet::IpNet| net.addr().to_string();
        let others = link.addresses.iter().filter(|net| Some(**net) != first);
        let mut row = Row {
            node: Node::Namespace(namespace.id),
            title: shown(&namespace.title()),
            tag: namespace.kind.word().into(),
            interface: shown(&link.name),
            address: first.as_ref().map(text).unwrap_or_default(),
            more: others.map(text).collect(),
            mac: link.mac.clone().unwrap_or_default(),
            published: published(self.graph, link),
            sort: first.map(|net| net.addr()),
            ..Row::default()
        };
        if !link.up {
            row.notes.push("down".into());
        }
        row.notes.extend(link.stats.map(counters));
        row
    }

    fn item_notes(&self, namespace: &Namespace, link: &Link) -> Vec<String> {
        let mut notes = Vec::new();
        for route in namespace.routes.iter().filter(|route| route.link == link.index) {
            let start = if notes.is_empty() { "default " } else { "" };
            notes.push(route.gateway.map_or_else(|| format!("{start}route"), |via| format!("{start}via {via}")));
        }
        let options = &link.options;
        let is = |key: &str, value: &str| options.get(key).is_some_and(|found| found == value);
        let words = [
            (link.masquerade, "masquerade"),
            (link.closed, "internal"),
            (link.kind == "bridge" && is("stp_state", "1"), "stp"),
            (is("vlan_filtering", "1"), "vlan filtering"),
            (is("mcast_snooping", "0"), "no multicast snooping"),
            (!link.up && !link.is_hub(), "down"),
        ];
        notes.extend(words.into_iter().filter(|(is, _)| *is).map(|(_, word)| word.to_owned()));
        // Hundredths of a second; what the kernel gives to a bridge unasked is not worth a word.
        for (key, usual) in [("ageing_time", "30000"), ("priority", "32768")] {
            notes.extend(options.get(key).filter(|value| *value != usual).map(|value| format!("{key} {value}")));
        }
        let of_kind = ["id", "mode", "type"].iter().filter_map(|key| Some(format!("{key} {}", options.get(*key)?)));
        notes.extend(of_kind);
        notes.extend(link.peer_unseen.then(|| "other end out of sight".to_owned()));
        notes.extend(link.stats.map(counters));
        notes
    }
}

/// Whether a link is worth a place: not the loopback device, and not one of the idle tunnels that some modules put into every
/// namespace.
fn matters(link: &Link, namespace: &Namespace) -> bool {
    let has_ports = || namespace.links.iter().any(|port| port.master == Some(link.index));
    let idle = !link.up && link.addresses.is_empty();
    link.kind != "loopback" && (!idle || link.is_pair() || link.kind == "bridge" || has_ports())
}

fn kind_of(link: &Link) -> String {
    // `tun` is the kernel's name of both.
    if let Some(kind) = link.options.get("type") {
        return kind.clone();
    }
    let detail = ["id", "mode"].iter().find_map(|key| link.options.get(*key));
    detail.map_or_else(|| shown(&link.kind), |detail| format!("{} {detail}", shown(&link.kind)))
}

fn port_notes(port: &Link) -> Vec<String> {
    let is = |key: &str, value: &str| port.options.get(key).is_some_and(|found| found == value);
    let words = [
        (is("port_isolated", "1"), "isolated"),
        (is("port_hairpin", "1"), "hairpin"),
        (is("port_learning", "0"), "no learning"),
    ];
    words.into_iter().filter(|(is, _)| *is).map(|(_, word)| word.to_owned()).collect()
}

fn counters(stats: Stats) -> String {
    let Stats { rx_packets, rx_bytes, tx_packets, tx_bytes } = stats;
    format!("rx {} in {rx_packets}, tx {} in {tx_packets}", decimal(rx_bytes), decimal(tx_bytes))
}

fn published(graph: &Graph, link: &Link) -> Vec<(String, String)> {
    let here = |port: &&Published| link.addresses.iter().any(|net| net.addr() == port.target);
    graph.published.iter().filter(here).map(|port| (port.outside(), port.inside())).collect()
}

fn fold(rows: &[Row]) -> Folded {
    let addresses: Vec<IpAddr> = rows.iter().filter_map(|row| row.sort).collect();
    let range = addresses.iter().min().zip(addresses.iter().max());
    Folded { count: rows.len(), range: range.map(|(first, last)| (first.to_string(), last.to_string())) }
}

fn notes(graph: &Graph) -> Vec<String> {
    let mut notes = Vec::new();
    let known: HashSet<IpAddr> = graph
        .namespaces
        .iter()
        .flat_map(|namespace| &namespace.links)
        .flat_map(|link| link.addresses.iter().map(ipnet::IpNet::addr))
        .collect();
    for port in graph.published.iter().filter(|port| !known.contains(&port.target)) {
        notes.push(format!("published to nobody: {} → {} {}", port.outside(), port.target, port.inside()));
    }
    if !graph.nat.is_empty() {
        let one = |nat: &super::model::Nat| format!("{} {} {}", nat.family, shown(&nat.table), shown(&nat.chain));
        notes.push(format!("source NAT by others: {}", graph.nat.iter().map(one).collect::<Vec<_>>().join(", ")));
    }
    notes
}
