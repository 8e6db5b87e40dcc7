//! The older ip_tables of a network namespace, read by the options of a socket (`linux/netfilter_ipv4/ip_tables.h`).

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// `IPT_SO_GET_INFO` and `IP6T_SO_GET_INFO`.
const GET_INFO: libc::c_int = 64;
/// `IPT_SO_GET_ENTRIES` and `IP6T_SO_GET_ENTRIES`.
const GET_ENTRIES: libc::c_int = 65;
/// Of a table's name, with its closing zero.
const NAME: usize = 32;
/// `struct ipt_getinfo`: name, valid hooks, five entries, five underflows, number and size of the entries.
const INFO: usize = NAME + 4 + 5 * 4 + 5 * 4 + 4 + 4;
/// `struct ipt_get_entries` before its entries: name, size, and up to the next multiple of eight.
const HEAD: usize = NAME + 8;

/// A table as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IpTable {
    /// Where each hook's chain begins in the entries; `None` where the table has none for it.
    pub begins: [Option<u32>; 5],
    /// Where its last rule is, which is the policy.
    pub ends: [u32; 5],
    /// The rules, one after the other (`struct ipt_entry`, `struct ip6t_entry`).
    pub entries: Vec<u8>,
}

/// Reads the table `name`, by a socket of `AF_INET`, or of `AF_INET6` where `ipv6`. Only one that is there: the kernel makes
/// one that is asked for.
pub fn ip_table(socket: impl AsFd, ipv6: bool, name: &str) -> io::Result<IpTable> {
    let mut info = [0u8; INFO];
    write_name(&mut info, name)?;
    get(&socket, ipv6, GET_INFO, &mut info)?;
    let word = |at: usize| info[at..at + 4].try_into().map(u32::from_ne_bytes).unwrap_or_default();
    let hooks = word(NAME);
    let mut table = IpTable::default();
    for hook in 0..5 {
        table.begins[hook] = (hooks & (1 << hook) != 0).then(|| word(NAME + 4 + 4 * hook));
        table.ends[hook] = word(NAME + 24 + 4 * hook);
    }
    let size = word(INFO - 4);
    let mut entries = vec![0u8; HEAD + size as usize];
    write_name(&mut entries, name)?;
    entries[NAME..NAME + 4].copy_from_slice(&size.to_ne_bytes());
    // EAGAIN where it has changed in between.
    get(&socket, ipv6, GET_ENTRIES, &mut entries)?;
    table.entries = entries.split_off(HEAD);
    Ok(table)
}

fn write_name(to: &mut [u8], name: &str) -> io::Result<()> {
    if name.len() >= NAME {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    to[..name.len()].copy_from_slice(name.as_bytes());
    Ok(())
}

fn get(socket: &impl AsFd, ipv6: bool, option: libc::c_int, buffer: &mut [u8]) -> io::Result<()> {
    let level = if ipv6 { libc::SOL_IPV6 } else { libc::SOL_IP };
    let mut size = buffer.len() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes, the length of `buffer`, into it; both live across the call.
    let result = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), level, option, buffer.as_mut_ptr().cast(), &raw mut size)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
