//! The older ip_tables: what the kernel gives of them, as chains and rules.
//!
//! All rules of a table lie one after the other. A chain of a user begins with a rule whose target is `ERROR` and its name, a
//! jump is the place of the rule to go on with, and a base chain ends with a rule for everything, which is its policy.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, UdpSocket};

use super::packet::Packet;
use super::ruleset::{Action, Body, Chain, Rule, Table, Truth};
use super::{packet, xtables};
use crate::sys::ip_tables::{IpTable, ip_table};

/// The verdicts of a standard target, which else is a place in the table.
const DROP: i32 = -1;
const RETURN: i32 = -5;

/// Where things are in an entry (`struct ipt_entry`, `struct ip6t_entry`).
#[derive(Debug, Clone, Copy)]
struct Layout {
    /// Of an address.
    address: usize,
    /// Of what is compared with the packet; what follows is the places of target and next rule.
    offsets: usize,
    /// Of all that comes before the matches.
    head: usize,
    /// Where the protocol is.
    protocol: usize,
    flags: usize,
    inverted: usize,
    /// The flag of a jump that does not come back.
    goto: u8,
}

const IPV4: Layout = Layout { address: 4, offsets: 88, head: 112, protocol: 80, flags: 82, inverted: 83, goto: 2 };
const IPV6: Layout = Layout { address: 16, offsets: 140, head: 168, protocol: 128, flags: 131, inverted: 132, goto: 4 };

/// Each version: what lists its tables, an address that a socket of it binds to, its name, and where things are.
const FAMILIES: [(&str, &str, &str, Layout); 2] =
    [("/proc/net/ip_tables_names", "0.0.0.0:0", "ip", IPV4), ("/proc/net/ip6_tables_names", "[::]:0", "ip6", IPV6)];

/// A rule.
#[derive(Debug, Clone)]
pub struct Entry {
    layout: Layout,
    bytes: Vec<u8>,
    action: Action,
}

/// The tables that there are in this network namespace; none is made by asking.
pub fn tables() -> Vec<Table> {
    let mut tables = Vec::new();
    for (list, any, family, layout) in FAMILIES {
        let names = std::fs::read_to_string(list).unwrap_or_default();
        // A socket of the family, whatever it is for, is how they are asked.
        let Some(socket) = names.lines().next().and_then(|_| UdpSocket::bind(any).ok()) else { continue };
        for name in names.lines() {
            let Ok(raw) = ip_table(&socket, family == "ip6", name) else { continue };
            let chains = chains(&raw, layout);
            tables.push(Table { family, name: name.to_owned(), legacy: true, chains, sets: Default::default() });
        }
    }
    tables
}

/// A number for the rules that filter, but for their counters; 0 where there are none.
pub fn fingerprint() -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut any = false;
    for (list, any_address, family, layout) in FAMILIES {
        let names = std::fs::read_to_string(list).unwrap_or_default();
        for name in names.lines().filter(|name| *name != "nat") {
            let Ok(raw) = UdpSocket::bind(any_address).and_then(|socket| ip_table(&socket, family == "ip6", name))
            else {
                continue;
            };
            any = true;
            (family, name, raw.begins, raw.ends).hash(&mut hasher);
            for (_, entry) in cut(&raw, layout) {
                let counters = layout.head - 16;
                (&entry[..counters], &entry[layout.head..]).hash(&mut hasher);
            }
        }
    }
    if any { hasher.finish() } else { 0 }
}

/// What its target is called, and what follows its name.
fn target_of(entry: &[u8], layout: Layout) -> Option<(String, &[u8])> {
    let at = usize::from(half(entry, layout.offsets)?);
    extension(entry.get(at..)?)
}

/// An extension: its name, and what is beside it.
fn extension(bytes: &[u8]) -> Option<(String, &[u8])> {
    let size = usize::from(half(bytes, 0)?);
    Some((crate::net::wire::text(bytes.get(2..31)?), bytes.get(32..size)?))
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn word(bytes: &[u8], at: usize) -> Option<i32> {
    bytes.get(at..at + 4)?.try_into().ok().map(i32::from_ne_bytes)
}

/// The entries with their places.
fn cut(raw: &IpTable, layout: Layout) -> Vec<(usize, &[u8])> {
    let (mut at, mut all) = (0, Vec::new());
    while let Some(rest) = raw.entries.get(at..) {
        let size = half(rest, layout.offsets + 2).map_or(0, usize::from);
        let Some(entry) = rest.get(..size).filter(|_| size >= layout.head) else { break };
        all.push((at, entry));
        at += size;
    }
    all
}

/// The chains of a table, each under the place at which it begins and, of a base chain, the hook.
fn chains(raw: &IpTable, layout: Layout) -> Vec<Chain> {
    let entries = cut(raw, layout);
    // Where chains begin: at the hooks, and behind a rule that names one.
    let mut begins: Vec<(usize, String, Option<usize>)> = Vec::new();
    for (hook, begin) in raw.begins.iter().enumerate() {
        begins.extend(begin.map(|begin| (begin as usize, packet::HOOKS[hook].to_uppercase(), Some(hook))));
    }
    for (at, entry) in &entries {
        if let Some(("ERROR", rest)) = target_of(entry, layout).as_ref().map(|(name, rest)| (name.as_str(), *rest)) {
            begins.push((at + entry.len(), crate::net::wire::text(rest), None));
        }
    }
    let name_at = |place: usize| begins.iter().find(|(at, ..)| *at == place).map(|(_, name, _)| name.clone());
    let chain = |(begin, name, hook): &(usize, String, Option<usize>)| {
        let mut chain = Chain { name: name.clone(), hook: None, drops: false, rules: vec![] };
        let policy = hook.map(|hook| raw.ends[hook] as usize);
        for (at, entry) in entries.iter().filter(|(at, _)| at >= begin) {
            if Some(*at) == policy {
                chain.drops = target_of(entry, layout).and_then(|(_, rest)| word(rest, 0)) == Some(DROP);
                break;
            }
            let last = target_of(entry, layout).is_none_or(|(name, _)| name == "ERROR");
            if last || (at != begin && begins.iter().any(|(other, ..)| other == at)) {
                break;
            }
            let action = action(entry, *at, layout, &name_at);
            let body = Body::Legacy(Entry { layout, bytes: entry.to_vec(), action });
            chain.rules.push(Rule { handle: 0, body });
        }
        // A chain of a user ends with a rule that goes back.
        if hook.is_none() {
            chain.rules.pop();
        }
        chain.hook = hook.map(|hook| (hook as u32, 0));
        chain
    };
    begins.iter().map(chain).collect()
}

fn action(entry: &[u8], at: usize, layout: Layout, name_at: &impl Fn(usize) -> Option<String>) -> Action {
    let Some((name, rest)) = target_of(entry, layout) else { return Action::GoOn };
    if !name.is_empty() {
        return xtables::target(&name);
    }
    match word(rest, 0) {
        Some(DROP) => Action::Drop,
        Some(RETURN) => Action::Return,
        // The next one is where the packet goes on in any case.
        Some(place @ 0..) if place as usize == at + entry.len() => Action::GoOn,
        Some(place @ 0..) => {
            let name = name_at(place as usize).unwrap_or_default();
            if entry[layout.flags] & layout.goto != 0 { Action::Goto(name) } else { Action::Jump(name) }
        }
        _ => Action::Accept,
    }
}

impl Entry {
    /// Whether it is about the packet, and what it does then.
    pub fn judge(&self, packet: &Packet) -> (Truth, Action) {
        let mut truth = self.addresses(packet).and(self.links(packet)).and(self.protocol(packet));
        let mut at = self.layout.head;
        let end = half(&self.bytes, self.layout.offsets).map_or(0, usize::from);
        while at < end {
            let Some((name, info)) = self.bytes.get(at..end).and_then(extension) else {
                truth = truth.and(Truth::Unknown);
                break;
            };
            let revision = u32::from(self.bytes[at + 31]);
            truth = truth.and(xtables::matches(&name, revision, info, packet));
            at += info.len() + 32;
        }
        (truth, self.action.clone())
    }

    fn is_inverted(&self, flag: u8) -> bool {
        self.bytes[self.layout.inverted] & flag != 0
    }

    /// Source and destination, and their masks.
    fn addresses(&self, packet: &Packet) -> Truth {
        let size = self.layout.address;
        let part = |number: usize| &self.bytes[number * size..(number + 1) * size];
        let one = |address: IpAddr, wanted: &[u8], mask: &[u8], flag: u8| {
            let own = match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            };
            let same = own.iter().zip(wanted).zip(mask).all(|((own, wanted), mask)| own & mask == *wanted);
            Truth::of(same, self.is_inverted(flag))
        };
        one(packet.source, part(0), part(2), 0x08).and(one(packet.destination, part(1), part(3), 0x10))
    }

    /// The links' names, and masks of as many bytes as count.
    fn links(&self, packet: &Packet) -> Truth {
        let begin = 4 * self.layout.address;
        let part = |number: usize| &self.bytes[begin + number * 16..begin + (number + 1) * 16];
        let one = |name: &str, wanted: &[u8], mask: &[u8], flag: u8| {
            let mut own = name.as_bytes().to_vec();
            own.resize(16, 0);
            let same = own.iter().zip(wanted).zip(mask).all(|((own, wanted), mask)| (own ^ wanted) & mask == 0);
            Truth::of(same, self.is_inverted(flag))
        };
        let input = one(Packet::name(packet.input.as_ref()), part(0), part(2), 0x01);
        input.and(one(Packet::name(packet.output.as_ref()), part(1), part(3), 0x02))
    }

    fn protocol(&self, packet: &Packet) -> Truth {
        match half(&self.bytes, self.layout.protocol) {
            Some(0) => Truth::Yes,
            Some(protocol) => Truth::of(protocol == u16::from(packet.protocol()), self.is_inverted(0x40)),
            None => Truth::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn nothing_panics(
            mut entries in prop::collection::vec(any::<u8>(), 0..400),
            sizes in prop::collection::vec((0u16..200, 0u16..200), 0..4),
            begins in any::<[Option<u32>; 5]>(),
            ends in any::<[u32; 5]>(),
        ) {
            // Places that are nearly right lead further than any.
            for (at, (target, next)) in sizes.into_iter().enumerate() {
                if let Some(place) = entries.get_mut(at * 112 + 88..at * 112 + 92) {
                    place[..2].copy_from_slice(&target.to_ne_bytes());
                    place[2..].copy_from_slice(&next.to_ne_bytes());
                }
            }
            let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
            let packet = Packet {
                hook: 2,
                input: None,
                output: None,
                source: address,
                destination: address,
                translated: false,
                local: (false, false),
            };
            for layout in [IPV4, IPV6] {
                let raw = IpTable { begins, ends, entries: entries.clone() };
                let table = Table { chains: chains(&raw, layout), ..Table::default() };
                for chain in &table.chains {
                    let _ = table.dropper(chain, &packet);
                }
            }
        }
    }
}
