//! Packets as bytes, and what is said of them.

use super::dissect::dissect;
use super::line::Line;
use super::names::Names;
use super::ring::Packet;
use crate::net::Interface;
use crate::state::Record;
use proptest::prelude::*;

fn names() -> Names {
    let mut names = Names::default();
    let interface = |address: &str, address6: &str| Interface {
        network: "front".into(),
        name: "eth0".into(),
        host: "mr0".into(),
        mac: [2, 0, 0, 0, 0, 1],
        address: address.parse().unwrap(),
        address6: Some(address6.parse().unwrap()),
        driver: crate::net::driver::Driver::default(),
        gateway: Some("10.0.0.1".parse().unwrap()),
        default_route: true,
        default_route6: true,
        mtu: 1500,
        aliases: vec!["sql".into()],
        spoof: false,
        announced: false,
        rate: None,
        index: 0,
        port: std::collections::BTreeMap::new(),
    };
    for (name, address, address6) in [("web", "10.0.0.2/24", "fd00::2/64"), ("db", "10.0.0.3/24", "fd00::3/64")] {
        let interfaces = vec![interface(address, address6)];
        names.add(&Record { id: format!("{name}id"), name: name.into(), interfaces, ..Record::default() });
    }
    names
}

/// A frame from `web` to `db`.
fn frame(kind: u16, body: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, 2][..], &kind.to_be_bytes(), body].concat()
}

fn v4(protocol: u8, body: &[u8]) -> Vec<u8> {
    let length = (20 + body.len() as u16).to_be_bytes();
    let header = [0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 2, 10, 0, 0, 3];
    frame(0x0800, &[&header[..], body].concat())
}

fn v6(next: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    let address = |last: u8| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last];
    let header = [&[0x60, 0, 0, 0, length[0], length[1], next, 64][..], &address(2), &address(3)].concat();
    frame(0x86dd, &[&header[..], body].concat())
}

fn line(bytes: &[u8]) -> String {
    let time = 1_700_000_000_123_456_789;
    let packet = Packet { time, link: 2, kind: 1, way: 4, tag: None, bytes, length: bytes.len() as u32 };
    let mut out = Vec::new();
    Line { packet: &packet, interface: "eth0", has_header: true, names: &names() }.text(&mut out);
    let text = String::from_utf8(out).unwrap();
    let rest = text.strip_prefix("22:13:20.123456 eth0 ").and_then(|rest| rest.strip_suffix('\n'));
    rest.unwrap_or_else(|| panic!("{text}")).to_owned()
}

#[test]
fn a_line_says_who_says_what_to_whom() {
    let tcp = |flags: u8| {
        [&[0x9c, 0x40, 0, 80, 0, 0, 0, 7, 0, 0, 0, 9, 0x50, flags, 0x10, 0, 0, 0, 0, 0][..], b"abc"].concat()
    };
    assert_eq!(line(&v4(6, &tcp(2))), "web:40000 > db:80 tcp [S] seq 7 win 4096, length 3");
    assert_eq!(line(&v6(6, &tcp(0x18))), "web:40000 > db:80 tcp [P.] seq 7 ack 9 win 4096, length 3");
    assert_eq!(line(&v4(17, &[0, 9, 0, 10, 0, 9, 0, 0, 1])), "web:9 > db:10 udp, length 1");
    assert_eq!(line(&v4(1, &[8, 0, 0, 0, 0, 5, 0, 6])), "web > db icmp echo request id 5 seq 6, length 8");
    let unreachable = "web > db icmp port unreachable, length 8";
    assert_eq!(line(&v4(1, &[3, 3, 0, 0, 0, 0, 0, 0])), unreachable);
    let target = [&[135, 0, 0, 0, 0, 0, 0, 0, 0xfd][..], &[0; 14], &[3]].concat();
    assert_eq!(line(&v6(58, &target)), "web > db icmp6 neighbour solicitation, who has db, length 24");
    // Behind a header of options.
    let hops = [&[58, 0, 5, 2, 0, 0, 1, 0][..], &[143, 0, 0, 0, 0, 0, 0, 0]].concat();
    assert_eq!(line(&v6(0, &hops)), "web > db icmp6 multicast listener, length 8");
    let part = |place: u16, body: &[u8]| {
        let place = place.to_be_bytes();
        v6(44, &[&[58, 0, place[0], place[1], 0, 0, 0, 1][..], body].concat())
    };
    let first = "web > db icmp6 echo request id 5 seq 6 [first fragment], length 8";
    assert_eq!(line(&part(1, &[128, 0, 0, 0, 0, 5, 0, 6])), first);
    assert_eq!(line(&part(1448, &[7; 12])), "web > db icmp6 fragment at 1448, length 12");
    let arp =
        |operation: u8| [0, 1, 8, 0, 6, 4, 0, operation, 2, 0, 0, 0, 0, 2, 10, 0, 0, 2, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1];
    assert_eq!(line(&frame(0x0806, &arp(1))), "arp who has host, tell web, length 42");
    assert_eq!(line(&frame(0x0806, &arp(2))), "arp web is at 02:00:00:00:00:02, length 42");
    let ends = "02:00:00:00:00:02 > 02:00:00:00:00:03";
    assert_eq!(line(&frame(0x88cc, &[0; 4])), format!("{ends} ethertype 0x88cc, length 18"));
    // A tag that is in the frame.
    let tagged = frame(0x8100, &[&[0, 5][..], &v4(1, &[0, 0, 0, 0, 0, 5, 0, 6])[12..]].concat());
    assert_eq!(line(&tagged), "web > db icmp echo reply id 5 seq 6, length 8");
}

#[test]
fn names_that_are_asked_for_cannot_speak_to_the_terminal() {
    let dns = |flags: u8, answers: u8| {
        let head = [0, 42, flags, 0, 0, 1, 0, answers, 0, 0, 0, 0];
        let body = [&head[..], b"\x04a\x1b[m\x04test\0", &[0, 28, 0, 1]].concat();
        v4(17, &[&[0x9c, 0x40, 0, 53, 0, 8 + body.len() as u8, 0, 0][..], &body].concat())
    };
    assert_eq!(line(&dns(1, 0)), "web:40000 > db:53 dns 42 AAAA? a?[m.test, length 27");
    assert_eq!(line(&dns(0x81, 2)), "web:40000 > db:53 dns 42 AAAA a?[m.test: 2 answers, length 27");
}

#[test]
fn what_is_cut_short_is_said_to_be() {
    let whole = v4(6, &[0; 20]);
    for length in 0..whole.len() - 5 {
        let text = line(&whole[..length]);
        assert!(text.contains("[too short]"), "{length}: {text}");
    }
    assert_eq!(names().addresses("sql").len(), 4);
    assert_eq!(names().addresses("webid"), names().addresses("web"));
}

proptest! {
    #[test]
    fn no_bytes_are_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..120), kind in 0usize..5, header: bool) {
        let kinds = [0x0800u16, 0x86dd, 0x0806, 0x8100, 7];
        for frame in [bytes.clone(), frame(kinds[kind], &bytes), v4(bytes.len() as u8, &bytes), v6(58, &bytes), v4(17, &bytes)] {
            let found = dissect(&frame, header, &names());
            prop_assert!(!found.info.chars().any(char::is_control));
        }
    }
}
