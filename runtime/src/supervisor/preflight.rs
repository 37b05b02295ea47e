//! The trial of a release in a throw-away process, within limits of its own.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use relmgr_model::settings::Preflight;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::host_process::{SELF, describe};
use super::peer::TRIAL;
use super::systemd;
use crate::host::preflight::GiveBack;

/// So much of what a trial says is kept: its last lines say why.
const WORDS: usize = 4096;

/// What a dead trial has said is read in microseconds, unless a process that left its group holds the pipe.
const WORDS_PATIENCE: Duration = Duration::from_secs(1);

/// How Rust's allocator says that there is no more memory.
const NO_MEMORY: &str = "memory allocation of";

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
    /// It used more than it may.
    #[error("in preflight it used more than {limit} of {what} ({key} in relmgr.toml)")]
    Limit {
        /// `processor time` or `memory`.
        what: &'static str,
        /// How much it may use.
        limit: String,
        /// The setting.
        key: &'static str,
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

/// Tries the library at `path` with `settings`, and its code change on a copy of the state in a file, of that schema;
/// what it says when it passed.
///
/// # Errors
/// [`PreflightError`]; the process and its whole group have ended in every case.
pub async fn try_release(
    path: &Path,
    settings: &serde_json::Value,
    state: Option<(&Path, u32)>,
    limits: &Preflight,
    deadline: Duration,
) -> Result<String, PreflightError> {
    run(start(path, state, None, limits)?, settings, limits, deadline).await
}

/// Has the library at `path` give the state in a file, of a schema version, in another form; what it says of that.
///
/// # Errors
/// As [`try_release`].
pub async fn give_back(
    path: &Path,
    state: (&Path, u32),
    back: &GiveBack,
    limits: &Preflight,
    deadline: Duration,
) -> Result<String, PreflightError> {
    run(start(path, Some(state), Some(back), limits)?, &serde_json::Value::Null, limits, deadline).await
}

async fn run(
    mut child: Child,
    settings: &serde_json::Value,
    limits: &Preflight,
    deadline: Duration,
) -> Result<String, PreflightError> {
    let group = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    let stdin = child.stdin.take();
    let words = tokio::spawn(tail(child.stderr.take()));
    let said = tokio::spawn(tail(child.stdout.take()));
    let settings = settings.to_string();
    let run = async {
        if let Some(mut stdin) = stdin {
            // A process that died early closes its end; how it died is what counts.
            let _ = stdin.write_all(settings.as_bytes()).await;
        }
        child.wait().await
    };
    let ended = tokio::time::timeout(deadline, run).await;
    if let Some(group) = group {
        // It and all that it started; an error means that there is nobody left.
        let _ = killpg(group, Signal::SIGKILL);
    }
    let Ok(status) = ended else {
        // Killed: this is over at once.
        let _ = child.wait().await;
        return Err(PreflightError::Deadline(deadline));
    };
    let words = tokio::time::timeout(WORDS_PATIENCE, words).await;
    judge(status?, words.ok().and_then(Result::ok).unwrap_or_default(), limits)?;
    let said = tokio::time::timeout(WORDS_PATIENCE, said).await;
    Ok(said.ok().and_then(Result::ok).unwrap_or_default())
}

fn start(
    path: &Path,
    state: Option<(&Path, u32)>,
    back: Option<&GiveBack>,
    limits: &Preflight,
) -> std::io::Result<Child> {
    let mut command = Command::new(SELF);
    // It is not the service that systemd waits for.
    systemd::VARIABLES.iter().for_each(|variable| {
        command.env_remove(variable);
    });
    command.arg0("relmgr");
    command
        .arg("preflight")
        .args(["--cpu-seconds", &limits.cpu.as_secs().to_string()])
        .args(["--memory-bytes", &limits.memory_bytes.to_string()])
        .args(["--files", &limits.files.to_string()]);
    if let Some((file, schema)) = state {
        command.arg("--state").arg(file).args(["--schema", &schema.to_string()]);
    }
    if let Some(GiveBack { schema, into, most }) = back {
        command.args(["--give", &schema.to_string(), "--most", &most.to_string(), "--into"]).arg(into);
    }
    command
        .arg(path)
        .env(TRIAL, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, so that whatever it starts ends with it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

fn judge(status: ExitStatus, words: String, limits: &Preflight) -> Result<(), PreflightError> {
    use std::os::unix::process::ExitStatusExt;

    if status.signal() == Some(Signal::SIGXCPU as i32) {
        let limit = humantime::format_duration(limits.cpu).to_string();
        return Err(PreflightError::Limit { what: "processor time", limit, key: "preflight.cpu" });
    }
    match status.code() {
        Some(0) => Ok(()),
        Some(1) if !words.is_empty() => Err(PreflightError::Refused(words)),
        None if limits.memory_bytes > 0 && words.contains(NO_MEMORY) => {
            let limit = format!("{} bytes", limits.memory_bytes);
            Err(PreflightError::Limit { what: "memory", limit, key: "preflight.memory_bytes" })
        }
        _ => Err(PreflightError::Crashed { how: describe(status), words }),
    }
}

/// Reads `from` to its end; its last [`WORDS`] bytes as text.
async fn tail(from: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut from) = from else { return String::new() };
    let (mut kept, mut buffer) = (vec![], [0; WORDS]);
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..count]);
        kept.drain(..kept.len().saturating_sub(WORDS));
    }
    String::from_utf8_lossy(&kept).trim().to_owned()
}
