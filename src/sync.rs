//! The one socket between minirun and the process that it made, a SEQPACKET pair:
//!
//! ```text
//!   launch.rs (parent)                     init.rs (child, in its namespaces)
//!        |                                      |
//!        | <-------- Inside [sockets] ----------|  opened in the child's network namespace
//!        |  builds the network by it            |  builds the root file system
//!        |  puts the record on disk             |
//!        |--------- Go -----------------------> |  with a terminal only after Ready, to give it its size
//!        | <-------- Ready [terminal] ----------|  nothing left to do but to become the program
//!        | <-------- end of file ---------------|  execve closed the socket: the program runs
//!        |                                      |
//!        | <-------- Failed(code, error) -------|  instead of any of the child's messages
//! ```
//!
//! End of file on the child's side means that minirun is gone, and the child ends. No message is longer than 4 KiB.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, recv, sendmsg, shutdown, socketpair,
};

use crate::error::Advice;

/// What the child says.
#[derive(Debug)]
pub enum FromChild {
    /// The sockets of its network, where it has one of its own: that by which it is configured, and those of its name
    /// server, if it has one.
    Inside(Vec<OwnedFd>),
    /// All is done but execve; with the terminal's side for minirun, where one was asked for.
    Ready(Option<OwnedFd>),
    /// It could not go on.
    Failed {
        /// The exit code that goes with it.
        code: u8,
        /// `verb object: cause`.
        error: String,
    },
    /// The socket was closed: the program runs, or the child has died.
    Closed,
}

/// More than any error takes.
const LONGEST: usize = 4096;

const INSIDE: u8 = b'I';
const READY: u8 = b'R';
const FAILED: u8 = b'F';
const GO: u8 = b'G';

/// One end.
#[derive(Debug)]
pub struct End(OwnedFd);

/// Both ends, closed by execve.
pub fn pair() -> Result<(End, End)> {
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .context("make a socket pair")?;
    Ok((End(ours), End(theirs)))
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl End {
    /// Child: here are the sockets of my network namespace.
    pub fn inside(&self, sockets: &[BorrowedFd<'_>]) -> Result<()> {
        self.send(&[INSIDE], sockets)
    }

    /// Child: all is done but execve.
    pub fn ready(&self, terminal: Option<BorrowedFd<'_>>) -> Result<()> {
        self.send(&[READY], terminal.as_slice())
    }

    /// Child: I cannot go on.
    pub fn failed(&self, code: u8, error: &str) -> Result<()> {
        let mut bytes = vec![FAILED, code];
        bytes.extend(error.bytes().take(LONGEST - 2));
        self.send(&bytes, &[])
    }

    /// Parent: the network is there and the record is on disk. That the child is gone is told by [`next`](Self::next), and
    /// better.
    pub fn go(&self) -> Result<()> {
        match self.send(&[GO], &[]) {
            Err(error) if error.downcast_ref() == Some(&nix::Error::EPIPE) => Ok(()),
            sent => sent,
        }
    }

    /// Parent: nothing more is said. To a child that waits it is as if minirun was gone; what that says then can be heard.
    pub fn hang_up(&self) -> Result<()> {
        shutdown(self.0.as_raw_fd(), Shutdown::Write).context("hang up on the container's process")
    }

    /// Child: waits for [`go`](Self::go). An error where minirun is gone.
    pub fn wait_for_go(&self) -> Result<()> {
        let mut byte = [0];
        loop {
            match recv(self.0.as_raw_fd(), &mut byte, MsgFlags::empty()) {
                Err(nix::Error::EINTR) => {}
                Ok(1) if byte[0] == GO => return Ok(()),
                Ok(_) => bail!("wait for minirun: it is gone"),
                Err(error) => return Err(error).context("wait for minirun"),
            }
        }
    }

    /// Child: an error where minirun is gone, without waiting.
    pub fn parent_lives(&self) -> Result<()> {
        match recv(self.0.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT) {
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => Ok(()),
            _ => bail!("wait for minirun: it is gone"),
        }
    }

    /// Parent: the child's next message.
    pub fn next(&self) -> Result<FromChild> {
        let mut buffer = [0; LONGEST];
        let reset = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionReset;
        let mut heard = crate::sys::receive_with_fds(&self.0, &mut buffer);
        if heard.as_ref().is_err_and(reset) {
            // It died with a message of ours unread, which is told once, and before what it said last.
            heard = crate::sys::receive_with_fds(&self.0, &mut buffer);
        }
        let (size, mut fds) = match heard {
            Err(error) if reset(&error) => (0, vec![]),
            other => other.context("hear from the container's process")?,
        };
        Ok(match buffer[..size] {
            [] => FromChild::Closed,
            [INSIDE] => FromChild::Inside(fds),
            [READY] => FromChild::Ready(fds.pop()),
            [FAILED, code, ref text @ ..] => {
                FromChild::Failed { code, error: String::from_utf8_lossy(text).into_owned() }
            }
            _ => bail!("hear from the container's process: unknown message"),
        })
    }

    fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        let fds: Vec<i32> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        let slices = [io::IoSlice::new(bytes)];
        // MSG_NOSIGNAL: a dead other side is an error to be told, not a signal to die of.
        sendmsg::<()>(self.0.as_raw_fd(), &slices, control, MsgFlags::MSG_NOSIGNAL, None)
            .context("talk between minirun and the container's process")?;
        Ok(())
    }
}

impl FromChild {
    /// The error where this is not the message that was to come.
    pub fn unexpected(self) -> anyhow::Error {
        let error: Result<()> = match self {
            Self::Failed { code, error } => Err(anyhow!(error)).exit_code(code),
            Self::Closed => Err(anyhow!("start the container: its process died before the program ran")),
            Self::Inside(_) | Self::Ready(_) => Err(anyhow!("start the container: its process spoke out of turn")),
        };
        error.err().unwrap_or_else(|| anyhow!("start the container"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_a_child_that_heard_nothing_is_heard() {
        let (parent, child) = pair().unwrap();
        parent.go().unwrap();
        child.failed(127, "run `x`: not found").unwrap();
        drop(child);
        assert!(
            matches!(parent.next().unwrap(), FromChild::Failed { code: 127, error } if error == "run `x`: not found")
        );
        assert!(matches!(parent.next().unwrap(), FromChild::Closed));
    }
}
