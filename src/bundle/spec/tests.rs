//! What is written, as it is written.

use super::*;
use crate::net::Net;
use crate::net::args::NetArgs;

fn written(words: &[&str]) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().to_str().unwrap();
    let mut args = RunArgs {
        network: NetArgs { net: vec![Net::None], ..NetArgs::default() },
        name: Some("web".into()),
        rootfs: Some(directory.path().to_owned()),
        words: words.iter().map(Into::into).collect(),
        stop_timeout: 10,
        spec: true,
        ..RunArgs::default()
    };
    args.ulimit = vec!["nofile=100:200".into()];
    args.tmpfs = vec!["/scratch:size=1m".into()];
    args.volume = vec!["/usr:/data:ro".into()];
    args.label = vec!["com.example=1".into()];
    args.user = Some("7:8".into());
    let mut value: Value = serde_json::from_str(&of(&args, directory.path(), directory.path()).unwrap()).unwrap();
    assert_eq!(value["root"]["path"], root);
    value["root"]["path"] = "ROOT".into();
    // Long, and tested by what it means; and what the machine has of processors.
    assert!(value["linux"]["seccomp"]["syscalls"].take().as_array().unwrap().len() > 10);
    let masked = value["linux"]["maskedPaths"].as_array_mut().unwrap();
    masked.retain(|path| !path.as_str().unwrap().contains("/cpu/"));
    value
}

#[test]
fn a_command_line_in_full() {
    insta::assert_snapshot!(format!("{:#}", written(&["sh", "-c", "true"])));
}

#[test]
fn a_label_that_would_be_an_annotation_of_minirun_is_refused() {
    let args = RunArgs {
        network: NetArgs { net: vec![Net::None], ..NetArgs::default() },
        rootfs: Some("/usr".into()),
        words: vec!["sh".into()],
        label: vec!["minirun.net=host".into()],
        ..RunArgs::default()
    };
    let error = of(&args, Path::new("/none"), Path::new("/none")).unwrap_err().to_string();
    assert!(error.contains("label `minirun.net`"), "{error}");
}
