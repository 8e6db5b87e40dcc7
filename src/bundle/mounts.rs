//! The mounts of a bundle: from the words of its `config.json` to what `sandbox/layout.rs` makes. Looks at the sources, changes
//! nothing.

use std::path::Path;

use anyhow::{Context, Result, bail};
use nix::libc;
use oci_spec::runtime::Mount;

use super::honoured::unsupported;
use super::place;
use crate::sandbox::devices;
use crate::sandbox::layout::{Attributes, Kind, Wanted};

/// Decides them, in their order. Relative sources are in the bundle `directory`.
pub fn decide(mounts: &[Mount], directory: &Path) -> Result<Vec<Wanted>> {
    let mut all: Vec<Wanted> = Vec::new();
    for (index, mount) in mounts.iter().enumerate() {
        let name = format!("mounts[{index}]");
        let wanted = one(mount, directory, &name)?;
        if all.iter().any(|other| other.target == wanted.target) {
            bail!("refuse bundle: {name}.destination: `{}` is asked for twice", wanted.target.display());
        }
        all.push(wanted);
    }
    Ok(all)
}

fn one(mount: &Mount, directory: &Path, name: &str) -> Result<Wanted> {
    let target = place(mount.destination()).with_context(|| format!("refuse bundle: {name}.destination"))?;
    let options = mount.options().as_deref().unwrap_or_default();
    let bind = options.iter().any(|option| option == "bind" || option == "rbind");
    let named = mount.typ().as_deref().unwrap_or_default();
    // As mount(2): with MS_BIND the type is no matter.
    let kind = match named {
        _ if bind => "bind",
        "none" | "" => bail!("refuse bundle: {name}.type: it is missing"),
        "bind" => "bind",
        "proc" => "proc",
        "sysfs" => "sysfs",
        "tmpfs" => "tmpfs",
        "devpts" => "devpts",
        "mqueue" => "mqueue",
        other => return Err(unsupported(&format!("{name}.type `{other}`"))),
    };
    check_place(kind, &target).with_context(|| format!("refuse bundle: {name}.destination"))?;
    let (attributes, data) = parse(options, kind).with_context(|| format!("refuse bundle: {name}.options"))?;
    let kind = if kind == "bind" {
        let source = mount.source().as_ref().filter(|source| !source.as_os_str().is_empty());
        let source = source.with_context(|| format!("refuse bundle: {name}.source: it is missing"))?;
        let failed = || format!("refuse bundle: {name}.source: find `{}`", source.display());
        let source = std::fs::canonicalize(directory.join(source)).with_context(failed)?;
        Kind::Bind { source, recursive: options.iter().any(|option| option == "rbind") }
    } else {
        Kind::New { kind, data }
    };
    Ok(Wanted { target, kind, attributes })
}

/// The kernel's own files are where everybody looks for them, and nothing else is there.
fn check_place(kind: &str, target: &Path) -> Result<()> {
    let own = match kind {
        "proc" => "/proc",
        "sysfs" => "/sys",
        "devpts" => "/dev/pts",
        "mqueue" => "/dev/mqueue",
        _ => {
            let closed = ["/proc", "/sys", "/dev/pts", "/dev/mqueue"].iter().any(|closed| target.starts_with(closed));
            let bound_dev = kind == "bind" && target == Path::new("/dev");
            if closed || bound_dev || target == Path::new("/") || devices::is_taken(target) {
                bail!("nothing of the kind `{kind}` can be mounted on `{}`", target.display());
            }
            return Ok(());
        }
    };
    if target != Path::new(own) {
        bail!("`{kind}` is for `{own}`, not for `{}`", target.display());
    }
    Ok(())
}

/// What a word sets and what it clears, `MOUNT_ATTR_*`.
fn attribute(word: &str) -> Option<(u64, u64)> {
    Some(match word {
        "ro" => (libc::MOUNT_ATTR_RDONLY, 0),
        "rw" => (0, libc::MOUNT_ATTR_RDONLY),
        "nosuid" => (libc::MOUNT_ATTR_NOSUID, 0),
        "suid" => (0, libc::MOUNT_ATTR_NOSUID),
        // Devices are given one by one, each a mount of its own; all other mounts are closed to them.
        "nodev" | "dev" => (libc::MOUNT_ATTR_NODEV, 0),
        "noexec" => (libc::MOUNT_ATTR_NOEXEC, 0),
        "exec" => (0, libc::MOUNT_ATTR_NOEXEC),
        "noatime" => (libc::MOUNT_ATTR_NOATIME, libc::MOUNT_ATTR__ATIME),
        "strictatime" => (libc::MOUNT_ATTR_STRICTATIME, libc::MOUNT_ATTR__ATIME),
        "relatime" => (libc::MOUNT_ATTR_RELATIME, libc::MOUNT_ATTR__ATIME),
        "nodiratime" => (libc::MOUNT_ATTR_NODIRATIME, 0),
        "diratime" => (0, libc::MOUNT_ATTR_NODIRATIME),
        _ => return None,
    })
}

fn parse(options: &[String], kind: &str) -> Result<(Attributes, Vec<(String, String)>)> {
    let known: &[&str] = match kind {
        "tmpfs" => &["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks"],
        "devpts" => &["mode", "ptmxmode", "uid", "gid", "max"],
        "proc" => &["hidepid", "subset", "gid"],
        _ => &[],
    };
    let mut attributes = Attributes::default();
    let mut data = Vec::new();
    for option in options {
        match option.as_str() {
            // All mounts of a container are private; each devpts is a new one.
            "bind" | "rbind" | "private" | "rprivate" | "defaults" | "newinstance" | "async" => continue,
            _ => {}
        }
        if let Some((set, clear)) = attribute(option) {
            attributes.change(set, clear, false);
        } else if let Some((set, clear)) = option.strip_prefix('r').and_then(attribute).filter(|_| kind == "bind") {
            attributes.change(set, clear, true);
        } else if let Some((key, value)) = option.split_once('=').filter(|(key, _)| known.contains(key)) {
            if value.contains('\0') || value.len() > 255 {
                bail!("the value of `{key}` is none");
            }
            data.push((key.to_owned(), value.to_owned()));
        } else {
            bail!("`{option}` is not supported yet");
        }
    }
    Ok((attributes, data))
}

/// Whether something is mounted on exactly this place.
pub fn has(mounts: &[Wanted], target: &str, kind: &str) -> bool {
    let is = |wanted: &Wanted| matches!(&wanted.kind, Kind::New { kind: own, .. } if *own == kind);
    mounts.iter().any(|wanted| wanted.target == Path::new(target) && is(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(text: &str) -> Result<Wanted> {
        let mounts: Vec<Mount> = serde_json::from_str(&format!("[{text}]")).unwrap();
        decide(&mounts, Path::new("/")).map(|mut all| all.remove(0))
    }

    #[test]
    fn words_become_attributes() {
        let text = r#"{"destination": "/x/./y", "type": "bind", "source": "usr", "options": ["rbind", "rro", "nosuid", "exec"]}"#;
        let wanted = mount(text).unwrap();
        assert_eq!(wanted.target, Path::new("/x/y"));
        assert_eq!(wanted.kind, Kind::Bind { source: "/usr".into(), recursive: true });
        let Attributes { set, clear, set_below, .. } = wanted.attributes;
        assert_eq!((set, clear), (libc::MOUNT_ATTR_NOSUID, libc::MOUNT_ATTR_NOEXEC));
        assert_eq!(set_below, libc::MOUNT_ATTR_RDONLY);
    }

    #[test]
    fn what_is_not_understood_or_not_safe_is_refused() {
        for (bad, says) in [
            (r#"{"destination": "/x", "type": "cgroup", "source": "cgroup"}"#, "`cgroup` is not supported"),
            (r#"{"destination": "/x", "type": "nfs"}"#, "`nfs` is not supported"),
            (r#"{"destination": "/x"}"#, "type"),
            (r#"{"destination": "x", "type": "tmpfs"}"#, "not absolute"),
            (r#"{"destination": "/a/../proc", "type": "tmpfs"}"#, "`..`"),
            (r#"{"destination": "/a\u0000b", "type": "tmpfs"}"#, "zero byte"),
            (r#"{"destination": "//proc/./x", "type": "tmpfs"}"#, "can be mounted"),
            (r#"{"destination": "/", "type": "tmpfs"}"#, "can be mounted"),
            (r#"{"destination": "/dev", "type": "bind", "source": "/dev"}"#, "can be mounted"),
            (r#"{"destination": "/dev/null", "type": "bind", "source": "/dev/null"}"#, "can be mounted"),
            (r#"{"destination": "/sys/fs", "type": "sysfs"}"#, "is for `/sys`"),
            (r#"{"destination": "/x", "type": "tmpfs", "options": ["huge=always"]}"#, "`huge=always` is not supported"),
            (r#"{"destination": "/x", "type": "tmpfs", "options": ["rshared"]}"#, "`rshared` is not supported"),
            (r#"{"destination": "/x", "type": "tmpfs", "options": ["rro"]}"#, "`rro` is not supported"),
            (r#"{"destination": "/x", "type": "bind", "source": "/no such place"}"#, "source"),
            (r#"{"destination": "/x", "type": "bind"}"#, "source"),
            (r#"{"destination": "/x", "type": "tmpfs"}, {"destination": "/./x", "type": "tmpfs"}"#, "twice"),
        ] {
            let error = format!("{:#}", mount(bad).unwrap_err());
            assert!(error.contains(says) && error.starts_with("refuse bundle: mounts["), "{bad}: {error}");
        }
        let long = format!(r#"{{"destination": "/{}", "type": "tmpfs"}}"#, "x".repeat(70_000));
        assert!(format!("{:#}", mount(&long).unwrap_err()).contains("too long"));
    }
}
