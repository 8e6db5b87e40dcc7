//! What minirun prints of a network is what it does: the script, run by hand, makes the same network, and its second half brings
//! back what was before. `scripts/test --matrix` prints what this was tried with: a row stands there when all of it was the same.

mod host;

use host::{Host, ON_LAN, Snapshot, host_test, in_network};

/// What there is of the host's network and of a container's, given by the file of its namespace.
fn both(namespace: &str) -> (Snapshot, Snapshot) {
    (Snapshot::of_network(), in_network(namespace, Snapshot::of_network))
}

/// A row of the table; `printed` is whether each of the printed scripts makes the same: before (`--dry-run`), while
/// (`--explain=sh`) and after (`explain`).
fn row(kind: &str, options: &[&str], printed: [bool; 3], own: &(Snapshot, Snapshot)) {
    let [before, during, after] = printed.map(|is| if is { "same" } else { "-" });
    let (on_host, inside) = (own.0.len(), own.1.len());
    let (kind, options) = (kind.replace('_', " "), options.join(" "));
    println!("row: {kind} | {before} | {during} | {after} | {on_host} | {inside} | {options}");
}

/// A container with these options against the scripts that are printed for it.
#[track_caller]
fn equal(host: &Host, kind: &str, options: &[&str]) {
    // Where the kernel chooses a port it is not known before. Else both say the same, and one of them is run.
    let is_known = !options.iter().any(|option| ["-P", "80"].contains(option));
    let before = Snapshot::of_network();
    let script = host.minirun([&["run", "--dry-run", "--name=web"], options, &["busybox", "true"]].concat()).ok();
    let run = [&["run", "-d", "--explain=sh", "--name=web"], options, &["busybox", "sleep", "1000"]].concat();
    let said = host.minirun(run).run();
    assert_eq!(said.code, 0, "{said}");
    let id = host.inspect("web", ".Id");
    let script = with_id(&script, &id);
    assert!(!is_known || said.stderr.contains(&script), "it is not what --dry-run said:\n{script}\n{said}");
    let told = said.stderr.split_once("#!/bin/sh").expect("a script").1.split_once("\nesac\n").expect("its end").0;
    if options.iter().any(|option| option.starts_with("--tap")) {
        // The kernel notices a moment later that no program has the device open.
        host.sh("sleep 1.5").ok();
    }
    let own = both(&format!("/proc/{}/ns/net", host.pid_of("web")));
    let told_later = host.minirun(["explain", "--format=sh", "web"]).ok();
    take_down(host, &before);
    by_hand(host, &format!("#!/bin/sh{told}\nesac\n"), &own, &before, options);
    by_hand(host, &told_later, &own, &before, options);
    row(kind, options, [is_known, true, true], &own);
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

/// Networks by name, each as it is asked for; those of driver macvlan are on [`ON_LAN`] too.
#[rustfmt::skip]
const NETWORKS: [(&str, &[&str]); 15] = [
    ("front", &["--subnet=10.50.0.0/24", "--ipv6", "--subnet=fd50::/64"]),
    ("apart", &["--subnet=10.51.0.0/24", "--isolate", "--opt=hairpin=on", "--opt=path_cost=7"]),
    ("closed", &["--subnet=10.52.0.0/24", "--internal", "--opt=stp=on", "--opt=ageing_time=9000"]),
    ("closed6", &["--subnet=10.53.0.0/24", "--ipv6", "--internal", "--mtu=1300"]),
    ("cells", &["--subnet=10.57.0.0/24", "--isolate", "--internal"]),
    ("tuned", &["--subnet=10.56.0.0/24", "--gateway=10.56.0.254", "--ip-range=10.56.0.64/26", "--opt=forward_delay=400",
        "--opt=hello_time=300", "--opt=max_age=900", "--opt=priority=7", "--opt=port_priority=9", "--opt=learning=off"]),
    ("lan", &["--opt=parent=eth0"]),
    ("private", &["--opt=parent=eth0", "--opt=mode=private"]),
    ("vepa", &["--opt=parent=eth0", "--opt=mode=vepa"]),
    ("passthru", &["--opt=parent=eth8", "--opt=mode=passthru"]),
    ("far", &["--driver=vxlan", "--subnet=10.54.0.0/24", "--remote=192.0.2.9", "--remote=192.0.2.10", "--opt=vni=54"]),
    ("far6", &["--driver=vxlan", "--subnet=10.58.0.0/24", "--remote=2001:db8:1::9", "--opt=port=4790",
        "--opt=local=2001:db8:1::2", "--opt=dev=eth0", "--internal", "--ipv6", "--opt=stp=on"]),
    ("group", &["--driver=vxlan", "--subnet=10.59.0.0/24", "--opt=group=239.1.1.1", "--opt=dev=eth0"]),
    ("cable", &["--driver=ptp", "--subnet=10.55.0.0/30", "--ipv6"]),
    ("cable4", &["--driver=ptp", "--subnet=10.60.0.0/30", "--mtu=1280"]),
];

/// Those networks that are named in these options, and links of the host's own.
fn networks(host: &Host, options: &[&str]) {
    host.has_had_networks();
    // For what is lent, and for what takes its parent as a whole.
    host.sh(
        "ip netns add far; ip link add eth9 mtu 1300 type veth peer name far0 netns far; ip -n far link set far0 up
         ip link set eth9 address 02:00:00:00:00:99 addrgenmode none; sysctl -qw net.ipv4.conf.eth9.arp_filter=1
         ip addr add 10.77.0.1/24 brd + dev eth9; ip -6 addr add fd77::1/64 dev eth9 nodad; ip link set eth9 up
         until ip -6 route show table local | grep -q 'fd77::1 '; do sleep 0.01; done
         ip route add 10.88.0.0/16 via 10.77.0.2 dev eth9 metric 77; ip -6 route add fd88::/64 via fd77::2 dev eth9
         ip link add eth8 type veth peer name far8 netns far; ip -n far link set far8 up; ip link set eth8 up
         for link in eth8 eth9; do until ip link show $link | grep -q 'state UP'; do sleep 0.01; done; done",
    )
    .ok();
    for (name, of_network) in NETWORKS {
        let net = format!("--net={name}");
        let is_macvlan = of_network.first().is_some_and(|option| option.starts_with("--opt=parent"));
        let lan: &[&str] = if is_macvlan { &ON_LAN } else { &[] };
        if options.iter().any(|option| option.split(':').next() == Some(&net)) {
            host.network(&[lan, of_network].concat(), name);
        }
    }
    host.minirun(["system", "prune"]).ok();
}

macro_rules! equal_tests {
    ($($name:ident: $($option:literal)*;)*) => {
        $(host_test!(cold $name, within 120, |host| {
            host.minirun(["image", "ls"]).ok();
            networks(host, &[$($option),*]);
            equal(host, stringify!($name), &[$($option),*]);
        });)*
    };
}

equal_tests! {
    none: "--net=none";
    bridge: "--net=bridge";
    bridge_with_ports: "--net=bridge" "-p" "8080:80" "-p" "0.0.0.0:8000-8010:9000-9010/udp" "-p" "192.0.2.2:99:99";
    ports_of_all_kinds: "-p" "127.0.0.1:81:80/sctp" "-p" "0.0.0.0:82-90:82-90" "-p" "127.0.0.1:53:53/udp" "-p" "[::1]:91:80";
    ports_that_are_chosen: "-p" "80" "-P" "--expose=90-92/udp";
    ipv6: "--net=front" "-p" "[::]:8080:80" "-p" "[2001:db8:1::2]:90-99:90-99/udp";
    isolated: "--net=apart";
    internal: "--net=closed";
    internal_with_ipv6: "--net=closed6" "-p" "0.0.0.0:8080:80";
    isolated_and_internal: "--net=cells";
    options: "--net=front:ip=10.50.0.77,ip6=fd50::77,mac=02:00:00:00:00:77,ifname=lan0,mtu=1290,hairpin,alias=sql";
    options_of_the_first: "--net=front" "--ip=10.50.0.78" "--ip6=fd50::78" "--mac-address=02:00:00:00:00:78" "--network-alias=db";
    options_of_the_bridge: "--net=tuned";
    free_sender: "--net=front:spoof";
    names: "--net=front:ifname=l.an-0_+,host-ifname=_up+1";
    settings: "--net=none" "--sysctl=net.ipv4.ip_local_port_range=2000 3000";
    several: "--net=apart" "--net=front:gw-prio=5" "--net=closed6";
    rates: "--net=front:rate=10mbit/20mbit";
    rate_of_sending: "--net=front:rate=10mbit/" "--net=cable:rate=1gbit/";
    rate_of_receiving: "--net=front:rate=/500kbit";
    taps: "--net=none" "--tap=tap0:10.9.0.1/24" "--tap=t1";
    tap_beside_a_network: "--net=front" "--tap=tap0";
    tap_of_a_user: "--net=none" "--tap=tap0" "--user=1000:1000";
    host_access: "--host-access";
    lent: "--net=dev:eth9:ip=10.77.0.7/24,gateway=10.77.0.2,ifname=lan0,mtu=1250";
    lent_beside_a_network: "--net=front" "--net=dev:eth9:ip=10.77.0.7/24";
    macvlan: "--net=lan";
    macvlan_with_options: "--net=lan:ip=192.0.2.200,mac=02:00:00:00:00:77,ifname=lan0,mtu=1300" "--net=front";
    macvlan_private: "--net=private";
    macvlan_vepa: "--net=vepa";
    macvlan_passthru: "--net=passthru";
    vxlan: "--net=far" "-p" "8080:80";
    vxlan_with_options: "--net=far6:ip=10.58.0.9,spoof";
    vxlan_by_multicast: "--net=group";
    first_end_of_a_cable: "--net=cable:ifname=wire0,mtu=1300";
    cable_without_ipv6: "--net=cable4" "--net=bridge";
    with_rights: "--cap-add=NET_ADMIN" "--sysctl=net.ipv4.ip_forward=1";
}

// In a namespace that is there already nothing is made, and nothing is told but that.
host_test!(cold joined_namespaces, within 120, |host| {
    host.has_run_detached();
    host.member(&[], "other");
    host.sh("ip netns add blue; ip -n blue link set lo up").ok();
    let of_other = format!("/proc/{}/ns/net", host.pid_of("other"));
    for (kind, net, namespace) in [
        ("host", "--net=host", "/proc/self/ns/net"),
        ("container", "--net=container:other", &of_other),
        ("named_namespace", "--net=ns:blue", "/run/netns/blue"),
        ("namespace_of_a_file", "--net=ns:/run/netns/blue", "/run/netns/blue"),
    ] {
        let before = both(namespace);
        let script = host.minirun(["run", "--dry-run", "--name=web", net, "busybox", "true"]).ok();
        let run = ["run", "-d", "--explain=sh", "--name=web", net, "busybox", "sleep", "1000"];
        let said = host.minirun(run).run().stderr;
        assert!(said.contains(&script) && script.contains("Nothing to do"), "{said}\n{script}");
        let own = both(&format!("/proc/{}/ns/net", host.pid_of("web")));
        let told_later = host.minirun(["explain", "--format=sh", "web"]).ok();
        assert_eq!(told_later, script);
        let directory = host.directory("joined");
        let file = directory.file("web.sh", &script);
        host.sh(&format!("sh {file}; sh {file} down")).ok();
        for now in [own, both(namespace)] {
            let differences = [now.0.differences(&before.0), now.1.differences(&before.1)].concat();
            assert!(differences.is_empty(), "{net}: {differences:?}");
        }
        host.minirun(["rm", "-f", "web"]).ok();
        row(kind, &[net], [true; 3], &before);
    }
    host.remove_all();
});

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
        row(&format!("network {name} alone"), &["network explain"], [false, false, true], &(own, Snapshot::default()));
        if name != "bridge" {
            host.minirun(["network", "rm", name]).ok();
        }
    }
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
    row("second end of a cable", &options, [true, false, false], &own);

    let script = printed();
    let directory = host.directory("again");
    let file = directory.file("web.sh", &script);
    host.sh(&format!("sh {file}")).ok();
    host.sh("ip netns exec web busybox ping -c1 -W2 10.55.0.1").ok();
    let differences = in_network("/run/netns/web", Snapshot::of_network).differences(&own.1);
    assert!(differences.is_empty(), "{differences:?}\n{script}");
    host.sh(&format!("sh {file} down")).ok();
    as_before(host, &gone);
    row("lost cable made again", &options, [true, false, false], &own);
    host.minirun(["rm", "-f", "first"]).ok();
});
