//! A holder apart: the process that keeps a container when the command that was typed returns before its end.
//!
//! `run -d` returns when the program runs, `run -it` when its keys say so. So both do all of their work in a second process,
//! and the first one waits for a word of it:
//!
//! ```text
//!   the command (who typed waits for it)        the holder (launch.rs, supervise.rs)
//!        |---- signals, by kill(2) -------------> |
//!        | <------------- LetGo ------------------|  the container lives on without the command
//!        | <------------- Ended(code) ------------|  it has ended, or never began: the holder has said why
//!        | <------------- end of file ------------|  the holder was killed
//! ```
//!
//! The command's end before `LetGo` is the end of the container, as of one in the foreground.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, anyhow};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid};
use std::os::fd::AsFd;

use crate::error;
use crate::supervise::Signals;
use crate::sys;

const LET_GO: u8 = b'L';
const ENDED: u8 = b'E';

/// The command that was typed, as the holder sees it.
#[derive(Debug)]
pub struct Caller(OwnedFd);

impl Caller {
    /// The container lives on without the command. An error where that is gone already: nobody has heard of the container.
    pub fn let_go(self) -> Result<()> {
        // From here on nobody reads what minirun says, and nobody's terminal, directory or pipe is held.
        let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty());
        let null = null.context("open `/dev/null`")?;
        rustix::stdio::dup2_stdin(&null).context("let go of standard input")?;
        rustix::stdio::dup2_stdout(&null).context("let go of standard output")?;
        rustix::stdio::dup2_stderr(&null).context("let go of standard error")?;
        rustix::process::chdir("/").context("leave the working directory")?;
        // Fails where this process leads a session already.
        let _ = rustix::process::setsid();
        self.say(&[LET_GO]).context("let go of the command that was typed")
    }

    /// Readable when the command has ended.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn say(&self, bytes: &[u8]) -> nix::Result<()> {
        send(self.0.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL).map(drop)
    }
}

/// Does `work` in a process of its own. The exit code of the command: the program's, or 0 once it was let go.
///
/// `work` is given the command; it lets it go, or gives it back with its exit code. `at_leave` is done by a command that was let
/// go.
pub fn apart(
    at_leave: impl FnOnce(),
    work: impl FnOnce(Caller, Signals) -> (Option<Caller>, Result<u8>),
) -> Result<u8> {
    // Before there are two, so that no signal is lost between them.
    let mut signals = Signals::catch()?;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .context("make a socket pair")?;
    match sys::fork().context("make the process that holds the container")? {
        ForkResult::Child => {
            // The new one first, so that there is no moment without.
            let (caller, outcome) = match Signals::catch() {
                Ok(own) => {
                    drop((ours, signals));
                    work(Caller(theirs), own)
                }
                Err(error) => (Some(Caller(theirs)), Err(error)),
            };
            let code = outcome.unwrap_or_else(|error| error::report(&error));
            if let Some(caller) = caller {
                // A command that is gone need not be told.
                let _ = caller.say(&[ENDED, code]);
            }
            sys::exit_now(code)
        }
        ForkResult::Parent { child } => {
            drop(theirs);
            let code = wait(&ours, child, &mut signals)?;
            if code.is_none() {
                at_leave();
            }
            Ok(code.unwrap_or(0))
        }
    }
}

/// The exit code; `None` where it was let go.
fn wait(holder: &OwnedFd, pid: Pid, signals: &mut Signals) -> Result<Option<u8>> {
    loop {
        let mut fds = [PollFd::new(holder.as_fd(), PollFlags::POLLIN), PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::Error::EINTR) => {}
            other => _ = other.context("wait for the container")?,
        }
        let told = fds[0].any().unwrap_or(false);
        for number in signals.pending() {
            if let Ok(signal) = Signal::try_from(number) {
                let _ = kill(pid, signal);
            }
        }
        if !told {
            continue;
        }
        let mut bytes = [0; 2];
        match recv(holder.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
            Err(nix::Error::EINTR) => {}
            Ok(1) if bytes[0] == LET_GO => return Ok(None),
            Ok(2) if bytes[0] == ENDED => {
                let _ = waitpid(pid, None);
                return Ok(Some(bytes[1]));
            }
            _ => {
                let _ = waitpid(pid, None);
                return Err(anyhow!("hold the container: the process that holds it was killed"));
            }
        }
    }
}
