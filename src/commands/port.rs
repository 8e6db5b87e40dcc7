//! `minirun port`: which ports of the host lead to which of a container.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use crate::control::{self, Ask};
use crate::error::{note, print};
use crate::listing::{self, Column, ListArgs, Listing};
use crate::net::publish::Port;
use crate::state::State;

/// Options of `port`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun port web                 all of them
  minirun port web 80              where port 80 of the container is
  minirun port --format json       of all containers
  minirun port web --add 8080:80   publish one more while it runs
  minirun port web --rm 80         take it back")]
pub struct PortArgs {
    /// Name or ID; none is all that run
    #[arg(value_name = "CONTAINER")]
    container: Option<String>,
    /// A port of the container, tcp unless said otherwise: only where it is
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<String>,
    /// Publish a port of a container that runs, as `run -p` does
    #[arg(long, value_name = "[ADDRESS:][HOSTPORT:]PORT[/PROTOCOL]", requires = "container", conflicts_with = "port")]
    add: Vec<String>,
    /// Take back what is published of a port of a container that runs, or one publication of it
    #[arg(long, value_name = "[[ADDRESS:]HOSTPORT:]PORT[/PROTOCOL]", requires = "container", conflicts_with = "port")]
    rm: Vec<String>,
    /// The form.
    #[command(flatten)]
    list: ListArgs,
}

/// A published port, or a range, as it is listed.
#[derive(Debug, Serialize)]
struct Row {
    container: String,
    address: IpAddr,
    host_port: String,
    port: String,
    protocol: String,
    target: IpAddr,
    /// Whether other machines can reach it.
    exposed: bool,
}

impl Row {
    fn of(container: &str, port: &Port) -> Self {
        let range = |first: u16| match port.count {
            1 => first.to_string(),
            count => format!("{first}-{}", first + (count - 1)),
        };
        Self {
            container: container.to_owned(),
            address: port.address,
            host_port: range(port.host),
            port: range(port.port),
            protocol: port.protocol.to_string(),
            target: port.target,
            exposed: port.is_exposed(),
        }
    }
}

/// Prints them.
pub fn port(args: &PortArgs, root: &Path) -> Result<()> {
    let state = State::open(root)?;
    let found = match &args.container {
        Some(word) => vec![state.find(word)?],
        None => state.list()?.into_iter().filter(|found| found.holder.is_some()).collect(),
    };
    if let (Some(found), true) = (found.first(), !args.add.is_empty() || !args.rm.is_empty()) {
        // First those that go: one of the new ones may be in the place of one.
        for (ask, verb) in
            [(Ask::Withdraw(args.rm.clone()), "took back"), (Ask::Publish(args.add.clone()), "published")]
        {
            if matches!(&ask, Ask::Withdraw(texts) | Ask::Publish(texts) if !texts.is_empty()) {
                control::ask(found, &ask)?.iter().for_each(|line| note(&format!("{verb} {line}")));
            }
        }
        return Ok(());
    }
    if let (Some(wanted), Some(found)) = (&args.port, found.first()) {
        return one(&found.record.name, &found.record.ports, wanted);
    }
    let live = found.iter().filter(|found| found.status.lives());
    let rows: Vec<Row> =
        live.flat_map(|found| found.record.ports.iter().map(|port| Row::of(&found.record.name, port))).collect();
    let who = |row: &Row| if row.exposed { "other machines" } else { "this host" }.to_owned();
    listing::print(
        &args.list,
        &rows,
        &Listing {
            columns: vec![
                Column::new("CONTAINER", |row: &Row| row.container.clone()),
                Column::new("PORT", |row: &Row| format!("{}/{}", row.port, row.protocol)),
                Column::new("HOST ADDRESS", |row: &Row| row.address.to_string()),
                Column::new("HOST PORT", |row: &Row| row.host_port.clone()),
                Column::new("OPEN TO", who),
            ],
            id: |row| &row.container,
            aliases: &[],
        },
    )
}

/// Where one port of a container is, a line each: `127.0.0.1:8080`.
fn one(name: &str, ports: &[Port], wanted: &str) -> Result<()> {
    let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let number: u16 = number.parse().map_err(|_| anyhow::anyhow!("show port `{wanted}`: a port is wanted"))?;
    let has = |port: &&Port| {
        port.protocol.to_string() == protocol && (port.port..=port.port + (port.count - 1)).contains(&number)
    };
    let lines: Vec<String> = ports
        .iter()
        .filter(has)
        .map(|port| format!("{}\n", std::net::SocketAddr::new(port.address, port.host + (number - port.port))))
        .collect();
    if lines.is_empty() {
        bail!("show port `{wanted}` of container `{name}`: it is not published");
    }
    print(&lines.concat())
}
