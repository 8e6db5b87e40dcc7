//! Members: what of a question is answered from the directory, and what is left to others.

use std::net::IpAddr;

use proptest::prelude::*;
use simple_dns::rdata::RData;
use simple_dns::{Packet, PacketFlag, RCODE};

use super::super::Options;
use super::super::members::answer;
use super::super::message::{A, AAAA, ANY, PTR, Transport};
use super::{Members, parsed};

const MX: u16 = 15;
const HTTPS: u16 = 65;

fn members() -> Members {
    Members::of(&[
        ("Web", "10.214.0.2"),
        ("db", "10.214.0.3 fd00::3"),
        ("db.alias", "10.214.0.3"),
        ("pool", "10.214.1.1 10.214.1.2 10.214.1.3 10.214.1.4"),
        ("host.minirun.internal", "10.214.0.1"),
        ("lost", ""),
    ])
}

/// What another reader makes of the answer: its code, and the data of its records, sorted.
fn ask(name: &str, kind: u16, search: &[&str]) -> Option<(RCODE, Vec<String>)> {
    let options =
        Options { search: search.iter().map(|domain| (*domain).to_owned()).collect(), forward: true, servers: vec![] };
    let bytes = answer(&parsed(name, kind, None), Transport::Udp, &options, &members())?;
    let packet = Packet::parse(&bytes).unwrap();
    assert!(packet.has_flags(PacketFlag::RESPONSE | PacketFlag::AUTHORITATIVE_ANSWER));
    let mut data: Vec<String> = packet.answers.iter().map(|record| show(&record.rdata)).collect();
    assert!(packet.answers.iter().all(|record| record.ttl == 1));
    data.sort();
    Some((packet.rcode(), data))
}

fn show(data: &RData<'_>) -> String {
    match data {
        RData::A(data) => IpAddr::from(data.address.to_be_bytes()).to_string(),
        RData::AAAA(data) => IpAddr::from(data.address.to_be_bytes()).to_string(),
        RData::PTR(data) => data.0.to_string(),
        other => format!("{other:?}"),
    }
}

fn there(data: &[&str]) -> Option<(RCODE, Vec<String>)> {
    Some((RCODE::NoError, data.iter().map(|text| (*text).to_owned()).collect()))
}

#[test]
fn a_member_is_known_in_any_case_and_with_a_dot_at_the_end() {
    for name in ["web", "WEB", "wEb.", "Web"] {
        assert_eq!(ask(name, A, &[]), there(&["10.214.0.2"]), "{name}");
    }
    assert_eq!(ask("db", A, &[]), there(&["10.214.0.3"]));
    assert_eq!(ask("db", AAAA, &[]), there(&["fd00::3"]));
    assert_eq!(ask("db", ANY, &[]), there(&["10.214.0.3", "fd00::3"]));
    assert_eq!(ask("db.alias", A, &[]), there(&["10.214.0.3"]));
    assert_eq!(ask("host.minirun.internal", A, &[]), there(&["10.214.0.1"]));
}

#[test]
fn a_known_name_exists_for_every_type() {
    for kind in [AAAA, MX, HTTPS, PTR] {
        assert_eq!(ask("web", kind, &[]), there(&[]), "{kind}");
    }
    assert_eq!(ask("lost", A, &[]), there(&[]));
}

#[test]
fn others_are_not_answered_here() {
    for name in ["nonesuch", "web.test", "x.web", "minirun.internal", ".", "alias"] {
        assert_eq!(ask(name, A, &[]), None, "{name}");
    }
}

#[test]
fn the_search_domain_may_follow() {
    let search = ["corp.Test.", "b.test"];
    for name in ["web.corp.test", "web.b.TEST.", "Web"] {
        assert_eq!(ask(name, A, &search), there(&["10.214.0.2"]), "{name}");
    }
    for name in ["corp.test", "web.c.test", "webb.test", "web.corp.test.corp.test", "nonesuch.b.test"] {
        assert_eq!(ask(name, A, &search), None, "{name}");
    }
    assert_eq!(ask("web", A, &["", "."]), there(&["10.214.0.2"]));
    assert_eq!(ask("web.x", A, &["", "."]), None);
}

#[test]
fn an_address_has_its_members_names() {
    assert_eq!(ask("3.0.214.10.in-addr.arpa", PTR, &[]), there(&["db", "db.alias"]));
    assert_eq!(ask("3.0.214.10.IN-ADDR.ARPA.", A, &[]), there(&[]));
    let v6 = format!("3.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
    assert_eq!(ask(&v6, PTR, &[]), there(&["db"]));
    // In a network of its own there is nobody else to ask.
    let nobody = Some((RCODE::NameError, vec![]));
    assert_eq!(ask("9.0.214.10.in-addr.arpa", PTR, &[]), nobody);
    assert_eq!(ask(&v6.replacen('3', "4", 1), PTR, &[]), nobody);
    for elsewhere in [
        "1.2.0.192.in-addr.arpa",
        "03.0.214.10.in-addr.arpa",
        "0.214.10.in-addr.arpa",
        "+3.0.214.10.in-addr.arpa",
        "1.3.0.214.10.in-addr.arpa",
        "256.0.214.10.in-addr.arpa",
    ] {
        assert_eq!(ask(elsewhere, PTR, &[]), None, "{elsewhere}");
    }
    assert_eq!(ask(&v6.replacen('3', "3.0", 1), PTR, &[]), None);
    assert_eq!(ask(&v6.replacen("3.0.0.", "30.00.", 1), PTR, &[]), None);
}

#[test]
fn each_address_comes_first_some_time() {
    let mut first = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let bytes = answer(&parsed("pool", A, None), Transport::Udp, &Options::default(), &members()).unwrap();
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.answers.len(), 4);
        first.insert(show(&packet.answers[0].rdata));
    }
    // That one of four is missing in 200 draws happens once in 10^24 runs.
    assert_eq!(first.len(), 4);
}

proptest! {
    #[test]
    fn every_address_is_found_by_its_reverse_name(v4: u32, v6: u128) {
        let addresses = [IpAddr::from(v4.to_be_bytes()), IpAddr::from(v6.to_be_bytes())];
        let directory = Members(vec![("it".into(), addresses.to_vec())]);
        let [d, c, b, a] = v4.to_be_bytes().map(|octet| octet.to_string());
        let nibbles: String = format!("{v6:032X}").chars().rev().map(|digit| format!("{digit}.")).collect();
        for name in [format!("{a}.{b}.{c}.{d}.in-addr.arpa"), format!("{nibbles}ip6.arpa")] {
            let bytes = answer(&parsed(&name, PTR, Some(512)), Transport::Udp, &Options::default(), &directory).unwrap();
            let packet = Packet::parse(&bytes).unwrap();
            prop_assert_eq!(packet.answers.iter().map(|record| show(&record.rdata)).collect::<Vec<_>>(), ["it"]);
        }
    }
}
