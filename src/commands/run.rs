//! `minirun run`: a program in a new container.

use std::path::Path;

use anyhow::{Context, Result};

use crate::cli::RunArgs;
use crate::error::print;
use crate::holder::Caller;
use crate::net::Network;
use crate::net::narrator::{Explain, Narrator};
use crate::net::script::Script;
use crate::plan::{self, Plan};
use crate::sandbox::namespaces::Share;
use crate::state::{Found, Record, netns};
use crate::supervise::Signals;
use crate::{bundle, holder, launch, reaper, sys, terminal};

/// Runs it to its end, or until it is left to itself; the exit code. With `--dry-run`, prints instead what would be done.
pub fn run(args: &RunArgs, root: &Path, data_root: &Path) -> Result<u8> {
    if args.dry_run {
        let (name, network) = plan::network_of(args, data_root, root)?;
        let Network { mode, host_steps, steps, again, ports, .. } = &network;
        let script = Script { mode, container: Some(&name), again, host_steps, steps, ports };
        let text = match args.explain {
            Some(Explain::Json) => format!("{:#}\n", script.json()),
            _ => script.text(),
        };
        return print(&text).map(|()| 0);
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
            Some(_) => Plan::from_bundle(args, data_root, root, again_record),
        };
        let mut plan = match decided {
            Ok(plan) => plan,
            Err(error) => return (caller, Err(error)),
        };
        plan.network.narrator = match narrator(args, &plan.record) {
            Ok(narrator) => narrator,
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

/// Who tells of the network of a container, where somebody wants to know.
fn narrator(args: &RunArgs, record: &Record) -> Result<Option<Narrator>> {
    if !args.step && args.explain.is_none() {
        return Ok(None);
    }
    let name = netns::free(&record.name, &record.id);
    if args.step {
        return Narrator::step_by_step(name).map(Some);
    }
    args.explain.map(|form| Narrator::new(form, name)).transpose()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use crate::net::definition::Definition;
    use crate::net::hub::{Link, View};
    use crate::net::network::{self, Bridge, mac_of};
    use crate::net::{Attachment, Interface, Mode};

    use super::*;

    fn view() -> View {
        let eth0 = Link { index: 2, name: "eth0".into(), up: true, mtu: 1400, ..Link::default() };
        View { links: vec![eth0.clone()], uplink: Some(eth0), ipv6: true, ..View::default() }
    }

    /// The script of the first container that is ever on this network.
    fn first_on(view: &View, definition: Definition) -> String {
        let address = Ipv4Addr::from(u32::from(definition.gateway.addr()) + 1);
        let interface = Interface {
            network: definition.name.clone(),
            name: "eth0".into(),
            driver: definition.driver,
            host: "mr0123456789ab".into(),
            mac: mac_of(address),
            address: ipnet::Ipv4Net::new_assert(address, definition.gateway.prefix_len()),
            address6: definition.gateway6.map(|net| network::same_network6(net, "fd00::2".parse().unwrap())),
            gateway: definition.router(),
            default_route: !definition.internal,
            default_route6: !definition.internal && definition.gateway6.is_some(),
            mtu: 1400,
            rate: None,
            aliases: vec![],
            index: 2,
            port: std::collections::BTreeMap::new(),
            spoof: false,
            announced: false,
        };
        let mode = Mode::Networks(vec![Attachment::on(&definition.name)]);
        let bridge = Bridge::unmade(definition);
        let steps = bridge.attach(view, "0123456789ab", &interface);
        let missing = network::ground(view, std::slice::from_ref(&bridge), Vec::new, &[]).missing;
        Script { mode: &mode, container: Some("web"), again: &[], host_steps: &missing, steps: &steps, ports: &[] }
            .text()
    }

    fn default_network() -> Definition {
        Definition::default_network("10.214.0.1/20".parse().unwrap())
    }

    #[test]
    fn first_bridged_container() {
        insta::assert_snapshot!(first_on(&view(), default_network()));
    }

    #[test]
    fn first_container_of_an_internal_network_with_ipv6() {
        let definition = Definition {
            name: "back".into(),
            link: "mr-back".into(),
            gateway6: Some("fd00::1/64".parse().unwrap()),
            internal: true,
            isolate: true,
            options: [("stp".to_owned(), "on".to_owned()), ("path_cost".to_owned(), "7".to_owned())].into(),
            ..default_network()
        };
        insta::assert_snapshot!(first_on(&view(), definition));
    }

    #[test]
    fn without_ipv6_in_the_kernel() {
        let text = first_on(&View { ipv6: false, ..view() }, default_network());
        assert!(!text.contains("disable_ipv6") && !text.contains("addrgenmode"), "{text}");
    }

    #[test]
    fn host_has_nothing_to_do() {
        insta::assert_snapshot!(
            Script { mode: &Mode::Host, container: Some("web"), again: &[], host_steps: &[], steps: &[], ports: &[] }
                .text()
        );
    }
}
