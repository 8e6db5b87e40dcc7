//! The log of a container on a disk that is full, and after the death of its writer.

#![expect(clippy::disallowed_methods, reason = "a file that nobody reads, and a process to be killed")]

mod host;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use host::host_test;
use minirun::log::{Options, Query, Stream, Writer, read};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// What is shown of a log whose container has ended.
fn shown(directory: &Path) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    read(directory, &Query::default(), || false, (&mut out, &mut err), None).expect("read");
    (String::from_utf8(out).expect("UTF-8"), String::from_utf8(err).expect("UTF-8"))
}

fn said(stdout: usize, stderr: usize, cause: &str) -> String {
    format!("minirun: {stdout} bytes of stdout, {stderr} of stderr were lost: {cause}\n")
}

/// The counts of what `said` makes.
fn counts(text: &str) -> (usize, usize) {
    let words: Vec<_> = text.split(' ').collect();
    let (stdout, stderr) = (words[1].parse().expect("a number"), words[5].parse().expect("a number"));
    assert_eq!(format!("{text}\n"), said(stdout, stderr, "no space left on device"));
    (stdout, stderr)
}

/// A file system of 64 KiB, and in it a file of half of that, to be removed.
struct Disk;

impl Disk {
    fn make() -> (Disk, PathBuf, PathBuf) {
        fs::create_dir("/tmp/disk").expect("mkdir");
        mount("tmpfs", "/tmp/disk", "tmpfs", MountFlags::empty(), c"size=64k").expect("mount");
        let (ballast, log) = (PathBuf::from("/tmp/disk/ballast"), PathBuf::from("/tmp/disk/log"));
        fs::write(&ballast, [0; 32 << 10]).expect("write");
        fs::create_dir(&log).expect("mkdir");
        (Disk, ballast, log)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount("/tmp/disk", UnmountFlags::DETACH).expect("unmount");
        fs::remove_dir("/tmp/disk").expect("rmdir");
    }
}

host_test!(what_a_full_disk_did_not_take_is_told_to_the_byte, |_| {
    for (size, count) in [(100, 600), (7, 5000), (3000, 30), (40_000, 5)] {
        let (_disk, ballast, log) = Disk::make();
        let mut writer = Writer::open(&log, &Options::default()).expect("open");
        let line = |number: usize| format!("{number:>size$}\n");
        let mut all = String::new();
        for number in 0..count {
            writer.write(Stream::Stdout, line(number).as_bytes());
            writer.write(Stream::Stderr, b"e\n");
            all.push_str(&line(number));
        }
        let (kept, _) = shown(&log);
        assert!(kept.len() < all.len() && all.starts_with(&kept[..1000]));
        fs::remove_file(&ballast).expect("remove");
        writer.write(Stream::Stdout, b"after\n");
        writer.finish();
        let (out, err) = shown(&log);
        assert_eq!(out, format!("{kept}after\n"));
        // A short record may have found room where a long one had not: then there is more than one gap.
        let (losses, errors): (Vec<_>, Vec<_>) = err.lines().partition(|line| *line != "e");
        let lost: Vec<_> = losses.iter().map(|line| counts(line)).collect();
        assert_eq!(lost.iter().map(|(stdout, _)| stdout).sum::<usize>(), all.len() - kept.len(), "{size}");
        assert_eq!(lost.iter().map(|(_, stderr)| stderr).sum::<usize>(), 2 * (count - errors.len()), "{size}");
    }
});

host_test!(what_is_lost_at_the_end_is_told_though_the_disk_is_still_full, |_| {
    let (_disk, ballast, log) = Disk::make();
    let mut writer = Writer::open(&log, &Options::default()).expect("open");
    for _ in 0..1000 {
        writer.write(Stream::Stdout, &[b'x'; 100]);
    }
    writer.finish();
    drop(writer);
    let (out, err) = shown(&log);
    assert_eq!(err, said(100_000 - out.len(), 0, "no space left on device"));
    // The next writer of the same log says it in the log, once.
    fs::remove_file(&ballast).expect("remove");
    let mut writer = Writer::open(&log, &Options::default()).expect("open");
    writer.write(Stream::Stderr, b"next\n");
    writer.finish();
    assert_eq!(shown(&log), (out, format!("{err}next\n")));
});

/// The bytes that a writer below writes for ever: lines of all lengths.
fn stream() -> impl Iterator<Item = u8> {
    (0usize..).flat_map(|number| format!("{number} {}\n", "x".repeat(number * number % 30_000)).into_bytes())
}

const WRITES_TO: &str = "MINIRUN_TEST_WRITES_TO";

/// The test `name` of this file once more, in a process of its own that is to do its other half: to write to a directory.
fn other_half(name: &str, directory: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a program"));
    command.args(["--exact", name]).env(WRITES_TO, directory).stdout(Stdio::null());
    command
}

/// In the other half, where it writes to.
fn writes_to() -> Option<PathBuf> {
    std::env::var_os(WRITES_TO).map(PathBuf::from)
}

/// In a process that the signal could end.
fn write_with_a_limit(log: &Path) {
    // Who started the tests may have it ignored.
    minirun::sys::reset_signals().expect("reset signals");
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).expect("getrlimit");
    // Of a size that files can have, it is kept to and nothing is lost.
    setrlimit(Resource::RLIMIT_FSIZE, 6000, hard).expect("setrlimit");
    let mut writer = Writer::open(log, &Options::default()).expect("open");
    for _ in 0..100 {
        writer.write(Stream::Stdout, &[b'x'; 100]);
    }
    assert_eq!(shown(log), ("x".repeat(10_000), String::new()));
    // Of a smaller one, all beyond is.
    setrlimit(Resource::RLIMIT_FSIZE, 1000, hard).expect("setrlimit");
    for _ in 0..100 {
        writer.write(Stream::Stdout, &[b'x'; 100]);
    }
    writer.finish();
}

#[test]
fn a_limit_on_the_size_of_files_neither_kills_nor_blocks() {
    if let Some(log) = writes_to() {
        return write_with_a_limit(&log);
    }
    let directory = tempfile::tempdir().expect("tempdir");
    let name = "a_limit_on_the_size_of_files_neither_kills_nor_blocks";
    let status = other_half(name, directory.path()).status().expect("spawn");
    assert!(status.success(), "{status}");
    let (out, err) = shown(directory.path());
    assert_eq!(err, said(20_000 - out.len(), 0, "file too large"));
}

/// In a process that is killed.
fn write_for_ever(directory: &Path) {
    let mut writer = Writer::open(directory, &Options { max_size: 1 << 40, max_file: 1 }).expect("open");
    let mut bytes = stream();
    let mut chunk = Vec::new();
    for size in (1usize..).map(|number| number * 7919 % 65_536) {
        chunk.clear();
        chunk.extend(bytes.by_ref().take(size));
        writer.write(Stream::Stdout, &chunk);
    }
}

#[test]
fn a_writer_that_was_killed_leaves_a_log_that_can_be_read_and_goes_on() {
    if let Some(log) = writes_to() {
        return write_for_ever(&log);
    }
    let name = "a_writer_that_was_killed_leaves_a_log_that_can_be_read_and_goes_on";
    for round in 0..8u64 {
        let directory = tempfile::tempdir().expect("tempdir");
        let mut child = other_half(name, directory.path()).spawn().expect("spawn");
        let log = directory.path().join("log");
        while fs::metadata(&log).map_or(0, |log| log.len()) < round * 70_000 + 1 {
            assert!(child.try_wait().expect("wait").is_none());
        }
        child.kill().expect("kill");
        child.wait().expect("wait");
        let (out, err) = shown(directory.path());
        assert!(!out.is_empty() && err.is_empty());
        assert!(out.bytes().eq(stream().take(out.len())), "round {round}");
        let mut writer = Writer::open(directory.path(), &Options::default()).expect("open");
        writer.write(Stream::Stdout, b"more\n");
        assert_eq!(shown(directory.path()).0, format!("{out}more\n"));
    }
}
