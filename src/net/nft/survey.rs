//! What of nftables `minirun graph` draws: which ports lead where, which bridges are masqueraded, and who else changes the
//! source of packets. Read from the kernel; nothing is changed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use netlink_packet_core::{NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR};
use netlink_sys::Socket;
use nix::libc;
use nix::sys::socket::{MsgFlags, recv};

use super::message::{GET_ELEMENT, SUBSYSTEM, message, string};
use crate::net::table::{PORTS4, PORTS6, RANGES4, RANGES6, Set, TABLE};
use crate::net::wire::{attributes, messages, text};

const GET_RULE: u16 = 7;

/// A published port, or a range, as its element says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Redirected {
    /// The first address of the host, and the last.
    pub addresses: (IpAddr, IpAddr),
    /// The number of its protocol.
    pub protocol: u8,
    /// The first port of the host, and the last.
    pub ports: (u16, u16),
    /// The container's address.
    pub target: IpAddr,
    /// The container's port, where it is another one.
    pub port: Option<u16>,
}

/// A rule that changes the source of packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masquerade {
    /// `NFPROTO_*`.
    pub family: u8,
    /// The table.
    pub table: String,
    /// The chain.
    pub chain: String,
}

/// The published ports. None where there is no table.
pub fn published() -> Result<Vec<Redirected>> {
    let mut all = Vec::new();
    for (set, six) in [(&PORTS4, false), (&RANGES4, false), (&PORTS6, true), (&RANGES6, true)] {
        elements(set, |element| all.extend(redirected(element, six)))?;
    }
    Ok(all)
}

/// The names of the links in a set of links.
pub fn links_in(set: &Set) -> Result<Vec<String>> {
    let mut names = Vec::new();
    elements(set, |element| names.extend(value_of(element, 1).map(text)))?;
    Ok(names)
}

/// All rules of all tables that masquerade, or put another source in.
pub fn masquerades() -> Result<Vec<Masquerade>> {
    let mut all = Vec::new();
    dump(GET_RULE, 0, |_| {}, |family, body| all.extend(masquerade(family, body)))?;
    Ok(all)
}

/// Calls `each` with the elements of a set of minirun's table.
fn elements(set: &Set, mut each: impl FnMut(&[u8])) -> Result<()> {
    const ELEMENTS: u16 = 3;
    let question = |body: &mut Vec<u8>| {
        string(body, 1, TABLE);
        string(body, 2, set.name);
    };
    dump(GET_ELEMENT, super::message::FAMILY_INET, question, |_, body| {
        for (_, list) in attributes(body).filter(|(kind, _)| *kind == ELEMENTS) {
            attributes(list).for_each(|(_, element)| each(element));
        }
    })
}

/// Asks for a list, and calls `each` with the family and the attributes of each answer. Where there is no such table, or
/// no nftables, the list is empty.
fn dump(kind: u16, family: u8, body: impl FnOnce(&mut Vec<u8>), mut each: impl FnMut(u8, &[u8])) -> Result<()> {
    let socket: Socket = super::open().context("open nfnetlink socket")?;
    let mut bytes = Vec::with_capacity(128);
    message(&mut bytes, SUBSYSTEM << 8 | kind, NLM_F_DUMP, 0, 1, body);
    bytes[16] = family;
    socket.send(&bytes, 0).context("ask nftables")?;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let size = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(nix::Error::EINTR) => continue,
            size => size.context("ask nftables")?,
        };
        for answer in messages(&buffer[..size]) {
            match (answer.kind, answer.error()) {
                (NLMSG_DONE, _) => return Ok(()),
                (NLMSG_ERROR, Some((libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL, _))) => return Ok(()),
                (NLMSG_ERROR, Some((errno, _))) => {
                    return Err(std::io::Error::from_raw_os_error(errno)).context("ask nftables");
                }
                _ => {
                    let family = answer.bytes.get(16).copied().unwrap_or_default();
                    each(family, answer.bytes.get(20..).unwrap_or_default());
                }
            }
        }
    }
}

/// The value of a key (1), the data (2) or the last key of a range (10) of an element.
fn value_of(element: &[u8], kind: u16) -> Option<&[u8]> {
    const VALUE: u16 = 1;
    let (_, data) = attributes(element).find(|(found, _)| *found == kind)?;
    attributes(data).find(|(found, _)| *found == VALUE).map(|(_, value)| value)
}

/// Cuts an address and the fields of four bytes behind it.
fn address(value: &[u8], six: bool) -> Option<(IpAddr, &[u8])> {
    if six {
        let (address, rest) = value.split_first_chunk::<16>()?;
        Some((Ipv6Addr::from(*address).into(), rest))
    } else {
        let (address, rest) = value.split_first_chunk::<4>()?;
        Some((Ipv4Addr::from(*address).into(), rest))
    }
}

fn port(rest: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]))
}

fn redirected(element: &[u8], six: bool) -> Option<Redirected> {
    let key = value_of(element, 1)?;
    // A part of a key fills four bytes: the port, the protocol, the address.
    let end = value_of(element, 10).unwrap_or(key);
    let (first, _) = address(key.get(8..)?, six)?;
    let (last, _) = address(end.get(8..)?, six)?;
    let (target, to) = address(value_of(element, 2)?, six)?;
    Some(Redirected {
        addresses: (first, last),
        protocol: *key.get(4)?,
        ports: (port(key)?, port(end)?),
        target,
        port: port(to),
    })
}

/// The table and chain of a rule that changes a packet's source: by `masq`, by `nat` of the source's kind, or by a target
/// of iptables.
fn masquerade(family: u8, rule: &[u8]) -> Option<Masquerade> {
    const RULE_TABLE: u16 = 1;
    const RULE_CHAIN: u16 = 2;
    const RULE_EXPRESSIONS: u16 = 4;
    let find = |kind: u16| attributes(rule).find(|(found, _)| *found == kind).map(|(_, value)| value);
    let changes = |expression: &[u8]| {
        let part = |kind: u16| attributes(expression).find(|(found, _)| *found == kind).map(|(_, value)| value);
        let data = |kind: u16| part(2).and_then(|data| attributes(data).find(|(found, _)| *found == kind));
        match part(1).map(text).as_deref() {
            Some("masq") => true,
            // NFTA_NAT_TYPE, of which 0 is the source.
            Some("nat") => data(1).is_some_and(|(_, value)| value == [0; 4]),
            Some("target") => data(1).is_some_and(|(_, name)| matches!(&*text(name), "MASQUERADE" | "SNAT")),
            _ => false,
        }
    };
    attributes(find(RULE_EXPRESSIONS)?).any(|(_, expression)| changes(expression)).then(|| Masquerade {
        family,
        table: find(RULE_TABLE).map(text).unwrap_or_default(),
        chain: find(RULE_CHAIN).map(text).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reading_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (redirected(&bytes, false), redirected(&bytes, true), masquerade(1, &bytes));
        }
    }
}
