//! Freezing: all processes of a container stop where they are, and go on when it is thawed.
//!
//! For `pause` and `unpause`. A container with a group in a hierarchy that can freeze (version 2, whatever controllers it
//! has; version 1's `freezer`) is frozen there. For any other, [`Freezer::gather`] makes such a group, and moves its processes
//! in; where they came from is remembered in an extended attribute of the group, so whoever thaws needs to know nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{XattrFlags, getxattr, setxattr};

use super::group::{groups_below, remove_all, remove_base};
use super::hierarchy::{self, Hierarchy, Version};
use super::{BASE, add, groups_of, plan, processes_in, wait_until, write};
use crate::error::refused;

/// Only root can read and write attributes of this kind (xattr(7)).
const CAME_FROM: &str = "trusted.minirun.from";

/// How often a gathering looks for processes that were not there before.
const PASSES: usize = 100;

/// How a group is frozen.
enum Switch {
    /// Version 1's `freezer.state`.
    State(PathBuf),
    /// Version 2's `cgroup.freeze`, and `cgroup.events`, which tells when it has come about.
    Freeze(PathBuf, PathBuf),
}

impl Switch {
    fn of(group: &Path) -> Option<Self> {
        let [state, freeze] = ["freezer.state", "cgroup.freeze"].map(|file| group.join(file));
        if state.exists() {
            return Some(Self::State(state));
        }
        freeze.exists().then(|| Self::Freeze(freeze, group.join("cgroup.events")))
    }

    fn turn(&self, frozen: bool) -> Result<()> {
        let (path, value) = match self {
            Self::State(path) => (path, if frozen { "FROZEN" } else { "THAWED" }),
            Self::Freeze(path, _) => (path, if frozen { "1" } else { "0" }),
        };
        write(path, value).with_context(|| format!("write `{value}` to `{}`", path.display()))
    }

    fn is_frozen(&self) -> bool {
        let says =
            |path: &Path, line: &str| fs::read_to_string(path).unwrap_or_default().lines().any(|found| found == line);
        match self {
            Self::State(path) => says(path, "FROZEN"),
            Self::Freeze(_, events) => says(events, "frozen 1"),
        }
    }

    /// Turned, and come about.
    fn bring_about(&self, frozen: bool) -> Result<()> {
        self.turn(frozen)?;
        // Version 1 goes on with what it left unfinished when it is told again.
        if wait_until(|| self.is_frozen() == frozen || (self.turn(frozen).is_ok() && self.is_frozen() == frozen)) {
            return Ok(());
        }
        if frozen {
            // Half frozen is worse than not.
            let _ = self.turn(false);
            bail!("a process does not stop: it may be waiting for a disk or a network file system");
        }
        bail!("a group above it is frozen")
    }
}

fn switches(groups: &[PathBuf]) -> Vec<(&Path, Switch)> {
    groups.iter().filter_map(|group| Some((group.as_path(), Switch::of(group)?))).collect()
}

/// Freezes the processes of these groups: returns when they stand still. An error where none of the groups can freeze.
pub fn freeze(groups: &[PathBuf]) -> Result<()> {
    let switches = switches(groups);
    if switches.is_empty() {
        bail!("freeze the container: it has no cgroup that can");
    }
    switches.iter().try_for_each(|(group, switch)| {
        switch.bring_about(true).with_context(|| format!("freeze cgroup `{}`", group.display()))
    })
}

/// Lets them go on. Groups that cannot freeze need not be thawed.
pub fn thaw(groups: &[PathBuf]) -> Result<()> {
    switches(groups).iter().try_for_each(|(group, switch)| match switch.bring_about(false) {
        // It has gone with its container meanwhile.
        Err(_) if !group.exists() => Ok(()),
        thawed => thawed.with_context(|| format!("thaw cgroup `{}`", group.display())),
    })
}

/// Lets the processes of a group and of those below it go on, without waiting until they do.
pub fn let_go(group: &Path) {
    groups_below(group).iter().for_each(|below| let_go(below));
    if let Some(switch) = Switch::of(group) {
        let _ = switch.turn(false);
    }
}

/// Whether one of the groups can freeze.
pub fn can_freeze(groups: &[PathBuf]) -> bool {
    !switches(groups).is_empty()
}

/// Whether they stand still.
pub fn is_frozen(groups: &[PathBuf]) -> bool {
    switches(groups).iter().any(|(_, switch)| switch.is_frozen())
}

/// A container whose own groups cannot freeze, or that has none, frozen in a group that was made for it.
#[derive(Debug)]
pub struct Freezer {
    group: PathBuf,
}

impl Freezer {
    /// Moves the processes of the container `id`, as `processes` finds them, its first one first, into a new group and freezes
    /// it. All is undone after an error.
    pub fn gather(id: &str, processes: impl Fn() -> Vec<i32>) -> Result<Self> {
        plan::check_id(id)?;
        let place = place()?;
        let first = *processes().first().context("freeze the container: it has no process")?;
        let from = directory_of(&place, first)?;
        let group = place.mount.join(BASE).join(id);
        super::group::make_directory(&group)?;
        let freezer = Self { group };
        let frozen = freezer.fill(&from, &processes).context("freeze the container");
        if let Err(error) = frozen {
            let _ = freezer.release();
            return Err(error);
        }
        Ok(freezer)
    }

    fn fill(&self, from: &Path, processes: &impl Fn() -> Vec<i32>) -> Result<()> {
        // Before anybody is in it, so that nobody can be in it whose way back is not known.
        setxattr(&self.group, CAME_FROM, from.as_os_str().as_encoded_bytes(), XattrFlags::empty())
            .with_context(|| format!("set attribute `{CAME_FROM}` of `{}`", self.group.display()))?;
        // Twice: a parent may have ended between the pass that saw it and the one that would have seen its child.
        for _ in 0..2 {
            self.move_in(processes)?;
            freeze(std::slice::from_ref(&self.group))?;
        }
        Ok(())
    }

    /// Until a pass finds nobody who is not in it: what is in it forks into it.
    fn move_in(&self, processes: &impl Fn() -> Vec<i32>) -> Result<()> {
        for _ in 0..PASSES {
            let members: BTreeSet<i32> = processes_in(&self.group).into_iter().collect();
            let outside: Vec<i32> =
                processes().into_iter().filter(|pid| !members.contains(pid) && is_alive(*pid)).collect();
            if outside.is_empty() {
                return Ok(());
            }
            outside.iter().try_for_each(|pid| add(std::slice::from_ref(&self.group), *pid))?;
        }
        bail!("its processes fork faster than they can be gathered")
    }

    /// The group that was made for the container `id`, if there is one.
    pub fn find(id: &str) -> Result<Option<Self>> {
        Ok(groups_of(id)?.into_iter().find(|group| is_gathered(group)).map(|group| Self { group }))
    }

    /// Its directory.
    pub fn group(&self) -> &Path {
        &self.group
    }

    /// Lets the processes go on, moves them back to where they came from and removes the group.
    pub fn release(self) -> Result<()> {
        let mut buffer = vec![0; 4096];
        let size = getxattr(&self.group, CAME_FROM, &mut buffer).unwrap_or(0);
        buffer.truncate(size);
        thaw(std::slice::from_ref(&self.group))?;
        let from = PathBuf::from(String::from_utf8_lossy(&buffer).into_owned());
        // Is it gone meanwhile: the nearest that is not, which is the hierarchy's root at last.
        let back = from.ancestors().find(|group| group.join("cgroup.procs").exists());
        let back = back.or(self.group.parent().and_then(Path::parent)).map(Path::to_owned);
        let empty = wait_until(|| {
            let members = processes_in(&self.group);
            members.iter().for_each(|pid| _ = back.clone().map(|back| add(&[back], *pid)));
            members.is_empty()
        });
        if !empty {
            bail!("move the container's processes back to cgroup `{}`: they fork too fast", from.display());
        }
        remove_all(std::slice::from_ref(&self.group))?;
        remove_base(&self.group);
        Ok(())
    }
}

/// Whether a group was made for freezing: then it counts only what was used since.
pub fn is_gathered(group: &Path) -> bool {
    getxattr(group, CAME_FROM, &mut [0u8; 0]).is_ok()
}

fn is_alive(pid: i32) -> bool {
    super::processes::stat(pid).is_some_and(|stat| stat.first().is_some_and(|state| state != "Z" && state != "X"))
}

/// A hierarchy that can freeze. Version 2 first, which needs no controller for it, and where a frozen process can be killed.
fn place() -> Result<Hierarchy> {
    let mut places = hierarchy::visible()?;
    places.retain(|place| place.version == Version::V2 || place.controllers.iter().any(|one| one == "freezer"));
    places.sort_by_key(|place| place.version == Version::V1);
    places.into_iter().next().ok_or_else(|| {
        refused(
            "freeze the container: no cgroup hierarchy that can freeze is mounted and can be written to",
            "mount cgroup2 on /sys/fs/cgroup, see cgroups(7)",
        )
    })
}

/// The directory of the group in which a process is.
fn directory_of(place: &Hierarchy, pid: i32) -> Result<PathBuf> {
    let path = format!("/proc/{pid}/cgroup");
    let text = fs::read_to_string(&path).with_context(|| format!("read `{path}`"))?;
    let group = place.group_in(&text).with_context(|| format!("read `{path}`: not in `{}`", place.mount.display()))?;
    Ok(place.directory(group).unwrap_or_else(|| place.mount.clone()))
}
