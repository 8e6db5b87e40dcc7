//! Limits, freezing and statistics by cgroups, asked of the kernel.

mod host;

use std::path::{Path, PathBuf};

use host::{Host, Running, host_test};
use minirun::cli::LimitArgs;
use minirun::sandbox::cgroup::{self, Freezer, Limits, Usage};
use nix::sys::signal::Signal;

/// A container that counts: a line now and then, for as long as its input is open.
struct Resident {
    running: Running,
    init: i32,
    id: String,
}

impl Resident {
    fn start(host: &Host, options: &[&str]) -> Resident {
        Self::of(host, options, "echo ready; cat")
    }

    fn of(host: &Host, options: &[&str], script: &str) -> Resident {
        let words = [&["run", "-i", "--net=none"], options, &["busybox", "sh", "-c", script]].concat();
        let mut running = host.minirun(words).held().start();
        running.says("ready");
        let init = running.child().expect("an init").cast_signed();
        let ids = host.minirun(["ps", "--quiet"]).ok();
        let id = ids.lines().last().expect("an ID").to_owned();
        Resident { running, init, id }
    }

    fn groups(&self) -> Vec<PathBuf> {
        cgroup::groups_of(&self.id).expect("groups")
    }

    /// A file of one of its groups; there must be one.
    #[track_caller]
    fn says(&self, file: &str) -> String {
        let found = self.groups().iter().find_map(|group| std::fs::read_to_string(group.join(file)).ok());
        found.unwrap_or_else(|| panic!("no `{file}` in {:?}", self.groups())).trim().to_owned()
    }

    fn processes(&self) -> Vec<i32> {
        cgroup::processes_of(inode(self.init))
    }
}

fn inode(pid: i32) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(format!("/proc/{pid}/ns/pid")).expect("a PID namespace").ino()
}

fn is_frozen_in_kernel(group: &Path) -> bool {
    let says = |file: &str, line: &str| {
        std::fs::read_to_string(group.join(file)).unwrap_or_default().lines().any(|found| found == line)
    };
    says("freezer.state", "FROZEN") || says("cgroup.events", "frozen 1")
}

/// Whether this is a host whose controllers are version 1's: what the names of files depend on.
fn is_version_1() -> bool {
    Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists()
}

host_test!(each_limit_is_in_the_kernels_file, |host| {
    let options = "-m 64m --memory-swap 96m --cpus 1.5 --cpuset-cpus 0 --cpu-shares 512 --pids-limit 50";
    let container = Resident::start(host, &options.split(' ').collect::<Vec<_>>());
    if is_version_1() {
        assert_eq!(container.says("memory.limit_in_bytes"), (64 << 20).to_string());
        assert_eq!(container.says("memory.memsw.limit_in_bytes"), (96 << 20).to_string());
        assert_eq!(container.says("cpu.cfs_quota_us"), "150000");
        assert_eq!(container.says("cpu.shares"), "512");
    } else {
        assert_eq!(container.says("memory.max"), (64 << 20).to_string());
        assert_eq!(container.says("memory.swap.max"), (32 << 20).to_string());
        assert_eq!(container.says("cpu.max"), "150000 100000");
        assert_eq!(container.says("cpu.weight"), "59");
    }
    assert_eq!(container.says("cpuset.cpus"), "0");
    assert_eq!(container.says("pids.max"), "50");
    // In each of them are all processes of the container, and nobody else.
    for group in container.groups() {
        let mut inside: Vec<i32> = std::fs::read_to_string(group.join("cgroup.procs"))
            .expect("cgroup.procs")
            .lines()
            .map(|line| line.parse().expect("a number"))
            .collect();
        inside.sort_unstable();
        assert_eq!(inside, container.processes(), "{}", group.display());
    }
    assert_eq!(container.running.wait().code, 0);
    // The directory above goes with the last group.
    assert_eq!(host.sh("find /sys/fs/cgroup -name minirun").ok(), "");
});

host_test!(no_limit_no_group, |host| {
    let container = Resident::start(host, &["--pids-limit", "-1"]);
    assert_eq!(container.groups(), Vec::<PathBuf>::new());
    assert_eq!(host.sh("find /sys/fs/cgroup -name minirun").ok(), "");
    assert_eq!(container.running.wait().code, 0);
    let traced = host.calls("run --net=none busybox true");
    let limited = host.calls("run --net=none -m 64m busybox true");
    let made = |calls: &[host::SystemCall]| calls.iter().filter(|call| call.name.starts_with("mkdir")).count();
    assert!(made(&limited) > made(&traced), "{} {}", made(&limited), made(&traced));
});

host_test!(a_container_sees_no_name_of_the_hosts, |host| {
    for options in [&[][..], &["-m", "64m", "--pids-limit", "9"]] {
        let words = [&["run", "--net=none"], options, &["busybox", "cat", "/proc/self/cgroup"]].concat();
        let seen = host.minirun(words).ok();
        assert!(seen.lines().count() > 0 && seen.lines().all(|line| line.ends_with(":/")), "{seen}");
    }
});

host_test!(a_program_that_eats_memory_is_ended, |host| {
    let script = "x=$(yes | head -c 200000000); echo survived";
    let output = host.minirun(["run", "--net=none", "-m", "32m", "busybox", "sh", "-c", script]).run();
    assert_eq!(output.code, 137, "{output}");
    assert!(output.stderr.contains("ended by the memory limit") && output.stdout.is_empty(), "{output}");
    // What is written to its root file system is memory, too.
    let script = "dd if=/dev/zero of=/big bs=1M count=200; echo $?";
    let output = host.minirun(["run", "--net=none", "-m", "32m", "busybox", "sh", "-c", script]).run();
    assert!(output.stderr.contains("ended by the memory limit"), "{output}");
    let output = host.minirun(["run", "--net=none", "-m", "32m", "busybox", "sh", "-c", "kill -9 $$; exit 3"]).run();
    assert!(!output.stderr.contains("limit"), "{output}");
});

host_test!(a_fork_bomb_stays_small_and_ends, |host| {
    let bomb = "(b() { sleep 1000 & b | b & }; b) 2>/dev/null & echo ready; exec cat";
    let container = Resident::of(host, &["--pids-limit", "20"], bomb);
    host.soon("the bomb meets its limit", || {
        let events = container.says("pids.events");
        events.lines().any(|line| line.strip_prefix("max ").is_some_and(|count| count != "0"))
    });
    assert!((2..=20).contains(&container.processes().len()));
    // The host still forks, and another container starts.
    host.minirun(["run", "--net=none", "--pids-limit", "20", "busybox", "true"]).ok();
    container.running.signal(Signal::SIGTERM);
    assert_eq!(container.running.wait().code, 143);
});

host_test!(processors_are_those_that_were_given, |host| {
    let script = "grep Cpus_allowed_list /proc/self/status";
    let seen = host.minirun(["run", "--net=none", "--cpuset-cpus", "0", "busybox", "sh", "-c", script]).ok();
    assert_eq!(seen.split_whitespace().last(), Some("0"));
    // The next finds the directory above without processors, or gone.
    let seen = host.minirun(["run", "--net=none", "--cpuset-cpus", "0", "busybox", "sh", "-c", script]).ok();
    assert_eq!(seen.split_whitespace().last(), Some("0"));
});

host_test!(processor_time_is_held_back, |host| {
    let container = Resident::of(host, &["--cpus", "0.05"], "echo ready; while :; do :; done");
    host.soon("it is held back", || {
        let stat = container.says("cpu.stat");
        stat.lines().any(|line| line.starts_with("nr_throttled ") && line != "nr_throttled 0")
    });
    container.running.signal(Signal::SIGTERM);
    assert_eq!(container.running.wait().code, 143);
});

host_test!(what_cannot_be_is_refused_before_anything_is_made, |host| {
    for (options, says) in [
        ("-m 5m", "less than 6m"),
        ("-m 64m --memory-swap 63m", "less than --memory"),
        ("--memory-swap 64m", "no --memory"),
        ("--cpus 4096", "only"),
        ("--cpuset-cpus 0,4095", "no processor 4095"),
        ("--cpuset-cpus x", "not a list of processors"),
        ("--pids-limit -2", "4194304"),
    ] {
        let words: Vec<&str> = ["run"].into_iter().chain(options.split(' ')).chain(["busybox", "true"]).collect();
        let error = host.minirun(words).fails(125);
        assert!(error.contains(says), "{options}: {error}");
        host.nothing_left();
    }
});

host_test!(a_missing_controller_is_named, |host| {
    host.sh("busybox mount -t tmpfs none /sys/fs/cgroup").ok();
    let error = host.minirun(["run", "--net=none", "-m", "64m", "busybox", "true"]).fails(125);
    assert!(error.contains("--memory") && error.contains("controller `memory`"), "{error}");
    host.minirun(["run", "--net=none", "busybox", "true"]).ok();
    host.sh("busybox umount /sys/fs/cgroup").ok();
});

host_test!(what_a_killed_minirun_left_is_swept, within 120, |host| {
    // The container ends with minirun; in the second it has changed its user, and the sweep must end it.
    for options in [&["-m", "64m", "--pids-limit", "50"][..], &["-m", "64m", "--pids-limit", "50", "--user", "1000"]] {
        let container = Resident::start(host, options);
        let groups = container.groups();
        assert_eq!(groups.len(), if is_version_1() { 2 } else { 1 });
        container.running.signal(Signal::SIGKILL);
        assert_eq!(container.running.wait().code, 137);
        assert!(groups.iter().all(|group| group.exists()), "nobody has removed them yet");
        host.minirun(["ps"]).ok();
        assert!(!groups.iter().any(|group| group.exists()), "{groups:?}");
        host.nothing_left();
    }
});

host_test!(minirun_with_limits_killed_at_its_calls_for_cgroups, within 120, |host| {
    let words = "run --net=none -m 64m --pids-limit 50 --cpuset-cpus 0 busybox true";
    let calls = host.calls(words);
    let (mut made, mut killed) = (0, 0);
    for call in &calls {
        // From the first directory to the last, and some more.
        made += usize::from(call.name.starts_with("mkdir"));
        if made > 0 && ["mkdir", "rmdir", "write", "clone3", "unlink", "rename"].contains(&call.name.as_str()) {
            killed += usize::from(host.tampered(words, call, "signal=KILL").run().code == 137);
            host.minirun(["ps"]).ok();
            assert_eq!(host.sh("find /sys/fs/cgroup -name minirun").ok(), "", "{call:?}");
        }
    }
    assert!(killed > 15, "{killed} were killed");
});

host_test!(who_begins_does_not_meet_who_ends, |host| {
    // The last to end removes the directory in which the next is about to begin.
    let pids = LimitArgs { pids_limit: Some(9), cpuset_cpus: Some("0".into()), ..LimitArgs::default() };
    let limits = Limits::of(&pids).expect("valid").expect("limits");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let plan = limits.plan(&format!("thread{thread}")).expect("a plan");
            scope.spawn(move || (0..200).for_each(|_| plan.make().expect("made").remove().expect("removed")));
        }
    });
    host.nothing_left();
});

/// A container whose program counts in a file, so that it is seen whether it goes on.
const COUNTS: &str = "echo ready; (i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done) & cat";

fn stands_still(container: &Resident) -> bool {
    let before = container.running.stdout();
    std::thread::sleep(std::time::Duration::from_millis(200));
    before == container.running.stdout()
}

fn gather_and_release(host: &Host) {
    let container = Resident::of(host, &[], COUNTS);
    // Somewhere else than in the root, so that a way back can be missed.
    let places = ["unified", "freezer"].map(|place| Path::new("/sys/fs/cgroup").join(place));
    let own: Vec<PathBuf> = places.iter().filter(|place| place.join("cgroup.procs").exists()).cloned().collect();
    let own: Vec<PathBuf> = own.into_iter().map(|place| place.join("own")).collect();
    own.iter().for_each(|group| std::fs::create_dir(group).expect("mkdir"));
    for pid in container.processes() {
        cgroup::add(&own, pid).expect("moved");
    }
    let before = std::fs::read_to_string(format!("/proc/{}/cgroup", container.init)).expect("its groups");
    let used = || Usage::of(&container.groups(), || container.processes()).cpu_ns;
    let used_before = used();
    let freezer = Freezer::gather(&container.id, || container.processes()).expect("gather");
    assert!(used() >= used_before, "what it used before it was frozen counts");
    assert!(is_frozen_in_kernel(freezer.group()) && cgroup::is_frozen(&container.groups()));
    assert!(stands_still(&container), "{}", container.running.stdout());
    // Another command thaws it, which knows the ID alone.
    drop(freezer);
    let freezer = Freezer::find(&container.id).expect("look").expect("a gathered group");
    freezer.release().expect("release");
    host.soon("it counts again", || !stands_still(&container));
    let after = std::fs::read_to_string(format!("/proc/{}/cgroup", container.init)).expect("its groups");
    assert_eq!(before, after);
    assert_eq!(host.sh("find /sys/fs/cgroup -name minirun").ok(), "");

    // Killed while it is frozen: the next command ends it.
    let freezer = Freezer::gather(&container.id, || container.processes()).expect("gather");
    assert!(is_frozen_in_kernel(freezer.group()));
    let init = container.init;
    container.running.signal(Signal::SIGKILL);
    drop(container);
    host.minirun(["ps"]).ok();
    host.soon("it has ended", || state(init).is_none_or(|state| state == "Z"));
    host.soon("its groups are empty", || own.iter().all(|group| !group.exists() || std::fs::remove_dir(group).is_ok()));
    host.nothing_left();
}

host_test!(a_container_without_groups_is_frozen_by_version_2, gather_and_release);

host_test!(a_container_without_groups_is_frozen_by_version_1, |host| {
    host.sh(
        "for place in $(awk '$3 == \"cgroup2\" { print $2 }' /proc/mounts | sort -u); do busybox umount $place; done",
    )
    .ok();
    host.settle();
    if host.sh("grep -q freezer /proc/self/cgroup").run().code == 0 {
        gather_and_release(host);
    }
});

host_test!(a_program_that_forks_is_gathered_whole, |host| {
    let script = "echo ready; f() { while :; do (sleep 0.01; :) & sleep 0.005; done; }; f & f & f";
    let container = Resident::of(host, &["--pids-limit", "60"], script);
    let freezer = Freezer::gather("forks", || container.processes()).expect("gather");
    let inside = std::fs::read_to_string(freezer.group().join("cgroup.procs")).expect("cgroup.procs");
    let inside: Vec<i32> = inside.lines().map(|line| line.parse().expect("a number")).collect();
    let missed: Vec<_> = container.processes().into_iter().filter(|pid| !inside.contains(pid)).collect();
    let missed: Vec<_> = missed.into_iter().filter(|pid| state(*pid).is_some_and(|state| state != "Z")).collect();
    assert!(missed.is_empty() && inside.len() > 3, "{missed:?} of {inside:?}");
    freezer.release().expect("release");
    container.running.signal(Signal::SIGTERM);
    container.running.wait();
});

fn state(pid: i32) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(')')?.1.split_whitespace().next()?.to_owned())
}

host_test!(a_leftover_of_any_kind_is_removed, |host| {
    // Frozen, with a process and a group in it that its program made.
    for (kind, file, value) in [("cgroup2", "cgroup.freeze", "1"), ("freezer", "freezer.state", "FROZEN")] {
        let script = format!(
            "exec >/dev/null 2>&1
             m=$(awk '$3 == \"{kind}\" || $3 == \"cgroup\" && $2 ~ /{kind}$/ {{ print $2; exit }}' /proc/mounts)
             [ -n \"$m\" ] || exit 3
             g=$m/minirun/leftover; mkdir -p $g/below
             sleep 1000 & echo $! >$g/below/cgroup.procs
             sleep 1000 & echo $! >$g/cgroup.procs
             echo {value} >$g/below/{file}; echo {value} >$g/{file}"
        );
        // Nobody who may be frozen has its output.
        if host.sh(&script).run().code == 0 {
            assert!(!cgroup::groups_of("leftover").expect("groups").is_empty());
            cgroup::remove_leftover("leftover").expect("removed");
            host.nothing_left();
        }
    }
    cgroup::remove_leftover("leftover").expect("nothing to do");
});

host_test!(statistics_of_groups_and_of_processes, |host| {
    let work = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; echo ready; cat";
    for options in [&["-m", "64m", "--pids-limit", "50"][..], &[]] {
        let container = Resident::of(host, options, work);
        let usage = Usage::of(&container.groups(), || container.processes());
        assert!(usage.cpu_ns > 10_000_000, "{usage:?}");
        assert!((100_000..64 << 20).contains(&usage.memory_bytes), "{usage:?}");
        assert_eq!(usage.pids, 1, "{usage:?}");
        let limits = (usage.memory_limit, usage.pids_limit);
        assert_eq!(limits, if options.is_empty() { (None, None) } else { (Some(64 << 20), Some(50)) });
        assert_eq!(container.running.wait().code, 0);
    }
});
