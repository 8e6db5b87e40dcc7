//! Who reaches whom: what tests of networks ask from one network of the throw-away host to another.

use std::io::{IoSlice, IoSliceMut, PipeWriter, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::libc::in6_pktinfo;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn6, recvmsg, sendmsg, setsockopt, sockopt,
};
use serde_json::Value;

use super::{Host, in_network};

/// The first address in a line of `ip -o -4 addr`.
pub fn address_in(said: &str) -> Ipv4Addr {
    let (_, rest) = said.split_once("inet ").unwrap_or_else(|| panic!("no address in {said}"));
    rest.split(['/', ' ']).next().expect("a word").parse().expect("an address")
}

/// A listener that does not block, in the network where this runs.
pub fn listen(address: impl Into<IpAddr>, port: u16) -> TcpListener {
    let listener = TcpListener::bind(SocketAddr::new(address.into(), port)).expect("bind");
    listener.set_nonblocking(true).expect("nonblocking");
    listener
}

/// Whether a connection opens within a second, from the network where this runs.
pub fn connects(address: impl Into<IpAddr>, port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::new(address.into(), port), Duration::from_secs(1)).is_ok()
}

/// A transport that is asked by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    Tcp,
    Udp,
}

/// Ways to reach an address.
pub const ALL: [&str; 3] = ["tcp", "udp", "ping"];
pub const NONE: [&str; 0] = [];

/// The ways by which the network `path` reaches each of these addresses, where a [`Mirror`] is at `port`. All of it at once,
/// because what is not reached takes its time.
pub fn ways(path: &str, addresses: &[IpAddr], port: u16) -> Vec<(IpAddr, Vec<&'static str>)> {
    let start = |address: &IpAddr| {
        let address = *address;
        let tries: [fn(IpAddr, u16) -> bool; 3] = [
            |address, port| asks(By::Tcp, address, port).is_some(),
            |address, port| asks(By::Udp, address, port).is_some(),
            |address, _| pings(address),
        ];
        let start = |way: fn(IpAddr, u16) -> bool| {
            let path = path.to_owned();
            std::thread::spawn(move || in_network(&path, move || way(address, port)))
        };
        (address, tries.map(start))
    };
    let all: Vec<_> = addresses.iter().map(start).collect();
    let join = |(address, tries): (IpAddr, [JoinHandle<bool>; 3])| {
        let reached = tries.map(|one| one.join().expect("a thread"));
        (address, ALL.into_iter().zip(reached).filter(|(_, reached)| *reached).map(|(way, _)| way).collect())
    };
    all.into_iter().map(join).collect()
}

/// Whether an echo request is answered, in the network where this runs.
fn pings(address: IpAddr) -> bool {
    let mut ping = Command::new("busybox");
    ping.args(["ping", "-c", "1", "-W", "1", &address.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    ping.status().expect("busybox").success()
}

/// Asks a [`Mirror`] from the network where this runs: the address at which it sees whoever asks; `None` if no answer comes.
pub fn asks(by: By, address: impl Into<IpAddr>, port: u16) -> Option<IpAddr> {
    const PATIENCE: Duration = Duration::from_millis(1500);
    let address = SocketAddr::new(address.into(), port);
    let mut said = [0; 64];
    let length = match by {
        By::Tcp => {
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE).ok()?;
            stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            let mut all = Vec::new();
            stream.read_to_end(&mut all).ok()?;
            said[..all.len()].copy_from_slice(&all);
            all.len()
        }
        By::Udp => {
            let any: IpAddr =
                if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((any, 0)).expect("bind");
            socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            socket.connect(address).ok()?;
            socket.send(b"who am I?").ok()?;
            socket.recv(&mut said).ok()?
        }
    };
    std::str::from_utf8(&said[..length]).expect("text").parse().ok()
}

/// A server that tells whoever asks, by TCP and UDP, over IPv4 and IPv6, at which address it sees them.
pub struct Mirror {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Mirror {
    /// In the network of a process, at all addresses.
    pub fn of(host: &Host, pid: u32, ports: &'static [u16]) -> Self {
        Self::new(host.in_network_of(pid, || open(ports)))
    }

    /// On the second machine of the LAN, with all that lies behind it.
    pub fn of_lan(host: &Host, ports: &'static [u16]) -> Self {
        Self::new(host.in_lan(|| open(ports)))
    }

    fn new(sockets: Vec<(TcpListener, UdpSocket)>) -> Self {
        let (reader, writer) = std::io::pipe().expect("pipe");
        let thread = std::thread::spawn(move || serve(&sockets, &reader.into()));
        Self { stop: Some(writer), thread: Some(thread) }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop = None;
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

fn open(ports: &[u16]) -> Vec<(TcpListener, UdpSocket)> {
    // The unspecified address of IPv6 takes IPv4 as well.
    let both = |port: &u16| {
        let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, *port)).expect("bind");
        udp.set_nonblocking(true).expect("nonblocking");
        setsockopt(&udp, sockopt::Ipv6RecvPacketInfo, &true).expect("packet info");
        (listen(Ipv6Addr::UNSPECIFIED, *port), udp)
    };
    ports.iter().map(both).collect()
}

fn serve(sockets: &[(TcpListener, UdpSocket)], stop: &OwnedFd) {
    loop {
        let mut fds = vec![PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
        for (tcp, udp) in sockets {
            fds.extend([tcp.as_fd(), udp.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        }
        poll(&mut fds, PollTimeout::NONE).expect("poll");
        if fds[0].any() == Some(true) {
            return;
        }
        for (tcp, udp) in sockets {
            while let Ok((mut stream, peer)) = tcp.accept() {
                let _ = write!(stream, "{}", peer.ip().to_canonical());
            }
            while answer(udp).is_some() {}
        }
    }
}

/// Answers one datagram, from the address at which it came.
fn answer(udp: &UdpSocket) -> Option<()> {
    let mut asked = [0; 64];
    let mut space = nix::cmsg_space!(in6_pktinfo);
    let mut parts = [IoSliceMut::new(&mut asked)];
    let message = recvmsg::<SockaddrIn6>(udp.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty()).ok()?;
    let peer = message.address.expect("a peer");
    let at = message.cmsgs().expect("control messages").find_map(|message| match message {
        ControlMessageOwned::Ipv6PacketInfo(at) => Some(in6_pktinfo { ipi6_ifindex: 0, ..at }),
        _ => None,
    });
    let said = peer.ip().to_canonical().to_string();
    let at = at.expect("packet info");
    let at = [ControlMessage::Ipv6PacketInfo(&at)];
    let _ = sendmsg(udp.as_raw_fd(), &[IoSlice::new(said.as_bytes())], &at, MsgFlags::empty(), Some(&peer));
    Some(())
}

/// `run` with these options is refused, names `words`, and changes nothing.
#[track_caller]
pub fn refused(host: &Host, options: &[&str], words: &[&str]) {
    let output = host.minirun([&["run"], options, &["busybox", "true"]].concat()).run();
    assert_eq!((output.code, output.stdout.as_str()), (125, ""), "{output}");
    assert!((1..=2).contains(&output.stderr.lines().count()), "{output}");
    assert!(words.iter().all(|word| output.stderr.contains(word)), "not all of {words:?} are in: {output}");
    host.nothing_left();
}

/// A detached container on managed networks.
pub struct Member {
    pub name: String,
    pub pid: u32,
    /// On its first network.
    pub address: Ipv4Addr,
    pub address6: Option<Ipv6Addr>,
}

impl Host {
    /// A command is refused, names `words`, and changes nothing.
    #[track_caller]
    pub fn refuses(&self, command: &[&str], words: &[&str]) {
        let output = self.minirun(command.iter().copied()).run();
        assert_eq!((output.code, output.stdout.as_str()), (125, ""), "{output}");
        assert!(words.iter().all(|word| output.stderr.contains(word)), "not all of {words:?} are in: {output}");
        self.nothing_left();
    }

    /// Makes what the first network that is defined leaves on purpose, with IPv6 and without, and takes it for the state to
    /// come back to.
    pub fn has_had_networks(&self) {
        self.minirun(["network", "create", "--ipv6", "first"]).ok();
        self.minirun(["run", "-d", "--rm", "--net=first", "--name", "first", "busybox", "true"]).ok();
        self.soon("the first one goes", || self.minirun(["ps", "-aq"]).ok().is_empty());
        self.minirun(["network", "rm", "first"]).ok();
        self.settle();
    }

    /// Defines a network.
    #[track_caller]
    pub fn network(&self, options: &[&str], name: &str) {
        assert_eq!(self.minirun([&["network", "create"], options, &[name]].concat()).ok(), format!("{name}\n"));
    }

    /// Calls `with` where frames from port to port of a bridge pass the host's rules (br_netfilter), and where they do not.
    pub fn with_and_without_rules_in_bridges(&self, with: impl Fn()) {
        const SETTINGS: [&str; 2] = ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"];
        let set = |values: [&str; 2]| {
            SETTINGS
                .iter()
                .zip(values)
                .for_each(|(key, value)| self.write(&format!("/proc/sys/net/bridge/{key}"), value));
        };
        let read = |key: &str| std::fs::read_to_string(format!("/proc/sys/net/bridge/{key}"));
        let [Ok(one), Ok(two)] = SETTINGS.map(read) else {
            // This kernel has no br_netfilter, or has not loaded it.
            return with();
        };
        for value in ["0", "1"] {
            eprintln!("# bridge-nf-call-iptables={value}");
            set([value, value]);
            with();
        }
        set([one.trim(), two.trim()]);
    }

    /// Removes all containers, and these networks.
    #[track_caller]
    pub fn remove_networks(&self, names: &[&str]) {
        self.remove_all();
        self.minirun([&["network", "rm"], names].concat()).ok();
    }

    /// Starts a detached container that does nothing.
    #[track_caller]
    pub fn member(&self, options: &[&str], name: &str) -> Member {
        self.minirun([&["run", "-d", "--name", name], options, &["busybox", "sleep", "1000"]].concat()).ok();
        self.member_called(name)
    }

    /// A container that runs.
    #[track_caller]
    pub fn member_called(&self, name: &str) -> Member {
        let said: Value = serde_json::from_str(&self.minirun(["inspect", name]).ok()).expect("JSON");
        let own = &said[0]["network_settings"]["interfaces"][0];
        let text = |key: &str| own[key].as_str().and_then(|text| text.split('/').next()?.parse::<IpAddr>().ok());
        let (Some(IpAddr::V4(address)), address6) = (text("ip_address"), text("global_ipv6_address")) else {
            panic!("no address in {said}");
        };
        let address6 = address6.and_then(|address| match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        });
        Member { name: name.into(), pid: self.pid_of(name), address, address6 }
    }
}
