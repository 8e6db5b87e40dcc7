//! Deleting a directory tree by descriptors, and the few file operations that the store's own files need.
//!
//! An image's tree is written by others, so its paths are never followed: a directory is entered only by a descriptor,
//! never through a symbolic link and never across a mount. Whatever a link or a mount in the tree leads to stays.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::printable;

/// Nothing in a tree may lead out of it.
pub(super) const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Opens a directory below `dir` for reading.
pub(super) fn open_directory(dir: BorrowedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat2(dir, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty(), BENEATH)
}

/// Deletes everything in `top` and keeps `top` itself.
///
/// A tree can be thousands of levels deep, more than a process has descriptors for. So a directory that is found below
/// another is first moved up into `top`: never more than three descriptors are open, and no path grows.
pub(super) fn empty(top: BorrowedFd) -> Result<()> {
    let mut moved = 0;
    // Entries that are made while a directory is read may be missed, so it is read until it has none.
    while each_name(top, |name| {
        if unlink_unless_directory(top, name)? {
            return Ok(());
        }
        let dir = open_to_empty(top, name)?;
        while each_name(dir.as_fd(), |inner| raise(dir.as_fd(), inner, top, &mut moved))? {}
        remove_directory(top, name)
    })? {}
    Ok(())
}

/// Calls `act` with each name in `dir`, and tells whether there was one.
fn each_name(dir: BorrowedFd, mut act: impl FnMut(&[u8]) -> Result<()>) -> Result<bool> {
    let mut found = false;
    for entry in Dir::read_from(dir).context("read directory")? {
        let entry = entry.context("read directory")?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            found = true;
            act(name)?;
        }
    }
    Ok(found)
}

/// Deletes `name`, or moves it up into `top` if it is a directory that is not empty.
fn raise(dir: BorrowedFd, name: &[u8], top: BorrowedFd, moved: &mut u64) -> Result<()> {
    if unlink_unless_directory(dir, name)? {
        return Ok(());
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) => return Ok(()),
        Err(Errno::NOTEMPTY | Errno::EXIST) => {}
        Err(e) => return Err(e).with_context(|| format!("delete `{}`", shown(name))),
    }
    let mut opened = false;
    loop {
        *moved += 1;
        match rustix::fs::renameat_with(dir, name, top, format!(".{moved:x}"), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            // Not root: a move changes the `..` in a directory, which the image closed to its owner.
            Err(Errno::ACCESS) if !opened => {
                open_up(dir, name)?;
                opened = true;
            }
            done => return done.with_context(|| format!("move `{}` to delete it", shown(name))),
        }
    }
}

fn unlink_unless_directory(dir: BorrowedFd, name: &[u8]) -> Result<bool> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::ISDIR) => Ok(false),
        Err(e) => Err(e).with_context(|| format!("delete `{}`", shown(name))),
    }
}

fn open_to_empty(dir: BorrowedFd, name: &[u8]) -> Result<OwnedFd> {
    if !rustix::process::geteuid().is_root() {
        open_up(dir, name)?;
    }
    open_directory(dir, name).with_context(|| format!("open `{}` to delete it", shown(name)))
}

/// Lets its owner, who is not root, into the directory `name`: a directory, because unlinking it said so.
fn open_up(dir: BorrowedFd, name: &[u8]) -> Result<()> {
    rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::empty())
        .with_context(|| format!("change the mode of `{}` to delete it", shown(name)))
}

/// Deletes the empty directory `name`.
pub(super) fn remove_directory(dir: BorrowedFd, name: &[u8]) -> Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e).with_context(|| format!("delete `{}`", shown(name))),
    }
}

/// A name from an image or archive as a message shows it: escaped, and cut where it is long.
pub(crate) fn shown(name: &[u8]) -> String {
    const LENGTH: usize = 120;
    let text = printable(&String::from_utf8_lossy(name));
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Writes a new file.
pub(super) fn write_file(dir: BorrowedFd, name: &str, content: &[u8], mode: Mode) -> Result<()> {
    use std::io::Write;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::from(rustix::fs::openat(dir, name, flags, mode)?);
        file.write_all(content)?;
        // Not left to the umask.
        Ok(rustix::fs::fchmod(&file, mode)?)
    };
    write().with_context(|| format!("write `{name}`"))
}

/// Reads a small file in as few calls as there can be: the launch of a container waits for it.
pub(super) fn read_file(dir: BorrowedFd, name: &str) -> rustix::io::Result<Vec<u8>> {
    let file = rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let mut content = Vec::new();
    let mut chunk = [0; 8192];
    loop {
        let count = rustix::io::read(&file, &mut chunk)?;
        content.extend_from_slice(&chunk[..count]);
        // A regular file gives less than was asked for only at its end.
        if count < chunk.len() {
            return Ok(content);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deep_and_a_wide_tree_goes_and_what_links_lead_to_stays() {
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("x", outside.path().join("kept")).unwrap();
        let tree = tempfile::tempdir().unwrap();
        let top = rustix::fs::open(tree.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut at = top.try_clone().unwrap();
        for level in 0..3000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            rustix::fs::symlinkat(outside.path(), &at, "out").unwrap();
            write_file(at.as_fd(), "f", b"", Mode::RUSR).unwrap();
            if level < 10 {
                for side in 0..20 {
                    rustix::fs::mkdirat(&at, format!(".{side:x}"), Mode::RWXU).unwrap();
                }
            }
            at = open_directory(at.as_fd(), b"d").unwrap();
        }
        empty(top.as_fd()).unwrap();
        assert_eq!(tree.path().read_dir().unwrap().count(), 0);
        assert_eq!(outside.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn shown_names_are_escaped_and_short() {
        assert_eq!(shown(b"a\x1b[2J\xff"), "a\\u{1b}[2J\u{fffd}");
        assert!(shown(&[b'x'; 5000]).chars().count() <= 121);
    }

    #[test]
    fn files_of_every_size_are_read_whole() {
        let dir = tempfile::tempdir().unwrap();
        let fd = rustix::fs::open(dir.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for size in [0, 1, 8191, 8192, 8193, 20000] {
            let name = size.to_string();
            write_file(fd.as_fd(), &name, &vec![b'x'; size], Mode::RUSR).unwrap();
            assert_eq!(read_file(fd.as_fd(), &name).unwrap().len(), size);
        }
    }
}
