//! What a node tells those who want to know: the operator's command and webhooks. docs/webhooks.md has the same for
//! people.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::Version;
use crate::conf::ConfReport;
use crate::control::{Kind, Outcome};
use crate::record::{Agent, HistoryEntry};

/// The format of [`Notification`] that this relmgr writes.
pub const FORMAT: u32 = 1;

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// An upgrade or a downgrade goes off.
    Started,
    /// The release is what the node boots.
    Committed,
    /// The release before serves again.
    RolledBack,
    /// It failed before anything was different, or the node ended in the middle of it.
    Failed,
    /// The host process was replaced, as somebody asked for.
    Restarted,
    /// The host process died, and another one serves.
    HostDied,
    /// The application runs with other values, or other values wait for a restart.
    ConfChanged,
    /// Values that were changed are not taken over.
    ConfRefused,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Started,
        Self::Committed,
        Self::RolledBack,
        Self::Failed,
        Self::Restarted,
        Self::HostDied,
        Self::ConfChanged,
        Self::ConfRefused,
    ];

    /// The event's word, the same as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Committed => "committed",
            Self::RolledBack => "rolled_back",
            Self::Failed => "failed",
            Self::Restarted => "restarted",
            Self::HostDied => "host_died",
            Self::ConfChanged => "conf_changed",
            Self::ConfRefused => "conf_refused",
        }
    }

    /// What the end of an operation is, with what it had to do with the configuration; `None`: nothing that anybody is
    /// told.
    pub fn of(entry: &HistoryEntry, conf: &ConfReport) -> Option<Self> {
        let by_itself = entry.uid.is_none() && entry.by.is_none();
        match (entry.kind, entry.outcome) {
            (_, Outcome::AlreadyDone) => None,
            (Kind::Upgrade | Kind::Downgrade, Outcome::Done) => Some(Self::Committed),
            (Kind::Restart, Outcome::Done) if by_itself => Some(Self::HostDied),
            (Kind::Restart | Kind::SelfUpgrade, Outcome::Done) => Some(Self::Restarted),
            (Kind::Upgrade | Kind::Downgrade | Kind::Restart | Kind::SelfUpgrade, Outcome::RolledBack) => {
                Some(Self::RolledBack)
            }
            (Kind::Upgrade | Kind::Downgrade | Kind::Restart | Kind::SelfUpgrade, _) => Some(Self::Failed),
            (Kind::Reload, Outcome::Done) if conf.changes_nothing() && conf.pending.is_empty() => None,
            (Kind::Reload, Outcome::Done) => Some(Self::ConfChanged),
            (Kind::Reload, _) => Some(Self::ConfRefused),
            // The operation that they end tells how; the rest changes nothing that serves.
            (Kind::Commit | Kind::Rollback | Kind::Check | Kind::Fetch | Kind::Remove | Kind::Prune, _) => {
                None
            }
        }
    }
}

/// What is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    /// Format number, [`FORMAT`]; fields may be added to it.
    pub format: u32,
    /// What has happened.
    pub event: Event,
    /// When.
    pub at: DateTime<Utc>,
    /// The application.
    pub app: String,
    /// The machine's name.
    pub node: String,
    /// The node's home directory.
    pub home: String,
    /// What was asked for.
    pub kind: Kind,
    /// The uid of who asked; absent: no person did.
    pub uid: Option<u32>,
    /// Who asked, where no person did; absent beside an absent uid: the node, for a host that died or a file that
    /// changed.
    pub by: Option<Agent>,
    /// The release that served at its start.
    pub from: Option<Version>,
    /// The release that it went to, or goes to.
    pub to: Option<Version>,
    /// Why it failed.
    pub error: Option<String>,
    /// Why it was committed.
    pub verdict: Option<String>,
    /// How long it took, in milliseconds; absent for what has just begun.
    pub ms: Option<f64>,
    /// Keys of the configuration, never values.
    #[serde(default, skip_serializing_if = "ConfReport::is_empty")]
    pub conf: ConfReport,
}

impl Notification {
    /// That an operation has ended.
    pub fn ended(event: Event, entry: &HistoryEntry, conf: &ConfReport) -> Self {
        let entry = entry.clone();
        Self {
            format: FORMAT,
            event,
            at: entry.at,
            app: String::new(),
            node: String::new(),
            home: String::new(),
            kind: entry.kind,
            uid: entry.uid,
            by: entry.by,
            from: entry.from,
            to: entry.to,
            error: entry.error,
            verdict: entry.verdict,
            ms: Some(entry.ms),
            conf: conf.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: Kind, outcome: Outcome, uid: Option<u32>) -> HistoryEntry {
        HistoryEntry {
            at: DateTime::UNIX_EPOCH,
            kind,
            uid,
            by: None,
            from: None,
            to: None,
            outcome,
            error: None,
            relmgr: None,
            verdict: None,
            last_words: vec![],
            ms: 0.0,
            steps: vec![],
        }
    }

    #[test]
    fn nobody_is_told_twice_of_one_thing_and_of_what_changes_nothing() {
        let conf = ConfReport { changed: vec!["a.b".into()], ..ConfReport::default() };
        let of = |kind, outcome, uid, conf: &ConfReport| {
            Event::of(&entry(kind, outcome, uid), conf).map(Event::name)
        };
        let none = ConfReport::default();
        assert_eq!(of(Kind::Upgrade, Outcome::Done, Some(0), &none), Some("committed"));
        assert_eq!(of(Kind::Upgrade, Outcome::AlreadyDone, Some(0), &none), None);
        assert_eq!(of(Kind::Downgrade, Outcome::RolledBack, Some(0), &none), Some("rolled_back"));
        assert_eq!(of(Kind::Upgrade, Outcome::Interrupted, Some(0), &none), Some("failed"));
        assert_eq!(of(Kind::Restart, Outcome::Done, Some(0), &none), Some("restarted"));
        assert_eq!(of(Kind::Restart, Outcome::Done, None, &none), Some("host_died"));
        assert_eq!(of(Kind::Commit, Outcome::Done, Some(0), &none), None, "its upgrade is told");
        assert_eq!(of(Kind::Reload, Outcome::Done, None, &none), None);
        assert_eq!(of(Kind::Reload, Outcome::Done, None, &conf), Some("conf_changed"));
        assert_eq!(of(Kind::Reload, Outcome::Failed, None, &none), Some("conf_refused"));
        for kind in [Kind::Check, Kind::Fetch, Kind::Remove, Kind::Prune] {
            assert_eq!(of(kind, Outcome::Failed, Some(0), &none), None, "{kind:?}");
        }
    }
}
