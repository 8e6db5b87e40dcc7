//! The default profile as tables, and what minirun shuts on top of it.
//!
//! The tables are made from `numbers.txt` and `default.profile` by the build script, which also uses this file: for the
//! filter that most containers get. So it knows nothing but the standard library.

use super::bpf::{self, Instruction};
use super::openings::Openings;
use super::policy::{ALLOW, Arch, Clause, Condition, ERRNO, KILL_PROCESS, Op, Policy, Verdict};

/// A column of a system call's row where the architecture does not have it.
pub const ABSENT: u32 = u32::MAX;

/// Its numbers on the architectures, in their order.
pub type Row<'a> = (&'a str, [u32; 3]);

/// A rule of the default profile.
#[derive(Debug, Clone, Copy)]
pub struct Rule<'a> {
    /// Capabilities that a container must have one of, as bits; 0 for any container.
    pub with: u64,
    /// Capabilities that it must not have.
    pub without: u64,
    /// All of them must hold.
    pub conditions: &'a [Condition],
    /// `SECCOMP_RET_...`.
    pub action: u32,
    /// Indices of rows.
    pub calls: &'a [u16],
}

/// All that is known when minirun is built.
#[derive(Debug, Clone, Copy)]
pub struct Tables<'a> {
    /// The architecture of this build, and those that its kernel runs besides.
    pub arches: &'a [Arch],
    /// Sorted by name.
    pub rows: &'a [Row<'a>],
    /// The default profile.
    pub rules: &'a [Rule<'a>],
}

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EAFNOSUPPORT: u32 = 97;
const CLONE_NEWUSER: u64 = 0x1000_0000;
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;

impl Tables<'_> {
    /// The numbers of a system call.
    pub fn numbers(&self, name: &str) -> Option<[u32; 3]> {
        self.rows.binary_search_by_key(&name, |(name, _)| *name).ok().map(|index| self.rows[index].1)
    }

    /// The default profile for a container with these capabilities (as bits), as Docker has it. One difference: arguments that
    /// are ints to the kernel are compared as ints.
    pub fn docker(&self, capabilities: u64) -> Vec<Policy> {
        let mut policies: Vec<Policy> = self.arches.iter().map(|arch| Policy::new(*arch, ERRNO | EPERM)).collect();
        let holds =
            |rule: &&Rule<'_>| (rule.with == 0 || rule.with & capabilities != 0) && rule.without & capabilities == 0;
        for rule in self.rules.iter().filter(holds) {
            for (column, policy) in policies.iter_mut().enumerate() {
                for call in rule.calls {
                    let number = self.rows[usize::from(*call)].1[column];
                    if number != ABSENT {
                        policy.add(number, rule.conditions, rule.action);
                    }
                }
            }
        }
        for policy in &mut policies {
            policy.beyond = ERRNO | ENOSYS;
        }
        policies
    }

    /// The same less what is shut, and with what is open.
    pub fn own(&self, capabilities: u64, open: &Openings) -> Vec<Policy> {
        let mut policies = self.docker(capabilities);
        for (column, policy) in policies.iter_mut().enumerate() {
            let mut with = |names: &[&str], change: &dyn Fn(&mut Verdict)| {
                for name in names {
                    match self.numbers(name) {
                        Some(numbers) if numbers[column] != ABSENT => change(policy.at(numbers[column])),
                        _ => {}
                    }
                }
            };
            let allow = |verdict: &mut Verdict| *verdict = Verdict::always(ALLOW);
            // A pair of sockets of an odd family is two of them.
            with(&["socket", "socketpair"], &|verdict| *verdict = families(open.families));
            if !open.socketcall {
                with(&["socketcall"], &|verdict| *verdict = Verdict::always(ERRNO | ENOSYS));
            }
            if open.io_uring {
                with(&["io_uring_setup", "io_uring_enter", "io_uring_register"], &allow);
            }
            if open.keyring {
                with(&["add_key", "request_key", "keyctl"], &allow);
            }
            if !open.tiocsti {
                let shut = [TIOCSTI, TIOCLINUX].map(|value| clause(1, Op::Eq, value, ERRNO | EPERM));
                with(&["ioctl"], &|verdict| verdict.clauses = shut.to_vec());
            }
            if open.userns {
                with(&["clone", "clone3", "unshare", "setns"], &allow);
                continue;
            }
            // With CAP_SYS_ADMIN they are open, but for user namespaces.
            with(&["clone", "unshare"], &|verdict| shut_userns(verdict, 0));
            with(&["setns"], &|verdict| shut_userns(verdict, 1));
            with(&["clone3"], &|verdict| *verdict = Verdict::always(ERRNO | ENOSYS));
        }
        for policy in policies.iter_mut().filter(|policy| policy.arch.offset > 0 && !open.x32) {
            policy.verdicts.clear();
            (policy.default, policy.beyond) = (ERRNO | ENOSYS, ERRNO | ENOSYS);
        }
        policies
    }

    /// The filter of [`own`](Self::own).
    pub fn filter(&self, capabilities: u64, open: &Openings) -> Option<Vec<Instruction>> {
        bpf::assemble(&self.own(capabilities, open), KILL_PROCESS)
    }
}

fn clause(arg: u8, op: Op, value: u64, action: u32) -> Clause {
    Clause { conditions: vec![Condition { arg, op, value, low: true }], action }
}

/// These families and no other. A program that tries another one is told what a kernel without it would tell.
fn families(open: u64) -> Verdict {
    if open == u64::MAX {
        return Verdict::always(ALLOW);
    }
    let open = (0..64).filter(|family| open & 1 << family != 0);
    let clauses = open.map(|family| clause(0, Op::Eq, family, ALLOW)).collect();
    Verdict { clauses, last: Some(ERRNO | EAFNOSUPPORT) }
}

fn shut_userns(verdict: &mut Verdict, arg: u8) {
    if *verdict == Verdict::always(ALLOW) {
        verdict.clauses = vec![clause(arg, Op::MaskedEq(CLONE_NEWUSER), CLONE_NEWUSER, ERRNO | EPERM)];
    }
}

/// Whether the kernel takes an argument for an int (or an unsigned one) and never sees its upper half. `clone` is declared
/// with a long, and takes the lower half of it.
pub fn is_int(call: &str, arg: u8) -> bool {
    let ints: &[u8] = match call {
        "socket" | "socketpair" | "setsockopt" | "getsockopt" | "reboot" | "tgkill" => &[0, 1, 2],
        "ioctl" | "fcntl" | "fcntl64" | "setns" | "seccomp" | "kill" | "tkill" | "ipc" | "prlimit64" => &[0, 1],
        "clone" | "personality" | "prctl" | "arch_prctl" | "keyctl" | "bpf" | "quotactl" | "syslog" | "socketcall" => {
            &[0]
        }
        "open" | "memfd_create" => &[1],
        "openat" => &[0, 2],
        "madvise" => &[2],
        "accept4" => &[0, 3],
        _ => &[],
    };
    ints.contains(&arg)
}
