//! What stands on a host: everything that a container could leave behind, one line a thing.
//!
//! A line has a key that says the kind and the name (`link eth0`, `nft chain inet minirun forward`, `sysctl net/ipv4/ip_forward`)
//! and a value as words (`mtu=1400 state=UP`). Two snapshots are compared key by key, and a difference names the words.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::call::is_held;

/// Reads differently each time, on a host where nothing happens.
const VOLATILE_SYSCTLS: [&str; 13] = [
    // Counters of what the whole machine has open or cached.
    "fs/aio-nr",
    "fs/dentry-state",
    "fs/file-nr",
    "fs/inode-nr",
    "fs/inode-state",
    "fs/epoll/",
    "fs/quota/",
    "kernel/pty/nr",
    "net/netfilter/nf_conntrack_count",
    // The last process number given out.
    "kernel/ns_last_pid",
    // A fresh number at each look, and the state of the generator.
    "kernel/random/",
    // Reading it is a command to the kernel.
    "vm/stat_refresh",
    // Lines of the kernel's log about whoever read something deprecated.
    "kernel/printk_ratelimit",
];

/// Of links, addresses and routes: counters, timers, and what the kernel settles by itself some time after a change.
const VOLATILE_WORDS: [&str; 16] = [
    "stats",
    "stats64",
    "hello_timer",
    "tcn_timer",
    "topology_change_timer",
    "message_age_timer",
    "forward_delay_timer",
    "hold_timer",
    "topology_change",
    "gc_timer",
    "valid_life_time",
    "preferred_life_time",
    "tentative",
    "packets",
    "bytes",
    "handle",
];

/// The table that one of those who hold containers owns, from a second after its container's start until its end.
const ANCHOR: &str = "minirun-anchor";

/// Where minirun, or a container that escaped, could leave files.
const FILES: [&str; 4] = ["/run", "/var/lib", "/tmp", "/dev/shm"];

#[derive(Default, Debug)]
pub struct Snapshot(BTreeMap<String, String>);

impl Snapshot {
    pub fn take(cgroups: bool) -> Snapshot {
        let mut all = Snapshot::default();
        reap();
        all.processes();
        all.namespaces();
        all.links();
        all.addresses();
        all.routes();
        all.firewall();
        all.sysctls(Path::new("/proc/sys"));
        all.mounts();
        if cgroups {
            all.cgroups(Path::new("/sys/fs/cgroup"));
        }
        for place in FILES {
            all.files(Path::new(place));
        }
        all
    }

    /// What there is of the network where this runs, without what differs between two that are made alike: the numbers of links and
    /// of namespaces, and the hardware addresses that the kernel throws dice for.
    pub fn of_network() -> Snapshot {
        let mut all = Snapshot::default();
        all.links();
        all.ports_and_filters();
        all.addresses();
        all.routes();
        all.firewall();
        all.sysctls(Path::new("/proc/sys/net"));
        for value in all.0.values_mut() {
            let kinds = ["linkinfo.info_kind=veth", "linkinfo.info_kind=vxlan"];
            let own = value.contains("ifalias=minirun:") && kinds.iter().any(|kind| value.contains(kind));
            let diced = own || value.contains("linkinfo.info_kind=tun");
            let numbers = ["ifindex=", "link_index=", "link=", "link_netnsid=", "peer_ifindex=", "tso_max_size="];
            let stays = |word: &&str| {
                let number = numbers.iter().any(|number| word.starts_with(number));
                !(number || diced && word.starts_with("address="))
            };
            *value = value.split(' ').filter(stays).collect::<Vec<_>>().join(" ");
        }
        all
    }

    /// What the bridges know of their ports, and the filters at them.
    fn ports_and_filters(&mut self) {
        for port in list("bridge", &["-d", "-j", "link"]) {
            self.add("port", text(&port["ifname"]), words(&port));
        }
        for link in list("ip", &["-j", "link"]) {
            let name = text(&link["ifname"]).to_owned();
            for end in ["ingress", "egress"] {
                for (at, filter) in list("tc", &["-j", "filter", "show", "dev", &name, end]).iter().enumerate() {
                    self.add("filter", format!("{name} {end} {at}"), words(filter));
                }
            }
        }
        // Whom tunnels lead to.
        for entry in list("bridge", &["-j", "fdb", "show"]) {
            if text(&entry["mac"]) == "00:00:00:00:00:00" {
                self.add("flood", format!("{} {}", text(&entry["ifname"]), text(&entry["dst"])), "");
            }
        }
        for neighbour in list("ip", &["-j", "neigh", "show", "nud", "permanent"]) {
            self.add("neighbour", words(&neighbour), "");
        }
    }

    /// One line for each thing that is not the same in `before`.
    pub fn differences(&self, before: &Snapshot) -> Vec<String> {
        let keys: BTreeSet<_> = self.0.keys().chain(before.0.keys()).collect();
        let difference = |key: &String| match (before.0.get(key), self.0.get(key)) {
            (None, Some(now)) => Some(format!("new:     {key} {now}")),
            (Some(then), None) => Some(format!("gone:    {key} {then}")),
            (Some(then), Some(now)) if then != now => {
                let (then, now): (BTreeSet<_>, BTreeSet<_>) = (then.split(' ').collect(), now.split(' ').collect());
                let words = |set: &BTreeSet<&str>, other| set.difference(other).copied().collect::<Vec<_>>().join(" ");
                Some(format!("changed: {key} was: {} is: {}", words(&then, &now), words(&now, &then)))
            }
            _ => None,
        };
        let lasting = |link: &str| self.0.contains_key(link) == before.0.contains_key(link);
        keys.into_iter()
            .filter(|key| link_of_sysctl(key).is_none_or(|link| lasting(&link)))
            .filter_map(difference)
            .collect()
    }

    /// How many things there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    fn add(&mut self, kind: &str, name: impl std::fmt::Display, value: impl Into<String>) {
        self.0.insert(format!("{kind} {name}"), value.into());
    }

    fn links(&mut self) {
        for link in list("ip", &["-d", "-j", "link"]) {
            self.add("link", text(&link["ifname"]), words(&link));
        }
        for discipline in list("tc", &["-j", "qdisc"]) {
            self.add(
                "qdisc",
                format!("{} {}", text(&discipline["dev"]), text(&discipline["kind"])),
                words(&discipline),
            );
        }
    }

    fn addresses(&mut self) {
        for link in list("ip", &["-j", "addr"]) {
            for address in link["addr_info"].as_array().into_iter().flatten() {
                self.add("address", format!("{} {}", text(&link["ifname"]), text(&address["local"])), words(address));
            }
        }
    }

    fn routes(&mut self) {
        for family in ["-4", "-6"] {
            for route in list("ip", &["-j", family, "route", "show", "table", "all"]) {
                // The kernel's own routes to a link-local address come and go with duplicate address detection.
                let made_by_kernel = text(&route["protocol"]) == "kernel" && text(&route["dst"]).starts_with("fe80:");
                if !made_by_kernel {
                    self.add("route", words(&route), "");
                }
            }
            for rule in list("ip", &["-j", family, "rule"]) {
                self.add("rule", format!("{family} {}", words(&rule)), "");
            }
        }
    }

    fn firewall(&mut self) {
        let (listing, is_held) = rules();
        let listing: Value = serde_json::from_str(&listing).expect("JSON of nft");
        let mut rules: BTreeMap<String, usize> = BTreeMap::new();
        for object in listing["nftables"].as_array().into_iter().flatten() {
            let Some((kind, body)) = object.as_object().and_then(|object| object.iter().next()) else { continue };
            let place = |keys: &[&str]| keys.iter().map(|key| text(&body[*key])).collect::<Vec<_>>().join(" ");
            let is_anchor = [&body["name"], &body["table"]].into_iter().any(|table| table == ANCHOR);
            match kind.as_str() {
                "metainfo" => {}
                _ if is_anchor && is_held => {}
                "rule" => {
                    let chain = place(&["family", "table", "chain"]);
                    let number = rules.entry(chain.clone()).and_modify(|number| *number += 1).or_insert(1);
                    self.add("nft rule", format!("{chain} {number}"), words(body));
                }
                _ => self.add(&format!("nft {kind}"), place(&["family", "table", "name"]), words(body)),
            }
        }
    }

    fn sysctls(&mut self, directory: &Path) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = path.strip_prefix("/proc/sys").expect("below it").display().to_string();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.sysctls(&path);
            } else if !VOLATILE_SYSCTLS.iter().any(|volatile| name.starts_with(volatile)) {
                // What cannot be read (`net/ipv4/route/flush`) has no value to compare.
                if let Ok(value) = fs::read(&path) {
                    let value = String::from_utf8_lossy(&value);
                    self.add("sysctl", name, value.split_whitespace().collect::<Vec<_>>().join(" "));
                }
            }
        }
    }

    fn mounts(&mut self) {
        for line in fs::read_to_string("/proc/self/mountinfo").expect("mountinfo").lines() {
            let fields: Vec<_> = line.split(' ').collect();
            // Without the mount's number and its parent's; two mounts on one place are two lines.
            let place = fields[4];
            let same = self.0.keys().filter(|key| key.starts_with(&format!("mount {place} "))).count();
            self.add("mount", format!("{place} {}", same + 1), [&fields[2..4], &fields[5..]].concat().join(" "));
        }
    }

    fn namespaces(&mut self) {
        for process in numbers("/proc") {
            for task in numbers(&format!("/proc/{process}/task")) {
                for link in fs::read_dir(format!("/proc/{process}/task/{task}/ns")).into_iter().flatten().flatten() {
                    if let Ok(target) = fs::read_link(link.path()) {
                        self.add("namespace", target.display(), "");
                    }
                }
            }
        }
    }

    fn processes(&mut self) {
        for process in numbers("/proc").into_iter().filter(|process| *process != 1) {
            let command = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let name = fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default();
            if !name.is_empty() {
                self.add("process", process, format!("{} {command}", name.trim()));
            }
        }
    }

    fn cgroups(&mut self, directory: &Path) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                self.add("cgroup", entry.path().display(), "");
                self.cgroups(&entry.path());
            }
        }
    }

    fn files(&mut self, directory: &Path) {
        let device = fs::metadata(directory).map_or(0, |about| about.dev());
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let (path, Ok(about)) = (entry.path(), entry.metadata()) else { continue };
            let kind = about.file_type();
            let mut value = format!("mode={:o} owner={}:{}", about.mode(), about.uid(), about.gid());
            if kind.is_symlink() {
                value += &format!(" to={}", fs::read_link(&path).unwrap_or_default().display());
            } else if kind.is_file() {
                // What a file of leases holds is the address to try next, which moves on; the leases are locks on it. And rules
                // are counted by each change of them.
                let is = |begin: &str| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(begin));
                let contents = if is("leases") || is("foreign") { 0 } else { contents(&path, about.size()) };
                let size = if is("foreign") { 0 } else { about.size() };
                value += &format!(" size={size} contents={contents:x}");
            } else if kind.is_char_device() || kind.is_block_device() {
                value += &format!(" device={:x}", about.rdev());
            }
            self.add("file", path.display(), value);
            // Not into the project and its programs, which are mounted here where they lie below /tmp.
            if kind.is_dir() && about.dev() == device {
                self.files(&path);
            }
        }
    }
}

/// The link that a `sysctl net/ipv4/conf/NAME/...` belongs to: its hundred sysctls come and go with it.
fn link_of_sysctl(key: &str) -> Option<String> {
    let mut parts = key.strip_prefix("sysctl net/")?.split('/');
    let table = (parts.next()?, parts.next()?);
    let link = parts.next()?;
    matches!(table, ("ipv4" | "ipv6", "conf" | "neigh")).then(|| format!("link {link}"))
}

/// A number for what a file holds; big files (the image's busybox) count by their size alone.
fn contents(path: &Path, size: u64) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    if size <= 65_536 {
        fs::read(path).unwrap_or_default().hash(&mut hasher);
    }
    hasher.finish()
}

/// Process 1 inherits the children of whoever was killed, and nobody else can bury them. What the test started itself is left to
/// the test.
pub fn reap() {
    use nix::sys::wait::{WaitPidFlag, waitpid};
    use nix::unistd::Pid;
    for process in numbers("/proc") {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        if fields.next() == Some("Z") && fields.next() == Some("1") && !is_held(process) {
            let _ = waitpid(Pid::from_raw(process), Some(WaitPidFlag::WNOHANG));
        }
    }
}

/// The entries of a directory that are numbers.
fn numbers(directory: &str) -> Vec<i32> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The rules of nftables, and whether an anchor among them is held: the kernel takes one that is not away in a moment.
fn rules() -> (String, bool) {
    let is_holder = |process: i32| {
        fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|command| command.starts_with(b"minirun: "))
    };
    let mut text = String::new();
    for _ in 0..40 {
        text = said_by("nft", &["-j", "list", "ruleset"]);
        if !text.contains(ANCHOR) || numbers("/proc").into_iter().any(is_holder) {
            return (text, true);
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    (text, false)
}

fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn list(program: &str, arguments: &[&str]) -> Vec<Value> {
    let said = said_by(program, arguments);
    // `ip` prints nothing at all for an empty list.
    let value =
        if said.trim().is_empty() { Value::Array(Vec::new()) } else { serde_json::from_str(&said).expect("JSON") };
    value.as_array().cloned().unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A JSON value as words `key.key=value`, without what is volatile.
fn words(value: &Value) -> String {
    fn walk(value: &Value, path: &str, words: &mut Vec<String>) {
        let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        match value {
            Value::Object(object) => {
                let lasting = object.iter().filter(|(key, _)| !VOLATILE_WORDS.contains(&key.as_str()));
                lasting.for_each(|(key, value)| walk(value, &below(key), words));
            }
            Value::Array(array) => {
                array.iter().enumerate().for_each(|(number, value)| walk(value, &below(&number.to_string()), words));
            }
            Value::String(string) => words.push(format!("{path}={}", string.replace(' ', "_"))),
            other => words.push(format!("{path}={other}")),
        }
    }
    let mut all = Vec::new();
    walk(value, "", &mut all);
    all.join(" ")
}
