//! What the holder of a container does for its network while it runs: it answers the container's queries for names, and
//! mends rules that somebody takes away.
//!
//! `launch.rs` takes them from the network once the container runs, `supervise.rs` serves them from its loop. Nothing here
//! waits.

use std::os::fd::BorrowedFd;

use super::dns::Responder;
use super::members::Members;
use super::mend::Mender;

/// What a container's holder serves for its network.
#[derive(Default)]
pub struct Services {
    names: Option<(Responder, Members)>,
    rules: Option<Mender>,
}

impl Services {
    /// Those of a container that has these.
    pub fn new(names: Option<(Responder, Members)>, rules: Option<Mender>) -> Self {
        Self { names, rules }
    }

    /// What is to be waited for, until it is readable, in the order in which [`serve`](Self::serve) takes it.
    pub fn interest(&self) -> Vec<BorrowedFd<'_>> {
        let names = self.names.iter().map(|(responder, _)| responder.as_fd());
        names.chain(self.rules.iter().map(Mender::as_fd)).collect()
    }

    /// Does what there is to do; `ready` is as [`interest`](Self::interest) was.
    pub fn serve(&mut self, ready: &[bool]) {
        let mut ready = ready.iter().copied();
        if let Some((responder, members)) = &mut self.names
            && ready.next() == Some(true)
        {
            responder.serve(members);
        }
        if let Some(rules) = &self.rules
            && ready.next() == Some(true)
        {
            rules.serve();
        }
    }
}
