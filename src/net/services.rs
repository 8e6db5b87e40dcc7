//! What the holder of a container does for its network while it runs: it answers the container's queries for names.
//!
//! `launch.rs` takes them from the network once the container runs, `supervise.rs` serves them from its loop. Nothing here
//! waits.

use std::os::fd::BorrowedFd;

use super::dns::Responder;
use super::members::Members;

/// What a container's holder serves for its network.
#[derive(Default)]
pub struct Services {
    names: Option<(Responder, Members)>,
}

impl Services {
    /// Those of a container that has a name server, or has none.
    pub fn new(names: Option<(Responder, Members)>) -> Self {
        Self { names }
    }

    /// What is to be waited for, until it is readable, in the order in which [`serve`](Self::serve) takes it.
    pub fn interest(&self) -> Vec<BorrowedFd<'_>> {
        self.names.iter().map(|(responder, _)| responder.as_fd()).collect()
    }

    /// Does what there is to do; `ready` is as [`interest`](Self::interest) was.
    pub fn serve(&mut self, ready: &[bool]) {
        if let (Some((responder, members)), [true, ..]) = (&mut self.names, ready) {
            responder.serve(members);
        }
    }
}
