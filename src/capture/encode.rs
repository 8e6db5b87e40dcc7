//! Packets on their way out: as blocks of a pcapng file, as lines, or as JSON. What it writes is whole blocks or lines, to
//! memory; where they go is for the caller.

use std::os::fd::BorrowedFd;

use nix::libc;

use super::line::Line;
use super::names::Names;
use super::pcapng::{self, Statistics};
use super::ring::Packet;
use crate::sys::packet;
use crate::time;

/// How packets are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A pcapng file.
    Pcapng,
    /// A line each.
    Lines,
    /// An object each.
    Json,
}

/// What is captured, as a file tells it.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// `container web (0123456789ab)`.
    pub title: String,
    /// Interfaces that are known, with what there is to say of them.
    pub interfaces: Vec<(String, String)>,
    /// The filter, as it was typed.
    pub filter: String,
    /// Who has which address.
    pub names: Names,
}

/// An interface of which packets came, or may come.
#[derive(Debug)]
struct Interface {
    index: u32,
    name: String,
    has_header: bool,
    packets: u64,
}

/// Packets in one form.
#[derive(Debug)]
pub struct Encoder {
    form: Form,
    /// Packets alone are written: what belongs before them comes with [`begin_again`](Self::begin_again).
    bare: bool,
    about: About,
    interfaces: Vec<Interface>,
    since: u64,
    packets: u64,
}

impl Encoder {
    /// One that has written nothing.
    pub fn new(form: Form, bare: bool, about: About) -> Self {
        Self { form, bare, about, interfaces: vec![], since: time::now().cast_unsigned(), packets: 0 }
    }

    /// How many packets it has written.
    pub fn packets(&self) -> u64 {
        self.packets
    }

    /// How many interfaces it knows.
    pub fn interfaces(&self) -> usize {
        self.interfaces.len()
    }

    /// Whether the first interface that it knows is still there.
    pub fn has_link(&self, tap: BorrowedFd<'_>) -> bool {
        self.interfaces.first().is_some_and(|interface| packet::link_name(tap, interface.index).is_ok())
    }

    /// Takes other names, for packets and names to come.
    pub fn rename(&mut self, names: Names) {
        self.about.names = names;
    }

    /// Who has which address, as far as it knows.
    pub fn names(&self) -> &Names {
        &self.about.names
    }

    /// What a file begins with: who wrote it, who is who, and the interfaces that are known; those come from the namespace
    /// of `tap`.
    pub fn begin(&mut self, tap: BorrowedFd<'_>, out: &mut Vec<u8>) {
        if !self.bare {
            self.head(None, out);
        }
        for (name, _) in self.about.interfaces.clone() {
            let (Ok(index), Ok(kind)) = (packet::link_index(tap, &name), packet::link_kind(tap, &name)) else {
                continue;
            };
            self.meet(index, &name, kind, out);
        }
    }

    /// The same for packets that are there already: with all interfaces that there are.
    pub fn begin_again(&self, comment: Option<&str>, out: &mut Vec<u8>) {
        self.head(comment, out);
        self.interfaces.iter().for_each(|interface| self.describe(interface, out));
    }

    fn head(&self, comment: Option<&str>, out: &mut Vec<u8>) {
        if self.form != Form::Pcapng {
            return;
        }
        let system = nix::sys::utsname::uname().map_or_else(
            |_| "Linux".to_owned(),
            |name| format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy()),
        );
        pcapng::section(out, &system, comment.or(Some(&self.about.title)));
        self.name(out);
    }

    /// Says who is who.
    pub fn name(&self, out: &mut Vec<u8>) {
        if self.form == Form::Pcapng && !self.about.names.is_empty() {
            pcapng::names(out, self.about.names.iter());
        }
    }

    fn meet(&mut self, index: u32, name: &str, kind: u16, out: &mut Vec<u8>) -> usize {
        let has_header = [libc::ARPHRD_ETHER, libc::ARPHRD_LOOPBACK].contains(&kind);
        let interface = Interface { index, name: name.to_owned(), has_header, packets: 0 };
        if !self.bare {
            self.describe(&interface, out);
        }
        self.interfaces.push(interface);
        self.interfaces.len() - 1
    }

    fn describe(&self, interface: &Interface, out: &mut Vec<u8>) {
        /// LINKTYPE_ETHERNET and LINKTYPE_RAW, which begins with the header of IPv4 or IPv6.
        const ETHERNET: u16 = 1;
        const RAW: u16 = 101;
        if self.form != Form::Pcapng {
            return;
        }
        let known = self.about.interfaces.iter().find(|(name, _)| *name == interface.name);
        let description = match known {
            Some((_, more)) if !more.is_empty() => format!("{}, {more}", self.about.title),
            _ => self.about.title.clone(),
        };
        let kind = if interface.has_header { ETHERNET } else { RAW };
        pcapng::interface(out, &interface.name, &description, kind, &self.about.filter);
    }

    /// Writes a packet that came by `tap`, and its interface before it, if that is new.
    pub fn packet(&mut self, tap: BorrowedFd<'_>, packet: &Packet<'_>, out: &mut Vec<u8>) {
        let known = self.interfaces.iter().position(|interface| interface.index == packet.link);
        let at = known.unwrap_or_else(|| {
            // It may be gone by now.
            let name = packet::link_name(tap, packet.link).unwrap_or_else(|_| format!("link{}", packet.link));
            self.meet(packet.link, &name, packet.kind, out)
        });
        self.packets += 1;
        let interface = &mut self.interfaces[at];
        interface.packets += 1;
        let line =
            Line { packet, interface: &interface.name, has_header: interface.has_header, names: &self.about.names };
        match self.form {
            Form::Pcapng => pcapng::packet(out, at as u32, packet),
            Form::Lines => line.text(out),
            Form::Json => line.json(out),
        }
    }

    /// What a file ends with: the counts, of its first `interfaces` (those that are in it). `dropped` packets found no room
    /// in the kernel, `lost` of those that came are not in the file.
    pub fn end(&self, interfaces: usize, dropped: u64, lost: u64, out: &mut Vec<u8>) {
        if self.form != Form::Pcapng {
            return;
        }
        let times = (self.since, time::now().cast_unsigned());
        // One socket sees all interfaces, and the kernel counts for the socket.
        let together = (interfaces > 1 && dropped + lost > 0).then(|| {
            format!("{dropped} packets dropped by the kernel and {lost} by minirun, of all interfaces together")
        });
        for (at, interface) in self.interfaces.iter().take(interfaces).enumerate() {
            let (dropped, comment) = if at == 0 { (dropped, together.clone()) } else { (0, None) };
            let accepted = interface.packets + dropped;
            let delivered = if interfaces == 1 { Some(interface.packets.saturating_sub(lost)) } else { None };
            let delivered = delivered.or((lost == 0).then_some(interface.packets));
            pcapng::statistics(out, at as u32, &Statistics { times, accepted, dropped, delivered, comment });
        }
    }
}
