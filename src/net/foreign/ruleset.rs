//! Chains and rules, of nftables or of the older ip_tables, and what becomes of a packet in them.
//!
//! What cannot be told of a rule is not guessed: a rule that may accept leaves a doubt, one that may drop is passed over.

use std::collections::HashMap;

use super::expression::{self, Expressions};
use super::legacy;
use super::packet::Packet;
use crate::net::nft::list::RawElement;

/// Whether a packet is one that a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// Something is asked that is not known here.
    Unknown,
}

impl Truth {
    /// Both.
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Yes, Self::Yes) => Self::Yes,
            _ => Self::Unknown,
        }
    }

    /// Turned round where `inverted`.
    pub fn of(value: bool, inverted: bool) -> Self {
        if value != inverted { Self::Yes } else { Self::No }
    }
}

/// What a rule does with what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Nothing that counts here.
    GoOn,
    /// This chain lets it pass.
    Accept,
    /// It is dropped or rejected.
    Drop,
    /// Another chain is asked, and then the next rule.
    Jump(String),
    /// Another chain is asked instead of the rest of this one.
    Goto(String),
    /// The rest of this chain is not asked.
    Return,
}

/// A rule.
#[derive(Debug, Clone)]
pub struct Rule {
    /// What `nft -a` shows of it; 0 in ip_tables.
    pub handle: u64,
    /// What it says.
    pub body: Body,
}

/// What a rule says, in one of two languages.
#[derive(Debug, Clone)]
pub enum Body {
    /// nftables.
    Nft(Expressions),
    /// ip_tables.
    Legacy(legacy::Entry),
}

/// A chain.
#[derive(Debug, Clone)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Of a base chain: the hook's number and the priority.
    pub hook: Option<(u32, i32)>,
    /// Of a base chain: whether what nothing decides is dropped.
    pub drops: bool,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// A table.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// `ip`, `ip6` or `inet`.
    pub family: &'static str,
    /// Its name.
    pub name: String,
    /// Whether it is of ip_tables, which nftables does not show.
    pub legacy: bool,
    /// Its chains.
    pub chains: Vec<Chain>,
    /// The elements of the sets that its rules look into.
    pub sets: HashMap<String, Vec<RawElement>>,
}

/// What drops a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dropper {
    /// The chain whose rule or policy it is.
    pub chain: String,
    /// The rule's number in it, from 1, and its handle; `None` is the policy.
    pub rule: Option<(usize, u64)>,
    /// A rule that could not be understood may let it pass before.
    pub doubt: bool,
}

/// How a walk through a chain ends; `None` is its end.
type End = Option<Result<(), (String, usize, u64)>>;

impl Table {
    /// Whether packets of a family come here.
    pub fn is_asked_about(&self, packet: &Packet) -> bool {
        match self.family {
            "ip" => packet.is_ipv4(),
            "ip6" => !packet.is_ipv4(),
            _ => true,
        }
    }

    /// The chain of that name.
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    /// What in a base chain drops the packet; `None` where it passes.
    pub fn dropper(&self, base: &Chain, packet: &Packet) -> Option<Dropper> {
        let mut doubt = false;
        match self.walk(base, packet, &mut doubt, 0) {
            Some(Ok(())) => None,
            Some(Err((chain, number, handle))) => Some(Dropper { chain, rule: Some((number, handle)), doubt }),
            None => base.drops.then(|| Dropper { chain: base.name.clone(), rule: None, doubt }),
        }
    }

    fn walk(&self, chain: &Chain, packet: &Packet, doubt: &mut bool, depth: usize) -> End {
        // The kernel takes no more jumps than that either.
        const DEEPEST: usize = 16;
        for (at, rule) in chain.rules.iter().enumerate() {
            let (truth, action) = match &rule.body {
                Body::Nft(expressions) => expression::judge(expressions, packet, &self.sets),
                Body::Legacy(entry) => entry.judge(packet),
            };
            let next = match &action {
                Action::Jump(name) | Action::Goto(name) if depth < DEEPEST => self.chain(name),
                _ => None,
            };
            match (truth, &action) {
                (Truth::No, _) | (_, Action::GoOn) => {}
                (Truth::Yes, Action::Accept) => return Some(Ok(())),
                (Truth::Yes, Action::Drop) => return Some(Err((chain.name.clone(), at + 1, rule.handle))),
                (Truth::Yes, Action::Return) => return None,
                (Truth::Yes, Action::Jump(_) | Action::Goto(_)) => {
                    let end = next.and_then(|next| self.walk(next, packet, doubt, depth + 1));
                    if end.is_some() || matches!(action, Action::Goto(_)) {
                        return end;
                    }
                }
                (Truth::Unknown, Action::Accept | Action::Return) => *doubt = true,
                (Truth::Unknown, Action::Drop) => {}
                (Truth::Unknown, Action::Jump(_) | Action::Goto(_)) => {
                    let end = next.and_then(|next| self.walk(next, packet, doubt, depth + 1));
                    *doubt |= !matches!(end, Some(Err(_)) | None);
                }
            }
        }
        None
    }
}
