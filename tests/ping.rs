//! The ping of the image `busybox`, without CAP_NET_RAW in a throw-away network namespace.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use minirun::image::Store;

/// Namespaces as a container has them: busybox finds its applets by /proc/self/exe. What is sent to
/// 192.0.2.0/24 and 2001:db8::/32 leaves by `lo` and is lost.
const NAMESPACE: &str = r#"
    set -e
    "$1/bin/busybox" mount -t proc proc "$1/proc"
    set -- "$1/bin/busybox" chroot "$@"
    "$1" ip link set lo up
    "$1" ip route add 192.0.2.0/24 dev lo
    "$1" ip -6 route add 2001:db8::/32 dev lo
    echo "0 2147483647" > /proc/sys/net/ipv4/ping_group_range
    shift
    exec setpriv --bounding-set -net_raw --inh-caps -net_raw "$@"
"#;

/// Runs a command in the namespace and in the root file system.
fn run(rootfs: &Path, command: &[&str]) -> Output {
    #[expect(clippy::disallowed_methods, reason = "the programs of the host make the throw-away namespace")]
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "--mount", "sh", "-c", NAMESPACE, "sh"]).arg(rootfs).args(command).output().unwrap()
}

fn has_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        assert!(std::env::var_os("MINIRUN_MUST_WORK").is_none(), "not root");
        eprintln!("skipped: a network namespace needs root");
    }
    root
}

/// The image, and the store that lives as long as it.
fn busybox() -> Option<(tempfile::TempDir, minirun::image::Image)> {
    let dir = tempfile::tempdir().unwrap();
    match Store::open(dir.path()).unwrap().make_busybox() {
        Ok(image) => Some((dir, image)),
        Err(e) => {
            assert!(std::env::var_os("MINIRUN_MUST_WORK").is_none(), "{e:#}");
            eprintln!("skipped: {e:#}");
            None
        }
    }
}

#[test]
fn it_works_without_net_raw() {
    if !has_root() {
        return;
    }
    let Some((_dir, image)) = busybox() else { return };
    std::fs::remove_file(image.rootfs.join("etc/hosts")).unwrap();
    #[expect(clippy::disallowed_methods, reason = "nobody else reads it")]
    std::fs::write(image.rootfs.join("etc/hosts"), "127.0.0.1 there\n::1 there6\n").unwrap();
    for (command, first, reply) in [
        (
            "ping -c 2 -i 0.1 127.0.0.1",
            "PING 127.0.0.1 (127.0.0.1): 56 data bytes\n",
            "64 bytes from 127.0.0.1: seq=1 ttl=",
        ),
        ("ping -c 1 ::1", "PING ::1 (::1): 56 data bytes\n", "64 bytes from ::1: seq=0 ttl=64 time=0."),
        ("ping6 -c 1 -s 8 there6", "PING there6 (::1): 8 data bytes\n", "16 bytes from ::1: seq=0 ttl="),
        ("ping -A -c 3 there", "PING there (127.0.0.1): 56 data bytes\n", "64 bytes from 127.0.0.1: seq=2 ttl="),
        ("ping -c 1 -I lo -t 9 127.0.0.1", "PING 127.0.0.1 (127.0.0.1): 56 data bytes\n", " seq=0 ttl=64 time="),
    ] {
        let started = Instant::now();
        let output = run(&image.rootfs, &command.split(' ').collect::<Vec<_>>());
        let text = String::from_utf8(output.stdout.clone()).unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        assert!(text.starts_with(first) && text.contains(reply), "{command}: {text}");
        assert!(text.contains(" 0% packet loss\nround-trip min/avg/max = 0."), "{command}: {text}");
        assert!(started.elapsed() < Duration::from_secs(5), "{command} waits although all replies came");
    }
}

#[test]
fn busybox_runs_it_and_not_its_own() {
    if !has_root() {
        return;
    }
    let Some((_dir, image)) = busybox() else { return };
    for command in [
        ["sh", "-c", "ping -c 1 127.0.0.1 && ping6 -c 1 ::1"].as_slice(),
        &["env", "ping", "-c", "1", "127.0.0.1"],
        &["timeout", "5", "ping", "-c", "1", "127.0.0.1"],
        &["sh", "-c", "echo 127.0.0.1 | xargs ping -c 1"],
        // Its neighbours in the table, and the ends.
        &["sh", "-c", "pidof init; arping --help; pivot_root --help; printf x; [ a = a ] && zcat --help"],
    ] {
        let output = run(&image.rootfs, command);
        assert!(output.status.success(), "{command:?}: {output:?}");
    }
}

#[test]
fn it_gives_up_in_time() {
    if !has_root() {
        return;
    }
    let Some((_dir, image)) = busybox() else { return };
    for (command, least) in [
        ("ping -c 1 -W 1 192.0.2.1", 1000),
        ("ping -c 1 -W 1 2001:db8::1", 1000),
        ("ping -c 2 -i 0.1 -W 0.3 192.0.2.1", 400),
        ("ping -w 0.5 192.0.2.1", 500),
        ("ping -c 1 -W 1 203.0.113.1", 0),
        ("ping -c 1 nonesuch", 0),
        ("ping", 0),
    ] {
        let started = Instant::now();
        let output = run(&image.rootfs, &command.split(' ').collect::<Vec<_>>());
        let took = started.elapsed();
        assert_eq!(output.status.code(), Some(1), "{command}: {output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(least == 0 || text.contains(" 0 packets received, 100% packet loss\n"), "{command}: {text}");
        let least = Duration::from_millis(least);
        assert!(took >= least && took < least + Duration::from_secs(3), "{command}: {took:?}");
    }
}
