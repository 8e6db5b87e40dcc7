//! `image import`, `ls`, `rm`; the image that is always there; archives that try to climb out.

mod host;

use std::fs;

use host::{Directory, Host, host_test};
use tar::{Builder, EntryType, Header};

/// One entry of an archive, with names as they are: the `tar` crate's own methods refuse bad ones.
struct Entry {
    kind: EntryType,
    name: &'static str,
    link: &'static str,
    body: &'static str,
}

const fn file(name: &'static str, body: &'static str) -> Entry {
    Entry { kind: EntryType::Regular, name, link: "", body }
}

const fn directory(name: &'static str) -> Entry {
    Entry { kind: EntryType::Directory, name, link: "", body: "" }
}

const fn link(name: &'static str, link: &'static str) -> Entry {
    Entry { kind: EntryType::Symlink, name, link, body: "" }
}

const fn hard_link(name: &'static str, link: &'static str) -> Entry {
    Entry { kind: EntryType::Link, name, link, body: "" }
}

const fn other(kind: EntryType, name: &'static str) -> Entry {
    Entry { kind, name, link: "", body: "" }
}

fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        old.name[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
        old.linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_mode(0o755);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(entry.body.len() as u64);
        if matches!(entry.kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(1).expect("gnu");
            header.set_device_minor(3).expect("gnu");
        }
        header.set_cksum();
        builder.append(&header, entry.body.as_bytes()).expect("in memory");
    }
    builder.into_inner().expect("in memory")
}

/// A small image that runs: busybox and a file of its own.
fn good(host: &Host, place: &Directory) -> String {
    let root = place.path().join("root");
    host.sh(&format!(
        "mkdir -p {0}/bin {0}/etc {0}/usr/share/mine; cp $(command -v busybox) {0}/bin/busybox; ln {0}/bin/busybox {0}/bin/cat
         for p in sh readlink stat; do ln -s busybox {0}/bin/$p; done; ln -s ../bin/busybox {0}/etc/box; echo mine >{0}/usr/share/mine/text; chmod 640 {0}/usr/share/mine/text
         chown 12:34 {0}/usr/share/mine/text; tar -C {0} -cf {1}/good.tar .",
        root.display(),
        place.text()
    ))
    .ok();
    format!("{}/good.tar", place.text())
}

host_test!(an_archive_becomes_an_image, |host| {
    let place = host.directory("archive");
    let archive = good(host, &place);
    host.minirun(["image", "import", &archive, "mine"]).ok();
    assert!(host.minirun(["image", "ls"]).ok().contains("mine"));
    let script = "cat /usr/share/mine/text; stat -c '%a %u:%g' /usr/share/mine/text; readlink /bin/sh";
    assert_eq!(host.minirun(["run", "mine", "sh", "-c", script]).ok(), "mine\n640 12:34\nbusybox\n");
    host.minirun(["image", "rm", "mine"]).ok();
    assert!(!host.minirun(["image", "ls"]).ok().contains("mine"));
    host.minirun(["run", "mine", "sh"]).fails(125);
});

host_test!(an_archive_comes_by_a_pipe, |host| {
    let place = host.directory("archive");
    let archive = fs::read(good(host, &place)).expect("read");
    host.minirun(["image", "import", "-", "mine"]).stdin(archive).ok();
    assert_eq!(host.minirun(["run", "mine", "cat", "/usr/share/mine/text"]).ok(), "mine\n");
    host.minirun(["image", "rm", "mine"]).ok();
});

host_test!(a_compressed_archive_is_taken, |host| {
    let place = host.directory("archive");
    let archive = good(host, &place);
    host.sh(&format!("gzip {archive}")).ok();
    host.minirun(["image", "import", &format!("{archive}.gz"), "mine"]).ok();
    assert_eq!(host.minirun(["run", "mine", "cat", "/usr/share/mine/text"]).ok(), "mine\n");
    host.minirun(["image", "rm", "mine"]).ok();
});

host_test!(cold busybox_needs_no_network, |host| {
    host.sh("ip link del eth0").ok();
    assert_eq!(host.minirun(["run", "--net=none", "busybox", "echo", "hello"]).ok(), "hello\n");
    assert!(host.minirun(["image", "ls"]).ok().contains("busybox"));
    let said = host.minirun(["run", "--net=none", "busybox", "sh", "-c", "ls /; cat /etc/passwd /etc/group"]).ok();
    for name in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "root:x:0:0", "nobody"] {
        assert!(said.contains(name), "{name} is not in {said}");
    }
    // Removed, it is made again.
    host.minirun(["image", "rm", "busybox"]).ok();
    assert_eq!(host.minirun(["run", "--net=none", "busybox", "echo", "hello"]).ok(), "hello\n");
});

host_test!(an_archive_that_climbs_out_is_refused, |host| {
    let victim = host.directory("victim");
    victim.file("text", "untouched");
    let cases: [(&str, &[Entry]); 15] = [
        ("/tmp/victim/new", &[file("/tmp/victim/new", "x")]),
        ("../../../../../../tmp/victim/new", &[file("../../../../../../tmp/victim/new", "x")]),
        (
            "a/../../../../../../../tmp/victim/new",
            &[directory("a"), file("a/../../../../../../../tmp/victim/new", "x")],
        ),
        ("out/new", &[link("out", "/tmp/victim"), file("out/new", "x")]),
        ("out/new", &[link("out", "../../../../../../../../tmp/victim"), file("out/new", "x")]),
        ("b/new", &[link("a", "/tmp"), link("b", "a/victim"), file("b/new", "x")]),
        ("out/dir", &[link("out", "/tmp/victim"), directory("out/dir")]),
        ("out/link", &[link("out", "/tmp/victim"), link("out/link", "/etc")]),
        ("stolen", &[hard_link("stolen", "/tmp/victim/text")]),
        ("stolen", &[hard_link("stolen", "../../../../../../../../tmp/victim/text")]),
        ("stolen", &[link("out", "/tmp/victim"), hard_link("stolen", "out/text")]),
        ("disk", &[other(EntryType::Block, "disk")]),
        ("null", &[other(EntryType::Char, "null")]),
        ("..", &[link("..", "/tmp/victim")]),
        ("text", &[link("text", "/tmp/victim/text"), hard_link("again", "text"), file("again/x", "x")]),
    ];
    for (named, entries) in cases {
        let output = host.minirun(["image", "import", "-", "evil"]).stdin(archive(entries)).run();
        assert_eq!(output.code, 125, "{named}: {output}");
        assert!(output.stderr.contains(named) || named == "text", "{named} is not named: {output}");
        assert!(output.stderr.starts_with("minirun: ") && output.stderr.lines().count() <= 2, "{output}");
        assert_eq!(host.sh("ls -A /tmp/victim; cat /tmp/victim/text").ok(), "text\nuntouched", "{named}");
        assert!(!host.minirun(["image", "ls"]).ok().contains("evil"), "{named}: half an image");
    }
    drop(victim);
    host.nothing_left();
});

host_test!(a_file_over_a_link_replaces_the_link, |host| {
    let victim = host.directory("victim");
    victim.file("text", "untouched");
    // Two entries of one name are allowed: the later one is the one. Never is the link followed.
    let entries = [link("text", "/tmp/victim/text"), file("text", "mine")];
    let output = host.minirun(["image", "import", "-", "twice"]).stdin(archive(&entries)).run();
    assert_eq!(host.sh("cat /tmp/victim/text").ok(), "untouched", "{output}");
    if output.code == 0 {
        host.minirun(["image", "rm", "twice"]).ok();
    }
});

host_test!(a_broken_archive_is_refused, |host| {
    let whole = archive(&[directory("bin"), file("bin/sh", "0123456789")]);
    let cases = [
        ("truncated", whole[..whole.len() - 1600].to_vec()),
        ("text", b"this is no archive, this is a sentence\n".repeat(50)),
        ("zip", b"PK\x03\x04".repeat(300)),
    ];
    for (name, bytes) in cases {
        let output = host.minirun(["image", "import", "-", "broken"]).stdin(bytes).run();
        assert_eq!(output.code, 125, "{name}: {output}");
        assert!(output.stderr.starts_with("minirun: "), "{name}: {output}");
        assert!(!host.minirun(["image", "ls"]).ok().contains("broken"), "{name}");
        host.nothing_left();
    }
    for (archive, name) in
        [("/nosuch.tar", "mine"), ("/etc", "mine"), ("/dev/null", "../mine"), ("/dev/null", ""), ("/dev/null", "a\nb")]
    {
        let output = host.minirun(["image", "import", archive, name]).run();
        assert_eq!(output.code, 125, "{output}");
        assert!(output.stderr.starts_with("minirun: "), "{output}");
        host.nothing_left();
    }
});

host_test!(an_import_killed_half_way_leaves_nothing, |host| {
    let place = host.directory("archive");
    let archive = fs::read(good(host, &place)).expect("read");
    // The last 10 KiB are padding.
    for half in [512, archive.len() / 3, archive.len() / 2] {
        let mut running = host.minirun(["image", "import", "-", "mine"]).stdin(archive[..half].to_vec()).start();
        std::thread::sleep(std::time::Duration::from_millis(20));
        if !running.has_ended() {
            running.signal(nix::sys::signal::Signal::SIGKILL);
        }
        assert_ne!(running.wait().code, 0);
        assert!(!host.minirun(["image", "ls"]).ok().contains("mine"));
    }
    drop(place);
    host.nothing_left();
});

host_test!(an_image_in_use_stays_usable, |host| {
    let place = host.directory("archive");
    let archive = good(host, &place);
    host.minirun(["image", "import", &archive, "mine"]).ok();
    let mut running = host
        .minirun(["run", "-i", "mine", "sh", "-c", "echo ready; /bin/cat; /bin/cat /usr/share/mine/text"])
        .held()
        .start();
    running.says("ready");
    let removed = host.minirun(["image", "rm", "mine"]).run();
    running.release();
    let output = running.wait();
    assert!(output.stdout.contains("mine"), "removing ended with {}: {output}", removed.code);
    if removed.code != 0 {
        assert_eq!(removed.code, 125, "{removed}");
        host.minirun(["image", "rm", "mine"]).ok();
    }
});
