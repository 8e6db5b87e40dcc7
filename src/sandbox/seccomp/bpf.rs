//! From verdicts to a program of the kernel's classic BPF.
//!
//! Used twice: by the build script, for the filter that most containers get, and at run time for the others. So it knows
//! nothing but the standard library. What the program looks like:
//!
//! ```text
//!   the architecture?  -> one tree each, and the end of the process for an unknown one
//!   the number?        -> a balanced search tree over ranges of numbers with the same verdict
//!   the arguments?     -> a chain of tests, where the verdict depends on them
//! ```
//!
//! A tree and no list: when a filter is installed, the kernel walks it once for every number of two architectures, to
//! remember what is allowed whatever the arguments (`seccomp_cache_prepare` in kernel/seccomp.c).

use super::policy::{Arch, Condition, Op, Policy, Verdict, X32_BIT, X86_64};

/// Most instructions of a program (`BPF_MAXINSNS`).
pub const LONGEST: usize = 4096;

/// One instruction: `struct sock_filter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// What is done.
    pub code: u16,
    /// How many instructions to jump over where a test holds.
    pub jt: u8,
    /// And where it does not.
    pub jf: u8,
    /// The constant.
    pub k: u32,
}

/// The program for these architectures. `unknown` is what happens to calls of another. None where it would be too long.
pub fn assemble(policies: &[Policy], unknown: u32) -> Option<Vec<Instruction>> {
    let mut program = Assembler::default();
    let mut trees: Vec<(Arch, usize)> = Vec::new();
    // What comes first in the program is made last: x86_64 itself goes before x32, which is a part of it.
    for policy in policies.iter().rev() {
        let mut entry = program.tree(policy, &policy.ranges(), u32::MAX)?;
        let part = trees.iter().position(|(arch, _)| arch.audit == policy.arch.audit && arch.offset > 0);
        let (offset, beyond) = match part {
            Some(part) => {
                let (arch, tree) = trees.remove(part);
                (arch.offset, tree)
            }
            None if policy.arch.audit == X86_64 && policy.arch.offset == 0 => (X32_BIT, program.end(unknown)),
            None => {
                trees.push((policy.arch, entry));
                continue;
            }
        };
        entry = program.branch(JGE, offset, beyond, entry);
        trees.push((policy.arch, entry));
    }
    let mut entry = program.end(unknown);
    for (arch, tree) in trees {
        // The tree begins with the number in the accumulator.
        let tree = program.load(NUMBER, tree);
        entry = program.branch(JEQ, arch.audit, tree, entry);
    }
    program.load(ARCH, entry);
    program.finish()
}

// `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGT: u16 = 0x25;
const JGE: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Makes a program from its end to its beginning, because jumps lead forward only: a place is an index from the end.
#[derive(Default)]
struct Assembler {
    reversed: Vec<Instruction>,
    /// Action and place of each end.
    ends: Vec<(u32, usize)>,
    /// Chains that are there already: verdict, default, and whether arguments are wide.
    chains: Vec<(Verdict, u32, bool, usize)>,
}

/// Where a chain is entered.
#[derive(Clone, Copy)]
struct Entry {
    place: usize,
    /// The word that its first test loads, and the place after that.
    loaded: Option<(u32, usize)>,
}

impl Assembler {
    fn put(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> usize {
        self.reversed.push(Instruction { code, jt, jf, k });
        self.reversed.len() - 1
    }

    fn jump(&mut self, target: usize) -> usize {
        let over = self.reversed.len() - target - 1;
        self.put(JUMP, 0, 0, over as u32)
    }

    /// A place that a test can jump to, which is at most 255 instructions away.
    fn near(&mut self, target: usize) -> usize {
        if self.reversed.len() - target > 250 { self.jump(target) } else { target }
    }

    fn branch(&mut self, code: u16, k: u32, yes: usize, no: usize) -> usize {
        let (yes, no) = (self.near(yes), self.near(no));
        let here = self.reversed.len();
        self.put(code, (here - yes - 1) as u8, (here - no - 1) as u8, k)
    }

    fn follow(&mut self, then: usize) {
        if then + 1 != self.reversed.len() {
            self.jump(then);
        }
    }

    fn load(&mut self, offset: u32, then: usize) -> usize {
        self.follow(then);
        self.put(LOAD, 0, 0, offset)
    }

    /// A place near that ends the program.
    fn end(&mut self, action: u32) -> usize {
        let here = self.reversed.len();
        if let Some((_, place)) = self.ends.iter().rev().find(|(known, place)| *known == action && here - place < 100) {
            return *place;
        }
        let place = self.put(RETURN, 0, 0, action);
        self.ends.push((action, place));
        place
    }

    /// The ranges, which end before `end`: halves of them, until few single numbers stand out of one verdict.
    fn tree(&mut self, policy: &Policy, ranges: &[(u32, &Verdict)], end: u32) -> Option<usize> {
        /// Costs the fewest instructions; more would be slower than another branch of the tree.
        const FEW: usize = 4;
        // Cut off early what would become too long anyway: it may have been made to be.
        if self.reversed.len() > LONGEST {
            return None;
        }
        let ends = ranges.iter().skip(1).map(|(from, _)| *from).chain([end]);
        let lone = |around: &Verdict| -> Option<Vec<(u32, &Verdict)>> {
            let others = ranges.iter().copied().zip(ends.clone()).filter(|((_, verdict), _)| *verdict != around);
            let few = others.clone().count() <= FEW && others.clone().all(|((from, _), end)| end - from == 1);
            few.then(|| others.map(|(range, _)| range).collect())
        };
        let around = [ranges.first()?.1, ranges.last()?.1];
        let Some((around, lone)) = around.into_iter().find_map(|around| Some((around, lone(around)?))) else {
            let (left, right) = ranges.split_at(ranges.len() / 2);
            let from = right.first()?.0;
            let above = self.tree(policy, right, end)?;
            let below = self.tree(policy, left, from)?;
            return Some(self.branch(JGE, from | policy.arch.offset, above, below));
        };
        let mut entry = self.verdict(policy, around)?;
        for (number, verdict) in lone {
            let found = self.verdict(policy, verdict)?;
            entry = self.branch(JEQ, number | policy.arch.offset, found, entry);
        }
        Some(entry)
    }

    fn verdict(&mut self, policy: &Policy, verdict: &Verdict) -> Option<usize> {
        let last = policy.action(verdict);
        if verdict.clauses.is_empty() {
            return Some(self.end(last));
        }
        let key = |(known, end, wide, _): &&(Verdict, u32, bool, usize)| {
            known == verdict && *end == last && *wide == policy.arch.wide
        };
        if let Some((.., place)) = self.chains.iter().find(key) {
            return Some(*place);
        }
        let mut entry = Entry { place: self.end(last), loaded: None };
        for clause in verdict.clauses.iter().rev() {
            if self.reversed.len() > LONGEST {
                return None;
            }
            let mut yes = Entry { place: self.end(clause.action), loaded: None };
            for condition in clause.conditions.iter().rev() {
                yes = self.test(condition, policy.arch.wide, yes, entry);
            }
            entry = yes;
        }
        self.chains.push((verdict.clone(), last, policy.arch.wide, entry.place));
        Some(entry.place)
    }

    fn test(&mut self, condition: &Condition, wide: bool, yes: Entry, no: Entry) -> Entry {
        let low = ARGUMENTS + 8 * u32::from(condition.arg);
        let (value, rest) = (condition.value as u32, (condition.value >> 32) as u32);
        match condition.op {
            Op::Ne => self.test(&Condition { op: Op::Eq, ..*condition }, wide, no, yes),
            Op::Lt => self.test(&Condition { op: Op::Ge, ..*condition }, wide, no, yes),
            Op::Le => self.test(&Condition { op: Op::Gt, ..*condition }, wide, no, yes),
            Op::MaskedEq(mask) => {
                let test = self.branch(JEQ, value, yes.place, no.place);
                self.follow(test);
                let and = self.put(AND, 0, 0, mask as u32);
                let mut place = self.load(low, and);
                let mask = (mask >> 32) as u32;
                // Bits that are not looked at need no look.
                if wide && !condition.low && (mask, rest) != (0, 0) {
                    let test = self.branch(JEQ, rest, place, no.place);
                    self.follow(test);
                    let and = self.put(AND, 0, 0, mask);
                    place = self.load(low + 4, and);
                }
                Entry { place, loaded: None }
            }
            // 32 bits are always below a larger number.
            Op::Ge | Op::Gt if rest != 0 && (condition.low || !wide) => no,
            Op::Eq | Op::Ge | Op::Gt => {
                let code = match condition.op {
                    Op::Eq => JEQ,
                    Op::Ge => JGE,
                    _ => JGT,
                };
                if condition.low || !wide {
                    // The word is in the accumulator still when the test fails or holds.
                    let after = |entry: Entry| match entry.loaded {
                        Some((word, place)) if word == low => place,
                        _ => entry.place,
                    };
                    let test = self.branch(code, value, after(yes), after(no));
                    return Entry { place: self.load(low, test), loaded: Some((low, test)) };
                }
                let test = self.branch(code, value, yes.place, no.place);
                let lower = self.load(low, test);
                let mut upper = self.branch(JEQ, rest, lower, no.place);
                if condition.op != Op::Eq {
                    upper = self.branch(JGT, rest, yes.place, upper);
                }
                Entry { place: self.load(low + 4, upper), loaded: None }
            }
        }
    }

    fn finish(self) -> Option<Vec<Instruction>> {
        (self.reversed.len() <= LONGEST).then(|| self.reversed.into_iter().rev().collect())
    }
}
