//! `minirun top`: the processes of a container.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::pause::processes;
use crate::listing::cells::decimal;
use crate::listing::{self, Column, ListArgs, Listing};
use crate::sandbox::cgroup;
use crate::state::State;

/// Options of `top`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun top web
  minirun top --format '{{.HostPid}} {{.Command}}' web")]
pub struct TopArgs {
    /// The form.
    #[command(flatten)]
    list: ListArgs,
    /// Name or ID
    container: String,
}

/// A process.
#[derive(Debug, Serialize)]
struct Row {
    /// As the container sees it.
    pid: i32,
    host_pid: i32,
    parent: i32,
    uid: u32,
    state: String,
    /// Seconds of processor time.
    cpu_seconds: f64,
    memory_bytes: u64,
    command: String,
    id: String,
}

/// Lists them.
pub fn top(args: &TopArgs, root: &Path) -> Result<()> {
    let found = State::open(root)?.find(&args.container)?;
    found.process("list the processes of")?;
    let mut rows: Vec<Row> = processes(&found).into_iter().filter_map(row).collect();
    rows.sort_by_key(|row| row.pid);
    let listing = Listing {
        columns: vec![
            Column::new("PID", |row: &Row| row.pid.to_string()).right(),
            Column::new("HOST-PID", |row: &Row| row.host_pid.to_string()).right(),
            Column::new("UID", |row: &Row| row.uid.to_string()).right(),
            Column::new("STATE", |row: &Row| row.state.clone()),
            Column::new("CPU", |row: &Row| format!("{:.2}s", row.cpu_seconds)).right(),
            Column::new("MEMORY", |row: &Row| decimal(row.memory_bytes)).right(),
            Column::new("COMMAND", |row: &Row| row.command.clone()).at_most(60),
        ],
        id: |row| &row.id,
        aliases: &[("Cmd", "command"), ("PPid", "parent")],
    };
    listing::print(&args.list, &rows, &listing)
}

/// What /proc says of a process; `None` where it has ended meanwhile.
fn row(host_pid: i32) -> Option<Row> {
    let read = |file: &str| std::fs::read(format!("/proc/{host_pid}/{file}")).ok();
    let status = String::from_utf8_lossy(&read("status")?).into_owned();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let stat = cgroup::stat(host_pid)?;
    let number = |at: usize| stat.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let command = read("cmdline").unwrap_or_default();
    let words: Vec<_> = command.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let command = words.join(" ").trim_end().to_owned();
    Some(Row {
        // The innermost number is the last.
        pid: field("NSpid:")?.split_whitespace().next_back()?.parse().ok()?,
        host_pid,
        parent: field("PPid:")?.parse().ok()?,
        uid: field("Uid:")?.split_whitespace().next()?.parse().ok()?,
        state: stat.first()?.clone(),
        cpu_seconds: (number(11) + number(12)) as f64 / 100.0,
        memory_bytes: field("VmRSS:").and_then(|size| size.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) * 1024,
        command: if command.is_empty() { format!("[{}]", field("Name:")?) } else { command },
        id: host_pid.to_string(),
    })
}
