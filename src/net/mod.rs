//! The network of a container: what `--net` means, as steps.
//!
//! [`Network::decide`] looks at the kernel, takes addresses and lists the steps, all of it before anything is changed;
//! [`Network::prepare`] makes bridges where they are missing; [`Network::attach`] does the container's steps. `launch.rs`
//! calls them in this order.

pub mod apply;
pub mod args;
pub mod change;
pub mod conntrack;
pub mod definition;
pub mod dns;
pub mod explain;
pub mod hub;
pub mod ipam;
pub mod look;
pub mod members;
pub mod mend;
pub mod mode;
pub mod names;
pub mod network;
pub mod nft;
pub mod options;
pub mod owner;
pub mod pool;
pub mod ports;
pub mod publish;
pub mod relay;
pub mod removal;
pub mod rtnl;
pub mod rules;
pub mod services;
pub mod step;
pub mod table;
pub mod wire;
pub mod wish;

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ipnet::{Ipv4Net, Ipv6Net};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use self::apply::Applier;
use self::definition::Definition;
use self::dns::Responder;
use self::hub::View;
use self::ipam::Lease;
use self::look::{Look, lock, tell_what_was_made};
use self::members::Members;
use self::mend::Mender;
pub use self::mode::{Attachment, Mode, Net};
use self::network::{Bridge, Ground};
use self::ports::{delete, elements_of, free};
use self::publish::Port;
use self::rtnl::{Mac, Rtnl};
use self::services::Services;
use self::step::{Place, Step};
use self::table::{Change, Element};
use self::wish::Wish;
use crate::error::refused;
use crate::state::Record;

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
    /// The container's network as it is, where it is to have an interface more.
    pub beside: Option<&'a Network>,
    /// Whether it may change its own rules: it is not guarded by them then.
    pub rules_itself: bool,
    /// Nothing is taken, and nothing will be made.
    pub dry: bool,
}

/// Whose a network is, for what is made later.
#[derive(Debug, Clone)]
struct Own {
    id: String,
    runs: u32,
    data_root: PathBuf,
    state: PathBuf,
    /// How many interfaces it has had: no name of a link is used twice.
    made: usize,
    /// Whether it has a name server.
    has_names: bool,
    /// Whether it has rules of its own that keep others out.
    guarded: bool,
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
    own: Own,
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
    leases: Vec<Lease>,
    /// What holds the published ports.
    held: Vec<publish::Held>,
    /// What is to be relayed, and is not yet.
    relayed: Vec<publish::Relayed>,
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
            own: Own {
                id: request.id.to_owned(),
                runs: request.runs,
                data_root: request.data_root.to_owned(),
                state: request.state.to_owned(),
                made: 0,
                has_names: false,
                guarded: !request.rules_itself,
            },
        };
        match request.mode {
            Mode::Networks(attachments) => network.decide_interfaces(attachments, request)?,
            Mode::None => network.steps.push(Step::SetUp { place: Place::Container, link: "lo".into() }),
            Mode::Host | Mode::Container(_) | Mode::Namespace(_) => {}
        }
        if !request.mode.joins() && request.beside.is_none() {
            // Before those that were asked for, which may say otherwise.
            network.steps.push(inside("net/ipv4/ping_group_range", "0 2147483647"));
            network.steps.push(inside("net/ipv4/ip_unprivileged_port_start", "0"));
        }
        network.steps.extend(request.sysctls.iter().map(|(key, value)| inside(key, value)));
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
        let has_way_out = there.iter().any(|interface| interface.default_route);
        let gateway = default_route(attachments, &hub.bridges).filter(|_| !has_way_out);
        let mut leases = Vec::new();
        for (at, (wish, bridge)) in attachments.iter().zip(&hub.bridges).enumerate() {
            let definition = &bridge.definition;
            let take = if request.dry { ipam::peek } else { ipam::lease };
            let lease = take(&hub.directory, definition, wish.ip, wish.ip6)?;
            let others = || there.iter().chain(&self.interfaces);
            let free = |name: &String| !others().any(|other| other.name == *name);
            let name = wish.ifname.clone().or_else(|| (at..).map(|number| format!("eth{number}")).find(free));
            let mut interface = interface(wish, definition, &lease, &hub.view, gateway == Some(at));
            interface.name = name.unwrap_or_default();
            if interface.host.is_empty() {
                interface.host = host_link(request.id, request.runs, made + at);
            }
            if let Some(other) = others().find(|other| other.name == interface.name) {
                bail!("use network `{}`: network `{}` has `{}` already", wish.network, other.network, other.name);
            }
            self.interfaces.push(interface);
            leases.push(lease);
        }
        for (at, (wish, bridge)) in attachments.iter().zip(&hub.bridges).enumerate() {
            let index = (made + at) as u32 + 2;
            self.steps.extend(bridge.attach(&hub.view, request.id, &self.interfaces[at], wish, index));
        }
        // After the links of the hub, before those of the container.
        let first_inside = self.steps.iter().position(|step| step.place() == Place::Container);
        let lo = Step::SetUp { place: Place::Container, link: "lo".into() };
        self.steps.insert(first_inside.unwrap_or(self.steps.len()), lo);
        if !request.beside.is_some_and(|beside| beside.own.has_names) {
            self.steps.extend(rules::inside(dns::ADDRESS, NAMES_PORT).into_iter().map(Step::NftInside));
            if self.own.guarded {
                self.steps.extend(rules::guard().into_iter().map(Step::NftInside));
            }
            self.own.has_names = true;
        }
        if self.own.guarded {
            let members = self.interfaces.iter().flat_map(|own| rules::members(&own.name, own.address, own.address6));
            self.steps.extend(members.map(|element| Step::NftInside(Change::AddElement(element))));
        }
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

    /// Takes ports that are to be published, for the interface of the default route, and lists the steps. Which.
    fn publish(&mut self, wishes: &[Wish], own: &Own, dry: bool) -> Result<Vec<Port>> {
        let hub = self.hub.as_mut().context("publish a port: no network")?;
        let at = self.interfaces.iter().position(|interface| interface.default_route).unwrap_or_default();
        let bridge = &hub.bridges[at].definition.link;
        let taken = publish::take(wishes, &self.interfaces[at], &own.state, dry)?;
        hub.held.extend(taken.held);
        hub.relayed.extend(taken.relayed);
        let ports = taken.ports;
        // Where the bridge itself asks the rules (br_netfilter), what a container sends to its own published port comes
        // back by the port that it left by.
        if is_on("net/bridge/bridge-nf-call-iptables") {
            let link = self.interfaces[at].host.clone();
            self.steps.push(Step::SetPortOption { link, option: "hairpin", value: 1 });
        }
        let local =
            |port: &Port| port.address.is_ipv4() && (port.address.is_loopback() || port.address.is_unspecified());
        let key = format!("net/ipv4/conf/{bridge}/route_localnet");
        if !is_on(&key) && ports.iter().any(local) {
            self.steps.push(Step::Sysctl { place: Place::Hub, key, value: "1".into() });
        }
        let elements = elements_of(&ports, &own.id);
        if !dry {
            free(&ports, &elements, &own.state)?;
        }
        self.steps.extend(elements.into_iter().map(|element| Step::Nft(Change::AddElement(element))));
        if own.guarded {
            // What is published on the loopback device alone comes from the host, which is a member.
            let exposed = ports.iter().filter(|port| port.is_exposed());
            self.steps.extend(exposed.map(|port| Step::NftInside(Change::AddElement(port.opening()))));
        }
        self.ports.extend(ports.iter().cloned());
        Ok(ports)
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
        if self.inside().next().is_some() {
            sockets.push(nft::open().context("open nfnetlink socket")?.as_fd().try_clone_to_owned()?);
        }
        if self.inside().any(|change| *change == Change::AddTable) {
            let (udp, tcp) = dns::open(NAMES_PORT)?;
            sockets.extend([udp, tcp]);
        }
        Ok(sockets)
    }

    /// The changes to the container's own table.
    fn inside(&self) -> impl Iterator<Item = &Change> {
        self.steps.iter().filter_map(|step| match step {
            Step::NftInside(change) => Some(change),
            _ => None,
        })
    }

    /// Makes the container's own table, by a socket in its namespace.
    fn make_inside(&self, socket: OwnedFd) -> Result<()> {
        let steps = self.steps.iter().filter(|step| matches!(step, Step::NftInside(_)));
        let (steps, changes): (Vec<&Step>, Vec<&Change>) = steps
            .filter_map(|step| match step {
                Step::NftInside(change) => Some((step, change)),
                _ => None,
            })
            .unzip();
        nft::commit_by(crate::sys::netlink_socket(socket), &changes)
            .map_err(|refused| apply::told(&refused, steps.get(refused.request).copied()))
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
        applier.apply(rest)?;
        applier.settle()?;
        applier.commit();
        let element = |step: &Step| match step {
            Step::Nft(Change::AddElement(element)) => Some(element.clone()),
            _ => None,
        };
        self.published = self.steps.iter().filter_map(element).collect();
        hub.turn = None;
        if self.inside().next().is_some() && !sockets.is_empty() {
            self.make_inside(sockets.remove(0))?;
        }
        self.names = sockets;
        conntrack::forget(&self.ports)
    }

    /// Takes back what does not end with the container: its published ports. Not before it was attached: then they are
    /// nobody's, or another container's. A second time nothing is left to do.
    pub fn release(&mut self) -> Result<()> {
        let published = std::mem::take(&mut self.published);
        if published.is_empty() {
            return Ok(());
        }
        delete(published.into_iter().map(Change::DeleteElement).collect())?;
        conntrack::forget(&self.ports)
    }

    /// What its holder does for it while it runs.
    pub fn services(&mut self) -> Result<Services> {
        let mut services = Services::default();
        self.refresh(&mut services)?;
        Ok(services)
    }

    /// Tells those who serve it how it is now.
    pub fn refresh(&mut self, services: &mut Services) -> Result<()> {
        let Some(hub) = &mut self.hub else { return Ok(()) };
        services.relays.retain(|(port, _)| self.ports.contains(port));
        for publish::Relayed { port, socket, target } in std::mem::take(&mut hub.relayed) {
            services.relay(port, socket, target)?;
        }
        let forward = hub.bridges.iter().any(|bridge| !bridge.definition.internal);
        if let (Some(tcp), Some(udp)) = (self.names.pop(), self.names.pop()) {
            let options = dns::Options { forward, ..self.answers.clone() };
            services.names = Some(Responder::new(udp, tcp, options)?);
        }
        services.members = Some(Members::of(&self.interfaces, self.gateway(), &self.own.state));
        let elements = self.published.clone();
        let attachments = self.mode.attachments().to_vec();
        services.rules = Some(Mender::listen(attachments, self.own.data_root.clone(), elements)?);
        Ok(())
    }

    /// What its record says of it.
    pub fn write_down(&self, record: &mut Record) {
        record.network = self.mode.to_string();
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
        let look = Look { attachments, data_root: request.data_root, resolvers: request.resolvers };
        let mut seen = look.at(&mut rtnl, &directory)?;
        if let Some(turn) = turn.as_ref().filter(|_| !seen.2.missing.is_empty()) {
            // Alone, until it is made; and another look, because another command may have made it a moment ago.
            turn.relock(FlockArg::LockExclusive).context("lock the managed networks")?;
            seen = look.at(&mut rtnl, &directory)?;
        }
        let (view, bridges, ground) = seen;
        let number = hub::number(&rtnl)?;
        let (leases, held, relayed) = (vec![], vec![], vec![]);
        Ok(Self { rtnl, view, bridges, ground, directory, number, turn, leases, held, relayed })
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

/// An interface as far as its network says: its name in the container is not chosen yet.
fn interface(wish: &Attachment, definition: &Definition, lease: &Lease, view: &View, default_route: bool) -> Interface {
    let address = Ipv4Net::new_assert(lease.address, definition.gateway.prefix_len());
    let address6 = definition.gateway6.zip(lease.address6);
    Interface {
        network: definition.name.clone(),
        name: String::new(),
        host: wish.host_ifname.clone().unwrap_or_default(),
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

fn inside(key: &str, value: &str) -> Step {
    Step::Sysctl { place: Place::Container, key: key.into(), value: value.into() }
}

/// The addresses of an interface.
impl Interface {
    /// Both of them.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let second = self.address6.map(|net| IpAddr::V6(net.addr()));
        std::iter::once(IpAddr::V4(self.address.addr())).chain(second)
    }
}
