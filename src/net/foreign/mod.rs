//! Other programs' rules: what in them stops the packets of containers. They are read and never changed.
//!
//! A packet passes the kernel's hooks, and at each hook every program's chains; what one of them drops is gone, whatever
//! minirun's own table says. So for each way that a container's packets take, the first packet of a connection is asked
//! through all chains but minirun's: those of nftables, which iptables writes to nowadays, and those of the older ip_tables.
//!
//! Called by `doctor`, where a network is defined, and where a container starts on a bridge and they have changed (`change.rs`).

pub mod change;
mod expression;
mod legacy;
pub mod packet;
mod remedy;
pub mod ruleset;
mod xtables;

use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use self::packet::{HOOKS, Named, Places, Way};
use self::ruleset::{Body, Chain, Dropper, Rule, Table};
use super::definition::Definition;
use super::hub::{self, View};
use super::nft::list;
use super::rtnl::Rtnl;
use super::table::TABLE;

/// What drops packets of a network's containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// The bridge.
    pub link: String,
    /// The table's family: `ip`, `ip6` or `inet`.
    pub family: &'static str,
    /// The table's name.
    pub table: String,
    /// Whether nftables does not show it.
    pub legacy: bool,
    /// The base chain.
    pub base: String,
    /// The hook.
    pub hook: &'static str,
    /// What drops.
    pub dropper: Dropper,
    /// On which ways.
    pub ways: Vec<Way>,
    /// The command that lets them pass; `None` where there is none that is safe to give.
    pub remedy: Option<String>,
}

impl Obstacle {
    /// Where it is: "table `ip filter`, chain `FORWARD`".
    pub fn place(&self) -> String {
        let old = if self.legacy { " of ip_tables" } else { "" };
        format!("table `{} {}`{old}, chain `{}`", self.family, self.table, self.dropper.chain)
    }

    /// What it is there: "policy", "rule 3 (handle 12)".
    pub fn rule(&self) -> String {
        match self.dropper.rule {
            None => "the policy".into(),
            Some((number, 0)) => format!("rule {number}"),
            Some((number, handle)) => format!("rule {number} (handle {handle})"),
        }
    }

    /// Which packets it drops.
    pub fn what(&self) -> String {
        let ways: Vec<&str> = self.ways.iter().map(|way| way.words()).collect();
        let may = if self.dropper.doubt { "may drop" } else { "drops" };
        format!("{may} packets of `{}` {}", self.link, ways.join(", "))
    }
}

/// The host's firewall as other programs made it.
#[derive(Debug, Clone, Default)]
pub struct Firewall {
    tables: Vec<Table>,
}

impl Firewall {
    /// Reads all of it.
    pub fn read() -> Result<Self> {
        let mut tables = nftables()?;
        tables.extend(legacy::tables());
        Ok(Self { tables })
    }

    /// What drops packets between these places.
    pub fn obstacles(&self, places: &Places) -> Vec<Obstacle> {
        let mut all: Vec<Obstacle> = Vec::new();
        for (way, packet) in places.packets() {
            for table in self.tables.iter().filter(|table| table.is_asked_about(&packet)) {
                let at_hook = |chain: &&Chain| chain.hook.is_some_and(|(hook, _)| hook as usize == packet.hook);
                for base in table.chains.iter().filter(at_hook) {
                    let Some(dropper) = table.dropper(base, &packet) else { continue };
                    let same = |other: &&mut Obstacle| {
                        (other.family, &other.table, other.legacy) == (table.family, &table.name, table.legacy)
                            && (&other.base, &other.dropper) == (&base.name, &dropper)
                    };
                    if let Some(known) = all.iter_mut().find(same) {
                        known.ways.push(way);
                        known.ways.dedup();
                        continue;
                    }
                    all.push(Obstacle {
                        link: places.bridge.name.clone(),
                        family: table.family,
                        table: table.name.clone(),
                        legacy: table.legacy,
                        base: base.name.clone(),
                        hook: HOOKS[packet.hook],
                        dropper,
                        ways: vec![way],
                        remedy: None,
                    });
                }
            }
        }
        for obstacle in &mut all {
            let table = self.tables.iter().find(|table| {
                (table.family, &table.name, table.legacy) == (obstacle.family, &obstacle.table, obstacle.legacy)
            });
            obstacle.remedy = table.and_then(|table| remedy::of(obstacle, table));
        }
        all
    }
}

/// The tables of nftables but minirun's own, with the sets that their rules look into.
fn nftables() -> Result<Vec<Table>> {
    let mut tables: Vec<Table> = Vec::new();
    for raw in list::chains()? {
        let family = match raw.family {
            1 => "inet",
            2 => "ip",
            10 => "ip6",
            _ => continue,
        };
        // An address that is translated is not dropped, and iptables' chains for that have no rules that do.
        if (family, raw.table.as_str()) == ("inet", TABLE) || raw.kind == "nat" {
            continue;
        }
        let chain = Chain { name: raw.name, hook: raw.hook, drops: raw.drops, rules: vec![] };
        match tables.iter_mut().find(|table| (table.family, &table.name) == (family, &raw.table)) {
            Some(table) => table.chains.push(chain),
            None => {
                tables.push(Table { family, name: raw.table, chains: vec![chain], ..Table::default() });
            }
        }
    }
    for rule in list::rules()? {
        let Some(family) = (match rule.family {
            1 => Some("inet"),
            2 => Some("ip"),
            10 => Some("ip6"),
            _ => None,
        }) else {
            continue;
        };
        let Some(table) = tables.iter_mut().find(|one| (one.family, &one.name) == (family, &rule.table)) else {
            continue;
        };
        for set in expression::sets_of(&rule.expressions) {
            if let Entry::Vacant(place) = table.sets.entry(set) {
                let elements = list::elements_of(rule.family, &rule.table, place.key())?;
                place.insert(elements);
            }
        }
        if let Some(chain) = table.chains.iter_mut().find(|chain| chain.name == rule.chain) {
            chain.rules.push(Rule { handle: rule.handle, body: Body::Nft(rule.expressions) });
        }
    }
    Ok(tables)
}

/// The places of a network, for each family of addresses that it has.
pub fn places_of(rtnl: &mut Rtnl, view: &View, network: &Definition) -> Result<Vec<Places>> {
    let asks = |file: &str| {
        std::fs::read(format!("/proc/sys/net/bridge/{file}")).is_ok_and(|value| value.first() == Some(&b'1'))
    };
    let index = rtnl.link_called(&network.link)?.map(|link| link.header.index);
    let named = |link: &hub::Link| Named { name: link.name.clone(), index: Some(link.index) };
    let uplink = view.uplink.as_ref().map(named);
    let of = |gateway: IpAddr, members: [IpAddr; 2], file: &str| Places {
        bridge: Named { name: network.link.clone(), index },
        uplink: uplink.clone(),
        gateway,
        members,
        bridges_ask: asks(file) && !network.isolate,
        outward: !network.internal,
    };
    let gateway = network.gateway.addr();
    let next = |by| IpAddr::V4(Ipv4Addr::from(u32::from(gateway).wrapping_add(by)));
    let mut all = vec![of(gateway.into(), [next(1), next(2)], "bridge-nf-call-iptables")];
    all.extend(network.gateway6.filter(|_| view.ipv6).map(|net| {
        let next = |by| IpAddr::V6(Ipv6Addr::from(u128::from(net.addr()).wrapping_add(by)));
        of(net.addr().into(), [next(1), next(2)], "bridge-nf-call-ip6tables")
    }));
    Ok(all)
}

/// Warns where another program's rules keep the containers of these networks from the outside. It stops nothing: what cannot
/// be read is not told.
pub fn warn(networks: &[&Definition]) {
    let networks: Vec<&&Definition> = networks.iter().filter(|network| network.driver.has_bridge()).collect();
    if networks.is_empty() {
        return;
    }
    let look = || -> Result<Vec<Obstacle>> {
        let mut rtnl = Rtnl::open()?;
        let view = View::take(&mut rtnl, &[], &[])?;
        let firewall = Firewall::read()?;
        let mut all = Vec::new();
        for network in &networks {
            for places in places_of(&mut rtnl, &view, network)? {
                all.extend(firewall.obstacles(&places));
            }
        }
        Ok(all)
    };
    let obstacles = look().unwrap_or_default();
    let hard = |one: &&Obstacle| one.hook == "forward" && !one.dropper.doubt;
    if let Some(one) = obstacles.iter().find(hard) {
        let (place, rule, what) = (one.place(), one.rule(), one.what());
        let remedy = one.remedy.as_ref().map(|remedy| format!("`{remedy}` lets them pass, ")).unwrap_or_default();
        crate::error::warn(&format!("another program's {place}: {rule} {what}; {remedy}see `minirun doctor`"));
    }
}
