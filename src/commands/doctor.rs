//! `minirun doctor`: what on this machine would stop or hamper containers' networks.

use std::io::IsTerminal;
use std::path::Path;

use anyhow::Result;
use clap::Args;

use crate::doctor::{Finding, Severity, Sight, examine};
use crate::error::{print, printable};
use crate::listing::{self, Column, Format, ListArgs, Listing};

/// There is an error, or with `--strict` a warning.
const EXIT_FOUND: u8 = 1;

/// Options of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun doctor                                       everything that is looked at
  minirun doctor --strict && ./scripts/deploy          in CI
  minirun doctor --format json | jq -r '.[] | select(.severity == \"error\") | .fix'

Nothing is changed. Exit code: 0 where nothing is wrong or there are warnings only, 1 where there is an error (with
--strict: or a warning).")]
pub struct DoctorArgs {
    /// A warning counts as an error does
    #[arg(long)]
    strict: bool,
    /// The form.
    #[command(flatten)]
    list: ListArgs,
}

/// Looks, and prints what it finds. The exit code.
pub fn doctor(args: &DoctorArgs, root: &Path, data_root: &Path) -> Result<u8> {
    let findings = examine(&mut Sight::take(root, data_root)?);
    if args.list.format == Format::Table && !args.list.quiet {
        let plain =
            !std::io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        print(&text(&findings, !plain))?;
    } else {
        let columns = vec![
            Column::new("SEVERITY", |one: &Finding| one.severity.word().to_owned()),
            Column::new("CODE", |one: &Finding| one.code.to_owned()),
            Column::new("MESSAGE", |one: &Finding| one.message.clone()),
            Column::new("FIX", |one: &Finding| one.fix.clone().unwrap_or_default()),
        ];
        listing::print(&args.list, &findings, &Listing { columns, id: |one| one.code, aliases: &[] })?;
    }
    let worst = findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok);
    let least = if args.strict { Severity::Warning } else { Severity::Error };
    Ok(if worst >= least { EXIT_FOUND } else { 0 })
}

/// A line for each finding, its fix below it, and a last line that counts.
fn text(findings: &[Finding], colour: bool) -> String {
    let width = findings.iter().map(|finding| finding.code.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Finding { code, severity, message, fix } in findings {
        let word = format!("{:<7}", severity.word());
        let word = match severity {
            _ if !colour => word,
            Severity::Ok => format!("\x1b[32m{word}\x1b[0m"),
            Severity::Warning => format!("\x1b[33m{word}\x1b[0m"),
            Severity::Error => format!("\x1b[1;31m{word}\x1b[0m"),
        };
        text.push_str(&format!("{word}  {code:<width$}  {}\n", printable(message)));
        if let Some(fix) = fix {
            text.push_str(&format!("{:<indent$}{}\n", "", printable(fix), indent = width + 11));
        }
    }
    let count = |wanted: Severity| findings.iter().filter(|finding| finding.severity == wanted).count();
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    text.push_str(&format!("{}, {}\n", plural(errors, "error"), plural(warnings, "warning")));
    text
}
