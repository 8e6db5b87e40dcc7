//! The names of images: what is a name, and the directory that a name stands for.
//!
//! Used by the store alone. A name that passed [`normalize`] is the only thing that becomes part of a path in the store,
//! so nothing that a person types (`..`, a leading `/` or dot, control characters) reaches the file system.

use anyhow::{Result, bail};

use crate::error::{Advice, printable};

/// The longest name. Its directory has the same length, so this stays far below the 255 bytes of a file name.
const LENGTH: usize = 128;

/// The name as the store keeps it: checked, and without a `:latest`, which means the same as no tag.
///
/// A name is parts of `[a-z0-9._-]` between `/` and `:`, of which the first begins with a letter or digit.
pub(super) fn normalize(name: &str) -> Result<&str> {
    if let Err(reason) = check(name) {
        return Err(anyhow::anyhow!("use image name `{}`: {reason}", printable(name)))
            .remedy("a name is lower-case letters, digits and `. _ - / :`, as in `alpine` or `example.org/web:1.2`");
    }
    Ok(name.strip_suffix(":latest").unwrap_or(name))
}

fn check(name: &str) -> Result<()> {
    if name.len() > LENGTH {
        bail!("it is longer than {LENGTH} bytes");
    }
    if let Some(c) = name.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '_' | '/' | ':' | '-')) {
        bail!("`{}` cannot be part of it", printable(&c.to_string()));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        bail!("it does not begin with a letter or digit");
    }
    if name.contains("..") || name.split(['/', ':']).any(|part| part.is_empty() || part == ".") {
        bail!("it has an empty or a dotted part");
    }
    Ok(())
}

/// The directory of an image below `images/`, for a normalized name.
///
/// `/` would be a directory of its own, and `:` separates the layers in the options of an overlay mount, so both are
/// written as characters that no name has.
pub(super) fn directory(name: &str) -> String {
    name.replace('/', "+").replace(':', "@")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_names() {
        for name in ["a", "busybox", "alpine:3.20", "docker.io/library/alpine", "localhost:5000/a-b_c:v1.0", "0"] {
            assert_eq!(normalize(name).unwrap(), name);
        }
        assert_eq!(normalize("alpine:latest").unwrap(), "alpine");
        assert_eq!(normalize("latest").unwrap(), "latest");
        assert_eq!(normalize(&"a".repeat(128)).unwrap().len(), 128);
    }

    #[test]
    fn names_that_are_refused() {
        let long = "a".repeat(129);
        for name in [
            "",
            ".",
            "..",
            "../x",
            "/x",
            "x/",
            "x//y",
            "x/../y",
            "x/./y",
            "x:",
            ":x",
            "x::y",
            "x..y",
            "-x",
            ".x",
            "_x",
            "X",
            "a b",
            "a\n",
            "a\u{1b}[31m",
            "a\0b",
            "ä",
            "a+b",
            "a@b",
            "a\\b",
            &long,
        ] {
            assert!(normalize(name).is_err(), "{name:?} was taken");
        }
        assert_eq!(
            format!("{:#}", normalize("a\u{1b}").unwrap_err()),
            "use image name `a\\u{1b}`: `\\u{1b}` cannot be part of it"
        );
    }

    #[test]
    fn directories_are_one_component_and_differ() {
        assert_eq!(directory("localhost:5000/a/b:1"), "localhost@5000+a+b@1");
        assert_ne!(directory("a/b"), directory("a:b"));
    }
}
