//! OCI bundles: a container written as the `config.json` of the OCI runtime specification (1.2 and 1.3), and run from one.
//!
//! `spec.rs` writes what a plan says, for `run --spec`. [`Plan::from_bundle`](crate::plan::Plan::from_bundle) (`plan.rs`) reads:
//! `honoured.rs` refuses what is not honoured, `process.rs`, `mounts.rs` and `kernel.rs` decide the parts. Nothing of it is on
//! the way of an ordinary run.
//!
//! A `config.json` may come from anywhere: it is read up to a limit, every field is checked before the first side effect, and
//! what is said of files is carried out by descriptors (`sandbox/layout.rs`). What it may name is the host's all the same:
//! sources of mounts, the root, namespaces. It is as powerful as a command line.

mod annotations;
mod honoured;
mod kernel;
mod mounts;
mod plan;
mod process;
mod seccomp;
pub mod spec;

pub use plan::network_of;

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// What the configuration of OCI does not know is said in annotations whose names begin so.
pub const PREFIX: &str = "minirun.";

/// More than any honest configuration has.
const LIMIT: u64 = 1 << 20;

/// The configuration in a bundle's directory, with nothing in it that is not honoured.
fn load(directory: &Path) -> Result<Value> {
    let path = directory.join("config.json");
    let failed = || format!("read `{}`", path.display());
    // O_NONBLOCK: a FIFO would wait for a writer for ever.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = openat(CWD, &path, flags, Mode::empty()).with_context(failed)?;
    if !FileType::from_raw_mode(fstat(&file).with_context(failed)?.st_mode).is_file() {
        bail!("{}: it is not a plain file", failed());
    }
    let mut text = Vec::new();
    File::from(file).take(LIMIT + 1).read_to_end(&mut text).with_context(failed)?;
    if text.len() as u64 > LIMIT {
        bail!("{}: it is larger than 1 MiB", failed());
    }
    // How deep it may be is bounded by serde_json.
    let mut config: Value = serde_json::from_slice(&text).with_context(failed)?;
    honoured::check(&mut config)?;
    check_version(&config)?;
    Ok(config)
}

/// Whether the bundle in this directory joins a PID namespace. No where it cannot be read, which is told later.
pub fn joins_processes(directory: &Path) -> bool {
    let of = |config: &Value| -> Result<bool> {
        let listed: Vec<LinuxNamespace> = list(config, "linux.namespaces")?;
        Ok(listed.iter().any(|one| one.typ() == LinuxNamespaceType::Pid && one.path().is_some()))
    };
    load(directory).and_then(|config| of(&config)).unwrap_or(false)
}

fn check_version(config: &Value) -> Result<()> {
    let version: String = part(config, "ociVersion")?.context("refuse bundle: ociVersion: it is missing")?;
    if version.split('.').next() != Some("1") {
        bail!("refuse bundle: ociVersion: `{version}` is not of the 1 that is known");
    }
    Ok(())
}

/// The part of a configuration that has this name, if it is there.
fn part<T: DeserializeOwned>(config: &Value, name: &str) -> Result<Option<T>> {
    let found = name.split('.').try_fold(config, |value, key| value.get(key));
    let read = found.map(|value| T::deserialize(value));
    read.transpose().map_err(|error| anyhow::anyhow!("refuse bundle: {name}: {error}"))
}

/// The same, empty where it is not there.
fn list<T: DeserializeOwned>(config: &Value, name: &str) -> Result<Vec<T>> {
    Ok(part(config, name)?.unwrap_or_default())
}

/// A path in the container: absolute, without `..`, and no longer than the kernel takes it.
fn place(path: &Path) -> Result<PathBuf> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.contains(&0) {
        bail!("it has a zero byte");
    }
    if bytes.len() > 4095 || bytes.split(|byte| *byte == b'/').any(|name| name.len() > 255) {
        bail!("it is too long");
    }
    if !path.is_absolute() {
        bail!("`{}` is not absolute", path.display());
    }
    if path.components().any(|component| component == Component::ParentDir) {
        bail!("`{}` has a `..`", path.display());
    }
    Ok(path.components().collect())
}

/// The same for each of a list.
fn places(config: &Value, name: &str) -> Result<Vec<PathBuf>> {
    let paths: Vec<PathBuf> = list(config, name)?;
    let one = |(index, path): (usize, &PathBuf)| {
        let found =
            place(path).and_then(|path| if path == Path::new("/") { bail!("it is the root") } else { Ok(path) });
        found.with_context(|| format!("refuse bundle: {name}[{index}]"))
    };
    paths.iter().enumerate().map(one).collect()
}
