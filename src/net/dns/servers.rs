//! The host's resolvers, as they are when a query comes.

use std::fs::{File, Metadata};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A host's resolver looks at no more (`MAXNS`, resolv.conf(5)).
const MOST: usize = 3;
/// A longer file is read so far.
const MOST_BYTES: u64 = 64 * 1024;

/// The servers that a `resolv.conf` names. The file is read again when it is another one than before.
#[derive(Debug)]
pub struct Servers {
    /// Nothing for servers that stay as they are.
    path: Option<PathBuf>,
    port: u16,
    seen: Option<[i64; 5]>,
    servers: Rc<[SocketAddr]>,
}

impl Servers {
    /// Those of the file `path`, on `port`. Nothing is read yet.
    pub fn of(path: impl Into<PathBuf>, port: u16) -> Self {
        Self { path: Some(path.into()), port, seen: None, servers: Rc::new([]) }
    }

    /// These, as many of them as would be taken of a file.
    pub fn fixed(servers: &[IpAddr], port: u16) -> Self {
        let servers = servers.iter().take(MOST).map(|server| SocketAddr::new(*server, port)).collect();
        Self { path: None, port, seen: None, servers }
    }

    /// The servers now. A file that is missing or names none means the one on this machine (resolv.conf(5)).
    pub fn now(&mut self) -> Rc<[SocketAddr]> {
        let Some(path) = &self.path else { return Rc::clone(&self.servers) };
        // Nothing that one could wait for, like a pipe.
        let seen = std::fs::metadata(path).ok().filter(Metadata::is_file).map(|file| version(&file));
        if seen.is_none() || seen != self.seen {
            // Looked at before it is read: a change in between is found the next time.
            self.seen = seen;
            let text = if seen.is_some() { text(path) } else { String::new() };
            self.servers = parse(&text, self.port).into();
        }
        Rc::clone(&self.servers)
    }
}

fn text(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(MOST_BYTES).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn version(file: &Metadata) -> [i64; 5] {
    [file.dev() as i64, file.ino() as i64, file.size() as i64, file.mtime(), file.mtime_nsec()]
}

fn parse(text: &str, port: u16) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        address(words.next()?, port)
    });
    let mut servers: Vec<SocketAddr> = lines.take(MOST).collect();
    if servers.is_empty() {
        servers.push((Ipv4Addr::LOCALHOST, port).into());
    }
    servers
}

/// An address, where one on a single link is followed by the link's name or number: `fe80::1%eth0`.
fn address(word: &str, port: u16) -> Option<SocketAddr> {
    let Some((address, link)) = word.split_once('%') else {
        return match word.parse().ok()? {
            // Nothing but this machine listens there.
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Some((Ipv4Addr::LOCALHOST, port).into()),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Some((Ipv6Addr::LOCALHOST, port).into()),
            address => Some((address, port).into()),
        };
    };
    let scope = link.parse().ok().or_else(|| nix::net::if_::if_nametoindex(link).ok())?;
    Some(SocketAddrV6::new(address.parse().ok()?, port, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses(text: &str) -> Vec<String> {
        parse(text, 53).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn name_servers_are_taken_and_nothing_else() {
        let text =
            "# a\nnameserver 127.0.0.53\n;nameserver 9.9.9.9\nsearch nameserver\n nameserver  ::1 x\nnameserver a.b\n";
        assert_eq!(addresses(text), ["127.0.0.53:53", "[::1]:53"]);
        assert_eq!(addresses("nameserver fe80::1%lo\nnameserver fe80::2%7"), ["[fe80::1%1]:53", "[fe80::2%7]:53"]);
        assert_eq!(addresses("nameserver 0.0.0.0\nnameserver fe80::1%nonesuch"), ["127.0.0.1:53"]);
        assert_eq!(addresses(&"nameserver 192.0.2.1\n".repeat(9)).len(), 3);
    }

    #[test]
    fn a_file_that_is_not_there_means_this_machine() {
        assert_eq!(*Servers::of("/nonesuch", 53).now(), ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!(addresses("options ndots:2\n"), ["127.0.0.1:53"]);
    }

    #[test]
    fn given_servers_stay() {
        let given = ["192.0.2.1", "::1", "192.0.2.3", "192.0.2.4"].map(|address| address.parse().unwrap());
        let servers = Servers::fixed(&given, 53).now();
        assert_eq!(
            servers.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["192.0.2.1:53", "[::1]:53", "192.0.2.3:53"]
        );
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "nobody else reads it")]
    fn a_file_is_read_again_when_it_was_written_replaced_or_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        let mut servers = Servers::of(&path, 53);
        let mut now = |text: &str| {
            assert_eq!(servers.now().iter().map(|server| server.ip().to_string()).collect::<Vec<_>>(), [text]);
        };
        now("127.0.0.1");
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        now("192.0.2.1");
        now("192.0.2.1");
        std::fs::write(&path, "nameserver 192.0.2.111\n").unwrap();
        now("192.0.2.111");
        let other = directory.path().join("other");
        std::fs::write(&other, "nameserver 192.0.2.222\n").unwrap();
        std::fs::rename(&other, &path).unwrap();
        now("192.0.2.222");
        std::fs::remove_file(&path).unwrap();
        now("127.0.0.1");
    }

    proptest! {
        #[test]
        fn any_text_names_between_one_and_three(text in "(?s)(nameserver |[0-9a-f.:%]{1,20}|\n|.){0,40}") {
            prop_assert!((1..=3).contains(&parse(&text, 53).len()));
        }
    }
}
