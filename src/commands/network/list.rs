//! `minirun network ls` and `inspect`: which networks there are, and who is on them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;
use ipnet::{Ipv4Net, Ipv6Net};
use serde::Serialize;
use serde_json::{Value, json};

use super::bridge::{Views, view};
use crate::listing::{self, Column, Format, ListArgs, Listing};
use crate::net::definition::{BRIDGE, Definition, Definitions};
use crate::net::driver::Driver;
use crate::net::explain::colons;
use crate::net::mode::DEFAULT;
use crate::net::network::Bridge;
use crate::net::rtnl::Rtnl;
use crate::net::{macvlan, vxlan};
use crate::state::{Found, State};

/// A network as it is listed.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    driver: Driver,
    subnet: Option<Ipv4Net>,
    subnet6: Option<Ipv6Net>,
    bridge: Option<String>,
    internal: bool,
    isolate: bool,
    members: usize,
    labels: BTreeMap<String, String>,
    created: u64,
}

pub fn ls(args: &LsArgs, root: &Path, data_root: &Path) -> Result<()> {
    let found = State::open(root)?.list()?;
    let mut rtnl = Rtnl::open()?;
    let mut all = vec![Bridge::default_network(&mut rtnl)?];
    all.extend(Definitions::open(data_root).list()?.into_iter().map(Some));
    let row = |definition: &Option<Definition>| {
        let name = definition.as_ref().map_or(DEFAULT, |definition| definition.name.as_str());
        let definition = definition.as_ref();
        Row {
            name: name.to_owned(),
            driver: definition.map_or(Driver::Bridge, |one| one.driver),
            subnet: definition.map(|one| one.gateway.trunc()),
            subnet6: definition.and_then(|one| one.gateway6).map(|net| net.trunc()),
            bridge: match definition {
                None => Some(BRIDGE.to_owned()),
                Some(one) => one.driver.has_bridge().then(|| one.link.clone()),
            },
            internal: definition.is_some_and(|one| one.internal),
            isolate: definition.is_some_and(|one| one.isolate),
            members: members(&found, name).count(),
            labels: definition.map(|one| one.labels.clone()).unwrap_or_default(),
            created: definition.map_or(0, |one| one.created),
        }
    };
    let rows: Vec<Row> = all.iter().map(row).collect();
    let text = |value: Option<String>| value.unwrap_or_default();
    let kind = |row: &Row| {
        let words = [(row.internal, "internal"), (row.isolate, "isolated")];
        words.into_iter().filter(|(is, _)| *is).map(|(_, word)| word).collect::<Vec<_>>().join(",")
    };
    listing::print(
        &args.list,
        &rows,
        &Listing {
            columns: vec![
                Column::new("NAME", |row: &Row| row.name.clone()).at_most(32),
                Column::new("DRIVER", |row: &Row| row.driver.to_string()),
                Column::new("SUBNET", |row: &Row| text(row.subnet.map(|net| net.to_string()))),
                Column::new("SUBNET6", |row: &Row| text(row.subnet6.map(|net| net.to_string()))),
                Column::new("BRIDGE", |row: &Row| text(row.bridge.clone())),
                Column::new("KIND", kind),
                Column::new("MEMBERS", |row: &Row| row.members.to_string()).right(),
            ],
            id: |row| &row.name,
            aliases: &[],
        },
    )
}

/// The containers that live and are on that network.
pub fn members<'a>(found: &'a [Found], network: &'a str) -> impl Iterator<Item = &'a Found> {
    found.iter().filter(move |found| {
        found.holder.is_some() && found.record.interfaces.iter().any(|interface| interface.network == network)
    })
}

/// A network, in full.
#[derive(Debug, Serialize)]
struct Whole {
    #[serde(flatten)]
    value: Value,
}

pub fn inspect(args: &InspectArgs, root: &Path, data_root: &Path) -> Result<()> {
    let found = State::open(root)?.list()?;
    let mut rtnl = Rtnl::open()?;
    let definitions = Definitions::open(data_root);
    let mut networks = Vec::new();
    for name in &args.networks {
        let definition = match name.as_str() {
            DEFAULT => Bridge::default_network(&mut rtnl)?.with_context(|| {
                format!("inspect network `{DEFAULT}`: it is made by the first container that is on it")
            })?,
            name => definitions.find(name)?,
        };
        networks.push(definition);
    }
    if args.views.any() {
        return view(args.views, args.format.as_ref().unwrap_or(&Format::Table), &networks, &found);
    }
    let mut rows = Vec::new();
    for definition in &networks {
        let made = match definition.driver.has_bridge() {
            true => rtnl.link_called(&definition.link)?.is_some(),
            // Of these there is as much as containers have.
            false => members(&found, &definition.name).next().is_some(),
        };
        rows.push(Whole { value: whole(definition, made, &found) });
    }
    let list = ListArgs { format: args.format.clone().unwrap_or(Format::Json), ..ListArgs::default() };
    fn name(row: &Whole) -> &str {
        row.value["name"].as_str().unwrap_or_default()
    }
    listing::print(&list, &rows, &Listing { columns: vec![], id: name, aliases: &[] })
}

fn whole(definition: &Definition, made: bool, found: &[Found]) -> Value {
    let member = |found: &Found| {
        let own = found.record.interfaces.iter().find(|interface| interface.network == definition.name)?;
        Some(json!({
            "id": found.record.id,
            "name": found.record.name,
            "interface": own.name,
            "host_interface": (!own.host.is_empty()).then_some(&own.host),
            "mac_address": colons(&own.mac),
            "ip_address": own.address.addr(),
            "global_ipv6_address": own.address6.map(|net| net.addr()),
            "aliases": own.aliases,
        }))
    };
    let driver = definition.driver;
    let tunnel = (driver == Driver::Vxlan).then(|| vxlan::tunnel(definition));
    let mut value = json!({
        "name": definition.name,
        "driver": driver,
        "bridge": driver.has_bridge().then_some(&definition.link),
        "made": made,
        "subnet": definition.gateway.trunc(),
        "gateway": definition.router(),
        "ip_range": definition.range,
        "subnet6": definition.gateway6.map(|net| net.trunc()),
        "gateway6": definition.gateway6.filter(|_| driver != Driver::Ptp).map(|net| net.addr()),
        "internal": definition.internal,
        "isolate": definition.isolate,
        "mtu": definition.mtu,
        "options": definition.options,
        "labels": definition.labels,
        "created": definition.created,
        "members": members(found, &definition.name).filter_map(member).collect::<Vec<_>>(),
    });
    if driver == Driver::Macvlan {
        value["parent"] = json!(definition.link);
        value["mode"] = json!(macvlan::mode(definition));
    }
    if let Some(tunnel) = tunnel {
        value["tunnel"] = json!(vxlan::link_of(definition));
        value["vni"] = json!(tunnel.vni);
        value["port"] = json!(tunnel.port);
        value["remotes"] = json!(definition.remotes);
    }
    value
}

/// Options of `network ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// The form.
    #[command(flatten)]
    list: ListArgs,
}

/// Options of `network inspect`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun network inspect front
  minirun network inspect --ports front
  minirun network inspect --macs --format json front back")]
pub struct InspectArgs {
    /// Form: `json`, or a template as '{{.Subnet}}'; of a view also `table`, which is the usual one
    #[arg(short, long, value_name = "FORM", allow_hyphen_values = true)]
    format: Option<Format>,
    /// A view of its bridge.
    #[command(flatten)]
    views: Views,
    /// Names
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}
