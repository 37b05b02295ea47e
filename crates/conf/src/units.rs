//! Numbers with units: durations (`1h30m`) and byte sizes (`16MB`). Exact: no step goes through a float.

use std::time::Duration;

/// Units of time with their nanoseconds, largest first, and whether they are printed.
const TIME: [(&str, u128, bool); 9] = [
    ("f", 14 * 86_400_000_000_000, false),
    ("w", 7 * 86_400_000_000_000, false),
    ("d", 86_400_000_000_000, true),
    ("h", 3_600_000_000_000, true),
    ("m", 60_000_000_000, true),
    ("s", 1_000_000_000, true),
    ("ms", 1_000_000, true),
    ("us", 1_000, true),
    ("ns", 1, true),
];

/// Units of size: powers of 1024, as Conform's family has them, whatever the spelling.
const SIZE: [(&str, u64); 5] = [("tb", 1 << 40), ("gb", 1 << 30), ("mb", 1 << 20), ("kb", 1 << 10), ("b", 1)];

/// More digits than a u128 holds are no number that anyone means.
const MAX_DIGITS: usize = 30;

/// Splits a decimal number from the front of `text`: its digits, how many of them stand behind the point, the rest.
fn number(text: &str) -> Option<(u128, usize, &str)> {
    let whole = text.bytes().take_while(u8::is_ascii_digit).count();
    let behind = match text[whole..].strip_prefix('.') {
        Some(rest) => rest.bytes().take_while(u8::is_ascii_digit).count(),
        None => 0,
    };
    if whole + behind == 0 || whole + behind > MAX_DIGITS || (text[whole..].starts_with('.') && behind == 0) {
        return None;
    }
    let end = if behind == 0 { whole } else { whole + 1 + behind };
    let digits: String = text[..end].chars().filter(|c| *c != '.').collect();
    Some((digits.parse().ok()?, behind, &text[end..]))
}

/// `digits` with `behind` of them behind the point, times `unit`, if that is a whole number.
fn scale(digits: u128, behind: usize, unit: u128) -> Option<u128> {
    let divisor = 10u128.checked_pow(u32::try_from(behind).ok()?)?;
    let product = digits.checked_mul(unit)?;
    product.is_multiple_of(divisor).then_some(product / divisor)
}

/// Reads `500ms`, `.5s`, `1h30m`, `2w`; repeated units add.
///
/// # Errors
/// What is wrong, without the text.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    let (mut nanos, mut rest) = (0u128, text);
    while !rest.is_empty() {
        let Some((digits, behind, after)) = number(rest) else {
            return Err(if rest.starts_with('-') { "it is negative" } else { "a number was expected" });
        };
        let length = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(length);
        if unit.is_empty() {
            return Err(if after.is_empty() {
                "it has no unit"
            } else {
                "blanks and signs do not belong in it"
            });
        }
        // Upper case is cuttlefish's habit; `M` alone is a month elsewhere, and nobody should have to guess.
        let known = TIME.iter().find(|(name, _, _)| unit.eq_ignore_ascii_case(name) && unit != "M");
        let Some((_, unit, _)) = known else { return Err("units are w, d, h, m, s, ms, us and ns") };
        let part = scale(digits, behind, *unit).ok_or("it is finer than a nanosecond or far too long")?;
        nanos = nanos.checked_add(part).ok_or("it is far too long")?;
        rest = after;
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).map_err(|_| "it is far too long")?;
    let below = u32::try_from(nanos % 1_000_000_000).unwrap_or(0);
    Ok(Duration::new(seconds, below))
}

/// `1h30m`; zero is `0s`. Read by [`parse_duration`] and by humantime alike.
pub(crate) fn print_duration(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    let mut text = String::new();
    for (name, unit, _) in TIME.iter().filter(|(_, _, printed)| *printed) {
        if rest / unit > 0 {
            text.push_str(&format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Reads `20`, `16MB`, `1.5GiB`, `512k`: powers of 1024, any case.
///
/// # Errors
/// What is wrong, without the text.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, &'static str> {
    let Some((digits, behind, unit)) = number(text) else {
        return Err(if text.starts_with('-') { "it is negative" } else { "a number was expected" });
    };
    let mut unit = unit.to_ascii_lowercase();
    if unit.len() == 3 && unit.ends_with("ib") {
        unit.remove(1);
    }
    let Some((_, factor)) = SIZE.iter().find(|(name, _)| *name == unit || unit.is_empty() && *name == "b")
    else {
        return Err("units are B, KB, MB, GB and TB, right behind the number");
    };
    let bytes = scale(digits, behind, u128::from(*factor)).ok_or("it is no whole number of bytes")?;
    u64::try_from(bytes).map_err(|_| "it is more than 64 bits hold")
}

/// `16MB`: the largest unit that gives a whole number.
pub(crate) fn print_bytes(bytes: u64) -> String {
    let whole = SIZE.iter().find(|(_, factor)| bytes > 0 && bytes.is_multiple_of(*factor));
    whole.map_or_else(
        || "0B".to_owned(),
        |(name, factor)| format!("{}{}", bytes / factor, name.to_ascii_uppercase()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_cuttlefish_reads_them() {
        for (text, millis) in [
            ("500ms", 500),
            (".5s", 500),
            ("1.5s", 1500),
            ("1h30m", 5_400_000),
            ("30m1h", 5_400_000),
            ("1s1s", 2000),
            ("1d", 86_400_000),
            ("2w", 1_209_600_000),
            ("1f", 1_209_600_000),
            ("1H", 3_600_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse_duration("1us"), Ok(Duration::from_micros(1)));
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        let long = "9".repeat(40);
        for text in
            ["", "90", "-1s", "1 h", "1x", "h", "1M", "1.s", "0.1ns", "1h30", &long, "99999999999999f"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_powers_of_1024_in_any_case() {
        for (text, bytes) in [
            ("20", 20),
            ("10MB", 10 << 20),
            ("1kb", 1024),
            ("1KB", 1024),
            ("1Kb", 1024),
            ("1KiB", 1024),
            ("1.5GB", 1_610_612_736),
            ("1TB", 1 << 40),
            ("1B", 1),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "1 MB", "0x10", "-1", "0.3B", "1PB", "MB", "99999999999TB", "1ibib", "1k", "1iB"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_again(seconds in any::<u64>(), nanos in 0u32..1_000_000_000, bytes in any::<u64>()) {
            let duration = Duration::new(seconds, nanos);
            prop_assert_eq!(parse_duration(&print_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_bytes(&print_bytes(bytes)), Ok(bytes));
        }
    }
}
