//! `-t`: a container on a terminal, with the test at the keyboard.

mod host;

use host::{Terminal, host_test};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A shell that waits, for the signals and sizes that come.
const WAIT: &str = "echo ready; while :; do sleep 0.05; done";

fn run(options: &[&str]) -> Terminal {
    Terminal::start(&host::binary(), &[&["run"], options].concat(), 33, 101)
}

fn signal(terminal: &Terminal, signal: Signal) {
    kill(Pid::from_raw(terminal.pid().cast_signed()), signal).expect("kill");
}

host_test!(a_terminal_has_the_size_of_the_callers, |_host| {
    // From the first moment on, so several times.
    for _ in 0..5 {
        let mut terminal = run(&["-it", "busybox", "stty", "size"]);
        terminal.shows("33 101");
        assert_eq!(terminal.wait(), 0);
    }
});

host_test!(a_terminal_is_resized, |_host| {
    let mut terminal =
        run(&["-it", "busybox", "sh", "-c", &format!("trap 'stty size' WINCH; trap 'exit 4' INT; {WAIT}")]);
    terminal.shows("ready");
    terminal.resize(55, 77);
    terminal.shows("55 77");
    terminal.resize(24, 80);
    terminal.shows("24 80");
    terminal.types("\x03");
    assert_eq!(terminal.wait(), 4);
});

host_test!(standard_streams_are_the_terminal, |_host| {
    let script = "test -t 0 && test -t 1 && test -t 2 && tty && echo to-the-tty >/dev/tty && echo TERM=$TERM";
    let mut terminal = run(&["-i", "-t", "busybox", "sh", "-c", script]);
    assert_eq!(terminal.wait(), 0, "{}", terminal.screen());
    terminal.shows("to-the-tty");
    assert!(!terminal.screen().contains("TERM=\r"), "{}", terminal.screen());
});

host_test!(control_c_reaches_the_program, |_host| {
    let mut terminal = run(&["-it", "busybox", "sh", "-c", &format!("trap 'echo caught; exit 5' INT; {WAIT}")]);
    terminal.shows("ready");
    terminal.types("\x03");
    terminal.shows("caught");
    assert_eq!(terminal.wait(), 5);
});

host_test!(a_shell_is_usable, |_host| {
    let mut terminal = run(&["-it", "busybox", "sh"]);
    terminal.types("echo sum-$((20 + 3))\n");
    terminal.shows("sum-23");
    // Job control: the interrupt ends the program in the foreground and not the shell.
    terminal.types("echo cat-$((20 + 4)); cat\n");
    terminal.shows("cat-24");
    terminal.types("typed-to-cat\n");
    terminal.shows("typed-to-cat\r\ntyped-to-cat");
    terminal.clear();
    terminal.types("\x03");
    // The interrupt also throws away what was typed and not read: a user waits for the prompt.
    terminal.shows("# ");
    terminal.types("echo still-$((20 + 5))\n");
    terminal.shows("still-25");
    assert!(!terminal.screen().contains("job control turned off"), "{}", terminal.screen());
    terminal.types("exit 9\n");
    assert_eq!(terminal.wait(), 9);
});

host_test!(end_of_file_ends_the_shell, |_host| {
    let mut terminal = run(&["-it", "busybox", "sh"]);
    terminal.types("echo sum-$((20 + 3))\n");
    terminal.shows("sum-23");
    terminal.types("\x04");
    assert_eq!(terminal.wait(), 0);
});

host_test!(vi_is_usable, |_host| {
    let mut terminal = run(&["-it", "busybox", "sh", "-c", "vi /tmp/text; echo =$(cat /tmp/text)="]);
    // vi draws as many rows as the terminal has.
    terminal.shows("/tmp/text");
    terminal.types("ihello from vi\x1b");
    terminal.shows("hello from vi");
    terminal.types(":wq\r");
    terminal.shows("=hello from vi=");
    assert_eq!(terminal.wait(), 0);
});

host_test!(much_output_arrives_whole, |_host| {
    let mut terminal = run(&["-it", "busybox", "seq", "1", "30000"]);
    assert_eq!(terminal.wait(), 0);
    terminal.shows("\r\n30000\r\n");
    let screen = terminal.screen();
    assert!(screen.lines().filter_map(|line| line.trim().parse::<u32>().ok()).eq(1..=30000), "lines are missing");
});

host_test!(the_callers_terminal_is_raw_only_while_it_runs, |host| {
    let mut terminal = run(&["-it", "busybox", "sh", "-c", &format!("trap 'exit 0' INT; {WAIT}")]);
    terminal.shows("ready");
    assert!(!terminal.is_cooked());
    terminal.types("\x03");
    assert_eq!(terminal.wait(), 0);
    assert!(terminal.is_cooked());

    // It ends by a signal to minirun,
    // (busybox sh ignores SIGQUIT)
    for ending in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        let mut terminal = run(&["-it", "--init", "busybox", "sh", "-c", WAIT]);
        terminal.shows("ready");
        signal(&terminal, ending);
        assert_eq!(terminal.wait(), 128 + ending as i32, "{ending}");
        assert!(terminal.is_cooked(), "{ending}");
    }
    // by a signal to the container,
    let mut terminal = run(&["-it", "busybox", "sh", "-c", WAIT]);
    terminal.shows("ready");
    host.sh("kill -9 $($MINIRUN ps --format '{{.Pid}}')").ok();
    assert_eq!(terminal.wait(), 137);
    assert!(terminal.is_cooked());
    // or before it began.
    for (wrong, code) in [(&["-it", "busybox", "/nosuch"][..], 127), (&["-it", "nosuch", "sh"], 125)] {
        let mut terminal = run(wrong);
        assert_eq!(terminal.wait(), code, "{wrong:?}");
        assert!(terminal.is_cooked(), "{wrong:?}");
    }
});

host_test!(a_stop_and_go_keeps_the_terminal_raw, |host| {
    let mut terminal = run(&["-it", "busybox", "sh", "-c", &format!("trap 'exit 0' INT; {WAIT}")]);
    terminal.shows("ready");
    signal(&terminal, Signal::SIGSTOP);
    signal(&terminal, Signal::SIGCONT);
    host.soon("it goes on raw", || !terminal.is_cooked());
    terminal.types("\x03");
    assert_eq!(terminal.wait(), 0);
});

host_test!(a_terminal_that_goes_away_ends_the_container, |host| {
    let terminal = run(&["-it", "busybox", "sh"]);
    let pid = terminal.pid();
    host.soon("the shell runs", || terminal.screen().contains('#') || terminal.screen().contains('$'));
    let mut terminal = terminal.hang_up();
    host.soon("minirun ends", || terminal.has_ended());
    println!("{pid} ended");
});

host_test!(a_terminal_is_asked_for_where_there_is_none, |host| {
    // Without a terminal on its input: no crash, and whatever comes is one line or the program's output.
    let output = host.minirun(["run", "-t", "busybox", "echo", "hello"]).run();
    assert!(output.code == 0 || (output.code == 125 && output.stderr.starts_with("minirun: ")), "{output}");
});
