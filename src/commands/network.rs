//! `minirun network`: networks are defined, listed and removed. What of them is in the kernel is made by the first container
//! that needs it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Serialize;
use serde_json::{Value, json};

use super::each;
use crate::control::{self, Ask};
use crate::error::{note, print, refused};
use crate::listing::{self, Column, Format, ListArgs, Listing};
use crate::net::Net;
use crate::net::args::NetArgs;
use crate::net::definition::{BRIDGE, Definition, Definitions, is_reserved, link_of, valid_name};
use crate::net::explain::colons;
use crate::net::hub::Taken;
use crate::net::mode::{DEFAULT, mtu};
use crate::net::network::Bridge;
use crate::net::options::check_option;
use crate::net::rtnl::Rtnl;
use crate::net::{self, names::Resolvers, pool};
use crate::options;
use crate::state::{Found, State, now};

/// `minirun network`.
#[derive(Debug, Args)]
pub struct NetworkArgs {
    /// What to do
    #[command(subcommand)]
    verb: NetworkVerb,
}

/// The commands of `minirun network`.
#[derive(Debug, Subcommand)]
enum NetworkVerb {
    /// Define a network
    Create(CreateArgs),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show networks with their members
    Inspect(InspectArgs),
    /// Remove networks that no container is on
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Remove all networks that no container is on
    Prune,
    /// Put a container that runs on a further network
    Connect(ConnectArgs),
    /// Take a container that runs off a network
    Disconnect(DisconnectArgs),
}

/// Options of `network create`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun network create front
  minirun network create back --internal --subnet 10.9.0.0/24 --ipv6
  minirun run -d --name db --net=back:ip=10.9.0.9,alias=sql busybox sleep 1000
  minirun run --net=front --net=back busybox ip addr")]
struct CreateArgs {
    /// How its members are joined
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge")]
    driver: String,
    /// Its range of addresses (else a free one is taken); given twice, one of IPv4 and one of IPv6
    #[arg(long, value_name = "RANGE")]
    subnet: Vec<IpNet>,
    /// The host's address on it (else the first of its range)
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<std::net::IpAddr>,
    /// The part of its range that addresses are given from
    #[arg(long, value_name = "RANGE")]
    ip_range: Option<Ipv4Net>,
    /// Give it IPv6 as well (a unique local range, unless --subnet says one)
    #[arg(long)]
    ipv6: bool,
    /// Its members reach neither the outside nor the host
    #[arg(long)]
    internal: bool,
    /// Its members do not reach each other
    #[arg(long)]
    isolate: bool,
    /// Largest packet, in bytes (else the uplink's)
    #[arg(long, value_name = "BYTES")]
    mtu: Option<String>,
    /// An option of the bridge (stp, ageing_time, forward_delay, hello_time, max_age, priority) or of its ports (hairpin,
    /// path_cost, port_priority, learning), times in hundredths of a second
    #[arg(short, long, value_name = "KEY=VALUE")]
    opt: Vec<String>,
    /// Note something about it
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// At most 64 letters, digits, `_`, `.` and `-`
    #[arg(value_name = "NAME")]
    name: String,
}

/// Options of `network ls`.
#[derive(Debug, Args)]
struct LsArgs {
    /// The form.
    #[command(flatten)]
    list: ListArgs,
}

/// Options of `network inspect`.
#[derive(Debug, Args)]
struct InspectArgs {
    /// Form: `json`, or a template as '{{.Subnet}}'
    #[arg(short, long, value_name = "FORM", default_value = "json", allow_hyphen_values = true)]
    format: Format,
    /// Names
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

/// Options of `network rm`.
#[derive(Debug, Args)]
struct RmArgs {
    /// Names
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

/// Options of `network connect`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun network connect back web
  minirun network connect back:ip=10.9.0.7,alias=db web
  minirun run -d --name alone --net=none busybox sleep 1000; minirun network connect bridge alone")]
struct ConnectArgs {
    /// IPv4 address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<std::net::Ipv4Addr>,
    /// IPv6 address
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<std::net::Ipv6Addr>,
    /// Further name on that network
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// Hardware address
    #[arg(long, value_name = "ADDRESS")]
    mac_address: Option<String>,
    /// The network, with options as `run --net` takes them
    #[arg(value_name = "NETWORK[:OPTIONS]")]
    network: Net,
    /// Name or ID
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Options of `network disconnect`.
#[derive(Debug, Args)]
struct DisconnectArgs {
    /// The network's name
    #[arg(value_name = "NETWORK")]
    network: String,
    /// Name or ID
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Does what was typed.
pub fn network(args: &NetworkArgs, root: &Path, data_root: &Path) -> Result<()> {
    match &args.verb {
        NetworkVerb::Create(args) => create(args, data_root),
        NetworkVerb::Ls(args) => ls(args, root, data_root),
        NetworkVerb::Inspect(args) => inspect(args, root, data_root),
        NetworkVerb::Rm(args) => each::all(&args.networks, |name| {
            remove(name, root, data_root)?;
            print(&format!("{name}\n"))
        }),
        NetworkVerb::Prune => prune(root, data_root),
        NetworkVerb::Connect(args) => connect(args, root),
        NetworkVerb::Disconnect(args) => {
            let found = State::open(root)?.find(&args.container)?;
            control::ask(&found, &Ask::Disconnect(args.network.clone())).map(drop)
        }
    }
}

fn connect(args: &ConnectArgs, root: &Path) -> Result<()> {
    let options = NetArgs {
        net: vec![args.network.clone()],
        ip: args.ip,
        ip6: args.ip6,
        mac_address: args.mac_address.clone(),
        network_alias: args.alias.clone(),
        ..NetArgs::default()
    };
    let mode = options.mode()?;
    let Some(wish) = mode.attachments().first() else {
        bail!("connect network: `{mode}` is not one that can be connected");
    };
    let found = State::open(root)?.find(&args.container)?;
    control::ask(&found, &Ask::Connect(Net::Network(wish.clone()))).map(drop)
}

fn create(args: &CreateArgs, data_root: &Path) -> Result<()> {
    let failed = || format!("create network `{}`", args.name);
    if !valid_name(&args.name) || is_reserved(&args.name) {
        let message = format!("{}: it cannot be called so", failed());
        return Err(refused(
            message,
            "letters, digits, `_`, `.` and `-`, at most 64, the first one a letter or digit, and not none, host, bridge, \
             container, ns or dev",
        ));
    }
    if args.driver != "bridge" {
        return Err(refused(
            format!("{}: this version has no driver `{}`", failed(), args.driver),
            "leave out --driver: bridge is what there is",
        ));
    }
    let options = options_of(&args.opt)?;
    let labels = options::labels(&args.label)?;
    let mtu = args.mtu.as_deref().map(mtu).transpose().with_context(|| format!("{}: --mtu", failed()))?;
    let definitions = Definitions::open(data_root);
    let _writing = definitions.lock()?;
    let all = definitions.list()?;
    let mut rtnl = Rtnl::open()?;
    let taken = net::look::taken(&mut rtnl, &Resolvers::of_host().ipv4(), &all)?;
    let (gateway, gateway6) = gateways(args, &taken, &all).with_context(failed)?;
    if let Some(range) = args.ip_range.filter(|range| !gateway.trunc().contains(range)) {
        bail!("{}: --ip-range {range} is not in {}", failed(), gateway.trunc());
    }
    let link = link_of(&args.name, |link| {
        all.iter().any(|other| other.link == link) || rtnl.link_called(link).is_ok_and(|found| found.is_some())
    });
    definitions.add(&Definition {
        name: args.name.clone(),
        link,
        gateway,
        range: args.ip_range,
        gateway6,
        internal: args.internal,
        isolate: args.isolate,
        mtu,
        options,
        labels,
        created: now(),
    })?;
    print(&format!("{}\n", args.name))
}

fn options_of(texts: &[String]) -> Result<BTreeMap<String, String>> {
    let option = |text: &String| {
        let (key, value) = text.split_once('=').with_context(|| format!("set option `{text}`: KEY=VALUE is wanted"))?;
        check_option(key, value)?;
        Ok((key.to_owned(), value.to_owned()))
    };
    texts.iter().map(option).collect()
}

/// The gateway's addresses: in the ranges that were given, or in free ones.
fn gateways(args: &CreateArgs, taken: &[Taken], all: &[Definition]) -> Result<(Ipv4Net, Option<Ipv6Net>)> {
    let (mut subnet, mut subnet6) = (None, None);
    for range in &args.subnet {
        let twice = match range {
            IpNet::V4(range) => subnet.replace(*range).is_some(),
            IpNet::V6(range) => subnet6.replace(*range).is_some(),
        };
        if twice {
            bail!("--subnet {range}: one range of IPv4 and one of IPv6 is what a network has");
        }
    }
    let (mut gateway, mut gateway6) = (None, None);
    for address in &args.gateway {
        match address {
            std::net::IpAddr::V4(address) => gateway = Some(*address),
            std::net::IpAddr::V6(address) => gateway6 = Some(*address),
        }
    }
    let own = match subnet {
        None => pool::for_network(&args.name, taken)?,
        Some(range) => given(range, taken)?,
    };
    let own = match gateway {
        None => own,
        Some(address) if own.contains(&address) && (own.prefix_len() > 30 || address != own.network()) => {
            Ipv4Net::new(address, own.prefix_len())?
        }
        Some(address) => bail!("--gateway {address}: it is not in {}", own.trunc()),
    };
    let own6 = match subnet6 {
        Some(range) if range.prefix_len() > 126 => bail!("--subnet {range}: it is too small"),
        Some(range) => {
            let overlaps = |other: &Ipv6Net| other.contains(&range.network()) || range.contains(&other.network());
            let other = all.iter().find(|other| other.gateway6.is_some_and(|net| overlaps(&net)));
            if let Some(other) = other {
                bail!("--subnet {range}: network `{}` has a part of it", other.name);
            }
            Some(pool::first_of6(range.trunc())?)
        }
        None if args.ipv6 || gateway6.is_some() => Some(pool::first_of6(pool::unique_local()?)?),
        None => None,
    };
    let own6 = match (own6, gateway6) {
        (Some(own), Some(address)) if own.contains(&address) => Some(Ipv6Net::new(address, own.prefix_len())?),
        (_, Some(address)) => bail!("--gateway {address}: --subnet says no range of IPv6 that it is in"),
        (own, None) => own,
    };
    Ok((own, own6))
}

/// A range that was given, if nobody has a part of it.
fn given(range: Ipv4Net, taken: &[Taken]) -> Result<Ipv4Net> {
    let range = range.trunc();
    if range.prefix_len() > 30 || range.prefix_len() < 8 {
        bail!("--subnet {range}: a range of /8 to /30 is wanted");
    }
    if let Some(other) = taken.iter().find(|other| pool::overlaps(other.range, range)) {
        return Err(refused(
            format!("--subnet {range}: {} is in use: {}", other.range, other.holder),
            "choose another range, or leave --subnet out: a free one is taken",
        ));
    }
    pool::first_of(range)
}

/// A network as it is listed.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    driver: &'static str,
    subnet: Option<Ipv4Net>,
    subnet6: Option<Ipv6Net>,
    bridge: String,
    internal: bool,
    isolate: bool,
    members: usize,
    labels: BTreeMap<String, String>,
    created: u64,
}

fn ls(args: &LsArgs, root: &Path, data_root: &Path) -> Result<()> {
    let found = State::open(root)?.list()?;
    let mut rtnl = Rtnl::open()?;
    let mut all = vec![Bridge::default_network(&mut rtnl)?];
    all.extend(Definitions::open(data_root).list()?.into_iter().map(Some));
    let row = |definition: &Option<Definition>| {
        let name = definition.as_ref().map_or(DEFAULT, |definition| definition.name.as_str());
        let definition = definition.as_ref();
        Row {
            name: name.to_owned(),
            driver: "bridge",
            subnet: definition.map(|one| one.gateway.trunc()),
            subnet6: definition.and_then(|one| one.gateway6).map(|net| net.trunc()),
            bridge: definition.map_or(BRIDGE, |one| &one.link).to_owned(),
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
                Column::new("DRIVER", |row: &Row| row.driver.to_owned()),
                Column::new("SUBNET", |row: &Row| text(row.subnet.map(|net| net.to_string()))),
                Column::new("SUBNET6", |row: &Row| text(row.subnet6.map(|net| net.to_string()))),
                Column::new("BRIDGE", |row: &Row| row.bridge.clone()),
                Column::new("KIND", kind),
                Column::new("MEMBERS", |row: &Row| row.members.to_string()).right(),
            ],
            id: |row| &row.name,
            aliases: &[],
        },
    )
}

/// The containers that live and are on that network.
fn members<'a>(found: &'a [Found], network: &'a str) -> impl Iterator<Item = &'a Found> {
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

fn inspect(args: &InspectArgs, root: &Path, data_root: &Path) -> Result<()> {
    let found = State::open(root)?.list()?;
    let mut rtnl = Rtnl::open()?;
    let definitions = Definitions::open(data_root);
    let mut rows = Vec::new();
    for name in &args.networks {
        let definition = match name.as_str() {
            DEFAULT => Bridge::default_network(&mut rtnl)?.with_context(|| {
                format!("inspect network `{DEFAULT}`: it is made by the first container that is on it")
            })?,
            name => definitions.find(name)?,
        };
        let link = rtnl.link_called(&definition.link)?;
        rows.push(Whole { value: whole(&definition, link.is_some(), &found) });
    }
    let list = ListArgs { format: args.format.clone(), ..ListArgs::default() };
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
            "host_interface": own.host,
            "mac_address": colons(&own.mac),
            "ip_address": own.address.addr(),
            "global_ipv6_address": own.address6.map(|net| net.addr()),
            "aliases": own.aliases,
        }))
    };
    json!({
        "name": definition.name,
        "driver": "bridge",
        "bridge": definition.link,
        "made": made,
        "subnet": definition.gateway.trunc(),
        "gateway": definition.gateway.addr(),
        "ip_range": definition.range,
        "subnet6": definition.gateway6.map(|net| net.trunc()),
        "gateway6": definition.gateway6.map(|net| net.addr()),
        "internal": definition.internal,
        "isolate": definition.isolate,
        "mtu": definition.mtu,
        "options": definition.options,
        "labels": definition.labels,
        "created": definition.created,
        "members": members(found, &definition.name).filter_map(member).collect::<Vec<_>>(),
    })
}

fn remove(name: &str, root: &Path, data_root: &Path) -> Result<()> {
    if is_reserved(name) {
        let message = format!("remove network `{name}`: it needs no definition, and is always there");
        return Err(refused(message, "`minirun system prune` takes its bridge off the host"));
    }
    let state = State::open(root)?;
    net::removal::remove(data_root, name, || {
        Ok(members(&state.list()?, name).map(|found| found.record.name.clone()).collect())
    })
}

fn prune(root: &Path, data_root: &Path) -> Result<()> {
    let found = State::open(root)?.list()?;
    let unused: Vec<String> = Definitions::open(data_root)
        .list()?
        .into_iter()
        .map(|one| one.name)
        .filter(|name| members(&found, name).next().is_none())
        .collect();
    if unused.is_empty() {
        note("there is nothing to remove");
    }
    each::all(&unused, |name| {
        remove(name, root, data_root)?;
        print(&format!("{name}\n"))
    })
}
