//! The networking modes: one enum, one match.
//!
//! [`Network::decide`] looks at the kernel, takes an address and lists the steps, all of it before anything is changed;
//! [`Network::prepare`] makes the bridge where it is missing; [`Network::attach`] does the container's steps. `launch.rs`
//! calls them in this order.

pub mod apply;
pub mod dns;
pub mod explain;
pub mod hub;
pub mod ipam;
pub mod names;
pub mod network;
pub mod nft;
pub mod rtnl;
pub mod step;
pub mod table;
pub mod wire;

use std::fmt;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use self::apply::Applier;
use self::hub::View;
use self::ipam::Lease;
use self::network::Bridge;
use self::rtnl::Rtnl;
use self::step::{Place, Step};
use crate::state;

/// What `--net` can be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    bridge: Bridge,
    directory: PathBuf,
    turn: Option<Flock<File>>,
    _lease: Lease,
}

impl Network {
    /// Decides the network of container `id` and takes its address, by a lock that the kernel gives back. Changes nothing
    /// in the kernel's network; with `dry`, nothing at all. `resolvers` are addresses that a pool must not cover.
    pub fn decide(
        mode: Mode,
        id: &str,
        sysctls: &[(String, String)],
        resolvers: &[Ipv4Addr],
        dry: bool,
    ) -> Result<Self> {
        let mut network = match mode {
            Mode::None => {
                let steps = vec![Step::SetUp { place: Place::Container, link: "lo".into() }];
                Self { mode, address: None, host_steps: vec![], steps, hub: None }
            }
            Mode::Host => Self { mode, address: None, host_steps: vec![], steps: vec![], hub: None },
            Mode::Bridge => Self::decide_bridge(id, resolvers, dry)?,
        };
        if mode != Mode::Host {
            // Before those that were asked for, which may say otherwise.
            network.steps.push(inside("net/ipv4/ping_group_range", "0 2147483647"));
            network.steps.push(inside("net/ipv4/ip_unprivileged_port_start", "0"));
        }
        network.steps.extend(sysctls.iter().map(|(key, value)| inside(key, value)));
        Ok(network)
    }

    fn decide_bridge(id: &str, resolvers: &[Ipv4Addr], dry: bool) -> Result<Self> {
        let mut rtnl = Rtnl::open()?;
        let directory = hub::directory(&rtnl)?;
        // Shared by all that attach containers, so that nobody takes the bridge away meanwhile.
        let turn = if dry { None } else { Some(lock(&directory, FlockArg::LockShared)?) };
        let mut view = View::take(&mut rtnl)?;
        let mut bridge = Bridge::find(&mut rtnl, &view, resolvers, &directory)?;
        if let Some(turn) = turn.as_ref().filter(|_| !bridge.missing.is_empty()) {
            // Alone, until it is made; and another look, because another command may have made it a moment ago.
            turn.relock(FlockArg::LockExclusive).context("lock the managed network")?;
            view = View::take(&mut rtnl)?;
            bridge = Bridge::find(&mut rtnl, &view, resolvers, &directory)?;
        }
        let pool = bridge.gateway.trunc();
        let lease = if dry { ipam::peek(&directory, pool) } else { ipam::lease(&directory, pool)? };
        let steps = bridge.attach(&view, id, "eth0", lease.address);
        let address = Some((lease.address, bridge.gateway.addr()));
        let host_steps = bridge.missing.clone();
        let hub = Hub { rtnl, view, bridge, directory, turn, _lease: lease };
        Ok(Self { mode: Mode::Bridge, address, host_steps, steps, hub: Some(hub) })
    }

    /// Makes what is missing of the managed bridge, alone, and then lets others attach.
    pub fn prepare(&mut self) -> Result<()> {
        let Some(hub) = &mut self.hub else { return Ok(()) };
        if !self.host_steps.is_empty() {
            network::remember_opened(&hub.directory, &hub.bridge)?;
            let mut applier = Applier::new(&mut hub.rtnl, 0);
            applier.apply(&self.host_steps)?;
            applier.commit();
            tell_what_was_made(&hub.bridge);
            hub.view = View::take(&mut hub.rtnl)?;
        }
        let shared = hub.turn.as_ref().map_or(Ok(()), |turn| turn.relock(FlockArg::LockShared));
        shared.context("unlock the managed network")
    }

    /// Does the container's steps: those in the hub for the namespace of process `pid`, then those in that namespace by the
    /// socket that `enter` brings. After an error everything is undone.
    pub fn attach(&mut self, pid: u32, enter: impl FnOnce() -> Result<Rtnl>) -> Result<()> {
        if self.mode == Mode::Host {
            return Ok(());
        }
        let Some(hub) = self.hub.as_mut() else {
            // Nothing to do in the hub: the container's own socket will do.
            let mut rtnl = enter()?;
            return rtnl.batch(vec![rtnl::set_up("lo")]).map_err(|refused| refused.error.context("set link `lo` up"));
        };
        let mut applier = Applier::new(&mut hub.rtnl, pid);
        if let Some(bridge) = hub.view.link(network::BRIDGE) {
            applier.know(network::BRIDGE, bridge.index);
        }
        let first_inside = self.steps.iter().position(|step| step.place() == Place::Container);
        let (before, rest) = self.steps.split_at(first_inside.unwrap_or(self.steps.len()));
        applier.apply(before)?;
        applier.enter(enter()?);
        applier.apply(rest)?;
        applier.settle(network::BRIDGE)?;
        applier.commit();
        hub.turn = None;
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

/// Takes the managed bridge, its table and the forwarding that came with it off the host, unless a container is on it:
/// the kernel knows, whoever started it. Whether there was anything to take away.
pub fn take_down() -> Result<bool> {
    let mut rtnl = Rtnl::open()?;
    let directory = hub::directory(&rtnl)?;
    let _turn = lock(&directory, FlockArg::LockExclusive)?;
    let view = View::take(&mut rtnl)?;
    if let Some(bridge) = view.link(network::BRIDGE) {
        // The kernel takes the link of a container that has ended away a moment later.
        let mut ports = rtnl.count_ports(bridge.index)?;
        for _ in 0..20 {
            if ports == 0 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
            ports = rtnl.count_ports(bridge.index)?;
        }
        if ports > 0 {
            bail!("remove bridge `{}`: {ports} containers are on it", network::BRIDGE);
        }
    }
    let steps = network::made(&view, &directory);
    Applier::new(&mut rtnl, 0).undo(&steps)?;
    // The lock and the leases stay: others may be waiting for the one and hold the other.
    let _ = std::fs::remove_file(directory.join("opened"));
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

fn lock(directory: &Path, how: FlockArg) -> Result<Flock<File>> {
    let path = directory.join("lock");
    // Only the first command in a hub finds its directory missing.
    let file = match state::open_private(&path) {
        Err(_) if !directory.exists() => make_directory(directory).and_then(|()| state::open_private(&path)),
        file => file,
    };
    Flock::lock(file?, how).map_err(|(_, error)| error).context("lock the managed network")
}

fn tell_what_was_made(bridge: &Bridge) {
    let new = bridge.missing.iter().any(|step| matches!(step, Step::AddBridge { .. }));
    let mut made = format!("{} bridge `{}`, {}", if new { "made" } else { "mended" }, network::BRIDGE, bridge.gateway);
    if !bridge.opened.is_empty() {
        made.push_str(&format!(
            "; turned on IPv4 forwarding of {} for its containers only",
            bridge.opened.iter().map(|link| format!("`{link}`")).collect::<Vec<_>>().join(", ")
        ));
    }
    crate::error::note(&made);
}
