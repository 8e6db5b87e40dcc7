//! Who the program is and what it may do: limits, capabilities, user and groups, no new privileges.
//!
//! Called in the child when nothing is left that needs a privilege. The order is the kernel's: limits while there is
//! `CAP_SYS_RESOURCE`; the bounding set while there is `CAP_SETPCAP`; groups and user while there are `CAP_SETGID` and
//! `CAP_SETUID`; the capability sets last. A step that fails ends the container.

use std::os::fd::BorrowedFd;

use anyhow::{Context, Result, bail};
use caps::{CapSet, Capability, CapsHashSet};
use nix::sched::{CloneFlags, setns};
use nix::sys::resource::{Resource, setrlimit};
use rustix::process::{Gid, Uid};
use rustix::thread::{
    set_keep_capabilities, set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use crate::plan::Process;

/// Docker's default capabilities less `CAP_NET_RAW`: with it a container can forge packets of its neighbours; `ping` works
/// without (net.ipv4.ping_group_range).
pub const DEFAULT_CAPABILITIES: [Capability; 13] = [
    Capability::CAP_AUDIT_WRITE,
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_MKNOD,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SETFCAP,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
    Capability::CAP_SYS_CHROOT,
];

/// What [`assume`], a terminal and a working directory take.
const FOR_THE_WAY: [Capability; 7] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
    Capability::CAP_SYS_RESOURCE,
];

/// A resource limit (setrlimit(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What is limited.
    pub resource: Resource,
    /// What holds at first.
    pub soft: u64,
    /// How far the program may raise it.
    pub hard: u64,
}

/// The sets of a process beside the bounding one (capabilities(7)), where they are given one by one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the kernel's")]
pub struct Sets {
    pub effective: CapsHashSet,
    pub permitted: CapsHashSet,
    pub inheritable: CapsHashSet,
    pub ambient: CapsHashSet,
}

/// Becomes the process's user, with its limits and no more than its capabilities.
///
/// In the user namespace `within`, where there is one: it is entered when the limits are set, which only the host's root can
/// raise, and everything after that counts there.
pub fn assume(process: &Process, within: Option<BorrowedFd<'_>>) -> Result<()> {
    let Process { user, capabilities, sets, limits, filter, no_new_privileges, .. } = process;
    for limit in limits {
        setrlimit(limit.resource, limit.soft, limit.hard)
            .with_context(|| format!("set limit {:?} to {}:{}", limit.resource, limit.soft, limit.hard))?;
    }
    if let Some(within) = within {
        setns(within, CloneFlags::CLONE_NEWUSER).context("enter the user namespace")?;
    }
    if *no_new_privileges {
        set_no_new_privs(true).context("set no_new_privs")?;
    }
    let bits = capabilities.iter().fold(0, |bits, capability| bits | capability.bitmask());
    crate::sys::drop_bounding_except(bits).context("drop capabilities from the bounding set")?;
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    set_thread_groups(&groups).context("set groups")?;
    set_thread_res_gid(gid, gid, gid).context("set group")?;
    // Without no_new_privs the kernel wants CAP_SYS_ADMIN for a filter, which goes with the next line.
    if let (Some(filter), false) = (filter, no_new_privileges) {
        filter.install()?;
    }
    if let Some(sets) = sets {
        // Until execve.
        set_keep_capabilities(true).context("keep capabilities")?;
        set_thread_res_uid(uid, uid, uid).context("set user")?;
        return sets.assume();
    }
    set_thread_res_uid(uid, uid, uid).context("set user")?;
    // Inheritable and ambient sets are empty for everyone (CVE-2022-29162): an executable's file capabilities would else be
    // granted to a user who was given none. A user other than root has lost the other two with the change of user.
    let held = if user.uid == 0 { capabilities.clone() } else { CapsHashSet::new() };
    caps::clear(None, CapSet::Ambient).context("clear ambient capabilities")?;
    // The effective set is taken down first: it may not hold what the permitted one lacks.
    caps::set(None, CapSet::Effective, &held).context("set effective capabilities")?;
    caps::set(None, CapSet::Permitted, &held).context("set permitted capabilities")?;
    caps::clear(None, CapSet::Inheritable).context("clear inheritable capabilities")
}

/// Gives up every capability that neither the process nor the way to it takes: for one who becomes visible to a container
/// whose root can take over other processes.
pub fn narrow(process: &Process) -> Result<()> {
    let mut keep: CapsHashSet = process.capabilities.iter().copied().chain(FOR_THE_WAY).collect();
    keep.extend(process.sets.iter().flat_map(|sets| sets.permitted.iter().chain(&sets.inheritable)));
    if process.filter.is_some() && !process.no_new_privileges {
        keep.insert(Capability::CAP_SYS_ADMIN);
    }
    let own = caps::read(None, CapSet::Permitted).context("read own capabilities")?;
    keep.retain(|capability| own.contains(capability));
    let bits = keep.iter().fold(0, |bits, capability| bits | capability.bitmask());
    crate::sys::drop_bounding_except(bits).context("drop capabilities from the bounding set")?;
    caps::set(None, CapSet::Effective, &keep).context("set effective capabilities")?;
    caps::set(None, CapSet::Permitted, &keep).context("set permitted capabilities")
}

impl Sets {
    /// Makes them the process's. The permitted set is what minirun had until the last but one step.
    fn assume(&self) -> Result<()> {
        caps::clear(None, CapSet::Ambient).context("clear ambient capabilities")?;
        caps::set(None, CapSet::Inheritable, &self.inheritable).context("set inheritable capabilities")?;
        // The effective set may not hold what the permitted one lacks.
        caps::set(None, CapSet::Effective, &self.effective).context("set effective capabilities")?;
        caps::set(None, CapSet::Permitted, &self.permitted).context("set permitted capabilities")?;
        caps::set(None, CapSet::Ambient, &self.ambient).context("set ambient capabilities")
    }
}

/// The capabilities of a container: the default ones, with `add` and without `drop`; `ALL` is all that the caller has.
pub fn capabilities(add: &[String], drop: &[String]) -> Result<CapsHashSet> {
    let mut set: CapsHashSet = DEFAULT_CAPABILITIES.into_iter().collect();
    if drop.iter().any(|name| name.eq_ignore_ascii_case("ALL")) {
        set.clear();
    }
    for name in add {
        if name.eq_ignore_ascii_case("ALL") {
            set.extend(caps::read(None, CapSet::Permitted).context("read own capabilities")?);
        } else {
            set.insert(parse(name)?);
        }
    }
    for name in drop.iter().filter(|name| !name.eq_ignore_ascii_case("ALL")) {
        set.remove(&parse(name)?);
    }
    if !add.is_empty() {
        let own = caps::read(None, CapSet::Permitted).context("read own capabilities")?;
        let missing = add.iter().filter_map(|name| parse(name).ok()).find(|capability| !own.contains(capability));
        if let Some(capability) = missing {
            bail!("add capability `{capability}`: minirun itself was started without it");
        }
    }
    Ok(set)
}

/// A capability by its name, with or without `CAP_`.
pub fn parse(name: &str) -> Result<Capability> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    full.parse()
        .ok()
        .with_context(|| format!("parse capability `{name}`: there is none of that name, see capabilities(7)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(add: &[&str], drop: &[&str]) -> Result<CapsHashSet> {
        let owned = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        capabilities(&owned(add), &owned(drop))
    }

    #[test]
    fn added_and_dropped_by_any_spelling() {
        assert_eq!(names(&[], &[]).unwrap().len(), 13);
        assert!(names(&["net_raw"], &[]).unwrap().contains(&Capability::CAP_NET_RAW));
        assert!(!names(&[], &["CAP_CHOWN"]).unwrap().contains(&Capability::CAP_CHOWN));
        assert_eq!(names(&["KILL"], &["all"]).unwrap(), [Capability::CAP_KILL].into());
        assert!(names(&["NET_RAWR"], &[]).is_err());
    }
}
