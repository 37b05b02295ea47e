//! What there is to say of a rehearsal.

use std::path::PathBuf;

use relmgr_model::Version;
use relmgr_store::repository::BuiltRelease;

use super::load::Seen;
use super::tables;
use crate::ui;

/// A part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stage {
    Fetch,
    Shipped,
    Change,
    Candidate,
    Back,
    New,
}

impl Stage {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Shipped => "shipped",
            Self::Change => "change",
            Self::Candidate => "candidate",
            Self::Back => "back",
            Self::New => "new",
        }
    }
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What was lost, or went wrong.
#[derive(Debug, Clone, serde::Serialize, thiserror::Error)]
#[error("the rehearsal failed at `{stage}`, with {release}: {what}")]
pub(crate) struct Failure {
    /// Where.
    pub(crate) stage: Stage,
    /// The release that served, or was to.
    pub(crate) release: String,
    /// What.
    pub(crate) what: String,
    /// What to do.
    pub(crate) hint: Option<String>,
}

/// How a rehearsal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// There and back, and nothing was lost.
    Rehearsed,
    /// Nothing has been shipped to the channel yet.
    First,
    /// The candidate is what has been shipped.
    Same,
    /// See the failure.
    Failed,
}

/// What there is to say of a rehearsal.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Report {
    pub(crate) outcome: Outcome,
    pub(crate) app: String,
    pub(crate) shipped: Option<Version>,
    pub(crate) candidate: Version,
    /// Those that are over, and the one that failed.
    pub(super) stages: Vec<StageTime>,
    /// `None`: the shipped release keeps none, or it did not come to that.
    pub(super) memory: Option<Memory>,
    pub(super) tables: Vec<tables::Compared>,
    pub(super) requests: Seen,
    pub(crate) failure: Option<Failure>,
    /// The directory that was to be thrown away, where it stays.
    pub(crate) kept: Option<PathBuf>,
}

#[derive(Debug, serde::Serialize)]
pub(super) struct StageTime {
    pub(super) stage: Stage,
    pub(super) ms: f64,
}

/// What became of the state in memory.
#[derive(Debug, serde::Serialize)]
pub(super) struct Memory {
    pub(super) schema: u32,
    pub(super) bytes: u64,
    /// Whether the code change was tried up and down on a copy.
    pub(super) change_tried: bool,
    /// Whether it changes by itself, so that only that says something.
    pub(super) moving: bool,
}

impl Report {
    /// One that is over before it has begun.
    pub(crate) fn without_node(outcome: Outcome, candidate: &BuiltRelease, shipped: Option<Version>) -> Self {
        Self {
            outcome,
            app: candidate.manifest.name.clone(),
            shipped,
            candidate: candidate.manifest.version.clone(),
            stages: vec![],
            memory: None,
            tables: vec![],
            requests: Seen::default(),
            failure: None,
            kept: None,
        }
    }

    /// Whether the shipped release keeps any state, however little there was.
    pub(crate) fn keeps_state(&self) -> bool {
        self.memory.is_some() || !self.tables.is_empty()
    }

    /// What was looked at, in one line.
    pub(crate) fn summary(&self) -> String {
        let mut words = vec![];
        if let Some(Memory { schema, bytes, change_tried, moving }) = &self.memory {
            let how = match (moving, change_tried) {
                (false, _) => "",
                (true, true) => ", changing by itself and compared on a copy",
                (true, false) => ", changing by itself and not compared",
            };
            words.push(format!("{} of state in memory (schema {schema}{how})", ui::size(*bytes)));
        }
        for table in &self.tables {
            let how = if table.moving { ", changing by itself" } else { "" };
            words.push(format!("{} records of table {}{how}", table.records, table.name));
        }
        if words.is_empty() {
            words.push("no state".into());
        }
        let Seen { answered, longest_ms, .. } = &self.requests;
        format!("{}; {answered} requests answered, the slowest after {longest_ms:.0} ms", words.join(", "))
    }
}
