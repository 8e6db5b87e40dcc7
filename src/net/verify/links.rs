//! Links of the hub and of a container against the steps that made them: bridges, veth pairs, ports, filters, rates.

use super::super::options::{BRIDGE_DEFAULTS, PORT_DEFAULTS};
use super::super::program::{Direction, Filter};
use super::super::rtnl::Mac;
use super::super::seen::Link;
use super::super::step::{Place, Step};
use super::{Comparison, is_not, wrong_mac, wrong_option};

impl Comparison<'_> {
    /// The place of the filter.
    pub(super) fn entrance(&mut self, step: &Step, (place, name): (Place, &str), direction: Direction) {
        let (Some(link), Some(seen)) = (self.link(place, name), self.seen(place)) else { return };
        if !seen.disciplines.programs.contains_key(&(link.index, direction)) {
            let what = format!("link {name}: nothing looks at what passes its {}", direction.name());
            self.differ(step, what, vec![step.clone()]);
        }
    }

    pub(super) fn rate(&mut self, step: &Step, (place, name): (Place, &str), wanted: u64) {
        let (Some(link), Some(seen)) = (self.link(place, name), self.seen(place)) else { return };
        match seen.disciplines.rates.get(&link.index) {
            Some(rate) if *rate == wanted => {}
            None => _ = self.differ(step, format!("link {name}: not limited in its rate"), vec![step.clone()]),
            Some(rate) => {
                let remedy = format!("`tc qdisc del dev {name} root` where it is, then `minirun network reload`");
                self.tell(step, format!("link {name}: limited to {rate} bytes a second, not {wanted}"), remedy);
            }
        }
    }

    pub(super) fn filter(&mut self, step: &Step, (place, name): (Place, &str), direction: Direction, filter: &Filter) {
        let (Some(link), Some(seen)) = (self.link(place, name), self.seen(place)) else { return };
        let end = direction.name();
        match seen.disciplines.programs.get(&(link.index, direction)).and_then(Option::as_deref) {
            Some(program) if program == filter.program() => {}
            None => _ = self.differ(step, format!("link {name}: without its filter at {end}"), vec![step.clone()]),
            Some(_) => {
                let discipline = direction.discipline();
                let remedy =
                    format!("`tc qdisc del dev {name} {discipline}` where it is, then `minirun network reload`");
                self.tell(step, format!("link {name}: its filter at {end} is another one"), remedy);
            }
        }
    }

    pub(super) fn bridge(&mut self, step: &Step, name: &str, mac: Mac, options: &[(&'static str, u32)]) {
        let alias = self.steps.iter().find_map(|step| match step {
            Step::SetAlias { link, alias } if link == name => Some(alias.as_str()),
            _ => None,
        });
        let Some(link) = self.kernel.hub.link(name) else {
            let at = self.differ(step, format!("bridge {name}: not there"), vec![step.clone()]);
            self.lost.insert((Place::Hub, name.to_owned()), at);
            return;
        };
        if !link.is_bridge || Some(link.alias.as_str()) != alias && link.mac != Some(mac) {
            let remedy = format!("rename it (`ip link set {name} name NAME`) or delete it (`ip link del {name}`)");
            let at = self.tell(
                step,
                format!("bridge {name}: the host has a link of that name that is not minirun's"),
                remedy,
            );
            self.lost.insert((Place::Hub, name.to_owned()), at);
            return;
        }
        if let Some(wrong) = wrong_mac(link, mac) {
            let mend = Step::SetMac { place: Place::Hub, link: name.to_owned(), mac };
            self.differ(step, format!("bridge {name}: {wrong}"), vec![mend]);
        }
        for (option, usual) in BRIDGE_DEFAULTS {
            let value = options.iter().find(|(name, _)| *name == option).map_or(usual, |(_, value)| *value);
            if let Some(wrong) = wrong_option(&link.bridge_options, option, value) {
                let mend = Step::SetBridgeOption { link: name.to_owned(), option, value };
                self.differ(step, format!("bridge {name}: {wrong}"), vec![mend]);
            }
        }
    }

    pub(super) fn veth(&mut self, step: &Step, host: &str, mtu: u32, (peer, mac): (&str, Mac)) {
        let ends = [(Place::Hub, host.to_owned()), (Place::Container, peer.to_owned())];
        let Some(link) = self.kernel.hub.link(host) else {
            if self.is_plugged(host) && self.has_end(peer, mac) {
                return self.plugged_end(step, peer, (mac, mtu));
            }
            let at =
                self.differ(step, format!("link {host}: not there, nor {peer} in the container"), vec![step.clone()]);
            self.lost.extend(ends.map(|end| (end, at)));
            return;
        };
        let inside = self.kernel.inside.map(|seen| seen.links.as_slice()).unwrap_or_default();
        let other_end = |other: &&Link| other.is_veth && other.peer == Some(link.index);
        let named = inside.iter().filter(other_end).find(|other| other.name == peer);
        let Some(end) = named.or_else(|| inside.iter().find(other_end)) else {
            let what = format!("link {host}: its other end is not in the container");
            let at = self.tell(step, what, format!("`ip link del {host}`, then `minirun network reload`"));
            self.lost.extend(ends.map(|end| (end, at)));
            return;
        };
        self.renamed(step, end, peer);
        for (place, name, link) in [(Place::Hub, host, link), (Place::Container, peer, end)] {
            if let Some(wrong) = is_not("MTU", &link.mtu, &mtu) {
                let mend = Step::SetMtu { place, link: name.to_owned(), mtu };
                self.differ(step, format!("link {name}: {wrong}"), vec![mend]);
            }
        }
        if let Some(wrong) = wrong_mac(end, mac) {
            let mend = Step::SetMac { place: Place::Container, link: peer.to_owned(), mac };
            self.differ(step, format!("link {peer}: {wrong}"), vec![mend]);
        }
    }

    /// A link in the container that may have another name than it should.
    pub(super) fn renamed(&mut self, step: &Step, link: &Link, name: &str) {
        if link.name != name {
            let mend = Step::Rename { link: link.name.clone(), name: name.to_owned() };
            self.differ(step, format!("link {name}: called {}", link.name), vec![mend]);
            self.called.insert(name.to_owned(), link.name.clone());
        }
    }

    pub(super) fn port(&mut self, step: &Step, name: &str, bridge: &str, alias: &str) {
        let Some(link) = self.link(Place::Hub, name) else { return self.of_link(step, Place::Hub, name) };
        if self.kernel.foreign.iter().any(|foreign| foreign == bridge) {
            let at =
                self.tell(step, format!("link {name}: no port of minirun's {bridge}"), format!("see bridge {bridge}"));
            self.unplugged.insert(name.to_owned(), at);
            return;
        }
        let is = link.bridge.map_or("nothing", |index| self.kernel.hub.name_of(index));
        if is != bridge {
            let what = format!("link {name}: not a port of {bridge} (is a port of {is})");
            let at = self.differ(step, what, vec![step.clone()]);
            self.unplugged.insert(name.to_owned(), at);
            return;
        }
        if let Some(wrong) = is_not("alias", link.alias.as_str(), alias) {
            let mend = Step::SetAlias { link: name.to_owned(), alias: alias.to_owned() };
            self.differ(step, format!("link {name}: {wrong}"), vec![mend]);
        }
        // What is not asked for is what a new port has.
        // The cost is that of a veth; a tunnel's follows from the link that it sends by.
        let is_tunnel = link.tunnel.is_some();
        for (option, value) in PORT_DEFAULTS.into_iter().filter(|(option, _)| !(is_tunnel && *option == "cost")) {
            let asked = |step: &Step| matches!(step, Step::SetPortOption { link, option: other, .. } if link == name && *other == option);
            if !self.steps.iter().any(asked) {
                self.port_option(&[], name, (option, value));
            }
        }
    }

    /// `steps` begins with the step itself; the last one that sets an option counts.
    pub(super) fn port_option(&mut self, steps: &[Step], name: &str, (option, value): (&'static str, u32)) {
        let same = |step: &&Step| matches!(step, Step::SetPortOption { link, option: other, .. } if link == name && *other == option);
        let step = Step::SetPortOption { link: name.to_owned(), option, value };
        let Some(link) = self.link(Place::Hub, name) else { return self.of_link(&step, Place::Hub, name) };
        if steps.iter().filter(same).count() > 1 {
            return;
        }
        if let Some(wrong) = wrong_option(&link.port_options, option, value) {
            self.differ(&step, format!("link {name}: {wrong}"), vec![step.clone()]);
        }
    }
}
