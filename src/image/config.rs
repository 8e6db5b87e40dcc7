//! The two files beside an image's tree: what a run takes from the image, and what a listing shows of it.

use std::os::fd::BorrowedFd;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use oci_spec::image::{Config, ImageConfiguration};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{Entry, Tally, tree};

/// The OCI image configuration.
pub(super) const FILE: &str = "config.json";
/// The [`Entry`].
pub(super) const ENTRY: &str = "entry.json";

/// Writes both files of a new image.
pub(super) fn write(dir: BorrowedFd, name: &str, config: &Config, tally: Tally) -> Result<Entry> {
    let created = rfc3339(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));
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

/// Seconds since 1970 as RFC 3339 in UTC.
fn rfc3339(seconds: u64) -> String {
    let (days, clock) = (seconds / 86400, seconds % 86400);
    // Years are counted from March, so that the day that comes and goes is a year's last: then the months before it have
    // 153 days in every five, and 400 years have 146097 days. 1970-01-01 is 719468 days after 0000-03-01.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + next;
    format!("{year:04}-{month:02}-{date:02}T{:02}:{:02}:{:02}Z", clock / 3600, clock / 60 % 60, clock % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(seconds), text);
        }
    }
}
