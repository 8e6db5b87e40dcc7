//! What is known of a container: the file `record` of its directory, and its status, which is asked of the kernel.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use crate::net::Interface;
use crate::net::lent::Device;
use crate::net::publish::Port;
use crate::net::tap::Tap;
use crate::sandbox::user::User;
use crate::security::SecurityOptions;

/// What is known of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Twelve hexadecimal digits.
    pub id: String,
    /// The name that was given, or the ID.
    pub name: String,
    /// The image's name, or the directory of `--rootfs`.
    pub image: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Its networks' names, or what else `--net` said.
    pub network: String,
    /// Its interfaces on managed networks.
    pub interfaces: Vec<Interface>,
    /// Its published ports.
    pub ports: Vec<Port>,
    /// The number of the network namespace in which its bridges and ports are.
    pub hub: Option<u64>,
    /// The settings of its namespaces, the keys as files below /proc/sys. (Earlier records do not say.)
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
    /// Its tap devices.
    #[serde(default)]
    pub taps: Vec<Tap>,
    /// Whether it reaches the host's loopback device.
    #[serde(default)]
    pub host_access: bool,
    /// Links of that namespace that are lent to it, as they were.
    #[serde(default)]
    pub lent: Vec<Device>,
    /// Seconds since 1970.
    pub created: u64,
    /// Seconds since 1970: the last start.
    pub started: u64,
    /// How often it has run before.
    pub runs: u32,
    /// The process id of the container's first process on the host; `None` before it exists.
    pub pid: Option<i32>,
    /// When that process started, in clock ticks since boot: the id alone may be another process's by now.
    pub pid_start: Option<u64>,
    /// The boot of the machine that `pid` and `pid_start` belong to.
    pub boot: String,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// Whether a process of its own holds it, rather than the command that was typed.
    pub detached: bool,
    /// Whether it goes with its end.
    pub remove: bool,
    /// Whether the program has a terminal.
    pub terminal: bool,
    /// Whether the program reads what attached people type.
    pub interactive: bool,
    /// Whether a small init is process 1: it takes every signal.
    pub init: bool,
    /// The signal of `stop`.
    pub stop_signal: i32,
    /// Seconds between it and SIGKILL.
    pub stop_timeout: u32,
    /// The directory of its log.
    pub log: Option<PathBuf>,
    /// How it ended, once it has.
    pub exit: Option<Exit>,
    /// What a further process in it is to have.
    pub inside: Inside,
}

/// The circumstances of the program, for a process that joins it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inside {
    /// `NAME=VALUE` each.
    pub env: Vec<String>,
    /// Where it starts.
    pub workdir: PathBuf,
    /// Who it is.
    pub user: User,
    /// What root may do: bit n is capability n.
    pub capabilities: u64,
    /// `--ulimit`.
    pub limits: Vec<String>,
    /// The filter of system calls, `no_new_privs`, and so on. The filter of a file is kept in the file `filter`.
    pub security: SecurityOptions,
    /// In a user namespace: what its user and group 0 are on the host.
    pub ids: Option<(u32, u32)>,
    /// Whether its processes are in a PID namespace of the host's or of another container.
    pub shares_processes: bool,
    /// The directories of its cgroups.
    pub groups: Vec<PathBuf>,
}

/// How a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code, `128 + n` for signal n.
    pub code: u8,
    /// Seconds since 1970.
    pub finished: u64,
    /// Whether its memory limit ended a process of it.
    pub oom: bool,
}

/// What a container does, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Its first process does not run the program yet.
    Starting,
    /// The program runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// The program has ended, and its holder is about to say so.
    Ending,
    /// It has ended and is kept.
    Exited(Exit),
    /// Whoever held it was killed, and took the exit code along.
    Dead,
}

impl fmt::Display for Status {
    /// One word, as `--filter status=` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Ending => "stopping",
            Self::Exited(_) => "exited",
            Self::Dead => "dead",
        })
    }
}

impl Status {
    /// Whether its processes are there, frozen or not.
    pub fn lives(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

impl Record {
    /// A descriptor for its first process, if that lives: whatever becomes of the number, it names this process.
    pub fn process(&self) -> Option<OwnedFd> {
        let (number, start) = (self.pid?, self.pid_start?);
        // First a descriptor for whatever process has the id, then the question whether it is the one: in this order it
        // cannot become another in between.
        let process = pidfd_open(Pid::from_raw(number)?, PidfdFlags::empty()).ok()?;
        let same = state_and_start(number).is_some_and(|(state, at)| at == start && state != 'Z');
        (same && self.boot == boot_id()).then_some(process)
    }
}

/// Names this boot of the machine: process numbers and start times of another one say nothing.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim_end().to_owned()
}

/// The record in a file; `None` where it is not (yet) readable as one. At most 1 MiB is read.
pub fn read(file: &File) -> Option<Record> {
    let mut text = Vec::new();
    file.take(1 << 20).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// When a process started, in clock ticks since boot (proc_pid_stat(5), field 22).
pub fn start_time(pid: i32) -> Option<u64> {
    state_and_start(pid).map(|(_, start)| start)
}

/// The same from the text of that file.
pub fn start_time_in(stat: &str) -> Option<u64> {
    fields(stat).map(|(_, start)| start)
}

/// The fields 3 and 22: state and start time.
fn state_and_start(pid: i32) -> Option<(char, u64)> {
    fields(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn fields(stat: &str) -> Option<(char, u64)> {
    // The second field is the name in parentheses and may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.nth(18)?.parse().ok()?))
}
