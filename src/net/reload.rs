//! What is to be is compared with what is (`network verify`), and mended where it is not so (`network reload`).

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use super::apply::Applier;
use super::change::{change_inside, finish, in_namespace};
use super::definition::{Definition, Definitions};
use super::difference::Difference;
use super::hub;
use super::intent::{Intent, Member, settings};
use super::look::lock;
use super::mode::DEFAULT;
use super::network::Ground;
use super::opened::remember_opened;
use super::rtnl::Rtnl;
use super::seen::Seen;
use super::step::{Place, Step};
use super::table::Change;
use super::verify::{Kernel, differences, unheard};
use crate::state::ended_within;

/// What came of a comparison.
#[derive(Debug, Default)]
pub struct Report {
    /// How many networks were looked at.
    pub networks: usize,
    /// How many containers.
    pub containers: usize,
    /// What is not as it should be, with the first process of the container that it is of.
    pub differences: Vec<(Option<i32>, Difference)>,
    /// The host's settings that are turned on by mending it.
    ground: Ground,
    /// The first processes of the containers.
    processes: Vec<(i32, OwnedFd)>,
}

/// Where one looks.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// The state directory.
    pub root: &'a Path,
    /// Where the networks are defined.
    pub data_root: &'a Path,
    /// Names of networks; none is all.
    pub names: &'a [String],
}

impl Scope<'_> {
    /// Compares. What differs is looked at a second time, a moment later: a container that starts or ends meanwhile is not
    /// as it should be for a moment, and rules that somebody flushes come back by themselves.
    ///
    /// Errors: a network that is not there.
    pub fn verify(&self) -> Result<Report> {
        let mut report = self.look_in_turn(FlockArg::LockShared)?;
        for _ in 0..2 {
            if report.differences.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            let again = self.look_in_turn(FlockArg::LockShared)?;
            let (networks, containers) = (again.networks, again.containers);
            report.differences.retain(|one| again.differences.contains(one));
            report = Report { networks, containers, ..report };
        }
        Ok(report)
    }

    /// Mends what differs, and compares again. What was mended, and what differs still.
    pub fn reload(&self) -> Result<(Report, Report)> {
        for name in self.names {
            self.check(name)?;
        }
        // What is not as it should be for a moment only is not touched.
        let lasting = self.verify()?;
        if lasting.differences.is_empty() {
            return Ok((lasting, Report::default()));
        }
        let mut rtnl = Rtnl::open()?;
        let turn = self.turn(&rtnl, FlockArg::LockExclusive)?;
        let mut before = self.look(&mut rtnl)?;
        before.differences.retain(|one| lasting.differences.contains(one));
        let directory = hub::directory(&rtnl)?;
        mend(&mut rtnl, &directory, &before)?;
        drop(turn);
        let after = self.verify()?;
        Ok((before, after))
    }

    fn turn(&self, rtnl: &Rtnl, how: FlockArg) -> Result<Option<Flock<std::fs::File>>> {
        let directory = hub::directory(rtnl)?;
        // Where it is not there nothing was ever made, and nothing is made now.
        if directory.exists() { lock(&directory, how).map(Some) } else { Ok(None) }
    }

    fn look_in_turn(&self, how: FlockArg) -> Result<Report> {
        for name in self.names {
            self.check(name)?;
        }
        let mut rtnl = Rtnl::open()?;
        let _turn = self.turn(&rtnl, how)?;
        self.look(&mut rtnl)
    }

    fn check(&self, name: &str) -> Result<()> {
        if name != DEFAULT {
            Definitions::open(self.data_root).find(name)?;
        }
        Ok(())
    }

    fn look(&self, rtnl: &mut Rtnl) -> Result<Report> {
        let intent = Intent::look(rtnl, self.root, self.data_root)?;
        let wanted = |name: &str| self.names.is_empty() || self.names.iter().any(|one| one == name);
        let networks: Vec<Definition> = intent.networks.iter().filter(|one| wanted(&one.name)).cloned().collect();
        let is_on = |member: &&Member| {
            self.names.is_empty() || member.found.record.interfaces.iter().any(|one| wanted(&one.network))
        };
        let members: Vec<&Member> = intent.containers.iter().filter(is_on).collect();
        let ground = if networks.is_empty() { Ground::default() } else { intent.ground(&networks) };
        let of_members = members.iter().flat_map(|member| settings(&member.steps, Place::Hub));
        let keys: Vec<&str> = settings(&ground.missing, Place::Hub).into_iter().chain(of_members).collect();
        let hub = Seen::here(&keys)?;
        let table = intent.table();
        let kernel = Kernel { hub: &hub, inside: None, table: &table, foreign: &[], plugged: &intent.plugged };
        let of_ground = differences(&ground.missing, kernel, &|step| intent.owner_of(step));
        let is_foreign =
            |network: &&Definition| of_ground.iter().any(|one| one.subject == network.name && one.is_foreign());
        let foreign: Vec<String> = networks.iter().filter(is_foreign).map(|one| one.link.clone()).collect();
        let kernel = Kernel { foreign: &foreign, ..kernel };
        let mut found: Vec<(Option<i32>, Difference)> = of_ground.into_iter().map(|one| (None, one)).collect();
        for (container, network) in &intent.undefined {
            let what = format!("network {network}: not defined any more");
            let remedy = Some(format!("`minirun network disconnect {network} {container}`"));
            found.push((None, Difference { subject: container.clone(), what, steps: vec![], remedy }));
        }
        let mut processes = Vec::new();
        for member in &members {
            let Some(process) = member.found.record.process() else { continue };
            match member.compare(kernel) {
                // Its end makes all of it go, and takes a moment.
                Err(_) if ended_within(&process, 1000) => {}
                of_it => {
                    let all = of_it?.into_iter().chain(unheard(&member.found));
                    found.extend(all.map(|one| (Some(member.pid), one)));
                    processes.push((member.pid, process));
                }
            }
        }
        let (networks, containers) = (networks.len(), members.len());
        Ok(Report { networks, containers, differences: found, ground, processes })
    }
}

impl Member {
    fn compare(&self, kernel: Kernel<'_>) -> Result<Vec<Difference>> {
        let name = &self.found.record.name;
        let inside = Seen::inside(self.pid, &settings(&self.steps, Place::Container))
            .with_context(|| format!("look at the network of container `{name}`"))?;
        Ok(differences(&self.steps, Kernel { inside: Some(&inside), ..kernel }, &|_| name.clone()))
    }
}

/// Does the steps that mend: those of the ground first, because containers stand on it.
fn mend(rtnl: &mut Rtnl, directory: &Path, report: &Report) -> Result<()> {
    let steps_of = |pid: Option<i32>| -> Vec<Step> {
        let of_it = report.differences.iter().filter(|(other, _)| *other == pid);
        of_it.flat_map(|(_, difference)| difference.steps.iter().cloned()).collect()
    };
    let ground = steps_of(None);
    let opens =
        |key: &&String| ground.iter().any(|step| matches!(step, Step::Sysctl { key: other, .. } if other == *key));
    let opened = report.ground.opened.iter().filter(opens).cloned().collect();
    remember_opened(directory, &Ground { opened, missing: vec![], forgotten: report.ground.forgotten })?;
    let mut applier = Applier::new(rtnl, 0);
    applier.apply(&ground).context("mend the networks")?;
    applier.commit();
    let rebuilt = ground.contains(&Step::Nft(Change::AddTable));
    let mut pids: Vec<i32> = report.differences.iter().filter_map(|(pid, _)| *pid).collect();
    pids.dedup();
    let mut errors = Vec::new();
    for pid in pids {
        let mut steps = steps_of(Some(pid));
        // The new table has them.
        steps.retain(|step| !(rebuilt && matches!(step, Step::Nft(_))));
        let lives = |(other, process): &(i32, OwnedFd)| *other == pid && !ended_within(process, 0);
        if let Err(error) = mend_container(rtnl, pid, &steps)
            && report.processes.iter().any(lives)
        {
            errors.push(format!("{error:#}"));
        }
    }
    if errors.is_empty() { Ok(()) } else { bail!("{}", errors.join("; ")) }
}

fn mend_container(rtnl: &mut Rtnl, pid: i32, steps: &[Step]) -> Result<()> {
    let mut applier = Applier::new(rtnl, pid as u32);
    let socket = in_namespace(pid, || Ok(vec![Rtnl::open()?.into_fd()?]))?;
    let socket = socket.into_iter().next().context("open a socket in the container's network")?;
    applier.enter(Rtnl::from_fd(socket), vec![]);
    applier.apply(steps)?;
    applier.settle()?;
    let changes: Vec<Change> = steps
        .iter()
        .filter_map(|step| match step {
            Step::NftInside(change) => Some(change.clone()),
            _ => None,
        })
        .collect();
    change_inside(pid, &changes)?;
    finish(pid, steps)?;
    applier.commit();
    Ok(())
}
