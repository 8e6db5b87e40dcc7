//! A resolver that containers' queries are passed on to, and that tells what it was asked.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};

use super::{GATEWAY, Host};

/// The port of DNS.
const PORT: u16 = 53;

/// A resolver somewhere outside: names of `test` have the address `own`, `big.test` has 200, `none.test` does not exist.
pub struct Resolver {
    asked: Arc<Mutex<Vec<String>>>,
}

impl Resolver {
    /// On these sockets, until the test ends.
    pub fn new((udp, tcp): (UdpSocket, TcpListener), own: [u8; 4]) -> Self {
        let asked = Arc::<Mutex<Vec<String>>>::default();
        std::thread::spawn({
            let asked = asked.clone();
            move || {
                let mut buffer = [0; 4096];
                while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                    let _ = udp.send_to(&answer(&buffer[..length], own, Some(512), &asked), from);
                }
            }
        });
        std::thread::spawn({
            let asked = asked.clone();
            move || {
                for mut stream in tcp.incoming().flatten() {
                    let mut length = [0; 2];
                    let Ok(()) = stream.read_exact(&mut length) else { continue };
                    let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
                    let Ok(()) = stream.read_exact(&mut query) else { continue };
                    let answer = answer(&query, own, None, &asked);
                    let _ = stream.write_all(&[&(answer.len() as u16).to_be_bytes()[..], &answer].concat());
                }
            }
        });
        Self { asked }
    }

    /// At an address of the host's; names have one that ends as it does.
    pub fn of_host(address: [u8; 4]) -> Self {
        Self::new(listen(address.into()), [198, 51, 100, address[3]])
    }

    /// On the second machine of the LAN.
    pub fn of_lan(host: &Host, own: [u8; 4]) -> Self {
        Self::new(host.in_lan(|| listen(GATEWAY.into())), own)
    }

    /// What it was asked since the last time.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().expect("no panic"))
    }
}

fn listen(address: IpAddr) -> (UdpSocket, TcpListener) {
    let address = SocketAddr::new(address, PORT);
    (UdpSocket::bind(address).expect("bind"), TcpListener::bind(address).expect("bind"))
}

/// The answer to a query, `most` bytes at most.
fn answer(query: &[u8], own: [u8; 4], most: Option<usize>, asked: &Mutex<Vec<String>>) -> Vec<u8> {
    let (mut at, mut name) = (12, String::new());
    while query[at] > 0 {
        let end = at + 1 + usize::from(query[at]);
        name.push_str(&String::from_utf8_lossy(&query[at + 1..end]));
        name.push('.');
        at = end;
    }
    let how = if most.is_some() { "udp" } else { "tcp" };
    asked.lock().expect("no panic").push(format!("{how} {name}"));
    let is_a = query[at + 1..at + 3] == [0, 1];
    let count = match &*name {
        "big.test." if is_a => 200,
        name if is_a && name.ends_with(".test.") && name != "none.test." => 1,
        _ => 0,
    };
    let mut bytes = query[..at + 5].to_vec();
    bytes[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, count, 0, 0, 0, 0]);
    if !name.ends_with(".test.") || name == "none.test." || name.ends_with("corp.test.") {
        (bytes[3], bytes[7]) = (0x83, 0);
        return bytes;
    }
    for number in 0..count {
        let last = if count > 1 { number + 1 } else { own[3] };
        bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, own[0], own[1], own[2], last]);
    }
    if most.is_some_and(|most| bytes.len() > most) {
        bytes.truncate(at + 5);
        (bytes[2], bytes[7]) = (0x83, 0);
    }
    bytes
}
