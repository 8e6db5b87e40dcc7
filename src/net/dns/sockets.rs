//! The two sockets, as the child opens them in the container's network, and how an answer leaves by one.

use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result};
use nix::libc::{in_addr, in_pktinfo};
use nix::sys::socket::sockopt::IpFreebind;
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, SockaddrIn, SockaddrStorage, bind, listen,
    sendmsg, setsockopt, socket,
};

use super::ADDRESS;

/// A datagram socket and a listening one at `port` of [`ADDRESS`], closed by execve. `lo` need not be up yet: it is brought up
/// by the parent, at any time before the program runs.
///
/// Errors: for a port below 1024 (`net.ipv4.ip_unprivileged_port_start`) without `CAP_NET_BIND_SERVICE`.
pub fn open(port: u16) -> Result<(OwnedFd, OwnedFd)> {
    let bound = |kind| -> nix::Result<OwnedFd> {
        let socket = socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)?;
        // The address belongs to `lo`, and is nobody's as long as that is down and another link is up.
        setsockopt(&socket, IpFreebind, &true)?;
        let [a, b, c, d] = ADDRESS.octets();
        bind(socket.as_raw_fd(), &SockaddrIn::new(a, b, c, d, port))?;
        Ok(socket)
    };
    let open = || -> nix::Result<_> {
        let (udp, tcp) = (bound(SockType::Datagram)?, bound(SockType::Stream)?);
        listen(&tcp, Backlog::new(16)?)?;
        Ok((udp, tcp))
    };
    open().with_context(|| format!("open the name server's sockets at `{ADDRESS}:{port}`"))
}

/// Sends from the address that the socket is bound to. It must be said: a socket that was bound while no link was up was bound
/// to what the kernel then took for a broadcast address, and sends from the link's first one (`__inet_bind`, Linux 6.18).
/// Clients listen to nobody but whom they asked.
pub fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) -> nix::Result<usize> {
    let SocketAddr::V4(own) = socket.local_addr().map_err(|_| nix::Error::EINVAL)? else {
        return Err(nix::Error::EAFNOSUPPORT);
    };
    let address = in_addr { s_addr: u32::from_ne_bytes(own.ip().octets()) };
    let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: address };
    let control = [ControlMessage::Ipv4PacketInfo(&info)];
    let to = SockaddrStorage::from(to);
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], &control, MsgFlags::empty(), Some(&to))
}
