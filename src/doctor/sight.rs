//! What the checks share: one look at the networks, the containers and the firewall, none of which is changed by it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};

use super::probe::{self, Probed};
use crate::net::definition::{Definition, Definitions};
use crate::net::foreign::{Firewall, Obstacle, places_of};
use crate::net::hub::{self, Taken, View};
use crate::net::network::Bridge;
use crate::net::rtnl::Rtnl;
use crate::net::{look, pool};
use crate::state::{Record, read_record};

/// A container's directory.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Where.
    pub path: PathBuf,
    /// The process that holds the container; `None` where it has ended and is kept.
    pub holder: Option<i32>,
    /// What is known of it, where that can be read.
    pub record: Option<Record>,
}

/// What there is on this host.
#[derive(Debug)]
pub struct Sight {
    /// A socket to ask by.
    pub rtnl: Rtnl,
    /// The bridges and the way out.
    pub view: View,
    /// The state directory.
    pub root: PathBuf,
    /// The networks that are defined and have a bridge, and the one that is there in any case: as it is, or as it would be made.
    pub networks: Vec<Definition>,
    /// The containers, those that run, were killed or are kept.
    pub containers: Vec<Kept>,
    /// The ranges of addresses that somebody on the host uses.
    pub taken: Vec<Taken>,
    probed: Option<BTreeMap<String, Probed>>,
    obstacles: Option<Result<Vec<Obstacle>, String>>,
}

impl Sight {
    /// Looks.
    pub fn take(root: &Path, data_root: &Path) -> Result<Self> {
        let mut rtnl = Rtnl::open()?;
        let mut networks = Definitions::open(data_root).list()?;
        let taken = hub::taken(&mut rtnl, &[])?;
        // Somebody else's link of that name is an error of its own where it is used.
        let gateway = match Bridge::default_network(&mut rtnl) {
            Ok(Some(network)) => network.gateway,
            _ => pool::for_default_network(&look::taken(&mut rtnl, &[], &networks)?)?,
        };
        // Of a network without a bridge nothing is on the host.
        networks.retain(|network| network.driver.has_bridge());
        networks.insert(0, Definition::default_network(gateway));
        let links: Vec<&str> = networks.iter().map(|network| network.link.as_str()).collect();
        let mut view = View::take(&mut rtnl, &links, &[])?;
        if view.ipv6 {
            view.look_at_ipv6(&mut rtnl)?;
        }
        let containers = containers(root);
        let root = root.to_owned();
        Ok(Self { rtnl, view, root, networks, containers, taken, probed: None, obstacles: None })
    }

    /// What came of trying a feature of the kernel.
    pub fn probed(&mut self, feature: &str) -> Result<Probed> {
        if self.probed.is_none() {
            self.probed = Some(probe::features()?);
        }
        let result = self.probed.as_ref().and_then(|all| all.get(feature)).cloned();
        result.ok_or_else(|| anyhow!("the process that tries it has not told"))
    }

    /// What of other programs' rules stops containers' packets. Only networks whose bridge is there count, or the first one.
    pub fn obstacles(&mut self) -> Result<Vec<Obstacle>> {
        if self.obstacles.is_none() {
            self.obstacles = Some(self.look_for_obstacles().map_err(|error| format!("{error:#}")));
        }
        self.obstacles.clone().unwrap_or_else(|| Ok(vec![])).map_err(|error| anyhow!(error))
    }

    fn look_for_obstacles(&mut self) -> Result<Vec<Obstacle>> {
        let firewall = Firewall::read()?;
        let mut all = Vec::new();
        let default = self.networks.first().cloned();
        let made = self.networks.iter().skip(1).filter(|network| self.view.link(&network.link).is_some()).cloned();
        for network in default.into_iter().chain(made.collect::<Vec<_>>()) {
            for places in places_of(&mut self.rtnl, &self.view, &network)? {
                all.extend(firewall.obstacles(&places));
            }
        }
        Ok(all)
    }

    /// The containers that run.
    pub fn running(&self) -> impl Iterator<Item = &Record> {
        let lives =
            |kept: &&Kept| kept.holder.is_some_and(|holder| Path::new("/proc").join(holder.to_string()).exists());
        self.containers.iter().filter(lives).filter_map(|kept| kept.record.as_ref())
    }
}

fn containers(root: &Path) -> Vec<Kept> {
    let entries = fs::read_dir(root.join("containers")).into_iter().flatten().flatten();
    let of = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let holder = name.split_once('.').and_then(|(_, holder)| holder.parse().ok());
        let record = File::open(entry.path().join("record")).ok().and_then(|file| read_record(&file));
        Kept { path: entry.path(), holder, record }
    };
    let mut all: Vec<Kept> = entries.map(of).collect();
    all.sort_by(|one, other| one.path.cmp(&other.path));
    all
}
