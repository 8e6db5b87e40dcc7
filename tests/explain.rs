//! What minirun prints of a network is what it does: the script, run by hand, makes the same network, and its second half brings
//! back what was before.

mod host;

use host::{Host, Snapshot, Terminal, host_test, in_network};
use serde_json::Value;

/// What there is of the host's network and of a container's, given by the file of its namespace.
fn both(namespace: &str) -> (Snapshot, Snapshot) {
    (Snapshot::of_network(), in_network(namespace, Snapshot::of_network))
}

/// A container with these options against the script that is printed for it.
#[track_caller]
fn equal(host: &Host, options: &[&str]) {
    let before = Snapshot::of_network();
    let script = host.minirun([&["run", "--dry-run", "--name=web"], options, &["busybox", "true"]].concat()).ok();
    host.minirun([&["run", "-d", "--name=web"], options, &["busybox", "sleep", "1000"]].concat()).ok();
    let id = host.inspect("web", ".Id");
    if options.iter().any(|option| option.starts_with("--tap")) {
        // The kernel notices a moment later that no program has the device open.
        host.sh("sleep 1.5").ok();
    }
    let own = both(&format!("/proc/{}/ns/net", host.pid_of("web")));
    let told_later = host.minirun(["explain", "--format=sh", "web"]).ok();
    take_down(host, &before);
    by_hand(host, &with_id(&script, &id), &own, &before, options);
    by_hand(host, &told_later, &own, &before, options);
}

/// Ends the container, and takes off the host what was made for it.
fn take_down(host: &Host, before: &Snapshot) {
    host.minirun(["rm", "-f", "web"]).ok();
    host.minirun(["system", "prune"]).ok();
    as_before(host, before);
}

/// Runs the script, compares, and runs its second half.
#[track_caller]
fn by_hand(host: &Host, script: &str, own: &(Snapshot, Snapshot), before: &Snapshot, options: &[&str]) {
    let directory = host.directory("by-hand");
    let file = directory.file("web.sh", script);
    host.sh(&format!("sh {file}")).ok();
    let mut differences = Vec::new();
    // The kernel notices carriers a moment later; minirun waits for that.
    for _ in 0..20 {
        let (there, inside) = both("/run/netns/web");
        differences = [there.differences(&own.0), inside.differences(&own.1)].concat();
        if differences.is_empty() {
            break;
        }
        host.sh("sleep 0.05").ok();
    }
    assert!(
        differences.is_empty(),
        "{options:?}: by hand it is not the same:\n  {}\n{script}",
        differences.join("\n  ")
    );
    host.sh(&format!("sh {file} down")).ok();
    as_before(host, before);
    println!("the same by hand: {}", options.join(" "));
}

/// Waits until the kernel has taken all apart.
#[track_caller]
fn as_before(host: &Host, before: &Snapshot) {
    let mut left = Vec::new();
    for _ in 0..100 {
        left = Snapshot::of_network().differences(before);
        if left.is_empty() {
            return;
        }
        host.sh("sleep 0.05").ok();
    }
    panic!("not as before:\n  {}", left.join("\n  "));
}

/// The script of a container that was not made, for one that was.
fn with_id(script: &str, id: &str) -> String {
    let id = &id[..12];
    let aliases = script.match_indices(" alias minirun:").map(|(at, words)| at + words.len());
    let mut of_scripts =
        aliases.filter_map(|at| script.get(at..at + 12)).filter(|id| id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let Some(of_script) = of_scripts.next() else { return script.to_owned() };
    // The second link of a container has a shorter part of it.
    script.replace(of_script, id).replace(&of_script[..10], &id[..10])
}

/// Those networks that are named in these options, and a link of the host's own.
fn networks(host: &Host, options: &[&str]) {
    host.has_had_networks();
    let all: [(&str, &[&str]); 7] = [
        ("front", &["--subnet=10.50.0.0/24", "--ipv6", "--subnet=fd50::/64"]),
        ("apart", &["--subnet=10.51.0.0/24", "--isolate", "--opt=hairpin=on", "--opt=path_cost=7"]),
        ("closed", &["--subnet=10.52.0.0/24", "--internal", "--opt=stp=on", "--opt=ageing_time=9000"]),
        ("closed6", &["--subnet=10.53.0.0/24", "--ipv6", "--internal", "--mtu=1300"]),
        (
            "lan",
            &[
                "--driver=macvlan",
                "--opt=parent=eth0",
                "--subnet=192.0.2.0/24",
                "--gateway=192.0.2.1",
                "--ip-range=192.0.2.192/27",
                "--ipv6",
                "--subnet=2001:db8:1::/64",
                "--gateway=2001:db8:1::1",
            ],
        ),
        (
            "far",
            &["--driver=vxlan", "--subnet=10.54.0.0/24", "--remote=192.0.2.9", "--remote=192.0.2.10", "--opt=vni=54"],
        ),
        ("cable", &["--driver=ptp", "--subnet=10.55.0.0/30", "--ipv6"]),
    ];
    for (name, of_network) in all {
        let net = format!("--net={name}");
        if options.iter().any(|option| option.split(':').next() == Some(&net)) {
            host.network(of_network, name);
        }
    }
    host.minirun(["system", "prune"]).ok();
    // A link of the host's own, for what is lent.
    host.sh(
        "ip netns add far; ip link add eth9 mtu 1300 type veth peer name far0 netns far; ip -n far link set far0 up
         ip link set eth9 address 02:00:00:00:00:99 addrgenmode none; sysctl -qw net.ipv4.conf.eth9.arp_filter=1
         ip addr add 10.77.0.1/24 brd + dev eth9; ip -6 addr add fd77::1/64 dev eth9 nodad; ip link set eth9 up
         ip route add 10.88.0.0/16 via 10.77.0.2 dev eth9 metric 77; ip -6 route add fd88::/64 via fd77::2 dev eth9",
    )
    .ok();
}

// While it happens: the same commands, each with its cost; as lines of JSON; as the script that was just done.
host_test!(steps_are_told_while_they_are_done, |host| {
    host.minirun(["run", "-p=8080:80", "busybox", "true"]).ok();
    host.settle();
    let run = |options: &[&str]| {
        let all = [&["run"], options, &["--name=web", "-p=8080:80", "busybox", "echo", "done"]].concat();
        let said = host.minirun(all).run();
        assert_eq!((said.stdout.as_str(), said.code), ("done\n", 0), "{said:?}");
        said.stderr
    };
    let said = run(&["--explain"]);
    let line = |command: &str| {
        let line = said.lines().find(|line| line.starts_with(command));
        line.unwrap_or_else(|| panic!("`{command}` is not in {said}")).to_owned()
    };
    let cost = |line: String| {
        let cost = line.split_once("  # ").and_then(|(_, cost)| cost.strip_suffix(" µs")?.parse::<u64>().ok());
        assert!(cost.is_some_and(|cost| cost < 1_000_000), "{line}");
    };
    for command in [
        "ip netns add web",
        "ip link add mr",
        "tc filter",
        "ip -n web addr add",
        "ip -n web route add default",
        "nft 'create",
    ] {
        cost(line(command));
    }
    // By the container's own process, which tells it.
    cost(line("ip netns exec web sysctl"));
    line("ip netns exec web nft");
    assert!(said.lines().filter(|line| line.starts_with("# ")).count() > 30 && !said.contains('\x1b'), "{said}");

    let said = run(&["--explain=json"]);
    let steps: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(steps.len() > 30, "{said}");
    for (at, step) in steps.iter().enumerate() {
        assert_eq!(step["step"], at + 1);
        assert!(step["commands"][0].is_string() && step["reason"].is_string(), "{step}");
    }
    assert!(steps.iter().any(|step| step["microseconds"].as_u64().is_some_and(|cost| cost > 0)));

    let said = run(&["--explain=sh"]);
    assert!(said.contains("#!/bin/sh\n") && said.contains("down() {\n") && said.contains("ip link add mr"), "{said}");
    // Not while it would change nothing, and in no form that there is not.
    let planned = host.minirun(["run", "--dry-run", "--explain=json", "busybox", "true"]).ok();
    let planned: Value = serde_json::from_str(&planned).expect("JSON");
    assert!(planned.as_array().is_some_and(|steps| steps.len() > 20), "{planned}");
    host.minirun(["run", "--explain=xml", "busybox", "true"]).fails(125);
});

macro_rules! equal_tests {
    ($($name:ident: $($option:literal)*;)*) => {
        $(host_test!(cold $name, within 120, |host| {
            host.minirun(["image", "ls"]).ok();
            networks(host, &[$($option),*]);
            equal(host, &[$($option),*]);
        });)*
    };
}

equal_tests! {
    none: "--net=none";
    bridge: "--net=bridge";
    bridge_with_ports: "--net=bridge" "-p" "8080:80" "-p" "0.0.0.0:8000-8010:9000-9010/udp" "-p" "192.0.2.2:99:99";
    ipv6: "--net=front" "-p" "[::]:8080:80";
    isolated: "--net=apart";
    internal: "--net=closed";
    internal_with_ipv6: "--net=closed6" "-p" "0.0.0.0:8080:80";
    options: "--net=front:ip=10.50.0.77,ip6=fd50::77,mac=02:00:00:00:00:77,ifname=lan0,mtu=1290,hairpin";
    free_sender: "--net=front:spoof";
    names: "--net=front:ifname=l.an-0_+,host-ifname=_up+1";
    settings: "--net=none" "--sysctl=net.ipv4.ip_local_port_range=2000 3000";
    several: "--net=apart" "--net=front:gw-prio=5" "--net=closed6";
    rates: "--net=front:rate=10mbit/20mbit";
    taps: "--net=none" "--tap=tap0:10.9.0.1/24" "--tap=t1";
    tap_beside_a_network: "--net=front" "--tap=tap0";
    host_access: "--host-access";
    lent: "--net=dev:eth9:ip=10.77.0.7/24,gateway=10.77.0.2,ifname=lan0,mtu=1250";
    lent_beside_a_network: "--net=front" "--net=dev:eth9:ip=10.77.0.7/24";
    macvlan: "--net=lan";
    macvlan_with_options: "--net=lan:ip=192.0.2.200,mac=02:00:00:00:00:77,ifname=lan0,mtu=1300" "--net=front";
    vxlan: "--net=far" "-p" "8080:80";
    first_end_of_a_cable: "--net=cable:ifname=wire0,mtu=1300";
    with_rights: "--cap-add=NET_ADMIN" "--sysctl=net.ipv4.ip_forward=1";
}

host_test!(cold a_network_is_told_by_itself, within 120, |host| {
    host.minirun(["image", "ls"]).ok();
    for (name, link) in [("front", "mr-front"), ("closed6", "mr-closed6"), ("apart", "mr-apart"), ("bridge", "minirun0")] {
        let net = format!("--net={name}");
        if name == "front" {
            networks(host, &[&net]);
        } else if name != "bridge" {
            host.network(if name == "apart" { &["--isolate", "--opt=path_cost=7"] } else { &["--ipv6", "--internal"] }, name);
        }
        host.minirun(["run", &net, "busybox", "true"]).ok();
        let alone = || host.sh(&format!("ip link show {link}")).ok().contains("NO-CARRIER");
        host.soon("the container's link goes", alone);
        let own = Snapshot::of_network();
        let script = host.minirun(["network", "explain", "--format=sh", name]).ok();
        host.minirun(["system", "prune"]).ok();
        let before = Snapshot::of_network();
        let directory = host.directory("by-hand");
        let file = directory.file("network.sh", &script);
        host.sh(&format!("sh {file}")).ok();
        let mut differences = Snapshot::of_network().differences(&own);
        // The kernel adds it when a port comes for the first time.
        differences.retain(|line| !line.contains("dst=ff00::/8"));
        assert!(differences.is_empty(), "{name}:\n  {}\n{script}", differences.join("\n  "));
        host.sh(&format!("sh {file} down")).ok();
        as_before(host, &before);
        if name != "bridge" {
            host.minirun(["network", "rm", name]).ok();
        }
    }
});

// What is not as minirun made it is told beside what it made.
host_test!(what_differs_is_told_too, |host| {
    host.has_run_detached();
    host.member(&[], "web");
    let said = host.minirun(["explain", "web"]).ok();
    assert!(said.contains("# a veth pair") && !said.contains("differs now") && !said.contains("up() {"), "{said}");
    host.sh("ip -n web route del default").ok();
    let said = host.minirun(["explain", "web"]).ok();
    assert!(said.contains("# differs now: web: default route: none by 10.214.0.1"), "{said}");
    assert!(said.contains("ip -n web route add default via 10.214.0.1"), "{said}");
    let said = host.minirun(["explain", "--format=json", "web"]).ok();
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert!(said.as_array().is_some_and(|steps| steps.iter().any(|step| step["commands"][0] == "ip netns add web")));
    host.minirun(["stop", "-t", "0", "web"]).ok();
    let said = host.minirun(["explain", "web"]).fails(125);
    assert!(said.contains("it does not run") && said.contains("--dry-run"), "{said}");
    host.minirun(["network", "explain", "nowhere"]).fails(125);
    host.remove_all();
});

// The second end of a cable takes what waits, and all of it goes with either; the script makes a lost end anew.
host_test!(cold second_end_of_a_cable, within 120, |host| {
    host.minirun(["image", "ls"]).ok();
    networks(host, &["--net=cable"]);
    let first = || {
        host.minirun(["run", "-d", "--name=first", "--net=cable", "busybox", "sleep", "1000"]).ok();
        Snapshot::of_network()
    };
    let options = ["--net=cable:ifname=wire0"];
    let printed = || host.minirun(["run", "--dry-run", "--name=web", options[0], "busybox", "true"]).ok();
    let waits = first();
    let script = printed();
    host.minirun(["run", "-d", "--name=web", options[0], "busybox", "sleep", "1000"]).ok();
    let own = both(&format!("/proc/{}/ns/net", host.pid_of("web")));
    host.minirun(["rm", "-f", "web"]).ok();
    // What the end of one that minirun has started leaves is what `down` has to leave.
    host.soon("the cable goes", || !host.minirun(["exec", "first", "ip", "-o", "link"]).ok().contains("eth0"));
    let gone = Snapshot::of_network();
    host.minirun(["rm", "-f", "first"]).ok();
    let again = first().differences(&waits);
    assert!(again.is_empty(), "{again:?}");
    by_hand(host, &script, &own, &gone, &options);

    let script = printed();
    let directory = host.directory("again");
    let file = directory.file("web.sh", &script);
    host.sh(&format!("sh {file}")).ok();
    host.sh("ip netns exec web busybox ping -c1 -W2 10.55.0.1").ok();
    let differences = in_network("/run/netns/web", Snapshot::of_network).differences(&own.1);
    assert!(differences.is_empty(), "{differences:?}\n{script}");
    host.sh(&format!("sh {file} down")).ok();
    as_before(host, &gone);
    host.minirun(["rm", "-f", "first"]).ok();
});

/// A cable whose one end is in `first`, which has just lost it.
fn lost_cable(host: &Host) {
    host.has_run_detached();
    host.network(&["--driver=ptp", "--subnet=10.55.0.0/30", "--ipv6"], "cable");
    for name in ["first", "second"] {
        host.minirun(["run", "-d", "--name", name, "--net=cable", "busybox", "sleep", "1000"]).ok();
    }
    host.minirun(["rm", "-f", "second"]).ok();
    is_lost(host);
}

/// Waits until the cable of `first` has gone.
fn is_lost(host: &Host) {
    host.soon("the cable goes", || !host.minirun(["exec", "first", "ip", "-o", "link"]).ok().contains("eth0"));
    assert!(!host.sh("ip -o link").ok().contains("cable"));
}

// Whoever starts second makes a lost cable again in the first one's namespace: that is told as everything else.
host_test!(cold what_is_done_in_another_container_is_told, |host| {
    lost_cable(host);
    let run = |options: &[&'static str]| [&["run", "--name=web", "--net=cable"], options, &["busybox", "true"]].concat();
    let planned = host.minirun(run(&["--dry-run", "--explain=json"])).ok();
    let planned: Vec<Value> = serde_json::from_str(&planned).expect("JSON");
    let said = host.minirun(run(&["--explain=json"])).run();
    let told: Vec<Value> = said.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let before_own = |steps: &[Value]| -> Vec<Value> {
        let of_other = steps.iter().take_while(|step| step["commands"][0] != "ip netns add web");
        of_other.map(|step| step["commands"].clone()).collect()
    };
    let (planned, told_first) = (before_own(&planned), before_own(&told));
    // The settings are the last ones of that container's in both.
    assert_eq!(told_first, planned);
    assert!(planned.iter().any(|commands| commands[0] == "ip netns exec first sysctl -qw net/ipv6/conf/eth0/accept_ra=0"));
    // A transaction has one cost, all else its own.
    let has_cost = |step: &&Value| step["microseconds"].is_u64() || step["commands"][0].to_string().contains(" nft ");
    assert_eq!(told.iter().find(|step| !has_cost(step)), None);
    is_lost(host);

    let said = host.minirun(run(&["--explain"])).run().stderr;
    let at = |words: &str| said.find(words).unwrap_or_else(|| panic!("`{words}` is not in {said}"));
    let order = ["### Container `first`, at the other end", "ip -n first link del eth0", "ip link add", "ip -n first addr add",
        "ip netns exec first sysctl", "ip netns add web", "ip -n web addr add"].map(at);
    assert!(order.is_sorted(), "{said}");
    is_lost(host);
    host.remove_all();
    host.remove_networks(&["cable"]);
});

host_test!(cold steps_in_another_container_wait_too, within 120, |host| {
    lost_cable(host);
    let words = ["run", "--step", "--name=web", "--net=cable", "busybox", "true"];
    // Whether it is stopped at a step there, or at one of its own when the cable is there already.
    for last in ["ip -n first link set eth0 up", "ip link set mr-cable netns web"] {
        let mut terminal = Terminal::start(&host::binary(), &words, 60, 160);
        terminal.shows("ip -n first link del eth0");
        for _ in 0..30 {
            terminal.types("\r");
            host.sh("sleep 0.1").ok();
            if terminal.screen().contains(last) {
                break;
            }
        }
        let screen = terminal.shows(last);
        assert!(screen.contains("in container `first`: ip addr"), "{screen}");
        host.minirun(["exec", "first", "ip", "link", "show", "eth0"]).ok();
        terminal.types("q");
        terminal.shows("all is undone");
        assert_eq!(terminal.wait(), 125);
        is_lost(host);
    }
    host.remove_all();
    host.remove_networks(&["cable"]);
});

// As a learner has it: on a terminal, step by step, with a look around in between.
host_test!(steps_wait_for_a_key, |host| {
    host.minirun(["run", "busybox", "true"]).ok();
    host.settle();
    let words = ["run", "--step", "--name=web", "busybox", "sh", "-c", "echo the program; exit 7"];
    let mut terminal = Terminal::start(&host::binary(), &words, 40, 120);
    terminal.shows("type veth peer name eth0");
    assert!(!host.sh("ip -o link").ok().contains(": mr"), "nothing is done before the key");
    terminal.types("\r");
    // What the step has changed, on both sides.
    let screen = terminal.shows("in the container: ip addr");
    assert!(screen.contains("done in ") && screen.contains("    + "), "{screen}");
    terminal.shows("ingress");
    assert!(host.sh("ip -o link").ok().contains(": mr"));
    // A shell in the container's network.
    terminal.types("s");
    terminal.shows("a shell in the container's network");
    terminal.types("echo links $(ls /proc/self/net/dev_snmp6 | wc -l) $(ip -o link | wc -l)\r");
    terminal.shows("links 2 2");
    terminal.types("exit\r");
    for _ in 0..40 {
        terminal.types("\r");
        host.sh("sleep 0.1").ok();
        if terminal.screen().contains("the program\r") {
            break;
        }
    }
    terminal.shows("the program");
    assert_eq!(terminal.wait(), 7);
    host.nothing_left();

    // No more of it: all is undone.
    for key in ["q", "\x03"] {
        let mut terminal = Terminal::start(&host::binary(), &words, 40, 120);
        terminal.shows("type veth peer name eth0");
        terminal.types("\r");
        terminal.shows("done in ");
        terminal.types(key);
        terminal.shows("all is undone");
        assert_eq!(terminal.wait(), 125);
        host.nothing_left();
    }
    let mut terminal = Terminal::start(&host::binary(), &words, 40, 120);
    terminal.shows("[q] undoes all");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(terminal.pid() as i32), nix::sys::signal::Signal::SIGTERM)
        .expect("kill");
    terminal.shows("stopped by a signal");
    assert_eq!(terminal.wait(), 125);
    let said = host.minirun(["run", "--step", "busybox", "true"]).fails(125);
    assert!(said.contains("--explain"), "{said}");
});
