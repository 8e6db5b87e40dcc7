//! What the options say by themselves, without a look at the image.

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;

use anyhow::{Result, bail};
use caps::CapsHashSet;

use crate::cli::RunArgs;
use crate::error::refused;
use crate::net::Mode;
use crate::net::wish::Wish;
use crate::options;
use crate::sandbox::credentials::Limit;
use crate::sandbox::mounts::Mount;
use crate::sandbox::openings::Openings;
use crate::sandbox::{namespaces, userns};
use crate::security::SecurityOptions;
use crate::state::{self, Record};

/// What the options say by themselves, without a look at the image.
pub struct Options {
    pub mode: Mode,
    pub publish: Vec<Wish>,
    pub id: String,
    pub name: String,
    pub hostname: String,
    pub mounts: Vec<Mount>,
    pub openings: Openings,
    pub limits: Vec<Limit>,
    pub capabilities: CapsHashSet,
    pub security: SecurityOptions,
    pub sysctls: Vec<(String, String)>,
    pub hosts: Vec<(String, Option<IpAddr>)>,
    pub env: Vec<OsString>,
}

impl Options {
    pub fn of(args: &RunArgs, again: Option<&Record>) -> Result<Self> {
        let mode = args.network.mode()?;
        refuse_what_cannot_be(args, &mode)?;
        let id = again.map_or_else(state::new_id, |again| Ok(again.id.clone()))?;
        // It may have been renamed.
        let name = again.map(|again| &again.name).or(args.name.as_ref()).unwrap_or(&id).clone();
        if !state::valid_name(&name) {
            return Err(refused(
                format!("use name `{name}`: it is not a plain name"),
                "letters, digits, `_`, `.` and `-`, at most 63, the first one a letter or digit",
            ));
        }
        let hostname = match &args.hostname {
            Some(hostname) => options::hostname(hostname)?,
            None if mode.joins() && !matches!(mode, Mode::Namespace(_)) => {
                nix::unistd::gethostname()?.to_string_lossy().into_owned()
            }
            None => name.clone(),
        };
        let host_network = mode.joins();
        Ok(Self {
            mode,
            publish: args.network.wishes(&[])?,
            id,
            name,
            hostname,
            mounts: mounts(args)?,
            openings: Openings::of(&args.openings)?,
            limits: args.ulimit.iter().map(|text| options::ulimit(text)).collect::<Result<_>>()?,
            capabilities: args.openings.capabilities(&args.cap_add, &args.cap_drop)?,
            security: SecurityOptions::parse(&args.security_opt)?.or_privileged(args.openings.privileged),
            sysctls: args.sysctl.iter().map(|text| options::sysctl(text, host_network)).collect::<Result<_>>()?,
            hosts: args.network.add_host.iter().map(|text| options::add_host(text)).collect::<Result<_>>()?,
            env: options::environment(&args.env_file, &args.env)?,
        })
    }
}

/// What cannot take effect is an error, not silence.
pub fn refuse_what_cannot_be(args: &RunArgs, mode: &Mode) -> Result<()> {
    let all = args.network.publish_all.then(|| "-P".to_owned());
    let asked = args.network.publish.first().cloned().or(all);
    if let (Some(port), false) = (asked, matches!(mode, Mode::Networks(_))) {
        let (why, remedy) = match mode {
            Mode::Host => ("the container has the host's ports already", "leave out -p, or --net=host"),
            Mode::None => ("--net=none has no network to publish from", "leave out -p, or --net=none"),
            _ => ("the network is another's", "publish it where that network is made"),
        };
        return Err(refused(format!("publish port `{port}`: {why}"), remedy));
    }
    if let Some(word) = args.words.first()
        && word.as_bytes().first() == Some(&b'-')
    {
        let message = format!("parse command line: unknown option `{}`", word.to_string_lossy());
        return Err(refused(message, "options of minirun come before the image; see `minirun run --help`"));
    }
    args.capture.check(mode)?;
    userns::check(&args.openings, mode, &args.cap_add)?;
    namespaces::check(&args.openings, args.hostname.as_deref(), args.init, &args.sysctl)?;
    if mode.joins()
        && let Some(key) = args.sysctl.iter().find(|key| key.starts_with("net"))
    {
        bail!("set `{key}`: with --net={mode} it would be another's setting");
    }
    if let Some(path) = args.cidfile.as_ref().filter(|path| path.exists()) {
        let message = format!("write `{}`: it is there already", path.display());
        return Err(refused(message, "another container may be using it; remove it"));
    }
    if args.tty && args.interactive && !args.detach && !args.spec && !rustix::termios::isatty(std::io::stdin()) {
        return Err(refused("make a terminal: standard input is not one", "leave out -t"));
    }
    Ok(())
}

fn mounts(args: &RunArgs) -> Result<Vec<Mount>> {
    let volumes = args.volume.iter().map(|text| options::volume(text));
    let tmpfs = args.tmpfs.iter().map(|text| options::tmpfs(text));
    let mut mounts = volumes.chain(tmpfs).collect::<Result<Vec<_>>>()?;
    // An outer one that came later would cover an inner one.
    mounts.sort_by_key(|mount| mount.target().components().count());
    if let Some(twice) = mounts.windows(2).find(|pair| pair[0].target() == pair[1].target()) {
        bail!("mount on `{}`: asked for twice", twice[0].target().display());
    }
    Ok(mounts)
}
