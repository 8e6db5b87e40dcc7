//! The processes of a container, where no cgroup tells them: by their PID namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// Every process in the PID namespace with this inode, as `stat -L /proc/PID/ns/pid` says it of the container's init, and in
/// the namespaces that were made in it.
pub fn processes_of(pid_namespace: u64) -> Vec<i32> {
    let link = format!("pid:[{pid_namespace}]");
    let mut members = BTreeSet::new();
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if fs::read_link(entry.path().join("ns/pid")).is_ok_and(|found| found.as_os_str() == link.as_str()) {
            members.insert(pid);
        } else if let Some(parent) = parent_of(pid) {
            parents.insert(pid, parent);
        }
    }
    // The first process of an inner namespace has its parent in the outer one, and so on: whose ancestor is a member is one.
    loop {
        let more: Vec<i32> =
            parents.iter().filter(|(_, parent)| members.contains(*parent)).map(|(pid, _)| *pid).collect();
        if more.is_empty() {
            return members.into_iter().collect();
        }
        for pid in more {
            parents.remove(&pid);
            members.insert(pid);
        }
    }
}

/// Fields of /proc/PID/stat from the third on (proc_pid_stat(5)): the second is a name, which may hold anything.
pub fn stat(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

fn parent_of(pid: i32) -> Option<i32> {
    stat(pid)?.get(1)?.parse().ok()
}
