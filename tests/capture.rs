//! Packets that are captured: as lines, as files that tshark reads, by filters that mean what they mean to tcpdump; from runs
//! (`--pcap`, `--pcap-on-fail`), and what is told when some are lost.

mod host;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use host::{Host, Member, Output, Running, host_test, kill_hard};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use serde_json::Value;

/// Containers `web` and `db` on the network `front`.
fn pair(host: &Host) -> (Member, Member) {
    host.has_had_networks();
    host.network(&["--subnet=10.50.0.0/24", "--ipv6", "--subnet=fd50::/64"], "front");
    // Some of what is sent here would be dropped at their ports.
    (host.member(&["--net=front:spoof"], "web"), host.member(&["--net=front:spoof"], "db"))
}

/// A capture that has begun.
fn begin(host: &Host, arguments: &[&str]) -> Running {
    let running = host.minirun([&["capture"], arguments].concat()).start();
    host.soon("the capture begins", || running.stderr().contains("captures from"));
    running
}

/// Ends a capture. What it has told: how many packets there were, and how many the kernel dropped.
#[track_caller]
fn end(running: Running) -> (u64, u64) {
    running.signal(Signal::SIGTERM);
    told(&running.wait())
}

#[track_caller]
fn told(output: &Output) -> (u64, u64) {
    assert_eq!(output.code, 0, "{output}");
    let last = output.stderr.lines().last().unwrap_or_default();
    let words: Vec<&str> = last.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    match words[..] {
        ["minirun:", packets, "packet" | "packets", dropped, "dropped", "by", "the", "kernel"] => {
            (packets.parse().expect("a number"), dropped.parse().expect("a number"))
        }
        _ => panic!("{output}"),
    }
}

/// What tshark says of a file: one line a packet with these fields, of those that a display filter lets through.
#[track_caller]
fn fields(host: &Host, file: &str, filter: &str, fields: &str) -> Vec<String> {
    let fields: String = fields.split(' ').map(|field| format!(" -e {field}")).collect();
    let said = host.sh(&format!("tshark -N n -r {file} -Y '{filter}' -T fields{fields} 2>/tmp/tshark || {{ cat /tmp/tshark; exit 1; }}; rm /tmp/tshark")).ok();
    said.lines().map(str::to_owned).collect()
}

/// Nothing in a file is malformed, or an error to tshark; and every packet is there that is told.
#[track_caller]
fn is_sound(host: &Host, file: &str, packets: u64) {
    let all = fields(host, file, "frame", "_ws.malformed _ws.expert.severity frame.cap_len frame.len");
    assert_eq!(all.len() as u64, packets);
    for line in all {
        let parts: Vec<&str> = line.split('\t').collect();
        // 0x00800000 is an error.
        let errors = parts[1].split(',').filter(|severity| *severity == "8388608" || *severity == "0x00800000");
        assert!(parts[0].is_empty() && errors.count() == 0 && parts[2] == parts[3], "{line}");
    }
}

#[track_caller]
fn about(host: &Host, file: &str) -> String {
    host.sh(&format!("capinfos {file}")).ok()
}

fn ping(host: &Host, from: &Member, to: impl Into<IpAddr>, count: u32) {
    let to = to.into();
    host.minirun(["exec", &from.name, "ping", "-c", &count.to_string(), "-W", "2", &to.to_string()]).ok();
}

host_test!(a_file_of_a_container_holds_what_it_said_and_heard, |host| {
    let (web, db) = pair(host);
    let all = begin(host, &["-w", "/tmp/all.pcapng", "web"]);
    let some =
        begin(host, &["-w", "/tmp/some.pcapng", "-i", "eth0", "web", "icmp", "or", "icmp6", "and", "host", "db"]);
    ping(host, &web, db.address, 3);
    ping(host, &web, db.address6.expect("IPv6"), 2);
    ping(host, &web, Ipv4Addr::LOCALHOST, 1);
    std::thread::sleep(Duration::from_millis(50));
    let ((all, none), some) = (end(all), end(some));
    assert_eq!(none, 0);
    is_sound(host, "/tmp/all.pcapng", all);
    let pings = fields(
        host,
        "/tmp/all.pcapng",
        "icmp.type == 8 or icmp.type == 0",
        "frame.interface_name frame.interface_description frame.packet_flags_direction ip.src_host ip.dst_host",
    );
    let title = &pings[0].split('\t').nth(1).expect("a title").to_owned();
    assert!(title.starts_with("container web (") && title.ends_with("), network front"), "{title}");
    let there = format!("eth0\t{title}\t0x00000002\tweb\tdb");
    let back = format!("eth0\t{title}\t0x00000001\tdb\tweb");
    assert_eq!(pings[..6], [&there, &back, &there, &back, &there, &back].map(String::clone));
    // The loopback's, each of them once.
    assert_eq!(pings.len(), 8);
    assert!(
        pings[6..]
            .iter()
            .all(|line| line.starts_with("lo\tcontainer web (") && line.ends_with("\t127.0.0.1\t127.0.0.1"))
    );
    assert_eq!(fields(host, "/tmp/all.pcapng", "icmpv6.type == 128 or icmpv6.type == 129", "frame.number").len(), 4);
    // ICMP, and what ICMPv6 says to `db`: pings, and who has its address.
    is_sound(host, "/tmp/some.pcapng", some.0);
    assert_eq!(
        fields(host, "/tmp/some.pcapng", "icmp or icmpv6.type == 128 or icmpv6.type == 129", "frame.number").len(),
        10
    );
    assert!(fields(host, "/tmp/some.pcapng", "arp or frame.interface_name == \"lo\"", "frame.number").is_empty());
    let said = about(host, "/tmp/some.pcapng");
    for words in
        ["Capture application: minirun", "Name = eth0", "Time precision = nanoseconds", "Number of stat entries = 1"]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    host.sh("rm /tmp/*.pcapng").ok();
    host.remove_networks(&["front"]);
});

host_test!(a_network_shows_each_frame_once, |host| {
    let (web, db) = pair(host);
    let running = begin(host, &["-w", "/tmp/net.pcapng", "front"]);
    ping(host, &web, db.address, 4);
    ping(host, &db, Ipv4Addr::new(10, 50, 0, 1), 2);
    std::thread::sleep(Duration::from_millis(50));
    let (packets, _) = end(running);
    is_sound(host, "/tmp/net.pcapng", packets);
    // From port to port, which no address of the host's is concerned with, and to the host.
    let between = fields(host, "/tmp/net.pcapng", "icmp", "frame.interface_name ip.src_host ip.dst_host icmp.type");
    assert_eq!(between.iter().filter(|line| *line == "mr-front\tweb\tdb\t8").count(), 4, "{between:?}");
    assert_eq!(between.iter().filter(|line| *line == "mr-front\tdb\tweb\t0").count(), 4, "{between:?}");
    assert_eq!(between.iter().filter(|line| *line == "mr-front\tdb\thost\t8").count(), 2, "{between:?}");
    assert_eq!(between.len(), 12, "{between:?}");
    // A container of the network's name is meant first.
    host.minirun(["rename", "web", "front"]).ok();
    let (one, two) = (begin(host, &["front"]), begin(host, &["network:front"]));
    assert!(one.stderr().contains("from container front (") && two.stderr().contains("from network front"));
    drop((one, two));
    host.sh("rm /tmp/net.pcapng").ok();
    host.remove_networks(&["front"]);
});

host_test!(lines_tell_containers_by_name, |host| {
    let (web, db) = pair(host);
    let lines = host.minirun(["capture", "-c", "2", "web", "icmp"]).start();
    let json = host.minirun(["capture", "--format=json", "-c1", "db", "tcp and dst port 9"]).start();
    host.soon("they begin", || lines.stderr().contains("captures") && json.stderr().contains("captures"));
    ping(host, &web, db.address, 3);
    let address = db.address;
    host.in_network_of(web.pid, move || assert!(TcpStream::connect((address, 9)).is_err()));
    let lines = lines.wait();
    assert_eq!(told(&lines).0, 2);
    let words: Vec<Vec<&str>> = lines.stdout.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(words[0][1..8], ["eth0", "web", ">", "db", "icmp", "echo", "request"], "{lines}");
    assert_eq!(words[1][1..8], ["eth0", "db", ">", "web", "icmp", "echo", "reply"], "{lines}");
    assert_eq!(words.len(), 2);
    let json = json.wait();
    let said: Value = serde_json::from_str(&json.stdout).expect("JSON");
    assert_eq!(
        (&said["source_name"], &said["destination_port"], &said["protocol"]),
        (&"web".into(), &9.into(), &"tcp".into())
    );
    assert_eq!((&said["destination"], &said["direction"]), (&address.to_string().into(), &"in".into()));
    // It ends with the container, and with its reader.
    let (ends, full) = (begin(host, &["web"]), host.sh("$MINIRUN capture db 2>/dev/null | head -n 1").start());
    ping(host, &web, db.address, 1);
    host.soon("the reader has gone", || full.stdout().lines().count() == 1);
    ping(host, &web, db.address, 1);
    assert_eq!(full.wait().code, 0);
    host.minirun(["rm", "-f", "web"]).run();
    host.minirun(["stop", "-t0", "web"]).run();
    told(&ends.wait());
    host.remove_networks(&["front"]);
});

/// Frames that are not said by sockets, from the first hardware address: with options of IP, of SCTP, a reply of ARP, of RARP,
/// fragments, and some that end too early.
fn strange(ends: [u8; 12]) -> Vec<Vec<u8>> {
    let frame = |kind: u16, body: &[u8]| [&ends[..], &kind.to_be_bytes(), body].concat();
    let ip = |header: u8, fragment: u16, protocol: u8, body: &[u8]| {
        let fragment = fragment.to_be_bytes();
        let mut bytes = vec![
            0x40 | (header / 4),
            0,
            0,
            header + body.len() as u8,
            0,
            1,
            fragment[0],
            fragment[1],
            64,
            protocol,
            0,
            0,
        ];
        bytes.extend([10, 50, 0, 77, 10, 50, 0, 78]);
        bytes.resize(header.into(), 1);
        bytes.extend(body);
        frame(0x0800, &bytes)
    };
    let arp = |operation: u8| {
        [0, 1, 8, 0, 6, 4, 0, operation, 2, 0, 0, 0, 0, 1, 10, 50, 0, 77, 2, 0, 0, 0, 0, 2, 10, 50, 0, 78]
    };
    let ip6 = |next: u8, body: &[u8]| {
        let mut bytes = vec![0x60, 0, 0, 0, 0, body.len() as u8, next, 64];
        bytes.extend([
            0xfd, 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x77, 0xfd, 0x50, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            0x78,
        ]);
        bytes.extend(body);
        frame(0x86dd, &bytes)
    };
    let ports = [0x1f, 0x40, 0, 80, 0, 12, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    vec![
        ip(60, 0, 17, &ports),
        ip(20, 0, 132, &ports),
        ip(20, 0x2000, 17, &ports),
        ip(20, 0x00b9, 17, &ports),
        ip(20, 0, 6, &ports[..2]),
        frame(0x0806, &arp(2)),
        frame(0x8035, &arp(3)),
        ip6(17, &ports),
        ip6(132, &ports),
        ip6(44, &[&[17, 0, 0, 1, 0, 0, 0, 1][..], &ports].concat()),
        ip6(44, &[&[58, 0, 0, 0, 0, 0, 0, 1][..], &[128, 0, 0, 0, 0, 0, 0, 0]].concat()),
        ip6(0, &[&[58, 0, 5, 2, 0, 0, 1, 0][..], &[143, 0, 0, 0, 0, 0, 0, 0]].concat()),
        frame(0x88cc, &[0; 50]),
    ]
}

/// A socket that sends whole frames by the link `eth0` of this network.
fn frames() -> OwnedFd {
    use minirun::sys::packet::{bind_packets, link_index};
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).expect("a packet socket");
    bind_packets(&socket, link_index(&socket, "eth0").expect("eth0")).expect("bind");
    socket
}

/// Two hardware addresses, of the destination and the source.
fn hardware(to: Ipv4Addr, from: Ipv4Addr) -> [u8; 12] {
    let mut ends = [2, 0xd6, 0, 0, 0, 0, 2, 0xd6, 0, 0, 0, 0];
    ends[2..6].copy_from_slice(&to.octets());
    ends[8..12].copy_from_slice(&from.octets());
    ends
}

fn talk(host: &Host, web: &Member, db: &Member) {
    let addresses = [IpAddr::from(db.address), db.address6.expect("IPv6").into()];
    let listeners = host.in_network_of(db.pid, || TcpListener::bind("[::]:80").expect("bind"));
    let ends = hardware(db.address, web.address);
    host.in_network_of(web.pid, move || {
        for address in addresses {
            drop(TcpStream::connect((address, 80)).expect("connect"));
            assert!(TcpStream::connect((address, 81)).is_err());
            let any: SocketAddr = if address.is_ipv4() { "0.0.0.0:79" } else { "[::]:79" }.parse().expect("an address");
            let udp = UdpSocket::bind(any).expect("bind");
            for (port, length) in [(80, 10), (443, 10), (82, 4000)] {
                udp.send_to(&vec![1; length], (address, port)).expect("send");
                // Its refusal is an error of the next call.
                std::thread::sleep(Duration::from_millis(5));
                let _ = udp.take_error();
            }
        }
        let socket = frames();
        for frame in strange(ends) {
            nix::unistd::write(&socket, &frame).expect("send");
        }
    });
    drop(listeners);
    ping(host, web, db.address, 1);
    ping(host, web, addresses[1], 1);
}

host_test!(filters_mean_what_they_mean_to_tcpdump, within 120, |host| {
    let (web, db) = pair(host);
    let filters = [
        "tcp", "udp", "sctp", "icmp", "icmp6", "arp", "ip", "ip6", "port 80", "src port 79", "dst portrange 80-442",
        "udp port 80 or 443", "host 10.50.0.77", "src host 10.50.0.77 and not udp", "dst net 10.50.0.76/30", "ip6 net fd50::70/124",
        "src or dst host fd50::77", "src and dst net 10.50.0.0/24 and not tcp port 80 or arp", "not (ip or ip6)",
        "arp host 10.50.0.78", "not port 80",
    ];
    // On one interface, as tcpdump reads the file; `lo` is another.
    let whole = begin(host, &["-w", "/tmp/all.pcapng", "-i", "eth0", "db"]);
    let running: Vec<Running> = filters
        .iter()
        .enumerate()
        .map(|(at, filter)| begin(host, &["-B1m", "-i", "eth0", "-w", &format!("/tmp/{at}.pcapng"), "db", filter]))
        .collect();
    talk(host, &web, &db);
    std::thread::sleep(Duration::from_millis(100));
    let counts: Vec<u64> = running.into_iter().map(|one| end(one).0).collect();
    let (all, _) = end(whole);
    let read = |file: &str, filter: &str| host.sh(&format!("tcpdump -net -r {file} '{filter}' 2>/dev/null")).ok();
    assert!(all >= 45, "{all}");
    for (at, filter) in filters.iter().enumerate() {
        let (ours, theirs) = (read(&format!("/tmp/{at}.pcapng"), ""), read("/tmp/all.pcapng", filter));
        let lines = |text: &str| {
            // A new link says by itself, some time later, which groups it is in.
            text.lines().filter(|line| line.contains(" > ") && !line.contains("> ff02::16") && !line.contains("> 224.0.0.22")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(lines(&ours), lines(&theirs), "{filter}");
        assert!(counts[at] > 0 && counts[at] < all, "{filter}: {} of {all}", counts[at]);
    }
    host.sh("rm /tmp/*.pcapng").ok();
    host.remove_networks(&["front"]);
});

host_test!(a_tag_of_a_vlan_is_put_back, |host| {
    let (web, db) = pair(host);
    let running = begin(host, &["-w", "/tmp/vlan.pcapng", "db", "ip"]);
    let ends = hardware(db.address, web.address);
    host.in_network_of(web.pid, move || {
        let plain = strange(ends).remove(0);
        let tagged = [&plain[..12], &[0x81, 0, 0, 5], &plain[12..]].concat();
        nix::unistd::write(frames(), &tagged).expect("send");
    });
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(end(running).0, 1);
    assert_eq!(fields(host, "/tmp/vlan.pcapng", "vlan.id == 5", "ip.src frame.len"), ["10.50.0.77\t98"]);
    host.sh("rm /tmp/vlan.pcapng").ok();
    host.remove_networks(&["front"]);
});

host_test!(what_the_kernel_drops_is_told, |host| {
    const SENT: u64 = 4000;
    host.has_run_detached();
    host.minirun(["run", "-d", "--net=none", "--name", "web", "busybox", "sleep", "1000"]).ok();
    // Nobody reads for a second: a megabyte fits, and what is in the pipe.
    let slow = host
        .sh("$MINIRUN capture -B 1m -w - web udp port 9 2>/tmp/told | { sleep 1; cat >/tmp/lossy.pcapng; }")
        .start();
    let said = || std::fs::read_to_string("/tmp/told").unwrap_or_default();
    host.soon("it begins", || said().contains("captures from"));
    host.in_network_of(host.pid_of("web"), || {
        let udp = UdpSocket::bind("127.0.0.1:8").expect("bind");
        for _ in 0..SENT {
            // It may be told that nobody listens.
            let _ = udp.send_to(&[1; 1400], "127.0.0.1:9");
            let _ = udp.take_error();
        }
    });
    std::thread::sleep(Duration::from_millis(1200));
    host.minirun(["stop", "-t0", "web"]).ok();
    slow.wait();
    let said = said();
    let numbers: Vec<u64> =
        said.lines().last().unwrap_or_default().split(' ').filter_map(|word| word.parse().ok()).collect();
    let [packets, dropped] = numbers[..] else { panic!("{said}") };
    assert!(packets > 500 && dropped > 500, "{said}");
    let there = fields(host, "/tmp/lossy.pcapng", "udp", "frame.number").len() as u64;
    assert_eq!(there, packets, "{said}");
    // A datagram that was refused was not sent.
    assert!(packets + dropped <= SENT && packets + dropped > SENT / 2 - 1, "{said}");
    host.sh("rm /tmp/told /tmp/lossy.pcapng").ok();
    host.remove_all();
});

host_test!(a_run_is_captured_from_its_first_packet, |host| {
    let run = |options: &[&str], script: &str| {
        host.minirun([&["run", "--name", "web"], options, &["busybox", "sh", "-c", script]].concat()).run()
    };
    let output =
        run(&["--pcap", "/tmp/run.pcapng"], "ping -c 2 10.214.0.1 >/dev/null; ping -c 1 127.0.0.1 >/dev/null; exit 7");
    assert_eq!(output.code, 7, "{output}");
    let all = fields(
        host,
        "/tmp/run.pcapng",
        "arp or icmp",
        "frame.interface_name ip.src_host ip.dst_host arp.opcode icmp.type",
    );
    let expected = [
        "eth0\t\t\t1\t",
        "eth0\t\t\t2\t",
        "eth0\tweb\thost\t\t8",
        "eth0\thost\tweb\t\t0",
        "eth0\tweb\thost\t\t8",
        "eth0\thost\tweb\t\t0",
    ];
    assert_eq!(all[..6], expected, "{all:?}");
    assert_eq!(all[6..], ["lo\t127.0.0.1\t127.0.0.1\t\t8", "lo\t127.0.0.1\t127.0.0.1\t\t0"], "{all:?}");
    let said = about(host, "/tmp/run.pcapng");
    assert_eq!(said.matches("Number of stat entries = 1").count(), 2, "{said}");
    // Without a network there is `lo`; what was in the file before is gone; a filter.
    let only = ["--net=none", "--pcap=/tmp/run.pcapng", "--pcap-filter=udp or icmp"];
    assert_eq!(run(&only, "ping -c 1 127.0.0.1 >/dev/null; nc -w 1 127.0.0.1 9; true").code, 0);
    assert_eq!(fields(host, "/tmp/run.pcapng", "frame", "frame.interface_name icmp.type"), ["lo\t8", "lo\t0"]);
    // A signal to minirun ends the program, and the file is completed.
    let mut running = host
        .minirun([
            "run",
            "--pcap=/tmp/run.pcapng",
            "--net=none",
            "busybox",
            "sh",
            "-c",
            "ping -c 1 127.0.0.1; exec sleep 100",
        ])
        .start();
    running.says("1 packets received");
    running.signal(Signal::SIGTERM);
    assert_eq!(running.wait().code, 143);
    assert_eq!(fields(host, "/tmp/run.pcapng", "frame", "icmp.type"), ["8", "0"]);
    assert!(about(host, "/tmp/run.pcapng").contains("Number of stat entries = 1"));
    // A killed one leaves what was written.
    let mut running =
        host.minirun(["run", "--pcap=/tmp/run.pcapng", "--net=none", "busybox", "ping", "127.0.0.1"]).start();
    running.says("seq=1");
    std::thread::sleep(Duration::from_millis(100));
    kill_hard(running.pid());
    running.wait();
    assert_eq!(fields(host, "/tmp/run.pcapng", "frame", "icmp.type")[..4], ["8", "0", "8", "0"]);
    // What the killed one left is swept.
    host.minirun(["ps"]).ok();
    host.sh("rm /tmp/run.pcapng").ok();
});

host_test!(the_holder_captures_what_is_detached, |host| {
    host.has_run_detached();
    host.minirun([
        "run",
        "-d",
        "--name",
        "web",
        "--net=none",
        "--pcap=/tmp/run.pcapng",
        "busybox",
        "sh",
        "-c",
        "ping -c 1 127.0.0.1; exec sleep 100",
    ])
    .ok();
    host.logs_hold("web", "1 packets received");
    let types = || fields(host, "/tmp/run.pcapng", "frame", "icmp.type");
    host.soon("it is written while it runs", || types() == ["8", "0"]);
    // A second run is a second section.
    host.minirun(["restart", "-t0", "web"]).ok();
    host.soon("twice", || host.logs("web").matches("1 packets received").count() == 2);
    host.minirun(["stop", "-t0", "web"]).ok();
    assert_eq!(types(), ["8", "0", "8", "0"]);
    host.sh("rm /tmp/run.pcapng").ok();
    host.remove_all();
});

host_test!(a_full_disk_ends_neither_the_program_nor_the_file_in_the_middle, |host| {
    host.sh("mkdir /tmp/small; mount -t tmpfs -o size=64k small /tmp/small").ok();
    let script = "ping -q -c 200 -i 0.005 -s 1000 127.0.0.1";
    let output = host.minirun(["run", "--net=none", "--pcap=/tmp/small/x", "busybox", "sh", "-c", script]).run();
    assert!(output.code == 0 && output.stdout.contains("200 packets received"), "{output}");
    assert!(output.stderr.contains("No space left on device; no more are written"), "{output}");
    let there = fields(host, "/tmp/small/x", "icmp", "frame.number").len();
    assert!((40..64).contains(&there), "{there}");
    let lacks = format!("that the kernel dropped and {} that could not be written", 400 - there);
    assert!(output.stderr.contains(&lacks), "{lacks}: {output}");
    host.sh("umount /tmp/small; rmdir /tmp/small; rm -r /run/mount").ok();
});

host_test!(a_capture_ends_with_its_network, |host| {
    host.has_had_networks();
    host.minirun(["network", "create", "front"]).ok();
    host.minirun(["run", "--net=front", "busybox", "true"]).ok();
    let mut running = begin(host, &["front"]);
    host.soon("the container's link goes", || host.minirun(["network", "rm", "front"]).run().code == 0);
    host.soon("the capture ends", || running.has_ended());
    let output = running.wait();
    assert!(output.stderr.contains("the interface is gone"), "{output}");
    told(&output);
});

host_test!(only_a_failure_leaves_a_file, |host| {
    let run = |options: &[&str], script: &str| {
        let words =
            [&["run", "--net=none", "--pcap-on-fail=/tmp/fail.pcapng"], options, &["busybox", "sh", "-c", script]]
                .concat();
        host.minirun(words).run().code
    };
    let there = || std::path::Path::new("/tmp/fail.pcapng").exists();
    assert_eq!(run(&[], "ping -c 1 127.0.0.1"), 0);
    assert!(!there());
    assert_eq!(run(&[], "ping -c 1 127.0.0.1; exit 3"), 3);
    assert_eq!(fields(host, "/tmp/fail.pcapng", "frame", "frame.interface_name icmp.type"), ["lo\t8", "lo\t0"]);
    // What was there stays where nothing fails.
    let before = std::fs::read("/tmp/fail.pcapng").expect("a file");
    assert_eq!(run(&[], "ping -c 1 127.0.0.1"), 0);
    assert_eq!(std::fs::read("/tmp/fail.pcapng").expect("a file"), before);
    // The last packets, within the bound; what went is counted.
    assert_eq!(run(&["--pcap-size=64k"], "ping -c 100 -i 0.01 -s 1000 127.0.0.1 >/dev/null; exit 1"), 1);
    let kept = fields(host, "/tmp/fail.pcapng", "icmp", "icmp.seq");
    let said = about(host, "/tmp/fail.pcapng");
    assert!((40..64).contains(&kept.len()) && kept.last().is_some_and(|last| last == "99"), "{kept:?}");
    assert!(said.contains(&format!("the last packets: {} before them", 200 - kept.len())), "{said}");
    assert!(std::fs::metadata("/tmp/fail.pcapng").expect("a file").len() < 66 << 10);
    host.sh("rm /tmp/fail.pcapng").ok();
});

host_test!(what_cannot_be_captured_is_refused_and_nothing_is_made, |host| {
    for (words, told) in [
        (&["run", "--pcap=/nonesuch/x", "busybox", "true"][..], "/nonesuch/x"),
        (&["run", "--pcap=/tmp", "busybox", "true"], "directory"),
        (&["run", "--pcap=/dev/null", "busybox", "true"], "not a regular file"),
        (&["run", "--pcap=-", "busybox", "true"], "standard output is the program's"),
        (&["run", "--net=host", "--pcap=/tmp/x", "busybox", "true"], "not the container's own"),
        (&["run", "--pcap=/tmp/x", "--pcap-filter=nix", "busybox", "true"], "`nix`"),
        (&["run", "--pcap-filter=tcp", "busybox", "true"], "nothing is captured"),
        (&["run", "--pcap=/tmp/x", "--pcap-on-fail=/tmp/y", "busybox", "true"], "cannot be used with"),
        (&["run", "--pcap-on-fail=/tmp/x", "--pcap-size=1k", "busybox", "true"], "too little"),
        (&["run", "--pcap=/tmp/x", "--pcap-size=1m", "busybox", "true"], "nothing is held"),
        (&["run", "--pcap=/tmp/x", "nosuchimage", "true"], "nosuchimage"),
        (&["capture", "nix"], "find container `nix`"),
        (&["capture", "-i", "eth0", "bridge"], "-i is for an interface"),
        (&["capture", "-B", "1k", "bridge"], "too small"),
        (&["capture", "-c", "0", "bridge"], "0"),
        (&["capture", "-w", "/nonesuch/x", "bridge"], "/nonesuch/x"),
        (&["capture", "bridge", "tcp[0] = 1"], "`tcp[0]`"),
    ] {
        let output = host.minirun(words).run();
        assert!(output.code == 125 && output.stderr.contains(told), "{told}: {output}");
        assert!(!std::path::Path::new("/tmp/x").exists(), "{output}");
        host.nothing_left();
    }
    // The program is not there, and so is no file.
    assert_eq!(host.minirun(["run", "--pcap=/tmp/x", "--net=none", "busybox", "/nonesuch"]).run().code, 127);
    assert!(!std::path::Path::new("/tmp/x").exists());
    host.has_run_detached();
    host.minirun(["run", "-d", "--net=none", "--name=web", "busybox", "sleep", "100"]).ok();
    let said = host.minirun(["capture", "-i", "eth7", "web"]).fails(125);
    assert!(said.contains("there is none, but lo"), "{said}");
    host.remove_all();
});
