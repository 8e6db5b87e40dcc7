//! `minirun network verify` and `reload`: what is to be of networks and containers is compared with the kernel, and mended.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use crate::error::{print, printable};
use crate::listing::{self, Column, Format, ListArgs, Listing};
use crate::net::difference::{Difference, commands};
use crate::net::reload::{Report, Scope};

/// The exit code where something differs.
const DIFFERS: u8 = 1;

/// Options of `network verify`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun network verify
  minirun network verify front || minirun network reload front
  minirun network verify --format '{{.Subject}}: {{.What}}'")]
pub struct VerifyArgs {
    /// Form: lines, `json`, or a template as '{{.What}}'
    #[arg(short, long, value_name = "FORM", default_value = "table")]
    format: Format,
    /// Only these, with the containers on them
    #[arg(value_name = "NETWORK")]
    networks: Vec<String>,
}

/// Options of `network reload`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun network reload
  minirun network reload --dry-run front      print what it would do")]
pub struct ReloadArgs {
    /// Print the commands instead
    #[arg(long)]
    dry_run: bool,
    /// Only these, with the containers on them
    #[arg(value_name = "NETWORK")]
    networks: Vec<String>,
}

/// A difference as it is listed.
#[derive(Debug, Serialize)]
struct Row {
    subject: String,
    what: String,
    /// The commands that mend it; none where minirun cannot.
    commands: Vec<String>,
    /// What mends it, in a word.
    mend: String,
}

impl Row {
    fn of((pid, difference): &(Option<i32>, Difference)) -> Self {
        Self {
            subject: difference.subject.clone(),
            what: difference.what.clone(),
            commands: difference.steps.iter().flat_map(|step| commands(step, *pid)).collect(),
            mend: difference.mend(*pid),
        }
    }
}

/// Compares. 1 where something differs.
pub fn verify(args: &VerifyArgs, root: &Path, data_root: &Path) -> Result<u8> {
    let report = Scope { root, data_root, names: &args.networks }.verify()?;
    let rows: Vec<Row> = report.differences.iter().map(Row::of).collect();
    if args.format == Format::Table {
        print(&lines(&rows))?;
        if rows.is_empty() {
            print(&fine(&report))?;
        }
    } else {
        let list = ListArgs { format: args.format.clone(), ..ListArgs::default() };
        let columns = vec![
            Column::new("SUBJECT", |row: &Row| row.subject.clone()),
            Column::new("WHAT", |row: &Row| row.what.clone()),
            Column::new("MEND", |row: &Row| row.mend.clone()),
        ];
        listing::print(&list, &rows, &Listing { columns, id: |row| &row.subject, aliases: &[] })?;
    }
    Ok(if rows.is_empty() { 0 } else { DIFFERS })
}

/// Mends. 1 where something differs still.
pub fn reload(args: &ReloadArgs, root: &Path, data_root: &Path) -> Result<u8> {
    let scope = Scope { root, data_root, names: &args.networks };
    if args.dry_run {
        let report = scope.verify()?;
        let rows = report.differences.iter().map(Row::of);
        let mut text = String::new();
        for row in rows {
            text.push_str(&format!("# {}\n", printable(&format!("{}: {}", row.subject, row.what))));
            match row.commands.as_slice() {
                [] => text.push_str(&format!("# by hand: {}\n", printable(&row.mend))),
                commands => commands.iter().for_each(|command| text.push_str(&format!("{}\n", printable(command)))),
            }
        }
        return print(&text).map(|()| 0);
    }
    let (before, after) = scope.reload()?;
    if before.differences.is_empty() {
        return print(&fine(&before)).map(|()| 0);
    }
    let mended = before.differences.iter().filter(|one| !after.differences.contains(one));
    let mended: String =
        mended.map(|(_, one)| printable(&format!("mended {}: {}", one.subject, one.what)) + "\n").collect();
    let left: Vec<Row> = after.differences.iter().map(Row::of).collect();
    print(&(mended + &lines(&left)))?;
    Ok(if left.is_empty() { 0 } else { DIFFERS })
}

/// A line each: what is wrong, and what mends it.
fn lines(rows: &[Row]) -> String {
    rows.iter().map(|row| printable(&format!("{}: {}; {}", row.subject, row.what, row.mend)) + "\n").collect()
}

fn fine(report: &Report) -> String {
    let number = |count: usize, of: &str| format!("{count} {of}{}", if count == 1 { "" } else { "s" });
    format!("{}, {} as they should be\n", number(report.networks, "network"), number(report.containers, "container"))
}
