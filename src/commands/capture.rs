//! `minirun capture`: the packets of a container or a network, as lines, as JSON or as a pcapng file.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use nix::libc::{self, sock_filter};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::capture::encode::{About, Encoder, Form};
use crate::capture::filter::Filter;
use crate::capture::names::Names;
use crate::capture::ring::{self, Links, Tap};
use crate::error::{note, refused, warn};
use crate::net::change::in_namespace;
use crate::net::definition::{self, Definitions};
use crate::net::rtnl::Rtnl;
use crate::net::{hub, mode};
use crate::size;
use crate::state::{Found, State, ended_within};
use crate::supervise::Signals;
use crate::sys::packet::Shape;

/// Options of `capture`.
#[derive(Debug, Args)]
#[command(
    after_help = "Without -w a line a packet, with containers by name and times in UTC; --format json prints an object each. \
It ends with Ctrl-C, with the container, or after COUNT packets, and says how many there were and how many the kernel had no room for.

FILTER is asked in the kernel, and is a part of pcap-filter(7):
  host ADDRESS|CONTAINER, net N/LENGTH, port P, portrange P-P      with src or dst before them
  tcp, udp, sctp, icmp, icmp6, arp, ip, ip6                        tcp port P, ip6 host A
  and, or, not, parentheses; and and or bind alike, from left to right

Examples:
  minirun capture web                           a line a packet, of all interfaces of the container
  minirun capture web tcp port 80 and host db   what it has to do with `db`
  minirun capture -i eth0 -c 10 web not arp     ten packets of one interface
  minirun capture -w web.pcapng web             a file for wireshark
  minirun capture -w - front | tshark -N n -r - all frames of a network
  minirun capture --format json web | jq .      an object a packet"
)]
pub struct CaptureOf {
    /// Write a pcapng file; - is standard output
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Only of this interface of the container
    #[arg(short, long, value_name = "IFACE")]
    interface: Option<String>,
    /// End after so many packets
    #[arg(short, long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Room in the kernel for packets that were not read yet: 1m to 1g
    #[arg(short = 'B', long, value_name = "SIZE", default_value = "8m")]
    buffer: String,
    /// Show packets as JSON, an object a line
    #[arg(long, value_name = "FORMAT", conflicts_with = "write")]
    format: Option<Format>,
    /// Name or ID of a container, or name of a network (`network:NAME` where a container has that name)
    #[arg(value_name = "CONTAINER|NETWORK")]
    of: String,
    /// Which packets
    #[arg(value_name = "FILTER", trailing_var_arg = true)]
    filter: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Json,
}

/// What is captured.
enum Of {
    Container(Box<Found>),
    /// The network's name and that of its bridge.
    Network(String, String),
}

/// Captures until it is told to end.
pub fn capture(args: &CaptureOf, root: &Path, data_root: &Path) -> Result<()> {
    let to_stdout = args.write.as_deref() == Some(Path::new("-"));
    if to_stdout && std::io::stdout().is_terminal() {
        let remedy = "`-w - | tshark -r -`, `-w FILE`, or leave out -w for a line a packet";
        return Err(refused("write packets to standard output: it is a terminal", remedy));
    }
    let shape = ring::shape(size::bytes(&args.buffer).context("use --buffer")?)?;
    let state = State::open(root)?;
    let of = find(&args.of, &state, data_root)?;
    let hub = match &of {
        Of::Container(found) if found.record.hub.is_some() => found.record.hub,
        _ => Some(hub::number(&Rtnl::open()?)?),
    };
    let names = Names::read(&state, hub);
    let filter = Filter::parse(&args.filter.join(" "), &|name| names.addresses(name))?;
    let program = filter.program()?;
    let about = about(&of, args.interface.as_deref(), &filter, names);
    // Before signals are caught: a pipe that nobody reads is waited for, and Ctrl-C ends that.
    let file = args.write.as_ref().filter(|_| !to_stdout).map(|path| create(path)).transpose()?.map(|file| (file, 0));
    let signals = Signals::catch()?;
    let (tap, process) = open(&of, args.interface.as_deref(), &program, shape)?;
    let form = match (&args.write, args.format) {
        (Some(_), _) => Form::Pcapng,
        (None, Some(Format::Json)) => Form::Json,
        (None, None) => Form::Lines,
    };
    note(&format!("captures from {}; Ctrl-C ends it", about.title));
    let mut session = Session {
        tap: Tap::of(tap, shape)?,
        encoder: Encoder::new(form, false, about),
        file,
        signals,
        process,
        most: args.count.unwrap_or(u64::MAX),
        names: (state, hub, Instant::now()),
        bytes: vec![],
        ending: None,
    };
    session.run()
}

fn find(word: &str, state: &State, data_root: &Path) -> Result<Of> {
    let network = |name: &str| -> Result<Of> {
        if name == mode::DEFAULT {
            return Ok(Of::Network(name.to_owned(), definition::BRIDGE.to_owned()));
        }
        Definitions::open(data_root).find(name).map(|found| Of::Network(found.name, found.link))
    };
    if let Some(name) = word.strip_prefix("network:") {
        return network(name);
    }
    match state.find(word) {
        Ok(found) if found.record.name == word => Ok(Of::Container(Box::new(found))),
        // A network's whole name is meant rather than the beginning of an ID.
        Ok(found) => Ok(network(word).unwrap_or_else(|_| Of::Container(Box::new(found)))),
        // The error about the container says more, unless there is such a network.
        Err(error) => network(word).map_err(|_| error),
    }
}

fn about(of: &Of, interface: Option<&str>, filter: &Filter, names: Names) -> About {
    match of {
        Of::Container(found) => {
            let mut about = About::container(&found.record, &filter.text, names);
            about.interfaces.retain(|(name, _)| interface.is_none_or(|wanted| wanted == name));
            about
        }
        Of::Network(name, link) => {
            let (title, interfaces) = (format!("network {name}"), vec![(link.clone(), String::new())]);
            About { title, interfaces, filter: filter.text.clone(), names }
        }
    }
}

/// Opens the tap, and for a container a descriptor of the process with which it ends.
fn open(of: &Of, interface: Option<&str>, program: &[sock_filter], shape: Shape) -> Result<(OwnedFd, Option<OwnedFd>)> {
    match of {
        Of::Network(name, _) if interface.is_some() => Err(refused(
            format!("capture from network `{name}`: -i is for an interface of a container"),
            "leave it out, or name the container",
        )),
        Of::Network(name, link) => match ring::open(Links::Bridge(link), program, shape) {
            Err(error) if error.root_cause().downcast_ref::<std::io::Error>().is_some_and(is_missing) => Err(refused(
                format!("capture from network `{name}`: its link `{link}` is not on this host"),
                "the first container that is on it makes it; those of driver ptp have it: capture from one of them",
            )),
            tap => Ok((tap?, None)),
        },
        Of::Container(found) => {
            let process = found.process("capture from")?;
            let pid = found.record.pid.unwrap_or_default();
            let links = interface.map_or(Links::All, Links::One);
            let taps = in_namespace(pid, || Ok(vec![ring::open(links, program, shape)?]))?;
            // The number is the process's as long as it lives: asked last.
            if ended_within(&process, 0) {
                bail!("capture from container `{}`: it has ended", found.record.name);
            }
            let tap = taps.into_iter().next().context("open a packet socket in the container's network")?;
            Ok((tap, Some(process)))
        }
    }
}

fn is_missing(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENODEV)
}

fn create(path: &Path) -> Result<File> {
    // Whoever can read packets can read what others say.
    let open = File::options().write(true).create(true).truncate(true).mode(0o600).open(path);
    open.with_context(|| format!("write packets to `{}`", path.display()))
}

/// A capture that goes on.
struct Session {
    tap: Tap,
    encoder: Encoder,
    /// Where packets go, and how many bytes have gone there; none is standard output.
    file: Option<(File, u64)>,
    signals: Signals,
    process: Option<OwnedFd>,
    most: u64,
    /// Where names come from, and when they were last read.
    names: (State, Option<u64>, Instant),
    bytes: Vec<u8>,
    /// Until when what is left may be written.
    ending: Option<Instant>,
}

impl Session {
    fn run(&mut self) -> Result<()> {
        self.encoder.begin(self.tap.as_fd(), &mut self.bytes);
        let mut reader = self.flush()?;
        // That its one link is down is told once; whether it comes up again, or goes, is not told any more.
        let mut down = false;
        while reader && self.ending.is_none() && self.encoder.packets() < self.most {
            if !self.wait(down.then_some(Duration::from_millis(250)))? {
                self.end_soon();
            }
            down |= self.tap.error().is_some();
            let before = self.encoder.packets();
            reader = self.take_all()?;
            down &= self.encoder.packets() == before;
            if down && !self.encoder.has_link(self.tap.as_fd()) {
                note("the interface is gone");
                break;
            }
        }
        self.finish(reader)
    }

    /// The last packets, and the counts.
    fn finish(&mut self, mut reader: bool) -> Result<()> {
        self.end_soon();
        self.tap.shut();
        let end = Instant::now() + Tap::LAST;
        while reader && self.encoder.packets() < self.most && Instant::now() < end {
            self.wait(Some(end.saturating_duration_since(Instant::now())))?;
            reader = self.take_all()?;
        }
        let dropped = self.tap.dropped();
        let (state, hub, _) = &self.names;
        let mut names = Names::read(state, *hub);
        names.keep(self.encoder.names());
        if names != *self.encoder.names() {
            self.encoder.rename(names);
            self.encoder.name(&mut self.bytes);
        }
        self.encoder.end(self.encoder.interfaces(), dropped, 0, &mut self.bytes);
        if reader {
            self.flush()?;
        }
        let packets = self.encoder.packets();
        note(&format!("{packets} packet{}, {dropped} dropped by the kernel", if packets == 1 { "" } else { "s" }));
        Ok(())
    }

    fn end_soon(&mut self) {
        const PATIENCE: Duration = Duration::from_secs(1);
        self.ending.get_or_insert_with(|| Instant::now() + PATIENCE);
    }

    /// Waits for packets, no longer than `patience`. False when it is to end: by a signal, with the container, or because
    /// nobody reads.
    fn wait(&mut self, patience: Option<Duration>) -> Result<bool> {
        let patience =
            patience.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
        let stdout = std::io::stdout();
        let mut fds = vec![PollFd::new(self.tap.as_fd(), PollFlags::POLLIN)];
        if self.ending.is_none() {
            fds.push(PollFd::new(self.signals.as_fd(), PollFlags::POLLIN));
            fds.extend(self.process.iter().map(|process| PollFd::new(process.as_fd(), PollFlags::POLLIN)));
            if self.file.is_none() {
                // Nothing is asked of it; its end is told in any case.
                fds.push(PollFd::new(stdout.as_fd(), PollFlags::empty()));
            }
        }
        match poll(&mut fds, patience) {
            Err(nix::Error::EINTR) => return Ok(true),
            other => _ = other.context("wait for packets")?,
        }
        let ends =
            fds[1..].iter().any(|fd| fd.any() == Some(true) || fd.revents().is_some_and(|told| !told.is_empty()));
        drop(fds);
        let told = self.signals.pending();
        Ok(!ends || told.iter().all(|number| is_harmless(*number)) && !told.is_empty())
    }

    /// Takes what is there, and writes it. False when nobody reads any more.
    fn take_all(&mut self) -> Result<bool> {
        self.look_who_is_there();
        for _ in 0..self.tap.blocks() {
            let Self { tap, encoder, bytes, most, .. } = self;
            let found = tap.next_block(|tap, packet| {
                if encoder.packets() < *most {
                    encoder.packet(tap, packet, bytes);
                }
            });
            if !self.flush()? {
                return Ok(false);
            }
            if !found || self.encoder.packets() >= self.most {
                break;
            }
        }
        Ok(true)
    }

    /// Reads the names again, a few times a second at most.
    fn look_who_is_there(&mut self) {
        let (state, hub, last) = &mut self.names;
        if last.elapsed() >= Duration::from_millis(250) {
            let mut names = Names::read(state, *hub);
            names.keep(self.encoder.names());
            self.encoder.rename(names);
            *last = Instant::now();
        }
    }

    /// Writes what there is to write. False when nobody reads it any more.
    fn flush(&mut self) -> Result<bool> {
        let bytes = std::mem::take(&mut self.bytes);
        let reader = match &mut self.file {
            Some((file, length)) => match file.write_all(&bytes) {
                Ok(()) => {
                    *length += bytes.len() as u64;
                    true
                }
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => false,
                Err(error) => {
                    // A file ends with a whole block.
                    let _ = file.set_len(*length);
                    return Err(error).context("write packets");
                }
            },
            None => self.print(&bytes)?,
        };
        self.bytes = bytes;
        self.bytes.clear();
        Ok(reader)
    }

    /// Writes to standard output, and lets itself be interrupted where nobody reads that.
    fn print(&mut self, bytes: &[u8]) -> Result<bool> {
        /// A pipe that can be written to takes so much without a wait (pipe(7)).
        const AT_ONCE: usize = 4096;
        let stdout = std::io::stdout();
        for part in bytes.chunks(AT_ONCE) {
            while !self.can_write(stdout.as_fd())? {
                if self.ending.is_some_and(|end| Instant::now() >= end) {
                    warn("standard output takes no more: the last packets are lost");
                    return Ok(false);
                }
            }
            let mut part = part;
            while !part.is_empty() {
                match nix::unistd::write(stdout.as_fd(), part) {
                    Ok(written) => part = &part[written..],
                    Err(nix::Error::EINTR | nix::Error::EAGAIN) => {}
                    Err(nix::Error::EPIPE) => return Ok(false),
                    Err(error) => return Err(error).context("write to standard output"),
                }
            }
        }
        Ok(true)
    }

    fn can_write(&mut self, to: BorrowedFd<'_>) -> Result<bool> {
        let left = self.ending.map(|end| end.saturating_duration_since(Instant::now()));
        let patience = left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO));
        let mut fds = vec![PollFd::new(to, PollFlags::POLLOUT)];
        if self.ending.is_none() {
            fds.push(PollFd::new(self.signals.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, patience) {
            Err(nix::Error::EINTR) => return Ok(false),
            other => _ = other.context("wait for standard output")?,
        }
        let ready = fds[0].any() == Some(true);
        if fds.get(1).is_some_and(|signals| signals.any() == Some(true)) {
            drop(fds);
            if !self.signals.pending().into_iter().all(is_harmless) {
                self.end_soon();
            }
        }
        Ok(ready)
    }
}

/// Signals about the terminal end nothing.
fn is_harmless(number: i32) -> bool {
    [libc::SIGWINCH, libc::SIGCONT].contains(&number)
}
