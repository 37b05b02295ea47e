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
    },
    /// Make a generation current that was so before: traffic first, since the one that serves may be of no use,
    /// then the children. Answered by [`Answer::Done`].
    SwapBack {
        /// The one that is idle.
        generation: u64,
        /// The children of the one that makes way may take so long to end.
        patience_ms: u64,
    },
    /// End the background children of the generation that serves, which goes on answering: another host is about to
    /// take over. Answered by [`Answer::Done`].
    Suspend {
        /// They may take so long to end.
        patience_ms: u64,
    },
    /// The other host did not take over: start them again. Answered by [`Answer::Done`].
    Resume,
    /// Begin to accept connections; until then they wait in the backlog. Answered by [`Answer::Done`].
    Accept,
    /// The current generation's release is permanent from now on: the version endpoint says so. Answered by
    /// [`Answer::Done`].
    Commit {
        /// The current one.
        generation: u64,
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
    /// What has been answered since the host began, by release. Answered by [`Answer::Counts`].
    Counts,
    /// Stop accepting, let requests finish, stop the application, exit 0. Answered by [`Answer::Stopped`] when all
    /// of it is done, as the host's last word.
    Stop {
        /// Requests may take so long.
        drain_ms: u64,
    },
}

/// What a host needs to know before it serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostStart {
    /// How many listening sockets for HTTP were inherited.
    pub listeners: usize,
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
    },
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct HostError {
    /// With its causes, one line.
    pub message: String,
}
