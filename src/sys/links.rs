//! Calls about links and network namespaces for which no crate has a safe form.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};

use nix::libc;

/// The number of the network namespace of a socket, never used again until the next boot (`SO_NETNS_COOKIE`, Linux 5.14).
pub fn netns_cookie(socket: impl AsFd) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes, the size of `cookie`; both live across the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut size,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Whether the link `name` of the socket's network namespace has a carrier (`ETHTOOL_GLINK`). Before it answers, the kernel
/// catches up with what follows from a change of the carrier, which it else does some time later.
pub fn has_carrier(socket: impl AsFd, name: &str) -> io::Result<bool> {
    const ETHTOOL_GLINK: u32 = 0x0a;
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    // `struct ethtool_value`: command and answer.
    let mut value = [ETHTOOL_GLINK, 0];
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: the kernel reads the request and writes one `ethtool_value` where its pointer leads; both live across the call.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result == 0 { Ok(value[1] != 0) } else { Err(io::Error::last_os_error()) }
}

/// A request about the link `name`.
fn interface_request(name: &str) -> libc::ifreq {
    // SAFETY: all-zero is a valid `ifreq`: integers, and a union of integers and pointers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request
}

/// The index of the link `name` in the socket's network namespace (`SIOCGIFINDEX`, netdevice(7)).
pub fn link_index(socket: impl AsFd, name: &str) -> io::Result<u32> {
    let mut request = interface_request(name);
    // SAFETY: the kernel reads and writes one `ifreq`, which lives across the call.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCGIFINDEX, &raw mut request) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: this call fills in this field of the union.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex } as u32)
}

/// Makes a tap device that stays when nobody has it open, in the network namespace in which `tun` (`/dev/net/tun`) was opened;
/// user `owner` may open it.
pub fn add_tap(tun: impl AsFd, name: &str, index: u32, owner: u32) -> io::Result<()> {
    let tun = tun.as_fd().as_raw_fd();
    let check = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: the kernel reads one `int` where the pointer leads; it lives across the call.
    check(unsafe { libc::ioctl(tun, libc::TUNSETIFINDEX, &raw const index) })?;
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the kernel reads and writes one `ifreq` where the pointer leads; it lives across the call.
    check(unsafe { libc::ioctl(tun, libc::TUNSETIFF, &raw mut request) })?;
    // SAFETY: the argument is a number, no pointer.
    check(unsafe { libc::ioctl(tun, libc::TUNSETOWNER, libc::c_ulong::from(owner)) })?;
    // SAFETY: the argument is a number, no pointer.
    check(unsafe { libc::ioctl(tun, libc::TUNSETPERSIST, 1 as libc::c_ulong) })
}

/// A netlink socket that another process opened. (`netlink-sys` takes descriptors in no safe way.)
pub fn netlink_socket(fd: OwnedFd) -> netlink_sys::Socket {
    // SAFETY: `into_raw_fd` gives up ownership of an open descriptor, and the socket takes it over.
    unsafe { netlink_sys::Socket::from_raw_fd(fd.into_raw_fd()) }
}
