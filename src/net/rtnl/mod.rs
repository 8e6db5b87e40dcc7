//! The wire of rtnetlink(7): links, addresses and routes, sent in batches over one blocking socket.
//!
//! Used by `apply.rs` (changes) and `hub.rs` (questions); no other file knows the wire. The messages are built by the
//! `rtnetlink` crate; its connection, which sends one request at a time and waits, is not used: the kernel handles every
//! message of one `send` before that call returns, so a batch costs one round trip.

mod lending;
pub mod probe;
mod questions;
mod requests;
pub mod survey;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, anyhow, bail};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::libc;
use nix::sys::socket::{MsgFlags, recv};

pub use self::lending::{Kept, again, command, give_back, lend, set_mac_at, set_mtu_at};
pub use self::questions::Disciplines;
pub use self::requests::{
    add_address, add_bridge, add_default_route, add_entrance, add_filter, add_flood, add_macvlan, add_veth, add_vxlan,
    delete_link, move_link, no_link_local, rename, replace_default_route, set_alias, set_bridge_option, set_mac,
    set_mtu, set_port, set_port_option, set_up, shape,
};
use super::wire::{Received, explain_error, messages};

/// A hardware address.
pub type Mac = [u8; 6];

/// One message of a batch.
#[derive(Debug, Clone)]
pub struct Request {
    message: RouteNetlinkMessage,
    flags: u16,
}

/// Why a batch failed: which of its requests, and what the kernel said.
#[derive(Debug)]
pub struct Refused {
    /// Index into the batch.
    pub request: usize,
    /// The kernel's error number, with its own words where it gave some.
    pub error: anyhow::Error,
    /// The same as a bare error number.
    pub errno: i32,
}

/// A socket in one network namespace: that of the process that opened it, whoever uses it.
#[derive(Debug)]
pub struct Rtnl {
    socket: Socket,
    sequence: u32,
}

impl Rtnl {
    /// Opens a socket in the calling process's network namespace.
    pub fn open() -> Result<Self> {
        let socket = Socket::new(NETLINK_ROUTE).context("open netlink socket")?;
        Ok(Self::with(socket))
    }

    /// Takes a socket that another process opened in its own namespace.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self::with(crate::sys::netlink_socket(fd))
    }

    fn with(socket: Socket) -> Self {
        // The kernel's own words beside an error number, and dumps that honour a filter. Kernels without them (before 4.12
        // and 4.20) still answer, with less said and more listed.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_netlink_get_strict_chk(true);
        Self { socket, sequence: 0 }
    }

    /// Gives the descriptor away, to be handed to the process that will use it.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }

    /// The descriptor.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends all requests at once; the kernel handles them in order and goes on after a refused one.
    pub fn batch(&mut self, requests: Vec<Request>) -> Result<(), Refused> {
        let first = self.sequence.wrapping_add(1);
        let count = requests.len();
        let mut bytes = Vec::with_capacity(256 * count);
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            push(&mut bytes, request.message, request.flags | NLM_F_REQUEST | NLM_F_ACK, self.sequence);
        }
        let broken = |error: io::Error| Refused {
            request: 0,
            errno: error.raw_os_error().unwrap_or(libc::EIO),
            error: anyhow!(error).context("talk to the kernel by netlink"),
        };
        self.socket.send(&bytes, 0).map_err(broken)?;
        let mut answered = 0;
        let mut refused: Option<Refused> = None;
        let mut buffer = vec![0; 16 * 1024];
        while answered < count {
            let size = self.receive(&mut buffer).map_err(broken)?;
            for message in messages(&buffer[..size]) {
                if message.kind != netlink_packet_core::NLMSG_ERROR {
                    continue;
                }
                answered += 1;
                let request = message.sequence.wrapping_sub(first) as usize;
                if let Some((errno, words)) = message.error()
                    && refused.as_ref().is_none_or(|earlier| request < earlier.request)
                {
                    refused = Some(Refused { request, error: explain_error(errno, words.as_deref()), errno });
                }
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// Asks for all objects that match `question`.
    fn dump(&mut self, question: &RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>> {
        // A dump that the kernel's tables changed under is marked, and asked again.
        for _ in 0..16 {
            if let Some(answer) = self.dump_once(question.clone())? {
                return Ok(answer);
            }
        }
        bail!("list network objects: they change faster than they can be read")
    }

    fn dump_once(&mut self, question: RouteNetlinkMessage) -> Result<Option<Vec<RouteNetlinkMessage>>> {
        const NLM_F_DUMP_INTR: u16 = 0x10;
        self.ask(question, NLM_F_DUMP)?;
        let mut buffer = vec![0; 32 * 1024];
        let mut answer = Vec::new();
        let mut consistent = true;
        loop {
            let size = self.receive(&mut buffer).context("read from netlink")?;
            for message in messages(&buffer[..size]) {
                consistent &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.kind {
                    netlink_packet_core::NLMSG_DONE => return Ok(consistent.then_some(answer)),
                    netlink_packet_core::NLMSG_ERROR => {
                        if let Some((errno, _)) = message.error() {
                            return Err(io::Error::from_raw_os_error(errno)).context("list network objects");
                        }
                    }
                    _ => answer.extend(parse(&message)?),
                }
            }
        }
    }

    /// Asks for one object. `None` where the kernel says that there is none.
    fn get(&mut self, question: RouteNetlinkMessage) -> Result<Option<RouteNetlinkMessage>> {
        self.ask(question, 0)?;
        let mut buffer = vec![0; 16 * 1024];
        let size = self.receive(&mut buffer).context("read from netlink")?;
        let Some(message) = messages(&buffer[..size]).next() else { bail!("read from netlink: empty answer") };
        match message.error() {
            // The last two are what a blackhole and a prohibited route answer.
            Some((libc::ENODEV | libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL | libc::EACCES, _)) => Ok(None),
            Some((errno, _)) => Err(io::Error::from_raw_os_error(errno)).context("ask netlink"),
            None => parse(&message),
        }
    }

    fn ask(&mut self, question: RouteNetlinkMessage, flags: u16) -> Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(128);
        push(&mut bytes, question, flags | NLM_F_REQUEST, self.sequence);
        self.socket.send(&bytes, 0).context("ask netlink")?;
        Ok(())
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty()) {
                Err(nix::Error::EINTR) => {}
                other => return Ok(other?),
            }
        }
    }

    /// All links. Its cost grows with the containers, so it is not for the way of a start: before it lists anything, the
    /// kernel computes the size of every link's message.
    pub fn links(&mut self) -> Result<Vec<LinkMessage>> {
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answer = self.dump(&RouteNetlinkMessage::GetLink(question)).context("list links")?;
        Ok(answer.into_iter().filter_map(as_link).collect())
    }

    /// The link with this index, `None` where there is none.
    pub fn link(&mut self, index: u32) -> Result<Option<LinkMessage>> {
        let mut question = LinkMessage::default();
        question.header.index = index;
        question.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answer = self.get(RouteNetlinkMessage::GetLink(question));
        Ok(answer.with_context(|| format!("look at link {index}"))?.and_then(as_link))
    }

    /// The link called `name`, `None` where there is none.
    pub fn link_called(&mut self, name: &str) -> Result<Option<LinkMessage>> {
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::IfName(name.to_owned()));
        question.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answer = self.get(RouteNetlinkMessage::GetLink(question));
        Ok(answer.with_context(|| format!("look at link `{name}`"))?.and_then(as_link))
    }

    /// How many ports the bridge with this index has, without the one with index `but`.
    pub fn count_ports(&mut self, bridge: u32, but: Option<u32>) -> Result<usize> {
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::Controller(bridge));
        question.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answer = self.dump(&RouteNetlinkMessage::GetLink(question)).context("list ports")?;
        let is_port = |message: &RouteNetlinkMessage| match message {
            RouteNetlinkMessage::NewLink(link) => {
                link.attributes.contains(&LinkAttribute::Controller(bridge)) && Some(link.header.index) != but
            }
            _ => false,
        };
        Ok(answer.iter().filter(|message| is_port(message)).count())
    }

    /// The IPv4 addresses of one link, or of all where `link` is 0.
    pub fn addresses(&mut self, link: u32) -> Result<Vec<AddressMessage>> {
        self.addresses_of(AddressFamily::Inet, link)
    }

    /// The same of IPv6.
    pub fn addresses6(&mut self, link: u32) -> Result<Vec<AddressMessage>> {
        self.addresses_of(AddressFamily::Inet6, link)
    }

    fn addresses_of(&mut self, family: AddressFamily, link: u32) -> Result<Vec<AddressMessage>> {
        let mut question = AddressMessage::default();
        question.header.family = family;
        question.header.index = link;
        let answer = self.dump(&RouteNetlinkMessage::GetAddress(question)).context("list addresses")?;
        Ok(answer
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(address) if link == 0 || address.header.index == link => Some(address),
                _ => None,
            })
            .collect())
    }

    /// All IPv4 routes of all tables.
    pub fn routes(&mut self) -> Result<Vec<RouteMessage>> {
        let mut question = RouteMessage::default();
        question.header.address_family = AddressFamily::Inet;
        let answer = self.dump(&RouteNetlinkMessage::GetRoute(question)).context("list routes")?;
        Ok(answer.into_iter().filter_map(as_route).collect())
    }

    /// The indices of the links by which the first `most` routes of the main table leave. A router of the internet has a
    /// million routes, by a handful of links; it is asked for no more than that.
    pub fn links_of_routes(&mut self, most: usize) -> Result<Vec<u32>> {
        let mut question = RouteMessage::default();
        question.header.address_family = AddressFamily::Inet;
        question.header.table = RouteHeader::RT_TABLE_MAIN;
        // A socket of its own, because a list that is not read to its end keeps a socket busy.
        let mut rtnl = Self::open()?;
        rtnl.ask(RouteNetlinkMessage::GetRoute(question), NLM_F_DUMP)?;
        let (mut links, mut seen) = (Vec::new(), 0);
        let mut buffer = vec![0; 16 * 1024];
        while seen < most {
            let size = rtnl.receive(&mut buffer).context("list routes")?;
            for message in messages(&buffer[..size]) {
                if message.kind == netlink_packet_core::NLMSG_DONE || message.error().is_some() {
                    return Ok(links);
                }
                seen += 1;
                let link = parse(&message)?.and_then(as_route).and_then(|route| outgoing(&route));
                links.extend(link.filter(|link| !links.contains(link)));
            }
        }
        Ok(links)
    }

    /// The index of the link by which a packet to `destination` would leave; `None` where there is no route.
    pub fn route_to(&mut self, destination: Ipv4Addr) -> Result<Option<u32>> {
        let mut question = RouteMessage::default();
        question.header.address_family = AddressFamily::Inet;
        question.header.destination_prefix_length = 32;
        question.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(destination)));
        let answer = self.get(RouteNetlinkMessage::GetRoute(question)).context("find the route out")?;
        Ok(answer.and_then(as_route).and_then(|route| outgoing(&route)))
    }

    /// [`route_to`](Self::route_to) for IPv6.
    pub fn route_to6(&mut self, destination: Ipv6Addr) -> Result<Option<u32>> {
        Ok(self.route6(destination)?.and_then(|route| outgoing(&route)))
    }

    /// Whether the kernel takes what is sent to an IPv6 address for its own.
    pub fn is_local6(&mut self, address: Ipv6Addr) -> Result<bool> {
        Ok(self.route6(address)?.is_some_and(|route| route.header.kind == RouteType::Local))
    }

    fn route6(&mut self, destination: Ipv6Addr) -> Result<Option<RouteMessage>> {
        let mut question = RouteMessage::default();
        question.header.address_family = AddressFamily::Inet6;
        question.header.destination_prefix_length = 128;
        question.attributes.push(RouteAttribute::Destination(RouteAddress::Inet6(destination)));
        let answer = self.get(RouteNetlinkMessage::GetRoute(question)).context("find the route out")?;
        Ok(answer.and_then(as_route))
    }

    /// The index of the link called `name`, `None` where there is no such link.
    pub fn index_of(&mut self, name: &str) -> Result<Option<u32>> {
        Ok(self.link_called(name)?.map(|link| link.header.index))
    }
}

fn as_link(message: RouteNetlinkMessage) -> Option<LinkMessage> {
    match message {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    }
}

fn as_route(message: RouteNetlinkMessage) -> Option<RouteMessage> {
    match message {
        RouteNetlinkMessage::NewRoute(route) => Some(route),
        _ => None,
    }
}

/// The index of the link by which a route leaves.
pub fn outgoing(route: &RouteMessage) -> Option<u32> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn push(bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16, sequence: u32) {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let start = bytes.len();
    // Messages of a batch begin at multiples of four (NLMSG_ALIGN).
    bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut bytes[start..]);
}

fn parse(message: &Received<'_>) -> Result<Option<RouteNetlinkMessage>> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message.bytes)
        .map_err(|error| anyhow!("parse the kernel's answer: {error}"))?;
    Ok(match message.payload {
        NetlinkPayload::InnerMessage(inner) => Some(inner),
        _ => None,
    })
}
