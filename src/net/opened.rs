//! Which settings of the host's own links minirun turned on: the file `opened` of the hub.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::network::Ground;

/// Remembers which settings minirun turned on, so that they can be turned off again. Called under the hub's lock, before the
/// steps are done: a setting in the list that was not turned on after all is harmless.
pub fn remember_opened(directory: &Path, ground: &Ground) -> Result<()> {
    if ground.opened.is_empty() && !ground.forgotten {
        return Ok(());
    }
    let before = opened_before(directory);
    let before: Vec<String> =
        before.into_iter().filter(|key| !(ground.forgotten && key.starts_with("net/ipv4/"))).collect();
    let new = ground.opened.iter().filter(|key| !before.contains(key)).cloned();
    write(directory, &before.iter().cloned().chain(new).collect::<Vec<_>>())
}

/// They are turned off again. Called under the hub's lock.
pub fn forget_opened(directory: &Path, keys: &[String]) -> Result<()> {
    let mut left = opened_before(directory);
    left.retain(|key| !keys.contains(key));
    if left.is_empty() { remove(&directory.join("opened")) } else { write(directory, &left) }
}

fn write(directory: &Path, all: &[String]) -> Result<()> {
    let path = directory.join("opened");
    let temporary = directory.join("opened.new");
    remove(&temporary)?;
    let mut file = crate::state::open_private(&temporary)?;
    std::io::Write::write_all(&mut file, all.join("\n").as_bytes()).context("write the list of opened links")?;
    fs::rename(&temporary, &path).with_context(|| format!("rename `{}`", temporary.display()))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

/// The settings that earlier commands turned on, as [`remember_opened`] wrote them.
pub fn opened_before(directory: &Path) -> Vec<String> {
    let text = fs::read_to_string(directory.join("opened")).unwrap_or_default();
    let plain = |key: &&str| key.starts_with("net/ipv") && key.ends_with("forwarding") && !key.contains("..");
    text.lines().filter(plain).map(str::to_owned).collect()
}
