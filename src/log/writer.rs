//! The side of a log that writes: used by the process that holds a container, between two looks at its pipes.
//!
//! Nothing here fails or waits for anybody. What cannot be written is counted and said in the log as soon as it takes
//! something again. What [`Writer::write`] was given has been handed to the kernel when it returns.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigSet, Signal};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::lost::{self, Lost};
use super::options::{MOST_FILES, SMALLEST};
use super::record::{HEAD, TAG};
use super::{Options, Stream};
use crate::time::Clock;

/// Text of a record at most, as in other logs of this form.
const LONGEST_TEXT: usize = 16 << 10;
/// What is written at a time, at most.
const BATCH: usize = 64 << 10;
/// Room in a file for what is not the program's: the file's number, a loss, a head.
const RESERVE: u64 = 512;

/// The log of a running container.
pub struct Writer {
    pub(super) directory: OwnedFd,
    pub(super) max_size: u64,
    pub(super) max_file: u32,
    /// `log`. `None` when it could not be made.
    pub(super) file: Option<OwnedFd>,
    /// Its bytes.
    pub(super) size: u64,
    /// Its number, see the top of `mod.rs`.
    pub(super) number: u64,
    /// Its end could not be repaired: nothing may be written behind it.
    pub(super) broken: bool,
    lost: Lost,
    /// The records of a batch. Kept from one to the next.
    buffer: Vec<u8>,
    clock: Clock,
}

impl Writer {
    /// Opens the log in `directory`, which is there, makes it or goes on with it. A record that a killed writer left
    /// incomplete is completed as far as it goes.
    ///
    /// SIGXFSZ is blocked from here on: a limit on the size of files shall not end the process that holds a container.
    pub fn open(directory: &Path, options: &Options) -> Result<Writer> {
        let open = || -> Result<Writer> {
            SigSet::from(Signal::SIGXFSZ).thread_block()?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            // A file that reaches the limit of the process is left for a new one, as one that reaches its own.
            let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
            let mut writer = Writer {
                directory: rustix::fs::openat(CWD, directory, flags, Mode::empty())?,
                max_size: options.max_size.min(limit).max(SMALLEST),
                max_file: options.max_file.clamp(1, MOST_FILES),
                file: None,
                size: 0,
                number: 0,
                broken: false,
                lost: Lost::NOTHING,
                buffer: Vec::new(),
                clock: Clock::default(),
            };
            writer.lost = Lost::take(writer.directory.as_fd());
            writer.resume()?;
            Ok(writer)
        };
        open().with_context(|| format!("open log `{}`", directory.display()))
    }

    /// Appends what the program wrote.
    pub fn write(&mut self, stream: Stream, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.write_batch(stream, bytes) {
                Ok(taken) => bytes = &bytes[taken..],
                // What is behind is not tried: it would only make a second gap of one.
                Err(Failed { kept, cause }) => return self.lost.add(stream, bytes.len() - kept, cause),
            }
        }
    }

    /// Says what was lost, as far as that can be written. To be called at the program's end.
    pub fn finish(&mut self) {
        if self.lost.any() && self.start_batch(0).is_ok() && self.flush(self.buffer.len()).is_ok() {
            return;
        }
        if self.lost.any() {
            lost::forget(self.directory.as_fd());
            self.lost.leave(self.directory.as_fd());
        }
    }

    /// Writes as many of the bytes as go into one batch and one file, and returns how many they were.
    fn write_batch(&mut self, stream: Stream, bytes: &[u8]) -> Result<usize, Failed> {
        let longest = LONGEST_TEXT.min((self.max_size - RESERVE) as usize);
        let mut next = part(bytes, longest);
        self.start_batch(HEAD + next.0.len() + 1).map_err(|cause| Failed { kept: 0, cause })?;
        let preamble = self.buffer.len();
        let mut taken = 0;
        loop {
            let (text, ends_line) = next;
            push(&mut self.buffer, &self.clock, stream, ends_line, text);
            taken += text.len() + usize::from(ends_line);
            next = part(&bytes[taken..], longest);
            let length = self.buffer.len() + HEAD + next.0.len() + 1;
            if taken == bytes.len() || length > BATCH || self.size + length as u64 > self.max_size {
                break;
            }
        }
        self.flush(preamble)?;
        Ok(taken)
    }

    /// Begins a batch with what is to be said before the program's bytes, in a file that has room for it and a record of
    /// `length` bytes.
    fn start_batch(&mut self, length: usize) -> Result<(), Errno> {
        self.clock.tick();
        if self.broken {
            self.rotate()?;
        }
        if self.file.is_none() {
            self.file = Some(self.create()?);
        }
        self.preamble();
        if self.size > 0 && self.size + (self.buffer.len() + length) as u64 > self.max_size {
            self.rotate()?;
            self.preamble();
        }
        Ok(())
    }

    fn preamble(&mut self) {
        self.buffer.clear();
        let mut say = |text: String| {
            self.buffer.extend_from_slice(self.clock.text());
            self.buffer.extend_from_slice(b" minirun F ");
            self.buffer.extend_from_slice(text.as_bytes());
            self.buffer.push(b'\n');
        };
        if self.size == 0 {
            say(format!("file {}", self.number));
        }
        if self.lost.any() {
            say(self.lost.text());
        }
    }

    /// Appends the buffer. After an error, the file ends with the last record that fits, and of what stands behind
    /// `preamble` so many bytes of the program were kept.
    fn flush(&mut self, preamble: usize) -> Result<(), Failed> {
        let Some(file) = &self.file else { return Err(Failed { kept: 0, cause: Errno::IO }) };
        let (written, result) = append(file, &self.buffer);
        let kept = memchr::memrchr(b'\n', &self.buffer[..written]).map_or(0, |end| end + 1);
        if written > kept && cut(file, written - kept).is_err() {
            self.broken = true;
        }
        self.size += kept as u64;
        if kept >= preamble && self.lost.any() {
            lost::forget(self.directory.as_fd());
            self.lost = Lost::NOTHING;
        }
        result.map_err(|cause| Failed { kept: program_bytes(self.buffer.get(preamble..kept).unwrap_or(&[])), cause })
    }
}

/// A batch that was not written, or not to its end.
struct Failed {
    /// Bytes of the program that were.
    kept: usize,
    cause: Errno,
}

/// The first record of `bytes`: its text, and whether a newline follows, which is then the end of a line.
fn part(bytes: &[u8], longest: usize) -> (&[u8], bool) {
    match memchr::memchr(b'\n', &bytes[..bytes.len().min(longest + 1)]) {
        Some(end) => (&bytes[..end], true),
        None => (&bytes[..bytes.len().min(longest)], false),
    }
}

fn push(buffer: &mut Vec<u8>, clock: &Clock, stream: Stream, ends_line: bool, text: &[u8]) {
    buffer.extend_from_slice(clock.text());
    buffer.extend_from_slice(match (stream, ends_line) {
        (Stream::Stdout, true) => b" stdout F ",
        (Stream::Stdout, false) => b" stdout P ",
        (Stream::Stderr, true) => b" stderr F ",
        (Stream::Stderr, false) => b" stderr P ",
    });
    buffer.extend_from_slice(text);
    buffer.push(b'\n');
}

/// How many bytes of the program are in whole records.
fn program_bytes(mut records: &[u8]) -> usize {
    let mut bytes = 0;
    while let Some(end) = memchr::memchr(b'\n', records) {
        bytes += end - HEAD + usize::from(records[TAG] == b'F');
        records = &records[end + 1..];
    }
    bytes
}

/// Appends as much as the file takes, and says how much that was.
fn append(file: impl AsFd, bytes: &[u8]) -> (usize, Result<(), Errno>) {
    let mut written = 0;
    while written < bytes.len() {
        match rustix::io::write(&file, &bytes[written..]) {
            Err(Errno::INTR) => {}
            // The kernel does not do this to a regular file.
            Ok(0) => return (written, Err(Errno::IO)),
            Ok(count) => written += count,
            Err(cause) => return (written, Err(cause)),
        }
    }
    (written, Ok(()))
}

/// Takes the last bytes of a file away.
fn cut(file: impl AsFd, bytes: usize) -> Result<(), Errno> {
    // Its size is asked for: somebody may have emptied it by hand.
    let size = rustix::fs::fstat(&file)?.st_size.cast_unsigned();
    rustix::fs::ftruncate(&file, size.saturating_sub(bytes as u64))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn text(directory: &Path, name: &str) -> String {
        let text = fs::read_to_string(directory.join(name)).unwrap();
        text.lines().map(|line| format!("{}\n", line.split_once(' ').unwrap().1)).collect()
    }

    #[test]
    fn lines_are_records() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), &Options::default()).unwrap();
        writer.write(Stream::Stdout, b"one\ntwo\nthr");
        writer.write(Stream::Stderr, b"wrong\n");
        writer.write(Stream::Stdout, b"ee\n\n");
        writer.write(Stream::Stdout, b"");
        writer.finish();
        insta::assert_snapshot!(text(dir.path(), "log"), @r"
        minirun F file 0
        stdout F one
        stdout F two
        stdout P thr
        stderr F wrong
        stdout F ee
        stdout F
        ");
    }

    #[test]
    fn long_lines_are_parts() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), &Options::default()).unwrap();
        let line = [vec![b'x'; LONGEST_TEXT], b"\n".to_vec()].concat();
        writer.write(Stream::Stdout, &line);
        writer.write(Stream::Stdout, &vec![b'x'; 9 * line.len()]);
        let text = text(dir.path(), "log");
        let tags: Vec<_> = text.lines().skip(1).map(|line| (&line[..8], line.len() - 9)).collect();
        assert_eq!(tags[0], ("stdout F", LONGEST_TEXT));
        assert_eq!(tags[1..10], [("stdout P", LONGEST_TEXT); 9]);
        assert_eq!(tags[10], ("stdout P", 9));
    }

    #[test]
    fn files_are_bounded_and_numbered() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { max_size: 4096, max_file: 3 };
        let mut writer = Writer::open(dir.path(), &options).unwrap();
        for number in 0..1000 {
            writer.write(Stream::Stdout, format!("line {number}\n").as_bytes());
            if number % 100 == 0 {
                writer = Writer::open(dir.path(), &options).unwrap();
            }
        }
        writer.write(Stream::Stderr, &[b'\n'; 10_000]);
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["log", "log.1", "log.2"]);
        for name in names {
            assert!(fs::metadata(dir.path().join(name)).unwrap().len() <= 4096);
        }
        let first = |name| text(dir.path(), name).lines().next().unwrap().to_owned();
        let newest: u64 = first("log").strip_prefix("minirun F file ").unwrap().parse().unwrap();
        assert_eq!(first("log.1"), format!("minirun F file {}", newest - 1));
        assert_eq!(first("log.2"), format!("minirun F file {}", newest - 2));
    }
}
