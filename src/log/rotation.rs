//! The files of a log, as its writer makes, renames and repairs them.

use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Result, bail};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::file_name;
use super::record::{HEAD, Source, TAG, file_number, head};
use super::writer::Writer;

/// So far back from its end a file is looked at for its last whole record, which is no longer than a quarter of this.
const LOOK_BACK: u64 = 64 << 10;

impl Writer {
    /// Opens `log`, or makes it, and repairs its end.
    pub(super) fn resume(&mut self) -> Result<()> {
        // More files were kept before.
        let mut surplus = self.max_file;
        while rustix::fs::unlinkat(&self.directory, file_name(surplus), AtFlags::empty()).is_ok() {
            surplus += 1;
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, "log", flags, Mode::RUSR | Mode::WUSR)?;
        let status = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            bail!("`log` is not a file");
        }
        self.size = status.st_size.cast_unsigned();
        self.number = self.own_number(&file);
        if self.size > 0 {
            match repair(&file, self.size) {
                Ok(size) => self.size = size,
                Err(_) => self.broken = true,
            }
        }
        // Only now, because with it the kernel takes no place to write to.
        rustix::fs::fcntl_setfl(&file, OFlags::APPEND)?;
        self.file = Some(file);
        Ok(())
    }

    /// The number of `log`: what it says itself, or one more than the file before it.
    fn own_number(&self, log: &OwnedFd) -> u64 {
        if let Some(number) = number_of(log) {
            return number;
        }
        let before = (1..self.max_file).find_map(|index| {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&self.directory, file_name(index), flags, Mode::empty()).ok()?;
            number_of(&file)
        });
        before.map_or(0, |number| number.saturating_add(1))
    }

    /// Makes room by a new file. After an error, it can be called again.
    pub(super) fn rotate(&mut self) -> Result<(), Errno> {
        self.shift()?;
        self.file = None;
        self.size = 0;
        self.number = self.number.saturating_add(1);
        self.broken = false;
        self.file = Some(self.create()?);
        Ok(())
    }

    pub(super) fn create(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.directory, "log", flags, Mode::RUSR | Mode::WUSR)
    }

    /// Renames `log` to `log.1`, and those before it as far as there is no gap, which a killed writer may have left. The
    /// oldest file goes when there are as many as are kept.
    fn shift(&self) -> Result<(), Errno> {
        let last = self.max_file - 1;
        if last == 0 {
            return absent_is_fine(rustix::fs::unlinkat(&self.directory, "log", AtFlags::empty()));
        }
        let there =
            |index: &u32| rustix::fs::statat(&self.directory, file_name(*index), AtFlags::SYMLINK_NOFOLLOW).is_ok();
        let gap = (1..last).find(|index| !there(index)).unwrap_or(last);
        for index in (0..gap).rev() {
            let (from, to) = (file_name(index), file_name(index + 1));
            absent_is_fine(rustix::fs::renameat(&self.directory, from, &self.directory, to))?;
        }
        Ok(())
    }
}

/// Somebody may have removed it by hand.
fn absent_is_fine(result: Result<(), Errno>) -> Result<(), Errno> {
    result.or_else(|error| if error == Errno::NOENT { Ok(()) } else { Err(error) })
}

/// The number that a file of a log says it has.
pub(super) fn number_of(file: impl AsFd) -> Option<u64> {
    let mut start = [0; 128];
    let count = rustix::io::pread(file, &mut start, 0).ok()?;
    file_number(&start[..count])
}

/// Makes the file end with a whole record, and returns its size. What there is of the text of an incomplete one becomes a
/// part of a line, so that nothing of it is lost.
fn repair(file: impl AsFd, size: u64) -> std::io::Result<u64> {
    let start = size.saturating_sub(LOOK_BACK);
    let mut end = vec![0; (size - start) as usize];
    read_all(&file, &mut end, start)?;
    let whole = match memchr::memrchr(b'\n', &end) {
        Some(newline) => newline + 1,
        None if start == 0 => 0,
        None => return Err(ErrorKind::InvalidData.into()),
    };
    let rest = &end[whole..];
    if rest.is_empty() {
        return Ok(size);
    }
    let at = start + whole as u64;
    if rest.len() > HEAD
        && head(rest).is_some_and(|head| head.length == HEAD && head.source != Source::Minirun)
        && rustix::io::pwrite(&file, b"P", at + TAG as u64) == Ok(1)
        && rustix::io::pwrite(&file, b"\n", size) == Ok(1)
    {
        return Ok(size + 1);
    }
    rustix::fs::ftruncate(&file, at)?;
    Ok(at)
}

fn read_all(file: impl AsFd, mut to: &mut [u8], mut at: u64) -> std::io::Result<()> {
    while !to.is_empty() {
        let count = rustix::io::pread(&file, &mut *to, at)?;
        if count == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        to = &mut to[count..];
        at += count as u64;
    }
    Ok(())
}
