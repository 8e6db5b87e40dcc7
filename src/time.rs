//! Times as they are written and typed: RFC 3339, UNIX times and durations. For the log, its readers and the image store.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of `2026-11-25T21:00:00.123456789Z`.
pub const STAMP: usize = 30;

const SECOND: i64 = 1_000_000_000;

/// The clock as a text. The date is computed once a second.
#[derive(Debug)]
pub struct Clock {
    second: i64,
    text: [u8; STAMP],
}

impl Default for Clock {
    /// At the beginning of 1970, until it is looked at.
    fn default() -> Clock {
        Clock { second: 0, text: *b"1970-01-01T00:00:00.000000000Z" }
    }
}

impl Clock {
    /// Looks at the clock.
    pub fn tick(&mut self) {
        let now = since_1970();
        let second = now.as_secs().cast_signed();
        if second != self.second {
            self.second = second;
            date(second, &mut self.text);
        }
        digits(now.subsec_nanos().into(), &mut self.text[20..29]);
    }

    /// The time of the last look.
    pub fn text(&self) -> &[u8; STAMP] {
        &self.text
    }
}

/// The clock in nanoseconds since 1970.
pub fn now() -> i64 {
    i64::try_from(since_1970().as_nanos()).unwrap_or(i64::MAX)
}

fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A time in nanoseconds since 1970 as a text.
pub fn stamp(time: i64) -> [u8; STAMP] {
    let mut text = *b"1970-01-01T00:00:00.000000000Z";
    date(time.div_euclid(SECOND), &mut text);
    digits(time.rem_euclid(SECOND), &mut text[20..29]);
    text
}

/// The clock as a text, without fractions of a second.
pub fn rfc3339() -> String {
    let text = String::from_utf8_lossy(&stamp(now())).into_owned();
    format!("{}Z", &text[..19])
}

/// Fills `to` with the last digits of `number`.
fn digits(mut number: i64, to: &mut [u8]) {
    for digit in to.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// Writes the date and the time of day of `second`. Years are counted from March, so that the day that comes and goes is a
/// year's last, and 400 years have 146097 days.
fn date(second: i64, text: &mut [u8; STAMP]) {
    let (days, clock) = (second.div_euclid(86400) + 719_468, second.rem_euclid(86400));
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let date = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    digits((era * 400 + year + next).clamp(0, 9999), &mut text[0..4]);
    for (number, place) in [(month, 5), (date, 8), (clock / 3600, 11), (clock / 60 % 60, 14), (clock % 60, 17)] {
        digits(number, &mut text[place..place + 2]);
    }
}

/// Days from 1970-01-01 to a date, by the same count of years.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    era * 146_097 + year * 365 + year / 4 - year / 100 + (153 * month + 2) / 5 + day - 1 - 719_468
}

/// A number of exactly `length` digits, and what follows.
fn take(text: &str, length: usize) -> Option<(i64, &str)> {
    let digits = text.get(..length).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some((digits.parse().ok()?, &text[length..]))
}

/// RFC 3339: nanoseconds since 1970.
pub fn parse(text: &str) -> Option<i64> {
    let (seconds, rest) = date_and_time(text)?;
    let (fraction, rest) = fraction(rest)?;
    let offset = offset(rest)?;
    (seconds - offset).checked_mul(SECOND)?.checked_add(fraction)
}

/// `2026-11-25T21:00:00`, in seconds since 1970.
fn date_and_time(text: &str) -> Option<(i64, &str)> {
    let (year, rest) = take(text, 4)?;
    let (month, rest) = take(rest.strip_prefix('-')?, 2)?;
    let (day, rest) = take(rest.strip_prefix('-')?, 2)?;
    let (hour, rest) = take(rest.strip_prefix(['T', 't', ' '])?, 2)?;
    let (minute, rest) = take(rest.strip_prefix(':')?, 2)?;
    let (second, rest) = take(rest.strip_prefix(':')?, 2)?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    // Second 60 is a leap second.
    let valid = (1..=12).contains(&month) && (1..=length).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    valid.then(|| (days(year, month, day) * 86400 + hour * 3600 + minute * 60 + second, rest))
}

/// `.123`, in nanoseconds, if there is one. Digits beyond the ninth are dropped.
fn fraction(text: &str) -> Option<(i64, &str)> {
    let Some(rest) = text.strip_prefix('.') else { return Some((0, text)) };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    if end == 0 {
        return None;
    }
    let nanoseconds = rest[..end].bytes().chain(std::iter::repeat(b'0')).take(9);
    Some((nanoseconds.fold(0, |number, digit| number * 10 + i64::from(digit - b'0')), &rest[end..]))
}

/// `Z` or `+01:00`, in seconds.
fn offset(text: &str) -> Option<i64> {
    if text == "Z" || text == "z" {
        return Some(0);
    }
    let (sign, rest) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    let (hours, rest) = take(rest, 2)?;
    let (minutes, rest) = take(rest.strip_prefix(':')?, 2)?;
    (rest.is_empty() && hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

/// A point in time as people type it: RFC 3339 (the time of day and the zone may be missing, and are midnight and UTC), a
/// UNIX time with or without a fraction, or a duration before `now` such as `10m` or `1h30m`.
pub fn point(text: &str, now: i64) -> Option<i64> {
    let midnight = format!("{text}T00:00:00Z");
    parse(text)
        .or_else(|| parse(&format!("{text}Z")))
        .or_else(|| parse(&midnight))
        .or_else(|| unix(text))
        .or_else(|| duration(text).map(|duration| now.saturating_sub(duration)))
}

fn unix(text: &str) -> Option<i64> {
    let end = text.find('.').unwrap_or(text.len());
    let (seconds, _) = take(text, end).filter(|_| end > 0)?;
    let (fraction, rest) = fraction(&text[end..])?;
    if !rest.is_empty() {
        return None;
    }
    seconds.checked_mul(SECOND)?.checked_add(fraction)
}

/// Numbers with units from `ns` to `d`, one behind the other.
fn duration(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut sum: i64 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (whole, after) = take(rest, end).filter(|_| end > 0)?;
        let (fraction, after) = fraction(after)?;
        let end = after.find(|c: char| !c.is_ascii_alphabetic() && c != 'µ').unwrap_or(after.len());
        let unit: i64 = match &after[..end] {
            "ns" => 1,
            "us" | "µs" => 1000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            "d" => 86400 * SECOND,
            _ => return None,
        };
        let part = i128::from(fraction) * i128::from(unit) / i128::from(SECOND);
        sum = sum.checked_add(whole.checked_mul(unit)?)?.checked_add(i64::try_from(part).ok()?)?;
        rest = &after[end..];
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_there_and_back() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00.000000000Z", 0),
            ("2000-02-28T23:59:59.000000000Z", 951_782_399),
            ("2000-02-29T00:00:00.000000000Z", 951_782_400),
            ("2024-02-29T00:00:00.000000000Z", 1_709_164_800),
            ("2100-03-01T00:00:00.000000000Z", 4_107_542_400),
            ("1969-12-31T23:59:59.000000000Z", -1),
        ] {
            assert_eq!(parse(text), Some(seconds * SECOND), "{text}");
            assert_eq!(stamp(seconds * SECOND), text.as_bytes());
        }
        let mut clock = Clock::default();
        clock.tick();
        let text = String::from_utf8(clock.text().to_vec()).unwrap();
        assert!((now() - parse(&text).unwrap()) < 60 * SECOND, "{text}");
        let text = rfc3339();
        assert!(text.len() == 20 && (now() - parse(&text).unwrap()) < 60 * SECOND, "{text}");
    }

    #[test]
    fn what_people_type() {
        let now = 10_000 * SECOND;
        for (text, nanoseconds) in [
            ("1970-01-01T01:00:00+01:00", 0),
            ("1970-01-01t00:00:01.5z", 1_500_000_000),
            ("1970-01-01T00:00:02", 2 * SECOND),
            ("1970-01-02", 86400 * SECOND),
            ("12", 12 * SECOND),
            ("12.25", 12_250_000_000),
            ("10m", 9400 * SECOND),
            ("1h30m", 4600 * SECOND),
            ("1.5s", 9_998_500_000_000),
            ("0s", now),
        ] {
            assert_eq!(point(text, now), Some(nanoseconds), "{text}");
        }
        for text in [
            "",
            "x",
            "m",
            "10",
            "10 m",
            "1970-13-01",
            "1970-02-29",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:00:00+1:00",
            "-5",
            "5.",
            "1.s",
            ".5",
            "99999999999999",
            "9999999999999h",
            "1970-01-01T00:00:00.Z",
            "9999-01-01",
        ] {
            assert!(text == "10" || point(text, now).is_none(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,40}", typed in "[0-9TZ:.+hms-]{0,40}") {
            let _ = (point(&text, 0), point(&typed, i64::MIN), parse(&typed));
        }

        #[test]
        fn every_time_comes_back(time in 0i64..) {
            prop_assert_eq!(parse(std::str::from_utf8(&stamp(time)).unwrap()), Some(time));
        }
    }
}
