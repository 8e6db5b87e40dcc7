//! `-u USER[:GROUP]`: numbers, or names of the image's own passwd and group files.
//!
//! Called by `plan.rs`. The files are the image's, so hostile: opened inside its root, only when they are plain files, and
//! read up to a limit. A number is a number, also where the file has a user of that name.

use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::fs::{FileType, OFlags, fstat};
use serde::{Deserialize, Serialize};

use super::rootfs::open_inside;

/// More than any honest file of users.
const LIMIT: u64 = 1 << 20;

/// Who a program runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// All groups, the primary one among them.
    pub groups: Vec<u32>,
    /// The home directory.
    pub home: String,
}

/// A decimal id. Not 4294967295, which means "no change" to the kernel, and nothing that would wrap to another.
pub fn parse_id(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id != u32::MAX)
}

/// Finds out who `spec` (`USER`, `USER:GROUP`, empty for root) is in the image with the root directory `root`.
pub fn find(root: BorrowedFd<'_>, spec: &str) -> Result<User> {
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let passwd = read(root, "/etc/passwd")?;
    let groups = read(root, "/etc/group")?;
    resolve(&passwd, &groups, if user.is_empty() { "0" } else { user }, group)
        .with_context(|| format!("find user `{spec}` in the image"))
}

fn resolve(passwd: &str, groups: &str, user: &str, group: Option<&str>) -> Result<User> {
    let number = parse_id(user);
    if number.is_none() && user.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-' || byte == b'+') {
        bail!("`{user}` is not a user id: 0 to 4294967294 is wanted");
    }
    let mut found = None;
    for line in passwd.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else { continue };
        let (Some(uid), Some(gid)) = (parse_id(uid), parse_id(gid)) else { continue };
        if number.map_or(name == user, |number| number == uid) {
            found = Some((name, uid, gid, home));
            break;
        }
    }
    let (name, uid, default_gid, home) = match (found, number) {
        (Some(found), _) => found,
        (None, Some(number)) => ("", number, 0, "/"),
        (None, None) => bail!("its /etc/passwd has no such user"),
    };
    let gid = match group {
        Some(group) => find_group(groups, group)?,
        None => default_gid,
    };
    // The primary group is among the supplementary ones, so that a file closed to that group is closed to the program.
    let mut all = vec![gid];
    if group.is_none() {
        all.extend(groups_of(groups, name).filter(|other| *other != gid));
    }
    Ok(User { uid, gid, groups: all, home: if home.starts_with('/') { home.into() } else { "/".into() } })
}

fn find_group(groups: &str, group: &str) -> Result<u32> {
    if let Some(gid) = parse_id(group) {
        return Ok(gid);
    }
    let gid = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == group && !group.is_empty()).then(|| parse_id(fields.nth(1)?))?
    });
    gid.with_context(|| format!("its /etc/group has no group `{group}`"))
}

fn groups_of<'a>(groups: &'a str, name: &'a str) -> impl Iterator<Item = u32> + 'a {
    groups.lines().filter_map(move |line| {
        let mut fields = line.split(':').skip(2);
        let gid = parse_id(fields.next()?)?;
        let member = !name.is_empty() && fields.next()?.split(',').any(|member| member == name);
        member.then_some(gid)
    })
}

/// The text of a file of the image; empty where there is none.
fn read(root: BorrowedFd<'_>, path: &str) -> Result<String> {
    let failed = || format!("read `{path}` of the image");
    // O_NONBLOCK: a FIFO would wait for a writer for ever.
    let file = match open_inside(root, Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(String::new()),
        file => file.with_context(failed)?,
    };
    let stat = fstat(&file).with_context(failed)?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        bail!("{}: it is not a plain file", failed());
    }
    let mut bytes = Vec::with_capacity(u64::try_from(stat.st_size).unwrap_or(0).min(LIMIT) as usize + 1);
    std::fs::File::from(file).take(LIMIT + 1).read_to_end(&mut bytes).with_context(failed)?;
    if bytes.len() as u64 > LIMIT {
        bail!("{}: it is larger than 1 MiB", failed());
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:100::/home/ann:/bin/sh\n2000:x:0:0::/:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nusers:x:100:\nwheel:x:10:ann,bob\n";

    fn of(user: &str, group: Option<&str>) -> Result<(u32, u32, Vec<u32>)> {
        resolve(PASSWD, GROUP, user, group).map(|user| (user.uid, user.gid, user.groups))
    }

    #[test]
    fn names_and_numbers() {
        assert_eq!(of("ann", None).unwrap(), (1000, 100, vec![100, 10]));
        assert_eq!(of("1000", None).unwrap(), (1000, 100, vec![100, 10]));
        assert_eq!(of("ann", Some("wheel")).unwrap(), (1000, 10, vec![10]));
        assert_eq!(of("7", Some("8")).unwrap(), (7, 8, vec![8]));
        assert_eq!(of("2000", None).unwrap(), (2000, 0, vec![0]), "a number is never a name");
    }

    #[test]
    fn what_would_wrap_to_another_user_is_refused() {
        for bad in ["4294967296", "4294967295", "-1", "99999999999999999999", "+5"] {
            assert!(of(bad, None).is_err(), "{bad}");
            assert!(of("0", Some(bad)).is_err(), "{bad}");
        }
        for bad in ["1x", " 1000", "nobody-here"] {
            assert!(of(bad, None).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn hostile_files_never_panic(passwd in "(?s).{0,100}", group in "(?s).{0,100}", user in ".{0,12}") {
            let _ = resolve(&passwd, &group, &user, None);
        }

        #[test]
        fn ids_are_what_they_say(id in any::<u64>()) {
            prop_assert_eq!(parse_id(&id.to_string()).map(u64::from), (id < u64::from(u32::MAX)).then_some(id));
        }
    }
}
