//! The state directory: which containers there are, and the sweep of what a killed minirun left.
//!
//! One directory a container, `containers/ID.PID` while it lives, where PID is the minirun that holds it, and `containers/ID`
//! once it has ended and is kept. The holder has the directory locked (flock(2)) for as long as it lives; the kernel gives
//! the lock back however it dies. So a `ID.PID` whose lock is free is a leftover. Links, mounts and processes die with the
//! container's namespaces, addresses with their locks; what the kernel does not end is named by the file `record`, which is
//! written before anything exists that it names, and written anew, under another name and renamed, when the container is
//! complete. `names/NAME` is a symbolic link to the ID: making it is what reserves a name.

mod entry;
mod files;
mod find;
pub mod netns;
mod record;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use rustix::fs::Dir;

pub use entry::Entry;
pub use files::{open_private, private_directory, touch};
use files::{remove_directory, remove_if_there, remove_log};
pub use find::{Found, Waited, living};
pub use record::{Exit, Inside, Record, Status, boot_id, now, read as read_record, start_time, start_time_in};

use crate::control;
use crate::error::{refused, warn};
use crate::net;
use crate::sandbox::cgroup;

/// Where the live state is unless `--root` says otherwise. A reboot loses it.
pub const DEFAULT_ROOT: &str = "/run/minirun";

/// What a container's directory can hold, all of it made by minirun.
const FILES: [&str; 9] =
    [control::NAME, "record", "record.new", "attach", "arguments", "filter", "paused", JOINED, PLUGGED];

/// The file that says that others are, or were, among its processes.
const JOINED: &str = "joined";
/// Others are in the network of the container.
const PLUGGED: &str = "plugged";

/// The state directory.
#[derive(Debug)]
pub struct State {
    root: PathBuf,
}

impl State {
    /// Opens the directory, making what is missing. Refused where another user could have prepared it.
    pub fn open(root: &Path) -> Result<Self> {
        let state = Self { root: root.to_owned() };
        private_directory(root)?;
        // What is below a directory that only we can write to is ours: it need only be there.
        for name in ["containers", "names"] {
            match DirBuilder::new().mode(0o700).create(root.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| format!("make directory `{}`", root.join(name).display()));
                }
                _ => {}
            }
        }
        Ok(state)
    }

    /// Reserves `record`'s ID and, where it differs, its name. Whatever is made for the container is made after this.
    pub fn reserve(&self, record: &Record) -> Result<Entry> {
        let name = (record.name != record.id).then(|| self.name(&record.name));
        let entry = Entry::make(self.place(&record.id, Some(std::process::id())), name.clone(), record)?;
        if let Some(name) = name {
            self.reserve_name(&name, &record.name, &record.id)?;
        }
        Ok(entry)
    }

    /// Takes a kept container up again, to be run once more as `record` says.
    pub fn revive(&self, found: &Found, record: &Record) -> Result<Entry> {
        let name = (record.name != record.id).then(|| self.name(&record.name));
        Entry::revive(found, self.place(&record.id, Some(std::process::id())), name, record)
    }

    fn reserve_name(&self, link: &Path, name: &str, id: &str) -> Result<()> {
        // Twice: the second time after the sweep of a dead holder.
        for _ in 0..2 {
            match symlink(id, link) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("reserve name `{name}`")),
            }
            self.list()?;
            let _removing = self.lock_names()?;
            let holder = fs::read_link(link).unwrap_or_default();
            if !self.places()?.iter().any(|place| Path::new(&place.id) == holder) {
                // Killed between the removal of its directory and of its name.
                remove_if_there(link)?;
            }
        }
        let holder = fs::read_link(link).unwrap_or_default();
        Err(refused(
            format!("reserve name `{name}`: in use by container {}", holder.display()),
            "choose another name, or remove that container: `minirun rm -f`",
        ))
    }

    /// Gives a container another name. Its holder, if it lives, looks at the record again before it writes it.
    pub fn rename(&self, found: &Found, name: &str) -> Result<()> {
        let id = &found.record.id;
        if name != id {
            self.reserve_name(&self.name(name), name, id)?;
        }
        let done = entry::write_record(&found.path, &Record { name: name.to_owned(), ..found.record.clone() });
        let done = done.and_then(|_| netns::rename(&found.record, name));
        let given_up = if done.is_ok() { found.record.name.as_str() } else { name };
        if given_up != id {
            remove_if_there(&self.name(given_up))?;
        }
        done
    }

    /// A container that lives is kept after its end, whatever was said of that.
    pub fn keep(&self, found: &Found) -> Result<()> {
        entry::write_record(&found.path, &Record { remove: false, ..found.record.clone() }).map(drop)
    }

    /// The containers, by age: those that live and those that are kept. Sweeps what is left of killed ones.
    pub fn list(&self) -> Result<Vec<Found>> {
        let mut all = Vec::new();
        for place in self.places()? {
            // A holder that ends meanwhile renames the directory: looked at once more under its ID.
            let found = match self.sweep_if_dead(&place)? {
                Swept::Lives => Found::open(&place.path, true).or_else(|| self.kept(&place.id)),
                Swept::Gone => self.kept(&place.id),
            };
            all.extend(found);
        }
        // Of the same second, by the start of their first processes.
        let age = |found: &Found| (found.record.created, found.record.pid_start, found.record.id.clone());
        all.sort_by_key(age);
        all.dedup_by(|a, b| a.record.id == b.record.id);
        Ok(all)
    }

    fn kept(&self, id: &str) -> Option<Found> {
        Found::open(&self.place(id, None), false)
    }

    /// Begins a sweep of what killed holders left, to be done in parts.
    pub fn sweep(&self) -> Result<Sweep<'_>> {
        let directory = self.root.join("containers");
        let entries = Dir::new(File::open(&directory).with_context(|| format!("read `{}`", directory.display()))?)?;
        Ok(Sweep { state: self, entries })
    }

    fn place(&self, id: &str, holder: Option<u32>) -> PathBuf {
        let name = holder.map_or_else(|| id.to_owned(), |holder| format!("{id}.{holder}"));
        self.root.join("containers").join(name)
    }

    fn name(&self, name: &str) -> PathBuf {
        self.root.join("names").join(name)
    }

    /// Held while a dead container's name is looked at and removed: between the two, another command may have removed it
    /// and given it to a container that lives.
    fn lock_names(&self) -> Result<Flock<File>> {
        let path = self.root.join("names");
        let directory = File::open(&path).with_context(|| format!("open `{}`", path.display()))?;
        Flock::lock(directory, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .with_context(|| format!("lock `{}`", path.display()))
    }

    fn places(&self) -> Result<Vec<Place>> {
        let directory = self.root.join("containers");
        let mut places = Vec::new();
        for entry in fs::read_dir(&directory).with_context(|| format!("read `{}`", directory.display()))? {
            let entry = entry.with_context(|| format!("read `{}`", directory.display()))?;
            places.extend(Place::parse(entry.path()));
        }
        Ok(places)
    }

    /// Ends what is left of a container whose holder is dead. What is to be kept of it (its log, for one) is kept.
    fn sweep_if_dead(&self, place: &Place) -> Result<Swept> {
        if place.holder.is_none() {
            return Ok(Swept::Gone);
        }
        let opened = match OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_DIRECTORY)
            .open(&place.path)
        {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Swept::Gone),
            opened => opened.with_context(|| format!("open `{}`", place.path.display()))?,
        };
        let Ok(lock) = Flock::lock(opened, FlockArg::LockExclusiveNonblock) else { return Ok(Swept::Lives) };
        if lock.metadata().is_ok_and(|about| about.nlink() == 0) || !place.path.exists() {
            return Ok(Swept::Gone);
        }
        let record = File::open(place.path.join("record")).ok().and_then(|file| record::read(&file));
        let Some(record) = record else {
            // Killed before it had written what it was about to make: it has made nothing. Or it is about to lock it, and
            // will make it anew.
            remove_directory(&place.path)?;
            return Ok(Swept::Gone);
        };
        end_orphan(&record);
        netns::forget(&record)?;
        if is_plugged(&place.path)
            && let Err(error) = net::removal::unplug_lost(&record)
        {
            warn(&format!("{error:#}"));
        }
        // Before its name or its directory goes: nobody else may have its ports until then.
        if let Err(error) = net::ports::withdraw(&record).and_then(|()| net::lent::recover(&record)) {
            warn(&format!("{error:#}"));
            return Ok(Swept::Gone);
        }
        if let Err(error) = cgroup::remove_leftover(&place.id) {
            // The directory stays, so that the next command tries it again.
            warn(&format!("{error:#}"));
            return Ok(Swept::Gone);
        }
        remove_if_there(&place.path.join(control::NAME))?;
        remove_if_there(&place.path.join("attach"))?;
        remove_if_there(&place.path.join("paused"))?;
        if record.remove || record.pid.is_none() && record.exit.is_none() {
            self.forget(&record, &place.path)?;
        } else {
            let kept = self.place(&place.id, None);
            fs::rename(&place.path, &kept).with_context(|| format!("rename `{}`", place.path.display()))?;
        }
        Ok(Swept::Gone)
    }

    /// Removes all that is kept of a container that has ended; its directory is locked.
    fn forget(&self, record: &Record, path: &Path) -> Result<()> {
        let log = record.log.as_deref().map_or(Ok(()), remove_log);
        let name = self.name(&record.name);
        let _removing = self.lock_names()?;
        if valid_name(&record.name) && fs::read_link(&name).is_ok_and(|id| id == Path::new(&record.id)) {
            remove_if_there(&name)?;
        }
        remove_directory(path)?;
        log
    }
}

/// What became of a directory that was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Swept {
    /// Its holder lives.
    Lives,
    /// It is gone, or kept under its ID.
    Gone,
}

/// A sweep that is done in parts, so that neither a start nor an end waits for it.
#[derive(Debug)]
pub struct Sweep<'a> {
    state: &'a State,
    entries: Dir,
}

impl Sweep<'_> {
    /// Looks at the next directories, twenty or so: the container's end waits for no more. False when all have been looked at.
    /// It asks for each holder's process id, and only where there is no such process for the lock. (A number used again by
    /// another process is found by [`State::list`].)
    pub fn go_on(&mut self) -> Result<bool> {
        for _ in 0..20 {
            let Some(entry) = self.entries.next() else { return Ok(false) };
            let name = entry.context("read the state directory")?.file_name().to_string_lossy().into_owned();
            let Some(place) = Place::parse(self.state.root.join("containers").join(name)) else { continue };
            if place.holder.is_some_and(|holder| kill(Pid::from_raw(holder), None) == Err(nix::Error::ESRCH)) {
                self.state.sweep_if_dead(&place)?;
            }
        }
        Ok(true)
    }
}

/// A directory below `containers`.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    path: PathBuf,
    id: String,
    holder: Option<i32>,
}

impl Place {
    /// `None` for names that no minirun makes.
    fn parse(path: PathBuf) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (id, holder) = match name.split_once('.') {
            Some((id, holder)) => (id.to_owned(), Some(holder.parse().ok().filter(|pid| *pid > 0)?)),
            None => (name.to_owned(), None),
        };
        is_id(&id).then_some(Self { path, id, holder })
    }
}

/// A new container ID: twelve hexadecimal digits, from the kernel's random numbers. Not all of them decimal: it is a host name too,
/// and resolvers take such a one for an address.
pub fn new_id() -> Result<String> {
    loop {
        let mut bytes = [0u8; 6];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .context("get random bytes for an id")?;
        let id: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        if is_host_name(&id) {
            return Ok(id);
        }
    }
}

fn is_host_name(id: &str) -> bool {
    id.bytes().any(|byte| byte.is_ascii_alphabetic())
}

fn is_id(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether `name` may name a container: it becomes a file name and a host name.
pub fn valid_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= 63
        && bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Notes in the directory of a container, for as long as that is there, that others are among its processes.
pub fn note_joined(directory: &Path) -> Result<()> {
    open_private(&directory.join(JOINED)).map(drop)
}

/// Notes in the directory of a container, for as long as that is there, that others are in its network.
pub fn note_plugged(directory: &Path) -> Result<()> {
    open_private(&directory.join(PLUGGED)).map(drop)
}

/// Whether others may be in the network of the container in whose directory this is asked.
pub fn is_plugged(directory: &Path) -> bool {
    directory.join(PLUGGED).exists()
}

/// Ends the first process of a container whose holder was killed, and waits for that. The kernel does so by itself, unless
/// the program has changed its user since (prctl(2), PR_SET_PDEATHSIG) or has asked it not to.
fn end_orphan(record: &Record) {
    let Some(process) = record.process() else { return };
    let _ = rustix::process::pidfd_send_signal(&process, rustix::process::Signal::KILL);
    ended_within(&process, 5000);
}

/// Waits for the end of a process, so many milliseconds at most. Whether it has ended.
pub fn ended_within(process: &OwnedFd, milliseconds: u32) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let patience = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
    poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], patience).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests;
