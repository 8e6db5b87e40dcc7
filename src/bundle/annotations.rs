//! The annotations of a bundle: those that stand for options of minirun's, and labels.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::kernel::NetworkOf;
use super::{PREFIX, honoured, part};
use crate::cli::RunArgs;
use crate::error::refused;
use crate::net::Net;
use crate::options;

/// The options that annotations stand for, beside those that were typed; the other annotations; whether changes to the root
/// stay in memory.
pub fn annotations(
    config: &Value,
    typed: &RunArgs,
    network: &NetworkOf,
    terminal: bool,
) -> Result<(RunArgs, BTreeMap<String, String>, bool)> {
    const ACTED_ON: [&str; 3] = ["run.oci.", "org.systemd.property.", "org.criu."];
    let mut labels: BTreeMap<String, String> = part(config, "annotations")?.unwrap_or_default();
    if let Some(name) = labels.keys().find(|name| ACTED_ON.iter().any(|prefix| name.starts_with(prefix))) {
        return Err(honoured::unsupported(&format!("annotation `{name}`")));
    }
    let mut own = RunArgs { words: vec![], tty: terminal, label: vec![], ..typed.clone() };
    let mut take = |name: &str| labels.remove(&format!("{PREFIX}{name}"));
    let asked = take("net").map(|text| text.split(' ').map(|word| parsed("net", word)).collect::<Result<Vec<Net>>>());
    let asked = asked.transpose()?;
    let overlay = match take("root").as_deref() {
        None => false,
        Some("overlay") => true,
        Some(_) => bail!("refuse bundle: annotation `{PREFIX}root`: overlay is wanted"),
    };
    own.stop_signal = take("stop-signal");
    if let Some(text) = take("stop-timeout") {
        own.stop_timeout = parsed("stop-timeout", &text)?;
    }
    own.init = flag("init", take("init").as_deref())?;
    own.interactive |= flag("interactive", take("interactive").as_deref())?;
    let words = |text: Option<String>| text.map_or(vec![], |text| text.split(',').map(str::to_owned).collect());
    own.network.add_host = words(take("add-host"));
    own.network.dns = words(take("dns")).iter().map(|text| parsed("dns", text)).collect::<Result<_>>()?;
    if let Some(signal) = &own.stop_signal {
        options::signal(signal).with_context(|| format!("refuse bundle: annotation `{PREFIX}stop-signal`"))?;
    }
    if let Some(name) = labels.keys().find(|name| name.is_empty() || name.starts_with(PREFIX)) {
        return Err(honoured::unsupported(&format!("annotation `{name}`")));
    }
    own.network.net = nets(network, &typed.network.net, asked.as_deref().unwrap_or_default())?;
    Ok((own, labels, overlay))
}

fn parsed<T: FromStr<Err: Display>>(name: &str, text: &str) -> Result<T> {
    text.parse().map_err(|error| anyhow::anyhow!("refuse bundle: annotation `{PREFIX}{name}`: `{text}`: {error}"))
}

fn flag(name: &str, text: Option<&str>) -> Result<bool> {
    match text {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => bail!("refuse bundle: annotation `{PREFIX}{name}`: true or false is wanted"),
    }
}

/// The networks. In a namespace of its own: what was typed, else what the annotation says, else none.
fn nets(network: &NetworkOf, typed: &[Net], asked: &[Net]) -> Result<Vec<Net>> {
    let wanted = if typed.is_empty() { asked } else { typed };
    match network {
        NetworkOf::Own if wanted.iter().any(|net| matches!(net, Net::Host | Net::Container(_) | Net::Namespace(_))) => {
            Err(refused(
                format!(
                    "refuse bundle: linux.namespaces: it asks for a network namespace, and not for --net={}",
                    wanted[0]
                ),
                "take `network` out of the list, or leave out --net",
            ))
        }
        NetworkOf::Own if wanted.is_empty() => Ok(vec![Net::None]),
        NetworkOf::Own => Ok(wanted.to_vec()),
        // Nothing is done in a network that is joined, as nothing is in the host's.
        NetworkOf::Host if wanted.iter().all(|net| *net == Net::Host) => Ok(vec![Net::Host]),
        NetworkOf::Path(_) if typed.is_empty() => Ok(vec![Net::Host]),
        _ => Err(refused(
            "refuse bundle: linux.namespaces: it asks for no network namespace of its own, so --net has no place",
            "add `network` to the list, without a path",
        )),
    }
}
