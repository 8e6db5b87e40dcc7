//! The program: parse, dispatch, print the error once, exit code.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use minirun::cli::{self, Verb};
use minirun::{commands, error, reaper};

/// Images, network definitions and logs: what outlives a reboot.
const DATA_ROOT: &str = "/var/lib/minirun";

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if args.first().is_some_and(|name| name == reaper::NAME) {
        return reaper::main(args).into();
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
        Verb::Image(args) => commands::image::image(&args, data_root)?,
        Verb::System(args) => commands::system::system(&args, &cli.root)?,
        Verb::Version => println!("minirun {}", env!("CARGO_PKG_VERSION")),
    }
    Ok(0)
}
