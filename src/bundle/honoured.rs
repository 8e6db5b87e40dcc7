//! What of a `config.json` is honoured. Everything else that is there and says something is refused by its name: a
//! container that lacks what its bundle asks for may lack a guard.

use anyhow::{Result, bail};
use serde_json::Value;

use crate::error::refused;

/// The fields, with `[]` for each element of a list and `*` for any name.
pub const FIELDS: &[&str] = &[
    "ociVersion",
    "hostname",
    "domainname",
    "root.path",
    "root.readonly",
    "annotations.*",
    "process.terminal",
    "process.args",
    "process.env",
    "process.cwd",
    "process.noNewPrivileges",
    "process.oomScoreAdj",
    "process.user.uid",
    "process.user.gid",
    "process.user.umask",
    "process.user.additionalGids",
    "process.capabilities.bounding",
    "process.capabilities.effective",
    "process.capabilities.permitted",
    "process.capabilities.inheritable",
    "process.capabilities.ambient",
    "process.rlimits[].type",
    "process.rlimits[].soft",
    "process.rlimits[].hard",
    "mounts[].destination",
    "mounts[].type",
    "mounts[].source",
    "mounts[].options",
    "linux.namespaces[].type",
    "linux.namespaces[].path",
    "linux.maskedPaths",
    "linux.readonlyPaths",
    "linux.rootfsPropagation",
    "linux.sysctl.*",
    "linux.devices[].path",
    "linux.devices[].type",
    "linux.devices[].major",
    "linux.devices[].minor",
    "linux.devices[].fileMode",
    "linux.devices[].uid",
    "linux.devices[].gid",
    "linux.resources.devices[].allow",
    "linux.resources.devices[].type",
    "linux.resources.devices[].major",
    "linux.resources.devices[].minor",
    "linux.resources.devices[].access",
    "linux.resources.memory.limit",
    "linux.resources.memory.swap",
    "linux.resources.cpu.quota",
    "linux.resources.cpu.period",
    "linux.resources.cpu.shares",
    "linux.resources.cpu.cpus",
    "linux.resources.pids.limit",
    "linux.seccomp.defaultAction",
    "linux.seccomp.defaultErrnoRet",
    "linux.seccomp.architectures",
    "linux.seccomp.flags",
    "linux.seccomp.syscalls[].names",
    "linux.seccomp.syscalls[].action",
    "linux.seccomp.syscalls[].errnoRet",
    "linux.seccomp.syscalls[].args[].index",
    "linux.seccomp.syscalls[].args[].value",
    "linux.seccomp.syscalls[].args[].valueTwo",
    "linux.seccomp.syscalls[].args[].op",
];

/// Refuses what is not honoured, and takes out what is there and null: to everybody that is as if it were not there.
pub fn check(config: &mut Value) -> Result<()> {
    if !config.is_object() {
        bail!("refuse bundle: its configuration is not an object");
    }
    walk(config, "", "")
}

/// `field` is the path as the table has it, `name` as people read it.
fn walk(value: &mut Value, field: &str, name: &str) -> Result<()> {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            let any = join(field, "*");
            for (key, member) in members.iter_mut() {
                let child = if FIELDS.contains(&any.as_str()) { any.clone() } else { join(field, key) };
                descend(member, &child, &join(name, key))?;
            }
            Ok(())
        }
        Value::Array(elements) => {
            let element_field = format!("{field}[]");
            elements.iter_mut().enumerate().try_for_each(|(index, element)| {
                let name = format!("{name}[{index}]");
                if !element.is_object() {
                    bail!("refuse bundle: {name}: it is not an object");
                }
                descend(element, &element_field, &name)
            })
        }
        _ => bail!("refuse bundle: {name}: it is neither an object nor a list"),
    }
}

fn descend(value: &mut Value, field: &str, name: &str) -> Result<()> {
    if FIELDS.contains(&field) {
        // What it is must be what is wanted there: that is seen when it is read.
        return Ok(());
    }
    let above = |known: &str| known.strip_prefix(field).is_some_and(|rest| rest.starts_with(['.', '[']));
    if FIELDS.iter().any(|known| above(known)) {
        return walk(value, field, name);
    }
    if says_nothing(value) { Ok(()) } else { Err(unsupported(name)) }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(elements) => elements.is_empty(),
        Value::Object(members) => members.values().all(says_nothing),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// The error for a field that is not honoured.
pub fn unsupported(name: &str) -> anyhow::Error {
    refused(
        format!("refuse bundle: {name} is not supported yet"),
        "leave it out of config.json, or use a runtime that has it",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> Option<String> {
        check(&mut serde_json::from_str(text).unwrap()).err().map(|error| error.to_string())
    }

    #[test]
    fn what_is_not_known_is_refused_by_its_name() {
        for (text, name) in [
            (r#"{"hooks": {"poststop": [{"path": "/x"}]}}"#, "hooks"),
            (r#"{"linux": {"intelRdt": {"closID": "x"}}}"#, "linux.intelRdt"),
            (r#"{"linux": {"resources": {"unified": {"memory.high": "1"}}}}"#, "linux.resources.unified"),
            (r#"{"linux": {"resources": {"memory": {"reservation": 0}}}}"#, "linux.resources.memory.reservation"),
            (r#"{"mounts": [{}, {"uidMappings": [{"hostID": 1}]}]}"#, "mounts[1].uidMappings"),
            (r#"{"process": {"Args": ["x"]}}"#, "process.Args"),
            (r#"{"process": {"user": {"uid": 0, "x": false}}}"#, "process.user.x"),
            (
                r#"{"linux": {"seccomp": {"syscalls": [{"includes": {"caps": ["x"]}}]}}}"#,
                "linux.seccomp.syscalls[0].includes",
            ),
            (r#"{"futureField": 1}"#, "futureField"),
        ] {
            assert_eq!(refusal(text).unwrap(), format!("refuse bundle: {name} is not supported yet"));
        }
    }

    #[test]
    fn what_says_nothing_is_no_matter() {
        let text = r#"{"hooks": {}, "linux": {"mountLabel": "", "intelRdt": null, "resources": {"blockIO": {}}},
            "process": {"apparmorProfile": "", "args": null}, "annotations": {"a.b": "c"}}"#;
        assert_eq!(refusal(text), None);
    }

    #[test]
    fn what_is_not_of_the_kind_that_is_wanted_is_refused() {
        for text in [r#"{"linux": 1}"#, r#"{"mounts": "x"}"#, r#"{"mounts": [1]}"#, r#"{"mounts": [[]]}"#, "[]", "1"] {
            assert!(refusal(text).is_some(), "{text}");
        }
    }
}
