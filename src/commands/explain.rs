//! `minirun explain` and `minirun network explain`: the network of a container that runs, or a network, as the commands that build it.

use std::io::{IsTerminal, stdout};
use std::path::Path;

use anyhow::Result;
use clap::Args;

use crate::error::{is_coloured, print, printable};
use crate::net::narrator::Explain;
use crate::net::retold::{self, Retold};
use crate::net::script::Script;
use crate::state::{State, netns};

/// Options of `explain`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun explain web                                  commands and reasons
  minirun explain --format sh web > web.sh             a script: `sh web.sh` builds it on a host that has nothing,
                                                       `sh web.sh down` takes it down
  minirun explain --format json web | jq '.[].commands'")]
pub struct ExplainArgs {
    /// Form: for people, a script, or for programs
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    format: Explain,
    /// Name or ID
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Options of `network explain`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun network explain front
  minirun network explain --format sh front")]
pub struct ExplainNetworkArgs {
    /// Form: for people, a script, or for programs
    #[arg(short, long, value_name = "FORM", default_value = "text")]
    format: Explain,
    /// Its name
    #[arg(value_name = "NETWORK")]
    network: String,
}

/// Explains a container's network.
pub fn explain(args: &ExplainArgs, root: &Path, data_root: &Path) -> Result<()> {
    let found = State::open(root)?.find(&args.container)?;
    let retold = retold::container(&found, root, data_root)?;
    tell(&retold, Some(netns::called(&found.record)), args.format)
}

/// Explains a network.
pub fn explain_network(args: &ExplainNetworkArgs, root: &Path, data_root: &Path) -> Result<()> {
    let retold = retold::network(&args.network, root, data_root)?;
    tell(&retold, None, args.format)
}

fn tell(retold: &Retold, container: Option<&str>, form: Explain) -> Result<()> {
    let Retold { mode, host_steps, steps, ports, differences } = retold;
    let script = Script { mode, container, again: &[], host_steps, steps, ports };
    let differs: String = differences.iter().map(|line| format!("# differs now: {}\n", printable(line))).collect();
    print(&match form {
        Explain::Text => format!("{differs}{}", script.lines(is_coloured(stdout().is_terminal()))),
        Explain::Sh => script.text().replacen("set -eu\n", &format!("{differs}set -eu\n"), 1),
        Explain::Json => format!("{:#}\n", script.json()),
    })
}
