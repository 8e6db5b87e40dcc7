//! Who is asked, and whose answers are taken.

use std::io::Write;

use super::super::message::{A, AAAA};
use super::ground::{Ground, client, framed, rcode, receive};
use super::{SERVFAIL, answered, query};

#[test]
fn a_member_is_answered_and_nobody_is_asked() {
    let mut ground = Ground::new(1, true);
    let answer = ground.ask(&query(7, "WEB.corp.test", A, None));
    assert_eq!((&answer[..2], rcode(&answer), &answer[answer.len() - 4..]), (&[0, 7][..], 0, &[10, 214, 0, 2][..]));
    let answer = ground.ask(&query(8, "web", AAAA, None));
    assert_eq!((rcode(&answer), answer[7]), (0, 0));
    let answer = ground.ask(&query(9, "9.0.214.10.in-addr.arpa", 12, None));
    assert_eq!(rcode(&answer), 3);
    let mut stream = ground.connect();
    stream.write_all(&framed(&query(9, "web", A, None))).unwrap();
    assert!(ground.answer_by_tcp(&mut stream).ends_with(&[10, 214, 0, 2]));
    drop(stream);
    ground.is_quiet();
    assert!(ground.nothing_asked(0));
}

#[test]
fn nothing_leaves_an_internal_network() {
    let mut ground = Ground::new(1, false);
    for name in ["example.test", "nonesuch", ".", "version.bind", "1.2.0.192.in-addr.arpa"] {
        let answer = ground.ask(&query(7, name, A, Some(1232)));
        assert_eq!(rcode(&answer), 3, "{name}");
    }
    let mut stream = ground.connect();
    stream.write_all(&framed(&query(9, "example.test", A, None))).unwrap();
    assert_eq!(rcode(&ground.answer_by_tcp(&mut stream)), 3);
    assert!(ground.ask(&query(9, "web", A, None)).ends_with(&[10, 214, 0, 2]));
    assert!(ground.nothing_asked(0));
}

#[test]
fn others_are_asked_for_as_they_were_asked_for() {
    let mut ground = Ground::new(2, true);
    let (mut ids, mut ports) = (Vec::new(), Vec::new());
    for id in 0..20 {
        let asked = query(id, "ExAmple.Test", 65, Some(1232));
        ground.send(&asked);
        let (passed, from) = ground.asked(0);
        assert_eq!(passed[2..], asked[2..]);
        ids.push([passed[0], passed[1]]);
        ports.push(from.port());
        let answer = answered(&passed, 0, 3);
        ground.servers[0].udp.send_to(&answer, from).unwrap();
        let got = ground.answer();
        assert_eq!((&got[..2], &got[2..]), (&id.to_be_bytes()[..], &answer[2..]));
    }
    ids.dedup();
    ports.dedup();
    assert!(ids.len() > 15 && ports.len() > 15, "{ids:?} {ports:?}");
    ground.is_quiet();
    assert!(ground.nothing_asked(1));
}

#[test]
fn forged_answers_are_not_listened_to() {
    let mut ground = Ground::new(1, true);
    ground.send(&query(7, "example.test", A, None));
    let (passed, from) = ground.asked(0);
    let good = answered(&passed, 0, 2);
    let server = &ground.servers[0].udp;
    for (at, what) in [(1, "id"), (13, "name"), (12 + 15, "type"), (2, "query")] {
        let mut bad = good.clone();
        bad[at] ^= if at == 2 { 0x80 } else { 1 };
        server.send_to(&bad, from).expect(what);
    }
    server.send_to(&good[..11], from).unwrap();
    server.send_to(b"", from).unwrap();
    // All is right with it, but that another sends it.
    let mut other = good.clone();
    *other.last_mut().unwrap() = 99;
    let _ = client().send_to(&other, from);
    server.send_to(&good, from).unwrap();
    assert_eq!(ground.answer()[2..], good[2..]);
    ground.is_quiet();
    assert!(receive(&ground.client).is_none());
}

#[test]
fn a_flood_of_forged_answers_does_not_keep_the_right_one_away() {
    let mut ground = Ground::new(1, true);
    ground.send(&query(7, "example.test", A, None));
    let (passed, from) = ground.asked(0);
    let good = answered(&passed, 0, 2);
    for number in 0..100u8 {
        let bad = [&[!good[0], number], &good[2..]].concat();
        ground.servers[0].udp.send_to(&bad, from).unwrap();
    }
    ground.servers[0].udp.send_to(&good, from).unwrap();
    assert_eq!(ground.answer()[2..], good[2..]);
}

#[test]
fn a_server_that_fails_is_followed_by_the_next() {
    let mut ground = Ground::new(3, true);
    ground.send(&query(7, "example.test", A, None));
    for server in 0..3 {
        let (passed, from) = ground.asked(server);
        let answer = answered(&passed, SERVFAIL + 3 * u16::from(server == 2), 0);
        ground.servers[server].udp.send_to(&answer, from).unwrap();
    }
    assert_eq!(rcode(&ground.answer()), 5, "what the last one said");
    // A name that does not exist is an answer.
    ground.send(&query(7, "example.test", A, None));
    let (passed, from) = ground.asked(0);
    ground.servers[0].udp.send_to(&answered(&passed, 3, 0), from).unwrap();
    assert_eq!(rcode(&ground.answer()), 3);
    ground.is_quiet();
    assert!(ground.nothing_asked(1));
}

#[test]
fn where_nobody_listens_the_next_is_asked_at_once() {
    let mut ground = Ground::new(2, true);
    ground.servers.remove(0);
    ground.send(&query(7, "example.test", A, None));
    // Quiet is long before anybody's time is up.
    ground.is_quiet();
    assert!(receive(&ground.servers[0].udp).is_some());
    ground.servers.clear();
    ground.client = client();
    ground.send(&query(7, "example.test", A, None));
    ground.is_quiet();
    assert_eq!(rcode(&receive(&ground.client).unwrap().0), 2);
}

#[test]
fn a_silent_server_is_followed_by_the_next_and_one_that_is_alone_is_asked_twice() {
    let mut two = Ground::new(2, true);
    let mut one = Ground::new(1, true);
    let asked = query(7, "example.test", A, None);
    for ground in [&mut two, &mut one] {
        ground.send(&asked);
        // A client that repeats its query is already being served.
        ground.send(&asked);
    }
    let (first, from) = one.asked(0);
    let _ = two.asked(0);
    // The time of both runs at once.
    let (second, again) = one.asked(0);
    assert!(from.port() != again.port() || first[..2] != second[..2], "all is new");
    one.servers[0].udp.send_to(&answered(&second, 0, 2), again).unwrap();
    assert_eq!(one.answer()[7], 2);
    // It was answered: the first port is closed, and what comes now is nobody's.
    let _ = one.servers[0].udp.send_to(&answered(&first, 0, 1), from);
    let (passed, from) = two.asked(1);
    two.servers[1].udp.send_to(&answered(&passed, 0, 1), from).unwrap();
    assert_eq!(two.answer()[7], 1);
    for ground in [&mut two, &mut one] {
        ground.is_quiet();
        assert!(receive(&ground.client).is_none() && ground.nothing_asked(0));
    }
}

#[test]
fn an_answer_that_comes_late_is_one() {
    let mut two = Ground::new(2, true);
    let mut one = Ground::new(1, true);
    let asked = query(7, "example.test", A, None);
    for ground in [&mut two, &mut one] {
        ground.send(&asked);
    }
    let (first, from) = one.asked(0);
    let (passed, of_two) = two.asked(0);
    // The time of both runs at once. Whoever is asked next says nothing.
    let _ = (one.asked(0), two.asked(1));
    // Nor does one that fails late end it.
    two.servers[0].udp.send_to(&answered(&passed, SERVFAIL, 0), of_two).unwrap();
    two.is_quiet();
    assert!(receive(&two.client).is_none());
    one.servers[0].udp.send_to(&answered(&first, 0, 1), from).unwrap();
    assert_eq!(one.answer()[7], 1);
    one.is_quiet();
    assert!(receive(&one.client).is_none());
    two = Ground::new(2, true);
    two.send(&asked);
    let (passed, of_two) = two.asked(0);
    let _ = two.asked(1);
    two.servers[0].udp.send_to(&answered(&passed, 0, 3), of_two).unwrap();
    assert_eq!(two.answer()[7], 3);
}
