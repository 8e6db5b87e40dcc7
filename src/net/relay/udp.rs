//! Datagrams that are relayed: for each client a socket that is connected to the container, until it was quiet for a while.

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::sockopt::Ipv6RecvPacketInfo;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt};
use rustix::event::epoll::EventFlags;
use rustix::io::{Errno, Result};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, getsockname, ipproto, recv, send,
    socket_with,
};

use super::{Services, Target, Token, watch};

/// So many datagrams are taken from one socket in one call.
const ROUNDS: usize = 32;

#[derive(Debug)]
struct Port {
    socket: OwnedFd,
    target: Target,
    /// Where it is bound to.
    own: SocketAddr,
}

/// A client, as its datagrams name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Client {
    /// The place of the port that it sends to.
    port: usize,
    address: SocketAddr,
    /// The host's address that it sends to, where the port is at all of them: answers come from there.
    host: Option<Ipv6Addr>,
}

#[derive(Debug)]
struct Session {
    client: Client,
    /// Connected to the container.
    socket: OwnedFd,
    /// Where else what it asks may be answered, the last one first.
    targets: Vec<SocketAddr>,
    /// When the last datagram came, from either side.
    last: Instant,
}

/// Every port and every client.
#[derive(Debug)]
pub(super) struct Udp {
    ports: Vec<Port>,
    sessions: BTreeMap<u64, Session>,
    numbers: BTreeMap<Client, u64>,
    /// How many there were.
    made: u64,
    /// How many there are at most.
    most: usize,
    /// A client that is quiet for so long is forgotten.
    idle: Duration,
}

impl Udp {
    pub(super) fn new(most: usize, idle: Duration) -> Self {
        Self { ports: vec![], sessions: BTreeMap::new(), numbers: BTreeMap::new(), made: 0, most, idle }
    }

    pub(super) fn add(&mut self, epoll: &OwnedFd, socket: OwnedFd, target: Target) -> Result<()> {
        let own: SocketAddr = getsockname(&socket)?.try_into().map_err(|_| Errno::AFNOSUPPORT)?;
        if own.is_ipv6() && own.ip().is_unspecified() {
            setsockopt(&socket, Ipv6RecvPacketInfo, &true).map_err(|error| Errno::from_raw_os_error(error as i32))?;
        }
        watch(epoll, &socket, Token::Port(self.ports.len()), EventFlags::IN)?;
        self.ports.push(Port { socket, target, own });
        Ok(())
    }

    /// Passes on what clients sent.
    pub(super) fn take(&mut self, epoll: &OwnedFd, services: &Services, scratch: &mut [u8], at: usize, now: Instant) {
        for _ in 0..ROUNDS {
            match receive(&self.ports[at].socket, scratch) {
                Ok((size, address, host)) => {
                    let client = Client { port: at, address, host };
                    // Without descriptors the datagram is lost, as datagrams may be.
                    if let Ok(session) = self.session(epoll, services, client, now) {
                        session.last = now;
                        pass_on(&session.socket, &scratch[..size]);
                    }
                }
                Err(nix::Error::EAGAIN) => return,
                Err(_) => {}
            }
        }
    }

    /// The session of a client, which may be a new one.
    fn session(&mut self, epoll: &OwnedFd, services: &Services, client: Client, now: Instant) -> Result<&mut Session> {
        let number = match self.numbers.get(&client) {
            Some(number) => *number,
            None => self.begin(epoll, services, client, now)?,
        };
        self.sessions.get_mut(&number).ok_or(Errno::NOENT)
    }

    fn begin(&mut self, epoll: &OwnedFd, services: &Services, client: Client, now: Instant) -> Result<u64> {
        if self.sessions.len() >= self.most {
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.last);
            let oldest = oldest.map(|(number, _)| *number);
            oldest.into_iter().for_each(|number| self.remove(number));
        }
        let mut targets = self.targets(services, client);
        let socket = connect_to(&mut targets)?;
        let number = self.made + 1;
        watch(epoll, &socket, Token::Session(number), EventFlags::IN)?;
        self.made = number;
        self.sessions.insert(number, Session { client, socket, targets, last: now });
        self.numbers.insert(client, number);
        Ok(number)
    }

    /// Where what a client sends may go, the last one first.
    fn targets(&self, services: &Services, client: Client) -> Vec<SocketAddr> {
        let Port { target, own, .. } = &self.ports[client.port];
        match (target, own, client.address, &services.connections) {
            (Target::One(target), ..) => vec![*target],
            (Target::Host, SocketAddr::V4(own), SocketAddr::V4(address), Some(connections)) => {
                connections.asked(*own, address).map_or(vec![], |asked| services.places(asked))
            }
            (Target::Host, ..) => vec![],
        }
    }

    fn remove(&mut self, number: u64) {
        if let Some(session) = self.sessions.remove(&number) {
            self.numbers.remove(&session.client);
        }
    }

    /// Passes on what the container answered to a client.
    pub(super) fn answer(&mut self, epoll: &OwnedFd, scratch: &mut [u8], number: u64, now: Instant) {
        // It may be gone by an event before this one.
        let Some(session) = self.sessions.get_mut(&number) else { return };
        for _ in 0..ROUNDS {
            match recv(&session.socket, &mut *scratch, RecvFlags::empty()) {
                Ok((size, _)) => {
                    session.last = now;
                    send_to(&self.ports[session.client.port], &scratch[..size], &session.client);
                }
                Err(Errno::AGAIN) => return,
                // Nobody is there, and somebody may be elsewhere: the next datagram goes there.
                Err(Errno::CONNREFUSED) if !session.targets.is_empty() => {
                    let Ok(socket) = connect_to(&mut session.targets) else { return };
                    if watch(epoll, &socket, Token::Session(number), EventFlags::IN).is_ok() {
                        session.socket = socket;
                    }
                }
                // What ICMP told: the next datagram may arrive.
                Err(_) => {}
            }
        }
    }

    /// Forgets the clients that were quiet for long.
    pub(super) fn expire(&mut self, now: Instant) {
        let quiet = self.sessions.iter().filter(|(_, session)| session.last + self.idle <= now);
        for number in quiet.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.remove(number);
        }
    }

    /// When there is something to do without an event.
    pub(super) fn next(&self) -> Option<Instant> {
        self.sessions.values().map(|session| session.last + self.idle).min()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.sessions.len(), self.numbers.len());
        self.sessions.len()
    }
}

/// A socket that is connected to the last of these to which one can be; those that are left may be tried after it.
fn connect_to(targets: &mut Vec<SocketAddr>) -> Result<OwnedFd> {
    let mut failed = Errno::CONNREFUSED;
    while let Some(target) = targets.pop() {
        let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::DGRAM, flags, Some(ipproto::UDP))?;
        match connect(&socket, &target) {
            Ok(()) => return Ok(socket),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Takes a datagram: its size, who sent it, and where to if the socket is one that asks for this.
fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> nix::Result<(usize, SocketAddr, Option<Ipv6Addr>)> {
    let mut space = nix::cmsg_space!(in6_pktinfo);
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let host = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(Ipv6Addr::from(info.ipi6_addr.s6_addr)),
        _ => None,
    });
    let from = message.address.as_ref().and_then(|address| {
        let ipv4 = address.as_sockaddr_in().map(|address| SocketAddr::from(*address));
        ipv4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::from(*address)))
    });
    Ok((message.bytes, from.ok_or(nix::Error::EAFNOSUPPORT)?, host))
}

/// Sends a datagram to the container. An error may be of one before it (udp(7)): then this one was not sent.
fn pass_on(socket: &OwnedFd, bytes: &[u8]) {
    for _ in 0..2 {
        match send(socket, bytes, SendFlags::NOSIGNAL) {
            Err(error) if error != Errno::AGAIN => {}
            _ => return,
        }
    }
}

/// Sends a datagram to a client; where there is no room it is lost, as datagrams may be.
fn send_to(port: &Port, bytes: &[u8], client: &Client) {
    let Port { socket, target, own } = port;
    // Index 0: the way to the client is the routing's choice, or in the address of one on the same link.
    let info = client.host.map(|host| in6_pktinfo { ipi6_addr: in6_addr { s6_addr: host.octets() }, ipi6_ifindex: 0 });
    // In a container the address must be said, as the name server does (`dns/sockets.rs`).
    let info4 = match (target, own) {
        (Target::Host, SocketAddr::V4(own)) => Some(in_addr { s_addr: u32::from_ne_bytes(own.ip().octets()) }),
        _ => None,
    };
    let info4 = info4.map(|address| in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: address });
    let mut control: Vec<ControlMessage<'_>> = info.iter().map(ControlMessage::Ipv6PacketInfo).collect();
    control.extend(info4.iter().map(ControlMessage::Ipv4PacketInfo));
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let to = SockaddrStorage::from(client.address);
    let _ = sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], &control, flags, Some(&to));
}
