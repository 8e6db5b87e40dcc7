//! `minirun network`: networks are defined, listed and removed. What of them is in the kernel is made by the first container
//! that needs it.

mod bridge;
mod create;
mod list;
mod set;
mod verify;

use std::path::Path;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use self::create::{CreateArgs, create};
use self::list::{InspectArgs, LsArgs, inspect, ls, members};
use self::set::{SetArgs, SetPortArgs, set, set_port};
use self::verify::{ReloadArgs, VerifyArgs, reload, verify};
use super::each;
use super::explain::{ExplainNetworkArgs, explain_network};
use crate::control::{self, Ask};
use crate::error::{note, print, refused};
use crate::net::Net;
use crate::net::args::NetArgs;
use crate::net::definition::{Definitions, is_reserved};
use crate::net::{self};
use crate::state::State;

/// `minirun network`.
#[derive(Debug, Args)]
pub struct NetworkArgs {
    /// What to do
    #[command(subcommand)]
    verb: NetworkVerb,
}

/// The commands of `minirun network`.
#[derive(Debug, Subcommand)]
enum NetworkVerb {
    /// Define a network
    Create(CreateArgs),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show networks with their members
    Inspect(InspectArgs),
    /// Remove networks that no container is on
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Remove all networks that no container is on
    Prune,
    /// Put a container that runs on a further network
    Connect(ConnectArgs),
    /// Take a container that runs off a network
    Disconnect(DisconnectArgs),
    /// Print the commands that build a network, with a reason each
    Explain(ExplainNetworkArgs),
    /// Compare networks and their containers with what the kernel has; 1 where something differs
    Verify(VerifyArgs),
    /// Mend what differs
    Reload(ReloadArgs),
    /// Change options of a network's bridge and of its ports
    Set(SetArgs),
    /// Change options of a container's port
    SetPort(SetPortArgs),
}

/// Options of `network rm`.
#[derive(Debug, Args)]
struct RmArgs {
    /// Names
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

/// Options of `network connect`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun network connect back web
  minirun network connect back:ip=10.9.0.7,alias=db web
  minirun network connect back:rate=10mbit/20mbit web     what it sends, what it receives
  minirun run -d --name alone --net=none busybox sleep 1000; minirun network connect bridge alone")]
struct ConnectArgs {
    /// IPv4 address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<std::net::Ipv4Addr>,
    /// IPv6 address
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<std::net::Ipv6Addr>,
    /// Further name on that network
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Hardware address
    #[arg(long, value_name = "ADDRESS")]
    mac_address: Option<String>,
    /// The network, with options as `run --net` takes them
    #[arg(value_name = "NETWORK[:OPTIONS]")]
    network: Net,
    /// Name or ID
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Options of `network disconnect`.
#[derive(Debug, Args)]
struct DisconnectArgs {
    /// The network's name
    #[arg(value_name = "NETWORK")]
    network: String,
    /// Name or ID
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Does what was typed.
/// The exit code.
pub fn network(args: &NetworkArgs, root: &Path, data_root: &Path) -> Result<u8> {
    match &args.verb {
        NetworkVerb::Verify(args) => return verify(args, root, data_root),
        NetworkVerb::Reload(args) => return reload(args, root, data_root),
        _ => {}
    }
    plain(args, root, data_root).map(|()| 0)
}

fn plain(args: &NetworkArgs, root: &Path, data_root: &Path) -> Result<()> {
    match &args.verb {
        NetworkVerb::Verify(_) | NetworkVerb::Reload(_) => Ok(()),
        NetworkVerb::Explain(args) => explain_network(args, root, data_root),
        NetworkVerb::Set(args) => set(args, root, data_root),
        NetworkVerb::SetPort(args) => set_port(args, root, data_root),
        NetworkVerb::Create(args) => create(args, data_root),
        NetworkVerb::Ls(args) => ls(args, root, data_root),
        NetworkVerb::Inspect(args) => inspect(args, root, data_root),
        NetworkVerb::Rm(args) => each::all(&args.networks, |name| {
            remove(name, root, data_root)?;
            print(&format!("{name}\n"))
        }),
        NetworkVerb::Prune => prune(root, data_root),
        NetworkVerb::Connect(args) => connect(args, root),
        NetworkVerb::Disconnect(args) => {
            let found = State::open(root)?.find(&args.container)?;
            let freed = control::ask(&found, &Ask::Disconnect(args.network.clone()))?;
            freed.iter().for_each(|port| note(&format!("took back {port}")));
            Ok(())
        }
    }
}

fn connect(args: &ConnectArgs, root: &Path) -> Result<()> {
    let options = NetArgs {
        net: vec![args.network.clone()],
        ip: args.ip,
        ip6: args.ip6,
        mac_address: args.mac_address.clone(),
        network_alias: args.alias.clone(),
        ..NetArgs::default()
    };
    let mode = options.mode()?;
    let Some(wish) = mode.attachments().first() else {
        bail!("connect network: `{}` is not one that can be connected", args.network);
    };
    let found = State::open(root)?.find(&args.container)?;
    control::ask(&found, &Ask::Connect(Net::Network(wish.clone()))).map(drop)
}

fn remove(name: &str, root: &Path, data_root: &Path) -> Result<()> {
    if is_reserved(name) {
        let message = format!("remove network `{name}`: it needs no definition, and is always there");
        return Err(refused(message, "`minirun system prune` takes its bridge off the host"));
    }
    let state = State::open(root)?;
    net::removal::remove(data_root, name, || {
        Ok(members(&state.list()?, name).map(|found| found.record.name.clone()).collect())
    })
}

fn prune(root: &Path, data_root: &Path) -> Result<()> {
    let found = State::open(root)?.list()?;
    let unused: Vec<String> = Definitions::open(data_root)
        .list()?
        .into_iter()
        .map(|one| one.name)
        .filter(|name| members(&found, name).next().is_none())
        .collect();
    if unused.is_empty() {
        note("there is nothing to remove");
    }
    each::all(&unused, |name| {
        remove(name, root, data_root)?;
        print(&format!("{name}\n"))
    })
}
