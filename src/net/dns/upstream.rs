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
    server: SocketAddr,
    id: u16,
    wire: Wire,
    /// What a server said that could not do it.
    failure: Option<Vec<u8>>,
}

#[derive(Debug)]
enum Wire {
    None,
    Udp(UdpSocket),
    Tcp(Stream),
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
        let server = (Ipv4Addr::UNSPECIFIED, 0).into();
        Self { asker, deadline: now, query, servers, server, id: 0, wire: Wire::None, failure: None }
    }

    /// Whether it is the query of this client once more: a client repeats one that takes long.
    pub fn is(&self, query: &Query, asker: Asker) -> bool {
        self.asker == asker && self.query == *query
    }

    /// Asks the next server that can be asked. The answer to give where none is left.
    pub fn next(&mut self, watch: Watch<'_>, now: Instant) -> Option<Vec<u8>> {
        while let Some(server) = self.servers.pop() {
            self.server = server;
            self.deadline = now + PATIENCE;
            if self.ask_by_udp(watch).is_ok() {
                return None;
            }
        }
        self.wire = Wire::None;
        let failure = self.failure.take();
        Some(failure.unwrap_or_else(|| failed(&self.query, self.asker.transport())))
    }

    /// Does what there is to do when its socket is ready. The answer to give, once there is one.
    pub fn serve(&mut self, watch: Watch<'_>, now: Instant) -> Option<Vec<u8>> {
        let outcome = match &mut self.wire {
            Wire::None => Outcome::Failed,
            Wire::Udp(_) => self.take_datagrams(watch, now),
            Wire::Tcp(_) => self.go_on_by_tcp(watch),
        };
        match outcome {
            Outcome::Waiting => None,
            Outcome::Answered(answer) => Some(answer),
            Outcome::Failed => self.next(watch, now),
        }
    }

    fn ask_by_udp(&mut self, watch: Watch<'_>) -> io::Result<()> {
        let own = if self.server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind(SocketAddr::new(own, 0))?;
        socket.set_nonblocking(true)?;
        socket.connect(self.server)?;
        self.id = random()?;
        socket.send(&self.query.with_id(self.id))?;
        watch.add(socket.as_fd(), epoll::EventFlags::IN)?;
        self.wire = Wire::Udp(socket);
        Ok(())
    }

    fn ask_by_tcp(&mut self, watch: Watch<'_>) -> io::Result<()> {
        let mut stream = Stream::connect(self.server, usize::from(u16::MAX))?;
        self.id = random()?;
        stream.send(&self.query.with_id(self.id));
        watch.add(stream.as_fd(), epoll::EventFlags::OUT)?;
        self.wire = Wire::Tcp(stream);
        Ok(())
    }

    fn take_datagrams(&mut self, watch: Watch<'_>, now: Instant) -> Outcome {
        // One byte more, to know what is too long.
        let mut buffer = [0; LONGEST + 1];
        for _ in 0..AT_ONCE {
            let Wire::Udp(socket) = &self.wire else { break };
            let (length, from) = match socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Outcome::Waiting,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Nobody listens there.
                Err(_) => return Outcome::Failed,
            };
            // What came between `bind` and `connect` may be of anybody.
            let same = from.ip() == self.server.ip() && from.port() == self.server.port();
            let answer = &buffer[..length];
            let Some(reply) = self.query.reply(self.id, answer).filter(|_| same) else { continue };
            if self.asker.transport() == Transport::Tcp && (reply.cut || length > LONGEST) {
                self.deadline = now + PATIENCE;
                return if self.ask_by_tcp(watch).is_ok() { Outcome::Waiting } else { Outcome::Failed };
            }
            return self.judge(answer.to_vec(), reply.failed);
        }
        Outcome::Waiting
    }

    fn go_on_by_tcp(&mut self, watch: Watch<'_>) -> Outcome {
        let Wire::Tcp(stream) = &mut self.wire else { return Outcome::Failed };
        match stream.flush() {
            Ok(false) => return Outcome::Waiting,
            Ok(true) => {}
            Err(_) => return Outcome::Failed,
        }
        let data = epoll::EventData::new_u64(watch.token);
        let watched = epoll::modify(watch.epoll, stream.as_fd(), data, epoll::EventFlags::IN);
        match stream.receive() {
            Ok(None) if watched.is_ok() => Outcome::Waiting,
            Ok(Some(answer)) => match self.query.reply(self.id, &answer) {
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
