//! What a container uses, for `stats`, and whether it met its memory limit. From its groups, and where it has none of a kind
//! from /proc.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::{SysconfVar, sysconf};

use super::freeze::is_gathered;
use super::processes::stat;

/// What a container uses now, and has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory without the files that the kernel could let go at once, in bytes. Without a group, the sum of what is resident.
    pub memory_bytes: u64,
    /// Its limit.
    pub memory_limit: Option<u64>,
    /// Processes and threads; without a group, processes.
    pub pids: u64,
    /// Their limit.
    pub pids_limit: Option<u64>,
}

impl Usage {
    /// Of the groups of a container; `processes` is asked only for what they do not say.
    pub fn of(groups: &[PathBuf], processes: impl FnOnce() -> Vec<i32>) -> Self {
        let groups: Vec<&PathBuf> = groups.iter().filter(|group| !is_gathered(group)).collect();
        let read = |file: &str| groups.iter().find_map(|group| number(&group.join(file)));
        let field = |file: &str, name: &str| groups.iter().find_map(|group| field(&group.join(file), name));
        let cpu = read("cpuacct.usage").or_else(|| Some(field("cpu.stat", "usage_usec")? * 1000));
        let idle = || field("memory.stat", "total_inactive_file").or_else(|| field("memory.stat", "inactive_file"));
        let memory = read("memory.usage_in_bytes")
            .or_else(|| read("memory.current"))
            .map(|bytes| bytes.saturating_sub(idle().unwrap_or(0)));
        let pids = read("pids.current");
        let mut usage = Self {
            // Version 1 says "no limit" by the largest number of pages.
            memory_limit: read("memory.limit_in_bytes").filter(|bytes| *bytes < 1 << 62).or_else(|| read("memory.max")),
            pids_limit: read("pids.max"),
            ..Self::default()
        };
        if cpu.is_none() || memory.is_none() || pids.is_none() {
            let seen = Self::of_processes(&processes());
            usage = Self { cpu_ns: seen.cpu_ns, memory_bytes: seen.memory_bytes, pids: seen.pids, ..usage };
        }
        Self {
            cpu_ns: cpu.unwrap_or(usage.cpu_ns),
            memory_bytes: memory.unwrap_or(usage.memory_bytes),
            pids: pids.unwrap_or(usage.pids),
            ..usage
        }
    }

    /// Of processes, and of the children of theirs that have ended and were waited for.
    fn of_processes(pids: &[i32]) -> Self {
        let of_kernel = |name, usual| sysconf(name).ok().flatten().map_or(usual, i64::cast_unsigned);
        let tick = of_kernel(SysconfVar::CLK_TCK, 100);
        let page = of_kernel(SysconfVar::PAGE_SIZE, 4096);
        let mut usage = Self::default();
        for stat in pids.iter().filter_map(|pid| stat(*pid)) {
            let field = |number: usize| stat.get(number - 3).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
            // utime, stime, cutime, cstime; rss (proc_pid_stat(5)).
            let ticks: u64 = (14..=17).map(field).sum();
            usage.cpu_ns += ticks * (1_000_000_000 / tick);
            usage.memory_bytes += field(24) * page;
            usage.pids += 1;
        }
        usage
    }
}

/// Whether a process of these groups was ended because they had used up their memory.
pub fn oom_killed(groups: &[PathBuf]) -> bool {
    let count = |file: &str| groups.iter().filter_map(|group| field(&group.join(file), "oom_kill")).sum::<u64>();
    count("memory.oom_control") + count("memory.events") > 0
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// `NAME VALUE` in a file of such lines.
fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}
