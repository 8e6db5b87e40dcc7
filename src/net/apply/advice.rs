//! What the kernel refused, in words, with what helps where that is known.

use anyhow::{Result, anyhow};
use nix::libc;

use super::super::explain;
use super::super::rtnl::Refused;
use super::super::step::{Place, Step};
use crate::error::Advice;

/// What the kernel refused, as the command that stands for it.
pub fn told(refused: &Refused, step: Option<&Step>) -> anyhow::Error {
    let verb = step.map_or_else(|| "change the network".to_owned(), explain::deed);
    let error: Result<()> = Err(anyhow!("{verb}: {:#}", refused.error));
    let advised = match (refused.errno, step) {
        (libc::EPERM, _) => error.remedy("minirun needs root, or CAP_NET_ADMIN where it runs"),
        (libc::EOPNOTSUPP | libc::ENOENT, Some(Step::Nft(_))) => {
            error.remedy("this kernel lacks nf_tables with inet, nat and masquerade")
        }
        (libc::EOPNOTSUPP, Some(Step::AddBridge { .. })) => {
            error.remedy("this kernel lacks bridges: load module `bridge`")
        }
        (libc::EOPNOTSUPP, Some(Step::AddVeth { .. })) => {
            error.remedy("this kernel lacks veth pairs: load module `veth`")
        }
        (libc::EOPNOTSUPP, Some(Step::AddMacvlan { .. })) => {
            error.remedy("this kernel lacks macvlan: load module `macvlan`")
        }
        (libc::EOPNOTSUPP, Some(Step::AddVxlan { .. })) => {
            error.remedy("this kernel lacks tunnels of this kind: load module `vxlan`")
        }
        (libc::EINVAL, Some(Step::AddMacvlan { parent, mode, .. })) => error.remedy(if *mode == "passthru" {
            format!("mode passthru takes `{parent}` as a whole: another link is on it, see `minirun network inspect`")
        } else {
            format!("another link has `{parent}` as a whole (mode passthru), or it can have no such links")
        }),
        (libc::EBUSY, Some(Step::AddMacvlan { parent, .. })) => error.remedy(format!(
            "something else takes what comes in by `{parent}`: a bridge or bond that it is a port of, or an ipvlan link"
        )),
        (libc::EEXIST, Some(Step::AddVxlan { tunnel, .. })) => error.remedy(format!(
            "the host has a tunnel with number {} at port {}, or another program's socket there: `ip -d link show type vxlan`",
            tunnel.vni, tunnel.port
        )),
        (libc::EADDRINUSE, Some(Step::SetUp { place: Place::Container, .. })) => {
            error.remedy("another link on the same parent has its hardware address: choose another one, mac=")
        }
        (libc::EADDRINUSE, Some(Step::SetUp { .. })) => {
            error.remedy("another program has the tunnel's UDP port: see `ss -lun`, or choose another: --opt port=")
        }
        (libc::EOPNOTSUPP | libc::ENOENT, Some(Step::AddEntrance { .. } | Step::AddFilter { .. })) => {
            error.remedy("this kernel lacks filters at a link's entry: load modules `sch_ingress` and `cls_bpf`")
        }
        (libc::ENOENT | libc::EOPNOTSUPP, Some(Step::Shape { .. })) => {
            error.remedy("this kernel lacks the token bucket filter: load module `sch_tbf`")
        }
        (libc::ENOSPC | libc::EXFULL | libc::EMFILE, Some(Step::SetPort { .. })) => {
            error.remedy("a bridge takes 1,023 containers: end some, see `minirun ps`")
        }
        _ => error,
    };
    advised.err().unwrap_or_else(|| anyhow!("change the network"))
}
