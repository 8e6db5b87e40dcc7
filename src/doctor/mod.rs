//! What on this machine would stop or hamper containers' networks: a list of checks, each of which looks at one thing and
//! changes nothing.
//!
//! Called by `commands/doctor.rs`. What the kernel can do is tried in namespaces that go with the child that tries it
//! (`probe.rs`); everything else is read.

mod firewall;
mod kernel;
mod limits;
mod links;
mod probe;
mod remains;
mod resolvers;
mod sight;

use anyhow::Result;
use serde::Serialize;

pub use self::sight::Sight;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing was found.
    Ok,
    /// Something works worse than it could, or not for everybody.
    Warning,
    /// Containers' networks do not work.
    Error,
}

impl Severity {
    /// As it is printed.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's name, which stays the same from version to version.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence.
    pub message: String,
    /// The command that puts it right; `None` where nothing is wrong or no single command does.
    pub fix: Option<String>,
}

/// A finding without the check's name, which is added where the check is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    severity: Severity,
    message: String,
    fix: Option<String>,
}

impl Trouble {
    /// Containers' networks do not work.
    pub fn error(message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { severity: Severity::Error, message: message.into(), fix: Some(fix.into()) }
    }

    /// Something works worse than it could.
    pub fn warning(message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, message: message.into(), fix: Some(fix.into()) }
    }

    /// There is no command that puts it right.
    #[must_use]
    pub fn without_fix(mut self) -> Self {
        self.fix = None;
        self
    }
}

/// A check.
pub struct Check {
    /// Its name.
    code: &'static str,
    /// What is said where nothing is wrong.
    fine: &'static str,
    /// Looks.
    look: fn(&mut Sight) -> Result<Vec<Trouble>>,
}

const fn check(code: &'static str, fine: &'static str, look: fn(&mut Sight) -> Result<Vec<Trouble>>) -> Check {
    Check { code, fine, look }
}

/// All of them, in the order in which they are printed.
const CHECKS: [Check; 33] = [
    check("kernel-namespaces", "namespaces of every kind can be made", kernel::namespaces),
    check("kernel-userns", "user namespaces can be made", kernel::user_namespaces),
    check("kernel-veth", "the kernel has veth links", kernel::veth),
    check("kernel-bridge", "the kernel has bridges, with isolated ports", kernel::bridge),
    check("kernel-nftables", "nftables takes all rules of a network", kernel::nftables),
    check("kernel-ipv6", "the kernel speaks IPv6", kernel::ipv6),
    check("kernel-macvlan", "the kernel has macvlan links", kernel::macvlan),
    check("kernel-vxlan", "the kernel has vxlan links", kernel::vxlan),
    check("kernel-tap", "`/dev/net/tun` can be opened", kernel::tap),
    check("kernel-filter", "the kernel has filters at the ends of a link", kernel::filter),
    check("kernel-tbf", "the kernel can limit the rate of a link", kernel::tbf),
    check("kernel-overlayfs", "the kernel has overlayfs", kernel::overlayfs),
    check("kernel-seccomp", "the kernel filters system calls", kernel::seccomp),
    check("kernel-cgroups", "there are cgroups that limit memory, processor time and processes", kernel::cgroups),
    check("bridge-name", "no link of another's has the name of a network's bridge", links::names),
    check("forwarding", "packets are passed on where they have to be", links::forwarding),
    check("rp-filter", "answers may come by another link, or there is only one", links::reverse_path),
    check("forward-drop", "no other program's rules stop containers' packets on their way", firewall::forward),
    check("bridge-drop", "no other program's rules stop packets between containers", firewall::between),
    check("input-drop", "no other program's rules keep containers from the host", firewall::input),
    check("output-drop", "no other program's rules keep the host from containers", firewall::output),
    check("mtu", "containers' packets fit the way out", links::mtu),
    check("ranges", "no route or address of the host is in a network's range", links::ranges),
    check("resolvers", "the host's name servers answer", resolvers::resolvers),
    check("ports", "the ports of containers that do not run are free", remains::ports),
    check("limit-files", "enough files may be open", limits::files),
    check("limit-processes", "there is room for more processes", limits::processes),
    check("limit-conntrack", "there is room for more connections", limits::connections),
    check("limit-namespaces", "there is room for more network namespaces", limits::namespaces),
    check("limit-neighbours", "there is room for more neighbours", limits::neighbours),
    check("limit-bridge-ports", "there is room on every bridge", limits::bridge_ports),
    check("leftovers", "nothing is left of containers that were killed", remains::leftovers),
    check("netns-names", "every name in `/run/netns` is a network namespace's", remains::names_of_namespaces),
];

/// Looks at everything. A check that cannot be made is a warning.
pub fn examine(sight: &mut Sight) -> Vec<Finding> {
    let mut findings = Vec::new();
    for Check { code, fine, look } in &CHECKS {
        let troubles = look(sight).unwrap_or_else(|error| {
            vec![Trouble::warning(format!("this cannot be looked at: {error:#}"), "").without_fix()]
        });
        if troubles.is_empty() {
            findings.push(Finding { code, severity: Severity::Ok, message: (*fine).to_owned(), fix: None });
        }
        findings.extend(troubles.into_iter().map(|Trouble { severity, message, fix }| Finding {
            code,
            severity,
            message,
            fix,
        }));
    }
    findings
}
