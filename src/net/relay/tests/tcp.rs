//! Connections: all bytes in their order, both ends, and what goes wrong.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use proptest::prelude::*;
use rustix::net::sockopt;

use super::*;

/// The same for a server of TCP that is in this process.
pub(super) fn tcp() -> (Relay, SocketAddr, TcpListener) {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (relay, address) = relay(LIMITS, Protocol::Tcp, server.local_addr().unwrap());
    (relay, address, server)
}

fn read_all(mut from: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut all = Vec::new();
    from.read_to_end(&mut all).map(|_| all)
}

/// Sends back what comes until the end of it.
fn echo(server: &TcpListener) {
    let (mut socket, _) = server.accept().unwrap();
    std::io::copy(&mut socket.try_clone().unwrap(), &mut socket).unwrap();
}

#[test]
fn a_slow_reader_gets_all() {
    let (mut relay, address, server) = tcp();
    let sent = bytes(1 << 20, 1);
    let got = while_served(&mut relay, || {
        let client = TcpStream::connect(address).unwrap();
        sockopt::set_socket_recv_buffer_size(&client, 100_000).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| echo(&server));
            scope.spawn(|| {
                (&client).write_all(&sent).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
            });
            let (mut got, mut part) = (Vec::<u8>::new(), [0; 1000]);
            while let size @ 1.. = (&client).read(&mut part).unwrap() {
                got.extend(&part[..size]);
                thread::yield_now();
            }
            got
        })
    });
    assert!(got == sent);
    serve_until(&mut relay, |relay| relay.tcp.len() == 0);
}

#[test]
fn who_sends_waits_for_who_reads() {
    let (mut relay, address, server) = tcp();
    let client = TcpStream::connect(address).unwrap();
    serve_until(&mut relay, |relay| relay.tcp.len() == 1);
    let (mut socket, _) = server.accept().unwrap();
    serve_until(&mut relay, is_quiet);
    socket.set_nonblocking(true).unwrap();
    let mut sent = 0;
    // Until the server cannot send and the relay cannot pass on: the client reads nothing.
    loop {
        match socket.write(&[7; 65536]) {
            Ok(size) => sent += size,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                if is_quiet(&relay) {
                    break;
                }
            }
        }
        relay.serve();
    }
    assert!(is_quiet(&relay), "it does not spin");
    // Even when there is nothing more to come, and the other way is over too: the kernel says so again and again.
    drop(socket);
    client.shutdown(Shutdown::Write).unwrap();
    serve_until(&mut relay, is_quiet);
    assert_eq!(relay.tcp.len(), 1);
    let got = while_served(&mut relay, || read_all(&client).unwrap());
    assert_eq!(got.len(), sent);
    serve_until(&mut relay, |relay| relay.tcp.len() == 0);
}

#[test]
fn what_a_server_sent_before_it_went_arrives() {
    for writes in [false, true] {
        let (mut relay, address, server) = tcp();
        let mut client = TcpStream::connect(address).unwrap();
        // So small, for now, that the kernel has no room for more when it looks again.
        sockopt::set_socket_recv_buffer_size(&client, 4096).unwrap();
        serve_until(&mut relay, |relay| relay.tcp.len() == 1);
        let (mut socket, _) = server.accept().unwrap();
        for [client, target] in relay.tcp.sockets() {
            sockopt::set_socket_send_buffer_size(client, 8192).unwrap();
            sockopt::set_socket_recv_buffer_size(target, 200_000).unwrap();
        }
        let mut sent = 0;
        let waiting = |relay: &Relay| -> u64 {
            relay.tcp.sockets().map(|[_, target]| rustix::io::ioctl_fionread(target).unwrap()).sum()
        };
        while waiting(&relay) < 100_000 {
            socket.write_all(&[7; 20_000]).unwrap();
            sent += 20_000;
            serve_until(&mut relay, is_quiet);
        }
        drop(socket);
        if writes {
            // The first one is answered by a reset, the second one meets it.
            for _ in 0..2 {
                client.write_all(b"more").unwrap();
                serve_until(&mut relay, is_quiet);
            }
        } else {
            client.shutdown(Shutdown::Write).unwrap();
            serve_until(&mut relay, is_quiet);
        }
        assert_eq!(relay.tcp.len(), 1);
        sockopt::set_socket_recv_buffer_size(&client, 200_000).unwrap();
        for [client, _] in relay.tcp.sockets() {
            sockopt::set_socket_send_buffer_size(client, 200_000).unwrap();
        }
        let got = while_served(&mut relay, || read_all(&client).unwrap());
        assert_eq!(got.len(), sent);
        drop(client);
        serve_until(&mut relay, |relay| relay.tcp.len() == 0);
    }
}

#[test]
fn a_client_that_is_reset_after_its_end_is_gone() {
    let (mut relay, address, server) = tcp();
    let client = TcpStream::connect(address).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let socket = while_served(&mut relay, || {
        let (socket, _) = server.accept().unwrap();
        assert_eq!(read_all(&socket).unwrap(), b"");
        socket
    });
    sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    drop(client);
    // The server says nothing, so no write finds out.
    serve_until(&mut relay, |relay| relay.tcp.len() == 0);
    drop(socket);
}

#[test]
fn each_side_ends_what_it_sends() {
    for client_first in [true, false] {
        let (mut relay, address, server) = tcp();
        while_served(&mut relay, || {
            let client = TcpStream::connect(address).unwrap();
            let (socket, _) = server.accept().unwrap();
            let (mut first, mut second) = if client_first { (&client, &socket) } else { (&socket, &client) };
            first.write_all(b"question").unwrap();
            first.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(second).unwrap(), b"question");
            second.write_all(b"answer").unwrap();
            second.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(first).unwrap(), b"answer");
        });
        serve_until(&mut relay, |relay| relay.tcp.len() == 0);
    }
}

#[test]
fn a_target_that_refuses_is_a_reset() {
    // A port that is taken, at which nobody listens.
    let server = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&server, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    let target = getsockname(&server).unwrap().try_into().unwrap();
    let (mut relay, address) = relay(LIMITS, Protocol::Tcp, target);
    let error = while_served(&mut relay, || read_all(&TcpStream::connect(address).unwrap()).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(relay.tcp.len(), 0);
}

#[test]
fn a_reset_is_passed_on_after_what_came_before_it() {
    for from_client in [true, false] {
        let (mut relay, address, server) = tcp();
        while_served(&mut relay, || {
            let client = TcpStream::connect(address).unwrap();
            let (socket, _) = server.accept().unwrap();
            let (mut from, mut to) = if from_client { (client, socket) } else { (socket, client) };
            from.write_all(b"all there is").unwrap();
            let mut got = [0; 12];
            to.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"all there is");
            sockopt::set_socket_linger(&from, Some(Duration::ZERO)).unwrap();
            drop(from);
            assert_eq!(to.read(&mut got).unwrap_err().kind(), ErrorKind::ConnectionReset);
        });
        serve_until(&mut relay, |relay| relay.tcp.len() == 0);
    }
}

#[test]
fn an_answer_before_the_end_of_the_question_arrives() {
    let (mut relay, address, server) = tcp();
    let answer = bytes(100_000, 3);
    while_served(&mut relay, || {
        let mut client = TcpStream::connect(address).unwrap();
        let (mut socket, _) = server.accept().unwrap();
        socket.write_all(&answer).unwrap();
        socket.shutdown(Shutdown::Write).unwrap();
        // What the client sends from now on, the target answers with a reset.
        drop(socket);
        let mut first = [0];
        client.read_exact(&mut first).unwrap();
        client.write_all(b"more").unwrap();
        let rest = read_all(&client).unwrap();
        assert!([&first[..], &rest].concat() == answer);
    });
    serve_until(&mut relay, |relay| relay.tcp.len() == 0);
}

#[test]
fn a_reset_that_a_write_meets_first_is_no_end_of_file() {
    let (mut relay, address, server) = tcp();
    let mut client = TcpStream::connect(address).unwrap();
    serve_until(&mut relay, |relay| relay.tcp.len() == 1);
    let (socket, _) = server.accept().unwrap();
    serve_until(&mut relay, is_quiet);
    // Both wait for the same call, which writes before it reads: the write takes the error.
    client.write_all(b"x").unwrap();
    sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
    drop(socket);
    let error = while_served(&mut relay, || read_all(&client).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn while_the_target_does_not_answer_a_client_may_go_or_write() {
    let server = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&server, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    // One has room in the backlog, the kernel does not answer others.
    rustix::net::listen(&server, 0).unwrap();
    let target: SocketAddr = getsockname(&server).unwrap().try_into().unwrap();
    let first = TcpStream::connect(target).unwrap();
    let (mut relay, address) = relay(LIMITS, Protocol::Tcp, target);
    let clients = [(); 2].map(|()| TcpStream::connect(address).unwrap());
    serve_until(&mut relay, |relay| relay.tcp.len() == 2);
    let [gone, mut stays] = clients;
    stays.write_all(b"early").unwrap();
    stays.shutdown(Shutdown::Write).unwrap();
    sockopt::set_socket_linger(&gone, Some(Duration::ZERO)).unwrap();
    drop(gone);
    serve_until(&mut relay, |relay| relay.tcp.len() == 1);
    assert!(is_quiet(&relay));
    // Room for the other one: the kernel asks for it again within a second.
    let server = TcpListener::from(server);
    drop((server.accept().unwrap(), first));
    let got = while_served(&mut relay, || read_all(&server.accept().unwrap().0).unwrap());
    assert_eq!(got, b"early");
    serve_until(&mut relay, |relay| relay.tcp.len() == 0);
}

#[test]
fn a_client_that_goes_at_once_leaves_nothing() {
    let (mut relay, address, server) = tcp();
    for linger in [None, Some(Duration::ZERO)] {
        let client = TcpStream::connect(address).unwrap();
        sockopt::set_socket_linger(&client, linger).unwrap();
        drop(client);
        serve_until(&mut relay, is_quiet);
        // The kernel may have dropped one that was reset before it was accepted.
        server.set_nonblocking(true).unwrap();
        drop(server.accept());
        serve_until(&mut relay, |relay| relay.tcp.len() == 0);
        assert!(is_quiet(&relay));
    }
}

#[test]
fn a_port_of_connections_that_are_over_is_listened_at_again() {
    let (mut relay, address, server) = tcp();
    while_served(&mut relay, || {
        let client = TcpStream::connect(address).unwrap();
        // The server ends first, so what stays for a minute stays at the port of the host.
        drop(server.accept().unwrap());
        assert_eq!(read_all(&client).unwrap(), b"");
    });
    serve_until(&mut relay, |relay| relay.tcp.len() == 0);
    drop(relay);
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    // As ports are held: see `publish::take`.
    let again = socket(family, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_reuseaddr(&again, true).unwrap();
    bind(&again, &address).unwrap();
    sockopt::set_socket_reuseaddr(&again, false).unwrap();
    Relay::new().unwrap().add(again, Protocol::Tcp, server.local_addr().unwrap()).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Both ways at once, in pieces of any size, with readers that take any number at once.
    #[test]
    fn nothing_is_lost_or_out_of_order(
        up in prop::collection::vec(1usize..100_000, 0..12),
        down in prop::collection::vec(1usize..100_000, 0..12),
        steps in prop::collection::vec(1usize..70_000, 1..8),
        room in 100_000usize..400_000,
    ) {
        let (mut relay, address, server) = tcp();
        let (sent_up, sent_down) = (bytes(up.iter().sum(), 11), bytes(down.iter().sum(), 12));
        let send = |mut to: &TcpStream, mut all: &[u8], pieces: &[usize]| {
            for size in pieces {
                let (piece, rest) = all.split_at(*size);
                to.write_all(piece).unwrap();
                all = rest;
            }
            to.shutdown(Shutdown::Write).unwrap();
        };
        let take = |mut from: &TcpStream| {
            let (mut all, mut buffer) = (Vec::<u8>::new(), vec![0; 70_000]);
            for step in steps.iter().cycle() {
                match from.read(&mut buffer[..*step]).unwrap() {
                    0 => break,
                    size => all.extend(&buffer[..size]),
                }
            }
            all
        };
        let (got_up, got_down) = while_served(&mut relay, || {
            let client = TcpStream::connect(address).unwrap();
            sockopt::set_socket_recv_buffer_size(&client, room).unwrap();
            let (socket, _) = server.accept().unwrap();
            thread::scope(|scope| {
                scope.spawn(|| send(&client, &sent_up, &up));
                scope.spawn(|| send(&socket, &sent_down, &down));
                let taken = scope.spawn(|| take(&socket));
                let got_down = take(&client);
                (taken.join().unwrap(), got_down)
            })
        });
        prop_assert!(got_up == sent_up && got_down == sent_down);
        serve_until(&mut relay, |relay| relay.tcp.len() == 0);
    }
}
