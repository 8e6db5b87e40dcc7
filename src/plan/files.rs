//! The files that minirun writes into a container.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Result, bail};

use crate::cli::RunArgs;
use crate::net::names::{Resolvers, hosts};
use crate::net::retold::joined;
use crate::net::{Mode, Network, dns};
use crate::state::State;

/// The host's resolvers, which only a container with a way out asks.
pub fn resolvers(mode: &Mode) -> Resolvers {
    if matches!(mode, Mode::Networks(_)) { Resolvers::of_host() } else { Resolvers::default() }
}

/// Name below /etc and text of the files that minirun writes.
pub fn files(
    args: &RunArgs,
    hostname: &str,
    name: &str,
    network: &Network,
    added: &[(String, Option<IpAddr>)],
    resolvers: Resolvers,
    state: &Path,
) -> Result<Vec<(&'static str, String)>> {
    let gateway = network.gateway();
    let added = added
        .iter()
        .map(|(host, address)| match address.or(gateway.map(IpAddr::V4)) {
            Some(address) => Ok((host.clone(), address)),
            None => bail!("add host `{host}`: host-gateway is an address of managed networks only"),
        })
        .collect::<Result<Vec<_>>>()?;
    let hosts = if network.mode == Mode::Host {
        let mut text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        added.iter().for_each(|(host, address)| text.push_str(&format!("{address}\t{host}\n")));
        text
    } else {
        let own = match network.addresses() {
            none if none.is_empty() => vec![IpAddr::from([127, 0, 0, 1])],
            own => own,
        };
        let names = if hostname == name { name.to_owned() } else { format!("{hostname} {name}") };
        hosts(&own, gateway, &names, &added)
    };
    Ok(vec![
        ("hosts", hosts),
        ("hostname", format!("{hostname}\n")),
        ("resolv.conf", resolv_conf(args, &network.mode, resolvers, state)),
    ])
}

fn resolv_conf(args: &RunArgs, mode: &Mode, of_host: Resolvers, state: &Path) -> String {
    let asked = &args.network;
    let mut resolvers = match mode {
        _ if !asked.dns.is_empty() => Resolvers { servers: asked.dns.clone(), other: of_host.other },
        Mode::None => Resolvers::default(),
        // Its loopback device is the host's: a stub there is the right one.
        Mode::Host => return std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        Mode::Container(_) | Mode::Namespace(_) => Resolvers::of_host(),
        Mode::Networks(_) => of_host,
    };
    resolvers.say(&asked.dns_search, &asked.dns_option);
    if matches!(mode, Mode::Networks(_)) || asked.dns.is_empty() && has_name_server(mode, state) {
        // Its own one, which asks the others, or that of the container whose network it has. Without a network nobody listens
        // there until it is connected to one.
        resolvers.servers = vec![dns::ADDRESS.into()];
    }
    resolvers.text()
}

/// Whether minirun answers for names in the network that a container has: its own, or the one of another container.
fn has_name_server(mode: &Mode, state: &Path) -> bool {
    let Mode::Container(other) = mode else { return matches!(mode, Mode::None | Mode::Networks(_)) };
    let found = State::open(state).and_then(|state| state.find(other));
    found.is_ok_and(|found| joined(&found.record).is_none_or(|mode| has_name_server(&mode, state)))
}
