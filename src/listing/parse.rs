//! Reads a template: text and `{{actions}}` into nodes. Whatever is wrong with a template but for its fields is found here.

use anyhow::{Result, bail};
use serde_json::Value;

use super::functions::Function;
use super::lex::{Token, lex};
use super::template::{Command, DEPTH, From, Head, Node, Pipe, Term};

/// Reads one template.
pub(super) struct Parser<'a> {
    rest: &'a str,
    /// The tokens of the action that is read, the next one last.
    tokens: Vec<Token>,
    /// The variables that are known here.
    names: Vec<String>,
    depth: usize,
    /// Whether the last action ended in a trim marker.
    trim: bool,
}

/// What ended a list of nodes.
enum Ended {
    Text,
    Closed,
    /// `{{else}}`, whose tokens are still to be read where it is `{{else if}}` or `{{else with}}`.
    Else,
}

impl<'a> Parser<'a> {
    pub fn new(text: &'a str) -> Self {
        Self { rest: text, tokens: Vec::new(), names: vec![String::new()], depth: 0, trim: false }
    }

    pub fn template(mut self) -> Result<Vec<Node>> {
        match self.nodes()? {
            (nodes, Ended::Text) => Ok(nodes),
            (_, Ended::Closed) => bail!("{{{{end}}}} without a beginning"),
            (_, Ended::Else) => bail!("{{{{else}}}} without {{{{if}}}}"),
        }
    }

    fn nodes(&mut self) -> Result<(Vec<Node>, Ended)> {
        let mut nodes = Vec::new();
        while let Some((text, action)) = self.rest.split_once("{{") {
            let left = action.strip_prefix('-').filter(|rest| rest.starts_with([' ', '\t', '\n', '\r']));
            self.text(text, left.is_some(), &mut nodes);
            self.rest = left.unwrap_or(action);
            let (tokens, trim) = lex(&mut self.rest)?;
            (self.tokens, self.trim) = (tokens, trim);
            let Some(next) = self.tokens.last() else { continue };
            match next {
                Token::Comment => continue,
                Token::Word(word) => match word.as_str() {
                    "end" => {
                        self.tokens.pop();
                        return self.all_read().map(|()| (nodes, Ended::Closed));
                    }
                    "else" => {
                        self.tokens.pop();
                        return Ok((nodes, Ended::Else));
                    }
                    "if" | "range" | "with" => nodes.push(self.block()?),
                    "define" | "template" | "block" | "break" | "continue" => {
                        bail!("`{word}` is a part of Go's templates that minirun does not have")
                    }
                    _ => nodes.push(Node::Print(self.whole_pipe()?)),
                },
                _ => match self.declared(1)?.pop() {
                    Some(name) => {
                        let pipe = self.whole_pipe()?;
                        self.names.push(name.clone());
                        nodes.push(Node::Let(name, pipe));
                    }
                    None => nodes.push(Node::Print(self.whole_pipe()?)),
                },
            }
        }
        let text = std::mem::take(&mut self.rest);
        self.text(text, false, &mut nodes);
        Ok((nodes, Ended::Text))
    }

    fn text(&mut self, text: &str, trim_end: bool, nodes: &mut Vec<Node>) {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let mut text = text.as_str();
        if std::mem::take(&mut self.trim) {
            text = text.trim_start();
        }
        if trim_end {
            text = text.trim_end();
        }
        if !text.is_empty() {
            nodes.push(Node::Text(text.to_owned()));
        }
    }

    /// `if`, `range` or `with`, the next token, to its end.
    fn block(&mut self) -> Result<Node> {
        self.deeper()?;
        let known = self.names.len();
        let Some(Token::Word(word)) = self.tokens.pop() else { bail!("a block has no name") };
        let names = self.declared(if word == "range" { 2 } else { 1 })?;
        let pipe = self.whole_pipe()?;
        self.names.extend(names.iter().cloned());
        let (body, end) = self.nodes()?;
        self.names.truncate(known);
        let otherwise = match end {
            Ended::Text => bail!("{{{{{word}}}}} has no {{{{end}}}}"),
            Ended::Closed => Vec::new(),
            Ended::Else => match self.tokens.last() {
                None => self.otherwise(&word)?,
                Some(Token::Word(next)) if next == "if" || next == "with" => vec![self.block()?],
                Some(_) => bail!("{{{{else}}}} is followed by something else than if"),
            },
        };
        self.names.truncate(known);
        self.depth -= 1;
        Ok(match word.as_str() {
            "if" if names.is_empty() => Node::If { test: pipe, then: body, otherwise },
            "if" => bail!("a variable of {{{{if}}}}: use {{{{with}}}}"),
            "with" => Node::With { name: names.into_iter().next(), over: pipe, body, otherwise },
            _ => Node::Range { names, over: pipe, body, otherwise },
        })
    }

    fn otherwise(&mut self, word: &str) -> Result<Vec<Node>> {
        match self.nodes()? {
            (nodes, Ended::Closed) => Ok(nodes),
            (_, Ended::Text) => bail!("{{{{{word}}}}} has no {{{{end}}}}"),
            (_, Ended::Else) => bail!("{{{{{word}}}}} has two {{{{else}}}}"),
        }
    }

    /// The names in `$a, $b :=`, at most `most` of them; none where that is not what comes next.
    fn declared(&mut self, most: usize) -> Result<Vec<String>> {
        let mut names = Vec::new();
        let mut used = 0;
        for token in self.tokens.iter().rev() {
            used += 1;
            match token {
                Token::Variable(name) if used % 2 == 1 => names.push(name.clone()),
                Token::Comma if used % 2 == 0 => {}
                Token::Declare if used % 2 == 0 && names.len() <= most => {
                    if names.iter().any(String::is_empty) {
                        bail!("`$` is the row and cannot be set");
                    }
                    self.tokens.truncate(self.tokens.len() - used);
                    return Ok(names);
                }
                _ => break,
            }
        }
        Ok(Vec::new())
    }

    fn all_read(&self) -> Result<()> {
        match self.tokens.last() {
            None => Ok(()),
            Some(token) => bail!("{token} is not expected there"),
        }
    }

    fn whole_pipe(&mut self) -> Result<Pipe> {
        let pipe = self.pipe()?;
        self.all_read().map(|()| pipe)
    }

    fn pipe(&mut self) -> Result<Pipe> {
        let mut pipe = Vec::new();
        loop {
            let command = self.command(!pipe.is_empty())?;
            pipe.push(command);
            if self.tokens.last() != Some(&Token::Pipe) {
                return Ok(pipe);
            }
            self.tokens.pop();
        }
    }

    fn command(&mut self, piped: bool) -> Result<Command> {
        let head = match self.tokens.last() {
            Some(Token::Word(word)) if constant(word).is_none() => {
                let function = Function::named(word)?;
                self.tokens.pop();
                Head::Function(function)
            }
            _ => Head::Term(self.term()?),
        };
        let mut arguments = Vec::new();
        while !matches!(self.tokens.last(), None | Some(Token::Pipe | Token::Close)) {
            arguments.push(self.term()?);
        }
        let given = arguments.len() + usize::from(piped);
        match &head {
            Head::Function(function) => function.takes(given)?,
            // As docker's `.Label "key"`.
            Head::Term(Term { path, .. }) if given == 1 && !path.is_empty() => {}
            Head::Term(_) if given > 0 => bail!("what is given a value there is not a function"),
            Head::Term(_) => {}
        }
        Ok(Command { head, arguments })
    }

    fn term(&mut self) -> Result<Term> {
        let from = match self.tokens.pop() {
            Some(Token::Path { fields, .. }) => return Ok(Term { from: From::Dot, path: fields }),
            Some(Token::Variable(name)) if self.names.contains(&name) => From::Variable(name),
            Some(Token::Variable(name)) => bail!("there is no variable `${name}`"),
            Some(Token::Open) => {
                self.deeper()?;
                let pipe = self.pipe()?;
                self.depth -= 1;
                if self.tokens.pop() != Some(Token::Close) {
                    bail!("a parenthesis is not closed");
                }
                From::Pipe(pipe)
            }
            Some(Token::Text(text)) => From::Constant(Value::String(text)),
            Some(Token::Number(number)) => From::Constant(number.into()),
            Some(Token::Word(word)) => match constant(&word) {
                Some(value) => From::Constant(value),
                None => bail!("`{word}` is not expected there: a function that is an argument stands in parentheses"),
            },
            Some(token) => bail!("{token} is not expected there"),
            None => bail!("a value is missing"),
        };
        let glued = matches!(self.tokens.last(), Some(Token::Path { glued: true, .. }));
        let path = match (glued, &from) {
            (false, _) => Vec::new(),
            (true, From::Constant(_)) => bail!("a constant has no fields"),
            (true, _) => match self.tokens.pop() {
                Some(Token::Path { fields, .. }) => fields,
                _ => Vec::new(),
            },
        };
        Ok(Term { from, path })
    }

    fn deeper(&mut self) -> Result<()> {
        self.depth += 1;
        if self.depth > DEPTH {
            bail!("it nests deeper than {DEPTH}");
        }
        Ok(())
    }
}

fn constant(word: &str) -> Option<Value> {
    match word {
        "true" => Some(true.into()),
        "false" => Some(false.into()),
        "nil" => Some(Value::Null),
        _ => None,
    }
}
