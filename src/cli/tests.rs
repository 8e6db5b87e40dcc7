//! What fingers type means what docker's users expect.

use super::*;
use crate::net::Mode;

fn parsed(line: &str) -> Result<Cli, clap::Error> {
    parse(["minirun"].into_iter().chain(line.split(' ')).map(OsString::from).collect())
}

fn run(line: &str) -> RunArgs {
    match parsed(line).unwrap().verb {
        Verb::Run(run) => *run,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_definitions_are_sound() {
    Cli::command().debug_assert();
    RunAlone::command().debug_assert();
}

#[test]
fn options_end_where_the_image_begins() {
    let args = run("run -it --net none --rm busybox ls -l --net x");
    assert!(args.interactive && args.tty && args.rm);
    assert_eq!(args.network.mode().unwrap(), Mode::None);
    assert_eq!(args.words, ["busybox", "ls", "-l", "--net", "x"]);
    assert_eq!(run("--root /x run --network=host b").words, ["b"]);
    assert!(run("run --rm --rm --net=host --net=none b").network.mode().is_err());
    assert_eq!(run("run -h web busybox -x").hostname.as_deref(), Some("web"));
}

#[test]
fn short_options_are_written_as_fingers_know_them() {
    for (typed, meant) in [
        ("run -it busybox", "run -i -t busybox"),
        ("run -ti busybox", "run -i -t busybox"),
        ("run -dit busybox", "run -d -i -t busybox"),
        ("run -u0 busybox", "run -u 0 busybox"),
        ("run -u=0 busybox", "run -u 0 busybox"),
        ("run -itu0 busybox sh -c x", "run -i -t --user 0 busybox sh -c x"),
        ("run -u0:0 busybox", "run --user 0:0 busybox"),
        ("run -w/tmp busybox", "run -w /tmp busybox"),
        ("run -eA=b -eC busybox", "run -e A=b -e C busybox"),
        ("run -p8080:80 busybox", "run -p 8080:80 busybox"),
        ("run -v/a:/b:ro busybox", "run -v /a:/b:ro busybox"),
        ("run -m64m busybox", "run --memory 64m busybox"),
        ("run -lk=v busybox", "run --label k=v busybox"),
        ("run -hweb busybox -u0 -it", "run --hostname web -- busybox -u0 -it"),
        ("exec -it web sh", "exec --interactive --tty web sh"),
        ("exec -ti web sh", "exec --interactive --tty web sh"),
        ("exec -u0 web id -u", "exec -u 0 -- web id -u"),
        ("exec -itu0 web sh", "exec -i -t -u 0 web sh"),
        ("exec -w/tmp -eA=b web ls -l", "exec -w /tmp -e A=b web ls -l"),
        ("exec -duroot web x", "exec -d -u root web x"),
        ("logs -n5 web", "logs --tail 5 web"),
        ("logs -fn5 web", "logs -f -n 5 web"),
        ("logs -ft web", "logs -f -t web"),
        ("stop -t5 web", "stop --time 5 web"),
        ("stop -t-1 web", "stop --time -1 web"),
        ("restart -t5 web", "restart -t 5 web"),
        ("kill -s9 web", "kill -s 9 web"),
        ("kill -sHUP web", "kill --signal HUP web"),
        ("capture -c5 -ieth0 web tcp port 80", "capture --count 5 --interface eth0 web tcp port 80"),
        ("ps -aq", "ps -a -q"),
        ("ps -afname=web", "ps -a --filter name=web"),
        ("inspect -f{{.Id}} web", "inspect -f {{.Id}} web"),
    ] {
        assert_eq!(format!("{:?}", parsed(typed).unwrap()), format!("{:?}", parsed(meant).unwrap()), "{typed}");
    }
    // What is no option is not taken for the image or the container.
    for unknown in ["run -itx busybox", "run -x busybox", "run --nosuch busybox", "exec -x web id", "exec -x0 web id"] {
        assert!(parsed(unknown).is_err(), "{unknown}");
    }
}
