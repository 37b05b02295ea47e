//! Bringing a host up with the permanent release, at the node's start and after a host's death.

use std::sync::Arc;
use std::time::Instant;

use chrono::Utc;
use relmgr_model::Version;
use relmgr_model::control::{Kind, Operation, Outcome};
use relmgr_model::host::{Answer, Command};

use super::handler::{self, OperationError};
use super::host_process::HostProcess;
use super::node::{End, Node, Serving};

/// Starts a host, loads the permanent release in it (should that fail: the previous one, once) and accepts.
///
/// A node without a release, or with none that starts, accepts all the same: it says so to who asks.
pub async fn boot(node: &Arc<Node>) {
    let host = match node.start_host().await {
        Ok(host) => host,
        Err(error) => {
            let how = OperationError::from(error).describe();
            tracing::error!("the host does not start: {how}");
            // As a death: so often, and no oftener, is it tried again.
            Box::pin(after_death(node, &how)).await;
            return;
        }
    };
    let facts = node.facts();
    let mut candidates: Vec<Version> = facts.permanent.into_iter().chain(facts.prev).collect();
    candidates.dedup();
    let mut serving = None;
    for (at, version) in candidates.iter().enumerate() {
        match load(node, &host, version).await {
            Ok(()) => {
                serving = Some(Serving { version: version.clone(), since: Utc::now() });
                if at > 0 {
                    tracing::error!(%version, "the previous release serves instead of the permanent one");
                }
                break;
            }
            Err(error) => tell_failure(node, version, &error),
        }
    }
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
    watch(node, host);
}

async fn load(node: &Node, host: &HostProcess, version: &Version) -> Result<(), OperationError> {
    let effective = handler::configure(node, version)?;
    let library = node.home.release(version).join(node.tree.manifest(version)?.library);
    let library = std::path::absolute(&library).map_err(|source| OperationError::Io {
        path: library,
        what: "read",
        source,
    })?;
    let request = handler::load_request(node, version, library, &effective)?;
    let failed = |error| OperationError::Host { version: version.clone(), error };
    let Answer::Loaded { generation } = host.call(Command::Load(request)).await.map_err(failed)? else {
        return Err(OperationError::Cut("the host's answer to load".into()));
    };
    host.call(Command::Swap { generation }).await.map_err(failed)?;
    host.call(Command::Commit { generation }).await.map_err(failed)?;
    Ok(())
}

fn tell_failure(node: &Node, version: &Version, error: &OperationError) {
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
    };
    handler::tell_history(node, &operation, None, 0.0);
    node.with(|state| state.last_operation = Some(operation));
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
        after_death(&node, &how).await;
    });
}

/// Restarts under the intensity, or gives the node up.
async fn after_death(node: &Arc<Node>, how: &str) {
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
        return;
    }
    if node.with(|state| state.stopped) {
        return;
    }
    node.with(|state| state.host_restarts += 1);
    boot(node).await;
}
