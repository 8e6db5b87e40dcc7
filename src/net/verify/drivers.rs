//! The steps of drivers beside bridge against the kernel's state: a link on a parent (macvlan), a tunnel (vxlan), and the end
//! of a cable that a container has (ptp).
//!
//! A part of the comparison in `verify.rs`.

use std::net::IpAddr;

use super::super::difference::{is_not, wrong_mac};
use super::super::rtnl::Mac;
use super::super::seen::{self, Link};
use super::super::step::{Place, Step};
use super::super::vxlan::Tunnel;
use super::Comparison;

impl<'a> Comparison<'a> {
    /// Whether both ends of this cable are in containers, and so none of it here.
    pub(super) fn is_plugged(&self, link: &str) -> bool {
        self.kernel.hub.link(link).is_none() && self.kernel.plugged.iter().any(|plugged| plugged == link)
    }

    /// The link in the container that is called so, or else the one with its hardware address; of those that `is` says.
    fn end(&self, name: &str, mac: Mac, is: impl Fn(&&Link) -> bool) -> Option<&'a Link> {
        let links = self.kernel.inside.map(|seen| seen.links.as_slice()).unwrap_or_default();
        let named = links.iter().filter(&is).find(|link| link.name == name);
        named.or_else(|| links.iter().filter(&is).find(|link| link.mac == Some(mac)))
    }

    /// Whether the container has an end of a cable.
    pub(super) fn has_end(&self, name: &str, mac: Mac) -> bool {
        self.end(name, mac, |link| link.is_veth).is_some()
    }

    /// The end of a cable whose other end another container has.
    pub(super) fn plugged_end(&mut self, step: &Step, name: &str, (mac, mtu): (Mac, u32)) {
        let Some(end) = self.end(name, mac, |link| link.is_veth) else {
            let at = self.differ(step, format!("link {name}: not there, its end of the cable"), vec![step.clone()]);
            self.lost.insert((Place::Container, name.to_owned()), at);
            return;
        };
        self.inside(step, end, name, (Some(mac), mtu));
    }

    /// The name, the MTU and the hardware address of a link in the container.
    fn inside(&mut self, step: &Step, link: &Link, name: &str, (mac, mtu): (Option<Mac>, u32)) {
        self.renamed(step, link, name);
        if let Some(wrong) = is_not("MTU", &link.mtu, &mtu) {
            let mend = Step::SetMtu { place: Place::Container, link: name.to_owned(), mtu };
            self.differ(step, format!("link {name}: {wrong}"), vec![mend]);
        }
        if let Some((mac, wrong)) = mac.and_then(|mac| Some((mac, wrong_mac(link, mac)?))) {
            let mend = Step::SetMac { place: Place::Container, link: name.to_owned(), mac };
            self.differ(step, format!("link {name}: {wrong}"), vec![mend]);
        }
    }

    /// A link on a parent.
    pub(super) fn macvlan(&mut self, step: &Step, (parent, mode): (&str, &str), name: &str, (mac, mtu): (Mac, u32)) {
        let lost = (Place::Container, name.to_owned());
        let Some(below) = self.kernel.hub.link(parent) else {
            let remedy = format!("bring `{parent}` back, then `minirun network reload`");
            let at = self.tell(step, format!("link {name}: its parent {parent} is no link of this host"), remedy);
            self.lost.insert(lost, at);
            return;
        };
        let Some(link) = self.end(name, mac, |link| link.macvlan.is_some() || link.name == name) else {
            let at = self.differ(step, format!("link {name}: not there"), vec![step.clone()]);
            self.lost.insert(lost, at);
            return;
        };
        let wrong = match link.macvlan {
            None => Some("no macvlan link".to_owned()),
            Some(_) if link.peer != Some(below.index) => Some(format!("not on {parent}")),
            Some(is) => is_not("mode", is, mode),
        };
        if let Some(wrong) = wrong {
            let delete = Step::DeleteLink { place: Place::Container, link: link.name.clone() };
            let at = self.differ(step, format!("link {name}: {wrong}"), vec![delete, step.clone()]);
            self.lost.insert(lost, at);
            return;
        }
        // In this mode it has the parent's own.
        self.inside(step, link, name, (Some(mac).filter(|_| mode != "passthru"), mtu));
    }

    /// A tunnel, and whom it leads to first.
    pub(super) fn tunnel(&mut self, step: &Step, name: &str, mtu: u32, tunnel: &Tunnel) {
        let lost = (Place::Hub, name.to_owned());
        let Some(link) = self.kernel.hub.link(name) else {
            let at = self.differ(step, format!("tunnel {name}: not there"), vec![step.clone()]);
            self.lost.insert(lost, at);
            return;
        };
        let alias = self.steps.iter().find_map(|step| match step {
            Step::SetAlias { link, alias } if link == name => Some(alias.as_str()),
            _ => None,
        });
        let is_own = Some(link.alias.as_str()) == alias;
        let Some(there) = link.tunnel.as_ref().filter(|there| is_own || there.vni == tunnel.vni) else {
            let what = format!("tunnel {name}: the host has a link of that name that is not minirun's");
            let remedy = format!("rename it (`ip link set {name} name NAME`) or delete it (`ip link del {name}`)");
            let at = self.tell(step, what, remedy);
            self.lost.insert(lost, at);
            return;
        };
        if let Some(wrong) = self.leads_elsewhere(there, tunnel) {
            let delete = Step::DeleteLink { place: Place::Hub, link: name.to_owned() };
            let at = self.differ(step, format!("tunnel {name}: {wrong}"), vec![delete, step.clone()]);
            self.lost.insert(lost, at);
            return;
        }
        if let Some(wrong) = is_not("MTU", &link.mtu, &mtu) {
            let mend = Step::SetMtu { place: Place::Hub, link: name.to_owned(), mtu };
            self.differ(step, format!("tunnel {name}: {wrong}"), vec![mend]);
        }
        if let Some(remote) = tunnel.to {
            self.flood(step, name, remote);
        }
        let is_known = |other: &IpAddr| {
            let named =
                |step: &Step| matches!(step, Step::AddFlood { link, remote } if link == name && remote == other);
            tunnel.to == Some(*other) || self.steps.iter().any(named)
        };
        let strangers: Vec<IpAddr> = there.remotes.iter().filter(|other| !is_known(other)).copied().collect();
        for other in strangers {
            let remedy = format!("bridge fdb del 00:00:00:00:00:00 dev {name} dst {other}");
            self.tell(step, format!("tunnel {name}: leads to {other} too"), remedy);
        }
    }

    /// What of a tunnel cannot be changed while it is there.
    fn leads_elsewhere(&self, there: &seen::Tunnel, wanted: &Tunnel) -> Option<String> {
        let text =
            |address: Option<IpAddr>| address.map_or_else(|| "nothing".to_owned(), |address| address.to_string());
        let dev = there.dev.map_or("nothing", |index| self.kernel.hub.name_of(index));
        is_not("number", &there.vni, &wanted.vni)
            .or_else(|| is_not("UDP port", &there.port, &wanted.port))
            .or_else(|| is_not("first remote", &text(there.to), &text(wanted.to)))
            .or_else(|| is_not("address", &text(there.local), &text(wanted.local)))
            .or_else(|| is_not("link below", dev, wanted.dev.as_deref().unwrap_or("nothing")))
    }

    /// A further host that a tunnel leads to.
    pub(super) fn flood(&mut self, step: &Step, name: &str, remote: IpAddr) {
        let there = self.kernel.hub.link(name).and_then(|link| link.tunnel.as_ref());
        if there.is_some_and(|tunnel| !tunnel.remotes.contains(&remote)) {
            let mend = Step::AddFlood { link: name.to_owned(), remote };
            self.differ(step, format!("tunnel {name}: does not lead to {remote}"), vec![mend]);
        }
    }
}
