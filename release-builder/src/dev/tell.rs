//! What the developer is told: lines for people on stderr, or one JSON object a line on stdout for editors.

use std::path::{Path, PathBuf};
use std::time::Duration;

use relmgr_model::Version;
use serde::Serialize;

use crate::error::{self, Error};
use crate::ui;

/// Something that happened.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event<'a> {
    /// The node answers; it serves what was built last, if there is anything.
    Started { home: &'a Path, listeners: &'a [String], version: Option<&'a Version> },
    /// Files were saved; a build begins.
    Changed { files: Vec<&'a Path> },
    /// A release was made.
    Built { version: &'a Version, build_ms: u64, package_ms: u64 },
    /// The node serves it.
    Serving { version: &'a Version, ms: u64, build_ms: u64, package_ms: u64, upgrade_ms: u64 },
    /// What was made is what serves.
    Unchanged { ms: u64 },
    /// What served before goes on serving.
    Failed { stage: Stage, error: String, hint: Option<String>, ms: u64 },
    /// The node was stopped.
    Stopped,
}

/// Where a save got to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// cargo, and what is made of its library.
    Build,
    /// The node.
    Upgrade,
}

/// How it is told.
#[derive(Debug, Clone)]
pub(super) struct Teller {
    pub(super) json: bool,
    /// Paths are shown from here.
    pub(super) directory: PathBuf,
}

impl Teller {
    /// Tells `event`.
    ///
    /// # Errors
    /// stdout is closed: whoever asked for JSON is gone.
    pub(super) fn tell(&self, event: &Event<'_>) -> Result<(), Error> {
        self.text(event);
        if self.json { ui::print_json(event) } else { Ok(()) }
    }

    /// Tells that a save got no further than `stage`.
    ///
    /// # Errors
    /// As [`Teller::tell`].
    pub(super) fn failed(&self, stage: Stage, error: &Error, after: Duration) -> Result<(), Error> {
        error::report(error);
        let words = error::chain(error).join(": ");
        self.tell(&Event::Failed { stage, error: words, hint: error.hint(), ms: ms(after) })
    }

    fn text(&self, event: &Event<'_>) {
        match event {
            Event::Started { home, listeners, version } => {
                let urls: Vec<_> = listeners.iter().map(|address| format!("http://{address}")).collect();
                let serves = version.map_or("nothing yet".into(), ToString::to_string);
                ui::status("Started", format!("{}, serving {serves} ({})", urls.join(", "), home.display()));
            }
            Event::Changed { files } => ui::status("Changed", self.names(files)),
            Event::Built { .. } => {}
            Event::Serving { version, ms, build_ms, package_ms, upgrade_ms } => ui::status(
                "Serving",
                format!(
                    "{version} after {ms} ms (build {build_ms}, package {package_ms}, upgrade {upgrade_ms})"
                ),
            ),
            Event::Unchanged { ms } => ui::status("Unchanged", format!("after {ms} ms")),
            Event::Failed { .. } => ui::status("Waiting", "for the next save; what served before serves on"),
            Event::Stopped => ui::status("Stopped", "the node"),
        }
    }

    fn names(&self, files: &[&Path]) -> String {
        let shown = files.first().map_or_else(String::new, |file| {
            file.strip_prefix(&self.directory).unwrap_or(file).display().to_string()
        });
        match files.len() {
            0 | 1 => shown,
            more => format!("{shown} and {} more", more - 1),
        }
    }
}

/// Whole milliseconds.
pub(super) fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
