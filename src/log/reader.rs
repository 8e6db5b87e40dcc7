//! The side of a log that reads: `minirun logs`. A log's text is whatever a program wrote, and a file may be damaged: what
//! is no record is counted and passed over, and memory does not grow with anything that stands in a file.

use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Error, Result};
use rustix::fs::{CWD, Mode, OFlags};

use super::files::{self, LogFile};
use super::printer::Printer;
use super::record::{Source, head};
use super::watch::Watch;
use super::{Stream, lost, tail};
use crate::time;

/// More than any record that the writer makes.
const BUFFER: usize = 64 << 10;
/// A file's time of change is that of the last tick, a record's is exact.
const TICK: i64 = 1_000_000_000;

/// Which lines are read.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Go on until the container has ended.
    pub follow: bool,
    /// The last lines only.
    pub tail: Option<u64>,
    /// What was written then or later, in nanoseconds since 1970.
    pub since: Option<i64>,
    /// What was written then or earlier.
    pub until: Option<i64>,
    /// Put its time before each line.
    pub timestamps: bool,
}

/// A file, counted from the first that was there, and an offset in it.
pub(super) type Position = (usize, u64);

/// The time of what is read.
pub(super) struct Window {
    since: i64,
    until: i64,
}

impl Window {
    pub(super) fn contains(&self, time: i64) -> bool {
        (self.since..=self.until).contains(&time)
    }

    /// Whether all of the file was written before.
    pub(super) fn is_after(&self, file: &LogFile) -> bool {
        file.changed.saturating_add(TICK) < self.since
    }
}

/// Reads the log in `directory` and writes what is asked for to `out` and `err`. `running` tells whether more may be
/// written. `reader` is looked at while there is nothing to read: if nobody reads there any more, this ends.
///
/// A reader who has gone is no error.
pub fn read<O: Write, E: Write>(
    directory: &Path,
    query: &Query,
    running: impl Fn() -> bool,
    (out, err): (O, E),
    reader: Option<BorrowedFd>,
) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(CWD, directory, flags, Mode::empty());
    let mut reading = Reading {
        directory: opened.with_context(|| format!("open log `{}`", directory.display()))?,
        window: Window { since: query.since.unwrap_or(i64::MIN), until: query.until.unwrap_or(i64::MAX) },
        starts: [(0, 0); 2],
        printer: Printer::new(out, err, query.timestamps),
        buffer: vec![0; BUFFER],
        long: None,
        unreadable: 0,
    };
    let watch = query.follow.then(|| Watch::new(directory, reader));
    let done = reading.run(query, running, watch);
    match done.and_then(|()| reading.printer.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Error::from(error)).with_context(|| format!("read log `{}`", directory.display()))
        }
        _ => Ok(()),
    }
}

struct Reading<O, E> {
    directory: OwnedFd,
    window: Window,
    /// Where what is shown of each stream begins.
    starts: [Position; 2],
    printer: Printer<O, E>,
    buffer: Vec<u8>,
    /// The record whose beginning was too long for the buffer.
    long: Option<Record>,
    /// Bytes that are no records and were not yet spoken of.
    unreadable: u64,
}

/// A record without its text.
#[derive(Clone, Copy)]
enum Record {
    Text { stream: Stream, time: i64, ends_line: bool },
    Notice,
    Hidden,
    Unreadable,
}

/// The file that is read, and how far.
struct Place {
    file: LogFile,
    ordinal: usize,
    offset: u64,
}

impl<O: Write, E: Write> Reading<O, E> {
    fn run(&mut self, query: &Query, running: impl Fn() -> bool, watch: Option<Watch>) -> io::Result<()> {
        let ended = !running();
        let files = files::all(self.directory.as_fd())?;
        if let Some(wanted) = query.tail {
            self.starts = tail::starts(&files, wanted, &self.window)?;
        }
        let mut place = self.enter(None, files)?;
        if let Some(watch) = watch {
            return self.follow(place, running, &watch);
        }
        if let Some(place) = &mut place {
            // No further than it went when it was opened: its writer may be faster than this.
            self.drain(place, place.file.size, ended)?;
        }
        self.finish(ended)
    }

    /// Reads all but the newest of `files`, which come after `place`, and returns where to go on.
    fn enter(&mut self, mut place: Option<Place>, files: Vec<LogFile>) -> io::Result<Option<Place>> {
        let first = self.starts.into_iter().min().unwrap_or_default();
        for file in files {
            let ordinal = place.as_ref().map_or(0, |place| place.ordinal + 1);
            if let Some(before) = &mut place
                && before.ordinal >= first.0
                && !self.window.is_after(&before.file)
            {
                self.drain(before, u64::MAX, true)?;
                self.tell_gap(&before.file, &file)?;
            }
            let offset = if ordinal == first.0 { first.1 } else { 0 };
            place = Some(Place { file, ordinal, offset });
        }
        Ok(place)
    }

    fn tell_gap(&mut self, before: &LogFile, file: &LogFile) -> io::Result<()> {
        let numbers = before.number().zip(file.number());
        let gone = numbers.map_or(0, |(before, number)| number.saturating_sub(before).saturating_sub(1));
        if gone == 0 {
            return Ok(());
        }
        let files = if gone == 1 { "1 file".to_owned() } else { format!("{gone} files") };
        self.printer.notice(&format!("{files} of the log had to give way to newer ones before they were read"))
    }

    fn follow(&mut self, mut place: Option<Place>, running: impl Fn() -> bool, watch: &Watch) -> io::Result<()> {
        loop {
            // Asked before the log is read, so that all is there when the answer is no.
            let ended = !running();
            if let Some(place) = &mut place {
                if place.file.size_now()? < place.offset {
                    // It was emptied by hand.
                    place.offset = 0;
                }
                self.drain(place, u64::MAX, false)?;
            }
            self.printer.flush()?;
            if place.as_ref().is_none_or(|place| place.file.was_rotated(self.directory.as_fd())) {
                let newer = files::newer(self.directory.as_fd(), place.as_ref().map(|place| &place.file))?;
                if !newer.is_empty() {
                    place = self.enter(place, newer)?;
                    continue;
                }
            }
            if ended || time::now() > self.window.until {
                if let Some(place) = &mut place {
                    self.drain(place, u64::MAX, ended)?;
                }
                return self.finish(ended);
            }
            if watch.wait()? {
                return Ok(());
            }
        }
    }

    /// What is to be said at the end.
    fn finish(&mut self, ended: bool) -> io::Result<()> {
        self.tell_unreadable()?;
        match lost::left(self.directory.as_fd()).filter(|_| ended) {
            Some(text) => self.printer.notice(&text),
            None => Ok(()),
        }
    }

    /// Reads what there is up to `limit`. At the end of a `complete` file, also what there is of a last record: its writer
    /// was killed. Of a file that is written to it may still be made whole, or taken back.
    fn drain(&mut self, place: &mut Place, limit: u64, complete: bool) -> io::Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.drain_with(&mut buffer, place, limit, complete);
        self.buffer = buffer;
        result
    }

    fn drain_with(&mut self, buffer: &mut [u8], place: &mut Place, limit: u64, complete: bool) -> io::Result<()> {
        let mut filled = 0;
        loop {
            let left = limit.saturating_sub(place.offset + filled as u64);
            let room = (buffer.len() - filled).min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = place.file.read(&mut buffer[filled..filled + room], place.offset + filled as u64)?;
            if count == 0 {
                break;
            }
            filled += count;
            let mut used = 0;
            while let Some(length) = memchr::memchr(b'\n', &buffer[used..filled]) {
                self.piece(&buffer[used..used + length], (place.ordinal, place.offset + used as u64), true)?;
                used += length + 1;
            }
            if used == 0 && filled == buffer.len() {
                self.piece(buffer, (place.ordinal, place.offset), false)?;
                used = filled;
            }
            buffer.copy_within(used..filled, 0);
            filled -= used;
            place.offset += used as u64;
        }
        if complete {
            if filled > 0 {
                self.piece(&buffer[..filled], (place.ordinal, place.offset), false)?;
                place.offset += filled as u64;
            }
            self.long = None;
        }
        Ok(())
    }

    /// A record, or a piece of a long one. `last`: a newline follows it.
    fn piece(&mut self, bytes: &[u8], position: Position, last: bool) -> io::Result<()> {
        let (record, text) = match self.long.take() {
            Some(record) => (record, bytes),
            None => self.record(bytes, position),
        };
        match record {
            Record::Text { stream, time, ends_line } => {
                self.tell_unreadable()?;
                self.printer.text(stream, time, text, ends_line && last)?;
            }
            // Its text is ours, and fits.
            Record::Notice if last => self.printer.notice(&String::from_utf8_lossy(text))?,
            Record::Unreadable => self.unreadable += bytes.len() as u64 + u64::from(last),
            Record::Notice | Record::Hidden => {}
        }
        if !last {
            self.long = Some(record);
        }
        Ok(())
    }

    fn record<'a>(&self, bytes: &'a [u8], position: Position) -> (Record, &'a [u8]) {
        let Some(head) = head(bytes) else { return (Record::Unreadable, bytes) };
        let text = &bytes[head.length..];
        let record = match head.source {
            _ if !self.window.contains(head.time) => Record::Hidden,
            Source::Minirun if text.starts_with(b"file ") => Record::Hidden,
            Source::Minirun => Record::Notice,
            Source::Program(stream) if position < self.starts[usize::from(stream == Stream::Stderr)] => Record::Hidden,
            Source::Program(stream) => Record::Text { stream, time: head.time, ends_line: head.ends_line },
        };
        (record, text)
    }

    fn tell_unreadable(&mut self) -> io::Result<()> {
        match std::mem::take(&mut self.unreadable) {
            0 => Ok(()),
            bytes => self.printer.notice(&format!("{bytes} bytes of the log cannot be read as lines")),
        }
    }
}
