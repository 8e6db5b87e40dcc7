//! What was typed: clap types, whose doc comments are the help. What it means is decided in `plan.rs`.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use serde::{Deserialize, Serialize};

use crate::capture::args::CaptureArgs;
use crate::commands::attach::AttachArgs;
use crate::commands::capture::CaptureOf;
use crate::commands::cp::CpArgs;
use crate::commands::doctor::DoctorArgs;
use crate::commands::exec::ExecArgs;
use crate::commands::graph::GraphArgs;
use crate::commands::image::ImageArgs;
use crate::commands::inspect::InspectArgs;
use crate::commands::logs::LogsArgs;
use crate::commands::network::NetworkArgs;
use crate::commands::pause::PauseArgs;
use crate::commands::port::PortArgs;
use crate::commands::stats::StatsArgs;
use crate::commands::stop::{KillArgs, RenameArgs, RestartArgs, RmArgs, StopArgs, WaitArgs};
use crate::commands::top::TopArgs;
use crate::listing::ListArgs;
use crate::net::args::NetArgs;
use crate::net::narrator::Explain;
use crate::sandbox::openings::OpeningArgs;
use crate::state::DEFAULT_ROOT;

/// A minimal, daemonless container runtime whose subject is networking modes
#[derive(Debug, Parser)]
#[command(
    name = "minirun",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
#[command(after_help = "Examples:
  minirun run -it busybox sh                    a shell on the managed bridge
  minirun run --net=none busybox ip addr        no network but lo
  minirun run --net=host busybox ip addr        the host's network
  minirun run --dry-run busybox                 the commands that build the network, and why
  minirun run -d --name web busybox httpd -f    in the background
  minirun logs -f web; minirun stop web         what it writes; its end
  minirun ps                                    what runs
  minirun graph                                 the network of this host, drawn")]
pub struct Cli {
    /// Directory of the live state
    #[arg(long, global = true, value_name = "DIR", default_value = DEFAULT_ROOT)]
    pub root: PathBuf,
    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a program in a new container
    Run(Box<RunArgs>),
    /// List containers
    Ps(PsArgs),
    /// Run a further program in a container, or a program of this host in its network
    Exec(ExecArgs),
    /// Show what a detached container wrote
    Logs(LogsArgs),
    /// Take over the terminal or the streams of a detached container
    Attach(AttachArgs),
    /// End containers: their stop signal, then SIGKILL
    Stop(StopArgs),
    /// Send a signal to containers
    Kill(KillArgs),
    /// Wait for the end of containers and print their exit codes
    Wait(WaitArgs),
    /// Remove containers that have ended
    Rm(RmArgs),
    /// Stop containers and run them once more
    Restart(RestartArgs),
    /// Let the processes of containers stand still
    Pause(PauseArgs),
    /// Let them go on
    Unpause(PauseArgs),
    /// Show what is known of containers
    Inspect(InspectArgs),
    /// List the processes of a container
    Top(TopArgs),
    /// Show what containers use
    Stats(StatsArgs),
    /// Give a container another name
    Rename(RenameArgs),
    /// Copy files and directories between a container and the host
    Cp(CpArgs),
    /// Import, list and remove images
    Image(ImageArgs),
    /// List published ports
    Port(PortArgs),
    /// Show the packets of a container or a network, or write them to a file
    Capture(CaptureOf),
    /// Define, list and remove networks
    Network(NetworkArgs),
    /// Say what on this machine would stop or hamper containers' networks
    Doctor(DoctorArgs),
    /// Draw the network of this host as it is now
    Graph(GraphArgs),
    /// Look after what minirun keeps on this host
    System(SystemArgs),
    /// Print the version
    Version,
}

impl Verb {
    /// Whether only root can do it: all but what merely prints.
    pub fn needs_root(&self) -> bool {
        match self {
            Self::Run(args) => !args.dry_run && !args.spec,
            Self::Version => false,
            _ => true,
        }
    }
}

/// Run a program in a new container
// Of the whole command line only the parser that is needed is built, which saves a tenth of a millisecond on the way of
// every start.
#[derive(Debug, Parser)]
#[command(name = "minirun run", version, args_override_self = true)]
#[command(override_usage = "minirun run [OPTIONS] IMAGE [COMMAND [ARG...]]")]
pub struct RunAlone {
    /// The options.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Options of `run`.
#[derive(Debug, Default, Clone, Args, Serialize, Deserialize)]
#[command(disable_help_flag = true, args_override_self = true)]
#[command(after_help = "Examples:
  minirun run busybox sh -c 'ip addr; ip route'     address and route on the managed bridge
  minirun run -it busybox sh                        a shell with a terminal
  minirun run --net=none busybox true               no network but lo
  minirun run -v $PWD:/src:ro -w /src busybox ls    a directory of the host, read-only
  minirun run --pcap-on-fail x.pcapng busybox CMD   its last packets, if it fails
  minirun run --rootfs ./tree /bin/prog             a directory instead of an image (it is not changed)

Exit code: the program's; 128+n when signal n ended it; 125 minirun's own error, 126 cannot be run, 127 not found.")]
pub struct RunArgs {
    /// What network it has.
    #[command(flatten)]
    #[serde(flatten)]
    pub network: NetArgs,
    /// What is kept of its packets.
    #[command(flatten)]
    #[serde(flatten)]
    pub capture: CaptureArgs,
    /// Name of the container
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Host name in the container
    #[arg(short = 'h', long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Let the program read from standard input
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    pub tty: bool,
    /// Set an environment variable; NAME alone takes the value it has here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Set the environment variables of a file, one a line
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,
    /// Working directory in the container
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<PathBuf>,
    /// User and group, as names of the image or as numbers
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Mount a file or directory of the host
    #[arg(short, long, value_name = "SRC:DST[:ro]")]
    pub volume: Vec<String>,
    /// Mount an empty file system in memory
    #[arg(long, value_name = "DST[:OPTIONS]")]
    pub tmpfs: Vec<String>,
    /// Make the root file system read-only
    #[arg(long)]
    pub read_only: bool,
    /// Program to run instead of the image's entry point
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<OsString>,
    /// Run a small init as process 1 that forwards signals and reaps orphans
    #[arg(long)]
    pub init: bool,
    /// Add a capability (or ALL)
    #[arg(long, value_name = "CAP", value_delimiter = ',')]
    pub cap_add: Vec<String>,
    /// Drop a capability (or ALL)
    #[arg(long, value_name = "CAP", value_delimiter = ',')]
    pub cap_drop: Vec<String>,
    /// Loosen or change a guard: allow=NAME (io_uring, userns, keyring, tiocsti, a family of sockets as vsock, or sockets for
    /// all), seccomp=FILE|unconfined, no-new-privileges=false, systempaths=unconfined
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// Limits by cgroups.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// What of the sandbox is opened.
    #[command(flatten)]
    pub openings: OpeningArgs,
    /// Set a resource limit, as nofile=1024:2048
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// Set a kernel setting of the container's namespaces
    #[arg(long, value_name = "KEY=VALUE")]
    pub sysctl: Vec<String>,
    /// Remove the container, its log and its exit code at its end (without -d that happens in any case)
    #[arg(long)]
    pub rm: bool,
    /// Run in the background and print the container's ID
    #[arg(short, long)]
    pub detach: bool,
    /// Keys that leave a terminal and let the container go on
    #[arg(long, value_name = "KEYS")]
    pub detach_keys: Option<String>,
    /// Note something about the container
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub label: Vec<String>,
    /// Write the container's ID to a new file
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<PathBuf>,
    /// Write the process id of the program, as the host sees it, to a file
    #[arg(long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// Signal of `stop` (the image's, else TERM)
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Seconds that `stop` waits before it kills
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub stop_timeout: u32,
    /// Bounds of the log of a detached container: max-size=10m, max-file=3
    #[arg(long, value_name = "KEY=VALUE")]
    pub log_opt: Vec<String>,
    /// Use a directory as root file system instead of an image
    #[arg(long, value_name = "DIR")]
    pub rootfs: Option<PathBuf>,
    /// Print a script that builds the network by hand and one that takes it down, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print each step of the network while it is done: the command that it stands for, why, and what it cost; or all of them as a
    /// script (sh), or a JSON object a line (json)
    #[arg(long, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "text")]
    #[serde(skip)]
    pub explain: Option<Explain>,
    /// Wait for a key before each step of the network, show the command and the reason, and then what it has changed
    #[arg(long, conflicts_with_all = ["explain", "dry_run", "detach"])]
    #[serde(skip)]
    pub step: bool,
    /// Print the container as an OCI runtime configuration (a config.json), and change nothing
    #[arg(long, conflicts_with_all = ["dry_run", "bundle"])]
    #[serde(default)]
    pub spec: bool,
    /// Run an OCI bundle, a directory with a config.json, as the container named ID
    #[arg(long, value_name = "DIR")]
    #[serde(default)]
    pub bundle: Option<PathBuf>,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub help: Option<bool>,
    /// Image (unless --rootfs is given), program and its arguments
    #[arg(value_name = "IMAGE [COMMAND [ARG...]]", trailing_var_arg = true)]
    pub words: Vec<OsString>,
}

impl RunArgs {
    /// The command line as it is kept, to be run again from anywhere at any time: `env` is the environment that was asked
    /// for, and every path is absolute.
    pub fn to_be_repeated(&self, env: &[OsString]) -> Result<Vec<u8>> {
        let mut again = self.clone();
        again.env_file.clear();
        again.env = env.iter().map(|entry| entry.to_string_lossy().into_owned()).collect();
        again.cidfile = None;
        for volume in &mut again.volume {
            if let Some((source, rest)) = volume.split_once(':') {
                *volume = format!("{}:{rest}", std::path::absolute(source)?.display());
            }
        }
        again.bundle = again.bundle.map(std::path::absolute).transpose()?;
        again.rootfs = again.rootfs.map(std::path::absolute).transpose()?;
        again.pidfile = again.pidfile.map(std::path::absolute).transpose()?;
        again.capture.pcap = again.capture.pcap.map(std::path::absolute).transpose()?;
        again.capture.pcap_on_fail = again.capture.pcap_on_fail.map(std::path::absolute).transpose()?;
        Ok(serde_json::to_vec(&again)?)
    }
}

/// Options of `run` that set limits by cgroups.
#[derive(Debug, Default, Clone, Args, Serialize, Deserialize)]
pub struct LimitArgs {
    /// Most memory, as 512m
    #[arg(short, long, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Most memory and swap together; as much as --memory is no swap, -1 is all of it
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Most processor time, in processors, as 1.5
    #[arg(long, value_name = "NUMBER")]
    pub cpus: Option<String>,
    /// Processors to run on, as 0-1,3
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,
    /// Weight against others where processors are short; 1024 is usual
    #[arg(long, value_name = "NUMBER")]
    pub cpu_shares: Option<u64>,
    /// Most processes and threads; -1 is no limit
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    pub pids_limit: Option<i64>,
}

/// Options of `ps`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun ps
  minirun ps --filter name=web --format '{{.Name}} {{.Address}}'
  minirun ps --format json | jq '.[].address'")]
pub struct PsArgs {
    /// Those that have ended as well
    #[arg(short, long)]
    pub all: bool,
    /// Only containers that are so: id, name, label=KEY[=VALUE], status, ancestor, network or exited=CODE
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub filter: Vec<String>,
    /// The form.
    #[command(flatten)]
    pub list: ListArgs,
}

/// `minirun system`.
#[derive(Debug, Args)]
pub struct SystemArgs {
    /// What to do
    #[command(subcommand)]
    pub verb: SystemVerb,
}

/// The commands of `minirun system`.
#[derive(Debug, Subcommand)]
pub enum SystemVerb {
    /// Take the managed bridges, their nftables table and their forwarding off this host; they are made again when needed
    Prune,
}

/// Parses a command line.
pub fn parse(args: Vec<OsString>) -> Result<Cli, clap::Error> {
    if args.get(1).is_some_and(|verb| verb == "run") {
        let mut matches = RunAlone::command().try_get_matches_from(args.into_iter().skip(1))?;
        let run = RunAlone::from_arg_matches_mut(&mut matches).map_err(|e| e.format(&mut RunAlone::command()))?.run;
        return Ok(Cli { root: DEFAULT_ROOT.into(), verb: Verb::Run(Box::new(run)) });
    }
    let mut matches = Cli::command().try_get_matches_from(args)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|e| e.format(&mut Cli::command()))
}

#[cfg(test)]
mod tests;
