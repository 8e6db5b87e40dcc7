//! A change to the table as messages: tables, sets, elements, chains and rules.

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};
use nix::libc;

use super::super::table::{ANCHOR, COMMENT, Change, Element, Field, Hook, Match, Set, TABLE, Value, Verdict};
use super::expression::{UNNAMED, encode_match, encode_verdict};
use super::message::{
    DELETE_ELEMENT, DELETE_TABLE, NEW_CHAIN, NEW_ELEMENT, NEW_RULE, NEW_SET, NEW_TABLE, SUBSYSTEM, attribute, message,
    nest, number, string,
};

/// Of a link's name in a register.
const IFNAME_SIZE: usize = 16;

/// Writes a change; `sequence` is its number in the transaction.
pub fn encode(bytes: &mut Vec<u8>, change: &Change, sequence: u32, acknowledge: bool) {
    let flags = NLM_F_REQUEST | if acknowledge { NLM_F_ACK } else { 0 };
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
            let is_loopback = *hook == Some(Hook::Loopback);
            let hook = hook.map(|hook| match hook {
                Hook::Prerouting => (0u32, -100i32, "nat"),
                Hook::Input => (1, 0, "filter"),
                Hook::Forward => (2, 0, "filter"),
                Hook::Output => (3, -100, "nat"),
                Hook::Sent => (3, 0, "filter"),
                Hook::Loopback => (5, 0, "filter"),
                Hook::Postrouting => (4, 100, "nat"),
            });
            message(bytes, kind(NEW_CHAIN), flags | NLM_F_CREATE | NLM_F_EXCL, 0, sequence, |body| {
                string(body, 1, TABLE);
                string(body, 3, name);
                let Some((number_of_hook, priority, kind_of_chain)) = hook else { return };
                nest(body, 4, |hook| {
                    number(hook, 1, number_of_hook);
                    number(hook, 2, priority as u32);
                    if is_loopback {
                        string(hook, 3, "lo");
                    }
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

/// Writes a table that its socket owns, with a chain of NAT in which nothing is decided, as messages 1 to 3.
pub fn encode_anchor(bytes: &mut Vec<u8>) {
    /// `NFT_TABLE_F_OWNER`.
    const OWNER: u32 = 2;
    const CHAIN: &str = "kept";
    let kind = |message: u16| SUBSYSTEM << 8 | message;
    let flags = NLM_F_REQUEST | NLM_F_CREATE;
    message(bytes, kind(NEW_TABLE), flags | NLM_F_EXCL, 0, 1, |body| {
        string(body, 1, ANCHOR);
        number(body, 2, OWNER);
        attribute(body, 6, &user_data("keeps connections translated while rules are flushed"));
    });
    message(bytes, kind(NEW_CHAIN), flags | NLM_F_EXCL, 0, 2, |body| {
        string(body, 1, ANCHOR);
        string(body, 3, CHAIN);
        nest(body, 4, |hook| {
            number(hook, 1, 4);
            // After everybody else.
            number(hook, 2, 200);
        });
        number(body, 5, 1);
        string(body, 7, "nat");
    });
    // The kernel follows connections only as long as some rule asks for it.
    message(bytes, kind(NEW_RULE), flags | NLM_F_APPEND | NLM_F_ACK, 0, 3, |body| {
        string(body, 1, ANCHOR);
        string(body, 2, CHAIN);
        nest(body, 4, |list| {
            encode_match(list, &Match::EstablishedOrRelated, 3);
            encode_verdict(list, Verdict::Accept);
        });
    });
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

/// The set of the protocols that have ports, to be a part of the rule that follows. Its number is the rule's `sequence`.
fn add_protocols(bytes: &mut Vec<u8>, sequence: u32) {
    const ANONYMOUS: u32 = 1;
    const CONSTANT: u32 = 2;
    let kind = |message: u16| SUBSYSTEM << 8 | message;
    let flags = NLM_F_REQUEST | NLM_F_CREATE;
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

pub fn encode_element(body: &mut Vec<u8>, element: &Element, whole: bool) {
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

/// A link name as the kernel keeps it in a register: 16 bytes, filled up with zeros.
pub fn ifname(name: &str) -> [u8; IFNAME_SIZE] {
    let mut bytes = [0; IFNAME_SIZE];
    let length = name.len().min(IFNAME_SIZE - 1);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}
