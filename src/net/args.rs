//! The options of `run` that say what network a container has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::mode::{Mode, Net, mac};
use super::wish::Wish;
use crate::error::refused;
use crate::options;

/// Options of `run` that say what network a container has.
#[derive(Debug, Default, Clone, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(default)]
pub struct NetArgs {
    /// Network: none, host, bridge, container:ID, ns:NAME, or a network's name with options, as front:ip=10.1.0.9,alias=db
    /// (ip, ip6, mac, alias, ifname, host-ifname, mtu, gw-prio, hairpin, spoof); several give an interface each
    #[arg(long, visible_alias = "network", value_name = "NET")]
    pub net: Vec<Net>,
    /// IPv4 address on the first network
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<Ipv4Addr>,
    /// IPv6 address on the first network
    #[arg(long, value_name = "ADDRESS")]
    pub ip6: Option<Ipv6Addr>,
    /// Hardware address on the first network
    #[arg(long, value_name = "ADDRESS")]
    pub mac_address: Option<String>,
    /// Further name on the first network
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    pub network_alias: Vec<String>,
    /// Add a line to /etc/hosts; the address host-gateway is the bridge's
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,
    /// Name server instead of the host's
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<IpAddr>,
    /// Domain to look names up in, instead of the host's
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// Option of resolv.conf, instead of the host's
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    pub dns_option: Vec<String>,
    /// Publish a port or a range: on the host's loopback device, unless an address is given (0.0.0.0 is all); without HOSTPORT
    /// a free one is taken
    #[arg(short, long, value_name = "[ADDRESS:][HOSTPORT:]PORT[/PROTOCOL]")]
    pub publish: Vec<String>,
    /// Publish all ports that the image or --expose names, each at a free port of the host's loopback device
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// Name a port or a range for --publish-all
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    pub expose: Vec<String>,
}

impl NetArgs {
    /// What they mean together.
    ///
    /// Errors: options that exclude each other, or that cannot take effect.
    pub fn mode(&self) -> Result<Mode> {
        let mut mode = Mode::of(&self.net)?;
        if let Some(option) = self.first_option() {
            let Mode::Networks(attachments) = &mut mode else {
                let message = format!("use --{option}: with --net={mode} there is no interface of the container's own");
                return Err(refused(message, format!("leave out --{option}, or --net={mode}")));
            };
            let first = &mut attachments[0];
            let twice = [
                (first.ip.is_some() && self.ip.is_some(), "ip"),
                (first.ip6.is_some() && self.ip6.is_some(), "ip6"),
                (first.mac.is_some() && self.mac_address.is_some(), "mac-address"),
            ];
            if let Some((_, option)) = twice.iter().find(|(twice, _)| *twice) {
                bail!("use --{option}: --net={} says it already", first.network);
            }
            first.ip = first.ip.or(self.ip);
            first.ip6 = first.ip6.or(self.ip6);
            if let Some(text) = &self.mac_address {
                first.mac = Some(mac(text).with_context(|| format!("use --mac-address {text}"))?);
            }
            for alias in &self.network_alias {
                first.aliases.push(options::hostname(alias).with_context(|| format!("use --network-alias {alias}"))?);
            }
        }
        Ok(mode)
    }

    /// What is published; `of_image` are the ports that the image names.
    pub fn wishes(&self, of_image: &[String]) -> Result<Vec<Wish>> {
        let mut wishes = self.publish.iter().map(|text| text.parse()).collect::<Result<Vec<Wish>>>()?;
        let mut exposed: Vec<&String> = self.expose.iter().chain(of_image).collect();
        exposed.sort();
        exposed.dedup();
        for text in exposed {
            let failed = || format!("expose port `{text}`: PORT[-END][/PROTOCOL] is wanted");
            let wish: Wish = text.parse().with_context(failed)?;
            if wish.host.is_some() || wish.address.is_some() {
                bail!("{}", failed());
            }
            wishes.extend(self.publish_all.then_some(wish));
        }
        Ok(wishes)
    }

    /// One of the options about the first interface.
    fn first_option(&self) -> Option<&'static str> {
        let given = [
            (self.ip.is_some(), "ip"),
            (self.ip6.is_some(), "ip6"),
            (self.mac_address.is_some(), "mac-address"),
            (!self.network_alias.is_empty(), "network-alias"),
        ];
        given.into_iter().find(|(given, _)| *given).map(|(_, option)| option)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_first_interface() {
        let args = |nets: &[&str]| NetArgs {
            net: nets.iter().map(|text| text.parse().unwrap()).collect(),
            ip: Some(Ipv4Addr::new(10, 1, 0, 9)),
            network_alias: vec!["db".into()],
            ..NetArgs::default()
        };
        let mode = args(&["front:alias=sql", "back"]).mode().unwrap();
        assert_eq!(mode.attachments()[0].ip, Some(Ipv4Addr::new(10, 1, 0, 9)));
        assert_eq!(mode.attachments()[0].aliases, ["sql", "db"]);
        assert_eq!(mode.attachments()[1].ip, None);
        assert!(args(&["front:ip=10.1.0.8"]).mode().is_err());
        assert!(args(&["none"]).mode().is_err());
        assert!(NetArgs { mac_address: Some("x".into()), ..NetArgs::default() }.mode().is_err());
    }
}
