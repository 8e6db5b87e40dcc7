//! `minirun system`: what minirun keeps on this host.

use std::path::Path;

use anyhow::Result;

use crate::cli::{SystemArgs, SystemVerb};
use crate::error::note;
use crate::net;
use crate::state::State;

/// Looks after it.
pub fn system(args: &SystemArgs, root: &Path, data_root: &Path) -> Result<()> {
    match args.verb {
        SystemVerb::Prune => prune(root, data_root),
    }
}

fn prune(root: &Path, data_root: &Path) -> Result<()> {
    // Sweeps what killed ones left.
    State::open(root)?.list()?;
    match net::removal::take_down(data_root)?.as_deref() {
        None => note("there is nothing to remove"),
        Some([]) => note("removed the table and its forwarding"),
        Some(links) => {
            let several = if links.len() > 1 { "s" } else { "" };
            let their = if links.len() > 1 { "their" } else { "its" };
            note(&format!("removed bridge{several} `{}`, {their} table and {their} forwarding", links.join("`, `")));
        }
    }
    Ok(())
}
