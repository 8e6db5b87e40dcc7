//! Terminals and streams of containers that others come to and go from.

mod host;

use host::{Host, Terminal, host_test, is_alive, kill_hard};
use nix::sys::signal::Signal;

/// Ctrl-P, Ctrl-Q.
const DETACH: &str = "\x10\x11";
/// What the keys are answered with, so that a prompt does not follow on the program's last line. The CR is the terminal's, which
/// is no longer raw.
const LEFT: &str = "read escape sequence\r\n";
/// Says what it reads and the sizes that it is given.
const ECHO: &str = "trap 'stty size' WINCH; echo ready; while :; do read -r line && echo \"got $line\"; done";

fn at(words: &[&str]) -> Terminal {
    Terminal::start(&host::binary(), words, 33, 101)
}

/// A shell on a terminal of its own, detached.
fn shell(host: &Host, options: &[&str], script: &str) -> String {
    host.detached_shell(&[&["--net=none", "-it"], options].concat(), script)
}

host_test!(a_terminal_is_left_and_come_back_to, |host| {
    host.has_run_detached();
    let mut terminal = at(&["run", "-it", "--net=none", "--name", "box", "busybox", "sh", "-c", ECHO]);
    terminal.shows("ready");
    let (pid, holder) = (host.pid_of("box"), host.holder_of("box"));
    assert_ne!(holder, terminal.pid());
    terminal.types(DETACH);
    assert_eq!(terminal.wait(), 0);
    assert!(terminal.is_cooked());
    terminal.shows(LEFT);
    assert!(is_alive(pid));
    assert_eq!(host.status("box"), "running");
    // Nothing of the terminal is held: it can go.
    drop(terminal);
    for client in 1..=2 {
        let mut terminal = at(&["attach", "box"]);
        // A newcomer's screen is drawn anew.
        terminal.shows("33 101");
        let word = format!("hello-{client}");
        // After Ctrl-U: the first of the keys that left it has reached the program.
        terminal.types(&format!("\x15{word}\r"));
        terminal.shows(&format!("got {word}"));
        assert!(!terminal.is_cooked());
        terminal.resize(44, 55);
        terminal.shows("44 55");
        terminal.types(DETACH);
        assert_eq!(terminal.wait(), 0);
        assert!(terminal.is_cooked());
        terminal.shows(LEFT);
    }
    // What is written while nobody looks is in the log.
    host.logs_hold("box", "got hello-2");
    host.minirun(["stop", "-t", "1", "box"]).ok();
    host.remove_all();
});

host_test!(the_first_of_the_keys_is_not_held_back, |host| {
    host.has_run_detached();
    let script = "stty raw -echo; echo ready; dd bs=1 count=3 2>/dev/null | od -An -tx1; exec sleep 1000";
    let mut terminal = at(&["run", "-it", "--net=none", "--name", "keys", "busybox", "sh", "-c", script]);
    terminal.shows("ready");
    terminal.types("\x10");
    host.soon("the key is read", || host.sh(&format!("cat /proc/{}/io || true", host.pid_of("keys"))).run().code == 0);
    terminal.types("xy");
    terminal.shows("10 78 79");
    terminal.types(DETACH);
    assert_eq!(terminal.wait(), 0);
    // Other keys, or none at all.
    let mut terminal = at(&["attach", "--detach-keys", "ctrl-a,d", "keys"]);
    terminal.types("\x01d");
    assert_eq!(terminal.wait(), 0);
    at_fails(&["attach", "--detach-keys", "alt-x", "keys"]);
    host.remove_all();
    let script = "stty raw -echo; echo ready; dd bs=1 count=2 2>/dev/null | od -An -tx1";
    let mut terminal = at(&["run", "-it", "--detach-keys", "", "--net=none", "busybox", "sh", "-c", script]);
    terminal.shows("ready");
    terminal.types(DETACH);
    terminal.shows("10 11");
    assert_eq!(terminal.wait(), 0);
});

fn at_fails(words: &[&str]) {
    let mut terminal = at(words);
    assert_eq!(terminal.wait(), 125, "{}", terminal.screen());
    assert!(terminal.is_cooked());
}

host_test!(the_end_is_told_with_its_code, |host| {
    host.has_run_detached();
    let id = shell(host, &[], "read -r code; exit $code");
    let mut terminal = at(&["attach", &id]);
    terminal.types("9\r");
    assert_eq!(terminal.wait(), 9);
    assert!(terminal.is_cooked());
    assert_eq!(host.minirun(["wait", &id]).ok(), "9\n");
    assert!(!terminal.screen().contains("escape sequence"), "nobody left it: {}", terminal.screen());
    // Ctrl-C on a program without a handler.
    let id = host.detached(&["--net=none", "-it"], &["sleep", "1000"]);
    let mut terminal = at(&["attach", &id]);
    host.soon("it is raw", || !terminal.is_cooked());
    terminal.types("\x03");
    assert_eq!(terminal.wait(), 130);
    assert_eq!(host.minirun(["wait", &id]).ok(), "130\n");
    // After a detach, too.
    let mut terminal =
        at(&["run", "-it", "--net=none", "--name", "sleeper", "busybox", "sh", "-c", "echo ready; exec sleep 1000"]);
    terminal.shows("ready");
    terminal.types(DETACH);
    assert_eq!(terminal.wait(), 0);
    let mut terminal = at(&["attach", "sleeper"]);
    host.soon("it is raw", || !terminal.is_cooked());
    terminal.types("\x03");
    assert_eq!(terminal.wait(), 130);
    // From outside; and what cannot be attached to.
    let id = host.detached(&["--net=none", "-it"], &["sleep", "1000"]);
    let mut terminal = at(&["attach", &id]);
    host.soon("it is raw", || !terminal.is_cooked());
    host.minirun(["kill", &id]).ok();
    assert_eq!(terminal.wait(), 137);
    assert!(terminal.is_cooked());
    at_fails(&["attach", &id]);
    at_fails(&["attach", "nosuch"]);
    let foreground = host.minirun(["run", "--net=none", "--name", "front", "busybox", "sleep", "1000"]).start();
    host.soon("it runs", || host.minirun(["ps", "-q", "-f", "name=front", "-f", "status=running"]).ok() != "");
    let said = host.minirun(["attach", "front"]).fails(125);
    assert!(said.contains("foreground"), "{said}");
    host.minirun(["kill", "front"]).ok();
    foreground.wait();
    host.remove_all();
});

host_test!(two_at_the_same_time, |host| {
    host.has_run_detached();
    let id = shell(host, &[], ECHO);
    let (mut one, mut two) = (at(&["attach", &id]), at(&["attach", &id]));
    one.shows("33 101");
    two.shows("33 101");
    one.types("from-one\r");
    two.types("from-two\r");
    for terminal in [&one, &two] {
        terminal.shows("got from-one");
        terminal.shows("got from-two");
    }
    one.types(DETACH);
    assert_eq!(one.wait(), 0);
    two.types("\x15still\r");
    two.shows("got still");
    host.minirun(["kill", &id]).ok();
    assert_eq!(two.wait(), 137);
    host.remove_all();
});

host_test!(a_hang_up_leaves_the_container, |host| {
    host.has_run_detached();
    let id = shell(host, &[], ECHO);
    let terminal = at(&["attach", &id]);
    terminal.shows("33 101");
    let mut gone = terminal.hang_up();
    host.soon("attach ends", || gone.has_ended());
    assert_eq!(host.status(&id), "running");
    let terminal = at(&["attach", &id]);
    terminal.shows("33 101");
    kill_hard(terminal.pid());
    let mut terminal = at(&["attach", &id]);
    terminal.types("alive\r");
    terminal.shows("got alive");
    terminal.types(DETACH);
    terminal.wait();
    assert_eq!(host.status(&id), "running");
    host.remove_all();
});

host_test!(a_killed_command_takes_its_terminals_container_along, |host| {
    host.has_run_detached();
    for _ in 0..3 {
        let mut terminal = at(&["run", "-it", "--net=none", "--name", "box", "busybox", "sh", "-c", ECHO]);
        terminal.shows("ready");
        let pid = host.pid_of("box");
        kill_hard(terminal.pid());
        assert_eq!(terminal.wait(), 137);
        host.soon("the container ends", || !is_alive(pid));
        // By itself, without a further command.
        host.nothing_left();
    }
});

host_test!(pipes_keep_output_and_errors_apart, |host| {
    host.has_run_detached();
    let script = "while read -r line; do case $line in end) exit 8;; *) echo \"out $line\"; echo \"err $line\" >&2;; esac; done; echo eof";
    let id = host.detached_shell(&["--net=none", "-i"], script);
    let mut held = host.minirun(["attach", &id]).held().start();
    let output = host
        .sh(&format!(
            "echo hello | exec $MINIRUN attach {id} & sleep 0.5; echo end | $MINIRUN attach {id} || test $? = 8; wait"
        ))
        .run();
    assert!(output.stdout.contains("out hello\n") && !output.stdout.contains("err"), "{output}");
    assert!(output.stderr.contains("err hello\n"), "{output}");
    held.says("out hello");
    assert!(held.stderr().contains("err hello"));
    assert_eq!(held.wait().code, 8);
    assert_eq!(host.minirun(["wait", &id]).ok(), "8\n");
    assert_eq!(host.logs(&id), "ready\nout hello\n");
    host.remove_all();
});

host_test!(who_only_looks_sends_nothing, |host| {
    host.has_run_detached();
    let id = host.detached_shell(&["--net=none", "-i"], "while read -r line; do echo \"got $line\"; done");
    let mut looking = host.minirun(["attach", "--no-stdin", &id]).stdin("unheard\n").start();
    host.sh(&format!("echo heard | timeout 1 $MINIRUN attach --sig-proxy=false {id} || true")).ok();
    looking.says("got heard");
    assert!(!host.logs(&id).contains("unheard"));
    // Its signals are the program's, unless it is said otherwise.
    looking.signal(Signal::SIGTERM);
    assert_eq!(looking.wait().code, 143);
    assert_eq!(host.minirun(["wait", &id]).ok(), "143\n");
    let id = host.detached_shell(&["--net=none"], "sleep 1000");
    let before = sockets(host, &id);
    let looking = host.minirun(["attach", "--sig-proxy=false", &id]).start();
    host.soon("it is attached", || sockets(host, &id) > before);
    looking.signal(Signal::SIGINT);
    assert_eq!(looking.wait().code, 130);
    assert_eq!(host.status(&id), "running");
    host.remove_all();
});

/// How many sockets a container's holder has: one more for each command that is attached.
fn sockets(host: &Host, container: &str) -> usize {
    let files = host::open_files(host.holder_of(container));
    files.iter().filter(|(_, target)| target.to_string_lossy().starts_with("socket:")).count()
}

host_test!(a_slow_reader_stops_nobody, within 120, |host| {
    host.has_run_detached();
    let script = "read -r go; seq 1 700000; echo the-end; sleep 1000";
    let id = host.detached_shell(&["--net=none", "-i", "--log-opt", "max-size=64m"], script);
    let place = host.directory("slow");
    // It reads nothing until the file `go` is there.
    let slow = format!(
        "cd {}; $MINIRUN attach --no-stdin {id} 2>told | (while [ ! -e go ]; do sleep 0.05; done; cat >shown)",
        place.text()
    );
    let before = sockets(host, &id);
    let slow = host.sh(&slow).start();
    let mut quick = host.minirun(["attach", "--no-stdin", &id]).start();
    host.soon("both are attached", || sockets(host, &id) == before + 2);
    host.sh(&format!("echo go | timeout 1 $MINIRUN attach --sig-proxy=false {id} >/dev/null || true")).ok();
    quick.says("the-end");
    assert!(quick.stdout().lines().filter_map(|line| line.parse::<u32>().ok()).eq(1..=700_000), "all of it");
    let memory = host.sh(&format!("awk '/VmRSS/ {{ print $2 }}' /proc/{}/status", host.holder_of(&id))).ok();
    println!("the holder has {} KiB", memory.trim());
    place.file("go", "");
    host.soon("the slow one is told what it lost", || {
        std::fs::read_to_string(place.path().join("told")).is_ok_and(|told| told.contains("bytes were written faster"))
    });
    host.minirun(["kill", &id]).ok();
    assert_eq!(quick.wait().code, 137);
    slow.wait();
    let shown = std::fs::metadata(place.path().join("shown")).expect("shown").len();
    assert!(shown > 500_000, "as much as was kept for it: {shown}");
    // The log has all of it.
    let lines = host.sh(&format!("$MINIRUN logs {id} | grep -c '^[0-9]*$'")).ok();
    assert_eq!(lines, "700000\n");
    host.remove_all();
});

host_test!(a_slow_reader_gets_the_exit_code, |host| {
    host.has_run_detached();
    let id = host.detached_shell(&["--net=none", "-i"], "read -r go; seq 1 200000; exit 6");
    let place = host.directory("slow");
    let script = format!(
        "cd {}; {{ $MINIRUN attach --no-stdin {id} && c=0 || c=$?; echo $c >code; }} | (while [ ! -e go ]; do sleep 0.05; done; cat >shown)",
        place.text()
    );
    let before = sockets(host, &id);
    let slow = host.sh(&script).start();
    host.soon("it is attached", || sockets(host, &id) > before);
    host.sh(&format!("echo go | timeout 1 $MINIRUN attach --sig-proxy=false {id} >/dev/null || true")).ok();
    // Nobody waits for it longer than two seconds.
    assert_eq!(host.minirun(["wait", &id]).ok(), "6\n");
    place.file("go", "");
    let output = slow.wait();
    assert_eq!(host.sh(&format!("cat {}/code", place.text())).ok(), "6\n");
    assert!(output.stderr.contains("minirun logs"), "{output}");
    host.remove_all();
});

host_test!(a_program_that_does_not_read_stops_nobody, |host| {
    host.has_run_detached();
    let id = host.detached_shell(
        &["--net=none", "-i"],
        "trap 'echo caught; cat | wc -c; exit 4' TERM; while :; do echo alive; sleep 0.1; done",
    );
    let attached = host.sh(&format!("exec $MINIRUN attach {id} </dev/zero")).start();
    // By now it has typed more than anybody takes, and still it shows and sends on.
    let mut looking = host.minirun(["attach", "--no-stdin", &id]).start();
    looking.says("alive\nalive\nalive\nalive\nalive\nalive\n");
    host.soon("it shows", || attached.stdout().matches("alive").count() > 3);
    attached.signal(Signal::SIGTERM);
    host.logs_hold(&id, "caught");
    kill_hard(attached.pid());
    attached.wait();
    host.remove_all();
    assert_eq!(looking.wait().code, 137);
});
