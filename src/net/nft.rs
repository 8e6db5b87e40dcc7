//! The wire of nftables (nfnetlink, `linux/netfilter/nf_tables.h`): the one table `inet minirun`, written in transactions.
//!
//! Used by `apply.rs` (changes) and `hub.rs` (is the table there?); no other file knows the wire. What the table holds is
//! said in `table.rs`. The bytes are those that nft(8) sends, so that `nft list ruleset` prints the same text.

use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use nix::libc;
use nix::sys::socket::{MsgFlags, recv};

use super::rtnl::Refused;
use super::table::{
    CHAINS, COMMENT, Change, Element, Field, Hook, Match, Set, TABLE, Table, Value, Verdict, What,
};
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
const GET_ELEMENT: u16 = 13;
const DELETE_ELEMENT: u16 = 14;

const REGISTER_VERDICT: u32 = 0;
/// The first of the registers of four bytes (`NFT_REG32_00`).
const REGISTER: u32 = 8;

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

/// Asks for the table, the number of its rules (a flushed table is still a table), and which of these elements it has.
/// `None` where there is no table (or no nftables in this kernel, which is said when the table is to be made).
pub fn table(elements: &[Element]) -> Result<Option<(Table, Vec<bool>)>> {
    const TABLE_USERDATA: u16 = 6;
    const CHAIN_USE: u16 = 6;
    let socket = Socket::new(NETLINK_NETFILTER).context("open nfnetlink socket")?;
    let mut bytes = Vec::with_capacity(512);
    message(&mut bytes, SUBSYSTEM << 8 | GET_TABLE, NLM_F_REQUEST, 0, 0, |body| string(body, 1, TABLE));
    for (at, chain) in CHAINS.iter().enumerate() {
        message(&mut bytes, SUBSYSTEM << 8 | GET_CHAIN, NLM_F_REQUEST, 0, at as u32 + 1, |body| {
            string(body, 1, TABLE);
            string(body, 3, chain);
        });
    }
    for (at, element) in elements.iter().enumerate() {
        let sequence = (CHAINS.len() + at) as u32 + 1;
        message(&mut bytes, SUBSYSTEM << 8 | GET_ELEMENT, NLM_F_REQUEST, 0, sequence, |body| {
            encode_element(body, element, false);
        });
    }
    socket.send(&bytes, 0).context("ask nftables")?;
    let mut table = Table::default();
    let mut there = vec![false; elements.len()];
    let mut buffer = vec![0; 4096];
    for _ in 0..=CHAINS.len() + elements.len() {
        let size = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).context("ask nftables")?;
        let Some(answer) = messages(&buffer[..size]).next() else { return Ok(None) };
        let part = (answer.sequence as usize).checked_sub(1);
        match (answer.error(), part) {
            (Some((libc::ENOENT, _)), Some(_)) => continue,
            (Some((libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL, _)), _) => return Ok(None),
            (Some((errno, words)), _) => return Err(explain_error(errno, words.as_deref()).context("ask nftables")),
            (None, _) => {}
        }
        let find = |kind: u16| {
            let mut all = attributes(answer.bytes.get(20..).unwrap_or_default());
            all.find(|(found, _)| *found == kind).map(|(_, value)| value)
        };
        match part {
            Some(at) if at < CHAINS.len() => {
                let count = find(CHAIN_USE).and_then(|value| value.try_into().ok()).map(u32::from_be_bytes);
                table.rules[at] = count;
            }
            Some(at) => there.iter_mut().skip(at - CHAINS.len()).take(1).for_each(|there| *there = true),
            // User data is a list of (type, length, value); a comment is type 0.
            None => table.comment = find(TABLE_USERDATA).and_then(|data| data.get(2..)).map(text).unwrap_or_default(),
        }
    }
    Ok(Some((table, there)))
}

fn encode(bytes: &mut Vec<u8>, change: &Change, sequence: u32) {
    let flags = NLM_F_REQUEST | NLM_F_ACK;
    let kind = |message: u16| SUBSYSTEM << 8 | message;
    match change {
        Change::AddTable => {
            message(bytes, kind(NEW_TABLE), flags | NLM_F_CREATE | NLM_F_EXCL, 0, sequence, |body| {
                string(body, 1, TABLE);
                attribute(body, 6, &user_data(COMMENT));
            });
        }
        Change::DeleteTable => message(bytes, kind(DELETE_TABLE), flags, 0, sequence, |body| string(body, 1, TABLE)),
        Change::AddSet(set) => {
            message(bytes, kind(NEW_SET), flags | NLM_F_CREATE | NLM_F_EXCL, 0, sequence, |body| {
                encode_set(body, set, sequence);
            });
        }
        Change::AddElement(element) => {
            // What leads somewhere must not lead elsewhere already.
            let alone = if element.value.is_empty() { 0 } else { NLM_F_EXCL };
            message(bytes, kind(NEW_ELEMENT), flags | NLM_F_CREATE | alone, 0, sequence, |body| {
                encode_element(body, element, true);
            });
        }
        Change::DeleteElement(element) => {
            message(bytes, kind(DELETE_ELEMENT), flags, 0, sequence, |body| encode_element(body, element, false));
        }
        Change::AddChain { name, hook } => {
            let hook = hook.map(|hook| match hook {
                Hook::Prerouting => (0u32, -100i32, "nat"),
                Hook::Input => (1, 0, "filter"),
                Hook::Forward => (2, 0, "filter"),
                Hook::Output => (3, -100, "nat"),
                Hook::Postrouting => (4, 100, "nat"),
            });
            message(bytes, kind(NEW_CHAIN), flags | NLM_F_CREATE | NLM_F_EXCL, 0, sequence, |body| {
                string(body, 1, TABLE);
                string(body, 3, name);
                let Some((number_of_hook, priority, kind_of_chain)) = hook else { return };
                nest(body, 4, |hook| {
                    number(hook, 1, number_of_hook);
                    number(hook, 2, priority as u32);
                });
                number(body, 5, 1);
                string(body, 7, kind_of_chain);
            });
        }
        Change::AddRule { chain, matches, verdict } => {
            if matches.contains(&Match::HasPorts) {
                add_protocols(bytes, sequence);
            }
            message(bytes, kind(NEW_RULE), flags | NLM_F_CREATE | NLM_F_APPEND, 0, sequence, |body| {
                string(body, 1, TABLE);
                string(body, 2, chain);
                nest(body, 4, |list| {
                    for condition in matches {
                        encode_match(list, condition, sequence);
                    }
                    encode_verdict(list, *verdict);
                });
            });
        }
    }
}

/// nft's own numbers for data types; the kernel only keeps them for listings.
fn data_type(fields: &[Field]) -> u32 {
    let number = |field: &Field| match field {
        Field::Link => 41,
        Field::Ipv4 => 7,
        Field::Ipv6 => 8,
        Field::Protocol => 12,
        Field::Port => 13,
    };
    fields.iter().fold(0, |all, field| all << 6 | number(field))
}

fn size(field: Field) -> usize {
    match field {
        Field::Link => IFNAME_SIZE,
        Field::Ipv4 => 4,
        Field::Ipv6 => 16,
        Field::Protocol => 1,
        Field::Port => 2,
    }
}

/// Of a key or value; each part of several begins in a register of its own.
fn size_of_all(fields: &[Field]) -> u32 {
    match fields {
        [one] => size(*one) as u32,
        several => several.iter().map(|field| size(*field).next_multiple_of(4) as u32).sum(),
    }
}

/// The name of a set that is a part of one rule; the kernel puts a number into it.
const UNNAMED: &str = "__set%d";

/// The set of the protocols that have ports, to be a part of the rule that follows. Its number is the rule's `sequence`.
fn add_protocols(bytes: &mut Vec<u8>, sequence: u32) {
    const ANONYMOUS: u32 = 1;
    const CONSTANT: u32 = 2;
    let kind = |message: u16| SUBSYSTEM << 8 | message;
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
    message(bytes, kind(NEW_SET), flags | NLM_F_EXCL, 0, sequence, |body| {
        string(body, 1, TABLE);
        string(body, 2, UNNAMED);
        number(body, 3, ANONYMOUS | CONSTANT);
        number(body, 4, data_type(&[Field::Protocol]));
        number(body, 5, size_of_all(&[Field::Protocol]));
        number(body, 10, sequence);
    });
    message(bytes, kind(NEW_ELEMENT), flags, 0, sequence, |body| {
        string(body, 1, TABLE);
        string(body, 2, UNNAMED);
        number(body, 4, sequence);
        nest(body, 3, |list| {
            for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_UDP, libc::IPPROTO_SCTP] {
                nest(list, 1, |data| nest(data, 1, |key| attribute(key, 1, &[protocol as u8])));
            }
        });
    });
}

fn encode_set(body: &mut Vec<u8>, set: &Set, id: u32) {
    const INTERVAL: u32 = 4;
    const MAP: u32 = 8;
    const CONCATENATION: u32 = 0x80;
    let ranges = if set.intervals { INTERVAL | CONCATENATION } else { 0 };
    let map = if set.value.is_empty() { 0 } else { MAP };
    string(body, 1, TABLE);
    string(body, 2, set.name);
    number(body, 3, ranges | map);
    number(body, 4, data_type(set.key));
    number(body, 5, size_of_all(set.key));
    if !set.value.is_empty() {
        number(body, 6, data_type(set.value));
        number(body, 7, size_of_all(set.value));
    }
    if set.intervals {
        nest(body, 9, |description| {
            nest(description, 2, |fields| {
                for field in set.key {
                    nest(fields, 1, |length| number(length, 1, size(*field) as u32));
                }
            });
        });
    }
    // A number of our own for the set, unique in the transaction.
    number(body, 10, id);
    // The byte order of a key that is names, by which nft(8) prints them as names: host order.
    if set.key[0] == Field::Link {
        attribute(body, 13, &[0, 4, 1, 0, 0, 0]);
    }
}

fn encode_element(body: &mut Vec<u8>, element: &Element, whole: bool) {
    string(body, 1, TABLE);
    string(body, 2, element.set.name);
    nest(body, 3, |list| {
        nest(list, 1, |data| {
            nest(data, 1, |key| attribute(key, 1, &bytes_of(&element.key)));
            if element.set.intervals {
                let end = if element.end.is_empty() { &element.key } else { &element.end };
                nest(data, 10, |key| attribute(key, 1, &bytes_of(end)));
            }
            if whole && !element.value.is_empty() {
                nest(data, 2, |value| attribute(value, 1, &bytes_of(&element.value)));
            }
            if whole && !element.comment.is_empty() {
                attribute(data, 6, &user_data(&element.comment));
            }
        });
    });
}

fn bytes_of(values: &[Value]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for value in values {
        match value {
            Value::Link(name) => bytes.extend(ifname(name)),
            Value::Ipv4(address) => bytes.extend(address.octets()),
            Value::Ipv6(address) => bytes.extend(address.octets()),
            Value::Protocol(number) => bytes.push(*number),
            Value::Port(number) => bytes.extend(number.to_be_bytes()),
        }
        if values.len() > 1 {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
    }
    bytes
}

/// A comment as nft(8) keeps it: a list of (type, length, value), of which type 0 is the comment.
fn user_data(comment: &str) -> Vec<u8> {
    let mut data = vec![0, comment.len() as u8 + 1];
    data.extend(comment.as_bytes());
    data.push(0);
    data
}

const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

fn encode_match(list: &mut Vec<u8>, condition: &Match, sequence: u32) {
    match condition {
        // Bit 1 is "established", bit 2 "related" (NF_CT_STATE_BIT).
        Match::EstablishedOrRelated => any_bit_of(list, CT_STATE, 0b110),
        // IPS_DST_NAT.
        Match::DestinationNatted => any_bit_of(list, CT_STATUS, 1 << 5),
        Match::In(what, set) => {
            load(list, what);
            lookup(list, set, false, None);
        }
        Match::NotIn(what, set) => {
            load(list, what);
            lookup(list, set, true, None);
        }
        Match::ToHost => {
            const ADDRESS_TYPE: u32 = 3;
            const DESTINATION: u32 = 2;
            expression(list, "fib", |data| {
                number(data, 1, REGISTER);
                number(data, 2, ADDRESS_TYPE);
                number(data, 3, DESTINATION);
            });
            compare(list, true, &u32::from(libc::RTN_LOCAL).to_ne_bytes());
        }
        Match::HasPorts => {
            meta(list, META_L4PROTO, REGISTER);
            expression(list, "lookup", |data| {
                string(data, 1, UNNAMED);
                number(data, 2, REGISTER);
                number(data, 4, sequence);
            });
        }
        Match::Source(network) => in_network(list, *network, 12, 8),
        Match::Destination(network) => in_network(list, *network, 16, 24),
    }
}

/// Whether the address at that place of the IPv4 or the IPv6 header is in `network`.
fn in_network(list: &mut Vec<u8>, network: IpNet, place4: u32, place6: u32) {
    match network {
        IpNet::V4(network) => {
            family(list, libc::AF_INET);
            payload(list, REGISTER, NETWORK_HEADER, place4, 4);
            if network.prefix_len() < 32 {
                mask(list, &network.netmask().octets());
            }
            compare(list, true, &network.network().octets());
        }
        IpNet::V6(network) => {
            family(list, libc::AF_INET6);
            payload(list, REGISTER, NETWORK_HEADER, place6, 16);
            if network.prefix_len() < 128 {
                mask(list, &network.netmask().octets());
            }
            compare(list, true, &network.network().octets());
        }
    }
}

fn family(list: &mut Vec<u8>, family: i32) {
    meta(list, META_NFPROTO, REGISTER);
    compare(list, true, &[family as u8]);
}

/// Loads these properties side by side, from the first register on.
fn load(list: &mut Vec<u8>, what: &[What]) {
    if what.contains(&What::Destination4) {
        family(list, libc::AF_INET);
    }
    if what.contains(&What::Destination6) {
        family(list, libc::AF_INET6);
    }
    let mut register = REGISTER;
    for what in what {
        let registers = match what {
            What::InLink => {
                meta(list, META_IIFNAME, register);
                4
            }
            What::OutLink => {
                meta(list, META_OIFNAME, register);
                4
            }
            What::Destination4 => {
                payload(list, register, NETWORK_HEADER, 16, 4);
                1
            }
            What::Destination6 => {
                payload(list, register, NETWORK_HEADER, 24, 16);
                4
            }
            What::Protocol => {
                meta(list, META_L4PROTO, register);
                1
            }
            What::DestinationPort => {
                payload(list, register, TRANSPORT_HEADER, 2, 2);
                1
            }
        };
        register += registers;
    }
}

fn encode_verdict(list: &mut Vec<u8>, verdict: Verdict) {
    const MASQUERADE_FULLY_RANDOM: u32 = 1 << 4;
    const JUMP: i32 = -3;
    let code = match verdict {
        Verdict::Jump(chain) => {
            return expression(list, "immediate", |data| {
                number(data, 1, REGISTER_VERDICT);
                nest(data, 2, |value| {
                    nest(value, 2, |verdict| {
                        number(verdict, 1, JUMP as u32);
                        string(verdict, 2, chain);
                    });
                });
            });
        }
        Verdict::Masquerade => return expression(list, "masq", |data| number(data, 1, MASQUERADE_FULLY_RANDOM)),
        Verdict::Redirect(what, map) => return redirect(list, what, map),
        Verdict::Drop => 0,
        Verdict::Accept => 1,
    };
    expression(list, "immediate", |data| {
        number(data, 1, REGISTER_VERDICT);
        nest(data, 2, |value| nest(value, 2, |verdict| number(verdict, 1, code)));
    });
}

fn redirect(list: &mut Vec<u8>, what: &[What], map: &Set) {
    const DESTINATION: u32 = 1;
    load(list, what);
    lookup(list, map, false, Some(REGISTER));
    let (family, registers) = if map.value[0] == Field::Ipv4 { (libc::AF_INET, 1) } else { (libc::AF_INET6, 4) };
    expression(list, "nat", |data| {
        number(data, 1, DESTINATION);
        number(data, 2, family as u32);
        number(data, 3, REGISTER);
        if map.value.len() > 1 {
            number(data, 5, REGISTER + registers);
        }
    });
}

fn meta(list: &mut Vec<u8>, key: u32, register: u32) {
    expression(list, "meta", |data| {
        number(data, 1, register);
        number(data, 2, key);
    });
}

/// Bytes of a header of the packet.
fn payload(list: &mut Vec<u8>, register: u32, header: u32, offset: u32, length: u32) {
    expression(list, "payload", |data| {
        number(data, 1, register);
        number(data, 2, header);
        number(data, 3, offset);
        number(data, 4, length);
    });
}

fn lookup(list: &mut Vec<u8>, set: &Set, not: bool, into: Option<u32>) {
    expression(list, "lookup", |data| {
        string(data, 1, set.name);
        number(data, 2, REGISTER);
        if let Some(register) = into {
            number(data, 3, register);
        }
        if not {
            number(data, 5, 1);
        }
    });
}

fn compare(list: &mut Vec<u8>, equal: bool, value: &[u8]) {
    expression(list, "cmp", |data| {
        number(data, 1, REGISTER);
        number(data, 2, u32::from(!equal));
        nest(data, 3, |wanted| attribute(wanted, 1, value));
    });
}

fn mask(list: &mut Vec<u8>, bits: &[u8]) {
    expression(list, "bitwise", |data| {
        number(data, 1, REGISTER);
        number(data, 2, REGISTER);
        number(data, 3, bits.len() as u32);
        nest(data, 4, |value| attribute(value, 1, bits));
        nest(data, 5, |value| attribute(value, 1, &vec![0; bits.len()]));
    });
}

/// Any of the bits of a property of the connection.
fn any_bit_of(list: &mut Vec<u8>, key: u32, bits: u32) {
    expression(list, "ct", |data| {
        number(data, 1, REGISTER);
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
