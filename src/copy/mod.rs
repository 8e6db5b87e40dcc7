//! Copying files between a container and the host: what `minirun cp` means.
//!
//! Called by `commands/cp.rs` with a descriptor of the container's root. There are two sources, a tree (`walk.rs`) and a tar
//! stream (`read.rs`), and two sinks, a tree (`tree.rs`) and a tar stream (`write.rs`). The container runs meanwhile and is
//! hostile: everything in it is opened by the rules of `open.rs`, and nothing that it does leads out of its root. A file
//! appears under its name when it is whole (`fresh.rs`).

mod content;
mod fresh;
mod open;
mod read;
mod sink;
mod tree;
mod walk;
mod watch;
mod write;

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result, anyhow, bail};
use rustix::fs::FileType;
use rustix::process::{getegid, geteuid};

use self::open::{Found, Item, Root, find};
use self::tree::{Owners, Tree};
use self::watch::Watch;
use self::write::Archive;
use crate::error::{Advice, refused};

/// How to copy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Keep owners and groups.
    pub archive: bool,
    /// Where the source is a symbolic link, copy what it leads to.
    pub follow: bool,
    /// Show no progress.
    pub quiet: bool,
    /// What user 0 and group 0 of the container are on the host, where they are not root.
    pub first_ids: (u32, u32),
}

/// The end of a copy that is not in the container.
#[derive(Clone, Copy, Debug)]
pub enum HostEnd<'a> {
    /// A path, as the caller wrote it.
    Path(&'a [u8]),
    /// A tar stream on standard input or output.
    Stream,
}

/// Copies `path` of the container whose root directory is `root` to the host.
pub fn out(root: BorrowedFd, path: &[u8], to: HostEnd, options: Options) -> Result<()> {
    let mut watch = Watch::new(options.quiet)?;
    let source = Source::find(Root::Container(root), path, options)?;
    match to {
        HostEnd::Path(to) => {
            let (user, group) = (geteuid().as_raw(), getegid().as_raw());
            let owners = Owners { kept: options.archive, user, group, on_host: true, first_ids: options.first_ids };
            source.copy(Root::Host, to, owners, &mut watch)
        }
        HostEnd::Stream => {
            if io::stdout().is_terminal() {
                return Err(refused(
                    "write the archive: standard output is a terminal",
                    "give a directory, or a pipe: `minirun cp CONTAINER:PATH - | tar -t`",
                ));
            }
            let out = io::stdout().as_fd().try_clone_to_owned().context("copy the descriptor of standard output")?;
            let out = BufWriter::with_capacity(64 << 10, File::from(out));
            let mut archive = Archive::new(out, source.name.is_some(), options.first_ids);
            walk::copy(source.item, source.name.as_deref(), &mut archive, &mut watch)?;
            archive.finish()
        }
    }
}

/// Copies from the host to `path` of the container whose root directory is `root`.
pub fn into(from: HostEnd, root: BorrowedFd, path: &[u8], options: Options) -> Result<()> {
    let mut watch = Watch::new(options.quiet)?;
    let (user, group) = options.first_ids;
    let owners = Owners { kept: options.archive, user, group, on_host: false, first_ids: options.first_ids };
    let root = Root::Container(root);
    match from {
        HostEnd::Path(from) => Source::find(Root::Host, from, options)?.copy(root, path, owners, &mut watch),
        HostEnd::Stream => {
            if io::stdin().is_terminal() {
                return Err(refused(
                    "read the archive: standard input is a terminal",
                    "give a file or directory, or a pipe: `tar -c FILES | minirun cp - CONTAINER:DIRECTORY`",
                ));
            }
            let Found { item: Some(top), .. } = find(root, path, true).context("destination")? else {
                bail!("the destination does not exist: an archive is extracted in a directory that is there");
            };
            if top.kind() != FileType::Directory {
                bail!("the destination is no directory, which an archive is extracted in");
            }
            read::extract(io::stdin().lock(), &mut Tree::new(top, owners)?, &mut watch)
        }
    }
}

/// What is copied.
struct Source {
    item: Item,
    /// Its own name. `None` where only the content of a directory is meant: its path ends in `.`, or it is the root.
    name: Option<Vec<u8>>,
}

impl Source {
    fn find(root: Root, path: &[u8], options: Options) -> Result<Self> {
        let found = find(root, path, options.follow).context("source")?;
        let item = found.item.ok_or_else(|| anyhow!("source: there is no such file or directory"))?;
        // The name that was typed, and not that of what a link leads to.
        let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        let name = path[..end].rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let nameless = matches!(name, b"" | b"." | b"..");
        Ok(Self { item, name: (!nameless).then(|| name.to_vec()) })
    }

    /// Copies it to `path`, which is a new name for it, or a directory to put it in.
    fn copy(self, root: Root, path: &[u8], owners: Owners, watch: &mut Watch) -> Result<()> {
        let found = find(root, path, true).context("destination")?;
        let is_directory = self.item.kind() == FileType::Directory;
        let (dir, name) = match (found.item, found.place) {
            (Some(dir), _) if dir.kind() == FileType::Directory => (dir, self.name),
            (Some(_), _) if is_directory => bail!("the source is a directory and the destination is not"),
            (None, _) if found.as_directory && !is_directory => {
                return Err(anyhow!("destination: there is no such directory"))
                    .remedy("make it, or leave the slash at the end away to give the copy that name");
            }
            (_, Some((parent, name))) => (Item::at(parent)?, Some(name)),
            (_, None) => bail!("destination: there is no such directory"),
        };
        walk::copy(self.item, name.as_deref(), &mut Tree::new(dir, owners)?, watch)
    }
}
