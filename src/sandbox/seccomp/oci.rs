//! A profile in the form of Docker's, or of `linux.seccomp` of the OCI runtime specification, becomes a filter.
//!
//! Called by [`Choice::filter`](super::Choice::filter) for `--security-opt seccomp=FILE`. Rules mean what they mean to runc:
//! names that are not known are passed over, rules with the default action too, and numbers above all that are named are
//! answered with ENOSYS where the default is to refuse.

use std::borrow::Cow;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;

use super::bpf::{LONGEST, assemble};
use super::policy::{ALLOW, Arch, Condition, ERRNO, KILL_PROCESS, Op, Policy};
use super::profile::{ABSENT, is_int};
use super::{Filter, LOG, SPEC_ALLOW, TABLES};
use crate::error::refused;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Option<Vec<String>>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Argument>>,
    includes: Option<Limits>,
    excludes: Option<Limits>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    value_two: Option<u64>,
    op: String,
}

/// For which containers a rule is (Docker's).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Limits {
    arches: Option<Vec<String>>,
    caps: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// The filter of a profile, for a container with these capabilities (as bits).
pub fn compile(text: &[u8], capabilities: u64) -> Result<Filter> {
    let profile: Profile = serde_json::from_slice(text).map_err(|error| anyhow!("it is no profile: {error}"))?;
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut policies: Vec<Policy> =
        architectures(&profile)?.into_iter().map(|arch| Policy::new(arch, default)).collect();
    let mut named = vec![None; policies.len()];
    // A cheap bound before the work: every test of an argument takes an instruction.
    let mut tests = 0;
    for rule in profile.syscalls.iter().flatten() {
        let names: Vec<&str> = match (&rule.name, &rule.names) {
            (Some(name), None) => vec![name],
            (Some(name), Some(names)) if names.is_empty() => vec![name],
            (None, Some(names)) => names.iter().map(String::as_str).collect(),
            (None, None) => bail!("a rule names no system call"),
            _ => bail!("a rule has both `name` and `names`"),
        };
        let failed = || format!("rule for `{}`", names.first().copied().unwrap_or_default());
        let action = action(&rule.action, rule.errno_ret).with_context(failed)?;
        if !applies(rule, capabilities).with_context(failed)? {
            continue;
        }
        let clauses = clauses(rule.args.as_deref().unwrap_or_default()).with_context(failed)?;
        for name in names {
            let Some(numbers) = TABLES.numbers(name) else { continue };
            for (policy, highest) in policies.iter_mut().zip(&mut named) {
                let column = TABLES.arches.iter().position(|arch| *arch == policy.arch);
                let number = column.map_or(ABSENT, |column| numbers[column]);
                if action != default {
                    multiplexed(policy, name, &clauses, action);
                }
                if number == ABSENT {
                    continue;
                }
                *highest = (*highest).max(Some(number));
                // runc leaves them out.
                if action == default {
                    continue;
                }
                for clause in &clauses {
                    let typed = |condition: &Condition| Condition { low: is_int(name, condition.arg), ..*condition };
                    let clause: Vec<Condition> = clause.iter().map(typed).collect();
                    tests += clause.len();
                    policy.add(number, &clause, action);
                }
                if tests > LONGEST * 4 {
                    return Err(too_long());
                }
            }
        }
    }
    // What is newer than a profile is unknown to it, and programs fall back where they are told so.
    if default & 0xffff_0000 == ERRNO || default == KILL_PROCESS || default == 0 {
        for (policy, highest) in policies.iter_mut().zip(named) {
            if let Some(highest) = highest {
                policy.at(highest);
                policy.beyond = ERRNO | ENOSYS;
            }
        }
    }
    let program = assemble(&policies, KILL_PROCESS).ok_or_else(too_long)?;
    Ok(Filter { flags: flags(profile.flags.as_deref())?, program: Cow::Owned(program) })
}

/// The same profile for a container with these capabilities, without what is Docker's own in its form: as `linux.seccomp`.
pub fn resolve(text: &[u8], capabilities: u64) -> Result<serde_json::Value> {
    use serde_json::{Map, Value, json};
    let profile: Profile = serde_json::from_slice(text).map_err(|error| anyhow!("it is no profile: {error}"))?;
    let without_nulls = |value: Value| match value {
        Value::Object(fields) => fields.into_iter().filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>().into(),
        other => other,
    };
    let mut rules = Vec::new();
    for rule in profile.syscalls.iter().flatten() {
        if applies(rule, capabilities)? {
            let names = rule.names.iter().flatten().chain(&rule.name).collect::<Vec<_>>();
            let args: Vec<Value> = (rule.args.iter().flatten())
                .map(|Argument { index, value, value_two, op }| {
                    without_nulls(json!({"index": index, "value": value, "valueTwo": value_two, "op": op}))
                })
                .collect();
            let args = Some(args).filter(|args| !args.is_empty());
            let rule = json!({"names": names, "action": rule.action, "errnoRet": rule.errno_ret, "args": args});
            rules.push(without_nulls(rule));
        }
    }
    let architectures: Vec<&str> = architectures(&profile)?.iter().map(|arch| arch.name).collect();
    Ok(without_nulls(json!({
        "defaultAction": profile.default_action,
        "defaultErrnoRet": profile.default_errno_ret,
        "architectures": architectures,
        "flags": profile.flags,
        "syscalls": rules,
    })))
}

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

fn too_long() -> anyhow::Error {
    refused(format!("its filter would have more than {LONGEST} instructions"), "the kernel takes no longer one")
}

fn action(name: &str, errno: Option<u32>) -> Result<u32> {
    const LARGEST: u32 = 4095;
    let data = errno.unwrap_or(EPERM);
    if data > LARGEST {
        bail!("errnoRet {data} is above {LARGEST}");
    }
    Ok(match name {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_ERRNO" => ERRNO | data,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | data,
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_NOTIFY" => {
            return Err(refused(
                "action `SCMP_ACT_NOTIFY`: minirun has nobody to be notified",
                "use another action, as SCMP_ACT_ERRNO",
            ));
        }
        other => bail!("unknown action `{other}`"),
    })
}

/// This machine's own first, as libseccomp has it: it is always there.
fn architectures(profile: &Profile) -> Result<Vec<Arch>> {
    let own = TABLES.arches.first().context("no architecture")?;
    let wanted: Vec<&str> = match (&profile.architectures, &profile.arch_map) {
        (Some(list), Some(map)) if !list.is_empty() && !map.is_empty() => {
            bail!("it has both `architectures` and `archMap`");
        }
        (Some(list), _) if !list.is_empty() => list.iter().map(String::as_str).collect(),
        (_, map) => {
            let map = map.iter().flatten().find(|entry| entry.architecture == own.name);
            map.and_then(|entry| entry.sub_architectures.as_ref()).into_iter().flatten().map(String::as_str).collect()
        }
    };
    // Architectures of other machines make no difference on this one.
    let is_wanted = |arch: &&Arch| *arch == own || wanted.contains(&arch.name);
    Ok(TABLES.arches.iter().filter(is_wanted).copied().collect())
}

fn applies(rule: &Rule, capabilities: u64) -> Result<bool> {
    let own: &[&str] = if cfg!(target_arch = "x86_64") { &["amd64"] } else { &["arm64"] };
    let has_arch = |arches: &[String]| arches.iter().any(|arch| own.contains(&arch.as_str()));
    // One that minirun does not know, no container has.
    let has = |name: &String| {
        name.parse::<caps::Capability>().is_ok_and(|capability| capabilities & capability.bitmask() != 0)
    };
    let listed = |list: &Option<Vec<String>>| list.clone().filter(|list| !list.is_empty());
    if let Some(excludes) = &rule.excludes {
        let arch = listed(&excludes.arches).is_some_and(|arches| has_arch(&arches));
        let capability = excludes.caps.iter().flatten().any(has);
        if arch || capability || excludes.min_kernel.as_deref().map(kernel_is_at_least).transpose()? == Some(true) {
            return Ok(false);
        }
    }
    let Some(includes) = &rule.includes else { return Ok(true) };
    let arch = listed(&includes.arches).is_none_or(|arches| has_arch(&arches));
    let capability = includes.caps.iter().flatten().all(has);
    let kernel = includes.min_kernel.as_deref().map(kernel_is_at_least).transpose()?;
    Ok(arch && capability && kernel != Some(false))
}

fn kernel_is_at_least(wanted: &str) -> Result<bool> {
    let two = |text: &str| -> Option<(u32, u32)> {
        let (major, rest) = text.split_once('.')?;
        let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let wanted = two(wanted).with_context(|| format!("minKernel `{wanted}` is no version"))?;
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    Ok(two(&release).with_context(|| format!("kernel release `{release}` is no version"))? >= wanted)
}

/// The conditions of a rule, each list of which makes it hold. All must hold; but where an argument is compared more than
/// once, any may, because that is what runc makes of it and what profiles are written for.
fn clauses(args: &[Argument]) -> Result<Vec<Vec<Condition>>> {
    let mut conditions = Vec::new();
    for Argument { index, value, value_two, op } in args {
        if *index > 5 {
            bail!("argument {index} of a system call: they are 0 to 5");
        }
        let mut value = *value;
        let op = match op.as_str() {
            "SCMP_CMP_NE" => Op::Ne,
            "SCMP_CMP_LT" => Op::Lt,
            "SCMP_CMP_LE" => Op::Le,
            "SCMP_CMP_EQ" => Op::Eq,
            "SCMP_CMP_GE" => Op::Ge,
            "SCMP_CMP_GT" => Op::Gt,
            "SCMP_CMP_MASKED_EQ" => {
                let mask = value;
                value = value_two.unwrap_or_default();
                Op::MaskedEq(mask)
            }
            other => bail!("unknown operator `{other}`"),
        };
        conditions.push(Condition { arg: *index, op, value, low: false });
    }
    let seen = conditions.iter().fold(0u8, |seen, condition| seen | 1 << condition.arg);
    let repeated = seen.count_ones() as usize != conditions.len();
    Ok(if repeated { conditions.into_iter().map(|one| vec![one]).collect() } else { vec![conditions] })
}

/// 32-bit x86 has two ways to a socket: its own call, and `socketcall` with the number of the call as first argument. (And so
/// has it for System V's IPC.) A rule is for both, but what lies behind the pointer of the second no filter sees: a rule that
/// refuses by an argument refuses all of it, one that allows by an argument allows nothing here.
fn multiplexed(policy: &mut Policy, name: &str, clauses: &[Vec<Condition>], action: u32) {
    const SOCKETCALL: [&str; 20] = [
        "socket",
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "socketpair",
        "send",
        "recv",
        "sendto",
        "recvfrom",
        "shutdown",
        "setsockopt",
        "getsockopt",
        "sendmsg",
        "recvmsg",
        "accept4",
        "recvmmsg",
        "sendmmsg",
    ];
    const IPC: [(&str, u64); 11] = [
        ("semop", 1),
        ("semget", 2),
        ("semctl", 3),
        ("semtimedop", 4),
        ("msgsnd", 11),
        ("msgrcv", 12),
        ("msgget", 13),
        ("msgctl", 14),
        ("shmat", 21),
        ("shmdt", 22),
        ("shmget", 23),
    ];
    if policy.arch.name != "SCMP_ARCH_X86" {
        return;
    }
    let (call, value) = match SOCKETCALL.iter().position(|known| *known == name) {
        Some(index) => ("socketcall", index as u64 + 1),
        None if name == "shmctl" => ("ipc", 24),
        None => match IPC.iter().find(|(known, _)| *known == name) {
            Some((_, value)) => ("ipc", *value),
            None => return,
        },
    };
    if action == ALLOW && clauses.iter().any(|clause| !clause.is_empty()) {
        return;
    }
    let column = TABLES.arches.iter().position(|arch| *arch == policy.arch);
    if let (Some(numbers), Some(column)) = (TABLES.numbers(call), column) {
        policy.add(numbers[column], &[Condition { arg: 0, op: Op::Eq, value, low: true }], action);
    }
}

fn flags(names: Option<&[String]>) -> Result<u32> {
    // As runc and crun: no list is this flag, an empty list is none.
    let Some(names) = names else { return Ok(SPEC_ALLOW) };
    names.iter().try_fold(0, |flags, name| {
        Ok(flags
            | match name.as_str() {
                "SECCOMP_FILTER_FLAG_LOG" => LOG,
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => SPEC_ALLOW,
                // There is one thread.
                "SECCOMP_FILTER_FLAG_TSYNC" => 0,
                other => bail!("flag `{other}` is not supported"),
            })
    })
}
