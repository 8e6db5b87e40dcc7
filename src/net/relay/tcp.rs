//! Connections that are relayed: a client's one, and one to the container for each of them.
//!
//! Bytes are looked at where they came (`MSG_PEEK`), sent on, and only as far as they were taken removed from where they came
//! (`MSG_TRUNC`, tcp(7)). So a connection has no buffer, and who sends feels how slow the reader is.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventFlags};
use rustix::io::{Errno, Result};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType, accept_with, connect, ipproto, listen,
    recv, send, shutdown, socket_with, sockopt,
};

use super::{Services, Target, Token, asked, watch};

/// So many wait to be accepted; the kernel's own limit (net.core.somaxconn) is 4096 and holds as well.
const BACKLOG: i32 = 4096;
/// So often bytes are taken one way in one call.
const ROUNDS: usize = 4;
/// After an error that says that descriptors or memory are short, nothing is accepted for so long.
pub(super) const REST: Duration = Duration::from_millis(100);
/// A client that was quiet for so long is asked whether it is there still: it may be a machine that has gone.
const QUIET: Duration = Duration::from_secs(60);
/// The sides of a connection.
const CLIENT: usize = 0;
const TARGET: usize = 1;

#[derive(Debug)]
struct Listener {
    socket: OwnedFd,
    target: Target,
}

/// Every listener and every connection.
#[derive(Debug)]
pub(super) struct Tcp {
    listeners: Vec<Listener>,
    connections: BTreeMap<u64, Connection>,
    /// How many there were.
    made: u64,
    /// How many there are at most.
    most: usize,
    /// Whether the listeners are watched.
    accepting: bool,
    /// Nothing is accepted until then.
    rest: Option<Instant>,
}

impl Tcp {
    pub(super) fn new(most: usize) -> Self {
        Self { listeners: vec![], connections: BTreeMap::new(), made: 0, most, accepting: true, rest: None }
    }

    /// Listens, and watches for clients. Options of a listener are those of the connections that come by it.
    pub(super) fn add(&mut self, epoll: &OwnedFd, socket: OwnedFd, target: Target) -> Result<()> {
        // Else connections that are over would keep the port from being listened at, for a minute.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, QUIET)?;
        prepare(&socket)?;
        listen(&socket, BACKLOG)?;
        let events = if self.accepting { EventFlags::IN } else { EventFlags::empty() };
        watch(epoll, &socket, Token::Listener(self.listeners.len()), events)?;
        self.listeners.push(Listener { socket, target });
        Ok(())
    }

    /// Accepts one connection, and begins one to the container.
    pub(super) fn accept(&mut self, epoll: &OwnedFd, services: &Services, at: usize, now: Instant) {
        if self.connections.len() >= self.most || self.rest.is_some() {
            return;
        }
        match self.begin(services, at) {
            Ok(connection) => {
                self.made += 1;
                let number = self.made;
                self.connections.insert(number, connection);
                self.watch(epoll, number);
            }
            // None is there any more, or it has gone already, or the container is not to be reached.
            Err(Stopped::Client) => {}
            Err(Stopped::Shortage) => self.rest = Some(now + REST),
        }
    }

    fn begin(&self, services: &Services, at: usize) -> std::result::Result<Connection, Stopped> {
        let Listener { socket, target } = &self.listeners[at];
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Before the client is accepted: where there is no descriptor for this one, that one goes on waiting.
        let ipv4 = match target {
            Target::One(target) => target.is_ipv4(),
            Target::Host => true,
        };
        let to = open(ipv4).map_err(|_| Stopped::Shortage)?;
        let client = match accept_with(socket, flags) {
            Ok(client) => client,
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Err(Stopped::Client),
            Err(_) => return Err(Stopped::Shortage),
        };
        let mut targets = match target {
            Target::One(target) => vec![*target],
            Target::Host => asked(&client).map_or(vec![], |asked| services.places(asked)),
        };
        match begin_to(&mut targets, Some(to)) {
            Some(to) => Ok(Connection::new(client, to, targets)),
            None => {
                reset(&client);
                Err(Stopped::Client)
            }
        }
    }

    /// Serves a connection after an event at one of its sides.
    pub(super) fn serve(&mut self, epoll: &OwnedFd, scratch: &mut [u8], number: u64, side: usize, events: EventFlags) {
        // It may have ended by an event before this one.
        let Some(connection) = self.connections.get_mut(&number) else { return };
        match connection.serve(side, events, scratch) {
            Ok(()) if connection.is_over() => self.remove(number),
            Ok(()) => self.watch(epoll, number),
            Err(Broken) if side == TARGET && connection.try_next(epoll) => self.watch(epoll, number),
            Err(Broken) => self.abort(number),
        }
    }

    fn watch(&mut self, epoll: &OwnedFd, number: u64) {
        let watched = self.connections.get_mut(&number).map_or(Ok(()), |connection| connection.watch(epoll, number));
        if watched.is_err() {
            self.abort(number);
        }
    }

    fn abort(&mut self, number: u64) {
        if let Some(connection) = self.connections.get(&number) {
            connection.ends.iter().for_each(|end| reset(&end.socket));
        }
        self.remove(number);
    }

    fn remove(&mut self, number: u64) {
        // Closed by this, a socket is watched no more.
        self.connections.remove(&number);
        self.rest = None;
    }

    /// Lets clients come, or wait, as there is room for them.
    pub(super) fn settle(&mut self, epoll: &OwnedFd, now: Instant) {
        self.rest = self.rest.filter(|until| *until > now);
        let accepting = self.rest.is_none() && self.connections.len() < self.most;
        if accepting == self.accepting {
            return;
        }
        self.accepting = accepting;
        let events = if accepting { EventFlags::IN } else { EventFlags::empty() };
        for (at, listener) in self.listeners.iter().enumerate() {
            // It is watched already, so this takes no memory and does not fail.
            let _ = epoll::modify(epoll, &listener.socket, Token::Listener(at).data(), events);
        }
    }

    /// When there is something to do without an event.
    pub(super) fn next(&self) -> Option<Instant> {
        self.rest
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Its own sockets, of clients and of targets.
    #[cfg(test)]
    pub(super) fn sockets(&self) -> impl Iterator<Item = [&OwnedFd; 2]> {
        self.connections.values().map(|connection| connection.ends.each_ref().map(|end| &end.socket))
    }
}

/// Why nothing came of an event of a listener.
enum Stopped {
    /// It was the client's, or the container's.
    Client,
    /// There are no descriptors or no memory.
    Shortage,
}

/// A side of a connection has failed: the other one is told so by a reset.
struct Broken;

/// One side of a connection.
#[derive(Debug)]
struct End {
    socket: OwnedFd,
    /// For what it is watched, if it is.
    watched: Option<EventFlags>,
    /// The kernel goes on to say that it is over: it is watched only while something is wanted of it.
    hung_up: bool,
    /// It was reset before it said that it had sent all: an end of what it sent is none.
    cut: bool,
}

impl End {
    fn of(socket: OwnedFd) -> Self {
        Self { socket, watched: None, hung_up: false, cut: false }
    }
}

/// What is waited for, one way through a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Bytes, where they come from.
    Bytes,
    /// Room, where they go to.
    Room,
    /// Bytes, to throw them away: nobody takes them. A socket that is closed with bytes in its queue is reset, and what it
    /// was sent is lost with it.
    Lost,
    /// Nothing: no more go this way.
    Over,
}

/// A client's connection and the one to the container.
#[derive(Debug)]
struct Connection {
    /// Of the client and of the container.
    ends: [End; 2],
    /// From the client and from the container.
    ways: [Way; 2],
    /// The container has not answered yet.
    connecting: bool,
    /// Where else it may be reached, the last one first.
    targets: Vec<SocketAddr>,
}

impl Connection {
    /// Waits for the container first: until there is room on its side the client is not read.
    fn new(client: OwnedFd, target: OwnedFd, targets: Vec<SocketAddr>) -> Self {
        let ends = [client, target].map(End::of);
        Self { ends, ways: [Way::Room, Way::Bytes], connecting: true, targets }
    }

    /// Where the target cannot be reached, begins with another one, if there is one.
    fn try_next(&mut self, epoll: &OwnedFd) -> bool {
        let next = if self.connecting { begin_to(&mut self.targets, None) } else { None };
        let Some(socket) = next else { return false };
        // Its events would be taken for the new one's.
        let _ = epoll::delete(epoll, &self.ends[TARGET].socket);
        self.ends[TARGET] = End::of(socket);
        true
    }

    fn is_over(&self) -> bool {
        self.ways == [Way::Over; 2]
    }

    fn serve(&mut self, side: usize, events: EventFlags, scratch: &mut [u8]) -> std::result::Result<(), Broken> {
        let failed = events.contains(EventFlags::ERR);
        self.ends[side].hung_up |= events.intersects(EventFlags::ERR | EventFlags::HUP);
        if self.connecting {
            if side == TARGET {
                sockopt::socket_error(&self.ends[TARGET].socket).flatten().map_err(|_| Broken)?;
                self.connecting = false;
            } else if failed {
                return Err(Broken);
            }
        } else if failed && self.ways[side] == Way::Over {
            // All that it sent has gone on, and nothing reaches it any more.
            return Err(Broken);
        }
        if !self.connecting {
            self.carry(CLIENT, scratch)?;
            self.carry(TARGET, scratch)?;
        }
        Ok(())
    }

    /// Passes bytes on, from this side to the other.
    fn carry(&mut self, from: usize, scratch: &mut [u8]) -> std::result::Result<(), Broken> {
        let to = 1 - from;
        for _ in 0..ROUNDS {
            if self.ways[from] == Way::Over {
                return Ok(());
            }
            let size = match recv(&self.ends[from].socket, &mut *scratch, RecvFlags::PEEK) {
                Ok((0, _)) if self.ends[from].cut => return Err(Broken),
                Ok((0, _)) => {
                    // An error is that the other side has gone, which is found where it is read.
                    let _ = shutdown(&self.ends[to].socket, Shutdown::Write);
                    self.ways[from] = Way::Over;
                    return Ok(());
                }
                Ok((size, _)) => size,
                Err(Errno::AGAIN) => {
                    if self.ways[from] == Way::Room {
                        self.ways[from] = Way::Bytes;
                    }
                    return Ok(());
                }
                Err(Errno::INTR) => continue,
                Err(_) => return Err(Broken),
            };
            let sent = match self.ways[from] {
                Way::Lost => Ok(size),
                _ => send(&self.ends[to].socket, &scratch[..size], SendFlags::NOSIGNAL),
            };
            let sent = match sent {
                Ok(sent) => sent,
                Err(Errno::AGAIN) => 0,
                Err(Errno::INTR) => continue,
                Err(error) => {
                    // It takes no more, but what it sent before is read still. EPIPE is of one that had sent all.
                    self.ends[to].cut = error != Errno::PIPE;
                    self.ways[from] = Way::Lost;
                    continue;
                }
            };
            discard(&self.ends[from].socket, scratch, sent)?;
            if sent < size {
                self.ways[from] = Way::Room;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Has both sides watched for what is wanted of them.
    fn watch(&mut self, epoll: &OwnedFd, number: u64) -> Result<()> {
        for side in [CLIENT, TARGET] {
            let mut events = EventFlags::empty();
            events.set(EventFlags::IN, matches!(self.ways[side], Way::Bytes | Way::Lost));
            events.set(EventFlags::OUT, self.ways[1 - side] == Way::Room);
            let end = &mut self.ends[side];
            // Without any event the kernel tells an error still, and that it has hung up, again and again: once is enough.
            let wanted = if events.is_empty() && end.hung_up { None } else { Some(events) };
            let token = Token::End(number, side);
            match (end.watched, wanted) {
                (None, Some(events)) => watch(epoll, &end.socket, token, events)?,
                (Some(now), Some(events)) if now != events => {
                    epoll::modify(epoll, &end.socket, token.data(), events)?;
                }
                (Some(_), None) => epoll::delete(epoll, &end.socket)?,
                _ => {}
            }
            end.watched = wanted;
        }
        Ok(())
    }
}

fn open(ipv4: bool) -> Result<OwnedFd> {
    let family = if ipv4 { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))
}

/// Begins a connection to the last of these where one can be begun, by `socket` if it is the first that is tried. Those that
/// are left may be tried after it.
fn begin_to(targets: &mut Vec<SocketAddr>, mut socket: Option<OwnedFd>) -> Option<OwnedFd> {
    while let Some(target) = targets.pop() {
        let Ok(to) = socket.take().map_or_else(|| open(target.is_ipv4()), Ok) else { continue };
        if let Ok(()) | Err(Errno::INPROGRESS) = prepare(&to).and_then(|()| connect(&to, &target)) {
            return Some(to);
        }
    }
    None
}

/// Passes small writes on at once, and urgent bytes (which are out of the order of the others, tcp(7)) in their order.
fn prepare(socket: &OwnedFd) -> Result<()> {
    sockopt::set_tcp_nodelay(socket, true)?;
    sockopt::set_socket_oobinline(socket, true)
}

/// Removes bytes that were looked at, without a copy of them.
fn discard(socket: &OwnedFd, scratch: &mut [u8], size: usize) -> std::result::Result<(), Broken> {
    let mut left = size;
    while left > 0 {
        match recv(socket, &mut scratch[..left], RecvFlags::TRUNC) {
            Ok((0, _)) => return Err(Broken),
            Ok((gone, _)) => left -= gone,
            Err(Errno::INTR) => {}
            // They were there: without them bytes would go twice.
            Err(_) => return Err(Broken),
        }
    }
    Ok(())
}

/// Has a connection end by a reset once its socket is closed.
fn reset(socket: &OwnedFd) {
    let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}
