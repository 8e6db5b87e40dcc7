//! The drivers of networks beside bridge: containers on the LAN (macvlan), on a network that spans hosts (vxlan), and two at
//! the ends of a cable (ptp).

mod host;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use host::{
    ALL, By, GATEWAY, GATEWAY6, HOST, Host, Mirror, NONE, ON_LAN, OUTSIDE, Output, Snapshot, UPLINK_MTU, asks,
    host_test, in_network, kill_hard, ways,
};
use serde_json::{Value, json};

const PORTS: &[u16] = &[7000];

/// Defines a macvlan network on the uplink: a part of the LAN's addresses that neither the host nor its gateway has.
const LAN: [&str; 8] = {
    let [driver, rest @ ..] = ON_LAN;
    let [subnet, gateway, range, ipv6, subnet6, gateway6] = rest;
    [driver, "--opt=parent=eth0", subnet, gateway, range, ipv6, subnet6, gateway6]
};

/// What `network inspect` says of one network.
#[track_caller]
fn inspected(host: &Host, name: &str) -> Value {
    let said: Value = serde_json::from_str(&host.minirun(["network", "inspect", name]).ok()).expect("JSON");
    said[0].clone()
}

/// A command is refused, names all of `words`, and has changed nothing.
#[track_caller]
fn refused(host: &Host, arguments: &[&str], words: &[&str]) {
    names_all(&host.minirun(arguments.iter().copied()).run(), words);
    host.nothing_left();
}

#[track_caller]
fn names_all(output: &Output, words: &[&str]) {
    assert_eq!((output.code, output.stdout.as_str()), (125, ""), "{output}");
    assert!((1..=2).contains(&output.stderr.lines().count()), "{output}");
    assert!(words.iter().all(|word| output.stderr.contains(word)), "not all of {words:?} are in: {output}");
}

/// The links of the host, without what they are joined to.
fn links(host: &Host) -> Vec<String> {
    let said = host.sh("ip -o link").ok();
    let name = |line: &str| line.split(": ").nth(1).map(|name| name.split('@').next().unwrap_or(name).to_owned());
    said.lines().filter_map(name).collect()
}

/// What a program in a container writes.
#[track_caller]
fn inside(host: &Host, container: &str, command: &[&str]) -> String {
    host.minirun([&["exec", container], command].concat()).ok()
}

fn network_of(pid: u32) -> String {
    format!("/proc/{pid}/ns/net")
}

host_test!(a_macvlan_container_is_a_machine_of_the_lan, |host| {
    host.has_had_networks();
    let before = links(host);
    host.network(&LAN, "lan");
    let (one, two) = (host.member(&["--net=lan"], "one"), host.member(&["--net=lan:alias=db,ifname=lan0"], "two"));
    assert_eq!((one.address, two.address), (Ipv4Addr::new(192, 0, 2, 192), Ipv4Addr::new(192, 0, 2, 193)));
    let one6: Ipv6Addr = "2001:db8:1::c0".parse().expect("an address");
    assert_eq!(one.address6, Some(one6));
    // Nothing of it is on the host: no link, no element of the table.
    assert_eq!(links(host), before);
    let rules = host.sh("nft list table inet minirun").ok();
    assert!(!rules.contains("192.0.2.") && !rules.contains("2001:db8:1:"), "{rules}");

    let link = inside(host, "one", &["ip", "-o", "link", "show", "eth0"]);
    assert!(link.contains(&format!("mtu {UPLINK_MTU}")) && link.contains("LOWER_UP"), "{link}");
    assert!(inside(host, "two", &["ip", "-o", "link"]).contains("lan0@"), "{link}");
    let routes = inside(host, "one", &["ip", "route"]) + &inside(host, "one", &["ip", "-6", "route"]);
    for way in ["default via 192.0.2.1", "default via 2001:db8:1::1"] {
        assert!(routes.contains(way), "{routes}");
    }
    // The LAN sees it at its own address, and reaches all its ports there; so does who is behind the router.
    let lan = Mirror::of_lan(host, PORTS);
    for (address, own) in [(IpAddr::from(GATEWAY), one.address.into()), (GATEWAY6.into(), IpAddr::from(one6))] {
        assert_eq!(host.in_network_of(one.pid, move || asks(By::Tcp, address, 7000)), Some(own));
    }
    assert_eq!(host.in_network_of(one.pid, || asks(By::Udp, OUTSIDE, 7000)), Some(one.address.into()));
    let mirror = Mirror::of(host, one.pid, PORTS);
    let own: [IpAddr; 2] = [one.address.into(), one6.into()];
    assert_eq!(ways("/run/netns/lan", &own, 7000), own.map(|address| (address, ALL.to_vec())));
    host.lan(&format!("ip route add {}/32 dev host0 src {OUTSIDE}", one.address)).ok();
    let address = one.address;
    assert_eq!(host.in_lan(move || asks(By::Tcp, address, 7000)), Some(OUTSIDE.into()));
    host.lan(&format!("ip route del {}/32", one.address)).ok();
    // Each other, by name too, but not the host, from either side.
    assert_eq!(ways(&network_of(two.pid), &own, 7000), own.map(|address| (address, ALL.to_vec())));
    let names = inside(host, "one", &["nslookup", "db"]);
    assert!(names.contains("192.0.2.193") && names.contains("2001:db8:1::c1"), "{names}");
    assert!(inside(host, "two", &["nslookup", "one.lan"]).contains("192.0.2.192"));
    assert_eq!(ways(&network_of(1), &own, 7000), own.map(|address| (address, NONE.to_vec())));
    let host_too = [IpAddr::from(HOST)];
    assert_eq!(ways(&network_of(one.pid), &host_too, 7000), host_too.map(|address| (address, NONE.to_vec())));
    let hosts = inside(host, "one", &["cat", "/etc/hosts"]);
    assert!(!hosts.contains("gateway"), "the router is not the host: {hosts}");
    drop((lan, mirror));

    let said = inspected(host, "lan");
    for (key, value) in [
        ("driver", json!("macvlan")),
        ("bridge", Value::Null),
        ("parent", json!("eth0")),
        ("mode", json!("bridge")),
        ("gateway", json!("192.0.2.1")),
        ("ip_range", json!("192.0.2.192/27")),
        ("made", json!(true)),
    ] {
        assert_eq!(said[key], value, "{key} of {said}");
    }
    assert_eq!(said["members"][0]["host_interface"], Value::Null, "{said}");
    assert_eq!(
        host.minirun(["network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Members}}"]).ok(),
        "bridge bridge 0\nlan macvlan 2\n"
    );
    assert!(host.minirun(["network", "rm", "lan"]).fails(125).contains("one, two"));
    host.remove_networks(&["lan"]);
});

host_test!(an_internal_macvlan_network_keeps_to_its_lan, |host| {
    host.has_had_networks();
    host.network(&[&LAN[..], &["--internal"]].concat(), "lan");
    let one = host.member(&["--net=lan"], "one");
    assert!(!inside(host, "one", &["ip", "route"]).contains("default"));
    let mirror = Mirror::of(host, one.pid, PORTS);
    let own: [IpAddr; 2] = [one.address.into(), one.address6.expect("an address").into()];
    assert_eq!(ways("/run/netns/lan", &own, 7000), own.map(|address| (address, ALL.to_vec())));
    // Somebody from elsewhere is not let in, even where an answer would find back.
    host.sh(&format!("nsenter --net={} ip route add {OUTSIDE}/32 via {GATEWAY}", network_of(one.pid))).ok();
    host.lan(&format!("ip route add {}/32 dev host0 src {OUTSIDE}", one.address)).ok();
    let address = one.address;
    assert_eq!(host.in_lan(move || asks(By::Tcp, address, 7000)), None);
    host.lan(&format!("ip route del {}/32", one.address)).ok();
    drop(mirror);
    host.remove_networks(&["lan"]);
});

host_test!(modes_of_macvlan, |host| {
    host.has_had_networks();
    host.network(&[&LAN[..], &["--opt=mode=private"]].concat(), "lan");
    let (one, two) = (host.member(&["--net=lan"], "one"), host.member(&["--net=lan"], "two"));
    let (mirror, lan) = (Mirror::of(host, one.pid, PORTS), Mirror::of_lan(host, PORTS));
    assert_eq!(ways(&network_of(two.pid), &[one.address.into()], 7000), [(one.address.into(), NONE.to_vec())]);
    assert_eq!(ways(&network_of(two.pid), &[GATEWAY.into()], 7000), [(GATEWAY.into(), ALL.to_vec())]);
    drop((mirror, lan));
    host.remove_networks(&["lan"]);
    host.nothing_left();

    // One that has a link as a whole has its address, and nobody else can be on it.
    host.sh("ip link add p0 mtu 1300 type veth peer name p1 netns lan; ip link set p0 up addrgenmode none
        ip -n lan link set p1 up addrgenmode none; ip -n lan addr add 10.77.0.1/24 dev p1")
        .ok();
    host.settle();
    let options = ["--driver=macvlan", "-o", "parent=p0", "-o", "macvlan_mode=passthru", "--subnet=10.77.0.0/24"];
    let said = host.minirun([&["network", "create"], &options[..], &["whole"]].concat()).run();
    assert!(said.code == 0 && said.stderr.contains("all that comes in by `p0` is that container's"), "{said}");
    let one = host.member(&["--net=whole"], "one");
    let mac = host.sh("cat /sys/class/net/p0/address").ok();
    assert_eq!(inside(host, "one", &["cat", "/sys/class/net/eth0/address"]), mac);
    assert_eq!(host.inspect("one", "(index .NetworkSettings.Interfaces 0).MacAddress"), mac.trim());
    assert_eq!(ways(&network_of(one.pid), &["10.77.0.1".parse().expect("an address")], 7000)[0].1, ["ping"]);
    let failed = host.minirun(["run", "--net=whole", "busybox", "true"]).run();
    names_all(&failed, &["add macvlan link `eth0` on `p0`", "passthru"]);
    let failed = host.minirun(["run", "--net=whole:mac=02:00:00:00:00:09", "busybox", "true"]).run();
    names_all(&failed, &["mac=", "passthru"]);
    host.network(&["--driver=macvlan", "-o", "parent=p0", "--subnet=10.78.0.0/24"], "other");
    names_all(&host.minirun(["run", "--net=other", "busybox", "true"]).run(), &["`p0`", "as a whole"]);
    host.remove_networks(&["whole", "other"]);
    host.nothing_left();
    host.sh("ip link del p0").ok();
    host.settle();
});

host_test!(what_macvlan_cannot_do, within 120, |host| {
    host.has_had_networks();
    let create = |options: &[&str], words: &[&str]| {
        refused(host, &[&["network", "create", "--driver=macvlan"], options, &["x"]].concat(), words);
    };
    let subnet = "--subnet=192.0.2.0/24";
    create(&[subnet], &["on which link", "--opt parent=eth0"]);
    create(&["--opt=parent=eth0"], &["which addresses", "--subnet"]);
    create(&["--opt=parent=eth0", subnet, "--ipv6"], &["which IPv6 addresses", "--subnet"]);
    create(&["--opt=parent=eth9", subnet], &["`eth9`", "no link of this host", "ip link"]);
    create(&["--opt=parent=eth0.10", subnet], &["`eth0.10`", "makes no VLANs", "type vlan id 10"]);
    create(&["--opt=parent=lo", subnet], &["parent=lo"]);
    create(&["--opt=parent=eth0", "--opt=mode=source", subnet], &["mode=source", "bridge, private, vepa, passthru"]);
    create(&["--opt=parent=eth0", "--opt=stp=on", subnet], &["stp=on", "known of driver macvlan are parent and mode"]);
    create(&["--opt=parent=eth0", "--mtu=1401", subnet], &["mtu 1401", "1400"]);
    create(&["--opt=parent=eth0", "--isolate", subnet], &["--isolate", "mode=private"]);
    create(&["--opt=parent=eth0", "--remote=192.0.2.9", subnet], &["--remote", "vxlan"]);
    create(&["--opt=parent=eth0", "--ip-range=10.0.0.0/24", subnet], &["--ip-range 10.0.0.0/24"]);
    host.network(&LAN, "lan");
    host.settle();
    create(&["--opt=parent=eth0", "--subnet=192.0.2.128/25"], &["192.0.2.0/24", "network `lan`", "given out twice"]);
    create(&["--opt=parent=eth0", "--subnet=10.77.0.0/24", "--subnet=2001:db8:1::/64"], &["network `lan`"]);
    host.remove_networks(&["lan"]);
    host.settle();

    host.sh(
        "ip link add p0 type veth peer name p1
        ip link set p0 up addrgenmode none; ip link set p1 up addrgenmode none",
    )
    .ok();
    let range = "--ip-range=10.77.0.0/29";
    host.network(&["--driver=macvlan", "--opt=parent=p0", "--subnet=10.77.0.0/24", range], "x");
    let run = |options: &[&str], words: &[&str]| {
        refused(host, &[&["run"], options, &["busybox", "true"]].concat(), words);
    };
    host.minirun(["run", "--net=x", "busybox", "true"]).ok();
    host.settle();
    run(&["--net=x", "-p", "8080:80"], &["publish a port", "macvlan", "own address"]);
    run(&["--net=x", "--net=bridge", "-p", "8080:80"], &["publish a port", "gw-prio"]);
    run(&["--net=x:host-ifname=h0"], &["host-ifname", "macvlan"]);
    run(&["--net=x:hairpin"], &["hairpin", "macvlan"]);
    run(&["--net=x:mtu=1501"], &["mtu 1501", "1500"]);
    run(&["--net=x:ip=10.77.0.1"], &["10.77.0.1", "gateway"]);
    run(&["--net=x", "--add-host=a:host-gateway"], &["host-gateway"]);
    // The host's own addresses on the LAN are not given out.
    host.sh("for last in 3 4 5 6; do ip addr add 10.77.0.$last/24 dev p0; done").ok();
    host.settle();
    run(&["--net=x:ip=10.77.0.4"], &["10.77.0.4", "this host's own"]);
    for _ in 0..4 {
        let said = host.minirun(["run", "--net=x", "busybox", "ip", "-o", "addr", "show", "eth0"]).ok();
        assert!(said.contains("10.77.0.2/24") || said.contains("10.77.0.7/24"), "{said}");
    }
    for name in ["one", "two"] {
        host.minirun(["run", "-d", "--name", name, "--net=x", "busybox", "sleep", "1000"]).ok();
    }
    let full = host.minirun(["run", "--net=x", "busybox", "true"]).fails(125);
    assert!(full.contains("all 2 of 10.77.0.0/29 are in use"), "{full}");
    host.minirun(["rm", "-f", "one", "two"]).ok();
    // With a way out by a bridge, ports are published there.
    host.minirun(["run", "--net=x", "--net=bridge:gw-prio=1", "-p", "8080:80", "busybox", "true"]).ok();

    // The parent changes after the network was made.
    host.sh("ip link set p0 down").ok();
    host.settle();
    run(&["--net=x"], &["`p0` is down", "ip link set p0 up"]);
    host.sh("ip link set p0 up; ip link add br7 type bridge; ip link set p0 master br7").ok();
    host.settle();
    run(&["--net=x"], &["`p0` is a port of `br7`", "--opt parent=br7"]);
    host.sh("ip link del br7; ip link del p0").ok();
    host.settle();
    run(&["--net=x"], &["`p0` is no link of this host"]);
    // A network whose parent is gone can be removed.
    host.minirun(["network", "rm", "x"]).ok();
    host.settle();
});

host_test!(drivers_and_options_that_are_not, |host| {
    host.has_had_networks();
    let create = |options: &[&str], words: &[&str]| {
        refused(host, &[&["network", "create"], options, &["x"]].concat(), words);
    };
    create(&["--driver=ipvlan"], &["minirun has no driver `ipvlan`", "macvlan"]);
    create(&["--driver=vlan"], &["minirun has no driver `vlan`", "parent=eth0.10"]);
    create(&["--driver=overlay"], &["`overlay`", "vxlan", "--remote"]);
    create(&["--driver=host"], &["`host`", "--net=host"]);
    create(&["--driver=red"], &["`red`", "known are bridge, macvlan, vxlan and ptp"]);
    create(&["--opt=vlan_filtering=1"], &["vlan_filtering", "no VLANs"]);
    create(&["--remote=192.0.2.9"], &["--remote", "--driver vxlan"]);
    create(&["--driver=vxlan"], &["nobody is at the other end", "--remote ADDRESS"]);
    create(&["--driver=vxlan", "--remote=192.0.2.9", "--isolate"], &["--isolate"]);
    create(&["--driver=vxlan", "--remote=192.0.2.9", "--remote=fd00::9"], &["fd00::9", "version of IP"]);
    create(&["--driver=vxlan", "--remote=239.1.1.1"], &["239.1.1.1", "not the address of a host"]);
    create(&["--driver=vxlan", "--opt=group=239.1.1.1"], &["239.1.1.1", "--opt dev=LINK"]);
    create(&["--driver=vxlan", "--opt=group=192.0.2.9"], &["group=192.0.2.9", "multicast"]);
    create(&["--driver=vxlan", "--opt=vni=16777216", "--remote=192.0.2.9"], &["vni", "16777215"]);
    create(&["--driver=ptp", "--opt=stp=on"], &["driver ptp has no options"]);
    for option in ["--gateway=10.0.0.1", "--ip-range=10.0.0.0/30", "--isolate", "--remote=192.0.2.9"] {
        create(&["--driver=ptp", option], &[option.split('=').next().expect("a word"), "driver ptp"]);
    }
});

host_test!(macvlan_while_it_runs, |host| {
    host.has_had_networks();
    host.network(&LAN, "lan");
    host.member(&["--net=lan"], "neighbour");
    host.minirun(["run", "-d", "--name", "one", "--net=none", "busybox", "sleep", "1000"]).ok();
    let pid = host.pid_of("one");
    host.minirun(["network", "connect", "--alias", "db", "lan:ip=192.0.2.200", "one"]).ok();
    let lan = Mirror::of_lan(host, PORTS);
    assert_eq!(host.in_network_of(pid, || asks(By::Tcp, OUTSIDE, 7000)), Some(IpAddr::from([192, 0, 2, 200])));
    assert!(inside(host, "neighbour", &["nslookup", "db"]).contains("192.0.2.200"));
    names_all(&host.minirun(["network", "connect", "lan", "one"]).run(), &["the container is on it"]);
    names_all(&host.minirun(["run", "--net=lan:ip=192.0.2.200", "busybox", "true"]).run(), &["192.0.2.200", "in use"]);
    // Beside a bridge, which then has the way out.
    host.minirun(["network", "connect", "bridge", "one"]).ok();
    host.minirun(["network", "disconnect", "lan", "one"]).ok();
    assert_eq!(host.in_network_of(pid, || asks(By::Tcp, OUTSIDE, 7000)), Some(HOST.into()));
    assert!(!inside(host, "one", &["ip", "-o", "addr"]).contains("192.0.2."));
    host.minirun(["network", "connect", "lan:ip=192.0.2.200", "one"]).ok();
    assert_eq!(host.in_network_of(pid, || asks(By::Tcp, GATEWAY, 7000)), Some(IpAddr::from([192, 0, 2, 200])));
    drop(lan);
    // One after the other has the same address, and with it the same hardware address.
    for _ in 0..5 {
        host.minirun(["run", "--net=lan:ip=192.0.2.201", "busybox", "ping", "-c1", "-W2", "192.0.2.1"]).ok();
    }
    // It is nobody's when its container was killed.
    kill_hard(host.holder_of("one"));
    let again = ["run", "--net=lan:ip=192.0.2.200", "busybox", "true"];
    host.soon("the address is free", || host.minirun(again).run().code == 0);
    host.minirun(["rm", "-f", "one"]).run();
    host.minirun(["restart", "neighbour"]).ok();
    assert_eq!(host.member_called("neighbour").address.octets()[..3], [192, 0, 2]);
    host.remove_networks(&["lan"]);
    host.bury();
});

/// What a cable's two members have of each other.
#[track_caller]
fn joined(host: &Host, one: &str, two: &str) {
    let (one, two) = (host.member_called(one), host.member_called(two));
    for (from, to) in [(&one, &two), (&two, &one)] {
        let mirror = Mirror::of(host, to.pid, PORTS);
        let all: Vec<IpAddr> = std::iter::once(to.address.into()).chain(to.address6.map(IpAddr::from)).collect();
        let reached: Vec<_> = all.iter().map(|address| (*address, ALL.to_vec())).collect();
        assert_eq!(ways(&network_of(from.pid), &all, 7000), reached, "{} to {}", from.name, to.name);
        drop(mirror);
        let said = inside(host, &from.name, &["nslookup", &to.name]);
        assert!(said.contains(&to.address.to_string()), "{said}");
    }
}

host_test!(a_cable_joins_two, within 120, |host| {
    host.has_had_networks();
    let before = links(host);
    host.network(&["--driver=ptp", "--ipv6"], "cable");
    let said = inspected(host, "cable");
    for (key, value) in [("driver", json!("ptp")), ("gateway", Value::Null), ("gateway6", Value::Null)] {
        assert_eq!(said[key], value, "{key} of {said}");
    }
    assert!(said["subnet"].as_str().is_some_and(|net| net.ends_with("/30")) && said["internal"] == true, "{said}");
    // The first has its address from its beginning on, though nobody is at the other end.
    let first = "ip -o addr show dev eth0; ip -o link show dev eth0; sleep 1000";
    host.minirun(["run", "-d", "--name", "one", "--net=cable", "busybox", "sh", "-c", first]).ok();
    let one = host.member_called("one");
    host.soon("it has an address", || host.logs("one").contains("NO-CARRIER"));
    let logs = host.logs("one");
    let own6 = one.address6.expect("an address");
    assert!(logs.contains(&format!("{}/30", one.address)) && logs.contains(&format!("{own6}/64")), "{logs}");
    assert!(!logs.contains("tentative"), "{logs}");
    let two = host.member(&["--net=cable:ifname=wire0,mtu=1280,mac=02:00:00:00:00:07,alias=db"], "two");
    joined(host, "one", "two");
    assert!(inside(host, "one", &["nslookup", "db"]).contains(&two.address.to_string()));
    let link = host.sh(&format!("nsenter --net={} ip -o link show wire0", network_of(two.pid))).ok();
    assert!(link.contains("02:00:00:00:00:07") && link.contains("mtu 1280") && !link.contains("alias"), "{link}");
    assert!(!inside(host, "two", &["ip", "route"]).contains("default"));
    // Nothing of it is on the host.
    assert_eq!(links(host), before);
    assert_eq!(ways(&network_of(1), &[one.address.into()], 80), [(one.address.into(), NONE.to_vec())]);

    let third = ["run", "--net=cable", "busybox", "true"];
    names_all(&host.minirun(third).run(), &["use network `cable`", "`one`", "`two`", "joins two"]);
    names_all(&host.minirun(["run", "--dry-run", "--net=cable", "busybox", "true"]).run(), &["`one`", "`two`"]);
    names_all(&host.minirun(["network", "rm", "cable"]).run(), &["in use by", "one", "two"]);

    // Whoever is left is found by the next one, whichever it is, also when the other was killed.
    host.minirun(["rm", "-f", "two"]).ok();
    let port = host.minirun(["run", "--net=cable", "-p", "80", "busybox", "true"]).run();
    names_all(&port, &["publish a port", "ptp"]);
    let script = host.minirun(["run", "--dry-run", "--net=cable", "busybox", "true"]).ok();
    assert!(script.contains("ip -n one link del eth0") && script.contains("ip link set mr-cable netns "), "{script}");
    host.member(&["--net=cable"], "three");
    joined(host, "one", "three");
    kill_hard(host.holder_of("one"));
    host.member(&["--net=cable"], "four");
    joined(host, "three", "four");
    host.minirun(["restart", "three"]).ok();
    joined(host, "three", "four");
    host.minirun(["rm", "-f", "three", "four"]).ok();
    // Both gone: it begins anew.
    host.member(&["--net=cable"], "five");
    host.minirun(["rm", "-f", "five"]).ok();
    host.member(&["--net=cable"], "six");
    host.member(&["--net=cable"], "seven");
    joined(host, "six", "seven");
    host.remove_networks(&["cable"]);
    host.bury();
});

host_test!(cables_while_containers_run, within 120, |host| {
    host.has_had_networks();
    host.network(&["--driver=ptp", "--subnet=10.88.0.0/31"], "left");
    host.network(&["--driver=ptp", "--subnet=10.89.0.0/24", "--mtu=9000"], "right");
    host.member(&["--net=bridge"], "middle");
    // A network of two: both of its addresses are hosts'.
    host.member(&["--net=left"], "one");
    host.minirun(["network", "connect", "left", "middle"]).ok();
    host.minirun(["network", "connect", "right:ip=10.89.0.77,ifname=wire0", "middle"]).ok();
    host.member(&["--net=right"], "two");
    let pid = host.pid_of("middle");
    let mirrors = ["one", "two"].map(|name| Mirror::of(host, host.pid_of(name), PORTS));
    for (to, own) in [([10, 88, 0, 0], [10, 88, 0, 1]), ([10, 89, 0, 78], [10, 89, 0, 77])] {
        let to = if to[1] == 89 { host.member_called("two").address.into() } else { IpAddr::from(to) };
        assert_eq!(host.in_network_of(pid, move || asks(By::Tcp, to, 7000)), Some(IpAddr::from(own)));
    }
    drop(mirrors);
    assert!(inside(host, "two", &["ip", "-o", "link"]).contains("mtu 9000"));
    let networks = host.minirun(["ps", "--filter", "name=middle", "--format", "{{.Network}}"]).ok();
    assert_eq!(networks, "bridge,left,right\n");
    // Its way out stays the bridge's.
    assert!(inside(host, "middle", &["ip", "route"]).contains("default via 10.214.0.1"));
    host.minirun(["network", "disconnect", "left", "middle"]).ok();
    assert!(!inside(host, "middle", &["ip", "-o", "addr"]).contains("10.88."));
    host.minirun(["network", "connect", "left", "middle"]).ok();
    let mirror = Mirror::of(host, host.pid_of("one"), PORTS);
    assert!(host.in_network_of(pid, || asks(By::Udp, IpAddr::from([10, 88, 0, 0]), 7000)).is_some());
    drop(mirror);
    // Further ones still find room.
    host.network(&[], "more");
    host.minirun(["network", "connect", "more", "middle"]).ok();
    host.minirun(["network", "connect", "more", "one"]).ok();
    host.remove_networks(&["left", "right", "more"]);
    host.settle();
});

host_test!(of_three_that_start_at_once_two_are_at_the_ends, within 120, |host| {
    host.has_had_networks();
    host.network(&["--driver=ptp"], "cable");
    for _ in 0..3 {
        let names = ["one", "two", "three"];
        let started = names.map(|name| {
            host.minirun(["run", "-d", "--name", name, "--net=cable", "busybox", "sleep", "1000"]).start()
        });
        let ended: Vec<(&str, Output)> = names.into_iter().zip(started.map(host::Running::wait)).collect();
        let there: Vec<&str> = ended.iter().filter(|(_, said)| said.code == 0).map(|(name, _)| *name).collect();
        assert_eq!(there.len(), 2, "{ended:?}");
        let refused = ended.iter().find(|(_, said)| said.code != 0).expect("one");
        names_all(&refused.1, &["joins two"]);
        joined(host, there[0], there[1]);
        host.minirun([&["rm", "-f"], &there[..]].concat()).ok();
    }
    host.remove_networks(&["cable"]);
});

/// A second host: a network, files and a root of minirun of its own, joined to the first by a cable.
struct Other<'a> {
    host: &'a Host,
    process: host::Running,
}

impl<'a> Other<'a> {
    /// At 10.99.0.2 and fd99::2; the first host is at .1 of both, by the link `far0`.
    fn new(host: &'a Host) -> Self {
        let script = "mount -t tmpfs none /run; mount -t tmpfs none /var/lib; mount -t sysfs none /sys; \
            ip link set lo up; echo ready; exec sleep 1000";
        let mut process =
            host.sh(&format!("exec unshare --net --mount --propagation private sh -ec '{script}'")).start();
        process.says("ready");
        let pid = process.pid();
        host.sh(&format!(
            "ip link add far0 mtu 1400 type veth peer name near0 mtu 1400 netns {pid}
            ip link set far0 up addrgenmode none; ip addr add 10.99.0.1/24 dev far0; ip addr add fd99::1/64 dev far0 nodad
            alias other='nsenter --net=/proc/{pid}/ns/net'
            other ip link set near0 up addrgenmode none
            other ip addr add 10.99.0.2/24 dev near0; other ip addr add fd99::2/64 dev near0 nodad"
        ))
        .ok();
        host.settle();
        Self { host, process }
    }

    fn sh(&self, script: &str) -> host::Call {
        self.host.sh(&format!("nsenter --target={} --net --mount sh -ec '{script}'", self.process.pid()))
    }

    fn minirun(&self, words: &str) -> host::Call {
        self.sh(&format!("$MINIRUN {words}"))
    }

    /// Its container's network, at which its first process is.
    fn pid_of(&self, container: &str) -> u32 {
        let said = self.minirun(&format!("inspect --format {{{{.State.Pid}}}} {container}")).ok();
        said.trim().parse().expect("a process id")
    }

    /// Ends it.
    fn end(self) {
        self.minirun("system prune").ok();
        self.process.signal(nix::sys::signal::Signal::SIGKILL);
        self.process.wait();
        self.host.sh("ip link del far0 2>/dev/null || true").ok();
        self.host.settle();
    }
}

/// The network `far` on two hosts, one container each, and what those have of each other.
fn span(host: &Host, way: [&str; 2], remotes: &[&str], mtu: &str) {
    let other = Other::new(host);
    let range = ["--driver=vxlan", "--subnet=10.9.0.0/24", "--subnet=fd09::/64"];
    let own = ["--gateway=10.9.0.1", "--gateway=fd09::1", "--ip-range=10.9.0.64/26"];
    host.network(&[&range[..], &way[0].split(' ').collect::<Vec<_>>(), &own].concat(), "far");
    let words = format!(
        "network create {} {} --gateway=10.9.0.2 --gateway=fd09::2 --ip-range=10.9.0.128/26 far",
        range.join(" "),
        way[1]
    );
    other.minirun(&words).ok();
    let one = host.member(&["--net=far"], "one");
    other.minirun("run -d --name two --net=far busybox sleep 1000").ok();
    let two = other.pid_of("two");
    let there: [IpAddr; 2] = ["10.9.0.128", "fd09::80"].map(|address| address.parse().expect("an address"));
    let here: [IpAddr; 2] = [one.address.into(), one.address6.expect("an address").into()];
    assert_eq!(here, ["10.9.0.64", "fd09::40"].map(|address| address.parse::<IpAddr>().expect("an address")));
    let mirrors = [Mirror::of(host, one.pid, PORTS), Mirror::of(host, two, PORTS)];
    assert_eq!(ways(&network_of(one.pid), &there, 7000), there.map(|address| (address, ALL.to_vec())));
    assert_eq!(ways(&network_of(two), &here, 7000), here.map(|address| (address, ALL.to_vec())));
    // Frames: nobody's address is translated on the way.
    assert_eq!(host.in_network_of(one.pid, move || asks(By::Tcp, there[0], 7000)), Some(here[0]));
    // And the whole of a packet fits, also into the host's own.
    assert!(inside(host, "one", &["ip", "-o", "link", "show", "eth0"]).contains(&format!("mtu {mtu}")));
    let size: u32 = mtu.parse::<u32>().expect("a number") - 28;
    inside(host, "one", &["ping", "-c1", "-W2", "-s", &size.to_string(), "10.9.0.128"]);
    drop(mirrors);
    // The way out is its own host's.
    let lan = Mirror::of_lan(host, PORTS);
    assert_eq!(host.in_network_of(one.pid, || asks(By::Tcp, OUTSIDE, 7000)), Some(HOST.into()));
    drop(lan);
    let said = inspected(host, "far");
    for (key, value) in [("driver", json!("vxlan")), ("port", json!(4789)), ("remotes", json!(remotes))] {
        assert_eq!(said[key], value, "{key} of {said}");
    }
    assert_eq!(said["tunnel"], json!("vx-far"), "{said}");
    assert_eq!(host.sh("cat /sys/class/net/vx-far/ifalias").ok(), "minirun:network:far\n");
    names_all(&host.minirun(["network", "rm", "far"]).run(), &["in use by one"]);
    host.remove_networks(&["far"]);
    other.minirun("rm -f two").ok();
    other.minirun("network rm far").ok();
    assert!(!other.sh("ip -o link").ok().contains("-far"));
    other.end();
}

host_test!(vxlan_spans_hosts, within 120, |host| {
    host.has_had_networks();
    span(host, ["--remote=10.99.0.2", "--remote=10.99.0.1"], &["10.99.0.2"], "1350");
});

host_test!(vxlan_spans_hosts_by_ipv6, within 120, |host| {
    host.has_had_networks();
    span(host, ["--remote=fd99::2", "--remote=fd99::1 --opt=local=fd99::2"], &["fd99::2"], "1330");
});

host_test!(vxlan_spans_hosts_by_multicast, within 120, |host| {
    host.has_had_networks();
    let group = "--opt=group=239.1.1.1 --opt=dev=";
    span(host, [&format!("{group}far0"), &format!("{group}near0")], &[], "1350");
});

host_test!(a_tunnel_goes_and_comes_with_its_network, within 120, |host| {
    host.has_had_networks();
    let remotes = ["--remote=192.0.2.9", "--remote=192.0.2.10", "--remote=192.0.2.11"];
    let options = ["--driver=vxlan", "--opt=vni=42", "--opt=port=4790", "--opt=local=192.0.2.2", "--opt=stp=off"];
    let said = host.minirun([&["network", "create"], &options[..], &remotes, &["far"]].concat()).run();
    assert!(said.stderr.contains("on the other hosts") && said.stderr.contains("--opt vni=42"), "{said}");
    let run = ["run", "--net=far", "busybox", "true"];
    let said = host.minirun(run).run();
    assert!(said.code == 0 && said.stderr.contains("made tunnel `vx-far` of number 42 at UDP port 4790"), "{said}");
    let whole = |host: &Host| {
        let link = host.sh("ip -o -d link show vx-far").ok();
        for word in ["vxlan id 42", "local 192.0.2.2", "dstport 4790", "master mr-far", "LOWER_UP", "mtu 1350"] {
            assert!(link.contains(word), "{word}: {link}");
        }
        let entries = host.sh("bridge fdb show dev vx-far").ok();
        for remote in ["192.0.2.9", "192.0.2.10", "192.0.2.11"] {
            assert!(entries.contains(&format!("00:00:00:00:00:00 dst {remote} ")), "{remote}: {entries}");
        }
    };
    whole(host);
    // Whoever takes a part of it away finds it back with the next container; so it is after a reboot.
    for loss in ["ip link del vx-far", "ip link set vx-far nomaster", "ip link set vx-far down", "ip link del mr-far; ip link del vx-far"] {
        host.sh(loss).ok();
        host.minirun(run).ok();
        whole(host);
    }
    host.sh("nft flush ruleset").ok();
    host.minirun(run).ok();
    // While a container is there it is mended at once.
    host.member(&["--net=far"], "one");
    host.sh("ip link del vx-far; nft flush ruleset").ok();
    host.soon("the tunnel comes back", || host.sh("ip -o link show vx-far").run().code == 0);
    host.remove_all();
    whole(host);
    // One of its number cannot be again.
    let again = ["network", "create", "--driver=vxlan", "--remote=192.0.2.9", "--opt=vni=42", "--opt=port=4790", "x"];
    names_all(&host.minirun(again).run(), &["network `far` has the number 42", "--opt vni="]);
    host.minirun(["system", "prune"]).ok();
    assert!(!links(host).iter().any(|link| link.ends_with("-far")));
    host.minirun(run).ok();
    host.minirun(["network", "prune"]).ok();
    assert!(!links(host).iter().any(|link| link.ends_with("-far")));
    host.minirun(["run", "busybox", "true"]).ok();

    // What is somebody else's is not touched.
    host.network(&["--driver=vxlan", "--remote=192.0.2.9", "--opt=vni=43"], "far");
    host.sh("ip link add vx-far type bridge").ok();
    names_all(&host.minirun(run).run(), &["`vx-far`", "not minirun's", "ip link del vx-far"]);
    host.sh("ip link del vx-far; ip link add theirs type vxlan id 43 dstport 4789 remote 192.0.2.9").ok();
    names_all(&host.minirun(run).run(), &["add tunnel `vx-far`", "number 43"]);
    host.sh("ip link del theirs").ok();
    // By the link that is said, or not at all.
    host.network(&["--driver=vxlan", "--remote=192.0.2.9", "--opt=vni=44", "--opt=dev=eth9"], "gone");
    names_all(&host.minirun(["run", "--net=gone", "busybox", "true"]).run(), &["`eth9`", "no link of this host"]);
    host.network(&["--driver=vxlan", "--opt=group=239.1.1.1", "--opt=dev=eth0", "--opt=vni=45"], "many");
    host.minirun(["run", "--net=many", "busybox", "true"]).ok();
    assert!(host.sh("ip -o -d link show vx-many").ok().contains("group 239.1.1.1 dev eth0"));
    host.remove_networks(&["far", "gone", "many"]);
    host.settle();
});

/// All is as it should be.
#[track_caller]
fn sound(host: &Host) {
    let said = host.minirun(["network", "verify"]).run();
    assert!(said.code == 0 && said.stdout.ends_with("as they should be\n"), "{said}");
}

/// Each of the changes is found, named and mended, and then there is what there was before.
#[track_caller]
fn mended(host: &Host, containers: &[&str], changes: &[(String, &[&str])]) {
    let look = || -> Vec<Snapshot> {
        let inside = containers.iter().map(|name| in_network(&network_of(host.pid_of(name)), Snapshot::of_network));
        std::iter::once(Snapshot::of_network()).chain(inside).collect()
    };
    for (command, words) in changes {
        sound(host);
        let before = look();
        host.sh(command).ok();
        let said = host.minirun(["network", "verify"]).run();
        assert!(said.code == 1 && words.iter().all(|word| said.stdout.contains(word)), "{command}: {words:?}: {said}");
        host.minirun(["network", "reload"]).ok();
        sound(host);
        let differences: Vec<String> =
            look().iter().zip(&before).flat_map(|(now, then)| now.differences(then)).collect();
        assert!(differences.is_empty(), "{command}:\n  {}", differences.join("\n  "));
    }
}

/// What cannot be mended is told, with what to do about it.
#[track_caller]
fn told(host: &Host, command: &str, words: &[&str], remedy: &str) {
    host.sh(command).ok();
    let said = host.minirun(["network", "verify"]).run();
    assert!(said.code == 1 && words.iter().all(|word| said.stdout.contains(word)), "{command}: {words:?}: {said}");
    assert_eq!(host.minirun(["network", "reload"]).run().code, 1, "{command}");
    host.sh(remedy).ok();
    host.minirun(["network", "reload"]).ok();
    sound(host);
}

host_test!(links_on_a_parent_are_compared_and_mended, within 120, |host| {
    host.has_had_networks();
    host.network(&LAN, "lan");
    host.sh("ip link add p0 mtu 1400 type veth peer name p1; ip link set p0 up addrgenmode none").ok();
    let pid = host.member(&["--net=lan"], "one").pid;
    host.member(&["--net=lan:ifname=lan0,mtu=1300,mac=02:00:00:00:00:07", "--net=bridge:gw-prio=1"], "two");
    sound(host);
    let inside = |command: &str| format!("nsenter -t {pid} -n ip {command}");
    mended(host, &["one", "two"], &[
        (inside("link del eth0"), &["one: link eth0: not there"]),
        (inside("link set eth0 address 02:00:00:00:00:09"), &["one: link eth0: hardware address 02:00:00:00:00:09"]),
        (inside("link set eth0 mtu 1300"), &["one: link eth0: MTU 1300, not 1400"]),
        (inside("link set eth0 down"), &["one: link eth0: down"]),
        (inside("link set eth0 name x0"), &["one: link eth0: called x0"]),
        (inside("link set eth0 type macvlan mode private"), &["one: link eth0: mode private, not bridge"]),
        (inside("route del default"), &["one: default route: none by 192.0.2.1"]),
        (inside("-6 addr flush dev eth0"), &["one: link eth0: without its address 2001:db8:1::c0/64"]),
        (
            inside("link del eth0") + &format!("; ip link add link p0 name eth0 netns {pid} type macvlan mode bridge"),
            &["one: link eth0: not on eth0"],
        ),
        (inside("link del eth0; ") + &inside("link add eth0 type bridge"), &["one: link eth0: no macvlan link"]),
    ]);
    told(
        host,
        "ip link set eth0 name e9",
        &["one: link eth0: its parent eth0 is no link of this host", "two: link lan0: its parent"],
        "ip link set e9 name eth0",
    );
    host.sh("ip link del p0").ok();
    host.remove_networks(&["lan"]);
});

host_test!(tunnels_are_compared_and_mended, within 120, |host| {
    host.has_had_networks();
    let remotes = ["--remote=192.0.2.9", "--remote=192.0.2.10", "--opt=vni=42", "--opt=path_cost=7"];
    host.network(&[&["--driver=vxlan", "--subnet=10.9.0.0/24"], &remotes[..]].concat(), "far");
    host.network(&["--driver=vxlan", "--opt=group=239.1.1.1", "--opt=dev=eth0", "--opt=vni=45"], "many");
    host.member(&["--net=far", "--net=many"], "one");
    sound(host);
    let entry = "00:00:00:00:00:00 dev vx-far dst";
    let anew = |kind: &str| format!("ip link del vx-far; ip link add vx-far mtu 1350 type {kind}");
    let own = "; ip link set vx-far alias minirun:network:far master mr-far up addrgenmode none";
    mended(host, &["one"], &[
        ("ip link del vx-far".into(), &["far: tunnel vx-far: not there"]),
        ("ip link del vx-many".into(), &["many: tunnel vx-many: not there"]),
        ("ip link set vx-far nomaster".into(), &["far: link vx-far: not a port of mr-far (is a port of nothing)"]),
        ("ip link set vx-far down".into(), &["far: link vx-far: down; ip link set vx-far up"]),
        ("ip link set vx-far mtu 1300".into(), &["far: tunnel vx-far: MTU 1300, not 1350"]),
        ("ip link set vx-far alias x".into(), &["far: link vx-far: alias x, not minirun:network:far"]),
        (format!("bridge fdb del {entry} 192.0.2.10"), &["far: tunnel vx-far: does not lead to 192.0.2.10"]),
        (format!("bridge fdb del {entry} 192.0.2.9"), &["far: tunnel vx-far: does not lead to 192.0.2.9"]),
        (anew("vxlan id 43 dstport 4789 remote 192.0.2.9") + own, &["far: tunnel vx-far: number 43, not 42"]),
        (anew("vxlan id 42 dstport 4790 remote 192.0.2.9") + own, &["far: tunnel vx-far: UDP port 4790, not 4789"]),
        (anew("vxlan id 42 dstport 4789 remote 192.0.2.8") + own, &["first remote 192.0.2.8, not 192.0.2.9"]),
        ("bridge link set dev vx-far isolated on".into(), &["far: link vx-far: isolated 1, not 0"]),
    ]);
    let (append, del) = (format!("bridge fdb append {entry} 192.0.2.77"), format!("bridge fdb del {entry} 192.0.2.77"));
    told(host, &append, &["far: tunnel vx-far: leads to 192.0.2.77 too", &del], &del);
    told(
        host,
        "ip link del vx-far; ip link add vx-far type bridge",
        &["far: tunnel vx-far: the host has a link of that name that is not minirun's"],
        "ip link del vx-far",
    );
    // What of a bridge can be set is set there too, and not at the tunnel's port.
    host.minirun(["network", "set", "far", "path_cost=9", "hello_time=300"]).ok();
    sound(host);
    names_all(&host.minirun(["network", "set", "far", "vni=7"]).run(), &["`vni=7`", "no such option"]);
    host.remove_networks(&["far", "many"]);
});

host_test!(cables_are_compared_and_mended, within 120, |host| {
    host.has_had_networks();
    host.network(&["--driver=ptp", "--ipv6"], "cable");
    names_all(&host.minirun(["run", "--net=cable:spoof", "busybox", "true"]).run(), &["spoof cannot be had", "ptp"]);
    let pid = host.member(&["--net=cable"], "one").pid;
    // Also while the other end waits.
    let inside = |command: &str| format!("nsenter -t {pid} -n ip {command}");
    mended(host, &["one"], &[
        ("ip link set mr-cable alias x".into(), &["one: link mr-cable: alias x, not minirun:network:cable"]),
        ("ip link del mr-cable".into(), &["one: link mr-cable: not there, nor eth0 in the container"]),
    ]);
    let second = host.member(&["--net=cable:ifname=wire0", "--net=bridge"], "two").pid;
    let of_second = |command: &str| format!("nsenter -t {second} -n ip {command}");
    joined(host, "one", "two");
    mended(host, &["one", "two"], &[
        (inside("link set eth0 mtu 1300"), &["one: link eth0: MTU 1300, not 1500"]),
        (inside("link set eth0 down"), &["one: link eth0: down"]),
        (inside("link set eth0 name x0"), &["one: link eth0: called x0"]),
        (of_second("link set wire0 address 02:00:00:00:00:09"), &["two: link wire0: hardware address 02:00"]),
        (inside("link del eth0"), &["one: link mr-cable: not there, nor eth0", "two: link wire0: not there, its end"]),
        (of_second("link set wire0 netns $$ name mr-cable"), &["two: link wire0: not there, its end of the cable"]),
    ]);
    joined(host, "one", "two");
    // Whoever is left has lost its end, and gets it back; the next one finds it.
    host.minirun(["rm", "-f", "two"]).ok();
    host.soon("the cable goes", || !inside_of(host, pid).contains("eth0"));
    let said = host.minirun(["network", "verify"]).run();
    assert!(said.code == 1 && said.stdout.contains("one: link mr-cable: not there, nor eth0"), "{said}");
    host.minirun(["network", "reload"]).ok();
    sound(host);
    host.member(&["--net=cable"], "three");
    joined(host, "one", "three");
    sound(host);
    for arguments in [&["network", "set", "cable", "stp=on"][..], &["network", "inspect", "--stp", "cable"]] {
        names_all(&host.minirun(arguments.iter().copied()).run(), &["driver ptp", "no bridge"]);
    }
    names_all(&host.minirun(["network", "set-port", "one", "isolated=on"]).run(), &["driver ptp", "no port of a bridge"]);
    host.remove_networks(&["cable"]);
});

/// The links in the network of a process.
fn inside_of(host: &Host, pid: u32) -> String {
    host.sh(&format!("nsenter -t {pid} -n ip -o link")).ok()
}

host_test!(doctor_and_graph_know_them, |host| {
    host.has_had_networks();
    let healthy = |host: &Host| {
        let said = host.minirun(["doctor", "--format", "json"]).run();
        let said: Value = serde_json::from_str(&said.stdout).expect("JSON");
        said
    };
    let before = healthy(host);
    host.network(&LAN, "lan");
    host.network(&["--driver=ptp"], "cable");
    host.network(&["--driver=vxlan", "--remote=192.0.2.9"], "far");
    host.member(&["--net=lan"], "one");
    host.member(&["--net=cable", "--net=far"], "two");
    host.member(&["--net=cable"], "three");
    assert_eq!(healthy(host), before);
    let graph = host.minirun(["graph"]).ok();
    for word in ["one", "two", "three", "vx-far", "macvlan"] {
        assert!(graph.contains(word), "{word}: {graph}");
    }
    assert!(!graph.contains("one, one"), "{graph}");
    host.remove_networks(&["lan", "cable", "far"]);
});

/// The script of `--dry-run` for a container of that name, typed by hand.
fn by_hand(host: &Host, name: &str, net: &str) {
    let script = host.minirun(["run", "--dry-run", "--name", name, &format!("--net={net}"), "busybox", "true"]).ok();
    host.sh(&script).ok();
}

host_test!(what_is_printed_makes_the_same, within 120, |host| {
    host.has_had_networks();
    let other = Other::new(host);
    host.network(&LAN, "lan");
    host.network(&["--driver=ptp", "--subnet=10.88.0.0/30"], "cable");
    let range = ["--driver=vxlan", "--subnet=10.9.0.0/24", "--remote=10.99.0.2", "--remote=10.99.0.3"];
    host.network(&range, "far");
    // The first end of a cable as printed, the second by minirun's own mind too: nobody holds the first one.
    for (name, net) in [("one", "lan"), ("two", "cable"), ("three", "far")] {
        by_hand(host, name, net);
    }
    let lan = Mirror::of_lan(host, PORTS);
    let seen = in_network("/run/netns/one", || asks(By::Tcp, OUTSIDE, 7000));
    assert_eq!(seen, Some([192, 0, 2, 192].into()));
    drop(lan);
    assert!(host.sh("ip -n two -o addr show eth0").ok().contains("10.88.0.1/30"));
    assert!(host.sh("ip -o link show mr-cable").ok().contains("alias minirun:network:cable"));
    assert!(host.sh("bridge fdb show dev vx-far").ok().contains("dst 10.99.0.3 "));
    let words = "network create --driver=vxlan --subnet=10.9.0.0/24 --gateway=10.9.0.9 --ip-range=10.9.0.128/26 \
        --remote=10.99.0.1 far";
    other.minirun(words).ok();
    other.minirun("run --net=far busybox ping -c1 -W2 10.9.0.2").ok();
    host.sh("for netns in one two three; do ip netns del $netns; done").ok();
    host.soon("the cable goes", || !links(host).iter().any(|link| link == "mr-cable"));
    // What is printed for a second one plugs in what waits.
    host.member(&["--net=cable"], "first");
    by_hand(host, "four", "cable");
    host.sh("ip netns exec four busybox ping -c1 -W2 10.88.0.1").ok();
    host.sh("ip netns del four").ok();
    host.remove_networks(&["lan", "cable", "far"]);
    host.minirun(["system", "prune"]).ok();
    host.minirun(["run", "busybox", "true"]).ok();
    other.end();
});
