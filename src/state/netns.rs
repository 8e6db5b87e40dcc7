//! Containers by name in `ip netns`: a symbolic link in /run/netns to the namespace of the container's first process.
//!
//! iproute2 opens what it finds there by name, so `ip netns exec`, `identify`, `pids` and the rest work as on a namespace made by
//! hand. A link, not a mount, because a mount would keep the namespace after the container's end. It is known by where it leads, and
//! no other is touched.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::files::remove_if_there;
use super::record::Record;

/// Where iproute2 keeps its names (ip-netns(8)).
const NAMES: &str = "/run/netns";

/// Names the namespace of a container that has one of its own; by its ID where another namespace has the name.
pub fn name(record: &Record) -> Result<()> {
    let Some(target) = target(record) else { return Ok(()) };
    let link = |name: &str| symlink(&target, place(name));
    let linked = match link(&record.name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o755).create(NAMES).and_then(|()| link(&record.name))
        }
        other => other,
    };
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !leads_to(&record.name, &target) => {
            link(&record.id)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
    .with_context(|| format!("name the network namespace of `{}` in `{NAMES}`", record.name))
}

/// What the namespace of a container that runs is called.
pub fn called(record: &Record) -> &str {
    let by_id = target(record).is_some_and(|target| leads_to(&record.id, &target));
    if by_id { &record.id } else { &record.name }
}

/// What [`name`] would call that of a container that is to be. A name that leads nowhere is no other namespace's.
pub fn free<'a>(name: &'a str, id: &'a str) -> &'a str {
    if place(name).exists() { id } else { name }
}

/// Takes the name back.
pub fn forget(record: &Record) -> Result<()> {
    let Some(target) = target(record) else { return Ok(()) };
    let mut is_known = false;
    for name in [&record.name, &record.id] {
        if found(name)?.is_some_and(|found| found == target) {
            remove_if_there(&place(name))?;
            is_known = true;
        }
    }
    // A command that was killed half-way through giving it another name left the old one.
    if !is_known && let Ok(all) = fs::read_dir(NAMES) {
        let own = all.flatten().map(|entry| entry.path());
        own.filter(|path| fs::read_link(path).is_ok_and(|found| found == target))
            .try_for_each(|path| remove_if_there(&path))?;
    }
    Ok(())
}

/// Gives it another name, if it has the container's.
pub fn rename(record: &Record, new: &str) -> Result<()> {
    let Some(target) = target(record) else { return Ok(()) };
    let names = [record.name.as_str(), record.id.as_str()];
    let Some(old) = names.into_iter().find(|name| leads_to(name, &target)) else { return Ok(()) };
    let to = |name: &str| renameat_with(CWD, place(old), CWD, place(name), RenameFlags::NOREPLACE);
    match to(new) {
        Err(rustix::io::Errno::EXIST) if old == record.id => Ok(()),
        Err(rustix::io::Errno::EXIST) => to(&record.id),
        other => other,
    }
    .with_context(|| format!("rename `{}`", place(old).display()))
}

fn target(record: &Record) -> Option<PathBuf> {
    record.pid.map(|pid| PathBuf::from(format!("/proc/{pid}/ns/net")))
}

fn place(name: &str) -> PathBuf {
    Path::new(NAMES).join(name)
}

fn leads_to(name: &str, target: &Path) -> bool {
    found(name).is_ok_and(|found| found.is_some_and(|found| found == target))
}

/// Where the link of this name leads; `None` where there is none, or something else of that name.
fn found(name: &str) -> Result<Option<PathBuf>> {
    match fs::read_link(place(name)) {
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::InvalidInput].contains(&error.kind()) => Ok(None),
        found => found.map(Some).with_context(|| format!("look at `{}`", place(name).display())),
    }
}
