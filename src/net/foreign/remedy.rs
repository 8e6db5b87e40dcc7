//! The command that lets containers' packets pass another program's rules, in that program's own way.

use std::path::Path;

use super::Obstacle;
use super::packet::Way;
use super::ruleset::Table;

/// The chain that Docker leaves to its users and asks before its own.
const OF_DOCKERS_USERS: &str = "DOCKER-USER";

/// The command; `None` where only the one who made the rule can tell.
pub fn of(obstacle: &Obstacle, table: &Table) -> Option<String> {
    let link = &obstacle.link;
    let forward = obstacle.hook == "forward";
    if table.name == "firewalld" {
        return Some(format!(
            "firewall-cmd --permanent --zone=trusted --add-interface={link} && firewall-cmd --reload"
        ));
    }
    if table.chains.iter().any(|chain| chain.name.starts_with("ufw-")) {
        return match obstacle.hook {
            "forward" => Some(format!("ufw route allow in on {link} && ufw route allow out on {link}")),
            "input" => Some(format!("ufw allow in on {link}")),
            "output" => Some(format!("ufw allow out on {link}")),
            _ => None,
        };
    }
    // Both directions where packets pass on: answers are packets too.
    let (mut inward, mut outward) = (forward, forward);
    for way in &obstacle.ways {
        match (way, obstacle.hook) {
            // By the uplink comes everything: it is not for us to say what of it may pass.
            (Way::In, "prerouting") | (Way::Out, "postrouting") => return None,
            (Way::Out | Way::ToHost, _) | (Way::Between, "prerouting") => inward = true,
            (Way::In | Way::FromHost, _) | (Way::Between, "postrouting") => outward = true,
            (Way::Between, _) => {}
        }
    }
    let flags = if table.legacy { vec!["-i", "-o"] } else { vec!["iifname", "oifname"] };
    let sides = [inward.then_some(flags[0]), outward.then_some(flags[1])].into_iter().flatten();
    let commands: Vec<String> = if table.legacy || is_of_iptables(obstacle, table) {
        let program = program(table);
        let chain = if forward && table.chain(OF_DOCKERS_USERS).is_some() { OF_DOCKERS_USERS } else { &obstacle.base };
        let of_table = if table.name == "filter" { String::new() } else { format!("-t {} ", table.name) };
        let side = |flag: &str| if flag == "iifname" || flag == "-i" { "-i" } else { "-o" };
        sides.map(|flag| format!("{program} {of_table}-I {chain} {} {link} -j ACCEPT", side(flag))).collect()
    } else {
        let (family, name, base) = (table.family, &table.name, &obstacle.base);
        sides.map(|flag| format!("nft insert rule {family} {name} {base} {flag} {link} accept")).collect()
    };
    (!commands.is_empty()).then(|| commands.join(" && "))
}

/// Whether a table of nftables is one that iptables writes: it calls chains so.
fn is_of_iptables(obstacle: &Obstacle, table: &Table) -> bool {
    table.family != "inet" && obstacle.base == obstacle.hook.to_uppercase()
}

/// The program that speaks to the table: there are two of the same name.
fn program(table: &Table) -> String {
    let plain = if table.family == "ip6" { "ip6tables" } else { "iptables" };
    let (own, kind) = if table.legacy { ("legacy", "legacy") } else { ("nft", "nft") };
    let usual = ["/usr/sbin", "/sbin", "/usr/bin"].iter().find_map(|at| Path::new(at).join(plain).canonicalize().ok());
    let speaks = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(kind));
    if usual.is_none_or(|path| speaks(&path)) { plain.to_owned() } else { format!("{plain}-{own}") }
}
