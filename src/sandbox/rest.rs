//! The other processes of a container that has no PID namespace of its own (`--pid`).
//!
//! With process 1 the kernel ends a whole PID namespace. Where the container is in another's, its first process is one of
//! many, and nothing ends with it. But all that it left behind are in the container's mount namespace, which nobody else is
//! in, wherever they were reparented to; so they are found by it. Used by `container.rs` when the first process has ended. A
//! minirun that is killed itself cannot do it: then they live on.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Who is in the mount namespace of a container.
#[derive(Debug)]
pub struct Rest {
    // Held open, so that the number means this namespace and no later one.
    _namespace: File,
    number: u64,
}

impl Rest {
    /// Those that are, and will be, in the mount namespace that process `pid`, a child that waits, is in now.
    pub fn of(pid: i32) -> Result<Self> {
        let look = || -> Result<Self> {
            let namespace = File::open(format!("/proc/{pid}/ns/mnt"))?;
            let number = namespace.metadata()?.ino();
            if std::fs::metadata("/proc/self/ns/mnt")?.ino() == number {
                bail!("it is minirun's own");
            }
            Ok(Self { _namespace: namespace, number })
        };
        look().context("look at the container's mount namespace")
    }

    /// Kills them all. Up to ten seconds, for one that the kernel cannot end at once or that goes on making others.
    pub fn end(&self) {
        for _ in 0..1000 {
            if self.kill_those_in_sight() == 0 {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn kill_those_in_sight(&self) -> usize {
        let Ok(entries) = std::fs::read_dir("/proc") else { return 0 };
        let pids = entries.flatten().filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
        // First a descriptor for whatever process has the number, then the question, then the signal by the descriptor.
        let kill = |pid: Pid| {
            let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
            let found = std::fs::metadata(format!("/proc/{}/ns/mnt", pid.as_raw_nonzero())).ok()?;
            (found.ino() == self.number).then(|| pidfd_send_signal(process, Signal::KILL))
        };
        pids.filter_map(kill).count()
    }
}

/// Who is in the mount namespace with this number.
pub fn processes_of(number: u64) -> Vec<i32> {
    let numbers = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| std::fs::metadata(format!("/proc/{pid}/ns/mnt")).is_ok_and(|about| about.ino() == number))
        .collect()
}
