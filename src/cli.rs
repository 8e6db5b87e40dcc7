//! What was typed: clap types, whose doc comments are the help. What it means is decided in `plan.rs`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

use crate::commands::cp::CpArgs;
use crate::commands::image::ImageArgs;
use crate::net::Mode;
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
  minirun ps                                    what runs")]
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
    /// Copy files and directories between a container and the host
    Cp(CpArgs),
    /// Import, list and remove images
    Image(ImageArgs),
    /// Look after what minirun keeps on this host
    System(SystemArgs),
    /// Print the version
    Version,
}

impl Verb {
    /// Whether only root can do it: all but what merely prints.
    pub fn needs_root(&self) -> bool {
        match self {
            Self::Run(args) => !args.dry_run,
            Self::Ps(_) | Self::Cp(_) | Self::Image(_) | Self::System(_) => true,
            Self::Version => false,
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
#[derive(Debug, Default, Args)]
#[command(disable_help_flag = true, args_override_self = true)]
#[command(after_help = "Examples:
  minirun run busybox sh -c 'ip addr; ip route'     address and route on the managed bridge
  minirun run -it busybox sh                        a shell with a terminal
  minirun run --net=none busybox true               no network but lo
  minirun run -v $PWD:/src:ro -w /src busybox ls    a directory of the host, read-only
  minirun run --rootfs ./tree /bin/prog             a directory instead of an image (it is not changed)

Exit code: the program's; 128+n when signal n ended it; 125 minirun's own error, 126 cannot be run, 127 not found.")]
pub struct RunArgs {
    /// Networking mode: none, host or bridge
    #[arg(long = "net", visible_alias = "network", value_name = "MODE", default_value = "bridge")]
    pub net: Mode,
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
    /// Set a resource limit, as nofile=1024:2048
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// Set a kernel setting of the container's namespaces
    #[arg(long, value_name = "KEY=VALUE")]
    pub sysctl: Vec<String>,
    /// Add a line to /etc/hosts; the address host-gateway is the bridge's
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,
    /// Name server instead of the host's
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<std::net::IpAddr>,
    /// Publish a port (not in this version)
    #[arg(short, long, value_name = "HOSTPORT:PORT", hide = true)]
    pub publish: Vec<String>,
    /// Leave nothing behind (what happens in any case)
    #[arg(long)]
    pub rm: bool,
    /// Use a directory as root file system instead of an image
    #[arg(long, value_name = "DIR")]
    pub rootfs: Option<PathBuf>,
    /// Print the commands that build the network, with a reason each, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    pub help: Option<bool>,
    /// Image (unless --rootfs is given), program and its arguments
    #[arg(value_name = "IMAGE [COMMAND [ARG...]]", trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<OsString>,
}

/// How a listing is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns.
    #[default]
    Table,
    /// An array of objects.
    Json,
}

/// Options of `ps`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun ps
  minirun ps --format json | jq '.[].address'")]
pub struct PsArgs {
    /// Print IDs only
    #[arg(short, long)]
    pub quiet: bool,
    /// Form of the list
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
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
    /// Take the managed bridge, its nftables table and its forwarding off this host; it is made again when needed
    Prune,
}

/// Parses a command line.
pub fn parse(args: Vec<OsString>) -> Result<Cli, clap::Error> {
    if args.get(1).is_some_and(|verb| verb == "run") {
        let run = RunAlone::try_parse_from(args.into_iter().skip(1))?.run;
        return Ok(Cli { root: DEFAULT_ROOT.into(), verb: Verb::Run(Box::new(run)) });
    }
    Cli::try_parse_from(args)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(line: &str) -> RunArgs {
        let words = ["minirun"].into_iter().chain(line.split(' ')).map(OsString::from).collect();
        match parse(words).unwrap().verb {
            Verb::Run(run) => *run,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_definitions_are_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        RunAlone::command().debug_assert();
    }

    #[test]
    fn options_end_where_the_image_begins() {
        let args = run("run -it --net none --rm busybox ls -l --net x");
        assert!(args.interactive && args.tty && args.rm);
        assert_eq!(args.net, Mode::None);
        assert_eq!(args.words, ["busybox", "ls", "-l", "--net", "x"]);
        assert_eq!(run("--root /x run --network=host b").words, ["b"]);
        assert_eq!(run("run --rm --rm --net=host --net=none b").net, Mode::None);
        assert_eq!(run("run -h web busybox -x").hostname.as_deref(), Some("web"));
    }
}
