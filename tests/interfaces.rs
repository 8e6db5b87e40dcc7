//! What `--net` gives a container: interfaces on networks, their names, addresses and routes, and namespaces of others.

mod host;

use std::net::IpAddr;

use host::{Host, host_test, kill_hard, refused};

/// What `busybox` with this script says in a container with these options.
#[track_caller]
fn inside(host: &Host, options: &[&str], script: &str) -> String {
    host.minirun([&["run"], options, &["busybox", "sh", "-c", script]].concat()).ok()
}

/// Networks `front` (10.50.0.0/24, fd50::/64), `back` (10.51.0.0/24) and `closed` (10.52.0.0/24, internal), with bridges.
fn networks(host: &Host) {
    host.has_had_networks();
    host.network(&["--subnet=10.50.0.0/24", "--ipv6", "--subnet=fd50::/64"], "front");
    host.network(&["--subnet=10.51.0.0/24"], "back");
    host.network(&["--subnet=10.52.0.0/24", "--internal"], "closed");
    inside(host, &["--net=front", "--net=back", "--net=closed"], "true");
    host.settle();
}

/// The links but `lo`, each with its IPv4 address, in the kernel's order.
const LINKS: &str = "ip -o -4 addr show | grep -v ' lo ' | sed 's/^[0-9]*: \\([^ ]*\\) *inet \\([0-9.]*\\).*/\\1 \\2/'";

host_test!(one_for_each_network_in_the_order_that_was_given, |host| {
    networks(host);
    let said = inside(host, &["--net=back", "--net=front", "--net=bridge"], &format!("{LINKS}; ip route; ip -6 route"));
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("eth0 10.51.0."), "{said}");
    assert!(lines[1].starts_with("eth1 10.50.0."), "{said}");
    assert!(lines[2].starts_with("eth2 10.214.0."), "{said}");
    assert!(lines[3].starts_with("default via 10.51.0.1 dev eth0"), "{said}");
    assert_eq!(said.matches("default").count(), 2, "one of IPv4, one of IPv6: {said}");
    for neighbours in ["10.51.0.0/24 dev eth0", "10.50.0.0/24 dev eth1", "10.214.0.0/20 dev eth2", "fd50::/64 dev eth1"]
    {
        assert!(said.contains(neighbours), "`{neighbours}` is not in {said}");
    }
    let said = inside(host, &["--net=front", "--net=back"], &format!("{LINKS}; ip route; ip -6 route"));
    assert!(said.starts_with("eth0 10.50.0.") && said.contains("default via 10.50.0.1 dev eth0"), "{said}");
    assert!(said.contains("default via fd50::1 dev eth0"), "{said}");
    // The list and the record say so, too.
    host.member(&["--net=back", "--net=front"], "web");
    assert_eq!(host.minirun(["ps", "--format", "{{.Networks}}"]).ok(), "back,front\n");
    assert_eq!(
        host.inspect("web", "range .NetworkSettings.Interfaces}}{{.Network}}={{.Name}} {{end"),
        "back=eth0 front=eth1 "
    );
    host.remove_all();
});

host_test!(the_default_route_is_that_of_the_highest_priority, |host| {
    networks(host);
    for (nets, gateway, link) in [
        (&["--net=back", "--net=front:gw-prio=1"][..], "10.50.0.1", "eth1"),
        (&["--net=back:gw-prio=-1", "--net=front"], "10.50.0.1", "eth1"),
        (&["--net=back:gw-prio=5", "--net=front:gw-prio=5"], "10.51.0.1", "eth0"),
        // An internal network has no way out, whatever is asked for.
        (&["--net=closed:gw-prio=9", "--net=front"], "10.50.0.1", "eth1"),
    ] {
        let said = inside(host, nets, "ip route | grep default");
        assert_eq!(said.trim_end(), format!("default via {gateway} dev {link}"), "{nets:?}");
    }
    assert_eq!(inside(host, &["--net=closed"], "ip route | grep default; true"), "");
});

host_test!(each_family_has_a_default_route_where_a_network_has_one, |host| {
    networks(host);
    let routes = "{ ip route; ip -6 route; } | grep default | cut -d' ' -f3-5";
    let said = inside(host, &["--net=back", "--net=front"], routes);
    assert_eq!(said, "10.51.0.1 dev eth0\nfd50::1 dev eth1\n");
    assert_eq!(inside(host, &["--net=back", "--net=closed"], routes), "10.51.0.1 dev eth0\n");
    // While it runs, too: what leaves goes where a way out is left.
    host.member(&["--net=back"], "web");
    let routes = |wanted: &str| assert_eq!(host.minirun(["exec", "web", "sh", "-c", routes]).ok(), wanted);
    host.minirun(["network", "connect", "front", "web"]).ok();
    routes("10.51.0.1 dev eth0\nfd50::1 dev eth1\n");
    host.minirun(["network", "disconnect", "back", "web"]).ok();
    routes("10.50.0.1 dev eth1\nfd50::1 dev eth1\n");
    host.minirun(["network", "disconnect", "front", "web"]).ok();
    routes("");
    host.remove_all();
});

host_test!(what_is_asked_for_an_interface, |host| {
    networks(host);
    let net =
        "--net=front:ip=10.50.0.77,ip6=fd50::77,mac=02:00:00:00:00:77,ifname=lan0,host-ifname=tap77,mtu=1290,hairpin";
    host.member(&["--net=back", net], "web");
    let said = host.minirun(["exec", "web", "sh", "-c", "ip -o addr show lan0; ip -o link show lan0"]).ok();
    for words in [" 10.50.0.77/24 ", " fd50::77/64 ", "02:00:00:00:00:77", "mtu 1290 "] {
        assert!(said.contains(words), "`{words}` is not in {said}");
    }
    assert!(!host.minirun(["exec", "web", "ip", "-o", "link"]).ok().contains("eth1"));
    let port = host.sh("bridge -d -o link show dev tap77; ip -o link show tap77").ok();
    for words in ["master mr-front", "hairpin on", "mtu 1290 "] {
        assert!(port.contains(words), "`{words}` is not in {port}");
    }
    // The other one is as usual.
    let said = host.minirun(["exec", "web", "ip", "-o", "addr", "show", "eth0"]).ok();
    assert!(said.contains(" 10.51.0.") && !said.contains("inet6"), "{said}");
    host.remove_all();
    // The same as options of their own, for the first network.
    let options = ["--ip=10.50.0.78", "--ip6=fd50::78", "--mac-address=02:00:00:00:00:78", "--network-alias=db"];
    let options = [&["--net=front:alias=sql", "--net=back"], &options[..]].concat();
    host.member(&options, "web");
    let said = host
        .minirun(["exec", "web", "sh", "-c", "ip -o addr show eth0; ip -o link show eth0; nslookup db; nslookup sql"])
        .ok();
    for words in [" 10.50.0.78/24 ", " fd50::78/64 ", "02:00:00:00:00:78", "Address: 10.50.0.78"] {
        assert!(said.contains(words), "`{words}` is not in {said}");
    }
    assert_eq!(host.inspect("web", "join (index .NetworkSettings.Interfaces 0).Aliases \",\""), "sql,db");
    host.remove_all();
    // It is the address's own hardware address where nobody says otherwise.
    let said = inside(host, &["--net=front", "--ip=10.50.0.79"], "cat /sys/class/net/eth0/address");
    assert_eq!(said, "02:d6:0a:32:00:4f\n");
});

/// Reached at once: an entry that is wrong is else kept for seconds.
const FIRST: [&str; 4] = ["-c", "1", "-W", "1"];

host_test!(neighbours_hear_of_another_hardware_address, |host| {
    networks(host);
    host.member(&["--net=front"], "near");
    let mut wish = "front:ip=10.50.0.77".to_owned();
    let reached = |what: &str| {
        for address in ["10.50.0.77", "fd50::4d"] {
            let ping = [&["exec", "near", "ping"], &FIRST[..], &[address]].concat();
            let output = host.minirun(ping).run();
            assert_eq!(output.code, 0, "{what}: {output}");
            // The host is their router.
            let ping = host.sh(&format!("busybox ping {} {address}", FIRST.join(" "))).run();
            assert_eq!(ping.code, 0, "{what}: {ping}");
        }
    };
    for mac in [",mac=02:00:00:00:00:77", "", ",mac=02:00:00:00:00:78", ",mac=02:00:00:00:00:79", ""] {
        wish.replace_range(19.., mac);
        host.minirun(["run", "-d", "--name=moved", "--net", &wish, "busybox", "sleep", "1000"]).ok();
        reached(&wish);
        host.minirun(["rm", "-f", "moved"]).ok();
    }
    // Also where it is connected later, and where the pair is made again.
    host.minirun(["run", "-d", "--name=moved", "--net=none", "busybox", "sleep", "1000"]).ok();
    wish.replace_range(19.., ",mac=02:00:00:00:00:80");
    host.minirun(["network", "connect", &wish, "moved"]).ok();
    reached(&wish);
    host.minirun(["network", "verify"]).ok();
    host.remove_networks(&["front", "back", "closed"]);
    host.settle();
});

host_test!(neighbours_on_a_lan_hear_of_a_new_machine, |host| {
    host.has_had_networks();
    host.network(
        &["--driver=macvlan", "--opt=parent=eth0", "--subnet=192.0.2.0/24", "--subnet=2001:db8:1::/64", "--ipv6"],
        "lan",
    );
    for family in ["192.0.2.200", "2001:db8:1::c8"] {
        host.lan(&format!("ip neigh replace {family} lladdr 02:00:00:00:00:99 dev host0 nud reachable")).ok();
    }
    host.minirun(["run", "-d", "--net=lan:ip=192.0.2.200,ip6=2001:db8:1::c8", "busybox", "sleep", "1000"]).ok();
    for address in ["192.0.2.200", "2001:db8:1::c8"] {
        host.lan(&format!("busybox ping {} {address}", FIRST.join(" "))).ok();
    }
    host.remove_networks(&["lan"]);
});

host_test!(addresses_that_cannot_be_had, |host| {
    networks(host);
    host.member(&["--net=front", "--ip=10.50.0.9", "--ip6=fd50::9"], "web");
    host.settle();
    refused(host, &["--net=front:ip=10.50.0.9"], &["10.50.0.9 is in use", "minirun network inspect front"]);
    refused(host, &["--net=front", "--ip6=fd50::9"], &["fd50::9 is in use"]);
    refused(host, &["--net=back", "--net=front:ip=10.50.0.9"], &["10.50.0.9 is in use"]);
    for address in ["10.51.0.9", "10.50.0.0", "10.50.0.255"] {
        refused(host, &["--net=front", "--ip", address], &[address, "network `front`"]);
    }
    refused(host, &["--net=front", "--ip=10.50.0.1"], &["gateway of network `front`"]);
    refused(host, &["--net=front", "--ip6=fd50::1"], &["gateway of network `front`"]);
    refused(host, &["--net=front", "--ip6=fd51::2"], &["fd51::2", "network `front`"]);
    refused(host, &["--net=back", "--ip6=fd50::2"], &["`back` has no IPv6", "--ipv6"]);
    refused(host, &["--net=front:ip=10.50.0.8", "--ip=10.50.0.7"], &["--ip", "already"]);
    // What is free again can be had at once.
    host.minirun(["rm", "-f", "web"]).ok();
    inside(host, &["--net=front:ip=10.50.0.9,ip6=fd50::9"], "true");
    host.settle();
});

host_test!(what_cannot_be, |host| {
    networks(host);
    refused(host, &["--net=nosuch"], &["`nosuch`", "minirun network create"]);
    refused(host, &["--net=front", "--net=nosuch"], &["`nosuch`"]);
    refused(host, &["--net=front", "--net=front:ip=10.50.0.9"], &["`front`", "twice"]);
    for alone in ["none", "host", "container:web", "ns:/run/netns/blue"] {
        refused(host, &["--net=front", "--net", alone], &[alone, "alone"]);
        refused(host, &["--net", alone, "--ip=10.50.0.9"], &["--ip", alone]);
        refused(host, &["--net", alone, "--network-alias=db"], &["--network-alias", alone]);
    }
    refused(host, &["--net=front:ifname=x", "--net=back:ifname=x"], &["`x`", "front", "back"]);
    for (option, word) in [
        ("ip=10.50.0", "IPv4"),
        ("ip6=10.50.0.9", "IPv6"),
        ("mac=01:00:00:00:00:01", "not the address of one interface"),
        ("mac=02:00", "six bytes"),
        ("ifname=lo", "a link's name"),
        ("ifname=sixteen_letters_", "1 to 15"),
        ("host-ifname=a/b", "signs of"),
        ("mtu=67", "68 to 65535"),
        ("alias=a b", "alias"),
        ("gw-prio=x", "a whole number"),
        ("hairpin=perhaps", "on or off"),
        ("colour=red", "gw-prio="),
    ] {
        refused(host, &["--net", &format!("front:{option}")], &[word]);
    }
    // A link of the host's has the name; nothing of what was begun stays.
    refused(host, &["--net=back", "--net=front:host-ifname=eth0"], &["eth0"]);
    let many: Vec<String> = (0..21).map(|number| format!("--net=n{number}")).collect();
    refused(host, &many.iter().map(String::as_str).collect::<Vec<_>>(), &["20"]);
});

host_test!(the_network_of_another_container, |host| {
    networks(host);
    let web = host.member(&["--net=front"], "web");
    let own = host.sh(&format!("readlink /proc/{}/ns/net", web.pid)).ok();
    let script = format!("readlink /proc/self/ns/net; {LINKS}; cat /etc/resolv.conf");
    for name in ["web", host.inspect("web", ".ID").as_str()] {
        let said = inside(host, &["--net", &format!("container:{name}")], &script);
        assert!(said.starts_with(&own) && said.contains(&format!("eth0 {}", web.address)), "{said}");
    }
    host.settle();
    // It ends, and the other's network stays.
    assert!(host.minirun(["exec", "web", "ip", "route"]).ok().contains("default"));
    refused(host, &["--net=container:nosuch"], &["`nosuch`"]);
    host.minirun(["stop", "-t", "0", "web"]).ok();
    host.settle();
    refused(host, &["--net=container:web"], &["`web`", "does not run"]);
    host.remove_all();
    host.settle();
});

host_test!(a_namespace_that_is_a_file, |host| {
    networks(host);
    host.sh(
        "ip netns add blue; ip -n blue link set lo up; ip -n blue addr add 203.0.113.9/32 dev lo; touch /tmp/plain",
    )
    .ok();
    host.settle();
    let own = host.sh("ip netns exec blue readlink /proc/self/ns/net").ok();
    for net in ["ns:blue", "ns:/run/netns/blue"] {
        let said = inside(host, &["--net", net], "readlink /proc/self/ns/net; ip -o -4 addr show lo");
        assert!(said.starts_with(&own) && said.contains("203.0.113.9"), "{said}");
    }
    let keeper = host.sh("exec ip netns exec blue busybox cat").held().start();
    host.soon("it has joined", || {
        std::fs::read_link(format!("/proc/{}/ns/net", keeper.pid()))
            .is_ok_and(|link| link.to_str() == Some(own.trim_end()))
    });
    let path = format!("ns:/proc/{}/ns/net", keeper.pid());
    assert!(inside(host, &["--net", &path], "readlink /proc/self/ns/net").starts_with(&own));
    keeper.wait();
    refused(host, &["--net=ns:nosuch"], &["/run/netns/nosuch", "ip netns list"]);
    refused(host, &["--net=ns:/run/netns/nosuch"], &["/run/netns/nosuch"]);
    refused(host, &["--net=ns:/tmp/plain"], &["/tmp/plain"]);
    refused(host, &["--net=ns:/proc/self/ns/uts"], &["ns/uts", "not one"]);
    refused(host, &["--net=ns:../x"], &["ns:NAME"]);
    // The namespace stays, with what is in it.
    assert!(host.sh("ip -n blue -o addr").ok().contains("203.0.113.9"));
    host.sh("ip netns del blue; rm /tmp/plain").ok();
    host.settle();
});

host_test!(an_interface_on_every_network, |host| {
    host.has_had_networks();
    let all: Vec<String> = (0..20).map(|number| format!("n{number}")).collect();
    all.iter().for_each(|name| host.network(&[], name));
    let nets: Vec<String> = all.iter().map(|name| format!("--net={name}")).collect();
    let options: Vec<&str> = nets.iter().map(String::as_str).collect();
    let said = inside(host, &options, LINKS);
    assert_eq!(said.lines().count(), 20, "{said}");
    let mut addresses: Vec<IpAddr> =
        said.lines().map(|line| line.split(' ').nth(1).expect("an address").parse().expect("an address")).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 20, "{said}");
    assert_eq!(host.minirun(["network", "prune"]).ok().lines().count(), 20);
});

host_test!(who_stays_in_anothers_network_does_not_keep_its_address, |host| {
    host.has_run_detached();
    let links = |name: &str| host.minirun(["exec", name, "ls", "/sys/class/net"]).ok();
    for is_killed in [false, true] {
        host.detached(&["--name=web"], &["sleep", "1000"]);
        host.detached(&["--name=guest", "--net=container:web"], &["sleep", "1000"]);
        let address = host.inspect("web", ".NetworkSettings.IPAddress");
        assert_eq!(links("guest"), "eth0\nlo\n");
        if is_killed {
            kill_hard(host.holder_of("web"));
            host.bury();
            host.minirun(["ps"]).ok();
        }
        host.minirun(["rm", "-f", "web"]).ok();
        assert_eq!(links("guest"), "lo\n", "killed: {is_killed}");
        let own = format!("--net=bridge:ip={}", address.trim());
        host.minirun(["run", &own, "busybox", "ping", "-c1", "-W5", "10.214.0.1"]).ok();
        host.minirun(["rm", "-f", "guest"]).ok();
        host.bury();
    }
});
