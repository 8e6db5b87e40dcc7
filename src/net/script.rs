//! A network as a shell script: `up` builds it by hand, `down` brings back what was before.
//!
//! Used by `run --dry-run`, `--explain=sh` and `explain`. Both halves are made of the same list of steps that minirun does
//! itself; [`undo`] is what `apply.rs` does to take a step back, as a command.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use serde_json::{Value, json};

use super::explain::commands;
use super::mode::Mode;
use super::port::Port;
use super::ptp::Again;
use super::reason::reason;
use super::step::{Place, Step};
use super::table::{Change, TABLE};

/// A network to be explained.
#[derive(Debug, Clone, Copy)]
pub struct Script<'a> {
    /// What `--net` said.
    pub mode: &'a Mode,
    /// The name of the container, and of its namespace; `None` for networks alone.
    pub container: Option<&'a str>,
    /// What is done in other containers first.
    pub again: &'a [Again],
    /// Steps that make the managed networks.
    pub host_steps: &'a [Step],
    /// Steps that make the container's part.
    pub steps: &'a [Step],
    /// Its published ports.
    pub ports: &'a [Port],
}

/// A step as it is told: the reason, and the commands.
type Told = (String, Vec<String>);

impl Script<'_> {
    /// The script for sh(1). It needs root, iproute2, nftables and procps.
    pub fn text(&self) -> String {
        let what = match self.container {
            Some(name) => format!("The network of container `{name}`, --net={}", self.mode),
            None => format!("Network `{}`", self.mode),
        };
        let mut text = format!(
            "#!/bin/sh\n# {what}, by hand: `sh FILE` builds it, `sh FILE down` takes it down.\nset -eu\n\nup() {{\n"
        );
        for (title, steps) in self.parts() {
            if !steps.is_empty() {
                text.push_str(&format!("  ### {title}\n"));
                let lines = steps.iter().flat_map(|(reason, commands)| {
                    std::iter::once(format!("\n  # {reason}\n"))
                        .chain(commands.iter().map(|command| format!("  {command}\n")))
                });
                text.extend(lines);
                text.push('\n');
            }
        }
        if let Some(nothing) = self.nothing_to_do() {
            text.push_str(&format!("  # {nothing}\n  :\n"));
        }
        text.extend(passed_on(self.ports).iter().map(|line| format!("  # {line}\n")));
        text.push_str("}\n\ndown() {\n");
        let down = self.down();
        if down.is_empty() {
            text.push_str("  :\n");
        }
        down.iter().for_each(|command| text.push_str(&format!("  {command}\n")));
        text.push_str("}\n\ncase \"${1:-up}\" in\n  up | down) \"${1:-up}\" ;;\n");
        text.push_str("  *) echo \"usage: sh $0 [up|down]\" >&2; exit 2 ;;\nesac\n");
        text
    }

    /// Commands and reasons, one below the other.
    pub fn lines(&self, coloured: bool) -> String {
        let [dim, bold, plain] = shades(coloured);
        let steps = self.parts().into_iter().flat_map(|(_, steps)| steps);
        let command = |command: &String| format!("{bold}{command}{plain}\n");
        let step = |(reason, commands): Told| {
            format!("{dim}# {reason}{plain}\n{}", commands.iter().map(command).collect::<String>())
        };
        let mut text: String = steps.map(step).collect();
        text.extend(self.nothing_to_do().map(|nothing| format!("# {nothing}\n")));
        text.extend(passed_on(self.ports).iter().map(|line| format!("{dim}# {line}{plain}\n")));
        text
    }

    /// The same for programs: an array of steps.
    pub fn json(&self) -> Value {
        let netns = self.container.unwrap_or_default();
        let again = self.again.iter().flat_map(|other| other.steps.iter().map(|step| step_json(step, &other.name)));
        let namespace = self.own_namespace().map(|netns| {
            json!({
                "place": "host", "commands": [format!("ip netns add {}", word(netns))], "reason": NAMESPACE,
                "undo": [format!("ip netns del {}", word(netns))],
            })
        });
        let one = |step: &Step| step_json(step, netns);
        self.host_steps.iter().map(one).chain(again).chain(namespace).chain(self.steps.iter().map(one)).collect()
    }

    fn own_namespace(&self) -> Option<&str> {
        self.container.filter(|_| !self.mode.joins())
    }

    fn nothing_to_do(&self) -> Option<String> {
        if self.container.is_none() && self.host_steps.is_empty() {
            return Some(
                "Nothing to do: all of this network is made for its containers, and `explain CONTAINER` tells it."
                    .into(),
            );
        }
        let whose = if *self.mode == Mode::Host { "the host's" } else { "that" };
        self.mode.joins().then(|| format!("Nothing to do: the program runs in {whose} network namespace."))
    }

    /// Titles, and the steps below each: why, and what.
    fn parts(&self) -> Vec<(String, Vec<Told>)> {
        let netns = self.container.unwrap_or_default();
        let told = |step: &Step| (reason(step), commands(step, netns));
        let namespace =
            self.own_namespace().map(|netns| (NAMESPACE.to_owned(), vec![format!("ip netns add {}", word(netns))]));
        let own = namespace.into_iter().chain(self.steps.iter().map(told)).collect();
        let shared = self.host_steps.iter().map(told).collect();
        let of_other = |other: &Again| {
            (other.title(), other.steps.iter().map(|step| (reason(step), commands(step, &other.name))).collect())
        };
        let mut parts = vec![("The managed networks: made once, kept for all containers.".to_owned(), shared)];
        parts.extend(self.again.iter().map(of_other));
        parts.push(("The container.".to_owned(), own));
        parts
    }

    /// Last first: the container's part, its namespace, what was made for it.
    fn down(&self) -> Vec<String> {
        let all = [self.host_steps, self.steps].concat();
        let netns = self.container.unwrap_or_default();
        let undo = |steps: &[Step]| steps.iter().rev().flat_map(|step| undo(step, &all, netns)).collect::<Vec<_>>();
        let mut down = undo(self.steps);
        down.extend(self.own_namespace().map(|netns| format!("ip netns del {}", word(netns))));
        down.extend(undo(self.host_steps));
        down
    }
}

/// Of published ports, those to which the kernel leads nothing: minirun's own process does what socat(1) would do. They are no step,
/// and end with the process.
pub fn passed_on(ports: &[Port]) -> Vec<String> {
    let mut lines = Vec::new();
    for port in ports.iter().filter(|port| port.has_relay()) {
        if lines.is_empty() {
            lines.push("the kernel leads nothing from ::1 to a container, nor from IPv6 to IPv4: minirun passes it on, as would".to_owned());
        }
        let at = if port.address.is_unspecified() && !port.is_relayed() {
            IpAddr::from(Ipv6Addr::LOCALHOST)
        } else {
            port.address
        };
        let protocol = port.protocol.to_string().to_uppercase();
        let version = if port.target.is_ipv4() { 4 } else { 6 };
        let each = if port.count > 1 { format!(", and so the {} after it", port.count - 1) } else { String::new() };
        let target = SocketAddr::new(port.target, port.port);
        let host = port.host;
        lines.push(format!(
            "  socat {protocol}6-LISTEN:{host},bind=[{at}],ipv6only,fork {protocol}{version}:{target}{each}"
        ));
    }
    lines
}

/// What makes a reason dim and a command bold, and what ends both.
pub fn shades(coloured: bool) -> [&'static str; 3] {
    if coloured { ["\x1b[2m", "\x1b[1m", "\x1b[0m"] } else { [""; 3] }
}

/// Why there is a namespace.
pub const NAMESPACE: &str =
    "a network namespace: links, addresses, routes, rules and ports of its own, and none of the host's";

/// One step for programs.
pub fn step_json(step: &Step, netns: &str) -> Value {
    let place = if step.place() == Place::Hub { "host" } else { "container" };
    let undo = undo(step, &[], netns);
    json!({ "place": place, "commands": commands(step, netns), "reason": reason(step), "undo": undo })
}

/// The commands that take a step back, where something is left when all others are: `all` are the steps that go with it.
pub fn undo(step: &Step, all: &[Step], netns: &str) -> Vec<String> {
    let makes_table = |step: &Step| matches!(step, Step::Nft(Change::AddTable));
    match step {
        Step::AddBridge { name, .. } | Step::AddVxlan { name, .. } | Step::AddVeth { host: name, .. } => {
            vec![format!("ip link del {}", word(name))]
        }
        Step::Lend { device, name } => device.commands_back(&word(netns), name),
        Step::Sysctl { place: Place::Hub, key, value } if value == "1" => {
            // A link's own go with the link.
            let made =
                |step: &Step| matches!(step, Step::AddBridge { name, .. } if key.split('/').any(|part| part == name));
            if all.iter().any(made) { vec![] } else { vec![format!("sysctl -qw {}", word(&format!("{key}=0")))] }
        }
        Step::Nft(Change::AddTable) => vec![format!("nft delete table inet {TABLE}")],
        Step::Nft(Change::AddElement(element)) if !all.iter().any(makes_table) => {
            commands(&Step::Nft(Change::DeleteElement(element.clone())), "")
        }
        // The rest goes with its link, its namespace or the table.
        _ => vec![],
    }
}

/// A word as sh(1) takes it.
pub fn word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.:@/+=,".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // A link of the host may be called almost anything.
    #[test]
    fn what_takes_a_setting_back_is_quoted() {
        let (key, value) = ("net/ipv4/conf/e;t$h/forwarding".to_owned(), "1".to_owned());
        let step = Step::Sysctl { place: Place::Hub, key, value };
        assert_eq!(undo(&step, &[], "web"), ["sysctl -qw 'net/ipv4/conf/e;t$h/forwarding=0'"]);
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "only a shell knows how it reads")]
    fn words_are_what_they_were() {
        for text in ["eth0", "", "a b", "$(reboot)", "it's", "`x`"] {
            let said =
                std::process::Command::new("sh").args(["-c", &format!("printf %s {}", word(text))]).output().unwrap();
            assert_eq!(String::from_utf8(said.stdout).unwrap(), text);
        }
        assert_eq!(word("mr-front"), "mr-front");
    }
}
