//! A container's first process, as the parent sees it: what it says until it has become the program, and its end.
//!
//! Made by `launch.rs` (and by `exec.rs` for a further process), watched by `supervise.rs`.

use std::io::PipeReader;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::joiner;
use crate::sandbox::rest::Rest;
use crate::sync::{End, FromChild};
use crate::sys::Child;

/// A container's first process, until it is known to have ended: killed and reaped on drop.
#[derive(Debug)]
pub struct Container {
    child: Child,
    socket: End,
    ended: bool,
    /// Until it is the joiner no more: where that tells which process is the first one of the container.
    made: Option<PipeReader>,
    /// The processes that do not end with the first one.
    rest: Option<Rest>,
}

impl Container {
    /// A further process of a container.
    pub fn of(child: Child, socket: End) -> Self {
        Self { child, socket, ended: false, made: None, rest: None }
    }

    /// Notes by what pipe a joiner will tell of the first process of the container.
    pub fn comes_by(&mut self, made: Option<PipeReader>) {
        self.made = made;
    }

    /// Whether it has still to go among the processes of another container.
    pub fn is_joiner(&self) -> bool {
        self.made.is_some()
    }

    /// Notes by what the processes are found that do not end with the first one, for when that has ended.
    pub fn note_the_rest(&mut self) -> Result<()> {
        self.rest = Some(Rest::of(self.pid())?);
        Ok(())
    }

    /// It may become the program.
    pub fn go(&self) -> Result<()> {
        self.socket.go()
    }

    /// Has the joiner, which is ready, go among the processes of another container. From here on, what it has made there is
    /// the first process.
    pub fn enter(&mut self) -> Result<()> {
        let Some(number) = self.made.take() else { return Ok(()) };
        self.go()?;
        let made = joiner::follow(&self.child, number, &self.socket);
        // The joiner was waited for.
        self.ended = made.is_err();
        self.child = made?;
        Ok(())
    }

    /// The process id of its first process on the host.
    pub fn pid(&self) -> i32 {
        self.child.pid
    }

    /// Readable when the first process has ended.
    pub fn pidfd(&self) -> &OwnedFd {
        &self.child.pidfd
    }

    /// Receives the sockets of its network namespace.
    pub fn inside(&self) -> Result<Vec<OwnedFd>> {
        match self.socket.next()? {
            FromChild::Inside(sockets) if !sockets.is_empty() => Ok(sockets),
            other => Err(other.unexpected()),
        }
    }

    /// Waits until it could become the program; the terminal's side for minirun.
    pub fn ready(&self) -> Result<Option<OwnedFd>> {
        match self.socket.next()? {
            FromChild::Ready(terminal) => Ok(terminal),
            // With the host's network nobody waited for this.
            FromChild::Inside(sockets) if sockets.is_empty() => self.ready(),
            other => Err(other.unexpected()),
        }
    }

    /// Returns when it has become the program.
    pub fn running(&self) -> Result<()> {
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
