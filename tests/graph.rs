//! `minirun graph`: what there is in the kernel is drawn, with the right ends together, and nothing is changed by it.
//!
//! What each form looks like is tested beside the code (`src/graph/draw/tests.rs`).

mod host;

use host::{Host, Terminal, host_test};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// What is drawn, on a host whose locale knows the characters.
fn drawn(host: &Host, words: &str) -> String {
    host.sh(&format!("LC_ALL=C.UTF-8 TERM=xterm $MINIRUN graph {words}")).ok()
}

fn model(host: &Host) -> Value {
    serde_json::from_str(&drawn(host, "--format json --stats")).expect("JSON")
}

fn namespace<'a>(graph: &'a Value, name: &str) -> &'a Value {
    let all = graph["namespaces"].as_array().expect("namespaces");
    let is = |one: &&Value| match name {
        "host" => one["kind"] == "host",
        name => one["names"].as_array().is_some_and(|names| names.iter().any(|other| other == name)),
    };
    all.iter().find(is).unwrap_or_else(|| panic!("no `{name}` in {graph:#}"))
}

fn link<'a>(namespace: &'a Value, name: &str) -> &'a Value {
    let all = namespace["links"].as_array().expect("links");
    all.iter().find(|link| link["name"] == name).unwrap_or_else(|| panic!("no link `{name}` in {namespace:#}"))
}

/// Whether two links of these names are each other's ends.
fn are_a_pair(graph: &Value, one: (&str, &str), other: (&str, &str)) -> bool {
    let leads = |from: (&str, &str), to: (&str, &str)| {
        let (there, peer) = (namespace(graph, to.0), &link(namespace(graph, from.0), from.1)["peer"]);
        peer["namespace"] == there["id"] && peer["link"] == link(there, to.1)["index"]
    };
    leads(one, other) && leads(other, one)
}

/// The line that holds all of these words.
#[track_caller]
fn line<'a>(text: &'a str, words: &[&str]) -> &'a str {
    let found = text.lines().find(|line| words.iter().all(|word| line.contains(word)));
    found.unwrap_or_else(|| panic!("no line with {words:?} in\n{text}"))
}

host_test!(containers_and_what_others_made_are_drawn, |host| {
    host.has_had_networks();
    host.network(&["--subnet=10.50.0.0/24"], "front");
    host.network(&["--subnet=10.51.0.0/24", "--internal"], "back");
    let web = host.member(&["--net=front", "--net=back", "-p", "8080:80"], "web");
    let db = host.member(&["--net=back"], "db");
    host.sh("$MINIRUN run -d --name onhost --net=host busybox sleep 1000").ok();
    host.sh("$MINIRUN run -d --name none --net=none busybox sleep 1000").ok();
    host.sh("ip netns add lab; ip link add v0 type veth peer name v1 netns lab
         ip addr add 10.60.0.1/24 dev v0; ip link set v0 up
         ip -n lab addr add 10.60.0.2/24 dev v1; ip -n lab link set v1 up
         ip link add br-own type bridge stp_state 1; ip addr add 10.61.0.1/24 dev br-own; ip link set br-own up
         ip netns add guest; ip link add gv type veth peer name eth0 netns guest
         ip link set gv master br-own up; ip -n guest addr add 10.61.0.2/24 dev eth0; ip -n guest link set eth0 up
         # Between two namespaces, twice with the same numbers.
         for one in a b; do
           ip netns add $one-left; ip netns add $one-right
           ip link add name x netns $one-left type veth peer name y netns $one-right
         done
         # A bridge inside, and what hangs on it.
         ip netns add inner; ip -n lab link add br1 type bridge; ip -n lab link set br1 up
         ip -n lab link add p type veth peer name q netns inner; ip -n lab link set p master br1 up
         ip netns add mac; ip link add mv link eth0 type macvlan mode bridge; ip link set mv netns mac
         ip -n mac link set mv up
         nft 'add table ip other; add chain ip other post { type nat hook postrouting priority 100; }
              add rule ip other post ip saddr 10.61.0.0/24 masquerade'")
        .ok();
    host.settle();

    let graph = model(host);
    let near = |name: &str, interface: usize| {
        let said: Value = serde_json::from_str(&host.minirun(["inspect", name]).ok()).expect("JSON");
        said[0]["network_settings"]["interfaces"][interface]["host_name"].as_str().expect("a link").to_owned()
    };
    for (one, other) in [
        (("host", near("web", 0)), ("web", "eth0")),
        (("host", near("web", 1)), ("web", "eth1")),
        (("host", near("db", 0)), ("db", "eth0")),
        (("host", "eth0".into()), ("lan", "host0")),
        (("host", "v0".into()), ("lab", "v1")),
        (("host", "gv".into()), ("guest", "eth0")),
        (("a-left", "x".into()), ("a-right", "y")),
        (("b-left", "x".into()), ("b-right", "y")),
        (("lab", "p".into()), ("inner", "q")),
    ] {
        assert!(are_a_pair(&graph, (one.0, &one.1), other), "{one:?} and {other:?} in {graph:#}");
    }
    let of_host = namespace(&graph, "host");
    let index = |name: &str| &link(of_host, name)["index"];
    assert_eq!(&link(of_host, &near("web", 0))["master"], index("mr-front"));
    assert_eq!(&link(of_host, "gv")["master"], index("br-own"));
    let below = &link(namespace(&graph, "mac"), "mv")["peer"];
    assert_eq!((&below["namespace"], &below["link"]), (&of_host["id"], index("eth0")));
    let bridge = |name: &str| (&link(of_host, name)["masquerade"], &link(of_host, name)["closed"]);
    assert_eq!(bridge("mr-front"), (&true.into(), &false.into()));
    assert_eq!(bridge("mr-back"), (&false.into(), &true.into()));
    assert_eq!(graph["nat"][0]["table"], "other");
    let counted = &link(namespace(&graph, "lan"), "host0")["stats"]["rx_packets"];
    assert!(counted.as_u64().is_some(), "{graph:#}");
    let port = &graph["published"][0];
    assert_eq!((&port["host"], &port["port"], &port["protocol"]), (&8080.into(), &80.into(), &"tcp".into()));
    assert_eq!(port["target"], web.address.to_string());

    let text = drawn(host, "");
    line(&text, &["eth0", "192.0.2.2/24", "default via 192.0.2.1"]);
    line(&text, &["front  bridge mr-front", "10.50.0.1/24", "masquerade"]);
    line(
        &text,
        &["web", "eth0 ", &format!("⇄ {}", near("web", 0)), &web.address.to_string(), "127.0.0.1:8080 → 80/tcp"],
    );
    line(&text, &["back  bridge mr-back", "internal"]);
    line(&text, &["db", &db.address.to_string(), &near("db", 0)]);
    line(&text, &["br-own  bridge", "10.61.0.1/24", "stp"]);
    line(&text, &["guest (netns)", "eth0", "⇄ gv", "10.61.0.2"]);
    line(&text, &["lab (netns)", "v1", "⇄ v0", "10.60.0.2"]);
    line(&text, &["inner (netns)", "q", "⇄ p"]);
    line(&text, &["a-right (netns)", "y", "⇄ x"]);
    line(&text, &["mac (netns)", "mv", "macvlan bridge"]);
    line(&text, &["on the host's network: onhost"]);
    line(&text, &["without a network: none"]);
    line(&text, &["source NAT by others: ip other post"]);
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    for form in ["svg", "dot", "mermaid"] {
        let picture = drawn(host, &format!("--format {form}"));
        for name in ["front", "back", "web", "db", "br-own", "guest", "lab", "inner", "10.60.0.2", "8080 "] {
            assert!(picture.contains(name), "{name} is not in {picture}");
        }
        assert!(picture.contains(&near("db", 0)), "{picture}");
    }
    assert!(host.sh("LC_ALL=C $MINIRUN graph").ok().is_ascii());
    assert!(host.sh("LC_ALL=C.UTF-8 TERM=dumb $MINIRUN graph").ok().is_ascii());

    let one = drawn(host, "db br-own");
    line(&one, &["db", "eth0"]);
    line(&one, &["guest (netns)", "⇄ gv"]);
    assert!(!one.contains("web") && !one.contains("lab"), "{one}");
    let refused = host.minirun(["graph", "web", "nobody"]).run();
    assert_eq!((refused.code, refused.stdout.as_str()), (125, ""), "{refused}");
    assert!(refused.stderr.contains("draw `nobody`: there is no container"), "{refused}");
    // Looked at twenty times: not a link, a rule, a number of a namespace or a file more, and none less.
    host.nothing_left();
    let gone = "lab guest a-left a-right b-left b-right inner mac";
    host.sh(&format!("ip link del br-own; nft delete table ip other; for name in {gone}; do ip netns del $name; done"))
        .ok();
    host.remove_networks(&["front", "back"]);
    host.settle();
});

// Numbers by which the host's namespace knows others: asking must not make some.
// Of a network without a bridge there is nothing on the host; its containers know which it is.
host_test!(networks_without_a_bridge_have_their_names, |host| {
    host.has_had_networks();
    host.network(&["--driver=ptp", "--subnet=10.55.0.0/30"], "cable");
    host.network(
        &["--driver=macvlan", "-o", "parent=eth0", "--subnet=192.0.2.0/24", "--ip-range=192.0.2.128/25"],
        "street",
    );
    host.minirun(["run", "-d", "--name=a", "--net=cable", "busybox", "sleep", "1000"]).ok();
    line(&drawn(host, ""), &["cable  veth mr-cable", "down"]);
    host.minirun(["run", "-d", "--name=b", "--net=cable", "--net=street", "busybox", "sleep", "1000"]).ok();
    for names in ["", "cable street", "b"] {
        let text = drawn(host, names);
        line(&text, &["cable  veth eth0", "10.55.0.1/30"]);
        line(&text, &["b ", "⇄ eth0", "10.55.0.2"]);
        line(&text, &["b ", "eth1", "192.0.2.128", "macvlan bridge"]);
        assert!(text.contains("network street"), "{text}");
    }
    assert!(!drawn(host, "street").contains("cable"));
    let said = host.minirun(["capture", "cable"]).fails(125);
    assert!(said.contains("not on this host") && said.contains("capture from one of them"), "{said}");
    host.remove_all();
    host.remove_networks(&["cable", "street"]);
});

host_test!(no_namespace_gets_a_number, |host| {
    host.sh("ip netns add far").ok();
    host.sh("unshare --net sleep 1000 >/dev/null 2>&1 & echo $! >/tmp/alone").ok();
    let numbers = || host.sh("ip netns list-id | sort").ok();
    let before = numbers();
    drawn(host, "");
    drawn(host, "--format json");
    assert_eq!(numbers(), before);
    host.sh("kill $(cat /tmp/alone); rm /tmp/alone; ip netns del far").ok();
});

host_test!(cold a_host_without_minirun_is_drawn, |host| {
    let text = drawn(host, "");
    line(&text, &["eth0", "192.0.2.2/24"]);
    line(&text, &["lan (netns)", "host0", "⇄ eth0"]);
    host.nothing_left();
});

host_test!(names_do_not_speak_to_the_terminal, |host| {
    host.sh(
        "ip link add br9 type bridge; ip link set br9 up alias \"minirun:network:$(printf 'x\\033[2J\\302\\233m<b>\"')\"
         ip netns add \"$(printf 'e\\033]0;vil')\"
         ip link add w type veth peer name eth0 netns \"$(printf 'e\\033]0;vil')\"; ip link set w master br9 up",
    )
    .ok();
    for form in ["text", "svg", "dot", "mermaid", "json"] {
        let said = drawn(host, &format!("--format {form}"));
        assert!(said.contains("vil"), "{said}");
        assert!(!said.chars().any(|c| c.is_control() && c != '\n'), "{said:?}");
    }
    // Where there is graphviz, it understands it without a warning.
    let said =
        host.sh("command -v dot >/dev/null || exit 0; $MINIRUN graph --format dot | dot -Tsvg 2>&1 >/dev/null").ok();
    assert_eq!(said, "");
    host.sh("ip link del br9; ip link del w; rm -f /run/netns/x; ip netns del \"$(printf 'e\\033]0;vil')\"").ok();
});

host_test!(it_is_drawn_again_when_something_changes, |host| {
    let binary = host::binary();
    let words = ["-c", "LC_ALL=C.UTF-8 TERM=xterm exec \"$0\" graph --watch 1000", &binary];
    let mut terminal = Terminal::start("sh", &words, 24, 100);
    terminal.shows("192.0.2.2/24");
    terminal.shows("\u{1b}[?1049h");
    host.sh("ip link add br9 type bridge; ip addr add 10.99.0.1/24 dev br9; ip link set br9 up").ok();
    terminal.shows("10.99.0.1/24");
    host.sh("ip link del br9").ok();
    kill(Pid::from_raw(terminal.pid().cast_signed()), Signal::SIGTERM).expect("kill");
    assert_eq!(terminal.wait(), 143);
    assert!(terminal.shows("\u{1b}[?25h").ends_with("\u{1b}[?1049l"), "{:?}", terminal.screen());

    let mut terminal = Terminal::start("sh", &words, 24, 100);
    terminal.shows("192.0.2.2/24");
    // Another size is another picture.
    terminal.clear();
    terminal.resize(24, 30);
    terminal.shows("192.0.2.2/24");
    terminal.types("\u{3}");
    assert_eq!(terminal.wait(), 0);
    assert!(terminal.shows("\u{1b}[?25h").ends_with("\u{1b}[?1049l"), "{:?}", terminal.screen());

    let refused = host.minirun(["graph", "--watch"]).run();
    assert_eq!(refused.code, 125, "{refused}");
    assert!(refused.stderr.contains("only a terminal can show it"), "{refused}");
});

// Their containers as they are in the kernel and on disk; no daemon is asked.
host_test!(containers_of_other_engines_have_their_names, |host| {
    if !host.compares_cgroups() {
        return;
    }
    let (docker, podman, other) = ("d0".repeat(32), "b0".repeat(32), "c0".repeat(32));
    host.sh(&format!(
        "group=/sys/fs/cgroup; test -w $group/cgroup.procs || group=$(dirname $(ls $group/*/cgroup.procs | head -1))
         start() {{
           mkdir -p $group/$1
           unshare --net sh -c 'echo $$ >'$group/$1/cgroup.procs'; exec sleep 1000' >/dev/null 2>&1 &
           echo $! >>/tmp/engines
         }}
         start docker/{docker}; start libpod-{podman}.scope; start kubepods/{other}
         mkdir -p /var/lib/docker/containers/{docker} /var/lib/containers/storage/overlay-containers
         echo '{{\"Name\":\"/pg\\u001b[2J\"}}' >/var/lib/docker/containers/{docker}/config.v2.json
         echo '[{{\"id\":\"{podman}\",\"names\":[\"pod\"]}}]' >/var/lib/containers/storage/overlay-containers/containers.json"
    ))
    .ok();
    let named = |text: &str| {
        text.contains("pg\\u{1b}[2J (docker)")
            && text.contains("pod (podman)")
            && text.contains("c0c0c0c0c0c0 (container)")
    };
    host.soon("they are drawn", || named(&drawn(host, "")));
    let text = drawn(host, "");
    line(&text, &["without a network", "c0c0c0c0c0c0 (container)"]);
    // By name and by ID too.
    line(&drawn(host, "pod"), &["pod (podman)"]);
    line(&drawn(host, &docker[..12]), &["pg", "(docker)"]);
    host.sh("kill $(cat /tmp/engines); rm /tmp/engines; sleep 1; find /sys/fs/cgroup -depth -type d \\( -path '*/docker*' -o -path '*libpod-*' -o -path '*/kubepods*' \\) -exec rmdir {} +
             rm -r /var/lib/docker /var/lib/containers").ok();
});
