//! `--host-access`: one container reaches what listens on the host's loopback device, and nobody else does.

#![allow(clippy::disallowed_methods, reason = "services are threads")]

mod host;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use host::{By, HOST, asks, host_test, in_network, refused};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 214, 0, 1);
const PORT: u16 = 7000;
const BOTH: [By; 2] = [By::Tcp, By::Udp];

/// A service of the host at one address, of TCP and UDP, that tells whoever asks at which address it sees them.
struct Service(Arc<AtomicBool>, Option<JoinHandle<()>>);

impl Service {
    fn at(address: impl Into<IpAddr>, port: u16) -> Self {
        let at = SocketAddr::new(address.into(), port);
        let (tcp, udp) = (TcpListener::bind(at).expect("bind"), UdpSocket::bind(at).expect("bind"));
        tcp.set_nonblocking(true).expect("nonblocking");
        udp.set_read_timeout(Some(Duration::from_millis(5))).expect("a timeout");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let serve = move || {
            while !stopped.load(Ordering::Relaxed) {
                while let Ok((mut stream, peer)) = tcp.accept() {
                    let _ = write!(stream, "{}", peer.ip());
                }
                let mut asked = [0; 64];
                if let Ok((_, peer)) = udp.recv_from(&mut asked) {
                    let _ = udp.send_to(peer.ip().to_string().as_bytes(), peer);
                }
            }
        };
        Self(stop, Some(std::thread::spawn(serve)))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.1.take().map(JoinHandle::join);
    }
}

/// By which transports a service at that address is reached from the network `path`, and from where it is seen.
fn reached(path: &str, address: impl Into<IpAddr>, port: u16) -> [Option<IpAddr>; 2] {
    let address = address.into();
    BOTH.map(|by| {
        let path = path.to_owned();
        std::thread::spawn(move || in_network(&path, move || asks(by, address, port)))
    })
    .map(|one| one.join().expect("a thread"))
}

fn network_of(pid: u32) -> String {
    format!("/proc/{pid}/ns/net")
}

const NOBODY: [Option<IpAddr>; 2] = [None; 2];
const A_PROGRAM_OF_THE_HOST: [Option<IpAddr>; 2] = [Some(IpAddr::V4(LOOPBACK)); 2];

/// Nobody but the container that may reaches the host's loopback device.
#[track_caller]
fn kept_out(strangers: &[(&str, String)], addresses: &[IpAddr]) {
    let ask = |(who, path): &(&str, String)| {
        let (who, path, addresses) = ((*who).to_owned(), path.clone(), addresses.to_vec());
        std::thread::spawn(move || addresses.iter().map(|to| (who.clone(), *to, reached(&path, *to, PORT))).collect())
    };
    let all: Vec<JoinHandle<Vec<_>>> = strangers.iter().map(ask).collect();
    for (who, to, reached) in all.into_iter().flat_map(|one| one.join().expect("a thread")) {
        assert_eq!(reached, NOBODY, "{who} reaches {to}");
    }
}

host_test!(this_container_and_nobody_else, within 120, |host| {
    host.has_had_networks();
    // What the first port that is published leaves: the bridge may lead to the loopback device.
    host.minirun(["run", "-p", "9000:80", "busybox", "true"]).ok();
    host.settle();
    host.network(&["--subnet=10.50.0.0/24"], "front");
    let _service = Service::at(LOOPBACK, PORT);
    host.member(&["-p", "127.0.0.1:9000:80"], "sibling");
    host.member(&["--net=front"], "other");
    let strangers = [
        ("a sibling", network_of(host.pid_of("sibling"))),
        ("one of another network", network_of(host.pid_of("other"))),
        ("the LAN", "/run/netns/lan".to_owned()),
    ];
    let addresses = [GATEWAY, Ipv4Addr::new(10, 50, 0, 1), HOST, Ipv4Addr::new(127, 0, 0, 11)].map(IpAddr::from);
    kept_out(&strangers, &addresses);
    let may = host.member(&["--host-access"], "may");
    let own = network_of(may.pid);
    assert_eq!(reached(&own, GATEWAY, PORT), A_PROGRAM_OF_THE_HOST);
    kept_out(&strangers, &addresses);
    // Not at other addresses than the one that it knows the host by.
    kept_out(&[("it", own.clone())], &addresses[1..]);
    kept_out(&strangers, &[may.address.into()]);
    // A firewall that is reloaded changes nothing, neither at once nor when the rules are back.
    host.sh("nft flush ruleset").ok();
    assert_eq!(reached(&own, GATEWAY, PORT), A_PROGRAM_OF_THE_HOST);
    kept_out(&strangers, &addresses);
    host.soon("the rules are back", || host.sh("nft list table inet minirun").run().code == 0);
    assert_eq!(reached(&own, GATEWAY, PORT), A_PROGRAM_OF_THE_HOST);
    kept_out(&strangers, &addresses);
    host.minirun(["rm", "-f", "may"]).ok();
    // Another one that gets its address gets no more than that.
    let next = host.member(&["--ip", &may.address.to_string()], "next");
    assert_eq!(reached(&network_of(next.pid), GATEWAY, PORT), NOBODY);
    kept_out(&strangers, &addresses);
    host.remove_networks(&["front"]);
});

host_test!(services_are_found_where_they_listen, |host| {
    host.has_had_networks();
    let _six = Service::at(Ipv6Addr::LOCALHOST, 7001);
    let _all = Service::at(Ipv4Addr::UNSPECIFIED, 7002);
    let _gateway = Service::at(GATEWAY, 7003);
    // Both: the loopback device's is meant.
    let (_one, _two) = (Service::at(LOOPBACK, 7004), Service::at(GATEWAY, 7004));
    let may = network_of(host.member(&["--host-access"], "may").pid);
    assert_eq!(reached(&may, GATEWAY, 7002), A_PROGRAM_OF_THE_HOST);
    assert_eq!(reached(&may, GATEWAY, 7004), A_PROGRAM_OF_THE_HOST);
    // The place of a datagram service that is not at 127.0.0.1 is found by the first datagram, which is lost.
    for (port, seen) in [(7001, IpAddr::from(Ipv6Addr::LOCALHOST)), (7003, GATEWAY.into())] {
        assert_eq!(reached(&may, GATEWAY, port)[0], Some(seen));
        let answered = in_network(&may, move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind");
            socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
            socket.connect((GATEWAY, port)).expect("connect");
            let mut said = [0; 64];
            (0..20).find_map(|_| {
                socket.send(b"?").ok()?;
                let size = socket.recv(&mut said).ok()?;
                Some(String::from_utf8_lossy(&said[..size]).into_owned())
            })
        });
        assert_eq!(answered, Some(seen.to_string()));
    }
    // One socket, several services: each answers for itself.
    let answers = in_network(&may, || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("bind");
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
        [7002, 7004].map(|port| {
            socket.send_to(b"?", (GATEWAY, port)).expect("send");
            socket.recv_from(&mut [0; 64]).expect("an answer").1
        })
    });
    assert_eq!(answers, [7002, 7004].map(|port| SocketAddr::new(GATEWAY.into(), port)));
    // Nobody there is told, as it would be without minirun between.
    let error = in_network(&may, || {
        let mut stream = TcpStream::connect((GATEWAY, 7999))?;
        stream.read(&mut [0; 1])
    });
    assert!(
        matches!(
            error.as_ref().map_err(|error| error.kind()),
            Err(ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused)
        ),
        "{error:?}"
    );
    // The way itself is none.
    let error = in_network(&may, || TcpStream::connect((Ipv4Addr::new(127, 0, 0, 11), 41054))?.read(&mut [0; 1]));
    assert!(error.is_err(), "{error:?}");
    host.remove_all();
});

host_test!(by_name_for_programs_and_users_of_all_kinds, within 90, |host| {
    host.has_had_networks();
    host.minirun(["run", "--net=none", "--userns=auto", "busybox", "true"]).ok();
    host.settle();
    let _service = Service::at(LOOPBACK, PORT);
    let script = "nc -w 5 host.minirun.internal 7000";
    for options in [
        &[][..],
        &["-u", "1234"],
        &["--cap-add=NET_ADMIN"],
        &["--userns=auto"],
        &["--read-only", "--cap-drop=ALL"],
    ] {
        let said = host.minirun([&["run", "--host-access"], options, &["busybox", "sh", "-c", script]].concat()).held().ok();
        assert_eq!(said, "127.0.0.1", "{options:?}");
    }
    assert_ne!(host.minirun(["run", "busybox", "sh", "-c", script]).run().code, 0);
    // Names and the way out are as ever.
    let script = "nslookup host.minirun.internal; ping -c1 -W5 10.214.0.1 && ping -c1 -W5 192.0.2.1";
    let said = host.minirun(["run", "--host-access", "busybox", "sh", "-c", script]).ok();
    assert!(said.contains("10.214.0.1"), "{said}");
    // And after a restart.
    host.member(&["--host-access"], "may");
    host.minirun(["restart", "-t", "0", "may"]).ok();
    assert_eq!(reached(&network_of(host.pid_of("may")), GATEWAY, PORT), A_PROGRAM_OF_THE_HOST);
    host.remove_all();
});

host_test!(what_is_sent_arrives_whole, |host| {
    host.has_had_networks();
    const SIZE: usize = 8 << 20;
    let listener = TcpListener::bind((LOOPBACK, 7005)).expect("bind");
    let echo = std::thread::spawn(move || {
        let (mut from, _) = listener.accept().expect("accept");
        let mut to = from.try_clone().expect("clone");
        std::io::copy(&mut from, &mut to).expect("copy")
    });
    let may = network_of(host.member(&["--host-access"], "may").pid);
    let mut stream = in_network(&may, || TcpStream::connect((GATEWAY, 7005)).expect("connect"));
    let sent: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
    let mut writer = stream.try_clone().expect("clone");
    let bytes = sent.clone();
    let writing = std::thread::spawn(move || {
        writer.write_all(&bytes).expect("write");
        writer.shutdown(std::net::Shutdown::Write).expect("shutdown");
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back).expect("read");
    writing.join().expect("the writer");
    assert_eq!(echo.join().expect("the echo"), SIZE as u64);
    assert!(back == sent);
    host.remove_all();
});

host_test!(networks_that_come_and_go, |host| {
    host.has_had_networks();
    host.network(&["--subnet=10.50.0.0/24"], "front");
    host.network(&["--subnet=10.51.0.0/24", "--internal"], "closed");
    let (front, closed) = (Ipv4Addr::new(10, 50, 0, 1), Ipv4Addr::new(10, 51, 0, 1));
    let _service = Service::at(LOOPBACK, PORT);
    let may = network_of(host.member(&["--host-access", "--net=closed", "--net=front"], "may").pid);
    assert_eq!(reached(&may, front, PORT), A_PROGRAM_OF_THE_HOST);
    assert_eq!(reached(&may, closed, PORT), NOBODY);
    assert!(host.minirun(["exec", "may", "nslookup", "host.minirun.internal"]).ok().contains("10.50.0.1"));
    host.minirun(["network", "connect", "bridge", "may"]).ok();
    assert_eq!(reached(&may, GATEWAY, PORT), A_PROGRAM_OF_THE_HOST);
    host.minirun(["network", "disconnect", "front", "may"]).ok();
    assert_eq!(reached(&may, front, PORT), NOBODY);
    assert_eq!(reached(&may, GATEWAY, PORT), A_PROGRAM_OF_THE_HOST);
    host.minirun(["network", "disconnect", "closed", "may"]).ok();
    host.minirun(["network", "disconnect", "bridge", "may"]).ok();
    host.minirun(["network", "connect", "front", "may"]).ok();
    assert_eq!(reached(&may, front, PORT), A_PROGRAM_OF_THE_HOST);
    host.remove_networks(&["front", "closed"]);
});

host_test!(the_commands_make_the_same_rules, |host| {
    host.has_had_networks();
    host.network(&["--subnet=10.50.0.0/24"], "front");
    let options = ["--host-access", "--net=front:ifname=lan0,host-ifname=byhand0"];
    let list = "nft -s list table inet minirun";
    let pid = host.member(&options, "web").pid;
    let ours = host.sh(&format!("nsenter -t {pid} -n {list}")).ok();
    assert!(ours.contains("dnat ip to 127.0.0.11:41054"), "{ours}");
    host.minirun(["rm", "-f", "web"]).ok();
    host.soon("its link goes", || !host.sh("ip -o link").ok().contains("byhand0"));
    let script = host.minirun([&["run", "--dry-run", "--name=byhand"], &options[..], &["busybox"]].concat()).ok();
    host.sh(&script).ok();
    assert_eq!(host.sh(&format!("ip netns exec byhand {list}")).ok(), ours);
    host.sh("ip netns del byhand").ok();
    host.soon("its link goes", || !host.sh("ip -o link").ok().contains("byhand0"));
    host.remove_networks(&["front"]);
});

host_test!(where_it_cannot_be, |host| {
    host.has_had_networks();
    host.network(&["--subnet=10.51.0.0/24", "--internal"], "closed");
    host.settle();
    for net in ["none", "host", "container:web", "ns:/proc/self/ns/net"] {
        refused(host, &["--host-access", "--net", net], &["--host-access"]);
    }
    refused(host, &["--host-access", "--net=closed"], &["--host-access", "internal"]);
    let output = host.minirun(["run", "--spec", "--host-access", "busybox"]).run();
    assert!(output.code == 125 && output.stderr.contains("--host-access"), "{output}");
    host.minirun(["network", "rm", "closed"]).ok();
    host.settle();
});
