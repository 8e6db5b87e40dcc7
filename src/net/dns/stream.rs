//! Messages in a TCP stream, each after two bytes of its length (RFC 1035, section 4.2.2); to a client and to a server alike.
//!
//! Nothing waits. No more is read than the message that is being read, so what a peer sends ahead stays with the kernel; and
//! memory is taken for bytes that have come, never for a length that was announced.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};

/// One connection.
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
    /// The longest message that is taken.
    longest: usize,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
}

impl Stream {
    /// A connection that does not wait (`O_NONBLOCK`).
    pub fn new(socket: TcpStream, longest: usize) -> Self {
        Self { socket, longest, input: Vec::new(), output: Vec::new(), written: 0 }
    }

    /// Begins a connection to `server`. Whether it came about is said by [`flush`](Self::flush).
    pub fn connect(server: SocketAddr, longest: usize) -> io::Result<Self> {
        let family = if server.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
        match connect(socket.as_raw_fd(), &SockaddrStorage::from(server)) {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(Self::new(socket.into(), longest)),
            Err(error) => Err(error.into()),
        }
    }

    /// To be watched.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The next message, if all of it is there. Errors: the peer has closed, or sent what cannot be a message.
    pub fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut chunk = [0; 2048];
        loop {
            let wanted = match *self.input {
                [high, low, ..] => 2 + usize::from(u16::from_be_bytes([high, low])),
                _ => 2,
            };
            if wanted == 2 && self.input.len() == 2 || wanted > 2 + self.longest {
                return Err(ErrorKind::InvalidData.into());
            }
            let missing = wanted - self.input.len();
            if missing == 0 {
                let mut message = std::mem::take(&mut self.input);
                message.drain(..2);
                return Ok(Some(message));
            }
            match self.socket.read(&mut chunk[..missing.min(2048)]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    if self.input.capacity() - self.input.len() < read {
                        // Twice as much each time, but no more than the message takes.
                        self.input.reserve_exact(missing.min(self.input.len().max(read)));
                    }
                    self.input.extend(&chunk[..read]);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Puts a message down to be written by [`flush`](Self::flush). What cannot be a message is left out.
    pub fn send(&mut self, message: &[u8]) {
        if let Ok(length) = u16::try_from(message.len()) {
            self.output.extend(length.to_be_bytes());
            self.output.extend(message);
        }
    }

    /// Writes what can be written now. Whether that was all.
    pub fn flush(&mut self) -> io::Result<bool> {
        while self.written < self.output.len() {
            match self.socket.write(&self.output[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        (self.output, self.written) = (Vec::new(), 0);
        Ok(true)
    }
}
