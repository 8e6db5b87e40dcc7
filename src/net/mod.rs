//! The network of a container: what `--net` means, as steps.
//!
//! [`Network::decide`] looks at the kernel, takes addresses and lists the steps, all of it before anything is changed;
//! [`Network::prepare`] makes bridges where they are missing; [`Network::attach`] does the container's steps. `launch.rs`
//! calls them in this order.

pub mod access;
pub mod anchor;
pub mod apply;
pub mod args;
pub mod bridge;
pub mod change;
mod claim;
pub mod conntrack;
mod decide;
pub mod definition;
pub mod difference;
pub mod dns;
pub mod driver;
pub mod explain;
pub mod foreign;
pub mod guard;
pub mod hub;
mod intent;
mod interface;
pub mod ipam;
pub mod lent;
pub mod look;
pub mod macvlan;
pub mod members;
pub mod mend;
pub mod mode;
pub mod names;
pub mod narrator;
pub mod network;
pub mod nft;
pub mod opened;
pub mod options;
pub mod origin;
pub mod owner;
pub mod pool;
pub mod port;
pub mod ports;
pub mod program;
pub mod ptp;
pub mod publish;
pub mod rate;
pub mod reason;
pub mod relay;
pub mod reload;
pub mod removal;
mod request;
pub mod retold;
pub mod rtnl;
pub mod rules;
pub mod script;
pub mod seen;
pub mod services;
pub mod step;
pub mod stepping;
pub mod table;
pub mod tap;
pub mod verify;
pub mod vxlan;
pub mod wire;
pub mod wish;

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use self::apply::Applier;
use self::hub::View;
pub use self::interface::Interface;
use self::ipam::Lease;
use self::lent::Device;
use self::look::tell_what_was_made;
pub use self::mode::{Attachment, Mode, Net};
use self::narrator::{Explain, Narrator};
use self::network::{Bridge, Ground};
use self::ports::delete;
use self::publish::Port;
pub use self::request::Request;
use self::rtnl::Rtnl;
use self::script::Script;
use self::step::{Place, Step};
use self::table::{Change, Element};
use self::tap::Tap;
use crate::state::Record;

/// Where a container's name server listens, so that port 53 is left to the container's own programs: a port above those
/// that the kernel chooses and below none that has a name.
pub const NAMES_PORT: u16 = 41053;

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
    /// The settings of its namespace that are not those of a link that minirun made.
    settings: Vec<(String, String)>,
    /// Whether it reaches the host's loopback device.
    host_access: bool,
    /// The number of the namespace whose links are lent to it.
    lender: Option<u64>,
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
    /// Its tap devices.
    pub taps: Vec<Tap>,
    /// Links of the host that are lent to it.
    pub lent: Vec<Device>,
    /// By what they come back: a socket in its namespace, and the file that keeps that.
    way_back: Option<(Rtnl, PathBuf)>,
    /// Steps that make the bridges and the rules; on almost every run they are there and there are none.
    pub host_steps: Vec<Step>,
    /// Steps that make the container's part. Its settings (`Step::Sysctl`) are done by the container's own process.
    pub steps: Vec<Step>,
    /// What other containers need first.
    pub again: Vec<ptp::Again>,
    hub: Option<Hub>,
    /// What of the table leads to its ports, once it is there.
    published: Vec<Element>,
    /// The sockets of the container's name server.
    names: Vec<OwnedFd>,
    /// Who tells of each step.
    pub narrator: Option<Narrator>,
    /// Those of its way to the host.
    access: Vec<OwnedFd>,
    /// How it answers.
    answers: dns::Options,
    own: Own,
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
    /// Whether what was missing is made.
    is_prepared: bool,
    /// Ends that wait for this container.
    waiting: Vec<ptp::Waiting>,
    /// Held while an end of a cable is taken.
    cables: Option<Flock<File>>,
    leases: Vec<Lease>,
    /// What holds the published ports.
    held: Vec<publish::Held>,
    /// What is to be relayed, and is not yet.
    relayed: Vec<publish::Relayed>,
}

impl Network {
    /// Makes what is missing of the bridges and the rules, alone, and then lets others attach.
    pub fn prepare(&mut self) -> Result<()> {
        let Some(hub) = &mut self.hub else { return Ok(()) };
        if !self.host_steps.is_empty() {
            opened::remember_opened(&hub.directory, &hub.ground)?;
            let mut applier = Applier::new(&mut hub.rtnl, 0);
            applier.told_to(self.narrator.as_mut());
            applier.apply(&self.host_steps)?;
            applier.settle()?;
            applier.commit();
            hub.is_prepared = true;
            tell_what_was_made(&hub.bridges, &hub.ground);
        }
        for other in &self.again {
            hub.waiting.push(other.make(&mut hub.rtnl, self.narrator.as_mut())?);
        }
        let shared = hub.turn.as_ref().map_or(Ok(()), |turn| turn.relock(FlockArg::LockShared));
        shared.context("unlock the managed networks")
    }

    /// After the person before `--step` has stopped it: takes away what [`prepare`](Self::prepare) made, too.
    pub fn unprepare(&mut self) {
        let is_stepped = self.narrator.as_ref().is_some_and(Narrator::waits);
        let Some(hub) = self.hub.as_mut().filter(|hub| is_stepped && hub.is_prepared) else { return };
        (hub.turn, hub.is_prepared) = (None, false);
        if let Err(error) = removal::take_back(&mut hub.rtnl, &self.own.data_root, &hub.directory, &hub.ground) {
            crate::error::warn(&format!("undo the networks: {error:#}"));
        }
    }

    /// In the container's process, in its namespace: opens the sockets that [`attach`](Self::attach) wants.
    pub fn open_inside(&self) -> Result<Vec<OwnedFd>> {
        if self.mode.joins() {
            return Ok(vec![]);
        }
        let mut sockets = vec![Rtnl::open()?.into_fd()?];
        sockets.extend(tap::open(&self.taps)?);
        if self.inside().next().is_some() {
            sockets.push(nft::open().context("open nfnetlink socket")?.as_fd().try_clone_to_owned()?);
        }
        if self.inside().any(|change| *change == Change::AddTable) {
            let (udp, tcp) = dns::open(NAMES_PORT)?;
            sockets.extend([udp, tcp]);
            if self.own.host_access {
                sockets.extend(access::open()?);
            }
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
    fn make_inside(&mut self, socket: OwnedFd) -> Result<()> {
        let mut narrator = self.narrator.take();
        let steps: Vec<&Step> = self.steps.iter().filter(|step| matches!(step, Step::NftInside(_))).collect();
        let changes: Vec<&Change> = self.inside().collect();
        let commit = || {
            nft::commit_by(crate::sys::netlink_socket(socket), &changes)
                .map_err(|refused| apply::told(&refused, steps.get(refused.request).copied()))
        };
        let done = match &mut narrator {
            None => commit(),
            Some(narrator) => narrator.tell(&steps.iter().copied().cloned().collect::<Vec<_>>(), commit),
        };
        self.narrator = narrator;
        done
    }

    /// Tells of what the container's own process does, and of all together where that was asked for.
    pub fn tell_the_rest(&mut self) -> Result<()> {
        let own: Vec<Step> = self.own_steps().cloned().collect();
        let Self { mode, host_steps, steps, again, ports, narrator: Some(narrator), .. } = self else { return Ok(()) };
        narrator.tell_own(&own)?;
        if narrator.form == Explain::Text {
            script::passed_on(ports).iter().for_each(|line| crate::error::tell(&format!("# {line}\n")));
        }
        if narrator.form == Explain::Sh {
            crate::error::tell(
                &Script { mode, container: Some(&narrator.netns), again, host_steps, steps, ports }.text(),
            );
        }
        Ok(())
    }

    /// Does the container's steps: those in the hub for the namespace of process `pid`, then those in that namespace by the
    /// first of the sockets that `enter` brings. After an error everything is undone.
    pub fn attach(&mut self, pid: u32, enter: impl FnOnce() -> Result<Vec<OwnedFd>>) -> Result<()> {
        if self.mode.joins() {
            return Ok(());
        }
        self.narrator.iter_mut().for_each(|narrator| narrator.enter(pid));
        let Some(hub) = self.hub.as_mut() else {
            // Nothing to do in the hub: the container's own socket will do.
            let mut sockets = enter()?;
            let mut rtnl = take_rtnl(&mut sockets)?;
            if self.taps.is_empty() && self.lent.is_empty() && self.narrator.is_none() {
                return rtnl
                    .batch(vec![rtnl::set_up("lo")])
                    .map_err(|refused| refused.error.context("set link `lo` up"));
            }
            let mut hub = Rtnl::open()?;
            let kept = lent::keep_for(&self.lent, &hub, &self.own.id, pid)?;
            let mut applier = Applier::new(&mut hub, pid);
            applier.told_to(self.narrator.as_mut());
            applier.enter(rtnl, sockets);
            applier.apply(&self.steps)?;
            applier.settle()?;
            self.way_back = applier.commit().zip(kept.map(lent::Keeper::into_path));
            return Ok(());
        };
        let kept = lent::keep_for(&self.lent, &hub.rtnl, &self.own.id, pid)?;
        let mut applier = Applier::new(&mut hub.rtnl, pid);
        applier.told_to(self.narrator.as_mut());
        for link in hub.bridges.iter().filter_map(|bridge| bridge.link.as_ref()) {
            applier.know(&link.name, link.index);
        }
        let first_inside = self.steps.iter().position(|step| step.place() == Place::Container);
        let (before, rest) = self.steps.split_at(first_inside.unwrap_or(self.steps.len()));
        applier.apply(before)?;
        let mut sockets = enter()?;
        let rtnl = take_rtnl(&mut sockets)?;
        applier.enter(rtnl, sockets.drain(..self.taps.len().min(sockets.len())).collect());
        applier.apply(rest)?;
        applier.settle()?;
        self.way_back = applier.commit().zip(kept.map(lent::Keeper::into_path));
        let element = |step: &Step| match step {
            Step::Nft(Change::AddElement(element)) => Some(element.clone()),
            _ => None,
        };
        self.published = self.steps.iter().filter_map(element).collect();
        hub.waiting.drain(..).for_each(ptp::Waiting::plugged_in);
        (hub.turn, hub.cables) = (None, None);
        if self.inside().next().is_some() && !sockets.is_empty() {
            self.make_inside(sockets.remove(0))?;
        }
        if self.own.host_access && !sockets.is_empty() {
            self.access = sockets.split_off(sockets.len().saturating_sub(access::SOCKETS));
        }
        self.names = sockets;
        conntrack::forget(&self.ports)
    }

    /// Takes back what does not end with the container: its published ports. Not before it was attached: then they are
    /// nobody's, or another container's. A second time nothing is left to do.
    pub fn release(&mut self) -> Result<()> {
        let back = match self.way_back.take() {
            Some((inside, path)) => lent::bring_back(&self.lent, inside, &path),
            None => Ok(()),
        };
        let published = std::mem::take(&mut self.published);
        if published.is_empty() {
            return back;
        }
        let directory = self.hub.as_ref().map(|hub| hub.directory.as_path());
        delete(directory, published.into_iter().map(Change::DeleteElement).collect())?;
        conntrack::forget(&self.ports).and(back)
    }

    /// Lets others have its addresses, its ends of cables and its ports, when nothing leads to them any more. Before anybody is
    /// told of its end: who has waited for that may want them next.
    pub fn let_go(&mut self) {
        self.hub = None;
    }

    /// What its record says of it.
    pub fn write_down(&self, record: &mut Record) {
        record.network = self.mode.to_string();
        record.interfaces.clone_from(&self.interfaces);
        record.ports.clone_from(&self.ports);
        // A bundle may have had some of them taken away.
        let made = |one: &&(String, String)| self.settings().any(|(key, value)| key == one.0 && value == one.1);
        record.sysctls = self.own.settings.iter().filter(made).cloned().collect();
        record.taps.clone_from(&self.taps);
        record.host_access = self.own.host_access;
        record.hub = self.hub.as_ref().map(|hub| hub.number).or(self.own.lender);
        lent::write_down(&self.lent, &self.mode, record);
    }

    /// What the container's own process does, in its order: settings, and telling the neighbours.
    pub fn own_steps(&self) -> impl Iterator<Item = &Step> {
        let settings = self.steps.iter().filter(|step| matches!(step, Step::Sysctl { place: Place::Container, .. }));
        settings.chain(self.steps.iter().filter(|step| matches!(step, Step::Announce { .. })))
    }

    /// The settings among that.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        self.steps.iter().filter_map(|step| match step {
            Step::Sysctl { place: Place::Container, key, value } => Some((key.as_str(), value.as_str())),
            _ => None,
        })
    }

    /// The addresses by which the container knows itself: those of its first interface.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.interfaces.first().map(|interface| interface.addresses().collect()).unwrap_or_default()
    }

    /// The host's address as the container sees it; none where no network of it has the host on it.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        let mut bridged = self.interfaces.iter().filter(|interface| interface.driver.has_bridge());
        let way_out = bridged.clone().find(|interface| interface.default_route);
        way_out.or(bridged.next()).and_then(|interface| interface.gateway)
    }
}

fn take_rtnl(sockets: &mut Vec<OwnedFd>) -> Result<Rtnl> {
    if sockets.is_empty() {
        bail!("configure the container's network: no socket in it");
    }
    Ok(Rtnl::from_fd(sockets.remove(0)))
}
