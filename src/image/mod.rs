//! The image store: root file systems by name, below `images/` in the data root.
//!
//! `run` asks [`Store::find`], `minirun image` the rest. An image is one directory:
//!
//! ```text
//! images/                       0700: no user of the host reaches a set-user-ID file of an image
//!   docker.io+library+alpine@3  the name, with `/` and `:` written so (`name.rs`)
//!     rootfs/                   the tree
//!     config.json               an OCI image configuration: command, environment, directory, user
//!     entry.json                what a listing shows, recorded when the image was made
//!   .91f3c0a2b4d5e6f7           being built or deleted; swept when its lock is free (`staging.rs`)
//! ```
//!
//! What always holds: a directory with an image's name is a whole image, because it gets that name by one rename. Who
//! uses an image holds a shared lock on its directory, who deletes or replaces it an exclusive one.

pub(crate) mod archive;
mod busybox;
mod config;
mod layers;
pub(crate) mod members;
mod name;
mod staging;
pub(crate) mod tree;

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use oci_spec::image::{Config, ImageConfiguration};
use rustix::fs::{Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub use self::archive::Limits;
use self::staging::{Lock, Staging, lock};
use crate::error::{Advice, printable};

/// The store. Opening it touches nothing; its directory is made when the first image is.
#[derive(Debug)]
pub struct Store {
    images: PathBuf,
    /// What an archive may hold.
    pub limits: Limits,
}

/// An image that is in use: nobody removes or replaces it while this lives.
#[derive(Debug)]
pub struct Image {
    /// The name, without `:latest`.
    pub name: String,
    /// The absolute path of the tree. It has no `:` below the data root, so it can be a layer of an overlay mount.
    pub rootfs: PathBuf,
    /// What the image says about a run: `cmd`, `entrypoint`, `env`, `working_dir`, `user`. As hostile as the tree.
    pub config: Config,
    /// The shared lock on the image's directory. It is closed on `execve`, and lives as long as any copy of the
    /// descriptor: the process that outlives the launch (the supervisor of a container) must keep it.
    pub lock: OwnedFd,
}

/// An image as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The name, without `:latest`.
    pub name: String,
    /// When the image was made, RFC 3339 in UTC.
    pub created: String,
    /// The sum of the sizes of its regular files, in bytes, each hard-linked file once.
    pub size: u64,
    /// How many files, links and directories its tree has.
    pub files: u64,
}

/// What a tree amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    size: u64,
    files: u64,
}

impl Store {
    /// The store below `data_root`, which need not exist.
    pub fn open(data_root: &Path) -> Result<Self> {
        let root =
            std::path::absolute(data_root).with_context(|| format!("open data root `{}`", data_root.display()))?;
        Ok(Self { images: root.join("images"), limits: Limits::default() })
    }

    /// The image `name`, locked for use, or `None`. A name that cannot be one is an error.
    ///
    /// The launch of every container waits for this: it reads one file and walks nothing.
    pub fn find(&self, name: &str) -> Result<Option<Image>> {
        let name = name::normalize(name)?;
        let find = || -> Result<Option<Image>> {
            let dir = self.images.join(name::directory(name));
            let path = dir.to_str().context("the path of the data root is not UTF-8")?;
            let lock = loop {
                match lock(rustix::fs::CWD, path, FlockOperation::LockShared)? {
                    Lock::Held(lock) => break lock,
                    Lock::Moved => {}
                    Lock::Gone => return Ok(None),
                    Lock::Busy => bail!("its lock is refused"),
                }
            };
            let config = tree::read_file(lock.as_fd(), config::FILE)
                .map_err(anyhow::Error::from)
                .and_then(|content| Ok(serde_json::from_slice::<ImageConfiguration>(&content)?))
                .with_context(|| format!("read `{}`", config::FILE))?;
            let config = config.config().clone().unwrap_or_default();
            Ok(Some(Image { name: name.to_owned(), rootfs: dir.join("rootfs"), config, lock }))
        };
        find().with_context(|| format!("open image `{name}`"))
    }

    /// The images, by name.
    pub fn list(&self) -> Result<Vec<Entry>> {
        let list = || -> Result<Vec<Entry>> {
            let Some(images) = self.existing()? else { return Ok(Vec::new()) };
            staging::sweep(images.as_fd())?;
            let mut entries = Vec::new();
            for entry in Dir::read_from(&images)? {
                let entry = entry?;
                let dir = entry.file_name().to_bytes();
                if !dir.starts_with(b".") {
                    entries.extend(read_entry(images.as_fd(), dir)?);
                }
            }
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(entries)
        };
        list().context("list images")
    }

    /// Removes the image. It is an error if there is none, or a container uses it.
    pub fn remove(&self, name: &str) -> Result<()> {
        let name = name::normalize(name)?;
        let remove = || -> Result<()> {
            let images = self.existing()?;
            if let Some(images) = &images {
                staging::sweep(images.as_fd())?;
                let dir = name::directory(name);
                if let Some(held) = lock_alone(images.as_fd(), &dir)? {
                    return Staging::take(images.as_fd(), &dir, held)?.delete();
                }
            }
            Err(anyhow!("there is no such image")).remedy("`minirun image ls` lists them")
        };
        remove().with_context(|| format!("remove image `{name}`"))
    }

    /// Makes an image of a tar archive, plain or compressed by gzip, of a root file system. An image that has the name
    /// is replaced, unless a container uses it. After an error the store is as it was.
    pub fn import(&self, name: &str, archive: impl Read) -> Result<Entry> {
        let name = name::normalize(name)?;
        let import = || -> Result<Entry> {
            let images = self.make_directory()?;
            staging::sweep(images.as_fd())?;
            // Found out again when the archive is read; here, so as not to read it in vain.
            drop(lock_alone(images.as_fd(), &name::directory(name))?);
            let staging = Staging::new(images.as_fd())?;
            let rootfs = make_rootfs(staging.dir()?)?;
            let tally = archive::extract(archive, rootfs.as_fd(), &self.limits)?;
            let entry = config::write(staging.dir()?, name, &config::of_tree(rootfs.as_fd())?, tally)?;
            sync(rootfs.as_fd())?;
            publish(images.as_fd(), staging, &name::directory(name))?;
            Ok(entry)
        };
        import().with_context(|| format!("import image `{name}`"))
    }

    /// The image `busybox`, made from the host's static busybox. Any number of processes may do this at once: one of
    /// them makes the image and all get it.
    pub fn make_busybox(&self) -> Result<Image> {
        let make = || -> Result<Image> {
            let images = self.make_directory()?;
            staging::sweep(images.as_fd())?;
            let mut staging = Staging::new(images.as_fd())?;
            let rootfs = make_rootfs(staging.dir()?)?;
            let tally = busybox::fill(rootfs.as_fd())?;
            config::write(staging.dir()?, busybox::NAME, &config::with_shell(), tally)?;
            // Who comes second need not wait for the disk.
            if self.find(busybox::NAME)?.is_none() {
                sync(rootfs.as_fd())?;
                staging.publish_new(busybox::NAME)?;
            }
            drop(staging);
            self.find(busybox::NAME)?.context("another command removed it")
        };
        make().with_context(|| format!("make image `{}`", busybox::NAME))
    }

    /// The directory of the store, if there is one.
    fn existing(&self) -> Result<Option<OwnedFd>> {
        let open = || -> Result<Option<OwnedFd>> {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let dir = match rustix::fs::open(&self.images, flags, Mode::empty()) {
                Err(Errno::NOENT) => return Ok(None),
                dir => dir?,
            };
            // Whoever can write here decides what root runs in containers.
            let stat = rustix::fs::fstat(&dir)?;
            if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o022 != 0 {
                return Err(anyhow!("it belongs to another user or others can write to it"))
                    .remedy("remove it, or give it to the user who runs minirun with mode 0700");
            }
            Ok(Some(dir))
        };
        open().with_context(|| format!("open image store `{}`", printable(&self.images.to_string_lossy())))
    }

    fn make_directory(&self) -> Result<OwnedFd> {
        if let Some(dir) = self.existing()? {
            return Ok(dir);
        }
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.images)
            .with_context(|| format!("make image store `{}`", printable(&self.images.to_string_lossy())))?;
        self.existing()?.context("the image store vanished")
    }
}

/// The exclusive lock on an image's directory, or `None` if there is no such image.
fn lock_alone(images: BorrowedFd, dir: &str) -> Result<Option<OwnedFd>> {
    // Another import or removal has the lock for a moment, a container for its life: a few tries tell them apart.
    for _ in 0..10 {
        match lock(images, dir, FlockOperation::NonBlockingLockExclusive)? {
            Lock::Held(held) => return Ok(Some(held)),
            Lock::Gone => return Ok(None),
            Lock::Moved => {}
            Lock::Busy => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    Err(anyhow!("it is in use")).remedy("a container runs from it, which `minirun ps` shows: stop that first")
}

/// Brings the image to the disk before it gets its name: after a power failure there is a whole image or none.
fn sync(rootfs: BorrowedFd) -> Result<()> {
    rustix::fs::syncfs(rootfs).context("bring the image to the disk")
}

fn publish(images: BorrowedFd, mut staging: Staging, dir: &str) -> Result<()> {
    loop {
        if staging.publish_new(dir)? {
            return Ok(());
        }
        if let Some(old) = lock_alone(images, dir)? {
            return staging.replace(dir, old);
        }
    }
}

fn make_rootfs(dir: BorrowedFd) -> Result<OwnedFd> {
    let make = || -> rustix::io::Result<OwnedFd> {
        rustix::fs::mkdirat(dir, "rootfs", Mode::RWXU)?;
        let rootfs = tree::open_directory(dir, b"rootfs")?;
        // Not left to the umask: every user of a container looks up paths here.
        rustix::fs::fchmod(&rootfs, Mode::from_raw_mode(0o755))?;
        Ok(rootfs)
    };
    make().context("make directory `rootfs`")
}

/// What the listing shows of one directory: nothing when it was removed meanwhile.
fn read_entry(images: BorrowedFd, dir: &[u8]) -> Result<Option<Entry>> {
    let content = tree::open_directory(images, dir).and_then(|dir| tree::read_file(dir.as_fd(), config::ENTRY));
    let read = || -> Result<Option<Entry>> {
        match content {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            content => Ok(Some(serde_json::from_slice(&content?)?)),
        }
    };
    read().with_context(|| format!("read `{}` of `{}`", config::ENTRY, tree::shown(dir)))
}
