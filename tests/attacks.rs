//! Attacks and accidents that minirun must stand: each was tried against it, and each test fails without its guard.

mod host;

use host::{Directory, HOST, Host, Terminal, host_test};
use nix::sys::signal::Signal;

/// A tree with busybox in it, for `--rootfs`, in which `script` has made what an image may bring along.
fn tree(host: &Host, name: &str, script: &str) -> Directory {
    let tree = host.directory(name);
    let base = "mkdir -p bin etc; cp /bin/busybox bin; ln -s busybox bin/sh; ln -s busybox bin/cat";
    host.sh(&format!("cd {}; {base}; {script}", tree.text())).ok();
    tree
}

// CVE-2019-5736: a program that is the host's minirun itself could be written to from the container.
host_test!(minirun_is_not_run_by_a_link_of_proc, |host| {
    let before = host.sh("sha256sum $MINIRUN").ok();
    host.minirun(["run", "busybox", "/proc/self/exe", "version"]).fails(126);
    let tree = tree(
        host,
        "links",
        "ln -s /proc/self/exe bin/minirun-init; printf '#!/bin/minirun-init /bin/sh\n' >bin/x; chmod 755 bin/x",
    );
    for program in ["minirun-init", "/bin/minirun-init"] {
        host.minirun(["run", "--rootfs", tree.text(), program, "/bin/sh", "-c", "echo reached"]).fails(126);
    }
    // The kernel follows the link of an interpreter by itself; then minirun finds out and does nothing.
    let said = host.minirun(["run", "--rootfs", tree.text(), "/bin/x"]).fails(125);
    assert!(said.contains("started from inside a container"), "{said}");
    assert_eq!(host.sh("sha256sum $MINIRUN").ok(), before);
});

// The kernel forgets PR_SET_PDEATHSIG when a program changes its user.
host_test!(a_program_that_changed_its_user_ends_with_the_next_command, |host| {
    let script = "exec su -s /bin/sh nobody -c 'echo ready; exec sleep 777'";
    let mut running = host.minirun(["run", "busybox", "sh", "-c", script]).start();
    running.says("ready");
    running.signal(Signal::SIGKILL);
    host.soon("minirun is gone", || running.has_ended());
    assert!(host.sh("ps ax").ok().contains("sleep 777"), "it lives on, or this test shows nothing");
    host.minirun(["ps"]).ok();
    host.soon("it is gone", || !host.sh("ps ax").ok().contains("sleep 777"));
    host.nothing_left();
});

host_test!(prune_asks_the_kernel_who_is_on_the_bridge, |host| {
    let mut running = host.minirun(["run", "busybox", "sh", "-c", "echo ready; sleep 60"]).start();
    running.says("ready");
    let said = host.minirun(["--root", "/run/other", "system", "prune"]).fails(125);
    assert!(said.contains("1 links are on it"), "{said}");
    running.signal(Signal::SIGTERM);
    running.wait();
    host.sh("rm -r /run/other").ok();
});

host_test!(cold a_deleted_bridge_does_not_make_ports_into_uplinks, |host| {
    host.minirun(["run", "busybox", "true"]).ok();
    let mut running = host.minirun(["run", "busybox", "sh", "-c", "echo ready; sleep 60"]).start();
    running.says("ready");
    host.sh("ip link del minirun0").ok();
    host.minirun(["run", "busybox", "true"]).ok();
    let rules = host.sh("nft list set inet minirun guarded; cat /run/minirun/hub-*/opened").ok();
    assert!(rules.contains("eth0") && !rules.contains("\"mr"), "{rules}");
    running.signal(Signal::SIGKILL);
    running.wait();
    host.minirun(["ps"]).ok();
});

host_test!(cold a_foreign_bridge_of_the_name_is_left_alone, |host| {
        host.sh("ip link add minirun0 type bridge; ip link set minirun0 alias mine").ok();
        let said = host.minirun(["run", "busybox", "true"]).fails(125);
        assert!(said.contains("not minirun's"), "{said}");
        host.minirun(["system", "prune"]).run();
        let link = host.sh("ip link show minirun0").ok();
        assert!(link.contains("alias mine"), "{link}");
    }
);

host_test!(flushed_rules_come_back, |host| {
    let rules = || host.sh("nft list table inet minirun").ok();
    let before = rules();
    for flush in ["nft flush ruleset", "nft flush table inet minirun", "nft flush chain inet minirun forward"] {
        host.sh(flush).ok();
        assert_ne!(host.sh("nft list ruleset").ok(), before);
        host.minirun(["run", "busybox", "true"]).ok();
        assert_eq!(rules(), before, "after `{flush}`");
    }
});

host_test!(cold the_guard_goes_when_the_host_becomes_a_router, |host| {
        host.minirun(["run", "busybox", "true"]).ok();
        let guarded = || host.sh("nft list set inet minirun guarded").ok().contains("eth0");
        assert!(guarded());
        host.sh("sysctl -qw net.ipv4.ip_forward=1").ok();
        host.minirun(["run", "busybox", "true"]).ok();
        assert!(!guarded());
        host.minirun(["system", "prune"]).ok();
        assert_eq!(host.sh("sysctl -n net.ipv4.conf.eth0.forwarding").ok(), "1\n", "what the host wants stays");
        host.sh("sysctl -qw net.ipv4.ip_forward=0").ok();
    }
);

host_test!(cold prune_takes_everything_away, |host| {
        let links = || host.sh("ip -br link; ip route; nft list ruleset; sysctl -n net.ipv4.conf.eth0.forwarding").ok();
        let before = links();
        host.minirun(["run", "busybox", "true"]).ok();
        assert_ne!(links(), before);
        host.minirun(["system", "prune"]).ok();
        assert_eq!(links(), before);
        host.minirun(["system", "prune"]).ok();
    }
);

host_test!(cold odd_routes_and_sizes_are_no_obstacle, |host| {
        host.sh("ip route add 0.0.0.0/1 via 192.0.2.1; ip route add 128.0.0.0/1 via 192.0.2.1").ok();
        host.minirun(["run", "busybox", "true"]).ok();
        host.minirun(["system", "prune"]).ok();
        host.sh(
            "ip route del 0.0.0.0/1; ip route del 128.0.0.0/1; ip route del default; ip route add blackhole default",
        )
        .ok();
        host.minirun(["run", "busybox", "true"]).ok();
        host.sh("ip route del blackhole default; ip route add default via 192.0.2.1; ip link set eth0 mtu 600").ok();
        let mtu = host.minirun(["run", "busybox", "cat", "/sys/class/net/eth0/mtu"]).ok();
        assert_eq!(mtu, "600\n");
    }
);

host_test!(the_hosts_null_device_is_not_the_containers, |host| {
    host.sh("rm -f /dev/shm/null; mknod -m 666 /dev/shm/null c 1 3; busybox mount -o bind /dev/shm/null /dev/shm/null")
        .ok();
    host.sh("$MINIRUN run -i busybox chmod 600 /proc/self/fd/0 /proc/self/fd/1 </dev/shm/null >/dev/shm/null").run();
    assert_eq!(host.sh("stat -c %a /dev/shm/null").ok(), "666\n");
    host.sh("busybox umount /dev/shm/null; rm /dev/shm/null").ok();
});

host_test!(no_volume_is_mounted_over_the_kernels_files_by_a_link, |host| {
    let tree = tree(host, "cover", "ln -s /proc data; ln -s /sys/kernel more");
    for mount in [["-v", "/etc:/data"], ["--tmpfs", "/data"], ["-v", "/etc:/more"], ["-v", "/etc/passwd:/data/version"]]
    {
        let said = host.minirun(["run", "--net=host", mount[0], mount[1], "--rootfs", tree.text(), "sh"]).fails(125);
        assert!(said.contains("the kernel's own files"), "{mount:?}: {said}");
    }
});

// A node of any disk may be made by root in a container (docker's capabilities allow it), and must not open.
host_test!(devices_that_a_container_makes_do_not_open, |host| {
    let volume = host.directory("volume");
    for place in ["/", "/dev/", "/dev/shm/", "/vol/", "/scratch/"] {
        let script = format!("mknod {place}node c 1 3 && echo made && echo x >{place}node");
        let mount = format!("{}:/vol", volume.text());
        let call = ["run", "-v", &mount, "--tmpfs", "/scratch", "busybox", "sh", "-c", &script];
        let said = host.minirun(call).run();
        assert!(
            said.code != 0 && said.stdout == "made\n" && said.stderr.contains("ermission denied"),
            "{place}: {said}"
        );
    }
});

/// Says its address and answers at port 80.
const ANSWERS: &str = "ip -o -4 addr show eth0 | sed 's/.*inet \\([0-9.]*\\).*/\\1/'; nc -ll -p 80 -e true";

// Where the host is a router already, no `guarded` link stands before the rule that keeps the LAN out.
host_test!(cold the_lan_is_kept_out_of_a_router_too, |host| {
    host.sh("sysctl -qw net.ipv4.ip_forward=1").ok();
    let mut running = host.minirun(["run", "busybox", "sh", "-c", ANSWERS]).start();
    let address = running.says("10.214.").trim().to_owned();
    let connect = format!("busybox nc -w 2 {address} 80 </dev/null");
    host.soon("the host reaches it", || host.sh(&connect).run().code == 0);
    host.lan(&format!("ip route add {address}/32 via {HOST}")).ok();
    // By the rules, also where nothing looks at the bridge's entrance.
    host.sh("tc qdisc del dev minirun0 clsact").ok();
    let said = host.lan(&connect).run();
    assert_ne!(said.code, 0, "{said}");
    // Who would mend it stands still.
    running.signal(Signal::SIGSTOP);
    host.sh("nft flush chain inet minirun forward").ok();
    assert_eq!(host.lan(&connect).run().code, 0, "without the rules it is reached, or this test shows nothing");
    running.signal(Signal::SIGCONT);
    host.soon("the rules come back", || host.sh("nft list chain inet minirun forward").ok().contains("drop"));
    assert_ne!(host.lan(&connect).run().code, 0);
    host.minirun(["network", "reload"]).ok();
    running.signal(Signal::SIGTERM);
    running.wait();
    host.sh("sysctl -qw net.ipv4.ip_forward=0").ok();
});

host_test!(the_lan_is_kept_out_while_the_hosts_rules_are_flushed, |host| {
    // What the first published port leaves on purpose.
    host.minirun(["run", "-p", "8080:80", "busybox", "true"]).ok();
    host.settle();
    let options = ["run", "-p", "127.0.0.1:8080:80", "busybox", "sh", "-c", ANSWERS];
    let mut running = host.minirun(options).start();
    let address = running.says("10.214.").trim().to_owned();
    let connect = format!("busybox nc -w 2 {address} 80 </dev/null");
    host.soon("the host reaches it", || host.sh(&connect).run().code == 0);
    host.lan(&format!("ip route add {address}/32 via {HOST}")).ok();
    running.signal(Signal::SIGSTOP);
    host.sh("nft flush ruleset").ok();
    assert_ne!(host.lan(&connect).run().code, 0);
    assert_eq!(host.sh(&connect).run().code, 0, "it answers still");
    // By the bridge's guard.
    host.sh("tc qdisc del dev minirun0 clsact").ok();
    assert_eq!(host.lan(&connect).run().code, 0, "without the guard it is reached, or this test shows nothing");
    host.minirun(["network", "reload"]).ok();
    host.sh("nft flush ruleset").ok();
    assert_ne!(host.lan(&connect).run().code, 0);
    let own = "busybox nc -w 2 127.0.0.1 8080 </dev/null";
    assert_ne!(host.sh(own).run().code, 0, "nothing leads to it");
    running.signal(Signal::SIGCONT);
    host.soon("its port is back", || host.sh(own).run().code == 0);
    running.signal(Signal::SIGTERM);
    running.wait();
    host.lan(&format!("ip route del {address}/32")).ok();
});

host_test!(nohup_holds, |host| {
    let mut running = host.sh("trap '' HUP; exec $MINIRUN run busybox sh -c 'echo ready; sleep 1; exit 9'").start();
    running.says("ready");
    running.signal(Signal::SIGHUP);
    assert_eq!(running.wait().code, 9);
});

host_test!(a_terminal_that_nobody_reads_does_not_hold_minirun, |host| {
    let started = std::time::Instant::now();
    let line = "mkfifo /dev/shm/pipe; $MINIRUN run -t busybox yes >/dev/shm/pipe & p=$!; exec 3</dev/shm/pipe; sleep 1; \
        kill -TERM $p; wait $p || echo code=$?; rm /dev/shm/pipe";
    let said = host.sh(line).run();
    assert!(said.stdout.contains("code=143"), "{said}");
    assert!(started.elapsed().as_secs() < 5);
});

host_test!(a_reader_that_has_gone_ends_the_terminal, |host| {
    assert_eq!(host.sh("$MINIRUN run -t busybox yes | head -n 1 | tr -d '\\r'").ok(), "y\n");
});

host_test!(help_is_plain_where_nobody_looks, |host| {
    let help = host.minirun(["run", "--help"]).ok();
    assert!(help.starts_with("Run a program in a new container\n"), "{help}");
    assert!(help.contains("Usage: minirun run [OPTIONS] IMAGE") && !help.contains('\u{1b}'), "{help}");
});

host_test!(what_looks_like_an_option_is_not_an_image, |host| {
    for words in [vec!["run", "--no-such-option", "busybox"], vec!["run", "--privilege", "busybox", "true"]] {
        let said = host.minirun(words).fails(125);
        assert!(said.contains("unknown option") || said.contains("unexpected argument"), "{said}");
    }
    assert_eq!(host.minirun(["run", "--entrypoint", "", "busybox", "echo", "x"]).ok(), "x\n");
    host.minirun(["run", "--read-only", "-w", "/made", "busybox", "pwd"]).ok();
});

// CVE-2022-29162, CVE-2022-24769: with inheritable capabilities, whoever runs a file that has some gets them.
host_test!(rights_that_minirun_could_inherit_are_not_passed_on, |host| {
    host.has_run_detached();
    let id = host.detached(&["--net=none"], &["sleep", "1000"]);
    let set = "setpriv --inh-caps=+net_admin,+chown --ambient-caps=+net_admin,+chown";
    let look = "grep -E '^Cap(Inh|Amb)' /proc/self/status";
    let shows = host.sh(&format!("{set} {look}")).ok();
    assert!(!shows.contains("Amb:\t0000000000000000"), "or this test shows nothing: {shows}");
    let user = |name: &str| format!("-u {name}");
    for user in [String::new(), user("1000"), user("0:7")] {
        for words in [format!("run --net=none {user} busybox"), format!("exec {user} {id}")] {
            let said = host.sh(&format!("{set} $MINIRUN {words} {look}")).ok();
            assert_eq!(said, "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n", "{words}");
        }
    }
    host.remove_all();
});

// CVE-2022-36109, CVE-2022-2989: a file that is closed to a group was open to who has it as its first one only.
host_test!(groups_are_those_of_the_user_and_never_the_callers, |host| {
    host.has_run_detached();
    let tree = tree(
        host,
        "groups",
        "ln -s busybox bin/id; echo 'ann:x:1000:100::/:/bin/sh' >etc/passwd; \
            printf 'users:x:100:\nwheel:x:10:ann,bob\nother:x:11:bob\n' >etc/group",
    );
    let id = host.minirun([
        "run",
        "-d",
        "--net=none",
        "--rootfs",
        tree.text(),
        "sh",
        "-c",
        "sleep 1000 || busybox sleep 1000",
    ]);
    let id = id.ok().trim().to_owned();
    for (user, groups) in [
        ("0", "0"),
        ("ann", "100 10"),
        ("1000", "100 10"),
        ("1000:2000", "2000"),
        ("ann:wheel", "10"),
        ("7", "0"),
        ("7:8", "8"),
    ] {
        for words in [format!("run --net=none -u {user} --rootfs {}", tree.text()), format!("exec -u {user} {id}")] {
            let said = host.sh(&format!("setpriv --groups 0,4,27 $MINIRUN {words} id -G")).ok();
            assert_eq!(said.trim(), groups, "{words}");
        }
    }
    host.remove_all();
});

// CVE-2017-5226: characters pushed into the caller's terminal. By default the filter refuses; where that is opened, the
// terminal is not the container's.
host_test!(nothing_is_pushed_into_the_callers_terminal, |host| {
    let place = host.directory("probe");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/seccomp/probe.c");
    host.sh(&format!("cc -O1 -static -fno-pie -no-pie -o {}/probe {source}", place.text())).ok();
    let volume = format!("{}:/t:ro", place.text());
    for options in [&["-i", "--security-opt", "allow=tiocsti"][..], &["-i"], &["-i", "-t"]] {
        let words = [&["run", "--net=none", "-v", &volume], options, &["busybox", "/t/probe", "tiocsti:0"]].concat();
        let mut terminal = Terminal::start(&host::binary(), &words, 24, 80);
        assert_eq!(terminal.wait(), 0);
        terminal.shows("tiocsti:0 EPERM");
    }
    let mut terminal = Terminal::start(&format!("{}/probe", place.text()), &["tiocsti:0"], 24, 80);
    assert_eq!(terminal.wait(), 0);
    terminal.shows("tiocsti:0 ok");
});

host_test!(cold a_state_that_another_user_prepared_is_refused, |host| {
    for prepare in [
        "mkdir -m 700 /run/minirun; chown 1000 /run/minirun",
        "mkdir -m 777 /run/minirun",
        "mkdir -m 770 /run/minirun",
        "mkdir -m 700 /run/other; ln -s other /run/minirun",
        "echo >/run/minirun",
    ] {
        host.sh(&format!("umask 0; {prepare}")).ok();
        for words in ["run --net=none busybox true", "ps", "system prune"] {
            let said = host.sh(&format!("$MINIRUN {words}")).fails(125);
            assert!(said.contains("/run/minirun`"), "{prepare}: {said}");
        }
        assert_eq!(host.sh("find /run/minirun /run/other -mindepth 1 2>&- | cat").ok(), "", "{prepare}");
        host.sh("rm -rf /run/minirun /run/other").ok();
    }
});

// All of the known runtimes waited for ever for somebody to write into the image's FIFO.
host_test!(an_image_cannot_hold_minirun_by_its_list_of_users, |host| {
    let canary = host.directory("canary");
    canary.file("passwd", "root:x:0:0::/:/bin/sh\nann:x:77:77::/:/bin/sh\n");
    for (prepared, says) in [
        ("mkfifo etc/passwd", "not a plain file"),
        ("mkfifo etc/group; touch etc/passwd", "not a plain file"),
        ("mkdir etc/passwd", "not a plain file"),
        ("mknod etc/passwd c 1 5", "not a plain file"),
        ("ln -s /dev/zero etc/passwd", "no such user"),
        ("ln -s /tmp/canary/passwd etc/passwd", "no such user"),
        ("ln -s ../../../../../../tmp/canary/passwd etc/passwd", "no such user"),
        ("ln -s /proc/self/fd/0 etc/passwd", "no such user"),
        ("head -c 2000000 /dev/zero >etc/passwd", "larger than 1 MiB"),
    ] {
        let tree = tree(host, "users", prepared);
        let words = ["run", "--net=none", "-u", "ann", "--rootfs", tree.text(), "sh", "-c", "exit 1"];
        let mut running = host.minirun(words).start();
        host.soon(&format!("it ends in spite of `{prepared}`"), || running.has_ended());
        let output = running.wait();
        assert!(output.code == 125 && output.stderr.contains(says), "{prepared}: {output}");
    }
});
