//! A rule of nftables, asked about one packet: the kernel's little machine with its registers (`net/netfilter/nf_tables_core.c`),
//! where a byte may be unknown.

use std::collections::HashMap;

use super::packet::Packet;
use super::ruleset::{Action, Truth};
use super::xtables;
use crate::net::nft::list::{RawElement, number};
use crate::net::wire::{attributes, text};

/// `NFT_FIB_RESULT_ADDRTYPE`.
const ADDRESS_TYPE: u32 = 3;

/// The expressions of a rule: the name of each and its attributes.
pub type Expressions = Vec<(String, Vec<u8>)>;
/// The elements of sets.
pub type Sets = HashMap<String, Vec<RawElement>>;

/// The verdict has register 0; there are sixteen more of four bytes, of which older rules take four at a time.
#[derive(Debug)]
struct Registers([Option<u8>; 64]);

impl Registers {
    /// Where a register begins.
    fn place(register: u32) -> Option<usize> {
        match register {
            1..=4 => Some((register as usize - 1) * 16),
            8..=23 => Some((register as usize - 8) * 4),
            _ => None,
        }
    }

    fn store(&mut self, register: Option<u32>, bytes: &[Option<u8>]) {
        let Some(at) = register.and_then(Self::place) else { return };
        for (to, from) in self.0[at..].iter_mut().zip(bytes) {
            *to = *from;
        }
    }

    fn forget(&mut self, register: Option<u32>) {
        self.store(register, &[None; 16]);
    }

    fn load(&self, register: Option<u32>, length: usize) -> Option<Vec<u8>> {
        let at = register.and_then(Self::place)?;
        self.0.get(at..at + length)?.iter().copied().collect()
    }
}

/// The names of the sets that a rule looks into.
pub fn sets_of(expressions: &Expressions) -> impl Iterator<Item = String> {
    let lookups = expressions.iter().filter(|(name, _)| name == "lookup");
    lookups.filter_map(|(_, data)| find(data, 1).map(text))
}

/// Whether the rule is about the packet, and what it does then.
pub fn judge(expressions: &Expressions, packet: &Packet, sets: &Sets) -> (Truth, Action) {
    let mut registers = Registers([None; 64]);
    let mut truth = Truth::Yes;
    for (name, data) in expressions {
        let part = |kind: u16| find(data, kind).and_then(number);
        let holds = match name.as_str() {
            "counter" | "log" | "notrack" | "last" | "dynset" => Truth::Yes,
            "meta" => {
                registers.store(part(1), &meta(part(2).unwrap_or(u32::MAX), packet));
                Truth::Yes
            }
            "ct" => {
                let bytes = match part(2) {
                    Some(0) => known(&packet.state().to_ne_bytes()),
                    Some(2) => known(&packet.status().to_ne_bytes()),
                    Some(3) => known(&[0; 4]),
                    _ => vec![None; 16],
                };
                registers.store(part(1), &bytes);
                Truth::Yes
            }
            "payload" => {
                payload(data, packet, &mut registers);
                Truth::Yes
            }
            "bitwise" => {
                bitwise(data, &mut registers);
                Truth::Yes
            }
            "cmp" => compare(data, &registers),
            "lookup" => match look_up(data, &registers, sets) {
                Ok((found, action)) => {
                    if let (Truth::Yes, Some(action)) = (found, action) {
                        return (truth, action);
                    }
                    found
                }
                Err(()) => Truth::Unknown,
            },
            "immediate" => match find(data, 2).and_then(verdict) {
                Some(action) => return (truth, action),
                None => {
                    registers.forget(part(1));
                    Truth::Yes
                }
            },
            "reject" => return (truth, Action::Drop),
            "match" => xtables::matches(
                &find(data, 1).map(text).unwrap_or_default(),
                part(2).unwrap_or_default(),
                find(data, 3).unwrap_or_default(),
                packet,
            ),
            "target" => return (truth, xtables::target(&find(data, 1).map(text).unwrap_or_default())),
            "fib" if part(2) == Some(ADDRESS_TYPE) => {
                let local = if part(3).unwrap_or(0) & 1 != 0 { packet.local.0 } else { packet.local.1 };
                registers.store(part(1), &known(&xtables::kind_of(local).to_ne_bytes()));
                Truth::Yes
            }
            // What it puts where is not known; what does not compare is no condition.
            "fib" | "rt" | "socket" | "exthdr" | "numgen" | "hash" | "osf" | "tunnel" | "xfrm" | "byteorder" => {
                registers = Registers([None; 64]);
                Truth::Yes
            }
            _ => Truth::Unknown,
        };
        truth = truth.and(holds);
        if truth == Truth::No {
            break;
        }
    }
    (truth, Action::GoOn)
}

fn find(data: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(data).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

fn known(bytes: &[u8]) -> Vec<Option<u8>> {
    bytes.iter().copied().map(Some).collect()
}

/// What is known of the packet beside its bytes; what is loaded is filled up with zeros.
fn meta(key: u32, packet: &Packet) -> Vec<Option<u8>> {
    let link = |name: &str| {
        let mut bytes = name.as_bytes().to_vec();
        bytes.resize(16, 0);
        bytes
    };
    known(&match key {
        // The protocol of the link, in network order.
        1 if packet.is_ipv4() => vec![0x08, 0x00, 0, 0],
        1 => vec![0x86, 0xdd, 0, 0],
        3 => vec![0; 4],
        4 => Packet::index(packet.input.as_ref()).to_ne_bytes().to_vec(),
        5 => Packet::index(packet.output.as_ref()).to_ne_bytes().to_vec(),
        6 => link(Packet::name(packet.input.as_ref())),
        7 => link(Packet::name(packet.output.as_ref())),
        15 => vec![if packet.is_ipv4() { 2 } else { 10 }, 0, 0, 0],
        16 => vec![packet.protocol(), 0, 0, 0],
        _ => return vec![None; 16],
    })
}

fn payload(data: &[u8], packet: &Packet, registers: &mut Registers) {
    let part = |kind: u16| find(data, kind).and_then(number);
    // One that writes to the packet has no register to write to.
    let Some(register) = part(1) else { return };
    let header = match part(2) {
        Some(1) => packet.network_header(),
        Some(2) => packet.transport_header(),
        _ => vec![],
    };
    let (offset, length) = (part(3).unwrap_or(0) as usize, part(4).unwrap_or(0).min(16) as usize);
    let bytes: Vec<Option<u8>> = (offset..offset + length).map(|at| header.get(at).copied().flatten()).collect();
    registers.store(Some(register), &bytes);
}

fn bitwise(data: &[u8], registers: &mut Registers) {
    let part = |kind: u16| find(data, kind).and_then(number);
    let value = |kind: u16| find(data, kind).and_then(|nest| find(nest, 1));
    let length = part(3).unwrap_or(0) as usize;
    let (Some(mask), Some(xor), Some(0)) = (value(4), value(5), part(6).or(Some(0))) else {
        return registers.forget(part(2));
    };
    let Some(at) = part(1).and_then(Registers::place) else { return };
    let from: Vec<Option<u8>> = registers.0.iter().skip(at).take(length).copied().collect();
    // A bit that the mask clears is known whatever it was.
    let one = |((byte, mask), xor): ((&Option<u8>, &u8), &u8)| match byte {
        Some(byte) => Some((byte & mask) ^ xor),
        None => (*mask == 0).then_some(*xor),
    };
    let bytes: Vec<Option<u8>> = from.iter().zip(mask).zip(xor).map(one).collect();
    registers.store(part(2), &bytes);
}

fn compare(data: &[u8], registers: &Registers) -> Truth {
    let part = |kind: u16| find(data, kind).and_then(number);
    let Some(value) = find(data, 3).and_then(|nest| find(nest, 1)) else { return Truth::Unknown };
    let Some(own) = registers.load(part(1), value.len()) else { return Truth::Unknown };
    let order = own.as_slice().cmp(value);
    Truth::of(
        match part(2) {
            Some(0) => order.is_eq(),
            Some(1) => order.is_ne(),
            Some(2) => order.is_lt(),
            Some(3) => order.is_le(),
            Some(4) => order.is_gt(),
            Some(5) => order.is_ge(),
            _ => return Truth::Unknown,
        },
        false,
    )
}

/// Whether a key is in a set, and the verdict that a map of verdicts has for it.
fn look_up(data: &[u8], registers: &Registers, sets: &Sets) -> Result<(Truth, Option<Action>), ()> {
    let part = |kind: u16| find(data, kind).and_then(number);
    let elements = find(data, 1).map(text).and_then(|name| sets.get(&name)).ok_or(())?;
    if elements.iter().any(|element| element.special) {
        return Err(());
    }
    let inverted = part(5) == Some(1);
    let mut found = None;
    for element in elements {
        let own = registers.load(part(2), element.key.len()).ok_or(())?;
        if own == element.key {
            found = Some(element);
        }
    }
    let action = match (found, part(3)) {
        (Some(element), Some(0)) => element.data.as_deref().and_then(verdict),
        // A map of values: what it puts where is not followed.
        (_, Some(1..)) => return Err(()),
        _ => None,
    };
    Ok((Truth::of(found.is_some(), inverted), action))
}

/// The verdict in the attributes of a value.
fn verdict(nest: &[u8]) -> Option<Action> {
    let verdict = find(nest, 2)?;
    let chain = || find(verdict, 2).map(text).unwrap_or_default();
    Some(match find(verdict, 1).and_then(number)?.cast_signed() {
        0 => Action::Drop,
        // To a program that decides (queue): it is not known what.
        1 | 3 => Action::Accept,
        -3 => Action::Jump(chain()),
        -4 => Action::Goto(chain()),
        -5 => Action::Return,
        _ => Action::GoOn,
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_panics(rule in prop::collection::vec((0usize..12, prop::collection::vec(any::<u8>(), 0..60)), 0..6)) {
            const NAMES: [&str; 12] = [
                "meta", "ct", "payload", "bitwise", "cmp", "lookup", "immediate", "match", "target", "fib", "reject", "other",
            ];
            let rule: Expressions = rule.into_iter().map(|(name, data)| (NAMES[name].to_owned(), data)).collect();
            let address = Ipv4Addr::new(192, 0, 2, 1).into();
            let packet = Packet {
                hook: 2,
                input: None,
                output: None,
                source: address,
                destination: address,
                translated: false,
                local: (false, false),
            };
            let _ = judge(&rule, &packet, &Sets::new());
            let _ = sets_of(&rule).count();
        }
    }
}
