//! Frames of Ethernet as a test makes them, sent and heard on one link past the kernel's own network (packet(7)).
#![allow(unsafe_code, reason = "no crate binds a packet socket to a link without it")]

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::libc::{AF_PACKET, ETH_P_ALL, bind, sockaddr_ll};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

/// A hardware address.
pub type Mac = [u8; 6];
pub const BROADCAST: Mac = [0xff; 6];

/// One link, in the network where this was opened.
pub struct Wire(std::fs::File);

impl Wire {
    pub fn on(link: &str) -> Self {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket: OwnedFd =
            socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).expect("a packet socket");
        let index = if_nametoindex(link).unwrap_or_else(|error| panic!("{link}: {error}"));
        let address = sockaddr_ll {
            sll_family: AF_PACKET as u16,
            sll_protocol: (ETH_P_ALL as u16).to_be(),
            sll_ifindex: index as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = size_of::<sockaddr_ll>() as u32;
        // SAFETY: the kernel reads `length` bytes of an address that lives across the call.
        let bound = unsafe { bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        assert_eq!(bound, 0, "bind to {link}: {}", io::Error::last_os_error());
        Self(socket.into())
    }

    pub fn send(&mut self, frame: &[u8]) {
        self.0.write_all(frame).expect("send a frame");
    }

    /// All that comes until `last` has come and some time has gone; two seconds at most.
    #[track_caller]
    pub fn until(&mut self, last: &[u8]) -> Vec<Vec<u8>> {
        let patience = Instant::now() + Duration::from_secs(2);
        let mut end = patience;
        let mut heard = Vec::new();
        let mut buffer = [0; 2048];
        while Instant::now() < end {
            match self.0.read(&mut buffer) {
                Ok(length) => {
                    if buffer[..length] == *last {
                        end = Instant::now() + Duration::from_millis(50);
                    }
                    heard.push(buffer[..length].to_vec());
                }
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        assert!(heard.iter().any(|frame| frame == last), "the last frame did not come");
        heard
    }
}

/// A frame: its two hardware addresses, its protocol, and what is in it. It is not filled up to 60 bytes: a bridge that asks
/// the rules would take that off again.
pub fn frame(to: Mac, from: Mac, protocol: u16, parts: &[&[u8]]) -> Vec<u8> {
    let mut frame = [to, from].concat();
    frame.extend(protocol.to_be_bytes());
    parts.iter().for_each(|part| frame.extend_from_slice(part));
    frame
}
