//! What the node says of the application's configuration: part of the control protocol.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::Version;

/// What an operation has to do with the application's configuration. Keys are written as in `app.conf`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfReport {
    /// What the release's schema changes for the operator, and what is outdated in the operator's files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notices: Vec<Notice>,
    /// Keys with another value (`reload`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    /// Keys that had no value (`reload`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub new: Vec<String>,
    /// Keys that have none any more (`reload`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<String>,
    /// Keys that differ and wait for a restart or the next upgrade (`reload`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<String>,
}

impl ConfReport {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether no key is different for the application.
    pub fn changes_nothing(&self) -> bool {
        self.changed.is_empty() && self.new.is_empty() && self.removed.is_empty()
    }
}

/// Something about one key that the operator should know before a release runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// What is with it.
    pub what: NoticeKind,
    /// The key as the new schema, or the operator's file, has it; empty: it is about a file.
    pub key: String,
    /// All of it in words.
    pub text: String,
}

/// What is with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// The release that serves does not have it.
    Added,
    /// The new release does not have it.
    Dropped,
    /// It has another name.
    Renamed,
    /// It has another type or other bounds.
    Retyped,
    /// It has another default.
    Default,
    /// It has to be set now.
    Required,
    /// The operator's files use what is deprecated, renamed or removed.
    Outdated,
}

/// The configuration in force, and what became of the last try to change it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfStatus {
    /// Hash of the values in force, as the version endpoint tells it; of a secret only that it is set.
    pub hash: String,
    /// Since when they are in force.
    pub loaded_at: DateTime<Utc>,
    /// Keys whose new values wait for `relmgr restart` or the next upgrade.
    pub pending: Vec<String>,
    /// Why the files as they are now are not in force.
    pub error: Option<ConfError>,
    /// Why changes of the files are not seen by themselves; `None`: they are.
    pub unwatched: Option<String>,
    /// Reloads that changed something, since the supervisor started.
    pub reloads: u64,
    /// Reloads that were refused, since the supervisor started.
    pub refused: u64,
}

/// A configuration that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfError {
    /// When.
    pub at: DateTime<Utc>,
    /// Every fault with its place; several lines.
    pub text: String,
}

/// The answer to `conf/effective`: a release's configuration, secrets as `***`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EffectiveConf {
    /// The release.
    pub release: Version,
    /// Whether it is what the release runs with; otherwise it is what it would run with.
    pub in_force: bool,
    /// Hash of the values; of a secret only that it is set.
    pub hash: String,
    /// In the order of the keys.
    pub values: Vec<ConfValue>,
    /// What is outdated in the operator's files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One key's value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfValue {
    /// As it is written in `app.conf`.
    pub key: String,
    /// As JSON; a secret as `***`.
    pub value: serde_json::Value,
    /// As it would be written in `app.conf`; a secret as `***`.
    pub text: String,
    /// `default`, a place in a file, or a variable, and what was resolved on the way.
    pub origin: String,
    /// Whether it must not be seen.
    pub secret: bool,
    /// Whether a change waits for a restart.
    pub restart: bool,
}

/// The answer to `conf/diff`: what a reload would change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfDifferences {
    /// The keys, in their order.
    pub keys: Vec<ConfDifference>,
}

/// A key whose value in the files is not the one in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfDifference {
    /// As it is written in `app.conf`.
    pub key: String,
    /// The value in force; `None`: it has none.
    pub running: Option<String>,
    /// The value of the files; `None`: they give it none.
    pub file: Option<String>,
    /// Whether it waits for a restart.
    pub restart: bool,
    /// Where the files' value comes from.
    pub origin: Option<String>,
}
