//! The filter at a container's port: what a container sends comes from its own addresses, or goes nowhere.
//!
//! [`Origin::program`] is run on each frame that comes in by the host's end of the veth pair. No container can take it away,
//! because the end is not in its namespace.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::program::{
    ARP, DROP, Draft, ICMP6, IPV4, IPV6, Instruction, LOAD_BYTE, LOAD_HALF, LOAD_WORD, NETWORK, PASS, TRANSPORT6, To,
    VLAN_TAG,
};
use super::rtnl::Mac;

/// The addresses that one interface sends from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Its hardware address.
    pub mac: Mac,
    /// Its IPv4 address.
    pub address: Ipv4Addr,
    /// Its IPv6 address, if it speaks IPv6.
    pub address6: Option<Ipv6Addr>,
}

/// Headers before which or in which a message of neighbour discovery could hide. One in a fragment is heard by no kernel
/// (RFC 6980).
const HOP_BY_HOP: u32 = 0;
const ROUTING: u32 = 43;
const DESTINATION_OPTIONS: u32 = 60;

/// Messages of ICMPv6 (RFC 4861, RFC 3122).
const ROUTER_SOLICITATION: u32 = 133;
const ROUTER_ADVERTISEMENT: u32 = 134;
const NEIGHBOR_SOLICITATION: u32 = 135;
const NEIGHBOR_ADVERTISEMENT: u32 = 136;
const REDIRECT: u32 = 137;
const INVERSE_SOLICITATION: u32 = 141;
const INVERSE_ADVERTISEMENT: u32 = 142;
/// Options with a hardware address: type, and a length of eight bytes.
const SOURCE_ADDRESS: u32 = 0x0101;
const TARGET_ADDRESS: u32 = 0x0201;

impl Origin {
    /// Passes IPv4, IPv6 and ARP from these addresses, and neighbour discovery that speaks of nobody else. All other frames
    /// are dropped: what routers and bridges say to each other, what is in a VLAN, what is for the loopback device.
    pub fn program(&self) -> Vec<Instruction> {
        let mut draft = Draft::default();
        draft.needs(NETWORK + 20);
        draft.only(6, &self.mac);
        draft.load(LOAD_WORD, VLAN_TAG);
        draft.if_equal(0, To::Next, To::Drop);
        draft.load(LOAD_HALF, 12);
        draft.if_equal(ARP, To::Arp, To::Next);
        draft.if_equal(IPV6, To::Ipv6, To::Next);
        draft.if_equal(IPV4, To::Next, To::Drop);
        self.ipv4(&mut draft);
        draft.place(To::Arp);
        self.arp(&mut draft);
        // Without an address there is nothing that it could send.
        draft.place(To::Ipv6);
        match self.address6 {
            Some(address) => self.ipv6(&mut draft, address),
            None => draft.jump(To::Drop),
        }
        draft.end(To::Pass, PASS);
        draft.end(To::Drop, DROP);
        draft.finish()
    }

    fn ipv4(&self, draft: &mut Draft) {
        draft.only(NETWORK + 12, &self.address.octets());
        // The host's loopback device is open to what comes by a bridge while a port is published on it.
        draft.load(LOAD_BYTE, NETWORK + 16);
        draft.if_equal(127, To::Drop, To::Pass);
    }

    /// A request or an answer that gives its own addresses as the sender's (RFC 826).
    fn arp(&self, draft: &mut Draft) {
        draft.needs(NETWORK + 28);
        draft.only(NETWORK, &[0, 1, 8, 0]);
        draft.only(NETWORK + 4, &[6, 4]);
        draft.only(NETWORK + 8, &self.mac);
        draft.only(NETWORK + 14, &self.address.octets());
        draft.jump(To::Pass);
    }

    fn ipv6(&self, draft: &mut Draft, address: Ipv6Addr) {
        draft.needs(TRANSPORT6 + 4);
        draft.only(NETWORK + 8, &address.octets());
        draft.load(LOAD_BYTE, NETWORK + 6);
        for header in [HOP_BY_HOP, ROUTING, DESTINATION_OPTIONS] {
            draft.if_equal(header, To::Drop, To::Next);
        }
        draft.if_equal(ICMP6, To::Next, To::Pass);
        draft.load(LOAD_BYTE, TRANSPORT6);
        draft.if_equal(NEIGHBOR_SOLICITATION, To::Neighbor, To::Next);
        draft.if_equal(NEIGHBOR_ADVERTISEMENT, To::Advertisement, To::Next);
        for message in
            [ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT, REDIRECT, INVERSE_SOLICITATION, INVERSE_ADVERTISEMENT]
        {
            draft.if_equal(message, To::Drop, To::Next);
        }
        draft.jump(To::Pass);
        // An advertisement is about its sender.
        draft.place(To::Advertisement);
        draft.needs(TRANSPORT6 + 24);
        draft.only(TRANSPORT6 + 8, &address.octets());
        // Both messages have no option, or one: the sender's own hardware address.
        draft.place(To::Neighbor);
        draft.load(LOAD_HALF, NETWORK + 4);
        draft.if_equal(24, To::Pass, To::Next);
        draft.if_equal(32, To::Next, To::Drop);
        draft.needs(TRANSPORT6 + 32);
        draft.load(LOAD_HALF, TRANSPORT6 + 24);
        draft.if_equal(SOURCE_ADDRESS, To::Address, To::Next);
        draft.if_equal(TARGET_ADDRESS, To::Next, To::Drop);
        draft.place(To::Address);
        draft.only(TRANSPORT6 + 26, &self.mac);
        draft.jump(To::Pass);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::program::tests::passes_program;
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 9];
    const OTHER: Mac = [2, 0, 0, 0, 0, 8];
    const OWN: Origin = Origin {
        mac: MAC,
        address: Ipv4Addr::new(10, 1, 0, 9),
        address6: Some(Ipv6Addr::new(0xfd50, 0, 0, 0, 0, 0, 0, 9)),
    };

    fn passes(origin: &Origin, frame: &[u8]) -> bool {
        passes_program(&origin.program(), frame, 0)
    }

    fn frame(protocol: u32, rest: &[&[u8]]) -> Vec<u8> {
        let mut frame = [[0xff; 6], MAC].concat();
        frame.extend((protocol as u16).to_be_bytes());
        rest.iter().for_each(|part| frame.extend_from_slice(part));
        frame
    }

    fn ipv4() -> Vec<u8> {
        frame(IPV4, &[&[0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0], &OWN.address.octets(), &[10, 1, 0, 1], &[0; 8]])
    }

    fn arp() -> Vec<u8> {
        frame(ARP, &[&[0, 1, 8, 0, 6, 4, 0, 2], &MAC, &OWN.address.octets(), &[0; 10]])
    }

    fn icmp6(kind: u32, about: u8, options: &[u8]) -> Vec<u8> {
        let own = OWN.address6.unwrap().octets();
        let mut target = own;
        target[15] = about;
        let head = [0x60, 0, 0, 0, 0, 24 + options.len() as u8, ICMP6 as u8, 255];
        frame(IPV6, &[&head, &own, &own, &[kind as u8, 0, 0, 0, 0, 0, 0, 0], &target, options])
    }

    fn option(kind: u8, mac: Mac) -> Vec<u8> {
        [&[kind, 1], &mac[..]].concat()
    }

    #[test]
    fn what_is_its_own_passes() {
        let discovery = [
            icmp6(NEIGHBOR_SOLICITATION, 1, &option(1, MAC)),
            icmp6(NEIGHBOR_SOLICITATION, 1, &[]),
            icmp6(NEIGHBOR_ADVERTISEMENT, 9, &option(2, MAC)),
            icmp6(128, 1, &[]),
        ];
        for frame in [ipv4(), arp()].iter().chain(&discovery) {
            assert!(passes(&OWN, frame), "{frame:02x?}");
        }
        let without = Origin { address6: None, ..OWN };
        assert!(discovery.iter().all(|frame| !passes(&without, frame)) && passes(&without, &arp()));
        assert!(OWN.program().len() < 100, "{}", OWN.program().len());
    }

    #[test]
    fn what_speaks_of_others_does_not() {
        let mut hidden = icmp6(NEIGHBOR_ADVERTISEMENT, 1, &option(2, MAC));
        hidden[20] = DESTINATION_OPTIONS as u8;
        let mut loopback = ipv4();
        loopback[30] = 127;
        let frames = [
            icmp6(NEIGHBOR_ADVERTISEMENT, 1, &option(2, MAC)),
            icmp6(NEIGHBOR_ADVERTISEMENT, 9, &option(2, OTHER)),
            icmp6(NEIGHBOR_SOLICITATION, 1, &option(1, OTHER)),
            icmp6(NEIGHBOR_SOLICITATION, 1, &[option(1, MAC), option(1, OTHER)].concat()),
            icmp6(NEIGHBOR_SOLICITATION, 1, &option(14, MAC)),
            icmp6(ROUTER_ADVERTISEMENT, 9, &[]),
            icmp6(REDIRECT, 9, &[]),
            hidden,
            loopback,
            frame(0x8100, &[&[0; 60]]),
            frame(0x0026, &[&[0x42, 0x42, 3], &[0; 60]]),
        ];
        for frame in frames {
            assert!(!passes(&OWN, &frame), "{frame:02x?}");
        }
    }

    proptest! {
        #[test]
        fn no_byte_of_a_sender_can_differ(which in 0..3usize, at in 0..16usize, by in 1..=255u8) {
            let (mut frame, fields) = match which {
                0 => (ipv4(), vec![6..12, 26..30]),
                1 => (arp(), vec![6..12, 14..20, 22..32]),
                _ => (icmp6(NEIGHBOR_ADVERTISEMENT, 9, &option(2, MAC)), vec![6..12, 22..38, 62..86]),
            };
            for field in fields {
                let byte = &mut frame[field.start + at % field.len()];
                *byte ^= by;
                prop_assert!(!passes(&OWN, &frame), "{frame:02x?}");
                frame[field.start + at % field.len()] ^= by;
            }
            prop_assert!(passes(&OWN, &frame));
        }

        #[test]
        fn no_part_of_a_frame_passes(which in 0..3usize, length in 0..86usize) {
            let frame = [ipv4(), arp(), icmp6(NEIGHBOR_ADVERTISEMENT, 9, &option(2, MAC))][which].clone();
            let part = &frame[..length.min(frame.len())];
            let whole = [34, 42, 86][which];
            prop_assert!(part.len() >= whole || !passes(&OWN, part), "{part:02x?}");
        }
    }
}
