//! What commands print: steps as they happen to stderr, results to stdout.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use chrono::{DateTime, Utc};
use relmgr_model::Version;
use relmgr_model::conf::{Notice, NoticeKind};
use relmgr_model::control::Progress;
use relmgr_model::plan::Step;
use serde::Serialize;

use super::error::{CommandError, Kind};

/// Whether data is printed for machines.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct Format {
    /// Print JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// Writes `text` to stdout.
///
/// # Errors
/// When stdout is closed; a reader who has seen enough (`relmgr history | head`) is no error.
pub fn print(text: &str) -> Result<(), CommandError> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(CommandError::new(Kind::Failed, "stdout cannot be written").because(&error))
        }
        _ => Ok(()),
    }
}

/// Says something beside the result, to stderr.
pub fn note(text: &str) {
    // It only decorates: a closed stderr stops nothing.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Writes `value` to stdout as one line of JSON.
///
/// # Errors
/// As [`print`].
pub fn print_json(value: &impl Serialize) -> Result<(), CommandError> {
    match serde_json::to_string(value) {
        Ok(line) => print(&format!("{line}\n")),
        Err(error) => Err(CommandError::new(Kind::Failed, "the answer has no JSON form").because(&error)),
    }
}

/// Rows under a head, each column as wide as its widest cell.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    std::iter::once(&head).chain(rows).map(|cells| line(cells)).collect()
}

/// A version, or a dash.
pub fn or_dash(version: Option<&Version>) -> String {
    version.map_or_else(|| "-".into(), ToString::to_string)
}

/// A duration as people say it: `812 µs`, `34.2 ms`, `2.51 s`, `3m 20s`.
pub fn millis(ms: f64) -> String {
    match ms {
        ms if ms < 1.0 => format!("{:.0} µs", ms * 1000.0),
        ms if ms < 1000.0 => format!("{ms:.1} ms"),
        ms if ms < 60_000.0 => format!("{:.2} s", ms / 1000.0),
        ms => span(Duration::from_secs_f64(ms / 1000.0)),
    }
}

/// A size as people say it: `512 B`, `1.9 MB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    let mut rest = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if rest < 1000.0 {
            break;
        }
        rest /= 1000.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{rest:.1} {unit}") }
}

/// A moment with its distance from `now`.
pub fn moment(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let ago = (now - at).to_std().unwrap_or_default();
    format!("{} ({} ago)", at.format("%Y-%m-%d %H:%M:%S UTC"), span(ago))
}

/// The two greatest units of a duration.
fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

/// Prints an operation's steps to stderr while they happen.
#[derive(Default)]
pub struct Steps {
    /// A line that is overwritten needs a terminal.
    terminal: bool,
    open: bool,
    /// The step that has begun and is not over.
    running: Option<Step>,
    /// What was resolved, until it is known that there is more to do than that.
    resolved: Option<String>,
}

impl Steps {
    /// For this process's stderr.
    pub fn new() -> Self {
        Self { terminal: io::stderr().is_terminal(), open: false, running: None, resolved: None }
    }

    /// Shows one event.
    pub fn show(&mut self, progress: &Progress) {
        match progress {
            Progress::Started { kind, from, to, .. } => {
                let line = match (from, to) {
                    (Some(from), Some(to)) if from != to => format!("{} {from} -> {to}", kind.name()),
                    (_, Some(to)) => format!("{} {to}", kind.name()),
                    _ => kind.name().to_owned(),
                };
                self.line(&line);
                if let Some(line) = self.resolved.take() {
                    self.line(&line);
                }
            }
            Progress::StepStarted { step } => {
                self.running = Some(*step);
                self.overwrite(*step, "");
            }
            Progress::StepProgress { step, bytes, total } => {
                let total = total.map_or_else(String::new, |total| format!(" of {}", size(total)));
                self.overwrite(*step, &format!("{}{total}", size(*bytes)));
            }
            Progress::StepDone { step, ms, detail } => {
                let detail = detail.as_deref().unwrap_or("");
                let line = format!("  {:<11} {:>9}  {detail}", step.name(), millis(*ms));
                self.running = None;
                if *step == Step::Resolve {
                    self.resolved = Some(line.trim_end().to_owned());
                } else {
                    self.line(line.trim_end());
                }
            }
            Progress::Probation { version, ends_at } => self.line(&format!(
                "  {version} serves, on probation until {} (`relmgr commit`, `relmgr rollback`)",
                ends_at.format("%H:%M:%S UTC")
            )),
            Progress::Warning { text } => self.line(&format!("warning: {text}")),
            Progress::Notice(Notice { what: NoticeKind::Outdated, text, .. }) => {
                self.line(&format!("warning: {text}"));
            }
            Progress::Notice(Notice { text, .. }) => self.line(&format!("  {:<11} {text}", "conf")),
            Progress::Done(operation) => {
                self.clear();
                if let Some(step) = self.running.take().filter(|_| operation.error.is_some()) {
                    self.line(&format!("  {:<11} {:>9}", step.name(), "failed"));
                }
            }
        }
    }

    /// A line that the next one takes the place of.
    fn overwrite(&mut self, step: Step, words: &str) {
        if self.terminal {
            self.clear();
            let _ = write!(io::stderr(), "  {:<11} {words}", step.name());
            let _ = io::stderr().flush();
            self.open = true;
        }
    }

    fn line(&mut self, text: &str) {
        self.clear();
        // Progress only decorates: a closed stderr stops nothing.
        let _ = writeln!(io::stderr(), "{text}");
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.open) {
            // Carriage return, erase to the end of the line.
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["2026.1120.192733".into(), "permanent".into()], vec!["1.2.3".into(), "é".into()]];
        let text = table(&["VERSION", "STATUS"], &rows);
        assert_eq!(text, "VERSION           STATUS\n2026.1120.192733  permanent\n1.2.3             é\n");
    }

    #[test]
    fn numbers_are_said_as_people_say_them() {
        for (ms, words) in [(0.812, "812 µs"), (34.21, "34.2 ms"), (2_512.0, "2.51 s"), (200_000.0, "3m 20s")]
        {
            assert_eq!(millis(ms), words);
        }
        for (bytes, words) in [(0, "0 B"), (999, "999 B"), (1_950_000, "1.9 MB"), (2_000_000_000, "2.0 GB")] {
            assert_eq!(size(bytes), words);
        }
        for (seconds, words) in [(59, "59s"), (3_700, "1h 1m"), (180_000, "2d 2h")] {
            assert_eq!(span(Duration::from_secs(seconds)), words);
        }
    }
}
