//! ptp: a network of two containers, joined by a veth pair without a bridge; on the host there is nothing to reach.
//!
//! The pair is made when the first of them starts, so that this one has its interface and address from its first
//! instruction on. The other end waits in the hub, down and without an address, under the network's link name, and is moved
//! into the second one when that starts. The kernel takes a pair away as a whole when a namespace that one end is in goes.
//! Whoever of the two is left has then no interface there, and gets it back, with the same name and addresses, when another
//! second one starts: that one makes a new pair for the first before it takes the waiting end.
//!
//! Who is there is a lock on one of the two bytes of the hub's file `ends.NAME`, held for as long as a container lives and
//! given back by the kernel, as its address is (`ipam.rs`). Between looking at the ends and taking one, nobody else looks:
//! a lock on the hub's directory is held from the decision until the links are made.
//!
//! Used by `decide.rs` and `network.rs`.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::libc;

use super::apply::Applier;
use super::change::{finish, in_namespace, is_own};
use super::definition::Definition;
use super::driver::{configure, settings};
use super::hub::{self, View};
use super::narrator::Narrator;
use super::network::Bridge;
use super::rtnl::{self, Rtnl};
use super::step::{Place, Step};
use super::{Interface, ipam};
use crate::error::refused;
use crate::state::{self, State};

/// Of both ends, in bytes, where nothing is said: no uplink comes into it.
pub const MTU: u32 = 1500;

/// How a container comes by its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It is the first: the pair is made. What a dead one has left is in the way.
    First {
        /// Whether something is.
        stale: bool,
    },
    /// The other end waits in the hub.
    Second,
}

/// What has to be done in another container first: its end went with the one that was at the other end before.
#[derive(Debug)]
pub struct Again {
    /// Its name.
    pub name: String,
    /// The steps; the namespace of the container in them is its.
    pub steps: Vec<Step>,
    /// What waits for the second one then.
    link: String,
    pid: i32,
    /// The same process: while it lives, its number is nobody else's.
    process: OwnedFd,
}

/// An end that was made again and waits in the hub. Nobody comes for it if the second one does not start: then the first is
/// to have none, as before.
#[derive(Debug)]
pub struct Waiting(String);

impl Waiting {
    /// The second one has it.
    pub fn plugged_in(mut self) {
        self.0.clear();
    }

    fn delete(&self) -> Result<()> {
        let mut rtnl = Rtnl::open()?;
        let Some(index) = rtnl.index_of(&self.0)? else { return Ok(()) };
        match rtnl.batch(vec![rtnl::delete_link(index)]) {
            // The first one has ended meanwhile.
            Err(refused) if refused.errno != libc::ENODEV => Err(refused.error),
            _ => Ok(()),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if !self.0.is_empty()
            && let Err(error) = self.delete()
        {
            crate::error::warn(&format!("delete link `{}`: {error:#}", self.0));
        }
    }
}

/// An end that was taken.
#[derive(Debug)]
pub struct Taken {
    /// How it is come by.
    pub end: End,
    /// The lock that says so; none where nothing is taken.
    pub lock: Option<File>,
    /// What has to be done first.
    pub again: Option<Again>,
}

/// Waits for one's turn to look at the ends of cables.
pub fn turn(directory: &Path) -> Result<Flock<File>> {
    // The directory itself, which holds the files of the ends.
    let directory = File::open(directory).context("open the hub's directory")?;
    Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, error)| error).context("lock the cables")
}

/// Takes an end of a network's cable; with `dry` it only looks.
///
/// Errors: both are taken; the link that waits is somebody else's.
pub fn take(
    rtnl: &mut Rtnl,
    directory: &Path,
    root: &Path,
    view: &View,
    definition: &Definition,
    dry: bool,
) -> Result<Taken> {
    let link = rtnl.link_called(&definition.link)?.as_ref().map(hub::link);
    if let Some(link) = link.as_ref().filter(|link| link.alias != definition.alias()) {
        let name = &link.name;
        return Err(refused(
            format!("use network `{}`: the host has a link `{name}` that is not minirun's", definition.name),
            format!("rename it (`ip link set {name} name NAME`) or delete it (`ip link del {name}`)"),
        ));
    }
    let path = directory.join(format!("ends.{}", definition.name));
    let (lock, other) = if dry {
        let taken = ipam::held(&path)?;
        if taken == [true, true] {
            return Err(both_taken(root, definition));
        }
        (None, taken != [false, false])
    } else {
        let file = state::open_private(&path)?;
        let own = if ipam::lock(&file, 0)? {
            0
        } else if ipam::lock(&file, 1)? {
            1
        } else {
            return Err(both_taken(root, definition));
        };
        let other = ipam::is_locked(&file, 1 - own)?;
        (Some(file), other)
    };
    let (end, again) = match (other, link.is_some()) {
        (false, stale) => (End::First { stale }, None),
        (true, true) => (End::Second, None),
        (true, false) => (End::Second, Some(again(root, view, definition)?)),
    };
    Ok(Taken { end, lock, again })
}

/// The steps that make a cable anew for the container that has lost its end.
fn again(root: &Path, view: &View, definition: &Definition) -> Result<Again> {
    let unknown = || {
        refused(
            format!("use network `{}`: the container at its other end cannot be told", definition.name),
            "it is just starting, and then again will do, or it was started with another --root",
        )
    };
    let on = |interface: &Interface| interface.network == definition.name;
    let found = State::open(root)?.list()?;
    let other = found.iter().find(|found| found.holder.is_some() && found.record.interfaces.iter().any(on));
    let record = &other.ok_or_else(unknown)?.record;
    let (Some(pid), Some(process)) = (record.pid, record.process()) else { return Err(unknown()) };
    let interface = record.interfaces.iter().find(|one| on(one)).ok_or_else(unknown)?;
    let mut steps = vec![Step::DeleteLink { place: Place::Container, link: interface.name.clone() }];
    steps.extend(pair(definition, interface, 0));
    steps.extend(configure(view, definition, interface));
    steps.extend(settings(view, interface));
    Ok(Again { name: record.name.clone(), steps, link: definition.link.clone(), pid, process })
}

fn both_taken(root: &Path, definition: &Definition) -> anyhow::Error {
    let on = |interface: &Interface| interface.network == definition.name;
    let found = State::open(root).and_then(|state| state.list()).unwrap_or_default();
    let names: Vec<String> = found
        .iter()
        .filter(|found| found.holder.is_some() && found.record.interfaces.iter().any(on))
        .map(|found| format!("`{}`", found.record.name))
        .collect();
    let whom = if names.is_empty() { "two".to_owned() } else { names.join(" and ") };
    refused(
        format!("use network `{}`: {whom} are on it, and a ptp network joins two", definition.name),
        format!(
            "take one off (`minirun network disconnect {} CONTAINER`), or use a network of driver bridge",
            definition.name
        ),
    )
}

/// A pair with one end in a container and the other waiting.
fn pair(definition: &Definition, interface: &Interface, index: u32) -> [Step; 2] {
    let host = definition.link.clone();
    let veth = Step::AddVeth {
        host: host.clone(),
        mtu: interface.mtu,
        peer: interface.name.clone(),
        peer_mac: interface.mac,
        peer_index: index,
    };
    [veth, Step::SetAlias { link: host, alias: definition.alias() }]
}

/// The steps that give a container its end.
pub fn attach(bridge: &Bridge, end: &End, view: &View, interface: &Interface) -> Vec<Step> {
    let definition = &bridge.definition;
    let mut steps = Vec::new();
    match end {
        End::First { stale } => {
            let old = Step::DeleteLink { place: Place::Hub, link: definition.link.clone() };
            steps.extend(stale.then_some(old));
            steps.extend(pair(definition, interface, interface.index));
        }
        End::Second => steps.push(Step::MoveLink {
            link: definition.link.clone(),
            name: interface.name.clone(),
            mac: interface.mac,
            mtu: interface.mtu,
            index: interface.index,
        }),
    }
    steps.extend(configure(view, definition, interface));
    steps.extend(settings(view, interface));
    steps
}

impl Again {
    /// Why there are steps in another container.
    pub fn title(&self) -> String {
        format!(
            "Container `{0}`, at the other end of a cable, has lost its own; its namespace is called `{0}`.",
            self.name
        )
    }

    /// Does it, and has it told.
    pub fn make(&self, rtnl: &mut Rtnl, narrator: Option<&mut Narrator>) -> Result<Waiting> {
        let made = match narrator {
            None => self.make_told(rtnl, None),
            Some(narrator) => narrator
                .elsewhere(&self.name, self.pid as u32, &self.title(), |narrator| self.make_told(rtnl, Some(narrator))),
        };
        made.with_context(|| format!("give container `{}` its end of the cable again", self.name))
    }

    fn make_told(&self, rtnl: &mut Rtnl, mut narrator: Option<&mut Narrator>) -> Result<Waiting> {
        let socket = in_namespace(self.pid, || Ok(vec![Rtnl::open()?.into_fd()?]))?.pop();
        if state::ended_within(&self.process, 0) {
            bail!("it has ended");
        }
        let mut applier = Applier::new(rtnl, self.pid as u32);
        applier.told_to(narrator.as_deref_mut());
        applier.enter(Rtnl::from_fd(socket.context("open a socket in its network")?), vec![]);
        applier.apply(&self.steps)?;
        applier.settle()?;
        applier.commit();
        let waiting = Waiting(self.link.clone());
        let Some(narrator) = narrator else { return finish(self.pid, &self.steps).map(|()| waiting) };
        for step in self.steps.iter().filter(|step| is_own(step)) {
            let step = std::slice::from_ref(step);
            narrator.tell(step, || finish(self.pid, step))?;
        }
        Ok(waiting)
    }
}
