//! What a packet says, as far as a line tells it: addresses, ports, and a few words. Pure functions over hostile bytes: a
//! packet that is too short for what it claims to be is said to be so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::dns;
use super::names::Names;

/// What was read from a packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dissected {
    /// Whose it is.
    pub source: Option<IpAddr>,
    /// Whom it is for.
    pub destination: Option<IpAddr>,
    /// The ports of both.
    pub ports: Option<(u16, u16)>,
    /// Hardware addresses, where there are no others.
    pub hardware: Option<(String, String)>,
    /// The innermost protocol that was understood.
    pub protocol: String,
    /// What is to be said of it.
    pub info: String,
    /// Bytes of data of TCP and UDP, of the message of another protocol of IP, else of the frame.
    pub length: usize,
}

/// Fields of a header, each `None` where the packet ends before it.
#[derive(Debug, Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn byte(self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    fn half(self, at: usize) -> Option<u16> {
        self.array(at).map(u16::from_be_bytes)
    }

    fn word(self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_be_bytes)
    }

    fn array<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at + N)?.try_into().ok()
    }

    fn v4(self, at: usize) -> Option<IpAddr> {
        self.array::<4>(at).map(|bytes| Ipv4Addr::from(bytes).into())
    }

    fn v6(self, at: usize) -> Option<IpAddr> {
        self.array::<16>(at).map(|bytes| Ipv6Addr::from(bytes).into())
    }

    fn from(self, at: usize) -> Bytes<'a> {
        Bytes(self.0.get(at..).unwrap_or_default())
    }
}

/// Reads a frame; without an Ethernet header where `has_header` is false.
pub fn dissect(frame: &[u8], has_header: bool, names: &Names) -> Dissected {
    let mut found = Dissected { length: frame.len(), ..Dissected::default() };
    let whole = read(Bytes(frame), has_header, names, &mut found).is_some();
    if !whole {
        let what = if found.protocol.is_empty() { "frame" } else { "" };
        found.protocol.push_str(what);
        found.info = "[too short]".to_owned();
    }
    found
}

fn read(frame: Bytes<'_>, has_header: bool, names: &Names, found: &mut Dissected) -> Option<()> {
    const TAGS: [u16; 2] = [0x8100, 0x88a8];
    if !has_header {
        return match frame.byte(0)? >> 4 {
            4 => read_v4(frame, names, found),
            _ => read_v6(frame, names, found),
        };
    }
    found.hardware = Some((hardware(frame.array(6)?), hardware(frame.array(0)?)));
    let mut at = 12;
    let mut kind = frame.half(at)?;
    while TAGS.contains(&kind) {
        at += 4;
        kind = frame.half(at)?;
    }
    let body = frame.from(at + 2);
    match kind {
        0x0800 => read_v4(body, names, found),
        0x86dd => read_v6(body, names, found),
        0x0806 => read_arp(body, names, found),
        length @ ..0x600 => {
            found.protocol = if body.half(0) == Some(0x4242) { "stp" } else { "llc" }.to_owned();
            found.info = format!("{length} bytes");
            Some(())
        }
        other => {
            found.protocol = format!("ethertype {other:#06x}");
            Some(())
        }
    }
}

fn hardware(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

fn name(names: &Names, address: IpAddr) -> String {
    names.of(address).map_or_else(|| address.to_string(), str::to_owned)
}

fn read_arp(arp: Bytes<'_>, names: &Names, found: &mut Dissected) -> Option<()> {
    found.protocol = "arp".to_owned();
    let (operation, sender, target) = (arp.half(6)?, arp.v4(14)?, arp.v4(24)?);
    let at = hardware(arp.array(8)?);
    found.info = match operation {
        1 => format!("who has {}, tell {}", name(names, target), name(names, sender)),
        2 => format!("{} is at {at}", name(names, sender)),
        other => format!("operation {other}"),
    };
    Some(())
}

fn read_v4(ip: Bytes<'_>, names: &Names, found: &mut Dissected) -> Option<()> {
    found.protocol = "ip".to_owned();
    let header = usize::from(ip.byte(0)? & 15) * 4;
    let total = usize::from(ip.half(2)?);
    let fragment = ip.half(6)?;
    (found.source, found.destination) = (Some(ip.v4(12)?), Some(ip.v4(16)?));
    // A packet that is not cut into segments yet may be longer than its header can say: that says 0 then.
    let length = if total == 0 { ip.0.len() } else { total }.checked_sub(header)?;
    let body = ip.from(header);
    let number = ip.byte(9)?;
    found.length = length;
    let offset = usize::from(fragment & 0x1fff) * 8;
    if offset > 0 {
        found.protocol = protocol(number);
        found.info = format!("fragment at {offset}");
        return Some(());
    }
    read_transport(number, body, length, names, found)?;
    if fragment & 0x2000 != 0 {
        found.info.push_str(" [first fragment]");
    }
    Some(())
}

fn read_v6(ip: Bytes<'_>, names: &Names, found: &mut Dissected) -> Option<()> {
    const MOST_HEADERS: usize = 8;
    found.protocol = "ip6".to_owned();
    let said = usize::from(ip.half(4)?);
    let (mut at, mut number) = (40, ip.byte(6)?);
    (found.source, found.destination) = (Some(ip.v6(8)?), Some(ip.v6(24)?));
    let whole = if said == 0 { ip.0.len() } else { 40 + said };
    let mut first_fragment = false;
    for _ in 0..MOST_HEADERS {
        match number {
            // Hop by hop, routing, destination options.
            0 | 43 | 60 => {
                number = ip.byte(at)?;
                at += usize::from(ip.byte(at + 1)?) * 8 + 8;
            }
            44 => {
                let place = ip.half(at + 2)?;
                let offset = place & !7;
                number = ip.byte(at)?;
                at += 8;
                if offset > 0 {
                    found.protocol = protocol(number);
                    found.info = format!("fragment at {offset}");
                    found.length = whole.checked_sub(at)?;
                    return Some(());
                }
                first_fragment = place & 1 != 0;
            }
            _ => break,
        }
    }
    found.length = whole.checked_sub(at)?;
    read_transport(number, ip.from(at), found.length, names, found)?;
    if first_fragment {
        found.info.push_str(" [first fragment]");
    }
    Some(())
}

fn protocol(number: u8) -> String {
    match number {
        1 => "icmp",
        2 => "igmp",
        6 => "tcp",
        17 => "udp",
        47 => "gre",
        50 => "esp",
        58 => "icmp6",
        89 => "ospf",
        132 => "sctp",
        other => return format!("protocol {other}"),
    }
    .to_owned()
}

fn read_transport(number: u8, body: Bytes<'_>, length: usize, names: &Names, found: &mut Dissected) -> Option<()> {
    found.protocol = protocol(number);
    match number {
        6 => read_tcp(body, length, found),
        17 => {
            let ports = (body.half(0)?, body.half(2)?);
            found.ports = Some(ports);
            found.length = length.checked_sub(8)?;
            if let Some(said) = dns::says(body.from(8).0, ports) {
                (found.protocol, found.info) = ("dns".to_owned(), said);
            }
            Some(())
        }
        132 => {
            found.ports = Some((body.half(0)?, body.half(2)?));
            Some(())
        }
        1 => {
            found.info = icmp(body)?;
            Some(())
        }
        58 => {
            found.info = icmp6(body, names)?;
            Some(())
        }
        _ => Some(()),
    }
}

fn read_tcp(tcp: Bytes<'_>, length: usize, found: &mut Dissected) -> Option<()> {
    found.ports = Some((tcp.half(0)?, tcp.half(2)?));
    let header = usize::from(tcp.byte(12)? >> 4) * 4;
    let bits = tcp.byte(13)?;
    found.length = length.checked_sub(header)?;
    // As tcpdump writes them: a dot for an acknowledgement.
    let signs = [(2, 'S'), (1, 'F'), (4, 'R'), (8, 'P'), (16, '.'), (32, 'U'), (64, 'E'), (128, 'W')];
    let flags: String = signs.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, sign)| *sign).collect();
    found.info = format!("[{flags}] seq {}", tcp.word(4)?);
    if bits & 16 != 0 {
        found.info.push_str(&format!(" ack {}", tcp.word(8)?));
    }
    found.info.push_str(&format!(" win {}", tcp.half(14)?));
    Some(())
}

fn icmp(icmp: Bytes<'_>) -> Option<String> {
    let (kind, code) = (icmp.byte(0)?, icmp.byte(1)?);
    let echo = |what: &str| Some(format!("echo {what} id {} seq {}", icmp.half(4)?, icmp.half(6)?));
    Some(match (kind, code) {
        (8, _) => echo("request")?,
        (0, _) => echo("reply")?,
        (3, 0) => "network unreachable".to_owned(),
        (3, 1) => "host unreachable".to_owned(),
        (3, 2) => "protocol unreachable".to_owned(),
        (3, 3) => "port unreachable".to_owned(),
        (3, 4) => format!("too long for the way, mtu {}", icmp.half(6)?),
        (3, 9 | 10 | 13) => "unreachable, prohibited".to_owned(),
        (5, _) => "redirect".to_owned(),
        (11, _) => "time exceeded".to_owned(),
        _ => format!("type {kind} code {code}"),
    })
}

fn icmp6(icmp: Bytes<'_>, names: &Names) -> Option<String> {
    let (kind, code) = (icmp.byte(0)?, icmp.byte(1)?);
    let echo = |what: &str| Some(format!("echo {what} id {} seq {}", icmp.half(4)?, icmp.half(6)?));
    Some(match (kind, code) {
        (128, _) => echo("request")?,
        (129, _) => echo("reply")?,
        (1, 4) => "port unreachable".to_owned(),
        (1, _) => format!("unreachable, code {code}"),
        (2, _) => format!("too long for the way, mtu {}", icmp.word(4)?),
        (3, _) => "time exceeded".to_owned(),
        (133, _) => "router solicitation".to_owned(),
        (134, _) => "router advertisement".to_owned(),
        (135, _) => format!("neighbour solicitation, who has {}", name(names, icmp.v6(8)?)),
        (136, _) => format!("neighbour advertisement, {} is here", name(names, icmp.v6(8)?)),
        (130..=132 | 143, _) => "multicast listener".to_owned(),
        _ => format!("type {kind} code {code}"),
    })
}
