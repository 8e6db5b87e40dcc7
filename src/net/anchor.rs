//! What keeps connections translated while all rules are away.
//!
//! Who flushes nftables takes the rules for a few milliseconds, until a holder has mended them (`mend.rs`); with the last rule of
//! that kind the kernel stops to translate at all, also what it has translated before, and an answer to an untranslated packet is
//! a reset. So one of the holders owns a table of its own, `inet minirun-anchor`, in which nothing is decided, but which has
//! a chain of NAT and a rule that asks for a connection's state. A flush by others leaves out a table that has an owner
//! (`NFT_TABLE_F_OWNER`), and it goes with the owner's socket.
//!
//! It is one for all containers, so that no packet pays for their number. The others wait at a FIFO of the hub's directory
//! that the owner has open for writing: when it ends, however that is, they are told, and one of them is the next.
//!
//! The same one hears of default routes that come while containers run, by another link than before it may be: what is turned on for
//! a way out at a start (`network.rs`) is turned on then.
//!
//! Used by `services.rs`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::libc::{self, sock_filter};
use nix::sys::socket::{MsgFlags, recv};
use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags, flock, mknodat, open};

use super::nft;

/// Its name in a hub's directory.
pub const FIFO: &str = "anchor";
/// A container that has ended before does not pay for it.
const PATIENCE: Duration = Duration::from_secs(1);
/// Until the table of an owner that has ended is gone. One that stays is somebody else's: then twice as long each time, up to
/// this.
const AGAIN: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);

/// Sees to it that somebody owns the table.
#[derive(Debug)]
pub struct Anchor {
    path: PathBuf,
    state: State,
}

#[derive(Debug)]
enum State {
    /// It is looked for an owner at that time.
    Later(Instant),
    /// This one has the lock, and makes the table at that time, or waits as long as this once more.
    Again(Instant, OwnedFd, Duration),
    /// Another one is the owner, until this FIFO has nobody who writes.
    Watch(OwnedFd),
    /// This one is.
    Own {
        /// Its table ends with it.
        table: Option<Socket>,
        /// It tells of new ways out.
        ways_out: Option<Socket>,
        /// The FIFO itself, open for writing.
        _lock: OwnedFd,
    },
    /// It could not be done.
    Off,
}

impl Anchor {
    /// In a hub's directory, before long.
    pub fn new(directory: &Path) -> Self {
        Self { path: directory.join(FIFO), state: State::Later(Instant::now() + PATIENCE) }
    }

    /// Readable, or hung up, when there is something to do.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.state {
            State::Watch(fifo) => Some(fifo.as_fd()),
            State::Own { ways_out, .. } => ways_out.as_ref().map(AsFd::as_fd),
            State::Later(_) | State::Again(..) | State::Off => None,
        }
    }

    /// After so long there is something to do in any case.
    pub fn timeout(&self) -> Option<Duration> {
        match self.state {
            // A millisecond more, because poll(2) counts whole ones.
            State::Later(at) | State::Again(at, ..) => {
                Some(at.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
            }
            State::Watch(_) | State::Own { .. } | State::Off => None,
        }
    }

    /// Does what there is to do; `told` is whether its descriptor was ready. Whether the host has a new way out, and this holder is
    /// the one who sees to it. That it cannot be done ends no container: rules come back without it.
    pub fn serve(&mut self, told: bool) -> bool {
        let state = std::mem::replace(&mut self.state, State::Off);
        self.state = match state {
            State::Later(at) if at <= Instant::now() => self.take().unwrap_or(State::Off),
            State::Watch(_) if told => self.take().unwrap_or(State::Off),
            State::Again(at, lock, wait) if at <= Instant::now() => own(lock, wait),
            other => other,
        };
        match &self.state {
            State::Own { ways_out: Some(ways_out), .. } if told => {
                while recv(ways_out.as_raw_fd(), &mut [0; 64], MsgFlags::MSG_DONTWAIT) != Err(nix::Error::EAGAIN) {}
                true
            }
            _ => false,
        }
    }

    fn take(&self) -> Result<State> {
        // Open for writing before it is looked who has the lock: whoever waits is told when neither has it any more.
        let fifo = self.open(OFlags::RDWR)?;
        match flock(&fifo, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(own(fifo, AGAIN)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(State::Watch(self.open(OFlags::RDONLY)?)),
            Err(error) => Err(error).context("lock the anchor"),
        }
    }

    fn open(&self, how: OFlags) -> Result<OwnedFd> {
        let open = || open(&self.path, how | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty());
        match open() {
            Err(rustix::io::Errno::NOENT) => {
                make_fifo(&self.path)?;
                open()
            }
            opened => opened,
        }
        .context("open the anchor")
    }
}

/// Makes the table. Without it the lock is kept as well: the next one would fare no better.
fn own(lock: OwnedFd, wait: Duration) -> State {
    match nft::anchor() {
        Err(refused) if [libc::EEXIST, libc::EPERM].contains(&refused.errno) => {
            State::Again(Instant::now() + wait, lock, LONGEST.min(2 * wait))
        }
        made => State::Own { table: made.ok(), ways_out: ways_out().ok(), _lock: lock },
    }
}

/// Listens to default routes that are added.
fn ways_out() -> Result<Socket> {
    const GROUPS: [u32; 2] = [7, 11];
    let mut socket = Socket::new(NETLINK_ROUTE).context("open rtnetlink socket")?;
    socket.bind(&SocketAddr::new(0, 0)).context("listen to routes")?;
    crate::sys::attach_filter(socket.as_fd(), &only_default_routes()).context("listen to routes")?;
    for group in GROUPS {
        socket.add_membership(group).context("listen to routes")?;
    }
    Ok(socket)
}

/// A filter that lets pass what adds a route to everywhere (`RTM_NEWROUTE`, and of `rtmsg` a destination of no length).
fn only_default_routes() -> [sock_filter; 6] {
    const NEW_ROUTE: u16 = 24;
    let instruction = |code: u32, jt: u8, jf: u8, k: u32| sock_filter { code: code as u16, jt, jf, k };
    // The message's type stands in the machine's order, and is loaded in network order.
    let kind = u32::from(u16::from_be_bytes(NEW_ROUTE.to_ne_bytes()));
    [
        instruction(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 4),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 3, kind),
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 17),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, 0),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
    ]
}

/// Makes the FIFO; one that is there already will do.
pub fn make_fifo(path: &Path) -> Result<()> {
    match mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
        Err(error) if error != rustix::io::Errno::EXIST => Err(error).context("make the anchor"),
        _ => Ok(()),
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        if let State::Own { table, .. } = &mut self.state
            && let Some(table) = table.take()
        {
            nft::let_the_kernel_close(table);
        }
    }
}
