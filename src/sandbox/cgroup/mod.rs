//! cgroups: what a container may use at most, how it is frozen, and what it has used.
//!
//! `run` decides the groups (`limits.rs`, `plan.rs`), makes them before the container's first process exists and removes
//! them after its end (`group.rs`); the first process enters them by itself. A container without a limit has no group, and
//! costs nothing here. Other commands freeze (`freeze.rs`) and read (`usage.rs`), and the sweep removes what a killed
//! minirun left ([`remove_leftover`]).
//!
//! A container's groups are `minirun/ID` below the mount of each hierarchy that is needed, wherever minirun itself is: so they
//! are found by the ID alone, and nothing need be on record. `minirun` goes with the last of them.

mod freeze;
mod group;
pub mod hierarchy;
mod leftover;
mod limits;
mod plan;
mod processes;
mod usage;
mod v1;
mod v2;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::libc;

pub use freeze::{Freezer, can_freeze, freeze, is_frozen, thaw};
pub use group::{Cgroup, Entrance};
pub use leftover::remove_leftover;
pub use limits::{Limits, PERIOD, Swap, cpu_list};
pub use plan::{Group, Plan, Setting};
pub use processes::{processes_of, stat};
pub use usage::{Usage, oom_killed};

/// The directory above the groups of all containers, in each hierarchy.
const BASE: &str = "minirun";

/// How long the kernel gets for what it does by and by: freezing, ending processes, emptying a group.
const PATIENCE: Duration = Duration::from_secs(5);

/// The groups that the container `id` has now.
pub fn groups_of(id: &str) -> Result<Vec<PathBuf>> {
    plan::check_id(id)?;
    let places = hierarchy::visible()?;
    let mut groups: Vec<PathBuf> = places.iter().map(|place| place.mount.join(BASE).join(id)).collect();
    groups.retain(|group| group.is_dir());
    Ok(groups)
}

/// Moves a process, with all its threads, into each of the groups. That it has ended meanwhile is no error.
///
/// The kernel takes its time for this, up to some tens of milliseconds: it waits until no process of the host is in the
/// middle of a fork. A process that enters by itself ([`Entrance`]) need not wait.
pub fn add(groups: &[PathBuf], pid: i32) -> Result<()> {
    groups.iter().try_for_each(|group| match write(&group.join("cgroup.procs"), &pid.to_string()) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other.with_context(|| format!("move process {pid} into cgroup `{}`", group.display())),
    })
}

/// Writes a file of the kernel's: at once, and nothing is made where it is missing.
fn write(path: &Path, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

/// The processes of a group, as this process sees them; without those that it cannot see, which the kernel calls 0.
fn processes_in(group: &Path) -> Vec<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}

/// Asks again and again until the answer is yes. False after [`PATIENCE`].
fn wait_until(mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(200);
    while !holds() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
    true
}
