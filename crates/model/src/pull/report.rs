//! What a node remembers of following its channel, and what it tells of it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::Version;
use crate::control::{self, Operation, Progress};

/// So many releases that failed are remembered after they are gone from the disk.
const FAILED: usize = 16;

/// The part of `state.json` that is about following a channel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullRecord {
    /// Who has stopped it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<Paused>,
    /// What an operator has gone back from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<Left>,
    /// The release that the channel named when the node had it or went to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub followed: Option<Version>,
    /// Releases that were pulled and failed, with the reason: the newest 16.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<Version, String>,
}

/// Who has stopped it, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// When.
    pub at: DateTime<Utc>,
    /// The uid.
    pub uid: u32,
}

/// A release that an operator has gone back from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// The release.
    pub version: Version,
    /// When.
    pub at: DateTime<Utc>,
    /// The operator's uid.
    pub uid: u32,
}

impl PullRecord {
    /// Whether there is nothing to remember.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// A release that was pulled failed.
    pub fn note_failed(&mut self, version: Version, reason: String) {
        self.failed.insert(version, reason);
        while self.failed.len() > FAILED {
            self.failed.pop_first();
        }
    }

    /// An operator's operation ended well.
    pub fn note_operator(
        &mut self,
        kind: control::Kind,
        from: Option<&Version>,
        to: &Version,
        uid: u32,
        at: DateTime<Utc>,
    ) {
        match kind {
            control::Kind::Downgrade => {
                self.left =
                    from.filter(|from| *from != to).map(|from| Left { version: from.clone(), at, uid });
            }
            control::Kind::Upgrade => {
                self.left = None;
                // Whoever had it tried again has the last word on it.
                self.failed.remove(to);
            }
            _ => {}
        }
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The channel's release serves already.
    UpToDate,
    /// It serves now.
    Upgraded,
    /// An older one serves now, as the channel says.
    WentBack,
    /// It waits.
    Held,
    /// It was tried, and what served before serves.
    Failed,
    /// The channel's word is not to be followed.
    Refused,
    /// The repository did not answer.
    Unavailable,
    /// Another operation was under way.
    Busy,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::UpToDate,
        Self::Upgraded,
        Self::WentBack,
        Self::Held,
        Self::Failed,
        Self::Refused,
        Self::Unavailable,
        Self::Busy,
    ];

    /// The outcome's word, the same as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::UpToDate => "up_to_date",
            Self::Upgraded => "upgraded",
            Self::WentBack => "went_back",
            Self::Held => "held",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Busy => "busy",
        }
    }
}

/// A check that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checked {
    /// When.
    pub at: DateTime<Utc>,
    /// How.
    pub outcome: Outcome,
    /// What the channel names, where it was heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Why not, one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The operation that it led to; in the answer to `POST /v1/pull/now` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<Box<Operation>>,
}

/// One line of the answer to `POST /v1/pull/now`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullLine {
    /// Of the operation that the check leads to.
    Progress(Progress),
    /// The end; nothing comes after it.
    Checked(Checked),
}

/// What `status` tells of it, and the answer to `POST /v1/pull/pause` and `POST /v1/pull/resume`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PullStatus {
    /// The channel.
    pub channel: String,
    /// Whether the node asks when it boots.
    pub at_boot: bool,
    /// How often it asks, in milliseconds; 0: not by itself.
    pub interval_ms: u64,
    /// The node's place in the waves, from 0 to below 100.
    pub place: f64,
    /// Who has stopped it; `None`: nobody.
    pub paused: Option<Paused>,
    /// What an operator has gone back from: only what is newer is taken.
    pub left: Option<Left>,
    /// When it asks next; `None`: not by itself, or it is asking now.
    pub next_check_at: Option<DateTime<Utc>>,
    /// The last check since the supervisor started.
    pub last: Option<Checked>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::Kind;

    fn v(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn an_operator_leaves_by_a_downgrade_and_takes_it_back_by_an_upgrade() {
        let at = DateTime::UNIX_EPOCH;
        let mut record = PullRecord::default();
        record.note_failed(v("3.0.0"), "panics".into());
        record.note_operator(Kind::Restart, Some(&v("3.0.0")), &v("3.0.0"), 7, at);
        assert_eq!(record.left, None);
        record.note_operator(Kind::Downgrade, Some(&v("3.0.0")), &v("2.0.0"), 7, at);
        assert_eq!(record.left, Some(Left { version: v("3.0.0"), at, uid: 7 }));
        record.note_operator(Kind::Upgrade, Some(&v("2.0.0")), &v("3.0.0"), 7, at);
        assert!(record.is_empty(), "{record:?}");
    }

    #[test]
    fn what_failed_is_remembered_within_bounds() {
        let mut record = PullRecord::default();
        for minor in 0..40 {
            record.note_failed(v(&format!("1.{minor}.0")), "panics".into());
        }
        assert_eq!(record.failed.len(), FAILED);
        assert!(record.failed.contains_key(&v("1.39.0")) && !record.failed.contains_key(&v("1.0.0")));
    }
}
