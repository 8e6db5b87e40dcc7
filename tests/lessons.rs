//! The lessons of `docs/lessons/`: each command in them is run, and what it prints is compared with what the lesson shows.
//!
//! The notation is told to the reader in `docs/lessons/README.md`. In a block ```` ```console ````
//!
//! * `~# ` opens a command and `> ` goes on with it; the lines below are what it prints, on either stream;
//! * a command prints just what is shown (nothing, where nothing is), and succeeds, or fails where `# fails` stands behind it;
//! * `...` in a line is anything, and a line of its own any number of lines; blanks count as one.
//!
//! The commands of a page go to one shell, so variables live on, and the throw-away host is compared before and after each
//! lesson.
#![allow(clippy::disallowed_methods, reason = "tests run programs and start threads")]

mod host;

use std::cmp::Reverse;
use std::fs::read_to_string;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use host::{Directory, Host, host_test};

/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// A reader is slower than a machine: the kernel notices a carrier, and a server listens, some milliseconds later.
const PAUSE: Duration = Duration::from_millis(100);
/// Printed by the shell behind each command, with its exit code.
const END: &str = "== end of the command:";

/// A command of a page and what the page shows of it.
#[derive(Debug, PartialEq)]
struct Shown {
    line: usize,
    command: String,
    fails: bool,
    output: Vec<String>,
}

/// The commands of a page, in order.
fn commands(page: &str) -> Vec<Shown> {
    let mut all: Vec<Shown> = Vec::new();
    let mut inside = false;
    for (number, line) in page.lines().enumerate() {
        if line.starts_with("```") {
            assert!(!inside || line == "```", "line {}: a block begins in another", number + 1);
            inside = line == "```console";
            continue;
        }
        match (line.strip_prefix("~# "), line.strip_prefix("> "), all.last_mut()) {
            _ if !inside => {}
            (Some(command), _, _) => {
                let fails = command.ends_with("# fails");
                all.push(Shown { line: number + 1, command: command.to_owned(), fails, output: Vec::new() });
            }
            (None, Some(more), Some(last)) if last.output.is_empty() => {
                last.command += &format!("\n{more}");
                last.fails = more.ends_with("# fails");
            }
            (None, _, last) => last.expect("a command before its output").output.push(line.to_owned()),
        }
    }
    assert!(!inside, "a block does not end");
    all
}

/// Runs of blanks as one, none at the end.
fn even(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    let indent = if line.starts_with(char::is_whitespace) && !words.is_empty() { " " } else { "" };
    format!("{indent}{}", words.join(" "))
}

/// Whether a line is as shown; `...` is anything.
fn is_line(shown: &str, got: &str) -> bool {
    let (shown, got) = (even(shown), even(got));
    let mut parts = shown.split("...");
    let Some(mut rest) = got.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<_> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some((_, behind)) = rest.split_once(part) else { return false };
        rest = behind;
    }
    rest.ends_with(last)
}

/// How far the lines of what is shown fit what was got, at best: so many of these, so many of those, and whether that is all.
fn fitting(shown: &[String], got: &[String]) -> (bool, usize, usize) {
    let Some(first) = shown.first() else { return (got.is_empty(), 0, 0) };
    let below = |taken: usize| {
        let (all, of_shown, of_got) = fitting(&shown[1..], &got[taken..]);
        (all, of_shown + 1, of_got + taken)
    };
    if first.trim() == "..." {
        return (0..=got.len())
            .map(below)
            .max_by_key(|(all, of_shown, of_got)| (*all, *of_shown, Reverse(*of_got)))
            .expect("one");
    }
    if got.first().is_some_and(|line| is_line(first, line)) { below(1) } else { (false, 0, 0) }
}

/// What is wrong with what a command did, in words for whoever changes a lesson.
fn fault(shown: &Shown, code: i32, got: &[String]) -> Option<String> {
    let (all, of_shown, of_got) = fitting(&shown.output, got);
    if all && (code != 0) == shown.fails {
        return None;
    }
    let line =
        |lines: &[String], number: usize| lines.get(number).map_or("(no line)".to_owned(), |line| format!("`{line}`"));
    let (expected, is) = match (all, shown.fails) {
        (true, true) => ("a failure (`# fails`)".to_owned(), "success".to_owned()),
        (true, false) => ("success".to_owned(), format!("exit code {code}")),
        (false, _) => (line(&shown.output, of_shown), line(got, of_got)),
    };
    let whole = got.join("\n    ");
    Some(format!("expected: {expected}\ngot:      {is}\nexit code {code}, and the whole output:\n    {whole}"))
}

/// The reader's shell.
struct Session {
    shell: Child,
    keyboard: ChildStdin,
    lines: Receiver<String>,
    /// Holds the name `minirun`, first in PATH.
    _programs: Directory,
}

impl Session {
    fn begin(host: &Host) -> Session {
        let programs = host.directory("programs");
        let name = programs.path().join("minirun");
        std::os::unix::fs::symlink(host::binary(), name).expect("symlink");
        let path = format!("{}:{}", programs.text(), std::env::var("PATH").expect("PATH"));
        let (screen, output) = std::io::pipe().expect("pipe");
        let mut shell = Command::new("bash")
            .args(["--norc", "--noprofile"])
            .envs([("PATH", path.as_str()), ("LC_ALL", "C.UTF-8"), ("TERM", "xterm")])
            .current_dir("/tmp")
            .stdin(Stdio::piped())
            .stdout(output.try_clone().expect("pipe"))
            .stderr(output)
            .spawn()
            .expect("bash");
        let keyboard = shell.stdin.take().expect("piped");
        let (sender, lines) = channel();
        // Its end is not waited for: what a lesson leaves running may hold the pipe, and the comparison finds it.
        std::thread::spawn(move || {
            for line in BufReader::new(screen).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Session { shell, keyboard, lines, _programs: programs }
    }

    /// Runs one command, and gives its exit code and its output.
    fn types(&mut self, command: &str) -> Result<(i32, Vec<String>), String> {
        // Programs must not read the commands that follow. The marker begins a line whatever was printed before.
        let typed = format!("{{ {command}\n}} </dev/null\nprintf '\\n{END} %d\\n' $?\n");
        self.keyboard.write_all(typed.as_bytes()).map_err(|error| format!("the shell has gone: {error}"))?;
        let mut got = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => match line.strip_prefix(END) {
                    Some(code) => {
                        // The line break before the marker.
                        if got.last().is_some_and(String::is_empty) {
                            got.pop();
                        }
                        return Ok((code.trim().parse().expect("a number"), got));
                    }
                    None => got.push(line),
                },
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("not done within {} s, so far: {got:#?}", PATIENCE.as_secs()));
                }
                Err(RecvTimeoutError::Disconnected) => return Err(format!("the shell ended: {got:#?}")),
            }
        }
    }

    /// Goes through commands from top to bottom.
    fn goes_through(&mut self, name: &str, commands: &[Shown]) -> Result<(), String> {
        for shown in commands {
            std::thread::sleep(PAUSE);
            eprintln!("~# {}", shown.command);
            let wrong = match self.types(&shown.command) {
                Ok((code, got)) => fault(shown, code, &got),
                Err(wrong) => Some(wrong),
            };
            if let Some(wrong) = wrong {
                return Err(format!("{name}:{}: `{}`\n{wrong}", shown.line, shown.command));
            }
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

fn page(name: &str) -> String {
    let path = format!("{}/docs/lessons/{name}", env!("CARGO_MANIFEST_DIR"));
    read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What the index says to do before the first lesson, and after the last one.
fn before_and_after() -> (Vec<Shown>, Vec<Shown>) {
    let index = page("README.md");
    let after = index.find("\n## When you are done").expect("the part about the end");
    let line = index[..=after].lines().count();
    let (before, after): (Vec<_>, Vec<_>) = commands(&index).into_iter().partition(|shown| shown.line <= line);
    assert!(!before.is_empty() && !after.is_empty());
    (before, after)
}

/// Goes through one lesson as its reader does who did what the index says before, on a host that minirun has never seen.
fn learn(host: &Host, name: &str) {
    let mut session = Session::begin(host);
    session.goes_through("README.md", &before_and_after().0).unwrap_or_else(|wrong| panic!("{wrong}"));
    host.soon("the first container's link goes", || !host.sh("ip -o link").ok().contains(": mr"));
    host.settle();
    let commands = commands(&page(name));
    assert!(commands.len() > 10, "{name}: only {} commands", commands.len());
    session.goes_through(name, &commands).unwrap_or_else(|wrong| panic!("{wrong}"));
    // The directory of logs, and what a port on 127.0.0.1 turns on of the bridge, stay with the bridge.
    host.nothing_left_but(&["file /var/lib/minirun/logs ", "sysctl net/ipv4/conf/minirun0/route_localnet "]);
}

host_test!(cold the_lesson_of_namespaces, within 120, |host| learn(host, "1-namespaces.md"));
host_test!(cold the_lesson_of_veth, within 120, |host| learn(host, "2-veth.md"));
host_test!(cold the_lesson_of_the_bridge, within 120, |host| learn(host, "3-bridge.md"));
host_test!(cold the_lesson_of_routes_and_nat, within 120, |host| learn(host, "4-routes-and-nat.md"));
host_test!(cold the_lesson_of_modes, within 120, |host| learn(host, "5-modes.md"));

host_test!(cold what_the_index_makes_it_takes_away, |host| {
    let (before, after) = before_and_after();
    let mut session = Session::begin(host);
    host.settle();
    for commands in [before, after] {
        session.goes_through("README.md", &commands).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    host.nothing_left_but(&["file /run/minirun", "file /var/lib/minirun"]);
});

// What the comparison finds, and what it lets pass: a lesson that tells something else fails.
host_test!(cold a_lesson_that_is_wrong_fails, |host| {
    let mut session = Session::begin(host);
    let mut judged = |lines: &str| session.goes_through("page", &commands(&format!("```console\n{lines}\n```\n")));
    for right in [
        "~# true",
        "~# echo one; echo two >&2\none\ntwo",
        "~# printf unended\nunended",
        "~# seq 9\n1\n...\n8\n...\n9\n...",
        "~# echo 'eth0@if7    UP  '\neth0@if... UP",
        "~# echo a; false    # fails\na",
        "~# x=5\n~# echo $x\n5",
        "~# cat <<'END'\n> ~# text\n> END\n...",
        "~# (sleep 2 &)",
    ] {
        assert_eq!(judged(right), Ok(()));
    }
    for (wrong, words) in [
        ("~# echo one\ntwo", "page:2: `echo one`\nexpected: `two`\ngot:      `one`"),
        ("~# echo one", "expected: (no line)\ngot:      `one`"),
        ("~# echo one\none\ntwo", "expected: `two`\ngot:      (no line)"),
        ("~# seq 9\n1\n...\n10", "expected: `10`\ngot:      `2`"),
        ("~# seq 3\n1\n2", "expected: (no line)\ngot:      `3`"),
        ("~# echo abc\na...b", "expected: `a...b`\ngot:      `abc`"),
        ("~# true    # fails", "expected: a failure (`# fails`)\ngot:      success"),
        ("~# false", "expected: success\ngot:      exit code 1"),
        ("~# no-such-program", "got:      `bash: line "),
        ("~# true\n~# false", "page:3: `false`"),
    ] {
        let told = judged(wrong).expect_err(wrong);
        assert!(told.contains(words), "`{wrong}` is told as: {told}");
    }
});

#[test]
fn each_lesson_is_tested_and_in_the_index() {
    let index = page("README.md");
    let directory = std::fs::read_dir(format!("{}/docs/lessons", env!("CARGO_MANIFEST_DIR"))).expect("lessons");
    for file in directory.flatten() {
        let name = file.file_name().into_string().expect("UTF-8");
        assert!(
            name == "README.md" || include_str!("lessons.rs").contains(&format!("learn(host, \"{name}\")")),
            "{name}"
        );
        assert!(name == "README.md" || index.contains(&format!("({name})")), "{name} is not in the index");
    }
}
