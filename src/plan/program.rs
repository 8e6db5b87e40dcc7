//! The program of a container: its root file system, its words, its environment, its directory.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, Mode as FileMode, OFlags, openat};

use super::TERM;
use crate::cli::RunArgs;
use crate::error::refused;
use crate::image::{Image, Store};
use crate::sandbox::user::User;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Label, directory and image of the root file system, and the words that are left for the program.
///
/// The image `busybox` is made where it is missing, if `make` is set.
pub fn root<'a>(
    args: &'a RunArgs,
    data_root: &Path,
    make: bool,
) -> Result<(String, PathBuf, Option<Image>, &'a [OsString])> {
    if let Some(directory) = &args.rootfs {
        let path =
            std::fs::canonicalize(directory).with_context(|| format!("use `{}` as root", directory.display()))?;
        if !path.is_dir() {
            bail!("use `{}` as root: it is not a directory", directory.display());
        }
        return Ok((path.display().to_string(), path, None, &args.words));
    }
    let Some((name, words)) = args.words.split_first() else {
        let remedy = "as in `minirun run busybox sh`, see `minirun run --help`";
        return Err(refused("run a container: no image is given", remedy));
    };
    let name = name.to_str().context("use image: its name is not text")?;
    let store = Store::open(data_root)?;
    let image = match store.find(name)? {
        Some(image) => image,
        None if make && is_busybox(args) => store.make_busybox()?,
        None => {
            return Err(refused(
                format!("use image `{name}`: there is none of that name"),
                "see `minirun image ls`; `minirun image import TAR NAME` makes one",
            ));
        }
    };
    Ok((image.name.clone(), image.rootfs.clone(), Some(image), words))
}

pub fn is_busybox(args: &RunArgs) -> bool {
    args.rootfs.is_none() && args.words.first().is_some_and(|name| name == "busybox" || name == "busybox:latest")
}

pub fn argv(args: &RunArgs, config: Option<&oci_spec::image::Config>, words: &[OsString]) -> Result<Vec<CString>> {
    let of_image = |list: Option<&Vec<String>>| -> Vec<OsString> {
        list.map(|words| words.iter().map(OsString::from).collect()).unwrap_or_default()
    };
    let (mut argv, default) = match &args.entrypoint {
        // The image's arguments were meant for its own entry point. An empty one clears it, as docker's.
        Some(entrypoint) if entrypoint.is_empty() => (vec![], vec![]),
        Some(entrypoint) => (vec![entrypoint.clone()], vec![]),
        None => (
            of_image(config.and_then(|config| config.entrypoint().as_ref())),
            of_image(config.and_then(|config| config.cmd().as_ref())),
        ),
    };
    argv.extend(if words.is_empty() { default } else { words.to_vec() });
    if argv.first().is_none_or(|program| program.is_empty()) {
        let remedy = "give one after the image, as in `minirun run IMAGE sh`";
        return Err(refused("no program is given and the image names none", remedy));
    }
    argv.into_iter().map(|word| CString::new(word.into_vec()).context("an argument holds a zero byte")).collect()
}

pub fn open_directory(path: &Path) -> Result<OwnedFd> {
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty())
        .with_context(|| format!("open `{}`", path.display()))
}

pub fn merge_environment(
    hostname: &str,
    user: &User,
    terminal: bool,
    from_image: &[String],
    own: &[OsString],
) -> Result<Vec<CString>> {
    let mut all: Vec<OsString> =
        vec![DEFAULT_PATH.into(), format!("HOSTNAME={hostname}").into(), format!("HOME={}", user.home).into()];
    if terminal {
        all.push(TERM.into());
    }
    for entry in from_image.iter().map(OsString::from).chain(own.iter().cloned()) {
        merge(&mut all, entry);
    }
    environment(all)
}

/// An environment as execve takes it.
pub fn environment(entries: Vec<OsString>) -> Result<Vec<CString>> {
    entries.into_iter().map(|entry| CString::new(entry.into_vec()).context("set environment: a zero byte")).collect()
}

/// Adds `NAME=VALUE` to an environment, in the place of what it had of that name.
pub fn merge(all: &mut Vec<OsString>, entry: OsString) {
    let name = |entry: &OsStr| entry.as_bytes().split(|byte| *byte == b'=').next().map(<[u8]>::to_vec);
    all.retain(|earlier| name(earlier) != name(&entry));
    all.push(entry);
}

pub fn workdir(args: &RunArgs, config: Option<&oci_spec::image::Config>) -> Result<PathBuf> {
    let of_image = config.and_then(|config| config.working_dir().as_ref()).filter(|dir| !dir.is_empty());
    absolute(args.workdir.clone().or(of_image.map(PathBuf::from)).unwrap_or_else(|| "/".into()))
}

/// A working directory, which is to be absolute.
pub fn absolute(workdir: PathBuf) -> Result<PathBuf> {
    if !workdir.is_absolute() {
        bail!("use working directory `{}`: it is not absolute", workdir.display());
    }
    Ok(workdir)
}
