//! Asks the kernel for the whole network: links, addresses and routes of every namespace, which of them belong together, and
//! what the rules say of ports and of NAT. Called by `minirun graph`; changes nothing.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::AsFd;

use anyhow::Result;

use super::model::{Graph, Kind, Namespace, Nat, Published};
use super::names::Names;
use super::namespaces::{self, Place};
use super::pair::{self, Numbers, View};
use crate::net::nft::survey::{self, Redirected};
use crate::net::publish::{Port, Protocol};
use crate::net::rtnl::Rtnl;
use crate::net::table::{CLOSED, OUTWARD, TABLE};
use crate::state::Record;

/// The machine's network now. `records` are minirun's containers that live.
pub fn gather(records: &[Record], stats: bool) -> Result<Graph> {
    let places = namespaces::find()?;
    let (views, numbers) = look(&places)?;
    let mut names = Names::of(records);
    let mut graph = Graph { published: published(records)?, nat: nat()?, ..Graph::default() };
    for (at, place) in places.iter().enumerate() {
        let seen = views.iter().position(|view| view.id == place.id);
        let called = names.call(place, at == 0);
        graph.namespaces.push(Namespace {
            id: place.id,
            kind: called.kind,
            names: called.names,
            ids: called.ids,
            pid: place.pid,
            seen: seen.is_some(),
            links: seen.map(|seen| pair::links(&views, seen, &numbers, stats)).unwrap_or_default(),
            routes: seen.map(|seen| pair::routes(&views[seen].routes)).unwrap_or_default(),
        });
    }
    mark_bridges(&mut graph)?;
    mark_interfaces(&mut graph, records);
    graph.namespaces.sort_by(|a, b| (a.kind, &a.names, a.id).cmp(&(b.kind, &b.names, b.id)));
    Ok(graph)
}

/// What each namespace has. One that is gone meanwhile, or cannot be entered, is not among them.
fn look(places: &[Place]) -> Result<(Vec<View>, Numbers)> {
    let mut numbers = Numbers::new();
    let mut views = Vec::with_capacity(places.len());
    let mut host = Rtnl::open()?;
    let own = places[0].open();
    for place in &places[1..] {
        if let Some(number) = place.open().and_then(|fd| host.number_of(fd.as_fd()).ok().flatten()) {
            numbers.insert((places[0].id, number), place.id);
        }
    }
    views.push(view(places[0].id, host)?);
    let others: Vec<&Place> = places[1..].iter().collect();
    namespaces::visit(&others, |index, mut rtnl| {
        let id = others[index].id;
        // Most lead to the host, and to nothing else.
        if let Some(number) = own.as_ref().and_then(|own| rtnl.number_of(own.as_fd()).ok().flatten()) {
            numbers.insert((id, number), places[0].id);
        }
        views.extend(view(id, rtnl));
    })?;
    let puzzled: HashSet<u64> =
        views.iter().filter(|view| !pair::unexplained(view, &numbers).is_empty()).map(|view| view.id).collect();
    let asking: Vec<&Place> = others.into_iter().filter(|place| puzzled.contains(&place.id)).collect();
    namespaces::visit(&asking, |index, mut rtnl| {
        for other in places {
            if let Some(number) = other.open().and_then(|fd| rtnl.number_of(fd.as_fd()).ok().flatten()) {
                numbers.insert((asking[index].id, number), other.id);
            }
        }
    })?;
    Ok((views, numbers))
}

fn view(id: u64, mut rtnl: Rtnl) -> Result<View> {
    Ok(View { id, links: rtnl.survey_links()?, addresses: rtnl.survey_addresses()?, routes: rtnl.survey_defaults()? })
}

/// What the rules say of the host's bridges.
fn mark_bridges(graph: &mut Graph) -> Result<()> {
    let (outward, closed) = (survey::links_in(&OUTWARD)?, survey::links_in(&CLOSED)?);
    let host = graph.namespaces.iter_mut().filter(|namespace| namespace.kind == Kind::Host);
    for link in host.flat_map(|host| &mut host.links).filter(|link| link.kind == "bridge") {
        link.masquerade = outward.contains(&link.name);
        link.closed = closed.contains(&link.name);
    }
    Ok(())
}

/// Which interfaces of containers are on a network that has no bridge: nothing on the host says so.
fn mark_interfaces(graph: &mut Graph, records: &[Record]) {
    for record in records {
        let own = graph.namespaces.iter_mut().filter(|one| one.kind != Kind::Host && one.ids.contains(&record.id));
        for link in own.flat_map(|one| &mut one.links) {
            let mut all = record.interfaces.iter().filter(|one| !one.driver.has_bridge() && one.name == link.name);
            link.network = all.next().map(|interface| interface.network.clone());
        }
    }
}

/// The ports in the kernel's table, and those that holders pass on by themselves.
fn published(records: &[Record]) -> Result<Vec<Published>> {
    let relayed = records.iter().flat_map(|record| &record.ports).filter(|port| port.is_relayed());
    let mut all: Vec<Published> = survey::published()?.iter().map(of_rules).chain(relayed.map(of_record)).collect();
    all.sort();
    all.dedup();
    Ok(Published::joined(all))
}

fn of_record(port: &Port) -> Published {
    Published {
        address: port.address,
        host: port.host,
        target: port.target,
        port: port.port,
        count: port.count,
        protocol: port.protocol.to_string(),
    }
}

fn of_rules(found: &Redirected) -> Published {
    let known = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].into_iter().find(|one| one.number() == found.protocol);
    // A range of addresses is all of them.
    let address = match found.addresses {
        (first, last) if first == last => first,
        (IpAddr::V6(_), _) => Ipv6Addr::UNSPECIFIED.into(),
        (IpAddr::V4(_), _) => std::net::Ipv4Addr::UNSPECIFIED.into(),
    };
    Published {
        address,
        host: found.ports.0,
        target: found.target,
        port: found.port.unwrap_or(found.ports.0),
        count: (found.ports.1 - found.ports.0.min(found.ports.1)).saturating_add(1),
        protocol: known.map_or_else(|| found.protocol.to_string(), |known| known.to_string()),
    }
}

/// Whoever else changes the source of packets. No permission to read the rules, or no nftables: nobody that is known of.
fn nat() -> Result<Vec<Nat>> {
    let mut counts: HashMap<(u8, String, String), usize> = HashMap::new();
    for found in survey::masquerades().unwrap_or_default().into_iter().filter(|found| found.table != TABLE) {
        *counts.entry((found.family, found.table, found.chain)).or_default() += 1;
    }
    let family = |number: u8| match number {
        1 => "inet".to_owned(),
        2 => "ip".to_owned(),
        10 => "ip6".to_owned(),
        other => other.to_string(),
    };
    let one = |((number, table, chain), rules)| Nat { family: family(number), table, chain, rules };
    let mut all: Vec<Nat> = counts.into_iter().map(one).collect();
    all.sort();
    Ok(all)
}
