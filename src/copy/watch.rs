//! What goes on beside a copy: the line of progress, the signals, and the list of what was left out.
//!
//! Made once by a copy (`copy/mod.rs`), handed down to whatever moves bytes.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::error::warn;
use crate::listing::cells::decimal;

/// One copy, watched.
pub(super) struct Watch {
    progress: bool,
    begun: Instant,
    shown: Option<Instant>,
    bytes: u64,
    left_out: u64,
    first_left_out: Option<String>,
    /// The signals that would end this process.
    pub(super) signals: Signals,
}

impl Watch {
    pub(super) fn new(quiet: bool) -> io::Result<Self> {
        Ok(Self {
            progress: !quiet && io::stderr().is_terminal(),
            begun: Instant::now(),
            shown: None,
            bytes: 0,
            left_out: 0,
            first_left_out: None,
            signals: Signals::new()?,
        })
    }

    /// So many bytes more were copied. An error where the person wants no more of it.
    pub(super) fn moved(&mut self, bytes: u64) -> Result<()> {
        self.bytes += bytes;
        if self.signals.seen.load(Ordering::Relaxed) != 0 {
            bail!("interrupted");
        }
        let quiet = match self.shown {
            None => self.begun.elapsed() < Duration::from_millis(500),
            Some(shown) => shown.elapsed() < Duration::from_millis(100),
        };
        if self.progress && !quiet {
            self.shown = Some(Instant::now());
            // The terminal may be gone, which is no reason to stop.
            let _ = write!(io::stderr(), "\r\x1b[Kcopied {}", decimal(self.bytes));
        }
        Ok(())
    }

    /// Something in a tree was not copied: a device, say, or a file system of the kernel's.
    pub(super) fn left_out(&mut self, path: &str, what: &str) {
        self.left_out += 1;
        self.first_left_out.get_or_insert_with(|| format!("`{path}`, {what}"));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
        match (&self.first_left_out, self.left_out) {
            (Some(first), 1) => warn(&format!("not copied: {first}")),
            (Some(first), count) => warn(&format!("not copied: {first}, and {} more of such kind", count - 1)),
            (None, _) => {}
        }
    }
}

/// Signals end the process at once, as they do without this, but for the moments in which a file has a temporary name.
#[derive(Clone)]
pub(super) struct Signals {
    /// Whether a signal does what it does by default.
    deadly: Arc<AtomicBool>,
    /// The signal that came while it was not, or 0.
    seen: Arc<AtomicUsize>,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let signals = Self { deadly: Arc::new(AtomicBool::new(true)), seen: Arc::default() };
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            // `nohup` stays what it is.
            if crate::sys::is_ignored(signal) {
                continue;
            }
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&signals.deadly))?;
            signal_hook::flag::register_usize(signal, Arc::clone(&signals.seen), signal as usize)?;
        }
        Ok(signals)
    }

    /// From now on, until the value goes, a signal is only noted.
    pub(super) fn hold(&self) -> Held {
        self.deadly.store(false, Ordering::SeqCst);
        Held(self.clone())
    }
}

/// See [`Signals::hold`].
pub(super) struct Held(Signals);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.deadly.store(true, Ordering::SeqCst);
        let seen = self.0.seen.load(Ordering::SeqCst);
        if seen != 0 {
            // What the signal would have done when it came.
            let _ = signal_hook::low_level::emulate_default_handler(seen as i32);
        }
    }
}
