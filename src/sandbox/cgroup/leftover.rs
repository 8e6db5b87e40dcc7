//! What a killed minirun left: its groups are found by the container's ID, what is in them is killed, and they are removed.
//!
//! Called by the sweep of `state.rs`. It always comes to an end, with an error where the kernel does not let a process go.

use std::path::Path;

use anyhow::{Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::group::{groups_below, remove_all, remove_base};
use super::{BASE, freeze, hierarchy, plan, processes_in, wait_until, write};

/// Removes the groups of the container `id`, of which nobody is in charge any more, and ends whoever is in them.
pub fn remove_leftover(id: &str) -> Result<()> {
    plan::check_id(id)?;
    let mut outcome = Ok(());
    for place in hierarchy::visible()? {
        let group = place.mount.join(BASE).join(id);
        if group.is_dir() {
            outcome = outcome.and(end(&group)).and(remove_all(&[group]));
        } else {
            // It may have been killed between the two directories.
            remove_base(&group);
        }
    }
    outcome
}

/// Ends every process of a group.
fn end(group: &Path) -> Result<()> {
    if kill_and_wait(group) {
        return Ok(());
    }
    bail!("end the processes of cgroup `{}`: {} do not end", group.display(), all_in(group).len())
}

fn kill_and_wait(group: &Path) -> bool {
    // Version 1: where the number of processes is limited, nobody can fork from here on.
    let _ = write(&group.join("pids.max"), "0");
    wait_until(|| {
        // Version 2 kills all at once, also those that fork meanwhile, in the groups below too, and frozen ones.
        if write(&group.join("cgroup.kill"), "1").is_err() {
            kill_each(group);
        }
        // Version 1: a frozen process dies when it is thawed.
        freeze::let_go(group);
        all_in(group).is_empty()
    })
}

fn all_in(group: &Path) -> Vec<i32> {
    let below = groups_below(group).into_iter().flat_map(|below| all_in(&below));
    processes_in(group).into_iter().chain(below).collect()
}

fn kill_each(group: &Path) {
    let own = std::process::id().cast_signed();
    // First descriptors, then the question who is still in the group: a number can be another process's by now.
    let named = |pid: i32| Some((pid, pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?));
    let processes: Vec<_> = all_in(group).into_iter().filter(|pid| *pid != own).filter_map(named).collect();
    let still: Vec<i32> = if processes.is_empty() { vec![] } else { all_in(group) };
    for (_, process) in processes.iter().filter(|(pid, _)| still.contains(pid)) {
        let _ = pidfd_send_signal(process, Signal::KILL);
    }
}
