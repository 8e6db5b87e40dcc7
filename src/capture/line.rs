//! A packet as a line, for people or as JSON.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::net::IpAddr;

use serde::Serialize;

use super::dissect::{Dissected, dissect};
use super::names::Names;
use super::ring::{OUTGOING, Packet};
use crate::time;

/// A packet in JSON.
#[derive(Debug, Serialize)]
struct Row<'a> {
    time: Cow<'a, str>,
    interface: &'a str,
    direction: &'static str,
    source: Option<String>,
    source_name: Option<&'a str>,
    source_port: Option<u16>,
    destination: Option<String>,
    destination_name: Option<&'a str>,
    destination_port: Option<u16>,
    protocol: &'a str,
    info: &'a str,
    length: usize,
}

/// A packet of the interface `interface`, which has an Ethernet header or not.
#[derive(Debug)]
pub struct Line<'a> {
    /// It.
    pub packet: &'a Packet<'a>,
    /// Where it was seen.
    pub interface: &'a str,
    /// Whether it begins with an Ethernet header.
    pub has_header: bool,
    /// Who has which address.
    pub names: &'a Names,
}

impl Line<'_> {
    fn dissected(&self) -> Dissected {
        dissect(self.packet.bytes, self.has_header, self.names)
    }

    /// `21:00:00.123456 eth0 web:40000 > db:80 tcp [S] seq 7 win 64240, length 0`. The time is UTC.
    pub fn text(&self, out: &mut Vec<u8>) {
        let found = self.dissected();
        let stamp = time::stamp(self.packet.time.cast_signed());
        let mut line = format!("{} {} ", String::from_utf8_lossy(&stamp[11..26]), self.interface);
        if let Some(tag) = self.packet.tag {
            let _ = write!(line, "vlan {} ", u16::from_be_bytes([tag[2], tag[3]]) & 0xfff);
        }
        let ports = found.ports.unzip();
        match (found.source, found.destination, &found.hardware) {
            (Some(source), Some(destination), _) => {
                let (source, destination) = (self.end(source, ports.0), self.end(destination, ports.1));
                let _ = write!(line, "{source} > {destination} ");
            }
            // Who has an address is in the words about it.
            (_, _, Some((source, destination))) if found.protocol != "arp" => {
                let _ = write!(line, "{source} > {destination} ");
            }
            _ => {}
        }
        line.push_str(&found.protocol);
        if !found.info.is_empty() {
            let _ = write!(line, " {}", found.info);
        }
        let _ = writeln!(line, ", length {}", found.length);
        out.extend(line.into_bytes());
    }

    /// The same as an object of JSON, one a line.
    pub fn json(&self, out: &mut Vec<u8>) {
        let found = self.dissected();
        let hardware = found.hardware.clone().unzip();
        let text = |address: Option<IpAddr>, hardware: Option<String>| address.map(|one| one.to_string()).or(hardware);
        let name = |address: Option<IpAddr>| address.and_then(|address| self.names.of(address));
        let ports = found.ports.unzip();
        let stamp = time::stamp(self.packet.time.cast_signed());
        let row = Row {
            time: String::from_utf8_lossy(&stamp),
            interface: self.interface,
            direction: if self.packet.way == OUTGOING { "out" } else { "in" },
            source: text(found.source, hardware.0),
            source_name: name(found.source),
            source_port: ports.0,
            destination: text(found.destination, hardware.1),
            destination_name: name(found.destination),
            destination_port: ports.1,
            protocol: &found.protocol,
            info: &found.info,
            length: found.length,
        };
        // Nothing in it can fail to be written.
        out.extend(serde_json::to_vec(&row).unwrap_or_default());
        out.push(b'\n');
    }

    fn end(&self, address: IpAddr, port: Option<u16>) -> String {
        let name = self.names.of(address).map_or_else(
            || if port.is_some() && address.is_ipv6() { format!("[{address}]") } else { address.to_string() },
            str::to_owned,
        );
        port.map_or_else(|| name.clone(), |port| format!("{name}:{port}"))
    }
}
