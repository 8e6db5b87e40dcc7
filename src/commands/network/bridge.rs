//! `minirun network inspect --macs`, `--stp`, `--ports` and `--neigh`: what brctl(8), bridge(8) and ip-neighbour(8) show of a
//! bridge, with the containers' names.

use std::net::IpAddr;

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

use super::list::members;
use crate::error::{print, printable, refused};
use crate::listing::{self, Column, Format, ListArgs, Listing};
use crate::net::bridge::{Address, Bridge, Neighbour, Port};
use crate::net::definition::Definition;
use crate::net::rtnl::Rtnl;
use crate::net::seen;
use crate::state::Found;

/// What of a bridge is shown.
#[derive(Debug, Clone, Copy, Default, Args)]
#[group(multiple = false)]
pub struct Views {
    /// The hardware addresses that its bridge knows, and their ages in seconds
    #[arg(long)]
    macs: bool,
    /// The spanning tree: its bridge, and the state and role of each port
    #[arg(long)]
    stp: bool,
    /// The ports of its bridge with their options
    #[arg(long)]
    ports: bool,
    /// The neighbours that the host knows on its bridge
    #[arg(long)]
    neigh: bool,
}

impl Views {
    /// Whether one of them is asked for.
    pub fn any(self) -> bool {
        self.macs || self.stp || self.ports || self.neigh
    }
}

/// A row, with the network and the container that it is of.
#[derive(Debug, Serialize)]
struct Row<T> {
    network: String,
    container: Option<String>,
    #[serde(flatten)]
    what: T,
}

/// The spanning tree of a network.
#[derive(Debug, Serialize)]
struct Tree {
    network: String,
    bridge: Bridge,
    ports: Vec<Row<Port>>,
}

/// Shows one view of these networks.
pub fn view(views: Views, format: &Format, networks: &[Definition], found: &[Found]) -> Result<()> {
    let mut rtnl = Rtnl::open()?;
    let (mut macs, mut trees, mut neighbours) = (vec![], vec![], vec![]);
    for network in networks {
        let bridge = bridge(&mut rtnl, network)?;
        let ports = bridge.ports(&mut rtnl)?;
        if views.macs {
            let addresses = bridge.addresses(&mut rtnl, &ports)?;
            macs.extend(addresses.into_iter().map(|one| row(network, behind(network, found, &one.port), one)));
        } else if views.neigh {
            let all = bridge.neighbours(&mut rtnl)?;
            neighbours.extend(all.into_iter().map(|one| row(network, whose(network, found, one.address), one)));
        } else {
            let ports = ports.into_iter().map(|one| row(network, behind(network, found, &one.port), one)).collect();
            trees.push(Tree { network: network.name.clone(), bridge, ports });
        }
    }
    let list = ListArgs { format: format.clone(), ..ListArgs::default() };
    let several = networks.len() > 1;
    match () {
        () if views.macs => listing::print(&list, &macs, &listing(several, mac_columns(), |row| &row.what.mac)),
        () if views.neigh => {
            listing::print(&list, &neighbours, &listing(several, neighbour_columns(), |row| &row.network))
        }
        () if views.ports => {
            let ports: Vec<Row<Port>> = trees.into_iter().flat_map(|tree| tree.ports).collect();
            listing::print(&list, &ports, &listing(several, port_columns(), |row| &row.what.port))
        }
        () if *format == Format::Table => trees.iter().try_for_each(|tree| print(&tree_text(tree)?)),
        () => listing::print(&list, &trees, &Listing { columns: vec![], id: |tree| &tree.network, aliases: &[] }),
    }
}

fn row<T>(network: &Definition, container: Option<String>, what: T) -> Row<T> {
    Row { network: network.name.clone(), container, what }
}

/// The network's bridge, which must be there.
fn bridge(rtnl: &mut Rtnl, network: &Definition) -> Result<Bridge> {
    if !network.driver.has_bridge() {
        let message = format!("inspect network `{}`: with driver {} it has no bridge", network.name, network.driver);
        return Err(refused(message, "leave the option out: `minirun network inspect` tells what it has"));
    }
    let message = rtnl.link_called(&network.link)?.filter(|message| seen::link(message).is_bridge);
    let message = message.with_context(|| format!("inspect network `{}`: it has no bridge", network.name));
    message
        .map(|message| Bridge::of(&message))
        .map_err(|error| refused(format!("{error:#}"), "the first container that is on it makes it"))
}

/// The container whose end on the host a port is.
fn behind(network: &Definition, found: &[Found], port: &str) -> Option<String> {
    let own = |found: &&Found| found.record.interfaces.iter().any(|interface| interface.host == port);
    members(found, &network.name).find(own).map(|found| found.record.name.clone())
}

/// The container that has an address.
fn whose(network: &Definition, found: &[Found], address: IpAddr) -> Option<String> {
    let own = |found: &&Found| {
        let mut all = found.record.interfaces.iter().filter(|interface| interface.network == network.name);
        all.any(|interface| interface.addresses().any(|own| own == address))
    };
    members(found, &network.name).find(own).map(|found| found.record.name.clone())
}

fn listing<T>(
    several: bool,
    mut columns: Vec<Column<'static, Row<T>>>,
    id: fn(&Row<T>) -> &str,
) -> Listing<'static, Row<T>> {
    if several {
        columns.insert(0, Column::new("NETWORK", |row: &Row<T>| row.network.clone()));
    }
    Listing { columns, id, aliases: &[] }
}

fn name<T>(row: &Row<T>) -> String {
    row.container.clone().unwrap_or_default()
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

fn on(is: bool) -> String {
    if is { "on" } else { "off" }.to_owned()
}

fn mac_columns() -> Vec<Column<'static, Row<Address>>> {
    vec![
        Column::new("PORT", |row: &Row<Address>| row.what.port.clone()),
        Column::new("NO", |row: &Row<Address>| row.what.number.to_string()).right(),
        Column::new("MAC ADDRESS", |row: &Row<Address>| row.what.mac.clone()),
        Column::new("LOCAL", |row: &Row<Address>| yes(row.what.local)),
        Column::new("AGE", |row: &Row<Address>| format!("{:.2}", row.what.age)).right(),
        Column::new("CONTAINER", name),
    ]
}

fn port_columns() -> Vec<Column<'static, Row<Port>>> {
    vec![
        Column::new("PORT", |row: &Row<Port>| row.what.port.clone()),
        Column::new("NO", |row: &Row<Port>| row.what.number.to_string()).right(),
        Column::new("CONTAINER", name),
        Column::new("STATE", |row: &Row<Port>| row.what.state.to_owned()),
        Column::new("COST", |row: &Row<Port>| row.what.cost.to_string()).right(),
        Column::new("PRIORITY", |row: &Row<Port>| row.what.priority.to_string()).right(),
        Column::new("HAIRPIN", |row: &Row<Port>| on(row.what.hairpin)),
        Column::new("ISOLATED", |row: &Row<Port>| on(row.what.isolated)),
        Column::new("LEARNING", |row: &Row<Port>| on(row.what.learning)),
        Column::new("FLOOD", |row: &Row<Port>| on(row.what.flood)),
        Column::new("MTU", |row: &Row<Port>| row.what.mtu.to_string()).right(),
    ]
}

fn neighbour_columns() -> Vec<Column<'static, Row<Neighbour>>> {
    vec![
        Column::new("ADDRESS", |row: &Row<Neighbour>| row.what.address.to_string()),
        Column::new("MAC ADDRESS", |row: &Row<Neighbour>| row.what.mac.clone().unwrap_or_default()),
        Column::new("STATE", |row: &Row<Neighbour>| row.what.state.to_owned()),
        Column::new("CONTAINER", name),
    ]
}

fn tree_columns() -> Vec<Column<'static, Row<Port>>> {
    let time = |time: f64| format!("{time:.2}");
    vec![
        Column::new("PORT", |row: &Row<Port>| row.what.port.clone()),
        Column::new("NO", |row: &Row<Port>| row.what.number.to_string()).right(),
        Column::new("CONTAINER", name),
        Column::new("STATE", |row: &Row<Port>| row.what.state.to_owned()),
        Column::new("ROLE", |row: &Row<Port>| row.what.role.to_owned()),
        Column::new("ID", |row: &Row<Port>| row.what.id.clone()),
        Column::new("COST", |row: &Row<Port>| row.what.cost.to_string()).right(),
        Column::new("DESIGNATED BRIDGE", |row: &Row<Port>| row.what.designated_bridge.clone()),
        Column::new("PORT", |row: &Row<Port>| row.what.designated_port.clone()),
        Column::new("COST", |row: &Row<Port>| row.what.designated_cost.to_string()).right(),
        Column::new("AGE", move |row: &Row<Port>| time(row.what.message_age_timer)).right(),
        Column::new("DELAY", move |row: &Row<Port>| time(row.what.forward_delay_timer)).right(),
        Column::new("HOLD", move |row: &Row<Port>| time(row.what.hold_timer)).right(),
    ]
}

/// The bridge in lines, its ports in a table.
fn tree_text(tree: &Tree) -> Result<String> {
    let bridge = &tree.bridge;
    let time = |time: f64| format!("{time:.2} s");
    let change = match (bridge.topology_change, bridge.topology_change_detected) {
        (_, true) => "detected",
        (true, false) => "told",
        (false, false) => "none",
    };
    let lines = [
        ("network", tree.network.clone()),
        ("bridge", bridge.name.clone()),
        ("protocol", on(bridge.stp)),
        ("bridge id", bridge.bridge_id.clone()),
        ("designated root", bridge.designated_root.clone()),
        ("root port", bridge.root_port.to_string()),
        ("root path cost", bridge.root_path_cost.to_string()),
        ("max age", time(bridge.max_age)),
        ("hello time", time(bridge.hello_time)),
        ("forward delay", time(bridge.forward_delay)),
        ("ageing time", time(bridge.ageing_time)),
        ("hello timer", time(bridge.hello_timer)),
        ("tcn timer", time(bridge.tcn_timer)),
        ("topology change timer", time(bridge.topology_change_timer)),
        ("gc timer", time(bridge.gc_timer)),
        ("topology change", change.to_owned()),
    ];
    let head: String = lines.iter().map(|(key, value)| format!("{key:<23}{}\n", printable(value))).collect();
    let list = ListArgs { format: Format::Table, ..ListArgs::default() };
    let columns = tree_columns();
    let ports = listing::text(&list, &tree.ports, &Listing { columns, id: |row| &row.what.port, aliases: &[] }, false)?;
    Ok(format!("{head}\n{ports}"))
}
