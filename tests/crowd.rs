//! Many detached containers at once, and a real server under load.

mod host;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use host::{Directory, Host, host_test, is_alive};

const CROWD: usize = 200;

/// The resident memory of a process, in KiB.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

host_test!(two_hundred_at_once, within 300, |host| {
    host.has_run_detached();
    let begun = Instant::now();
    let script = format!(
        "i=0; while [ $i -lt {CROWD} ]; do i=$((i + 1)); \
         $MINIRUN run -d --name crowd-$i -l number=$i busybox sh -c 'echo $(hostname) >/tmp/index.html; exec httpd -f -h /tmp'; done"
    );
    let ids: BTreeSet<_> = host.sh(&script).ok().lines().map(str::to_owned).collect();
    assert_eq!(ids.len(), CROWD);
    println!("{CROWD} started within {:?}", begun.elapsed());

    let asked = Instant::now();
    let listed = host.minirun(["ps", "-q"]).ok();
    println!("ps -q of {CROWD}: {:?}", asked.elapsed());
    assert_eq!(listed.lines().map(str::to_owned).collect::<BTreeSet<_>>(), ids);
    let asked = Instant::now();
    let text = host.minirun(["ps", "--format", "{{.Name}} {{.Address}}"]).ok();
    println!("ps of {CROWD}: {:?}", asked.elapsed());
    let addresses: BTreeSet<_> = text.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(addresses.len(), CROWD, "one each");
    assert_eq!(host.minirun(["ps", "-q", "-f", "label=number=77"]).ok().lines().count(), 1);

    // Each answers by its name, to the host and to a sibling.
    let ask = |shell: &str| {
        format!(
            "while read -r name address; do n=0; \
             until [ \"$({shell}wget -qO- http://$address/)\" = $name ]; do n=$((n + 1)); [ $n -lt 50 ] || exit 1; sleep 0.1; done; \
             done; echo all"
        )
    };
    assert_eq!(host.sh(&ask("busybox ")).stdin(text.clone()).ok(), "all\n");
    assert_eq!(host.minirun(["run", "-i", "busybox", "sh", "-c", &ask("")]).stdin(text.clone()).ok(), "all\n");

    let holders = host.miniruns();
    assert_eq!(holders.len(), CROWD);
    let mut sizes: Vec<u64> = holders.iter().map(|pid| memory(*pid)).collect();
    sizes.sort_unstable();
    println!("a holder has {} to {} KiB, {} in the middle", sizes[0], sizes[CROWD - 1], sizes[CROWD / 2]);
    // The figure is the release binary's: the other one has several times as much code.
    if std::env::var_os("MINIRUN_BINARY").is_some() {
        assert!(sizes[CROWD - 1] < 4096, "{} KiB", sizes[CROWD - 1]);
    }

    let asked = Instant::now();
    host.sh("exec $MINIRUN stop $($MINIRUN ps -q) >/dev/null").ok();
    println!("stop of {CROWD}: {:?}", asked.elapsed());
    assert_eq!(host.minirun(["ps", "-q"]).ok(), "");
    assert_eq!(host.minirun(["ps", "-aq", "-f", "exited=143"]).ok().lines().count(), CROWD);
    host.sh("exec $MINIRUN rm $($MINIRUN ps -aq) >/dev/null").ok();
    host.soon("their links go", || !host.sh("ip -o link").ok().contains(": mr"));
});

/// nginx and what it needs, as a root file system made of this distribution's own files; `None` where it is not there.
fn nginx(host: &Host) -> Option<Directory> {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/nginx/usr/sbin/nginx");
    let program = [unpacked, PathBuf::from("/usr/sbin/nginx")].into_iter().find(|path| path.exists())?;
    let tree = host.directory("nginx");
    let script = format!(
        "cd {}; mkdir -p bin usr/sbin etc tmp run var/log/nginx var/lib/nginx srv; cp {} usr/sbin/nginx; \
         cp /bin/busybox bin/busybox; ln -s busybox bin/sh; \
         ldd usr/sbin/nginx | grep -o '/[^ ]*' | while read -r file; do mkdir -p .$(dirname $file); cp -L $file .$file; done; \
         mkdir -p var/lib/nginx/body; \
         echo 'root:x:0:0::/:/bin/sh' >etc/passwd; echo 'www-data:x:33:33::/:/bin/sh' >>etc/passwd; \
         printf 'root:x:0:\\nwww-data:x:33:\\n' >etc/group; \
         head -c 20000 /dev/zero | tr '\\0' x >srv/index.html",
        tree.text(),
        program.display()
    );
    host.sh(&script).ok();
    tree.file(
        "etc/nginx.conf",
        "daemon off; user www-data; worker_processes 2; pid /run/nginx.pid; error_log stderr notice;\n\
         events { worker_connections 256; }\n\
         http { access_log /dev/stdout combined; client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy;\n\
         fastcgi_temp_path /tmp/fastcgi; uwsgi_temp_path /tmp/uwsgi; scgi_temp_path /tmp/scgi;\n\
         server { listen 80; root /srv; } }\n",
    );
    Some(tree)
}

host_test!(a_web_server_under_load, within 180, |host| {
    host.has_run_detached();
    let Some(tree) = nginx(host) else {
        assert!(std::env::var_os("MINIRUN_MUST_WORK").is_none_or(|value| value != "1"), "nginx is not there: scripts/setup");
        return println!("skipped: nginx is not there");
    };
    let options = ["run", "-d", "--name", "web", "--stop-signal", "QUIT", "--rootfs", tree.text()];
    host.minirun([&options[..], &["/usr/sbin/nginx", "-c", "/etc/nginx.conf"]].concat()).ok();
    let address = host.inspect("web", ".NetworkSettings.IPAddress");
    host.soon("it answers", || host.sh(&format!("busybox wget -qO /dev/null http://{address}/")).run().code == 0);
    // It is logged after it was answered.
    let count = || host.logs("web").matches("\"GET / HTTP").count();
    host.soon("the first request is logged", || count() > 0);
    let before = count();
    let begun = Instant::now();
    // Four at a time, from a sibling; the last word counts those that failed.
    let load = format!(
        "for k in 1 2 3 4; do (n=0; while [ $n -lt 250 ]; do n=$((n + 1)); \
         [ $(wget -qO- http://{address}/ | wc -c) = 20000 ] || echo failed; done) & done; wait; echo done"
    );
    assert_eq!(host.minirun(["run", "busybox", "sh", "-c", &load]).ok(), "done\n");
    println!("1000 requests within {:?}", begun.elapsed());
    let stats = host.minirun(["stats", "--no-stream", "--format", "json", "web"]).ok();
    let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
    assert!(stats[0]["interfaces"]["eth0"]["sent_bytes"].as_u64() > Some(20_000_000), "{stats}");
    assert!(host.minirun(["top", "web"]).ok().matches("nginx: worker").count() == 2);
    // A new log is begun by a signal, as its manual says; then the end that it likes.
    host.minirun(["kill", "-s", "USR1", "web"]).ok();
    let pid = host.pid_of("web");
    host.minirun(["stop", "web"]).ok();
    assert_eq!(host.inspect("web", ".State.ExitCode"), "0");
    assert!(!is_alive(pid));
    let output = host.minirun(["logs", "web"]).run();
    assert_eq!(output.stdout.matches("\"GET / HTTP").count(), before + 1000, "{}", output.stderr);
    assert!(output.stdout.lines().all(|line| line.contains("GET / HTTP") && line.ends_with('"')), "whole lines");
    assert!(output.stderr.contains("gracefully shutting down") || output.stderr.contains("exit"), "{}", output.stderr);
    host.minirun(["restart", "web"]).ok();
    host.soon("it answers again", || {
        let address = host.inspect("web", ".NetworkSettings.IPAddress");
        host.sh(&format!("busybox wget -qO /dev/null http://{address}/")).run().code == 0
    });
    host.minirun(["rm", "-f", "web"]).ok();
});
