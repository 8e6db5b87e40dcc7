//! A check of the host's name servers: a container's own asks them from the host's network, so that a stub on the host's
//! loopback device serves as well as any other.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Sight, Trouble, probe};
use crate::net::dns::Servers;

const FILE: &str = "/etc/resolv.conf";
/// For all servers together.
const PATIENCE: Duration = Duration::from_secs(2);
/// The name servers of the root (RFC 1035): a query that every name server has an answer to, be it a refusal.
const QUERY: [u8; 17] = [0x6d, 0x72, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];

pub fn resolvers(_: &mut Sight) -> Result<Vec<Trouble>> {
    let text = std::fs::read_to_string(FILE);
    let names = |text: &String| text.lines().any(|line| line.split_whitespace().next() == Some("nameserver"));
    let named = text.as_ref().is_ok_and(names);
    let servers = Servers::of(FILE, 53).now();
    let silent = ask(&servers);
    if silent.is_empty() {
        return Ok(vec![]);
    }
    let told: Vec<String> = silent.iter().map(|(server, why)| format!("{} ({why})", server.ip())).collect();
    let fix = format!("echo nameserver ADDRESS >> {FILE}");
    if !named {
        let what = if text.is_ok() { "names no name server" } else { "cannot be read" };
        let message =
            format!("`{FILE}` {what}, and there is none on this machine: containers find no names but each other's");
        return Ok(vec![Trouble::error(message, fix)]);
    }
    let message = format!("no answer from the host's name server {}", told.join(", "));
    if silent.len() == servers.len() {
        return Ok(vec![Trouble::error(format!("{message}: containers find no names but each other's"), fix)]);
    }
    let fix = format!("sed -i '/{}/d' {FILE}", silent[0].0.ip().to_string().replace('.', "\\."));
    Ok(vec![Trouble::warning(format!("{message}: names are found late"), fix)])
}

/// Those that do not answer, and why.
fn ask(servers: &[SocketAddr]) -> Vec<(SocketAddr, String)> {
    let begin = Instant::now();
    let send = |server: &SocketAddr| -> std::io::Result<UdpSocket> {
        let any = if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        socket.connect(server)?;
        socket.send(&QUERY)?;
        Ok(socket)
    };
    let mut silent = Vec::new();
    // All are asked before one is waited for.
    let asked: Vec<_> = servers.iter().map(|server| (*server, send(server))).collect();
    for (server, socket) in asked {
        let answer = socket.and_then(|socket| {
            let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
            let rest = PATIENCE.saturating_sub(begin.elapsed());
            if poll(&mut fds, PollTimeout::try_from(rest).unwrap_or(PollTimeout::ZERO))? == 0 {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            socket.recv(&mut [0; 512])
        });
        if let Err(error) = answer {
            silent.push((server, probe::words(&error)));
        }
    }
    silent
}
