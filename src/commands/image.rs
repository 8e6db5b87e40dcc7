//! `minirun image`: the store's images by hand.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::{Args, Subcommand, ValueEnum};

use crate::error::{Advice, printable};
use crate::image::{Entry, Store};

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
  minirun image rm $(minirun image ls -q)")]
struct Ls {
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Print the names only
    #[arg(short, long, conflicts_with = "format")]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Aligned columns
    Table,
    /// An array of objects
    Json,
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
        Verb::Ls(args) => ls(&store, args, &mut out),
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

fn ls(store: &Store, args: &Ls, out: &mut Vec<u8>) -> Result<()> {
    let entries = store.list()?;
    if args.quiet {
        for entry in &entries {
            writeln!(out, "{}", printable(&entry.name))?;
        }
        return Ok(());
    }
    match args.format {
        Format::Table => table(&entries, out)?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, &entries)?;
            out.push(b'\n');
        }
    }
    Ok(())
}

fn table(entries: &[Entry], out: &mut Vec<u8>) -> io::Result<()> {
    let names: Vec<_> = entries.iter().map(|entry| printable(&entry.name)).collect();
    let width = names.iter().map(|name| name.len()).fold("NAME".len(), usize::max);
    writeln!(out, "{:width$}  {:20}  {:>9}  {:>8}", "NAME", "CREATED", "SIZE", "FILES")?;
    for (entry, name) in entries.iter().zip(names) {
        let created = printable(&entry.created);
        writeln!(out, "{name:width$}  {created:20}  {:>9}  {:>8}", decimal(entry.size), entry.files)?;
    }
    Ok(())
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

/// Bytes in units of a thousand, three figures.
pub(crate) fn decimal(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let mut size = bytes as f64 / 1000.0;
    let mut unit = 0;
    // Where three figures would round to a thousand, the next unit.
    while size >= 999.5 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    let digits = if size < 9.995 { 2 } else { usize::from(size < 99.95) };
    format!("{size:.digits$} {}", UNITS[unit])
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
    fn sizes_have_three_figures() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_994, "9.99 kB"),
            (9_996, "10.0 kB"),
            (99_960, "100 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (1_982_256, "1.98 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(decimal(bytes), text);
        }
    }

    #[test]
    fn listings_are_aligned_and_escaped() {
        let entry =
            |name: &str, size| Entry { name: name.into(), created: "2026-01-02T03:04:05Z".into(), size, files: 7 };
        let mut out = Vec::new();
        table(&[entry("a\u{1b}", 5), entry("example.org/web:1.0", 123_456_789)], &mut out).unwrap();
        insta::assert_snapshot!(String::from_utf8(out).unwrap(), @r"
        NAME                 CREATED                    SIZE     FILES
        a\u{1b}              2026-01-02T03:04:05Z        5 B         7
        example.org/web:1.0  2026-01-02T03:04:05Z     123 MB         7
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
