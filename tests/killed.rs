//! What holds containers dies, whenever: the list tells the truth, the next command sweeps, and only what is kept is left.

mod host;

use host::{ALONE, Host, Terminal, host_test, is_alive, kill_hard};

/// As `ps -a` lists them: name and status.
fn listed(host: &Host) -> String {
    host.minirun(["ps", "-a", "--format", "{{.Names}} {{.State}}"]).ok()
}

host_test!(the_holder_is_killed, |host| {
    host.has_run_detached();
    for options in
        [&["--net=bridge"][..], &["--net=none"], &["--net=host"], &["--net=none", "-m", "64m"], &["--net=none", "-t"]]
    {
        let options = [&["--name", "web"], options].concat();
        host.detached_shell(&options, "sleep 1000");
        let (pid, holder) = (host.pid_of("web"), host.holder_of("web"));
        kill_hard(holder);
        host.soon("the container dies with it", || !is_alive(pid));
        assert_eq!(host.minirun(["ps", "-q"]).ok(), "");
        assert_eq!(listed(host), "web dead\n");
        assert!(host.logs("web").starts_with("ready"));
        let said = host.minirun(["wait", "web"]).fails(125);
        assert!(said.contains("its exit code is lost"), "{said}");
        host.minirun(["stop", "web"]).ok();
        // It can be run again, under its own name.
        host.minirun(["restart", "web"]).ok();
        assert_eq!(host.status("web"), "running");
        kill_hard(host.holder_of("web"));
        host.minirun(["rm", "-f", "web"]).ok();
        host.nothing_left();
        // One that goes with its end goes with the next command.
        host.detached_shell(&[&["--rm"], &options[..]].concat(), "sleep 1000");
        kill_hard(host.holder_of("web"));
        assert_eq!(listed(host), "");
        host.nothing_left();
    }
});

host_test!(the_first_process_is_killed, |host| {
    host.has_run_detached();
    host.detached_shell(&["--name", "web"], "sleep 1000");
    kill_hard(host.pid_of("web"));
    assert_eq!(host.minirun(["wait", "web"]).ok(), "137\n");
    assert_eq!(listed(host), "web exited\n");
    host.minirun(["rm", "web"]).ok();
    // Both, in either order; and while somebody waits and somebody is attached.
    for first in [true, false] {
        host.detached_shell(&["--name", "web", "-it"], "sleep 1000");
        let waiting = host.minirun(["wait", "web"]).start();
        let mut attached = Terminal::start(&host::binary(), &["attach", "web"], 33, 101);
        host.soon("it is attached", || !attached.is_cooked());
        let (pid, holder) = (host.pid_of("web"), host.holder_of("web"));
        let order = if first { [holder, pid] } else { [pid, holder] };
        order.into_iter().for_each(kill_hard);
        let code = waiting.wait().code;
        // The holder may have been quicker than its end.
        assert!(code == 125 || code == 0, "{code}");
        let code = attached.wait();
        assert!(code == 125 || code == 137, "{code}: {}", attached.screen());
        assert!(attached.is_cooked());
        let listed = listed(host);
        assert!(listed == "web dead\n" || listed == "web exited\n", "{listed}");
        host.remove_all();
        host.nothing_left();
    }
});

host_test!(the_holder_of_a_paused_container_is_killed, |host| {
    host.has_run_detached();
    for options in [&["--net=none", "--name", "web"][..], &["--net=none", "-m", "64m", "--name", "web"]] {
        host.detached_shell(options, "sleep 1000");
        let pid = host.pid_of("web");
        host.minirun(["pause", "web"]).ok();
        kill_hard(host.holder_of("web"));
        assert_eq!(listed(host), "web dead\n");
        host.soon("what stood still has ended", || !is_alive(pid));
        host.minirun(["rm", "web"]).ok();
        host.nothing_left();
    }
});

host_test!(the_holder_of_one_that_was_left_is_killed, |host| {
    host.has_run_detached();
    let mut terminal =
        Terminal::start(&host::binary(), &["run", "-it", "--net=none", "--name", "box", "busybox", "sh"], 33, 101);
    terminal.shows("# ");
    let holder = host.holder_of("box");
    kill_hard(holder);
    assert_eq!(terminal.wait(), 125, "{}", terminal.screen());
    assert!(listed(host).is_empty() || terminal.is_cooked(), "{}", listed(host));
    host.remove_all();
});

/// After whatever happened to a `run -d`: no more than what is to be listed, and that can be removed.
fn swept(host: &Host) {
    let listed = listed(host);
    let known = |line: &str| ["exited", "dead", "running"].iter().any(|status| line.ends_with(status));
    assert!(listed.lines().count() <= 1 && listed.lines().all(known), "{listed}");
    host.remove_all();
    assert_eq!(
        host.sh("ls -A /run/minirun/containers /run/minirun/names /var/lib/minirun/logs | grep -v : || true")
            .ok()
            .trim(),
        ""
    );
}

host_test!(the_holder_is_killed_at_every_call, within 600, |host| {
    host.has_run_detached();
    let words = "run -d --name web busybox true";
    let calls = host.calls_of_the_holder(words);
    host.minirun(["wait", "web"]).run();
    host.remove_all();
    let parents = host.calls(words);
    host.minirun(["wait", "web"]).run();
    host.remove_all();
    let mut met = 0;
    for call in calls.iter().filter(|call| !parents.contains(call)) {
        let output = host.tampered_below(words, call, "signal=KILL").run();
        // 0: after the command had returned. 137: the command made that call as well, to tell of the holder's death.
        assert!([0, 125, 137].contains(&output.code), "{call:?}: {output}");
        let listed = listed(host);
        met += usize::from(output.code != 0 || listed == "web dead\n");
        swept(host);
        if met % 20 == 0 {
            host.nothing_left();
        }
    }
    assert!(met > 50, "{met} of {}", calls.len());
    println!("{met} of {}", calls.len());
});

host_test!(the_command_is_killed_at_every_third_call, within 300, |host| {
    host.has_run_detached();
    let words = "run -d --name web busybox true";
    let calls = host.calls(words);
    host.minirun(["wait", "web"]).run();
    host.remove_all();
    for call in calls.iter().step_by(3) {
        let output = host.tampered(words, call, "signal=KILL").run();
        assert!([0, 137].contains(&output.code), "{call:?}: {output}");
        // Its holder goes on by itself for a moment.
        host.soon("nothing is being started", || host.miniruns().is_empty());
        swept(host);
    }
});

host_test!(commands_are_killed_at_every_fourth_call, within 600, |host| {
    host.has_run_detached();
    for words in ["restart web", "rename web other", "stop web", "rm -f web", "pause web", "unpause web", "ps"] {
        let begin = || {
            host.detached(&["--net=none", "--name", "web", "--stop-timeout", "1"], &["sleep", "1000"]);
            if words.starts_with("unpause") {
                host.minirun(["pause", "web"]).ok();
            }
        };
        begin();
        let calls = host.calls(words);
        host.remove_all();
        for call in calls.iter().step_by(4) {
            begin();
            let output = host.tampered(words, call, "signal=KILL").run();
            assert!([0, 137].contains(&output.code), "{words}, {call:?}: {output}");
            // It is there under a name, or it is gone; never half.
            let names = listed(host);
            assert!(names.lines().count() <= 1, "{words}, {call:?}: {names}");
            if let Some((name, _)) = names.split_once(' ') {
                host.minirun(["inspect", name]).ok();
                // What was begun can be done, whichever half of it was.
                if words.contains("pause") {
                    let output = host.minirun(["pause", name]).run();
                    assert_eq!(listed(host), format!("{name} paused\n"), "{words}, {call:?}: {output}");
                    host.minirun(["unpause", name]).ok();
                    assert_eq!(listed(host), format!("{name} running\n"), "{words}, {call:?}");
                }
            } else {
                assert!(words.starts_with("rm"), "{words}, {call:?}: it is gone");
            }
            host.remove_all();
            // What a killed command had made of names is nobody's: it is free.
            host.detached(&["--net=none", "--name", "other"], &["true"]);
            host.minirun(["wait", "other"]).ok();
            host.remove_all();
            host.bury();
            let names = host.sh("ls /run/netns").ok();
            assert!(!names.contains("web"), "{words}, {call:?}: {names}");
        }
    }
});

host_test!(stale_state_is_swept_and_harms_nobody, |host| {
    host.has_run_detached();
    let mut bystander = host.sh("echo ready; exec sleep 1000").start();
    bystander.says("ready");
    let pid = bystander.pid();
    let start = host.sh(&format!("sed 's/.*) //' /proc/{pid}/stat | cut -d' ' -f20")).ok();
    let id = host.detached(&["--net=none", "--name", "web"], &["sleep", "1000"]);
    host.minirun(["stop", "web"]).ok();
    let record: serde_json::Value =
        serde_json::from_str(&host.sh(&format!("cat /run/minirun/containers/{id}/record")).ok()).expect("JSON");
    host.minirun(["rm", "web"]).ok();
    let plant = |name: &str, change: &dyn Fn(&mut serde_json::Value)| {
        let mut record = record.clone();
        record["exit"] = serde_json::Value::Null;
        record["pid"] = pid.into();
        record["pid_start"] = start.trim().parse::<u64>().expect("a number").into();
        change(&mut record);
        let directory = format!("/run/minirun/containers/{name}");
        std::fs::create_dir(&directory).expect("mkdir");
        host.write(&format!("{directory}/record"), &record.to_string());
        host.sh(&format!("ln -s {id} /run/minirun/names/web")).ok();
    };
    // Of a boot before this one; of a process that has its number from another; held by a number that is another's.
    let other_boot = |record: &mut serde_json::Value| record["boot"] = "another".into();
    let other_start = |record: &mut serde_json::Value| record["pid_start"] = 1.into();
    let changes: [&dyn Fn(&mut serde_json::Value); 2] = [&other_boot, &other_start];
    for change in changes {
        for holder in [pid, 1, 4_000_000] {
            plant(&format!("{id}.{holder}"), change);
            assert_eq!(listed(host), "web dead\n");
            host.minirun(["rm", "web"]).ok();
            host.nothing_left_but(&["process "]);
            plant(&format!("{id}.{holder}"), &|record| {
                change(record);
                record["remove"] = true.into();
            });
            // By name, by the list, by whoever wants the name.
            host.minirun(["inspect", "web"]).fails(125);
            host.nothing_left_but(&["process "]);
            plant(&format!("{id}.{holder}"), change);
            host.minirun(["run", "-d", "--name", "web", "--net=none", "busybox", "true"]).fails(125);
            host.remove_all();
            host.nothing_left_but(&["process "]);
        }
    }
    assert!(is_alive(pid), "an innocent");
    // Half written.
    for text in [None, Some(""), Some("{"), Some("{\"id\":\"x\"}"), Some("[]")] {
        host.sh(&format!("mkdir /run/minirun/containers/{id}.4000000")).ok();
        if let Some(text) = text {
            host.write(&format!("/run/minirun/containers/{id}.4000000/record"), text);
            host.write(&format!("/run/minirun/containers/{id}.4000000/record.new"), "{");
        }
        assert_eq!(listed(host), "");
        host.nothing_left_but(&["process "]);
    }
    // Names of nobody, and of what is no container: they are given again.
    for target in [&id[..], "../../../etc", "/etc/passwd", ""] {
        host.sh(&format!("ln -s '{target}' /run/minirun/names/web || ln -s none /run/minirun/names/web")).ok();
        host.minirun(["inspect", "web"]).fails(125);
        let now = host.detached(&["--net=none", "--name", "web", "--rm"], &["sleep", "1000"]);
        assert_eq!(host.inspect("web", ".Id"), now);
        host.minirun(["kill", "web"]).ok();
        host.nothing_left_but(&["process "]);
    }
    bystander.signal(nix::sys::signal::Signal::SIGKILL);
    bystander.wait();
});

host_test!(a_sweep_waits_for_nobody_that_lives, |host| {
    host.has_run_detached();
    let living: Vec<_> = (0..3).map(|_| host.detached(&ALONE, &["sleep", "1000"])).collect();
    let dead: Vec<_> = (0..3).map(|_| host.detached(&["--net=none", "--rm"], &["sleep", "1000"])).collect();
    dead.iter().for_each(|id| kill_hard(host.holder_of(id)));
    // A start sweeps as well.
    host.minirun(["run", "--net=none", "busybox", "true"]).ok();
    let all = host.sh("ls /run/minirun/containers").ok();
    assert!(living.iter().all(|id| all.contains(id)), "{all}");
    host.soon("those are gone", || {
        let all = host.sh("ls /run/minirun/containers").ok();
        host.bury();
        host.minirun(["run", "--net=none", "busybox", "true"]).ok();
        !dead.iter().any(|id| all.contains(id))
    });
    host.remove_all();
});

// Else the program would be an orphan of the host's process 1.
host_test!(exec_is_killed_at_every_third_call, within 120, |host| {
    host.has_run_detached();
    host.detached(&["--net=none", "--name", "web"], &["sleep", "1000"]);
    let runs = || host.sh("ps ax -o args").ok().lines().any(|line| line == "sleep 777");
    for user in ["0", "7:7"] {
        let calls = host.calls(&format!("exec -u {user} web true"));
        let words = format!("exec -u {user} web sleep 777");
        let mut met = 0;
        for call in calls.iter().step_by(3) {
            let mut killed = host.tampered(&words, call, "signal=KILL").start();
            // What it does after the end of its program, it does not do here.
            host.soon("it is killed, or the program runs", || killed.has_ended() || runs());
            if !killed.has_ended() {
                kill_hard(killed.child().expect("minirun, below strace"));
            } else {
                met += 1;
            }
            assert_eq!(killed.wait().code, 137, "{call:?}");
            host.soon("no program is left", || !runs());
        }
        host.bury();
        println!("{met} of {}", calls.len().div_ceil(3));
        assert!(met > 10, "{met}");
    }
    assert_eq!(host.status("web"), "running");
    // One that has changed its user is told nothing by the kernel. It ends with its container.
    let line = "exec $MINIRUN exec web su -s /bin/sh nobody -c 'exec sleep 777' >/dev/null 2>&1";
    let killed = host.sh(line).start();
    host.soon("the program runs", runs);
    kill_hard(killed.pid());
    killed.wait();
    host.minirun(["ps"]).ok();
    assert!(runs(), "it lives on, or this test shows nothing");
    // In this host nobody but the test buries it, and the container waits for that.
    let mut ending = host.minirun(["kill", "web"]).start();
    host.soon("it has ended", || {
        host.bury();
        ending.has_ended()
    });
    let ended = ending.wait();
    assert_eq!(ended.code, 0, "{ended}");
    host.remove_all();
});
