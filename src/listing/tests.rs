//! Tests of listings as a verb sees them; what each form, each function and each error is like.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn listing() -> Listing<'static, Value> {
    Listing {
        columns: vec![
            Column::new("NAME", |row: &Value| row["name"].as_str().unwrap_or_default().to_owned()),
            Column::new("PIDS", |row: &Value| row["pids"].to_string()).right(),
            Column::new("RUNS FOR", |_| "3m".into()).at_most(8),
        ],
        id: |row| row["name"].as_str().unwrap_or_default(),
        aliases: &[("Names", "name"), ("RunningFor", "runs for"), ("Label", "labels")],
    }
}

fn row() -> Value {
    json!({
        "name": "web one", "pids": 3, "pid_start": 12345678901u64, "command": ["sh", "-c", "true"], "address": null,
        "labels": {"a": "b", "x.y-z": "1"}, "ports": [{"host": 80, "to": "c"}, {"host": 81, "to": "d"}],
        "live": true, "evil": "\u{1b}[31m\u{9b}1\nx", "ratio": 1.5, "nothing": [],
    })
}

fn form(format: &str, terminal: bool) -> Result<String> {
    let args = ListArgs { format: format.parse()?, ..ListArgs::default() };
    text(&args, &[row()], &listing(), terminal)
}

fn made(template: &str) -> String {
    let line = form(template, false).unwrap_or_else(|error| panic!("{template}: {error:#}"));
    line.strip_suffix('\n').unwrap().to_owned()
}

fn error(template: &str) -> String {
    match form(template, false) {
        Ok(text) => panic!("{template}: {text}"),
        Err(error) => format!("{error:#}; {}", error::remedy_of(&error).unwrap_or_default()),
    }
}

// What stands right is what docker 28 prints for the same, where it has such a field.
#[test]
fn fields_and_constants() {
    for (template, wanted) in [
        ("{{.Name}}", "web one"),
        ("a {{.name}} b", "a web one b"),
        ("{{.PidStart}} {{.pid_start}} {{.PIDSTART}}", "12345678901 12345678901 12345678901"),
        ("{{.Names}}|{{.RunsFor}}|{{.RunningFor}}", "web one|3m|3m"),
        ("{{.Labels.a}}{{.Labels.A}}", "bb"),
        ("{{.Label \"x.y-z\"}}{{.Label \"none\"}}", "1"),
        ("[{{.Address}}] [{{.Address.Any}}]", "[] []"),
        ("{{.Command}} {{.Labels}} {{.Live}} {{.Ratio}}", "[sh -c true] map[a:b x.y-z:1] true 1.5"),
        ("{{$.Name}} {{(index .Ports 1).To}}", "web one d"),
        ("{{\"a\\tb\\\"\"}} {{`r\\\\w`}} {{3}} {{-4}} {{true}}", "a\tb\" r\\\\w 3 -4 true"),
        ("a\\tb\\nc\\x", "a\tb\nc\\x"),
    ] {
        if template.contains("{{") {
            assert_eq!(made(template), wanted, "{template}");
        } else {
            assert_eq!(made(&format!("{template}{{{{\"\"}}}}")), wanted);
        }
    }
}

#[test]
fn blanks_and_comments() {
    for (template, wanted) in [
        ("a {{- .Pids -}} b", "a3b"),
        ("a {{-4}}", "a -4"),
        ("{{/* none */}}a {{- /* none */ -}} b", "ab"),
        ("x\\n{{- .Pids}}", "x3"),
        ("  {{ .Pids }}  ", "  3  "),
    ] {
        assert_eq!(made(template), wanted, "{template}");
    }
}

#[test]
fn blocks() {
    for (template, wanted) in [
        ("{{if .Live}}yes{{else}}no{{end}}", "yes"),
        ("{{if .Address}}a{{else if .Live}}l{{else}}z{{end}}", "l"),
        ("{{if .Address}}a{{else if .Nothing}}l{{else}}z{{end}}!", "z!"),
        ("{{range .Command}}<{{.}}>{{end}}", "<sh><-c><true>"),
        ("{{range $k, $v := .Labels}}{{$k}}={{$v}},{{end}}", "a=b,x.y-z=1,"),
        ("{{range $i, $p := .Ports}}{{$i}}:{{$p.Host}}{{.To}}{{$.Pids}} {{end}}", "0:80c3 1:81d3 "),
        ("{{range $p := .Ports}}{{$p.Host}} {{end}}", "80 81 "),
        ("{{range .Nothing}}x{{else}}none{{end}}{{range .Address}}x{{end}}", "none"),
        ("{{with .Labels}}{{.a}}{{end}}{{with .Address}}x{{else}}y{{end}}", "by"),
        ("{{with $x := .Labels}}{{$x.a}}{{end}}", "b"),
        ("{{$x := .Pids}}{{if true}}{{$x := 4}}{{$x}}{{end}}{{$x}}", "43"),
        ("{{range $i, $c := split .Name \"e\"}}{{$i}}={{$c}},{{end}}", "0=w,1=b on,2=,"),
    ] {
        assert_eq!(made(template), wanted, "{template}");
    }
}

#[test]
fn functions() {
    for (template, wanted) in [
        ("{{json .Labels}} {{.Name | json}} {{json .Address}}", r#"{"a":"b","x.y-z":"1"} "web one" null"#),
        ("{{upper .Name}} {{lower \"AB\"}} {{title .Name}} {{.Name | json | upper}}", "WEB ONE ab Web One \"WEB ONE\""),
        ("{{len .Name}} {{len .Command}} {{len .Labels}} {{len .Address}}", "7 3 2 0"),
        (
            "{{join .Command \" \"}} {{join (split .Name \" \") \"+\"}} {{split .Name \" \"}}",
            "sh -c true web+one [web one]",
        ),
        ("{{println \"a\" 1}}x{{println}}", "a 1\nx\n"),
        ("{{print \"a\" 1 2 \"b\" \"c\"}}", "a1 2bc"),
        ("{{printf \"%s %d %v %q %%\" \"a\" 1 true \"x\"}}", "a 1 true \"x\" %"),
        ("{{printf \"%-9s|%9s|%2d\" .Name .Name .Pids}}", "web one  |  web one| 3"),
        ("{{.Name | printf \"%s-%s\" \"a\"}}", "a-web one"),
        (
            "{{index .Labels \"x.y-z\"}}{{index .Labels \"none\"}} {{index .Command 1}} {{index .Ports 0 \"to\"}}",
            "1 -c c",
        ),
        (
            "{{eq .Name \"x\" \"web one\"}} {{ne .Pids 3}} {{lt .Pids 4}} {{le .Pids 3}} {{gt .Ratio 1}} {{ge 1 2}}",
            "true false true true true false",
        ),
        ("{{eq .Address \"x\"}} {{eq .Address nil}} {{eq .Live true}}", "false true true"),
        ("{{and .Live .Name}} {{or .Address \"-\"}} {{not .Live}}", "web one - false"),
        ("{{pad .Name 2 3}}|{{truncate .Name 3}}", "  web one   |web"),
    ] {
        assert_eq!(made(template), wanted, "{template}");
    }
    assert_eq!(serde_json::from_str::<Value>(&made("{{json .}}")).unwrap(), row());
}

#[test]
fn what_is_wrong_is_named() {
    for (template, wanted) in [
        ("{{.Nope}}", "`.Nope`: there is no such field; there are: address, command"),
        ("{{.Labels.q}}", "no such field; there are: a, x.y-z"),
        ("{{.Name.X}}", "has none"),
        ("{{.Labels.x-y}}", "index"),
        ("{{nope .Name}}", "no function `nope`"),
        ("{{upper}}", "given 0 values and takes 1"),
        ("{{.Name | upper .Name}}", "given 2 values and takes 1"),
        ("{{.Name", "not closed"),
        ("{{\"a}}", "not closed"),
        ("{{}}", "empty"),
        ("{{end}}", "without a beginning"),
        ("{{else}}", "without"),
        ("{{if .Name}}", "no {{end}}"),
        ("{{if .Name}}{{else}}{{else}}{{end}}", "two {{else}}"),
        ("{{if .Name}}{{else range}}{{end}}", "something else"),
        ("{{$x}}", "no variable `$x`"),
        ("{{range $x := .Ports}}{{end}}{{$x}}", "no variable `$x`"),
        ("{{$ := 1}}", "cannot be set"),
        ("{{(.Name}}", "not closed"),
        ("{{.Name)}}", "`)` is not expected"),
        ("{{.Name | }}", "missing"),
        ("{{3 4}}", "not a function"),
        ("{{printf \"%d\" \"x\"}}", "wants a number"),
        ("{{printf \"%s\"}}", "less values"),
        ("{{printf \"a\" 1}}", "more values"),
        ("{{printf \"%z\" 1}}", "are known"),
        ("{{eq .Pids \"3\"}}", "two kinds"),
        ("{{index .Command 3}}", "beyond the end"),
        ("{{range .Name}}{{end}}", "wants a list"),
        ("{{template \"x\"}}", "does not have"),
        ("xml", "has no `{{`"),
        ("tablex", "has no `{{`"),
        ("table x", "has no `{{`"),
        ("", "has no `{{`"),
    ] {
        let error = error(template);
        assert!(error.contains(wanted), "{template}: {error}");
    }
}

#[test]
fn forms() {
    insta::assert_snapshot!(form("table", false).unwrap(), @r"
    NAME     PIDS  RUNS FOR
    web one     3  3m
    ");
    insta::assert_snapshot!(form(r"table {{.Names}}:\t{{upper .PidStart}}\t{{.RunningFor}}\t{{.Label `k`}}\t{{json .Evil}}", false).unwrap(), @r#"
    NAME:     PID START    RUNS FOR  k  EVIL
    web one:  12345678901  3m        -  "\u001b[31m\u009b1\nx"
    "#);
    insta::assert_snapshot!(form(r"table {{if .Live}}{{.Name}}{{end}}\t{{index .Labels `a`}} {{(index .Ports 0).Host}}", false).unwrap(), @r"
    NAME     a HOST
    web one  b 80
    ");
    let printed = form("json", true).unwrap();
    assert!(printed.starts_with("[\n  {\n") && printed.ends_with("]\n"), "{printed}");
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap(), json!([row()]));
    let args = ListArgs { quiet: true, ..ListArgs::default() };
    assert_eq!(text(&args, &[row(), row()], &listing(), false).unwrap(), "web one\nweb one\n");
    assert_eq!(text::<Value>(&ListArgs::default(), &[], &listing(), false).unwrap(), "NAME  PIDS  RUNS FOR\n");
    let none = ListArgs { format: Format::Json, ..ListArgs::default() };
    assert_eq!(text::<Value>(&none, &[], &listing(), false).unwrap(), "[]\n");
}

#[test]
fn long_cells_are_shortened_unless_all_is_wanted() {
    let long = || Listing {
        columns: vec![Column::new("A", |_: &Value| "123456".into()).at_most(4)],
        id: |_| "",
        aliases: &[],
    };
    let all = ListArgs { no_trunc: true, ..ListArgs::default() };
    assert_eq!(text(&ListArgs::default(), &[row()], &long(), true).unwrap(), "A\n123…\n");
    assert_eq!(text(&all, &[row()], &long(), true).unwrap(), "A\n123456\n");
    let template = ListArgs { format: "{{.A}}".parse().unwrap(), ..ListArgs::default() };
    assert_eq!(text(&template, &[row()], &long(), true).unwrap(), "123456\n");
}

#[test]
fn values_do_not_speak_to_a_terminal_and_templates_do() {
    for template in [
        "{{.Evil}}",
        "{{upper .Evil}}",
        "{{json .}}",
        "{{.}}",
        "{{printf \"%s\" .Evil}}",
        "{{join (split .Evil \"m\") \"\"}}",
        "{{range split .Evil \"\"}}{{.}}{{end}}",
        "{{index (split .Evil \"m\") 1}}",
        "{{truncate .Evil 9}}",
        "{{print .Evil}}",
        "{{$x := .Evil}}{{$x}}",
        "{{pad .Evil 1 1}}",
        "{{println .Evil .Evil | lower | json}}",
    ] {
        let shown = form(template, true).unwrap();
        assert!(!shown.trim_end_matches('\n').contains(char::is_control), "{template}: {shown:?}");
    }
    assert_eq!(form("{{.Evil}}", false).unwrap(), "\u{1b}[31m\u{9b}1\nx\n", "a program is given it as it is");
    assert_eq!(form("\x1b[1m{{println .Pids}}{{.Pids}}", true).unwrap(), "\x1b[1m3\n3\n");
}

#[test]
fn what_multiplies_has_an_end() {
    let nested = "{{range $.Command}}".repeat(30) + &"{{end}}".repeat(30);
    assert!(error(&nested).contains("too much"));
    let doubled = format!("{{{{$x := .Name}}}}{}{{{{$x}}}}", "{{$x := printf \"%s%s\" $x $x}}".repeat(40));
    assert!(error(&doubled).contains("too much"));
    assert!(error(&format!("{{{{{}}}}}", "(".repeat(100_000))).contains("nests deeper"));
    assert!(error(&"{{if .Name}}".repeat(100_000)).contains("nests deeper"));
    assert!(error(&("{{if .Nothing}}".to_owned() + &"{{else if .Nothing}}".repeat(100_000))).contains("nests deeper"));
}

/// Parts of templates, so that more than the first sign of one is reached.
fn parts() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "{{", "}}", "{{-", " -}}", "if ", "else", "end", "{{end}}", "{{else}}", "range ", "with ", ".", ".Name",
        ".Labels", ".Ports", ".Command", "$", "$x", ":=", ", ", "|", "(", ")", "\"a\"", "\"", "`", "json ", "upper ",
        "index ", "printf ", "\"%s\"", "%", "split ", "join ", "len ", "3", "-1", "/*", "*/", "\\t", "é", "\u{1b}",
        " ", "\n", "table ", "pad ", "eq ", "nil",
    ]);
    prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn any_text_is_a_template_or_an_error(template in prop_oneof![any::<String>(), parts()], whole in any::<bool>()) {
        let template = if whole { format!("{{{{{template}}}}}") } else { template };
        if let Ok(shown) = form(&template, true) {
            // What speaks to the terminal was in the template.
            let spoken = |c: char| c.is_control() && c != '\n' && c != '\t' && !template.contains(c);
            prop_assert!(!shown.contains(spoken), "{shown:?}");
        }
    }

    #[test]
    fn any_cell_is_one_line(name in any::<String>(), limit in 0usize..9) {
        let layout = Layout { right: name.len() % 2 == 0, limit: Some(limit) };
        let shown = table(&["A".into(), "B".into()], &[vec![name, "x".into()]], &[layout]);
        prop_assert_eq!(shown.lines().count(), 2);
        prop_assert!(!shown.contains(|c: char| c.is_control() && c != '\n'));
    }
}
