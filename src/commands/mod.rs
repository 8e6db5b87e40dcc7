//! The verbs: one file each, whose function is what `main` calls.

pub mod attach;
pub mod capture;
pub mod cp;
pub mod doctor;
mod each;
pub mod exec;
pub mod filter;
pub mod graph;
pub mod image;
pub mod inspect;
pub mod logs;
pub mod network;
pub mod pause;
pub mod port;
pub mod ps;
pub mod run;
pub mod stats;
pub mod stop;
pub mod system;
pub mod top;

use std::path::Path;

use anyhow::Result;

use crate::cli::{Cli, Verb};
use crate::error;

/// Does what was typed. The exit code.
pub fn dispatch(cli: Cli, data_root: &Path) -> Result<u8> {
    if cli.verb.needs_root() && !nix::unistd::geteuid().is_root() {
        let user = nix::unistd::geteuid();
        return Err(error::refused(
            format!("run minirun: only root can, this is user {user}"),
            "type `sudo` before it",
        ));
    }
    match cli.verb {
        Verb::Run(args) => return run::run(&args, &cli.root, data_root),
        Verb::Ps(args) => ps::ps(&args, &cli.root)?,
        Verb::Exec(args) => return exec::exec(&args, &cli.root),
        Verb::Logs(args) => logs::logs_of(&args, &cli.root)?,
        Verb::Inspect(args) => inspect::inspect(&args, &cli.root)?,
        Verb::Top(args) => top::top(&args, &cli.root)?,
        Verb::Stats(args) => stats::stats(&args, &cli.root)?,
        Verb::Pause(args) => pause::pause(&args, &cli.root)?,
        Verb::Unpause(args) => pause::unpause(&args, &cli.root)?,
        Verb::Attach(args) => return attach::attach(&args, &cli.root),
        Verb::Stop(args) => stop::stop(&args, &cli.root)?,
        Verb::Kill(args) => stop::kill(&args, &cli.root)?,
        Verb::Wait(args) => stop::wait(&args, &cli.root)?,
        Verb::Rm(args) => stop::rm(&args, &cli.root)?,
        Verb::Restart(args) => stop::restart(&args, &cli.root, data_root)?,
        Verb::Rename(args) => stop::rename(&args, &cli.root)?,
        Verb::Cp(args) => cp::cp(&args, &cli.root)?,
        Verb::Image(args) => image::image(&args, data_root)?,
        Verb::Port(args) => port::port(&args, &cli.root)?,
        Verb::Capture(args) => capture::capture(&args, &cli.root, data_root)?,
        Verb::Network(args) => return network::network(&args, &cli.root, data_root),
        Verb::Doctor(args) => return doctor::doctor(&args, &cli.root, data_root),
        Verb::Graph(args) => return graph::graph(&args, &cli.root),
        Verb::System(args) => system::system(&args, &cli.root, data_root)?,
        Verb::Version => error::print(concat!("minirun ", env!("CARGO_PKG_VERSION"), "\n"))?,
    }
    Ok(0)
}
