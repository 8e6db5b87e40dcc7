//! What `image import` takes and refuses. Each refusal leaves the store empty and everything outside as it was.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod tar;

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use minirun::image::Limits;
use tar::{Scene, Tar, header, set_size};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn a_tree_is_kept_as_it_was() {
    let scene = Scene::new();
    let archive = Tar::new()
        .dir("./")
        .dir("./bin/")
        .file("./bin/su", b"#!")
        .symlink("./bin/sh", "/bin/su")
        .link("./bin/also", "bin/su")
        .dir("./closed")
        .change(|block| {
            block[100..108].copy_from_slice(b"0000500\0");
            block[108..116].copy_from_slice(b"0001750\0");
        })
        .file("./closed/inside", &[b'x'; 1000])
        .file("./a/b/c", b"")
        .entry(b"./set", b'0', b"", b"")
        .change(|block| {
            block[100..108].copy_from_slice(b"0006711\0");
            block[108..116].copy_from_slice(b"0000012\0");
            block[116..124].copy_from_slice(b"0000013\0");
        })
        .symlink("broken", "../../../../canary")
        .end();
    let entry = scene.import(&archive);
    assert_eq!((entry.name.as_str(), entry.size, entry.files), ("x", 1002, 11));
    let meta = |path: &str| fs::symlink_metadata(scene.rootfs().join(path)).unwrap();
    assert_eq!(meta("bin/su").permissions().mode(), 0o100_644);
    assert_eq!(meta("bin/su").mtime(), 0o7_640_000_000);
    assert_eq!(meta("bin").mtime(), 0o7_640_000_000);
    assert_eq!(meta("bin/sh").mtime(), 0o7_640_000_000);
    assert_eq!(meta("").mtime(), 0o7_640_000_000);
    assert_eq!(meta("bin/also").ino(), meta("bin/su").ino());
    assert_eq!(meta("a/b").permissions().mode(), 0o040_755);
    assert_eq!((meta("closed").permissions().mode(), meta("closed").uid()), (0o040_500, 0o1750));
    assert_eq!(meta("closed/inside").len(), 1000);
    assert_eq!((meta("set").permissions().mode(), meta("set").uid(), meta("set").gid()), (0o106_711, 10, 11));
    assert_eq!(fs::read_link(scene.rootfs().join("bin/sh")).unwrap().to_str(), Some("/bin/su"));
    let image = scene.store.find("x").unwrap().unwrap();
    assert_eq!(image.config.cmd().as_deref(), Some(["sh".to_owned()].as_slice()));
    assert_eq!(image.rootfs, scene.rootfs());
    assert_eq!(fs::metadata(scene.images()).unwrap().permissions().mode(), 0o040_700);
}

#[test]
fn a_gzip_archive_in_two_streams_and_padded_is_read() {
    let scene = Scene::new();
    let archive = Tar::new().file("a", &[b'a'; 3000]).file("b", b"").raw(&[0; 10240]).end();
    let (one, two) = archive.split_at(1000);
    scene.import(&[gzip(one), gzip(two)].concat());
    assert_eq!(fs::read(scene.rootfs().join("a")).unwrap(), [b'a'; 3000]);
    assert!(scene.store.find("x").unwrap().unwrap().config.cmd().is_none());
}

#[test]
fn long_names_of_both_formats_are_read() {
    let long = [b"d/".repeat(60), b"e".repeat(200)].concat();
    let path = std::str::from_utf8(&long).unwrap();
    let gnu = Tar::new().long(b'L', &long).file(&long[..100], b"1").long(b'K', &long).link("l", "cut").end();
    let pax = Tar::new()
        .pax(b'g', &[("comment", b"made by git")])
        .pax(b'x', &[("path", &long), ("mtime", b"1234.5"), ("uid", b"77"), ("SCHILY.xattr.user.x", b"a\n\nb=")])
        .file("cut", b"1")
        .pax(b'x', &[("linkpath", &long)])
        .link("l", "cut")
        .end();
    for archive in [gnu, pax.clone()] {
        let scene = Scene::new();
        scene.import(&archive);
        assert_eq!(fs::metadata(scene.rootfs().join(path)).unwrap().nlink(), 2);
    }
    let scene = Scene::new();
    scene.import(&pax);
    let meta = fs::metadata(scene.rootfs().join(path)).unwrap();
    assert_eq!((meta.mtime(), meta.mtime_nsec(), meta.uid()), (1234, 500_000_000, 77));
}

#[test]
fn a_prefix_and_a_size_in_an_extended_header_are_read() {
    let scene = Scene::new();
    let mut block = header(b"name", b'0', b"", 0);
    block[345..351].copy_from_slice(b"prefix");
    set_size(&mut block, 0);
    scene.import(&Tar::new().pax(b'x', &[("size", b"3")]).raw(&block).raw(&[b'x'; 3]).raw(&[0; 509]).end());
    assert_eq!(fs::read(scene.rootfs().join("prefix/name")).unwrap(), b"xxx");
}

#[test]
fn times_before_1970_are_kept() {
    let scene = Scene::new();
    let binary = |block: &mut [u8]| {
        block[136..148].fill(0xff);
        block[147] = 0xfe;
    };
    scene.import(&Tar::new().file("a", b"").change(binary).pax(b'x', &[("mtime", b"-1.25")]).file("b", b"").end());
    assert_eq!(fs::metadata(scene.rootfs().join("a")).unwrap().mtime(), -2);
    let b = fs::metadata(scene.rootfs().join("b")).unwrap();
    assert_eq!((b.mtime(), b.mtime_nsec()), (-2, 750_000_000));
}

#[test]
fn a_second_entry_replaces_a_file_and_nothing_else() {
    let scene = Scene::new();
    let archive = Tar::new()
        .file("a", b"first")
        .link("kept", "a")
        .file("a", b"second")
        .symlink("s", "a")
        .file("s", b"no link")
        .file("f", b"123456")
        .symlink("f", "a")
        .dir("d")
        .dir("d")
        .change(|block| block[100..108].copy_from_slice(b"0000711\0"))
        .end();
    let entry = scene.import(&archive);
    let read = |path: &str| fs::read_to_string(scene.rootfs().join(path)).unwrap();
    assert_eq!((read("a"), read("kept"), read("s")), ("second".into(), "first".into(), "no link".into()));
    assert_eq!((entry.files, entry.size), (5, 5 + 6 + 7));
    assert_eq!(fs::metadata(scene.rootfs().join("d")).unwrap().permissions().mode(), 0o040_711);
}

#[test]
fn names_that_lead_out_are_refused() {
    let scene = Scene::new();
    let canary = scene.canary().into_os_string().into_string().unwrap();
    for make in [
        (|tar, name, content| tar.file(name, content)) as fn(Tar, &str, &[u8]) -> Tar,
        |tar, name, _| tar.dir(name),
        |tar, name, _| tar.symlink(name, "y"),
    ] {
        let one = |name: &str| make(Tar::new().file("fine", b"fine"), name, b"").end();
        scene.refuse(&one("../../../../canary/new"), "extract `../../../../canary/new`: its name has a `..`");
        scene.refuse(&one("a/../../../../../canary/new"), "its name has a `..`");
        scene.refuse(&one(".."), "its name has a `..`");
        scene.refuse(&one("a/.."), "its name has a `..`");
        scene.refuse(&one(&canary), "its name is absolute");
        scene.refuse(&one("/"), "its name is absolute");
    }
    let path = format!("{canary}/new");
    scene.refuse(&Tar::new().pax(b'x', &[("path", path.as_bytes())]).file("a", b"").end(), "its name is absolute");
    scene.refuse(&Tar::new().long(b'L', b"../a").file("a", b"").end(), "its name has a `..`");
    scene.refuse(&Tar::new().file("./", b"x").end(), "it is not a file and has content");
    scene.refuse(&Tar::new().file(".", b"x").end(), "it is the root directory");
}

#[test]
fn nothing_goes_through_a_link() {
    let scene = Scene::new();
    let canary = scene.canary().into_os_string().into_string().unwrap();
    for target in [canary.as_str(), "../../../../canary", "inside", ".", "loop"] {
        let linked = Tar::new().dir("inside").symlink("loop", target);
        let through = "its path goes through a symbolic link";
        scene.refuse(&linked.clone().file("loop/kept", b"changed").end(), through);
        scene.refuse(&linked.clone().file("loop/sub/kept", b"changed").end(), through);
        scene.refuse(&linked.clone().dir("loop/new").end(), through);
        scene.refuse(&linked.clone().symlink("loop/new", "x").end(), through);
        scene.refuse(&linked.clone().file("loop/new/deep/er", b"").end(), through);
        scene.refuse(&linked.clone().link("h", "loop/kept").end(), through);
        scene.refuse(&linked.clone().link("h", "loop").end(), "that is a directory or a symbolic link");
        scene.refuse(&linked.clone().dir("loop").end(), "an earlier entry made a file or link of it");
        // A file in place of the link: the link goes, not what it leads to.
        scene.import(&linked.file("loop", b"file").end());
        scene.store.remove("x").unwrap();
    }
    let deep = Tar::new().dir("d").symlink("d/l", &canary);
    scene.refuse(&deep.clone().file("d/l/kept", b"changed").end(), "its path goes through a symbolic link");
    scene.refuse(&deep.file("d/l/sub/x", b"changed").end(), "its path goes through a symbolic link");
    scene.refuse(&Tar::new().file("f", b"").file("f/x", b"").end(), "its path goes through a file");
    scene.refuse(&Tar::new().file("f", b"").file("f/x/y", b"").end(), "its path goes through a file");
}

#[test]
fn hard_links_are_to_files_of_the_archive() {
    let scene = Scene::new();
    let kept = scene.canary().join("kept").into_os_string().into_string().unwrap();
    let one = |target: &str| Tar::new().dir("d").file("f", b"").symlink("s", "f").link("h", target).end();
    scene.refuse(&one(&kept), "its name is absolute");
    scene.refuse(&one("../../../../canary/kept"), "its name has a `..`");
    scene
        .refuse(&one("missing"), "extract `h`: hard link to `missing`: there is no such file in the archive before it");
    scene.refuse(&one("none/missing"), "there is no such file in the archive before it");
    scene.refuse(&one("s"), "that is a directory or a symbolic link");
    scene.refuse(&one("s/x"), "its path goes through a symbolic link");
    scene.refuse(&one("f/x"), "its path goes through a file");
    scene.refuse(&one("d"), "that is a directory or a symbolic link");
    scene.refuse(&one("."), "that is a directory or a symbolic link");
    scene.refuse(&one("h"), "that is its own name");
    scene.refuse(&one("./h"), "that is its own name");
    scene.refuse(&Tar::new().link("h", "").end(), "hard link");
    scene.refuse(&Tar::new().file("f", b"").pax(b'x', &[("linkpath", b"f\0g")]).link("h", "f").end(), "has a NUL");
    scene.refuse(&Tar::new().file("f", b"").entry(b"h", b'1', b"f", b"content").end(), "is not a file and has content");
    scene.refuse(&Tar::new().file("f", b"").dir("h").link("h", "f").end(), "an earlier entry made a directory of it");
}

#[test]
fn what_is_no_file_directory_or_link_is_refused() {
    let scene = Scene::new();
    for (kind, why) in [
        (b'3', "it is a device"),
        (b'4', "it is a device"),
        (b'6', "it is a FIFO"),
        (b'S', "sparse files, which are not read"),
        (b'D', "its type `D` is not known"),
        (b'M', "its type `M` is not known"),
        (b'V', "its type `V` is not known"),
        (b's', "its type `s` is not known"),
        (0x1b, "its type `\\u{1b}` is not known"),
    ] {
        scene.refuse(&Tar::new().file("fine", b"").entry(b"dev/sda", kind, b"", b"").end(), why);
    }
    scene.refuse(&Tar::new().pax(b'x', &[("GNU.sparse.major", b"1")]).file("f", b"").end(), "sparse files");
    scene.refuse(&Tar::new().symlink("s", "").end(), "the symbolic link");
    scene.refuse(&Tar::new().entry(b"d/", b'5', b"", b"content").end(), "is not a file and has content");
}

#[test]
fn a_file_and_a_directory_do_not_replace_each_other() {
    let scene = Scene::new();
    scene.refuse(&Tar::new().dir("a").file("a", b"").end(), "extract `a`: an earlier entry made a directory of it");
    scene.refuse(&Tar::new().file("a/b", b"").file("a", b"").end(), "an earlier entry made a directory of it");
    scene.refuse(&Tar::new().dir("a").symlink("a", "/").end(), "an earlier entry made a directory of it");
    scene.refuse(&Tar::new().file("a", b"").dir("a").end(), "an earlier entry made a file or link of it");
}

#[test]
fn odd_names_are_refused_or_kept_and_never_printed_raw() {
    let scene = Scene::new();
    let long = |name: &[u8]| Tar::new().long(b'L', name).file("cut", b"").end();
    scene.refuse(&long(&b"a/".repeat(2500)), "its name is longer than 4095 bytes");
    scene.refuse(&long(&b"a".repeat(256)), "a component of its name is longer than 255 bytes");
    scene.refuse(&long(b"a\0b"), "its name has a NUL");
    scene.refuse(&Tar::new().pax(b'x', &[("path", b"a\0/../b")]).file("cut", b"").end(), "its name has a NUL");
    scene.refuse(&long(b""), "it has no name");
    scene.refuse(&Tar::new().file("", b"").end(), "it has no name");
    scene.refuse(&long(b"\x1b[2J\n/../x\xff"), "extract `\\u{1b}[2J\\n/../x\u{fffd}`: its name has a `..`");
    let odd = [b"a\nb\x1b[31m\xff ".as_slice(), b"x".repeat(240).as_slice()].concat();
    let deepest = [b"d/".repeat(2046), b"ff".to_vec()].concat();
    scene.import(&Tar::new().long(b'L', &odd).file("cut", b"").long(b'L', &deepest).file("cut", b"").end());
    assert!(scene.rootfs().join(std::ffi::OsStr::new(std::str::from_utf8(&deepest[..2000]).unwrap())).exists());
    scene.store.remove("x").unwrap();
    assert_eq!(scene.stored(), [""; 0]);
}

#[test]
fn layers_are_refused_with_what_to_do() {
    let scene = Scene::new();
    for name in ["a/.wh.b", ".wh..wh..opq", ".wh.", ".wh..", ".wh.a/x"] {
        scene.refuse(&Tar::new().file(name, b"").end(), "it is a whiteout");
    }
    let why = "has the layers of an image";
    let id = "a".repeat(64);
    scene.refuse(&Tar::new().dir("blobs").file("blobs/sha256/x", b"").file("manifest.json", b"").end(), why);
    scene.refuse(&Tar::new().file(format!("{id}/layer.tar"), b"").file("manifest.json", b"").end(), why);
    scene.refuse(&Tar::new().file("manifest.json", b"").file(format!("{id}.tar"), b"").end(), why);
    scene.refuse(&Tar::new().file("oci-layout", b"{}").end(), why);
    scene.import(&Tar::new().file("manifest.json", b"").file("usr/oci-layout", b"").end());
}

#[test]
fn an_archive_that_ends_early_late_or_never_begins_is_refused() {
    let scene = Scene::new();
    let whole = Tar::new().file("a", &[b'a'; 700]).dir("b").end();
    for end in [1, 100, 511, 513, 1000, 1211, 1212, 1536, 1537, 2047, 2048] {
        scene.refuse(&whole[..end], "");
    }
    scene.refuse(&whole[..2048], "the archive is truncated");
    let zipped = gzip(&whole);
    scene.refuse(&zipped[..zipped.len() / 2], "the archive is truncated");
    scene.refuse(&zipped[..zipped.len() - 4], "the archive is truncated");
    scene.refuse(&[zipped, b"no second stream".to_vec()].concat(), "read the archive");
    scene.refuse(b"", "the archive is empty");
    scene.refuse(&gzip(b""), "the archive is truncated");
    scene.refuse(&[0; 10240], "the archive has no files");
    scene.refuse(&Tar::new().dir("./").end(), "the archive has no files");
    scene.refuse(&[b'x'; 2000], "it is not a tar archive");
    scene.refuse(&gzip(&gzip(&whole)), "the archive is truncated");
    scene.refuse(&[whole.clone(), b"garbage".to_vec()].concat(), "more behind the end of the archive");
    scene.refuse(&Tar::new().file("a", b"").raw(&[0; 512]).file("../b", b"").end(), "more behind the end");
    scene.refuse(&Tar(whole).raw(&vec![0; 17 << 20]).0, "more behind the end");
    scene.refuse(&Tar::new().file("a", b"").raw(&[b'x'; 512]).end(), "the checksum of a header is wrong");
    scene.refuse(&Tar::new().file("a", b"").pax(b'x', &[("path", b"b")]).end(), "an entry that is missing");
}

#[test]
fn other_compressions_are_named() {
    let scene = Scene::new();
    for (magic, name) in [
        (b"\x28\xb5\x2f\xfd".as_slice(), "zstd"),
        (b"\xfd7zXZ\0", "xz"),
        (b"BZh9", "bzip2"),
        (b"\x04\x22\x4d\x18", "lz4"),
        (b"LZIP", "lzip"),
        (b"\x1f\x9d", "compress"),
        (b"PK\x03\x04", "zip"),
    ] {
        scene.refuse(&[magic, &[0; 600]].concat(), &format!("it is compressed by {name}"));
    }
}

#[test]
fn two_readers_see_one_archive_or_it_is_refused() {
    let scene = Scene::new();
    let file = |tar: Tar| tar.file("a", b"").end();
    let twice = "described twice";
    scene.refuse(&file(Tar::new().long(b'L', b"a").long(b'L', b"b")), twice);
    scene.refuse(&file(Tar::new().long(b'L', b"a").pax(b'x', &[("path", b"b")])), twice);
    scene.refuse(&file(Tar::new().pax(b'x', &[("path", b"a"), ("path", b"b")])), twice);
    scene.refuse(&file(Tar::new().pax(b'x', &[("size", b"0"), ("size", b"512")])), twice);
    scene.refuse(&file(Tar::new().pax(b'x', &[]).pax(b'x', &[])), "two extended headers");
    scene.refuse(&file(Tar::new().pax(b'g', &[("path", b"../x")])), "the archive sets `path` for all its entries");
    for content in [
        b"5 a=b\n".as_slice(),
        b"7 a=b\n",
        b"6 a=bc",
        b"6 a+b\n",
        b"a=b\n",
        b"0 \n",
        b"-6 a=b\n",
        b"6 a=b\n\n",
        b" a=b\n",
        b"99999999999999999999 a=b\n",
        b"18446744073709551615 a=b\n",
        b"6",
        b"2 ",
        b"1 ",
    ] {
        scene.refuse(&file(Tar::new().entry(b"x", b'x', b"", content)), "extended header in the archive is malformed");
    }
    for (key, value) in
        [("size", "-1"), ("size", "x"), ("uid", "+1"), ("mtime", "1.x"), ("gid", "99999999999999999999")]
    {
        scene.refuse(&file(Tar::new().pax(b'x', &[(key, value.as_bytes())])), "is not a number");
    }
    scene.refuse(&file(Tar::new().pax(b'x', &[("uid", b"4294967295")])), "is no number of a user or group");
    scene.refuse(&file(Tar::new().pax(b'x', &[("gid", b"4294967296")])), "is no number of a user or group");
    scene.refuse(&Tar::new().file("a", b"").change(|block| block[108] = b'9').end(), "a");
}

#[test]
fn sizes_are_checked_before_anything_is_written() {
    let mut scene = Scene::new();
    for size in [u64::MAX, 8 << 60, i64::MAX as u64, (32 << 30) + 1] {
        scene.refuse(&Tar::new().raw(&header(b"big", b'0', b"", size)).end(), "more than 34359738368 bytes");
        scene.refuse(&Tar::new().raw(&header(b"big", b'S', b"", size)).end(), "sparse files");
        let pax = Tar::new().pax(b'x', &[("size", size.to_string().as_bytes())]);
        scene.refuse(&pax.file("big", b"").end(), "more than 34359738368 bytes");
        scene.refuse(&Tar::new().raw(&header(b"x", b'L', b"", size)).end(), "more than 1048576 bytes");
        scene.refuse(&Tar::new().raw(&header(b"x", b'x', b"", size)).end(), "more than 1048576 bytes");
    }
    scene.store.limits = Limits { size: 1000, entries: 10 };
    scene.refuse(
        &Tar::new().file("a", &[0; 600]).file("b", &[0; 401]).end(),
        "extract `b`: the archive holds more than",
    );
    let many = (0..11).fold(Tar::new(), |tar, i| tar.file(i.to_string(), b""));
    scene.refuse(&many.end(), "the archive has more than 10 entries");
    scene.refuse(&Tar::new().file("a/b/c/d/e/f/g/h/i/j/k", b"").end(), "the archive has more than 10 entries");
    scene.import(&Tar::new().file("a", &[0; 600]).file("b", &[0; 400]).end());
}

#[test]
fn a_bomb_ends_at_the_limit() {
    let mut scene = Scene::new();
    scene.store.limits.size = 8 << 20;
    let entry = Tar::new().file("a", &[0; 1 << 20]).0;
    let mut bomb = io::Cursor::new(entry.repeat(40));
    let error = format!("{:#}", scene.store.import("x", &mut bomb).unwrap_err());
    assert!(error.contains("more than 8388608 bytes"), "{error}");
    assert!(bomb.position() < 10 << 20);
    scene.assert_outside_unchanged();
    assert_eq!(scene.stored(), [""; 0]);
    let headers = Tar::new().pax(b'g', &[("comment", &[b'x'; 1 << 19])]).0;
    scene.refuse(&gzip(&headers.repeat(20)), "more than 8388608 bytes");
}

#[test]
fn a_disk_that_is_full_or_fails_leaves_nothing() {
    let scene = Scene::new();
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(5))
        }
    }
    let start = Tar::new().file("a", b"content").dir("b").0;
    let error = format!("{:#}", scene.store.import("x", start.chain(Failing)).unwrap_err());
    assert_eq!(error, "import image `x`: read the archive: Input/output error (os error 5)");
    assert_eq!(scene.stored(), [""; 0]);

    // A full disk of this thread's own: a small tmpfs in a mount namespace that ends with the thread.
    std::thread::scope(|threads| {
        threads.spawn(|| {
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).is_err() {
                assert!(std::env::var_os("MINIRUN_MUST_WORK").is_none(), "not allowed to make a mount namespace");
                return;
            }
            use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
            mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
            let dir = tempfile::tempdir().unwrap();
            mount("tmpfs", dir.path(), "tmpfs", MountFlags::empty(), Some(c"size=1m")).unwrap();
            let scene = Scene::below(dir);
            scene.refuse(
                &Tar::new().file("a", &vec![b'x'; 3 << 20]).end(),
                "extract `a`: write its content: No space left",
            );
            scene.import(&Tar::new().file("a", b"fits").end());
        });
    });
}
