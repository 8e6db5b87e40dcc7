//! The files of version 2, where one hierarchy has all controllers (the kernel's Documentation/admin-guide/cgroup-v2.rst).

use super::limits::{Limits, PERIOD, Swap};
use super::plan::Setting;

/// What is written into the group for a controller, in this order.
pub fn settings(limits: &Limits, controller: &str) -> Vec<Setting> {
    match controller {
        "memory" => memory(limits),
        "cpu" => {
            let weight = limits.shares.map(|shares| Setting::new("cpu.weight", weight(shares), "--cpu-shares"));
            let max = limits.quota.map(|quota| Setting::new("cpu.max", &format!("{quota} {PERIOD}"), "--cpus"));
            weight.into_iter().chain(max).collect()
        }
        "cpuset" => limits.cpuset.iter().map(|list| Setting::new("cpuset.cpus", list, "--cpuset-cpus")).collect(),
        "pids" => limits.pids.iter().map(|count| Setting::new("pids.max", count, "--pids-limit")).collect(),
        _ => vec![],
    }
}

fn memory(limits: &Limits) -> Vec<Setting> {
    let Some(memory) = limits.memory else { return vec![] };
    let mut all = vec![Setting::new("memory.max", memory, "--memory")];
    // Version 2 counts swap by itself.
    match limits.swap {
        Some(Swap::Total(total)) => all.push(Setting::new("memory.swap.max", total - memory, "--memory-swap")),
        Some(Swap::AsMemory) => all.push(Setting::new("memory.swap.max", memory, "--memory").where_there_is_one()),
        Some(Swap::Unlimited) => all.push(Setting::new("memory.swap.max", "max", "--memory-swap").where_there_is_one()),
        None => {}
    }
    all
}

/// The weight that stands for so many shares: the curve through (2, 1), (1024, 100) and (262144, 10000) that runc and crun
/// draw since 2025. (The straight line that was used before gave 1024 shares a weight of 39, less than the usual 100.)
fn weight(shares: u64) -> u64 {
    let log = (shares.clamp(2, 262_144) as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    // Up, as they do; but not up from 100.00000000000001.
    ((10f64.powf(exponent) - 1e-9).ceil() as u64).clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_become_weights_as_runcs() {
        for (shares, expected) in [(2, 1), (3, 2), (512, 59), (1024, 100), (2048, 174), (262_144, 10_000)] {
            assert_eq!(weight(shares), expected, "{shares}");
        }
        assert!((2..262_144).all(|shares| weight(shares) <= weight(shares + 1)));
    }
}
