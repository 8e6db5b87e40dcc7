//! A container's place in the state directory, as its holder has it: locked, and given up on drop.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::libc;

use super::find::Found;
use super::netns;
use super::record::{self, Exit, Record, now};
use super::{remove_directory, remove_if_there, remove_log};
use crate::control;
use crate::sandbox::cgroup;

/// A container's place in the state directory. On drop the container was never there: a new one is removed, a revived one
/// is what it was.
#[derive(Debug)]
pub struct Entry {
    path: PathBuf,
    /// The link of its name.
    name: Option<PathBuf>,
    /// The files that are or were its record, the last one last: whoever waits for its end has one of them open. (`minirun
    /// rename` puts another one into its place.)
    records: Vec<(u64, File)>,
    /// What a revived container comes back to: its place and its record.
    before: Option<(PathBuf, Record)>,
    record: Record,
    lock: Flock<File>,
}

impl Entry {
    /// Makes the directory `path`, locked, with the intent `record`. `name` is the link that will be made for its name.
    pub(super) fn make(path: PathBuf, name: Option<PathBuf>, record: &Record) -> Result<Self> {
        let failed = || format!("make directory `{}`", path.display());
        let lock = loop {
            match DirBuilder::new().mode(0o700).create(&path) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error).with_context(failed),
                _ => {}
            }
            // A sweep may look at it before it is locked, and take it for a leftover: then it is made anew.
            if let Some(lock) = lock(&path)? {
                break lock;
            }
        };
        let mut entry = Self { path, name, records: Vec::new(), before: None, record: record.clone(), lock };
        entry.records.push(create_record(&entry.path.join("record"), record)?);
        Ok(entry)
    }

    /// Moves the directory of a kept container to `path`, locked.
    pub(super) fn revive(found: &Found, path: PathBuf, name: Option<PathBuf>, record: &Record) -> Result<Self> {
        let failed = || format!("start container `{}`", found.record.name);
        let Some(lock) = lock(&found.path)? else { bail!("{}: it is gone", failed()) };
        fs::rename(&found.path, &path).with_context(failed)?;
        let before = Some((found.path.clone(), found.record.clone()));
        // The record stays what it was until the container runs again: a kill in between loses nothing.
        Ok(Self { path, name, records: Vec::new(), before, record: record.clone(), lock })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file of the container's directory.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_file(&self.path.join(name), bytes)
    }

    /// Writes what the container has become, so that it is on disk before the user's program runs.
    pub fn commit(&mut self, record: &Record) -> Result<()> {
        self.look_again();
        let record = Record { name: self.record.name.clone(), ..record.clone() };
        self.records.push(write_record(&self.path, &record)?);
        self.record = record;
        Ok(())
    }

    /// It has ended: it stays in the list for its exit code and its log, or goes, as its record says. All is tried; the
    /// first error is told.
    pub fn end(mut self, exit: Exit) -> Result<()> {
        self.look_again();
        let path = std::mem::take(&mut self.path);
        self.record.exit = Some(exit);
        remove_if_there(&path.join(control::NAME))?;
        if let Err(error) = netns::forget(&self.record) {
            // The directory stays as a dead container's, so that the next command tries it again.
            write_record(&path, &self.record)?;
            return Err(error);
        }
        let attach = remove_if_there(&path.join("attach")).and_then(|()| thaw_leftover(&path, &self.record.id));
        if !self.record.remove {
            let kept = path.with_file_name(&self.record.id);
            write_record(&path, &self.record)?;
            fs::rename(&path, &kept).with_context(|| format!("rename `{}`", path.display()))?;
            return attach;
        }
        // For who waits for it: they hold these very files.
        let told = self.records.iter().try_for_each(|(_, file)| overwrite(file, &self.record));
        let log = self.record.log.as_deref().map_or(Ok(()), remove_log);
        let name = self.name.take().map_or(Ok(()), |name| remove_if_there(&name));
        remove_directory(&path).and(name).and(log).and(told).and(attach)
    }

    /// The record that is on disk, where it is not the one that was written here: it has another name, or is to be kept.
    fn look_again(&mut self) {
        let path = self.path.join("record");
        let Ok(inode) = fs::symlink_metadata(&path).map(|about| about.ino()) else { return };
        if self.records.last().is_some_and(|(last, _)| *last == inode) {
            return;
        }
        let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) else { return };
        let Some(now) = record::read(&file) else { return };
        let names = self.path.ancestors().nth(2).map(|root| root.join("names"));
        self.name = names.filter(|_| now.name != now.id).map(|names| names.join(&now.name));
        (self.record.name, self.record.remove) = (now.name, now.remove);
        self.records.push((inode, file));
    }

    fn give_up(&mut self) -> Result<()> {
        let path = std::mem::take(&mut self.path);
        if path.as_os_str().is_empty() {
            return Ok(());
        }
        netns::forget(&self.record)?;
        if let Some((kept, record)) = self.before.take() {
            write_record(&path, &record)?;
            return fs::rename(&path, &kept).with_context(|| format!("rename `{}`", path.display()));
        }
        let log = self.record.log.as_deref().map_or(Ok(()), remove_log);
        // Only what is its own: the name may be another container's, which is why this one is given up.
        let own = |link: &PathBuf| fs::read_link(link).is_ok_and(|id| id == Path::new(&self.record.id));
        let name = self.name.take().filter(own).map_or(Ok(()), |name| remove_if_there(&name));
        remove_directory(&path).and(name).and(log)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Only where `end` was not reached, which is where an error is on its way to the user already; what cannot be
        // removed now is swept by the next command.
        let _ = self.give_up();
        let _ = &self.lock;
    }
}

/// A container that ended while it was paused leaves the group in which it was.
fn thaw_leftover(path: &Path, id: &str) -> Result<()> {
    match fs::remove_file(path.join("paused")) {
        Ok(()) => cgroup::remove_leftover(id),
        Err(_) => Ok(()),
    }
}

/// Locks the directory; `None` where it is not there any more once it is locked.
pub(super) fn lock(path: &Path) -> Result<Option<Flock<File>>> {
    let flags = libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_DIRECTORY;
    let opened = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.with_context(|| format!("open `{}`", path.display()))?,
    };
    let lock = Flock::lock(opened, FlockArg::LockExclusive)
        .map_err(|(_, error)| error)
        .with_context(|| format!("lock `{}`", path.display()))?;
    let same = |about: fs::Metadata| fs::symlink_metadata(path).is_ok_and(|now| now.ino() == about.ino());
    Ok(lock.metadata().is_ok_and(same).then_some(lock))
}

/// Replaces the record in a container's directory. The new file, and its number.
pub(super) fn write_record(directory: &Path, record: &Record) -> Result<(u64, File)> {
    let temporary = directory.join("record.new");
    let path = directory.join("record");
    remove_if_there(&temporary)?;
    let file = create_record(&temporary, record)?;
    fs::rename(&temporary, &path).with_context(|| format!("write `{}`", path.display()))?;
    Ok(file)
}

fn create_record(path: &Path, record: &Record) -> Result<(u64, File)> {
    let write = || -> Result<(u64, File)> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        Ok((file.metadata()?.ino(), file))
    };
    write().inspect_err(|_| _ = fs::remove_file(path)).with_context(|| format!("write `{}`", path.display()))
}

fn overwrite(file: &File, record: &Record) -> Result<()> {
    let write = || -> Result<()> {
        let text = serde_json::to_vec(record)?;
        // In this order: what is cut off first is written out at once by some file systems.
        file.write_all_at(&text, 0)?;
        Ok(file.set_len(text.len() as u64)?)
    };
    write().context("write down the end of the container")
}

/// Writes a file of a container's directory, in the place of what was there.
fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
    remove_if_there(path)?;
    let write = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes);
    write().with_context(|| format!("write `{}`", path.display()))
}

impl Exit {
    /// With this exit code, now.
    pub fn now(code: u8, oom: bool) -> Self {
        Self { code, finished: now(), oom }
    }
}
