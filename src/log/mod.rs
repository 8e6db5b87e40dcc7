//! The log of a detached container: what its program wrote, in files that people can read.
//!
//! The process that holds the container writes it ([`Writer`]), `minirun logs` reads it ([`read`]); they share nothing but
//! the files. A log has a directory of its own with the newest file `log`, the one before it `log.1`, and so on. Each line
//! is a record in the form of the container runtime interface of Kubernetes (CRI):
//!
//! ```text
//! 2026-11-25T21:00:00.123456789Z stdout F a whole line, or the last part of one
//! 2026-11-25T21:00:00.123456789Z stderr P a part of a line: no newline follows it
//! 2026-11-25T21:00:00.123456789Z minirun F 12 bytes of stdout, 0 of stderr were lost: no space left on device
//! ```
//!
//! What always holds: all bytes but the newline are kept as they are. The program's bytes of a stream are the texts of its
//! records, in order, with a newline after each `F`. A file begins with the record `minirun F file N`, where N is one more
//! than in the file before it. A file's last record alone can be incomplete, after a SIGKILL of the writer.

mod files;
mod lost;
mod options;
mod printer;
mod reader;
mod record;
mod rotation;
mod tail;
mod watch;
mod writer;

use std::io;
use std::path::Path;

use anyhow::{Context, Result};

pub use options::Options;
pub use reader::{Query, read};
pub use writer::Writer;

/// Where a program writes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The name of a log's file: the newest is number 0.
fn file_name(number: u32) -> String {
    match number {
        0 => "log".into(),
        number => format!("log.{number}"),
    }
}

/// Removes a log with its directory. None is no error.
pub fn remove(directory: &Path) -> Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove log `{}`", directory.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
