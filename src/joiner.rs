//! The step among the processes of a container that runs, by one that has nothing left to be taken.
//!
//! Used by `exec.rs`, and by `launch.rs` and `init.rs` for `--pid container:NAME`. Root in a container may be able to look into
//! every process that it sees, and to take it over (`CAP_SYS_PTRACE`). So what needs the host is done by a joiner, which is in
//! the host's PID namespace still, where the container does not see it; only the process that it makes last is in the
//! container's, and that has no descriptor, no mount and no right beyond what its program and the way to it take
//! (CVE-2016-9962, CVE-2019-5736).

use std::convert::Infallible;
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result, bail};
use nix::libc::{CLONE_PARENT, ENOMEM};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use rustix::process::{DumpableBehavior, PidfdFlags, pidfd_open, set_dumpable_behavior};

use crate::init;
use crate::plan::Process;
use crate::sandbox::credentials;
use crate::sync::End;
use crate::sys::{self, Child, Side};

const FAILED: &str = "make a process in the container";

/// In the joiner: closes it to debuggers. Before it is where one of the container's could be.
pub fn hide() -> Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("close minirun to debuggers")
}

/// In the joiner, when it has joined all namespaces: makes its sibling (`CLONE_PARENT`), which does `work`, tells the parent
/// of it by `made`, and ends. Closed before are all descriptors but the standard streams, the two that it speaks by, and
/// `kept`.
///
/// Rights that `process` and the way to it do not take are given up first; not with the right to enter the user namespace
/// `kept`, where there is one: there all go with that.
pub fn hand_over(
    process: &Process,
    kept: Option<BorrowedFd<'_>>,
    parent: &End,
    mut made: PipeWriter,
    work: impl FnOnce() -> Result<Infallible>,
) -> Result<Infallible> {
    // Among what is closed: the record, the groups and whatever else minirun or its caller had open on the host.
    let open: Vec<_> = [parent.as_fd(), made.as_fd()].into_iter().chain(kept).collect();
    sys::close_all_but(&open).context("close descriptors")?;
    if kept.is_none() {
        credentials::narrow(process)?;
    }
    let made_sibling = sys::clone3(CLONE_PARENT as u64, None);
    if made_sibling.as_ref().is_err_and(|error| error.raw_os_error() == Some(ENOMEM)) {
        // The kernel's word for a PID namespace without a process 1.
        bail!("{FAILED}: it has ended");
    }
    match made_sibling.context(FAILED)? {
        Side::Parent(child) => {
            made.write_all(&child.pid.to_ne_bytes()).context("tell of the process in the container")?;
            sys::exit_now(0)
        }
        Side::Child => {
            drop(made);
            init::carry_out(parent, work)
        }
    }
}

/// In the parent: waits until the joiner has ended; the process that it has made, which is a child of this one.
pub fn follow(joiner: &Child, mut number: PipeReader, socket: &End) -> Result<Child> {
    let mut bytes = [0; 4];
    let told = number.read_exact(&mut bytes);
    let ended = loop {
        match waitpid(Pid::from_raw(joiner.pid), None) {
            Err(nix::Error::EINTR) => {}
            ended => break ended,
        }
    };
    match told {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            // Was it killed when its sibling was there already, that one ends by this.
            socket.hang_up()?;
            if let Ok(WaitStatus::Signaled(..)) = ended {
                bail!("{FAILED}: the one that was to make it was killed");
            }
            return Err(socket.next()?.unexpected());
        }
        told => told.context(FAILED)?,
    }
    let pid = i32::from_ne_bytes(bytes);
    // The kernel is asked whether it is a child of ours: then the number is its own until it is waited for.
    waitid(Id::Pid(Pid::from_raw(pid)), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT)
        .context(FAILED)?;
    let pidfd = rustix::process::Pid::from_raw(pid).context(FAILED)?;
    let pidfd = pidfd_open(pidfd, PidfdFlags::empty()).context(FAILED)?;
    Ok(Child { pid, pidfd })
}
