//! The filter of system calls in the form of the OCI runtime specification, `linux.seccomp`.
//!
//! Called by `spec.rs`. minirun's own filter has verdicts that this form cannot say as they are: "refuse these values, allow
//! the others" would be an unconditional rule beside conditional ones, which libseccomp takes for the unconditional one alone.
//! So the other values are named too, as the few ranges of bits that they are ([`others`]). Where the
//! kernel looks at the low half of an argument only, so do the comparisons.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

use crate::sandbox::seccomp::policy::{ALLOW, ERRNO, Op, Verdict};
use crate::sandbox::seccomp::profile::ABSENT;
use crate::sandbox::seccomp::{Openings, TABLES};

const EPERM: u32 = 1;
const LOW: u64 = 0xffff_ffff;

/// A rule without its names: the argument's index, mask and value, if it has a condition, and the action.
type Shape = (Option<(u8, u64, u64)>, u32);

/// minirun's own filter for a container with these capabilities (as bits).
pub fn own(capabilities: u64, open: &Openings) -> Result<LinuxSeccomp> {
    let policies = TABLES.own(capabilities, open);
    let mut names: BTreeMap<Shape, Vec<String>> = BTreeMap::new();
    for (name, numbers) in TABLES.rows {
        // A call has the same verdict wherever it is one; x32 is left out of the list of architectures while it is shut.
        let found = policies
            .iter()
            .zip(numbers)
            .filter(|(policy, number)| **number != ABSENT && (policy.arch.offset == 0 || open.x32));
        let verdict = found.filter_map(|(policy, number)| {
            let index = policy.verdicts.binary_search_by_key(number, |(number, _)| *number).ok()?;
            Some(&policy.verdicts[index].1)
        });
        let Some(verdict) = verdict.into_iter().next() else { continue };
        let shapes = shapes(verdict).with_context(|| format!("write the rule for `{name}`"))?;
        for shape in shapes {
            names.entry(shape).or_default().push((*name).to_owned());
        }
    }
    let arches = TABLES.arches.iter().filter(|arch| arch.offset == 0 || open.x32);
    let architectures = arches.map(|arch| architecture(arch.name)).collect::<Result<_>>()?;
    let syscalls = names.into_iter().map(|(shape, names)| rule(shape, names)).collect::<Result<_>>()?;
    let mut seccomp = LinuxSeccomp::default();
    seccomp
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(EPERM))
        .set_architectures(Some(architectures))
        .set_syscalls(Some(syscalls));
    Ok(seccomp)
}

fn shapes(verdict: &Verdict) -> Result<Vec<Shape>> {
    let default = ERRNO | EPERM;
    let mut shapes = Vec::new();
    let mut seen = Vec::new();
    let mut argument = None;
    for clause in &verdict.clauses {
        let [condition] = clause.conditions[..] else { bail!("it has more than one condition") };
        let width = if condition.low { LOW } else { u64::MAX };
        let (mask, value) = match condition.op {
            Op::Eq => (width, condition.value & width),
            Op::MaskedEq(mask) => (mask & width, condition.value & width),
            other => bail!("it has the comparison {other:?}"),
        };
        if argument.is_some_and(|argument| argument != condition.arg) {
            bail!("it has conditions on two arguments");
        }
        argument = Some(condition.arg);
        seen.push((mask, value));
        if clause.action != default {
            shapes.push((Some((condition.arg, mask, value)), clause.action));
        }
    }
    match (verdict.last, argument) {
        // Named all the same: what is above all that are named is not there yet.
        (None, None) => shapes.push((None, default)),
        (None, Some(_)) => {}
        (Some(action), None) => shapes.push((None, action)),
        (Some(action), Some(argument)) => {
            shapes.extend(others(&seen)?.into_iter().map(|(mask, value)| (Some((argument, mask, value)), action)));
        }
    }
    Ok(shapes)
}

/// All values of 32 bits but these, as masks and values. Each of `these` is a whole value or a single bit that is set.
fn others(these: &[(u64, u64)]) -> Result<Vec<(u64, u64)>> {
    if let [(mask, value)] = these
        && mask.count_ones() == 1
        && mask == value
    {
        return Ok(vec![(*mask, 0)]);
    }
    if these.iter().any(|(mask, _)| *mask != LOW) {
        bail!("its conditions have a mask");
    }
    // Down the tree of bits from the highest one: where none of these is in a branch, all of the branch is another.
    let mut found = Vec::new();
    let mut open = vec![(0u32, 0u64)];
    while let Some((depth, prefix)) = open.pop() {
        let mask = LOW & !(LOW >> depth);
        if !these.iter().any(|(_, value)| value & mask == prefix) {
            found.push((mask, prefix));
        } else if depth < 32 {
            open.push((depth + 1, prefix));
            open.push((depth + 1, prefix | 1 << (31 - depth)));
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn rule(shape: Shape, names: Vec<String>) -> Result<LinuxSyscall> {
    let (condition, action) = shape;
    let mut rule = LinuxSyscall::default();
    rule.set_names(names);
    match action {
        ALLOW => rule.set_action(LinuxSeccompAction::ScmpActAllow),
        errno if errno & !0xffff == ERRNO => {
            rule.set_action(LinuxSeccompAction::ScmpActErrno).set_errno_ret(Some(errno & 0xffff))
        }
        other => bail!("write the system call filter: action {other:#x}"),
    };
    if let Some((index, mask, value)) = condition {
        let argument = LinuxSeccompArgBuilder::default()
            .index(index)
            .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
            .value(mask)
            .value_two(value)
            .build()?;
        rule.set_args(Some(vec![argument]));
    }
    Ok(rule)
}

fn architecture(name: &str) -> Result<Arch> {
    Ok(match name {
        "SCMP_ARCH_X86_64" => Arch::ScmpArchX86_64,
        "SCMP_ARCH_X86" => Arch::ScmpArchX86,
        "SCMP_ARCH_X32" => Arch::ScmpArchX32,
        "SCMP_ARCH_AARCH64" => Arch::ScmpArchAarch64,
        "SCMP_ARCH_ARM" => Arch::ScmpArchArm,
        other => bail!("write the system call filter: architecture `{other}`"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sandbox::seccomp::{Instruction, oci};

    #[test]
    fn a_call_has_one_verdict_on_all_architectures() {
        for open in [Openings::default(), Openings { x32: true, ..Openings::default() }] {
            for capabilities in [0, u64::MAX] {
                let policies = TABLES.own(capabilities, &open);
                for (name, numbers) in TABLES.rows {
                    let found = policies
                        .iter()
                        .zip(numbers)
                        .filter(|(policy, number)| **number != ABSENT && (policy.arch.offset == 0 || open.x32));
                    let verdicts: Vec<_> = found
                        .map(|(policy, number)| policy.verdicts.iter().find(|(one, _)| one == number).map(|(_, v)| v))
                        .collect();
                    assert!(verdicts.windows(2).all(|pair| pair[0] == pair[1]), "{name}: {verdicts:?}");
                }
            }
        }
    }

    #[test]
    fn every_opening_can_be_written() {
        for name in Openings::NAMES.into_iter().chain(["vsock", "alg"]) {
            let mut open = Openings::default();
            assert!(open.open(name));
            for capabilities in [0, u64::MAX] {
                own(capabilities, &open).unwrap();
            }
        }
    }

    /// What a filter answers (Documentation/networking/filter.rst; `struct seccomp_data`).
    fn answer(program: &[Instruction], data: &[u32; 16]) -> u32 {
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            let jump = |holds: bool| usize::from(if holds { jt } else { jf });
            at += 1 + match code {
                0x20 => {
                    accumulator = data[k as usize / 4];
                    0
                }
                0x54 => {
                    accumulator &= k;
                    0
                }
                0x05 => k as usize,
                0x15 => jump(accumulator == k),
                0x25 => jump(accumulator > k),
                0x35 => jump(accumulator >= k),
                0x45 => jump(accumulator & k != 0),
                0x06 => return k,
                other => panic!("instruction {other:#x}"),
            };
        }
    }

    #[test]
    fn what_is_written_means_what_is_installed() {
        const VALUES: [u64; 17] = [
            0,
            1,
            2,
            3,
            8,
            10,
            16,
            17,
            40,
            0x5411,
            0x5412,
            0x5413,
            0x541c,
            0x1000_0000,
            0x7e02_0000,
            0xffff_ffff,
            0x1_0000_5412,
        ];
        let mut opened = Openings::default();
        assert!(opened.open("tiocsti") && opened.open("userns") && opened.open("vsock"));
        for (open, capabilities) in [(Openings::default(), 0xa804_05fb), (Openings::default(), u64::MAX), (opened, 0)] {
            let text = serde_json::to_vec(&own(capabilities, &open).unwrap()).unwrap();
            let written = oci::compile(&text, capabilities).unwrap();
            let installed = TABLES.filter(capabilities, &open).unwrap();
            for arch in [0xc000_003e, 0x4000_0003] {
                for number in (0..1000).chain([u32::MAX >> 2]) {
                    for value in VALUES {
                        let (low, high) = (value as u32, (value >> 32) as u32);
                        let mut data = [low, 0, 0, 0, low, high, low, high, low, high, low, high, low, high, low, high];
                        (data[0], data[1]) = (number, arch);
                        assert_eq!(
                            answer(written.program(), &data),
                            answer(&installed, &data),
                            "{arch:#x} {number} {value:#x}"
                        );
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn others_are_the_others(these in proptest::collection::vec(any::<u32>(), 1..5), value in any::<u32>()) {
            let given: Vec<(u64, u64)> = these.iter().map(|value| (LOW, u64::from(*value))).collect();
            let others = others(&given).unwrap();
            let is_other = |value: u32| others.iter().filter(|(mask, wanted)| u64::from(value) & mask == *wanted).count();
            prop_assert_eq!(is_other(value), usize::from(!these.contains(&value)));
            for this in these {
                prop_assert_eq!(is_other(this), 0);
                prop_assert_eq!(is_other(this ^ 1), usize::from(!given.contains(&(LOW, u64::from(this ^ 1)))));
            }
        }
    }
}
