//! Whether other programs' rules have changed since they were looked at, told at each start for as little as a question.
//!
//! nftables counts its transactions. The number at which rules were looked at last is in the hub's file `foreign`, with a number for
//! the older ip_tables, which count nothing and are few or none, and the bridges that were looked at. minirun's own transactions
//! count too: [`ours`] moves the number on where it was the only one meanwhile. Where it was not, one look is made too many.
//!
//! A look at a firewall of a hundred thousand addresses takes its time, and something may change it all the time: no more than a
//! tenth of the time is spent with looking.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use netlink_packet_core::NLM_F_REQUEST;
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{MsgFlags, recv};

use super::{legacy, warn};
use crate::net::definition::Definition;
use crate::net::nft;
use crate::net::wire::{attributes, messages};
use crate::state::open_private;

/// The number takes so many digits, so that it can be replaced.
const DIGITS: usize = 10;

/// How the rules were when they were looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Seen {
    /// How many transactions there were.
    generation: u32,
    /// A number for the rules of ip_tables.
    legacy: u64,
    /// How long the look took, in microseconds.
    took: u64,
    /// The bridges whose packets were looked for.
    links: Vec<String>,
}

impl Seen {
    fn read(directory: &Path) -> Option<Self> {
        let text = fs::read_to_string(path(directory)).ok()?;
        let mut words = text.split_whitespace();
        let generation = words.next()?.parse().ok()?;
        let legacy = words.next()?.parse().ok()?;
        let took = words.next()?.parse().ok()?;
        Some(Self { generation, legacy, took, links: words.map(str::to_owned).collect() })
    }

    fn write(&self, directory: &Path) -> Result<()> {
        let Self { generation, legacy, took, links } = self;
        let text = format!("{generation:>DIGITS$} {legacy} {took} {}\n", links.join(" "));
        let new = directory.join("foreign.new");
        let file = open_private(&new)?;
        file.set_len(0)?;
        file.write_all_at(text.as_bytes(), 0)?;
        Ok(fs::rename(&new, path(directory))?)
    }
}

fn path(directory: &Path) -> PathBuf {
    directory.join("foreign")
}

/// Warns of other programs' rules that keep containers of these networks from the outside, where they have changed since the
/// last time. It stops nothing.
/// `generation` is how many transactions there were.
pub fn watch(directory: &Path, networks: &[&Definition], generation: u32) {
    let networks: Vec<&Definition> = networks.iter().copied().filter(|one| one.driver.has_bridge()).collect();
    let now = Seen { generation, legacy: legacy::fingerprint(), ..Seen::default() };
    let seen = Seen::read(directory).unwrap_or_default();
    let same = (seen.generation, seen.legacy) == (now.generation, now.legacy);
    let known = networks.iter().all(|network| seen.links.contains(&network.link));
    if known && (same || is_soon(directory, seen.took)) {
        return;
    }
    let begin = Instant::now();
    warn(&networks);
    let mut links = if same { seen.links } else { vec![] };
    links.extend(networks.iter().map(|network| network.link.clone()));
    links.sort();
    links.dedup();
    let took = begin.elapsed().as_micros() as u64;
    // Without it, the next start looks.
    let _ = Seen { took, links, ..now }.write(directory);
}

/// Whether the last look is too short a while ago for another one that takes as long.
fn is_soon(directory: &Path, took: u64) -> bool {
    let since = fs::metadata(path(directory)).and_then(|about| about.modified()).map(|then| then.elapsed());
    matches!(since, Ok(Ok(since)) if since < Duration::from_micros(took.saturating_mul(10)))
}

/// Does a transaction of minirun's own, which changes nothing of others' rules.
pub fn ours<T>(directory: &Path, commit: impl FnOnce() -> T) -> T {
    let file = OpenOptions::new().read(true).write(true).open(path(directory)).ok();
    let before = file.as_ref().and_then(|file| {
        let mut digits = [0; DIGITS];
        file.read_exact_at(&mut digits, 0).ok()?;
        let seen: u32 = std::str::from_utf8(&digits).ok()?.trim().parse().ok()?;
        count().ok().filter(|generation| *generation == seen)
    });
    let done = commit();
    if let (Some(file), Some(before)) = (file, before)
        && count().ok() == Some(before.wrapping_add(1))
    {
        // What somebody else wrote meanwhile is older or newer than what there is then: no harm but a look.
        let _ = file.write_all_at(format!("{:>DIGITS$}", before.wrapping_add(1)).as_bytes(), 0);
    }
    done
}

fn count() -> io::Result<u32> {
    let socket = Socket::new(NETLINK_NETFILTER)?;
    let generation = generation(&socket);
    nft::let_the_kernel_close(socket);
    generation
}

/// How many transactions there were in the network namespace of a socket that nobody has asked anything else.
pub fn generation(socket: &Socket) -> io::Result<u32> {
    /// `NFT_MSG_GETGEN` of nftables' part of nfnetlink, and `NFTA_GEN_ID`.
    const GET: u16 = 10 << 8 | 16;
    const ID: u16 = 1;
    let mut question = [0; 20];
    question[..4].copy_from_slice(&20u32.to_ne_bytes());
    question[4..6].copy_from_slice(&GET.to_ne_bytes());
    question[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    socket.send(&question, 0)?;
    let mut buffer = [0; 256];
    let size = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let answer = messages(&buffer[..size]).next().filter(|answer| answer.error().is_none());
    let id = answer.and_then(|answer| {
        let (_, value) = attributes(answer.bytes.get(20..)?).find(|(kind, _)| *kind == ID)?;
        value.try_into().ok().map(u32::from_be_bytes)
    });
    id.ok_or_else(|| io::ErrorKind::Unsupported.into())
}
