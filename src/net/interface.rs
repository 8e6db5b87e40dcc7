//! A container's interface on a managed network, as it was decided and as its record keeps it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::driver::{Driver, same_network6};
use super::hub::View;
use super::ipam::Lease;
use super::mode::Attachment;
use super::network::Bridge;
use super::rate::Rates;
use super::rtnl::Mac;
#[cfg(doc)]
use super::step;

/// A container's interface on a managed network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// The network's name.
    pub network: String,
    /// Its name in the container.
    pub name: String,
    /// How that joins its members.
    #[serde(default)]
    pub driver: Driver,
    /// The name of its end on the host; empty where there is none.
    pub host: String,
    /// Its hardware address.
    pub mac: Mac,
    /// Its address, with the prefix length of the network.
    pub address: Ipv4Net,
    /// The same of IPv6.
    pub address6: Option<Ipv6Net>,
    /// Whether the neighbours are told of its hardware address, because they may know the addresses by another one.
    #[serde(default)]
    pub announced: bool,
    /// The network's router: the host's address there, or that of the LAN's; a cable has none.
    pub gateway: Option<Ipv4Addr>,
    /// Whether the default route leaves by it.
    pub default_route: bool,
    /// The same of IPv6.
    #[serde(default)]
    pub default_route6: bool,
    /// In bytes.
    pub mtu: u32,
    /// How fast it is, as `rate=` takes it, where it is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// Further names by which the network's members find it.
    pub aliases: Vec<String>,
    /// The index that its link in the container will have, where it is known: the kernel counts up, and never takes one twice.
    #[serde(skip)]
    pub index: u32,
    /// Whether it may send from addresses that are not its own.
    #[serde(default)]
    pub spoof: bool,
    /// Options of its port that differ from those of its network, by the names of [`step::PORT_OPTIONS`].
    #[serde(default)]
    pub port: BTreeMap<String, u32>,
}

impl Interface {
    /// One on a network, as far as that says: its name in the container is not chosen yet.
    pub fn on(bridge: &Bridge, wish: &Attachment, lease: &Lease, view: &View) -> Self {
        let definition = &bridge.definition;
        let address6 = definition.gateway6.zip(lease.address6);
        let usual = bridge.mac(lease.address);
        let mac = wish.mac.unwrap_or(usual);
        let announced = match definition.driver {
            // Its address may have been anybody's.
            Driver::Macvlan => true,
            Driver::Ptp => false,
            Driver::Bridge | Driver::Vxlan => mac != usual || wish.ip6.is_some() || lease.mixed,
        };
        Self {
            network: definition.name.clone(),
            name: String::new(),
            driver: definition.driver,
            host: wish.host_ifname.clone().unwrap_or_default(),
            mac,
            address: Ipv4Net::new_assert(lease.address, definition.gateway.prefix_len()),
            address6: address6.map(|(gateway, address)| same_network6(gateway, address)),
            announced,
            gateway: definition.router(),
            default_route: false,
            default_route6: false,
            mtu: wish.mtu.unwrap_or_else(|| bridge.mtu(view)),
            rate: (wish.rates != Rates::default()).then(|| wish.rates.to_string()),
            aliases: wish.aliases.clone(),
            index: 0,
            spoof: wish.spoof,
            port: wish.hairpin.then(|| ("hairpin".to_owned(), 1)).into_iter().collect(),
        }
    }

    /// The host's address there, where the host is a member of the network.
    pub fn host(&self) -> Option<Ipv4Addr> {
        self.gateway.filter(|_| self.driver.has_bridge())
    }

    /// How fast it may be.
    pub fn rates(&self) -> Rates {
        self.rate.as_deref().and_then(|rate| rate.parse().ok()).unwrap_or_default()
    }

    /// Whether it may send what others sent: at no place of its own is a filter that lets only its own addresses pass.
    pub fn may_route(&self) -> bool {
        self.spoof || !self.driver.has_bridge()
    }

    /// Both of them.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let second = self.address6.map(|net| IpAddr::V6(net.addr()));
        std::iter::once(IpAddr::V4(self.address.addr())).chain(second)
    }
}

/// The name of an end on the host: 15 bytes at most. A container that has run before has another one: its link of the run
/// before may be there still, and a name is not to be used twice in a row, because rules that others have for it would find
/// another link.
pub(super) fn host_link(id: &str, runs: u32, at: usize) -> String {
    let run = char::from_digit(runs % 36, 36).filter(|_| runs > 0);
    // No hexadecimal digit, so that it is no part of an ID.
    let letter = char::from_u32('f' as u32 + at as u32).filter(|_| at > 0);
    let length = if at > 0 { 10 } else { 12 };
    let digits = id.get(..length).unwrap_or(id);
    format!("mr{}", digits.chars().chain(letter).chain(run).collect::<String>())
}
