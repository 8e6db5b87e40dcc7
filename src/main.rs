//! The program: parse, dispatch, print the error once, exit code.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use minirun::cli;
use minirun::{commands, error, reaper};

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
        Ok(cli) => commands::dispatch(cli, Path::new(DATA_ROOT)),
        Err(usage) => return error::report_usage(&usage).into(),
    };
    outcome.unwrap_or_else(|error| error::report(&error)).into()
}
