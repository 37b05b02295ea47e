//! Numbers with units, as the node hands them over: a duration is a text (`"1h30m"`), a size a number of bytes.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Units of time in nanoseconds, largest first.
const TIME: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Units of size, largest first: powers of 1024.
const SIZE: [(&str, u64); 5] = [("TB", 1 << 40), ("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10), ("B", 1)];

/// A size in bytes: `16MB` in `app.conf`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(
    /// Bytes.
    pub u64,
);

impl ByteSize {
    /// As a length in memory; what does not fit is the most that does.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    /// As in `app.conf`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print_bytes(self.0))
    }
}

/// `16MB`: the largest unit that gives a whole number.
pub(super) fn print_bytes(bytes: u64) -> String {
    let whole = SIZE.iter().find(|(_, unit)| bytes > 0 && bytes.is_multiple_of(*unit));
    whole.map_or_else(|| "0B".to_owned(), |(name, unit)| format!("{}{name}", bytes / unit))
}

/// `1h30m`.
pub(super) fn print_duration(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    let mut text = String::new();
    for (name, unit) in TIME {
        if rest / unit > 0 {
            text.push_str(&format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Reads what [`print_duration`] and the node write: whole numbers, each with its unit.
fn parse_duration(text: &str) -> Option<Duration> {
    let (mut nanos, mut rest) = (0_u128, text);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(letters);
        let (_, unit) = TIME.iter().find(|(name, _)| *name == unit)?;
        nanos = nanos.checked_add(number.parse::<u128>().ok()?.checked_mul(*unit)?)?;
        rest = after;
    }
    let seconds = u64::try_from(nanos / 1_000_000_000).ok()?;
    let below = u32::try_from(nanos % 1_000_000_000).ok()?;
    (!text.is_empty()).then(|| Duration::new(seconds, below))
}

/// `#[serde(with = "relmgr_app::settings::duration")]`: a [`Duration`] as a text such as `"1h30m"`; also in an
/// `Option`, a `Vec` or a map of such.
pub mod duration {
    use std::collections::{BTreeMap, HashMap};
    use std::fmt;
    use std::hash::BuildHasher;
    use std::time::Duration;

    use serde::de::{Deserialize, Deserializer, Error, Visitor};
    use serde::ser::{Serialize, Serializer};

    /// Reads it.
    ///
    /// # Errors
    /// The text is no duration.
    pub fn deserialize<'de, T: Durations, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        T::Texts::deserialize(deserializer).map(T::from_texts)
    }

    /// Writes it.
    ///
    /// # Errors
    /// The serializer's.
    pub fn serialize<T: Durations, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        value.to_texts().serialize(serializer)
    }

    /// What [`deserialize`] gives.
    pub trait Durations: Sized {
        /// The same with texts.
        #[doc(hidden)]
        type Texts: for<'de> Deserialize<'de> + Serialize;
        #[doc(hidden)]
        fn from_texts(texts: Self::Texts) -> Self;
        #[doc(hidden)]
        fn to_texts(&self) -> Self::Texts;
    }

    /// One duration as a text.
    #[doc(hidden)]
    #[derive(Debug)]
    pub struct Text(Duration);

    impl<'de> Deserialize<'de> for Text {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Words;

            impl Visitor<'_> for Words {
                type Value = Text;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("a duration such as \"30s\" or \"1h30m\"")
                }

                fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                    let read = super::parse_duration(text).map(Text);
                    read.ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
                }
            }

            deserializer.deserialize_str(Words)
        }
    }

    impl Serialize for Text {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_str(&super::print_duration(self.0))
        }
    }

    impl Durations for Duration {
        type Texts = Text;

        fn from_texts(text: Text) -> Self {
            text.0
        }

        fn to_texts(&self) -> Text {
            Text(*self)
        }
    }

    impl<T: Durations> Durations for Option<T> {
        type Texts = Option<T::Texts>;

        fn from_texts(texts: Self::Texts) -> Self {
            texts.map(T::from_texts)
        }

        fn to_texts(&self) -> Self::Texts {
            self.as_ref().map(T::to_texts)
        }
    }

    impl<T: Durations> Durations for Vec<T> {
        type Texts = Vec<T::Texts>;

        fn from_texts(texts: Self::Texts) -> Self {
            texts.into_iter().map(T::from_texts).collect()
        }

        fn to_texts(&self) -> Self::Texts {
            self.iter().map(T::to_texts).collect()
        }
    }

    impl<T: Durations> Durations for BTreeMap<String, T> {
        type Texts = BTreeMap<String, T::Texts>;

        fn from_texts(texts: Self::Texts) -> Self {
            texts.into_iter().map(|(name, text)| (name, T::from_texts(text))).collect()
        }

        fn to_texts(&self) -> Self::Texts {
            self.iter().map(|(name, value)| (name.clone(), value.to_texts())).collect()
        }
    }

    impl<T: Durations, S: BuildHasher + Default> Durations for HashMap<String, T, S> {
        type Texts = BTreeMap<String, T::Texts>;

        fn from_texts(texts: Self::Texts) -> Self {
            texts.into_iter().map(|(name, text)| (name, T::from_texts(text))).collect()
        }

        fn to_texts(&self) -> Self::Texts {
            self.iter().map(|(name, value)| (name.clone(), value.to_texts())).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_they_are_written() {
        for (text, duration) in [
            ("0s", Duration::ZERO),
            ("1h30m", Duration::from_secs(5400)),
            ("1d1ns", Duration::new(86_400, 1)),
            ("250ms", Duration::from_millis(250)),
            ("213503982334601d7h15s", Duration::from_secs(u64::MAX)),
        ] {
            assert_eq!(print_duration(duration), text);
            assert_eq!(parse_duration(text), Some(duration), "{text}");
        }
        for text in ["", "5", "s", "1x", "-1s", "1.5s", "1h 1m", "99999999999999999999d"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_take_the_largest_whole_unit() {
        for (bytes, text) in
            [(0, "0B"), (1023, "1023B"), (16 << 20, "16MB"), (1536, "1536B"), (1 << 40, "1TB")]
        {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }
}
