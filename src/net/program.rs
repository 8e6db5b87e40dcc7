//! Programs of classic BPF (Documentation/networking/filter.rst) that tc(8) runs on each frame at a link (`cls_bpf`,
//! `direct-action`). One ends with its link, and needs no right beyond those that made the link.
//!
//! A load from behind the end of a frame ends such a program with 0, which here means "pass". So every length is looked at
//! before anything is loaded.

use super::guard::Guard;
use super::origin::Origin;
use super::step::{Place, Step};

/// What decides at a link which frames go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// What a container sends comes from its own addresses.
    Origin(Origin),
    /// What comes into a network comes from its members, or was let in by the rules.
    Guard(Guard),
}

impl Filter {
    /// What the kernel runs.
    pub fn program(&self) -> Vec<Instruction> {
        match self {
            Self::Origin(origin) => origin.program(),
            Self::Guard(guard) => guard.program(),
        }
    }

    /// The steps by which it looks at each frame of a link.
    pub fn at(self, place: Place, link: &str, direction: Direction) -> [Step; 2] {
        [
            Step::AddEntrance { place, link: link.to_owned(), direction },
            Step::AddFilter { place, link: link.to_owned(), direction, filter: self },
        ]
    }
}

/// Which frames of a link are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Those that come in by it.
    In,
    /// Those that leave by it.
    Out,
}

impl Direction {
    /// As tc(8) calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::In => "ingress",
            Self::Out => "egress",
        }
    }

    /// The queueing discipline whose filters look at them: the second one has both, and `ingress` is as old as anybody.
    pub fn discipline(self) -> &'static str {
        match self {
            Self::In => "ingress",
            Self::Out => "clsact",
        }
    }
}

/// One instruction: code, the instructions skipped if true and if false, and a number (`struct sock_filter`).
pub type Instruction = (u16, u8, u8, u32);

/// What tc(8) does with a frame (linux/pkt_cls.h).
pub(super) const PASS: u32 = 0;
pub(super) const DROP: u32 = 2;

/// Instructions (linux/bpf_common.h).
pub(super) const LOAD_BYTE: u16 = 0x30;
pub(super) const LOAD_HALF: u16 = 0x28;
pub(super) const LOAD_WORD: u16 = 0x20;
pub(super) const LOAD_LENGTH: u16 = 0x80;
pub(super) const JUMP: u16 = 0x05;
pub(super) const IF_EQUAL: u16 = 0x15;
pub(super) const IF_AT_LEAST: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;
const AND: u16 = 0x54;
const IF_ANY_BIT: u16 = 0x45;

/// Where a VLAN tag is looked for that the kernel took off the frame (`SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT`).
pub(super) const VLAN_TAG: u32 = 0xffff_f030;

/// Where its mark is looked for (`SKF_AD_OFF + SKF_AD_MARK`), of which rules may set bits.
pub(super) const MARK: u32 = 0xffff_f014;

/// Where headers begin, in bytes: after the one of Ethernet, and after a first one of IPv6.
pub(super) const NETWORK: u32 = 14;
pub(super) const TRANSPORT6: u32 = NETWORK + 40;

/// Protocols of Ethernet and of IPv6 (linux/if_ether.h, linux/in6.h).
pub(super) const IPV4: u32 = 0x0800;
pub(super) const ARP: u32 = 0x0806;
pub(super) const IPV6: u32 = 0x86dd;
pub(super) const ICMP6: u32 = 58;
/// A place in the program that is jumped to: nothing jumps back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    Next,
    Arp,
    Ipv6,
    Neighbor,
    Advertisement,
    Address,
    LinkLocal,
    Stranger,
    Pass,
    Drop,
}

/// A program on its way: jumps lead to names.
#[derive(Debug, Default)]
pub(super) struct Draft {
    code: Vec<(u16, To, To, u32)>,
    places: Vec<(To, usize)>,
}

impl Draft {
    pub(super) fn load(&mut self, kind: u16, at: u32) {
        self.code.push((kind, To::Next, To::Next, at));
    }

    pub(super) fn if_equal(&mut self, value: u32, then: To, otherwise: To) {
        self.code.push((IF_EQUAL, then, otherwise, value));
    }

    /// Goes on with these bits alone of what was loaded.
    pub(super) fn and(&mut self, bits: u32) {
        self.code.push((AND, To::Next, To::Next, bits));
    }

    pub(super) fn if_any_bit(&mut self, bits: u32, then: To, otherwise: To) {
        self.code.push((IF_ANY_BIT, then, otherwise, bits));
    }

    /// From here on the frame has `bytes`, and what is within them can be loaded.
    pub(super) fn needs(&mut self, bytes: u32) {
        self.load(LOAD_LENGTH, 0);
        self.code.push((IF_AT_LEAST, To::Next, To::Drop, bytes));
    }

    /// Drops what has not these bytes there.
    pub(super) fn only(&mut self, at: u32, bytes: &[u8]) {
        for (part, offset) in bytes.chunks(4).zip((at..).step_by(4)) {
            let kind = if part.len() == 4 { LOAD_WORD } else { LOAD_HALF };
            self.load(kind, offset);
            self.if_equal(part.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)), To::Next, To::Drop);
        }
    }

    pub(super) fn place(&mut self, name: To) {
        self.places.push((name, self.code.len()));
    }

    pub(super) fn jump(&mut self, to: To) {
        self.code.push((JUMP, to, To::Next, 0));
    }

    pub(super) fn end(&mut self, name: To, verdict: u32) {
        self.place(name);
        self.code.push((RETURN, To::Next, To::Next, verdict));
    }

    /// The program with its names as numbers of instructions, which are below 256 because the whole program is.
    pub(super) fn finish(self) -> Vec<Instruction> {
        let Self { code, places } = self;
        let steps = |at: usize, to: To| {
            let place = places.iter().find(|(name, _)| *name == to).map_or(at + 1, |(_, place)| *place);
            (place - at - 1) as u8
        };
        let one = |(at, (kind, then, otherwise, value)): (usize, &(u16, To, To, u32))| match *kind {
            JUMP => (JUMP, 0, 0, u32::from(steps(at, *then))),
            kind => (kind, steps(at, *then), steps(at, *otherwise), *value),
        };
        code.iter().enumerate().map(one).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a program says of a frame with this mark.
    pub fn passes_program(program: &[Instruction], frame: &[u8], mark: u32) -> bool {
        let (mut at, mut value) = (0, 0);
        loop {
            let (code, then, otherwise, number) = program[at];
            at += 1;
            let get = |length: usize| {
                let bytes = frame.get(number as usize..number as usize + length);
                bytes.map(|bytes| bytes.iter().fold(0, |all, byte| all << 8 | u32::from(*byte)))
            };
            let loaded = match code {
                LOAD_WORD if number == VLAN_TAG => Some(0),
                LOAD_WORD if number == MARK => Some(mark),
                LOAD_WORD => get(4),
                LOAD_HALF => get(2),
                LOAD_BYTE => get(1),
                LOAD_LENGTH => Some(frame.len() as u32),
                AND => Some(value & number),
                _ => Some(value),
            };
            let Some(loaded) = loaded else { return true };
            value = loaded;
            at += match code {
                JUMP => number as usize,
                IF_EQUAL => usize::from(if value == number { then } else { otherwise }),
                IF_ANY_BIT => usize::from(if value & number != 0 { then } else { otherwise }),
                IF_AT_LEAST => usize::from(if value >= number { then } else { otherwise }),
                RETURN => return number == PASS,
                _ => 0,
            };
        }
    }
}
