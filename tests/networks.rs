//! `minirun network`: what is defined, listed and removed, and what is refused.
//!
//! What of it is in the kernel is tested in networks_kernel.rs, what a container on a network has in interfaces.rs, whom it reaches in reach.rs.

mod host;

use std::net::Ipv4Addr;

use host::{Host, host_test};
use serde_json::{Value, json};

/// What `network inspect` says of one network.
#[track_caller]
fn inspected(host: &Host, name: &str) -> Value {
    let said: Value = serde_json::from_str(&host.minirun(["network", "inspect", name]).ok()).expect("JSON");
    said[0].clone()
}

/// `network create` with these words is refused, names all of `words`, and has changed nothing.
#[track_caller]
fn refused(host: &Host, arguments: &[&str], words: &[&str]) {
    let output = host.minirun([&["network", "create"], arguments].concat()).run();
    assert_eq!((output.code, output.stdout.as_str()), (125, ""), "{output}");
    assert!((1..=2).contains(&output.stderr.lines().count()), "{output}");
    assert!(words.iter().all(|word| output.stderr.contains(word)), "not all of {words:?} are in: {output}");
    assert!(!output.stderr.chars().any(|c| c.is_control() && c != '\n'), "{output}");
    host.nothing_left();
}

fn names(host: &Host) -> Vec<String> {
    host.minirun(["network", "ls", "-q"]).ok().lines().map(str::to_owned).collect()
}

host_test!(networks_are_listed, |host| {
    host.has_had_networks();
    host.network(&["--subnet=10.50.0.0/24", "--ipv6", "--subnet=fd50::/64", "--internal", "--isolate"], "front");
    host.network(&["--subnet=10.51.0.0/24", "--label=team=red", "--label", "old"], "back");
    let (one, two) = (host.member(&["--net=back"], "one"), host.member(&["--net=front", "--net=back"], "two"));
    let table = host.minirun(["network", "ls"]).ok();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "DRIVER", "SUBNET", "SUBNET6", "BRIDGE", "KIND", "MEMBERS"], "{table}");
    assert_eq!(rows[1], ["bridge", "bridge", "10.214.0.0/20", "-", "minirun0", "-", "0"], "{table}");
    assert_eq!(rows[2], ["back", "bridge", "10.51.0.0/24", "-", "mr-back", "-", "2"], "{table}");
    let kind = "internal,isolated";
    assert_eq!(rows[3], ["front", "bridge", "10.50.0.0/24", "fd50::/64", "mr-front", kind, "1"], "{table}");
    assert_eq!(rows.len(), 4, "{table}");
    assert_eq!(host.minirun(["network", "list"]).ok(), table);
    assert_eq!(names(host), ["bridge", "back", "front"]);
    let said = host.minirun(["network", "ls", "--format", "{{.Name}}={{.Subnet}} {{.Members}}"]).ok();
    assert_eq!(said, "bridge=10.214.0.0/20 0\nback=10.51.0.0/24 2\nfront=10.50.0.0/24 1\n");
    let all: Value = serde_json::from_str(&host.minirun(["network", "ls", "--format=json"]).ok()).expect("JSON");
    assert_eq!(all.as_array().map(Vec::len), Some(3), "{all}");
    let back = all.as_array().into_iter().flatten().find(|network| network["name"] == "back").expect("back");
    assert_eq!(back["labels"], json!({ "team": "red", "old": "" }), "{all}");
    assert_eq!((&back["internal"], &back["members"]), (&json!(false), &json!(2)), "{all}");

    // In full, with the members as they are in the kernel.
    let front = inspected(host, "front");
    for (key, value) in [
        ("subnet", json!("10.50.0.0/24")),
        ("gateway", json!("10.50.0.1")),
        ("subnet6", json!("fd50::/64")),
        ("gateway6", json!("fd50::1")),
        ("internal", json!(true)),
        ("isolate", json!(true)),
        ("bridge", json!("mr-front")),
        ("made", json!(true)),
    ] {
        assert_eq!(front[key], value, "{key} of {front}");
    }
    let member = &front["members"][0];
    assert_eq!((&member["name"], &member["interface"]), (&json!("two"), &json!("eth0")), "{front}");
    assert_eq!(member["ip_address"], json!(two.address), "{front}");
    assert_eq!(member["global_ipv6_address"], json!(two.address6), "{front}");
    let link =
        host.sh(&format!("cat /sys/class/net/{}/ifalias", member["host_interface"].as_str().expect("a name"))).ok();
    assert!(link.trim_end().ends_with(":front"), "{link}");
    let inside = host.minirun(["exec", "two", "cat", "/sys/class/net/eth0/address"]).ok();
    assert_eq!(inside.trim_end(), member["mac_address"], "{front}");
    let said = host.minirun(["network", "inspect", "-f", "{{range .Members}}{{.Name}} {{end}}", "back"]).ok();
    assert_eq!(said.split_whitespace().collect::<Vec<_>>().len(), 2, "{said}");
    assert!(said.contains(&one.name) && said.contains(&two.name), "{said}");
    // One that has ended is no member.
    host.minirun(["rm", "-f", "one"]).ok();
    assert_eq!(inspected(host, "back")["members"].as_array().map(Vec::len), Some(1));
    host.remove_networks(&["front", "back"]);
});

host_test!(names_that_a_network_cannot_have, |host| {
    host.has_had_networks();
    for name in
        ["none", "host", "bridge", "container", "ns", "dev", "", "_x", ".x", "a b", "a/b", "../x", "a:b", "a\nb", "ä"]
    {
        refused(host, &[name], &["create network"]);
    }
    refused(host, &[&"x".repeat(65)], &["at most 64"]);
    let longest = "x".repeat(64);
    for name in [longest.as_str(), "a", "0", "a.b_c-d"] {
        host.network(&[], name);
        let said = host.minirun(["run", &format!("--net={name}"), "busybox", "ip", "route"]).ok();
        assert!(said.starts_with("default"), "{said}");
        host.minirun(["network", "rm", name]).ok();
        host.nothing_left();
    }
});

host_test!(what_a_network_cannot_be, within 120, |host| {
    host.has_had_networks();
    host.network(&["--subnet=10.50.0.0/24", "--ipv6", "--subnet=fd50::/64"], "front");
    host.settle();
    refused(host, &["front"], &["there is one of that name", "minirun network rm front"]);
    refused(host, &["--subnet=10.50.0.128/25", "x"], &["10.50.0.128/25", "network `front`"]);
    refused(host, &["--subnet=10.0.0.0/8", "x"], &["10.0.0.0/8", "in use"]);
    refused(host, &["--subnet=192.0.2.128/26", "x"], &["192.0.2.0/24", "eth0"]);
    refused(host, &["--subnet=10.214.1.0/24", "x"], &["10.214.0.0/20", "minirun0"]);
    refused(host, &["--subnet=fd50::/80", "x"], &["fd50::/80", "network `front`"]);
    host.sh("ip route add 10.60.0.0/16 via 192.0.2.1").ok();
    host.settle();
    refused(host, &["--subnet=10.60.7.0/24", "x"], &["10.60.0.0/16", "route", "eth0"]);
    host.sh("ip route del 10.60.0.0/16").ok();
    host.settle();
    for (range, words) in [("10.70.0.0/31", "/8 to /30"), ("0.0.0.0/0", "/8 to /30"), ("fd70::/127", "too small")] {
        refused(host, &["--subnet", range, "x"], &[range, words]);
    }
    for text in ["10.70.0.0", "10.70.0.0/33", "nonsense", "10.70.0/24", ""] {
        refused(host, &["--subnet", text, "x"], &["--subnet"]);
    }
    refused(host, &["--subnet=10.70.0.0/24", "--subnet=10.71.0.0/24", "x"], &["10.71.0.0/24", "one range of IPv4"]);
    refused(host, &["--subnet=10.70.0.0/24", "--gateway=10.71.0.1", "x"], &["10.71.0.1", "10.70.0.0/24"]);
    refused(host, &["--subnet=10.70.0.0/24", "--gateway=10.70.0.0", "x"], &["--gateway 10.70.0.0"]);
    refused(host, &["--subnet=fd70::/64", "--gateway=fd71::1", "x"], &["fd71::1"]);
    refused(host, &["--subnet=10.70.0.0/24", "--ip-range=10.71.0.0/28", "x"], &["--ip-range 10.71.0.0/28"]);
    refused(host, &["--driver=colour", "x"], &["colour", "bridge"]);
    for (option, word) in [("stp", "KEY=VALUE"), ("colour=red", "hello_time"), ("stp=2", "from 0 to 1"), ("hello_time=5", "100")] {
        refused(host, &["--opt", option, "x"], &[option, word]);
    }
    for mtu in ["67", "65536", "many"] {
        refused(host, &["--mtu", mtu, "x"], &["--mtu"]);
    }
    // Below it the kernel has no IPv6 on a link, nor on a bridge with such a port.
    refused(host, &["--ipv6", "--mtu=1279", "x"], &["create network `x`", "1279", "1280", "without --ipv6"]);
    host.refuses(&["run", "--net=front:mtu=1279", "busybox", "true"], &["network `front`", "1279", "1280"]);
    refused(host, &["--label", "=x", "x"], &["label"]);
    host.minirun(["network", "rm", "front"]).ok();
    host.settle();
});

host_test!(a_gateway_and_a_part_of_the_range, |host| {
    host.has_had_networks();
    // The gateway stands in the part that addresses are given from.
    let options = ["--subnet=10.50.0.0/24", "--ip-range=10.50.0.128/30", "--gateway=10.50.0.129"];
    host.network(&[&options[..], &["--subnet=fd50::/64", "--gateway=fd50::9"]].concat(), "front");
    let members: Vec<_> = ["a", "b", "c"].iter().map(|name| host.member(&["--net=front"], name)).collect();
    let mut addresses: Vec<Ipv4Addr> = members.iter().map(|member| member.address).collect();
    addresses.sort();
    assert_eq!(addresses, [128, 130, 131].map(|last| Ipv4Addr::new(10, 50, 0, last)));
    let routes = host.minirun(["exec", "a", "sh", "-c", "ip route; ip -6 route"]).ok();
    assert!(routes.contains("default via 10.50.0.129 dev eth0"), "{routes}");
    assert!(routes.contains("default via fd50::9 dev eth0"), "{routes}");
    let bridge = host.sh("ip -o addr show mr-front").ok();
    assert!(bridge.contains(" 10.50.0.129/24 ") && bridge.contains(" fd50::9/64 "), "{bridge}");
    let said = host.minirun(["run", "--net=front", "busybox", "true"]).fails(125);
    assert!(said.contains("all 3 of 10.50.0.128/30 are in use"), "{said}");
    // One that is asked for may be elsewhere.
    host.minirun(["run", "--net=front:ip=10.50.0.7", "busybox", "true"]).ok();
    host.remove_networks(&["front"]);
});

host_test!(options_of_a_network, |host| {
    host.has_had_networks();
    let bridge =
        ["ageing_time=12300", "forward_delay=300", "hello_time=150", "max_age=1300", "priority=4096", "stp=off"];
    let port = ["hairpin=on", "path_cost=7", "port_priority=5", "learning=off"];
    let options: Vec<&str> = bridge.iter().chain(&port).flat_map(|option| ["--opt", *option]).collect();
    host.network(&[&options[..], &["--mtu=1310"]].concat(), "front");
    host.network(&["-o", "stp=on"], "tree");
    let member = host.member(&["--net=front"], "web");
    let link = host.sh("ip -d -o link show mr-front").ok();
    for words in [
        "ageing_time 12300 ",
        "forward_delay 300 ",
        "hello_time 150 ",
        "max_age 1300 ",
        " priority 4096 ",
        "stp_state 0 ",
    ] {
        assert!(link.contains(words), "`{words}` is not in {link}");
    }
    let port = host.sh("bridge -d -o link show master mr-front").ok();
    for words in ["hairpin on", "cost 7 ", "priority 5 ", "learning off"] {
        assert!(port.contains(words), "`{words}` is not in {port}");
    }
    assert!(link.contains(" mtu 1310 ") && port.contains(" mtu 1310 "), "{link} {port}");
    let inside = host.minirun(["exec", &member.name, "ip", "-o", "link", "show", "eth0"]).ok();
    assert!(inside.contains(" mtu 1310 "), "{inside}");
    host.minirun(["run", "--net=tree", "busybox", "true"]).ok();
    let link = host.sh("ip -d -o link show mr-tree").ok();
    assert!(link.contains("stp_state 1 "), "{link}");
    host.remove_networks(&["front", "tree"]);
});

host_test!(a_network_in_use_stays, |host| {
    host.has_had_networks();
    host.network(&[], "front");
    host.member(&["--net=front"], "web");
    host.member(&["--net=bridge", "--net=front"], "db");
    host.member(&[], "other");
    let said = host.minirun(["network", "rm", "front"]).fails(125);
    assert!(said.contains("web") && said.contains("db") && !said.contains("other"), "{said}");
    assert!(said.contains("in use by") && said.contains("minirun stop"), "{said}");
    assert_eq!(names(host), ["bridge", "front"]);
    let said = host.minirun(["network", "prune"]).run();
    assert_eq!((said.code, said.stdout.as_str()), (0, ""), "{said}");
    host.minirun(["rm", "-f", "web"]).ok();
    let said = host.minirun(["network", "rm", "front"]).fails(125);
    assert!(!said.contains("web") && said.contains("db"), "{said}");
    host.remove_networks(&["front"]);
    assert_eq!(names(host), ["bridge"]);
    for (verb, name) in [("rm", "front"), ("inspect", "front"), ("rm", "../front")] {
        let said = host.minirun(["network", verb, name]).fails(125);
        assert!(said.contains("none of that name") && said.contains("minirun network ls"), "{said}");
    }
    assert!(host.minirun(["run", "--net=front", "busybox", "true"]).fails(125).contains("`front`"));
    for name in ["bridge", "none", "host"] {
        host.minirun(["network", "rm", name]).fails(125);
    }
});

host_test!(several_are_removed, |host| {
    host.has_had_networks();
    for name in ["a", "b", "c", "d"] {
        host.network(&[], name);
    }
    host.member(&["--net=b"], "web");
    // The one that cannot go does not keep the others.
    let output = host.minirun(["network", "rm", "a", "b"]).run();
    assert_eq!((output.code, output.stdout.as_str()), (125, "a\n"), "{output}");
    assert_eq!(host.minirun(["network", "prune"]).ok(), "c\nd\n");
    assert_eq!(names(host), ["bridge", "b"]);
    host.remove_networks(&["b"]);
    let output = host.minirun(["network", "prune"]).run();
    assert!(output.code == 0 && output.stderr.contains("nothing to remove"), "{output}");
});

host_test!(a_definition_is_only_a_definition, |host| {
    host.has_had_networks();
    host.network(&[], "front");
    // Nothing of it is in the kernel before somebody is on it.
    host.nothing_left_but(&["file /var/lib/minirun/networks/front.json"]);
    assert_eq!(inspected(host, "front")["made"], false);
    host.minirun(["run", "--net=front", "busybox", "true"]).ok();
    assert_eq!(inspected(host, "front")["made"], true);
    host.minirun(["network", "rm", "front"]).ok();
    host.nothing_left();
});

host_test!(long_names_that_begin_alike, |host| {
    host.has_had_networks();
    let (one, two) = ("a-long-name-of-a-network-one", "a-long-name-of-a-network-two");
    host.network(&[], one);
    host.network(&[], two);
    // Another's link is not taken for the own one.
    host.sh("ip link add mr-plain type bridge").ok();
    host.network(&[], "plain");
    let links: Vec<String> = [one, two, "plain"]
        .iter()
        .map(|name| {
            host.member(&["--net", name], &name.replace("a-long-name-of-a-network-", "on-"));
            inspected(host, name)["bridge"].as_str().expect("a name").to_owned()
        })
        .collect();
    assert!(links[0] != links[1] && links[2] != "mr-plain", "{links:?}");
    for link in &links {
        let ports = host.sh(&format!("ls /sys/class/net/{link}/brif")).ok();
        assert_eq!(ports.lines().count(), 1, "{link}: {ports}");
    }
    // Removing the one leaves the other.
    host.minirun(["rm", "-f", "on-one"]).ok();
    host.minirun(["network", "rm", one]).ok();
    assert_eq!(host.sh(&format!("ls /sys/class/net/{}/brif", links[1])).ok().lines().count(), 1);
    host.remove_networks(&[two, "plain"]);
    host.sh("ip link del mr-plain").ok();
});
