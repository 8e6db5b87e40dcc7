//! What is to happen to system calls: verdicts by number and arguments, for each architecture.
//!
//! Made by `profile.rs` and `oci.rs`, and turned into a program by `bpf.rs`. Used by the build script too, so it knows nothing
//! but the standard library.

/// `SECCOMP_RET_ALLOW`.
pub const ALLOW: u32 = 0x7fff_0000;
/// `SECCOMP_RET_ERRNO`; the number is added.
pub const ERRNO: u32 = 0x0005_0000;
/// `SECCOMP_RET_KILL_PROCESS`.
pub const KILL_PROCESS: u32 = 0x8000_0000;
/// `AUDIT_ARCH_X86_64`.
pub const X86_64: u32 = 0xc000_003e;
/// What tells numbers of x32 from those of x86_64.
pub const X32_BIT: u32 = 0x4000_0000;
/// `__ARM_NR_BASE`.
const PRIVATE_OF_ARM: u32 = 0xf_0000;

/// An architecture as a filter sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arch {
    /// Its name in an OCI profile, `SCMP_ARCH_...`.
    pub name: &'static str,
    /// `AUDIT_ARCH_...`.
    pub audit: u32,
    /// What is added to its numbers: x32 is a range of numbers of x86_64.
    pub offset: u32,
    /// Whether the registers of its arguments have 64 bits.
    pub wide: bool,
}

/// How an argument is compared with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Op {
    Ne,
    Lt,
    Le,
    Eq,
    Ge,
    Gt,
    /// The argument's bits of this mask.
    MaskedEq(u64),
}

/// A test of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Which argument, from 0 on.
    pub arg: u8,
    /// How it is compared.
    pub op: Op,
    /// With what.
    pub value: u64,
    /// Whether the kernel itself looks at the low 32 bits only: a filter that looked at all 64 would take 0x1_0000_0028 for
    /// another number than 0x28, and the kernel would not.
    pub low: bool,
}

/// What holds where all conditions do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clause {
    /// At least one.
    pub conditions: Vec<Condition>,
    /// `SECCOMP_RET_...`.
    pub action: u32,
}

/// What happens to a system call: the first clause that holds, else the last word, else the default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verdict {
    /// In order.
    pub clauses: Vec<Clause>,
    /// None is the policy's default.
    pub last: Option<u32>,
}

impl Verdict {
    /// The same action, whatever the arguments.
    pub fn always(action: u32) -> Self {
        Self { clauses: Vec::new(), last: Some(action) }
    }
}

/// What happens to the system calls of one architecture.
#[derive(Debug, Clone)]
pub struct Policy {
    /// Which.
    pub arch: Arch,
    /// By number without the architecture's offset: in ascending order, each once.
    pub verdicts: Vec<(u32, Verdict)>,
    /// What happens to the numbers between them.
    pub default: u32,
    /// What happens to numbers above the last of them.
    pub beyond: u32,
}

impl Policy {
    /// An architecture of which nothing is known yet.
    pub fn new(arch: Arch, default: u32) -> Self {
        Self { arch, verdicts: Vec::new(), default, beyond: default }
    }

    /// Takes up a rule. As libseccomp has it: one without conditions outweighs all with conditions, and of several without
    /// conditions the first one holds.
    pub fn add(&mut self, number: u32, conditions: &[Condition], action: u32) {
        let verdict = self.at(number);
        if verdict.last.is_some() {
            return;
        }
        if conditions.is_empty() {
            *verdict = Verdict::always(action);
        } else {
            verdict.clauses.push(Clause { conditions: conditions.to_vec(), action });
        }
    }

    /// The verdict on a number, made where there is none.
    pub fn at(&mut self, number: u32) -> &mut Verdict {
        let index = match self.verdicts.binary_search_by_key(&number, |(number, _)| *number) {
            Ok(index) => index,
            Err(index) => {
                self.verdicts.insert(index, (number, Verdict::default()));
                index
            }
        };
        &mut self.verdicts[index].1
    }

    /// Where ranges of the same verdict begin: never empty, the first begins at 0.
    pub fn ranges(&self) -> Vec<(u32, &Verdict)> {
        static NONE: Verdict = Verdict { clauses: Vec::new(), last: None };
        static BEYOND: Verdict = Verdict { clauses: Vec::new(), last: Some(u32::MAX) };
        let mut ranges: Vec<(u32, &Verdict)> = Vec::new();
        let after = if self.beyond == self.default { &NONE } else { &BEYOND };
        let mut next = 0;
        let mut put = |from: u32, verdict| {
            if ranges.last().is_none_or(|(_, last)| *last != verdict) {
                ranges.push((from, verdict));
            }
        };
        for (number, verdict) in &self.verdicts {
            if *number > next {
                // The private numbers of ARM are far above the others, and new ones are between them.
                put(next, if next < PRIVATE_OF_ARM && *number > PRIVATE_OF_ARM { after } else { &NONE });
            }
            put(*number, verdict);
            next = number + 1;
        }
        put(next, after);
        ranges
    }

    /// What a verdict ends with where no clause of it holds.
    pub fn action(&self, verdict: &Verdict) -> u32 {
        match verdict.last {
            None => self.default,
            Some(u32::MAX) => self.beyond,
            Some(action) => action,
        }
    }
}
