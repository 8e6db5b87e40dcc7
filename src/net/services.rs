//! What the holder of a container does for its network while it runs: it answers the container's queries for names, mends
//! rules that somebody takes away, passes on what comes to ports that the kernel cannot lead to it and what it sends to the host, and hears what other
//! commands ask.
//!
//! `launch.rs` makes them before the container runs, `supervise.rs` serves them from its loop. Nothing here waits.

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};

use super::access;
use super::anchor::Anchor;
use super::dns::{self, Responder};
use super::members::Members;
use super::mend::Mender;
use super::publish::Port;
use super::relay::Relay;
use super::{Network, foreign, publish};
use crate::capture::Recorder;
use crate::control::Control;

/// What a container's holder serves for its network.
#[derive(Default)]
pub struct Services {
    /// Its name server.
    pub names: Option<Responder>,
    /// Whom that knows.
    pub members: Option<Members>,
    /// Who sees to its rules.
    pub rules: Option<Mender>,
    /// What holds connections while there are none.
    pub anchor: Option<Anchor>,
    /// Where other commands ask for changes.
    pub control: Option<Control>,
    /// What keeps its packets.
    pub capture: Option<Recorder>,
    /// What passes on what comes to some of its published ports.
    pub relays: Vec<(Port, Relay)>,
    /// What passes on what the container sends to the host.
    pub host: Option<Relay>,
}

impl Services {
    /// What is to be waited for, until it is readable, in the order in which [`serve`](Self::serve) takes it.
    pub fn interest(&self) -> Vec<BorrowedFd<'_>> {
        let names = self.names.iter().map(Responder::as_fd);
        let rules = self.rules.iter().filter_map(Mender::as_fd);
        let relays = self.relays.iter().map(|(_, relay)| relay).chain(&self.host).map(Relay::fd);
        let capture = self.capture.iter().map(Recorder::as_fd);
        let anchor = self.anchor.iter().filter_map(Anchor::as_fd);
        names
            .chain(rules)
            .chain(anchor)
            .chain(self.control.iter().map(Control::as_fd))
            .chain(capture)
            .chain(relays)
            .collect()
    }

    /// After so long there is something to do in any case.
    pub fn timeout(&self) -> Option<Duration> {
        let relays = self.relays.iter().map(|(_, relay)| relay).chain(&self.host).filter_map(Relay::timeout);
        relays.chain(self.anchor.as_ref().and_then(Anchor::timeout)).min()
    }

    /// Passes on what comes to a socket, which is a part of `port`.
    pub fn relay(&mut self, port: Port, socket: OwnedFd, target: SocketAddr) -> Result<()> {
        let protocol = port.protocol;
        if let Some((_, relay)) = self.relays.iter_mut().find(|(other, _)| *other == port) {
            return relay.add(socket, protocol, target);
        }
        let mut relay = Relay::new()?;
        relay.add(socket, protocol, target).with_context(|| format!("publish {port}"))?;
        self.relays.push((port, relay));
        Ok(())
    }

    /// Does what there is to do; `ready` is as [`interest`](Self::interest) was. Whether another command asks for a change.
    pub fn serve(&mut self, ready: &[bool]) -> bool {
        let mut ready = ready.iter().copied();
        let mut next = || ready.next() == Some(true);
        if let Some(responder) = &mut self.names
            && next()
            && let Some(members) = &self.members
        {
            responder.serve(members);
        }
        if let Some(rules) = &self.rules
            && next()
        {
            rules.serve();
        }
        if let Some(anchor) = &mut self.anchor {
            let told = anchor.as_fd().is_some() && next();
            if anchor.serve(told)
                && let Some(rules) = &self.rules
            {
                rules.open_way_out();
            }
        }
        let asked = self.control.is_some() && next();
        if let Some(capture) = &mut self.capture
            && next()
        {
            capture.serve();
        }
        // Also those that are not readable: one may have waited long enough.
        self.relays.iter_mut().map(|(_, relay)| relay).chain(&mut self.host).for_each(Relay::serve);
        asked
    }
}

/// What the network of a container asks of its holder.
impl Network {
    /// What its holder does for it while it runs.
    pub fn services(&mut self) -> Result<Services> {
        let mut services = Services::default();
        self.refresh(&mut services)?;
        if let (Some(hub), Some(rules)) = (&self.hub, &services.rules)
            && let Some(generation) = rules.generation
        {
            let networks: Vec<_> = hub.bridges.iter().map(|bridge| &bridge.definition).collect();
            foreign::change::watch(&hub.directory, &networks, generation);
        }
        Ok(services)
    }

    /// Tells those who serve it how it is now.
    pub fn refresh(&mut self, services: &mut Services) -> Result<()> {
        let Some(hub) = &mut self.hub else { return Ok(()) };
        services.relays.retain(|(port, _)| self.ports.contains(port));
        for publish::Relayed { port, socket, target } in std::mem::take(&mut hub.relayed) {
            services.relay(port, socket, target)?;
        }
        let forward = hub.bridges.iter().any(|bridge| !bridge.definition.internal);
        // Where there is no bridge there are no rules of the host.
        let bridged = hub.bridges.iter().any(|bridge| bridge.definition.driver.has_bridge());
        if bridged && services.anchor.is_none() {
            services.anchor = Some(Anchor::new(&hub.directory));
        }
        if let (Some(tcp), Some(udp)) = (self.names.pop(), self.names.pop()) {
            let options = dns::Options { forward, ..self.answers.clone() };
            services.names = Some(Responder::new(udp, tcp, options)?);
        }
        if !self.access.is_empty() {
            services.host = Some(access::relay(std::mem::take(&mut self.access))?);
        }
        if let Some(relay) = &mut services.host {
            let ways_out = self.interfaces.iter().zip(&hub.bridges).filter(|(_, bridge)| !bridge.definition.internal);
            relay.set_gateways(ways_out.filter_map(|(interface, _)| interface.host()).collect());
        }
        services.members = Some(Members::of(&self.interfaces, self.gateway(), &self.own.state));
        let attachments = self.mode.attachments().to_vec();
        let listen =
            || Mender::listen(attachments, self.own.data_root.clone(), (self.ports.clone(), self.published.clone()));
        services.rules = bridged.then(listen).transpose()?;
        Ok(())
    }
}
