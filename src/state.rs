//! The state directory: which containers there are, and the sweep of what a killed minirun left.
//!
//! One file a container, `containers/ID.PID`, where PID is the minirun that holds it. The holder has the file locked
//! (flock(2)) for as long as it lives; the kernel gives the lock back however it dies. So a file whose lock is free is a
//! leftover, and there is nothing else to sweep: links, mounts and processes die with the container's namespaces, addresses
//! with their locks. The file is written first with what is about to be made, and again, under another name and renamed,
//! when the container is complete. `names/NAME` is a symbolic link to the ID: making it is what reserves a name.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use rustix::fs::Dir;
use serde::{Deserialize, Serialize};

use crate::error::refused;

/// Where the live state is unless `--root` says otherwise. A reboot loses it.
pub const DEFAULT_ROOT: &str = "/run/minirun";

/// What is known of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Twelve hexadecimal digits.
    pub id: String,
    /// The name that was given, or the ID.
    pub name: String,
    /// The image's name, or the directory of `--rootfs`.
    pub image: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// `none`, `host` or `bridge`.
    pub network: String,
    /// Its IPv4 address, where it has one of its own.
    pub address: Option<std::net::Ipv4Addr>,
    /// Seconds since 1970.
    pub created: u64,
    /// The process id of the container's first process on the host; `None` before it exists.
    pub pid: Option<i32>,
    /// When that process started, in clock ticks since boot: the id alone may be another process's by now.
    pub pid_start: Option<u64>,
}

/// The state directory.
#[derive(Debug)]
pub struct State {
    root: PathBuf,
}

/// A container's place in the state directory: removed on drop, whatever happened.
#[derive(Debug)]
pub struct Entry {
    path: PathBuf,
    name: Option<PathBuf>,
    file: Flock<File>,
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
        let path = self.root.join("containers").join(format!("{}.{}", record.id, std::process::id()));
        let file = write_locked(&path, record)?;
        let mut entry = Entry { path, name: None, file };
        if record.name != record.id {
            let name = self.root.join("names").join(&record.name);
            self.reserve_name(&name, record)?;
            entry.name = Some(name);
        }
        Ok(entry)
    }

    fn reserve_name(&self, name: &Path, record: &Record) -> Result<()> {
        // Twice: the second time after the sweep of a dead holder.
        for _ in 0..2 {
            match symlink(&record.id, name) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error).with_context(|| format!("reserve name `{}`", record.name)),
            }
            self.list()?;
            let _removing = self.lock_names()?;
            let holder = fs::read_link(name).unwrap_or_default();
            if !self.files()?.iter().any(|file| Path::new(&file.id) == holder) {
                // Killed between the removal of its file and of its name.
                remove_if_there(name)?;
            }
        }
        let holder = fs::read_link(name).unwrap_or_default();
        Err(refused(
            format!("reserve name `{}`: in use by container {}", record.name, holder.display()),
            "choose another --name, or end that container",
        ))
    }

    /// The containers that live, by age. Sweeps what is left of those that do not.
    pub fn list(&self) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        for file in self.files()? {
            if self.sweep_if_dead(&file)? {
                continue;
            }
            records.extend(File::open(&file.path).ok().and_then(|file| read_record(&file)));
        }
        records.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        Ok(records)
    }

    /// The container that lives and has this name, or whose ID begins so.
    pub fn find(&self, wanted: &str) -> Result<Record> {
        let mut records = self.list()?;
        if let Some(at) = records.iter().position(|record| record.name == wanted || record.id == wanted) {
            return Ok(records.swap_remove(at));
        }
        records.retain(|record| !wanted.is_empty() && record.id.starts_with(wanted));
        match (records.pop(), records.pop()) {
            (Some(record), None) => Ok(record),
            (Some(_), Some(_)) => Err(refused("more than one ID begins so", "give more of it")),
            (None, _) => Err(refused("there is none of that name or ID", "see `minirun ps`")),
        }
    }

    /// Begins a sweep of what killed holders left, to be done in parts.
    pub fn sweep(&self) -> Result<Sweep<'_>> {
        let directory = self.root.join("containers");
        let entries = Dir::new(File::open(&directory).with_context(|| format!("read `{}`", directory.display()))?)?;
        Ok(Sweep { state: self, entries })
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

    fn files(&self) -> Result<Vec<StateFile>> {
        let directory = self.root.join("containers");
        let mut files = Vec::new();
        for entry in fs::read_dir(&directory).with_context(|| format!("read `{}`", directory.display()))? {
            let entry = entry.with_context(|| format!("read `{}`", directory.display()))?;
            files.extend(StateFile::parse(entry.path()));
        }
        Ok(files)
    }

    /// Removes the file, and the name that it holds, if nobody holds its lock.
    fn sweep_if_dead(&self, file: &StateFile) -> Result<bool> {
        let opened =
            match OpenOptions::new().read(true).custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW).open(&file.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
                opened => opened.with_context(|| format!("open `{}`", file.path.display()))?,
            };
        let Ok(lock) = Flock::lock(opened, FlockArg::LockExclusiveNonblock) else { return Ok(false) };
        let Ok(found) = fs::symlink_metadata(&file.path) else { return Ok(true) };
        // The holder has put another file into its place since it was opened here, and holds the lock of that one; or it
        // has made it a moment ago and is about to lock it.
        let just_made = found.len() == 0 && kill(Pid::from_raw(file.holder), None).is_ok();
        if just_made || lock.metadata().is_ok_and(|locked| locked.ino() != found.ino()) {
            return Ok(false);
        }
        if let Some(record) = read_record(&lock) {
            end_orphan(&record);
            let name = self.root.join("names").join(&record.name);
            let _removing = self.lock_names()?;
            if valid_name(&record.name) && fs::read_link(&name).is_ok_and(|id| id == Path::new(&record.id)) {
                remove_if_there(&name)?;
            }
        }
        remove_if_there(&file.path)?;
        Ok(true)
    }
}

/// A sweep that is done in parts, so that neither a start nor an end waits for it.
#[derive(Debug)]
pub struct Sweep<'a> {
    state: &'a State,
    entries: Dir,
}

impl Sweep<'_> {
    /// Looks at the next files, a hundred or so. False when all have been looked at. It asks for each holder's process id,
    /// and only where there is no such process for the lock. (A number used again by another process is found by
    /// [`State::list`].)
    pub fn go_on(&mut self) -> Result<bool> {
        for _ in 0..100 {
            let Some(entry) = self.entries.next() else { return Ok(false) };
            let name = entry.context("read the state directory")?.file_name().to_string_lossy().into_owned();
            let Some(file) = StateFile::parse(self.state.root.join("containers").join(name)) else { continue };
            if kill(Pid::from_raw(file.holder), None) == Err(nix::Error::ESRCH) {
                self.state.sweep_if_dead(&file)?;
            }
        }
        Ok(true)
    }
}

impl Entry {
    /// Writes what the container has become, so that it is on disk before the user's program runs.
    pub fn commit(&mut self, record: &Record) -> Result<()> {
        // Same directory and same holder in the name, so a kill in between leaves what the sweep knows.
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(".new");
        let temporary = PathBuf::from(temporary);
        let file = write_locked(&temporary, record)?;
        fs::rename(&temporary, &self.path).with_context(|| format!("rename `{}`", temporary.display()))?;
        self.file = file;
        Ok(())
    }

    /// Removes the container from the state directory. All is tried; the first error is told.
    pub fn remove(mut self) -> Result<()> {
        self.take_away()
    }

    fn take_away(&mut self) -> Result<()> {
        let name = self.name.take().map_or(Ok(()), |name| remove_if_there(&name));
        let path = std::mem::take(&mut self.path);
        if path.as_os_str().is_empty() { name } else { remove_if_there(&path).and(name) }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // Only where `remove` was not reached, which is where an error is on its way to the user already; what cannot be
        // removed now is swept by the next command.
        let _ = self.take_away();
    }
}

/// A file of the directory `containers`.
#[derive(Debug, PartialEq, Eq)]
struct StateFile {
    path: PathBuf,
    id: String,
    holder: i32,
}

impl StateFile {
    /// `None` for names that no minirun writes.
    fn parse(path: PathBuf) -> Option<Self> {
        let mut parts = path.file_name()?.to_str()?.split('.');
        let (id, holder) = (parts.next()?.to_owned(), parts.next()?.parse().ok().filter(|pid| *pid > 0)?);
        let known = matches!((parts.next(), parts.next()), (None, None) | (Some("new"), None));
        (known && is_id(&id)).then_some(Self { path, id, holder })
    }
}

/// A new container ID: twelve hexadecimal digits, from the kernel's random numbers.
pub fn new_id() -> Result<String> {
    let mut bytes = [0u8; 6];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).context("get random bytes for an id")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
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

/// Makes `path` a directory that only its owner can read and write, or checks that it is one. The parent must exist.
pub fn private_directory(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).with_context(|| format!("make directory `{}`", path.display())),
    }
    let found = fs::symlink_metadata(path).with_context(|| format!("look at `{}`", path.display()))?;
    let own = found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw() && found.mode() & 0o022 == 0;
    if own {
        return Ok(());
    }
    Err(refused(
        format!("use `{}`: it is not a directory that only its owner, this user, can change", path.display()),
        "look at who made it; remove it, or give another --root",
    ))
}

/// Opens a file for reading and writing, making it where it is missing, readable by its owner only.
pub fn open_private(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW)
        .open(path)
        .with_context(|| format!("open `{}`", path.display()))
}

fn write_locked(path: &Path, record: &Record) -> Result<Flock<File>> {
    let write = || -> Result<Flock<File>> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        let mut file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error)?;
        file.write_all(&serde_json::to_vec(record)?)?;
        Ok(file)
    };
    write().inspect_err(|_| _ = fs::remove_file(path)).with_context(|| format!("write `{}`", path.display()))
}

/// The record in a file; `None` where it is not (yet) readable as one. At most 1 MiB is read.
fn read_record(file: &File) -> Option<Record> {
    let mut text = Vec::new();
    file.take(1 << 20).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Ends the first process of a container whose minirun was killed. The kernel does so by itself, unless the program has
/// changed its user since (prctl(2), PR_SET_PDEATHSIG) or has asked it not to.
fn end_orphan(record: &Record) {
    let (Some(pid), Some(start)) = (record.pid, record.pid_start) else { return };
    let Some(name) = rustix::process::Pid::from_raw(pid) else { return };
    // First a descriptor for whatever process has the id, then the question whether it is the one: in this order it cannot
    // become another in between.
    let Ok(process) = rustix::process::pidfd_open(name, rustix::process::PidfdFlags::empty()) else { return };
    if start_time(pid) == Some(start) {
        let _ = rustix::process::pidfd_send_signal(process, rustix::process::Signal::KILL);
    }
}

/// When a process started, in clock ticks since boot (proc_pid_stat(5), field 22).
pub fn start_time(pid: i32) -> Option<u64> {
    start_time_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The same from the text of that file.
pub fn start_time_in(stat: &str) -> Option<u64> {
    // The second field is the name in parentheses and may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, name: &str) -> Record {
        Record {
            id: id.into(),
            name: name.into(),
            image: "busybox".into(),
            command: vec!["true".into()],
            network: "none".into(),
            address: None,
            created: 1,
            pid: None,
            pid_start: None,
        }
    }

    fn write_file(path: &Path, text: &[u8]) {
        open_private(path).unwrap().write_all(text).unwrap();
    }

    fn left(root: &Path) -> usize {
        ["containers", "names"].iter().map(|d| fs::read_dir(root.join(d)).unwrap().count()).sum()
    }

    #[test]
    fn a_name_is_held_by_one_container_at_a_time() {
        let root = tempfile::tempdir().unwrap();
        let state = State::open(root.path()).unwrap();
        let first = state.reserve(&record("aaaaaaaaaaaa", "web")).unwrap();
        let error = state.reserve(&record("bbbbbbbbbbbb", "web")).unwrap_err();
        assert_eq!(format!("{error:#}"), "reserve name `web`: in use by container aaaaaaaaaaaa");
        assert_eq!(state.list().unwrap().len(), 1, "the refused one left nothing");
        first.remove().unwrap();
        assert_eq!(left(root.path()), 0);
        state.reserve(&record("bbbbbbbbbbbb", "web")).unwrap();
    }

    #[test]
    fn what_a_killed_holder_left_is_swept_and_its_name_is_free() {
        let root = tempfile::tempdir().unwrap();
        let state = State::open(root.path()).unwrap();
        // No process has this number: it is above the kernel's limit.
        let dead = root.path().join("containers/aaaaaaaaaaaa.4194305");
        write_file(&dead, &serde_json::to_vec(&record("aaaaaaaaaaaa", "web")).unwrap());
        symlink("aaaaaaaaaaaa", root.path().join("names/web")).unwrap();
        state.reserve(&record("bbbbbbbbbbbb", "web")).unwrap().remove().unwrap();
        assert_eq!(left(root.path()), 0);
        write_file(&dead, b"half a rec");
        while state.sweep().unwrap().go_on().unwrap() {}
        assert_eq!(left(root.path()), 0);
    }

    #[test]
    fn commit_replaces_the_record_and_keeps_the_lock() {
        let root = tempfile::tempdir().unwrap();
        let state = State::open(root.path()).unwrap();
        let mut entry = state.reserve(&record("aaaaaaaaaaaa", "aaaaaaaaaaaa")).unwrap();
        let complete = Record { pid: Some(7), ..record("aaaaaaaaaaaa", "aaaaaaaaaaaa") };
        entry.commit(&complete).unwrap();
        assert_eq!(state.list().unwrap(), [complete]);
        drop(entry);
        assert_eq!(left(root.path()), 0);
    }

    #[test]
    fn a_directory_that_others_can_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        let open = root.path().join("state");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(State::open(&open).is_err());
    }

    #[test]
    fn names_are_plain() {
        for good in ["web", "a", "web-1.2_x", "0"] {
            assert!(valid_name(good), "{good}");
        }
        for bad in ["", ".", "..", "-x", "a/b", "a\nb", "ä", &"x".repeat(64)] {
            assert!(!valid_name(bad), "{bad}");
        }
    }
}
