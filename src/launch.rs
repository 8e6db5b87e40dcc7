//! THE PARENT: the steps of a launch, in order, from a plan to a running program, and its end.
//!
//! Called by `commands/run.rs`. Everything that is made is held by a guard, so that an error, a signal or a panic undoes it;
//! what a SIGKILL leaves, the kernel ends, or the next command sweeps.

use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::libc;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::error::Advice;
use crate::net::Mode;
use crate::net::rtnl::Rtnl;
use crate::plan::Plan;
use crate::sandbox::rest::Rest;
use crate::state::{self, Record, State};
use crate::supervise::{self, Signals};
use crate::sync::{self, End, FromChild};
use crate::sys::{self, Child, Side};
use crate::terminal::Relay;
use crate::{init, reaper};

/// Runs a container from its first step to its end. The exit code of its program.
pub fn run(mut plan: Plan, root: &Path) -> Result<u8> {
    // Before anything is made, so that a signal finds the guards in place.
    let mut signals = Signals::catch()?;
    let state = State::open(root)?;
    let mut entry = state.reserve(&plan.record)?;
    plan.network.prepare()?;
    if let Some(user) = &mut plan.userns {
        user.make()?;
    }
    let mut container = spawn(&plan)?;
    plan.network.attach(container.pid() as u32, || container.inside())?;
    // While the child is still busy with its mounts; if it fails after this, the guard takes the record away again.
    let (pid, pid_start) = (Some(container.pid()), state::start_time(container.pid()));
    entry.commit(&Record { pid, pid_start, ..plan.record.clone() })?;
    // From here on the program may run. Said before the child asks, it need not wait for an answer; but a terminal must have
    // its size first.
    let shares_processes = !plan.namespaces.has_own_processes();
    let early = !plan.process.terminal && !shares_processes;
    if early {
        container.socket.go()?;
    }
    let interactive = plan.process.interactive;
    let relay = container.ready()?.map(|master| Relay::start(master, interactive)).transpose()?;
    if shares_processes {
        // While its process waits, in the mount namespace that all of the container will be in.
        container.rest = Some(Rest::of(container.pid())?);
    }
    if !early {
        container.socket.go()?;
    }
    container.running()?;
    let mut sweep = state.sweep()?;
    let mut swept = Ok(());
    // The first part at any rate, the rest as long as the container runs. That it fails does not end the container.
    let mut work = || {
        sweep.go_on().unwrap_or_else(|error| {
            swept = Err(error);
            false
        })
    };
    work();
    let code = supervise::until_end(&mut container, &mut signals, relay, plan.process.init || shares_processes, work)?;
    entry.remove().and(swept).map(|()| code)
}

/// A container's first process, until it is known to have ended: killed and reaped on drop.
#[derive(Debug)]
pub struct Container {
    child: Child,
    socket: End,
    ended: bool,
    /// The processes that do not end with the first one.
    rest: Option<Rest>,
}

fn spawn(plan: &Plan) -> Result<Container> {
    let reaper = plan.process.init.then(reaper::sealed_copy).transpose()?;
    let (ours, theirs) = sync::pair()?;
    let mut flags = libc::CLONE_NEWNS | plan.namespaces.made();
    if plan.network.mode != Mode::Host && plan.userns.is_none() {
        flags |= libc::CLONE_NEWNET;
    }
    debug_assert_eq!(sys::threads(), 1, "clone3 copies one thread only");
    let home = plan.namespaces.aim(plan.userns.as_ref())?;
    match sys::clone3(flags as u64) {
        Ok(Side::Parent(child)) => {
            let container = Container { child, socket: ours, ended: false, rest: None };
            home.back().map(|()| container)
        }
        Ok(Side::Child) => {
            drop(ours);
            init::run(plan, &theirs, reaper.as_ref())
        }
        Err(error) => {
            let remedy = match error.raw_os_error() {
                Some(libc::EPERM) => "minirun needs root with CAP_SYS_ADMIN",
                Some(libc::EINVAL) => {
                    "this kernel lacks one of the mount, PID, UTS, IPC, cgroup and network namespaces"
                }
                Some(libc::ENOMEM) if !plan.namespaces.has_own_processes() => {
                    "the container whose processes are joined has ended"
                }
                Some(libc::ENOSPC) => "raise user.max_net_namespaces and its like, see namespaces(7)",
                Some(libc::ENOSYS) => "minirun needs Linux 5.12 or later",
                _ => "see clone3(2)",
            };
            Err(error).context("make the container's namespaces").remedy(remedy)
        }
    }
}

impl Container {
    /// The process id of its first process on the host.
    pub fn pid(&self) -> i32 {
        self.child.pid
    }

    /// Readable when the first process has ended.
    pub fn pidfd(&self) -> &OwnedFd {
        &self.child.pidfd
    }

    /// Receives the socket of its network namespace.
    fn inside(&self) -> Result<Rtnl> {
        match self.socket.next()? {
            FromChild::Inside(Some(socket)) => Ok(Rtnl::from_fd(socket)),
            other => Err(other.unexpected()),
        }
    }

    /// Waits until it could become the program; the terminal's side for minirun.
    fn ready(&self) -> Result<Option<OwnedFd>> {
        match self.socket.next()? {
            FromChild::Ready(terminal) => Ok(terminal),
            // With the host's network nobody waited for this.
            FromChild::Inside(None) => self.ready(),
            other => Err(other.unexpected()),
        }
    }

    /// Returns when it has become the program.
    fn running(&self) -> Result<()> {
        match self.socket.next()? {
            FromChild::Closed => Ok(()),
            other => Err(other.unexpected()),
        }
    }

    /// Takes the exit code of the first process, which has ended: `128 + n` for signal n.
    pub fn reap(&mut self) -> Result<u8> {
        use nix::sys::wait::WaitStatus;
        let status = loop {
            match waitpid(Pid::from_raw(self.child.pid), None) {
                Err(nix::Error::EINTR) => {}
                other => break other.context("wait for the container's first process")?,
            }
        };
        self.ended = true;
        if let Some(rest) = self.rest.take() {
            rest.end();
        }
        match status {
            WaitStatus::Exited(_, code) => Ok(code as u8),
            WaitStatus::Signaled(_, signal, _) => Ok(128 + signal as i32 as u8),
            other => bail!("wait for the container's first process: {other:?}"),
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if !self.ended {
            // The kernel kills the rest of a PID namespace with its process 1.
            let _ = nix::sys::signal::kill(Pid::from_raw(self.child.pid), nix::sys::signal::Signal::SIGKILL);
            let _ = self.reap();
        }
    }
}
