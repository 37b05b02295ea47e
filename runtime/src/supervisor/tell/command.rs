//! The operator's commands. What they print goes nowhere, but the end of what a command that failed had to say. One
//! that runs when another relmgr takes over is heard and waited for by that one.

use std::os::fd::{AsFd, OwnedFd};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use relmgr_model::notify::Notification;
use relmgr_model::record::HistoryEntry;
use relmgr_model::takeover;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::sync::oneshot;

use super::super::host_process::{describe, wait_for};
use super::super::node::Node;
use super::super::systemd;

/// So much of the end of what a command that fails writes to stderr goes into the log.
const LAST_WORDS: usize = 1024;

/// Once a command has ended, its stderr is read to the end for so long: a child of its own may have kept it open.
const REST: Duration = Duration::from_millis(200);

/// What `hooks.outcome` gets on stdin.
#[derive(Serialize)]
struct Told<'a> {
    app: &'a str,
    home: String,
    #[serde(flatten)]
    entry: &'a HistoryEntry,
}

/// A command that runs, as far as another image of the supervisor has to know it.
#[derive(Debug)]
pub struct Running {
    /// The setting that names it.
    pub hook: String,
    /// Its process.
    pub pid: i32,
    /// Where its stderr is read. Who writes into a pipe that nobody reads is killed.
    pub stderr: Option<OwnedFd>,
    /// How long it may run.
    pub timeout: Duration,
    /// How long it had run ...
    ran: Duration,
    /// ... at this time.
    at: Instant,
}

impl Running {
    /// How long it has run.
    pub fn ran(&self) -> Duration {
        self.ran + self.at.elapsed()
    }
}

/// Starts `hooks.outcome` with `entry`, and does not wait.
pub fn outcome(node: &Node, entry: &HistoryEntry) {
    let told = Told { app: &node.settings.app, home: node.home.path().display().to_string(), entry };
    start(node, "hooks.outcome", &node.settings.hooks.outcome, &told);
}

/// Starts `hooks.event` with `notification`, and does not wait.
pub fn event(node: &Node, notification: &Notification) {
    let hooks = &node.settings.hooks;
    if hooks.events.is_empty() || hooks.events.contains(&notification.event) {
        start(node, "hooks.event", &hooks.event, notification);
    }
}

fn start(node: &Node, name: &'static str, command: &[String], told: &impl Serialize) {
    let Some((program, arguments)) = command.split_first() else { return };
    // All of it has a JSON form.
    let mut line = serde_json::to_vec(told).unwrap_or_default();
    line.push(b'\n');
    let mut command = Command::new(program);
    systemd::VARIABLES.iter().for_each(|variable| {
        command.env_remove(variable);
    });
    let started = command
        .args(arguments)
        .current_dir(node.home.path())
        .env("RELMGR_HOME", node.home.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        // It may outlive the supervisor: the last thing that a node does is told as well.
        .kill_on_drop(false)
        .spawn();
    match started {
        Ok(mut child) => {
            let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
            let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
            let timeout = node.settings.hooks.timeout;
            let known = pid.map(|pid| {
                let stderr = stderr.as_ref().and_then(|stderr| stderr.as_fd().try_clone_to_owned().ok());
                let (hook, at) = (name.to_owned(), Instant::now());
                node.know(Running { hook, pid, stderr, timeout, ran: Duration::ZERO, at })
            });
            tokio::spawn(async move {
                let _known = known;
                let write = async {
                    if let Some(mut stdin) = stdin {
                        // A command that does not read it is none the worse for it.
                        let _ = stdin.write_all(&line).await;
                    }
                };
                let ended = async { tokio::join!(write, child.wait()).1 };
                run(name, pid, ended, stderr, (Duration::ZERO, timeout)).await;
            });
        }
        Err(error) => tracing::error!(program, %error, "{name} does not start"),
    }
}

/// Goes on with a command that another image of the supervisor has started, and does not wait.
pub fn go_on(node: &Node, left: takeover::Command, stderr: Option<OwnedFd>) {
    let takeover::Command { hook, pid, ran_ms, timeout_ms, .. } = left;
    let (ran, timeout) = (Duration::from_millis(ran_ms), Duration::from_millis(timeout_ms));
    let (told, status) = oneshot::channel();
    let waiting = std::thread::Builder::new().name("child".into()).spawn(move || {
        let _ = told.send(wait_for(pid.unsigned_abs()));
    });
    if let Err(error) = waiting {
        tracing::warn!(%error, pid, "nobody waits for a child's end");
    }
    let again = stderr.as_ref().and_then(|stderr| stderr.try_clone().ok());
    let running = Running { hook: hook.clone(), pid, stderr: again, timeout, ran, at: Instant::now() };
    let known = node.know(running);
    let stderr = stderr.map(pipe::Receiver::from_owned_fd).transpose();
    let stderr = stderr.unwrap_or_else(|error| {
        tracing::warn!(%error, pid, "nobody reads what {hook} writes");
        None
    });
    tokio::spawn(async move {
        let _known = known;
        let gone = |_| std::io::Error::other("nobody waits for it");
        let ended = async { status.await.map_err(gone).flatten() };
        run(&hook, Some(pid), ended, stderr, (ran, timeout)).await;
    });
}

/// Hears the command `pid` until it has `ended`, or has run so long as it may; `times` are how long it has, and may.
async fn run(
    name: &str,
    pid: Option<i32>,
    ended: impl Future<Output = std::io::Result<ExitStatus>>,
    stderr: Option<impl AsyncRead + Unpin>,
    times: (Duration, Duration),
) {
    let (group, (ran, timeout)) = (pid.map(Pid::from_raw), times);
    let mut words = Vec::new();
    let heard = converse(ended, stderr, &mut words);
    let ended = tokio::time::timeout(timeout.saturating_sub(ran), heard).await;
    let words = String::from_utf8_lossy(&words);
    let words = words.trim().replace('\n', "; ");
    match ended {
        Ok(Ok(status)) if status.success() => {}
        Ok(Ok(status)) if words.is_empty() => tracing::warn!("{name} ended with {}", describe(status)),
        Ok(Ok(status)) => tracing::warn!("{name} ended with {}: {words}", describe(status)),
        Ok(Err(error)) => tracing::warn!(%error, "{name}"),
        Err(_) => {
            let timeout = humantime::format_duration(timeout);
            tracing::warn!("{name} took longer than {timeout} and is killed (hooks.timeout)");
            if let Some(group) = group {
                // An error means that it has just ended.
                let _ = killpg(group, Signal::SIGKILL);
            }
        }
    }
}

/// Hears what a command writes, until it has `ended`.
async fn converse(
    ended: impl Future<Output = std::io::Result<ExitStatus>>,
    stderr: Option<impl AsyncRead + Unpin>,
    words: &mut Vec<u8>,
) -> std::io::Result<ExitStatus> {
    let mut ended = std::pin::pin!(ended);
    let mut hear = std::pin::pin!(hear(stderr, words));
    let status = tokio::select! {
        status = &mut ended => status,
        () = &mut hear => return ended.await,
    };
    let _ = tokio::time::timeout(REST, hear).await;
    status
}

/// Keeps the end of what comes: a command that floods its output is read and fills nothing.
async fn hear(stderr: Option<impl AsyncRead + Unpin>, words: &mut Vec<u8>) {
    let Some(mut stderr) = stderr else { return };
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stderr.read(&mut buffer).await {
        words.extend_from_slice(&buffer[..length]);
        let surplus = words.len().saturating_sub(LAST_WORDS);
        words.drain(..surplus);
    }
}
