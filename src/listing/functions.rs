//! The functions of templates: docker's, and those of Go's that are used in listings.

use std::cmp::Ordering;

use anyhow::{Result, anyhow, bail};
use serde_json::Value;

use super::execute::{Execution, Item, owned};
use crate::error::refused;

/// The widest that `pad` and `printf` fill up to.
const WIDTH: usize = 1000;

/// What can stand at the beginning of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    And,
    Eq,
    Ge,
    Gt,
    Index,
    Join,
    Json,
    Le,
    Len,
    Lower,
    Lt,
    Ne,
    Not,
    Or,
    Pad,
    Print,
    Printf,
    Println,
    Split,
    Title,
    Truncate,
    Upper,
}

/// Name, and the least and the most number of arguments.
const FUNCTIONS: [(&str, Function, usize, usize); 22] = [
    ("and", Function::And, 1, 9),
    ("eq", Function::Eq, 2, 9),
    ("ge", Function::Ge, 2, 2),
    ("gt", Function::Gt, 2, 2),
    ("index", Function::Index, 2, 9),
    ("join", Function::Join, 2, 2),
    ("json", Function::Json, 1, 1),
    ("le", Function::Le, 2, 2),
    ("len", Function::Len, 1, 1),
    ("lower", Function::Lower, 1, 1),
    ("lt", Function::Lt, 2, 2),
    ("ne", Function::Ne, 2, 2),
    ("not", Function::Not, 1, 1),
    ("or", Function::Or, 1, 9),
    ("pad", Function::Pad, 3, 3),
    ("print", Function::Print, 0, 99),
    ("printf", Function::Printf, 1, 99),
    ("println", Function::Println, 0, 99),
    ("split", Function::Split, 2, 2),
    ("title", Function::Title, 1, 1),
    ("truncate", Function::Truncate, 2, 2),
    ("upper", Function::Upper, 1, 1),
];

impl Function {
    /// The function of that name.
    pub fn named(name: &str) -> Result<Self> {
        let found = FUNCTIONS.iter().find(|(known, ..)| *known == name);
        found.map(|(_, function, ..)| *function).ok_or_else(|| {
            let known: Vec<_> = FUNCTIONS.iter().map(|(name, ..)| *name).collect();
            let remedy = format!("a field begins with a dot, as .{name}; the functions are {}", known.join(", "));
            refused(format!("there is no function `{name}`"), remedy)
        })
    }

    /// Refuses a number of arguments that it does not take.
    pub fn takes(self, given: usize) -> Result<()> {
        match FUNCTIONS.iter().find(|(_, function, ..)| *function == self) {
            Some((name, _, least, most)) if given < *least || given > *most => {
                let wanted = if least == most { least.to_string() } else { format!("at least {least}") };
                bail!("`{name}` is given {given} values and takes {wanted}")
            }
            _ => Ok(()),
        }
    }
}

impl<'a> Execution<'a> {
    /// What a function makes of its arguments, whose number was looked at when the template was read.
    pub fn call(&mut self, function: Function, arguments: &[Item<'a>]) -> Result<Item<'a>> {
        let truth = |value: bool| Ok(owned(value));
        match (function, arguments) {
            (Function::And, [.., last]) => Ok(arguments.iter().find(|item| !self.truth(item)).unwrap_or(last).clone()),
            (Function::Or, [.., last]) => Ok(arguments.iter().find(|item| self.truth(item)).unwrap_or(last).clone()),
            (Function::Not, [item]) => truth(!self.truth(item)),
            (Function::Eq, [first, others @ ..]) => {
                let equal: Result<Vec<bool>> =
                    others.iter().map(|other| Ok(self.order(first, other)? == Some(Ordering::Equal))).collect();
                truth(equal?.contains(&true))
            }
            (Function::Ne, [a, b]) => truth(self.order(a, b)? != Some(Ordering::Equal)),
            (Function::Lt, [a, b]) => truth(self.order(a, b)?.is_some_and(Ordering::is_lt)),
            (Function::Le, [a, b]) => truth(self.order(a, b)?.is_some_and(Ordering::is_le)),
            (Function::Gt, [a, b]) => truth(self.order(a, b)?.is_some_and(Ordering::is_gt)),
            (Function::Ge, [a, b]) => truth(self.order(a, b)?.is_some_and(Ordering::is_ge)),
            (Function::Index, [item, keys @ ..]) => {
                keys.iter().try_fold(item.clone(), |item, key| self.index(&item, key))
            }
            (Function::Json, [item]) => self.json(item),
            (Function::Len, [item]) => self.len(item).map(owned),
            (Function::Lower, [item]) => self.text(item).and_then(|text| self.made(text.to_lowercase())),
            (Function::Upper, [item]) => self.text(item).and_then(|text| self.made(text.to_uppercase())),
            (Function::Title, [item]) => self.text(item).and_then(|text| self.made(title(&text))),
            (Function::Join, [list, between]) => self.join(list, between),
            (Function::Split, [text, at]) => self.split(text, at),
            (Function::Pad, [text, before, after]) => {
                let (before, after) = (self.number(before)?, self.number(after)?);
                let text = self.text(text)?;
                let blanks = |count: usize| " ".repeat(if text.is_empty() { 0 } else { count.min(WIDTH) });
                self.made(format!("{}{text}{}", blanks(before), blanks(after)))
            }
            (Function::Truncate, [text, length]) => {
                let length = self.number(length)?;
                let text = self.text(text)?;
                self.made(text.chars().take(length).collect())
            }
            (Function::Print, items) => self.print(items),
            (Function::Println, items) => {
                let texts: Result<Vec<_>> = items.iter().map(|item| self.text(item)).collect();
                self.made(texts?.join(" ") + "\n")
            }
            (Function::Printf, [format, items @ ..]) => self.printf(format, items),
            _ => bail!("a function is given too few values"),
        }
    }

    /// `a` against `b`; `None` where one of them is nothing.
    fn order(&self, a: &Item<'a>, b: &Item<'a>) -> Result<Option<Ordering>> {
        if let (Some(a), Some(b)) = (self.raw(a), self.raw(b)) {
            return Ok(Some(a.cmp(b)));
        }
        match (self.value(a), self.value(b)) {
            (Some(Value::Null), Some(Value::Null)) => Ok(Some(Ordering::Equal)),
            (Some(Value::Null), _) | (_, Some(Value::Null)) => Ok(None),
            (Some(Value::Bool(a)), Some(Value::Bool(b))) => Ok(Some(a.cmp(b))),
            (Some(Value::Number(a)), Some(Value::Number(b))) if a == b => Ok(Some(Ordering::Equal)),
            (Some(Value::Number(a)), Some(Value::Number(b))) => {
                match (a.as_i64(), b.as_i64(), a.as_f64(), b.as_f64()) {
                    (Some(a), Some(b), ..) => Ok(Some(a.cmp(&b))),
                    (_, _, Some(a), Some(b)) => Ok(a.partial_cmp(&b)),
                    _ => Ok(None),
                }
            }
            _ => bail!("values of two kinds are compared: a text stands in quotes, a number does not"),
        }
    }

    fn json(&mut self, item: &Item<'a>) -> Result<Item<'a>> {
        let text = match self.value(item) {
            Some(value) => super::json(value, false)?,
            None => super::json(&self.raw(item), false)?,
        };
        self.made(text)
    }

    fn len(&self, item: &Item<'a>) -> Result<usize> {
        match (self.raw(item), self.value(item)) {
            (Some(text), _) => Ok(text.len()),
            (_, Some(Value::Array(list))) => Ok(list.len()),
            (_, Some(Value::Object(map))) => Ok(map.len()),
            (_, Some(Value::Null)) => Ok(0),
            _ => bail!("len wants a text, a list or a map"),
        }
    }

    fn number(&self, item: &Item<'a>) -> Result<usize> {
        let number = self.value(item).and_then(Value::as_u64).and_then(|number| usize::try_from(number).ok());
        number.ok_or_else(|| anyhow!("a number that is not negative is wanted"))
    }

    fn join(&mut self, list: &Item<'a>, between: &Item<'a>) -> Result<Item<'a>> {
        let between = self.text(between)?;
        let texts: Vec<String> = match self.value(list) {
            Some(Value::Array(list)) => list.iter().map(|value| self.shown(value)).collect(),
            Some(Value::Null) => Vec::new(),
            _ => bail!("join wants a list and a text, as join .Command \" \""),
        };
        // Before it is made, since it may be far longer than both.
        self.spend(texts.len().saturating_mul(between.len()))?;
        self.made(texts.join(&between))
    }

    fn split(&mut self, text: &Item<'a>, at: &Item<'a>) -> Result<Item<'a>> {
        let (Some(text), Some(at)) = (self.raw(text), self.raw(at)) else { bail!("split wants two texts") };
        let parts: Vec<Value> = match at {
            "" => text.chars().map(|c| c.to_string().into()).collect(),
            at => text.split(at).map(Value::from).collect(),
        };
        self.spend(parts.iter().map(|part| 1 + part.as_str().map_or(0, str::len)).sum())?;
        Ok(owned(parts))
    }

    fn print(&mut self, items: &[Item<'a>]) -> Result<Item<'a>> {
        let mut text = String::new();
        let mut after_text = true;
        for item in items {
            let is_text = self.raw(item).is_some();
            if !is_text && !after_text {
                text.push(' ');
            }
            text.push_str(&self.text(item)?);
            after_text = is_text;
        }
        self.made(text)
    }

    fn printf(&mut self, format: &Item<'a>, items: &[Item<'a>]) -> Result<Item<'a>> {
        let format = self.text(format)?;
        let mut rest = format.as_str();
        let mut items = items.iter();
        let mut text = String::new();
        while let Some((before, verb)) = rest.split_once('%') {
            text.push_str(before);
            if let Some(after) = verb.strip_prefix('%') {
                text.push('%');
                rest = after;
                continue;
            }
            let left = verb.strip_prefix('-');
            let verb = left.unwrap_or(verb);
            let kind = verb.trim_start_matches(|c: char| c.is_ascii_digit());
            let digits = &verb[..verb.len() - kind.len()];
            let width = if digits.is_empty() { 0 } else { digits.parse().unwrap_or(WIDTH).min(WIDTH) };
            let item = items.next().ok_or_else(|| anyhow!("printf is given less values than its text wants"))?;
            let mut kinds = kind.chars();
            let shown = match kinds.next() {
                Some('s' | 'v') => self.text(item)?,
                Some('d') if self.value(item).is_some_and(Value::is_number) => self.text(item)?,
                Some('d') => bail!("printf: %d wants a number"),
                Some('q') => format!("{:?}", self.text(item)?),
                _ => bail!("printf: only %s, %v, %q, %d and %% are known, with a width as in %-20s"),
            };
            self.spend(width)?;
            text += &if left.is_some() { format!("{shown:<width$}") } else { format!("{shown:>width$}") };
            rest = kinds.as_str();
        }
        if items.next().is_some() {
            bail!("printf is given more values than its text wants");
        }
        text.push_str(rest);
        self.made(text)
    }
}

/// Each word with a capital.
fn title(text: &str) -> String {
    let mut inside = false;
    let mut title = String::with_capacity(text.len());
    for c in text.chars() {
        if inside {
            title.push(c);
        } else {
            title.extend(c.to_uppercase());
        }
        inside = c.is_alphanumeric() || matches!(c, '_' | '\'');
    }
    title
}
