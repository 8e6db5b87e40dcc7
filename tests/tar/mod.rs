//! Archives written byte by byte, so that they can be wrong in every way; and a place to see what an import did.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use minirun::image::{Entry, Store};
use tempfile::TempDir;

/// A header in the ustar format with a right checksum. A name or link that is too long for its field is cut.
pub fn header(name: &[u8], kind: u8, link: &[u8], size: u64) -> Vec<u8> {
    let mut block = vec![0; 512];
    let mut put = |at: usize, room: usize, bytes: &[u8]| {
        let count = bytes.len().min(room);
        block[at..at + count].copy_from_slice(&bytes[..count]);
    };
    put(0, 100, name);
    put(100, 8, if kind == b'5' { b"0000755\0" } else { b"0000644\0" });
    put(108, 8, b"0000000\0");
    put(116, 8, b"0000000\0");
    put(136, 12, b"07640000000\0");
    put(156, 1, &[kind]);
    put(157, 100, link);
    put(257, 8, b"ustar\x0000");
    set_size(&mut block, size);
    block
}

/// Sets the size, in the binary form of GNU tar if need be, and the checksum.
pub fn set_size(block: &mut [u8], size: u64) {
    match format!("{size:011o}\0") {
        octal if octal.len() == 12 => block[124..136].copy_from_slice(octal.as_bytes()),
        _ => {
            block[124..128].copy_from_slice(&[0x80, 0, 0, 0]);
            block[128..136].copy_from_slice(&size.to_be_bytes());
        }
    }
    set_checksum(block);
}

pub fn set_checksum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// An archive, member by member.
#[derive(Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn entry(self, name: &[u8], kind: u8, link: &[u8], content: &[u8]) -> Self {
        let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
        self.raw(&header(name, kind, link, content.len() as u64)).raw(content).raw(&padding)
    }

    pub fn file(self, name: impl AsRef<[u8]>, content: &[u8]) -> Self {
        self.entry(name.as_ref(), b'0', b"", content)
    }

    pub fn dir(self, name: impl AsRef<[u8]>) -> Self {
        self.entry(name.as_ref(), b'5', b"", b"")
    }

    pub fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(name.as_ref(), b'2', target.as_ref(), b"")
    }

    pub fn link(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(name.as_ref(), b'1', target.as_ref(), b"")
    }

    /// GNU tar's long name (`L`) or long link target (`K`) of the next member.
    pub fn long(self, kind: u8, text: &[u8]) -> Self {
        self.entry(b"././@LongLink", kind, b"", &[text, b"\0"].concat())
    }

    /// An extended header, for the next member (`x`) or all (`g`).
    pub fn pax(self, kind: u8, records: &[(&str, &[u8])]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..).map(|digits| rest + digits).find(|n| n.to_string().len() + rest == *n).unwrap();
            content.extend_from_slice(format!("{length} {key}=").as_bytes());
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        self.entry(b"PaxHeaders/x", kind, b"", &content)
    }

    /// The last member's header with other fields: `change` gets the block, whose checksum is then set.
    pub fn change(mut self, change: impl FnOnce(&mut [u8])) -> Self {
        let at = self.0.len() - 512;
        change(&mut self.0[at..]);
        set_checksum(&mut self.0[at..]);
        self
    }

    pub fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }
}

/// A store, and beside it files that no import may touch.
pub struct Scene {
    dir: TempDir,
    pub store: Store,
    before: BTreeMap<PathBuf, String>,
}

impl Scene {
    pub fn new() -> Self {
        Self::below(tempfile::tempdir().unwrap())
    }

    pub fn below(dir: TempDir) -> Self {
        let canary = dir.path().join("canary");
        fs::create_dir_all(canary.join("sub")).unwrap();
        put(&canary.join("kept"), "kept");
        put(&canary.join("sub/kept"), "kept too");
        symlink("kept", canary.join("link")).unwrap();
        let store = Store::open(&dir.path().join("data")).unwrap();
        let before = snapshot(&canary);
        Self { dir, store, before }
    }

    pub fn canary(&self) -> PathBuf {
        self.dir.path().join("canary")
    }

    pub fn images(&self) -> PathBuf {
        self.dir.path().join("data/images")
    }

    pub fn rootfs(&self) -> PathBuf {
        self.images().join("x/rootfs")
    }

    /// The names in the store's directory, also hidden ones.
    pub fn stored(&self) -> Vec<String> {
        let Ok(entries) = self.images().read_dir() else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    pub fn assert_outside_unchanged(&self) {
        assert_eq!(snapshot(&self.canary()), self.before);
        let beside: Vec<_> = self.dir.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(beside.len() <= 2, "something was made beside the store: {beside:?}");
    }

    /// Imports as `x`, which must work.
    pub fn import(&self, archive: &[u8]) -> Entry {
        let entry = self.store.import("x", archive).unwrap_or_else(|e| panic!("{e:#}"));
        assert_eq!(self.stored(), ["x"]);
        self.assert_outside_unchanged();
        entry
    }

    /// Imports as `x`, which must fail with `why` in the error and leave nothing.
    pub fn refuse(&self, archive: &[u8], why: &str) {
        let error = format!("{:#}", self.store.import("x", archive).expect_err(why));
        assert!(error.starts_with("import image `x`: "), "{error}");
        assert!(error.contains(why), "expected `{why}` in: {error}");
        assert!(!error.contains(char::is_control), "{error:?}");
        assert_eq!(self.stored(), [""; 0], "after: {error}");
        self.assert_outside_unchanged();
    }
}

#[expect(clippy::disallowed_methods, reason = "nobody reads it meanwhile")]
pub fn put(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
}

/// Everything that a write, a chmod, a link or a deletion would change.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut directories = vec![dir.to_owned()];
    while let Some(path) = directories.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = match meta.file_type() {
            kind if kind.is_dir() => {
                directories.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
                String::new()
            }
            kind if kind.is_symlink() => format!("{:?}", fs::read_link(&path).unwrap()),
            _ => fs::read_to_string(&path).unwrap(),
        };
        let (mode, owner) = (meta.permissions().mode(), (meta.uid(), meta.gid()));
        let line = format!("{mode:o} {owner:?} {} {} {} {content}", meta.nlink(), meta.mtime(), meta.mtime_nsec());
        found.insert(path, line);
    }
    found
}
