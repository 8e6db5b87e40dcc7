//! Listings: the forms of `--format`, and `ps --filter`.

mod host;

use host::{Host, Running, Terminal, host_test};

/// A container that waits, and whose command line would turn a terminal's text red.
fn waits(host: &Host, name: &str, network: &str) -> Running {
    let script = "echo up; read end";
    let mut running = host
        .minirun(["run", "-i", "--name", name, network, "busybox", "sh", "-c", script, "\u{1b}[31m"])
        .held()
        .start();
    running.says("up");
    running
}

host_test!(the_forms_of_a_list, |host| {
    let web = waits(host, "web", "--net=bridge");
    let ps = |arguments: &[&str]| host.minirun([&["ps"], arguments].concat()).ok();
    assert_eq!(ps(&["--format", "{{.Names}} {{.network}} {{index .Command 0}}"]), "web bridge sh\n");
    assert_eq!(ps(&["--format", "table {{.Name}}\\t{{.Image}}"]), "NAME  IMAGE\nweb   busybox\n");
    assert_eq!(ps(&["--format", "{{.ID}}"]), ps(&["-q"]));
    let json = ps(&["--format", "json"]);
    assert!(json.starts_with("[\n  {\n    \"id\": \"") && json.contains("\"name\": \"web\""), "{json}");
    let table = ps(&[]);
    assert!(table.contains('…') && !ps(&["--no-trunc"]).contains('…'), "{table}");
    assert_eq!(host.minirun(["image", "ls", "--format", "{{.Name}}"]).ok(), "busybox\n");
    assert!(ps(&["--format", "{{json .Command}}"]).contains("\\u001b[31m"));
    web.wait();
});

host_test!(a_value_speaks_to_a_program_and_not_to_a_terminal, |host| {
    let web = waits(host, "web", "--net=none");
    let format = ["ps", "--format", "{{range .Command}}<{{.}}>{{end}}"];
    assert!(host.minirun(format).ok().contains("<\u{1b}[31m>"));
    let mut terminal = Terminal::start(&host::binary(), &format, 24, 80);
    assert_eq!(terminal.wait(), 0);
    let screen = terminal.shows("<\\u{1b}[31m>");
    assert!(!screen.contains('\u{1b}'), "{screen:?}");
    web.wait();
});

host_test!(a_list_is_filtered, |host| {
    let (web, db) = (waits(host, "web", "--net=bridge"), waits(host, "db", "--net=none"));
    let names = |filters: &[&str]| {
        let options = filters.iter().flat_map(|filter| ["--filter", *filter]);
        let list = host.minirun(["ps", "--format", "{{.Name}}"].into_iter().chain(options)).ok();
        let mut names: Vec<String> = list.lines().map(str::to_owned).collect();
        names.sort();
        names.join(" ")
    };
    assert_eq!(names(&[]), "db web");
    assert_eq!(names(&["name=we"]), "web");
    assert_eq!(names(&["name=we", "name=^db$"]), "db web");
    assert_eq!(names(&["network=bridge", "name=db"]), "");
    assert_eq!(names(&["ancestor=busybox:latest", "status=running"]), "db web");
    web.wait();
    db.wait();
});

host_test!(what_cannot_be_listed_is_refused_with_a_remedy, |host| {
    for (arguments, words, remedy) in [
        (&["ps", "--format", "xml"][..], "xml", "json"),
        (&["ps", "--format", "{{.Name"], "not closed", ""),
        (&["ps", "--format", "{{nope .Name}}"], "`nope`", "upper"),
        (&["ps", "-q", "--format", "json"], "--format", ""),
        (&["image", "ls", "-q", "--format", "json"], "--format", ""),
        (&["image", "ls", "--format", "{{.Colour}}"], "`.Colour`", "created"),
        (&["ps", "--filter", "colour=red"], "`colour`", "ancestor"),
    ] {
        let refusal = host.minirun(arguments).fails(125);
        let lines: Vec<&str> = refusal.lines().collect();
        assert!(lines.len() == 2 && lines[0].contains(words) && lines[1].contains(remedy), "{arguments:?}: {refusal}");
    }
});
