//! The two files beside an image's tree: what a run takes from the image, and what a listing shows of it.

use std::os::fd::BorrowedFd;

use anyhow::{Context, Result};
use oci_spec::image::{Config, ImageConfiguration};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{Entry, Tally, tree};
use crate::time;

/// The OCI image configuration.
pub(super) const FILE: &str = "config.json";
/// The [`Entry`].
pub(super) const ENTRY: &str = "entry.json";

/// Writes both files of a new image.
pub(super) fn write(dir: BorrowedFd, name: &str, config: &Config, tally: Tally) -> Result<Entry> {
    let created = time::rfc3339();
    let mut image = ImageConfiguration::default();
    image.set_created(Some(created.clone())).set_config(Some(config.clone()));
    let entry = Entry { name: name.to_owned(), created, size: tally.size, files: tally.files };
    let mode = Mode::RUSR | Mode::WUSR;
    tree::write_file(dir, FILE, &serde_json::to_vec(&image).context("write the image's configuration")?, mode)?;
    tree::write_file(dir, ENTRY, &serde_json::to_vec(&entry).context("write the image's entry")?, mode)?;
    Ok(entry)
}

/// The configuration of a tree that came without one: its shell, if it has one.
pub(super) fn of_tree(rootfs: BorrowedFd) -> Result<Config> {
    // `/bin` and `sh` are often symbolic links, which are looked up as in the container.
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let shell = rustix::fs::openat2(rootfs, "bin/sh", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve);
    Ok(if shell.is_ok() { with_shell() } else { Config::default() })
}

/// A configuration whose command is `sh`.
pub(super) fn with_shell() -> Config {
    let mut config = Config::default();
    config.set_cmd(Some(vec!["sh".to_owned()]));
    config
}
