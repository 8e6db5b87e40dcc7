//! The wire of nftables (nfnetlink, `linux/netfilter/nf_tables.h`): the one table `inet minirun`, written in transactions, and its
//! anchor.
//!
//! Used by `apply.rs` (changes) and `hub.rs` (is the table there?); no other file knows the wire, but `foreign/`, which reads
//! what [`list`] lists of other tables. What the own table holds is said in `table.rs`. The bytes are those that nft(8) sends,
//! so that `nft list ruleset` prints the same text.

pub mod dump;
mod encode;
mod expression;
pub mod list;
mod message;
pub mod survey;

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use netlink_packet_core::NLM_F_REQUEST;
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use nix::libc;
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, sendmsg, socketpair};
use rustix::net::sockopt::set_socket_send_buffer_size_force;

use self::encode::{encode, encode_anchor, encode_element};
use self::message::{BATCH_BEGIN, BATCH_END, GET_CHAIN, GET_ELEMENT, GET_TABLE, SUBSYSTEM, message, string};
use super::rtnl::Refused;
use super::table::{CHAINS, Change, Element, TABLE, Table};
use super::wire::{attributes, explain_error, messages, text};

/// What every socket takes.
const USUAL_SIZE: usize = 64 * 1024;

/// Opens a socket in the calling process's network namespace.
pub fn open() -> io::Result<Socket> {
    Socket::new(NETLINK_NETFILTER)
}

/// Applies all changes in one transaction: all of them, or none.
pub fn commit(changes: &[&Change]) -> Result<(), Refused> {
    commit_by(open().map_err(broken)?, changes)
}

/// The same in the network namespace in which the socket was opened, whoever uses it.
pub fn commit_by(socket: Socket, changes: &[&Change]) -> Result<(), Refused> {
    let _ = socket.set_ext_ack(true);
    let mut bytes = Vec::with_capacity(2048);
    message(&mut bytes, BATCH_BEGIN, 0, SUBSYSTEM, 0, |_| {});
    for (index, change) in changes.iter().enumerate() {
        // Errors are told in any case, and one acknowledgement says that there was none.
        encode(&mut bytes, change, index as u32 + 1, index + 1 == changes.len());
    }
    message(&mut bytes, BATCH_END, 0, SUBSYSTEM, changes.len() as u32 + 1, |_| {});
    // A large range of ports is more than a socket usually takes at once.
    if bytes.len() > USUAL_SIZE {
        set_socket_send_buffer_size_force(&socket, 2 * bytes.len()).map_err(|error| broken(error.into()))?;
    }
    socket.send(&bytes, 0).map_err(broken)?;
    let answer = answer(&socket);
    let_the_kernel_close(socket);
    answer
}

/// Makes the table that no other socket than this one can change or take away (`anchor.rs`).
pub fn anchor() -> Result<Socket, Refused> {
    let socket = open().map_err(broken)?;
    let _ = socket.set_ext_ack(true);
    let mut bytes = Vec::with_capacity(512);
    message(&mut bytes, BATCH_BEGIN, 0, SUBSYSTEM, 0, |_| {});
    encode_anchor(&mut bytes);
    message(&mut bytes, BATCH_END, 0, SUBSYSTEM, 4, |_| {});
    socket.send(&bytes, 0).map_err(broken)?;
    answer(&socket).map(|()| socket)
}

fn broken(error: io::Error) -> Refused {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    Refused { request: 0, errno, error: anyhow::Error::new(error).context("talk to nftables by netlink") }
}

/// What the kernel said of a transaction. It has handled it when `send` returns, and all its answers are in the queue.
fn answer(socket: &Socket) -> Result<(), Refused> {
    let mut buffer = vec![0; 16 * 1024];
    let mut acknowledged = false;
    loop {
        let size = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(size) => size,
            Err(nix::Error::EINTR) => continue,
            Err(nix::Error::EAGAIN) if acknowledged => return Ok(()),
            Err(error) => return Err(broken(error.into())),
        };
        for answer in messages(&buffer[..size]) {
            if let Some((errno, words)) = answer.error() {
                let request = (answer.sequence as usize).saturating_sub(1);
                return Err(Refused { request, errno, error: explain_error(errno, words.as_deref()) });
            }
            acknowledged = true;
        }
    }
}

/// Leaves the last close of a socket to the kernel. Closed by this process, one that has deleted something waits for all
/// processors to forget it, ten milliseconds or more (`nft_rcv_nl_event`), and so does an exit; and meanwhile whoever closes
/// another one in the same network namespace waits for that.
///
/// A copy of it is sent through a UNIX socket that is sent through itself: once this process has closed its descriptors,
/// nobody can ever receive them, and the kernel's collector of such sockets (unix(7), `unix_gc`), a worker of its own since
/// Linux 6.10, closes them. Where that does not work nothing is lost but the time.
pub fn let_the_kernel_close(socket: Socket) {
    let pair = socketpair(AddressFamily::Unix, SockType::Datagram, None, SockFlag::SOCK_CLOEXEC);
    if let Ok((one, other)) = &pair {
        let fds = [other.as_raw_fd(), socket.as_raw_fd()];
        let message = [IoSlice::new(&[0])];
        let _ = sendmsg::<()>(one.as_raw_fd(), &message, &[ControlMessage::ScmRights(&fds)], MsgFlags::empty(), None);
    }
    // First the socket itself: with the pair closed, the copy may be gone before it.
    drop(socket);
    drop(pair);
}

/// Asks for the table, the number of its rules (a flushed table is still a table), and which of these elements it has.
/// `None` where there is no table (or no nftables in this kernel, which is said when the table is to be made).
pub fn table(elements: &[Element]) -> Result<Option<(Table, Vec<bool>)>> {
    let socket = Socket::new(NETLINK_NETFILTER).context("open nfnetlink socket")?;
    let mut bytes = Vec::with_capacity(512);
    message(&mut bytes, SUBSYSTEM << 8 | GET_TABLE, NLM_F_REQUEST, 0, 0, |body| string(body, 1, TABLE));
    for (at, chain) in CHAINS.iter().enumerate() {
        message(&mut bytes, SUBSYSTEM << 8 | GET_CHAIN, NLM_F_REQUEST, 0, at as u32 + 1, |body| {
            string(body, 1, TABLE);
            string(body, 3, chain);
        });
    }
    for (at, element) in elements.iter().enumerate() {
        let sequence = (CHAINS.len() + at) as u32 + 1;
        message(&mut bytes, SUBSYSTEM << 8 | GET_ELEMENT, NLM_F_REQUEST, 0, sequence, |body| {
            encode_element(body, element, false);
        });
    }
    socket.send(&bytes, 0).context("ask nftables")?;
    let told = what_is_told(&socket, elements.len());
    let_the_kernel_close(socket);
    told
}

/// The kernel's answers to [`table`].
fn what_is_told(socket: &Socket, elements: usize) -> Result<Option<(Table, Vec<bool>)>> {
    const TABLE_USERDATA: u16 = 6;
    const CHAIN_USE: u16 = 6;
    let mut table = Table::default();
    let mut there = vec![false; elements];
    let mut buffer = vec![0; 4096];
    for _ in 0..=CHAINS.len() + elements {
        let size = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).context("ask nftables")?;
        let Some(answer) = messages(&buffer[..size]).next() else { return Ok(None) };
        let part = (answer.sequence as usize).checked_sub(1);
        match (answer.error(), part) {
            (Some((libc::ENOENT, _)), Some(_)) => continue,
            (Some((libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL, _)), _) => return Ok(None),
            (Some((errno, words)), _) => return Err(explain_error(errno, words.as_deref()).context("ask nftables")),
            (None, _) => {}
        }
        let find = |kind: u16| {
            let mut all = attributes(answer.bytes.get(20..).unwrap_or_default());
            all.find(|(found, _)| *found == kind).map(|(_, value)| value)
        };
        match part {
            Some(at) if at < CHAINS.len() => {
                let count = find(CHAIN_USE).and_then(|value| value.try_into().ok()).map(u32::from_be_bytes);
                table.rules[at] = count;
            }
            Some(at) => there.iter_mut().skip(at - CHAINS.len()).take(1).for_each(|there| *there = true),
            // User data is a list of (type, length, value); a comment is type 0.
            None => table.comment = find(TABLE_USERDATA).and_then(|data| data.get(2..)).map(text).unwrap_or_default(),
        }
    }
    Ok(Some((table, there)))
}
