//! Managed networks in the kernel: which bridge, which rules, and what of them is missing.
//!
//! [`Bridge::find`] looks at what there is of one network; [`ground`] lists the steps that are not done yet for those that a
//! container is to be on, which is none on the way of almost every start; [`Bridge::attach`] lists a container's own steps;
//! [`made`] lists what there is, to be undone.

use std::net::IpAddr;

use anyhow::Result;
use ipnet::{IpNet, Ipv4Net};

use super::definition::{Definition, alias_of};
use super::driver::{Beside, Driver, configure, has_ipv6, own6, settings};
pub use super::driver::{mac_of, same_network6};
use super::guard::Guard;
use super::hub::{self, Link, View};
use super::options::{options_of, port_options};
use super::origin::Origin;
use super::program::{Direction, Filter};
use super::rate;
use super::rtnl::Rtnl;
use super::rules::{skeleton, wanted};
use super::step::{Place, Step};
use super::table::{
    BRIDGES, CLOSED, Change, Element, GATEWAYS4, GATEWAYS6, GUARDED, MEMBERS4, MEMBERS6, OUTWARD, OWN4, OWN6, Value,
    WITHIN, element, link_in,
};
use super::{Interface, macvlan, ptp, vxlan};
use crate::error::refused;

/// The bridge of a network, as it is to be and as it stands; of one that has none, the parent of its links or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// What is to be.
    pub definition: Definition,
    /// The link, where there is one.
    pub link: Option<Link>,
    /// Whether it has its IPv4 address.
    pub addressed: bool,
    /// The IPv6 addresses that it has, where it is to have some.
    pub addresses6: Vec<IpAddr>,
    /// What its driver has besides.
    pub beside: Beside,
}

impl Bridge {
    /// That of a network of which nothing is there, or nothing that is looked at.
    pub fn unmade(definition: Definition) -> Self {
        Self { definition, link: None, addressed: false, addresses6: vec![], beside: Beside::Nothing }
    }

    /// Looks at what there is.
    ///
    /// Errors: the link is somebody else's, or has another address.
    pub fn find(rtnl: &mut Rtnl, view: &View, definition: Definition) -> Result<Self> {
        match definition.driver {
            Driver::Macvlan => return macvlan::find(rtnl, definition),
            // Which of its ends is which is looked at when one is taken.
            Driver::Ptp => return Ok(Self::unmade(definition)),
            Driver::Bridge | Driver::Vxlan => {}
        }
        let name = &definition.link;
        let link = view.link(name).cloned();
        if let Some(link) = &link
            && !(link.bridge && (link.alias == definition.alias() || is_begun(link, &definition)))
        {
            return Err(refused(
                format!("use bridge `{name}`: the host has a link of that name that is not minirun's"),
                format!("rename it (`ip link set {name} name NAME`) or delete it (`ip link del {name}`)"),
            ));
        }
        let address = link.as_ref().map(|link| hub::address_of(rtnl, link.index)).transpose()?.flatten();
        if let Some(address) = address.filter(|address| *address != definition.gateway) {
            return Err(refused(
                format!("use bridge `{name}`: it has the address {address}, and not {}", definition.gateway),
                format!("`ip link del {name}`: it is made again"),
            ));
        }
        let addresses6 = match (definition.gateway6, &link) {
            (Some(_), Some(link)) => hub::addresses6_of(rtnl, link.index)?,
            _ => vec![],
        };
        let beside = match definition.driver {
            Driver::Vxlan => Beside::Vxlan(vxlan::find(rtnl, view, &definition)?),
            _ => Beside::Nothing,
        };
        Ok(Self { addressed: address.is_some(), addresses6, definition, link, beside })
    }

    /// What there is of the network that is there without being defined: its gateway is what its bridge has.
    pub fn gateway_of_default(rtnl: &mut Rtnl, view: &View) -> Result<Option<Ipv4Net>> {
        let name = super::definition::BRIDGE;
        let Some(link) = view.link(name) else { return Ok(None) };
        let address = hub::address_of(rtnl, link.index)?;
        if let Some(address) = address.filter(|address| !(8..=30).contains(&address.prefix_len())) {
            return Err(refused(
                format!("use bridge `{name}`: its address {address} leaves none for containers"),
                format!("`ip link del {name}`: it is made again"),
            ));
        }
        Ok(address)
    }

    /// The network that is there without being defined; `None` where its bridge has not been made yet, or is somebody else's.
    pub fn default_network(rtnl: &mut Rtnl) -> Result<Option<Definition>> {
        let name = super::definition::BRIDGE;
        let view = View::take(rtnl, &[name], &[])?;
        if view.link(name).is_none_or(|link| link.alias != alias_of(super::mode::DEFAULT)) {
            return Ok(None);
        }
        Ok(Self::gateway_of_default(rtnl, &view)?.map(Definition::default_network))
    }

    /// The steps that are not done yet, but for the rules.
    fn missing(&self, view: &View) -> Vec<Step> {
        let Definition { link: name, gateway, gateway6, .. } = &self.definition;
        let mut missing = Vec::new();
        // One that a killed command began has no alias: that comes last.
        let is_begun = self.link.as_ref().is_some_and(|link| link.alias.is_empty());
        if self.link.is_none() {
            let mut options = options_of(&self.definition, true);
            // Groups are few here and hosts near; what a container says of them could cut others off from theirs.
            options.push(("mcast_snooping", 0));
            missing.push(Step::AddBridge { name: name.clone(), mac: mac_of(gateway.addr()), options });
        }
        if self.link.is_none() || is_begun {
            match gateway6 {
                None if view.ipv6 => missing.push(sysctl(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1")),
                None => {}
                Some(_) => {
                    missing.push(Step::NoLinkLocal { place: Place::Hub, link: name.clone() });
                    // What a container says of routers is not heard.
                    missing.push(sysctl(&format!("net/ipv6/conf/{name}/accept_ra"), "0"));
                }
            }
            // Before it is up, and before the rules.
            missing.extend(Filter::Guard(Guard::of(&self.definition)).at(Place::Hub, name, Direction::Out));
            missing.push(Step::SetAlias { link: name.clone(), alias: self.definition.alias() });
        }
        let address = |address: IpNet| Step::AddAddress { place: Place::Hub, link: name.clone(), address };
        missing.extend((!self.addressed).then(|| address((*gateway).into())));
        let own6 = own6(&self.definition).filter(|net| !self.addresses6.contains(&net.addr().into()));
        missing.extend(own6.map(|net| address(net.into())));
        if !self.link.as_ref().is_some_and(|link| link.up) {
            missing.push(Step::SetUp { place: Place::Hub, link: name.clone() });
        }
        if let Beside::Vxlan(tunnel) = &self.beside {
            missing.extend(vxlan::missing(view, &self.definition, tunnel, self.link.as_ref()));
        }
        missing
    }

    /// The settings by which its containers' packets are passed on, that are not made yet.
    fn unopened(&self, view: &View) -> Vec<String> {
        let name = &self.definition.link;
        let there = self.link.as_ref();
        let mut keys = Vec::new();
        keys.extend((!there.is_some_and(|link| link.forwarding)).then(|| forwarding(name)));
        if self.definition.gateway6.is_some() && !there.is_some_and(|link| link.forwarding6) {
            keys.extend(view.forwarding6_key(name));
        }
        keys
    }

    /// The steps that bring a container's end onto the bridge and make it usable.
    pub fn attach(&self, view: &View, id: &str, interface: &Interface) -> Vec<Step> {
        match &self.beside {
            _ if self.definition.driver == Driver::Macvlan => return macvlan::attach(self, view, interface),
            Beside::Ptp(end) => return ptp::attach(self, end, view, interface),
            _ => {}
        }
        let hub = Place::Hub;
        let (host, name) = (&interface.host, &interface.name);
        let mut steps = vec![Step::AddVeth {
            host: host.clone(),
            mtu: interface.mtu,
            peer: name.clone(),
            peer_mac: interface.mac,
            peer_index: interface.index,
        }];
        if !interface.spoof {
            // Before the link is up: no frame is not looked at.
            let (address, address6) = (interface.address.addr(), interface.address6.map(|net| net.addr()));
            let origin = Origin { mac: interface.mac, address, address6 };
            steps.extend(Filter::Origin(origin).at(hub, host, Direction::In));
        }
        if has_ipv6(view, interface) {
            steps.push(Step::NoLinkLocal { place: hub, link: host.clone() });
        }
        steps.push(Step::SetUp { place: hub, link: host.clone() });
        // What the container receives leaves by the host's end.
        steps.extend(rate::shape(hub, host, interface.rates().received, interface.mtu));
        steps.extend(configure(view, &self.definition, interface));
        // Last, when both ends are up: each change of a port has the bridge look at all of them.
        steps.push(Step::SetPort {
            link: host.clone(),
            bridge: self.definition.link.clone(),
            alias: format!("minirun:{}:{}", id.get(..12).unwrap_or(id), self.definition.name),
        });
        let options = port_options(&self.definition, &interface.port);
        let set = |(option, value)| Step::SetPortOption { link: host.clone(), option, value };
        steps.extend(options.into_iter().map(set));
        steps.extend(settings(view, interface));
        steps
    }
}

/// Whether a killed command began to make the bridge: it is down and has the hardware address that follows from the gateway's.
fn is_begun(link: &Link, definition: &Definition) -> bool {
    link.alias.is_empty() && !link.up && link.mac == mac_of(definition.gateway.addr())
}

/// What has to be done before a container can be attached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ground {
    /// The steps.
    pub missing: Vec<Step>,
    /// The settings of the host's own links that they turn on.
    pub opened: Vec<String>,
    /// Whether what earlier commands opened is no longer minirun's business: the host has become a router.
    pub forgotten: bool,
}

/// What is missing for these bridges. `others` are all networks that have a bridge: their part of the rules comes back with
/// a table that is made anew. `opened_before` are settings that earlier commands turned on: their guard comes back with a
/// table that somebody flushed, and goes when somebody makes the whole host a router.
pub fn ground(
    view: &View,
    bridges: &[Bridge],
    others: impl FnOnce() -> Vec<Definition>,
    opened_before: &[String],
) -> Ground {
    // What has no bridge needs nothing of the host.
    let bridges: Vec<&Bridge> = bridges.iter().filter(|bridge| bridge.definition.driver.has_bridge()).collect();
    if bridges.is_empty() {
        return Ground::default();
    }
    let mut missing: Vec<Step> = bridges.iter().flat_map(|bridge| bridge.missing(view)).collect();
    let forgotten = view.router && opened_before.iter().any(|key| key.starts_with("net/ipv4/"));
    let opened_before: Vec<&String> =
        opened_before.iter().filter(|key| !(forgotten && key.starts_with("net/ipv4/"))).collect();
    let closed = closed(view, &bridges);
    // The rules come before forwarding, so that at no moment more is passed on than they allow.
    let table_is_right = view.table.as_ref() == Some(&wanted()) && !forgotten;
    let mut guarded: Vec<String> = closed.iter().flat_map(|key| guarded_by(key, view)).collect();
    if table_is_right {
        for (bridge, there) in bridges.iter().zip(&view.elements) {
            if !there {
                missing.extend(elements(&bridge.definition).into_iter().map(add));
            }
        }
    } else {
        missing.extend(view.table.as_ref().map(|_| Step::Nft(Change::DeleteTable)));
        missing.extend(skeleton().into_iter().map(Step::Nft));
        let others = others();
        let more = bridges.iter().map(|bridge| &bridge.definition);
        let more = more.filter(|one| !others.iter().any(|other| other.name == one.name));
        missing.extend(others.iter().chain(more).flat_map(elements).map(add));
        guarded.extend(opened_before.iter().flat_map(|key| guarded_by(key, view)));
    }
    guarded.sort();
    guarded.dedup();
    missing.extend(guarded.iter().map(|link| add(link_in(&GUARDED, link))));
    missing.extend(bridges.iter().flat_map(|bridge| bridge.unopened(view)).map(|key| sysctl(&key, "1")));
    missing.extend(closed.iter().map(|key| sysctl(key, "1")));
    Ground { missing, opened: closed, forgotten }
}

/// The settings of the host's own links that have to be turned on, so that packets find their way out and back. Links that
/// somebody made by hand are among them: whoever is behind one may be a container's peer. They are shut again, and their guards
/// taken away, by `system prune`, also where such a link is gone: one that comes back with its settings (`lent/`) is guarded still.
fn closed(view: &View, bridges: &[&Bridge]) -> Vec<String> {
    let own = |link: &&Link| link.up && !link.loopback && !link.alias.starts_with("minirun:");
    let mut keys: Vec<String> =
        view.links.iter().filter(own).filter(|link| !link.forwarding).map(|link| forwarding(&link.name)).collect();
    if bridges.iter().any(|bridge| bridge.definition.gateway6.is_some()) {
        let closed6 = view.links.iter().filter(own).filter(|link| !link.forwarding6);
        keys.extend(closed6.filter_map(|link| view.forwarding6_key(&link.name)));
    }
    keys.sort();
    keys.dedup();
    keys
}

/// The links whose packets are passed on by a setting, of those that there are.
fn guarded_by(key: &str, view: &View) -> Vec<String> {
    let own = |link: &&Link| !link.loopback && !link.alias.starts_with("minirun:");
    let of_all = key == hub::FORWARDING6_OF_ALL;
    let named = |link: &&Link| of_all || key.split('/').nth(3) == Some(link.name.as_str());
    view.links.iter().filter(own).filter(named).map(|link| link.name.clone()).collect()
}

pub(super) fn add(element: Element) -> Step {
    Step::Nft(Change::AddElement(element))
}

/// What of the table is of one network.
pub fn elements(network: &Definition) -> Vec<Element> {
    if !network.driver.has_bridge() {
        return vec![];
    }
    let link = &network.link;
    let named = || Value::Link(link.clone());
    let mut all = vec![link_in(&BRIDGES, link)];
    if !network.isolate {
        all.push(element(&WITHIN, vec![named(), named()]));
    }
    all.push(link_in(if network.internal { &CLOSED } else { &OUTWARD }, link));
    let gateway = network.gateway.addr();
    all.push(element(&OWN4, vec![named(), Value::Ipv4(gateway)]));
    all.push(element(&GATEWAYS4, vec![Value::Ipv4(gateway)]));
    let members = |set, first: IpAddr, last: IpAddr| Element {
        end: vec![named(), last.into()],
        ..element(set, vec![named(), first.into()])
    };
    let pool = network.gateway.trunc();
    all.push(members(&MEMBERS4, pool.network().into(), pool.broadcast().into()));
    if let Some(net) = network.gateway6 {
        all.push(element(&OWN6, vec![named(), Value::Ipv6(net.addr())]));
        all.push(element(&GATEWAYS6, vec![Value::Ipv6(net.addr())]));
        all.push(members(&MEMBERS6, net.network().into(), net.broadcast().into()));
    }
    all
}

fn forwarding(link: &str) -> String {
    format!("net/ipv4/conf/{link}/forwarding")
}

pub(super) fn sysctl(key: &str, value: &str) -> Step {
    Step::Sysctl { place: Place::Hub, key: key.into(), value: value.into() }
}

#[cfg(test)]
mod tests {
    use super::super::table::CHAINS;
    use super::super::table::Table;
    use super::*;

    fn view() -> View {
        let link =
            |name: &str, up, forwarding| Link { name: name.into(), up, forwarding, mtu: 1400, ..Link::default() };
        View {
            links: vec![link("eth0", true, false), link("eth1", false, false), link("docker0", true, true)],
            uplink: Some(link("eth0", true, false)),
            ipv6: true,
            ..View::default()
        }
    }

    fn default_network() -> Definition {
        Definition::default_network("10.214.0.1/20".parse().unwrap())
    }

    fn there() -> Bridge {
        let link = Link {
            name: "minirun0".into(),
            up: true,
            forwarding: true,
            bridge: true,
            alias: default_network().alias(),
            ..Link::default()
        };
        Bridge { link: Some(link), addressed: true, ..Bridge::unmade(default_network()) }
    }

    #[test]
    fn only_links_that_need_it_are_opened_and_rules_come_first() {
        let found = ground(&view(), &[Bridge::unmade(default_network())], Vec::new, &[]);
        assert_eq!(found.opened, ["net/ipv4/conf/eth0/forwarding"]);
        let guard = add(link_in(&GUARDED, "eth0"));
        let at = |wanted: &Step| found.missing.iter().position(|step| step == wanted).unwrap();
        assert!(at(&guard) < at(&sysctl("net/ipv4/conf/eth0/forwarding", "1")));
    }

    #[test]
    fn a_flushed_table_comes_back_with_its_guard() {
        let mut view = view();
        view.links[0].forwarding = true;
        view.links.extend(there().link);
        let before = [forwarding("eth0"), forwarding("gone0")];
        let found = ground(&view, &[there()], Vec::new, &before);
        assert!(found.opened.is_empty());
        let guard = add(link_in(&GUARDED, "eth0"));
        assert!(found.missing.contains(&guard));
        view.table = Some(wanted());
        view.elements = vec![true];
        assert_eq!(ground(&view, &[there()], Vec::new, &before).missing, []);
        // Only its own part.
        let other = ground(&View { elements: vec![false], ..view.clone() }, &[there()], Vec::new, &before);
        assert_eq!(other.missing, elements(&default_network()).into_iter().map(add).collect::<Vec<_>>());
        // Flushed rules leave the table; a host that became a router needs no guard.
        let flushed = Table { rules: [Some(0); CHAINS.len()], ..wanted() };
        assert!(ground(&View { table: Some(flushed), ..view.clone() }, &[there()], Vec::new, &[]).missing.len() > 5);
        let router = ground(&View { router: true, ..view.clone() }, &[there()], Vec::new, &before);
        assert!(router.forgotten && !router.missing.contains(&guard), "{:?}", router.missing);
    }
}
