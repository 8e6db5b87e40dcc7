//! `minirun run`: a program in a new container.

use std::path::Path;

use anyhow::Result;

use crate::cli::RunArgs;
use crate::launch;
use crate::net::step::Step;
use crate::net::{Mode, Network, explain};
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
    fn part(text: &mut String, netns: &str, title: &str, steps: &[Step]) {
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
    }
    part(&mut text, netns, "The managed bridge: made once, kept for all containers.", &network.host_steps);
    if network.mode == Mode::Host {
        text.push_str("\n# Nothing to do: the program runs in the host's network namespace.\n");
    } else {
        let namespace = "The container: a network namespace of its own. (Take all of it down with: ip netns del NAME)";
        text.push_str(&format!("\n# {}\nip netns add {netns}\n", namespace.replace("NAME", netns)));
        part(&mut text, netns, "What is done in it.", &network.steps);
    }
    text
}
