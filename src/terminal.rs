//! The terminal of `-t`: minirun's own in raw mode, and bytes carried between it and the container's.
//!
//! Used by `supervise.rs`. Neither side blocks minirun: each is read and written only as far as it goes, so that signals are
//! always served.

use std::collections::VecDeque;
use std::io::{stderr, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use nix::poll::PollFlags;
use nix::sys::signal::Signal;
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr, tcsetattr};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{tcgetwinsize, tcsetwinsize};

use crate::error::{self, refused};
use crate::supervise::Served;

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

/// Keys that let a container go on by itself: `ctrl-p,ctrl-q`. All but the last go to the program at once.
#[derive(Debug, Clone)]
pub struct DetachKeys {
    keys: Vec<u8>,
    /// How many of them were typed just now.
    typed: usize,
}

impl DetachKeys {
    /// `ctrl-X` and single characters, separated by commas. Empty: there are none.
    pub fn parse(text: &str) -> Result<Self> {
        let key = |word: &str| match word.as_bytes() {
            [byte] if byte.is_ascii() => Ok(*byte),
            [b'c', b't', b'r', b'l', b'-', byte @ (b'a'..=b'z' | b'@'..=b'_')] => Ok(byte & 0x1f),
            _ => Err(refused(
                format!("use detach keys `{text}`: `{word}` is no key"),
                "single characters and ctrl-a to ctrl-z, separated by commas",
            )),
        };
        let keys = text.split(',').filter(|_| !text.is_empty()).map(key).collect::<Result<_>>()?;
        Ok(Self { keys, typed: 0 })
    }

    /// Looks through what was typed: how much of it goes to the program, and whether the last of the keys ended it.
    pub fn find(&mut self, typed: &[u8]) -> (usize, bool) {
        for (at, byte) in typed.iter().enumerate() {
            if self.keys.get(self.typed) == Some(byte) {
                self.typed += 1;
                if self.typed == self.keys.len() {
                    self.typed = 0;
                    return (at, true);
                }
            } else {
                self.typed = usize::from(self.keys.first() == Some(byte) && self.keys.len() > 1);
            }
        }
        (typed.len(), false)
    }
}

/// What is typed to let a container go, unless `--detach-keys` says otherwise.
pub const DETACH_KEYS: &str = "ctrl-p,ctrl-q";

/// Says that they were typed, as docker does: the program's last line is on the screen still, and a shell's prompt would follow
/// on it.
pub fn say_left() {
    error::tell("read escape sequence\n");
}

/// What was typed.
#[derive(Debug, Default)]
struct Typed {
    /// The signal that a key among it makes of the program in front.
    signal: Option<Signal>,
    /// The detach keys were typed.
    detach: bool,
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
    keys: Option<DetachKeys>,
}

impl Relay {
    /// Takes over the container's terminal. With `interactive`, what is typed goes to it.
    /// `keys` are looked for among it.
    pub fn start(master: OwnedFd, interactive: bool, keys: Option<DetachKeys>) -> Result<Self> {
        let slave = prepare(&master)?;
        let raw = if interactive { RawMode::enter()? } else { None };
        let (typed, shown) = (VecDeque::new(), VecDeque::new());
        let relay = Self { master, _slave: slave, typed, shown, reading: interactive, raw, keys };
        relay.resize();
        Ok(relay)
    }

    /// The container's side.
    pub fn master(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }

    /// Whether something typed waits to be written to the container's side.
    fn has_typed(&self) -> bool {
        !self.typed.is_empty()
    }

    /// Whether what is typed should be read.
    fn can_read_typed(&self) -> bool {
        self.reading && self.typed.len() < BUFFER
    }

    /// Whether something that the program wrote waits to be shown.
    pub fn has_shown(&self) -> bool {
        !self.shown.is_empty()
    }

    /// Whether what the program writes should be read: while standard output takes nothing the program waits, as it would
    /// on a terminal, and minirun does not.
    fn can_read_shown(&self) -> bool {
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

    /// What is to be waited for, in the order in which [`serve`](Self::serve) takes it.
    pub fn interest<'a>(
        &'a self,
        input: BorrowedFd<'a>,
        output: BorrowedFd<'a>,
        ended: bool,
    ) -> [(BorrowedFd<'a>, PollFlags); 3] {
        let if_wanted = |wanted: bool, events: PollFlags| if wanted { events } else { PollFlags::empty() };
        let program =
            if_wanted(self.can_read_shown(), PollFlags::POLLIN) | if_wanted(self.has_typed(), PollFlags::POLLOUT);
        [
            (self.master(), program),
            (input, if_wanted(self.can_read_typed() && !ended, PollFlags::POLLIN)),
            (output, if_wanted(self.has_shown(), PollFlags::POLLOUT)),
        ]
    }

    /// Carries bytes both ways; `ready` is as [`interest`](Self::interest) was.
    pub fn serve(&mut self, ready: &[PollFlags]) -> Result<Served> {
        let any = |at: usize| ready.get(at).is_some_and(|ready| !ready.is_empty());
        let mut served = Served::default();
        if any(1) {
            let typed = self.read_typed()?;
            (served.key, served.detach) = (typed.signal, typed.detach);
        }
        if any(0) && self.can_read_shown() {
            self.read_shown()?;
        }
        if self.has_typed() {
            self.write_typed()?;
        }
        served.hung_up = any(2) && !self.write_shown()?;
        Ok(served)
    }

    /// Lets go of minirun's own terminal: the container's one, and what the program wrote and nobody has seen.
    pub fn let_go(self) -> (OwnedFd, OwnedFd, Vec<u8>) {
        (self.master, self._slave, self.shown.into())
    }

    /// Reads what was typed, and finds the keys among it that mean something.
    fn read_typed(&mut self) -> Result<Typed> {
        let mut buffer = [0; 4096];
        let mut size = match rustix::io::read(stdin(), &mut buffer) {
            Err(Errno::INTR | Errno::AGAIN) => return Ok(Typed::default()),
            // The terminal has gone: a hang-up follows.
            Err(Errno::IO) => 0,
            size => size.context("read standard input")?,
        };
        self.reading = size > 0;
        let mut detach = false;
        if let Some(keys) = &mut self.keys {
            (size, detach) = keys.find(&buffer[..size]);
        }
        self.typed.extend(&buffer[..size]);
        Ok(Typed { signal: signal_of(self.master.as_fd(), &buffer[..size]), detach })
    }

    /// Writes what was typed, as far as the container's terminal takes it.
    fn write_typed(&mut self) -> Result<()> {
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
    fn write_shown(&mut self) -> Result<bool> {
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

/// Makes a container's terminal one that is read and written only as far as it goes. The other side of it, which is to be
/// kept open: then it cannot hang up.
pub fn prepare(master: &OwnedFd) -> Result<OwnedFd> {
    rustix::io::ioctl_fionbio(master, true).context("prepare the terminal")?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    ioctl_tiocgptpeer(master, flags).context("open the container's terminal")
}

/// The signal that a key among `typed` makes of the program in front (Ctrl-C, Ctrl-\), as the container's terminal is set
/// now.
pub fn signal_of(master: BorrowedFd<'_>, typed: &[u8]) -> Option<Signal> {
    let settings = tcgetattr(master).ok()?;
    if !settings.local_flags.contains(LocalFlags::ISIG) {
        return None;
    }
    let has = |key: SpecialCharacterIndices| {
        let key = settings.control_chars[key as usize];
        key != 0 && typed.contains(&key)
    };
    match () {
        () if has(SpecialCharacterIndices::VINTR) => Some(Signal::SIGINT),
        () if has(SpecialCharacterIndices::VQUIT) => Some(Signal::SIGQUIT),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_found_across_reads_and_all_but_the_last_go_through() {
        let mut keys = DetachKeys::parse(DETACH_KEYS).unwrap();
        assert_eq!(keys.find(b"ab\x10"), (3, false));
        assert_eq!(keys.find(b"\x11rest"), (0, true));
        assert_eq!(keys.find(b"\x10x\x11"), (3, false), "only right after");
        assert_eq!(keys.find(b"\x10\x10\x11"), (2, true));
        let mut none = DetachKeys::parse("").unwrap();
        assert_eq!(none.find(b"\x10\x11"), (2, false));
        assert_eq!(DetachKeys::parse("ctrl-a,d").unwrap().find(b"x\x01d"), (2, true));
        assert!(DetachKeys::parse("ctrl-").is_err() && DetachKeys::parse("alt-x").is_err());
    }
}
