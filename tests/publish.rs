//! Published ports: how they are chosen, that they are refused where somebody has them, and free when their container is not. Who
//! reaches them from where is in tests/matrix.rs.
#![allow(clippy::disallowed_methods, reason = "tests start threads")]

mod host;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};

use host::{By, GATEWAY, GATEWAY6, HOST, HOST6, Host, Mirror, OUTSIDE, asks, host_test, kill_hard, refused};

/// Where containers listen; what is published for everybody, and for the host alone.
const PORTS: &[u16] = &[7000, 7001];
const OPEN: u16 = 8000;
const OWN: u16 = 8001;

/// What of published ports is in the table.
fn elements(host: &Host) -> String {
    let maps = ["ports4", "ports6", "ranges4", "ranges6"];
    let list = |map: &&str| host.sh(&format!("nft list map inet minirun {map} | sed -n '/elements/,/}}/p'")).ok();
    maps.iter().map(list).collect()
}

/// What `run -d` with these options says beside the ID: the lines about ports, without `minirun: published `. Those of the
/// IPv6 loopback device, which follow each of the IPv4 one, are left out.
#[track_caller]
fn published(host: &Host, name: &str, options: &[&str]) -> Vec<String> {
    let output = host.minirun([&["run", "-d", "--name", name], options, &["busybox", "sleep", "1000"]].concat()).run();
    assert_eq!(output.code, 0, "{output}");
    let lines = output.stderr.lines().map(|line| line.trim_start_matches("minirun: published ").to_owned());
    lines.filter(|line| !line.starts_with("[::1]")).collect()
}

/// The port of the host in such a line.
fn port_in(line: &str) -> u16 {
    let (left, _) = line.split_once("->").unwrap_or_else(|| panic!("no port in {line}"));
    left.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("no port in {line}"))
}

host_test!(a_port_that_is_chosen, |host| {
    host.has_had_networks();
    let lines = published(host, "web", &["-p", "7000", "-p", "0.0.0.0::7000/udp", "-p", "7000-7001"]);
    assert_eq!(lines.len(), 4, "{lines:?}");
    let ends = ["->7000/tcp", "->7000/udp, for other machines too", "->7000/tcp", "->7001/tcp"];
    for (line, end) in lines.iter().zip(ends) {
        assert!(line.ends_with(end), "{lines:?}");
    }
    assert!(lines[0].starts_with("127.0.0.1:") && lines[1].starts_with("0.0.0.0:"), "{lines:?}");
    let web = host.member_called("web");
    let mirror = Mirror::of(host, web.pid, PORTS);
    let ports: Vec<u16> = lines.iter().map(|line| port_in(line)).collect();
    for port in [ports[0], ports[2], ports[3]] {
        assert!(asks(By::Tcp, Ipv4Addr::LOCALHOST, port).is_some(), "{port}");
    }
    let (udp, tcp) = (ports[1], ports[0]);
    assert_eq!(host.in_lan(move || asks(By::Udp, HOST, udp)), Some(GATEWAY.into()));
    assert_eq!(host.in_lan(move || asks(By::Tcp, HOST, tcp)), None);
    // Of a range of the host's the first that is free is taken.
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 8100)).expect("bind");
    let lines = published(host, "one", &["-p", "8100-8102:7000"]);
    assert_eq!(lines, ["127.0.0.1:8101->7000/tcp"]);
    let lines = published(host, "two", &["-p", "8100-8102:7000"]);
    assert_eq!(lines, ["127.0.0.1:8102->7000/tcp"]);
    host.settle();
    refused(host, &["-p", "8100-8102:7000"], &["8102", "in use by container two"]);
    drop(mirror);
    host.remove_all();
    host.settle();
});

host_test!(ranges, |host| {
    host.has_had_networks();
    // One that stays the same is one element, one that is shifted is one for each port.
    let ports =
        ["-p", "0.0.0.0:7000-7001:7000-7001", "-p", "127.0.0.1:8000-8001:7000-7001/udp", "-p", "9000-9999:9000-9999"];
    let lines = published(host, "web", &ports);
    assert_eq!(lines[0], "0.0.0.0:7000-7001->7000-7001/tcp, for other machines too", "{lines:?}");
    assert_eq!(lines[1], "127.0.0.1:8000-8001->7000-7001/udp", "{lines:?}");
    assert_eq!(lines[2], "127.0.0.1:9000-9999->9000-9999/tcp", "{lines:?}");
    let web = host.member_called("web");
    let mirror = Mirror::of(host, web.pid, &[7000, 7001, 9000, 9555, 9999]);
    for port in [7000, 7001] {
        assert_eq!(host.in_lan(move || asks(By::Tcp, HOST, port)), Some(GATEWAY.into()), "{port}");
        assert_eq!(host.in_lan(move || asks(By::Udp, HOST, port)), None, "{port}");
        assert!(asks(By::Udp, Ipv4Addr::LOCALHOST, port + 1000).is_some(), "{port}");
    }
    for port in [9000, 9555, 9999] {
        assert!(asks(By::Tcp, Ipv4Addr::LOCALHOST, port).is_some(), "{port}");
    }
    let all = elements(host);
    assert_eq!(all.matches("comment").count(), 4, "{all}");
    host.settle();
    // Each port of them is taken: of a large range those that a few hundred sockets hold.
    for port in ["7001:80", "8001:80/udp", "9000:80", "0.0.0.0:9100:80"] {
        refused(host, &["-p", port], &["in use by container web"]);
    }
    drop(mirror);
    host.remove_all();
    assert_eq!(elements(host), "");
    host.settle();
});

host_test!(of_a_range_that_is_too_large_for_sockets_each_port_is_taken, within 180, |host| {
    host.has_had_networks();
    let wishes = |start: u16, end: u16| {
        let count = end - start;
        ["", "0.0.0.0:", "127.0.0.1:"].into_iter().flat_map(move |at| {
            [format!("{at}{start}-{end}:{start}-{end}"), format!("{at}{start}-{end}:{}-{}", 100, 100 + count)]
        })
    };
    for range in ["20000-20999:20000-20999", "0.0.0.0:20000-20999:20000-20999", "20000-20999:30000-30999",
        "0.0.0.0:20000-20999:30000-30999"]
    {
        let name = "web";
        host.member(&["-p", range], name);
        // Behind those that sockets hold; a few of them, and another large range that overlaps.
        for wish in wishes(20900, 20900).chain(wishes(20998, 21000)).chain(wishes(20500, 21499)).chain(wishes(19000, 20400)) {
            let error = host.minirun(["run", "-p", &wish, "busybox", "true"]).fails(125);
            assert!(error.contains("in use by container web"), "{range}, {wish}: {error}");
        }
        host.minirun(["run", "--dry-run", "-p", "20900:80", "busybox"]).fails(125);
        // Another protocol, another port, and an address that is another one.
        let mut free = vec!["20900:80/udp", "20900-20901:20900-20901/udp", "21000:80", "21000-21999:21000-21999"];
        free.extend(["192.0.2.2:20900:80"].into_iter().filter(|_| !range.starts_with("0.0.0.0")));
        for wish in free {
            host.minirun(["run", "-p", wish, "busybox", "true"]).ok();
        }
        // What is taken back is free, and so is all when it ends.
        let first = range.rsplit([':', '-']).nth(1).expect("a port");
        host.minirun(["port", name, "--rm", first]).ok();
        host.minirun(["run", "-p", "20900:80", "busybox", "true"]).ok();
        host.minirun(["port", name, "--add", range]).ok();
        host.minirun(["run", "-p", "20900:80", "busybox", "true"]).fails(125);
        host.minirun(["rm", "-f", name]).ok();
        host.minirun(["run", "-p", "20900:80", "busybox", "true"]).ok();
    }
    let error = host.minirun(["run", "-p", "20000-20999:1-1000", "-p", "20900-21500:1-601", "busybox", "true"]).fails(125);
    assert!(error.contains("twice"), "{error}");
    host.remove_all();
    host.settle();
});

host_test!(a_port_that_somebody_has, |host| {
    host.has_had_networks();
    let program = host.sh("exec busybox nc -l -p 8200").start();
    host.soon("it listens", || !host.sh("ss -Hltn sport = 8200").ok().is_empty());
    let _udp = UdpSocket::bind((HOST, 8201)).expect("bind");
    let _six = TcpListener::bind((HOST6, 8202)).expect("bind");
    host.network(&["--ipv6"], "front");
    host.member(&["--net=front", "-p", "0.0.0.0:8203:80", "-p", "[::]:8203:80", "-p", "8204:80/udp"], "web");
    host.settle();
    let pid = format!("(pid {})", program.pid());
    for port in ["8200:80", "0.0.0.0:8200:80", &format!("{HOST}:8200:80")] {
        refused(host, &["-p", port], &["8200", "busybox", &pid, "choose another"]);
    }
    let own = format!("(pid {})", std::process::id());
    refused(host, &["-p", "0.0.0.0:8201:80/udp"], &["8201/udp", &own]);
    refused(host, &["--net=front", "-p", "[::]:8202:80"], &["8202", &own]);
    for port in ["8203:80", "0.0.0.0:8203:7", "192.0.2.2:8203:80", "8204:80/udp", "0.0.0.0:8200-8203:80-83"] {
        refused(host, &["-p", port], &["in use by"]);
    }
    refused(host, &["-p", "8203:80"], &["127.0.0.1:8203/tcp", "container web"]);
    refused(host, &["--net=front", "-p", "[::1]:8203:80"], &["container web"]);
    // Another protocol, another address: another port.
    let lines = published(host, "db", &["-p", "8203:80/udp", "-p", "8204:80/tcp", "-p", "127.0.0.1:8201:80/udp"]);
    assert_eq!(lines.len(), 3);
    // Twice by the same container.
    host.settle();
    refused(host, &["-p", "8300:80", "-p", "0.0.0.0:8300:81"], &["8300", "twice"]);
    refused(host, &["-p", "8300-8310:80-90", "-p", "8305:1"], &["8305", "twice"]);
    // Nobody else gets a port that a container has.
    let bind = |address: Ipv4Addr, port| TcpListener::bind((address, port)).map(|_| ()).map_err(|error| error.kind());
    assert_eq!(bind(Ipv4Addr::UNSPECIFIED, 8203), Err(std::io::ErrorKind::AddrInUse));
    assert_eq!(bind(Ipv4Addr::LOCALHOST, 8204), Err(std::io::ErrorKind::AddrInUse));
    let mut program = program;
    program.signal(nix::sys::signal::Signal::SIGKILL);
    host.soon("it ends", || program.has_ended());
    program.wait();
    host.remove_networks(&["front"]);
    host.settle();
});

host_test!(what_cannot_be_published, within 120, |host| {
    host.has_had_networks();
    for text in [
        "", "x", "0:80", "80:0", "70000:80", "8080:70000", "9-8:80", "8000-8002:80-89", "8000:80-81", "80/icmp", "80/", ":", "::80",
        "a:1:2", "1:2:3:4", "-1:80", "8080:", "8080:80:", "[::1:8080:80", "256.0.0.1:8080:80", "8080:80 ", "65530-65540:1-11",
        "127.0.0.1:8080", "[::1]", "8080:80/tcp/udp",
    ] {
        refused(host, &[&format!("--publish={text}")], &["publish"]);
    }
    for net in ["none", "host", "container:web", "ns:blue"] {
        refused(host, &["--net", net, "-p", "8080:80"], &["publish port `8080:80`"]);
    }
    refused(host, &["-p", "203.0.113.7:8080:80"], &["203.0.113.7 is no address of this host", "ip addr"]);
    refused(host, &["-p", "[::1]:8080:80/sctp"], &["minirun itself", "IPv4"]);
    refused(host, &["-p", "[::]:8000-8099:8000-8099"], &["minirun itself", "IPv4"]);
    // The first of two is given back.
    refused(host, &["-p", "8080:80", "-p", "203.0.113.7:8081:80"], &["203.0.113.7"]);
    let output = host.minirun(["run", "-p", "8080:80", "busybox", "nosuch"]).run();
    assert_eq!(output.code, 127, "{output}");
    assert_eq!(elements(host), "");
    TcpListener::bind((Ipv4Addr::LOCALHOST, 8080)).expect("it is free");
    host.settle();
});

host_test!(ports_of_those_who_have_ended_are_free, |host| {
    host.has_had_networks();
    host.network(&["--ipv6"], "front");
    let ports = ["-p", "0.0.0.0:8400:80", "-p", "[::]:8400:80/udp", "-p", "8401-8403:8401-8403", "-p", "8405-8406:1-2"];
    let options = [&["--net=front"], &ports[..]].concat();
    host.member(&options, "web");
    assert_eq!(elements(host).matches("comment").count(), 5, "{}", elements(host));
    for end in ["stop", "rm", "first process", "holder", "both"] {
        match end {
            "stop" => _ = host.minirun(["stop", "-t", "0", "web"]).ok(),
            "rm" => _ = host.minirun(["rm", "-f", "web"]).ok(),
            _ => {
                let (pid, holder) = (host.pid_of("web"), host.holder_of("web"));
                [(pid, "holder"), (holder, "first process")].iter().for_each(|(process, spared)| {
                    if end != *spared {
                        kill_hard(*process);
                    }
                });
            }
        }
        if end == "first process" {
            host.minirun(["wait", "web"]).ok();
        }
        // Other programs get them at once, where somebody lived to give them back or not.
        for port in [8400, 8401, 8403, 8406] {
            let bound = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
            assert!(bound.is_ok(), "port {port} after {end}: {bound:?}");
        }
        // The next command finds what is left of killed ones.
        host.minirun(["ps"]).ok();
        assert_eq!(elements(host), "", "after {end}");
        host.sh("$MINIRUN rm -f web 2>/dev/null || true").ok();
        host.member(&options, "web");
    }
    // The next command may be the very one that wants them.
    for killed in ["holder", "both"] {
        let (pid, holder) = (host.pid_of("web"), host.holder_of("web"));
        kill_hard(holder);
        if killed == "both" {
            kill_hard(pid);
        }
        let next = host.minirun([&["run", "--rm"], &options[..], &["busybox", "true"]].concat()).run();
        assert_eq!(next.code, 0, "{next}");
        host.sh("$MINIRUN rm -f web").ok();
        assert_eq!(elements(host), "", "after {killed}");
        host.member(&options, "web");
    }
    // The same container takes them again.
    host.minirun(["stop", "-t", "0", "web"]).ok();
    host.minirun(["restart", "web"]).ok();
    assert_eq!(elements(host).matches("comment").count(), 5, "{}", elements(host));
    host.remove_networks(&["front"]);
    assert_eq!(elements(host), "");
    host.settle();
});

host_test!(a_port_of_an_internal_network, |host| {
    host.has_had_networks();
    let _outside = Mirror::of_lan(host, &[7005]);
    host.network(&["--internal", "--ipv6"], "back");
    let ports =
        ["-p", "0.0.0.0:8000:7000/tcp", "-p", "0.0.0.0:8000:7000/udp", "-p", "[::]:8000:7000", "-p", "8001:7001"];
    let web = host.member(&[&["--net=back"], &ports[..]].concat(), "web");
    let near = host.member(&["--net=back"], "near");
    let mirror = Mirror::of(host, web.pid, PORTS);
    // The container knows no way but to its neighbours: whoever asks is seen as the gateway.
    for by in [By::Tcp, By::Udp] {
        assert!(host.in_lan(move || asks(by, HOST, OPEN)).is_some(), "{by:?}");
        assert!(asks(by, HOST, OPEN).is_some(), "{by:?}");
    }
    assert!(host.in_lan(|| asks(By::Tcp, HOST6, OPEN)).is_some());
    assert!(asks(By::Tcp, Ipv4Addr::LOCALHOST, OWN).is_some());
    assert_eq!(host.in_lan(|| asks(By::Tcp, HOST, OWN)), None);
    // What is published opens no way out.
    for pid in [web.pid, near.pid] {
        assert_eq!(host.in_network_of(pid, || asks(By::Tcp, OUTSIDE, 7005)), None);
        assert_eq!(host.in_network_of(pid, || asks(By::Tcp, GATEWAY6, 7005)), None);
    }
    drop(mirror);
    host.remove_networks(&["back"]);
    host.settle();
});

host_test!(all_ports_that_are_exposed, |host| {
    host.has_had_networks();
    assert_eq!(published(host, "named", &["--expose", "7000"]), Vec::<String>::new());
    let lines = published(host, "all", &["-P", "--expose", "7000-7001", "--expose", "7002/udp", "-p", "8500:80"]);
    let ends: Vec<_> = lines.iter().map(|line| line.rsplit("->").next().expect("an end")).collect();
    assert_eq!(ends, ["80/tcp", "7000/tcp", "7001/tcp", "7002/udp"], "{lines:?}");
    assert!(lines.iter().all(|line| line.starts_with("127.0.0.1:")), "{lines:?}");
    host.settle();
    refused(host, &["-P", "--expose", "8080:80"], &["expose port `8080:80`"]);
    refused(host, &["-P", "--net=none", "--expose", "80"], &["-P", "none"]);
    host.remove_all();
    host.settle();
});

host_test!(a_container_of_which_the_host_has_never_heard, |host| {
    host.has_had_networks();
    for options in [&["--ipv6"][..], &["--ipv6", "--internal"]] {
        host.network(options, "front");
        let web = host.member(&["--net=front", "-p", "[::]:8000:7000"], "web");
        let mirror = Mirror::of(host, web.pid, PORTS);
        // Who passes on what others send asks by an address of its own on that link.
        for _ in 0..2 {
            host.sh("ip -6 neigh flush dev mr-front").ok();
            assert!(host.in_lan(|| asks(By::Tcp, HOST6, 8000)).is_some(), "{options:?}");
        }
        drop(mirror);
        host.remove_networks(&["front"]);
    }
    host.settle();
});

host_test!(ipv6_where_the_network_has_none, |host| {
    host.has_had_networks();
    let lines = published(host, "web", &["-p", "[::]:8400:7000", "-p", "8401:7000", "-p", "8401:7000/udp"]);
    assert_eq!(lines[0], "[::]:8400->7000/tcp, for other machines too", "{lines:?}");
    let web = host.member_called("web");
    let mirror = Mirror::of(host, web.pid, PORTS);
    let gateway = host.minirun(["network", "inspect", "--format", "{{.Gateway}}", "bridge"]).ok();
    let gateway: IpAddr = gateway.trim().parse().expect("an address");
    // minirun itself passes it on, so the container sees the host.
    for (at, port) in [(Ipv6Addr::LOCALHOST, 8400), (HOST6, 8400), (Ipv6Addr::LOCALHOST, 8401)] {
        assert_eq!(asks(By::Tcp, at, port), Some(gateway), "{at} {port}");
    }
    assert_eq!(asks(By::Udp, Ipv6Addr::LOCALHOST, 8401), Some(gateway));
    assert_eq!(host.in_lan(move || asks(By::Tcp, HOST6, 8400)), Some(gateway));
    assert_eq!(host.in_lan(move || asks(By::Tcp, HOST6, 8401)), None);
    drop(mirror);
    host.remove_all();
    host.settle();
});

host_test!(its_own_port_where_bridges_ask_the_rules_of_ipv6_alone, |host| {
    const SETTING: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    let Ok(before) = std::fs::read_to_string(SETTING) else {
        // This kernel has no br_netfilter, or has not loaded it.
        return;
    };
    host.has_had_networks();
    host.network(&["--ipv6"], "front");
    host.write(SETTING, "0");
    let web = host.member(&["--net=front", "-p", "[::]:8000:7000"], "web");
    let mirror = Mirror::of(host, web.pid, PORTS);
    assert!(host.in_network_of(web.pid, || asks(By::Tcp, HOST6, 8000)).is_some());
    drop(mirror);
    host.write(SETTING, before.trim());
    host.remove_networks(&["front"]);
});
