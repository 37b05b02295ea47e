//! The operator's commands. What they print goes nowhere, but the end of what a command that failed had to say.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use relmgr_model::notify::Notification;
use relmgr_model::record::HistoryEntry;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStderr, Command};

use super::super::host_process::describe;
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
        Ok(child) => {
            let known = child.id().and_then(|pid| i32::try_from(pid).ok()).map(|pid| node.child(pid));
            let timeout = node.settings.hooks.timeout;
            tokio::spawn(async move {
                let _known = known;
                run(name, child, line, timeout).await;
            });
        }
        Err(error) => tracing::error!(program, %error, "{name} does not start"),
    }
}

async fn run(name: &'static str, mut child: Child, line: Vec<u8>, timeout: Duration) {
    let group = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw);
    let mut words = Vec::new();
    let ended = tokio::time::timeout(timeout, converse(&mut child, &line, &mut words)).await;
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

/// Tells `child` its line and hears what it writes, until it ends.
async fn converse(child: &mut Child, line: &[u8], words: &mut Vec<u8>) -> std::io::Result<ExitStatus> {
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // A command that does not read it is none the worse for it.
            let _ = stdin.write_all(line).await;
        }
    };
    let mut hear = std::pin::pin!(hear(stderr, words));
    let status = {
        let ended = async { tokio::join!(write, child.wait()).1 };
        tokio::pin!(ended);
        tokio::select! {
            status = &mut ended => status,
            () = &mut hear => return ended.await,
        }
    };
    let _ = tokio::time::timeout(REST, hear).await;
    status
}

/// Keeps the end of what comes: a command that floods its output is read and fills nothing.
async fn hear(stderr: Option<ChildStderr>, words: &mut Vec<u8>) {
    let Some(mut stderr) = stderr else { return };
    let mut buffer = [0; 4096];
    while let Ok(length @ 1..) = stderr.read(&mut buffer).await {
        words.extend_from_slice(&buffer[..length]);
        let surplus = words.len().saturating_sub(LAST_WORDS);
        words.drain(..surplus);
    }
}
