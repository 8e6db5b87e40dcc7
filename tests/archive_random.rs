//! Archives by chance: whatever they hold, an import ends with a whole image or none, and touches nothing outside.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod tar;

use proptest::prelude::*;
use tar::{Scene, Tar, set_checksum};

/// Imports, and checks what holds for every archive.
fn import(archive: &[u8]) -> Result<(), TestCaseError> {
    let scene = Scene::new();
    let result = scene.store.import("x", archive);
    scene.assert_outside_unchanged();
    match result {
        Ok(_) => {
            prop_assert_eq!(scene.stored(), ["x"]);
            scene.store.remove("x").unwrap();
        }
        Err(e) => prop_assert!(!format!("{e:#}").contains(char::is_control), "{:?}", e),
    }
    prop_assert_eq!(scene.stored(), [""; 0]);
    Ok(())
}

/// One of each kind.
fn sample() -> Tar {
    Tar::new()
        .dir("d/")
        .file("d/f", b"content")
        .symlink("s", "../../../../canary")
        .link("h", "d/f")
        .long(b'L', b"d/long")
        .file("cut", b"")
        .pax(b'x', &[("path", b"d/pax"), ("size", b"3"), ("mtime", b"1.5"), ("uid", b"7")])
        .file("cut", b"abc")
        .long(b'K', b"d/long")
        .link("k", "cut")
        .pax(b'g', &[("comment", b"c")])
        .file("last", b"")
}

/// A name that is most often wrong, or meets another one.
fn name() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "b", "l", "..", ".", "", "canary", "kept", "sub"]);
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        import(&bytes)?;
    }

    #[test]
    fn an_archive_with_changed_bytes(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
                                     cut in any::<prop::sample::Index>(), whole in any::<bool>()) {
        let mut archive = sample().end();
        for (at, byte) in changes {
            let at = at.index(archive.len());
            archive[at] = byte;
            // Else the checksum would refuse nearly all: blocks of content that get one lose some bytes, no matter.
            let block = at / 512 * 512;
            set_checksum(&mut archive[block..block + 512]);
        }
        let length = if whole { archive.len() } else { cut.index(archive.len()) };
        import(&archive[..length])?;
    }

    #[test]
    fn entries_that_meet(entries in prop::collection::vec((name(), name(), prop::sample::select(b"0012257LKx".to_vec())), 1..12)) {
        let archive = entries.iter().fold(Tar::new(), |tar, (name, target, kind)| match kind {
            b'L' | b'K' => tar.long(*kind, target.as_bytes()),
            b'x' => tar.pax(b'x', &[("path", target.as_bytes())]),
            b'0' => tar.file(name, b"changed"),
            kind => tar.entry(name.as_bytes(), *kind, target.as_bytes(), b""),
        });
        import(&archive.end())?;
    }
}
