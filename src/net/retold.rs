//! What was done for a container that runs, or for a network, told again: `explain` and `network explain`.
//!
//! The steps are derived from definitions and records as `network verify` derives them (`intent.rs`), as if nothing were made yet, so
//! that they build the same on a host that has nothing. What differs from them is told beside them.

use std::path::Path;

use anyhow::Result;
use nix::fcntl::FlockArg;

use super::Interface;
use super::definition::{Definition, Definitions};
use super::hub;
use super::intent::Intent;
use super::look::lock;
use super::mode::{Attachment, DEFAULT, Mode};
use super::opened::opened_before;
use super::port::Port;
use super::reload::Scope;
use super::rtnl::Rtnl;
use super::step::{Place, Step};
use crate::error::refused;
use crate::state::{Found, Record};

/// Steps, and what of the kernel is not as they made it.
#[derive(Debug)]
pub struct Retold {
    /// What `--net` said.
    pub mode: Mode,
    /// Steps that make the managed networks.
    pub host_steps: Vec<Step>,
    /// Steps that make the container's part.
    pub steps: Vec<Step>,
    /// Its published ports.
    pub ports: Vec<Port>,
    /// What differs, a line each.
    pub differences: Vec<String>,
}

/// The network of a container that runs.
pub fn container(found: &Found, root: &Path, data_root: &Path) -> Result<Retold> {
    let record = &found.record;
    if record.pid.is_none() || !found.status.lives() {
        return Err(refused(
            format!("explain container `{}`: it does not run", record.name),
            "`minirun run --dry-run` prints what would be done for one",
        ));
    }
    if let Some(mode) = joined(record) {
        return Ok(Retold { mode, host_steps: vec![], steps: vec![], ports: vec![], differences: vec![] });
    }
    let mut rtnl = Rtnl::open()?;
    let directory = hub::directory(&rtnl)?;
    let _turn = directory.exists().then(|| lock(&directory, FlockArg::LockShared)).transpose()?;
    let intent = Intent::look(&mut rtnl, root, data_root)?;
    let member = intent.containers.iter().find(|member| member.found.record.id == record.id);
    let Some(member) = member else {
        return Err(refused(
            format!("explain container `{}`: its network was made in another namespace", record.name),
            "ask where it was started",
        ));
    };
    let is_on = |name: &str| record.interfaces.iter().any(|interface| interface.network == name);
    let networks: Vec<_> = intent.networks.iter().filter(|one| is_on(&one.name)).cloned().collect();
    let mut steps = member.steps.clone();
    for setting in loopback_settings(record, &networks) {
        // Before the ports, as at the start; where it is made it is not among the steps.
        let at = steps.iter().position(|step| matches!(step, Step::Nft(_))).unwrap_or(steps.len());
        steps.retain(|step| *step != setting);
        steps.insert(at.min(steps.len()), setting);
    }
    let attachments: Vec<_> = networks.iter().map(|network| Attachment::on(&network.name)).collect();
    let names: Vec<String> = networks.iter().map(|one| one.name.clone()).collect();
    let mut differences = differences(root, data_root, &names)?;
    // Without a network all of them were looked at.
    differences.retain(|(subject, _)| !names.is_empty() || *subject == record.name);
    Ok(Retold {
        mode: if attachments.is_empty() { Mode::None } else { Mode::Networks(attachments) },
        host_steps: intent.anew(&networks, &opened_before(&directory), &record.lent),
        steps,
        ports: record.ports.clone(),
        differences: differences.iter().map(line).collect(),
    })
}

/// A network by itself.
pub fn network(name: &str, root: &Path, data_root: &Path) -> Result<Retold> {
    let mut rtnl = Rtnl::open()?;
    let directory = hub::directory(&rtnl)?;
    let _turn = directory.exists().then(|| lock(&directory, FlockArg::LockShared)).transpose()?;
    let intent = Intent::look(&mut rtnl, root, data_root)?;
    let network = match intent.networks.iter().find(|one| one.name == name) {
        Some(network) => network.clone(),
        None if name == DEFAULT => {
            return Err(refused(
                format!("explain network `{name}`: its bridge is not made yet"),
                "`minirun run --dry-run` prints what the first container makes",
            ));
        }
        None => Definitions::open(data_root).find(name)?,
    };
    let host_steps = intent.anew(std::slice::from_ref(&network), &opened_before(&directory), &[]);
    let mode = Mode::Networks(vec![Attachment::on(name)]);
    let is_made = intent.networks.contains(&network);
    let differences = if is_made { differences(root, data_root, &[name.to_owned()])? } else { vec![] };
    let (steps, ports) = (vec![], vec![]);
    Ok(Retold { mode, host_steps, steps, ports, differences: differences.iter().map(line).collect() })
}

fn line((subject, what): &(String, String)) -> String {
    format!("{subject}: {what}")
}

/// What lets ports that are published on 127.0.0.1 pass, on the networks that they lead to.
fn loopback_settings(record: &Record, networks: &[Definition]) -> Vec<Step> {
    let leads_to = |interface: &&Interface| {
        let local = || record.ports.iter().filter(|port| port.is_local());
        interface.addresses().any(|address| local().any(|port| port.target == address))
    };
    let link = |interface: &Interface| {
        networks.iter().find(|network| network.name == interface.network).map(|network| network.link.clone())
    };
    let setting = |link: String| Step::Sysctl {
        place: Place::Hub,
        key: format!("net/ipv4/conf/{link}/route_localnet"),
        value: "1".into(),
    };
    record.interfaces.iter().filter(leads_to).filter_map(link).map(setting).collect()
}

/// What differs of these networks and their members.
fn differences(root: &Path, data_root: &Path, names: &[String]) -> Result<Vec<(String, String)>> {
    let report = Scope { root, data_root, names }.verify()?;
    Ok(report.differences.into_iter().map(|(_, one)| (one.subject, one.what)).collect())
}

/// The namespace that a container is in, where that was there before it.
pub fn joined(record: &Record) -> Option<Mode> {
    Some(match record.network.split_once(':') {
        None if record.network == "host" => Mode::Host,
        Some(("container", name)) => Mode::Container(name.to_owned()),
        Some(("ns", path)) => Mode::Namespace(path.into()),
        _ => return None,
    })
}
