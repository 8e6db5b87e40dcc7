//! The options of `run` that keep a container's packets, and what they mean.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use nix::libc;
use serde::{Deserialize, Serialize};

use super::filter::Filter;
use super::ring::{self, Links};
use crate::error::refused;
use crate::net::Mode;
use crate::size;

/// So many bytes of packets are held in memory, unless it is said.
const USUAL: u64 = 4 << 20;

/// Options of `run` that keep packets.
#[derive(Debug, Default, Clone, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct CaptureArgs {
    /// Write all packets of the container's interfaces to a pcapng file, from before the first one
    #[arg(long, value_name = "FILE", conflicts_with = "pcap_on_fail")]
    pub pcap: Option<PathBuf>,
    /// Write the last packets of the container's interfaces to a pcapng file if the exit code is not 0
    #[arg(long, value_name = "FILE")]
    pub pcap_on_fail: Option<PathBuf>,
    /// Memory for the packets of --pcap-on-fail (4m)
    #[arg(long, value_name = "SIZE")]
    pub pcap_size: Option<String>,
    /// Only packets of --pcap or --pcap-on-fail that are so, as `tcp port 80`; see `minirun capture --help`
    #[arg(long, value_name = "FILTER")]
    pub pcap_filter: Option<String>,
}

/// A capture that was decided. Its file is open.
#[derive(Debug)]
pub struct Plan {
    /// Where to.
    pub file: Target,
    /// How many bytes of packets are held until the end, where only a failure is written.
    pub held: Option<u64>,
    /// What is captured.
    pub filter: Filter,
}

impl CaptureArgs {
    /// What they mean; `None` where nothing is captured. The file is opened, and made where it is missing. `again` is a
    /// container that has run before.
    ///
    /// Errors: a network that is not the container's own; a file that cannot be written; a filter that is none.
    pub fn decide(&self, mode: &Mode, again: bool) -> Result<Option<Plan>> {
        self.check(mode)?;
        let Some(path) = self.pcap.as_ref().or(self.pcap_on_fail.as_ref()) else { return Ok(None) };
        let filter = Filter::parse(self.pcap_filter.as_deref().unwrap_or_default(), &|_| vec![])?;
        filter.program()?;
        let size = self.pcap_size.as_ref().map(|text| size::bytes(text).context("use --pcap-size"));
        let size = size.transpose()?.unwrap_or(USUAL);
        if !((64 << 10)..=(4 << 30)).contains(&size) {
            return Err(refused(format!("use --pcap-size: {size} bytes is too little or too much"), "64k to 4g"));
        }
        let held = self.pcap_on_fail.is_some().then_some(size);
        let file = Target::open(path, again)?;
        Ok(Some(Plan { file, held, filter }))
    }

    /// The errors of [`decide`](Self::decide) that need nothing to be opened.
    pub fn check(&self, mode: &Mode) -> Result<()> {
        if self.pcap_size.is_some() && self.pcap_on_fail.is_none() {
            let remedy = "--pcap writes all packets, however many; --pcap-on-fail holds the last ones";
            return Err(refused("use --pcap-size: nothing is held in memory", remedy));
        }
        let asked = [(&self.pcap, "pcap"), (&self.pcap_on_fail, "pcap-on-fail")];
        let Some((path, option)) = asked.iter().find_map(|(path, option)| path.as_ref().map(|path| (path, option)))
        else {
            return match self.pcap_filter {
                None => Ok(()),
                Some(_) => Err(refused("use --pcap-filter: nothing is captured", "give --pcap or --pcap-on-fail too")),
            };
        };
        if mode.joins() {
            let message = format!("use --{option}: with --net={mode} the network is not the container's own");
            return Err(refused(message, "see what is there by `minirun capture CONTAINER`"));
        }
        if path == Path::new("-") {
            let message = format!("use --{option} -: standard output is the program's");
            return Err(refused(message, "give a file; `minirun capture -w - CONTAINER` writes to standard output"));
        }
        Ok(())
    }
}

impl Plan {
    /// In the container's process, in its network namespace: opens the tap, before any link is up.
    pub fn open_inside(&self) -> Result<OwnedFd> {
        ring::open(Links::All, &self.filter.program()?, ring::shape(ring::USUAL)?)
    }
}

/// The file of a capture. If nothing was written to it and it was not there before, it goes with its value.
#[derive(Debug)]
pub struct Target {
    /// Where it is.
    pub path: PathBuf,
    pub(super) file: File,
    /// It was made here, by this process, and is empty.
    fresh: Option<u32>,
    /// What is in it stays, as it is of an earlier run.
    append: bool,
}

impl Target {
    fn open(path: &Path, append: bool) -> Result<Self> {
        let failed = || format!("write packets to `{}`", path.display());
        let open = |new: bool| {
            File::options()
                .write(true)
                .create_new(new)
                .mode(0o600)
                // A pipe that nobody reads is an error, and nobody waits for it.
                .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(path)
        };
        let (file, fresh) = match open(true) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                (open(false).with_context(failed)?, false)
            }
            other => (other.with_context(failed)?, true),
        };
        if !file.metadata().with_context(failed)?.is_file() {
            let remedy = "`minirun capture -w - CONTAINER` writes to a pipe";
            return Err(refused(format!("{}: it is not a regular file", failed()), remedy));
        }
        // It is told by an absolute path later on, from wherever the holder is then.
        let path = std::path::absolute(path).with_context(failed)?;
        Ok(Self { path, file, fresh: fresh.then(std::process::id), append })
    }

    /// From here on it is written: what was in it goes, or stays before what comes. How long it is.
    pub(super) fn begin(&mut self) -> Result<u64> {
        use std::io::{Seek, SeekFrom};
        let failed = || format!("write packets to `{}`", self.path.display());
        if !self.append {
            self.file.set_len(0).with_context(failed)?;
        }
        let length = self.file.seek(SeekFrom::End(0)).with_context(failed)?;
        self.fresh = None;
        Ok(length)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Not in a child that has a copy of this value.
        if self.fresh == Some(std::process::id()) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
