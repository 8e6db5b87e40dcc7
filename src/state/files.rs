//! Files and directories of the state, which only their owner can change.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result};
use nix::libc;

use super::FILES;
use crate::error::refused;

/// Makes `path` a directory that only its owner can read and write, or checks that it is one. The parent must exist.
pub fn private_directory(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).with_context(|| format!("make directory `{}`", path.display())),
    }
    let found = fs::symlink_metadata(path).with_context(|| format!("look at `{}`", path.display()))?;
    let own = found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw() && found.mode() & 0o022 == 0;
    if own {
        return Ok(());
    }
    Err(refused(
        format!("use `{}`: it is not a directory that only its owner, this user, can change", path.display()),
        "look at who made it; remove it, or give another --root",
    ))
}

/// Says that the container in this directory has changed: who has read the records reads them again.
pub fn touch(directory: &Path) -> Result<()> {
    use nix::sys::stat::{UtimensatFlags, utimensat};
    use nix::sys::time::TimeSpec;
    let all = directory.parent().unwrap_or(directory);
    utimensat(nix::fcntl::AT_FDCWD, all, &TimeSpec::UTIME_NOW, &TimeSpec::UTIME_NOW, UtimensatFlags::FollowSymlink)
        .with_context(|| format!("touch `{}`", all.display()))
}

/// Opens a file for reading and writing, making it where it is missing, readable by its owner only.
pub fn open_private(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW)
        .open(path)
        .with_context(|| format!("open `{}`", path.display()))
}

pub(super) fn remove_log(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove `{}`", directory.display()))
        }
        _ => Ok(()),
    }
}

pub(super) fn remove_directory(path: &Path) -> Result<()> {
    FILES.iter().try_for_each(|name| remove_if_there(&path.join(name)))?;
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

pub(super) fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove `{}`", path.display()))
        }
        _ => Ok(()),
    }
}
