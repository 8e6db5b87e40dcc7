//! `minirun ps`: the containers that live, and with `-a` those that are kept.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::filter::Filter;
use crate::cli::PsArgs;
use crate::listing::cells::{age, now, optional};
use crate::listing::{self, Column, Listing};
use crate::state::{Found, State, Status};

/// docker's names for the fields.
const ALIASES: [(&str, &str); 7] = [
    ("Names", "name"),
    ("ContainerID", "id"),
    ("CreatedAt", "created"),
    ("Networks", "network"),
    ("Label", "labels"),
    ("IPAddress", "address"),
    ("State", "status"),
];

/// A container as it is listed.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    name: String,
    image: String,
    command: Vec<String>,
    network: String,
    address: Option<Ipv4Addr>,
    created: u64,
    started: u64,
    finished: Option<u64>,
    status: String,
    exit_code: Option<u8>,
    pid: Option<i32>,
    pid_start: Option<u64>,
    detached: bool,
    labels: BTreeMap<String, String>,
}

impl From<Found> for Row {
    fn from(found: Found) -> Self {
        let Found { record, status, .. } = found;
        let lives = status.lives() || status == Status::Starting;
        Self {
            id: record.id,
            name: record.name,
            image: record.image,
            command: record.command,
            network: record.network,
            address: record.interfaces.first().map(|first| first.address.addr()).filter(|_| lives),
            created: record.created,
            started: record.started,
            finished: record.exit.map(|exit| exit.finished),
            status: status.to_string(),
            exit_code: record.exit.map(|exit| exit.code),
            pid: record.pid.filter(|_| lives),
            pid_start: record.pid_start.filter(|_| lives),
            detached: record.detached,
            labels: record.labels,
        }
    }
}

/// Prints the list, after the sweep of what killed ones left.
pub fn ps(args: &PsArgs, root: &Path) -> Result<()> {
    let filter = Filter::parse(&args.filter)?;
    // Who asks for what has ended wants to see it.
    let all = args.all || args.filter.iter().any(|word| word.starts_with("status=") || word.starts_with("exited="));
    let found = State::open(root)?.list()?.into_iter().filter(|found| all || found.holder.is_some());
    let mut rows: Vec<Row> = found.map(Row::from).collect();
    if !filter.is_empty() {
        let mut matching = Vec::new();
        for row in rows {
            if filter.matches(&serde_json::to_value(&row)?) {
                matching.push(row);
            }
        }
        rows = matching;
    }
    listing::print(&args.list, &rows, &listing(now()))
}

fn listing(now: u64) -> Listing<'static, Row> {
    Listing {
        columns: vec![
            Column::new("ID", |row: &Row| row.id.clone()),
            Column::new("NAME", |row: &Row| row.name.clone()),
            Column::new("IMAGE", |row: &Row| row.image.clone()),
            Column::new("COMMAND", |row: &Row| row.command.join(" ")).at_most(30),
            Column::new("NET", |row: &Row| row.network.clone()),
            Column::new("ADDRESS", |row: &Row| optional(row.address)),
            Column::new("PID", |row: &Row| optional(row.pid)),
            Column::new("STATUS", move |row: &Row| status(row, now)),
        ],
        id: |row| &row.id,
        aliases: &ALIASES,
    }
}

/// What it does, and since when.
fn status(row: &Row, now: u64) -> String {
    let since = |from: u64| age(now.saturating_sub(from));
    match (row.exit_code, row.finished) {
        (Some(code), Some(finished)) if row.status == "exited" => format!("exited ({code}) {} ago", since(finished)),
        _ if row.status == "running" => format!("up {}", since(row.started)),
        _ if row.status == "paused" => format!("paused, up {}", since(row.started)),
        _ => row.status.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::ListArgs;

    #[test]
    fn columns_align_and_nothing_speaks_to_the_terminal() {
        let row = Row {
            id: "0123456789ab".into(),
            name: "web".into(),
            image: "busybox".into(),
            command: vec!["sh".into(), "-c".into(), "\u{1b}[31m echo a rather long command line".into()],
            network: "bridge".into(),
            address: "10.214.0.2".parse().ok(),
            created: 40,
            started: 40,
            finished: Some(70),
            status: "exited".into(),
            exit_code: Some(3),
            pid: None,
            pid_start: None,
            detached: true,
            labels: BTreeMap::new(),
        };
        let text = listing::text(&ListArgs::default(), &[row], &listing(100), false).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let column = |line: &str, word: &str| line[..line.find(word).unwrap()].chars().count();
        assert_eq!(column(lines[0], "NET"), column(lines[1], "bridge"), "{text}");
        assert!(text.contains("\\u{1b}") && text.contains("exited (3) 30s ago"), "{text}");
    }
}
