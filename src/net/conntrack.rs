//! Connections that the kernel remembers (conntrack, over nfnetlink: `linux/netfilter/nfnetlink_conntrack.h`) and should not:
//! those of UDP when a port is published or taken back, and what began while somebody had flushed the rules. A client that
//! sends again and again keeps its entry alive, and the entry says where its packets go: to a container that has ended, or to
//! nobody.

use std::net::{IpAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE};
use netlink_sys::{Socket, protocols::NETLINK_NETFILTER};
use nix::libc;
use nix::sys::socket::{MsgFlags, recv};

use super::publish::{Port, Protocol};
use super::wire::{NESTED, attribute, attributes, explain_error, messages};

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
/// `CTA_TUPLE_ORIG`: how the first packet looked when it came.
const ORIGINAL: u16 = 1;
/// `CTA_TUPLE_REPLY`: how answers look.
const REPLY: u16 = 2;
/// `CTA_STATUS`, `CTA_STATUS_MASK`, and some of the bits (`IPS_*`).
const STATUS: u16 = 3;
const STATUS_MASK: u16 = 26;
const ANSWERED: u32 = 1 << 1;
const SOURCE_NATTED: u32 = 1 << 4;
const DESTINATION_NATTED: u32 = 1 << 5;
const TUPLE_ADDRESSES: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IPV4_SOURCE: u16 = 1;
const IPV4_DESTINATION: u16 = 2;
const IPV6_SOURCE: u16 = 3;
const NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;

/// Forgets what is remembered of these ports of the host, those of UDP.
pub fn forget(ports: &[Port]) -> Result<()> {
    let udp: Vec<&Port> = ports.iter().filter(|port| port.protocol == Protocol::Udp).collect();
    for is_ipv4 in [true, false] {
        let ours: Vec<&Port> = udp.iter().copied().filter(|port| port.address.is_ipv4() == is_ipv4).collect();
        if !ours.is_empty() {
            forget_all(is_ipv4, &[], |flow| ours.iter().any(|port| flow.is_to(port)))
                .context("forget what is remembered of a published port")?;
        }
    }
    Ok(())
}

/// Forgets what began while there were no rules: what left one of these networks or came to one of these ports, was not
/// translated and had no answer. Whoever sent it sends it again, and the kernel would remember what to do with it.
pub fn forget_untranslated(networks: &[IpNet], ports: &[Port]) -> Result<()> {
    // The kernel goes through those without an answer alone (Linux 5.17; one that does not know this sends all).
    let mut unanswered = Vec::new();
    attribute(&mut unanswered, STATUS, &0u32.to_be_bytes());
    attribute(&mut unanswered, STATUS_MASK, &ANSWERED.to_be_bytes());
    for is_ipv4 in [true, false] {
        let networks: Vec<_> = networks.iter().filter(|net| net.addr().is_ipv4() == is_ipv4).collect();
        let ports: Vec<_> = ports.iter().filter(|port| port.address.is_ipv4() == is_ipv4).collect();
        if networks.is_empty() && ports.is_empty() {
            continue;
        }
        forget_all(is_ipv4, &unanswered, |flow| {
            let is_ours = flow.source.is_some_and(|source| networks.iter().any(|net| net.contains(&source)));
            let went_out = is_ours && flow.status & SOURCE_NATTED == 0;
            let came_in = flow.status & DESTINATION_NATTED == 0 && ports.iter().any(|port| flow.is_to(port));
            flow.status & ANSWERED == 0 && (went_out || came_in)
        })
        .context("forget what was not translated")?;
    }
    Ok(())
}

/// What is remembered of a connection, as its first packet looked when it came.
struct Flow {
    source: Option<IpAddr>,
    protocol: Option<u8>,
    destination_port: Option<u16>,
    status: u32,
}

impl Flow {
    /// From its original tuple, and its status (`IPS_*`).
    fn of(tuple: &[u8], status: u32) -> Self {
        let part = |outer: u16, inner: &[u16]| {
            let (_, value) = attributes(tuple).find(|(kind, _)| *kind == outer)?;
            attributes(value).find(|(kind, _)| inner.contains(kind)).map(|(_, value)| value)
        };
        let source = part(TUPLE_ADDRESSES, &[IPV4_SOURCE, IPV6_SOURCE]).and_then(|value| {
            let four = <[u8; 4]>::try_from(value).map(IpAddr::from);
            four.or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
        });
        let port = part(TUPLE_PROTOCOL, &[DESTINATION_PORT]);
        Self {
            source,
            protocol: part(TUPLE_PROTOCOL, &[NUMBER]).and_then(|value| value.first().copied()),
            destination_port: port.and_then(|value| value.try_into().ok()).map(u16::from_be_bytes),
            status,
        }
    }

    /// Whether it went to that port of the host.
    fn is_to(&self, port: &Port) -> bool {
        let range = port.host..=port.host + (port.count - 1);
        self.protocol == Some(port.protocol.number()) && self.destination_port.is_some_and(|to| range.contains(&to))
    }
}

fn forget_all(is_ipv4: bool, filter: &[u8], is_wanted: impl Fn(&Flow) -> bool) -> Result<()> {
    let family = if is_ipv4 { libc::AF_INET } else { libc::AF_INET6 } as u8;
    let socket = Socket::new(NETLINK_NETFILTER)?;
    let mut bytes = Vec::new();
    message(&mut bytes, GET, NLM_F_REQUEST | NLM_F_DUMP, family, filter);
    socket.send(&bytes, 0)?;
    let mut found: Vec<Vec<u8>> = Vec::new();
    let mut buffer = vec![0; 32 * 1024];
    'all: loop {
        let size = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        for answer in messages(&buffer[..size]) {
            if answer.kind == NLMSG_DONE {
                break 'all;
            }
            if let Some((errno, words)) = answer.error() {
                return Err(explain_error(errno, words.as_deref()));
            }
            let find = |wanted: u16| {
                let mut all = attributes(answer.bytes.get(20..).unwrap_or_default());
                all.find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
            };
            let status = find(STATUS).and_then(|value| value.try_into().ok()).map_or(0, u32::from_be_bytes);
            found.extend(find(ORIGINAL).filter(|tuple| is_wanted(&Flow::of(tuple, status))).map(<[u8]>::to_vec));
        }
    }
    for tuple in found {
        let (mut bytes, mut body) = (Vec::new(), Vec::new());
        attribute(&mut body, ORIGINAL | NESTED, &tuple);
        message(&mut bytes, DELETE, NLM_F_REQUEST | NLM_F_ACK, family, &body);
        socket.send(&bytes, 0)?;
        // One that has gone meanwhile is no error.
        recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    }
    Ok(())
}

/// What the kernel remembers of connections in one network namespace, to be asked while a container runs.
#[derive(Debug)]
pub struct Connections(Socket);

impl Connections {
    /// Takes a socket that another process opened in its own namespace.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(crate::sys::netlink_socket(fd))
    }

    /// Where a datagram that arrived at `own` was sent to by `client`, before its destination was changed.
    pub fn asked(&self, own: SocketAddrV4, client: SocketAddrV4) -> Option<SocketAddrV4> {
        let (mut bytes, mut body) = (Vec::new(), Vec::new());
        attribute(&mut body, REPLY | NESTED, &tuple(own, client));
        message(&mut bytes, GET, NLM_F_REQUEST, libc::AF_INET as u8, &body);
        self.0.send(&bytes, 0).ok()?;
        let mut buffer = [0; 8192];
        let size = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()).ok()?;
        let answer = messages(&buffer[..size]).next().filter(|answer| answer.error().is_none())?;
        let (_, original) = attributes(answer.bytes.get(20..)?).find(|(kind, _)| *kind == ORIGINAL)?;
        let part = |outer: u16, inner: u16| {
            let (_, value) = attributes(original).find(|(kind, _)| *kind == outer)?;
            attributes(value).find(|(kind, _)| *kind == inner).map(|(_, value)| value)
        };
        let address: [u8; 4] = part(TUPLE_ADDRESSES, IPV4_DESTINATION)?.try_into().ok()?;
        let port: [u8; 2] = part(TUPLE_PROTOCOL, DESTINATION_PORT)?.try_into().ok()?;
        Some(SocketAddrV4::new(address.into(), u16::from_be_bytes(port)))
    }
}

/// The attributes of a datagram's ends.
fn tuple(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let (mut addresses, mut ports, mut tuple) = (Vec::new(), Vec::new(), Vec::new());
    attribute(&mut addresses, IPV4_SOURCE, &from.ip().octets());
    attribute(&mut addresses, IPV4_DESTINATION, &to.ip().octets());
    attribute(&mut ports, NUMBER, &[Protocol::Udp.number()]);
    attribute(&mut ports, SOURCE_PORT, &from.port().to_be_bytes());
    attribute(&mut ports, DESTINATION_PORT, &to.port().to_be_bytes());
    attribute(&mut tuple, TUPLE_ADDRESSES | NESTED, &addresses);
    attribute(&mut tuple, TUPLE_PROTOCOL | NESTED, &ports);
    tuple
}

fn message(bytes: &mut Vec<u8>, kind: u16, flags: u16, family: u8, body: &[u8]) {
    bytes.extend([0; 4]);
    bytes.extend((SUBSYSTEM << 8 | kind).to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, 0, 0, 0]);
    bytes.extend(body);
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
}
