//! Masked and read-only paths of /proc and /sys: those of Docker 29 (`oci/defaults.go` of moby).
//!
//! Called in the child with the assembled root as working directory. What is mounted over a path is made here: the null
//! device of our own `/dev`, an empty tmpfs, or the path itself read-only; `/proc` and `/sys` were mounted a moment ago and
//! no process of the container is there yet, so the names lead where they say.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use nix::libc;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsmount, fsopen, open_tree};

use super::devices;
use super::mounts::attach;
use super::rootfs::is_directory;
use crate::sys::mount_setattr;

const MASKED: [&str; 12] = [
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "proc/timer_stats",
    "sys/devices/virtual/powercap",
    "sys/firmware",
];

const READ_ONLY: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

/// Masks and makes read-only. A path that this kernel does not have is passed over.
pub fn apply() -> Result<()> {
    let null = devices::null()?;
    for path in MASKED {
        mask(Path::new(path), &null)?;
    }
    for cpu in 0.. {
        let directory = format!("sys/devices/system/cpu/cpu{cpu}");
        let masked = mask(&Path::new(&directory).join("thermal_throttle"), &null)?;
        // Where the first processor, which is always on, has no such directory, none has; one that is off has none.
        if !masked && (cpu == 0 || is_directory(Path::new(&directory))?.is_none()) {
            break;
        }
    }
    READ_ONLY.iter().try_for_each(|path| make_read_only(path))
}

/// Whether there was something to mask.
fn mask(path: &Path, null: &OwnedFd) -> Result<bool> {
    let Some(directory) = is_directory(path)? else { return Ok(false) };
    let failed = || format!("mask `/{}`", path.display());
    let cover = if directory { empty_directory().with_context(failed)? } else { copy(null).with_context(failed)? };
    let target = openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).with_context(failed)?;
    attach(cover.as_fd(), target.as_fd()).with_context(failed)?;
    Ok(true)
}

fn copy(mount: &OwnedFd) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(mount, "", flags)?)
}

fn empty_directory() -> Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

fn make_read_only(path: &str) -> Result<()> {
    let failed = || format!("make `/{path}` read-only");
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let tree = match open_tree(CWD, path, clone) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        tree => tree.with_context(failed)?,
    };
    mount_setattr(&tree, c"", false, libc::MOUNT_ATTR_RDONLY, 0, 0).with_context(failed)?;
    let target = openat(CWD, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).with_context(failed)?;
    attach(tree.as_fd(), target.as_fd()).with_context(failed)
}
