//! Sizes as people type them: `64m`, `1.5g`. Pure functions, used wherever an option takes one.

use anyhow::{Context, Result, bail};

/// `64m`: bytes, with `b`, `k`, `m`, `g` or `t` behind the number, which are powers of 1024, as docker's. Below 2^62.
pub fn bytes(text: &str) -> Result<u64> {
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|last: char| last.is_ascii_alphabetic());
    let shift = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => bail!("`{text}` has an unknown unit, b, k, m, g or t is wanted"),
    };
    let bytes = decimal(digits, 1 << shift).with_context(|| format!("`{text}` is not a size, as 64m is one"))?;
    u64::try_from(bytes).ok().filter(|bytes| *bytes < 1 << 62).with_context(|| format!("`{text}` is too much"))
}

/// `1.5` times `scale`, rounded down; `None` for what is no plain number.
pub fn decimal(text: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let plain = |part: &str| !part.is_empty() && part.len() <= 18 && part.bytes().all(|byte| byte.is_ascii_digit());
    if !plain(whole) || !plain(fraction) {
        return None;
    }
    let part = fraction.parse::<u128>().ok()? * scale / 10u128.pow(fraction.len() as u32);
    Some(whole.parse::<u128>().ok()? * scale + part)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        for (text, size) in [
            ("0", 0),
            ("7", 7),
            ("7b", 7),
            ("64m", 64 << 20),
            ("64M", 64 << 20),
            ("64mb", 64 << 20),
            ("64MiB", 64 << 20),
            ("1.5g", 3 << 29),
            ("2k", 2048),
            ("2KiB", 2048),
            ("1t", 1 << 40),
        ] {
            assert_eq!(bytes(text).unwrap(), size, "{text}");
        }
        for bad in [
            "",
            "m",
            "-1",
            "1e3",
            "64x",
            "6 m",
            ".5g",
            "5.g",
            "1.2.3",
            "nan",
            "inf",
            "99999999999g",
            "+1",
            "64bb",
            "1mk",
            "ä",
            "16777216t",
            "99999999999999999999",
        ] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,20}", number in "[0-9.]{0,40}[a-z]{0,3}") {
            let _ = (bytes(&text), bytes(&number), decimal(&number, u128::from(u64::MAX)));
        }

        #[test]
        fn every_number_is_read(number in 0u64..1 << 50) {
            prop_assert_eq!(bytes(&format!("{number}k")).unwrap(), number << 10);
        }
    }
}
