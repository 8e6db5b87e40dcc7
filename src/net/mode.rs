//! What `--net` can be: one value of it, and all of them together.
//!
//! `cli.rs` parses each value as a [`Net`]; [`Mode::of`] says what they mean together, or why they cannot.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::explain::colons;
use super::rtnl::Mac;
use crate::error::refused;
use crate::options;

/// The network that a container is on where nothing else is said.
pub const DEFAULT: &str = "bridge";
/// Where iproute2 keeps the namespaces that it names.
const NAMED: &str = "/run/netns";

/// One value of `--net`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Net {
    /// A namespace of its own with `lo` up and nothing else.
    None,
    /// The host's namespace.
    Host,
    /// The namespace of another container, by its name or ID.
    Container(String),
    /// A namespace that is a file: one that `ip netns add` made, or any other.
    Namespace(PathBuf),
    /// An interface on a managed network.
    Network(Attachment),
}

/// An interface on a managed network, as it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attachment {
    /// The network's name.
    pub network: String,
    /// Its IPv4 address.
    pub ip: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ip6: Option<Ipv6Addr>,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// Further names by which the network's members find it.
    pub aliases: Vec<String>,
    /// Its name in the container.
    pub ifname: Option<String>,
    /// The name of its end on the host.
    pub host_ifname: Option<String>,
    /// Of both ends, in bytes.
    pub mtu: Option<u32>,
    /// The interface with the highest one has the default route, the first of equals.
    pub gw_prio: i32,
    /// Whether the bridge sends its own packets back to it.
    pub hairpin: bool,
    /// Whether it may send from addresses that are not its own.
    pub spoof: bool,
}

impl Attachment {
    /// On that network, with nothing special.
    pub fn on(network: &str) -> Self {
        Self { network: network.to_owned(), ..Self::default() }
    }
}

/// What all values of `--net` mean together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// A namespace of its own with `lo` up and nothing else.
    None,
    /// The host's namespace.
    Host,
    /// The namespace of another container, by its name or ID.
    Container(String),
    /// A namespace that is a file.
    Namespace(PathBuf),
    /// A namespace of its own with an interface a network, in this order.
    Networks(Vec<Attachment>),
}

impl Mode {
    /// Nothing given is [`DEFAULT`].
    ///
    /// Errors: values that exclude each other.
    pub fn of(nets: &[Net]) -> Result<Self> {
        Ok(match nets {
            [] => Self::Networks(vec![Attachment::on(DEFAULT)]),
            [Net::None] => Self::None,
            [Net::Host] => Self::Host,
            [Net::Container(name)] => Self::Container(name.clone()),
            [Net::Namespace(path)] => Self::Namespace(path.clone()),
            several => Self::Networks(several.iter().map(|net| interface(net, several)).collect::<Result<_>>()?),
        })
    }

    /// Whether the container is in a network namespace that was there before, where nothing is made for it.
    pub fn joins(&self) -> bool {
        matches!(self, Self::Host | Self::Container(_) | Self::Namespace(_))
    }

    /// Its interfaces.
    pub fn attachments(&self) -> &[Attachment] {
        match self {
            Self::Networks(attachments) => attachments,
            _ => &[],
        }
    }
}

fn interface(net: &Net, all: &[Net]) -> Result<Attachment> {
    let Net::Network(attachment) = net else {
        let message = format!("use --net={net}: it is one of {}, and stands alone or not at all", all.len());
        return Err(refused(message, "leave out the other --net, or this one"));
    };
    let same = |other: &&Net| matches!(other, Net::Network(other) if other.network == attachment.network);
    if all.iter().filter(same).count() > 1 {
        bail!("use --net={net}: network `{}` is given twice", attachment.network);
    }
    Ok(attachment.clone())
}

impl fmt::Display for Mode {
    /// As `ps` shows it: the networks' names, or the mode.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Net::None.fmt(f),
            Self::Host => Net::Host.fmt(f),
            Self::Container(name) => Net::Container(name.clone()).fmt(f),
            Self::Namespace(path) => Net::Namespace(path.clone()).fmt(f),
            Self::Networks(attachments) => {
                let names: Vec<&str> = attachments.iter().map(|attachment| attachment.network.as_str()).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

impl FromStr for Net {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (word, rest) = match text.split_once(':') {
            Some((word, rest)) => (word, Some(rest)),
            None => (text, None),
        };
        Ok(match (word, rest) {
            ("none", None) => Self::None,
            ("host", None) => Self::Host,
            ("none" | "host", Some(_)) => bail!("{word} takes no options"),
            ("container", Some(name)) if !name.is_empty() => Self::Container(name.to_owned()),
            ("ns", Some(path)) if path.starts_with('/') => Self::Namespace(path.into()),
            ("ns", Some(name)) if !name.is_empty() && name != "." && name != ".." && !name.contains('/') => {
                Self::Namespace(PathBuf::from(NAMED).join(name))
            }
            ("container" | "ns", _) => bail!("container:ID, ns:NAME or ns:/PATH is wanted"),
            (network, rest) => Self::Network(attachment(network, rest.unwrap_or_default())?),
        })
    }
}

fn attachment(network: &str, options: &str) -> Result<Attachment> {
    if !super::definition::valid_name(network) {
        bail!("none, host, container:ID, ns:NAME or the name of a network is wanted");
    }
    let mut attachment = Attachment::on(network);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        // In one piece: what reads the command line prints no more than the first part of an error.
        set(&mut attachment, key, value).map_err(|error| anyhow!("`{option}`: {error:#}"))?;
    }
    Ok(attachment)
}

fn set(attachment: &mut Attachment, key: &str, value: &str) -> Result<()> {
    match key {
        "ip" => attachment.ip = Some(value.parse().context("an IPv4 address is wanted")?),
        "ip6" => attachment.ip6 = Some(value.parse().context("an IPv6 address is wanted")?),
        "mac" => attachment.mac = Some(mac(value)?),
        "alias" => attachment.aliases.push(options::hostname(value)?),
        "ifname" => attachment.ifname = Some(link_name(value)?),
        "host-ifname" => attachment.host_ifname = Some(link_name(value)?),
        "mtu" => attachment.mtu = Some(mtu(value)?),
        "gw-prio" => attachment.gw_prio = value.parse().context("a whole number is wanted")?,
        "hairpin" => attachment.hairpin = switch(value)?,
        "spoof" => attachment.spoof = switch(value)?,
        _ => bail!(
            "there is no such option: ip=, ip6=, mac=, alias=, ifname=, host-ifname=, mtu=, gw-prio=, hairpin and spoof are known"
        ),
    }
    Ok(())
}

/// A hardware address of one interface: `02:42:ac:11:00:02`.
pub fn mac(text: &str) -> Result<Mac> {
    let mut mac = Mac::default();
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2).context("six bytes as 02:42:ac:11:00:02 are wanted")?;
        *byte = u8::from_str_radix(part, 16).context("six bytes as 02:42:ac:11:00:02 are wanted")?;
    }
    if parts.next().is_some() || mac[0] & 1 != 0 || mac == Mac::default() {
        bail!("it is not the address of one interface");
    }
    Ok(mac)
}

/// A link's name, of the signs that mean nothing to a shell or to nft(8): the kernel takes more (`dev_valid_name`).
pub fn link_name(text: &str) -> Result<String> {
    let mut bytes = text.bytes();
    let begins = bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let plain = bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_-.+".contains(&byte));
    if !begins || !plain || text.len() > 15 || ["lo", "all", "default"].contains(&text) {
        bail!("a link's name has 1 to 15 letters, digits and signs of `_-.+`");
    }
    Ok(text.to_owned())
}

/// An MTU: IPv4 needs 68 bytes, a veth takes 65,535.
pub fn mtu(text: &str) -> Result<u32> {
    let number = text.parse().ok().filter(|number| (68..=65535).contains(number));
    number.context("a number from 68 to 65535 is wanted")
}

fn switch(text: &str) -> Result<bool> {
    match text {
        "" | "on" | "true" | "1" => Ok(true),
        "off" | "false" | "0" => Ok(false),
        _ => bail!("on or off is wanted"),
    }
}

impl fmt::Display for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Host => f.write_str("host"),
            Self::Container(name) => write!(f, "container:{name}"),
            Self::Namespace(path) => write!(f, "ns:{}", path.display()),
            Self::Network(attachment) => write!(f, "{attachment}"),
        }
    }
}

impl fmt::Display for Attachment {
    /// As it could be typed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut options: Vec<String> = Vec::new();
        options.extend(self.ip.map(|ip| format!("ip={ip}")));
        options.extend(self.ip6.map(|ip| format!("ip6={ip}")));
        options.extend(self.mac.map(|mac| format!("mac={}", colons(&mac))));
        options.extend(self.aliases.iter().map(|alias| format!("alias={alias}")));
        options.extend(self.ifname.iter().map(|name| format!("ifname={name}")));
        options.extend(self.host_ifname.iter().map(|name| format!("host-ifname={name}")));
        options.extend(self.mtu.map(|mtu| format!("mtu={mtu}")));
        options.extend((self.gw_prio != 0).then(|| format!("gw-prio={}", self.gw_prio)));
        options.extend(self.hairpin.then(|| "hairpin=on".to_owned()));
        options.extend(self.spoof.then(|| "spoof=on".to_owned()));
        let colon = if options.is_empty() { "" } else { ":" };
        write!(f, "{}{colon}{}", self.network, options.join(","))
    }
}

impl TryFrom<String> for Net {
    type Error = anyhow::Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Net> for String {
    fn from(net: Net) -> Self {
        net.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mode(texts: &[&str]) -> Result<Mode> {
        Mode::of(&texts.iter().map(|text| text.parse()).collect::<Result<Vec<Net>>>()?)
    }

    #[test]
    fn what_is_typed_means() {
        assert_eq!(mode(&[]).unwrap().to_string(), "bridge");
        assert_eq!(mode(&["none"]).unwrap(), Mode::None);
        assert_eq!(mode(&["ns:blue"]).unwrap(), Mode::Namespace("/run/netns/blue".into()));
        assert_eq!(mode(&["ns:/proc/1/ns/net"]).unwrap(), Mode::Namespace("/proc/1/ns/net".into()));
        assert_eq!(mode(&["container:web"]).unwrap(), Mode::Container("web".into()));
        let both = mode(&["front:ip=10.1.0.9,mac=02:00:00:00:00:09,alias=db,alias=sql", "back:gw-prio=5"]).unwrap();
        assert_eq!(both.to_string(), "front,back");
        assert_eq!(both.attachments()[0].aliases, ["db", "sql"]);
        assert_eq!(both.attachments()[1].gw_prio, 5);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for bad in [
            &["none", "front"][..],
            &["front", "host"],
            &["front", "front:ip=10.0.0.1"],
            &["none:ip=10.0.0.1"],
            &["container:"],
            &["ns:../x"],
            &["ns:"],
            &["../x"],
            &[""],
            &["front:ip=10.0.0"],
            &["front:ip=::1"],
            &["front:mac=01:00:00:00:00:09"],
            &["front:mac=02:00:00:00:00"],
            &["front:mac=00:00:00:00:00:00"],
            &["front:ifname=lo"],
            &["front:ifname=a/b"],
            &["front:ifname=sixteen_letters_"],
            &["front:mtu=67"],
            &["front:alias=a b"],
            &["front:colour=red"],
        ] {
            assert!(mode(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(text in "(none|host|ns:|container:|[a-z]{1,3}|:|,|=|ip|mac|alias|mtu|10.0.0.1|1500|hairpin){1,9}") {
            if let Ok(net) = text.parse::<Net>() {
                prop_assert_eq!(net.to_string().parse::<Net>().unwrap(), net);
            }
        }
    }
}
