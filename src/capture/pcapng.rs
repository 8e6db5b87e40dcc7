//! The blocks of a pcapng file (draft-ietf-opsawg-pcapng), written to memory: each function adds one whole block.
//!
//! Numbers are in this machine's order, which the first block says. Called by `encode.rs`.

use std::net::IpAddr;

use super::ring::{OUTGOING, Packet};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const NAMES: u32 = 4;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;

/// An option that any block may have.
const COMMENT: u16 = 1;

/// A block's bytes: type, length, body, length again.
fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend(kind.to_ne_bytes());
    out.extend([0; 4]);
    body(out);
    let length = (out.len() - start + 4) as u32;
    out[start + 4..start + 8].copy_from_slice(&length.to_ne_bytes());
    out.extend(length.to_ne_bytes());
}

fn pad(out: &mut Vec<u8>, length: usize) {
    out.resize(out.len() + length.next_multiple_of(4) - length, 0);
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    // Longer ones cannot be written; none is.
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    out.extend(code.to_ne_bytes());
    out.extend((value.len() as u16).to_ne_bytes());
    out.extend(value);
    pad(out, value.len());
}

fn end_of_options(out: &mut Vec<u8>) {
    out.extend([0; 4]);
}

/// The beginning of a section: what wrote it, on which system, and a comment.
pub fn section(out: &mut Vec<u8>, system: &str, comment: Option<&str>) {
    const SYSTEM: u16 = 3;
    const APPLICATION: u16 = 4;
    block(out, SECTION, |out| {
        out.extend(0x1a2b_3c4d_u32.to_ne_bytes());
        out.extend(1u16.to_ne_bytes());
        out.extend(0u16.to_ne_bytes());
        // The length of the section is not known.
        out.extend(u64::MAX.to_ne_bytes());
        option(out, SYSTEM, system.as_bytes());
        option(out, APPLICATION, concat!("minirun ", env!("CARGO_PKG_VERSION")).as_bytes());
        if let Some(comment) = comment {
            option(out, COMMENT, comment.as_bytes());
        }
        end_of_options(out);
    });
}

/// An interface; packets name it by its place among those of the section. `link_type` is one of the LINKTYPE numbers.
pub fn interface(out: &mut Vec<u8>, name: &str, description: &str, link_type: u16, filter: &str) {
    const NAME: u16 = 2;
    const DESCRIPTION: u16 = 3;
    const RESOLUTION: u16 = 9;
    const FILTER: u16 = 11;
    block(out, INTERFACE, |out| {
        out.extend(link_type.to_ne_bytes());
        out.extend([0; 2]);
        // No packet is cut off.
        out.extend(0u32.to_ne_bytes());
        option(out, NAME, name.as_bytes());
        option(out, DESCRIPTION, description.as_bytes());
        // Ten to the minus ninth: nanoseconds.
        option(out, RESOLUTION, &[9]);
        if !filter.is_empty() {
            // Zero says that it is one of pcap-filter(7).
            option(out, FILTER, &[&[0], filter.as_bytes()].concat());
        }
        end_of_options(out);
    });
}

/// A packet, with the tag of its VLAN where it stood, and the direction in which it went.
pub fn packet(out: &mut Vec<u8>, interface: u32, packet: &Packet<'_>) {
    const FLAGS: u16 = 2;
    /// Bytes of the two hardware addresses.
    const ADDRESSES: usize = 12;
    let tag = packet.tag.as_ref().map_or(&[][..], |tag| tag);
    let (head, rest) = packet.bytes.split_at(if tag.is_empty() { 0 } else { ADDRESSES.min(packet.bytes.len()) });
    let length = packet.bytes.len() + tag.len();
    block(out, PACKET, |out| {
        out.extend(interface.to_ne_bytes());
        out.extend(((packet.time >> 32) as u32).to_ne_bytes());
        out.extend((packet.time as u32).to_ne_bytes());
        out.extend((length as u32).to_ne_bytes());
        out.extend((packet.length + tag.len() as u32).to_ne_bytes());
        out.extend(head);
        out.extend(tag);
        out.extend(rest);
        pad(out, length);
        option(out, FLAGS, &flags(packet.way).to_ne_bytes());
        end_of_options(out);
    });
}

/// Bits 0 and 1: inbound or outbound; 2 to 4: whom an inbound one was for.
fn flags(way: u8) -> u32 {
    const UNICAST: u32 = 1;
    const MULTICAST: u32 = 2;
    const BROADCAST: u32 = 3;
    const NOT_FOR_US: u32 = 4;
    let inbound = |whom: u32| 1 | whom << 2;
    match way {
        0 => inbound(UNICAST),
        1 => inbound(BROADCAST),
        2 => inbound(MULTICAST),
        3 => inbound(NOT_FOR_US),
        OUTGOING => 2,
        _ => 0,
    }
}

/// Addresses and the names by which they are to be shown.
pub fn names<'a>(out: &mut Vec<u8>, names: impl Iterator<Item = (&'a IpAddr, &'a str)>) {
    block(out, NAMES, |out| {
        for (address, name) in names {
            let (kind, address) = match address {
                IpAddr::V4(address) => (1u16, address.octets().to_vec()),
                IpAddr::V6(address) => (2u16, address.octets().to_vec()),
            };
            option(out, kind, &[&address[..], name.as_bytes(), &[0]].concat());
        }
        // The end of the records, and of the options, of which there are none.
        end_of_options(out);
        end_of_options(out);
    });
}

/// What an interface received, and what was lost.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// Nanoseconds since 1970: the beginning and the end.
    pub times: (u64, u64),
    /// Packets that the filter let through.
    pub accepted: u64,
    /// Packets that the kernel had no room for.
    pub dropped: u64,
    /// Packets that are in the file, where that is known.
    pub delivered: Option<u64>,
    /// What there is to say of it.
    pub comment: Option<String>,
}

/// The last word about an interface.
pub fn statistics(out: &mut Vec<u8>, interface: u32, about: &Statistics) {
    let time = |time: u64| [((time >> 32) as u32).to_ne_bytes(), (time as u32).to_ne_bytes()].concat();
    block(out, STATISTICS, |out| {
        out.extend(interface.to_ne_bytes());
        out.extend(time(about.times.1));
        if let Some(comment) = &about.comment {
            option(out, COMMENT, comment.as_bytes());
        }
        option(out, 2, &time(about.times.0));
        option(out, 3, &time(about.times.1));
        let counts = [(4, about.accepted), (5, about.dropped), (6, about.accepted), (7, about.dropped)];
        let counts = counts.into_iter().chain(about.delivered.map(|delivered| (8, delivered)));
        counts.for_each(|(code, count)| option(out, code, &count.to_ne_bytes()));
        end_of_options(out);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The blocks of a file: type and body. Both lengths are checked.
    fn blocks(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let number = |bytes: &[u8]| u32::from_ne_bytes(bytes[..4].try_into().unwrap());
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let length = number(&bytes[4..]) as usize;
            assert!(length.is_multiple_of(4) && number(&bytes[length - 4..]) as usize == length);
            found.push((number(bytes), bytes[8..length - 4].to_vec()));
            bytes = &bytes[length..];
        }
        found
    }

    #[test]
    fn blocks_are_whole_whatever_is_in_them() {
        let mut out = Vec::new();
        for length in 0..9 {
            let text = "x".repeat(length);
            section(&mut out, &text, Some(&text));
            interface(&mut out, &text, &text, 1, &text);
            let bytes = vec![7; length];
            let one = Packet { time: 1, link: 1, kind: 1, way: 0, tag: None, bytes: &bytes, length: length as u32 };
            packet(&mut out, 0, &one);
            names(
                &mut out,
                [(&"10.0.0.1".parse().unwrap(), text.as_str()), (&"fd00::1".parse().unwrap(), "b")].into_iter(),
            );
            statistics(&mut out, 0, &Statistics { comment: Some(text), ..Statistics::default() });
        }
        assert_eq!(blocks(&out).len(), 45);
    }

    #[test]
    fn a_tag_stands_where_it_stood() {
        let bytes: Vec<u8> = (0..20).collect();
        let tag = Some([0x81, 0, 0, 5]);
        let one = Packet { time: 0, link: 1, kind: 1, way: OUTGOING, tag, bytes: &bytes, length: 60 };
        let mut out = Vec::new();
        packet(&mut out, 3, &one);
        let (_, body) = blocks(&out).remove(0);
        assert_eq!(body[12..20], [24u32.to_ne_bytes(), 64u32.to_ne_bytes()].concat());
        assert_eq!(body[20..36], [&bytes[..12], &[0x81, 0, 0, 5]].concat());
    }
}
