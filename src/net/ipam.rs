//! Addresses: each container of a network has one that no other has.
//!
//! An address is held by a lock on one byte of the network's file `leases.NAME`: byte N stands for the Nth address of the
//! network (of IPv6 in `leases6.NAME`). The kernel gives the lock back when its holder dies, however it dies, so nothing is
//! ever left to be swept; and it is an open file description lock (fcntl(2)), so it also lasts over the clone of the
//! container until its program runs. The file's content is the number that is tried next: an address rests for as long as
//! possible before it is used again; and behind that, whether neighbours may know addresses by other hardware addresses.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use ipnet::{Ipv4Net, Ipv6Net};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::definition::Definition;
use crate::error::refused;
use crate::state::open_private;

/// Where a file of leases says that hardware addresses were not those that follow from the addresses.
const MIXED: u64 = 4;

/// Addresses that nobody else has for as long as this value, or a copy of its descriptors, lives.
#[derive(Debug)]
pub struct Lease {
    /// The IPv4 address.
    pub address: Ipv4Addr,
    /// The IPv6 address, where the network has IPv6.
    pub address6: Option<Ipv6Addr>,
    /// Whether addresses of the network have been used with other hardware addresses than those that follow from them.
    pub mixed: bool,
    locks: Vec<File>,
}

impl Lease {
    /// Holds a further lock for as long.
    pub fn hold(&mut self, lock: Option<File>) {
        self.locks.extend(lock);
    }

    /// Remembers that this one is.
    pub fn mix(&mut self) -> Result<()> {
        if !std::mem::replace(&mut self.mixed, true)
            && let Some(file) = self.locks.first()
        {
            file.write_at(&[1], MIXED).context("write to the network's leases")?;
        }
        Ok(())
    }
}

/// The numbers that are handed out: not the network's own address, not the broadcast, and only those of its range.
fn numbers(network: &Definition) -> std::ops::RangeInclusive<u32> {
    let pool = network.gateway.trunc();
    let size = 1u64 << (32 - u32::from(pool.prefix_len()));
    // A network of two has no address of its own (RFC 3021).
    let (first, last) = if size > 2 { (1, size - 2) } else { (0, size - 1) };
    let (mut first, mut last) = (first as u32, last as u32);
    if let Some(range) = network.range {
        first = first.max(number(pool, range.network()));
        last = last.min(number(pool, range.broadcast()));
    }
    first..=last
}

fn number(pool: Ipv4Net, address: Ipv4Addr) -> u32 {
    u32::from(address) - u32::from(pool.network())
}

fn address(pool: Ipv4Net, number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(pool.network()) + number)
}

/// The number of the IPv6 address that goes with an IPv4 address. Zero is no host's, also where it is in a network of two.
fn number6(network: &Definition, address: Ipv4Addr) -> u32 {
    number(network.gateway.trunc(), address) + u32::from(network.gateway.prefix_len() == 31)
}

/// Whether an address of a network is its router's, or one that the host has itself there.
fn is_others(network: &Definition, address: IpAddr) -> bool {
    network.router().map(IpAddr::from) == Some(address) || network.kept.contains(&address)
}

/// Takes addresses of a network, whose file of leases is in `directory`: those that are wanted, or the next free ones.
///
/// Errors: a wanted address is not one of the network's, or in use; all addresses are taken.
pub fn lease(
    directory: &Path,
    network: &Definition,
    wanted: Option<Ipv4Addr>,
    wanted6: Option<Ipv6Addr>,
) -> Result<Lease> {
    check(network, wanted, wanted6)?;
    let (address, lock) = lease4(directory, network, wanted)?;
    let mixed = is_mixed(&lock);
    let mut locks = vec![lock];
    let mut address6 = None;
    if let Some(gateway) = network.gateway6 {
        let (address, lock) = lease6(directory, network, gateway, wanted6, number6(network, address))?;
        locks.push(lock);
        address6 = Some(address);
    }
    Ok(Lease { address, address6, mixed, locks })
}

fn lease4(directory: &Path, network: &Definition, wanted: Option<Ipv4Addr>) -> Result<(Ipv4Addr, File)> {
    let path = directory.join(format!("leases.{}", network.name));
    let failed = || format!("lock `{}`", path.display());
    let file = open_private(&path)?;
    let pool = network.gateway.trunc();
    if let Some(wanted) = wanted {
        if !lock(&file, number(pool, wanted).into()).with_context(failed)? {
            return Err(in_use(&wanted.to_string(), network));
        }
        return Ok((wanted, file));
    }
    let all = numbers(network);
    let (first, count) = (*all.start(), u64::from(*all.end()) + 1 - u64::from(*all.start()));
    let next = next_number(&file).filter(|n| all.contains(n)).unwrap_or(first);
    for step in 0..count {
        let number = first + ((u64::from(next - first) + step) % count) as u32;
        let found = address(pool, number);
        if !is_others(network, found.into()) && lock(&file, number.into()).with_context(failed)? {
            let [a, b, c, d] = number.wrapping_add(1).to_ne_bytes();
            file.write_at(&[a, b, c, d, is_mixed(&file).into()], 0)
                .with_context(|| format!("write `{}`", path.display()))?;
            return Ok((found, file));
        }
    }
    let others = network.router().into_iter().chain(network.kept.iter().filter_map(|kept| match kept {
        IpAddr::V4(address) => Some(*address).filter(|address| network.router() != Some(*address)),
        IpAddr::V6(_) => None,
    }));
    let own = others.filter(|address| pool.contains(address) && all.contains(&number(pool, *address))).count() as u64;
    Err(refused(
        format!("lease address: all {} of {} are in use", count - own, network.range.unwrap_or(pool)),
        "end a container: `minirun ps` lists who holds them",
    ))
}

/// The IPv6 address has the number of the IPv4 address, where nobody has asked for just that one.
fn lease6(
    directory: &Path,
    network: &Definition,
    gateway: Ipv6Net,
    wanted: Option<Ipv6Addr>,
    number: u32,
) -> Result<(Ipv6Addr, File)> {
    let path = directory.join(format!("leases6.{}", network.name));
    let failed = || format!("lock `{}`", path.display());
    let file = open_private(&path)?;
    let pool = gateway.trunc();
    if let Some(wanted) = wanted {
        if !lock(&file, place6(wanted)).with_context(failed)? {
            return Err(in_use(&wanted.to_string(), network));
        }
        return Ok((wanted, file));
    }
    for round in 0u128..256 {
        let found = Ipv6Addr::from(u128::from(pool.network()) + (round << 32) + u128::from(number));
        let free = pool.contains(&found) && found != gateway.addr() && !is_others(network, found.into());
        if free && lock(&file, place6(found)).with_context(failed)? {
            return Ok((found, file));
        }
    }
    bail!("lease address: no IPv6 address of {pool} is free")
}

/// The byte that stands for an IPv6 address: as much of it as a position in a file can say.
fn place6(address: Ipv6Addr) -> u64 {
    u128::from(address) as u64 & (i64::MAX as u64 >> 1)
}

fn in_use(address: &str, network: &Definition) -> anyhow::Error {
    refused(
        format!("lease address: {address} is in use"),
        format!("choose another one: `minirun network inspect {}` lists who has which", network.name),
    )
}

/// Whether wanted addresses can be had at all.
fn check(network: &Definition, wanted: Option<Ipv4Addr>, wanted6: Option<Ipv6Addr>) -> Result<()> {
    let pool = network.gateway.trunc();
    if let Some(wanted) = wanted {
        let edge = pool.prefix_len() < 31 && (wanted == pool.network() || wanted == pool.broadcast());
        if !pool.contains(&wanted) || edge {
            bail!("lease address: {wanted} is none for a container of network `{}` ({pool})", network.name);
        }
        if Some(wanted) == network.router() {
            bail!("lease address: {wanted} is the gateway of network `{}`", network.name);
        }
    }
    let mut all = wanted.map(IpAddr::from).into_iter().chain(wanted6.map(IpAddr::from));
    if let Some(own) = all.find(|wanted| network.kept.contains(wanted)) {
        bail!("lease address: {own} is this host's own on `{}`", network.link);
    }
    match (wanted6, network.gateway6) {
        (Some(wanted), None) => Err(refused(
            format!("lease address: {wanted}: network `{}` has no IPv6", network.name),
            "make one that has: `minirun network create --ipv6 NAME`",
        )),
        (Some(wanted), Some(gateway)) if !gateway.contains(&wanted) => {
            bail!("lease address: {wanted} is not in network `{}` ({})", network.name, gateway.trunc())
        }
        (Some(wanted), Some(gateway)) if wanted == gateway.addr() || wanted == gateway.network() => {
            bail!("lease address: {wanted} is the gateway of network `{}`", network.name)
        }
        _ => Ok(()),
    }
}

/// The addresses that [`lease`] would try first, without taking them or touching anything.
pub fn peek(
    directory: &Path,
    network: &Definition,
    wanted: Option<Ipv4Addr>,
    wanted6: Option<Ipv6Addr>,
) -> Result<Lease> {
    check(network, wanted, wanted6)?;
    let all = numbers(network);
    let pool = network.gateway.trunc();
    let file = File::open(directory.join(format!("leases.{}", network.name))).ok();
    let mixed = file.as_ref().is_some_and(is_mixed);
    let next = file.as_ref().and_then(next_number).filter(|n| all.contains(n)).unwrap_or(*all.start());
    let address = wanted.unwrap_or_else(|| {
        let free = |number: &u32| !is_others(network, address(pool, *number).into());
        address(pool, (next..=*all.end()).find(free).unwrap_or(next))
    });
    let address6 = network.gateway6.map(|gateway| {
        let same = u128::from(gateway.network()) + u128::from(number6(network, address));
        wanted6.unwrap_or(Ipv6Addr::from(same))
    });
    Ok(Lease { address, address6, mixed, locks: vec![] })
}

fn is_mixed(file: &File) -> bool {
    let mut byte = [0];
    file.read_exact_at(&mut byte, MIXED).is_ok() && byte == [1]
}

fn next_number(file: &File) -> Option<u32> {
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, 0).ok()?;
    Some(u32::from_ne_bytes(bytes))
}

/// Whether the lock on byte `number` was free and is ours now.
pub fn lock(file: &File, number: u64) -> Result<bool> {
    let wanted = bytes(number, 1);
    match fcntl(file, FcntlArg::F_OFD_SETLK(&wanted)) {
        Ok(_) => Ok(true),
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether somebody else holds the lock on byte `number`.
pub fn is_locked(file: &File, number: u64) -> Result<bool> {
    is_held(file, bytes(number, 1))
}

/// Which of the first two bytes of a file are locked; none where there is no such file.
pub fn held(path: &Path) -> Result<[bool; 2]> {
    let Ok(file) = File::open(path) else { return Ok([false; 2]) };
    // Only a file that is open for writing can be asked about a lock for writing; one for reading tells of the same.
    let ask = |number| is_held(&file, libc::flock { l_type: libc::F_RDLCK as libc::c_short, ..bytes(number, 1) });
    Ok([ask(0)?, ask(1)?])
}

/// Whether somebody has an address of that network.
pub fn is_in_use(directory: &Path, network: &Definition) -> Result<bool> {
    let Ok(file) = File::open(directory.join(format!("leases.{}", network.name))) else { return Ok(false) };
    // Of no length: to the end, wherever that is.
    is_held(&file, libc::flock { l_type: libc::F_RDLCK as libc::c_short, ..bytes(0, 0) })
}

fn bytes(first: u64, count: u64) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: first as libc::off_t,
        l_len: count as libc::off_t,
        l_pid: 0,
    }
}

fn is_held(file: &File, mut asked: libc::flock) -> Result<bool> {
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut asked)).context("ask for a lock")?;
    Ok(asked.l_type != libc::F_UNLCK as libc::c_short)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(gateway: &str) -> Definition {
        Definition::default_network(gateway.parse().unwrap())
    }

    #[test]
    fn addresses_differ_rest_and_come_back() {
        let directory = tempfile::tempdir().unwrap();
        let small = network("10.0.0.1/29");
        let take = || lease(directory.path(), &small, None, None);
        let first = take().unwrap();
        assert_eq!(first.address, Ipv4Addr::new(10, 0, 0, 2));
        drop(first);
        let second = take().unwrap();
        assert_eq!(second.address, Ipv4Addr::new(10, 0, 0, 3), "a free address rests before it is used again");
        assert_eq!(peek(directory.path(), &small, None, None).unwrap().address, Ipv4Addr::new(10, 0, 0, 4));
        let others: Vec<Lease> = (0..4).map(|_| take().unwrap()).collect();
        let mut all: Vec<Ipv4Addr> = others.iter().map(|l| l.address).chain([second.address]).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 5, "all differ: {all:?}");
        let error = take().unwrap_err();
        assert_eq!(format!("{error:#}"), "lease address: all 5 of 10.0.0.0/29 are in use");
        drop(second);
        assert_eq!(take().unwrap().address, Ipv4Addr::new(10, 0, 0, 3));
    }

    #[test]
    fn a_file_with_nonsense_is_no_obstacle() {
        let directory = tempfile::tempdir().unwrap();
        let one = network("10.0.0.1/24");
        open_private(&directory.path().join("leases.bridge")).unwrap().write_at(&[0xff; 8], 0).unwrap();
        assert_eq!(lease(directory.path(), &one, None, None).unwrap().address, Ipv4Addr::new(10, 0, 0, 2));
    }

    #[test]
    fn wanted_addresses_and_ranges() {
        let directory = tempfile::tempdir().unwrap();
        let range = Some("10.0.0.64/30".parse().unwrap());
        let gateway6 = Some("fd00::1/64".parse().unwrap());
        let one = Definition { range, gateway6, ..network("10.0.0.1/24") };
        let take = |wanted: Option<&str>, wanted6: Option<&str>| {
            lease(directory.path(), &one, wanted.map(|a| a.parse().unwrap()), wanted6.map(|a| a.parse().unwrap()))
        };
        let ranged = take(None, None).unwrap();
        assert_eq!(
            (ranged.address, ranged.address6),
            ("10.0.0.64".parse().unwrap(), Some("fd00::40".parse().unwrap()))
        );
        let fixed = take(Some("10.0.0.9"), Some("fd00::41")).unwrap();
        assert_eq!(fixed.address6, Some("fd00::41".parse().unwrap()));
        assert_eq!(format!("{:#}", take(Some("10.0.0.9"), None).unwrap_err()), "lease address: 10.0.0.9 is in use");
        assert!(take(None, Some("fd00::41")).is_err());
        let next = take(None, None).unwrap();
        assert_eq!((next.address, next.address6), ("10.0.0.66".parse().unwrap(), Some("fd00::42".parse().unwrap())));
        for (bad, bad6) in [
            (Some("10.0.0.1"), None),
            (Some("10.0.1.1"), None),
            (Some("10.0.0.255"), None),
            (None, Some("fd00::1")),
            (None, Some("fd01::2")),
        ] {
            assert!(take(bad, bad6).is_err(), "{bad:?} {bad6:?}");
        }
        let without = network("10.0.0.1/24");
        assert!(lease(directory.path(), &without, None, Some("fd00::2".parse().unwrap())).is_err());
    }

    #[test]
    fn a_network_of_two() {
        let directory = tempfile::tempdir().unwrap();
        let two = network("10.0.0.0/31");
        let held = lease(directory.path(), &two, None, None).unwrap();
        assert_eq!(held.address, Ipv4Addr::new(10, 0, 0, 1));
        assert!(lease(directory.path(), &two, None, None).is_err());
    }
}
