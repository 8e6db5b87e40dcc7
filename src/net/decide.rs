//! What `--net` and `-p` mean, decided: addresses and ports are taken, and the steps listed, before anything is changed.

use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::fcntl::FlockArg;

use super::definition::Definition;
use super::driver::{Beside, Driver};
use super::hub::{self, View};
use super::interface::host_link;
use super::ipam;
use super::lent::Lent;
use super::look::{Look, lock};
use super::network::Bridge;
use super::ports::{elements_of, free};
use super::publish::{self, Port};
use super::rtnl::Rtnl;
use super::step::{Place, Step};
use super::table::Change;
use super::tap;
use super::wish::Wish;
use super::{Attachment, Hub, Interface, Mode, NAMES_PORT, Network, Own, Request, access, dns, lent, ptp, rules};
use crate::error::refused;

/// So many interfaces a container has at most: their ends on the host are numbered by a letter.
pub(super) const MOST_INTERFACES: usize = 20;

impl Network {
    /// Decides the network of a container and takes its addresses, by locks that the kernel gives back. Changes nothing in
    /// the kernel's network; with `dry`, nothing at all.
    pub fn decide(request: &Request<'_>) -> Result<Self> {
        let mode = request.mode.clone();
        let answers =
            dns::Options { servers: request.servers.to_vec(), search: request.search.to_vec(), forward: false };
        let mut network = Self {
            mode,
            interfaces: vec![],
            ports: vec![],
            taps: request.taps.to_vec(),
            lent: vec![],
            way_back: None,
            host_steps: vec![],
            steps: vec![],
            again: vec![],
            hub: None,
            published: vec![],
            names: vec![],
            narrator: None,
            access: vec![],
            answers,
            own: Own {
                id: request.id.to_owned(),
                runs: request.runs,
                data_root: request.data_root.to_owned(),
                state: request.state.to_owned(),
                made: 0,
                has_names: false,
                settings: vec![],
                host_access: request.host_access,
                lender: None,
            },
        };
        match request.mode {
            Mode::Networks(attachments) => network.decide_interfaces(attachments, request)?,
            Mode::None => network.steps.push(Step::SetUp { place: Place::Container, link: "lo".into() }),
            Mode::Host | Mode::Container(_) | Mode::Namespace(_) => {}
        }
        network.decide_lent(request)?;
        network.steps.extend(tap::steps(request.taps, MOST_INTERFACES as u32 + 2));
        if !request.mode.joins() && request.beside.is_none() {
            // Before those that were asked for, which may say otherwise.
            let usual = [("net/ipv4/ping_group_range", "0 2147483647"), ("net/ipv4/ip_unprivileged_port_start", "0")];
            network.own.settings.extend(usual.map(|(key, value)| (key.to_owned(), value.to_owned())));
        }
        network.own.settings.extend_from_slice(request.sysctls);
        network.steps.extend(network.own.settings.iter().map(|(key, value)| inside(key, value)));
        Ok(network)
    }

    fn decide_interfaces(&mut self, attachments: &[Attachment], request: &Request<'_>) -> Result<()> {
        let made = request.beside.map_or(0, |beside| beside.own.made);
        if made + attachments.len() > MOST_INTERFACES {
            return Err(refused(
                format!(
                    "use network `{}`: a container has {MOST_INTERFACES} interfaces at most",
                    attachments[0].network
                ),
                "one that runs counts those that it has had; `minirun restart` begins anew",
            ));
        }
        let mut hub = Hub::look(attachments, request)?;
        let there: &[Interface] = request.beside.map_or(&[], |beside| &beside.interfaces);
        let leads_to_host = |bridge: &Bridge| !bridge.definition.internal && bridge.definition.driver.has_bridge();
        if request.host_access && !hub.bridges.iter().any(leads_to_host) && request.beside.is_none() {
            let message =
                "use --host-access: none of its networks leads to the host: they are internal, or have no bridge";
            return Err(refused(message, "leave out --host-access, or use a network that is not internal"));
        }
        let taps = request.beside.map_or(request.taps, |beside| &beside.taps);
        let lent = &lent::names(request);
        let has_way_out = there.iter().any(|interface| interface.default_route);
        let has_way_out6 = there.iter().any(|interface| interface.default_route6);
        let way_out = default_route(attachments, &hub.bridges, false).filter(|_| !has_way_out);
        let way_out6 = default_route(attachments, &hub.bridges, true).filter(|_| !has_way_out6);
        let mut leases = Vec::new();
        let ends = hub.take_cables(request, &mut self.again)?;
        for ((at, (wish, bridge)), end) in attachments.iter().zip(&hub.bridges).enumerate().zip(ends) {
            bridge.check(wish, &hub.view)?;
            let definition = &bridge.definition;
            let take = if request.dry { ipam::peek } else { ipam::lease };
            let mut lease = take(&hub.directory, definition, wish.ip, wish.ip6)?;
            lease.hold(end);
            let others = || there.iter().chain(&self.interfaces);
            let is_tap = |name: &String| taps.iter().any(|tap| tap.name == *name);
            let is_lent = |name: &String| lent.iter().any(|other| other == name);
            let is_own = |name: &String| request.links.contains(name);
            let is_known = |name: &String| is_tap(name) || is_lent(name) || others().any(|other| other.name == *name);
            let free = |name: &String| !is_known(name) && !is_own(name);
            let name = wish.ifname.clone().or_else(|| (at..).map(|number| format!("eth{number}")).find(free));
            let mut interface = Interface::on(bridge, wish, &lease, &hub.view);
            interface.default_route = way_out == Some(at);
            interface.default_route6 = way_out6 == Some(at);
            interface.name = name.unwrap_or_default();
            // In a new namespace the kernel counts from `lo` on.
            interface.index = if request.beside.is_none() { at as u32 + 2 } else { 0 };
            if interface.host.is_empty() && definition.driver.has_bridge() {
                interface.host = host_link(request.id, request.runs, made + at);
            }
            if is_lent(&interface.name) {
                let message = format!("use network `{}`: `{}` is a link that is lent", wish.network, interface.name);
                return Err(refused(message, "ifname= gives one of them another name"));
            }
            if is_tap(&interface.name) {
                bail!("use network `{}`: `{}` is a tap device", wish.network, interface.name);
            }
            if let Some(other) = others().find(|other| other.name == interface.name) {
                bail!("use network `{}`: network `{}` has `{}` already", wish.network, other.network, other.name);
            }
            if is_own(&interface.name) {
                let message = format!("use network `{}`: the container has a link `{}`", wish.network, interface.name);
                return Err(refused(message, "ifname= gives another name, or leave it out"));
            }
            if interface.announced && definition.driver.has_bridge() && !request.dry {
                lease.mix()?;
            }
            self.interfaces.push(interface);
            leases.push(lease);
        }
        let names = !request.beside.is_some_and(|beside| beside.own.has_names);
        self.own.has_names = true;
        let part = Part { id: request.id, interfaces: &self.interfaces, names, host_access: request.host_access };
        self.steps.extend(part.steps(&hub.view, &hub.bridges.iter().collect::<Vec<_>>()));
        self.host_steps = hub.ground.missing.clone();
        hub.leases = leases;
        self.hub = Some(hub);
        self.own.made = attachments.len();
        if !request.publish.is_empty() {
            let own = self.own.clone();
            self.publish(request.publish, &own, request.dry)?;
        }
        Ok(())
    }

    /// Looks at the links that are to be lent, and lists the steps.
    fn decide_lent(&mut self, request: &Request<'_>) -> Result<()> {
        if request.lent.is_empty() {
            return Ok(());
        }
        let mut rtnl = Rtnl::open()?;
        self.own.lender = Some(hub::number(&rtnl)?);
        self.lent = lent::look(&mut rtnl, request.lent)?;
        let mut has_way_out = self.interfaces.iter().any(|interface| interface.default_route);
        let mut has_way_out6 = self.interfaces.iter().any(|interface| interface.default_route6);
        for (at, wish) in request.lent.iter().enumerate() {
            let name = wish.name();
            let others = request.lent[..at].iter().map(Lent::name);
            if others.chain(request.taps.iter().map(|tap| tap.name.as_str())).any(|other| other == name) {
                let message = format!("lend `{}`: there is another `{name}` in the container", wish.device);
                return Err(refused(message, "ifname= gives it another name there"));
            }
            if has_way_out && wish.gateway.is_some() || has_way_out6 && wish.gateway6.is_some() {
                let message = format!("lend `{}`: the container has a default route already", wish.device);
                return Err(refused(message, "leave out gateway=, or give the other network up"));
            }
            has_way_out |= wish.gateway.is_some();
            has_way_out6 |= wish.gateway6.is_some();
            self.steps.extend(self.lent[at].steps());
        }
        Ok(())
    }

    /// Takes ports that are to be published, for the interface of the default route, and lists the steps. Which.
    pub(super) fn publish(&mut self, wishes: &[Wish], own: &Own, dry: bool) -> Result<Vec<Port>> {
        let hub = self.hub.as_mut().context("publish a port: no network")?;
        let at = self.interfaces.iter().position(|interface| interface.default_route).unwrap_or_default();
        let Definition { link: bridge, driver, .. } = &hub.bridges[at].definition;
        if !driver.has_bridge() {
            return Err(unpublished(&self.interfaces[at]));
        }
        let place = publish::Place { state: &own.state, hub: &hub.directory, dry };
        let taken = publish::take(wishes, &self.interfaces[at], place)?;
        hub.held.extend(taken.held);
        hub.relayed.extend(taken.relayed);
        let ports = taken.ports;
        if !dry {
            free(&ports, &elements_of(&ports, &own.id), &own.state)?;
        }
        self.steps.extend(published(&ports, &self.interfaces[at].host, bridge, &own.id));
        self.ports.extend(ports.iter().cloned());
        Ok(ports)
    }
}

/// What the steps of a container on managed networks are made from: at its start, when a network is connected, and when what
/// there is of it is compared with what is to be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    /// The container's ID.
    pub id: &'a str,
    /// Those of its interfaces that the steps are of.
    pub interfaces: &'a [Interface],
    /// Whether its own table, by which its name server is found, is to be made.
    pub names: bool,
    /// Whether it reaches the host's loopback device.
    pub host_access: bool,
}

impl Part<'_> {
    /// The steps, for interfaces on these bridges.
    pub fn steps(&self, view: &View, bridges: &[&Bridge]) -> Vec<Step> {
        let pairs = self.interfaces.iter().zip(bridges);
        let mut steps: Vec<Step> =
            pairs.flat_map(|(interface, bridge)| bridge.attach(view, self.id, interface)).collect();
        // After the links of the hub, before those of the container.
        let first_inside = steps.iter().position(|step| step.place() == Place::Container);
        let lo = Step::SetUp { place: Place::Container, link: "lo".into() };
        steps.insert(first_inside.unwrap_or(steps.len()), lo);
        if self.names {
            steps.extend(rules::inside(dns::ADDRESS, NAMES_PORT).into_iter().map(Step::NftInside));
            if self.host_access {
                steps.extend(access::rules());
            }
        }
        if self.host_access {
            let ways_out = self.interfaces.iter().zip(bridges).filter(|(_, bridge)| !bridge.definition.internal);
            let elements = ways_out.filter_map(|(interface, _)| interface.host()).flat_map(access::elements);
            steps.extend(elements.map(|element| Step::NftInside(Change::AddElement(element))));
        }
        steps
    }
}

/// The steps by which ports are published for the interface whose end on the host is `link`, a port of `bridge`.
pub(super) fn published(ports: &[Port], link: &str, bridge: &str, id: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    // Where the bridge itself asks the rules (br_netfilter), what a container sends to its own published port comes back by
    // the port that it left by.
    if ["ip", "ip6"].iter().any(|family| is_on(&format!("net/bridge/bridge-nf-call-{family}tables"))) {
        steps.push(Step::SetPortOption { link: link.to_owned(), option: "hairpin", value: 1 });
    }
    let key = format!("net/ipv4/conf/{bridge}/route_localnet");
    if !is_on(&key) && ports.iter().any(Port::is_local) {
        steps.push(Step::Sysctl { place: Place::Hub, key, value: "1".into() });
    }
    steps.extend(elements_of(ports, id).into_iter().map(|element| Step::Nft(Change::AddElement(element))));
    steps
}

impl Hub {
    /// Looks at the networks that a container is to be on, and takes the turn to attach it.
    fn look(attachments: &[Attachment], request: &Request<'_>) -> Result<Self> {
        let mut rtnl = Rtnl::open()?;
        let directory = hub::directory(&rtnl)?;
        // Shared by all that attach containers, so that nobody takes a bridge away meanwhile.
        let turn = if request.dry { None } else { Some(lock(&directory, FlockArg::LockShared)?) };
        let look = Look { attachments, data_root: request.data_root, resolvers: request.resolvers };
        let mut seen = look.at(&mut rtnl, &directory)?;
        if let Some(turn) = turn.as_ref().filter(|_| !seen.2.missing.is_empty()) {
            // Alone, until it is made; and another look, because another command may have made it a moment ago.
            turn.relock(FlockArg::LockExclusive).context("lock the managed networks")?;
            seen = look.at(&mut rtnl, &directory)?;
        }
        let (view, bridges, ground) = seen;
        let number = hub::number(&rtnl)?;
        let (leases, held, relayed, waiting, cables) = (vec![], vec![], vec![], vec![], None);
        Ok(Self {
            rtnl,
            view,
            bridges,
            ground,
            directory,
            number,
            turn,
            is_prepared: false,
            waiting,
            cables,
            leases,
            held,
            relayed,
        })
    }

    /// Takes an end of each cable, with the turn to do so. The locks that say so, a place for each network.
    fn take_cables(&mut self, request: &Request<'_>, again: &mut Vec<ptp::Again>) -> Result<Vec<Option<File>>> {
        let mut locks = Vec::new();
        for bridge in &mut self.bridges {
            if bridge.definition.driver != Driver::Ptp {
                locks.push(None);
                continue;
            }
            if !request.dry && self.cables.is_none() {
                self.cables = Some(ptp::turn(&self.directory)?);
            }
            let (directory, root) = (&self.directory, request.state);
            let taken = ptp::take(&mut self.rtnl, directory, root, &self.view, &bridge.definition, request.dry)?;
            bridge.beside = Beside::Ptp(taken.end);
            again.extend(taken.again);
            locks.push(taken.lock);
        }
        Ok(locks)
    }
}

/// Why a port is not published on a network whose members are not behind the host.
fn unpublished(interface: &Interface) -> anyhow::Error {
    let (network, address) = (&interface.network, interface.address.addr());
    let message = format!("publish a port: network `{network}` has driver {}", interface.driver);
    refused(
        message,
        match interface.driver {
            Driver::Macvlan => format!(
                "leave out -p: the container is reached at its own address, {address}; or give a network of driver bridge \
                 the default route: --net=bridge:gw-prio=1"
            ),
            _ => "only its two containers reach each other there: put the container on a network of driver bridge as well"
                .to_owned(),
        },
    )
}

/// Whether a setting of this namespace is 1; it may not be there.
fn is_on(key: &str) -> bool {
    std::fs::read(Path::new("/proc/sys").join(key)).is_ok_and(|value| value.first() == Some(&b'1'))
}

/// Which of the interfaces has the default route, of IPv4 or of IPv6: the one with the highest priority, the first of
/// equals, and none of a network without a way out.
pub(super) fn default_route(attachments: &[Attachment], bridges: &[Bridge], ipv6: bool) -> Option<usize> {
    let mut best: Option<(usize, i32)> = None;
    for (at, (wish, bridge)) in attachments.iter().zip(bridges).enumerate() {
        let leads_out = !bridge.definition.internal && (!ipv6 || bridge.definition.gateway6.is_some());
        if leads_out && best.is_none_or(|(_, priority)| wish.gw_prio > priority) {
            best = Some((at, wish.gw_prio));
        }
    }
    best.map(|(at, _)| at)
}

fn inside(key: &str, value: &str) -> Step {
    Step::Sysctl { place: Place::Container, key: key.into(), value: value.into() }
}
