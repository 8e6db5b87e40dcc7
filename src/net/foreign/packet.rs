//! The packets that are asked about: the first of a connection, on each of the ways that a container's packets take.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;

/// The hooks' numbers in the kernel (`NF_INET_*`), which are their names here.
pub const HOOKS: [&str; 5] = ["prerouting", "input", "forward", "output", "postrouting"];

const TCP: u8 = 6;
/// A port that no rule is about by its number.
const PORT: u16 = 46_111;
/// An index that no link has: a bridge that is not made yet.
const NO_INDEX: u32 = u32::MAX;

/// From where to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// From a container to other machines.
    Out,
    /// From other machines to a published port.
    In,
    /// From container to container on one bridge: only where the bridge asks the rules of IP (`br_netfilter`).
    Between,
    /// From a container to the host.
    ToHost,
    /// From the host to a container.
    FromHost,
}

impl Way {
    /// In the words of a sentence: "drops packets ...".
    pub fn words(self) -> &'static str {
        match self {
            Self::Out => "from containers to other machines",
            Self::In => "from other machines to published ports",
            Self::Between => "from container to container",
            Self::ToHost => "from containers to the host",
            Self::FromHost => "from the host to containers",
        }
    }
}

/// A link, as rules may name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Its index, where it has one already.
    pub index: Option<u32>,
}

/// The first packet of a TCP connection, at one hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The hook's number.
    pub hook: usize,
    /// By which link it came in; empty where it did not.
    pub input: Option<Named>,
    /// By which it leaves, where that is known already.
    pub output: Option<Named>,
    /// Whose it is.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// Whether its destination was translated.
    pub translated: bool,
    /// Whether it is from an address of the host's, and whether it is to one.
    pub local: (bool, bool),
}

/// What the ways begin and end at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The bridge.
    pub bridge: Named,
    /// The link of the default route.
    pub uplink: Option<Named>,
    /// The host's address on the bridge.
    pub gateway: IpAddr,
    /// Two containers'.
    pub members: [IpAddr; 2],
    /// Whether a bridge asks the rules of IP.
    pub bridges_ask: bool,
    /// Whether the network is open to the outside.
    pub outward: bool,
}

/// A hook, the links of input and output, source and destination.
type Hop<'a> = (usize, Option<&'a Named>, Option<&'a Named>, IpAddr, IpAddr);

impl Places {
    /// Every packet on every way that there is.
    pub fn packets(&self) -> Vec<(Way, Packet)> {
        let (far, near) = match self.gateway {
            IpAddr::V4(_) => (IpAddr::from(Ipv4Addr::new(203, 0, 113, 1)), IpAddr::from(Ipv4Addr::new(203, 0, 113, 2))),
            IpAddr::V6(_) => {
                let of = |last| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, last));
                (of(1), of(2))
            }
        };
        let [one, two] = self.members;
        let bridge = Some(&self.bridge);
        let mut all = Vec::new();
        let mut way = |way: Way, hops: &[Hop]| {
            for (hook, input, output, source, destination) in hops {
                let translated = way == Way::In && *hook != 0;
                let (input, output) = (input.cloned(), output.cloned());
                let (source, destination) = (*source, *destination);
                let to_host = way == Way::ToHost || (way == Way::In && *hook == 0);
                let local = (way == Way::FromHost, to_host);
                all.push((way, Packet { hook: *hook, input, output, source, destination, translated, local }));
            }
        };
        if let (Some(uplink), true) = (self.uplink.as_ref().map(Some), self.outward) {
            way(Way::Out, &[(0, bridge, None, one, far), (2, bridge, uplink, one, far), (4, bridge, uplink, one, far)]);
            way(Way::In, &[(0, uplink, None, far, near), (2, uplink, bridge, far, one), (4, uplink, bridge, far, one)]);
        }
        if self.bridges_ask {
            way(
                Way::Between,
                &[(0, bridge, None, one, two), (2, bridge, bridge, one, two), (4, bridge, bridge, one, two)],
            );
        }
        if self.outward {
            way(Way::ToHost, &[(0, bridge, None, one, self.gateway), (1, bridge, None, one, self.gateway)]);
        }
        way(Way::FromHost, &[(3, None, bridge, self.gateway, one), (4, None, bridge, self.gateway, one)]);
        all
    }
}

impl Packet {
    /// Whether it is IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// Its transport protocol.
    pub const fn protocol(&self) -> u8 {
        TCP
    }

    /// The port that it goes to.
    pub const fn port(&self) -> u16 {
        PORT
    }

    /// What is known of its IP header.
    pub fn network_header(&self) -> Vec<Option<u8>> {
        let mut header = match self.source {
            IpAddr::V4(_) => {
                let mut header = vec![None; 12];
                (header[0], header[1], header[9]) = (Some(0x45), Some(0), Some(TCP));
                header
            }
            IpAddr::V6(_) => {
                let mut header = vec![None; 8];
                (header[0], header[6]) = (Some(0x60), Some(TCP));
                header
            }
        };
        for address in [self.source, self.destination] {
            match address {
                IpAddr::V4(address) => header.extend(address.octets().map(Some)),
                IpAddr::V6(address) => header.extend(address.octets().map(Some)),
            }
        }
        header
    }

    /// What is known of its TCP header: where it goes, and that it opens a connection.
    pub fn transport_header(&self) -> Vec<Option<u8>> {
        let mut header = vec![None; 20];
        let [high, low] = PORT.to_be_bytes();
        (header[2], header[3], header[13]) = (Some(high), Some(low), Some(self.flags()));
        header
    }

    /// Its TCP flags: SYN.
    pub const fn flags(&self) -> u8 {
        2
    }

    /// The state of its connection, new, as a bit (`NF_CT_STATE_BIT`).
    pub const fn state(&self) -> u32 {
        8
    }

    /// What is known of its connection (`IPS_*`).
    pub const fn status(&self) -> u32 {
        const DST_NAT: u32 = 1 << 5;
        if self.translated { DST_NAT } else { 0 }
    }

    /// The name of a link, empty where it has none here.
    pub fn name(link: Option<&Named>) -> &str {
        link.map_or("", |link| &link.name)
    }

    /// The index of a link; 0 where it has none here.
    pub fn index(link: Option<&Named>) -> u32 {
        link.map_or(0, |link| link.index.unwrap_or(NO_INDEX))
    }
}
