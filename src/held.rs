//! What a detached program reads and writes, as its holder has it: pipes or a terminal, a log, and whoever is attached.
//!
//! Used by `supervise.rs`. Nothing here waits: what the program writes goes to its log at once and to each attached command
//! as far as that takes it, so the program never waits for a reader.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, SockFlag, accept4, recv};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Uid;
use rustix::termios::{Winsize, tcgetwinsize, tcsetwinsize};

use crate::attach::{LONGEST, Message, NAME, listen_in, send};
use crate::log::{Stream, Writer};
use crate::supervise::Served;
use crate::terminal::signal_of;

/// The most that is kept for an attached command that does not read.
const QUEUE: usize = 1 << 20;
/// What a message costs beside its bytes: a program may write them one by one.
const OVERHEAD: usize = 64;
/// The most that is kept of what was typed and the program does not read.
const TYPED: usize = 16 * 1024;

/// The program's ends of its pipes.
#[derive(Debug)]
pub struct Pipes {
    /// Without it the program reads from `/dev/null`.
    pub stdin: Option<OwnedFd>,
    /// Where it writes.
    pub stdout: OwnedFd,
    /// Where it writes errors.
    pub stderr: OwnedFd,
}

/// Where the program's bytes come from and go to.
#[derive(Debug)]
enum Source {
    Pipes { stdin: Option<OwnedFd>, stdout: Option<OwnedFd>, stderr: Option<OwnedFd> },
    Terminal { master: OwnedFd, _slave: OwnedFd },
}

/// The program's streams, held.
pub struct Held {
    source: Source,
    log: Option<Writer>,
    listener: OwnedFd,
    clients: Vec<Client>,
    typed: VecDeque<u8>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    lost: u64,
    sized: bool,
}

/// Makes the pipes of a program that runs as user `uid`: the holder's ends, and the program's.
pub fn make_pipes(uid: u32, stdin: bool) -> Result<(Ends, Pipes)> {
    let failed = "make the program's pipes";
    let pipe = |nonblocking_reader: bool| -> Result<(OwnedFd, OwnedFd)> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).context(failed)?;
        // `/dev/stdout` opens the pipe anew, as the user that the program is.
        rustix::fs::fchown(&read, Some(Uid::from_raw(uid)), None).context(failed)?;
        let ours = if nonblocking_reader { &read } else { &write };
        rustix::io::ioctl_fionbio(ours, true).context(failed)?;
        Ok((read, write))
    };
    let (out, stdout) = pipe(true)?;
    let (err, stderr) = pipe(true)?;
    let (theirs, ours) = stdin.then(|| pipe(false)).transpose()?.unzip();
    Ok((Ends { stdin: ours, stdout: out, stderr: err }, Pipes { stdin: theirs, stdout, stderr }))
}

/// The holder's ends of the pipes.
#[derive(Debug)]
pub struct Ends {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Held {
    /// Holds the streams of a program that has pipes.
    pub fn pipes(ends: Ends, directory: &Path, log: Option<Writer>) -> Result<Self> {
        let Ends { stdin, stdout, stderr } = ends;
        Self::hold(Source::Pipes { stdin, stdout: Some(stdout), stderr: Some(stderr) }, directory, log)
    }

    /// Holds the terminal of a program; `slave` keeps it from hanging up.
    pub fn terminal(master: OwnedFd, slave: OwnedFd, directory: &Path, log: Option<Writer>) -> Result<Self> {
        Self::hold(Source::Terminal { master, _slave: slave }, directory, log)
    }

    fn hold(source: Source, directory: &Path, log: Option<Writer>) -> Result<Self> {
        let listener = listen_in(directory, NAME)?;
        Ok(Self { source, log, listener, clients: Vec::new(), typed: VecDeque::new(), buffer: vec![0; 64 * 1024] })
    }

    /// What is to be waited for, in the order in which [`serve`](Self::serve) takes it.
    pub fn interest(&self) -> Vec<(BorrowedFd<'_>, PollFlags)> {
        let out = if self.typed.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        let mut all = vec![(self.listener.as_fd(), PollFlags::POLLIN)];
        all.extend(self.clients.iter().map(|client| {
            let read = if self.typed.len() < TYPED { PollFlags::POLLIN } else { PollFlags::empty() };
            let write = if client.queue.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
            (client.socket.as_fd(), read | write)
        }));
        match &self.source {
            Source::Pipes { stdin, stdout, stderr } => {
                all.extend(stdout.iter().chain(stderr).map(|fd| (fd.as_fd(), PollFlags::POLLIN)));
                all.extend(stdin.iter().map(|fd| (fd.as_fd(), out)));
            }
            Source::Terminal { master, .. } => all.push((master.as_fd(), PollFlags::POLLIN | out)),
        }
        all
    }

    /// Does what there is to do; `ready` is as [`interest`](Self::interest) was.
    pub fn serve(&mut self, ready: &[PollFlags]) -> Result<Served> {
        let mut served = Served::default();
        let clients = self.clients.len();
        // Readers that hang up (POLLHUP) have an end of file to be read.
        for (client, ready) in self.clients.iter_mut().zip(&ready[1..]) {
            if ready.contains(PollFlags::POLLOUT) {
                client.flush();
            }
        }
        let mut gone = Vec::new();
        for (at, ready) in ready[1..=clients].iter().enumerate() {
            if ready.intersects(PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR)
                && !self.hear(at, &mut served)
            {
                gone.push(at);
            }
        }
        gone.into_iter().rev().for_each(|at| drop(self.clients.remove(at)));
        if ready[clients + 1..].iter().any(|ready| !ready.is_empty()) {
            self.read_all()?;
            self.write_typed();
        }
        if ready[0].contains(PollFlags::POLLIN) {
            self.accept();
        }
        Ok(served)
    }

    fn accept(&mut self) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // Whoever has gone again is no loss.
        if let Ok(socket) = accept4(self.listener.as_raw_fd(), flags) {
            let socket = crate::sys::own(socket);
            self.clients.push(Client { socket, queue: VecDeque::new(), queued: 0, lost: 0, sized: false });
        }
    }

    /// Takes one message of an attached command. False where it has gone.
    fn hear(&mut self, at: usize, served: &mut Served) -> bool {
        let mut buffer = [0; LONGEST];
        let client = &mut self.clients[at];
        let size = match recv(client.socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => return true,
            size => size.unwrap_or(0),
        };
        match Message::decode(&buffer[..size]) {
            Some(Message::Input(bytes)) => {
                self.typed.extend(bytes);
                if let Source::Terminal { master, .. } = &self.source {
                    served.key = signal_of(master.as_fd(), bytes).or(served.key);
                }
                self.write_typed();
            }
            Some(Message::Size(rows, columns)) => {
                let first = !std::mem::replace(&mut client.sized, true);
                self.resize(rows, columns, first);
            }
            _ => return false,
        }
        true
    }

    /// Gives the terminal a size. A program draws its screen anew when the size changes: for whoever has just come, it is
    /// changed in any case.
    fn resize(&self, rows: u16, columns: u16, redraw: bool) {
        let Source::Terminal { master, .. } = &self.source else { return };
        let size = |rows| Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        if redraw && tcgetwinsize(master).is_ok_and(|now| (now.ws_row, now.ws_col) == (rows, columns)) {
            let _ = tcsetwinsize(master, size(rows.saturating_add(1)));
        }
        let _ = tcsetwinsize(master, size(rows));
    }

    /// The terminal, where the program has one.
    pub fn master(&self) -> Option<BorrowedFd<'_>> {
        match &self.source {
            Source::Terminal { master, .. } => Some(master.as_fd()),
            Source::Pipes { .. } => None,
        }
    }

    /// Takes all that the program has written so far.
    pub fn read_all(&mut self) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = |fd: &OwnedFd, buffer: &mut [u8]| match rustix::io::read(fd, buffer) {
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            // A terminal whose last user has gone; a pipe has an end of file.
            Err(Errno::IO) => Ok(Some(0)),
            size => size.map(Some).context("read what the program writes"),
        };
        for stream in [Stream::Stdout, Stream::Stderr] {
            // Not for ever: a program that writes all the time must not keep the other stream waiting.
            for _ in 0..16 {
                let from = match (&mut self.source, stream) {
                    (Source::Pipes { stdout, .. }, Stream::Stdout) => stdout,
                    (Source::Pipes { stderr, .. }, _) => stderr,
                    (Source::Terminal { master, .. }, Stream::Stdout) => match read(master, &mut buffer)? {
                        Some(size @ 1..) => {
                            self.pass_on(stream, &buffer[..size]);
                            continue;
                        }
                        _ => break,
                    },
                    (Source::Terminal { .. }, _) => break,
                };
                match from.as_ref().map(|fd| read(fd, &mut buffer)).transpose()?.flatten() {
                    Some(size @ 1..) => self.pass_on(stream, &buffer[..size]),
                    Some(0) => {
                        *from = None;
                        break;
                    }
                    None => break,
                }
            }
        }
        self.buffer = buffer;
        Ok(())
    }

    /// What the program wrote goes to the log and to everybody.
    pub fn pass_on(&mut self, stream: Stream, bytes: &[u8]) {
        if let Some(log) = &mut self.log {
            log.write(stream, bytes);
        }
        if self.clients.is_empty() {
            return;
        }
        for part in bytes.chunks(LONGEST - 1) {
            let message = match stream {
                Stream::Stdout => Message::Stdout(part),
                Stream::Stderr => Message::Stderr(part),
            };
            let message = message.encode();
            self.clients.iter_mut().for_each(|client| client.push(&message));
        }
    }

    fn write_typed(&mut self) {
        let fd = match &self.source {
            Source::Pipes { stdin: Some(stdin), .. } => stdin.as_fd(),
            Source::Terminal { master, .. } => master.as_fd(),
            Source::Pipes { stdin: None, .. } => return self.typed.clear(),
        };
        while !self.typed.is_empty() {
            match rustix::io::write(fd, self.typed.as_slices().0) {
                Ok(size) => drop(self.typed.drain(..size)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // The program has closed its standard input.
                Err(_) => self.typed.clear(),
            }
        }
    }

    /// The program has ended: what it wrote last is taken, the log is closed, and everybody is told, two seconds at most.
    pub fn end(mut self, code: u8) -> Result<()> {
        let read = self.read_all();
        if let Some(mut log) = self.log.take() {
            log.finish();
        }
        // Whoever has just come is told as well.
        self.accept();
        let message = Message::Ended(code).encode();
        self.clients.iter_mut().for_each(|client| client.push(&message));
        let patience = Instant::now() + Duration::from_secs(2);
        loop {
            self.clients.iter_mut().for_each(Client::flush);
            self.clients.retain(|client| !client.queue.is_empty());
            let left = patience.saturating_duration_since(Instant::now());
            if self.clients.is_empty() || left.is_zero() {
                return read;
            }
            let mut fds: Vec<_> =
                self.clients.iter().map(|client| PollFd::new(client.socket.as_fd(), PollFlags::POLLOUT)).collect();
            let _ = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO));
        }
    }
}

impl Client {
    fn push(&mut self, message: &[u8]) {
        if self.queued + message.len() + OVERHEAD > QUEUE && message.first() != Some(&b'X') {
            self.lost += message.len() as u64 - 1;
            return;
        }
        self.queued += message.len() + OVERHEAD;
        self.queue.push_back(message.to_vec());
        self.flush();
    }

    /// Sends what the command takes. One that has gone is found when it is listened to.
    fn flush(&mut self) {
        while let Some(message) = self.queue.front() {
            match send(self.socket.as_fd(), message) {
                Ok(()) => {
                    self.queued -= message.len() + OVERHEAD;
                    self.queue.pop_front();
                }
                Err(nix::Error::EAGAIN | nix::Error::ENOBUFS) => return,
                Err(_) => {
                    self.queue.clear();
                    self.queued = 0;
                }
            }
            if self.queue.is_empty() && self.lost > 0 {
                let lost = Message::Lost(std::mem::take(&mut self.lost)).encode();
                self.queued += lost.len() + OVERHEAD;
                self.queue.push_back(lost);
            }
        }
    }
}
