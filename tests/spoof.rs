//! What a container sends comes from its own addresses, or arrives nowhere.
//!
//! The frames are made here and sent from the container's network by a packet socket, which is what a program with NET_RAW
//! could do. Who is allowed to send anything (`spoof`) sends the same frames, and they arrive: so this would be seen.

mod host;

use std::net::{Ipv4Addr, Ipv6Addr};

use host::{BROADCAST, Host, Mac, Wire, frame, host_test};

const VICTIM: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 50, 0, 77), Ipv6Addr::new(0xfd50, 0, 0, 0, 0, 0, 0, 0x77));
const GATEWAY: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 50, 0, 1), Ipv6Addr::new(0xfd50, 0, 0, 0, 0, 0, 0, 1));
const STRANGE: Mac = [2, 0, 0, 0, 0xbe, 0xef];
const ALL_NODES: Mac = [0x33, 0x33, 0, 0, 0, 1];

/// Who sends.
#[derive(Clone, Copy)]
struct Sender {
    mac: Mac,
    ip: Ipv4Addr,
    ip6: Ipv6Addr,
}

impl Sender {
    fn number(last: u8) -> Self {
        let ip6 = Ipv6Addr::new(0xfd50, 0, 0, 0, 0, 0, 0, last.into());
        Self { mac: [2, 0, 0, 0, 0, last], ip: Ipv4Addr::new(10, 50, 0, last), ip6 }
    }

    fn net(&self, rest: &str) -> String {
        let mac = self.mac.map(|byte| format!("{byte:02x}")).join(":");
        format!("--net=front:ip={},ip6={},mac={mac}{rest}", self.ip, self.ip6)
    }

    /// ARP: a request or an answer.
    fn arp(&self, from: Mac, operation: u8, mac: Mac, ip: Ipv4Addr) -> Vec<u8> {
        let head = [0, 1, 8, 0, 6, 4, 0, operation];
        frame(BROADCAST, from, 0x0806, &[&head, &mac, &ip.octets(), &[0; 6], &VICTIM.0.octets()])
    }

    fn ipv4(&self, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
        let head = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
        let mut header = [&head[..], &from.octets(), &to.octets()].concat();
        // Where bridges ask the rules, a packet with a wrong sum goes nowhere.
        let sum: u32 = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
        header[10..12].copy_from_slice(&(!(sum + (sum >> 16)) as u16).to_be_bytes());
        frame(BROADCAST, self.mac, 0x0800, &[&header, &[0x30, 0x39, 0x30, 0x39, 0, 8, 0, 0]])
    }

    /// A message of neighbour discovery to all nodes; `next` is the first header's next one.
    fn discovery(&self, from: Ipv6Addr, next: u8, kind: u8, about: Ipv6Addr, options: &[u8]) -> Vec<u8> {
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).octets();
        let head = [0x60, 0, 0, 0, 0, 24 + options.len() as u8, next, 255];
        let message = [kind, 0, 0, 0, 0x20, 0, 0, 0];
        frame(ALL_NODES, self.mac, 0x86dd, &[&head, &from.octets(), &all_nodes, &message, &about.octets(), options])
    }

    fn target(&self, mac: Mac) -> Vec<u8> {
        [&[2, 1], &mac[..]].concat()
    }

    /// What it may send: the last one ends every series.
    fn own(&self) -> Vec<Vec<u8>> {
        vec![
            self.ipv4(self.ip, VICTIM.0),
            self.discovery(self.ip6, 58, 136, self.ip6, &self.target(self.mac)),
            self.arp(self.mac, 1, self.mac, self.ip),
        ]
    }

    /// What it may not send, and what it is.
    fn forged(&self) -> Vec<(&'static str, Vec<u8>)> {
        vec![
            ("a strange hardware address", self.arp(STRANGE, 1, self.mac, self.ip)),
            ("ARP: the gateway is here", self.arp(self.mac, 2, self.mac, GATEWAY.0)),
            ("ARP: its own address is elsewhere", self.arp(self.mac, 2, STRANGE, self.ip)),
            ("IPv4 from a sibling", self.ipv4(VICTIM.0, GATEWAY.0)),
            ("IPv4 from the internet", self.ipv4(Ipv4Addr::new(198, 51, 100, 9), VICTIM.0)),
            ("DHCP without an address", self.ipv4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST)),
            ("IPv4 to the host's loopback device", self.ipv4(self.ip, Ipv4Addr::LOCALHOST)),
            ("IPv6 from a sibling", self.discovery(VICTIM.1, 58, 128, VICTIM.1, &[])),
            (
                "IPv6 from a link-local address",
                self.discovery("fe80::66".parse().expect("one"), 58, 128, VICTIM.1, &[]),
            ),
            ("NA: the gateway is here", self.discovery(self.ip6, 58, 136, GATEWAY.1, &self.target(self.mac))),
            ("NA: its own address is elsewhere", self.discovery(self.ip6, 58, 136, self.ip6, &self.target(STRANGE))),
            ("NA behind a header", self.discovery(self.ip6, 60, 136, GATEWAY.1, &self.target(self.mac))),
            ("a redirect", self.discovery(self.ip6, 58, 137, GATEWAY.1, &[])),
            ("a router advertisement", self.discovery(self.ip6, 58, 134, GATEWAY.1, &[])),
            ("a VLAN", frame(BROADCAST, self.mac, 0x8100, &[&[0, 7, 0x88, 0xb5], b"in a VLAN"])),
            ("a bridge that wants to be root", frame([1, 0x80, 0xc2, 0, 0, 0], self.mac, 38, &[&[0x42, 0x42, 3]])),
        ]
    }
}

/// A network `front` with a member at [`VICTIM`], and one that sends, with these options more.
fn begin(host: &Host, sender: &Sender, rest: &str) -> (u32, u32) {
    let victim = format!("--net=front:ip={},ip6={}", VICTIM.0, VICTIM.1);
    let victim = host.member(&[&victim], "victim").pid;
    let options = [&*sender.net(rest), "--cap-add=NET_RAW", "--cap-add=NET_ADMIN"];
    (victim, host.member(&options, "sender").pid)
}

fn front(host: &Host) {
    host.has_had_networks();
    host.network(&["--subnet=10.50.0.0/24", "--ipv6", "--subnet=fd50::/64"], "front");
    host.minirun(["run", "--net=front", "busybox", "true"]).ok();
    host.settle();
}

/// Which of the forged frames arrive at the victim or at the host; all of its own do.
fn arriving(host: &Host, sender: &Sender, victim: u32, pid: u32) -> Vec<&'static str> {
    let mut at_victim = host.in_network_of(victim, || Wire::on("eth0"));
    let mut at_host = Wire::on("mr-front");
    let mut wire = host.in_network_of(pid, || Wire::on("eth0"));
    let (forged, own) = (sender.forged(), sender.own());
    forged.iter().map(|(_, frame)| frame).chain(&own).for_each(|frame| wire.send(frame));
    let last = own.last().expect("one");
    let heard = [at_victim.until(last), at_host.until(last)];
    for (heard, place) in heard.iter().zip(["the victim", "the host"]) {
        let lost: Vec<_> = own.iter().filter(|frame| !heard.contains(frame)).collect();
        assert!(lost.is_empty(), "not arrived at {place}: {lost:02x?}");
    }
    // A packet socket tells of a VLAN beside the frame.
    let seen = |frame: &[u8]| if frame[12] == 0x81 { [&frame[..12], &frame[16..]].concat() } else { frame.to_vec() };
    let arrived = |frame: &[u8]| heard.iter().any(|heard| heard.contains(&seen(frame)));
    forged.iter().filter(|(_, frame)| arrived(frame)).map(|(name, _)| *name).collect()
}

host_test!(forged_frames_arrive_nowhere, |host| {
    front(host);
    let sender = Sender::number(66);
    let (victim, pid) = begin(host, &sender, "");
    assert_eq!(arriving(host, &sender, victim, pid), Vec::<&str>::new());
    // The same when it comes back to the network.
    host.minirun(["network", "disconnect", "front", "sender"]).ok();
    let net = sender.net("");
    host.minirun(["network", "connect", net.trim_start_matches("--net="), "sender"]).ok();
    assert_eq!(arriving(host, &sender, victim, pid), Vec::<&str>::new());
    host.remove_all();
});

host_test!(who_may_send_anything_does, |host| {
    front(host);
    let sender = Sender::number(66);
    let (victim, pid) = begin(host, &sender, ",spoof");
    let all: Vec<&str> = sender.forged().iter().map(|(name, _)| *name).collect();
    let mut arrived = arriving(host, &sender, victim, pid);
    // No bridge passes this on, whoever sends it; the host's would listen to it.
    let bridge = "a bridge that wants to be root";
    arrived.extend((!arrived.contains(&bridge)).then_some(bridge));
    assert_eq!(arrived, all);
    host.remove_all();
});

host_test!(nobody_learns_from_forged_frames, |host| {
    front(host);
    let sender = Sender::number(66);
    let (_, pid) = begin(host, &sender, "");
    let ways = |name: &str| host.minirun(["exec", name, "sh", "-c", "ip route; ip -6 route; ip neigh"]).ok();
    host.minirun(["exec", "victim", "ping", "-c1", "10.50.0.1"]).ok();
    let before = (ways("victim"), host.sh("bridge fdb show br mr-front | sort; ip -6 route").ok());
    let mut wire = host.in_network_of(pid, || Wire::on("eth0"));
    sender.forged().iter().for_each(|(_, frame)| wire.send(frame));
    for number in 0..2000_u16 {
        let [high, low] = number.to_be_bytes();
        wire.send(&sender.arp([2, 1, 1, 1, high, low], 1, sender.mac, sender.ip));
    }
    let plain = |text: &str| text.replace("STALE", "REACHABLE").replace("DELAY", "REACHABLE");
    let after = (ways("victim"), host.sh("bridge fdb show br mr-front | sort; ip -6 route").ok());
    assert_eq!((plain(&before.0), before.1), (plain(&after.0), after.1));
    host.remove_all();
});

// With NET_ADMIN it may give itself any address, and then nobody hears it.
host_test!(an_address_of_its_own_choice_reaches_nobody, |host| {
    front(host);
    let sender = Sender::number(66);
    begin(host, &sender, "");
    let ping =
        |script: &str| host.minirun(["exec", "sender", "sh", "-c", &format!("{script}; ping -c1 -W1 10.50.0.77")]);
    ping("true").ok();
    ping("ip addr add 10.50.0.99/24 dev eth0; ip addr del 10.50.0.66/24 dev eth0").fails(1);
    ping("ip addr add 10.50.0.66/24 dev eth0; ip addr del 10.50.0.99/24 dev eth0").ok();
    ping("ip link set eth0 address 02:00:00:00:00:99").fails(1);
    ping("ip link set eth0 address 02:00:00:00:00:42").ok();
    host.remove_all();
});
