//! `minirun logs`: what the program of a detached container wrote.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::Result;
use clap::Args;

use crate::error::refused;
use crate::log::{self, Query};
use crate::state::State;
use crate::time;

/// Show what a detached container wrote
///
/// What the program wrote to standard output goes to standard output, what it wrote to standard error to standard error,
/// byte by byte. The log is kept until the container is removed, as much of it as `--log-opt` of `run` says. What could not
/// be kept, because the disk was full, is told on standard error.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  minirun logs web                                          all that is kept
  minirun logs -f -n 20 web                                 the last 20 lines, and what comes
  minirun logs -t --since 10m web                           the last ten minutes, with times
  minirun logs --since 2026-11-25T21:00:00Z --until 5m web  from then until five minutes ago
  minirun logs web 2>/dev/null                              standard output alone")]
pub struct LogsArgs {
    /// Show what is written from now on too, until the container has ended
    #[arg(short, long)]
    follow: bool,
    /// Show the last lines only: a number, or `all`
    #[arg(short = 'n', long, value_name = "N", default_value = "all", allow_hyphen_values = true, value_parser = tail)]
    tail: Tail,
    /// Show what was written since a time (RFC 3339 or UNIX) or within a duration (10m, 1h30m)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Show what was written until a time, or until a duration ago
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Show the time before each line
    #[arg(short, long)]
    timestamps: bool,
    /// Name or id of the container
    #[arg(value_name = "CONTAINER")]
    pub container: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Tail {
    All,
    Lines(u64),
}

fn tail(text: &str) -> Result<Tail, &'static str> {
    match text {
        // docker takes any negative number for all.
        "all" | "-1" => Ok(Tail::All),
        number => number.parse().map(Tail::Lines).map_err(|_| "not a number of lines, nor `all`"),
    }
}

/// Shows the log of a container.
pub fn logs_of(args: &LogsArgs, root: &Path) -> Result<()> {
    let state = State::open(root)?;
    let found = state.find(&args.container)?;
    let Some(directory) = &found.record.log else {
        return Err(refused(
            format!("show the log of container `{}`: it has none", found.record.name),
            "it runs in the foreground, and what it writes goes there; `run -d` keeps a log",
        ));
    };
    // Its directory has another name, or none, once it has ended.
    logs(args, directory, || found.holder.is_some() && found.path.exists())
}

/// Shows the log in `directory`. `running` tells whether the container may still write.
pub fn logs(args: &LogsArgs, directory: &Path, running: impl Fn() -> bool) -> Result<()> {
    let query = query(args, time::now())?;
    let (out, err) = (io::stdout().lock(), io::stderr().lock());
    log::read(directory, &query, running, (out, err), Some(io::stdout().as_fd()))
}

fn query(args: &LogsArgs, now: i64) -> Result<Query> {
    let point = |option: &str, text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => time::point(text, now).map(Some).ok_or_else(|| {
            refused(
                format!("read option `--{option} {text}`: not a time"),
                "`2026-11-25T21:00:00Z`, a UNIX time such as `1795640400`, or a duration: `10m`, `1h30m`",
            )
        }),
    };
    let tail = match args.tail {
        Tail::All => None,
        Tail::Lines(lines) => Some(lines),
    };
    let (since, until) = (point("since", &args.since)?, point("until", &args.until)?);
    Ok(Query { follow: args.follow, tail, since, until, timestamps: args.timestamps })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        logs: LogsArgs,
    }

    fn parse(line: &str) -> Result<LogsArgs, clap::Error> {
        Cli::try_parse_from(format!("logs {line}").split(' ')).map(|cli| cli.logs)
    }

    #[test]
    fn what_can_be_typed() {
        for line in ["web", "-f web", "-fn 5 web", "--tail=all web", "--tail -1 web", "-t --since 10m --until 5 web"] {
            let args = parse(line).unwrap_or_else(|e| panic!("{e}"));
            query(&args, 0).unwrap();
        }
        for line in ["-f", "-n web", "-n x web", "-n -5 web", "a b", "--since web"] {
            assert!(parse(line).is_err(), "{line}");
        }
        let error = query(&parse("--until noon web").unwrap(), 0).unwrap_err();
        assert_eq!(format!("{error:#}"), "read option `--until noon`: not a time");
    }

    #[test]
    fn what_it_means() {
        let args = parse("-f -n 7 --since 1s --until 1970-01-01T00:00:09Z -t web").unwrap();
        let query = query(&args, 5_000_000_000).unwrap();
        assert!(query.follow && query.timestamps);
        assert_eq!((query.tail, query.since, query.until), (Some(7), Some(4_000_000_000), Some(9_000_000_000)));
    }
}
