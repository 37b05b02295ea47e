//! Lines for people. Progress goes to stderr in cargo's form; data goes to stdout.

use std::fmt::Display;
use std::io::{IsTerminal, Write};
use std::sync::Arc;

use chrono::TimeDelta;
use relmgr_store::storage::Progress;

use crate::error::Error;

/// Says what is being done or was done: `verb` is right-aligned, as in cargo's own lines.
pub(crate) fn status(verb: &str, text: impl Display) {
    line("\x1b[1;32m", &format!("{verb:>12}"), &format!(" {text}"));
}

/// Says what the developer should know and that stops nothing.
pub(crate) fn warning(text: impl Display) {
    line("\x1b[1;33m", "warning", &format!(": {text}"));
}

/// Prints an error's or a hint's line.
pub(crate) fn fault(word: &str, text: impl Display) {
    line(if word == "error" { "\x1b[1;31m" } else { "\x1b[1;36m" }, word, &format!(": {text}"));
}

/// Prints why something failed, below it.
pub(crate) fn cause(text: impl Display) {
    let text = text.to_string();
    let text = text.trim_end().replace('\n', "\n    ");
    // A closed stderr is no reason to fail.
    let _ = writeln!(std::io::stderr(), "  caused by: {text}");
}

fn line(color: &str, word: &str, text: &str) {
    let mut stderr = std::io::stderr();
    let colored = stderr.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // A closed stderr is no reason to fail.
    let _ = match colored {
        true => writeln!(stderr, "{color}{word}\x1b[0m{text}"),
        false => writeln!(stderr, "{word}{text}"),
    };
}

/// The progress of a transfer: bytes, rate and time left, on a terminal only.
pub(crate) struct Bar(indicatif::ProgressBar);

impl Bar {
    /// `total` bytes are to come.
    pub(crate) fn new(verb: &str, total: u64) -> Self {
        let target = match std::io::stderr().is_terminal() {
            true => indicatif::ProgressDrawTarget::stderr(),
            false => indicatif::ProgressDrawTarget::hidden(),
        };
        let form = "{prefix:>12} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}, {eta} left";
        let style = indicatif::ProgressStyle::with_template(form)
            .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar())
            .progress_chars("=> ");
        let bar = indicatif::ProgressBar::with_draw_target(Some(total), target);
        bar.set_style(style);
        bar.set_prefix(verb.to_owned());
        Self(bar)
    }

    /// What a transfer tells its bytes.
    pub(crate) fn progress(&self) -> Progress {
        let bar = self.0.clone();
        Arc::new(move |bytes, total| {
            if let Some(total) = total {
                bar.set_length(total);
            }
            bar.set_position(bytes);
        })
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// Prints `text` and a newline on stdout.
///
/// # Errors
/// stdout is closed or full: whoever reads it would miss data.
pub(crate) fn print(text: impl Display) -> Result<(), Error> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|source| Error::Stdout { source })
}

/// Prints `value` as JSON on one line.
///
/// # Errors
/// As [`print`].
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Error> {
    let text = serde_json::to_string(value)
        .unwrap_or_else(|error| unreachable!("our own types are always JSON: {error}"));
    print(text)
}

/// A table: columns as wide as their widest cell, two spaces between them, nothing at a line's end.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let mut widths = vec![0; head.len()];
    for row in rows.iter().chain([&head]) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let lines = std::iter::once(&head).chain(rows).map(|row| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// `bytes` in the largest unit in which it is at least 1, with one decimal: `1.9 MB` is 1,900,000 bytes.
pub(crate) fn size(bytes: u64) -> String {
    let units = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    let bytes = bytes as f64;
    match units.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes / unit),
        None => format!("{bytes} B"),
    }
}

/// How long ago, in the largest whole unit: `3 h`. What lies ahead is `now`: clocks differ.
pub(crate) fn age(age: TimeDelta) -> String {
    let units = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
    let seconds = age.num_seconds();
    match units.iter().find(|(_, unit)| seconds >= *unit) {
        Some((name, unit)) => format!("{} {name}", seconds / unit),
        None => "now".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_take_the_largest_unit() {
        let sizes =
            [(0, "0 B"), (999, "999 B"), (1_950_000, "1.9 MB"), (1_000, "1.0 kB"), (3_210_000_000, "3.2 GB")];
        for (bytes, text) in sizes {
            assert_eq!(size(bytes), text);
        }
        let ages = [(-5, "now"), (0, "now"), (59, "59 s"), (60, "1 min"), (7_300, "2 h"), (200_000, "2 d")];
        for (seconds, text) in ages {
            assert_eq!(age(TimeDelta::seconds(seconds)), text);
        }
    }

    #[test]
    fn a_table_has_columns_and_no_trailing_space() {
        let rows = vec![vec!["2026.1120.192733".into(), "1.9 MB".into()], vec!["1.0.0".into(), "-".into()]];
        let text = table(&["VERSION", "SIZE"], &rows);
        assert_eq!(text, "VERSION           SIZE\n2026.1120.192733  1.9 MB\n1.0.0             -");
    }
}
