//! What is opened of the sandbox on request, and that no more is opened than was asked for.

mod host;

use host::{Host, Running, host_test};
use nix::sys::signal::Signal;

host_test!(shared_memory_has_the_size_that_was_asked_for, |host| {
    let size = |options: &[&str]| {
        let script = "df -k /dev/shm | awk 'NR==2 {print $2}'";
        host.minirun(["run", "--net=none"].iter().chain(options).chain(&["busybox", "sh", "-c", script])).ok()
    };
    assert_eq!(size(&[]), "65536\n");
    assert_eq!(size(&["--shm-size", "3m"]), "3072\n");
    let said = host.minirun(["run", "--shm-size", "0", "busybox", "true"]).fails(125);
    assert!(said.contains("size /dev/shm to `0`"), "{said}");
});

host_test!(a_device_that_is_given_works_and_no_other_does, |host| {
    let script = "head -c 3 /dev/z | od -An -tx1; head -c 2 /opt/z | wc -c; stat -c '%a %u %t %T' /dev/z; \
        chmod 600 /dev/z; mknod /dev/mine c 1 5 && echo made; head -c 1 /dev/mine || echo shut";
    let call =
        ["run", "--net=none", "--device", "/dev/zero:/dev/z", "--device", "/dev/zero:/opt/z:rw", "busybox", "sh", "-c"];
    let said = host.minirun(call.iter().chain(&[script])).run();
    assert_eq!(said.stdout, " 00 00 00\n2\n666 0 1 5\nmade\nshut\n", "{said}");
    assert_eq!(host.sh("stat -c %a /dev/zero").ok(), "666\n", "the host's node is not the container's");
    // Without the option the name is not there.
    host.minirun(["run", "--net=none", "busybox", "head", "-c1", "/dev/z"]).fails(1);
});

host_test!(all_devices_of_a_directory_are_given, |host| {
    let script = "mkdir -p /dev/shm/devices/more; cd /dev/shm/devices; mknod a c 1 5; mknod more/b c 1 7; touch file; \
        ln -s /dev/kmsg link";
    host.sh(script).ok();
    let list = ["run", "--device", "/dev/shm/devices:/dev/d", "busybox", "find", "/dev/d", "-type", "c"];
    let said = host.minirun(list).ok();
    let mut found: Vec<&str> = said.lines().collect();
    found.sort_unstable();
    assert_eq!(found, ["/dev/d/a", "/dev/d/more/b"]);
    host.sh("rm -r /dev/shm/devices").ok();
});

host_test!(a_device_is_not_put_where_a_link_of_the_image_leads, |host| {
    let tree = host.directory("tree");
    let base =
        "mkdir -p bin; cp /bin/busybox bin; ln -s busybox bin/sh; ln -s /proc/self/fd in; ln -s / up; ln -s /proc k";
    host.sh(&format!("cd {}; {base}", tree.text())).ok();
    for target in ["/in/0", "/k/version", "/k/new"] {
        let device = format!("/dev/zero:{target}");
        let call = ["run", "--net=none", "--device", &device, "--rootfs", tree.text(), "/bin/sh", "-c", "echo reached"];
        host.minirun(call).fails(125);
    }
    // A link to the top leads to the container's, not the host's.
    let call = ["run", "--net=none", "--device", "/dev/zero:/up/given", "--rootfs", tree.text(), "/bin/sh", "-c"];
    host.minirun(call.iter().chain(&["busybox test -c /given || /bin/busybox test -c /given"])).ok();
    assert_eq!(host.sh("test -e /given || echo none").ok(), "none\n");
});

host_test!(what_is_no_device_or_cannot_be_held_is_refused, |host| {
    for (device, why) in [
        ("/etc/passwd:/dev/x", "it is not a device"),
        ("/dev/zero:/dev/x:r", "cannot be held"),
        ("/dev/zero:/dev/null", "is the container's own"),
        ("/dev/zero:/proc/x", "nothing can be mounted on"),
        ("/nothing", "No such file"),
    ] {
        let said = host.minirun(["run", "--device", device, "busybox", "true"]).fails(125);
        assert!(said.contains(why), "{device}: {said}");
    }
    let twice = ["run", "--device", "/dev/zero:/dev/z", "--device", "/dev/full:/dev/z", "busybox", "true"];
    assert!(host.minirun(twice).fails(125).contains("asked for twice"));
});

host_test!(the_kernels_paths_are_masked_unless_that_is_taken_off, |host| {
    let script =
        "wc -c </proc/interrupts; echo 1 >/proc/sys/net/ipv4/ip_default_ttl || echo shut; ls /sys/firmware | wc -l";
    let masked = host.minirun(["run", "--net=none", "busybox", "sh", "-c", script]).run();
    assert_eq!(masked.stdout, "0\nshut\n0\n", "{masked}");
    let script = "test $(wc -c </proc/interrupts) -gt 0 && test -w /proc/sys/vm/swappiness && echo open; \
        test -w /sys/kernel || echo still";
    let option = ["run", "--net=none", "--security-opt", "systempaths=unconfined", "busybox", "sh", "-c", script];
    let open = host.minirun(option).run();
    assert!(open.stdout.starts_with("open\n"), "{open}");
    let said = host.minirun(["run", "--security-opt", "systempaths=all", "busybox", "true"]).fails(125);
    assert!(said.contains("systempaths=all`: it is unknown"), "{said}");
});

/// A container `name` that has said `ready`.
fn start(host: &Host, name: &str, options: &[&str], script: &str) -> Running {
    let words = [&["run", "--net=none", "--name", name], options, &["busybox", "sh", "-c", script]].concat();
    let mut running = host.minirun(words).start();
    running.says("ready");
    running
}

fn stop(running: Running) {
    running.signal(Signal::SIGTERM);
    running.wait();
}

host_test!(the_hosts_processes_are_seen_where_asked_for, |host| {
    let mut sleeper = host.sh("exec sleep 1234").start();
    let look = |options: &[&str]| {
        let script =
            "ps ax -o args | grep -c '[s]leep 1234'; readlink /proc/self/ns/pid; mount | grep -c '^proc on /proc '";
        host.minirun(["run", "--net=none"].iter().chain(options).chain(&["busybox", "sh", "-c", script])).ok()
    };
    let own = host.sh("readlink /proc/self/ns/pid").ok();
    host.soon("the host sleeps", || host.sh("ps ax").ok().contains("sleep 1234"));
    assert_eq!(look(&["--pid", "host"]), format!("1\n{own}1\n"));
    assert!(!look(&[]).contains(&own));
    assert!(look(&[]).starts_with("0\n"));
    sleeper.signal(Signal::SIGKILL);
    host.soon("it ends", || sleeper.has_ended());
});

// Without a process 1 of its own, the kernel ends nothing with the first process.
host_test!(what_a_container_leaves_among_the_hosts_processes_ends_with_it, |host| {
    let script = "(setsid sleep 4321 &); setsid sh -c 'sleep 4321 & sleep 4321' & \
        until [ $(ps ax -o args | grep -c '^[s]leep 4321') -ge 3 ]; do sleep 0.05; done; exit 7";
    host.minirun(["run", "--net=none", "--pid=host", "busybox", "sh", "-c", script]).fails(7);
    assert!(!host.sh("ps ax").ok().contains("sleep 4321"));
    // A signal ends it too, and all.
    let script = "(setsid sleep 4322 &); echo ready; sleep 4322";
    let running = start(host, "among", &["--pid=host"], script);
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait().code, 143);
    assert!(!host.sh("ps ax").ok().contains("sleep 4322"));
});

host_test!(another_containers_processes_are_joined, |host| {
    let first = start(host, "first", &["-e", "MARK=1"], "sleep 2222 & echo ready; wait");
    let id = host.minirun(["ps", "-q"]).ok();
    let script = "ps ax -o args | grep -c '^[s]leep 2222'; echo $$";
    for whose in ["container:first", &format!("container:{}", &id[..6])] {
        let said = host.minirun(["run", "--net=none", "--pid", whose, "busybox", "sh", "-c", script]).ok();
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines[0] == "1" && lines[1] != "1", "{whose}: {said}");
    }
    // The end of the one who joined is its own, with all that it started.
    let script = "(setsid sleep 3333 &); sleep 0.1; exit 3";
    host.minirun(["run", "--net=none", "--pid=container:first", "busybox", "sh", "-c", script]).fails(3);
    let left = host.sh("ps ax").ok();
    assert!(!left.contains("sleep 3333") && left.contains("sleep 2222"), "{left}");
    // The end of the one that was joined is the end of all.
    let second = start(host, "second", &["--pid=container:first"], "trap '' TERM; echo ready; sleep 3334 & wait");
    stop(first);
    assert_eq!(second.wait().code, 137);
    let said = host.minirun(["run", "--pid=container:first", "busybox", "true"]).fails(125);
    assert!(said.contains("join container `first`: find container `first`: there is none of that name"), "{said}");
});

// CVE-2019-5736: until execve a process of the joined namespace is minirun, and root there must not get hold of it.
host_test!(minirun_cannot_be_opened_from_a_joined_container, |host| {
    let watch = "echo ready; while :; do for p in /proc/[0-9]*; do exe=$(readlink $p/exe) || continue; case $exe in \
        *minirun*) echo opened $exe;; esac; done; done 2>/dev/null";
    let watching = start(host, "watching", &[], watch);
    for _ in 0..30 {
        host.minirun(["run", "--net=none", "--pid=container:watching", "busybox", "true"]).ok();
    }
    assert!(!watching.stdout().contains("opened"), "{}", watching.stdout());
    stop(watching);
});

host_test!(ipc_is_shared_with_its_memory_and_queues, |host| {
    let script =
        "echo text >/dev/shm/file; touch /dev/mqueue/queue; cat /proc/sys/kernel/msgmax; echo ready; sleep 600";
    let first = start(host, "first", &["--sysctl", "kernel.msgmax=4321", "--shm-size", "1m"], script);
    let look = "cat /dev/shm/file; ls /dev/mqueue; cat /proc/sys/kernel/msgmax; echo more >/dev/shm/second";
    let said = host.minirun(["run", "--net=none", "--ipc=container:first", "busybox", "sh", "-c", look]).ok();
    assert_eq!(said, "text\nqueue\n4321\n");
    let said = host.minirun(["run", "--net=none", "--ipc=container:first", "busybox", "cat", "/dev/shm/second"]).ok();
    assert_eq!(said, "more\n");
    let said = host.minirun(["run", "--net=none", "busybox", "sh", "-c", "ls /dev/shm /dev/mqueue"]).ok();
    assert_eq!(said, "/dev/mqueue:\n\n/dev/shm:\n");
    stop(first);
    host.sh("echo host >/dev/shm/of-host").ok();
    let look =
        "cat /dev/shm/of-host; readlink /proc/self/ns/ipc; mknod /dev/shm/n c 1 5; head -c1 /dev/shm/n || echo shut";
    let said = host.minirun(["run", "--net=none", "--ipc=host", "busybox", "sh", "-c", look]).run();
    assert_eq!(said.stdout, format!("host\n{}shut\n", host.sh("readlink /proc/self/ns/ipc").ok()), "{said}");
    host.sh("rm /dev/shm/*").ok();
});

host_test!(memory_is_not_shared_by_a_link_to_the_host, |host| {
    let tree = host.directory("tree");
    host.sh(&format!("cd {}; mkdir -p bin; cp /bin/busybox bin; ln -s busybox bin/sh", tree.text())).ok();
    // What is under the name in the other container is a link that it made.
    let script = "umount /dev/shm && rmdir /dev/shm && ln -s /etc /dev/shm && echo ready; sleep 600";
    let words = ["run", "--net=none", "--name=liar", "--cap-add=SYS_ADMIN", "busybox", "sh", "-c", script];
    let mut liar = host.minirun(words).start();
    liar.says("ready");
    let said = host.minirun(["run", "--net=none", "--ipc=container:liar", "busybox", "true"]).fails(125);
    assert!(said.contains("share `/dev/shm`"), "{said}");
    stop(liar);
});

host_test!(the_host_name_is_shared, |host| {
    let own = host.sh("hostname").ok();
    let name = |options: &[&str]| {
        let script = "hostname; cat /etc/hostname; echo $HOSTNAME";
        host.minirun(["run", "--net=none"].iter().chain(options).chain(&["busybox", "sh", "-c", script])).ok()
    };
    assert_eq!(name(&["--uts=host"]), own.repeat(3));
    let first = start(host, "first", &["--hostname", "of-first"], "echo ready; sleep 600");
    assert_eq!(name(&["--uts=container:first"]), "of-first\n".repeat(3));
    assert_eq!(host.sh("hostname").ok(), own);
    stop(first);
});

host_test!(cgroup_namespaces_are_shared, |host| {
    let link = |options: &[&str]| {
        host.minirun(["run", "--net=none"].iter().chain(options).chain(&[
            "busybox",
            "readlink",
            "/proc/self/ns/cgroup",
        ]))
        .ok()
    };
    let own = host.sh("readlink /proc/self/ns/cgroup").ok();
    assert_eq!(link(&["--cgroupns=host"]), own);
    assert_ne!(link(&[]), own);
    let first = start(host, "first", &[], "echo ready; readlink /proc/self/ns/cgroup; sleep 600");
    host.soon("it says which", || first.stdout().contains("cgroup:"));
    assert!(first.stdout().contains(&link(&["--cgroupns=container:first"])));
    stop(first);
});

host_test!(what_cannot_be_shared_is_refused, |host| {
    for (options, why) in [
        (["--uts=host", "--hostname=x"], "the name is another's"),
        (["--ipc=host", "--shm-size=1m"], "it is another's"),
        (["--ipc=host", "--sysctl=kernel.msgmax=1"], "would be another's setting"),
        (["--uts=host", "--sysctl=kernel.domainname=x"], "would be another's setting"),
        (["--pid=host", "--init"], "would not be process 1"),
        (["--pid=hosts", "--tty"], "private, host or container:ID"),
        (["--pid=container:nobody", "-i"], "there is none of that name"),
    ] {
        let said = host.minirun(["run", "--net=none"].iter().chain(&options).chain(&["busybox", "true"])).fails(125);
        assert!(said.contains(why), "{options:?}: {said}");
    }
});

host_test!(a_privileged_container_has_all_rights_and_a_warning_is_said, |host| {
    let script = "mkdir /m && mount -t tmpfs none /m && echo mounted; mknod /node c 1 5 && head -c1 /node | wc -c; \
        head -c1 /dev/z2 2>/dev/null || echo none; test -c /dev/kmsg && echo kmsg; test -w /proc/sys/vm/swappiness && \
        mount | grep -c '/proc.*ro,'; mount | grep '^sysfs on /sys ' | grep -c rw; \
        grep -E 'NoNewPrivs|CapEff' /proc/self/status | tr '\\n' ' '; ls /sys/fs/cgroup | wc -l";
    let said = host.minirun(["run", "--net=none", "--privileged", "busybox", "sh", "-c", script]).run();
    let all = host.sh("grep CapEff /proc/self/status").ok();
    let groups = host.sh("ls /sys/fs/cgroup | wc -l").ok();
    let expected = format!("mounted\n1\nnone\nkmsg\n0\n1\n{} NoNewPrivs:\t0 {groups}", all.trim());
    assert_eq!(said.stdout, expected, "{said}");
    assert!(said.stderr.contains("minirun: warning: --privileged gives the container the host's devices"), "{said}");
    // Its mounts are its own for all that.
    assert_eq!(host.sh("mount | grep -c ' /m ' || true").ok(), "0\n");
    let plain = host.minirun(["run", "--net=none", "busybox", "sh", "-c", script]).run();
    assert!(!plain.stdout.contains("mounted") && !plain.stdout.contains("kmsg"), "{plain}");
    assert!(!plain.stderr.contains("warning"), "{plain}");
});

host_test!(a_privileged_containers_devices_are_the_hosts, |host| {
    let list = "cd /dev && find . -type b -o -type c | grep -v -e ^./pts -e ^./console -e ^./ptmx | sort";
    let of_host = host.sh(list).ok();
    let inside = host.minirun(["run", "--net=none", "--privileged", "busybox", "sh", "-c", list]).ok();
    assert_eq!(inside, of_host);
    let dropped =
        ["run", "--net=none", "--privileged", "--cap-drop=SYS_ADMIN", "busybox", "mount", "-t", "tmpfs", "x", "/mnt"];
    host.minirun(dropped).fails(1);
});
