//! Which cgroup hierarchies this process sees, and where: from its table of mounts, never from a guessed path.
//!
//! Called by everything else here. A host has version 1 (a hierarchy for each controller or for some together), version 2
//! (one for all), or both at a time ("hybrid").

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

/// What a hierarchy's files are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// cgroup, the file system.
    V1,
    /// cgroup2.
    V2,
}

/// A mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Which group is seen there, as /proc/PID/cgroup names it.
    pub root: String,
    /// Its version.
    pub version: Version,
    /// Its controllers: those that can be used, for version 2.
    pub controllers: Vec<String>,
    /// Whether nothing can be changed there.
    read_only: bool,
    id: u64,
}

impl Hierarchy {
    /// The directory of a group that /proc/PID/cgroup names; `None` where it is not below what is mounted.
    pub fn directory(&self, group: &str) -> Option<PathBuf> {
        let below = Path::new(group).strip_prefix(&self.root).ok()?;
        below.components().all(|part| matches!(part, std::path::Component::Normal(_))).then(|| self.mount.join(below))
    }

    /// The group of a process in this hierarchy, as /proc/PID/cgroup (given as text) names it.
    pub fn group_in<'a>(&self, text: &'a str) -> Option<&'a str> {
        text.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, group) = rest.split_once(':')?;
            let same = match self.version {
                Version::V1 => controllers.split(',').any(|one| self.controllers.iter().any(|own| own == one)),
                Version::V2 => controllers.is_empty(),
            };
            same.then_some(group)
        })
    }
}

#[cfg(test)]
impl Hierarchy {
    /// A mounted hierarchy that can be written to.
    pub fn of(mount: &str, version: Version, controllers: &[&str]) -> Self {
        let controllers = controllers.iter().map(|&one| one.to_owned()).collect();
        Self { mount: mount.into(), root: "/".into(), version, controllers, read_only: false, id: 0 }
    }
}

/// The hierarchies that can be written to.
pub fn visible() -> Result<Vec<Hierarchy>> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("read `/proc/self/mountinfo`")?;
    let mut found = parse(&table);
    // A mount may be hidden below a later one.
    found.retain(|hierarchy| !hierarchy.read_only && mount_at(&hierarchy.mount) == Some(hierarchy.id));
    for hierarchy in found.iter_mut().filter(|hierarchy| hierarchy.version == Version::V2) {
        let controllers = fs::read_to_string(hierarchy.mount.join("cgroup.controllers")).unwrap_or_default();
        hierarchy.controllers = controllers.split_whitespace().map(str::to_owned).collect();
    }
    Ok(found)
}

fn mount_at(path: &Path) -> Option<u64> {
    statx(CWD, path, AtFlags::NO_AUTOMOUNT, StatxFlags::MNT_ID).ok().map(|about| about.stx_mnt_id)
}

/// The hierarchies in a table of mounts (proc_pid_mountinfo(5)), in its order.
fn parse(table: &str) -> Vec<Hierarchy> {
    table.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Hierarchy> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let (id, root, mount) = (left.next()?.parse().ok()?, left.nth(2)?, left.next()?);
    let of_mount = left.next()?;
    let mut right = right.split(' ');
    let version = match right.next()? {
        "cgroup" => Version::V1,
        "cgroup2" => Version::V2,
        _ => return None,
    };
    let of_file_system = right.nth(1)?;
    let is_read_only = |options: &str| options.split(',').any(|option| option == "ro");
    let known = |option: &&str| !["rw", "ro", "xattr", "noprefix"].contains(option);
    let controllers = match version {
        Version::V1 => of_file_system.split(',').filter(known).map(str::to_owned).collect(),
        Version::V2 => vec![],
    };
    Some(Hierarchy {
        mount: PathBuf::from(unescape(mount)),
        root: unescape(root).to_string_lossy().into_owned(),
        version,
        controllers,
        read_only: is_read_only(of_mount) || is_read_only(of_file_system),
        id,
    })
}

/// A blank, tab, newline and backslash are three octal digits there.
fn unescape(text: &str) -> OsString {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(code) if *first == b'\\' => {
                bytes.push(code);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 /docker/abc /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/pids ro,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/my\\040systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
garbage";

    #[test]
    fn a_table_of_mounts() {
        let all = parse(HYBRID);
        let find =
            |controller: &str| all.iter().find(|one| one.controllers.iter().any(|own| own == controller)).unwrap();
        assert_eq!(all.len(), 5);
        assert_eq!(find("cpu").mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(find("cpu"), find("cpuacct"));
        assert!(find("pids").read_only && !find("memory").read_only);
        assert_eq!(find("name=systemd").mount, Path::new("/sys/fs/cgroup/my systemd"));
        assert_eq!(all.iter().filter(|one| one.version == Version::V2).count(), 1);
        assert_eq!(find("memory").directory("/docker/abc/x"), Some("/sys/fs/cgroup/memory/x".into()));
        assert_eq!(find("memory").directory("/docker/abc"), Some("/sys/fs/cgroup/memory/".into()));
        assert_eq!(find("memory").directory("/other"), None);
        assert_eq!(find("cpu").directory("/../other"), None);
    }

    #[test]
    fn the_group_of_a_process() {
        let text = "9:name=systemd:/s\n4:memory:/a:b/c\n1:cpu,cpuacct:/x\n0::/u\n";
        let all = parse(HYBRID);
        let group = |place: &str| all.iter().find(|one| one.mount.ends_with(place)).unwrap().group_in(text);
        assert_eq!(group("memory"), Some("/a:b/c"));
        assert_eq!(group("cpu,cpuacct"), Some("/x"));
        assert_eq!(group("unified"), Some("/u"));
        assert_eq!(group("pids"), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,80}", line in "([0-9]{1,3}|/|rw| - |cgroup2?|\\\\0|,| ){0,24}") {
            let _ = (parse(&text), parse(&line));
            let _ = unescape(&text);
        }
    }
}
