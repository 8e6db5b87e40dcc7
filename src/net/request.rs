//! What the network of a container is decided from.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use super::Network;
use super::lent::Lent;
use super::mode::Mode;
use super::tap::Tap;
use super::wish::Wish;

/// What a network is decided from.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// What `--net` said.
    pub mode: &'a Mode,
    /// The container's ID.
    pub id: &'a str,
    /// How often it has run before.
    pub runs: u32,
    /// `--sysctl`, the keys as files below /proc/sys.
    pub sysctls: &'a [(String, String)],
    /// The host's resolvers, which a range of addresses must not cover.
    pub resolvers: &'a [Ipv4Addr],
    /// `--dns`.
    pub servers: &'a [IpAddr],
    /// The domains that the container looks names up in.
    pub search: &'a [String],
    /// `-p`.
    pub publish: &'a [Wish],
    /// `--host-access`.
    pub host_access: bool,
    /// Links of the host that are lent.
    pub lent: &'a [Lent],
    /// `--tap`.
    pub taps: &'a [Tap],
    /// Where the networks are defined.
    pub data_root: &'a Path,
    /// The state directory.
    pub state: &'a Path,
    /// The container's network as it is, where it is to have an interface more.
    pub beside: Option<&'a Network>,
    /// The links that there are in it then, whoever made them.
    pub links: &'a [String],
    /// Nothing is taken, and nothing will be made.
    pub dry: bool,
}
