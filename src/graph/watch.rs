//! The picture again and again, on a screen of its own that goes when it ends. Called by `commands/graph.rs`.
//!
//! It is drawn anew when the kernel tells of a change of links, addresses or routes, when the terminal has another size, and
//! when the time is up; what a container's namespace alone tells is seen then.

use std::io::stdout;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::termios::tcgetwinsize;
use signal_hook::consts::{SIGALRM, SIGCONT, SIGINT, SIGUSR1, SIGUSR2, SIGWINCH};

use crate::error::print;
use crate::net::rtnl::Rtnl;
use crate::supervise::Signals;

/// Changes come in bundles: a start of a container is a dozen of them.
const BUNDLE: Duration = Duration::from_millis(60);

/// The other screen of the terminal, until this is dropped.
struct Screen;

impl Screen {
    fn enter() -> Result<Self> {
        // The other screen, no cursor, no wrapping of lines.
        print("\u{1b}[?1049h\u{1b}[?25l\u{1b}[?7l")?;
        Ok(Self)
    }

    /// Shows the lines that fit. Each is written over what stood there, so that nothing flickers.
    fn show(&self, text: &str, rows: usize) -> Result<()> {
        let count = text.lines().count();
        let fit = if count > rows { rows.saturating_sub(1) } else { rows };
        let mut shown = String::from("\u{1b}[H");
        for (at, line) in text.lines().take(fit).enumerate() {
            let start = if at > 0 { "\r\n" } else { "" };
            shown.push_str(&format!("{start}{line}\u{1b}[K"));
        }
        if count > fit {
            shown.push_str(&format!("\r\n({} lines more)\u{1b}[K", count - fit));
        }
        shown.push_str("\u{1b}[J");
        print(&shown)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = print("\u{1b}[?7h\u{1b}[?25h\u{1b}[?1049l");
    }
}

/// Shows what `draw` makes for so many columns, every `interval` at least, until a signal ends it: Ctrl-C is the usual end.
/// The exit code.
pub fn watch(interval: Duration, mut draw: impl FnMut(usize) -> Result<String>) -> Result<u8> {
    let mut signals = Signals::catch()?;
    let mut news = Rtnl::open()?;
    news.listen()?;
    // An error at once is an error on the usual screen.
    let mut text = draw(columns())?;
    let screen = Screen::enter()?;
    loop {
        screen.show(&text, rows())?;
        if let Some(signal) = pause(interval, &mut signals, &mut news)? {
            return Ok(if signal == SIGINT { 0 } else { 128 + u8::try_from(signal).unwrap_or(0) });
        }
        // Changes that are told while it is drawn are drawn next time.
        news.forget_news();
        text = draw(columns())?;
    }
}

/// Waits for a reason to draw. The signal that ends it, if one has come.
fn pause(interval: Duration, signals: &mut Signals, news: &mut Rtnl) -> Result<Option<i32>> {
    let end = Instant::now() + interval;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN), PollFd::new(news.as_fd(), PollFlags::POLLIN)];
        let patience = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, patience) {
            Err(nix::Error::EINTR) => continue,
            other => other.context("wait for a change")?,
        };
        let told = fds.map(|fd| fd.any().unwrap_or(false));
        if told[0] {
            let came = signals.pending();
            let harmless = [SIGWINCH, SIGCONT, SIGALRM, SIGUSR1, SIGUSR2];
            if let Some(signal) = came.iter().find(|signal| !harmless.contains(signal)) {
                return Ok(Some(*signal));
            }
            return Ok(None);
        }
        if told[1] && left > BUNDLE {
            std::thread::sleep(BUNDLE);
        }
        if told[1] || left.is_zero() {
            return Ok(None);
        }
    }
}

/// The width of the terminal.
pub fn columns() -> usize {
    tcgetwinsize(stdout().as_fd()).map_or(100, |size| if size.ws_col == 0 { 100 } else { usize::from(size.ws_col) })
}

fn rows() -> usize {
    tcgetwinsize(stdout().as_fd()).map_or(24, |size| if size.ws_row == 0 { 24 } else { usize::from(size.ws_row) })
}
