//! /dev: a fresh directory with the usual nodes; nothing of the image's /dev is used.
//!
//! The directory's mount is `nodev`, so that a node that root in the container makes there cannot be opened; each of the
//! usual nodes is a mount of its own that was made before. The nodes are the container's own too: changing the mode of its
//! `/dev/null` does not change the host's.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::libc;
use rustix::fs::{CWD, FileType, Mode, OFlags, fchown, fstatfs, makedev, mkdirat, mknodat, openat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind, move_mount, open_tree};
use rustix::process::Uid;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};

use super::mounts::{attach, refuse_kernel_files};
use super::rootfs::{self, open_inside, open_target};
use crate::sys::mount_setattr;

/// Name, major and minor number (Documentation/admin-guide/devices.txt of the kernel).
const NODES: [(&str, u32, u32); 6] = [
    ("dev/null", 1, 3),
    ("dev/zero", 1, 5),
    ("dev/full", 1, 7),
    ("dev/random", 1, 8),
    ("dev/urandom", 1, 9),
    ("dev/tty", 5, 0),
];

const LINKS: [(&str, &str); 6] = [
    ("pts/ptmx", "dev/ptmx"),
    ("/proc/self/fd", "dev/fd"),
    ("/proc/self/fd/0", "dev/stdin"),
    ("/proc/self/fd/1", "dev/stdout"),
    ("/proc/self/fd/2", "dev/stderr"),
    ("/proc/kcore", "dev/core"),
];

/// The group of terminals, the same number in every distribution.
pub const TTY: u32 = 5;

/// Whether every container has this device under this name.
pub fn is_usual(target: &Path, number: u64) -> bool {
    NODES.iter().any(|(name, major, minor)| is_named(target, name) && number == makedev(*major, *minor))
}

/// Whether one of the usual devices has this number.
pub fn has_number(major: u32, minor: u32) -> bool {
    NODES.iter().any(|(_, own_major, own_minor)| (*own_major, *own_minor) == (major, minor))
}

/// Whether something of the container's own is there in `/dev`.
pub fn is_taken(target: &Path) -> bool {
    let links = LINKS.iter().map(|(_, link)| *link);
    NODES.iter().map(|(name, ..)| *name).chain(links).chain(["dev/console"]).any(|name| is_named(target, name))
}

fn is_named(target: &Path, name: &str) -> bool {
    target.strip_prefix("/").is_ok_and(|target| target == Path::new(name))
}

/// Mounts and fills `dev` below the working directory; `shared` is what will be `/dev/shm`, or else `shm_size` bytes fit into a
/// new one. The umask must be 0.
///
/// By plain names: everything here was made a moment ago and nobody else sees it.
///
/// Closed to other devices unless `open` is set.
///
/// The group of terminals is that with the host's number `tty`.
pub fn make(tty: u32, shm_size: u64, shared: Option<&OwnedFd>, open: bool) -> Result<()> {
    mount_bind(rootfs::DEV, "dev").context("mount `/dev`")?;
    for (name, major, minor) in NODES {
        let failed = || format!("make device `/{name}`");
        mknodat(CWD, name, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor))
            .with_context(failed)?;
        mount_bind(name, name).with_context(failed)?;
    }
    if !open {
        mount_setattr(CWD, c"dev", false, libc::MOUNT_ATTR_NODEV, 0, 0).context("close `/dev` to other devices")?;
    }
    let terminals = CString::new(format!("newinstance,ptmxmode=0666,mode=0620,gid={tty}"))?;
    let shm = CString::new(format!("mode=1777,size={shm_size}"))?;
    let closed = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for (path, kind, flags, options) in [
        ("dev/pts", "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, terminals.as_c_str()),
        ("dev/shm", "tmpfs", closed, shm.as_c_str()),
        ("dev/mqueue", "mqueue", closed, c""),
    ] {
        mkdirat(CWD, path, Mode::from_raw_mode(0o755)).with_context(|| format!("make `/{path}`"))?;
        let mounted = match shared.filter(|_| path == "dev/shm") {
            Some(shared) => move_mount(shared, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH),
            None => mount(kind, path, kind, flags, options),
        };
        mounted.with_context(|| format!("mount `/{path}`"))?;
    }
    for (target, link) in LINKS {
        symlink(target, link).with_context(|| format!("make link `/{link}`"))?;
    }
    Ok(())
}

/// Where [`make_inside`] makes a node, on the stage.
pub fn stage_path(name: &str) -> PathBuf {
    Path::new(rootfs::STAGE).join(format!("node-{name}"))
}

/// Puts the usual nodes and links into whatever `/dev` the root file system `root` has. The nodes are made on the stage,
/// and each is mounted on its place, which is made where it is missing. The umask must be 0.
pub fn make_inside(root: BorrowedFd<'_>) -> Result<()> {
    for (path, major, minor) in NODES {
        let name = path.trim_start_matches("dev/");
        let put = || -> Result<()> {
            let node = stage_path(name);
            mknodat(CWD, &node, FileType::CharacterDevice, Mode::from_raw_mode(0o666), makedev(major, minor))?;
            let tree = open_tree(CWD, &node, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
            let target = open_target(root, &Path::new("/").join(path), false)?;
            refuse_kernel_files(target.as_fd())?;
            attach(tree.as_fd(), target.as_fd())
        };
        put().with_context(|| format!("make device `/{path}`"))?;
    }
    let dev = open_inside(root, Path::new("/dev"), OFlags::PATH | OFlags::DIRECTORY).context("open `/dev`")?;
    for (target, link) in LINKS {
        match symlinkat(target, &dev, link.trim_start_matches("dev/")) {
            // The root file system's own.
            Err(Errno::EXIST) => {}
            made => made.with_context(|| format!("make link `/{link}`"))?,
        }
    }
    Ok(())
}

/// The two sides of a pseudo-terminal of the container's own devpts.
#[derive(Debug)]
pub struct Terminal {
    /// For minirun.
    pub master: OwnedFd,
    /// For the program.
    pub slave: OwnedFd,
}

/// Makes a further pseudo-terminal, in a container that runs and may have put anything into its `/dev`.
pub fn open_terminal(uid: u32) -> Result<Terminal> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let master = openat(CWD, "/dev/pts/ptmx", flags, Mode::empty()).context("open a pseudo-terminal")?;
    check_terminals(master.as_fd())?;
    let slave = other_side(&master, uid)?;
    Ok(Terminal { master, slave })
}

fn other_side(master: &OwnedFd, uid: u32) -> Result<OwnedFd> {
    unlockpt(master).context("unlock the pseudo-terminal")?;
    let slave = ioctl_tiocgptpeer(master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
        .context("open the other side of the pseudo-terminal")?;
    fchown(&slave, Some(Uid::from_raw(uid)), None).context("give the pseudo-terminal to the user")?;
    Ok(slave)
}

/// Makes a pseudo-terminal for user `uid`, and `/dev/console` for it, in the root file system `root`. The other side is opened
/// through the first one's descriptor, so no name is looked up.
///
/// The `/dev` of a bundle may be the root file system's own, so nothing is taken for what its name says.
pub fn make_terminal(root: BorrowedFd<'_>, uid: u32) -> Result<Terminal> {
    let terminals =
        open_inside(root, Path::new("/dev/pts"), OFlags::PATH | OFlags::DIRECTORY).context("open `/dev/pts`")?;
    // Before it is opened: to open another device may do something to it.
    check_terminals(terminals.as_fd())?;
    let master = open_inside(terminals.as_fd(), Path::new("ptmx"), OFlags::RDWR | OFlags::NOCTTY)
        .context("open a pseudo-terminal")?;
    let slave = other_side(&master, uid)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let console = open_tree(&slave, "", flags).context("copy the mount of the pseudo-terminal")?;
    let put = || -> Result<()> {
        let target = open_target(root, Path::new("/dev/console"), false)?;
        refuse_kernel_files(target.as_fd())?;
        attach(console.as_fd(), target.as_fd())
    };
    put().context("mount `/dev/console`")?;
    Ok(Terminal { master, slave })
}

fn check_terminals(of: BorrowedFd<'_>) -> Result<()> {
    const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
    if fstatfs(of).context("open a pseudo-terminal")?.f_type != DEVPTS_SUPER_MAGIC {
        bail!("open a pseudo-terminal: the container's `/dev/pts` is not the kernel's");
    }
    Ok(())
}
