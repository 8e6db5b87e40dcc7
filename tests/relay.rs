//! The relay of published ports at addresses that other machines see. What it does with bytes is tested beside it.

mod host;

use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use host::{HOST6, host_test};
use minirun::net::publish::Protocol;
use minirun::net::relay::Relay;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};

/// A second address of the host.
const SECOND: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 3);
/// And one that is of this link only.
const LINK: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
const PORT: u16 = 4000;

/// A relay at all addresses of the host, of IPv6 alone as published ports are.
fn at_all(protocol: Protocol, target: SocketAddr) -> Relay {
    let kind = if protocol == Protocol::Tcp { SocketType::STREAM } else { SocketType::DGRAM };
    let socket = socket(AddressFamily::INET6, kind, None).expect("socket");
    sockopt::set_ipv6_v6only(&socket, true).expect("IPv6 alone");
    bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT))).expect("bind");
    let mut relay = Relay::new().expect("relay");
    relay.add(socket, protocol, target).expect("add");
    relay
}

/// Serves a relay while `play` runs in a thread.
fn while_served(relay: &mut Relay, play: impl FnOnce() + Send) {
    let (done, until) = UnixStream::pair().expect("a pair");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _done = done;
            play();
        });
        loop {
            let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
            let mut fds = [readable(relay.fd()), readable(until.as_fd())];
            let patience = relay.timeout().map_or(PollTimeout::NONE, |timeout| timeout.try_into().expect("a timeout"));
            poll(&mut fds, patience).expect("poll");
            let done = fds[1].any().expect("events");
            relay.serve();
            if done {
                return;
            }
        }
    });
}

host_test!(cold each_address_of_the_host_answers_as_itself, |host| {
    for address in [SECOND, LINK] {
        host.sh(&format!("ip address add {address}/64 dev eth0 nodad")).ok();
    }
    host.lan("ip address add fe80::1/64 dev host0 nodad").ok();
    let words = host.lan("ip -o link show dev host0").ok();
    let index: u32 = words.split(':').next().and_then(|index| index.parse().ok()).expect("an index");
    let addresses = [HOST6, SECOND, LINK].map(|address| {
        let scope = if address == LINK { index } else { 0 };
        SocketAddr::from(SocketAddrV6::new(address, PORT, 0, scope))
    });

    let server = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let mut relay = at_all(Protocol::Udp, server.local_addr().expect("address"));
    // One client for all of them, as a resolver has: it tells the answers apart by where they come from.
    let client = host.in_lan(|| UdpSocket::bind("[::]:0").expect("bind"));
    while_served(&mut relay, || {
        let mut buffer = [0; 100];
        for address in addresses {
            client.send_to(address.to_string().as_bytes(), address).expect("ask");
            let (size, from) = server.recv_from(&mut buffer).expect("a question");
            server.send_to(&buffer[..size], from).expect("answer");
            let (size, from) = client.recv_from(&mut buffer).expect("an answer");
            assert_eq!((&buffer[..size], from), (address.to_string().as_bytes(), address));
        }
    });

    let server = TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut relay = at_all(Protocol::Tcp, server.local_addr().expect("address"));
    for address in addresses {
        let connect = move || TcpStream::connect(address).expect("connect");
        let mut client = host.in_lan(connect);
        while_served(&mut relay, || {
            client.write_all(b"question").expect("ask");
            client.shutdown(Shutdown::Write).expect("end");
            let (mut socket, _) = server.accept().expect("a client");
            std::io::copy(&mut socket.try_clone().expect("a copy"), &mut socket).expect("answer");
            drop(socket);
            let mut answer = String::new();
            client.read_to_string(&mut answer).expect("an answer");
            assert_eq!(answer, "question");
        });
    }
});
