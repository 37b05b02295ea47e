//! What the command line and the supervisor say to each other over the control socket: HTTP with JSON, so that
//! `curl --unix-socket run/control.sock http://node/v1/status` works.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /v1/ping` | [`Pong`] |
//! | `GET /v1/status` | [`NodeStatus`] |
//! | `GET /v1/releases` | [`ReleaseList`] |
//! | `POST /v1/operations` with an [`OperationRequest`] | one [`Progress`] a line while it runs, the last one [`Progress::Done`] |
//! | `GET /v1/conf/effective` | [`EffectiveConf`](crate::conf::EffectiveConf) in force; with `?release=V` evaluated anew for that release |
//! | `GET /v1/conf/diff` | [`ConfDifferences`](crate::conf::ConfDifferences) between what runs and the files |
//! | `POST /v1/pull/now` | one [`PullLine`](crate::pull::PullLine) a line, the last one how the check ended |
//! | `POST /v1/pull/pause`, `POST /v1/pull/resume` | [`PullStatus`] |
//! | `POST /v1/state/save` with a [`RecordingRequest`](crate::recording::RecordingRequest) | [`Recording`](crate::recording::Recording) when it is written |
//! | `POST /v1/state/load` with the same | [`Loaded`](crate::recording::Loaded) |
//! | `POST /v1/stop` | [`Pong`] at once; the node stops gracefully |
//!
//! Anything else, and an operation that is refused before it starts, is answered by a [`Fault`] and a 4xx or
//! 5xx status; `409` is a second operation.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::Version;
use crate::children::{ChildStatus, SupervisorStatus};
use crate::conf::{ConfReport, ConfStatus, Notice};
use crate::plan::Step;
use crate::pull::PullStatus;
use crate::sessions::{SessionCounts, TcpStatus};
use crate::tls::CertificateStatus;

/// Exit codes of `relmgr`: people script against them.
pub mod exit {
    /// Done, or already so.
    pub const DONE: u8 = 0;
    /// Refused or failed; the node serves what it served before.
    pub const FAILED: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// The new release was tried and rolled back.
    pub const ROLLED_BACK: u8 = 3;
    /// The node is not running.
    pub const NOT_RUNNING: u8 = 4;
    /// Another operation is running.
    pub const BUSY: u8 = 5;
}

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// To a newer release.
    Upgrade,
    /// Back to prev or to a named release.
    Downgrade,
    /// Every step that changes nothing that serves.
    Check,
    /// Fetch, verify and unpack only.
    Fetch,
    /// Remove one installed release.
    Remove,
    /// Remove old releases.
    Prune,
    /// Replace the host process.
    Restart,
    /// Evaluate the configuration anew and tell the running application what changed.
    Reload,
    /// End the probation: the current release stays.
    Commit,
    /// End the probation: the release before it comes back.
    Rollback,
    /// Put another relmgr in the place of the one that runs.
    #[serde(rename = "self-upgrade")]
    SelfUpgrade,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Upgrade,
        Self::Downgrade,
        Self::Check,
        Self::Fetch,
        Self::Remove,
        Self::Prune,
        Self::Restart,
        Self::Reload,
        Self::Commit,
        Self::Rollback,
        Self::SelfUpgrade,
    ];

    /// Whether another host process takes the place of the one that serves, with the same release.
    pub fn replaces_host(self) -> bool {
        matches!(self, Self::Restart | Self::SelfUpgrade)
    }

    /// The kind's word, the same as its command.
    pub fn name(self) -> &'static str {
        match self {
            Self::Upgrade => "upgrade",
            Self::Downgrade => "downgrade",
            Self::Check => "check",
            Self::Fetch => "fetch",
            Self::Remove => "remove",
            Self::Prune => "prune",
            Self::Restart => "restart",
            Self::Reload => "reload",
            Self::Commit => "commit",
            Self::Rollback => "rollback",
            Self::SelfUpgrade => "self-upgrade",
        }
    }
}

/// A request for an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperationRequest {
    /// What to do.
    pub kind: Kind,
    /// The version; absent: the channel's (upgrade, check) or prev (downgrade).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Another channel than the node's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Try a release that failed before.
    #[serde(default)]
    pub retry: bool,
    /// Say what would be done, and do nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// Commit at once.
    #[serde(default)]
    pub no_probation: bool,
    /// Leave the in-memory state behind, where the release keeps any.
    #[serde(default)]
    pub lose_state: bool,
    /// How many releases `prune` keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<usize>,
    /// The relmgr that is to run (`self-upgrade`): an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<PathBuf>,
}

impl OperationRequest {
    /// A request without a version and with every switch off.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            version: None,
            channel: None,
            retry: false,
            dry_run: false,
            no_probation: false,
            lose_state: false,
            keep: None,
            binary: None,
        }
    }
}

/// One line of an operation's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Progress {
    /// What will be done.
    Started {
        /// What was asked for.
        kind: Kind,
        /// The release that serves.
        from: Option<Version>,
        /// The release to go to.
        to: Option<Version>,
        /// The steps to come.
        steps: Vec<Step>,
    },
    /// A step begins.
    StepStarted {
        /// Which.
        step: Step,
    },
    /// Part of a long step is done.
    StepProgress {
        /// Which.
        step: Step,
        /// Bytes so far.
        bytes: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
    },
    /// A step is over.
    StepDone {
        /// Which.
        step: Step,
        /// How long it took, in milliseconds.
        ms: f64,
        /// What is worth saying of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    /// The new release serves, and is watched.
    Probation {
        /// The release.
        version: Version,
        /// When it ends by itself.
        ends_at: DateTime<Utc>,
    },
    /// Something that the operator should know and that stops nothing.
    Warning {
        /// In full sentences.
        text: String,
    },
    /// What the operator's configuration has to do with the release.
    Notice(Notice),
    /// The end; nothing comes after it.
    Done(Box<Operation>),
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As asked.
    Done,
    /// It was so already.
    AlreadyDone,
    /// Refused or failed before the swap; the node serves what it served before.
    Failed,
    /// The new release was tried, and the one before it serves again.
    RolledBack,
    /// The node died in the middle; what serves now is said in the history.
    Interrupted,
}

impl Outcome {
    /// The outcome's word, the same as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::AlreadyDone => "already_done",
            Self::Failed => "failed",
            Self::RolledBack => "rolled_back",
            Self::Interrupted => "interrupted",
        }
    }

    /// The exit code of a command that waited for it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Done | Self::AlreadyDone => exit::DONE,
            Self::Failed | Self::Interrupted => exit::FAILED,
            Self::RolledBack => exit::ROLLED_BACK,
        }
    }
}

/// An operation that ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// What was asked for.
    pub kind: Kind,
    /// The release that served at its start.
    pub from: Option<Version>,
    /// The release that it went to.
    pub to: Option<Version>,
    /// How it ended.
    pub outcome: Outcome,
    /// Why it failed, with causes, one line.
    pub error: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Why it was committed; absent: there was no probation, or it was not passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// Each step's share.
    pub steps: Vec<StepTime>,
    /// Releases whose directories are gone now (`remove`, `prune`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<Version>,
    /// What it has to do with the application's configuration.
    #[serde(default, skip_serializing_if = "ConfReport::is_empty")]
    pub conf: ConfReport,
    /// From which relmgr to which (`self-upgrade`); absent: it did not get so far as to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relmgr: Option<RelmgrChange>,
}

/// From one version of relmgr to another, or to the same one from another file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelmgrChange {
    /// The version that ran.
    pub from: String,
    /// The version that was to run.
    pub to: String,
}

/// A step and how long it took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StepTime {
    /// Which.
    pub step: Step,
    /// In milliseconds, to the microsecond.
    pub ms: f64,
}

/// The answer to `ping` and `stop`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// The application.
    pub app: String,
    /// The supervisor's process.
    pub supervisor_pid: u32,
    /// The version of relmgr that runs.
    pub relmgr: String,
}

/// A request that was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// What and why, one line.
    pub error: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What the node is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The host is not up yet.
    Booting,
    /// It serves, and nothing is under way.
    Steady,
    /// An operation is under way.
    Upgrading,
    /// A new release serves and is watched.
    Probation,
    /// The node has given up or is stopping.
    Stopped,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Booting, Self::Steady, Self::Upgrading, Self::Probation, Self::Stopped];

    /// The phase's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Booting => "booting",
            Self::Steady => "steady",
            Self::Upgrading => "upgrading",
            Self::Probation => "probation",
            Self::Stopped => "stopped",
        }
    }
}

/// The answer to `status`: the node as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The application.
    pub app: String,
    /// The node's home directory.
    pub home: PathBuf,
    /// What the node is doing.
    pub phase: Phase,
    /// The supervisor's process.
    pub supervisor_pid: u32,
    /// The version of relmgr that it runs.
    #[serde(default)]
    pub relmgr: String,
    /// The host's process; `None` between two of them.
    pub host_pid: Option<u32>,
    /// When the supervisor started.
    pub started_at: DateTime<Utc>,
    /// How often the host was started again after it died.
    pub host_restarts: u64,
    /// The release that serves.
    pub current: Option<CurrentRelease>,
    /// The release that served before it.
    pub prev: Option<PrevRelease>,
    /// The release that the node boots.
    pub permanent: Option<Version>,
    /// When the probation ends by itself.
    pub probation_ends_at: Option<DateTime<Utc>>,
    /// What is loaded in the host.
    pub generations: Vec<GenerationStatus>,
    /// The addresses that the public listener is bound to.
    #[serde(default)]
    pub listeners: Vec<String>,
    /// The address that the admin listener is bound to; `None`: there is none.
    #[serde(default)]
    pub admin: Option<String>,
    /// The addresses that speak TLS, and with which certificates; `None`: there are none.
    #[serde(default)]
    pub tls: Option<TlsStatus>,
    /// The listeners for raw TCP, by name.
    #[serde(default)]
    pub tcp: Vec<TcpStatus>,
    /// The host's sessions; `None`: there is no host.
    #[serde(default)]
    pub sessions: Option<SessionCounts>,
    /// The last operation that ended.
    pub last_operation: Option<Operation>,
    /// The application's configuration; `None` while nothing serves.
    #[serde(default)]
    pub conf: Option<ConfStatus>,
    /// The signed channel that the node follows; `None`: none was seen yet, or nobody is asked to sign.
    #[serde(default)]
    pub channel: Option<ChannelStatus>,
    /// The state tables; `None`: the release that serves has opened none.
    #[serde(default)]
    pub tables: Option<crate::tables::TablesStatus>,
    /// How the node follows its channel; `None`: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull: Option<PullStatus>,
}

/// TLS on a node's public listeners.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TlsStatus {
    /// The addresses.
    pub listeners: Vec<String>,
    /// The first one is for clients that name nobody.
    pub certificates: Vec<CertificateStatus>,
    /// Why changes of their files go unseen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwatched: Option<String>,
}

/// What a node has last seen of its signed channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelStatus {
    /// Its name.
    pub name: String,
    /// The highest serial.
    pub serial: u64,
    /// From then on it starts no upgrade.
    pub expires: DateTime<Utc>,
    /// Whether that is over.
    pub expired: bool,
}

/// The release that serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurrentRelease {
    /// Its version.
    pub version: Version,
    /// `current` or `permanent`.
    pub status: String,
    /// Since when it serves, without a break by a swap.
    pub since: DateTime<Utc>,
}

/// The release that served before the current one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrevRelease {
    /// Its version.
    pub version: Version,
}

/// What a generation is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GenerationState {
    /// Being started or on trial.
    Candidate,
    /// Serves.
    Current,
    /// Served before the one that is on probation, and may serve again: loaded, its children suspended.
    Idle,
    /// Finishes its requests.
    Draining,
    /// Stopped; its library is about to be unmapped.
    Retiring,
    /// Stopped, and its library cannot be unmapped: `reasons` say why.
    Pinned,
}

impl GenerationState {
    /// All of them, in the order of a generation's life.
    pub const ALL: [Self; 6] =
        [Self::Candidate, Self::Current, Self::Idle, Self::Draining, Self::Retiring, Self::Pinned];

    /// The state's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Current => "current",
            Self::Idle => "idle",
            Self::Draining => "draining",
            Self::Retiring => "retiring",
            Self::Pinned => "pinned",
        }
    }
}

/// A generation in the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationStatus {
    /// Number of the generation within this host, from 1.
    #[serde(default)]
    pub id: u64,
    /// Its release.
    pub version: Version,
    /// What it is doing.
    pub state: GenerationState,
    /// Requests that it is answering.
    pub in_flight: u64,
    /// Requests that it answered.
    #[serde(default)]
    pub requests: u64,
    /// Handlers that panicked.
    #[serde(default)]
    pub panics: u64,
    /// Threads that its library started and that still run.
    #[serde(default)]
    pub threads: u64,
    /// Why it cannot be unmapped.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// The supervisor of its background children; absent: it has none, or is not current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervisor: Option<SupervisorStatus>,
    /// Its background children, in the order in which they start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<ChildStatus>,
}

impl GenerationStatus {
    /// Has `f` change all words of the application's own in it.
    pub fn reword(&mut self, f: &impl Fn(&str) -> String) {
        if let Some(supervisor) = &mut self.supervisor {
            supervisor.last_exit = supervisor.last_exit.take().map(|words| f(&words));
        }
        self.children.iter_mut().for_each(|child| child.reword(f));
    }
}

/// The answer to `releases`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseList {
    /// Installed releases, newest first.
    pub releases: Vec<ReleaseStatus>,
}

/// An installed release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReleaseStatus {
    /// Its version.
    pub version: Version,
    /// Its status's word.
    pub status: String,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether it is the previous release.
    pub prev: bool,
    /// When it was unpacked.
    pub installed_at: DateTime<Utc>,
}
