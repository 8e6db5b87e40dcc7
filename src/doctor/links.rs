//! Checks of the host's links and routes: forwarding, the filter of reverse paths, MTU, ranges of addresses.

use std::fs;

use anyhow::Result;
use netlink_packet_route::route::RouteType;

use super::{Sight, Trouble};
use crate::net::definition::{BRIDGE, Definition};
use crate::net::pool::overlaps;
use crate::net::rtnl::outgoing;

/// The networks that lead out and whose bridge is made.
fn outward(sight: &Sight) -> impl Iterator<Item = &Definition> {
    sight.networks.iter().filter(|network| !network.internal && sight.view.link(&network.link).is_some())
}

pub fn names(sight: &mut Sight) -> Result<Vec<Trouble>> {
    let foreign = |network: &Definition| {
        let link = sight.view.link(&network.link).filter(|link| !(link.bridge && link.alias == network.alias()))?;
        let (name, network) = (&link.name, &network.name);
        let message = format!("the host has a link `{name}` that is not minirun's: network `{network}` has no bridge");
        Some(Trouble::error(message, format!("ip link set {name} name other0")))
    };
    Ok(sight.networks.iter().filter_map(foreign).collect())
}

pub fn forwarding(sight: &mut Sight) -> Result<Vec<Trouble>> {
    let view = &sight.view;
    let off = |key: String| {
        let name = key.replace('/', ".");
        let message = format!("`{name}` is 0: packets of containers that come in there are not passed on");
        Trouble::error(message, format!("sysctl -w {name}=1"))
    };
    let mut keys = Vec::new();
    for network in outward(sight) {
        for link in view.link(&network.link).into_iter().chain(&view.uplink) {
            if !link.forwarding && !view.router {
                keys.push(format!("net/ipv4/conf/{}/forwarding", link.name));
            }
            // What the look at IPv6 told stands in the list of links.
            let six = view.link(&link.name).is_some_and(|link| link.forwarding6);
            if network.gateway6.is_some() && !six {
                keys.extend(view.forwarding6_key(&link.name));
            }
        }
    }
    keys.sort();
    keys.dedup();
    Ok(keys.into_iter().map(off).collect())
}

/// A strict filter drops what comes in by another link than the one by which it would be answered.
pub fn reverse_path(sight: &mut Sight) -> Result<Vec<Trouble>> {
    let mut ways: Vec<u32> = Vec::new();
    for route in sight.rtnl.routes()? {
        let way = outgoing(&route).filter(|way| !ways.contains(way));
        if route.header.destination_prefix_length == 0 && route.header.kind == RouteType::Unicast {
            ways.extend(way);
        }
    }
    if ways.len() < 2 {
        return Ok(vec![]);
    }
    let read = |link: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter")).unwrap_or_default();
    let mut troubles = Vec::new();
    for index in ways {
        let name = sight.rtnl.link(index)?.as_ref().map(crate::net::hub::link).unwrap_or_default().name;
        // The larger one of the two counts.
        if read("all").trim().max(read(&name).trim()) == "1" {
            let message = format!(
                "`net.ipv4.conf.{name}.rp_filter` is strict, and there are several default routes: what \
                 comes by one and is answered by another is dropped"
            );
            troubles.push(Trouble::warning(message, format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2")));
        }
    }
    Ok(troubles)
}

pub fn mtu(sight: &mut Sight) -> Result<Vec<Trouble>> {
    let Some(uplink) = &sight.view.uplink else { return Ok(vec![]) };
    let most = uplink.mtu;
    let way = format!("the way out by `{}` takes {most}", uplink.name);
    let large = |network: &&Definition| !network.internal && network.mtu.is_some_and(|mtu| mtu > most);
    let network = |network: &Definition| {
        let (name, mtu) = (&network.name, network.mtu.unwrap_or_default());
        let message = format!("packets in network `{name}` have up to {mtu} bytes, and {way}");
        Trouble::warning(message, format!("minirun network rm {name} && minirun network create --mtu {most} {name}"))
    };
    let mut troubles: Vec<Trouble> = sight.networks.iter().filter(large).map(network).collect();
    let defined = |name: &str| {
        sight.networks.iter().find(|network| network.name == name).is_none_or(|one| one.internal || one.mtu.is_some())
    };
    for record in sight.running() {
        let first = record.interfaces.iter().find(|one| one.mtu > most && !defined(&one.network));
        troubles.extend(first.map(|interface| {
            let message =
                format!("packets of container `{}` have up to {} bytes, and {way}", record.name, interface.mtu);
            Trouble::warning(message, format!("minirun restart {}", record.name))
        }));
    }
    Ok(troubles)
}

pub fn ranges(sight: &mut Sight) -> Result<Vec<Trouble>> {
    let mut troubles = Vec::new();
    for Definition { name, link, gateway, .. } in &sight.networks {
        let range = gateway.trunc();
        // Its own address and route end with its name.
        let others = |holder: &str| holder.rsplit(' ').next() != Some(link.as_str());
        let other = sight.taken.iter().find(|taken| overlaps(taken.range, range) && others(&taken.holder));
        troubles.extend(other.map(|other| {
            let message =
                format!("network `{name}` has {range}, and {} of the host's is {}", other.range, other.holder);
            let again = if link == BRIDGE {
                "minirun system prune".to_owned()
            } else {
                format!("minirun network rm {name} && minirun network create {name}")
            };
            Trouble::error(message, again)
        }));
    }
    Ok(troubles)
}
