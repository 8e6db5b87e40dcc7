//! `run --spec`: what a command line means, as the `config.json` of an OCI bundle.
//!
//! The plan is made as for a run, but nothing is made on the host for it. What the specification has no word for is said in
//! annotations (`minirun.net` and so on), which other runtimes pass over. Two things are otherwise than in minirun's own run:
//! devices are kept from the container by `linux.resources.devices` instead of `nodev`, because other runtimes put the usual
//! nodes right into `/dev`; and other runtimes write to the image's directory, which is said on standard error.

use std::collections::HashMap;
use std::ffi::CString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use oci_spec::runtime::{
    LinuxCapabilities, LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxNamespace,
    LinuxNamespaceType, LinuxPids, LinuxResources, Mount, PosixRlimit, PosixRlimitBuilder, PosixRlimitType, Root, Spec,
    User,
};
use rustix::fs::{FileType, major, minor};
use rustix::mount::MountFlags;
use serde_json::Value;

use super::{PREFIX, seccomp};
use crate::cli::RunArgs;
use crate::error::{refused, warn};
use crate::net::mode::{DEFAULT, Mode};
use crate::plan::{Plan, Process};
use crate::sandbox::cgroup::{self, Limits, PERIOD, Swap};
use crate::sandbox::host_devices::Device;
use crate::sandbox::namespaces::Share;
use crate::sandbox::seccomp::{Choice, oci, read_profile};
use crate::sandbox::userns::UserNs;
use crate::sandbox::{masks, mounts};
use crate::state::State;

/// The version that is written: what has been added since 1.0 and is used here, others have known for long.
const VERSION: &str = "1.2.0";

/// The text for a command line.
pub fn of(args: &RunArgs, state: &Path, data_root: &Path) -> Result<String> {
    if args.openings.userns != UserNs::Host {
        let message = "print the configuration: it has no form yet for --userns and its idmapped image";
        return Err(refused(message, "leave out --userns"));
    }
    if let Some(tap) = args.network.tap.first() {
        let message = format!("print the configuration: it has no form for --tap {tap}");
        return Err(refused(message, "leave out --tap"));
    }
    if args.network.host_access {
        let message = "print the configuration: it has no form for --host-access";
        return Err(refused(message, "leave out --host-access"));
    }
    let plan = Plan::to_be_shown(args, data_root, state)?;
    let mut value = serde_json::to_value(spec(&plan, args, state)?)?;
    if let Some(filter) = filter(&plan)? {
        value["linux"]["seccomp"] = filter;
    }
    // Sets have no order.
    for set in value["process"]["capabilities"].as_object_mut().into_iter().flat_map(|sets| sets.values_mut()) {
        if let Some(names) = set.as_array_mut() {
            names.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
        }
    }
    if plan.image.is_some() && !plan.read_only {
        warn(&format!(
            "other runtimes will write to the image's directory `{}`; minirun will not",
            plan.lower.display()
        ));
    }
    Ok(format!("{value:#}\n"))
}

fn spec(plan: &Plan, args: &RunArgs, state: &Path) -> Result<Spec> {
    let mut root = Root::default();
    root.set_path(plan.lower.clone()).set_readonly(Some(plan.read_only));
    let mut linux = oci_spec::runtime::Linux::default();
    let (masked, read_only) = if plan.masked { masks::paths() } else { (vec![], vec![]) };
    let sysctls: HashMap<String, String> =
        plan.network.settings().map(|(key, value)| (dotted(key), value.to_owned())).collect();
    linux
        .set_namespaces(Some(namespaces(args, state)?))
        .set_sysctl((!sysctls.is_empty()).then_some(sysctls))
        .set_masked_paths((!masked.is_empty()).then_some(masked))
        .set_readonly_paths((!read_only.is_empty()).then_some(read_only))
        .set_devices((!plan.openings.devices.is_empty()).then(|| plan.openings.devices.iter().map(device).collect()))
        .set_resources(Some(resources(plan, args)?));
    let mut spec = Spec::default();
    spec.set_version(VERSION.to_owned())
        .set_root(Some(root))
        .set_hostname((args.openings.uts == Share::Own).then(|| plan.hostname.clone()))
        .set_process(Some(process(&plan.process)?))
        .set_mounts(Some(all_mounts(plan, args, state)?))
        .set_annotations(Some(annotations(plan, args)?))
        .set_linux(Some(linux));
    Ok(spec)
}

fn process(process: &Process) -> Result<oci_spec::runtime::Process> {
    let text = |words: &[CString]| -> Result<Vec<String>> {
        let text = |word: &CString| {
            let plain = word.to_str().map(str::to_owned);
            plain.with_context(|| format!("write `{}`: it is not UTF-8, as JSON wants it", word.to_string_lossy()))
        };
        words.iter().map(text).collect()
    };
    let mut user = User::default();
    user.set_uid(process.user.uid)
        .set_gid(process.user.gid)
        .set_additional_gids(Some(process.user.groups.clone()).filter(|groups| !groups.is_empty()));
    let mut spec = oci_spec::runtime::Process::default();
    spec.set_terminal(Some(process.terminal))
        .set_user(user)
        .set_args(Some(text(&process.argv)?))
        .set_env(Some(text(&process.env)?))
        .set_cwd(process.workdir.clone())
        .set_capabilities(Some(capabilities(process)?))
        .set_rlimits(Some(rlimits(process)?).filter(|limits| !limits.is_empty()))
        .set_no_new_privileges(Some(process.no_new_privileges));
    Ok(spec)
}

/// The sets as `credentials.rs` makes them: who is not root holds none of the capabilities, and nobody hands any on.
fn capabilities(process: &Process) -> Result<LinuxCapabilities> {
    let all = process.capabilities.iter().map(|capability| {
        let name = capability.to_string();
        serde_json::from_value(Value::String(name)).with_context(|| format!("write capability `{capability}`"))
    });
    let all: oci_spec::runtime::Capabilities = all.collect::<Result<_>>()?;
    let held = if process.user.uid == 0 { all.clone() } else { Default::default() };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(all))
        .set_effective(Some(held.clone()))
        .set_permitted(Some(held))
        .set_inheritable(Some(Default::default()))
        .set_ambient(Some(Default::default()));
    Ok(sets)
}

fn rlimits(process: &Process) -> Result<Vec<PosixRlimit>> {
    let limit = |limit: &crate::sandbox::credentials::Limit| -> Result<PosixRlimit> {
        let kind = serde_json::from_value(Value::String(format!("{:?}", limit.resource)))?;
        let kind: PosixRlimitType = kind;
        Ok(PosixRlimitBuilder::default().typ(kind).soft(limit.soft).hard(limit.hard).build()?)
    };
    process.limits.iter().map(limit).collect()
}

fn namespaces(args: &RunArgs, state: &Path) -> Result<Vec<LinuxNamespace>> {
    let mut all = Vec::new();
    let mut put = |kind: LinuxNamespaceType, path: Option<PathBuf>| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind).set_path(path);
        all.push(namespace);
    };
    put(LinuxNamespaceType::Mount, None);
    match args.network.mode()? {
        Mode::Host => {}
        Mode::Container(other) => put(LinuxNamespaceType::Network, Some(process_of(&other, state)?.join("ns/net"))),
        Mode::Namespace(path) => put(LinuxNamespaceType::Network, Some(path)),
        Mode::None | Mode::Networks(_) => put(LinuxNamespaceType::Network, None),
    }
    for (kind, name, whose) in [
        (LinuxNamespaceType::Pid, "pid", &args.openings.pid),
        (LinuxNamespaceType::Ipc, "ipc", &args.openings.ipc),
        (LinuxNamespaceType::Uts, "uts", &args.openings.uts),
        (LinuxNamespaceType::Cgroup, "cgroup", &args.openings.cgroupns),
    ] {
        match whose {
            Share::Own => put(kind, None),
            Share::Host => {}
            Share::Container(other) => put(kind, Some(process_of(other, state)?.join("ns").join(name))),
        }
    }
    Ok(all)
}

/// The directory in /proc of another container's first process.
fn process_of(name: &str, state: &Path) -> Result<PathBuf> {
    let found = State::open(state)?.find(name).with_context(|| format!("join container `{name}`"))?;
    let pid = found.record.pid.filter(|_| found.record.process().is_some());
    let pid = pid.with_context(|| format!("join container `{name}`: it does not run"))?;
    Ok(PathBuf::from(format!("/proc/{pid}")))
}

fn mount(target: &Path, kind: &str, source: &Path, options: Vec<String>) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(target.to_owned())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(options));
    mount
}

/// What `mounts.rs` and `devices.rs` mount, in their order.
fn all_mounts(plan: &Plan, args: &RunArgs, state: &Path) -> Result<Vec<Mount>> {
    let of_kernel = |target: &str, kind: &str, options: &str| {
        mount(Path::new(target), kind, Path::new(kind), options.split(',').map(str::to_owned).collect())
    };
    let privileged = plan.openings.privileged;
    let closed = "nosuid,nodev,noexec";
    let mut all = vec![of_kernel("/proc", "proc", closed)];
    all.push(of_kernel("/sys", "sysfs", &if privileged { closed.to_owned() } else { format!("{closed},ro") }));
    if privileged {
        let place = Path::new("/sys/fs/cgroup");
        all.push(mount(place, "bind", place, vec!["rbind".into(), "rprivate".into()]));
    }
    all.push(of_kernel("/dev", "tmpfs", "nosuid,mode=755"));
    all.push(of_kernel("/dev/pts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"));
    let shared = match &args.openings.ipc {
        Share::Own => None,
        Share::Host => Some(PathBuf::from("/dev/shm")),
        Share::Container(other) => Some(process_of(other, state)?.join("root/dev/shm")),
    };
    all.push(match shared {
        Some(source) => mount(Path::new("/dev/shm"), "bind", &source, words("bind,private,nosuid,nodev,noexec")),
        None => of_kernel("/dev/shm", "tmpfs", &format!("{closed},mode=1777,size={}", plan.openings.shm_size)),
    });
    all.push(of_kernel("/dev/mqueue", "mqueue", closed));
    all.extend(plan.mounts.iter().map(|wanted| of_user(wanted, privileged)));
    Ok(all)
}

fn words(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

fn of_user(wanted: &mounts::Mount, privileged: bool) -> Mount {
    match wanted {
        mounts::Mount::Bind { source, target, read_only } => {
            // The words with an `r` before them are for all that is mounted below; the others for runtimes of before 1.1.
            let mut options = words("rbind,rprivate,nosuid,rnosuid");
            if !privileged && !is_device(source) {
                options.extend(words("nodev,rnodev"));
            }
            options.extend(words(if *read_only { "ro,rro" } else { "rw" }));
            mount(target, "bind", source, options)
        }
        mounts::Mount::Tmpfs { target, options, flags } => {
            let known = [
                (MountFlags::RDONLY, "ro"),
                (MountFlags::NOSUID, "nosuid"),
                (MountFlags::NODEV, "nodev"),
                (MountFlags::NOEXEC, "noexec"),
            ];
            let flags = known.iter().filter(|(flag, _)| flags.contains(*flag)).map(|(_, name)| *name);
            let data = options.split(',').filter(|option| !option.is_empty());
            mount(target, "tmpfs", Path::new("tmpfs"), flags.chain(data).map(str::to_owned).collect())
        }
    }
}

fn is_device(path: &Path) -> bool {
    let kind = rustix::fs::stat(path).map(|stat| FileType::from_raw_mode(stat.st_mode));
    kind.is_ok_and(|kind| matches!(kind, FileType::CharacterDevice | FileType::BlockDevice))
}

fn device(device: &Device) -> LinuxDevice {
    let mut spec = LinuxDevice::default();
    spec.set_path(device.target.clone())
        .set_typ(kind_of(device))
        .set_major(major(device.number).into())
        .set_minor(minor(device.number).into())
        .set_file_mode(Some(device.mode))
        .set_uid(Some(device.owner.0))
        .set_gid(Some(device.owner.1));
    spec
}

fn kind_of(device: &Device) -> LinuxDeviceType {
    if device.kind == FileType::BlockDevice { LinuxDeviceType::B } else { LinuxDeviceType::C }
}

fn resources(plan: &Plan, args: &RunArgs) -> Result<LinuxResources> {
    let rule = |allow: bool| {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(allow).set_access(Some("rwm".to_owned()));
        rule
    };
    // Without devices of its own a container has what runtimes allow by themselves: the usual ones.
    let mut devices = vec![rule(plan.openings.privileged)];
    if !plan.openings.privileged {
        for device in &plan.openings.devices {
            let mut rule = rule(true);
            rule.set_typ(Some(kind_of(device)))
                .set_major(Some(major(device.number).into()))
                .set_minor(Some(minor(device.number).into()));
            devices.push(rule);
        }
    }
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(devices));
    if let Some(limits) = Limits::of(&args.limits)? {
        limit(&mut resources, &limits, plan.cgroup.as_ref());
    }
    Ok(resources)
}

fn limit(resources: &mut LinuxResources, limits: &Limits, groups: Option<&cgroup::Plan>) {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    if let Some(bytes) = limits.memory {
        let total = match limits.swap {
            Some(Swap::Total(total)) => Some(signed(total)),
            Some(Swap::Unlimited) => Some(-1),
            // Set where this host counts swap, and no error where it does not.
            Some(Swap::AsMemory) if groups.is_some_and(cgroup::Plan::counts_swap) => Some(signed(bytes * 2)),
            Some(Swap::AsMemory) | None => None,
        };
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(signed(bytes))).set_swap(total);
        resources.set_memory(Some(memory));
    }
    if limits.quota.is_some() || limits.shares.is_some() || limits.cpuset.is_some() {
        let mut cpu = LinuxCpu::default();
        cpu.set_quota(limits.quota.map(signed))
            .set_period(limits.quota.map(|_| PERIOD))
            .set_shares(limits.shares)
            .set_cpus(limits.cpuset.clone());
        resources.set_cpu(Some(cpu));
    }
    if let Some(count) = limits.pids {
        let mut pids = LinuxPids::default();
        pids.set_limit(signed(count));
        resources.set_pids(Some(pids));
    }
}

/// A setting as OCI names it: with dots, unless a part of it has one.
fn dotted(key: &str) -> String {
    if key.contains('.') { key.to_owned() } else { key.replace('/', ".") }
}

/// The labels, and what the configuration has no word for.
fn annotations(plan: &Plan, args: &RunArgs) -> Result<HashMap<String, String>> {
    if let Some(label) = plan.record.labels.keys().find(|label| label.starts_with(PREFIX)) {
        return Err(refused(
            format!("write label `{label}` as an annotation: names that begin with `{PREFIX}` are minirun's own there"),
            "give it another name",
        ));
    }
    let mut all: HashMap<String, String> = plan.record.labels.clone().into_iter().collect();
    let mut put = |name: &str, value: String| all.insert(format!("{PREFIX}{name}"), value);
    let nets: Vec<String> = args.network.net.iter().map(ToString::to_string).collect();
    put("net", if nets.is_empty() { DEFAULT.to_owned() } else { nets.join(" ") });
    put("stop-signal", plan.record.stop_signal.to_string());
    put("stop-timeout", plan.record.stop_timeout.to_string());
    if plan.image.is_some() || args.rootfs.is_some() {
        // Its changes are in memory.
        put("root", "overlay".to_owned());
    }
    for (name, is_set) in [("init", args.init), ("interactive", args.interactive)] {
        if is_set {
            put(name, "true".to_owned());
        }
    }
    for (name, values) in [
        ("add-host", args.network.add_host.clone()),
        ("dns", args.network.dns.iter().map(ToString::to_string).collect()),
    ] {
        if !values.is_empty() {
            put(name, values.join(","));
        }
    }
    Ok(all)
}

fn filter(plan: &Plan) -> Result<Option<Value>> {
    let bits = plan.record.inside.capabilities;
    match &plan.record.inside.security.seccomp {
        Choice::Unconfined => Ok(None),
        Choice::Default(open) => Ok(Some(serde_json::to_value(seccomp::own(bits, open)?)?)),
        Choice::File(path) => {
            let failed = || format!("use seccomp profile `{}`", path.display());
            let resolved = read_profile(path).and_then(|text| oci::resolve(&text, bits)).with_context(failed)?;
            if resolved["defaultAction"].is_null() {
                bail!("{}: it has no default action", failed());
            }
            Ok(Some(resolved))
        }
    }
}

#[cfg(test)]
mod tests;
