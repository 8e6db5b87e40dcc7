//! What could not be written to a log. A full disk may still be full at the program's end; then the count is the target of
//! a link, which needs no block on most file systems.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::AtFlags;
use rustix::io::Errno;

use super::Stream;

/// The name of that link.
const LINK: &str = "lost";

/// What was not written and not yet said.
pub(super) struct Lost {
    stdout: u64,
    stderr: u64,
    cause: Errno,
}

impl Lost {
    pub(super) const NOTHING: Lost = Lost { stdout: 0, stderr: 0, cause: Errno::NOSPC };

    pub(super) fn add(&mut self, stream: Stream, bytes: usize, cause: Errno) {
        match stream {
            Stream::Stdout => self.stdout = self.stdout.saturating_add(bytes as u64),
            Stream::Stderr => self.stderr = self.stderr.saturating_add(bytes as u64),
        }
        self.cause = cause;
    }

    pub(super) fn any(&self) -> bool {
        self.stdout > 0 || self.stderr > 0
    }

    pub(super) fn text(&self) -> String {
        let cause = io::Error::from(self.cause).to_string();
        let cause = cause.split(" (os error ").next().unwrap_or_default().to_lowercase();
        format!("{} bytes of stdout, {} of stderr were lost: {cause}", self.stdout, self.stderr)
    }

    /// Leaves it to the next writer and to readers.
    pub(super) fn leave(&self, directory: BorrowedFd) {
        // The last resort: there is no other place to tell of it.
        let cause = self.cause.raw_os_error();
        let text = format!("{} bytes of stdout, {} of stderr, errno {cause}", self.stdout, self.stderr);
        let _ = rustix::fs::symlinkat(text, directory, LINK);
    }

    /// Takes over what the last writer left.
    pub(super) fn take(directory: BorrowedFd) -> Lost {
        read(directory).unwrap_or(Lost::NOTHING)
    }
}

/// Removes what the last writer left, when it has been said.
pub(super) fn forget(directory: BorrowedFd) {
    let _ = rustix::fs::unlinkat(directory, LINK, AtFlags::empty());
}

/// What the last writer left, in words.
pub(super) fn left(directory: BorrowedFd) -> Option<String> {
    read(directory).map(|lost| lost.text())
}

fn read(directory: BorrowedFd) -> Option<Lost> {
    let target = rustix::fs::readlinkat(directory, LINK, Vec::new()).ok()?;
    let (stdout, rest) = target.to_str().ok()?.split_once(" bytes of stdout, ")?;
    let (stderr, cause) = rest.split_once(" of stderr, errno ")?;
    // Beyond 4095 the kernel has none.
    let cause = cause.parse().ok().filter(|cause| (1..4096).contains(cause))?;
    Some(Lost { stdout: stdout.parse().ok()?, stderr: stderr.parse().ok()?, cause: Errno::from_raw_os_error(cause) })
}
