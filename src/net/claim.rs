//! Published ports that no socket holds: of a large range there would be too many, and not every kernel has sockets of SCTP.
//!
//! They are held by locks on bytes of the hub's file `ports`, one for each port of an address and protocol, which the kernel gives
//! back as it does a lease's (`ipam.rs`). All addresses have an area of their own: who publishes there locks it for writing, and
//! who publishes at one address does so for reading, and its own area for writing.
//!
//! Used by `publish.rs`. Who claims does so before it looks whether the ports are free, and who holds ports by sockets looks at
//! the claims after it has bound them; so of two at once one finds the other.

use std::fs::{File, OpenOptions};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::port::Protocol;
use crate::state::open_private;

/// Ports of the host that go up together.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// Their address; the unspecified one is all of its family.
    pub address: IpAddr,
    /// Their protocol.
    pub protocol: Protocol,
    /// The first one.
    pub first: u16,
    /// How many there are.
    pub count: u16,
}

impl Ports {
    /// Takes them for as long as the file is open; or one that somebody else has taken.
    pub fn claim(self, directory: &Path) -> Result<Result<File, u16>> {
        let file = open_private(&directory.join("ports"))?;
        for lock in self.locks() {
            match fcntl(&file, FcntlArg::F_OFD_SETLK(&lock)) {
                Ok(_) => {}
                Err(nix::Error::EAGAIN | nix::Error::EACCES) => {
                    // It may have been given back meanwhile.
                    return Ok(Err(conflict(&file, lock)?.unwrap_or(self.first)));
                }
                Err(error) => return Err(error).context("lock ports"),
            }
        }
        Ok(Ok(file))
    }

    /// One of them that somebody has claimed. Nothing is taken.
    pub fn claimed(self, directory: &Path) -> Result<Option<u16>> {
        let path = directory.join("ports");
        let flags = libc::O_CLOEXEC | libc::O_NOFOLLOW;
        let file = match OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.with_context(|| format!("open `{}`", path.display()))?,
        };
        for lock in self.locks() {
            if let Some(port) = conflict(&file, lock)? {
                return Ok(Some(port));
            }
        }
        Ok(None)
    }

    /// Those of its own area, and of the one of all addresses where that is another one.
    fn locks(self) -> impl Iterator<Item = libc::flock> {
        let own = self.lock(self.address, libc::F_WRLCK);
        let all = if self.address.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        let all = (all != self.address).then(|| self.lock(all, libc::F_RDLCK));
        std::iter::once(own).chain(all)
    }

    fn lock(self, address: IpAddr, kind: libc::c_int) -> libc::flock {
        libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: area(address, self.protocol) | i64::from(self.first),
            l_len: i64::from(self.count),
            l_pid: 0,
        }
    }
}

/// Where the ports of an address begin. One of IPv6 does not fit, and is folded; that two fold to the same is next to impossible,
/// and then one of them cannot be had.
fn area(address: IpAddr, protocol: Protocol) -> i64 {
    let (family, number) = match address {
        IpAddr::V4(address) => (0, u64::from(u32::from(address))),
        IpAddr::V6(address) => {
            let all = u128::from(address);
            (1, (all ^ all >> 44 ^ all >> 88) as u64 & ((1 << 44) - 1))
        }
    };
    let protocol = match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
        Protocol::Sctp => 2,
    };
    family << 62 | protocol << 60 | (number << 16).cast_signed()
}

/// The first port of a lock that somebody else's is in the way of.
fn conflict(file: &File, lock: libc::flock) -> Result<Option<u16>> {
    let mut found = lock;
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut found)).context("look at the locks of ports")?;
    let is_free = i32::from(found.l_type) == libc::F_UNLCK;
    Ok((!is_free).then(|| (found.l_start.max(lock.l_start) & 0xffff) as u16))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(address: &str, first: u16, count: u16) -> Ports {
        Ports { address: address.parse().unwrap(), protocol: Protocol::Tcp, first, count }
    }

    #[test]
    fn what_overlaps_is_refused_and_named() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(ports("127.0.0.1", 1, 65535).claimed(place.path()).unwrap(), None);
        let one = ports("127.0.0.1", 1000, 500).claim(place.path()).unwrap().unwrap();
        for (address, first, count, at) in [
            ("127.0.0.1", 1499, 1, Some(1499)),
            ("127.0.0.1", 900, 200, Some(1000)),
            ("0.0.0.0", 1200, 9, Some(1200)),
            ("127.0.0.1", 1500, 100, None),
            ("192.0.2.2", 1000, 500, None),
            ("::", 1000, 500, None),
            ("::1", 1000, 500, None),
        ] {
            let wanted = ports(address, first, count);
            assert_eq!(wanted.claimed(place.path()).unwrap(), at, "{wanted:?}");
            assert_eq!(wanted.claim(place.path()).unwrap().err(), at, "{wanted:?}");
        }
        let udp = Ports { protocol: Protocol::Udp, ..ports("0.0.0.0", 1000, 500) };
        let all = udp.claim(place.path()).unwrap().unwrap();
        let wanted = Ports { protocol: Protocol::Udp, ..ports("10.0.0.1", 999, 2) };
        assert_eq!(wanted.claimed(place.path()).unwrap(), Some(1000));
        drop((one, all));
        assert!(ports("0.0.0.0", 0, 65535).claim(place.path()).unwrap().is_ok());
    }

    #[test]
    fn areas_are_apart() {
        let addresses = ["0.0.0.0", "255.255.255.255", "::", "::1", "fd00::1", "2001:db8::1", "fd00::2"];
        let mut all: Vec<i64> = addresses
            .iter()
            .flat_map(|one| [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(|by| area(one.parse().unwrap(), by)))
            .collect();
        all.sort_unstable();
        assert!(all[0] >= 0 && all.windows(2).all(|pair| pair[1] - pair[0] >= 1 << 16), "{all:?}");
    }
}
