//! The network of a container that runs is changed: an interface comes or goes, a port is published or taken back. Done by
//! the container's holder, with the same steps as at its start, when another command asks for it (`control.rs`).

use std::fs::OpenOptions;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rustix::fs::{CWD, Mode as FileMode, OFlags, openat};

use super::apply::Applier;
use super::look::lock;
use super::mode::{Attachment, Mode};
use super::names::Resolvers;
use super::options::port_options;
use super::ports::{delete, elements_of};
use super::publish::Port;
use super::rtnl::{self, Rtnl};
use super::step::{PORT_OPTIONS, Place, Step};
use super::table::Change;
use super::wish::Wish;
use super::{Network, Request, access, conntrack, hub, nft};
use crate::error::refused;
use crate::init::carry_out;
use crate::sync::{self, FromChild};
use crate::sys::{self, Side};

impl Network {
    /// Puts the container, whose first process is `pid`, on a further network.
    ///
    /// Errors: its network is another's; it is on that network; whatever a start on it would say. Nothing has changed then.
    pub fn connect(&mut self, wish: Attachment, pid: i32) -> Result<()> {
        if self.mode.joins() {
            let message =
                format!("connect network `{}`: with --net={} it is not the container's own", wish.network, self.mode);
            return Err(refused(message, "connect it to the container that the network is of"));
        }
        if self.interfaces.iter().any(|interface| interface.network == wish.network) {
            bail!("connect network `{}`: the container is on it", wish.network);
        }
        let links = links_of(pid)?;
        let mode = Mode::Networks(vec![wish]);
        let resolvers = Resolvers::of_host().ipv4();
        let own = self.own.clone();
        let mut added = Self::decide(&Request {
            mode: &mode,
            id: &own.id,
            runs: own.runs,
            sysctls: &[],
            resolvers: &resolvers,
            servers: &[],
            search: &[],
            publish: &[],
            host_access: own.host_access,
            lent: &[],
            taps: &[],
            data_root: &own.data_root,
            state: &own.state,
            beside: Some(self),
            links: &links,
            dry: false,
        })?;
        added.prepare()?;
        let entering = &added;
        let sockets = in_namespace(pid, || entering.open_inside())?;
        added.attach(pid as u32, || Ok(sockets))?;
        finish(pid, &added.steps)?;
        self.merge(added);
        Ok(())
    }

    fn merge(&mut self, added: Self) {
        let attachments = added.mode.attachments().iter().cloned();
        self.mode = Mode::Networks(self.mode.attachments().iter().cloned().chain(attachments).collect());
        self.interfaces.extend(added.interfaces);
        self.own.made += 1;
        if !added.names.is_empty() {
            self.own.has_names = true;
            self.names = added.names;
        }
        match (&mut self.hub, added.hub) {
            (Some(hub), Some(other)) => {
                hub.bridges.extend(other.bridges);
                hub.leases.extend(other.leases);
            }
            (own, other) => *own = own.take().or(other),
        }
    }

    /// Takes the container off a network, and the ports that were published there, which are told.
    pub fn disconnect(&mut self, network: &str, pid: i32) -> Result<Vec<Port>> {
        let at = self.interfaces.iter().position(|interface| interface.network == network);
        let (Some(at), Some(hub)) = (at, &mut self.hub) else {
            bail!("disconnect network `{network}`: the container is not on it");
        };
        let targets: Vec<IpAddr> = self.interfaces[at].addresses().collect();
        let own = &self.interfaces[at];
        if own.driver.has_bridge() {
            delete_link(&mut hub.rtnl, &own.host)?;
        } else {
            in_namespace(pid, || delete_link(&mut Rtnl::open()?, &own.name).map(|()| vec![]))?;
        }
        let gone = self.interfaces.remove(at);
        if self.own.host_access {
            let known = gone.host().into_iter().flat_map(access::elements).map(Change::DeleteElement);
            let known = known.collect::<Vec<_>>();
            change_inside(pid, &if hub.bridges[at].definition.internal { vec![] } else { known })?;
        }
        hub.bridges.remove(at);
        hub.leases.remove(at);
        let mut attachments = self.mode.attachments().to_vec();
        attachments.retain(|attachment| attachment.network != network);
        self.mode = Mode::Networks(attachments);
        let freed = self.take_back(|port| targets.contains(&port.target));
        for ipv6 in [gone.default_route.then_some(false), gone.default_route6.then_some(true)].into_iter().flatten() {
            self.find_way_out(pid, ipv6)?;
        }
        freed
    }

    /// Sets options of the container's port on a network, by the names of [`PORT_OPTIONS`].
    pub fn set_port(&mut self, network: &str, options: &[(String, u32)]) -> Result<()> {
        let interface = self.interfaces.iter_mut().find(|interface| interface.network == network);
        let (Some(interface), Some(hub)) = (interface, &mut self.hub) else {
            bail!("set options of the port on network `{network}`: the container is not on it");
        };
        let mut steps = Vec::new();
        for (name, value) in options {
            let option = PORT_OPTIONS.into_iter().find(|option| option == name);
            let option =
                option.with_context(|| format!("set `{name}` of port `{}`: it is no option", interface.host))?;
            steps.push(Step::SetPortOption { link: interface.host.clone(), option, value: *value });
        }
        let _turn = lock(&hub.directory, nix::fcntl::FlockArg::LockShared)?;
        let mut applier = Applier::new(&mut hub.rtnl, 0);
        applier.apply(&steps)?;
        applier.commit();
        interface.port.extend(options.iter().cloned());
        Ok(())
    }

    /// Gives the default route to another interface, where there is one with a way out.
    fn find_way_out(&mut self, pid: i32, ipv6: bool) -> Result<()> {
        let Some(hub) = &self.hub else { return Ok(()) };
        let attachments = self.mode.attachments();
        let Some(at) = super::decide::default_route(attachments, &hub.bridges, ipv6) else { return Ok(()) };
        let (gateway, gateway6) = hub.bridges[at].definition.gateways();
        let gateway = gateway6.filter(|_| ipv6).map_or(IpAddr::from(gateway), IpAddr::from);
        let sockets = in_namespace(pid, || Ok(vec![Rtnl::open()?.into_fd()?]))?;
        let socket = sockets.into_iter().next().context("open a socket in the container's network")?;
        let batch = Rtnl::from_fd(socket).batch(vec![rtnl::add_default_route(gateway)]);
        batch.map_err(|refused| refused.error.context(format!("add default route by `{gateway}`")))?;
        let interface = &mut self.interfaces[at];
        *if ipv6 { &mut interface.default_route6 } else { &mut interface.default_route } = true;
        Ok(())
    }

    /// Publishes further ports.
    pub fn publish_more(&mut self, wishes: &[Wish]) -> Result<Vec<Port>> {
        if self.interfaces.is_empty() {
            let message = "publish a port: the container is on no managed network";
            return Err(refused(message, "connect it to one: `minirun network connect NETWORK CONTAINER`"));
        }
        let own = self.own.clone();
        let first = self.steps.len();
        let ports = self.publish(wishes, &own, false)?;
        let steps = self.steps.split_off(first);
        let hub = self.hub.as_mut().context("publish a port: no network")?;
        let _turn = lock(&hub.directory, nix::fcntl::FlockArg::LockShared)?;
        let mut applier = Applier::new(&mut hub.rtnl, 0);
        if let Err(error) = applier.apply(&steps) {
            drop(applier);
            self.ports.retain(|port| !ports.contains(port));
            self.release_sockets(&ports);
            return Err(error);
        }
        applier.commit();
        self.published.extend(elements_of(&ports, &own.id));
        conntrack::forget(&ports)?;
        Ok(ports)
    }

    /// Takes back the published ports that `which` says. Those that were.
    pub fn take_back(&mut self, which: impl Fn(&Port) -> bool) -> Result<Vec<Port>> {
        let gone: Vec<Port> = self.ports.iter().filter(|port| which(port)).cloned().collect();
        let directory = self.hub.as_ref().map(|hub| hub.directory.as_path());
        delete(directory, elements_of(&gone, &self.own.id).into_iter().map(Change::DeleteElement).collect())?;
        conntrack::forget(&gone)?;
        self.ports.retain(|port| !gone.contains(port));
        self.published = elements_of(&self.ports, &self.own.id);
        self.release_sockets(&gone);
        self.unpublish(&gone)?;
        Ok(gone)
    }

    /// Has the ports of bridges as they were without published ports, where none of them is left.
    fn unpublish(&mut self, gone: &[Port]) -> Result<()> {
        let Some(hub) = &mut self.hub else { return Ok(()) };
        let mut steps = Vec::new();
        for (interface, bridge) in self.interfaces.iter().zip(&hub.bridges) {
            let leads = |port: &Port| interface.addresses().any(|address| address == port.target);
            if gone.iter().any(leads) && !self.ports.iter().any(leads) {
                let options = port_options(&bridge.definition, &interface.port);
                let value = options.iter().find(|(option, _)| *option == "hairpin").map_or(0, |(_, value)| *value);
                steps.push(Step::SetPortOption { link: interface.host.clone(), option: "hairpin", value });
            }
        }
        let mut applier = Applier::new(&mut hub.rtnl, 0);
        applier.apply(&steps)?;
        applier.commit();
        Ok(())
    }

    fn release_sockets(&mut self, gone: &[Port]) {
        if let Some(hub) = &mut self.hub {
            hub.held.retain(|held| !gone.contains(&held.port));
            hub.relayed.retain(|relayed| !gone.contains(&relayed.port));
        }
    }
}

/// The names of the links in the network namespace of process `pid`.
fn links_of(pid: i32) -> Result<Vec<String>> {
    let socket = in_namespace(pid, || Ok(vec![Rtnl::open()?.into_fd()?]))?.pop();
    let links = Rtnl::from_fd(socket.context("open a socket in the container's network")?).links()?;
    Ok(links.iter().map(|message| hub::link(message).name).collect())
}

pub(super) fn delete_link(rtnl: &mut Rtnl, link: &str) -> Result<()> {
    let Some(index) = rtnl.index_of(link)? else { return Ok(()) };
    let deleted = rtnl.batch(vec![rtnl::delete_link(index)]);
    deleted.map_err(|refused| refused.error.context(format!("delete link `{link}`")))
}

/// Changes the table in the network namespace of process `pid`.
pub(super) fn change_inside(pid: i32, changes: &[Change]) -> Result<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let change = || {
        nft::commit(&changes.iter().collect::<Vec<_>>())
            .map_err(|refused| refused.error.context("change the container's rules"))
    };
    in_namespace(pid, || change().map(|()| vec![])).map(drop)
}

/// Whether it is the container's own process that does this at its start.
pub(super) fn is_own(step: &Step) -> bool {
    matches!(step, Step::Sysctl { place: Place::Container, .. } | Step::Announce { .. })
}

/// Does what the container's own process does at its start: settings, and telling the neighbours.
pub(super) fn finish(pid: i32, steps: &[Step]) -> Result<()> {
    let one = |step: &Step| match step {
        Step::Sysctl { place: Place::Container, key, value } => set(key, value),
        step => announce(step),
    };
    if !steps.iter().any(is_own) {
        return Ok(());
    }
    in_namespace(pid, || steps.iter().try_for_each(one).map(|()| vec![])).map(drop)
}

/// Tells the neighbours of a link of the network namespace that this process is in.
pub fn announce(step: &Step) -> Result<()> {
    let Step::Announce { link, mac } = step else { return Ok(()) };
    let told = Rtnl::open()?.batch(vec![rtnl::set_mac(link, *mac)]);
    told.map_err(|refused| refused.error.context(format!("tell the neighbours of `{link}`")))
}

/// Writes a setting of the network namespace that this process is in.
fn set(key: &str, value: &str) -> Result<()> {
    let write = || OpenOptions::new().write(true).open(Path::new("/proc/sys").join(key))?.write_all(value.as_bytes());
    write().with_context(|| format!("set `{key}` to {value}"))
}

/// What `work` opens in the network namespace of process `pid`: it is done by a process of its own, because one that has
/// joined another namespace must not come back.
pub fn in_namespace(pid: i32, work: impl FnOnce() -> Result<Vec<OwnedFd>>) -> Result<Vec<OwnedFd>> {
    let path = format!("/proc/{pid}/ns/net");
    let namespace = openat(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, FileMode::empty())
        .with_context(|| format!("open `{path}`"))?;
    in_namespace_of(&namespace, work)
}

/// The same in a network namespace that is open.
pub(in crate::net) fn in_namespace_of(
    namespace: &OwnedFd,
    work: impl FnOnce() -> Result<Vec<OwnedFd>>,
) -> Result<Vec<OwnedFd>> {
    let (ours, theirs) = sync::pair()?;
    match sys::clone3(0, None).context("make a process for the container's network")? {
        Side::Parent(child) => {
            drop(theirs);
            let heard = ours.next();
            while waitpid(Pid::from_raw(child.pid), None) == Err(nix::Error::EINTR) {}
            match heard? {
                FromChild::Inside(sockets) => Ok(sockets),
                other => Err(other.unexpected()),
            }
        }
        Side::Child => carry_out(&theirs, || {
            setns(namespace, CloneFlags::CLONE_NEWNET).context("join the container's network")?;
            let sockets = work()?;
            theirs.inside(&sockets.iter().map(std::os::fd::AsFd::as_fd).collect::<Vec<_>>())?;
            sys::exit_now(0)
        }),
    }
}
