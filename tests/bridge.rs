//! What brctl(8) sets and shows, for networks and the ports of containers.

mod host;

use host::{Host, host_test};
use serde_json::Value;

/// A network with two containers.
fn ground(host: &Host) {
    host.has_had_networks();
    host.network(&["--subnet=10.50.0.0/24", "--ipv6", "--subnet=fd50::/64"], "front");
    host.member(&["--net=front"], "web");
    host.member(&["--net=front", "--net=bridge"], "db");
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What `ip` says of a bridge.
fn bridge(host: &Host, link: &str) -> Value {
    json(&host.sh(&format!("ip -j -d link show {link}")).ok())[0]["linkinfo"]["info_data"].clone()
}

/// The name of a container's first end on the host.
fn link_of(host: &Host, name: &str) -> String {
    let said = json(&host.minirun(["inspect", name]).ok());
    said[0]["network_settings"]["interfaces"][0]["host_name"].as_str().expect("a link").to_owned()
}

/// What `bridge` says of a container's first port.
fn port(host: &Host, name: &str) -> Value {
    json(&host.sh(&format!("bridge -j -d link show dev {}", link_of(host, name))).ok())[0].clone()
}

fn fine(host: &Host) {
    let said = host.minirun(["network", "verify"]).run();
    assert!(said.code == 0 && said.stdout.ends_with("as they should be\n"), "{said}");
}

host_test!(options_of_a_network_hold_at_once_and_for_what_comes, |host| {
    ground(host);
    let set = ["stp=on", "ageing_time=10000", "forward_delay=300", "hello_time=150", "max_age=1500", "priority=4096"];
    let of_ports = ["hairpin=on", "path_cost=9", "port_priority=10", "learning=off"];
    let command = [&["network", "set", "front"][..], &set, &of_ports].concat();
    host.settle();
    // What is printed is what is done.
    let script = host.minirun([&command[..], &["--dry-run"]].concat()).ok();
    host.nothing_left();
    assert_eq!(script.lines().count(), 6 + 2 * 4, "{script}");
    host.minirun(command.iter().copied()).ok();
    let said = bridge(host, "mr-front");
    let values = ["stp_state", "ageing_time", "forward_delay", "hello_time", "max_age", "priority"];
    assert_eq!(values.map(|key| said[key].as_u64().expect(key)), [1, 10000, 300, 150, 1500, 4096]);
    host.member(&["--net=front"], "late");
    for name in ["web", "db", "late"] {
        let said = port(host, name);
        assert_eq!((&said["hairpin"], &said["learning"]), (&true.into(), &false.into()), "{said}");
        assert_eq!((&said["cost"], &said["priority"]), (&9.into(), &10.into()), "{said}");
    }
    fine(host);
    assert!(host.minirun(["network", "inspect", "front"]).ok().contains("\"forward_delay\": \"300\""));
    // The protocol goes off before a delay that it does not take, and comes on after one that it does.
    for options in [["stp=off", "forward_delay=0"], ["forward_delay=200", "stp=on"], ["stp=off", "learning=on"]] {
        host.minirun(["network", "set", "front", options[0], options[1]]).ok();
        fine(host);
    }
    assert_eq!(port(host, "web")["learning"], true);
    assert_eq!(bridge(host, "mr-front")["stp_state"], 0);
    // What somebody else sets is found and goes back to what was said here, not to what the kernel would have.
    host.sh(&format!(
        "bridge link set dev {} cost 33; ip link set mr-front type bridge priority 1",
        link_of(host, "web")
    ))
    .ok();
    let said = host.minirun(["network", "verify"]).run();
    assert!(said.stdout.contains("priority 1, not 4096") && said.stdout.contains("cost 33, not 9"), "{said}");
    host.minirun(["network", "reload"]).ok();
    fine(host);
    // So does a bridge that is made anew.
    host.remove_all();
    host.sh("for i in $(seq 50); do ip link del mr-front && exit; sleep 0.1; done; exit 1").ok();
    host.member(&["--net=front"], "web");
    assert_eq!(bridge(host, "mr-front")["max_age"], 1500);
    fine(host);
    host.remove_networks(&["front"]);
    host.settle();
});

host_test!(options_of_one_port_are_its_own, |host| {
    ground(host);
    host.settle();
    let set = |words: &[&str]| host.minirun([&["network", "set-port"], words].concat());
    let printed = set(&["--dry-run", "web", "isolated=on", "path_cost=20"]).ok();
    let link = link_of(host, "web");
    assert_eq!(printed, format!("bridge link set dev {link} isolated on\nbridge link set dev {link} cost 20\n"));
    host.nothing_left();
    set(&["web", "isolated=on", "path_cost=20"]).ok();
    set(&["db:front", "isolated=on", "learning=off"]).ok();
    set(&["db:eth1", "port_priority=5", "hairpin=on"]).ok();
    let said = port(host, "web");
    assert_eq!(
        (&said["isolated"], &said["cost"], &said["learning"]),
        (&true.into(), &20.into(), &true.into()),
        "{said}"
    );
    fine(host);
    // Isolated ports do not talk to each other.
    host.minirun(["exec", "web", "ping", "-c1", "-W1", "10.50.0.3"]).fails(1);
    set(&["db:eth0", "isolated=off"]).ok();
    host.minirun(["exec", "web", "ping", "-c1", "-W5", "10.50.0.3"]).ok();
    // It keeps its own when the network's change, and gets it back when somebody else changes it.
    host.minirun(["network", "set", "front", "path_cost=7"]).ok();
    assert_eq!(port(host, "web")["cost"], 20);
    assert_eq!(port(host, "db")["cost"], 7);
    fine(host);
    host.sh(&format!("ip link set {link} nomaster")).ok();
    host.minirun(["network", "reload"]).ok();
    assert_eq!((&port(host, "web")["isolated"], &port(host, "web")["cost"]), (&true.into(), &20.into()));
    // Other changes of the container do not lose it.
    host.minirun(["network", "connect", "bridge", "web"]).ok();
    host.minirun(["port", "web", "--add", "8000:80"]).ok();
    host.minirun(["rename", "web", "site"]).ok();
    fine(host);
    assert_eq!(port(host, "site")["isolated"], true);
    host.remove_networks(&["front"]);
    host.settle();
});

host_test!(what_cannot_be_set_is_refused_before_anything_is, |host| {
    ground(host);
    host.minirun(["run", "-d", "--name", "none", "--net=none", "busybox", "sleep", "1000"]).ok();
    host.minirun(["run", "-d", "--name", "ended", "busybox", "true"]).ok();
    host.soon("it ends", || host.minirun(["ps", "-q", "--filter", "name=ended"]).ok().is_empty());
    host.minirun(["network", "set", "front", "stp=on"]).ok();
    host.settle();
    host.refuses(&["network", "set", "front", "priority=1", "colour=red"], &["colour=red", "known are stp"]);
    host.refuses(&["network", "set", "front", "priority=1", "hello_time=5"], &["hello_time=5", "100 to 1000"]);
    host.refuses(&["network", "set", "front", "stp"], &["`stp`", "KEY=VALUE"]);
    host.refuses(&["network", "set", "front", "stp=2"], &["stp=2", "0 to 1"]);
    host.refuses(&["network", "set", "front", "forward_delay=100"], &["forward_delay=100", "stp=on", "200"]);
    host.refuses(&["network", "set", "front", "isolated=on"], &["isolated=on", "no such option"]);
    host.refuses(&["network", "set", "bridge", "stp=on"], &["`bridge`", "no definition", "network create"]);
    host.refuses(&["network", "set", "nosuch", "stp=on"], &["`nosuch`"]);
    host.refuses(&["network", "set-port", "web", "stp=on"], &["stp=on", "no such option of a port", "isolated"]);
    host.refuses(&["network", "set-port", "web", "path_cost=0"], &["path_cost=0", "1 to 65535"]);
    host.refuses(&["network", "set-port", "web", "isolated=5"], &["isolated=5"]);
    host.refuses(&["network", "set-port", "web", "path_cost=9", "learning=x"], &["learning=x"]);
    host.refuses(&["network", "set-port", "db", "isolated=on"], &["2 interfaces", "db:eth0", "eth1 (bridge)"]);
    host.refuses(&["network", "set-port", "db:eth7", "isolated=on"], &["`eth7`", "eth0 (front)"]);
    host.refuses(&["network", "set-port", "none", "isolated=on"], &["no managed network", "network connect"]);
    host.refuses(&["network", "set-port", "ended", "isolated=on"], &["does not run"]);
    host.refuses(&["network", "set-port", "nobody", "isolated=on"], &["nobody"]);
    host.refuses(&["network", "create", "--opt=stp=on", "--opt=forward_delay=1", "back"], &["forward_delay=1"]);
    fine(host);
    host.remove_networks(&["front"]);
    host.settle();
});

/// The rows of a view.
fn view(host: &Host, which: &str) -> Vec<Value> {
    let said = json(&host.minirun(["network", "inspect", which, "--format", "json", "front"]).ok());
    said.as_array().expect("an array").clone()
}

host_test!(hardware_addresses_and_neighbours_are_those_of_the_kernel, |host| {
    ground(host);
    host.minirun(["exec", "web", "ping", "-c1", "-W5", "10.50.0.3"]).ok();
    host.minirun(["exec", "web", "ping", "-c1", "-W5", "10.50.0.1"]).ok();
    let row = |port: &Value, mac: &Value, local: bool| {
        format!("{} {} {local}", port.as_str().unwrap(), mac.as_str().unwrap())
    };
    let macs = view(host, "--macs");
    let mut ours: Vec<String> = macs.iter().map(|one| row(&one["port"], &one["mac"], one["local"] == true)).collect();
    let listed = json(&host.sh("bridge -j fdb show br mr-front").ok());
    let is_of_bridge = |one: &&Value| one["master"] == "mr-front";
    let mut theirs: Vec<String> = listed
        .as_array()
        .unwrap()
        .iter()
        .filter(is_of_bridge)
        .map(|one| row(&one["ifname"], &one["mac"], one["state"] == "permanent"))
        .collect();
    ours.sort();
    theirs.sort();
    theirs.dedup();
    assert_eq!(ours, theirs);
    let web = macs.iter().find(|one| one["container"] == "web" && one["local"] == false).expect("web's own address");
    assert_eq!(web["mac"], "02:d6:0a:32:00:02");
    assert!(web["age"].as_f64().is_some_and(|age| age < 30.0), "{web}");
    // The same as brctl shows of the ports, where it is installed.
    if host.sh("command -v brctl").run().code == 0 {
        let lines = host.sh("brctl showmacs mr-front").ok();
        for one in macs.iter().filter(|one| one["number"] != 0) {
            let is_local = if one["local"] == true { "yes" } else { "no" };
            let words = format!("{} {} {is_local}", one["number"], one["mac"].as_str().unwrap());
            let has = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ").starts_with(&words);
            assert!(lines.lines().any(has), "{words}: {lines}");
        }
    }
    let known = |one: &Value| (one["dst"].clone(), one["lladdr"].clone());
    let listed = json(&host.sh("ip -j neigh show dev mr-front").ok());
    let theirs: Vec<_> = listed.as_array().unwrap().iter().map(known).collect();
    let neighbours = view(host, "--neigh");
    assert_eq!(neighbours.len(), theirs.len());
    assert!(
        neighbours.iter().all(|one| theirs.contains(&(one["address"].clone(), one["mac"].clone()))),
        "{neighbours:?}"
    );
    assert!(neighbours.iter().any(|one| one["container"] == "web" && one["address"] == "10.50.0.2"), "{neighbours:?}");
    let table = host.minirun(["network", "inspect", "--macs", "front", "bridge"]).ok();
    assert!(table.starts_with("NETWORK  PORT") && table.contains("minirun0"), "{table}");
    let table = host.minirun(["network", "inspect", "front", "--neigh"]).ok();
    assert!(table.starts_with("ADDRESS") && table.contains("10.50.0.2  02:d6:0a:32:00:02"), "{table}");
    host.remove_networks(&["front"]);
    host.settle();
});

host_test!(ports_and_the_spanning_tree_are_those_of_the_kernel, |host| {
    ground(host);
    host.minirun(["network", "set", "front", "stp=on", "priority=4096", "forward_delay=200", "path_cost=9"]).ok();
    host.minirun(["network", "set-port", "web", "isolated=on"]).ok();
    let listed = json(&host.sh("bridge -j -d link").ok());
    let ports = view(host, "--ports");
    assert_eq!(ports.len(), 2);
    for one in &ports {
        let theirs = listed.as_array().unwrap().iter().find(|other| other["ifname"] == one["port"]).expect("the port");
        for key in ["state", "cost", "priority", "hairpin", "isolated", "learning", "flood", "mtu"] {
            assert_eq!(one[key], theirs[key], "{key}: {one} {theirs}");
        }
    }
    assert_eq!((&ports[0]["container"], &ports[0]["isolated"]), (&"web".into(), &true.into()));
    let tree = view(host, "--stp").remove(0);
    let theirs = bridge(host, "mr-front");
    assert_eq!(tree["bridge"]["stp"], true);
    for key in ["max_age", "hello_time", "forward_delay", "ageing_time"] {
        assert_eq!(tree["bridge"][key].as_f64(), theirs[key].as_f64().map(|ticks| ticks / 100.0), "{key}: {theirs}");
    }
    for key in ["root_port", "root_path_cost"] {
        assert_eq!(tree["bridge"][key], theirs[key], "{key}: {theirs}");
    }
    assert_eq!(tree["bridge"]["bridge_id"], "1000.02d60a320001");
    assert_eq!(tree["bridge"]["designated_root"], tree["bridge"]["bridge_id"]);
    for one in tree["ports"].as_array().unwrap() {
        let link = one["port"].as_str().unwrap();
        let theirs =
            json(&host.sh(&format!("ip -j -d link show {link}")).ok())[0]["linkinfo"]["info_slave_data"].clone();
        let id = |key: &str| theirs[key].as_str().unwrap().trim_start_matches("0x").to_owned();
        assert_eq!(one["id"].as_str().unwrap(), id("id"), "{theirs}");
        assert_eq!(one["number"].as_u64().unwrap(), u64::from_str_radix(&id("no"), 16).unwrap(), "{theirs}");
        assert_eq!((&one["role"], &one["designated_bridge"]), (&"designated".into(), &tree["bridge"]["bridge_id"]));
        assert_eq!(one["designated_cost"], theirs["designated_cost"]);
    }
    // Another bridge that is nearer to the root: a port leads there, and the next one to it is shut.
    host.sh(
        "ip link add other type bridge stp_state 1 priority 0 forward_delay 200; ip link set other up
         for i in 1 2; do ip link add a$i type veth peer name b$i; ip link set a$i master other; ip link set b$i master mr-front; \
         ip link set a$i up; ip link set b$i up; done",
    )
    .ok();
    let role = |port: &str| {
        let tree = view(host, "--stp").remove(0);
        let ports = tree["ports"].as_array().unwrap().clone();
        let one = ports.into_iter().find(|one| one["port"] == port).expect("a port");
        format!("{} {}", one["role"].as_str().unwrap(), one["state"].as_str().unwrap())
    };
    for (port, wanted) in [("b1", "root forwarding"), ("b2", "alternate blocking")] {
        let patience = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while role(port) != wanted {
            assert!(std::time::Instant::now() < patience, "{port}: {}, not {wanted}", role(port));
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
    let text = host.minirun(["network", "inspect", "front", "--stp"]).ok();
    for words in ["bridge id              1000.02d60a320001", "ROLE", "root path cost", "alternate"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    host.sh("ip link del a1; ip link del a2; ip link del other").ok();
    host.remove_networks(&["front"]);
    host.settle();
});

host_test!(views_need_a_bridge_and_stand_alone, |host| {
    host.has_had_networks();
    host.network(&[], "lone");
    host.settle();
    host.refuses(&["network", "inspect", "lone", "--ports"], &["`lone`", "no bridge", "first container"]);
    host.refuses(&["network", "inspect", "nosuch", "--macs"], &["`nosuch`"]);
    host.refuses(&["network", "inspect", "lone", "--macs", "--stp"], &["--macs", "--stp"]);
    assert_eq!(host.minirun(["network", "inspect", "bridge", "--ports", "--format", "json"]).ok(), "[]\n");
    assert!(host.minirun(["network", "inspect", "bridge", "--stp"]).ok().contains("protocol               off"));
    host.minirun(["network", "rm", "lone"]).ok();
    host.settle();
});
