//! The trial of a release in a throw-away process, within limits of its own.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use relmgr_model::settings::Preflight;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::host_process::{SELF, describe, was_killed_by, with_blame};
use super::oom::OomKills;
use super::peer::TrialFamily;
use super::systemd;
use crate::host::preflight::GiveBack;

/// So much of what a trial says is kept: its last lines say why.
const WORDS: usize = 4096;

/// What a dead trial has said is read in microseconds, unless a process that left its group holds the pipe.
const WORDS_PATIENCE: Duration = Duration::from_secs(1);

/// Ending a process and all its descendants takes milliseconds.
const END_PATIENCE: Duration = Duration::from_secs(5);

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
/// [`PreflightError`]; the process and all that it started have ended in every case, but for what cannot be ended.
pub async fn try_release(
    path: &Path,
    settings: &serde_json::Value,
    state: Option<(&Path, u32)>,
    limits: &Preflight,
    deadline: Duration,
) -> Result<String, PreflightError> {
    let kills = OomKills::begin();
    run(Keeper::of(start(path, state, None, limits)?, kills), settings, limits, deadline).await
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
    let kills = OomKills::begin();
    let keeper = Keeper::of(start(path, Some(state), Some(back), limits)?, kills);
    run(keeper, &serde_json::Value::Null, limits, deadline).await
}

async fn run(
    mut keeper: Keeper,
    settings: &serde_json::Value,
    limits: &Preflight,
    deadline: Duration,
) -> Result<String, PreflightError> {
    let stdin = keeper.child.stdin.take();
    let words = tokio::spawn(tail(keeper.child.stderr.take()));
    let said = tokio::spawn(tail(keeper.child.stdout.take()));
    let settings = settings.to_string();
    let run = async {
        if let Some(mut stdin) = stdin {
            // A process that died early closes its end; how it died is what counts.
            let _ = stdin.write_all(settings.as_bytes()).await;
        }
        keeper.ended().await
    };
    let Ok(status) = tokio::time::timeout(deadline, run).await else {
        keeper.end().await;
        return Err(PreflightError::Deadline(deadline));
    };
    let status = status?;
    let words = tokio::time::timeout(WORDS_PATIENCE, words).await;
    let words = words.ok().and_then(Result::ok).unwrap_or_default();
    judge(status, keeper.kills.blame(status), words, limits)?;
    let said = tokio::time::timeout(WORDS_PATIENCE, said).await;
    Ok(said.ok().and_then(Result::ok).unwrap_or_default())
}

/// The process that keeps a trial (`host::keeper`): when it has ended, so has everything that the trial started.
struct Keeper {
    child: Child,
    /// Known as long as it may ask the node something.
    _family: Option<TrialFamily>,
    kills: OomKills,
}

impl Keeper {
    /// `kills` is of before its start.
    fn of(child: Child, kills: OomKills) -> Self {
        Self { _family: TrialFamily::of(&child), kills, child }
    }

    /// Its number, unless somebody has waited for it.
    fn pid(&self) -> Option<Pid> {
        self.child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw)
    }

    async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        let group = self.pid();
        let status = self.child.wait().await;
        if let Some(group) = group {
            // One that was killed itself may have left somebody. An error means that it has not.
            let _ = killpg(group, Signal::SIGKILL);
        }
        status
    }

    /// Ends it.
    async fn end(mut self) {
        self.tell();
        if tokio::time::timeout(END_PATIENCE, self.ended()).await.is_err() {
            // What cannot be killed waits for a disk, or is another user's.
            let _ = self.child.start_kill();
            let _ = self.ended().await;
        }
    }

    /// Tells it that it is enough.
    fn tell(&self) {
        if let Some(pid) = self.pid() {
            let _ = kill(pid, Signal::SIGTERM);
        }
    }
}

impl Drop for Keeper {
    /// Whoever asked for the trial may go away.
    fn drop(&mut self) {
        self.tell();
    }
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
        // By this the supervisor of an older relmgr knows a trial, which the newer one begins before it takes over.
        .env("RELMGR_TRIAL", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // What is sent to the supervisor's group is not for it.
        .process_group(0)
        .spawn()
}

/// `blame` is what else there is to say of a death.
fn judge(
    status: ExitStatus,
    blame: Option<String>,
    words: String,
    limits: &Preflight,
) -> Result<(), PreflightError> {
    if was_killed_by(status, Signal::SIGXCPU) {
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
        _ => Err(PreflightError::Crashed { how: with_blame(describe(status), blame.as_deref()), words }),
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
