//! The terminal of `-t`: minirun's own in raw mode, and bytes carried between it and the container's.
//!
//! Used by `supervise.rs`. The container's side never blocks minirun: it is read and written only as far as it goes, so
//! that signals are always served.

use std::collections::VecDeque;
use std::io::{self, stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr, tcsetattr};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{tcgetwinsize, tcsetwinsize};

/// The most that is held for a program that does not read.
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
        let relay = Self { master, _slave: slave, typed: VecDeque::new(), reading: interactive, raw };
        relay.resize();
        Ok(relay)
    }

    /// The container's side.
    pub fn master(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }

    /// Whether something typed waits to be written to the container's side.
    pub fn wants_to_write(&self) -> bool {
        !self.typed.is_empty()
    }

    /// Whether what is typed should be read.
    pub fn wants_to_read(&self) -> bool {
        self.reading && self.typed.len() < BUFFER
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

    /// Reads what was typed. True where a key among it interrupts the program in front (Ctrl-C), as the container's
    /// terminal is set now.
    pub fn read_typed(&mut self) -> Result<bool> {
        let mut buffer = [0; 4096];
        let size = match rustix::io::read(stdin(), &mut buffer) {
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => return Ok(false),
            // The terminal has gone: a hang-up follows.
            Err(rustix::io::Errno::IO) => 0,
            size => size.context("read standard input")?,
        };
        self.reading = size > 0;
        self.typed.extend(&buffer[..size]);
        let settings = tcgetattr(&self.master);
        Ok(settings.is_ok_and(|settings| {
            let key = settings.control_chars[SpecialCharacterIndices::VINTR as usize];
            settings.local_flags.contains(LocalFlags::ISIG) && key != 0 && buffer[..size].contains(&key)
        }))
    }

    /// Writes what was typed, as far as the container's terminal takes it.
    pub fn write_typed(&mut self) -> Result<()> {
        let (front, _) = self.typed.as_slices();
        match rustix::io::write(&self.master, front) {
            Ok(size) => drop(self.typed.drain(..size)),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("write to the container's terminal"),
        }
        Ok(())
    }

    /// Shows what the program wrote. False where nothing waits to be shown.
    pub fn show(&mut self) -> Result<bool> {
        let mut buffer = [0; BUFFER];
        match rustix::io::read(&self.master, &mut buffer) {
            Err(rustix::io::Errno::AGAIN) => Ok(false),
            Err(rustix::io::Errno::INTR) => Ok(true),
            size => {
                let size = size.context("read from the container's terminal")?;
                write_all(&buffer[..size]).context("write to standard output")?;
                Ok(size > 0)
            }
        }
    }

    /// Shows what is left after the program's end.
    pub fn drain(&mut self) -> Result<()> {
        while self.show()? {}
        Ok(())
    }
}

/// Writes to standard output without std's line buffer: a prompt has no end of line.
fn write_all(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(stdout(), bytes) {
            Ok(size) => bytes = &bytes[size..],
            Err(rustix::io::Errno::INTR) => {}
            // A reader that has gone does not end the container; its output is lost, as to a closed terminal.
            Err(rustix::io::Errno::PIPE) => return Ok(()),
            Err(rustix::io::Errno::AGAIN) => {
                let mut poll =
                    [rustix::event::PollFd::from_borrowed_fd(rustix::stdio::stdout(), rustix::event::PollFlags::OUT)];
                let _ = rustix::event::poll(&mut poll, None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
