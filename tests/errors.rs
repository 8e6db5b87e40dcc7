//! Bad input: one line, a remedy where there is one, the right exit code, and nothing changed or left.

mod host;

use host::{Host, Output, Running, SystemCall, host_test};

/// The shape of an error: `minirun: verb object: cause`, at most a second line with the remedy, nothing on standard output.
#[track_caller]
fn assert_shape(output: &Output, code: i32, words: &str) {
    assert_eq!(output.code, code, "{output}");
    assert_eq!(output.stdout, "", "{output}");
    assert!(output.stderr.starts_with("minirun: "), "{output}");
    assert!((1..=2).contains(&output.stderr.lines().count()), "{output}");
    assert!(output.stderr.contains(words), "`{words}` is not named: {output}");
    assert!(!output.stderr.chars().any(|c| c.is_control() && c != '\n'), "{output}");
}

/// `run` with these arguments is refused, names `words`, and has changed nothing.
#[track_caller]
fn refused(host: &Host, arguments: &[&str], code: i32, words: &str) {
    let output = host.minirun([&["run"], arguments].concat()).run();
    assert_shape(&output, code, words);
    host.nothing_left();
}

host_test!(an_unknown_image, |host| {
    refused(host, &["nosuch", "true"], 125, "nosuch");
    refused(host, &["../../etc", "true"], 125, "etc");
    refused(host, &["", "true"], 125, "");
});

host_test!(a_program_that_cannot_be_run, |host| {
    for network in ["--net=bridge", "--net=none"] {
        refused(host, &[network, "busybox", "nosuch"], 127, "nosuch");
        refused(host, &[network, "busybox", "/bin/nosuch"], 127, "/bin/nosuch");
        refused(host, &[network, "busybox", "/etc"], 126, "/etc");
        refused(host, &[network, "busybox", "/etc/passwd"], 126, "/etc/passwd");
    }
    refused(host, &["--entrypoint", "nosuch", "busybox"], 127, "nosuch");
    refused(host, &["--init", "busybox", "nosuch"], 127, "nosuch");
});

host_test!(a_bad_network, |host| {
    refused(host, &["--net=bogus", "busybox", "true"], 125, "bogus");
    refused(host, &["--net=", "busybox", "true"], 125, "");
    refused(host, &["--net=NONE", "busybox", "true"], 125, "NONE");
    refused(host, &["--net=bridge:ip=10.214.0.300", "busybox", "true"], 125, "10.214.0.300");
    refused(host, &["-p", "8080:80", "--net=host", "busybox", "true"], 125, "-p");
});

host_test!(a_bad_address, |host| {
    refused(host, &["--dns", "nonsense", "busybox", "true"], 125, "nonsense");
    refused(host, &["--dns", "10.0.0.256", "busybox", "true"], 125, "10.0.0.256");
    refused(host, &["--add-host", "db:nonsense", "busybox", "true"], 125, "nonsense");
    refused(host, &["--add-host", "db", "busybox", "true"], 125, "db");
    refused(host, &["--add-host", "two words:10.0.0.1", "busybox", "true"], 125, "two words");
    refused(host, &["--add-host", "line\nbreak:10.0.0.1", "busybox", "true"], 125, "break");
});

host_test!(bad_options, |host| {
    refused(host, &["--nosuch", "busybox", "true"], 125, "--nosuch");
    refused(host, &[], 125, "");
    refused(host, &["--name", "../../x", "busybox", "true"], 125, "../../x");
    refused(host, &["--name", "", "busybox", "true"], 125, "");
    refused(host, &["--name", &"x".repeat(300), "busybox", "true"], 125, "x");
    refused(host, &["--name", "a\nb", "busybox", "true"], 125, "");
    refused(host, &["--name", "a\x1b[31mb", "busybox", "true"], 125, "");
    refused(host, &["--hostname", "two words", "busybox", "true"], 125, "two words");
    refused(host, &["--hostname", &"x".repeat(65), "busybox", "true"], 125, "x");
    refused(host, &["-u", "nosuch", "busybox", "true"], 125, "nosuch");
    refused(host, &["-u", "0:nosuch", "busybox", "true"], 125, "nosuch");
    for id in ["4294967295", "4294967296", "-1", "99999999999999999999"] {
        refused(host, &[&format!("--user={id}"), "busybox", "true"], 125, &format!("{id}` is not a user id"));
    }
    refused(host, &["-w", "relative", "busybox", "true"], 125, "relative");
    refused(host, &["--ulimit", "nosuch=1", "busybox", "true"], 125, "nosuch");
    refused(host, &["--ulimit", "nofile=200:100", "busybox", "true"], 125, "nofile");
    refused(host, &["--ulimit", "nofile=many", "busybox", "true"], 125, "many");
    refused(host, &["--sysctl", "net.nosuch=1", "busybox", "true"], 125, "net.nosuch");
    refused(host, &["--sysctl", "net.ipv4.ip_forward", "busybox", "true"], 125, "net.ipv4.ip_forward");
    refused(host, &["--sysctl", "net.../../kernel.panic=1", "busybox", "true"], 125, "net");
    refused(host, &["--cap-add", "NOSUCH", "busybox", "true"], 125, "NOSUCH");
    refused(host, &["--cap-drop", "NOSUCH", "busybox", "true"], 125, "NOSUCH");
    refused(host, &["-e", "=value", "busybox", "true"], 125, "=value");
    refused(host, &["--env-file", "/nosuch", "busybox", "true"], 125, "/nosuch");
    refused(host, &["--tmpfs", "relative", "busybox", "true"], 125, "relative");
    refused(host, &["--rootfs", "/nosuch", "true"], 125, "/nosuch");
    refused(host, &["--rootfs", "/etc/passwd", "true"], 125, "/etc/passwd");
});

host_test!(bad_volumes, |host| {
    refused(host, &["-v", "/nosuch:/data", "busybox", "true"], 125, "/nosuch");
    refused(host, &["-v", "/etc:data", "busybox", "true"], 125, "data");
    refused(host, &["-v", "/etc:/data:bogus", "busybox", "true"], 125, "bogus");
    refused(host, &["-v", ":/data", "busybox", "true"], 125, ":/data");
    refused(host, &["-v", "/etc:/", "busybox", "true"], 125, "/");
    // Over these the masks would go.
    for place in ["/proc", "/proc/sys", "/sys", "/sys/fs"] {
        refused(host, &["-v", &format!("/etc:{place}"), "busybox", "true"], 125, place);
    }
});

host_test!(bad_commands, |host| {
    for arguments in [&["nosuch"][..], &[], &["image"], &["image", "nosuch"], &["ps", "--nosuch"], &["image", "rm"]] {
        let output = host.minirun(arguments).run();
        assert_eq!(output.code, 125, "{output}");
        assert_eq!(output.stdout, "", "{output}");
        assert!(!output.stderr.is_empty() && !output.stderr.contains("panicked"), "{output}");
    }
    assert_shape(&host.minirun(["image", "rm", "nosuch"]).run(), 125, "nosuch");
    let help = host.minirun(["run", "--help"]).ok();
    for option in ["--net", "--name", "--volume", "--read-only", "--cap-add", "--dry-run"] {
        assert!(help.contains(option), "{option} is not in the help");
    }
});

host_test!(a_name_in_use, |host| {
    let mut running =
        host.minirun(["run", "-i", "--name", "web", "busybox", "sh", "-c", "echo ready; cat"]).held().start();
    running.says("ready");
    assert_shape(&host.minirun(["run", "--name", "web", "busybox", "true"]).run(), 125, "web");
    // The one that runs is not disturbed.
    assert!(host.minirun(["ps"]).ok().contains("web"));
    assert_eq!(running.wait().code, 0);
});

host_test!(a_name_taken_twice_at_once, |host| {
    let start =
        || host.minirun(["run", "-i", "--name", "web", "busybox", "sh", "-c", "echo ready; cat"]).held().start();
    let mut all: Vec<_> = (0..8).map(|_| start()).collect();
    host.soon("one has the name", || all.iter_mut().filter_map(|one| one.has_ended().then_some(())).count() == 7);
    let codes: Vec<_> = all.into_iter().map(|one| one.wait().code).collect();
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 125).count(), 7, "{codes:?}");
});

host_test!(not_root, |host| {
    // Where another user can reach it.
    host.sh("cp $MINIRUN /tmp/minirun").ok();
    for arguments in
        ["run busybox true", "run --net=none busybox true", "run --net=host busybox true", "ps", "image ls"]
    {
        let output =
            host.sh(&format!("exec setpriv --reuid 1000 --regid 1000 --clear-groups /tmp/minirun {arguments}")).run();
        // Listing needs no right where there is nothing to hide.
        assert!(output.code == 125 || (output.code == 0 && !arguments.starts_with("run")), "{output}");
        if output.code == 125 {
            assert_shape(&output, 125, "root");
            assert_eq!(output.stderr.lines().count(), 2, "a remedy is known: {output}");
        }
    }
    std::fs::remove_file("/tmp/minirun").expect("rm");
});

host_test!(a_missing_kernel_feature, |host| {
    // A kernel without the call, or a policy against it.
    for (call, error) in
        [("clone3", "EPERM"), ("clone3", "ENOSYS"), ("mount", "EPERM"), ("pivot_root", "EINVAL"), ("prctl", "EINVAL")]
    {
        let line = format!("strace -f -qq -o /dev/null -e inject={call}:error={error} $MINIRUN run busybox true");
        let output = host.sh(&line).run();
        assert_shape(&output, 125, "");
        host.nothing_left();
    }
});

/// minirun ended, one way or the other, and not by a mistake of its own.
#[track_caller]
fn assert_orderly(host: &Host, call: &SystemCall, mut running: Running) {
    host.soon(&format!("it ends although {call:?} fails"), || running.has_ended());
    let output = running.wait();
    // Rust's own start gives up like this, before `main`.
    let in_rusts_start = output.stderr.contains("stack_overflow.rs");
    assert!(in_rusts_start || !output.stderr.contains("panicked"), "{call:?}: {output}");
}

host_test!(any_call_fails, within 300, |host| {
    // Whatever call of minirun fails: no panic, no hanging, and nothing stays.
    let calls = host.calls("run busybox true");
    // These do not fail, and libraries rely on it (the `flock` that unlocks); a `close` that is tampered with closes nothing.
    let can_fail = |call: &SystemCall| !["exit_group", "getrandom", "close", "flock"].contains(&call.name.as_str());
    for (done, call) in calls.iter().enumerate().filter(|(_, call)| can_fail(call)) {
        assert_orderly(host, call, host.tampered("run busybox true", call, "error=ENOMEM").start());
        host.minirun(["ps"]).ok();
        if done % 25 == 0 {
            host.nothing_left();
        }
    }
});

host_test!(any_call_of_the_child_fails, within 300, |host| {
    let (parents, calls) = (host.calls("run busybox true"), host.calls_of_the_child("run busybox true"));
    for call in calls.iter().filter(|call| !parents.contains(call)) {
        assert_orderly(host, call, host.tampered_below("run busybox true", call, "error=ENOMEM").start());
    }
});

host_test!(cold no_space_for_the_image, |host| {
    std::fs::create_dir("/var/lib/minirun").expect("mkdir");
    host.sh("mount -n -t tmpfs -o size=256k small /var/lib/minirun").ok();
    let output = host.minirun(["run", "busybox", "true"]).run();
    assert_shape(&output, 125, "space");
    let files = host.sh("find /var/lib/minirun -type f").ok();
    assert!(!files.contains("bin/"), "half an image stays: {files}");
    assert!(!host.minirun(["image", "ls"]).ok().contains("busybox"), "half an image is listed");
    host.sh("umount -n /var/lib/minirun").ok();
    host.minirun(["run", "busybox", "true"]).ok();
});

host_test!(no_space_for_the_state, |host| {
    host.sh("mount -n -t tmpfs -o size=4k,nr_inodes=3,mode=700 small /run/minirun").ok();
    host.settle();
    let output = host.minirun(["run", "busybox", "true"]).run();
    assert_shape(&output, 125, "space");
    host.minirun(["ps"]).run();
    host.nothing_left();
    host.sh("umount -n /run/minirun").ok();
    host.minirun(["run", "busybox", "true"]).ok();
    host.settle();
});

host_test!(no_address_is_free, within 180, |host| {
    // A bridge takes a thousand ports: the pool is used up on paper, by routes to all it can choose from.
    host.sh("ip link add other type bridge; ip addr add 10.214.0.1/15 dev other; ip link set other up").ok();
    host.sh("ip link del minirun0").ok();
    let output = host.minirun(["run", "busybox", "true"]).run();
    // Either there is a range elsewhere, or an error that says so.
    assert!(output.code == 0 || (output.code == 125 && output.stderr.starts_with("minirun: ")), "{output}");
    host.settle();
});

host_test!(an_error_that_nobody_can_read, |host| {
    // The exit code says it still.
    for (words, code) in [("run nosuch true", 125), ("run busybox nosuch", 127), ("nosuch", 125)] {
        for place in ["/dev/full", "&-"] {
            let output = host.sh(&format!("exec $MINIRUN {words} 2>{place}")).run();
            assert_eq!(output.code, code, "2>{place}: {output}");
        }
    }
});
