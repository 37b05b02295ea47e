//! The way back: a candidate is given up, what served before serves again.

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use relmgr_model::host::{Answer, Command};

use super::super::host_process::HostProcess;
use super::super::node::Serving;
use super::switch::millis;
use super::walk::Walk;

/// A rollback waits so much longer than the children of the release that goes may take: those that are dropped at
/// their deadline need a moment too. Requests do not wait for them.
const SWAP_BACK_SLACK: Duration = Duration::from_secs(5);

impl Walk<'_> {
    /// Gives up a candidate that does not serve, and a host that was to take over.
    pub(super) async fn give_up_candidate(&mut self) {
        // What died has taken its generations along.
        let Some(host) = self.host.clone().filter(|host| host.ended().is_none()) else { return };
        if self.request.kind.replaces_host() {
            if !self.node.host().is_some_and(|serving| Arc::ptr_eq(&serving, &host)) {
                host.stop(Duration::ZERO).await;
            }
            return;
        }
        if let Some(generation) = self.candidate.take() {
            // One that has served has requests to finish.
            let drain = if self.rolled_back { self.node.settings.upgrade.drain } else { Duration::ZERO };
            retire_quietly(&host, generation, drain).await;
        }
    }

    /// The old generation serves again. Where there is none, or it does not come back, the host makes way for one
    /// that boots what is recorded.
    ///
    /// The caller holds `pointers`.
    pub(super) async fn swap_back(&mut self) {
        let Some(host) = self.host.clone() else { return };
        self.rolled_back = true;
        self.watch = None;
        let patience = self.node.settings.upgrade.children_patience();
        let back = match self.previous.take() {
            Some(generation) if host.ended().is_none() => {
                let code_change = self.change_back();
                // As long as the state takes as well.
                let slack = SWAP_BACK_SLACK + 2 * self.node.settings.upgrade.quiesce;
                let command = Command::SwapBack { generation, patience_ms: millis(patience), code_change };
                let asked = tokio::time::timeout(patience + slack, host.call(command));
                match asked.await {
                    Ok(Ok(answer)) => {
                        self.handed_back(&answer);
                        true
                    }
                    _ => false,
                }
            }
            _ => false,
        };
        if back {
            host.set_on_probation(false);
            self.serves_again();
            return;
        }
        self.candidate = None;
        self.node.with(|state| state.probation = None);
        if host.ended().is_none() {
            host.kill_for("the release before did not come back in it".into());
        }
        host.wait().await;
    }

    /// Says that what served before serves again in the same host.
    fn serves_again(&self) {
        let was_current = self.node.with(|state| {
            let on_probation = state.probation.take().is_some();
            if on_probation {
                state.current = self.from.clone().map(|version| Serving { version, since: Utc::now() });
                state.in_force = state.in_force_before.take();
            }
            on_probation
        });
        if was_current {
            // What is watched is what the release that serves was configured from.
            self.node.rearm.notify_one();
            let prev = self.node.facts().prev.filter(|prev| Some(prev) != self.to.as_ref());
            if let Err(error) = self.node.tree.set_links(self.from.as_ref(), prev.as_ref()) {
                self.warn(format!("the links are rebuilt at the next start: {error}"));
            }
        }
    }
}

/// Retires a generation that nobody will miss.
async fn retire_quietly(host: &HostProcess, generation: u64, drain: Duration) {
    match host.call(Command::Retire { generation, drain_ms: millis(drain) }).await {
        Ok(Answer::Retired { pinned, .. }) if !pinned.is_empty() => {
            tracing::warn!("a candidate stays in memory: {}", pinned.join("; "));
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "a candidate was not retired"),
    }
}
