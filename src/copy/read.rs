//! The source that is a tar stream: what it holds is made in a tree.
//!
//! The stream is read as the image store reads one: names that lead out, two descriptions of one member and the like are
//! refused. Members come in any order, so the tree's current directory follows their names; of a directory that the archive
//! describes it is remembered what it gets, and it gets that each time it is left.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};

use anyhow::{Context, Result, bail};

use super::open::Id;
use super::sink::{Meta, Sink};
use super::tree::Tree;
use super::watch::Watch;
use crate::image::Limits;
use crate::image::archive::{decompress, relative};
use crate::image::members::{Kind, Member, Members, unreadable};
use crate::image::tree::shown;

/// The most memory for what is remembered of directories and files.
const REMEMBERED: usize = 128 << 20;
/// Of a directory that only the names of others have.
const DIRECTORY_MODE: u32 = 0o755;

/// What was made so far.
struct Extraction<'a> {
    tree: &'a mut Tree,
    /// The current directory, by its names.
    at: Vec<Vec<u8>>,
    /// Those that were made, with what the archive says of them.
    directories: HashMap<Vec<u8>, Option<Meta>>,
    /// Which files are at these paths: a hard link leads to these only, not to what was there before.
    files: HashMap<Vec<u8>, Id>,
    remembered: usize,
}

/// Makes in `tree` what the archive holds.
pub(super) fn extract(archive: impl Read, tree: &mut Tree, watch: &mut Watch) -> Result<()> {
    let limits = Limits { size: u64::MAX, entries: u64::MAX };
    let mut members = Members::new(decompress(archive, "minirun cp - CONTAINER:DIRECTORY")?, &limits);
    let mut extraction =
        Extraction { tree, at: Vec::new(), directories: HashMap::new(), files: HashMap::new(), remembered: 0 };
    while let Some(member) = members.next()? {
        extraction.place(&member, &mut members, watch).with_context(|| format!("extract `{}`", shown(&member.name)))?;
    }
    extraction.go(&[])
}

impl Extraction<'_> {
    fn place(&mut self, member: &Member, content: &mut impl Read, watch: &mut Watch) -> Result<()> {
        watch.moved(0)?;
        let path = relative(&member.name)?;
        let mut names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).collect();
        let mut meta = Meta { mode: member.mode, uid: member.uid, gid: member.gid, mtime: member.mtime, size: 0 };
        if let Kind::Directory = member.kind {
            return self.directory(&names, &path, meta);
        }
        let Some(name) = names.pop() else { bail!("it has the name of a directory") };
        self.go(&names)?;
        match &member.kind {
            Kind::Directory => {}
            Kind::File(size) => {
                meta.size = *size;
                let made = self.tree.put(name, &meta, watch, |to, watch| fill(to, content, watch))?;
                self.remember(path.len())?;
                self.files.insert(path, made);
            }
            Kind::Symlink(target) if target.is_empty() || target.contains(&0) => bail!("the link's target is no path"),
            Kind::Symlink(target) => self.tree.symlink(name, &meta, target, watch)?,
            Kind::Link(target) => {
                let target = relative(target)?;
                let known = self.files.get(&target).copied();
                let made = known
                    .with_context(|| format!("hard link to `{}`: no file of the archive before it", shown(&target)))?;
                if target != path && !self.tree.link_to(name, &target, made, watch)? {
                    bail!("hard link to `{}`: it cannot be linked to, or is gone", shown(&target));
                }
                self.remember(path.len())?;
                self.files.insert(path, made);
            }
        }
        Ok(())
    }

    fn directory(&mut self, names: &[&[u8]], path: &[u8], meta: Meta) -> Result<()> {
        // What the archive says of the directory that it is extracted in is left alone.
        let Some((name, above)) = names.split_last() else { return Ok(()) };
        let there = self.at.len() >= names.len() && self.at.iter().zip(names).all(|(at, name)| at == name);
        let made = !there && {
            self.go(above)?;
            let made = self.tree.enter_or_make(name, DIRECTORY_MODE)?;
            self.at.push(name.to_vec());
            made
        };
        if there {
            self.go(names)?;
        }
        if made || self.tree.changes_existing() || self.directories.contains_key(path) {
            self.remember(path.len() + size_of::<Meta>())?;
            self.directories.insert(path.to_vec(), Some(meta));
            self.tree.on_leave(meta);
        }
        Ok(())
    }

    /// Makes the directory of these names the current one.
    fn go(&mut self, names: &[&[u8]]) -> Result<()> {
        let same = self.at.iter().zip(names).take_while(|(at, name)| at == name).count();
        while self.tree.depth() > same {
            self.tree.leave()?;
            self.at.pop();
        }
        for name in &names[same..] {
            let made = self
                .tree
                .enter_or_make(name, DIRECTORY_MODE)
                .with_context(|| format!("its directory `{}`", shown(name)))?;
            self.at.push(name.to_vec());
            let path = self.at.join(&b'/');
            if made {
                self.remember(path.len() + size_of::<Meta>())?;
                self.directories.insert(path, None);
            } else if let Some(Some(meta)) = self.directories.get(&path) {
                self.tree.on_leave(*meta);
            }
        }
        Ok(())
    }

    fn remember(&mut self, size: usize) -> Result<()> {
        self.remembered += size + 64;
        if self.remembered > REMEMBERED {
            bail!("the archive has too many members");
        }
        Ok(())
    }
}

fn fill(mut to: &File, from: &mut impl Read, watch: &mut Watch) -> Result<()> {
    let mut chunk = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut chunk).map_err(unreadable)?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&chunk[..count]).context("write its content")?;
        watch.moved(count as u64)?;
    }
}
