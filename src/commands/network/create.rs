//! `minirun network create`: a network is defined.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::error::{note, print, refused, remedy_of};
use crate::net::definition::{Definition, Definitions, is_reserved, link_of, valid_name};
use crate::net::driver::{Driver, fits_ipv6};
use crate::net::hub::Taken;
use crate::net::mode::{Attachment, mtu};
use crate::net::options::{check_together, option_of};
use crate::net::rtnl::Rtnl;
use crate::net::{self, macvlan, names::Resolvers, pool, vxlan};
use crate::options;
use crate::state::now;

/// Options of `network create`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun network create front
  minirun network create back --internal --subnet 10.9.0.0/24 --ipv6
  minirun run -d --name db --net=back:ip=10.9.0.9,alias=sql busybox sleep 1000
  minirun run --net=front --net=back busybox ip addr
  minirun network create --driver macvlan --opt parent=eth0 --subnet 192.0.2.0/24 --gateway 192.0.2.1 \\
    --ip-range 192.0.2.192/27 lan
  minirun network create --driver vxlan --remote 192.0.2.7 --subnet 10.9.0.0/24 --gateway 10.9.0.1 \\
    --ip-range 10.9.0.64/26 far     (and on 192.0.2.7 with a --remote, --gateway and --ip-range of its own)
  minirun network create --driver ptp cable")]
pub struct CreateArgs {
    /// How its members are joined: bridge (ports of a bridge of this host), macvlan (machines of the LAN), vxlan (a bridge that
    /// spans hosts), ptp (two, by a cable)
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge")]
    driver: String,
    /// Another host that the network spans (driver vxlan); given once for each
    #[arg(long, value_name = "ADDRESS")]
    remote: Vec<IpAddr>,
    /// Its range of addresses (else a free one is taken); given twice, one of IPv4 and one of IPv6
    #[arg(long, value_name = "RANGE")]
    subnet: Vec<IpNet>,
    /// The host's address on it (else the first of its range); with macvlan the address of the LAN's router
    #[arg(long, value_name = "ADDRESS")]
    gateway: Vec<IpAddr>,
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
    /// path_cost, port_priority, learning), times in hundredths of a second; of a macvlan network: parent=LINK, mode=bridge,
    /// private, vepa or passthru; of a vxlan network also vni=NUMBER (else it follows from the name), port=NUMBER (4789),
    /// local=ADDRESS, dev=LINK, group=ADDRESS (multicast instead of --remote)
    #[arg(short, long, value_name = "KEY=VALUE")]
    opt: Vec<String>,
    /// Note something about it
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// At most 64 letters, digits, `_`, `.` and `-`
    #[arg(value_name = "NAME")]
    name: String,
}

pub fn create(args: &CreateArgs, data_root: &Path) -> Result<()> {
    let failed = || format!("create network `{}`", args.name);
    if !valid_name(&args.name) || is_reserved(&args.name) {
        let message = format!("{}: it cannot be called so", failed());
        return Err(refused(
            message,
            "letters, digits, `_`, `.` and `-`, at most 64, the first one a letter or digit, and not none, host, bridge, \
             container, ns or dev",
        ));
    }
    let driver: Driver = args.driver.parse().map_err(|error| in_front(&failed(), error))?;
    fits(args, driver).map_err(|error| in_front(&failed(), error))?;
    let options = args.opt.iter().map(|text| option_of(driver, text));
    let mut options: BTreeMap<String, String> = options.collect::<Result<_>>()?;
    check_together(&options)?;
    let labels = options::labels(&args.label)?;
    let mtu = args.mtu.as_deref().map(mtu).transpose().with_context(|| format!("{}: --mtu", failed()))?;
    let definitions = Definitions::open(data_root);
    let _writing = definitions.lock()?;
    let all = definitions.list()?;
    let mut rtnl = Rtnl::open()?;
    let mut taken = net::look::taken(&mut rtnl, &Resolvers::of_host().ipv4(), &all)?;
    if driver == Driver::Macvlan {
        // The LAN's range is the host's too; only another network of minirun's must not have it.
        taken.retain(|taken| all.iter().any(|other| other.gateway.trunc() == taken.range));
        taken.retain(|taken| taken.holder.starts_with("network "));
    }
    let (gateway, gateway6) = gateways(args, driver, &taken, &all).map_err(|error| in_front(&failed(), error))?;
    if let Some(range) = args.ip_range.filter(|range| !gateway.trunc().contains(range)) {
        bail!("{}: --ip-range {range} is not in {}", failed(), gateway.trunc());
    }
    let link = match options.remove("parent") {
        Some(parent) => parent,
        None => link_of(&args.name, |link| {
            all.iter().any(|other| other.link == link) || rtnl.link_called(link).is_ok_and(|found| found.is_some())
        }),
    };
    if driver == Driver::Vxlan {
        options.entry("vni".to_owned()).or_insert_with(|| vxlan::vni_of(&args.name).to_string());
    }
    if let Some(mtu) = mtu.filter(|_| gateway6.is_some()) {
        fits_ipv6(mtu).with_context(failed)?;
    }
    let definition = Definition {
        name: args.name.clone(),
        driver,
        link,
        gateway,
        range: args.ip_range,
        gateway6,
        internal: args.internal || driver == Driver::Ptp,
        isolate: args.isolate,
        mtu,
        options,
        remotes: args.remote.clone(),
        kept: vec![],
        labels,
        created: now(),
    };
    match driver {
        Driver::Macvlan => look_at_parent(&mut rtnl, &definition).map_err(|error| in_front(&failed(), error))?,
        Driver::Vxlan => vxlan::check(&definition, &all).map_err(|error| in_front(&failed(), error))?,
        Driver::Bridge | Driver::Ptp => {}
    }
    definitions.add(&definition)?;
    net::foreign::warn(&[&definition]);
    if driver == Driver::Vxlan && (args.subnet.is_empty() || args.ip_range.is_none()) {
        note(&format!(
            "on the other hosts it has to be --subnet {} --opt vni={}, and on each a --gateway and an --ip-range of its own, \
             so that no two give out the same address",
            definition.gateway.trunc(),
            vxlan::tunnel(&definition).vni
        ));
    }
    print(&format!("{}\n", args.name))
}

/// The error with what was tried before it, and its remedy.
fn in_front(what: &str, error: anyhow::Error) -> anyhow::Error {
    match remedy_of(&error).map(str::to_owned) {
        Some(remedy) => refused(format!("{what}: {error:#}"), remedy),
        None => error.context(what.to_owned()),
    }
}

/// Refuses options that a driver has no use for, and asks for those that it must have.
fn fits(args: &CreateArgs, driver: Driver) -> Result<()> {
    use Driver::{Macvlan, Ptp, Vxlan};
    let why = |option: &str| match (driver, option) {
        (Ptp, "--isolate") => "its two members do nothing but reach each other",
        (Ptp, "--gateway" | "--ip-range") => "a cable has no router, and two ends",
        (Vxlan, "--isolate") => "a tunnel would lead to nobody: make a network of driver bridge on each host",
        (Macvlan, "--isolate") => "`--opt mode=private` keeps the links of one parent apart",
        _ => "driver vxlan has other ends: --driver vxlan --remote ADDRESS",
    };
    let given = [
        (driver != Vxlan && !args.remote.is_empty(), "--remote"),
        (matches!(driver, Macvlan | Vxlan | Ptp) && args.isolate, "--isolate"),
        (driver == Ptp && !args.gateway.is_empty(), "--gateway"),
        (driver == Ptp && args.ip_range.is_some(), "--ip-range"),
    ];
    if let Some((_, option)) = given.iter().find(|(given, _)| *given) {
        return Err(refused(format!("{option} does not go with driver {driver}"), why(option)));
    }
    if driver == Macvlan {
        if !args.opt.iter().any(|option| option.starts_with("parent=")) {
            let remedy = "the link of the host that the LAN is at, as --opt parent=eth0: see `ip link`";
            return Err(refused("driver macvlan: on which link is not said", remedy));
        }
        if !args.subnet.iter().any(|range| matches!(range, IpNet::V4(_))) {
            let remedy = "the LAN's own, as --subnet 192.0.2.0/24 --gateway 192.0.2.1 --ip-range 192.0.2.192/27: a part that \
                          nobody else on the LAN gives out";
            return Err(refused("driver macvlan: which addresses the LAN has is not said", remedy));
        }
        if args.ipv6 && !args.subnet.iter().any(|range| matches!(range, IpNet::V6(_))) {
            let remedy = "--subnet with the LAN's range of IPv6, beside the one of IPv4";
            return Err(refused("driver macvlan: which IPv6 addresses the LAN has is not said", remedy));
        }
    }
    Ok(())
}

/// Refuses a parent that can have no links on it, and says what one that is taken as a whole means.
fn look_at_parent(rtnl: &mut Rtnl, definition: &Definition) -> Result<()> {
    let bridge = macvlan::find(rtnl, definition.clone())?;
    macvlan::check(&bridge, &Attachment::on(&definition.name))?;
    if macvlan::mode(definition) == "passthru" {
        note(&format!(
            "mode passthru: while a container is on it, all that comes in by `{}` is that container's; the host hears nothing \
             there, and no second container can be on it",
            definition.link
        ));
    }
    Ok(())
}

/// The gateway's addresses: in the ranges that were given, or in free ones.
fn gateways(
    args: &CreateArgs,
    driver: Driver,
    taken: &[Taken],
    all: &[Definition],
) -> Result<(Ipv4Net, Option<Ipv6Net>)> {
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
            IpAddr::V4(address) => gateway = Some(*address),
            IpAddr::V6(address) => gateway6 = Some(*address),
        }
    }
    let own = match subnet {
        None if driver == Driver::Ptp => pool::for_two(&args.name, taken)?,
        None => pool::for_network(&args.name, taken)?,
        Some(range) if driver == Driver::Ptp => given(range, driver, taken)?.trunc(),
        Some(range) => given(range, driver, taken)?,
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
    // A cable has no gateway: the range alone is said.
    Ok((own, own6.map(|own| if driver == Driver::Ptp { own.trunc() } else { own })))
}

/// A range that was given, if nobody has a part of it.
fn given(range: Ipv4Net, driver: Driver, taken: &[Taken]) -> Result<Ipv4Net> {
    let range = range.trunc();
    let longest = if driver == Driver::Ptp { 31 } else { 30 };
    if range.prefix_len() > longest || range.prefix_len() < 8 {
        bail!("--subnet {range}: a range of /8 to /{longest} is wanted");
    }
    if let Some(other) = taken.iter().find(|other| pool::overlaps(other.range, range)) {
        return Err(refused(
            format!("--subnet {range}: {} is in use: {}", other.range, other.holder),
            match driver {
                Driver::Macvlan => {
                    "put the containers on that network, or remove it: its addresses would be given out twice"
                }
                _ => "choose another range, or leave --subnet out: a free one is taken",
            },
        ));
    }
    pool::first_of(range)
}
