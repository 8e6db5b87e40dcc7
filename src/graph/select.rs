//! Reduces the model to containers and networks that were named. Pure.

use std::collections::HashSet;

use anyhow::Result;

use super::model::{End, Graph, Kind, Link, Namespace};
use crate::error::refused;

/// What of the graph belongs to `words`: names or IDs of containers, names of namespaces, of networks or of links of the
/// host. The host's uplinks stay.
///
/// Errors: a word that names nothing.
pub fn select(graph: Graph, words: &[String]) -> Result<Graph> {
    if words.is_empty() {
        return Ok(graph);
    }
    let mut kept = HashSet::new();
    for word in words {
        let before = kept.len();
        containers(&graph, word, &mut kept);
        networks(&graph, word, &mut kept);
        if kept.len() == before && !is_there(&graph, word) {
            let message = format!("draw `{word}`: there is no container, network or link of that name");
            return Err(refused(message, "see `minirun ps`, `minirun network ls` and `ip link`"));
        }
    }
    Ok(reduced(graph, words, &kept))
}

fn is_named(namespace: &Namespace, word: &str) -> bool {
    namespace.names.iter().any(|name| name == word)
        || word.len() >= 4 && namespace.ids.iter().any(|id| id.starts_with(word))
        || namespace.pid.is_some_and(|pid| pid.to_string() == word)
}

fn is_link(link: &Link, word: &str) -> bool {
    link.name == word || link.network.as_deref() == Some(word)
}

/// Whether a word names something, even if no link belongs to it.
fn is_there(graph: &Graph, word: &str) -> bool {
    let mut all = graph.namespaces.iter();
    all.any(|one| is_named(one, word) || one.kind == Kind::Host && one.links.iter().any(|link| is_link(link, word)))
}

/// All links of a container, their other ends, and the bridges that these are on.
fn containers(graph: &Graph, word: &str, kept: &mut HashSet<End>) {
    for namespace in graph.namespaces.iter().filter(|one| one.kind != Kind::Host && is_named(one, word)) {
        for link in &namespace.links {
            kept.insert(End { namespace: namespace.id, link: link.index });
            let Some(peer) = link.peer else { continue };
            kept.insert(peer);
            let master = graph.end(peer).and_then(|(_, link)| link.master);
            kept.extend(master.map(|link| End { link, ..peer }));
        }
    }
}

/// A link of the host, its ports, and the other ends of both; and what containers have of a network without a bridge.
fn networks(graph: &Graph, word: &str, kept: &mut HashSet<End>) {
    for one in graph.namespaces.iter().filter(|one| one.kind != Kind::Host) {
        for link in one.links.iter().filter(|link| link.network.as_deref() == Some(word)) {
            kept.insert(End { namespace: one.id, link: link.index });
            kept.extend(link.peer);
        }
    }
    for host in graph.namespaces.iter().filter(|one| one.kind == Kind::Host) {
        for link in host.links.iter().filter(|link| is_link(link, word)) {
            let own = End { namespace: host.id, link: link.index };
            let ports = host.links.iter().filter(|port| port.index == link.index || port.master == Some(link.index));
            for port in ports {
                kept.insert(End { namespace: host.id, link: port.index });
                kept.extend(port.peer);
            }
            let above = graph.namespaces.iter().flat_map(|one| one.links.iter().map(move |link| (one.id, link)));
            let above = above.filter(|(_, link)| link.peer == Some(own));
            kept.extend(above.map(|(namespace, link)| End { namespace, link: link.index }));
        }
    }
}

fn reduced(mut graph: Graph, words: &[String], kept: &HashSet<End>) -> Graph {
    for namespace in &mut graph.namespaces {
        let uplinks: HashSet<u32> = match namespace.kind {
            Kind::Host => namespace.routes.iter().map(|route| route.link).collect(),
            _ => HashSet::new(),
        };
        let id = namespace.id;
        let stays =
            |link: &Link| uplinks.contains(&link.index) || kept.contains(&End { namespace: id, link: link.index });
        namespace.links.retain(stays);
        if namespace.kind == Kind::Host {
            namespace.names.retain(|name| words.contains(name));
        }
    }
    let named = |one: &Namespace| words.iter().any(|word| is_named(one, word));
    graph.namespaces.retain(|one| one.kind == Kind::Host || !one.links.is_empty() || named(one));
    let links = || graph.namespaces.iter().flat_map(|one| &one.links);
    let has = |address| links().any(|link| link.addresses.iter().any(|net| net.addr() == address));
    let published = graph.published.iter().filter(|port| has(port.target)).cloned().collect();
    Graph { published, nat: vec![], ..graph }
}
