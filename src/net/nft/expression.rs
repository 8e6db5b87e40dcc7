//! A rule's conditions and its verdict as expressions, the instructions of the kernel's machine.

use std::net::Ipv4Addr;

use ipnet::IpNet;
use nix::libc;

use super::super::table::{Field, Match, Set, Verdict, What};
use super::encode::ifname;
use super::message::{attribute, nest, number, string};

const REGISTER_VERDICT: u32 = 0;
/// The first of the registers of four bytes (`NFT_REG32_00`).
const REGISTER: u32 = 8;

/// The name of a set that is a part of one rule; the kernel puts a number into it.
pub const UNNAMED: &str = "__set%d";

const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_STATE: u32 = 0;
const CT_STATUS: u32 = 2;

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// Writes the expressions of a condition; `sequence` is the number of its rule.
pub fn encode_match(list: &mut Vec<u8>, condition: &Match, sequence: u32) {
    match condition {
        // Bit 1 is "established", bit 2 "related" (NF_CT_STATE_BIT).
        Match::EstablishedOrRelated => any_bit_of(list, CT_STATE, 0b110),
        // IPS_DST_NAT.
        Match::DestinationNatted => any_bit_of(list, CT_STATUS, 1 << 5),
        Match::In(what, set) => {
            load(list, what);
            lookup(list, set, false, None);
        }
        Match::NotIn(what, set) => {
            load(list, what);
            lookup(list, set, true, None);
        }
        Match::ToHost => {
            const ADDRESS_TYPE: u32 = 3;
            const DESTINATION: u32 = 2;
            expression(list, "fib", |data| {
                number(data, 1, REGISTER);
                number(data, 2, ADDRESS_TYPE);
                number(data, 3, DESTINATION);
            });
            compare(list, true, &u32::from(libc::RTN_LOCAL).to_ne_bytes());
        }
        Match::ByLoopback => {
            meta(list, META_OIFNAME, REGISTER);
            compare(list, true, &ifname("lo"));
        }
        Match::HasPorts => {
            meta(list, META_L4PROTO, REGISTER);
            expression(list, "lookup", |data| {
                string(data, 1, UNNAMED);
                number(data, 2, REGISTER);
                number(data, 4, sequence);
            });
        }
        Match::To(protocol, port) => has_port(list, *protocol, 2, *port),
        Match::From(protocol, port) => has_port(list, *protocol, 0, *port),
        Match::Icmp6(kind) => {
            meta(list, META_L4PROTO, REGISTER);
            compare(list, true, &[libc::IPPROTO_ICMPV6 as u8]);
            payload(list, REGISTER, TRANSPORT_HEADER, 0, 1);
            compare(list, true, &[*kind]);
        }
        Match::Source(network) => in_network(list, *network, 12, 8),
        Match::Destination(network) => in_network(list, *network, 16, 24),
    }
}

fn has_port(list: &mut Vec<u8>, protocol: u8, place: u32, port: u16) {
    meta(list, META_L4PROTO, REGISTER);
    compare(list, true, &[protocol]);
    payload(list, REGISTER, TRANSPORT_HEADER, place, 2);
    compare(list, true, &port.to_be_bytes());
}

/// Whether the address at that place of the IPv4 or the IPv6 header is in `network`.
fn in_network(list: &mut Vec<u8>, network: IpNet, place4: u32, place6: u32) {
    match network {
        IpNet::V4(network) => {
            family(list, libc::AF_INET);
            payload(list, REGISTER, NETWORK_HEADER, place4, 4);
            if network.prefix_len() < 32 {
                mask(list, &network.netmask().octets());
            }
            compare(list, true, &network.network().octets());
        }
        IpNet::V6(network) => {
            family(list, libc::AF_INET6);
            payload(list, REGISTER, NETWORK_HEADER, place6, 16);
            if network.prefix_len() < 128 {
                mask(list, &network.netmask().octets());
            }
            compare(list, true, &network.network().octets());
        }
    }
}

fn family(list: &mut Vec<u8>, family: i32) {
    meta(list, META_NFPROTO, REGISTER);
    compare(list, true, &[family as u8]);
}

/// Loads these properties side by side, from the first register on.
fn load(list: &mut Vec<u8>, what: &[What]) {
    if what.contains(&What::Destination4) || what.contains(&What::Source4) {
        family(list, libc::AF_INET);
    }
    if what.contains(&What::Destination6) || what.contains(&What::Source6) {
        family(list, libc::AF_INET6);
    }
    let mut register = REGISTER;
    for what in what {
        let registers = match what {
            What::InLink => {
                meta(list, META_IIFNAME, register);
                4
            }
            What::OutLink => {
                meta(list, META_OIFNAME, register);
                4
            }
            What::Destination4 => {
                payload(list, register, NETWORK_HEADER, 16, 4);
                1
            }
            What::Destination6 => {
                payload(list, register, NETWORK_HEADER, 24, 16);
                4
            }
            What::Source4 => {
                payload(list, register, NETWORK_HEADER, 12, 4);
                1
            }
            What::Source6 => {
                payload(list, register, NETWORK_HEADER, 8, 16);
                4
            }
            What::Protocol => {
                meta(list, META_L4PROTO, register);
                1
            }
            What::DestinationPort => {
                payload(list, register, TRANSPORT_HEADER, 2, 2);
                1
            }
        };
        register += registers;
    }
}

/// Writes the expressions of a verdict.
pub fn encode_verdict(list: &mut Vec<u8>, verdict: Verdict) {
    const MASQUERADE_FULLY_RANDOM: u32 = 1 << 4;
    const JUMP: i32 = -3;
    let code = match verdict {
        Verdict::Jump(chain) => {
            return expression(list, "immediate", |data| {
                number(data, 1, REGISTER_VERDICT);
                nest(data, 2, |value| {
                    nest(value, 2, |verdict| {
                        number(verdict, 1, JUMP as u32);
                        string(verdict, 2, chain);
                    });
                });
            });
        }
        Verdict::SetDestinationPort(protocol, port) => return set_port(list, protocol, 2, port),
        Verdict::SetSourcePort(protocol, port) => return set_port(list, protocol, 0, port),
        Verdict::Mark(bit) => return add_to_mark(list, bit),
        Verdict::Masquerade => return expression(list, "masq", |data| number(data, 1, MASQUERADE_FULLY_RANDOM)),
        Verdict::RedirectTo(address, port) => return redirect_to(list, address, port),
        Verdict::Redirect(what, map) => return redirect(list, what, map),
        Verdict::Drop => 0,
        Verdict::Accept => 1,
    };
    expression(list, "immediate", |data| {
        number(data, 1, REGISTER_VERDICT);
        nest(data, 2, |value| nest(value, 2, |verdict| number(verdict, 1, code)));
    });
}

/// Sets a bit of the mark and leaves the others.
fn add_to_mark(list: &mut Vec<u8>, bit: u32) {
    meta(list, META_MARK, REGISTER);
    bitwise(list, &(!bit).to_ne_bytes(), &bit.to_ne_bytes());
    expression(list, "meta", |data| {
        number(data, 2, META_MARK);
        number(data, 3, REGISTER);
    });
}

/// Writes a port, and mends the checksum.
fn set_port(list: &mut Vec<u8>, protocol: u8, place: u32, port: u16) {
    const INTERNET_CHECKSUM: u32 = 1;
    let checksum = if i32::from(protocol) == libc::IPPROTO_UDP { 6 } else { 16 };
    expression(list, "immediate", |data| {
        number(data, 1, REGISTER);
        nest(data, 2, |value| attribute(value, 1, &port.to_be_bytes()));
    });
    expression(list, "payload", |data| {
        number(data, 2, TRANSPORT_HEADER);
        number(data, 3, place);
        number(data, 4, 2);
        number(data, 5, REGISTER);
        number(data, 6, INTERNET_CHECKSUM);
        number(data, 7, checksum);
        number(data, 8, 0);
    });
}

/// Of IPv4 alone, which a condition before it says.
fn redirect_to(list: &mut Vec<u8>, address: Ipv4Addr, port: u16) {
    const DESTINATION: u32 = 1;
    for (register, value) in [(REGISTER, &address.octets()[..]), (REGISTER + 1, &port.to_be_bytes()[..])] {
        expression(list, "immediate", |data| {
            number(data, 1, register);
            nest(data, 2, |data| attribute(data, 1, value));
        });
    }
    expression(list, "nat", |data| {
        number(data, 1, DESTINATION);
        number(data, 2, libc::AF_INET as u32);
        number(data, 3, REGISTER);
        number(data, 5, REGISTER + 1);
    });
}

fn redirect(list: &mut Vec<u8>, what: &[What], map: &Set) {
    const DESTINATION: u32 = 1;
    load(list, what);
    lookup(list, map, false, Some(REGISTER));
    let (family, registers) = if map.value[0] == Field::Ipv4 { (libc::AF_INET, 1) } else { (libc::AF_INET6, 4) };
    expression(list, "nat", |data| {
        number(data, 1, DESTINATION);
        number(data, 2, family as u32);
        number(data, 3, REGISTER);
        if map.value.len() > 1 {
            number(data, 5, REGISTER + registers);
        }
    });
}

fn meta(list: &mut Vec<u8>, key: u32, register: u32) {
    expression(list, "meta", |data| {
        number(data, 1, register);
        number(data, 2, key);
    });
}

/// Bytes of a header of the packet.
fn payload(list: &mut Vec<u8>, register: u32, header: u32, offset: u32, length: u32) {
    expression(list, "payload", |data| {
        number(data, 1, register);
        number(data, 2, header);
        number(data, 3, offset);
        number(data, 4, length);
    });
}

fn lookup(list: &mut Vec<u8>, set: &Set, not: bool, into: Option<u32>) {
    expression(list, "lookup", |data| {
        string(data, 1, set.name);
        number(data, 2, REGISTER);
        if let Some(register) = into {
            number(data, 3, register);
        }
        if not {
            number(data, 5, 1);
        }
    });
}

fn compare(list: &mut Vec<u8>, equal: bool, value: &[u8]) {
    expression(list, "cmp", |data| {
        number(data, 1, REGISTER);
        number(data, 2, u32::from(!equal));
        nest(data, 3, |wanted| attribute(wanted, 1, value));
    });
}

/// Keeps these bits of a register.
fn mask(list: &mut Vec<u8>, bits: &[u8]) {
    bitwise(list, bits, &vec![0; bits.len()]);
}

/// Keeps the bits `kept` of a register, and then turns round those of `turned`.
fn bitwise(list: &mut Vec<u8>, kept: &[u8], turned: &[u8]) {
    expression(list, "bitwise", |data| {
        number(data, 1, REGISTER);
        number(data, 2, REGISTER);
        number(data, 3, kept.len() as u32);
        nest(data, 4, |value| attribute(value, 1, kept));
        nest(data, 5, |value| attribute(value, 1, turned));
    });
}

/// Any of the bits of a property of the connection.
fn any_bit_of(list: &mut Vec<u8>, key: u32, bits: u32) {
    expression(list, "ct", |data| {
        number(data, 1, REGISTER);
        number(data, 2, key);
    });
    mask(list, &bits.to_ne_bytes());
    compare(list, false, &0u32.to_ne_bytes());
}

fn expression(list: &mut Vec<u8>, name: &str, data: impl FnOnce(&mut Vec<u8>)) {
    nest(list, 1, |element| {
        string(element, 1, name);
        nest(element, 2, data);
    });
}
