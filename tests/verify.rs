//! What is to be is compared with the kernel, and mended: whatever somebody else changes is found, named and put right.

mod host;

use std::net::Ipv4Addr;
use std::time::Duration;

use host::{By, GATEWAY, HOST, Host, Member, Mirror, asks, host_test};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

const PORTS: &[u16] = &[7000];
const FINE: &str = "as they should be\n";

/// Two networks, with a container that is published on one of them.
fn ground(host: &Host) -> Member {
    host.has_had_networks();
    host.network(&["--subnet=10.50.0.0/24", "--ipv6", "--subnet=fd50::/64", "--opt=path_cost=7"], "front");
    host.network(&["--subnet=10.51.0.0/24", "--internal", "--isolate"], "back");
    host.member(&["--net=back"], "hidden");
    host.member(&["-p", "7001:7000"], "plain");
    host.member(&["--net=front", "-p", "0.0.0.0:8000:7000", "--sysctl=net.ipv4.tcp_syn_retries=3"], "web")
}

/// The name of a container's end on the host.
fn link_of(host: &Host, name: &str) -> String {
    let said: Value = serde_json::from_str(&host.minirun(["inspect", name]).ok()).expect("JSON");
    said[0]["network_settings"]["interfaces"][0]["host_name"].as_str().expect("a link").to_owned()
}

fn verify(host: &Host) -> (i32, String) {
    let output = host.minirun(["network", "verify"]).run();
    assert_eq!(output.stderr, "", "{output}");
    (output.code, output.stdout)
}

#[track_caller]
fn fine(host: &Host) {
    let (code, said) = verify(host);
    assert!(code == 0 && said.ends_with(FINE), "{code}: {said}");
}

/// What somebody changes, and what is said of it.
struct Change {
    command: String,
    said: &'static [&'static str],
}

fn change(command: impl Into<String>, said: &'static [&'static str]) -> Change {
    Change { command: command.into(), said }
}

/// Each of the changes is found and named; the commands that are printed mend it, and `reload` does.
fn each(host: &Host, changes: &[Change]) {
    host.settle();
    for Change { command, said } in changes {
        for by_hand in [true, false] {
            host.sh(command).ok();
            let (code, lines) = verify(host);
            assert_eq!(code, 1, "{command}: {lines}");
            assert!(said.iter().all(|words| lines.contains(words)), "{command}: not all of {said:?} are in {lines}");
            let script = host.minirun(["network", "reload", "--dry-run"]).ok();
            assert_eq!(verify(host), (1, lines), "{command}: a dry run changes nothing");
            if by_hand {
                host.sh(&script).ok();
            } else {
                let mended = host.minirun(["network", "reload"]).ok();
                let what = |words: &str| words.split(';').next().is_some_and(|what| mended.contains(what));
                assert!(said.iter().all(|words| what(words)), "{command}: {mended}");
            }
            fine(host);
            // And everything else is as it was before, but for the order of elements of a range, which have none.
            host.nothing_left_but(&["set inet minirun members", "map inet minirun ports"]);
        }
    }
}

host_test!(links_that_are_changed_are_found_and_mended, within 300, |host| {
    ground(host);
    fine(host);
    let link = link_of(host, "web");
    each(host, &[
        change(format!("ip link set {link} nomaster"), &["web: link mr", "not a port of mr-front (is a port of nothing)"]),
        change(format!("ip link set {link} master minirun0"), &["web:", "(is a port of minirun0)"]),
        change(format!("ip link set {link} down"), &["web: link mr", ": down; ip link set mr"]),
        change(format!("ip link set {link} mtu 1300"), &["web: link mr", "MTU 1300, not 1400"]),
        change(format!("ip link set {link} alias x"), &["web: link mr", "alias x, not minirun:"]),
        change("ip addr del 10.214.0.1/20 dev minirun0", &["bridge: link minirun0: without its address 10.214.0.1/20"]),
        change("ip addr del 10.50.0.1/24 dev mr-front", &["front: link mr-front: without its address 10.50.0.1/24"]),
        change("ip addr del fd50::1/64 dev mr-front", &["front: link mr-front: without its address fd50::1/64"]),
        change("ip link set mr-back down", &["back: link mr-back: down; ip link set mr-back up"]),
        change("ip link set mr-back alias x", &["back: link mr-back: alias x, not minirun:network:back"]),
        change("ip link set mr-back address 02:00:00:00:00:09", &["back: bridge mr-back: hardware address 02:00"]),
        change("ip link set mr-front type bridge hello_time 300", &["front: bridge mr-front: hello_time 300, not 200"]),
        change(format!("bridge link set dev {link} learning off"), &["web:", "learning 0, not 1"]),
        change(format!("bridge link set dev {link} cost 9"), &["web:", "cost 9, not 7"]),
        change(format!("bridge link set dev {link} isolated on"), &["web:", "isolated 1, not 0"]),
        change("ip link set mr-back type bridge mcast_snooping 1", &["back: bridge mr-back: mcast_snooping 1, not 0"]),
        change(format!("tc filter del dev {link} ingress"), &["web: link mr", "without its filter at ingress"]),
        change(format!("tc qdisc del dev {link} ingress"), &["web: link mr", "nothing looks at what passes its ingress"]),
        change("tc filter del dev mr-front egress", &["front: link mr-front: without its filter at egress"]),
        change("tc qdisc del dev minirun0 clsact", &["bridge: link minirun0: nothing looks at what passes its egress"]),
    ]);
    host.remove_networks(&["front", "back"]);
    host.settle();
});

// Of 40 Gbit/s the kernel tells by another attribute.
host_test!(rates_that_are_changed_are_found_and_mended, within 120, |host| {
    const NONE: &str = "not limited in its rate";
    host.has_had_networks();
    host.member(&["--net=bridge:rate=10mbit/40gbit"], "web");
    fine(host);
    let (link, pid) = (link_of(host, "web"), host.pid_of("web"));
    each(host, &[
        change(format!("tc qdisc del dev {link} root"), &["web: link mr", NONE]),
        change(format!("nsenter -t {pid} -n tc qdisc del dev eth0 root"), &["web: link eth0:", NONE]),
    ]);
    host.sh(&format!("tc qdisc replace dev {link} root tbf rate 8mbit burst 16384 latency 50ms")).ok();
    let (code, said) = verify(host);
    assert!(code == 1 && said.contains("limited to 1000000 bytes a second, not 5000000000"), "{code}: {said}");
    host.remove_all();
    host.settle();
});

host_test!(settings_and_elements_that_are_changed_are_found_and_mended, within 300, |host| {
    ground(host);
    let port = "ports4 { 8000 . tcp . 0.0.0.0-255.255.255.255";
    each(host, &[
        change("sysctl -qw net.ipv4.conf.mr-front.forwarding=0", &["front: setting net/ipv4/conf/mr-front/forwarding: 0"]),
        change("sysctl -qw net.ipv4.conf.eth0.forwarding=0", &["host: setting net/ipv4/conf/eth0/forwarding: 0, not 1"]),
        change("sysctl -qw net.ipv6.conf.minirun0.disable_ipv6=0", &["bridge: setting net/ipv6/conf/minirun0/disable"]),
        change("sysctl -qw net.ipv6.conf.mr-front.accept_ra=1", &["front: setting net/ipv6/conf/mr-front/accept_ra: 1"]),
        change("sysctl -qw net.ipv4.conf.minirun0.route_localnet=0", &["plain: setting", "route_localnet: 0, not 1"]),
        change("nft delete element inet minirun outward { mr-front }", &["front: nftables set without outward"]),
        change("nft delete element inet minirun guarded { eth0 }", &["host: nftables set without guarded"]),
        change(format!("nft delete element inet minirun {port} }}"), &["web: nftables set without ports4", "8000"]),
        change(
            format!("nft delete element inet minirun {port} }}; nft add element inet minirun {port} : 10.50.0.9 . 80 }}"),
            &["web: nftables set has another element than ports4", "10.50.0.2 . 7000"],
        ),
    ]);
    host.remove_networks(&["front", "back"]);
    host.settle();
});

host_test!(what_is_changed_in_a_container_is_found_and_mended, within 300, |host| {
    let pid = ground(host).pid;
    let inside = |command: &str| format!("nsenter -t {pid} -n {command}");
    each(host, &[
        change(inside("ip route del default"), &["web: default route: none by 10.50.0.1"]),
        change(inside("ip -6 route del default"), &["web: default route: none by fd50::1"]),
        change(inside("ip route replace default via 10.50.0.77"), &["by 10.50.0.77, not by 10.50.0.1"]),
        change(inside("ip addr del 10.50.0.2/24 dev eth0"), &["web: link eth0: without its address 10.50.0.2/24"]),
        change(inside("ip addr del fd50::2/64 dev eth0"), &["web: link eth0: without its address fd50::2/64"]),
        change(inside("ip link set eth0 down"), &["web: link eth0: down", "default route: none by 10.50.0.1"]),
        change(inside("ip link set lo down"), &["web: link lo: down"]),
        change(inside("ip link set eth0 mtu 1300"), &["web: link eth0: MTU 1300, not 1400"]),
        change(inside("ip link set eth0 address 02:00:00:00:00:09"), &["web: link eth0: hardware address 02:00:00"]),
        change(inside("ip link set eth0 name lan0"), &["web: link eth0: called lan0"]),
        change(inside("sysctl -qw net.ipv4.ip_unprivileged_port_start=80"), &["ip_unprivileged_port_start: 80, not 0"]),
        change(inside("sysctl -qw net.ipv4.tcp_syn_retries=5"), &["web: setting net/ipv4/tcp_syn_retries: 5, not 3"]),
        change(inside("nft delete table inet minirun"), &["web: nftables table `inet minirun`: not there"]),
        change(inside("nft flush chain inet minirun names"), &["rule 1 of chain names is not there"]),
        change(inside("nft insert rule inet minirun names accept"), &["rule 1 of chain names is another one"]),
        change(inside("nft add rule inet minirun names drop"), &["chain names has 5 rules, and not 4"]),
        change(inside("nft add chain inet minirun more"), &["chain more is not minirun's"]),
    ]);
    host.remove_networks(&["front", "back"]);
    host.settle();
});

host_test!(rules_are_compared_to_the_last_expression, |host| {
    let web = ground(host);
    // Its holder, and those of the others, would put the rules right at once.
    let holders = ["web", "plain", "hidden"].map(|name| Pid::from_raw(host.holder_of(name).cast_signed()));
    holders.iter().for_each(|holder| kill(*holder, Signal::SIGSTOP).expect("kill"));
    host.settle();
    let replace = |with: &str| {
        let handle = "$(nft -a list chain inet minirun forward | grep @within | grep -o 'handle [0-9]*$')";
        format!("nft replace rule inet minirun forward {handle} {with}")
    };
    for (command, said) in [
        ("nft flush ruleset".to_owned(), "not there"),
        ("nft flush table inet minirun".to_owned(), "rule 1 of chain published is not there"),
        ("nft insert rule inet minirun forward drop".to_owned(), "rule 1 of chain forward is another one"),
        (replace("iifname . oifname @within drop"), "rule 4 of chain forward is another one"),
        (replace("oifname . iifname @within accept"), "rule 4 of chain forward is another one"),
        (replace("iifname . oifname != @within accept"), "rule 4 of chain forward is another one"),
        ("nft add chain inet minirun extra".to_owned(), "chain extra is not minirun's"),
        (
            "nft flush chain inet minirun input; nft delete chain inet minirun input".to_owned(),
            "chain input is not there",
        ),
    ] {
        host.sh(&command).ok();
        let (code, lines) = verify(host);
        assert!(
            code == 1 && lines.contains(&format!("host: nftables table `inet minirun`: {said}")),
            "{command}: {lines}"
        );
        host.minirun(["network", "reload"]).ok();
        fine(host);
        // Elements of a range have no order.
        host.nothing_left_but(&["set inet minirun members", "map inet minirun ports"]);
    }
    // The published ports of all came back with the table.
    let mirror = Mirror::of(host, web.pid, PORTS);
    assert_eq!(host.in_lan(|| asks(By::Tcp, HOST, 8000)), Some(GATEWAY.into()));
    holders.iter().for_each(|holder| kill(*holder, Signal::SIGCONT).expect("kill"));
    drop(mirror);
    host.remove_networks(&["front", "back"]);
    host.settle();
});

host_test!(ports_that_a_holder_does_not_hear_are_told, |host| {
    ground(host);
    let user = host.member(&["--net=front", "-p", "[::1]:9000-9001:80-81/udp", "-p", "9002:7000"], "user");
    fine(host);
    let asked = || asks(By::Tcp, std::net::Ipv6Addr::LOCALHOST, 9002);
    let mirror = Mirror::of(host, user.pid, PORTS);
    assert!(asked().is_some());
    // The kernel closes whose socket it is told to.
    host.sh("ss -K -tln src '[::1]:9002'").ok();
    assert!(asked().is_none());
    for who in ["nobody", "another program"] {
        let theirs = (who != "nobody").then(|| std::net::TcpListener::bind("[::1]:9002").expect("bind"));
        let (code, lines) = verify(host);
        let said = format!(
            "user: port [::1]:9002/tcp: {who} listens there, and not its holder; minirun port user --rm 7000/tcp"
        );
        assert!(code == 1 && lines.contains(&said) && lines.lines().count() == 1, "{lines}");
        assert_eq!(host.minirun(["network", "reload"]).run().code, 1);
        drop(theirs);
    }
    let remedy = verify(host).1.split_once("; minirun").expect("a remedy").1.trim_end().to_owned();
    host.sh(&format!("$MINIRUN {remedy}")).ok();
    fine(host);
    assert!(asked().is_some());
    drop(mirror);
    host.remove_networks(&["front", "back"]);
    host.settle();
});

host_test!(what_is_gone_is_made_again, |host| {
    let web = ground(host);
    let link = link_of(host, "web");
    let works = || {
        let mirror = Mirror::of(host, web.pid, PORTS);
        assert!(asks(By::Tcp, Ipv4Addr::LOCALHOST, 8000).is_some());
        assert_eq!(host.in_lan(|| asks(By::Tcp, HOST, 8000)), Some(GATEWAY.into()));
        drop(mirror);
        assert!(host.minirun(["exec", "web", "ping", "-c1", "-W2", "10.50.0.3"]).ok().contains("1 packets received"));
        assert!(host.minirun(["exec", "near", "nslookup", "web"]).ok().contains("10.50.0.2"));
    };
    host.member(&["--net=front"], "near");
    works();
    for (command, said) in [
        (format!("ip link del {link}"), "not there, nor eth0 in the container"),
        (format!("nsenter -t {} -n ip link del eth0", web.pid), "not there, nor eth0 in the container"),
        ("ip link del mr-front".to_owned(), "front: bridge mr-front: not there"),
        (
            "for l in $(ls /sys/class/net); do case $l in mr*|minirun0) ip link del $l || true;; esac; done".to_owned(),
            "bridge minirun0",
        ),
    ] {
        host.sh(&command).ok();
        let (code, lines) = verify(host);
        assert!(code == 1 && lines.contains(said), "{command}: {lines}");
        host.minirun(["network", "reload"]).ok();
        fine(host);
        works();
    }
    // It can be changed as before: the kernel has counted on meanwhile.
    host.minirun(["network", "connect", "back", "web"]).ok();
    fine(host);
    host.minirun(["network", "disconnect", "front", "web"]).ok();
    fine(host);
    host.remove_networks(&["front", "back"]);
    host.settle();
});

host_test!(what_is_somebody_elses_is_left_alone, |host| {
    ground(host);
    host.sh("ip link del mr-back; ip link add mr-back type veth peer name theirs; ip link set mr-back alias mine").ok();
    let before = host.sh("ip -d link show mr-back").ok();
    for command in ["verify", "reload"] {
        let output = host.minirun(["network", command]).run();
        assert_eq!(output.code, 1, "{output}");
        let said = "back: bridge mr-back: the host has a link of that name that is not minirun's; rename it";
        assert!(output.stdout.contains(said), "{output}");
    }
    assert_eq!(host.sh("ip -d link show mr-back").ok(), before);
    host.sh("ip link del mr-back").ok();
    host.minirun(["network", "reload"]).ok();
    fine(host);
    host.remove_networks(&["front", "back"]);
    host.settle();
});

host_test!(networks_are_looked_at_by_name_and_listed_in_any_form, |host| {
    ground(host);
    host.network(&[], "unused");
    assert_eq!(verify(host).1, "3 networks, 3 containers as they should be\n");
    assert_eq!(host.minirun(["network", "verify", "front"]).ok(), "1 network, 1 container as they should be\n");
    assert_eq!(host.minirun(["network", "verify", "unused"]).ok(), "0 networks, 0 containers as they should be\n");
    assert_eq!(host.minirun(["network", "verify", "--format", "json"]).ok(), "[]\n");
    host.settle();
    host.sh("ip link set mr-back down; sysctl -qw net.ipv4.conf.mr-front.forwarding=0").ok();
    host.minirun(["network", "verify", "bridge"]).ok();
    let output = host.minirun(["network", "verify", "--format", "json", "front"]).run();
    let said: Value = serde_json::from_str(&output.stdout).expect("JSON");
    assert_eq!(output.code, 1);
    let command = "sysctl -qw net/ipv4/conf/mr-front/forwarding=1";
    let wanted = serde_json::json!([{
        "subject": "front",
        "what": "setting net/ipv4/conf/mr-front/forwarding: 0, not 1",
        "commands": [command],
        "mend": command,
    }]);
    assert_eq!(said, wanted);
    assert_eq!(host.minirun(["network", "verify", "--format", "{{.Subject}}"]).run().stdout, "back\nfront\n");
    // Only what is asked for is mended.
    host.minirun(["network", "reload", "front"]).ok();
    let (code, lines) = verify(host);
    assert!(code == 1 && lines.starts_with("back: ") && lines.lines().count() == 1, "{lines}");
    host.minirun(["network", "reload"]).ok();
    assert!(host.minirun(["network", "reload"]).ok().ends_with(FINE));
    host.nothing_left();
    for command in ["verify", "reload"] {
        let error = host.minirun(["network", command, "nosuch"]).fails(125);
        assert!(error.contains("`nosuch`") && error.contains("network ls"), "{error}");
    }
    host.remove_networks(&["front", "back", "unused"]);
    host.settle();
});

host_test!(all_kinds_of_containers_are_as_they_should_be, within 180, |host| {
    ground(host);
    host.member(&["--net=front", "--cap-add=NET_ADMIN", "-P", "--expose=80-82"], "admin");
    host.member(&["--net=front:hairpin,alias=x,mtu=1280,ifname=lan0", "--net=back", "--net=bridge:gw-prio=5"], "several");
    host.member(&["--net=back:mtu=1200"], "small");
    host.member(&["--userns=auto", "--net=front", "-p", "[::1]:9000-9003:80-83/udp"], "user");
    for (name, net) in [("none", "none"), ("hosts", "host"), ("joined", "container:web")] {
        host.minirun(["run", "-d", "--name", name, &format!("--net={net}"), "busybox", "sleep", "1000"]).ok();
    }
    host.minirun(["network", "connect", "front", "none"]).ok();
    host.minirun(["network", "connect", "bridge", "none"]).ok();
    host.minirun(["network", "disconnect", "front", "none"]).ok();
    host.minirun(["network", "disconnect", "front", "several"]).ok();
    host.minirun(["port", "several", "--add", "0.0.0.0:9100:80"]).ok();
    host.minirun(["restart", "-t", "0", "admin"]).ok();
    host.minirun(["pause", "small"]).ok();
    assert_eq!(verify(host).1, "3 networks, 8 containers as they should be\n");
    // Records of an earlier version say less.
    host.sh(
        "cd /run/minirun/containers; for f in */record; do jq 'del(.sysctls, .interfaces[].port)' $f >/tmp/new; \
         cat /tmp/new >$f; done; rm /tmp/new",
    )
    .ok();
    fine(host);
    host.minirun(["unpause", "small"]).ok();
    host.remove_networks(&["front", "back"]);
    host.settle();
});

host_test!(comparing_while_containers_come_and_go_says_nothing_wrong, within 120, |host| {
    host.has_had_networks();
    host.network(&["--ipv6"], "front");
    let start = |net: &str| {
        let run = format!("$MINIRUN run {net} -p 80 busybox true 2>/dev/null");
        host.sh(&format!("for i in $(seq 12); do {run} || exit; done")).start()
    };
    let mut starts = [start("--net=front --net=bridge"), start("")];
    let mut looks = 0;
    while starts.iter_mut().any(|one| !one.has_ended()) {
        for command in ["verify", "reload"] {
            let output = host.minirun(["network", command]).run();
            assert!(output.code == 0 && output.stdout.ends_with(FINE), "{output}");
        }
        looks += 1;
    }
    for one in starts {
        assert_eq!(one.wait().code, 0);
    }
    assert!(looks > 3, "{looks}");
    std::thread::sleep(Duration::from_millis(10));
    host.remove_networks(&["front"]);
    host.settle();
});

host_test!(cold where_nothing_was_ever_made_nothing_is_to_be, |host| {
    let before = host.sh("ip -o link; nft list ruleset").ok();
    for command in [&["network", "verify"][..], &["network", "reload"], &["network", "verify", "bridge"]] {
        assert_eq!(host.minirun(command.iter().copied()).ok(), "0 networks, 0 containers as they should be\n");
    }
    assert_eq!(host.sh("ip -o link; nft list ruleset").ok(), before);
    assert_eq!(host.sh("ls /run/minirun | grep hub || true").ok(), "");
});

host_test!(ports_of_a_network_without_the_default_route_and_ports_taken_back, within 120, |host| {
    host.has_had_networks();
    host.with_and_without_rules_in_bridges(|| {
        host.network(&["--internal"], "back");
        host.network(&[], "front");
        host.member(&["--net=back", "-p", "0.0.0.0:8000:7000"], "web");
        host.minirun(["network", "connect", "front", "web"]).ok();
        fine(host);
        host.minirun(["port", "web", "--add", "0.0.0.0:8001:7000"]).ok();
        fine(host);
        host.minirun(["port", "web", "--rm", "7000"]).ok();
        fine(host);
        // What was asked for stays.
        host.member(&["--net=front:hairpin", "-p", "8002:7000"], "db");
        host.minirun(["port", "db", "--rm", "7000"]).ok();
        fine(host);
        host.remove_networks(&["back", "front"]);
    });
});
