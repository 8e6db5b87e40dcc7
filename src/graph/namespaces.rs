//! Which network namespaces there are, and a netlink socket in each.
//!
//! Found by their names in /run/netns and /run/docker/netns and by the processes in them. This process joins none: a child
//! goes from one to the next and hands a socket of each back. A socket belongs to the namespace in which it was opened,
//! whoever uses it.

use std::collections::BTreeMap;
use std::fs;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;

use crate::net::rtnl::Rtnl;
use crate::sys;

/// Where iproute2, podman and docker give names to network namespaces.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// A network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Its inode number.
    pub id: u64,
    /// A file that leads to it.
    pub path: PathBuf,
    /// The first process in it.
    pub pid: Option<i32>,
    /// All of them, the first one too.
    pub processes: Vec<i32>,
    /// Files that name it.
    pub names: Vec<PathBuf>,
}

impl Place {
    /// Opens it, if its file still leads to it: a process number may be another process's by now.
    pub fn open(&self) -> Option<OwnedFd> {
        // Looked at first: to open a pipe that lies in the place of a namespace would wait for its writer.
        if number(&self.path)? != self.id {
            return None;
        }
        let file = fs::File::open(&self.path).ok()?;
        (file.metadata().ok()?.ino() == self.id).then(|| file.into())
    }
}

/// The number of the namespace that a file leads to; `None` for any other file.
pub fn number(path: &Path) -> Option<u64> {
    let device = fs::metadata("/proc/self/ns/net").ok()?.dev();
    let about = fs::metadata(path).ok()?;
    (about.dev() == device).then(|| about.ino())
}

/// All of them, that of this process first.
pub fn find() -> Result<Vec<Place>> {
    let own = number(Path::new("/proc/self/ns/net")).context("look at the own network namespace")?;
    let mut found: BTreeMap<u64, Place> = BTreeMap::new();
    let mut add = |id: u64, path: PathBuf, pid: Option<i32>| {
        let place = found.entry(id).or_insert_with(|| Place { id, path: path.clone(), ..Place::default() });
        place.processes.extend(pid);
        match pid {
            // The smallest number is, as a rule, the first process.
            Some(pid) if place.pid.is_none_or(|other| pid < other) => (place.pid, place.path) = (Some(pid), path),
            Some(_) => {}
            None => place.names.push(path),
        }
    };
    for directory in NAMED {
        let mut names: Vec<PathBuf> = entries(Path::new(directory)).map(|entry| entry.path()).collect();
        names.sort();
        names.into_iter().filter_map(|path| Some((number(&path)?, path))).for_each(|(id, path)| add(id, path, None));
    }
    for entry in entries(Path::new("/proc")) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let path = entry.path().join("ns/net");
        let Some(id) = fs::read_link(&path).ok().as_deref().and_then(in_brackets) else { continue };
        add(id, path, Some(pid));
    }
    let host = found.remove(&own);
    let host =
        Place { path: "/proc/self/ns/net".into(), pid: None, ..host.unwrap_or(Place { id: own, ..Place::default() }) };
    Ok(std::iter::once(host).chain(found.into_values()).collect())
}

fn entries(directory: &Path) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(directory).into_iter().flatten().flatten()
}

/// `net:[4026531840]`
fn in_brackets(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// Calls `each` with the index of a place and a socket in it, for all that can be entered.
pub fn visit(places: &[&Place], mut each: impl FnMut(usize, Rtnl)) -> Result<()> {
    if places.is_empty() {
        return Ok(());
    }
    let (ours, theirs) =
        socketpair(nix::sys::socket::AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .context("make a socket pair")?;
    let child = match sys::fork().context("make the process that looks into namespaces")? {
        ForkResult::Child => {
            drop(ours);
            // It ends when the last was handed over, or when nobody takes them any more.
            for (index, place) in places.iter().enumerate() {
                if hand_over(index, place, theirs.as_fd()).is_none() {
                    break;
                }
            }
            sys::exit_now(0);
        }
        ForkResult::Parent { child } => child,
    };
    drop(theirs);
    let mut index = [0; 4];
    while let Ok((4, mut sockets)) = sys::receive_with_fds(&ours, &mut index) {
        if let Some(socket) = sockets.pop() {
            each(u32::from_ne_bytes(index) as usize, Rtnl::from_fd(socket));
        }
    }
    drop(ours);
    waitpid(child, None).context("wait for the process that looks into namespaces")?;
    Ok(())
}

/// In the child: a socket in one namespace. `None` where nobody takes it.
fn hand_over(index: usize, place: &Place, to: impl AsFd) -> Option<()> {
    let Some(namespace) = place.open() else { return Some(()) };
    if setns(&namespace, CloneFlags::CLONE_NEWNET).is_err() {
        return Some(());
    }
    let Ok(Ok(socket)) = Rtnl::open().map(Rtnl::into_fd) else { return Some(()) };
    let fds = [socket.as_raw_fd()];
    let index = (index as u32).to_ne_bytes();
    let control = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(to.as_fd().as_raw_fd(), &[IoSlice::new(&index)], &control, MsgFlags::MSG_NOSIGNAL, None).ok()?;
    Some(())
}
