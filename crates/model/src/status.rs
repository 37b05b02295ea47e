//! A release's status on a node, after OTP's `release_handler`, and the one table of its transitions.
//!
//! ```text
//! status     | swapped | committed | superseded | failed | retried
//! unpacked   | current | -         | -          | failed | -
//! current    | -       | permanent | old        | failed | -
//! permanent  | -       | -         | old        | -      | -
//! old        | current | -         | -          | failed | -
//! failed     | -       | -         | -          | -      | unpacked
//! ```
//!
//! The same table stands in ARCHITECTURE.md; a test compares both with [`Status::next`].

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What a release is on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "status")]
pub enum Status {
    /// Fetched, verified and unpacked; never served here.
    Unpacked,
    /// Serves now. Only a living process can make this true: never written to `state.json`.
    Current,
    /// Serves, and is what the node boots.
    Permanent,
    /// Served before.
    Old,
    /// Tried and refused; not tried again by itself until told so.
    Failed {
        /// Why, in the words of the operation that failed.
        reason: String,
        /// When.
        at: DateTime<Utc>,
    },
}

/// What happens to a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Traffic goes to it.
    Swapped,
    /// It becomes what the node boots.
    Committed,
    /// Another one took its place.
    Superseded,
    /// It was tried and refused.
    Failed {
        /// Why.
        reason: String,
        /// When.
        at: DateTime<Utc>,
    },
    /// Someone named it with `--retry`.
    Retried,
}

/// An event that a status does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a release that is {status} cannot be {event}")]
pub struct IllegalEvent {
    status: &'static str,
    event: &'static str,
}

impl Status {
    /// The status's word, as in the table.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unpacked => "unpacked",
            Self::Current => "current",
            Self::Permanent => "permanent",
            Self::Old => "old",
            Self::Failed { .. } => "failed",
        }
    }

    /// The status after `event`: the only way in which a status changes.
    ///
    /// # Errors
    /// [`IllegalEvent`] where the table has a dash.
    pub fn next(self, event: Event) -> Result<Self, IllegalEvent> {
        use Event as E;
        match (self, event) {
            (Self::Unpacked | Self::Old, E::Swapped) => Ok(Self::Current),
            (Self::Current, E::Committed) => Ok(Self::Permanent),
            (Self::Current | Self::Permanent, E::Superseded) => Ok(Self::Old),
            (Self::Unpacked | Self::Current | Self::Old, E::Failed { reason, at }) => {
                Ok(Self::Failed { reason, at })
            }
            (Self::Failed { .. }, E::Retried) => Ok(Self::Unpacked),
            (status, event) => Err(IllegalEvent { status: status.name(), event: event.name() }),
        }
    }
}

impl Event {
    /// The event's word, as in the table.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Swapped => "swapped",
            Self::Committed => "committed",
            Self::Superseded => "superseded",
            Self::Failed { .. } => "failed",
            Self::Retried => "retried",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> String {
        let at = DateTime::UNIX_EPOCH;
        let reason = String::new();
        let events = [
            Event::Swapped,
            Event::Committed,
            Event::Superseded,
            Event::Failed { reason: reason.clone(), at },
            Event::Retried,
        ];
        let statuses = [
            Status::Unpacked,
            Status::Current,
            Status::Permanent,
            Status::Old,
            Status::Failed { reason, at },
        ];
        let head: Vec<_> = events.iter().map(Event::name).collect();
        let mut lines = vec![format!("status | {}", head.join(" | "))];
        for status in statuses {
            let cells: Vec<_> = events
                .iter()
                .map(|event| status.clone().next(event.clone()).map_or("-", |next| next.name()))
                .collect();
            lines.push(format!("{} | {}", status.name(), cells.join(" | ")));
        }
        lines.join("\n")
    }

    /// Table rows of `text` with the white space between cells folded.
    fn rows(text: &str, prefix: &str) -> String {
        let words = ["status", "unpacked", "current", "permanent", "old", "failed"];
        text.lines()
            .filter_map(|line| line.trim().strip_prefix(prefix))
            .map(|line| {
                line.trim().trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(" | ")
            })
            .filter(|line| line.matches(" | ").count() == 5)
            .filter(|line| words.contains(&line.split(' ').next().unwrap_or("")))
            .collect::<Vec<_>>()
            .join("\n")
    }

    #[test]
    fn the_tables_in_the_documentation_are_the_function() {
        assert_eq!(rows(include_str!("status.rs"), "//!"), table());
        let architecture =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../ARCHITECTURE.md")).unwrap();
        assert_eq!(rows(&architecture, "|"), table());
    }
}
