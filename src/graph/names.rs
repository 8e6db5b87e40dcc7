//! What a network namespace is called: by minirun's records, by docker's and podman's files, by its own name, or by a process
//! in it. No daemon is asked, and a file that is not there or not understood is passed over.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::model::Kind;
use super::namespaces::{Place, number};
use crate::state::Record;

/// Files of other engines are read so far.
const MOST: u64 = 8 << 20;
/// So many processes of a namespace are asked which container they belong to.
const ASKED: usize = 64;

/// Who is in which namespace.
#[derive(Debug, Default)]
pub struct Names {
    /// Names and IDs of minirun's containers.
    own: HashMap<u64, Vec<(String, String)>>,
    /// podman's names by ID; read when the first container of podman's is seen.
    podman: Option<HashMap<String, String>>,
}

/// What a namespace is called.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Called {
    /// Whose it is.
    pub kind: Kind,
    /// Names.
    pub names: Vec<String>,
    /// IDs of its containers.
    pub ids: Vec<String>,
}

impl Names {
    /// With the containers of these records, which live.
    pub fn of(records: &[Record]) -> Self {
        let mut own: HashMap<u64, Vec<(String, String)>> = HashMap::new();
        for record in records {
            let namespace = record.pid.and_then(|pid| number(Path::new(&format!("/proc/{pid}/ns/net"))));
            if let Some(id) = namespace {
                own.entry(id).or_default().push((record.name.clone(), record.id.clone()));
            }
        }
        own.values_mut().for_each(|all| all.sort());
        Self { own, podman: None }
    }

    /// What `place` is called; `host` is for that of whoever asks.
    pub fn call(&mut self, place: &Place, host: bool) -> Called {
        let files =
            place.names.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
        let files: Vec<String> = files.collect();
        if let Some(own) = self.own.get(&place.id) {
            let (names, ids) = own.iter().cloned().unzip();
            let kind = if host { Kind::Host } else { Kind::Minirun };
            let names: Vec<String> = names;
            // Its file is called after the container.
            let more: Vec<String> = files.into_iter().filter(|file| !host && !names.contains(file)).collect();
            return Called { kind, names: [names, more].concat(), ids };
        }
        if host {
            return Called { kind: Kind::Host, ..Called::default() };
        }
        if let Some(called) = self.by_cgroups(place) {
            return called;
        }
        let of_docker = place.names.iter().all(|path| path.starts_with("/run/docker"));
        match (place.pid, files.is_empty()) {
            (_, false) => {
                Called { kind: if of_docker { Kind::Docker } else { Kind::Named }, names: files, ids: vec![] }
            }
            (Some(pid), true) => {
                let comm = read(Path::new(&format!("/proc/{pid}/comm"))).unwrap_or_default();
                Called { kind: Kind::Process, names: vec![comm.trim_end_matches('\n').to_owned()], ids: vec![] }
            }
            (None, true) => Called::default(),
        }
    }

    /// By the containers that its processes are of: its first one's, and those that have joined that.
    fn by_cgroups(&mut self, place: &Place) -> Option<Called> {
        let mut called = self.by_cgroup(place.pid?)?;
        let mut processes = place.processes.clone();
        processes.sort_unstable();
        for pid in processes.into_iter().take(ASKED) {
            let Some(other) = self.by_cgroup(pid) else { continue };
            if !called.ids.contains(&other.ids[0]) {
                called.names.extend(other.names);
                called.ids.extend(other.ids);
            }
        }
        Some(called)
    }

    /// By the ID that engines put into the path of a container's cgroup.
    fn by_cgroup(&mut self, pid: i32) -> Option<Called> {
        let text = read(Path::new(&format!("/proc/{pid}/cgroup")))?;
        // Where this program is in a container itself, that one's ID is in every path.
        let own = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
        let mut lines = text.lines().filter_map(|line| Some((line, hexadecimal(line)?)));
        let (line, id) = lines.find(|(_, id)| !own.contains(id))?;
        let (kind, name) = if line.contains("libpod") {
            (Kind::Podman, self.podman.get_or_insert_with(of_podman).get(id).cloned())
        } else if line.contains("docker") {
            (Kind::Docker, of_docker(id))
        } else {
            (Kind::Container, None)
        };
        Some(Called { kind, names: vec![name.unwrap_or_else(|| id[..12].to_owned())], ids: vec![id.to_owned()] })
    }
}

/// The 64 hexadecimal digits in a row of a cgroup's path.
fn hexadecimal(line: &str) -> Option<&str> {
    let parts = line.split(|c: char| !c.is_ascii_alphanumeric());
    parts.into_iter().find(|part| part.len() == 64 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn read(path: &Path) -> Option<String> {
    let mut text = Vec::new();
    File::open(path).ok()?.take(MOST).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

fn of_docker(id: &str) -> Option<String> {
    let text = read(&Path::new("/var/lib/docker/containers").join(id).join("config.v2.json"))?;
    let about: Value = serde_json::from_str(&text).ok()?;
    Some(about.get("Name")?.as_str()?.trim_start_matches('/').to_owned())
}

fn of_podman() -> HashMap<String, String> {
    let text = read(Path::new("/var/lib/containers/storage/overlay-containers/containers.json")).unwrap_or_default();
    let all: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
    let one =
        |about: &Value| Some((about.get("id")?.as_str()?.to_owned(), about.get("names")?[0].as_str()?.to_owned()));
    all.iter().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_in_the_paths_of_all_engines() {
        let id = "0123456789abcdef".repeat(4);
        for line in [
            format!("0::/docker/{id}"),
            format!("0::/system.slice/docker-{id}.scope"),
            format!("3:cpu:/machine.slice/libpod-{id}.scope/container"),
            format!("1:name=systemd:/kubepods/pod12/cri-containerd-{id}.scope"),
        ] {
            assert_eq!(hexadecimal(&line), Some(id.as_str()), "{line}");
        }
        assert_eq!(hexadecimal("0::/user.slice/user-0.slice"), None);
        assert_eq!(hexadecimal(&format!("0::/x/{id}0")), None);
    }
}
