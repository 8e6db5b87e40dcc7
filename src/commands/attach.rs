//! `minirun attach`: the terminal or the streams of a container that runs by itself.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use crate::attach::{self, Options};
use crate::error::{refused, warn};
use crate::state::{State, Waited};
use crate::supervise;
use crate::terminal::{DETACH_KEYS, DetachKeys};

/// Options of `attach`.
#[derive(Debug, Args)]
#[command(after_help = "Exit code: the program's; 0 after the detach keys.

Examples:
  minirun attach shell                   until its end, or Ctrl-P Ctrl-Q
  minirun attach --no-stdin web          only look")]
pub struct AttachArgs {
    /// Keys that leave the container and let it go on
    #[arg(long, value_name = "KEYS", default_value = DETACH_KEYS)]
    detach_keys: String,
    /// Send nothing that is typed
    #[arg(long)]
    no_stdin: bool,
    /// Send signals on to the program
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    sig_proxy: bool,
    /// Name or ID
    container: String,
}

/// Attaches until the container ends or the detach keys are typed. The exit code.
pub fn attach(args: &AttachArgs, root: &Path) -> Result<u8> {
    let keys = DetachKeys::parse(&args.detach_keys)?;
    let found = State::open(root)?.find(&args.container)?;
    let process = found.process("attach to")?;
    if !found.record.detached {
        return Err(refused(
            format!("attach to container `{}`: it runs in the foreground of another command", found.record.name),
            "leave it there by Ctrl-P Ctrl-Q if it has a terminal; or use `minirun exec`",
        ));
    }
    let terminal = found.record.terminal;
    let input = !args.no_stdin && found.record.interactive;
    if terminal && input && !rustix::termios::isatty(std::io::stdin()) {
        return Err(refused(
            format!("attach to container `{}`: it has a terminal, and standard input is none", found.record.name),
            "give --no-stdin",
        ));
    }
    // Not by the socket: that may be full of what was typed.
    let proxy = |number| supervise::signal_from_outside(found.holder, &process, number);
    let proxy = args.sig_proxy.then_some(&proxy as &dyn Fn(i32) -> Result<()>);
    if let Some(code) = attach::run(&found.path, Options { input, terminal, keys, proxy })? {
        return Ok(code);
    }
    // It waits for its readers for some time, not for ever; and it may have been killed.
    match found.wait(Some(Duration::from_secs(1)))? {
        Waited::Ended(exit) => {
            warn("the last of what it wrote is not shown here: see `minirun logs`");
            Ok(exit.code)
        }
        Waited::Lost | Waited::Lives => bail!("attach to container `{}`: what held it was killed", found.record.name),
    }
}
