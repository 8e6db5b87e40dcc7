//! What `-p` says: `[ADDRESS:][HOSTPORT[-END]:]PORT[-END][/PROTOCOL]`.

use std::net::IpAddr;
use std::str::FromStr;

use anyhow::{Context, Result, bail};

use super::publish::Protocol;

/// Ports from the first to the last.
pub type Range = (u16, u16);

/// One `-p`, as it was typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Of the host; `None` is its loopback device, of both families.
    pub address: Option<IpAddr>,
    /// Of the host; `None` is any that is free.
    pub host: Option<Range>,
    /// Of the container.
    pub port: Range,
    /// TCP where nothing is said.
    pub protocol: Protocol,
}

impl FromStr for Wish {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let failed = || format!("publish port `{text}`");
        let (rest, protocol) = match text.rsplit_once('/') {
            Some((rest, protocol)) => (rest, protocol.parse().with_context(failed)?),
            None => (text, Protocol::Tcp),
        };
        let (rest, port) = match rest.rsplit_once(':') {
            Some((rest, port)) => (Some(rest), port),
            None => (None, rest),
        };
        let port = range(port).with_context(failed)?;
        let (address, host) = match rest {
            None => (None, None),
            Some(rest) => match rest.rsplit_once(':') {
                Some((address, host)) => (Some(self::address(address).with_context(failed)?), host_range(host)),
                None => (None, host_range(rest)),
            },
        };
        let host = host.transpose().with_context(failed)?;
        if let Some(host) = host {
            let (wanted, given) = (host.1 - host.0, port.1 - port.0);
            if wanted != given && given != 0 {
                bail!("{}: {} ports of the host for {} of the container", failed(), wanted + 1, given + 1);
            }
        }
        Ok(Self { address, host, port, protocol })
    }
}

fn host_range(text: &str) -> Option<Result<Range>> {
    (!text.is_empty()).then(|| range(text))
}

fn address(text: &str) -> Result<IpAddr> {
    let plain = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    plain
        .parse()
        .with_context(|| format!("`{text}` is not an address ([ADDRESS:][HOSTPORT:]PORT[/PROTOCOL] is wanted)"))
}

fn range(text: &str) -> Result<Range> {
    let number = |text: &str| {
        let number = text.parse().ok().filter(|number| *number != 0);
        number.with_context(|| format!("`{text}` is not a port"))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        bail!("`{text}` ends before it begins");
    }
    Ok((first, last))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn wish(text: &str) -> Wish {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_typed_means() {
        assert_eq!(wish("80"), Wish { address: None, host: None, port: (80, 80), protocol: Protocol::Tcp });
        assert_eq!(wish("8080:80").host, Some((8080, 8080)));
        assert_eq!(wish("0.0.0.0:8080:80/udp").address, Some(Ipv4Addr::UNSPECIFIED.into()));
        assert_eq!(wish("[::1]:8080:80").address, Some(Ipv6Addr::LOCALHOST.into()));
        assert_eq!(wish("127.0.0.1::80").host, None);
        assert_eq!(wish("8000-8009:80-89").port, (80, 89));
        assert_eq!(wish("8000-8009:80").host, Some((8000, 8009)));
        for bad in
            ["", "x", "0:80", "80:0", "70000:80", "9-8:80", "8000-8002:80-89", "80/icmp", "a:1:2", "1:2:3:4", ":"]
        {
            assert!(bad.parse::<Wish>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,20}|([0-9]{1,5}|:|-|/|tcp|\\[::1\\]){1,8}") {
            if let Ok(wish) = text.parse::<Wish>() {
                super::super::publish::parts(&wish);
            }
        }
    }
}
