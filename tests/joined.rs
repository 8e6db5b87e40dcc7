//! A container whose root may look into every process that it sees, and stop it, and take it over: what is started among its
//! processes has nothing that it could get at.

mod host;

use host::{Host, Terminal, host_test};

/// What no container has in its reach: a file of the host's, by its name and its text.
const CANARY: &str = "canary-of-the-host";

/// Stops each process that appears and is not its own, and looks for the canary in all that leads out of it; tells its rights,
/// its program and what it has open.
const SPY: &str = r#"
echo ready
# A process obeys SIGSTOP a moment later, and may have become its program by then, which is the container's own.
is_own() { case $(readlink /proc/self/fd/3) in /bin/busybox) ;; *) false;; esac; }
look() {
    echo "RIGHTS $(sed -n 's/^CapPrm:.//p' $p/status)"
    for way in root cwd $(cd $p/fd && echo fd/*); do
        l=$(readlink $p/$way) && echo "LINK $way $l"
        [ -e $p/$way/tmp/host/canary-of-the-host ] && echo "FOUND $way"
        [ -e $p/$way/canary-of-the-host ] && echo "FOUND $way"
        cat $p/$way/tmp/host/canary-of-the-host && echo "FOUND $way"
    done
    cat $p/mountinfo $p/environ $p/cmdline | tr '\0' '\n' | sed 's/^/TEXT /'
    x=$(readlink $p/exe)
    case $x in
        /bin/busybox) return;;
        ?*) echo "MINIRUN $x"; (exec 3<$p/exe; is_own || { sleep 0.3; echo broken >/proc/self/fd/3 && echo "WRITTEN $x"; }) & ;;
    esac
    (exec 3>>$p/exe && ! is_own) && echo "WRITTEN $x"
}
while :; do
    for p in /proc/[0-9]*; do
        [ $p != /proc/1 ] && [ $p != /proc/$$ ] && [ "$(sed -n 's/^PPid:.//p' $p/status)" = 0 ] || continue
        kill -STOP ${p#/proc/} || continue
        look
        kill -CONT ${p#/proc/}
    done 2>/dev/null
done"#;

/// Kinds of containers that may look into others, and of those that are started among their processes.
const KINDS: [(&[&str], &[&str]); 3] = [
    (&["--cap-add", "SYS_PTRACE", "--security-opt", "seccomp=unconfined"], &["--net=none"]),
    (
        &["--cap-add", "SYS_PTRACE"],
        &["--net=bridge", "-m", "64m", "-w", "/made/for/it", "--sysctl", "net.core.somaxconn=77"],
    ),
    (&["--privileged"], &["--net=host", "-u", "nobody", "--read-only"]),
];

/// Capabilities without which nothing of the host can be had: `CAP_SYS_ADMIN`, `CAP_SYS_PTRACE`, `CAP_SYS_MODULE`,
/// `CAP_SYS_RAWIO`, `CAP_DAC_READ_SEARCH`, `CAP_NET_ADMIN`, by their numbers.
const POWERS: [u32; 6] = [21, 19, 16, 17, 2, 12];

/// Judges what a spy has told. How often it has seen minirun.
fn judge(said: &str, what: &str) -> usize {
    for line in said.lines() {
        let innocent = !line.starts_with("FOUND") && !line.starts_with("WRITTEN") && !line.contains(CANARY);
        assert!(innocent && !line.contains(&host::binary()) && !line.contains("/tmp/host"), "{what}: {line}");
        if let Some(rights) = line.strip_prefix("RIGHTS ") {
            let rights = u64::from_str_radix(rights.trim(), 16).unwrap_or(0);
            assert!(POWERS.iter().all(|power| rights & (1 << power) == 0), "{what}: {line}");
        }
        if let Some(program) = line.strip_prefix("MINIRUN ") {
            assert!(program.contains("memfd:"), "{what}: {line}");
        }
    }
    said.matches("MINIRUN ").count()
}

/// Starts containers among the processes of one with `options`, `times` in each way, by the command `run`.
fn spy_on(host: &Host, options: &[&str], own: &[&str], run: &str, times: u32) -> usize {
    let id = host.detached(&[&["--net=none", "--name", "spy"], options].concat(), &["sh", "-c", SPY]);
    host.logs_hold(&id, "ready");
    let place = host.directory("host");
    place.file(CANARY, CANARY);
    let open = format!("cd {}; exec 7<. 8<{CANARY} 9</", place.text());
    let words = own.join(" ");
    let line = format!("{open}; for i in $(seq {times}); do {run} {words} --pid=container:spy busybox sleep 0.3; done");
    host.sh(&line).env("OF_THE_HOST", CANARY).ok();
    host.minirun(["kill", &id]).ok();
    let seen = judge(&host.logs(&id), &format!("{options:?} {own:?}"));
    host.minirun(["rm", &id]).ok();
    seen
}

host_test!(who_joins_the_processes_of_a_container_has_nothing_of_the_hosts, within 300, |host| {
    host.has_run_detached();
    let before = host.sh("sha256sum $MINIRUN").ok();
    for (options, own) in KINDS {
        let seen = spy_on(host, options, own, "$MINIRUN run", 10);
        println!("{options:?} {own:?}: minirun was seen {seen} times");
    }
    assert_eq!(host.sh("sha256sum $MINIRUN").ok(), before);
});

// Each process waits long before the first thing that it does, so that it is seen as it was born.
host_test!(nor_has_one_that_is_slow, within 300, |host| {
    host.has_run_detached();
    let slowly = "strace -f -qq -o /dev/null -e inject=setsid,keyctl:delay_enter=200000 $MINIRUN run";
    for (options, own) in KINDS {
        let seen = spy_on(host, options, own, slowly, 3);
        assert!(seen >= 3, "{options:?}: minirun was seen {seen} times only");
    }
});

// Before Linux 6.17 the kernel does not know of which namespace /proc is to be, and one that is there is shared.
host_test!(nor_has_one_on_an_older_kernel, within 120, |host| {
    host.has_run_detached();
    let older = "strace -f -qq -o /dev/null -e inject=fsconfig:error=EINVAL $MINIRUN run";
    for (options, own) in KINDS {
        let seen = spy_on(host, options, own, older, 5);
        println!("{options:?} {own:?}: minirun was seen {seen} times");
    }
    let id = host.detached(&["--net=none", "--name", "spy"], &["sleep", "1000"]);
    let look = "ps ax -o args | grep -c '[s]leep 1000'; grep -c . /proc/self/status; echo x >/proc/sys/kernel/domainname || \
        grep ' /proc' /proc/self/mountinfo | cut -d' ' -f4-6";
    let run = |run: &str| host.sh(&format!("{run} --net=none --pid=container:spy busybox sh -c \"{look}\"")).run().stdout;
    let (now, then) = (run("$MINIRUN run"), run(older));
    assert!(now.starts_with("1\n") && now.contains(" /proc "), "{now}");
    assert_eq!(then, now);
    host.minirun(["rm", "-f", &id]).ok();
});

/// Takes over each process that appears: none of the calls has an effect by which it gives up its rights.
const TAKER: &str = r#"
echo ready
while :; do
    for p in /proc/[0-9]*; do
        [ $p != /proc/1 ] && [ $p != /proc/$$ ] && [ "$(sed -n 's/^PPid:.//p' $p/status)" = 0 ] || continue
        kill -STOP ${p#/proc/} || continue
        strace -f -qq -o /dev/null -e inject=capset,prctl,seccomp,setresuid,setresgid,setgroups:retval=0 -p ${p#/proc/} &
        while kill -0 $! && grep -q '^TracerPid:.0$' $p/status; do :; done
        kill -CONT ${p#/proc/}
        wait
    done 2>/dev/null
done"#;

host_test!(who_is_taken_over_has_no_power_over_the_host, within 120, |host| {
    host.has_run_detached();
    // With strace, which is the host's.
    let tools = ["-v", "/usr:/usr:ro", "-v", "/lib:/lib:ro", "-v", "/lib64:/lib64:ro"];
    let options = ["--net=none", "--name", "taker", "--cap-add", "SYS_PTRACE", "--security-opt", "seccomp=unconfined"];
    host.detached(&[&options[..], &tools].concat(), &["sh", "-c", TAKER]);
    host.logs_hold("taker", "ready");
    let mut taken = 0;
    // minirun, not its child, is slow where that waits for it.
    let slowly = "strace -qq -o /dev/null -e inject=waitid:delay_enter=300000 $MINIRUN run --net=none";
    for _ in 0..10 {
        let said = host.sh(&format!("{slowly} --pid=container:taker busybox cat /proc/self/status")).run();
        let field = |name: &str| said.stdout.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let rights = u64::from_str_radix(field("CapPrm:").expect("a status"), 16).expect("a number");
        assert!(POWERS.iter().all(|power| rights & (1 << power) == 0), "{said}");
        taken += u32::from(field("Seccomp:") == Some("0"));
    }
    println!("{taken} of 10 were taken over");
    assert!(taken > 0, "none was taken over, or this test shows nothing");
    host.remove_all();
});

// Who is in the container alone may look into no other, but one that is with it may.
host_test!(a_further_program_is_not_looked_into_by_another_container, within 120, |host| {
    host.has_run_detached();
    let id = host.detached(&["--net=none", "--name", "first"], &["sleep", "1000"]);
    let options = ["--net=none", "--name", "spy", "--cap-add", "SYS_PTRACE", "--pid=container:first"];
    host.detached(&options, &["sh", "-c", SPY]);
    host.logs_hold("spy", "ready");
    let place = host.directory("host");
    place.file(CANARY, CANARY);
    let open = format!("cd {}; exec 7<. 8<{CANARY} 9</", place.text());
    host.sh(&format!("{open}; for i in $(seq 20); do $MINIRUN exec first sleep 0.3; done")).ok();
    host.minirun(["kill", "spy"]).ok();
    println!("minirun was seen {} times", judge(&host.logs("spy"), "exec"));
    host.minirun(["rm", "-f", "spy", &id]).ok();
});

host_test!(terminals_and_restarts_among_the_processes_of_another, |host| {
    host.has_run_detached();
    host.detached(&["--net=none", "--name", "first"], &["sleep", "1000"]);
    let words = ["run", "-it", "--net=none", "--name", "shell", "--pid=container:first", "busybox", "sh"];
    let mut terminal = Terminal::start(&host::binary(), &words, 33, 101);
    terminal.shows("# ");
    terminal.types("stty size; tty; ps ax -o args | grep -c '[s]leep 1000'\n");
    terminal.shows("33 101");
    terminal.shows("/dev/pts/0");
    // It is the terminal of the shell's session: there are jobs, and keys for them.
    terminal.types("sleep 200\n");
    host.soon("it sleeps", || host.sh("ps ax").ok().contains("sleep 200"));
    terminal.types("\x03");
    terminal.types("echo code=$?\n");
    terminal.shows("code=130");
    terminal.types("exit 9\n");
    assert_eq!(terminal.wait(), 9, "{}", terminal.screen());
    host.detached(&["--net=none", "--name", "second", "--pid=container:first"], &["sleep", "1001"]);
    let pid = host.pid_of("second");
    assert_eq!(host.minirun(["restart", "first", "second"]).ok(), "first\nsecond\n");
    host.soon("it has ended with the first", || !host::is_alive(pid));
    assert_eq!((host.status("first"), host.status("second")), ("running".into(), "running".into()));
    host.remove_all();
});

host_test!(who_joins_another_is_killed_at_every_fourth_call, within 300, |host| {
    host.has_run_detached();
    let id = host.detached(&["--net=none", "--name", "first"], &["sleep", "1000"]);
    let words = "run --net=none --pid=container:first busybox sleep 0.02";
    for below in [false, true] {
        let calls = if below { host.calls_of_the_child(words) } else { host.calls(words) };
        // The child's last one is the joiner's, by which it would have told of its sibling.
        let last = calls.iter().rfind(|call| below && call.name == "write");
        for call in calls.iter().step_by(4).chain(last) {
            let tampered = if below { host.tampered_below(words, call, "signal=KILL") } else { host.tampered(words, call, "signal=KILL") };
            let output = tampered.run();
            assert!([0, 125, 137].contains(&output.code), "{call:?}: {output}");
            assert_eq!(host.minirun(["ps", "-aq"]).ok().lines().count(), 1, "{call:?}");
        }
        host.bury();
    }
    host.minirun(["rm", "-f", &id]).ok();
});

host_test!(calls_of_who_joins_another_fail, within 300, |host| {
    host.has_run_detached();
    let id = host.detached(&["--net=none", "--name", "first"], &["sleep", "1000"]);
    let words = "run --net=none --pid=container:first busybox true";
    // As in tests/errors.rs; and a debug build counts its threads by a directory.
    let cannot_fail = ["exit_group", "getrandom", "close", "flock", "umask", "getdents64"];
    for below in [false, true] {
        let calls = if below { host.calls_of_the_child(words) } else { host.calls(words) };
        for call in calls.iter().filter(|call| !cannot_fail.contains(&call.name.as_str())).step_by(2) {
            let error = "error=ENOMEM";
            let failing =
                if below { host.tampered_below(words, call, error) } else { host.tampered(words, call, error) };
            let mut failing = failing.start();
            host.soon(&format!("it ends although {call:?} fails"), || failing.has_ended());
            let output = failing.wait();
            let in_rusts_start = output.stderr.contains("stack_overflow.rs");
            assert!(in_rusts_start || !output.stderr.contains("panicked"), "{call:?}: {output}");
        }
        host.bury();
    }
    assert_eq!(host.minirun(["ps", "-q"]).ok().trim(), id);
    host.remove_all();
});
