//! The files of a log as its readers see them, while a writer may rename them.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::file_name;
use super::options::MOST_FILES;
use super::rotation::number_of;

/// So many missing names behind one another end the search: a writer that was killed or is at work leaves one gap.
const GAP: u32 = 3;

/// A file of a log. It stays readable when its name has gone.
pub(super) struct LogFile {
    file: OwnedFd,
    identity: (u64, u64),
    /// Its bytes when it was opened.
    pub size: u64,
    /// Its last change then, in nanoseconds since 1970.
    pub changed: i64,
}

impl LogFile {
    fn open(directory: BorrowedFd, index: u32) -> Result<LogFile, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, file_name(index), flags, Mode::empty())?;
        let status = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(Errno::NOENT);
        }
        Ok(LogFile {
            identity: (status.st_dev, status.st_ino),
            size: status.st_size.cast_unsigned(),
            changed: status.st_mtime.saturating_mul(1_000_000_000).saturating_add(status.st_mtime_nsec.cast_signed()),
            file,
        })
    }

    /// Reads at `offset`. Nothing: the file ends there.
    pub(super) fn read(&self, to: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match rustix::io::pread(&self.file, &mut *to, offset) {
                Err(Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    /// What it says its number is. A new file says that with its first record.
    pub(super) fn number(&self) -> Option<u64> {
        number_of(&self.file)
    }

    /// Its bytes now.
    pub(super) fn size_now(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.file)?.st_size.cast_unsigned())
    }

    /// Whether another file is `log` now. Its writer has then written the last byte of this one.
    pub(super) fn was_rotated(&self, directory: BorrowedFd) -> bool {
        rustix::fs::statat(directory, "log", AtFlags::SYMLINK_NOFOLLOW)
            .is_ok_and(|status| (status.st_dev, status.st_ino) != self.identity)
    }
}

/// All files, the oldest first. They are opened from the newest on: while this goes on they can but grow older, so none is
/// passed by, and one that is met again is known.
pub(super) fn all(directory: BorrowedFd) -> io::Result<Vec<LogFile>> {
    let mut files: Vec<LogFile> = Vec::new();
    let mut missing = 0;
    for index in 0..MOST_FILES {
        match LogFile::open(directory, index) {
            Ok(file) if files.iter().any(|known| known.identity == file.identity) => {}
            Ok(file) => {
                files.push(file);
                missing = 0;
            }
            Err(Errno::NOENT | Errno::LOOP) if missing == GAP => break,
            Err(Errno::NOENT | Errno::LOOP) => missing += 1,
            Err(error) => return Err(error.into()),
        }
    }
    files.reverse();
    Ok(files)
}

/// Those behind `current`; all, when that is not among them or is none.
pub(super) fn newer(directory: BorrowedFd, current: Option<&LogFile>) -> io::Result<Vec<LogFile>> {
    let mut files = all(directory)?;
    if let Some(at) = current.and_then(|current| files.iter().position(|file| file.identity == current.identity)) {
        files.drain(..=at);
    }
    Ok(files)
}
