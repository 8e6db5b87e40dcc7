//! Ports that a container's holder passes on: whether it listens there. They are no steps, because the holder has them as it
//! has its sockets; so they are looked up in the kernel's lists.

use std::fs;
use std::net::{Ipv6Addr, SocketAddrV6};

use super::super::difference::Difference;
use super::super::publish::{Port, Protocol};
use super::super::script::word;
use crate::state::Found;

/// The state of a socket of TCP that listens (`TCP_LISTEN`), as the lists write it.
const LISTEN: &str = "0A";

/// The ports of a container at which its holder does not listen, though it is to pass on what comes there.
pub fn unheard(found: &Found) -> Vec<Difference> {
    let wanted: Vec<(&Port, SocketAddrV6)> = found.record.ports.iter().flat_map(places).collect();
    let (Some(holder), false) = (found.holder, wanted.is_empty()) else { return vec![] };
    let own = sockets_of(holder);
    let listening = [(Protocol::Tcp, heard("tcp6")), (Protocol::Udp, heard("udp6"))];
    let name = &found.record.name;
    let mut all: Vec<Difference> = Vec::new();
    for (port, place) in wanted {
        let there = listening.iter().filter(|(protocol, _)| *protocol == port.protocol).flat_map(|(_, there)| there);
        let mut there = there.filter(|(other, _)| *other == place).map(|(_, inode)| inode).peekable();
        let who = if there.peek().is_some() { "another program listens" } else { "nobody listens" };
        if there.any(|inode| own.contains(inode)) {
            continue;
        }
        let remedy = again(name, port, &found.record.ports);
        let what = format!("port {place}/{}: {who} there, and not its holder", port.protocol);
        all.push(Difference { subject: name.clone(), what, steps: vec![], remedy: Some(remedy) });
    }
    all
}

/// Where a holder listens for a port.
fn places(port: &Port) -> impl Iterator<Item = (&Port, SocketAddrV6)> {
    let address = match port.address {
        std::net::IpAddr::V6(address) if port.is_relayed() || address == Ipv6Addr::UNSPECIFIED => Some(address),
        _ => None,
    };
    let address = address.filter(|_| port.protocol != Protocol::Sctp);
    address.into_iter().flat_map(move |address| {
        (0..port.count).map(move |offset| (port, SocketAddrV6::new(address, port.host + offset, 0, 0)))
    })
}

/// The command by which a holder listens anew: all that leads to that port of the container is taken back and published again.
fn again(name: &str, port: &Port, ports: &[Port]) -> String {
    let inside = format!("{}/{}", port.port, port.protocol);
    let add = |port: &Port| format!(" --add {}", word(&port.to_string().replace("->", ":")));
    let add: String = ports.iter().filter(|port| port.is_at(&inside)).map(add).collect();
    format!("minirun port {name} --rm {inside}{add}")
}

/// The sockets in one of the kernel's lists of IPv6 that hear whoever comes: where each is bound, and its inode.
fn heard(list: &str) -> Vec<(SocketAddrV6, u64)> {
    let text = fs::read_to_string(format!("/proc/net/{list}")).unwrap_or_default();
    text.lines().skip(1).filter_map(|line| entry(line, list == "tcp6")).collect()
}

fn entry(line: &str, listens: bool) -> Option<(SocketAddrV6, u64)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, remote, state) = (fields.get(1)?, fields.get(2)?, fields.get(3)?);
    if !remote.ends_with(":0000") || listens && *state != LISTEN {
        return None;
    }
    let (address, port) = local.split_once(':')?;
    // Four numbers, each as the machine stores it.
    let mut bytes = [0; 16];
    for (at, part) in bytes.chunks_mut(4).enumerate() {
        let word = u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok()?;
        part.copy_from_slice(&word.to_ne_bytes());
    }
    let place = SocketAddrV6::new(bytes.into(), u16::from_str_radix(port, 16).ok()?, 0, 0);
    Some((place, fields.get(9)?.parse().ok()?))
}

/// The inodes of a process's sockets.
fn sockets_of(pid: i32) -> Vec<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    let inode = |link: std::path::PathBuf| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    links.filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel_are_read() {
        let listens = "   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000000000000000 100 0 0 10 0";
        assert_eq!(entry(listens, true), Some(("[::1]:8080".parse().unwrap(), 4711)));
        assert_eq!(entry(&listens.replace(" 0A ", " 07 "), true), None);
        assert_eq!(entry(&listens.replace(":0000 ", ":0001 "), false), None);
        for length in 0..listens.len() {
            let _ = entry(&listens[..length], true);
        }
    }
}
