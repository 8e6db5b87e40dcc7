//! Who is on a container's networks, as its name server tells: from the records in the state directory, as they are when
//! somebody asks.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use ipnet::{Ipv4Net, Ipv6Net};
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde::Deserialize;

use super::Interface;
use super::dns::Directory;
use super::driver::Driver;

/// The names of the host, in every network.
const HOST: [&str; 2] = ["host.minirun.internal", "gateway.minirun.internal"];

/// The members of a container's networks.
#[derive(Debug)]
pub struct Members {
    containers: PathBuf,
    /// The directory of their names, which changes where one is renamed.
    names: PathBuf,
    /// The networks that the container is on, with its host's address on the first one.
    networks: Vec<Own>,
    host: Option<Ipv4Addr>,
    /// What was read last, and what the directory was then.
    read: RefCell<Option<(State, Vec<Member>)>>,
}

/// A network that the container is on.
#[derive(Debug)]
struct Own {
    name: String,
    /// Whether its addresses are members' alone: those of a LAN are not, and other name servers know them.
    alone: bool,
    range: Ipv4Net,
    range6: Option<Ipv6Net>,
}

/// A name of an interface of somebody.
#[derive(Debug)]
struct Member {
    names: Vec<String>,
    network: String,
    addresses: Vec<IpAddr>,
    holder: Pid,
}

impl Member {
    /// Asked again for whoever is told of: that a holder was killed changes no directory.
    fn lives(&self) -> bool {
        lives(self.holder)
    }
}

/// Whether there is such a process.
fn lives(holder: Pid) -> bool {
    kill(holder, None) != Err(nix::Error::ESRCH)
}

/// By what a change of the directories of containers and of names is known: the inode of each, and its time of change, to the
/// nanosecond.
type State = [(u64, i64, i64); 2];

/// As much of a record as is needed.
#[derive(Debug, Deserialize)]
struct Brief {
    id: String,
    name: String,
    #[serde(default)]
    interfaces: Vec<Interface>,
}

impl Members {
    /// Those whom a container with these interfaces can reach; `state` is the state directory.
    pub fn of(interfaces: &[Interface], host: Option<Ipv4Addr>, state: &Path) -> Self {
        let own = |interface: &Interface| Own {
            name: interface.network.clone(),
            alone: interface.driver != Driver::Macvlan,
            range: interface.address.trunc(),
            range6: interface.address6.map(|net| net.trunc()),
        };
        let networks = interfaces.iter().map(own).collect();
        let (containers, names) = (state.join("containers"), state.join("names"));
        Self { containers, names, networks, host, read: RefCell::new(None) }
    }

    /// Calls `with` with those that there are now.
    fn now<T>(&self, with: impl FnOnce(&[Member]) -> T) -> T {
        let state = self.state();
        let mut read = self.read.borrow_mut();
        if read.as_ref().is_none_or(|(then, _)| Some(*then) != state) {
            *read = None;
        }
        let members = match (&*read, state) {
            (Some(_), _) => None,
            // A change within the same tick of the clock would not be seen: what was changed just now is not kept.
            (None, Some(state)) if is_old(state) => {
                *read = Some((state, self.list()));
                None
            }
            (None, _) => Some(self.list()),
        };
        let kept = read.as_ref().map(|(_, members)| members.as_slice());
        with(members.as_deref().or(kept).unwrap_or_default())
    }

    fn state(&self) -> Option<State> {
        let of = |directory: &Path| {
            let about = fs::metadata(directory).ok()?;
            Some((about.ino(), about.mtime(), about.mtime_nsec()))
        };
        Some([of(&self.containers)?, of(&self.names).unwrap_or_default()])
    }

    fn list(&self) -> Vec<Member> {
        let Ok(entries) = fs::read_dir(&self.containers) else { return vec![] };
        entries
            .flatten()
            .filter_map(|entry| read(&entry.path()))
            .flat_map(|(brief, holder)| self.members(brief, holder))
            .collect()
    }

    fn members(&self, brief: Brief, holder: Pid) -> Vec<Member> {
        let Brief { id, name, interfaces } = brief;
        let ours = |interface: &Interface| self.networks.iter().any(|own| own.name == interface.network);
        let member = |interface: Interface| {
            let mut names = vec![name.to_ascii_lowercase(), id.clone()];
            names.extend(interface.aliases.iter().map(|alias| alias.to_ascii_lowercase()));
            names.dedup();
            let addresses = interface.addresses().collect();
            Member { names, network: interface.network, addresses, holder }
        };
        interfaces.into_iter().filter(ours).map(member).collect()
    }
}

/// Whether those times of change are long enough ago that another one would differ: a clock's tick is 10 ms at most.
fn is_old(state: State) -> bool {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let then =
        |(_, seconds, nanoseconds): (u64, i64, i64)| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    state.into_iter().all(|one| now.as_nanos() as i128 - then(one) > 20_000_000)
}

/// The record of a container that is held, if it is in this directory, and who holds it.
fn read(path: &Path) -> Option<(Brief, Pid)> {
    let holder = Pid::from_raw(path.extension()?.to_str()?.parse().ok()?);
    if !lives(holder) {
        return None;
    }
    let mut text = Vec::new();
    File::open(path.join("record")).ok()?.take(1 << 20).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok().map(|brief| (brief, holder))
}

impl Directory for Members {
    fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        if HOST.contains(&name) {
            return Some(self.host.map(IpAddr::from).into_iter().collect());
        }
        self.now(|members| {
            let mut found = members
                .iter()
                .filter(|member| {
                    let own = |own: &String| {
                        own == name
                            || name.strip_suffix(member.network.as_str()).and_then(|rest| rest.strip_suffix('.'))
                                == Some(own)
                    };
                    member.names.iter().any(own) && member.lives()
                })
                .peekable();
            found.peek()?;
            Some(found.flat_map(|member| member.addresses.iter().copied()).collect())
        })
    }

    fn names(&self, address: IpAddr) -> Vec<String> {
        if self.host.map(IpAddr::from) == Some(address) {
            return HOST.map(str::to_owned).to_vec();
        }
        self.now(|members| {
            let found = members.iter().find(|member| member.addresses.contains(&address) && member.lives());
            found.map(|member| member.names.clone()).unwrap_or_default()
        })
    }

    fn owns(&self, address: IpAddr) -> bool {
        self.networks.iter().filter(|own| own.alone).any(|own| match address {
            IpAddr::V4(address) => own.range.contains(&address),
            IpAddr::V6(address) => own.range6.is_some_and(|range| range.contains(&address)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn interface(network: &str, address: &str, aliases: &[&str]) -> Interface {
        Interface {
            network: network.into(),
            name: "eth0".into(),
            driver: Driver::Bridge,
            host: "mr0".into(),
            mac: [2, 0, 0, 0, 0, 1],
            address: address.parse().unwrap(),
            address6: None,
            announced: false,
            gateway: "10.0.0.1".parse().ok(),
            default_route: true,
            default_route6: false,
            mtu: 1500,
            rate: None,
            aliases: aliases.iter().map(|alias| (*alias).to_owned()).collect(),
            index: 2,
            port: std::collections::BTreeMap::new(),
            spoof: false,
        }
    }

    fn write(root: &Path, id: &str, name: &str, interfaces: &[Interface]) -> PathBuf {
        let path = root.join("containers").join(format!("{id}.{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let record = serde_json::json!({ "id": id, "name": name, "interfaces": interfaces });
        let file = File::options().write(true).create(true).truncate(true).open(path.join("record"));
        file.unwrap().write_all(record.to_string().as_bytes()).unwrap();
        path
    }

    #[test]
    fn members_are_those_of_the_same_network_that_live() {
        let root = tempfile::tempdir().unwrap();
        let front = interface("front", "10.0.0.2/24", &["DB"]);
        let own = [interface("front", "10.0.0.9/24", &[])];
        let members = Members::of(&own, Some("10.0.0.1".parse().unwrap()), root.path());
        assert_eq!(members.addresses("web"), None);
        let web = write(root.path(), "0123456789ab", "Web", &[front, interface("back", "10.1.0.2/24", &[])]);
        write(root.path(), "1123456789ab", "other", &[interface("back", "10.1.0.3/24", &[])]);
        let address: IpAddr = "10.0.0.2".parse().unwrap();
        for name in ["web", "db", "0123456789ab", "web.front", "db.front"] {
            assert_eq!(members.addresses(name), Some(vec![address]), "{name}");
        }
        for name in ["other", "web.back", "web.", "front", ".front", "10.0.0.2"] {
            assert_eq!(members.addresses(name), None, "{name}");
        }
        assert_eq!(members.names(address), ["web", "0123456789ab", "db"]);
        assert_eq!(members.addresses("host.minirun.internal"), Some(vec!["10.0.0.1".parse().unwrap()]));
        assert!(members.owns(address) && !members.owns("10.1.0.3".parse().unwrap()));
        // Its holder is gone, and it is kept.
        fs::rename(&web, web.with_file_name("0123456789ab")).unwrap();
        assert_eq!(members.addresses("web"), None);
    }
}
