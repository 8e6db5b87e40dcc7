//! Tap devices (`--tap`): a wire for a program that speaks Ethernet itself, a virtual machine or a network stack of its own.
//!
//! `plan/` reads them, `decide.rs` lists their steps. The child opens `/dev/net/tun` in its namespace and hands it over, as
//! it does its sockets; the device is made through that descriptor (`apply.rs`) and persists, so that a program can open it by
//! its name without a capability: it is its owner's. It goes with the namespace.

use std::str::FromStr;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use rustix::fs::{CWD, FileType, Mode, OFlags, openat};
use serde::{Deserialize, Serialize};

use super::mode::link_name;
use super::step::{Place, Step};

/// Where a program opens it.
pub const DEVICE: &str = "/dev/net/tun";
/// So many a container has at most: their descriptors go in one message with its sockets.
pub const MOST: usize = 8;

/// A tap device that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// Its name.
    pub name: String,
    /// The address of the container's side, with the prefix length of its network.
    pub address: Option<IpNet>,
    /// The user who may open it, as the host counts.
    pub owner: u32,
}

impl FromStr for Tap {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let failed = || format!("make tap device `{text}`");
        let (name, address) = match text.split_once(':') {
            Some((name, address)) => (name, Some(address)),
            None => (text, None),
        };
        let name = link_name(name).with_context(failed)?;
        let address = address.map(|address| {
            let parsed: IpNet = address.parse().context("an address as 10.9.0.1/24 or fd00::1/64 is wanted")?;
            let addr = parsed.addr();
            if addr.is_unspecified() || addr.is_multicast() || addr.is_loopback() {
                bail!("`{addr}` is no address of an interface");
            }
            Ok(parsed)
        });
        Ok(Self { name, address: address.transpose().with_context(failed)?, owner: 0 })
    }
}

/// Those that these words say.
///
/// Errors: a name twice, too many.
pub fn parse(texts: &[String]) -> Result<Vec<Tap>> {
    let taps = texts.iter().map(|text| text.parse()).collect::<Result<Vec<Tap>>>()?;
    if taps.len() > MOST {
        bail!("make tap device `{}`: a container has {MOST} at most", taps[MOST].name);
    }
    for (at, tap) in taps.iter().enumerate() {
        if taps[..at].iter().any(|other| other.name == tap.name) {
            bail!("make tap device `{}`: asked for twice", tap.name);
        }
    }
    Ok(taps)
}

/// The steps that make them. Their indices begin at `first`, above those of the interfaces on networks, which are chosen too.
pub fn steps(taps: &[Tap], first: u32) -> impl Iterator<Item = Step> {
    let place = Place::Container;
    taps.iter().zip(first..).flat_map(move |(tap, index)| {
        let link = tap.name.clone();
        let address = tap.address.map(|address| Step::AddAddress { place, link: link.clone(), address });
        let add = Step::AddTap { link: link.clone(), index, owner: tap.owner };
        [Some(add), address, Some(Step::SetUp { place, link })].into_iter().flatten()
    })
}

/// In the container's namespace, with the host's files in sight: opens what each is made through.
pub fn open(taps: &[Tap]) -> Result<Vec<std::os::fd::OwnedFd>> {
    let open = |_: &Tap| openat(CWD, DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    taps.iter().map(open).collect::<Result<_, _>>().with_context(|| format!("open `{DEVICE}`"))
}

/// Whether the host has the device.
pub fn is_there() -> bool {
    rustix::fs::stat(DEVICE).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_char_device())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_typed_means() {
        let tap = |text: &str| text.parse::<Tap>().unwrap();
        assert_eq!(tap("tap0"), Tap { name: "tap0".into(), address: None, owner: 0 });
        assert_eq!(tap("vm:10.9.0.1/24").address, "10.9.0.1/24".parse().ok());
        assert_eq!(tap("vm:fd00::1/64").address, "fd00::1/64".parse().ok());
        for bad in [
            "",
            ":10.9.0.1/24",
            "lo",
            "a/b",
            "tap0:",
            "tap0:10.9.0.1",
            "tap0:10.9.0.1/33",
            "tap0:0.0.0.0/0",
            "t:::1/128",
        ] {
            assert!(bad.parse::<Tap>().is_err(), "{bad}");
        }
        let many: Vec<String> = (0..=MOST).map(|number| format!("tap{number}")).collect();
        assert!(parse(&many).is_err() && parse(&many[1..]).is_ok() && parse(&["a".into(), "a".into()]).is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,20}") {
            let _ = text.parse::<Tap>();
        }
    }
}
