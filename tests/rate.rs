//! `rate=`: how fast a container sends and receives.

#![allow(clippy::disallowed_methods, reason = "a sender and a receiver at the same time")]

mod host;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use host::{GATEWAY, Host, host_test, refused};
use serde_json::Value;

/// How many million bits a second arrive at `listener` of what `stream` sends as fast as it can, in so many seconds. The time
/// begins when a first part has come, so that the burst and the slow start do not count.
fn measure(listener: &TcpListener, mut stream: TcpStream, seconds: u64) -> f64 {
    let sender = std::thread::spawn(move || while stream.write_all(&[0; 16 * 1024]).is_ok() {});
    let (mut from, _) = listener.accept().expect("accept");
    let mut buffer = vec![0; 64 * 1024];
    let mut read = |least: Duration| {
        let start = Instant::now();
        let mut bytes = 0;
        while start.elapsed() < least {
            bytes += from.read(&mut buffer).expect("read");
        }
        bytes as f64 * 8.0 / 1e6 / start.elapsed().as_secs_f64()
    };
    read(Duration::from_millis(500));
    let rate = read(Duration::from_secs(seconds));
    drop(from);
    sender.join().expect("the sender");
    rate
}

fn listener(address: impl Into<IpAddr>) -> TcpListener {
    TcpListener::bind(SocketAddr::new(address.into(), 7000)).expect("bind")
}

fn connect(address: impl Into<IpAddr>) -> TcpStream {
    TcpStream::connect(SocketAddr::new(address.into(), 7000)).expect("connect")
}

/// What a container sends to the LAN and receives from there, in million bits a second.
fn speeds(host: &Host, name: &str) -> (f64, f64) {
    let member = host.member_called(name);
    let at = host.in_lan(|| listener(GATEWAY));
    let sent = measure(&at, host.in_network_of(member.pid, || connect(GATEWAY)), 2);
    let at = host.in_network_of(member.pid, move || listener(member.address));
    // From the host: the LAN does not reach it.
    let received = measure(&at, connect(member.address), 2);
    (sent, received)
}

/// The queues of a link that are not the kernel's own, without what differs from run to run.
fn queues(said: &str) -> Vec<Value> {
    let Value::Array(all) = serde_json::from_str(said).expect("JSON") else { panic!("no list: {said}") };
    let keep = |mut queue: Value| {
        queue.as_object_mut().expect("an object").remove("handle");
        queue
    };
    all.into_iter().filter(|queue| queue["kind"] == "tbf").map(keep).collect()
}

host_test!(both_directions_have_the_rate_that_was_asked_for, within 90, |host| {
    host.has_had_networks();
    host.member(&["--net=bridge:rate=20mbit/50mbit"], "web");
    let (sent, received) = speeds(host, "web");
    assert!((14.0..24.0).contains(&sent), "sent {sent}");
    assert!((35.0..60.0).contains(&received), "received {received}");
    assert_eq!(host.inspect("web", "(index .NetworkSettings.Interfaces 0).Rate"), "20mbit/50mbit");
    // Another one is as fast as the machine.
    host.member(&[], "free");
    let (sent, received) = speeds(host, "free");
    assert!(sent > 200.0 && received > 200.0, "sent {sent}, received {received}");
    host.remove_all();
});

host_test!(slow_and_fast_rates_are_reached, within 90, |host| {
    host.has_had_networks();
    for (rate, least, most) in [("1mbit", 0.6, 1.3), ("200mbit", 140.0, 240.0)] {
        host.member(&["--net", &format!("bridge:rate={rate}")], "web");
        let (sent, received) = speeds(host, "web");
        assert!((least..most).contains(&sent) && (least..most).contains(&received), "{rate}: {sent}, {received}");
        host.remove_all();
    }
});

host_test!(one_that_is_connected_and_one_that_is_restarted, |host| {
    host.has_had_networks();
    host.network(&["--subnet=10.50.0.0/24"], "front");
    let here = || queues(&host.sh("tc -j qdisc show").ok()).len();
    let inside =
        |name: &str| queues(&host.sh(&format!("nsenter -t {} -n tc -j qdisc show", host.pid_of(name))).ok()).len();
    host.detached(&["--net=none", "--name=web"], &["sleep", "1000"]);
    host.minirun(["network", "connect", "front:rate=/1mbit", "web"]).ok();
    host.minirun(["network", "connect", "bridge:rate=1mbit/,ifname=lan0", "web"]).ok();
    assert_eq!((here(), inside("web")), (1, 1));
    assert_eq!(host.inspect("web", "range .NetworkSettings.Interfaces}}{{.Rate}} {{end"), "/1mbit 1mbit/ ");
    host.minirun(["network", "disconnect", "front", "web"]).ok();
    assert_eq!((here(), inside("web")), (0, 1));
    host.minirun(["rm", "-f", "web"]).ok();
    host.member(&["--net=front:rate=1mbit"], "web");
    host.minirun(["restart", "-t", "0", "web"]).ok();
    host.soon("the link of the first run goes", || here() == 1);
    assert_eq!(inside("web"), 1);
    // Nobody in it may take it off.
    assert_ne!(host.minirun(["exec", "web", "ip", "link", "set", "eth0", "down"]).run().code, 0);
    host.remove_networks(&["front"]);
});

host_test!(the_commands_make_the_same, |host| {
    host.has_had_networks();
    host.network(&["--subnet=10.50.0.0/24", "--opt=path_cost=7"], "front");
    for rate in ["8kbit", "10mbit/1.5mbit", "100kbps/40gbit", "12345bit"] {
        let net = format!("front:rate={rate},ifname=lan0,host-ifname=shaped0");
        host.member(&["--net", &net], "web");
        let pid = host.pid_of("web");
        let ours = queues(&host.sh("tc -j qdisc show dev shaped0").ok());
        let inside = queues(&host.sh(&format!("nsenter -t {pid} -n tc -j qdisc show dev lan0")).ok());
        host.minirun(["rm", "-f", "web"]).ok();
        host.soon("its link goes", || !host.sh("ip -o link").ok().contains("shaped0"));
        // Typed by hand, but for the table, which is there.
        let script = host.minirun(["run", "--dry-run", "--name=byhand", "--net", &net, "busybox"]).ok();
        assert!(script.contains("tc qdisc add dev shaped0 root tbf"), "{script}");
        host.sh(&script.lines().filter(|line| !line.contains("nft")).collect::<Vec<_>>().join("\n")).ok();
        assert_eq!(queues(&host.sh("tc -j qdisc show dev shaped0").ok()), ours, "{rate}");
        assert_eq!(queues(&host.sh("tc -j -n byhand qdisc show dev lan0").ok()), inside, "{rate}");
        assert_eq!((ours.len(), inside.len()), (1, 1));
        host.sh("ip netns del byhand; ip link del shaped0 2>/dev/null || true").ok();
    }
    host.remove_networks(&["front"]);
});

host_test!(rates_that_cannot_be, |host| {
    host.has_had_networks();
    for rate in ["", "/", "fast", "10", "7kbit", "401gbit", "10mbit/x", "1mbit/1mbit/1mbit", "-1mbit"] {
        refused(host, &["--net", &format!("bridge:rate={rate}")], &["rate"]);
    }
    refused(host, &["--net=none:rate=1mbit"], &["no options"]);
    refused(host, &["--net=host:rate=1mbit"], &["no options"]);
});
