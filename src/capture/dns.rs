//! A message of DNS in a few words: what is asked, and what came of it.

use crate::net::NAMES_PORT;

/// Ports at which names are asked for: those of DNS and of its multicast form, and that of a container's name server.
const PORTS: [u16; 3] = [53, 5353, NAMES_PORT];
/// Of RFC 1035.
const LONGEST_NAME: usize = 255;

/// What a datagram says, if it is one of DNS, as far as its ports and its form tell.
pub fn says(message: &[u8], ports: (u16, u16)) -> Option<String> {
    if !PORTS.contains(&ports.0) && !PORTS.contains(&ports.1) {
        return None;
    }
    let half = |at: usize| message.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let (id, flags, questions, answers) = (half(0)?, half(2)?, half(4)?, half(6)?);
    if questions == 0 {
        return (flags & 0x8000 != 0).then(|| format!("{id} {answers} answers"));
    }
    let (name, end) = name(message, 12)?;
    let kind = kind(half(end)?);
    if flags & 0x8000 == 0 {
        return Some(format!("{id} {kind}? {name}"));
    }
    let outcome = match flags & 15 {
        0 => format!("{answers} answers"),
        1 => "format error".to_owned(),
        2 => "server failure".to_owned(),
        3 => "no such name".to_owned(),
        4 => "unknown kind of query".to_owned(),
        5 => "refused".to_owned(),
        other => format!("error {other}"),
    };
    Some(format!("{id} {kind} {name}: {outcome}"))
}

/// The name at a place, and where it ends. Names that point elsewhere are not in questions.
fn name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    loop {
        let length = usize::from(*message.get(at)?);
        let label = message.get(at + 1..at + 1 + length)?;
        at += 1 + length;
        if length == 0 {
            break;
        }
        if length > 63 || name.len() + length > LONGEST_NAME {
            return None;
        }
        // It may hold anything, and is shown on a terminal.
        name.extend(label.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' }));
        name.push('.');
    }
    if name.len() > 1 {
        name.pop();
    }
    Some((if name.is_empty() { ".".to_owned() } else { name }, at))
}

fn kind(number: u16) -> String {
    match number {
        1 => "A",
        2 => "NS",
        5 => "CNAME",
        6 => "SOA",
        12 => "PTR",
        15 => "MX",
        16 => "TXT",
        28 => "AAAA",
        33 => "SRV",
        65 => "HTTPS",
        255 => "ANY",
        other => return format!("TYPE{other}"),
    }
    .to_owned()
}
