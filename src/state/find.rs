//! A container as other commands see it: found by name or ID, its status asked of the kernel, its end waited for.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use rustix::fs::{Mode, OFlags};

use super::record::{self, Exit, Record, Status};
use super::{Place, State, Swept, ended_within};
use crate::error::refused;
use crate::sandbox::cgroup;

/// A container that was found.
#[derive(Debug)]
pub struct Found {
    /// What is known of it.
    pub record: Record,
    /// What it does.
    pub status: Status,
    /// Its directory.
    pub path: PathBuf,
    /// The process that holds it; `None` where nobody does.
    pub holder: Option<i32>,
    file: File,
}

impl Found {
    /// The container in a directory; `None` where it is gone, or not there yet.
    pub(super) fn open(path: &Path, held: bool) -> Option<Self> {
        let file = File::open(path.join("record")).ok()?;
        let record = record::read(&file)?;
        let holder = held.then(|| path.extension()?.to_str()?.parse().ok()).flatten();
        let status = match (record.exit, record.pid) {
            (Some(exit), _) if !held => Status::Exited(exit),
            _ if !held => Status::Dead,
            (_, None) => Status::Starting,
            _ if record.process().is_none() => Status::Ending,
            _ if is_paused(path) => Status::Paused,
            _ => Status::Running,
        };
        Some(Self { record, status, path: path.to_owned(), holder, file })
    }

    /// Its first process, which must live.
    pub fn process(&self, verb: &str) -> Result<OwnedFd> {
        self.record.process().ok_or_else(|| {
            refused(format!("{verb} container `{}`: it does not run", self.record.name), "see `minirun ps -a`")
        })
    }

    /// The root directory of its first process, which must live. What is below it is the container's, and hostile.
    pub fn root(&self, verb: &str) -> Result<OwnedFd> {
        let process = self.process(verb)?;
        let path = format!("/proc/{}/root", self.record.pid.unwrap_or_default());
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&path, flags, Mode::empty()).with_context(|| format!("open `{path}`"))?;
        // The number is the process's as long as it lives: asked last.
        if ended_within(&process, 0) {
            bail!("{verb} container `{}`: it has ended", self.record.name);
        }
        Ok(root)
    }

    /// Waits until nobody holds it any more, as long as `patience`. How it ended; `None` where it has not, or nobody knows.
    pub fn wait(&self, patience: Option<Duration>) -> Result<Waited> {
        let end = patience.map(|patience| Instant::now() + patience);
        let left = || end.map(|end| end.saturating_duration_since(Instant::now()));
        if let Some(process) = self.record.process() {
            loop {
                let slice = left().unwrap_or(Duration::from_secs(3600)).min(Duration::from_secs(3600));
                if ended_within(&process, u32::try_from(slice.as_millis()).unwrap_or(u32::MAX)) {
                    break;
                }
                if left() == Some(Duration::ZERO) {
                    return Ok(Waited::Lives);
                }
            }
        }
        // Its holder writes the end down; that takes some milliseconds.
        while self.holder.is_some() && self.is_held()? {
            if left() == Some(Duration::ZERO) {
                return Ok(Waited::Lives);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(self.ended()?.map_or(Waited::Lost, Waited::Ended))
    }

    /// Whether somebody has its directory locked.
    fn is_held(&self) -> Result<bool> {
        let flags = libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_DIRECTORY;
        let Ok(opened) = OpenOptions::new().read(true).custom_flags(flags).open(&self.path) else { return Ok(false) };
        Ok(Flock::lock(opened, FlockArg::LockSharedNonblock).is_err())
    }

    /// How it ended: as its directory says, or the file that was its record, which the holder wrote to before it went.
    /// Whether some process that it sees may be another container's.
    pub fn shares_processes(&self) -> bool {
        self.record.inside.shares_processes || self.path.join(super::JOINED).exists()
    }

    fn ended(&self) -> Result<Option<Exit>> {
        let kept = self.path.with_file_name(&self.record.id).join("record");
        if let Some(record) = File::open(kept).ok().and_then(|file| record::read(&file)) {
            return Ok(record.exit);
        }
        let mut file = self.file.try_clone().context("read the record")?;
        file.seek(SeekFrom::Start(0)).context("read the record")?;
        Ok(record::read(&file).and_then(|record| record.exit))
    }
}

/// Whether its processes stand still. `minirun pause` notes the groups in which it has frozen them; the kernel says whether
/// they are frozen now.
fn is_paused(directory: &Path) -> bool {
    let Ok(groups) = fs::read(directory.join("paused")) else { return false };
    serde_json::from_slice::<Vec<PathBuf>>(&groups).is_ok_and(|groups| cgroup::is_frozen(&groups))
}

/// What came of waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// It lives still.
    Lives,
    /// It has ended.
    Ended(Exit),
    /// It has ended, and whoever held it was killed before it could say how.
    Lost,
}

impl State {
    /// Finds a container by its name, or by the beginning of its ID if no other ID begins so.
    pub fn find(&self, word: &str) -> Result<Found> {
        let wanted = fs::read_link(self.root.join("names").join(Path::new(word).file_name().unwrap_or_default()))
            .ok()
            .and_then(|id| id.to_str().map(str::to_owned))
            .filter(|_| super::valid_name(word));
        // A container that ends meanwhile changes its directory's name.
        for _ in 0..3 {
            let places = self.matching(wanted.as_deref().unwrap_or(word), wanted.is_some())?;
            let Some(place) = places.first() else { break };
            let held = self.sweep_if_dead(place)? == Swept::Lives;
            let path = if held { place.path.clone() } else { self.place(&place.id, None) };
            if let Some(found) = Found::open(&path, held) {
                return Ok(found);
            }
        }
        let mut message = format!("find container `{word}`: there is none of that name or ID");
        if word.is_empty() {
            message = "find container: its name is empty".into();
        }
        Err(refused(message, "see `minirun ps -a`"))
    }

    fn matching(&self, prefix: &str, whole: bool) -> Result<Vec<Place>> {
        let mut places = self.places()?;
        places.retain(|place| if whole { place.id == prefix } else { place.id.starts_with(prefix) });
        if prefix.is_empty() {
            places.clear();
        }
        if let Some(other) = places.iter().find(|place| place.id != places[0].id) {
            return Err(refused(
                format!("find container `{prefix}`: the IDs {} and {} begin so", places[0].id, other.id),
                "give more of it",
            ));
        }
        Ok(places)
    }

    /// Removes a container that has ended.
    pub fn remove(&self, found: &Found) -> Result<()> {
        let failed = || format!("remove container `{}`", found.record.name);
        if found.holder.is_some() {
            bail!("{}: it runs", failed());
        }
        let Some(_lock) = super::entry::lock(&found.path)? else {
            return Err(anyhow!("{}: it is gone", failed()));
        };
        // Ours, and to be removed: if this command is killed, the sweep goes on with it.
        super::entry::write_record(&found.path, &Record { remove: true, ..found.record.clone() })
            .with_context(failed)?;
        let path = self.place(&found.record.id, Some(std::process::id()));
        fs::rename(&found.path, &path).with_context(failed)?;
        self.forget(&found.record, &path).with_context(failed)
    }
}

/// The records of the containers that live, by their names, for who only looks: nothing is made, swept or locked.
pub fn living(root: &Path) -> Vec<Record> {
    let entries = fs::read_dir(root.join("containers")).into_iter().flatten().flatten();
    let places = entries.filter_map(|entry| Place::parse(entry.path())).filter(|place| place.holder.is_some());
    let mut all: Vec<Record> = places
        .filter_map(|place| record::read(&File::open(place.path.join("record")).ok()?))
        .filter(|record| record.process().is_some())
        .collect();
    all.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
    all
}
