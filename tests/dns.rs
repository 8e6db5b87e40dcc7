//! The name server of a container, asked by programs as they are: getent (glibc's resolver) and busybox's nslookup.
//!
//! The container's network is the namespace `box`, which has nothing but `lo`; the responder runs in a thread of the test, in
//! the host's network, as it does in the process that holds a container.
#![allow(clippy::disallowed_methods, reason = "tests start threads")]

mod host;

use std::io::PipeWriter;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use host::{Call, GATEWAY, Host, Resolver, Running, host_test};
use minirun::net::dns::{ADDRESS, Directory, Options, PORT, Responder, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Names and addresses, which may change while they are asked for.
#[derive(Debug, Clone, Default)]
struct Members(Arc<Mutex<Vec<(String, IpAddr)>>>);

impl Members {
    fn joins(&self, name: &str, address: &str) {
        self.0.lock().expect("no panic").push((name.into(), address.parse().expect("an address")));
    }

    fn leaves(&self, name: &str) {
        self.0.lock().expect("no panic").retain(|(own, _)| own != name);
    }
}

impl Directory for Members {
    fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        let members = self.0.lock().expect("no panic");
        let found: Vec<IpAddr> = members.iter().filter(|(own, _)| own == name).map(|(_, address)| *address).collect();
        (!found.is_empty()).then_some(found)
    }

    fn names(&self, address: IpAddr) -> Vec<String> {
        let members = self.0.lock().expect("no panic");
        members.iter().filter(|(_, own)| *own == address).map(|(name, _)| name.clone()).collect()
    }

    fn owns(&self, address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(address) if address.octets()[..2] == [10, 214])
    }
}

/// A container's network with a name server in it.
struct Network {
    members: Members,
    /// How often the loop around the responder went round.
    turns: Arc<AtomicUsize>,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
    keeper: Running,
}

impl Network {
    fn new(host: &Host, forward: bool) -> Self {
        host.sh("ip netns add box; mkdir /tmp/box").ok();
        let mut keeper = host.sh("exec nsenter --net=/run/netns/box sh -c 'echo ready; cat'").held().start();
        keeper.says("ready");
        let sockets = host.in_network_of(keeper.pid(), || open(PORT).expect("open"));
        // Only now, as the parent does it.
        host.sh("ip -n box link set lo up").ok();
        let (members, turns) = (Members::default(), Arc::<AtomicUsize>::default());
        for (name, address) in [("web", "10.214.0.2"), ("db", "10.214.0.3"), ("db", "fd00::3")] {
            members.joins(name, address);
        }
        let (reader, writer) = std::io::pipe().expect("pipe");
        let thread = std::thread::spawn({
            let (members, turns) = (members.clone(), turns.clone());
            move || serve(sockets.0, sockets.1, forward, &members, &turns, &reader.into())
        });
        let network = Self { members, turns, stop: Some(writer), thread: Some(thread), keeper };
        network.resolver(host, "");
        network
    }

    /// How programs in it are told to resolve names.
    fn resolver(&self, host: &Host, options: &str) {
        host.write("/tmp/box/resolv.conf", &format!("nameserver {ADDRESS}\nsearch corp.test\n{options}\n"));
    }

    /// A script in the container's network.
    fn sh(&self, host: &Host, script: &str) -> Call {
        host.sh(&format!(
            "exec nsenter --net=/run/netns/box unshare --mount sh -ec '
               mount --bind /tmp/box/resolv.conf /etc/resolv.conf; {script}'"
        ))
    }

    /// The addresses that glibc finds, one a line.
    fn addresses(&self, host: &Host, name: &str) -> Vec<String> {
        let said = self.sh(host, &format!("getent ahosts {name} || [ $? = 2 ]")).ok();
        let mut all: Vec<String> = said.lines().filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect();
        all.sort();
        all.dedup();
        all
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.stop = None;
        let ended = self.thread.take().map(JoinHandle::join);
        self.keeper.release();
        assert!(std::thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
    }
}

/// The loop of a holder, as far as names are concerned.
fn serve(udp: OwnedFd, tcp: OwnedFd, forward: bool, members: &Members, turns: &AtomicUsize, stop: &OwnedFd) {
    let options = Options { search: vec!["corp.test".into()], forward, servers: vec![] };
    let mut responder = Responder::new(udp, tcp, options).expect("a responder");
    loop {
        let mut fds = [PollFd::new(stop.as_fd(), PollFlags::POLLIN), PollFd::new(responder.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE).expect("poll");
        if fds[0].any() == Some(true) {
            return;
        }
        turns.fetch_add(1, Ordering::Relaxed);
        responder.serve(members);
    }
}

/// What the host has sent so far by UDP, and begun by TCP.
fn sent() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/snmp").expect("snmp");
    let values = |kind: &str, field: &str| {
        let mut lines = table.lines().filter(|line| line.starts_with(kind)).map(|line| line.split(' '));
        let (mut names, mut values) = (lines.next().expect("names"), lines.next().expect("values"));
        let at = names.position(|name| name == field).expect(field);
        values.nth(at).expect("a value").to_owned()
    };
    vec![values("Udp:", "OutDatagrams"), values("Tcp:", "ActiveOpens")]
}

host_test!(cold programs_find_members_and_others, |host| {
    host.write("/etc/resolv.conf", "nameserver 127.0.0.53\nsearch elsewhere.test\n");
    let resolver = Resolver::of_host([127, 0, 0, 53]);
    let network = Network::new(host, true);
    // As it is, with EDNS, by TCP alone, one query after the other.
    for options in ["", "options edns0 trust-ad", "options use-vc", "options single-request-reopen ndots:0"] {
        network.resolver(host, options);
        resolver.asked();
        for name in ["web", "WEB", "web.corp.test", "web."] {
            assert_eq!(network.addresses(host, name), ["10.214.0.2"], "{name} {options}");
        }
        assert_eq!(network.addresses(host, "db"), ["10.214.0.3", "fd00::3"], "{options}");
        assert_eq!(network.sh(host, "getent hosts 10.214.0.2").ok().split_whitespace().collect::<Vec<_>>(), [
            "10.214.0.2",
            "web"
        ]);
        assert_eq!(resolver.asked(), Vec::<String>::new(), "{options}");
        assert_eq!(network.addresses(host, "example.test"), ["198.51.100.53"], "{options}");
        assert!(resolver.asked().iter().all(|asked| asked == "udp example.test."));
        assert_eq!(network.addresses(host, "big.test").len(), 200, "{options}");
        assert!(resolver.asked().contains(&"tcp big.test.".to_owned()));
        for name in ["none.test", "nonesuch"] {
            assert_eq!(network.addresses(host, name), Vec::<String>::new(), "{name} {options}");
        }
    }
    resolver.asked();
    // Of an address in the container's network nobody outside is asked.
    network.sh(host, "getent hosts 10.214.0.9 && exit 1; exit 0").ok();
    assert_eq!(resolver.asked(), Vec::<String>::new());
});

host_test!(cold busybox_finds_members_and_others, |host| {
    host.write("/etc/resolv.conf", "nameserver 127.0.0.53\n");
    let _resolver = Resolver::of_host([127, 0, 0, 53]);
    let network = Network::new(host, true);
    for (words, said) in [
        ("web", "Address: 10.214.0.2"),
        ("-type=aaaa db", "Address: fd00::3"),
        ("10.214.0.3", "name = db"),
        ("-type=mx web", "Server:"),
        ("example.test", "Address: 198.51.100.53"),
    ] {
        let output = network.sh(host, &format!("busybox nslookup {words}")).run();
        assert!(output.stdout.contains(said), "{output}");
        assert!(!output.stdout.contains("NXDOMAIN") && !output.stdout.contains("timed out"), "{output}");
    }
    let output = network.sh(host, "busybox nslookup none.test").run();
    assert!(output.stdout.contains("NXDOMAIN"), "{output}");
});

host_test!(cold who_joins_is_found_and_who_leaves_is_not, |host| {
    host.write("/etc/resolv.conf", "nameserver 127.0.0.53\n");
    let _resolver = Resolver::of_host([127, 0, 0, 53]);
    let network = Network::new(host, true);
    assert!(network.addresses(host, "late").is_empty());
    network.members.joins("late", "10.214.0.77");
    assert_eq!(network.addresses(host, "late"), ["10.214.0.77"]);
    network.members.leaves("late");
    assert!(network.addresses(host, "late").is_empty());
});

host_test!(cold the_hosts_resolvers_are_those_of_now, |host| {
    host.write("/etc/resolv.conf", "nameserver 127.0.0.53\n");
    let (first, second) = (Resolver::of_host([127, 0, 0, 53]), Resolver::of_host([127, 0, 0, 54]));
    let lan = Resolver::of_lan(host, [198, 51, 100, 99]);
    let network = Network::new(host, true);
    assert_eq!(network.addresses(host, "example.test"), ["198.51.100.53"]);
    host.write("/etc/resolv.conf", "nameserver 127.0.0.54\n# another one\n");
    assert_eq!(network.addresses(host, "example.test"), ["198.51.100.54"]);
    // As DHCP clients do it; the first one has gone meanwhile.
    host.write("/etc/new", &format!("nameserver 127.0.0.55\nnameserver {GATEWAY}\n"));
    host.sh("mv /etc/new /etc/resolv.conf").ok();
    assert_eq!(network.addresses(host, "example.test"), ["198.51.100.99"]);
    for resolver in [first, second, lan] {
        assert!(!resolver.asked().is_empty());
    }
    // Where another engine's container is the host, its own name server has the same address.
    host.write("/etc/resolv.conf", &format!("nameserver {ADDRESS}\n"));
    let _other = Resolver::of_host(ADDRESS.octets());
    assert_eq!(network.addresses(host, "example.test"), ["198.51.100.11"]);
});

host_test!(cold no_packet_leaves_an_internal_network, |host| {
    host.write("/etc/resolv.conf", "nameserver 127.0.0.53\n");
    let resolver = Resolver::of_host([127, 0, 0, 53]);
    let network = Network::new(host, false);
    let before = sent();
    for options in ["", "options use-vc"] {
        network.resolver(host, options);
        assert_eq!(network.addresses(host, "web"), ["10.214.0.2"]);
        for name in ["example.test", "secret.attacker.test", "nonesuch"] {
            assert!(network.addresses(host, name).is_empty());
        }
        network.sh(host, "getent hosts 192.0.2.1 && exit 1; exit 0").ok();
    }
    assert_eq!(sent(), before);
    assert!(resolver.asked().is_empty());
});

host_test!(cold without_descriptors_it_waits_and_goes_on, |host| {
    host.write("/etc/resolv.conf", "nameserver 127.0.0.53\n");
    let _resolver = Resolver::of_host([127, 0, 0, 53]);
    let network = Network::new(host, true);
    network.resolver(host, "options use-vc");
    // The responder has looked round once, so that nothing else opens a descriptor now.
    assert_eq!(network.addresses(host, "example.test"), ["198.51.100.53"]);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limit");
    let mut waiting = network.sh(host, "echo begun; head -n 1; getent ahosts web").held().start();
    waiting.says("begun");
    // All below are in use. Not zero: poll(2) takes no more descriptors than may be open.
    setrlimit(Resource::RLIMIT_NOFILE, 4, hard).expect("limit");
    let before = network.turns.load(Ordering::Relaxed);
    let turns = || network.turns.load(Ordering::Relaxed) - before;
    waiting.release();
    host.soon("the client is there", || turns() > 0);
    std::thread::sleep(Duration::from_millis(500));
    let turns = turns();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("limit");
    // A loop that is awake all the time goes round thousands of times.
    assert!(turns < 20, "{turns}");
    waiting.says("10.214.0.2");
});

host_test!(cold root_in_a_container_that_destroys_the_sockets_keeps_nobody_busy, |host| {
    host.write("/etc/resolv.conf", "nameserver 127.0.0.53\n");
    let network = Network::new(host, true);
    let before = network.turns.load(Ordering::Relaxed);
    // A kernel that does it leaves the datagram socket bound; one that does not leaves both.
    network.sh(host, "ss -Ktl sport = 53; ss -Kua sport = 53").ok();
    std::thread::sleep(Duration::from_millis(300));
    let turns = network.turns.load(Ordering::Relaxed) - before;
    assert!(turns < 20, "{turns}");
    assert_eq!(network.addresses(host, "web"), ["10.214.0.2"]);
});
