//! `minirun image`: the store's images by hand.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::{Args, Subcommand};

use crate::error::{Advice, printable};
use crate::image::{Entry, Store};
use crate::listing::cells::decimal;
use crate::listing::{self, Column, ListArgs, Listing};

/// Import, list and remove images
#[derive(Debug, Args)]
pub struct ImageArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Import(Import),
    Ls(Ls),
    Rm(Rm),
}

/// Make an image of a root file system in a tar archive
///
/// The archive is plain or compressed by gzip. An image of the same name is replaced, unless a container runs from it.
/// Devices, sparse files and entries that lead out of the tree are refused, and then nothing is kept. Owners, modes
/// and times are kept, extended attributes (file capabilities) are not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  minirun image import rootfs.tar.gz web
  docker export $(docker create alpine) | minirun image import - alpine
  tar -C DIRECTORY -c . | minirun image import - mine:1.0")]
struct Import {
    /// The archive, or `-` for standard input
    tar: String,
    /// The name of the image
    name: String,
}

/// List the images
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  minirun image ls
  minirun image ls --format json
  minirun image ls --format '{{.Name}} {{.Size}}'
  minirun image rm $(minirun image ls -q)")]
struct Ls {
    #[command(flatten)]
    list: ListArgs,
}

/// Remove images
///
/// An image that a container runs from stays, and the others are removed nevertheless.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  minirun image rm alpine
  minirun image rm web:1.0 web:1.1")]
struct Rm {
    /// The names of the images
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

/// Does what was asked for with the store below `data_root`.
pub fn image(args: &ImageArgs, data_root: &Path) -> Result<()> {
    let store = Store::open(data_root)?;
    let mut out = Vec::new();
    let done = match &args.verb {
        Verb::Import(args) => import(&store, args, &mut out),
        Verb::Ls(args) => return listing::print(&args.list, &store.list()?, &listing()),
        Verb::Rm(args) => rm(&store, args, &mut out),
    };
    // Also after an error: of several images, some were removed.
    let printed = io::stdout().write_all(&out).context("write to standard output");
    done.and(printed)
}

fn import(store: &Store, args: &Import, out: &mut Vec<u8>) -> Result<()> {
    let archive: Box<dyn Read> = match args.tar.as_str() {
        "-" if io::stdin().is_terminal() => {
            return Err(anyhow!("read the archive: standard input is a terminal"))
                .remedy("give a file, or a pipe: `tar -C DIRECTORY -c . | minirun image import - NAME`");
        }
        "-" => Box::new(io::stdin().lock()),
        path => Box::new(File::open(path).with_context(|| format!("open `{}`", printable(path)))?),
    };
    let entry = match io::stderr().is_terminal() {
        true => store.import(&args.name, Progress { archive, read: 0, shown: None }),
        false => store.import(&args.name, archive),
    }?;
    writeln!(out, "{}  {}", entry.name, decimal(entry.size))?;
    Ok(())
}

fn listing() -> Listing<'static, Entry> {
    Listing {
        columns: vec![
            Column::new("NAME", |entry: &Entry| entry.name.clone()),
            Column::new("CREATED", |entry: &Entry| entry.created.clone()),
            Column::new("SIZE", |entry: &Entry| decimal(entry.size)).right(),
            Column::new("FILES", |entry: &Entry| entry.files.to_string()).right(),
        ],
        id: |entry| &entry.name,
        aliases: &[("Repository", "name"), ("CreatedAt", "created")],
    }
}

/// Removes each, and reports all that stay.
fn rm(store: &Store, args: &Rm, out: &mut Vec<u8>) -> Result<()> {
    let mut errors = Vec::new();
    for name in &args.names {
        match store.remove(name) {
            Ok(()) => writeln!(out, "{}", printable(name))?,
            Err(e) => errors.push(e),
        }
    }
    // One error keeps its remedy.
    let Some(last) = errors.pop() else { return Ok(()) };
    if errors.is_empty() {
        return Err(last);
    }
    errors.push(last);
    let all: Vec<_> = errors.iter().map(|e| format!("{e:#}")).collect();
    Err(anyhow!(all.join("; ")))
}

/// Shows on the terminal how much of an archive was read, and takes that away at the end.
struct Progress<R> {
    archive: R,
    read: u64,
    shown: Option<Instant>,
}

impl<R: Read> Read for Progress<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.archive.read(buffer)?;
        self.read += count as u64;
        if self.shown.is_none_or(|shown| shown.elapsed() > Duration::from_millis(100)) {
            self.shown = Some(Instant::now());
            // The terminal may be gone, which is no reason to stop.
            let _ = write!(io::stderr(), "\r\x1b[Kread {}", decimal(self.read));
        }
        Ok(count)
    }
}

impl<R> Drop for Progress<R> {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        image: ImageArgs,
    }

    fn parse(line: &str) -> Result<ImageArgs, clap::Error> {
        Cli::try_parse_from(format!("image {line}").split(' ')).map(|cli| cli.image)
    }

    #[test]
    fn what_can_be_typed() {
        for line in ["import a.tar x", "import - x", "ls", "ls -q", "ls --format json", "rm a", "rm a b"] {
            parse(line).unwrap_or_else(|e| panic!("{e}"));
        }
        for line in ["", "import x", "rm", "ls --format xml", "ls -q --format json"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn listings_are_aligned_and_escaped() {
        let entry =
            |name: &str, size| Entry { name: name.into(), created: "2026-01-02T03:04:05Z".into(), size, files: 7 };
        let entries = [entry("a\u{1b}", 5), entry("example.org/web:1.0", 123_456_789)];
        let text = listing::text(&ListArgs::default(), &entries, &listing(), true).unwrap();
        insta::assert_snapshot!(text, @r"
        NAME                 CREATED                 SIZE  FILES
        a\u{1b}              2026-01-02T03:04:05Z     5 B      7
        example.org/web:1.0  2026-01-02T03:04:05Z  123 MB      7
        ");
    }

    #[test]
    fn removal_goes_on_after_an_error_and_reports_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_path("f").unwrap();
        header.set_size(0);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        let archive = [header.as_bytes().as_slice(), &[0; 1024]].concat();
        store.import("kept", &archive[..]).unwrap();
        store.import("gone", &archive[..]).unwrap();
        let used = store.find("kept").unwrap();
        let mut out = Vec::new();
        let names = ["none", "kept", "gone"].map(str::to_owned).to_vec();
        let error = format!("{:#}", rm(&store, &Rm { names }, &mut out).unwrap_err());
        assert_eq!(error, "remove image `none`: there is no such image; remove image `kept`: it is in use");
        assert_eq!(out, b"gone\n");
        drop(used);
        assert_eq!(store.list().unwrap().len(), 1);
    }
}
