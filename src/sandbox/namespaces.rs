//! Whose PID, IPC, UTS and cgroup namespaces a container has: its own, the host's, or another container's.
//!
//! `plan.rs` resolves the words before the first side effect; `launch.rs` asks for the flags of clone3; `init.rs` joins those of
//! others, the PID namespace last of all. Mounts and the user's rights are always the container's own.
//!
//! Another container is held by a descriptor of the directory of its first process in /proc, which is checked to be the
//! process on record, by its number and the time of its start: nothing is opened through a number that may be used again.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};
use nix::libc;
use nix::sched::{CloneFlags, setns};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::mount::{OpenTreeFlags, open_tree};
use serde::{Deserialize, Serialize};

use super::openings::OpeningArgs;
use crate::error::{Advice, refused};
use crate::net;
use crate::state::{self, State};
use crate::sys::mount_setattr;

/// What was typed: `private`, `host` or `container:ID`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Share {
    /// One of its own.
    #[default]
    Own,
    /// The host's.
    Host,
    /// That of the container with this name, or whose ID begins so.
    Container(String),
}

impl FromStr for Share {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once(':') {
            // Docker's word for one that others may join, which here is any.
            None if text == "private" || text == "shareable" => Ok(Self::Own),
            None if text == "host" => Ok(Self::Host),
            Some(("container", name)) if !name.is_empty() => Ok(Self::Container(name.to_owned())),
            _ => bail!("private, host or container:ID is wanted"),
        }
    }
}

/// Whose a namespace is.
#[derive(Debug)]
pub enum Whose {
    /// A new one.
    Own,
    /// That of minirun.
    Host,
    /// That of another container.
    Other(OwnedFd),
}

/// The namespaces of a container.
#[derive(Debug)]
pub struct Namespaces {
    /// Process ids.
    pub pid: Whose,
    /// System V IPC and POSIX message queues; `/dev/shm` goes with it.
    pub ipc: Whose,
    /// The host name.
    pub uts: Whose,
    /// What of its cgroup a process sees.
    pub cgroup: Whose,
    /// A network namespace that is joined, which nothing is done in.
    pub network: Option<OwnedFd>,
    /// The directory of the container whose PID namespace is shared.
    among: Option<PathBuf>,
    /// The directory of the container whose network it is in.
    beside: Option<PathBuf>,
    /// The mounts of the container whose IPC namespace is shared.
    mounts_of_ipc: Option<OwnedFd>,
}

/// Refuses what would change a namespace that is not the container's own, or cannot work in it.
pub fn check(args: &OpeningArgs, hostname: Option<&str>, init: bool, sysctls: &[String]) -> Result<()> {
    if let Some(hostname) = hostname.filter(|_| args.uts != Share::Own) {
        let message = format!("use host name `{hostname}`: with --uts the name is another's");
        return Err(refused(message, "leave out --hostname, or --uts"));
    }
    if args.shm_size.is_some() && args.ipc != Share::Own {
        return Err(refused("size /dev/shm: with --ipc it is another's", "leave out --shm-size, or --ipc"));
    }
    if init && args.pid != Share::Own {
        let message = "run the init of --init: with --pid it would not be process 1, and no orphan would come to it";
        return Err(refused(message, "leave out --init, or --pid"));
    }
    for text in sysctls {
        let key = text.split('=').next().unwrap_or(text).replace('/', ".");
        let (option, shared) = match key.as_str() {
            "kernel.domainname" => ("--uts", &args.uts),
            key if key.starts_with("kernel.") || key.starts_with("fs.mqueue.") => ("--ipc", &args.ipc),
            _ => continue,
        };
        if *shared != Share::Own {
            bail!("set sysctl `{text}`: with {option} it would be another's setting");
        }
    }
    Ok(())
}

impl Namespaces {
    /// Finds them; `root` is the state directory.
    pub fn find(args: &OpeningArgs, net: &net::Mode, root: &Path) -> Result<Self> {
        let whose = |share: &Share, kind: &str| -> Result<Whose> {
            Ok(match share {
                Share::Own => Whose::Own,
                Share::Host => Whose::Host,
                Share::Container(name) => Whose::Other(Target::find(name, root)?.namespace(kind)?),
            })
        };
        let mounts_of_ipc = match &args.ipc {
            Share::Container(name) => Some(Target::find(name, root)?.namespace("mnt")?),
            _ => None,
        };
        let (pid, among) = match &args.pid {
            Share::Container(name) => {
                let target = Target::find(name, root)?;
                (Whose::Other(target.namespace("pid")?), Some(target.path))
            }
            share => (whose(share, "pid")?, None),
        };
        let (network, beside) = network(net, root)?.unzip();
        Ok(Self {
            pid,
            among,
            beside: beside.flatten(),
            ipc: whose(&args.ipc, "ipc")?,
            uts: whose(&args.uts, "uts")?,
            cgroup: whose(&args.cgroupns, "cgroup")?,
            network,
            mounts_of_ipc,
        })
    }

    /// All of its own, before any is said to be otherwise.
    pub fn own() -> Self {
        Self {
            pid: Whose::Own,
            ipc: Whose::Own,
            uts: Whose::Own,
            cgroup: Whose::Own,
            network: None,
            among: None,
            beside: None,
            mounts_of_ipc: None,
        }
    }

    /// Which of them clone3 makes for it, `CLONE_NEW*`.
    pub fn made(&self) -> i32 {
        let kinds = [
            (&self.pid, libc::CLONE_NEWPID),
            (&self.ipc, libc::CLONE_NEWIPC),
            (&self.uts, libc::CLONE_NEWUTS),
            (&self.cgroup, libc::CLONE_NEWCGROUP),
        ];
        kinds.iter().filter(|(whose, _)| matches!(whose, Whose::Own)).fold(0, |flags, (_, flag)| flags | flag)
    }

    /// Whether the container's first process is process 1, with which all others end.
    pub fn has_own_processes(&self) -> bool {
        matches!(self.pid, Whose::Own)
    }

    /// The host name that is there already; `None` where the container has one of its own. One thread: it may look into
    /// another namespace and come back.
    pub fn hostname(&self) -> Result<Option<String>> {
        let name = || nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned());
        Ok(match &self.uts {
            Whose::Own => None,
            Whose::Host => Some(name()?),
            Whose::Other(other) => {
                let own = open_own("uts")?;
                setns(other, CloneFlags::CLONE_NEWUTS).context("look at the other container's host name")?;
                let found = name();
                setns(&own, CloneFlags::CLONE_NEWUTS).context("come back to the host's name")?;
                Some(found?)
            }
        })
    }

    /// The PID namespace, where it is another container's.
    pub fn processes(&self) -> Option<BorrowedFd<'_>> {
        match &self.pid {
            Whose::Other(other) => Some(other.as_fd()),
            Whose::Own | Whose::Host => None,
        }
    }

    /// In the parent, before there is a process: notes with the container whose processes or network are shared that it is no
    /// longer alone with them.
    pub fn note_joined(&self) -> Result<()> {
        self.beside.as_deref().map_or(Ok(()), state::note_plugged).context("join the other container's network")?;
        self.among.as_deref().map_or(Ok(()), state::note_joined).context("join the other container's processes")
    }

    /// In the child: what it makes next is among another container's processes.
    pub fn join_processes(&self) -> Result<()> {
        let joined = self.processes().map(|other| setns(other, CloneFlags::CLONE_NEWPID));
        joined.transpose().context("join the other container's processes").map(drop)
    }

    /// In the child, before anything is made in them: joins what is another container's, but for its processes.
    pub fn join(&self) -> Result<()> {
        let kinds = [
            (&self.ipc, CloneFlags::CLONE_NEWIPC),
            (&self.uts, CloneFlags::CLONE_NEWUTS),
            (&self.cgroup, CloneFlags::CLONE_NEWCGROUP),
        ];
        for (whose, kind) in kinds {
            if let Whose::Other(other) = whose {
                setns(other, kind).context("join the other container's namespaces")?;
            }
        }
        if let Some(network) = &self.network {
            setns(network, CloneFlags::CLONE_NEWNET).context("join the network namespace")?;
        }
        Ok(())
    }

    /// In the child, while the host's mounts are in sight: the `/dev/shm` that goes with a shared IPC namespace.
    pub fn shared_memory(&self) -> Result<Option<OwnedFd>> {
        let whose = match (&self.ipc, &self.mounts_of_ipc) {
            (Whose::Host, _) => None,
            (_, Some(other)) => Some(other),
            (_, None) => return Ok(None),
        };
        copy_shared_memory(whose).context("share `/dev/shm`").map(Some)
    }
}

/// The network namespace that is joined, and the directory of the container that it is of.
fn network(mode: &net::Mode, root: &Path) -> Result<Option<(OwnedFd, Option<PathBuf>)>> {
    match mode {
        net::Mode::Container(name) => {
            let target = Target::find(name, root)?;
            Ok(Some((target.namespace("net")?, Some(target.path))))
        }
        net::Mode::Namespace(path) => {
            let failed = || format!("join network namespace `{}`", path.display());
            let file = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty());
            let file = file.with_context(failed).remedy("`ip netns list` names those that there are")?;
            if !is_network_namespace(&file) {
                bail!("{}: it is not one", failed());
            }
            Ok(Some((file, None)))
        }
        net::Mode::None | net::Mode::Host | net::Mode::Networks(_) => Ok(None),
    }
}

/// Whether a file is a network namespace (ioctl_ns(2), NS_GET_NSTYPE).
fn is_network_namespace(file: &OwnedFd) -> bool {
    crate::sys::kind_of_namespace(file).is_ok_and(|kind| kind == libc::CLONE_NEWNET)
}

fn copy_shared_memory(other: Option<&OwnedFd>) -> Result<OwnedFd> {
    let own = open_own("mnt")?;
    if let Some(other) = other {
        setns(other, CloneFlags::CLONE_NEWNS)?;
    }
    let copy = || -> rustix::io::Result<OwnedFd> {
        // Another container may have made its own what it wanted: no link is followed.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let found = openat2(CWD, "/dev/shm", flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
        let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        open_tree(&found, "", clone)
    };
    let copied = copy();
    if other.is_some() {
        setns(&own, CloneFlags::CLONE_NEWNS)?;
    }
    let tree = copied?;
    let closed = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    mount_setattr(&tree, c"", false, closed, 0, libc::MS_PRIVATE)?;
    Ok(tree)
}

/// Opens a namespace of this process.
pub fn open_own(kind: &str) -> Result<OwnedFd> {
    let path = format!("/proc/self/ns/{kind}");
    openat(CWD, &path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).with_context(|| format!("open `{path}`"))
}

/// The first process of another container.
struct Target {
    name: String,
    path: PathBuf,
    directory: OwnedFd,
}

impl Target {
    fn find(name: &str, root: &Path) -> Result<Self> {
        let failed = || format!("join container `{name}`");
        let found = State::open(root)?.find(name).with_context(failed)?;
        let ended = || anyhow!("{}: it does not run", failed());
        let (Some(pid), Some(start)) = (found.record.pid, found.record.pid_start) else { return Err(ended()) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, format!("/proc/{pid}"), flags, Mode::empty()).map_err(|_| ended())?;
        // First the directory of whatever process has the number, then the question whether it is the one.
        let target = Self { name: name.to_owned(), path: found.path, directory };
        let mut stat = String::new();
        File::from(target.open("stat")?).read_to_string(&mut stat).map_err(|_| ended())?;
        if state::start_time_in(&stat) == Some(start) { Ok(target) } else { Err(ended()) }
    }

    fn namespace(&self, kind: &str) -> Result<OwnedFd> {
        self.open(&format!("ns/{kind}"))
    }

    fn open(&self, name: &str) -> Result<OwnedFd> {
        openat(self.directory.as_fd(), name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .with_context(|| format!("join container `{}`: open `{name}` of its first process", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares() {
        assert_eq!("host".parse::<Share>().unwrap(), Share::Host);
        assert_eq!("private".parse::<Share>().unwrap(), Share::Own);
        assert_eq!("container:web".parse::<Share>().unwrap(), Share::Container("web".into()));
        for bad in ["", "container", "container:", "hosts", "web"] {
            assert!(bad.parse::<Share>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_anothers_is_not_changed() {
        let shared = |ipc, uts| OpeningArgs { ipc, uts, ..OpeningArgs::default() };
        let sysctl = |text: &str| [text.to_owned()];
        let args = shared(Share::Host, Share::Own);
        assert!(check(&args, Some("x"), false, &sysctl("kernel.domainname=x")).is_ok());
        assert!(check(&args, None, false, &sysctl("kernel/msgmax=1")).is_err());
        assert!(check(&args, None, false, &sysctl("fs.mqueue.msg_max=1")).is_err());
        let args = shared(Share::Own, Share::Host);
        assert!(check(&args, Some("x"), false, &[]).is_err());
        assert!(check(&args, None, false, &sysctl("kernel.domainname=x")).is_err());
        assert!(check(&args, None, false, &sysctl("kernel.msgmax=1")).is_ok());
        assert!(check(&args, None, false, &sysctl("net.core.somaxconn=1")).is_ok());
    }
}
