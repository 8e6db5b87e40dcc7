//! The program: parse, dispatch, print the error once, exit code.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use minirun::cli::{self, Verb};
use minirun::commands::stop;
use minirun::{commands, error, reaper, state};

/// Images, network definitions and logs: what outlives a reboot.
const DATA_ROOT: &str = "/var/lib/minirun";

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    match reaper::own_program() {
        // By the name that `execute` gave; any other is a command that goes on as a copy.
        Ok(reaper::Program::SealedCopy) if args.first().is_some_and(|name| name == reaper::NAME) => {
            return reaper::main(args).into();
        }
        Ok(_) => {}
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
        Verb::Exec(args) => return commands::exec::exec(&args, &cli.root),
        Verb::Logs(args) => commands::logs::logs_of(&args, &cli.root)?,
        Verb::Inspect(args) => commands::inspect::inspect(&args, &cli.root)?,
        Verb::Top(args) => commands::top::top(&args, &cli.root)?,
        Verb::Stats(args) => commands::stats::stats(&args, &cli.root)?,
        Verb::Pause(args) => commands::pause::pause(&args, &cli.root)?,
        Verb::Unpause(args) => commands::pause::unpause(&args, &cli.root)?,
        Verb::Attach(args) => return commands::attach::attach(&args, &cli.root),
        Verb::Stop(args) => stop::stop(&args, &cli.root)?,
        Verb::Kill(args) => stop::kill(&args, &cli.root)?,
        Verb::Wait(args) => stop::wait(&args, &cli.root)?,
        Verb::Rm(args) => stop::rm(&args, &cli.root)?,
        Verb::Restart(args) => stop::restart(&args, &cli.root, data_root)?,
        Verb::Rename(args) => stop::rename(&args, &cli.root)?,
        Verb::Cp(args) => {
            commands::cp::cp(&args, |name| state::State::open(&cli.root)?.find(name)?.root("copy files of"))?;
        }
        Verb::Image(args) => commands::image::image(&args, data_root)?,
        Verb::System(args) => commands::system::system(&args, &cli.root)?,
        Verb::Version => error::print(concat!("minirun ", env!("CARGO_PKG_VERSION"), "\n"))?,
    }
    Ok(0)
}
