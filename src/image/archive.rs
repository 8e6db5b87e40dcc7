//! Extracting a tar archive that somebody else wrote into a new directory.
//!
//! Called by the store's `import`. Nothing an archive says leads out of the directory: names are checked and cleaned
//! before use, every path is opened with openat2(2) relative to the directory, beneath it and through no symbolic link,
//! and links are made, never followed. The first entry that breaks a rule ends the import with that entry named; the
//! store then deletes the directory. Memory is bounded whatever the archive holds.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;

use anyhow::{Context, Result, anyhow, bail};
use flate2::bufread::MultiGzDecoder;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::Tally;
use super::layers::{self, Layers};
use super::members::{Kind, Member, Members, unreadable};
use super::tree::{BENEATH, open_directory, shown};
use crate::error::Advice;

/// What an archive may hold.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The sum of all content, in bytes. It is checked against what a header announces, before anything is written.
    pub size: u64,
    /// Entries, and directories that are made because an entry's name has them.
    pub entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { size: 32 << 30, entries: 2_000_000 }
    }
}

/// The longest path, with the NUL that the kernel counts, and the longest component.
const PATH_MAX: usize = 4096;
const NAME_MAX: usize = 255;
/// The most memory for what is done to directories at the end. An image has some ten thousand directories, a MiB.
const DIRECTORIES: usize = 128 << 20;

/// Extracts `archive` into the empty directory `rootfs`.
pub(super) fn extract(archive: impl Read, rootfs: BorrowedFd, limits: &Limits) -> Result<Tally> {
    let mut members = Members::new(decompress(archive, "minirun image import - NAME")?, limits);
    let mut tree = Tree::new(rootfs);
    let mut layers = Layers::default();
    while let Some(member) = members.next()? {
        let mut place = || -> Result<()> {
            let path = clean(&member.name)?;
            layers.check(&path)?;
            tree.place(&member, &path, &mut members)?;
            if members.headers + tree.implied > limits.entries {
                bail!("the archive has more than {} entries", limits.entries);
            }
            Ok(())
        };
        place().with_context(|| format!("extract `{}`", shown(&member.name)))?;
    }
    tree.finish()?;
    if tree.tally.files == 0 {
        bail!("the archive has no files");
    }
    Ok(tree.tally)
}

/// The tar stream: the archive itself, or what gzip makes of it. `reader` is the command that reads it, for a remedy.
pub(crate) fn decompress<'a>(mut archive: impl Read + 'a, reader: &str) -> Result<Box<dyn Read + 'a>> {
    const OTHERS: [(&[u8], &str, &str); 7] = [
        (b"\x28\xb5\x2f\xfd", "zstd", "zstd -dc"),
        (b"\xfd7zXZ\0", "xz", "xz -dc"),
        (b"BZh", "bzip2", "bzip2 -dc"),
        (b"\x04\x22\x4d\x18", "lz4", "lz4 -dc"),
        (b"LZIP", "lzip", "lzip -dc"),
        (b"\x1f\x9d", "compress", "uncompress -c"),
        (b"PK\x03\x04", "zip", "bsdtar -cf - @-"),
    ];
    let mut first = Vec::new();
    archive.by_ref().take(6).read_to_end(&mut first).map_err(unreadable)?;
    if first.is_empty() {
        bail!("the archive is empty");
    }
    if let Some((_, name, program)) = OTHERS.iter().find(|(magic, ..)| first.starts_with(magic)) {
        return Err(anyhow!("it is compressed by {name}, and only plain and gzip archives are read"))
            .remedy(format!("`{program} < ARCHIVE | {reader}`"));
    }
    let gzip = first.starts_with(b"\x1f\x8b");
    // Headers are read in blocks of 512 bytes.
    let whole = BufReader::with_capacity(64 << 10, Cursor::new(first).chain(archive));
    Ok(if gzip { Box::new(BufReader::with_capacity(64 << 10, MultiGzDecoder::new(whole))) } else { Box::new(whole) })
}

/// As [`relative`], and no whiteout.
fn clean(name: &[u8]) -> Result<Vec<u8>> {
    let path = relative(name)?;
    match path.split(|byte| *byte == b'/').any(|component| component.starts_with(b".wh.")) {
        true => layers::whiteout(),
        false => Ok(path),
    }
}

/// The relative path that a name stands for, without empty and `.` components: empty for the root itself.
pub(crate) fn relative(name: &[u8]) -> Result<Vec<u8>> {
    if name.len() >= PATH_MAX {
        bail!("its name is longer than {} bytes", PATH_MAX - 1);
    }
    if name.is_empty() {
        bail!("it has no name");
    }
    if name.contains(&0) {
        bail!("its name has a NUL");
    }
    if name.starts_with(b"/") {
        bail!("its name is absolute");
    }
    let mut path = Vec::with_capacity(name.len());
    for component in name.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".") {
        if component == b".." {
            bail!("its name has a `..`");
        }
        if component.len() > NAME_MAX {
            bail!("a component of its name is longer than {NAME_MAX} bytes");
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component);
    }
    Ok(path)
}

/// A clean path as the path of its directory and its last component.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// The tree while it grows.
struct Tree<'a> {
    rootfs: BorrowedFd<'a>,
    /// Only root can give files away. For others all files are their own, as tar does it: in a user namespace whose
    /// root they are, these are root's.
    chown: bool,
    /// The directory of the last entry, which is most often the next one's too. It stays valid, because a directory is
    /// never removed or replaced here.
    parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Directories made because a name has them.
    implied: u64,
    directories: Vec<Directory>,
    directories_size: usize,
    tally: Tally,
}

/// What is done to a directory when nothing is made in it any more: a mode that forbids writing would keep (who is not
/// root) from that, and each new file would set the time.
struct Directory {
    path: Vec<u8>,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
}

impl<'a> Tree<'a> {
    fn new(rootfs: BorrowedFd<'a>) -> Self {
        Self {
            rootfs,
            chown: rustix::process::geteuid().is_root(),
            parent: None,
            implied: 0,
            directories: Vec::new(),
            directories_size: 0,
            tally: Tally::default(),
        }
    }

    /// Makes the member at the clean `path`. `content` is read if it is a file.
    fn place(&mut self, member: &Member, path: &[u8], content: &mut impl Read) -> Result<()> {
        if let Kind::Directory = member.kind {
            return self.directory(member, path);
        }
        let (dir, name) = split(path);
        if name.is_empty() {
            bail!("it is the root directory and no directory");
        }
        let dir = self.make_parent(dir)?;
        match &member.kind {
            Kind::Directory => {}
            Kind::File(size) => {
                self.file(member, &dir, name, content)?;
                self.tally.size += size;
            }
            Kind::Symlink(target) => self.symlink(member, target, &dir, name)?,
            Kind::Link(target) => {
                self.link(target, path, &dir, name).with_context(|| format!("hard link to `{}`", shown(target)))?;
            }
        }
        self.tally.files += 1;
        Ok(())
    }

    fn file(&mut self, member: &Member, dir: &OwnedFd, name: &[u8], content: &mut impl Read) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Closed to all others until it has its owner: its set-user-ID bit must never be another one's.
        let file =
            self.instead(dir, name, || rustix::fs::openat2(dir, name, flags, Mode::RUSR | Mode::WUSR, BENEATH))?;
        let mut file = File::from(file);
        let mut chunk = [0; 64 << 10];
        loop {
            let count = content.read(&mut chunk).map_err(unreadable)?;
            if count == 0 {
                break;
            }
            file.write_all(&chunk[..count]).context("write its content")?;
        }
        if self.chown {
            // Before the mode: a change of owner takes the set-ID bits away.
            rustix::fs::fchown(&file, uid(member.uid), gid(member.gid)).context("set its owner")?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(member.mode)).context("set its mode")?;
        rustix::fs::futimens(&file, &times(member.mtime)).context("set its time")
    }

    fn symlink(&mut self, member: &Member, target: &[u8], dir: &OwnedFd, name: &[u8]) -> Result<()> {
        if target.is_empty() || target.len() >= PATH_MAX || target.contains(&0) {
            bail!("the target of the symbolic link is empty, too long, or has a NUL");
        }
        self.instead(dir, name, || rustix::fs::symlinkat(target, dir, name))?;
        if self.chown {
            rustix::fs::chownat(dir, name, uid(member.uid), gid(member.gid), AtFlags::SYMLINK_NOFOLLOW)
                .context("set its owner")?;
        }
        rustix::fs::utimensat(dir, name, &times(member.mtime), AtFlags::SYMLINK_NOFOLLOW).context("set its time")
    }

    fn link(&mut self, target: &[u8], path: &[u8], dir: &OwnedFd, name: &[u8]) -> Result<()> {
        let target = clean(target)?;
        if target == path {
            bail!("that is its own name");
        }
        if target.is_empty() {
            bail!("that is a directory or a symbolic link");
        }
        let (target_dir, target_name) = split(&target);
        let target_dir = match self.open(target_dir) {
            Err(Errno::NOENT) => bail!("there is no such file in the archive before it"),
            opened => opened.map_err(refused)?,
        };
        match rustix::fs::statat(&target_dir, target_name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {}
            Ok(_) => bail!("that is a directory or a symbolic link"),
            Err(Errno::NOENT) => bail!("there is no such file in the archive before it"),
            Err(e) => return Err(e.into()),
        }
        // Nobody but this process changes the tree between the two calls, and linkat follows no symbolic link.
        self.instead(dir, name, || rustix::fs::linkat(&target_dir, target_name, dir, name, AtFlags::empty()))
    }

    fn directory(&mut self, member: &Member, path: &[u8]) -> Result<()> {
        let (dir, name) = split(path);
        if !name.is_empty() {
            let dir = self.make_parent(dir)?;
            match rustix::fs::mkdirat(&dir, name, Mode::RWXU) {
                Ok(()) => self.tally.files += 1,
                Err(Errno::EXIST) if is_directory(&dir, name)? => {}
                Err(Errno::EXIST) => bail!("an earlier entry made a file or link of it"),
                Err(e) => return Err(e).context("make the directory"),
            }
        }
        self.directories_size += size_of::<Directory>() + path.len() + 32;
        if self.directories_size > DIRECTORIES {
            bail!("the archive has too many directories");
        }
        self.directories.push(Directory {
            path: path.to_vec(),
            mode: member.mode,
            owner: (member.uid, member.gid),
            mtime: member.mtime,
        });
        Ok(())
    }

    /// Makes something at `name`, in place of a file or link that an earlier entry made.
    fn instead<T>(&mut self, dir: &OwnedFd, name: &[u8], make: impl Fn() -> rustix::io::Result<T>) -> Result<T> {
        match make() {
            Err(Errno::EXIST) => {}
            made => return made.context("make the file or link"),
        }
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).context("look at the earlier entry")?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => bail!("an earlier entry made a directory of it"),
            FileType::RegularFile if stat.st_nlink == 1 => {
                self.tally.size = self.tally.size.saturating_sub(u64::try_from(stat.st_size)?);
            }
            _ => {}
        }
        self.tally.files -= 1;
        // Removed and not overwritten: the content may have other names, and a link would lead elsewhere.
        rustix::fs::unlinkat(dir, name, AtFlags::empty()).context("remove the earlier entry")?;
        make().context("make the file or link")
    }

    /// A directory of the tree, by a clean path.
    fn open(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(self.rootfs, path, flags, Mode::empty(), BENEATH)
    }

    /// A directory of the tree, by a clean path. It is made where it is missing.
    fn make_parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>> {
        if let Some((known, dir)) = &self.parent
            && known == path
        {
            return Ok(Rc::clone(dir));
        }
        let dir = match self.open(path) {
            Err(Errno::NOENT) => self.make_directories(path)?,
            opened => opened.map_err(refused)?,
        };
        let dir = Rc::new(dir);
        self.parent = Some((path.to_vec(), Rc::clone(&dir)));
        Ok(dir)
    }

    fn make_directories(&mut self, path: &[u8]) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut dir = self.open(b"").context("open the root directory")?;
        for name in path.split(|byte| *byte == b'/') {
            match rustix::fs::mkdirat(&dir, name, Mode::RWXU) {
                Ok(()) => {
                    // Not left to the umask.
                    rustix::fs::chmodat(&dir, name, Mode::from_raw_mode(0o755), AtFlags::empty())
                        .context("set the mode of a directory that its name has")?;
                    self.implied += 1;
                    self.tally.files += 1;
                }
                Err(Errno::EXIST) => {}
                Err(e) => return Err(e).context("make a directory that its name has"),
            }
            dir = rustix::fs::openat2(&dir, name, flags, Mode::empty(), BENEATH).map_err(refused)?;
        }
        Ok(dir)
    }

    /// Gives the directories their owners, modes and times.
    fn finish(&mut self) -> Result<()> {
        // What is inside comes before what it is in, which may then be closed. The sort is stable: of two entries for
        // one directory the later is done last.
        self.directories.sort_by(|a, b| b.path.cmp(&a.path));
        for directory in &self.directories {
            let set = || -> rustix::io::Result<()> {
                let path = if directory.path.is_empty() { b"." } else { &directory.path[..] };
                let dir = open_directory(self.rootfs, path)?;
                if self.chown {
                    rustix::fs::fchown(&dir, uid(directory.owner.0), gid(directory.owner.1))?;
                }
                rustix::fs::fchmod(&dir, Mode::from_raw_mode(directory.mode))?;
                rustix::fs::futimens(&dir, &times(directory.mtime))
            };
            set().with_context(|| format!("set owner, mode and time of `{}`", shown(&directory.path)))?;
        }
        Ok(())
    }
}

fn is_directory(dir: &OwnedFd, name: &[u8]) -> Result<bool> {
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).context("look at the earlier entry")?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Why a directory on the way to an entry was not opened.
fn refused(e: Errno) -> anyhow::Error {
    match e {
        Errno::LOOP => anyhow!("its path goes through a symbolic link"),
        Errno::NOTDIR => anyhow!("its path goes through a file"),
        e => anyhow::Error::new(e).context("open its directory"),
    }
}

fn uid(number: u32) -> Option<Uid> {
    Some(Uid::from_raw(number))
}

fn gid(number: u32) -> Option<Gid> {
    Some(Gid::from_raw(number))
}

fn times((seconds, nanoseconds): (i64, i64)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    Timestamps { last_access: time, last_modification: time }
}
