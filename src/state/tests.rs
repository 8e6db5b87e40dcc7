//! Tests of the state directory on a real file system.

use std::io::Write;

use super::*;

fn record(id: &str, name: &str) -> Record {
    Record {
        id: id.into(),
        name: name.into(),
        image: "busybox".into(),
        command: vec!["true".into()],
        network: "none".into(),
        created: 1,
        remove: true,
        ..Record::default()
    }
}

fn write_file(path: &Path, text: &[u8]) {
    open_private(path).unwrap().write_all(text).unwrap();
}

fn left(root: &Path) -> usize {
    ["containers", "names"].iter().map(|d| fs::read_dir(root.join(d)).unwrap().count()).sum()
}

#[test]
fn a_name_is_held_by_one_container_at_a_time() {
    let root = tempfile::tempdir().unwrap();
    let state = State::open(root.path()).unwrap();
    let first = state.reserve(&record("aaaaaaaaaaaa", "web")).unwrap();
    let error = state.reserve(&record("bbbbbbbbbbbb", "web")).unwrap_err();
    assert_eq!(format!("{error:#}"), "reserve name `web`: in use by container aaaaaaaaaaaa");
    assert_eq!(state.list().unwrap().len(), 1, "the refused one left nothing");
    first.end(Exit::now(0, false)).unwrap();
    assert_eq!(left(root.path()), 0);
    state.reserve(&record("bbbbbbbbbbbb", "web")).unwrap();
}

#[test]
fn what_a_killed_holder_left_is_swept_and_its_name_is_free() {
    let root = tempfile::tempdir().unwrap();
    let state = State::open(root.path()).unwrap();
    // No process has this number: it is above the kernel's limit.
    let dead = root.path().join("containers/aaaaaaaaaaaa.4194305");
    fs::create_dir(&dead).unwrap();
    write_file(&dead.join("record"), &serde_json::to_vec(&record("aaaaaaaaaaaa", "web")).unwrap());
    symlink("aaaaaaaaaaaa", root.path().join("names/web")).unwrap();
    state.reserve(&record("bbbbbbbbbbbb", "web")).unwrap().end(Exit::now(0, false)).unwrap();
    assert_eq!(left(root.path()), 0);
    fs::create_dir(&dead).unwrap();
    write_file(&dead.join("record"), b"half a rec");
    while state.sweep().unwrap().go_on().unwrap() {}
    assert_eq!(left(root.path()), 0);
}

#[test]
fn commit_replaces_the_record_and_keeps_the_lock() {
    let root = tempfile::tempdir().unwrap();
    let state = State::open(root.path()).unwrap();
    let mut entry = state.reserve(&record("aaaaaaaaaaaa", "aaaaaaaaaaaa")).unwrap();
    let complete = Record { pid: Some(7), ..record("aaaaaaaaaaaa", "aaaaaaaaaaaa") };
    entry.commit(&complete).unwrap();
    let listed: Vec<_> = state.list().unwrap().into_iter().map(|found| found.record).collect();
    assert_eq!(listed, [complete]);
    drop(entry);
    assert_eq!(left(root.path()), 0);
}

#[test]
fn a_directory_that_others_can_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let open = root.path().join("state");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(State::open(&open).is_err());
}

#[test]
fn names_are_plain() {
    for good in ["web", "a", "web-1.2_x", "0"] {
        assert!(valid_name(good), "{good}");
    }
    for bad in ["", ".", "..", "-x", "a/b", "a\nb", "ä", &"x".repeat(64)] {
        assert!(!valid_name(bad), "{bad}");
    }
}

fn kept(root: &Path) -> (State, Found) {
    let state = State::open(root).unwrap();
    let record = Record { remove: false, ..record("aaaaaaaaaaaa", "web") };
    state.reserve(&record).unwrap().end(Exit::now(3, false)).unwrap();
    let found = state.find("web").unwrap();
    (state, found)
}

#[test]
fn what_is_kept_has_its_exit_code_and_its_name_until_it_is_removed() {
    let root = tempfile::tempdir().unwrap();
    let (state, found) = kept(root.path());
    assert!(matches!(found.status, Status::Exited(Exit { code: 3, .. })));
    assert!(state.reserve(&record("bbbbbbbbbbbb", "web")).is_err());
    state.rename(&found, "old").unwrap();
    assert_eq!(state.find("aaa").unwrap().record.name, "old");
    assert!(state.find("web").is_err() && state.find("").is_err() && state.find("../names/old").is_err());
    state.remove(&state.find("old").unwrap()).unwrap();
    assert_eq!(left(root.path()), 0);
}

#[test]
fn a_container_that_does_not_start_again_is_what_it_was() {
    let root = tempfile::tempdir().unwrap();
    let (state, found) = kept(root.path());
    let again = Record { remove: false, started: 9, ..record("aaaaaaaaaaaa", "web") };
    let mut entry = state.revive(&found, &again).unwrap();
    entry.commit(&again).unwrap();
    assert_eq!(state.find("web").unwrap().holder, Some(std::process::id().cast_signed()));
    drop(entry);
    assert_eq!(state.find("web").unwrap().record, found.record);
}

#[test]
fn a_new_name_reaches_the_holder() {
    let root = tempfile::tempdir().unwrap();
    let state = State::open(root.path()).unwrap();
    let entry = state.reserve(&record("aaaaaaaaaaaa", "web")).unwrap();
    state.rename(&state.find("web").unwrap(), "new").unwrap();
    entry.end(Exit::now(0, false)).unwrap();
    assert_eq!(left(root.path()), 0);
}

#[test]
fn the_beginning_of_an_id_must_be_of_one_container() {
    let root = tempfile::tempdir().unwrap();
    let state = State::open(root.path()).unwrap();
    let _first = state.reserve(&record("aaaaaaaaaaaa", "aaaaaaaaaaaa")).unwrap();
    let _second = state.reserve(&record("aaaabbbbbbbb", "aaaabbbbbbbb")).unwrap();
    assert!(format!("{:#}", state.find("aaaa").unwrap_err()).contains("begin so"));
    assert_eq!(state.find("aaaab").unwrap().record.id, "aaaabbbbbbbb");
}

#[test]
fn an_id_is_no_number() {
    assert!(!is_host_name("227088016828") && is_host_name("22708801682a"));
    assert!((0..2000).all(|_| is_host_name(&new_id().unwrap())));
}
