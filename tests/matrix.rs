//! Who reaches whom, and who reaches what is published, as whole matrices: they are checked, and `scripts/test --matrix` prints them.
#![allow(clippy::disallowed_methods, reason = "tests start threads")]

mod host;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};

use host::{
    By, GATEWAY, GATEWAY6, HOST, HOST6, Host, Member, Mirror, OUTSIDE, asks, connects, host_test, in_network, ways,
};

/// Where containers listen; what is published for everybody, and for the host alone.
const PORTS: &[u16] = &[7000, 7001];
const OPEN: u16 = 8000;
const OWN: u16 = 8001;

const OWN_NETWORK: &str = "/proc/self/ns/net";
const LAN: &str = "/run/netns/lan";

fn network_of(member: &Member) -> String {
    format!("/proc/{}/ns/net", member.pid)
}

/// Prints a table whose first row says what is in its columns. `scripts/test --matrix` prints what stands from `== ` to an empty line.
fn print(title: &str, rows: &[Vec<String>]) {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    println!("== {title}");
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    println!();
}

/// Says in titles whether frames from port to port of a bridge pass the host's rules.
fn frames() -> &'static str {
    let setting = std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables").unwrap_or_default();
    if setting.trim() == "1" { "frames in bridges pass the host's rules" } else { "frames in bridges pass no rules" }
}

/// A network with IPv6 and a container on it, with ports for everybody and for the host alone.
fn server(host: &Host) -> (Member, Mirror) {
    host.network(&["--subnet=10.50.0.0/24", "--ipv6", "--subnet=fd50::/64"], "front");
    let mut ports = Vec::new();
    for by in ["tcp", "udp"] {
        ports.push(format!("0.0.0.0:{OPEN}:7000/{by}"));
        ports.push(format!("[::]:{OPEN}:7000/{by}"));
        ports.push(format!("{OWN}:7001/{by}"));
    }
    let mut options = vec!["--net=front"];
    ports.iter().for_each(|port| options.extend(["-p", port]));
    let member = host.member(&options, "web");
    let mirror = Mirror::of(host, member.pid, PORTS);
    (member, mirror)
}

/// Who asks, where they are, at which address, and as whom the container is to see them: at the port for everybody, and at that for
/// the host. `None` is nobody: it is not to be reached.
struct Row {
    who: &'static str,
    network: String,
    at: IpAddr,
    seen: [Option<IpAddr>; 2],
}

host_test!(who_reaches_what_is_published, |host| {
    host.has_had_networks();
    host.with_and_without_rules_in_bridges(|| published_ports_are_reached(host));
});

fn published_ports_are_reached(host: &Host) {
    let (web, mirror) = server(host);
    host.network(&["--ipv6"], "back");
    let (sibling, stranger) = (host.member(&["--net=front"], "sibling"), host.member(&["--net=back"], "stranger"));
    let default = host.member(&[], "default");
    let (gateway, gateway6) = (Ipv4Addr::new(10, 50, 0, 1), "fd50::1".parse::<Ipv6Addr>().expect("an address"));
    let mut rows = Vec::new();
    let mut row = |who, network: &str, at: IpAddr, open: Option<IpAddr>, own: Option<IpAddr>| {
        rows.push(Row { who, network: network.to_owned(), at, seen: [open, own] });
    };
    let (via, via6) = (Some(gateway.into()), Some(gateway6.into()));
    // Who comes by the gateway is seen as the gateway where its answer has to come back by it.
    row("host, loopback", OWN_NETWORK, Ipv4Addr::LOCALHOST.into(), via, via);
    // By minirun itself.
    row("host, loopback", OWN_NETWORK, Ipv6Addr::LOCALHOST.into(), via6, via6);
    row("host, its address", OWN_NETWORK, HOST.into(), Some(HOST.into()), None);
    row("host, its address", OWN_NETWORK, HOST6.into(), Some(HOST6.into()), None);
    row("host, the gateway", OWN_NETWORK, gateway.into(), via, None);
    row("host, the gateway", OWN_NETWORK, gateway6.into(), via6, None);
    row("LAN", LAN, HOST.into(), Some(GATEWAY.into()), None);
    row("LAN", LAN, HOST6.into(), Some(GATEWAY6.into()), None);
    for (who, one) in [("container itself", &web), ("sibling", &sibling)] {
        row(who, &network_of(one), HOST.into(), via, None);
        row(who, &network_of(one), HOST6.into(), via6, None);
        row(who, &network_of(one), gateway.into(), via, None);
        row(who, &network_of(one), gateway6.into(), via6, None);
    }
    row("another network", &network_of(&stranger), HOST.into(), Some(stranger.address.into()), None);
    row("another network", &network_of(&stranger), HOST6.into(), stranger.address6.map(IpAddr::V6), None);
    row("default network", &network_of(&default), HOST.into(), Some(default.address.into()), None);

    let wrong = asked(rows);
    assert!(wrong.is_empty(), "see the table: {wrong:#?}");
    // What is published leaves the container's other ports alone: they are in nobody's reach but the host's and neighbours'.
    assert_eq!(ways(LAN, &[IpAddr::V4(HOST)], 7000)[0].1, ["ping"]);
    drop(mirror);
    host.remove_networks(&["front", "back"]);
}

/// Asks all at once, prints what came of it, and gives what is not as it should be.
fn asked(rows: Vec<Row>) -> Vec<String> {
    const TRIES: [(By, u16); 4] = [(By::Tcp, OPEN), (By::Udp, OPEN), (By::Tcp, OWN), (By::Udp, OWN)];
    let ask = |row: Row| {
        let start = |(by, port)| {
            let (network, at) = (row.network.clone(), row.at);
            std::thread::spawn(move || in_network(&network, move || asks(by, at, port)))
        };
        let tries = TRIES.map(start);
        (row, tries)
    };
    let all: Vec<_> = rows.into_iter().map(ask).collect();
    let head = ["who", "asks at", "for all: tcp", "udp", "for the host: tcp", "udp"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    let mut wrong = Vec::new();
    for (row, tries) in all {
        let mut cells = vec![row.who.to_owned(), row.at.to_string()];
        for ((by, port), asking) in TRIES.into_iter().zip(tries) {
            let seen = asking.join().expect("a thread");
            let wanted = row.seen[usize::from(port == OWN)];
            if seen != wanted {
                wrong.push(format!("{} at {} port {port} by {by:?}: {seen:?}, not {wanted:?}", row.who, row.at));
            }
            cells.push(seen.map_or("-".to_owned(), |address| address.to_string()));
        }
        table.push(cells);
    }
    print(&format!("published ports: who reaches them, and is seen as whom ({})", frames()), &table);
    wrong
}

/// Has a network send what goes to its loopback device to a neighbour, who may take it for a packet to its own one.
const LOOPBACK_IS_ELSEWHERE: &str = "IP rule add pref 100 lookup local; IP rule del pref 0; \
    IP rule add pref 50 to LOOPBACK lookup 99; IP route add LOOPBACK dev LINK via ROUTER table 99; \
    sysctl -qw net.ipv4.conf.all.route_localnet=1";
const LOOPBACK_IS_BACK: &str = "for ip in 'ip -4' 'ip -6'; do $ip route flush table 99; $ip rule del pref 50; \
    $ip rule add pref 0 lookup local; $ip rule del pref 100; done";

fn loopback_is_elsewhere(link: &str, router: IpAddr) -> String {
    let (ip, loopback) = if router.is_ipv4() { ("ip", "127.0.0.0/8") } else { ("ip -6", "::1/128") };
    let script = LOOPBACK_IS_ELSEWHERE.replace("IP", ip).replace("LOOPBACK", loopback);
    script.replace("LINK", link).replace("ROUTER", &router.to_string())
}

/// The networks of the matrix; that of its name has IPv6 but for the default one.
const NETWORKS: [(&str, &[&str]); 4] = [
    ("default", &[]),
    ("user", &["--ipv6"]),
    ("internal", &["--internal", "--ipv6"]),
    ("isolated", &["--isolate", "--ipv6"]),
];

/// Who reaches whom over IPv4. A row asks another member of a network, the gateway of its own network (the host and the LAN: that of
/// `user`), the host, the LAN, what is behind it, and the host's loopback device by a route to it. `all` is tcp, udp and ping.
const REACHES: &str = "
    who       default  user  internal  isolated  gateway  host  LAN  outside  loopback
    default   all      -     -         -         all      all   all  all      -
    user      -        all   -         -         all      all   all  all      -
    internal  -        -     all       -         -        -     -    -        -
    isolated  -        -     -         -         all      all   all  all      -
    host      all      all   all       all       all      all   all  all      all
    LAN       -        -     -         -         -        all   all  all      -
";

/// The same over IPv6, of which the default network has none.
const REACHES6: &str = "
    who       user  internal  isolated  gateway  host  LAN  loopback
    user      all   -         -         all      all   all  -
    internal  -     all       -         -        -     -    -
    isolated  -     -         -         all      all   all  -
    host      all   all       all       all      all   all  all
    LAN       -     -         -         -        all   all  -
";

host_test!(who_reaches_whom, within 120, |host| {
    host.has_had_networks();
    // The default network's bridge is kept, and with it that packets to 127.0.0.0/8 pass it.
    host.minirun(["run", "-p", "127.0.0.1::7000", "busybox", "true"]).ok();
    host.settle();
    host.with_and_without_rules_in_bridges(|| members_reach_whom_they_may(host));
});

/// A row or a column of the matrix.
struct Party {
    name: &'static str,
    /// Who asks.
    network: String,
    /// Where it sends what goes to the host's loopback device.
    gateways: [Option<IpAddr>; 2],
    /// Who is asked.
    addresses: [Option<IpAddr>; 2],
}

fn members_reach_whom_they_may(host: &Host) {
    // What listens on the host listens on its loopback device too.
    let mut mirrors = vec![Mirror::of(host, std::process::id(), PORTS), Mirror::of_lan(host, PORTS)];
    let mut parties = Vec::new();
    for (name, options) in NETWORKS {
        let mut network = "bridge";
        if name != "default" {
            host.network(options, name);
            network = name;
        }
        let net = format!("--net={network}");
        // Where a port is published on 127.0.0.1, the bridge lets packets to there pass.
        let asks = host.member(&[&net, "-p", "127.0.0.1::7000"], &format!("{name}-1"));
        let asked = host.member(&[&net], &format!("{name}-2"));
        mirrors.push(Mirror::of(host, asked.pid, PORTS));
        let gateways = ["{{.Gateway}}", "{{.Gateway6}}"]
            .map(|key| host.minirun(["network", "inspect", "-f", key, network]).ok().trim_end().parse().ok());
        let addresses = [Some(asked.address.into()), asked.address6.map(IpAddr::V6)];
        parties.push(Party { name, network: network_of(&asks), gateways, addresses });
    }
    let own = [Some(HOST.into()), Some(HOST6.into())];
    let lan = [Some(GATEWAY.into()), Some(GATEWAY6.into())];
    parties.push(Party { name: "host", network: OWN_NETWORK.to_owned(), gateways: [None; 2], addresses: own });
    parties.push(Party { name: "LAN", network: LAN.to_owned(), gateways: own, addresses: lan });
    let undo = routes(host, &parties);

    let wrong = [(4, 0, REACHES), (6, 1, REACHES6)].map(|(version, family, wanted)| {
        let found = reached(&parties, family, wanted);
        print(&format!("networks: who reaches whom over IPv{version} ({})", frames()), &found);
        let cells = |rows: Vec<Vec<String>>| -> BTreeSet<String> {
            let head = rows[0].clone();
            let cell = |row: &[String], (to, cell): (&String, &String)| format!("{} to {to}: {cell}", row[0]);
            rows.iter().flat_map(|row| head.iter().zip(row).map(|pair| cell(row, pair)).collect::<Vec<_>>()).collect()
        };
        let (found, wanted) = (cells(found), cells(lines(wanted)));
        found.difference(&wanted).cloned().collect::<Vec<_>>()
    });
    assert_eq!(wrong, [vec![], Vec::<String>::new()], "see the tables");
    drop(mirrors);
    host.lan(&undo).ok();
    host.remove_networks(&["user", "internal", "isolated"]);
}

/// Gives everybody routes to everybody: to the host's loopback device from containers and the LAN, and to containers from the LAN.
/// The command that takes them from the LAN again.
fn routes(host: &Host, parties: &[Party]) -> String {
    let mut undo = String::new();
    for party in parties.iter().filter(|party| party.name != "host") {
        let link = if party.name == "LAN" { "host0" } else { "eth0" };
        for gateway in party.gateways.into_iter().flatten() {
            let script = loopback_is_elsewhere(link, gateway);
            host.sh(&format!("nsenter --net={} sh -ec '{script}'", party.network)).ok();
        }
        if party.name == "internal" {
            let [Some(gateway), Some(gateway6)] = party.gateways else { panic!("no gateway") };
            let routes = format!("ip route add default via {gateway}; ip -6 route add default via {gateway6}");
            host.sh(&format!("nsenter --net={} sh -ec '{routes}'", party.network)).ok();
        }
    }
    for address in
        parties.iter().filter(|party| party.name != "LAN" && party.name != "host").flat_map(|party| party.addresses)
    {
        let Some(address) = address else { continue };
        let via = if address.is_ipv4() { IpAddr::V4(HOST) } else { HOST6.into() };
        host.lan(&format!("ip route add {address} via {via}")).ok();
        undo += &format!("ip route del {address}; ");
    }
    undo + LOOPBACK_IS_BACK
}

fn lines(table: &str) -> Vec<Vec<String>> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    table.lines().filter(|line| !line.trim().is_empty()).map(words).collect()
}

/// The table `wanted` with what is really reached in its cells.
fn reached(parties: &[Party], family: usize, wanted: &str) -> Vec<Vec<String>> {
    let mut table = lines(wanted);
    let names = table[0].clone();
    let party = |name: &str| parties.iter().find(|party| party.name == name);
    let user = party("user").expect("a network");
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()][family];
    let ask = |who: &Party| {
        let gateway = if NETWORKS.iter().any(|(name, _)| *name == who.name) { who.gateways } else { user.gateways };
        let address = |name: &String| match name.as_str() {
            "gateway" => gateway[family].expect("a gateway"),
            "outside" => OUTSIDE.into(),
            "loopback" => loopback,
            name => party(name).expect("a party").addresses[family].expect("an address"),
        };
        let (network, addresses) = (who.network.clone(), names[1..].iter().map(address).collect::<Vec<_>>());
        std::thread::spawn(move || ways(&network, &addresses, PORTS[0]))
    };
    let asked: Vec<_> = table[1..].iter().map(|row| ask(party(&row[0]).expect("a party"))).collect();
    for (row, asked) in table[1..].iter_mut().zip(asked) {
        let cell = |(_, ways): (IpAddr, Vec<&str>)| match ways.len() {
            0 => "-".to_owned(),
            3 => "all".to_owned(),
            _ => ways.join("+"),
        };
        row.truncate(1);
        row.extend(asked.join().expect("a thread").into_iter().map(cell));
    }
    table
}

host_test!(neighbours_that_route_by_the_host_reach_nothing, |host| {
    host.has_had_networks();
    let (web, mirror) = server(host);
    let _own = TcpListener::bind((Ipv4Addr::LOCALHOST, 7002)).expect("bind");
    let (address, address6) = (web.address, web.address6.expect("IPv6"));
    // A network whose bridge lets packets to 127.0.0.0/8 pass, because it has published ports there itself, and a port that lets
    // them in: it is the host's rules that are tried here.
    host.network(&[], "back");
    let one = host.member(&["--net=back:spoof", "-p", "8002:7000"], "one");
    let gateway = host.minirun(["network", "inspect", "-f", "{{.Gateway}}", "back"]).ok();
    let gateway: IpAddr = gateway.trim_end().parse().expect("an address");
    host.lan(&loopback_is_elsewhere("host0", HOST.into())).ok();
    host.lan(&format!("ip route add {address}/32 via {HOST}; ip route add {address6}/128 via {HOST6}")).ok();
    let inside = format!("/proc/{}/ns/net", one.pid);
    host.sh(&format!("nsenter --net={inside} sh -ec '{}'", loopback_is_elsewhere("eth0", gateway))).ok();
    host.sh("nft 'table inet witness { chain heard { type filter hook prerouting priority -500;
             iifname eth0 ip daddr 127.0.0.0/8 counter; iifname mr-back ip daddr 127.0.0.0/8 counter; }; }'")
        .ok();
    let mut reached = Vec::new();
    for (who, network) in [("LAN", "/run/netns/lan"), ("another network", &inside)] {
        for port in [7000, 7001, 7002, OPEN, OWN] {
            for (at, how) in ways(network, &[address.into(), address6.into(), Ipv4Addr::LOCALHOST.into()], port) {
                reached.extend((!how.is_empty()).then(|| format!("{who}: {at} port {port} by {how:?}")));
            }
        }
    }
    assert!(reached.is_empty(), "{reached:#?}");
    let heard = host.sh("nft list table inet witness; nft delete table inet witness").ok();
    assert_eq!(heard.matches("counter packets").count(), 2, "{heard}");
    assert!(!heard.contains("packets 0"), "the packets to the loopback device did not come: {heard}");
    // It is not that nothing listens.
    for (at, port) in [(address, 7001), (Ipv4Addr::LOCALHOST, OWN)] {
        assert!(asks(By::Tcp, at, port).is_some(), "{at} port {port}");
    }
    assert!(connects(Ipv4Addr::LOCALHOST, 7002));
    drop(mirror);
    host.remove_networks(&["front", "back"]);
    host.lan(&format!(
        "ip route del {address}/32; ip route del {address6}/128; ip route flush table 99; ip rule del pref 50
         ip rule add pref 0 lookup local; ip rule del pref 100"
    ))
    .ok();
});
