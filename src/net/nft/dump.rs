//! The whole table as the kernel has it, to be compared with the changes that make it, down to each expression of each rule.
//!
//! Used by `verify.rs`. What is wanted is written as for a transaction and compared with what the kernel lists: each
//! attribute must be there with the same value. The kernel lists more than was said (counts, handles), which is let pass.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE};
use netlink_sys::Socket;
use nix::libc;
use nix::sys::socket::{MsgFlags, recv};

use super::super::table::{Change, Element, TABLE};
use super::super::wire::{NESTED, attributes, messages, text};
use super::encode::{encode, encode_element};
use super::expression::UNNAMED;
use super::message::{GET_CHAIN, GET_ELEMENT, GET_RULE, GET_SET, GET_TABLE, SUBSYSTEM, attribute, message, string};

/// Where the attributes of a message begin: behind the headers of netlink and of nfnetlink.
const ATTRIBUTES: usize = 20;

/// The table, its objects as lists of attributes.
#[derive(Debug, Default)]
pub struct Whole {
    table: Vec<u8>,
    chains: HashMap<String, Vec<u8>>,
    /// By chain, in order.
    rules: HashMap<String, Vec<Vec<u8>>>,
    sets: HashMap<String, Vec<u8>>,
    /// By set, and there by the bytes of their keys: thousands are looked for.
    elements: HashMap<String, HashMap<Vec<u8>, Vec<Vec<u8>>>>,
}

/// What the kernel says of an element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Has {
    /// It is there.
    Same,
    /// Its key is there and leads elsewhere.
    Other,
    /// It is not there.
    Nothing,
}

/// Lists the table in the network namespace of `socket`; `None` where there is none.
pub fn whole(socket: &Socket) -> Result<Option<Whole>> {
    let ask = || -> Result<Option<Whole>> {
        let mut whole = Whole::default();
        match one(socket)? {
            Some(table) => whole.table = table,
            None => return Ok(None),
        }
        for chain in list(socket, GET_CHAIN, &[])? {
            whole.chains.insert(name(&chain, 3), chain);
        }
        for rule in list(socket, GET_RULE, &[])? {
            whole.rules.entry(name(&rule, 2)).or_default().push(rule);
        }
        for mut set in list(socket, GET_SET, &[])? {
            if find(&set, 3).is_none() {
                // No flags are not listed.
                attribute(&mut set, 3, &[0; 4]);
            }
            let called = name(&set, 2);
            let lists = list(socket, GET_ELEMENT, &[(2, &called)])?;
            let elements = whole.elements.entry(called.clone()).or_default();
            for (_, element) in lists.iter().filter_map(|list| find(list, 3)).flat_map(attributes) {
                elements.entry(key(element).to_vec()).or_default().push(element.to_vec());
            }
            whole.sets.insert(called, set);
        }
        Ok(Some(whole))
    };
    ask().context("list nftables table `inet minirun`")
}

/// The table itself.
fn one(socket: &Socket) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    message(&mut bytes, SUBSYSTEM << 8 | GET_TABLE, NLM_F_REQUEST, 0, 0, |body| string(body, 1, TABLE));
    socket.send(&bytes, 0)?;
    let mut buffer = vec![0; 16 * 1024];
    let size = receive(socket, &mut buffer)?;
    let Some(answer) = messages(&buffer[..size]).next() else { bail!("empty answer") };
    match answer.error() {
        // Without nftables in the kernel there is no table either.
        Some((libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL, _)) => Ok(None),
        Some((errno, _)) => Err(io::Error::from_raw_os_error(errno).into()),
        None => Ok(Some(answer.bytes.get(ATTRIBUTES..).unwrap_or_default().to_vec())),
    }
}

/// All objects of a kind that are of the table. One that changes meanwhile is asked for again.
fn list(socket: &Socket, kind: u16, further: &[(u16, &str)]) -> Result<Vec<Vec<u8>>> {
    const NLM_F_DUMP_INTR: u16 = 0x10;
    'again: for _ in 0..16 {
        let mut bytes = Vec::new();
        message(&mut bytes, SUBSYSTEM << 8 | kind, NLM_F_REQUEST | NLM_F_DUMP, 0, 0, |body| {
            string(body, 1, TABLE);
            further.iter().for_each(|(kind, value)| string(body, *kind, value));
        });
        socket.send(&bytes, 0)?;
        let mut buffer = vec![0; 64 * 1024];
        let (mut all, mut consistent) = (Vec::new(), true);
        loop {
            let size = receive(socket, &mut buffer)?;
            for message in messages(&buffer[..size]) {
                consistent &= message.flags & NLM_F_DUMP_INTR == 0;
                if message.kind == NLMSG_DONE {
                    if consistent {
                        return Ok(all);
                    }
                    continue 'again;
                }
                if let Some((errno, _)) = message.error() {
                    return Err(io::Error::from_raw_os_error(errno).into());
                }
                let body = message.bytes.get(ATTRIBUTES..).unwrap_or_default();
                if find(body, 1).map(text).as_deref() == Some(TABLE) {
                    all.push(body.to_vec());
                }
            }
        }
    }
    bail!("it changes faster than it can be read")
}

fn receive(socket: &Socket, buffer: &mut [u8]) -> Result<usize> {
    loop {
        match recv(socket.as_raw_fd(), buffer, MsgFlags::empty()) {
            Err(nix::Error::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

fn find(body: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(body).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

fn name(body: &[u8], kind: u16) -> String {
    find(body, kind).map(text).unwrap_or_default()
}

impl Whole {
    /// What differs from the table that these changes make, elements apart; `None` where nothing does.
    pub fn differs(&self, changes: &[&Change]) -> Option<String> {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for change in changes {
            match change {
                Change::AddTable if !contains(&wanted(change), &self.table) => {
                    return Some("is of another version of minirun".into());
                }
                Change::AddSet(set) => match self.sets.get(set.name) {
                    None => return Some(format!("set {} is not there", set.name)),
                    Some(there) if !contains(&wanted(change), there) => {
                        return Some(format!("set {} is another one", set.name));
                    }
                    Some(_) => {}
                },
                Change::AddChain { name, .. } => match self.chains.get(*name) {
                    None => return Some(format!("chain {name} is not there")),
                    Some(there) if !contains(&wanted(change), there) => {
                        return Some(format!("chain {name} is called from elsewhere"));
                    }
                    Some(_) => {}
                },
                Change::AddRule { chain, .. } => {
                    let count = counts.entry(chain).or_default();
                    let there = self.rules.get(*chain).and_then(|rules| rules.get(*count));
                    *count += 1;
                    match there {
                        None => return Some(format!("rule {count} of chain {chain} is not there")),
                        Some(there) if !is_rule(&wanted(change), there) => {
                            return Some(format!("rule {count} of chain {chain} is another one"));
                        }
                        Some(_) => {}
                    }
                }
                _ => {}
            }
        }
        self.foreign(changes, &counts)
    }

    /// What is in the table and is not minirun's.
    fn foreign(&self, changes: &[&Change], counts: &HashMap<&str, usize>) -> Option<String> {
        let own = |chain: &str| {
            changes.iter().any(|change| matches!(change, Change::AddChain { name, .. } if *name == chain))
        };
        if let Some(chain) = self.chains.keys().find(|chain| !own(chain)) {
            return Some(format!("chain {chain} is not minirun's"));
        }
        let more = |(chain, rules): &(&String, &Vec<Vec<u8>>)| {
            rules.len() > counts.get(chain.as_str()).copied().unwrap_or_default()
        };
        let (chain, rules) = self.rules.iter().find(more)?;
        let wanted = counts.get(chain.as_str()).copied().unwrap_or_default();
        Some(format!("chain {chain} has {} rules, and not {wanted}", rules.len()))
    }

    /// Whether it has this element.
    pub fn has(&self, element: &Element) -> Has {
        let of = |whole: bool| {
            let mut bytes = Vec::new();
            encode_element(&mut bytes, element, whole);
            find(&bytes, 3).and_then(|list| find(list, 1)).unwrap_or_default().to_vec()
        };
        let (wanted, all) = (of(false), of(true));
        let there = self.elements.get(element.set.name).and_then(|all| all.get(key(&wanted)));
        match there.and_then(|there| there.iter().find(|there| contains(&wanted, there))) {
            None => Has::Nothing,
            Some(there) if contains(&all, there) => Has::Same,
            Some(_) => Has::Other,
        }
    }
}

/// The bytes of an element's key, or of the first one of a range (`NFTA_SET_ELEM_KEY`, `NFTA_DATA_VALUE`).
fn key(element: &[u8]) -> &[u8] {
    find(element, 1).and_then(|key| find(key, 1)).unwrap_or_default()
}

/// The attributes of a change, as they are sent.
fn wanted(change: &Change) -> Vec<u8> {
    const SET_ID: u16 = 10;
    const USER_DATA: u16 = 13;
    let mut bytes = Vec::new();
    encode(&mut bytes, change, 1, false);
    // The last message is the change itself, what comes before is a part of it.
    let body = messages(&bytes).last().and_then(|message| message.bytes.get(ATTRIBUTES..)).unwrap_or_default().to_vec();
    if !matches!(change, Change::AddSet(_)) {
        return body;
    }
    // A number that is only a transaction's, and what nft(8) notes for itself.
    let mut kept = Vec::new();
    for (kind, nested, value) in flagged(&body).filter(|(kind, ..)| ![SET_ID, USER_DATA].contains(kind)) {
        attribute(&mut kept, if nested { kind | NESTED } else { kind }, value);
    }
    kept
}

/// Attributes, with whether they hold attributes.
fn flagged(buffer: &[u8]) -> impl Iterator<Item = (u16, bool, &[u8])> {
    let mut at = 0;
    attributes(buffer).map(move |(kind, value)| {
        let flags = buffer.get(at + 3).copied().unwrap_or_default();
        let flags =
            if cfg!(target_endian = "little") { flags } else { buffer.get(at + 2).copied().unwrap_or_default() };
        at += (4 + value.len()).next_multiple_of(4);
        (kind, flags & 0x80 != 0, value)
    })
}

/// Whether all that `ours` says is in `theirs`; what stands there several times must do so in the same order.
fn contains(ours: &[u8], theirs: &[u8]) -> bool {
    let mut seen: HashMap<u16, usize> = HashMap::new();
    flagged(ours).all(|(kind, nested, value)| {
        let count = seen.entry(kind).or_default();
        let there = attributes(theirs).filter(|(found, _)| *found == kind).nth(*count).map(|(_, value)| value);
        *count += 1;
        there.is_some_and(|there| if nested { contains(value, there) } else { value == there })
    })
}

/// Whether a rule is the same, expression by expression.
fn is_rule(ours: &[u8], theirs: &[u8]) -> bool {
    const EXPRESSIONS: u16 = 4;
    let of = |rule| find(rule, EXPRESSIONS).map(|list| attributes(list).map(|(_, one)| one).collect::<Vec<_>>());
    let (ours, mut theirs) = (of(ours).unwrap_or_default(), of(theirs).unwrap_or_default());
    // What nft(8) writes about the order of a single byte does nothing.
    theirs.retain(|one| {
        !(name(one, 1) == "byteorder" && find(one, 2).and_then(|data| find(data, 4)) == Some(&[0, 0, 0, 1]))
    });
    ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| is_expression(ours, theirs))
}

fn is_expression(ours: &[u8], theirs: &[u8]) -> bool {
    const DATA: u16 = 2;
    let kind = name(ours, 1);
    if kind != name(theirs, 1) {
        return false;
    }
    let (ours, theirs) = (find(ours, DATA).unwrap_or_default(), find(theirs, DATA).unwrap_or_default());
    // What is not said is nothing, but for the end of a range, which is its begin.
    let unsaid = |(attribute, value): (u16, &[u8])| {
        let begin = || kind == "nat" && find(theirs, attribute - 1).map(register) == Some(register(value));
        // Addresses (1) and ports (2) are translated: that follows from what is said of them.
        let follows =
            || kind == "nat" && attribute == 7 && [[0, 0, 0, 1], [0, 0, 0, 3]].iter().any(|bits| bits == value);
        find(ours, attribute).is_some() || value.iter().all(|byte| *byte == 0) || begin() || follows()
    };
    attributes(theirs).all(unsaid)
        && flagged(ours).all(|(attribute, nested, value)| {
            let Some(there) = find(theirs, attribute) else {
                // The number of a set of the same transaction.
                return kind == "lookup" && attribute == 4;
            };
            match (kind.as_str(), attribute) {
                // The kernel has put a number into the name.
                ("lookup", 1) if text(value) == UNNAMED => text(there).starts_with("__set"),
                _ if is_register(&kind, attribute) => register(value) == register(there),
                _ if nested => contains(value, there),
                _ => value == there,
            }
        })
}

/// Whether an attribute of an expression names a register.
fn is_register(expression: &str, attribute: u16) -> bool {
    match expression {
        "meta" => attribute == 1 || attribute == 3,
        "payload" => attribute == 1 || attribute == 5,
        "lookup" => attribute == 2 || attribute == 3,
        "bitwise" => attribute == 1 || attribute == 2,
        "ct" => attribute == 1 || attribute == 4,
        "nat" => (3..=6).contains(&attribute),
        "cmp" | "immediate" | "fib" => attribute == 1,
        _ => false,
    }
}

/// The place of a register: the first of the four small ones that are in a large one is the large one, and is listed so.
fn register(value: &[u8]) -> Option<u32> {
    let number = u32::from_be_bytes(value.try_into().ok()?);
    Some(if number < 8 { number * 4 } else { number - 4 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn comparing_never_panics(ours in proptest::collection::vec(any::<u8>(), 0..80), theirs in proptest::collection::vec(any::<u8>(), 0..80)) {
            contains(&ours, &theirs);
            is_rule(&ours, &theirs);
            prop_assert!(contains(&[], &theirs));
        }
    }

    #[test]
    fn registers_have_two_names() {
        let at = |number: u32| register(&number.to_be_bytes());
        assert_eq!((at(8), at(12), at(9)), (at(1), at(2), Some(5)));
        assert_eq!(register(&[1]), None);
    }
}
