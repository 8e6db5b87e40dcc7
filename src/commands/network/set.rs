//! `minirun network set` and `set-port`: what brctl(8) sets, of a network's bridge and of the ports of its containers. Written
//! down as well, so that it holds for what is made later and `network verify` knows it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;
use nix::fcntl::FlockArg;

use super::list::members;
use crate::control::{self, Ask};
use crate::error::{print, refused};
use crate::net::definition::{Definition, Definitions};
use crate::net::driver::Driver;
use crate::net::explain::commands;
use crate::net::mode::DEFAULT;
use crate::net::options::{check_together, option_of, options_of, port_option_of, port_options};
use crate::net::rtnl::Rtnl;
use crate::net::step::Step;
use crate::net::{Interface, apply::Applier, hub, look, seen};
use crate::state::{Found, State};

/// Options of `network set`.
#[derive(Debug, Args)]
#[command(
    after_help = "Of the bridge: stp, ageing_time, forward_delay, hello_time, max_age, priority; of its ports: hairpin,
path_cost, port_priority, learning. Times are in hundredths of a second.

Examples:
  minirun network set front stp=on priority=4096
  minirun network set --dry-run front path_cost=7"
)]
pub struct SetArgs {
    /// Print the commands instead
    #[arg(long)]
    dry_run: bool,
    /// The network's name
    #[arg(value_name = "NETWORK")]
    network: String,
    /// What it becomes
    #[arg(required = true, value_name = "KEY=VALUE")]
    options: Vec<String>,
}

/// Options of `network set-port`.
#[derive(Debug, Args)]
#[command(
    after_help = "Options: hairpin, isolated, learning (on or off), path_cost, port_priority. They last until the container ends.

Examples:
  minirun network set-port web isolated=on
  minirun network set-port web:eth1 path_cost=20 learning=off
  minirun network set-port web:front hairpin=on"
)]
pub struct SetPortArgs {
    /// Print the commands instead
    #[arg(long)]
    dry_run: bool,
    /// Name or ID, and which of its interfaces where it has several
    #[arg(value_name = "CONTAINER[:INTERFACE|NETWORK]")]
    port: String,
    /// What it becomes
    #[arg(required = true, value_name = "KEY=VALUE")]
    options: Vec<String>,
}

/// Sets options of a network.
pub fn set(args: &SetArgs, root: &Path, data_root: &Path) -> Result<()> {
    if args.network == DEFAULT {
        let message = format!("set options of network `{DEFAULT}`: it has no definition to keep them in");
        return Err(refused(message, "make one of your own: `minirun network create NAME --opt KEY=VALUE`"));
    }
    let definitions = Definitions::open(data_root);
    let _writing = if args.dry_run { None } else { Some(definitions.lock()?) };
    let before = definitions.find(&args.network)?;
    if !before.driver.has_bridge() {
        let message =
            format!("set options of network `{}`: with driver {} it has no bridge", before.name, before.driver);
        return Err(refused(message, "remove it and make it as it is to be: `minirun network create`"));
    }
    // What is of a tunnel is the same on all hosts, and is said once.
    let options = args.options.iter().map(|text| option_of(Driver::Bridge, text));
    let options: BTreeMap<String, String> = options.collect::<Result<_>>()?;
    let mut after = before.clone();
    after.options.extend(options);
    check_together(&after.options)?;
    let mut rtnl = Rtnl::open()?;
    let directory = hub::directory(&rtnl)?;
    // Alone: whoever starts meanwhile has either all of the old options or all of the new ones.
    let _turn =
        if args.dry_run || !directory.exists() { None } else { Some(look::lock(&directory, FlockArg::LockExclusive)?) };
    let found = State::open(root)?.list()?;
    let steps = steps_of(&mut rtnl, &before, &after, &found)?;
    if args.dry_run {
        return print(&text(&steps));
    }
    let mut applier = Applier::new(&mut rtnl, 0);
    applier.apply(&steps)?;
    definitions.write(&after)?;
    applier.commit();
    Ok(())
}

/// What makes the bridge and the ports that there are as the network is to be: what is in `after` and not in `before`, and
/// of ports what they have no option of their own for.
fn steps_of(rtnl: &mut Rtnl, before: &Definition, after: &Definition, found: &[Found]) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    let link = rtnl.link_called(&after.link)?.map(|message| seen::link(&message));
    let Some(bridge) = link.filter(|link| link.is_bridge && link.alias == after.alias()) else { return Ok(steps) };
    let old = options_of(before, true);
    let mut new = options_of(after, true);
    new.retain(|option| !old.contains(option));
    // The kernel takes a delay that is shorter only once the protocol is off, and turns it on only with one that is not.
    new.sort_by_key(|(option, value)| (*option == "stp_state") == (*value != 0));
    let set = |(option, value)| Step::SetBridgeOption { link: bridge.name.clone(), option, value };
    steps.extend(new.into_iter().map(set));
    // As the kernel lists them: one that starts just now is not on record yet.
    // A tunnel is no container's.
    let of_containers = |port: &seen::Link| port.alias.starts_with("minirun:") && port.alias != after.alias();
    for port in rtnl.ports(bridge.index)?.iter().map(seen::link).filter(of_containers) {
        let mut interfaces = members(found, &after.name).flat_map(|found| &found.record.interfaces);
        let own =
            interfaces.find(|interface| interface.host == port.name).map(|own| own.port.clone()).unwrap_or_default();
        let old = port_options(before, &own);
        let new = port_options(after, &own).into_iter().filter(|option| !old.contains(option));
        steps.extend(new.map(|(option, value)| Step::SetPortOption { link: port.name.clone(), option, value }));
    }
    Ok(steps)
}

/// Sets options of a container's port.
pub fn set_port(args: &SetPortArgs, root: &Path, _data_root: &Path) -> Result<()> {
    let options = args.options.iter().map(|text| port_option_of(text)).collect::<Result<Vec<_>>>()?;
    let (container, which) = match args.port.split_once(':') {
        Some((container, which)) => (container, Some(which)),
        None => (args.port.as_str(), None),
    };
    let found = State::open(root)?.find(container)?;
    let interface = interface(&found, which)?;
    if !interface.driver.has_bridge() {
        let message = format!(
            "set options of the port of container `{}`: with driver {} `{}` is no port of a bridge",
            found.record.name, interface.driver, interface.name
        );
        return Err(refused(message, "`network inspect` tells what driver a network has"));
    }
    if args.dry_run {
        let link = || interface.host.clone();
        let steps = options.into_iter().map(|(option, value)| Step::SetPortOption { link: link(), option, value });
        return print(&text(&steps.collect::<Vec<_>>()));
    }
    let options = options.into_iter().map(|(option, value)| (option.to_owned(), value)).collect();
    control::ask(&found, &Ask::SetPort { network: interface.network.clone(), options }).map(drop)
}

/// The interface that is meant: by its name, or its network's.
fn interface<'a>(found: &'a Found, which: Option<&str>) -> Result<&'a Interface> {
    let Found { record, status, .. } = found;
    let failed = || format!("set options of the port of container `{}`", record.name);
    if !status.lives() {
        return Err(refused(format!("{}: it does not run", failed()), "see `minirun ps -a`"));
    }
    let names = || record.interfaces.iter().map(|one| format!("{} ({})", one.name, one.network)).collect::<Vec<_>>();
    match (which, record.interfaces.as_slice()) {
        (_, []) => {
            let message = format!("{}: it is on no managed network", failed());
            Err(refused(message, "connect it to one: `minirun network connect NETWORK CONTAINER`"))
        }
        (None, [one]) => Ok(one),
        (None, several) => {
            let message = format!("{}: it has {} interfaces", failed(), several.len());
            Err(refused(message, format!("say which, as {}:{}: {}", record.name, several[0].name, names().join(", "))))
        }
        (Some(which), several) => several
            .iter()
            .find(|one| one.name == which)
            .or_else(|| several.iter().find(|one| one.network == which))
            .with_context(|| format!("{}: it has no interface `{which}`, but {}", failed(), names().join(", "))),
    }
}

fn text(steps: &[Step]) -> String {
    steps.iter().flat_map(|step| commands(step, "")).map(|command| command + "\n").collect()
}
