//! What the supervisor and the host say to each other: one JSON object a line over a socket pair that the host
//! inherits as file descriptor [`CHANNEL_FD`]. The listening sockets follow it, from [`FIRST_LISTENER_FD`] on.
//!
//! The supervisor sends [`Envelope`]s with a [`Command`]; the host answers each with a [`Reply`] of the same id,
//! in any order. When the channel closes, the supervisor is gone and the host ends.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Version;
use crate::control::GenerationStatus;
use crate::counts::ReleaseCounts;
use crate::manifest::Probe;
use crate::probation::Sample;
use crate::sessions::{SessionCounts, SessionLimits, TcpStart};
use crate::tls::CertificatePair;

/// The number of this protocol: a supervisor commands a host that another relmgr has started only where both speak the
/// same one. What is added with a default does not change it.
pub const PROTOCOL: u32 = 1;

/// The host's end of the channel.
pub const CHANNEL_FD: i32 = 3;

/// The first listening socket; [`HostStart::listeners`] says how many follow, then those of [`HostStart::tcp`].
pub const FIRST_LISTENER_FD: i32 = 4;

/// A command and its number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// Repeated in the reply.
    pub id: u64,
    /// What to do.
    #[serde(flatten)]
    pub command: Command,
}

/// What the supervisor asks of the host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "command")]
pub enum Command {
    /// Sent once, before everything else. Answered by [`Answer::Done`].
    Init(HostStart),
    /// Load a library and start the application in it; it gets no traffic yet. Answered by [`Answer::Loaded`].
    Load(LoadRequest),
    /// Ask a candidate's health and send it the probes. Answered by [`Answer::Done`].
    Health {
        /// The candidate.
        generation: u64,
        /// What it must answer.
        probes: Vec<Probe>,
        /// For all of it together.
        deadline_ms: u64,
    },
    /// Make a candidate current. Answered by [`Answer::Swapped`].
    Swap {
        /// The candidate.
        generation: u64,
        /// The children of the one that makes way may take so long to end.
        patience_ms: u64,
        /// How the state of the one that makes way is handed over; absent: it is not. One that fails is answered by
        /// [`Answer::NotSwapped`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code_change: Option<CodeChange>,
    },
    /// Make a generation current that was so before: traffic first, since the one that serves may be of no use,
    /// then the children. Answered by [`Answer::Done`]; with a code change, which comes before the traffic, by
    /// [`Answer::SwappedBack`].
    SwapBack {
        /// The one that is idle.
        generation: u64,
        /// The children of the one that makes way may take so long to end.
        patience_ms: u64,
        /// How the state is handed back; absent: the generation goes on with what it had, if it handed over any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code_change: Option<CodeChange>,
    },
    /// End the background children of the generation that serves, which goes on answering: another host is about to
    /// take over. Answered by [`Answer::Done`].
    Suspend {
        /// They may take so long to end.
        patience_ms: u64,
    },
    /// The other host did not take over: start them again, with the state that was lent. Answered by
    /// [`Answer::Done`].
    Resume,
    /// As [`Command::Suspend`], and write the state of the generation that serves where another process can read it.
    /// Requests wait until [`Command::Resume`]. Answered by [`Answer::Lent`].
    LendState {
        /// The children may take so long to end.
        patience_ms: u64,
        /// In which form, and how long requests may wait.
        code_change: CodeChange,
        /// The handlers that run may take so long to end, where that is less.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        quiet_ms: Option<u64>,
    },
    /// Give a candidate the state that another host has lent. Answered by [`Answer::Done`].
    TakeState {
        /// The candidate.
        generation: u64,
        /// Where it was written.
        path: PathBuf,
        /// In which form, and how long it may take.
        code_change: CodeChange,
    },
    /// Nobody reads what was lent any more. Answered by [`Answer::Done`].
    ForgetState,
    /// Give the generation that serves a state from a file; it goes on with its own when it does not take it. Its
    /// children end before and start after it, and requests wait. Answered by [`Answer::Done`].
    LoadState {
        /// The file.
        path: PathBuf,
        /// The schema version of the generation's own state.
        own_schema: u32,
        /// The children may take so long to end.
        patience_ms: u64,
        /// In which form, and how long requests may wait.
        code_change: CodeChange,
    },
    /// Copy the state tables, as they are at one moment, into a directory that is there. Answered by
    /// [`Answer::Tables`].
    CopyTables {
        /// The directory.
        path: PathBuf,
    },
    /// Begin to accept connections; until then they wait in the backlog. Answered by [`Answer::Done`].
    Accept,
    /// The current generation's release is permanent from now on: the version endpoint says so. Answered by
    /// [`Answer::Done`].
    Commit {
        /// The current one.
        generation: u64,
    },
    /// Serve these certificates from now on; connections go on as they are. Answered by [`Answer::Done`].
    Certificates {
        /// The first one is for clients that name nobody.
        certificates: Vec<CertificatePair>,
    },
    /// Tell the current generation's application that settings changed. Answered by [`Answer::ConfChanged`].
    ConfChange(ConfChange),
    /// Drain a generation, stop it and unmap its library. Answered by [`Answer::Retired`] when the drain is over
    /// and unmapping was tried.
    Retire {
        /// Not the current one.
        generation: u64,
        /// Requests may take so long.
        drain_ms: u64,
    },
    /// What is loaded. Answered by [`Answer::Generations`].
    Generations,
    /// Say something, and what the current generation has answered. Answered by [`Answer::Pulse`]; a host whose
    /// workers are all stuck does not.
    Pulse,
    /// What there is to say of the state tables. Answered by [`Answer::Tables`].
    Tables,
    /// What has been answered since the host began, by release. Answered by [`Answer::Counts`].
    Counts,
    /// Say what the version endpoint answers, asked without a listener, and whether clients wait for a connection.
    /// Answered by [`Answer::Heard`].
    Hear,
    /// Stop accepting, let requests finish, stop the application, exit 0. Answered by [`Answer::Stopped`] when all
    /// of it is done, as the host's last word.
    Stop {
        /// Requests may take so long.
        drain_ms: u64,
        /// Another host serves: connections that are kept open are answered once more, with `Connection: close`, and
        /// those on which nothing is asked are closed one after the other towards the end of the drain. A host that
        /// does not know it closes them at once.
        #[serde(default)]
        linger: bool,
    },
}

/// A state is handed over from one generation to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeChange {
    /// The schema version in which it crosses: that of the older form.
    pub schema: u32,
    /// Requests may wait so long.
    pub quiesce_ms: u64,
    /// A larger one is refused.
    pub max_bytes: u64,
}

/// What a code change came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CodeChanged {
    /// Bytes that crossed.
    pub bytes: u64,
    /// From the moment from which requests waited until they went on, in milliseconds.
    pub held_ms: f64,
    /// Of it, until the last request before was over.
    pub quiet_ms: f64,
    /// Requests that waited.
    pub waited: u64,
    /// Requests that were refused, since too many waited.
    pub refused: u64,
}

/// What a host needs to know before it serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostStart {
    /// How many listening sockets for HTTP were inherited.
    pub listeners: usize,
    /// So many of them, the last ones, speak TLS.
    #[serde(default)]
    pub secure: usize,
    /// What those serve.
    #[serde(default)]
    pub certificates: Vec<CertificatePair>,
    /// Those for raw TCP, which follow them.
    #[serde(default)]
    pub tcp: Vec<TcpStart>,
    /// The path that answers the version.
    pub version_path: String,
    /// The limits of the HTTP front.
    pub limits: crate::settings::Limits,
    /// What a session may take up.
    #[serde(default)]
    pub sessions: SessionLimits,
    /// Whether retired libraries are unmapped.
    pub unload: crate::settings::Unload,
    /// The state tables; absent: a supervisor of before had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<TablesStart>,
}

/// Where a host's state tables lie, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablesStart {
    /// The node's home directory, absolute.
    pub home: PathBuf,
    /// Its settings for them.
    pub settings: crate::tables::Tables,
}

/// A release to load.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadRequest {
    /// Its version.
    pub version: Version,
    /// Its directory.
    pub directory: PathBuf,
    /// Its library, absolute.
    pub library: PathBuf,
    /// The library's SHA-256, hexadecimal; what the version endpoint reports.
    pub sha256: String,
    /// The effective configuration: a JSON object.
    pub settings: serde_json::Value,
    /// Hash of the effective configuration, for the version endpoint.
    pub conf_hash: String,
    /// Deadline of the application's start.
    pub start_ms: u64,
    /// The release that served before, for the version endpoint.
    pub prev: Option<Version>,
}

impl std::fmt::Debug for LoadRequest {
    /// Without the settings: there may be secrets among them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoadRequest").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Settings that changed while a release serves.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfChange {
    /// The release that serves; another one refuses.
    pub version: Version,
    /// All settings: a JSON object, secrets included.
    pub settings: serde_json::Value,
    /// Hash of the effective configuration, for the version endpoint.
    pub conf_hash: String,
    /// Keys with another value.
    pub changed: Vec<String>,
    /// Keys that had none.
    pub new: Vec<String>,
    /// Keys that have none any more.
    pub removed: Vec<String>,
    /// The application may take so long.
    pub deadline_ms: u64,
}

impl std::fmt::Debug for ConfChange {
    /// Without the settings: there may be secrets among them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConfChange").field("version", &self.version).finish_non_exhaustive()
    }
}

/// The host's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The command's number.
    pub id: u64,
    /// What came of it.
    pub result: Result<Answer, HostError>,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "answer")]
pub enum Answer {
    /// As asked.
    Done,
    /// A candidate stands ready.
    Loaded {
        /// Its number.
        generation: u64,
    },
    /// The candidate serves.
    Swapped {
        /// The generation that served before.
        previous: Option<u64>,
        /// What the code change came to, where there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code_change: Option<CodeChanged>,
    },
    /// The code change failed: the generation that served goes on with its own state.
    NotSwapped {
        /// Why.
        reason: String,
        /// Whether the candidate is to blame.
        blames_candidate: bool,
    },
    /// The generation that served before serves again.
    SwappedBack {
        /// What the code change came to; absent: it failed.
        code_change: Option<CodeChanged>,
        /// Why the state was not handed back; the generation goes on with what it handed over when it made way.
        lost: Option<String>,
    },
    /// The state can be read.
    Lent {
        /// Where, for processes of the same user, until the host ends or is told to forget it.
        path: PathBuf,
        /// Its bytes.
        bytes: u64,
    },
    /// The application has been told.
    ConfChanged {
        /// Whether it takes changes while it runs; a library of contract 1.0 does not.
        heard: bool,
    },
    /// The drain is over.
    Retired {
        /// Requests that were cut at the deadline.
        cut: u64,
        /// The application's stop took longer than so many milliseconds and was left; absent: it ended.
        stop_left_ms: Option<u64>,
        /// Why the library is still mapped; empty: it is gone.
        pinned: Vec<String>,
    },
    /// What is loaded.
    Generations {
        /// Oldest first.
        generations: Vec<GenerationStatus>,
        /// The host's sessions.
        #[serde(default)]
        sessions: SessionCounts,
    },
    /// What has been answered.
    Counts {
        /// Oldest first; every release that is loaded, and the newest of those that were.
        releases: Vec<ReleaseCounts>,
        /// The host's sessions.
        #[serde(default)]
        sessions: SessionCounts,
    },
    /// The version endpoint.
    Heard {
        /// The version that it answers.
        version: String,
        /// Whether there are as many connections as there may be, so that who connects waits.
        full: bool,
    },
    /// The state tables.
    Tables {
        /// What there is to say; `None`: no release has opened one in this host.
        tables: Option<crate::tables::TablesStatus>,
    },
    /// The host is about to exit.
    Stopped {
        /// What it has answered, as in [`Answer::Counts`].
        releases: Vec<ReleaseCounts>,
        /// Its sessions.
        #[serde(default)]
        sessions: SessionCounts,
    },
    /// The host works.
    Pulse {
        /// The current generation; `None`: there is none.
        generation: Option<u64>,
        /// What it has answered.
        sample: Sample,
        /// The words of its first panic.
        first_panic: Option<String>,
        /// Retired generations that cannot be unmapped.
        #[serde(default)]
        pinned: u32,
    },
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct HostError {
    /// With its causes, one line.
    pub message: String,
}
