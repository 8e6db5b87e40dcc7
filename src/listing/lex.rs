//! The words of an action of a template.

use std::fmt;

use anyhow::{Result, bail};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// `.A.B`, or the dot alone; `glued` to what stands before it, whose fields they then are.
    Path {
        fields: Vec<String>,
        glued: bool,
    },
    Variable(String),
    Word(String),
    Text(String),
    Number(i64),
    Open,
    Close,
    Pipe,
    Comma,
    Declare,
    Comment,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path { fields, .. } => write!(f, "`.{}`", fields.join(".")),
            Self::Variable(name) => write!(f, "`${name}`"),
            Self::Word(word) => write!(f, "`{word}`"),
            Self::Text(text) => write!(f, "{text:?}"),
            Self::Number(number) => write!(f, "`{number}`"),
            Self::Open => f.write_str("`(`"),
            Self::Close => f.write_str("`)`"),
            Self::Pipe => f.write_str("`|`"),
            Self::Comma => f.write_str("`,`"),
            Self::Declare => f.write_str("`:=`"),
            Self::Comment => f.write_str("a comment"),
        }
    }
}

/// The tokens up to `}}`, the first one last, and whether it was `-}}`; `rest` is then what follows.
pub(super) fn lex(rest: &mut &str) -> Result<(Vec<Token>, bool)> {
    let mut tokens = Vec::new();
    loop {
        let trimmed = rest.trim_start();
        let glued = trimmed.len() == rest.len() && !tokens.is_empty();
        *rest = trimmed;
        let trim = (!glued).then(|| rest.strip_prefix("-}}")).flatten();
        if let Some(after) = trim.or_else(|| rest.strip_prefix("}}")) {
            *rest = after;
            if tokens.is_empty() {
                bail!("an action is empty");
            }
            tokens.reverse();
            return Ok((tokens, trim.is_some()));
        }
        let token = token(rest, glued)?;
        if tokens.first() == Some(&Token::Comment) || (token == Token::Comment && !tokens.is_empty()) {
            bail!("a comment stands alone: {{{{/* so */}}}}");
        }
        tokens.push(token);
    }
}

fn token(rest: &mut &str, glued: bool) -> Result<Token> {
    let text = *rest;
    let mut chars = text.chars();
    let Some(first) = chars.next() else { bail!("an action is not closed by }}}}") };
    *rest = chars.as_str();
    Ok(match first {
        '(' => Token::Open,
        ')' => Token::Close,
        '|' => Token::Pipe,
        ',' => Token::Comma,
        ':' if rest.starts_with('=') => {
            *rest = &rest[1..];
            Token::Declare
        }
        '/' if rest.starts_with('*') => match rest.split_once("*/") {
            Some((_, after)) => {
                *rest = after;
                Token::Comment
            }
            None => bail!("a comment is not closed"),
        },
        '"' => Token::Text(quoted(rest)?),
        '`' => match rest.split_once('`') {
            Some((raw, after)) => {
                *rest = after;
                Token::Text(raw.to_owned())
            }
            None => bail!("a text is not closed by `"),
        },
        '.' => Token::Path { fields: fields(rest)?, glued },
        '$' => Token::Variable(word(rest).to_owned()),
        '-' | '0'..='9' => {
            let digits = text.len() - text[1..].trim_start_matches(|c: char| c.is_ascii_alphanumeric()).len();
            *rest = &text[digits..];
            match text[..digits].parse() {
                Ok(number) => Token::Number(number),
                Err(_) => bail!("`{}` is no whole number", &text[..digits]),
            }
        }
        c if is_word(c) => {
            *rest = text;
            Token::Word(word(rest).to_owned())
        }
        c => bail!("`{}` is not expected there", c.escape_debug()),
    })
}

/// What follows a dot: `A.B`.
fn fields(rest: &mut &str) -> Result<Vec<String>> {
    let mut fields = Vec::new();
    loop {
        match word(rest) {
            "" if fields.is_empty() => return Ok(fields),
            "" => bail!("a name is missing behind a dot"),
            name => fields.push(name.to_owned()),
        }
        match rest.strip_prefix('.') {
            Some(after) => *rest = after,
            None if rest.starts_with('-') && !rest.starts_with("-}}") => {
                bail!("a name with `-`: use index, as {{{{index .Labels \"a-b\"}}}}")
            }
            None => return Ok(fields),
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn word<'a>(rest: &mut &'a str) -> &'a str {
    let text = *rest;
    *rest = text.trim_start_matches(is_word);
    &text[..text.len() - rest.len()]
}

/// A text up to its quotation mark, which is taken as well.
fn quoted(rest: &mut &str) -> Result<String> {
    let mut text = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next() {
            Some('"') => break,
            Some('\\') => text.push(match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                Some(c @ ('"' | '\\' | '\'')) => c,
                _ => bail!("a text has an escape other than \\n, \\t, \\r, \\\" and \\\\"),
            }),
            Some(c) => text.push(c),
            None => bail!("a text is not closed by \""),
        }
    }
    *rest = chars.as_str();
    Ok(text)
}
