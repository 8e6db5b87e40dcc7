//! OCI bundles: what is written is what is run, by minirun and by another runtime, and what is not honoured is refused.

mod host;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use host::{Directory, Host, Terminal, host_test};
use serde_json::{Value, json};

/// What a program sees of its circumstances. Without numbers that differ from run to run.
const LOOK: &str = "id; hostname; pwd; env | sort; ulimit -a; \
    grep -E '^(Cap|Seccomp:|NoNewPrivs|Groups|Uid|Gid)' /proc/self/status; \
    cut -d ' ' -f 5,6 /proc/self/mountinfo | sort; stat -c '%A %t:%T %n' /dev/*; ls /; \
    cat /etc/hosts /etc/hostname; cat /proc/sys/net/ipv4/ping_group_range /proc/sys/net/core/somaxconn; \
    cat /proc/kcore 2>&1; head -c 1 /proc/keys | wc -c; ls /sys/firmware; ls /proc/acpi; (echo 1 >/proc/sys/net/core/somaxconn) 2>&1; \
    touch /ro/x 2>&1; touch /written && echo wrote; ip -o link | cut -d @ -f 1";

/// Makes a bundle of what `run --spec` prints.
fn bundle(host: &Host, name: &str, words: &[&str]) -> Directory {
    let text = host.minirun([&["run", "--spec"], words].concat()).ok();
    let directory = host.directory(name);
    directory.file("config.json", &text);
    directory
}

/// A bundle whose root file system is its own and used in place; `edit` changes its configuration.
fn own_bundle(host: &Host, name: &str, words: &[&str], edit: impl FnOnce(&mut Value)) -> Directory {
    let directory = bundle(host, name, words);
    host.sh(&format!("cp -a /var/lib/minirun/images/busybox/rootfs {}/rootfs", directory.text())).ok();
    let text = fs::read_to_string(directory.path().join("config.json")).expect("config.json");
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config["root"]["path"] = "rootfs".into();
    config["annotations"].as_object_mut().expect("annotations").remove("minirun.root");
    edit(&mut config);
    directory.file("config.json", &config.to_string());
    directory
}

host_test!(a_bundle_runs_as_its_command_line_did, within 120, |host| {
    fs::create_dir_all("/tmp/shared").expect("directory");
    let options: [&[&str]; 4] = [
        &["--net=none"],
        &["--net=none", "--memory=64m", "--pids-limit=50", "--read-only", "-u", "7:8"],
        &["--net=none", "-e", "A=b c", "-w", "/tmp", "--ulimit=nofile=100:200", "--tmpfs=/scratch:size=1m,exec",
          "-v", "/tmp/shared:/ro:ro", "--sysctl=net.core.somaxconn=77", "--add-host=db:192.0.2.7"],
        &["--net=none", "--cap-drop=ALL", "--cap-add=CHOWN", "--security-opt=no-new-privileges=false",
          "--security-opt=systempaths=unconfined", "--security-opt=allow=vsock", "--device=/dev/null:/dev/other"],
    ];
    for (number, options) in options.into_iter().enumerate() {
        let words = [options, &["--name=x", "--hostname=web", "busybox", "sh", "-c", LOOK]].concat();
        let direct = host.minirun([&["run"], &words[..]].concat()).run().stdout;
        let directory = bundle(host, &format!("bundle{number}"), &words);
        let said = host.minirun(["run", "--bundle", directory.text(), "x"]).run().stdout;
        assert!(direct.contains("web"), "{direct}");
        assert_eq!(said, direct, "{options:?}");
    }
    fs::remove_dir("/tmp/shared").expect("rmdir");
});

host_test!(a_bridged_bundle_has_its_network, |host| {
    let directory = bundle(host, "bridged", &["busybox", "sh", "-c", "ip -o -4 addr; ping -c1 10.214.0.1"]);
    let said = host.minirun(["run", "--bundle", directory.text(), "x"]).ok();
    assert!(said.contains("eth0") && said.contains("1 packets received"), "{said}");
    // What is typed outweighs the annotation.
    let said = host.minirun(["run", "--net=none", "--bundle", directory.text(), "x"]).run();
    assert!(!said.stdout.contains("eth0"), "{}", said.stdout);
});

host_test!(the_root_of_a_bundle_is_written_to, |host| {
    let script = ["--net=none", "busybox", "sh", "-c", "echo of the container >/new; cat /etc/hostname; ls /dev"];
    let directory = own_bundle(host, "own", &script, |_| ());
    let said = host.minirun(["run", "--bundle", directory.text(), "x"]).run();
    assert!(said.stdout.contains("null") && said.stdout.contains("stdin"), "{}", said.stdout);
    assert_eq!(fs::read_to_string(directory.path().join("rootfs/new")).expect("new"), "of the container\n");
    // Nothing of the devices is left in the directory: they were in a tmpfs.
    assert_eq!(host.sh(&format!("find {}/rootfs/dev -type c", directory.text())).ok(), "");

    let directory = own_bundle(host, "closed", &script, |config| config["root"]["readonly"] = true.into());
    host.minirun(["run", "--bundle", directory.text(), "x"]).run();
    assert!(!directory.path().join("rootfs/new").exists());
});

host_test!(links_in_the_root_lead_no_mount_out_of_it, |host| {
    fs::create_dir_all("/tmp/outside").expect("directory");
    let words = ["--net=none", "-v", "/etc:/a/b:ro", "busybox", "true"];
    let directory = own_bundle(host, "links", &words, |config| {
        config["linux"]["maskedPaths"] = json!(["/out/x", "/none"]);
    });
    host.write("/tmp/outside/x", "of the host");
    // As seen from the host both lead out; in the root they lead to nothing, or to what is in it.
    host.sh(&format!(
        "cd {}/rootfs; mkdir tmp/outside; ln -s /tmp/outside a; ln -s /tmp/outside out",
        directory.text()
    ))
    .ok();
    host.minirun(["run", "--bundle", directory.text(), "x"]).ok();
    assert!(directory.path().join("rootfs/tmp/outside/b").exists());
    let left = host.sh("ls /tmp/outside; cat /tmp/outside/x").ok();
    assert_eq!(left, "x\nof the host");
    // Where the kernel's own files belong, a link is an error.
    host.sh(&format!("cd {}/rootfs; rmdir proc; ln -s tmp proc", directory.text())).ok();
    let said = host.minirun(["run", "--bundle", directory.text(), "x"]).run();
    assert_eq!(said.code, 125);
    assert!(said.stderr.contains("/proc`: there is a link in the root file system"), "{}", said.stderr);
    fs::remove_dir_all("/tmp/outside").expect("rm");
});

host_test!(namespaces_are_new_joined_or_the_hosts, |host| {
    let look = "readlink /proc/self/ns/net; readlink /proc/self/ns/uts; hostname";
    let directory = own_bundle(host, "spaces", &["busybox", "sh", "-c", look], |config| {
        config["annotations"].as_object_mut().expect("annotations").clear();
        config["linux"].as_object_mut().expect("linux").remove("sysctl");
        config.as_object_mut().expect("config").remove("hostname");
        config["linux"]["namespaces"] = json!([
            {"type": "mount"}, {"type": "pid"}, {"type": "network", "path": "/run/netns/lan"},
        ]);
    });
    let said = host.minirun(["run", "--bundle", directory.text(), "x"]).ok();
    let lan = host.lan("readlink /proc/self/ns/net").ok();
    let own = host.sh("readlink /proc/self/ns/uts; hostname").ok();
    assert_eq!(said, format!("{lan}{own}"));
});

host_test!(processes_that_are_joined_are_shown, |host| {
    host.has_run_detached();
    let id = host.detached(&["--net=none"], &["sleep", "1000"]);
    let path = format!("/proc/{}/ns/pid", host.pid_of(&id));
    let look = "ps ax -o args | grep -c '[s]leep 1000'; grep ' /proc ' /proc/self/mountinfo | grep -o hidepid=.*";
    let directory = own_bundle(host, "joined", &["--net=none", "busybox", "sh", "-c", look], |config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().expect("namespaces");
        let pid = namespaces.iter_mut().find(|one| one["type"] == "pid").expect("one");
        pid["path"] = path.into();
        let proc = config["mounts"].as_array_mut().expect("mounts").iter_mut().find(|one| one["type"] == "proc");
        let options = proc.expect("a mount")["options"].as_array_mut().expect("options");
        options.push("hidepid=ptraceable".into());
    });
    assert_eq!(host.minirun(["run", "--bundle", directory.text(), "x"]).ok(), "1\nhidepid=ptraceable\n");
    let older = "strace -f -qq -o /dev/null -e inject=fsconfig:error=EINVAL:when=1 $MINIRUN";
    let said = host.sh(&format!("{older} run --bundle {} x", directory.text())).run();
    assert!(said.code == 125 && said.stderr.contains("it takes Linux 6.17"), "{said}");
    host.remove_all();
});

host_test!(what_is_not_honoured_is_refused_and_nothing_is_changed, |host| {
    for (name, pointer, value, says) in [
        ("hooks", "/hooks", json!({"poststop": [{"path": "/bin/true"}]}), "hooks is not supported yet"),
        ("cgroup", "/linux/cgroupsPath", json!("/x"), "linux.cgroupsPath is not supported yet"),
        ("cwd", "/process/cwd", json!("/proc/self/fd/3"), "working directory `/proc/self/fd/3`"),
    ] {
        let directory = own_bundle(host, name, &["--net=none", "busybox", "true"], |config| {
            let (above, last) = pointer.rsplit_once('/').expect("a pointer");
            config.pointer_mut(above).expect("there")[last] = value;
        });
        let said = host.minirun(["run", "--bundle", directory.text(), "x"]).run();
        assert_eq!(said.code, 125, "{name}");
        assert!(said.stderr.contains(says), "{}", said.stderr);
    }
    let directory = own_bundle(host, "option", &["--net=none", "busybox", "true"], |_| ());
    let said = host.minirun(["run", "--bundle", directory.text(), "-v", "/etc:/x", "x"]).run();
    assert!(said.code == 125 && said.stderr.contains("`--volume`: that comes from the bundle"), "{}", said.stderr);
});

host_test!(capabilities_are_those_of_each_set, |host| {
    let look = ["--net=none", "-u", "7", "busybox", "grep", "^Cap", "/proc/self/status"];
    let directory = own_bundle(host, "sets", &look, |config| {
        config["process"]["capabilities"] = json!({
            "bounding": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN"],
            "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
        });
    });
    let said = host.minirun(["run", "--bundle", directory.text(), "x"]).ok();
    let set = |name: &str| said.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).map(str::to_owned);
    // Of a program without file capabilities, who is not root keeps the ambient ones (capabilities(7)).
    for (name, value) in [("CapBnd:", 0x21), ("CapAmb:", 0x20), ("CapInh:", 0x20), ("CapPrm:", 0x20), ("CapEff:", 0x20)]
    {
        assert_eq!(set(name), Some(format!("{value:016x}")), "{name} {said}");
    }
});

host_test!(a_detached_bundle_is_a_container_like_others, |host| {
    // The directory of all logs stays.
    fs::create_dir_all("/var/lib/minirun/logs").expect("logs");
    fs::set_permissions("/var/lib/minirun/logs", PermissionsExt::from_mode(0o700)).expect("mode");
    host.settle();
    let directory = own_bundle(host, "detached", &["--net=none", "busybox", "sh", "-c", "echo up; sleep 1000"], |_| ());
    host.minirun(["run", "-d", "--bundle", directory.text(), "x"]).ok();
    host.soon("it says so", || host.minirun(["logs", "x"]).ok() == "up\n");
    let first = host.minirun(["exec", "x", "grep", "Cap\\|Seccomp:", "/proc/1/status"]).ok();
    let further = host.minirun(["exec", "x", "grep", "Cap\\|Seccomp:", "/proc/self/status"]).ok();
    assert_eq!(first, further);
    host.minirun(["restart", "-t0", "x"]).ok();
    host.soon("it says so again", || host.minirun(["logs", "x"]).ok() == "up\nup\n");
    host.minirun(["stop", "-t0", "x"]).ok();
    host.minirun(["rm", "x"]).ok();
});

host_test!(a_bundle_can_have_a_terminal, |host| {
    let script = "test -t 0 && tty && ls -l /dev/console && stty size && echo typed $(cat)";
    let directory = own_bundle(host, "terminal", &["--net=none", "-it", "busybox", "sh", "-c", script], |_| ());
    let mut terminal = Terminal::start(&host::binary(), &["run", "--bundle", directory.text(), "x"], 33, 101);
    terminal.shows("33 101");
    terminal.types("word\n\x04");
    terminal.shows("typed word");
    assert_eq!(terminal.wait(), 0, "{}", terminal.screen());
});

host_test!(another_runtime_runs_what_is_written, |host| {
    if host.sh("command -v runc").run().code != 0 {
        assert!(std::env::var_os("MINIRUN_MUST_WORK").is_none(), "`runc` is not installed");
        println!("skipped: `runc` is not installed");
        return;
    }
    // Devices are kept away otherwise there, and mounts for masks are made otherwise.
    let look = "id; hostname; pwd; env | sort | grep -v SHLVL; ulimit -n; grep -E '^(Cap|Seccomp:|NoNewPrivs|Groups)' /proc/self/status; \
        for m in / /proc /sys /dev/pts /dev/shm /dev/mqueue /scratch /ro; do awk -v m=$m '$5 == m {print $5, $6}' /proc/self/mountinfo; done | sed '/^\\/\\(dev\\)* /s/,nodev//'; \
        ls /dev | grep -v core; cat /proc/sys/net/core/somaxconn; touch /ro/x 2>&1; python 2>&1; \
        unshare -U true 2>&1; ip -o link | cut -d : -f 2";
    let words = [
        "--net=none",
        "--hostname=web",
        "-e",
        "A=b",
        "-w",
        "/tmp",
        "--ulimit=nofile=100:200",
        "--tmpfs=/scratch",
        "-v",
        "/etc:/ro:ro",
        "--sysctl=net.core.somaxconn=77",
        "-u",
        "0:5",
    ];
    let own = own_bundle(host, "runc", &[&words[..], &["busybox", "sh", "-c", look]].concat(), |_| ());
    let ours = host.minirun(["run", "--bundle", own.text(), "x"]).run().stdout;
    let theirs = host.sh(&format!("cd {} && runc --root /run/runc-test run x", own.text())).run();
    assert_eq!(theirs.stdout, ours, "{}", theirs.stderr);
    let _ = fs::remove_dir_all("/run/runc-test");
});
