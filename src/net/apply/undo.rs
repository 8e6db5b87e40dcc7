//! Steps taken back: the other half of its parent. What goes by itself with its link, its namespace or its table is left to that.

use anyhow::{Context, Result, bail};
use nix::libc;
use std::io;

use super::super::nft;
use super::super::rtnl;
use super::super::step::{Place, Step};
use super::super::table::{Change, GUARDED};
use super::{Applier, set_sysctl};

impl Applier<'_> {
    /// Undoes steps, last first. Goes on after an error and tells all; what is not there any more is no error.
    pub fn undo(&mut self, steps: &[Step]) -> Result<()> {
        // The guards of links that are forwarded may be older than these steps; they go with the table.
        let is_guard = |step: &&Step| matches!(step, Step::Nft(Change::AddElement(one)) if *one.set == GUARDED);
        let mut rest: Vec<&Step> = steps.iter().rev().filter(|step| !is_guard(step)).collect();
        // All elements at once: each transaction that deletes something takes its time. The first one first: the kernel looks for
        // each from there on, and ten thousand that go the other way round take it a minute.
        let elements: Vec<&Step> =
            rest.iter().rev().copied().filter(|step| matches!(step, Step::Nft(Change::AddElement(_)))).collect();
        if delete_elements(&elements) {
            rest.retain(|step| !matches!(step, Step::Nft(Change::AddElement(_))));
        }
        let errors: Vec<String> =
            rest.iter().filter_map(|step| self.undo_one(step).err()).map(|error| format!("{error:#}")).collect();
        if errors.is_empty() { Ok(()) } else { bail!("{}", errors.join("; ")) }
    }

    fn undo_one(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::AddBridge { name, .. } | Step::AddVxlan { name, .. } | Step::AddVeth { host: name, .. } => {
                let Some(index) = self.hub.index_of(name)? else { return Ok(()) };
                match self.hub.batch(vec![rtnl::delete_link(index)]) {
                    Err(refused) if refused.errno != libc::ENODEV => {
                        Err(refused.error.context(format!("delete link `{name}`")))
                    }
                    _ => Ok(()),
                }
            }
            Step::Nft(Change::AddTable) => match nft::commit(&[&Change::DeleteTable]) {
                Err(refused) if refused.errno != libc::ENOENT => {
                    Err(refused.error.context("delete table `inet minirun`"))
                }
                _ => Ok(()),
            },
            Step::Nft(Change::AddElement(element)) => match nft::commit(&[&Change::DeleteElement(element.clone())]) {
                Err(refused) if refused.errno != libc::ENOENT => {
                    Err(refused.error.context(format!("delete an element of nftables set `{}`", element.set.name)))
                }
                _ => Ok(()),
            },
            Step::Sysctl { place: Place::Hub, key, value } if value == "1" => {
                match set_sysctl(key, "0") {
                    // The link that the setting was of has gone, and the setting with it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    other => other.with_context(|| format!("set `{key}` to 0")),
                }
            }
            Step::Lend { device, .. } => match &mut self.container {
                Some(inside) => device.give_back(inside, self.hub),
                None => Ok(()),
            },
            // Addresses, routes, ports, rates and states go with their links, sets and rules with their table.
            _ => Ok(()),
        }
    }
}

impl Drop for Applier<'_> {
    fn drop(&mut self) {
        let done = std::mem::take(&mut self.done);
        if let Err(error) = self.undo(&done) {
            crate::error::warn(&format!("undo the network: {error:#}"));
        }
    }
}

/// Deletes the elements that these steps added. False where one of them could not be: then none was.
fn delete_elements(steps: &[&Step]) -> bool {
    let delete = |step: &&Step| match step {
        Step::Nft(Change::AddElement(element)) => Some(Change::DeleteElement(element.clone())),
        _ => None,
    };
    let changes: Vec<Change> = steps.iter().filter_map(delete).collect();
    changes.is_empty() || nft::commit(&changes.iter().collect::<Vec<_>>()).is_ok()
}
