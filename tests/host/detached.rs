//! What tests of detached containers ask and do again and again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Host, binary, snapshot};

/// Options of a container that has no network, for tests that need none: its start and its end cost less.
pub const ALONE: [&str; 1] = ["--net=none"];

impl Host {
    /// Makes what the first detached container leaves on purpose, and takes it for the state to come back to.
    pub fn has_run_detached(&self) {
        self.minirun(["run", "-d", "--rm", "--net=none", "--name", "first", "busybox", "true"]).ok();
        self.soon("the first one goes", || self.minirun(["ps", "-aq"]).ok().is_empty());
        self.settle();
    }

    /// Runs a detached container. Its ID.
    #[track_caller]
    pub fn detached(&self, options: &[&str], command: &[&str]) -> String {
        let id = self.minirun([&["run", "-d"], options, &["busybox"], command].concat()).ok();
        assert!(id.len() == 13 && id.ends_with('\n'), "one line, the ID: {id:?}");
        id.trim_end().to_owned()
    }

    /// The same, with a shell that has said `ready` before this returns.
    #[track_caller]
    pub fn detached_shell(&self, options: &[&str], script: &str) -> String {
        let id = self.detached(options, &["sh", "-c", &format!("echo ready; {script}")]);
        self.logs_hold(&id, "ready");
        id
    }

    /// What a template of `inspect` says.
    #[track_caller]
    pub fn inspect(&self, container: &str, template: &str) -> String {
        let text = self.minirun(["inspect", "--format", &format!("{{{{{template}}}}}"), container]).ok();
        text.trim_end_matches('\n').to_owned()
    }

    /// `running`, `exited` and so on.
    #[track_caller]
    pub fn status(&self, container: &str) -> String {
        self.inspect(container, ".State.Status")
    }

    /// A container's first process.
    #[track_caller]
    pub fn pid_of(&self, container: &str) -> u32 {
        self.inspect(container, ".State.Pid").parse().expect("a process id")
    }

    /// The process that holds a container.
    #[track_caller]
    pub fn holder_of(&self, container: &str) -> u32 {
        self.inspect(container, ".State.Holder").parse().expect("a process id")
    }

    /// What a container has written so far.
    #[track_caller]
    pub fn logs(&self, container: &str) -> String {
        self.minirun(["logs", container]).ok()
    }

    /// Waits until a container's log holds `words`.
    #[track_caller]
    pub fn logs_hold(&self, container: &str, words: &str) {
        let patience = Instant::now() + Duration::from_secs(20);
        loop {
            let said = self.logs(container);
            if said.contains(words) {
                return;
            }
            assert!(Instant::now() < patience, "the log of {container} does not hold `{words}` but: {said}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Removes all containers.
    pub fn remove_all(&self) {
        self.sh("all=$($MINIRUN ps -aq); [ -z \"$all\" ] || $MINIRUN rm -f $all").ok();
        assert_eq!(self.minirun(["ps", "-aq"]).ok(), "");
    }

    /// Buries whoever has died without a parent: process 1 of this host is the test.
    pub fn bury(&self) {
        snapshot::reap();
    }

    /// The processes of minirun that run, as their programs say.
    pub fn miniruns(&self) -> Vec<u32> {
        let own = std::fs::canonicalize(binary()).expect("the binary");
        let all = std::fs::read_dir("/proc").expect("/proc").flatten();
        let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers.filter(|pid: &u32| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == own)).collect()
    }
}

/// SIGKILL, which takes a moment to be obeyed.
pub fn kill_hard(pid: u32) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    let patience = Instant::now() + Duration::from_secs(10);
    while is_alive(pid) {
        assert!(Instant::now() < patience, "process {pid} does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a process runs: one that waits to be buried does not.
pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

/// What a process has open, as number and target.
pub fn open_files(pid: u32) -> Vec<(u32, PathBuf)> {
    let all = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    all.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, std::fs::read_link(entry.path()).ok()?)))
        .collect()
}
