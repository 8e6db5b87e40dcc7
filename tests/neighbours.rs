//! Beside other programs that have networks and rules of their own: a Docker engine, podman, a firewall that is reloaded. Each
//! of them works on, minirun's containers too, and what is theirs is as it was when minirun's containers are gone.

#![allow(clippy::disallowed_methods, reason = "a thread of the test serves")]

mod host;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use host::{By, HOST, Host, Member, Mirror, OUTSIDE, Running, asks, host_test};
use nix::sys::signal::Signal;
use serde_json::Value;

const PORTS: &[u16] = &[7000];
/// What scripts/setup unpacks where they are not installed.
const UNPACKED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/target/neighbours");

/// Whether these programs are there; where they must be it is a failure that they are not.
fn are_there(host: &Host, programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| theirs(host, &format!("command -v {program}")).run().code != 0);
    let must_work = std::env::var_os("MINIRUN_MUST_WORK").is_some_and(|value| value == "1");
    if let Some(program) = missing {
        assert!(!must_work, "cannot run here: `{program}` is not installed");
        println!("skipped: `{program}` is not installed");
    }
    missing.is_none()
}

/// A command that finds the neighbours' programs, first of all those that the test has chosen.
fn theirs(host: &Host, script: &str) -> host::Call {
    let places = ["usr/bin", "usr/sbin", "usr/libexec/podman"].map(|place| format!("{UNPACKED}/{place}"));
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("/tmp/programs:{}:{path}:/usr/sbin:/sbin", places.join(":"));
    let libraries = format!("{UNPACKED}/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let call = host.sh(script).env("PATH", &path).env("DOCKER_HOST", "unix:///run/docker.sock");
    if Path::new(UNPACKED).exists() { call.env("LD_LIBRARY_PATH", &libraries) } else { call }
}

/// Makes what first uses leave on purpose, and takes it for the state to come back to.
fn ready(host: &Host) {
    host.minirun(["run", "-p", "8080:80", "busybox", "true"]).ok();
    host.has_run_detached();
    host.sh("touch /run/xtables.lock; chmod 600 /run/xtables.lock").ok();
    // A root file system of one program.
    host.sh(
        "mkdir -p /tmp/tree/bin; cp $(command -v busybox) /tmp/tree/bin/sleep; tar -C /tmp/tree -cf /tmp/tree.tar .",
    )
    .ok();
    // Version 2 takes no groups below one that has processes.
    host.sh("cd /sys/fs/cgroup; [ -e cgroup.procs ] || exit 0; mkdir -p first; for p in $(cat cgroup.procs); do
         echo $p >first/cgroup.procs; done")
        .run();
    host.settle();
}

/// A Docker engine of this host.
struct Docker(Running);

impl Docker {
    /// Starts it with one of the two programs called `iptables`.
    fn start(host: &Host, program: &str) -> Self {
        let link =
            |name: &str, to: &str| format!("ln -s $(PATH=$PATH:/usr/sbin command -v {to}) /tmp/programs/{name};");
        let links = [link("iptables", program), link("ip6tables", &program.replace("ip", "ip6"))].concat();
        host.sh(&format!("mkdir -p /tmp/programs; {links} echo '{{}}' >/tmp/daemon.json")).ok();
        let daemon = theirs(
            host,
            "exec dockerd --config-file /tmp/daemon.json --storage-driver overlay2 --host unix:///run/docker.sock",
        );
        let mut daemon = daemon.start();
        let patience = Instant::now() + Duration::from_secs(20);
        while theirs(host, "docker version").run().code != 0 {
            assert!(!daemon.has_ended() && Instant::now() < patience, "dockerd: {}", daemon.stderr());
            std::thread::sleep(Duration::from_millis(50));
        }
        theirs(host, "docker import /tmp/tree.tar one").ok();
        Self(daemon)
    }

    fn run(&self, host: &Host, options: &str, name: &str) -> Member {
        theirs(host, &format!("docker run -d --name {name} {options} one sleep 1000")).ok();
        inspected(host, "docker", name)
    }

    fn stop(self, host: &Host) {
        theirs(host, "docker rm -f $(docker ps -aq)").ok();
        self.0.signal(Signal::SIGTERM);
        self.0.wait();
    }
}

/// Process and address of a neighbour's container.
fn inspected(host: &Host, program: &str, name: &str) -> Member {
    let said: Value = serde_json::from_str(&theirs(host, &format!("{program} inspect {name}")).ok()).expect("JSON");
    let address = &said[0]["NetworkSettings"]["Networks"];
    let address = address.as_object().and_then(|all| all.values().next()).map(|one| &one["IPAddress"]);
    let address = address.and_then(Value::as_str).expect("an address").parse().expect("an address");
    let pid = said[0]["State"]["Pid"].as_u64().expect("a process") as u32;
    Member { name: name.into(), pid, address, address6: None }
}

/// Which ways of a container's are open: out, in by a port of the host's, and to another container.
fn open(host: &Host, who: &Member, port: u16, other: &Member) -> [bool; 3] {
    let other: IpAddr = other.address.into();
    [
        host.in_network_of(who.pid, || asks(By::Tcp, OUTSIDE, PORTS[0]).is_some()),
        host.in_lan(move || asks(By::Tcp, HOST, port).is_some()),
        host.in_network_of(who.pid, move || asks(By::Tcp, other, PORTS[0]).is_some()),
    ]
}

/// What all four programs list, without counters.
fn rules(host: &Host) -> String {
    let script = "for save in iptables-nft-save ip6tables-nft-save iptables-legacy-save ip6tables-legacy-save; do
        PATH=$PATH:/usr/sbin $save; done | sed -e 's/\\[[0-9:]*\\]//' -e '/^#/d'";
    host.sh(script).ok()
}

fn found(host: &Host, code: &str) -> Vec<Value> {
    let said = host.minirun(["doctor", "--format", "json"]).run().stdout;
    let all: Vec<Value> = serde_json::from_str(&said).expect("JSON");
    all.into_iter().filter(|one| one["code"] == code && one["severity"] != "ok").collect()
}

fn beside_docker(host: &Host, program: &str) {
    if !are_there(host, &["dockerd", "docker", "containerd", "runc", program]) {
        return;
    }
    ready(host);
    let docker = Docker::start(host, program);
    let (web, db) = (docker.run(host, "-p 8081:7000", "web"), docker.run(host, "", "db"));
    let mirrors = [Mirror::of_lan(host, PORTS), Mirror::of(host, web.pid, PORTS), Mirror::of(host, db.pid, PORTS)];
    // Docker has made the host a router, and what minirun had opened itself is no longer its business.
    host.minirun(["run", "busybox", "true"]).ok();
    let their_rules = rules(host);
    assert!(their_rules.contains(":FORWARD DROP") && their_rules.contains("DOCKER-USER"), "{their_rules}");
    host.with_and_without_rules_in_bridges(|| {
        let setting = std::fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-iptables").unwrap_or_default();
        host.settle();
        let (one, two) = (host.member(&["-p", "0.0.0.0:8082:7000"], "one"), host.member(&[], "two"));
        let own = [Mirror::of(host, one.pid, PORTS), Mirror::of(host, two.pid, PORTS)];
        assert_eq!(open(host, &web, 8081, &db), [true; 3], "Docker's");
        // Docker's policy stops what is not Docker's; what stays on a bridge only where the bridge asks.
        assert_eq!(open(host, &one, 8082, &two), [false, false, setting.trim() != "1"], "ours");
        let obstacles = found(host, "forward-drop");
        let [obstacle] = &obstacles[..] else { panic!("not one: {obstacles:?}") };
        let (message, fix) = (obstacle["message"].as_str().expect("text"), obstacle["fix"].as_str().expect("text"));
        for words in ["`ip filter`", "chain `FORWARD`", "the policy drops", "`minirun0`"] {
            assert!(message.contains(words), "{message}");
        }
        assert_eq!(message.contains("ip_tables"), program.contains("legacy"), "{message}");
        assert_eq!(message.contains("from container to container"), setting.trim() == "1", "{message}");
        assert!(fix.contains("-I DOCKER-USER -i minirun0 -j ACCEPT && "), "{fix}");
        host.sh(fix).ok();
        assert!(found(host, "forward-drop").is_empty() && found(host, "bridge-drop").is_empty());
        assert_eq!(open(host, &one, 8082, &two), [true; 3], "ours, after `{fix}`");
        assert_eq!(open(host, &web, 8081, &db), [true; 3], "Docker's, after `{fix}`");
        // Docker's containers stay out of ours, but by what is published.
        let address = one.address;
        host.in_network_of(web.pid, move || {
            assert_eq!(asks(By::Tcp, address, PORTS[0]), None);
            assert!(asks(By::Tcp, HOST, 8082).is_some());
        });
        drop(own);
        host.remove_all();
        host.sh(&fix.replace("-I", "-D")).ok();
        host.nothing_left();
        assert_eq!(rules(host), their_rules);
    });
    drop(mirrors);
    docker.stop(host);
    host.sh("ip link del docker0; rm -rf /var/lib/docker /run/docker*").run();
}

host_test!(cold beside_a_docker_engine, within 180, |host| {
    beside_docker(host, "iptables-nft");
});

host_test!(cold beside_a_docker_engine_with_ip_tables, within 180, |host| {
    beside_docker(host, "iptables-legacy");
});

host_test!(cold a_docker_engine_that_starts_later, within 120, |host| {
    if !are_there(host, &["dockerd", "docker", "containerd", "runc", "iptables-nft"]) {
        return;
    }
    ready(host);
    let (one, two) = (host.member(&["-p", "0.0.0.0:8082:7000"], "one"), host.member(&[], "two"));
    let mirrors = [Mirror::of_lan(host, PORTS), Mirror::of(host, one.pid, PORTS), Mirror::of(host, two.pid, PORTS)];
    assert_eq!(open(host, &one, 8082, &two), [true; 3]);
    assert!(found(host, "forward-drop").is_empty());
    let docker = Docker::start(host, "iptables-nft");
    assert_eq!(open(host, &one, 8082, &two)[..2], [false, false]);
    let obstacles = found(host, "forward-drop");
    host.sh(obstacles[0]["fix"].as_str().expect("a fix")).ok();
    assert_eq!(open(host, &one, 8082, &two), [true; 3]);
    // The engine has made the host a router, by which minirun's table is another one: the ports are there all the same, and
    // stay whatever else is deleted.
    for _ in 0..4 {
        host.sh("PATH=$PATH:/usr/sbin; iptables-nft -A DOCKER-USER -i wan9 -j DROP; iptables-nft -D DOCKER-USER -i wan9 -j DROP").ok();
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(open(host, &one, 8082, &two), [true; 3]);
    }
    // It goes, its rules stay, and what was opened stays open.
    docker.0.signal(Signal::SIGTERM);
    docker.0.wait();
    assert_eq!(open(host, &one, 8082, &two), [true; 3]);
    drop(mirrors);
    host.remove_all();
});

host_test!(cold beside_podman, within 120, |host| {
    if !are_there(host, &["podman", "conmon", "runc", "iptables-nft"]) {
        return;
    }
    ready(host);
    let places = [format!("{UNPACKED}/usr/lib/podman"), "/usr/lib/podman".into(), "/usr/libexec/podman".into()];
    host.sh("mount -t tmpfs cache /var/cache; mkdir -p /etc/containers; [ -e /etc/containers/policy.json ] ||
        echo '{\"default\": [{\"type\": \"insecureAcceptAnything\"}]}' >/etc/containers/policy.json")
        .ok();
    host.write(
        "/tmp/containers.conf",
        &format!("[network]\nnetwork_backend = \"netavark\"\n[engine]\nhelper_binaries_dir = {places:?}\n"),
    );
    const PODMAN: &str = "TMPDIR=/tmp CONTAINERS_CONF=/tmp/containers.conf podman --runtime runc --cgroup-manager cgroupfs \
         --events-backend file";
    theirs(host, &format!("{PODMAN} import /tmp/tree.tar one")).ok();
    let run = |options: &str, name: &str| {
        let limits = "--ulimit nproc=1000:1000 --ulimit nofile=1000:1000";
        theirs(host, &format!("{PODMAN} run -d --name {name} {options} {limits} one sleep 1000")).ok();
        inspected(host, PODMAN, name)
    };
    let (web, db) = (run("-p 8081:7000", "web"), run("", "db"));
    let mirrors =
        [Mirror::of_lan(host, PORTS), Mirror::of(host, web.pid, PORTS), Mirror::of(host, db.pid, PORTS)];
    // Podman has made the host a router, and what minirun had opened itself is no longer its business.
    host.minirun(["run", "busybox", "true"]).ok();
    let their_rules = rules(host);
    assert!(their_rules.contains("NETAVARK"), "{their_rules}");
    host.with_and_without_rules_in_bridges(|| {
        host.settle();
        let (one, two) = (host.member(&["-p", "0.0.0.0:8082:7000"], "one"), host.member(&[], "two"));
        let own = [Mirror::of(host, one.pid, PORTS), Mirror::of(host, two.pid, PORTS)];
        assert!(found(host, "forward-drop").is_empty() && found(host, "bridge-drop").is_empty());
        assert_eq!(open(host, &one, 8082, &two), [true; 3], "ours");
        assert_eq!(open(host, &web, 8081, &db), [true; 3], "podman's");
        let address = one.address;
        host.in_network_of(web.pid, move || assert_eq!(asks(By::Tcp, address, PORTS[0]), None));
        drop(own);
        host.remove_all();
        host.nothing_left();
        assert_eq!(rules(host), their_rules);
    });
    drop(mirrors);
    theirs(host, &format!("{PODMAN} rm -f -t 0 web db")).ok();
});

/// A connection to what a container serves, kept open.
struct Line(TcpStream);

impl Line {
    /// From the LAN to a published port, behind which `pid` echoes what it is sent.
    fn new(host: &Host, pid: u32, at: SocketAddr) -> Self {
        let listener: TcpListener = host.in_network_of(pid, || TcpListener::bind("0.0.0.0:7000").expect("bind"));
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut buffer = [0; 64];
            while let Ok(size @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..size]).is_err() {
                    return;
                }
            }
        });
        Self(host.in_lan(move || TcpStream::connect(at).expect("connect")))
    }

    /// Whether a word comes back.
    fn echoes(&mut self, word: &str) -> bool {
        let mut said = vec![0; word.len()];
        self.0.set_read_timeout(Some(Duration::from_secs(3))).expect("a timeout");
        self.0.write_all(word.as_bytes()).is_ok() && self.0.read_exact(&mut said).is_ok() && said == word.as_bytes()
    }
}

host_test!(a_firewall_that_is_reloaded, within 120, |host| {
    ready(host);
    let served = host.member(&["-p", "0.0.0.0:8080:7000"], "one");
    let mut line = Line::new(host, served.pid, SocketAddr::new(HOST.into(), 8080));
    let other = host.member(&["-p", "0.0.0.0:8081:7000"], "two");
    let mirror = Mirror::of(host, other.pid, PORTS);
    let lan = Mirror::of_lan(host, PORTS);
    host.write(
        "/tmp/saved",
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -i wan9 -j DROP\nCOMMIT\n\
         *nat\n:PREROUTING ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:POSTROUTING ACCEPT [0:0]\n\
         -A POSTROUTING -o wan9 -j MASQUERADE\nCOMMIT\n",
    );
    host.write(
        "/tmp/ruleset",
        "flush ruleset\ntable inet firewalld {\n chain filter_FORWARD { type filter hook forward priority 10; policy accept;\n\
         ct state established,related accept\n iifname \"wan9\" drop\n }\n}\n",
    );
    host.soon("the anchor is held", || host.sh("nft list tables").ok().contains("minirun-anchor"));
    // What stands afterwards is what was asked for, and minirun's own tables.
    for (reload, foreign) in [
        ("nft flush ruleset", vec![]),
        ("iptables-nft-restore </tmp/saved", vec!["table ip filter", "table ip nat"]),
        ("iptables-nft -F; iptables-nft -t nat -F", vec!["table ip filter", "table ip nat"]),
        ("nft -f /tmp/ruleset", vec!["table inet firewalld"]),
        ("nft flush ruleset; iptables-nft-restore </tmp/saved", vec!["table ip filter", "table ip nat"]),
        ("nft delete table inet minirun", vec!["table ip filter", "table ip nat"]),
        ("iptables-legacy-restore </tmp/saved; iptables-legacy -F; iptables-legacy -t nat -F", vec![
            "table ip filter", "table ip nat",
        ]),
        ("nft flush ruleset", vec![]),
    ] {
        assert!(line.echoes("before"), "before `{reload}`");
        host.sh(&format!("PATH=$PATH:/usr/sbin; {reload}")).ok();
        let begin = Instant::now();
        let mut answered = false;
        while !answered && begin.elapsed() < Duration::from_secs(1) {
            answered = host.in_lan(|| asks(By::Tcp, HOST, 8081).is_some());
        }
        assert!(answered, "not within a second after `{reload}`");
        assert!(line.echoes("after"), "the connection is broken by `{reload}`");
        assert!(host.in_network_of(other.pid, || asks(By::Udp, OUTSIDE, PORTS[0]).is_some()), "out, after `{reload}`");
        let tables = host.sh("nft list tables").ok();
        let tables: Vec<&str> = tables.lines().filter(|table| !table.starts_with("table inet minirun")).collect();
        assert_eq!(tables, foreign, "after `{reload}`");
        if reload.contains("restore </tmp/saved") && !reload.contains("legacy") {
            let saved = host.sh("PATH=$PATH:/usr/sbin; iptables-nft-save | sed -e '/^#/d' -e 's/\\[.*\\]/[0:0]/'").ok();
            assert_eq!(saved, std::fs::read_to_string("/tmp/saved").expect("a file"));
        }
    }
    drop((line, mirror, lan));
    host.sh("rm /tmp/saved /tmp/ruleset").ok();
    host.remove_all();
});

/// Where the two ends of a container's interface are, as the kernel says: the host's end, and the bridge that it is a port of.
fn host_end(host: &Host, pid: u32, interface: &str) -> (String, String) {
    let inside = host.sh(&format!("nsenter -t {pid} -n ip -o link show {interface}")).ok();
    let index = inside.split_once("@if").and_then(|(_, rest)| rest.split_once(':')).expect("the index of its peer").0;
    let outside = host.sh("ip -o link").ok();
    let line = outside.lines().find(|line| line.starts_with(&format!("{index}: "))).expect("the other end");
    let word = |before: &str| line.split_once(before).and_then(|(_, rest)| rest.split([' ', '@']).next());
    (word(": ").expect("a name").to_owned(), word("master ").expect("a bridge").to_owned())
}

host_test!(cold what_a_docker_engine_made_is_drawn, within 120, |host| {
    if !are_there(host, &["dockerd", "docker", "containerd", "runc", "iptables-nft"]) {
        return;
    }
    ready(host);
    let docker = Docker::start(host, "iptables-nft");
    theirs(host, "docker network create --subnet 172.30.0.0/24 shop").ok();
    let (web, db) = (docker.run(host, "-p 8081:7000", "web"), docker.run(host, "--network shop", "db"));
    theirs(host, "docker network connect shop web; docker run -d --name apart --network none one sleep 1000; \
                  docker run -d --name joined --network container:db one sleep 1000").ok();
    host.network(&["--subnet=10.50.0.0/24"], "front");
    let one = host.member(&["--net=front", "-p", "0.0.0.0:8082:7000"], "one");
    let ends = [("web", web.pid, "eth0"), ("web", web.pid, "eth1"), ("db", db.pid, "eth0"), ("one", one.pid, "eth0")];
    let ends = ends.map(|(name, pid, interface)| (name, interface, host_end(host, pid, interface)));
    let drawn = |form: &str| host.sh(&format!("LC_ALL=C.UTF-8 TERM=xterm $MINIRUN graph --format {form}")).ok();

    let graph: Value = serde_json::from_str(&drawn("json")).expect("JSON");
    let all = graph["namespaces"].as_array().expect("namespaces");
    let namespace = |name: &str| all.iter().find(|one| one["names"][0] == name).unwrap_or(&all[0]);
    let link = |namespace: &Value, name: &str| {
        let links = namespace["links"].as_array().expect("links");
        links.iter().find(|link| link["name"] == name).unwrap_or_else(|| panic!("no {name} in {namespace:#}")).clone()
    };
    for (name, interface, (near, bridge)) in &ends {
        let (far, near) = (link(namespace(name), interface), link(&all[0], near));
        assert_eq!((&far["peer"]["namespace"], &far["peer"]["link"]), (&all[0]["id"], &near["index"]));
        assert_eq!((&near["peer"]["namespace"], &near["peer"]["link"]), (&namespace(name)["id"], &far["index"]));
        assert_eq!(near["master"], link(&all[0], bridge)["index"]);
        assert_eq!(namespace(name)["kind"], if *name == "one" { "minirun" } else { "docker" });
    }
    // What minirun publishes, and whose rules change the source of packets beside its own.
    assert_eq!((&graph["published"][0]["host"], graph["published"].as_array().map(Vec::len)), (&8082.into(), Some(1)));
    assert_eq!((&graph["nat"][0]["table"], &graph["nat"][0]["chain"]), (&"nat".into(), &"POSTROUTING".into()));
    for form in ["text", "svg", "dot", "mermaid"] {
        let picture = drawn(form);
        let addresses = [&web, &db, &one].map(|member| member.address.to_string());
        let bridges = ["172.17.0.1/16", "172.30.0.1/24", "10.50.0.1/24"];
        let words = ["docker0", "apart", "db, joined", "8082 → 7000/tcp", "source NAT by others: ip nat POSTROUTING"];
        let nears = ends.iter().flat_map(|(_, _, (near, bridge))| [near.as_str(), bridge]);
        for word in addresses.iter().map(String::as_str).chain(bridges).chain(words).chain(nears) {
            assert!(picture.contains(word), "no `{word}` in\n{picture}");
        }
    }
    docker.stop(host);
    host.remove_all();
});
