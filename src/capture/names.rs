//! The names of containers by their addresses, and the other way round, from the records in the state directory.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::state::{Record, State};

/// What the host is called, which has an address on each network.
const HOST: &str = "host";

/// Who has which address.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Names {
    of: BTreeMap<IpAddr, String>,
    /// Names, IDs and aliases, with an address each.
    addresses: Vec<(String, IpAddr)>,
}

impl Names {
    /// Those of all containers that run and are attached where `hub` says: the same address may be another's in another
    /// network namespace. That they cannot be read is no reason to show no packets.
    pub fn read(state: &State, hub: Option<u64>) -> Self {
        let mut names = Self::default();
        let found = state.list().unwrap_or_default();
        let here = found.iter().filter(|found| found.holder.is_some() && found.record.hub == hub);
        here.for_each(|found| names.add(&found.record));
        names
    }

    /// Adds those of a container.
    pub fn add(&mut self, record: &Record) {
        for interface in &record.interfaces {
            // On a LAN the router is another machine.
            if let Some(gateway) = interface.gateway.filter(|_| interface.driver.has_bridge()) {
                self.of.entry(gateway.into()).or_insert_with(|| HOST.to_owned());
            }
            for address in interface.addresses() {
                self.of.insert(address, record.name.clone());
                let others = [&record.id].into_iter().chain(&interface.aliases);
                self.addresses.extend(others.chain([&record.name]).map(|name| (name.clone(), address)));
            }
        }
    }

    /// Adds those who were there before, where nobody else has their address now.
    pub fn keep(&mut self, before: &Self) {
        for (address, name) in &before.of {
            self.of.entry(*address).or_insert_with(|| name.clone());
        }
    }

    /// Who has an address.
    pub fn of(&self, address: IpAddr) -> Option<&str> {
        self.of.get(&address).map(String::as_str)
    }

    /// The addresses of a container, by its name, ID or alias.
    pub fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let mut found: Vec<IpAddr> =
            self.addresses.iter().filter(|(own, _)| own == name).map(|(_, address)| *address).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&IpAddr, &str)> {
        self.of.iter().map(|(address, name)| (address, name.as_str()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.of.is_empty()
    }
}
