//! Ranges of addresses for new networks: the first that overlaps nothing on the host.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use ipnet::{Ipv4Net, Ipv6Net};

use super::hub::Taken;
use crate::error::refused;

/// The prefix length of the network that is there without being defined: 4,094 addresses.
const DEFAULT_PREFIX: u8 = 20;
/// The prefix length of a network whose range is not given: 254 addresses.
const USER_PREFIX: u8 = 24;

/// The prefix length of a network of two whose range is not given. (A /31 would do, but not for every program.)
const TWO_PREFIX: u8 = 30;

/// The ranges that networks are taken from, in this order.
const RANGES: [([u8; 4], u8); 3] = [([10, 214, 0, 0], 15), ([172, 30, 0, 0], 15), ([192, 168, 0, 0], 16)];

fn pools(prefix: u8) -> impl Iterator<Item = Ipv4Net> {
    RANGES
        .into_iter()
        .flat_map(move |(address, length)| Ipv4Net::new_assert(address.into(), length).subnets(prefix))
        .flatten()
}

/// The gateway of the network that is there without being defined.
pub fn for_default_network(taken: &[Taken]) -> Result<Ipv4Net> {
    first_free(DEFAULT_PREFIX, taken, "bridge `minirun0`")
}

/// The gateway of a new network called `name`. The first range is left to the network that is there in any case.
pub fn for_network(name: &str, taken: &[Taken]) -> Result<Ipv4Net> {
    for_user(name, USER_PREFIX, taken)
}

/// The range of a new network of two called `name`.
pub fn for_two(name: &str, taken: &[Taken]) -> Result<Ipv4Net> {
    for_user(name, TWO_PREFIX, taken).map(|gateway| gateway.trunc())
}

fn for_user(name: &str, prefix: u8, taken: &[Taken]) -> Result<Ipv4Net> {
    let reserved = Taken {
        range: Ipv4Net::new_assert(RANGES[0].0.into(), DEFAULT_PREFIX),
        holder: "kept for network `bridge`".into(),
    };
    let all: Vec<Taken> = std::iter::once(reserved).chain(taken.iter().cloned()).collect();
    first_free(prefix, &all, &format!("network `{name}`"))
}

fn first_free(prefix: u8, taken: &[Taken], what: &str) -> Result<Ipv4Net> {
    // There may be a thousand networks: what is no larger than a pool is looked up, not compared with each.
    let (small, large): (Vec<&Taken>, Vec<&Taken>) = taken.iter().partition(|taken| taken.range.prefix_len() >= prefix);
    let small: HashMap<Ipv4Net, &Taken> = small
        .into_iter()
        .filter_map(|taken| Some((Ipv4Net::new(taken.range.network(), prefix).ok()?.trunc(), taken)))
        .collect();
    let overlap = |pool: Ipv4Net| {
        let around = || large.iter().copied().find(|taken| taken.range.contains(&pool));
        small.get(&pool).copied().or_else(around)
    };
    if let Some(pool) = pools(prefix).find(|pool| overlap(*pool).is_none()) {
        return first_of(pool);
    }
    let mut holders: Vec<String> =
        pools(prefix).filter_map(overlap).map(|taken| format!("{} ({})", taken.range, taken.holder)).collect();
    holders.dedup();
    holders.truncate(8);
    Err(refused(
        format!("choose addresses for {what}: every range is in use: {}", holders.join(", ")),
        format!(
            "free one of them: minirun tries 10.214.0.0/15, 172.30.0.0/15 and 192.168.0.0/16 in parts of /{prefix}"
        ),
    ))
}

/// Whether two ranges have an address in common.
pub fn overlaps(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// A network's first address, with its prefix length: the gateway's where nothing else is said.
pub fn first_of(pool: Ipv4Net) -> Result<Ipv4Net> {
    let address = Ipv4Addr::from(u32::from(pool.network()) + 1);
    Ipv4Net::new(address, pool.prefix_len()).context("find the first address")
}

/// [`first_of`] for IPv6.
pub fn first_of6(pool: Ipv6Net) -> Result<Ipv6Net> {
    let address = Ipv6Addr::from(u128::from(pool.network()) + 1);
    Ipv6Net::new(address, pool.prefix_len()).context("find the first address")
}

/// A unique local prefix of its own for a network (RFC 4193): 40 random bits, so that two hosts do not choose the same.
pub fn unique_local() -> Result<Ipv6Net> {
    let mut random = [0u8; 5];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).context("get random bytes for IPv6")?;
    let mut bytes = [0u8; 16];
    bytes[0] = 0xfd;
    bytes[1..6].copy_from_slice(&random);
    Ipv6Net::new(Ipv6Addr::from(bytes), 64).context("make an IPv6 prefix")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(ranges: &[&str]) -> Vec<Taken> {
        ranges.iter().map(|r| Taken { range: r.parse().unwrap(), holder: "a route by tun0".into() }).collect()
    }

    #[test]
    fn a_pool_that_overlaps_is_not_taken() {
        let pool = |ranges: &[&str]| for_default_network(&taken(ranges)).map(|net| net.to_string());
        assert_eq!(pool(&[]).unwrap(), "10.214.0.1/20");
        assert_eq!(pool(&["10.214.3.0/24"]).unwrap(), "10.214.16.1/20");
        assert_eq!(pool(&["10.214.0.53/32", "10.214.16.0/20"]).unwrap(), "10.214.32.1/20");
        assert_eq!(pool(&["10.0.0.0/8"]).unwrap(), "172.30.0.1/20");
        let error = pool(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]).unwrap_err();
        assert!(format!("{error:#}").contains("172.16.0.0/12 (a route by tun0)"), "{error:#}");
    }

    #[test]
    fn a_thousand_networks_have_ranges() {
        let mut all = Vec::new();
        for number in 0..1000 {
            let gateway = for_network(&number.to_string(), &all).unwrap();
            assert!(!overlaps(gateway, "10.214.0.0/20".parse().unwrap()));
            all.push(Taken { range: gateway.trunc(), holder: "a network".into() });
        }
        assert_eq!(all[0].range.to_string(), "10.214.16.0/24");
    }
}
