//! A program that a test runs: said in one line, checked in one line.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The programs that a test has started and not waited for.
static HELD: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// A child that its owner waits for: to reap it elsewhere would take its exit code away.
pub(super) struct Held(Child);

impl Held {
    pub(super) fn new(child: Child) -> Held {
        HELD.lock().expect("no panic").insert(child.id());
        Held(child)
    }

    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }

    pub(super) fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("wait").is_some()
    }

    /// Its exit code, or 128 and the signal's number.
    pub(super) fn wait(&mut self) -> i32 {
        let status = self.0.wait().expect("wait");
        HELD.lock().expect("no panic").remove(&self.0.id());
        status.code().unwrap_or_else(|| 128 + status.signal().expect("a signal"))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        self.wait();
    }
}

pub(super) fn is_held(process: i32) -> bool {
    HELD.lock().expect("no panic").contains(&process.cast_unsigned())
}

/// A call that has not begun. `ok`, `fails` and `run` wait for its end, `start` does not.
pub struct Call {
    command: Command,
    line: String,
    input: Input,
}

enum Input {
    Nothing,
    Text(Vec<u8>),
    /// Open until `Running::release`.
    Held,
}

/// What a program said, and how it ended: its exit code, or 128 and the signal's number.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    line: String,
}

impl Call {
    pub(super) fn new<I: IntoIterator<Item = S>, S: AsRef<str>>(program: &str, arguments: I) -> Call {
        let mut command = Command::new(program);
        command.env("MINIRUN", super::binary());
        let mut line = program.rsplit('/').next().unwrap_or(program).to_owned();
        for argument in arguments {
            command.arg(argument.as_ref());
            let _ = write!(line, " {}", argument.as_ref());
        }
        Call { command, line, input: Input::Nothing }
    }

    pub fn env(mut self, name: &str, value: &str) -> Call {
        self.command.env(name, value);
        self
    }

    /// What it reads. Without this: nothing.
    pub fn stdin(mut self, input: impl Into<Vec<u8>>) -> Call {
        self.input = Input::Text(input.into());
        self
    }

    /// It reads from a pipe that stays open until `Running::release`: a container that runs `cat` lives so long.
    pub fn held(mut self) -> Call {
        self.input = Input::Held;
        self
    }

    pub fn run(self) -> Output {
        self.start().wait()
    }

    /// Its standard output; it must end with 0.
    #[track_caller]
    pub fn ok(self) -> String {
        let output = self.run();
        assert_eq!(output.code, 0, "{output}");
        output.stdout
    }

    /// Its standard error; it must end with `code`.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        let output = self.run();
        assert_eq!(output.code, code, "{output}");
        output.stderr
    }

    pub fn start(mut self) -> Running {
        eprintln!("$ {}", self.line);
        let stdin = if matches!(self.input, Input::Nothing) { Stdio::null() } else { Stdio::piped() };
        let spawned = self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("{}: {error}", self.line));
        let (said, complained) = (Heard::default(), Heard::default());
        let readers = [
            listen(child.stdout.take().expect("piped"), said.clone()),
            listen(child.stderr.take().expect("piped"), complained.clone()),
        ];
        let mut stdin = child.stdin.take();
        if let Input::Text(input) = self.input {
            let mut stdin = stdin.take().expect("piped");
            std::thread::spawn(move || stdin.write_all(&input));
        }
        Running { child: Held::new(child), stdin, said, complained, readers: Some(readers), line: self.line }
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}` ended with {}\nstdout: {}\nstderr: {}", self.line, self.code, self.stdout, self.stderr)
    }
}

type Heard = Arc<Mutex<Vec<u8>>>;

fn listen(mut from: impl Read + Send + 'static, heard: Heard) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(size @ 1..) = from.read(&mut buffer) {
            heard.lock().expect("no panic").extend_from_slice(&buffer[..size]);
        }
    })
}

fn text(heard: &Heard) -> String {
    String::from_utf8_lossy(&heard.lock().expect("no panic")).into_owned()
}

/// A program that runs. It is killed when its value goes.
pub struct Running {
    child: Held,
    stdin: Option<ChildStdin>,
    said: Heard,
    complained: Heard,
    readers: Option<[JoinHandle<()>; 2]>,
    line: String,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> String {
        text(&self.said)
    }

    pub fn stderr(&self) -> String {
        text(&self.complained)
    }

    /// Waits until its standard output holds `words`, ten seconds at most, and gives what it said so far.
    #[track_caller]
    pub fn says(&mut self, words: &str) -> String {
        let patience = Instant::now() + Duration::from_secs(10);
        loop {
            let said = self.stdout();
            if said.contains(words) {
                return said;
            }
            let waits = !self.child.has_ended() && Instant::now() < patience;
            assert!(
                waits || self.stdout().contains(words),
                "`{}` did not say `{words}` but: {said}\nstderr: {}",
                self.line,
                self.stderr()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends its input.
    pub fn release(&mut self) {
        self.stdin = None;
    }

    /// The process that it started first: a container's init, for a minirun.
    pub fn child(&self) -> Option<u32> {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid())).unwrap_or_default();
        children.split_whitespace().next().and_then(|pid| pid.parse().ok())
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.has_ended()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("kill");
    }

    /// Ends its input and waits for its end, and for whoever else holds its output.
    pub fn wait(mut self) -> Output {
        self.release();
        let code = self.child.wait();
        for reader in self.readers.take().into_iter().flatten() {
            reader.join().expect("reader");
        }
        Output { code, stdout: self.stdout(), stderr: self.stderr(), line: self.line.clone() }
    }
}
