//! What is refused, and that nothing panics.

use proptest::prelude::*;
use serde_json::json;

use std::io::Write;

use super::*;
use crate::net::Net;
use crate::net::args::NetArgs;

/// A bundle with a configuration that is good but for `change`.
fn opened(change: impl FnOnce(&mut Value)) -> Result<Bundle> {
    let mut config = json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/", "env": ["A=b"]},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "network"}, {"type": "uts"}]},
    });
    change(&mut config);
    open(&config.to_string())
}

fn open(text: &str) -> Result<Bundle> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("rootfs")).unwrap();
    state::open_private(&directory.path().join("config.json")).unwrap().write_all(text.as_ref()).unwrap();
    let bundle = Some(directory.path().to_owned());
    let args = RunArgs { bundle, words: vec!["x".into()], stop_timeout: 10, ..RunArgs::default() };
    let bundle = Bundle::open(&args, None)?;
    kernel::devices(&bundle.config)?;
    kernel::limits(&bundle.config)?;
    filter(&bundle.config, 0)?;
    Ok(bundle)
}

fn refusal(pointer: &str, value: &Value) -> String {
    let changed = opened(|config| {
        // The last name may be new.
        let (above, name) = pointer.rsplit_once('/').unwrap();
        match config.pointer_mut(above).unwrap() {
            Value::Array(elements) => elements.push(value.clone()),
            object => object[name] = value.clone(),
        }
    });
    changed.err().map_or_else(String::new, |error| format!("{error:#}"))
}

#[test]
fn a_good_one_is_understood() {
    let bundle = opened(|_| ()).unwrap();
    assert_eq!(bundle.args.network.mode().unwrap(), Mode::None);
    assert!(bundle.layout.in_place && !bundle.process.no_new_privileges);
    assert_eq!(bundle.process.sets, Some(Default::default()));
}

#[test]
fn what_cannot_be_is_refused_by_its_name() {
    for (pointer, value, says) in [
        ("/hooks", json!({"prestart": [{"path": "/x"}]}), "hooks is not supported"),
        ("/ociVersion", json!("2.0.0"), "ociVersion"),
        ("/root/path", json!("nowhere"), "root.path"),
        ("/root/path", json!("/"), "host's own root"),
        ("/root/path", json!("config.json"), "not a directory"),
        ("/process/user/uid", json!(4_294_967_295_u32), "process.user.uid"),
        ("/process/user/uid", json!(-1), "process.user"),
        ("/process/user/uid", json!(4_294_967_296_u64), "process.user"),
        ("/process/user/uid", json!("0"), "process.user"),
        ("/process/user/additionalGids", json!([4_294_967_295_u32]), "additionalGids"),
        ("/process/user/username", json!("x"), "process.user.username is not supported"),
        ("/process/args", json!([]), "process.args"),
        ("/process/args", json!(["a\u{0}b"]), "process.args[0]"),
        ("/process/env", json!(["A"]), "process.env[0]"),
        ("/process/env", json!(["=b"]), "process.env[0]"),
        ("/process/cwd", json!("x"), "process.cwd"),
        ("/process/cwd", json!("/a/../.."), "process.cwd"),
        ("/process/cwd", json!("x".repeat(70_000)), "process.cwd"),
        ("/process/capabilities", json!({"bounding": ["CAP_NOTHING"]}), "process.capabilities.bounding"),
        ("/process/capabilities", json!({"bounding": ["CHOWN"]}), "process.capabilities.bounding"),
        ("/process/capabilities", json!({"effective": ["CAP_CHOWN"]}), "not among the permitted"),
        ("/process/rlimits", json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}]), "process.rlimits"),
        ("/process/rlimits", json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]), "process.rlimits[0]"),
        ("/process/terminal", json!(true), "process.terminal"),
        ("/process/selinuxLabel", json!("x"), "process.selinuxLabel is not supported"),
        ("/process/oomScoreAdj", json!(1001), "process.oomScoreAdj"),
        ("/linux/namespaces/x", json!({"type": "user"}), "`user` is not supported"),
        ("/linux/namespaces/x", json!({"type": "pid"}), "twice"),
        ("/linux/namespaces/x", json!({"type": "ipc", "path": "/proc/self/ns/net"}), "no ipc namespace"),
        ("/linux/namespaces/x", json!({"type": "ipc", "path": "/etc/passwd"}), "no ipc namespace"),
        ("/linux/namespaces", json!([{"type": "pid"}]), "without `mount`"),
        ("/linux/namespaces", json!([{"type": "mount"}, {"type": "pid", "path": "x"}]), "not absolute"),
        ("/linux/sysctl", json!({"kernel.core_pattern": "x"}), "linux.sysctl"),
        ("/linux/sysctl", json!({"kernel.msgmax": "1"}), "another's setting"),
        ("/linux/maskedPaths", json!(["proc/kcore"]), "linux.maskedPaths[0]"),
        ("/linux/maskedPaths", json!(["/x/../.."]), "linux.maskedPaths[0]"),
        ("/linux/readonlyPaths", json!(["/"]), "linux.readonlyPaths[0]"),
        ("/linux/rootfsPropagation", json!("shared"), "linux.rootfsPropagation `shared` is not supported"),
        ("/linux/cgroupsPath", json!("/x"), "linux.cgroupsPath is not supported"),
        ("/linux/uidMappings", json!([{"hostID": 1, "size": 1}]), "linux.uidMappings is not supported"),
        ("/linux/timeOffsets", json!({"boottime": {"secs": 1}}), "linux.timeOffsets is not supported"),
        ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_NOTIFY"}), "linux.seccomp"),
        ("/linux/seccomp", json!({"flags": []}), "linux.seccomp"),
        ("/linux/devices", json!([{"path": "/dev/x", "type": "c", "major": 1, "minor": 1}]), "not allowed"),
        ("/linux/devices", json!([{"path": "/dev/zero", "type": "c", "major": 1, "minor": 1}]), "container's own"),
        ("/linux/devices", json!([{"path": "/proc/x", "type": "c", "major": 1, "minor": 1}]), "linux.devices[0]"),
        ("/linux/resources", json!({"devices": [{"allow": true, "access": "rwm"}]}), "linux.resources.devices[0]"),
        ("/linux/resources", json!({"devices": [{"allow": false, "type": "c", "access": "rwm"}]}), "devices[0]"),
        ("/linux/resources", json!({"memory": {"swap": 1}}), "memory.swap"),
        ("/linux/resources", json!({"cpu": {"quota": 5000, "period": 10_000}}), "cpu.period"),
        ("/linux/resources", json!({"pids": {"limit": -2}}), "pids.limit"),
        ("/annotations", json!({"run.oci.keep_original_groups": "1"}), "annotation `run.oci.keep_original_groups`"),
        ("/annotations", json!({"minirun.unknown": "1"}), "annotation `minirun.unknown`"),
        ("/annotations", json!({"minirun.net": "host"}), "linux.namespaces"),
        ("/annotations", json!({"x": 1}), "annotations"),
        ("/hostname", json!("a b"), "hostname"),
    ] {
        let said = refusal(pointer, &value);
        assert!(said.contains(says) && said.starts_with("refuse bundle: "), "{pointer} {value}: {said}");
    }
}

#[test]
fn what_is_no_configuration_is_refused() {
    assert!(open("").is_err() && open("{}").is_err() && open("null").is_err());
    assert!(open(&"[".repeat(100_000)).is_err());
    assert!(open(&format!("{{\"hooks\": {}1{}}}", "[".repeat(120), "]".repeat(120))).is_err());
    let error = open(&" ".repeat(2 << 20)).err().unwrap();
    assert!(format!("{error:#}").contains("larger than 1 MiB"));
}

#[test]
fn options_that_come_from_the_bundle_are_refused() {
    let args = RunArgs { stop_timeout: 10, hostname: Some("x".into()), ..RunArgs::default() };
    let error = refuse_other_options(&args).unwrap_err().to_string();
    assert!(error.contains("`--hostname`: that comes from the bundle"), "{error}");
    let network = NetArgs { net: vec![Net::Host], ..NetArgs::default() };
    let args = RunArgs { stop_timeout: 10, detach: true, network, ..RunArgs::default() };
    refuse_other_options(&args).unwrap();
}

fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        "(/|[.]{1,2}|proc|dev|rootfs|CAP_CHOWN|tmpfs|bind|ro|A=b|\u{0}){0,5}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map(any_key(), inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Names that are honoured somewhere.
fn any_key() -> impl Strategy<Value = String> {
    let names: Vec<String> = honoured::FIELDS
        .iter()
        .flat_map(|field| field.split('.'))
        .map(|name| name.trim_end_matches("[]").to_owned())
        .collect();
    proptest::sample::select(names)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn nothing_panics(field in proptest::sample::select(honoured::FIELDS), value in any_value(), whole in any_value()) {
        let _ = open(&whole.to_string());
        // At the place of an honoured field, in a configuration that is good otherwise.
        let _ = opened(|config| {
            let mut at = config;
            for name in field.split('.') {
                let (plain, is_list) = (name.trim_end_matches("[]"), name.ends_with("[]"));
                if !at.is_object() {
                    *at = json!({});
                }
                at = &mut at[plain];
                if is_list {
                    if !at.is_array() || at[0].is_null() {
                        *at = json!([{}]);
                    }
                    at = &mut at[0];
                }
            }
            *at = value;
        });
    }
}
