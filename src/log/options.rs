//! `--log-opt`: how much of a log is kept.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::error::refused;
use crate::size;

/// Below this a file would hold little more than what stands before the text of its records.
pub(super) const SMALLEST: u64 = 4096;
/// A reader holds all files open at a time.
pub(super) const MOST_FILES: u32 = 100;

/// How much of a log is kept.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Bytes of a file, at least 4096.
    pub max_size: u64,
    /// Files, 1 to 100.
    pub max_file: u32,
}

impl Default for Options {
    /// 30 MiB. (docker keeps all, until the disk is full.)
    fn default() -> Options {
        Options { max_size: 10 << 20, max_file: 3 }
    }
}

impl Options {
    /// What `--log-opt KEY=VALUE` says, given any number of times.
    pub fn parse<S: AsRef<str>>(texts: &[S]) -> Result<Options> {
        let mut options = Options::default();
        for text in texts.iter().map(AsRef::as_ref) {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            match key {
                "max-size" => options.max_size = max_size(value)?,
                "max-file" => options.max_file = count(value)?,
                _ => {
                    return Err(refused(
                        format!("read log option `{text}`: there is no option `{key}`"),
                        "there are `max-size=10m` and `max-file=3`",
                    ));
                }
            }
        }
        Ok(options)
    }
}

/// Bytes of a file.
fn max_size(text: &str) -> Result<u64> {
    let bytes = size::bytes(text).ok().filter(|bytes| *bytes >= SMALLEST);
    bytes.ok_or_else(|| {
        refused(
            format!("read log option `max-size={text}`: not a size of 4k or more"),
            "a number with b, k, m or g behind it: `max-size=10m`",
        )
    })
}

fn count(text: &str) -> Result<u32> {
    let number = if text.starts_with('+') { None } else { text.parse().ok() };
    number.filter(|number| (1..=MOST_FILES).contains(number)).ok_or_else(|| {
        refused(
            format!("read log option `max-file={text}`: not a number from 1 to {MOST_FILES}"),
            "so many files of `max-size` are kept: `max-file=3`",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_said() {
        let parse = |texts: &[&str]| Options::parse(texts).unwrap();
        assert_eq!(parse(&[]), Options { max_size: 10_485_760, max_file: 3 });
        assert_eq!(parse(&["max-size=4k", "max-file=1"]), Options { max_size: 4096, max_file: 1 });
        assert_eq!(parse(&["max-size=1G", "max-size=5000"]).max_size, 5000);
        assert_eq!(parse(&["max-size=8192b"]).max_size, 8192);
    }

    #[test]
    fn what_is_refused_is_named() {
        for (text, named) in [
            ("max-size", "max-size="),
            ("max-size=", "max-size="),
            ("max-size=-1", "max-size=-1"),
            ("max-size=+5000", "max-size=+5000"),
            ("max-size=4095", "4k"),
            ("max-size=10x", "10x"),
            ("max-size=1mk", "1mk"),
            ("max-size=99999999999g", "99999999999g"),
            ("max-size=ä", "ä"),
            ("max-file=0", "max-file=0"),
            ("max-file=101", "1 to 100"),
            ("max-file=+3", "+3"),
            ("compress=true", "there is no option `compress`"),
            ("", "there is no option ``"),
        ] {
            let error = format!("{:#}", Options::parse(&[text]).unwrap_err());
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn they_are_kept_as_json() {
        let options = Options { max_size: 5000, max_file: 2 };
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<Options>(&text).unwrap(), options);
        assert_eq!(serde_json::from_str::<Options>("{}").unwrap(), Options::default());
    }
}
