//! `minirun exec`: a further program in a container that runs, or a program of the host in its network.

use std::ffi::{CString, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::error::refused;
use crate::plan::{self, Process, merge};
use crate::sandbox::user;
use crate::state::{Found, State};
use crate::{exec, options, reaper, sys};

/// Options of `exec`.
#[derive(Debug, Args)]
#[command(override_usage = "minirun exec [OPTIONS] CONTAINER COMMAND [ARG...]")]
#[command(after_help = "It has the container's namespaces, cgroups, capabilities and system call filter.

Examples:
  minirun exec -it web sh
  minirun exec -e DEBUG=1 -w /srv web ./check
  minirun exec --net-only web -- ss -tlnp        a program of this host in the container's network

Exit code: the program's; 128+n when signal n ended it; 125 minirun's own error, 126 cannot be run, 127 not found.")]
pub struct ExecArgs {
    /// Let the program read from standard input
    #[arg(short, long)]
    interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    tty: bool,
    /// Return when the program runs; what it writes is lost
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    detach: bool,
    /// Set an environment variable; NAME alone takes the value it has here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Set the environment variables of a file, one a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Working directory, instead of the container's
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// User and group, as names of the container's files or as numbers
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// All capabilities and no system call filter
    #[arg(long)]
    privileged: bool,
    /// Run a program of this host in the container's network only
    #[arg(long, conflicts_with_all = ["interactive", "tty", "detach", "env", "env_file", "workdir", "user", "privileged"])]
    net_only: bool,
    /// Container, program and its arguments
    #[arg(value_name = "CONTAINER COMMAND [ARG...]", trailing_var_arg = true, required = true)]
    words: Vec<OsString>,
}

/// Runs it to its end. The exit code.
pub fn exec(args: &ExecArgs, root: &Path) -> Result<u8> {
    let mut words = args.words.iter();
    let name = words.next().and_then(|name| name.to_str()).context("execute in a container: its name is not text")?;
    let argv = words.skip_while(|word| *word == "--").map(|word| CString::new(word.clone().into_vec()));
    let argv = argv.collect::<Result<Vec<_>, _>>().context("execute: an argument holds a zero byte")?;
    if name.starts_with('-') {
        bail!("parse command line: unknown option `{name}`");
    }
    if argv.first().is_none_or(|program| program.is_empty()) {
        return Err(refused("execute in a container: no program is given", "as in `minirun exec web sh`"));
    }
    if args.user.as_deref() == Some("") {
        return Err(refused(
            "execute in a container: the user's name is empty",
            "leave out --user for the container's own",
        ));
    }
    if args.tty && args.interactive && !rustix::termios::isatty(std::io::stdin()) {
        return Err(refused("make a terminal: standard input is not one", "leave out -t"));
    }
    let found = State::open(root)?.find(name)?;
    found.process("execute in")?;
    if args.net_only {
        return exec::net_only(&found, &argv);
    }
    exec::check(&found)?;
    if exec::needs_sealed_copy(&found) {
        reaper::become_sealed_copy()?;
    }
    let process = process(args, &found, argv)?;
    let place = exec::Place::of(&found)?;
    // A command line can be read by everybody, and what it says of the environment may be a secret.
    sys::set_title(&format!("minirun: exec {}", found.record.id));
    // Nothing is open any more when the container sees a process of minirun.
    drop(found);
    exec::run(&place, &process, args.detach)
}

/// What is to run, decided.
fn process(args: &ExecArgs, found: &Found, argv: Vec<CString>) -> Result<Process> {
    let inside = &found.record.inside;
    let (capabilities, filter, no_new_privileges) = exec::confine(found, args.privileged)?;
    let user = match &args.user {
        None => inside.user.clone(),
        Some(spec) => user::find(found.root("execute in")?.as_fd(), spec)?,
    };
    let workdir = plan::absolute(args.workdir.clone().unwrap_or_else(|| inside.workdir.clone()))?;
    let mut env: Vec<OsString> = inside.env.iter().map(OsString::from).collect();
    if args.user.is_some() {
        merge(&mut env, format!("HOME={}", user.home).into());
    }
    if args.tty && !inside.env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push(plan::TERM.into());
    }
    for entry in options::environment(&args.env_file, &args.env)? {
        merge(&mut env, entry);
    }
    Ok(Process {
        argv,
        env: plan::environment(env)?,
        workdir,
        user,
        capabilities,
        sets: None,
        filter,
        no_new_privileges,
        limits: exec::limits(found)?,
        terminal: args.tty,
        interactive: args.interactive,
        init: false,
    })
}
