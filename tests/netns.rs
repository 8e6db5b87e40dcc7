//! Containers in `ip netns`: by name, as namespaces made by hand, for as long as they live.

mod host;

use host::{Host, host_test, kill_hard};
use nix::sys::signal::Signal;

fn names(host: &Host) -> String {
    let said = host.sh("ip netns list | cut -d ' ' -f 1 | sort | tr '\n' ' '").ok();
    said.trim_end().to_owned()
}

host_test!(every_container_with_a_namespace_of_its_own_is_listed, |host| {
    host.has_run_detached();
    host.member(&[], "web");
    host.minirun(["run", "-d", "--name=alone", "--net=none", "busybox", "sleep", "1000"]).ok();
    host.minirun(["run", "-d", "--name=hosts", "--net=host", "busybox", "sleep", "1000"]).ok();
    host.minirun(["run", "-d", "--name=joined", "--net=container:web", "busybox", "sleep", "1000"]).ok();
    assert_eq!(names(host), "alone lan web");
    let pid = host.pid_of("web");
    assert_eq!(host.sh(&format!("ip netns identify {pid}")).ok(), "web\n");
    let pids = host.sh("ip netns pids web").ok();
    assert!(pids.lines().any(|line| line == pid.to_string()), "{pids}");
    assert!(pids.lines().any(|line| line == host.pid_of("joined").to_string()), "{pids}");
    let address = host.minirun(["exec", "web", "ip", "-o", "-4", "addr", "show", "eth0"]).ok();
    let address = host::address_in(&address);
    for command in ["ip -n web -o -4 addr show eth0", "ip netns exec web ip -o -4 addr show eth0"] {
        assert!(host.sh(command).ok().contains(&address.to_string()), "{command}");
    }
    // The kernel has given it a number, because the other end of its cable is here.
    assert!(host.sh("ip netns list-id").ok().contains("(iproute2 netns name: web)"));
    host.minirun(["rename", "web", "shop"]).ok();
    assert_eq!(names(host), "alone lan shop");
    host.minirun(["restart", "-t", "0", "shop"]).ok();
    assert_eq!(names(host), "alone lan shop");
    assert!(host.sh("ip -n shop -o link").ok().contains("eth0"));
    host.remove_all();
    assert_eq!(names(host), "lan");
});

host_test!(it_comes_and_goes_with_a_run_in_the_foreground, |host| {
    host.has_run_detached();
    let mut monitor = host.sh("exec stdbuf -oL ip netns monitor").start();
    // It says nothing when it begins to listen. Into a pipe it would speak at its end only.
    host.sh("sleep 0.3").ok();
    let said = host.minirun(["run", "--name=once", "busybox", "true"]).run();
    assert_eq!(said.code, 0);
    monitor.says("add once");
    monitor.says("delete once");
    monitor.signal(Signal::SIGTERM);
    monitor.wait();
    assert_eq!(names(host), "lan");
    // One that ends itself, and is kept.
    host.minirun(["run", "-d", "--name=done", "busybox", "true"]).ok();
    host.minirun(["wait", "done"]).ok();
    assert_eq!(names(host), "lan");
    host.minirun(["rm", "done"]).ok();
});

host_test!(a_name_that_is_taken_is_left_alone, |host| {
    host.has_run_detached();
    host.sh("ip netns add web; ip -n web link set lo up").ok();
    host.settle();
    let id = host.minirun(["run", "-d", "--name=web", "busybox", "sleep", "1000"]).ok();
    assert!(names(host).split(' ').any(|name| name == &id[..12]), "{}", names(host));
    assert!(!host.sh("ip -n web -o link").ok().contains("eth0"));
    // Whoever follows what is told leaves it alone, too.
    assert!(host.minirun(["explain", "web"]).ok().contains(&format!("ip -n {} addr add", &id[..12])));
    host.minirun(["rename", "web", "other"]).ok();
    assert!(names(host).contains("other"));
    host.minirun(["rename", "other", "web"]).ok();
    assert!(names(host).contains(&id[..12]), "{}", names(host));
    host.remove_all();
    assert_eq!(names(host), "lan web");
    for option in ["--dry-run", "--explain"] {
        let told = host.minirun(["run", option, "--name=web", "--net=none", "busybox", "true"]).run();
        let told = told.stdout + &told.stderr;
        assert!(told.contains("ip netns add ") && !told.contains("ip netns add web"), "{told}");
    }
    host.sh("ip netns del web").ok();
    host.settle();
});

host_test!(a_killed_holder_leaves_no_name_past_the_next_command, |host| {
    host.has_run_detached();
    let mut running = host.minirun(["run", "--name=web", "busybox", "sh", "-c", "echo ready; sleep 1000"]).start();
    running.says("ready");
    assert_eq!(names(host), "lan web");
    running.signal(Signal::SIGKILL);
    running.wait();
    host.minirun(["ps"]).ok();
    assert_eq!(names(host), "lan");
    host.member(&[], "web");
    kill_hard(host.holder_of("web"));
    host.minirun(["ps"]).ok();
    assert_eq!(names(host), "lan");
    host.remove_all();
});
