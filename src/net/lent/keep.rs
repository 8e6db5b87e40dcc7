//! The namespace of a container to which links are lent, kept until they are back.
//!
//! `net::Network` keeps it before a link goes and brings the links back at the end; [`recover`] is the next command's part, where
//! minirun was killed.

use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::libc;
use rustix::mount::{UnmountFlags, mount_bind, unmount};

use super::super::change::in_namespace_of;
use super::super::hub;
use super::super::rtnl::Rtnl;
use super::Device;
use crate::error::warn;
use crate::state::{self, Record};

/// The file on which the namespace of a container is mounted.
fn place(directory: &Path, id: &str) -> PathBuf {
    directory.join(format!("lent-{id}"))
}

/// Keeps the namespace of process `pid` for as long as links are lent to it.
pub fn keep(hub: &Rtnl, id: &str, pid: u32) -> Result<PathBuf> {
    let directory = hub::directory(hub)?;
    state::private_directory(&directory)?;
    let path = place(&directory, id);
    let failed = || format!("keep the container's network at `{}`", path.display());
    let flags = libc::O_CLOEXEC | libc::O_NOFOLLOW;
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags)
        .open(&path)
        .with_context(failed)?;
    mount_bind(format!("/proc/{pid}/ns/net"), &path).with_context(failed)?;
    Ok(path)
}

/// Keeps a namespace until its links are on their way; lets it go when it is dropped before that, by which time what was moved
/// there has been moved back.
pub struct Keeper(Option<PathBuf>);

impl Keeper {
    /// What is kept stays.
    pub fn into_path(mut self) -> PathBuf {
        self.0.take().unwrap_or_default()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|path| let_go(&path)) {
            warn(&format!("{error:#}"));
        }
    }
}

/// Keeps the namespace of process `pid` where links are to be lent to it.
pub fn keep_for(devices: &[Device], hub: &Rtnl, id: &str, pid: u32) -> Result<Option<Keeper>> {
    if devices.is_empty() { Ok(None) } else { keep(hub, id, pid).map(|path| Some(Keeper(Some(path)))) }
}

/// Brings links back from the namespace in which `inside` is, which `path` keeps.
pub fn bring_back(devices: &[Device], mut inside: Rtnl, path: &Path) -> Result<()> {
    let mut hub = Rtnl::open()?;
    let mut all = Ok(());
    for device in devices {
        all = device.give_back(&mut inside, &mut hub).and(all);
    }
    let_go(path).and(all)
}

/// Lets the namespace go.
pub fn let_go(path: &Path) -> Result<()> {
    let failed = || format!("let the container's network at `{}` go", path.display());
    match unmount(path, UnmountFlags::DETACH) {
        // It is a plain file: it was not mounted yet.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        other => other.with_context(failed)?,
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.with_context(failed),
    }
}

/// Gives back what was lent to a container that nobody holds any more.
pub fn recover(record: &Record) -> Result<()> {
    let Some(number) = record.hub.filter(|_| !record.lent.is_empty() && record.boot == state::boot_id()) else {
        return Ok(());
    };
    let mut hub = Rtnl::open()?;
    let path = place(&hub::directory(&hub)?, &record.id);
    if hub::number(&hub)? != number || !path.exists() {
        return Ok(());
    }
    let namespace: OwnedFd = File::open(&path).with_context(|| format!("open `{}`", path.display()))?.into();
    if crate::sys::kind_of_namespace(&namespace).is_ok_and(|kind| kind == libc::CLONE_NEWNET) {
        let sockets = in_namespace_of(&namespace, || Ok(vec![Rtnl::open()?.into_fd()?]))?;
        let mut inside = Rtnl::from_fd(sockets.into_iter().next().context("open a socket in the container's network")?);
        for device in &record.lent {
            if let Err(error) = device.give_back(&mut inside, &mut hub) {
                warn(&format!("{error:#}"));
            }
        }
    }
    let_go(&path)
}
