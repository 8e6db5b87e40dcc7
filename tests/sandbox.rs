//! What is opened of the sandbox on request, and that no more is opened than was asked for.

mod host;

use host::host_test;

host_test!(shared_memory_has_the_size_that_was_asked_for, |host| {
    let size = |options: &[&str]| {
        let script = "df -k /dev/shm | awk 'NR==2 {print $2}'";
        host.minirun(["run", "--net=none"].iter().chain(options).chain(&["busybox", "sh", "-c", script])).ok()
    };
    assert_eq!(size(&[]), "65536\n");
    assert_eq!(size(&["--shm-size", "3m"]), "3072\n");
    let said = host.minirun(["run", "--shm-size", "0", "busybox", "true"]).fails(125);
    assert!(said.contains("size /dev/shm to `0`"), "{said}");
});

host_test!(a_device_that_is_given_works_and_no_other_does, |host| {
    let script = "head -c 3 /dev/z | od -An -tx1; head -c 2 /opt/z | wc -c; stat -c '%a %u %t %T' /dev/z; \
        chmod 600 /dev/z; mknod /dev/mine c 1 5 && echo made; head -c 1 /dev/mine || echo shut";
    let call =
        ["run", "--net=none", "--device", "/dev/zero:/dev/z", "--device", "/dev/zero:/opt/z:rw", "busybox", "sh", "-c"];
    let said = host.minirun(call.iter().chain(&[script])).run();
    assert_eq!(said.stdout, " 00 00 00\n2\n666 0 1 5\nmade\nshut\n", "{said}");
    assert_eq!(host.sh("stat -c %a /dev/zero").ok(), "666\n", "the host's node is not the container's");
    // Without the option the name is not there.
    host.minirun(["run", "--net=none", "busybox", "head", "-c1", "/dev/z"]).fails(1);
});

host_test!(all_devices_of_a_directory_are_given, |host| {
    let script = "mkdir -p /dev/shm/devices/more; cd /dev/shm/devices; mknod a c 1 5; mknod more/b c 1 7; touch file; \
        ln -s /dev/kmsg link";
    host.sh(script).ok();
    let list = ["run", "--device", "/dev/shm/devices:/dev/d", "busybox", "find", "/dev/d", "-type", "c"];
    let said = host.minirun(list).ok();
    let mut found: Vec<&str> = said.lines().collect();
    found.sort_unstable();
    assert_eq!(found, ["/dev/d/a", "/dev/d/more/b"]);
    host.sh("rm -r /dev/shm/devices").ok();
});

host_test!(a_device_is_not_put_where_a_link_of_the_image_leads, |host| {
    let tree = host.directory("tree");
    let base =
        "mkdir -p bin; cp /bin/busybox bin; ln -s busybox bin/sh; ln -s /proc/self/fd in; ln -s / up; ln -s /proc k";
    host.sh(&format!("cd {}; {base}", tree.text())).ok();
    for target in ["/in/0", "/k/version", "/k/new"] {
        let device = format!("/dev/zero:{target}");
        let call = ["run", "--net=none", "--device", &device, "--rootfs", tree.text(), "/bin/sh", "-c", "echo reached"];
        host.minirun(call).fails(125);
    }
    // A link to the top leads to the container's, not the host's.
    let call = ["run", "--net=none", "--device", "/dev/zero:/up/given", "--rootfs", tree.text(), "/bin/sh", "-c"];
    host.minirun(call.iter().chain(&["busybox test -c /given || /bin/busybox test -c /given"])).ok();
    assert_eq!(host.sh("test -e /given || echo none").ok(), "none\n");
});

host_test!(what_is_no_device_or_cannot_be_held_is_refused, |host| {
    for (device, why) in [
        ("/etc/passwd:/dev/x", "it is not a device"),
        ("/dev/zero:/dev/x:r", "cannot be held"),
        ("/dev/zero:/dev/null", "is the container's own"),
        ("/dev/zero:/proc/x", "nothing can be mounted on"),
        ("/nothing", "No such file"),
    ] {
        let said = host.minirun(["run", "--device", device, "busybox", "true"]).fails(125);
        assert!(said.contains(why), "{device}: {said}");
    }
    let twice = ["run", "--device", "/dev/zero:/dev/z", "--device", "/dev/full:/dev/z", "busybox", "true"];
    assert!(host.minirun(twice).fails(125).contains("asked for twice"));
});

host_test!(the_kernels_paths_are_masked_unless_that_is_taken_off, |host| {
    let script =
        "wc -c </proc/interrupts; echo 1 >/proc/sys/net/ipv4/ip_default_ttl || echo shut; ls /sys/firmware | wc -l";
    let masked = host.minirun(["run", "--net=none", "busybox", "sh", "-c", script]).run();
    assert_eq!(masked.stdout, "0\nshut\n0\n", "{masked}");
    let script = "test $(wc -c </proc/interrupts) -gt 0 && test -w /proc/sys/vm/swappiness && echo open; \
        test -w /sys/kernel || echo still";
    let option = ["run", "--net=none", "--security-opt", "systempaths=unconfined", "busybox", "sh", "-c", script];
    let open = host.minirun(option).run();
    assert!(open.stdout.starts_with("open\n"), "{open}");
    let said = host.minirun(["run", "--security-opt", "systempaths=all", "busybox", "true"]).fails(125);
    assert!(said.contains("systempaths=unconfined is the only one"), "{said}");
});
