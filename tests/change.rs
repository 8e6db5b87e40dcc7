//! The network of a container that runs is changed: interfaces and ports come and go, and rules that were flushed come back.

mod host;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use host::{By, GATEWAY, HOST, Host, Mirror, asks, host_test, kill_hard};

const PORTS: &[u16] = &[7000];

/// The addresses of a container, as `ip` lists them, without those of `lo`.
fn addresses(host: &Host, name: &str) -> Vec<String> {
    let said = host.minirun(["exec", name, "ip", "-o", "addr"]).ok();
    let words = |line: &str| line.split_whitespace().skip(1).take(3).map(str::to_owned).collect::<Vec<_>>().join(" ");
    said.lines().map(words).filter(|line| !line.starts_with("lo ")).collect()
}

fn routes(host: &Host, name: &str) -> String {
    host.minirun(["exec", name, "ip", "route"]).ok()
}

/// A container without a network, its process id, and a network with IPv6 with a neighbour on it.
fn ground(host: &Host) -> u32 {
    host.network(&["--subnet=10.50.0.0/24", "--ipv6", "--subnet=fd50::/64"], "front");
    host.network(&["--subnet=10.51.0.0/24", "--internal"], "back");
    host.member(&["--net=front"], "neighbour");
    host.minirun(["run", "-d", "--name", "alone", "--net=none", "busybox", "sleep", "1000"]).ok();
    let pid = host.minirun(["inspect", "--format", "{{.State.Pid}}", "alone"]).ok();
    pid.trim().parse().expect("a process id")
}

host_test!(one_without_a_network_is_connected_and_disconnected, |host| {
    host.has_had_networks();
    let pid = ground(host);
    assert_eq!(addresses(host, "alone"), Vec::<String>::new());
    host.minirun(["network", "connect", "--ip", "10.50.0.77", "--alias", "db", "front", "alone"]).ok();
    assert_eq!(addresses(host, "alone"), ["eth0 inet 10.50.0.77/24", "eth0 inet6 fd50::4d/64"]);
    assert!(routes(host, "alone").contains("default via 10.50.0.1 dev eth0"));
    // It has all that one has which was started there: names both ways, a way out, and neighbours.
    assert!(host.minirun(["exec", "neighbour", "nslookup", "db"]).ok().contains("10.50.0.77"));
    assert!(host.minirun(["exec", "alone", "nslookup", "neighbour"]).ok().contains("10.50.0.2"));
    let mirror = Mirror::of(host, pid, PORTS);
    let neighbour = host.member_called("neighbour");
    let seen = host.in_network_of(neighbour.pid, || asks(By::Tcp, Ipv4Addr::new(10, 50, 0, 77), 7000));
    assert_eq!(seen, Some(neighbour.address.into()));
    let lan = Mirror::of_lan(host, PORTS);
    assert_eq!(host.in_network_of(pid, || asks(By::Tcp, GATEWAY, 7000)), Some(HOST.into()));
    // Further ones do not take the way out away, and one that goes gives it on.
    host.minirun(["network", "connect", "back:ifname=lan0", "alone"]).ok();
    host.minirun(["network", "connect", "bridge", "alone"]).ok();
    assert_eq!(host.minirun(["ps", "--filter", "name=alone", "--format", "{{.Network}}"]).ok(), "front,back,bridge\n");
    assert!(routes(host, "alone").contains("default via 10.50.0.1 dev eth0"));
    host.minirun(["network", "disconnect", "front", "alone"]).ok();
    assert!(routes(host, "alone").contains("default via 10.214.0.1"), "{}", routes(host, "alone"));
    assert!(!host.minirun(["exec", "neighbour", "nslookup", "db"]).run().stdout.contains("10.50.0.77"));
    // Its address is free again.
    host.minirun(["run", "--net=front:ip=10.50.0.77", "busybox", "true"]).ok();
    for network in ["back", "bridge"] {
        host.minirun(["network", "disconnect", network, "alone"]).ok();
    }
    assert_eq!(addresses(host, "alone"), Vec::<String>::new());
    assert_eq!(routes(host, "alone"), "");
    drop((mirror, lan));
    host.remove_networks(&["front", "back"]);
    host.settle();
});

// The kernel numbers links in the order in which they come, whoever makes them.
host_test!(one_that_had_other_cards_is_connected, |host| {
    host.has_had_networks();
    ground(host);
    host.sh("ip link add first type veth peer name lan0 netns alone; ip -n alone addr add 203.0.113.2/24 dev lan0")
        .ok();
    host.sh("ip link add second type veth peer name lan1 netns alone; ip link del second").ok();
    host.minirun(["network", "connect", "--ip", "10.50.0.77", "front", "alone"]).ok();
    host.minirun(["network", "connect", "back", "alone"]).ok();
    let has = addresses(host, "alone");
    let of_card = |name: &str| has.iter().filter(|address| address.starts_with(name)).cloned().collect::<Vec<_>>();
    assert_eq!(of_card("lan0"), ["lan0 inet 203.0.113.2/24"], "{has:?}");
    assert!(of_card("eth0").contains(&"eth0 inet 10.50.0.77/24".to_owned()) && !of_card("eth1").is_empty(), "{has:?}");
    host.sh("ip link del first").ok();
    host.minirun(["network", "disconnect", "front", "alone"]).ok();
    host.minirun(["network", "disconnect", "back", "alone"]).ok();
    assert_eq!(addresses(host, "alone"), Vec::<String>::new());
    host.remove_networks(&["front", "back"]);
    host.settle();
});

host_test!(one_that_has_made_links_itself_is_connected, |host| {
    host.has_had_networks();
    let pid = ground(host);
    host.sh(&format!("nsenter -t {pid} -n ip link add eth0 type veth peer name eth2")).ok();
    host.settle();
    for name in ["eth0", "eth2"] {
        let network = format!("front:ifname={name}");
        host.refuses(
            &["network", "connect", &network, "alone"],
            &["`front`", &format!("the container has a link `{name}`"), "ifname= gives another name"],
        );
    }
    for (network, name) in [("front", "eth1"), ("back", "eth3")] {
        host.minirun(["network", "connect", network, "alone"]).ok();
        assert!(addresses(host, "alone").iter().any(|one| one.starts_with(name)), "{:?}", addresses(host, "alone"));
    }
    host.remove_networks(&["front", "back"]);
    host.settle();
});

host_test!(cold a_link_of_the_hosts_own_is_opened_and_shut_again, |host| {
    let hand = "ip link add hand0 type veth peer name hand1; ip link set hand1 up
        ip addr add 203.0.113.1/24 dev hand0; ip link set hand0 up";
    let facts = || host.sh("ip -br link; ip route; nft list ruleset; sysctl net.ipv4.conf | grep '[.]forwarding'").ok();
    let before = facts();
    for is_gone in [false, true] {
        host.sh(hand).ok();
        let with_it = facts();
        host.minirun(["run", "-d", "--name=alone", "--net=none", "busybox", "sleep", "1000"]).ok();
        host.minirun(["network", "connect", "bridge", "alone"]).ok();
        assert_eq!(host.sh("sysctl -n net.ipv4.conf.hand0.forwarding").ok(), "1\n");
        host.minirun(["rm", "-f", "alone"]).ok();
        if is_gone {
            host.sh("ip link del hand0").ok();
        }
        // What it guards is guarded also when it comes back.
        assert!(host.sh("nft list set inet minirun guarded").ok().contains("hand0"));
        host.minirun(["system", "prune"]).ok();
        let after = facts();
        assert_eq!(after, if is_gone { before.clone() } else { with_it });
        host.sh("ip link del hand0 2>/dev/null || true").ok();
    }
});

host_test!(ports_come_and_go_while_it_runs, |host| {
    host.has_had_networks();
    let pid = ground(host);
    let mirror = Mirror::of(host, pid, PORTS);
    host.settle();
    host.refuses(&["port", "alone", "--add", "8000:7000"], &["no managed network", "network connect"]);
    host.minirun(["network", "connect", "front", "alone"]).ok();
    let said = host.minirun(["port", "alone", "--add", "8000:7000", "--add", "0.0.0.0:8001:7000"]).run();
    assert!(said.stderr.contains("published 0.0.0.0:8001->7000/tcp"), "{said}");
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        assert!(asks(By::Tcp, address, 8000).is_some(), "{address}");
    }
    assert_eq!(host.in_lan(|| asks(By::Tcp, HOST, 8001)), Some(GATEWAY.into()));
    assert_eq!(host.in_lan(|| asks(By::Tcp, HOST, 8000)), None);
    host.settle();
    host.refuses(&["port", "alone", "--add", "8000:1"], &["8000", "in use by container alone"]);
    host.refuses(&["port", "alone", "--rm", "7001"], &["7001", "not published"]);
    host.refuses(&["run", "-p", "8001:1", "busybox", "true"], &["8001", "in use by container alone"]);
    let lines = host.minirun(["port", "--format", "{{.HostPort}} {{.Port}}"]).ok();
    assert_eq!(lines, "8000 7000\n8000 7000\n8001 7000\n");
    assert_eq!(host.minirun(["port", "alone", "7000"]).ok(), "127.0.0.1:8000\n[::1]:8000\n0.0.0.0:8001\n");
    // One publication of it, or all.
    host.refuses(&["port", "alone", "--rm", "127.0.0.1:8001:7000"], &["not published", "minirun port alone"]);
    host.minirun(["port", "alone", "--rm", "0.0.0.0:8001:7000"]).ok();
    assert_eq!(host.minirun(["port", "alone", "7000"]).ok(), "127.0.0.1:8000\n[::1]:8000\n");
    host.minirun(["port", "alone", "--add", "8001:7000", "--rm", "[::1]:8000:7000"]).ok();
    host.minirun(["port", "alone", "--rm", "8000:7000"]).ok();
    assert_eq!(host.minirun(["port", "alone", "7000"]).ok(), "127.0.0.1:8001\n[::1]:8001\n");
    host.minirun(["port", "alone", "--rm", "7000"]).ok();
    assert_eq!(host.minirun(["port", "-q"]).ok(), "");
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        assert_eq!(asks(By::Tcp, address, 8000), None, "{address}");
    }
    // With the network the ports go, and others may have them.
    host.minirun(["port", "alone", "--add", "8000:7000"]).ok();
    let said = host.minirun(["network", "disconnect", "front", "alone"]).run().stderr;
    assert!(said.contains("took back 127.0.0.1:8000->7000/tcp"), "{said}");
    host.minirun(["run", "-p", "8000:7000", "busybox", "true"]).ok();
    drop(mirror);
    host.remove_networks(&["front", "back"]);
    host.settle();
});

host_test!(what_cannot_be_changed, |host| {
    host.has_had_networks();
    ground(host);
    host.minirun(["run", "-d", "--name", "hosts", "--net=host", "busybox", "sleep", "1000"]).ok();
    host.minirun(["run", "-d", "--name", "ended", "busybox", "true"]).ok();
    host.soon("it ends", || host.minirun(["ps", "-q", "--filter", "name=ended"]).ok().is_empty());
    host.minirun(["network", "connect", "front", "alone"]).ok();
    host.settle();
    host.refuses(&["network", "connect", "front", "alone"], &["`front`", "is on it"]);
    host.refuses(&["network", "connect", "nosuch", "alone"], &["`nosuch`"]);
    host.refuses(&["network", "connect", "back:ip=10.50.0.9", "alone"], &["10.50.0.9"]);
    host.refuses(&["network", "connect", "none", "alone"], &["none"]);
    host.refuses(&["network", "connect", "front", "hosts"], &["not its own, but host"]);
    host.refuses(&["network", "connect", "front", "ended"], &["does not run"]);
    host.refuses(&["network", "connect", "front", "nobody"], &["nobody"]);
    host.refuses(&["network", "disconnect", "back", "alone"], &["`back`", "not on it"]);
    host.refuses(&["port", "alone", "--add", "x"], &["publish port `x`"]);
    host.refuses(&["network", "rm", "front"], &["alone", "neighbour"]);
    host.minirun(["stop", "-t", "0", "hosts"]).ok();
    host.remove_networks(&["front", "back"]);
    host.settle();
});

host_test!(one_that_was_connected_and_killed_leaves_nothing, |host| {
    host.has_had_networks();
    ground(host);
    host.minirun(["network", "connect", "front:ip=10.50.0.77", "alone"]).ok();
    host.minirun(["port", "alone", "--add", "8000:7000"]).ok();
    let holder = host.minirun(["inspect", "--format", "{{.State.Holder}}", "alone"]).ok();
    kill_hard(holder.trim().parse().expect("a process id"));
    host.minirun(["ps"]).ok();
    host.minirun(["run", "--net=front:ip=10.50.0.77", "-p", "8000:7000", "busybox", "true"]).ok();
    host.remove_networks(&["front", "back"]);
    host.settle();
});

host_test!(flushed_rules_and_ports_come_back_without_a_command, |host| {
    host.has_had_networks();
    host.network(&["--ipv6"], "front");
    let web = host.member(&["--net=front", "-p", "0.0.0.0:8000:7000"], "web");
    let other = host.member(&["-p", "8001:7000"], "other");
    let mirrors = [Mirror::of(host, web.pid, PORTS), Mirror::of(host, other.pid, PORTS)];
    let table = || {
        let text = host.sh("nft list table inet minirun").ok();
        // Elements of a range have no order.
        let mut lines: Vec<String> = text
            .lines()
            .map(|line| line.replace("elements = {", "").trim_matches([' ', '\t', ',', '}']).to_owned())
            .collect();
        lines.sort();
        lines
    };
    let before = table();
    for command in [
        "nft flush ruleset",
        "nft flush table inet minirun",
        "nft delete table inet minirun",
        "nft flush chain inet minirun published",
    ] {
        host.sh(command).ok();
        host.soon(command, || {
            asks(By::Tcp, Ipv4Addr::LOCALHOST, 8001).is_some() && host.in_lan(|| asks(By::Tcp, HOST, 8000)).is_some()
        });
        host.soon("all of it is back", || host.sh("nft list table inet minirun").run().code == 0 && table() == before);
    }
    drop(mirrors);
    host.remove_networks(&["front"]);
    host.settle();
});

host_test!(a_client_of_udp_that_never_rests_finds_the_next_container, |host| {
    host.has_had_networks();
    let client = host.in_lan(|| UdpSocket::bind((GATEWAY, 5555)).expect("bind"));
    client.set_read_timeout(Some(Duration::from_millis(100))).expect("a limit");
    client.connect((HOST, 8000)).expect("connect");
    let answered = || {
        let _ = client.send(b"x");
        client.recv(&mut [0; 64]).is_ok()
    };
    // An entry for a port that nobody has is there before the first container, and lives on.
    assert!(!answered());
    for name in ["one", "two"] {
        let member = host.member(&["-p", "0.0.0.0:8000:7000/udp"], name);
        let mirror = Mirror::of(host, member.pid, PORTS);
        host.soon("it answers", answered);
        drop(mirror);
        host.minirun(["rm", "-f", name]).ok();
        assert!(!answered());
    }
    host.settle();
});
