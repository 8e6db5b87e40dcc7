//! What the holder of a container does for its network while it runs: it answers the container's queries for names, mends
//! rules that somebody takes away, and hears what other commands ask of it.
//!
//! `launch.rs` makes them before the container runs, `supervise.rs` serves them from its loop. Nothing here waits.

use std::os::fd::BorrowedFd;

use super::dns::Responder;
use super::members::Members;
use super::mend::Mender;
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
}

impl Services {
    /// What is to be waited for, until it is readable, in the order in which [`serve`](Self::serve) takes it.
    pub fn interest(&self) -> Vec<BorrowedFd<'_>> {
        let names = self.names.iter().map(Responder::as_fd);
        let rules = self.rules.iter().map(Mender::as_fd);
        names.chain(rules).chain(self.control.iter().map(Control::as_fd)).collect()
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
        self.control.is_some() && next()
    }
}
