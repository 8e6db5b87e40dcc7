//! The sink that is a tar stream: GNU's format, which has names of any length and any bytes.
//!
//! Owners and modes are those of the source, whoever reads them. Sparse files are written out; extended attributes of users
//! are in a pax header, as GNU tar and bsdtar write them.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use anyhow::{Result, anyhow};
use tar::{EntryType, Header};

use super::content;
use super::open::{Id, Item, readable};
use super::sink::{Meta, Sink};
use super::tree::NOBODY;
use super::watch::Watch;
use crate::error::warn;
use crate::image::tree::shown;

const BLOCK: usize = 512;

/// A stream that is being written.
pub(super) struct Archive<W: Write> {
    out: W,
    /// The current directory's name in the archive, with a slash behind it unless it is empty.
    prefix: Vec<u8>,
    /// What user 0 and group 0 of the container are on the host.
    first_ids: (u32, u32),
}

impl<W: Write> Archive<W> {
    /// Names begin with `./` where there is no top directory.
    pub(super) fn new(out: W, named: bool, first_ids: (u32, u32)) -> Self {
        Self { out, prefix: if named { Vec::new() } else { b"./".to_vec() }, first_ids }
    }

    /// Writes the end.
    pub(super) fn finish(mut self) -> Result<()> {
        self.write(&[0; 2 * BLOCK])?;
        self.out.flush().map_err(unwritten)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(unwritten)
    }

    fn padded(&mut self, bytes: &[u8]) -> Result<()> {
        self.write(bytes)?;
        self.pad(bytes.len() as u64)
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let behind = size.next_multiple_of(BLOCK as u64) - size;
        self.write(&[0; BLOCK][..usize::try_from(behind)?])
    }

    /// A header whose content says something about the next one.
    fn extension(&mut self, kind: u8, content: &[u8]) -> Result<()> {
        let mut header = Header::new_gnu();
        put(&mut header, 0, b"././@LongLink");
        header.set_entry_type(EntryType::new(kind));
        header.set_size(content.len() as u64);
        header.set_cksum();
        self.write(header.as_bytes())?;
        self.padded(content)
    }

    fn header(&mut self, name: &[u8], meta: &Meta, kind: EntryType, link: &[u8], size: u64) -> Result<()> {
        const NAME: usize = 100;
        for (text, kind) in [(name, b'L'), (link, b'K')] {
            if text.len() > NAME {
                self.extension(kind, &[text, b"\0"].concat())?;
            }
        }
        let mut header = Header::new_gnu();
        put(&mut header, 0, &name[..name.len().min(NAME)]);
        put(&mut header, 157, &link[..link.len().min(NAME)]);
        header.set_entry_type(kind);
        header.set_mode(meta.mode);
        let in_container = |id: u32, first: u32| u64::from(id.checked_sub(first).unwrap_or(NOBODY));
        header.set_uid(in_container(meta.uid, self.first_ids.0));
        header.set_gid(in_container(meta.gid, self.first_ids.1));
        header.set_size(size);
        // A time before 1970 is a negative number in the binary form of the field.
        header.set_mtime(meta.mtime.0.cast_unsigned());
        header.set_cksum();
        self.write(header.as_bytes())
    }

    fn attributes(&mut self, of: &File) -> Result<()> {
        let mut records = Vec::new();
        for (name, value) in content::attributes(of)? {
            let record = [b" SCHILY.xattr.", &name[..], b"=", &value, b"\n"].concat();
            // The length of a record counts its own digits.
            let mut length = record.len();
            while length.to_string().len() + record.len() != length {
                length = length.to_string().len() + record.len();
            }
            records.extend_from_slice(length.to_string().as_bytes());
            records.extend_from_slice(&record);
        }
        if records.is_empty() { Ok(()) } else { self.extension(b'x', &records) }
    }

    fn name(&self, name: &[u8]) -> Vec<u8> {
        [&self.prefix[..], name].concat()
    }
}

fn put(header: &mut Header, at: usize, bytes: &[u8]) {
    header.as_mut_bytes()[at..at + bytes.len()].copy_from_slice(bytes);
}

fn unwritten(e: std::io::Error) -> anyhow::Error {
    anyhow!(e).context("write the archive to standard output")
}

impl<W: Write> Sink for Archive<W> {
    fn enter(&mut self, name: &[u8], from: &Item) -> Result<()> {
        if let Ok(dir) = readable(from.fd.as_fd()) {
            self.attributes(&dir.into())?;
        }
        self.prefix.extend_from_slice(name);
        self.prefix.push(b'/');
        let name = std::mem::take(&mut self.prefix);
        let written = self.header(&name, &Meta::of(&from.stat), EntryType::Directory, b"", 0);
        self.prefix = name;
        written
    }

    fn leave(&mut self) -> Result<()> {
        self.prefix.pop();
        let parent = self.prefix.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        self.prefix.truncate(parent);
        Ok(())
    }

    fn file(&mut self, name: &[u8], meta: &Meta, from: &File, watch: &mut Watch) -> Result<Option<Id>> {
        self.attributes(from)?;
        let name = self.name(name);
        self.header(&name, meta, EntryType::Regular, b"", meta.size)?;
        let mut chunk = vec![0; 64 << 10];
        let (mut at, mut short) = (0, false);
        while at < meta.size {
            let most = usize::try_from(meta.size - at).unwrap_or(usize::MAX).min(chunk.len());
            let mut count = if short { 0 } else { content::read_at(from, &mut chunk[..most], at)? };
            if count == 0 {
                // Its size is written already.
                if !short {
                    warn(&format!("copy `{}`: it became shorter meanwhile; filled up with zeros", shown(&name)));
                    chunk.fill(0);
                }
                short = true;
                count = most;
            }
            self.write(&chunk[..count])?;
            at += count as u64;
            watch.moved(count as u64)?;
        }
        self.pad(meta.size)?;
        Ok(None)
    }

    fn link(&mut self, name: &[u8], meta: &Meta, path: &[u8], _: Option<Id>, _: &mut Watch) -> Result<bool> {
        // Names in the archive begin with what the prefix has at the top.
        let top: &[u8] = if self.prefix.starts_with(b"./") { b"./" } else { b"" };
        let target = [top, path].concat();
        self.header(&self.name(name), meta, EntryType::Link, &target, 0)?;
        Ok(true)
    }

    fn symlink(&mut self, name: &[u8], meta: &Meta, target: &[u8], _: &mut Watch) -> Result<()> {
        self.header(&self.name(name), meta, EntryType::Symlink, target, 0)
    }

    fn fifo(&mut self, name: &[u8], meta: &Meta, _: &mut Watch) -> Result<()> {
        self.header(&self.name(name), meta, EntryType::Fifo, b"", 0)
    }

    fn is_top(&self, _: Id) -> bool {
        false
    }
}
