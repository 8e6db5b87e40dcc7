//! Telling an archive of image layers from one of a root file system.
//!
//! `docker save` and `docker export` write both as tar, and the first looks like a tree of odd files. Called for each entry
//! of an import.

use anyhow::{Result, anyhow};

use crate::error::Advice;

const REMEDY: &str = "`docker export $(docker create IMAGE) | minirun image import - NAME`";

/// What was seen of an archive so far.
#[derive(Default)]
pub(super) struct Layers {
    manifest: bool,
    layer: bool,
}

impl Layers {
    /// Refuses the entry at the clean `path` if the archive now is one of layers: one file of these names alone can be
    /// part of a root file system.
    pub(super) fn check(&mut self, path: &[u8]) -> Result<()> {
        let hash = |id: &[u8]| id.len() == 64 && id.iter().all(u8::is_ascii_hexdigit);
        self.manifest |= path == b"manifest.json";
        self.layer |= path.starts_with(b"blobs/sha256/")
            || path.strip_suffix(b"/layer.tar").is_some_and(|id| !id.contains(&b'/'))
            || path.strip_suffix(b".tar").is_some_and(hash);
        if path == b"oci-layout" || self.manifest && self.layer {
            return Err(anyhow!(
                "the archive has the layers of an image, as `docker save` writes them, and no root file system"
            ))
            .remedy(REMEDY);
        }
        Ok(())
    }
}

/// Refuses an entry that says which file of a lower layer is gone.
pub(super) fn whiteout<T>() -> Result<T> {
    Err(anyhow!("it is a whiteout: the archive is one layer of an image, and no root file system")).remedy(REMEDY)
}
