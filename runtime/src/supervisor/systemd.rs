//! What systemd is told (sd_notify(3)), where it started the supervisor with `Type=notify`.
//!
//! | word | when |
//! | --- | --- |
//! | READY | the permanent release has booted, or there is none; again after a reload |
//! | RELOADING | SIGHUP has come |
//! | STOPPING | the node ends |
//! | WATCHDOG | the supervisor's only thread has come round, three times within `WatchdogSec` |
//! | STATUS | what serves, for `systemctl status`, when it has changed |

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::MissedTickBehavior;

use super::node::Node;

/// How often STATUS is compared with what was told last.
const EVERY: Duration = Duration::from_secs(1);

/// Variables that mean the supervisor, and nothing that it starts.
pub const VARIABLES: [&str; 6] =
    ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// Whether READY was told: RELOADING and the READY after it would say so too early.
static READY: AtomicBool = AtomicBool::new(false);

/// The node serves what it is to serve.
pub fn ready(node: &Node) {
    READY.store(true, Ordering::Relaxed);
    tell(&[NotifyState::Ready, NotifyState::Status(&words(node))]);
}

/// The configuration is being reloaded; every call is followed by [`reloaded`].
pub fn reloading() {
    if READY.load(Ordering::Relaxed) {
        // Type=notify-reload wants to know since when; where the clock cannot be read, the word alone.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(_) => tell(&[NotifyState::Reloading]),
        }
    }
}

/// The reload is over, however it went: what serves is healthy either way.
pub fn reloaded() {
    if READY.load(Ordering::Relaxed) {
        tell(&[NotifyState::Ready]);
    }
}

/// The node ends.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Answers the watchdog and keeps STATUS true, for as long as the process lives. A task like any other on the one
/// thread of the supervisor: when that thread is stuck, nothing is answered, and systemd starts another supervisor.
pub fn attend(node: Arc<Node>) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let limit = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
    let every = limit.map_or(EVERY, |limit| EVERY.min(limit / 3));
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = String::new();
        loop {
            ticks.tick().await;
            if limit.is_some() {
                tell(&[NotifyState::Watchdog]);
            }
            let words = words(&node);
            if words != told {
                tell(&[NotifyState::Status(&words)]);
                told = words;
            }
        }
    });
}

/// What serves, and what is under way.
fn words(node: &Node) -> String {
    let app = &node.settings.app;
    node.with(|state| {
        let serves = match &state.current {
            Some(serving) => format!("{app} {} serves", serving.version),
            None => format!("{app}: no release serves"),
        };
        match &state.running {
            Some(running) => format!("{serves}; under way: {running}"),
            None => serves,
        }
    })
}

/// Tells it `states`.
pub fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd is not told");
    }
}
