//! Makes the tables of `src/sandbox/seccomp/` and the filter that most containers get, from `numbers.txt` and
//! `default.profile`, for the architecture that minirun is built for. The result is Rust, included by `tables.rs` there.

use std::fmt::Write;
use std::path::Path;

use crate::seccomp::openings::Openings;
use crate::seccomp::policy::{ALLOW, Arch, Condition, ERRNO, Op, X32_BIT};
use crate::seccomp::profile::{ABSENT, Row, Rule, Tables, is_int};

const NUMBERS: &str = "src/sandbox/seccomp/numbers.txt";
const PROFILE: &str = "src/sandbox/seccomp/default.profile";
const CREDENTIALS: &str = "src/sandbox/credentials.rs";
/// All that this file is made of, for cargo.
pub const SOURCES: [&str; 8] = [
    NUMBERS,
    PROFILE,
    CREDENTIALS,
    "build/filter.rs",
    "src/sandbox/seccomp/bpf.rs",
    "src/sandbox/seccomp/openings.rs",
    "src/sandbox/seccomp/policy.rs",
    "src/sandbox/seccomp/profile.rs",
];

/// Names and numbers of capabilities (include/uapi/linux/capability.h): those of the profile and the default ones.
const CAPABILITIES: [(&str, u8); 26] = [
    ("CAP_CHOWN", 0),
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_DAC_READ_SEARCH", 2),
    ("CAP_FOWNER", 3),
    ("CAP_FSETID", 4),
    ("CAP_KILL", 5),
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
    ("CAP_SETPCAP", 8),
    ("CAP_NET_BIND_SERVICE", 10),
    ("CAP_SYS_MODULE", 16),
    ("CAP_SYS_RAWIO", 17),
    ("CAP_SYS_CHROOT", 18),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_PACCT", 20),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_SYS_BOOT", 22),
    ("CAP_SYS_NICE", 23),
    ("CAP_SYS_TIME", 25),
    ("CAP_SYS_TTY_CONFIG", 26),
    ("CAP_MKNOD", 27),
    ("CAP_AUDIT_WRITE", 29),
    ("CAP_SETFCAP", 31),
    ("CAP_SYSLOG", 34),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];

const fn arch(name: &'static str, audit: u32, offset: u32, wide: bool) -> Arch {
    Arch { name, audit, offset, wide }
}

/// An architecture with those that its kernel runs besides, and their columns in `numbers.txt`.
fn family(target: &str) -> Result<(Vec<Arch>, Vec<usize>), String> {
    match target {
        "x86_64" => Ok((
            vec![
                arch("SCMP_ARCH_X86_64", 0xc000_003e, 0, true),
                arch("SCMP_ARCH_X86", 0x4000_0003, 0, false),
                arch("SCMP_ARCH_X32", 0xc000_003e, X32_BIT, true),
            ],
            vec![1, 2, 3],
        )),
        "aarch64" => Ok((
            vec![arch("SCMP_ARCH_AARCH64", 0xc000_00b7, 0, true), arch("SCMP_ARCH_ARM", 0x4000_0028, 0, false)],
            vec![4, 5],
        )),
        other => Err(format!("make the system call filter: `{other}` is not in `{NUMBERS}`")),
    }
}

/// Writes `filter.rs` to `out`.
pub fn make(out: &Path) -> Result<(), String> {
    let target = std::env::var("CARGO_CFG_TARGET_ARCH").map_err(|e| format!("CARGO_CFG_TARGET_ARCH: {e}"))?;
    let read = |path: &str| std::fs::read_to_string(path).map_err(|e| format!("read `{path}`: {e}"));
    let (numbers, profile) = (read(NUMBERS)?, read(PROFILE)?);
    let (arches, columns) = family(&target)?;
    let rows = rows(&numbers, &columns)?;
    let parsed = rules(&profile, &target, &rows)?;
    let rules: Vec<Rule<'_>> = parsed.iter().map(Parsed::rule).collect();
    let tables = Tables { arches: &arches, rows: &rows, rules: &rules };
    let capabilities = default_capabilities(&read(CREDENTIALS)?)?;
    let filter = tables.filter(capabilities, &Openings::default()).ok_or("the default filter is too long")?;

    let mut text = String::new();
    let mut put = |name: &str, kind: &str, value: &dyn std::fmt::Debug| {
        // Debug of these types is Rust again, but for borrowed slices.
        writeln!(text, "pub static {name}: {kind} = {value:#?};").map_err(|e| e.to_string())
    };
    put("ARCHES", &format!("[Arch; {}]", arches.len()), &arches)?;
    put("ROWS", &format!("[Row<'static>; {}]", rows.len()), &rows)?;
    put("DEFAULT_CAPABILITIES", "u64", &capabilities)?;
    put("DEFAULT", &format!("[Instruction; {}]", filter.len()), &filter)?;
    let _ = writeln!(text, "pub static RULES: [Rule<'static>; {}] = [", rules.len());
    for Rule { with, without, conditions, action, calls } in &rules {
        let _ = writeln!(
            text,
            "Rule {{ with: {with}, without: {without}, action: {action}, conditions: &{conditions:?}, calls: &{calls:?} }},"
        );
    }
    text.push_str("];\n");
    let path = out.join("filter.rs");
    #[expect(clippy::disallowed_methods, reason = "cargo starts nothing that reads it before this program has ended")]
    std::fs::write(&path, text).map_err(|e| format!("write `{}`: {e}", path.display()))
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn rows<'a>(text: &'a str, columns: &[usize]) -> Result<Vec<Row<'a>>, String> {
    let mut rows = Vec::new();
    for line in lines(text) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut row = [ABSENT; 3];
        for (number, column) in row.iter_mut().zip(columns) {
            match words.get(*column) {
                Some(&"-") => {}
                Some(word) => *number = word.parse().map_err(|e| format!("`{NUMBERS}`: `{line}`: {e}"))?,
                None => return Err(format!("`{NUMBERS}`: `{line}`: too few columns")),
            }
        }
        rows.push((words[0], row));
    }
    if !rows.is_sorted_by(|(one, _), (other, _)| one < other) {
        return Err(format!("`{NUMBERS}` is not sorted by name"));
    }
    Ok(rows)
}

/// A rule that owns its parts.
#[derive(Default)]
struct Parsed {
    with: u64,
    without: u64,
    conditions: Vec<Condition>,
    action: u32,
    calls: Vec<u16>,
}

impl Parsed {
    fn rule(&self) -> Rule<'_> {
        let Self { with, without, conditions, action, calls } = self;
        Rule { with: *with, without: *without, conditions, action: *action, calls }
    }
}

fn rules(text: &str, target: &str, rows: &[Row<'_>]) -> Result<Vec<Parsed>, String> {
    let mut rules = Vec::new();
    // The alternatives of the header that was read last.
    let mut open: Vec<Parsed> = Vec::new();
    for line in lines(text) {
        if !line.starts_with(' ') {
            rules.append(&mut open);
            open = header(line, target).map_err(|e| format!("`{PROFILE}`: `{line}`: {e}"))?;
            continue;
        }
        for name in line.split_whitespace() {
            // Rows are of all architectures. What is in none of them is for others yet.
            let Ok(row) = rows.binary_search_by_key(&name, |(name, _)| *name) else { continue };
            for rule in &mut open {
                rule.calls.push(row as u16);
                for condition in &mut rule.conditions {
                    condition.low = is_int(name, condition.arg);
                }
            }
        }
    }
    rules.append(&mut open);
    Ok(rules)
}

/// `allow on ARCH with CAP without CAP where arg0=1,2`: one rule for each value, none on another architecture.
fn header(line: &str, target: &str) -> Result<Vec<Parsed>, String> {
    let mut words = line.split_whitespace();
    let action = match words.next() {
        Some("allow") => ALLOW,
        Some("enosys") => ERRNO | 38,
        _ => return Err("what action?".to_owned()),
    };
    let (mut with, mut without, mut conditions) = (0, 0, vec![Vec::new()]);
    while let (Some(word), Some(value)) = (words.next(), words.next()) {
        match word {
            "on" if value != target => return Ok(Vec::new()),
            "on" => {}
            "with" => with = capability(value)?,
            "without" => without = capability(value)?,
            "where" => conditions = alternatives(value)?,
            other => return Err(format!("what is `{other}`?")),
        }
    }
    let rule = |conditions| Parsed { with, without, conditions, action, calls: Vec::new() };
    Ok(conditions.into_iter().map(rule).collect())
}

fn alternatives(text: &str) -> Result<Vec<Vec<Condition>>, String> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).map_err(|e| format!("`{text}`: {e}")),
        None => text.parse().map_err(|e| format!("`{text}`: {e}")),
    };
    let rest = text.strip_prefix("arg").ok_or("which argument?")?;
    let (arg, rest) = rest.split_at_checked(1).ok_or("which argument?")?;
    let arg = number(arg)? as u8;
    let (op, values) = if let Some(value) = rest.strip_prefix('<') {
        (Op::Lt, value)
    } else if let Some(values) = rest.strip_prefix('=') {
        (Op::Eq, values)
    } else {
        let (mask, value) = rest.strip_prefix('&').and_then(|rest| rest.split_once('=')).ok_or("which comparison?")?;
        (Op::MaskedEq(number(mask)?), value)
    };
    values.split(',').map(|value| Ok(vec![Condition { arg, op, value: number(value)?, low: false }])).collect()
}

fn capability(name: &str) -> Result<u64, String> {
    let known = CAPABILITIES.iter().find(|(known, _)| *known == name);
    known.map(|(_, number)| 1 << number).ok_or_else(|| format!("what capability is `{name}`?"))
}

/// Read from the source, so that the list stands at one place.
fn default_capabilities(source: &str) -> Result<u64, String> {
    let list = source.split_once("DEFAULT_CAPABILITIES:").and_then(|(_, rest)| rest.split_once("];"));
    let (list, _) = list.ok_or_else(|| format!("`{CREDENTIALS}` has no DEFAULT_CAPABILITIES"))?;
    let names = list.split(|c: char| !c.is_ascii_uppercase() && c != '_').filter(|word| word.starts_with("CAP_"));
    names.map(capability).try_fold(0, |bits, one| Ok(bits | one?))
}
