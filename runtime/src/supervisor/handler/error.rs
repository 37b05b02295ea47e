//! Why an operation failed.

use std::error::Error;
use std::io;

use relmgr_conf::Faults;
use relmgr_model::Version;
use relmgr_model::channel::Unfit;
use relmgr_model::plan::{Misfit, Refusal};
use relmgr_model::state::NoWay;
use relmgr_store::delta::DeltaError;
use relmgr_store::journal::JournalError;
use relmgr_store::package::PackageError;
use relmgr_store::repository::RepositoryError;
use relmgr_store::tree::TreeError;

use super::super::host_process::CallError;
use super::super::node::HostStartError;
use super::super::preflight::PreflightError;
use super::super::takeover::{CandidateError, HandOverError};
use crate::conf::SchemaError;

/// Why an operation failed. Each text says what to do where that is known.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// It was not begun.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The repository.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The package.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The delta.
    #[error(transparent)]
    Delta(#[from] DeltaError),
    /// The release's directory.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The node's memory.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The release is not for this node.
    #[error("{version} does not fit this node: {misfit}")]
    Misfit {
        /// The release.
        version: Version,
        /// What does not fit.
        misfit: Misfit,
    },
    /// The in-memory state of the release that serves would be lost.
    #[error(
        "the state of {from} cannot be handed over to {to}: {no_way}; `relmgr {command} {to} --lose-state` leaves it behind"
    )]
    NoWayForState {
        /// What was asked for.
        command: &'static str,
        /// The release that serves.
        from: Version,
        /// The release asked for.
        to: Version,
        /// Why.
        no_way: NoWay,
    },
    /// The state was not handed over; what served goes on with it.
    #[error("the code change to {version} failed: {reason}")]
    CodeChange {
        /// The release that was to take it over.
        version: Version,
        /// Why.
        reason: String,
        /// Whether that release is to blame.
        blames_release: bool,
    },
    /// A step down that fails when it is tried.
    #[error("{from} does not give its state in the form of schema {schema}: {error}")]
    StepDown {
        /// The release that serves.
        from: Version,
        /// The older form.
        schema: u32,
        /// What happened.
        error: PreflightError,
    },
    /// The state did not get from the old host to the new one, which therefore does not serve.
    #[error(
        "the state of {version} did not get to the new host: {reason}; `relmgr restart --lose-state` begins without it"
    )]
    StateKept {
        /// The release.
        version: Version,
        /// Why.
        reason: String,
    },
    /// The channel's document is not to be followed.
    #[error("the channel {channel} is not followed: {unfit}")]
    Channel {
        /// The channel.
        channel: String,
        /// Why.
        unfit: Unfit,
    },
    /// Nobody vouches for the release.
    #[error(
        "nobody vouches for {version}: name the publisher's key in `repository.trusted_keys` in relmgr.toml, or accept unsigned releases with `repository.allow_unsigned = true`"
    )]
    Unsigned {
        /// The release.
        version: Version,
    },
    /// The release has no usable schema.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// The operator's configuration is wrong for the release.
    #[error("the configuration does not fit {version}:\n{faults}")]
    Configuration {
        /// The release.
        version: Version,
        /// All of them.
        faults: Faults,
    },
    /// Neither what the operator wrote nor what was applied before can be used.
    #[error("{wrong}\nand the values that were applied last cannot be used instead: {last}")]
    Unconfigured {
        /// What is wrong with the operator's files.
        wrong: String,
        /// What is missing.
        last: String,
    },
    /// The trial.
    #[error("{version}: {error}")]
    Preflight {
        /// The release.
        version: Version,
        /// What happened.
        error: PreflightError,
    },
    /// The host refused, or died.
    #[error("{version}: {error}")]
    Host {
        /// The release.
        version: Version,
        /// What happened.
        error: CallError,
    },
    /// It served on probation, and does not stay.
    #[error("{version} was rolled back: {reason}")]
    Probation {
        /// The release.
        version: Version,
        /// What was seen.
        reason: String,
    },
    /// Its host died again and again.
    #[error("the host died {times} times (supervisor.intensity) with {version} in it, last by {how}")]
    Deaths {
        /// The release.
        version: Version,
        /// How often.
        times: u32,
        /// How it ended.
        how: String,
    },
    /// The node ends.
    #[error("the node was stopped in the middle of it")]
    Stopped,
    /// There is no host.
    #[error("there is no host process: see the log of `relmgr run`")]
    NoHost,
    /// A new host did not come up.
    #[error(transparent)]
    HostStart(#[from] HostStartError),
    /// The node's own endpoint does not tell the new version.
    #[error("after the swap {path} does not answer {expected}: {reason}")]
    NotServing {
        /// The version endpoint.
        path: String,
        /// The new release.
        expected: Version,
        /// What it answered.
        reason: String,
    },
    /// A local file.
    #[error("{} cannot be {what}", path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// `read` or `written`.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another relmgr cannot take over.
    #[error(transparent)]
    Candidate(#[from] CandidateError),
    /// It was to take over, and the one that runs goes on.
    #[error(transparent)]
    HandOver(#[from] HandOverError),
    /// The new relmgr runs, its host does not.
    #[error("relmgr {relmgr} runs the node, its host did not come up{}: {reason}", if *serves { " and the host of before goes on serving" } else { "" })]
    OldHost {
        /// The version that runs.
        relmgr: &'static str,
        /// Whether there is a host.
        serves: bool,
        /// What went wrong.
        reason: String,
    },
    /// Who asks may not choose what runs as the node's user.
    #[error("uid {uid} may not put another relmgr in place: root and the node's user may")]
    NotAllowed {
        /// Who asks.
        uid: u32,
    },
    /// The work was lost.
    #[error("the work was cut short: {0}")]
    Cut(String),
}

impl OperationError {
    /// The error with its causes, one after the other.
    pub fn describe(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        text
    }

    /// What to do about it, where the system refused something; the other texts say that themselves.
    pub fn hint(&self) -> Option<String> {
        let mut cause: Option<&(dyn Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(words) = error.downcast_ref::<io::Error>().and_then(|error| advice(error.kind())) {
                return Some(words);
            }
            cause = error.source();
        }
        None
    }

    /// Whether the release itself is to blame, so that it is not tried again by itself.
    pub fn blames_release(&self) -> bool {
        match self {
            Self::Preflight { error, .. } => !matches!(error, PreflightError::Io(_)),
            Self::CodeChange { blames_release, .. } => *blames_release,
            Self::Host { .. }
            | Self::NotServing { .. }
            | Self::Schema(SchemaError::Faults { .. })
            | Self::Probation { .. }
            | Self::Deaths { .. } => true,
            _ => false,
        }
    }
}

/// What helps against an error of the system's, where that is known.
fn advice(kind: io::ErrorKind) -> Option<String> {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(
            "make room there: `relmgr prune --keep 0` removes every release but the current and prev".into(),
        ),
        io::ErrorKind::PermissionDenied => {
            let user = nix::unistd::geteuid();
            Some(format!("let the user have it that the node runs as (uid {user})"))
        }
        io::ErrorKind::ReadOnlyFilesystem => Some(
            "its file system is mounted read-only; `dmesg` says whether an error of the disk led to that"
                .into(),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_refuses_has_advice_however_deep_it_lies() {
        let hint = |kind: io::ErrorKind| {
            let source = io::Error::new(kind, "within another");
            let path = std::path::PathBuf::from("/srv/releases");
            OperationError::Tree(TreeError::Io { path, what: "written", source }).hint()
        };
        assert!(hint(io::ErrorKind::StorageFull).unwrap().contains("relmgr prune"));
        let user = format!("(uid {})", nix::unistd::geteuid());
        assert!(hint(io::ErrorKind::PermissionDenied).unwrap().contains(&user));
        assert!(hint(io::ErrorKind::ReadOnlyFilesystem).unwrap().contains("read-only"));
        assert_eq!(hint(io::ErrorKind::NotFound), None);
        assert_eq!(OperationError::Stopped.hint(), None);
    }
}
