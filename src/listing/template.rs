//! Templates of `--format '{{.Name}}'`: the part of Go's text/template that users of docker type, over JSON.
//!
//! A template is read once (`parse.rs`) and done for each row (`execute.rs`). Its text comes from a command
//! line and the row from images: whatever they are, neither panics nor goes on for ever, since what nests has a depth and
//! what is done for a row has a bound.

use std::borrow::Cow;

use anyhow::Result;
use serde_json::Value;

use super::execute::Execution;
use super::functions::Function;
use super::parse::Parser;

/// How deep blocks and parentheses may nest.
pub(super) const DEPTH: usize = 32;

/// A template, read.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    nodes: Vec<Node>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Text(String),
    Print(Pipe),
    /// `$name := pipe`.
    Let(String, Pipe),
    If {
        test: Pipe,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    /// The names are none, that of the value, or those of the key and the value.
    Range {
        names: Vec<String>,
        over: Pipe,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
    With {
        name: Option<String>,
        over: Pipe,
        body: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

/// Commands, each of which is the last argument of the next one. Never empty.
pub(super) type Pipe = Vec<Command>;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Command {
    pub head: Head,
    pub arguments: Vec<Term>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Head {
    Function(Function),
    Term(Term),
}

/// A value and the way of fields from it: `.A.B` is from the dot.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Term {
    pub from: From,
    pub path: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum From {
    Dot,
    /// `$` is the one without a name: the row.
    Variable(String),
    Pipe(Pipe),
    Constant(Value),
}

/// What a template sees of a row: its JSON, other names for the fields of it, and the cells of its table.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    /// The row as `--format json` prints it.
    pub value: &'a Value,
    /// Other names and what they stand for, as (`Names`, `name`).
    pub aliases: &'a [(&'a str, &'a str)],
    /// The heads of the columns: fields where the JSON has none of that name.
    pub heads: &'a [&'a str],
    /// The cell below the head of that number.
    pub cell: &'a dyn Fn(usize) -> String,
}

/// Whether two names are the same field: `PidStart` is `pid_start`, `ID` is `id`.
pub(super) fn same_field(a: &str, b: &str) -> bool {
    fn plain(name: &str) -> impl Iterator<Item = char> {
        name.chars().filter(|c| !matches!(c, '_' | ' ' | '-')).flat_map(char::to_lowercase)
    }
    a == b || plain(a).eq(plain(b))
}

/// What `name` stands for.
pub(super) fn resolve<'a>(name: &'a str, aliases: &[(&'a str, &'a str)]) -> &'a str {
    aliases.iter().find(|(alias, _)| same_field(alias, name)).map_or(name, |(_, field)| field)
}

impl Template {
    /// Reads a template. In the text between actions `\t` and `\n` are a tab and a new line, as in docker's.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(Self { nodes: Parser::new(text).template()? })
    }

    /// What it prints of a row. With `escape`, what comes from the row has its control characters escaped, and what the
    /// template itself says has not.
    pub fn render(&self, row: &Row<'_>, escape: bool) -> Result<String> {
        Execution::new(row, escape).run(&self.nodes)
    }

    /// The head of a table whose rows it prints: its text, and the name of a field in the place of each action.
    pub fn head(&self, aliases: &[(&str, &str)], heads: &[&str]) -> String {
        let mut text = String::new();
        head_of_nodes(&self.nodes, &mut text, &|field| {
            let known = |name: &str| heads.iter().find(|head| same_field(head, name)).map(|head| (*head).to_owned());
            known(field).or_else(|| known(resolve(field, aliases))).unwrap_or_else(|| spaced(field))
        });
        text
    }
}

fn head_of_nodes(nodes: &[Node], text: &mut String, name: &dyn Fn(&str) -> String) {
    for node in nodes {
        match node {
            Node::Text(words) => text.push_str(words),
            Node::Print(pipe) => text.push_str(&head_of_pipe(pipe, name).unwrap_or_default()),
            Node::Let(..) => {}
            Node::If { then: body, .. } | Node::Range { body, .. } | Node::With { body, .. } => {
                head_of_nodes(body, text, name);
            }
        }
    }
}

fn head_of_pipe(pipe: &Pipe, name: &dyn Fn(&str) -> String) -> Option<String> {
    pipe.iter().find_map(|command| {
        let first = match &command.head {
            Head::Term(term) => Some(term),
            Head::Function(_) => None,
        };
        let keyed = first.is_some() || command.head == Head::Function(Function::Index);
        let key = command.arguments.iter().find_map(|argument| match &argument.from {
            From::Constant(Value::String(key)) if keyed => Some(key.clone()),
            _ => None,
        });
        key.or_else(|| first.into_iter().chain(&command.arguments).find_map(|term| head_of_term(term, name)))
    })
}

fn head_of_term(term: &Term, name: &dyn Fn(&str) -> String) -> Option<String> {
    match (&term.path[..], &term.from) {
        ([.., last], _) => Some(name(last)),
        ([], From::Pipe(pipe)) => head_of_pipe(pipe, name),
        ([], From::Variable(variable)) if !variable.is_empty() => Some(spaced(variable)),
        _ => None,
    }
}

/// `PidStart` and `pid_start` as `PID START`.
fn spaced(field: &str) -> String {
    let mut head = String::new();
    let mut lower = false;
    for c in field.chars() {
        if c == '_' || (lower && c.is_uppercase()) {
            head.push(' ');
        }
        lower = c.is_lowercase();
        head.extend(c.to_uppercase().filter(|c| *c != '_'));
    }
    head
}

/// A value as Go prints it, but for what there is none of: nothing is printed then.
pub(super) fn words(value: &Value) -> Cow<'_, str> {
    match value {
        Value::Null => "".into(),
        Value::String(text) => text.into(),
        Value::Array(list) => {
            let parts: Vec<_> = list.iter().map(words).collect();
            format!("[{}]", parts.join(" ")).into()
        }
        Value::Object(map) => {
            let parts: Vec<_> = map.iter().map(|(key, value)| format!("{key}:{}", words(value))).collect();
            format!("map[{}]", parts.join(" ")).into()
        }
        Value::Bool(_) | Value::Number(_) => value.to_string().into(),
    }
}
