//! The operator's command that learns what happened. It holds up nothing and undoes nothing.

use std::process::Stdio;

use relmgr_model::record::HistoryEntry;
use serde::Serialize;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::host_process::describe;
use super::node::Node;
use super::systemd;

/// What it gets on stdin.
#[derive(Serialize)]
struct Told<'a> {
    app: &'a str,
    home: String,
    #[serde(flatten)]
    entry: &'a HistoryEntry,
}

/// Starts `hooks.outcome` with `entry`, and does not wait. What goes wrong with it is said in the log.
pub fn tell(node: &Node, entry: HistoryEntry) {
    let hooks = node.settings.hooks.clone();
    let Some((program, arguments)) = hooks.outcome.split_first() else { return };
    let told = Told { app: &node.settings.app, home: node.home.path().display().to_string(), entry: &entry };
    // Every entry has a JSON form.
    let mut line = serde_json::to_vec(&told).unwrap_or_default();
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
        .process_group(0)
        // It may outlive the supervisor: the last thing that a node does is told as well.
        .kill_on_drop(false)
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => return tracing::error!(program, %error, "hooks.outcome does not start"),
    };
    tokio::spawn(async move {
        let group = child.id().and_then(|pid| i32::try_from(pid).ok()).map(nix::unistd::Pid::from_raw);
        let stdin = child.stdin.take();
        let run = async {
            if let Some(mut stdin) = stdin {
                // A command that does not read it is none the worse for it.
                let _ = stdin.write_all(&line).await;
            }
            child.wait().await
        };
        match tokio::time::timeout(hooks.timeout, run).await {
            Ok(Ok(status)) if status.success() => {}
            Ok(Ok(status)) => tracing::warn!("hooks.outcome ended with {}", describe(status)),
            Ok(Err(error)) => tracing::warn!(%error, "hooks.outcome"),
            Err(_) => {
                let timeout = humantime::format_duration(hooks.timeout);
                tracing::warn!("hooks.outcome took longer than {timeout} and is killed (hooks.timeout)");
                if let Some(group) = group {
                    // An error means that it has just ended.
                    let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
                }
            }
        }
    });
}
