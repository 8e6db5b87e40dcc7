//! Whatever dies, whenever it dies: after the next minirun command everything is as it was.
//!
//! Each test's comparison at its end is the point; see host/mod.rs.

mod host;

use std::path::Path;
use std::time::Duration;

use host::{Host, Running, host_test};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

fn kill_hard(pid: u32) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
}

fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

/// A container that lives until it is told to end.
fn resident(host: &Host, options: &[&str]) -> (Running, u32) {
    let mut running =
        host.minirun([&["run", "-i"], options, &["busybox", "sh", "-c", "echo ready; cat"]].concat()).held().start();
    running.says("ready");
    let init = running.child().expect("an init");
    (running, init)
}

/// How many system calls minirun itself makes for a whole run.
fn calls_of_a_run(host: &Host) -> usize {
    let trace = Path::new("/tmp/trace");
    host.sh(&format!("strace -qq -o {} $MINIRUN run busybox true", trace.display())).ok();
    let count = std::fs::read_to_string(trace).expect("a trace").lines().count();
    std::fs::remove_file(trace).expect("rm");
    assert!(count > 20, "strace has seen {count} calls");
    count
}

/// minirun dies as it enters its system call number `number`.
fn run_killed_at(host: &Host, number: usize) {
    let script = format!("strace -qq -o /dev/null -e inject=all:signal=KILL:when={number} $MINIRUN run busybox true");
    assert_eq!(host.sh(&script).run().code, 137, "minirun was to die at its call {number}");
}

host_test!(minirun_killed_at_twelve_moments_of_a_run, within 120, |host| {
    let calls = calls_of_a_run(host);
    for moment in 1..=12 {
        run_killed_at(host, calls * moment / 13);
        host.minirun(["ps"]).ok();
        host.nothing_left();
    }
});

host_test!(minirun_killed_between_any_two_calls_then_a_run, within 300, |host| {
    // One sweep for all: thirty dead starts, and the next `run` cleans after them.
    let calls = calls_of_a_run(host);
    for moment in 1..=30 {
        run_killed_at(host, calls * moment / 31);
    }
    host.minirun(["run", "busybox", "true"]).ok();
});

host_test!(cold a_first_run_killed_at_twelve_moments, within 120, |host| {
    // The image, the bridge and the rules are half made.
    host.sh("strace -qq -o /tmp/trace $MINIRUN run busybox true").ok();
    let calls = std::fs::read_to_string("/tmp/trace").expect("a trace").lines().count();
    host.sh("rm -r /tmp/trace /run/minirun /var/lib/minirun; ip link del minirun0; nft delete table inet minirun").ok();
    for moment in 1..=12 {
        host.sh(&format!(
            "strace -qq -o /dev/null -e inject=all:signal=KILL:when={} $MINIRUN run busybox true",
            calls * moment / 13
        ))
        .run();
        host.minirun(["run", "busybox", "true"]).ok();
        host.sh("rm -r /run/minirun /var/lib/minirun; ip link del minirun0; nft delete table inet minirun").ok();
        if moment == 1 {
            host.soon("the first container's link goes", || !host.sh("ip -o link").ok().contains(": mr"));
            host.settle();
        }
    }
    host.nothing_left();
});

host_test!(minirun_killed_at_ten_times_of_a_start, within 120, |host| {
    for moment in 0..10 {
        let running = host.minirun(["run", "busybox", "sleep", "60"]).start();
        std::thread::sleep(Duration::from_millis(moment * 2));
        running.signal(Signal::SIGKILL);
        assert_eq!(running.wait().code, 137);
        host.minirun(["ps"]).ok();
        host.nothing_left();
    }
});

host_test!(minirun_ended_at_ten_times_of_a_start, within 120, |host| {
    for (moment, signal) in (0..10).zip([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().cycle()) {
        let running = host.minirun(["run", "--init", "busybox", "sleep", "60"]).start();
        std::thread::sleep(Duration::from_millis(moment * 2));
        running.signal(signal);
        let output = running.wait();
        assert_eq!(output.code, 128 + signal as i32, "{output}");
        // Here nothing had to be swept: minirun ended by itself.
        host.nothing_left();
    }
});

host_test!(init_killed_at_ten_times_of_a_start, within 120, |host| {
    for moment in 0..10 {
        let mut running = host.minirun(["run", "busybox", "sleep", "60"]).start();
        let mut init = None;
        host.soon("the container's init appears", || {
            init = running.child();
            init.is_some() || running.has_ended()
        });
        std::thread::sleep(Duration::from_millis(moment));
        kill_hard(init.expect("an init"));
        let output = running.wait();
        // Before its program ran it is a failed start; after that the program died of a signal.
        assert!(output.code == 137 || output.code == 125, "{output}");
        host.nothing_left();
    }
});

host_test!(the_container_dies_with_minirun, |host| {
    for options in [&["--net=bridge"][..], &["--net=none"], &["--net=host"], &["--init"]] {
        let (running, init) = resident(host, options);
        running.signal(Signal::SIGKILL);
        assert_eq!(running.wait().code, 137);
        host.soon("the container dies", || !is_alive(init));
        host.minirun(["ps"]).ok();
        host.nothing_left();
    }
});

host_test!(minirun_cleans_after_a_killed_container, |host| {
    for options in [&["--net=bridge"][..], &["--net=none"], &["--net=host"]] {
        let (running, init) = resident(host, options);
        kill_hard(init);
        let output = running.wait();
        assert_eq!(output.code, 137, "{output}");
        host.nothing_left();
    }
});

host_test!(both_killed, |host| {
    for options in [&["--net=bridge"][..], &["--net=none"]] {
        let (running, init) = resident(host, options);
        running.signal(Signal::SIGKILL);
        kill_hard(init);
        assert_eq!(running.wait().code, 137);
        host.minirun(["ps"]).ok();
        host.nothing_left();
        let (running, init) = resident(host, options);
        kill_hard(init);
        running.signal(Signal::SIGKILL);
        running.wait();
        host.minirun(["ps"]).ok();
        host.nothing_left();
    }
});

host_test!(a_sweep_spares_the_living, |host| {
    let (living, _) = resident(host, &["--name", "living"]);
    let (dead, _) = resident(host, &["--name", "dead"]);
    dead.signal(Signal::SIGKILL);
    dead.wait();
    let listing = host.minirun(["ps"]).ok();
    assert!(listing.contains("living") && !listing.contains("dead"), "{listing}");
    // Its name and its address are free again, and the living one still talks.
    let (again, _) = resident(host, &["--name", "dead"]);
    let gateway = host.sh("ip -o -4 addr show minirun0 | sed 's/.*inet \\([0-9.]*\\).*/\\1/'").ok();
    let pid = living.child().expect("an init");
    host.sh(&format!("nsenter --net=/proc/{pid}/ns/net busybox ping -c 1 -W 1 {}", gateway.trim())).ok();
    assert_eq!(again.wait().code, 0);
    assert_eq!(living.wait().code, 0);
});

host_test!(a_killed_holders_address_is_given_again, within 120, |host| {
    // More dead holders than would fit if their addresses were lost one by one is slow; the lowest address says it as well.
    let address = || host.minirun(["run", "busybox", "hostname", "-i"]).ok();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let (running, _) = resident(host, &[]);
        running.signal(Signal::SIGKILL);
        running.wait();
        host.minirun(["ps"]).ok();
        host.nothing_left();
        seen.insert(address());
        host.nothing_left();
    }
    println!("addresses: {seen:?}");
});

host_test!(a_process_that_escaped_its_parent_dies_too, |host| {
    let script = "sleep 1000 & setsid sleep 1000 & (sleep 1000 &) ; echo started";
    host.minirun(["run", "busybox", "sh", "-c", script]).ok();
    host.minirun(["run", "--init", "busybox", "sh", "-c", script]).ok();
});

host_test!(ps_lists_what_runs, |host| {
    let (running, _) = resident(host, &["--name", "web"]);
    let listing = host.minirun(["ps"]).ok();
    assert!(listing.contains("web") && listing.contains("busybox"), "{listing}");
    running.wait();
    let listing = host.minirun(["ps"]).ok();
    assert!(!listing.contains("web"), "{listing}");
});
