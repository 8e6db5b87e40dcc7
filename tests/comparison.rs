//! The comparison before and after a test sees a leftover of every kind: each is made here by hand, one at a time.

mod host;

use std::fs;

use host::{Host, host_test};

/// After `make` the comparison names something that starts so, and after `undo` nothing.
fn sees(host: &Host, kind: &str, make: &str, undo: &str) {
    host.settle();
    host.sh(make).ok();
    let left = host.left();
    assert!(left.iter().any(|line| line.contains(&format!(" {kind} "))), "`{make}` is not seen as {kind}: {left:#?}");
    host.sh(undo).ok();
    host.nothing_left();
}

host_test!(cold the_comparison_sees_links_and_addresses, |host| {
    sees(host, "link", "ip link add leftover type veth peer name other", "ip link del leftover");
    sees(host, "link", "ip link set eth0 mtu 1300", "ip link set eth0 mtu 1400");
    sees(host, "link", "ip link set eth0 alias leftover", "ip link set eth0 alias ''");
    sees(host, "address", "ip addr add 203.0.113.9/24 dev eth0", "ip addr del 203.0.113.9/24 dev eth0");
    sees(host, "address", "ip addr add 2001:db8:9::1/64 dev eth0 nodad", "ip addr del 2001:db8:9::1/64 dev eth0");
    sees(host, "qdisc", "tc qdisc add dev eth0 ingress", "tc qdisc del dev eth0 ingress");
});

host_test!(cold the_comparison_sees_routes_and_rules, |host| {
    sees(host, "route", "ip route add 203.0.113.0/24 via 192.0.2.1", "ip route del 203.0.113.0/24");
    sees(host, "route", "ip route add 203.0.113.0/24 via 192.0.2.1 table 77", "ip route flush table 77");
    sees(host, "route", "ip -6 route add 2001:db8:9::/64 via 2001:db8:1::1", "ip -6 route del 2001:db8:9::/64");
    sees(host, "rule", "ip rule add from 203.0.113.0/24 lookup 77", "ip rule del from 203.0.113.0/24 lookup 77");
    sees(host, "rule", "ip -6 rule add from 2001:db8:9::/64 lookup 77", "ip -6 rule del from 2001:db8:9::/64 lookup 77");
});

host_test!(cold the_comparison_sees_nft_rules, |host| {
    sees(host, "nft table", "nft add table inet leftover", "nft delete table inet leftover");
    host.sh("nft 'add table inet old; add chain inet old forward; add set inet old addresses { type ipv4_addr; }'").ok();
    sees(host, "nft chain", "nft add chain inet old leftover", "nft delete chain inet old leftover");
    sees(host, "nft rule", "nft add rule inet old forward counter drop", "nft flush chain inet old forward");
    sees(host, "nft set", "nft add element inet old addresses '{ 203.0.113.9 }'", "nft flush set inet old addresses");
    // A counter that counted is not a leftover.
    host.sh("nft 'add chain inet old output { type filter hook output priority 0; }; add rule inet old output counter'").ok();
    host.settle();
    host.sh("busybox ping -c 1 192.0.2.1").ok();
    host.nothing_left();
});

host_test!(cold the_comparison_sees_sysctls, |host| {
    sees(host, "sysctl", "echo 1 >/proc/sys/net/ipv4/ip_forward", "echo 0 >/proc/sys/net/ipv4/ip_forward");
    sees(host, "sysctl", "echo 2 >/proc/sys/net/ipv6/conf/eth0/accept_ra", "echo 1 >/proc/sys/net/ipv6/conf/eth0/accept_ra");
});

host_test!(cold the_comparison_sees_mounts, |host| {
    sees(host, "mount", "mount -n -t tmpfs leftover /mnt", "umount -n /mnt");
    host.sh("mount -n -t tmpfs first /mnt").ok();
    // A second one on the same place, and another propagation.
    sees(host, "mount", "mount -n -t tmpfs first /mnt", "umount -n /mnt");
    sees(host, "mount", "mount -n --make-shared /mnt", "mount -n --make-private /mnt");
});

host_test!(cold the_comparison_sees_processes_and_namespaces, |host| {
    sees(host, "process", "sleep 100 >/dev/null 2>&1 & echo $! >/dev/shm/pid", "kill $(cat /dev/shm/pid); rm /dev/shm/pid");
    sees(
        host,
        "namespace",
        "unshare --net sleep 100 >/dev/null 2>&1 & echo $! >/dev/shm/pid; sleep 0.2",
        "kill $(cat /dev/shm/pid); rm /dev/shm/pid",
    );
    // A named one is held by a mount.
    sees(host, "mount", "ip netns add leftover", "ip netns del leftover");
});

host_test!(cold the_comparison_sees_files, |host| {
    fs::create_dir("/var/lib/minirun").expect("mkdir");
    for place in ["/run", "/var/lib/minirun", "/tmp", "/dev/shm"] {
        sees(host, "file", &format!("touch {place}/leftover"), &format!("rm {place}/leftover"));
        sees(host, "file", &format!("mkdir -p {place}/a/b"), &format!("rm -r {place}/a"));
    }
    host.sh("echo 1 >/run/number").ok();
    sees(host, "file", "echo 2 >/run/number", "echo 1 >/run/number");
    sees(host, "file", "chmod 777 /run/number", "chmod 644 /run/number");
    // Written again with the same contents, it is the same file.
    host.settle();
    host.sh("echo 1 >/run/new; mv /run/new /run/number").ok();
    host.nothing_left();
});

host_test!(cold the_comparison_sees_cgroups, |host| {
    if host.compares_cgroups() {
        sees(
            host,
            "cgroup",
            "mkdir $(dirname $(find /sys/fs/cgroup -name cgroup.procs | head -n 1))/leftover",
            "rmdir $(find /sys/fs/cgroup -name leftover)",
        );
    } else {
        println!("cgroups cannot be written here, and are not compared");
    }
});

host_test!(cold the_lan_is_another_machine, |host| {
    host.sh("busybox ping -c 1 -W 2 192.0.2.1").ok();
    host.sh("busybox ping -c 1 -W 2 198.51.100.1").ok();
    host.sh("busybox ping6 -c 1 -W 2 2001:db8:1::1").ok();
    host.lan("busybox ping -c 1 -W 2 192.0.2.2").ok();
    let listener = host.in_lan(|| std::net::TcpListener::bind((host::GATEWAY, 7000)).expect("bind"));
    std::net::TcpStream::connect((host::GATEWAY, 7000)).expect("connect");
    let (_, peer) = listener.accept().expect("accept");
    assert_eq!(peer.ip(), host::HOST);
});

host_test!(cold the_machine_is_out_of_reach, |host| {
    assert_ne!(host.sh("touch /usr/leftover").run().code, 0);
    assert_eq!(host.sh("ls /run /var/lib").ok(), "/run:\nnetns\n\n/var/lib:\n");
});
