//! The responder: two sockets in the container's network, the queries that were passed on, and one descriptor for all of it.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::libc;
use rustix::event::{Timespec, epoll};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

use super::message::{AXFR, Answer, IXFR, LONGEST_QUERY, Malformed, Query, Rcode};
use super::servers::Servers;
use super::stream::Stream;
use super::upstream::{Asker, Exchange, Watch, failed};
use super::{Directory, Options, PORT, members, sockets};

/// Queries that were passed on and wait for their answer. Each has a socket.
const MOST_EXCHANGES: usize = 128;
/// Connections of clients. Further ones wait with the kernel.
const MOST_CLIENTS: usize = 16;
/// How long a client may take to send a query or to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long none is taken when no descriptor was left for one.
const REST: Duration = Duration::from_secs(1);
/// Datagrams taken in one go, so that a flood of them does not keep the caller from its other work.
const AT_ONCE: usize = 32;

/// What is watched, beside clients and exchanges, which have the numbers after these.
const UDP: u64 = 0;
const TCP: u64 = 1;
const TIMER: u64 = 2;

/// Answers the queries of one container.
#[derive(Debug)]
pub struct Responder {
    epoll: OwnedFd,
    /// Runs out at the first deadline.
    timer: OwnedFd,
    armed: Option<Instant>,
    udp: UdpSocket,
    tcp: TcpListener,
    accepting: bool,
    /// No descriptor was left for a client: until then none is taken.
    rests_until: Option<Instant>,
    options: Options,
    servers: Servers,
    /// A server at this address would be this responder itself.
    own: Option<SocketAddr>,
    clients: BTreeMap<u64, Client>,
    exchanges: BTreeMap<u64, Exchange>,
    /// The number of the next client or exchange. None is used twice, so that an event is never taken for another's.
    next: u64,
}

#[derive(Debug)]
struct Client {
    stream: Stream,
    deadline: Instant,
    /// Its query, while it was passed on: until then it is read from and not listened to.
    waits_for: Option<u64>,
}

/// What a client is kept for.
#[derive(Debug, Clone, Copy)]
enum Next {
    /// It sends a query.
    Query,
    /// Its query is answered.
    Answer,
    /// It takes the rest of an answer.
    Room,
    /// It is let go.
    Nothing,
}

impl Responder {
    /// A responder on a datagram socket and a listening one of the same address, as they came from the container's network.
    ///
    /// Errors: no descriptors are left.
    pub fn new(udp: OwnedFd, tcp: OwnedFd, options: Options) -> Result<Self> {
        let servers = match &*options.servers {
            [] => Servers::of("/etc/resolv.conf", PORT),
            servers => Servers::fixed(servers, PORT),
        };
        Self::with_servers(udp, tcp, options, servers)
    }

    pub(super) fn with_servers(udp: OwnedFd, tcp: OwnedFd, options: Options, servers: Servers) -> Result<Self> {
        let (udp, tcp) = (UdpSocket::from(udp), TcpListener::from(tcp));
        let make = || -> io::Result<(OwnedFd, OwnedFd)> {
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
            let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
            let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
            for (fd, token) in [(udp.as_fd(), UDP), (tcp.as_fd(), TCP), (timer.as_fd(), TIMER)] {
                epoll::add(&epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
            }
            Ok((epoll, timer))
        };
        let (epoll, timer) = make().context("watch the container's name server")?;
        let own = udp.local_addr().ok().filter(|_| is_of_this_network(&udp));
        let (clients, exchanges) = (BTreeMap::new(), BTreeMap::new());
        let (armed, accepting, rests_until, next) = (None, true, None, TIMER + 1);
        Ok(Self {
            epoll,
            timer,
            armed,
            udp,
            tcp,
            accepting,
            rests_until,
            options,
            servers,
            own,
            clients,
            exchanges,
            next,
        })
    }

    /// Readable when there is something for [`serve`](Self::serve) to do, which includes that time is up.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Does what there is to do now and returns; it never waits, and what is left over makes the descriptor readable again.
    /// What goes wrong concerns one query, of which the client hears.
    pub fn serve(&mut self, directory: &dyn Directory) {
        let mut events = Vec::with_capacity(AT_ONCE);
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&Timespec::default()));
        let now = Instant::now();
        for event in events {
            match event.data.u64() {
                UDP => self.take_datagrams(directory, now),
                TCP => self.accept(now),
                TIMER => {
                    let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                    self.armed = None;
                }
                number if self.clients.contains_key(&number) => self.serve_client(number, directory, now),
                number => self.go_on(number, now, Exchange::serve),
            }
        }
        self.give_up_late_ones(now);
        self.listen_for_clients(now);
        self.arm();
    }

    fn take_datagrams(&mut self, directory: &dyn Directory, now: Instant) {
        // One byte more, to know what is too long.
        let mut buffer = [0; LONGEST_QUERY + 1];
        for _ in 0..AT_ONCE {
            let (length, from) = match self.udp.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return,
            };
            if let Some(answer) = self.answer(&buffer[..length], Asker::Udp(from), directory, now) {
                self.reply(Asker::Udp(from), &answer, now);
            }
        }
    }

    /// The answer to a query, if it can be given now.
    fn answer(&mut self, bytes: &[u8], asker: Asker, directory: &dyn Directory, now: Instant) -> Option<Vec<u8>> {
        let query = match Query::parse(bytes) {
            Ok(query) => query,
            Err(Malformed::Answer(answer)) => return Some(answer),
            Err(Malformed::Drop) => return None,
        };
        let transport = asker.transport();
        if let Some(answer) = members::answer(&query, transport, &self.options, directory) {
            return Some(answer);
        }
        let own = |rcode| Answer::new(&query, rcode, transport, true).finish();
        if !self.options.forward {
            // The members are all there is. musl waits for its whole time after any other failure.
            return Some(own(Rcode::NxDomain));
        }
        if [AXFR, IXFR].contains(&query.kind) {
            // Its answer is many messages.
            return Some(own(Rcode::Refused));
        }
        self.pass_on(query, asker, now)
    }

    fn pass_on(&mut self, query: Query, asker: Asker, now: Instant) -> Option<Vec<u8>> {
        if self.exchanges.values().any(|exchange| exchange.is(&query, asker)) {
            return None;
        }
        if self.exchanges.len() >= MOST_EXCHANGES {
            return Some(failed(&query, asker.transport()));
        }
        let (servers, own) = (self.servers.now(), self.own);
        let servers = servers.iter().copied().filter(|server| Some(*server) != own);
        let mut exchange = Exchange::new(query, asker, servers, now);
        let watch = Watch { epoll: self.epoll.as_fd(), token: self.next };
        if let Some(answer) = exchange.next(watch, now) {
            return Some(answer);
        }
        if let Asker::Tcp(client) = asker
            && let Some(client) = self.clients.get_mut(&client)
        {
            client.waits_for = Some(self.next);
        }
        self.exchanges.insert(self.next, exchange);
        self.next += 1;
        None
    }

    /// Takes an exchange a step further, and hands out its answer if it has come to one.
    fn go_on(
        &mut self,
        number: u64,
        now: Instant,
        step: impl FnOnce(&mut Exchange, Watch<'_>, Instant) -> Option<Vec<u8>>,
    ) {
        let watch = Watch { epoll: self.epoll.as_fd(), token: number };
        let Some(exchange) = self.exchanges.get_mut(&number) else { return };
        if let Some(answer) = step(exchange, watch, now) {
            let asker = exchange.asker;
            self.exchanges.remove(&number);
            self.reply(asker, &answer, now);
        }
    }

    fn reply(&mut self, asker: Asker, answer: &[u8], now: Instant) {
        match asker {
            // A full queue is a lost datagram: the client asks again.
            Asker::Udp(address) => _ = sockets::send(&self.udp, answer, address),
            Asker::Tcp(number) => {
                if let Some(client) = self.clients.get_mut(&number) {
                    client.waits_for = None;
                    client.deadline = now + PATIENCE;
                    client.stream.send(answer);
                    let next = match client.stream.flush() {
                        Ok(true) => Next::Query,
                        Ok(false) => Next::Room,
                        Err(_) => Next::Nothing,
                    };
                    self.keep(number, next);
                }
            }
        }
    }

    fn accept(&mut self, now: Instant) {
        while self.clients.len() < MOST_CLIENTS {
            let error = match self.tcp.accept() {
                Ok((socket, _)) => {
                    self.take(socket, now);
                    continue;
                }
                Err(error) => error.raw_os_error(),
            };
            match error {
                Some(libc::EINTR | libc::ECONNABORTED) => continue,
                Some(libc::EAGAIN) => {}
                // The container's root has destroyed it (`ss -K`): it would be ready for ever.
                Some(libc::EINVAL) => _ = epoll::delete(&self.epoll, &self.tcp),
                // No descriptor or memory is left: the client that cannot be taken would make it ready all the time.
                _ => self.rests_until = Some(now + REST),
            }
            return;
        }
    }

    fn take(&mut self, socket: TcpStream, now: Instant) {
        let token = epoll::EventData::new_u64(self.next);
        let watched = epoll::add(&self.epoll, &socket, token, epoll::EventFlags::IN);
        if socket.set_nonblocking(true).is_ok() && watched.is_ok() {
            let stream = Stream::new(socket, LONGEST_QUERY);
            self.clients.insert(self.next, Client { stream, deadline: now + PATIENCE, waits_for: None });
            self.next += 1;
        }
    }

    /// Reads one query at most: the next one stays with the kernel until this one's answer was taken.
    fn serve_client(&mut self, number: u64, directory: &dyn Directory, now: Instant) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        if client.waits_for.is_some() {
            // Only its end is heard of now.
            return self.let_go(number);
        }
        let received = match client.stream.flush() {
            Ok(true) => client.stream.receive(),
            Ok(false) => return,
            Err(error) => Err(error),
        };
        let Ok(received) = received else { return self.let_go(number) };
        let asker = Asker::Tcp(number);
        match received.and_then(|query| self.answer(&query, asker, directory, now)) {
            Some(answer) => self.reply(asker, &answer, now),
            None if self.clients.get(&number).is_some_and(|client| client.waits_for.is_some()) => {
                self.keep(number, Next::Answer);
            }
            None => self.keep(number, Next::Query),
        }
    }

    /// Watches a client for what is next.
    fn keep(&mut self, number: u64, next: Next) {
        let Some(client) = self.clients.get_mut(&number) else { return };
        let events = match next {
            Next::Query => epoll::EventFlags::IN,
            // Its end alone, which is told in any case.
            Next::Answer => epoll::EventFlags::empty(),
            Next::Room => epoll::EventFlags::OUT,
            Next::Nothing => return self.let_go(number),
        };
        if epoll::modify(&self.epoll, client.stream.as_fd(), epoll::EventData::new_u64(number), events).is_err() {
            self.let_go(number);
        }
    }

    fn let_go(&mut self, number: u64) {
        if let Some(exchange) = self.clients.remove(&number).and_then(|client| client.waits_for) {
            self.exchanges.remove(&exchange);
        }
    }

    fn give_up_late_ones(&mut self, now: Instant) {
        self.clients.retain(|_, client| client.waits_for.is_some() || client.deadline > now);
        let late = self.exchanges.iter().filter(|(_, exchange)| exchange.deadline <= now);
        for number in late.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.go_on(number, now, Exchange::next);
        }
    }

    /// A listener whose clients cannot be taken is not listened to: it would be ready all the time.
    fn listen_for_clients(&mut self, now: Instant) {
        self.rests_until = self.rests_until.filter(|until| *until > now);
        let room = self.clients.len() < MOST_CLIENTS && self.rests_until.is_none();
        if room != self.accepting {
            let events = if room { epoll::EventFlags::IN } else { epoll::EventFlags::empty() };
            let changed = epoll::modify(&self.epoll, &self.tcp, epoll::EventData::new_u64(TCP), events);
            self.accepting = if changed.is_ok() { room } else { self.accepting };
        }
    }

    fn arm(&mut self) {
        let clients = self.clients.values().filter(|client| client.waits_for.is_none()).map(|client| client.deadline);
        let exchanges = self.exchanges.values().map(|exchange| exchange.deadline);
        let first = clients.chain(exchanges).chain(self.rests_until).min();
        if first == self.armed {
            return;
        }
        // Zero turns it off, so what is late already gets the least that is not.
        let left = first.map(|first| first.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1)));
        let left = left.and_then(|left| left.try_into().ok()).unwrap_or_default();
        let spec = Itimerspec { it_interval: Timespec::default(), it_value: left };
        if timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec).is_ok() {
            self.armed = first;
        }
    }
}

/// Whether a socket is in the network of this process: then what it is bound to can be reached from here. A kernel that
/// does not tell (before Linux 5.14) is taken to say yes.
fn is_of_this_network(socket: &UdpSocket) -> bool {
    let here = UdpSocket::bind("127.0.0.1:0").and_then(|own| crate::sys::netns_cookie(&own));
    match (here, crate::sys::netns_cookie(socket)) {
        (Ok(here), Ok(there)) => here == there,
        _ => true,
    }
}
