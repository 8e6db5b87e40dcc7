//! The files of version 1, where each controller has a hierarchy, or shares one, as `cpu,cpuacct` (cgroups(7)).

use super::limits::{Limits, PERIOD, Swap};
use super::plan::Setting;

/// What is written into a group of the controller's hierarchy, in this order.
pub fn settings(limits: &Limits, controller: &str) -> Vec<Setting> {
    match controller {
        "memory" => memory(limits),
        "cpu" => {
            let shares = limits.shares.map(|shares| Setting::new("cpu.shares", shares, "--cpu-shares"));
            let period = limits.quota.map(|_| Setting::new("cpu.cfs_period_us", PERIOD, "--cpus"));
            let quota = limits.quota.map(|quota| Setting::new("cpu.cfs_quota_us", quota, "--cpus"));
            shares.into_iter().chain(period).chain(quota).collect()
        }
        "cpuset" => limits.cpuset.iter().map(|list| Setting::new("cpuset.cpus", list, "--cpuset-cpus")).collect(),
        "pids" => limits.pids.iter().map(|count| Setting::new("pids.max", count, "--pids-limit")).collect(),
        _ => vec![],
    }
}

fn memory(limits: &Limits) -> Vec<Setting> {
    let Some(memory) = limits.memory else { return vec![] };
    // The memory first: the kernel refuses a total that is less than it.
    let mut all = vec![Setting::new("memory.limit_in_bytes", memory, "--memory")];
    match limits.swap {
        Some(Swap::Total(total)) => all.push(Setting::new("memory.memsw.limit_in_bytes", total, "--memory-swap")),
        Some(Swap::AsMemory) => {
            all.push(Setting::new("memory.memsw.limit_in_bytes", 2 * memory, "--memory").where_there_is_one());
        }
        Some(Swap::Unlimited) | None => {}
    }
    all
}
