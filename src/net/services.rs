//! What the holder of a container does for its network while it runs: it answers the container's queries for names, mends
//! rules that somebody takes away, passes on what comes to ports that the kernel cannot lead to it, and hears what other
//! commands ask.
//!
//! `launch.rs` makes them before the container runs, `supervise.rs` serves them from its loop. Nothing here waits.

use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};

use super::dns::Responder;
use super::members::Members;
use super::mend::Mender;
use super::publish::Port;
use super::relay::Relay;
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
    /// Where other commands ask for changes.
    pub control: Option<Control>,
    /// What keeps its packets.
    pub capture: Option<Recorder>,
    /// What passes on what comes to some of its published ports.
    pub relays: Vec<(Port, Relay)>,
}

impl Services {
    /// What is to be waited for, until it is readable, in the order in which [`serve`](Self::serve) takes it.
    pub fn interest(&self) -> Vec<BorrowedFd<'_>> {
        let names = self.names.iter().map(Responder::as_fd);
        let rules = self.rules.iter().filter_map(Mender::as_fd);
        let relays = self.relays.iter().map(|(_, relay)| relay.fd());
        let capture = self.capture.iter().map(Recorder::as_fd);
        names.chain(rules).chain(self.control.iter().map(Control::as_fd)).chain(capture).chain(relays).collect()
    }

    /// After so long there is something to do in any case.
    pub fn timeout(&self) -> Option<Duration> {
        self.relays.iter().filter_map(|(_, relay)| relay.timeout()).min()
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
        let asked = self.control.is_some() && next();
        if let Some(capture) = &mut self.capture
            && next()
        {
            capture.serve();
        }
        // Also those that are not readable: one may have waited long enough.
        self.relays.iter_mut().for_each(|(_, relay)| relay.serve());
        asked
    }
}
