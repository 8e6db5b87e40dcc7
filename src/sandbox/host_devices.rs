//! Devices of the host that a container is given (`--device`; all of them with `--privileged`).
//!
//! [`find`] is called by `openings.rs` before the first side effect, [`give`] in the child with the assembled root as working
//! directory. What is given is the device, not the host's node: the container gets a node of its own with the same number,
//! mode and owner, so nothing that it does to the node is seen on the host. Each is a mount of its own, because `/dev` and
//! the root file system are closed to devices.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Stat, Uid, chown, fstat, lstat, mknodat, openat};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::devices;
use super::mounts::{attach, refuse_kernel_files};
use super::rootfs::{self, open_target};
use super::userns::UserNamespace;
use crate::error::refused;
use crate::options::target_path;

/// `/proc/sys/kernel/overflowuid`.
const NOBODY: u32 = 65534;

/// A device that is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// In the container, absolute.
    pub target: PathBuf,
    /// A character or a block device.
    pub kind: FileType,
    /// Major and minor number together.
    pub number: u64,
    /// Its permissions.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
}

/// The devices that `HOSTPATH[:PATH[:rwm]]` names: one, or all below a directory. Links on the way are followed, links in the
/// directory are not.
pub fn find(text: &str) -> Result<Vec<Device>> {
    let failed = || format!("give device `{text}`");
    let mut parts = text.split(':');
    let (source, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    if parts.next().is_some() {
        bail!("{}: HOSTPATH[:PATH[:rwm]] is wanted", failed());
    }
    let (target, access) = match (second, third) {
        (Some(access), None) if !access.starts_with('/') => (source, Some(access)),
        (target, access) => (target.unwrap_or(source), access),
    };
    check_access(access.unwrap_or("rwm")).with_context(failed)?;
    let target = target_path(Path::new(target)).with_context(failed)?;
    let look = || -> Result<Stat> {
        // O_PATH: to open a device may do something to it.
        let node = openat(CWD, source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(fstat(&node)?)
    };
    let stat = look().with_context(failed)?;
    let mut found = Vec::new();
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => walk(Path::new(source), &target, &mut found).with_context(failed)?,
        _ => found.extend(Device::of(&stat, target)),
    }
    if found.is_empty() {
        bail!("{}: it is not a device, nor a directory with devices", failed());
    }
    found.retain(|device| !devices::is_usual(&device.target, device.number));
    match found.iter().find(|device| devices::is_taken(&device.target)) {
        Some(device) => bail!("{}: `{}` is the container's own", failed(), device.target.display()),
        None => Ok(found),
    }
}

/// All devices in the host's `/dev` but those that a container has of its own: the usual ones, and terminals.
pub fn all() -> Result<Vec<Device>> {
    let mut found = Vec::new();
    walk(Path::new("/dev"), Path::new("/dev"), &mut found).context("give the host's devices")?;
    let own = |target: &Path| {
        let directories = ["/dev/pts", "/dev/shm", "/dev/mqueue"];
        devices::is_taken(target) || directories.iter().any(|directory| target.starts_with(directory))
    };
    found.retain(|device| !own(&device.target));
    Ok(found)
}

/// Reading alone cannot be had: a node's mode does not hold root, and a mount's `ro` does not hold devices.
fn check_access(access: &str) -> Result<()> {
    if access.is_empty() || !access.bytes().all(|byte| b"rwm".contains(&byte)) {
        bail!("`{access}` is not an access, rwm is wanted");
    }
    if !(access.contains('r') && access.contains('w')) {
        return Err(refused(
            format!("access `{access}` cannot be held: who has a device here can read and write it"),
            "give rw or rwm, or leave the device out",
        ));
    }
    Ok(())
}

fn walk(source: &Path, target: &Path, found: &mut Vec<Device>) -> Result<()> {
    let failed = || format!("read directory `{}`", source.display());
    for entry in std::fs::read_dir(source).with_context(failed)? {
        let name = entry.with_context(failed)?.file_name();
        let (source, target) = (source.join(&name), target.join(&name));
        // One that went meanwhile is none.
        let Ok(stat) = lstat(&source) else { continue };
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            walk(&source, &target, found)?;
        } else {
            found.extend(Device::of(&stat, target));
        }
    }
    Ok(())
}

impl Device {
    fn of(stat: &Stat, target: PathBuf) -> Option<Self> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        let owner = (stat.st_uid, stat.st_gid);
        device.then_some(Self { target, kind, number: stat.st_rdev, mode: stat.st_mode & 0o777, owner })
    }

    fn make(&self, path: &Path, user: Option<&UserNamespace>) -> Result<()> {
        mknodat(CWD, path, self.kind, Mode::from_raw_mode(self.mode), self.number)?;
        let (uid, gid) = match user {
            // Whoever has no number there is the overflow id, as ever.
            Some(user) => (user.host_uid(self.owner.0.min(NOBODY)), user.host_gid(self.owner.1.min(NOBODY))),
            None => self.owner,
        };
        Ok(chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?)
    }
}

/// Makes the nodes and puts them into their places below `root`.
pub fn give(root: BorrowedFd<'_>, devices: &[Device], user: Option<&UserNamespace>) -> Result<()> {
    for (number, device) in devices.iter().enumerate() {
        let put = || -> Result<()> {
            // On the stage, which is not closed to devices and which no name of the container leads to.
            let node = Path::new(rootfs::STAGE).join(format!("device{number}"));
            device.make(&node, user)?;
            let tree = open_tree(CWD, &node, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
            let target = open_target(root, &device.target, false)?;
            refuse_kernel_files(target.as_fd())?;
            attach(tree.as_fd(), target.as_fd())
        };
        put().with_context(|| format!("give device `{}`", device.target.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_and_what_is_none() {
        let null = &find("/dev/null:/dev/other").unwrap()[0];
        assert_eq!((null.target.as_path(), null.kind), (Path::new("/dev/other"), FileType::CharacterDevice));
        assert_eq!(find("/dev/null:/x:rw").unwrap(), [Device { target: "/x".into(), ..null.clone() }]);
        assert_eq!(find("/dev/null").unwrap(), [], "every container has it");
        for bad in [
            "",
            "/dev/null:/x:r",
            "/dev/null:m",
            "/dev/null:/x:rwx",
            "/dev/null:/x:rwm:y",
            "/dev/null:x",
            "/dev/null:/proc/x",
            "/dev/null:/dev/zero",
            "/dev/null:/dev/console",
            "/dev/null:/dev/pts/0",
            "/etc/passwd:/x",
            "/nothing:/x",
        ] {
            assert!(find(bad).is_err(), "{bad}");
        }
    }
}
