//! One query that was passed on to the host's resolvers, until its answer is there.
//!
//! ```text
//!   server 1, UDP --answer--> done            cut, and the client came by TCP: the same server by TCP
//!        | 2 s, an error, or the server says that it failed
//!   server 2, UDP ...                         a server that is alone is asked twice
//!        | none is left
//!   the last failure of a server, or SERVFAIL
//! ```
//!
//! A server that was given up because it took too long is still listened to while others are asked: it may be far away, or all
//! of them may be slow.
//!
//! The container chooses the questions and may know who is asked, so it, or who it lets listen, may also send answers. Each
//! try has a socket of its own, connected, so that the kernel takes datagrams from the server's address alone, on a port of
//! the kernel's random choice, and a random id; and the answer must repeat the question byte for byte. Nothing is kept of an
//! answer, so that one which was forged all the same is had by the container that asked and by no other.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::rand::{GetRandomFlags, getrandom};

use super::message::{Answer, LONGEST, Query, Rcode, Transport};
use super::stream::Stream;

/// How long a server may take, by UDP and then by TCP.
const PATIENCE: Duration = Duration::from_secs(2);
/// Datagrams that are looked at in one go: a flood of forged ones does not keep the caller.
const AT_ONCE: usize = 16;

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// By a datagram from this address.
    Udp(SocketAddr),
    /// The client of this number, over its connection.
    Tcp(u64),
}

impl Asker {
    /// How the answer goes.
    pub fn transport(self) -> Transport {
        match self {
            Self::Udp(_) => Transport::Udp,
            Self::Tcp(_) => Transport::Tcp,
        }
    }
}

/// A query on its way.
#[derive(Debug)]
pub struct Exchange {
    /// Who waits for the answer.
    pub asker: Asker,
    /// When the server that is being asked has taken too long.
    pub deadline: Instant,
    query: Query,
    /// Those that are still to be asked, the next one last.
    servers: Vec<SocketAddr>,
    /// Those that were asked by UDP and may answer yet, the last one last.
    tries: Vec<Try>,
    /// The one that is asked by TCP, and the id.
    tcp: Option<(u16, Stream)>,
    /// What a server said that could not do it.
    failure: Option<Vec<u8>>,
}

/// A server that was asked by UDP.
#[derive(Debug)]
struct Try {
    server: SocketAddr,
    id: u16,
    socket: UdpSocket,
}

/// What a try has come to.
enum Outcome {
    Waiting,
    Answered(Vec<u8>),
    Failed,
}

/// Where sockets are watched, and as what.
#[derive(Debug, Clone, Copy)]
pub struct Watch<'a> {
    /// The epoll instance.
    pub epoll: BorrowedFd<'a>,
    /// The exchange's number.
    pub token: u64,
}

impl Watch<'_> {
    fn add(self, fd: BorrowedFd<'_>, events: epoll::EventFlags) -> io::Result<()> {
        Ok(epoll::add(self.epoll, fd, epoll::EventData::new_u64(self.token), events)?)
    }
}

impl Exchange {
    /// A query that nobody was asked yet: [`next`](Self::next) does it.
    pub fn new(query: Query, asker: Asker, servers: impl DoubleEndedIterator<Item = SocketAddr>, now: Instant) -> Self {
        let mut servers: Vec<SocketAddr> = servers.rev().collect();
        if let [alone] = servers[..] {
            servers.push(alone);
        }
        Self { asker, deadline: now, query, servers, tries: vec![], tcp: None, failure: None }
    }

    /// Whether it is the query of this client once more: a client repeats one that takes long.
    pub fn is(&self, query: &Query, asker: Asker) -> bool {
        self.asker == asker && self.query == *query
    }

    /// Asks the next server that can be asked. The answer to give where none is left.
    pub fn next(&mut self, watch: Watch<'_>, now: Instant) -> Option<Vec<u8>> {
        self.tcp = None;
        while let Some(server) = self.servers.pop() {
            self.deadline = now + PATIENCE;
            if self.ask_by_udp(server, watch).is_ok() {
                return None;
            }
        }
        self.tries.clear();
        let failure = self.failure.take();
        Some(failure.unwrap_or_else(|| failed(&self.query, self.asker.transport())))
    }

    /// Does what there is to do when a socket of its is ready. The answer to give, once there is one.
    pub fn serve(&mut self, watch: Watch<'_>, now: Instant) -> Option<Vec<u8>> {
        let mut outcome = if self.tcp.is_some() { self.go_on_by_tcp(watch) } else { Outcome::Waiting };
        let mut at = 0;
        while matches!(outcome, Outcome::Waiting) && at < self.tries.len() {
            let is_waited_for = self.tcp.is_none() && at + 1 == self.tries.len();
            match self.take_datagrams(at, watch, now) {
                Outcome::Waiting => at += 1,
                Outcome::Failed => {
                    self.tries.remove(at);
                    outcome = if is_waited_for { Outcome::Failed } else { Outcome::Waiting };
                }
                answered => outcome = answered,
            }
        }
        match outcome {
            Outcome::Waiting => None,
            Outcome::Answered(answer) => Some(answer),
            Outcome::Failed => self.next(watch, now),
        }
    }

    fn ask_by_udp(&mut self, server: SocketAddr, watch: Watch<'_>) -> io::Result<()> {
        let own = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind(SocketAddr::new(own, 0))?;
        socket.set_nonblocking(true)?;
        socket.connect(server)?;
        let id = random()?;
        socket.send(&self.query.with_id(id))?;
        watch.add(socket.as_fd(), epoll::EventFlags::IN)?;
        self.tries.push(Try { server, id, socket });
        Ok(())
    }

    fn ask_by_tcp(&mut self, server: SocketAddr, watch: Watch<'_>) -> io::Result<()> {
        let mut stream = Stream::connect(server, usize::from(u16::MAX))?;
        let id = random()?;
        stream.send(&self.query.with_id(id));
        watch.add(stream.as_fd(), epoll::EventFlags::OUT)?;
        self.tcp = Some((id, stream));
        Ok(())
    }

    /// What came from the server of the try at `at`.
    fn take_datagrams(&mut self, at: usize, watch: Watch<'_>, now: Instant) -> Outcome {
        // One byte more, to know what is too long.
        let mut buffer = [0; LONGEST + 1];
        for _ in 0..AT_ONCE {
            let Try { server, id, socket } = &self.tries[at];
            let (length, from) = match socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Outcome::Waiting,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Nobody listens there.
                Err(_) => return Outcome::Failed,
            };
            // What came between `bind` and `connect` may be of anybody.
            let same = from.ip() == server.ip() && from.port() == server.port();
            let answer = &buffer[..length];
            let Some(reply) = self.query.reply(*id, answer).filter(|_| same) else { continue };
            if self.asker.transport() == Transport::Tcp && (reply.cut || length > LONGEST) {
                let server = *server;
                self.deadline = now + PATIENCE;
                return if self.ask_by_tcp(server, watch).is_ok() { Outcome::Waiting } else { Outcome::Failed };
            }
            return self.judge(answer.to_vec(), reply.failed);
        }
        Outcome::Waiting
    }

    fn go_on_by_tcp(&mut self, watch: Watch<'_>) -> Outcome {
        let Some((id, stream)) = &mut self.tcp else { return Outcome::Failed };
        match stream.flush() {
            Ok(false) => return Outcome::Waiting,
            Ok(true) => {}
            Err(_) => return Outcome::Failed,
        }
        let data = epoll::EventData::new_u64(watch.token);
        let watched = epoll::modify(watch.epoll, stream.as_fd(), data, epoll::EventFlags::IN);
        match stream.receive() {
            Ok(None) if watched.is_ok() => Outcome::Waiting,
            Ok(Some(answer)) => match self.query.reply(*id, &answer) {
                Some(reply) => self.judge(answer, reply.failed),
                None => Outcome::Failed,
            },
            _ => Outcome::Failed,
        }
    }

    fn judge(&mut self, answer: Vec<u8>, failed: bool) -> Outcome {
        let answer = self.query.hand_back(answer, self.asker.transport());
        if !failed {
            return Outcome::Answered(answer);
        }
        self.failure = Some(answer);
        Outcome::Failed
    }
}

/// The answer to a query that nobody could answer: glibc and musl ask again.
pub fn failed(query: &Query, transport: Transport) -> Vec<u8> {
    Answer::new(query, Rcode::ServFail, transport, false).finish()
}

fn random() -> io::Result<u16> {
    let mut bytes = [0; 2];
    // Not to wait: at the start of a machine there may be none yet.
    getrandom(&mut bytes, GetRandomFlags::NONBLOCK)?;
    Ok(u16::from_ne_bytes(bytes))
}
