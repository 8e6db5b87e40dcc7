//! A Step against the kernel's state: which of a list of steps are not done, or not any more, and the steps that mend it.
//!
//! The fourth reading of the list that `apply.rs` does and undoes and `explain.rs` prints. Used by `reload.rs`, for
//! `network verify` and `network reload`. Nothing is changed here, and nothing asked: what there is stands in `seen.rs`.

mod drivers;
mod lent;
mod links;
mod relays;

use std::collections::HashMap;

pub use self::relays::unheard;
use super::difference::{Difference, is_not, is_same, wrong_mac, wrong_option};
use super::explain;
use super::nft::dump::{Has, Whole};
use super::seen::{Link, Seen};
use super::step::{Place, Step};
use super::table::{Change, Element, TABLE};

/// What is compared.
#[derive(Debug, Clone, Copy)]
pub struct Kernel<'a> {
    /// The hub as it is.
    pub hub: &'a Seen,
    /// The container's namespace, for the steps of a container.
    pub inside: Option<&'a Seen>,
    /// The steps that make the whole table of the hub, where it has to be made anew.
    pub table: &'a [Step],
    /// Names of bridges in whose place there is somebody else's link.
    pub foreign: &'a [String],
    /// Links of cables both of whose ends containers have: they are not in the hub.
    pub plugged: &'a [String],
}

/// What of these steps is not as it should be, in their order. `subject` says whose a step is.
pub fn differences(steps: &[Step], kernel: Kernel<'_>, subject: &dyn Fn(&Step) -> String) -> Vec<Difference> {
    let mut comparison = Comparison {
        steps,
        kernel,
        subject,
        found: vec![],
        lost: HashMap::new(),
        unplugged: HashMap::new(),
        called: HashMap::new(),
        tables: HashMap::new(),
    };
    for (at, step) in steps.iter().enumerate() {
        comparison.compare(at, step);
    }
    comparison.found
}

struct Comparison<'a> {
    steps: &'a [Step],
    kernel: Kernel<'a>,
    subject: &'a dyn Fn(&Step) -> String,
    found: Vec<Difference>,
    /// Links that are not there, with the difference that says so: what else is to be of them is a part of that.
    lost: HashMap<(Place, String), usize>,
    /// Links that are not ports, in the same way.
    unplugged: HashMap<String, usize>,
    /// Links that have another name than they should.
    called: HashMap<String, String>,
    /// Whether the table of that place is as it should be, as soon as it was looked at.
    tables: HashMap<Place, bool>,
}

impl<'a> Comparison<'a> {
    fn seen(&self, place: Place) -> Option<&'a Seen> {
        if place == Place::Hub { Some(self.kernel.hub) } else { self.kernel.inside }
    }

    fn link(&self, place: Place, name: &str) -> Option<&'a Link> {
        let name = self.called.get(name).filter(|_| place == Place::Container).map_or(name, String::as_str);
        self.seen(place)?.link(name)
    }

    /// Notes what is wrong. The number of the difference.
    fn differ(&mut self, step: &Step, what: String, steps: Vec<Step>) -> usize {
        self.found.push(Difference { subject: (self.subject)(step), what, steps, remedy: None });
        self.found.len() - 1
    }

    /// Notes what minirun cannot mend.
    fn tell(&mut self, step: &Step, what: String, remedy: String) -> usize {
        let at = self.differ(step, what, vec![]);
        self.found[at].remedy = Some(remedy);
        at
    }

    /// Whether the step is a part of a difference that was noted; it is added to what mends that.
    fn is_implied(&mut self, step: &Step) -> bool {
        let of = |place: Place, link: &str| self.lost.get(&(place, link.to_owned())).copied();
        let at = match step {
            Step::SetPortOption { link, .. } => of(Place::Hub, link).or_else(|| self.unplugged.get(link).copied()),
            Step::AddDefaultRoute { gateway } => {
                // It goes with the link that its router is behind.
                let link = self.steps.iter().find_map(|step| match step {
                    Step::AddAddress { place: Place::Container, link, address } if address.contains(gateway) => {
                        Some(link)
                    }
                    _ => None,
                });
                link.and_then(|link| of(Place::Container, link))
            }
            Step::Announce { link, .. } => of(Place::Container, link),
            Step::Sysctl { place, key, .. } => key.split('/').nth(3).and_then(|link| of(*place, link)),
            Step::SetAlias { link, .. }
            | Step::SetPort { link, .. }
            | Step::SetBridgeOption { link, .. }
            | Step::AddFlood { link, .. } => of(Place::Hub, link),
            Step::AddAddress { place, link, .. }
            | Step::AddEntrance { place, link, .. }
            | Step::AddFilter { place, link, .. }
            | Step::NoLinkLocal { place, link }
            | Step::SetUp { place, link }
            | Step::Shape { place, link, .. }
            | Step::SetMtu { place, link, .. }
            | Step::SetMac { place, link, .. } => of(*place, link),
            _ => None,
        };
        let Some(at) = at else { return false };
        if self.found[at].remedy.is_none() {
            self.found[at].steps.push(step.clone());
        }
        true
    }

    fn compare(&mut self, at: usize, step: &Step) {
        if self.is_implied(step) {
            return;
        }
        match step {
            Step::AddBridge { name, mac, options } => self.bridge(step, name, *mac, options),
            Step::AddVeth { host, mtu, peer, peer_mac, .. } => self.veth(step, host, *mtu, (peer, *peer_mac)),
            Step::SetPort { link, bridge, alias } => self.port(step, link, bridge, alias),
            Step::SetPortOption { link, option, value } => self.port_option(&self.steps[at..], link, (option, *value)),
            Step::AddDefaultRoute { gateway } | Step::ReplaceDefaultRoute { gateway } => {
                let there = self.kernel.inside.map(|seen| seen.gateways.as_slice()).unwrap_or_default();
                if there.contains(gateway) {
                    return;
                }
                let (what, step) = match there.iter().find(|other| other.is_ipv4() == gateway.is_ipv4()) {
                    None => (format!("default route: none by {gateway}"), step.clone()),
                    Some(other) => (
                        format!("default route: by {other}, not by {gateway}"),
                        Step::ReplaceDefaultRoute { gateway: *gateway },
                    ),
                };
                self.differ(&step, what, vec![step.clone()]);
            }
            Step::Sysctl { place, key, value } => self.setting(&self.steps[at + 1..], step, (*place, key, value)),
            Step::Nft(change) => self.rules(Place::Hub, step, change),
            Step::NftInside(change) => self.rules(Place::Container, step, change),
            Step::AddEntrance { place, link, direction } => self.entrance(step, (*place, link), *direction),
            Step::AddFilter { place, link, direction, filter } => {
                self.filter(step, (*place, link), *direction, filter);
            }
            Step::AddMacvlan { parent, mode, name, mac, mtu, .. } => {
                self.macvlan(step, (parent, mode), name, (*mac, *mtu));
            }
            Step::AddVxlan { name, mtu, tunnel } => self.tunnel(step, name, *mtu, tunnel),
            Step::AddFlood { link, remote } => self.flood(step, link, *remote),
            Step::MoveLink { name, mac, mtu, .. } => self.plugged_end(step, name, (*mac, *mtu)),
            // The name is looked at with the link, and what is deleted was in the way of one.
            Step::Rename { .. } | Step::DeleteLink { .. } => {}
            // What was told leaves nothing to be seen.
            Step::Announce { .. } => {}
            Step::Lend { device, name } => self.lent(step, device, name),
            // The end that waited is plugged in.
            Step::SetAlias { link, .. } if self.is_plugged(link) => {}
            Step::Shape { place, link, rate, .. } => self.rate(step, (*place, link), rate.bytes),
            Step::AddTap { link, .. } => {
                if self.link(Place::Container, link).is_none() {
                    self.tell(step, format!("tap device {link}: not there"), "restart the container".to_owned());
                }
            }
            Step::SetAlias { link, .. } | Step::SetBridgeOption { link, .. } => self.of_link(step, Place::Hub, link),
            Step::AddAddress { place, link, .. }
            | Step::NoLinkLocal { place, link }
            | Step::SetUp { place, link }
            | Step::SetMtu { place, link, .. }
            | Step::SetMac { place, link, .. } => self.of_link(step, *place, link),
        }
    }

    /// A step that sets one property of a link.
    fn of_link(&mut self, step: &Step, place: Place, name: &str) {
        let Some(link) = self.link(place, name) else {
            let at = self.differ(step, format!("link {name}: not there"), vec![step.clone()]);
            self.lost.insert((place, name.to_owned()), at);
            return;
        };
        let wrong = match step {
            Step::SetUp { .. } => (!link.up).then(|| "down".to_owned()),
            Step::NoLinkLocal { .. } => {
                (!link.no_link_local).then(|| "the kernel makes it a link-local address".to_owned())
            }
            Step::SetAlias { alias, .. } => is_not("alias", &link.alias, alias),
            Step::SetMtu { mtu, .. } => is_not("MTU", &link.mtu, mtu),
            Step::SetMac { mac, .. } => wrong_mac(link, *mac),
            Step::SetBridgeOption { option, value, .. } => wrong_option(&link.bridge_options, option, *value),
            Step::AddAddress { address, .. } => {
                let seen = self.seen(place).map(|seen| seen.addresses.as_slice()).unwrap_or_default();
                let there = seen.iter().any(|(index, other)| *index == link.index && other == address);
                (!there).then(|| format!("without its address {address}"))
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            self.differ(step, format!("link {name}: {wrong}"), vec![step.clone()]);
        }
    }

    /// `later` are the steps that follow: the last one that makes a setting counts.
    fn setting(&mut self, later: &[Step], step: &Step, (place, key, value): (Place, &str, &str)) {
        let again = |step: &Step| matches!(step, Step::Sysctl { place: p, key: k, .. } if *p == place && k == key);
        // Those of a link that is called otherwise are looked at once it has its name.
        let renamed =
            place == Place::Container && key.split('/').nth(3).is_some_and(|link| self.called.contains_key(link));
        if renamed || later.iter().any(again) {
            return;
        }
        match self.seen(place).and_then(|seen| seen.settings.get(key)) {
            Some(Some(there)) if is_same(there, value) => {}
            Some(Some(there)) => {
                self.differ(step, format!("setting {key}: {there}, not {value}"), vec![step.clone()]);
            }
            _ => self.no_setting(step, place, key),
        }
    }

    /// A setting that is not there.
    fn no_setting(&mut self, step: &Step, place: Place, key: &str) {
        let link = key.split('/').nth(3).filter(|_| key.contains("/conf/")).unwrap_or_default();
        // With a smaller MTU there is no IPv6 on a link.
        if self.link(place, link).is_some_and(|link| link.mtu < 1280 && key.starts_with("net/ipv6/")) {
            return;
        }
        // That of a bridge that is gone comes back with it.
        let is_gone = !link.is_empty() && self.link(place, link).is_none();
        if let Some(last) = self.found.last_mut().filter(|last| is_gone && last.remedy.is_none()) {
            return last.steps.push(step.clone());
        }
        self.tell(step, format!("setting {key}: not there"), "see whether the kernel has it".into());
    }

    fn rules(&mut self, place: Place, step: &Step, change: &Change) {
        let right = match self.tables.get(&place) {
            Some(right) => *right,
            None => {
                let right = self.table(place, step);
                self.tables.insert(place, right);
                right
            }
        };
        // Where it is made anew, its elements are made with it.
        let table = self.seen(place).and_then(|seen| seen.table.as_ref());
        if let (true, Some(table), Change::AddElement(element)) = (right, table, change) {
            self.element(place, step, table, element);
        }
    }

    /// Whether the table of a place is as it should be, but for the elements.
    fn table(&mut self, place: Place, step: &Step) -> bool {
        let of = |step: &'a Step| match (place, step) {
            (Place::Hub, Step::Nft(change)) | (Place::Container, Step::NftInside(change)) => Some(change),
            _ => None,
        };
        let changes: Vec<&Change> = self.steps.iter().filter_map(of).collect();
        if !changes.contains(&&Change::AddTable) {
            return true;
        }
        let table = self.seen(place).and_then(|seen| seen.table.as_ref());
        let wrong = match table {
            None => Some("not there".to_owned()),
            Some(table) => table.differs(&changes),
        };
        let Some(wrong) = wrong else { return true };
        let (all, delete) = match place {
            Place::Hub => (self.kernel.table.to_vec(), Step::Nft(Change::DeleteTable)),
            Place::Container => (
                self.steps.iter().filter(|step| matches!(step, Step::NftInside(_))).cloned().collect(),
                Step::NftInside(Change::DeleteTable),
            ),
        };
        let steps = table.map(|_| delete).into_iter().chain(all).collect();
        self.differ(step, format!("nftables table `inet {TABLE}`: {wrong}"), steps);
        false
    }

    fn element(&mut self, place: Place, step: &Step, table: &Whole, element: &Element) {
        let text = explain::element_text(element, true);
        match table.has(element) {
            Has::Same => {}
            Has::Nothing => {
                self.differ(step, format!("nftables set without {text}"), vec![step.clone()]);
            }
            Has::Other => {
                let delete = Change::DeleteElement(element.clone());
                let delete = if place == Place::Hub { Step::Nft(delete) } else { Step::NftInside(delete) };
                let what = format!("nftables set has another element than {text}");
                self.differ(step, what, vec![delete, step.clone()]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_on_a_link_that_is_gone_is_a_part_of_that() {
        let hub = Seen::default();
        let steps = [
            Step::AddBridge { name: "b".into(), mac: [2; 6], options: vec![] },
            Step::SetUp { place: Place::Hub, link: "b".into() },
            Step::Sysctl { place: Place::Hub, key: "net/ipv4/conf/b/forwarding".into(), value: "1".into() },
        ];
        let kernel = Kernel { hub: &hub, inside: None, table: &[], foreign: &[], plugged: &[] };
        let found = differences(&steps, kernel, &|_| "net".into());
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].steps, steps);
        assert_eq!(found[0].mend(None), "minirun network reload");
    }
}
