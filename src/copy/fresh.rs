//! A file that does not exist until it is whole.
//!
//! It is made without a name (`O_TMPFILE`) and gets one when it has its content, owner, mode and times; so what fails or is
//! killed leaves nothing, and a file that it replaces is there until then. Where something has the name already, or
//! the file system knows no files without a name, it has a temporary one meanwhile, and signals wait.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::rand::GetRandomFlags;

use super::open::{Item, by_descriptor, item};
use super::watch::{Held, Signals};

/// A name that goes with its value.
struct Temporary<'a> {
    dir: BorrowedFd<'a>,
    name: String,
    // Dropped last: a signal that waited ends the process then.
    _held: Held,
}

impl<'a> Temporary<'a> {
    /// Makes something under a new name.
    fn make<T>(
        dir: BorrowedFd<'a>,
        signals: &Signals,
        make: impl Fn(&[u8]) -> rustix::io::Result<T>,
    ) -> Result<(Self, T)> {
        let held = signals.hold();
        for _ in 0..100 {
            let mut bytes = [0; 8];
            rustix::rand::getrandom(&mut bytes, GetRandomFlags::empty()).context("get random bytes")?;
            let name = format!(".minirun-{:016x}", u64::from_ne_bytes(bytes));
            match make(name.as_bytes()) {
                Err(Errno::EXIST) => {}
                made => {
                    let made = made.context("make it")?;
                    return Ok((Self { dir, name, _held: held }, made));
                }
            }
        }
        bail!("make it: others take every temporary name")
    }

    fn rename(self, name: &[u8]) -> Result<()> {
        rustix::fs::renameat(self.dir, &self.name, self.dir, name).context("give it its name")
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        // After a rename there is none. An error cannot be told to anybody, and is that of the copy most often.
        let _ = rustix::fs::unlinkat(self.dir, &self.name, AtFlags::empty());
    }
}

/// A new regular file of mode 0600.
pub(super) struct Fresh<'a> {
    dir: BorrowedFd<'a>,
    pub(super) file: File,
    temporary: Option<Temporary<'a>>,
    /// The file is there already, because it cannot be replaced: it is a mount.
    in_place: bool,
}

impl<'a> Fresh<'a> {
    /// Makes the file that shall be `name` in `dir`.
    pub(super) fn new(dir: BorrowedFd<'a>, name: &[u8], signals: &Signals) -> Result<Self> {
        if let Existing::Mounted(item) = existing(dir, name)? {
            let file = item.open(OFlags::WRONLY)?;
            rustix::fs::ftruncate(&file, 0).context("empty it")?;
            return Ok(Self { dir, file, temporary: None, in_place: true });
        }
        let mode = Mode::RUSR | Mode::WUSR;
        match rustix::fs::openat(dir, ".", OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode) {
            Ok(file) => return Ok(Self { dir, file: file.into(), temporary: None, in_place: false }),
            Err(Errno::NOTSUP | Errno::ISDIR | Errno::NOENT) => {}
            Err(e) => return Err(e).context("make it"),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (temporary, file) = Temporary::make(dir, signals, |name| rustix::fs::openat(dir, name, flags, mode))?;
        Ok(Self { dir, file: file.into(), temporary: Some(temporary), in_place: false })
    }

    /// Gives the file its name, in place of what has it.
    pub(super) fn publish(self, name: &[u8], signals: &Signals) -> Result<()> {
        if self.in_place {
            return Ok(());
        }
        match self.temporary {
            Some(temporary) => temporary.rename(name),
            None => link(&self.file, self.dir, name, signals),
        }
    }
}

/// Makes `name` in `dir` another name of an open file.
pub(super) fn link(of: &impl std::os::fd::AsRawFd, dir: BorrowedFd, name: &[u8], signals: &Signals) -> Result<()> {
    let path = by_descriptor(of);
    instead(dir, name, signals, |name| rustix::fs::linkat(CWD, &path, dir, name, AtFlags::SYMLINK_FOLLOW))
}

/// Makes something at `name` in `dir` by `make`, in place of a file or link.
pub(super) fn instead(
    dir: BorrowedFd,
    name: &[u8],
    signals: &Signals,
    make: impl Fn(&[u8]) -> rustix::io::Result<()>,
) -> Result<()> {
    match make(name) {
        Err(Errno::EXIST) => {}
        made => return made.context("make it"),
    }
    if let Existing::Mounted(_) = existing(dir, name)? {
        bail!("there is a mount in its place");
    }
    Temporary::make(dir, signals, make)?.0.rename(name)
}

enum Existing {
    /// Nothing, or what a rename may replace.
    Replaceable,
    /// A file that is a mount: a rename would leave the mount, or take it away. It is written to instead.
    Mounted(Item),
}

/// What a file or link would take the place of. Only files and links are replaced.
fn existing(dir: BorrowedFd, name: &[u8]) -> Result<Existing> {
    let item = match item(dir, name) {
        Err(Errno::NOENT) => return Ok(Existing::Replaceable),
        found => found.context("look at what has its name")?,
    };
    match item.kind() {
        FileType::Symlink => Ok(Existing::Replaceable),
        FileType::RegularFile if mount(dir)? == mount(item.fd.as_fd())? => Ok(Existing::Replaceable),
        FileType::RegularFile => {
            item.check_file_system()?;
            Ok(Existing::Mounted(item))
        }
        FileType::Directory => bail!("there is a directory in its place"),
        _ => bail!("there is a device, FIFO or socket in its place"),
    }
}

fn mount(fd: BorrowedFd) -> Result<u64> {
    let found = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).context("ask for its mount")?;
    Ok(found.stx_mnt_id)
}
