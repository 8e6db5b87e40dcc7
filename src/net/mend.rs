//! Rules that somebody takes away come back by themselves: a firewall that is reloaded flushes all of nftables.
//!
//! Every holder of a container on managed networks listens to what is deleted from nftables (nfnetlink's group of that name)
//! and sees to what its own container needs: the table, its networks' part of it, its published ports. The first one makes
//! the table anew, under the lock of the hub; the others find it and add their own.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;

use anyhow::{Context, Result};
use ipnet::IpNet;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::fcntl::FlockArg;
use nix::libc::{self, sock_filter};
use nix::sys::socket::{MsgFlags, recv};

use super::apply::Applier;
use super::definition::{Definition, Definitions};
use super::look::{Look, lock};
use super::mode::Attachment;
use super::network::Bridge;
use super::publish::Port;
use super::rtnl::Rtnl;
use super::step::Step;
use super::table::{Change, Element};
use super::{conntrack, foreign, hub, nft, opened};

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
/// So many elements are asked for at once: as many as the kernel's answers fit into a socket.
const AT_ONCE: usize = 64;

/// Sees to the rules of one container.
#[derive(Debug)]
pub struct Mender {
    events: Option<Socket>,
    /// How many transactions there were when it began to listen.
    pub generation: Option<u32>,
    attachments: Vec<Attachment>,
    data_root: PathBuf,
    /// Its published ports.
    ports: Vec<Port>,
    /// What leads to them.
    elements: Vec<Element>,
}

impl Mender {
    /// Listens from now on.
    pub fn listen(
        attachments: Vec<Attachment>,
        data_root: PathBuf,
        (ports, elements): (Vec<Port>, Vec<Element>),
    ) -> Result<Self> {
        let open = || -> io::Result<(Socket, Option<u32>)> {
            let mut events = Socket::new(NETLINK_NETFILTER)?;
            events.bind(&SocketAddr::new(0, 0))?;
            // Before the filter, which lets no answer pass. A kernel without nftables counts none.
            let generation = foreign::change::generation(&events).ok();
            crate::sys::attach_filter(events.as_fd(), &only_deletions())?;
            events.add_membership(GROUP)?;
            events.set_non_blocking(true)?;
            Ok((events, generation))
        };
        let (events, generation) = open().context("listen to changes of nftables")?;
        Ok(Self { events: Some(events), generation, attachments, data_root, ports, elements })
    }

    /// Readable when something was deleted.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(AsFd::as_fd)
    }

    /// Looks at what was deleted, and mends it. What fails is tried again with the next deletion.
    pub fn serve(&self) {
        // What it was is not looked at: it may be too much to be told of.
        let mut buffer = [0; 1024];
        let Some(events) = &self.events else { return };
        while !matches!(
            recv(events.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT),
            Err(nix::Error::EAGAIN | nix::Error::EBADF)
        ) {}
        if let Err(error) = self.mend(&self.attachments) {
            crate::error::warn(&format!("mend the rules: {error:#}"));
        }
    }

    /// The host has a new way out: it is opened for all networks that there are.
    pub fn open_way_out(&self) {
        let opened = self.networks().and_then(|networks| self.mend(&networks));
        if let Err(error) = opened {
            crate::error::warn(&format!("open the new way out: {error:#}"));
        }
    }

    /// The networks whose bridges are there.
    fn networks(&self) -> Result<Vec<Attachment>> {
        let mut rtnl = Rtnl::open()?;
        let mut there: Vec<Definition> = Definitions::open(&self.data_root).list()?;
        there.retain(|one| one.driver.has_bridge());
        there.extend(Bridge::default_network(&mut rtnl)?);
        let mut networks = Vec::new();
        for one in there {
            if rtnl.index_of(&one.link)?.is_some() {
                networks.push(Attachment::on(&one.name));
            }
        }
        Ok(networks)
    }

    fn mend(&self, attachments: &[Attachment]) -> Result<()> {
        let mut rtnl = Rtnl::open()?;
        let directory = hub::directory(&rtnl)?;
        let turn = lock(&directory, FlockArg::LockExclusive)?;
        let look = Look { attachments, data_root: &self.data_root, resolvers: &[] };
        let (_, bridges, ground) = look.at(&mut rtnl, &directory)?;
        if bridges.iter().any(|bridge| bridge.link.is_none() && bridge.definition.driver.has_bridge()) {
            // Nothing can be mended without the bridge, which took the container's link along.
            return Ok(());
        }
        opened::remember_opened(&directory, &ground)?;
        let mut steps = ground.missing;
        let is_first = !steps.is_empty();
        // A table that is made anew has none of them, whatever the one before it has.
        let anew = steps.contains(&Step::Nft(Change::AddTable));
        let missing = if anew { self.elements.clone() } else { self.missing()? };
        steps.extend(missing.into_iter().map(|element| Step::Nft(Change::AddElement(element))));
        let mut applier = Applier::new(&mut rtnl, 0);
        applier.apply(&steps)?;
        applier.commit();
        // It takes the kernel some time, and nobody has to wait for it.
        drop(turn);
        let networks = bridges.iter().filter(|_| is_first).flat_map(|bridge| {
            let Definition { gateway, gateway6, .. } = &bridge.definition;
            [Some(IpNet::from(gateway.trunc())), gateway6.map(|net| net.trunc().into())]
        });
        let ports = if steps.is_empty() { &[][..] } else { &self.ports };
        conntrack::forget_untranslated(&networks.flatten().collect::<Vec<_>>(), ports)
    }

    /// The published ports that are not there any more.
    fn missing(&self) -> Result<Vec<Element>> {
        let mut missing = Vec::new();
        for some in self.elements.chunks(AT_ONCE) {
            let there = nft::table(some)?.map(|(_, there)| there).unwrap_or_else(|| vec![false; some.len()]);
            missing.extend(some.iter().zip(there).filter(|(_, there)| !there).map(|(element, _)| element.clone()));
        }
        Ok(missing)
    }
}

impl Drop for Mender {
    fn drop(&mut self) {
        // The container has ended, and nobody waits for what others delete.
        if let Some(events) = self.events.take() {
            nft::let_the_kernel_close(events);
        }
    }
}

/// A filter that lets pass what deletes tables, chains, rules and sets: nobody is woken when a container comes or goes,
/// which adds and deletes elements.
fn only_deletions() -> Vec<sock_filter> {
    const SUBSYSTEM: u32 = 10;
    const DELETIONS: [u32; 4] = [2, 5, 8, 11];
    let instruction = |code: u32, jt: u8, jf: u8, k: u32| sock_filter { code: code as u16, jt, jf, k };
    // The message's type stands in the machine's order, and is loaded in network order.
    let of_type = |kind: u32| u32::from(u16::from_be_bytes(((SUBSYSTEM << 8 | kind) as u16).to_ne_bytes()));
    let mut program = vec![instruction(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, 4)];
    for (at, kind) in DELETIONS.into_iter().enumerate() {
        let to_accept = (DELETIONS.len() - at) as u8;
        program.push(instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, to_accept, 0, of_type(kind)));
    }
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0));
    program.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX));
    program
}
