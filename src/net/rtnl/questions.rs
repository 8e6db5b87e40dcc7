//! Questions whose cost grows with what there is: for comparisons and listings, not for the way of a start.

use std::collections::HashMap;
use std::net::IpAddr;

use anyhow::{Context, Result};
use netlink_packet_core::Nla;
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage};
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::super::program::{Direction, Instruction};
use super::super::wire::attributes;
use super::requests::{TCA_BPF_OPS, TCA_TBF_PARMS, TCA_TBF_RATE64, above};
use super::{Rtnl, as_link, as_route};

/// The queueing disciplines that minirun makes, by the index of their link.
#[derive(Debug, Default)]
pub struct Disciplines {
    /// Where frames are looked at (`sch_ingress`), with the program that does so, if one does.
    pub programs: HashMap<(u32, Direction), Option<Vec<Instruction>>>,
    /// How fast a link is at most (`sch_tbf`), in bytes a second.
    pub rates: HashMap<u32, u64>,
}

impl Rtnl {
    /// What is at the entries and exits of links.
    pub fn disciplines(&mut self) -> Result<Disciplines> {
        let answer = self.dump(&RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()));
        let has = |message: &TcMessage, kind: &str| message.attributes.contains(&TcAttribute::Kind(kind.to_owned()));
        let mut all = Disciplines::default();
        for message in answer.context("list queueing disciplines")? {
            let RouteNetlinkMessage::NewQueueDiscipline(message) = message else { continue };
            let index = message.header.index as u32;
            let directions = [Direction::In, Direction::Out];
            if let Some(direction) = directions.into_iter().find(|one| has(&message, one.discipline())) {
                all.programs.insert((index, direction), self.program_at(message.header.index, direction)?);
            } else if has(&message, "tbf") {
                all.rates.extend(rate(&message).map(|rate| (index, rate)));
            }
        }
        Ok(all)
    }

    fn program_at(&mut self, link: i32, direction: Direction) -> Result<Option<Vec<Instruction>>> {
        let mut question = TcMessage::with_index(link);
        question.header.parent = above(direction);
        let answer = self.dump(&RouteNetlinkMessage::GetTrafficFilter(question)).context("list filters")?;
        let code = answer.iter().find_map(|message| match message {
            RouteNetlinkMessage::NewTrafficFilter(filter) => code(filter),
            _ => None,
        });
        Ok(code.map(|code| code.chunks_exact(8).map(instruction).collect()))
    }

    /// The next hops of the default routes of the main table, of both families, the one that the kernel prefers first.
    pub fn default_gateways(&mut self) -> Result<Vec<IpAddr>> {
        let mut gateways = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            question.header.table = RouteHeader::RT_TABLE_MAIN;
            let answer = self.dump(&RouteNetlinkMessage::GetRoute(question)).context("list routes")?;
            let mut routes: Vec<(u32, IpAddr)> =
                answer.into_iter().filter_map(as_route).filter_map(|route| gateway(&route)).collect();
            routes.sort_by_key(|(metric, _)| *metric);
            gateways.extend(routes.into_iter().map(|(_, gateway)| gateway));
        }
        Ok(gateways)
    }

    /// The ports of the bridge with this index, in the order in which they are numbered.
    pub fn ports(&mut self, bridge: u32) -> Result<Vec<LinkMessage>> {
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::Controller(bridge));
        question.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answer = self.dump(&RouteNetlinkMessage::GetLink(question)).context("list ports")?;
        let is_port = |link: &LinkMessage| link.attributes.contains(&LinkAttribute::Controller(bridge));
        Ok(answer.into_iter().filter_map(as_link).filter(is_port).collect())
    }

    /// What the bridge with this index knows of hardware addresses: its forwarding database.
    pub fn forwarding_database(&mut self, bridge: u32) -> Result<Vec<NeighbourMessage>> {
        let mut question = NeighbourMessage::default();
        question.header.family = AddressFamily::Bridge;
        question.attributes.push(NeighbourAttribute::Controller(bridge));
        self.neighbours(question).context("list the forwarding database")
    }

    /// What the tunnel with this index knows of other hosts: its forwarding database.
    pub fn database_of_tunnel(&mut self, tunnel: u32) -> Result<Vec<NeighbourMessage>> {
        let mut question = NeighbourMessage::default();
        question.header.family = AddressFamily::Bridge;
        question.header.ifindex = tunnel;
        let mut all = self.neighbours(question).context("list a tunnel's forwarding database")?;
        // Kernels before 4.20 answer with all links'.
        all.retain(|entry| entry.header.ifindex == tunnel);
        Ok(all)
    }

    /// The neighbours of the link with this index, of both families.
    pub fn neighbours_of(&mut self, link: u32) -> Result<Vec<NeighbourMessage>> {
        let mut all = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut question = NeighbourMessage::default();
            question.header.family = family;
            question.attributes.push(NeighbourAttribute::IfIndex(link));
            all.extend(self.neighbours(question).context("list neighbours")?);
        }
        all.retain(|neighbour| neighbour.header.ifindex == link);
        Ok(all)
    }

    fn neighbours(&mut self, question: NeighbourMessage) -> Result<Vec<NeighbourMessage>> {
        let answer = self.dump(&RouteNetlinkMessage::GetNeighbour(question))?;
        Ok(answer
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewNeighbour(neighbour) => Some(neighbour),
                _ => None,
            })
            .collect())
    }
}

/// The metric and the next hop of a default route.
fn gateway(route: &RouteMessage) -> Option<(u32, IpAddr)> {
    if route.header.destination_prefix_length != 0 || route.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let (mut metric, mut gateway) = (0, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Gateway(RouteAddress::Inet(address)) => gateway = Some(IpAddr::from(*address)),
            RouteAttribute::Gateway(RouteAddress::Inet6(address)) => gateway = Some(IpAddr::from(*address)),
            _ => {}
        }
    }
    Some((metric, gateway?))
}

/// The rate of a token bucket filter, in bytes a second.
fn rate(discipline: &TcMessage) -> Option<u64> {
    // The crate knows no options of this discipline, and so gives all of them as one.
    let options = discipline.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.first(),
        _ => None,
    })?;
    let mut bytes = vec![0; options.value_len()];
    options.emit_value(&mut bytes);
    let option = |kind: u16| attributes(&bytes).find(|(found, _)| *found == kind).map(|(_, value)| value);
    // A rate that does not fit into the four bytes of `struct tc_ratespec` is told apart.
    let wide = option(TCA_TBF_RATE64).and_then(|rate| Some(u64::from_ne_bytes(rate.try_into().ok()?)));
    let narrow = || Some(u32::from_ne_bytes(option(TCA_TBF_PARMS)?.get(8..12)?.try_into().ok()?).into());
    wide.or_else(narrow)
}

/// The program of a filter, as bytes.
fn code(filter: &TcMessage) -> Option<Vec<u8>> {
    let options = filter.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    options.flatten().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::Other(code)) if code.kind() == TCA_BPF_OPS => {
            let mut bytes = vec![0; code.value_len()];
            code.emit_value(&mut bytes);
            Some(bytes)
        }
        _ => None,
    })
}

fn instruction(bytes: &[u8]) -> Instruction {
    let code = u16::from_ne_bytes([bytes[0], bytes[1]]);
    (code, bytes[2], bytes[3], u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]))
}
