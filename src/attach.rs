//! The socket `attach` of a detached container, a SEQPACKET one in its directory, which only root can reach:
//!
//! ```text
//!   minirun attach (here)                          the holder (held.rs)
//!        |------ Size(rows, columns) ------------->|  of the terminal of whoever came last
//!        |------ Input(bytes) -------------------->|  what was typed
//!        | <----- Stdout(bytes), Stderr(bytes) ----|
//!        | <----- Lost(count) ---------------------|  so many bytes that this command was too slow for
//!        | <----- Ended(code) ---------------------|
//! ```
//!
//! End of file means that the other side is gone. Nobody waits for a slow reader: the program's output goes on to its log and
//! to the others.

use std::io::{IoSlice, stderr, stdin, stdout};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, listen, recv, sendmsg, socket,
};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::tcgetwinsize;
use signal_hook::consts::{SIGCONT, SIGINT, SIGQUIT, SIGWINCH};

use crate::error::warn;
use crate::supervise::Signals;
use crate::terminal::{self, DetachKeys, RawMode};

/// The socket's name.
pub const NAME: &str = "attach";
/// The longest message: a kind and its bytes.
pub const LONGEST: usize = 16 * 1024;

/// A message, either way.
#[derive(Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// The program wrote it to its standard output, or its terminal.
    Stdout(&'a [u8]),
    /// The program wrote it to its standard error.
    Stderr(&'a [u8]),
    /// So many bytes were left out.
    Lost(u64),
    /// The container has ended.
    Ended(u8),
    /// It was typed.
    Input(&'a [u8]),
    /// Rows and columns.
    Size(u16, u16),
}

impl<'a> Message<'a> {
    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let message = |kind: u8, bytes: &[u8]| [&[kind], bytes].concat();
        match self {
            Self::Stdout(bytes) => message(b'O', bytes),
            Self::Stderr(bytes) => message(b'E', bytes),
            Self::Lost(count) => message(b'L', &count.to_ne_bytes()),
            Self::Ended(code) => message(b'X', &[*code]),
            Self::Input(bytes) => message(b'I', bytes),
            Self::Size(rows, columns) => message(b'W', &[rows.to_ne_bytes(), columns.to_ne_bytes()].concat()),
        }
    }

    /// As it was received.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (kind, rest) = bytes.split_first()?;
        Some(match (kind, rest) {
            (b'O', bytes) => Self::Stdout(bytes),
            (b'E', bytes) => Self::Stderr(bytes),
            (b'L', bytes) => Self::Lost(u64::from_ne_bytes(bytes.try_into().ok()?)),
            (b'X', [code]) => Self::Ended(*code),
            (b'I', bytes) => Self::Input(bytes),
            (b'W', [a, b, c, d]) => Self::Size(u16::from_ne_bytes([*a, *b]), u16::from_ne_bytes([*c, *d])),
            _ => return None,
        })
    }
}

/// The address of the socket `name` in a container's directory. By the directory's descriptor, because the name of a socket is
/// limited to 108 bytes and a `--root` is not.
fn address(directory: &Path, name: &str) -> Result<(OwnedFd, UnixAddr)> {
    let opened = rustix::fs::openat(CWD, directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("open `{}`", directory.display()))?;
    let name = format!("/proc/self/fd/{}/{name}", opened.as_raw_fd());
    Ok((opened, UnixAddr::new(name.as_str()).context("name the socket")?))
}

/// Makes the socket `name` in a container's directory.
pub fn listen_in(directory: &Path, name: &str) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener =
        socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).context("make a socket for other commands")?;
    let (_directory, address) = address(directory, name)?;
    bind(listener.as_raw_fd(), &address).context("name a socket for other commands")?;
    listen(&listener, Backlog::new(16)?).context("listen on a socket for other commands")?;
    Ok(listener)
}

/// Connects to the socket `name` in a container's directory.
pub fn connect_to(directory: &Path, name: &str) -> Result<OwnedFd> {
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    let (_directory, address) = address(directory, name)?;
    connect(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

/// Sends one message without waiting; `EAGAIN` where the other side is slow.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<()> {
    let slices = [IoSlice::new(bytes)];
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(socket.as_raw_fd(), &slices, &[], flags, None).map(drop)
}

/// How to attach.
pub struct Options<'a> {
    /// Whether what is typed goes to the program.
    pub input: bool,
    /// Whether the program has a terminal.
    pub terminal: bool,
    /// Keys that end the command and not the container.
    pub keys: DetachKeys,
    /// Sends signals on to the program, where that is wanted.
    pub proxy: Option<&'a dyn Fn(i32) -> Result<()>>,
}

/// Shows what the container writes and sends what is typed, until one of them ends. The exit code; `None` where the holder
/// has gone without a word.
pub fn run(directory: &Path, options: Options<'_>) -> Result<Option<u8>> {
    let mut signals = Signals::catch()?;
    let socket = connect_to(directory, NAME).context("attach to the container")?;
    let raw = if options.input && options.terminal { RawMode::enter()? } else { None };
    let mut client = Client { socket, input: options.input, unsent: Vec::new(), options, raw };
    client.send_size()?;
    loop {
        let (signal, told, typed) = client.wait(&signals)?;
        if signal {
            for number in signals.pending() {
                if let Some(code) = client.signal(number)? {
                    return Ok(Some(code));
                }
            }
        }
        match if told { client.hear()? } else { Heard::More } {
            Heard::More => {}
            Heard::Last(code) => return Ok(Some(code)),
            Heard::Gone => return Ok(None),
        }
        client.send_unsent()?;
        if typed && client.read_typed()? {
            drop(client.raw.take());
            terminal::say_left();
            return Ok(Some(0));
        }
    }
}

/// What came of a message.
enum Heard {
    /// There are more.
    More,
    /// It was the last one: the exit code.
    Last(u8),
    /// Nobody is there to send one.
    Gone,
}

struct Client<'a> {
    socket: OwnedFd,
    options: Options<'a>,
    input: bool,
    /// What was typed and the holder does not take, because the program does not read: then no more is read here.
    unsent: Vec<u8>,
    raw: Option<RawMode>,
}

impl Client<'_> {
    fn wait(&self, signals: &Signals) -> Result<(bool, bool, bool)> {
        let input = stdin();
        let out = if self.unsent.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        let mut fds = vec![
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN | out),
        ];
        if self.input && self.unsent.is_empty() {
            fds.push(PollFd::new(input.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::Error::EINTR) => return Ok((true, false, false)),
            other => _ = other.context("wait for the container")?,
        }
        let any = |at: usize| fds.get(at).and_then(PollFd::any).unwrap_or(false);
        let told = fds[1].revents().is_none_or(|ready| !(ready - PollFlags::POLLOUT).is_empty());
        Ok((any(0), told, any(2)))
    }

    fn send_size(&self) -> Result<()> {
        let size = tcgetwinsize(stdin()).or_else(|_| tcgetwinsize(stdout())).or_else(|_| tcgetwinsize(stderr()));
        match size {
            Ok(size) if self.options.terminal => self.send(&Message::Size(size.ws_row, size.ws_col)),
            _ => Ok(()),
        }
    }

    /// Sends a message that may get lost.
    fn send(&self, message: &Message<'_>) -> Result<()> {
        self.try_send(&message.encode()).map(drop)
    }

    /// Sends what was typed, as soon as it is taken.
    fn send_unsent(&mut self) -> Result<()> {
        if !self.unsent.is_empty() && self.try_send(&self.unsent)? {
            self.unsent.clear();
        }
        Ok(())
    }

    /// Sends bytes without waiting. Whether they are gone.
    fn try_send(&self, bytes: &[u8]) -> Result<bool> {
        match send(self.socket.as_fd(), bytes) {
            Err(nix::Error::EAGAIN | nix::Error::ENOBUFS | nix::Error::EINTR) => Ok(false),
            // That the holder is gone is found when it is listened to.
            Err(nix::Error::EPIPE | nix::Error::ECONNRESET) => Ok(true),
            sent => sent.map(|()| true).context("send to the container"),
        }
    }

    /// Sends a signal on, or ends by it. The exit code where it ends the command.
    fn signal(&self, number: i32) -> Result<Option<u8>> {
        match number {
            SIGWINCH => self.send_size()?,
            SIGCONT => {
                self.raw.as_ref().map_or(Ok(()), RawMode::again)?;
                self.send_size()?;
            }
            // From a terminal in raw mode SIGINT and SIGQUIT come as keys.
            _ => match self.options.proxy {
                Some(proxy) if !self.options.terminal || [SIGINT, SIGQUIT].contains(&number) => proxy(number)?,
                _ => return Ok(Some((128 + number) as u8)),
            },
        }
        Ok(None)
    }

    /// Takes one message.
    fn hear(&self) -> Result<Heard> {
        let mut buffer = [0; LONGEST];
        let size = match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(nix::Error::EINTR) => return Ok(Heard::More),
            Err(nix::Error::ECONNRESET) => 0,
            size => size.context("hear from the container")?,
        };
        // Nobody reads what is shown: that is the end of this command.
        let shown = |has_gone: bool| if has_gone { Heard::Last(0) } else { Heard::More };
        match Message::decode(&buffer[..size]) {
            None if size == 0 => Ok(Heard::Gone),
            Some(Message::Stdout(bytes)) => show(stdout().as_fd(), bytes).map(shown),
            Some(Message::Stderr(bytes)) => show(stderr().as_fd(), bytes).map(shown),
            Some(Message::Lost(count)) => {
                warn(&format!("{count} bytes were written faster than they are shown here: see `minirun logs`"));
                Ok(Heard::More)
            }
            Some(Message::Ended(code)) => Ok(Heard::Last(code)),
            _ => bail!("hear from the container: unknown message"),
        }
    }

    /// Reads what was typed and sends it. Whether the detach keys were among it.
    fn read_typed(&mut self) -> Result<bool> {
        let mut buffer = [0; 4096];
        let size = match rustix::io::read(stdin(), &mut buffer) {
            Err(Errno::INTR | Errno::AGAIN) => return Ok(false),
            Err(Errno::IO) => 0,
            size => size.context("read standard input")?,
        };
        self.input = size > 0;
        let (size, detach) =
            if self.options.terminal { self.options.keys.find(&buffer[..size]) } else { (size, false) };
        if size > 0 {
            self.unsent = Message::Input(&buffer[..size]).encode();
            self.send_unsent()?;
        }
        Ok(detach)
    }
}

/// Writes all of it. Whether its reader has gone.
fn show(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<bool> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(size) => bytes = &bytes[size..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => _ = poll(&mut [PollFd::new(to, PollFlags::POLLOUT)], PollTimeout::NONE),
            Err(Errno::PIPE | Errno::IO) => return Ok(true),
            Err(error) => return Err(error).context("show what the container writes"),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_come_as_they_were_sent() {
        for message in [
            Message::Stdout(b"a\0b"),
            Message::Stderr(b""),
            Message::Lost(1 << 40),
            Message::Ended(137),
            Message::Input(b"\x03"),
            Message::Size(33, 101),
        ] {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
    }

    proptest! {
        #[test]
        fn anything_may_come(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = Message::decode(&bytes);
        }
    }
}
