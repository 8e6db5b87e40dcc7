//! From the program's start to its end: signals forwarded, the terminal carried, the first process reaped.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, tcgetpgrp};
use signal_hook::consts::{SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

use crate::launch::Container;
use crate::sys::is_ignored;
use crate::terminal::Relay;

/// Signals that end a program which does nothing about them; forwarded to the container.
const FORWARDED: [i32; 7] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM];
/// Signals about minirun's own terminal.
const TERMINAL: [i32; 2] = [SIGWINCH, SIGCONT];

/// The signals that came since somebody last looked.
#[derive(Debug)]
pub struct Signals(SignalDelivery<UnixStream, SignalOnly>);

impl Signals {
    /// From here on a signal is noted and ends nothing. One that is ignored stays so: `nohup minirun run` holds.
    pub fn catch() -> Result<Self> {
        let wanted = FORWARDED.into_iter().chain(TERMINAL).filter(|signal| !is_ignored(*signal));
        let (read, write) = UnixStream::pair().context("catch signals")?;
        let delivery = SignalDelivery::with_pipe(read, write, SignalOnly, wanted);
        Ok(Self(delivery.context("catch signals")?))
    }
}

/// Serves the container until its first process has ended, which is minirun's own `init` if that is set. The exit code.
///
/// `work` is done in parts while there is nothing else to do, until it returns false.
pub fn until_end(
    container: &mut Container,
    signals: &mut Signals,
    mut relay: Option<Relay>,
    init: bool,
    mut work: impl FnMut() -> bool,
) -> Result<u8> {
    let mut ended_by = None;
    let mut ended = false;
    let mut working = true;
    let mut hurried = false;
    loop {
        let patience = match () {
            () if working => PollTimeout::ZERO,
            () if ended && hurried => PollTimeout::from(100u8),
            () => PollTimeout::NONE,
        };
        let ready = wait(container, signals, relay.as_ref(), ended, patience)?;
        working = working && !ready.ended && work();
        if ready.signal {
            for number in signals.0.pending() {
                match (number, relay.as_ref()) {
                    (SIGWINCH, Some(relay)) => relay.resize(),
                    (SIGCONT, Some(relay)) => relay.resume()?,
                    (SIGWINCH | SIGCONT, None) => {}
                    (number, _) => {
                        hurried = true;
                        if !ended {
                            ended_by = deliver(container.pid(), number, init)?.or(ended_by);
                        }
                    }
                }
            }
        }
        if let Some(relay) = &mut relay {
            if ready.typed
                && let Some(signal) = relay.read_typed()?
                && in_front(relay, container.pid())
            {
                // The terminal sends the signal to the processes in front, but the kernel keeps it from a process 1 that
                // does nothing about it (pid_namespaces(7)).
                ended_by = end_if_defenceless(container.pid(), signal as i32)?.or(ended_by);
            }
            let read = carry(relay, &ready)?;
            if !(read || hurried || ended || ready.ended) {
                // As from a terminal that was closed: `minirun run -t IMAGE yes | head` ends.
                hurried = true;
                ended_by = deliver(container.pid(), SIGHUP, init)?.or(ended_by);
            }
        }
        ended |= ready.ended;
        let all_shown = match &mut relay {
            Some(relay) => !(relay.has_shown() || ended && relay.read_shown()?),
            None => true,
        };
        // Who was told to end does not wait for a reader that takes nothing.
        if ended && (all_shown || hurried && ready.nothing) {
            let code = container.reap()?;
            return Ok(ended_by.map_or(code, |number| 128 + number as u8));
        }
    }
}

/// Carries bytes both ways. False where nobody reads any more.
fn carry(relay: &mut Relay, ready: &Ready) -> Result<bool> {
    if ready.shown && relay.can_read_shown() {
        relay.read_shown()?;
    }
    if relay.has_typed() {
        relay.write_typed()?;
    }
    if ready.taken { relay.write_shown() } else { Ok(true) }
}

/// What there is to do.
#[derive(Default)]
struct Ready {
    signal: bool,
    /// The first process has ended.
    ended: bool,
    /// Something was typed.
    typed: bool,
    /// The program has written something, or its terminal takes what was typed.
    shown: bool,
    /// Standard output takes something.
    taken: bool,
    /// Nothing happened for as long as there was patience.
    nothing: bool,
}

/// Waits for something to do, no longer than `patience`.
fn wait(
    container: &Container,
    signals: &Signals,
    relay: Option<&Relay>,
    ended: bool,
    patience: PollTimeout,
) -> Result<Ready> {
    let (input, output) = (std::io::stdin(), std::io::stdout());
    let if_wanted = |wanted: bool, events: PollFlags| if wanted { events } else { PollFlags::empty() };
    let ended_events = if_wanted(!ended, PollFlags::POLLIN);
    let mut fds = vec![PollFd::new(signals.0.get_read().as_fd(), PollFlags::POLLIN)];
    // A descriptor of which nothing is wanted is left out: poll(2) reports its end in any case, again and again.
    let mut add = |wanted: PollFlags, fd| {
        if wanted.is_empty() {
            return usize::MAX;
        }
        fds.push(PollFd::new(fd, wanted));
        fds.len() - 1
    };
    let end = add(ended_events, container.pidfd().as_fd());
    let [mut master, mut typed, mut taken] = [usize::MAX; 3];
    if let Some(relay) = relay {
        let events =
            if_wanted(relay.can_read_shown(), PollFlags::POLLIN) | if_wanted(relay.has_typed(), PollFlags::POLLOUT);
        master = add(events, relay.master());
        typed = add(if_wanted(relay.can_read_typed() && !ended, PollFlags::POLLIN), input.as_fd());
        taken = add(if_wanted(relay.has_shown(), PollFlags::POLLOUT), output.as_fd());
    }
    let count = match poll(&mut fds, patience) {
        Err(nix::Error::EINTR) => return Ok(Ready { signal: true, ..Ready::default() }),
        other => other.context("wait for the container")?,
    };
    let any = |at: usize| fds.get(at).and_then(PollFd::any).unwrap_or(false);
    let [signal, ended, shown] = [any(0), any(end), any(master)];
    Ok(Ready { signal, ended, shown, typed: any(typed), taken: any(taken), nothing: count == 0 })
}

/// Sends a signal on. The number where it ended the container in the program's stead. minirun's own init takes every signal.
fn deliver(pid: i32, number: i32, init: bool) -> Result<Option<i32>> {
    let signal = Signal::try_from(number).context("forward a signal")?;
    if !init && let Some(number) = end_if_defenceless(pid, number)? {
        return Ok(Some(number));
    }
    // It may have ended meanwhile; it is not reaped, so the id is still its own.
    let _ = kill(Pid::from_raw(pid), signal);
    Ok(None)
}

/// The kernel keeps from a process 1 every signal for which it has no handler. Anywhere else such a signal ends a program;
/// so it does here: Ctrl-C works on `sleep`.
fn end_if_defenceless(pid: i32, number: i32) -> Result<Option<i32>> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let has = |field: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix(field)).map(str::trim);
        mask.and_then(|mask| u64::from_str_radix(mask, 16).ok()).is_none_or(|mask| mask & (1 << (number - 1)) != 0)
    };
    if ["SigCgt:", "SigIgn:", "SigBlk:"].into_iter().any(has) {
        return Ok(None);
    }
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    Ok(Some(number))
}

/// Whether the first process is in the foreground of the terminal.
fn in_front(relay: &Relay, pid: i32) -> bool {
    tcgetpgrp(relay.master()).is_ok_and(|group| group.as_raw() == pid)
}
