//! Writing and reading a log, together.

use std::cell::Cell;
use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::time;

const SMALL: Options = Options { max_size: 4096, max_file: 3 };
/// More than any test writes.
const LARGE: Options = Options { max_size: 1 << 40, max_file: 1 };

fn query() -> Query {
    Query::default()
}

/// What a reader of a log prints, its writer having gone.
fn shown(directory: &Path, query: &Query) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    read(directory, query, || false, (&mut out, &mut err), None).unwrap();
    (out, err)
}

fn texts(directory: &Path, query: &Query) -> (String, String) {
    let (out, err) = shown(directory, query);
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn written(options: &Options, chunks: &[(Stream, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), options).unwrap();
    for (stream, bytes) in chunks {
        writer.write(*stream, bytes);
    }
    writer.finish();
    dir
}

/// A log by hand.
fn made(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        #[expect(clippy::disallowed_methods, reason = "nobody reads it yet")]
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    dir
}

use Stream::{Stderr, Stdout};

#[test]
fn interleaved_parts_come_back() {
    let dir = written(&LARGE, &[(Stdout, b"a"), (Stderr, b"x\ny"), (Stdout, b"b\nc"), (Stderr, b"z"), (Stdout, b"\n")]);
    assert_eq!(texts(dir.path(), &query()), ("ab\nc\n".into(), "x\nyz".into()));
}

#[test]
fn times_stand_before_lines_not_parts() {
    let dir = made(&[(
        "log",
        b"2026-01-01T00:00:01.000000000Z stdout P a\n2026-01-01T00:00:02.000000000Z stderr F e\n\
          2026-01-01T01:00:03+01:00 stdout F b\n2026-01-01T00:00:04.000000005Z stdout F \n",
    )]);
    let timestamps = Query { timestamps: true, ..query() };
    let out = "2026-01-01T00:00:01.000000000Z ab\n2026-01-01T00:00:04.000000005Z \n";
    assert_eq!(texts(dir.path(), &timestamps), (out.into(), "2026-01-01T00:00:02.000000000Z e\n".into()));
    let second = |number: i64| time::parse(&format!("2026-01-01T00:00:0{number}Z"));
    let middle = Query { since: second(2), until: second(3), ..query() };
    assert_eq!(texts(dir.path(), &middle), ("b\n".into(), "e\n".into()));
    let last = Query { tail: Some(1), until: second(3), ..query() };
    assert_eq!(texts(dir.path(), &last), ("ab\n".into(), String::new()));
}

#[test]
fn tails() {
    let dir = written(
        &LARGE,
        &[
            (Stdout, b"1\n2\n"),
            (Stdout, b"par"),
            (Stderr, b"e1\ne2\n"),
            (Stdout, b"t\n"),
            (Stderr, b"end"),
            (Stderr, b"s"),
        ],
    );
    for (lines, out, err) in [
        (0, "", ""),
        (1, "", "ends"),
        (2, "part\n", "ends"),
        (3, "part\n", "e2\nends"),
        (5, "2\npart\n", "e1\ne2\nends"),
        (6, "1\n2\npart\n", "e1\ne2\nends"),
        (u64::MAX, "1\n2\npart\n", "e1\ne2\nends"),
    ] {
        assert_eq!(texts(dir.path(), &Query { tail: Some(lines), ..query() }), (out.into(), err.into()), "{lines}");
    }
}

#[test]
fn tails_go_on_in_older_files() {
    let line = |number: usize| format!("{number} {}\n", "x".repeat(number * 7 % 300));
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), &Options { max_size: 100_000, max_file: 5 }).unwrap();
    let all: Vec<String> = (0..1500).map(line).collect();
    for text in &all {
        writer.write(Stdout, text.as_bytes());
    }
    assert!(dir.path().join("log.2").exists());
    for count in [1, 2, 10, 200, 500, 1300] {
        let (out, _) = texts(dir.path(), &Query { tail: Some(count as u64), ..query() });
        assert_eq!(out, all[all.len() - count..].concat(), "{count}");
    }
}

#[test]
fn a_tail_does_not_look_for_a_rare_stream_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), &LARGE).unwrap();
    writer.write(Stdout, b"a");
    for _ in 0..400 {
        writer.write(Stderr, &[b'x'; 100_000]);
    }
    writer.write(Stdout, b"b\n");
    assert_eq!(texts(dir.path(), &Query { tail: Some(1), ..query() }), ("b\n".into(), String::new()));
}

/// A log in every state in which a kill in a write can leave it.
#[test]
fn a_record_that_was_cut_is_shown_and_completed() {
    let dir = written(&LARGE, &[(Stdout, b"whole\ncut here\n")]);
    let file = dir.path().join("log");
    let full = fs::read(&file).unwrap();
    let start = full.len() - record::HEAD - "cut here\n".len();
    for length in start..full.len() {
        let dir = made(&[("log", &full[..length])]);
        let text = format!("whole\n{}", &"cut here"[..length.saturating_sub(start + record::HEAD)]);
        assert_eq!(texts(dir.path(), &query()).0, text);
        // While it may still be written, what is there of it is not shown.
        let mut out = Vec::new();
        read(dir.path(), &query(), || true, (&mut out, Vec::new()), None).unwrap();
        assert_eq!(out, b"whole\n");
        let mut writer = Writer::open(dir.path(), &LARGE).unwrap();
        writer.write(Stderr, b"next\n");
        writer.write(Stdout, b"!\n");
        assert_eq!(texts(dir.path(), &query()), (format!("{text}!\n"), "next\n".into()), "{length}");
    }
}

#[test]
fn an_end_that_is_no_record_is_cut_or_left_alone() {
    for (log, expected) in [("garbage".to_owned(), 0), ("x".repeat(100_000), 100_000)] {
        let dir = made(&[("log", log.as_bytes())]);
        let mut writer = Writer::open(dir.path(), &SMALL).unwrap();
        writer.write(Stdout, b"a\n");
        let (out, err) = texts(dir.path(), &query());
        assert_eq!(out, "a\n");
        assert_eq!(err.contains(&format!("minirun: {expected} bytes")), expected > 0, "{err}");
    }
}

/// Killed between two renames: no file is lost by the next rotation, and none is overlooked.
#[test]
fn a_gap_between_files_is_closed() {
    let dir = made(&[
        ("log", b"2026-01-01T00:00:03Z minirun F file 8\n2026-01-01T00:00:03Z stdout F c\n"),
        ("log.2", b"2026-01-01T00:00:02Z minirun F file 7\n2026-01-01T00:00:02Z stdout F b\n"),
    ]);
    let mut writer = Writer::open(dir.path(), &SMALL).unwrap();
    let long = "x".repeat(3000);
    writer.write(Stdout, long.as_bytes());
    writer.write(Stdout, long.as_bytes());
    assert_eq!(texts(dir.path(), &query()), (format!("b\nc\n{long}{long}"), String::new()));
    assert!(dir.path().join("log.1").exists());
    // And `log` missing.
    fs::remove_file(dir.path().join("log")).unwrap();
    let mut writer = Writer::open(dir.path(), &SMALL).unwrap();
    writer.write(Stdout, b"new\n");
    assert_eq!(texts(dir.path(), &query()), (format!("b\nc\n{long}new\n"), String::new()));
}

#[test]
fn fewer_files_are_kept_when_fewer_are_asked_for() {
    let dir = written(&Options { max_size: 4096, max_file: 6 }, &[(Stdout, &[b'\n'; 1000])]);
    assert!(dir.path().join("log.5").exists());
    let mut writer = Writer::open(dir.path(), &Options { max_size: 4096, max_file: 1 }).unwrap();
    for _ in 0..200 {
        writer.write(Stdout, b"0123456789\n");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert!(texts(dir.path(), &query()).0.starts_with("0123456789\n"));
}

/// What is followed is written when the reader asks whether the container runs, so that nothing depends on time.
#[test]
fn following_goes_on_over_rotations() {
    let dir = tempfile::tempdir().unwrap();
    let writer = std::cell::RefCell::new(Writer::open(dir.path(), &SMALL).unwrap());
    let asked = Cell::new(0);
    let running = || {
        let turn = asked.replace(asked.get() + 1);
        if turn < 40 {
            // Up to two rotations between two looks.
            for number in 0..turn {
                writer.borrow_mut().write(Stdout, format!("{turn}.{number} {}\n", "x".repeat(90)).as_bytes());
            }
        }
        turn < 40
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    read(dir.path(), &Query { follow: true, ..query() }, running, (&mut out, &mut err), None).unwrap();
    let expected: String =
        (0..40).flat_map(|turn| (0..turn).map(move |n| format!("{turn}.{n} {}\n", "x".repeat(90)))).collect();
    assert_eq!((String::from_utf8(out).unwrap(), err), (expected, Vec::new()));
}

#[test]
fn falling_behind_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::open(dir.path(), &SMALL).unwrap();
    writer.write(Stdout, b"first\n");
    let writer = std::cell::RefCell::new(writer);
    let asked = Cell::new(0);
    let running = || {
        let turn = asked.replace(asked.get() + 1);
        if turn == 2 {
            // Files 1 to 9: of these, 7, 8 and 9 are kept.
            for _ in 0..9 {
                writer.borrow_mut().write(Stdout, &[b'x'; 3000]);
                writer.borrow_mut().write(Stdout, &[b'x'; 500]);
            }
        }
        turn < 4
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    read(dir.path(), &Query { follow: true, ..query() }, running, (&mut out, &mut err), None).unwrap();
    let kept = fs::read(dir.path().join("log.2")).unwrap();
    let number = record::file_number(&kept).unwrap();
    let said =
        format!("minirun: {} files of the log had to give way to newer ones before they were read\n", number - 1);
    assert_eq!(String::from_utf8(err).unwrap(), said);
    assert!(out.starts_with(b"first\nxxx"));
}

#[test]
fn following_ends_at_a_time_and_with_its_reader() {
    let dir = written(&LARGE, &[(Stdout, b"a\n")]);
    let until = Query { follow: true, until: Some(time::now() - 1_000_000_000), ..query() };
    read(dir.path(), &until, || true, (Vec::new(), Vec::new()), None).unwrap();
    // Nothing is written, and still it is noticed that nobody reads.
    let (reader, writer) = nix::unistd::pipe().unwrap();
    drop(reader);
    let follow = Query { follow: true, tail: Some(0), ..query() };
    let out = fs::File::from(writer.try_clone().unwrap());
    read(dir.path(), &follow, || true, (out, Vec::new()), Some(std::os::fd::AsFd::as_fd(&writer))).unwrap();
    // And where something is written.
    let out = fs::File::from(writer);
    read(dir.path(), &query(), || true, (out, Vec::new()), None).unwrap();
}

#[test]
fn what_is_no_record_is_counted_and_passed_over() {
    let huge = [b"2026-01-01T00:00:00Z stdout F ".as_slice(), &vec![b'y'; 300_000], b"\n"].concat();
    let dir = made(&[
        ("log.1", &[b"\0\xff garbage\n".as_slice(), &huge, &[b'z'; 200_000]].concat()),
        ("log", b"2026-01-01T00:00:00Z stderr F e\n2026-01-01T00:00:00Z stdout X no\n"),
    ]);
    let (out, err) = texts(dir.path(), &query());
    assert!(out.len() == 300_001 && out.starts_with("yyy") && out.ends_with("y\n"));
    let said = "minirun: 11 bytes of the log cannot be read as lines\n\
                minirun: 200000 bytes of the log cannot be read as lines\n\
                e\nminirun: 33 bytes of the log cannot be read as lines\n";
    assert_eq!(err, said);
    assert_eq!(texts(dir.path(), &Query { tail: Some(2), ..query() }).0.len(), 300_001);
}

#[test]
fn a_log_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(shown(dir.path(), &query()), (Vec::new(), Vec::new()));
    remove(&dir.path().join("none")).unwrap();
    let error = read(&dir.path().join("none"), &query(), || false, (Vec::new(), Vec::new()), None).unwrap_err();
    assert!(format!("{error:#}").starts_with("open log `"));
    assert!(Writer::open(&dir.path().join("none"), &SMALL).is_err());
    remove(dir.path()).unwrap();
    assert!(!dir.path().exists());
}

fn chunks() -> impl Strategy<Value = Vec<(bool, Vec<u8>)>> {
    let byte = prop_oneof![3 => Just(b'\n'), 1 => Just(b' '), 6 => any::<u8>()];
    let small = proptest::collection::vec(byte, 0..60);
    let large = (any::<u8>(), 0usize..150_000).prop_map(|(byte, length)| vec![byte; length]);
    proptest::collection::vec((any::<bool>(), prop_oneof![20 => small, 1 => large]), 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn any_chunks_come_back(chunks in chunks(), lines in 0u64..20, restart in 0usize..30) {
        let dir = tempfile::tempdir().unwrap();
        let rotated = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(dir.path(), &LARGE).unwrap();
        let mut bounded = Writer::open(rotated.path(), &SMALL).unwrap();
        let mut all = [Vec::new(), Vec::new()];
        for (index, (error, bytes)) in chunks.iter().enumerate() {
            if index == restart {
                writer = Writer::open(dir.path(), &LARGE).unwrap();
                bounded = Writer::open(rotated.path(), &SMALL).unwrap();
            }
            writer.write(if *error { Stderr } else { Stdout }, bytes);
            bounded.write(if *error { Stderr } else { Stdout }, bytes);
            all[usize::from(*error)].extend_from_slice(bytes);
        }
        let (out, err) = shown(dir.path(), &query());
        prop_assert!(out == all[0] && err == all[1]);
        let (out, err) = shown(rotated.path(), &query());
        prop_assert!(all[0].ends_with(&out) && all[1].ends_with(&err));
        let kept: u64 = fs::read_dir(rotated.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        prop_assert!(kept <= 3 * 4096);
        // The last lines: so many, and each whole.
        let (out, err) = shown(dir.path(), &Query { tail: Some(lines), ..query() });
        let count = |text: &[u8]| text.split_inclusive(|byte| *byte == b'\n').count() as u64;
        prop_assert_eq!(count(&out) + count(&err), lines.min(count(&all[0]) + count(&all[1])));
        for (part, whole) in [(&out, &all[0]), (&err, &all[1])] {
            prop_assert!(whole.ends_with(part));
            let before = &whole[..whole.len() - part.len()];
            prop_assert!(part.is_empty() || before.is_empty() || before.ends_with(b"\n"));
        }
    }

    #[test]
    fn no_file_makes_it_panic(
        pieces in proptest::collection::vec(prop_oneof![
            Just(b"2026-01-01T00:00:00Z stdout F ".to_vec()),
            Just(b"2026-01-01T00:00:00.123456789Z stderr P x".to_vec()),
            Just(b"2026-01-01T00:00:00Z minirun F file 18446744073709551615".to_vec()),
            Just(b"\n".to_vec()),
            Just(vec![b'x'; 70_000]),
            proptest::collection::vec(any::<u8>(), 0..40),
        ], 0..40),
        cut in 0usize..40,
        lines in proptest::option::of(0u64..10),
    ) {
        let cut = cut.min(pieces.len());
        let dir = made(&[("log.1", &pieces[..cut].concat()), ("log", &pieces[cut..].concat())]);
        for follow in [false, true] {
            shown(dir.path(), &Query { tail: lines, timestamps: true, follow, ..query() });
        }
        let mut writer = Writer::open(dir.path(), &SMALL).unwrap();
        writer.write(Stdout, b"a\n");
        writer.write(Stdout, &[b'\n'; 100]);
        prop_assert!(shown(dir.path(), &query()).0.ends_with(&[b'\n'; 100]));
    }
}
