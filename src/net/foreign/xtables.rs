//! The extensions that ip_tables and the iptables that speaks to nftables share, as far as they are understood here.

use super::packet::Packet;
use super::ruleset::{Action, Truth};

/// Whether an extension's condition holds (`linux/netfilter/xt_*.h`).
pub fn matches(name: &str, revision: u32, info: &[u8], packet: &Packet) -> Truth {
    match name {
        "comment" => Truth::Yes,
        "conntrack" => conntrack(revision, info, packet),
        "state" => info.get(..4).map_or(Truth::Unknown, |mask| {
            let mask = mask.try_into().map(u32::from_ne_bytes).unwrap_or_default();
            Truth::of(mask & packet.state() != 0, false)
        }),
        "addrtype" => address_type(revision, info, packet),
        "tcp" => tcp(info, packet),
        // What is asked about is TCP.
        "udp" | "icmp" | "icmp6" | "udplite" | "sctp" => Truth::No,
        _ => Truth::Unknown,
    }
}

/// What a target does.
pub fn target(name: &str) -> Action {
    match name {
        "REJECT" | "DROP" | "TARPIT" => Action::Drop,
        "ACCEPT" => Action::Accept,
        "RETURN" => Action::Return,
        _ => Action::GoOn,
    }
}

/// `struct xt_conntrack_mtinfo1` to `3`, where nothing but the state is asked.
fn conntrack(revision: u32, info: &[u8], packet: &Packet) -> Truth {
    const STATE: u16 = 1;
    const TRANSLATED: u32 = 1 << 7;
    let word = |at: usize| info.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let (Some(asked), Some(inverted), 1..=3) = (word(146), word(148), revision) else { return Truth::Unknown };
    // The other one says that it was typed as `-m state`.
    if asked & !(1 << 13) != STATE {
        return Truth::Unknown;
    }
    let wide = word(150).map(u32::from);
    let states = if revision == 1 { info.get(150).copied().map(u32::from) } else { wide };
    let own = packet.state() | if packet.translated { TRANSLATED } else { 0 };
    states.map_or(Truth::Unknown, |states| Truth::of(states & own != 0, inverted & STATE != 0))
}

/// `struct xt_addrtype_info_v1`: kinds of addresses, as bits, and what is turned round. Older ones are not understood.
fn address_type(revision: u32, info: &[u8], packet: &Packet) -> Truth {
    let word = |at: usize| info.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let flags = info.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    let (Some(source), Some(destination), Some(flags @ 0..=3), 1) = (word(0), word(2), flags, revision) else {
        return Truth::Unknown;
    };
    let one = |asked: u16, local: bool, inverted: bool| match asked {
        0 => Truth::Yes,
        _ => Truth::of(asked & (1 << kind_of(local)) != 0, inverted),
    };
    one(source, packet.local.0, flags & 1 != 0).and(one(destination, packet.local.1, flags & 2 != 0))
}

/// What kind of address it is, as the kernel's routes call it (`RTN_LOCAL`, `RTN_UNICAST`).
pub fn kind_of(local: bool) -> u32 {
    if local { 2 } else { 1 }
}

/// `struct xt_tcp`: ranges of source and destination ports, an option, flags.
fn tcp(info: &[u8], packet: &Packet) -> Truth {
    let word = |at: usize| info.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let (Some(from), Some(to), Some(first), Some(last)) = (word(0), word(2), word(4), word(6)) else {
        return Truth::Unknown;
    };
    let [option, mask, wanted, inverted] =
        *info.get(8..12).and_then(|rest| rest.first_chunk()).unwrap_or(&[1, 0, 0, 0]);
    let source = if (from, to) == (0, u16::MAX) { Truth::Yes } else { Truth::Unknown };
    let destination = Truth::of((first..=last).contains(&packet.port()), inverted & 2 != 0);
    let flags = Truth::of(packet.flags() & mask == wanted, inverted & 4 != 0);
    let option = if option == 0 { Truth::Yes } else { Truth::Unknown };
    source.and(destination).and(flags).and(option)
}
