//! The files of a container that runs from an OCI bundle: its root file system and the mounts that its `config.json` lists.
//!
//! Decided by `src/bundle/`, carried out in the child by `init.rs` in the stead of minirun's own layout (`rootfs.rs`,
//! `mounts.rs`, `devices.rs`). Here nothing can be known of what is in the root file system: another container may be changing
//! it at this moment. So every place is opened inside the root (`openat2`) and mounted on by its descriptor; where the
//! kernel's own files belong, no link is followed at all.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::libc;
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::devices;
use super::mounts::{attach, mount_new, refuse_kernel_files};
use super::procfs;
use super::rootfs::{self, open_inside, open_target};
use crate::sys::mount_setattr;

/// What a bundle says about files, and two settings of the process that minirun's own containers have no word for.
#[derive(Debug, Default)]
pub struct Layout {
    /// Whether changes are made to the directory itself, as OCI has it, and not in memory.
    pub in_place: bool,
    /// In their order.
    pub mounts: Vec<Wanted>,
    /// Paths that nobody may look into.
    pub masked: Vec<PathBuf>,
    /// Paths that nobody may change.
    pub read_only: Vec<PathBuf>,
    /// The mask of modes of new files, if it is not 022.
    pub umask: Option<u32>,
    /// How ready the kernel is to kill it where memory is short.
    pub oom_score_adj: Option<i32>,
}

/// A mount that was asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Wanted {
    /// In the container, absolute and plain.
    pub target: PathBuf,
    /// What.
    pub kind: Kind,
    /// How.
    pub attributes: Attributes,
}

/// What is mounted.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file or directory of the host.
    Bind {
        /// On the host, absolute.
        source: PathBuf,
        /// Whether with all that is mounted below.
        recursive: bool,
    },
    /// A new file system.
    New {
        /// Its type.
        kind: &'static str,
        /// Its own options.
        data: Vec<(String, String)>,
    },
}

/// `MOUNT_ATTR_*` to be set and cleared: of the mount, and of it and all below it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Attributes {
    pub set: u64,
    pub clear: u64,
    pub set_below: u64,
    pub clear_below: u64,
}

impl Attributes {
    /// A later word outweighs an earlier one.
    pub fn change(&mut self, set: u64, clear: u64, below: bool) {
        let (own_set, own_clear) =
            if below { (&mut self.set_below, &mut self.clear_below) } else { (&mut self.set, &mut self.clear) };
        *own_set = *own_set & !clear | set;
        // The way in which access times are kept is one number: it is cleared whole before it is set.
        *own_clear = *own_clear & !(set & !libc::MOUNT_ATTR__ATIME) | clear;
    }
}

/// Copies of all bind sources, and of the root if it is used in place, made while the host's files are in sight.
#[derive(Debug)]
pub struct Copied {
    root: Option<OwnedFd>,
    /// `None` for a file system that is new and this process's own.
    sources: Vec<Option<OwnedFd>>,
}

/// What was put into its place.
///
/// The kernel's file systems are held by descriptors: who renames the directory that one is mounted on while the masks are made
/// has them made all the same (CVE-2019-19921).
#[derive(Debug)]
pub struct Placed {
    root: OwnedFd,
    kernel: Vec<(PathBuf, OwnedFd)>,
}

impl Layout {
    /// Copies what is the host's; and mounts the processes of the PID namespace `pid`, if that is another's.
    pub fn copy(&self, root: &Path, pid: Option<BorrowedFd<'_>>) -> Result<Copied> {
        let failed = || format!("use `{}` as root", root.display());
        let root = self.in_place.then(|| -> Result<OwnedFd> {
            let tree = clone(CWD, root, true)?;
            mount_setattr(&tree, c"", true, libc::MOUNT_ATTR_NODEV, 0, 0)?;
            Ok(tree)
        });
        let copy = |wanted: &Wanted| match &wanted.kind {
            Kind::Bind { source, recursive } => {
                let copied = bind(source, *recursive, wanted.attributes);
                copied.map(Some).with_context(|| format!("mount `{}`", source.display()))
            }
            Kind::New { kind: "proc", data } => {
                let attributes = wanted.attributes.set | libc::MOUNT_ATTR_NODEV;
                let made = pid.map(|pid| procfs::mount_of(pid, data, attributes)).transpose();
                made.with_context(|| format!("mount on `{}`", wanted.target.display()))
            }
            Kind::New { .. } => Ok(None),
        };
        let sources = self.mounts.iter().map(copy).collect::<Result<_>>()?;
        Ok(Copied { root: root.transpose().with_context(failed)?, sources })
    }

    /// Puts everything into its place. The root file system is the working directory then.
    pub fn assemble(&self, copied: Copied, lower: &Path, files: &[(&str, String)]) -> Result<Placed> {
        match copied.root {
            Some(tree) => rootfs::use_in_place(tree.as_fd())?,
            None => rootfs::assemble(lower, files, None, false)?,
        }
        let root = openat(CWD, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut kernel = Vec::new();
        for (wanted, source) in self.mounts.iter().zip(copied.sources) {
            let failed = || format!("mount on `{}`", wanted.target.display());
            let tree = place(root.as_fd(), wanted, source).with_context(failed)?;
            if matches!(&wanted.kind, Kind::New { kind, .. } if is_kernels(kind)) {
                kernel.push((wanted.target.clone(), tree));
            }
        }
        devices::make_inside(root.as_fd())?;
        Ok(Placed { root, kernel })
    }

    /// Masks and makes read-only. A path that is not there is passed over.
    pub fn mask(&self, placed: &Placed) -> Result<()> {
        for path in &self.masked {
            let failed = || format!("mask `{}`", path.display());
            let Some(target) = placed.find(path).with_context(failed)? else { continue };
            let directory = FileType::from_raw_mode(fstat(&target)?.st_mode).is_dir();
            let cover = if directory { Path::new(rootfs::EMPTY).to_owned() } else { devices::stage_path("null") };
            let tree = clone(CWD, &cover, false).with_context(failed)?;
            if directory {
                mount_setattr(&tree, c"", false, libc::MOUNT_ATTR_RDONLY, 0, 0).with_context(failed)?;
            }
            attach(tree.as_fd(), target.as_fd()).with_context(failed)?;
        }
        for path in &self.read_only {
            let failed = || format!("make `{}` read-only", path.display());
            let Some(target) = placed.find(path).with_context(failed)? else { continue };
            let tree = clone(target.as_fd(), Path::new(""), true).with_context(failed)?;
            mount_setattr(&tree, c"", true, libc::MOUNT_ATTR_RDONLY, 0, 0).with_context(failed)?;
            attach(tree.as_fd(), target.as_fd()).with_context(failed)?;
        }
        Ok(())
    }
}

fn clone(directory: BorrowedFd<'_>, path: &Path, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.as_os_str().is_empty());
    open_tree(directory, path, flags)
}

fn bind(source: &Path, recursive: bool, attributes: Attributes) -> Result<OwnedFd> {
    let tree = clone(CWD, source, recursive)?;
    let kind = FileType::from_raw_mode(fstat(&tree)?.st_mode);
    let Attributes { set, clear, set_below, clear_below } = attributes;
    // A device that is itself the source can be opened, as one that is given with `-v`.
    let device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    let closed = if device { 0 } else { libc::MOUNT_ATTR_NODEV };
    mount_setattr(&tree, c"", true, set_below & !libc::MOUNT_ATTR_NODEV | closed, clear_below, 0)?;
    if set | clear != 0 {
        mount_setattr(&tree, c"", false, set & !libc::MOUNT_ATTR_NODEV | closed, clear, 0)?;
    }
    Ok(tree)
}

fn place(root: BorrowedFd<'_>, wanted: &Wanted, source: Option<OwnedFd>) -> Result<OwnedFd> {
    let of_kernel = matches!(&wanted.kind, Kind::New { kind, .. } if is_kernels(kind));
    let directory = match &source {
        Some(source) => FileType::from_raw_mode(fstat(source)?.st_mode).is_dir(),
        None => true,
    };
    let mut target = open_target(root, &wanted.target, directory)?;
    if of_kernel || wanted.target.starts_with("/dev") {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        target = match openat2(root, &wanted.target, flags, Mode::empty(), resolve) {
            Err(Errno::LOOP) => anyhow::bail!("there is a link in the root file system"),
            opened => opened?,
        };
    }
    refuse_kernel_files(target.as_fd())?;
    let tree = match (&wanted.kind, source) {
        (_, Some(source)) => source,
        (Kind::New { kind, data }, None) => {
            let options = data.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            // Terminals are devices too, and nobody can make another node there.
            let closed = if *kind == "devpts" { 0 } else { libc::MOUNT_ATTR_NODEV };
            mount_new(kind, options, wanted.attributes.set & !libc::MOUNT_ATTR_NODEV | closed)?
        }
        (Kind::Bind { .. }, None) => anyhow::bail!("its source was not copied"),
    };
    attach(tree.as_fd(), target.as_fd())?;
    Ok(tree)
}

/// Whether a kind of file system shows what is the kernel's.
fn is_kernels(kind: &str) -> bool {
    kind != "tmpfs"
}

impl Placed {
    /// The root file system.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens a path of the container; `None` where there is no such thing.
    pub fn find(&self, path: &Path) -> Result<Option<OwnedFd>> {
        let within = self.kernel.iter().find_map(|(target, tree)| Some((tree, path.strip_prefix(target).ok()?)));
        let (root, rest) = within.unwrap_or((&self.root, path));
        if rest.as_os_str().is_empty() {
            return Ok(Some(root.try_clone()?));
        }
        match open_inside(root.as_fd(), rest, OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            found => Ok(Some(found?)),
        }
    }
}
