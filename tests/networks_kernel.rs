//! Networks and what of them is in the kernel: made when it is missing, left alone where it is another's, made by several at once, taken away.

mod host;

use std::net::{IpAddr, Ipv4Addr};

use host::{By, HOST, Host, Mirror, OUTSIDE, asks, connects, host_test, kill_hard};
use serde_json::Value;

/// What `network inspect` says of one network.
#[track_caller]
fn inspected(host: &Host, name: &str) -> Value {
    let said: Value = serde_json::from_str(&host.minirun(["network", "inspect", name]).ok()).expect("JSON");
    said[0].clone()
}

fn names(host: &Host) -> Vec<String> {
    host.minirun(["network", "ls", "-q"]).ok().lines().map(str::to_owned).collect()
}

host_test!(what_is_gone_from_the_kernel_is_made_again, |host| {
    host.has_had_networks();
    let _outside = Mirror::of_lan(host, &[7000]);
    host.network(&["--subnet=10.50.0.0/24", "--ipv6"], "front");
    let reaches_out = |pid: u32| host.in_network_of(pid, || asks(By::Tcp, OUTSIDE, 7000)) == Some(IpAddr::V4(HOST));
    for damage in [
        "ip link del mr-front",
        "nft delete table inet minirun",
        "nft flush ruleset",
        "ip link del mr-front; nft delete table inet minirun",
        "ip addr flush dev mr-front",
        "ip link set mr-front down",
        "nft 'delete element inet minirun outward { mr-front }; delete element inet minirun bridges { mr-front }'",
        "nft flush chain inet minirun postrouting",
        "sysctl -qw net.ipv4.conf.mr-front.forwarding=0",
    ] {
        host.minirun(["run", "--net=front", "busybox", "true"]).ok();
        let before = inspected(host, "front");
        host.sh(damage).ok();
        let member = host.member(&["--net=front"], "web");
        assert!(reaches_out(member.pid), "after {damage}");
        host.minirun(["rm", "-f", "web"]).ok();
        assert_eq!(before, inspected(host, "front"), "after {damage}");
    }
    host.minirun(["network", "rm", "front"]).ok();
});

host_test!(a_table_made_anew_serves_those_who_run, |host| {
    host.has_had_networks();
    let _outside = Mirror::of_lan(host, &[7000]);
    host.network(&[], "front");
    host.network(&["--internal"], "closed");
    let old = [host.member(&[], "one"), host.member(&["--net=front"], "two")];
    let inner = host.member(&["--net=closed"], "three");
    let _gateway = host::listen(Ipv4Addr::UNSPECIFIED, 7001);
    for made_by in ["bridge", "front", "closed"] {
        host.sh("nft delete table inet minirun").ok();
        host.minirun(["run", "--net", made_by, "busybox", "true"]).ok();
        for member in &old {
            let seen = host.in_network_of(member.pid, || asks(By::Tcp, OUTSIDE, 7000));
            assert_eq!(seen, Some(IpAddr::V4(HOST)), "{} after a run on {made_by}", member.name);
        }
        assert!(!host.in_network_of(inner.pid, || connects(HOST, 7001)), "closed after a run on {made_by}");
    }
    host.remove_networks(&["front", "closed"]);
});

host_test!(a_link_of_somebody_else_is_left_alone, |host| {
    host.has_had_networks();
    host.network(&[], "front");
    host.sh("ip link add mr-front type bridge").ok();
    let said = host.minirun(["run", "--net=front", "busybox", "true"]).fails(125);
    assert!(said.contains("`mr-front`") && said.contains("not minirun's") && said.contains("ip link del"), "{said}");
    host.minirun(["network", "rm", "front"]).ok();
    host.sh("ip link del mr-front").ok();
});

host_test!(created_side_by_side, |host| {
    host.has_had_networks();
    let all: Vec<String> = (0..12).map(|number| format!("a-network-of-many-{number}")).collect();
    let calls: Vec<_> = all.iter().map(|name| host.minirun(["network", "create", name]).start()).collect();
    for call in calls {
        let output = call.wait();
        assert_eq!(output.code, 0, "{output}");
    }
    let said = host.minirun(["network", "ls", "--format", "{{.Subnet}} {{.Bridge}}"]).ok();
    let one_of_each = |column: usize| {
        let all: std::collections::BTreeSet<_> = said.lines().filter_map(|line| line.split(' ').nth(column)).collect();
        all.len()
    };
    assert_eq!((one_of_each(0), one_of_each(1)), (13, 13), "{said}");
    // All of them made at once, too.
    let calls: Vec<_> =
        all.iter().map(|name| host.minirun(["run", "--net", name, "busybox", "true"]).start()).collect();
    for call in calls {
        let output = call.wait();
        assert_eq!(output.code, 0, "{output}");
    }
    assert_eq!(host.minirun(["network", "prune"]).ok().lines().count(), 12);
});

host_test!(one_name_created_side_by_side, |host| {
    host.has_had_networks();
    let calls: Vec<_> = (0..8).map(|_| host.minirun(["network", "create", "front"]).start()).collect();
    let codes: Vec<i32> = calls.into_iter().map(|call| call.wait().code).collect();
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    assert_eq!(names(host), ["bridge", "front"]);
    host.minirun(["network", "rm", "front"]).ok();
});

host_test!(a_killed_container_leaves_nothing, |host| {
    host.has_had_networks();
    host.network(&["--ipv6"], "front");
    host.minirun(["run", "--net=front", "busybox", "true"]).ok();
    host.settle();
    for who in ["holder", "first process", "both"] {
        host.minirun(["run", "-d", "--rm", "--name=web", "--net=front", "busybox", "sleep", "1000"]).ok();
        let (pid, holder) = (host.pid_of("web"), host.holder_of("web"));
        if who != "first process" {
            kill_hard(holder);
        }
        if who != "holder" {
            kill_hard(pid);
        }
        host.soon("it is gone", || host.minirun(["ps", "-aq"]).ok().is_empty());
        host.nothing_left();
        // The address is free at once.
        host.minirun(["run", "--net=front:ip=10.214.16.2", "busybox", "true"]).ok();
    }
    // The killed caller of a container that is not detached.
    let mut running =
        host.minirun(["run", "-i", "--net=front", "busybox", "sh", "-c", "echo ready; cat"]).held().start();
    running.says("ready");
    running.signal(nix::sys::signal::Signal::SIGKILL);
    running.wait();
    host.minirun(["ps"]).ok();
    host.nothing_left();
    host.minirun(["network", "rm", "front"]).ok();
    host.settle();
});

host_test!(cold prune_takes_all_away, |host| {
    host.minirun(["network", "create", "--ipv6", "front"]).ok();
    host.minirun(["network", "create", "--internal", "back"]).ok();
    host.settle();
    host.minirun(["run", "--net=front", "--net=back", "-p", "0.0.0.0:7000:7000", "busybox", "true"]).ok();
    let mut running = host.minirun(["run", "-i", "busybox", "sh", "-c", "echo ready; cat"]).held().start();
    running.says("ready");
    let said = host.minirun(["system", "prune"]).fails(125);
    assert!(said.contains("minirun0"), "{said}");
    running.wait();
    assert!(host.sh("ip -o link; nft list tables").ok().contains("minirun"));
    let said = host.minirun(["system", "prune"]).run();
    for word in ["minirun0", "mr-front", "mr-back"] {
        assert!(said.code == 0 && said.stderr.contains(word), "{said}");
    }
    // Files of the state directory, and the image, stay; of the host's network nothing does.
    host.nothing_left_but(&["file /run", "file /var/lib"]);
    // The definitions are not the kernel's.
    assert_eq!(names(host), ["bridge", "back", "front"]);
    host.minirun(["run", "--net=front", "busybox", "true"]).ok();
    host.minirun(["system", "prune"]).ok();
    host.nothing_left_but(&["file /run", "file /var/lib"]);
});
