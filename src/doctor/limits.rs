//! Checks of the kernel's limits: how near they are.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::Result;
use nix::sys::resource::{Resource, getrlimit};

use super::{Sight, Trouble};

/// A bridge has no more ports (`BR_MAX_PORTS`, of which one is not given out).
const MOST_PORTS: u64 = 1023;
/// A published range is held by 256 sockets at most, and a container by a dozen files more.
const FEWEST_FILES: u64 = 512;

/// The first number in a file of /proc/sys.
fn setting(key: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/sys/{key}")).ok()?.split_whitespace().next()?.parse().ok()
}

/// A warning where nine tenths are used, and an error where nothing is left.
fn used(used: u64, most: u64, what: &str, fix: String) -> Vec<Trouble> {
    let message = format!("{used} of {most} {what}");
    if used >= most {
        vec![Trouble::error(message, fix)]
    } else if used.saturating_mul(10) >= most.saturating_mul(9) {
        vec![Trouble::warning(message, fix)]
    } else {
        vec![]
    }
}

pub fn files(_: &mut Sight) -> Result<Vec<Trouble>> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < FEWEST_FILES {
        let message = format!("a process started from here may have {soft} files open: a published range takes 256");
        return Ok(vec![Trouble::warning(message, format!("ulimit -n {}", hard.min(4096)))]);
    }
    let open = setting("fs/file-nr").zip(setting("fs/file-max"));
    let fix = |most: u64| format!("sysctl -w fs.file-max={}", most.saturating_mul(2));
    Ok(open.map(|(open, most)| used(open, most, "files of the whole host are open", fix(most))).unwrap_or_default())
}

pub fn processes(_: &mut Sight) -> Result<Vec<Trouble>> {
    // "0.20 0.18 0.12 1/80 11206": the fourth is how many run, of how many.
    let text = fs::read_to_string("/proc/loadavg")?;
    let all = text.split_whitespace().nth(3).and_then(|field| field.split_once('/')?.1.parse::<u64>().ok());
    let mut troubles = Vec::new();
    for key in ["kernel/pid_max", "kernel/threads-max"] {
        let (Some(all), Some(most)) = (all, setting(key)) else { continue };
        let name = key.replace('/', ".");
        let fix = format!("sysctl -w {name}={}", most.saturating_mul(2));
        troubles.extend(used(all, most, &format!("processes and threads are there, by `{name}`"), fix));
    }
    Ok(troubles)
}

pub fn connections(_: &mut Sight) -> Result<Vec<Trouble>> {
    let (count, most) = ("net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max");
    let Some((count, most)) = setting(count).zip(setting(most)) else { return Ok(vec![]) };
    let fix = format!("sysctl -w net.netfilter.nf_conntrack_max={}", most.saturating_mul(2));
    Ok(used(count, most, "connections are tracked: beyond that the kernel drops new ones", fix))
}

pub fn namespaces(_: &mut Sight) -> Result<Vec<Trouble>> {
    let Some(most) = setting("user/max_net_namespaces") else { return Ok(vec![]) };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let seen: BTreeSet<PathBuf> =
        processes.filter_map(|process| fs::read_link(process.path().join("ns/net")).ok()).collect();
    let fix = format!("sysctl -w user.max_net_namespaces={}", most.saturating_mul(2).max(10_000));
    Ok(used(seen.len() as u64, most, "network namespaces are there", fix))
}

pub fn neighbours(_: &mut Sight) -> Result<Vec<Trouble>> {
    let mut troubles = Vec::new();
    let Some(most) = setting("net/ipv4/neigh/default/gc_thresh3") else { return Ok(troubles) };
    let known = fs::read_to_string("/proc/net/arp").unwrap_or_default().lines().count().saturating_sub(1) as u64;
    let fix = format!("sysctl -w net.ipv4.neigh.default.gc_thresh3={}", most.saturating_mul(4));
    troubles.extend(used(known, most, "neighbours are known: beyond that the host finds no new ones", fix));
    Ok(troubles)
}

pub fn bridge_ports(sight: &mut Sight) -> Result<Vec<Trouble>> {
    let mut troubles = Vec::new();
    for network in &sight.networks {
        let Some(bridge) = sight.view.link(&network.link) else { continue };
        let ports = sight.rtnl.count_ports(bridge.index, None)? as u64;
        let what = format!("ports of bridge `{}` are taken", network.link);
        troubles.extend(used(ports, MOST_PORTS, &what, "minirun network create another".into()));
    }
    Ok(troubles)
}
