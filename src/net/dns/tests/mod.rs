//! What the tests of the parts share: queries as clients write them, and a directory.

mod clients;
mod ground;
mod members;
mod message;
mod passing_on;

use std::net::IpAddr;

use super::Directory;
use super::message::{Query, encode_name};

/// Flags of an answer: the server failed.
pub const SERVFAIL: u16 = 2;
/// It was cut.
pub const CUT: u16 = 0x0200;

/// Members of `10.214.0.0/20` and `fd00::/64`.
#[derive(Debug, Default)]
pub struct Members(pub Vec<(String, Vec<IpAddr>)>);

impl Members {
    pub fn of(entries: &[(&str, &str)]) -> Self {
        let addresses = |text: &str| text.split_whitespace().map(|word| word.parse().unwrap()).collect();
        Self(entries.iter().map(|(name, text)| ((*name).to_owned(), addresses(text))).collect())
    }
}

impl Directory for Members {
    fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        let mut found = self.0.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name)).peekable();
        found.peek()?;
        Some(found.flat_map(|(_, addresses)| addresses.clone()).collect())
    }

    fn names(&self, address: IpAddr) -> Vec<String> {
        self.0.iter().filter(|(_, addresses)| addresses.contains(&address)).map(|(name, _)| name.clone()).collect()
    }

    fn owns(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address.octets()[..2] == [10, 214],
            IpAddr::V6(address) => address.segments()[..4] == [0xfd00, 0, 0, 0],
        }
    }
}

/// A query with recursion desired, as a client writes it; with `size`, one that knows EDNS.
pub fn query(id: u16, name: &str, kind: u16, size: Option<u16>) -> Vec<u8> {
    let mut bytes = Vec::from(id.to_be_bytes());
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(size.is_some())]);
    bytes.extend(if name == "." { vec![0] } else { encode_name(name).unwrap() });
    bytes.extend([kind.to_be_bytes(), [0, 1]].as_flattened());
    if let Some(size) = size {
        let size = size.to_be_bytes();
        // With a cookie, an option that is nobody's business here.
        bytes.extend([0, 0, 41, size[0], size[1], 0, 0, 0x80, 0, 0, 12, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
    bytes
}

pub fn parsed(name: &str, kind: u16, size: Option<u16>) -> Query {
    Query::parse(&query(7, name, kind, size)).unwrap()
}

/// An answer of another server: the query's question and `records` addresses of it.
pub fn answered(query: &[u8], flags: u16, records: u16) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let mut bytes = query[..end].to_vec();
    bytes[2..4].copy_from_slice(&(0x8180 | flags).to_be_bytes());
    bytes[6..12].fill(0);
    bytes[6..8].copy_from_slice(&records.to_be_bytes());
    for number in 0..records {
        let [high, low] = number.to_be_bytes();
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 198, 51, high, low]);
    }
    bytes
}
