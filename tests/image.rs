//! The image store: many processes at once, images in use, what killed commands leave, the image `busybox`.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod tar;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use minirun::image::Store;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use tar::{Scene, Tar};

fn small() -> Vec<u8> {
    Tar::new().file("bin/sh", b"#!").end()
}

/// Whether this host has what the image `busybox` is made of.
fn has_busybox(store: &Store) -> bool {
    match store.make_busybox() {
        Ok(_) => true,
        Err(e) => {
            assert!(std::env::var_os("MINIRUN_MUST_WORK").is_none(), "{e:#}");
            false
        }
    }
}

#[test]
fn opening_and_looking_make_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("data")).unwrap();
    assert!(store.find("x").unwrap().is_none());
    assert_eq!(store.list().unwrap(), []);
    let error = format!("{:#}", store.remove("x").unwrap_err());
    assert_eq!(error, "remove image `x`: there is no such image");
    assert!(store.find("../x").is_err());
    assert_eq!(dir.path().read_dir().unwrap().count(), 0);
}

#[test]
fn images_are_listed_found_replaced_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    for name in ["web:1.0", "example.org/a/b", "alpine:latest"] {
        store.import(name, &small()[..]).unwrap();
    }
    let names: Vec<_> = store.list().unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["alpine", "example.org/a/b", "web:1.0"]);
    let image = store.find("web:1.0").unwrap().unwrap();
    assert!(image.rootfs.join("bin/sh").exists());
    assert!(!image.rootfs.strip_prefix(dir.path()).unwrap().to_str().unwrap().contains(':'));
    assert!(store.find("web").unwrap().is_none());
    let entry = store.import("alpine", &Tar::new().file("other", b"12345").end()[..]).unwrap();
    assert_eq!((entry.size, entry.files), (5, 1));
    assert_eq!(store.list().unwrap()[0], entry);
    assert!(!store.find("alpine:latest").unwrap().unwrap().rootfs.join("bin").exists());
    store.remove("alpine:latest").unwrap();
    assert!(store.find("alpine").unwrap().is_none());
    assert_eq!(store.list().unwrap().len(), 2);
}

#[test]
fn an_image_in_use_stays() {
    let scene = Scene::new();
    scene.import(&small());
    let (one, two) = (scene.store.find("x").unwrap().unwrap(), scene.store.find("x").unwrap().unwrap());
    drop(one);
    let error = format!("{:#}", scene.store.remove("x").unwrap_err());
    assert_eq!(error, "remove image `x`: it is in use");
    let error = format!("{:#}", scene.store.import("x", &small()[..]).unwrap_err());
    assert_eq!(error, "import image `x`: it is in use");
    assert!(two.rootfs.join("bin/sh").exists());
    assert!(rustix::io::fcntl_getfd(&two.lock).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    drop(two);
    scene.import(&small());
    scene.store.remove("x").unwrap();
    assert_eq!(scene.stored(), [""; 0]);
}

#[test]
fn what_a_killed_command_left_is_swept_and_what_works_is_not() {
    let scene = Scene::new();
    scene.import(&small());
    let left = scene.images().join(".0123456789abcdef");
    fs::create_dir_all(left.join("rootfs/deep/er")).unwrap();
    symlink(scene.canary(), left.join("rootfs/deep/link")).unwrap();
    fs::hard_link(scene.rootfs().join("bin/sh"), left.join("rootfs/sh")).unwrap();
    let building = scene.images().join(".building");
    fs::create_dir(&building).unwrap();
    let lock = rustix::fs::open(&building, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();

    scene.store.find("x").unwrap();
    assert!(left.exists(), "the hot path sweeps");
    assert_eq!(scene.store.list().unwrap().len(), 1);
    assert!(!left.exists());
    assert!(building.exists());
    drop(lock);
    scene.store.list().unwrap();
    assert_eq!(scene.stored(), ["x"]);
    scene.assert_outside_unchanged();
}

#[test]
fn a_mount_in_what_was_left_is_not_entered() {
    thread::scope(|threads| {
        threads.spawn(|| {
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).is_err() {
                assert!(std::env::var_os("MINIRUN_MUST_WORK").is_none(), "not allowed to make a mount namespace");
                return;
            }
            use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
            mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
            let scene = Scene::new();
            scene.import(&small());
            let inside = scene.rootfs().join("mounted");
            fs::create_dir(&inside).unwrap();
            mount_bind(scene.canary(), &inside).unwrap();
            let error = format!("{:#}", scene.store.remove("x").unwrap_err());
            assert!(error.contains("mounted"), "{error}");
            scene.store.list().unwrap();
            scene.assert_outside_unchanged();
        });
    });
}

#[test]
fn a_store_of_another_user_is_refused() {
    let scene = Scene::new();
    scene.import(&small());
    let mode = |mode| fs::set_permissions(scene.images(), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o777);
    assert!(format!("{:#}", scene.store.list().unwrap_err()).contains("others can write to it"));
    mode(0o700);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(scene.images(), Some(1000), None).unwrap();
        assert!(scene.store.import("y", &small()[..]).is_err());
    }
}

#[test]
fn a_damaged_store_is_an_error_that_names_the_image() {
    let scene = Scene::new();
    scene.import(&small());
    tar::put(&scene.images().join("x/config.json"), "{");
    let error = format!("{:#}", scene.store.find("x").unwrap_err());
    assert!(error.starts_with("open image `x`: read `config.json`: EOF while parsing"), "{error}");
    symlink(scene.images().join("x"), scene.images().join("link")).unwrap();
    tar::put(&scene.images().join("file"), "");
    for name in ["link", "file"] {
        assert!(scene.store.find(name).is_err());
        assert!(scene.store.remove(name).is_err());
        assert!(scene.store.import(name, &small()[..]).is_err());
    }
    fs::remove_file(scene.images().join("link")).unwrap();
    assert_eq!(scene.store.list().unwrap().len(), 1);
    fs::remove_file(scene.images().join("file")).unwrap();
    scene.import(&small());
    scene.store.find("x").unwrap().unwrap();
}

#[test]
fn imports_finds_and_removals_of_one_name_at_once_see_whole_images() {
    let scene = Scene::new();
    let found = AtomicUsize::new(0);
    let importing = AtomicUsize::new(4);
    thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                for _ in 0..30 {
                    // Refused as in use at times.
                    let _ = scene.store.import("x", &small()[..]);
                }
                importing.fetch_sub(1, Ordering::Relaxed);
            });
            threads.spawn(|| {
                while importing.load(Ordering::Relaxed) > 0 {
                    if let Some(image) = scene.store.find("x").unwrap() {
                        assert!(image.rootfs.join("bin/sh").exists());
                        found.fetch_add(1, Ordering::Relaxed);
                    }
                    thread::yield_now();
                }
            });
        }
        threads.spawn(|| {
            for _ in 0..20 {
                let _ = scene.store.remove("x");
                scene.store.list().unwrap();
            }
        });
    });
    assert!(found.into_inner() > 0);
    scene.import(&small());
}

#[test]
fn fifty_at_once_get_one_busybox() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    if !has_busybox(&store) {
        return;
    }
    store.remove("busybox").unwrap();
    let inodes = thread::scope(|threads| {
        let make = || {
            let image = Store::open(dir.path()).unwrap().make_busybox().unwrap_or_else(|e| panic!("{e:#}"));
            fs::metadata(image.rootfs.join("bin/busybox")).unwrap().ino()
        };
        let all: Vec<_> = (0..50).map(|_| threads.spawn(make)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(inodes.iter().all(|inode| *inode == inodes[0]));
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(dir.path().join("images").read_dir().unwrap().count(), 1);
}

#[test]
fn busybox_is_a_whole_root_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    if !has_busybox(&store) {
        return;
    }
    let image = store.find("busybox").unwrap().unwrap();
    let meta = |path: &str| fs::symlink_metadata(image.rootfs.join(path)).unwrap();
    assert_eq!(meta("bin/busybox").permissions().mode(), 0o100_755);
    assert_eq!(fs::read_link(image.rootfs.join("bin/sh")).unwrap().to_str(), Some("/bin/busybox"));
    assert_eq!(meta("tmp").permissions().mode(), 0o041_777);
    assert_eq!(meta("").permissions().mode(), 0o040_755);
    for path in ["proc", "sys", "dev", "run", "root", "home", "usr/bin", "usr/sbin", "var/log", "etc/resolv.conf"] {
        meta(path);
    }
    assert!(fs::read_to_string(image.rootfs.join("etc/passwd")).unwrap().starts_with("root:x:0:0:"));
    assert_eq!(image.config.cmd().as_deref(), Some(["sh".to_owned()].as_slice()));
    let entry = store.list().unwrap().remove(0);
    let (mut size, mut files, mut directories) = (0, 0, vec![image.rootfs.clone()]);
    while let Some(directory) = directories.pop() {
        for entry in directory.read_dir().unwrap() {
            let (path, meta) = entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
            files += 1;
            size += if meta.is_file() { meta.len() } else { 0 };
            directories.extend(meta.is_dir().then_some(path));
        }
    }
    assert_eq!((entry.size, entry.files), (size, files));
}
