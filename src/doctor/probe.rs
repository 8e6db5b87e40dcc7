//! What the kernel can do, tried by a child in a network namespace of its own: with its end everything is gone that it made.
//!
//! A feature that is a module which is not loaded yet is loaded by that, as it would be by the first container that needs it.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{Read, Write};

use anyhow::{Context, Result};
use ipnet::Ipv4Net;
use nix::libc;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::net::guard::Guard;
use crate::net::program::Direction;
use crate::net::rtnl::{self, Request, Rtnl};
use crate::net::rules::{inside, skeleton};
use crate::net::table::Change;
use crate::net::{apply, nft, step::Step};
use crate::sys::{self, Side};

/// What came of it: the kernel's words where it did not work.
pub type Probed = Result<(), String>;

/// Tries all features.
pub fn features() -> Result<BTreeMap<String, Probed>> {
    let (mut reader, writer) = std::io::pipe().context("make a pipe")?;
    match sys::clone3(libc::CLONE_NEWNET as u64, None) {
        Ok(Side::Child) => {
            let told = serde_json::to_vec(&try_all()).unwrap_or_default();
            let _ = (&writer).write_all(&told);
            sys::exit_now(0);
        }
        Ok(Side::Parent(child)) => {
            drop(writer);
            let mut told = Vec::new();
            reader.read_to_end(&mut told).context("read what the kernel can do")?;
            let _ = waitpid(Pid::from_raw(child.pid), None);
            serde_json::from_slice(&told).context("read what the kernel can do")
        }
        Err(error) => Err(error).context("make a network namespace"),
    }
}

/// Whether a namespace can be made, of the kind `CLONE_NEW*`.
pub fn namespace(kind: i32) -> Probed {
    match sys::clone3(kind.cast_unsigned().into(), None) {
        Ok(Side::Child) => sys::exit_now(0),
        Ok(Side::Parent(child)) => {
            let _ = waitpid(Pid::from_raw(child.pid), None);
            Ok(())
        }
        Err(error) => Err(words(&error)),
    }
}

/// The words of an error without its number.
pub fn words(error: &std::io::Error) -> String {
    error.to_string().split(" (os error").next().unwrap_or_default().to_owned()
}

fn try_all() -> BTreeMap<String, Probed> {
    const LINK: &str = "probe0";
    const BRIDGE: &str = "probe1";
    let own = std::process::id();
    let mac = [2, 0, 0, 0, 0, 1];
    let guard = Guard { net: Ipv4Net::new_assert([192, 0, 2, 0].into(), 24), net6: None };
    let mut all = BTreeMap::new();
    let mut tell = |feature: &str, probed: Probed| all.insert(feature.to_owned(), probed);
    match Rtnl::open() {
        Err(error) => {
            tell("veth", Err(format!("{error:#}")));
        }
        Ok(mut rtnl) => {
            tell("veth", send(&mut rtnl, rtnl::add_veth(LINK, 1500, "probe2", mac, 77, own)));
            tell("bridge", send(&mut rtnl, rtnl::add_bridge(BRIDGE, mac, &[])));
            tell("vxlan", send(&mut rtnl, rtnl::probe::vxlan("probe3")));
            let mut index = |name: &str| rtnl.link_called(name).ok().flatten().map_or(0, |link| link.header.index);
            let (link, bridge) = (index(LINK), index(BRIDGE));
            tell("macvlan", send(&mut rtnl, rtnl::probe::macvlan("probe4", link)));
            let filter =
                [(link, Direction::In), (bridge, Direction::Out)].into_iter().try_for_each(|(at, direction)| {
                    send(&mut rtnl, rtnl::add_entrance(at, direction))?;
                    send(&mut rtnl, rtnl::add_filter(at, direction, &guard.program()))
                });
            tell("filter", filter);
            tell("tbf", send(&mut rtnl, rtnl::probe::tbf(link)));
            let port = send(&mut rtnl, rtnl::set_port("probe2", bridge, "probe"));
            let isolated = port.and_then(|()| send(&mut rtnl, rtnl::set_port_option("probe2", "isolated", 1)));
            tell("isolated", isolated);
        }
    }
    tell("nftables", rules());
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    tell("tap", tun.map(drop).map_err(|error| words(&error)));
    all
}

fn send(rtnl: &mut Rtnl, request: Request) -> Probed {
    rtnl.batch(vec![request]).map_err(|refused| format!("{:#}", refused.error))
}

/// All rules that minirun ever makes, those of the host and those of a container, in one table.
fn rules() -> Probed {
    let mut changes = skeleton();
    let own = inside([192, 0, 2, 1].into(), 41_053).into_iter();
    for change in own {
        let again = matches!(change, Change::AddTable)
            || matches!(change, Change::AddSet(set) if changes.iter().any(|one| matches!(one, Change::AddSet(other) if other.name == set.name)));
        if !again {
            changes.push(change);
        }
    }
    let borrowed: Vec<&Change> = changes.iter().collect();
    nft::commit(&borrowed).map_err(|refused| {
        let step = changes.get(refused.request).cloned().map(Step::Nft);
        format!("{:#}", apply::told(&refused, step.as_ref()))
    })
}
