//! A Step done and undone, by netlink, /proc/sys and, for tap devices, /dev/net/tun. No program is run.
//!
//! Used by `mod.rs` for both ends of a launch. Neighbouring steps of one namespace are sent as one batch; what an applier
//! did is undone when it is dropped, unless it was committed. Steps in the container's namespace go through a socket that
//! the container's process opened there and handed over; its settings (`Sysctl`) are written by that process itself.

mod advice;
mod undo;

pub use self::advice::told;
use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use ipnet::IpNet;
use nix::libc;

use super::explain;
use super::foreign;
use super::hub;
use super::narrator::Narrator;
use super::nft;
use super::rtnl::{self, Request, Rtnl};
use super::step::{Place, Step};
use super::table::Change;
use super::vxlan::Tunnel;

/// How long the kernel may take to take a link away whose namespace has gone, and how often it is asked.
const PATIENCE: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_millis(10);

/// Applies steps and remembers what it did.
#[derive(Debug)]
pub struct Applier<'a> {
    hub: &'a mut Rtnl,
    /// The process whose network namespace is [`Place::Container`].
    pid: u32,
    container: Option<Rtnl>,
    /// What tap devices are made through, one each.
    tuns: Vec<OwnedFd>,
    indices: HashMap<(Place, String), u32>,
    done: Vec<Step>,
    narrator: Option<&'a mut Narrator>,
}

impl<'a> Applier<'a> {
    /// An applier for steps in the hub, and, once [`enter`](Self::enter) was called, in the namespace of process `pid`.
    pub fn new(hub: &'a mut Rtnl, pid: u32) -> Self {
        let indices = HashMap::from([((Place::Container, "lo".to_owned()), 1)]);
        Self { hub, pid, container: None, tuns: vec![], indices, done: Vec::new(), narrator: None }
    }

    /// Tells the index of a link that is known already, so that it is not asked for.
    pub fn know(&mut self, link: &str, index: u32) {
        self.indices.insert((Place::Hub, link.to_owned()), index);
    }

    /// Has each step told, and so done one by one.
    pub fn told_to(&mut self, narrator: Option<&'a mut Narrator>) {
        self.narrator = narrator;
    }

    /// Takes the socket that stands in the container's namespace, and what tap devices are made through.
    pub fn enter(&mut self, socket: Rtnl, tuns: Vec<OwnedFd>) {
        self.container = Some(socket);
        self.tuns = tuns;
    }

    /// Does the steps in order. After an error those that were done stay done until this value is dropped.
    pub fn apply(&mut self, steps: &[Step]) -> Result<()> {
        let mut rest = steps;
        while let Some(first) = rest.first() {
            let mut length = rest.iter().take_while(|step| way(step) == way(first)).count();
            if self.narrator.is_some() && way(first) != Way::Nft {
                length = 1;
            }
            let (group, after) = rest.split_at(length);
            rest = after;
            // Those are done by others, who tell of them.
            if way(first) != Way::Inside {
                self.tell_and(group)?;
            }
        }
        Ok(())
    }

    fn tell_and(&mut self, group: &[Step]) -> Result<()> {
        let Some(narrator) = self.narrator.take() else { return self.apply_group(group) };
        let outcome = narrator.tell(group, || self.apply_group(group));
        self.narrator = Some(narrator);
        outcome
    }

    fn apply_group(&mut self, group: &[Step]) -> Result<()> {
        match group.first().map(way) {
            Some(Way::Rtnl(place)) => self.send(place, group)?,
            Some(Way::Nft) => {
                let directory = hub::directory(self.hub)?;
                foreign::change::ours(&directory, || commit_nft(group))?;
                self.done.extend_from_slice(group);
            }
            Some(Way::Sysctl) => {
                for step in group {
                    write_sysctl(step)?;
                    self.done.push(step.clone());
                }
            }
            Some(Way::Lending) => {
                for step in group {
                    let Step::Lend { device, name } = step else { continue };
                    device.lend(self.hub, name, self.pid)?;
                    self.indices.insert((Place::Container, name.clone()), device.index_inside());
                    self.done.push(step.clone());
                }
            }
            Some(Way::Tun) => {
                for step in group {
                    self.add_tap(step)?;
                    self.done.push(step.clone());
                }
            }
            Some(Way::Delete) => group.iter().try_for_each(|step| self.delete(step))?,
            // The container's own process does these (`init.rs`).
            Some(Way::Inside) | None => {}
        }
        Ok(())
    }

    /// Has the kernel catch up with the links that went up: a bridge passes nothing on to a port before it has noticed the
    /// carrier, and a link sends nothing before. It notices by a work queue, which on a busy machine is after the program's
    /// first packet. Another one makes an IPv6 address its own, to which nothing gets before.
    pub fn settle(&mut self) -> Result<()> {
        let look = |socket: &Rtnl, link: &str| {
            crate::sys::has_carrier(socket.as_fd(), link).with_context(|| format!("look at the carrier of `{link}`"))
        };
        for step in &self.done {
            match step {
                Step::AddVeth { peer: link, .. }
                | Step::AddMacvlan { name: link, .. }
                | Step::MoveLink { name: link, .. } => {
                    self.container.as_ref().map_or(Ok(true), |socket| look(socket, link))?
                }
                Step::SetPort { link, bridge, .. } => look(self.hub, link).and(look(self.hub, bridge))?,
                _ => continue,
            };
        }
        for step in &self.done {
            if let Step::AddAddress { place, address: IpNet::V6(address), .. } = step {
                let socket = if *place == Place::Hub { Some(&mut *self.hub) } else { self.container.as_mut() };
                socket.map_or(Ok(()), |socket| until_local(socket, address.addr()))?;
            }
        }
        Ok(())
    }

    /// What was done stays. The socket in the container's namespace, if there is one.
    pub fn commit(mut self) -> Option<Rtnl> {
        self.done.clear();
        self.container.take()
    }

    fn send(&mut self, place: Place, steps: &[Step]) -> Result<()> {
        let mut batch = Vec::with_capacity(steps.len());
        let mut sent = 0;
        for (at, step) in steps.iter().enumerate() {
            if self.needs_index(step).is_some_and(|key| !self.indices.contains_key(&key)) {
                self.flush(place, &steps[sent..at], std::mem::take(&mut batch))?;
                sent = at;
            }
            batch.push(self.request(step)?);
            match step {
                Step::AddVeth { peer: name, peer_index: index, .. } | Step::AddMacvlan { name, index, .. }
                    if *index != 0 =>
                {
                    self.indices.insert((Place::Container, name.clone()), *index);
                }
                Step::SetUp { place: Place::Container, link } if self.is_on_a_parent(link) => {
                    batch.pop();
                    self.flush(place, &steps[sent..at], std::mem::take(&mut batch))?;
                    self.set_up_when_free(step, link)?;
                    sent = at + 1;
                }
                // The kernel goes on after a refused request: where somebody else has a bridge of this name, what follows
                // would change theirs.
                Step::AddBridge { .. } | Step::AddVxlan { .. } => {
                    self.flush(place, &steps[sent..=at], std::mem::take(&mut batch))?;
                    sent = at + 1;
                }
                _ => {}
            }
        }
        self.flush(place, &steps[sent..], batch)
    }

    fn is_on_a_parent(&self, link: &str) -> bool {
        self.done.iter().any(|step| matches!(step, Step::AddMacvlan { name, .. } if name == link))
    }

    /// Sets a link on a parent up. Two on one parent cannot have the same hardware address, and the one of the container that
    /// had the address before is taken away a moment after its end.
    fn set_up_when_free(&mut self, step: &Step, link: &str) -> Result<()> {
        let Some(socket) = self.container.as_mut() else { bail!("configure the container's network: no socket in it") };
        let end = Instant::now() + PATIENCE;
        loop {
            match socket.batch(vec![rtnl::set_up(link)]) {
                Err(refused) if refused.errno == libc::EADDRINUSE && Instant::now() < end => sleep(INTERVAL),
                Err(refused) => return Err(told(&refused, Some(step))),
                Ok(()) => break,
            }
        }
        self.done.push(step.clone());
        Ok(())
    }

    /// Sends a request a step, and remembers the steps that were done: all but a refused one.
    fn flush(&mut self, place: Place, steps: &[Step], batch: Vec<Request>) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let socket = match place {
            Place::Hub => &mut *self.hub,
            Place::Container => {
                self.container.as_mut().ok_or_else(|| anyhow!("configure the container's network: no socket in it"))?
            }
        };
        let outcome = socket.batch(batch);
        let refused = outcome.as_ref().err().map(|refused| refused.request);
        self.done.extend(steps.iter().enumerate().filter(|(at, _)| Some(*at) != refused).map(|(_, step)| step.clone()));
        outcome.map_err(|refused| told(&refused, steps.get(refused.request)))
    }

    fn add_tap(&mut self, step: &Step) -> Result<()> {
        let Step::AddTap { link, index, owner } = step else { return Ok(()) };
        let tun = self.tuns.pop().with_context(|| format!("{}: no device in its network", explain::deed(step)))?;
        crate::sys::add_tap(&tun, link, *index, *owner).with_context(|| explain::deed(step))?;
        self.indices.insert((Place::Container, link.clone()), *index);
        Ok(())
    }

    fn request(&mut self, step: &Step) -> Result<Request> {
        Ok(match step {
            Step::AddBridge { name, mac, options } => rtnl::add_bridge(name, *mac, options),
            Step::SetAlias { link, alias } => rtnl::set_alias(link, alias),
            Step::AddAddress { place, link, address } => rtnl::add_address(self.index(*place, link)?, *address),
            Step::NoLinkLocal { link, .. } => rtnl::no_link_local(link),
            Step::SetUp { link, .. } => rtnl::set_up(link),
            Step::AddVeth { host, mtu, peer, peer_mac, peer_index } => {
                rtnl::add_veth(host, *mtu, peer, *peer_mac, *peer_index, self.pid)
            }
            Step::AddEntrance { place, link, direction } => rtnl::add_entrance(self.index(*place, link)?, *direction),
            Step::AddFilter { place, link, direction, filter } => {
                rtnl::add_filter(self.index(*place, link)?, *direction, &filter.program())
            }
            Step::SetPort { link, bridge, alias } => rtnl::set_port(link, self.index(Place::Hub, bridge)?, alias),
            Step::SetPortOption { link, option, value } => rtnl::set_port_option(link, option, *value),
            Step::AddMacvlan { parent, mode, name, mac, mtu, index } => {
                let mac = Some(*mac).filter(|_| *mode != "passthru");
                rtnl::add_macvlan(self.index(Place::Hub, parent)?, mode, name, mac, *mtu, *index, self.pid)
            }
            Step::AddVxlan { name, mtu, tunnel } => {
                let dev = tunnel.dev.as_ref().map(|dev| self.index(Place::Hub, dev)).transpose()?;
                rtnl::add_vxlan(name, *mtu, tunnel, dev)
            }
            Step::AddFlood { link, remote } => rtnl::add_flood(self.index(Place::Hub, link)?, *remote),
            Step::MoveLink { link, name, mac, mtu, index } => {
                rtnl::move_link(self.index(Place::Hub, link)?, name, *mac, *mtu, *index, self.pid)
            }
            Step::SetBridgeOption { link, option, value } => rtnl::set_bridge_option(link, option, *value),
            Step::Shape { place, link, rate, burst } => rtnl::shape(self.index(*place, link)?, *rate, *burst),
            Step::SetMtu { link, mtu, .. } => rtnl::set_mtu(link, *mtu),
            Step::SetMac { link, mac, .. } => rtnl::set_mac(link, *mac),
            Step::Rename { link, name } => rtnl::rename(self.index(Place::Container, link)?, name),
            Step::ReplaceDefaultRoute { gateway } => rtnl::replace_default_route(*gateway),
            Step::AddDefaultRoute { gateway } => rtnl::add_default_route(*gateway),
            Step::DeleteLink { .. }
            | Step::Lend { .. }
            | Step::AddTap { .. }
            | Step::Sysctl { .. }
            | Step::Announce { .. }
            | Step::Nft(_)
            | Step::NftInside(_) => {
                bail!("send a step by rtnetlink: it goes another way")
            }
        })
    }

    fn needs_index(&self, step: &Step) -> Option<(Place, String)> {
        match step {
            Step::AddAddress { place, link, .. }
            | Step::AddEntrance { place, link, .. }
            | Step::AddFilter { place, link, .. }
            | Step::Shape { place, link, .. } => Some((*place, link.clone())),
            Step::SetPort { bridge: link, .. }
            | Step::AddMacvlan { parent: link, .. }
            | Step::AddVxlan { tunnel: Tunnel { dev: Some(link), .. }, .. }
            | Step::AddFlood { link, .. }
            | Step::MoveLink { link, .. } => Some((Place::Hub, link.clone())),
            Step::Rename { link, .. } => Some((Place::Container, link.clone())),
            _ => None,
        }
    }

    fn index(&mut self, place: Place, link: &str) -> Result<u32> {
        let key = (place, link.to_owned());
        if let Some(index) = self.indices.get(&key) {
            return Ok(*index);
        }
        let socket = if place == Place::Hub { Some(&*self.hub) } else { self.container.as_ref() };
        let socket = socket.context("configure the container's network: no socket in it")?;
        let index = crate::sys::link_index(socket.as_fd(), link).with_context(|| format!("find link `{link}`"))?;
        self.indices.insert(key, index);
        Ok(index)
    }

    /// Deletes a link; one that has gone meanwhile is no error.
    fn delete(&mut self, step: &Step) -> Result<()> {
        let Step::DeleteLink { place, link } = step else { return Ok(()) };
        let socket = if *place == Place::Hub { Some(&mut *self.hub) } else { self.container.as_mut() };
        let Some(socket) = socket else { return Ok(()) };
        let Some(index) = socket.index_of(link)? else { return Ok(()) };
        self.indices.remove(&(*place, link.clone()));
        match socket.batch(vec![rtnl::delete_link(index)]) {
            Err(refused) if refused.errno != libc::ENODEV => Err(told(&refused, Some(step))),
            _ => Ok(()),
        }
    }
}

/// Waits until an address is the kernel's own; one that is not in the end (IPv6 is turned off there) is nobody's error.
fn until_local(socket: &mut Rtnl, address: Ipv6Addr) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(1);
    while !socket.is_local6(address)? && Instant::now() < end {
        sleep(Duration::from_micros(100));
    }
    Ok(())
}

/// By which way a step reaches the kernel.
#[derive(PartialEq, Eq)]
enum Way {
    Rtnl(Place),
    Nft,
    Sysctl,
    Tun,
    Lending,
    Delete,
    Inside,
}

fn way(step: &Step) -> Way {
    match step {
        Step::Nft(_) => Way::Nft,
        Step::AddTap { .. } => Way::Tun,
        Step::Lend { .. } => Way::Lending,
        Step::DeleteLink { .. } => Way::Delete,
        Step::Sysctl { place: Place::Hub, .. } => Way::Sysctl,
        Step::Sysctl { place: Place::Container, .. } | Step::Announce { .. } | Step::NftInside(_) => Way::Inside,
        other => Way::Rtnl(other.place()),
    }
}

fn commit_nft(steps: &[Step]) -> Result<()> {
    let changes: Vec<&Change> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Nft(change) => Some(change),
            _ => None,
        })
        .collect();
    nft::commit(&changes).map_err(|refused| told(&refused, steps.get(refused.request)))
}

fn write_sysctl(step: &Step) -> Result<()> {
    let Step::Sysctl { key, value, .. } = step else { return Ok(()) };
    match set_sysctl(key, value) {
        // A link that has gone since it was looked at needs no forwarding.
        Err(error) if error.kind() == io::ErrorKind::NotFound && key.ends_with("/forwarding") => Ok(()),
        other => other.with_context(|| format!("set `{key}` to {value}")),
    }
}

fn set_sysctl(key: &str, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(Path::new("/proc/sys").join(key))?.write_all(value.as_bytes())
}
