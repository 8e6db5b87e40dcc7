//! What a program finds inside: its files, its devices, its rights; and how it ends. What options give it is in tests/options.rs.

mod host;

use std::collections::BTreeMap;
use std::fs;

use host::{Host, host_test};
use nix::sys::signal::Signal;

/// What a shell script says in a container with these options.
fn script(host: &Host, options: &[&str], script: &str) -> String {
    host.minirun([&["run"], options, &["busybox", "sh", "-c", script]].concat()).ok()
}

/// The lines `Name: value` of /proc/self/status, of the container's first process.
fn status(host: &Host, options: &[&str]) -> BTreeMap<String, String> {
    let said = host.minirun([&["run"], options, &["busybox", "cat", "/proc/self/status"]].concat()).ok();
    let pair = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    said.lines().filter_map(pair).collect()
}

fn capabilities(status: &BTreeMap<String, String>, set: &str) -> u64 {
    u64::from_str_radix(&status[set], 16).expect("a set")
}

const CHOWN: u64 = 1 << 0;
const NET_ADMIN: u64 = 1 << 12;
const NET_RAW: u64 = 1 << 13;

host_test!(namespaces_are_its_own, |host| {
    for kind in ["mnt", "pid", "uts", "ipc", "cgroup", "net"] {
        let link = format!("/proc/self/ns/{kind}");
        let (inside, outside) =
            (script(host, &[], &format!("readlink {link}")), host.sh(&format!("readlink {link}")).ok());
        assert_ne!(inside, outside, "{kind}");
    }
    assert_eq!(script(host, &[], "echo $$"), "1\n");
    let processes = script(host, &[], "ls -d /proc/[0-9]*");
    assert!(processes.lines().count() <= 2, "{processes}");
});

host_test!(the_image_never_changes, |host| {
    script(host, &[], "echo changed >/etc/passwd; rm /bin/vi; mkdir /new; chmod 700 /bin; touch /bin/busybox");
    let said = script(host, &[], "cat /etc/passwd; ls -d /bin/vi /new 2>&1; stat -c %a /bin");
    assert!(!said.contains("changed") && said.contains("/bin/vi\n") && said.contains("755"), "{said}");
    assert!(said.contains("/new: No such file"), "{said}");
});

host_test!(the_hosts_files_are_out_of_sight, |host| {
    host.write("/tmp/secret", "of the host");
    let said = script(
        host,
        &[],
        "cat /tmp/secret /proc/1/root/tmp/secret /../tmp/secret 2>/dev/null; cat /proc/self/mountinfo; ls -a /",
    );
    assert!(!said.contains("of the host") && !said.contains("oldroot") && !said.contains(".old"), "{said}");
    let places: Vec<_> = said.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    assert!(!places.iter().any(|place| place.starts_with("/var/lib") || place.starts_with("/run/")), "{said}");
    fs::remove_file("/tmp/secret").expect("rm");
});

host_test!(nothing_propagates, |host| {
    let said = script(host, &[], "cut -d ' ' -f 7- /proc/self/mountinfo");
    assert!(!said.contains("shared:"), "{said}");
    // Mounts that the container makes, with the right to, are not seen outside: the comparison at the end tells. Nor where the
    // host's mounts are shared with whoever copies them, as systemd makes them.
    let shared = host.directory("shared");
    let volume = format!("{}:/shared", shared.text());
    for kind in ["private", "shared"] {
        host.sh(&format!("mount --make-{kind} /; mount --make-{kind} /tmp")).ok();
        let before = host.sh("cat /proc/self/mountinfo").ok();
        let mounts = "mkdir /m /shared/m; mount -t tmpfs none /m && mount -t tmpfs none /shared/m && echo mounted; \
            cut -d ' ' -f 7- /proc/self/mountinfo | grep shared:; umount /shared/m; rmdir /shared/m";
        assert_eq!(script(host, &["--cap-add", "SYS_ADMIN", "-v", &volume], mounts), "mounted\n");
        assert_eq!(host.sh("cat /proc/self/mountinfo").ok(), before, "{kind}");
    }
    host.sh("mount --make-private /; mount --make-private /tmp").ok();
});

host_test!(sys_and_proc_sys_are_read_only, |host| {
    let said = script(
        host,
        &[],
        "grep -E ' (/sys|/proc/sys) ' /proc/mounts; for f in /sys/new /proc/sys/net/ipv4/ip_forward /proc/sysrq-trigger /proc/irq/new /proc/bus/new /proc/fs/new; do (echo 0 >$f) 2>/dev/null && echo wrote $f; done; true",
    );
    assert!(!said.contains("wrote"), "{said}");
    let read_only = |place: &str| {
        said.lines().any(|line| {
            line.contains(place)
                && line.split(' ').nth(3).is_some_and(|options| options.split(',').any(|option| option == "ro"))
        })
    };
    assert!(read_only(" /sys "), "{said}");
    // Docker mounts it again, read-only.
    assert!(read_only(" /proc/sys "), "{said}");
});

host_test!(masked_paths_are_empty, |host| {
    let list = "for f in /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats /proc/sched_debug /proc/interrupts; do \
                [ -e $f ] && [ -n \"$(head -c 1 $f 2>/dev/null | tr '\\0' x)\" ] && echo reads $f; done; \
                for d in /proc/acpi /proc/asound /proc/scsi /sys/firmware /sys/devices/virtual/powercap; do \
                [ -n \"$(ls -A $d 2>/dev/null)\" ] && echo lists $d; done; \
                ls -d /sys/devices/system/cpu/cpu*/thermal_throttle/* 2>/dev/null; true";
    assert_eq!(script(host, &[], list), "");
});

host_test!(dev_has_the_usual_nodes, |host| {
    let checks = "for d in null zero full random urandom tty; do test -c /dev/$d || echo no $d; done
        test \"$(readlink /dev/fd)\" = /proc/self/fd || echo no fd
        for l in stdin stdout stderr; do test -L /dev/$l || echo no $l; done
        test -e /dev/ptmx || echo no ptmx
        for m in /dev /dev/pts /dev/shm /dev/mqueue /proc /sys; do grep -q \" $m \" /proc/mounts || echo $m is no mount; done
        echo x >/dev/null || echo null
        test $(head -c 4 /dev/zero | wc -c) = 4 || echo zero
        test $(head -c 4 /dev/urandom | wc -c) = 4 || echo urandom
        (echo x >/dev/full) 2>/dev/null && echo full
        echo x >/dev/shm/x || echo shm
        echo x | cat /dev/stdin >/dev/stdout | grep -v x
        ls /dev | grep -vxE 'console|core|fd|full|mqueue|null|ptmx|pts|random|shm|stderr|stdin|stdout|tty|urandom|zero'
        true";
    assert_eq!(script(host, &[], checks), "");
});

host_test!(a_disk_cannot_be_read, |host| {
    // One that has something to read.
    let disks = "for b in /sys/class/block/*; do [ $(cat $b/size) = 0 ] || cat $b/dev; done | head -n 1 | tr : ' '";
    let disk = host.sh(disks).ok();
    let check = format!(
        "for d in /tmp /dev /dev/shm /root; do mknod $d/disk b {} 2>/dev/null && head -c 1 $d/disk 2>/dev/null; done; true",
        disk.trim()
    );
    assert_eq!(script(host, &[], &check), "");
    assert_eq!(script(host, &["--tmpfs", "/scratch"], &check.replace("/root", "/scratch")), "");
});

host_test!(capabilities_are_dockers_less_net_raw, |host| {
    // CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE SYS_CHROOT MKNOD AUDIT_WRITE SETFCAP.
    let docker: u64 = 0xa804_25fb;
    let status = status(host, &[]);
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(capabilities(&status, set), docker & !NET_RAW, "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(capabilities(&status, set), 0, "{set}");
    }
    assert_eq!(status["NoNewPrivs"], "1");
});

host_test!(capabilities_are_added_and_dropped, |host| {
    let of = |options: &[&str]| capabilities(&status(host, options), "CapEff");
    let standard = of(&[]);
    assert_eq!(of(&["--cap-add", "NET_RAW"]), standard | NET_RAW);
    assert_eq!(of(&["--cap-add=cap_net_admin", "--cap-drop=CHOWN"]), (standard | NET_ADMIN) & !CHOWN);
    assert_eq!(of(&["--cap-drop", "ALL"]), 0);
    assert_eq!(of(&["--cap-drop", "ALL", "--cap-add", "CHOWN"]), CHOWN);
    assert_eq!(of(&["--cap-add", "ALL"]), capabilities(&status(host, &["--cap-add", "ALL"]), "CapBnd"));
    assert!(of(&["--cap-add", "ALL"]) & NET_ADMIN != 0);
    // A user other than root has none, and cannot get any.
    let user = status(host, &["-u", "1000"]);
    assert_eq!(
        (capabilities(&user, "CapEff"), capabilities(&user, "CapPrm"), capabilities(&user, "CapInh")),
        (0, 0, 0)
    );
});

host_test!(ping_works_without_net_raw, |host| {
    for user in ["0", "1000:1000"] {
        host.minirun(["run", "-u", user, "busybox", "ping", "-c", "1", "-W", "1", "192.0.2.1"]).ok();
    }
});

host_test!(no_descriptor_leaks_in, |host| {
    let list = "set -- /proc/1/fd/*; for f; do [ -e $f ] && echo ${f##*/}; done; true";
    let call = |options: &str| {
        let line =
            format!("exec 5</etc/passwd 9</ 8>/dev/shm/leak; exec $MINIRUN run {options} busybox sh -c '{list}'");
        let said = host.sh(&line).ok();
        fs::remove_file("/dev/shm/leak").expect("rm");
        said
    };
    for options in ["", "--net=none", "--net=host", "-i", "--init"] {
        assert_eq!(call(options), "0\n1\n2\n", "`run {options}`");
    }
});

host_test!(signals_are_reset, |host| {
    let line = "trap '' INT HUP PIPE QUIT USR1; exec $MINIRUN run busybox cat /proc/self/status";
    for said in [host.sh(line).ok(), host.minirun(["run", "busybox", "cat", "/proc/self/status"]).ok()] {
        for mask in ["SigBlk", "SigIgn"] {
            assert!(said.contains(&format!("{mask}:\t0000000000000000")), "{mask} in {said}");
        }
    }
});

host_test!(an_odd_image_is_held, |host| {
    // Where the runtime mounts or writes, an image can have prepared a link. None leads out: see the comparison at the end.
    let victim = host.directory("victim");
    victim.file("text", "untouched");
    let traps = [
        "ln -s /tmp/victim proc",
        "ln -s /tmp/victim sys",
        "ln -s /tmp/victim dev",
        "ln -s ../../../../../tmp/victim dev",
        "mkdir dev; ln -s /proc/sys/kernel/core_pattern dev/null",
        "mkdir dev; ln -s /tmp/victim dev/pts; ln -s /tmp/victim dev/shm; ln -s /tmp/victim/text dev/console",
        "ln -s /tmp/victim etc",
        "mkdir etc; for f in hosts hostname resolv.conf; do ln -s /tmp/victim/text etc/$f; done",
        "mkdir etc; for f in hosts hostname resolv.conf; do ln -s ../../../../../../../tmp/victim/text etc/$f; done",
        "mkdir etc; mkdir etc/hosts; mkfifo etc/hostname; ln -s resolv.conf etc/resolv.conf",
        "touch proc sys dev etc",
    ];
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("read");
    for trap in traps {
        let root = host.directory("root");
        let make = "mkdir bin; cp $(command -v busybox) bin/busybox; ln -s busybox bin/sh; ln -s busybox bin/grep";
        host.sh(&format!("cd {}; {make}; {trap}", root.text())).ok();
        let mut running = host
            .minirun(["run", "--rootfs", root.text(), "sh", "-c", "grep -q '^[a-z]* /proc proc ' /proc/mounts"])
            .start();
        host.soon(&format!("it ends in spite of `{trap}`"), || running.has_ended());
        let output = running.wait();
        // It is refused, or the container has what it should have.
        assert!(
            output.code == 0 || (output.code == 125 && output.stderr.starts_with("minirun: ")),
            "`{trap}`: {output}"
        );
        assert_eq!(host.sh("ls -A /tmp/victim; cat /tmp/victim/text").ok(), "text\nuntouched", "{trap}");
        assert_eq!(fs::read_to_string("/proc/sys/kernel/core_pattern").expect("read"), pattern, "{trap}");
    }
});

host_test!(a_directory_is_a_root_file_system, |host| {
    let root = host.directory("root");
    host.sh(&format!("mkdir -p {0}/bin; cp $(command -v busybox) {0}/bin/busybox; for p in sh echo touch ls cat; do ln -s busybox {0}/bin/$p; done", root.text())).ok();
    assert_eq!(host.minirun(["run", "--rootfs", root.text(), "/bin/echo", "hello"]).ok(), "hello\n");
    let said =
        host.minirun(["run", "--rootfs", root.text(), "sh", "-c", "ls /proc/1 >/dev/null && cat /etc/hosts"]).ok();
    assert!(said.contains("localhost"), "{said}");
});

host_test!(exit_codes_come_through, |host| {
    let code = |arguments: &[&str]| host.minirun([&["run", "busybox"], arguments].concat()).run().code;
    assert_eq!(code(&["true"]), 0);
    assert_eq!(code(&["sh", "-c", "exit 7"]), 7);
    assert_eq!(code(&["sh", "-c", "exit 255"]), 255);
    assert_eq!(code(&["/nosuch"]), 127);
    assert_eq!(code(&["nosuch"]), 127);
    assert_eq!(code(&["/etc"]), 126);
    assert_eq!(code(&["/etc/passwd"]), 126);
    // Below init, where a program can die of a signal.
    for (name, number) in [("KILL", 9), ("TERM", 15), ("SEGV", 11)] {
        let output = host.minirun(["run", "--init", "busybox", "sh", "-c", &format!("kill -{name} $$")]).run();
        assert_eq!(output.code, 128 + number, "{output}");
    }
});

host_test!(signals_are_forwarded, |host| {
    let trap = "trap 'exit 3' TERM; trap 'exit 4' HUP; trap 'exit 5' INT; trap 'exit 6' USR1; trap 'exit 7' QUIT; echo ready; while :; do sleep 0.05; done";
    let signals =
        [(Signal::SIGTERM, 3), (Signal::SIGHUP, 4), (Signal::SIGINT, 5), (Signal::SIGUSR1, 6), (Signal::SIGQUIT, 7)];
    for options in [&["run"][..], &["run", "--init"]] {
        for (signal, code) in signals {
            let mut running = host.minirun([options, &["busybox", "sh", "-c", trap]].concat()).start();
            running.says("ready");
            running.signal(signal);
            let output = running.wait();
            assert_eq!(output.code, code, "{signal}: {output}");
        }
    }
});

host_test!(only_the_program_writes_to_stdout, |host| {
    for network in ["--net=none", "--net=host", "--net=bridge"] {
        let output =
            host.minirun(["run", network, "--name", "web", "busybox", "sh", "-c", "echo out; echo err >&2"]).run();
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"), "{output}");
    }
});

host_test!(input_is_passed_when_asked_for, |host| {
    assert_eq!(host.minirun(["run", "-i", "busybox", "cat"]).stdin("hello").ok(), "hello");
    let megabytes = "0123456789abcde\n".repeat(200_000);
    assert_eq!(host.minirun(["run", "-i", "busybox", "cat"]).stdin(megabytes.as_str()).ok(), megabytes);
    assert_eq!(host.minirun(["run", "busybox", "cat"]).stdin("hello").ok(), "", "without -i it reads nothing");
});

host_test!(a_closed_pipe_ends_the_program, |host| {
    assert_eq!(host.sh("$MINIRUN run busybox yes | head -n 1").ok(), "y\n");
});

host_test!(a_name_is_in_use_only_while_it_runs, |host| {
    for _ in 0..3 {
        host.minirun(["run", "--name", "web", "busybox", "true"]).ok();
    }
    host.minirun(["run", "--name", "web", "busybox", "false"]).fails(1);
    host.minirun(["run", "--name", "web", "busybox", "true"]).ok();
});

host_test!(a_container_is_no_way_to_another_user_namespace_or_mount, |host| {
    let said = script(
        host,
        &[],
        "unshare -m true 2>/dev/null && echo unshare; mount -t tmpfs none /mnt 2>/dev/null && echo mount; umount /proc/kcore 2>/dev/null && echo umount; mount -o remount,rw /sys 2>/dev/null && echo remount; chroot / true && echo chroot",
    );
    assert_eq!(said, "chroot\n");
});

host_test!(the_programs_file_cannot_be_written_from_inside, |host| {
    let before = fs::read(host::binary()).expect("read").len();
    script(host, &["--init"], "(echo x >/proc/1/exe) 2>/dev/null && echo wrote; true");
    assert_eq!(fs::read(host::binary()).expect("read").len(), before);
});
