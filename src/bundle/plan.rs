//! [`Plan::from_bundle`]: a container from a bundle and the few options that go with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::annotations::annotations;
use super::kernel::{self, NetworkOf};
use super::{honoured, list, load, mounts, part, places, process};
use crate::cli::RunArgs;
use crate::error::refused;
use crate::log;
use crate::net::step::Step;
use crate::net::{Mode, Network, Request};
use crate::options;
use crate::plan::{self, Plan, Process};
use crate::sandbox::layout::Layout;
use crate::sandbox::namespaces::{self, Namespaces, Share, Whose};
use crate::sandbox::openings::{OpeningArgs, Openings};
use crate::sandbox::seccomp::{Choice, Filter, oci};
use crate::security::SecurityOptions;
use crate::state::{self, Inside, Record};
use crate::terminal::{DETACH_KEYS, DetachKeys};

/// Options that say nothing of the container itself, and go with a bundle.
const OPTIONS: [&str; 15] = [
    "net",
    "bundle",
    "words",
    "detach",
    "rm",
    "interactive",
    "cidfile",
    "pidfile",
    "dry_run",
    "detach_keys",
    "log_opt",
    "pcap",
    "pcap_on_fail",
    "pcap_size",
    "pcap_filter",
];

impl Plan {
    /// Decides a container from the bundle that `args` name.
    pub fn from_bundle(args: &RunArgs, data_root: &Path, state: &Path, again: Option<&Record>) -> Result<Self> {
        Bundle::open(args, again)?.plan(args, data_root, state, again)
    }
}

/// The name and the network that a bundle's container would get, for `--dry-run`.
pub fn network_of(args: &RunArgs, data_root: &Path, state: &Path) -> Result<(String, Network)> {
    let bundle = Bundle::open(args, None)?;
    let network = bundle.network(&state::new_id()?, 0, (data_root, state), true)?;
    Ok((bundle.name, network))
}

/// A bundle, read and valid, as far as nothing is taken for it.
struct Bundle {
    directory: PathBuf,
    name: String,
    hostname: String,
    root: PathBuf,
    root_is_read_only: bool,
    config: Value,
    /// The options that its annotations stand for, with those that were typed.
    args: RunArgs,
    labels: BTreeMap<String, String>,
    process: Process,
    ulimits: Vec<String>,
    layout: Layout,
    namespaces: Namespaces,
    network: NetworkOf,
    sysctls: Vec<(String, String)>,
}

impl Bundle {
    fn open(args: &RunArgs, again: Option<&Record>) -> Result<Self> {
        refuse_other_options(args)?;
        let name = name(args, again)?;
        let directory = args.bundle.as_deref().unwrap_or(Path::new("."));
        let directory =
            std::fs::canonicalize(directory).with_context(|| format!("use bundle `{}`", directory.display()))?;
        let config = load(&directory)?;
        let (mut process, ulimits, umask) = process::decide(&config)?;
        let (namespaces, network) = kernel::namespaces(&config)?;
        let (own, labels, overlay) = annotations(&config, args, &network, process.terminal)?;
        (process.interactive, process.init) = (own.interactive, own.init);
        let (root, root_is_read_only) = root(&config, &directory)?;
        let layout = layout(&config, &directory, !overlay, umask)?;
        let (hostname, sysctls) = names_and_settings(&config, &own, &namespaces)?;
        plan::refuse_what_cannot_be(&own, &own.network.mode()?)?;
        if process.terminal && !mounts::has(&layout.mounts, "/dev", "tmpfs") {
            bail!("refuse bundle: process.terminal: mounts has no `tmpfs` for `/dev` to put `/dev/console` into");
        }
        if process.terminal && !mounts::has(&layout.mounts, "/dev/pts", "devpts") {
            bail!("refuse bundle: process.terminal: mounts has no `devpts` for `/dev/pts`");
        }
        Ok(Self {
            directory,
            name,
            hostname,
            root,
            root_is_read_only,
            config,
            args: own,
            labels,
            process,
            ulimits,
            layout,
            namespaces,
            network,
            sysctls,
        })
    }

    fn network(&self, id: &str, runs: u32, (data_root, state): (&Path, &Path), dry: bool) -> Result<Network> {
        let mode = self.args.network.mode()?;
        let resolvers = plan::resolvers(&mode);
        let search = resolvers.search(&[]);
        let (resolvers, servers) = (resolvers.ipv4(), &self.args.network.dns);
        let sysctls = &self.sysctls;
        let request = Request {
            mode: &mode,
            id,
            runs,
            sysctls,
            resolvers: &resolvers,
            servers,
            search: &search,
            publish: &[],
            host_access: false,
            lent: &self.args.network.lent()?,
            taps: &[],
            data_root,
            state,
            beside: None,
            links: &[],
            dry,
        };
        let mut network = Network::decide(&request)?;
        // No setting that the bundle does not ask for, beside those that make the network itself.
        if !matches!(mode, Mode::Networks(_)) {
            let asked = |key: &str| self.sysctls.iter().any(|(own, _)| own == key);
            network.steps.retain(|step| !matches!(step, Step::Sysctl { key, .. } if !asked(key)));
        }
        if network.settings().next().is_some() && !mounts::has(&self.layout.mounts, "/proc", "proc") {
            bail!("refuse bundle: mounts: there is no `proc` for `/proc`, where settings are made");
        }
        Ok(network)
    }

    fn plan(mut self, typed: &RunArgs, data_root: &Path, state: &Path, again: Option<&Record>) -> Result<Plan> {
        let id = again.map_or_else(state::new_id, |again| Ok(again.id.clone()))?;
        let bits = self.process.capabilities.iter().fold(0, |bits, capability| bits | capability.bitmask());
        let filter = filter(&self.config, bits)?;
        let devices = kernel::devices(&self.config)?;
        let cgroup = kernel::limits(&self.config)?.map(|limits| limits.plan(&id)).transpose();
        let cgroup = cgroup.context("refuse bundle: linux.resources")?;
        let log_directory = data_root.join("logs").join(&id);
        let detach_keys = DetachKeys::parse(typed.detach_keys.as_deref().unwrap_or(DETACH_KEYS))?;
        let mut record = plan::begin_record(&self.args, &log_directory, None, again)?;
        let network = self.network(&id, record.runs, (data_root, state), false)?;
        let files = if self.layout.in_place {
            vec![]
        } else {
            let hosts =
                self.args.network.add_host.iter().map(|text| options::add_host(text)).collect::<Result<Vec<_>>>()?;
            let resolvers = plan::resolvers(&network.mode);
            plan::files(&self.args, &self.hostname, &self.name, &network, &hosts, resolvers, state)?
        };
        if let NetworkOf::Path(path) = &self.network {
            record.network = format!("ns:{path}");
        }
        let words = self.process.argv.iter().map(|word| word.to_string_lossy().into_owned());
        (record.command, record.labels) = (words.collect(), std::mem::take(&mut self.labels));
        (record.id, record.name) = (id, self.name.clone());
        record.image = self.root.display().to_string();
        network.write_down(&mut record);
        record.inside =
            self.inside(filter.is_some(), cgroup.as_ref().map(|plan| plan.directories()).unwrap_or_default());
        self.process.filter = filter;
        let capture = typed.capture.decide(&network.mode, again.is_some())?;
        Ok(Plan {
            record,
            hostname: self.hostname,
            lower: self.root,
            image: None,
            read_only: self.root_is_read_only,
            mounts: vec![],
            namespaces: self.namespaces,
            userns: None,
            openings: Openings { shm_size: 0, devices, privileged: false },
            layout: Some(self.layout),
            masked: false,
            files,
            network,
            capture,
            cgroup,
            process: self.process,
            log_directory,
            log: log::Options::parse(&typed.log_opt)?,
            detach_keys,
            arguments: typed.detach.then(|| typed.to_be_repeated(&[])).transpose()?,
            id_files: [typed.cidfile.clone(), typed.pidfile.clone()],
        })
    }

    /// What a further process in the container is to have.
    fn inside(&self, has_filter: bool, groups: Vec<PathBuf>) -> Inside {
        let process = &self.process;
        let held = process.sets.as_ref().filter(|_| process.user.uid == 0).map(|sets| &sets.permitted);
        let has = |capability: &&caps::Capability| held.is_none_or(|held| held.contains(capability));
        let config = self.directory.join("config.json");
        Inside {
            env: process.env.iter().map(|entry| entry.to_string_lossy().into_owned()).collect(),
            workdir: process.workdir.clone(),
            user: process.user.clone(),
            capabilities: process.capabilities.iter().filter(has).fold(0, |bits, one| bits | one.bitmask()),
            limits: self.ulimits.clone(),
            ids: None,
            shares_processes: !self.namespaces.has_own_processes(),
            groups,
            security: SecurityOptions {
                seccomp: if has_filter { Choice::File(config) } else { Choice::Unconfined },
                no_new_privileges: process.no_new_privileges,
                system_paths_unconfined: self.layout.masked.is_empty() && self.layout.read_only.is_empty(),
            },
        }
    }
}

/// What a bundle says, no option says otherwise.
fn refuse_other_options(args: &RunArgs) -> Result<()> {
    let usual = RunArgs { stop_timeout: 10, ..RunArgs::default() };
    let (given, usual) = (serde_json::to_value(args)?, serde_json::to_value(usual)?);
    let options = given.as_object().into_iter().flatten();
    let other = options.filter(|(key, value)| usual.get(*key) != Some(value)).map(|(key, _)| key);
    match other.into_iter().find(|key| !OPTIONS.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(refused(
            format!("run a bundle with `--{}`: that comes from the bundle", key.replace('_', "-")),
            "leave it out, or change config.json",
        )),
    }
}

fn name(args: &RunArgs, again: Option<&Record>) -> Result<String> {
    let typed = match &args.words[..] {
        [name] => name.to_str().context("use name: it is not text")?,
        [] => return Err(refused("run a bundle: no ID is given", "as in `minirun run --bundle DIR ID`")),
        _ => return Err(refused("run a bundle: more than an ID is given", "the program comes from the bundle")),
    };
    let name = again.map_or(typed, |again| &again.name);
    if !state::valid_name(name) {
        return Err(refused(
            format!("use name `{name}`: it is not a plain name"),
            "letters, digits, `_`, `.` and `-`, at most 63, the first one a letter or digit",
        ));
    }
    Ok(name.to_owned())
}

/// The directory of the root file system, and whether it is read-only.
fn root(config: &Value, directory: &Path) -> Result<(PathBuf, bool)> {
    let path: PathBuf = part(config, "root.path")?.context("refuse bundle: root.path: it is missing")?;
    let failed = || format!("refuse bundle: root.path `{}`", path.display());
    let found = std::fs::canonicalize(directory.join(&path)).with_context(failed)?;
    if !found.is_dir() {
        bail!("{}: it is not a directory", failed());
    }
    if found == Path::new("/") {
        bail!("{}: it is the host's own root", failed());
    }
    Ok((found, part(config, "root.readonly")?.unwrap_or(false)))
}

fn layout(config: &Value, directory: &Path, in_place: bool, umask: Option<u32>) -> Result<Layout> {
    let propagation: String = part(config, "linux.rootfsPropagation")?.unwrap_or_default();
    if !["", "private", "rprivate"].contains(&propagation.as_str()) {
        return Err(honoured::unsupported(&format!("linux.rootfsPropagation `{propagation}`")));
    }
    let oom_score_adj = part::<i32>(config, "process.oomScoreAdj")?;
    if oom_score_adj.is_some_and(|score| !(-1000..=1000).contains(&score)) {
        bail!("refuse bundle: process.oomScoreAdj: -1000 to 1000 is wanted");
    }
    Ok(Layout {
        in_place,
        mounts: mounts::decide(&list::<oci_spec::runtime::Mount>(config, "mounts")?, directory)?,
        masked: places(config, "linux.maskedPaths")?,
        read_only: places(config, "linux.readonlyPaths")?,
        umask,
        oom_score_adj,
    })
}

/// The host name and the settings, none of which may be another's.
fn names_and_settings(
    config: &Value,
    args: &RunArgs,
    namespaces: &Namespaces,
) -> Result<(String, Vec<(String, String)>)> {
    let wanted: Option<String> = part(config, "hostname")?.filter(|name: &String| !name.is_empty());
    let wanted = wanted.map(|name| options::hostname(&name)).transpose().context("refuse bundle: hostname")?;
    let texts = kernel::sysctls(config)?;
    let share = |whose: &Whose| if matches!(whose, Whose::Own) { Share::Own } else { Share::Host };
    let shared = OpeningArgs {
        pid: share(&namespaces.pid),
        ipc: share(&namespaces.ipc),
        uts: share(&namespaces.uts),
        ..OpeningArgs::default()
    };
    if wanted.is_some() && shared.uts != Share::Own {
        bail!("refuse bundle: hostname: without a UTS namespace of its own the name is another's");
    }
    namespaces::check(&shared, None, args.init, &texts).context("refuse bundle: linux.sysctl")?;
    let sysctl = |text: &String| options::sysctl(text, args.network.mode().is_ok_and(|mode| mode.joins()));
    let sysctls = texts.iter().map(sysctl).collect::<Result<_>>().context("refuse bundle: linux.sysctl")?;
    let there = namespaces.hostname()?;
    let own = nix::unistd::gethostname().map(|name| name.to_string_lossy().into_owned())?;
    Ok((there.or(wanted).unwrap_or(own), sysctls))
}

/// The filter of system calls; none where the bundle has none.
fn filter(config: &Value, capabilities: u64) -> Result<Option<Filter>> {
    let found = config
        .get("linux")
        .and_then(|linux| linux.get("seccomp"))
        .filter(|found| found.as_object().is_none_or(|members| !members.is_empty()));
    let compile = |found: &Value| oci::compile(&serde_json::to_vec(found)?, capabilities);
    found.map(compile).transpose().context("refuse bundle: linux.seccomp")
}

#[cfg(test)]
mod tests;
