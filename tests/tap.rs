//! `--tap`: a device for a program that speaks Ethernet itself. `tap/station.c` is one.

mod host;

use host::{Directory, Host, host_test, refused};
use nix::sys::signal::Signal;

/// A directory with the static program.
fn station(host: &Host) -> Directory {
    let directory = host.directory("station");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tap/station.c");
    host.sh(&format!("cc -O1 -static -o {}/station {source}", directory.text())).ok();
    directory
}

/// A detached container with these options in which the station is started on `tap0`.
fn start(host: &Host, station: &Directory, options: &[&str]) -> String {
    let volume = format!("{}:/t:ro", station.text());
    host.detached(&[&["--name=vm", "-v", &volume, "--tap=tap0:10.9.0.1/24"], options].concat(), &["/t/station", "tap0"])
}

host_test!(a_program_answers_the_containers_kernel_and_is_answered, within 90, |host| {
    host.has_had_networks();
    // The file of the ids that are taken stays.
    host.minirun(["run", "--net=none", "--userns=auto", "busybox", "true"]).ok();
    host.settle();
    let station = station(host);
    for options in [
        &["--net=none"][..],
        &["--net=bridge"],
        // As a user without any capability, in ids that nobody else has, and without rules of its own.
        &["--net=bridge", "-u", "1234"],
        &["--net=none", "--userns=auto"],
        &["--net=bridge", "--userns=auto", "-u", "7"],
        &["--net=bridge", "--cap-add=NET_ADMIN"],
    ] {
        let id = start(host, &station, options);
        host.logs_hold(&id, "attached");
        let said = host.minirun(["exec", "vm", "ip", "-o", "addr", "show", "tap0"]).ok();
        assert!(said.contains("10.9.0.1/24"), "{options:?}: {said}");
        assert!(host.minirun(["exec", "vm", "ip", "-o", "link", "show", "tap0"]).ok().contains("LOWER_UP"));
        host.minirun(["exec", "vm", "ping", "-c1", "-W5", "10.9.0.2"]).ok();
        host.logs_hold(&id, "was answered");
        host.remove_all();
    }
});

host_test!(it_is_its_users_alone, |host| {
    host.has_had_networks();
    let station = station(host);
    let volume = format!("{}:/t:ro", station.text());
    let options = ["-d", "--name=vm", "-v", &volume, "-u", "1234", "--tap=tap0", "--tap=tap1:fd09::1/64"];
    host.minirun([&["run"], &options[..], &["busybox", "sleep", "1000"]].concat()).ok();
    let refused = host.minirun(["exec", "-u", "4321", "vm", "/t/station", "tap0"]).run();
    assert_eq!(refused.stdout, "attach: Operation not permitted\n", "{refused}");
    // Nor does anybody make one.
    let refused = host.minirun(["exec", "vm", "/t/station", "tap9"]).run();
    assert_eq!(refused.stdout, "attach: Operation not permitted\n", "{refused}");
    let mut first = host.minirun(["exec", "vm", "/t/station", "tap0"]).start();
    first.says("attached");
    assert_eq!(host.minirun(["exec", "vm", "cat", "/sys/class/net/tap0/carrier"]).ok(), "1\n");
    assert_eq!(host.minirun(["exec", "vm", "cat", "/sys/class/net/tap1/carrier"]).ok(), "0\n");
    let said = host.minirun(["exec", "vm", "ip", "-o", "addr", "show", "tap1"]).ok();
    assert!(said.contains("fd09::1/64") && !said.contains("inet "), "{said}");
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait().code, 143);
    // A container without one has no such device.
    assert_ne!(host.minirun(["run", "--net=none", "busybox", "ls", "/dev/net/tun"]).run().code, 0);
    host.remove_all();
});

host_test!(networks_come_and_go_beside_it, |host| {
    host.has_had_networks();
    host.network(&["--subnet=10.50.0.0/24"], "front");
    let station = station(host);
    let id = start(host, &station, &["--net=none", "--tap=eth0"]);
    host.logs_hold(&id, "attached");
    host.minirun(["network", "connect", "front", "vm"]).ok();
    host.minirun(["network", "connect", "bridge", "vm"]).ok();
    let said = host.minirun(["exec", "vm", "ip", "-o", "-4", "addr"]).ok();
    assert!(said.contains("eth1    inet 10.50.0.") && said.contains("eth2    inet 10.214.0."), "{said}");
    // With the rules of its own that it has since.
    host.minirun(["exec", "vm", "ping", "-c1", "-W5", "10.9.0.2"]).ok();
    host.logs_hold(&id, "was answered");
    host.minirun(["network", "disconnect", "front", "vm"]).ok();
    let output = host.minirun(["network", "connect", "front:ifname=tap0", "vm"]).run();
    assert!(output.code == 125 && output.stderr.contains("`tap0` is a tap device"), "{output}");
    host.minirun(["restart", "-t", "0", "vm"]).ok();
    host.soon("the station is there again", || host.logs("vm").matches("attached").count() == 2);
    host.minirun(["exec", "vm", "ping", "-c1", "-W5", "10.9.0.2"]).ok();
    host.remove_networks(&["front"]);
});

host_test!(the_commands_make_the_same, |host| {
    let dry = host.minirun([
        "run",
        "--dry-run",
        "--name=byhand",
        "--net=none",
        "-u",
        "1234",
        "--tap=tap0:10.9.0.1/24",
        "busybox",
    ]);
    let script = dry.ok();
    assert!(script.contains("ip -n byhand tuntap add dev tap0 mode tap user 1234\n"), "{script}");
    host.sh(&script).ok();
    let facts = "cat /sys/class/net/tap0/owner /sys/class/net/tap0/tun_flags; ip -o -4 addr show tap0 | grep -o inet.*";
    let by_hand = host
        .sh(&format!(
            "nsenter --net=/run/netns/byhand unshare --mount sh -c 'busybox mount -t sysfs sysfs /sys; {facts}'"
        ))
        .ok();
    let ours =
        host.minirun(["run", "--net=none", "-u", "1234", "--tap=tap0:10.9.0.1/24", "busybox", "sh", "-c", facts]).ok();
    assert_eq!(by_hand, ours);
    assert!(ours.starts_with("1234\n"), "{ours}");
    host.sh("ip netns del byhand").ok();
});

host_test!(taps_that_cannot_be, |host| {
    host.has_had_networks();
    for net in ["host", "ns:/proc/self/ns/net", "container:web"] {
        refused(host, &["--net", net, "--tap=tap0"], &["`tap0`", net, "another's"]);
    }
    for bad in ["", "lo", "tap0:", "tap0:10.9.0.1", "tap0:10.9.0.1/33", "tap0:127.0.0.1/8", "a/b", "sixteen_letters_"] {
        refused(host, &["--net=none", "--tap", bad], &["tap device", bad]);
    }
    refused(host, &["--net=none", "--tap=tap0", "--tap=tap0:10.9.0.1/24"], &["`tap0`", "twice"]);
    refused(host, &["--net=bridge:ifname=tap0", "--tap=tap0"], &["`tap0` is a tap device"]);
    let nine: Vec<String> = (0..9).map(|number| format!("--tap=tap{number}")).collect();
    refused(host, &nine.iter().map(String::as_str).collect::<Vec<_>>(), &["`tap8`", "8 at most"]);
    // The kernel says no: nothing of what was begun stays.
    refused(
        host,
        &[
            "--net=bridge",
            "--tap=tap0:10.9.0.1/24",
            "--tap=all0:10.9.0.1/24",
            "--sysctl=net.ipv4.conf.nosuch.forwarding=1",
        ],
        &["nosuch"],
    );
    // A host without the device.
    host.sh("busybox mount -t tmpfs none /dev/net").ok();
    let output = host.minirun(["run", "--net=none", "--tap=tap0", "busybox", "true"]).run();
    host.sh("busybox umount /dev/net").ok();
    assert!(
        output.code == 125 && output.stderr.contains("`/dev/net/tun`") && output.stderr.contains("modprobe tun"),
        "{output}"
    );
});
