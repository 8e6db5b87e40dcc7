//! The three networks of `run`: what a container has, whom it reaches, and who reaches it.

mod host;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use host::{GATEWAY, HOST, Host, OUTSIDE, Running, UPLINK_MTU, address_in, connects, host_test, listen};

/// What `busybox` with these words says in a container of that network.
fn inside(host: &Host, network: &str, words: &[&str]) -> String {
    host.minirun([&["run", network, "busybox"], words].concat()).ok()
}

/// A bridged container that lives until its value goes, and its address.
fn resident(host: &Host, options: &[&str], script: &str) -> (Running, Ipv4Addr) {
    let script = format!("ip -o -4 addr show eth0; {script}; echo ready; cat");
    let mut running =
        host.minirun([&["run", "-i"], options, &["busybox", "sh", "-c", &script]].concat()).held().start();
    let said = running.says("ready");
    (running, address_in(&said))
}

/// Sends one ping from a new container. With the right to raw sockets, so that this says something about the network alone.
#[track_caller]
fn pings(host: &Host, address: impl Into<IpAddr>) {
    let address = address.into().to_string();
    host.minirun(["run", "--cap-add", "NET_RAW", "busybox", "ping", "-c", "1", "-W", "2", &address]).ok();
}

fn gateway_of(host: &Host) -> Ipv4Addr {
    address_in(&host.sh("ip -o -4 addr show minirun0").ok())
}

/// The next connection to a listener that does not block.
fn accepted(host: &Host, listener: &TcpListener) -> (TcpStream, IpAddr) {
    let mut connection = None;
    host.soon("a connection comes", || {
        connection = listener.accept().ok();
        connection.is_some()
    });
    let (stream, peer) = connection.expect("a connection");
    (stream, peer.ip())
}

fn names_of_links(listing: &str) -> Vec<&str> {
    listing.lines().map(|line| line.split([':', '@']).nth(1).expect("a name").trim()).collect()
}

host_test!(none_has_lo_and_nothing_else, |host| {
    let links = inside(host, "--net=none", &["ip", "-o", "link"]);
    assert_eq!(names_of_links(&links), ["lo"]);
    assert!(links.contains("LOOPBACK,UP"), "{links}");
    assert_eq!(inside(host, "--net=none", &["ip", "route"]), "");
    let addresses = inside(host, "--net=none", &["ip", "-o", "addr"]);
    assert!(addresses.contains("127.0.0.1/8"), "{addresses}");
    let ping = |address| {
        host.minirun(["run", "--net=none", "--cap-add=NET_RAW", "busybox", "ping", "-c", "1", "-W", "1", address]).run()
    };
    assert_eq!(ping("127.0.0.1").code, 0);
    assert_ne!(ping("192.0.2.1").code, 0);
});

host_test!(host_is_the_hosts_network, |host| {
    assert_eq!(inside(host, "--net=host", &["ip", "-o", "link"]), host.sh("busybox ip -o link").ok());
    assert_eq!(inside(host, "--net=host", &["ip", "-o", "addr"]), host.sh("busybox ip -o addr").ok());
    assert_eq!(inside(host, "--net=host", &["ip", "route"]), host.sh("busybox ip route").ok());
    let mut server = host.minirun(["run", "--net=host", "busybox", "sh", "-c", "echo ready; nc -l -p 7001"]).start();
    server.says("ready");
    host.soon("the container's port is the host's", || connects(HOST, 7001));
    assert_eq!(server.wait().code, 0);
});

host_test!(host_keeps_the_other_namespaces_apart, |host| {
    for kind in ["mnt", "pid", "uts", "ipc", "cgroup", "net"] {
        let link = format!("/proc/self/ns/{kind}");
        let same = inside(host, "--net=host", &["readlink", &link]) == host.sh(&format!("readlink {link}")).ok();
        assert_eq!(same, kind == "net", "{kind}");
    }
});

host_test!(bridge_has_an_address_and_a_default_route, |host| {
    let gateway = gateway_of(host);
    let links = inside(host, "--net=bridge", &["ip", "-o", "link"]);
    assert_eq!(names_of_links(&links), ["lo", "eth0"]);
    assert!(links.lines().all(|line| line.contains(",UP")), "{links}");
    let addresses = inside(host, "--net=bridge", &["ip", "-o", "-4", "addr", "show", "eth0"]);
    let own = address_in(&addresses);
    assert!(addresses.contains("/20 "), "{addresses}");
    assert_ne!(own, gateway);
    let routes = inside(host, "--net=bridge", &["ip", "route"]);
    assert!(routes.contains(&format!("default via {gateway} dev eth0")), "{routes}");
    assert_eq!(routes.lines().count(), 2, "{routes}");
});

host_test!(bridge_is_the_default, |host| {
    for options in
        [&["run"][..], &["run", "--net", "bridge"], &["run", "--network=bridge"], &["run", "--network", "bridge"]]
    {
        let links = host.minirun([options, &["busybox", "ip", "-o", "link"]].concat()).ok();
        assert_eq!(names_of_links(&links), ["lo", "eth0"]);
    }
});

host_test!(bridge_reaches_the_gateway, |host| {
    let gateway = gateway_of(host).to_string();
    inside(host, "--net=bridge", &["ping", "-c", "1", "-W", "3", &gateway]);
});

host_test!(bridge_works_from_the_first_packet, |host| {
    let gateway = gateway_of(host).to_string();
    for _ in 0..10 {
        let start = Instant::now();
        inside(host, "--net=bridge", &["ping", "-c", "1", "-W", "1", &gateway]);
        // A bridge port that does not forward yet, or an address that is checked for duplicates, loses the first packet.
        assert!(start.elapsed() < Duration::from_millis(900), "{:?}", start.elapsed());
    }
});

host_test!(containers_reach_each_other, |host| {
    let (server, address) = resident(host, &[], "true");
    pings(host, address);
    let (other, other_address) = resident(host, &["--cap-add=NET_RAW"], &format!("ping -c 1 -W 1 {address}"));
    assert_ne!(address, other_address);
    let listener = host.in_network_of(server.child().expect("an init"), move || listen(address, 7002));
    let client = host.minirun(["run", "busybox", "nc", &address.to_string(), "7002"]).start();
    let (stream, peer) = accepted(host, &listener);
    assert_ne!(peer, IpAddr::V4(gateway_of(host)), "between containers nothing is masqueraded");
    drop(stream);
    for one in [client, server, other] {
        one.wait();
    }
});

host_test!(the_lan_sees_the_hosts_address, |host| {
    let listener = host.in_lan(|| listen(GATEWAY, 7003));
    let client = host.minirun(["run", "busybox", "nc", "192.0.2.1", "7003"]).start();
    let (mut stream, peer) = accepted(host, &listener);
    assert_eq!(peer, IpAddr::V4(HOST), "masqueraded");
    stream.write_all(b"from the LAN\n").expect("write");
    drop(stream);
    assert_eq!(client.wait().stdout, "from the LAN\n");
});

host_test!(the_outside_is_in_reach, |host| {
    pings(host, OUTSIDE);
    let listener = host.in_lan(|| listen(OUTSIDE, 7004));
    let client = host.minirun(["run", "busybox", "nc", &OUTSIDE.to_string(), "7004"]).start();
    let (mut stream, _) = accepted(host, &listener);
    stream.write_all(b"from outside\n").expect("write");
    drop(stream);
    assert_eq!(client.wait().stdout, "from outside\n");
});

host_test!(the_lan_cannot_open_connections, |host| {
    let (server, address) = resident(host, &[], "true");
    let pid = server.child().expect("an init");
    let _listener = host.in_network_of(pid, || TcpListener::bind(("0.0.0.0", 7005)).expect("bind"));
    assert!(connects(address, 7005), "the host does reach its containers");
    host.lan(&format!("ip route add {address}/32 via {HOST}")).ok();
    assert!(!host.in_lan(move || connects(address, 7005)), "the LAN has opened a connection to {address}");
    assert_ne!(host.lan(&format!("busybox ping -c 1 -W 1 {address}")).run().code, 0, "the LAN has pinged {address}");
    server.wait();
});

host_test!(the_host_routes_for_nobody_else, |host| {
    // A second network of the host, which it did not forward to before minirun came.
    host.sh(
        "ip netns add far; ip link add eth1 type veth peer name far0 netns far; ip link set eth1 up
         ip addr add 203.0.113.1/24 dev eth1
         ip -n far link set far0 up; ip -n far addr add 203.0.113.2/24 dev far0; ip -n far route add default via 203.0.113.1",
    )
    .ok();
    host.lan(&format!("ip route add 203.0.113.0/24 via {HOST}")).ok();
    host.lan("busybox ping -c 1 -W 1 203.0.113.1").ok();
    inside(host, "--net=bridge", &["true"]);
    assert_ne!(
        host.lan("busybox ping -c 1 -W 1 203.0.113.2").run().code,
        0,
        "the host forwards from the LAN to another network"
    );
    // A container reaches it all the same.
    pings(host, Ipv4Addr::new(203, 0, 113, 2));
    host.sh("ip link del eth1; ip netns del far").ok();
    // The rule that keeps the second uplink's traffic out names it for good.
    host.settle();
});

host_test!(fifty_starts_side_by_side, within 180, |host| {
    let script = "ip -o -4 addr show eth0; echo ready; cat";
    let start = || host.minirun(["run", "-i", "busybox", "sh", "-c", script]).held().start();
    let mut all: Vec<_> = (0..50).map(|_| start()).collect();
    let addresses: BTreeSet<_> = all.iter_mut().map(|one| address_in(&one.says("ready"))).collect();
    assert_eq!(addresses.len(), 50, "{addresses:?}");
    all.iter_mut().for_each(Running::release);
    for one in all {
        let output = one.wait();
        assert_eq!(output.code, 0, "{output}");
    }
});

host_test!(cold fifty_first_starts_side_by_side, |host| {
    // Image, bridge, table and leases are all missing, and fifty want to make them.
    let all: Vec<_> = (0..50).map(|_| host.minirun(["run", "busybox", "ip", "-o", "-4", "addr", "show", "eth0"]).start()).collect();
    for one in all {
        let output = one.wait();
        assert_eq!(output.code, 0, "{output}");
        address_in(&output.stdout);
    }
    host.soon("the links go", || host.sh("ls /sys/class/net/minirun0/brif").ok().is_empty());
});

host_test!(the_mtu_is_the_uplinks, |host| {
    let links = inside(host, "--net=bridge", &["ip", "-o", "link", "show", "eth0"]);
    assert!(links.contains(&format!("mtu {UPLINK_MTU} ")), "{links}");
    // The largest packet passes, whole: 20 bytes of IP and 8 of ICMP stand before the data.
    let size = (UPLINK_MTU - 28).to_string();
    let ping = ["run", "--cap-add=NET_RAW", "busybox", "ping", "-c", "1", "-W", "1", "-s", &size, "192.0.2.1"];
    host.minirun(ping).ok();
});

host_test!(cold the_mtu_follows_the_uplink, |host| {
    host.sh("ip link set eth0 mtu 1300").ok();
    let links = inside(host, "--net=bridge", &["ip", "-o", "link", "show", "eth0"]);
    assert!(links.contains("mtu 1300 "), "{links}");
    host.sh("ip link set eth0 mtu 1280").ok();
    let links = inside(host, "--net=bridge", &["ip", "-o", "link", "show", "eth0"]);
    assert!(links.contains("mtu 1280 "), "the bridge stands, the uplink has changed: {links}");
});

host_test!(cold a_pool_of_the_hosts_routes_is_not_taken, |host| {
    host.sh("ip route add 10.214.3.0/24 via 192.0.2.1").ok();
    let own = address_in(&inside(host, "--net=bridge", &["ip", "-o", "-4", "addr", "show", "eth0"]));
    let (low, high) = (Ipv4Addr::new(10, 214, 0, 0), Ipv4Addr::new(10, 214, 15, 255));
    assert!(own < low || own > high, "{own} is in a pool that the host routes elsewhere");
    pings(host, gateway_of(host));
});

host_test!(cold a_pool_of_the_hosts_addresses_is_not_taken, |host| {
    host.sh("ip link add other type bridge; ip addr add 10.214.0.1/16 dev other; ip link set other up").ok();
    let own = address_in(&inside(host, "--net=bridge", &["ip", "-o", "-4", "addr", "show", "eth0"]));
    assert_ne!(own.octets()[..2], [10, 214], "{own} is in a network of the host");
    pings(host, gateway_of(host));
});

host_test!(the_bridge_is_made_when_missing, |host| {
    let before = host.sh("cat /sys/class/net/minirun0/address").ok();
    let (one, _) = resident(host, &[], "true");
    assert_eq!(before, host.sh("cat /sys/class/net/minirun0/address").ok(), "a port has changed the bridge's MAC");
    one.wait();
    host.sh("ip link del minirun0").ok();
    let gateway = inside(host, "--net=bridge", &["ip", "route"]);
    assert!(gateway.contains(&gateway_of(host).to_string()), "{gateway}");
    assert_eq!(before, host.sh("cat /sys/class/net/minirun0/address").ok());
    // The new bridge has another index: the rest is compared by the other tests.
    host.settle();
});

host_test!(cold forwarding_is_switched_on_and_said, |host| {
    let output = host.minirun(["run", "busybox", "true"]).run();
    assert_eq!(output.code, 0, "{output}");
    assert!(output.stderr.contains("forward"), "{output}");
    assert_eq!(output.stdout, "");
    let again = host.minirun(["run", "busybox", "true"]).run();
    assert_eq!(again.stderr, "", "said again: {again}");
});

host_test!(cold none_changes_nothing_of_the_hosts_network, |host| {
    inside(host, "--net=none", &["true"]);
    host.settle();
    inside(host, "--net=none", &["true"]);
    inside(host, "--net=host", &["true"]);
    host.nothing_left();
    let said = host.sh("ip -o link; nft list ruleset; cat /proc/sys/net/ipv4/conf/all/forwarding").ok();
    assert!(!said.contains("minirun") && said.ends_with("0\n"), "{said}");
});

host_test!(foreign_rules_stay, |host| {
    host.sh("nft 'add table inet foreign; add chain inet foreign forward { type filter hook forward priority 0; policy accept; }'").ok();
    let before = host.sh("nft list table inet foreign").ok();
    inside(host, "--net=bridge", &["true"]);
    assert_eq!(before, host.sh("nft list table inet foreign").ok());
    host.sh("nft flush ruleset").ok();
    // Whoever flushes everything takes our rules too: the next container has them again.
    pings(host, OUTSIDE);
});

host_test!(names_and_addresses_are_in_etc_hosts, |host| {
    let gateway = gateway_of(host).to_string();
    let script = "cat /etc/hosts; ip -o -4 addr show eth0";
    let said = host.minirun(["run", "--name", "web", "busybox", "sh", "-c", script]).ok();
    let own = address_in(&said).to_string();
    let line_of =
        |address: &str| said.lines().find(|line| line.split_whitespace().next() == Some(address)).unwrap_or_default();
    assert!(line_of(&own).split_whitespace().any(|word| word == "web"), "{said}");
    assert!(line_of("127.0.0.1").contains("localhost"), "{said}");
    assert!(!line_of(&gateway).is_empty(), "the gateway {gateway} has no name: {said}");
    let output = host.minirun(["run", "--add-host", "db:203.0.113.5", "busybox", "cat", "/etc/hosts"]).ok();
    assert!(output.lines().any(|line| line.split_whitespace().eq(["203.0.113.5", "db"])), "{output}");
});

host_test!(the_name_of_the_host_is_one, |host| {
    for options in [&[][..], &["--hostname", "tower"], &["-h", "tower"], &["--name", "web"], &["--net=none"]] {
        let script = "uname -n; hostname; cat /etc/hostname";
        let said = host.minirun([&["run"], options, &["busybox", "sh", "-c", script]].concat()).ok();
        let names: BTreeSet<_> = said.lines().collect();
        assert_eq!((names.len(), said.lines().count()), (1, 3), "{said}");
        assert!(!options.contains(&"tower") || names.contains("tower"), "{said}");
        assert_ne!(said.lines().next().expect("a line"), host.sh("uname -n").ok().trim());
    }
});

host_test!(the_resolver_is_its_own_one, |host| {
    host.write("/etc/resolv.conf", "nameserver 127.0.0.53\nsearch example.org\noptions edns0\n");
    // Who is asked then is what names.rs tests.
    for options in [&[][..], &["--dns=203.0.113.53"]] {
        let said = host.minirun([&["run"], options, &["busybox", "cat", "/etc/resolv.conf"]].concat()).ok();
        assert_eq!(said, "nameserver 127.0.0.11\nsearch example.org\noptions edns0\n", "{options:?}");
    }
    // Where nothing can be asked, nobody answers, unless the container is connected to a network.
    assert_eq!(inside(host, "--net=none", &["cat", "/etc/resolv.conf"]), "nameserver 127.0.0.11\n");
});

host_test!(on_the_hosts_network_the_resolvers_are_the_hosts, |host| {
    host.write("/etc/resolv.conf", "nameserver 127.0.0.53\noptions edns0\n");
    // The stub is in reach there.
    assert_eq!(inside(host, "--net=host", &["cat", "/etc/resolv.conf"]), "nameserver 127.0.0.53\noptions edns0\n");
    let options = ["run", "--net=host", "--dns=203.0.113.53", "busybox", "cat", "/etc/resolv.conf"];
    let said = host.minirun(options).ok();
    assert!(said.contains("nameserver 203.0.113.53") && !said.contains("127.0.0.53"), "{said}");
});

host_test!(cold dry_run_prints_commands_and_changes_nothing, |host| {
    let said = host.minirun(["run", "--dry-run", "busybox", "true"]).ok();
    host.nothing_left();
    for words in ["ip link add", "minirun0", "route add default", "nft", "sysctl", "masquerade"] {
        assert!(said.contains(words), "`{words}` is not in: {said}");
    }
    // Every command has a reason.
    assert!(said.lines().any(|line| line.trim_start().starts_with('#') || line.contains(" # ")), "{said}");
    let said = host.minirun(["run", "--dry-run", "--net=none", "busybox", "true"]).ok();
    assert!(said.contains("link set lo up"), "{said}");
    host.nothing_left();
});

host_test!(cold the_printed_commands_make_the_same_network, |host| {
    let script = host.minirun(["run", "--dry-run", "busybox", "true"]).ok();
    let look = "ip -d -o link show minirun0 | sed 's/^[0-9]*: //; s/_timer *[0-9.]*//g'; ip -o addr show minirun0 | sed 's/^[0-9]*: //'
        ip route show table all dev minirun0; nft list ruleset; cat /proc/sys/net/ipv4/conf/*/forwarding";
    host.sh(&script).ok();
    let name = host.sh("ip netns list | grep -v lan | cut -d ' ' -f 1").ok();
    for address in [gateway_of(host), GATEWAY, OUTSIDE] {
        host.sh(&format!("ip netns exec {} busybox ping -c 1 -W 2 {address}", name.trim())).ok();
    }
    let container = "ip -o -4 addr show eth0 | cut -d ' ' -f 3-7; ip route";
    let inside_by_hand = host.sh(&format!("ip netns exec {} busybox sh -c \"{container}\"", name.trim())).ok();
    host.sh(&format!("ip netns del {}", name.trim())).ok();
    let no_links = || host.sh("ls /sys/class/net/minirun0/brif").ok().is_empty();
    host.soon("the link goes", no_links);
    let by_hand = host.sh(look).ok();

    host.sh("ip link del minirun0; nft delete table inet minirun; sysctl -qw net.ipv4.conf.eth0.forwarding=0; rm -rf /run/minirun").ok();
    let inside = inside(host, "--net=bridge", &["sh", "-c", container]);
    host.soon("the link goes", no_links);
    assert_eq!(by_hand, host.sh(look).ok());
    assert_eq!(inside_by_hand, inside);
});
