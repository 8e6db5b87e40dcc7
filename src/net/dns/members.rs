//! What is answered here: names and addresses of members, by the [`Directory`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::rand::{GetRandomFlags, getrandom};

use super::message::{A, AAAA, ANY, Answer, IN, PTR, Query, Rcode, Transport, encode_name};
use super::{Directory, Options};

/// How long a client may keep an answer, in seconds. A member that joins or leaves is to be seen at once, so it is short; it
/// is not 0, with which a cache inside the container would ask again for each connection of a busy program.
const SECONDS: u32 = 1;

/// The answer to `query`, if it is about a member, or about an address that only a member could have.
pub fn answer(query: &Query, transport: Transport, options: &Options, directory: &dyn Directory) -> Option<Vec<u8>> {
    let name = query.name().filter(|name| !name.is_empty() && [IN, ANY].contains(&query.class))?;
    let begin = |rcode| Answer::new(query, rcode, transport, true);
    if let Some(address) = address_of(&name) {
        let names = directory.names(address);
        if names.is_empty() {
            return directory.owns(address).then(|| begin(Rcode::NxDomain).finish());
        }
        let mut answer = begin(Rcode::NoError);
        if [PTR, ANY].contains(&query.kind) {
            names.iter().filter_map(|name| encode_name(name)).for_each(|name| answer.add(PTR, SECONDS, &name));
        }
        return Some(answer.finish());
    }
    let mut addresses = find(&name, &options.search, directory)?;
    shuffle(&mut addresses);
    // A name that is known answers without records to every other type. If it did not exist for AAAA, a resolver would take
    // it for one that does not exist at all.
    let mut answer = begin(Rcode::NoError);
    for address in addresses {
        match address {
            IpAddr::V4(address) if [A, ANY].contains(&query.kind) => answer.add(A, SECONDS, &address.octets()),
            IpAddr::V6(address) if [AAAA, ANY].contains(&query.kind) => answer.add(AAAA, SECONDS, &address.octets()),
            _ => {}
        }
    }
    Some(answer.finish())
}

/// The addresses of a name as it stands, or without one of the domains that the container's resolver puts after names: it
/// asks for the longer name first, which may exist outside.
fn find(name: &str, search: &[String], directory: &dyn Directory) -> Option<Vec<IpAddr>> {
    directory.addresses(name).or_else(|| {
        let mut shorter = search.iter().filter_map(|domain| without_domain(name, domain.trim_matches('.')));
        shorter.find_map(|name| directory.addresses(name))
    })
}

fn without_domain<'a>(name: &'a str, domain: &str) -> Option<&'a str> {
    let (first, last) = name.split_at_checked(name.len().checked_sub(domain.len())?)?;
    let first = first.strip_suffix('.').filter(|first| !first.is_empty())?;
    (!domain.is_empty() && last.eq_ignore_ascii_case(domain)).then_some(first)
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` stands for (RFC 1035, section 3.5; RFC 3596, section 2.5).
fn address_of(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<u8> = octets.split('.').map(decimal).collect::<Option<_>>()?;
        let [d, c, b, a] = octets.try_into().ok()?;
        return Some(Ipv4Addr::new(a, b, c, d).into());
    }
    let nibbles = name.strip_suffix(".ip6.arpa").filter(|nibbles| nibbles.len() == 63)?;
    let mut number = 0u128;
    for nibble in nibbles.rsplit('.') {
        let digit = nibble.chars().next().filter(|_| nibble.len() == 1)?.to_digit(16)?;
        number = number << 4 | u128::from(digit);
    }
    Some(Ipv6Addr::from(number).into())
}

/// As `parse`, but without signs and leading zeros: each address has one name.
fn decimal(text: &str) -> Option<u8> {
    text.parse().ok().filter(|number: &u8| number.to_string() == text)
}

/// Puts addresses in random order, so that clients that take the first one spread over all.
fn shuffle(addresses: &mut [IpAddr]) {
    if addresses.len() < 2 {
        return;
    }
    let mut random = vec![0u8; 4 * addresses.len()];
    // Without random numbers at hand the order stays.
    let _ = getrandom(&mut random[..], GetRandomFlags::NONBLOCK);
    for (last, bytes) in (1..addresses.len()).rev().zip(random.chunks_exact(4)) {
        let number = bytes.iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
        addresses.swap(last, number % (last + 1));
    }
}
