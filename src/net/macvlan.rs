//! macvlan: a container as a machine of the LAN. Its interface is a link of its own on one of the host's, the parent, born in
//! the container's namespace; addresses, routes and names of the LAN are the LAN's, and the host takes no part: no bridge, no
//! NAT, no rule. The kernel passes nothing between the parent itself and the links on it, so the host and such a container
//! do not reach each other.
//!
//! Used by `network.rs`, which asks each network's driver.

use anyhow::{Result, bail};

use super::Interface;
use super::definition::Definition;
use super::driver::{configure, settings};
use super::guard::Guard;
use super::hub::{self, View};
use super::mode::Attachment;
use super::network::Bridge;
use super::program::{Direction, Filter};
use super::rtnl::Rtnl;
use super::step::{MACVLAN_MODES, Place, Step};
use crate::error::refused;

/// The mode where none is asked for: members of one parent reach each other.
pub const MODE: &str = "bridge";

/// Checks an option of such a network. What it is called in a definition: docker says `macvlan_mode`.
pub fn check_option(key: &str, value: &str) -> Result<&'static str> {
    match key {
        "parent" => super::mode::link_name(value).map(|_| "parent"),
        "mode" | "macvlan_mode" if MACVLAN_MODES.contains(&value) => Ok("mode"),
        "mode" | "macvlan_mode" => bail!("{} are known", MACVLAN_MODES.join(", ")),
        _ => Err(refused("there is no such option", "known of driver macvlan are parent and mode")),
    }
}

/// The mode of a network's links, one of [`MACVLAN_MODES`].
pub fn mode(definition: &Definition) -> &'static str {
    let asked = definition.options.get("mode").map_or(MODE, String::as_str);
    MACVLAN_MODES.into_iter().find(|mode| *mode == asked).unwrap_or(MODE)
}

/// Looks at the parent.
///
/// Errors: it is not there, or it can have no such links.
pub fn find(rtnl: &mut Rtnl, mut definition: Definition) -> Result<Bridge> {
    let parent = &definition.link;
    let failed = || format!("use network `{}`: its parent `{parent}`", definition.name);
    let Some(message) = rtnl.link_called(parent)? else {
        let remedy = match parent.rsplit_once('.') {
            Some((link, tag)) if tag.parse::<u16>().is_ok() => {
                format!(
                    "minirun makes no VLANs: `ip link add link {link} name {parent} type vlan id {tag}`, then again"
                )
            }
            _ => "see `ip link`; `minirun network create` takes another one: --opt parent=LINK".to_owned(),
        };
        return Err(refused(format!("{} is no link of this host", failed()), remedy));
    };
    let link = hub::link(&message);
    if link.loopback || !link.ethernet {
        let remedy = "it must have hardware addresses: a network card, a bridge, a veth, a bond";
        return Err(refused(format!("{} is none that others can be on", failed()), remedy));
    }
    if let Some(index) = link.master {
        let master = rtnl.link(index)?.map_or_else(String::new, |message| hub::link(&message).name);
        return Err(refused(
            format!("{} is a port of `{master}`, which takes all that comes in", failed()),
            format!("use that one as the parent: --opt parent={master}"),
        ));
    }
    if !link.up {
        return Err(refused(format!("{} is down", failed()), format!("`ip link set {parent} up`")));
    }
    // The LAN has the host on it too: its addresses are nobody else's.
    definition.kept = hub::addresses_of(rtnl, link.index)?;
    Ok(Bridge { link: Some(link), ..Bridge::unmade(definition) })
}

/// What an interface there cannot have.
pub fn check(bridge: &Bridge, wish: &Attachment) -> Result<()> {
    let Bridge { definition, link: Some(parent), .. } = bridge else { return Ok(()) };
    if let Some(mtu) = wish.mtu.or(definition.mtu).filter(|mtu| *mtu > parent.mtu) {
        bail!(
            "use network `{}`: mtu {mtu} is more than its parent `{}` has: {}",
            definition.name,
            parent.name,
            parent.mtu
        );
    }
    if mode(definition) == "passthru" && wish.mac.is_some() {
        return Err(refused(
            format!("use network `{}`: mac= cannot be had in mode passthru", definition.name),
            format!("leave it out: the container has the hardware address of `{}` itself", parent.name),
        ));
    }
    Ok(())
}

/// The steps that give a container its link.
pub fn attach(bridge: &Bridge, view: &View, interface: &Interface) -> Vec<Step> {
    let mut steps = vec![Step::AddMacvlan {
        parent: bridge.definition.link.clone(),
        mode: mode(&bridge.definition),
        name: interface.name.clone(),
        mac: interface.mac,
        mtu: interface.mtu,
        index: interface.index,
    }];
    if bridge.definition.internal {
        // On a LAN nothing is published, and who is behind its router is let in like the rest of it, but here. Before it is up.
        let guard = Filter::Guard(Guard::of(&bridge.definition));
        steps.extend(guard.at(Place::Container, &interface.name, Direction::In));
    }
    steps.extend(configure(view, &bridge.definition, interface));
    steps.extend(settings(view, interface));
    steps
}
