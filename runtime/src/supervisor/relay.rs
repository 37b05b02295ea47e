//! A host's lines on their way into the node's log.
//!
//! As text they are passed on as they come. Otherwise a host writes one JSON object a line, and what is none (the last
//! words of a runtime, of a library, of a program that it started) becomes one, so that whoever reads the log finds
//! nothing else in it.

use std::borrow::Cow;
use std::io::Write;

use relmgr_model::settings::LogFormat;

use crate::log::{APPLICATION, Line, Process};

/// A line that is longer is passed on in pieces.
const LONGEST: usize = 64 * 1024;

/// Passes on lines in one form.
pub struct Relay<W> {
    log: LogFormat,
    out: W,
    open: Vec<u8>,
}

impl<W: Write> Relay<W> {
    /// To `out`, or to the journal.
    pub fn new(log: LogFormat, out: W) -> Self {
        Self { log, out, open: vec![] }
    }

    /// Passes on `bytes`; the same for people.
    pub fn take<'a>(&mut self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if self.log == LogFormat::Text {
            // Whose stderr is closed has no use for it.
            let _ = self.out.write_all(bytes);
            return bytes.into();
        }
        let mut for_people = vec![];
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.open.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.open.len() >= LONGEST {
                for_people.extend(self.line());
            }
        }
        for_people.into()
    }

    /// Passes on what has no end.
    pub fn end(&mut self) -> Vec<u8> {
        if self.open.is_empty() { vec![] } else { self.line() }
    }

    fn line(&mut self) -> Vec<u8> {
        let bytes = std::mem::take(&mut self.open);
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_end();
        if text.is_empty() {
            return vec![];
        }
        let line = serde_json::from_str(text).unwrap_or_else(|_| Line::raw(Process::Host, text));
        match self.log {
            LogFormat::Journald => emit(&line),
            // Every line has a JSON form.
            _ => _ = writeln!(self.out, "{}", serde_json::to_string(&line).unwrap_or_default()),
        }
        let mut for_people = line.text().into_bytes();
        for_people.push(b'\n');
        for_people
    }
}

/// Has this process log what a host did, which has no way to the journal of its own.
fn emit(line: &Line<'_>) {
    let Line { level, target, release, message, fields, .. } = line;
    let (module, release) = (target.as_ref(), release.as_deref());
    let fields = (!fields.is_empty()).then(|| serde_json::to_string(fields).unwrap_or_default());
    let fields = fields.as_deref();
    match (level.as_ref(), release) {
        ("ERROR", Some(_)) => tracing::error!(target: APPLICATION, release, module, fields, "{message}"),
        ("WARN", Some(_)) => tracing::warn!(target: APPLICATION, release, module, fields, "{message}"),
        ("INFO", Some(_)) => tracing::info!(target: APPLICATION, release, module, fields, "{message}"),
        (_, Some(_)) => tracing::debug!(target: APPLICATION, release, module, fields, "{message}"),
        ("ERROR", None) => tracing::error!(target: "relmgr::host", module, fields, "{message}"),
        ("WARN", None) => tracing::warn!(target: "relmgr::host", module, fields, "{message}"),
        ("INFO", None) => tracing::info!(target: "relmgr::host", module, fields, "{message}"),
        (_, None) => tracing::debug!(target: "relmgr::host", module, fields, "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENT: &str = r#"{"timestamp":"2026-11-20T19:28:42.000001Z","level":"INFO","target":"live_poll::api","process":"host","release":"1.0.0","message":"a \"poll\"","fields":{"votes":3}}"#;

    #[test]
    fn text_is_passed_on_as_it_comes() {
        let mut out = vec![];
        let mut relay = Relay::new(LogFormat::Text, &mut out);
        assert_eq!(&*relay.take(b"half a "), b"half a ");
        assert!(relay.end().is_empty());
        assert_eq!(out, b"half a ");
    }

    #[test]
    fn every_line_of_a_json_log_is_an_object() {
        let mut out = vec![];
        let mut relay = Relay::new(LogFormat::Json, &mut out);
        let mut people = relay.take(EVENT.as_bytes()).into_owned();
        people.extend_from_slice(&relay.take(b"\n\nthread 'x' has overflowed its stack\nfatal"));
        people.extend(relay.end());
        let lines: Vec<Line<'_>> = out
            .split_inclusive(|byte| *byte == b'\n')
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        assert_eq!(lines[0], serde_json::from_str(EVENT).unwrap());
        assert_eq!(
            (&*lines[1].target, lines[1].message.as_str()),
            ("stderr", "thread 'x' has overflowed its stack")
        );
        assert_eq!((lines.len(), lines[2].message.as_str()), (3, "fatal"));
        let people = String::from_utf8(people).unwrap();
        let first = people.lines().next().unwrap();
        assert_eq!(
            first,
            "2026-11-20T19:28:42.000001Z  INFO live_poll::api: a \"poll\" release=1.0.0 votes=3"
        );
    }

    #[test]
    fn a_line_without_an_end_is_passed_on_in_pieces() {
        let mut out = vec![];
        let mut relay = Relay::new(LogFormat::Json, &mut out);
        let long = vec![b'x'; 3 * LONGEST];
        for piece in long.chunks(8192) {
            relay.take(piece);
        }
        assert!(relay.open.len() < LONGEST);
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 3);
    }
}
