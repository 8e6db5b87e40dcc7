//! What filters of system calls say, number by number, compared with those that libseccomp makes of the same profiles.
//!
//! libseccomp is a part of a program of this test alone (`seccomp/reference.c`). Filters are run by a small interpreter here.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]
#![allow(clippy::disallowed_methods, reason = "tests run programs and write files")]
#![cfg(target_arch = "x86_64")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use minirun::sandbox::credentials::DEFAULT_CAPABILITIES;
use minirun::sandbox::seccomp::bpf::{Instruction, assemble};
use minirun::sandbox::seccomp::policy::{Condition, KILL_PROCESS, Op, Policy};
use minirun::sandbox::seccomp::profile::{Rule, Tables, is_int};
use minirun::sandbox::seccomp::{Openings, TABLES, oci};
use proptest::prelude::*;

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x5_0001;
const ENOSYS: u32 = 0x5_0026;
const EAFNOSUPPORT: u32 = 0x5_0061;
const NEWUSER: u64 = 0x1000_0000;
const SYS_ADMIN: u64 = 1 << 21;
const HIGH: u64 = 1 << 32;

type Arguments = [u64; 6];

/// What a program says.
fn run(program: &[Instruction], audit: u32, number: u32, arguments: &Arguments) -> u32 {
    let (mut at, mut a) = (0, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let mut jump = |holds: bool| at += usize::from(if holds { jt } else { jf });
        match code {
            0x20 => {
                a = match k {
                    0 => number,
                    4 => audit,
                    16.. => (arguments[(k as usize - 16) / 8] >> (k % 8 * 8)) as u32,
                    _ => panic!("load {k}"),
                }
            }
            0x54 => a &= k,
            0x05 => at += k as usize,
            0x15 => jump(a == k),
            0x25 => jump(a > k),
            0x35 => jump(a >= k),
            0x45 => jump(a & k != 0),
            0x06 => return k,
            _ => panic!("instruction {code:#x}"),
        }
    }
}

fn own_capabilities() -> u64 {
    DEFAULT_CAPABILITIES.iter().fold(0, |bits, capability| bits | capability.bitmask())
}

/// The program that has libseccomp in it; none where there is no libseccomp.
fn reference() -> Option<&'static str> {
    static PROGRAM: OnceLock<Option<String>> = OnceLock::new();
    let make = || {
        let program = format!("{}/seccomp-reference-{}", env!("CARGO_TARGET_TMPDIR"), std::process::id());
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/seccomp/reference.c");
        let done = Command::new("cc").args(["-O1", "-o", &program, source, "-lseccomp"]).output();
        match done {
            Ok(output) if output.status.success() => Some(program),
            other => {
                assert!(std::env::var_os("MINIRUN_MUST_WORK").is_none(), "compile {source}: {other:?}");
                println!("skipped: libseccomp-dev is not installed");
                None
            }
        }
    };
    PROGRAM.get_or_init(make).as_deref()
}

/// libseccomp's filter, and the names that it does not know.
fn libseccomp(program: &str, profile: &str) -> (Vec<Instruction>, BTreeSet<String>) {
    let mut child =
        Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(profile.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let instruction = |bytes: &[u8]| Instruction {
        code: u16::from_ne_bytes([bytes[0], bytes[1]]),
        jt: bytes[2],
        jf: bytes[3],
        k: u32::from_ne_bytes(bytes[4..8].try_into().unwrap()),
    };
    let unknown = String::from_utf8(output.stderr).unwrap().lines().map(str::to_owned).collect();
    (output.stdout.chunks_exact(8).map(instruction).collect(), unknown)
}

fn rule_line(action: u32, name: &str, conditions: &[Condition]) -> String {
    let mut line = format!("rule {action:x} {name}");
    for Condition { arg, op, value, .. } in conditions {
        let (op, mask) = match op {
            Op::Ne => ("ne", 0),
            Op::Lt => ("lt", 0),
            Op::Le => ("le", 0),
            Op::Eq => ("eq", 0),
            Op::Ge => ("ge", 0),
            Op::Gt => ("gt", 0),
            Op::MaskedEq(mask) => ("masked", *mask),
        };
        write!(line, " {arg} {op} {value:x} {mask:x}").unwrap();
    }
    line + "\n"
}

/// Names of the numbers of a column of the tables.
fn names(column: usize) -> impl Fn(u32) -> Vec<&'static str> {
    move |number| TABLES.rows.iter().filter(|(_, row)| row[column] == number).map(|(name, _)| *name).collect()
}

/// The numbers that are tried on an architecture: all that there are, some above, and the edges.
fn numbers(policy: &Policy) -> impl Iterator<Item = u32> + use<> {
    let arm = 0xf_0000..0xf_0010;
    let offset = policy.arch.offset;
    (0..700).chain(arm).chain([0x3fff_ffff]).map(move |number| number | offset)
}

/// Arguments that hit both sides of every condition of the default profile and of what is shut on top.
fn grid(thorough: bool) -> Vec<Arguments> {
    let mut values: Vec<u64> = vec![0, 1, 0x5412, 0x7e02_0000, u64::MAX, HIGH, HIGH | 0x28, HIGH | 0x5412];
    if thorough {
        values.extend(2..70);
        values.extend([0x541c, 0x5411, 0x5413, 0x541b, 0x541d, HIGH | 0x541c]);
        values.extend([7, 8, 9, 0x20000, 0x20008, 0x20009, 0x1ffff, 0x4_0000, 0xffff_ffff, 0xffff_fffe, 0x7fff_ffff]);
        values.extend((0..64).map(|bit| 1 << bit));
        values.extend((0..32).map(|bit| HIGH | 1 << bit));
    }
    let mut grid: Vec<Arguments> = values.iter().map(|value| [*value; 6]).collect();
    grid.extend(values.iter().map(|value| [*value, 0, 0, 0, 0, 0]));
    grid.extend(values.iter().map(|value| [0, *value, 0, 0, 0, 0]));
    grid
}

/// As the kernel sees the arguments of a call.
fn typed(name: &str, arguments: &Arguments) -> Arguments {
    let mut seen = *arguments;
    for (index, value) in seen.iter_mut().enumerate() {
        if is_int(name, index as u8) {
            *value &= 0xffff_ffff;
        }
    }
    seen
}

/// Calls `compare(policy, name of the number if it has one, number, arguments)` for everything that is to be looked at.
fn everywhere(policies: &[Policy], mut compare: impl FnMut(&Policy, &str, u32, &Arguments)) {
    const WITH_ARGUMENTS: [&str; 9] =
        ["socket", "socketpair", "socketcall", "ioctl", "clone", "clone3", "unshare", "setns", "personality"];
    let (thorough, rough) = (grid(true), grid(false));
    for (column, policy) in policies.iter().enumerate() {
        let name_of = names(column);
        for number in numbers(policy) {
            let named = name_of(number & !policy.arch.offset);
            let name = named.first().copied().unwrap_or_default();
            let grid = if WITH_ARGUMENTS.contains(&name) { &thorough } else { &rough };
            grid.iter().for_each(|arguments| compare(policy, name, number, arguments));
        }
    }
}

const CAPABILITY_SETS: [fn() -> u64; 5] =
    [own_capabilities, || 0, || u64::MAX, || own_capabilities() | SYS_ADMIN, || 1 << 19 | 1 << 34 | 1 << 39];

#[test]
fn the_profile_is_dockers_as_libseccomp_understands_it() {
    let Some(program) = reference() else { return };
    for capabilities in CAPABILITY_SETS.map(|set| set()) {
        let holds =
            |rule: &&Rule<'_>| (rule.with == 0 || rule.with & capabilities != 0) && rule.without & capabilities == 0;
        let mut profile = format!("default {EPERM:x}\narch x86\narch x32\n");
        for rule in TABLES.rules.iter().filter(holds) {
            for call in rule.calls {
                profile += &rule_line(rule.action, TABLES.rows[usize::from(*call)].0, rule.conditions);
            }
        }
        let (theirs, unknown) = libseccomp(program, &profile);
        assert!(unknown.len() < 60, "{unknown:?}");
        // What this libseccomp is too old for is left out of both.
        let known = |call: &u16| !unknown.contains(TABLES.rows[usize::from(*call)].0);
        let calls: Vec<Vec<u16>> =
            TABLES.rules.iter().map(|rule| rule.calls.iter().copied().filter(known).collect()).collect();
        let rules: Vec<Rule<'_>> =
            TABLES.rules.iter().zip(&calls).map(|(rule, calls)| Rule { calls, ..*rule }).collect();
        let policies = Tables { rules: &rules, ..TABLES }.docker(capabilities);
        let ours = assemble(&policies, KILL_PROCESS).unwrap();
        println!("{} instructions, libseccomp has {}", ours.len(), theirs.len());
        everywhere(&policies, |policy, name, number, arguments| {
            let last = policy.verdicts.last().unwrap().0 | policy.arch.offset;
            let mut expected = run(&theirs, policy.arch.audit, number, &typed(name, arguments));
            if number > last {
                assert_eq!(expected, EPERM);
                expected = ENOSYS;
            }
            let said = run(&ours, policy.arch.audit, number, arguments);
            assert_eq!(said, expected, "{} {name} {number:#x} {arguments:x?}", policy.arch.name);
        });
        assert_eq!(run(&ours, 0x4000_0028, 0, &[0; 6]), KILL_PROCESS);
        assert_eq!(run(&theirs, 0x4000_0028, 0, &[0; 6]), 0, "libseccomp kills the thread");
    }
}

#[test]
fn what_libseccomp_may_not_know_yet_is_by_number() {
    let policies = TABLES.docker(own_capabilities());
    let ours = assemble(&policies, KILL_PROCESS).unwrap();
    // Linux 5.18 to 6.13, the same on all architectures but for map_shadow_stack, which is not there on all.
    let new = [451, 452, 453, 454, 455, 456, 457, 458, 462, 463, 464, 465, 466];
    for number in 450..=466 {
        let expected = if new.contains(&number) { ALLOW } else { EPERM };
        assert_eq!(run(&ours, 0xc000_003e, number, &[0; 6]), expected, "{number}");
    }
    assert_eq!(run(&ours, 0xc000_003e, 467, &[0; 6]), ENOSYS);
    assert_eq!(run(&ours, 0xc000_003e, 335, &[0; 6]), ALLOW, "uretprobe");
}

#[test]
fn what_is_shut_on_top_is_this_and_nothing_else() {
    for capabilities in CAPABILITY_SETS.map(|set| set()) {
        let docker = TABLES.docker(capabilities);
        let pure = assemble(&docker, KILL_PROCESS).unwrap();
        let strict = TABLES.filter(capabilities, &Openings::default()).unwrap();
        everywhere(&docker, |policy, name, number, arguments| {
            let theirs = run(&pure, policy.arch.audit, number, arguments);
            let low = |index: usize| arguments[index] & 0xffff_ffff;
            let expected = match name {
                _ if policy.arch.offset > 0 => ENOSYS,
                "socket" | "socketpair" if [1, 2, 10, 16, 17].contains(&low(0)) => ALLOW,
                "socket" | "socketpair" => EAFNOSUPPORT,
                "socketcall" | "clone3" => ENOSYS,
                "ioctl" if [0x5412, 0x541c].contains(&low(1)) => EPERM,
                "clone" | "unshare" if low(0) & NEWUSER != 0 => EPERM,
                "setns" if low(1) & NEWUSER != 0 => EPERM,
                _ => theirs,
            };
            let said = run(&strict, policy.arch.audit, number, arguments);
            assert_eq!(said, expected, "{} {name} {number:#x} {arguments:x?}", policy.arch.name);
        });
    }
}

#[test]
fn each_opening_opens_what_its_name_says_and_nothing_else() {
    let openings: [(&str, &[&str]); 8] = [
        ("io_uring", &["io_uring_setup", "io_uring_enter", "io_uring_register"]),
        ("userns", &["clone", "clone3", "unshare", "setns"]),
        ("keyring", &["add_key", "request_key", "keyctl"]),
        ("tiocsti", &["ioctl"]),
        ("sockets", &["socket", "socketpair", "socketcall"]),
        ("socketcall", &["socketcall"]),
        ("vsock", &[]),
        ("alg", &[]),
    ];
    let shut = TABLES.filter(own_capabilities(), &Openings::default()).unwrap();
    for (opening, calls) in openings {
        let mut open = Openings::default();
        assert!(open.open(opening));
        let policies = TABLES.own(own_capabilities(), &open);
        let program = assemble(&policies, KILL_PROCESS).unwrap();
        everywhere(&policies, |policy, name, number, arguments| {
            let mut expected = run(&shut, policy.arch.audit, number, arguments);
            let family = (arguments[0] & 0xffff_ffff) as u32;
            let opened = name.starts_with("socket")
                && name != "socketcall"
                && matches!((opening, family), ("vsock", 40) | ("alg", 38));
            if policy.arch.offset == 0 && (opened || calls.contains(&name)) {
                expected = ALLOW;
            }
            let said = run(&program, policy.arch.audit, number, arguments);
            assert_eq!(said, expected, "{opening}: {} {name} {number:#x} {arguments:x?}", policy.arch.name);
        });
    }
    // x32 is as x86_64 then, in its own numbers.
    let mut open = Openings::default();
    open.open("x32");
    let program = TABLES.filter(own_capabilities(), &open).unwrap();
    assert_eq!(run(&program, 0xc000_003e, 0x4000_0000 | 514, &[0, 0x5401, 0, 0, 0, 0]), ALLOW);
    assert_eq!(run(&program, 0xc000_003e, 0x4000_0000 | 514, &[0, 0x5412, 0, 0, 0, 0]), EPERM);
    assert_eq!(run(&program, 0xc000_003e, 0x4000_0000 | 41, &[40, 0, 0, 0, 0, 0]), EAFNOSUPPORT);
    assert_eq!(run(&program, 0xc000_003e, 0x4000_0000 | 41, &[2, 0, 0, 0, 0, 0]), ALLOW);
}

/// A profile as JSON and as lines for libseccomp: every operator and action, 64-bit values, several arguments.
fn odd_profile() -> (String, String) {
    let calls = ["read", "write", "lseek", "mmap", "munmap", "mprotect", "mremap", "pread64", "pwrite64"];
    let values = [0, 5, 0xffff_ffff, HIGH, HIGH | 5, 0x1234_5678_9abc_def0, u64::MAX];
    let operators = [
        ("NE", Op::Ne),
        ("LT", Op::Lt),
        ("LE", Op::Le),
        ("EQ", Op::Eq),
        ("GE", Op::Ge),
        ("GT", Op::Gt),
        ("MASKED_EQ", Op::MaskedEq(0)),
    ];
    let actions =
        [("ALLOW", ALLOW), ("LOG", 0x7ffc_0000), ("TRAP", 0x3_0000), ("KILL_PROCESS", KILL_PROCESS), ("KILL", 0)];
    let (mut rules, mut lines) = (Vec::new(), format!("default {:x}\narch x86\n", EPERM));
    let mut count = 0;
    for call in calls {
        // One action a call: libseccomp does not keep the order of conditions that overlap.
        let (action, code) = actions[count % actions.len()];
        for second in [false, true] {
            count += 1;
            let (name, op) = operators[count % operators.len()];
            let value = values[count % values.len()];
            let mask = if name == "MASKED_EQ" { value | 0xff } else { value };
            let op = if name == "MASKED_EQ" { Op::MaskedEq(mask) } else { op };
            let mut conditions = vec![Condition { arg: 0, op, value, low: false }];
            let mut args = format!(r#"{{"index":0,"value":{mask},"valueTwo":{value},"op":"SCMP_CMP_{name}"}}"#);
            if second {
                conditions.push(Condition { arg: 2, op: Op::Gt, value: HIGH, low: false });
                args += &format!(r#",{{"index":2,"value":{HIGH},"op":"SCMP_CMP_GT"}}"#);
            }
            rules
                .push(format!(r#"{{"names":["{call}","no_such_call"],"action":"SCMP_ACT_{action}","args":[{args}]}}"#));
            lines += &rule_line(code, call, &conditions);
        }
    }
    rules.push(r#"{"name":"getpid","action":"SCMP_ACT_ERRNO","errnoRet":95}"#.to_owned());
    lines += "rule 5005f getpid\n";
    rules.push(
        r#"{"name":"getppid","action":"SCMP_ACT_TRACE","errnoRet":7,"args":null,"includes":{},"excludes":{}}"#
            .to_owned(),
    );
    lines += "rule 7ff00007 getppid\n";
    let json = format!(
        r#"{{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"],"syscalls":[{}]}}"#,
        rules.join(",")
    );
    (json, lines)
}

#[test]
fn a_profile_of_every_operator_is_as_libseccomp_understands_it() {
    let Some(program) = reference() else { return };
    let (json, lines) = odd_profile();
    let (theirs, unknown) = libseccomp(program, &lines);
    assert!(unknown.is_empty(), "{unknown:?}");
    let ours = oci::compile(json.as_bytes(), 0).unwrap();
    let mut values = Vec::new();
    for value in [0, 5, 0xff, 0xffff_ffff, HIGH, HIGH | 5, 0x1234_5678_9abc_def0, u64::MAX, 1 << 63] {
        values.extend([value, value.wrapping_add(1), value.wrapping_sub(1), value ^ HIGH, value & 0xffff_ffff]);
    }
    // All the profile's calls are below this one on x86_64.
    for number in 0..=TABLES.numbers("getppid").unwrap()[0] {
        for (one, other) in values.iter().flat_map(|one| values.iter().map(move |other| (*one, *other))) {
            let arguments = [one, 0, other, 0, 0, 0];
            let expected = run(&theirs, 0xc000_003e, number, &arguments);
            let said = run(ours.program(), 0xc000_003e, number, &arguments);
            assert_eq!(said, expected, "{:?} {number} {arguments:x?}", names(0)(number));
        }
    }
}

// 32-bit x86 reaches the same calls by `socketcall` and `ipc`.
#[test]
fn calls_behind_another_are_refused_and_allowed_as_by_libseccomp() {
    let Some(program) = reference() else { return };
    let names = ["socket", "connect", "sendmmsg", "semop", "shmget", "shmctl", "getpid", "tkill"];
    for (default, action) in [(ALLOW, EPERM), (EPERM, ALLOW)] {
        let mut lines = format!("default {default:x}\narch x86\n");
        names.iter().for_each(|name| lines += &rule_line(action, name, &[]));
        let (theirs, unknown) = libseccomp(program, &lines);
        assert!(unknown.is_empty(), "{unknown:?}");
        let word = |action| if action == ALLOW { "SCMP_ACT_ALLOW" } else { "SCMP_ACT_ERRNO" };
        let json = format!(
            r#"{{"defaultAction":"{}","architectures":["SCMP_ARCH_X86"],"syscalls":[{{"names":{names:?},"action":"{}"}}]}}"#,
            word(default),
            word(action)
        );
        let ours = oci::compile(json.as_bytes(), 0).unwrap();
        for (audit, last) in [(0xc000_003e, 307), (0x4000_0003, 396)] {
            for (number, first) in (0..=last).flat_map(|number| (0..40).map(move |first| (number, first))) {
                let arguments = [first, 0, 0, 0, 0, 0];
                let said = run(ours.program(), audit, number, &arguments);
                assert_eq!(said, run(&theirs, audit, number, &arguments), "{audit:x} {number} {first}");
            }
        }
    }
}

fn conditions() -> impl Strategy<Value = Condition> {
    let value = prop_oneof![Just(0), 0..4u64, Just(HIGH), Just(HIGH | 1), Just(u64::MAX), any::<u64>()];
    let op = prop_oneof![
        Just(Op::Ne),
        Just(Op::Lt),
        Just(Op::Le),
        Just(Op::Eq),
        Just(Op::Ge),
        Just(Op::Gt),
        any::<u64>().prop_map(Op::MaskedEq),
    ];
    (0..3u8, op, value, any::<bool>()).prop_map(|(arg, op, value, low)| Condition { arg, op, value, low })
}

/// What a condition means, said straight.
fn holds(condition: &Condition, arguments: &Arguments) -> bool {
    let Condition { arg, op, value, low } = *condition;
    let seen = arguments[usize::from(arg)] & if low { 0xffff_ffff } else { u64::MAX };
    // Equality with an int is with the value as an int.
    let equal = if low { value & 0xffff_ffff } else { value };
    match op {
        Op::Ne => seen != equal,
        Op::Lt => seen < value,
        Op::Le => seen <= value,
        Op::Eq => seen == equal,
        Op::Ge => seen >= value,
        Op::Gt => seen > value,
        Op::MaskedEq(mask) => seen & mask & if low { 0xffff_ffff } else { u64::MAX } == equal,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    // Long programs too, whose jumps do not reach their targets at once.
    #[test]
    fn programs_say_what_the_policy_says(
        rules in prop::collection::vec(
            (0..300u32, prop::collection::vec(conditions(), 0..3), prop_oneof![Just(ALLOW), Just(EPERM), 0x5_0002..0x5_0010u32]),
            0..250,
        ),
        tries in prop::collection::vec(prop_oneof![0..4u64, Just(HIGH), Just(HIGH | 1), Just(u64::MAX), any::<u64>()], 3..9),
    ) {
        let mut policy = Policy::new(TABLES.arches[0], EPERM);
        rules.iter().for_each(|(number, conditions, action)| policy.add(*number, conditions, *action));
        policy.beyond = ENOSYS;
        let Some(program) = assemble(std::slice::from_ref(&policy), KILL_PROCESS) else { return Ok(()) };
        for number in 0..310 {
            for tried in tries.windows(3) {
                let arguments = [tried[0], tried[1], tried[2], 0, 0, 0];
                let of_number = || rules.iter().filter(|(of, ..)| *of == number);
                let always = of_number().find(|(_, conditions, _)| conditions.is_empty());
                let first = of_number().find(|(_, conditions, _)| conditions.iter().all(|one| holds(one, &arguments)));
                let beyond = rules.iter().all(|(of, ..)| *of < number);
                let expected = always.or(first).map_or(if beyond { ENOSYS } else { EPERM }, |(.., action)| *action);
                prop_assert_eq!(run(&program, 0xc000_003e, number, &arguments), expected, "{} {:x?}", number, arguments);
            }
        }
    }
}

#[test]
fn numbers_are_libseccomps() {
    let Some(program) = reference() else { return };
    let mut profile = format!("default {EPERM:x}\narch x86\narch x32\n");
    TABLES.rows.iter().for_each(|(name, _)| profile += &rule_line(ALLOW, name, &[]));
    let (theirs, unknown) = libseccomp(program, &profile);
    let calls: Vec<u16> =
        (0..TABLES.rows.len() as u16).filter(|call| !unknown.contains(TABLES.rows[usize::from(*call)].0)).collect();
    let rules = [Rule { with: 0, without: 0, conditions: &[], action: ALLOW, calls: &calls }];
    let mut policies = Tables { rules: &rules, ..TABLES }.docker(0);
    policies.iter_mut().for_each(|policy| policy.beyond = EPERM);
    let ours = assemble(&policies, KILL_PROCESS).unwrap();
    for policy in &policies {
        for number in numbers(policy) {
            let said = run(&ours, policy.arch.audit, number, &[0; 6]);
            assert_eq!(said, run(&theirs, policy.arch.audit, number, &[0; 6]), "{} {number}", policy.arch.name);
        }
    }
}

#[test]
fn hostile_profiles_are_errors() {
    let error = |text: &str| format!("{:#}", oci::compile(text.as_bytes(), 0).map(|_| ()).unwrap_err());
    let rule = |rule: &str| format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#);
    for (text, part) in [
        (String::new(), "it is no profile"),
        ("{}".to_owned(), "defaultAction"),
        ("[".repeat(100_000), "it is no profile"),
        (format!(r#"{{"x":{}"#, "[".repeat(100_000)), "it is no profile"),
        (r#"{"defaultAction":"SCMP_ACT_X"}"#.to_owned(), "unknown action `SCMP_ACT_X`"),
        (rule(r#"{"names":["read"],"action":"SCMP_ACT_NOTIFY"}"#), "SCMP_ACT_NOTIFY"),
        (rule(r#"{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":4096}"#), "errnoRet 4096"),
        (rule(r#"{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":-1}"#), "it is no profile"),
        (rule(r#"{"action":"SCMP_ACT_ERRNO"}"#), "names no system call"),
        (rule(r#"{"names":["a"],"name":"b","action":"SCMP_ACT_ERRNO"}"#), "both"),
        (
            rule(r#"{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":6,"value":1,"op":"SCMP_CMP_EQ"}]}"#),
            "argument 6",
        ),
        (
            rule(r#"{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":1,"op":"X"}]}"#),
            "operator `X`",
        ),
        (r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["X"]}"#.to_owned(), "flag `X`"),
    ] {
        let said = error(&text);
        assert!(said.contains(part), "{part}: {said}");
    }
    // Every value another test: above what the kernel takes, however many there are.
    for count in [2500, 100_000] {
        let rules: Vec<String> = (0..count)
            .map(|value| {
                format!(r#"{{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{{"index":0,"value":{value},"op":"SCMP_CMP_EQ"}}]}}"#)
            })
            .collect();
        assert!(error(&rule(&rules.join(","))).contains("more than 4096 instructions"));
    }
    let same = vec![r#"{"names":["read"],"action":"SCMP_ACT_ERRNO"}"#; 100_000].join(",");
    assert!(oci::compile(rule(&same).as_bytes(), 0).unwrap().program().len() < 20);
}
