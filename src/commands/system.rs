//! `minirun system`: what minirun keeps on this host.

use std::path::Path;

use anyhow::{Result, bail};

use crate::cli::{SystemArgs, SystemVerb};
use crate::error::note;
use crate::net::{self, network::BRIDGE};
use crate::state::State;

/// Looks after it.
pub fn system(args: &SystemArgs, root: &Path) -> Result<()> {
    match args.verb {
        SystemVerb::Prune => prune(root),
    }
}

fn prune(root: &Path) -> Result<()> {
    let alive = State::open(root)?.list()?.into_iter().filter(|record| record.network == "bridge").count();
    if alive > 0 {
        bail!("remove bridge `{BRIDGE}`: {alive} containers are on it");
    }
    if net::take_down()? {
        note(&format!("removed bridge `{BRIDGE}`, its table and its forwarding"));
    } else {
        note("there is nothing to remove");
    }
    Ok(())
}
