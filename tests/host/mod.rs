//! A throw-away host for one end-to-end test: its own network, mounts and processes, and a second machine on its LAN.
//!
//! `host_test!(name, |host| { ... })` makes a test whose body is process 1 of fresh namespaces. The outer half, in the
//! ordinary test process, runs this same executable again for that one test under `unshare`; the inner half prepares the
//! ground (`ground.rs`), runs minirun once so that what it keeps on purpose is there, takes a snapshot (`snapshot.rs`), runs
//! the body, and compares: whatever the body left is a failure. All of it ends with process 1.
//!
//! Without root, or without a program that the ground needs, a test says so and passes; `MINIRUN_MUST_WORK=1` makes that a
//! failure.
#![allow(dead_code, unused_imports, unused_macros, reason = "each file of tests uses a part of it")]
#![allow(clippy::disallowed_methods, reason = "tests run programs, write files and start threads")]

mod call;
mod detached;
mod frames;
mod ground;
mod resolver;
mod snapshot;
mod terminal;
mod traffic;

use std::cell::RefCell;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub use call::{Call, Output, Running};
pub use detached::{ALONE, is_alive, kill_hard, open_files};
pub use frames::{BROADCAST, Mac, Wire, frame};
pub use resolver::Resolver;
pub use snapshot::Snapshot;
pub use terminal::Terminal;
pub use traffic::{ALL, By, Member, Mirror, NONE, address_in, asks, connects, listen, refused, ways};

/// A macvlan network with a part of the LAN's addresses that neither the host nor its gateway has; on which link is left to say.
pub const ON_LAN: [&str; 7] = [
    "--driver=macvlan",
    "--subnet=192.0.2.0/24",
    "--gateway=192.0.2.1",
    "--ip-range=192.0.2.192/27",
    "--ipv6",
    "--subnet=2001:db8:1::/64",
    "--gateway=2001:db8:1::1",
];

/// The host's own address on the LAN, and the LAN's gateway, which is the namespace `lan`.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// An address behind the gateway, in no network of the host: it plays the internet.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);
/// MTU of the uplink `eth0`: not 1500, so that a program that assumes 1500 is found out.
pub const UPLINK_MTU: u32 = 1400;

/// The minirun to test: that of `MINIRUN_BINARY`, which scripts/test sets to the release binary, or the one that cargo built.
/// `--init` needs a static one, because the program loader of the host is not in a container.
pub fn binary() -> String {
    std::env::var("MINIRUN_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_minirun").to_owned())
}

/// Set in the inner half.
const INSIDE: &str = "MINIRUN_TEST_INSIDE";
/// What the ground is made with. A Debian package name stands beside each in scripts/setup.
const PROGRAMS: [&str; 8] = ["unshare", "setpriv", "nsenter", "setsid", "ip", "nft", "busybox", "strace"];

/// An end-to-end test.
///
/// * `host_test!(name, |host| { ... })`: minirun has made its bridge before the body begins.
/// * `host_test!(cold name, |host| { ... })`: minirun has never run on this host.
/// * `host_test!(name, within 120, |host| { ... })`: with another limit than 60 seconds.
macro_rules! host_test {
    (cold $name:ident, $body:expr) => {
        $crate::host_test!(@ $name, false, 60, $body);
    };
    (cold $name:ident, within $seconds:literal, $body:expr) => {
        $crate::host_test!(@ $name, false, $seconds, $body);
    };
    ($name:ident, within $seconds:literal, $body:expr) => {
        $crate::host_test!(@ $name, true, $seconds, $body);
    };
    ($name:ident, $body:expr) => {
        $crate::host_test!(@ $name, true, 60, $body);
    };
    (@ $name:ident, $warm:literal, $seconds:literal, $body:expr) => {
        #[test]
        fn $name() {
            let name = concat!(module_path!(), "::", stringify!($name));
            $crate::host::in_throw_away_host(name, $warm, std::time::Duration::from_secs($seconds), $body);
        }
    };
}
pub(crate) use host_test;

/// Both halves of a test: see the top of the file.
pub fn in_throw_away_host(path: &str, warm: bool, limit: Duration, body: impl FnOnce(&Host)) {
    if std::env::var_os(INSIDE).is_some() {
        inner(warm, body);
    } else if let Some(missing) = missing() {
        let must_work = std::env::var_os("MINIRUN_MUST_WORK").is_some_and(|value| value == "1");
        assert!(!must_work, "cannot run here: {missing}");
        println!("skipped: {missing}");
    } else {
        outer(path, limit);
    }
}

fn inner(warm: bool, body: impl FnOnce(&Host)) {
    let cgroups = ground::prepare();
    let host = Host { before: RefCell::new(Snapshot::default()), cgroups };
    if warm {
        host.minirun(["run", "busybox", "true"]).ok();
        host.soon("the first container's link goes", || !host.sh("ip -o link").ok().contains(": mr"));
    }
    host.settle();
    body(&host);
    if warm {
        host.nothing_left();
    }
}

fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("namespaces are made by root".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let absent = |program: &&str| !std::env::split_paths(&path).any(|directory| directory.join(program).exists());
    PROGRAMS.iter().find(|program| absent(program)).map(|program| format!("`{program}` is not installed"))
}

fn outer(path: &str, limit: Duration) {
    let cgroups = ground::OwnCgroups::make();
    // The crate's name is in `module_path!`, not in the name that the test harness knows.
    let name = path.split_once("::").map_or(path, |(_, name)| name);
    let (mut reader, writer) = std::io::pipe().expect("pipe");
    let mut command = Command::new("sh");
    command
        .args(["-c", "for procs in $JOIN; do echo 0 >$procs || exit; done; exec \"$@\"", "sh"])
        .args(["setpriv", "--pdeathsig", "KILL"])
        .args([
            "unshare",
            "--net",
            "--mount",
            "--pid",
            "--ipc",
            "--uts",
            "--cgroup",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ])
        .args(["--propagation", "private"])
        .arg(std::env::current_exe().expect("own path"))
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .env("RUST_BACKTRACE", "0")
        .env("JOIN", cgroups.procs())
        .stdin(Stdio::null())
        .stdout(writer.try_clone().expect("pipe"))
        .stderr(writer);
    let mut child = command.spawn().expect("unshare");
    drop(command);
    let reading = std::thread::spawn(move || {
        let mut said = Vec::new();
        let _ = reader.read_to_end(&mut said);
        String::from_utf8_lossy(&said).into_owned()
    });
    let end = Instant::now() + limit;
    let mut late = false;
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        if Instant::now() > end && !late {
            late = true;
            child.kill().expect("kill");
        }
        std::thread::sleep(Duration::from_millis(3));
    };
    let said = reading.join().expect("reader");
    println!("{said}");
    assert!(!late, "{name}: not done within {} s", limit.as_secs());
    // Zero tests pass too: a name that the inner half does not know must not look like a success.
    assert!(status.success() && said.contains("1 passed"), "{name}: failed in its host ({status})");
}

/// The host that a test body gets.
pub struct Host {
    before: RefCell<Snapshot>,
    cgroups: bool,
}

impl Host {
    /// A call of minirun, not begun yet.
    pub fn minirun<I: IntoIterator<Item = S>, S: AsRef<str>>(&self, arguments: I) -> Call {
        Call::new(&binary(), arguments)
    }

    /// A shell command on the host; `$MINIRUN` is the program to test.
    pub fn sh(&self, script: &str) -> Call {
        Call::new("sh", ["-ec", script])
    }

    /// A shell command on the second machine of the LAN.
    pub fn lan(&self, script: &str) -> Call {
        Call::new("nsenter", ["--net=/run/netns/lan", "sh", "-ec", script])
    }

    /// What `make` makes in the network of the second machine: a listener, a connection.
    pub fn in_lan<T: Send + 'static>(&self, make: impl FnOnce() -> T + Send + 'static) -> T {
        in_network("/run/netns/lan", make)
    }

    /// What `make` makes in the network of a process of this host.
    pub fn in_network_of<T: Send + 'static>(&self, pid: u32, make: impl FnOnce() -> T + Send + 'static) -> T {
        in_network(&format!("/proc/{pid}/ns/net"), make)
    }

    /// Takes what stands now as the state to come back to.
    pub fn settle(&self) {
        let patience = Instant::now() + Duration::from_secs(5);
        let mut last = Snapshot::take(self.cgroups);
        // Twice the same, 50 ms apart: the last change may still be going on.
        while Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(50));
            let now = Snapshot::take(self.cgroups);
            let quiet = now.differences(&last).is_empty();
            last = now;
            if quiet {
                break;
            }
        }
        *self.before.borrow_mut() = last;
    }

    /// Waits until `holds`, five seconds at most.
    #[track_caller]
    pub fn soon(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let patience = Instant::now() + Duration::from_secs(5);
        while !holds() {
            assert!(Instant::now() < patience, "not within 5 s: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What differs from the state to come back to, now.
    pub fn left(&self) -> Vec<String> {
        Snapshot::take(self.cgroups).differences(&self.before.borrow())
    }

    /// Judges: everything is as it was. The kernel takes a namespace apart up to a second after its last process, so it gets
    /// five.
    pub fn nothing_left(&self) {
        self.nothing_left_but(&[]);
    }

    /// The same, but for what names one of these words.
    pub fn nothing_left_but(&self, words: &[&str]) {
        let patience = Instant::now() + Duration::from_secs(5);
        loop {
            let mut left = self.left();
            left.retain(|line| !words.iter().any(|word| line.contains(word)));
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < patience, "left behind:\n  {}", left.join("\n  "));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The system calls that minirun itself makes, in order, when it is called with these words. It runs to its end for that.
    pub fn calls(&self, words: &str) -> Vec<SystemCall> {
        let traces = self.directory("traces");
        self.sh(&format!("strace -qq -o {}/own $MINIRUN {words}", traces.text())).ok();
        // The first is strace's own execve, which cannot be tampered with.
        calls_in(&traces.path().join("own")).into_iter().skip(1).collect()
    }

    /// Those of its first child, before it becomes the container's program.
    pub fn calls_of_the_child(&self, words: &str) -> Vec<SystemCall> {
        self.calls_of_process(1, words).into_iter().take_while(|call| call.name != "execve").collect()
    }

    /// Those of the holder of a detached container, until its end.
    pub fn calls_of_the_holder(&self, words: &str) -> Vec<SystemCall> {
        self.calls_of_process(1, words)
    }

    fn calls_of_process(&self, number: usize, words: &str) -> Vec<SystemCall> {
        let traces = self.directory("traces");
        self.sh(&format!("strace -ff -qq -o {}/of $MINIRUN {words}", traces.text())).ok();
        let mut files: Vec<_> =
            std::fs::read_dir(traces.path()).expect("traces").flatten().map(|file| file.path()).collect();
        files.sort_by_key(|path| path.extension().and_then(|pid| pid.to_str()?.parse::<u32>().ok()));
        calls_in(&files[number])
    }

    /// The same, where something happens at `call`: `signal=KILL`, `error=ENOMEM` (strace(1), "Tampering").
    pub fn tampered(&self, words: &str, call: &SystemCall, tampering: &str) -> Call {
        let SystemCall { name, number } = call;
        self.sh(&format!("exec strace -qq -o /dev/null -e inject={name}:{tampering}:when={number} $MINIRUN {words}"))
    }

    /// The same in minirun and its children: in whichever has so many calls of that name.
    pub fn tampered_below(&self, words: &str, call: &SystemCall, tampering: &str) -> Call {
        let SystemCall { name, number } = call;
        self.sh(&format!("exec strace -f -qq -o /dev/null -e inject={name}:{tampering}:when={number} $MINIRUN {words}"))
    }

    /// Writes a file of this host, which may be one of /etc.
    pub fn write(&self, path: &str, text: &str) {
        std::fs::write(path, text).unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// A new, empty directory of this host.
    pub fn directory(&self, name: &str) -> Directory {
        let path = Path::new("/tmp").join(name);
        std::fs::create_dir(&path).expect("mkdir");
        Directory(path)
    }

    /// False where the cgroup file system cannot be written: then cgroups are not compared.
    pub fn compares_cgroups(&self) -> bool {
        self.cgroups
    }
}

/// The `number`th call of that name in the life of a process.
#[derive(Debug, PartialEq)]
pub struct SystemCall {
    pub name: String,
    pub number: usize,
}

fn calls_in(trace: &Path) -> Vec<SystemCall> {
    let lines = std::fs::read_to_string(trace).expect("a trace");
    let mut seen = std::collections::BTreeMap::new();
    let number = |name: &str| {
        let number = seen.entry(name.to_owned()).and_modify(|number| *number += 1).or_insert(1);
        SystemCall { name: name.to_owned(), number: *number }
    };
    // Lines about signals and the end name no call.
    let calls = lines.lines().filter(|line| line.starts_with(|first: char| first.is_ascii_lowercase()));
    calls.filter_map(|line| line.split_once('(')).map(|(name, _)| name).map(number).collect()
}

/// A directory that goes with its value.
pub struct Directory(PathBuf);

impl Directory {
    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn text(&self) -> &str {
        self.0.to_str().expect("ASCII")
    }

    /// A file in it.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        std::fs::write(&path, text).expect("write");
        path.to_str().expect("ASCII").to_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A thread of its own joins the namespace and ends: the caller stays where it is, and sockets stay where they were made.
pub fn in_network<T: Send + 'static>(path: &str, make: impl FnOnce() -> T + Send + 'static) -> T {
    let namespace = std::fs::File::open(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    std::thread::spawn(move || {
        nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).expect("setns");
        make()
    })
    .join()
    .expect("thread in the other network")
}
