//! The responder with real sockets on the loopback device; client, responder and servers take turns in one thread.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::NamedTempFile;

use super::super::servers::Servers;
use super::super::{Options, Responder};
use super::Members;

/// One resolver of the host.
pub struct Server {
    pub udp: UdpSocket,
    pub tcp: TcpListener,
}

pub struct Ground {
    pub responder: Responder,
    pub members: Members,
    /// Where the responder listens.
    pub udp: SocketAddr,
    pub tcp: SocketAddr,
    /// The same listener that the responder has.
    pub listener: TcpListener,
    pub servers: Vec<Server>,
    pub client: UdpSocket,
    _file: NamedTempFile,
}

/// Sockets of both kinds at one port of each address.
pub fn servers(count: u8) -> Vec<Server> {
    'ports: loop {
        let mut servers: Vec<Server> = Vec::new();
        for number in 0..count {
            let port = servers.first().map_or(0, |first| first.udp.local_addr().unwrap().port());
            let Ok(udp) = UdpSocket::bind(SocketAddr::from(([127, 0, 7, number + 1], port))) else { continue 'ports };
            let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) else { continue 'ports };
            udp.set_nonblocking(true).unwrap();
            tcp.set_nonblocking(true).unwrap();
            servers.push(Server { udp, tcp });
        }
        return servers;
    }
}

impl Ground {
    pub fn new(count: u8, forward: bool) -> Self {
        let servers = servers(count.max(1));
        let port = servers[0].udp.local_addr().unwrap().port();
        let lines = servers.iter().map(|server| format!("nameserver {}\n", server.udp.local_addr().unwrap().ip()));
        Self::with_text(&lines.collect::<String>(), port, servers, forward)
    }

    pub fn with_text(text: &str, port: u16, servers: Vec<Server>, forward: bool) -> Self {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let (udp, tcp) = (UdpSocket::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
        let listener = tcp.try_clone().unwrap();
        let options = Options { search: vec!["corp.test".into()], forward, servers: vec![] };
        let known = Servers::of(file.path(), if port == 0 { addresses.0.port() } else { port });
        let responder = Responder::with_servers(udp.into(), tcp.into(), options, known).unwrap();
        let client = client();
        let members = Members::of(&[("web", "10.214.0.2")]);
        Self { responder, members, udp: addresses.0, tcp: addresses.1, listener, servers, client, _file: file }
    }

    /// Lets the responder work until `there` is something.
    #[track_caller]
    pub fn until<T>(&mut self, mut there: impl FnMut(&mut Self) -> Option<T>) -> T {
        let patience = Instant::now() + Duration::from_secs(20);
        loop {
            self.turn(10);
            if let Some(found) = there(self) {
                return found;
            }
            assert!(Instant::now() < patience, "not within 20 s");
        }
    }

    /// Serves once something is ready, at the latest after so many milliseconds. Whether something was.
    pub fn turn(&mut self, milliseconds: u8) -> bool {
        let mut fds = [PollFd::new(self.responder.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::from(milliseconds)).unwrap() > 0;
        if ready {
            self.responder.serve(&self.members);
        }
        ready
    }

    /// Nothing is left to do: a loop around the responder would sleep.
    #[track_caller]
    pub fn is_quiet(&mut self) {
        for _ in 0..1000 {
            if !self.turn(20) {
                return;
            }
        }
        panic!("it is ready all the time");
    }

    pub fn send(&self, bytes: &[u8]) {
        self.client.send_to(bytes, self.udp).unwrap();
    }

    #[track_caller]
    pub fn answer(&mut self) -> Vec<u8> {
        self.until(|ground| receive(&ground.client).map(|(bytes, _)| bytes))
    }

    #[track_caller]
    pub fn ask(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.send(bytes);
        self.answer()
    }

    /// What came to a server, and from where.
    #[track_caller]
    pub fn asked(&mut self, server: usize) -> (Vec<u8>, SocketAddr) {
        self.until(|ground| receive(&ground.servers[server].udp))
    }

    pub fn nothing_asked(&self, server: usize) -> bool {
        receive(&self.servers[server].udp).is_none() && self.servers[server].tcp.accept().is_err()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.tcp).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }

    #[track_caller]
    pub fn answer_by_tcp(&mut self, stream: &mut TcpStream) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.until(|_| read_message(stream, &mut bytes))
    }

    /// The connection that the responder makes to a server, and the query in it.
    #[track_caller]
    pub fn asked_by_tcp(&mut self, server: usize) -> (TcpStream, Vec<u8>) {
        let mut stream = self.until(|ground| Some(ground.servers[server].tcp.accept().ok()?.0));
        stream.set_nonblocking(true).unwrap();
        let mut bytes = Vec::new();
        let query = self.until(|_| read_message(&mut stream, &mut bytes));
        (stream, query)
    }
}

pub fn client() -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_nonblocking(true).unwrap();
    client
}

pub fn receive(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; 8192];
    let (length, from) = socket.recv_from(&mut buffer).ok()?;
    Some((buffer[..length].to_vec(), from))
}

/// One message of a stream, and no byte more.
pub fn read_message(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        let wanted = if bytes.len() < 2 { 2 } else { 2 + usize::from(u16::from_be_bytes([bytes[0], bytes[1]])) };
        if bytes.len() >= 2 && bytes.len() == wanted {
            return Some(bytes.split_off(2));
        }
        let mut part = vec![0; wanted - bytes.len()];
        match stream.read(&mut part) {
            Ok(read) if read > 0 => bytes.extend(&part[..read]),
            _ => return None,
        }
    }
}

pub fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

pub fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

pub fn rcode(answer: &[u8]) -> u8 {
    answer[3] & 15
}
