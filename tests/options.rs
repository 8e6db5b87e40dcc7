//! Options of a container's program, its files and its limits: what was asked for is what is there.

mod host;

use std::collections::BTreeSet;
use std::fs;

use host::{Host, host_test};

/// What a shell script says in a container with these options.
fn script(host: &Host, options: &[&str], script: &str) -> String {
    host.minirun([&["run"], options, &["busybox", "sh", "-c", script]].concat()).ok()
}

host_test!(the_environment_is_what_was_asked_for, |host| {
    let names =
        |said: &str| said.lines().filter_map(|line| Some(line.split_once('=')?.0.to_owned())).collect::<BTreeSet<_>>();
    let usual = ["PATH", "HOME", "HOSTNAME", "TERM", "container"];
    let said = host.minirun(["run", "busybox", "env"]).env("SECRET", "of the caller").ok();
    let unasked: Vec<_> = names(&said).into_iter().filter(|name| !usual.contains(&name.as_str())).collect();
    assert!(unasked.is_empty(), "{unasked:?}");
    assert!(said.contains("PATH=") && said.contains("HOME=/root"), "{said}");

    let file = host.directory("env");
    let path = file.file("list", "# a comment\n\nFROM_FILE=a b\nPASSED\nEMPTY=\n");
    let options = ["run", "-e", "ONE=1", "--env", "TWO=2=2", "-e", "PASSED_TOO", "--env-file", &path, "busybox", "env"];
    let said = host.minirun(options).env("PASSED", "from outside").env("PASSED_TOO", "as well").ok();
    for line in ["ONE=1", "TWO=2=2", "PASSED_TOO=as well", "FROM_FILE=a b", "PASSED=from outside", "EMPTY="] {
        assert!(said.lines().any(|said| said == line), "{line} is not in {said}");
    }
    // What is asked for twice is there once, and an option beats the file.
    let said = host
        .minirun(["run", "--env-file", &path, "-e", "FROM_FILE=last", "-e", "ONE=1", "-e", "ONE=2", "busybox", "env"])
        .ok();
    assert!(
        said.contains("FROM_FILE=last") && !said.contains("a b") && said.contains("ONE=2") && !said.contains("ONE=1"),
        "{said}"
    );
});

host_test!(a_working_directory_is_taken, |host| {
    assert_eq!(script(host, &[], "pwd"), "/\n");
    assert_eq!(script(host, &["-w", "/etc"], "pwd"), "/etc\n");
    assert_eq!(script(host, &["--workdir=/tmp"], "pwd"), "/tmp\n");
    // A path through a leaked descriptor leads nowhere.
    for number in 3..20 {
        let output = host.minirun(["run", "-w", &format!("/proc/self/fd/{number}"), "busybox", "ls"]).run();
        assert!(output.code != 0 || !output.stdout.contains("vmlinuz"), "{output}");
    }
});

host_test!(users_come_from_the_image, |host| {
    let ids = |user: &str| script(host, &["-u", user], "echo $(id -u) $(id -g)");
    assert_eq!(ids("0"), "0 0\n");
    assert_eq!(ids("1000"), "1000 0\n");
    assert_eq!(ids("1000:1001"), "1000 1001\n");
    let nobody = ids("nobody");
    let expected = script(host, &[], "awk -F : '$1 == \"nobody\" { print $3, $4 }' /etc/passwd");
    assert_eq!(nobody, expected);
    let group = script(host, &[], "awk -F : 'NR == 2 { print $1, $3 }' /etc/group");
    let (name, number) = group.trim().split_once(' ').expect("a group");
    assert_eq!(ids(&format!("1000:{name}")), format!("1000 {number}\n"));
    // No group of the caller's is kept.
    assert_eq!(script(host, &["-u", "1000:1001"], "id -G"), "1001\n");
    // It writes where anybody may.
    let said =
        script(host, &["-u", "nobody"], "touch /etc/x 2>/dev/null || echo refused; touch /tmp/x && echo touched");
    assert_eq!(said, "refused\ntouched\n");
});

host_test!(volumes_are_mounted, |host| {
    let shared = host.directory("shared");
    let file = shared.file("text", "from the host\n");
    let volume = |rest: &str| format!("{}:{rest}", shared.text());
    let said = script(host, &["-v", &volume("/data")], "cat /data/text; echo from the container >/data/new");
    assert_eq!(said, "from the host\n");
    assert_eq!(fs::read_to_string(shared.path().join("new")).expect("the file"), "from the container\n");
    let said = script(
        host,
        &["--volume", &volume("/deep/er/place:ro")],
        "cat /deep/er/place/text; (echo x >/deep/er/place/more) 2>&1; true",
    );
    assert!(said.starts_with("from the host\n") && said.contains("Read-only"), "{said}");
    assert!(!shared.path().join("more").exists());
    // A file is a volume as well.
    assert_eq!(script(host, &["-v", &format!("{file}:/etc/text:ro")], "cat /etc/text"), "from the host\n");
    // Mounts below a read-only volume are read-only too.
    host.sh(&format!("mkdir {0}/below; mount -n -t tmpfs below {0}/below", shared.text())).ok();
    let said = script(host, &["-v", &volume("/data:ro")], "(echo x >/data/below/x) 2>&1; true");
    assert!(said.contains("Read-only"), "{said}");
    host.sh(&format!("umount -n {}/below", shared.text())).ok();
});

host_test!(a_volume_stays_inside_the_image, |host| {
    // The image's own links lead where they lead in the container.
    let root = host.directory("root");
    host.sh(&format!("mkdir -p {0}/bin {0}/proc {0}/dev {0}/sys {0}/etc; cp $(command -v busybox) {0}/bin/busybox; ln -s busybox {0}/bin/sh; ln -s /dev/shm {0}/link; ln -s ../../../../../../dev/shm {0}/climb", root.text())).ok();
    let shared = host.directory("shared");
    for place in ["/link/data", "/climb/data"] {
        let volume = format!("{}:{place}", shared.text());
        host.minirun(["run", "-v", &volume, "--rootfs", root.text(), "/bin/sh", "-c", "true"]).run();
        assert_eq!(host.sh("ls -A /dev/shm").ok(), "", "a volume on {place} was made on the host");
    }
});

host_test!(a_tmpfs_is_mounted, |host| {
    let said =
        script(host, &["--tmpfs", "/scratch"], "grep ' /scratch ' /proc/mounts; echo x >/scratch/x && cat /scratch/x");
    assert!(said.contains(" /scratch tmpfs ") && said.ends_with("x\n"), "{said}");
    let said = script(
        host,
        &["--tmpfs", "/scratch:size=64k"],
        "head -c 100000 /dev/zero >/scratch/x 2>/dev/null || echo full",
    );
    assert_eq!(said, "full\n");
});

host_test!(read_only_is_read_only, |host| {
    let said = script(
        host,
        &["--read-only"],
        "for d in / /etc /bin /root; do (echo x >$d/x) 2>/dev/null && echo wrote $d; done; echo x >/dev/shm/x && echo y >/dev/null && echo done",
    );
    assert_eq!(said, "done\n");
    assert_eq!(script(host, &["--read-only", "--tmpfs", "/tmp"], "echo x >/tmp/x && echo done"), "done\n");
});

host_test!(an_entry_point_replaces_the_program, |host| {
    assert_eq!(host.minirun(["run", "--entrypoint", "/bin/echo", "busybox", "hello", "-n"]).ok(), "hello -n\n");
    assert_eq!(host.minirun(["run", "--entrypoint", "echo", "busybox"]).ok(), "\n");
});

host_test!(words_after_the_image_are_the_programs, |host| {
    assert_eq!(host.minirun(["run", "busybox", "echo", "--net=none", "-t", "--", "-v"]).ok(), "--net=none -t -- -v\n");
    assert_eq!(host.minirun(["run", "--rm", "--", "busybox", "echo", "hello"]).ok(), "hello\n");
});

host_test!(init_is_the_first_process, |host| {
    let said = script(host, &["--init"], "echo $$; cat /proc/1/comm");
    assert!(!said.starts_with("1\n"), "{said}");
    // It reaps what others left behind.
    let said =
        script(host, &["--init"], "(sleep 0.1 & ) ; (true &); sleep 0.5; grep -l 'State:.Z' /proc/[0-9]*/status; true");
    assert_eq!(said, "");
    assert_eq!(host.minirun(["run", "--init", "busybox", "sh", "-c", "exit 7"]).run().code, 7);
});

host_test!(limits_are_set, |host| {
    assert_eq!(script(host, &["--ulimit", "nofile=100:200"], "ulimit -Sn; ulimit -Hn"), "100\n200\n");
    assert_eq!(script(host, &["--ulimit", "nofile=100"], "ulimit -Sn; ulimit -Hn"), "100\n100\n");
    assert_eq!(script(host, &["--ulimit", "core=0", "--ulimit", "nofile=64:64"], "ulimit -c; ulimit -n"), "0\n64\n");
});

host_test!(sysctls_are_the_containers, |host| {
    let key = "/proc/sys/net/ipv4/ip_default_ttl";
    assert_eq!(script(host, &["--sysctl", "net.ipv4.ip_default_ttl=33"], &format!("cat {key}")), "33\n");
    assert_eq!(script(host, &["--sysctl", "kernel.msgmax=1234"], "cat /proc/sys/kernel/msgmax"), "1234\n");
    assert_eq!(host.sh(&format!("cat {key}")).ok(), "64\n");
    // What is not of a namespace would change the host.
    for (options, value) in [
        (&["--net=bridge"][..], "kernel.panic=9"),
        (&[], "vm.swappiness=9"),
        (&["--net=host"], "net.ipv4.ip_default_ttl=33"),
    ] {
        host.minirun([&["run"], options, &["--sysctl", value, "busybox", "true"]].concat()).fails(125);
    }
});
