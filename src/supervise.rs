//! From the program's start to its end: signals forwarded, the terminal carried, the first process reaped.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use nix::libc::ESRCH;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, tcgetpgrp};
use signal_hook::consts::{SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

use crate::container::Container;
use crate::held::Held;
use crate::holder::Caller;
use crate::net::services::Services;
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

    /// Readable when one has come.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_read().as_fd()
    }

    /// Those that came since the last look.
    pub fn pending(&mut self) -> Vec<i32> {
        self.0.pending().collect()
    }
}

/// The program's standard streams, as minirun has them.
pub enum Io {
    /// They are minirun's own.
    Inherited,
    /// A terminal, carried to and from minirun's own.
    Relay(Box<Relay>),
    /// Held for a log and whoever is attached.
    Held(Box<Held>),
}

/// What came of serving the streams.
#[derive(Debug, Default)]
pub struct Served {
    /// The signal of a key that was typed.
    pub key: Option<Signal>,
    /// Nobody reads any more what the program writes.
    pub hung_up: bool,
    /// The detach keys were typed.
    pub detach: bool,
}

/// A container that is served until its end.
pub struct Watch<'a> {
    /// It.
    pub container: &'a mut Container,
    /// What minirun is told.
    pub signals: &'a mut Signals,
    /// The program's streams.
    pub io: Io,
    /// Whether process 1 is minirun's own init, which takes every signal.
    pub init: bool,
    /// What is done for its network.
    pub services: Services,
    /// The signal that ended the container in the program's stead.
    ended_by: Option<i32>,
    /// Its end was asked for: nobody waits for a reader that takes nothing.
    hurried: bool,
}

impl<'a> Watch<'a> {
    /// Watches over a container.
    pub fn new(container: &'a mut Container, signals: &'a mut Signals, io: Io, init: bool, services: Services) -> Self {
        Self { container, signals, io, init, services, ended_by: None, hurried: false }
    }

    /// Serves the container until its first process has ended, which is minirun's own `init` if that is set. The exit code.
    ///
    /// `caller` is the command that was typed, if it can go before the container does: `let_go` is called with the streams
    /// when its keys say so, and gives the streams as they are from then on. `change` is called when another command asks
    /// for something. `work` is done in parts while there is nothing
    /// else to do, until it returns false.
    pub fn until_end(
        mut self,
        mut caller: Option<Caller>,
        let_go: impl Fn(Relay) -> Result<Held>,
        mut change: impl FnMut(&mut Services),
        mut work: impl FnMut() -> bool,
    ) -> (Option<Caller>, Result<u8>) {
        let code = self.serve(&mut caller, &let_go, &mut change, &mut work);
        (caller, code)
    }

    fn serve(
        &mut self,
        caller: &mut Option<Caller>,
        let_go: &dyn Fn(Relay) -> Result<Held>,
        change: &mut dyn FnMut(&mut Services),
        work: &mut dyn FnMut() -> bool,
    ) -> Result<u8> {
        let mut ended = false;
        let mut working = true;
        loop {
            let patience = match () {
                () if working => PollTimeout::ZERO,
                () if ended && self.hurried => PollTimeout::from(100u8),
                () => self
                    .services
                    .timeout()
                    .map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)),
            };
            let ready = self.wait(caller.as_ref(), ended, patience)?;
            let ended_now = !ready[1].is_empty();
            working = working && !ended_now && work();
            if !ready[0].is_empty() {
                self.take_signals(ended)?;
            }
            if !ready[2].is_empty() && !std::mem::replace(&mut self.hurried, true) && !ended {
                // The command that waits for the container was killed.
                let _ = kill(Pid::from_raw(self.container.pid()), Signal::SIGKILL);
            }
            let first = 3 + self.services.interest().len();
            let asked: Vec<bool> = ready[3..first].iter().map(|ready| !ready.is_empty()).collect();
            if self.services.serve(&asked) && !ended_now && !ended {
                change(&mut self.services);
            }
            let served = match &mut self.io {
                Io::Inherited => Served::default(),
                Io::Relay(relay) => relay.serve(&ready[first..])?,
                Io::Held(held) => held.serve(&ready[first..])?,
            };
            self.act_on(&served, ended || ended_now)?;
            if served.detach
                && let Some(command) = caller.take()
                && let Io::Relay(relay) = std::mem::replace(&mut self.io, Io::Inherited)
            {
                self.io = Io::Held(Box::new(let_go(*relay)?));
                command.let_go()?;
            }
            ended |= ended_now;
            let all_shown = match &mut self.io {
                Io::Relay(relay) => !(relay.has_shown() || ended && relay.read_shown()?),
                Io::Inherited | Io::Held(_) => true,
            };
            let nothing = ready[..3].iter().chain(&ready[first..]).all(|ready| ready.is_empty());
            // Who was told to end does not wait for a reader that takes nothing.
            if ended && (all_shown || self.hurried && nothing) {
                return self.end();
            }
        }
    }

    fn end(&mut self) -> Result<u8> {
        let code = self.container.reap()?;
        let code = self.ended_by.map_or(code, |number| 128 + number as u8);
        match std::mem::replace(&mut self.io, Io::Inherited) {
            Io::Held(held) => held.end(code)?,
            Io::Inherited | Io::Relay(_) => {}
        }
        if let Some(capture) = self.services.capture.take() {
            capture.end(code);
        }
        Ok(code)
    }

    fn take_signals(&mut self, ended: bool) -> Result<()> {
        for number in self.signals.pending() {
            match (number, &self.io) {
                (SIGWINCH, Io::Relay(relay)) => relay.resize(),
                (SIGCONT, Io::Relay(relay)) => relay.resume()?,
                (SIGWINCH | SIGCONT, _) => {}
                (number, _) => {
                    self.hurried = true;
                    if !ended {
                        self.deliver(number)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn act_on(&mut self, served: &Served, ended: bool) -> Result<()> {
        let pid = self.container.pid();
        let master = match &self.io {
            Io::Inherited => None,
            Io::Relay(relay) => Some(relay.master()),
            Io::Held(held) => held.master(),
        };
        if let Some(signal) = served.key
            && !self.init
            && master.is_some_and(|master| in_front(master, pid))
        {
            // The terminal sends the signal to the processes in front, but the kernel keeps it from a process 1 that
            // does nothing about it (pid_namespaces(7)).
            self.ended_by = end_if_defenceless(pid, signal as i32)?.or(self.ended_by);
        }
        if served.hung_up && !(self.hurried || ended) {
            // As from a terminal that was closed: `minirun run -t IMAGE yes | head` ends.
            self.hurried = true;
            self.deliver(SIGHUP)?;
        }
        Ok(())
    }

    fn deliver(&mut self, number: i32) -> Result<()> {
        self.ended_by = deliver(self.container.pid(), number, self.init)?.or(self.ended_by);
        Ok(())
    }

    /// Waits for something to do, no longer than `patience`: signals, the end of the first process, the end of the caller,
    /// what is served for the network, and what the streams are interested in, in this order.
    fn wait(&self, caller: Option<&Caller>, ended: bool, patience: PollTimeout) -> Result<Vec<PollFlags>> {
        let none = PollFlags::empty();
        let mut wanted = vec![
            (self.signals.as_fd(), PollFlags::POLLIN),
            (self.container.pidfd().as_fd(), if ended { none } else { PollFlags::POLLIN }),
            // A caller says nothing: readable is its end.
            caller.map_or((self.signals.as_fd(), none), |caller| (caller.as_fd(), PollFlags::POLLIN)),
        ];
        wanted.extend(self.services.interest().into_iter().map(|fd| (fd, PollFlags::POLLIN)));
        let (input, output) = (std::io::stdin(), std::io::stdout());
        match &self.io {
            Io::Inherited => {}
            Io::Relay(relay) => wanted.extend(relay.interest(input.as_fd(), output.as_fd(), ended)),
            Io::Held(held) => wanted.extend(held.interest()),
        }
        // A descriptor of which nothing is wanted is left out: poll(2) reports its end in any case, again and again.
        let mut fds: Vec<PollFd<'_>> = wanted
            .iter()
            .filter(|(_, events)| !events.is_empty())
            .map(|(fd, events)| PollFd::new(*fd, *events))
            .collect();
        match poll(&mut fds, patience) {
            Err(nix::Error::EINTR) => return Ok(vec![none; wanted.len()]),
            other => _ = other.context("wait for the container")?,
        }
        let mut told = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::POLLERR));
        let ready = wanted.iter().map(|(_, events)| if events.is_empty() { none } else { told.next().unwrap_or(none) });
        Ok(ready.collect())
    }
}

/// Sends a signal to a container from another command: by its holder, if that forwards such a signal, so that the effect is
/// the same; `process` is its first one.
pub fn signal_from_outside(holder: Option<i32>, process: &OwnedFd, number: i32) -> Result<()> {
    let mut to = None;
    if let Some(holder) = holder.and_then(rustix::process::Pid::from_raw).filter(|_| FORWARDED.contains(&number)) {
        // If the first process lives after the descriptor was made, so does its holder, and the number was its own.
        let holder = rustix::process::pidfd_open(holder, rustix::process::PidfdFlags::empty());
        to = holder.ok().filter(|_| !crate::state::ended_within(process, 0));
    }
    match crate::sys::pidfd_send_signal(to.as_ref().unwrap_or(process), number) {
        Err(error) if error.raw_os_error() == Some(ESRCH) => Ok(()),
        sent => Ok(sent?),
    }
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
fn in_front(master: BorrowedFd<'_>, pid: i32) -> bool {
    tcgetpgrp(master).is_ok_and(|group| group.as_raw() == pid)
}
