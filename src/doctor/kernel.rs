//! Checks of what the kernel can do. What is tried is tried by [`super::probe`].

use std::fs;

use anyhow::Result;
use nix::libc;
use rustix::mount::{FsOpenFlags, fsopen};

use super::{Sight, Trouble, probe};
use crate::sandbox::cgroup::hierarchy;

const KINDS: [(&str, i32); 6] = [
    ("network", libc::CLONE_NEWNET),
    ("mount", libc::CLONE_NEWNS),
    ("PID", libc::CLONE_NEWPID),
    ("IPC", libc::CLONE_NEWIPC),
    ("UTS", libc::CLONE_NEWUTS),
    ("cgroup", libc::CLONE_NEWCGROUP),
];

pub fn namespaces(_: &mut Sight) -> Result<Vec<Trouble>> {
    let trouble = |(name, kind): (&str, i32)| {
        let error = probe::namespace(kind).err()?;
        let message = format!("no {name} namespace can be made: {error}");
        Some(Trouble::error(message, "sysctl -w $(sysctl -N -r '^user.max_.*_namespaces' | sed 's/$/=10000/')"))
    };
    Ok(KINDS.into_iter().filter_map(trouble).collect())
}

/// Only `--userns` needs them, and what is to run without root.
pub fn user_namespaces(_: &mut Sight) -> Result<Vec<Trouble>> {
    const SETTINGS: [(&str, &str, &str); 3] = [
        ("user/max_user_namespaces", "0", "10000"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
        ("kernel/unprivileged_userns_clone", "0", "1"),
    ];
    let mut troubles = Vec::new();
    for (key, bad, good) in SETTINGS {
        if fs::read_to_string(format!("/proc/sys/{key}")).is_ok_and(|value| value.trim() == bad) {
            let name = key.replace('/', ".");
            let who = if key.starts_with("user/") { "nobody" } else { "nobody but root" };
            let message = format!("{who} may make user namespaces: `{name}` is {bad}");
            troubles.push(Trouble::warning(message, format!("sysctl -w {name}={good}")));
        }
    }
    if let (Err(error), true) = (probe::namespace(libc::CLONE_NEWUSER), troubles.is_empty()) {
        troubles.push(Trouble::warning(format!("no user namespace can be made: {error}"), "").without_fix());
    }
    Ok(troubles)
}

/// One thing that was tried: how bad it is that it does not work, and what is missing then.
fn tried(
    sight: &mut Sight,
    feature: &str,
    of: fn(String, String) -> Trouble,
    what: &str,
    module: &str,
) -> Result<Vec<Trouble>> {
    let trouble = |error: String| of(format!("{what}: {error}"), format!("modprobe {module}"));
    Ok(sight.probed(feature)?.err().map(trouble).into_iter().collect())
}

pub fn veth(sight: &mut Sight) -> Result<Vec<Trouble>> {
    tried(sight, "veth", Trouble::error, "no veth link can be made, which joins a container to its bridge", "veth")
}

pub fn bridge(sight: &mut Sight) -> Result<Vec<Trouble>> {
    let none = tried(sight, "bridge", Trouble::error, "no bridge can be made", "bridge")?;
    if !none.is_empty() {
        return Ok(none);
    }
    tried(sight, "isolated", Trouble::warning, "ports of a bridge cannot be isolated, as `--isolate` needs", "bridge")
}

pub fn nftables(sight: &mut Sight) -> Result<Vec<Trouble>> {
    tried(sight, "nftables", Trouble::error, "nftables does not take the rules of a network", "nf_tables")
}

pub fn ipv6(sight: &mut Sight) -> Result<Vec<Trouble>> {
    let message = "the kernel speaks no IPv6: networks with `--ipv6` have IPv4 alone";
    let missing = (!sight.view.ipv6).then(|| Trouble::warning(message, "modprobe ipv6"));
    Ok(missing.into_iter().collect())
}

pub fn macvlan(sight: &mut Sight) -> Result<Vec<Trouble>> {
    tried(sight, "macvlan", Trouble::warning, "no macvlan link can be made", "macvlan")
}

pub fn vxlan(sight: &mut Sight) -> Result<Vec<Trouble>> {
    tried(sight, "vxlan", Trouble::warning, "no vxlan link can be made", "vxlan")
}

pub fn tap(sight: &mut Sight) -> Result<Vec<Trouble>> {
    tried(sight, "tap", Trouble::warning, "`/dev/net/tun` cannot be opened, so there are no tap links", "tun")
}

pub fn filter(sight: &mut Sight) -> Result<Vec<Trouble>> {
    let what = "no filter can be put at a link, as every container on a bridge has one";
    tried(sight, "filter", Trouble::error, what, "-a sch_ingress cls_bpf")
}

pub fn tbf(sight: &mut Sight) -> Result<Vec<Trouble>> {
    tried(sight, "tbf", Trouble::warning, "the rate of a link cannot be limited", "sch_tbf")
}

pub fn overlayfs(_: &mut Sight) -> Result<Vec<Trouble>> {
    let opened = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(std::io::Error::from);
    let trouble = |error: std::io::Error| {
        let message = format!("there is no overlayfs, by which containers share an image: {}", probe::words(&error));
        Trouble::error(message, "modprobe overlay")
    };
    Ok(opened.err().map(trouble).into_iter().collect())
}

pub fn seccomp(_: &mut Sight) -> Result<Vec<Trouble>> {
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if actions.split_whitespace().any(|action| action == "errno") {
        return Ok(vec![]);
    }
    let message = "the kernel was built without filters of system calls (CONFIG_SECCOMP_FILTER): only containers with \
                   `--security-opt seccomp=unconfined` run";
    Ok(vec![Trouble::error(message, "").without_fix()])
}

pub fn cgroups(_: &mut Sight) -> Result<Vec<Trouble>> {
    let visible = hierarchy::visible()?;
    let has = |wanted: &&str| visible.iter().any(|one| one.controllers.iter().any(|own| own == wanted));
    let missing: Vec<&str> = ["memory", "cpu", "pids"].into_iter().filter(|wanted| !has(wanted)).collect();
    if missing.is_empty() {
        return Ok(vec![]);
    }
    let message = match visible.is_empty() {
        true => {
            "no cgroup file system is mounted that can be written to: there are no limits, and no `pause`".to_owned()
        }
        false => format!("no cgroup limits {}: the controllers are not there", missing.join(", ")),
    };
    let trouble = Trouble::warning(message, "mount -t cgroup2 cgroup2 /sys/fs/cgroup");
    Ok(vec![if visible.is_empty() { trouble } else { trouble.without_fix() }])
}
