//! Datagrams: each to its own client, for as long as that is there.

use super::*;

/// A client, or a server, of datagrams; it does not wait for ever.
fn datagrams(address: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket
}

fn received(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; LONGEST];
    let (size, from) = socket.recv_from(&mut buffer).unwrap();
    buffer.truncate(size);
    (buffer, from)
}

fn udp(limits: Limits) -> (Relay, SocketAddr, UdpSocket) {
    let server = datagrams(Ipv4Addr::LOCALHOST.into());
    let (relay, address) = relay(limits, Protocol::Udp, server.local_addr().unwrap());
    (relay, address, server)
}

#[test]
fn each_client_gets_its_own_datagrams() {
    let (mut relay, address, server) = udp(LIMITS);
    while_served(&mut relay, || {
        let clients = [datagrams(front()), datagrams(front())];
        for size in [0, 1, 1400, 60_000] {
            for (number, client) in clients.iter().enumerate() {
                client.send_to(&bytes(size, number as u32), address).unwrap();
            }
            for _ in &clients {
                let (question, from) = received(&server);
                server.send_to(&question, from).unwrap();
            }
            for (number, client) in clients.iter().enumerate() {
                assert!(received(client) == (bytes(size, number as u32), address));
            }
        }
    });
    assert_eq!(relay.udp.len(), 2);
    assert!(is_quiet(&relay));
}

#[test]
fn a_server_of_datagrams_may_come_late() {
    let (mut relay, address, server) = udp(LIMITS);
    let target = server.local_addr().unwrap();
    drop(server);
    let client = datagrams(front());
    client.send_to(b"lost", address).unwrap();
    serve_until(&mut relay, |relay| relay.udp.len() == 1);
    serve_until(&mut relay, is_quiet);
    let server = UdpSocket::bind(target).unwrap();
    while_served(&mut relay, || {
        client.send_to(b"found", address).unwrap();
        let (question, from) = received(&server);
        assert_eq!(question, b"found");
        server.send_to(b"answer", from).unwrap();
        assert_eq!(received(&client).0, b"answer");
    });
    // An error that waits does not take the place of a datagram.
    drop(server);
    client.send_to(b"lost", address).unwrap();
    while is_quiet(&relay) {}
    relay.serve();
    let server = UdpSocket::bind(target).unwrap();
    client.send_to(b"again", address).unwrap();
    relay.serve();
    server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(while_served(&mut relay, || received(&server).0), b"again");
}

#[test]
fn a_client_that_is_quiet_is_forgotten() {
    let (mut relay, address, server) = udp(Limits { idle: Duration::from_millis(20), ..LIMITS });
    assert_eq!(relay.timeout(), None);
    let client = datagrams(front());
    client.send_to(b"x", address).unwrap();
    serve_until(&mut relay, |relay| relay.udp.len() == 1);
    assert!(relay.timeout().is_some());
    serve_until(&mut relay, |relay| relay.udp.len() == 0);
    assert_eq!(relay.timeout(), None);
    let first = received(&server).1;
    client.send_to(b"y", address).unwrap();
    serve_until(&mut relay, |relay| relay.udp.len() == 1);
    assert_ne!(received(&server).1, first, "a new session");
}

#[test]
fn the_oldest_client_goes_for_one_more() {
    let (mut relay, address, server) = udp(Limits { sessions: 2, ..LIMITS });
    let clients = [(); 3].map(|()| datagrams(front()));
    let mut sessions = Vec::new();
    for number in [0, 1, 0, 2, 0, 1] {
        let from = while_served(&mut relay, || {
            clients[number].send_to(b"x", address).unwrap();
            received(&server).1
        });
        sessions.push(from);
    }
    assert_eq!(relay.udp.len(), 2);
    assert!(sessions[0] == sessions[2] && sessions[0] == sessions[4], "it was quiet for less long");
    assert_ne!(sessions[1], sessions[5]);
}
