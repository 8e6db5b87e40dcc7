//! `minirun inspect`: all that is known of containers, in the order and by the names that docker's users know.

use std::path::Path;

use anyhow::Result;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use crate::listing::{self, Format, ListArgs, Listing};
use crate::net::Interface;
use crate::net::explain::colons;
use crate::state::{Found, State, Status};

/// Options of `inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun inspect web
  minirun inspect --format '{{.State.Pid}}' web
  minirun inspect --format '{{.NetworkSettings.IPAddress}}' web")]
pub struct InspectArgs {
    /// Form: `json`, or a template as '{{.State.Status}}'
    #[arg(short, long, value_name = "FORM", default_value = "json", allow_hyphen_values = true)]
    format: Format,
    /// Names or IDs
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// A container, in full.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    value: Value,
}

/// Prints them.
pub fn inspect(args: &InspectArgs, root: &Path) -> Result<()> {
    let state = State::open(root)?;
    let rows =
        args.containers.iter().map(|word| state.find(word).map(|found| row(&found))).collect::<Result<Vec<_>>>()?;
    let list = ListArgs { format: args.format.clone(), ..ListArgs::default() };
    fn id(row: &Row) -> &str {
        row.value["id"].as_str().unwrap_or_default()
    }
    listing::print(&list, &rows, &Listing { columns: vec![], id, aliases: &[] })
}

fn row(found: &Found) -> Row {
    let Found { record, status, .. } = found;
    let inside = &record.inside;
    let exit = record.exit;
    let value = json!({
        "id": record.id,
        "name": record.name,
        "created": record.created,
        "image": record.image,
        "state": {
            "status": status.to_string(),
            "running": status.lives(),
            "paused": *status == Status::Paused,
            "pid": if status.lives() { record.pid } else { None },
            "pid_start": record.pid_start,
            "started_at": record.started,
            "finished_at": exit.map(|exit| exit.finished),
            "exit_code": exit.map(|exit| exit.code),
            "oom_killed": exit.is_some_and(|exit| exit.oom),
            "holder": found.holder,
        },
        "config": {
            "command": record.command,
            "env": inside.env,
            "working_dir": inside.workdir,
            "user": inside.user,
            "labels": record.labels,
            "tty": record.terminal,
            "open_stdin": record.interactive,
            "init": record.init,
            "detached": record.detached,
            "auto_remove": record.remove,
            "stop_signal": record.stop_signal,
            "stop_timeout": record.stop_timeout,
        },
        "sandbox": {
            "capabilities": capabilities(inside.capabilities),
            "security": inside.security,
            "limits": inside.limits,
            "cgroups": inside.groups,
        },
        "network_settings": {
            "mode": record.network,
            "ip_address": record.interfaces.first().map(|first| first.address.addr()),
            "ports": record.ports,
            "interfaces": record.interfaces.iter().map(interface).collect::<Vec<_>>(),
            "sandbox_key": record.pid.filter(|_| status.lives()).map(|pid| format!("/proc/{pid}/ns/net")),
        },
        "log_path": record.log,
    });
    Row { value }
}

/// An interface by the names that docker's users know, and the kernel's.
fn interface(interface: &Interface) -> Value {
    json!({
        "network": interface.network,
        "name": interface.name,
        "driver": interface.driver,
        "host_name": (!interface.host.is_empty()).then_some(&interface.host),
        "mac_address": colons(&interface.mac),
        "ip_address": interface.address.addr(),
        "ip_prefix_len": interface.address.prefix_len(),
        "gateway": interface.gateway,
        "global_ipv6_address": interface.address6.map(|net| net.addr()),
        "global_ipv6_prefix_len": interface.address6.map(|net| net.prefix_len()),
        "default_route": interface.default_route,
        "default_route6": interface.default_route6,
        "mtu": interface.mtu,
        "rate": interface.rate,
        "aliases": interface.aliases,
    })
}

fn capabilities(bits: u64) -> Vec<String> {
    let mut names: Vec<_> =
        caps::all().into_iter().filter(|one| bits & one.bitmask() != 0).map(|one| one.to_string()).collect();
    names.sort();
    names
}
