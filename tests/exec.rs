//! Further programs in a container: they have what its first one has, and nothing of the host's.

mod host;

use host::{ALONE, Host, host_test, is_alive, kill_hard, open_files};
use nix::sys::signal::Signal;

/// What of /proc/PID/status says what a process may do.
const RIGHTS: [&str; 11] = [
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
];

fn rights(pid: u32) -> Vec<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let wanted = |line: &&str| RIGHTS.iter().any(|field| line.split(':').next() == Some(field));
    status.lines().filter(wanted).map(words).collect()
}

fn read(pid: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("of a process")
}

/// The namespaces of a process.
fn namespaces(pid: u32) -> Vec<String> {
    ["mnt", "pid", "net", "ipc", "uts", "cgroup", "user"]
        .map(|kind| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect(kind).display().to_string())
        .to_vec()
}

fn exec(host: &Host, words: &[&str]) -> String {
    host.minirun([&["exec"], words].concat()).ok()
}

/// Containers whose further programs are all to be as their first ones.
fn kinds() -> Vec<Vec<&'static str>> {
    vec![
        vec!["--net=bridge"],
        vec!["--net=host"],
        vec!["--net=none", "--pid=host"],
        vec!["--net=none", "-m", "64m", "--pids-limit", "50"],
        vec!["--net=none", "-u", "nobody"],
        vec!["--net=none", "--cap-add", "SYS_PTRACE", "--cap-drop", "CHOWN"],
        vec!["--net=none", "--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges=false"],
        vec!["--net=none", "--ulimit", "nofile=77:99", "--ulimit", "core=0"],
        vec!["--net=none", "--privileged"],
    ]
}

host_test!(a_further_program_is_as_the_first_one, within 120, |host| {
    host.has_run_detached();
    for options in kinds() {
        let id = host.detached(&options, &["sleep", "1000"]);
        let first = host.pid_of(&id);
        let exec = host.minirun(["exec", &id, "sleep", "999"]).start();
        let runs = |pid| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == b"sleep\x00999\0");
        host.soon("it runs", || exec.child().is_some_and(runs));
        let further = exec.child().expect("a program");
        assert_eq!(namespaces(further), namespaces(first), "{options:?}");
        assert_eq!(rights(further), rights(first), "{options:?}");
        for file in ["cgroup", "limits", "mountinfo", "oom_score_adj"] {
            assert_eq!(read(further, file), read(first, file), "{options:?}");
        }
        let root = |pid| std::fs::read_link(format!("/proc/{pid}/root")).expect("root");
        assert_eq!(root(further), root(first));
        let files: Vec<_> = open_files(further).into_iter().map(|(number, _)| number).collect();
        assert_eq!(files, [0, 1, 2], "{options:?}");
        // Nothing that is minirun's is among its ancestors' signals: none is blocked or ignored.
        for field in ["SigBlk", "SigIgn"] {
            let line = read(further, "status").lines().find(|line| line.starts_with(field)).map(str::to_owned);
            assert!(line.as_ref().is_some_and(|line| line.ends_with("\t0000000000000000")), "{line:?}");
        }
        // The container's end is its end.
        host.minirun(["kill", &id]).ok();
        if !options.contains(&"--pid=host") {
            assert_eq!(exec.wait().code, 137);
        } else {
            host.soon("it has ended", || !is_alive(further));
            exec.wait();
        }
        host.minirun(["rm", &id]).ok();
    }
});

host_test!(options_of_exec, |host| {
    host.has_run_detached();
    let id = host.detached(&["--net=none", "-e", "A=first", "-e", "B=b", "-w", "/tmp"], &["sleep", "1000"]);
    let script = "echo $A $B $C; pwd; id -u; id -g";
    assert_eq!(exec(host, &[&id, "sh", "-c", script]), "first b\n/tmp\n0\n0\n");
    let said = exec(host, &["-e", "A=second", "-e", "C=c", "-w", "/etc", "-u", "nobody", &id, "sh", "-c", script]);
    assert!(said.starts_with("second b c\n/etc\n65534\n"), "{said}");
    assert_eq!(exec(host, &["-u", "7:8", &id, "sh", "-c", "id -u; id -g; id -G; echo $HOME"]), "7\n8\n8\n/\n");
    let place = host.directory("files");
    let file = place.file("env", "# no\nA=of-a-file\nHOSTS\n");
    let said = host.minirun(["exec", "--env-file", &file, &id, "sh", "-c", "echo $A $HOSTS"]).env("HOSTS", "own").ok();
    assert_eq!(said, "of-a-file own\n");
    // -d returns when it runs, and it outlives the command.
    assert_eq!(exec(host, &["-d", &id, "sh", "-c", "echo $$ >/tmp/pid; exec sleep 999"]), "");
    host.soon("it runs", || exec(host, &[&id, "ps"]).contains("sleep 999"));
    host.minirun(["exec", "-d", &id, "/nosuch"]).fails(127);
    exec(host, &[&id, "sh", "-c", "kill $(cat /tmp/pid)"]);
    // Wrong ones.
    for (code, words) in [
        (125, vec!["-u", "4294967296", &id, "true"]),
        (125, vec!["-u", "4294967295", &id, "true"]),
        (125, vec!["-u", "-1", &id, "true"]),
        (125, vec!["-u", "nosuch", &id, "true"]),
        (125, vec!["-u", "0:nosuch", &id, "true"]),
        (125, vec!["-w", "relative", &id, "true"]),
        (125, vec!["-w", "/nosuch", &id, "true"]),
        (125, vec!["-w", "/etc/passwd", &id, "true"]),
        (125, vec!["-e", "=x", &id, "true"]),
        (125, vec!["-d", "-i", &id, "true"]),
        (125, vec!["--net-only", "-u", "7", &id, "true"]),
        (125, vec![&id]),
        (125, vec![&id, ""]),
        (125, vec!["nosuch", "true"]),
        (126, vec![&id, "/etc"]),
        (126, vec![&id, "/proc/self/exe"]),
        (127, vec![&id, "/nosuch"]),
        (127, vec![&id, "nosuch"]),
        (7, vec![&id, "sh", "-c", "exit 7"]),
        (137, vec![&id, "sh", "-c", "kill -9 $$"]),
        (143, vec![&id, "sh", "-c", "kill $$"]),
    ] {
        let output = host.minirun([&["exec"], &words[..]].concat()).run();
        assert_eq!(output.code, code, "{output}");
        assert!(output.code < 125 || output.code > 127 || output.stderr.starts_with("minirun: "), "{output}");
    }
    // Process 1 of this host buries nobody, and that is no reason for a container not to end.
    host.minirun(["kill", &id]).ok();
    host.minirun(["exec", &id, "true"]).fails(125);
    host.remove_all();
});

host_test!(privileged_takes_the_guards_off_one_program, |host| {
    host.has_run_detached();
    let id = host.detached(&["--net=none", "-u", "nobody"], &["sleep", "1000"]);
    let own = rights(std::process::id());
    let of = |field: &str, rights: &[String]| rights.iter().find(|line| line.starts_with(field)).cloned();
    let mut exec =
        host.minirun(["exec", "--privileged", "-u", "0", &id, "sh", "-c", "echo ready; exec sleep 1000"]).start();
    exec.says("ready");
    let further = rights(exec.child().expect("a program"));
    for field in ["CapEff:", "Seccomp:", "Seccomp_filters:"] {
        assert_eq!(of(field, &further), of(field, &own));
    }
    assert_eq!(of("NoNewPrivs:", &further).as_deref(), Some("NoNewPrivs: 0"));
    host.remove_all();
});

host_test!(streams_of_exec, |host| {
    host.has_run_detached();
    let id = host.detached(&ALONE, &["sleep", "1000"]);
    let output = host.minirun(["exec", &id, "sh", "-c", "echo out; echo err >&2"]).run();
    assert_eq!((&output.stdout[..], &output.stderr[..]), ("out\n", "err\n"));
    assert_eq!(host.minirun(["exec", &id, "cat"]).stdin("unheard").ok(), "");
    assert_eq!(host.minirun(["exec", "-i", &id, "cat"]).stdin("heard").ok(), "heard");
    let place = host.directory("much");
    let copy = "head -c 10000000 /dev/urandom >much; $MINIRUN exec -i $id cat <much | cmp - much; cat much | $MINIRUN exec -i $id cat | cmp - much";
    host.sh(&format!("cd {}; id={id}; {copy}", place.text())).ok();
    // Whoever reads no more ends it.
    host.sh(&format!("test \"$($MINIRUN exec {id} yes | head -n 1)\" = y")).ok();
    host.remove_all();
});

host_test!(signals_of_exec, |host| {
    host.has_run_detached();
    let id = host.detached(&ALONE, &["sleep", "1000"]);
    let shell = |script: &str| {
        let mut exec = host.minirun(["exec", &id, "sh", "-c", &format!("echo ready; {script}")]).start();
        exec.says("ready");
        exec
    };
    let trapped = shell("trap 'exit 6' TERM; while :; do sleep 0.05; done");
    trapped.signal(Signal::SIGTERM);
    assert_eq!(trapped.wait().code, 6);
    let plain = shell("exec sleep 1000");
    plain.signal(Signal::SIGINT);
    assert_eq!(plain.wait().code, 130);
    // A killed command takes its program along, whoever that is.
    for user in ["0", "7:7"] {
        let mut killed = host.minirun(["exec", "-u", user, &id, "sh", "-c", "echo ready; exec sleep 998"]).start();
        killed.says("ready");
        let program = killed.child().expect("a program");
        kill_hard(killed.pid());
        host.soon("the program has ended", || !is_alive(program));
        assert_eq!(killed.wait().code, 137);
    }
    assert_eq!(host.status(&id), "running");
    host.bury();
    host.remove_all();
});

host_test!(net_only_runs_a_program_of_the_host, |host| {
    host.has_run_detached();
    let id = host.detached(&[], &["sleep", "1000"]);
    let address = host.inspect(&id, ".NetworkSettings.IPAddress");
    let net_only = |words: &[&str]| exec(host, &[&["--net-only", &id, "--"], words].concat());
    assert!(net_only(&["ip", "-o", "-4", "addr"]).contains(&address));
    assert_eq!(net_only(&["ls", "/sys/class/net"]), "eth0\nlo\n");
    assert_eq!(
        net_only(&["sh", "-c", "readlink /proc/self/ns/net"]).trim(),
        host.sh(&format!("readlink /proc/{}/ns/net", host.pid_of(&id))).ok().trim()
    );
    // Otherwise it is on the host.
    let marked = host.directory("marked");
    assert_eq!(net_only(&["ls", "-d", marked.text()]), format!("{}\n", marked.text()));
    assert_eq!(net_only(&["readlink", "/proc/self/ns/pid"]), host.sh("readlink /proc/self/ns/pid").ok());
    host.minirun(["exec", "--net-only", &id, "--", "sh", "-c", "exit 9"]).fails(9);
    host.minirun(["exec", "--net-only", &id, "--", "nosuch-program"]).fails(127);
    // It may outlive the container, and holds nothing of it but its network.
    drop(marked);
    host.remove_all();
    host.nothing_left();
});

// CVE-2024-21626: a descriptor of the host's, found by its number below /proc/self/fd.
host_test!(no_descriptor_leads_out, within 120, |host| {
    host.has_run_detached();
    let id = host.detached(&ALONE, &["sleep", "1000"]);
    let place = host.directory("out-there");
    place.file("host-file", "");
    for number in 3..20 {
        exec(host, &[&id, "ln", "-sfn", &format!("/proc/self/fd/{number}"), "/tmp/link"]);
        for workdir in [format!("/proc/self/fd/{number}"), "/tmp/link".into(), "/tmp/link/..".into()] {
            let open = format!("cd {}; eval 'exec 7<.'; eval 'exec 9</'", place.text());
            let run = format!("exec $MINIRUN exec -w {workdir} {id} sh -c 'pwd; ls -a; ls -a ..'");
            let output = host.sh(&format!("{open}; {run}")).run();
            assert!(!output.stdout.contains("host-file") && !output.stdout.contains("out-there"), "{output}");
            assert!(output.code == 0 || output.code == 125, "{output}");
        }
    }
    host.remove_all();
});

/// Looks at all that appears in the container, again and again: what it was started from, where it is, what it has open, its
/// environment; and tries to hold on to its program and to write to it.
const SPY: &str = r#"
look() {
    for f in $p/fd/* $p/cwd $p/root; do l=$(readlink $f) && echo "LINK $l"; done
    tr '\0' '\n' <$p/environ | while read -r l; do echo "ENV $l"; done
    x=$(readlink $p/exe) || return
    case $x in /bin/busybox) echo "SEEN $(tr '\0' ' ' <$p/cmdline)"; return;; esac
    echo "EXE $x"
    (exec 3<$p/exe; echo "OPENED $x"; sleep 0.3; echo broken >/proc/self/fd/3 && echo "WRITTEN $x") &
    (echo broken >$p/exe) && echo "WRITTEN $x"
}
while :; do
    for p in /proc/[0-9]*; do [ $p = /proc/1 ] || look 2>/dev/null; done
done"#;

host_test!(what_joins_a_container_shows_nothing_of_the_host, within 300, |host| {
    host.has_run_detached();
    let before = host.sh("sha256sum $MINIRUN").ok();
    let binary = host::binary();
    let place = host.directory("host-mark");
    for options in [&["--net=none"][..], &["--net=none", "--cap-add", "SYS_PTRACE"]] {
        let id = host.detached_shell(options, SPY);
        let run = format!(
            "cd {}; exec 7<.; for i in $(seq 50); do $MINIRUN exec {id} sleep 0.1; done",
            place.text()
        );
        host.sh(&run).env("OF_THE_HOST", "host-mark").ok();
        // It has seen the programs, so it has looked.
        host.logs_hold(&id, "SEEN sleep 0.1");
        host.minirun(["kill", &id]).ok();
        let said = host.logs(&id);
        for line in said.lines().filter(|line| !line.starts_with("SEEN") && *line != "ready") {
            let ptrace = options.len() > 1;
            assert!(!line.contains("host-mark") && !line.contains(&binary) && !line.contains("/run/minirun"), "{line}");
            assert!(!line.starts_with("WRITTEN"), "{line}");
            assert!(!line.starts_with("EXE") || ptrace && line.contains("memfd:"), "{options:?}: {line}");
        }
        println!("{options:?}: {} lines, {} of copies", said.lines().count(), said.matches("memfd:").count());
        host.minirun(["rm", &id]).ok();
    }
    assert_eq!(host.sh("sha256sum $MINIRUN").ok(), before);
});
