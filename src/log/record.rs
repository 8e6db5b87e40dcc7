//! A record: what stands before its text, written and read.

use super::Stream;
use crate::time::{self, STAMP};

/// Bytes before the text of a record that the writer makes of the program's bytes: the time, the stream, the tag and the
/// blank behind each.
pub(super) const HEAD: usize = STAMP + " stdout F ".len();
/// Where its tag is.
pub(super) const TAG: usize = HEAD - 2;
/// No head is longer than this, whoever wrote it.
pub(super) const LONGEST_HEAD: usize = 64;

/// Who wrote a text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Source {
    Program(Stream),
    /// minirun, about the log.
    Minirun,
}

/// What stands before the text.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Head {
    /// Nanoseconds since 1970.
    pub time: i64,
    pub source: Source,
    /// `F`: a newline follows the text.
    pub ends_line: bool,
    /// Bytes before the text.
    pub length: usize,
}

/// Reads the head of a record that begins where `bytes` begin. `None`: there is none, or not the whole of it.
pub(super) fn head(bytes: &[u8]) -> Option<Head> {
    let bytes = &bytes[..bytes.len().min(LONGEST_HEAD)];
    let mut words = bytes.split(|byte| *byte == b' ');
    let (time, source, tag) = (words.next()?, words.next()?, words.next()?);
    // Without a blank behind it, the tag may be cut.
    words.next()?;
    let ends_line = match tag.split(|byte| *byte == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    let length = time.len() + source.len() + tag.len() + 3;
    let source = match source {
        b"stdout" => Source::Program(Stream::Stdout),
        b"stderr" => Source::Program(Stream::Stderr),
        b"minirun" => Source::Minirun,
        _ => return None,
    };
    let time = time::parse(std::str::from_utf8(time).ok()?)?;
    Some(Head { time, source, ends_line, length })
}

/// The number in the first record of a file.
pub(super) fn file_number(start: &[u8]) -> Option<u64> {
    let head = head(start)?;
    let text = start.get(head.length..)?.split(|byte| *byte == b'\n').next()?;
    if head.source != Source::Minirun {
        return None;
    }
    std::str::from_utf8(text.strip_prefix(b"file ")?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let whole = b"2026-11-25T21:00:00.123456789Z stderr P \x00 text";
        let found = head(whole).unwrap();
        assert_eq!(found.source, Source::Program(Stream::Stderr));
        assert!(!found.ends_line);
        assert_eq!(found.time, 1_795_640_400_123_456_789);
        assert_eq!(&whole[found.length..], b"\x00 text");
        assert_eq!(found.length, HEAD);
        assert_eq!(whole[TAG], b'P');
        assert!(head(&whole[..HEAD]).is_some());
        for cut in 0..HEAD {
            assert_eq!(head(&whole[..cut]), None);
        }
        assert!(head(b"2026-11-25T22:00:00+01:00 stdout F:x a").unwrap().ends_line);
        for wrong in ["", "   ", "x stdout F a", "2026-11-25T21:00:00Z stdin F a", "2026-11-25T21:00:00Z stdout G a"] {
            assert_eq!(head(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn numbers_of_files() {
        assert_eq!(file_number(b"2026-11-25T21:00:00Z minirun F file 17\nx"), Some(17));
        for wrong in ["stdout F file 17", "minirun F file 17x", "minirun F file", "minirun F file 99999999999999999999"]
        {
            assert_eq!(file_number(format!("2026-11-25T21:00:00Z {wrong}\n").as_bytes()), None, "{wrong}");
        }
    }
}
