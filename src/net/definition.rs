//! What a network is said to be: the files `networks/NAME.json`, which survive a reboot. What of it is in the kernel is made
//! when a container needs it, and looked up there.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::driver::Driver;
use super::mode::DEFAULT;
use crate::error::refused;
use crate::state::{open_private, private_directory};

/// The bridge of the network [`DEFAULT`].
pub const BRIDGE: &str = "minirun0";

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// At most 64 characters.
    pub name: String,
    /// How its members are joined.
    #[serde(default)]
    pub driver: Driver,
    /// The link that is its bridge, the parent of its members' links, or the end of a cable that waits.
    pub link: String,
    /// The gateway's address, with the prefix length of the network; of a cable, which has none, the network's own.
    pub gateway: Ipv4Net,
    /// The part of the network that addresses are given from, if it is not all of it.
    #[serde(default)]
    pub range: Option<Ipv4Net>,
    /// The gateway's IPv6 address, with the prefix length of the network.
    #[serde(default)]
    pub gateway6: Option<Ipv6Net>,
    /// Whether its members reach neither the outside nor the host.
    #[serde(default)]
    pub internal: bool,
    /// Whether its members do not reach each other.
    #[serde(default)]
    pub isolate: bool,
    /// Of its links, in bytes; the uplink's where nothing is said.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Options of the driver, as they were given.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// The other hosts that a tunnel leads to.
    #[serde(default)]
    pub remotes: Vec<IpAddr>,
    /// Addresses of its range that the host has itself on a LAN; looked up while one is given.
    #[serde(skip)]
    pub kept: Vec<IpAddr>,
    /// What somebody noted about it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Seconds since 1970.
    #[serde(default)]
    pub created: u64,
}

impl Definition {
    /// The network that is there without being defined; `gateway` is what its bridge has or will have.
    pub fn default_network(gateway: Ipv4Net) -> Self {
        Self {
            name: DEFAULT.into(),
            driver: Driver::Bridge,
            link: BRIDGE.into(),
            gateway,
            range: None,
            gateway6: None,
            internal: false,
            isolate: false,
            mtu: None,
            options: BTreeMap::new(),
            remotes: vec![],
            kept: vec![],
            labels: BTreeMap::new(),
            created: 0,
        }
    }

    /// What the alias of its bridge says.
    pub fn alias(&self) -> String {
        alias_of(&self.name)
    }

    /// Its ranges of addresses.
    pub fn ranges(&self) -> Vec<IpNet> {
        let second = self.gateway6.map(|net| net.trunc().into());
        std::iter::once(self.gateway.trunc().into()).chain(second).collect()
    }

    /// The address of its router; a cable has none.
    pub fn router(&self) -> Option<Ipv4Addr> {
        (self.driver != Driver::Ptp).then(|| self.gateway.addr())
    }

    /// The gateway's addresses.
    pub fn gateways(&self) -> (Ipv4Addr, Option<Ipv6Addr>) {
        (self.gateway.addr(), self.gateway6.map(|net| net.addr()))
    }
}

/// What the alias of the bridge of network `name` says.
pub fn alias_of(name: &str) -> String {
    format!("minirun:network:{name}")
}

/// The link of a new network: its name where that is short and plain, else a part of it and a number that no other has.
pub fn link_of(name: &str, mut taken: impl FnMut(&str) -> bool) -> String {
    let short: String = name.chars().filter(|c| *c != '.').take(12).collect();
    if short == name && !taken(&format!("mr-{name}")) {
        return format!("mr-{name}");
    }
    let begin: String = short.chars().take(6).collect();
    let numbered = |number: u64| format!("mr-{begin}-{number}");
    // A name is tried a million times at most before its number is too long, and there are no so many networks.
    (1..).map(numbered).find(|link| !taken(link)).unwrap_or_else(|| numbered(0))
}

/// Whether `name` may name a network: it becomes a file name and a part of an alias.
pub fn valid_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= 64
        && bytes.next().is_some_and(|byte| byte.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Names that mean something else to `--net`.
pub fn is_reserved(name: &str) -> bool {
    ["none", "host", "container", "ns", "dev", DEFAULT].contains(&name)
}

/// The directory of the definitions.
#[derive(Debug)]
pub struct Definitions {
    directory: PathBuf,
}

impl Definitions {
    /// Opens it; it need not be there.
    pub fn open(data_root: &Path) -> Self {
        Self { directory: data_root.join("networks") }
    }

    /// The network called `name`.
    ///
    /// Errors: there is none, or its file cannot be read.
    pub fn find(&self, name: &str) -> Result<Definition> {
        let path = self.path(name);
        let failed = || format!("read `{}`", path.display());
        if valid_name(name) {
            match fs::read(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                text => {
                    let found: Definition = serde_json::from_slice(&text.with_context(failed)?).with_context(failed)?;
                    return Ok(found);
                }
            }
        }
        Err(refused(
            format!("use network `{name}`: there is none of that name"),
            "see `minirun network ls`; `minirun network create NAME` makes one",
        ))
    }

    /// All of them, by name.
    pub fn list(&self) -> Result<Vec<Definition>> {
        let mut names: Vec<String> = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => vec![],
            entries => entries
                .and_then(|entries| {
                    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
                })
                .with_context(|| format!("read `{}`", self.directory.display()))?,
        };
        names.sort();
        names.iter().filter_map(|name| name.strip_suffix(".json")).map(|name| self.find(name)).collect()
    }

    /// Held while networks are chosen and written, so that two do not choose the same range or link.
    pub fn lock(&self) -> Result<Flock<File>> {
        if let Some(data_root) = self.directory.parent() {
            fs::create_dir_all(data_root).with_context(|| format!("make directory `{}`", data_root.display()))?;
        }
        private_directory(&self.directory)?;
        let path = self.directory.join("lock");
        Flock::lock(open_private(&path)?, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .with_context(|| format!("lock `{}`", path.display()))
    }

    /// Writes a new one.
    ///
    /// Errors: there is one of that name.
    pub fn add(&self, definition: &Definition) -> Result<()> {
        let path = self.path(&definition.name);
        if path.exists() {
            return Err(refused(
                format!("create network `{}`: there is one of that name", definition.name),
                format!("choose another name, or remove it: `minirun network rm {}`", definition.name),
            ));
        }
        self.write(definition)
    }

    /// Writes one, in the place of what was there.
    pub fn write(&self, definition: &Definition) -> Result<()> {
        let path = self.path(&definition.name);
        let temporary = self.directory.join(format!("{}.new", definition.name));
        let write = || -> Result<()> {
            let mut options = OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&serde_json::to_vec_pretty(definition)?)?;
            // It is to survive a power cut a moment later.
            file.sync_all()?;
            Ok(fs::rename(&temporary, &path)?)
        };
        write().inspect_err(|_| _ = fs::remove_file(&temporary)).with_context(|| format!("write `{}`", path.display()))
    }

    /// Removes one.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        fs::remove_file(&path).with_context(|| format!("remove `{}`", path.display()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.json"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn short_names_are_links_and_long_ones_are_numbered() {
        assert_eq!(link_of("front", |_| false), "mr-front");
        assert_eq!(link_of("a.name", |_| false), "mr-aname-1");
        assert_eq!(link_of("front", |link| link == "mr-front"), "mr-front-1");
        assert_eq!(link_of("a-very-long-name-of-a-network", |_| false), "mr-a-very-1");
    }

    #[test]
    fn definitions_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let all = Definitions::open(directory.path());
        assert!(all.list().unwrap().is_empty());
        let _lock = all.lock().unwrap();
        let gateway = "10.1.0.1/24".parse().unwrap();
        let one = Definition { name: "front".into(), link: "mr-front".into(), ..Definition::default_network(gateway) };
        all.add(&one).unwrap();
        assert!(all.add(&one).is_err());
        assert_eq!(all.list().unwrap().first(), Some(&one));
        assert_eq!(all.find("front").unwrap(), one);
        all.remove("front").unwrap();
        assert!(all.find("front").is_err() && all.find("../front").is_err());
    }

    proptest! {
        #[test]
        fn links_of_any_names_differ_and_are_short(names in proptest::collection::hash_set("[a-z0-9][a-z0-9_.-]{0,63}", 1..60)) {
            let mut links = HashSet::new();
            for name in names {
                let link = link_of(&name, |link| links.contains(link));
                prop_assert!(link.len() <= 15 && super::super::mode::link_name(&link).is_ok(), "{link}");
                prop_assert!(links.insert(link));
            }
        }
    }
}
