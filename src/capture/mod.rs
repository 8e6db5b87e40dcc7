//! Packets of a container or a network, without a tool in the container or on the host.
//!
//! `minirun capture` shows or writes them while it runs (commands/capture.rs); `run --pcap` and `--pcap-on-fail` have the
//! holder write them ([`Recorder`], served by `supervise.rs` as one of `net/services.rs`). Both read a tap (`ring.rs`) that was
//! opened in the network namespace in question and asks a filter (`filter/`) in the kernel, and both write by an [`Encoder`].

pub mod args;
mod dissect;
mod dns;
pub mod encode;
pub mod filter;
mod held;
mod line;
pub mod names;
mod pcapng;
pub mod ring;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::args::{Plan, Target};
use self::encode::{About, Encoder, Form};
use self::held::Held;
use self::names::Names;
use self::ring::Tap;
use crate::error::warn;
use crate::state::{Record, State};

/// So many blocks of the ring are read before others have their turn.
const AT_ONCE: usize = 4;

impl About {
    /// What there is to say of a container.
    pub fn container(record: &Record, filter: &str, names: Names) -> Self {
        let title = if record.name == record.id {
            format!("container {}", record.id)
        } else {
            format!("container {} ({})", record.name, record.id)
        };
        let own = record.interfaces.iter().map(|one| (one.name.clone(), format!("network {}", one.network)));
        let interfaces = std::iter::once(("lo".to_owned(), String::new())).chain(own).collect();
        Self { title, interfaces, filter: filter.to_owned(), names }
    }
}

/// What keeps the packets of a container, in its holder, until the container's end.
#[derive(Debug)]
pub struct Recorder {
    tap: Tap,
    encoder: Encoder,
    keep: Keep,
    target: Target,
    /// Where other containers are known, and the number of their hub.
    state: Option<(State, Option<u64>)>,
    /// For bytes on their way to the file.
    bytes: Vec<u8>,
    done: bool,
}

/// Where packets are until the end.
#[derive(Debug)]
enum Keep {
    Written(Written),
    Held(Held),
}

/// What is in the file.
#[derive(Debug, Default)]
struct Written {
    /// As long as the file is, which ends with a whole block.
    length: u64,
    /// Interfaces in it.
    interfaces: usize,
    /// Packets that could not be written, and why.
    lost: u64,
    error: Option<String>,
}

impl Recorder {
    /// Begins with what came since the container's process has opened `tap`. `root` is the state directory.
    pub fn begin(plan: Plan, tap: OwnedFd, record: &Record, root: &Path) -> Result<Self> {
        let Plan { mut file, held, filter } = plan;
        let state = State::open(root).ok().map(|state| (state, record.hub));
        let mut names = state.as_ref().map_or_else(Names::default, |(state, hub)| Names::read(state, *hub));
        names.add(record);
        let about = About::container(record, &filter.text, names);
        let keep = match held {
            Some(most) => Keep::Held(Held::new(most)),
            None => Keep::Written(Written { length: file.begin()?, ..Written::default() }),
        };
        let tap = Tap::of(tap, ring::shape(ring::USUAL)?)?;
        let encoder = Encoder::new(Form::Pcapng, held.is_some(), about);
        let mut recorder = Self { tap, encoder, keep, target: file, state, bytes: vec![], done: false };
        recorder.encoder.begin(recorder.tap.as_fd(), &mut recorder.bytes);
        recorder.put(0);
        match &recorder.keep {
            Keep::Written(Written { error: Some(error), .. }) => {
                Err(io::Error::other(error.clone())).with_context(|| recorder.failed())
            }
            _ => Ok(recorder),
        }
    }

    fn failed(&self) -> String {
        format!("write packets to `{}`", self.target.path.display())
    }

    /// Readable when there are packets.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.tap.as_fd()
    }

    /// Takes packets that are there, and no more than a part of them where there are many.
    pub fn serve(&mut self) {
        for _ in 0..AT_ONCE {
            if !self.take_block() {
                return;
            }
        }
    }

    fn take_block(&mut self) -> bool {
        let Self { tap, encoder, keep, bytes, .. } = self;
        let before = encoder.packets();
        let found = tap.next_block(|tap, packet| match keep {
            Keep::Written(_) => encoder.packet(tap, packet, bytes),
            Keep::Held(held) => held.add(|chunk| encoder.packet(tap, packet, chunk)),
        });
        self.put(self.encoder.packets() - before);
        found
    }

    /// Writes what is on its way to the file, `packets` of them; or nothing of it, so that the file ends with a whole block,
    /// and nothing more from then on: what comes later may need what was lost.
    fn put(&mut self, packets: u64) {
        let Keep::Written(written) = &mut self.keep else { return };
        let bytes = std::mem::take(&mut self.bytes);
        if written.error.is_none() {
            match self.target.file.write_all(&bytes) {
                Ok(()) => {
                    written.length += bytes.len() as u64;
                    written.interfaces = self.encoder.interfaces();
                    self.bytes = bytes;
                    self.bytes.clear();
                    return;
                }
                Err(error) => {
                    // As much as was written of it is taken back; where that fails too, a reader stops there.
                    let _ = self.target.file.set_len(written.length);
                    let cause = cause(&error);
                    warn(&format!("write packets to `{}`: {cause}; no more are written", self.target.path.display()));
                    written.error = Some(cause);
                }
            }
        }
        written.lost += packets;
    }

    /// The container has ended with this exit code: completes the file, if there is to be one.
    pub fn end(mut self, code: u8) {
        if let Err(error) = self.finish(Some(code)) {
            warn(&format!("{}: {error:#}", self.failed()));
        }
    }

    fn finish(&mut self, code: Option<u8>) -> Result<()> {
        if std::mem::replace(&mut self.done, true)
            || matches!(self.keep, Keep::Held(_)) && matches!(code, None | Some(0))
        {
            return Ok(());
        }
        self.tap.shut();
        let end = Instant::now() + Tap::LAST;
        loop {
            while self.take_block() {}
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let mut fds = [PollFd::new(self.tap.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO));
        }
        let dropped = self.tap.dropped();
        if let Some((state, hub)) = &self.state {
            // Those who came while the container ran, too.
            let mut names = Names::read(state, *hub);
            names.keep(self.encoder.names());
            self.encoder.rename(names);
        }
        match &self.keep {
            Keep::Written(_) => self.end_file(dropped),
            Keep::Held(_) => self.write_held(dropped),
        }
    }

    fn end_file(&mut self, dropped: u64) -> Result<()> {
        use std::io::Seek;
        let Keep::Written(written) = &self.keep else { return Ok(()) };
        let lost = written.lost;
        let mut bytes = Vec::new();
        self.encoder.name(&mut bytes);
        self.encoder.end(written.interfaces, dropped, lost, &mut bytes);
        // Behind the last whole block, where there was no room for more; and if there is none for this either, that is the end.
        self.target.file.seek(io::SeekFrom::Start(written.length))?;
        if let Err(error) = self.target.file.write_all(&bytes) {
            let _ = self.target.file.set_len(written.length);
            warn(&format!("{}: no room for the counts: {}", self.failed(), cause(&error)));
        }
        if dropped + lost > 0 {
            let file = self.target.path.display();
            warn(&format!(
                "`{file}` lacks {dropped} packets that the kernel dropped and {lost} that could not be written"
            ));
        }
        Ok(())
    }

    fn write_held(&mut self, dropped: u64) -> Result<()> {
        let Keep::Held(held) = &self.keep else { return Ok(()) };
        self.target.begin()?;
        let forgotten = held.forgotten();
        let comment = (forgotten > 0).then(|| {
            format!("the last packets: {forgotten} before them were let go of, to stay within {} bytes", held.most())
        });
        let mut bytes = Vec::new();
        self.encoder.begin_again(comment.as_deref(), &mut bytes);
        self.target.file.write_all(&bytes)?;
        held.chunks().try_for_each(|chunk| self.target.file.write_all(chunk))?;
        bytes.clear();
        self.encoder.end(self.encoder.interfaces(), dropped, forgotten, &mut bytes);
        self.target.file.write_all(&bytes)?;
        Ok(())
    }
}

/// The words of an error of the system, without its number.
fn cause(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |number| nix::Error::from_raw(number).desc().to_owned())
}

impl Drop for Recorder {
    /// Something went wrong elsewhere: what has come is kept all the same.
    fn drop(&mut self) {
        let _ = self.finish(None);
    }
}
