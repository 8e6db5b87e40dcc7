//! `run --step`: waits for a key before each step, and shows what the step has changed.
//!
//! Used by `narrator.rs`. What there is of the network is asked of iproute2 and nft, as a person would do it: what is shown is
//! what they will see by themselves later. It changes nothing.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read, stdin};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::table::TABLE;
use crate::error::{self, refused};
use crate::terminal::RawMode;

/// What is looked at before and after a step.
const LOOKS: [&[&str]; 6] = [
    &["ip", "addr"],
    &["ip", "route"],
    &["ip", "-6", "route"],
    &["bridge", "link"],
    &["tc", "qdisc", "show"],
    &["nft", "list", "table", "inet", TABLE],
];

/// How long nothing is done about a signal, in milliseconds, at most.
const PATIENCE: u16 = 200;

/// A container's network, to be looked at.
#[derive(Debug)]
pub struct Inside {
    /// `the container`, or which other one.
    pub whose: String,
    /// Its process.
    pub pid: u32,
}

/// The person at the terminal.
#[derive(Debug)]
pub struct Stepper {
    interrupted: Arc<AtomicBool>,
}

/// What a look showed: lines by who was asked.
pub type View = BTreeMap<String, Vec<String>>;

impl Stepper {
    /// Errors: there is no terminal to ask at.
    pub fn new() -> Result<Self> {
        if !stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return Err(refused(
                "use --step: standard input and error are no terminal",
                "--explain tells all without waiting",
            ));
        }
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&interrupted)).context("catch signals")?;
        }
        Ok(Self { interrupted })
    }

    /// Waits until the person wants the next step, which is of the container's network where that is there already.
    ///
    /// Errors: they want no more of it.
    pub fn wait(&self, inside: Option<&Inside>) -> Result<()> {
        loop {
            error::tell("  [Enter] does it, [s] opens a shell in the network, [q] undoes all: ");
            let key = self.key()?;
            // The question goes when it is answered.
            error::tell("\r\x1b[K");
            match key {
                b'\r' | b'\n' | b' ' => return Ok(()),
                b's' | b'S' => shell(inside)?,
                b'q' | b'Q' | 3 | 4 => return Err(stopped("stopped by key")),
                _ => {}
            }
        }
    }

    fn key(&self) -> Result<u8> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;
        let _raw = RawMode::enter()?;
        let input = stdin();
        loop {
            let mut fds = [PollFd::new(input.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::from(PATIENCE)).unwrap_or_default();
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(stopped("stopped by a signal"));
            }
            if ready > 0 {
                let mut key = [0];
                let read = input.lock().read(&mut key).context("read a key")?;
                return if read == 1 { Ok(key[0]) } else { Err(stopped("the terminal has gone")) };
            }
        }
    }
}

fn stopped(why: &str) -> anyhow::Error {
    anyhow!("go on: {why}; all is undone")
}

/// Looks at the host's network, and at that of a container.
pub fn look(inside: Option<&Inside>) -> View {
    let mut view = View::new();
    for look in LOOKS {
        view.insert(look.join(" "), lines(command(None, look)));
        if let Some(Inside { whose, .. }) = inside {
            view.insert(format!("in {whose}: {}", look.join(" ")), lines(command(inside, look)));
        }
    }
    view
}

/// What is new and what is gone, line by line.
pub fn differences(before: &View, after: &View) -> String {
    let none = Vec::new();
    let mut text = String::new();
    for (what, now) in after {
        let then = before.get(what).unwrap_or(&none);
        let gone = then.iter().filter(|line| !now.contains(line)).map(|line| format!("    - {line}\n"));
        let new = now.iter().filter(|line| !then.contains(line)).map(|line| format!("    + {line}\n"));
        let changed: String = gone.chain(new).collect();
        if !changed.is_empty() {
            text.push_str(&format!("  {what}\n{changed}"));
        }
    }
    text
}

fn shell(inside: Option<&Inside>) -> Result<()> {
    let shell = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
    let place = match inside {
        Some(Inside { whose, .. }) => format!("{whose}'s network"),
        None => "the host's network: there is no container yet".to_owned(),
    };
    error::note(&format!("a shell in {place}; leave it by `exit`"));
    let status = command(inside, &[&shell]).status();
    // A shell with job control gives the terminal back by itself, but not if it is killed.
    let _ = rustix::termios::tcsetpgrp(stdin(), rustix::process::getpgrp());
    status.with_context(|| format!("run shell `{shell}`")).map(drop)
}

#[allow(
    clippy::disallowed_methods,
    reason = "a person is shown what these programs show; the network is not changed by them"
)]
fn command(inside: Option<&Inside>, words: &[&str]) -> Command {
    let Some(Inside { pid, .. }) = inside else {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        return command;
    };
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{pid}/ns/net")).arg("--").args(words);
    command
}

/// What it prints; nothing where there is no such program or no such table.
fn lines(mut command: Command) -> Vec<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().map(error::printable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_told_by_who_was_asked() {
        let view = |what: &str, lines: &[&str]| {
            View::from([(what.to_owned(), lines.iter().map(|line| (*line).to_owned()).collect())])
        };
        let said = differences(&view("ip route", &["a", "b"]), &view("ip route", &["b", "c"]));
        assert_eq!(said, "  ip route\n    - a\n    + c\n");
        assert_eq!(differences(&view("x", &["a"]), &view("x", &["a"])), "");
        assert_eq!(differences(&View::new(), &view("x", &["a"])), "  x\n    + a\n");
    }
}
