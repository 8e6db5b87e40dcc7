//! `/proc` of a PID namespace that is joined, mounted by a process that is not in it.
//!
//! Called in the child, by `init.rs` and `layout.rs`, while the host's mounts are in sight. mount(2) shows the processes of
//! whoever calls it, and who is among those of another container must not be able to mount any more (`joiner.rs`). Since Linux
//! 6.17 the file system takes the namespace as its option `pidns`; before that, the one is copied that a process there has.

use std::os::fd::{BorrowedFd, OwnedFd};

use anyhow::{Context, Result, anyhow, bail};
use nix::libc;
use nix::sched::{CloneFlags, setns};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, fstat, fstatfs, openat, openat2, readlinkat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_fd, fsconfig_set_string,
    fsmount, fsopen, open_tree,
};

use super::namespaces::open_own;
use crate::sys::mount_setattr;

/// A mount, which has no place yet, of the processes of the namespace `pid`. `options` are procfs's own (proc(5)); `attributes`
/// are `MOUNT_ATTR_*`.
pub fn mount_of(pid: BorrowedFd<'_>, options: &[(String, String)], attributes: u64) -> Result<OwnedFd> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    match fsconfig_set_fd(&context, "pidns", pid) {
        Err(Errno::INVAL) => {
            if let Some((option, _)) = options.first() {
                bail!("with its option `{option}` and the processes of another it takes Linux 6.17");
            }
            return copy_of(pid, attributes);
        }
        set => set?,
    }
    for (key, value) in options {
        fsconfig_set_string(&context, key.as_str(), value.as_str())
            .with_context(|| format!("set its option `{key}`"))?;
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A copy of the mount that some process of the namespace has as its `/proc`.
fn copy_of(pid: BorrowedFd<'_>, attributes: u64) -> Result<OwnedFd> {
    let number = fstat(pid)?.st_ino;
    let own = open_own("mnt")?;
    let processes = std::fs::read_dir("/proc").context("look for processes of the other container")?;
    // A descriptor of its directory first, so that the process that is asked is the one whose mounts are looked at.
    let member = |process: std::fs::DirEntry| -> Option<OwnedFd> {
        process.file_name().to_str()?.parse::<u32>().ok()?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, process.path(), flags, Mode::empty()).ok()?;
        let open = |kind| openat(&directory, kind, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
        (fstat(open("ns/pid")?).ok()?.st_ino == number).then(|| open("ns/mnt")).flatten()
    };
    for mounts in processes.flatten().filter_map(member) {
        setns(&mounts, CloneFlags::CLONE_NEWNS)?;
        let copied = copy_here();
        setns(&own, CloneFlags::CLONE_NEWNS).context("come back to the host's mounts")?;
        if let Ok(tree) = copied {
            mount_setattr(&tree, c"", false, attributes, libc::MOUNT_ATTR_RDONLY & !attributes, libc::MS_PRIVATE)?;
            return Ok(tree);
        }
    }
    Err(anyhow!("no process of the other container has one that could be shared; Linux 6.17 needs none"))
}

/// The container may have made of its `/proc` what it wanted: no link is followed, and it must be a whole procfs in which this
/// process is not to be found.
fn copy_here() -> Result<OwnedFd> {
    const PROC_SUPER_MAGIC: i64 = 0x9fa0;
    const PROC_ROOT_INO: u64 = 1;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let found = openat2(CWD, "/proc", flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    if fstatfs(&found)?.f_type != PROC_SUPER_MAGIC || fstat(&found)?.st_ino != PROC_ROOT_INO {
        bail!("it is no procfs");
    }
    if readlinkat(&found, "self", Vec::new()) != Err(Errno::NOENT) {
        bail!("it shows processes of the host");
    }
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(&found, "", clone)?)
}
