//! A link of the host that is lent to a container (`--net=dev:eth1`), and given back.
//!
//! `mode.rs` reads it, `decide.rs` looks at it, `apply.rs` moves it. What it has on the host (name, index, state, MTU, hardware
//! address, addresses, routes) is in the container's record before it goes, and is given to it again when it is back. The kernel
//! gives nothing but hardware back by itself: a veth or a VLAN dies with the namespace that it is in. So the
//! namespace is mounted on a file of the hub before a link goes, which keeps it whatever is killed: its holder, or the
//! next command that sweeps, brings the link home from there.

mod device;
mod keep;

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, anyhow, bail};
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

pub use self::device::{Device, look};
pub use self::keep::{Keeper, bring_back, keep_for, recover};
use super::step::Step;
use super::{Mode, Request, mode};
use crate::state::Record;

/// A link that is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lent {
    /// Its name on the host.
    pub device: String,
    /// Its name in the container.
    pub ifname: Option<String>,
    /// Its IPv4 address there, with the prefix length of its network.
    pub ip: Option<Ipv4Net>,
    /// The same of IPv6.
    pub ip6: Option<Ipv6Net>,
    /// The next hop of the default route.
    pub gateway: Option<Ipv4Addr>,
    /// The same of IPv6.
    pub gateway6: Option<Ipv6Addr>,
    /// In bytes.
    pub mtu: Option<u32>,
}

impl Lent {
    /// Reads `NAME[:OPTIONS]`.
    pub fn parse(text: &str) -> Result<Self> {
        let (device, options) = text.split_once(':').unwrap_or((text, ""));
        let mut lent = Self { device: mode::link_name(device)?, ..Self::default() };
        for option in options.split(',').filter(|option| !option.is_empty()) {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            lent.set(key, value).map_err(|error| anyhow!("`{option}`: {error:#}"))?;
        }
        let reaches = |has: bool, family| {
            if has { Ok(()) } else { Err(anyhow!("its gateway is not in the network of its {family}")) }
        };
        reaches(lent.gateway.is_none_or(|gateway| lent.ip.is_some_and(|net| net.contains(&gateway))), "ip=")?;
        let near =
            |gateway: Ipv6Addr| gateway.is_unicast_link_local() || lent.ip6.is_some_and(|net| net.contains(&gateway));
        reaches(lent.gateway6.is_none_or(near), "ip6=").map(|()| lent)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<()> {
        match key {
            "ip" => self.ip = Some(value.parse().context("an address as 192.0.2.7/24 is wanted")?),
            "ip6" => self.ip6 = Some(value.parse().context("an address as fd00::7/64 is wanted")?),
            "gateway" => match value.parse().context("an address is wanted")? {
                std::net::IpAddr::V4(address) => self.gateway = Some(address),
                std::net::IpAddr::V6(address) => self.gateway6 = Some(address),
            },
            "ifname" => self.ifname = Some(mode::link_name(value)?),
            "mtu" => self.mtu = Some(mode::mtu(value)?),
            _ => bail!("there is no such option: ip=, ip6=, gateway=, ifname= and mtu= are known"),
        }
        Ok(())
    }

    /// Its name in the container.
    pub fn name(&self) -> &str {
        self.ifname.as_ref().unwrap_or(&self.device)
    }
}

impl std::fmt::Display for Lent {
    /// As it could be typed after `dev:`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut options: Vec<String> = Vec::new();
        options.extend(self.ip.map(|ip| format!("ip={ip}")));
        options.extend(self.ip6.map(|ip| format!("ip6={ip}")));
        options.extend(self.gateway.map(|gateway| format!("gateway={gateway}")));
        options.extend(self.gateway6.map(|gateway| format!("gateway={gateway}")));
        options.extend(self.ifname.iter().map(|name| format!("ifname={name}")));
        options.extend(self.mtu.map(|mtu| format!("mtu={mtu}")));
        let colon = if options.is_empty() { "" } else { ":" };
        write!(f, "{}{colon}{}", self.device, options.join(","))
    }
}

/// The names in the container of the links that are lent to it.
pub fn names(request: &Request<'_>) -> Vec<String> {
    match request.beside {
        // What they are called there since is not known: those names are taken that they came by.
        Some(beside) => beside
            .steps
            .iter()
            .filter_map(|step| match step {
                Step::Lend { name, .. } => Some(name.clone()),
                _ => None,
            })
            .collect(),
        None => request.lent.iter().map(|lent| lent.name().to_owned()).collect(),
    }
}

/// What a container's record says of the links that are lent to it, beside its networks.
pub fn write_down(devices: &[Device], mode: &Mode, record: &mut Record) {
    record.lent = devices.to_vec();
    if !devices.is_empty() {
        let managed = mode.attachments().iter().map(|attachment| attachment.network.clone());
        let lent = devices.iter().map(|device| format!("dev:{}", device.name));
        record.network = managed.chain(lent).collect::<Vec<_>>().join(",");
    }
}
