//! What the options of `run` say about limits: pure functions from text, and docker's rules about which values go together.
//!
//! Called by `plan.rs`. What the machine has to say to the values (its processors, its controllers) is asked in `plan.rs`
//! of this directory.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};

use crate::cli::LimitArgs;
use crate::error::refused;
use crate::size;

/// Length of the period over which processor time is shared out, in microseconds: the kernel's default, and docker's.
pub const PERIOD: u64 = 100_000;
/// Docker's: below it no container could be started.
const LEAST_MEMORY: u64 = 6 << 20;
/// The kernel's own range of `cpu.shares`.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;
/// More than any kernel is built for.
const MOST_CPUS: u32 = 1 << 16;

/// The limits of a container. `None` is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// What it may use of the swap, beside the memory. `None` unless `memory` is set.
    pub swap: Option<Swap>,
    /// Microseconds of processor time in each [`PERIOD`].
    pub quota: Option<u64>,
    /// The processors it may run on, as it was typed.
    pub cpuset: Option<String>,
    /// Its weight against others where processors are short, as version 1 counts: 1024 is what everybody has.
    pub shares: Option<u64>,
    /// How many processes and threads it may have.
    pub pids: Option<u64>,
}

/// How much swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swap {
    /// As much as memory: what is meant where nothing is said, and the host counts swap.
    AsMemory,
    /// Bytes of memory and swap together.
    Total(u64),
    /// All that the host has.
    Unlimited,
}

impl Limits {
    /// What was typed; `None` where no limit is wanted.
    pub fn of(args: &LimitArgs) -> Result<Option<Self>> {
        let memory = args.memory.as_deref().map(memory).transpose()?.flatten();
        let limits = Self {
            memory,
            swap: swap(memory, args.memory_swap.as_deref())?,
            quota: args.cpus.as_deref().map(quota).transpose()?.flatten(),
            cpuset: args.cpuset_cpus.as_deref().map(|text| cpu_list(text).map(|_| text.to_owned())).transpose()?,
            shares: args.cpu_shares.map(shares).transpose()?.flatten(),
            pids: args.pids_limit.map(pids).transpose()?.flatten(),
        };
        Ok((limits != Self::default()).then_some(limits))
    }
}

fn memory(text: &str) -> Result<Option<u64>> {
    let failed = || format!("limit memory with `--memory {text}`");
    let bytes = size::bytes(text).with_context(failed)?;
    if (1..LEAST_MEMORY).contains(&bytes) {
        return Err(refused(format!("{}: no program starts in less than 6m", failed()), "give it more"));
    }
    Ok((bytes > 0).then_some(bytes))
}

fn swap(memory: Option<u64>, text: Option<&str>) -> Result<Option<Swap>> {
    let Some(text) = text else { return Ok(memory.map(|_| Swap::AsMemory)) };
    let failed = || format!("limit memory with `--memory-swap {text}`");
    let Some(memory) = memory else {
        return Err(refused(format!("{}: no --memory is given", failed()), "give --memory too, or neither"));
    };
    if text == "-1" {
        return Ok(Some(Swap::Unlimited));
    }
    match size::bytes(text).with_context(failed)? {
        0 => Ok(Some(Swap::AsMemory)),
        total if total < memory => Err(refused(
            format!("{}: it is less than --memory", failed()),
            "it is memory and swap together: give as much as --memory for no swap, or -1 for all of it",
        )),
        total => Ok(Some(Swap::Total(total))),
    }
}

fn quota(text: &str) -> Result<Option<u64>> {
    let failed = || format!("limit processor time with `--cpus {text}`");
    let quota =
        size::decimal(text, u128::from(PERIOD)).with_context(|| format!("{}: a number as 1.5 is wanted", failed()))?;
    match u64::try_from(quota).unwrap_or(u64::MAX) {
        0 if text.bytes().all(|byte| b"0.".contains(&byte)) => Ok(None),
        // A millisecond is the least that the kernel takes.
        0..1000 => Err(refused(format!("{}: it is less than 0.01", failed()), "give at least 0.01")),
        quota => Ok(Some(quota)),
    }
}

fn shares(shares: u64) -> Result<Option<u64>> {
    if shares != 0 && !SHARES.contains(&shares) {
        bail!(
            "weigh processor time with `--cpu-shares {shares}`: a number from 2 to 262144 is wanted, 1024 is the usual"
        );
    }
    Ok((shares > 0).then_some(shares))
}

fn pids(count: i64) -> Result<Option<u64>> {
    match count {
        -1 | 0 => Ok(None),
        // The largest process id that a kernel gives.
        1..=4_194_304 => Ok(Some(count.unsigned_abs())),
        _ => bail!("limit processes with `--pids-limit {count}`: 1 to 4194304 is wanted, or -1 for no limit"),
    }
}

/// `0-1,3`, as the kernel writes and reads lists of processors (cpuset(7)).
pub fn cpu_list(text: &str) -> Result<BTreeSet<u32>> {
    let failed = || format!("`{text}` is not a list of processors, as 0-1,3 is one");
    let number = |part: &str| -> Option<u32> {
        let plain = !part.is_empty() && part.len() < 7 && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse().ok().filter(|number| plain && *number < MOST_CPUS)
    };
    let mut all = BTreeSet::new();
    // A list longer than this repeats itself.
    for part in text.split(',').take(MOST_CPUS as usize) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first).with_context(failed)?, number(last).with_context(failed)?);
        if first > last {
            bail!(failed());
        }
        all.extend(first..=last);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn args(memory: &str, swap: &str) -> LimitArgs {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        LimitArgs { memory: text(memory), memory_swap: text(swap), ..LimitArgs::default() }
    }

    #[test]
    fn memory_and_swap_go_together_as_dockers() {
        let of = |memory, swap| Limits::of(&args(memory, swap)).map(|limits| limits.unwrap().swap);
        assert_eq!(of("64m", "").unwrap(), Some(Swap::AsMemory));
        assert_eq!(of("64m", "0").unwrap(), Some(Swap::AsMemory));
        assert_eq!(of("64m", "64m").unwrap(), Some(Swap::Total(64 << 20)));
        assert_eq!(of("64m", "-1").unwrap(), Some(Swap::Unlimited));
        for (memory, swap, says) in [
            ("64m", "63m", "less than --memory"),
            ("", "64m", "no --memory"),
            ("", "-1", "no --memory"),
            ("0", "64m", "no --memory"),
            ("5m", "", "less than 6m"),
            ("6291455", "", "less than 6m"),
            ("64m", "-2", "unknown"),
        ] {
            let error = format!("{:#}", Limits::of(&args(memory, swap)).unwrap_err());
            assert!(error.contains(says) || says == "unknown", "{memory} {swap}: {error}");
        }
        assert_eq!(Limits::of(&args("0", "")).unwrap(), None);
    }

    #[test]
    fn processors() {
        assert_eq!(quota("1.5").unwrap(), Some(150_000));
        assert_eq!(quota("0.01").unwrap(), Some(1000));
        assert_eq!(quota("0").unwrap(), None);
        for bad in ["", "x", "-1", "1e1", "0.009", "0.0000001", "1,5"] {
            assert!(quota(bad).is_err(), "{bad}");
        }
        assert_eq!(cpu_list("0-2,5,1").unwrap().into_iter().collect::<Vec<_>>(), [0, 1, 2, 5]);
        for bad in ["", ",", "1-0", "-1", "0-", "a", "0-99999999", "1 ", "+1", "0-1:1/2"] {
            assert!(cpu_list(bad).is_err(), "{bad}");
        }
        assert_eq!(shares(0).unwrap(), None);
        assert_eq!(shares(2).unwrap(), Some(2));
        assert!(shares(1).is_err() && shares(262_145).is_err());
    }

    #[test]
    fn no_limit_is_none() {
        for count in [-1, 0] {
            let args = LimitArgs { pids_limit: Some(count), cpus: Some("0".into()), ..LimitArgs::default() };
            assert_eq!(Limits::of(&args).unwrap(), None);
        }
        assert!(pids(-2).is_err() && pids(i64::MAX).is_err());
        assert_eq!(pids(50).unwrap(), Some(50));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,40}", number in any::<i64>()) {
            let _ = (quota(&text), cpu_list(&text), memory(&text), swap(Some(1), Some(&text)));
            let _ = (pids(number), shares(number.cast_unsigned()));
        }

        #[test]
        fn nothing_panics_on_what_looks_right(text in "[0-9.]{0,24}[bkmgtiBKMGT]{0,3}", list in "[0-9,-]{0,30}") {
            let _ = (quota(&text), cpu_list(&list));
        }
    }
}
