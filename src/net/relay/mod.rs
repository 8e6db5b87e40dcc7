//! What the kernel cannot lead to where it is to go: here minirun itself takes what comes and passes it on.
//!
//! Published ports at the host's `[::1]`, because an answer to `::1` is never routed back from a bridge, and those at
//! IPv6 addresses of the host where the container's network has IPv4 only. And with `--host-access` (`access.rs`), the other
//! way, what a container sends to the host. `supervise.rs` polls the one descriptor that a
//! [`Relay`] has and calls [`Relay::serve`]. What always holds: nothing here waits, one call does bounded work, and no bytes
//! are kept: what one side does not take stays in the kernel's queue of the other, which then waits too.

mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::OriginalDst;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use self::tcp::Tcp;
use self::udp::Udp;
use super::conntrack::Connections;
use super::publish::Protocol;

/// So many events are taken in one call: the descriptor stays readable while there are more.
const EVENTS: usize = 16;
/// A datagram is no longer than this.
const LONGEST: usize = 65536;

/// How much is served at once.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Connections; more of them wait in the backlog.
    connections: usize,
    /// Clients of datagrams; the one that was quiet for longest goes for one more.
    sessions: usize,
    /// A client that is quiet for so long is forgotten.
    idle: Duration,
}

const LIMITS: Limits = Limits { connections: 256, sessions: 256, idle: Duration::from_secs(60) };

/// Where what comes to a socket goes to.
#[derive(Debug, Clone, Copy)]
enum Target {
    /// Always there.
    One(SocketAddr),
    /// To the port of the host that the client asked for: its packets were led here from there.
    Host,
}

/// The host's services, as a container that may reach them finds them.
#[derive(Debug, Default)]
struct Services {
    /// The host's addresses that the container knows it by.
    gateways: Vec<Ipv4Addr>,
    /// Asks what the kernel remembers of connections, in the container's network.
    connections: Option<Connections>,
}

impl Services {
    /// Where a service is looked for that was asked for at `asked`, the last one first: on the loopback device, then at that
    /// address itself. Nowhere, if that is none by which the container knows the host.
    fn places(&self, asked: SocketAddrV4) -> Vec<SocketAddr> {
        if !self.gateways.contains(asked.ip()) {
            return vec![];
        }
        let at = |address: IpAddr| SocketAddr::new(address, asked.port());
        vec![asked.into(), at(Ipv6Addr::LOCALHOST.into()), at(Ipv4Addr::LOCALHOST.into())]
    }
}

/// Sockets that are bound to ports of the host, and what came by them.
#[derive(Debug)]
pub struct Relay {
    epoll: OwnedFd,
    /// For bytes on their way from one call to the next one; nothing is kept in it.
    scratch: Vec<u8>,
    tcp: Tcp,
    udp: Udp,
    services: Services,
}

impl Relay {
    /// One without ports.
    pub fn new() -> Result<Self> {
        Self::within(LIMITS)
    }

    fn within(limits: Limits) -> Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).context("relay ports: make an epoll descriptor")?;
        let (tcp, udp) = (Tcp::new(limits.connections), Udp::new(limits.sessions, limits.idle));
        Ok(Self { epoll, scratch: vec![0; LONGEST], tcp, udp, services: Services::default() })
    }

    /// From here on, what comes to `socket` is passed on to `target`. The socket is bound already; it is made one that does
    /// not wait, and one of TCP listens.
    ///
    /// Errors: SCTP, which is not relayed; `EADDRINUSE` where another socket listens at the same port (listen(2)).
    pub fn add(&mut self, socket: OwnedFd, protocol: Protocol, target: SocketAddr) -> Result<()> {
        let failed = || format!("relay a port to `{target}/{protocol}`");
        rustix::io::ioctl_fionbio(&socket, true).with_context(failed)?;
        match protocol {
            Protocol::Tcp => self.tcp.add(&self.epoll, socket, Target::One(target)).with_context(failed),
            Protocol::Udp => self.udp.add(&self.epoll, socket, Target::One(target)).with_context(failed),
            Protocol::Sctp => bail!("{}: only TCP and UDP are relayed", failed()),
        }
    }

    /// From here on, what comes to these sockets is passed on to the host's port that it was sent to. They are in a container's
    /// network, bound, and `connections` is too.
    pub fn add_host(&mut self, udp: OwnedFd, tcp: OwnedFd, connections: Connections) -> Result<()> {
        let failed = "relay to the host";
        rustix::io::ioctl_fionbio(&tcp, true).context(failed)?;
        rustix::io::ioctl_fionbio(&udp, true).context(failed)?;
        self.tcp.add(&self.epoll, tcp, Target::Host).context(failed)?;
        self.udp.add(&self.epoll, udp, Target::Host).context(failed)?;
        self.services.connections = Some(connections);
        Ok(())
    }

    /// The host's addresses by which the container knows it now.
    pub fn set_gateways(&mut self, gateways: Vec<Ipv4Addr>) {
        self.services.gateways = gateways;
    }

    /// Readable when there is something to serve.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// After so long there is something to serve, even if the descriptor is not readable; a bit more than whole
    /// milliseconds, so that poll(2) does not return too early. `None` is never.
    pub fn timeout(&self) -> Option<Duration> {
        let next = [self.tcp.next(), self.udp.next()].into_iter().flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    /// Does what can be done without waiting, and no more than a part of it where there is much: then the descriptor stays
    /// readable. Called when that is readable, and after [`timeout`](Self::timeout); at any other time it is no harm.
    pub fn serve(&mut self) {
        let now = Instant::now();
        let mut events = [const { MaybeUninit::uninit() }; EVENTS];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Nothing is lost by an error (EINTR): the events are there at the next call.
        if let Ok((ready, _)) = epoll::wait(&self.epoll, &mut events, Some(&at_once)) {
            for event in ready {
                let flags = event.flags;
                match Token::of(event.data) {
                    Token::Listener(at) => self.tcp.accept(&self.epoll, &self.services, at, now),
                    Token::End(number, side) => self.tcp.serve(&self.epoll, &mut self.scratch, number, side, flags),
                    Token::Port(at) => self.udp.take(&self.epoll, &self.services, &mut self.scratch, at, now),
                    Token::Session(number) => self.udp.answer(&self.epoll, &mut self.scratch, number, now),
                }
            }
        }
        self.udp.expire(now);
        self.tcp.settle(&self.epoll, now);
    }
}

/// Whose event it is. Numbers are not used again, so a late event of something that is gone means nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// The listener at this place.
    Listener(usize),
    /// One side of a connection.
    End(u64, usize),
    /// The socket for datagrams at this place.
    Port(usize),
    /// A client of datagrams.
    Session(u64),
}

impl Token {
    fn data(self) -> EventData {
        let (number, kind) = match self {
            Self::Listener(at) => (at as u64, 0),
            Self::End(number, side) => (number, 1 + side as u64),
            Self::Port(at) => (at as u64, 3),
            Self::Session(number) => (number, 4),
        };
        EventData::new_u64(number << 3 | kind)
    }

    fn of(data: EventData) -> Self {
        let (number, kind) = (data.u64() >> 3, data.u64() & 7);
        match kind {
            0 => Self::Listener(number as usize),
            3 => Self::Port(number as usize),
            4 => Self::Session(number),
            side => Self::End(number, side as usize - 1),
        }
    }
}

/// Where a client wanted to go whose connection was led here.
fn asked(client: &OwnedFd) -> Option<SocketAddrV4> {
    let original = getsockopt(client, OriginalDst).ok()?;
    let address = Ipv4Addr::from(u32::from_be(original.sin_addr.s_addr));
    Some(SocketAddrV4::new(address, u16::from_be(original.sin_port)))
}

/// Has `socket` watched for `events`, which are as they were until something else is said.
fn watch(epoll: &OwnedFd, socket: &OwnedFd, token: Token, events: EventFlags) -> rustix::io::Result<()> {
    epoll::add(epoll, socket, token.data(), events)
}
