//! What a throw-away host stands on: private file systems, cgroups of its own, an uplink and a LAN.
//!
//! `OwnCgroups` belongs to the outer half, `prepare` to the inner one.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::fs::CWD;
use rustix::mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, mount_remount, move_mount, open_tree};

use super::{GATEWAY, GATEWAY6, HOST, HOST6, OUTSIDE, UPLINK_MTU};

/// Fresh and empty in the throw-away host. `/var/lib` as a whole, so that no directory is made on the machine to mount over.
const PRIVATE: [&str; 4] = ["/run", "/var/lib", "/tmp", "/dev/shm"];

/// A cgroup of every hierarchy, for one test. Its processes see it as the root (`unshare --cgroup`).
pub struct OwnCgroups(Vec<PathBuf>);

impl OwnCgroups {
    pub fn make() -> OwnCgroups {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("minirun-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let mut made = Vec::new();
        for (hierarchy, _) in hierarchies() {
            let group = hierarchy.join(&name);
            if fs::create_dir(&group).is_err() {
                continue;
            }
            // Version 1: a group without processors and memory takes no process.
            for key in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(value) = fs::read(hierarchy.join(key)) {
                    let _ = fs::write(group.join(key), value);
                }
            }
            made.push(group);
        }
        OwnCgroups(made)
    }

    /// The files to write a process to, separated by blanks.
    pub fn procs(&self) -> String {
        let files: Vec<_> = self.0.iter().map(|group| group.join("cgroup.procs").display().to_string()).collect();
        files.join(" ")
    }
}

impl Drop for OwnCgroups {
    fn drop(&mut self) {
        for group in &self.0 {
            // The last process is reaped a moment after `unshare` returns.
            for _ in 0..100 {
                if remove_groups(group).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn remove_groups(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)?.flatten() {
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}

/// Where the hierarchies are mounted, with the type and the options that mount the same one again.
fn hierarchies() -> Vec<(PathBuf, (String, String))> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
    let parse = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let place = left.split(' ').nth(4)?;
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        let options: Vec<_> = options.split(',').filter(|option| !["rw", "ro"].contains(option)).collect();
        let options = if kind == "cgroup" { options.join(",") } else { String::new() };
        let known = kind.starts_with("cgroup") && place.starts_with("/sys/fs/cgroup");
        known.then(|| (PathBuf::from(place), (kind.to_owned(), options)))
    };
    table.lines().filter_map(parse).collect()
}

/// Prepares the ground, and says whether the cgroups can be compared.
pub fn prepare() -> bool {
    assert_eq!(std::process::id(), 1, "only in a PID namespace of its own");
    let cgroups = file_systems();
    network();
    cgroups
}

fn file_systems() -> bool {
    let hierarchies = hierarchies();
    let manifest = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let programs = PathBuf::from(super::binary()).parent().expect("a parent").to_owned();
    // The project and what was built of it may lie below a directory that is hidden here (a clone in /tmp): these come back.
    let hidden = |path: &&PathBuf| PRIVATE.iter().any(|place| path.starts_with(place));
    let kept: Vec<(PathBuf, OwnedFd)> = [manifest, programs]
        .iter()
        .filter(hidden)
        .map(|path| {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            (path.clone(), open_tree(CWD, path, flags).expect("open_tree"))
        })
        .collect();

    tmpfs("/tmp");
    // A copy of /etc to write to, whose other half ends up under the next /tmp.
    for directory in ["/tmp/upper", "/tmp/work"] {
        fs::create_dir(directory).expect("mkdir");
    }
    let layers = c"lowerdir=/etc,upperdir=/tmp/upper,workdir=/tmp/work";
    mount("etc", "/etc", "overlay", MountFlags::empty(), layers).expect("overlay over /etc");
    for place in PRIVATE {
        tmpfs(place);
    }
    for (path, tree) in kept {
        fs::create_dir_all(&path).expect("mkdir");
        move_mount(tree.as_fd(), "", CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).expect("move_mount");
    }
    fs::remove_file("/etc/resolv.conf").ok();
    fs::write("/etc/resolv.conf", format!("nameserver {GATEWAY}\n")).expect("resolv.conf");
    // The machine's own files are out of a test's reach: minirun has no business there either.
    mount_remount("/", MountFlags::BIND | MountFlags::RDONLY, "").expect("read-only root");

    // Another network namespace shows other files in /sys.
    mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None).expect("sysfs");
    if hierarchies.first().is_some_and(|(place, _)| place != Path::new("/sys/fs/cgroup")) {
        tmpfs("/sys/fs/cgroup");
    }
    let mut all = !hierarchies.is_empty();
    for (place, (kind, options)) in &hierarchies {
        let _ = fs::create_dir(place);
        let options = std::ffi::CString::new(options.as_str()).expect("no NUL");
        all &= mount("cgroup", place, kind.as_str(), MountFlags::empty(), options.as_c_str()).is_ok();
    }
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    all && own.lines().all(|line| line.ends_with(":/"))
}

fn tmpfs(place: &str) {
    let mode = if place == "/run" || place == "/var/lib" { c"mode=0755" } else { c"mode=1777" };
    mount("tmpfs", place, "tmpfs", MountFlags::empty(), mode)
        .unwrap_or_else(|error| panic!("tmpfs on {place}: {error}"));
}

/// `eth0` with the default route, and at its other end the namespace `lan`, which is the gateway and what lies behind it.
/// No link-local addresses: their duplicate detection takes a second, and a snapshot would see it going on.
fn network() {
    batch(&[], "link set lo up\nnetns add lan\n");
    batch(
        &[],
        &format!(
            "link add eth0 mtu {UPLINK_MTU} type veth peer name host0 mtu {UPLINK_MTU} netns lan\n\
             link set eth0 addrgenmode none\n\
             link set eth0 up\n"
        ),
    );
    batch(
        &["-n", "lan"],
        &format!(
            "link set lo up\n\
             link set host0 addrgenmode none\n\
             link set host0 up\n\
             addr add {GATEWAY}/24 dev host0\n\
             addr add {GATEWAY6}/64 dev host0 nodad\n\
             addr add {OUTSIDE}/32 dev lo\n"
        ),
    );
    batch(
        &[],
        &format!(
            "addr add {HOST}/24 dev eth0\n\
             addr add {HOST6}/64 dev eth0 nodad\n\
             route add default via {GATEWAY}\n\
             route add default via {GATEWAY6}\n"
        ),
    );
}

fn batch(arguments: &[&str], commands: &str) {
    let mut ip = Command::new("ip").args(arguments).args(["-batch", "-"]).stdin(Stdio::piped()).spawn().expect("ip");
    ip.stdin.take().expect("piped").write_all(commands.as_bytes()).expect("ip reads");
    assert!(ip.wait().expect("wait").success(), "ip {arguments:?}: {commands}");
}
