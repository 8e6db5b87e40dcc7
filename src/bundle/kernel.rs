//! `linux` of a bundle: namespaces, devices, limits, settings. Looks at the host, changes nothing.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::libc;
use oci_spec::runtime::{
    LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxNamespace, LinuxNamespaceType,
    LinuxPids,
};
use rustix::fs::{CWD, FileType, Mode as FileMode, OFlags, fstatfs, makedev, openat};
use serde_json::Value;

use super::honoured::unsupported;
use super::{list, part, place};
use crate::options;
use crate::sandbox::cgroup::{Limits, PERIOD, Swap, cpu_list};
use crate::sandbox::devices;
use crate::sandbox::host_devices::Device;
use crate::sandbox::namespaces::{Namespaces, Whose};
use crate::sys;

/// Which network namespace a bundle asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum NetworkOf {
    /// One of its own.
    Own,
    /// minirun's.
    Host,
    /// One that is there; its path.
    Path(String),
}

/// The namespaces: those that are not listed are minirun's own, those with a path are joined.
pub fn namespaces(config: &Value) -> Result<(Namespaces, NetworkOf)> {
    let listed: Vec<LinuxNamespace> = list(config, "linux.namespaces")?;
    let mut all = Namespaces::own();
    (all.pid, all.ipc, all.uts, all.cgroup) = (Whose::Host, Whose::Host, Whose::Host, Whose::Host);
    let mut network = NetworkOf::Host;
    let mut has_mounts = false;
    for (index, namespace) in listed.iter().enumerate() {
        let name = format!("linux.namespaces[{index}]");
        if listed[..index].iter().any(|other| other.typ() == namespace.typ()) {
            bail!("refuse bundle: {name}: it is there twice");
        }
        let path = namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty());
        let whose = |kind: (&str, i32)| -> Result<Whose> {
            let open = |path| open_namespace(path, kind).with_context(|| format!("refuse bundle: {name}.path"));
            path.map_or(Ok(Whose::Own), |path| open(path).map(Whose::Other))
        };
        match namespace.typ() {
            LinuxNamespaceType::Pid => all.pid = whose(("pid", libc::CLONE_NEWPID))?,
            LinuxNamespaceType::Ipc => all.ipc = whose(("ipc", libc::CLONE_NEWIPC))?,
            LinuxNamespaceType::Uts => all.uts = whose(("uts", libc::CLONE_NEWUTS))?,
            LinuxNamespaceType::Cgroup => all.cgroup = whose(("cgroup", libc::CLONE_NEWCGROUP))?,
            LinuxNamespaceType::Network => match (whose(("net", libc::CLONE_NEWNET))?, path) {
                (Whose::Other(joined), Some(path)) => {
                    all.network = Some(joined);
                    network = NetworkOf::Path(path.display().to_string());
                }
                _ => network = NetworkOf::Own,
            },
            LinuxNamespaceType::Mount if path.is_none() => has_mounts = true,
            LinuxNamespaceType::Mount => return Err(unsupported(&format!("{name}.path of a mount namespace"))),
            LinuxNamespaceType::User => return Err(unsupported(&format!("{name} `user`"))),
            LinuxNamespaceType::Time => return Err(unsupported(&format!("{name} `time`"))),
        }
    }
    if !has_mounts {
        return Err(unsupported("linux.namespaces without `mount`"));
    }
    Ok((all, network))
}

/// Opens a namespace, which must be of this kind.
fn open_namespace(path: &Path, (kind, flag): (&str, i32)) -> Result<OwnedFd> {
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    let failed = || format!("join `{}`", path.display());
    if !path.is_absolute() {
        bail!("`{}` is not absolute", path.display());
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = openat(CWD, path, flags, FileMode::empty()).with_context(failed)?;
    let is_namespace = fstatfs(&opened).with_context(failed)?.f_type == NSFS_MAGIC;
    if !is_namespace || sys::kind_of_namespace(&opened).with_context(failed)? != flag {
        bail!("{}: it is no {kind} namespace", failed());
    }
    Ok(opened)
}

/// The devices beyond the usual ones. Each must be allowed too, and nothing else may be: what is not listed cannot be opened,
/// because no mount but those of the listed ones lets devices be opened.
pub fn devices(config: &Value) -> Result<Vec<Device>> {
    let listed: Vec<LinuxDevice> = list(config, "linux.devices")?;
    let mut all: Vec<Device> = Vec::new();
    for (index, spec) in listed.iter().enumerate() {
        let name = format!("refuse bundle: linux.devices[{index}]");
        let device = device(spec).context(name.clone())?;
        if devices::is_usual(&device.target, device.number) {
            continue;
        }
        if devices::is_taken(&device.target) {
            bail!("{name}: `{}` is the container's own", device.target.display());
        }
        if all.iter().any(|other| other.target == device.target) {
            bail!("{name}: `{}` is asked for twice", device.target.display());
        }
        all.push(device);
    }
    check_rules(&list::<LinuxDeviceCgroup>(config, "linux.resources.devices")?, &all)?;
    Ok(all)
}

fn device(spec: &LinuxDevice) -> Result<Device> {
    let kind = match spec.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::B => FileType::BlockDevice,
        _ => bail!("a FIFO is not supported yet"),
    };
    let target = options::target_path(&place(spec.path())?)?;
    let number = |number: i64| u32::try_from(number).with_context(|| format!("{number} is not a device number"));
    let number = makedev(number(spec.major())?, number(spec.minor())?);
    let (uid, gid) = (spec.uid().unwrap_or(0), spec.gid().unwrap_or(0));
    if uid == u32::MAX || gid == u32::MAX {
        bail!("{} is not an id", u32::MAX);
    }
    // File modes of Go's programs may have the type in them.
    Ok(Device { target, kind, number, mode: spec.file_mode().unwrap_or(0o666) & 0o777, owner: (uid, gid) })
}

fn check_rules(rules: &[LinuxDeviceCgroup], devices: &[Device]) -> Result<()> {
    let kind = |rule: &LinuxDeviceCgroup| match rule.typ() {
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(FileType::CharacterDevice),
        Some(LinuxDeviceType::B) => Some(FileType::BlockDevice),
        _ => None,
    };
    let part = |part: Option<i64>| part.filter(|part| *part >= 0).map(|part| u32::try_from(part).unwrap_or(u32::MAX));
    let access = |rule: &LinuxDeviceCgroup| rule.access().clone().unwrap_or_default();
    let is_of = |rule: &LinuxDeviceCgroup, device: &Device| {
        let own = (rustix::fs::major(device.number), rustix::fs::minor(device.number));
        kind(rule) == Some(device.kind) && (part(rule.major()), part(rule.minor())) == (Some(own.0), Some(own.1))
    };
    for (index, rule) in rules.iter().enumerate() {
        let name = format!("linux.resources.devices[{index}]");
        let (character, major, minor) =
            (kind(rule) == Some(FileType::CharacterDevice), part(rule.major()), part(rule.minor()));
        let everything = kind(rule).is_none() && major.is_none() && minor.is_none();
        if !rule.allow() {
            // What is denied by name must be none that is there.
            let usual = character && minor.zip(major).is_some_and(|(minor, major)| devices::has_number(major, minor));
            let given = devices.iter().any(|device| is_of(rule, device));
            let covers = !everything && (major.is_none() || minor.is_none());
            if usual || given || covers || everything && index > 0 {
                return Err(unsupported(&format!("{name}: to deny a device that is given,")));
            }
            continue;
        }
        // Every container has these: the usual ones, terminals. And to make a node is no way to open it.
        let usual = character
            && match (major, minor) {
                (Some(5), Some(1 | 2)) | (Some(136), _) => true,
                (Some(major), Some(minor)) => devices::has_number(major, minor),
                _ => false,
            };
        if !usual && access(rule) != "m" && !devices.iter().any(|device| is_of(rule, device)) {
            return Err(unsupported(&format!("{name}: to allow a device that is not in linux.devices")));
        }
    }
    for device in devices {
        let allows = |rule: &&LinuxDeviceCgroup| {
            rule.allow() && is_of(rule, device) && access(rule).contains('r') && access(rule).contains('w')
        };
        if !rules.iter().any(|rule| allows(&rule)) {
            bail!(
                "refuse bundle: linux.devices: `{}` is not allowed to be read and written in linux.resources.devices",
                device.target.display()
            );
        }
    }
    Ok(())
}

/// The limits; `None` where there are none.
pub fn limits(config: &Value) -> Result<Option<Limits>> {
    let mut limits = Limits::default();
    let refuse = |name: &str, why: &str| anyhow::anyhow!("refuse bundle: linux.resources.{name}: {why}");
    if let Some(memory) = part::<LinuxMemory>(config, "linux.resources.memory")? {
        limits.memory = most(memory.limit()).map_err(|why| refuse("memory.limit", why))?;
        let swap = most(memory.swap()).map_err(|why| refuse("memory.swap", why))?;
        limits.swap = match (limits.memory, swap) {
            (None, None) => None,
            (None, Some(_)) => return Err(refuse("memory.swap", "there is no memory.limit")),
            // Where nothing is said of swap, OCI's runtimes do not limit it.
            (Some(_), None) => Some(Swap::Unlimited),
            (Some(memory), Some(total)) if total < memory => {
                return Err(refuse("memory.swap", "it is memory and swap together, and less than memory.limit"));
            }
            (Some(_), Some(total)) => Some(Swap::Total(total)),
        };
    }
    if let Some(cpu) = part::<LinuxCpu>(config, "linux.resources.cpu")? {
        limits.quota = most(cpu.quota()).map_err(|why| refuse("cpu.quota", why))?;
        if limits.quota.is_some_and(|quota| quota < 1000) {
            return Err(refuse("cpu.quota", "1000 is the least that the kernel takes"));
        }
        if cpu.period().is_some_and(|period| period != 0 && period != PERIOD) {
            return Err(unsupported(&format!("linux.resources.cpu.period other than {PERIOD}")));
        }
        limits.shares = cpu.shares().filter(|shares| *shares != 0);
        if limits.shares.is_some_and(|shares| !(2..=262_144).contains(&shares)) {
            return Err(refuse("cpu.shares", "a number from 2 to 262144 is wanted"));
        }
        limits.cpuset = cpu.cpus().clone().filter(|list| !list.is_empty());
        if let Some(list) = &limits.cpuset {
            cpu_list(list).context("refuse bundle: linux.resources.cpu.cpus")?;
        }
    }
    if let Some(pids) = part::<LinuxPids>(config, "linux.resources.pids")? {
        limits.pids = most(Some(pids.limit())).map_err(|why| refuse("pids.limit", why))?;
    }
    Ok((limits != Limits::default()).then_some(limits))
}

/// `-1` and 0 are no limit.
fn most(number: Option<i64>) -> Result<Option<u64>, &'static str> {
    match number {
        None | Some(-1 | 0) => Ok(None),
        Some(number) => u64::try_from(number).map(Some).map_err(|_| "it is negative"),
    }
}

/// The settings as `KEY=VALUE`, and that of the domain's name.
pub fn sysctls(config: &Value) -> Result<Vec<String>> {
    let all: BTreeMap<String, String> = part(config, "linux.sysctl")?.unwrap_or_default();
    let mut texts: Vec<String> = Vec::new();
    if let Some(name) = part::<String>(config, "domainname")?.filter(|name| !name.is_empty()) {
        texts.push(format!("kernel.domainname={}", options::hostname(&name).context("refuse bundle: domainname")?));
    }
    for (key, value) in all {
        if key.contains('=') || value.contains('\0') {
            bail!("refuse bundle: linux.sysctl: `{key}` is no setting");
        }
        texts.push(format!("{key}={value}"));
    }
    Ok(texts)
}
