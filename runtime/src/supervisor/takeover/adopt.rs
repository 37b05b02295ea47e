//! The host of the image before goes on under this one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use relmgr_model::conf::ConfError;
use relmgr_model::takeover::Takeover;

use super::super::boot;
use super::super::handler::{self, OperationError};
use super::super::host_process::{HostProcess, Left, SpawnError};
use super::super::node::{InForce, Node, Serving};

/// Says that the host that was left serves. What it runs with is what was applied last: the operator's files may say
/// something else by now.
///
/// # Errors
/// [`SpawnError`]: its descriptors are not what they should be.
pub fn adopt(node: &Arc<Node>, left: Left, takeover: &Takeover) -> Result<(), SpawnError> {
    let host = HostProcess::adopt(left, node.settings.log.format)?;
    let current = takeover
        .serving
        .as_ref()
        .map(|serving| Serving { version: serving.version.clone(), since: serving.since });
    let in_force = current.as_ref().and_then(|serving| {
        let effective = match handler::last_applied(node, &serving.version) {
            Ok(effective) => effective,
            Err(error) => {
                tracing::error!("what the host runs with is not known: {}", error.describe());
                return None;
            }
        };
        let error = handler::configure(node, &serving.version).err();
        let error = error.map(|error| ConfError { at: Utc::now(), text: OperationError::describe(&error) });
        Some(InForce { error, ..InForce::new(serving.version.clone(), effective) })
    });
    node.metrics.go_on_from(&takeover.answered);
    let now = Instant::now();
    // One that a clock of this machine has not seen is long over.
    let deaths = takeover.deaths_ms_ago.iter();
    let deaths = deaths.filter_map(|ago| now.checked_sub(Duration::from_millis(*ago))).collect();
    node.with(|state| {
        state.deaths = deaths;
        state.current = current;
        state.in_force = in_force;
        state.host = Some(host.clone());
        state.host_restarts = takeover.host_restarts;
        state.fallen_back = takeover.fallen_back;
        state.running = Some("self-upgrade".into());
    });
    boot::watch(node, host);
    Ok(())
}
