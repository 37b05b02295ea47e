//! Whether the node serves, and what serves is healthy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use relmgr_model::Version;
use relmgr_model::host::{Answer, Command};
use tokio::sync::Mutex;

use super::super::host_process::HostProcess;
use super::super::node::Node;

/// How long an answer of the application's health counts: any number of checks costs it one question a second.
const FRESH: Duration = Duration::from_secs(1);

/// The health is waited for so long, or for `upgrade.health` where that is less: load balancers give up after 5 to 10
/// seconds.
const PATIENCE: Duration = Duration::from_secs(4);

/// A swap between the two questions to the host makes them meet different generations; two in a row are none.
const TRIES: usize = 3;

/// What was last heard of the application's health.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<Option<Heard>>);

#[derive(Debug)]
struct Heard {
    at: Instant,
    host: u32,
    version: Version,
    health: Result<(), String>,
}

impl Readiness {
    /// The release that serves and is healthy.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub async fn ask(&self, node: &Arc<Node>) -> Result<Version, String> {
        let (host, version) = serving(node)?;
        // Whoever else asks meanwhile waits for the same answer.
        let mut last = self.0.lock().await;
        let fresh = last
            .as_ref()
            .filter(|heard| heard.at.elapsed() < FRESH && heard.host == host.pid && heard.version == version);
        let health = match fresh {
            Some(heard) => heard.health.clone(),
            None => {
                let patience = node.settings.upgrade.health.min(PATIENCE);
                let asked = tokio::time::timeout(patience, ask_health(node, &host, &version, patience));
                let health = asked.await.unwrap_or_else(|_| {
                    Err(format!("the host does not answer within {}", humantime::format_duration(patience)))
                });
                // Words of the application's own may repeat a secret, and nobody is asked here who they are.
                let health = health.map_err(|words: String| node.redact(&words));
                let (at, pid) = (Instant::now(), host.pid);
                *last = Some(Heard { at, host: pid, version: version.clone(), health: health.clone() });
                health
            }
        };
        health.map(|()| version)
    }
}

/// The host and the release that serves in it.
fn serving(node: &Node) -> Result<(Arc<HostProcess>, Version), String> {
    node.with(|state| {
        if state.stopped {
            return Err("the node is stopping".into());
        }
        let Some(host) = state.host.clone().filter(|host| host.ended().is_none()) else {
            return Err("there is no host at the moment".into());
        };
        let Some(current) = &state.current else {
            return Err("no release serves; `relmgr status` says more".into());
        };
        Ok((host, current.version.clone()))
    })
}

/// The application's own health and the manifest's probes, as in a probation.
async fn ask_health(
    node: &Node,
    host: &HostProcess,
    version: &Version,
    patience: Duration,
) -> Result<(), String> {
    let probes = node.tree.manifest(version).map_err(|error| error.to_string())?.probes;
    let deadline_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    let mut asked = generation(host).await?;
    for _ in 1..TRIES {
        let health = Command::Health { generation: asked, probes: probes.clone(), deadline_ms };
        let Err(error) = host.call(health).await else { return Ok(()) };
        match generation(host).await? {
            now if now != asked => asked = now,
            _ => return Err(format!("{version} is not healthy: {error}")),
        }
    }
    Err("one release after the other is swapped in".into())
}

async fn generation(host: &HostProcess) -> Result<u64, String> {
    match host.call(Command::Pulse).await {
        Ok(Answer::Pulse { generation: Some(generation), .. }) => Ok(generation),
        Ok(_) => Err("the host serves no release".into()),
        Err(error) => Err(error.to_string()),
    }
}
