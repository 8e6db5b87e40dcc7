//! The filter of system calls as a program in a container meets it: `seccomp/probe.c` tries calls and prints the answers.

mod host;

use host::{Directory, Host, host_test};

/// The static program that tries.
struct Probe<'a>(&'a Host, Directory);

impl<'a> Probe<'a> {
    fn new(host: &'a Host) -> Self {
        let directory = host.directory("probe");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/seccomp/probe.c");
        host.sh(&format!("cc -O1 -static -fno-pie -no-pie -o {}/probe {source}", directory.text())).ok();
        Self(host, directory)
    }

    /// What the calls are answered in a container with these options: `name answer` a line.
    fn answers(&self, options: &[&str], calls: &str) -> String {
        let volume = format!("{}:/t:ro", self.1.text());
        let mut words = vec!["run", "--net=none", "-v", &volume];
        words.extend(options);
        words.extend(["busybox", "/t/probe"]);
        words.extend(calls.split_whitespace());
        self.0.minirun(words).ok()
    }

    #[track_caller]
    fn tells(&self, options: &[&str], expected: &[(&str, &str)]) {
        let calls: Vec<&str> = expected.iter().map(|(call, _)| *call).collect();
        let wanted: String = expected.iter().map(|(call, answer)| format!("{call} {answer}\n")).collect();
        assert_eq!(self.answers(options, &calls.join(" ")), wanted, "{options:?}");
    }
}

host_test!(what_is_shut_by_default_is_refused, |host| {
    let probe = Probe::new(host);
    probe.tells(
        &[],
        &[
            ("family:40", "EAFNOSUPPORT"),
            ("family:0x100000028", "EAFNOSUPPORT"),
            ("family:38", "EAFNOSUPPORT"),
            ("family:44", "EAFNOSUPPORT"),
            ("family:0x10000002c", "EAFNOSUPPORT"),
            ("socketpair:tipc", "EAFNOSUPPORT"),
            ("family:1", "ok"),
            ("family:2", "ok"),
            ("family:10", "ok"),
            ("io_uring_setup", "EPERM"),
            ("io_uring_enter", "EPERM"),
            ("io_uring_register", "EPERM"),
            ("clone", "EPERM"),
            ("clone-high", "EPERM"),
            ("clone3", "ENOSYS"),
            ("unshare", "EPERM"),
            ("setns", "EPERM"),
            ("add_key", "EPERM"),
            ("request_key", "EPERM"),
            ("keyctl", "EPERM"),
            ("tiocsti", "EPERM"),
            ("tiocsti-high", "EPERM"),
            ("tioclinux", "EPERM"),
            ("tcgets", "EBADF"),
            ("personality-high", "EPERM"),
            ("syslog", "EPERM"),
            ("perf_event_open", "EPERM"),
            ("bpf", "EPERM"),
            ("userfaultfd", "EPERM"),
            ("kexec_load", "EPERM"),
            ("open_by_handle_at", "EPERM"),
            ("mount", "EPERM"),
            ("new", "ENOSYS"),
        ],
    );
});

// Each is answered by the kernel, by another error than the filter's.
host_test!(each_switch_opens_what_it_names, |host| {
    let probe = Probe::new(host);
    probe.tells(
        &["--security-opt", "allow=userns"],
        &[("clone", "ok"), ("clone3", "EINVAL"), ("setns", "EBADF"), ("unshare", "ok"), ("keyctl", "EPERM")],
    );
    probe.tells(
        &["--security-opt", "allow=keyring"],
        &[("add_key", "EFAULT"), ("request_key", "EFAULT"), ("keyctl", "EOPNOTSUPP"), ("tiocsti", "EPERM")],
    );
    probe.tells(
        &["--security-opt", "allow=tiocsti"],
        &[("tiocsti", "EBADF"), ("tiocsti-high", "EBADF"), ("tioclinux", "EBADF"), ("clone", "EPERM")],
    );
    let calls = "io_uring_setup io_uring_enter io_uring_register";
    let io_uring = probe.answers(&["--security-opt", "allow=io_uring"], calls);
    assert_eq!(io_uring, probe.answers(&["--security-opt", "seccomp=unconfined"], calls));
    assert!(!io_uring.contains("EPERM"), "this kernel has it turned off, so nothing is shown: {io_uring}");
});

// Which families a kernel has is its own matter: with the switch it is as without a filter.
host_test!(families_are_opened_one_by_one_or_all, |host| {
    let probe = Probe::new(host);
    let all: Vec<String> = (0..50).map(|family| format!("family:{family}")).collect();
    let unconfined = probe.answers(&["--security-opt", "seccomp=unconfined"], &all.join(" "));
    assert_eq!(probe.answers(&["--security-opt", "allow=sockets"], &all.join(" ")), unconfined);
    let odd: Vec<(&str, &str)> =
        [("alg", "family:38"), ("vsock", "family:40"), ("xdp", "family:44"), ("can", "family:29")]
            .into_iter()
            .filter(|(_, call)| {
                unconfined.lines().any(|line| line.starts_with(&format!("{call} ")) && !line.ends_with("EAFNOSUPPORT"))
            })
            .collect();
    assert!(!odd.is_empty(), "this kernel has none of the odd families, so nothing is shown: {unconfined}");
    for (name, call) in &odd {
        let open = probe.answers(&["--security-opt", &format!("allow={name}")], call);
        assert!(unconfined.contains(&open), "{name}: {open}");
        let other = odd.iter().find(|(other, _)| other != name);
        if let Some((_, other)) = other {
            let shut = probe.answers(&["--security-opt", &format!("allow={name}")], other);
            assert_eq!(shut, format!("{other} EAFNOSUPPORT\n"));
        }
    }
});

// With CAP_SYS_ADMIN docker opens namespaces and mounts; the user namespace stays shut until it is named.
host_test!(capabilities_open_what_goes_with_them, |host| {
    let probe = Probe::new(host);
    probe.tells(
        &["--cap-add", "SYS_ADMIN"],
        &[("mount", "EFAULT"), ("unshare", "EPERM"), ("clone", "EPERM"), ("clone3", "ENOSYS"), ("setns", "EPERM")],
    );
    probe.tells(&["--cap-add", "SYS_ADMIN", "--security-opt", "allow=userns"], &[("clone", "ok")]);
});

#[cfg(target_arch = "x86_64")]
host_test!(other_entries_of_the_kernel_are_no_way_around, |host| {
    let probe = Probe::new(host);
    // Where the kernel runs no 32-bit programs, a probe of that kind dies.
    let calls = [
        ("i386:getpid", "ok"),
        ("i386:keyctl", "EPERM"),
        ("i386:socket:40", "EAFNOSUPPORT"),
        ("i386:socketcall", "ENOSYS"),
        ("i386:tiocsti", "EPERM"),
        ("i386:io_uring_setup", "EPERM"),
        ("i386:clone", "EPERM"),
        ("x32:getpid", "ENOSYS"),
    ];
    probe.tells(&[], &calls);
    probe.tells(&["--security-opt", "allow=socketcall"], &[("i386:socketcall", "ok")]);
    probe.tells(&["--security-opt", "allow=keyring"], &[("i386:keyctl", "EOPNOTSUPP")]);
});

host_test!(every_program_is_under_one_filter, |host| {
    let show = "grep -E '^(Seccomp|NoNewPrivs)' /proc/self/status";
    let status = |options: &[&str]| {
        let mut words = vec!["run", "--net=none"];
        words.extend(options);
        words.extend(["busybox", "sh", "-c", show]);
        host.minirun(words).ok().replace('\t', " ")
    };
    let under = "NoNewPrivs: 1\nSeccomp: 2\nSeccomp_filters: 1\n";
    for options in [&[][..], &["--user", "1000"], &["--cap-drop", "ALL"], &["--cap-add", "ALL"], &["-t"]] {
        assert_eq!(status(options).replace('\r', ""), under, "{options:?}");
    }
    let with_privileges = "NoNewPrivs: 0\nSeccomp: 2\nSeccomp_filters: 1\n";
    for options in [&[][..], &["--user", "1000"], &["--cap-drop", "ALL", "--security-opt", "allow=alg"]] {
        let options = [&["--security-opt", "no-new-privileges=false"], options].concat();
        assert_eq!(status(&options), with_privileges, "{options:?}");
    }
    let none = status(&["--security-opt", "seccomp=unconfined"]);
    assert_eq!(none, "NoNewPrivs: 1\nSeccomp: 0\nSeccomp_filters: 0\n");
});

host_test!(a_profile_of_ones_own_is_obeyed, |host| {
    let directory = host.directory("profiles");
    let profile = directory.file(
        "own.json",
        r#"{"defaultAction":"SCMP_ACT_ALLOW","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],
            "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95},
                        {"names":["chroot"],"action":"SCMP_ACT_ERRNO","excludes":{"caps":["CAP_SYS_CHROOT"]}},
                        {"names":["kill"],"action":"SCMP_ACT_KILL_PROCESS","args":[{"index":1,"value":17,"op":"SCMP_CMP_EQ"}]}]}"#,
    );
    let option = format!("seccomp={profile}");
    let run = |more: &[&str], script: &str| {
        let mut words = vec!["run", "--net=none", "--security-opt", &option];
        words.extend(more);
        words.extend(["busybox", "sh", "-c", script]);
        host.minirun(words)
    };
    let said = run(&[], "mkdir /tmp/x 2>&1; chroot / echo in").ok();
    assert!(said.contains("not supported") && said.contains("in\n"), "{said}");
    assert!(run(&["--cap-drop", "SYS_CHROOT"], "chroot / echo in").run().stderr.contains("not permitted"));
    // SIGSYS, where the default action of the signal itself is to do nothing.
    run(&[], "kill -17 $$").fails(159);
});

host_test!(a_profile_that_cannot_be_used_is_refused_before_anything_is_made, |host| {
    let directory = host.directory("profiles");
    let huge = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","x":"{}"}}"#, "x".repeat(2 << 20));
    let long: Vec<String> = (0..3000)
        .map(|value| format!(r#"{{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{{"index":0,"value":{value},"op":"SCMP_CMP_EQ"}}]}}"#))
        .collect();
    let long = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{}]}}"#, long.join(","));
    let notify = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY"}]}"#;
    for (name, text, part) in [
        ("deep", "[".repeat(100_000), "it is no profile"),
        ("huge", huge, "larger than 1 MiB"),
        ("long", long, "more than 4096 instructions"),
        ("notify", notify.to_owned(), "SCMP_ACT_NOTIFY"),
    ] {
        let option = format!("seccomp={}", directory.file(name, &text));
        let said = host.minirun(["run", "--security-opt", &option, "busybox", "true"]).fails(125);
        assert!(said.contains("use seccomp profile `") && said.contains(part), "{name}: {said}");
    }
    for (option, part) in [
        ("seccomp=/no/such/file", "No such file"),
        ("allow=everything", "there is nothing of this name"),
        ("apparmor=x", "it is unknown"),
    ] {
        let said = host.minirun(["run", "--security-opt", option, "busybox", "true"]).fails(125);
        assert!(said.contains(part), "{option}: {said}");
    }
});

host_test!(each_container_has_a_session_keyring_of_its_own, |host| {
    let probe = Probe::new(host);
    let id = |said: String| said.trim().strip_prefix("session ").map(str::to_owned).expect("an id");
    let own = id(host.sh(&format!("{}/probe session", probe.1.text())).ok());
    let one = id(probe.answers(&["--security-opt", "allow=keyring"], "session"));
    let other = id(probe.answers(&["--security-opt", "allow=keyring"], "session"));
    assert!(own != one && one != other && other != own, "{own} {one} {other}");
    assert!(one.parse::<i64>().is_ok_and(|id| id > 0), "{one}");
});
