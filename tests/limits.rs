//! Limits: a bridge without room, a network without addresses, a thousand networks. What is refused says why and leaves nothing, and it
//! works again as soon as there is room.

mod host;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use host::{Host, host_test};

/// The kernel numbers the ports of a bridge from 1 to 1,023 (BR_MAX_PORTS in net/bridge/br_private.h).
const MOST_PORTS: usize = 1023;

/// What a start would change first, and what it would leave: quicker told than a whole snapshot among a thousand links.
fn stands(host: &Host) -> String {
    host.sh("ip -o link | sed 's/ .*group/ group/'; ip -o addr; ip route; nft list ruleset; find /run/minirun; $MINIRUN ps -aq").ok()
}

/// A start, in the foreground and in the background, is refused with these words, and nothing is left.
#[track_caller]
fn nothing_starts(host: &Host, net: &str, words: &[&str]) {
    let before = stands(host);
    for options in [&["run"][..], &["run", "-d", "--name", "late"], &["run", "--net=second"]] {
        let output = host.minirun([options, &[net, "busybox", "true"]].concat()).run();
        assert_eq!((output.code, output.stdout.as_str()), (125, ""), "{output}");
        assert!(words.iter().all(|word| output.stderr.contains(word)), "not all of {words:?} are in: {output}");
        host.soon("nothing is left", || stands(host) == before);
    }
}

host_test!(a_bridge_without_room, within 120, |host| {
    host.has_had_networks();
    host.network(&[], "second");
    host.minirun(["run", "--net=second", "busybox", "true"]).ok();
    host.minirun(["run", "-d", "--name", "other", "--net=none", "busybox", "sleep", "1000"]).ok();
    host.soon("no container is on a bridge", || !host.sh("ip -o link show type veth").ok().contains(": mr"));
    host.settle();
    // Both ends of a pair are ports, and links of one group go at once.
    let pair = |n| {
        format!(
            "link add pa{n} group 7 type veth peer name pb{n} group 7\n\
             link set pa{n} master minirun0\nlink set pb{n} master minirun0\n"
        )
    };
    let last = "link add last type veth peer name rest\nlink set last master minirun0\n";
    let links: String = (0..MOST_PORTS / 2).map(pair).chain([last.to_owned()]).collect();
    host.sh("exec ip -batch -").stdin(links).ok();
    assert_eq!(host.sh("ip -o link show master minirun0 | wc -l").ok().trim(), MOST_PORTS.to_string());
    nothing_starts(host, "--net=bridge", &["minirun0", "1,023 containers", "minirun ps"]);
    let before = stands(host);
    let said = host.minirun(["network", "connect", "bridge", "other"]).fails(125);
    assert!(said.contains("1,023 containers"), "{said}");
    host.soon("nothing is left", || stands(host) == before);
    assert_eq!(host.minirun(["exec", "other", "ip", "-o", "link"]).ok().lines().count(), 1);
    // Other networks have room, and this one as soon as there is room for one.
    host.minirun(["run", "--net=second", "busybox", "true"]).ok();
    host.sh("ip link del last").ok();
    let ping = ["run", "--net=bridge", "busybox", "ping", "-c1", "-W2"];
    host.minirun([&ping[..], &[&host::GATEWAY.to_string()]].concat()).ok();
    host.sh("ip link del group 7").ok();
    host.nothing_left();
    host.remove_networks(&["second"]);
    host.settle();
});

host_test!(a_network_without_addresses, |host| {
    host.has_had_networks();
    host.network(&[], "second");
    host.minirun(["run", "--net=second", "busybox", "true"]).ok();
    host.settle();
    for (prefix, room) in [(30, 1), (29, 5)] {
        host.network(&[&format!("--subnet=10.50.0.0/{prefix}"), "--ipv6"], "small");
        let members: Vec<_> = (0..room).map(|n| host.member(&["--net=small"], &format!("small-{n}"))).collect();
        let addresses: BTreeSet<_> = members.iter().map(|member| member.address).collect();
        assert_eq!(addresses.len(), room);
        let all = format!("all {room} of 10.50.0.0/{prefix} are in use");
        nothing_starts(host, "--net=small", &[&all, "minirun ps"]);
        let other = host.member(&[], "other");
        let before = stands(host);
        let said = host.minirun(["network", "connect", "small", "other"]).fails(125);
        assert!(said.contains(&all), "{said}");
        assert_eq!(stands(host), before);
        // A taken one is not to be had either; the one that has come free is, at once.
        let taken = members[0].address;
        let output = host.minirun(["run", "--net=small", "--ip", &taken.to_string(), "busybox", "true"]).run();
        assert_eq!(output.code, 125, "{output}");
        assert!(output.stderr.contains(&format!("{taken} is in use")), "{output}");
        host.minirun(["rm", "-f", &members[0].name]).ok();
        let again = host.member(&["--net=small"], "again");
        assert_eq!((again.address, again.address6.is_some()), (taken, true));
        host.minirun(["rm", "-f", "again"]).ok();
        host.minirun(["network", "connect", "small", &other.name]).ok();
        host.remove_networks(&["small"]);
    }
    host.settle();
    host.remove_networks(&["second"]);
    host.settle();
});

host_test!(a_thousand_networks, within 120, |host| {
    host.has_had_networks();
    let script = "i=1; while [ $i -le 1000 ]; do $MINIRUN network create net-$i; i=$((i + 1)); done";
    assert_eq!(host.sh(script).ok().lines().count(), 1000);
    // Names of full length that differ in their last letter are links of their own.
    let long = |end: char| format!("{}{end}", "a-network-with-a-long-name-".repeat(3).chars().take(63).collect::<String>());
    let ends = ['a', 'b', 'c'];
    ends.iter().for_each(|end| host.network(&[], &long(*end)));
    // The best of three: the machine may be busy.
    let asked = || {
        let begun = Instant::now();
        let listed = host.minirun(["network", "ls", "--format", "{{.Name}} {{.Bridge}} {{.Subnet}}"]).ok();
        (begun.elapsed(), listed)
    };
    let (took, listed) = (0..3).map(|_| asked()).min().expect("three");
    println!("network ls of 1004: {took:?}");
    assert!(took < Duration::from_millis(500), "{took:?}");
    let rows: Vec<Vec<&str>> = listed.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(rows.len(), 1004);
    for (column, what) in [(0, "names"), (1, "bridges"), (2, "subnets")] {
        assert_eq!(rows.iter().map(|row| row[column]).collect::<BTreeSet<_>>().len(), rows.len(), "{what} differ");
    }
    assert!(rows.iter().all(|row| row[1].len() <= 15), "names of links");
    let names = [&["net-1000".to_owned()][..], &ends.map(long)].concat();
    for name in &names {
        let begun = Instant::now();
        let ping = ["busybox", "ping", "-c1", "-W2"];
        host.minirun([&["run", "--net", name], &ping[..], &[&host::GATEWAY.to_string()]].concat()).ok();
        println!("the first container on {name}: {:?}", begun.elapsed());
    }
    // Most of them were never used: to remove such a one asks the kernel for nothing.
    let begun = Instant::now();
    host.sh("$MINIRUN network rm $($MINIRUN network ls -q | grep -v '^bridge$')").ok();
    println!("network rm of 1003: {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
});
