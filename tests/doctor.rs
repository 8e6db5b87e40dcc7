//! `minirun doctor`: what it says is what is so. Every fault is made on the host, is seen to harm where that can be seen, and is
//! gone when the command that doctor gives has run.

mod host;

use std::net::IpAddr;
use std::time::Duration;

use host::{By, GATEWAY, HOST, Host, Member, Mirror, OUTSIDE, Output, Resolver, Terminal, asks, host_test, kill_hard};
use serde_json::Value;

const PORTS: &[u16] = &[7000];

/// Makes what first uses leave on purpose, minirun's and iptables', and takes it for the state to come back to.
fn ready(host: &Host) {
    host.minirun(["run", "-p", "8080:80", "busybox", "true"]).ok();
    host.has_run_detached();
    host.sh("touch /run/xtables.lock; chmod 600 /run/xtables.lock; mkdir -p /run/mount").ok();
    host.has_had_networks();
}

/// What doctor finds of a code, but for what is all right.
#[track_caller]
fn found(host: &Host, code: &str) -> Vec<(String, String, String)> {
    found_by(&host.minirun(["doctor", "--format", "json"]).run(), code)
}

#[track_caller]
fn found_by(said: &Output, code: &str) -> Vec<(String, String, String)> {
    let all: Value = serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    let text = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
    let of_code: Vec<&Value> = all.as_array().expect("a list").iter().filter(|one| one["code"] == code).collect();
    assert!(!of_code.is_empty(), "no check `{code}` in {said}");
    let wrong = of_code.into_iter().filter(|one| one["severity"] != "ok");
    wrong.map(|one| (text(one, "severity"), text(one, "message"), text(one, "fix"))).collect()
}

/// One fault is found, which names `words`; its fix is run, and it is not found any more.
#[track_caller]
fn found_and_mended(host: &Host, code: &str, severity: &str, words: &[&str]) {
    let fix = found_one(host, code, severity, words);
    host.sh(&fix.replace("minirun ", &format!("{} ", host::binary()))).ok();
    assert_eq!(found(host, code), [], "after `{fix}`");
}

/// One fault is found, which names `words`. Its fix.
#[track_caller]
fn found_one(host: &Host, code: &str, severity: &str, words: &[&str]) -> String {
    let all = found(host, code);
    let [(how_bad, message, fix)] = &all[..] else { panic!("not one of {code}: {all:?}") };
    assert_eq!(how_bad, severity, "{message}");
    assert!(words.iter().all(|word| message.contains(word)), "not all of {words:?} are in: {message}");
    fix.clone()
}

host_test!(cold a_sound_host_is_called_so_and_stays_as_it_is, |host| {
    let _resolver = Resolver::of_lan(host, [192, 0, 2, 99]);
    host.sh("mkdir -p /run/minirun").ok();
    host.settle();
    let said = host.minirun(["doctor", "--strict"]).run();
    assert_eq!((said.code, said.stderr.as_str()), (0, ""), "{said}");
    assert!(said.stdout.ends_with("\n0 errors, 0 warnings\n"), "{said}");
    assert!(said.stdout.lines().filter(|line| line.starts_with("ok ")).count() > 25, "{said}");
    host.nothing_left();
    // With networks and containers it is sound as well.
    host.minirun(["network", "create", "--ipv6", "front"]).ok();
    host.minirun(["run", "-d", "--name", "one", "--net=front", "-p", "8080:80", "busybox", "sleep", "1000"]).ok();
    host.minirun(["run", "-d", "--name", "two", "busybox", "sleep", "1000"]).ok();
    host.settle();
    let said = host.minirun(["doctor", "--strict"]).run();
    assert_eq!(said.code, 0, "{said}");
    host.nothing_left();
    host.remove_networks(&["front"]);
});

host_test!(its_exit_code_counts_errors_and_strictly_warnings, |host| {
    let _resolver = Resolver::of_lan(host, [192, 0, 2, 99]);
    assert_eq!(host.minirun(["doctor"]).run().code, 0);
    host.sh("mkdir -p /run/netns; touch /run/netns/gone").ok();
    assert_eq!(host.minirun(["doctor"]).run().code, 0);
    assert_eq!(host.minirun(["doctor", "--strict"]).run().code, 1);
    host.sh("rm /run/netns/gone; nft add table ip t; nft 'add chain ip t c { type filter hook forward priority 0; policy drop; }'").ok();
    assert_eq!(host.minirun(["doctor"]).run().code, 1);
    let codes = host.minirun(["doctor", "-q"]).run().stdout;
    assert!(codes.lines().any(|code| code == "forward-drop") && codes.lines().count() > 25, "{codes}");
    let lines = host.minirun(["doctor", "--format", "{{.Code}} {{.Severity}}"]).run().stdout;
    assert!(lines.lines().any(|line| line == "forward-drop error"), "{lines}");
    host.sh("nft delete table ip t").ok();
    let refused = host.minirun(["doctor", "everything"]).fails(125);
    assert!(refused.contains("`everything`") || refused.contains("everything"), "{refused}");
});

host_test!(colours_are_for_terminals_and_can_be_refused, |host| {
    assert!(!host.minirun(["doctor"]).run().stdout.contains('\u{1b}'));
    let on_a_terminal = |environment: &str| {
        let line = format!("{environment} {} doctor", host::binary());
        let terminal = Terminal::start("sh", &["-c", &line], 60, 200);
        terminal.shows("warning");
        terminal.screen()
    };
    assert!(on_a_terminal("").contains("\u{1b}[32mok"), "no colour");
    assert!(!on_a_terminal("NO_COLOR=1").contains("\u{1b}[32mok"), "colour in spite of NO_COLOR");
});

/// A container and what it may reach.
struct Ground {
    member: Member,
    other: Member,
    _mirrors: [Mirror; 3],
}

impl Ground {
    fn new(host: &Host) -> Self {
        ready(host);
        let member = host.member(&["-p", "0.0.0.0:8080:7000"], "one");
        let other = host.member(&[], "two");
        let mirrors =
            [Mirror::of_lan(host, PORTS), Mirror::of(host, member.pid, PORTS), Mirror::of(host, other.pid, PORTS)];
        Self { member, other, _mirrors: mirrors }
    }

    /// Which ways are open: out, in, and from container to container.
    fn open(&self, host: &Host) -> [bool; 3] {
        let other: IpAddr = self.other.address.into();
        let out = host.in_network_of(self.member.pid, || asks(By::Tcp, OUTSIDE, PORTS[0]).is_some());
        let inward = host.in_lan(|| asks(By::Tcp, HOST, 8080).is_some());
        let between = host.in_network_of(self.member.pid, move || asks(By::Tcp, other, PORTS[0]).is_some());
        [out, inward, between]
    }
}

const DOCKERS: &str = "
    $I -N DOCKER-USER; $I -A DOCKER-USER -j RETURN; $I -I FORWARD -j DOCKER-USER
    $I -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
    $I -A FORWARD -i docker0 ! -o docker0 -j ACCEPT; $I -P FORWARD DROP";
const UNDO: &str = "$I -F; $I -X; $I -P FORWARD ACCEPT; $I -P INPUT ACCEPT; $I -t raw -F; nft delete table inet fw";

/// Rules of another program's, how they are called, and the words of the finding.
const RULES: [(&str, &str, &[&str]); 11] = [
    (
        "$I -A FORWARD -m addrtype --dst-type LOCAL -j ACCEPT; $I -A FORWARD -m addrtype ! --src-type LOCAL -j DROP",
        "forward-drop",
        &["`FORWARD`", "rule 2"],
    ),
    (
        "nft 'table inet fw { chain passing { type filter hook forward priority 0; fib daddr type local accept
           ct state new fib daddr type != local meta nfproto ipv4 drop; }; }'",
        "forward-drop",
        &["`passing`", "rule 2"],
    ),
    (
        "$I -P FORWARD DROP",
        "forward-drop",
        &["`ip filter`", "`FORWARD`", "the policy", "`minirun0`", "to other machines"],
    ),
    (DOCKERS, "forward-drop", &["`ip filter`", "`FORWARD`", "the policy", "from other machines"]),
    ("$I -A FORWARD -i br9 -j ACCEPT; $I -A FORWARD -j REJECT", "forward-drop", &["`FORWARD`", "rule 2"]),
    (
        "$I -A FORWARD -m state --state RELATED,ESTABLISHED -j ACCEPT; $I -A FORWARD ! -i lo -j DROP",
        "forward-drop",
        &["rule 2"],
    ),
    (
        "$I -N own; $I -A FORWARD -g own; $I -A own -p tcp --dport 22 -j ACCEPT; $I -A own -p tcp -j DROP",
        "forward-drop",
        &["chain `own`", "rule 2"],
    ),
    (
        "$I -t raw -A PREROUTING -s 10.214.0.0/16 -p tcp -j DROP",
        "forward-drop",
        &["`ip raw`", "`PREROUTING`", "rule 1"],
    ),
    (
        "nft 'table inet fw { chain passing { type filter hook forward priority 0; policy drop;
           ct state vmap { established : accept, related : accept, invalid : drop }
           iifname { \"lo\", \"br9\" } accept; ip saddr 10.9.0.0/16 accept; tcp dport { 22, 443 } accept; }; }'",
        "forward-drop",
        &["`inet fw`", "`passing`", "the policy"],
    ),
    (
        "nft 'table inet fw { set trusted { type ifname; elements = { \"lo\" }; }
           chain passing { type filter hook forward priority 0; iifname != @trusted jump rest; }
           chain rest { oifname \"eth0\" counter reject; oifname \"minirun*\" drop; }; }'",
        "forward-drop",
        &["chain `rest`", "rule 1"],
    ),
    (
        "$I -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT; $I -A INPUT -i minirun0 -j REJECT",
        "input-drop",
        &["rule 2"],
    ),
];

fn foreign_rules(host: &Host, program: &str) {
    // On its own path, so that `iptables` in a fix is the one whose tables are meant.
    let run = |script: &str| host.sh(&format!("I={program}; {script}"));
    let ground = Ground::new(host);
    assert_eq!(ground.open(host), [true; 3]);
    host.sh("echo 0 >/proc/sys/net/bridge/bridge-nf-call-iptables || true").run();
    for (rules, code, words) in RULES {
        if program.contains("legacy") && rules.starts_with("nft") {
            continue;
        }
        eprintln!("# {rules}");
        run(rules).ok();
        let severity = if code == "forward-drop" { "error" } else { "warning" };
        let all = found(host, code);
        if code == "forward-drop" {
            assert_ne!(ground.open(host), [true; 3], "the rule stops nothing");
        }
        // Two rules of a chain may each stop a way.
        assert!(!all.is_empty() && all.iter().all(|(bad, ..)| bad == severity), "{all:?}");
        assert!(words.iter().all(|word| all[0].1.contains(word)), "not all of {words:?} are in: {}", all[0].1);
        assert_eq!(all[0].1.contains("ip_tables"), program.contains("legacy") && !rules.starts_with("nft"));
        host.sh(&all[0].2).ok();
        assert_eq!(found(host, code), [], "after `{}`", all[0].2);
        assert_eq!(ground.open(host), [true; 3], "after `{}`", all[0].2);
        host.sh(&format!(
            "I={program}; for i in 1; do {UNDO}; done 2>/dev/null || true; nft delete table inet fw 2>/dev/null || true"
        ))
        .ok();
        run("$I -F; $I -X; $I -P FORWARD ACCEPT; $I -t raw -F").ok();
    }
    host.sh("nft delete table ip filter; nft delete table ip raw").run();
    host.sh("echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables || true").run();
    host.remove_all();
}

host_test!(rules_of_nftables_are_named_and_the_command_opens_them, within 120, |host| {
    foreign_rules(host, "iptables-nft");
});

host_test!(rules_of_ip_tables_are_named_and_the_command_opens_them, within 120, |host| {
    foreign_rules(host, "iptables-legacy");
});

host_test!(what_lets_containers_pass_is_not_reported, |host| {
    ready(host);
    let quiet = |script: &str| {
        host.sh(script).ok();
        assert_eq!(found(host, "forward-drop"), [], "{script}");
    };
    for program in ["iptables-nft", "iptables-legacy"] {
        let run = |script: &str| format!("I={program}; {script}");
        quiet(&run("$I -P FORWARD DROP; $I -A FORWARD -i minirun+ -j ACCEPT; $I -A FORWARD -o minirun0 -j ACCEPT"));
        quiet(&run("$I -F; $I -A FORWARD -j ACCEPT"));
        quiet(&run("$I -F; $I -P FORWARD ACCEPT; $I -A FORWARD -i docker0 -j DROP; $I -A FORWARD -p udp -j DROP"));
        quiet(&run("$I -A FORWARD -s 172.17.0.0/16 -j DROP; $I -A FORWARD -p tcp --dport 25 -j REJECT"));
        host.sh(&run("$I -F; $I -P FORWARD ACCEPT")).ok();
        // What cannot be understood leaves a doubt, and is no error.
        host.sh(&run("$I -A FORWARD -m limit --limit 1/s -j ACCEPT; $I -A FORWARD -j DROP")).ok();
        found_one(host, "forward-drop", "warning", &["rule 2", "may drop"]);
        host.sh(&run("$I -F; $I -A FORWARD -m limit --limit 1/s -j DROP")).ok();
        assert_eq!(found(host, "forward-drop"), []);
        host.sh(&run("$I -F")).ok();
    }
    host.sh("nft delete table ip filter").ok();
});

host_test!(what_only_stops_containers_from_each_other, |host| {
    let setting = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    let Ok(before) = std::fs::read_to_string(setting) else { return };
    let ground = Ground::new(host);
    host.sh("iptables-nft -A FORWARD -i minirun0 -o minirun0 -j DROP").ok();
    for value in ["1", "0"] {
        host.write(setting, value);
        let stops = value == "1";
        assert_eq!(ground.open(host), [true, true, !stops]);
        assert_eq!(found(host, "bridge-drop").len(), usize::from(stops));
        assert_eq!(found(host, "forward-drop"), []);
    }
    host.write(setting, "1");
    found_and_mended(host, "bridge-drop", "error", &["`FORWARD`", "rule 1", "from container to container"]);
    assert_eq!(ground.open(host), [true; 3]);
    host.write(setting, before.trim());
    host.sh("nft delete table ip filter").ok();
    host.remove_all();
});

host_test!(cold a_run_that_makes_a_bridge_warns_once, |host| {
    host.sh("iptables-nft -P FORWARD DROP").ok();
    let first = host.minirun(["run", "busybox", "true"]).run();
    assert_eq!(first.code, 0, "{first}");
    let warnings = |said: &str| said.lines().filter(|line| line.contains("warning: ")).count();
    assert_eq!(warnings(&first.stderr), 1, "{first}");
    let words = ["`ip filter`", "`FORWARD`", "the policy", "minirun doctor"];
    assert!(words.iter().all(|word| first.stderr.contains(word)), "{first}");
    // Later ones do not even look, as long as nothing changes; also where another network is new, it is about that.
    assert_eq!(host.minirun(["run", "busybox", "true"]).run().stderr, "");
    let created = host.minirun(["network", "create", "front"]).run();
    assert_eq!((created.code, warnings(&created.stderr)), (0, 1), "{created}");
    host.sh("nft delete table ip filter").ok();
    assert_eq!(host.minirun(["network", "create", "back"]).run().stderr, "");
    host.minirun(["network", "rm", "front", "back"]).ok();
});

/// How many answers of the kernel's a start reads, which is how much it looks at.
fn answers(host: &Host) -> usize {
    let traced = host.sh("strace -f -qq -e trace=recvfrom,getsockopt $MINIRUN run busybox true 2>&1").ok();
    traced.lines().filter(|line| line.contains("recvfrom(") || line.contains("getsockopt(")).count()
}

fn rules_that_come_later(host: &Host, program: &str) {
    ready(host);
    let run = |options: &[&str]| {
        // A look that is not allowed yet is made later.
        std::thread::sleep(Duration::from_millis(400));
        host.minirun([&["run"], options, &["busybox", "true"]].concat()).run().stderr
    };
    let warned = |said: &str| said.contains("another program's table") && said.contains("`FORWARD`");
    // The older ip_tables are there from the first of their rules on.
    host.sh(&format!("{program} -A FORWARD -i wan9 -j ACCEPT")).ok();
    run(&[]);
    let few = answers(host);
    assert_eq!(run(&[]), "");
    host.sh(&format!("{program} -P FORWARD DROP")).ok();
    let said = run(&[]);
    assert!(warned(&said), "{said}");
    let remedy = said.split('`').find(|words| words.starts_with("iptables")).expect("a command").to_owned();
    // Said once a change, not at each start; a published port is a change of minirun's own.
    assert!(!warned(&run(&[])) && !warned(&run(&["-p", "8080:80"])) && !warned(&run(&[])));
    assert_eq!(answers(host), few);
    // A network that is new is another matter, and a change that opens it another one.
    host.network(&[], "front");
    assert!(warned(&run(&["--net=front"])) && !warned(&run(&["--net=front"])) && !warned(&run(&[])));
    host.sh(&remedy).ok();
    assert!(!warned(&run(&[])));
    host.sh(&format!("{program} -F; {program} -A FORWARD -i minirun0 -j DROP")).ok();
    assert!(warned(&run(&[])));
    host.sh(&format!("{program} -F; {program} -P FORWARD ACCEPT; nft delete table ip filter 2>/dev/null || true")).ok();
    assert_eq!(run(&[]), "");
    host.remove_networks(&["front"]);
    host.settle();
}

host_test!(a_start_warns_of_rules_that_came_since_the_last_one, |host| {
    rules_that_come_later(host, "iptables-nft");
});

host_test!(a_start_warns_of_rules_of_ip_tables_that_came_since, |host| {
    rules_that_come_later(host, "iptables-legacy");
});

host_test!(containers_that_come_and_go_have_nobody_look, |host| {
    ready(host);
    host.minirun(["run", "busybox", "true"]).ok();
    let few = answers(host);
    let run = "for i in $(seq 6); do $MINIRUN run -p 80 busybox true || exit; done";
    host.sh(run).ok();
    assert_eq!(answers(host), few);
    // Where two change the rules at once, one look more may be made, and no more.
    host.sh(&format!("{run} & {run}; wait")).ok();
    std::thread::sleep(Duration::from_millis(400));
    answers(host);
    assert_eq!(answers(host), few);
});

host_test!(cold links_and_ranges, |host| {
    ready(host);
    let member = host.member(&[], "one");
    host.minirun(["network", "create", "--mtu", "1400", "front"]).ok();
    let forwarding = "/proc/sys/net/ipv4/conf/eth0/forwarding";
    host.write(forwarding, "0");
    found_and_mended(host, "forwarding", "error", &["net.ipv4.conf.eth0.forwarding"]);
    // The containers have the MTU that the way out had when they started.
    host.sh("ip link set eth0 mtu 1300").ok();
    let small = found(host, "mtu");
    let [(_, network, again), (_, container, restart)] = &small[..] else { panic!("{small:?}") };
    assert!(network.contains("`front`") && network.contains("1400") && network.contains("1300"), "{network}");
    assert!(container.contains("`one`") && container.contains("1400"), "{container}");
    for fix in [again, restart] {
        host.sh(&fix.replace("minirun ", &format!("{} ", host::binary()))).ok();
    }
    assert_eq!(found(host, "mtu"), []);
    host.sh("ip link set eth0 mtu 1400").ok();
    assert_eq!(found(host, "mtu"), []);
    // Two ways out, and a strict filter at one of them.
    host.sh("ip link add way type veth peer name yaw; ip link set way up; ip addr add 203.0.113.2/30 dev way").ok();
    host.sh("ip route add default dev way metric 500; echo 1 >/proc/sys/net/ipv4/conf/way/rp_filter").ok();
    host.sh("echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter; echo 2 >/proc/sys/net/ipv4/conf/eth0/rp_filter").ok();
    found_and_mended(host, "rp-filter", "warning", &["net.ipv4.conf.way.rp_filter"]);
    host.sh("ip link del way; echo 0 >/proc/sys/net/ipv4/conf/eth0/rp_filter").ok();
    // A route that came later covers a network.
    let range = member.address.to_string();
    let (range, _) = range.rsplit_once('.').expect("dots");
    host.sh(&format!("ip route add {range}.128/25 via {GATEWAY}")).ok();
    found_one(host, "ranges", "error", &["`bridge`", &format!("{range}.128/25"), "a route by eth0"]);
    host.remove_all();
    host.soon("the links go", || !host.sh("ip -o link").ok().contains(": mr"));
    found_and_mended(host, "ranges", "error", &["`bridge`"]);
    host.sh(&format!("ip route del {range}.128/25")).ok();
    host.minirun(["network", "rm", "front"]).ok();
    host.minirun(["run", "busybox", "true"]).ok();
    // The bridge was made anew, in another range.
    host.nothing_left_but(&["minirun0", "inet minirun", "10.214.", "force_forwarding", "/opened"]);
});

host_test!(cold a_link_of_anothers_has_the_name_of_the_bridge, |host| {
    host.sh("ip link add minirun0 type veth peer name peer0").ok();
    assert_eq!(host.minirun(["run", "busybox", "true"]).run().code, 125);
    found_and_mended(host, "bridge-name", "error", &["`minirun0`", "`bridge`"]);
    host.minirun(["run", "busybox", "true"]).ok();
    assert_eq!(found(host, "bridge-name"), []);
});

host_test!(resolvers_are_asked, |host| {
    let file = "/etc/resolv.conf";
    let before = std::fs::read_to_string(file).expect("a file");
    // Nobody listens there: the host says so at once.
    found_one(host, "resolvers", "error", &[&GATEWAY.to_string(), "refused"]);
    let resolver = Resolver::of_lan(host, [192, 0, 2, 99]);
    assert_eq!(found(host, "resolvers"), []);
    host.write(file, &format!("nameserver 192.0.2.77\n{before}"));
    found_and_mended(host, "resolvers", "warning", &["192.0.2.77", "late"]);
    drop(resolver);
    for text in ["", "search example.test\n"] {
        host.write(file, text);
        found_one(host, "resolvers", "error", &["names no name server"]);
    }
    host.sh(&format!("rm {file}")).ok();
    found_one(host, "resolvers", "error", &["cannot be read"]);
    // A stub on the loopback device serves containers too: their own name server asks it.
    let stub = Resolver::of_host([127, 0, 0, 53]);
    host.write(file, "nameserver 127.0.0.53\n");
    assert_eq!(found(host, "resolvers"), []);
    drop(stub);
    host.write(file, &before);
});

host_test!(what_is_left, |host| {
    ready(host);
    // A holder that was killed.
    host.minirun(["run", "-d", "--rm", "--name", "gone", "busybox", "sleep", "1000"]).ok();
    let (holder, pid) = (host.holder_of("gone"), host.pid_of("gone"));
    kill_hard(holder);
    kill_hard(pid);
    host.bury();
    found_and_mended(host, "leftovers", "warning", &["`gone`"]);
    // A name of a namespace that is none.
    host.sh("mkdir -p /run/netns; touch /run/netns/stale").ok();
    found_and_mended(host, "netns-names", "warning", &["/run/netns/stale"]);
    // A port that somebody took from a container that is kept.
    host.minirun(["run", "-d", "--name", "kept", "-p", "8080:80", "busybox", "true"]).ok();
    host.minirun(["wait", "kept"]).ok();
    assert_eq!(found(host, "ports"), []);
    let listener = host::listen(std::net::Ipv4Addr::LOCALHOST, 8080);
    found_one(host, "ports", "warning", &["127.0.0.1:8080/tcp", "`kept`", "doctor-"]);
    found_and_mended(host, "ports", "warning", &["`kept`"]);
    drop(listener);
    host.remove_all();
});

host_test!(limits, within 120, |host| {
    ready(host);
    let with = |code: &str, script: &str| {
        let script = format!("unshare --mount sh -ec '{script}; exec $MINIRUN doctor --format json'");
        found_by(&host.sh(&script).run(), code)
    };
    // What the kernel tells of itself, covered for one look.
    let instead = |key: &str, value: &str| {
        format!("echo {value} >/tmp/value; mount --bind /tmp/value /proc/sys/{key}")
    };
    for (code, key, value) in [
        ("limit-processes", "kernel/pid_max", "1"),
        ("limit-processes", "kernel/threads-max", "1"),
        ("limit-files", "fs/file-max", "1"),
        ("limit-conntrack", "net/netfilter/nf_conntrack_max", "0"),
        ("limit-namespaces", "user/max_net_namespaces", "1"),
    ] {
        if !std::path::Path::new("/proc/sys").join(key).exists() {
            continue;
        }
        let all = with(code, &instead(key, value));
        let [(severity, message, fix)] = &all[..] else { panic!("not one of {code}: {all:?}") };
        assert!(severity == "error" && fix.starts_with(&format!("sysctl -w {}=", key.replace('/', "."))), "{message} {fix}");
        assert_eq!(with(code, &instead(key, "1000000000")), [], "{code}");
    }
    assert_eq!(with("limit-files", "ulimit -n 200").len(), 1);
    host.sh("rm -f /tmp/value").ok();
    // A bridge that is nearly full, one port after the other.
    let line = |number: usize| format!("link add p{number} group 77 master minirun0 type veth peer name q{number}\nlink set q{number} master minirun0\n");
    let batch: String = (0..461).map(line).collect();
    host.write("/tmp/batch", &batch);
    host.sh("ip -batch /tmp/batch; rm /tmp/batch").ok();
    found_one(host, "limit-bridge-ports", "warning", &["922 of 1023", "`minirun0`"]);
    host.sh("ip link del group 77").ok();
    assert_eq!(found(host, "limit-bridge-ports"), []);
});

host_test!(features_that_are_missing, |host| {
    ready(host);
    let without = |script: &str, code: &str| {
        let all = found_by(&host.sh(script).run(), code);
        assert!(!all.is_empty(), "{code} is fine with `{script}`");
        all
    };
    // Where no more network namespaces may be made nothing can be tried in one.
    let full = "unshare --user --map-root-user --net sh -ec 'echo 1 >/proc/sys/user/max_net_namespaces
        exec $MINIRUN doctor --format json'";
    let all = without(full, "kernel-namespaces");
    assert!(all.len() == 1 && all[0].0 == "error" && all[0].1.contains("no network namespace"), "{all:?}");
    for code in [
        "kernel-veth",
        "kernel-bridge",
        "kernel-nftables",
        "kernel-macvlan",
        "kernel-vxlan",
        "kernel-filter",
        "kernel-tbf",
    ] {
        let all = without(full, code);
        assert!(all.len() == 1 && all[0].1.contains("cannot be looked at"), "{all:?}");
    }
    let traced = |call: &str, error: &str| {
        format!("strace -f -qq -o /dev/null {call}:error={error} $MINIRUN doctor --format json")
    };
    let all = without(&traced("-e inject=fsopen", "ENODEV"), "kernel-overlayfs");
    assert_eq!((all[0].0.as_str(), all[0].2.as_str()), ("error", "modprobe overlay"));
    without(&traced("-P /dev/net/tun -e inject=openat", "ENODEV"), "kernel-tap");
    let all = without(&traced("-e inject=clone3", "ENOSPC"), "kernel-namespaces");
    assert_eq!(all.len(), 6, "{all:?}");
    without(&traced("-e inject=clone3", "ENOSPC"), "kernel-userns");
    let hidden = |script: &str| format!("unshare --mount sh -ec '{script}; exec $MINIRUN doctor --format json'");
    let all = without(
        &hidden("mount -t tmpfs t /proc/sys/kernel; echo 1 >/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        "kernel-userns",
    );
    assert_eq!(all[0].2, "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0");
    without(&hidden("mount -t tmpfs t /proc/sys/kernel"), "kernel-seccomp");
    let all = without(&hidden("mount -t tmpfs t /sys/fs/cgroup"), "kernel-cgroups");
    assert_eq!(all[0].2, "mount -t cgroup2 cgroup2 /sys/fs/cgroup");
});
