//! `minirun cp`: docker's rules, both ways, and a container that does its worst meanwhile.
#![allow(clippy::disallowed_methods, reason = "a test plays the attacker in a thread")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod host;
mod tar;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use host::{Host, Running, host_test};
use nix::sys::signal::Signal;
use tar::Tar;

/// A container `web` in which `script` has run.
struct Web<'a> {
    host: &'a Host,
    running: Running,
}

impl<'a> Web<'a> {
    fn new(host: &'a Host, script: &str) -> Self {
        Self::with(host, &[], script)
    }

    fn with(host: &'a Host, options: &[&str], script: &str) -> Self {
        let script = format!("set -e; mkdir /w; cd /w; {script}\n echo ready; exec sleep 600");
        let program = ["busybox", "sh", "-c", &script];
        let words = ["run", "--net=none", "--name=web"].iter().chain(options).chain(&program);
        let mut running = host.minirun(words).start();
        running.says("ready");
        Self { host, running }
    }

    /// The container's root, as the host reaches it.
    fn root(&self) -> String {
        format!("/proc/{}/root", self.running.child().expect("a first process"))
    }

    /// What a shell of the host says, in the container's directory /w.
    fn sees(&self, script: &str) -> String {
        self.host.sh(&format!("cd {}/w; {script}", self.root())).ok()
    }

    fn cp(&self, words: &[&str]) -> String {
        self.host.minirun(["cp"].iter().chain(words)).ok()
    }

    #[track_caller]
    fn refused(&self, words: &[&str], why: &str) {
        let said = self.host.minirun(["cp"].iter().chain(words)).fails(125);
        assert!(said.contains(why), "expected `{why}`: {said}");
    }

    fn end(self) {
        self.running.signal(Signal::SIGTERM);
        self.running.wait();
    }
}

host_test!(files_go_by_dockers_rules, |host| {
    let web = Web::new(host, "echo new >f; mkdir -p d/sub; echo in >d/sub/f; mkdir there; echo old >old");
    let out = host.directory("out");
    let at = |name: &str| format!("{}/{name}", out.text());
    let read = |name: &str| host.sh(&format!("cat {}/{name}", out.text())).ok();
    host.sh(&format!("cd {}; mkdir there; echo old >old", out.text())).ok();
    // A file: to a new name, over a file, into a directory; a slash at the end needs a directory.
    web.cp(&["web:/w/f", &at("new")]);
    assert_eq!(read("new"), "new\n");
    web.cp(&["web:w/f", &at("old")]);
    assert_eq!(read("old"), "new\n");
    web.cp(&["web:/w/f", &at("there")]);
    web.cp(&["web:/w/f", &at("there/")]);
    assert_eq!(read("there/f"), "new\n");
    web.refused(&["web:/w/f", &at("none/")], "there is no such directory");
    web.refused(&["web:/w/f", &at("none/f")], "No such file or directory");
    web.refused(&["web:/w/f", &at("old/")], "Not a directory");
    web.refused(&["web:/w/f/", &at("x")], "Not a directory");
    web.refused(&["web:/w/f/.", &at("x")], "Not a directory");
    web.refused(&["web:/w/none", &at("x")], "there is no such file");
    // A directory: to a new name, into one that is there, its content alone; never over a file.
    web.cp(&["web:/w/d", &at("made")]);
    assert_eq!(read("made/sub/f"), "in\n");
    web.cp(&["web:/w/d/", &at("made2/")]);
    assert_eq!(read("made2/sub/f"), "in\n");
    web.cp(&["web:/w/d", &at("there")]);
    assert_eq!(read("there/d/sub/f"), "in\n");
    web.cp(&["web:/w/d/.", &at("there")]);
    assert_eq!(read("there/sub/f"), "in\n");
    web.cp(&["web:/w/d/.", &at("made3")]);
    assert_eq!(read("made3/sub/f"), "in\n");
    web.refused(&["web:/w/d", &at("old")], "the source is a directory and the destination is not");
    web.refused(&["web:/w/d", &at("none/x")], "No such file or directory");
    // A path below the current directory, and one with a colon.
    host.sh(&format!("cd {}; $MINIRUN cp web:/w/f . && cat f; $MINIRUN cp web:/w/f ./a:b && cat a:b", out.text())).ok();

    // The same into the container.
    let src = host.directory("src");
    src.file("f", "from\n");
    src.file("d/sub/f", "within\n");
    src.file("a:b", "colon\n");
    let from = |name: &str| format!("{}/{name}", src.text());
    web.cp(&[&from("f"), "web:/w/new"]);
    web.cp(&[&from("f"), "web:w/old"]);
    web.cp(&[&from("f"), "web:/w/there"]);
    assert_eq!(web.sees("cat new old there/f"), "from\nfrom\nfrom\n");
    web.cp(&[&from("a:b"), "web:/w/there/"]);
    assert_eq!(web.sees("cat there/a:b"), "colon\n");
    web.refused(&[&from("f"), "web:/w/none/"], "there is no such directory");
    web.refused(&[&from("f"), "web:/w/none/f"], "No such file or directory");
    web.refused(&[&from("f/"), "web:/w/x"], "Not a directory");
    web.refused(&[&from("none"), "web:/w/x"], "there is no such file");
    web.cp(&[&from("d"), "web:/w/made"]);
    web.cp(&[&from("d"), "web:/w/there"]);
    web.cp(&[&from("d/."), "web:/w/there"]);
    assert_eq!(web.sees("cat made/sub/f there/d/sub/f there/sub/f"), "within\nwithin\nwithin\n");
    web.refused(&[&from("d"), "web:/w/old"], "the source is a directory and the destination is not");
    // A file over a directory, and a directory over a file, further down.
    web.sees("mkdir -p there/clash/f; mkdir there/clash2; echo >there/clash2/sub");
    src.file("clash/f", "");
    web.refused(&[&from("clash"), "web:/w/there"], "there is a directory in its place");
    web.refused(&[&from("d/."), "web:/w/there/clash2"], "there is a file in its place");
    web.end();
});

host_test!(what_makes_no_sense_is_refused, |host| {
    let web = Web::new(host, "echo >f");
    web.refused(&["/a", "/b"], "neither is in a container");
    web.refused(&[":/a", "./b:c"], "neither is in a container");
    web.refused(&["web:/a", "web:/b"], "both are in containers");
    web.refused(&["web:", "/tmp/x"], "no path behind the name");
    web.refused(&["-", "/tmp/x"], "neither is in a container");
    web.refused(&["none:/a", "/tmp/x"], "find container `none`: there is none");
    web.refused(&["web:/w/none", "-"], "there is no such file");
    let said = host.minirun(["cp", "-", "web:/w/f"]).stdin("x").fails(125);
    assert!(said.contains("is no directory"), "{said}");
    let said = host.minirun(["cp", "-", "web:/w/none"]).stdin("x").fails(125);
    assert!(said.contains("does not exist"), "{said}");
    let said = host.minirun(["cp", "-", "web:/w"]).stdin(vec![b'x'; 1024]).fails(125);
    assert!(said.contains("not a tar archive"), "{said}");
    assert_eq!(web.sees("ls -A"), "f\n");
    web.end();
});

host_test!(a_tar_stream_goes_both_ways, |host| {
    let web = Web::new(
        host,
        "mkdir -p d/empty; echo text >d/f; ln d/f d/hard; ln -s f d/link; mkfifo d/pipe; chown 7:8 d/f; chmod 4750 d/f
        long=$(printf '%0200d' 0); mkdir d/$long; echo deep >d/$long/$long; touch -d '2001-02-03 04:05:06' d/f",
    );
    let out = host.directory("out");
    host.sh(&format!("$MINIRUN cp web:/w/d - >{}/t", out.text())).ok();
    let list = host.sh(&format!("TZ=UTC tar -tvf {}/t --numeric-owner --full-time", out.text())).ok();
    assert!(list.contains("-rwsr-x--- 7/8               5 2001-02-03 04:05:06 d/"), "{list}");
    assert!(
        list.contains("d/link -> f") && list.contains(" link to d/") && list.contains("p") && list.contains("d/empty/")
    );
    host.sh(&format!("cd {0}; mkdir x; tar -xf t -C x; cd x/d; cat f */0*; readlink link", out.text())).ok();
    let names = host.sh("$MINIRUN cp web:/w/d/. - | tar -t | sort").ok();
    assert!(names.starts_with("./0") && names.contains("./empty/\n") && names.contains("./hard\n"), "{names}");
    assert_eq!(host.sh("$MINIRUN cp web:/w/d/f - | tar -xO").ok(), "text\n");

    // Back: root's, without the set-ID bit of another one; with -a as they were.
    host.sh(&format!("cd {}; rm -r x/d/pipe; tar -C x -cf back d; $MINIRUN cp - web:/tmp <back", out.text())).ok();
    let stat = |path: &str| web.sees(&format!("cd ..; stat -c '%a %u %g %Y' {path}"));
    assert_eq!(stat("tmp/d/f"), "750 0 0 981173106\n");
    host.sh(&format!("$MINIRUN cp -a - web:/tmp <{}/back", out.text())).ok();
    assert_eq!(stat("tmp/d/f"), "4750 7 8 981173106\n");
    assert_eq!(web.sees("cd ../tmp/d; stat -c %h f; cat hard; cat 0*/0*; readlink link"), "2\ntext\ndeep\nf\n");
    // Compressed, and by GNU tar's other formats.
    for how in ["--format=posix -z", "--format=ustar --exclude=0*", "--format=v7 --exclude=0*"] {
        host.sh(&format!("cd {}/x; tar {how} -c d | $MINIRUN cp - web:/w", out.text())).ok();
    }
    // From one directory of a container to another by a pipe.
    host.sh("$MINIRUN cp web:/tmp/d/. - | $MINIRUN cp - web:/home").ok();
    assert_eq!(web.sees("cat ../home/hard"), "text\n");
    web.end();
});

host_test!(hostile_archives_stay_inside, |host| {
    let canary = host.directory("canary");
    canary.file("f", "HOST\n");
    let web = Web::new(host, "ln -s /etc link; ln -s ../../../../tmp/canary up; echo >there");
    // A link and then a file below it, links that were there, names that lead up or are absolute, hard links to what was
    // there, devices, a file in the place of a directory.
    for archive in [
        Tar::new().symlink("l", "/tmp/canary").file("l/f", b"EVIL"),
        Tar::new().file("up/f", b"EVIL"),
        Tar::new().file("link/f", b"EVIL"),
        Tar::new().dir("up"),
        Tar::new().file("../f", b"EVIL"),
        Tar::new().file("/tmp/canary/f", b"EVIL"),
        Tar::new().file("a/../../f", b"EVIL"),
        Tar::new().link("hard", "link/passwd"),
        Tar::new().link("hard", "/etc/passwd"),
        Tar::new().link("hard", "there"),
        Tar::new().entry(b"dev", b'3', b"", b""),
        Tar::new().entry(b"pipe", b'6', b"", b""),
        Tar::new().dir("d").file("d", b""),
    ] {
        let said = host.minirun(["cp", "-", "web:/w"]).stdin(archive.end()).fails(125);
        assert!(said.contains("extract `"), "{said}");
    }
    let twice = Tar::new().file("there", b"1").file("there", b"2").file("x/y/z", b"3").dir("x").link("x/h", "there");
    host.minirun(["cp", "-", "web:/w"]).stdin(twice.end()).ok();
    assert_eq!(web.sees("cat there x/y/z x/h"), "232");
    assert_eq!(host.sh("cat /tmp/canary/f; ls -A /tmp/canary").ok(), "HOST\nf\n");
    assert_eq!(web.sees("ls -A ../etc | grep -x f || true"), "");
    web.end();
});

host_test!(links_lead_nowhere_out_of_the_container, |host| {
    let canary = host.directory("canary");
    canary.file("f", "HOST\n");
    let web = Web::new(
        host,
        "ln -s /tmp/canary abs; ln -s ../../../../../../tmp/canary up; ln -s /proc/1/root proc; ln -s /proc/self/root self
        ln -s /proc/1/cwd cwd; echo inside >f; ln -s f link; ln -s /w root; ln -s loop loop; ln -s /w/later dangling",
    );
    let out = host.directory("out");
    let at = |name: &str| format!("{}/{name}", out.text());
    let src = host.directory("src");
    let file = src.file("f", "EVIL\n");
    for link in ["abs", "up", "proc", "self", "cwd", "loop"] {
        for path in [format!("web:/w/{link}/f"), format!("web:/w/{link}/tmp/canary/f"), format!("web:/w/{link}/")] {
            host.minirun(["cp", &path, &at("x")]).fails(125);
            if !path.ends_with('/') {
                host.minirun(["cp", &file, &path]).fails(125);
            }
        }
    }
    host.minirun(["cp", &file, "web:/w/../../../../tmp/canary/f"]).fails(125);
    host.minirun(["cp", "web:../../../tmp/canary/f", &at("x")]).fails(125);
    assert_eq!(host.sh("cat /tmp/canary/f; ls -A /tmp/canary").ok(), "HOST\nf\n");
    assert_eq!(host.sh(&format!("ls -A {}", out.text())).ok(), "");
    // As a source a link is copied as one, unless it shall be followed; as a destination it is followed, in the container.
    web.cp(&["web:/w/link", &at("link")]);
    web.cp(&["-L", "web:/w/link", &at("followed")]);
    web.cp(&["web:/w/root/f", &at("by-root")]);
    web.cp(&["web:/w/root/", &at("dir")]);
    assert_eq!(
        host.sh(&format!("cd {}; readlink link dir/abs; cat followed by-root", out.text())).ok(),
        "f\n/tmp/canary\ninside\ninside\n"
    );
    web.cp(&[&file, "web:/w/link"]);
    web.cp(&[&file, "web:/w/dangling"]);
    assert_eq!(web.sees("readlink link; cat f later"), "f\nEVIL\nEVIL\n");
    // The host's links: the caller's destination is followed, nothing below it is.
    host.sh(&format!("cd {}; ln -s /tmp/canary to; mkdir merge; ln -s /tmp/canary merge/sub", out.text())).ok();
    web.cp(&["web:/w/link", &at("to/new")]);
    web.sees("mkdir -p tree/sub; echo EVIL >tree/sub/f");
    web.refused(&["web:/w/tree/.", &at("merge")], "a symbolic link in its place");
    assert_eq!(host.sh("cat /tmp/canary/f").ok(), "HOST\n");
    web.end();
});

host_test!(a_race_of_links_and_directories_wins_nothing, within 180, |host| {
    let canary = host.directory("canary");
    canary.file("f", "HOST\n");
    canary.file("sub/f", "HOST\n");
    let before = host.sh("cd /tmp/canary; stat -c '%n %a %Y %Z %s' . f sub sub/f").ok();
    let web = Web::new(host, "mkdir -p d/sub; echo inside >d/f; echo inside >d/sub/f; ln -s ../../../../../../tmp/canary l");
    let src = host.directory("src");
    src.file("tree/d/sub/f", "copied\n");
    let file = src.file("f", "copied\n");
    let tree = format!("{}/tree/.", src.text());
    let out = host.directory("out");
    let stop = Arc::new(AtomicBool::new(false));
    let attacker = {
        let (stop, w) = (Arc::clone(&stop), std::fs::File::open(format!("{}/w", web.root())).expect("open"));
        std::thread::spawn(move || {
            let mut swaps = 0u64;
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::renameat_with(&w, "d", &w, "l", rustix::fs::RenameFlags::EXCHANGE).expect("exchange");
                swaps += 1;
                if swaps.is_multiple_of(64) {
                    std::thread::yield_now();
                }
            }
            swaps
        })
    };
    let (mut worked, mut failed) = (0, 0);
    let mut count = |output: host::Output| {
        assert!(output.code == 0 || output.code == 125, "{output}");
        if output.code == 0 { worked += 1 } else { failed += 1 }
    };
    for round in 0..60 {
        let to = format!("{}/{round}", out.text());
        count(host.minirun(["cp", "web:/w/d/f", &to]).run());
        count(host.minirun(["cp", "web:/w/d/sub", &format!("{to}-sub")]).run());
        count(host.minirun(["cp", "web:/w/.", &format!("{to}-all")]).run());
        count(host.minirun(["cp", &file, "web:/w/d/f"]).run());
        count(host.minirun(["cp", &tree, "web:/w"]).run());
    }
    stop.store(true, Ordering::Relaxed);
    let swaps = attacker.join().expect("attacker");
    assert!(swaps > 1000 && worked > 0 && failed > 0, "{swaps} swaps, {worked} worked, {failed} failed: no race");
    assert_eq!(host.sh("cd /tmp/canary; stat -c '%n %a %Y %Z %s' . f sub sub/f; ").ok(), before);
    // Not through the links that were copied as such.
    assert_eq!(host.sh(&format!("find {} -type f -exec grep -l HOST {{}} + || true", out.text())).ok(), "");
    web.end();
});

host_test!(nothing_blocks_and_no_device_is_copied, |host| {
    let web =
        Web::new(host, "mkdir d; mkfifo d/pipe; mknod d/disk b 7 0; mknod d/null c 1 3; echo text >d/z; mkfifo top");
    std::os::unix::net::UnixListener::bind(format!("{}/w/d/sock", web.root())).expect("bind");
    let out = host.directory("out");
    let at = |name: &str| format!("{}/{name}", out.text());
    let output = host.minirun(["cp", "web:/w/d", &at("d")]).run();
    assert_eq!(output.code, 0, "{output}");
    assert!(output.stderr.contains("not copied: `d/") && output.stderr.contains("and 2 more"), "{output}");
    assert_eq!(host.sh(&format!("cd {}; stat -c '%n %F' *", at("d"))).ok(), "pipe fifo\nz regular file\n");
    web.cp(&["web:/w/top", &at("top")]);
    web.refused(&["web:/w/d/null", &at("null")], "it is a device");
    let names = host.sh("$MINIRUN cp web:/w/d - | tar -t").ok();
    assert!(names.contains("d/pipe") && !names.contains("null"), "{names}");
    // As a destination none is opened, nor replaced.
    let file = out.file("f", "x");
    web.refused(&[&file, "web:/w/top"], "a device, FIFO or socket in its place");
    web.refused(&[&file, "web:/w/d/disk"], "a device, FIFO or socket in its place");
    web.refused(&["web:/w/d/z", &at("top")], "a device, FIFO or socket in its place");
    // From the host neither.
    host.sh(&format!("cd {}; mkdir src; mkfifo src/pipe; mknod src/null c 1 3; echo t >src/z", out.text())).ok();
    let said = host.minirun(["cp", &at("src"), "web:/w/src"]).run();
    assert!(said.code == 0 && said.stderr.contains("`src/null`, a device"), "{said}");
    assert_eq!(web.sees("cd src; echo *"), "pipe z\n");
    // The kernel's own files.
    web.refused(&["web:/proc/cpuinfo", &at("x")], "file system of the kernel's own, proc");
    web.refused(&["web:/proc/self", &at("x")], "kernel's own");
    web.refused(&["web:/sys", &at("x")], "kernel's own, sysfs");
    web.refused(&[&file, "web:/proc/sys/kernel/domainname"], "kernel's own");
    host.sh(&format!("cd {}; mkdir -p p/proc/sys; echo x >p/proc/sys/x", out.text())).ok();
    web.refused(&[&at("p/."), "web:/"], "kernel's own");
    let said = host.minirun(["cp", "web:/", &at("all")]).run();
    assert!(said.code == 0 && said.stderr.contains("file system of the kernel's own"), "{said}");
    assert_eq!(host.sh(&format!("cd {}; ls -A proc sys; test -f bin/busybox", at("all"))).ok(), "proc:\n\nsys:\n");
    web.end();
});

host_test!(owners_modes_and_times, |host| {
    let set =
        "chmod 4755 own; chmod 6755 other; chown 1000:1000 other; chmod 6755 other; chmod 640 plain; chown 5:6 plain";
    let web = Web::new(
        host,
        &format!(
            "mkdir d; cd d; echo >own; echo >other; echo >plain; ln -s x link; chown -h 5:6 link; {set}
            touch -d '2001-02-03 04:05:06' plain own; mkdir sub; chmod 1751 sub; chown 5:6 sub; touch -d '2001-02-03 04:05:06' sub; cd .."
        ),
    );
    let out = host.directory("out");
    let at = |name: &str| format!("{}/{name}", out.text());
    let stat = "stat -c '%n %a %u:%g %Y' own plain sub | sed s/981173106/then/; stat -c '%n %a %u:%g' other; stat -c '%n %u:%g' link";
    web.cp(&["web:/w/d", &at("d")]);
    assert_eq!(
        host.sh(&format!("umask 077; cd {}; {stat}", at("d"))).ok(),
        "own 755 0:0 then\nplain 640 0:0 then\nsub 1751 0:0 then\nother 755 0:0\nlink 0:0\n"
    );
    web.cp(&["-a", "web:/w/d", &at("a")]);
    assert_eq!(
        host.sh(&format!("cd {}; {stat}", at("a"))).ok(),
        "own 4755 0:0 then\nplain 640 5:6 then\nsub 1751 5:6 then\nother 755 1000:1000\nlink 5:6\n"
    );
    // Into the container: root's; a set-ID bit that was another one's is not root's.
    host.sh(&format!("cd {}; chmod 6755 other", at("a"))).ok();
    web.cp(&[&at("a"), "web:/w/in"]);
    assert_eq!(
        web.sees(&format!("cd in; {stat}")),
        "own 4755 0:0 then\nplain 640 0:0 then\nsub 1751 0:0 then\nother 755 0:0\nlink 0:0\n"
    );
    web.cp(&["--archive", &at("a"), "web:/w/in-a"]);
    assert_eq!(
        web.sees(&format!("cd in-a; {stat}")),
        "own 4755 0:0 then\nplain 640 5:6 then\nsub 1751 5:6 then\nother 6755 1000:1000\nlink 5:6\n"
    );
    // A directory that was there keeps its mode.
    host.sh(&format!("cd {}; mkdir -p t/tmp; chmod 700 t/tmp; echo x >t/tmp/x", out.text())).ok();
    web.cp(&[&at("t/."), "web:/"]);
    assert_eq!(web.sees("stat -c %a ../tmp; cat ../tmp/x"), "1777\nx\n");
    web.end();
});

host_test!(whatever_a_file_is_its_copy_is_the_same, within 120, |host| {
    let web = Web::new(
        host,
        r#"mkdir -p d/empty; cd d; : >zero; dd if=/dev/urandom of=big bs=1M count=9 2>/dev/null; ln big hard; ln big empty/../hard2
        dd if=/dev/zero of=sparse bs=1 count=1 seek=3G 2>/dev/null; truncate -s 4G sparse; echo x >"$(printf 'a\nb')"; echo y >"$(printf '\377\376')"
        echo z >$(printf '%0255d' 0); echo w >'-'; echo v >' '; cd .."#,
    );
    let src = host.directory("deep");
    let out = host.directory("out");
    let at = |name: &str| format!("{}/{name}", out.text());
    let sums = "find . -type f ! -name sparse -exec sha256sum {} + | sort; stat -c '%s %h' sparse zero big; find . -type d";
    let inside = web.sees(&format!("cd d; {sums}"));
    web.cp(&["web:/w/d", &at("d")]);
    assert_eq!(host.sh(&format!("cd {}; {sums}", at("d"))).ok(), inside);
    let used = host.sh(&format!("cd {}; stat -c %b sparse", at("d"))).ok();
    assert!(used.trim().parse::<u64>().expect("blocks") < 1000, "the holes stay: {used}");
    web.cp(&[&at("d"), "web:/w/back"]);
    assert_eq!(web.sees(&format!("cd back; {sums}")), inside);
    assert!(web.sees("stat -c %b back/sparse").trim().parse::<u64>().expect("blocks") < 1000);
    // Deeper than a path can be long, and than there are descriptors.
    let mut dir = std::fs::File::open(src.path()).expect("open");
    for _ in 0..1500 {
        rustix::fs::mkdirat(&dir, "a-directory", rustix::fs::Mode::RWXU).expect("mkdir");
        dir = rustix::fs::openat(&dir, "a-directory", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).expect("open").into();
    }
    rustix::fs::openat(&dir, "bottom", rustix::fs::OFlags::CREATE, rustix::fs::Mode::RUSR).expect("create");
    host.sh(&format!("ulimit -n 100; $MINIRUN cp {} web:/w/deep; $MINIRUN cp web:/w/deep {}", src.text(), at("deep"))).ok();
    let depth = "find . -name bottom -printf '%d\n'";
    assert_eq!(host.sh(&format!("cd {}; {depth}", at("deep"))).ok(), "1501\n");
    assert_eq!(host.sh("$MINIRUN cp web:/w/deep - | tar -t | grep -c bottom").ok(), "1\n");
    // Extended attributes of users.
    if host.sh(&format!("cd {}; command -v setfattr && setfattr -n user.a -v b zero", at("d"))).run().code == 0 {
        web.cp(&[&at("d/zero"), "web:/w/attr"]);
        web.cp(&["web:/w/attr", &at("attr")]);
        assert!(host.sh(&format!("getfattr -n user.a {}", at("attr"))).ok().contains("user.a=\"b\""));
    }
    drop(dir);
    host.sh(&format!("rm -rf {} {}", src.text(), at("deep"))).ok();
    web.end();
});

host_test!(volumes_are_copied_as_the_container_sees_them, |host| {
    let data = host.directory("data");
    data.file("f", "volume\n");
    let one = data.file("one", "one\n");
    let (rw, ro) = (format!("{}:/data", data.text()), format!("{}:/ro:ro", data.text()));
    let single = format!("{one}:/w2/one");
    let web = Web::with(host, &["-v", &rw, "-v", &ro, "-v", &single, "--tmpfs", "/mem:size=1m"], "echo mem >/mem/f");
    let out = host.directory("out");
    let at = |name: &str| format!("{}/{name}", out.text());
    let file = out.file("f", "new\n");
    for (path, text) in [("/data/f", "volume\n"), ("/ro/f", "volume\n"), ("/mem/f", "mem\n"), ("/w2/one", "one\n")] {
        web.cp(&[&format!("web:{path}"), &at("x")]);
        assert_eq!(host.sh(&format!("cat {}", at("x"))).ok(), text);
    }
    web.refused(&[&file, "web:/ro/g"], "Read-only file system");
    web.refused(&[&file, "web:/ro/f"], "Read-only file system");
    web.cp(&[&file, "web:/data/g"]);
    // A file that is a mount is written to: it stays what the host mounted there.
    web.cp(&[&file, "web:/w2/one"]);
    assert_eq!(host.sh(&format!("cat {}/g {one}", data.text())).ok(), "new\nnew\n");
    // A directory cannot go into itself by a volume.
    web.refused(&[data.text(), "web:/data"], "cannot be copied into itself");
    data.file("sub/f", "");
    web.refused(&[data.text(), "web:/data/sub"], "cannot be copied into itself");
    web.end();
});

host_test!(a_full_disk_leaves_nothing_half, |host| {
    let web = Web::with(
        host,
        &["--tmpfs", "/mem:size=1m"],
        "dd if=/dev/zero of=big bs=1M count=4 2>/dev/null; mkdir d; mv big d; echo a >d/a",
    );
    let out = host.directory("out");
    host.sh(&format!(
        "cd {0}; mkdir small; busybox mount -t tmpfs -o size=1m t small; echo old >small/big",
        out.text()
    ))
    .ok();
    let small = format!("{}/small", out.text());
    web.refused(&["web:/w/d/.", &small], "`big`: write its content: No space left on device");
    assert_eq!(host.sh(&format!("cd {small}; ls -A | grep -v '^a$'; cat big")).ok(), "big\nold\n");
    web.cp(&["web:/w/d/big", out.text()]);
    web.refused(&[&format!("{}/big", out.text()), "web:/mem/x"], "No space left on device");
    let said = host.sh(&format!("cd {}; tar -c big | $MINIRUN cp - web:/mem", out.text())).fails(125);
    assert!(said.contains("extract `big`: write its content: No space left"), "{said}");
    assert_eq!(web.sees("ls -A ../mem"), "");
    host.sh(&format!("busybox umount {small}")).ok();
    web.end();
});

host_test!(an_interrupt_leaves_no_file, |host| {
    let web = Web::with(host, &["--tmpfs", "/mem:size=1m"], "echo old >big");
    let out = host.directory("out");
    // So much as a pipe holds, and it stays open.
    let script = format!(
        "cd {}; head -c 1000000 /dev/zero >big; tar -cf t big; mkfifo p; exec 3<>p; head -c 30000 t >&3
        exec $MINIRUN cp - web:/w <&3",
        out.text()
    );
    let mut copy = host.sh(&script).start();
    let files = format!("ls -l /proc/{}/fd", copy.pid());
    host.soon("it has begun to write", || host.sh(&files).run().stdout.contains("(deleted)"));
    copy.signal(Signal::SIGINT);
    host.soon("it ends", || copy.has_ended());
    assert_eq!(copy.wait().code, 130);
    assert_eq!(web.sees("ls -A; cat big"), "big\nold\n");
    // Where the file system knows no files without a name.
    let file = out.file("f", "text\n");
    let number = host.sh(&format!(
        "strace -qq -e trace=openat -o {0}/trace $MINIRUN cp {file} web:/w/a; grep -n TMPFILE {0}/trace | cut -d: -f1",
        out.text()
    ));
    let number = number.ok();
    let tampering = format!("inject=openat:error=EOPNOTSUPP:when={}", number.trim());
    for name in ["b", "a"] {
        host.sh(&format!("strace -qq -e {tampering} -o {}/trace $MINIRUN cp {file} web:/w/{name}", out.text())).ok();
        let trace = host.sh(&format!("cat {}/trace", out.text())).ok();
        assert!(trace.contains("INJECTED") && trace.contains(".minirun-"), "{trace}");
    }
    host.sh(&format!(
        "cd {0}; head -c 4000000 /dev/zero >f; ! strace -qq -e {tampering} -o trace $MINIRUN cp {file} web:/mem/a",
        out.text()
    ))
    .ok();
    assert_eq!(web.sees("ls -A ../mem"), "");
    assert_eq!(web.sees("ls -A; cat a b"), "a\nb\nbig\ntext\ntext\n");
    web.end();
});
