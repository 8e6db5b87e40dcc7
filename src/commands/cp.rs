//! `minirun cp`: files between a container and the host.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Args;

use crate::copy::{self, HostEnd, Options};
use crate::error::refused;
use crate::state::State;

/// Copy files and directories between a container and the host
///
/// A path without a container is one of the host; one that has a colon in it is written with a slash or `./` before it.
/// Paths in the container begin at its root, and nothing in it leads out of there. What it has mounted, volumes too, is
/// copied as it sees it, but not the kernel's file systems (/proc, /sys), devices and sockets.
///
/// A file goes to a new name, in the place of a file, or into a directory that exists. A directory becomes a new one of the
/// destination's name, or goes into one that exists; of `DIRECTORY/.` only the content does. The destination's parent must
/// exist. Modes and times are kept. Copies in the container are root's, copies on the host the caller's and without set-ID
/// bits. Directories that existed keep what they had.
#[derive(Debug, Args)]
#[command(override_usage = "minirun cp [OPTIONS] CONTAINER:PATH HOSTPATH|-
       minirun cp [OPTIONS] HOSTPATH|- CONTAINER:PATH")]
#[command(after_help = "\
Examples:
  minirun cp web:/etc/nginx/nginx.conf .     a file to here
  minirun cp ./site/. web:/var/www           what is in a directory to a directory
  minirun cp web:/var/log - | tar -t         a tar stream
  minirun cp a:/data - | minirun cp - b:/    from one container to another")]
pub struct CpArgs {
    /// Keep owners and groups
    #[arg(short, long)]
    archive: bool,
    /// Where the source is a symbolic link, copy what it leads to
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// What to copy: CONTAINER:PATH, a path of the host, or `-` for a tar stream on standard input
    #[arg(value_name = "SOURCE")]
    source: OsString,
    /// Where to: CONTAINER:PATH, a path of the host, or `-` for a tar stream on standard output
    #[arg(value_name = "DESTINATION")]
    destination: OsString,
}

/// Copies.
pub fn cp(args: &CpArgs, root: &Path) -> Result<()> {
    let options = |first_ids| {
        let (archive, follow, quiet) = (args.archive, args.follow_link, args.quiet);
        Options { archive, follow, quiet, first_ids }
    };
    // The root directory of a container, and what its user and group 0 are.
    let open = |name: &[u8]| -> Result<(OwnedFd, (u32, u32))> {
        let found = State::open(root)?.find(&container(name)?)?;
        Ok((found.root("copy files of")?, found.record.inside.ids.unwrap_or_default()))
    };
    let copied = match (End::parse(&args.source), End::parse(&args.destination)) {
        (End::Container(name, path), End::Host(to)) => {
            let (root, ids) = open(name)?;
            copy::out(root.as_fd(), given(path)?, to, options(ids))
        }
        (End::Host(from), End::Container(name, path)) => {
            let (root, ids) = open(name)?;
            copy::into(from, root.as_fd(), given(path)?, options(ids))
        }
        (End::Container(..), End::Container(..)) => Err(refused(
            "both are in containers",
            "copy by a tar stream: `minirun cp A:PATH - | minirun cp - B:DIRECTORY`",
        )),
        (End::Host(_), End::Host(_)) => Err(refused("neither is in a container", "name it: `CONTAINER:PATH`")),
    };
    let (from, to) = (args.source.to_string_lossy(), args.destination.to_string_lossy());
    copied.with_context(|| format!("copy `{from}` to `{to}`"))
}

fn container(name: &[u8]) -> Result<String> {
    String::from_utf8(name.to_vec()).ok().context("the name of the container is no text")
}

fn given(path: &[u8]) -> Result<&[u8]> {
    if path.is_empty() {
        return Err(refused("there is no path behind the name", "the root directory is `CONTAINER:/`"));
    }
    Ok(path)
}

/// One end of a copy.
#[derive(Debug)]
enum End<'a> {
    /// A name and a path.
    Container(&'a [u8], &'a [u8]),
    Host(HostEnd<'a>),
}

impl<'a> End<'a> {
    /// As docker has it: the first colon ends the name of a container, unless a slash or a dot begins the word.
    fn parse(word: &'a OsStr) -> Self {
        let word = word.as_bytes();
        if word == b"-" {
            return End::Host(HostEnd::Stream);
        }
        match word.iter().position(|byte| *byte == b':') {
            Some(colon @ 1..) if !matches!(word[0], b'/' | b'.') => End::Container(&word[..colon], &word[colon + 1..]),
            _ => End::Host(HostEnd::Path(word)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(word: &[u8]) -> Option<(&[u8], &[u8])> {
        match End::parse(OsStr::from_bytes(word)) {
            End::Container(name, path) => Some((name, path)),
            End::Host(HostEnd::Path(path)) => {
                assert_eq!(path, word);
                None
            }
            End::Host(HostEnd::Stream) => {
                assert_eq!(word, b"-");
                None
            }
        }
    }

    #[test]
    fn a_colon_makes_a_container_unless_a_slash_or_dot_begins() {
        assert_eq!(parse(b"web:/a:b"), Some((&b"web"[..], &b"/a:b"[..])));
        assert_eq!(parse(b"web:"), Some((&b"web"[..], &b""[..])));
        for host in [&b"./a:b"[..], b"/a:b", b"../a:b", b".a:b", b":/a", b"a/b", b"-", b"", b":"] {
            assert_eq!(parse(host), None, "{host:?}");
        }
        // A slash before the colon makes no difference to docker either.
        assert_eq!(parse(b"a/b:c"), Some((&b"a/b"[..], &b"c"[..])));
    }

    proptest! {
        #[test]
        fn every_word_is_split_without_loss(word in proptest::collection::vec(prop_oneof![Just(b':'), Just(b'/'), Just(b'.'), Just(b'-'), any::<u8>()], 0..12)) {
            if let Some((name, path)) = parse(&word) {
                prop_assert!(!name.is_empty() && !name.contains(&b':') && !name.starts_with(b"/") && !name.starts_with(b"."));
                prop_assert_eq!([name, b":", path].concat(), word);
            } else {
                let begins = word.first().is_none_or(|first| matches!(first, b'/' | b'.' | b':'));
                prop_assert!(begins || !word.contains(&b':'));
            }
        }

        #[test]
        fn a_name_and_a_path_come_back(name in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", path in proptest::collection::vec(any::<u8>(), 0..20)) {
            let word = [name.as_bytes(), b":", &path].concat();
            prop_assert_eq!(parse(&word), Some((name.as_bytes(), &path[..])));
        }
    }
}
