//! Masked and read-only paths of /proc and /sys: those of Docker 29 (`oci/defaults.go` of moby).
//!
//! Called in the child with the assembled root as working directory. What covers a path is on the stage, which no name of the
//! container leads to: the null device that this process made a moment ago, and an empty directory. Not by its name in `/dev`,
//! which a volume may cover by now, and another container change. `/proc` and `/sys` were mounted by this process too, nothing
//! covers them, and no process of the container is there yet. So the names lead where they say.

use anyhow::{Context, Result};
use nix::libc;
use rustix::fs::{CWD, FileType, makedev, stat};
use rustix::io::Errno;
use rustix::mount::mount_bind;

use super::rootfs;
use crate::sys::{c_path, mount_setattr};

/// In what becomes `/dev` ([`rootfs::DEV`]).
const NULL: &str = "/run/dev/null";

const FILES: [&str; 7] = [
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/timer_list",
    "proc/timer_stats",
];

const DIRECTORIES: [&str; 5] =
    ["proc/acpi", "proc/asound", "proc/scsi", "sys/devices/virtual/powercap", "sys/firmware"];

const READ_ONLY: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];

/// Masks and makes read-only. A path that this kernel does not have is passed over.
pub fn apply() -> Result<()> {
    let null = stat(NULL).context("mask paths: look at the null device")?;
    if FileType::from_raw_mode(null.st_mode) != FileType::CharacterDevice || null.st_rdev != makedev(1, 3) {
        anyhow::bail!("mask paths: `{NULL}` is not the null device");
    }
    FILES.iter().try_for_each(|path| cover(NULL, path).map(drop))?;
    DIRECTORIES.iter().try_for_each(|path| mask_directory(path).map(drop))?;
    mask_throttling()?;
    READ_ONLY.iter().try_for_each(|path| make_read_only(path))
}

/// A processor's thermal state tells what its neighbours do (GHSA-6fw5-f8r9-fgfm).
fn mask_throttling() -> Result<()> {
    for cpu in 0.. {
        let directory = format!("sys/devices/system/cpu/cpu{cpu}");
        let masked = mask_directory(&format!("{directory}/thermal_throttle"))?;
        // Where the first processor, which is always on, has no such directory, none has; one that is off has none.
        if !masked && (cpu == 0 || stat(&directory).is_err()) {
            break;
        }
    }
    Ok(())
}

/// The same to be written down, as paths of the container: what is masked, and what is read-only.
pub fn paths() -> (Vec<String>, Vec<String>) {
    let absolute = |path: &&str| format!("/{path}");
    let mut masked: Vec<String> = FILES.iter().chain(&DIRECTORIES).map(absolute).collect();
    let throttling = (0..).map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}")).take_while(|cpu| stat(cpu).is_ok());
    masked.extend(throttling.map(|cpu| format!("{cpu}/thermal_throttle")).filter(|path| stat(path).is_ok()));
    (masked, READ_ONLY.iter().map(absolute).collect())
}

fn mask_directory(path: &str) -> Result<bool> {
    let there = cover(rootfs::EMPTY, path)?;
    if there {
        set_read_only(path)?;
    }
    Ok(there)
}

/// Mounts `source` over `path`; false where there is no such path.
fn cover(source: &str, path: &str) -> Result<bool> {
    match mount_bind(source, path) {
        Err(Errno::NOENT) => Ok(false),
        covered => covered.map(|()| true).with_context(|| format!("mask `/{path}`")),
    }
}

fn make_read_only(path: &str) -> Result<()> {
    match mount_bind(path, path) {
        Err(Errno::NOENT) => Ok(()),
        mounted => {
            mounted.with_context(|| format!("make `/{path}` read-only"))?;
            set_read_only(path)
        }
    }
}

fn set_read_only(path: &str) -> Result<()> {
    mount_setattr(CWD, &c_path(path.as_ref())?, false, libc::MOUNT_ATTR_RDONLY, 0, 0)
        .with_context(|| format!("make `/{path}` read-only"))
}
