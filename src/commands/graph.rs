//! `minirun graph`: the machine's network as it is now, as text, picture or data.

use std::io::{IsTerminal, stdout};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::error::{is_coloured, print, refused};
use crate::graph::draw::text::Look;
use crate::graph::draw::{dot, mermaid, svg, text};
use crate::graph::gather::gather;
use crate::graph::model::Graph;
use crate::graph::scene::scene;
use crate::graph::select::select;
use crate::graph::{escape, watch};
use crate::state;

/// Options of `graph`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  minirun graph                                what there is now, as text
  minirun graph web back                       only container web and network back
  minirun graph --watch                        again whenever it changes
  minirun graph --format svg >network.svg      a picture, for light and dark
  minirun graph --format dot | dot -Tpdf -o network.pdf
  minirun graph --format json | jq '.namespaces[].names'

Everything is read from the kernel: also what docker, podman or `ip netns add` made. Nothing is changed.")]
pub struct GraphArgs {
    /// The form
    #[arg(long, value_enum, default_value_t = Form::Text, value_name = "FORM")]
    format: Form,
    /// Draw everything, also the rest of many containers on one network
    #[arg(short, long)]
    all: bool,
    /// Add what went through each link
    #[arg(long)]
    stats: bool,
    /// Draw it again when something changes, and every so many seconds (2 unless said otherwise), until Ctrl-C
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "")]
    watch: Option<String>,
    /// Only these: containers, networks, namespaces, or links of the host
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// How it is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Lines of text
    Text,
    /// A picture
    Svg,
    /// For graphviz
    Dot,
    /// For Markdown
    Mermaid,
    /// All that is known
    Json,
}

/// What is drawn without a terminal to ask is so wide.
const WIDTH: usize = 100;

/// Draws it. The exit code.
pub fn graph(args: &GraphArgs, root: &Path) -> Result<u8> {
    let mut names = args.names.clone();
    let Some(wish) = &args.watch else {
        let columns = if stdout().is_terminal() { watch::columns() } else { WIDTH };
        print(&drawn(args, &names, root, columns)?)?;
        return Ok(0);
    };
    // `--watch web` is a name, and no number of seconds.
    let interval = match wish.parse::<f64>() {
        _ if wish.is_empty() => Duration::from_secs(2),
        Ok(seconds) if (0.1..=86400.0).contains(&seconds) => Duration::from_secs_f64(seconds),
        Ok(seconds) => bail!("watch the network: {seconds} s is not between 0.1 and 86400"),
        Err(_) => {
            names.push(wish.clone());
            Duration::from_secs(2)
        }
    };
    if args.format != Form::Text || !stdout().is_terminal() {
        let remedy = "leave out --watch, or --format and whatever takes the output";
        return Err(refused("watch the network: only a terminal can show it, as text", remedy));
    }
    watch::watch(interval, |columns| drawn(args, &names, root, columns))
}

fn drawn(args: &GraphArgs, names: &[String], root: &Path, columns: usize) -> Result<String> {
    let graph = select(gather(&state::living(root), args.stats)?, names)?;
    if args.format == Form::Json {
        return in_json(&graph);
    }
    let scene = scene(&graph, args.all);
    Ok(match args.format {
        Form::Svg => svg::svg(&scene),
        Form::Dot => dot::dot(&scene),
        Form::Mermaid => mermaid::mermaid(&scene),
        Form::Text | Form::Json => text::text(&scene, look(columns)),
    })
}

fn in_json(graph: &Graph) -> Result<String> {
    Ok(format!("{}\n", escape::json(&serde_json::to_string_pretty(graph)?)))
}

/// How text looks, by what the locale and the terminal are said to be.
fn look(columns: usize) -> Look {
    let said = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(said).unwrap_or_default().to_lowercase();
    let dumb = said("TERM").is_some_and(|terminal| terminal == "dumb");
    Look {
        width: columns.max(40),
        unicode: !dumb && (locale.contains("utf-8") || locale.contains("utf8")),
        color: is_coloured(stdout().is_terminal()),
    }
}
