//! Addresses: each container of a network has one that no other has.
//!
//! An address is held by a lock on one byte of the file `leases`: byte N stands for the Nth address of the pool. The kernel
//! gives the lock back when its holder dies, however it dies, so nothing is ever left to be swept; and it is an open file
//! description lock (fcntl(2)), so it also lasts over the clone of the container until its program runs. The file's content
//! is the number that is tried next: an address rests for as long as possible before it is used again.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::error::refused;
use crate::state::open_private;

/// An address that nobody else has for as long as this value, or a copy of its descriptor, lives.
#[derive(Debug)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    _lock: Option<File>,
}

/// The numbers that are handed out: not the network's own address, not the gateway (the first one), not the broadcast.
fn numbers(pool: Ipv4Net) -> std::ops::RangeInclusive<u32> {
    let size = 1u32 << (32 - u32::from(pool.prefix_len()));
    2..=size - 2
}

fn address(pool: Ipv4Net, number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(pool.network()) + number)
}

/// Takes the next free address of `pool`, whose file of leases is in `directory`.
///
/// Errors: all addresses are taken.
pub fn lease(directory: &Path, pool: Ipv4Net) -> Result<Lease> {
    let path = directory.join("leases");
    let file = open_private(&path)?;
    let all = numbers(pool);
    let (first, count) = (*all.start(), *all.end() - *all.start() + 1);
    let next = next_number(&file).filter(|n| all.contains(n)).unwrap_or(first);
    for step in 0..count {
        let number = first + (next - first + step) % count;
        if lock(&file, number).with_context(|| format!("lock `{}`", path.display()))? {
            file.write_at(&(number + 1).to_ne_bytes(), 0).with_context(|| format!("write `{}`", path.display()))?;
            return Ok(Lease { address: address(pool, number), _lock: Some(file) });
        }
    }
    Err(refused(
        format!("lease address: all {count} of {pool} are in use"),
        "end a container: `minirun ps` lists who holds them",
    ))
}

/// The address that [`lease`] would try first, without taking it or touching anything.
pub fn peek(directory: &Path, pool: Ipv4Net) -> Lease {
    let all = numbers(pool);
    let next = File::open(directory.join("leases")).ok().and_then(|file| next_number(&file));
    let number = next.filter(|n| all.contains(n)).unwrap_or(*all.start());
    Lease { address: address(pool, number), _lock: None }
}

fn next_number(file: &File) -> Option<u32> {
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, 0).ok()?;
    Some(u32::from_ne_bytes(bytes))
}

/// Whether the lock on byte `number` was free and is ours now.
fn lock(file: &File, number: u32) -> Result<bool> {
    let wanted = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: libc::off_t::from(number),
        l_len: 1,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&wanted)) {
        Ok(_) => Ok(true),
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_differ_rest_and_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let small = pool("10.0.0.0/29");
        let first = lease(directory.path(), small).unwrap();
        assert_eq!(first.address, Ipv4Addr::new(10, 0, 0, 2));
        drop(first);
        let second = lease(directory.path(), small).unwrap();
        assert_eq!(second.address, Ipv4Addr::new(10, 0, 0, 3), "a free address rests before it is used again");
        assert_eq!(peek(directory.path(), small).address, Ipv4Addr::new(10, 0, 0, 4));
        let others: Vec<Lease> = (0..4).map(|_| lease(directory.path(), small).unwrap()).collect();
        let mut all: Vec<Ipv4Addr> = others.iter().map(|l| l.address).chain([second.address]).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 5, "all differ: {all:?}");
        let error = lease(directory.path(), small).unwrap_err();
        assert_eq!(format!("{error:#}"), "lease address: all 5 of 10.0.0.0/29 are in use");
        drop(second);
        assert_eq!(lease(directory.path(), small).unwrap().address, Ipv4Addr::new(10, 0, 0, 3));
    }

    #[test]
    fn a_file_with_nonsense_is_no_obstacle() {
        let directory = tempfile::tempdir().unwrap();
        open_private(&directory.path().join("leases")).unwrap().write_at(&[0xff; 8], 0).unwrap();
        assert_eq!(lease(directory.path(), pool("10.0.0.0/24")).unwrap().address, Ipv4Addr::new(10, 0, 0, 2));
    }
}
