//! A filter as a program of classic BPF (socket(7), `SO_ATTACH_FILTER`; Documentation/networking/filter.rst of the kernel).
//!
//! The program is written from its end to its beginning, so that whoever jumps knows how far. In X is where the packet's
//! network header begins: behind an Ethernet header, or at once on a link without one.

use std::net::IpAddr;

use anyhow::{Result, bail};
use ipnet::IpNet;
use nix::libc::{self, sock_filter};

use super::{Expression, Primitive, Protocol, Side, What};

/// The kernel takes no more instructions (`BPF_MAXINSNS`).
const LONGEST: usize = 4096;
/// So much of a packet is kept: all of it.
const ALL: u32 = 1 << 18;
/// `ARPHRD_ETHER` and `ARPHRD_LOOPBACK`: links with an Ethernet header.
const ETHERNET: u32 = 1;
const LOOPBACK: u32 = 772;
const HEADER: u32 = 14;

const IP: u32 = 0x0800;
const IP6: u32 = 0x86dd;
const ARP: u32 = 0x0806;
const REVERSE_ARP: u32 = 0x8035;

/// A question with a yes and a no.
#[derive(Debug, Clone)]
enum Question {
    Always,
    Test(Test),
    Not(Box<Question>),
    All(Vec<Question>),
    Any(Vec<Question>),
}

/// What is loaded, masked and compared.
#[derive(Debug, Clone, Copy)]
struct Test {
    load: Load,
    mask: u32,
    compare: Compare,
    value: u32,
}

/// Numbers are bytes from the network header.
#[derive(Debug, Clone, Copy)]
enum Load {
    /// The protocol as the kernel knows it, a number of Ethernet's.
    Protocol,
    Byte(u32),
    Half(u32),
    Word(u32),
    /// Two bytes, from the end of the IPv4 header, whose length varies.
    BehindIp(u32),
}

#[derive(Debug, Clone, Copy)]
enum Compare {
    Equal,
    AtLeast,
    More,
}

/// The program that lets nothing through.
pub fn nothing() -> Vec<sock_filter> {
    vec![instruction(libc::BPF_RET, 0)]
}

/// The program of an expression, or one that wants all. What a loopback link sends is left out in any case: it is what it
/// receives, and would be there twice.
pub fn compile(expression: Option<&Expression>) -> Result<Vec<sock_filter>> {
    let mut code = Code(vec![instruction(libc::BPF_RET, 0), instruction(libc::BPF_RET, ALL)]);
    let question = expression.map_or(Question::Always, question);
    let entry = code.ask(&question, 1, 0);
    if entry + 1 != code.0.len() {
        code.jump(entry);
    }
    let (load, ancillary) = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::SKF_AD_OFF.cast_unsigned());
    let equal = libc::BPF_JMP | libc::BPF_JEQ;
    let mut program = vec![
        instruction(load, ancillary + libc::SKF_AD_HATYPE.cast_unsigned()),
        branch(equal, LOOPBACK, 0, 3),
        instruction(load, ancillary + libc::SKF_AD_PKTTYPE.cast_unsigned()),
        branch(equal, u32::from(crate::capture::ring::OUTGOING), 0, 4),
        instruction(libc::BPF_RET, 0),
        branch(equal, ETHERNET, 2, 0),
        instruction(libc::BPF_LD | libc::BPF_IMM, 0),
        instruction(libc::BPF_JMP | libc::BPF_JA, 1),
        instruction(libc::BPF_LD | libc::BPF_IMM, HEADER),
        instruction(libc::BPF_ST, 0),
        instruction(libc::BPF_MISC | libc::BPF_TAX, 0),
    ];
    program.extend(code.0.into_iter().rev());
    if program.len() > LONGEST {
        bail!("read the filter: it takes {} instructions, and the kernel takes {LONGEST}", program.len());
    }
    Ok(program)
}

/// The instructions so far, the last one first. A place is a number in it.
struct Code(Vec<sock_filter>);

impl Code {
    /// Asks, and goes on at `yes` or `no`. Where that begins.
    fn ask(&mut self, question: &Question, yes: usize, no: usize) -> usize {
        match question {
            Question::Always => yes,
            Question::Not(inner) => self.ask(inner, no, yes),
            Question::All(all) => all.iter().rev().fold(yes, |next, one| self.ask(one, next, no)),
            Question::Any(any) => any.iter().rev().fold(no, |next, one| self.ask(one, yes, next)),
            Question::Test(test) => self.test(*test, yes, no),
        }
    }

    fn test(&mut self, test: Test, yes: usize, no: usize) -> usize {
        let (yes, no) = (self.near(yes), self.near(no));
        let compare = match test.compare {
            Compare::Equal => libc::BPF_JEQ,
            Compare::AtLeast => libc::BPF_JGE,
            Compare::More => libc::BPF_JGT,
        };
        let distance = |place: usize| (self.0.len() - 1 - place) as u8;
        let jump = branch(libc::BPF_JMP | compare, test.value, distance(yes), distance(no));
        self.0.push(jump);
        if test.mask != u32::MAX {
            self.0.push(instruction(libc::BPF_ALU | libc::BPF_AND, test.mask));
        }
        let relative = |size: u32, at: u32| instruction(libc::BPF_LD | size | libc::BPF_IND, at);
        match test.load {
            Load::Protocol => {
                let at = (libc::SKF_AD_OFF + libc::SKF_AD_PROTOCOL).cast_unsigned();
                self.0.push(instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, at));
            }
            Load::Byte(at) => self.0.push(relative(libc::BPF_B, at)),
            Load::Half(at) => self.0.push(relative(libc::BPF_H, at)),
            Load::Word(at) => self.0.push(relative(libc::BPF_W, at)),
            Load::BehindIp(at) => self.0.extend([
                // From the last one: X is as it was, from memory 0, and what was loaded is in A again, from memory 1.
                instruction(libc::BPF_LD | libc::BPF_MEM, 1),
                instruction(libc::BPF_LDX | libc::BPF_MEM, 0),
                instruction(libc::BPF_ST, 1),
                relative(libc::BPF_H, at),
                instruction(libc::BPF_MISC | libc::BPF_TAX, 0),
                instruction(libc::BPF_ALU | libc::BPF_ADD | libc::BPF_X, 0),
                instruction(libc::BPF_ALU | libc::BPF_LSH, 2),
                instruction(libc::BPF_ALU | libc::BPF_AND, 15),
                relative(libc::BPF_B, 0),
            ]),
        }
        self.0.len() - 1
    }

    /// The same place, or a jump to it where it is too far for a branch, which has a byte for the distance.
    fn near(&mut self, place: usize) -> usize {
        // The other jump may come in between.
        if self.0.len() + 2 - place <= usize::from(u8::MAX) {
            return place;
        }
        self.jump(place)
    }

    fn jump(&mut self, place: usize) -> usize {
        let distance = (self.0.len() - 1 - place) as u32;
        self.0.push(instruction(libc::BPF_JMP | libc::BPF_JA, distance));
        self.0.len() - 1
    }
}

fn instruction(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn branch(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

fn question(expression: &Expression) -> Question {
    match expression {
        Expression::Is(primitive) => ask(primitive),
        Expression::Not(inner) => Question::Not(Box::new(question(inner))),
        Expression::And(left, right) => Question::All(vec![question(left), question(right)]),
        Expression::Or(left, right) => Question::Any(vec![question(left), question(right)]),
    }
}

fn equal(load: Load, mask: u32, value: u32) -> Question {
    Question::Test(Test { load, mask, compare: Compare::Equal, value })
}

fn is(protocol: u32) -> Question {
    equal(Load::Protocol, u32::MAX, protocol)
}

fn byte(at: u32, value: u32) -> Question {
    equal(Load::Byte(at), u32::MAX, value)
}

fn ask(primitive: &Primitive) -> Question {
    let Primitive { protocol, side, what } = primitive;
    match what {
        What::Anything => protocol.map_or(Question::Always, kind),
        What::Ports(first, last) => ports(*protocol, *side, *first, *last),
        What::Hosts(hosts) => {
            Question::Any(hosts.iter().map(|host| addresses(*protocol, *side, IpNet::from(*host))).collect())
        }
        What::Net(net) => addresses(*protocol, *side, *net),
    }
}

/// A protocol alone. In a fragment of IPv6 its number is in the fragment's header; no other one is looked behind.
fn kind(protocol: Protocol) -> Question {
    const FRAGMENT: u32 = 44;
    let over4 = |number: u32| Question::All(vec![is(IP), byte(9, number)]);
    let over6 = |number: u32| {
        let fragment = Question::All(vec![byte(6, FRAGMENT), byte(40, number)]);
        Question::All(vec![is(IP6), Question::Any(vec![byte(6, number), fragment])])
    };
    match protocol {
        Protocol::Ip => is(IP),
        Protocol::Ip6 => is(IP6),
        Protocol::Arp => is(ARP),
        Protocol::Icmp => over4(libc::IPPROTO_ICMP as u32),
        Protocol::Icmp6 => over6(libc::IPPROTO_ICMPV6 as u32),
        Protocol::Tcp | Protocol::Udp | Protocol::Sctp => {
            let number = number(protocol);
            Question::Any(vec![over6(number), over4(number)])
        }
    }
}

fn number(protocol: Protocol) -> u32 {
    (match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Udp => libc::IPPROTO_UDP,
        _ => libc::IPPROTO_SCTP,
    }) as u32
}

/// A question about one end of a packet or both; `at` are the source's and the destination's places.
fn of_side(side: Side, at: (u32, u32), ask: impl Fn(u32) -> Question) -> Question {
    match side {
        Side::Source => ask(at.0),
        Side::Destination => ask(at.1),
        Side::Either => Question::Any(vec![ask(at.0), ask(at.1)]),
        Side::Both => Question::All(vec![ask(at.0), ask(at.1)]),
    }
}

fn ports(protocol: Option<Protocol>, side: Side, first: u16, last: u16) -> Question {
    let (first, last) = (u32::from(first), u32::from(last));
    let numbers = match protocol {
        Some(one) => vec![number(one)],
        None => [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(number).to_vec(),
    };
    let within = |load: Load| {
        let test = |compare, value| Question::Test(Test { load, mask: u32::MAX, compare, value });
        if first == last {
            return test(Compare::Equal, first);
        }
        Question::All(vec![test(Compare::AtLeast, first), Question::Not(Box::new(test(Compare::More, last)))])
    };
    let carried = |at: u32| Question::Any(numbers.iter().map(|number| byte(at, *number)).collect());
    // Only a packet's first fragment has ports.
    let whole = equal(Load::Half(6), 0x1fff, 0);
    let over4 = vec![is(IP), carried(9), whole, of_side(side, (0, 2), |at| within(Load::BehindIp(at)))];
    let over6 = vec![is(IP6), carried(6), of_side(side, (40, 42), |at| within(Load::Half(at)))];
    Question::Any(vec![Question::All(over6), Question::All(over4)])
}

fn addresses(protocol: Option<Protocol>, side: Side, net: IpNet) -> Question {
    match (net.network(), net.netmask()) {
        (IpAddr::V4(address), IpAddr::V4(mask)) => {
            let (address, mask) = (u32::from(address), u32::from(mask));
            let at = |places| of_side(side, places, |at| equal(Load::Word(at), mask, address));
            let ip = Question::All(vec![is(IP), at((12, 16))]);
            let arp = |kind| Question::All(vec![is(kind), at((14, 24))]);
            match protocol {
                None => Question::Any(vec![ip, arp(ARP), arp(REVERSE_ARP)]),
                Some(Protocol::Arp) => arp(ARP),
                Some(Protocol::Ip) => ip,
                // The addresses of a name, of which this one is the other kind's.
                Some(_) => Question::Not(Box::new(Question::Always)),
            }
        }
        (IpAddr::V6(address), IpAddr::V6(mask)) if matches!(protocol, None | Some(Protocol::Ip6)) => {
            let words = |bits: u128| (0..4u32).map(move |word| (bits >> (96 - 32 * word)) as u32);
            let parts = || (0..4u32).zip(words(address.to_bits()).zip(words(mask.to_bits())));
            let all = |from: u32| {
                let part = |(word, (value, mask))| equal(Load::Word(from + 4 * word), mask, value);
                Question::All(parts().filter(|(_, (_, mask))| *mask != 0).map(part).collect())
            };
            Question::All(vec![is(IP6), of_side(side, (8, 24), all)])
        }
        _ => Question::Not(Box::new(Question::Always)),
    }
}
