//! Real sockets on the loopback device: a thread is client and server, and the test serves the relay meanwhile.

mod limits;
mod tcp;
mod udp;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket};

use super::*;

/// Where clients come: `::1`, as in use, if the machine has it.
fn front() -> IpAddr {
    match UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(_) => Ipv6Addr::LOCALHOST.into(),
        Err(error) => {
            assert!(std::env::var_os("MINIRUN_MUST_WORK").is_none(), "no IPv6: {error}");
            Ipv4Addr::LOCALHOST.into()
        }
    }
}

/// A socket that holds a port of the host, as those of published ports do; it listens to nobody.
fn held(protocol: Protocol) -> (OwnedFd, SocketAddr) {
    let family = if front().is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = if protocol == Protocol::Tcp { SocketType::STREAM } else { SocketType::DGRAM };
    let socket = socket(family, kind, None).unwrap();
    bind(&socket, &SocketAddr::new(front(), 0)).unwrap();
    let address = getsockname(&socket).unwrap().try_into().unwrap();
    (socket, address)
}

/// A relay to `target`, and where clients find it.
fn relay(limits: Limits, protocol: Protocol, target: SocketAddr) -> (Relay, SocketAddr) {
    let mut relay = Relay::within(limits).unwrap();
    let (socket, address) = held(protocol);
    relay.add(socket, protocol, target).unwrap();
    (relay, address)
}

/// Waits for the relay's descriptor or its timeout, or for `other`, and serves. Whether `other` has something.
fn turn(relay: &mut Relay, other: Option<&UnixStream>) -> bool {
    let patience = relay.timeout().map_or(PollTimeout::NONE, |timeout| timeout.try_into().unwrap());
    let fds = [Some(relay.fd()), other.map(AsFd::as_fd)].into_iter().flatten();
    let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    poll(&mut fds, patience).unwrap();
    let other = fds.get(1).is_some_and(|fd| fd.any().unwrap());
    relay.serve();
    other
}

/// Serves the relay while `play` runs in a thread: what that gave.
fn while_served<T: Send>(relay: &mut Relay, play: impl FnOnce() -> T + Send) -> T {
    let (done, until) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        let player = scope.spawn(move || {
            let _done = done;
            play()
        });
        while !turn(relay, Some(&until)) {}
        player.join().unwrap()
    })
}

/// Serves the relay until something holds.
fn serve_until(relay: &mut Relay, holds: impl Fn(&Relay) -> bool) {
    while !holds(relay) {
        turn(relay, None);
    }
}

/// Whether there is nothing to serve now: a relay that spins has always something.
fn is_quiet(relay: &Relay) -> bool {
    poll(&mut [PollFd::new(relay.fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap() == 0
}

/// Bytes of which no two parts are the same.
fn bytes(size: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let next = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    next.take(size).collect()
}

#[test]
fn sctp_is_refused_and_numbers_are_read_back() {
    let mut relay = Relay::new().unwrap();
    let error = relay.add(held(Protocol::Tcp).0, Protocol::Sctp, SocketAddr::from(([10, 0, 0, 2], 80))).unwrap_err();
    assert_eq!(error.to_string(), "relay a port to `10.0.0.2:80/sctp`: only TCP and UDP are relayed");
    for token in [Token::Listener(0), Token::End(7, 0), Token::End(7, 1), Token::Port(300), Token::Session(1 << 40)] {
        assert_eq!(Token::of(token.data()), token);
    }
}
