//! Filters as they are typed, and run over packets by a small interpreter. That the kernel and tcpdump see it alike is
//! tested in tests/capture.rs.

use nix::libc;
use proptest::prelude::*;

use super::*;

fn addresses(name: &str) -> Vec<IpAddr> {
    match name {
        "web" => vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        _ => vec![],
    }
}

fn read(text: &str) -> Filter {
    Filter::parse(text, &addresses).unwrap_or_else(|error| panic!("{text}: {error:#}"))
}

/// What a program says of a packet on a link of this kind that goes this way.
fn run(program: &[sock_filter], frame: &[u8], kind: u32, way: u32) -> bool {
    let (mut a, mut x, mut memory, mut at) = (0u32, 0u32, [0u32; 16], 0usize);
    loop {
        let one = program[at];
        at += 1;
        let ancillary = one.k.wrapping_sub(libc::SKF_AD_OFF.cast_unsigned());
        let load = |from: u32, size: usize| {
            let bytes = frame.get(from as usize..from as usize + size)?;
            Some(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
        };
        let loaded = match one.code {
            0x20 => match ancillary {
                0 => load(if kind == 1 || kind == 772 { 12 } else { 200 }, 2),
                4 => Some(way),
                28 => Some(kind),
                _ => panic!("ancillary {ancillary}"),
            },
            0x40 => load(x + one.k, 4),
            0x48 => load(x + one.k, 2),
            0x50 => load(x + one.k, 1),
            _ => None,
        };
        match one.code {
            0x20 | 0x40 | 0x48 | 0x50 => match loaded {
                Some(value) => a = value,
                None => return false,
            },
            0x00 => a = one.k,
            0x60 => a = memory[one.k as usize],
            0x61 => x = memory[one.k as usize],
            0x02 => memory[one.k as usize] = a,
            0x07 => x = a,
            0x54 => a &= one.k,
            0x64 => a <<= one.k,
            0x0c => a = a.wrapping_add(x),
            0x05 => at += one.k as usize,
            0x15 => at += usize::from(if a == one.k { one.jt } else { one.jf }),
            0x25 => at += usize::from(if a > one.k { one.jt } else { one.jf }),
            0x35 => at += usize::from(if a >= one.k { one.jt } else { one.jf }),
            0x06 => return one.k > 0,
            other => panic!("code {other:#x}"),
        }
    }
}

/// A frame of IPv4 from 10.0.0.2 to 10.0.0.3, with options if the header is longer than 20 bytes.
fn v4(protocol: u8, header: usize, fragment: u16, ports: (u16, u16)) -> Vec<u8> {
    let mut frame = vec![0; 14 + header + 20];
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x40 | (header / 4) as u8;
    frame[20..22].copy_from_slice(&fragment.to_be_bytes());
    frame[23] = protocol;
    frame[26..34].copy_from_slice(&[10, 0, 0, 2, 10, 0, 0, 3]);
    frame[14 + header..][..2].copy_from_slice(&ports.0.to_be_bytes());
    frame[14 + header + 2..][..2].copy_from_slice(&ports.1.to_be_bytes());
    frame
}

fn v6(next: u8, ports: (u16, u16)) -> Vec<u8> {
    let mut frame = vec![0; 14 + 40 + 20];
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    (frame[14], frame[20]) = (0x60, next);
    for (at, last) in [(22, 2), (38, 3)] {
        (frame[at], frame[at + 15]) = (0xfd, last);
    }
    frame[54..56].copy_from_slice(&ports.0.to_be_bytes());
    frame[56..58].copy_from_slice(&ports.1.to_be_bytes());
    frame
}

fn takes(text: &str, frame: &[u8]) -> bool {
    run(&read(text).program().unwrap(), frame, 1, 0)
}

#[test]
fn a_filter_takes_what_it_says() {
    let (tcp, long) = (v4(6, 20, 0, (4000, 80)), v4(6, 60, 0, (4000, 80)));
    let (udp6, fragment) = (v6(17, (53, 5000)), v4(17, 20, 0x00b9, (53, 53)));
    for (text, expected) in [
        ("", [true, true, true, true]),
        ("tcp", [true, true, false, false]),
        ("ip6", [false, false, true, false]),
        ("udp", [false, false, true, true]),
        ("port 80", [true, true, false, false]),
        ("src port 80", [false, false, false, false]),
        ("port 53", [false, false, true, false]),
        ("port 80 or 53", [true, true, true, false]),
        ("portrange 79-81 or portrange 5001-5000", [true, true, true, false]),
        ("host web", [true, true, true, true]),
        ("dst host web", [false, false, false, false]),
        ("host 10.0.0.3", [true, true, false, true]),
        ("src and dst net 10.0.0.0/30", [true, true, false, true]),
        ("net fd00::/64", [false, false, true, false]),
        ("net fd00::/64 and not udp", [false, false, false, false]),
        ("ip and not port 80", [false, false, false, true]),
        ("! (tcp || ip6)", [false, false, false, true]),
        // From left to right, as pcap-filter(7) has it.
        ("ip6 or tcp and port 80", [true, true, false, false]),
        ("ip6 or (tcp and port 80)", [true, true, true, false]),
        ("ip host web", [true, true, false, true]),
        ("ip6 src host web", [false, false, true, false]),
    ] {
        let found = [&tcp, &long, &udp6, &fragment].map(|frame| takes(text, frame));
        assert_eq!(found, expected, "{text}");
    }
}

#[test]
fn links_without_a_header_and_loopbacks() {
    let program = read("tcp port 80").program().unwrap();
    let frame = v4(6, 20, 0, (4000, 80));
    assert!(run(&program, &frame, 1, 4) && run(&program, &frame, 772, 0));
    assert!(!run(&program, &frame, 772, 4), "what a loopback sends is there twice");
    let all = read("").program().unwrap();
    assert!(run(&all, &frame[14..], 65534, 4) && !run(&nothing(), &frame, 1, 0));
}

#[test]
fn far_jumps() {
    // Longer than a branch can jump.
    let many = (0..60).map(|n| format!("host 10.9.0.{n}")).collect::<Vec<_>>().join(" or ");
    let frame = v4(6, 20, 0, (4000, 80));
    assert!(!takes(&many, &frame));
    assert!(takes(&format!("{many} or port 80"), &frame) && takes(&format!("not ({many}) and port 80"), &frame));
    assert!(takes(&format!("port 80 or {many}"), &frame) && !takes(&format!("port 81 and ({many})"), &frame));
    let more = (0..240).map(|n| n.to_string()).collect::<Vec<_>>().join(" or ");
    let error = read(&format!("port {more}")).program().unwrap_err();
    assert!(format!("{error:#}").contains("4096"), "{error:#}");
}

#[test]
fn what_is_no_filter_is_refused() {
    for text in [
        "prot 80",
        "port",
        "port x",
        "port 70000",
        "portrange 5",
        "host",
        "host nobody",
        "host and tcp",
        "net 10.0.0.1/8",
        "net 10.0.0.0/40",
        "tcp and",
        "and",
        "(tcp",
        "tcp)",
        "tcp udp",
        "not",
        "src",
        "tcp host 10.0.0.1",
        "arp port 80",
        "ip6 host 10.0.0.1",
        "icmp port 1",
        "ip port 80",
        "tcp[0] = 1",
        "()",
        "ether host 1",
    ] {
        let error = Filter::parse(text, &addresses).map(|filter| filter.program()).expect_err(text);
        assert!(format!("{error:#}").starts_with("read the filter: "), "{text}: {error:#}");
    }
    let deep = format!("{}tcp{}", "(".repeat(200), ")".repeat(200));
    assert!(Filter::parse(&deep, &addresses).is_err());
}

proptest! {
    #[test]
    fn nothing_panics_and_no_jump_leads_astray(
        words in proptest::collection::vec(
            prop_oneof![
                Just("tcp"), Just("port"), Just("80"), Just("not"), Just("and"), Just("or"), Just("("), Just(")"), Just("src"),
                Just("dst"), Just("host"), Just("web"), Just("fd00::2"), Just("net"), Just("10.0.0.0/8"), Just("icmp6"),
            ],
            0..12,
        ),
        frame in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        if let Ok(filter) = Filter::parse(&words.join(" "), &addresses) {
            run(&filter.program().unwrap(), &frame, 1, 0);
        }
    }
}
