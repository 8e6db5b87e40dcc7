//! Checks of other programs' rules. One obstacle is told once, by the hook at which it stands.

use anyhow::Result;

use super::{Severity, Sight, Trouble};
use crate::net::foreign::Obstacle;
use crate::net::foreign::packet::Way;

/// What stands at a hook; only in the way of packets between containers where `between`.
fn at(sight: &mut Sight, hooks: &[&str], between: bool, worst: Severity) -> Result<Vec<Trouble>> {
    let alone = |one: &Obstacle| one.ways == [Way::Between];
    let all = sight.obstacles()?;
    let told = all.iter().filter(|one| hooks.contains(&one.hook) && alone(one) == between);
    Ok(told.map(|one| trouble(one, worst)).collect())
}

fn trouble(one: &Obstacle, worst: Severity) -> Trouble {
    let message = format!("{}: {} {}", one.place(), one.rule(), one.what());
    let severity = if one.dropper.doubt { Severity::Warning } else { worst };
    // Where a rule stands in another program's table is for its list to show.
    let list = if one.legacy {
        let program = if one.family == "ip6" { "ip6tables-legacy" } else { "iptables-legacy" };
        format!("{program} -t {} -L {} -v --line-numbers", one.table, one.dropper.chain)
    } else {
        format!("nft -a list chain {} {} {}", one.family, one.table, one.dropper.chain)
    };
    match &one.remedy {
        Some(remedy) => Trouble { severity, message, fix: Some(remedy.clone()) },
        None => Trouble { severity, message: format!("{message} (see it by `{list}`)"), fix: None },
    }
}

pub fn forward(sight: &mut Sight) -> Result<Vec<Trouble>> {
    at(sight, &["prerouting", "forward", "postrouting"], false, Severity::Error)
}

/// Only where a bridge asks the rules of IP (`br_netfilter`).
pub fn between(sight: &mut Sight) -> Result<Vec<Trouble>> {
    at(sight, &["prerouting", "forward", "postrouting"], true, Severity::Error)
}

/// A firewall may well be meant to guard the host from its containers.
pub fn input(sight: &mut Sight) -> Result<Vec<Trouble>> {
    at(sight, &["input"], false, Severity::Warning)
}

pub fn output(sight: &mut Sight) -> Result<Vec<Trouble>> {
    at(sight, &["output"], false, Severity::Warning)
}
