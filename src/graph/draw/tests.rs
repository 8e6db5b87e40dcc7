//! What is drawn of graphs made by hand: the usual one, one with names that mean harm, one with two hundred containers.

use std::collections::BTreeMap;

use unicode_width::UnicodeWidthStr;

use super::content::Pen;
use super::place::place;
use super::text::{Look, text};
use super::{dot::dot, mermaid::mermaid, svg::svg};
use crate::graph::model::{End, Graph, Kind, Link, Namespace, Nat, Published, Route, Stats};
use crate::graph::scene::{Scene, scene};
use crate::graph::select::select;

const LOOK: Look = Look { width: 100, unicode: true, color: false };

fn link(index: u32, name: &str, kind: &str, addresses: &[&str]) -> Link {
    Link {
        index,
        name: name.into(),
        kind: kind.into(),
        mtu: 1500,
        up: true,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        ..Link::default()
    }
}

/// A container with one interface for each bridge that it is on.
fn container(graph: &mut Graph, id: u64, kind: Kind, name: &str, on: &[(u32, &str)]) {
    let mut guest = Namespace { id, kind, names: vec![name.into()], seen: true, ..Namespace::default() };
    for (at, (bridge, address)) in on.iter().enumerate() {
        let (inner, outer) = (at as u32 + 2, graph.namespaces[0].links.len() as u32 + 1);
        let mac = format!("02:d6:0a:d6:{bridge:02x}:{:02x}", id % 256);
        guest.links.push(Link {
            mac: Some(mac),
            peer: Some(End { namespace: 1, link: outer }),
            ..link(inner, &format!("eth{at}"), "veth", &[address])
        });
        graph.namespaces[0].links.push(Link {
            master: Some(*bridge),
            peer: Some(End { namespace: id, link: inner }),
            ..link(outer, &format!("mr{id}v{at}"), "veth", &[])
        });
    }
    graph.namespaces.push(guest);
}

/// An uplink and the networks front and back.
fn host() -> Graph {
    let bridge = |index, name: &str, address| Link {
        network: Some(name.into()),
        ..link(index, &format!("mr-{name}"), "bridge", &[address])
    };
    let links = vec![
        link(1, "lo", "loopback", &["127.0.0.1/8"]),
        link(2, "eth0", "device", &["192.0.2.2/24", "2001:db8::2/64"]),
        Link { masquerade: true, ..bridge(3, "front", "10.214.16.1/24") },
        Link { closed: true, ..bridge(4, "back", "10.214.17.1/24") },
    ];
    let via = |gateway: &str, ipv6| Route { gateway: Some(gateway.parse().unwrap()), link: 2, ipv6, metric: 0 };
    let routes = vec![via("192.0.2.1", false), via("2001:db8::1", true)];
    let host = Namespace { id: 1, kind: Kind::Host, seen: true, links, routes, ..Namespace::default() };
    Graph { namespaces: vec![host], ..Graph::default() }
}

/// Three containers on two networks.
fn usual() -> Graph {
    let mut graph = host();
    container(&mut graph, 10, Kind::Minirun, "web", &[(3, "10.214.16.2/24"), (4, "10.214.17.2/24")]);
    container(&mut graph, 11, Kind::Minirun, "db", &[(4, "10.214.17.3/24")]);
    container(&mut graph, 12, Kind::Minirun, "cache", &[(4, "10.214.17.4/24")]);
    graph.published.push(Published {
        address: "127.0.0.1".parse().unwrap(),
        host: 8080,
        target: "10.214.16.2".parse().unwrap(),
        port: 80,
        count: 1,
        protocol: "tcp".into(),
    });
    graph
}

/// The usual one, and what others made.
fn foreign() -> Graph {
    let mut graph = usual();
    let host = &mut graph.namespaces[0];
    host.names = vec!["onhost".into()];
    let options = BTreeMap::from([("stp_state".into(), "1".into()), ("ageing_time".into(), "1000".into())]);
    host.links.push(Link { options, ..link(9, "docker0", "bridge", &["172.17.0.1/16"]) });
    let options = BTreeMap::from([("type".into(), "tap".into()), ("port_isolated".into(), "1".into())]);
    host.links.push(Link { master: Some(9), options, ..link(10, "tap0", "tun", &[]) });
    let peer = Some(End { namespace: 30, link: 2 });
    host.links.push(Link { peer, ..link(11, "v0", "veth", &["10.9.9.1/24"]) });
    host.links.push(Link { peer_unseen: true, ..link(12, "lost", "veth", &[]) });
    container(&mut graph, 20, Kind::Docker, "pg", &[(9, "172.17.0.2/16")]);
    let inner = Link { peer: Some(End { namespace: 1, link: 11 }), ..link(2, "v1", "veth", &["10.9.9.2/24"]) };
    let hub = link(3, "br0", "bridge", &["10.10.0.1/24"]);
    let port = Link { master: Some(3), peer: Some(End { namespace: 31, link: 2 }), ..link(4, "p", "veth", &[]) };
    let lab = Namespace { id: 30, kind: Kind::Named, names: vec!["lab".into()], ..Namespace::default() };
    graph.namespaces.push(Namespace { links: vec![inner, hub, port], ..lab.clone() });
    let inner = Link { peer: Some(End { namespace: 30, link: 4 }), ..link(2, "eth0", "veth", &["10.10.0.2/24"]) };
    graph.namespaces.push(Namespace { id: 31, names: vec!["inner".into()], links: vec![inner], ..lab.clone() });
    let below = Some(End { namespace: 1, link: 2 });
    let options = BTreeMap::from([("mode".into(), "bridge".into())]);
    let macvlan = Link { peer: below, options, ..link(5, "mv0", "macvlan", &["192.0.2.9/24"]) };
    graph.namespaces.push(Namespace { id: 32, names: vec!["mv".into()], links: vec![macvlan], ..lab });
    let lonely = Namespace { id: 40, names: vec!["sleep".into()], pid: Some(77), ..Namespace::default() };
    graph.namespaces.push(lonely);
    graph.nat.push(Nat { family: "ip".into(), table: "nat".into(), chain: "POSTROUTING".into(), rules: 2 });
    graph
}

fn many(count: u64) -> Graph {
    let mut graph = host();
    for number in 0..count {
        let address = format!("10.214.16.{}/24", number + 2);
        container(&mut graph, 100 + number, Kind::Minirun, &format!("c{number:03}"), &[(3, &address)]);
    }
    graph
}

const EVIL: &str = "x\u{1b}[2J\u{9b}31m\"];</text><script>&\\n--> | `#35; [a](b) **\u{202e}\n end";

fn evil() -> Graph {
    let mut graph = usual();
    for namespace in &mut graph.namespaces[1..] {
        namespace.names = vec![EVIL.into()];
    }
    for link in graph.namespaces.iter_mut().flat_map(|namespace| &mut namespace.links) {
        link.name = format!("{EVIL}{}", link.name);
        link.network = link.network.as_ref().map(|_| EVIL.into());
    }
    graph.nat.push(Nat { family: "ip".into(), table: EVIL.into(), chain: EVIL.into(), rules: 1 });
    graph
}

#[test]
fn as_text() {
    insta::assert_snapshot!("text", text(&scene(&usual(), false), LOOK));
    insta::assert_snapshot!("text_foreign", text(&scene(&foreign(), false), LOOK));
    insta::assert_snapshot!("text_ascii", text(&scene(&foreign(), false), Look { unicode: false, ..LOOK }));
    insta::assert_snapshot!("text_many", text(&scene(&many(200), false), LOOK));
    let mut counted = usual();
    for link in counted.namespaces.iter_mut().flat_map(|namespace| &mut namespace.links) {
        link.stats = Some(Stats { rx_packets: 3, rx_bytes: 266, tx_packets: 20_000, tx_bytes: 1_982_256 });
    }
    insta::assert_snapshot!("text_stats", text(&scene(&counted, false), LOOK));
}

#[test]
fn as_pictures() {
    insta::assert_snapshot!("svg", svg(&scene(&usual(), false)));
    insta::assert_snapshot!("dot", dot(&scene(&foreign(), false)));
    insta::assert_snapshot!("mermaid", mermaid(&scene(&foreign(), false)));
}

#[test]
fn three_containers_fit_on_a_screen_and_two_hundred_are_folded() {
    assert!(text(&scene(&usual(), false), LOOK).lines().count() <= 24);
    let folded = text(&scene(&many(200), false), LOOK);
    assert!(folded.contains("… and 194 more (10.214.16.8 – 10.214.16.201)"), "{folded}");
    assert!(folded.lines().count() <= 24, "{folded}");
    let all = text(&scene(&many(200), true), LOOK);
    assert!((0..200).all(|number| all.contains(&format!("c{number:03}"))), "{all}");
    assert!(svg(&scene(&many(200), true)).matches("class=\"card\"").count() >= 200);
    assert!(text(&scene(&many(10), false), LOOK).contains("c009"));
}

#[test]
fn no_line_is_too_wide() {
    for graph in [usual(), foreign(), evil(), many(30)] {
        for (width, unicode) in [(100, true), (100, false), (40, true), (60, false)] {
            let said = text(&scene(&graph, true), Look { width, unicode, color: false });
            let wide = said.lines().find(|line| line.width() > width);
            assert_eq!(wide, None, "{width}\n{said}");
            assert!(unicode || said.is_ascii(), "{said}");
        }
    }
}

/// The usual one, with a second address of `web` and a port of each version.
fn both_versions() -> Graph {
    let mut graph = usual();
    let web = &mut graph.namespaces[1];
    web.names = vec!["sidecar, web".into()];
    web.links[0].addresses.push("fd50:1234:5678::2/64".parse().unwrap());
    let published = graph.published[0].clone();
    graph.published.push(Published { address: "::1".parse().unwrap(), host: 9000, count: 4, ..published });
    graph
}

#[test]
fn narrow_lines_lose_nothing_that_was_published_and_no_address() {
    for (width, unicode) in [(100, true), (100, false), (80, true), (80, false)] {
        let said = text(&scene(&both_versions(), false), Look { width, unicode, color: false });
        let arrow = if unicode { "→" } else { "->" };
        let ports = [format!("127.0.0.1:8080 {arrow} 80/tcp"), format!("[::1]:9000-9003 {arrow} 80-83/tcp")];
        assert!(ports.iter().all(|port| said.contains(port)), "{width} {unicode}\n{said}");
        assert!(said.contains("fd50:1234:5678::2"), "{width} {unicode}\n{said}");
    }
}

#[test]
fn ports_in_a_row_are_told_together() {
    let port = |host, port, protocol: &str| Published {
        address: "127.0.0.1".parse().unwrap(),
        host,
        target: "10.214.16.2".parse().unwrap(),
        port,
        count: 1,
        protocol: protocol.into(),
    };
    let tcp = |host, inner| port(host, inner, "tcp");
    let joined = |all| Published::joined(all).iter().map(|one| format!("{} {}", one.outside(), one.inside())).collect();
    let together: Vec<String> = joined(vec![tcp(8000, 80), port(8000, 80, "udp"), tcp(8002, 82), tcp(8001, 81)]);
    assert_eq!(together, ["127.0.0.1:8000 80/udp", "127.0.0.1:8000-8002 80-82/tcp"]);
    let apart: Vec<String> = joined(vec![tcp(8000, 80), tcp(8001, 80), tcp(8003, 81)]);
    assert_eq!(apart.len(), 3);
}

#[test]
fn no_text_leaves_its_box_and_no_box_lies_on_another() {
    let scenes: Vec<Scene> = [usual(), foreign(), evil(), many(1), many(200)]
        .iter()
        .flat_map(|one| [scene(one, false), scene(one, true)])
        .collect();
    for picture in scenes.iter().map(place) {
        for (at, shape) in picture.shapes.iter().enumerate() {
            let (right, bottom) = (shape.at.0 + shape.size.0, shape.at.1 + shape.size.1);
            for one in shape.texts.iter().filter(|one| one.pen != Pen::Gap) {
                let end = one.at.0 + one.text.width() as f64 * one.pen.size().1;
                assert!(one.at.0 >= shape.at.0 && end <= right, "{one:?} is not in {shape:?}");
                assert!(one.at.1 - one.pen.size().0 >= shape.at.1 && one.at.1 <= bottom, "{one:?} is not in {shape:?}");
            }
            assert!(right <= picture.size.0 && bottom <= picture.size.1, "{shape:?} is not in the picture");
            for other in &picture.shapes[at + 1..] {
                let apart = |a: f64, wide: f64, b: f64, other: f64| a + wide <= b || b + other <= a;
                let beside = apart(shape.at.0, shape.size.0, other.at.0, other.size.0);
                assert!(beside || apart(shape.at.1, shape.size.1, other.at.1, other.size.1), "{shape:?}\n{other:?}");
            }
        }
    }
}

#[test]
fn evil_names_stay_names() {
    let scene = scene(&evil(), true);
    let drawn = [text(&scene, LOOK), svg(&scene), dot(&scene), mermaid(&scene)];
    for drawn in &drawn {
        let control = drawn.chars().find(|c| (c.is_control() && *c != '\n') || *c == '\u{202e}');
        assert_eq!(control, None, "{drawn}");
    }
    let [_, svg, dot, mermaid] = drawn;
    assert!(!svg.contains("<script") && svg.matches("</text>").count() == svg.matches("<text").count(), "{svg}");
    // Every quote that is not escaped begins or ends a string, and each line has both.
    for line in dot.lines() {
        let quotes = line.replace("\\\\", "").replace("\\\"", "").matches('"').count();
        assert!(quotes.is_multiple_of(2), "{line}");
    }
    for line in mermaid.lines() {
        let inside: String = line.split('"').skip(1).step_by(2).collect();
        let plain = inside.replace("<br/>", "");
        assert!(!plain.contains(['<', '>', '[', ']', '`', '|', '*', '&', '\\']), "{line}");
    }
}

#[test]
fn colours_are_only_where_they_are_wanted() {
    let scene = scene(&usual(), false);
    let plain = text(&scene, LOOK);
    let colored = text(&scene, Look { color: true, ..LOOK });
    assert!(!plain.contains('\u{1b}') && colored.contains("\u{1b}[1mweb\u{1b}[0m"), "{colored}");
    let parts = colored.split('\u{1b}');
    let bare: String =
        parts.enumerate().map(|(at, part)| if at == 0 { part } else { part.split_once('m').unwrap().1 }).collect();
    assert_eq!(bare, plain);
}

#[test]
fn only_what_was_named_is_drawn() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let drawn = |named: &[&str]| text(&scene(&select(foreign(), &words(named)).unwrap(), false), LOOK);
    let db = drawn(&["db"]);
    assert!(db.contains("eth0") && db.contains("back") && db.contains("10.214.17.3"), "{db}");
    assert!(!db.contains("cache") && !db.contains("front") && !db.contains("docker0") && !db.contains("lab"), "{db}");
    let back = drawn(&["back"]);
    assert!(back.contains("web") && back.contains("cache") && !back.contains("10.214.16.2"), "{back}");
    let both = drawn(&["db", "docker0"]);
    assert!(both.contains("pg (docker)") && both.contains("tap0") && both.contains("db"), "{both}");
    assert!(drawn(&["sleep"]).contains("sleep (pid 77)"));
    let error = select(foreign(), &words(&["db", "nobody"])).unwrap_err();
    assert!(format!("{error:#}").contains("draw `nobody`: there is no"), "{error:#}");
}
