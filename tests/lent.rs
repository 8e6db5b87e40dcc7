//! `--net=dev:LINK`: a link of the host is lent to a container, and comes back as it was.

mod host;

use std::net::Ipv4Addr;

use host::{By, Host, asks, host_test, kill_hard, refused};
use nix::sys::signal::Signal;

const NET: &str = "--net=dev:eth9:ip=10.77.0.7/24,gateway=10.77.0.2,ifname=lan0,mtu=1250";

/// A link `eth9` with all that a link can have; its other end is in the namespace `far`.
fn ground(host: &Host) {
    host.has_had_networks();
    host.sh("ip netns add far; ip link add eth9 mtu 1300 type veth peer name far0 netns far
         ip -n far addr add 10.77.0.2/24 dev far0; ip -n far link set far0 up; ip -n far link set lo up
         ip link set eth9 address 02:00:00:00:00:99 alias mine addrgenmode none
         sysctl -qw net.ipv4.conf.eth9.arp_filter=1 net.ipv6.conf.eth9.hop_limit=77
         ip addr add 10.77.0.1/24 brd + dev eth9; ip addr add 10.77.0.9/24 brd + dev eth9
         ip -6 addr add fd77::1/64 dev eth9 nodad; ip link set eth9 up
         until ip -6 route show table local | grep -q 'fd77::1 '; do sleep 0.01; done
         ip route add 10.88.0.0/16 via 10.77.0.2 dev eth9 metric 77; ip route add 10.89.0.0/16 dev eth9
         ip -6 route add fd88::/64 via fd77::2 dev eth9")
        .ok();
    // Once there and back, so that what such a way leaves on purpose is there.
    host.minirun(["run", "--net=dev:eth9", "busybox", "true"]).ok();
    host.settle();
}

/// All that is to be as before: what the test compares anyway, and what that passes over.
fn state(host: &Host) -> String {
    host.sh("ip -o link show eth9 | grep -o 'eth9.*mtu [0-9]*\\|link/.*'; ip -o addr show eth9; ip route show dev eth9; ip -6 route show dev eth9; sysctl net.ipv4.conf.eth9 net.ipv6.conf.eth9 2>/dev/null || true")
        .ok()
}

host_test!(a_link_is_lent_and_comes_back_as_it_was, |host| {
    ground(host);
    let before = state(host);
    assert!(before.contains("10.88.0.0/16") && before.contains("fd88::/64"), "{before}");
    let script = "ip -o link show lan0; ip -o -4 addr; ip route; ping -c1 -W5 10.77.0.2";
    let said = host.minirun(["run", NET, "busybox", "sh", "-c", script]).ok();
    for words in ["mtu 1250", "02:00:00:00:00:99", "10.77.0.7/24", "default via 10.77.0.2 dev lan0", " 0% packet loss"]
    {
        assert!(said.contains(words), "`{words}` is not in {said}");
    }
    assert!(!said.contains("10.77.0.1/"), "{said}");
    assert_eq!(state(host), before);
    host.nothing_left();
    // A link that is down comes back down.
    host.sh("ip link set eth9 down").ok();
    host.settle();
    let before = state(host);
    host.minirun(["run", "--net=dev:eth9", "busybox", "ip", "link", "show", "up", "dev", "eth9"]).ok();
    assert_eq!(state(host), before);
    // It has the queue of one that was never up.
    host.nothing_left_but(&["qdisc"]);
    host.sh("ip link set eth9 up").ok();
    host.settle();
});

host_test!(it_comes_back_however_the_container_ends, within 120, |host| {
    ground(host);
    let before = state(host);
    let gone = |host: &Host| assert!(!host.sh("ip -o link").ok().contains("eth9"));
    // It fails, it cannot be run, its program kills it, it changes what it was lent.
    assert_eq!(host.minirun(["run", NET, "busybox", "false"]).run().code, 1);
    assert_eq!(host.minirun(["run", NET, "busybox", "/nothing"]).run().code, 127);
    host.minirun(["run", NET, "--sysctl=net.ipv4.conf.nosuch.forwarding=1", "busybox", "true"]).fails(125);
    host.minirun(["run", &NET.replace("mtu=1250", "mtu=65535"), "busybox", "true"]).run();
    assert_eq!(host.minirun(["run", NET, "busybox", "sh", "-c", "kill -9 1; exit 7"]).run().code, 7);
    let mut running = host.minirun(["run", "-i", NET, "busybox", "sh", "-c", "echo ready; cat"]).held().start();
    running.says("ready");
    let pid = running.child().expect("a child");
    let change = "ip link set lan0 down; ip link set lan0 name other address 02:00:00:00:00:01 mtu 1280 up; ip addr flush other";
    host.sh(&format!("nsenter -t {pid} -n sh -ec '{change}; sysctl -qw net.ipv4.conf.other.forwarding=1'")).ok();
    assert_eq!(running.wait().code, 0);
    assert_eq!(state(host), before);
    host.nothing_left();
    // A signal to minirun, and SIGKILL to the container's first process.
    for by in ["minirun", "container"] {
        let mut running = host.minirun(["run", NET, "busybox", "sh", "-c", "echo ready; sleep 1000"]).start();
        running.says("ready");
        gone(host);
        match by {
            "minirun" => running.signal(Signal::SIGTERM),
            _ => kill_hard(running.child().expect("a child")),
        }
        running.wait();
        assert_eq!(state(host), before, "{by}");
    }
    // Detached, removed and restarted.
    host.minirun(["run", "-d", "--name=web", NET, "busybox", "sleep", "1000"]).ok();
    gone(host);
    assert_eq!(host.minirun(["ps", "--format", "{{.Networks}}"]).ok(), "dev:eth9\n");
    host.minirun(["stop", "-t", "0", "web"]).ok();
    assert_eq!(state(host), before);
    host.minirun(["restart", "-t", "0", "web"]).ok();
    gone(host);
    host.minirun(["restart", "-t", "0", "web"]).ok();
    host.minirun(["rm", "-f", "web"]).ok();
    host.soon("it is back", || host.sh("ip -o link").ok().contains("eth9"));
    assert_eq!(state(host), before);
});

host_test!(it_comes_back_when_minirun_is_killed, within 120, |host| {
    ground(host);
    let before = state(host);
    let plain = "--net=dev:eth9:ip=10.77.0.7/24";
    for options in [&[plain][..], &[NET], &[plain, "--net=bridge"], &[plain, "--userns=auto"], &[plain, "-u", "1234"]] {
        host.minirun([&["run", "-d", "--name=web"], options, &["busybox", "sleep", "1000"]].concat()).ok();
        kill_hard(host.holder_of("web"));
        host.bury();
        host.minirun(["ps"]).ok();
        host.soon("it is back", || host.sh("ip -o link").ok().contains("eth9"));
        assert_eq!(state(host), before, "{options:?}");
        host.bury();
        host.remove_all();
    }
    host.minirun(["run", "--net=none", "--userns=auto", "busybox", "true"]).ok();
    // The links that are opened for a network differ while this one is away.
    host.nothing_left_but(&["/run/minirun/ids", "opened", "guarded"]);
    host.settle();
});

host_test!(minirun_is_killed_at_every_call_that_moves_it, within 300, |host| {
    ground(host);
    let before = state(host);
    let words = "run --net=dev:eth9:ip=10.77.0.7/24 busybox true";
    let calls = host.calls(words);
    let moving: Vec<_> = calls
        .iter()
        .filter(|call| ["sendto", "mount", "umount2", "unlink", "clone3", "recvmsg", "waitid", "wait4", "renameat"].contains(&call.name.as_str()))
        .collect();
    assert!(moving.len() > 12, "{calls:?}");
    for call in moving {
        host.tampered(words, call, "signal=KILL").run();
        host.minirun(["ps"]).ok();
        assert_eq!(state(host), before, "{call:?}");
        host.nothing_left();
    }
});

host_test!(beside_networks, |host| {
    ground(host);
    host.network(&["--subnet=10.50.0.0/24"], "front");
    let before = state(host);
    let far = std::path::Path::new("/run/netns/far").exists();
    assert!(far);
    host.member(&["--net=front", "--net=dev:eth9:ip=10.77.0.7/24,ifname=eth1", "--net=bridge"], "web");
    let said = host.minirun(["exec", "web", "sh", "-c", "ip -o -4 addr; ip route"]).ok();
    for words in
        ["eth0    inet 10.50.0.", "eth1    inet 10.77.0.7/24", "eth2    inet 10.214.0.", "default via 10.50.0.1"]
    {
        assert!(said.contains(words), "`{words}` is not in {said}");
    }
    assert_eq!(host.minirun(["ps", "--format", "{{.Networks}}"]).ok(), "front,bridge,dev:eth9\n");
    // Who is out there reaches what listens in it, also where it has rules of its own.
    let mirror = host::Mirror::of(host, host.pid_of("web"), &[7000]);
    let reached = |by| host::in_network("/run/netns/far", move || asks(by, Ipv4Addr::new(10, 77, 0, 7), 7000));
    assert_eq!([reached(By::Tcp), reached(By::Udp)], [Some(Ipv4Addr::new(10, 77, 0, 2).into()); 2]);
    drop(mirror);
    host.minirun(["rm", "-f", "web"]).ok();
    host.soon("it is back", || host.sh("ip -o link").ok().contains("eth9"));
    // One alone is connected later.
    host.minirun(["run", "-d", "--name=web", "--net=dev:eth9:ip=10.77.0.7/24", "busybox", "sleep", "1000"]).ok();
    host.minirun(["network", "connect", "front", "web"]).ok();
    let mirror = host::Mirror::of(host, host.pid_of("web"), &[7000]);
    assert_eq!([reached(By::Tcp), reached(By::Udp)], [Some(Ipv4Addr::new(10, 77, 0, 2).into()); 2]);
    drop(mirror);
    host.minirun(["network", "disconnect", "front", "web"]).ok();
    let output = host.minirun(["network", "connect", "dev:eth9", "web"]).run();
    assert_eq!(output.code, 125, "{output}");
    host.remove_networks(&["front"]);
    host.soon("it is back", || host.sh("ip -o link").ok().contains("eth9"));
    assert_eq!(state(host), before);
    // Networks open the links by which the host's routes leave, this one too.
    host.nothing_left_but(&["opened", "guarded"]);
    host.settle();
});

host_test!(a_link_that_is_not_as_it_was_lent_is_found_and_mended, within 120, |host| {
    ground(host);
    host.network(&["--subnet=10.50.0.0/24"], "front");
    host.member(&["--net=front:gw-prio=5"], "plain");
    // That has opened the link, by which routes leave.
    let before = state(host);
    host.minirun(["run", "-d", "--name=web", NET, "busybox", "sleep", "1000"]).ok();
    host.sh("ip link add eth8 type veth peer name far8 netns far").ok();
    host.member(&["--net=front", "--net=dev:eth8:ip=10.78.0.7/24,ifname=wan0"], "both");
    let [web, both] = ["web", "both"].map(|name| host.pid_of(name));
    let fine = || assert!(host.minirun(["network", "verify"]).ok().ends_with("as they should be\n"));
    fine();
    for (pid, command, said) in [
        (web, "ip addr del 10.77.0.7/24 dev lan0", "web: link lan0: without its address 10.77.0.7/24"),
        (web, "ip link set lan0 down", "web: link lan0: down"),
        (web, "ip route del default", "web: default route: none by 10.77.0.2"),
        (web, "ip link set lan0 mtu 1200", "web: link lan0: MTU 1200, not 1250"),
        (web, "ip link set lan0 name other", "web: link lan0: called other"),
        (web, "ip link set lan0 netns 1 name eth9", "web: link lan0: not there, but on the host as eth9"),
        (web, "ip link set lan0 netns 1", "web: link lan0: not there, but on the host as lan0"),
        (both, "ip link set wan0 netns 1", "both: link wan0: not there, but on the host as wan0"),
    ] {
        host.sh(&format!("nsenter -t {pid} -n {command}")).ok();
        let output = host.minirun(["network", "verify"]).run();
        assert!(output.code == 1 && output.stdout.contains(said), "{command}: {output}");
        host.minirun(["network", "reload"]).ok();
        fine();
        let ping = "ping -c1 -W5 10.77.0.2";
        assert!(host.minirun(["exec", "web", "sh", "-c", ping]).ok().contains(" 0% packet loss"), "{command}");
    }
    // One that is a port of a bridge by now is left there.
    host.sh(&format!("nsenter -t {web} -n ip link set lan0 netns 1; ip link add br9 type bridge; ip link set lan0 master br9")).ok();
    for command in ["verify", "reload"] {
        let output = host.minirun(["network", command]).run();
        assert!(output.code == 1 && output.stdout.contains("as lan0, a port of a bridge; `ip link set lan0 nomaster`"), "{output}");
    }
    host.sh("ip link set lan0 nomaster; ip link del br9").ok();
    host.minirun(["network", "reload"]).ok();
    fine();
    // A virtual one is gone for good.
    host.sh(&format!("nsenter -t {both} -n ip link del wan0")).ok();
    let output = host.minirun(["network", "reload"]).run();
    assert!(output.code == 1 && output.stdout.contains("both: link wan0: not there, nor eth8 on the host; restart the"), "{output}");
    host.minirun(["rm", "-f", "web"]).ok();
    host.remove_networks(&["front"]);
    host.soon("it is back", || host.sh("ip -o link").ok().contains("eth9"));
    assert_eq!(state(host), before);
    host.nothing_left_but(&["opened", "guarded", "eth8", "eth9/forwarding"]);
    host.settle();
});

host_test!(its_name_is_anothers_by_then, |host| {
    ground(host);
    let mut running = host.minirun(["run", "-i", NET, "busybox", "sh", "-c", "echo ready; cat"]).held().start();
    running.says("ready");
    host.sh("ip link add eth9 type bridge").ok();
    running.signal(Signal::SIGTERM);
    running.release();
    let output = running.wait();
    assert!(
        output.stderr.contains("give `eth9` back") && output.stderr.contains("it is called `lent0` now"),
        "{output}"
    );
    assert!(host.sh("ip -o addr show lent0").ok().contains("10.77.0.1/24"));
    host.sh("ip link del eth9; ip link del lent0; ip netns del far").ok();
    host.settle();
});

host_test!(the_commands_make_the_same, |host| {
    ground(host);
    let facts = "ip -o addr show lan0 | grep -o 'inet .*global'; ip -o link show lan0 | grep -o 'mtu [0-9]*'; ip route";
    let ours = host.minirun(["run", NET, "busybox", "sh", "-c", facts]).ok();
    let script = host.minirun(["run", "--dry-run", "--name=byhand", NET, "busybox"]).ok();
    assert!(script.contains("ip link set eth9 name lan0 netns byhand\n"), "{script}");
    host.nothing_left();
    host.sh(&script).ok();
    assert_eq!(host.sh(&format!("ip netns exec byhand busybox sh -c \"{facts}\"")).ok(), ours);
    host.sh("ip -n byhand link set lan0 netns 1; ip link del lan0 2>/dev/null || true; ip netns del byhand; ip netns del far").ok();
    host.settle();
});

host_test!(what_is_not_lent, |host| {
    ground(host);
    host.network(&["--subnet=10.50.0.0/24"], "front");
    host.sh("ip link add br9 type bridge; ip link add port9 type veth peer name port8; ip link set port9 master br9")
        .ok();
    let web = host.member(&["--net=front:host-ifname=own9"], "web");
    host.settle();
    refused(host, &["--net=dev:nosuch"], &["`nosuch`", "no such link"]);
    refused(host, &["--net=dev:eth0"], &["`eth0`", "default route"]);
    refused(host, &["--net=dev:port9"], &["`port9`", "port of a bridge"]);
    // The kernel's no: what was begun is undone.
    refused(host, &["--net=dev:br9"], &["`br9`", "does not move this kind"]);
    refused(host, &["--net=front", "--net=dev:br9"], &["`br9`", "does not move this kind"]);
    for own in ["own9", "mr-front"] {
        refused(host, &["--net", &format!("dev:{own}")], &[own, "minirun's own"]);
    }
    for bad in [
        "dev:",
        "dev:lo",
        "dev:eth9:ip=10.77.0.7",
        "dev:eth9:gateway=10.77.0.2",
        "dev:eth9:ip=10.77.0.7/24,gateway=10.78.0.1",
        "dev:eth9:mac=02:00:00:00:00:01",
        "dev:eth9:mtu=9",
    ] {
        refused(host, &["--net", bad], &["dev:"]);
    }
    refused(host, &["--net=dev:eth9", "--net=dev:eth9"], &["`eth9`", "twice"]);
    refused(host, &["--net=dev:eth9", "--tap=eth9"], &["another `eth9`"]);
    refused(host, &["--net=front:ifname=x", "--net=dev:eth9:ifname=x"], &["`x` is a link that is lent", "ifname="]);
    refused(host, &["--net=front", NET], &["default route already"]);
    for alone in ["none", "host", "container:web", "ns:/proc/self/ns/net"] {
        refused(host, &["--net=dev:eth9", "--net", alone], &[alone]);
    }
    let _ = web;
    host.remove_networks(&["front"]);
    host.sh("ip link del br9; ip link del port9; ip link del eth9; ip netns del far").ok();
    host.settle();
});
