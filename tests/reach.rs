//! Whom the members of a network reach, and who reaches them: between networks, out, the host, and over IPv6.

mod host;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use host::{ALL, By, GATEWAY, GATEWAY6, HOST, HOST6, Host, Member, Mirror, NONE, OUTSIDE, asks, host_test, ways};

const PORTS: &[u16] = &[7000];

/// The address at which `who` is seen by what listens there; `None` if it is not reached.
fn seen(host: &Host, who: &Member, by: By, at: impl Into<IpAddr>) -> Option<IpAddr> {
    let at = at.into();
    host.in_network_of(who.pid, move || asks(by, at, PORTS[0]))
}

/// The ways by which it reaches each of these addresses.
fn reaches(who: &Member, addresses: &[IpAddr]) -> Vec<(IpAddr, Vec<&'static str>)> {
    ways(&format!("/proc/{}/ns/net", who.pid), addresses, PORTS[0])
}

/// It reaches all of these addresses by these ways, and no others.
#[track_caller]
fn assert_reaches(who: &Member, addresses: &[IpAddr], wanted: &[&str]) {
    let wrong: Vec<_> = reaches(who, addresses).into_iter().filter(|(_, ways)| ways != wanted).collect();
    assert!(wrong.is_empty(), "{} should reach by {wanted:?}: {wrong:?}", who.name);
}

/// The gateway of a network, of both families.
fn gateways(host: &Host, network: &str) -> (Ipv4Addr, Option<Ipv6Addr>) {
    let said = host.minirun(["network", "inspect", "-f", "{{.Gateway}} {{.Gateway6}} -", network]).ok();
    let mut words = said.split_whitespace();
    let mut next = || words.next().expect("a word");
    (next().parse().expect("an address"), next().parse().ok())
}

/// The host of the test, with what answers on it and behind it.
struct Ground {
    _host: Mirror,
    _lan: Mirror,
}

impl Ground {
    fn new(host: &Host) -> Self {
        host.has_had_networks();
        // What is far behind the gateway over IPv6 is the gateway itself.
        Self { _host: Mirror::of(host, std::process::id(), PORTS), _lan: Mirror::of_lan(host, PORTS) }
    }
}

host_test!(members_reach_each_other_and_out, |host| {
    let _ground = Ground::new(host);
    host.network(&["--ipv6"], "front");
    let (one, two) = (host.member(&["--net=front"], "one"), host.member(&["--net=front"], "two"));
    let mirror = Mirror::of(host, two.pid, PORTS);
    let (gateway, gateway6) = gateways(host, "front");
    assert_reaches(
        &one,
        &[IpAddr::V4(two.address), two.address6.expect("IPv6").into(), OUTSIDE.into(), GATEWAY6.into()],
        &ALL,
    );
    // The own gateway is the host.
    assert_reaches(&one, &[IpAddr::V4(gateway), gateway6.expect("IPv6").into(), HOST.into(), HOST6.into()], &ALL);
    // Between members as they are, outwards as the host, by both families.
    for by in [By::Tcp, By::Udp] {
        assert_eq!(seen(host, &one, by, two.address), Some(one.address.into()));
        assert_eq!(seen(host, &one, by, two.address6.expect("IPv6")), one.address6.map(IpAddr::V6));
        assert_eq!(seen(host, &one, by, OUTSIDE), Some(HOST.into()));
        assert_eq!(seen(host, &one, by, GATEWAY6), Some(HOST6.into()));
    }
    drop(mirror);
    host.remove_networks(&["front"]);
});

host_test!(ipv6_works_from_the_first_packet, |host| {
    let _ground = Ground::new(host);
    host.network(&["--ipv6"], "front");
    let two = host.member(&["--net=front"], "two");
    let (there, out) = (two.address6.expect("IPv6").to_string(), GATEWAY6.to_string());
    for address in [&there, &out] {
        for _ in 0..5 {
            // An address that is checked for duplicates, or a port that does not forward yet, loses the first packet.
            let ping = ["ping", "-c", "1", "-W", "1", address];
            host.minirun([&["run", "--net=front", "busybox"], &ping[..]].concat()).ok();
        }
    }
    // From the first of all, too: bridge and rules are missing.
    for name in ["second", "third"] {
        host.network(&["--ipv6"], name);
        host.minirun(["run", &format!("--net={name}"), "busybox", "ping", "-c", "1", "-W", "1", &out]).ok();
    }
    host.remove_networks(&["front", "second", "third"]);
});

host_test!(ipv6_is_where_it_was_asked_for, |host| {
    let _ground = Ground::new(host);
    host.network(&[], "plain");
    host.network(&["--ipv6"], "front");
    let plain = host.member(&["--net=plain", "--net=front:ifname=six"], "both");
    let said = host.minirun(["exec", "both", "sh", "-c", "ip -o -6 addr; ip -6 route"]).ok();
    assert!(!said.contains("eth0") && said.contains(" six "), "{said}");
    assert!(!said.contains("fe80"), "{said}");
    // Each family's default route leaves by the first network that has it.
    assert!(said.lines().any(|line| line.starts_with("default via ") && line.contains("dev six")), "{said}");
    assert_reaches(&plain, &[GATEWAY6.into()], &ALL);
    // A router that a neighbour plays is not listened to.
    let settings = "cat /proc/sys/net/ipv6/conf/six/accept_ra /proc/sys/net/ipv6/conf/eth0/disable_ipv6";
    assert_eq!(host.minirun(["exec", "both", "sh", "-c", settings]).ok(), "0\n1\n");
    host.remove_networks(&["plain", "front"]);
});

host_test!(networks_do_not_reach_each_other, |host| {
    let _ground = Ground::new(host);
    host.network(&["--ipv6"], "front");
    host.network(&["--ipv6"], "back");
    let (one, two) = (host.member(&["--net=front"], "one"), host.member(&["--net=back"], "two"));
    let other = host.member(&[], "three");
    let mirror = Mirror::of(host, two.pid, PORTS);
    let (gateway, gateway6) = gateways(host, "back");
    assert_reaches(
        &one,
        &[IpAddr::V4(two.address), two.address6.expect("IPv6").into(), gateway.into(), gateway6.expect("IPv6").into()],
        &NONE,
    );
    assert_reaches(&other, &[two.address.into(), gateway.into()], &NONE);
    // It is the rules: the host, and a neighbour of the same network, do.
    let near = host.member(&["--net=back"], "four");
    assert_reaches(&near, &[two.address.into()], &ALL);
    assert_eq!(asks(By::Tcp, two.address, PORTS[0]), Some(gateway.into()));
    // Who is on both reaches both.
    let both = host.member(&["--net=front", "--net=back"], "five");
    assert_reaches(&both, &[two.address.into()], &ALL);
    drop(mirror);
    host.remove_networks(&["front", "back"]);
});

host_test!(an_internal_network_has_no_way_out, |host| {
    let _ground = Ground::new(host);
    host.network(&["--internal", "--ipv6"], "back");
    host.network(&["--ipv6"], "front");
    let (one, two) = (host.member(&["--net=back"], "one"), host.member(&["--net=back"], "two"));
    let other = host.member(&["--net=front"], "other");
    let mirrors = [Mirror::of(host, two.pid, PORTS), Mirror::of(host, other.pid, PORTS)];
    assert_reaches(&one, &[IpAddr::V4(two.address), two.address6.expect("IPv6").into()], &ALL);
    let said = host.minirun(["exec", "one", "sh", "-c", "ip route; ip -6 route"]).ok();
    assert!(!said.contains("default"), "{said}");
    let ((gateway, gateway6), (away, away6)) = (gateways(host, "back"), gateways(host, "front"));
    let mut others: Vec<IpAddr> =
        vec![gateway.into(), HOST.into(), GATEWAY.into(), OUTSIDE.into(), away.into(), other.address.into()];
    let others6 = [gateway6, away6, other.address6, Some(HOST6), Some(GATEWAY6)];
    others.extend(others6.map(|address| IpAddr::V6(address.expect("IPv6"))));
    assert_reaches(&one, &others, &NONE);
    // Root in it adds the routes.
    let routes = format!("ip route add default via {gateway}; ip -6 route add default via {}", gateway6.expect("IPv6"));
    host.sh(&format!("nsenter --net=/proc/{}/ns/net sh -ec '{routes}'", one.pid)).ok();
    assert_reaches(&one, &others, &NONE);
    // Nor does anybody come in, but the host.
    assert_reaches(&other, &[two.address.into()], &NONE);
    assert_eq!(asks(By::Tcp, two.address, PORTS[0]), Some(gateway.into()));
    assert_eq!(asks(By::Tcp, two.address6.expect("IPv6"), PORTS[0]), gateway6.map(IpAddr::V6));
    host.lan(&format!("ip route add {}/32 via {HOST}", two.address)).ok();
    let at = two.address;
    assert_eq!(host.in_lan(move || asks(By::Tcp, at, PORTS[0])), None);
    drop(mirrors);
    host.lan(&format!("ip route del {}/32", two.address)).ok();
    host.remove_networks(&["back", "front"]);
});

host_test!(on_an_internal_network_and_another_one, |host| {
    let _ground = Ground::new(host);
    host.network(&["--internal"], "back");
    host.network(&[], "front");
    // Its way out is by the other network, whichever is the first.
    let both = host.member(&["--net=back", "--net=front"], "both");
    let said = host.minirun(["exec", "both", "ip", "route"]).ok();
    assert!(said.contains(&format!("default via {} dev eth1", gateways(host, "front").0)), "{said}");
    assert_reaches(&both, &[OUTSIDE.into()], &ALL);
    // For others it is no router, unless it makes itself one.
    let inner = host.member(&["--net=back"], "inner");
    let pid = inner.pid;
    host.sh(&format!("nsenter --net=/proc/{pid}/ns/net ip route add default via {}", both.address)).ok();
    assert_reaches(&inner, &[OUTSIDE.into()], &NONE);
    host.remove_networks(&["back", "front"]);
});

host_test!(isolated_members_reach_out_and_not_each_other, |host| {
    let _ground = Ground::new(host);
    // What keeps them apart is their ports; where frames pass the rules, these do as well.
    host.with_and_without_rules_in_bridges(|| isolated_members(host));
});

fn isolated_members(host: &Host) {
    host.network(&["--isolate", "--ipv6"], "front");
    let (one, two) = (host.member(&["--net=front"], "one"), host.member(&["--net=front"], "two"));
    let mirror = Mirror::of(host, two.pid, PORTS);
    let (gateway, gateway6) = gateways(host, "front");
    assert_reaches(&one, &[IpAddr::V4(two.address), two.address6.expect("IPv6").into()], &NONE);
    assert_reaches(&one, &[OUTSIDE.into(), GATEWAY6.into(), IpAddr::V4(gateway), gateway6.expect("IPv6").into()], &ALL);
    // Nor by the host, which would pass it on.
    let route = format!("ip route add {}/32 via {gateway}", two.address);
    host.sh(&format!("nsenter --net=/proc/{}/ns/net {route}", one.pid)).ok();
    assert_reaches(&one, &[two.address.into()], &NONE);
    assert_eq!(asks(By::Tcp, two.address, PORTS[0]), Some(gateway.into()), "the host does");
    drop(mirror);
    host.remove_networks(&["front"]);
}

host_test!(the_lan_reaches_no_member_over_ipv6, |host| {
    let ground = Ground::new(host);
    host.network(&["--ipv6"], "front");
    let one = host.member(&["--net=front"], "one");
    let mirror = Mirror::of(host, one.pid, PORTS);
    let address = one.address6.expect("IPv6");
    assert!(asks(By::Tcp, address, PORTS[0]).is_some(), "the host does");
    host.lan(&format!("ip route add {address}/128 via {HOST6}")).ok();
    for by in [By::Tcp, By::Udp] {
        assert_eq!(host.in_lan(move || asks(by, address, PORTS[0])), None);
    }
    assert_ne!(host.lan(&format!("busybox ping -c 1 -W 1 {address}")).run().code, 0);
    // The host routes IPv6 now, but for nobody else.
    host.sh("ip netns add far; ip link add eth1 type veth peer name far0 netns far; ip link set eth1 addrgenmode none
         ip link set eth1 up; ip addr add 2001:db8:2::1/64 dev eth1 nodad
         ip addr add 203.0.113.1/24 dev eth1
         ip -n far link set far0 up; ip -n far addr add 2001:db8:2::2/64 dev far0 nodad
         ip -n far route add default via 2001:db8:2::1")
        .ok();
    host.lan(&format!("ip route add 2001:db8:2::/64 via {HOST6}")).ok();
    host.sh("busybox ping -c 1 -W 3 2001:db8:2::2").ok();
    host.minirun(["run", "--net=front", "busybox", "ping", "-c", "1", "-W", "3", "2001:db8:2::2"]).ok();
    assert_ne!(host.lan("busybox ping -c 1 -W 1 2001:db8:2::2").run().code, 0, "the host forwards for the LAN");
    host.sh("ip link del eth1; ip netns del far").ok();
    drop((mirror, ground));
    host.remove_networks(&["front"]);
    host.settle();
});

/// The second addresses of a container.
fn seconds(host: &Host, name: &str) -> [String; 2] {
    let said: serde_json::Value = serde_json::from_str(&host.minirun(["inspect", name]).ok()).expect("JSON");
    let second = &said[0]["network_settings"]["interfaces"][1];
    ["ip_address", "global_ipv6_address"].map(|key| second[key].as_str().expect("an address").to_owned())
}

host_test!(a_container_routes_for_others, within 120, |host| {
    host.has_had_networks();
    for (driver, option) in [("bridge", ":spoof"), ("ptp", "")] {
        let nets = ["left", "right"].map(|name| {
            host.network(&["--driver", driver, "--ipv6"], name);
            format!("--net={name}{option}")
        });
        let settings = ["--sysctl=net.ipv4.ip_forward=1", "--sysctl=net.ipv6.conf.all.forwarding=1"];
        let router = host.member(&[&nets.each_ref().map(String::as_str)[..], &settings].concat(), "router");
        let (one, two) = (host.member(&["--net=left"], "one"), host.member(&["--net=right"], "two"));
        let (gateway, [back, back6]) = (router.address6.expect("IPv6"), seconds(host, "router"));
        let (address6, own6) = (two.address6.expect("IPv6"), one.address6.expect("IPv6"));
        let route = |who: &Member, to: IpAddr, by: &str| {
            host.sh(&format!("nsenter --net=/proc/{}/ns/net ip route add {to} via {by}", who.pid)).ok();
        };
        route(&one, two.address.into(), &router.address.to_string());
        route(&one, address6.into(), &gateway.to_string());
        route(&two, one.address.into(), &back);
        route(&two, own6.into(), &back6);
        let mirror = Mirror::of(host, two.pid, PORTS);
        // It has not heard of either of them before.
        for (at, own) in [(IpAddr::from(two.address), IpAddr::from(one.address)), (address6.into(), own6.into())] {
            assert_eq!(seen(host, &one, By::Tcp, at), Some(own), "{driver}");
        }
        drop(mirror);
        host.remove_networks(&["left", "right"]);
    }
    host.settle();
});
