//! The name server of a container: members by name, everything else by the host's resolvers.
//!
//! There is no shared daemon. The child opens a datagram socket and a listening one at [`ADDRESS`] in its own network
//! namespace ([`open`]) and hands both to the process that holds the container, which answers on them from its poll loop, between its
//! other work:
//!
//! ```text
//!   container's network                    the holder, in the host's network
//!   program ---- 127.0.0.11:53 udp, tcp ---> Responder --- Directory: members' names and addresses
//!                                                |
//!                                                +---- resolvers of /etc/resolv.conf, as they are at the time of the query
//! ```
//!
//! [`Responder`] has one descriptor to be polled (an epoll instance with a timer in it) and one function that does what
//! there is to do; nothing waits and there is no thread. What the container can make it hold is bounded: 128 queries that
//! were passed on, 16 connections, a message of 64 KiB each at most; nothing of it is allocated before it is needed.
//!
//! **What is asked elsewhere**: every name that no member has, one without a dot too, as docker does it; of an address in the
//! container's own networks nobody is asked. The servers are asked from the host's network, so a stub on the host's loopback
//! device is as good as any.
//!
//! **The port is the caller's choice.** While a socket is bound to port 53 of [`ADDRESS`], no program in the container can bind
//! port 53 of all addresses, as name servers do. Bound to another port, with rules in the container's network that rewrite
//! it, the responder is in nobody's way and works the same.
//!
//! **No library for the wire.** What is passed on must arrive as it was sent (options of EDNS, cookies, types that nobody knows
//! yet), so all that is read of a message is its header, its question and the size in its EDNS record, and all that is
//! written is three kinds of records. Measured as the difference that parsing a query and writing those three makes to a
//! small program (`opt-level = "s"`, fat LTO): `hickory-proto` 284 KiB and 52 crates, `simple-dns` 68 KiB and 2 crates, and
//! both build a tree of every record for it. `simple-dns` is the tests' witness that what is written here means what is meant.

mod members;
mod message;
mod responder;
mod servers;
mod sockets;
mod stream;
#[cfg(test)]
mod tests;
mod upstream;

use std::net::{IpAddr, Ipv4Addr};

pub use responder::Responder;
pub use servers::Servers;
pub use sockets::open;

/// Where a container finds its name server, as with docker. All of `127.0.0.0/8` belongs to `lo`, so it is there in every
/// namespace whose `lo` is up and in the way of no network.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// The port of DNS.
pub const PORT: u16 = 53;

/// Who is a member: of the networks that the asking container is on, as of now.
///
/// It is asked once or a few times for each query, from within [`Responder::serve`], so it must not wait for anything.
pub trait Directory {
    /// The addresses of the members of this name: a container's name, an alias, or `host.minirun.internal`. `name` is in
    /// lower case and has no dot at its end; names are the same whatever their case. None where no member has the name;
    /// an empty list for a member without addresses, whose name is then not asked for elsewhere.
    fn addresses(&self, name: &str) -> Option<Vec<IpAddr>>;

    /// The names of the member at this address, the one to be shown first.
    fn names(&self, address: IpAddr) -> Vec<String>;

    /// Whether the address lies in one of the container's own networks: then nobody outside is asked for its name.
    fn owns(&self, address: IpAddr) -> bool;
}

/// How a container's queries are answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// The domains of the line `search` in the container's resolv.conf: a member's name is known with each of them too.
    pub search: Vec<String>,
    /// Whether names of others are asked for from the host's resolvers. Without it no packet leaves, and they do not exist:
    /// names are a way out of a network that has no other (CVE-2024-29018).
    pub forward: bool,
    /// The servers to ask, from the host's network (`--dns`). None: those of the host's resolv.conf.
    pub servers: Vec<IpAddr>,
}
