//! /dev: a fresh tmpfs with the usual nodes; nothing of the image's /dev is used.
//!
//! The tmpfs itself is `nodev`, so that a node that root in the container makes there cannot be opened; each of the usual
//! nodes is a mount of its own that was copied before. The nodes are the container's own too: changing the mode of its
//! `/dev/null` does not change the host's.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::libc;
use rustix::fs::{CWD, FileType, Mode, OFlags, fchown, fstat, makedev, mkdirat, mknodat, openat};
use rustix::mount::{MountFlags, OpenTreeFlags, mount, open_tree};
use rustix::process::Uid;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};

use super::mounts::attach;
use crate::sys::mount_setattr;

/// Name, major and minor number (Documentation/admin-guide/devices.txt of the kernel).
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 6] = [
    ("pts/ptmx", "dev/ptmx"),
    ("/proc/self/fd", "dev/fd"),
    ("/proc/self/fd/0", "dev/stdin"),
    ("/proc/self/fd/1", "dev/stdout"),
    ("/proc/self/fd/2", "dev/stderr"),
    ("/proc/kcore", "dev/core"),
];

/// Mounts and fills `dev` below the working directory. The umask must be 0.
pub fn make() -> Result<()> {
    let nosuid = MountFlags::NOSUID;
    let closed = nosuid | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", "dev", "tmpfs", nosuid | MountFlags::STRICTATIME, c"mode=755,size=65536k").context("mount `/dev`")?;
    let dev = openat(CWD, "dev", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut nodes = Vec::with_capacity(NODES.len());
    for (name, major, minor) in NODES {
        mknodat(&dev, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor))
            .with_context(|| format!("make device `/dev/{name}`"))?;
        nodes.push((name, copy(dev.as_fd(), name)?));
    }
    mount_setattr(CWD, c"dev", false, libc::MOUNT_ATTR_NODEV, 0, 0).context("close `/dev` to other devices")?;
    for (name, node) in nodes {
        let target = openat(&dev, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        attach(node.as_fd(), target.as_fd()).with_context(|| format!("mount `/dev/{name}`"))?;
    }
    for (name, kind, flags, options) in [
        ("pts", "devpts", nosuid | MountFlags::NOEXEC, c"newinstance,ptmxmode=0666,mode=0620,gid=5"),
        ("shm", "tmpfs", closed, c"mode=1777,size=65536k"),
        ("mqueue", "mqueue", closed, c""),
    ] {
        mkdirat(&dev, name, Mode::from_raw_mode(0o755)).with_context(|| format!("make `/dev/{name}`"))?;
        let target = Path::new("dev").join(name);
        mount(kind, &target, kind, flags, options).with_context(|| format!("mount `/dev/{name}`"))?;
    }
    for (target, link) in LINKS {
        symlink(target, link).with_context(|| format!("make link `/{link}`"))?;
    }
    Ok(())
}

fn copy(dir: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    open_tree(dir, name, flags).with_context(|| format!("copy the mount of `/dev/{name}`"))
}

/// A copy of the container's own `/dev/null`, to be mounted over what nobody may read.
pub fn null() -> Result<OwnedFd> {
    let node = copy(CWD, "dev/null")?;
    let stat = fstat(&node)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || stat.st_rdev != makedev(1, 3) {
        bail!("check `/dev/null`: it is not the null device");
    }
    Ok(node)
}

/// The two sides of a pseudo-terminal of the container's own devpts.
#[derive(Debug)]
pub struct Terminal {
    /// For minirun.
    pub master: OwnedFd,
    /// For the program.
    pub slave: OwnedFd,
}

/// Makes a pseudo-terminal for user `uid`, and `/dev/console` for it. The other side is opened through the first one's
/// descriptor, so no name is looked up.
pub fn make_terminal(uid: u32) -> Result<Terminal> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = openat(CWD, "dev/pts/ptmx", flags, Mode::empty()).context("open a pseudo-terminal")?;
    unlockpt(&master).context("unlock the pseudo-terminal")?;
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .context("open the other side of the pseudo-terminal")?;
    fchown(&slave, Some(Uid::from_raw(uid)), None).context("give the pseudo-terminal to the user")?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let console = open_tree(&slave, "", flags).context("copy the mount of the pseudo-terminal")?;
    let target = openat(CWD, "dev/console", OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC, Mode::from_raw_mode(0o600))
        .context("make `/dev/console`")?;
    attach(console.as_fd(), target.as_fd()).context("mount `/dev/console`")?;
    Ok(Terminal { master, slave })
}
