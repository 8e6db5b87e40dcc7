//! Who has a port of the host: for the error that says so. Slow, and only on that way.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::publish::Protocol;

/// Who has a port, as people call it: `nginx (pid 7)`, or `container web`. `None` where nobody is found.
pub fn of(address: SocketAddr, protocol: Protocol, state: &Path) -> Option<String> {
    let name = protocol.to_string();
    let inodes: Vec<String> = [name.clone(), format!("{name}6")]
        .iter()
        .filter_map(|file| fs::read_to_string(Path::new("/proc/net").join(file)).ok())
        .flat_map(|text| text.lines().skip(1).filter_map(|line| inode(line, address.port())).collect::<Vec<_>>())
        .collect();
    holder(&inodes).or_else(|| reserved(address, protocol, state))
}

/// The socket's inode, if the line of `/proc/net/tcp` is about one with that port and no peer.
fn inode(line: &str, port: u16) -> Option<String> {
    let mut fields = line.split_whitespace();
    let local = fields.nth(1)?;
    let remote = fields.next()?;
    let own = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
    (own == port && remote.ends_with(":0000")).then(|| fields.nth(6).map(str::to_owned)).flatten()
}

fn holder(inodes: &[String]) -> Option<String> {
    let wanted: Vec<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    if wanted.is_empty() {
        return None;
    }
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let pid = process.file_name().to_string_lossy().parse::<u32>().ok();
        let Some((pid, fds)) = pid.zip(fs::read_dir(process.path().join("fd")).ok()) else { continue };
        let has = fds.flatten().filter_map(|fd| fs::read_link(fd.path()).ok());
        if has.into_iter().any(|link| wanted.iter().any(|wanted| link.as_os_str() == wanted.as_str())) {
            return Some(called(pid, &process.path()));
        }
    }
    None
}

/// A process by its name; minirun by the container that it holds, which its title says.
fn called(pid: u32, process: &Path) -> String {
    let title = fs::read(process.join("cmdline")).unwrap_or_default();
    let title = String::from_utf8_lossy(title.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
    if let Some(name) = title.strip_prefix("minirun: ").and_then(|words| words.split(' ').nth(1)) {
        return format!("container {name}");
    }
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    format!("{} (pid {pid})", name.trim_end())
}

/// What is held by a lock, or by a socket that was bound a moment ago, is in no list of the kernel's; minirun's own records tell it.
fn reserved(address: SocketAddr, protocol: Protocol, state: &Path) -> Option<String> {
    let containers = fs::read_dir(state.join("containers")).ok()?;
    for entry in containers.flatten() {
        let Ok(file) = fs::File::open(entry.path().join("record")) else { continue };
        let Some(record) = crate::state::read_record(&file) else { continue };
        let has = record.exit.is_none()
            && record.ports.iter().any(|port| {
                port.protocol == protocol
                    && (port.host..=port.host + (port.count - 1)).contains(&address.port())
                    && overlaps(port.address, address.ip())
            });
        if has {
            return Some(format!("container {}", record.name));
        }
    }
    None
}

fn overlaps(one: IpAddr, other: IpAddr) -> bool {
    one == other || (one.is_ipv4() == other.is_ipv4() && (one.is_unspecified() || other.is_unspecified()))
}
