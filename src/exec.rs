//! A further process in a container that runs: joined, confined as its first program is, and served to its end.
//!
//! Called by `commands/exec.rs`. The order is what keeps the host out of the container's reach (CVE-2016-9962,
//! CVE-2019-5736), also where its root may look into other processes:
//!
//! ```text
//!   minirun exec                    the joiner                       the program
//!        |--- born in the groups --->|                                    |
//!        |                           | lets go of all that is the host's, |
//!        |                           | joins every namespace              |
//!        |                           |--- a child of minirun exec's ----->| seen by the container from here on
//!        |<------ its number --------|                                    |
//!        | <--------------------- Ready, Go, end of file (sync.rs) ------>|
//! ```
//!
//! The joiner is in the host's PID namespace still, where the container sees nobody. What it makes has nothing of the host's
//! but its standard streams and the socket, and no more rights than the program and the way to it take.

use std::convert::Infallible;
use std::fs::File;
use std::io::PipeWriter;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use caps::{CapSet, Capability, CapsHashSet};
use nix::sched::{CloneFlags, setns};
use nix::unistd::ForkResult;

use crate::container::Container;
use crate::error::refused;
use crate::init;
use crate::joiner;
use crate::net::services::Services;
use crate::options;
use crate::plan::Process;
use crate::reaper;
use crate::sandbox::cgroup::Entrance;
use crate::sandbox::credentials;
use crate::sandbox::devices;
use crate::sandbox::rootfs;
use crate::sandbox::seccomp::{Choice, Filter};
use crate::state::Found;
use crate::supervise::{Io, Signals, Watch};
use crate::sync::{self, End};
use crate::sys::{self, Side};
use crate::terminal::Relay;

/// What is joined, held open from before it is joined.
#[derive(Debug)]
pub struct Place {
    /// The container's first process.
    process: OwnedFd,
    /// Its user namespace, where it is not this process's own.
    user: Option<File>,
    /// What its user 0 is on the host.
    first_id: u32,
    groups: Option<Entrance>,
}

impl Place {
    /// Opens what is to be joined.
    pub fn of(found: &Found) -> Result<Self> {
        let failed = || format!("join container `{}`", found.record.name);
        let process = found.process("execute in")?;
        let pid = found.record.pid.unwrap_or_default();
        let user = File::open(format!("/proc/{pid}/ns/user")).with_context(failed)?;
        let own = File::open("/proc/self/ns/user").with_context(failed)?;
        let number = |file: &File| rustix::fs::fstat(file).map(|about| about.st_ino);
        let user = (number(&user)? != number(&own)?).then_some(user);
        let groups = &found.record.inside.groups;
        let groups = (!groups.is_empty()).then(|| Entrance::into_groups(groups)).transpose().with_context(failed)?;
        // The number is the process's as long as it lives: asked last.
        if crate::state::ended_within(&process, 0) {
            bail!("{}: it has ended", failed());
        }
        let first_id = found.record.inside.ids.map_or(0, |(uid, _)| uid);
        Ok(Self { process, user, first_id, groups })
    }

    /// Joins all but the user namespace. (That one last, by the child: it takes the right to join the others away.)
    fn join(&self) -> Result<()> {
        self.groups.as_ref().map_or(Ok(()), Entrance::join)?;
        joiner::hide()?;
        let all = CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP;
        setns(&self.process, all).context("join the container's namespaces")
    }

    fn user(&self) -> Option<BorrowedFd<'_>> {
        self.user.as_ref().map(AsFd::as_fd)
    }
}

/// Runs `process` in the container until its end; the exit code. With `detach`, only until it runs.
pub fn run(place: &Place, process: &Process, detach: bool) -> Result<u8> {
    let mut signals = Signals::catch()?;
    let mut container = make(place, process, detach)?;
    let master = container.ready()?;
    let io = match master {
        Some(master) => Io::Relay(Box::new(Relay::start(master, process.interactive, None)?)),
        None => Io::Inherited,
    };
    container.go()?;
    container.running()?;
    if detach {
        return container.reap().map(|_| 0);
    }
    // It is no first process: every signal has its usual effect.
    let watch = Watch::new(&mut container, &mut signals, io, true, Services::default());
    watch.until_end(None, |_| bail!("let go of the container"), |_| {}, || false).1
}

/// Makes the process that will be the program: a child of this one, by way of the joiner.
fn make(place: &Place, process: &Process, detach: bool) -> Result<Container> {
    let failed = "make a process in the container";
    let (ours, theirs) = sync::pair()?;
    let (number, made) = std::io::pipe().context(failed)?;
    debug_assert_eq!(sys::threads(), 1, "clone3 copies one thread only");
    let birthplace = place.groups.as_ref().and_then(Entrance::birthplace);
    let joiner = match sys::clone3(0, birthplace).context(failed)? {
        Side::Parent(joiner) => joiner,
        Side::Child => init::carry_out(&theirs, || join_and_make(place, process, detach, &theirs, made)),
    };
    drop((theirs, made));
    Ok(Container::of(joiner::follow(&joiner, number, &ours)?, ours))
}

/// The joiner: lets go, joins, and makes its sibling.
fn join_and_make(place: &Place, process: &Process, detach: bool, parent: &End, made: PipeWriter) -> Result<Infallible> {
    place.join()?;
    joiner::hand_over(process, place.user(), parent, made, || become_program(place, process, detach, parent))
}

fn become_program(place: &Place, process: &Process, detach: bool, parent: &End) -> Result<Infallible> {
    if !detach {
        init::die_with_parent()?;
    } else if let ForkResult::Parent { .. } = sys::fork().context("make a process in the container")? {
        // So the program is an orphan of the container's, which its first process takes over. Else it would be one of the
        // host's, and a container does not end before the host has buried it.
        sys::exit_now(0);
    }
    rustix::process::setsid().context("make a session")?;
    let owner = process.user.uid + place.first_id;
    let terminal = process.terminal.then(|| devices::open_terminal(owner)).transpose()?;
    let root = rustix::fs::open("/", rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())
        .context("open the container's root")?;
    let directory = rootfs::open_inside(root.as_fd(), &process.workdir, rustix::fs::OFlags::PATH)
        .with_context(|| format!("enter working directory `{}`", process.workdir.display()))?;
    rootfs::enter_working_directory(directory, &process.workdir)?;
    init::connect_stdio(process, terminal.as_ref(), None, detach)?;
    init::take_terminal(process)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    parent.ready(terminal.as_ref().map(|terminal| terminal.master.as_fd()))?;
    drop((terminal, root));
    parent.wait_for_go()?;
    init::confine_and_execute(process, None, (!detach).then_some(parent), place.user())
}

/// The confinement of a process in the container: the container's own, or none of it.
pub fn confine(found: &Found, privileged: bool) -> Result<(CapsHashSet, Option<Filter>, bool)> {
    let inside = &found.record.inside;
    if privileged {
        let all = caps::read(None, CapSet::Permitted).context("read own capabilities")?;
        return Ok((all, None, false));
    }
    let has = |capability: &Capability| inside.capabilities & capability.bitmask() != 0;
    let capabilities: CapsHashSet = caps::all().into_iter().filter(has).collect();
    let filter = match &inside.security.seccomp {
        Choice::File(_) => {
            let path = found.path.join("filter");
            let bytes = std::fs::read(&path).with_context(|| format!("read `{}`", path.display()))?;
            Some(Filter::from_bytes(&bytes)?)
        }
        choice => choice.filter(&capabilities)?,
    };
    Ok((capabilities, filter, inside.security.no_new_privileges))
}

/// The limits of a container.
pub fn limits(found: &Found) -> Result<Vec<credentials::Limit>> {
    found.record.inside.limits.iter().map(|text| options::ulimit(text)).collect()
}

/// Executes a program of the host in the container's network. It returns with an error only.
pub fn net_only(found: &Found, argv: &[std::ffi::CString]) -> Result<u8> {
    let process = found.process("execute in the network of")?;
    let failed = || format!("join the network of container `{}`", found.record.name);
    setns(&process, CloneFlags::CLONE_NEWNET).with_context(failed)?;
    // /sys shows the links of the network in which it was mounted.
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).with_context(failed)?;
    rootfs::leave_host_mounts()?;
    let flags =
        rustix::mount::MountFlags::NOSUID | rustix::mount::MountFlags::NODEV | rustix::mount::MountFlags::NOEXEC;
    rustix::mount::mount("sysfs", Path::new("/sys"), "sysfs", flags, None).context("mount `/sys`")?;
    sys::reset_signals().context("reset signals")?;
    match init::execute(argv, &reaper::environment()?)? {}
}

/// Whether the container, or one that it shares processes with, could look into a process of the host that joins it: then
/// minirun runs as a copy that nobody can change, see [`crate::reaper::sealed_copy`].
pub fn needs_sealed_copy(found: &Found) -> bool {
    found.record.inside.capabilities & Capability::CAP_SYS_PTRACE.bitmask() != 0 || found.shares_processes()
}

/// An error where the container cannot take a further process now.
pub fn check(found: &Found) -> Result<()> {
    use crate::state::Status;
    match found.status {
        Status::Paused => Err(refused(
            format!("execute in container `{}`: it is paused", found.record.name),
            format!("`minirun unpause {}` first", found.record.name),
        )),
        _ => Ok(()),
    }
}
