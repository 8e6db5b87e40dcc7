//! The network of a container: what `--net` means, as steps.
//!
//! [`Network::decide`] looks at the kernel, takes addresses and lists the steps, all of it before anything is changed;
//! [`Network::prepare`] makes bridges where they are missing; [`Network::attach`] does the container's steps. `launch.rs`
//! calls them in this order.

pub mod apply;
pub mod args;
pub mod definition;
pub mod dns;
pub mod explain;
pub mod hub;
pub mod ipam;
pub mod members;
pub mod mode;
pub mod names;
pub mod network;
pub mod nft;
pub mod owner;
pub mod pool;
pub mod publish;
pub mod rtnl;
pub mod services;
pub mod step;
pub mod table;
pub mod wire;

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ipnet::{Ipv4Net, Ipv6Net};
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use serde::{Deserialize, Serialize};

use self::apply::Applier;
use self::definition::{BRIDGE, Definition, Definitions};
use self::dns::Responder;
use self::hub::{Taken, View};
use self::ipam::Lease;
use self::members::Members;
pub use self::mode::{Attachment, Mode, Net};
use self::network::{Bridge, Ground};
use self::publish::{Port, Wish};
use self::rtnl::{Mac, Rtnl};
use self::services::Services;
use self::step::{Place, Step};
use self::table::{BRIDGES, Change, Element, link_in};
use crate::error::refused;
use crate::state::{self, Record, State};

/// Where a container's name server listens, so that port 53 is left to the container's own programs: a port above those
/// that the kernel chooses and below none that has a name.
const NAMES_PORT: u16 = 41053;

/// So many interfaces a container has at most: their ends on the host are numbered by a letter.
const MOST_INTERFACES: usize = 20;

/// What a network is decided from.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What `--net` said.
    pub mode: &'a Mode,
    /// The container's ID.
    pub id: &'a str,
    /// How often it has run before.
    pub runs: u32,
    /// `--sysctl`, the keys as files below /proc/sys.
    pub sysctls: &'a [(String, String)],
    /// The host's resolvers, which a range of addresses must not cover.
    pub resolvers: &'a [Ipv4Addr],
    /// `--dns`.
    pub servers: &'a [IpAddr],
    /// The domains that the container looks names up in.
    pub search: &'a [String],
    /// `-p`.
    pub publish: &'a [Wish],
    /// Where the networks are defined.
    pub data_root: &'a Path,
    /// The state directory.
    pub state: &'a Path,
    /// Nothing is taken, and nothing will be made.
    pub dry: bool,
}

/// The network of one container, decided.
#[derive(Debug)]
pub struct Network {
    /// What `--net` said.
    pub mode: Mode,
    /// Its interfaces on managed networks.
    pub interfaces: Vec<Interface>,
    /// Its published ports.
    pub ports: Vec<Port>,
    /// Steps that make the bridges and the rules; on almost every run they are there and there are none.
    pub host_steps: Vec<Step>,
    /// Steps that make the container's part. Its settings (`Step::Sysctl`) are done by the container's own process.
    pub steps: Vec<Step>,
    hub: Option<Hub>,
    /// What of the table leads to its ports, once it is there.
    published: Vec<Element>,
    /// The sockets of the container's name server.
    names: Vec<OwnedFd>,
    /// How it answers.
    answers: dns::Options,
}

/// A container's interface on a managed network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The network's name.
    pub network: String,
    /// Its name in the container.
    pub name: String,
    /// The name of its end on the host.
    pub host: String,
    /// Its hardware address.
    pub mac: Mac,
    /// Its address, with the prefix length of the network.
    pub address: Ipv4Net,
    /// The same of IPv6.
    pub address6: Option<Ipv6Net>,
    /// The host's address on that network.
    pub gateway: Ipv4Addr,
    /// Whether the default route leaves by it.
    pub default_route: bool,
    /// In bytes.
    pub mtu: u32,
    /// Further names by which the network's members find it.
    pub aliases: Vec<String>,
}

/// What a container on managed networks needs of the hub.
#[derive(Debug)]
struct Hub {
    rtnl: Rtnl,
    view: View,
    bridges: Vec<Bridge>,
    ground: Ground,
    directory: PathBuf,
    number: u64,
    turn: Option<Flock<File>>,
    _leases: Vec<Lease>,
    _ports: publish::Taken,
}

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
            host_steps: vec![],
            steps: vec![],
            hub: None,
            published: vec![],
            names: vec![],
            answers,
        };
        match request.mode {
            Mode::Networks(attachments) => network.decide_interfaces(attachments, request)?,
            Mode::None => network.steps.push(Step::SetUp { place: Place::Container, link: "lo".into() }),
            Mode::Host | Mode::Container(_) | Mode::Namespace(_) => {}
        }
        if !request.mode.joins() {
            // Before those that were asked for, which may say otherwise.
            network.steps.push(inside("net/ipv4/ping_group_range", "0 2147483647"));
            network.steps.push(inside("net/ipv4/ip_unprivileged_port_start", "0"));
        }
        network.steps.extend(request.sysctls.iter().map(|(key, value)| inside(key, value)));
        Ok(network)
    }

    fn decide_interfaces(&mut self, attachments: &[Attachment], request: &Request<'_>) -> Result<()> {
        if attachments.len() > MOST_INTERFACES {
            bail!("use {} networks: a container is on {MOST_INTERFACES} at most", attachments.len());
        }
        let mut hub = Hub::look(attachments, request)?;
        let gateway = default_route(attachments, &hub.bridges);
        let mut leases = Vec::new();
        for (at, (wish, bridge)) in attachments.iter().zip(&hub.bridges).enumerate() {
            let definition = &bridge.definition;
            let take = if request.dry { ipam::peek } else { ipam::lease };
            let lease = take(&hub.directory, definition, wish.ip, wish.ip6)?;
            let interface = interface(at, wish, definition, &lease, &hub.view, request, gateway == Some(at));
            if let Some(other) = self.interfaces.iter().find(|other| other.name == interface.name) {
                bail!("use network `{}`: network `{}` has `{}` already", wish.network, other.network, other.name);
            }
            self.interfaces.push(interface);
            leases.push(lease);
        }
        for (at, (wish, bridge)) in attachments.iter().zip(&hub.bridges).enumerate() {
            self.steps.extend(bridge.attach(&hub.view, request.id, &self.interfaces[at], wish, at as u32 + 2));
        }
        // After the links of the hub, before those of the container.
        let first_inside = self.steps.iter().position(|step| step.place() == Place::Container);
        let lo = Step::SetUp { place: Place::Container, link: "lo".into() };
        self.steps.insert(first_inside.unwrap_or(self.steps.len()), lo);
        self.steps.extend(table::inside(dns::ADDRESS, NAMES_PORT).into_iter().map(Step::NftInside));
        self.host_steps = hub.ground.missing.clone();
        hub._leases = leases;
        if !request.publish.is_empty() {
            hub._ports = self.publish(&hub, request)?;
        }
        self.hub = Some(hub);
        Ok(())
    }

    /// Takes the ports that are published, for the interface of the default route.
    fn publish(&mut self, hub: &Hub, request: &Request<'_>) -> Result<publish::Taken> {
        let at = self.interfaces.iter().position(|interface| interface.default_route).unwrap_or_default();
        let bridge = &hub.bridges[at].definition.link;
        let taken = publish::take(request.publish, &self.interfaces[at], request.state, request.dry)?;
        self.ports.clone_from(&taken.ports);
        // Where the bridge itself asks the rules (br_netfilter), what a container sends to its own published port comes
        // back by the port that it left by.
        if is_on("net/bridge/bridge-nf-call-iptables") {
            let link = self.interfaces[at].host.clone();
            self.steps.push(Step::SetPortOption { link, option: "hairpin", value: 1 });
        }
        let local =
            |port: &Port| port.address.is_ipv4() && (port.address.is_loopback() || port.address.is_unspecified());
        let key = format!("net/ipv4/conf/{bridge}/route_localnet");
        if !is_on(&key) && self.ports.iter().any(local) {
            self.steps.push(Step::Sysctl { place: Place::Hub, key, value: "1".into() });
        }
        let elements = elements_of(&self.ports, request.id);
        if !request.dry {
            free(&self.ports, &elements, request.state)?;
        }
        self.steps.extend(elements.into_iter().map(|element| Step::Nft(Change::AddElement(element))));
        Ok(taken)
    }

    /// Makes what is missing of the bridges and the rules, alone, and then lets others attach.
    pub fn prepare(&mut self) -> Result<()> {
        let Some(hub) = &mut self.hub else { return Ok(()) };
        if !self.host_steps.is_empty() {
            network::remember_opened(&hub.directory, &hub.ground)?;
            let mut applier = Applier::new(&mut hub.rtnl, 0);
            applier.apply(&self.host_steps)?;
            applier.commit();
            tell_what_was_made(&hub.bridges, &hub.ground);
        }
        let shared = hub.turn.as_ref().map_or(Ok(()), |turn| turn.relock(FlockArg::LockShared));
        shared.context("unlock the managed networks")
    }

    /// In the container's process, in its namespace: opens the sockets that [`attach`](Self::attach) wants.
    pub fn open_inside(&self) -> Result<Vec<OwnedFd>> {
        if self.mode.joins() {
            return Ok(vec![]);
        }
        let mut sockets = vec![Rtnl::open()?.into_fd()?];
        if !self.interfaces.is_empty() {
            let (udp, tcp) = dns::open(NAMES_PORT)?;
            sockets.extend([udp, tcp]);
        }
        Ok(sockets)
    }

    /// In the container's process, in its namespace: makes its own table.
    pub fn make_inside(&self) -> Result<()> {
        let steps = self.steps.iter().filter(|step| matches!(step, Step::NftInside(_)));
        let (steps, changes): (Vec<&Step>, Vec<&Change>) = steps
            .filter_map(|step| match step {
                Step::NftInside(change) => Some((step, change)),
                _ => None,
            })
            .unzip();
        if changes.is_empty() {
            return Ok(());
        }
        nft::commit(&changes).map_err(|refused| apply::told(&refused, steps.get(refused.request).copied()))
    }

    /// Does the container's steps: those in the hub for the namespace of process `pid`, then those in that namespace by the
    /// first of the sockets that `enter` brings. After an error everything is undone.
    pub fn attach(&mut self, pid: u32, enter: impl FnOnce() -> Result<Vec<OwnedFd>>) -> Result<()> {
        if self.mode.joins() {
            return Ok(());
        }
        let Some(hub) = self.hub.as_mut() else {
            // Nothing to do in the hub: the container's own socket will do.
            let mut rtnl = take_rtnl(&mut enter()?)?;
            return rtnl.batch(vec![rtnl::set_up("lo")]).map_err(|refused| refused.error.context("set link `lo` up"));
        };
        let mut applier = Applier::new(&mut hub.rtnl, pid);
        for link in hub.bridges.iter().filter_map(|bridge| bridge.link.as_ref()) {
            applier.know(&link.name, link.index);
        }
        let first_inside = self.steps.iter().position(|step| step.place() == Place::Container);
        let (before, rest) = self.steps.split_at(first_inside.unwrap_or(self.steps.len()));
        applier.apply(before)?;
        let mut sockets = enter()?;
        applier.enter(take_rtnl(&mut sockets)?);
        self.names = sockets;
        applier.apply(rest)?;
        applier.settle()?;
        applier.commit();
        let element = |step: &Step| match step {
            Step::Nft(Change::AddElement(element)) => Some(element.clone()),
            _ => None,
        };
        self.published = self.steps.iter().filter_map(element).collect();
        hub.turn = None;
        Ok(())
    }

    /// Takes back what does not end with the container: its published ports. Not before it was attached: then they are
    /// nobody's, or another container's. A second time nothing is left to do.
    pub fn release(&mut self) -> Result<()> {
        delete(std::mem::take(&mut self.published).into_iter().map(Change::DeleteElement).collect())
    }

    /// What its holder does for it while it runs; `state` is the state directory.
    pub fn services(&mut self, state: &Path) -> Result<Services> {
        let mut sockets = std::mem::take(&mut self.names);
        let (Some(tcp), Some(udp)) = (sockets.pop(), sockets.pop()) else { return Ok(Services::default()) };
        let outward = |bridge: &Bridge| !bridge.definition.internal;
        let forward = self.hub.as_ref().is_some_and(|hub| hub.bridges.iter().any(outward));
        let options = dns::Options { forward, ..self.answers.clone() };
        let members = Members::of(&self.interfaces, self.gateway(), state);
        Ok(Services::new(Some((Responder::new(udp, tcp, options)?, members))))
    }

    /// What its record says of it.
    pub fn write_down(&self, record: &mut Record) {
        record.interfaces.clone_from(&self.interfaces);
        record.ports.clone_from(&self.ports);
        record.hub = self.hub.as_ref().map(|hub| hub.number);
    }

    /// The settings that the container's own process makes.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        self.steps.iter().filter_map(|step| match step {
            Step::Sysctl { place: Place::Container, key, value } => Some((key.as_str(), value.as_str())),
            _ => None,
        })
    }

    /// The address by which the container is known: that of its first interface.
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.interfaces.first().map(|interface| interface.address.addr())
    }

    /// The host's address as the container sees it.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        let way_out = self.interfaces.iter().find(|interface| interface.default_route);
        way_out.or(self.interfaces.first()).map(|interface| interface.gateway)
    }
}

impl Hub {
    /// Looks at the networks that a container is to be on, and takes the turn to attach it.
    fn look(attachments: &[Attachment], request: &Request<'_>) -> Result<Self> {
        let mut rtnl = Rtnl::open()?;
        let directory = hub::directory(&rtnl)?;
        // Shared by all that attach containers, so that nobody takes a bridge away meanwhile.
        let turn = if request.dry { None } else { Some(lock(&directory, FlockArg::LockShared)?) };
        let mut seen = look(&mut rtnl, attachments, request, &directory)?;
        if let Some(turn) = turn.as_ref().filter(|_| !seen.2.missing.is_empty()) {
            // Alone, until it is made; and another look, because another command may have made it a moment ago.
            turn.relock(FlockArg::LockExclusive).context("lock the managed networks")?;
            seen = look(&mut rtnl, attachments, request, &directory)?;
        }
        let (view, bridges, ground) = seen;
        let number = hub::number(&rtnl)?;
        let (_leases, _ports) = (vec![], publish::Taken::default());
        Ok(Self { rtnl, view, bridges, ground, directory, number, turn, _leases, _ports })
    }
}

fn take_rtnl(sockets: &mut Vec<OwnedFd>) -> Result<Rtnl> {
    if sockets.is_empty() {
        bail!("configure the container's network: no socket in it");
    }
    Ok(Rtnl::from_fd(sockets.remove(0)))
}

/// Whether a setting of this namespace is 1; it may not be there.
fn is_on(key: &str) -> bool {
    std::fs::read(Path::new("/proc/sys").join(key)).is_ok_and(|value| value.first() == Some(&b'1'))
}

/// What of the table is of these ports.
fn elements_of(ports: &[Port], id: &str) -> Vec<Element> {
    ports.iter().flat_map(|port| port.elements(&format!("minirun:{id}"))).collect()
}

/// Sees to it that nobody has these elements: what a killed container left is swept.
fn free(ports: &[Port], elements: &[Element], state: &Path) -> Result<()> {
    let there = || -> Result<bool> {
        // As many as the kernel's answers fit into a socket.
        for some in elements.chunks(64) {
            if nft::table(some)?.is_some_and(|(_, there)| there.contains(&true)) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    if !there()? {
        return Ok(());
    }
    State::open(state)?.list()?;
    if there()? {
        let port = &ports[0];
        return Err(publish::in_use(SocketAddr::new(port.address, port.host), port.protocol, state));
    }
    Ok(())
}

/// Takes back the published ports of a container that nobody holds any more.
pub fn withdraw(record: &Record) -> Result<()> {
    // Of another boot, or in another network namespace, they are not there, or are another's.
    if record.ports.is_empty() || record.boot != state::boot_id() || record.hub != Some(hub::number(&Rtnl::open()?)?) {
        return Ok(());
    }
    delete(elements_of(&record.ports, &record.id).into_iter().map(Change::DeleteElement).collect())
}

/// Deletes elements of the table, those that are there.
fn delete(changes: Vec<Change>) -> Result<()> {
    if changes.is_empty() || nft::commit(&changes.iter().collect::<Vec<_>>()).is_ok() {
        return Ok(());
    }
    // Not all of them are there: somebody has taken the table away, or they were not all made.
    for change in changes {
        match nft::commit(&[&change]) {
            Err(refused) if refused.errno != libc::ENOENT => {
                return Err(refused.error.context("take back a published port"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn look(
    rtnl: &mut Rtnl,
    attachments: &[Attachment],
    request: &Request<'_>,
    directory: &Path,
) -> Result<(View, Vec<Bridge>, Ground)> {
    let definitions = Definitions::open(request.data_root);
    let found = attachments
        .iter()
        .map(|wish| if wish.network == mode::DEFAULT { Ok(None) } else { definitions.find(&wish.network).map(Some) })
        .collect::<Result<Vec<_>>>()?;
    let links: Vec<&str> = found
        .iter()
        .map(|definition| definition.as_ref().map_or(BRIDGE, |definition| definition.link.as_str()))
        .collect();
    let elements: Vec<_> = links.iter().map(|link| link_in(&BRIDGES, link)).collect();
    let mut view = View::take(rtnl, &links, &elements)?;
    if view.ipv6 && found.iter().flatten().any(|definition| definition.gateway6.is_some()) {
        view.look_at_ipv6(rtnl)?;
    }
    let mut bridges = Vec::new();
    for definition in found {
        let mut definition = match definition {
            Some(definition) => definition,
            None => Definition::default_network(default_gateway(rtnl, &view, request.resolvers, &definitions)?),
        };
        if !view.ipv6 {
            // A host without it loses nothing but it.
            definition.gateway6 = None;
        }
        bridges.push(Bridge::find(rtnl, &view, definition)?);
    }
    // Only where the table is made anew.
    let mut failed = Ok(());
    let others = || {
        let mut all = definitions.list().unwrap_or_else(|error| {
            failed = Err(error);
            vec![]
        });
        // One that cannot be told is mended by its own next container.
        all.extend(Bridge::default_network(rtnl).unwrap_or_default());
        all
    };
    let ground = network::ground(&view, &bridges, others, &network::opened_before(directory));
    failed.map(|()| (view, bridges, ground))
}

fn default_gateway(rtnl: &mut Rtnl, view: &View, resolvers: &[Ipv4Addr], definitions: &Definitions) -> Result<Ipv4Net> {
    match Bridge::gateway_of_default(rtnl, view)? {
        Some(gateway) => Ok(gateway),
        None => pool::for_default_network(&taken(rtnl, resolvers, &definitions.list()?)?),
    }
}

/// The ranges that are in use on the host, and by networks whose bridges are not made.
pub fn taken(rtnl: &mut Rtnl, resolvers: &[Ipv4Addr], definitions: &[Definition]) -> Result<Vec<Taken>> {
    let mut taken = hub::taken(rtnl, resolvers)?;
    taken.extend(
        definitions.iter().map(|one| Taken { range: one.gateway.trunc(), holder: format!("network `{}`", one.name) }),
    );
    Ok(taken)
}

/// Which of the interfaces has the default route: the one with the highest priority, the first of equals, and none of a
/// network without a way out.
fn default_route(attachments: &[Attachment], bridges: &[Bridge]) -> Option<usize> {
    let mut best: Option<(usize, i32)> = None;
    for (at, (wish, bridge)) in attachments.iter().zip(bridges).enumerate() {
        if !bridge.definition.internal && best.is_none_or(|(_, priority)| wish.gw_prio > priority) {
            best = Some((at, wish.gw_prio));
        }
    }
    best.map(|(at, _)| at)
}

fn interface(
    at: usize,
    wish: &Attachment,
    definition: &Definition,
    lease: &Lease,
    view: &View,
    request: &Request<'_>,
    default_route: bool,
) -> Interface {
    let address = Ipv4Net::new_assert(lease.address, definition.gateway.prefix_len());
    let address6 = definition.gateway6.zip(lease.address6);
    Interface {
        network: definition.name.clone(),
        name: wish.ifname.clone().unwrap_or_else(|| format!("eth{at}")),
        host: wish.host_ifname.clone().unwrap_or_else(|| host_link(request.id, request.runs, at)),
        mac: wish.mac.unwrap_or_else(|| network::mac_of(lease.address)),
        address,
        address6: address6.map(|(gateway, address)| network::same_network6(gateway, address)),
        gateway: definition.gateway.addr(),
        default_route,
        mtu: wish.mtu.or(definition.mtu).unwrap_or(view.mtu()),
        aliases: wish.aliases.clone(),
    }
}

/// The name of an end on the host: 15 bytes at most. A container that has run before has another one: its link of the run
/// before may be there still, and a name is not to be used twice in a row, because rules that others have for it would find
/// another link.
fn host_link(id: &str, runs: u32, at: usize) -> String {
    let run = char::from_digit(runs % 36, 36).filter(|_| runs > 0);
    // No hexadecimal digit, so that it is no part of an ID.
    let letter = char::from_u32('f' as u32 + at as u32).filter(|_| at > 0);
    let length = if at > 0 { 10 } else { 12 };
    let digits = id.get(..length).unwrap_or(id);
    format!("mr{}", digits.chars().chain(letter).chain(run).collect::<String>())
}

/// Takes the managed networks, their table and the forwarding that came with them off the host, unless a container is on one
/// of them: the kernel knows, whoever started it. The names of the bridges that were there; `None` if there was nothing.
pub fn take_down(data_root: &Path) -> Result<Option<Vec<String>>> {
    let mut all = Definitions::open(data_root).list()?;
    all.push(Definition::default_network(Ipv4Net::default()));
    let mut rtnl = Rtnl::open()?;
    let directory = hub::directory(&rtnl)?;
    let _turn = lock(&directory, FlockArg::LockExclusive)?;
    let links: Vec<&str> = all.iter().map(|network| network.link.as_str()).collect();
    let view = View::take(&mut rtnl, &links, &[])?;
    for network in &all {
        unused(&mut rtnl, &view, network)?;
    }
    let steps = network::made(&view, &all, &directory, true);
    Applier::new(&mut rtnl, 0).undo(&steps)?;
    // The lock and the leases stay: others may be waiting for the one and hold the other.
    let _ = std::fs::remove_file(directory.join("opened"));
    let bridges = steps.iter().filter_map(|step| match step {
        Step::AddBridge { name, .. } => Some(name.clone()),
        _ => None,
    });
    Ok((!steps.is_empty()).then(|| bridges.collect()))
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
    let view = View::take(&mut rtnl, &[&network.link], &[link_in(&BRIDGES, &network.link)])?;
    unused(&mut rtnl, &view, &network)?;
    let steps = network::made(&view, std::slice::from_ref(&network), &directory, false);
    Applier::new(&mut rtnl, 0).undo(&steps)?;
    for file in [format!("leases.{name}"), format!("leases6.{name}")] {
        let _ = std::fs::remove_file(directory.join(file));
    }
    definitions.remove(name)
}

/// Waits a moment until no container is on the bridge: the kernel takes the link of one that has ended away a moment later.
fn unused(rtnl: &mut Rtnl, view: &View, network: &Definition) -> Result<()> {
    let Some(bridge) = view.link(&network.link) else { return Ok(()) };
    let mut ports = rtnl.count_ports(bridge.index)?;
    for _ in 0..20 {
        if ports == 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        ports = rtnl.count_ports(bridge.index)?;
    }
    if ports > 0 {
        let message = format!("remove bridge `{}`: {ports} links are on it", network.link);
        return Err(refused(message, "see `minirun ps`, and `bridge link` for what else is plugged in"));
    }
    Ok(())
}

fn inside(key: &str, value: &str) -> Step {
    Step::Sysctl { place: Place::Container, key: key.into(), value: value.into() }
}

fn make_directory(directory: &Path) -> Result<()> {
    if let Some(parent) = directory.parent() {
        state::private_directory(parent)?;
    }
    state::private_directory(directory)
}

fn lock(directory: &Path, how: FlockArg) -> Result<Flock<File>> {
    let path = directory.join("lock");
    // Only the first command in a hub finds its directory missing.
    let file = match state::open_private(&path) {
        Err(_) if !directory.exists() => make_directory(directory).and_then(|()| state::open_private(&path)),
        file => file,
    };
    Flock::lock(file?, how).map_err(|(_, error)| error).context("lock the managed networks")
}

fn tell_what_was_made(bridges: &[Bridge], ground: &Ground) {
    let made = |steps: &[Step], link: &str| {
        steps.iter().any(|step| matches!(step, Step::AddBridge { name, .. } if name == link))
    };
    let mut parts: Vec<String> = Vec::new();
    for Bridge { definition, .. } in bridges {
        if made(&ground.missing, &definition.link) {
            parts.push(format!("made bridge `{}`, {}", definition.link, definition.gateway));
        }
    }
    if parts.is_empty() {
        let links: Vec<String> = bridges.iter().map(|bridge| format!("`{}`", bridge.definition.link)).collect();
        parts.push(format!("mended bridge {}", links.join(", ")));
    }
    for (version, begin) in [("IPv4", "net/ipv4/conf/"), ("IPv6", "net/ipv6/conf/")] {
        let links: Vec<String> = ground
            .opened
            .iter()
            .filter_map(|key| key.strip_prefix(begin)?.split('/').next())
            .map(|link| if link == "all" { "all links".to_owned() } else { format!("`{link}`") })
            .collect();
        if !links.is_empty() {
            parts.push(format!("turned on {version} forwarding of {} for its containers only", links.join(", ")));
        }
    }
    crate::error::note(&parts.join("; "));
}

/// The addresses of an interface.
impl Interface {
    /// Both of them.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let second = self.address6.map(|net| IpAddr::V6(net.addr()));
        std::iter::once(IpAddr::V4(self.address.addr())).chain(second)
    }
}
