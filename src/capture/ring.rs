//! A tap: a packet socket in some network namespace, and the ring by which its packets come.
//!
//! It is opened by a process in that namespace ([`open`]) and read by one outside ([`Tap`]). One socket sees all links of the
//! namespace, those that come later too. A ring, and not recvmsg(2): under a load of small packets it loses fewer of them for
//! the same memory, and costs no system call a packet (docs/capture.md has the figures).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::libc::sock_filter;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, getsockopt, socket, sockopt};

use super::filter;
use crate::error::refused;
use crate::sys::packet::{self, Ring, Shape};

/// Bytes of a block of the ring: larger than any packet, also one that is not cut into segments yet.
const BLOCK: u32 = 1 << 18;
/// A block that is not full comes after so many milliseconds.
const PATIENCE: u32 = 20;
/// Bytes of the ring, unless it is said.
pub const USUAL: u64 = 8 << 20;

/// `PACKET_OUTGOING`: what the namespace sends.
pub const OUTGOING: u8 = 4;

/// Of which links the packets are.
#[derive(Debug, Clone, Copy)]
pub enum Links<'a> {
    /// Of all.
    All,
    /// Of one, by its name.
    One(&'a str),
    /// Of a bridge, by its name: all that comes to it, whomever it is for.
    Bridge(&'a str),
}

/// The form of a ring of so many bytes, rounded up to whole blocks.
///
/// Errors: less than four blocks, which would hold a few large packets; more than 1 GiB.
pub fn shape(bytes: u64) -> Result<Shape> {
    let count = bytes.div_ceil(u64::from(BLOCK));
    if !(4..=4096).contains(&count) {
        let message = format!("use a ring of {bytes} bytes: it is too {}", if count < 4 { "small" } else { "large" });
        return Err(refused(message, "1m to 1g; 8m is usual"));
    }
    Ok(Shape { block: BLOCK, count: count as u32, patience: PATIENCE })
}

/// Opens a tap in the network namespace that this process is in. From here on packets are kept for whoever maps the ring.
pub fn open(links: Links<'_>, program: &[sock_filter], shape: Shape) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    // Without a protocol: nothing comes before it is bound.
    let tap = socket(AddressFamily::Packet, SockType::Raw, flags, None).context("open a packet socket")?;
    let index = match links {
        Links::All => 0,
        Links::One(name) => match packet::link_index(&tap, name) {
            Err(_) => bail!("capture from interface `{name}`: there is none, but {}", links_here().join(", ")),
            Ok(index) => index,
        },
        Links::Bridge(name) => packet::link_index(&tap, name).with_context(|| format!("find bridge `{name}`"))?,
    };
    crate::sys::attach_filter(&tap, program).context("attach the filter")?;
    packet::make_ring(&tap, shape).with_context(|| format!("make a ring of {} blocks for packets", shape.count))?;
    if let Links::Bridge(name) = links {
        packet::see_everything(&tap, index).with_context(|| format!("see all that comes to bridge `{name}`"))?;
    }
    packet::bind_packets(&tap, index).context("bind a packet socket")?;
    Ok(tap)
}

/// The names of the links of this process's network namespace.
fn links_here() -> Vec<String> {
    let all = nix::net::if_::if_nameindex();
    all.iter().flatten().map(|link| link.name().to_string_lossy().into_owned()).collect()
}

/// A packet, as the kernel has put it into the ring.
#[derive(Debug, Clone, Copy)]
pub struct Packet<'a> {
    /// Nanoseconds since 1970.
    pub time: u64,
    /// The index of its link.
    pub link: u32,
    /// The link's kind of hardware, `ARPHRD_*`.
    pub kind: u16,
    /// `PACKET_HOST`, `_BROADCAST`, `_MULTICAST`, `_OTHERHOST`, `_OUTGOING`: 0 to 4.
    pub way: u8,
    /// The VLAN tag that the kernel took out of it: four bytes, which stood behind the hardware addresses.
    pub tag: Option<[u8; 4]>,
    /// As much of it as was kept, from the link's header on, without that tag.
    pub bytes: &'a [u8],
    /// Its length on the wire, without that tag.
    pub length: u32,
}

/// An open tap with its ring.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
    ring: Ring,
    dropped: u64,
}

impl Tap {
    /// Takes over what [`open`] opened with the same shape.
    pub fn of(socket: OwnedFd, shape: Shape) -> Result<Self> {
        let ring = Ring::map(&socket, shape).context("map the ring of packets")?;
        Ok(Self { socket, ring, dropped: 0 })
    }

    /// Readable when there are packets.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Calls `with` with the packets of the next block, and the socket; false where there is none.
    pub fn next_block(&mut self, mut with: impl FnMut(BorrowedFd<'_>, &Packet<'_>)) -> bool {
        let Self { socket, ring, .. } = self;
        ring.take(|block| packets(block).for_each(|packet| with(socket.as_fd(), &packet))).is_some()
    }

    /// How many blocks there are: nobody reads more of them at a time.
    pub fn blocks(&self) -> usize {
        self.ring.blocks()
    }

    /// Lets no further packet in. What is in the ring comes within [`Self::LAST`].
    pub fn shut(&self) {
        // An error is that of a socket that receives nothing any more.
        let _ = crate::sys::attach_filter(&self.socket, &filter::nothing());
    }

    /// So long after [`shut`](Self::shut) the last block is there.
    pub const LAST: Duration = Duration::from_millis(3 * PATIENCE as u64);

    /// How many packets the kernel had no room for until now.
    pub fn dropped(&mut self) -> u64 {
        self.dropped += packet::packets_dropped(&self.socket).map_or(0, u64::from);
        self.dropped
    }

    /// What has become of the socket, which poll(2) reports once: `ENETDOWN` where its one link is down or gone.
    pub fn error(&self) -> Option<io::Error> {
        let number = getsockopt(&self.socket, sockopt::SocketError).unwrap_or(0);
        (number != 0).then(|| io::Error::from_raw_os_error(number))
    }
}

/// The packets of a block: `struct tpacket_block_desc`, and a `struct tpacket3_hdr` before each of them.
fn packets(block: &[u8]) -> impl Iterator<Item = Packet<'_>> {
    let number =
        |at: usize| block.get(at..at + 4).map(|bytes| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    let mut left = number(12).unwrap_or(0);
    let mut at = number(16).unwrap_or(0) as usize;
    std::iter::from_fn(move || {
        left = left.checked_sub(1)?;
        let header = block.get(at..)?;
        at += number(at)? as usize;
        packet(header)
    })
}

fn packet(header: &[u8]) -> Option<Packet<'_>> {
    /// `TP_STATUS_VLAN_VALID` and `TP_STATUS_VLAN_TPID_VALID`.
    const TAGGED: u32 = 1 << 4;
    const KIND_OF_TAG: u32 = 1 << 6;
    /// The size of `struct tpacket3_hdr`, behind which a `struct sockaddr_ll` is.
    const ADDRESS: usize = 48;
    let four =
        |at: usize| header.get(at..at + 4).map(|bytes| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    let two = |at: usize| header.get(at..at + 2).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    let (seconds, nanoseconds, kept, length, status) = (four(4)?, four(8)?, four(12)?, four(16)?, four(20)?);
    let start = usize::from(two(24)?);
    let tag = (status & TAGGED != 0).then(|| {
        let kind = two(36).filter(|_| status & KIND_OF_TAG != 0).unwrap_or(0x8100).to_be_bytes();
        let tag = (four(32).unwrap_or(0) as u16).to_be_bytes();
        [kind[0], kind[1], tag[0], tag[1]]
    });
    Some(Packet {
        time: u64::from(seconds) * 1_000_000_000 + u64::from(nanoseconds),
        link: four(ADDRESS + 4)?,
        kind: two(ADDRESS + 8)?,
        way: *header.get(ADDRESS + 10)?,
        tag,
        bytes: header.get(start..start + kept as usize)?,
        length,
    })
}
