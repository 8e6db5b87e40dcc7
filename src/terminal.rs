//! The terminal of `-t`: minirun's own in raw mode, and bytes carried between it and the container's.
//!
//! Used by `supervise.rs`. Neither side blocks minirun: each is read and written only as far as it goes, so that signals are
//! always served.

use std::collections::VecDeque;
use std::io::{stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr, tcsetattr};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{tcgetwinsize, tcsetwinsize};

/// About the most that is held for a side that does not read.
const BUFFER: usize = 16 * 1024;

/// minirun's own terminal, in raw mode until this is dropped: every key goes to the container's terminal, which makes
/// signals of some.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
    raw: Termios,
}

impl RawMode {
    /// Raw mode for standard input; `None` where it is no terminal.
    pub fn enter() -> Result<Option<Self>> {
        let Ok(before) = tcgetattr(stdin()) else { return Ok(None) };
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        let mode = Self { before, raw };
        mode.again()?;
        Ok(Some(mode))
    }

    /// Sets it once more: a shell that stopped minirun and continues it has changed the terminal.
    pub fn again(&self) -> Result<()> {
        tcsetattr(stdin(), SetArg::TCSADRAIN, &self.raw).context("set the terminal to raw mode")
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // TCSADRAIN, so that what was typed ahead for the shell is not lost.
        let _ = tcsetattr(stdin(), SetArg::TCSADRAIN, &self.before);
    }
}

/// The container's terminal as minirun has it.
#[derive(Debug)]
pub struct Relay {
    master: OwnedFd,
    /// Never used. While it is open the terminal cannot hang up, so a program that closes its terminal and lives on does not
    /// keep minirun busy.
    _slave: OwnedFd,
    /// Typed and not yet taken by the container's terminal.
    typed: VecDeque<u8>,
    /// Written by the program and not yet taken by standard output.
    shown: VecDeque<u8>,
    /// Whether more can be typed.
    reading: bool,
    raw: Option<RawMode>,
}

impl Relay {
    /// Takes over the container's terminal. With `interactive`, what is typed goes to it.
    pub fn start(master: OwnedFd, interactive: bool) -> Result<Self> {
        rustix::io::ioctl_fionbio(&master, true).context("prepare the terminal")?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags).context("open the container's terminal")?;
        let raw = if interactive { RawMode::enter()? } else { None };
        let (typed, shown) = (VecDeque::new(), VecDeque::new());
        let relay = Self { master, _slave: slave, typed, shown, reading: interactive, raw };
        relay.resize();
        Ok(relay)
    }

    /// The container's side.
    pub fn master(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }

    /// Whether something typed waits to be written to the container's side.
    pub fn has_typed(&self) -> bool {
        !self.typed.is_empty()
    }

    /// Whether what is typed should be read.
    pub fn can_read_typed(&self) -> bool {
        self.reading && self.typed.len() < BUFFER
    }

    /// Whether something that the program wrote waits to be shown.
    pub fn has_shown(&self) -> bool {
        !self.shown.is_empty()
    }

    /// Whether what the program writes should be read: while standard output takes nothing the program waits, as it would
    /// on a terminal, and minirun does not.
    pub fn can_read_shown(&self) -> bool {
        self.shown.len() < BUFFER
    }

    /// Gives the container's terminal the size of minirun's own, which is whichever of its descriptors is one.
    pub fn resize(&self) {
        let size = tcgetwinsize(stdin()).or_else(|_| tcgetwinsize(stdout())).or_else(|_| tcgetwinsize(stderr()));
        if let Ok(size) = size {
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    /// After a stop: raw mode and size again.
    pub fn resume(&self) -> Result<()> {
        self.resize();
        self.raw.as_ref().map_or(Ok(()), RawMode::again)
    }

    /// Reads what was typed. The signal that a key among it makes of the program in front (Ctrl-C, Ctrl-\), as the
    /// container's terminal is set now.
    pub fn read_typed(&mut self) -> Result<Option<Signal>> {
        let mut buffer = [0; 4096];
        let size = match rustix::io::read(stdin(), &mut buffer) {
            Err(Errno::INTR | Errno::AGAIN) => return Ok(None),
            // The terminal has gone: a hang-up follows.
            Err(Errno::IO) => 0,
            size => size.context("read standard input")?,
        };
        self.reading = size > 0;
        self.typed.extend(&buffer[..size]);
        let Ok(settings) = tcgetattr(&self.master) else { return Ok(None) };
        if !settings.local_flags.contains(LocalFlags::ISIG) {
            return Ok(None);
        }
        let typed = |key: SpecialCharacterIndices| {
            let key = settings.control_chars[key as usize];
            key != 0 && buffer[..size].contains(&key)
        };
        Ok(match () {
            () if typed(SpecialCharacterIndices::VINTR) => Some(Signal::SIGINT),
            () if typed(SpecialCharacterIndices::VQUIT) => Some(Signal::SIGQUIT),
            () => None,
        })
    }

    /// Writes what was typed, as far as the container's terminal takes it.
    pub fn write_typed(&mut self) -> Result<()> {
        match rustix::io::write(&self.master, self.typed.as_slices().0) {
            Ok(size) => drop(self.typed.drain(..size)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error).context("write to the container's terminal"),
        }
        Ok(())
    }

    /// Reads what the program wrote. False where nothing waits.
    pub fn read_shown(&mut self) -> Result<bool> {
        let mut buffer = [0; BUFFER];
        match rustix::io::read(&self.master, &mut buffer) {
            Err(Errno::AGAIN) => Ok(false),
            Err(Errno::INTR) => Ok(true),
            size => {
                let size = size.context("read from the container's terminal")?;
                self.shown.extend(&buffer[..size]);
                Ok(size > 0)
            }
        }
    }

    /// Shows what the program wrote, as far as standard output takes it: called when it takes some. False where its reader
    /// has gone: what comes from now on is lost, as on a closed terminal.
    pub fn write_shown(&mut self) -> Result<bool> {
        // No more than a pipe that takes anything takes at once (PIPE_BUF), so that this does not wait.
        let (front, _) = self.shown.as_slices();
        match rustix::io::write(stdout(), &front[..front.len().min(4096)]) {
            Ok(size) => drop(self.shown.drain(..size)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(Errno::PIPE | Errno::IO) => {
                self.shown.clear();
                return Ok(false);
            }
            Err(error) => return Err(error).context("write to standard output"),
        }
        Ok(true)
    }
}
