//! Which packets are wanted: a part of the language of pcap-filter(7), as a program of classic BPF that the kernel asks.
//!
//! [`parse`](Filter::parse) reads it, `compile.rs` writes the program. What always holds: what is accepted means what it
//! means to tcpdump (tests/capture.rs compares the two on the same packets), everything else is refused by name.

mod compile;
mod parse;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use anyhow::Result;
use ipnet::IpNet;
use nix::libc::sock_filter;

pub use self::compile::nothing;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expression {
    Is(Primitive),
    Not(Box<Expression>),
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
}

/// One thing that a packet is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Primitive {
    protocol: Option<Protocol>,
    side: Side,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Ip,
    Ip6,
    Arp,
    Tcp,
    Udp,
    Sctp,
    Icmp,
    Icmp6,
}

/// Of the two ends of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Either,
    Source,
    Destination,
    Both,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    /// The protocol alone.
    Anything,
    /// One of these addresses.
    Hosts(Vec<IpAddr>),
    Net(IpNet),
    /// The first and the last one.
    Ports(u16, u16),
}

/// A filter that was understood.
#[derive(Debug, Clone)]
pub struct Filter {
    /// As it was typed.
    pub text: String,
    expression: Option<Expression>,
}

impl Filter {
    /// Reads a filter; an empty one wants every packet. `addresses` tells those of a container's name.
    pub fn parse(text: &str, addresses: &dyn Fn(&str) -> Vec<IpAddr>) -> Result<Self> {
        Ok(Self { text: text.trim().to_owned(), expression: parse::parse(text, addresses)? })
    }

    /// The program.
    ///
    /// Errors: the kernel takes none of more than 4096 instructions.
    pub fn program(&self) -> Result<Vec<sock_filter>> {
        compile::compile(self.expression.as_ref())
    }
}
