//! A published port: what leads to it in the host's table.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::table::{Element, PORTS4, PORTS6, RANGES4, RANGES6, Value};

/// A transport protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its number (RFC 5237).
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl FromStr for Protocol {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Ok(match text {
            "tcp" => Self::Tcp,
            "udp" => Self::Udp,
            "sctp" => Self::Sctp,
            _ => bail!("tcp, udp or sctp is wanted"),
        })
    }
}

/// A published port, or a range of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Of the host; the unspecified address is all of its family.
    pub address: IpAddr,
    /// The first one of the host.
    pub host: u16,
    /// The container's address.
    pub target: IpAddr,
    /// The first one of the container.
    pub port: u16,
    /// How many there are: host ports and container ports go up together.
    pub count: u16,
    /// Their protocol.
    pub protocol: Protocol,
}

impl fmt::Display for Port {
    /// `127.0.0.1:8080->80/tcp`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |first: u16| match self.count {
            1 => first.to_string(),
            count => format!("{first}-{}", first + (count - 1)),
        };
        let address = match self.address {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        write!(f, "{address}:{}->{}/{}", range(self.host), range(self.port), self.protocol)
    }
}

impl Port {
    /// Whether minirun itself passes on what comes there: the kernel leads nothing away from `::1`, and nothing from IPv6 to
    /// IPv4.
    pub fn is_relayed(&self) -> bool {
        self.address == Ipv6Addr::LOCALHOST || self.address.is_ipv6() && self.target.is_ipv4()
    }

    /// Whether minirun passes on a part of what comes there: from `::1`, also where the kernel leads the rest.
    pub fn has_relay(&self) -> bool {
        self.is_relayed() || self.address == Ipv6Addr::UNSPECIFIED && self.protocol != Protocol::Sctp
    }

    /// Whether it is the port of the container that people call `80` or `53/udp`, or one of its publications as `-p` has it:
    /// `8080:80`, `127.0.0.1:8080:80`.
    pub fn is_at(&self, text: &str) -> bool {
        let (outside, inside) = text.rsplit_once(':').map_or((None, text), |(outside, inside)| (Some(outside), inside));
        let (number, protocol) = inside.split_once('/').unwrap_or((inside, "tcp"));
        let range = self.port..=self.port + (self.count - 1);
        let is_published_so = |outside: &str| {
            let (address, host) = outside.rsplit_once(':').map_or((None, outside), |(at, host)| (Some(at), host));
            let is_there = |address: &str| address.trim_matches(['[', ']']).parse() == Ok(self.address);
            host.parse() == Ok(self.host) && address.is_none_or(is_there)
        };
        protocol == self.protocol.to_string()
            && number.parse().is_ok_and(|number| range.contains(&number))
            && outside.is_none_or(is_published_so)
    }

    /// Whether it is reached at an IPv4 address of the loopback device.
    pub fn is_local(&self) -> bool {
        self.address.is_ipv4() && (self.address.is_loopback() || self.address.is_unspecified())
    }

    /// Whether other machines can reach it.
    pub fn is_exposed(&self) -> bool {
        !self.address.is_loopback()
    }

    /// What leads to it: one element for one port and for a range that is the same in the container, else one a port.
    pub fn elements(&self, comment: &str) -> Vec<Element> {
        if self.is_relayed() {
            return vec![];
        }
        let (ports, ranges) = if self.address.is_ipv4() { (&PORTS4, &RANGES4) } else { (&PORTS6, &RANGES6) };
        let (first_address, last_address) = match self.address {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => (self.address, IpAddr::V4(Ipv4Addr::BROADCAST)),
            // All but the loopback device's, which the kernel cannot lead anywhere.
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => (Ipv6Addr::from(2).into(), Ipv6Addr::from(u128::MAX).into()),
            address => (address, address),
        };
        let protocol = || Value::Protocol(self.protocol.number());
        let key = |address: IpAddr, port: u16| vec![Value::Port(port), protocol(), address.into()];
        let comment = comment.to_owned();
        if self.count > 1 && self.host == self.port {
            let end = key(last_address, self.host + (self.count - 1));
            let value = vec![self.target.into()];
            return vec![Element { set: ranges, key: key(first_address, self.host), end, value, comment }];
        }
        (0..self.count)
            .map(|offset| Element {
                set: ports,
                key: key(first_address, self.host + offset),
                end: key(last_address, self.host + offset),
                value: vec![self.target.into(), Value::Port(self.port + offset)],
                comment: comment.clone(),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_stays_the_same_is_one_element() {
        let port = |host, count| Port {
            address: Ipv4Addr::UNSPECIFIED.into(),
            host,
            target: Ipv4Addr::new(10, 0, 0, 2).into(),
            port: 8000,
            count,
            protocol: Protocol::Udp,
        };
        assert_eq!(port(8000, 1000).elements("x").len(), 1);
        assert_eq!(port(9000, 10).elements("x").len(), 10);
        assert_eq!(port(9000, 10).to_string(), "0.0.0.0:9000-9009->8000-8009/udp");
    }
}
