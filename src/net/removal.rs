//! Managed networks are taken off the host: all of them, or one with its definition.

use std::path::Path;

use anyhow::Result;
use ipnet::Ipv4Net;
use nix::fcntl::FlockArg;

use super::apply::Applier;
use super::change::delete_link;
use super::definition::{Definition, Definitions, alias_of};
use super::driver::Driver;
use super::hub::{self, View};
use super::look::lock;
use super::network::{Ground, add, elements, sysctl};
use super::opened::{forget_opened, opened_before};
use super::ports::delete;
use super::rtnl::Rtnl;
use super::step::Step;
use super::table::{Change, GUARDED};
use super::{Interface, ipam, vxlan};
use crate::error::refused;
use crate::state::{self, Record};

/// Takes the managed networks, their table and the forwarding that came with them off the host, unless a container is on one
/// of them: the kernel knows, whoever started it. The names of the bridges that were there; `None` if there was nothing.
pub fn take_down(data_root: &Path) -> Result<Option<Vec<String>>> {
    let mut all = networks(data_root)?;
    let mut rtnl = Rtnl::open()?;
    let directory = hub::directory(&rtnl)?;
    let _turn = lock(&directory, FlockArg::LockExclusive)?;
    let view = all_unused(&mut rtnl, &all)?;
    // What has no bridge leaves nothing of its own on the host, and a cable's end that waits goes with its container.
    all.retain(|network| network.driver.has_bridge());
    let steps = made(&view, &all, &directory, true);
    Applier::new(&mut rtnl, 0).undo(&steps)?;
    // The lock and the leases stay: others may be waiting for the one and hold the other.
    let _ = std::fs::remove_file(directory.join("opened"));
    let bridges = steps.iter().filter_map(|step| match step {
        Step::AddBridge { name, .. } => Some(name.clone()),
        _ => None,
    });
    Ok((!steps.is_empty()).then(|| bridges.collect()))
}

/// Takes back the steps by which networks were made a moment ago, unless a container is on one of them by now.
pub(super) fn take_back(rtnl: &mut Rtnl, data_root: &Path, directory: &Path, ground: &Ground) -> Result<()> {
    let _turn = lock(directory, FlockArg::LockExclusive)?;
    all_unused(rtnl, &networks(data_root)?)?;
    Applier::new(rtnl, 0).undo(&ground.missing)?;
    if !ground.missing.contains(&Step::Nft(Change::AddTable)) {
        // In a table that is older, the guards are not: they came with what was opened.
        let guards = ground.missing.iter().filter_map(|step| match step {
            Step::Nft(Change::AddElement(one)) if *one.set == GUARDED => Some(Change::DeleteElement(one.clone())),
            _ => None,
        });
        delete(Some(directory), guards.collect())?;
    }
    forget_opened(directory, &ground.opened)
}

fn networks(data_root: &Path) -> Result<Vec<Definition>> {
    let mut all = Definitions::open(data_root).list()?;
    all.push(Definition::default_network(Ipv4Net::default()));
    Ok(all)
}

/// Refuses where a container is on one of them. What there is of their links.
fn all_unused(rtnl: &mut Rtnl, networks: &[Definition]) -> Result<View> {
    let links: Vec<String> = networks.iter().flat_map(links_of).collect();
    let view = View::take(rtnl, &links.iter().map(String::as_str).collect::<Vec<_>>(), &[])?;
    for network in networks.iter().filter(|network| network.driver.has_bridge()) {
        unused(rtnl, &view, network)?;
    }
    Ok(view)
}

/// The host's ends of a container's interfaces go, where others stay in its namespace: its addresses are another's from now on.
pub fn unplug(interfaces: &[Interface]) -> Result<()> {
    let mut rtnl = Rtnl::open()?;
    let ends = interfaces.iter().map(|interface| interface.host.as_str()).filter(|host| !host.is_empty());
    ends.into_iter().try_for_each(|host| delete_link(&mut rtnl, host))
}

/// The same for a container whose holder was killed.
pub fn unplug_lost(record: &Record) -> Result<()> {
    // Of another boot, or in another network namespace, they are not there, or are another's.
    if record.boot != state::boot_id() || record.hub != Some(hub::number(&Rtnl::open()?)?) {
        return Ok(());
    }
    unplug(&record.interfaces)
}

/// Takes one network off the host, and its definition.
///
/// Errors: containers are on it; `members` tells their names.
pub fn remove(data_root: &Path, name: &str, members: impl FnOnce() -> Result<Vec<String>>) -> Result<()> {
    let definitions = Definitions::open(data_root);
    let _writing = definitions.lock()?;
    let network = definitions.find(name)?;
    let mut rtnl = Rtnl::open()?;
    let directory = hub::directory(&rtnl)?;
    let _turn = lock(&directory, FlockArg::LockExclusive)?;
    let names = members()?;
    if !names.is_empty() {
        return Err(refused(
            format!("remove network `{name}`: in use by {}", names.join(", ")),
            format!("end them first: `minirun stop {}`", names.join(" ")),
        ));
    }
    let links = links_of(&network);
    let links: Vec<&str> = links.iter().map(String::as_str).collect();
    let view = View::take(&mut rtnl, &links, &elements(&network))?;
    if network.driver.has_bridge() {
        unused(&mut rtnl, &view, &network)?;
    } else {
        unheld(&directory, &network)?;
    }
    let steps = made(&view, std::slice::from_ref(&network), &directory, false);
    Applier::new(&mut rtnl, 0).undo(&steps)?;
    for file in ["leases", "leases6", "ends"].map(|kind| format!("{kind}.{name}")) {
        let _ = std::fs::remove_file(directory.join(file));
    }
    definitions.remove(name)
}

/// The links of a network on the host that are minirun's to take away.
fn links_of(network: &Definition) -> Vec<String> {
    match network.driver {
        Driver::Bridge => vec![network.link.clone()],
        Driver::Vxlan => vec![network.link.clone(), vxlan::link_of(network)],
        Driver::Macvlan | Driver::Ptp => vec![],
    }
}

/// Refuses where somebody has an address of the network: a container of another `--root`.
fn unheld(directory: &Path, network: &Definition) -> Result<()> {
    if ipam::is_in_use(directory, network)? {
        let message =
            format!("remove network `{}`: a container that was started with another --root is on it", network.name);
        return Err(refused(message, "end it first"));
    }
    Ok(())
}

/// Waits a moment until no container is on the bridge: the kernel takes the link of one that has ended away a moment later.
fn unused(rtnl: &mut Rtnl, view: &View, network: &Definition) -> Result<()> {
    let Some(bridge) = view.link(&network.link) else { return Ok(()) };
    let tunnel =
        view.link(&vxlan::link_of(network)).filter(|link| link.alias == network.alias()).map(|link| link.index);
    let mut ports = rtnl.count_ports(bridge.index, tunnel)?;
    for _ in 0..20 {
        if ports == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        ports = rtnl.count_ports(bridge.index, tunnel)?;
    }
    if ports > 0 {
        let message = format!("remove bridge `{}`: {ports} links are on it", network.link);
        return Err(refused(message, "see `minirun ps`, and `bridge link` for what else is plugged in"));
    }
    Ok(())
}

/// The steps that, undone in reverse, take networks off a host that has them: links, and, with `all`, the table and forwarding
/// where minirun turned it on. Without `all` there is one network, whose [`elements`] the view was asked for.
pub fn made(view: &View, networks: &[Definition], directory: &Path, all: bool) -> Vec<Step> {
    let mut steps = Vec::new();
    if all {
        let opened = opened_before(directory).into_iter().filter(|key| !(view.router && key.starts_with("net/ipv4/")));
        steps.extend(opened.map(|key| sysctl(&key, "1")));
        steps.extend(view.table.as_ref().map(|_| Step::Nft(Change::AddTable)));
    } else if view.table.is_some() {
        // A transaction that is refused takes 15 ms, and a network that was never used has none of them.
        let elements = networks.iter().flat_map(elements).zip(&view.elements);
        steps.extend(elements.filter(|(_, there)| **there).map(|(element, _)| add(element)));
    }
    for network in networks {
        if network.driver == Driver::Vxlan {
            let (name, tunnel) = (vxlan::link_of(network), vxlan::tunnel(network));
            let there = view.link(&name).filter(|link| link.alias == alias_of(&network.name));
            steps.extend(there.map(|_| Step::AddVxlan { name, mtu: 0, tunnel }));
        }
        let link = view.link(&network.link).filter(|link| link.alias == alias_of(&network.name));
        steps.extend(link.map(|link| Step::AddBridge { name: link.name.clone(), mac: [0; 6], options: vec![] }));
    }
    steps
}
