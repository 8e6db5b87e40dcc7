//! The groups of one container: made, entered, removed.
//!
//! Called by `launch.rs` and, for the entering, by `init.rs`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::libc;
use nix::sched::{CloneFlags, unshare};

use super::hierarchy::Version;
use super::plan::{Group, Plan, Setting, without_swap};
use super::{processes_in, wait_until, write};
use crate::error::{Advice, note, refused};

/// The groups of a container, removed on drop.
#[derive(Debug)]
pub struct Cgroup {
    groups: Vec<PathBuf>,
    entrance: Entrance,
}

/// The way into groups for a process that enters by itself. A process that is *moved* waits for every fork of the host.
#[derive(Debug, Default)]
pub struct Entrance {
    /// Version 1: the files `tasks`, to which a process with one thread writes `0`.
    tasks: Vec<File>,
    /// Version 2: the directory of the group in which a process can be born.
    birthplace: Option<OwnedFd>,
}

impl Plan {
    /// Makes the groups, with their limits set and nobody in them.
    pub fn make(&self) -> Result<Cgroup> {
        let mut made = Cgroup { groups: vec![], entrance: Entrance::default() };
        for group in &self.groups {
            make_directory(&group.path)?;
            // From here on the guard removes it.
            made.groups.push(group.path.clone());
            group.prepare()?;
            group.settings.iter().try_for_each(|setting| set(&group.path, setting))?;
            made.entrance.add(&group.path, group.version)?;
        }
        Ok(made)
    }
}

impl Cgroup {
    /// Their directories.
    pub fn groups(&self) -> &[PathBuf] {
        &self.groups
    }

    /// The way in.
    pub fn entrance(&self) -> &Entrance {
        &self.entrance
    }

    /// Removes them. Their processes must have ended. All is tried; the first error is told.
    pub fn remove(mut self) -> Result<()> {
        remove_all(&std::mem::take(&mut self.groups))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Only where `remove` was not reached: an error is on its way to the user already, and the sweep knows the names.
        let _ = remove_all(&self.groups);
    }
}

impl Entrance {
    /// The way into groups that are there.
    pub fn into_groups(groups: &[PathBuf]) -> Result<Self> {
        let mut entrance = Self::default();
        for group in groups {
            let version = if group.join("tasks").exists() { Version::V1 } else { Version::V2 };
            entrance.add(group, version)?;
        }
        Ok(entrance)
    }

    fn add(&mut self, group: &Path, version: Version) -> Result<()> {
        let failed = || format!("open cgroup `{}`", group.display());
        match version {
            Version::V1 => {
                self.tasks.push(OpenOptions::new().write(true).open(group.join("tasks")).with_context(failed)?);
            }
            Version::V2 => self.birthplace = Some(File::open(group).with_context(failed)?.into()),
        }
        Ok(())
    }

    /// The group for `CLONE_INTO_CGROUP`.
    pub fn birthplace(&self) -> Option<BorrowedFd<'_>> {
        self.birthplace.as_ref().map(AsFd::as_fd)
    }

    /// Child: enters the groups in which it was not born, and then makes its cgroup namespace, which has its root where the
    /// process is when it is made. So the container sees itself in `/` and no name of the host's.
    pub fn enter(&self) -> Result<()> {
        self.join()?;
        unshare(CloneFlags::CLONE_NEWCGROUP).context("make the container's cgroup namespace")
    }
}

impl Entrance {
    /// A further process: enters the groups in which it was not born.
    pub fn join(&self) -> Result<()> {
        for mut tasks in &self.tasks {
            tasks.write_all(b"0").context("enter the container's cgroup")?;
        }
        Ok(())
    }
}

impl Group {
    /// What must be said above the group before it can be given its limits. Now that it exists, nothing above it goes away.
    fn prepare(&self) -> Result<()> {
        let above = self.path.parent().unwrap_or(&self.mount);
        if self.version == Version::V2 {
            if give_controllers(&self.mount, &self.controllers)? {
                note(&format!(
                    "gave the controllers {} to the cgroups below `{}`",
                    self.controllers.join(", "),
                    self.mount.display()
                ));
            }
            give_controllers(above, &self.controllers)?;
            return refuse_frozen(&self.path, above);
        }
        if self.controllers.contains(&"cpuset") {
            // Version 1: a group without processors and memory takes no process, and begins without.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                copy_down(&self.mount, above, file)?;
                copy_down(above, &self.path, file)?;
            }
        }
        Ok(())
    }
}

/// Makes the directory of a group and, where it is missing, the one above, which another minirun may be removing.
pub fn make_directory(path: &Path) -> Result<()> {
    let failed = || format!("make cgroup `{}`", path.display());
    for _ in 0..100 {
        match fs::create_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => match path.parent().map_or(Ok(()), fs::create_dir) {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error).with_context(failed),
                _ => {}
            },
            // Without processes it is a leftover, perhaps a frozen one. With processes it may be anybody's.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if fs::remove_dir(path).is_err_and(|error| error.kind() != ErrorKind::NotFound) {
                    let count = processes_in(path).len();
                    let message = format!("{}: it is there already, with {count} processes", failed());
                    return Err(refused(message, "end them, then remove the directory with `rmdir`"));
                }
            }
            Err(error) => return Err(error).with_context(failed),
        }
    }
    bail!("{}: other commands make and remove the directory above it all the time", failed())
}

/// Lets the groups below have the controllers. Whether that was something new.
fn give_controllers(group: &Path, controllers: &[&str]) -> Result<bool> {
    let path = group.join("cgroup.subtree_control");
    let failed = || format!("give controllers to the cgroups below `{}`", group.display());
    let given = fs::read_to_string(&path).with_context(failed)?;
    let lacks = |wanted: &&&str| !given.split_whitespace().any(|one| one == **wanted);
    let wanted: Vec<String> = controllers.iter().filter(lacks).map(|one| format!("+{one}")).collect();
    if wanted.is_empty() {
        return Ok(false);
    }
    match write(&path, &wanted.join(" ")) {
        Err(error) if error.kind() == ErrorKind::ResourceBusy => Err(error)
            .with_context(failed)
            .remedy("it has processes: move them to a group below it (cgroup-v2.rst, No Internal Process Constraint)"),
        written => written.with_context(failed).map(|()| true),
    }
}

/// A process that starts in a frozen group hangs, and so would minirun.
fn refuse_frozen(group: &Path, above: &Path) -> Result<()> {
    let events = fs::read_to_string(group.join("cgroup.events")).unwrap_or_default();
    if events.lines().any(|line| line == "frozen 1") {
        let message = format!("start in cgroup `{}`: a group above it is frozen", group.display());
        return Err(refused(message, format!("thaw it: `echo 0 >{}/cgroup.freeze`, or further up", above.display())));
    }
    Ok(())
}

fn copy_down(from: &Path, to: &Path, file: &str) -> Result<()> {
    let copy = || -> io::Result<()> {
        if !fs::read_to_string(to.join(file))?.trim().is_empty() {
            return Ok(());
        }
        write(&to.join(file), fs::read_to_string(from.join(file))?.trim())
    };
    copy().with_context(|| format!("copy `{file}` to cgroup `{}`", to.display()))
}

fn set(group: &Path, setting: &Setting) -> Result<()> {
    let Setting { file, value, option, optional } = setting;
    match write(&group.join(file), value) {
        Err(error) if error.kind() == ErrorKind::NotFound && *optional => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound && *option == "--memory-swap" => Err(without_swap()),
        written => {
            written.with_context(|| format!("limit with `{option}`: write `{value}` to `{}/{file}`", group.display()))
        }
    }
}

/// Removes groups that nobody is in, and the directory above that of each if it was the last.
pub fn remove_all(groups: &[PathBuf]) -> Result<()> {
    let mut outcome = Ok(());
    for group in groups {
        outcome = outcome.and(remove(group));
        remove_base(group);
    }
    outcome
}

fn remove(group: &Path) -> Result<()> {
    let mut last = Ok(());
    // The kernel takes a process out of its group a moment after its end was told.
    let removed = wait_until(|| {
        last = remove_tree(group);
        !matches!(&last, Err(error) if error.kind() == ErrorKind::ResourceBusy)
    });
    debug_assert!(removed || last.is_err());
    last.with_context(|| format!("remove cgroup `{}`", group.display()))
}

/// The directory above a container's group: it goes with the last. Another container's group in it is no error.
pub fn remove_base(group: &Path) {
    if let Some(above) = group.parent() {
        let _ = fs::remove_dir(above);
    }
}

/// Removes a group with the groups in it, which a program may have made. That it is gone is no error.
fn remove_tree(group: &Path) -> io::Result<()> {
    match fs::remove_dir(group) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
        other => return other,
    }
    for below in groups_below(group) {
        remove_tree(&below)?;
    }
    match fs::remove_dir(group) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The groups directly below one.
pub fn groups_below(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}
