//! The files by which a program finds names: /etc/hosts and /etc/resolv.conf of a container.

use std::net::{IpAddr, Ipv4Addr};

/// Where the host's resolvers are told, the first that names one which a container can reach wins: beside a stub on the
/// loopback device, systemd-resolved and NetworkManager keep a file of the servers that they ask.
pub const SOURCES: [&str; 3] =
    ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf", "/run/NetworkManager/no-stub-resolv.conf"];

/// What a `resolv.conf` says, as far as a container can use it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolvers {
    /// Name servers, without those on the loopback device: in a container that is another one.
    pub servers: Vec<IpAddr>,
    /// The lines `search`, `domain` and `options`, as they stand.
    pub other: Vec<String>,
}

impl Resolvers {
    /// Reads the text of a `resolv.conf` (resolv.conf(5)).
    pub fn parse(text: &str) -> Self {
        let mut resolvers = Self::default();
        for line in text.lines().map(str::trim) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(|word| word.split('%').next()?.parse::<IpAddr>().ok());
                    resolvers.servers.extend(server.filter(|server| !server.is_loopback() && !server.is_unspecified()));
                }
                Some("search" | "domain" | "options") => resolvers.other.push(line.to_owned()),
                _ => {}
            }
        }
        resolvers
    }

    /// The host's resolvers, from the first source that names one that is not on the loopback device.
    pub fn of_host() -> Self {
        let mut first = None;
        for source in SOURCES {
            let found = Self::parse(&std::fs::read_to_string(source).unwrap_or_default());
            if !found.servers.is_empty() {
                return found;
            }
            first.get_or_insert(found);
        }
        first.unwrap_or_default()
    }

    /// Says other domains or options than the host's, where some are given.
    pub fn say(&mut self, search: &[String], options: &[String]) {
        if !search.is_empty() {
            self.other.retain(|line| !line.starts_with("search") && !line.starts_with("domain"));
            self.other.push(format!("search {}", search.join(" ")));
        }
        if !options.is_empty() {
            self.other.retain(|line| !line.starts_with("options"));
            self.other.push(format!("options {}", options.join(" ")));
        }
    }

    /// The domains that names are looked up in: `asked`, or those that are said here.
    pub fn search(&self, asked: &[String]) -> Vec<String> {
        if !asked.is_empty() {
            return asked.to_vec();
        }
        let domains = |line: &String| {
            let mut words = line.split_whitespace();
            matches!(words.next(), Some("search" | "domain")).then(|| words.map(str::to_owned).collect())
        };
        // The last line counts (resolv.conf(5)).
        self.other.iter().rev().find_map(domains).unwrap_or_default()
    }

    /// The IPv4 servers.
    pub fn ipv4(&self) -> Vec<Ipv4Addr> {
        self.servers
            .iter()
            .filter_map(|server| match server {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            })
            .collect()
    }

    /// The text of a container's `resolv.conf`.
    pub fn text(&self) -> String {
        let mut lines: Vec<String> = self.servers.iter().map(|server| format!("nameserver {server}")).collect();
        lines.extend(self.other.iter().cloned());
        if self.servers.is_empty() {
            lines.insert(0, "# no name server that this container could reach is known".into());
        }
        lines.join("\n") + "\n"
    }
}

/// The text of a container's `/etc/hosts`: itself, and what `--add-host` asks for.
pub fn hosts(own: &[IpAddr], gateway: Option<Ipv4Addr>, name: &str, added: &[(String, IpAddr)]) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    own.iter().for_each(|own| text.push_str(&format!("{own}\t{name}\n")));
    if let Some(gateway) = gateway {
        text.push_str(&format!("{gateway}\tgateway.minirun.internal host.minirun.internal\n"));
    }
    for (name, address) in added {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stub_on_the_loopback_device_is_not_copied() {
        let text = "# stub\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.53\nsearch example.test\noptions edns0\n";
        let resolvers = Resolvers::parse(text);
        assert_eq!(resolvers.text(), "nameserver 192.0.2.53\nsearch example.test\noptions edns0\n");
        assert!(Resolvers::parse("nameserver 127.0.0.53").text().starts_with('#'));
    }

    #[test]
    fn hosts_has_name_address_and_gateway() {
        let own = ["10.214.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let text =
            hosts(&own, Some(Ipv4Addr::new(10, 214, 0, 1)), "web", &[("db".into(), "192.0.2.7".parse().unwrap())]);
        assert!(text.contains("10.214.0.2\tweb\nfd00::2\tweb\n10.214.0.1\tgateway"), "{text}");
        assert!(text.ends_with("192.0.2.7\tdb\n"), "{text}");
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_what_is_written_reads_the_same(text in "(?s).{0,200}") {
            let once = Resolvers::parse(&text);
            let again = Resolvers::parse(&once.text());
            prop_assert_eq!(once.servers, again.servers);
        }
    }
}
