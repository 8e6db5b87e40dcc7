//! Messages: what is read of hostile bytes, and what is written means what is meant.

use proptest::prelude::*;
use simple_dns::{Packet, PacketFlag, QTYPE, RCODE, TYPE};

use super::super::message::{
    A, AAAA, Answer, LONGEST, LONGEST_QUERY, Malformed, Query, Rcode, Reply, Transport, encode_name,
};
use super::{answered, parsed, query};

#[test]
fn a_query_is_read() {
    let read = parsed("Web.Example.TEST.", AAAA, None);
    assert_eq!((read.id(), read.kind, read.class), (7, AAAA, 1));
    assert_eq!(read.name().unwrap(), "web.example.test");
    assert_eq!(read.question(), b"\x03Web\x07Example\x04TEST\x00\x00\x1c\x00\x01");
    assert_eq!(parsed(".", 2, None).name().unwrap(), "");
}

#[test]
fn what_is_passed_on_is_what_came_but_for_the_id() {
    let mut bytes = query(7, "a.test", A, Some(1232));
    bytes.extend(b"whatever else");
    let sent = Query::parse(&bytes).unwrap().with_id(0xabcd);
    assert_eq!(sent[..2], [0xab, 0xcd]);
    assert_eq!(sent[2..], bytes[2..]);
}

#[test]
fn names_that_no_host_has_are_of_no_member() {
    for label in [&b"a.b"[..], b"a b", b"\xc3\xa4", b"a\0", b"*"] {
        let mut bytes = query(7, "x", A, None);
        bytes.splice(12..14, [&[label.len() as u8], label].concat());
        assert_eq!(Query::parse(&bytes).unwrap().name(), None, "{label:?}");
    }
}

#[test]
fn what_is_no_query_is_dropped_or_refused() {
    let whole = query(7, "web", A, None);
    let changed = |at: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[at] = byte;
        Query::parse(&bytes)
    };
    let rcode = |outcome: Result<Query, Malformed>| match outcome {
        Err(Malformed::Answer(bytes)) => {
            assert_eq!((bytes.len(), &bytes[..2], bytes[2] & 0x80), (12, &[0, 7][..], 0x80));
            Some(bytes[3] & 15)
        }
        Err(Malformed::Drop) => None,
        Ok(query) => panic!("{query:?}"),
    };
    // Shorter than a header; an answer.
    assert!((0..12).all(|length| rcode(Query::parse(&whole[..length])).is_none()));
    assert_eq!(rcode(changed(2, 0x81)), None);
    // Cut off in the question; a notification; no question, two; a pointer to itself; a label of another kind.
    assert!((12..whole.len()).all(|length| rcode(Query::parse(&whole[..length])) == Some(1)));
    assert_eq!(rcode(changed(2, 0x20)), Some(4));
    assert_eq!(rcode(changed(5, 0)), Some(1));
    assert_eq!(rcode(changed(5, 2)), Some(1));
    for kind in [0xc0, 0x80, 0x41] {
        let name = [&whole[..12], &[kind, 12], &[0; 250]].concat();
        assert_eq!(rcode(Query::parse(&name)), Some(1), "{kind}");
    }
    let long = [whole.as_slice(), &[0; LONGEST_QUERY]].concat();
    assert_eq!(rcode(Query::parse(&long)), Some(1));
}

#[test]
fn a_name_has_255_bytes_at_most() {
    let name = |last: usize| [63, 63, 63, last].map(|length| "a".repeat(length)).join(".");
    assert_eq!(encode_name(&name(61)).unwrap().len(), 255);
    assert_eq!(encode_name(&name(62)), None);
    assert_eq!(encode_name(&"a".repeat(64)), None);
    assert_eq!(encode_name("a..b"), None);
    assert_eq!(encode_name(""), None);
    assert!(Query::parse(&query(1, &name(61), A, None)).is_ok());
    let mut longer = query(1, &name(61), A, None);
    longer.splice(12 + 64 * 3..12 + 64 * 3 + 1, [62, b'a']);
    assert!(matches!(Query::parse(&longer), Err(Malformed::Answer(_))));
}

#[test]
fn an_answer_must_be_to_the_question() {
    let asked = query(7, "Web.test", A, None);
    let query = Query::parse(&asked).unwrap();
    let good = answered(&query.with_id(99), 0, 2);
    assert_eq!(query.reply(99, &good), Some(Reply { cut: false, failed: false }));
    assert_eq!(query.reply(98, &good), None, "another id");
    assert_eq!(query.reply(99, &query.with_id(99)), None, "a query");
    for (at, what) in [(14, "other letters"), (13 + 8, "another type"), (3 + 21, "another class"), (5, "two questions")]
    {
        let mut bad = good.clone();
        bad[at] ^= 0x20 >> u8::from(at == 5);
        assert!(query.reply(99, &bad).is_none(), "{what}");
    }
    assert_eq!(query.reply(99, &answered(&query.with_id(99), 0x0200, 0)), Some(Reply { cut: true, failed: false }));
    for (rcode, failed) in [(1, false), (2, true), (3, false), (4, true), (5, true), (9, false)] {
        assert_eq!(query.reply(99, &answered(&query.with_id(99), rcode, 0)).unwrap().failed, failed, "{rcode}");
    }
    // A header alone says that the query was not understood, and nothing else.
    let header = |rcode: u8| [0, 99, 0x81, 0x80 | rcode, 0, 0, 0, 0, 0, 0, 0, 0];
    assert!(query.reply(99, &header(1)).is_some() && query.reply(99, &header(4)).is_some());
    assert!(query.reply(99, &header(0)).is_none() && query.reply(99, &header(3)).is_none());
    assert!((0..good.len()).take(12 + 14).all(|length| query.reply(99, &good[..length]).is_none()));
}

#[test]
fn an_answer_is_cut_to_what_the_client_takes_by_udp() {
    for (size, records, cut) in [
        (None, 29, false),
        (None, 31, true),
        (Some(100), 31, true),
        (Some(1232), 75, false),
        (Some(1232), 76, true),
        (Some(65535), 254, false),
        (Some(65535), 257, true),
    ] {
        let query = parsed("web.test", A, size);
        let answer = answered(&query.with_id(99), 0, records);
        let by_tcp = query.hand_back(answer.clone(), Transport::Tcp);
        assert_eq!(by_tcp[..2], [0, 7]);
        assert_eq!(by_tcp[2..], answer[2..]);
        let by_udp = query.hand_back(answer, Transport::Udp);
        if !cut {
            assert_eq!(by_udp, by_tcp);
            continue;
        }
        assert!(by_udp.len() <= 512);
        let packet = Packet::parse(&by_udp).unwrap();
        assert!(packet.has_flags(PacketFlag::TRUNCATION | PacketFlag::RESPONSE | PacketFlag::RECURSION_AVAILABLE));
        assert_eq!((packet.id(), packet.answers.len(), packet.opt().is_some()), (7, 0, size.is_some()));
    }
}

#[test]
fn records_stop_where_the_room_ends() {
    for (size, transport, records, cut) in
        [(None, Transport::Udp, 30, true), (Some(1232), Transport::Udp, 74, true), (None, Transport::Tcp, 300, false)]
    {
        let query = parsed("web.test", A, size);
        let mut answer = Answer::new(&query, Rcode::NoError, transport, true);
        (0..300u32).for_each(|number| answer.add(A, 1, &number.to_be_bytes()));
        let bytes = answer.finish();
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.answers.len(), packet.has_flags(PacketFlag::TRUNCATION)), (records, cut));
        assert!(transport == Transport::Tcp || bytes.len() <= usize::from(size.unwrap_or(512)));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), id: u16) {
        read_all(&bytes, id);
    }

    /// Bytes that are nearly a query: a few of them changed, some cut off, some added.
    #[test]
    fn nearly_a_query_is_read_without_panic(
        name in "[a-z]{1,20}(\\.[a-z]{1,10}){0,3}",
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        more in proptest::collection::vec(any::<u8>(), 0..40),
        size in proptest::option::of(any::<u16>()),
    ) {
        let mut bytes = query(7, &name, A, size);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        read_all(&bytes, 7);
        bytes.extend(more);
        read_all(&bytes, 7);
    }

    #[test]
    fn what_is_written_means_the_same_to_another_reader(
        labels in proptest::collection::vec("[A-Za-z0-9_-]{1,20}", 1..8),
        v4 in proptest::collection::vec(any::<u32>(), 0..8),
        v6 in proptest::collection::vec(any::<u128>(), 0..4),
        size in proptest::option::of(any::<u16>()),
        known: bool,
    ) {
        let name = labels.join(".");
        let query = parsed(&name, AAAA, size);
        prop_assert_eq!(query.name(), Some(name.to_ascii_lowercase()));
        let mut answer = Answer::new(&query, Rcode::NoError, Transport::Udp, known);
        v4.iter().for_each(|address| answer.add(A, 1, &address.to_be_bytes()));
        v6.iter().for_each(|address| answer.add(AAAA, 3, &address.to_be_bytes()));
        let bytes = answer.finish();
        prop_assert!(query.reply(7, &bytes).is_some());
        let packet = Packet::parse(&bytes).unwrap();
        prop_assert_eq!((packet.id(), packet.rcode()), (7, RCODE::NoError));
        prop_assert!(packet.has_flags(PacketFlag::RESPONSE | PacketFlag::RECURSION_DESIRED | PacketFlag::RECURSION_AVAILABLE));
        prop_assert_eq!(packet.has_flags(PacketFlag::AUTHORITATIVE_ANSWER), known);
        prop_assert_eq!(packet.questions[0].qname.to_string(), name.as_str());
        prop_assert_eq!(packet.questions[0].qtype, QTYPE::TYPE(TYPE::AAAA));
        prop_assert_eq!(packet.opt().map(|opt| usize::from(opt.udp_packet_size)), size.map(|_| LONGEST));
        prop_assert_eq!(packet.answers.len(), v4.len() + v6.len());
        for record in &packet.answers {
            prop_assert_eq!(record.name.to_string(), name.as_str());
            match &record.rdata {
                simple_dns::rdata::RData::A(data) => prop_assert!(v4.contains(&data.address) && record.ttl == 1),
                simple_dns::rdata::RData::AAAA(data) => prop_assert!(v6.contains(&data.address) && record.ttl == 3),
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}

/// Everything that is done with bytes from outside.
fn read_all(bytes: &[u8], id: u16) {
    let honest = parsed("web.test", A, None);
    let _ = honest.reply(id, bytes);
    let _ = honest.hand_back(bytes.to_vec(), Transport::Udp);
    match Query::parse(bytes) {
        Ok(query) => {
            let _ = (query.name(), query.question(), query.reply(id, bytes));
            let back = query.hand_back(answered(&honest.with_id(id), 0, 300), Transport::Udp);
            assert!(back.len() <= LONGEST);
            let mut answer = Answer::new(&query, Rcode::NoError, Transport::Udp, true);
            answer.add(A, 1, &[0; 4]);
            assert!(answer.finish().len() <= LONGEST);
        }
        Err(Malformed::Answer(answer)) => assert_eq!(answer.len(), 12),
        Err(Malformed::Drop) => {}
    }
}
