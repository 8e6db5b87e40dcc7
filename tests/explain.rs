//! What is told of a network while it is made, and later. That it is what is done is shown in `equality.rs`.

mod host;

use host::{Host, Terminal, host_test};
use serde_json::Value;

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
    assert!(said.lines().filter(|line| line.starts_with("# ")).count() > 15 && !said.contains('\x1b'), "{said}");

    let said = run(&["--explain=json"]);
    let steps: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(steps.len() > 15, "{said}");
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

host_test!(a_terminal_is_told_in_colours, |host| {
    host.has_run_detached();
    host.member(&[], "web");
    let binary = host::binary();
    for command in ["explain web", "network explain bridge", "run --explain busybox true"] {
        for (environment, coloured) in [("TERM=xterm", true), ("TERM=dumb", false), ("TERM=xterm NO_COLOR=1", false)] {
            let words = ["-c", &format!("{environment} \"$0\" {command}; echo END"), &binary];
            let mut terminal = Terminal::start("sh", &words, 24, 100);
            let screen = terminal.shows("END");
            assert_eq!(terminal.wait(), 0);
            assert_eq!(screen.contains("\u{1b}[2m# a link carries"), coloured, "{environment} {command}: {screen}");
        }
    }
    host.remove_all();
});

// What no command of the kernel's does is told as well: how to do it by hand.
host_test!(ports_that_are_passed_on_are_told, |host| {
    host.has_had_networks();
    let port = ["-p", "8080:80"];
    let script = host.minirun([&["run", "--dry-run"][..], &port, &["busybox", "true"]].concat()).ok();
    host.member(&port, "web");
    let told = host.minirun(["explain", "web"]).ok();
    let live =
        host.minirun([&["run", "--explain"][..], &["-p", "8081:80"], &["busybox", "true"]].concat()).run().stderr;
    for (said, port) in [(&script, 8080), (&told, 8080), (&live, 8081)] {
        let by_hand = format!("#   socat TCP6-LISTEN:{port},bind=[::1],ipv6only,fork TCP4:10.214.");
        assert!(said.contains(&by_hand) && said.contains("leads nothing from ::1"), "{said}");
    }
    let said = host.sh(&format!("sh -s nonsense <<'END'\n{script}END")).fails(2);
    assert!(said.contains("usage: sh ") && said.contains("[up|down]"), "{said}");
    host.remove_all();
    host.settle();
});

// A network of which nothing is on the host by itself.
host_test!(a_network_without_a_bridge_is_told_too, |host| {
    host.has_had_networks();
    host.network(&["--driver=ptp"], "cable");
    let said = host.minirun(["network", "explain", "cable"]).ok();
    assert!(said.starts_with("# Nothing to do: ") && said.contains("its containers"), "{said}");
    let script = host.minirun(["network", "explain", "--format=sh", "cable"]).ok();
    for half in ["up", "down"] {
        host.sh(&format!("sh -s {half} <<'END'\n{script}END")).ok();
    }
    assert_eq!(host.minirun(["network", "explain", "--format=json", "cable"]).ok(), "[]\n");
    host.remove_networks(&["cable"]);
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
    terminal.shows("[q] undoes all:");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(terminal.pid() as i32), nix::sys::signal::Signal::SIGTERM)
        .expect("kill");
    terminal.shows("stopped by a signal");
    assert_eq!(terminal.wait(), 125);
    let said = host.minirun(["run", "--step", "busybox", "true"]).fails(125);
    assert!(said.contains("--explain"), "{said}");
});

// A network that was made on the way may be in use by then.
host_test!(cold networks_go_when_steps_are_stopped, |host| {
    let up_to_the_container = |name: &str| {
        let name = format!("--name={name}");
        let mut terminal = Terminal::start(&host::binary(), &["run", "--step", &name, "busybox", "true"], 40, 120);
        terminal.shows("[q] undoes all:");
        for _ in 0..40 {
            terminal.types("\r");
            host.sh("sleep 0.1").ok();
            if terminal.screen().contains("type veth peer") {
                break;
            }
        }
        assert!(host.sh("ip -o link; nft list tables; sysctl net.ipv4.conf.eth0.forwarding").ok().contains("minirun0"));
        terminal
    };
    let state = "ip -o link | sed 's/^[0-9]*//'; nft list ruleset; sysctl net.ipv4.conf.eth0.forwarding; ls /run/minirun/hub-*/opened || :";
    let before = host.sh(state).ok();
    let mut terminal = up_to_the_container("web");
    terminal.types("q");
    terminal.shows("go on: stopped by key; all is undone");
    assert_eq!(terminal.wait(), 125);
    assert_eq!(host.sh(state).ok(), before);

    // Somebody else's container is on the network meanwhile.
    let mut terminal = up_to_the_container("web");
    host.minirun(["run", "-d", "--name=db", "busybox", "sleep", "1000"]).ok();
    terminal.types("q");
    terminal.shows("undo the networks: remove bridge `minirun0`: 1 links are on it");
    assert_eq!(terminal.wait(), 125);
    host.minirun(["exec", "db", "ping", "-c1", "-W5", "10.214.0.1"]).ok();
    host.minirun(["rm", "-f", "db"]).ok();
    host.minirun(["system", "prune"]).ok();
});
