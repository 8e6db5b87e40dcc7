//! Driver: how the members of a network are joined, and what that says of an interface there. A closed set; each one's own
//! links are in `network.rs` (bridge), `macvlan.rs`, `vxlan.rs` and `ptp.rs`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::definition::Definition;
use super::hub::View;
use super::mode::Attachment;
use super::network::Bridge;
use super::rtnl::Mac;
use super::step::{Place, Step};
use super::{Interface, macvlan, ptp, rate, vxlan};
use crate::error::refused;

/// How the members of a network are joined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// Ports of a bridge of this host, which is their gateway.
    #[default]
    Bridge,
    /// Machines of the LAN: links of their own on one of the host's.
    Macvlan,
    /// Ports of a bridge that is joined to those of other hosts by a tunnel.
    Vxlan,
    /// Two, at the ends of a cable.
    Ptp,
}

impl Driver {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Bridge, Self::Macvlan, Self::Vxlan, Self::Ptp];

    /// Whether there is a bridge on this host that its members are ports of: then the host is one of them, and has rules for
    /// them.
    pub fn has_bridge(self) -> bool {
        matches!(self, Self::Bridge | Self::Vxlan)
    }
}

impl fmt::Display for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bridge => "bridge",
            Self::Macvlan => "macvlan",
            Self::Vxlan => "vxlan",
            Self::Ptp => "ptp",
        })
    }
}

impl FromStr for Driver {
    type Err = anyhow::Error;

    /// Errors: there is no such driver; what does the same, where something does.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(known) = Self::ALL.into_iter().find(|driver| driver.to_string() == text) {
            return Ok(known);
        }
        let remedy = match text {
            "ipvlan" => {
                "macvlan puts containers on a LAN too; ipvlan is left out because no kernel that minirun is tested on has it"
            }
            "vlan" | "8021q" => {
                "make the VLAN's link yourself (`ip link add link eth0 name eth0.10 type vlan id 10`) and use it as a parent: \
                 --driver macvlan --opt parent=eth0.10"
            }
            "overlay" => "vxlan spans hosts: --driver vxlan --remote ADDRESS",
            "macvtap" | "tap" => "known are bridge, macvlan, vxlan and ptp; none makes a tap device",
            "none" | "null" | "host" => {
                "that is no network but a mode, which needs none: `minirun run --net=none`, `--net=host`"
            }
            _ => "known are bridge, macvlan, vxlan and ptp",
        };
        Err(refused(format!("minirun has no driver `{text}`"), remedy))
    }
}

/// What a driver has beside the bridge, or in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Beside {
    /// Nothing.
    Nothing,
    /// A tunnel.
    Vxlan(vxlan::Standing),
    /// An end of a cable.
    Ptp(ptp::End),
}

/// What a network says of its interfaces, by its driver.
impl Bridge {
    /// The MTU of its members where they say none.
    pub fn mtu(&self, view: &View) -> u32 {
        let standing = match (&self.beside, &self.link) {
            (Beside::Vxlan(tunnel), _) => vxlan::mtu(&self.definition, tunnel.underlay_mtu),
            (_, Some(parent)) if self.definition.driver == Driver::Macvlan => parent.mtu,
            _ if self.definition.driver == Driver::Ptp => ptp::MTU,
            _ => view.mtu(),
        };
        self.definition.mtu.unwrap_or(standing)
    }

    /// Refuses what an interface on it cannot have.
    pub fn check(&self, wish: &Attachment, view: &View) -> Result<()> {
        let driver = self.definition.driver;
        let mtu = wish.mtu.unwrap_or_else(|| self.mtu(view));
        if self.definition.gateway6.is_some() {
            fits_ipv6(mtu).with_context(|| format!("use network `{}`", wish.network))?;
        }
        let on_the_host =
            [(wish.host_ifname.is_some(), "host-ifname"), (wish.hairpin, "hairpin"), (wish.spoof, "spoof")];
        if let Some((_, option)) = on_the_host.iter().find(|(asked, _)| *asked && !driver.has_bridge()) {
            let message = format!("use network `{}`: {option} cannot be had with driver {driver}", wish.network);
            return Err(refused(message, "leave it out: its interfaces have no end on the host"));
        }
        if wish.rates.received.is_some() && !driver.has_bridge() {
            let message =
                format!("use network `{}`: with driver {driver} nothing holds back what it receives", wish.network);
            return Err(refused(message, "rate=10mbit/ limits what it sends alone"));
        }
        if driver == Driver::Macvlan { macvlan::check(self, wish) } else { Ok(()) }
    }

    /// The hardware address of an interface with this address, where none was asked for.
    pub fn mac(&self, address: Ipv4Addr) -> Mac {
        match (&self.link, self.definition.driver) {
            (Some(parent), Driver::Macvlan) if macvlan::mode(&self.definition) == "passthru" => parent.mac,
            _ => mac_of(address),
        }
    }
}

/// The MTU that every link of IPv6 has at least (RFC 8200): below it the kernel has no IPv6 on a link, nor on a bridge of which
/// one port is below it.
const LEAST_MTU6: u32 = 1280;

/// Whether the kernel has IPv6 on a link.
pub fn has_ipv6(view: &View, interface: &Interface) -> bool {
    view.ipv6 && interface.mtu >= LEAST_MTU6
}

/// Refuses an MTU with which there is no IPv6.
pub fn fits_ipv6(mtu: u32) -> Result<()> {
    if mtu >= LEAST_MTU6 {
        return Ok(());
    }
    let message = format!("an MTU of {mtu} is too small for IPv6, which needs {LEAST_MTU6}");
    Err(refused(
        message,
        "give a larger one (--mtu of the network, mtu= of the container), or use a network without --ipv6",
    ))
}

/// The steps that make a link in a container usable: addresses, up, and the way out.
pub fn configure(view: &View, definition: &Definition, interface: &Interface) -> Vec<Step> {
    let (inside, name) = (Place::Container, &interface.name);
    let mut steps = Vec::new();
    steps.extend(has_ipv6(view, interface).then(|| Step::NoLinkLocal { place: inside, link: name.clone() }));
    let address = |address: IpNet| Step::AddAddress { place: inside, link: name.clone(), address };
    steps.push(address(interface.address.into()));
    steps.extend(interface.address6.map(|own| address(own.into())));
    // The kernel asks by it where a neighbour is when the container routes for others. Where it cannot, the filter lets no
    // packet of others out, nor what comes from this address.
    let own6 = interface.address6.filter(|_| interface.may_route()).map(|_| link_local(interface.mac));
    steps.extend(own6.map(|own| address(own.into())));
    steps.push(Step::SetUp { place: inside, link: name.clone() });
    steps.extend(rate::shape(inside, name, interface.rates().sent, interface.mtu));
    let (gateway, gateway6) = definition.gateways();
    let gateway = Some(IpAddr::from(gateway)).filter(|_| interface.default_route);
    let gateway6 = gateway6.map(IpAddr::from).filter(|_| interface.default_route6);
    steps.extend(gateway.into_iter().chain(gateway6).map(|gateway| Step::AddDefaultRoute { gateway }));
    steps
}

/// What the container's own process does for a link in it: nobody tells it about routers, and without an address of its own it
/// has no IPv6 at all; and where neighbours may know its addresses by another hardware address, they are told.
pub fn settings(view: &View, interface: &Interface) -> Vec<Step> {
    let set = |version: &str, key: &str, value: &str| Step::Sysctl {
        place: Place::Container,
        key: format!("net/{version}/conf/{}/{key}", interface.name),
        value: value.into(),
    };
    let (key, value) = if interface.address6.is_some() { ("accept_ra", "0") } else { ("disable_ipv6", "1") };
    let mut steps: Vec<Step> = has_ipv6(view, interface).then(|| set("ipv6", key, value)).into_iter().collect();
    if interface.announced {
        steps.push(set("ipv4", "arp_notify", "1"));
        let ipv6 = has_ipv6(view, interface) && interface.address6.is_some();
        steps.extend(ipv6.then(|| set("ipv6", "ndisc_notify", "1")));
        steps.push(Step::Announce { link: interface.name.clone(), mac: interface.mac });
    }
    steps
}

/// A hardware address that follows from the IPv4 address: locally administered, the same whoever has the address, so that
/// no neighbour's cache is ever stale.
pub fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x02, 0xd6, a, b, c, d]
}

/// The link-local address that follows from a hardware address (RFC 4291, appendix A).
pub fn link_local(mac: Mac) -> Ipv6Net {
    let [a, b, c, d, e, f] = mac;
    let own = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    let address = Ipv6Addr::from(0xfe80 << 112 | u128::from(u64::from_be_bytes(own)));
    Ipv6Net::new_assert(address, 64)
}

/// The IPv6 addresses of a network's bridge: that of the gateway, and the one by which the host asks where a container is.
pub fn own6(network: &Definition) -> impl Iterator<Item = Ipv6Net> {
    let link_local = link_local(mac_of(network.gateway.addr()));
    network.gateway6.into_iter().flat_map(move |gateway| [gateway, link_local])
}

/// The IPv6 network of a gateway with another address of it.
pub fn same_network6(gateway: Ipv6Net, address: Ipv6Addr) -> Ipv6Net {
    Ipv6Net::new_assert(address, gateway.prefix_len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_are_read_as_they_are_written() {
        for driver in Driver::ALL {
            assert_eq!(driver.to_string().parse::<Driver>().unwrap(), driver);
            assert_eq!(serde_json::to_value(driver).unwrap(), driver.to_string());
        }
        for bad in ["ipvlan", "vlan", "overlay", "host", "Bridge", ""] {
            assert!(bad.parse::<Driver>().is_err(), "{bad}");
        }
    }
}
