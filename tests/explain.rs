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
    let own = both(&format!("/proc/{}/ns/net", host.pid_of("web")));
    take_down(host, &before);
    by_hand(host, &with_id(&script, &id), &own, &before, options);
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

fn networks(host: &Host) {
    host.has_had_networks();
    host.network(&["--subnet=10.50.0.0/24", "--ipv6", "--subnet=fd50::/64"], "front");
    host.network(&["--subnet=10.51.0.0/24", "--isolate", "--opt=hairpin=on", "--opt=path_cost=7"], "apart");
    host.network(&["--subnet=10.52.0.0/24", "--internal", "--opt=stp=on", "--opt=ageing_time=9000"], "closed");
    host.network(&["--subnet=10.53.0.0/24", "--ipv6", "--internal", "--mtu=1300"], "closed6");
    let lan = ["--driver=macvlan", "--opt=parent=eth0", "--subnet=192.0.2.0/24", "--gateway=192.0.2.1"];
    let lan6 = ["--ip-range=192.0.2.192/27", "--ipv6", "--subnet=2001:db8:1::/64", "--gateway=2001:db8:1::1"];
    host.network(&[lan, lan6].concat(), "lan");
    let far = ["--driver=vxlan", "--subnet=10.54.0.0/24", "--remote=192.0.2.9", "--remote=192.0.2.10", "--opt=vni=54"];
    host.network(&far, "far");
    host.network(&["--driver=ptp", "--subnet=10.55.0.0/30", "--ipv6"], "cable");
    host.minirun(["system", "prune"]).ok();
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
    line("ip netns exec web sysctl");
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
            networks(host);
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
    macvlan: "--net=lan";
    macvlan_with_options: "--net=lan:ip=192.0.2.200,mac=02:00:00:00:00:77,ifname=lan0,mtu=1300" "--net=front";
    vxlan: "--net=far" "-p" "8080:80";
    first_end_of_a_cable: "--net=cable:ifname=wire0,mtu=1300";
    with_rights: "--cap-add=NET_ADMIN" "--sysctl=net.ipv4.ip_forward=1";
}

// The second end of a cable takes what waits, and all of it goes with either; the script makes a lost end anew.
host_test!(cold second_end_of_a_cable, within 120, |host| {
    host.minirun(["image", "ls"]).ok();
    networks(host);
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
