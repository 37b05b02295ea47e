//! The trial of a release in a throw-away process.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::host_process::{SELF, describe};

/// So much of what a trial says is kept: its last lines say why.
const WORDS: usize = 4096;

/// A release that did not pass its trial.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// The process could not be started or talked to.
    #[error("the preflight process cannot be run")]
    Io(#[from] std::io::Error),
    /// It says why.
    #[error("preflight refused it: {0}")]
    Refused(String),
    /// It did not live to say why.
    #[error("it crashed in preflight ({how}){}", words_after(words))]
    Crashed {
        /// Signal or code.
        how: String,
        /// Its last words.
        words: String,
    },
    /// It took too long.
    #[error("preflight took longer than {} and was ended: its static initialisers or its check do not return", humantime::format_duration(*.0))]
    Deadline(Duration),
}

impl PreflightError {
    /// The same without the secrets of `effective`, which an application may repeat in its words.
    #[must_use]
    pub fn redacted(self, effective: &relmgr_conf::Effective) -> Self {
        match self {
            Self::Refused(words) => Self::Refused(effective.redact(&words)),
            Self::Crashed { how, words } => Self::Crashed { how, words: effective.redact(&words) },
            other => other,
        }
    }
}

fn words_after(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

/// Tries the library at `path` with `settings`.
///
/// # Errors
/// [`PreflightError`]; the process has ended in every case.
pub async fn try_release(
    path: &Path,
    settings: &serde_json::Value,
    deadline: Duration,
) -> Result<(), PreflightError> {
    let mut child = Command::new(SELF)
        .arg0("relmgr")
        .arg("preflight")
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, so that whatever it starts ends with it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let group = child.id().and_then(|pid| i32::try_from(pid).ok()).map(nix::unistd::Pid::from_raw);
    let stdin = child.stdin.take();
    let settings = settings.to_string();
    let run = async {
        if let Some(mut stdin) = stdin {
            // A process that died early closes its end; how it died is what counts.
            let _ = stdin.write_all(settings.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let finished = tokio::time::timeout(deadline, run).await;
    if let Some(group) = group {
        // Children that outlive it; an error means that there are none.
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
    }
    let output = finished.map_err(|_| PreflightError::Deadline(deadline))??;
    let words = last_words(&output.stderr);
    match output.status.code() {
        Some(0) => Ok(()),
        Some(1) if !words.is_empty() => Err(PreflightError::Refused(words)),
        _ => Err(PreflightError::Crashed { how: describe(output.status), words }),
    }
}

fn last_words(stderr: &[u8]) -> String {
    let tail = &stderr[stderr.len().saturating_sub(WORDS)..];
    String::from_utf8_lossy(tail).trim().to_owned()
}
