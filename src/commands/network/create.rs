//! `minirun network create`: a network is defined.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::error::{print, refused};
use crate::net::definition::{Definition, Definitions, is_reserved, link_of, valid_name};
use crate::net::hub::Taken;
use crate::net::mode::mtu;
use crate::net::options::{check_together, option_of};
use crate::net::rtnl::Rtnl;
use crate::net::{self, names::Resolvers, pool};
use crate::options;
use crate::state::now;

/// Options of `network create`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun network create front
  minirun network create back --internal --subnet 10.9.0.0/24 --ipv6
  minirun run -d --name db --net=back:ip=10.9.0.9,alias=sql busybox sleep 1000
  minirun run --net=front --net=back busybox ip addr")]
pub struct CreateArgs {
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
    if args.driver != "bridge" {
        return Err(refused(
            format!("{}: this version has no driver `{}`", failed(), args.driver),
            "leave out --driver: bridge is what there is",
        ));
    }
    let options: BTreeMap<String, String> = args.opt.iter().map(|text| option_of(text)).collect::<Result<_>>()?;
    check_together(&options)?;
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
    let network = Definition {
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
    };
    definitions.add(&network)?;
    net::foreign::warn(&[&network]);
    print(&format!("{}\n", args.name))
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
