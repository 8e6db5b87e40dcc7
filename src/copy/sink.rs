//! Where copies go: what both kinds of sink do, and what is known of a thing beside its name.

use std::fs::File;

use anyhow::Result;
use rustix::fs::Stat;

use super::open::{Id, Item};
use super::watch::Watch;

/// What a thing has beside its name and content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    /// Permission, set-ID and sticky bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub(super) mtime: (i64, i64),
    /// Of a file, in bytes.
    pub(super) size: u64,
}

impl Meta {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            size: u64::try_from(stat.st_size).unwrap_or(0),
        }
    }
}

/// Where copies go. There is a current directory, which `enter` and `leave` change.
pub(super) trait Sink {
    /// Makes the directory `name`, if there is none, and goes into it. It gets its owner, mode and time by `leave`.
    fn enter(&mut self, name: &[u8], from: &Item) -> Result<()>;
    fn leave(&mut self) -> Result<()>;
    /// Tells which file it has made, if that can be linked to.
    fn file(&mut self, name: &[u8], meta: &Meta, from: &File, watch: &mut Watch) -> Result<Option<Id>>;
    /// Makes `name` another name of the file at `path` in the sink, which is `made`. False where that cannot be done.
    fn link(&mut self, name: &[u8], meta: &Meta, path: &[u8], made: Option<Id>, watch: &mut Watch) -> Result<bool>;
    fn symlink(&mut self, name: &[u8], meta: &Meta, target: &[u8], watch: &mut Watch) -> Result<()>;
    fn fifo(&mut self, name: &[u8], meta: &Meta, watch: &mut Watch) -> Result<()>;
    /// Whether a directory is the one that all goes to.
    fn is_top(&self, directory: Id) -> bool;
}
