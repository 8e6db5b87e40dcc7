//! `minirun pause` and `unpause`: the processes of a container stand still, and go on.

use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use super::each::each;
use crate::error::refused;
use crate::sandbox::cgroup::{self, Freezer};
use crate::sandbox::rest;
use crate::state::{Found, Status, open_private};

/// Options of `pause` and `unpause`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun pause web
  minirun unpause web")]
pub struct PauseArgs {
    /// Names or IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Freezes each.
pub fn pause(args: &PauseArgs, root: &Path) -> Result<()> {
    each(&args.containers, root, |_, found| {
        found.process("pause")?;
        let failed = || format!("pause container `{}`", found.record.name);
        if found.status == Status::Paused {
            return Err(refused(format!("{}: it is paused already", failed()), "see `minirun ps`"));
        }
        // What a killed `pause` has left.
        let_go_on(found)?;
        let groups = &found.record.inside.groups;
        // Written over and never away: at no moment is there none.
        let note = |groups: &[PathBuf]| -> Result<()> {
            let mut file = open_private(&found.path.join("paused"))?;
            file.set_len(0)?;
            Ok(file.write_all(&serde_json::to_vec(groups)?)?)
        };
        // Noted before it is done, so that whatever stands still, or is about to, is let go on at its end.
        if cgroup::can_freeze(groups) {
            note(groups)?;
            return cgroup::freeze(groups).with_context(failed);
        }
        note(&[])?;
        let freezer = Freezer::gather(&found.record.id, || processes(found)).with_context(failed)?;
        match note(&[freezer.group().to_owned()]) {
            Err(error) => freezer.release().and(Err(error)),
            noted => noted,
        }
    })
}

/// Lets each go on.
pub fn unpause(args: &PauseArgs, root: &Path) -> Result<()> {
    each(&args.containers, root, |_, found| {
        if found.status != Status::Paused && !found.path.join("paused").exists() {
            let message = format!("unpause container `{}`: it is not paused", found.record.name);
            return Err(refused(message, "see `minirun ps -a`"));
        }
        let_go_on(found)
    })
}

/// Lets a container go on, if it stands still.
pub fn let_go_on(found: &Found) -> Result<()> {
    let note = found.path.join("paused");
    let Ok(groups) = std::fs::read(&note) else { return Ok(()) };
    let failed = || format!("unpause container `{}`", found.record.name);
    let groups: Vec<PathBuf> = serde_json::from_slice(&groups).unwrap_or_default();
    cgroup::thaw(&groups).with_context(failed)?;
    if let Some(freezer) = Freezer::find(&found.record.id)? {
        freezer.release().with_context(failed)?;
    }
    match std::fs::remove_file(&note) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).with_context(failed),
        _ => Ok(()),
    }
}

/// The processes of a container, its first one first: those of its PID namespace, or where that is another's, of its mount
/// namespace, which nobody else is in.
pub fn processes(found: &Found) -> Vec<i32> {
    let Some(pid) = found.record.pid else { return vec![] };
    let number = |kind: &str| std::fs::metadata(format!("/proc/{pid}/ns/{kind}")).map(|about| about.ino());
    let mut all = match found.record.inside.shares_processes {
        false => number("pid").map(cgroup::processes_of).unwrap_or_default(),
        true => number("mnt").map(rest::processes_of).unwrap_or_default(),
    };
    all.sort_by_key(|other| *other != pid);
    all
}
