//! Waiting for a log to grow.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

/// After this it is looked again, whatever was heard: the end of a container is not heard of.
const LIMIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Waits for changes in a directory.
pub(super) struct Watch<'a> {
    /// `None` where the user has as many watches as are allowed: then the limit alone ends a wait.
    changes: Option<OwnedFd>,
    reader: Option<BorrowedFd<'a>>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(directory: &Path, reader: Option<BorrowedFd<'a>>) -> Watch<'a> {
        let open = || {
            let changes = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            let flags = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVE | WatchFlags::ONLYDIR;
            inotify::add_watch(&changes, directory, flags)?;
            Ok::<_, Errno>(changes)
        };
        Watch { changes: open().ok(), reader }
    }

    /// Waits for a change, and says whether nobody reads any more.
    pub(super) fn wait(&self) -> io::Result<bool> {
        let mut fds = Vec::with_capacity(2);
        // What is always reported, the reader's end, is all that is asked of it.
        fds.extend(self.reader.as_ref().map(|reader| PollFd::new(reader, PollFlags::empty())));
        fds.extend(self.changes.as_ref().map(|changes| PollFd::new(changes, PollFlags::IN)));
        match poll(&mut fds, Some(&LIMIT)) {
            Err(Errno::INTR) => return Ok(false),
            result => result?,
        };
        let gone = self.reader.is_some() && fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP);
        if let Some(changes) = &self.changes {
            let mut events = [0; 4096];
            while rustix::io::read(changes, &mut events).is_ok_and(|count| count > 0) {}
        }
        Ok(gone)
    }
}
