//! The published ports of containers in the table: added if nobody has them, and taken back.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use nix::libc;

use super::conntrack;
use super::foreign::change::ours;
use super::hub;
use super::nft;
use super::publish::{self, Port};
use super::rtnl::Rtnl;
use super::table::{Change, Element};
use crate::state::{self, Record, State};

/// What of the table is of these ports.
pub fn elements_of(ports: &[Port], id: &str) -> Vec<Element> {
    ports.iter().flat_map(|port| port.elements(&format!("minirun:{id}"))).collect()
}

/// Sees to it that nobody has these elements: what a killed container left is swept.
pub fn free(ports: &[Port], elements: &[Element], state: &Path) -> Result<()> {
    let there = || -> Result<bool> {
        // As many as the kernel's answers fit into a socket.
        for some in elements.chunks(64) {
            if nft::table(some)?.is_some_and(|(_, there)| there.contains(&true)) {
                return Ok(true);
            }
        }
        Ok(false)
    };
    if !there()? {
        return Ok(());
    }
    State::open(state)?.list()?;
    if there()? {
        let port = &ports[0];
        return Err(publish::in_use(SocketAddr::new(port.address, port.host), port.protocol, state));
    }
    Ok(())
}

/// Takes back the published ports of a container that nobody holds any more.
pub fn withdraw(record: &Record) -> Result<()> {
    // Of another boot, or in another network namespace, they are not there, or are another's.
    if record.ports.is_empty() || record.boot != state::boot_id() || record.hub != Some(hub::number(&Rtnl::open()?)?) {
        return Ok(());
    }
    delete(None, elements_of(&record.ports, &record.id).into_iter().map(Change::DeleteElement).collect())?;
    conntrack::forget(&record.ports)
}

/// Deletes elements of the table, those that are there. In the order in which they were added: the kernel looks for each from the
/// first one on, and ten thousand that go the other way round take it a minute instead of two seconds.
/// `directory` is the hub's.
pub fn delete(directory: Option<&Path>, changes: Vec<Change>) -> Result<()> {
    let all = || nft::commit(&changes.iter().collect::<Vec<_>>());
    if changes.is_empty() || directory.map_or_else(all, |directory| ours(directory, all)).is_ok() {
        return Ok(());
    }
    // Not all of them are there: somebody has taken the table away, or they were not all made.
    for change in changes {
        match nft::commit(&[&change]) {
            Err(refused) if refused.errno != libc::ENOENT => {
                return Err(refused.error.context("take back a published port"));
            }
            _ => {}
        }
    }
    Ok(())
}
