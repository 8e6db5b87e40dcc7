//! The small init of `--init`: process 1 that starts the program, forwards signals to it and reaps orphans.
//!
//! It is this same program, but executed from a sealed copy in memory: process 1 can be seen by every process of the
//! container, and root there could else open the host's minirun by `/proc/1/exe` and overwrite it (CVE-2019-5736).
//! `main` calls [`main`] when it finds itself called [`NAME`].

use std::convert::Infallible;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, execveat, setpgid, tcsetpgrp};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::error::{Advice, EXIT_FAILED, report};
use crate::{init, sys};

/// What it is called in a list of processes.
pub const NAME: &str = "minirun-init";

/// A copy of this program in memory that nobody can change.
pub fn sealed_copy() -> Result<OwnedFd> {
    let copy = || -> Result<OwnedFd> {
        let mut own = File::open("/proc/self/exe")?;
        let memory = memfd_create(NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut file = File::from(memory);
        std::io::copy(&mut own, &mut file)?;
        fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        Ok(file.into())
    };
    copy().context("copy minirun's own program for --init")
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

/// Starts the program that `args` names after the first word, and ends with its exit code.
pub fn main(args: Vec<OsString>) -> u8 {
    match start(args) {
        Ok(code) => code,
        Err(error) => report(&error),
    }
}

fn start(args: Vec<OsString>) -> Result<u8> {
    let argv = args.into_iter().skip(1).map(|word| CString::new(word.into_vec())).collect::<Result<Vec<_>, _>>()?;
    let env = std::env::vars_os()
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            CString::new(name.into_vec())
        })
        .collect::<Result<Vec<_>, _>>()?;
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
