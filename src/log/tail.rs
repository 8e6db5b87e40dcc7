//! Where the last lines of a log begin, found from its end backwards, so that a long log is not read as a whole.

use std::io;

use super::Stream;
use super::files::LogFile;
use super::reader::{Position, Window};
use super::record::{Head, LONGEST_HEAD, Source, head};

const BLOCK: usize = 64 << 10;
/// When all lines are found, the beginning of the first line of either stream is looked for within so many bytes more: a
/// stream that writes once a year shall not have the log of the year read. Of a longer line the end is shown.
const LOOK_BACK: u64 = 16 << 20;

/// Where each stream's share of the last `wanted` lines begins.
pub(super) fn starts(files: &[LogFile], wanted: u64, window: &Window) -> io::Result<[Position; 2]> {
    let mut tail = Tail { wanted, found: 0, starts: [None; 2], closed: [false; 2], beyond: 0 };
    for (ordinal, file) in files.iter().enumerate().rev() {
        if tail.is_done() || window.is_after(file) {
            break;
        }
        tail.scan(ordinal, file, window)?;
    }
    let end = files.last().map_or((0, 0), |last| (files.len() - 1, last.size));
    Ok(tail.starts.map(|start| start.unwrap_or(end)))
}

struct Tail {
    wanted: u64,
    found: u64,
    /// Where the first line that was found of a stream begins, as far as is known.
    starts: [Option<Position>; 2],
    /// The stream's record before that belongs to another line.
    closed: [bool; 2],
    /// Bytes read since all lines were found.
    beyond: u64,
}

impl Tail {
    fn is_done(&self) -> bool {
        let settled = |index: usize| self.starts[index].is_none() || self.closed[index];
        self.found == self.wanted && (self.beyond > LOOK_BACK || settled(0) && settled(1))
    }

    /// Looks at the records of a file, the last first.
    fn scan(&mut self, ordinal: usize, file: &LogFile, window: &Window) -> io::Result<()> {
        // A block, and what follows it as far as it can belong to a head that begins in the block.
        let mut buffer = vec![0; BLOCK + LONGEST_HEAD];
        let (mut end, mut behind) = (file.size, 0);
        while end > 0 && !self.is_done() {
            let length = BLOCK.min(usize::try_from(end).unwrap_or(BLOCK));
            let start = end - length as u64;
            buffer.copy_within(..behind, length);
            if !read_exactly(file, &mut buffer[..length], start)? {
                return Ok(());
            }
            let known = &buffer[..length + behind];
            let newlines = memchr::memrchr_iter(b'\n', &known[..length]).map(|newline| newline + 1);
            for at in newlines.chain((start == 0).then_some(0)) {
                // Behind the last newline there may be nothing.
                if let Some(head) = head(&known[at..]).filter(|head| window.contains(head.time)) {
                    self.consider(&head, (ordinal, start + at as u64));
                    if self.is_done() {
                        return Ok(());
                    }
                }
            }
            if self.found == self.wanted {
                self.beyond += length as u64;
            }
            behind = known.len().min(LONGEST_HEAD);
            end = start;
        }
        Ok(())
    }

    fn consider(&mut self, head: &Head, position: Position) {
        let Source::Program(stream) = head.source else { return };
        let index = usize::from(stream == Stream::Stderr);
        if self.closed[index] {
            return;
        }
        if self.starts[index].is_none() || head.ends_line {
            // The end of a line that was not yet seen.
            if self.found == self.wanted {
                self.closed[index] = true;
                return;
            }
            self.found += 1;
        }
        self.starts[index] = Some(position);
    }
}

/// Whether all was there: somebody may have emptied the file.
fn read_exactly(file: &LogFile, to: &mut [u8], start: u64) -> io::Result<bool> {
    let mut filled = 0;
    while filled < to.len() {
        match file.read(&mut to[filled..], start + filled as u64)? {
            0 => return Ok(false),
            count => filled += count,
        }
    }
    Ok(true)
}
