//! Values as they are written in `app.conf`, so that reading them gives the same value again.

use std::fmt::{self, Write};

/// Writes `text` in double quotes.
pub(crate) fn quoted(out: &mut impl Write, text: &str) -> fmt::Result {
    out.write_char('"')?;
    // In quotes, `file:/…` stands for a file's content and `${` for a variable; an escape takes that from them.
    let mut rest = text;
    if text.starts_with("file:") {
        out.write_str("\\u{66}")?;
        rest = &text[1..];
    }
    let mut chars = rest.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            '$' if chars.peek() == Some(&'{') => out.write_str("\\$")?,
            c if c.is_control() => write!(out, "\\u{{{:x}}}", u32::from(c))?,
            c => out.write_char(c)?,
        }
    }
    out.write_char('"')
}

/// `text` as a word, or in quotes where it is more than one.
pub(crate) fn text(text: &str) -> String {
    let word =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/' | '@' | '+' | '%');
    if !text.is_empty() && text.chars().all(word) && !text.starts_with("file:") {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() + 2);
    // Writing to a String cannot fail.
    let _ = quoted(&mut out, text);
    out
}

/// A key's segment, in quotes where it needs them.
pub(crate) fn segment(segment: &str) -> String {
    if !segment.is_empty() && segment.chars().all(crate::key::is_plain) {
        return segment.to_owned();
    }
    let mut out = String::with_capacity(segment.len() + 2);
    let _ = quoted(&mut out, segment);
    out
}
