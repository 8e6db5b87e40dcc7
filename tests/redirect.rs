//! Names that lead elsewhere than they say: prepared in an image, or changed by another container while minirun uses them.
//!
//! Each test has a canary on the host, outside of every root file system, to which the names would lead; and a container that
//! starts nevertheless looks whether everything is shut inside.

mod host;

use std::fs;
use std::os::fd::OwnedFd;

use host::{Directory, Host, Output, Running, host_test};
use nix::sys::signal::Signal;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, unlinkat};
use serde_json::Value;

/// Says what is open and must not be, of the kernel's files below the working directory, and in the end `looked`. It does
/// without a null device, which is one of the things that are attacked.
const LOOK_AT_PROC: &str = r#"
for f in kcore keys latency_stats timer_list timer_stats sched_debug interrupts; do
    [ ! -e $f ] || [ -z "$(head -c 1 $f 2>&- | tr '\0' x)" ] || echo "OPEN $f"
done
for d in acpi asound scsi; do [ -z "$(ls -A $d 2>&-)" ] || echo "OPEN $d"; done
for f in sys/kernel/core_pattern sys/vm/swappiness sysrq-trigger irq/default_smp_affinity; do
    (: >>$f) 2>&- && echo "OPEN $f"
done
echo looked"#;

/// The same of `/proc`, of `/sys` and of `/dev`; where minirun makes the latter, it is all new.
const LOOK: &str = r#"
[ -z "$(ls -A /sys/firmware /sys/devices/virtual/powercap 2>/dev/null | grep -v :)" ] || echo "OPEN /sys"
mkdir /sys/fs/cgroup/new 2>/dev/null && echo "OPEN /sys/fs/cgroup"
grep -q '^[^ ]* /sys sysfs ro,' /proc/mounts || echo "OPEN /sys, which is another"
[ "$(stat -c %F:%t:%T /dev/null)" = "character special file:1:3" ] || echo "OPEN /dev/null"
cd /proc"#;

const LOOK_AT_DEV: &str = r#"
grep -q '^[^ ]* /dev tmpfs ' /proc/mounts || echo "OPEN /dev"
grep -q '^[^ ]* /dev/pts devpts ' /proc/mounts || echo "OPEN /dev/pts"
[ -c /dev/pts/ptmx ] && [ "$(readlink /dev/ptmx)" = pts/ptmx ] || echo "OPEN /dev/ptmx"
[ ! -t 0 ] || [ "$(stat -c %t /dev/console)" = 88 ] || echo "OPEN /dev/console""#;

/// What is on the host and stays as it is.
struct Canary {
    _directory: Directory,
    was: String,
}

impl Canary {
    fn new(host: &Host) -> Self {
        let directory = host.directory("canary");
        directory.file("text", "of the host");
        directory.file("full/target/text", "of the host");
        directory.file("bare/text", "of the host");
        Self { _directory: directory, was: Self::seen(host) }
    }

    fn seen(host: &Host) -> String {
        let look = "find /tmp/canary -printf '%p %y %m %u %s %T@\\n' | sort; cat /tmp/canary/text; \
            cat /proc/sys/kernel/core_pattern /proc/sys/kernel/domainname";
        host.sh(look).ok()
    }

    #[track_caller]
    fn is_unchanged(&self, host: &Host, after: &str) {
        assert_eq!(Self::seen(host), self.was, "after {after}");
    }
}

/// A root file system of busybox, in which `script` has prepared something.
fn tree(host: &Host, script: &str) -> Directory {
    let tree = host.directory("tree");
    let base = "mkdir bin etc; cp $(command -v busybox) bin/busybox; \
        for p in sh cat ls stat head grep tr mkdir readlink cut awk sort wc; do ln -s busybox bin/$p; done";
    let rest = "for d in proc sys dev; do [ -e $d ] || [ -L $d ] || mkdir $d; done";
    host.sh(&format!("cd {}; {base}; {script}; {rest}", tree.text())).ok();
    tree
}

/// It ran and found all shut, or it was refused with an error. Whether it ran.
#[track_caller]
fn judge(output: &Output, after: &str) -> bool {
    let said = output.stdout.replace('\r', "");
    match output.code {
        0 => assert!(said.ends_with("looked\n") && !said.contains("OPEN"), "{after}: {output}"),
        125 => assert!(output.stderr.starts_with("minirun: ") && !said.contains("looked"), "{after}: {output}"),
        _ => panic!("{after}: {output}"),
    }
    output.code == 0
}

/// What an image can have where minirun mounts.
const PREPARED: [&str; 36] = [
    "ln -s /tmp/canary dev",
    "ln -s ../../../../../../tmp/canary dev",
    "ln -s /dev dev",
    "ln -s /proc dev",
    "ln -s /proc/self/cwd dev",
    "touch dev",
    "mkdir dev; ln -s /proc/sys/kernel/core_pattern dev/null",
    "mkdir dev; ln -s ../../../../../proc/sys/kernel/core_pattern dev/null",
    "mkdir dev; ln -s /proc/sysrq-trigger dev/null",
    "mkdir dev; ln -s /tmp/canary/text dev/null",
    "mkdir dev; ln -s /proc/self/fd/0 dev/null",
    "mkdir dev; ln -s /no/such dev/null",
    "mkdir dev; echo prepared >dev/null.; mv dev/null. dev/null",
    // In the root file system there is such a file too.
    "mkdir -p dev tmp/canary; touch tmp/canary/text; ln -s /tmp/canary/text dev/null",
    "mkdir -p dev/null",
    "mkdir dev; mkfifo dev/null",
    "mkdir dev; ln -s /tmp/canary/new dev/console",
    "mkdir dev; ln -s ../../../../../tmp/canary/new dev/console",
    "mkdir dev; ln -s /proc/sys/kernel/core_pattern dev/console",
    "mkdir dev; ln -s /proc/sysrq-trigger dev/console",
    "mkdir -p dev tmp/canary; touch tmp/canary/new; ln -s /tmp/canary/new dev/console",
    "mkdir -p dev/console",
    "mkdir dev; echo prepared >dev/console",
    "mkdir dev; ln -s /tmp/canary dev/pts",
    "mkdir dev; ln -s /dev/pts dev/pts",
    "mkdir dev; ln -s /proc/sys/kernel dev/pts",
    "mkdir -p dev/pts; ln -s /proc/sys/kernel/core_pattern dev/pts/ptmx; touch dev/pts/0",
    "mkdir dev; ln -s /tmp/canary/text dev/ptmx; ln -s /tmp/canary dev/shm; ln -s /tmp/canary dev/mqueue",
    "ln -s /tmp/canary proc",
    "ln -s ../../../../../../tmp/canary proc",
    "mkdir -p own/sys/kernel; touch own/kcore own/keys own/sys/kernel/core_pattern; ln -s own proc",
    "mkdir -p proc/sys/kernel; touch proc/kcore; ln -s /tmp/canary/text proc/keys; ln -s /tmp/canary proc/acpi",
    "touch proc",
    "ln -s /tmp/canary sys",
    "mkdir -p own/firmware; ln -s /own sys",
    "touch sys",
];

// CVE-2025-31133, CVE-2025-52565, CVE-2023-27561 and those of crun and youki that are like them.
host_test!(what_an_image_has_in_the_place_of_the_kernels_files_is_covered, within 180, |host| {
    let canary = Canary::new(host);
    for prepared in PREPARED {
        let tree = tree(host, prepared);
        tree.file("look", &format!("{LOOK_AT_DEV}{LOOK}{LOOK_AT_PROC}"));
        for terminal in [&[][..], &["-t"]] {
            let words = [&["run", "--net=none"], terminal, &["--rootfs", tree.text(), "sh", "/look"]].concat();
            let output = host.minirun(words).run();
            assert!(judge(&output, prepared), "{prepared}: {output}");
            canary.is_unchanged(host, prepared);
        }
    }
});

/// A bundle that runs in `tree` itself, for what `run` with these words would do; `edit` changes its configuration.
fn bundle(host: &Host, tree: &Directory, words: &[&str], edit: impl FnOnce(&mut Value)) -> Directory {
    let text = host.minirun([&["run", "--spec", "--net=none"], words].concat()).ok();
    let mut config: Value = serde_json::from_str(&text).expect("JSON");
    config["root"]["path"] = tree.text().into();
    config["annotations"].as_object_mut().expect("annotations").remove("minirun.root");
    edit(&mut config);
    let directory = host.directory("bundle");
    directory.file("config.json", &config.to_string());
    directory
}

/// What of `/dev` a bundle mounts.
#[derive(PartialEq)]
enum Dev {
    All,
    /// What is below it, and not itself.
    Below,
    Nothing,
}

impl Dev {
    fn edit(&self, config: &mut Value) {
        let keeps = |mount: &Value| match self {
            Dev::All => true,
            Dev::Below => mount["destination"] != "/dev",
            Dev::Nothing => !mount["destination"].as_str().is_some_and(|target| target.starts_with("/dev")),
        };
        config["mounts"].as_array_mut().expect("mounts").retain(keeps);
    }
}

// A bundle's root file system is used itself, and need not have a `/dev` of its own mounted (CVE-2026-41579).
host_test!(what_a_bundle_has_in_the_place_of_the_kernels_files_is_not_followed, within 300, |host| {
    let canary = Canary::new(host);
    let mut ran = 0;
    for prepared in PREPARED {
        // A terminal takes a `/dev` that is mounted.
        for (terminal, dev) in [(&[][..], Dev::All), (&["-t"], Dev::All), (&[], Dev::Below), (&[], Dev::Nothing)] {
            let tree = tree(host, prepared);
            let look_at_dev = if dev == Dev::All { LOOK_AT_DEV } else { "" };
            tree.file("look", &format!("{look_at_dev}{LOOK}{LOOK_AT_PROC}"));
            let words = [terminal, &["busybox", "sh", "/look"]].concat();
            let bundle = bundle(host, &tree, &words, |config| dev.edit(config));
            let mut running = host.minirun(["run", "--bundle", bundle.text(), "x"]).start();
            host.soon(&format!("it ends in spite of `{prepared}`"), || running.has_ended());
            ran += usize::from(judge(&running.wait(), prepared));
            canary.is_unchanged(host, prepared);
        }
    }
    assert!(ran > 60, "{ran} ran: this shows little");
});

// A directory that is opened below a mask, or below what becomes read-only, stays open.
host_test!(a_working_directory_is_not_below_the_masks, |host| {
    host.has_run_detached();
    let canary = Canary::new(host);
    let links = "mkdir proc; ln -s /proc/sys/kernel app; ln -s /proc/sys/kernel/../.. up; ln -s /sys/firmware firm";
    let script = "(: >>core_pattern) 2>/dev/null && echo OPEN; (: >>sys/kernel/core_pattern) 2>/dev/null && echo OPEN; ls; echo looked";
    for workdir in ["/proc/sys/kernel", "/proc/sys", "/proc", "/app", "/up", "/firm", "/sys/firmware", "/proc/acpi"] {
        let tree = tree(host, links);
        let words = ["-w", workdir, "--rootfs", tree.text(), "sh", "-c", script];
        let output = host.minirun([&["run", "--net=none"], &words[..]].concat()).run();
        judge(&output, workdir);
        assert!(!workdir.contains("firm") || output.stdout == "looked\n", "{output}");
        let bundle = bundle(host, &tree, &["-w", workdir, "busybox", "sh", "-c", script], |_| ());
        let output = host.minirun(["run", "--bundle", bundle.text(), "x"]).run();
        judge(&output, workdir);
        assert!(!workdir.contains("firm") || output.stdout == "looked\n", "{output}");
        canary.is_unchanged(host, workdir);
    }
    let id = host.detached(&["--net=none"], &["sleep", "1000"]);
    judge(&host.minirun(["exec", "-w", "/proc/sys/kernel", &id, "sh", "-c", script]).run(), "exec");
    host.remove_all();
});

// CVE-2024-21626.
host_test!(a_working_directory_is_not_below_a_descriptor_of_the_host, within 120, |host| {
    let canary = Canary::new(host);
    for number in 3..20 {
        let tree = tree(host, &format!("ln -s /proc/self/fd/{number} fd; ln -s /proc/self/fd/{number}/bare below"));
        for workdir in [&format!("/proc/self/fd/{number}"), "/fd", "/below", "/fd/.."] {
            let open = "cd /tmp/canary; exec 7<. 8</tmp/canary/bare 9</tmp";
            let run = format!("exec $MINIRUN run --net=none -w {workdir} --rootfs {} sh -c 'pwd; ls -a'", tree.text());
            let output = host.sh(&format!("{open}; {run}")).run();
            assert!(!["canary", "bare", "text"].iter().any(|name| output.stdout.contains(name)), "{output}");
            assert!(output.code == 0 || output.stderr.starts_with("minirun: "), "{output}");
        }
    }
    canary.is_unchanged(host, "working directories by descriptors");
});

/// A container that swaps the names `first` and `second` of a directory that it shares, until it is ended. For `pause`
/// microseconds they are exchanged and for three times as long they are not: many names that are passed one after another must be
/// found at one end of a swap, for the last to be found at the other.
struct Swapper {
    running: Running,
    pause: String,
    _program: Directory,
}

impl Swapper {
    fn start(host: &Host, shared: &Directory, first: &str, second: &str, pause: &str) -> Self {
        let program = host.directory("swap");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/redirect/swap.c");
        host.sh(&format!("cc -O1 -static -o {}/swap {source}", program.text())).ok();
        let volumes = [format!("{}:/shared", shared.text()), format!("{}:/t:ro", program.text())];
        let names = [format!("/shared/{first}"), format!("/shared/{second}")];
        let words = ["run", "--net=none", "-v", &volumes[0], "-v", &volumes[1], "busybox", "/t/swap"];
        let mut running = host.minirun([&words[..], &[names[0].as_str(), &names[1], pause]].concat()).start();
        running.says("1 swaps");
        Self { running, pause: pause.to_owned(), _program: program }
    }

    /// Ends it, when it has swapped often enough.
    fn end(mut self) {
        let enough = if self.pause == "0" { "10000 swaps" } else { "100 swaps" };
        self.running.says(enough);
        self.running.signal(Signal::SIGTERM);
        self.running.wait();
    }
}

/// Starts of a container while the names are swapped.
const STARTS: usize = 30;

/// Starts a container, by `start`, until enough of them ran to show something.
#[track_caller]
fn start_again_and_again(mut start: impl FnMut() -> Output, after: &str) {
    let (mut starts, mut ran) = (0, 0);
    while starts < STARTS || ran < 5 {
        starts += 1;
        ran += usize::from(judge(&start(), after));
        assert!(starts < 20 * STARTS, "{after}: {ran} of {starts} ran");
    }
    println!("{after}: {ran} of {starts} ran");
}

/// Says where the volume is, and looks whether all is shut.
fn look_for_the_volume() -> String {
    let volumes = r#"awk '$4 ~ "^/source" { print "AT " $5 }' /proc/self/mountinfo"#;
    format!("{volumes}{LOOK_AT_DEV}{LOOK}{LOOK_AT_PROC}")
}

// CVE-2019-19921, CVE-2021-30465, CVE-2024-45310.
host_test!(a_volume_is_not_placed_where_another_container_swaps_a_link_in, within 300, |host| {
    let canary = Canary::new(host);
    let source = host.directory("source");
    source.file("text", "of the volume");
    // Inside, the way that leads out of the shared directory leads to a directory of the container's own.
    let tree = tree(host, "mkdir -p tmp/canary/full tmp/canary/bare");
    tree.file("look", &look_for_the_volume());
    // What the link is, the name below it, whether that is there already, and whether a volume on it can be had.
    for (link, name, made, refused) in [
        ("/tmp/canary/full", "target", true, false),
        ("/tmp/canary/bare", "target", false, false),
        ("../../../../../../tmp/canary/full", "target", true, false),
        ("../../../../../../tmp/canary/bare", "target", false, false),
        ("/proc/self/root/tmp/canary/bare", "target", false, true),
        ("/proc/1/cwd", "target", false, true),
        ("/proc", "target", false, true),
        ("/proc", "kcore", true, true),
        ("/proc/sys", "kernel", true, true),
        ("/sys", "firmware", true, true),
        ("/dev", "pts", true, true),
    ] {
        let shared = host.directory("shared");
        let below = shared.path().join("sub");
        fs::create_dir(&below).expect("mkdir");
        std::os::unix::fs::symlink(link, shared.path().join("link")).expect("symlink");
        let inner = openat(CWD, &below, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).expect("open");
        let after = format!("{link}, {name}, {made}");
        // In the shared directory, where the link leads, refused.
        let mut places = [0; 3];
        let by_link = if refused { 2 } else { 1 };
        for directory in [true, false] {
            let swapper = Swapper::start(host, &shared, "sub", "link", "0");
            let mut seen = [0; 3];
            let mut starts = 0;
            // Until it was at both ends of a swap, or else nothing is shown.
            while starts < STARTS / 3 || seen[0] == 0 || seen[by_link] == 0 {
                remake(&inner, name, made, directory);
                let volume = format!("{}{}:/shared/sub/{name}", source.text(), if directory { "" } else { "/text" });
                let shared = format!("{}:/shared", shared.text());
                let words = ["run", "--net=none", "-v", &shared, "-v", &volume, "--rootfs", tree.text(), "sh", "/look"];
                let output = host.minirun(words).run();
                seen[if judge(&output, &after) { place_of(&output, &after) } else { 2 }] += 1;
                starts += 1;
                assert!(starts < 200, "{after}: {seen:?}: it is never where the names lead, or always");
            }
            swapper.end();
            canary.is_unchanged(host, &after);
            (0..3).for_each(|way| places[way] += seen[way]);
        }
        println!("{after}: in the directory {}, where the link leads {}, refused {}", places[0], places[1], places[2]);
        assert!(!refused || places[1] == 0, "{after}: {places:?}");
    }
});

/// Makes `name` below `inner` anew as what a volume is to be on, or leaves it to minirun.
fn remake(inner: &OwnedFd, name: &str, made: bool, directory: bool) {
    for flags in [AtFlags::empty(), AtFlags::REMOVEDIR] {
        let _ = unlinkat(inner, name, flags);
    }
    if made && directory {
        rustix::fs::mkdirat(inner, name, Mode::from_raw_mode(0o755)).expect("mkdir");
    } else if made {
        openat(inner, name, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY, Mode::from_raw_mode(0o644)).expect("file");
    }
}

/// 0: the volume is in the shared directory; 1: it is in the container's root file system, where the link leads.
#[track_caller]
fn place_of(output: &Output, after: &str) -> usize {
    let places: Vec<_> = output.stdout.lines().filter_map(|line| line.strip_prefix("AT ")).collect();
    let [place] = places[..] else { panic!("{after}: {output}") };
    match place {
        _ if place.starts_with("/shared/") => 0,
        _ if place.starts_with("/tmp/canary/") => 1,
        _ => panic!("{after}: {output}"),
    }
}

// As CVE-2025-31133, by way of a volume that is the container's `/dev`: another container makes its `null` something else.
host_test!(masks_are_not_made_of_what_a_volume_has_for_a_null_device, within 120, |host| {
    let canary = Canary::new(host);
    let tree = tree(host, "ln -s /dev data");
    tree.file("look", &format!("cd /proc; {LOOK_AT_PROC}"));
    let shared = host.directory("shared");
    host.sh(&format!("cd {}; mknod -m 666 null c 1 3; ln -s /tmp/canary/text link", shared.text())).ok();
    let volume = format!("{}:/data", shared.text());
    let swapper = Swapper::start(host, &shared, "null", "link", "0");
    let words = ["run", "--net=none", "-t", "-v", &volume, "--rootfs", tree.text(), "sh", "/look"];
    start_again_and_again(|| host.minirun(words).run(), "a swap of `null`");
    swapper.end();
    canary.is_unchanged(host, "a swap of `null`");
});

// CVE-2019-19921: the masks went to where the other container said that `/proc` was; CVE-2025-52881: so did settings.
host_test!(masks_are_made_where_proc_is_and_not_where_its_name_leads, within 120, |host| {
    let canary = Canary::new(host);
    let decoy = "mkdir -p proc decoy/sys/kernel decoy/irq; touch decoy/kcore decoy/keys decoy/sysrq-trigger; \
        mkdir -p decoy/sys/net/core; echo own >decoy/sys/net/core/somaxconn";
    let tree = tree(host, decoy);
    // Wherever its `/proc` is at this moment.
    let enter = "until cd /proc && [ -e self/status ] || { cd /decoy && [ -e self/status ]; }; do :; done";
    tree.file("look", &format!("{enter}; [ $(cat sys/net/core/somaxconn) = 77 ] || echo OPEN; {LOOK_AT_PROC}"));
    let bundle = bundle(host, &tree, &["--sysctl=net.core.somaxconn=77", "busybox", "sh", "/look"], |_| ());
    let swapper = Swapper::start(host, &tree, "proc", "decoy", "0");
    start_again_and_again(|| host.minirun(["run", "--bundle", bundle.text(), "x"]).run(), "a swap of `/proc`");
    swapper.end();
    canary.is_unchanged(host, "a swap of `/proc`");
    assert_eq!(host.sh(&format!("cat {0}/proc/sys/net/core/somaxconn {0}/decoy/sys/net/core/somaxconn 2>&- | cat", tree.text())).ok(), "own\n");
});

// The same of `/dev`: the terminal was made, and its `/dev/console`, where the name led on the host.
host_test!(a_terminal_is_made_where_dev_is_and_not_where_its_name_leads, within 120, |host| {
    let canary = Canary::new(host);
    for decoy in ["ln -s /tmp/canary decoy", "mkdir decoy; ln -s /dev/pts decoy/pts; ln -s /tmp/canary/text decoy/null"] {
        let tree = tree(host, decoy);
        // Its `/dev/console` is of its own terminals.
        let tty = r#"[ $(awk '$8 == "devpts" { print $3 }' /proc/self/mountinfo | sort -u | wc -l) = 1 ] || echo OPEN"#;
        tree.file("look", &format!("{tty}; cd /proc; {LOOK_AT_PROC}"));
        let bundle = bundle(host, &tree, &["-t", "busybox", "sh", "/look"], |_| ());
        let swapper = Swapper::start(host, &tree, "dev", "decoy", "3000");
        let start = || {
            // What it does with the terminal takes so long that the names change meanwhile.
            let slow = "exec strace -f -qq --seccomp-bpf -o /dev/null -e trace=ioctl -e inject=ioctl:delay_enter=4000";
            host.sh(&format!("{slow} $MINIRUN run --bundle {} x", bundle.text())).run()
        };
        start_again_and_again(start, decoy);
        swapper.end();
        canary.is_unchanged(host, decoy);
    }
});
