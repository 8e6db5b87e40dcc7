//! The root file system: an overlay whose lower layer is the image and whose upper layer is a tmpfs of this mount
//! namespace. The image never changes, and what the program writes is gone with the namespace, however it ends.
//!
//! Directories on which something is mounted, and the files that minirun writes, are put into the upper layer before the
//! overlay is mounted over it: whatever the image has under these names, a link out of it among them, is covered and never
//! followed.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path};

use anyhow::{Context, Result, bail};
use nix::libc;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount, mount_change, move_mount,
    open_tree, unmount,
};
use rustix::process::pivot_root;

use super::mounts;

/// Where the layers are put together. `/run` is on every host; in this mount namespace, which nobody else sees, it is
/// covered, so the names below it are ours and need no quoting in mount options.
pub const STAGE: &str = "/run";
const UPPER: &str = "/run/upper";
/// Where the image is mounted if its ids are mapped.
const LOWER: &str = "/run/lower";
const WORK: &str = "/run/work";
const MERGED: &str = "/run/merged";
/// Becomes /dev (`devices.rs`).
pub const DEV: &str = "/run/dev";
/// Covers directories that nobody may look into (`masks.rs`).
pub const EMPTY: &str = "/run/empty";

/// Directories of the upper layer on which something will be mounted, and `etc` for the files.
const DIRECTORIES: [&str; 4] = ["proc", "sys", "dev", "etc"];

/// Makes this namespace's mounts private: nothing that is mounted from here on is seen by the host. Comes first.
pub fn leave_host_mounts() -> Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).context("make mounts private")
}

/// A copy of the mount of the directory `lower`, whose ids are mapped through the namespace `user`.
pub fn map_lower(lower: &Path, user: BorrowedFd<'_>) -> Result<OwnedFd> {
    let map = || -> Result<OwnedFd> {
        let tree = open_tree(CWD, lower, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
        mounts::map_ids(tree.as_fd(), user)?;
        Ok(tree)
    };
    map().with_context(|| format!("use `{}` as root", lower.display()))
}

/// Mounts the overlay over the directory `lower` and makes its root the working directory. `files` are written to `/etc`.
///
/// With `mapped`, a copy of the mount of `lower` whose ids are mapped, it is over that. What is mounted is closed to devices, a device that root in the container makes among them, unless `devices` is set.
pub fn assemble(lower: &Path, files: &[(&str, String)], mapped: Option<&OwnedFd>, devices: bool) -> Result<()> {
    // Relative to the working directory, the lower layer's path needs no quoting either.
    rustix::process::chdir(lower).with_context(|| format!("enter `{}`", lower.display()))?;
    // One file system for all that is made here: each further one costs its making, and its unmaking at the end.
    mount("tmpfs", STAGE, "tmpfs", MountFlags::NOSUID, c"mode=755").context("mount a tmpfs for changes")?;
    for directory in [UPPER, WORK, MERGED, DEV, EMPTY] {
        make_directory(Path::new(directory))?;
    }
    if let Some(mapped) = mapped {
        make_directory(Path::new(LOWER))?;
        move_mount(mapped, "", CWD, LOWER, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).context("mount the image")?;
        rustix::process::chdir(LOWER).context("enter the image")?;
    }
    for directory in DIRECTORIES {
        make_directory(&Path::new(UPPER).join(directory))?;
    }
    for (name, text) in files {
        let path = Path::new(UPPER).join("etc").join(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path)?;
        file.write_all(text.as_bytes()).with_context(|| format!("write `/etc/{name}`"))?;
    }
    let flags = if devices { MountFlags::empty() } else { MountFlags::NODEV };
    let options = c"lowerdir=.,upperdir=/run/upper,workdir=/run/work";
    mount("overlay", MERGED, "overlay", flags, options)
        .with_context(|| format!("mount an overlay over `{}`", lower.display()))?;
    rustix::process::chdir(MERGED).context("enter the root file system")
}

/// Makes a copied tree the root file system that is written to itself, and its root the working directory.
pub fn use_in_place(tree: BorrowedFd<'_>) -> Result<()> {
    mount("tmpfs", STAGE, "tmpfs", MountFlags::NOSUID, c"mode=755").context("mount a tmpfs")?;
    for directory in [MERGED, EMPTY] {
        make_directory(Path::new(directory))?;
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(tree, "", CWD, MERGED, flags).context("mount the root file system")?;
    rustix::process::chdir(MERGED).context("enter the root file system")
}

fn make_directory(path: &Path) -> Result<()> {
    DirBuilder::new().mode(0o755).create(path).with_context(|| format!("make directory `{}`", path.display()))
}

/// Makes the working directory the root, and lets go of the host's file system.
pub fn pivot(read_only: bool) -> Result<()> {
    if read_only {
        crate::sys::mount_setattr(CWD, c".", false, libc::MOUNT_ATTR_RDONLY, 0, 0)
            .context("make the root file system read-only")?;
    }
    // With the same directory for both, the old root ends up mounted over the new one, and is then taken off it
    // (pivot_root(2), "pivot_root(".", ".")").
    pivot_root(".", ".").context("change the root file system")?;
    unmount(".", UnmountFlags::DETACH).context("let go of the host's file system")?;
    rustix::process::chdir("/").context("enter the new root")
}

/// Opens `path` inside the directory `root`: no link and no `..` leads out of it, and the magic links of /proc (to
/// descriptors, to other roots) are not followed.
pub fn open_inside(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        // EAGAIN: something was renamed while the kernel looked (openat2(2)); it cannot say that we are still inside.
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(rustix::io::Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// Opens the place `path` in the root file system `root`, making it and the directories above it where they are missing.
pub fn open_target(root: BorrowedFd<'_>, path: &Path, directory: bool) -> Result<OwnedFd> {
    let failed = || format!("make `{}` in the container", path.display());
    let names: Vec<&std::ffi::OsStr> = path
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    let Some((last, above)) = names.split_last() else { bail!("mount on `/`: the root file system is there already") };
    let mut parent = root.try_clone_to_owned().with_context(failed)?;
    let mut reached = std::path::PathBuf::new();
    for name in above {
        reached.push(name);
        parent = open_or_make(root, parent.as_fd(), &reached, name, true).with_context(failed)?;
    }
    reached.push(last);
    open_or_make(root, parent.as_fd(), &reached, last, directory).with_context(failed)
}

fn open_or_make(
    root: BorrowedFd<'_>,
    parent: BorrowedFd<'_>,
    path: &Path,
    name: &std::ffi::OsStr,
    directory: bool,
) -> Result<OwnedFd> {
    let flags = if directory { OFlags::PATH | OFlags::DIRECTORY } else { OFlags::PATH };
    match open_inside(root, path, flags) {
        Err(rustix::io::Errno::NOENT) => {}
        found => return Ok(found?),
    }
    // Made by its plain name in a directory that we hold: a link that appears under this name meanwhile is an error, and
    // nothing is made where it leads.
    if directory {
        mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(parent, name, flags, Mode::from_raw_mode(0o644))?;
    }
    Ok(open_inside(root, path, flags)?)
}

/// Opens the working directory of the program below `root`, making it where it is missing (as docker does).
pub fn open_working_directory(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let opened = if path == Path::new("/") { Ok(root.try_clone_to_owned()?) } else { open_target(root, path, true) };
    opened.with_context(|| format!("enter working directory `{}`", path.display()))
}

/// Enters the working directory, once its file system is the root.
pub fn enter_working_directory(directory: OwnedFd, path: &Path) -> Result<()> {
    let failed = || format!("enter working directory `{}`", path.display());
    rustix::process::fchdir(directory).with_context(failed)?;
    // A directory outside the root has no path from it, and the kernel says so.
    let inside = rustix::process::getcwd(Vec::new()).with_context(failed)?.as_bytes().starts_with(b"/");
    if inside { Ok(()) } else { bail!("{}: it is outside the container", failed()) }
}
