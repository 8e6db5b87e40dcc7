//! Which groups a container gets and what is written into them: decided, and compared with what the machine has, before
//! anything is made.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::hierarchy::{self, Hierarchy, Version};
use super::limits::{Limits, PERIOD, Swap, cpu_list};
use super::{BASE, v1, v2};
use crate::error::refused;

/// The groups of a container, not made yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// At least one.
    pub groups: Vec<Group>,
}

/// A group in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Where the hierarchy is mounted.
    pub mount: PathBuf,
    /// Its directory: `minirun/ID` below that.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
    /// The controllers that it needs.
    pub controllers: Vec<&'static str>,
    /// What is written into it, in order.
    pub settings: Vec<Setting>,
}

/// A value for a file of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The file's name.
    pub file: &'static str,
    /// What is written.
    pub value: String,
    /// The option that says so.
    pub option: &'static str,
    /// Whether a kernel may have no such file: then nothing is lost.
    pub optional: bool,
}

impl Setting {
    /// One that must be made.
    pub fn new(file: &'static str, value: impl Display + Copy, option: &'static str) -> Self {
        Self { file, value: value.to_string(), option, optional: false }
    }

    /// The same, left out on a kernel that knows no such file.
    pub fn where_there_is_one(self) -> Self {
        Self { optional: true, ..self }
    }
}

impl Plan {
    /// Their directories.
    pub fn directories(&self) -> Vec<PathBuf> {
        self.groups.iter().map(|group| group.path.clone()).collect()
    }

    /// Whether a limit of memory and swap together can be set, where one of memory is.
    pub fn counts_swap(&self) -> bool {
        let counts = |group: &Group| match group.version {
            Version::V1 => group.mount.join("memory.memsw.limit_in_bytes").exists(),
            Version::V2 => true,
        };
        self.groups.iter().any(|group| group.controllers.contains(&"memory") && counts(group))
    }
}

impl Limits {
    /// Decides the groups of the container `id`. What the machine cannot do is refused here.
    pub fn plan(&self, id: &str) -> Result<Plan> {
        let hierarchies = hierarchy::visible()?;
        if let Some(quota) = self.quota {
            let online = fs::read_to_string("/sys/devices/system/cpu/online").context("count the processors")?;
            check_quota(quota, cpu_list(online.trim())?.len() as u64)?;
        }
        let plan = self.groups(id, &hierarchies)?;
        for group in &plan.groups {
            self.check(group)?;
        }
        Ok(plan)
    }

    /// The groups, by controller.
    fn groups(&self, id: &str, hierarchies: &[Hierarchy]) -> Result<Plan> {
        let mut groups: Vec<Group> = Vec::new();
        for (controller, option) in self.controllers() {
            let hierarchy = hierarchies
                .iter()
                .find(|hierarchy| hierarchy.controllers.iter().any(|own| own == controller))
                .ok_or_else(|| missing(controller, option))?;
            let settings = match hierarchy.version {
                Version::V1 => v1::settings(self, controller),
                Version::V2 => v2::settings(self, controller),
            };
            match groups.iter_mut().find(|group| group.mount == hierarchy.mount) {
                Some(group) => {
                    group.controllers.push(controller);
                    group.settings.extend(settings);
                }
                None => groups.push(Group {
                    path: hierarchy.mount.join(BASE).join(id),
                    mount: hierarchy.mount.clone(),
                    version: hierarchy.version,
                    controllers: vec![controller],
                    settings,
                }),
            }
        }
        Ok(Plan { groups })
    }

    /// The controllers that are needed, with an option that needs each.
    fn controllers(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        let cpu = if self.quota.is_some() { "--cpus" } else { "--cpu-shares" };
        [
            ("memory", "--memory", self.memory.is_some()),
            ("cpu", cpu, self.quota.is_some() || self.shares.is_some()),
            ("cpuset", "--cpuset-cpus", self.cpuset.is_some()),
            ("pids", "--pids-limit", self.pids.is_some()),
        ]
        .into_iter()
        .filter_map(|(controller, option, wanted)| wanted.then_some((controller, option)))
    }

    fn check(&self, group: &Group) -> Result<()> {
        let has = |file: &str| group.mount.join(file).exists();
        let memory = group.controllers.contains(&"memory");
        let total = matches!(self.swap, Some(Swap::Total(_)));
        if memory && total && group.version == Version::V1 && !has("memory.memsw.limit_in_bytes") {
            return Err(without_swap());
        }
        if let Some(list) = self.cpuset.as_deref().filter(|_| group.controllers.contains(&"cpuset")) {
            let file = if group.version == Version::V1 { "cpuset.cpus" } else { "cpuset.cpus.effective" };
            let path = group.mount.join(file);
            let there = fs::read_to_string(&path).with_context(|| format!("read `{}`", path.display()))?;
            check_cpuset(list, there.trim())?;
        }
        if group.version == Version::V2 { check_delegation(group) } else { Ok(()) }
    }
}

/// The error for a kernel that does not count swap.
pub fn without_swap() -> anyhow::Error {
    refused(
        "limit memory with `--memory-swap`: this kernel does not count swap",
        "boot with `swapaccount=1`, or leave the option out",
    )
}

fn missing(controller: &str, option: &str) -> anyhow::Error {
    let boot = if controller == "memory" { "boot with `cgroup_enable=memory`, " } else { "" };
    refused(
        format!(
            "use `{option}`: no cgroup hierarchy with the controller `{controller}` is mounted that can be written to"
        ),
        format!("{boot}mount cgroup2 on /sys/fs/cgroup (see cgroups(7)), or leave the option out"),
    )
}

fn check_quota(quota: u64, processors: u64) -> Result<()> {
    if quota > processors * PERIOD {
        let cpus = quota as f64 / PERIOD as f64;
        return Err(refused(
            format!("limit processor time with `--cpus {cpus}`: there are only {processors} processors"),
            format!("give 0.01 to {processors}"),
        ));
    }
    Ok(())
}

fn check_cpuset(list: &str, there: &str) -> Result<()> {
    let there_are: BTreeSet<u32> = if there.is_empty() { BTreeSet::new() } else { cpu_list(there)? };
    match cpu_list(list)?.difference(&there_are).next() {
        None => Ok(()),
        Some(absent) => Err(refused(
            format!("use processors `--cpuset-cpus {list}`: there is no processor {absent} that it may use"),
            format!("there are {there}"),
        )),
    }
}

/// Version 2 gives controllers to the groups below a group only while that has no processes itself, but for the real root.
fn check_delegation(group: &Group) -> Result<()> {
    let read = |file: &str| fs::read_to_string(group.mount.join(file));
    let path = group.mount.join("cgroup.subtree_control");
    let given = read("cgroup.subtree_control").with_context(|| format!("read `{}`", path.display()))?;
    let all = group.controllers.iter().all(|wanted| given.split_whitespace().any(|one| one == *wanted));
    // The real root has no type.
    if all || read("cgroup.type").is_err() || read("cgroup.procs").is_ok_and(|processes| processes.is_empty()) {
        return Ok(());
    }
    let message =
        format!("limit with cgroups: `{}` has processes, so it gives no controllers on", group.mount.display());
    Err(refused(message, "move them to a group below it (cgroup-v2.rst, No Internal Process Constraint)"))
}

/// Whether a container's ID may name a group.
pub fn check_id(id: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.+-".contains(&byte);
    // The kernel's own files have a controller's name and a dot in front; nothing of ours has a dot first.
    if id.is_empty() || id.len() > 128 || id.starts_with('.') || !id.bytes().all(plain) {
        bail!("name a cgroup after `{id}`: letters, digits and _.+- are wanted");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(mount: &str, version: Version, controllers: &[&str]) -> Hierarchy {
        Hierarchy::of(mount, version, controllers)
    }

    fn everything() -> Limits {
        Limits {
            memory: Some(64 << 20),
            swap: Some(Swap::Total(96 << 20)),
            quota: Some(150_000),
            cpuset: Some("0-1".into()),
            shares: Some(512),
            pids: Some(50),
        }
    }

    fn lines(plan: &Plan) -> Vec<String> {
        let of = |group: &Group| {
            let path = group.path.display().to_string();
            group.settings.iter().map(|one| format!("{path}/{} {}", one.file, one.value)).collect::<Vec<_>>()
        };
        plan.groups.iter().flat_map(of).collect()
    }

    #[test]
    fn version_1_with_controllers_together() {
        let all = [
            hierarchy("/g/unified", Version::V2, &["hugetlb"]),
            hierarchy("/g/cpu,cpuacct", Version::V1, &["cpu", "cpuacct"]),
            hierarchy("/g/memory", Version::V1, &["memory"]),
            hierarchy("/g/cpuset", Version::V1, &["cpuset"]),
            hierarchy("/g/pids", Version::V1, &["pids"]),
        ];
        assert_eq!(
            lines(&everything().groups("x", &all).unwrap()),
            [
                "/g/memory/minirun/x/memory.limit_in_bytes 67108864",
                "/g/memory/minirun/x/memory.memsw.limit_in_bytes 100663296",
                "/g/cpu,cpuacct/minirun/x/cpu.shares 512",
                "/g/cpu,cpuacct/minirun/x/cpu.cfs_period_us 100000",
                "/g/cpu,cpuacct/minirun/x/cpu.cfs_quota_us 150000",
                "/g/cpuset/minirun/x/cpuset.cpus 0-1",
                "/g/pids/minirun/x/pids.max 50",
            ]
        );
    }

    #[test]
    fn version_2_is_one_group() {
        let all = [hierarchy("/g", Version::V2, &["cpuset", "cpu", "io", "memory", "pids"])];
        let plan = everything().groups("x", &all).unwrap();
        assert_eq!(plan.groups.len(), 1);
        assert_eq!(plan.groups[0].controllers, ["memory", "cpu", "cpuset", "pids"]);
        assert_eq!(
            lines(&plan),
            [
                "/g/minirun/x/memory.max 67108864",
                "/g/minirun/x/memory.swap.max 33554432",
                "/g/minirun/x/cpu.weight 59",
                "/g/minirun/x/cpu.max 150000 100000",
                "/g/minirun/x/cpuset.cpus 0-1",
                "/g/minirun/x/pids.max 50",
            ]
        );
        let memory = Limits { memory: Some(64 << 20), swap: Some(Swap::Unlimited), ..Limits::default() };
        assert_eq!(lines(&memory.groups("x", &all).unwrap())[1], "/g/minirun/x/memory.swap.max max");
    }

    #[test]
    fn a_missing_controller_is_named_with_its_option() {
        let all = [hierarchy("/g", Version::V2, &["cpu", "pids"])];
        let error = format!("{:#}", everything().groups("x", &all).unwrap_err());
        assert!(error.contains("--memory") && error.contains("controller `memory`"), "{error}");
    }

    #[test]
    fn what_the_machine_lacks_is_refused() {
        assert!(check_quota(200_000, 2).is_ok() && check_quota(200_001, 2).is_err());
        assert!(check_cpuset("0-1", "0-3").is_ok() && check_cpuset("1,4", "0-3").is_err());
        assert!(check_cpuset("0", "").is_err());
    }

    #[test]
    fn names_of_groups_lead_nowhere_else() {
        assert!(check_id("0123456789ab").is_ok() && check_id("web_1.x").is_ok());
        for bad in ["", ".", "..", "a/b", "../x", "a b", "ä", "a\n"] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
    }
}
