//! Directories that are not images: those being built, those being deleted, and what a killed process left of either.
//!
//! Such a directory lies in `images/` under a name with a leading dot, which no image has, and its process holds an
//! exclusive lock on it. A lock ends with its holder, so a directory with a free lock belongs to nobody and [`sweep`]
//! deletes it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, Dir, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use rustix::rand::GetRandomFlags;

use super::tree;
use crate::error::warn;

/// The lock on an image's directory, or why there is none.
pub(super) enum Lock {
    /// Held, and the directory is still the one with the name.
    Held(OwnedFd),
    /// Somebody else holds it.
    Busy,
    /// It was replaced or removed while this waited: another directory may have the name now.
    Moved,
    /// Nothing has the name.
    Gone,
}

/// Opens and locks the directory `name`. What else has the name, a file or a link, is an error.
pub(super) fn lock(images: BorrowedFd, name: &str, operation: FlockOperation) -> rustix::io::Result<Lock> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = match rustix::fs::openat(images, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Lock::Gone),
        dir => dir?,
    };
    loop {
        match rustix::fs::flock(&dir, operation) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => return Ok(Lock::Busy),
            Err(e) => return Err(e),
        }
    }
    // Between the open and the lock another process may have moved the directory away to delete it.
    let ours = rustix::fs::fstat(&dir)?;
    match rustix::fs::statat(images, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(named) if (named.st_dev, named.st_ino) == (ours.st_dev, ours.st_ino) => Ok(Lock::Held(dir)),
        Ok(_) | Err(Errno::NOENT) => Ok(Lock::Moved),
        Err(e) => Err(e),
    }
}

/// A directory on its way to become an image or to be no more. Dropping it deletes it.
pub(super) struct Staging<'a> {
    images: BorrowedFd<'a>,
    name: String,
    /// Also the lock. `None` when nothing is to be deleted.
    dir: Option<OwnedFd>,
}

impl<'a> Staging<'a> {
    /// Makes an empty directory to build in.
    pub(super) fn new(images: BorrowedFd<'a>) -> Result<Self> {
        for _ in 0..100 {
            let name = random_name()?;
            match rustix::fs::mkdirat(images, &name, Mode::RWXU) {
                Err(Errno::EXIST) => continue,
                made => made.context("make directory in the image store")?,
            }
            // A sweep that came between finds the lock free and deletes the directory: then again.
            if let Lock::Held(dir) = lock(images, &name, FlockOperation::NonBlockingLockExclusive)? {
                return Ok(Self { images, name, dir: Some(dir) });
            }
        }
        bail!("make directory in the image store: others delete it each time")
    }

    /// Takes an image out of the store. `dir` is its directory, locked.
    pub(super) fn take(images: BorrowedFd<'a>, image: &str, dir: OwnedFd) -> Result<Self> {
        let name = random_name()?;
        rustix::fs::renameat_with(images, image, images, &name, RenameFlags::NOREPLACE)
            .with_context(|| format!("move image directory `{image}`"))?;
        Ok(Self { images, name, dir: Some(dir) })
    }

    /// The directory to build in.
    pub(super) fn dir(&self) -> Result<BorrowedFd<'_>> {
        self.dir.as_ref().map(AsFd::as_fd).context("build image: its directory is gone")
    }

    /// Makes the directory the image with the directory name `image`, unless there is one. Tells whether it did.
    pub(super) fn publish_new(&mut self, image: &str) -> Result<bool> {
        match rustix::fs::renameat_with(self.images, &self.name, self.images, image, RenameFlags::NOREPLACE) {
            Ok(()) => {
                self.dir = None;
                Ok(true)
            }
            Err(Errno::EXIST) => Ok(false),
            Err(e) => Err(e).context("move the image to its name"),
        }
    }

    /// Makes the directory the image `image` in place of `old`, the one that has the name and is locked. The old one
    /// is deleted.
    pub(super) fn replace(mut self, image: &str, old: OwnedFd) -> Result<()> {
        rustix::fs::renameat_with(self.images, &self.name, self.images, image, RenameFlags::EXCHANGE)
            .context("exchange the image for the one of its name")?;
        // The new image's lock is freed here, so that it can be run while the old one is deleted.
        self.dir = Some(old);
        self.delete()
    }

    /// Deletes the directory, and tells what a drop would not.
    pub(super) fn delete(mut self) -> Result<()> {
        self.clear()
    }

    fn clear(&mut self) -> Result<()> {
        let Some(dir) = self.dir.take() else { return Ok(()) };
        tree::empty(dir.as_fd())?;
        tree::remove_directory(self.images, self.name.as_bytes())
        // The lock is held to the end: a sweep at the same time stays away.
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        // Reached when building failed, and that error is what the person reads. What cannot be deleted now has no lock
        // and is tried again by the next sweep.
        let _ = self.clear();
    }
}

/// Deletes what killed processes left. What cannot be deleted is a warning.
pub(super) fn sweep(images: BorrowedFd) -> Result<()> {
    for entry in Dir::read_from(images).context("read the image store")? {
        let entry = entry.context("read the image store")?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        if !name.starts_with('.') || name == "." || name == ".." {
            continue;
        }
        if let Ok(Lock::Held(dir)) = lock(images, name, FlockOperation::NonBlockingLockExclusive) {
            let left = Staging { images, name: name.to_owned(), dir: Some(dir) };
            if let Err(e) = left.delete() {
                // A mount inside it, say. It takes room and harms nothing, so it stops nothing.
                warn(&format!("delete `{name}`, which an interrupted command left in the image store: {e:#}"));
            }
        }
    }
    Ok(())
}

fn random_name() -> Result<String> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty()).context("get random bytes")?;
    Ok(format!(".{:016x}", u64::from_ne_bytes(bytes)))
}
