//! Opening what somebody else may be exchanging for something else at this moment.
//!
//! Everything is opened with `O_PATH` first, which neither blocks nor has any effect, is looked at, and only then opened
//! again by that descriptor, if it is a file or directory. Below a directory, one name at a time is opened and no link
//! is followed. Paths in a container are resolved by openat2(2) as if its root were the root.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::error::refused;

const ITEM: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// For a single name: it is neither a link that is followed, nor `..`.
const ONE_NAME: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const IN_ROOT: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Which file it is: device and inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Id(u64, u64);

/// Something that exists, not opened for reading.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) fd: OwnedFd,
    pub(super) stat: Stat,
}

impl Id {
    pub(super) fn of(file: impl AsFd) -> rustix::io::Result<Self> {
        let stat = rustix::fs::fstat(file)?;
        Ok(Self(stat.st_dev, stat.st_ino))
    }
}

impl Item {
    pub(super) fn at(fd: OwnedFd) -> rustix::io::Result<Self> {
        let stat = rustix::fs::fstat(&fd)?;
        Ok(Self { fd, stat })
    }

    pub(super) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    pub(super) fn id(&self) -> Id {
        Id(self.stat.st_dev, self.stat.st_ino)
    }

    /// What a symbolic link contains.
    pub(super) fn target(&self) -> rustix::io::Result<Vec<u8>> {
        Ok(rustix::fs::readlinkat(&self.fd, "", Vec::new())?.into_bytes())
    }

    /// Opens the very same file, which is a regular one: no name is looked up again. `O_NONBLOCK`, because a lease
    /// could make even that wait.
    pub(super) fn open(&self, access: OFlags) -> Result<File> {
        if self.kind() != FileType::RegularFile {
            bail!("it is no file");
        }
        let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(by_descriptor(&self.fd), flags, Mode::empty()).context("open it")?.into())
    }

    /// Refuses what the kernel makes up as it is asked: it has no sizes, and is of the process that asks.
    pub(super) fn check_file_system(&self) -> Result<()> {
        match kernels_own(self.fd.as_fd())? {
            None => Ok(()),
            Some(name) => Err(refused(
                format!("it is on a file system of the kernel's own, {name}, which is not copied"),
                "write what `cat` says of it to a file, and copy that",
            )),
        }
    }
}

/// The path that opens a descriptor's file again.
pub(super) fn by_descriptor(fd: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// The name of the descriptor's file system if there are no stored files on it.
pub(super) fn kernels_own(fd: BorrowedFd) -> rustix::io::Result<Option<&'static str>> {
    const NAMES: [(u32, &str); 14] = [
        (0x9fa0, "proc"),
        (0x6265_6572, "sysfs"),
        (0x0027_e0eb, "cgroup"),
        (0x6367_7270, "cgroup2"),
        (0x1cd1, "devpts"),
        (0x1980_0202, "mqueue"),
        (0x6462_6720, "debugfs"),
        (0x7472_6163, "tracefs"),
        (0x7363_6673, "securityfs"),
        (0xcafe_4a11, "bpf"),
        (0x6265_6570, "configfs"),
        (0x4249_4e4d, "binfmt_misc"),
        (0xde5e_81e4, "efivarfs"),
        (0x6e73_6673, "nsfs"),
    ];
    // Every number has 32 bits, which the field's sign extends on some machines.
    let number = rustix::fs::fstatfs(fd)?.f_type as u32;
    Ok(NAMES.iter().find(|(known, _)| *known == number).map(|(_, name)| *name))
}

/// What is at `name` in `dir`; a link is not followed.
pub(super) fn item(dir: BorrowedFd, name: &[u8]) -> rustix::io::Result<Item> {
    rustix::fs::openat2(dir, name, ITEM, Mode::empty(), ONE_NAME).and_then(Item::at)
}

/// Opens the directory for reading that a descriptor names.
pub(super) fn readable(dir: BorrowedFd) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(dir, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// The root that paths are meant in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Root<'a> {
    /// The caller's own: what the kernel makes of a path.
    Host,
    /// A container's root directory, which no path leads out of.
    Container(BorrowedFd<'a>),
}

impl Root<'_> {
    fn directory(self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        match self {
            Root::Host => rustix::fs::openat(CWD, path, DIRECTORY, Mode::empty()),
            Root::Container(root) => retried(|| rustix::fs::openat2(root, path, DIRECTORY, Mode::empty(), IN_ROOT)),
        }
    }
}

/// The kernel gives up on a `..` while directories are moved.
fn retried<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    for _ in 0..1000 {
        match call() {
            Err(Errno::AGAIN) => {}
            done => return done,
        }
    }
    Err(Errno::AGAIN)
}

/// Where a path leads.
#[derive(Debug)]
pub(super) struct Found {
    /// The directory and the name in it; `None` for the root and for paths that end in `.` or `..`.
    pub(super) place: Option<(OwnedFd, Vec<u8>)>,
    /// What is there, if anything is.
    pub(super) item: Option<Item>,
    /// The path ends so that it can mean a directory only.
    pub(super) as_directory: bool,
}

/// Resolves `path`. Where its last part is a symbolic link, that is followed if `follow` or if a slash is behind it, also to
/// where nothing is yet.
pub(super) fn find(root: Root, path: &[u8], follow: bool) -> Result<Found> {
    let mut path = path.to_vec();
    let mut as_directory = false;
    for _ in 0..40 {
        while path.len() > 1 && path.ends_with(b"/") {
            path.pop();
            as_directory = true;
        }
        let (dir, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..=slash], &path[slash + 1..]),
            None => (&b""[..], &path[..]),
        };
        if matches!(name, b"" | b"." | b"..") {
            let item = Item::at(root.directory(&path).map_err(|e| explained(e, root))?)?;
            item.check_file_system()?;
            return Ok(Found { place: None, item: Some(item), as_directory: true });
        }
        let parent = root.directory(dir).map_err(|e| explained(e, root))?;
        let item = match item(parent.as_fd(), name) {
            Err(Errno::NOENT) => None,
            found => Some(found.map_err(|e| explained(e, root))?),
        };
        if let Some(item) = &item {
            item.check_file_system()?;
            if item.kind() == FileType::Symlink && (follow || as_directory) {
                let target = item.target().context("read the link")?;
                path = if target.starts_with(b"/") { target } else { [dir, &target].concat() };
                continue;
            }
            if as_directory && item.kind() != FileType::Directory {
                return Err(Errno::NOTDIR.into());
            }
        }
        return Ok(Found { place: Some((parent, name.to_vec())), item, as_directory });
    }
    Err(explained(Errno::LOOP, root))
}

fn explained(e: Errno, root: Root) -> anyhow::Error {
    match (e, root) {
        (Errno::LOOP, Root::Container(_)) => {
            anyhow::anyhow!("its path goes through too many links, or through a link of /proc")
        }
        (e, _) => e.into(),
    }
}

/// A way down a tree: the directory at its end is open, and of those above it the nearest. So the depth of a tree is not
/// bounded by the number of descriptors. A directory that was closed is found again by `..`, which counts only if it leads
/// to the same directory as before.
pub(super) struct Descent {
    here: OwnedFd,
    here_id: Id,
    above: Vec<(Id, Option<OwnedFd>)>,
}

/// How many directories above the last stay open.
const OPEN: usize = 32;

impl Descent {
    pub(super) fn new(top: Item) -> Self {
        Self { here_id: top.id(), here: top.fd, above: Vec::new() }
    }

    pub(super) fn here(&self) -> BorrowedFd<'_> {
        self.here.as_fd()
    }

    /// The device that the last directory is on.
    pub(super) fn device(&self) -> u64 {
        self.here_id.0
    }

    pub(super) fn down(&mut self, dir: Item) {
        if let Some(far) = self.above.len().checked_sub(OPEN) {
            self.above[far].1 = None;
        }
        let id = std::mem::replace(&mut self.here_id, dir.id());
        let fd = std::mem::replace(&mut self.here, dir.fd);
        self.above.push((id, Some(fd)));
    }

    pub(super) fn up(&mut self) -> Result<()> {
        let (id, fd) = self.above.pop().context("leave the top of a tree")?;
        self.here = match fd {
            Some(fd) => fd,
            None => {
                let item = Item::at(rustix::fs::openat(&self.here, "..", DIRECTORY, Mode::empty())?)?;
                if item.id() != id {
                    bail!("a directory was moved while it was copied");
                }
                item.fd
            }
        };
        self.here_id = id;
        Ok(())
    }
}
