//! A look at the managed networks of this host, before something is made or changed, and the lock that orders who does.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use nix::fcntl::{Flock, FlockArg};

use super::anchor;
use super::definition::{BRIDGE, Definition, Definitions};
use super::hub::{self, Taken, View};
use super::mode::{self, Attachment};
use super::network::{self, Bridge, Ground};
use super::opened;
use super::pool;
use super::rtnl::Rtnl;
use super::step::Step;
use super::table::{BRIDGES, link_in};
use super::vxlan;
use crate::state;

/// What networks are looked at.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// Which.
    pub attachments: &'a [Attachment],
    /// Where they are defined.
    pub data_root: &'a Path,
    /// The host's resolvers, which a range of addresses must not cover.
    pub resolvers: &'a [Ipv4Addr],
}

impl Look<'_> {
    /// What there is of them, and what is missing; `directory` is the hub's.
    pub fn at(&self, rtnl: &mut Rtnl, directory: &Path) -> Result<(View, Vec<Bridge>, Ground)> {
        let definitions = Definitions::open(self.data_root);
        let found = self
            .attachments
            .iter()
            .map(
                |wish| if wish.network == mode::DEFAULT { Ok(None) } else { definitions.find(&wish.network).map(Some) },
            )
            .collect::<Result<Vec<_>>>()?;
        let bridged = |definition: &&Option<Definition>| definition.as_ref().is_none_or(|one| one.driver.has_bridge());
        let links: Vec<&str> = found
            .iter()
            .filter(bridged)
            .map(|definition| definition.as_ref().map_or(BRIDGE, |definition| definition.link.as_str()))
            .collect();
        let elements: Vec<_> = links.iter().map(|link| link_in(&BRIDGES, link)).collect();
        let mut view = View::take(rtnl, &links, &elements)?;
        if view.ipv6 && found.iter().filter(bridged).flatten().any(|definition| definition.gateway6.is_some()) {
            view.look_at_ipv6(rtnl)?;
        }
        let mut bridges = Vec::new();
        for definition in found {
            let mut definition = match definition {
                Some(definition) => definition,
                None => Definition::default_network(default_gateway(rtnl, &view, self.resolvers, &definitions)?),
            };
            if !view.ipv6 {
                // A host without it loses nothing but it.
                definition.gateway6 = None;
            }
            bridges.push(Bridge::find(rtnl, &view, definition)?);
        }
        // Only where the table is made anew.
        let mut failed = Ok(());
        let others = || {
            let mut all = definitions.list().unwrap_or_else(|error| {
                failed = Err(error);
                vec![]
            });
            // One that cannot be told is mended by its own next container.
            all.extend(Bridge::default_network(rtnl).unwrap_or_default());
            all
        };
        let ground = network::ground(&view, &bridges, others, &opened::opened_before(directory));
        failed.map(|()| (view, bridges, ground))
    }
}

pub(super) fn default_gateway(
    rtnl: &mut Rtnl,
    view: &View,
    resolvers: &[Ipv4Addr],
    definitions: &Definitions,
) -> Result<Ipv4Net> {
    match Bridge::gateway_of_default(rtnl, view)? {
        Some(gateway) => Ok(gateway),
        None => pool::for_default_network(&taken(rtnl, resolvers, &definitions.list()?)?),
    }
}

/// The ranges that are in use on the host, and by networks whose bridges are not made.
pub fn taken(rtnl: &mut Rtnl, resolvers: &[Ipv4Addr], definitions: &[Definition]) -> Result<Vec<Taken>> {
    let mut taken = hub::taken(rtnl, resolvers)?;
    taken.extend(
        definitions.iter().map(|one| Taken { range: one.gateway.trunc(), holder: format!("network `{}`", one.name) }),
    );
    Ok(taken)
}

fn make_directory(directory: &Path) -> Result<()> {
    if let Some(parent) = directory.parent() {
        state::private_directory(parent)?;
    }
    state::private_directory(directory)?;
    anchor::make_fifo(&directory.join(anchor::FIFO))
}

/// Waits for one's turn: shared by all that attach containers, alone for who makes or takes away.
pub fn lock(directory: &Path, how: FlockArg) -> Result<Flock<File>> {
    let path = directory.join("lock");
    // Only the first command in a hub finds its directory missing.
    let file = match state::open_private(&path) {
        Err(_) if !directory.exists() => make_directory(directory).and_then(|()| state::open_private(&path)),
        file => file,
    };
    Flock::lock(file?, how).map_err(|(_, error)| error).context("lock the managed networks")
}

/// Says what was made of bridges, and what was turned on for them.
pub fn tell_what_was_made(bridges: &[Bridge], ground: &Ground) {
    let made = |steps: &[Step], link: &str| {
        steps.iter().any(|step| matches!(step, Step::AddBridge { name, .. } if name == link))
    };
    let mut parts: Vec<String> = Vec::new();
    for Bridge { definition, .. } in bridges {
        if made(&ground.missing, &definition.link) {
            parts.push(format!("made bridge `{}`, {}", definition.link, definition.gateway));
        }
        parts.extend(ground.missing.iter().find_map(|step| match step {
            Step::AddVxlan { name, tunnel, .. } if *name == vxlan::link_of(definition) => {
                Some(format!("made tunnel `{name}` of number {} at UDP port {}", tunnel.vni, tunnel.port))
            }
            _ => None,
        }));
    }
    if parts.is_empty() {
        let bridged = bridges.iter().filter(|bridge| bridge.definition.driver.has_bridge());
        let links: Vec<String> = bridged.map(|bridge| format!("`{}`", bridge.definition.link)).collect();
        parts.push(format!("mended bridge {}", links.join(", ")));
    }
    for (version, begin) in [("IPv4", "net/ipv4/conf/"), ("IPv6", "net/ipv6/conf/")] {
        let links: Vec<String> = ground
            .opened
            .iter()
            .filter_map(|key| key.strip_prefix(begin)?.split('/').next())
            .map(|link| if link == "all" { "all links".to_owned() } else { format!("`{link}`") })
            .collect();
        if !links.is_empty() {
            parts.push(format!("turned on {version} forwarding of {} for its containers only", links.join(", ")));
        }
    }
    crate::error::note(&parts.join("; "));
}
