//! `minirun run`: a program in a new container.

use std::path::Path;

use anyhow::{Context, Result};

use crate::cli::RunArgs;
use crate::error::print;
use crate::holder::Caller;
use crate::net::step::Step;
use crate::net::{Mode, explain};
use crate::plan::{self, Plan};
use crate::sandbox::namespaces::Share;
use crate::state::Found;
use crate::supervise::Signals;
use crate::{bundle, holder, launch, reaper, sys, terminal};

/// Runs it to its end, or until it is left to itself; the exit code. With `--dry-run`, prints instead what would be done.
pub fn run(args: &RunArgs, root: &Path, data_root: &Path) -> Result<u8> {
    if args.dry_run {
        let (name, network) = plan::network_of(args, data_root)?;
        return print(&script(network.mode, &name, &network.host_steps, &network.steps)).map(|()| 0);
    }
    if args.spec {
        return print(&bundle::spec::of(args, root, data_root)?).map(|()| 0);
    }
    if args.detach {
        forget_descriptors()?;
    }
    if joins_processes(args) {
        reaper::become_sealed_copy()?;
    }
    start(args, root, data_root, None)
}

/// What the caller has open by accident is not held for as long as the container lives. Before anything else is opened.
pub fn forget_descriptors() -> Result<()> {
    sys::close_from(3).context("close the caller's descriptors")
}

/// Whether the container will be among another's processes, which could look into minirun: then that must run as a copy that
/// nobody can change, see [`reaper::sealed_copy`], before it begins.
pub fn joins_processes(args: &RunArgs) -> bool {
    matches!(args.openings.pid, Share::Container(_)) || args.bundle.as_deref().is_some_and(bundle::joins_processes)
}

/// Starts a container, `again` where it has run before.
pub fn start(args: &RunArgs, root: &Path, data_root: &Path, again: Option<&Found>) -> Result<u8> {
    let launch = |caller: Option<Caller>, signals: &mut Signals| {
        let again_record = again.map(|again| &again.record);
        let decided = match args.bundle {
            None => Plan::from_run(args, data_root, root, again_record),
            Some(_) => Plan::from_bundle(args, data_root, again_record),
        };
        let mut plan = match decided {
            Ok(plan) => plan,
            Err(error) => return (caller, Err(error)),
        };
        // Everybody on the host can read a command line, and what it says of the environment may be a secret.
        sys::set_title(&format!("minirun: {} {}", plan.record.id, plan.record.name));
        launch::run(&mut plan, root, again, signals, caller)
    };
    if args.detach || args.tty && args.interactive {
        // With -d it is let go in any case, else by keys.
        let at_leave = || {
            if !args.detach {
                terminal::say_left();
            }
        };
        return holder::apart(at_leave, |caller, mut signals| launch(Some(caller), &mut signals));
    }
    // Before anything is made, so that a signal finds the guards in place.
    let mut signals = Signals::catch()?;
    launch(None, &mut signals).1
}

/// The network as commands to be typed by hand, each below its reason.
fn script(mode: Mode, netns: &str, host_steps: &[Step], steps: &[Step]) -> String {
    let mut text = format!("# The network of container `{netns}`, --net={mode}, by hand.\n");
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
    part(&mut text, netns, "The managed bridge: made once, kept for all containers.", host_steps);
    if mode == Mode::Host {
        text.push_str("\n# Nothing to do: the program runs in the host's network namespace.\n");
    } else {
        let namespace = "The container: a network namespace of its own. (Take all of it down with: ip netns del NAME)";
        text.push_str(&format!("\n# {}\nip netns add {netns}\n", namespace.replace("NAME", netns)));
        part(&mut text, netns, "What is done in it.", steps);
    }
    text
}

#[cfg(test)]
mod tests {
    use crate::net::hub::{Link, View};
    use crate::net::network::Bridge;

    use super::*;

    fn view() -> View {
        let eth0 = Link { index: 2, name: "eth0".into(), up: true, mtu: 1400, ..Link::default() };
        View { links: vec![eth0.clone()], uplink: Some(eth0), table: None, router: false, ipv6: true }
    }

    #[test]
    fn first_bridged_container() {
        let view = view();
        let bridge = Bridge::decide(&view, "10.214.0.1/20".parse().unwrap(), false, &[]);
        let steps = bridge.attach(&view, "0123456789ab", "eth0", "10.214.0.2".parse().unwrap());
        insta::assert_snapshot!(script(Mode::Bridge, "web", &bridge.missing, &steps));
    }

    #[test]
    fn without_ipv6_in_the_kernel() {
        let view = View { ipv6: false, ..view() };
        let bridge = Bridge::decide(&view, "10.214.0.1/20".parse().unwrap(), false, &[]);
        let steps = bridge.attach(&view, "0123456789ab", "eth0", "10.214.0.2".parse().unwrap());
        let text = script(Mode::Bridge, "web", &bridge.missing, &steps);
        assert!(!text.contains("ipv6") && !text.contains("addrgenmode"), "{text}");
    }

    #[test]
    fn host_has_nothing_to_do() {
        insta::assert_snapshot!(script(Mode::Host, "web", &[], &[]));
    }
}
