//! Everything that a network namespace has, for `minirun graph`: links of any kind, addresses, default routes.
//!
//! Read attribute by attribute and not by the message parser: a link of a kind that is newer than the parser must not keep
//! the others from being seen. Nothing here changes anything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR};
use nix::libc;

use super::Rtnl;
use crate::net::wire::{attribute, attributes, messages, text};

/// A routing table is read so far: a router of the internet has a million routes, and its default route is the first.
const MOST_ROUTES: usize = 10_000;

/// A link, as the kernel tells of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// `ifi_index`.
    pub index: u32,
    /// `IFF_*`.
    pub flags: u32,
    /// `IFLA_IFNAME`.
    pub name: String,
    /// `IFLA_IFALIAS`.
    pub alias: Option<String>,
    /// `IFLA_ADDRESS`.
    pub mac: Vec<u8>,
    /// `IFLA_MTU`.
    pub mtu: u32,
    /// `IFLA_MASTER`.
    pub master: Option<u32>,
    /// `IFLA_LINK`: the other end of a pair, or the link below.
    pub link: Option<u32>,
    /// `IFLA_LINK_NETNSID`: in which namespace that is, if it is another one.
    pub link_namespace: Option<i32>,
    /// `IFLA_INFO_KIND`.
    pub kind: Option<String>,
    /// `IFLA_INFO_DATA`, attributes of the kind.
    pub data: Vec<(u16, Vec<u8>)>,
    /// `IFLA_INFO_SLAVE_DATA`, attributes of a port.
    pub port: Vec<(u16, Vec<u8>)>,
    /// The first four numbers of `IFLA_STATS64`: packets and bytes, received and sent by turns.
    pub stats: Option<[u64; 4]>,
}

/// An address of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenAddress {
    /// The link.
    pub link: u32,
    /// The address, of this side where the link leads to one neighbour.
    pub address: IpAddr,
    /// The length of the prefix.
    pub prefix: u8,
}

/// A default route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenRoute {
    /// The router.
    pub gateway: Option<IpAddr>,
    /// The link.
    pub link: u32,
    /// `RTA_PRIORITY`.
    pub metric: u32,
}

impl Rtnl {
    /// All links with all that is known of them.
    pub fn survey_links(&mut self) -> Result<Vec<Seen>> {
        let mut links = Vec::new();
        self.read_all(libc::RTM_GETLINK, &[0; 16], usize::MAX, |body| links.extend(link(body)))
            .context("list links")?;
        Ok(links)
    }

    /// All addresses of both families.
    pub fn survey_addresses(&mut self) -> Result<Vec<SeenAddress>> {
        let mut all = Vec::new();
        self.read_all(libc::RTM_GETADDR, &[0; 8], usize::MAX, |body| all.extend(address(body)))
            .context("list addresses")?;
        Ok(all)
    }

    /// The default routes of both families. The last question to be asked by a socket: a long list is not read to its end.
    pub fn survey_defaults(&mut self) -> Result<Vec<SeenRoute>> {
        let mut all = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut question = [0; 12];
            question[0] = family as u8;
            question[4] = libc::RT_TABLE_MAIN;
            let whole = self
                .read_all(libc::RTM_GETROUTE, &question, MOST_ROUTES, |body| all.extend(default_route(body)))
                .context("list routes")?;
            if !whole {
                break;
            }
        }
        Ok(all)
    }

    /// By which number this socket's namespace knows another one (`RTM_GETNSID`); `None` where it has none for it. Asking gives
    /// it none.
    pub fn number_of(&mut self, namespace: BorrowedFd<'_>) -> Result<Option<i32>> {
        const RTM_GETNSID: u16 = 90;
        const NETNSA_NSID: u16 = 1;
        const NETNSA_FD: u16 = 3;
        // `struct rtgenmsg`, filled up to four bytes.
        let mut question = vec![0; 4];
        attribute(&mut question, NETNSA_FD, &namespace.as_raw_fd().to_ne_bytes());
        self.send_raw(RTM_GETNSID, 0, &question)?;
        let mut buffer = vec![0; 4096];
        let size = self.receive(&mut buffer).context("ask for the number of a namespace")?;
        let Some(answer) = messages(&buffer[..size]).next() else { return Ok(None) };
        let mut found = attributes(answer.bytes.get(20..).unwrap_or_default());
        let number = found.find(|(kind, _)| *kind == NETNSA_NSID).and_then(|(_, value)| signed(value));
        Ok(number.filter(|number| answer.kind != NLMSG_ERROR && *number >= 0))
    }

    /// Has the socket told of changes of links, addresses and routes (rtnetlink(7), `RTMGRP_*`).
    pub fn listen(&mut self) -> Result<()> {
        const GROUPS: [u32; 5] = [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
        ];
        // With an address of its own: a socket without one is taken for the kernel, which is told of nothing.
        self.socket.bind_auto().context("listen to changes of links")?;
        for group in GROUPS {
            self.socket.add_membership(group).context("listen to changes of links")?;
        }
        self.socket.set_non_blocking(true).context("listen to changes of links")
    }

    /// Throws away what has come so far.
    pub fn forget_news(&mut self) {
        let mut buffer = vec![0; 32 * 1024];
        // An overrun is news as well, and told once.
        while self.receive(&mut buffer).is_ok_and(|size| size > 0) {}
    }

    fn send_raw(&mut self, kind: u16, flags: u16, body: &[u8]) -> Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        self.socket.send(&bytes, 0).context("ask netlink")?;
        Ok(())
    }

    /// Calls `each` with the bodies of the answers, `most` of them. Whether these were all. A list that changed while it was
    /// read is taken as it is: a picture of a moment is all that is wanted.
    fn read_all(&mut self, kind: u16, question: &[u8], most: usize, mut each: impl FnMut(&[u8])) -> Result<bool> {
        self.send_raw(kind, NLM_F_DUMP, question)?;
        let mut buffer = vec![0; 64 * 1024];
        let mut seen = 0;
        loop {
            let size = self.receive(&mut buffer).context("read from netlink")?;
            for message in messages(&buffer[..size]) {
                match (message.kind, message.error()) {
                    (NLMSG_DONE, _) => return Ok(true),
                    (NLMSG_ERROR, Some((errno, _))) => bail!("{}", std::io::Error::from_raw_os_error(errno)),
                    (NLMSG_ERROR, None) => {}
                    _ => each(&message.bytes[16..]),
                }
                seen += 1;
            }
            if seen >= most {
                return Ok(false);
            }
        }
    }
}

/// A number of four bytes.
pub fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

fn signed(value: &[u8]) -> Option<i32> {
    number(value).map(u32::cast_signed)
}

fn owned(buffer: &[u8]) -> Vec<(u16, Vec<u8>)> {
    attributes(buffer).map(|(kind, value)| (kind, value.to_vec())).collect()
}

/// `struct ifinfomsg` and its attributes (linux/if_link.h).
fn link(body: &[u8]) -> Option<Seen> {
    let mut seen = Seen { index: number(body.get(4..8)?)?, flags: number(body.get(8..12)?)?, ..Seen::default() };
    for (kind, value) in attributes(body.get(16..)?) {
        match kind {
            libc::IFLA_ADDRESS => seen.mac = value.to_vec(),
            libc::IFLA_IFNAME => seen.name = text(value),
            libc::IFLA_MTU => seen.mtu = number(value).unwrap_or_default(),
            libc::IFLA_LINK => seen.link = number(value),
            libc::IFLA_MASTER => seen.master = number(value),
            libc::IFLA_IFALIAS => seen.alias = Some(text(value)),
            libc::IFLA_LINK_NETNSID => seen.link_namespace = signed(value),
            libc::IFLA_STATS64 => {
                let mut numbers =
                    value.chunks_exact(8).map(|part| u64::from_ne_bytes(part.try_into().unwrap_or_default()));
                seen.stats = Some(std::array::from_fn(|_| numbers.next().unwrap_or_default()));
            }
            libc::IFLA_LINKINFO => {
                for (kind, value) in attributes(value) {
                    match kind {
                        libc::IFLA_INFO_KIND => seen.kind = Some(text(value)),
                        libc::IFLA_INFO_DATA => seen.data = owned(value),
                        libc::IFLA_INFO_SLAVE_DATA => seen.port = owned(value),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Some(seen)
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    }
}

/// `struct ifaddrmsg` and its attributes (linux/if_addr.h). Link-local addresses of IPv6, which every link has, are left out.
fn address(body: &[u8]) -> Option<SeenAddress> {
    let prefix = *body.get(1)?;
    let mut found = None;
    for (kind, value) in attributes(body.get(8..)?) {
        // Where both are there, the first is the neighbour's.
        if kind == libc::IFA_LOCAL || kind == libc::IFA_ADDRESS && found.is_none() {
            found = ip(value);
        }
    }
    let address = found.filter(|address| !matches!(address, IpAddr::V6(six) if six.is_unicast_link_local()))?;
    Some(SeenAddress { link: number(body.get(4..8)?)?, address, prefix })
}

/// `struct rtmsg` and its attributes (linux/rtnetlink.h): a unicast route to everywhere, of the main table.
fn default_route(body: &[u8]) -> Option<SeenRoute> {
    let (length, table, kind) = (*body.get(1)?, *body.get(4)?, *body.get(7)?);
    if length != 0 || table != libc::RT_TABLE_MAIN || kind != libc::RTN_UNICAST {
        return None;
    }
    let (mut route, mut link) = (SeenRoute { gateway: None, link: 0, metric: 0 }, None);
    for (kind, value) in attributes(body.get(12..)?) {
        match kind {
            libc::RTA_GATEWAY => route.gateway = ip(value),
            // A gateway of the other family: `struct rtvia`.
            libc::RTA_VIA => route.gateway = ip(value.get(2..)?),
            libc::RTA_OIF => link = number(value),
            libc::RTA_PRIORITY => route.metric = number(value)?,
            // The first of several ways: `struct rtnexthop` and its attributes.
            libc::RTA_MULTIPATH if link.is_none() => {
                link = number(value.get(4..8)?);
                let length = usize::from(u16::from_ne_bytes([value[0], value[1]]));
                let mut inner = attributes(value.get(8..length)?);
                route.gateway = inner.find(|(kind, _)| *kind == libc::RTA_GATEWAY).and_then(|(_, value)| ip(value));
            }
            _ => {}
        }
    }
    Some(SeenRoute { link: link?, ..route })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn reading_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (link(&bytes), address(&bytes), default_route(&bytes));
        }
    }

    #[test]
    fn several_ways_out_are_one_default_route() {
        let mut body = vec![libc::AF_INET as u8, 0, 0, 0, libc::RT_TABLE_MAIN, 0, 0, libc::RTN_UNICAST, 0, 0, 0, 0];
        let mut hop = vec![16, 0, 0, 0, 7, 0, 0, 0];
        attribute(&mut hop, libc::RTA_GATEWAY, &[10, 0, 0, 1]);
        attribute(&mut body, libc::RTA_MULTIPATH, &hop);
        let gateway = Some(IpAddr::from([10, 0, 0, 1]));
        assert_eq!(default_route(&body), Some(SeenRoute { gateway, link: 7, metric: 0 }));
    }
}
