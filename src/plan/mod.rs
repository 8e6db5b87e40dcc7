//! What it means: everything about a container, decided and validated before the first side effect.
//!
//! [`Plan::from_run`] is the only way from the command line to a launch. What it takes that others could see (an address)
//! is a lock that the kernel gives back. After it no error of the user's is possible any more.

mod asked;
mod files;
mod program;

use std::ffi::CString;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use caps::CapsHashSet;
use signal_hook::consts::SIGTERM;

use self::asked::Options;
pub use self::asked::refuse_what_cannot_be;
pub use self::files::{files, resolvers};
pub use self::program::{absolute, environment, merge};
use self::program::{argv, is_busybox, merge_environment, open_directory, root, workdir};
use crate::bundle;
use crate::capture;
use crate::cli::RunArgs;
use crate::error::warn;
use crate::image::Image;
use crate::log;
use crate::net::names::Resolvers;
use crate::net::{Network, Request};
use crate::options;
use crate::sandbox::cgroup;
use crate::sandbox::credentials::{Limit, Sets};
use crate::sandbox::layout::Layout;
use crate::sandbox::mounts::Mount;
use crate::sandbox::namespaces::Namespaces;
use crate::sandbox::openings::{Openings, PRIVILEGED};
use crate::sandbox::seccomp::Filter;
use crate::sandbox::user::{self, User};
use crate::sandbox::userns::UserNamespace;
use crate::state::{self, Inside, Record, netns};
use crate::terminal::{DETACH_KEYS, DetachKeys};

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
    /// Where its packets are kept, if they are.
    pub capture: Option<capture::args::Plan>,
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
        let mut options = Options::of(args, again)?;
        let namespaces = Namespaces::find(&args.openings, &options.mode, state)?;
        let hostname = namespaces.hostname()?.unwrap_or_else(|| options.hostname.clone());
        let (label, lower, image, words) = root(args, data_root, !dry)?;
        let config = image.as_ref().map(|image| &image.config);
        let exposed = config.and_then(|config| config.exposed_ports().clone()).unwrap_or_default();
        if !exposed.is_empty() {
            options.publish = args.network.wishes(&exposed)?;
        }
        let argv = argv(args, config, words).with_context(|| format!("run `{label}`"))?;
        let root = open_directory(&lower)?;
        let spec = args.user.as_ref().or(config.and_then(|config| config.user().as_ref()));
        let user = user::find(root.as_fd(), spec.map_or("", String::as_str))?;
        let from_image = config.and_then(|config| config.env().as_deref()).unwrap_or_default();
        let userns = UserNamespace::find(args.openings.userns, &user, &mut options.mounts)?;
        let owner = userns.as_ref().map_or(user.uid, |ids| ids.host_uid(user.uid));
        options.taps.iter_mut().for_each(|tap| tap.owner = owner);
        let arguments = args.detach.then(|| args.to_be_repeated(&options.env)).transpose()?;
        let env = merge_environment(&hostname, &user, args.tty, from_image, &options.env)?;
        let workdir = workdir(args, config)?;
        let log_directory = data_root.join("logs").join(&options.id);
        let id_files = [args.cidfile.clone(), args.pidfile.clone()];
        let detach_keys = DetachKeys::parse(args.detach_keys.as_deref().unwrap_or(DETACH_KEYS))?;
        let log = log::Options::parse(&args.log_opt)?;
        let cgroup = cgroup::Limits::of(&args.limits)?.map(|limits| limits.plan(&options.id)).transpose()?;
        let mut record = begin_record(args, &log_directory, config, again)?;
        let filter = options.security.seccomp.filter(&options.capabilities)?;

        let resolvers = resolvers(&options.mode);
        let network = decide_network(args, &options, record.runs, &resolvers, (data_root, state), dry)?;
        let Options { id, name, mounts, openings, limits, capabilities, security, hosts, .. } = options;
        let files = files(args, &hostname, &name, &network, &hosts, resolvers, state)?;
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
        let capture = if dry { None } else { args.capture.decide(&network.mode, again.is_some())? };
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
            capture,
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

/// The name of the namespace and the network that a container would get, for `--dry-run`: as valid as a plan, and nothing is made for it,
/// not even the image `busybox`.
pub fn network_of(args: &RunArgs, data_root: &Path, state: &Path) -> Result<(String, Network)> {
    if args.bundle.is_some() {
        return bundle::network_of(args, data_root, state);
    }
    let mut options = Options::of(args, None)?;
    let user = match root(args, data_root, false) {
        Err(error) if !is_busybox(args) => return Err(error),
        Err(_) => None,
        Ok((_, lower, image, _)) => {
            let config = image.as_ref().map(|image| &image.config);
            let spec = args.user.as_ref().or(config.and_then(|config| config.user().as_ref()));
            Some(user::find(open_directory(&lower)?.as_fd(), spec.map_or("", String::as_str))?)
        }
    };
    options.taps.iter_mut().for_each(|tap| tap.owner = user.as_ref().map_or(0, |user| user.uid));
    let resolvers = resolvers(&options.mode);
    let network = decide_network(args, &options, 0, &resolvers, (data_root, state), true)?;
    Ok((netns::free(&options.name, &options.id).to_owned(), network))
}

/// Decides the network that the options ask for; the directories are those of data and of state.
fn decide_network(
    args: &RunArgs,
    options: &Options,
    runs: u32,
    resolvers: &Resolvers,
    (data_root, state): (&Path, &Path),
    dry: bool,
) -> Result<Network> {
    let Options { mode, publish, taps, id, sysctls, .. } = options;
    Network::decide(&Request {
        mode,
        id,
        runs,
        sysctls,
        resolvers: &resolvers.ipv4(),
        servers: &args.network.dns,
        search: &resolvers.search(&args.network.dns_search),
        publish,
        host_access: args.network.host_access,
        lent: &args.network.lent()?,
        taps,
        data_root,
        state,
        beside: None,
        links: &[],
        dry,
    })
}
