//! vxlan: a network that spans hosts. Each has a managed bridge, as driver bridge makes it, and one port more of that: a
//! tunnel (RFC 7348) that packs frames into UDP and sends them to the other hosts. So what is between members stays frames,
//! and what goes elsewhere leaves by the bridge of its own host.
//!
//! Used by `network.rs`, which asks each network's driver.

use std::net::IpAddr;

use anyhow::{Context, Result, bail};

use super::definition::{Definition, alias_of};
use super::hub::{self, Link, View};
use super::rtnl::Rtnl;
use super::step::{Place, Step};
use crate::error::refused;

/// The port of IANA, where nothing else is said.
const PORT: u16 = 4789;
/// What a tunnel puts around a packet: Ethernet, VXLAN, UDP and IPv4; IPv6 is 20 bytes longer.
const AROUND4: u32 = 50;
const AROUND6: u32 = 70;

/// A tunnel, as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnel {
    /// The network's number, of 24 bits: the same on all hosts.
    pub vni: u32,
    /// The UDP port.
    pub port: u16,
    /// Whom it sends to what it does not know the place of: a host, or a multicast group.
    pub to: Option<IpAddr>,
    /// The address that it sends from, if not the one that the route says.
    pub local: Option<IpAddr>,
    /// The link that it sends by, if not the one that the route says.
    pub dev: Option<String>,
}

/// A tunnel as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The link, where there is one.
    pub link: Option<Link>,
    /// Of the link that it sends by, in bytes.
    pub underlay_mtu: u32,
}

/// The name of a network's tunnel: that of its bridge with another beginning.
pub fn link_of(definition: &Definition) -> String {
    format!("vx{}", definition.link.strip_prefix("mr").unwrap_or(&definition.link))
}

/// The number of a network for which none was given: it follows from the name (FNV-1a, folded to 24 bits), so that hosts
/// that call it the same agree.
pub fn vni_of(name: &str) -> u32 {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    ((hash >> 24) ^ (hash & 0x00ff_ffff)).max(1)
}

/// Checks an option of such a network, if it is one of the tunnel.
pub fn check_option(key: &str, value: &str) -> Option<Result<()>> {
    let number = |most: u32| {
        let number = value.parse::<u32>().ok().filter(|number| (1..=most).contains(number));
        number.map(drop).with_context(|| format!("a number from 1 to {most} is wanted"))
    };
    Some(match key {
        "vni" => number(0x00ff_ffff),
        "port" => number(0xffff),
        "local" => value.parse::<IpAddr>().map(drop).context("an address of this host is wanted"),
        "dev" => super::mode::link_name(value).map(drop),
        "group" => match value.parse::<IpAddr>() {
            Ok(group) if group.is_multicast() => Ok(()),
            _ => Err(anyhow::anyhow!("a multicast address is wanted")),
        },
        _ => return None,
    })
}

/// The tunnel that a definition says.
pub fn tunnel(definition: &Definition) -> Tunnel {
    let option = |key: &str| definition.options.get(key);
    let group = option("group").and_then(|group| group.parse().ok());
    Tunnel {
        vni: option("vni").and_then(|vni| vni.parse().ok()).unwrap_or_else(|| vni_of(&definition.name)),
        port: option("port").and_then(|port| port.parse().ok()).unwrap_or(PORT),
        to: group.or(definition.remotes.first().copied()),
        local: option("local").and_then(|local| local.parse().ok()),
        dev: option("dev").cloned(),
    }
}

/// Checks what is said of a tunnel all together, and against the other networks.
pub fn check(definition: &Definition, all: &[Definition]) -> Result<()> {
    let own = tunnel(definition);
    let Some(to) = own.to else {
        let remedy = "say where the other hosts are: --remote ADDRESS for each, or --opt group=ADDRESS --opt dev=LINK";
        return Err(refused("driver vxlan: nobody is at the other end", remedy));
    };
    if let Some(other) = definition.remotes.iter().find(|remote| remote.is_multicast() || remote.is_unspecified()) {
        bail!("--remote {other}: it is not the address of a host");
    }
    let mut told = definition.remotes.iter().chain(&own.local);
    if let Some(other) = told.find(|other| other.is_ipv4() != to.is_ipv4()) {
        bail!("driver vxlan: {other} and {to} are not of the same version of IP, and a tunnel has one");
    }
    if to.is_multicast() && own.dev.is_none() {
        return Err(refused(
            format!("--opt group={to}: by which link the others are reached is not said"),
            "--opt dev=LINK",
        ));
    }
    let tunnels = all.iter().filter(|other| other.driver == definition.driver);
    let same = |other: &&Definition| {
        let tunnel = tunnel(other);
        (tunnel.vni, tunnel.port) == (own.vni, own.port)
    };
    if let Some(other) = tunnels.filter(|other| other.name != definition.name).find(same) {
        return Err(refused(
            format!("driver vxlan: network `{}` has the number {} at port {}", other.name, own.vni, own.port),
            "choose another one, on all hosts the same: --opt vni=NUMBER",
        ));
    }
    Ok(())
}

/// Looks at what there is of a tunnel, and at the link that it sends by.
///
/// Errors: a link of its name is somebody else's; the link that it is to send by is not there.
pub fn find(rtnl: &mut Rtnl, view: &View, definition: &Definition) -> Result<Standing> {
    let name = link_of(definition);
    let link = rtnl.link_called(&name)?.as_ref().map(hub::link);
    if link.as_ref().is_some_and(|link| link.alias != definition.alias()) {
        return Err(refused(
            format!("use network `{}`: the host has a link `{name}` that is not minirun's", definition.name),
            format!("rename it (`ip link set {name} name NAME`) or delete it (`ip link del {name}`)"),
        ));
    }
    let underlay_mtu = underlay_mtu(rtnl, view, definition)?;
    Ok(Standing { link, underlay_mtu })
}

/// How many bytes a packet has at most on the way that a tunnel sends by.
///
/// Errors: the link that it is to send by is not there.
pub fn underlay_mtu(rtnl: &mut Rtnl, view: &View, definition: &Definition) -> Result<u32> {
    let tunnel = tunnel(definition);
    let by = match (&tunnel.dev, tunnel.to) {
        (Some(dev), _) => Some(rtnl.link_called(dev)?.with_context(|| {
            format!(
                "use network `{}`: `{dev}`, by which its tunnel is to send, is no link of this host",
                definition.name
            )
        })?),
        (None, Some(IpAddr::V4(remote))) => rtnl.route_to(remote)?.map(|index| rtnl.link(index)).transpose()?.flatten(),
        (None, Some(IpAddr::V6(remote))) => {
            rtnl.route_to6(remote)?.map(|index| rtnl.link(index)).transpose()?.flatten()
        }
        (None, None) => None,
    };
    Ok(by.map_or(view.mtu(), |by| hub::link(&by).mtu))
}

/// The MTU of a network's members, whose packets must fit into the tunnel's.
pub fn mtu(definition: &Definition, underlay_mtu: u32) -> u32 {
    let around = if tunnel(definition).to.is_some_and(|to| to.is_ipv6()) { AROUND6 } else { AROUND4 };
    definition.mtu.unwrap_or(underlay_mtu.saturating_sub(around).max(68))
}

/// The steps of the tunnel that are not done yet. They come after those of the bridge.
pub fn missing(view: &View, definition: &Definition, standing: &Standing, bridge: Option<&Link>) -> Vec<Step> {
    let link = link_of(definition);
    let mut missing = Vec::new();
    let there = standing.link.as_ref();
    if there.is_none() {
        let (tunnel, mtu) = (tunnel(definition), mtu(definition, standing.underlay_mtu));
        let others = definition.remotes.iter().filter(|remote| Some(**remote) != tunnel.to).copied();
        let others: Vec<Step> = others.map(|remote| Step::AddFlood { link: link.clone(), remote }).collect();
        missing.push(Step::AddVxlan { name: link.clone(), mtu, tunnel });
        missing.push(Step::SetAlias { link: link.clone(), alias: definition.alias() });
        missing.extend(others);
        missing.extend(view.ipv6.then(|| Step::NoLinkLocal { place: Place::Hub, link: link.clone() }));
    }
    if there.is_none_or(|there| there.master.is_none() || there.master != bridge.map(|bridge| bridge.index)) {
        let alias = alias_of(&definition.name);
        missing.push(Step::SetPort { link: link.clone(), bridge: definition.link.clone(), alias });
    }
    if !there.is_some_and(|there| there.up) {
        missing.push(Step::SetUp { place: Place::Hub, link });
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::super::driver::Driver;
    use super::*;

    fn network(name: &str, remotes: &[&str], options: &[(&str, &str)]) -> Definition {
        Definition {
            name: name.into(),
            link: format!("mr-{name}"),
            driver: Driver::Vxlan,
            remotes: remotes.iter().map(|remote| remote.parse().unwrap()).collect(),
            options: options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ..Definition::default_network("10.9.0.1/24".parse().unwrap())
        }
    }

    #[test]
    fn a_number_follows_from_the_name() {
        assert_eq!(vni_of("far"), vni_of("far"));
        assert_ne!(vni_of("far"), vni_of("near"));
        assert!(["", "a", "far", "x".repeat(64).as_str()].iter().all(|name| (1..1 << 24).contains(&vni_of(name))));
        assert_eq!(link_of(&network("far", &[], &[])), "vx-far");
    }

    #[test]
    fn what_goes_together() {
        let good = network("far", &["192.0.2.1", "192.0.2.2"], &[]);
        check(&good, std::slice::from_ref(&good)).unwrap();
        check(&network("far", &[], &[("group", "239.1.1.1"), ("dev", "eth0")]), &[]).unwrap();
        for bad in [
            network("far", &[], &[]),
            network("far", &["192.0.2.1", "fd00::1"], &[]),
            network("far", &["239.1.1.1"], &[]),
            network("far", &[], &[("group", "239.1.1.1")]),
            network("far", &["fd00::1"], &[("local", "192.0.2.1")]),
        ] {
            assert!(check(&bad, &[]).is_err(), "{bad:?}");
        }
        let vni = vni_of("far").to_string();
        assert!(check(&good, &[network("other", &["192.0.2.9"], &[("vni", &vni)])]).is_err());
        assert_eq!(mtu(&good, 1400), 1350);
        assert_eq!(mtu(&network("far", &["fd00::1"], &[]), 1400), 1330);
    }
}
