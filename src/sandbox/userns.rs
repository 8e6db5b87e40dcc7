//! `--userns auto`: root in the container is nobody on the host.
//!
//! The program runs in a user namespace whose 65,536 ids are, on the host, a range that no other container has while this one
//! lives. All that is mounted is mounted by the host's root, in a mount namespace that belongs to the host's: no capability
//! that the program has can undo a mask or a read-only mount. Only the network namespace belongs to the user namespace, so
//! that network capabilities count there. The image and the volumes are idmapped mounts (mount_setattr(2)): their id N is N
//! in the container. A volume is thus as open to the container's users as to the host's users of the same numbers.
//!
//! A range is held by a lock on as many bytes of the file `ids` as it has ids, by open file description (fcntl(2)), which the
//! kernel gives back when its holder dies. The file is not below `--root`: ids belong to the machine.
//!
//! `plan.rs` takes the range; `launch.rs` makes the namespaces, before the child; `init.rs` takes on their ids for the files
//! that it makes, and enters the user namespace last of all.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid, Uid, setfsgid, setfsuid};
use rustix::fs::{Gid as FileGid, Uid as FileUid, chown};
use rustix::thread::{CapabilitiesSecureBits, set_capabilities_secure_bits};
use serde::{Deserialize, Serialize};

use super::mounts::Mount;
use super::namespaces::{Share, open_own};
use super::openings::OpeningArgs;
use super::user::User;
use crate::error::{Advice, refused};
use crate::net::Mode;
use crate::state::{self, DEFAULT_ROOT};
use crate::sys::{self, Side};

/// What was typed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum UserNs {
    /// The users of the container are the host's of the same numbers
    #[default]
    Host,
    /// They are ids of the host that nobody else has
    Auto,
}

/// How many ids a container has.
pub const COUNT: u32 = 1 << 16;

/// Where /etc/subuid and /etc/subgid say nothing to us: between what systemd gives to its containers and its ids of foreign
/// images (systemd's UIDS-GIDS.md).
const DEFAULT: Pool = Pool { uid: 0x7000_0000, gid: 0x7000_0000, ranges: 4094 };

/// Whose entries there are ours, the first that is found.
const OWNERS: [&str; 3] = ["minirun", "containers", "root"];

/// Capabilities that count in a user namespace other than the host's (`ns_capable` in the kernel).
const COUNTING: [&str; 16] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_ADMIN",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
    "SYS_PTRACE",
];

/// The user namespace of a container: its ids, and once it is made, itself.
#[derive(Debug)]
pub struct UserNamespace {
    uid: u32,
    gid: u32,
    made: Option<Made>,
    _lock: File,
}

#[derive(Debug)]
struct Made {
    user: OwnedFd,
    net: OwnedFd,
}

/// Refuses what would have no effect in a user namespace, or would be the host's for all that.
pub fn check(args: &OpeningArgs, net: &Mode, added: &[String]) -> Result<()> {
    if args.userns == UserNs::Host {
        return Ok(());
    }
    let net_option = format!("--net={net}");
    let shared = [
        (net.joins(), net_option.as_str()),
        (args.privileged, "--privileged"),
        (args.pid != Share::Own, "--pid"),
        (args.ipc != Share::Own, "--ipc"),
    ];
    if let Some((_, option)) = shared.iter().find(|(asked, _)| *asked) {
        let message = format!("make a user namespace: {option} takes away what it keeps apart");
        return Err(refused(message, format!("leave out --userns, or {option}")));
    }
    let name = |text: &String| text.to_ascii_uppercase().trim_start_matches("CAP_").to_owned();
    let without_effect = |name: &String| name != "ALL" && !COUNTING.contains(&name.as_str());
    match added.iter().map(name).find(without_effect) {
        Some(name) => Err(refused(
            format!("add capability `{name}`: in a user namespace it has no effect"),
            "leave out --cap-add, or --userns",
        )),
        None => Ok(()),
    }
}

impl UserNamespace {
    /// That which was asked for; the options of `mounts` are made to fit.
    pub fn find(asked: UserNs, user: &User, mounts: &mut [Mount]) -> Result<Option<Self>> {
        if asked == UserNs::Host {
            return Ok(None);
        }
        check_user(user)?;
        let found = Self::lease()?;
        found.map_options(mounts)?;
        Ok(Some(found))
    }

    /// Takes a range of ids that nobody has.
    fn lease() -> Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let (subuid, subgid) = (read("/etc/subuid"), read("/etc/subgid"));
        let directory = Path::new(DEFAULT_ROOT);
        state::private_directory(directory)?;
        let own = Pool::own(&subuid, &subgid);
        let pool = own.unwrap_or(DEFAULT);
        // Anywhere in the pool, so that the first try succeeds however many containers there are.
        let first = std::process::id() % pool.ranges;
        for step in 0..pool.ranges {
            let number = (first + step) % pool.ranges;
            let (uid, gid) = (pool.uid + number * COUNT, pool.gid + number * COUNT);
            if own.is_none() && (is_given(&subuid, uid) || is_given(&subgid, gid)) {
                continue;
            }
            // Another description for each try: with it goes what it has locked.
            let file = state::open_private(&directory.join("ids"))?;
            if lock(&file, uid.into())? && lock(&file, (1 << 32) + i64::from(gid))? {
                return Ok(Self { uid, gid, made: None, _lock: file });
            }
        }
        Err(refused(
            format!("take ids for a user namespace: all {} ranges of {COUNT} are in use", pool.ranges),
            "end a container, or give `minirun` more in /etc/subuid and /etc/subgid",
        ))
    }

    /// A tmpfs is mounted by the host's root: the ids in its options become the host's.
    fn map_options(&self, mounts: &mut [Mount]) -> Result<()> {
        for mount in mounts {
            let Mount::Tmpfs { options, .. } = mount else { continue };
            let map = |option: &str| -> Result<String> {
                let (key, first) = match option.split_once('=') {
                    Some(("uid", _)) => ("uid", self.uid),
                    Some(("gid", _)) => ("gid", self.gid),
                    _ => return Ok(option.to_owned()),
                };
                let id = option[4..].parse::<u32>().ok().filter(|id| *id < COUNT);
                let id = id.with_context(|| format!("mount tmpfs with `{option}`: not an id of a user namespace"))?;
                Ok(format!("{key}={}", first + id))
            };
            *options = options.split(',').map(map).collect::<Result<Vec<_>>>()?.join(",");
        }
        Ok(())
    }

    /// What user `id` of the container is on the host.
    pub fn host_uid(&self, id: u32) -> u32 {
        self.uid + id
    }

    /// What group `id` of the container is on the host.
    pub fn host_gid(&self, id: u32) -> u32 {
        self.gid + id
    }

    /// Makes the user namespace, and the network namespace that belongs to it, by a process that only waits meanwhile.
    pub fn make(&mut self) -> Result<()> {
        let (mut wait, go) = std::io::pipe().context("make a user namespace")?;
        debug_assert_eq!(sys::threads(), 1, "clone3 copies one thread only");
        let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNET;
        let child = match sys::clone3(flags as u64, None) {
            Ok(Side::Parent(child)) => child,
            Ok(Side::Child) => {
                drop(go);
                while wait.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::Interrupted) {}
                sys::exit_now(0)
            }
            Err(error) => {
                return Err(error)
                    .context("make a user namespace")
                    .remedy("see user.max_user_namespaces and user_namespaces(7)");
            }
        };
        let made = self.map(child.pid);
        // It ends when it can read nothing more, also that of a killed minirun.
        drop(go);
        while waitpid(Pid::from_raw(child.pid), None) == Err(nix::Error::EINTR) {}
        self.made = Some(made.context("make a user namespace")?);
        Ok(())
    }

    fn map(&self, pid: i32) -> Result<Made> {
        for (file, first) in [("uid_map", self.uid), ("gid_map", self.gid)] {
            let path = format!("/proc/{pid}/{file}");
            let write =
                || OpenOptions::new().write(true).open(&path)?.write_all(format!("0 {first} {COUNT}").as_bytes());
            write().with_context(|| format!("map 0 to {first} by `{path}`"))?;
        }
        let open = |kind: &str| File::open(format!("/proc/{pid}/ns/{kind}")).map(OwnedFd::from);
        Ok(Made { user: open("user")?, net: open("net")? })
    }

    fn made(&self) -> Result<&Made> {
        self.made.as_ref().context("enter the user namespace: it is not made")
    }

    /// The namespace, for idmapped mounts and for who enters it.
    pub fn fd(&self) -> Result<BorrowedFd<'_>> {
        Ok(self.made()?.user.as_fd())
    }

    /// In the parent: the next child will be in the network namespace. The way back is returned.
    pub fn aim(&self) -> Result<OwnedFd> {
        let own = open_own("net")?;
        setns(&self.made()?.net, CloneFlags::CLONE_NEWNET).context("enter the container's network namespace")?;
        Ok(own)
    }

    /// In the child: files that it makes from here on belong to the container's root. All rights stay, until the user
    /// namespace is entered, which also sets the secure bits back (user_namespaces(7)).
    pub fn own_files(&self) -> Result<()> {
        // Else the kernel takes the rights about files away with the file system's user id.
        set_capabilities_secure_bits(CapabilitiesSecureBits::NO_SETUID_FIXUP).context("keep the rights about files")?;
        setfsgid(Gid::from_raw(self.gid));
        setfsuid(Uid::from_raw(self.uid));
        // They return what was before, also where they fail.
        let taken = setfsuid(Uid::from_raw(u32::MAX)).as_raw() == self.uid
            && setfsgid(Gid::from_raw(u32::MAX)).as_raw() == self.gid;
        if taken { Ok(()) } else { bail!("make files as the container's root: the kernel refuses the id {}", self.uid) }
    }

    /// In the child: what the kernel has made in `/dev` is the container's root's too.
    pub fn own_devices(&self) -> Result<()> {
        for path in ["dev/pts", "dev/pts/ptmx", "dev/mqueue"] {
            chown(path, Some(FileUid::from_raw(self.uid)), Some(FileGid::from_raw(self.gid)))
                .with_context(|| format!("give `/{path}` to the container's root"))?;
        }
        Ok(())
    }
}

/// Refuses users and groups that are beyond the ids of a user namespace.
fn check_user(user: &User) -> Result<()> {
    let ids = user.groups.iter().chain([&user.uid, &user.gid]);
    match ids.max().filter(|id| **id >= COUNT) {
        Some(id) => {
            bail!("be user {}: in a user namespace there is no id {id}, {} is the last", user.uid, COUNT - 1)
        }
        None => Ok(()),
    }
}

/// Ids that may be handed out: `ranges` times [`COUNT`] from each on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pool {
    uid: u32,
    gid: u32,
    ranges: u32,
}

impl Pool {
    /// That of the first owner who has a whole range in both files.
    fn own(subuid: &str, subgid: &str) -> Option<Self> {
        OWNERS.iter().find_map(|owner| {
            let of = |text| entries(text).find(|(name, ..)| name == owner);
            let ((_, uid, uids), (_, gid, gids)) = (of(subuid)?, of(subgid)?);
            let ranges = uids.min(gids) / COUNT;
            // Nobody's root is the container's.
            (ranges > 0 && uid > 0 && gid > 0).then_some(Self { uid, gid, ranges })
        })
    }
}

/// Name, first id and number of ids of each line that is sound (subuid(5)).
fn entries(text: &str) -> impl Iterator<Item = (&str, u32, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().splitn(3, ':');
        let (name, first, count) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        // The last number is "no id" to the kernel.
        u32::checked_add(first, count).map(|_| (name, first, count))
    })
}

/// Whether somebody was given an id of the range that begins with `first`.
fn is_given(text: &str, first: u32) -> bool {
    entries(text).any(|(_, start, count)| start < first + COUNT && first < start + count)
}

fn lock(file: &File, start: i64) -> Result<bool> {
    let wanted = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: i64::from(COUNT),
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&wanted)) {
        Ok(_) => Ok(true),
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("lock ids in descriptor {}", file.as_raw_fd())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn whose_ids_are_ours() {
        let both = |text: &str| Pool::own(text, text);
        assert_eq!(both(""), None);
        assert_eq!(both("ann:100000:65536\n"), None);
        assert_eq!(both("root:100000:65536\n"), Some(Pool { uid: 100_000, gid: 100_000, ranges: 1 }));
        let text = "root:100000:65536\ncontainers:2147483647:2147483648\nminirun:1:9\n";
        assert_eq!(both(text), Some(Pool { uid: 2_147_483_647, gid: 2_147_483_647, ranges: 32768 }));
        assert_eq!(Pool::own("root:1:65536", "root:7:131072"), Some(Pool { uid: 1, gid: 7, ranges: 1 }));
        for bad in ["root:0:65536", "root:1:65535", "root:4294967295:65536", "root:x:65536", "root:1"] {
            assert_eq!(both(bad), None, "{bad}");
        }
    }

    #[test]
    fn ids_of_others_are_found() {
        let text = "ann:1879048192:65536\nbob:1000:1\n";
        assert!(is_given(text, DEFAULT.uid) && !is_given(text, DEFAULT.uid + COUNT));
        assert!(is_given("x:1879048191:2", DEFAULT.uid) && !is_given("x:1879048191:1", DEFAULT.uid));
    }

    #[test]
    fn the_last_default_range_ends_where_it_should() {
        assert_eq!(u64::from(DEFAULT.uid) + u64::from(DEFAULT.ranges) * u64::from(COUNT), 0x7ffe_0000);
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "(?s)((root|containers):[0-9]{0,11}:[0-9]{0,11}\n){0,3}.{0,20}") {
            if let Some(pool) = Pool::own(&text, &text) {
                prop_assert!(u64::from(pool.uid) + u64::from(pool.ranges) * u64::from(COUNT) <= u64::from(u32::MAX));
            }
            let _ = is_given(&text, DEFAULT.uid);
        }
    }
}
