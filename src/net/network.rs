//! Managed networks: which bridge, which addresses, which rules. Today one, `bridge`, made on first use and kept.
//!
//! [`Bridge::find`] decides from the hub's view; `Bridge::missing` lists the steps that are not done yet, which is none
//! on the way of almost every run; [`made`] lists what there is, to be undone.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::{Context, Result};
use ipnet::Ipv4Net;

use super::hub::{self, Taken, View};
use super::rtnl::{Mac, Rtnl};
use super::step::{Place, Step};
use super::table::{Change, GUARDED, rules, wanted};
use crate::error::refused;

/// The bridge of the network `bridge`.
pub const BRIDGE: &str = "minirun0";
/// What its alias says.
const ALIAS: &str = "minirun:network:bridge";
/// The length of its addresses' common part: 4,094 addresses.
const PREFIX: u8 = 20;

/// A managed bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// The gateway's address, with the prefix length of the network.
    pub gateway: Ipv4Net,
    /// What has to be done before a container can be attached.
    pub missing: Vec<Step>,
    /// The links on which the missing steps turn forwarding on.
    pub opened: Vec<String>,
    /// Whether what earlier commands opened is no longer minirun's business: the host has become a router.
    pub forgotten: bool,
}

impl Bridge {
    /// What there is of the bridge, and what is missing. `record` is the file that [`remember_opened`] writes.
    pub fn find(rtnl: &mut Rtnl, view: &View, resolvers: &[Ipv4Addr], directory: &Path) -> Result<Self> {
        let link = view.link(BRIDGE);
        if let Some(link) = link
            && !(link.bridge && link.alias == ALIAS)
        {
            return Err(refused(
                format!("use bridge `{BRIDGE}`: the host has a link of that name that is not minirun's"),
                format!("rename it (`ip link set {BRIDGE} name NAME`) or delete it (`ip link del {BRIDGE}`)"),
            ));
        }
        let address = link.map(|link| hub::address_of(rtnl, link.index)).transpose()?.flatten();
        let gateway = match address {
            Some(address) if !(8..=30).contains(&address.prefix_len()) => {
                return Err(refused(
                    format!("use bridge `{BRIDGE}`: its address {address} leaves none for containers"),
                    format!("`ip link del {BRIDGE}`: it is made again"),
                ));
            }
            Some(address) => address,
            None => free_pool(&hub::taken(rtnl, resolvers)?)?,
        };
        Ok(Self::decide(view, gateway, address.is_some(), &opened_before(directory)))
    }

    /// The pure part of [`find`](Self::find). `opened_before`: links that an earlier command turned forwarding on for. Their
    /// guard comes back with a table that somebody flushed, and goes when somebody makes the whole host a router.
    pub fn decide(view: &View, gateway: Ipv4Net, addressed: bool, opened_before: &[String]) -> Self {
        let mut missing = Vec::new();
        let link = view.link(BRIDGE);
        if link.is_none() {
            missing.push(Step::AddBridge { name: BRIDGE.into(), mac: mac_of(gateway.addr()) });
            missing.push(Step::SetAlias { link: BRIDGE.into(), alias: ALIAS.into() });
            if view.ipv6 {
                missing.push(sysctl(&format!("net/ipv6/conf/{BRIDGE}/disable_ipv6"), "1"));
            }
        }
        if !addressed {
            missing.push(Step::AddAddress { place: Place::Hub, link: BRIDGE.into(), address: gateway });
        }
        if !link.is_some_and(|link| link.up) {
            missing.push(Step::SetUp { place: Place::Hub, link: BRIDGE.into() });
        }
        // The rules come before forwarding, so that at no moment more is passed on than they allow.
        let rules = rules(gateway);
        let closed: Vec<String> = view
            .links
            .iter()
            .filter(|l| l.up && !l.loopback && !l.forwarding && !l.alias.starts_with("minirun:"))
            .map(|l| l.name.clone())
            .collect();
        let forgotten = view.router && !opened_before.is_empty();
        let table_is_right = view.table.as_ref() == Some(&wanted(&rules)) && !forgotten;
        if !table_is_right {
            missing.extend(view.table.as_ref().map(|_| Step::Nft(Change::DeleteTable)));
            missing.extend(rules.into_iter().map(Step::Nft));
        }
        let again = opened_before.iter().filter(|name| !closed.contains(name) && view.link(name).is_some());
        for link in again.filter(|_| !table_is_right && !forgotten).chain(&closed) {
            missing.push(Step::Nft(Change::AddElement { set: GUARDED, links: vec![link.clone()] }));
        }
        if !link.is_some_and(|link| link.forwarding) {
            missing.push(sysctl(&forwarding(BRIDGE), "1"));
        }
        missing.extend(closed.iter().map(|link| sysctl(&forwarding(link), "1")));
        Self { gateway, missing, opened: closed, forgotten }
    }

    /// The steps that bring a container's end onto the bridge and make it usable.
    pub fn attach(&self, view: &View, id: &str, interface: &str, address: Ipv4Addr) -> Vec<Step> {
        // 15 bytes at most: the ID's twelve, and one more where the container has run before.
        let host = format!("mr{id}");
        let (hub, inside) = (Place::Hub, Place::Container);
        let own = Ipv4Net::new_assert(address, self.gateway.prefix_len());
        let mut steps = vec![Step::AddVeth {
            host: host.clone(),
            mtu: view.mtu(),
            peer: interface.into(),
            peer_mac: mac_of(address),
            peer_index: 2,
        }];
        if view.ipv6_on_links() {
            steps.push(Step::NoLinkLocal { place: hub, link: host.clone() });
        }
        steps.push(Step::SetUp { place: hub, link: host.clone() });
        steps.push(Step::SetUp { place: inside, link: "lo".into() });
        if view.ipv6_on_links() {
            steps.push(Step::NoLinkLocal { place: inside, link: interface.into() });
        }
        steps.push(Step::AddAddress { place: inside, link: interface.into(), address: own });
        steps.push(Step::SetUp { place: inside, link: interface.into() });
        steps.push(Step::AddDefaultRoute { gateway: self.gateway.addr() });
        // Last, when both ends are up: each change of a port has the bridge look at all of them.
        steps.push(Step::SetPort {
            link: host,
            bridge: BRIDGE.into(),
            alias: format!("minirun:{}:bridge", id.get(..12).unwrap_or(id)),
        });
        if view.ipv6_on_links() {
            let key = format!("net/ipv6/conf/{interface}/disable_ipv6");
            steps.push(Step::Sysctl { place: inside, key, value: "1".into() });
        }
        steps
    }
}

/// The steps that, undone in reverse, take the network `bridge` off a host that has it: link, table, and forwarding where
/// minirun turned it on.
pub fn made(view: &View, directory: &Path) -> Vec<Step> {
    let mut steps = Vec::new();
    if let Some(link) = view.link(BRIDGE).filter(|link| link.alias == ALIAS) {
        steps.push(Step::AddBridge { name: link.name.clone(), mac: [0; 6] });
    }
    if let Some(table) = &view.table {
        steps.push(Step::Nft(Change::AddTable { comment: table.comment.clone() }));
    }
    let opened = opened_before(directory).into_iter().filter(|name| view.link(name).is_some() && !view.router);
    steps.extend(opened.map(|link| sysctl(&forwarding(&link), "1")));
    steps
}

/// Remembers on which links minirun turned forwarding on, so that it can be turned off again. Called under the hub's lock,
/// before the steps are done: a link in the list that was not opened after all is harmless.
pub fn remember_opened(directory: &Path, bridge: &Bridge) -> Result<()> {
    if bridge.opened.is_empty() && !bridge.forgotten {
        return Ok(());
    }
    let before = if bridge.forgotten { vec![] } else { opened_before(directory) };
    let new = bridge.opened.iter().filter(|link| !before.contains(link)).cloned();
    let all: Vec<String> = before.iter().cloned().chain(new).collect();
    let path = directory.join("opened");
    let temporary = directory.join("opened.new");
    remove(&temporary)?;
    let mut file = crate::state::open_private(&temporary)?;
    std::io::Write::write_all(&mut file, all.join("\n").as_bytes()).context("write the list of opened links")?;
    fs::rename(&temporary, &path).with_context(|| format!("rename `{}`", temporary.display()))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("remove a temporary file"),
        _ => Ok(()),
    }
}

fn opened_before(directory: &Path) -> Vec<String> {
    let text = fs::read_to_string(directory.join("opened")).unwrap_or_default();
    text.lines().filter(|name| !name.is_empty() && !name.contains('/')).map(str::to_owned).collect()
}

fn forwarding(link: &str) -> String {
    format!("net/ipv4/conf/{link}/forwarding")
}

fn sysctl(key: &str, value: &str) -> Step {
    Step::Sysctl { place: Place::Hub, key: key.into(), value: value.into() }
}

/// A hardware address that follows from the IPv4 address: locally administered, the same whoever has the address, so that
/// no neighbour's cache is ever stale.
pub fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x02, 0xd6, a, b, c, d]
}

/// The pools that are tried, in this order.
fn pools() -> impl Iterator<Item = Ipv4Net> {
    let ranges = [([10, 214, 0, 0], 15), ([172, 30, 0, 0], 15), ([192, 168, 0, 0], 16)];
    ranges
        .into_iter()
        .flat_map(|(address, prefix)| Ipv4Net::new_assert(address.into(), prefix).subnets(PREFIX).into_iter().flatten())
}

/// The gateway's address in the first pool that overlaps nothing.
fn free_pool(taken: &[Taken]) -> Result<Ipv4Net> {
    let overlap =
        |pool: Ipv4Net| taken.iter().find(|t| t.range.contains(&pool.network()) || pool.contains(&t.range.network()));
    if let Some(pool) = pools().find(|pool| overlap(*pool).is_none()) {
        return Ok(Ipv4Net::new_assert(pool.hosts().next().unwrap_or(pool.network()), PREFIX));
    }
    let mut holders: Vec<String> = pools().filter_map(overlap).map(|t| format!("{} ({})", t.range, t.holder)).collect();
    holders.dedup();
    holders.truncate(8);
    Err(refused(
        format!("choose addresses for bridge `{BRIDGE}`: every range is in use: {}", holders.join(", ")),
        "free one of them: minirun tries 10.214.0.0/15, 172.30.0.0/15 and 192.168.0.0/16 in parts of /20",
    ))
}

#[cfg(test)]
mod tests {
    use super::super::table::Table;
    use super::*;

    fn taken(ranges: &[&str]) -> Vec<Taken> {
        ranges.iter().map(|r| Taken { range: r.parse().unwrap(), holder: "a route by tun0".into() }).collect()
    }

    #[test]
    fn a_pool_that_overlaps_is_not_taken() {
        let pool = |ranges: &[&str]| free_pool(&taken(ranges)).map(|net| net.to_string());
        assert_eq!(pool(&[]).unwrap(), "10.214.0.1/20");
        assert_eq!(pool(&["10.214.3.0/24"]).unwrap(), "10.214.16.1/20");
        assert_eq!(pool(&["10.214.0.53/32", "10.214.16.0/20"]).unwrap(), "10.214.32.1/20");
        assert_eq!(pool(&["10.0.0.0/8"]).unwrap(), "172.30.0.1/20");
        let error = pool(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]).unwrap_err();
        assert!(format!("{error:#}").contains("172.16.0.0/12 (a route by tun0)"), "{error:#}");
    }

    fn view() -> View {
        let link = |name: &str, up, forwarding| hub::Link {
            name: name.into(),
            up,
            forwarding,
            mtu: 1400,
            ..Default::default()
        };
        View {
            links: vec![link("eth0", true, false), link("eth1", false, false), link("docker0", true, true)],
            uplink: Some(link("eth0", true, false)),
            table: None,
            ipv6: true,
            router: false,
        }
    }

    #[test]
    fn only_links_that_need_it_are_opened_and_rules_come_first() {
        let gateway = "10.214.0.1/20".parse().unwrap();
        let bridge = Bridge::decide(&view(), gateway, false, &[]);
        assert_eq!(bridge.opened, ["eth0"]);
        let guard = Step::Nft(Change::AddElement { set: GUARDED, links: vec!["eth0".into()] });
        let at = |wanted: &Step| bridge.missing.iter().position(|step| step == wanted).unwrap();
        assert!(at(&guard) < at(&sysctl("net/ipv4/conf/eth0/forwarding", "1")));
    }

    #[test]
    fn a_flushed_table_comes_back_with_its_guard() {
        let gateway = "10.214.0.1/20".parse().unwrap();
        let mut view = view();
        view.links[0].forwarding = true;
        view.links.push(hub::Link {
            name: BRIDGE.into(),
            up: true,
            forwarding: true,
            bridge: true,
            alias: ALIAS.into(),
            ..Default::default()
        });
        let bridge = Bridge::decide(&view, gateway, true, &["eth0".into(), "gone0".into()]);
        assert!(bridge.opened.is_empty());
        let guard = Step::Nft(Change::AddElement { set: GUARDED, links: vec!["eth0".into()] });
        assert!(bridge.missing.contains(&guard));
        view.table = Some(wanted(&rules(gateway)));
        assert_eq!(Bridge::decide(&view, gateway, true, &["eth0".into()]).missing, []);
        // Flushed rules leave the table; a host that became a router needs no guard.
        let flushed = Table { rules: [Some(0), Some(0)], ..wanted(&rules(gateway)) };
        assert!(Bridge::decide(&View { table: Some(flushed), ..view.clone() }, gateway, true, &[]).missing.len() > 5);
        let router = Bridge::decide(&View { router: true, ..view.clone() }, gateway, true, &["eth0".into()]);
        assert!(router.forgotten && !router.missing.contains(&guard), "{:?}", router.missing);
    }
}
