//! What a node remembers: `state.json` (the one truth) and the lines of `history.jsonl`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::Version;
use crate::channel::Seen;
use crate::control::{Kind, Outcome, RelmgrChange, StepTime};
use crate::plan::Step;
use crate::pull::PullRecord;
use crate::status::Status;

/// The format of `state.json` that this relmgr writes and reads.
pub const FORMAT: u32 = 1;

/// `state.json`. Says of a release only what survives the processes: the node boots [`NodeRecord::permanent`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRecord {
    /// Format number, [`FORMAT`].
    pub format: u32,
    /// The application of this node.
    pub app: String,
    /// The release that the node boots.
    pub permanent: Option<Version>,
    /// The release that served before it.
    pub prev: Option<Version>,
    /// The installed releases.
    pub releases: BTreeMap<Version, ReleaseRecord>,
    /// The operation that was under way when this was written.
    pub operation: Option<OperationRecord>,
    /// What it has seen of signed channels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub channels: BTreeMap<String, Seen>,
    /// What it remembers of following its channel.
    #[serde(default, skip_serializing_if = "PullRecord::is_empty")]
    pub pull: PullRecord,
}

/// Who asked for an operation, where no person did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Agent {
    /// The node, following its channel.
    Pull,
}

impl Agent {
    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pull => "pull",
        }
    }
}

/// An installed release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseRecord {
    /// Its status; never [`Status::Current`].
    #[serde(flatten)]
    pub status: Status,
    /// When it was unpacked.
    pub installed_at: DateTime<Utc>,
    /// When its status last changed.
    pub since: DateTime<Utc>,
}

/// An operation under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationRecord {
    /// What was asked for.
    pub kind: Kind,
    /// The release that served at its start.
    pub from: Option<Version>,
    /// The release that it goes to. Written in any case: `null` is "to none" (`prune`, `self-upgrade`) and is part of
    /// the format, so a reader takes it for that and not for a damaged record.
    pub to: Option<Version>,
    /// The step that had begun when the record was written last. It is not written for its own sake: what recovery
    /// needs is written when it happens, and this with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<Step>,
    /// When it started.
    pub started_at: DateTime<Utc>,
    /// The uid of who asked.
    pub uid: u32,
    /// Who asked, where no person did; the uid is the node's own then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Agent>,
    /// When the release began to serve on probation; absent: it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swapped_at: Option<DateTime<Utc>>,
    /// From which relmgr to which (`self-upgrade`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relmgr: Option<RelmgrChange>,
}

impl OperationRecord {
    /// What became of an operation in the middle of which the supervisor ended, as the `record` at the next start
    /// has it: its outcome and, unless it was done, why.
    pub fn resolve(&self, record: &NodeRecord) -> (Outcome, Option<String>) {
        let boots = record.boots();
        let begun = self.step.map(|step| format!(", not before its {} had begun,", step.name()));
        let begun = begun.unwrap_or_default();
        let interrupted = (
            Outcome::Interrupted,
            Some(format!("the node ended in the middle of it{begun} and boots {boots}")),
        );
        let Some(to) = &self.to else { return interrupted };
        let release = record.releases.get(to).map(|release| &release.status);
        match (self.kind, release) {
            // The release is the same before and after them: nothing in the record tells how far they came.
            (Kind::SelfUpgrade | Kind::Restart | Kind::Check, _) => interrupted,
            // These are over when the record says so.
            (Kind::Fetch, Some(_)) | (Kind::Remove, None) => (Outcome::Done, None),
            (Kind::Fetch, None) | (Kind::Remove, Some(_)) => interrupted,
            _ => self.resolve_switch(to, release, record, interrupted),
        }
    }

    fn resolve_switch(
        &self,
        to: &Version,
        release: Option<&Status>,
        record: &NodeRecord,
        interrupted: (Outcome, Option<String>),
    ) -> (Outcome, Option<String>) {
        let swapped = self.swapped_at.is_some();
        match release {
            // Recorded: what was left to do is done by the end of the processes.
            Some(Status::Permanent) if record.permanent.as_ref() == Some(to) => (Outcome::Done, None),
            Some(Status::Failed { reason, at }) if *at >= self.started_at => {
                (if swapped { Outcome::RolledBack } else { Outcome::Failed }, Some(reason.clone()))
            }
            _ if swapped => {
                let words = format!("the node ended in the probation of {to} and boots {}", record.boots());
                (Outcome::RolledBack, Some(words))
            }
            _ => interrupted,
        }
    }
}

/// One line of `history.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When the operation ended.
    pub at: DateTime<Utc>,
    /// What was asked for.
    pub kind: Kind,
    /// The uid of who asked; absent: the node itself.
    pub uid: Option<u32>,
    /// Who asked, where no person did; absent beside an absent uid: the node itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Agent>,
    /// The release that served at its start.
    pub from: Option<Version>,
    /// The release that it went to. Written in any case: `null` where it goes to none (`prune`, `reload`), or where it
    /// ended before it was known to which.
    pub to: Option<Version>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why it was committed, or why the node did it by itself; absent: there was no probation, or it was not passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// From which relmgr to which (`self-upgrade`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relmgr: Option<RelmgrChange>,
    /// The last lines that a host wrote before it died of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_words: Vec<String>,
    /// From the request to the outcome, in milliseconds.
    pub ms: f64,
    /// Each step's share.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepTime>,
}

/// A `state.json` that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Cut short, or not written by relmgr.
    #[error("it does not parse: {0}")]
    Parse(#[from] serde_json::Error),
    /// Written by a newer relmgr.
    #[error("it has format {found}, this relmgr reads format {FORMAT}")]
    Format {
        /// The file's format number.
        found: u64,
    },
}

impl NodeRecord {
    /// The record of a node on which nothing was ever installed.
    pub fn new(app: &str) -> Self {
        Self {
            format: FORMAT,
            app: app.into(),
            permanent: None,
            prev: None,
            releases: BTreeMap::new(),
            operation: None,
            channels: BTreeMap::new(),
            pull: PullRecord::default(),
        }
    }

    /// What the node boots, in words.
    fn boots(&self) -> String {
        self.permanent.as_ref().map_or_else(|| "no release".to_owned(), Version::to_string)
    }

    /// Reads `state.json`.
    ///
    /// # Errors
    /// Another format is named before any other fault.
    pub fn parse(text: &str) -> Result<Self, RecordError> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(found) if found != u64::from(FORMAT) => Err(RecordError::Format { found }),
            _ => Ok(serde_json::from_value(value)?),
        }
    }

    /// The record as it is written.
    pub fn to_json(&self) -> String {
        // Every field has a JSON form: map keys are strings.
        let mut text = serde_json::to_string_pretty(self)
            .unwrap_or_else(|error| unreachable!("a record is always JSON: {error}"));
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_operation_has_one_definite_outcome() {
        let at = DateTime::UNIX_EPOCH;
        let (one, two): (Version, Version) = ("1.0.0".parse().unwrap(), "1.0.1".parse().unwrap());
        let release = |status| ReleaseRecord { status, installed_at: at, since: at };
        let mut record = NodeRecord::new("live-poll");
        record.permanent = Some(one.clone());
        record.releases.insert(one.clone(), release(Status::Permanent));
        record.releases.insert(two.clone(), release(Status::Unpacked));
        let mut operation = OperationRecord {
            kind: Kind::Upgrade,
            from: Some(one.clone()),
            to: Some(two.clone()),
            step: None,
            started_at: at,
            uid: 0,
            by: None,
            swapped_at: None,
            relmgr: None,
        };
        let (outcome, words) = operation.resolve(&record);
        assert_eq!(outcome, Outcome::Interrupted);
        assert_eq!(words.unwrap(), "the node ended in the middle of it and boots 1.0.0");
        operation.step = Some(Step::Unpack);
        let words = operation.resolve(&record).1.unwrap();
        assert_eq!(
            words,
            "the node ended in the middle of it, not before its unpack had begun, and boots 1.0.0"
        );
        operation.swapped_at = Some(at);
        let (outcome, words) = operation.resolve(&record);
        assert_eq!(outcome, Outcome::RolledBack);
        assert_eq!(words.unwrap(), "the node ended in the probation of 1.0.1 and boots 1.0.0");
        let failed = Status::Failed { reason: "3 panics".into(), at };
        record.releases.insert(two.clone(), release(failed));
        assert_eq!(operation.resolve(&record), (Outcome::RolledBack, Some("3 panics".into())));
        record.releases.insert(two.clone(), release(Status::Permanent));
        record.permanent = Some(two);
        assert_eq!(operation.resolve(&record), (Outcome::Done, None));
        for kind in [Kind::SelfUpgrade, Kind::Restart, Kind::Check] {
            operation.kind = kind;
            assert_eq!(operation.resolve(&record).0, Outcome::Interrupted, "whatever the release is");
        }
        let mut becomes = |kind, to: &str, outcome| {
            (operation.kind, operation.to) = (kind, to.parse().ok());
            assert_eq!(operation.resolve(&record).0, outcome, "{} {to}", kind.name());
        };
        becomes(Kind::Fetch, "1.0.1", Outcome::Done);
        becomes(Kind::Fetch, "1.0.2", Outcome::Interrupted);
        becomes(Kind::Remove, "1.0.1", Outcome::Interrupted);
        becomes(Kind::Remove, "1.0.2", Outcome::Done);
        becomes(Kind::Prune, "", Outcome::Interrupted);
        becomes(Kind::SelfUpgrade, "", Outcome::Interrupted);
    }

    #[test]
    fn a_record_survives_its_text_and_a_cut_one_is_refused() {
        let mut record = NodeRecord::new("live-poll");
        let at = DateTime::UNIX_EPOCH;
        let failed = Status::Failed { reason: "start panicked".into(), at };
        record.permanent = Some("1.2.3".parse().unwrap());
        record.releases.insert(
            "1.2.3".parse().unwrap(),
            ReleaseRecord { status: Status::Permanent, installed_at: at, since: at },
        );
        record
            .releases
            .insert("1.2.4".parse().unwrap(), ReleaseRecord { status: failed, installed_at: at, since: at });
        let text = record.to_json();
        assert_eq!(NodeRecord::parse(&text).unwrap(), record);
        for cut in 0..text.trim_end().len() {
            assert!(NodeRecord::parse(&text[..cut]).is_err(), "cut at {cut}");
        }
        let newer = text.replace("\"format\": 1", "\"format\": 2");
        assert!(NodeRecord::parse(&newer).unwrap_err().to_string().contains("format 2"));
    }
}
