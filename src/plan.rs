//! What it means: everything about a container, decided and validated before the first side effect.
//!
//! [`Plan::from_run`] is the only way from the command line to a launch. What it takes that others could see (an address)
//! is a lock that the kernel gives back. After it no error of the user's is possible any more.

use std::ffi::{CString, OsStr, OsString};
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use caps::CapsHashSet;
use rustix::fs::{CWD, Mode as FileMode, OFlags, openat};
use signal_hook::consts::SIGTERM;

use crate::bundle;
use crate::cli::RunArgs;
use crate::error::{refused, warn};
use crate::image::{Image, Store};
use crate::log;
use crate::net::dns;
use crate::net::names::{Resolvers, hosts};
use crate::net::publish::Wish;
use crate::net::{Mode, Network, Request};
use crate::options;
use crate::sandbox::cgroup;
use crate::sandbox::credentials::{Limit, Sets};
use crate::sandbox::layout::Layout;
use crate::sandbox::mounts::Mount;
use crate::sandbox::namespaces::{self, Namespaces};
use crate::sandbox::openings::{Openings, PRIVILEGED};
use crate::sandbox::seccomp::Filter;
use crate::sandbox::user::{self, User};
use crate::sandbox::userns::{self, UserNamespace};
use crate::security::SecurityOptions;
use crate::state::{self, Inside, Record};
use crate::terminal::{DETACH_KEYS, DetachKeys};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a program that has a terminal is told of it.
pub const TERM: &str = "TERM=xterm";

/// A container, complete and valid.
#[derive(Debug)]
pub struct Plan {
    /// What the state directory will say of it.
    pub record: Record,
    /// Its host name.
    pub hostname: String,
    /// The directory that is the lower layer of its root file system.
    pub lower: PathBuf,
    /// Held so that the image is not removed meanwhile.
    pub image: Option<Image>,
    /// Whether the root file system is read-only.
    pub read_only: bool,
    /// Volumes and tmpfs, outer ones first.
    pub mounts: Vec<Mount>,
    /// Whose namespaces it has.
    pub namespaces: Namespaces,
    /// Its user namespace, where it has one of its own.
    pub userns: Option<UserNamespace>,
    /// Devices and sizes beyond the usual.
    pub openings: Openings,
    /// What a bundle says of the root file system and its mounts, in the stead of minirun's own.
    pub layout: Option<Layout>,
    /// Whether paths of /proc and /sys are masked or read-only.
    pub masked: bool,
    /// Name below /etc and text of the files that minirun writes.
    pub files: Vec<(&'static str, String)>,
    /// Its network.
    pub network: Network,
    /// Its cgroups, where it has limits.
    pub cgroup: Option<cgroup::Plan>,
    /// What runs in it.
    pub process: Process,
    /// Where its log is, if it has one, and how large that may become.
    pub log_directory: PathBuf,
    /// The bounds of the log.
    pub log: log::Options,
    /// Keys that let it go on by itself.
    pub detach_keys: DetachKeys,
    /// The command line, where the container can be started again.
    pub arguments: Option<Vec<u8>>,
    /// Files that its ID and its process id are written to.
    pub id_files: [Option<PathBuf>; 2],
}

/// The program and its circumstances.
#[derive(Debug)]
pub struct Process {
    /// The program and its arguments.
    pub argv: Vec<CString>,
    /// `NAME=VALUE` each.
    pub env: Vec<CString>,
    /// Where it starts.
    pub workdir: PathBuf,
    /// Who it is.
    pub user: User,
    /// What it may do, as root.
    pub capabilities: CapsHashSet,
    /// What it holds of them, where that does not follow from its user.
    pub sets: Option<Sets>,
    /// Which system calls it may make; none for all.
    pub filter: Option<Filter>,
    /// Whether no executable gives it more privileges.
    pub no_new_privileges: bool,
    /// Its resource limits.
    pub limits: Vec<Limit>,
    /// Whether it gets a terminal.
    pub terminal: bool,
    /// Whether it reads minirun's standard input.
    pub interactive: bool,
    /// Whether a small init is its parent.
    pub init: bool,
}

impl Plan {
    /// Decides a container from the options of `run`; `state` is the state directory, `again` the container that is started
    /// again.
    pub fn from_run(args: &RunArgs, data_root: &Path, state: &Path, again: Option<&Record>) -> Result<Self> {
        Self::decide(args, data_root, state, again, false)
    }

    /// The same to be looked at: nothing is made for it, not even the image `busybox`.
    pub fn to_be_shown(args: &RunArgs, data_root: &Path, state: &Path) -> Result<Self> {
        Self::decide(args, data_root, state, None, true)
    }

    fn decide(args: &RunArgs, data_root: &Path, state: &Path, again: Option<&Record>, dry: bool) -> Result<Self> {
        if args.openings.privileged {
            warn(PRIVILEGED);
        }
        let Options {
            mode,
            publish,
            id,
            name,
            hostname,
            mut mounts,
            openings,
            limits,
            capabilities,
            security,
            sysctls,
            hosts,
            env,
        } = Options::of(args, again)?;
        let namespaces = Namespaces::find(&args.openings, &mode, state)?;
        let hostname = namespaces.hostname()?.unwrap_or(hostname);
        let (label, lower, image, words) = root(args, data_root, !dry)?;
        let config = image.as_ref().map(|image| &image.config);
        let argv = argv(args, config, words).with_context(|| format!("run `{label}`"))?;
        let root = open_directory(&lower)?;
        let spec = args.user.as_ref().or(config.and_then(|config| config.user().as_ref()));
        let user = user::find(root.as_fd(), spec.map_or("", String::as_str))?;
        let from_image = config.and_then(|config| config.env().as_deref()).unwrap_or_default();
        let userns = UserNamespace::find(args.openings.userns, &user, &mut mounts)?;
        let arguments = args.detach.then(|| args.to_be_repeated(&env)).transpose()?;
        let env = merge_environment(&hostname, &user, args.tty, from_image, &env)?;
        let workdir = workdir(args, config)?;
        let log_directory = data_root.join("logs").join(&id);
        let id_files = [args.cidfile.clone(), args.pidfile.clone()];
        let detach_keys = DetachKeys::parse(args.detach_keys.as_deref().unwrap_or(DETACH_KEYS))?;
        let log = log::Options::parse(&args.log_opt)?;
        let cgroup = cgroup::Limits::of(&args.limits)?.map(|limits| limits.plan(&id)).transpose()?;
        let mut record = begin_record(args, &log_directory, config, again)?;
        let filter = security.seccomp.filter(&capabilities)?;

        let resolvers = resolvers(&mode);
        let network = Network::decide(&Request {
            mode: &mode,
            id: &id,
            runs: record.runs,
            sysctls: &sysctls,
            resolvers: &resolvers.ipv4(),
            servers: &args.network.dns,
            search: &resolvers.search(&args.network.dns_search),
            publish: &publish,
            data_root,
            state,
            beside: None,
            rules_itself: capabilities.contains(&caps::Capability::CAP_NET_ADMIN),
            dry,
        })?;
        let files = files(args, &hostname, &name, &network, &hosts, resolvers)?;
        record.command = argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        network.write_down(&mut record);
        (record.id, record.name, record.image) = (id, name, label);
        let (terminal, interactive, init) = (args.tty, args.interactive, args.init);
        record.inside = Inside {
            env: env.iter().map(|entry| entry.to_string_lossy().into_owned()).collect(),
            workdir: workdir.clone(),
            user: user.clone(),
            capabilities: capabilities.iter().fold(0, |bits, capability| bits | capability.bitmask()),
            limits: args.ulimit.clone(),
            ids: userns.as_ref().map(|ids| (ids.host_uid(0), ids.host_gid(0))),
            shares_processes: !namespaces.has_own_processes(),
            groups: cgroup.as_ref().map(cgroup::Plan::directories).unwrap_or_default(),
            security: security.clone(),
        };
        let no_new_privileges = security.no_new_privileges;
        let process = Process {
            argv,
            env,
            workdir,
            user,
            capabilities,
            sets: None,
            filter,
            no_new_privileges,
            limits,
            terminal,
            interactive,
            init,
        };
        let read_only = args.read_only;
        Ok(Self {
            record,
            hostname,
            lower,
            image,
            read_only,
            mounts,
            namespaces,
            userns,
            openings,
            layout: None,
            masked: !security.system_paths_unconfined,
            files,
            network,
            cgroup,
            process,
            log_directory,
            log,
            detach_keys,
            arguments,
            id_files,
        })
    }

    /// Writes the ID and the process id to the files that were asked for.
    pub fn write_ids(&self) -> Result<()> {
        let [cidfile, pidfile] = &self.id_files;
        let write = |path: &Path, text: &str| -> Result<()> {
            let mut file = state::open_private(path)?;
            // The process id of an earlier one may be longer.
            file.set_len(0)?;
            Ok(file.write_all(text.as_bytes())?)
        };
        let failed = |path: &Path| format!("write `{}`", path.display());
        if let Some(path) = pidfile {
            let pid = self.record.pid.map_or_else(String::new, |pid| pid.to_string());
            write(path, &pid).with_context(|| failed(path))?;
        }
        // The last: it names a container that is there.
        cidfile.as_ref().map_or(Ok(()), |path| write(path, &self.record.id).with_context(|| failed(path)))
    }
}

/// The host's resolvers, which only a container with a way out asks.
pub fn resolvers(mode: &Mode) -> Resolvers {
    if matches!(mode, Mode::Networks(_)) { Resolvers::of_host() } else { Resolvers::default() }
}

/// What the state directory will say of it, as far as the options say it.
pub fn begin_record(
    args: &RunArgs,
    log_directory: &Path,
    config: Option<&oci_spec::image::Config>,
    again: Option<&Record>,
) -> Result<Record> {
    let signal = args.stop_signal.clone().or_else(|| config.and_then(|config| config.stop_signal().clone()));
    let now = state::now();
    Ok(Record {
        network: args.network.mode()?.to_string(),
        created: again.map_or(now, |again| again.created),
        started: now,
        runs: again.map_or(0, |again| again.runs + 1),
        boot: state::boot_id(),
        labels: options::labels(&args.label)?,
        detached: args.detach,
        remove: !args.detach || args.rm,
        terminal: args.tty,
        interactive: args.interactive,
        init: args.init,
        stop_signal: signal.map_or(Ok(SIGTERM), |signal| options::signal(&signal))?,
        stop_timeout: args.stop_timeout,
        log: args.detach.then(|| log_directory.to_owned()),
        ..Record::default()
    })
}

/// The name and the network that a container would get, for `--dry-run`: as valid as a plan, and nothing is made for it,
/// not even the image `busybox`.
pub fn network_of(args: &RunArgs, data_root: &Path, state: &Path) -> Result<(String, Network)> {
    if args.bundle.is_some() {
        return bundle::network_of(args, data_root, state);
    }
    let options = Options::of(args, None)?;
    match root(args, data_root, false) {
        Err(error) if !is_busybox(args) => return Err(error),
        _ => {}
    }
    let Options { mode, publish, id, sysctls, name, capabilities, .. } = options;
    let resolvers = resolvers(&mode).ipv4();
    let request = Request {
        mode: &mode,
        id: &id,
        runs: 0,
        sysctls: &sysctls,
        resolvers: &resolvers,
        servers: &[],
        search: &[],
        publish: &publish,
        data_root,
        state,
        beside: None,
        rules_itself: capabilities.contains(&caps::Capability::CAP_NET_ADMIN),
        dry: true,
    };
    Ok((name, Network::decide(&request)?))
}

/// What the options say by themselves, without a look at the image.
struct Options {
    mode: Mode,
    publish: Vec<Wish>,
    id: String,
    name: String,
    hostname: String,
    mounts: Vec<Mount>,
    openings: Openings,
    limits: Vec<Limit>,
    capabilities: CapsHashSet,
    security: SecurityOptions,
    sysctls: Vec<(String, String)>,
    hosts: Vec<(String, Option<IpAddr>)>,
    env: Vec<OsString>,
}

impl Options {
    fn of(args: &RunArgs, again: Option<&Record>) -> Result<Self> {
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
            publish: args.network.wishes()?,
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
    if let (Some(port), false) = (args.network.publish.first(), matches!(mode, Mode::Networks(_))) {
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

/// Label, directory and image of the root file system, and the words that are left for the program.
///
/// The image `busybox` is made where it is missing, if `make` is set.
fn root<'a>(
    args: &'a RunArgs,
    data_root: &Path,
    make: bool,
) -> Result<(String, PathBuf, Option<Image>, &'a [OsString])> {
    if let Some(directory) = &args.rootfs {
        let path =
            std::fs::canonicalize(directory).with_context(|| format!("use `{}` as root", directory.display()))?;
        if !path.is_dir() {
            bail!("use `{}` as root: it is not a directory", directory.display());
        }
        return Ok((path.display().to_string(), path, None, &args.words));
    }
    let Some((name, words)) = args.words.split_first() else {
        let remedy = "as in `minirun run busybox sh`, see `minirun run --help`";
        return Err(refused("run a container: no image is given", remedy));
    };
    let name = name.to_str().context("use image: its name is not text")?;
    let store = Store::open(data_root)?;
    let image = match store.find(name)? {
        Some(image) => image,
        None if make && is_busybox(args) => store.make_busybox()?,
        None => {
            return Err(refused(
                format!("use image `{name}`: there is none of that name"),
                "see `minirun image ls`; `minirun image import TAR NAME` makes one",
            ));
        }
    };
    Ok((image.name.clone(), image.rootfs.clone(), Some(image), words))
}

fn is_busybox(args: &RunArgs) -> bool {
    args.rootfs.is_none() && args.words.first().is_some_and(|name| name == "busybox" || name == "busybox:latest")
}

fn argv(args: &RunArgs, config: Option<&oci_spec::image::Config>, words: &[OsString]) -> Result<Vec<CString>> {
    let of_image = |list: Option<&Vec<String>>| -> Vec<OsString> {
        list.map(|words| words.iter().map(OsString::from).collect()).unwrap_or_default()
    };
    let (mut argv, default) = match &args.entrypoint {
        // The image's arguments were meant for its own entry point. An empty one clears it, as docker's.
        Some(entrypoint) if entrypoint.is_empty() => (vec![], vec![]),
        Some(entrypoint) => (vec![entrypoint.clone()], vec![]),
        None => (
            of_image(config.and_then(|config| config.entrypoint().as_ref())),
            of_image(config.and_then(|config| config.cmd().as_ref())),
        ),
    };
    argv.extend(if words.is_empty() { default } else { words.to_vec() });
    if argv.first().is_none_or(|program| program.is_empty()) {
        let remedy = "give one after the image, as in `minirun run IMAGE sh`";
        return Err(refused("no program is given and the image names none", remedy));
    }
    argv.into_iter().map(|word| CString::new(word.into_vec()).context("an argument holds a zero byte")).collect()
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, FileMode::empty())
        .with_context(|| format!("open `{}`", path.display()))
}

fn merge_environment(
    hostname: &str,
    user: &User,
    terminal: bool,
    from_image: &[String],
    own: &[OsString],
) -> Result<Vec<CString>> {
    let mut all: Vec<OsString> =
        vec![DEFAULT_PATH.into(), format!("HOSTNAME={hostname}").into(), format!("HOME={}", user.home).into()];
    if terminal {
        all.push(TERM.into());
    }
    for entry in from_image.iter().map(OsString::from).chain(own.iter().cloned()) {
        merge(&mut all, entry);
    }
    environment(all)
}

/// An environment as execve takes it.
pub fn environment(entries: Vec<OsString>) -> Result<Vec<CString>> {
    entries.into_iter().map(|entry| CString::new(entry.into_vec()).context("set environment: a zero byte")).collect()
}

/// Adds `NAME=VALUE` to an environment, in the place of what it had of that name.
pub fn merge(all: &mut Vec<OsString>, entry: OsString) {
    let name = |entry: &OsStr| entry.as_bytes().split(|byte| *byte == b'=').next().map(<[u8]>::to_vec);
    all.retain(|earlier| name(earlier) != name(&entry));
    all.push(entry);
}

fn workdir(args: &RunArgs, config: Option<&oci_spec::image::Config>) -> Result<PathBuf> {
    let of_image = config.and_then(|config| config.working_dir().as_ref()).filter(|dir| !dir.is_empty());
    absolute(args.workdir.clone().or(of_image.map(PathBuf::from)).unwrap_or_else(|| "/".into()))
}

/// A working directory, which is to be absolute.
pub fn absolute(workdir: PathBuf) -> Result<PathBuf> {
    if !workdir.is_absolute() {
        bail!("use working directory `{}`: it is not absolute", workdir.display());
    }
    Ok(workdir)
}

/// Name below /etc and text of the files that minirun writes.
pub fn files(
    args: &RunArgs,
    hostname: &str,
    name: &str,
    network: &Network,
    added: &[(String, Option<IpAddr>)],
    resolvers: Resolvers,
) -> Result<Vec<(&'static str, String)>> {
    let gateway = network.gateway();
    let added = added
        .iter()
        .map(|(host, address)| match address.or(gateway.map(IpAddr::V4)) {
            Some(address) => Ok((host.clone(), address)),
            None => bail!("add host `{host}`: host-gateway is an address of managed networks only"),
        })
        .collect::<Result<Vec<_>>>()?;
    let hosts = if network.mode == Mode::Host {
        let mut text = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        added.iter().for_each(|(host, address)| text.push_str(&format!("{address}\t{host}\n")));
        text
    } else {
        let own = network.address().map_or(IpAddr::from([127, 0, 0, 1]), IpAddr::from);
        let names = if hostname == name { name.to_owned() } else { format!("{hostname} {name}") };
        hosts(own, gateway, &names, &added)
    };
    Ok(vec![
        ("hosts", hosts),
        ("hostname", format!("{hostname}\n")),
        ("resolv.conf", resolv_conf(args, &network.mode, resolvers)),
    ])
}

fn resolv_conf(args: &RunArgs, mode: &Mode, of_host: Resolvers) -> String {
    let asked = &args.network;
    let mut resolvers = match mode {
        _ if !asked.dns.is_empty() => Resolvers { servers: asked.dns.clone(), other: of_host.other },
        Mode::None => Resolvers::default(),
        // Its loopback device is the host's: a stub there is the right one.
        Mode::Host => return std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default(),
        Mode::Container(_) | Mode::Namespace(_) => Resolvers::of_host(),
        Mode::Networks(_) => of_host,
    };
    resolvers.say(&asked.dns_search, &asked.dns_option);
    if matches!(mode, Mode::Networks(_)) || *mode == Mode::None && asked.dns.is_empty() {
        // Its own one, which asks the others. Without a network nobody listens there until it is connected to one.
        resolvers.servers = vec![dns::ADDRESS.into()];
    }
    resolvers.text()
}
