//! The mounts of a container: the kernel's file systems, volumes and tmpfs.
//!
//! Called in the child with the assembled root as working directory, before it becomes the root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use nix::libc;
use rustix::fs::{CWD, FileType, fstat, fstatfs};
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, move_mount, open_tree};

use super::rootfs::open_target;
use crate::sys::{mount_idmap, mount_setattr};

/// A mount that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// A file or directory of the host (`-v`).
    Bind {
        /// On the host, absolute.
        source: PathBuf,
        /// In the container, absolute.
        target: PathBuf,
        /// Whether the container cannot write to it.
        read_only: bool,
    },
    /// An empty file system in memory (`--tmpfs`).
    Tmpfs {
        /// In the container, absolute.
        target: PathBuf,
        /// As tmpfs(5) takes them: `size=...,mode=...`.
        options: String,
        /// `MS_*` as of `ro`, `exec`, ...
        flags: MountFlags,
    },
}

impl Mount {
    /// Where it is in the container.
    pub fn target(&self) -> &std::path::Path {
        match self {
            Self::Bind { target, .. } | Self::Tmpfs { target, .. } => target,
        }
    }
}

/// A mount that is prepared and not yet in its place.
#[derive(Debug)]
pub struct Detached {
    tree: OwnedFd,
    directory: bool,
}

/// Copies the mounts of all bind sources while the host's file system is still in sight. Same order as `mounts`; `None`
/// where there is nothing to copy. Their ids are mapped through the namespace `user`.
pub fn copy_sources(mounts: &[Mount], privileged: bool, user: Option<BorrowedFd<'_>>) -> Result<Vec<Option<Detached>>> {
    mounts
        .iter()
        .map(|mount| match mount {
            Mount::Bind { source, read_only, .. } => {
                let copied = copy_source(source, *read_only, privileged, user);
                copied.map(Some).with_context(|| format!("mount volume `{}`", source.display()))
            }
            Mount::Tmpfs { .. } => Ok(None),
        })
        .collect()
}

fn copy_source(
    source: &std::path::Path,
    read_only: bool,
    privileged: bool,
    user: Option<BorrowedFd<'_>>,
) -> Result<Detached> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, source, clone)?;
    let kind = FileType::from_raw_mode(fstat(&tree)?.st_mode);
    let mut attributes = libc::MOUNT_ATTR_NOSUID;
    if !privileged && !matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) {
        // A device that root in the container makes in a volume cannot be opened. A device that is itself the volume can.
        attributes |= libc::MOUNT_ATTR_NODEV;
    }
    if read_only {
        attributes |= libc::MOUNT_ATTR_RDONLY;
    }
    mount_setattr(&tree, c"", true, attributes, 0, 0)?;
    user.map_or(Ok(()), |user| map_ids(tree.as_fd(), user))?;
    Ok(Detached { tree, directory: kind.is_dir() })
}

/// Has a copied mount show its ids through the namespace `user`.
pub fn map_ids(tree: BorrowedFd<'_>, user: BorrowedFd<'_>) -> Result<()> {
    mount_idmap(tree, user).context("its file system, or one that is mounted below it, cannot map ids for --userns")
}

/// Copies the host's cgroup file systems, with all that is mounted below.
pub fn copy_cgroups() -> Result<OwnedFd> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, "/sys/fs/cgroup", clone).context("copy the mounts of `/sys/fs/cgroup`")
}

/// Puts the mounts into their places below `root`, in the order given.
pub fn place(root: BorrowedFd<'_>, mounts: &[Mount], sources: Vec<Option<Detached>>) -> Result<()> {
    for (wanted, source) in mounts.iter().zip(sources) {
        let path = wanted.target();
        let directory = source.as_ref().is_none_or(|source| source.directory);
        let target = open_target(root, path, directory)?;
        refuse_kernel_files(target.as_fd()).with_context(|| format!("mount on `{}`", path.display()))?;
        let placed = match (wanted, source) {
            (Mount::Tmpfs { options, flags, .. }, _) => mount_on(target.as_fd(), options, *flags),
            (Mount::Bind { .. }, Some(source)) => attach(source.tree.as_fd(), target.as_fd()),
            (Mount::Bind { .. }, None) => Ok(()),
        };
        placed.with_context(|| format!("mount on `{}`", path.display()))?;
    }
    Ok(())
}

/// A link of the image may lead a volume to where its name does not: over the kernel's own files nothing is mounted.
pub fn refuse_kernel_files(target: BorrowedFd<'_>) -> Result<()> {
    const KERNEL: [i64; 4] =
        [0x9fa0 /* proc */, 0x6265_6572 /* sysfs */, 0x1cd1 /* devpts */, 0x1980_0202 /* mqueue */];
    if KERNEL.contains(&fstatfs(target)?.f_type) {
        bail!("a link of the image leads there to the kernel's own files");
    }
    Ok(())
}

/// Moves a detached mount onto what `target` is open on, whatever name it has by now.
pub fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let by_descriptor = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(tree, c"", target, c"", by_descriptor)?)
}

fn mount_on(target: BorrowedFd<'_>, options: &str, flags: MountFlags) -> Result<()> {
    let mut attributes = 0;
    for (flag, attribute) in [
        (MountFlags::RDONLY, libc::MOUNT_ATTR_RDONLY),
        (MountFlags::NOSUID, libc::MOUNT_ATTR_NOSUID),
        (MountFlags::NODEV, libc::MOUNT_ATTR_NODEV),
        (MountFlags::NOEXEC, libc::MOUNT_ATTR_NOEXEC),
    ] {
        attributes |= if flags.contains(flag) { attribute } else { 0 };
    }
    let options = options.split(',').filter(|option| !option.is_empty());
    let tree = mount_new("tmpfs", options.map(|option| option.split_once('=').unwrap_or((option, ""))), attributes)?;
    attach(tree.as_fd(), target)
}

/// Makes a new file system and a mount of it that has no place yet. An option without a value is a flag; `attributes` are
/// `MOUNT_ATTR_*`.
pub fn mount_new<'a>(
    kind: &str,
    options: impl Iterator<Item = (&'a str, &'a str)>,
    attributes: u64,
) -> Result<OwnedFd> {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount,
    };
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        let set = match value {
            "" => fsconfig_set_flag(&context, key),
            value => fsconfig_set_string(&context, key, value),
        };
        set.with_context(|| format!("set its option `{key}`"))?;
    }
    fsconfig_set_string(&context, "source", kind)?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Nothing on it is executed, opened as a device, or a way to new privileges.
pub const CLOSED: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// Mounts the kernel's file systems. `/proc` shows the processes of this PID namespace, or is the mount `proc`; `/sys` shows
/// this network namespace's links. Nobody needs to write to `/sys`, unless the container is to have all rights: then it is
/// writable, and the cgroups are there as on the host.
pub fn kernel_file_systems(proc: Option<&OwnedFd>, cgroups: Option<&OwnedFd>, privileged: bool) -> Result<()> {
    let strict = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match proc {
        Some(proc) => move_mount(proc, "", CWD, "proc", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH),
        None => mount("proc", "proc", "proc", strict, None),
    }
    .context("mount `/proc`")?;
    let writable = if privileged { MountFlags::empty() } else { MountFlags::RDONLY };
    mount("sysfs", "sys", "sysfs", strict | writable, None).context("mount `/sys`")?;
    let placed =
        cgroups.map(|tree| move_mount(tree, "", CWD, "sys/fs/cgroup", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH));
    placed.transpose().context("mount `/sys/fs/cgroup`").map(drop)
}
