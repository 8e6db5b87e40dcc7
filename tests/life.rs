//! Detached containers: their start, what is listed and told of them, and what of the caller they do not keep.

mod host;

use host::{ALONE, Host, host_test, is_alive, open_files};

/// What a failed `run` leaves: no container of any kind.
fn no_container(host: &Host) {
    assert_eq!(host.minirun(["ps", "-aq"]).ok(), "");
}

host_test!(run_d_returns_when_the_program_runs, |host| {
    host.has_run_detached();
    let id = host.detached(&["--name", "web"], &["sleep", "1000"]);
    assert!(id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    // At once: nobody waits here for anything.
    let pid = host.pid_of(&id);
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("a process");
    assert_eq!(command, "sleep\x001000\0");
    assert_eq!(host.status("web"), "running");
    let listing = host.minirun(["ps"]).ok();
    assert!(listing.contains(&id) && listing.contains("web") && listing.contains("up "), "{listing}");
    // It talks to its network, which is why it is on the bridge here.
    let address = host.inspect("web", ".NetworkSettings.IPAddress");
    host.sh(&format!("busybox ping -c 1 -W 2 {address}")).ok();
    host.minirun(["stop", "web"]).ok();
    assert_eq!(host.status("web"), "exited");
    assert!(!is_alive(pid));
    host.minirun(["rm", "web"]).ok();
});

host_test!(a_start_that_fails_leaves_nothing, |host| {
    host.has_run_detached();
    let none = host.directory("none");
    let pidfile = none.path().join("missing/pid").display().to_string();
    let cidfile = none.path().join("cid").display().to_string();
    for (code, words) in [
        (127, &["busybox", "/nosuch"][..]),
        (127, &["busybox", "nosuch"]),
        (126, &["busybox", "/etc"]),
        (126, &["busybox", "/etc/passwd"]),
        (125, &["nosuch", "true"]),
        (125, &["--net=nowhere", "busybox", "true"]),
        (125, &["--name", "../../x", "busybox", "true"]),
        (125, &["-w", "/etc/passwd", "busybox", "true"]),
        (125, &["-v", "/nosuch:/x", "busybox", "true"]),
        (125, &["-u", "nobody-at-all", "busybox", "true"]),
        (125, &["--stop-signal", "NONE", "busybox", "true"]),
        (125, &["--stop-timeout", "-1", "busybox", "true"]),
        (125, &["--log-opt", "max-size=x", "busybox", "true"]),
        (125, &["--label", "=x", "busybox", "true"]),
        (125, &["--cidfile", &cidfile, "--pidfile", &pidfile, "busybox", "true"]),
    ] {
        for kind in [&["-d"][..], &["-d", "-i"], &["-d", "-t"], &["-d", "--rm"]] {
            let output = host.minirun([&["run", "--net=none"], kind, words].concat()).run();
            assert_eq!(output.code, code, "{output}");
            assert!(output.stdout.is_empty() && output.stderr.starts_with("minirun: "), "{output}");
            no_container(host);
        }
        host.nothing_left_but(&[none.text()]);
    }
    assert!(!none.path().join("cid").exists(), "an ID of nothing");
    // And what failed holds no name.
    host.minirun(["run", "-d", "--name", "taken", "--net=none", "busybox", "/nosuch"]).fails(127);
    host.detached(&["--net=none", "--name", "taken"], &["sleep", "1000"]);
    let said = host.minirun(["run", "-d", "--name", "taken", "--net=none", "busybox", "true"]).fails(125);
    assert!(said.contains("reserve name `taken`: in use"), "{said}");
    assert_eq!(host.status("taken"), "running");
    host.remove_all();
});

host_test!(what_a_run_notes_down, |host| {
    host.has_run_detached();
    let place = host.directory("ids");
    let (cid, pid) = (place.path().join("cid"), place.path().join("pid"));
    let (cid, pid) = (cid.to_str().expect("ASCII"), pid.to_str().expect("ASCII"));
    // More than any process id has.
    host.write(pid, "12345678901234567890");
    let files = ["--net=none", "--cidfile", cid, "--pidfile", pid, "--label", "tier=a", "-l", "empty", "-l", "a=b=c"];
    let id = host.detached(&files, &["sleep", "1000"]);
    assert_eq!(std::fs::read_to_string(cid).expect("cidfile"), id);
    assert_eq!(std::fs::read_to_string(pid).expect("pidfile"), host.pid_of(&id).to_string());
    assert_eq!(host.inspect(&id, "json .Config.Labels"), r#"{"a":"b=c","empty":"","tier":"a"}"#);
    // Two containers do not share a file.
    let said = host.minirun(["run", "-d", "--cidfile", cid, "busybox", "true"]).fails(125);
    assert!(said.contains("it is there already"), "{said}");
    host.minirun(["rm", "-f", &id]).ok();
    // What is not detached writes them too.
    host.sh(&format!("rm {cid}")).ok();
    let own = host.minirun(["run", "--net=none", "--cidfile", cid, "busybox", "true"]);
    own.ok();
    assert_eq!(std::fs::read_to_string(cid).expect("cidfile").len(), 12);
});

host_test!(rm_goes_by_itself, |host| {
    host.has_run_detached();
    let id = host.detached(&["--rm", "--net=none"], &["sh", "-c", "echo something; sleep 1000"]);
    host.logs_hold(&id, "something");
    host.minirun(["kill", &id]).ok();
    no_container(host);
    host.nothing_left();
    // Without it, it is kept with its exit code and its log.
    let id = host.detached(&ALONE, &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(host.minirun(["wait", &id]).ok(), "7\n");
    assert_eq!(host.logs(&id), "out\n");
    assert_eq!(host.minirun(["logs", &id]).run().stderr, "err\n");
    assert_eq!(host.inspect(&id, ".State.ExitCode"), "7");
    assert_eq!(host.minirun(["ps", "-q"]).ok(), "");
    assert_eq!(host.minirun(["ps", "-aq"]).ok(), format!("{id}\n"));
    host.minirun(["rm", &id]).ok();
});

host_test!(the_caller_keeps_what_is_its_own, |host| {
    host.has_run_detached();
    let place = host.directory("caller");
    // Each of these ends only if nobody else holds the caller's pipes.
    let run = "$MINIRUN run -d --net=none";
    host.sh(&format!("id=$({run} busybox sleep 1000); test ${{#id}} = 12")).ok();
    host.sh(&format!("{run} busybox sleep 1000 | cat")).ok();
    host.sh(&format!("{run} busybox sleep 1000 2>&1 | cat")).ok();
    host.sh(&format!("{run} -i busybox sleep 1000 </dev/zero | cat")).ok();
    host.sh(&format!("true | {run} -t busybox sleep 1000 | cat")).ok();
    let script = format!("cd {0}; exec 3>three 8<. 9>nine; {run} --name files -i busybox sleep 1000", place.text());
    host.sh(&script).ok();
    let holders = host.miniruns();
    assert_eq!(holders.len(), 6, "one each");
    for holder in holders {
        for (number, target) in open_files(holder) {
            assert!(!target.starts_with(place.path()), "{number} is {}", target.display());
            assert!(number > 2 || target.ends_with("/dev/null"), "{number} is {}", target.display());
        }
        assert_eq!(std::fs::read_link(format!("/proc/{holder}/cwd")).expect("cwd").to_str(), Some("/"));
        let stat = std::fs::read_to_string(format!("/proc/{holder}/stat")).expect("stat");
        let session = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(3)).map(str::to_owned);
        assert_eq!(session, Some(holder.to_string()), "a session of its own");
    }
    // Nor does the program have more than its three.
    let files = open_files(host.pid_of("files"));
    assert_eq!(files.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [0, 1, 2], "{files:?}");
    host.remove_all();
});

host_test!(secrets_of_a_command_line_are_not_shown, |host| {
    host.has_run_detached();
    let secret = "hunter2-is-secret";
    let run = |kind: &str, name: &str| {
        let script = format!(
            "exec $MINIRUN run {kind} --net=none --name {name} -e TYPED={secret} -e INHERITED busybox sleep 1000"
        );
        host.sh(&script).env("INHERITED", secret)
    };
    run("-d", "one").ok();
    let foreground = run("", "two").start();
    host.soon("it runs", || {
        host.minirun(["ps", "-q", "--filter", "name=two", "--filter", "status=running"]).ok() != ""
    });
    let exec =
        ["exec", "-e", &format!("TYPED={secret}"), "-e", "INHERITED", "one", "sh", "-c", "echo ready; sleep 1000"];
    let mut exec = host.minirun(exec).env("INHERITED", secret).start();
    exec.says("ready");
    assert_eq!(host.minirun(["exec", "one", "sh", "-c", "echo $TYPED$INHERITED"]).ok(), format!("{secret}{secret}\n"));
    let miniruns = host.miniruns();
    assert!(miniruns.len() >= 3, "{miniruns:?}");
    for pid in miniruns {
        for file in ["cmdline", "environ"] {
            let text = String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/{file}")).expect(file)).into_owned();
            assert!(!text.contains(secret), "{file} of {pid}: {text}");
        }
    }
    // Nor can anybody but root read where it is kept.
    let kept = host.sh(&format!("grep -rl {secret} /run/minirun")).ok();
    for file in kept.lines() {
        let mode = host.sh(&format!("stat -c %a {file}")).ok();
        assert_eq!(mode, "600\n", "{file}");
    }
    host.minirun(["stop", "-t", "1", "one", "two"]).ok();
    assert_eq!(exec.wait().code, 137);
    foreground.wait();
    host.remove_all();
});

host_test!(the_list_is_filtered_and_formed, |host| {
    host.has_run_detached();
    let web = host.detached(&["--net=none", "--name", "web", "-l", "tier=a"], &["sleep", "1000"]);
    // By age, in seconds.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let job = host.detached(&["--net=none", "--name", "job", "-l", "tier=b"], &["sh", "-c", "exit 3"]);
    host.minirun(["wait", "job"]).ok();
    let ps = |words: &[&str]| host.minirun([&["ps"], words].concat()).ok();
    assert_eq!(ps(&["-q"]), format!("{web}\n"));
    assert_eq!(ps(&["-aq"]), format!("{web}\n{job}\n"));
    assert_eq!(ps(&["-q", "--filter", "status=exited"]), format!("{job}\n"));
    assert_eq!(ps(&["-q", "--filter", "exited=3"]), format!("{job}\n"));
    assert_eq!(ps(&["-aq", "--filter", "exited=4"]), "");
    assert_eq!(ps(&["-aq", "-f", "label=tier=b"]), format!("{job}\n"));
    assert_eq!(ps(&["-aq", "-f", "label=tier", "-f", "name=we"]), format!("{web}\n"));
    assert_eq!(ps(&["-a", "--format", "{{.Names}}={{.State}}"]), "web=running\njob=exited\n");
    assert_eq!(ps(&["-a", "-f", "id=nothing", "--format", "json"]).trim(), "[]");
    let json: serde_json::Value = serde_json::from_str(&ps(&["-a", "--format", "json"])).expect("JSON");
    assert_eq!((json[0]["name"].as_str(), json[1]["exit_code"].as_u64()), (Some("web"), Some(3)));
    assert!(json[1]["pid"].is_null() && json[0]["pid"].as_u64() == Some(host.pid_of("web").into()), "{json}");
    for wrong in [&["--filter", "colour=red"][..], &["--filter", "status=gone"], &["--format", "x"], &["more"]] {
        host.minirun([&["ps"], wrong].concat()).fails(125);
    }
    host.remove_all();
});

host_test!(containers_are_found_by_what_names_one, within 120, |host| {
    host.has_run_detached();
    let id = host.detached(&["--net=none", "--name", "web"], &["sleep", "1000"]);
    for word in [&id[..], &id[..6], "web"] {
        assert_eq!(host.inspect(word, ".Id"), id, "{word}");
    }
    let wrong = ["", "nosuch", "we", "webb", "../web", "../names/web", "/web", "web/", ".", "..", "-x", "*", "web\n", "\u{1b}[31m"];
    for word in wrong {
        for verb in ["inspect", "logs", "stop", "kill", "wait", "rm", "restart", "attach", "top", "pause", "unpause"] {
            let output = host.minirun([verb, "--", word]).run();
            assert_eq!(output.code, 125, "{output}");
            assert!(!output.stderr.contains('\u{1b}') && output.stderr.lines().count() <= 2, "{output}");
        }
        host.minirun(["exec", word, "true"]).fails(125);
        host.minirun(["rename", "--", word, "other"]).fails(125);
        host.minirun(["stats", "--no-stream", "--", word]).fails(125);
    }
    assert_eq!(host.status("web"), "running");
    // A beginning that two have names nobody: of 17 containers two begin alike.
    let mut ids = vec![id];
    ids.extend((0..16).map(|_| host.detached(&ALONE, &["true"])));
    ids.iter().skip(1).for_each(|id| drop(host.minirun(["wait", id]).ok()));
    let shared = |first: &str| ids.iter().filter(|id| id.starts_with(first)).count() > 1;
    let first = ids.iter().map(|id| &id[..1]).find(|first| shared(first)).expect("17 IDs, 16 digits");
    let said = host.minirun(["inspect", first]).fails(125);
    assert!(said.contains("begin so"), "{said}");
    host.remove_all();
});

host_test!(what_is_told_of_a_container, |host| {
    host.has_run_detached();
    let id = host
        .detached_shell(&["--name", "web", "--stop-signal", "QUIT", "-w", "/tmp"], "cat /dev/zero >/dev/null; true");
    let all: serde_json::Value = serde_json::from_str(&host.minirun(["inspect", "web"]).ok()).expect("JSON");
    assert_eq!((all[0]["id"].as_str(), all[0]["state"]["running"].as_bool()), (Some(&id[..]), Some(true)));
    assert_eq!(host.inspect("web", ".Config.StopSignal"), "3");
    assert_eq!(host.inspect("web", ".Config.WorkingDir"), "/tmp");
    let said = host.minirun(["inspect", "--format", "{{.State.Nothing}}", "web"]).fails(125);
    assert!(said.contains("Nothing"), "{said}");
    // Its processes, by its own numbers and the host's.
    let top = host.minirun(["top", "--format", "{{.Pid}} {{.HostPid}} {{.Command}}", "web"]).ok();
    let init = host.pid_of("web");
    assert!(top.starts_with(&format!("1 {init} sh -c ")) && top.contains(" cat /dev/zero\n"), "{top}");
    // What it uses: a busy loop, and what goes through its interface.
    let stats = || {
        let text = host.minirun(["stats", "--no-stream", "--format", "json", "web"]).ok();
        serde_json::from_str::<serde_json::Value>(&text).expect("JSON")[0].clone()
    };
    let before = stats();
    assert!(before["cpu_seconds"].as_f64() > Some(0.0) && before["memory_bytes"].as_u64() > Some(10_000), "{before}");
    assert_eq!(before["pids"].as_u64(), Some(2), "{before}");
    host.soon("it is busy", || stats()["cpu_percent"].as_f64() > Some(1.0));
    let address = host.inspect("web", ".NetworkSettings.IPAddress");
    host.sh(&format!("busybox ping -c 3 -i 0.2 -s 1000 {address}")).ok();
    let after = stats();
    for counter in ["received_bytes", "sent_bytes"] {
        let of = |stats: &serde_json::Value| stats["interfaces"]["eth0"][counter].as_u64().expect("a number");
        assert!(of(&after) >= of(&before) + 3000, "{counter}: {before} {after}");
    }
    host.minirun(["kill", "web"]).ok();
    host.minirun(["top", "web"]).fails(125);
    host.minirun(["stats", "--no-stream", "web"]).fails(125);
    assert_eq!(host.inspect("web", ".State.Pid"), "");
    host.remove_all();
});
