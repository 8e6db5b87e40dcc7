//! The networking modes: one enum, one match.
//!
//! [`Network::decide`] looks at the kernel, takes an address and lists the steps, all of it before anything is changed;
//! [`Network::prepare`] makes the bridge where it is missing; [`Network::attach`] does the container's steps. `launch.rs`
//! calls them in this order.

pub mod apply;
pub mod explain;
pub mod hub;
pub mod ipam;
pub mod names;
pub mod network;
pub mod nft;
pub mod rtnl;
pub mod step;
pub mod wire;

use std::fmt;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use self::apply::Applier;
use self::hub::View;
use self::ipam::Lease;
use self::names::Resolvers;
use self::network::Bridge;
use self::rtnl::Rtnl;
use self::step::{Place, Step};
use crate::state;

/// What `--net` can be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// A namespace of its own with `lo` up and nothing else.
    None,
    /// The host's namespace.
    Host,
    /// A veth pair into the managed bridge, an address, a default route, NAT.
    #[default]
    Bridge,
}

impl FromStr for Mode {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "none" => Self::None,
            "host" => Self::Host,
            "bridge" => Self::Bridge,
            _ => bail!("unknown mode, one of none, host, bridge is wanted"),
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Host => "host",
            Self::Bridge => "bridge",
        })
    }
}

/// The network of one container, decided.
#[derive(Debug)]
pub struct Network {
    /// What `--net` said.
    pub mode: Mode,
    /// Its address and the gateway's, in mode `bridge`.
    pub address: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Steps that make the managed bridge; on almost every run it is there and there are none.
    pub host_steps: Vec<Step>,
    /// Steps that make the container's part. Its settings (`Step::Sysctl`) are done by the container's own process.
    pub steps: Vec<Step>,
    hub: Option<Hub>,
}

/// What a bridged container needs of the hub.
#[derive(Debug)]
struct Hub {
    rtnl: Rtnl,
    view: View,
    opened: Vec<String>,
    directory: PathBuf,
    _lease: Lease,
}

impl Network {
    /// Decides the network of container `id` and takes its address, by a lock that the kernel gives back. Changes nothing
    /// in the kernel's network; with `dry`, nothing at all.
    pub fn decide(mode: Mode, id: &str, sysctls: &[(String, String)], dry: bool) -> Result<Self> {
        let mut network = match mode {
            Mode::None => {
                let steps = vec![Step::SetUp { place: Place::Container, link: "lo".into() }];
                Self { mode, address: None, host_steps: vec![], steps, hub: None }
            }
            Mode::Host => Self { mode, address: None, host_steps: vec![], steps: vec![], hub: None },
            Mode::Bridge => Self::decide_bridge(id, dry)?,
        };
        if mode != Mode::Host {
            // Before those that were asked for, which may say otherwise.
            network.steps.push(inside("net/ipv4/ping_group_range", "0 2147483647"));
            network.steps.push(inside("net/ipv4/ip_unprivileged_port_start", "0"));
        }
        network.steps.extend(sysctls.iter().map(|(key, value)| inside(key, value)));
        Ok(network)
    }

    fn decide_bridge(id: &str, dry: bool) -> Result<Self> {
        let mut rtnl = Rtnl::open()?;
        let view = View::take(&mut rtnl)?;
        let directory = hub::directory()?;
        let bridge = Bridge::find(&mut rtnl, &view, &Resolvers::of_host().ipv4(), &directory)?;
        let pool = bridge.gateway.trunc();
        let lease = if dry {
            ipam::peek(&directory, pool)
        } else {
            make_directory(&directory)?;
            ipam::lease(&directory, pool)?
        };
        let steps = bridge.attach(&view, id, "eth0", lease.address);
        let address = Some((lease.address, bridge.gateway.addr()));
        let hub = Hub { rtnl, view, opened: bridge.opened, directory, _lease: lease };
        Ok(Self { mode: Mode::Bridge, address, host_steps: bridge.missing, steps, hub: Some(hub) })
    }

    /// Makes the managed bridge, where anything of it is missing. Two commands that do so at once take turns, and the
    /// second finds that it is done.
    pub fn prepare(&mut self) -> Result<()> {
        let Some(hub) = self.hub.as_mut().filter(|_| !self.host_steps.is_empty()) else { return Ok(()) };
        let _turn = lock(&hub.directory)?;
        hub.view = View::take(&mut hub.rtnl)?;
        let bridge = Bridge::find(&mut hub.rtnl, &hub.view, &Resolvers::of_host().ipv4(), &hub.directory)?;
        if self.address.is_some_and(|(_, gateway)| gateway != bridge.gateway.addr()) {
            bail!("make bridge `{}`: another command made it with other addresses at the same moment", network::BRIDGE);
        }
        network::remember_opened(&hub.directory, &bridge.opened)?;
        let mut applier = Applier::new(&mut hub.rtnl, 0);
        applier.apply(&bridge.missing)?;
        applier.commit();
        if !bridge.missing.is_empty() {
            tell_what_was_made(&bridge);
        }
        hub.opened = bridge.opened;
        hub.view = View::take(&mut hub.rtnl)?;
        Ok(())
    }

    /// Does the container's steps: those in the hub for the namespace of process `pid`, then those in that namespace by the
    /// socket that `enter` brings. After an error everything is undone.
    pub fn attach(&mut self, pid: u32, enter: impl FnOnce() -> Result<Rtnl>) -> Result<()> {
        if self.mode == Mode::Host {
            return Ok(());
        }
        let (outside, inside): (Vec<Step>, Vec<Step>) =
            self.steps.iter().cloned().partition(|step| step.place() == Place::Hub);
        let Some(hub) = self.hub.as_mut() else {
            // Nothing to do in the hub: the container's own socket will do.
            let mut rtnl = enter()?;
            return rtnl.batch(vec![rtnl::set_up("lo")]).map_err(|refused| refused.error.context("set link `lo` up"));
        };
        let mut applier = Applier::new(&mut hub.rtnl, pid);
        if let Some(bridge) = hub.view.link(network::BRIDGE) {
            applier.know(network::BRIDGE, bridge.index);
        }
        applier.apply(&outside)?;
        applier.enter(enter()?);
        applier.apply(&inside)?;
        applier.commit();
        Ok(())
    }

    /// The settings that the container's own process makes.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        self.steps.iter().filter_map(|step| match step {
            Step::Sysctl { place: Place::Container, key, value } => Some((key.as_str(), value.as_str())),
            _ => None,
        })
    }
}

/// Takes the managed bridge, its table and the forwarding that came with it off the host.
pub fn take_down() -> Result<bool> {
    let mut rtnl = Rtnl::open()?;
    let directory = hub::directory()?;
    if !directory.exists() && View::take(&mut rtnl)?.link(network::BRIDGE).is_none() {
        return Ok(false);
    }
    make_directory(&directory)?;
    let turn = lock(&directory)?;
    let steps = network::made(&View::take(&mut rtnl)?, &directory);
    Applier::new(&mut rtnl, 0).undo(&steps)?;
    // The lock and the leases stay: others may be waiting for the one and hold the other.
    let _ = std::fs::remove_file(directory.join("opened"));
    drop(turn);
    Ok(!steps.is_empty())
}

fn inside(key: &str, value: &str) -> Step {
    Step::Sysctl { place: Place::Container, key: key.into(), value: value.into() }
}

fn make_directory(directory: &Path) -> Result<()> {
    if let Some(parent) = directory.parent() {
        state::private_directory(parent)?;
    }
    state::private_directory(directory)
}

fn lock(directory: &Path) -> Result<Flock<std::fs::File>> {
    let file = state::open_private(&directory.join("lock"))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).context("lock the managed network")
}

fn tell_what_was_made(bridge: &Bridge) {
    let mut made = format!("made bridge `{}`, {}", network::BRIDGE, bridge.gateway);
    if !bridge.opened.is_empty() {
        made.push_str(&format!(
            "; turned on IPv4 forwarding of {} for its containers only",
            bridge.opened.iter().map(|link| format!("`{link}`")).collect::<Vec<_>>().join(", ")
        ));
    }
    crate::error::note(&made);
}
