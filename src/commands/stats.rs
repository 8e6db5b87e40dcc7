//! `minirun stats`: what containers use, from their cgroups where they have some, else from /proc.

use std::collections::BTreeMap;
use std::io::{IsTerminal, stdout};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use serde::Serialize;

use super::pause::processes;
use crate::error::print;
use crate::listing::cells::decimal;
use crate::listing::{self, Column, ListArgs, Listing};
use crate::sandbox::cgroup::Usage;
use crate::state::{Found, State};

/// Options of `stats`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun stats
  minirun stats --no-stream web
  minirun stats --no-stream --format json | jq '.[].interfaces'")]
pub struct StatsArgs {
    /// Show it once
    #[arg(long)]
    no_stream: bool,
    /// The form.
    #[command(flatten)]
    list: ListArgs,
    /// Names or IDs; all that run where none is given
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// What a container uses.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    name: String,
    /// Of one processor.
    cpu_percent: f64,
    cpu_seconds: f64,
    memory_bytes: u64,
    memory_limit: Option<u64>,
    pids: u64,
    pids_limit: Option<u64>,
    interfaces: BTreeMap<String, Counters>,
}

/// What went through an interface.
#[derive(Debug, Default, Serialize)]
struct Counters {
    received_bytes: u64,
    received_packets: u64,
    received_dropped: u64,
    sent_bytes: u64,
    sent_packets: u64,
    sent_dropped: u64,
}

/// Shows it, again and again unless once is enough.
pub fn stats(args: &StatsArgs, root: &Path) -> Result<()> {
    let state = State::open(root)?;
    // What is not there is an error at once.
    for word in &args.containers {
        state.find(word)?.process("show what is used by")?;
    }
    let mut pause = Duration::from_millis(200);
    let mut first = true;
    loop {
        let before = sample(&state, &args.containers)?;
        let begun = Instant::now();
        std::thread::sleep(pause);
        let after = sample(&state, &args.containers)?;
        let seconds = begun.elapsed().as_secs_f64();
        let rows: Vec<Row> = after.iter().map(|(found, usage)| row(found, usage, &before, seconds)).collect();
        let text = listing::text(&args.list, &rows, &listing(), stdout().is_terminal())?;
        let home = if stdout().is_terminal() && !args.no_stream { "\u{1b}[H\u{1b}[2J" } else { "" };
        print(&format!("{home}{text}"))?;
        if args.no_stream || !args.containers.is_empty() && rows.is_empty() {
            return Ok(());
        }
        // A reader that has gone does not want more.
        if !first && !crate::error::has_reader() {
            return Ok(());
        }
        first = false;
        pause = Duration::from_secs(1);
    }
}

/// What the containers have used so far.
fn sample(state: &State, words: &[String]) -> Result<Vec<(Found, Usage)>> {
    let all = match words {
        [] => state.list()?,
        words => words.iter().filter_map(|word| state.find(word).ok()).collect(),
    };
    let living = all.into_iter().filter(|found| found.status.lives());
    Ok(living
        .map(|found| (Usage::of(&found.record.inside.groups, || processes(&found)), found))
        .map(|(u, f)| (f, u))
        .collect())
}

fn row(found: &Found, usage: &Usage, before: &[(Found, Usage)], seconds: f64) -> Row {
    let earlier = before.iter().find(|(other, _)| other.record.id == found.record.id).map_or(usage, |(_, usage)| usage);
    Row {
        id: found.record.id.clone(),
        name: found.record.name.clone(),
        cpu_percent: usage.cpu_ns.saturating_sub(earlier.cpu_ns) as f64 / 1e7 / seconds,
        cpu_seconds: usage.cpu_ns as f64 / 1e9,
        memory_bytes: usage.memory_bytes,
        memory_limit: usage.memory_limit,
        pids: usage.pids,
        pids_limit: usage.pids_limit,
        interfaces: interfaces(found.record.pid.unwrap_or_default()),
    }
}

/// The counters of a process's network (proc_pid_net(5), `dev`).
fn interfaces(pid: i32) -> BTreeMap<String, Counters> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().map_while(|number| number.parse().ok()).collect();
        let [received_bytes, received_packets, _, received_dropped, ..] = numbers[..] else { return None };
        let [sent_bytes, sent_packets, _, sent_dropped, ..] = numbers[8..] else { return None };
        let counters =
            Counters { received_bytes, received_packets, received_dropped, sent_bytes, sent_packets, sent_dropped };
        Some((name.trim().to_owned(), counters))
    };
    text.lines().skip(2).filter_map(line).collect()
}

fn listing() -> Listing<'static, Row> {
    let of_limit =
        |used: String, limit: Option<String>| limit.map_or(used.clone(), |limit| format!("{used} / {limit}"));
    let outside = |row: &Row, count: fn(&Counters) -> u64| {
        row.interfaces.iter().filter(|(name, _)| *name != "lo").map(|(_, counters)| count(counters)).sum::<u64>()
    };
    Listing {
        columns: vec![
            Column::new("ID", |row: &Row| row.id.clone()),
            Column::new("NAME", |row: &Row| row.name.clone()),
            Column::new("CPU", |row: &Row| format!("{:.1}%", row.cpu_percent)).right(),
            Column::new("MEMORY", move |row: &Row| of_limit(decimal(row.memory_bytes), row.memory_limit.map(decimal))),
            Column::new("PIDS", move |row: &Row| {
                of_limit(row.pids.to_string(), row.pids_limit.map(|limit| limit.to_string()))
            })
            .right(),
            Column::new("RECEIVED", move |row: &Row| decimal(outside(row, |counters| counters.received_bytes))).right(),
            Column::new("SENT", move |row: &Row| decimal(outside(row, |counters| counters.sent_bytes))).right(),
        ],
        id: |row| &row.id,
        aliases: &[("CPUPerc", "cpu_percent"), ("Container", "id"), ("PIDs", "pids"), ("MemUsage", "memory_bytes")],
    }
}
