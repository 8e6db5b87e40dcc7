//! Packet sockets and the ring of packets that the kernel shares with their reader (packet(7); the kernel's
//! Documentation/networking/packet_mmap.rst, version 3 of the ring).
//!
//! Called by `capture/ring.rs`, which knows what is in a block. What always holds here: a block is looked at only while the
//! kernel has handed it over, and no reference into it outlives that.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::libc;

/// The ring's form, as the kernel is told it (`struct tpacket_req3`).
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Bytes of a block: a power of two, of whole pages.
    pub block: u32,
    /// How many blocks.
    pub count: u32,
    /// A block that is not full is handed over after so many milliseconds.
    pub patience: u32,
}

/// Gives a packet socket its ring. Before it is bound, so that nothing is received otherwise.
///
/// Errors: `ENOMEM`; `EINVAL` for a shape that the kernel does not take.
pub fn make_ring(socket: impl AsFd, shape: Shape) -> io::Result<()> {
    // Frames have no fixed size in this version, but the kernel wants to be told one that divides the block.
    const FRAME: u32 = 2048;
    let version = libc::tpacket_versions::TPACKET_V3 as libc::c_int;
    set(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, &version)?;
    let request = libc::tpacket_req3 {
        tp_block_size: shape.block,
        tp_block_nr: shape.count,
        tp_frame_size: FRAME,
        tp_frame_nr: shape.block / FRAME * shape.count,
        tp_retire_blk_tov: shape.patience,
        tp_sizeof_priv: 0,
        tp_feature_req_word: 0,
    };
    set(&socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)
}

/// Has a packet socket receive every packet of the link `index`, or of all links for 0.
pub fn bind_packets(socket: impl AsFd, index: u32) -> io::Result<()> {
    // SAFETY: all-zero is a valid `sockaddr_ll`, which consists of integers.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index as i32;
    let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the kernel reads `size` bytes, which is the size of `address`; that lives across the call.
    let result = unsafe { libc::bind(socket.as_fd().as_raw_fd(), (&raw const address).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the link `index` take what is not for itself too, as long as the socket is open (`PACKET_MR_PROMISC`).
pub fn see_everything(socket: impl AsFd, index: u32) -> io::Result<()> {
    let request = libc::packet_mreq {
        mr_ifindex: index as i32,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set(socket, libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
}

/// How many packets the kernel had no room for since the last question (`PACKET_STATISTICS`).
pub fn packets_dropped(socket: impl AsFd) -> io::Result<u32> {
    // `struct tpacket_stats_v3`: packets (with the dropped ones), dropped, how often the ring was full.
    let mut counts = [0u32; 3];
    let mut size = size_of_val(&counts) as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes, the size of `counts`; both live across the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut counts).cast(),
            &raw mut size,
        )
    };
    if result == 0 { Ok(counts[1]) } else { Err(io::Error::last_os_error()) }
}

/// The name of the link `index` in the socket's network namespace (`SIOCGIFNAME`).
pub fn link_name(socket: impl AsFd, index: u32) -> io::Result<String> {
    let mut request = named("");
    request.ifr_ifru.ifru_ifindex = index as i32;
    about_link(socket, libc::SIOCGIFNAME, &mut request)?;
    let name = request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| byte.cast_unsigned());
    Ok(String::from_utf8_lossy(&name.collect::<Vec<u8>>()).into_owned())
}

/// The index of the link `name` there (`SIOCGIFINDEX`). `ENODEV` where there is none.
pub fn link_index(socket: impl AsFd, name: &str) -> io::Result<u32> {
    let mut request = named(name);
    about_link(socket, libc::SIOCGIFINDEX, &mut request)?;
    // SAFETY: this request has the kernel fill in the index; any bytes are a valid integer.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex } as u32)
}

/// The kind of hardware of the link `name` there, `ARPHRD_*` (`SIOCGIFHWADDR`).
pub fn link_kind(socket: impl AsFd, name: &str) -> io::Result<u16> {
    let mut request = named(name);
    about_link(socket, libc::SIOCGIFHWADDR, &mut request)?;
    // SAFETY: this request has the kernel fill in an address; any bytes are a valid integer.
    Ok(unsafe { request.ifr_ifru.ifru_hwaddr.sa_family })
}

fn named(name: &str) -> libc::ifreq {
    // SAFETY: all-zero is a valid `ifreq`: integers, and a union of integers and pointers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request
}

fn about_link(socket: impl AsFd, what: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the three requests that are made read and write one `ifreq` and follow no pointer in it; it lives across the
    // call.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), what as libc::Ioctl, std::ptr::from_mut(request)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set<T>(socket: impl AsFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `size` bytes, which is the size of `value`, plain integers in all of the uses above; it lives
    // across the call.
    let result =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The ring of a packet socket, in this process's memory.
#[derive(Debug)]
pub struct Ring {
    start: NonNull<u8>,
    block: usize,
    count: usize,
    next: usize,
}

impl Ring {
    /// Maps the ring that [`make_ring`] gave a socket, of the same shape.
    pub fn map(socket: impl AsFd, shape: Shape) -> io::Result<Self> {
        let (block, count) = (shape.block as usize, shape.count as usize);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the kernel chooses where; nothing that is mapped already is touched.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), block * count, protection, libc::MAP_SHARED, socket.as_fd().as_raw_fd(), 0)
        };
        match NonNull::new(start.cast()) {
            Some(start) if start.as_ptr() != libc::MAP_FAILED.cast() => Ok(Self { start, block, count, next: 0 }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.count
    }

    /// Gives `with` the next block, if the kernel has handed it over, and gives it back to the kernel then.
    pub fn take<T>(&mut self, with: impl FnOnce(&[u8]) -> T) -> Option<T> {
        /// Where the status is in `struct tpacket_block_desc`.
        const STATUS: usize = 8;
        const OURS: u32 = libc::TP_STATUS_USER;
        // SAFETY: `next` is less than `count`, so the block lies in the mapping.
        let block = unsafe { self.start.add(self.next * self.block) };
        // SAFETY: the status lies in the block, which begins at a page.
        let status = unsafe { block.add(STATUS) };
        // SAFETY: it is aligned to its four bytes, mapped as long as `self` lives, and this process looks at it in no other way
        // while this reference is there: the slice below is made by the kernel's leave and is gone before it is written.
        let status = unsafe { AtomicU32::from_ptr(status.cast().as_ptr()) };
        if status.load(Ordering::Acquire) & OURS == 0 {
            return None;
        }
        // SAFETY: the block is mapped, and the kernel writes to none that it has handed over, until the status says that it has
        // it back, which is after the last use of the slice.
        let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr(), self.block) };
        let done = with(bytes);
        status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.next = (self.next + 1) % self.count;
        Some(done)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is as long as it was made, and nothing refers to it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.block * self.count) };
    }
}
