//! Bringing a host up with the permanent release, at the node's start and after a host's death.

use std::sync::Arc;
use std::time::Instant;

use chrono::Utc;
use relmgr_model::Version;
use relmgr_model::conf::ConfReport;
use relmgr_model::control::{Kind, Operation, Outcome};
use relmgr_model::host::{Answer, Command};

use super::conf;
use super::handler::{self, OperationError};
use super::host_process::{CallError, HostProcess};
use super::node::{End, InForce, Node, Serving};

/// Starts a host, loads the permanent release in it (should that fail: the previous one, once) and accepts.
///
/// A node without a release, or with none that starts, accepts all the same: it says so to who asks.
pub async fn boot(node: &Arc<Node>) {
    // Held to the end, so that no operation records anything in between.
    let _pointers = node.pointers.lock().await;
    let facts = node.facts();
    let mut candidates: Vec<Version> = facts.permanent.into_iter().chain(facts.prev).collect();
    candidates.dedup();
    let Some((host, serving)) = bring_up(node, &candidates).await else { return };
    let current = serving.as_ref().map(|serving| serving.version.clone());
    node.with(|state| {
        state.current = serving;
        state.host = Some(host.clone());
    });
    let prev = node.facts().prev.filter(|prev| Some(prev) != current.as_ref());
    if let Err(error) = node.tree.set_links(current.as_ref(), prev.as_ref()) {
        tracing::error!(%error, "the links of releases/ are not rebuilt");
    }
    // A host that died meanwhile is seen by `watch`.
    let _ = host.call(Command::Accept).await;
    node.rearm.notify_one();
    watch(node, host);
}

/// A host with the first of `candidates` that starts, or with none of them; `None`: the node has given up.
async fn bring_up(node: &Node, candidates: &[Version]) -> Option<(Arc<HostProcess>, Option<Serving>)> {
    let mut host = new_host(node).await?;
    for (at, version) in candidates.iter().enumerate() {
        let error = match load(node, &host, version).await {
            Ok(()) => {
                if at > 0 {
                    tracing::error!(%version, "the previous release serves instead of the permanent one");
                }
                return Some((host, Some(Serving { version: version.clone(), since: Utc::now() })));
            }
            Err(error) => error,
        };
        let operation = tell_failure(node, version, &error);
        if at == 0 {
            // Of two that fail, the one that was to serve is what people ask about.
            node.with(|state| state.last_operation = Some(operation));
        }
        if let Some(how) = host.ended() {
            if !may_restart(node, &how) {
                return None;
            }
            host = new_host(node).await?;
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
        if !may_restart(node, &how) {
            return None;
        }
    }
}

async fn load(node: &Node, host: &HostProcess, version: &Version) -> Result<(), OperationError> {
    // What ran is what runs again: an app.conf that is being edited while the host dies must not decide whether
    // it comes back, and clients that wait are not to wait for its files to be read.
    let in_force = node.with(|state| state.in_force.clone()).filter(|in_force| in_force.version == *version);
    let in_force = match in_force {
        Some(in_force) => in_force,
        None => {
            handler::verify_installed(node, version).await?;
            InForce::new(version.clone(), handler::configure(node, version)?)
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
    host.call(Command::Swap { generation }).await.map_err(failed)?;
    host.call(Command::Commit { generation }).await.map_err(failed)?;
    conf::write_effective(node, version, effective);
    // Where it is known already it is not put back: a reload of which the host died has its word in there by now.
    node.with(|state| match &state.in_force {
        Some(known) if known.version == *version => {}
        _ => state.in_force = Some(in_force),
    });
    Ok(())
}

fn tell_failure(node: &Node, version: &Version, error: &OperationError) -> Operation {
    let error = error.describe();
    tracing::error!(%version, "release does not start: {error}");
    let operation = Operation {
        kind: Kind::Restart,
        from: None,
        to: Some(version.clone()),
        outcome: Outcome::Failed,
        error: Some(error),
        hint: None,
        steps: vec![],
        removed: vec![],
        conf: ConfReport::default(),
    };
    handler::tell_history(node, &operation, None, 0.0);
    operation
}

/// Starts another host when this one dies.
pub fn watch(node: &Arc<Node>, host: Arc<HostProcess>) {
    let node = node.clone();
    tokio::spawn(async move {
        let how = host.wait().await;
        let serves = node.host().is_some_and(|serving| Arc::ptr_eq(&serving, &host));
        if !serves || host.is_stopping() {
            return;
        }
        tracing::error!(pid = host.pid, "the host died ({how}); connections wait for the next one");
        node.with(|state| {
            state.host = None;
            state.current = None;
        });
        if may_restart(&node, &how) {
            boot(&node).await;
        }
    });
}

/// Counts a death. Whether another host may be started, under the intensity; where not, the node gives up.
fn may_restart(node: &Node, how: &str) -> bool {
    let (intensity, period) = (node.settings.supervisor.intensity, node.settings.supervisor.period);
    let too_often = node.with(|state| {
        let now = Instant::now();
        state.deaths.push_back(now);
        state.deaths.retain(|death| now.duration_since(*death) <= period);
        state.deaths.len() > intensity as usize
    });
    if too_often {
        let period = humantime::format_duration(period);
        let words = format!(
            "the host died more than {intensity} times in {period} (supervisor.intensity), last by {how}"
        );
        node.end_for(End::GaveUp(words));
    }
    node.with(|state| {
        state.host_restarts += u64::from(!state.stopped);
        !state.stopped
    })
}
