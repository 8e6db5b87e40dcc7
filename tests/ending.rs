//! The end of detached containers, their next beginning, their other names, and their standing still.

mod host;

use std::collections::BTreeSet;

use host::{ALONE, Host, host_test, is_alive};

/// Counts, a line at a time.
const COUNT: &str = "n=0; while :; do n=$((n + 1)); echo $n; sleep 0.05; done";

fn lines(host: &Host, container: &str) -> usize {
    host.logs(container).lines().count()
}

fn exit_code(host: &Host, container: &str) -> String {
    host.inspect(container, ".State.ExitCode")
}

host_test!(stop_sends_the_stop_signal_and_then_kills, |host| {
    host.has_run_detached();
    // A program with a handler ends by itself,
    host.detached_shell(
        &["--net=none", "--name", "polite"],
        "trap 'echo bye; exit 5' TERM; while :; do sleep 0.05; done",
    );
    assert_eq!(host.minirun(["stop", "polite"]).ok(), "polite\n");
    assert_eq!((exit_code(host, "polite"), host.logs("polite")), ("5".into(), "ready\nbye\n".into()));
    // one without a handler at once, which the kernel would not do for a process 1,
    host.detached(&["--net=none", "--name", "plain", "--stop-timeout", "1000"], &["sleep", "1000"]);
    host.minirun(["stop", "plain"]).ok();
    assert_eq!(exit_code(host, "plain"), "143");
    // one that ignores it after its time,
    host.detached_shell(
        &["--net=none", "--name", "deaf", "--stop-timeout", "1"],
        "trap '' TERM; while :; do sleep 0.05; done",
    );
    host.minirun(["stop", "deaf"]).ok();
    assert_eq!(exit_code(host, "deaf"), "137");
    // or after the one that is given.
    let options = ["--net=none", "--name", "deaf2", "--stop-timeout", "1000"];
    host.detached_shell(&options, "trap '' TERM; while :; do sleep 0.05; done");
    host.minirun(["stop", "-t", "0", "deaf2"]).ok();
    assert_eq!(exit_code(host, "deaf2"), "137");
    // What has ended is stopped already; what is not there is an error, and the others are stopped all the same.
    assert_eq!(host.minirun(["stop", "polite"]).ok(), "polite\n");
    host.detached(&["--net=none", "--name", "other"], &["sleep", "1000"]);
    let output = host.minirun(["stop", "nosuch", "other", "nosuch2"]).run();
    assert_eq!((output.code, &output.stdout[..]), (125, "other\n"), "{output}");
    assert!(output.stderr.contains("`nosuch`") && output.stderr.contains("`nosuch2`"), "{output}");
    host.minirun(["stop", "-s", "NONE", "other"]).fails(125);
    host.minirun(["stop"]).fails(125);
    host.remove_all();
});

host_test!(the_stop_signal_is_the_options_or_the_images, |host| {
    host.has_run_detached();
    let script = "for s in INT QUIT USR1 TERM; do trap \"echo got $s; exit 0\" $s; done; while :; do sleep 0.05; done";
    host.detached_shell(&["--net=none", "--name", "own", "--stop-signal", "SIGQUIT"], script);
    host.minirun(["stop", "own"]).ok();
    assert_eq!(host.logs("own"), "ready\ngot QUIT\n");
    host.detached_shell(&["--net=none", "--name", "given", "--stop-signal", "SIGQUIT"], script);
    host.minirun(["stop", "-s", "USR1", "given"]).ok();
    assert_eq!(host.logs("given"), "ready\ngot USR1\n");
    host.remove_all();
});

host_test!(kill_sends_a_signal, |host| {
    host.has_run_detached();
    let script = "trap 'echo hup' HUP; trap 'echo usr1' USR1; while :; do sleep 0.05; done";
    let id = host.detached_shell(&ALONE, script);
    for (name, said) in [("HUP", "hup\n"), ("SIGUSR1", "usr1\n")] {
        host.minirun(["kill", "-s", name, &id]).ok();
        host.logs_hold(&id, said);
    }
    // One that nobody forwards reaches it as well: the kernel sends it to the first process.
    host.minirun(["kill", "-s", "CHLD", &id]).ok();
    assert_eq!(host.status(&id), "running");
    host.minirun(["kill", "-s", "NONE", &id]).fails(125);
    assert_eq!(host.minirun(["kill", &id]).ok(), format!("{id}\n"));
    assert_eq!((host.status(&id), exit_code(host, &id)), ("exited".into(), "137".into()));
    let said = host.minirun(["kill", &id]).fails(125);
    assert!(said.contains("does not run"), "{said}");
    host.remove_all();
});

host_test!(wait_prints_exit_codes, |host| {
    host.has_run_detached();
    let one = host.detached(&["--net=none", "-i"], &["sh", "-c", "sleep 0.3; exit 4"]);
    let two = host.detached(&ALONE, &["true"]);
    assert_eq!(host.minirun(["wait", &one, &two]).ok(), "4\n0\n");
    assert_eq!(host.minirun(["wait", &two]).ok(), "0\n");
    // Of one that goes with its end, however often its name changes meanwhile.
    let gone = host.detached(&["--net=none", "--rm", "--name", "gone"], &["sleep", "1000"]);
    let before = host.minirun(["wait", &gone]).start();
    host.soon("the first one waits", || waits(before.pid()));
    host.minirun(["rename", &gone, "gone-2"]).ok();
    let after = host.minirun(["wait", "gone-2"]).start();
    host.soon("the second one waits", || waits(after.pid()));
    host.minirun(["kill", "-s", "TERM", "gone-2"]).ok();
    for waiting in [before, after] {
        let output = waiting.wait();
        assert_eq!((output.code, &output.stdout[..]), (0, "143\n"), "{output}");
    }
    // Of one in the foreground, too.
    let foreground = host.minirun(["run", "--net=none", "--name", "front", "busybox", "sleep", "1000"]).start();
    host.soon("it runs", || host.minirun(["ps", "-q", "-f", "name=front", "-f", "status=running"]).ok() != "");
    let waiting = host.minirun(["wait", "front"]).start();
    host.soon("it is waited for", || waits(waiting.pid()));
    host.minirun(["kill", "-s", "INT", "front"]).ok();
    assert_eq!((waiting.wait().stdout, foreground.wait().code), ("130\n".into(), 130));
    host.remove_all();
});

/// Whether a process sleeps in poll(2).
fn waits(pid: u32) -> bool {
    let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    ["7 ", "271 ", "73 "].iter().any(|number| call.starts_with(number))
}

host_test!(rm_removes_what_has_ended, |host| {
    host.has_run_detached();
    let id = host.detached_shell(&["--net=none", "--name", "web"], "sleep 1000");
    let pid = host.pid_of(&id);
    let said = host.minirun(["rm", "web"]).fails(125);
    assert!(said.contains("it runs") && said.contains("-f"), "{said}");
    assert!(is_alive(pid));
    assert_eq!(host.minirun(["rm", "-f", "web"]).ok(), "web\n");
    assert!(!is_alive(pid));
    host.nothing_left();
    host.minirun(["rm", "-f", "web"]).fails(125);
    // Several, in the foreground too, and one that goes by itself.
    let kept = host.detached(&ALONE, &["true"]);
    host.minirun(["wait", &kept]).ok();
    let own = host.detached(&["--net=none", "--rm"], &["sleep", "1000"]);
    let foreground = host.minirun(["run", "--net=none", "--name", "front", "busybox", "sleep", "1000"]).start();
    host.soon("it runs", || host.minirun(["ps", "-q", "-f", "name=front", "-f", "status=running"]).ok() != "");
    host.minirun(["rm", "-f", &kept, &own, "front"]).ok();
    assert_eq!(foreground.wait().code, 137);
});

host_test!(restart_carries_the_command_line_out_once_more, |host| {
    host.has_run_detached();
    let place = host.directory("volume");
    let file = place.file("given", "from-the-host");
    let script = "echo $GREETING $(cat /v/given) $(hostname); touch /once || exit 9; sleep 1000";
    let run = format!(
        "cd {}; exec $MINIRUN run -d --net=bridge --name web -e GREETING --env-file env -v ./given:/v/given:ro \
         --pidfile pid -h box busybox sh -c '{script}'",
        place.text()
    );
    place.file("env", "OTHER=1\n");
    let id = host.sh(&run).env("GREETING", "hello").ok().trim().to_owned();
    host.logs_hold("web", "hello from-the-host box\n");
    host.minirun(["rename", "web", "web-2"]).ok();
    let (pid, created) = (host.pid_of(&id), host.inspect(&id, ".Created"));
    // From another directory and another environment.
    assert_eq!(host.minirun(["restart", "web-2"]).ok(), "web-2\n");
    assert_ne!(host.pid_of(&id), pid);
    assert!(!is_alive(pid));
    assert_eq!((host.inspect("web-2", ".Id"), host.inspect("web-2", ".Created")), (id.clone(), created));
    host.logs_hold("web-2", "hello from-the-host box\nhello from-the-host box\n");
    let pidfile = std::fs::read_to_string(place.path().join("pid")).expect("pidfile");
    assert_eq!(pidfile, host.pid_of(&id).to_string());
    // One that has ended; and what fails leaves it as it was.
    host.minirun(["stop", "web-2"]).ok();
    std::fs::remove_file(&file).expect("the volume's source");
    let before = host.minirun(["inspect", "web-2"]).ok();
    let said = host.minirun(["restart", "web-2"]).fails(125);
    assert!(said.contains("given"), "{said}");
    assert_eq!(host.minirun(["inspect", "web-2"]).ok(), before);
    assert_eq!(host.logs("web-2").lines().count(), 2);
    place.file("given", "again");
    host.minirun(["restart", &id[..8]]).ok();
    host.logs_hold(&id, "hello again box\n");
    // What runs and cannot be started again is stopped.
    std::fs::remove_file(&file).expect("the volume's source");
    host.minirun(["restart", "-t", "0", "web-2"]).fails(125);
    assert_eq!(host.status("web-2"), "exited");
    host.minirun(["restart", "nosuch"]).fails(125);
    host.remove_all();
});

host_test!(whoever_waited_for_its_end_has_what_it_had, |host| {
    host.has_run_detached();
    // What a port on 127.0.0.1 turns on of the bridge stays with that.
    host.minirun(["run", "-p", "8080:80", "busybox", "true"]).ok();
    host.settle();
    // Its holder takes its time over each thing that it lets go of.
    let run = "exec strace -f -qq -o /dev/null -e inject=close:delay_exit=10000 \
         $MINIRUN run -d --name web --ip 10.214.0.77 -p 8080:80 busybox sleep 1000";
    let slow = host.sh(run).start();
    host.soon("it runs", || host.minirun(["ps", "-q"]).ok() != "");
    host.minirun(["restart", "-t0", "web"]).ok();
    slow.wait();
    host.minirun(["rm", "-f", "web"]).ok();
});

host_test!(restart_of_several_and_of_what_cannot, |host| {
    host.has_run_detached();
    let one = host.detached(&["--net=none", "--rm"], &["sleep", "1000"]);
    let two = host.detached(&ALONE, &["sleep", "1000"]);
    let foreground = host.minirun(["run", "--net=none", "--name", "front", "busybox", "sleep", "1000"]).start();
    host.soon("it runs", || host.minirun(["ps", "-q", "-f", "name=front", "-f", "status=running"]).ok() != "");
    let pids = [host.pid_of(&two), host.pid_of("front")];
    let output = host.minirun(["restart", "front", &two]).run();
    assert_eq!((output.code, &output.stdout[..]), (125, &format!("{two}\n")[..]), "{output}");
    assert!(output.stderr.contains("it runs in the foreground"), "{output}");
    assert!(is_alive(pids[1]) && !is_alive(pids[0]));
    assert_eq!(host.status(&two), "running");
    // One that goes with its end comes back, too: it is asked for by name.
    let pid = host.pid_of(&one);
    assert_eq!(host.minirun(["restart", &one]).ok(), format!("{one}\n"));
    assert_ne!(host.pid_of(&one), pid);
    host.minirun(["kill", &one, "front"]).ok();
    foreground.wait();
    assert_eq!(host.minirun(["ps", "-aq"]).ok(), format!("{two}\n"));
    host.remove_all();
});

host_test!(rename_frees_the_name, |host| {
    host.has_run_detached();
    let id = host.detached(&["--net=none", "--name", "web"], &["sleep", "1000"]);
    host.minirun(["rename", "web", "old"]).ok();
    host.minirun(["inspect", "web"]).fails(125);
    let other = host.detached(&["--net=none", "--name", "web"], &["sleep", "1000"]);
    assert_eq!((host.inspect("old", ".Id"), host.inspect("web", ".Id")), (id.clone(), other));
    let said = host.minirun(["rename", "web", "old"]).fails(125);
    assert!(said.contains("in use by container") && said.contains(&id), "{said}");
    for wrong in ["", "../x", "a b", "-x", ".x", "x\n", &"x".repeat(64)] {
        host.minirun(["rename", "--", "web", wrong]).fails(125);
    }
    host.minirun(["rename", "web", "web"]).fails(125);
    // Its end knows the name.
    host.minirun(["stop", "old"]).ok();
    assert_eq!((host.inspect("old", ".Id"), host.status("old")), (id, "exited".into()));
    host.minirun(["rename", "old", "older"]).ok();
    host.minirun(["rm", "older"]).ok();
    // One that goes with its end takes along the name that it has then.
    let gone = host.detached(&["--net=none", "--rm"], &["sleep", "1000"]);
    host.minirun(["rename", &gone, "first-name"]).ok();
    host.minirun(["rename", "first-name", "second-name"]).ok();
    host.minirun(["kill", "second-name"]).ok();
    assert_eq!(host.sh("ls /run/minirun/names").ok(), "web\n");
    host.remove_all();
    assert_eq!(host.sh("ls /run/minirun/names").ok(), "");
});

host_test!(a_paused_container_stands_still, |host| {
    host.has_run_detached();
    for options in [&["--net=none"][..], &["--net=none", "-m", "64m"]] {
        let id = host.detached_shell(options, COUNT);
        host.logs_hold(&id, "\n3\n");
        assert_eq!(host.minirun(["pause", &id]).ok(), format!("{id}\n"));
        assert_eq!(host.status(&id), "paused");
        assert!(host.minirun(["ps"]).ok().contains("paused, up"));
        let counted = lines(host, &id);
        std::thread::sleep(std::time::Duration::from_millis(500));
        // One line may have been on its way.
        assert!(lines(host, &id) <= counted + 1);
        host.minirun(["pause", &id]).fails(125);
        let said = host.minirun(["exec", &id, "true"]).fails(125);
        assert!(said.contains("it is paused") && said.contains("unpause"), "{said}");
        assert_eq!(host.minirun(["unpause", &id]).ok(), format!("{id}\n"));
        host.minirun(["unpause", &id]).fails(125);
        host.soon("it goes on", || lines(host, &id) > counted + 3);
        host.minirun(["exec", &id, "true"]).ok();
        // Whatever ends it ends it while it stands still.
        host.minirun(["pause", &id]).ok();
        host.minirun(["stop", "-t", "1", &id]).ok();
        assert_eq!(exit_code(host, &id), "143");
        host.minirun(["pause", &id]).fails(125);
        host.minirun(["restart", &id]).ok();
        host.minirun(["pause", &id]).ok();
        host.minirun(["kill", &id]).ok();
        assert_eq!(exit_code(host, &id), "137");
        host.minirun(["restart", &id]).ok();
        host.minirun(["pause", &id]).ok();
        host.minirun(["restart", &id]).ok();
        assert_eq!(host.status(&id), "running");
        host.minirun(["pause", &id]).ok();
        host.minirun(["rm", "-f", &id]).ok();
        host.nothing_left();
    }
});

host_test!(many_are_ended_by_one_command, |host| {
    host.has_run_detached();
    let ids: BTreeSet<_> = (0..10).map(|_| host.detached(&ALONE, &["sleep", "1000"])).collect();
    let stopped = host.sh("exec $MINIRUN stop $($MINIRUN ps -q)").ok();
    assert_eq!(stopped.lines().map(str::to_owned).collect::<BTreeSet<_>>(), ids);
    assert_eq!(host.minirun(["ps", "-q"]).ok(), "");
    host.sh("exec $MINIRUN rm $($MINIRUN ps -aq)").ok();
});

host_test!(one_that_is_being_started_is_ended, |host| {
    host.has_run_detached();
    // Before it has a process, and while that is not the program yet.
    for call in ["clone3", "pivot_root"] {
        for words in [["stop", "-t", "20"], ["rm", "-f", "--"]] {
            let run = format!(
                "exec strace -f -qq -o /dev/null -e inject={call}:delay_enter=700000 \
                 $MINIRUN run -d --name slow --net=none busybox sleep 1000"
            );
            let starting = host.sh(&run).start();
            host.soon("it begins", || host.minirun(["ps", "-q"]).ok() != "");
            host.minirun([&words[..], &["slow"]].concat()).ok();
            assert_eq!(host.minirun(["ps", "-q"]).ok(), "", "{call} {words:?}");
            starting.wait();
            host.remove_all();
        }
    }
});
