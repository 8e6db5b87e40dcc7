//! Where the lines of a log go when it is read: each stream to its own, byte by byte, in the order of the log.

use std::io::{self, Write};

use super::Stream;
use crate::error::printable;
use crate::time::{STAMP, stamp};

/// What is held back at most.
const PENDING: usize = 64 << 10;

/// Gathers what goes to one stream until the other has its turn.
pub(super) struct Printer<O, E> {
    out: O,
    err: E,
    timestamps: bool,
    pending: Vec<u8>,
    /// The stream of what is pending.
    stream: Stream,
    /// The last byte of each stream ended a line.
    at_start: [bool; 2],
}

impl<O: Write, E: Write> Printer<O, E> {
    pub(super) fn new(out: O, err: E, timestamps: bool) -> Printer<O, E> {
        Printer { out, err, timestamps, pending: Vec::new(), stream: Stream::Stdout, at_start: [true; 2] }
    }

    /// Prints a text, or a piece of one.
    pub(super) fn text(&mut self, stream: Stream, time: i64, text: &[u8], ends_line: bool) -> io::Result<()> {
        let index = usize::from(stream == Stream::Stderr);
        if self.timestamps && self.at_start[index] && (ends_line || !text.is_empty()) {
            let mut start = [b' '; STAMP + 1];
            start[..STAMP].copy_from_slice(&stamp(time));
            self.put(stream, &start)?;
        }
        self.put(stream, text)?;
        if ends_line {
            self.put(stream, b"\n")?;
            self.at_start[index] = true;
        } else if !text.is_empty() {
            self.at_start[index] = false;
        }
        Ok(())
    }

    /// Says something about the log, on a line of its own.
    pub(super) fn notice(&mut self, text: &str) -> io::Result<()> {
        let newline = if self.at_start[1] { "" } else { "\n" };
        self.at_start[1] = true;
        self.put(Stream::Stderr, format!("{newline}minirun: {}\n", printable(text)).as_bytes())
    }

    fn put(&mut self, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        if stream != self.stream || self.pending.len() + bytes.len() > PENDING {
            self.flush()?;
            self.stream = stream;
        }
        if bytes.len() > PENDING {
            return self.write(bytes);
        }
        self.pending.extend_from_slice(bytes);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.stream {
            Stream::Stdout => self.out.write_all(bytes).and_then(|()| self.out.flush()),
            Stream::Stderr => self.err.write_all(bytes).and_then(|()| self.err.flush()),
        }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        let result = if pending.is_empty() { Ok(()) } else { self.write(&pending) };
        self.pending = pending;
        self.pending.clear();
        result
    }
}
