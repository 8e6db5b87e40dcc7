//! Links of the host that are lent: whether they are in the container. What they are to have there are steps like any other.

use super::super::lent::Device;
use super::super::seen::Link;
use super::super::step::{Place, Step};
use super::Comparison;

impl Comparison<'_> {
    pub(super) fn lent(&mut self, step: &Step, device: &Device, name: &str) {
        let inside = self.kernel.inside.map(|seen| seen.links.as_slice()).unwrap_or_default();
        if let Some(link) = inside.iter().find(|link| link.index == device.index_inside()) {
            return self.renamed(step, link, name);
        }
        // Back under its own name, or as it was called in the container.
        let is_it = |link: &&Link| (link.name == device.name || link.name == name) && link.mac == device.mac();
        let at = match self.kernel.hub.links.iter().find(is_it) {
            Some(link) if link.bridge.is_none() => {
                let device = Box::new(device.standing(&link.name, link.index));
                let lend = Step::Lend { device, name: name.to_owned() };
                self.differ(step, format!("link {name}: not there, but on the host as {}", link.name), vec![lend])
            }
            Some(link) => {
                let what = format!("link {name}: not there, but on the host as {}, a port of a bridge", link.name);
                let remedy = format!("`ip link set {} nomaster`, then `minirun network reload`", link.name);
                self.tell(step, what, remedy)
            }
            None => {
                let what = format!("link {name}: not there, nor {} on the host", device.name);
                self.tell(step, what, "restart the container, once the host has it".to_owned())
            }
        };
        self.lost.insert((Place::Container, name.to_owned()), at);
    }
}
