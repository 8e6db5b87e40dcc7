//! All of nftables that there is, whoever made it: chains, rules and the elements of sets, as the kernel lists them.
//!
//! For `foreign/`, which asks what becomes of a packet there. A list of another program's rules may be long: this is on the
//! way of no start but the one that makes a bridge.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};
use netlink_packet_core::{NLM_F_DUMP, NLMSG_DONE};
use nix::libc;
use nix::sys::socket::{MsgFlags, recv};

use super::super::wire::{attributes, explain_error, messages, text};
use super::message::{GET_CHAIN, GET_ELEMENT, SUBSYSTEM, message, string};

const GET_RULE: u16 = 7;
/// The list changed while it was read.
const NLM_F_DUMP_INTR: u16 = 0x10;

/// A chain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawChain {
    /// `NFPROTO_*`.
    pub family: u8,
    /// The table's name.
    pub table: String,
    /// Its own.
    pub name: String,
    /// Of a base chain: the hook's number and the priority.
    pub hook: Option<(u32, i32)>,
    /// Of a base chain: whether what nothing decides is dropped.
    pub drops: bool,
    /// Of a base chain: `filter`, `nat` or `route`.
    pub kind: String,
}

/// A rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawRule {
    /// `NFPROTO_*`.
    pub family: u8,
    /// The table's name.
    pub table: String,
    /// The chain's name.
    pub chain: String,
    /// What `nft -a` shows of it.
    pub handle: u64,
    /// Its expressions: the name of each and its attributes.
    pub expressions: Vec<(String, Vec<u8>)>,
}

/// An element of a set: its key, and the attributes of what it leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawElement {
    /// The bytes of its key.
    pub key: Vec<u8>,
    /// Of a map.
    pub data: Option<Vec<u8>>,
    /// It is more than one key: a part of a range, or what stands for all others.
    pub special: bool,
}

/// Every chain, in the kernel's order.
pub fn chains() -> Result<Vec<RawChain>> {
    dump(GET_CHAIN, 0, |_| {}).map(|answers| answers.iter().map(|answer| chain(answer)).collect())
}

/// Every rule, in the order in which they are asked.
pub fn rules() -> Result<Vec<RawRule>> {
    dump(GET_RULE, 0, |_| {}).map(|answers| answers.iter().map(|answer| rule(answer)).collect())
}

/// The elements of a set.
pub fn elements_of(family: u8, table: &str, set: &str) -> Result<Vec<RawElement>> {
    const LIST: u16 = 3;
    let answers = dump(GET_ELEMENT, family, |body| {
        string(body, 1, table);
        string(body, 2, set);
    })?;
    let of = |answer: &Vec<u8>| -> Vec<RawElement> {
        let lists = attributes(&answer[4..]).filter(|(kind, _)| *kind == LIST);
        lists.flat_map(|(_, list)| attributes(list).map(|(_, one)| element(one)).collect::<Vec<_>>()).collect()
    };
    Ok(answers.iter().flat_map(of).collect())
}

fn chain(answer: &[u8]) -> RawChain {
    let mut chain = RawChain { family: answer[0], ..RawChain::default() };
    for (kind, value) in attributes(&answer[4..]) {
        match kind {
            1 => chain.table = text(value),
            3 => chain.name = text(value),
            4 => {
                let part =
                    |wanted: u16| attributes(value).find(|(kind, _)| *kind == wanted).and_then(|(_, v)| number(v));
                chain.hook = part(1).zip(part(2)).map(|(hook, priority)| (hook, priority.cast_signed()));
            }
            5 => chain.drops = number(value) == Some(0),
            7 => chain.kind = text(value),
            _ => {}
        }
    }
    chain
}

fn rule(answer: &[u8]) -> RawRule {
    let mut rule = RawRule { family: answer[0], ..RawRule::default() };
    for (kind, value) in attributes(&answer[4..]) {
        match kind {
            1 => rule.table = text(value),
            2 => rule.chain = text(value),
            3 => rule.handle = value.try_into().map(u64::from_be_bytes).unwrap_or_default(),
            4 => rule.expressions = attributes(value).map(|(_, one)| expression(one)).collect(),
            _ => {}
        }
    }
    rule
}

fn expression(bytes: &[u8]) -> (String, Vec<u8>) {
    let find = |wanted: u16| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    (find(1).map(text).unwrap_or_default(), find(2).map(<[u8]>::to_vec).unwrap_or_default())
}

fn element(bytes: &[u8]) -> RawElement {
    const KEY_END: u16 = 10;
    let mut element = RawElement::default();
    for (kind, value) in attributes(bytes) {
        match kind {
            1 => element.key = attributes(value).next().map(|(_, key)| key.to_vec()).unwrap_or_default(),
            2 => element.data = Some(value.to_vec()),
            3 => element.special |= number(value) != Some(0),
            KEY_END => element.special = true,
            _ => {}
        }
    }
    element
}

/// Numbers of nftables are in network order.
pub fn number(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_be_bytes)
}

/// Asks for a list: of each answer what follows the header of netlink, at least the four bytes that nfnetlink has there.
fn dump(kind: u16, family: u8, body: impl Fn(&mut Vec<u8>)) -> Result<Vec<Vec<u8>>> {
    for _ in 0..8 {
        if let Some(answers) = dump_once(kind, family, &body)? {
            return Ok(answers);
        }
    }
    bail!("list nftables: it changes faster than it can be read")
}

fn dump_once(kind: u16, family: u8, body: impl FnOnce(&mut Vec<u8>)) -> Result<Option<Vec<Vec<u8>>>> {
    const FAMILY: usize = 16;
    let socket = super::open().context("open nfnetlink socket")?;
    let mut bytes = Vec::with_capacity(64);
    message(&mut bytes, SUBSYSTEM << 8 | kind, NLM_F_DUMP, 0, 0, body);
    bytes[FAMILY] = family;
    socket.send(&bytes, 0).context("list nftables")?;
    let mut buffer = vec![0; 64 * 1024];
    let (mut answers, mut whole) = (Vec::new(), true);
    loop {
        let size = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Err(nix::Error::EINTR) => continue,
            size => size.context("list nftables")?,
        };
        for answer in messages(&buffer[..size]) {
            whole &= answer.flags & NLM_F_DUMP_INTR == 0;
            match answer.error() {
                // A table that went meanwhile, or a kernel without nftables.
                Some((libc::ENOENT | libc::EOPNOTSUPP | libc::EINVAL, _)) => return Ok(Some(answers)),
                Some((libc::EINTR, _)) => return Ok(None),
                Some((errno, words)) => {
                    return Err(explain_error(errno, words.as_deref()).context("list nftables"));
                }
                None if answer.kind == NLMSG_DONE => return Ok(whole.then_some(answers)),
                None => answers.extend(answer.bytes.get(16..).filter(|rest| rest.len() >= 4).map(<[u8]>::to_vec)),
            }
        }
    }
}
