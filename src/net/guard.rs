//! The guard at a network's entrance: what the host sends into it comes from one of its members, or was let in by the rules.
//!
//! The rules (`rules.rs`) mark what they let pass, and a bridge's guard looks for that mark on each frame that leaves the host
//! by the bridge itself; frames between its ports do not pass it. Somebody who flushes all rules flushes no filter: with the
//! rules goes the mark, and no neighbour of the host reaches what is not published in the time until they are back.
//!
//! In a container it keeps an internal network on a LAN from those behind the LAN's router.

use ipnet::{Ipv4Net, Ipv6Net};

use super::definition::Definition;
use super::program::{
    DROP, Draft, IPV4, IPV6, Instruction, LOAD_HALF, LOAD_WORD, MARK, NETWORK, PASS, TRANSPORT6, To, VLAN_TAG,
};
use super::table::LET_IN;

/// The addresses of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Guard {
    /// Of IPv4.
    pub net: Ipv4Net,
    /// Of IPv6, if it speaks IPv6.
    pub net6: Option<Ipv6Net>,
}

impl Guard {
    /// That of a network.
    pub fn of(network: &Definition) -> Self {
        Self { net: network.gateway.trunc(), net6: network.gateway6.map(|net| net.trunc()) }
    }

    /// Passes all but IPv4 and IPv6; those from these networks, from a link-local address or with the mark of the rules. What
    /// is in a VLAN is no packet of the network.
    pub fn program(&self) -> Vec<Instruction> {
        let mut draft = Draft::default();
        draft.load(LOAD_WORD, VLAN_TAG);
        draft.if_equal(0, To::Next, To::Pass);
        draft.load(LOAD_HALF, 12);
        draft.if_equal(IPV6, To::Ipv6, To::Next);
        draft.if_equal(IPV4, To::Next, To::Pass);
        draft.needs(NETWORK + 20);
        from(&mut draft, NETWORK + 12, &self.net.network().octets(), &self.net.netmask().octets(), To::Stranger);
        draft.place(To::Ipv6);
        draft.needs(TRANSPORT6);
        if let Some(net) = self.net6 {
            from(&mut draft, NETWORK + 8, &net.network().octets(), &net.netmask().octets(), To::LinkLocal);
        }
        draft.place(To::LinkLocal);
        draft.load(LOAD_HALF, NETWORK + 8);
        draft.and(0xffc0);
        draft.if_equal(0xfe80, To::Pass, To::Stranger);
        draft.place(To::Stranger);
        draft.load(LOAD_WORD, MARK);
        draft.if_any_bit(LET_IN, To::Pass, To::Drop);
        draft.end(To::Pass, PASS);
        draft.end(To::Drop, DROP);
        draft.finish()
    }
}

/// Passes what has, at `at`, an address of this network.
fn from(draft: &mut Draft, at: u32, network: &[u8], mask: &[u8], otherwise: To) {
    let number = |bytes: &[u8]| bytes.iter().fold(0, |all, byte| all << 8 | u32::from(*byte));
    let words = network.chunks(4).map(number).zip(mask.chunks(4).map(number)).zip((at..).step_by(4));
    for ((value, mask), at) in words.filter(|((_, mask), _)| *mask != 0) {
        draft.load(LOAD_WORD, at);
        if mask != u32::MAX {
            draft.and(mask);
        }
        draft.if_equal(value, To::Next, otherwise);
    }
    draft.jump(To::Pass);
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::super::program::tests::passes_program;
    use super::*;

    fn frame(source: IpAddr) -> Vec<u8> {
        let mut frame = vec![2; 12];
        match source {
            IpAddr::V4(address) => {
                frame.extend([8, 0, 0x45]);
                frame.extend([0; 11]);
                frame.extend(address.octets());
            }
            IpAddr::V6(address) => {
                frame.extend([0x86, 0xdd, 0x60]);
                frame.extend([0; 7]);
                frame.extend(address.octets());
            }
        }
        frame.extend([0; 24]);
        frame
    }

    fn passes(guard: &Guard, source: IpAddr, mark: u32) -> bool {
        passes_program(&guard.program(), &frame(source), mark)
    }

    #[test]
    fn what_is_no_packet_passes_and_half_a_packet_does_not() {
        let guard = Guard { net: "10.1.2.0/24".parse().unwrap(), net6: None };
        let mut arp = frame(Ipv4Addr::new(192, 0, 2, 1).into());
        arp[12..14].copy_from_slice(&[8, 6]);
        assert!(passes_program(&guard.program(), &arp, 0));
        assert!(!passes_program(&guard.program(), &frame(Ipv4Addr::new(10, 1, 2, 3).into())[..33], 0));
        assert!(passes(&guard, "fe80::1".parse().unwrap(), 0) && !passes(&guard, Ipv6Addr::LOCALHOST.into(), 0));
        assert!(passes(&guard, Ipv6Addr::LOCALHOST.into(), LET_IN | 1));
    }

    proptest! {
        #[test]
        fn members_pass_and_strangers_need_the_mark(net: u32, length in 1u8..=30, source: u32, mark: u32) {
            let guard = Guard { net: Ipv4Net::new_assert(net.into(), length), net6: None };
            let source = Ipv4Addr::from(source);
            let wanted = guard.net.contains(&source) || mark & LET_IN != 0;
            prop_assert_eq!(passes(&guard, source.into(), mark), wanted);
            prop_assert!(passes(&guard, guard.net.broadcast().into(), 0) && passes(&guard, guard.net.network().into(), 0));
        }

        #[test]
        fn it_is_so_for_ipv6(net: u128, length in 8u8..=126, source: u128, mark: u32) {
            let net6 = Ipv6Net::new_assert(net.into(), length);
            let guard = Guard { net: "10.1.2.0/24".parse().unwrap(), net6: Some(net6) };
            let source = Ipv6Addr::from(source);
            let wanted = net6.contains(&source) || source.is_unicast_link_local() || mark & LET_IN != 0;
            prop_assert_eq!(passes(&guard, source.into(), mark), wanted);
            prop_assert!(passes(&guard, net6.broadcast().into(), 0) && passes(&guard, net6.network().into(), 0));
        }
    }
}
