//! The program: parse, dispatch, print the error once, exit code.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use minirun::cli::{self, Verb};
use minirun::{commands, error, reaper, state};

/// Images, network definitions and logs: what outlives a reboot.
const DATA_ROOT: &str = "/var/lib/minirun";

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    match reaper::own_program() {
        Ok(reaper::Program::SealedCopy) => return reaper::main(args).into(),
        Ok(reaper::Program::File) => {}
        Err(error) => return error::report(&error).into(),
    }
    let outcome = match cli::parse(args) {
        Ok(cli) => dispatch(cli),
        Err(usage) => return error::report_usage(&usage).into(),
    };
    outcome.unwrap_or_else(|error| error::report(&error)).into()
}

fn dispatch(cli: cli::Cli) -> Result<u8> {
    let data_root = Path::new(DATA_ROOT);
    if cli.verb.needs_root() && !nix::unistd::geteuid().is_root() {
        let user = nix::unistd::geteuid();
        return Err(error::refused(
            format!("run minirun: only root can, this is user {user}"),
            "type `sudo` before it",
        ));
    }
    match cli.verb {
        Verb::Run(args) => return commands::run::run(&args, &cli.root, data_root),
        Verb::Ps(args) => commands::ps::ps(&args, &cli.root)?,
        Verb::Cp(args) => commands::cp::cp(&args, |name| root_of(name, &cli.root))?,
        Verb::Image(args) => commands::image::image(&args, data_root)?,
        Verb::System(args) => commands::system::system(&args, &cli.root)?,
        Verb::Version => error::print(concat!("minirun ", env!("CARGO_PKG_VERSION"), "\n"))?,
    }
    Ok(0)
}

/// The root directory of a container's first process.
fn root_of(name: &str, root: &Path) -> Result<OwnedFd> {
    let missing = || error::refused(format!("find container `{name}`: there is none"), "`minirun ps` lists them");
    let records = state::State::open(root)?.list()?;
    let record = records.into_iter().find(|record| record.name == name || record.id == name).ok_or_else(missing)?;
    let (Some(pid), Some(start)) = (record.pid, record.pid_start) else { return Err(missing()) };
    // First the directory of whatever process has the id, then the question whether it is the one.
    let root = File::open(format!("/proc/{pid}/root")).map_err(|_| missing())?;
    if state::start_time(pid) != Some(start) { Err(missing()) } else { Ok(root.into()) }
}
