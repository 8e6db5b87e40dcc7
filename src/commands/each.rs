//! What is done to several containers: each is tried, its word is printed when it is done, and all errors are told.

use std::path::Path;

use anyhow::{Result, anyhow};

use crate::error::{print, printable};
use crate::state::{Found, State};

/// Does `act` to each container that `words` name.
pub fn each(words: &[String], root: &Path, act: impl Fn(&State, &Found) -> Result<()>) -> Result<()> {
    let state = State::open(root)?;
    all(words, |word| {
        act(&state, &state.find(word)?)?;
        print(&format!("{}\n", printable(word)))
    })
}

/// Does `act` with each word; the errors of all.
pub fn all(words: &[String], mut act: impl FnMut(&str) -> Result<()>) -> Result<()> {
    let mut errors = Vec::new();
    for word in words {
        errors.extend(act(word).err());
    }
    // One error keeps its remedy.
    let Some(last) = errors.pop() else { return Ok(()) };
    if errors.is_empty() {
        return Err(last);
    }
    errors.push(last);
    let all: Vec<_> = errors.iter().map(|error| format!("{error:#}")).collect();
    Err(anyhow!(all.join("; ")))
}
