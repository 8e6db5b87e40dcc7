//! The one nftables table, `inet minirun`: what it can hold, and what is in it.
//!
//! A rule is a list of [`Match`]es and a [`Verdict`], and each of them is known both as bytes (`nft.rs`) and as the text of
//! nft(8) (`explain.rs`): what is printed is what is done.

use ipnet::Ipv4Net;

use super::network::BRIDGE;

/// The family and name of the table.
pub const TABLE: &str = "minirun";

/// Where a chain is called from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Packets that the host passes on, at the usual priority of filters.
    Forward,
    /// Packets about to leave, at the usual priority of source NAT.
    Postrouting,
}

/// A condition of a rule; all must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// The packet belongs to a connection that is known, or is an error about one.
    EstablishedOrRelated,
    /// The destination was changed by a NAT rule: somebody published it.
    DestinationNatted,
    /// It came in by a link of this set.
    InSet(&'static str),
    /// It goes out by a link of this set.
    OutSet(&'static str),
    /// It came in by a link and goes out by another, and the pair is in this set.
    PairInSet(&'static str),
    /// Its source is in this network.
    SourceIn(Ipv4Net),
    /// It does not go out by this link.
    OutNot(String),
}

/// What happens to a packet that a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// This table has no objection.
    Accept,
    /// The packet is dropped.
    Drop,
    /// The source becomes the address of the link it leaves by, with a random port.
    Masquerade,
}

/// A change to the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The table, with a comment by which a later command knows for what it was made.
    AddTable {
        /// At most 127 bytes.
        comment: String,
    },
    /// The table and all in it.
    DeleteTable,
    /// A set of link names, or of pairs of them.
    AddSet {
        /// The set's name.
        name: &'static str,
        /// Whether its elements are pairs (in, out).
        pairs: bool,
    },
    /// An element of a set: one link name, or two.
    AddElement {
        /// The set's name.
        set: &'static str,
        /// One name, or two for a set of pairs.
        links: Vec<String>,
    },
    /// A chain called by the kernel at a hook, with the policy accept.
    AddChain {
        /// The chain's name.
        name: &'static str,
        /// Where it is called from.
        hook: Hook,
    },
    /// A rule at the end of a chain.
    AddRule {
        /// The chain's name.
        chain: &'static str,
        /// The conditions.
        matches: Vec<Match>,
        /// What is done where all of them hold.
        verdict: Verdict,
    },
}

/// The table as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// For what it was made.
    pub comment: String,
    /// How many rules its chains have, in the order of [`CHAINS`]; `None` for a chain that is not there.
    pub rules: [Option<u32>; 2],
}

/// The chains of the table.
pub const CHAINS: [&str; 2] = ["forward", "postrouting"];

/// Sets of the table.
const BRIDGES: &str = "bridges";
const WITHIN: &str = "within";
/// Links on which minirun turned forwarding on.
pub const GUARDED: &str = "guarded";

/// The whole table. Its cost a packet is the same for one container and for a thousand: sets, no rule a container.
pub fn rules(gateway: Ipv4Net) -> Vec<Change> {
    let comment = format!("minirun bridge {}", gateway.trunc());
    let rule = |chain, matches: Vec<Match>, verdict| Change::AddRule { chain, matches, verdict };
    let forward = "forward";
    vec![
        Change::AddTable { comment },
        Change::AddSet { name: BRIDGES, pairs: false },
        Change::AddSet { name: WITHIN, pairs: true },
        Change::AddSet { name: GUARDED, pairs: false },
        Change::AddChain { name: forward, hook: Hook::Forward },
        rule(forward, vec![Match::EstablishedOrRelated], Verdict::Accept),
        rule(forward, vec![Match::DestinationNatted], Verdict::Accept),
        rule(forward, vec![Match::PairInSet(WITHIN)], Verdict::Accept),
        rule(forward, vec![Match::OutSet(BRIDGES)], Verdict::Drop),
        rule(forward, vec![Match::InSet(BRIDGES)], Verdict::Accept),
        rule(forward, vec![Match::InSet(GUARDED)], Verdict::Drop),
        Change::AddChain { name: "postrouting", hook: Hook::Postrouting },
        rule("postrouting", vec![Match::SourceIn(gateway.trunc()), Match::OutNot(BRIDGE.into())], Verdict::Masquerade),
        Change::AddElement { set: BRIDGES, links: vec![BRIDGE.into()] },
        Change::AddElement { set: WITHIN, links: vec![BRIDGE.into(), BRIDGE.into()] },
    ]
}

/// The table that these changes make, as the kernel will tell of it.
pub fn wanted(rules: &[Change]) -> Table {
    let comment = rules.iter().find_map(|change| match change {
        Change::AddTable { comment } => Some(comment.clone()),
        _ => None,
    });
    let count =
        |name: &str| rules.iter().filter(|c| matches!(c, Change::AddRule { chain, .. } if *chain == name)).count();
    Table { comment: comment.unwrap_or_default(), rules: CHAINS.map(|chain| Some(count(chain) as u32)) }
}
