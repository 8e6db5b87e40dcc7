//! The source that is a tree: walks it by descriptors and gives everything to a sink.
//!
//! The tree may be changed by others meanwhile, with ill will. What was looked at is what is copied, because both are done
//! by one descriptor; nothing is opened that is not a file or directory, and no link is followed. There is no recursion,
//! and memory is bounded.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, Result, bail};
use rustix::fs::{Dir, FileType, OFlags};
use rustix::io::Errno;

use super::open::{Descent, Id, Item, item, kernels_own, readable};
use super::sink::{Meta, Sink};
use super::watch::Watch;
use crate::image::tree::shown;

/// The most memory for names of directories that are still to be entered, and for files with several names.
const NAMES: usize = 256 << 20;
const LINKS: usize = 64 << 20;

/// One walk.
pub(super) struct Walk<'a, S: Sink> {
    sink: &'a mut S,
    watch: &'a mut Watch,
    /// Where the walk is, as the sink names it.
    path: Vec<u8>,
    names_size: usize,
    links: HashMap<Id, Link>,
    links_size: usize,
}

/// A file that has more names.
struct Link {
    path: Vec<u8>,
    made: Option<Id>,
    /// Names not seen yet.
    left: u64,
}

/// Copies `top`, and everything below it, as `name`. Without a name, only what is below it.
pub(super) fn copy(top: Item, name: Option<&[u8]>, sink: &mut impl Sink, watch: &mut Watch) -> Result<()> {
    if sink.is_top(top.id()) {
        bail!("it is where the copies go to: a directory cannot be copied into itself");
    }
    let mut walk = Walk { sink, watch, path: Vec::new(), names_size: 0, links: HashMap::new(), links_size: 0 };
    match name {
        Some(name) if top.kind() == FileType::Directory => {
            walk.enter(name, &top)?;
            walk.below(top)?;
            walk.leave()
        }
        Some(name) => match top.kind() {
            FileType::CharacterDevice | FileType::BlockDevice => bail!("it is a device, which is not copied"),
            FileType::Socket => bail!("it is a socket, which is not copied"),
            _ => walk.place(&top, name, 0),
        },
        None => walk.below(top),
    }
}

impl<S: Sink> Walk<'_, S> {
    /// Copies what is in `top` to where the sink is.
    fn below(&mut self, top: Item) -> Result<()> {
        let mut descent = Descent::new(top);
        let mut pending = vec![self.files(&descent)?];
        while let Some(names) = pending.last_mut() {
            let Some(name) = names.pop() else {
                pending.pop();
                if !pending.is_empty() {
                    descent.up().with_context(|| format!("`{}`", shown(&self.path)))?;
                    self.leave()?;
                }
                continue;
            };
            self.names_size -= name.len();
            let Some(found) = self.look(descent.here(), &name)? else { continue };
            if found.kind() != FileType::Directory {
                // Exchanged for something else since its name was read.
                self.named(&name, |walk| walk.place(&found, &name, descent.device()))?;
                continue;
            }
            if self.sink.is_top(found.id()) {
                return self
                    .named(&name, |_| bail!("it is where the copies go to: a directory cannot be copied into itself"));
            }
            self.enter(&name, &found)?;
            descent.down(found);
            pending.push(self.files(&descent)?);
        }
        Ok(())
    }

    /// Copies all that is no directory, and gives the names of the directories.
    fn files(&mut self, descent: &Descent) -> Result<Vec<Vec<u8>>> {
        let mut directories = Vec::new();
        let here = || format!("read directory `{}`", shown(if self.path.is_empty() { b"." } else { &self.path }));
        if let Some(name) = kernels_own(descent.here()).with_context(here)? {
            self.watch
                .left_out(&shown(&self.path), &format!("the content of a file system of the kernel's own, {name}"));
            return Ok(directories);
        }
        let stream = readable(descent.here()).and_then(Dir::new).with_context(here)?;
        for entry in stream {
            let entry = entry.with_context(|| format!("read directory `{}`", shown(&self.path)))?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            if entry.file_type() == FileType::Directory {
                self.remember(&mut directories, name)?;
                continue;
            }
            let Some(found) = self.look(descent.here(), name)? else { continue };
            match found.kind() {
                FileType::Directory => self.remember(&mut directories, name)?,
                _ => self.named(name, |walk| walk.place(&found, name, descent.device()))?,
            }
        }
        // Taken from the end.
        directories.reverse();
        Ok(directories)
    }

    fn remember(&mut self, directories: &mut Vec<Vec<u8>>, name: &[u8]) -> Result<()> {
        self.names_size += name.len();
        if self.names_size > NAMES {
            bail!("`{}`: too many directories are in it", shown(&self.path));
        }
        directories.push(name.to_vec());
        Ok(())
    }

    /// What has the name, if anything still has.
    fn look(&mut self, dir: BorrowedFd, name: &[u8]) -> Result<Option<Item>> {
        match item(dir, name) {
            Err(Errno::NOENT) => Ok(None),
            found => self.named(name, |_| Ok(Some(found?))),
        }
    }

    /// Copies what is no directory. `device` is that of the directory it is in.
    fn place(&mut self, found: &Item, name: &[u8], device: u64) -> Result<()> {
        self.watch.moved(0)?;
        let meta = Meta::of(&found.stat);
        match found.kind() {
            FileType::Symlink => {
                let target = found.target().context("read the link")?;
                self.sink.symlink(name, &meta, &target, self.watch)
            }
            FileType::Fifo => self.sink.fifo(name, &meta, self.watch),
            FileType::RegularFile => {
                if found.stat.st_dev != device && kernels_own(found.fd.as_fd())?.is_some() {
                    self.watch.left_out(&shown(&self.path), "of a file system of the kernel's own");
                    return Ok(());
                }
                self.file(found, name, &meta)
            }
            FileType::Socket => {
                self.watch.left_out(&shown(&self.path), "a socket");
                Ok(())
            }
            _ => {
                self.watch.left_out(&shown(&self.path), "a device");
                Ok(())
            }
        }
    }

    fn file(&mut self, found: &Item, name: &[u8], meta: &Meta) -> Result<()> {
        if let Some(link) = self.links.get_mut(&found.id())
            && self.sink.link(name, meta, &link.path, link.made, self.watch)?
        {
            link.left = link.left.saturating_sub(1);
            if link.left == 0 {
                self.links_size -= link.path.len();
                self.links.remove(&found.id());
            }
            return Ok(());
        }
        let made = self.sink.file(name, meta, &found.open(OFlags::RDONLY)?, self.watch)?;
        // With more of them than can be remembered, the rest become files of their own.
        if found.stat.st_nlink > 1 && self.links_size + self.path.len() < LINKS {
            let link = Link { path: self.path.clone(), made, left: found.stat.st_nlink - 1 };
            self.links_size += link.path.len();
            if let Some(old) = self.links.insert(found.id(), link) {
                self.links_size -= old.path.len();
            }
        }
        Ok(())
    }

    fn enter(&mut self, name: &[u8], found: &Item) -> Result<()> {
        self.watch.moved(0)?;
        self.named(name, |walk| walk.sink.enter(name, found))?;
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        Ok(())
    }

    fn leave(&mut self) -> Result<()> {
        self.sink.leave().with_context(|| format!("`{}`", shown(&self.path)))?;
        let parent = self.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        self.path.truncate(parent);
        Ok(())
    }

    /// Does something with the thing `name` in the current directory, which an error is about.
    fn named<T>(&mut self, name: &[u8], act: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let length = self.path.len();
        if length > 0 {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        let done = act(self).with_context(|| format!("`{}`", shown(&self.path)));
        self.path.truncate(length);
        done
    }
}
