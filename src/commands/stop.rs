//! `minirun stop`, `kill`, `wait`, `rm`, `restart`, `rename`: the end of a container, and its next beginning.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use nix::libc;

use super::each::{all, each};
use super::{pause, run};
use crate::cli::RunArgs;
use crate::error::{print, printable, refused};
use crate::options;
use crate::state::{self, Found, State, Status, Waited};
use crate::{reaper, supervise};

/// Options of `stop`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun stop web
  minirun stop -t 2 $(minirun ps -q)")]
pub struct StopArgs {
    /// Seconds to wait before the container is killed, instead of the container's own
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    time: Option<i64>,
    /// Signal to send instead of the container's own
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
    /// Names or IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Options of `kill`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun kill web
  minirun kill -s HUP web")]
pub struct KillArgs {
    /// Signal to send
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
    /// Names or IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Options of `wait`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun wait web")]
pub struct WaitArgs {
    /// Names or IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Options of `rm`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun rm web
  minirun rm -f $(minirun ps -aq)")]
pub struct RmArgs {
    /// Kill it first if it runs
    #[arg(short, long)]
    force: bool,
    /// Names or IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Options of `restart`.
#[derive(Debug, Args)]
#[command(
    after_help = "Its command line is carried out once more: the root file system is the image's again, the log goes on.

Examples:
  minirun restart web"
)]
pub struct RestartArgs {
    /// Seconds to wait before a running container is killed, instead of the container's own
    #[arg(short, long, value_name = "SECONDS", allow_negative_numbers = true)]
    time: Option<i64>,
    /// Names or IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Options of `rename`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun rename web web-old")]
pub struct RenameArgs {
    /// Name or ID
    container: String,
    /// Another name
    name: String,
}

/// Sends the stop signal, and SIGKILL to what has not ended after some time.
pub fn stop(args: &StopArgs, root: &Path) -> Result<()> {
    let signal = args.signal.as_deref().map(options::signal).transpose()?;
    each(&args.containers, root, |state, found| stop_one(state, found, signal, args.time))
}

fn stop_one(state: &State, found: &Found, signal: Option<i32>, time: Option<i64>) -> Result<()> {
    let started = started(state, found)?;
    let Some(found) = started.as_ref().or(Some(found)).filter(|found| found.holder.is_some()) else { return Ok(()) };
    send(found, signal.unwrap_or(found.record.stop_signal))?;
    // What stands still takes no signal.
    pause::let_go_on(found)?;
    // Below zero: as long as it takes.
    let seconds = time.map_or(Some(u64::from(found.record.stop_timeout)), |time| u64::try_from(time).ok());
    if found.wait(seconds.map(Duration::from_secs))? == Waited::Lives {
        kill_now(found)?;
    }
    Ok(())
}

/// A container that is being started takes no signal before it has a process: as it is then, or the error.
fn started(state: &State, found: &Found) -> Result<Option<Found>> {
    let mut now = None;
    for _ in 0..1000 {
        if now.as_ref().unwrap_or(found).status != Status::Starting {
            return Ok(now);
        }
        std::thread::sleep(Duration::from_millis(10));
        now = Some(state.find(&found.record.id)?);
    }
    bail!("stop container `{}`: its start takes more than 10 s", found.record.name)
}

/// Finds a container whose command line is on disk, if it ever is: that is written when it has a process.
fn find_started(state: &State, word: &str) -> Result<Found> {
    let found = state.find(word)?;
    Ok(started(state, &found)?.unwrap_or(found))
}

/// SIGKILL, and the wait for its end.
fn kill_now(found: &Found) -> Result<()> {
    send(found, libc::SIGKILL)?;
    pause::let_go_on(found)?;
    if found.wait(Some(Duration::from_secs(10)))? == Waited::Lives {
        bail!("end container `{}`: it does not end within 10 s of SIGKILL", found.record.name);
    }
    Ok(())
}

/// Sends a signal to the program: by its holder, if that forwards such a signal, so that both have the same effect.
fn send(found: &Found, number: i32) -> Result<()> {
    let Some(process) = found.record.process() else { return Ok(()) };
    supervise::signal_from_outside(found.holder, &process, number)
        .with_context(|| format!("send signal {number} to container `{}`", found.record.name))
}

/// Sends a signal.
pub fn kill(args: &KillArgs, root: &Path) -> Result<()> {
    let number = options::signal(&args.signal)?;
    each(&args.containers, root, |_, found| {
        found.process("kill")?;
        if number == libc::SIGKILL { kill_now(found) } else { send(found, number) }
    })
}

/// Waits for the end of each, and prints its exit code.
pub fn wait(args: &WaitArgs, root: &Path) -> Result<()> {
    let state = State::open(root)?;
    // All of them first: one may go while another is waited for.
    let found = args.containers.iter().map(|word| state.find(word)).collect::<Result<Vec<_>>>()?;
    found.iter().try_for_each(|found| match found.wait(None)? {
        Waited::Ended(exit) => print(&format!("{}\n", exit.code)),
        Waited::Lost | Waited::Lives => {
            bail!("wait for container `{}`: what held it was killed, and its exit code is lost", found.record.name)
        }
    })
}

/// Removes what is kept of containers that have ended.
pub fn rm(args: &RmArgs, root: &Path) -> Result<()> {
    each(&args.containers, root, |state, found| {
        if found.holder.is_none() {
            return state.remove(found);
        }
        if !args.force {
            let message = format!("remove container `{}`: it runs", found.record.name);
            return Err(refused(message, "stop it first, or give -f"));
        }
        let started = started(state, found)?;
        kill_now(started.as_ref().unwrap_or(found))?;
        // One that is not kept has gone by itself.
        match state.find(&found.record.id) {
            Ok(found) => state.remove(&found),
            Err(_) => Ok(()),
        }
    })
}

/// Stops what runs and runs it once more.
pub fn restart(args: &RestartArgs, root: &Path, data_root: &Path) -> Result<()> {
    run::forget_descriptors()?;
    let arguments = |word: &String| find_started(&State::open(root)?, word).and_then(|found| arguments_of(&found));
    // Before any of them is stopped: the copy begins from the beginning.
    if args.containers.iter().filter_map(|word| arguments(word).ok()).any(|arguments| run::joins_processes(&arguments))
    {
        reaper::become_sealed_copy()?;
    }
    all(&args.containers, |word| {
        let state = State::open(root)?;
        let found = find_started(&state, word)?;
        let failed = || format!("restart container `{}`", found.record.name);
        let arguments = arguments_of(&found)?;
        if found.record.remove {
            // It goes with its next end.
            state.keep(&found).with_context(failed)?;
        }
        stop_one(&state, &found, None, args.time)?;
        let found = state.find(&found.record.id).with_context(failed)?;
        if found.status == Status::Starting || found.holder.is_some() {
            bail!("{}: it is being started", failed());
        }
        match run::start(&arguments, root, data_root, Some(&found))? {
            0 => print(&format!("{}\n", printable(word))),
            _ => bail!("{}: it did not start", failed()),
        }
    })
}

/// The command line of a container that was run with `-d`.
fn arguments_of(found: &Found) -> Result<RunArgs> {
    let failed = || format!("restart container `{}`", found.record.name);
    let arguments = std::fs::read(found.path.join("arguments"));
    let Ok(arguments) = arguments.as_deref().map(serde_json::from_slice::<RunArgs>) else {
        let message = format!("{}: it runs in the foreground of another command", failed());
        return Err(refused(message, "end it and run it again, or run it with -d"));
    };
    arguments.with_context(failed)
}

/// Gives another name.
pub fn rename(args: &RenameArgs, root: &Path) -> Result<()> {
    let state = State::open(root)?;
    if !state::valid_name(&args.name) {
        return Err(refused(
            format!("use name `{}`: it is not a plain name", args.name),
            "letters, digits, `_`, `.` and `-`, at most 63, the first one a letter or digit",
        ));
    }
    let found = state.find(&args.container)?;
    if found.record.name == args.name {
        bail!("rename container `{}`: that is its name already", args.name);
    }
    state.rename(&found, &args.name)
}
