//! The wire of nftables (nfnetlink, `linux/netfilter/nf_tables.h`): the one table `inet minirun`, written in transactions.
//!
//! Used by `apply.rs` (changes) and `hub.rs` (is the table there?); no other file knows the wire. What the table holds is
//! said in `table.rs`. The bytes are those that nft(8) sends, so that `nft list ruleset` prints the same text.

use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use nix::libc;
use nix::sys::socket::{MsgFlags, recv};

use super::rtnl::Refused;
use super::table::{CHAINS, Change, Hook, Match, TABLE, Table, Verdict};
use super::wire::{NESTED, attributes, explain_error, messages, text};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const FAMILY_INET: u8 = 1;

const NEW_TABLE: u16 = 0;
const GET_TABLE: u16 = 1;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;

const REGISTER_VERDICT: u32 = 0;
const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;

/// nft's own number for the data type "ifname"; the kernel only keeps it for listings.
const TYPE_IFNAME: u32 = 41;
const IFNAME_SIZE: usize = 16;

/// Applies all changes in one transaction: all of them, or none.
pub fn commit(changes: &[&Change]) -> Result<(), Refused> {
    let broken = |error: io::Error| Refused {
        request: 0,
        errno: error.raw_os_error().unwrap_or(libc::EIO),
        error: anyhow::Error::new(error).context("talk to nftables by netlink"),
    };
    let socket = Socket::new(NETLINK_NETFILTER).map_err(broken)?;
    let _ = socket.set_ext_ack(true);
    let mut bytes = Vec::with_capacity(2048);
    message(&mut bytes, BATCH_BEGIN, 0, SUBSYSTEM, 0, |_| {});
    for (index, change) in changes.iter().enumerate() {
        encode(&mut bytes, change, index as u32 + 1);
    }
    message(&mut bytes, BATCH_END, 0, SUBSYSTEM, changes.len() as u32 + 1, |_| {});
    socket.send(&bytes, 0).map_err(broken)?;
    // The kernel has handled the transaction when `send` returns, and all its answers are in the queue.
    let mut buffer = vec![0; 16 * 1024];
    let mut acknowledged = false;
    loop {
        let size = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(size) => size,
            Err(nix::Error::EINTR) => continue,
            Err(nix::Error::EAGAIN) if acknowledged => return Ok(()),
            Err(error) => return Err(broken(error.into())),
        };
        for answer in messages(&buffer[..size]) {
            if let Some((errno, words)) = answer.error() {
                let request = (answer.sequence as usize).saturating_sub(1);
                return Err(Refused { request, errno, error: explain_error(errno, words.as_deref()) });
            }
            acknowledged = true;
        }
    }
}

/// Asks for the table and the number of its rules: a flushed table is still a table. `None` where there is none (or no
/// nftables in this kernel, which is said when the table is to be made).
pub fn table() -> Result<Option<Table>> {
    const TABLE_USERDATA: u16 = 6;
    const CHAIN_USE: u16 = 6;
    let socket = Socket::new(NETLINK_NETFILTER).context("open nfnetlink socket")?;
    let mut bytes = Vec::with_capacity(256);
    message(&mut bytes, SUBSYSTEM << 8 | GET_TABLE, NLM_F_REQUEST, 0, 0, |body| string(body, 1, TABLE));
    for (at, chain) in CHAINS.iter().enumerate() {
        message(&mut bytes, SUBSYSTEM << 8 | GET_CHAIN, NLM_F_REQUEST, 0, at as u32 + 1, |body| {
            string(body, 1, TABLE);
            string(body, 3, chain);
        });
    }
    socket.send(&bytes, 0).context("ask nftables")?;
    let mut table = Table::default();
    let mut buffer = vec![0; 4096];
    for _ in 0..=CHAINS.len() {
        let size = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).context("ask nftables")?;
        let Some(answer) = messages(&buffer[..size]).next() else { return Ok(None) };
        let of_chain = (answer.sequence as usize).checked_sub(1).filter(|at| *at < CHAINS.len());
        match (answer.error(), of_chain) {
            (Some((libc::ENOENT, _)), Some(_)) => continue,
            (Some((libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL, _)), _) => return Ok(None),
            (Some((errno, words)), _) => return Err(explain_error(errno, words.as_deref()).context("ask nftables")),
            (None, _) => {}
        }
        let find = |kind: u16| {
            let all = attributes(answer.bytes.get(20..).unwrap_or_default());
            all.into_iter().find(|(found, _)| *found == kind).map(|(_, value)| value)
        };
        match of_chain {
            Some(at) => {
                let count = find(CHAIN_USE).and_then(|value| value.try_into().ok()).map(u32::from_be_bytes);
                table.rules[at] = count;
            }
            // User data is a list of (type, length, value); a comment is type 0.
            None => table.comment = find(TABLE_USERDATA).and_then(|data| data.get(2..)).map(text).unwrap_or_default(),
        }
    }
    Ok(Some(table))
}

fn encode(bytes: &mut Vec<u8>, change: &Change, sequence: u32) {
    let flags = NLM_F_REQUEST | NLM_F_ACK;
    let kind = |message: u16| SUBSYSTEM << 8 | message;
    match change {
        Change::AddTable { comment } => {
            message(bytes, kind(NEW_TABLE), flags | NLM_F_CREATE | NLM_F_EXCL, 0, sequence, |body| {
                string(body, 1, TABLE);
                let mut data = vec![0, comment.len() as u8 + 1];
                data.extend(comment.as_bytes());
                data.push(0);
                attribute(body, 6, &data);
            });
        }
        Change::DeleteTable => message(bytes, kind(DELETE_TABLE), flags, 0, sequence, |body| string(body, 1, TABLE)),
        Change::AddSet { name, pairs } => {
            let (key_type, key_length) =
                if *pairs { (TYPE_IFNAME << 6 | TYPE_IFNAME, 2 * IFNAME_SIZE) } else { (TYPE_IFNAME, IFNAME_SIZE) };
            message(bytes, kind(NEW_SET), flags | NLM_F_CREATE | NLM_F_EXCL, 0, sequence, |body| {
                string(body, 1, TABLE);
                string(body, 2, name);
                number(body, 3, 0);
                number(body, 4, key_type);
                number(body, 5, key_length as u32);
                // A number of our own for the set, unique in the transaction.
                number(body, 10, sequence);
                // The byte order of the key, by which nft(8) prints names as names: host order.
                attribute(body, 13, &[0, 4, 1, 0, 0, 0]);
            });
        }
        Change::AddElement { set, links } => {
            message(bytes, kind(NEW_ELEMENT), flags | NLM_F_CREATE, 0, sequence, |body| {
                string(body, 1, TABLE);
                string(body, 2, set);
                nest(body, 3, |list| {
                    nest(list, 1, |element| {
                        let key: Vec<u8> = links.iter().flat_map(|link| ifname(link)).collect();
                        nest(element, 1, |data| attribute(data, 1, &key));
                    });
                });
            });
        }
        Change::AddChain { name, hook } => {
            let (number_of_hook, priority, kind_of_chain) = match hook {
                Hook::Forward => (2u32, 0i32, "filter"),
                Hook::Postrouting => (4, 100, "nat"),
            };
            message(bytes, kind(NEW_CHAIN), flags | NLM_F_CREATE | NLM_F_EXCL, 0, sequence, |body| {
                string(body, 1, TABLE);
                string(body, 3, name);
                nest(body, 4, |hook| {
                    number(hook, 1, number_of_hook);
                    number(hook, 2, priority as u32);
                });
                number(body, 5, 1);
                string(body, 7, kind_of_chain);
            });
        }
        Change::AddRule { chain, matches, verdict } => {
            message(bytes, kind(NEW_RULE), flags | NLM_F_CREATE | NLM_F_APPEND, 0, sequence, |body| {
                string(body, 1, TABLE);
                string(body, 2, chain);
                nest(body, 4, |list| {
                    for condition in matches {
                        encode_match(list, condition);
                    }
                    encode_verdict(list, *verdict);
                });
            });
        }
    }
}

const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;

fn encode_match(list: &mut Vec<u8>, condition: &Match) {
    match condition {
        // Bit 1 is "established", bit 2 "related" (NF_CT_STATE_BIT).
        Match::EstablishedOrRelated => any_bit_of(list, CT_STATE, 0b110),
        // IPS_DST_NAT.
        Match::DestinationNatted => any_bit_of(list, CT_STATUS, 1 << 5),
        Match::InSet(set) => {
            meta(list, META_IIFNAME, REGISTER_1);
            lookup(list, set);
        }
        Match::OutSet(set) => {
            meta(list, META_OIFNAME, REGISTER_1);
            lookup(list, set);
        }
        Match::PairInSet(set) => {
            meta(list, META_IIFNAME, REGISTER_1);
            meta(list, META_OIFNAME, REGISTER_2);
            lookup(list, set);
        }
        Match::SourceIn(network) => {
            meta(list, META_NFPROTO, REGISTER_1);
            compare(list, true, &[libc::AF_INET as u8]);
            // Four bytes of the network header from byte 12: the source of an IPv4 packet.
            expression(list, "payload", |data| {
                number(data, 1, REGISTER_1);
                number(data, 2, 1);
                number(data, 3, 12);
                number(data, 4, 4);
            });
            mask(list, &network.netmask().octets());
            compare(list, true, &network.network().octets());
        }
        Match::OutNot(link) => {
            meta(list, META_OIFNAME, REGISTER_1);
            compare(list, false, &ifname(link));
        }
    }
}

fn encode_verdict(list: &mut Vec<u8>, verdict: Verdict) {
    const MASQUERADE_FULLY_RANDOM: u32 = 1 << 4;
    let code = match verdict {
        Verdict::Masquerade => return expression(list, "masq", |data| number(data, 1, MASQUERADE_FULLY_RANDOM)),
        Verdict::Drop => 0,
        Verdict::Accept => 1,
    };
    expression(list, "immediate", |data| {
        number(data, 1, REGISTER_VERDICT);
        nest(data, 2, |value| nest(value, 2, |verdict| number(verdict, 1, code)));
    });
}

fn meta(list: &mut Vec<u8>, key: u32, register: u32) {
    expression(list, "meta", |data| {
        number(data, 1, register);
        number(data, 2, key);
    });
}

fn lookup(list: &mut Vec<u8>, set: &str) {
    expression(list, "lookup", |data| {
        string(data, 1, set);
        number(data, 2, REGISTER_1);
    });
}

fn compare(list: &mut Vec<u8>, equal: bool, value: &[u8]) {
    expression(list, "cmp", |data| {
        number(data, 1, REGISTER_1);
        number(data, 2, u32::from(!equal));
        nest(data, 3, |wanted| attribute(wanted, 1, value));
    });
}

fn mask(list: &mut Vec<u8>, bits: &[u8]) {
    expression(list, "bitwise", |data| {
        number(data, 1, REGISTER_1);
        number(data, 2, REGISTER_1);
        number(data, 3, bits.len() as u32);
        nest(data, 4, |value| attribute(value, 1, bits));
        nest(data, 5, |value| attribute(value, 1, &vec![0; bits.len()]));
    });
}

/// Any of the bits of a property of the connection.
fn any_bit_of(list: &mut Vec<u8>, key: u32, bits: u32) {
    expression(list, "ct", |data| {
        number(data, 1, REGISTER_1);
        number(data, 2, key);
    });
    mask(list, &bits.to_ne_bytes());
    compare(list, false, &0u32.to_ne_bytes());
}

fn expression(list: &mut Vec<u8>, name: &str, data: impl FnOnce(&mut Vec<u8>)) {
    nest(list, 1, |element| {
        string(element, 1, name);
        nest(element, 2, data);
    });
}

/// A link name as the kernel keeps it in a register: 16 bytes, filled up with zeros.
fn ifname(name: &str) -> [u8; IFNAME_SIZE] {
    let mut bytes = [0; IFNAME_SIZE];
    let length = name.len().min(IFNAME_SIZE - 1);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

fn message(bytes: &mut Vec<u8>, kind: u16, flags: u16, resource: u16, sequence: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    let family = if kind == BATCH_BEGIN || kind == BATCH_END { 0 } else { FAMILY_INET };
    bytes.extend([0; 4]);
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    body(bytes);
    let length = (bytes.len() - start) as u32;
    bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    bytes.extend((value.len() as u16 + 4).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn string(bytes: &mut Vec<u8>, kind: u16, value: &str) {
    let mut value = value.as_bytes().to_vec();
    value.push(0);
    attribute(bytes, kind, &value);
}

/// Numbers of nftables are in network order.
fn number(bytes: &mut Vec<u8>, kind: u16, value: u32) {
    attribute(bytes, kind, &value.to_be_bytes());
}

fn nest(bytes: &mut Vec<u8>, kind: u16, inner: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend([0; 2]);
    bytes.extend((kind | NESTED).to_ne_bytes());
    inner(bytes);
    let length = (bytes.len() - start) as u16;
    bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
}
