//! Words of a filter, and what they mean.

use std::net::IpAddr;

use anyhow::{Error, Result};
use ipnet::IpNet;

use super::{Expression, Primitive, Protocol, Side, What};
use crate::error::refused;

/// More is no filter that somebody typed.
const MOST_WORDS: usize = 500;
/// So deep parentheses and negations go.
const DEEPEST: usize = 50;

const REMEDY: &str = "host A, net N/LENGTH, port P, portrange P-P, with `src` or `dst` before them; tcp, udp, sctp, icmp, icmp6, arp, \
                      ip, ip6; and, or, not, parentheses; for more: `-w - | tshark -r - -Y FILTER`";

fn wrong(text: impl std::fmt::Display) -> Error {
    refused(format!("read the filter: {text}"), REMEDY)
}

/// What comes between the words of a filter and its meaning.
struct Reader<'a> {
    words: Vec<String>,
    at: usize,
    depth: usize,
    addresses: &'a dyn Fn(&str) -> Vec<IpAddr>,
    /// What was said before the last value: it holds for a value alone, as in `port 80 or 443`.
    last: Option<(Option<Protocol>, Side, Kind)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Host,
    Net,
    Port,
    Range,
}

/// Reads a filter; `None` for an empty one.
pub fn parse(text: &str, addresses: &dyn Fn(&str) -> Vec<IpAddr>) -> Result<Option<Expression>> {
    let words = words(text);
    if words.is_empty() {
        return Ok(None);
    }
    if words.len() > MOST_WORDS {
        return Err(wrong(format!("it has more than {MOST_WORDS} words")));
    }
    let mut reader = Reader { words, at: 0, depth: 0, addresses, last: None };
    let expression = reader.expression()?;
    match reader.peek() {
        None => Ok(Some(expression)),
        Some(")") => Err(wrong("a `)` without its `(`")),
        Some(word) => Err(wrong(format!("`and` or `or` is wanted before `{word}`"))),
    }
}

fn words(text: &str) -> Vec<String> {
    let spaced = text.replace("&&", " and ").replace("||", " or ");
    let spaced = ["(", ")", "!"].iter().fold(spaced, |text, sign| text.replace(sign, &format!(" {sign} ")));
    spaced.split_whitespace().map(str::to_owned).collect()
}

impl Reader<'_> {
    fn peek(&self) -> Option<&str> {
        self.words.get(self.at).map(String::as_str)
    }

    fn take(&mut self, word: &str) -> bool {
        let is = self.peek() == Some(word);
        self.at += usize::from(is);
        is
    }

    /// `and` and `or` bind alike, from left to right, as in pcap-filter(7).
    fn expression(&mut self) -> Result<Expression> {
        let mut left = self.factor()?;
        loop {
            let is_and = self.take("and");
            if !is_and && !self.take("or") {
                return Ok(left);
            }
            let right = self.factor()?;
            let join = if is_and { Expression::And } else { Expression::Or };
            left = join(Box::new(left), Box::new(right));
        }
    }

    fn factor(&mut self) -> Result<Expression> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(wrong(format!("it is more than {DEEPEST} deep")));
        }
        let found = if self.take("not") || self.take("!") {
            Expression::Not(Box::new(self.factor()?))
        } else if self.take("(") {
            let inner = self.expression()?;
            if !self.take(")") {
                return Err(wrong("a `(` without its `)`"));
            }
            inner
        } else {
            Expression::Is(self.primitive()?)
        };
        self.depth -= 1;
        Ok(found)
    }

    fn primitive(&mut self) -> Result<Primitive> {
        let protocol = self.peek().and_then(protocol);
        self.at += usize::from(protocol.is_some());
        let side = self.side();
        let kind = self.peek().and_then(kind);
        self.at += usize::from(kind.is_some());
        if protocol.is_some() && side.is_none() && kind.is_none() {
            return Ok(Primitive { protocol, side: Side::Either, what: What::Anything });
        }
        let alone = protocol.is_none() && side.is_none() && kind.is_none();
        let said = match self.last {
            Some(last) if alone => last,
            _ => (protocol, side.unwrap_or(Side::Either), kind.unwrap_or(Kind::Host)),
        };
        self.last = Some(said);
        let (protocol, side, kind) = said;
        let what = self.value(kind)?;
        check(protocol, &what)?;
        Ok(Primitive { protocol, side, what })
    }

    /// `src`, `dst`, `src or dst`, `src and dst`.
    fn side(&mut self) -> Option<Side> {
        let (first, second) = match self.peek()? {
            "src" => (Side::Source, "dst"),
            "dst" => (Side::Destination, "src"),
            _ => return None,
        };
        let next = |at: usize| self.words.get(self.at + at).map(String::as_str);
        let both = match (next(1), next(2)) {
            (Some("or"), Some(other)) if other == second => Some(Side::Either),
            (Some("and"), Some(other)) if other == second => Some(Side::Both),
            _ => None,
        };
        // `src or dst port 80`, but not `src port 80 or dst port 80`, where a value comes first.
        self.at += if both.is_some() { 3 } else { 1 };
        Some(both.unwrap_or(first))
    }

    fn value(&mut self, kind: Kind) -> Result<What> {
        let Some(word) = self.peek().map(str::to_owned) else { return Err(wrong("it ends too early")) };
        if ["and", "or", "not", "!", "(", ")", "src", "dst"].contains(&word.as_str()) {
            return Err(wrong(format!("a value is wanted before `{word}`")));
        }
        self.at += 1;
        let port = |text: &str| text.parse::<u16>().map_err(|_| wrong(format!("`{text}` is not a port number")));
        match kind {
            Kind::Port => port(&word).map(|port| What::Ports(port, port)),
            Kind::Range => {
                let (first, last) =
                    word.split_once('-').ok_or_else(|| wrong(format!("`{word}` is not a range of ports")))?;
                let (first, last) = (port(first)?, port(last)?);
                // Either way round, as tcpdump takes it.
                Ok(What::Ports(first.min(last), first.max(last)))
            }
            Kind::Net => {
                let net: IpNet =
                    word.parse().map_err(|_| wrong(format!("`{word}` is not a network, as 10.1.0.0/16 is one")))?;
                if net.addr() != net.network() {
                    return Err(wrong(format!("`{word}` is not a network: `{}` is", net.trunc())));
                }
                Ok(What::Net(net))
            }
            Kind::Host => self.hosts(&word).map(What::Hosts),
        }
    }

    fn hosts(&self, word: &str) -> Result<Vec<IpAddr>> {
        if let Ok(address) = word.parse() {
            return Ok(vec![address]);
        }
        let found = (self.addresses)(word);
        if found.is_empty() {
            return Err(wrong(format!("`{word}` is no address, no word of a filter and no container with an address")));
        }
        Ok(found)
    }
}

fn protocol(word: &str) -> Option<Protocol> {
    Some(match word {
        "ip" => Protocol::Ip,
        "ip6" => Protocol::Ip6,
        "arp" => Protocol::Arp,
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        "icmp" => Protocol::Icmp,
        "icmp6" => Protocol::Icmp6,
        _ => return None,
    })
}

fn kind(word: &str) -> Option<Kind> {
    Some(match word {
        "host" => Kind::Host,
        "net" => Kind::Net,
        "port" => Kind::Port,
        "portrange" => Kind::Range,
        _ => return None,
    })
}

/// A protocol that has no such thing as what is asked of it would never match.
fn check(protocol: Option<Protocol>, what: &What) -> Result<()> {
    use Protocol::{Arp, Icmp, Icmp6, Ip, Ip6, Sctp, Tcp, Udp};
    let Some(protocol) = protocol else { return Ok(()) };
    let is_of = |address: &IpAddr| match protocol {
        Ip | Arp => address.is_ipv4(),
        Ip6 => address.is_ipv6(),
        _ => false,
    };
    let fits = match what {
        What::Anything => true,
        What::Ports(..) => matches!(protocol, Tcp | Udp | Sctp),
        What::Hosts(hosts) => hosts.iter().any(is_of),
        What::Net(net) => is_of(&net.addr()),
    };
    if fits {
        return Ok(());
    }
    let name = format!("{protocol:?}").to_lowercase();
    Err(wrong(match (protocol, what) {
        (Tcp | Udp | Sctp | Icmp | Icmp6, _) | (_, What::Ports(..)) => {
            let thing = if matches!(what, What::Ports(..)) { "port" } else { "address" };
            format!(
                "`{name}` cannot stand before a{} {thing}: join the two by `and`",
                if thing == "port" { "" } else { "n" }
            )
        }
        _ => format!("`{name}` has no such address"),
    }))
}
