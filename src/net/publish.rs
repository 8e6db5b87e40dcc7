//! Published ports: what `-p` means, and the elements of the table that make it so.
//!
//! A host port is taken by a socket that is bound to it and hears nothing: while a container has it no other program
//! gets it, and the kernel gives it back however minirun ends. Packets do not reach that socket, because the table leads them
//! to the container before the host looks for one.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use nix::libc::{self, sock_filter};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, ipproto, listen, socket_with, sockopt};

use super::Interface;
use super::claim::Ports;
use super::owner;
pub use super::port::{Port, Protocol};
use super::wish::{Range, Wish};
use crate::error::refused;

/// So many ports of a container are held by sockets; what is beyond that is held by locks (`claim.rs`).
const MOST_HELD: usize = 256;
/// So many ports of one wish are relayed at most.
const MOST_RELAYED: u16 = 64;

/// Ports that are taken for a container, for as long as this value lives.
#[derive(Debug, Default)]
pub struct Taken {
    /// Which.
    pub ports: Vec<Port>,
    /// What holds them.
    pub held: Vec<Held>,
    /// What is to be relayed.
    pub relayed: Vec<Relayed>,
}

/// What holds a port of the host: a socket, or the file of a lock.
#[derive(Debug)]
pub struct Held {
    /// What it holds a part of.
    pub port: Port,
    _by: OwnedFd,
}

/// Where ports are taken.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The state directory, which tells who has a port.
    pub state: &'a Path,
    /// The hub's directory.
    pub hub: &'a Path,
    /// Nothing is taken.
    pub dry: bool,
}

/// A socket at which minirun itself takes what comes to a port of the host.
#[derive(Debug)]
pub struct Relayed {
    /// What it is a part of.
    pub port: Port,
    /// Bound, and no more.
    pub socket: OwnedFd,
    /// Where what comes goes to.
    pub target: SocketAddr,
}

/// Takes what is wanted, to be led to `interface`; in a dry place it is only looked at.
///
/// Errors: a port is in use, by whom; an address that is not the host's; IPv6 on a network that has none.
pub fn take(wishes: &[Wish], interface: &Interface, place: Place<'_>) -> Result<Taken> {
    let mut taken = Taken::default();
    for wish in wishes {
        for (host, port, count) in parts(wish) {
            let part = Part { wish, host, port, count };
            let before = taken.ports.len();
            let Bound { sockets, claims, .. } = taken.take(&part, interface, place)?;
            if !place.dry {
                sockets.into_iter().try_for_each(|(at, socket)| taken.keep(before, at, socket))?;
                claims.into_iter().for_each(|(address, file)| taken.keep_claim(before, address, file));
            }
        }
    }
    Ok(taken)
}

/// A part of a wish.
struct Part<'a> {
    wish: &'a Wish,
    host: Option<Range>,
    port: u16,
    count: u16,
}

/// A part of a wish that is taken.
#[derive(Debug, Default)]
struct Bound {
    /// The first port.
    first: u16,
    /// What holds the ports, and where it is bound.
    sockets: Vec<(SocketAddr, OwnedFd)>,
    /// What holds those of an address that sockets do not.
    claims: Vec<(IpAddr, File)>,
}

/// The parts of a wish: host ports (or any), the first port of the container, and how many.
pub fn parts(wish: &Wish) -> Vec<(Option<Range>, u16, u16)> {
    let count = wish.port.1 - wish.port.0 + 1;
    match wish.host {
        Some(host) if host.1 - host.0 + 1 == count => vec![(Some((host.0, host.0)), wish.port.0, count)],
        // One of many.
        Some(host) => vec![(Some(host), wish.port.0, 1)],
        // Each its own.
        None => (wish.port.0..=wish.port.1).map(|port| (None, port, 1)).collect(),
    }
}

impl Taken {
    /// Keeps a socket that is bound at an address, for one of the ports from number `from` on.
    fn keep(&mut self, from: usize, at: SocketAddr, socket: OwnedFd) -> Result<()> {
        let Some(port) = self.ports[from..].iter().find(|port| port.address == at.ip()).cloned() else { return Ok(()) };
        if port.has_relay() {
            let target = SocketAddr::new(port.target, port.port + (at.port() - port.host));
            self.relayed.push(Relayed { port, socket, target });
        } else if self.held.len() < MOST_HELD {
            deafen(&socket, port.protocol).with_context(|| format!("publish {port}"))?;
            self.held.push(Held { port, _by: socket });
        }
        Ok(())
    }

    fn keep_claim(&mut self, from: usize, address: IpAddr, file: File) {
        let port = self.ports[from..].iter().find(|port| port.address == address).cloned();
        self.held.extend(port.map(|port| Held { port, _by: file.into() }));
    }

    /// Takes a part of a wish.
    fn take(&mut self, part: &Part<'_>, interface: &Interface, place: Place<'_>) -> Result<Bound> {
        let Part { wish, host, port, count } = *part;
        let addresses = addresses(wish, count, interface)?;
        let candidates: Vec<u16> = match host {
            None => vec![0; 32],
            Some((first, last)) => (first..=last).collect(),
        };
        let mut failed = None;
        for candidate in candidates {
            match self.try_at(&addresses, candidate, part, place) {
                Ok(bound) => {
                    for address in &addresses {
                        let (target, address) = (target(*address, interface), *address);
                        let port = Port { address, host: bound.first, target, port, count, protocol: wish.protocol };
                        self.ports.push(port);
                    }
                    return Ok(bound);
                }
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| anyhow!("publish port `{port}`: no port of the host is free")))
    }

    /// Takes the ports from `first` on at each of the addresses; 0 is any that is free at all of them.
    fn try_at(&self, addresses: &[IpAddr], first: u16, part: &Part<'_>, place: Place<'_>) -> Result<Bound> {
        let (count, protocol) = (part.count, part.wish.protocol);
        let held_by_sockets =
            protocol != Protocol::Sctp && self.held.len() + usize::from(count) * addresses.len() <= MOST_HELD;
        let mut bound = Bound { first, ..Bound::default() };
        if first != 0 {
            self.asked_twice(addresses, first, part)?;
        }
        // Before it is looked who has bound them: see `claim.rs`.
        if first != 0 && !held_by_sockets {
            bound.claims = claims(addresses, first, part, place)?;
        }
        for offset in 0..count {
            for address in addresses {
                let wanted = if bound.first == 0 { 0 } else { bound.first + offset };
                let address = SocketAddr::new(*address, wanted);
                let Some((socket, port)) = hold(address, protocol, place.state)? else { continue };
                if bound.first == 0 {
                    bound.first = port;
                }
                if bound.sockets.len() < MOST_HELD {
                    bound.sockets.push((SocketAddr::new(address.ip(), port), socket));
                }
            }
        }
        if bound.first == 0 {
            bail!("publish a port of {protocol}: this kernel cannot choose one: give one, as -p 8080:80/{protocol}");
        }
        if held_by_sockets {
            unclaimed(addresses, bound.first, part, place)?;
        } else if first == 0 {
            bound.claims = claims(addresses, bound.first, part, place)?;
        }
        Ok(bound)
    }
}

impl Taken {
    /// Refuses ports that another wish of the same container has.
    fn asked_twice(&self, addresses: &[IpAddr], first: u16, part: &Part<'_>) -> Result<()> {
        let protocol = part.wish.protocol;
        for offset in 0..part.count {
            let port = first.checked_add(offset).context("publish ports: above 65535")?;
            for address in addresses.iter().map(|address| SocketAddr::new(*address, port)) {
                if let Some(other) = self.ports.iter().find(|other| clashes(other, address, protocol)) {
                    bail!("publish port `{address}/{protocol}`: asked for twice, by {other} as well");
                }
            }
        }
        Ok(())
    }
}

/// Claims the ports of a part from `first` on, where they are not only looked at.
fn claims(addresses: &[IpAddr], first: u16, part: &Part<'_>, place: Place<'_>) -> Result<Vec<(IpAddr, File)>> {
    if place.dry {
        return unclaimed(addresses, first, part, place).map(|()| vec![]);
    }
    let mut all = Vec::new();
    for address in addresses {
        match part.at(*address, first).claim(place.hub)? {
            Ok(file) => all.push((*address, file)),
            Err(port) => return Err(in_use(SocketAddr::new(*address, port), part.wish.protocol, place.state)),
        }
    }
    Ok(all)
}

/// Refuses ports that another container has claimed.
fn unclaimed(addresses: &[IpAddr], first: u16, part: &Part<'_>, place: Place<'_>) -> Result<()> {
    for address in addresses {
        if let Some(port) = part.at(*address, first).claimed(place.hub)? {
            return Err(in_use(SocketAddr::new(*address, port), part.wish.protocol, place.state));
        }
    }
    Ok(())
}

impl Part<'_> {
    fn at(&self, address: IpAddr, first: u16) -> Ports {
        Ports { address, protocol: self.wish.protocol, first, count: self.count }
    }
}

fn clashes(port: &Port, address: SocketAddr, protocol: Protocol) -> bool {
    let same = port.address == address.ip()
        || (port.address.is_ipv4() == address.is_ipv4()
            && (port.address.is_unspecified() || address.ip().is_unspecified()));
    let last = port.host + (port.count - 1);
    same && port.protocol == protocol && (port.host..=last).contains(&address.port())
}

/// The addresses of the host at which `count` ports of a wish are published.
fn addresses(wish: &Wish, count: u16, interface: &Interface) -> Result<Vec<IpAddr>> {
    let relayed = |address: IpAddr| address == Ipv6Addr::LOCALHOST || address.is_ipv6() && interface.address6.is_none();
    let can = wish.protocol != Protocol::Sctp && count <= MOST_RELAYED;
    Ok(match wish.address {
        Some(address) if relayed(address) && !can => {
            return Err(refused(
                format!(
                    "publish {count} ports of {} at [{address}]: minirun itself passes on what comes there, of TCP and UDP and \
                     {MOST_RELAYED} ports at most",
                    wish.protocol
                ),
                "publish them at an IPv4 address",
            ));
        }
        Some(address) => vec![address],
        None if can && has_ipv6() => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
        None => vec![Ipv4Addr::LOCALHOST.into()],
    })
}

/// Whether the host's loopback device has IPv6.
fn has_ipv6() -> bool {
    let socket = socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    socket.is_ok_and(|socket| bind(&socket, &SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0)).is_ok())
}

/// Where what comes to an address of the host goes to.
fn target(address: IpAddr, interface: &Interface) -> IpAddr {
    match (address, interface.address6) {
        (IpAddr::V6(_), Some(own)) => own.addr().into(),
        _ => interface.address.addr().into(),
    }
}

/// A socket that holds a port; which, where it was any. `None` where the kernel has no sockets of this protocol.
fn hold(address: SocketAddr, protocol: Protocol, state: &Path) -> Result<Option<(OwnedFd, u16)>> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
        Protocol::Sctp => (SocketType::STREAM, ipproto::SCTP),
    };
    let failed = || format!("publish port `{address}/{protocol}`");
    let open = || socket_with(family, kind, SocketFlags::CLOEXEC, Some(number));
    let socket = match open() {
        Err(rustix::io::Errno::PROTONOSUPPORT | rustix::io::Errno::SOCKTNOSUPPORT) if protocol == Protocol::Sctp => {
            return Ok(None);
        }
        socket => socket.with_context(failed)?,
    };
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true).with_context(failed)?;
    }
    let bound = match bind(&socket, &address) {
        // Connections that are over hold it still, for a minute; a server that listens would be in the way of this too.
        Err(rustix::io::Errno::ADDRINUSE) if protocol == Protocol::Tcp => {
            sockopt::set_socket_reuseaddr(&socket, true).with_context(failed)?;
            bind(&socket, &address).and_then(|()| sockopt::set_socket_reuseaddr(&socket, false))
        }
        bound => bound,
    };
    match bound {
        Ok(()) => {}
        Err(rustix::io::Errno::ADDRINUSE) => {
            return Err(in_use(address, protocol, state));
        }
        Err(rustix::io::Errno::ADDRNOTAVAIL) => {
            return Err(refused(
                format!("{}: {} is no address of this host", failed(), address.ip()),
                "`ip addr` lists those that are",
            ));
        }
        Err(error) => return Err(error).with_context(failed),
    }
    let local = getsockname(&socket).with_context(failed)?;
    let local: SocketAddr = local.try_into().with_context(failed)?;
    Ok(Some((socket, local.port())))
}

/// What reaches a socket that only holds a port is dropped, and its sender asks again: nothing does but in the moment in which
/// somebody has flushed the rules, and without this the host would answer that nobody is there.
fn deafen(socket: &OwnedFd, protocol: Protocol) -> Result<()> {
    const NOTHING: sock_filter = sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
    crate::sys::attach_filter(socket, &[NOTHING])?;
    if protocol == Protocol::Tcp {
        listen(socket, 1)?;
    }
    Ok(())
}

/// The error of a port that somebody has.
pub fn in_use(address: SocketAddr, protocol: Protocol, state: &Path) -> anyhow::Error {
    let whose = owner::of(address, protocol, state);
    let whose = whose.map_or_else(|| "in use".to_owned(), |owner| format!("in use by {owner}"));
    refused(format!("publish port `{address}/{protocol}`: {whose}"), "choose another host port")
}
