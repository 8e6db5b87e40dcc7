//! The sink that is a directory, in a container or on the host.
//!
//! Nothing below the directory is followed: what was copied into it may be hostile, and in a container it may change at any
//! moment. A directory that is made is closed to all others until it is complete; a directory that was there is left as
//! it is, unless all owners are kept.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::content;
use super::fresh::{self, Fresh};
use super::open::{Descent, Id, Item, by_descriptor, item, readable};
use super::sink::{Meta, Sink};
use super::watch::Watch;

/// Who owns what has no owner here (`kernel.overflowuid`).
pub(super) const NOBODY: u32 = 65534;

/// Whose the copies are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owners {
    /// As they were (`--archive`).
    pub(super) kept: bool,
    /// Else these: root in a container, the caller on the host.
    pub(super) user: u32,
    pub(super) group: u32,
    /// The copies are outside of any container.
    pub(super) on_host: bool,
    /// What user 0 and group 0 of the container are on the host.
    pub(super) first_ids: (u32, u32),
}

impl Owners {
    /// The owner, the group and the mode of a copy. A set-ID bit lets whoever runs a file be its owner, so it is only kept
    /// for the same owner. From a container to the host it is one that somebody else has set, so there only for the caller
    /// who asks for it.
    fn of(&self, meta: &Meta, kind: FileType) -> (u32, u32, u32) {
        let (user, group) = if self.kept { self.across(meta) } else { (self.user, self.group) };
        let mut mode = meta.mode;
        if kind == FileType::RegularFile {
            if user != meta.uid || self.on_host && (!self.kept || user != self.user) {
                mode &= !0o4000;
            }
            if group != meta.gid || self.on_host && (!self.kept || group != self.group) {
                mode &= !0o2000;
            }
        }
        (user, group, mode)
    }
}

impl Owners {
    /// The same user and group at the other end. One that is not there becomes nobody.
    fn across(&self, meta: &Meta) -> (u32, u32) {
        let across = |id: u32, first: u32| match self.on_host {
            true => id.checked_sub(first).unwrap_or(NOBODY),
            false => id.saturating_add(first),
        };
        (across(meta.uid, self.first_ids.0), across(meta.gid, self.first_ids.1))
    }
}

/// The directory that copies go to.
pub(super) struct Tree {
    top: OwnedFd,
    top_id: Id,
    descent: Descent,
    /// What is done to the directories from the top to the current one when they are left.
    then: Vec<Option<Meta>>,
    owners: Owners,
}

impl Tree {
    pub(super) fn new(top: Item, owners: Owners) -> Result<Self> {
        top.check_file_system()?;
        let fd = top.fd.try_clone().context("copy a descriptor")?;
        Ok(Self { top: fd, top_id: top.id(), descent: Descent::new(top), then: Vec::new(), owners })
    }

    /// How far down the current directory is.
    pub(super) fn depth(&self) -> usize {
        self.then.len()
    }

    /// Goes into the directory `name`, which is made if there is none. Tells whether it was.
    pub(super) fn enter_or_make(&mut self, name: &[u8], mode: u32) -> Result<bool> {
        let made = match rustix::fs::mkdirat(self.descent.here(), name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => return Err(e).context("make it"),
        };
        let found = item(self.descent.here(), name).context("open it")?;
        match found.kind() {
            FileType::Directory => {}
            FileType::Symlink => bail!("there is a symbolic link in its place, which is not followed"),
            _ => bail!("there is a file in its place"),
        }
        if found.stat.st_dev != self.descent.device() {
            found.check_file_system()?;
        }
        self.descent.down(found);
        let own = Meta { mode, uid: self.owners.user, gid: self.owners.group, mtime: (0, 0), size: 0 };
        if made {
            // Not left to the umask, for a directory that nothing else is said about.
            self.set_owner(&readable(self.descent.here())?, &own, FileType::Directory)?;
        }
        self.then.push(None);
        Ok(made)
    }

    /// What the current directory gets when it is left.
    pub(super) fn on_leave(&mut self, meta: Meta) {
        if let Some(then) = self.then.last_mut() {
            *then = Some(meta);
        }
    }

    /// Whether directories that were there get what the source says.
    pub(super) fn changes_existing(&self) -> bool {
        self.owners.kept
    }

    /// Makes the file `name`, whose content `fill` writes.
    pub(super) fn put(
        &mut self,
        name: &[u8],
        meta: &Meta,
        watch: &mut Watch,
        fill: impl FnOnce(&File, &mut Watch) -> Result<()>,
    ) -> Result<Id> {
        let fresh = Fresh::new(self.descent.here(), name, &watch.signals)?;
        fill(&fresh.file, watch)?;
        self.set_owner(&fresh.file, meta, FileType::RegularFile)?;
        rustix::fs::futimens(&fresh.file, &times(meta.mtime)).context("set its time")?;
        let id = Id::of(&fresh.file).context("look at it")?;
        fresh.publish(name, &watch.signals)?;
        Ok(id)
    }

    fn set_owner(&self, file: &impl AsFd, meta: &Meta, kind: FileType) -> Result<()> {
        let (user, group, mode) = self.owners.of(meta, kind);
        // Before the mode: a change of owner takes the set-ID bits away.
        rustix::fs::fchown(file, Some(Uid::from_raw(user)), Some(Gid::from_raw(group))).context("set its owner")?;
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode)).context("set its mode")
    }

    /// Makes what is neither a file nor a directory, with its owner and time.
    fn make(
        &mut self,
        name: &[u8],
        meta: &Meta,
        watch: &Watch,
        make: impl Fn(&[u8]) -> rustix::io::Result<()>,
    ) -> Result<()> {
        let here = self.descent.here();
        let (user, group, _) = self.owners.of(meta, FileType::Symlink);
        fresh::instead(here, name, &watch.signals, |name| {
            make(name)?;
            let (user, group) = (Some(Uid::from_raw(user)), Some(Gid::from_raw(group)));
            rustix::fs::chownat(here, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
            rustix::fs::utimensat(here, name, &times(meta.mtime), AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    /// The file at `path` below the top, if it is still the one that was made.
    fn made(&self, path: &[u8], made: Id) -> Option<Item> {
        let mut found = None;
        for name in path.split(|byte| *byte == b'/') {
            let dir = found.as_ref().map_or(self.top.as_fd(), |item: &Item| item.fd.as_fd());
            found = Some(item(dir, name).ok()?);
        }
        found.filter(|item| item.id() == made && item.kind() == FileType::RegularFile)
    }

    /// Makes `name` another name of what is at `path` below the top. False if that is not what was made there, or cannot
    /// be linked to.
    pub(super) fn link_to(&mut self, name: &[u8], path: &[u8], made: Id, watch: &Watch) -> Result<bool> {
        let Some(of) = self.made(path, made) else { return Ok(false) };
        match fresh::link(&of.fd, self.descent.here(), name, &watch.signals) {
            Err(e) if matches!(e.downcast_ref(), Some(&(Errno::XDEV | Errno::MLINK | Errno::PERM))) => Ok(false),
            done => done.map(|()| true),
        }
    }
}

impl Sink for Tree {
    fn enter(&mut self, name: &[u8], from: &Item) -> Result<()> {
        if self.enter_or_make(name, 0o700)? || self.owners.kept {
            self.on_leave(Meta::of(&from.stat));
            // Of a directory that cannot be read, none.
            if let Ok(from) = readable(from.fd.as_fd()) {
                content::copy_attributes(&File::from(from), &File::from(readable(self.descent.here())?))?;
            }
        }
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        if let Some(meta) = self.then.pop().context("leave the top")? {
            let dir = readable(self.descent.here()).context("open it")?;
            self.set_owner(&dir, &meta, FileType::Directory)?;
            rustix::fs::futimens(&dir, &times(meta.mtime)).context("set its time")?;
        }
        self.descent.up()
    }

    fn file(&mut self, name: &[u8], meta: &Meta, from: &File, watch: &mut Watch) -> Result<Option<Id>> {
        self.put(name, meta, watch, |to, watch| {
            content::copy(from, to, meta.size, watch)?;
            content::copy_attributes(from, to)
        })
        .map(Some)
    }

    fn link(&mut self, name: &[u8], _: &Meta, path: &[u8], made: Option<Id>, watch: &mut Watch) -> Result<bool> {
        made.map_or(Ok(false), |made| self.link_to(name, path, made, watch))
    }

    fn symlink(&mut self, name: &[u8], meta: &Meta, target: &[u8], watch: &mut Watch) -> Result<()> {
        let here = self.descent.here().try_clone_to_owned()?;
        self.make(name, meta, watch, |name| rustix::fs::symlinkat(target, &here, name))
    }

    fn fifo(&mut self, name: &[u8], meta: &Meta, watch: &mut Watch) -> Result<()> {
        let here = self.descent.here().try_clone_to_owned()?;
        let mode = Mode::from_raw_mode(meta.mode & 0o777);
        self.make(name, meta, watch, |name| {
            rustix::fs::mkfifoat(&here, name, mode)?;
            // Not left to the umask, and by its descriptor: it may be something else by now.
            match item(here.as_fd(), name)? {
                made if made.kind() == FileType::Fifo => rustix::fs::chmod(by_descriptor(&made.fd), mode),
                _ => Err(Errno::AGAIN),
            }
        })
    }

    fn is_top(&self, directory: Id) -> bool {
        directory == self.top_id
    }
}

fn times((seconds, nanoseconds): (i64, i64)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps { last_access: time, last_modification: time }
}
