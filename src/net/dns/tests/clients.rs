//! Clients by TCP, limits, and whatever else a container may send.

use std::io::Write;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;
use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::super::message::A;
use super::ground::{Ground, client, framed, is_closed, rcode, read_message, receive};
use super::{CUT, answered, query};

#[test]
fn a_long_answer_comes_by_tcp_alone() {
    let mut ground = Ground::new(1, true);
    let asked = query(7, "example.test", A, Some(1232));
    // By UDP the client gets it as far as it takes it: not at all.
    for (flags, records) in [(CUT, 0), (0, 200), (0, 400)] {
        ground.send(&asked);
        let (passed, from) = ground.asked(0);
        ground.servers[0].udp.send_to(&answered(&passed, flags, records), from).unwrap();
        let answer = ground.answer();
        assert!(answer[2] & 2 != 0 && answer.len() <= 1232 && answer[7] == 0, "{}", answer.len());
    }
    // By TCP it gets what is not cut as it came by UDP, and else all of it.
    for (flags, records) in [(0, 200), (CUT, 0), (0, 400)] {
        let mut stream = ground.connect();
        stream.write_all(&framed(&asked)).unwrap();
        let (passed, from) = ground.asked(0);
        let by_udp = answered(&passed, flags, records);
        ground.servers[0].udp.send_to(&by_udp, from).unwrap();
        if records == 200 {
            assert_eq!(ground.answer_by_tcp(&mut stream)[2..], by_udp[2..]);
            continue;
        }
        let (mut server, passed) = ground.asked_by_tcp(0);
        assert_eq!(passed[2..], asked[2..]);
        let whole = answered(&passed, 0, 4000);
        assert_eq!(server.write(&framed(&whole)).unwrap(), whole.len() + 2);
        assert_eq!(ground.answer_by_tcp(&mut stream)[2..], whole[2..]);
    }
    ground.is_quiet();
}

#[test]
fn a_server_that_does_not_speak_tcp_is_followed_by_the_next() {
    let mut ground = Ground::new(3, true);
    // Nobody listens there by TCP.
    shutdown(ground.servers[2].tcp.as_raw_fd(), Shutdown::Both).unwrap();
    let mut stream = ground.connect();
    stream.write_all(&framed(&query(7, "example.test", A, None))).unwrap();
    for server in 0..3 {
        let (passed, from) = ground.asked(server);
        ground.servers[server].udp.send_to(&answered(&passed, CUT, 0), from).unwrap();
        if server == 2 {
            continue;
        }
        let (mut tcp, _) = ground.asked_by_tcp(server);
        if server == 1 {
            // Not an answer to what was asked.
            tcp.write_all(&framed(&answered(&query(1, "other.test", A, None), 0, 1))).unwrap();
        }
        drop(tcp);
    }
    assert_eq!(rcode(&ground.answer_by_tcp(&mut stream)), 2);
}

#[test]
fn queries_on_their_way_are_limited() {
    let mut ground = Ground::new(1, true);
    let mut seen = Vec::new();
    for id in 0..140 {
        ground.send(&query(id, "example.test", A, None));
        ground.turn(50);
        seen.extend(receive(&ground.servers[0].udp));
    }
    let refused = std::iter::from_fn(|| receive(&ground.client)).map(|(answer, _)| rcode(&answer)).collect::<Vec<_>>();
    assert_eq!(refused, [2; 12]);
    assert_eq!(seen.len(), 128);
    for (passed, from) in seen {
        ground.servers[0].udp.send_to(&answered(&passed, 0, 1), from).unwrap();
        assert_eq!(rcode(&ground.answer()), 0);
    }
    ground.is_quiet();
    ground.send(&query(7, "example.test", A, None));
    let _ = ground.asked(0);
}

#[test]
fn a_stream_has_many_queries_one_after_the_other() {
    let mut ground = Ground::new(1, true);
    let mut stream = ground.connect();
    let first = query(1, "example.test", A, None);
    let all = [framed(&first), framed(&query(2, "web", A, None)), framed(&query(3, "nonesuch.test", A, None))].concat();
    for byte in all {
        stream.write_all(&[byte]).unwrap();
        ground.turn(0);
    }
    for (id, records) in [(1, 3), (2, 1), (3, 0)] {
        if id != 2 {
            let (passed, from) = ground.asked(0);
            ground.servers[0].udp.send_to(&answered(&passed, 0, records), from).unwrap();
        }
        let answer = ground.answer_by_tcp(&mut stream);
        assert_eq!((answer[1], u16::from(answer[7])), (id, records));
    }
    // The client says that it has no more: so it is let go.
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    ground.until(|_| is_closed(&mut stream).then_some(()));
    ground.is_quiet();
}

#[test]
fn nonsense_in_a_stream_ends_it() {
    let mut ground = Ground::new(1, true);
    for bytes in [&[0, 0][..], &[0xff, 0xff, 1], &[0x04, 0xd1]] {
        let mut stream = ground.connect();
        stream.write_all(bytes).unwrap();
        // Not only when its time is up.
        ground.is_quiet();
        assert!(is_closed(&mut stream), "{bytes:?}");
    }
    // An error in the query itself does not.
    let mut stream = ground.connect();
    stream.write_all(&framed(&query(1, "web", A, None)[..14])).unwrap();
    assert_eq!(rcode(&ground.answer_by_tcp(&mut stream)), 1);
    stream.write_all(&framed(&query(1, "web", A, None))).unwrap();
    assert_eq!(rcode(&ground.answer_by_tcp(&mut stream)), 0);
}

#[test]
fn a_client_that_goes_takes_its_query_along() {
    let mut ground = Ground::new(1, true);
    for number in 0..140 {
        let mut stream = ground.connect();
        let asked = query(7, &format!("x{number}.test"), A, None);
        stream.write_all(&framed(&asked)).unwrap();
        assert_eq!(ground.asked(0).0[2..], asked[2..]);
        // With a reset, as the end of a program that was killed.
        setsockopt(&stream.as_fd(), sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
        drop(stream);
        // More than 128 would be refused, were the first still there.
        ground.is_quiet();
    }
}

#[test]
fn whoever_is_silent_is_given_up() {
    let mut ground = Ground::new(1, true);
    let mut idle = ground.connect();
    let mut slow = ground.connect();
    slow.write_all(&framed(&query(7, "web", A, None))[..9]).unwrap();
    let mut waiting = ground.connect();
    waiting.write_all(&framed(&query(7, "example.test", A, None))).unwrap();
    // The server that is alone was asked twice then.
    assert_eq!(rcode(&ground.answer_by_tcp(&mut waiting)), 2);
    assert_eq!(rcode(&ground.ask(&query(7, "web", A, None))), 0);
    ground.until(|_| is_closed(&mut idle).then_some(()));
    ground.until(|_| is_closed(&mut slow).then_some(()));
    ground.until(|_| is_closed(&mut waiting).then_some(()));
    ground.is_quiet();
}

#[test]
fn more_clients_than_have_room_wait_without_keeping_the_loop_busy() {
    let mut ground = Ground::new(1, true);
    let mut streams: Vec<TcpStream> = (0..20).map(|_| ground.connect()).collect();
    ground.is_quiet();
    for (at, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&framed(&query(at as u16, "web", A, None))).unwrap();
    }
    for stream in &mut streams[..16] {
        assert_eq!(rcode(&ground.answer_by_tcp(stream)), 0);
    }
    ground.is_quiet();
    assert!(streams[16..].iter_mut().all(|stream| read_message(stream, &mut Vec::new()).is_none()));
    // UDP is served all the same.
    assert_eq!(rcode(&ground.ask(&query(7, "web", A, None))), 0);
    streams.drain(..4);
    for stream in &mut streams[12..] {
        assert_eq!(rcode(&ground.answer_by_tcp(stream)), 0);
    }
    ground.is_quiet();
}

/// As `ss -K` does it, which root in a container may use.
#[test]
fn a_listener_that_was_destroyed_does_not_keep_the_loop_busy() {
    let mut ground = Ground::new(1, true);
    shutdown(ground.listener.as_raw_fd(), Shutdown::Both).unwrap();
    ground.is_quiet();
    assert_eq!(rcode(&ground.ask(&query(7, "web", A, None))), 0);
    ground.is_quiet();
}

#[test]
fn it_does_not_ask_itself() {
    let mut ground = Ground::with_text("nameserver 127.0.0.1\n", 0, Vec::new(), true);
    assert_eq!(rcode(&ground.ask(&query(7, "example.test", A, None))), 2);
    ground.is_quiet();
}

#[test]
fn any_datagrams_and_streams_leave_it_working() {
    let mut ground = Ground::new(1, true);
    let mut runner = TestRunner::deterministic();
    let bytes = proptest::collection::vec(any::<u8>(), 0..700);
    for round in 0..3000 {
        let mut bytes = bytes.new_tree(&mut runner).unwrap().current();
        if round % 2 == 0 {
            // The beginning of a query, so that more than the header is reached.
            let good = query(round, "web.example.test", A, Some(1232));
            let kept = usize::from(round) % good.len();
            bytes.splice(..kept.min(bytes.len()), good[..kept].iter().copied());
        }
        if round % 3 == 0 {
            let mut stream = ground.connect();
            let _ = stream.write(&if round % 2 == 0 { framed(&bytes) } else { bytes });
            ground.turn(1);
        } else {
            ground.send(&bytes);
            ground.turn(1);
        }
        // What a server answers is nonsense too.
        if let Some((mut passed, from)) = receive(&ground.servers[0].udp) {
            let middle = passed.len() / 2;
            passed[2] |= 0x80;
            passed[middle..].fill(0xc0);
            let _ = ground.servers[0].udp.send_to(&passed, from);
        }
    }
    ground.is_quiet();
    ground.client = client();
    assert!(ground.ask(&query(7, "web", A, None)).ends_with(&[10, 214, 0, 2]));
}
