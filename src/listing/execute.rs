//! Does a template for one row.

use std::rc::Rc;

use anyhow::{Result, anyhow, bail};
use serde_json::{Map, Value};

use super::template::{Command, From, Head, Node, Pipe, Row, Term, resolve, same_field, words};
use crate::error::{printable, refused};

/// What may be done for one row, counted in nodes, commands and bytes of text: blocks that nest multiply.
const BOUND: usize = 1 << 20;

const NULL: &Value = &Value::Null;

/// A value while a template is done.
#[derive(Debug, Clone)]
pub(super) enum Item<'a> {
    /// The row itself, whose fields have other names as well.
    Row,
    Data(&'a Value),
    /// Made of the row's, and as little to be trusted.
    Owned(Rc<Value>),
    /// What the template says, or what a function has made: what had to be escaped in it has been.
    Text(Rc<str>),
}

pub(super) struct Execution<'a> {
    row: &'a Row<'a>,
    escape: bool,
    variables: Vec<(&'a str, Item<'a>)>,
    out: String,
    left: usize,
}

impl<'a> Execution<'a> {
    pub fn new(row: &'a Row<'a>, escape: bool) -> Self {
        Self { row, escape, variables: vec![("", Item::Row)], out: String::new(), left: BOUND }
    }

    pub fn run(mut self, nodes: &'a [Node]) -> Result<String> {
        self.nodes(nodes, &Item::Row)?;
        Ok(self.out)
    }

    fn nodes(&mut self, nodes: &'a [Node], dot: &Item<'a>) -> Result<()> {
        let known = self.variables.len();
        for node in nodes {
            self.spend(1)?;
            match node {
                Node::Text(text) => {
                    self.spend(text.len())?;
                    self.out.push_str(text);
                }
                Node::Print(pipe) => {
                    let item = self.pipe(pipe, dot)?;
                    let text = self.text(&item)?;
                    self.out.push_str(&text);
                }
                Node::Let(name, pipe) => {
                    let item = self.pipe(pipe, dot)?;
                    self.variables.push((name, item));
                }
                Node::If { test, then, otherwise } => {
                    let item = self.pipe(test, dot)?;
                    self.nodes(if self.truth(&item) { then } else { otherwise }, dot)?;
                }
                Node::With { name, over, body, otherwise } => {
                    let item = self.pipe(over, dot)?;
                    if self.truth(&item) {
                        self.within(name.iter().map(|name| (name.as_str(), item.clone())), body, &item)?;
                    } else {
                        self.nodes(otherwise, dot)?;
                    }
                }
                Node::Range { names, over, body, otherwise } => {
                    let over = self.pipe(over, dot)?;
                    if self.truth(&over) {
                        self.range(names, &over, body)?;
                    } else {
                        self.nodes(otherwise, dot)?;
                    }
                }
            }
        }
        self.variables.truncate(known);
        Ok(())
    }

    fn within(
        &mut self,
        variables: impl Iterator<Item = (&'a str, Item<'a>)>,
        body: &'a [Node],
        dot: &Item<'a>,
    ) -> Result<()> {
        let known = self.variables.len();
        self.variables.extend(variables);
        self.nodes(body, dot)?;
        self.variables.truncate(known);
        Ok(())
    }

    fn range(&mut self, names: &'a [String], over: &Item<'a>, body: &'a [Node]) -> Result<()> {
        let entries: Vec<(Item<'a>, Item<'a>)> = match over {
            Item::Row => entries(self.row.value)?,
            Item::Data(value) => entries(value)?,
            Item::Owned(value) => match &**value {
                Value::Array(list) => (0u64..).map(owned).zip(list.iter().cloned().map(owned)).collect(),
                _ => bail!("range wants a list or a map"),
            },
            Item::Text(_) => bail!("range wants a list or a map"),
        };
        for (key, value) in entries {
            self.spend(1)?;
            let variables = match names {
                [] => Vec::new(),
                [name] => vec![(name.as_str(), value.clone())],
                [first, second, ..] => vec![(first.as_str(), key), (second.as_str(), value.clone())],
            };
            self.within(variables.into_iter(), body, &value)?;
        }
        Ok(())
    }

    fn pipe(&mut self, pipe: &'a Pipe, dot: &Item<'a>) -> Result<Item<'a>> {
        let mut last = None;
        for command in pipe {
            last = Some(self.command(command, last, dot)?);
        }
        last.ok_or_else(|| anyhow!("a value is missing"))
    }

    fn command(&mut self, command: &'a Command, piped: Option<Item<'a>>, dot: &Item<'a>) -> Result<Item<'a>> {
        self.spend(1)?;
        let head = match &command.head {
            Head::Function(_) => None,
            Head::Term(term) => Some(self.term(term, dot)?),
        };
        let mut arguments = Vec::with_capacity(command.arguments.len() + 1);
        for argument in &command.arguments {
            arguments.push(self.term(argument, dot)?);
        }
        arguments.extend(piped);
        match (&command.head, head, &arguments[..]) {
            (Head::Function(function), ..) => self.call(*function, &arguments),
            (_, Some(item), [key]) => self.index(&item, key),
            (_, item, _) => Ok(item.unwrap_or(Item::Data(NULL))),
        }
    }

    fn term(&mut self, term: &'a Term, dot: &Item<'a>) -> Result<Item<'a>> {
        let mut item = match &term.from {
            From::Dot => dot.clone(),
            From::Variable(name) => {
                let found = self.variables.iter().rev().find(|(variable, _)| variable == name);
                found.map(|(_, item)| item.clone()).ok_or_else(|| anyhow!("there is no variable `${name}`"))?
            }
            From::Pipe(pipe) => self.pipe(pipe, dot)?,
            From::Constant(Value::String(text)) => self.made(text.clone())?,
            From::Constant(value) => Item::Data(value),
        };
        for name in &term.path {
            item = self.field(&item, name)?;
        }
        Ok(item)
    }

    /// The field of that name. A null has all of them.
    fn field(&self, item: &Item<'a>, name: &str) -> Result<Item<'a>> {
        let no_fields = || anyhow!("print `.{name}`: it is a field of something that has none");
        match item {
            Item::Row => self.field_of_row(name),
            Item::Data(Value::Object(map)) => member(map, name).map(Item::Data).ok_or_else(|| {
                let known: Vec<_> = map.keys().map(String::as_str).collect();
                no_such_field(name, &known)
            }),
            Item::Data(Value::Null) => Ok(Item::Data(NULL)),
            _ => Err(no_fields()),
        }
    }

    fn field_of_row(&self, name: &str) -> Result<Item<'a>> {
        let row = self.row;
        let other = resolve(name, row.aliases);
        let map = row.value.as_object();
        let value = map.and_then(|map| member(map, name).or_else(|| member(map, other)));
        if let Some(value) = value {
            return Ok(Item::Data(value));
        }
        let column = |name: &str| row.heads.iter().position(|head| same_field(head, name));
        if let Some(column) = column(name).or_else(|| column(other)) {
            return Ok(owned((row.cell)(column)));
        }
        let mut known: Vec<&str> = map.into_iter().flat_map(Map::keys).map(String::as_str).collect();
        let heads: Vec<String> = row.heads.iter().map(|head| head.to_lowercase().replace(' ', "_")).collect();
        known.extend(heads.iter().map(String::as_str).filter(|head| !map.is_some_and(|map| map.contains_key(*head))));
        Err(no_such_field(name, &known))
    }

    /// `index`: a member of a map, or the element of a list. A map that has no such member has an empty one.
    pub fn index(&self, item: &Item<'a>, key: &Item<'a>) -> Result<Item<'a>> {
        let number = || {
            let number = self.value(key).and_then(Value::as_u64).and_then(|number| usize::try_from(number).ok());
            number.ok_or_else(|| anyhow!("index wants a number, counted from 0, for a list"))
        };
        let name = || self.raw(key).ok_or_else(|| anyhow!("index wants a text for a map"));
        let beyond = || anyhow!("index is beyond the end of the list");
        match item {
            Item::Data(Value::Null) => Ok(Item::Data(NULL)),
            Item::Row => self.field_of_row(name()?),
            Item::Data(Value::Object(map)) => Ok(Item::Data(map.get(name()?).unwrap_or(NULL))),
            Item::Data(Value::Array(list)) => list.get(number()?).map(Item::Data).ok_or_else(beyond),
            Item::Owned(value) => match &**value {
                Value::Array(list) => list.get(number()?).cloned().map(owned).ok_or_else(beyond),
                _ => bail!("index wants a list or a map"),
            },
            _ => bail!("index wants a list or a map"),
        }
    }

    /// The value, where it is not a text that was made.
    pub fn value<'b>(&'b self, item: &'b Item<'a>) -> Option<&'b Value> {
        match item {
            Item::Row => Some(self.row.value),
            Item::Data(value) => Some(value),
            Item::Owned(value) => Some(value),
            Item::Text(_) => None,
        }
    }

    /// A text as it is, to be looked at and not to be printed.
    pub fn raw<'b>(&'b self, item: &'b Item<'a>) -> Option<&'b str> {
        match item {
            Item::Text(text) => Some(text),
            _ => self.value(item).and_then(Value::as_str),
        }
    }

    /// What is printed of a value.
    pub fn text(&mut self, item: &Item<'a>) -> Result<String> {
        let text = match (item, self.value(item)) {
            (Item::Text(text), _) => text.to_string(),
            (_, Some(value)) => self.shown(value),
            (_, None) => String::new(),
        };
        self.spend(text.len())?;
        Ok(text)
    }

    /// A value of the row in words.
    pub fn shown(&self, value: &Value) -> String {
        if self.escape { printable(&words(value)) } else { words(value).into_owned() }
    }

    /// A text that a function has made of such as were escaped.
    pub fn made(&mut self, text: String) -> Result<Item<'a>> {
        self.spend(text.len())?;
        Ok(Item::Text(text.into()))
    }

    pub fn truth(&self, item: &Item<'a>) -> bool {
        match self.value(item) {
            None => self.raw(item).is_some_and(|text| !text.is_empty()),
            Some(Value::Null) => false,
            Some(Value::Bool(value)) => *value,
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            Some(Value::Object(map)) => !map.is_empty(),
        }
    }

    pub fn spend(&mut self, what: usize) -> Result<()> {
        match self.left.checked_sub(what) {
            Some(left) => self.left = left,
            None => bail!("the template does too much for one row"),
        }
        Ok(())
    }
}

pub(super) fn owned<'a>(value: impl Into<Value>) -> Item<'a> {
    Item::Owned(Rc::new(value.into()))
}

fn entries(value: &Value) -> Result<Vec<(Item<'_>, Item<'_>)>> {
    match value {
        Value::Array(list) => Ok((0u64..).map(owned).zip(list.iter().map(Item::Data)).collect()),
        Value::Object(map) => Ok(map.iter().map(|(key, value)| (owned(key.as_str()), Item::Data(value))).collect()),
        _ => bail!("range wants a list or a map"),
    }
}

fn member<'a>(map: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    map.get(name).or_else(|| map.iter().find(|(key, _)| same_field(key, name)).map(|(_, value)| value))
}

fn no_such_field(name: &str, known: &[&str]) -> anyhow::Error {
    refused(format!("print `.{name}`: there is no such field"), format!("there are: {}", known.join(", ")))
}
