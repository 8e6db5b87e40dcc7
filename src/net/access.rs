//! `--host-access`: a container reaches what listens on the host's loopback device, at the host's address on its network, which
//! it knows as `host.minirun.internal`.
//!
//! Nothing is opened on the host for it. Rules in the container's *own* namespace lead what its programs send to that address to
//! sockets there, which the child opened and its holder has; the holder asks the kernel where it was meant to go, and passes it
//! on to that port of the host's loopback device (`relay/`). So no packet of it leaves the container's namespace, no other
//! container and no machine gains a way to the host, a flushed table of the host's changes nothing, and all of it ends with
//! the container. `127.0.0.1` comes first, then `::1`, then the address itself: what listens there alone is reached as before.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, bail};

use super::conntrack::Connections;
use super::relay::Relay;
use super::step::Step;
use super::table::{Change, Element, HOSTS4, Hook, Match, Value, Verdict, What, element};
use super::{NAMES_PORT, dns, nft};

/// Where what is sent to the host is led to, beside the name server.
const PORT: u16 = NAMES_PORT + 1;
/// TCP and UDP.
const PROTOCOLS: [u8; 2] = [6, 17];

/// How many sockets [`open`] opens.
pub const SOCKETS: usize = 3;

/// The rules in the container's own table.
pub fn rules() -> Vec<Step> {
    let chain = "host";
    let to_host = Match::In(&[What::Destination4, What::Protocol], &HOSTS4);
    // That it has ports is said for nft(8), which writes no port into what has none.
    let (matches, verdict) = (vec![Match::HasPorts, to_host], Verdict::RedirectTo(dns::ADDRESS, PORT));
    let changes = [
        Change::AddSet(&HOSTS4),
        Change::AddChain { name: chain, hook: Some(Hook::Output) },
        Change::AddRule { chain, matches, verdict },
    ];
    changes.into_iter().map(Step::NftInside).collect()
}

/// What of the rules is of one address of the host's.
pub fn elements(gateway: Ipv4Addr) -> impl Iterator<Item = Element> {
    PROTOCOLS.into_iter().map(move |protocol| element(&HOSTS4, vec![Value::Ipv4(gateway), Value::Protocol(protocol)]))
}

/// In the container's namespace: the sockets.
pub fn open() -> Result<Vec<OwnedFd>> {
    let (udp, tcp) = dns::open(PORT).context("open the way to the host")?;
    let connections = nft::open().context("open nfnetlink socket")?;
    Ok(vec![udp, tcp, connections.as_fd().try_clone_to_owned()?])
}

/// Passes on what comes by these sockets.
pub fn relay(sockets: Vec<OwnedFd>) -> Result<Relay> {
    let Ok([udp, tcp, connections]) = <[OwnedFd; SOCKETS]>::try_from(sockets) else {
        bail!("open the way to the host: not all of its sockets came");
    };
    let mut relay = Relay::new()?;
    relay.add_host(udp, tcp, Connections::from_fd(connections))?;
    Ok(relay)
}
