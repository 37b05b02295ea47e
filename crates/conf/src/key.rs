//! Keys: segments joined by dots.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::{parse, print};

/// Whether `c` needs no quotes in a segment.
pub(crate) fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

/// A key: one segment or more; a clone shares them. Ordered segment by segment, so that a group's keys stand together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<[Box<str>]>);

impl Key {
    pub(crate) fn new(segments: Vec<Box<str>>) -> Self {
        Self(segments.into())
    }

    /// The segments, without quotes.
    pub fn segments(&self) -> &[Box<str>] {
        &self.0
    }

    /// The segments but the last: the group that it belongs to.
    pub(crate) fn above(&self) -> &[Box<str>] {
        self.0.split_last().map_or(&[], |(_, above)| above)
    }

    pub(crate) fn child(&self, segment: &str) -> Self {
        Self(self.0.iter().cloned().chain([segment.into()]).collect())
    }

    /// The key of no segments, above all others.
    pub(crate) fn root() -> Self {
        Self(Arc::new([]))
    }
}

impl Borrow<[Box<str>]> for Key {
    fn borrow(&self) -> &[Box<str>] {
        &self.0
    }
}

impl fmt::Display for Key {
    /// As it stands in `app.conf`: segments of other characters than letters, digits, `_` and `-` in quotes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, segment) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            f.write_str(&print::segment(segment))?;
        }
        Ok(())
    }
}

impl Serialize for Key {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text that is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a key: {reason} (a key is segments joined by dots, such as poll.max_options)")]
pub struct ParseKeyError {
    text: String,
    reason: String,
}

impl FromStr for Key {
    type Err = ParseKeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse::key(text).map_err(|reason| ParseKeyError { text: text.chars().take(80).collect(), reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_prints_as_it_is_read() {
        for (text, printed) in [
            ("a.b-c.D_1", "a.b-c.D_1"),
            (r"a\.b.c", "\"a.b\".c"),
            (r#""odd key".x"#, "\"odd key\".x"),
            (r#"a."\"".ü"#, ""),
            (r#"a."\"\\"."ü""#, r#"a."\"\\"."ü""#),
        ] {
            match text.parse::<Key>() {
                Ok(key) => {
                    assert_eq!(key.to_string(), printed);
                    assert_eq!(printed.parse::<Key>().unwrap(), key);
                }
                Err(_) => assert_eq!(printed, "", "{text}"),
            }
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in ["", ".", "a.", ".a", "a..b", "a b", "a = 1", "a.*", "a.$x", "\"\"", "\"a", "a:b", "a\n"]
        {
            let error = text.parse::<Key>().unwrap_err().to_string();
            assert!(error.contains("is not a key"), "{text}: {error}");
        }
    }
}
