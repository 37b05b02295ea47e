//! A reload:
//!
//! 1. evaluate the files for the release that serves, away from the supervisor's thread
//! 2. hold back the keys that wait for a restart
//! 3. tell the application what changed, and wait for its word
//! 4. keep account: what is in force, what waits, the effective file in the release's directory
//!
//! Whatever fails before 4 leaves the account as it was.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use relmgr_conf::{Changes, Effective, Reads};
use relmgr_model::Version;
use relmgr_model::conf::{ConfError, ConfReport};
use relmgr_model::control::{Kind, Operation, Outcome};
use relmgr_model::host::{Answer, Command, ConfChange};
use relmgr_store::atomic;

use super::super::handler::{self, OperationError};
use super::super::host_process::CallError;
use super::super::node::{InForce, Node};
use super::outdated;
use crate::conf;

/// What a reload came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// `relmgr reload`.
    Command,
    /// SIGHUP.
    Signal,
    /// A file changed, or another release serves.
    Watch,
}

/// Reloads when nobody waits for the outcome: it goes to the log, the history and `status`. Waits for an operation
/// that is under way.
pub async fn reload_by_itself(node: &Arc<Node>, cause: Cause) {
    let _alone = node.operations.lock().await;
    node.booted().await;
    let serving = node.with(|state| state.in_force.as_ref().map(|in_force| in_force.version.clone()));
    let (Some(version), false) = (serving, node.is_stopping()) else {
        if cause == Cause::Signal {
            tracing::warn!("SIGHUP: no release serves, so nothing is reloaded");
        }
        return;
    };
    let begun = Instant::now();
    let (outcome, error, conf) = match reload(node, &version, cause).await {
        Ok(Reloaded::Changed(report)) => (Outcome::Done, None, report),
        Ok(Reloaded::Same(_)) | Err(ReloadError::Again) => return,
        Err(ReloadError::Refused(error)) => (Outcome::Failed, Some(error.describe()), ConfReport::default()),
    };
    let kind = Kind::Reload;
    let (from, to) = (Some(version.clone()), Some(version));
    let (hint, verdict, relmgr, steps, removed) = (None, None, None, vec![], vec![]);
    let operation = Operation { kind, from, to, outcome, error, hint, verdict, steps, removed, conf, relmgr };
    let _ = handler::tell_history(node, &operation, None, begun.elapsed().as_secs_f64() * 1e3, vec![]);
}

/// What became of a reload.
#[derive(Debug)]
pub enum Reloaded {
    /// The application runs with other values, or other keys wait.
    Changed(ConfReport),
    /// Nothing is different from before.
    Same(ConfReport),
}

/// A reload that changed nothing since it was refused.
#[derive(Debug)]
pub enum ReloadError {
    /// This is why.
    Refused(OperationError),
    /// As it was the last time, which has been said; only where nobody waits.
    Again,
}

/// Reloads the configuration of `version`, which serves. The caller holds `Node::operations`.
///
/// # Errors
/// What is wrong with the files, or with the application's answer; the old values stay in force.
pub async fn reload(node: &Arc<Node>, version: &Version, cause: Cause) -> Result<Reloaded, ReloadError> {
    let in_force = node.with(|state| state.in_force.clone());
    let Some(in_force) = in_force.filter(|in_force| in_force.version == *version) else {
        return Err(ReloadError::Refused(relmgr_model::plan::Refusal::NoCurrent.into()));
    };
    let known = in_force.error.as_ref().map(|error| error.text.clone());
    let by_itself = cause == Cause::Watch;
    let result = match evaluate(node, &in_force).await {
        // An application that refuses a change, or dies of it, is not told it again because a file was touched.
        Ok(desired) if by_itself && was_refused(node, version, &desired) => return Err(ReloadError::Again),
        Ok(desired) => apply(node, in_force, desired).await,
        // An editor that writes one mistake several times is told it once.
        Err(error) if by_itself && known == Some(error.describe()) => return Err(ReloadError::Again),
        Err(error) => Err(error),
    };
    let error = match result {
        Ok(reloaded) => return Ok(reloaded),
        Err(error) => error,
    };
    let text = error.describe();
    tracing::error!(%version, "the configuration is not reloaded, the values from before stay: {text}");
    node.with(|state| {
        state.conf.refused += 1;
        if let Some(in_force) = &mut state.in_force {
            in_force.error = Some(ConfError { at: Utc::now(), text });
        }
    });
    Err(ReloadError::Refused(error))
}

fn was_refused(node: &Node, version: &Version, desired: &Effective) -> bool {
    node.with(|state| {
        let refused = state.conf.refused_values.as_ref().filter(|(of, _)| of == version);
        refused.is_some_and(|(_, values)| desired.changes_since(values).is_empty())
    })
}

/// What the files say now.
async fn evaluate(node: &Arc<Node>, in_force: &InForce) -> Result<Effective, OperationError> {
    let (home, running) = (node.home.clone(), in_force.clone());
    let work = move || -> (Result<Effective, OperationError>, Reads) {
        let mut reads = Reads::default();
        let sources = match conf::sources(&home, &running.version) {
            Ok(sources) => sources,
            Err(error) => return (Err(error.into()), reads),
        };
        let result = relmgr_conf::reload(&sources, &running.effective, &mut reads);
        let version = running.version;
        let result = result.map(|(desired, _)| desired);
        (result.map_err(|faults| OperationError::Configuration { version, faults }), reads)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok((result, reads)) => {
            node.with(|state| state.conf.reads = reads);
            result
        }
        Err(error) => Err(OperationError::Cut(error.to_string())),
    }
}

async fn apply(node: &Arc<Node>, running: InForce, desired: Effective) -> Result<Reloaded, OperationError> {
    let InForce { version, effective: before, loaded_at, pending: waited, .. } = running;
    let mut applied = desired.without_restart(&before);
    let mut changes = applied.changes_since(&before);
    if !changes.is_empty() {
        let told = tell(node, &version, &before, &applied, &changes).await;
        if let Err(OperationError::Host { .. }) = &told {
            node.with(|state| state.conf.refused_values = Some((version.clone(), desired.clone())));
        }
        if !told? {
            tracing::info!(%version, "the release takes no changes while it runs: they wait for a restart");
            (applied, changes) = (before, Changes::default());
        }
    }
    let report = report(&desired, &applied, &changes);
    let ConfReport { changed, new, removed, pending, .. } = &report;
    let is_same = changes.is_empty() && *pending == waited;
    if !is_same {
        tracing::info!(%version, ?changed, ?new, ?removed, ?pending, "the configuration is reloaded");
    }
    write_effective(node, &version, &applied);
    let (pending, error) = (pending.clone(), None);
    let loaded_at = if changes.is_empty() { loaded_at } else { Utc::now() };
    node.with(|state| {
        state.conf.refused_values = None;
        state.conf.reloads += u64::from(!is_same);
        state.in_force = Some(InForce { version, effective: applied, loaded_at, pending, error });
    });
    Ok(if is_same { Reloaded::Same(report) } else { Reloaded::Changed(report) })
}

fn report(desired: &Effective, applied: &Effective, changes: &Changes) -> ConfReport {
    let waiting = desired.changes_since(applied);
    let mut pending = [&waiting.changed, &waiting.new, &waiting.removed].map(|keys| texts(keys)).concat();
    pending.sort();
    ConfReport {
        notices: outdated(desired),
        changed: texts(&changes.changed),
        new: texts(&changes.new),
        removed: texts(&changes.removed),
        pending,
    }
}

/// Tells the application; whether it takes changes at all.
async fn tell(
    node: &Arc<Node>,
    version: &Version,
    before: &Effective,
    applied: &Effective,
    changes: &Changes,
) -> Result<bool, OperationError> {
    let change = ConfChange {
        version: version.clone(),
        settings: applied.to_json(),
        conf_hash: applied.hash(),
        changed: texts(&changes.changed),
        new: texts(&changes.new),
        removed: texts(&changes.removed),
        deadline_ms: millis(node.settings.conf.change),
    };
    let host = node.host().ok_or(OperationError::NoHost)?;
    match host.call(Command::ConfChange(change)).await {
        Ok(Answer::ConfChanged { heard }) => Ok(heard),
        Ok(_) => Err(OperationError::Cut("the host's answer to conf_change".into())),
        Err(CallError::Died(_)) if node.is_stopping() => Err(OperationError::Stopped),
        Err(error) => {
            let error = error.redacted(before).redacted(applied);
            Err(OperationError::Host { version: version.clone(), error })
        }
    }
}

/// Writes what is in force into the release's directory, secrets left out. It is for people: a failure is said and
/// stops nothing.
pub fn write_effective(node: &Node, version: &Version, effective: &Effective) {
    let path = node.home.release(version).join("app.conf");
    let text = effective.to_conf_text();
    if std::fs::read_to_string(&path).is_ok_and(|there| there == text) {
        return;
    }
    if let Err(error) = atomic::write(&path, text.as_bytes(), 0o600) {
        tracing::warn!(path = %path.display(), %error, "the effective configuration is not written");
    }
}

fn texts(keys: &[relmgr_conf::Key]) -> Vec<String> {
    keys.iter().map(ToString::to_string).collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
