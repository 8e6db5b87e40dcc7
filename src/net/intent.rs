//! What is to be: the networks that have a bridge or live members, and the containers that run, as the steps that made them.
//!
//! Used by `reload.rs`. The steps are derived again, from definitions and records, by the functions that a start uses.

use std::path::{Path, PathBuf};

use anyhow::Result;
use ipnet::Ipv4Net;

use std::collections::HashMap;

use super::decide::{MOST_INTERFACES, Part, published};
use super::definition::{BRIDGE, Definition, Definitions};
use super::driver::{Beside, Driver};
use super::hub::{self, View};
use super::lent::Device;
use super::look;
use super::mode::DEFAULT;
use super::network::{self, Bridge, Ground, mac_of};
use super::opened::opened_before;
use super::publish::Port;
use super::rtnl::Rtnl;
use super::seen;
use super::step::{Place, Step};
use super::table::Change;
use super::{ptp, tap, vxlan};
use crate::state::{Found, Record, State};

/// What is to be on this host.
#[derive(Debug)]
pub struct Intent {
    /// The networks.
    pub networks: Vec<Definition>,
    /// The containers that run and have a network of their own here.
    pub containers: Vec<Member>,
    /// Names of networks that containers are on and that are not defined any more.
    pub undefined: Vec<(String, String)>,
    /// The hub's directory.
    pub directory: PathBuf,
    /// The links of cables both of whose ends containers have.
    pub plugged: Vec<String>,
    /// How many bytes a packet has at most on the way that a network's tunnel sends by.
    underlays: HashMap<String, u32>,
    view: View,
}

/// A container that runs.
#[derive(Debug)]
pub struct Member {
    /// As it was found.
    pub found: Found,
    /// Its first process.
    pub pid: i32,
    /// What is to be of it.
    pub steps: Vec<Step>,
}

impl Intent {
    /// All that is to be in this hub.
    pub fn look(rtnl: &mut Rtnl, root: &Path, data_root: &Path) -> Result<Self> {
        let directory = hub::directory(rtnl)?;
        let number = hub::number(rtnl)?;
        let mut found = State::open(root)?.list()?;
        found.retain(|found| found.status.lives() && is_own(&found.record, number));
        let definitions = Definitions::open(data_root);
        let mut all = definitions.list()?;
        let links: Vec<&str> =
            all.iter().filter(|one| one.driver.has_bridge()).map(|one| one.link.as_str()).chain([BRIDGE]).collect();
        let mut view = View::take(rtnl, &links, &[])?;
        all.extend(default_network(rtnl, &view, &found, &definitions)?);
        if view.ipv6 && all.iter().any(|one| one.driver.has_bridge() && one.gateway6.is_some()) {
            view.look_at_ipv6(rtnl)?;
        }
        let has_members = |name: &str| {
            found.iter().any(|found| found.record.interfaces.iter().any(|interface| interface.network == name))
        };
        let mut networks = Vec::new();
        for mut one in all {
            if !view.ipv6 {
                one.gateway6 = None;
            }
            let is_made = is_made(rtnl, &one)?;
            if is_made {
                // Also where somebody has changed what says so: no bridge of minirun's is a link of the host's own.
                let own = view.links.iter_mut().filter(|link| link.name == one.link);
                own.for_each(|link| link.alias = one.alias());
            }
            if is_made || has_members(&one.name) {
                networks.push(one);
            }
        }
        let mut underlays = HashMap::new();
        for one in networks.iter().filter(|one| one.driver == Driver::Vxlan) {
            underlays.insert(one.name.clone(), vxlan::underlay_mtu(rtnl, &view, one).unwrap_or(view.mtu()));
        }
        let (containers, undefined, plugged) = (vec![], vec![], vec![]);
        let mut intent = Self { networks, containers, undefined, directory, plugged, underlays, view };
        // Who is at the ends of each cable.
        let mut ends: HashMap<String, u32> = HashMap::new();
        for found in found {
            if let Some(pid) = found.record.pid {
                let steps = intent.steps_of(&found.record, &mut ends);
                intent.containers.push(Member { found, pid, steps });
            }
        }
        Ok(intent)
    }

    /// What is to be of these networks, whatever there is of it: the steps of a first start. Settings of the host's own links
    /// are among them only where they are not made.
    pub fn ground(&self, networks: &[Definition]) -> Ground {
        let view = View { table: None, elements: vec![], ..self.view.clone() };
        let bridges: Vec<Bridge> = networks.iter().map(|one| self.unmade(one, false)).collect();
        network::ground(&view, &bridges, Vec::new, &opened_before(&self.directory))
    }

    /// The steps that make these networks on a host that has nothing, with the settings `opened` of its own links; `away` are
    /// links that are lent.
    pub fn anew(&self, networks: &[Definition], opened: &[String], away: &[Device]) -> Vec<Step> {
        let mut view = View { table: None, elements: vec![], ..self.view.clone() };
        let at_home = |device: &Device| hub::Link {
            name: device.name.clone(),
            up: true,
            forwarding: true,
            ..hub::Link::default()
        };
        view.links.extend(away.iter().map(at_home));
        for link in &mut view.links {
            let is =
                |family: &str| opened.iter().any(|key| key.starts_with(&format!("net/{family}/conf/{}/", link.name)));
            let (closed, closed6) = (is("ipv4"), is("ipv6") || opened.iter().any(|key| key == hub::FORWARDING6_OF_ALL));
            link.forwarding &= !closed;
            link.forwarding6 &= !closed6;
        }
        let bridges: Vec<Bridge> = networks.iter().map(|one| self.unmade(one, false)).collect();
        if bridges.is_empty() { vec![] } else { network::ground(&view, &bridges, Vec::new, opened).missing }
    }

    /// The steps that make the whole table of the hub, with the parts of all networks and containers.
    pub fn table(&self) -> Vec<Step> {
        let ground = self.ground(&self.networks).missing.into_iter();
        let members = self.containers.iter().flat_map(|member| member.steps.iter().cloned());
        ground.chain(members).filter(|step| matches!(step, Step::Nft(_))).collect()
    }

    /// The network before anything of it is there; of a cable, with or without somebody at its other end.
    fn unmade(&self, definition: &Definition, second: bool) -> Bridge {
        let beside = match definition.driver {
            Driver::Vxlan => {
                let underlay_mtu = self.underlays.get(&definition.name).copied().unwrap_or(self.view.mtu());
                Beside::Vxlan(vxlan::Standing { link: None, underlay_mtu })
            }
            Driver::Ptp if second => Beside::Ptp(ptp::End::Second),
            Driver::Ptp => Beside::Ptp(ptp::End::First { stale: false }),
            Driver::Bridge | Driver::Macvlan => Beside::Nothing,
        };
        Bridge { beside, ..Bridge::unmade(definition.clone()) }
    }

    fn steps_of(&mut self, record: &Record, ends: &mut HashMap<String, u32>) -> Vec<Step> {
        let mut interfaces = record.interfaces.clone();
        let mut bridges = Vec::new();
        for interface in &interfaces {
            match self.networks.iter().find(|one| one.name == interface.network) {
                Some(definition) => {
                    let end = ends.entry(definition.link.clone()).or_default();
                    *end += u32::from(definition.driver == Driver::Ptp);
                    let second = *end > 1;
                    bridges.push(self.unmade(definition, second));
                    self.plugged.extend(second.then(|| definition.link.clone()));
                }
                None => self.undefined.push((record.name.clone(), interface.network.clone())),
            }
        }
        interfaces.retain(|interface| bridges.iter().any(|bridge| bridge.definition.name == interface.network));
        let names = !interfaces.is_empty();
        let part = Part { id: &record.id, interfaces: &interfaces, names, host_access: record.host_access };
        let mut steps = part.steps(&self.view, &bridges.iter().collect::<Vec<_>>());
        // By their addresses, not by the default route: that may have come with a network that was connected later.
        for (interface, bridge) in interfaces.iter().zip(&bridges) {
            let leads_here = |port: &&Port| interface.addresses().any(|address| address == port.target);
            let ports: Vec<Port> = record.ports.iter().filter(leads_here).cloned().collect();
            if !ports.is_empty() {
                steps.extend(published(&ports, &interface.host, &bridge.definition.link, &record.id));
            }
        }
        for device in &record.lent {
            steps.extend(device.steps());
        }
        steps.extend(tap::steps(&record.taps, MOST_INTERFACES as u32 + 2));
        // In a user namespace groups have other numbers, as the host sees them.
        let comparable =
            |key: &str| key.starts_with("net/") && !(record.inside.ids.is_some() && key.ends_with("/ping_group_range"));
        let settings = record.sysctls.iter().filter(|(key, _)| comparable(key));
        steps.extend(settings.map(|(key, value)| Step::Sysctl {
            place: Place::Container,
            key: key.clone(),
            value: value.clone(),
        }));
        steps
    }

    /// Whose a step of the ground is.
    pub fn owner_of(&self, step: &Step) -> String {
        let of = |network: &&Definition| match step {
            Step::AddBridge { name: link, .. }
            | Step::SetAlias { link, .. }
            | Step::AddAddress { link, .. }
            | Step::NoLinkLocal { link, .. }
            | Step::SetPort { link, .. }
            | Step::SetPortOption { link, .. }
            | Step::AddVxlan { name: link, .. }
            | Step::AddFlood { link, .. }
            | Step::AddEntrance { link, .. }
            | Step::AddFilter { link, .. }
            | Step::SetUp { link, .. } => {
                *link == network.link || network.driver == Driver::Vxlan && *link == vxlan::link_of(network)
            }
            Step::Sysctl { key, .. } => key.split('/').nth(3) == Some(&network.link),
            Step::Nft(Change::AddElement(element)) => network::elements(network).contains(element),
            _ => false,
        };
        self.networks.iter().find(of).map_or_else(|| "host".to_owned(), |network| network.name.clone())
    }
}

/// The settings that these steps make in a place.
pub fn settings(steps: &[Step], place: Place) -> Vec<&str> {
    let key = |step| match step {
        &Step::Sysctl { place: other, ref key, .. } if other == place => Some(key.as_str()),
        _ => None,
    };
    steps.iter().filter_map(key).collect()
}

/// Whether a container has a network of its own that was made from this hub.
fn is_own(record: &Record, hub: u64) -> bool {
    let joins =
        record.network == "host" || record.network.starts_with("container:") || record.network.starts_with("ns:");
    !joins && record.hub.is_none_or(|number| number == hub)
}

/// Whether the bridge of a network is there, and minirun's.
fn is_made(rtnl: &mut Rtnl, network: &Definition) -> Result<bool> {
    if !network.driver.has_bridge() {
        return Ok(false);
    }
    let link = rtnl.link_called(&network.link)?.map(|message| seen::link(&message));
    let mac = Some(mac_of(network.gateway.addr()));
    Ok(link.is_some_and(|link| link.is_bridge && (link.alias == network.alias() || link.mac == mac)))
}

/// The network that is there without being defined, where there is something of it: as its members know it, or its bridge,
/// or as the next container would make it.
fn default_network(
    rtnl: &mut Rtnl,
    view: &View,
    found: &[Found],
    definitions: &Definitions,
) -> Result<Option<Definition>> {
    let interfaces = found.iter().flat_map(|found| &found.record.interfaces);
    let own = interfaces.filter(|interface| interface.network == DEFAULT);
    let known = own.filter_map(|own| Ipv4Net::new(own.gateway?, own.address.prefix_len()).ok()).next();
    let gateway = match known {
        Some(gateway) => gateway,
        None if view.link(BRIDGE).is_none() => return Ok(None),
        None => look::default_gateway(rtnl, view, &[], definitions)?,
    };
    Ok(Some(Definition::default_network(gateway)))
}
