//! `minirun ps`: the containers that live.

use std::path::Path;

use anyhow::Result;

use super::filter::Filter;
use crate::cli::PsArgs;
use crate::listing::cells::{age, now, optional};
use crate::listing::{self, Column, Listing};
use crate::state::{Record, State};

/// docker's names for the fields.
const ALIASES: [(&str, &str); 7] = [
    ("Names", "name"),
    ("ContainerID", "id"),
    ("CreatedAt", "created"),
    ("RunningFor", "age"),
    ("Networks", "network"),
    ("Label", "labels"),
    ("IPAddress", "address"),
];

/// Prints the list, after the sweep of what killed ones left.
pub fn ps(args: &PsArgs, root: &Path) -> Result<()> {
    let filter = Filter::parse(&args.filter)?;
    let mut records = State::open(root)?.list()?;
    if !filter.is_empty() {
        let mut matching = Vec::new();
        for record in records {
            if filter.matches(&serde_json::to_value(&record)?) {
                matching.push(record);
            }
        }
        records = matching;
    }
    listing::print(&args.list, &records, &listing(now()))
}

fn listing(now: u64) -> Listing<'static, Record> {
    Listing {
        columns: vec![
            Column::new("ID", |record: &Record| record.id.clone()),
            Column::new("NAME", |record: &Record| record.name.clone()),
            Column::new("IMAGE", |record: &Record| record.image.clone()),
            Column::new("COMMAND", |record: &Record| record.command.join(" ")).at_most(30),
            Column::new("NET", |record: &Record| record.network.clone()),
            Column::new("ADDRESS", |record: &Record| optional(record.address)),
            Column::new("PID", |record: &Record| optional(record.pid)),
            Column::new("AGE", move |record: &Record| age(now.saturating_sub(record.created))),
        ],
        id: |record| &record.id,
        aliases: &ALIASES,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::listing::ListArgs;

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
        };
        let text = listing::text(&ListArgs::default(), &[record], &listing(100), false).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let column = |line: &str, word: &str| line[..line.find(word).unwrap()].chars().count();
        assert_eq!(column(lines[0], "NET"), column(lines[1], "bridge"), "{text}");
        assert!(text.contains("\\u{1b}") && text.contains("1m"), "{text}");
    }
}
