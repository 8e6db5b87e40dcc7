//! The machine's network as it was found: namespaces, their links, and which ends belong together.
//!
//! Made by `gather.rs`, completed by `pair.rs`, reduced by `select.rs`, and drawn by the rest; `--format json` is this.
//! Names, aliases and comments in it are untrusted text: whoever draws them escapes them (`escape.rs`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

/// The machine's network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Graph {
    /// The host's namespace first.
    pub namespaces: Vec<Namespace>,
    /// Ports of the host that lead to a container.
    pub published: Vec<Published>,
    /// Where the source of packets is changed, by tables of others than minirun.
    pub nat: Vec<Nat>,
}

/// A network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Namespace {
    /// Its inode number in nsfs.
    pub id: u64,
    /// Whose it is.
    pub kind: Kind,
    /// Names of its containers, or its own.
    pub names: Vec<String>,
    /// IDs of its containers, as far as their engine gives some.
    pub ids: Vec<String>,
    /// The process by which it was found, the first one in it.
    pub pid: Option<i32>,
    /// Whether its links could be listed.
    pub seen: bool,
    /// Its links, by index.
    pub links: Vec<Link>,
    /// Its default routes.
    pub routes: Vec<Route>,
}

/// Whose a network namespace is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// That of whoever asks.
    Host,
    /// One of minirun's containers.
    Minirun,
    /// One of docker's.
    Docker,
    /// One of podman's.
    Podman,
    /// One of another engine, known by its cgroup.
    Container,
    /// One with a name in /run/netns.
    Named,
    /// Some process's.
    #[default]
    Process,
}

/// A link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `veth`, `bridge`, `macvlan` and so on; `loopback`, or `device` where the kernel names no kind.
    pub kind: String,
    /// What somebody noted about it.
    pub alias: Option<String>,
    /// The network of minirun's whose bridge it is, or whose part, of one that has no bridge.
    pub network: Option<String>,
    /// Its hardware address.
    pub mac: Option<String>,
    /// The largest packet, in bytes.
    pub mtu: u32,
    /// Whether it is up, and has a carrier.
    pub up: bool,
    /// Its addresses; link-local ones of IPv6 are left out.
    pub addresses: Vec<IpNet>,
    /// The bridge, bond or other link that it is a port of.
    pub master: Option<u32>,
    /// The other end of a veth pair, or the link below a macvlan, vlan or the like.
    pub peer: Option<End>,
    /// Whether there is an other end that was not found: in a namespace out of sight.
    pub peer_unseen: bool,
    /// Options of its kind, and of a port.
    pub options: BTreeMap<String, String>,
    /// Whether packets that come in by it leave with the host's address (minirun's rules).
    pub masquerade: bool,
    /// Whether minirun's rules keep its containers from the outside and the host.
    pub closed: bool,
    /// What went through it; asked for by `--stats`.
    pub stats: Option<Stats>,
}

/// A link of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct End {
    /// The namespace's number.
    pub namespace: u64,
    /// The link's.
    pub link: u32,
}

/// A default route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Route {
    /// The router; `None` where everything is a neighbour.
    pub gateway: Option<IpAddr>,
    /// The link it leaves by.
    pub link: u32,
    /// Whether it is one of IPv6.
    pub ipv6: bool,
    /// The one with the lowest is used.
    pub metric: u32,
}

/// Counters of a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
}

/// Ports of the host that lead to a container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Published {
    /// The host's address; the unspecified one is all of its family.
    pub address: IpAddr,
    /// The first port of the host.
    pub host: u16,
    /// The container's address.
    pub target: IpAddr,
    /// The first port of the container.
    pub port: u16,
    /// How many.
    pub count: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
}

/// A table of nftables (iptables' among them) that changes the source of packets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Nat {
    /// `ip`, `ip6` or `inet`.
    pub family: String,
    /// The table's name.
    pub table: String,
    /// The chain's.
    pub chain: String,
    /// How many rules of it do so.
    pub rules: usize,
}

impl Graph {
    /// The namespace with this number.
    pub fn namespace(&self, id: u64) -> Option<&Namespace> {
        self.namespaces.iter().find(|namespace| namespace.id == id)
    }

    /// The link, with its namespace.
    pub fn end(&self, end: End) -> Option<(&Namespace, &Link)> {
        let namespace = self.namespace(end.namespace)?;
        Some((namespace, namespace.link(end.link)?))
    }
}

impl Namespace {
    /// The link with this index.
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.binary_search_by_key(&index, |link| link.index).ok().map(|at| &self.links[at])
    }

    /// What people call it.
    pub fn title(&self) -> String {
        match (self.kind, self.names.as_slice()) {
            (Kind::Host, _) => "host".into(),
            (_, []) => self.pid.map_or_else(|| format!("net:[{}]", self.id), |pid| format!("pid {pid}")),
            (Kind::Process, [name, ..]) => self.pid.map_or_else(|| name.clone(), |pid| format!("{name} (pid {pid})")),
            (_, names) => names.join(", "),
        }
    }
}

impl Kind {
    /// Said beside the name where that does not tell it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Host | Self::Minirun | Self::Process => "",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Container => "container",
            Self::Named => "netns",
        }
    }
}

impl Link {
    /// Its first IPv4 address, else its first address.
    pub fn first_address(&self) -> Option<IpNet> {
        let v4 = self.addresses.iter().find(|address| matches!(address, IpNet::V4(_)));
        v4.or_else(|| self.addresses.first()).copied()
    }

    /// Whether it has ports of its own.
    pub fn is_hub(&self) -> bool {
        matches!(self.kind.as_str(), "bridge" | "bond" | "team" | "openvswitch" | "vrf")
    }

    /// Whether its kind is that of one end of a pair.
    pub fn is_pair(&self) -> bool {
        matches!(self.kind.as_str(), "veth" | "netkit" | "vxcan")
    }
}

impl Published {
    /// Ports that go on where others end are told together.
    pub fn joined(mut all: Vec<Self>) -> Vec<Self> {
        let place = |one: &Self| (one.address, one.target, one.protocol.clone(), one.host);
        all.sort_by_key(place);
        let mut joined: Vec<Self> = Vec::with_capacity(all.len());
        for one in all {
            match joined.last_mut().filter(|last| last.leads_to(&one)) {
                Some(last) => last.count = last.count.saturating_add(one.count),
                None => joined.push(one),
            }
        }
        joined.sort();
        joined
    }

    fn leads_to(&self, next: &Self) -> bool {
        let same = (self.address, self.target, &self.protocol) == (next.address, next.target, &next.protocol);
        let behind = |first: u16| first.checked_add(self.count);
        same && behind(self.host) == Some(next.host) && behind(self.port) == Some(next.port)
    }

    /// Where on the host: `127.0.0.1:8080`, `*:53`.
    pub fn outside(&self) -> String {
        let address = match self.address {
            address if address.is_unspecified() && address.is_ipv4() => "*".into(),
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        format!("{address}:{}", self.range(self.host))
    }

    /// Where in the container: `80/tcp`.
    pub fn inside(&self) -> String {
        format!("{}/{}", self.range(self.port), self.protocol)
    }

    fn range(&self, first: u16) -> String {
        match self.count {
            1 => first.to_string(),
            count => format!("{first}-{}", u32::from(first) + u32::from(count) - 1),
        }
    }
}
