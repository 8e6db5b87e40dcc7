//! `process` of a bundle: the program and its circumstances. Pure, but for a look at minirun's own capabilities.

use std::ffi::CString;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use caps::{CapSet, CapsHashSet};
use oci_spec::runtime::{PosixRlimit, User};
use serde_json::Value;

use super::{list, part, place};
use crate::options;
use crate::plan::Process;
use crate::sandbox::credentials::{self, Sets};
use crate::sandbox::user;

/// The program, without its filter; its limits as `--ulimit` takes them; its umask.
pub fn decide(config: &Value) -> Result<(Process, Vec<String>, Option<u32>)> {
    let spec: User = part(config, "process.user")?.unwrap_or_default();
    for (name, id) in [("uid", spec.uid()), ("gid", spec.gid())] {
        if id == u32::MAX {
            bail!("refuse bundle: process.user.{name}: {id} is not an id");
        }
    }
    let groups = spec.additional_gids().clone().unwrap_or_default();
    if groups.contains(&u32::MAX) || groups.len() > 65_536 {
        bail!("refuse bundle: process.user.additionalGids: at most 65536 ids are wanted");
    }
    if let Some(umask) = spec.umask().filter(|umask| *umask > 0o777) {
        bail!("refuse bundle: process.user.umask: {umask:#o} is above 0777");
    }
    let (bounding, sets) = capabilities(config)?;
    let ulimits = ulimits(config)?;
    let process = Process {
        argv: argv(config)?,
        env: environment(config)?,
        workdir: workdir(config)?,
        user: user::User { uid: spec.uid(), gid: spec.gid(), groups, home: "/".into() },
        capabilities: bounding,
        sets: Some(sets),
        filter: None,
        no_new_privileges: part(config, "process.noNewPrivileges")?.unwrap_or(false),
        limits: ulimits.iter().map(|text| options::ulimit(text)).collect::<Result<_>>()?,
        terminal: part(config, "process.terminal")?.unwrap_or(false),
        interactive: false,
        init: false,
    };
    Ok((process, ulimits, spec.umask()))
}

fn texts(config: &Value, name: &str) -> Result<Vec<CString>> {
    let text = |(index, word): (usize, String)| {
        CString::new(word).map_err(|_| anyhow::anyhow!("refuse bundle: {name}[{index}]: it has a zero byte"))
    };
    list::<String>(config, name)?.into_iter().enumerate().map(text).collect()
}

fn argv(config: &Value) -> Result<Vec<CString>> {
    let argv = texts(config, "process.args")?;
    if argv.first().is_none_or(|program| program.is_empty()) {
        bail!("refuse bundle: process.args: no program is named");
    }
    Ok(argv)
}

fn environment(config: &Value) -> Result<Vec<CString>> {
    let env = texts(config, "process.env")?;
    let bad = env.iter().position(|entry| {
        let mut parts = entry.to_bytes().splitn(2, |byte| *byte == b'=');
        parts.next().is_none_or(<[u8]>::is_empty) || parts.next().is_none()
    });
    match bad {
        Some(index) => bail!("refuse bundle: process.env[{index}]: NAME=VALUE is wanted"),
        None => Ok(env),
    }
}

fn workdir(config: &Value) -> Result<PathBuf> {
    let cwd: PathBuf = part(config, "process.cwd")?.context("refuse bundle: process.cwd: it is missing")?;
    place(&cwd).context("refuse bundle: process.cwd")
}

fn ulimits(config: &Value) -> Result<Vec<String>> {
    let limits: Vec<PosixRlimit> = list(config, "process.rlimits")?;
    let mut texts: Vec<String> = Vec::new();
    for (index, limit) in limits.iter().enumerate() {
        let kind = limit.typ().to_string();
        let name = kind.trim_start_matches("RLIMIT_").to_ascii_lowercase();
        if texts.iter().any(|other| other.split('=').next() == Some(name.as_str())) {
            bail!("refuse bundle: process.rlimits[{index}]: {kind} is asked for twice");
        }
        let text = format!("{name}={}:{}", limit.soft(), limit.hard());
        options::ulimit(&text).with_context(|| format!("refuse bundle: process.rlimits[{index}]"))?;
        texts.push(text);
    }
    Ok(texts)
}

/// The bounding set and the others. What the kernel would refuse is refused here.
fn capabilities(config: &Value) -> Result<(CapsHashSet, Sets)> {
    let set = |name: &str| -> Result<CapsHashSet> {
        let path = format!("process.capabilities.{name}");
        let one = |name: &String| match name.starts_with("CAP_") {
            true => credentials::parse(name),
            false => bail!("`{name}` is not the name of a capability"),
        };
        let names: Vec<String> = list(config, &path)?;
        names.iter().map(one).collect::<Result<_>>().with_context(|| format!("refuse bundle: {path}"))
    };
    let bounding = set("bounding")?;
    let (effective, permitted) = (set("effective")?, set("permitted")?);
    let (inheritable, ambient) = (set("inheritable")?, set("ambient")?);
    let own = caps::read(None, CapSet::Permitted).context("read own capabilities")?;
    for (name, part, of, whole) in [
        ("bounding", &bounding, "minirun's own", &own),
        ("permitted", &permitted, "minirun's own", &own),
        ("inheritable", &inheritable, "the bounding ones", &bounding),
        ("effective", &effective, "the permitted ones", &permitted),
        ("ambient", &ambient, "the permitted ones", &permitted),
        ("ambient", &ambient, "the inheritable ones", &inheritable),
    ] {
        let mut missing: Vec<String> = part.difference(whole).map(ToString::to_string).collect();
        missing.sort();
        if let Some(missing) = missing.first() {
            bail!("refuse bundle: process.capabilities.{name}: {missing} is not among {of}");
        }
    }
    Ok((bounding, Sets { effective, permitted, inheritable, ambient }))
}
