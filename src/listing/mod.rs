//! Every listing is printed here: a table, JSON, or what a template of docker's kind makes of each row.
//!
//! A verb flattens [`ListArgs`] into its options, describes its rows once as a [`Listing`] and calls [`print()`]. Rows say all
//! their fields (`null` where there is nothing), so that a template can tell a field that is empty from one that is not.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;

use anyhow::{Result, anyhow};
use clap::Args;
use serde::Serialize;

pub mod cells;
mod execute;
mod functions;
mod lex;
mod parse;
pub mod table;
pub mod template;

use self::table::{Layout, table};
use self::template::{Row, Template};
use crate::error;

/// How a listing is printed.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum Format {
    /// Aligned columns.
    #[default]
    Table,
    /// An array of objects.
    Json,
    /// What a template makes of each row, a line each.
    Template(Template),
    /// What a template makes of each row, aligned at its tabs, below a head.
    Columns(Template),
}

impl FromStr for Format {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let read = || {
            Ok(match text.trim() {
                "table" => Self::Table,
                "json" => Self::Json,
                words if !words.contains("{{") => {
                    let remedy = "use table, json or a template as '{{.ID}} {{.Name}}'";
                    return Err(error::refused("it is not a form and has no `{{`", remedy));
                }
                words => match words.strip_prefix("table").filter(|rest| rest.starts_with(char::is_whitespace)) {
                    Some(columns) => Self::Columns(Template::parse(columns.trim())?),
                    // As it was typed: blanks around a template are part of it.
                    None => Self::Template(Template::parse(text)?),
                },
            })
        };
        // The remedy goes where clap puts its own, and where `error::report_usage` looks for one.
        read().map_err(|error: anyhow::Error| match error::remedy_of(&error) {
            Some(remedy) => anyhow!("{error:#}\n\ntip: {remedy}"),
            None => anyhow!("{error:#}"),
        })
    }
}

/// The options that every listing has.
#[derive(Debug, Clone, Default, Args)]
pub struct ListArgs {
    /// Print only the IDs (where there are none, the names)
    #[arg(short, long, conflicts_with = "format")]
    pub quiet: bool,
    /// Form of the list: `table`, `json`, a template as '{{.ID}}', or `table TEMPLATE`
    #[arg(long, value_name = "FORM", default_value = "table")]
    pub format: Format,
    /// Do not shorten long cells of a table
    #[arg(long)]
    pub no_trunc: bool,
}

/// A column of a table.
pub struct Column<'a, T> {
    head: &'static str,
    layout: Layout,
    cell: Box<dyn Fn(&T) -> String + 'a>,
}

impl<'a, T> Column<'a, T> {
    /// A column whose cells `cell` makes. An empty one is shown as `-`.
    pub fn new(head: &'static str, cell: impl Fn(&T) -> String + 'a) -> Self {
        Self { head, layout: Layout::default(), cell: Box::new(cell) }
    }

    /// Aligned at the right, as numbers are.
    #[must_use]
    pub fn right(mut self) -> Self {
        self.layout.right = true;
        self
    }

    /// Cells that are wider are shortened, unless `--no-trunc` is given.
    #[must_use]
    pub fn at_most(mut self, width: usize) -> Self {
        self.layout.limit = Some(width);
        self
    }
}

impl<T> fmt::Debug for Column<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Column").field(&self.head).field(&self.layout).finish()
    }
}

/// What a list of `T` looks like.
#[derive(Debug)]
pub struct Listing<'a, T> {
    /// The columns of the table. Their heads are fields of templates as well.
    pub columns: Vec<Column<'a, T>>,
    /// What `-q` prints.
    pub id: fn(&T) -> &str,
    /// docker's names for fields, as (`Names`, `name`).
    pub aliases: &'a [(&'a str, &'a str)],
}

/// Prints `rows` in the form that was asked for.
pub fn print<T: Serialize>(args: &ListArgs, rows: &[T], listing: &Listing<'_, T>) -> Result<()> {
    error::print(&text(args, rows, listing, std::io::stdout().is_terminal())?)
}

/// What [`print()`] prints. In templates the values' control characters are escaped where a `terminal` would see them, and
/// are given as they are to a program; in the other forms they never are there.
pub fn text<T: Serialize>(args: &ListArgs, rows: &[T], listing: &Listing<'_, T>, terminal: bool) -> Result<String> {
    if args.quiet {
        return Ok(rows.iter().map(|row| error::printable((listing.id)(row)) + "\n").collect());
    }
    let heads: Vec<&str> = listing.columns.iter().map(|column| column.head).collect();
    let render = |template: &Template, escape: bool| -> Result<Vec<String>> {
        let one = |item: &T| {
            let value = serde_json::to_value(item)?;
            let cell = |column: usize| listing.columns.get(column).map_or(String::new(), |column| (column.cell)(item));
            let row = Row { value: &value, aliases: listing.aliases, heads: &heads, cell: &cell };
            template.render(&row, escape)
        };
        rows.iter().map(one).collect()
    };
    Ok(match &args.format {
        Format::Json => json(&rows, true)? + "\n",
        Format::Template(template) => render(template, terminal)?.iter().map(|line| format!("{line}\n")).collect(),
        Format::Columns(template) => {
            let cells = |line: &str| line.split('\t').map(str::to_owned).collect();
            let lines = render(template, true)?;
            let rows: Vec<Vec<String>> = lines.iter().flat_map(|text| text.lines()).map(cells).collect();
            table(&cells(&template.head(listing.aliases, &heads)), &rows, &[])
        }
        Format::Table => {
            let heads: Vec<String> = heads.into_iter().map(str::to_owned).collect();
            let cells = |item: &T| listing.columns.iter().map(|column| (column.cell)(item)).collect();
            let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
            let whole = |layout: Layout| if args.no_trunc { Layout { limit: None, ..layout } } else { layout };
            table(&heads, &rows, &listing.columns.iter().map(|column| whole(column.layout)).collect::<Vec<_>>())
        }
    })
}

/// JSON in which the control characters that may stand in it as they are (from U+007F to U+009F) are escaped, too: it means
/// the same, and a terminal is not spoken to.
fn json(value: &(impl Serialize + ?Sized), pretty: bool) -> Result<String> {
    let text = if pretty { serde_json::to_string_pretty(value)? } else { serde_json::to_string(value)? };
    let speaks = |c: char| c.is_control() && c != '\n';
    if !text.contains(speaks) {
        return Ok(text);
    }
    let escaped = |c: char| if speaks(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    Ok(text.chars().map(escaped).collect())
}

#[cfg(test)]
mod tests;
