//! Somebody takes all rules away, as a firewall that is reloaded does: what talks goes on.

#![allow(clippy::disallowed_methods, reason = "tests start threads")]

mod host;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use host::{GATEWAY, GATEWAY6, HOST, HOST6, Host, Member, host_test, in_network, kill_hard, listen};

/// A server that says again whatever is said to it. Its threads are in its network, and keep that until they have ended.
struct Echo {
    stop: Arc<AtomicBool>,
    threads: Option<JoinHandle<()>>,
}

impl Echo {
    /// In the network where this runs.
    fn begin(port: u16) -> Self {
        let listener = listen(Ipv6Addr::UNSPECIFIED, port);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let threads = std::thread::spawn(move || {
            std::thread::scope(|scope| {
                while !stopped.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok((stream, _)) => drop(scope.spawn(move || again(stream))),
                        Err(_) => std::thread::sleep(Duration::from_millis(10)),
                    }
                }
            });
        });
        Self { stop, threads: Some(threads) }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.threads.take().map(JoinHandle::join);
    }
}

fn again(mut stream: TcpStream) {
    let mut said = [0; 4];
    stream.set_nonblocking(false).expect("blocking");
    while stream.read_exact(&mut said).is_ok() && stream.write_all(&said).is_ok() {}
}

/// A connection on which something is said and answered all the time.
struct Talk {
    what: &'static str,
    answers: Arc<AtomicU32>,
    thread: JoinHandle<std::io::Result<()>>,
}

/// Between one word and the next: less than the rules are away, and time for others.
const PAUSE: Duration = Duration::from_millis(1);
/// After so many answers each of them ends by itself.
const ALL: u32 = u32::MAX;

impl Talk {
    /// From the network `from`.
    fn begin(what: &'static str, from: &str, to: impl Into<IpAddr>, port: u16) -> Self {
        let to = SocketAddr::new(to.into(), port);
        let stream = in_network(from, move || TcpStream::connect_timeout(&to, Duration::from_secs(2)));
        let mut stream = stream.unwrap_or_else(|error| panic!("{what}: {error}"));
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
        let answers = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&answers);
        let thread = std::thread::spawn(move || {
            let mut said = [0; 4];
            for number in 0u32.. {
                if count.load(Ordering::Relaxed) == ALL {
                    break;
                }
                std::thread::sleep(PAUSE);
                stream.write_all(&number.to_be_bytes())?;
                stream.read_exact(&mut said)?;
                assert_eq!(u32::from_be_bytes(said), number);
                let _ = count.compare_exchange(number, number + 1, Ordering::Relaxed, Ordering::Relaxed);
            }
            Ok(())
        });
        Self { what, answers, thread }
    }

    fn answers(&self) -> u32 {
        self.answers.load(Ordering::Relaxed)
    }

    fn end(self) {
        self.answers.store(ALL, Ordering::Relaxed);
        self.thread.join().expect("a thread").unwrap_or_else(|error| panic!("{}: {error}", self.what));
    }
}

fn network_of(pid: u32) -> String {
    format!("/proc/{pid}/ns/net")
}

/// Containers that serve and ask.
struct Stage {
    web: Member,
    client: Member,
    servers: [Echo; 2],
}

impl Stage {
    fn set(host: &Host) -> Self {
        host.has_had_networks();
        host.network(&["--ipv6"], "front");
        let ports = ["-p", "0.0.0.0:8000:7000", "-p", "[::]:8000:7000", "-p", "8001:7000"];
        let web = host.member(&[&["--net=front"][..], &ports].concat(), "web");
        let client = host.member(&["--net=front"], "client");
        let servers = [host.in_network_of(web.pid, || Echo::begin(7000)), host.in_lan(|| Echo::begin(9000))];
        host.soon("somebody holds the anchor", || is_anchored(host));
        Self { web, client, servers }
    }

    /// Who asks whom: what it is, from which network, to which address and port.
    fn ways(&self) -> impl Iterator<Item = (&'static str, String, IpAddr, u16)> {
        let (lan, own, client) = ("/run/netns/lan".to_owned(), network_of(1), network_of(self.client.pid));
        let ways: [(_, &String, IpAddr, _); 8] = [
            ("from the LAN", &lan, HOST.into(), 8000),
            ("from the LAN by IPv6", &lan, HOST6.into(), 8000),
            ("from the host's loopback device", &own, Ipv4Addr::LOCALHOST.into(), 8001),
            ("from the host by its address", &own, HOST.into(), 8000),
            ("to the LAN", &client, GATEWAY.into(), 9000),
            ("to the LAN by IPv6", &client, GATEWAY6.into(), 9000),
            ("from a neighbour by the host's address", &client, HOST.into(), 8000),
            ("from a neighbour", &client, self.web.address.into(), 7000),
        ];
        ways.map(|(what, from, to, port)| (what, from.clone(), to, port)).into_iter()
    }

    fn strike(self, host: &Host) {
        drop(self.servers);
        host.remove_networks(&["front"]);
        host.soon("the anchor goes with the last container", || !is_anchored(host));
        host.settle();
    }
}

fn is_anchored(host: &Host) -> bool {
    host.sh("nft list tables").ok().contains("minirun-anchor")
}

host_test!(connections_live_on, within 120, |host| {
    let stage = Stage::set(host);
    let talks: Vec<_> = stage.ways().map(|(what, from, to, port)| Talk::begin(what, &from, to, port)).collect();
    for _ in 0..10 {
        host.sh("nft flush ruleset").ok();
        let before: Vec<u32> = talks.iter().map(Talk::answers).collect();
        let go_on = || talks.iter().zip(&before).all(|(talk, before)| talk.answers() > before + 5);
        host.soon("all of them go on", go_on);
    }
    talks.into_iter().for_each(Talk::end);
    stage.strike(host);
});

/// Somebody who opens one connection after the other, each of which is answered.
struct Caller {
    what: &'static str,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<u32>>,
}

impl Caller {
    fn begin(what: &'static str, from: &str, to: impl Into<IpAddr>, port: u16) -> Self {
        let to = SocketAddr::new(to.into(), port);
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, from) = (Arc::clone(&stop), from.to_owned());
        let thread = std::thread::spawn(move || {
            in_network(&from, move || {
                let mut count = 0;
                while !stopped.load(Ordering::Relaxed) {
                    // A first packet that is lost is sent again after a second, and after two more.
                    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
                    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                    stream.write_all(b"well")?;
                    stream.read_exact(&mut [0; 4])?;
                    count += 1;
                    std::thread::sleep(PAUSE);
                }
                Ok(count)
            })
        });
        Self { what, stop, thread }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let count = self.thread.join().expect("a thread").unwrap_or_else(|error| panic!("{}: {error}", self.what));
        assert!(count > 2, "{}: {count}", self.what);
    }
}

host_test!(connections_begin, within 120, |host| {
    let stage = Stage::set(host);
    let callers: Vec<_> = stage.ways().map(|(what, from, to, port)| Caller::begin(what, &from, to, port)).collect();
    for _ in 0..10 {
        host.sh("nft flush ruleset").ok();
        std::thread::sleep(Duration::from_millis(250));
    }
    callers.into_iter().for_each(Caller::end);
    stage.strike(host);
});

// Not of rules, but of the same holder: a cable instead of a radio, a VPN that comes up.
host_test!(another_way_out_is_taken_while_containers_run, within 120, |host| {
    host.has_had_networks();
    host.network(&["--ipv6"], "front");
    host.member(&[], "first");
    host.soon("somebody holds the anchor", || is_anchored(host));
    let web = host.member(&["--net=front", "-p", "0.0.0.0:8000:7000", "-p", "[::]:8000:7000"], "web");
    host.sh(
        "ip netns add other; ip link add wan1 type veth peer name other0 netns other
         ip -n other addr add 198.51.100.1/24 dev other0; ip -n other -6 addr add 2001:db8:9::1/64 dev other0 nodad
         ip -n other link set lo up; ip -n other link set other0 up",
    )
    .ok();
    let servers = [host.in_network_of(web.pid, || Echo::begin(7000)), in_network("/run/netns/other", || Echo::begin(9000))];
    let reach = |from: &str, to: IpAddr, port: u16| {
        in_network(from, move || {
            let stream = TcpStream::connect_timeout(&SocketAddr::new(to, port), Duration::from_millis(200));
            stream.is_ok_and(|mut stream| stream.write_all(b"well").is_ok() && stream.read_exact(&mut [0; 4]).is_ok())
        })
    };
    host.sh(
        "ip addr add 198.51.100.2/24 dev wan1; ip -6 addr add 2001:db8:9::2/64 dev wan1 nodad; ip link set wan1 up
         ip route replace default via 198.51.100.1 dev wan1
         ip -6 route replace default via 2001:db8:9::1 dev wan1 metric 1024",
    )
    .ok();
    let (inside, other) = (network_of(web.pid), "/run/netns/other");
    let ways: [(&str, &str, IpAddr, u16); 4] = [
        ("out", &inside, Ipv4Addr::new(198, 51, 100, 1).into(), 9000),
        ("out by IPv6", &inside, "2001:db8:9::1".parse().expect("an address"), 9000),
        ("in", other, Ipv4Addr::new(198, 51, 100, 2).into(), 8000),
        ("in by IPv6", other, "2001:db8:9::2".parse().expect("an address"), 8000),
    ];
    for (what, from, to, port) in ways {
        host.soon(what, || reach(from, to, port));
    }
    // It is open for containers only.
    assert!(host.sh("nft list set inet minirun guarded").ok().contains("\"wan1\""));
    assert!(!reach(other, GATEWAY.into(), 9000));
    drop(servers);
    host.remove_networks(&["front"]);
    host.sh("ip link del wan1; ip netns del other; ip route replace default via 192.0.2.1 dev eth0").ok();
    host.sh("ip -6 route replace default via 2001:db8:1::1 dev eth0 metric 1024").ok();
    host.settle();
});

host_test!(another_holds_the_anchor, within 120, |host| {
    host.has_run_detached();
    // The kernel's number of the table; it is never used again.
    let anchor = || {
        let said: Value = serde_json::from_str(&host.sh("nft -j list tables").ok()).expect("JSON");
        let tables = said["nftables"].as_array().expect("a list").iter().map(|one| &one["table"]);
        tables.filter(|table| table["name"] == "minirun-anchor").find_map(|table| table["handle"].as_u64())
    };
    let mut before = None;
    for name in ["one", "two", "three"] {
        host.member(&[], name);
        host.soon("somebody holds it", || anchor().is_some());
        before = anchor();
    }
    let next = |what: &str, before: Option<u64>| {
        host.soon(what, || anchor().is_some_and(|now| Some(now) != before));
        // It is one, whoever holds it.
        assert_eq!(host.sh("nft list tables").ok().matches("anchor").count(), 1);
        anchor()
    };
    kill_hard(host.holder_of("one"));
    before = next("after a kill", before);
    // Whoever has it now: one of the two, and then the other.
    let own = |name: &str| {
        let fds = format!("ls -l /proc/{}/fd", host.holder_of(name));
        host.sh(&fds).ok().lines().any(|line| line.starts_with("lrwx") && line.ends_with("/anchor"))
    };
    let (owner, other) = if own("two") { ("two", "three") } else { ("three", "two") };
    assert!(own(owner) && !own(other));
    host.minirun(["stop", "-t0", owner]).ok();
    next("after an end", before);
    // Nobody else changes it or takes it away.
    let said = host.sh("nft delete table inet minirun-anchor").fails(1);
    assert!(said.contains("not permitted"), "{said}");
    host.minirun(["rm", "-f", "one", "two", "three"]).ok();
    host.soon("it goes with the last one", || anchor().is_none());
});
