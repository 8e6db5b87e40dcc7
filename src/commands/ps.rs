//! `minirun ps`: the containers that live.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::cli::{Format, PsArgs};
use crate::error::{print, printable};
use crate::state::{Record, State};

/// Prints the list, after the sweep of what killed ones left.
pub fn ps(args: &PsArgs, root: &Path) -> Result<()> {
    let all = State::open(root)?.list()?;
    let records: Vec<Record> =
        all.into_iter().filter(|found| args.all || found.holder.is_some()).map(|found| found.record).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let text = match args.format {
        _ if args.quiet => records.iter().map(|record| format!("{}\n", record.id)).collect(),
        Format::Json => serde_json::to_string_pretty(&records)? + "\n",
        Format::Table => table(&records, now),
    };
    print(&text)
}

fn table(records: &[Record], now: u64) -> String {
    let head = ["ID", "NAME", "IMAGE", "COMMAND", "NET", "ADDRESS", "PID", "AGE"].map(str::to_owned);
    let rows: Vec<[String; 8]> = std::iter::once(head).chain(records.iter().map(|record| row(record, now))).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..8).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            format!("{}\n", cells.join("  ").trim_end())
        })
        .collect()
}

fn row(record: &Record, now: u64) -> [String; 8] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let mut command = printable(&record.command.join(" "));
    if command.chars().count() > 30 {
        command = command.chars().take(29).chain(['…']).collect();
    }
    [
        record.id.clone(),
        printable(&record.name),
        printable(&record.image),
        command,
        record.network.clone(),
        or_dash(record.address.map(|address| address.to_string())),
        or_dash(record.pid.map(|pid| pid.to_string())),
        age(now.saturating_sub(record.created)),
    ]
}

fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_nothing_speaks_to_the_terminal() {
        let record = Record {
            id: "0123456789ab".into(),
            name: "web".into(),
            image: "busybox".into(),
            command: vec!["sh".into(), "-c".into(), "\u{1b}[31m echo a rather long command line".into()],
            network: "bridge".into(),
            address: "10.214.0.2".parse().ok(),
            created: 40,
            pid: Some(7),
            pid_start: Some(1),
            ..Record::default()
        };
        let text = table(&[record], 100);
        let lines: Vec<&str> = text.lines().collect();
        let column = |line: &str, word: &str| line[..line.find(word).unwrap()].chars().count();
        assert_eq!(column(lines[0], "NET"), column(lines[1], "bridge"), "{text}");
        assert!(text.contains("\\u{1b}") && text.contains("1m"), "{text}");
    }
}
