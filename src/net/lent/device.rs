//! A link of the host: looked at before it is lent, moved, and given back what it had.
//!
//! [`look`] is called by `decide.rs`; [`Device::lend`] and [`Device::give_back`] by `apply.rs`, and the latter at the container's end
//! (`keep.rs`). What is given back is given as often as it is asked for: a second time changes nothing.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use nix::libc;
use serde::{Deserialize, Serialize};

use super::super::explain::colons;
use super::super::rtnl::{self, Kept, Mac, Rtnl};
use super::super::script::word;
use super::super::step::{Place, Step};
use super::Lent;
use crate::error::{Advice, refused};

/// So many a container has at most.
const MOST: usize = 8;
/// The index of the first one in the container, above those of all that is made there.
const FIRST: u32 = 30;
/// What it is called on the host where its name is another's by now; the kernel fills in a number.
const OTHER_NAME: &str = "lent%d";

/// A link as it is on the host, before it is lent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// What was asked for. (Earlier records do not say.)
    #[serde(default)]
    wish: Option<Lent>,
    index: u32,
    /// Its index in the container.
    inside: u32,
    up: bool,
    mtu: u32,
    mac: Option<Mac>,
    /// Its settings below /proc/sys that are not every link's.
    settings: BTreeMap<String, String>,
    addresses: Vec<Kept>,
    routes: Vec<Kept>,
}

/// Looks at links that are to be lent. Changes nothing.
///
/// Errors: one that is not there, or that the host or minirun needs.
pub fn look(rtnl: &mut Rtnl, wishes: &[Lent]) -> Result<Vec<Device>> {
    if wishes.len() > MOST {
        bail!("lend `{}`: a container has {MOST} links of the host's at most", wishes[MOST].device);
    }
    wishes.iter().zip(FIRST..).map(|(wish, inside)| Device::look(rtnl, wish, inside)).collect()
}

impl Device {
    fn look(rtnl: &mut Rtnl, wish: &Lent, inside: u32) -> Result<Self> {
        let name = &wish.device;
        let failed = |why: &str| format!("lend `{name}`: {why}");
        let Some(link) = rtnl.link_called(name)? else {
            return Err(refused(
                failed("there is no such link"),
                "`ip link` lists them; another container may have it",
            ));
        };
        let has = |which: fn(&LinkAttribute) -> bool| link.attributes.iter().any(which);
        if has(|one| matches!(one, LinkAttribute::IfAlias(alias) if alias.starts_with("minirun:"))) {
            return Err(refused(failed("it is minirun's own"), "give a link of the host's"));
        }
        if has(|one| matches!(one, LinkAttribute::Controller(_))) {
            return Err(refused(
                failed("it is a port of a bridge or the like"),
                format!("`ip link set {name} nomaster` takes it out"),
            ));
        }
        let index = link.header.index;
        let (routes, way_out) = rtnl.routes_to_keep(index)?;
        if way_out {
            return Err(refused(failed("the host's default route leaves by it"), "give another one, or use a network"));
        }
        let mut device = Self {
            name: name.clone(),
            wish: Some(wish.clone()),
            index,
            inside,
            up: link.header.flags.contains(LinkFlags::Up),
            mtu: 0,
            mac: None,
            settings: settings(name),
            addresses: rtnl.addresses_to_keep(index)?,
            routes,
        };
        device.read(&link);
        Ok(device)
    }

    fn read(&mut self, link: &LinkMessage) {
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::Mtu(mtu) => self.mtu = *mtu,
                LinkAttribute::Address(mac) => self.mac = mac.as_slice().try_into().ok(),
                _ => {}
            }
        }
    }

    /// Its name in the container.
    pub fn name_inside(&self) -> &str {
        self.wish.as_ref().map_or(&self.name, Lent::name)
    }

    /// The same link where it stands on the host now: called otherwise, with another number.
    pub fn standing(&self, name: &str, index: u32) -> Self {
        Self { name: name.to_owned(), index, ..self.clone() }
    }

    /// The steps that lend it.
    pub fn steps(&self) -> Vec<Step> {
        let Some(wish) = &self.wish else { return vec![] };
        let (place, link) = (Place::Container, wish.name().to_owned());
        let mut steps = vec![Step::Lend { device: Box::new(self.clone()), name: link.clone() }];
        steps.extend(wish.mtu.map(|mtu| Step::SetMtu { place, link: link.clone(), mtu }));
        let addresses = wish.ip.map(Into::into).into_iter().chain(wish.ip6.map(Into::into));
        steps.extend(addresses.map(|address| Step::AddAddress { place, link: link.clone(), address }));
        steps.push(Step::SetUp { place, link });
        let gateways = wish.gateway.map(Into::into).into_iter().chain(wish.gateway6.map(Into::into));
        steps.extend(gateways.map(|gateway| Step::AddDefaultRoute { gateway }));
        steps
    }

    /// The commands that bring it back, called `name` in the namespace `netns`, and give it what it had.
    pub fn commands_back(&self, netns: &str, name: &str) -> Vec<String> {
        let own = &self.name;
        let mut all = vec![
            format!("ip -n {netns} link set {name} name {own} netns 1"),
            format!("ip link set {own} mtu {}", self.mtu),
        ];
        all.extend(self.mac.map(|mac| format!("ip link set {own} address {}", colons(&mac))));
        for (key, value) in &self.settings {
            if let Some((family, key)) = key.split_once('/') {
                // One that the kernel keeps to itself is not given back.
                all.push(format!(
                    "sysctl -qw {} 2>/dev/null || :",
                    word(&format!("net/{family}/conf/{own}/{key}={}", value.trim()))
                ));
            }
        }
        all.extend(self.up.then(|| format!("ip link set {own} up")));
        all.extend(self.addresses.iter().chain(&self.routes).filter_map(|kept| rtnl::command(kept, own)));
        all
    }

    /// Its hardware address on the host.
    pub fn mac(&self) -> Option<Mac> {
        self.mac
    }

    /// Its index in the container.
    pub fn index_inside(&self) -> u32 {
        self.inside
    }

    /// Moves it to the namespace of process `pid`.
    pub fn lend(&self, hub: &mut Rtnl, name: &str, pid: u32) -> Result<()> {
        let request = rtnl::lend(self.index, name, self.inside, pid);
        hub.batch(vec![request]).map_err(|refused| match refused.errno {
            libc::EINVAL => anyhow!("lend `{}`: the kernel does not move this kind of link", self.name),
            _ => refused.error.context(format!("lend `{}`", self.name)),
        })
    }

    /// Brings it back from the namespace in which `from` is, to the one of this process, and gives it what it had.
    pub fn give_back(&self, from: &mut Rtnl, hub: &mut Rtnl) -> Result<()> {
        let failed = || format!("give `{}` back", self.name);
        if from.link(self.inside)?.is_none() {
            // It was not moved yet, or it is back and whoever brought it was killed before it had all again. Or it was deleted.
            return match hub.index_of(&self.name)? {
                Some(index) => self.restore(hub, index, &self.name).with_context(failed),
                None => Err(anyhow!("{}: it is gone", failed())),
            };
        }
        let home = File::open("/proc/self/ns/net").with_context(failed)?;
        // The kernel moves it first and renames it then, so that a name which is taken leaves it half-way: it is looked at.
        let is_free = hub.index_of(&self.name)?.is_none();
        let name = if is_free { &self.name } else { OTHER_NAME };
        let same = hub.link(self.index)?.is_none().then_some(self.index);
        let moved = from.batch(vec![rtnl::give_back(self.inside, name, same, home.as_fd())]);
        moved.map_err(|refused| refused.error.context(failed()))?;
        let index = match same {
            Some(index) => Some(index),
            None => hub.index_of(&self.name)?.filter(|_| is_free),
        };
        let index =
            index.with_context(|| format!("{}: its name and its number are another's: see `ip link`", failed()))?;
        let name = name_of(hub, index)?;
        let restored = self.restore(hub, index, &name).with_context(failed);
        if is_free {
            return restored;
        }
        Err(anyhow!("{}: its name is another's: it is called `{name}` now", failed()))
            .remedy(format!("`ip link set {name} name {}`, once that is free", self.name))
    }

    fn restore(&self, hub: &mut Rtnl, index: u32, name: &str) -> Result<()> {
        let mut first = vec![rtnl::set_mtu_at(index, self.mtu)];
        first.extend(self.mac.map(|mac| rtnl::set_mac_at(index, mac)));
        let mut failed = hub.batch(first).map_err(|refused| refused.error);
        for (key, value) in &self.settings {
            // One that this kernel does not take any more was the kernel's own.
            if let Some((family, key)) = key.split_once('/') {
                let _ = OpenOptions::new()
                    .write(true)
                    .open(conf(family, name).join(key))
                    .and_then(|mut file| file.write_all(value.as_bytes()));
            }
        }
        let again = |all: &[Kept]| all.iter().map(|one| rtnl::again(one, index)).collect::<Result<Vec<_>>>();
        let up = if self.up { vec![rtnl::set_up(name)] } else { vec![] };
        // What can be given back is, also after one that cannot.
        for batch in [up, again(&self.addresses)?, again(&self.routes)?].into_iter().filter(|batch| !batch.is_empty()) {
            failed = match hub.batch(batch) {
                Err(refused) if refused.errno != libc::EEXIST => Err(refused.error),
                _ => failed,
            };
        }
        failed
    }
}

/// The directory of a link's settings.
fn conf(family: &str, link: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(family).join("conf").join(link)
}

/// The settings of a link that differ from those that every new one gets, as `ipv4/forwarding` and value.
fn settings(link: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for family in ["ipv4", "ipv6"] {
        for entry in fs::read_dir(conf(family, link)).into_iter().flatten().flatten() {
            let key = entry.file_name();
            let usual = fs::read_to_string(conf(family, "default").join(&key)).ok();
            let own = fs::read_to_string(entry.path()).ok();
            if let (Some(value), Some(key)) = (own.filter(|own| Some(own) != usual.as_ref()), key.to_str()) {
                all.insert(format!("{family}/{key}"), value);
            }
        }
    }
    all
}

fn name_of(rtnl: &mut Rtnl, index: u32) -> Result<String> {
    let link = rtnl.link(index)?.with_context(|| format!("look at link {index}: it is gone"))?;
    let name = link
        .attributes
        .into_iter()
        .find_map(|one| if let LinkAttribute::IfName(name) = one { Some(name) } else { None });
    name.with_context(|| format!("look at link {index}: it has no name"))
}
