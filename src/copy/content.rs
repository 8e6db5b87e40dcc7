//! What a file holds: its bytes, without the holes, and its extended attributes.
//!
//! The file may grow or shrink meanwhile, so its size is what it was at the beginning, or less. Memory is bounded.

use std::fs::File;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, bail};
use rustix::fs::{SeekFrom, XattrFlags};
use rustix::io::Errno;

use super::watch::Watch;

const CHUNK: usize = 128 << 10;
/// What the kernel copies in one call, between two looks at the signals.
const AT_ONCE: u64 = 4 << 20;

/// Copies the first `size` bytes of `from` into the empty file `to`.
pub(super) fn copy(from: &File, to: &File, size: u64, watch: &mut Watch) -> Result<()> {
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole from here on.
            Err(Errno::NXIO) => break,
            Err(_) => at,
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start)).unwrap_or(size);
        let end = end.max(start.saturating_add(1)).min(size);
        if start >= size || !extent(from, to, start, end, watch)? {
            break;
        }
        at = end;
    }
    let now = from.metadata().context("look at it")?.len();
    rustix::fs::ftruncate(to, size.min(now)).context("set its size")
}

/// Copies the bytes from `at` to `end`, and tells whether the file had them all.
fn extent(from: &File, to: &File, mut at: u64, end: u64, watch: &mut Watch) -> Result<bool> {
    while at < end {
        let most = (end - at).min(AT_ONCE);
        let (mut read, mut written) = (at, at);
        let count = rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), most as usize);
        match count {
            Ok(0) => return Ok(false),
            Ok(count) => {
                at += count as u64;
                watch.moved(count as u64)?;
            }
            Err(Errno::INTR) => {}
            Err(e @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => return Err(e).context("write its content"),
            // Not between these two file systems.
            Err(_) => return by_hand(from, to, at, end, watch),
        }
    }
    Ok(true)
}

fn by_hand(from: &File, to: &File, mut at: u64, end: u64, watch: &mut Watch) -> Result<bool> {
    let mut chunk = vec![0; CHUNK];
    while at < end {
        let most = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        let count = read_at(from, &mut chunk[..most], at)?;
        if count == 0 {
            return Ok(false);
        }
        to.write_all_at(&chunk[..count], at).context("write its content")?;
        at += count as u64;
        watch.moved(count as u64)?;
    }
    Ok(true)
}

/// Reads some bytes; zero at the end of the file.
pub(super) fn read_at(from: &File, buffer: &mut [u8], at: u64) -> Result<usize> {
    loop {
        match from.read_at(buffer, at) {
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            done => return done.context("read its content"),
        }
    }
}

/// The extended attributes that are a user's: `user.*`. All others give privileges or mean something to the kernel.
pub(super) fn attributes(of: &File) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    const LIST: usize = 64 << 10;
    const ALL: usize = 4 << 20;
    let none = |e: &Errno| matches!(*e, Errno::NOTSUP | Errno::NOSYS | Errno::PERM);
    match rustix::fs::flistxattr_query(of) {
        Ok(0) => return Ok(Vec::new()),
        Err(e) if none(&e) => return Ok(Vec::new()),
        _ => {}
    }
    let mut list = vec![0u8; LIST];
    let size = rustix::fs::flistxattr(of, &mut list[..]).context("list its extended attributes")?;
    let mut found = Vec::new();
    let mut all = 0;
    for name in list[..size].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")) {
        let mut value = vec![0u8; LIST];
        match rustix::fs::fgetxattr(of, name, &mut value[..]) {
            Ok(size) => value.truncate(size),
            // Taken away meanwhile.
            Err(Errno::NODATA) => continue,
            Err(e) => return Err(e).context("read its extended attributes"),
        }
        value.shrink_to_fit();
        all += value.len();
        if all > ALL {
            bail!("its extended attributes have more than {ALL} bytes");
        }
        found.push((name.to_vec(), value));
    }
    Ok(found)
}

/// Gives a file the attributes of another, where its file system has any.
pub(super) fn copy_attributes(from: &File, to: &File) -> Result<()> {
    for (name, value) in attributes(from)? {
        match rustix::fs::fsetxattr(to, &name[..], &value, XattrFlags::empty()) {
            Err(Errno::NOTSUP) => break,
            done => done.context("set its extended attributes")?,
        }
    }
    Ok(())
}
