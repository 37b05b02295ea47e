//! What the control socket tells of the configuration, evaluated in the supervisor's environment: that is what the
//! application will get.

use std::sync::Arc;

use relmgr_model::Version;
use relmgr_model::conf::{ConfDifferences, EffectiveConf};
use relmgr_model::plan::Refusal;

use super::super::handler::{self, OperationError};
use super::super::node::{InForce, Node};
use crate::conf;

/// What the release that serves runs with; with the query `release=V` what that release would run with.
///
/// # Errors
/// No release serves, the named one is not installed, or its configuration does not fit.
pub async fn effective(node: &Arc<Node>, query: Option<&str>) -> Result<EffectiveConf, OperationError> {
    let Some(text) = query.and_then(|query| query.strip_prefix("release=")) else {
        let InForce { version, effective, .. } = in_force(node)?;
        return Ok(conf::shown(&version, &effective, true));
    };
    let version: Version =
        text.parse().map_err(|_| OperationError::Cut(format!("`{text}` is no version")))?;
    if !node.facts().releases.contains_key(&version) {
        return Err(Refusal::NotInstalled { version }.into());
    }
    evaluate(node, version.clone()).await.map(|effective| conf::shown(&version, &effective, false))
}

/// What a reload would change.
///
/// # Errors
/// No release serves, or the files are wrong.
pub async fn differences(node: &Arc<Node>) -> Result<ConfDifferences, OperationError> {
    let InForce { version, effective, .. } = in_force(node)?;
    Ok(conf::differences(&effective, &evaluate(node, version).await?))
}

fn in_force(node: &Node) -> Result<InForce, OperationError> {
    node.with(|state| state.in_force.clone()).ok_or_else(|| Refusal::NoCurrent.into())
}

/// Away from the supervisor's thread: whoever asks must not hold up anybody else.
async fn evaluate(node: &Arc<Node>, version: Version) -> Result<relmgr_conf::Effective, OperationError> {
    let node = node.clone();
    let work = tokio::task::spawn_blocking(move || handler::configure(&node, &version));
    work.await.unwrap_or_else(|error| Err(OperationError::Cut(error.to_string())))
}
