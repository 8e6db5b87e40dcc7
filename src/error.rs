//! Errors as people read them: one line `verb object: cause`, then the remedy where one is known.
//!
//! Every function returns `anyhow::Result`; what a reader needs beyond the message (the remedy, an exit code other than
//! 125) is attached with [`Advice`] where it is known and found again by [`report`], which `main` calls once.

use std::fmt;
use std::io::{IsTerminal, Write};

use anyhow::{Context, Error, Result};

/// minirun's own exit code for its own errors, as docker's and podman's.
pub const EXIT_FAILED: u8 = 125;
/// The program was found and cannot be executed.
pub const EXIT_CANNOT_RUN: u8 = 126;
/// The program was not found.
pub const EXIT_NOT_FOUND: u8 = 127;

/// An error with advice. It displays as the error it carries, so that the chain reads as if it were not there.
#[derive(Debug)]
struct Advised {
    error: Error,
    remedy: Option<String>,
    code: Option<u8>,
}

impl fmt::Display for Advised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Advised {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.chain().nth(1)
    }
}

/// Adds to an error what helps its reader.
pub trait Advice<T> {
    /// The line below the error: what to do about it.
    fn remedy(self, remedy: impl Into<String>) -> Result<T>;
    /// The exit code of minirun, where it is not [`EXIT_FAILED`].
    fn exit_code(self, code: u8) -> Result<T>;
}

impl<T, E: Into<Error>> Advice<T> for Result<T, E> {
    fn remedy(self, remedy: impl Into<String>) -> Result<T> {
        self.map_err(|error| Advised { error: error.into(), remedy: Some(remedy.into()), code: None }.into())
    }

    fn exit_code(self, code: u8) -> Result<T> {
        self.map_err(|error| Advised { error: error.into(), remedy: None, code: Some(code) }.into())
    }
}

/// An error with its remedy.
pub fn refused(message: impl Into<String>, remedy: impl Into<String>) -> Error {
    let (error, remedy) = (anyhow::anyhow!(message.into()), Some(remedy.into()));
    Advised { error, remedy, code: None }.into()
}

/// The exit code that goes with an error.
pub fn exit_code_of(error: &Error) -> u8 {
    advice(error).find_map(|advised| advised.code).unwrap_or(EXIT_FAILED)
}

/// The remedy that goes with an error.
pub fn remedy_of(error: &Error) -> Option<&str> {
    advice(error).find_map(|advised| advised.remedy.as_deref())
}

fn advice(error: &Error) -> impl Iterator<Item = &Advised> {
    error.chain().filter_map(|cause| cause.downcast_ref::<Advised>())
}

/// Prints an error and its remedy to standard error and returns the exit code that goes with it.
pub fn report(error: &Error) -> u8 {
    let mut lines = format!("minirun: {}\n", printable(&without_numbers(&format!("{error:#}"))));
    if let Some(remedy) = remedy_of(error) {
        lines.push_str(&format!("  {}\n", printable(remedy)));
    }
    tell(&lines);
    exit_code_of(error)
}

/// Whether what is printed may have colours: on a terminal that knows any, unless NO_COLOR is set (no-color.org).
pub fn is_coloured(terminal: bool) -> bool {
    let is_dumb = std::env::var_os("TERM").is_some_and(|name| name == "dumb");
    terminal && !is_dumb && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The text of a help, with bold words on a terminal unless NO_COLOR is set (no-color.org).
fn styled(usage: &clap::Error, terminal: bool) -> String {
    let plain = !is_coloured(terminal);
    if plain { usage.render().to_string() } else { usage.render().ansi().to_string() }
}

/// `text` without the `(os error N)` that the standard library puts behind the words of an error.
fn without_numbers(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain.push_str(part.split_once(')').map_or("", |(_, rest)| rest));
    }
    plain
}

/// Prints what was wrong with a command line, or the help that it asked for, and returns the exit code.
pub fn report_usage(usage: &clap::Error) -> u8 {
    if !usage.use_stderr() {
        return print(&styled(usage, std::io::stdout().is_terminal())).map_or(EXIT_FAILED, |()| 0);
    }
    if usage.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        tell(&styled(usage, std::io::stderr().is_terminal()));
        return EXIT_FAILED;
    }
    let text = usage.render().to_string();
    let mut parts = text
        .trim_start_matches("error: ")
        .split("\n\n")
        .map(|part| part.split_whitespace().collect::<Vec<_>>().join(" "));
    let message = parts.next().unwrap_or_default();
    // Of what begins with a dash nothing is an image or a container: that it could be meant so is no help.
    let mut tips = parts.filter_map(|part| part.strip_prefix("tip: ").map(str::to_owned));
    let useful = |tips: String| tips.split(" tip: ").find(|tip| !tip.starts_with("to pass")).map(str::to_owned);
    let tip = tips.next().and_then(useful);
    let tip = tip.unwrap_or_else(|| "see `minirun --help`, `minirun run --help`".into());
    tell(&format!("minirun: parse command line: {}\n  {}\n", printable(&message), printable(&tip)));
    EXIT_FAILED
}

/// Tells of something that was done on the host and stays.
pub fn note(message: &str) {
    tell(&format!("minirun: {}\n", printable(message)));
}

/// Prints a warning: something that the person should know and that stops nothing.
pub fn warn(message: &str) {
    tell(&format!("minirun: warning: {}\n", printable(message)));
}

/// Writes to standard error. Where that is broken there is nobody to tell, and no reason to fail.
pub fn tell(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Writes what was asked for to standard output. A reader who has seen enough and has gone is no error.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error).context("write to standard output"),
        _ => Ok(()),
    }
}

/// Whether somebody reads standard output still.
pub fn has_reader() -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let out = std::io::stdout();
    let mut fds = [PollFd::new(out.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready == 0)
}

/// `text` with its control characters escaped: names come from images, archives and command lines, and none of them may
/// speak to the terminal.
pub fn printable(text: &str) -> String {
    if !text.chars().any(char::is_control) {
        return text.to_owned();
    }
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn advice_is_found_below_context_and_is_not_in_the_message() {
        let inner: Result<()> = Err(anyhow!("no such file"));
        let error = inner.remedy("make it").exit_code(EXIT_NOT_FOUND).context("open `x`").unwrap_err();
        assert_eq!(format!("{error:#}"), "open `x`: no such file");
        assert_eq!(report(&error), EXIT_NOT_FOUND);
    }

    #[test]
    fn numbers_of_errors_are_left_out() {
        assert_eq!(without_numbers("a: No such file (os error 2): b (os error 13)"), "a: No such file: b");
        assert_eq!(without_numbers("plain (x)"), "plain (x)");
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\u{1b}[31m\nb"), "a\\u{1b}[31m\\nb");
        assert_eq!(printable("plain ä"), "plain ä");
    }
}
