//! Whatever dies, whenever it dies: after the next minirun command everything is as it was.
//!
//! Each test's comparison at its end is the point; see host/mod.rs.

mod host;

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

host_test!(minirun_killed_at_twelve_moments_of_a_run, within 120, |host| {
    let mut calls = host.calls("run busybox true");
    // How many of these the sweep makes differs from run to run.
    calls.retain(|call| call.name != "getdents64");
    for moment in 1..=12 {
        let call = &calls[calls.len() * moment / 13];
        assert_eq!(host.tampered("run busybox true", call, "signal=KILL").run().code, 137, "{call:?}");
        host.minirun(["ps"]).ok();
        host.nothing_left();
    }
});

host_test!(minirun_killed_at_every_call, within 300, |host| {
    let calls = host.calls("run busybox true");
    let mut killed = 0;
    for (done, call) in calls.iter().enumerate() {
        killed += usize::from(host.tampered("run busybox true", call, "signal=KILL").run().code == 137);
        host.minirun(["ps"]).ok();
        // Rarely, because the kernel takes its time for each namespace.
        if done % 25 == 0 {
            host.nothing_left();
        }
    }
    // A call or two are not made each time (a read that was short).
    assert!(killed * 10 >= calls.len() * 9, "{killed} of {} were killed", calls.len());
});

host_test!(the_child_killed_at_every_call, within 300, |host| {
    let (parents, calls) = (host.calls("run busybox true"), host.calls_of_the_child("run busybox true"));
    // Only calls that the parent does not make so often can be met in the child alone.
    let mut met = 0;
    for call in calls.iter().filter(|call| !parents.contains(call)) {
        let output = host.tampered_below("run busybox true", call, "signal=KILL").run();
        // 0: this time the child did not make it.
        assert!([0, 125, 137].contains(&output.code), "{call:?}: {output}");
        met += usize::from(output.code != 0);
        if met % 20 == 0 {
            host.nothing_left();
        }
    }
    assert!(met > 10, "{met} calls of the child were met");
});

host_test!(thirty_killed_then_a_run, within 120, |host| {
    let calls = host.calls("run busybox true");
    for moment in 0..30 {
        host.tampered("run busybox true", &calls[calls.len() * moment / 30], "signal=KILL").run();
    }
    host.minirun(["run", "busybox", "true"]).ok();
});

host_test!(cold a_first_run_killed_at_twenty_moments, within 120, |host| {
    // The image, the bridge and the rules are half made.
    let calls = host.calls("run busybox true");
    let anew = || {
        host.soon("the container's link goes", || !host.sh("ip -o link").ok().contains(": mr"));
        host.sh("rm -rf /run/minirun /var/lib/minirun; ip link del minirun0; nft delete table inet minirun").run();
    };
    anew();
    let mut killed = 0;
    for moment in 1..=20 {
        let call = &calls[calls.len() * moment / 21];
        killed += usize::from(host.tampered("run busybox true", call, "signal=KILL").run().code == 137);
        host.minirun(["run", "busybox", "true"]).ok();
        anew();
        if moment == 1 {
            host.settle();
        }
    }
    // A call or two are not made each time.
    assert!(killed >= 15, "{killed} of 20 were killed");
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
