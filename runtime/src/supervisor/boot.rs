//! Bringing a host up with the permanent release, at the node's start and after a host's death.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use relmgr_model::Version;
use relmgr_model::conf::{ConfError, ConfReport};
use relmgr_model::control::{Kind, Operation, Outcome};
use relmgr_model::host::{Answer, Command};
use relmgr_model::status::{Event, Status};

use super::conf;
use super::handler::{self, OperationError};
use super::host_process::{CallError, HostProcess};
use super::node::{End, InForce, Node, Serving};
use super::pulse::Lately;

/// Starts a host, loads the permanent release in it (should that fail: the previous one, once) and accepts.
///
/// A node without a release, or with none that starts, accepts all the same: it says so to who asks.
pub async fn boot(node: &Arc<Node>) {
    // Held to the end, so that no operation records anything in between.
    let _pointers = node.pointers.lock().await;
    let facts = node.facts();
    let failed = |version: &Version| matches!(facts.releases.get(version), Some(Status::Failed { .. }));
    let prev = facts.prev.filter(|prev| !failed(prev));
    let mut candidates: Vec<Version> = facts.permanent.into_iter().chain(prev).collect();
    candidates.dedup();
    let Some((host, serving)) = bring_up(node, &candidates).await else { return };
    let current = serving.as_ref().map(|serving| serving.version.clone());
    let prev = node.facts().prev.filter(|prev| Some(prev) != current.as_ref());
    if let Err(error) = node.tree.set_links(current.as_ref(), prev.as_ref()) {
        tracing::error!(%error, "the links of releases/ are not rebuilt");
    }
    node.with(|state| {
        state.current = serving;
        state.host = Some(host.clone());
        state.lately = Lately::default();
    });
    // A host that died meanwhile is seen by `watch`.
    let _ = host.call(Command::Accept).await;
    node.rearm.notify_one();
    watch(node, host);
}

/// A host with the first of `candidates` that starts, or with none of them; `None`: the node has given up.
async fn bring_up(node: &Node, candidates: &[Version]) -> Option<(Arc<HostProcess>, Option<Serving>)> {
    let mut host = new_host(node).await?;
    let mut because = None;
    for (at, version) in candidates.iter().enumerate() {
        let error = match load(node, &host, version).await {
            Ok(()) => {
                if let (Some(error), Some(permanent)) = (because, candidates.first()) {
                    fall_back(node, permanent, version, &error, &[]);
                }
                return Some((host, Some(Serving { version: version.clone(), since: Utc::now() })));
            }
            Err(error) => error,
        };
        let operation = tell_failure(node, version, &error, &host);
        if at == 0 {
            // Of two that fail, the one that was to serve is what people ask about.
            node.with(|state| state.last_operation = Some(operation));
        }
        if let Some(how) = host.ended() {
            // Too often is too often for this release; the next one has not been tried.
            let untried = at + 1 < candidates.len() && node.with(|state| !state.fallen_back);
            if died_too_often(node) && !untried {
                give_up(node, &how);
            }
            if !count_restart(node) {
                return None;
            }
            host = new_host(node).await?;
        }
        if at == 0 {
            because = Some(error);
        }
    }
    Some((host, None))
}

/// A host process; one that does not come up counts as one that died.
async fn new_host(node: &Node) -> Option<Arc<HostProcess>> {
    loop {
        let how = match node.start_host().await {
            Ok(host) => return Some(host),
            Err(error) => OperationError::from(error).describe(),
        };
        tracing::error!("the host does not start: {how}");
        if died_too_often(node) {
            give_up(node, &how);
        }
        if !count_restart(node) {
            return None;
        }
    }
}

async fn load(node: &Node, host: &HostProcess, version: &Version) -> Result<(), OperationError> {
    // What ran is what runs again: an app.conf that is being edited while the host dies must not decide whether
    // it comes back, and clients that wait are not to wait for its files to be read.
    let known = node.with(|state| [state.in_force.clone(), state.in_force_before.clone()]);
    let in_force = known.into_iter().flatten().find(|in_force| in_force.version == *version);
    let in_force = match in_force {
        Some(in_force) => in_force,
        None => {
            handler::verify_installed(node, version).await?;
            configure(node, version)?
        }
    };
    let effective = &in_force.effective;
    let library = node.home.release(version).join(node.tree.manifest(version)?.library);
    let library = std::path::absolute(&library).map_err(|source| OperationError::Io {
        path: library,
        what: "read",
        source,
    })?;
    let request = handler::load_request(node, version, library, effective)?;
    let failed = |error: CallError| OperationError::Host {
        version: version.clone(),
        error: error.redacted(effective),
    };
    let Answer::Loaded { generation } = host.call(Command::Load(request)).await.map_err(failed)? else {
        return Err(OperationError::Cut("the host's answer to load".into()));
    };
    // There is nobody who makes way.
    host.call(Command::Swap { generation, patience_ms: 0, code_change: None }).await.map_err(failed)?;
    host.call(Command::Commit { generation }).await.map_err(failed)?;
    if in_force.error.is_none() {
        conf::write_effective(node, version, effective);
    }
    // Where it is known already it is not put back: a reload of which the host died has its word in there by now.
    node.with(|state| match &state.in_force {
        Some(known) if known.version == *version => {}
        _ => state.in_force = Some(in_force),
    });
    Ok(())
}

/// What `version` is to run with. Where the operator's files are wrong, it is what was applied last: a mistake that
/// the running node would have refused must not keep the next start from serving.
fn configure(node: &Node, version: &Version) -> Result<InForce, OperationError> {
    let wrong = match handler::configure(node, version) {
        Ok(effective) => return Ok(InForce::new(version.clone(), effective)),
        Err(error) => error,
    };
    let effective = match handler::last_applied(node, version) {
        Ok(effective) => effective,
        Err(error) => {
            let words = "the values applied last cannot be used instead";
            tracing::error!(%version, "{words}: {}", error.describe());
            return Err(OperationError::Unconfigured { wrong: wrong.describe(), last: error.describe() });
        }
    };
    let text = wrong.describe();
    tracing::error!(%version, "it starts with the values that were applied last: {text}");
    let operation = Operation {
        kind: Kind::Reload,
        outcome: Outcome::Failed,
        error: Some(format!("the node starts with the values that were applied last: {text}")),
        ..restart_of(version)
    };
    let _ = handler::tell_history(node, &operation, None, 0.0, vec![]);
    let error = Some(ConfError { at: Utc::now(), text });
    Ok(InForce { error, ..InForce::new(version.clone(), effective) })
}

fn tell_failure(node: &Node, version: &Version, error: &OperationError, host: &HostProcess) -> Operation {
    let error = error.describe();
    tracing::error!(%version, "release does not start: {error}");
    let operation = Operation {
        kind: Kind::Restart,
        outcome: Outcome::Failed,
        error: Some(error),
        ..restart_of(version)
    };
    let words = host.ended().map(|_| host.last_words()).unwrap_or_default();
    let _ = handler::tell_history(node, &operation, None, 0.0, words);
    operation
}

/// The node's own restart of `version`.
fn restart_of(version: &Version) -> Operation {
    Operation {
        kind: Kind::Restart,
        from: None,
        to: Some(version.clone()),
        outcome: Outcome::Done,
        error: None,
        hint: None,
        verdict: None,
        steps: vec![],
        removed: vec![],
        conf: ConfReport::default(),
        relmgr: None,
    }
}

/// Starts another host when this one dies.
pub fn watch(node: &Arc<Node>, host: Arc<HostProcess>) {
    super::pulse::watch(node, host.clone());
    super::admin::count(node, host.clone());
    let node = node.clone();
    tokio::spawn(async move {
        let how = host.wait().await;
        let serves = node.host().is_some_and(|serving| Arc::ptr_eq(&serving, &host));
        if !serves || host.is_stopping() {
            return;
        }
        tracing::error!(pid = host.pid, "the host died ({how}); connections wait for the next one");
        let begun = Instant::now();
        let served = node.with(|state| {
            state.host = None;
            state.current.take().map(|serving| serving.version)
        });
        // The release on probation is to blame for this one, and is gone; its history tells.
        let blamed_already = host.is_on_probation();
        if !blamed_already
            && died_too_often(&node)
            && !fall_back_from(&node, served.as_ref(), &how, &host).await
        {
            give_up(&node, &how);
        }
        if !count_restart(&node) {
            return;
        }
        boot(&node).await;
        if let Some(served) = served.filter(|_| !blamed_already) {
            tell_death(&node, &served, &how, &host, begun);
        }
    });
}

/// Says in the history that a host died, and which release serves in the next one.
fn tell_death(node: &Node, served: &Version, how: &str, host: &HostProcess, begun: Instant) {
    let to = node.facts().current;
    let outcome = if to.is_some() { Outcome::Done } else { Outcome::Failed };
    let error = Some(format!("the host died of {how}"));
    let operation = Operation { from: Some(served.clone()), to, outcome, error, ..restart_of(served) };
    let ms = begun.elapsed().as_secs_f64() * 1e3;
    let _ = handler::tell_history(node, &operation, None, ms, host.last_words());
}

/// Counts a death; whether there were more than the intensity allows.
fn died_too_often(node: &Node) -> bool {
    let (intensity, period) = (node.settings.supervisor.intensity, node.settings.supervisor.period);
    node.with(|state| are_too_many(&mut state.deaths, Instant::now(), intensity, period))
}

/// Adds a death of `now` to `deaths`, and forgets those that are longer ago than `period`; whether more than `intensity`
/// are left.
fn are_too_many(deaths: &mut VecDeque<Instant>, now: Instant, intensity: u32, period: Duration) -> bool {
    deaths.push_back(now);
    deaths.retain(|death| now.duration_since(*death) <= period);
    deaths.len() > intensity as usize
}

/// Counts a restart; whether there is to be one.
fn count_restart(node: &Node) -> bool {
    node.with(|state| {
        state.host_restarts += u64::from(!state.stopped);
        !state.stopped
    })
}

/// The end of a node whose host does not live, in the words that the log, `history` and the exit of `relmgr run`
/// have for it.
fn give_up(node: &Node, how: &str) {
    let (intensity, period) = (node.settings.supervisor.intensity, node.settings.supervisor.period);
    let period = humantime::format_duration(period);
    let words = format!(
        "the host died more than {intensity} times in {period} (supervisor.intensity), last by {how}"
    );
    if let Some(permanent) = node.facts().permanent {
        let error = Some(format!("the node gave up: {words}"));
        let operation = Operation { outcome: Outcome::Failed, error, ..restart_of(&permanent) };
        let _ = handler::tell_history(node, &operation, None, 0.0, vec![]);
    }
    node.end_for(End::GaveUp(words));
}

/// Prev takes the place of the permanent release, whose host died too often, unless that was done before; whether
/// it does.
async fn fall_back_from(node: &Node, served: Option<&Version>, how: &str, host: &HostProcess) -> bool {
    let _pointers = node.pointers.lock().await;
    let facts = node.facts();
    let (Some(permanent), Some(prev)) = (facts.permanent, facts.prev) else { return false };
    let intensity = node.settings.supervisor.intensity;
    let failed = matches!(facts.releases.get(&prev), Some(Status::Failed { .. }));
    if served != Some(&permanent) || failed || node.with(|state| state.fallen_back) {
        return false;
    }
    let error =
        OperationError::Deaths { version: permanent.clone(), times: intensity + 1, how: how.to_owned() };
    fall_back(node, &permanent, &prev, &error, &host.last_words())
}

/// Records that `prev` is permanent instead of `permanent`, which `error` keeps from serving; whether it is.
fn fall_back(
    node: &Node,
    permanent: &Version,
    prev: &Version,
    error: &OperationError,
    words: &[String],
) -> bool {
    let reason = error.describe();
    tracing::error!("{prev} serves instead of the permanent release {permanent}: {reason}");
    let now = Utc::now();
    let blamed = error.blames_release();
    let recorded = node.change_record(|record| {
        handler::supersede(record, prev, now);
        record.permanent = Some(prev.clone());
        record.prev = (!blamed).then(|| permanent.clone());
        if blamed {
            handler::change_status(record, permanent, Event::Failed { reason: reason.clone(), at: now });
        }
    });
    if let Err(error) = &recorded {
        tracing::error!(%error, "that {prev} is permanent now is not recorded");
    }
    // Nobody has handed them down: that is the business of the release which does not serve.
    let tables = if node.home.tables().exists() {
        format!(
            "; records of the state tables that only {permanent} can read are kept aside until it, or a later \
             release, serves"
        )
    } else {
        String::new()
    };
    let operation = Operation {
        from: Some(permanent.clone()),
        outcome: Outcome::RolledBack,
        error: Some(format!("{reason}{tables}")),
        ..restart_of(prev)
    };
    let _ = handler::tell_history(node, &operation, None, 0.0, words.to_vec());
    node.with(|state| {
        state.fallen_back = true;
        state.deaths.clear();
        state.last_operation = Some(operation);
    });
    recorded.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether each of the deaths at these seconds was one too many.
    fn judged(seconds: &[u64], intensity: u32, period: u64) -> Vec<bool> {
        let (begun, mut deaths) = (Instant::now(), VecDeque::new());
        let judge = |second: &u64| {
            let now = begun + Duration::from_secs(*second);
            are_too_many(&mut deaths, now, intensity, Duration::from_secs(period))
        };
        seconds.iter().map(judge).collect()
    }

    #[test]
    fn more_deaths_within_the_period_than_the_intensity_are_too_many() {
        assert_eq!(judged(&[0, 1, 2, 3], 3, 10), [false, false, false, true]);
        assert_eq!(judged(&[0, 10], 1, 10), [false, true], "the period's end is within it");
        assert_eq!(judged(&[0], 0, 10), [true]);
    }

    #[test]
    fn what_is_longer_ago_than_the_period_does_not_count() {
        assert_eq!(judged(&[0, 11, 22, 33], 1, 10), [false; 4]);
        assert_eq!(judged(&[0, 5, 11, 12], 2, 10), [false, false, false, true]);
    }

    #[test]
    fn what_does_not_count_any_more_is_forgotten() {
        let (begun, mut deaths) = (Instant::now(), VecDeque::new());
        for second in 0..100 {
            are_too_many(&mut deaths, begun + Duration::from_secs(second), 3, Duration::from_secs(10));
        }
        assert_eq!(deaths.len(), 11);
    }
}
