//! Names in containers: who is found by which, who is asked for others, and what of it the container's files say.

mod host;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use host::{GATEWAY, Host, Member, Resolver, host_test};

/// Where systemd-resolved listens, and its like.
const STUB: [u8; 4] = [127, 0, 0, 53];

/// A script in a container's network, with the host's programs and the container's resolv.conf: for glibc's resolver.
fn with_glibc(host: &Host, member: &Member, script: &str) -> host::Call {
    let pid = member.pid;
    host.sh(&format!(
        "exec nsenter --net=/proc/{pid}/ns/net unshare --mount sh -ec '
           cat /proc/{pid}/root/etc/resolv.conf >/tmp/resolv.conf; mount -n --bind /tmp/resolv.conf /etc/resolv.conf; rm /tmp/resolv.conf; {script}'"
    ))
}

/// The addresses that glibc finds of a name, in both families.
#[track_caller]
fn addresses(host: &Host, member: &Member, name: &str) -> Vec<IpAddr> {
    let said = with_glibc(host, member, &format!("getent ahosts {name} || [ $? = 2 ]")).ok();
    let address = |line: &str| line.split(' ').next().expect("a word").parse().expect("an address");
    let mut all: Vec<IpAddr> = said.lines().map(address).collect();
    all.sort();
    all.dedup();
    all
}

/// The names that glibc finds of an address, the first one first.
#[track_caller]
fn names(host: &Host, member: &Member, address: impl Into<IpAddr>) -> Vec<String> {
    let said = with_glibc(host, member, &format!("getent hosts {} || [ $? = 2 ]", address.into())).ok();
    said.split_whitespace().skip(1).map(str::to_owned).collect()
}

/// What busybox's nslookup says in a container.
fn nslookup(host: &Host, member: &Member, words: &[&str]) -> String {
    host.minirun([&["exec", &member.name, "nslookup"], words].concat()).run().stdout
}

/// The addresses of a member, in the order in which `addresses` gives them.
fn of(member: &Member) -> Vec<IpAddr> {
    std::iter::once(member.address.into()).chain(member.address6.map(IpAddr::V6)).collect()
}

/// A host with a stub as its resolver, and the network `front` with IPv6.
fn ground(host: &Host) -> Resolver {
    host.has_had_networks();
    host.write("/etc/resolv.conf", "nameserver 127.0.0.53\n");
    host.network(&["--subnet=10.50.0.0/24", "--ipv6", "--subnet=fd50::/64"], "front");
    Resolver::of_host(STUB)
}

host_test!(members_find_each_other, |host| {
    let resolver = ground(host);
    host.member(&["--net=front:alias=sql", "--network-alias=Store"], "db");
    let db = host.member_called("db");
    let web = host.member(&["--net=front"], "web");
    let id = host.inspect("db", ".ID");
    for name in ["db", "DB", "db.front", "sql", "store", "STORE", "sql.front", id.as_str(), "db."] {
        assert_eq!(addresses(host, &web, name), of(&db), "{name}");
        let said = nslookup(host, &web, &[name]);
        assert!(said.contains("Address: 10.50.0.") && said.contains("Address: fd50::"), "{name}: {said}");
    }
    let said = nslookup(host, &web, &["-type=a", "db"]);
    assert!(said.contains("127.0.0.11") && !said.contains("fd50::"), "{said}");
    let said = nslookup(host, &web, &["-type=aaaa", "db"]);
    assert!(said.contains(&format!("Address: {}", db.address6.expect("IPv6"))) && !said.contains(": 10.50."), "{said}");
    // Backwards, and of oneself.
    for address in of(&db) {
        assert_eq!(names(host, &web, address).first().map(String::as_str), Some("db"), "{address}");
        assert!(nslookup(host, &web, &[&address.to_string()]).contains("name = db"), "{address}");
    }
    assert_eq!(addresses(host, &web, "web"), of(&web));
    assert_eq!(addresses(host, &db, "web"), of(&web));
    for name in ["host.minirun.internal", "gateway.minirun.internal"] {
        assert_eq!(addresses(host, &web, name), [Ipv4Addr::new(10, 50, 0, 1)], "{name}");
    }
    // Nobody else was asked for any of it, nor is for an address of the network that nobody has.
    assert_eq!(names(host, &web, Ipv4Addr::new(10, 50, 0, 200)), Vec::<String>::new());
    let asked = resolver.asked();
    assert_eq!(asked, Vec::<String>::new());
    host.remove_networks(&["front"]);
});

host_test!(who_joins_is_found_and_who_leaves_is_not, |host| {
    let _resolver = ground(host);
    let web = host.member(&["--net=front"], "web");
    let none = Vec::<IpAddr>::new();
    for end in ["rm", "stop", "kill"] {
        assert_eq!(addresses(host, &web, "late"), none, "before {end}");
        let late = host.member(&["--net=front"], "late");
        // At once, and for as long as it lives.
        assert_eq!(addresses(host, &web, "late"), of(&late), "before {end}");
        match end {
            "rm" => _ = host.minirun(["rm", "-f", "late"]).ok(),
            "stop" => _ = host.minirun(["stop", "-t", "0", "late"]).ok(),
            _ => host::kill_hard(host.holder_of("late")),
        }
        host.soon("the killed holder is buried", || {
            host.bury();
            addresses(host, &web, "late").is_empty()
        });
        assert!(end == "kill" || addresses(host, &web, "late").is_empty());
        host.sh("$MINIRUN rm -f late 2>/dev/null || true").ok();
    }
    // Its next run has the same name, whatever its address.
    host.member(&["--net=front"], "late");
    host.minirun(["restart", "-t", "0", "late"]).ok();
    let late = host.member_called("late");
    assert_eq!(addresses(host, &web, "late"), of(&late));
    // A new name, from when it has it.
    host.minirun(["rename", "late", "soon"]).ok();
    assert_eq!(addresses(host, &web, "soon"), of(&late));
    assert_eq!(addresses(host, &web, "late"), none);
    host.remove_networks(&["front"]);
});

host_test!(members_of_other_networks_are_not_known, |host| {
    let resolver = ground(host);
    host.network(&["--subnet=10.51.0.0/24"], "back");
    let web = host.member(&["--net=front:alias=shared"], "web");
    let db = host.member(&["--net=back:alias=shared"], "db");
    let both = host.member(&["--net=front", "--net=back:alias=inner"], "both");
    let plain = host.member(&[], "plain");
    resolver.asked();
    for (who, name) in [
        (&web, "db"),
        (&web, "db.back"),
        (&db, "web"),
        (&web, "inner"),
        (&web, "plain"),
        (&plain, "web"),
        (&web, "both.back"),
    ] {
        assert_eq!(addresses(host, who, name), Vec::<IpAddr>::new(), "{name} from {}", who.name);
    }
    // Nobody knows the addresses of another network either; that is asked outside as any other.
    assert_eq!(names(host, &web, db.address), Vec::<String>::new());
    // Each sees of it what it can reach.
    assert_eq!(addresses(host, &db, "both"), addresses(host, &db, "inner"));
    assert_eq!(addresses(host, &web, "both"), of(&both));
    assert!(!addresses(host, &db, "both").iter().any(|address| of(&both).contains(address)));
    // An alias may be of several, and is of those who are seen.
    assert_eq!(addresses(host, &web, "shared"), of(&web));
    assert_eq!(addresses(host, &db, "shared"), of(&db));
    let all = addresses(host, &both, "shared");
    assert!(all.contains(&db.address.into()) && all.contains(&web.address.into()), "{all:?}");
    assert_eq!(addresses(host, &both, "shared.back"), of(&db));
    assert_eq!(names(host, &both, db.address).first().map(String::as_str), Some("db"));
    // The default network's members find each other, too.
    let other = host.member(&[], "other");
    assert_eq!(addresses(host, &plain, "other"), of(&other));
    host.remove_networks(&["front", "back"]);
});

host_test!(others_are_asked_for_when_they_are_asked_for, |host| {
    let first = ground(host);
    let second = Resolver::of_host([127, 0, 0, 54]);
    let lan = Resolver::of_lan(host, [198, 51, 100, 99]);
    let web = host.member(&["--net=front"], "web");
    let found = |last: u8| vec![IpAddr::from([198, 51, 100, last])];
    assert_eq!(addresses(host, &web, "example.test"), found(53));
    assert!(nslookup(host, &web, &["example.test"]).contains("Address: 198.51.100.53"));
    assert!(nslookup(host, &web, &["none.test"]).contains("NXDOMAIN"));
    assert_eq!(addresses(host, &web, "big.test").len(), 200);
    assert!(!first.asked().is_empty() && second.asked().is_empty());
    // The host moves to another network while the container runs.
    host.write("/etc/resolv.conf", "nameserver 127.0.0.54\n");
    assert_eq!(addresses(host, &web, "example.test"), found(54));
    host.write("/etc/new", &format!("nameserver {GATEWAY}\n"));
    host.sh("mv /etc/new /etc/resolv.conf").ok();
    assert_eq!(addresses(host, &web, "example.test"), found(99));
    assert!(first.asked().is_empty() && !second.asked().is_empty() && !lan.asked().is_empty());
    host.remove_networks(&["front"]);
});

host_test!(other_servers_domains_and_options, |host| {
    let resolver = ground(host);
    host.write("/etc/resolv.conf", "nameserver 127.0.0.53\nsearch corp.test\noptions edns0\n");
    let lan = Resolver::of_lan(host, [198, 51, 100, 99]);
    let db = host.member(&["--net=front"], "db");
    let text = |name: &str| host.minirun(["exec", name, "cat", "/etc/resolv.conf"]).ok();
    assert_eq!(text("db"), "nameserver 127.0.0.11\nsearch corp.test\noptions edns0\n");
    assert_eq!(addresses(host, &db, "db.corp.test"), of(&db));
    let options = [
        "--dns",
        &GATEWAY.to_string(),
        "--dns-search=a.test",
        "--dns-search=b.test",
        "--dns-option=ndots:2",
        "--dns-opt=timeout:3",
    ];
    let web = host.member(&[&["--net=front"], &options[..]].concat(), "web");
    assert_eq!(text("web"), "nameserver 127.0.0.11\nsearch a.test b.test\noptions ndots:2 timeout:3\n");
    resolver.asked();
    assert_eq!(addresses(host, &web, "example.test"), [IpAddr::from([198, 51, 100, 99])]);
    assert!(resolver.asked().is_empty(), "--dns says who is asked");
    // Members are found with each of its domains, and others by its domains.
    for name in ["db", "db.a.test", "db.b.test"] {
        assert_eq!(addresses(host, &web, name), of(&db), "{name}");
    }
    lan.asked();
    assert_eq!(addresses(host, &web, "short"), [IpAddr::from([198, 51, 100, 99])]);
    assert!(lan.asked().contains(&"udp short.a.test.".to_owned()));
    // Where there is no network, somebody who says so has one all the same.
    let said = host
        .minirun([
            "run",
            "--net=none",
            "--dns=203.0.113.5",
            "--dns-search=a.test",
            "busybox",
            "cat",
            "/etc/resolv.conf",
        ])
        .ok();
    assert_eq!(said, "nameserver 203.0.113.5\nsearch a.test\n");
    host.remove_networks(&["front"]);
});

host_test!(nothing_leaves_an_internal_network, |host| {
    let resolver = ground(host);
    let lan = Resolver::of_lan(host, [198, 51, 100, 99]);
    host.network(&["--internal"], "back");
    let one = host.member(&["--net=back", "--dns", &GATEWAY.to_string()], "one");
    let two = host.member(&["--net=back"], "two");
    assert_eq!(addresses(host, &one, "two"), of(&two));
    assert_eq!(addresses(host, &two, "host.minirun.internal").len(), 1);
    for who in [&one, &two] {
        for name in ["example.test", "secret.attacker.test", "big.test", "nosuch"] {
            assert_eq!(addresses(host, who, name), Vec::<IpAddr>::new(), "{name}");
            assert!(nslookup(host, who, &[name]).contains("NXDOMAIN"), "{name}");
        }
        assert_eq!(names(host, who, Ipv4Addr::new(198, 51, 100, 1)), Vec::<String>::new());
        let said = with_glibc(host, who, "RES_OPTIONS=use-vc getent ahosts secret.attacker.test || [ $? = 2 ]").ok();
        assert_eq!(said, "");
    }
    assert_eq!((resolver.asked(), lan.asked()), (vec![], vec![]));
    // One that has another network as well has a way out, and uses it.
    let both = host.member(&["--net=back", "--net=front"], "both");
    assert_eq!(addresses(host, &both, "example.test"), [IpAddr::from([198, 51, 100, 53])]);
    assert!(!resolver.asked().is_empty());
    host.remove_networks(&["front", "back"]);
});

host_test!(port_53_is_the_containers, |host| {
    let _resolver = ground(host);
    let web = host.member(&["--net=front"], "web");
    let db = host.member(&["--net=front"], "db");
    // A name server of its own, at all addresses, by both transports.
    let own = host.in_network_of(web.pid, || {
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).expect("port 53 of all addresses");
        (udp, host::listen(Ipv4Addr::UNSPECIFIED, 53))
    });
    let _theirs = Resolver::new(own, [198, 51, 100, 7]);
    // The neighbours ask it, and the container's own programs find names as before.
    let ask = format!("busybox nslookup -type=a example.test {}", web.address);
    let said = host.sh(&format!("nsenter --net=/proc/{}/ns/net {ask}", db.pid)).ok();
    assert!(said.contains("198.51.100.7"), "{said}");
    assert_eq!(addresses(host, &web, "db"), of(&db));
    assert_eq!(addresses(host, &web, "example.test"), [IpAddr::from([198, 51, 100, 53])]);
    let said = with_glibc(host, &web, "RES_OPTIONS=use-vc getent ahostsv4 db").ok();
    assert!(said.contains(&db.address.to_string()), "{said}");
    host.remove_all();
    host.settle();
});

host_test!(the_files_know_the_container_and_the_host, |host| {
    let _resolver = ground(host);
    let web = host.member(&["--net=front", "--add-host=far:203.0.113.5", "--add-host=here:host-gateway"], "web");
    let hosts = host.minirun(["exec", "web", "cat", "/etc/hosts"]).ok();
    let has = |address: &str, name: &str| {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        hosts
            .lines()
            .map(words)
            .any(|words| words.first().is_some_and(|first| first == address) && words.iter().any(|word| word == name))
    };
    let (own, own6) = (web.address.to_string(), web.address6.expect("an address").to_string());
    for (address, name) in [
        (own.as_str(), "web"),
        (own6.as_str(), "web"),
        ("10.50.0.1", "host.minirun.internal"),
        ("10.50.0.1", "here"),
        ("203.0.113.5", "far"),
        ("127.0.0.1", "localhost"),
    ] {
        assert!(has(address, name), "{address} {name}: {hosts}");
    }
    // The name of the host leads to it.
    let _server = host::listen(Ipv4Addr::UNSPECIFIED, 7000);
    let reached = host.minirun(["exec", "web", "nc", "-w", "2", "host.minirun.internal", "7000"]).stdin("").start();
    host.soon("it connects", || _server.accept().is_ok());
    reached.wait();
    host.remove_networks(&["front"]);
});

host_test!(who_has_the_network_of_another_finds_its_members, |host| {
    let resolver = ground(host);
    let db = host.member(&["--net=front:alias=sql"], "db");
    host.member(&["--net=front"], "web");
    host.detached(&["--net=container:web", "--name", "beside"], &["sleep", "1000"]);
    for whose in ["web", "beside"] {
        let net = format!("--net=container:{whose}");
        let said = host
            .minirun(["run", &net, "busybox", "sh", "-c", "nslookup sql; nslookup web; nslookup example.test"])
            .run();
        for words in [&db.address.to_string(), &db.address6.expect("IPv6").to_string(), "Name:\tweb"] {
            assert!(said.stdout.contains(words), "{said}");
        }
        assert!(resolver.asked().iter().any(|name| name.contains("example.test")), "{said}");
        // Another server is asked where one is given.
        let said = host.minirun(["run", &net, "--dns=192.0.2.1", "busybox", "cat", "/etc/resolv.conf"]).ok();
        assert!(said.starts_with("nameserver 192.0.2.1\n"), "{said}");
    }
    host.remove_networks(&["front"]);
});
