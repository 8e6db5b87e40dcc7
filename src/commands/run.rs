//! `minirun run`: a program in a new container.

use std::path::Path;

use anyhow::Result;

use crate::cli::RunArgs;
use crate::launch;
use crate::net::{Network, explain};
use crate::plan::Plan;

/// Runs it to its end; the exit code. With `--dry-run`, prints instead what would be done.
pub fn run(args: &RunArgs, root: &Path, data_root: &Path) -> Result<u8> {
    let plan = Plan::from_run(args, data_root)?;
    if args.dry_run {
        print!("{}", script(&plan.network, &plan.record.name));
        return Ok(0);
    }
    launch::run(plan, root)
}

/// The network as commands to be typed by hand, each below its reason.
fn script(network: &Network, netns: &str) -> String {
    let mut text = format!("# The network of container `{netns}`, --net={}, by hand.\n", network.mode);
    let mut part = |title: &str, steps: &[crate::net::step::Step]| {
        if steps.is_empty() {
            return;
        }
        text.push_str(&format!("\n# {title}\n"));
        for step in steps {
            text.push_str(&format!("\n# {}\n", explain::reason(step)));
            for command in explain::commands(step, netns) {
                text.push_str(&format!("{command}\n"));
            }
        }
    };
    part("The managed bridge: made once, kept for all containers.", &network.host_steps);
    part("The container.", &network.steps);
    text
}
