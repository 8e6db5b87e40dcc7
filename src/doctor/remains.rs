//! Checks of what is left: containers that were killed, ports that others took meanwhile, names of namespaces that are gone.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::Result;
use nix::libc;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use super::{Sight, Trouble};
use crate::net::owner;
use crate::net::publish::{Port, Protocol};

/// So many ports of a range are looked at.
const MOST: u16 = 64;

pub fn leftovers(sight: &mut Sight) -> Result<Vec<Trouble>> {
    let dead = |holder: i32| !Path::new("/proc").join(holder.to_string()).exists();
    let names: Vec<String> = sight
        .containers
        .iter()
        .filter(|kept| kept.holder.is_some_and(dead))
        .map(|kept| match &kept.record {
            Some(record) => format!("`{}`", record.name),
            None => format!("`{}`", kept.path.file_name().unwrap_or_default().to_string_lossy()),
        })
        .collect();
    if names.is_empty() {
        return Ok(vec![]);
    }
    let message = format!("minirun was killed beside {}: the next command removes what is left", names.join(", "));
    Ok(vec![Trouble::warning(message, "minirun ps")])
}

/// Of containers that are kept, whose `restart` would fail.
pub fn ports(sight: &mut Sight) -> Result<Vec<Trouble>> {
    let mut troubles = Vec::new();
    for record in sight.containers.iter().filter(|kept| kept.holder.is_none()).filter_map(|kept| kept.record.as_ref()) {
        for port in &record.ports {
            let first = (0..port.count.min(MOST)).find_map(|at| {
                let address = SocketAddr::new(port.address, port.host + at);
                Some((address, taken(address, port)?))
            });
            let Some((address, error)) = first else { continue };
            let (name, protocol) = (&record.name, port.protocol);
            let why = match error.raw_os_error() {
                Some(libc::EADDRINUSE) => {
                    let owner = owner::of(address, protocol, &sight.root).unwrap_or_else(|| "somebody".into());
                    format!("{owner} has it")
                }
                _ => super::probe::words(&error),
            };
            let message =
                format!("port {address}/{protocol}, by which container `{name}` was published, is not free: {why}");
            troubles.push(Trouble::warning(message, format!("minirun rm {name}")));
        }
    }
    Ok(troubles)
}

/// Why a port cannot be bound to.
fn taken(address: SocketAddr, port: &Port) -> Option<io::Error> {
    let kind = match port.protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
        Protocol::Sctp => return None,
    };
    let family = if matches!(address.ip(), IpAddr::V4(_)) { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None);
    socket.and_then(|socket| bind(&socket, &address)).err().map(io::Error::from)
}

pub fn names_of_namespaces(_: &mut Sight) -> Result<Vec<Trouble>> {
    const NSFS: i64 = 0x6e73_6673;
    let mut troubles = Vec::new();
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let path = entry.path();
        if rustix::fs::statfs(&path).is_ok_and(|about| about.f_type != NSFS) {
            let path = path.display();
            let message =
                format!("`{path}` is the name of a network namespace that is gone: `--net=ns:` cannot use it");
            troubles.push(Trouble::warning(message, format!("rm {path}")));
        }
    }
    Ok(troubles)
}
