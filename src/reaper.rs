//! The small init of `--init`: process 1 that starts the program, forwards signals to it and reaps orphans.
//!
//! It is this same program, but executed from a sealed copy in memory: process 1 can be seen by every process of the
//! container, and root there could else open the host's minirun by `/proc/1/exe` and overwrite it (CVE-2019-5736).
//! `main` asks [`own_program`] whether it is that copy: by the seals, not by its name, which anybody can give.

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, execveat, setpgid, tcsetpgrp};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

use crate::error::{Advice, EXIT_FAILED, report};
use crate::{init, sys};

/// What it is called in a list of processes.
pub const NAME: &str = "minirun-init";

/// From what this process was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The program's file, found under its path.
    File,
    /// A copy in memory that nobody can change.
    SealedCopy,
}

/// Finds out from what this process was executed. An error where it was from a file that its path does not lead to: then it
/// was started by a link of /proc in a container, and what runs there could get hold of the host's program through it.
pub fn own_program() -> Result<Program> {
    let own = File::open("/proc/self/exe").context("look at minirun's own program")?;
    if fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SEALS)) {
        return Ok(Program::SealedCopy);
    }
    let of_file = own.metadata().context("look at minirun's own program")?;
    let path = std::fs::read_link("/proc/self/exe").context("look at minirun's own program")?;
    let same = |found: std::fs::Metadata| (found.dev(), found.ino()) == (of_file.dev(), of_file.ino());
    if std::fs::metadata(&path).is_ok_and(same) {
        return Ok(Program::File);
    }
    bail!(
        "run minirun: its program is not at `{}`: it was replaced, or started from inside a container",
        path.display()
    )
}

/// What makes a copy that nobody can change.
const SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::GROW).union(SealFlags::SHRINK).union(SealFlags::SEAL);

/// A copy of this program in memory that nobody can change.
pub fn sealed_copy() -> Result<OwnedFd> {
    let copy = || -> Result<OwnedFd> {
        let mut own = File::open("/proc/self/exe")?;
        let memory = memfd_create(NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut file = File::from(memory);
        std::io::copy(&mut own, &mut file)?;
        fcntl_add_seals(&file, SEALS)?;
        Ok(file.into())
    };
    copy().context("copy minirun's own program")
}

/// Becomes the init, which will start `argv`.
pub fn execute(copy: &OwnedFd, argv: &[CString], env: &[CString]) -> Result<Infallible> {
    // A mask survives execve: what is sent from now on waits until it is taken. Without a handler, a process 1 would lose it.
    SigSet::all().thread_block().context("block signals")?;
    let mut words = vec![CString::new(NAME)?];
    words.extend_from_slice(argv);
    execveat(copy, c"", &words, env, nix::fcntl::AtFlags::AT_EMPTY_PATH)
        .context("run the init of --init")
        .remedy("it needs a static minirun, as ./scripts/build makes it")
}

/// Goes on as a sealed copy, from the beginning of the same command line, unless this process is one already.
pub fn become_sealed_copy() -> Result<()> {
    if own_program()? == Program::SealedCopy {
        return Ok(());
    }
    let copy = sealed_copy()?;
    let words = std::env::args_os().map(|word| CString::new(word.into_vec())).collect::<Result<Vec<_>, _>>()?;
    match execveat(&copy, c"", &words, &environment()?, nix::fcntl::AtFlags::AT_EMPTY_PATH)
        .context("run a copy of minirun")? {}
}

/// The environment as execve takes it.
pub fn environment() -> Result<Vec<CString>> {
    let entries = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        CString::new(name.into_vec())
    });
    Ok(entries.collect::<Result<_, _>>()?)
}

/// Starts the program that `args` names after the first word, and ends with its exit code.
pub fn main(args: Vec<OsString>) -> u8 {
    match start(args) {
        Ok(code) => code,
        Err(error) => report(&error),
    }
}

fn start(args: Vec<OsString>) -> Result<u8> {
    let argv = args.into_iter().skip(1).map(|word| CString::new(word.into_vec())).collect::<Result<Vec<_>, _>>()?;
    let env = environment()?;
    // All are blocked since before this process image: they are taken one by one below.
    let all = SigSet::all();
    let ForkResult::Parent { child } = sys::fork().context("start the program")? else {
        let error = run(&argv, &env);
        sys::exit_now(report(&error));
    };
    loop {
        match all.wait().context("wait for a signal")? {
            Signal::SIGCHLD => {
                if let Some(code) = reap(child) {
                    return Ok(code);
                }
            }
            // Ended programs are no error: their SIGCHLD is on its way.
            signal => _ = kill(child, signal),
        }
    }
}

/// In the new process: a process group of its own, in the foreground of the terminal if there is one, then the program.
fn run(argv: &[CString], env: &[CString]) -> anyhow::Error {
    let prepare = || -> Result<()> {
        setpgid(Pid::from_raw(0), Pid::from_raw(0)).context("make a process group")?;
        // SIGTTOU is blocked still, so this does not stop it. Without a terminal there is no foreground.
        match tcsetpgrp(std::io::stdin(), nix::unistd::getpgrp()) {
            Err(Errno::ENOTTY | Errno::EBADF) | Ok(()) => {}
            Err(error) => return Err(error).context("take the foreground"),
        }
        sys::reset_signals().context("reset signals")
    };
    match prepare().and_then(|()| init::execute(argv, env)) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// Takes every ended process; the exit code once the program is among them.
fn reap(program: Pid) -> Option<u8> {
    let mut code = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == program => {
                code = Some(u8::try_from(status).unwrap_or(EXIT_FAILED));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == program => code = Some(128 + signal as i32 as u8),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return code,
            Ok(_) | Err(_) => {}
        }
    }
}
