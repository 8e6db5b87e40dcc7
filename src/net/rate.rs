//! How fast an interface may be: what `rate=` says, and the token bucket that holds it.
//!
//! `mode.rs` reads it, `step.rs` carries it, `rtnl/` writes it. A token bucket (tc-tbf(8)) delays what is sent too fast and drops
//! what it cannot delay. It works on what leaves by a link, so each direction has one at the end where it leaves: what the
//! container sends at the container's end, what it receives at the host's. Both go with the link.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};

use super::step::{Place, Step};

/// How long a packet may wait, in microseconds: a queue that TCP needs to keep a link full, and no more than people notice.
pub const LATENCY: u64 = 50_000;
/// The least burst in bytes: some packets, so that a late timer leaves no gap at slow rates.
const LEAST_BURST: u64 = 16 * 1024;
/// At fast rates the burst is what passes in so many parts of a second: a timer of the kernel that is late by less costs
/// nothing.
const BURSTS_A_SECOND: u64 = 200;
/// What a frame has beside the bytes that the MTU counts.
const HEADER: u64 = 14;

/// The slowest and the fastest, in bits a second.
const LEAST: u64 = 8_000;
const MOST: u64 = 400_000_000_000;

/// Units of tc(8) in bits; those in bytes (`bps`) are eight times as much.
const UNITS: [(&str, u64); 9] = [
    ("gbit", 1_000_000_000),
    ("mbit", 1_000_000),
    ("kbit", 1_000),
    ("bit", 1),
    ("gibit", 1 << 30),
    ("mibit", 1 << 20),
    ("kibit", 1 << 10),
    ("tbit", 1_000_000_000_000),
    ("", 1),
];

/// A rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In bytes a second, as the kernel counts.
    pub bytes: u64,
}

impl Rate {
    /// The size of the bucket in bytes, for a link with this MTU: a packet that does not fit is never sent.
    pub fn burst(self, mtu: u32) -> u32 {
        let burst = (self.bytes / BURSTS_A_SECOND).max(LEAST_BURST).max(2 * (u64::from(mtu) + HEADER));
        u32::try_from(burst).unwrap_or(u32::MAX)
    }

    /// How many bytes wait at most, those of the burst among them. What tc(8) makes of a latency.
    pub fn limit(self, burst: u32) -> u32 {
        u32::try_from(self.bytes * LATENCY / 1_000_000 + u64::from(burst)).unwrap_or(u32::MAX)
    }
}

impl FromStr for Rate {
    type Err = anyhow::Error;

    /// As tc(8) reads it: a number of bits a second, or with `kbit`, `mbit`, `gbit`, or in bytes with `kbps` and its like.
    fn from_str(text: &str) -> Result<Self> {
        let text = text.to_ascii_lowercase();
        let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len()));
        let (unit, times) = match unit.strip_suffix("bps") {
            Some(prefix) => (format!("{prefix}bit"), 8),
            None => (unit.to_owned(), 1),
        };
        let bits = UNITS.iter().find(|(name, _)| *name == unit).and_then(|(_, bits)| scaled(number, bits * times));
        match bits {
            Some(bits) if (LEAST..=MOST).contains(&bits) => Ok(Self { bytes: bits / 8 }),
            Some(_) => bail!("8kbit is the slowest, 400gbit the fastest"),
            None => bail!("a rate as 500kbit, 10mbit or 1gbit is wanted"),
        }
    }
}

/// A decimal number, which may have a fraction, so many times. In whole numbers, so that a rate reads the same again.
fn scaled(number: &str, times: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.len() <= 12 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole = u128::from(whole.parse::<u64>().ok()?) * u128::from(times);
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(times) / 10u128.pow(fraction.len() as u32);
    u64::try_from(whole + part).ok()
}

impl fmt::Display for Rate {
    /// In the largest unit in which it is a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.bytes * 8;
        let unit = UNITS.iter().take(4).find(|(_, unit)| bits.is_multiple_of(*unit));
        let (name, unit) = unit.unwrap_or(&("bit", 1));
        write!(f, "{}{name}", bits / unit)
    }
}

/// The rates of an interface, as the container sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// How fast it may send.
    pub sent: Option<Rate>,
    /// How fast it receives.
    pub received: Option<Rate>,
}

impl FromStr for Rates {
    type Err = anyhow::Error;

    /// `SENT/RECEIVED`, either of which may be left out, or one rate for both.
    fn from_str(text: &str) -> Result<Self> {
        let one = |text: &str| if text.is_empty() { Ok(None) } else { text.parse().map(Some) };
        let (sent, received) = text.split_once('/').unwrap_or((text, text));
        let rates = Self { sent: one(sent)?, received: one(received)? };
        if rates == Self::default() {
            bail!("a rate as 10mbit, or two as 10mbit/20mbit, is wanted");
        }
        Ok(rates)
    }
}

impl fmt::Display for Rates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |rate: Option<Rate>| rate.map(|rate| rate.to_string()).unwrap_or_default();
        match (self.sent, self.received) {
            (sent, received) if sent == received => f.write_str(&text(sent)),
            (sent, received) => write!(f, "{}/{}", text(sent), text(received)),
        }
    }
}

/// What holds a link with this MTU to a rate, where there is one.
pub fn shape(place: Place, link: &str, rate: Option<Rate>, mtu: u32) -> Option<Step> {
    rate.map(|rate| Step::Shape { place, link: link.to_owned(), rate, burst: rate.burst(mtu) })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_are_read_as_tc_reads_them() {
        let bytes = |text: &str| text.parse::<Rate>().unwrap().bytes;
        assert_eq!(bytes("8000"), 1_000);
        assert_eq!(bytes("500kbit"), 62_500);
        assert_eq!(bytes("1.5Mbit"), 187_500);
        assert_eq!(bytes("1mbps"), 1_000_000);
        assert_eq!(bytes("8kibit"), 1_024);
        assert_eq!(bytes("40gbit"), 5_000_000_000);
        for bad in
            ["", "mbit", "1", "7999bit", "401gbit", "-1mbit", "1e3mbit", "1.mbit", "1 mbit", "10mb", "10m", "1/2/3"]
        {
            assert!(bad.parse::<Rate>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_is_what_is_sent() {
        let rates = |text: &str| text.parse::<Rates>().unwrap();
        assert_eq!(rates("1mbit/2mbit").sent, "1mbit".parse().ok());
        assert_eq!(rates("1mbit/2mbit").received, "2mbit".parse().ok());
        assert_eq!(rates("1mbit"), rates("1mbit/1mbit"));
        assert_eq!(rates("/2mbit").sent, None);
        assert_eq!(rates("1mbit/").received, None);
        assert!("/".parse::<Rates>().is_err() && "".parse::<Rates>().is_err());
    }

    #[test]
    fn every_packet_fits_into_the_bucket() {
        let slow: Rate = "8kbit".parse().unwrap();
        assert_eq!((slow.burst(1500), slow.burst(65535)), (16384, 131_098));
        let fast: Rate = "400gbit".parse().unwrap();
        assert!(fast.limit(fast.burst(1500)) > fast.burst(1500));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(text in "[0-9]{0,3}(\\.[0-9]{1,3})?([kmg]?(bit|bps))?(/[0-9]{1,3}mbit)?") {
            if let Ok(rates) = text.parse::<Rates>() {
                prop_assert_eq!(rates.to_string().parse::<Rates>().unwrap(), rates);
            }
        }
    }
}
