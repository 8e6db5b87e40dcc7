//! `--userns auto`: root in the container is nobody on the host, and everything in the container works for all that.

mod host;

use host::{Host, Running, host_test};
use nix::sys::signal::Signal;

/// A test on a host that has had a user namespace before: the file in which ids are locked stays, as that of the addresses.
macro_rules! userns_test {
    ($name:ident, |$host:ident| $body:block) => {
        host_test!($name, |$host| {
            $host.minirun(run(&["--net=none"], "true")).ok();
            $host.settle();
            $body
        });
    };
}

/// The words of a run in a user namespace.
fn run<'a>(options: &[&'a str], script: &'a str) -> Vec<&'a str> {
    [&["run", "--userns=auto"], options, &["busybox", "sh", "-c", script]].concat()
}

fn start(host: &Host, options: &[&str], script: &str) -> Running {
    let mut running = host.minirun(run(options, script)).start();
    running.says("ready");
    running
}

fn stop(running: Running) {
    running.signal(Signal::SIGTERM);
    running.wait();
}

/// First id on the host, of the map that a process shows.
fn first_id(map: &str) -> u32 {
    let fields: Vec<u32> = map.split_whitespace().map(|field| field.parse().expect("a number")).collect();
    assert!(fields.len() == 3 && fields[0] == 0 && fields[2] == 65536, "{map}");
    fields[1]
}

userns_test!(root_in_the_container_is_nobody_on_the_host, |host| {
    let script = "cat /proc/self/uid_map /proc/self/gid_map; id -u; id -G; echo ready; exec sleep 1234";
    let running = start(host, &["--net=none"], script);
    let said = running.stdout();
    let lines: Vec<&str> = said.lines().collect();
    let first = first_id(lines[0]);
    assert_eq!(first_id(lines[1]), first);
    assert_eq!(lines[2..4], ["0", "0"]);
    assert!((0x7000_0000..0x7ffe_0000).contains(&first), "{first}");
    let pid = running.child().expect("a child");
    let of_host = host.sh(&format!("grep -E 'Uid|Gid|Groups' /proc/{pid}/status | tr -s '\\t ' ' '")).ok();
    let ids = format!("{first} {first} {first} {first}\n");
    assert_eq!(of_host, format!("Uid: {ids}Gid: {ids}Groups: {first} \n"));
    assert_ne!(host.sh(&format!("readlink /proc/{pid}/ns/user")).ok(), host.sh("readlink /proc/self/ns/user").ok());
    stop(running);
});

userns_test!(two_containers_share_no_id, |host| {
    let script = "cat /proc/self/uid_map; echo ready; exec sleep 1234";
    let containers: Vec<Running> = (0..4).map(|_| start(host, &["--net=none"], script)).collect();
    let mut firsts: Vec<u32> =
        containers.iter().map(|one| first_id(one.stdout().lines().next().expect("a map"))).collect();
    firsts.sort_unstable();
    assert!(firsts.windows(2).all(|pair| pair[1] - pair[0] >= 65536), "{firsts:?}");
    containers.into_iter().for_each(stop);
    // Those that /etc/subuid gives, and no more; a killed minirun gives them back.
    host.sh("echo containers:200000:131072 | tee /etc/subuid >/etc/subgid").ok();
    let mut one = start(host, &["--net=none"], script);
    let two = start(host, &["--net=none", "-u", "7"], script);
    let mut firsts = [&one, &two].map(|one| first_id(one.stdout().lines().next().expect("a map")));
    firsts.sort_unstable();
    assert_eq!(firsts, [200_000, 265_536]);
    let said = host.minirun(run(&["--net=none"], "true")).fails(125);
    assert!(said.contains("all 2 ranges of 65536 are in use"), "{said}");
    one.signal(Signal::SIGKILL);
    host.soon("it is gone", || one.has_ended());
    host.soon("its ids are free", || host.minirun(run(&["--net=none"], "true")).run().code == 0);
    stop(two);
    host.sh("rm -f /etc/subuid /etc/subgid").ok();
});

userns_test!(the_files_of_the_container_are_its_roots, |host| {
    let script = "for f in / /etc /etc/hosts /bin /bin/busybox /dev /dev/null /dev/fd /dev/shm /dev/pts /dev/pts/ptmx \
        /dev/mqueue /t /new; do test $f = /new && echo x >/new; echo $(stat -c %u:%g $f) $f; done";
    let said = host.minirun(run(&["--net=none", "--tmpfs", "/t"], script)).ok();
    assert!(said.lines().all(|line| line.starts_with("0:0 ")), "{said}");
    let script = "stat -c %u:%g /t; touch /t/x && stat -c %u:%g /t/x; chown 7:8 /t/x; stat -c %u:%g /t/x; cp /bin/busybox /b; \
        chown 9 /bin/busybox; stat -c %u /bin/busybox; rm /etc/passwd; test -e /etc/passwd || echo gone";
    let said = host.minirun(run(&["--net=none", "--tmpfs", "/t:uid=5,gid=6"], script)).ok();
    assert_eq!(said, "5:6\n0:0\n7:8\n9\ngone\n");
});

userns_test!(ids_in_a_volume_are_the_hosts, |host| {
    let volume = host.directory("volume");
    host.sh(&format!(
        "cd {}; echo secret >root; chmod 600 root; echo seven >seven; chown 7:7 seven; chmod 600 seven; \
        echo high >high; chown 100000 high; chmod 600 high; chmod 777 .",
        volume.text()
    ))
    .ok();
    let mount = format!("{}:/v", volume.text());
    let script = "cd /v; cat root; stat -c %u seven high; touch new; cat high || echo shut";
    let said = host.minirun(run(&["--net=none", "-v", &mount], script)).run();
    assert_eq!(said.stdout, "secret\n7\n65534\nshut\n", "{said}");
    let said =
        host.minirun(run(&["--net=none", "-v", &mount, "-u", "7"], "cd /v; cat seven; touch of7; cat root")).run();
    assert_eq!((said.stdout.as_str(), said.code), ("seven\n", 1), "{said}");
    assert_eq!(host.sh(&format!("cd {}; stat -c %u:%g new of7", volume.text())).ok(), "0:0\n7:0\n");
    // What cannot map ids is refused, not shown with ids that mean another.
    let said = host.minirun(run(&["-v", "/sys/kernel:/v"], "true")).fails(125);
    assert!(said.contains("mount volume `/sys/kernel`: its file system") && said.contains("cannot map ids"), "{said}");
});

userns_test!(what_minirun_is_given_as_root_directory_is_mapped_and_unchanged, |host| {
    let tree = host.directory("tree");
    let make = "mkdir -p bin; cp /bin/busybox bin; ln -s busybox bin/sh; echo x >own; chown 5:5 own; ln -s /proc proc";
    host.sh(&format!("cd {}; {make}", tree.text())).ok();
    let script = "busybox stat -c %u:%g /own /bin /proc/version; busybox chown 6 /own; busybox touch /new";
    let call = ["run", "--userns=auto", "--net=none", "--rootfs", tree.text(), "/bin/sh", "-c", script];
    let said = host.minirun(call).ok();
    assert_eq!(said, "5:5\n0:0\n65534:65534\n");
    assert_eq!(host.sh(&format!("cd {}; stat -c %u own; ls", tree.text())).ok(), "5\nbin\nown\nproc\n");
});

userns_test!(capabilities_count_in_its_network_and_nowhere_else, |host| {
    let script = "ip addr add 192.0.2.77/32 dev lo && echo added; \
        mount -t tmpfs none /mnt || echo no-mount; \
        unshare -m umount /proc/interrupts || echo still-masked; unshare -mpf mount -t proc proc /mnt || echo no-proc; umount /proc/kcore || echo masked; hostname x || echo no-name; \
        mknod /n c 1 3 || echo no-node";
    let said = host.minirun(run(&["--net=none", "--cap-add=ALL"], script)).run();
    assert_eq!(said.stdout, "added\nno-mount\nstill-masked\nno-proc\nmasked\nno-name\nno-node\n", "{said}");
    assert_eq!(host.minirun(run(&["--net=none"], "ip addr add 192.0.2.77/32 dev lo || echo no")).run().stdout, "no\n");
    let script = "echo 1 >/proc/sys/kernel/core_pattern || echo shut; grep CapEff /proc/self/status";
    let said = host.minirun(run(&["--net=none", "--security-opt=systempaths=unconfined"], script)).run();
    assert!(said.stdout.starts_with("shut\n"), "{said}");
    for capability in ["SYS_ADMIN", "cap_sys_module", "MKNOD", "BPF"] {
        let said = host.minirun(run(&["--cap-add", capability], "true")).fails(125);
        assert!(said.contains("in a user namespace it has no effect"), "{capability}: {said}");
    }
});

userns_test!(the_network_works, |host| {
    let script = "ip -o -4 addr show eth0 | grep -c 10.214; ping -c1 10.214.0.1 >/dev/null && echo pong; \
        nc -l -p 80 -e true & sleep 0.1; kill $! && echo served; cat /proc/sys/net/core/somaxconn";
    let said = host.minirun(run(&["--sysctl=net.core.somaxconn=77", "--sysctl=kernel.msgmax=4321"], script)).run();
    assert_eq!(said.stdout, "1\npong\nserved\n77\n", "{said}");
});

userns_test!(users_limits_and_terminals_work, |host| {
    let said = host
        .minirun(run(
            &["--net=none", "-u", "1000:100", "--ulimit=nofile=77:99"],
            "id -u; id -G; ulimit -n; grep CapEff /proc/self/status",
        ))
        .ok();
    assert_eq!(said, "1000\n100\n77\nCapEff:\t0000000000000000\n");
    let said = host.minirun(run(&["--net=none", "-u", "65536"], "true")).fails(125);
    assert!(said.contains("there is no id 65536"), "{said}");
    for (user, owner) in [("0", "0:5\n"), ("7", "7:5\n")] {
        let script = "stat -c %u:%g $(tty); echo >/dev/console && echo x >$(tty)";
        let said = host.minirun(run(&["--net=none", "-t", "-u", user], script)).run();
        assert!(said.stdout.replace('\r', "").starts_with(owner) && said.code == 0, "{said}");
    }
});

userns_test!(devices_are_given_there_too, |host| {
    let script = "head -c2 /dev/z | wc -c; stat -c %u:%a /dev/z";
    let said = host.minirun(run(&["--net=none", "--device=/dev/zero:/dev/z"], script)).ok();
    assert_eq!(said, "2\n0:666\n");
});

userns_test!(a_killed_minirun_leaves_no_user_namespace, |host| {
    let mut running = start(host, &[], "echo ready; exec sleep 1235");
    running.signal(Signal::SIGKILL);
    host.soon("minirun is gone", || running.has_ended());
    host.minirun(["ps"]).ok();
    host.soon("it is gone", || !host.sh("ps ax").ok().contains("sleep 1235"));
});

userns_test!(what_a_user_namespace_would_not_keep_apart_is_refused, |host| {
    for option in ["--net=host", "--privileged", "--pid=host", "--pid=container:x", "--ipc=host"] {
        let said = host.minirun(run(&[option], "true")).fails(125);
        let name = if option.starts_with("--net") { option } else { option.split('=').next().unwrap_or(option) };
        assert!(said.contains(&format!("make a user namespace: {name} takes away")), "{option}: {said}");
    }
});

// On the host, the plain run does nothing more for what can be asked for.
userns_test!(a_plain_run_has_no_user_namespace, |host| {
    let own = host.sh("readlink /proc/self/ns/user").ok();
    assert_eq!(host.minirun(["run", "--net=none", "busybox", "readlink", "/proc/self/ns/user"]).ok(), own);
    assert_eq!(
        host.minirun(["run", "--net=none", "--userns=host", "busybox", "readlink", "/proc/self/ns/user"]).ok(),
        own
    );
});
