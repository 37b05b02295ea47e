//! Steps 7 to 12: the release in the host, the swap, the record, the drain.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use chrono::{DateTime, Utc};
use relmgr_model::Version;
use relmgr_model::host::{Answer, Command, LoadRequest};
use relmgr_model::record::NodeRecord;
use relmgr_model::status::{Event, Status};
use relmgr_store::atomic;

use super::super::host_process::{CallError, HostProcess};
use super::super::listeners::Listener;
use super::super::node::{InForce, Node, Serving};
use super::walk::Walk;
use super::{OnProbation, OperationError};
use crate::endpoint::{self, AskError};

/// The node's own endpoint answers within microseconds; this is for a machine that is all but standing still.
const ENDPOINT_PATIENCE: Duration = Duration::from_secs(5);

/// How often a host is asked whether it has as many connections as it may have: an answer over a listener takes less.
const FULL_GLANCE: Duration = Duration::from_millis(50);

/// A host whose children are dropped at their deadline needs a moment for it; one that takes longer is stuck.
const STUCK_SLACK: Duration = Duration::from_secs(5);

impl Walk<'_> {
    pub(super) async fn start(&mut self, to: &Version) -> Result<Option<String>, OperationError> {
        let host = match self.request.kind {
            // A new process, which accepts nothing before its release serves.
            kind if kind.replaces_host() => self.node.start_host().await?,
            _ => self.node.host().ok_or(OperationError::NoHost)?,
        };
        self.host = Some(host.clone());
        let library = self.library(to)?;
        let effective = match self.effective.take() {
            Some(effective) => effective,
            None => super::configure(self.node, to)?,
        };
        let request = load_request(self.node, to, library, &effective)?;
        self.effective = Some(effective);
        match self.call(to, Command::Load(request)).await? {
            Answer::Loaded { generation } => {
                self.candidate = Some(generation);
                Ok(None)
            }
            other => Err(unexpected(to, &other)),
        }
    }

    pub(super) async fn health(&mut self, to: &Version) -> Result<Option<String>, OperationError> {
        let Some(generation) = self.candidate else { return Ok(None) };
        let probes = match &self.manifest {
            Some(manifest) => manifest.probes.clone(),
            None => self.node.tree.manifest(to)?.probes,
        };
        let asked = probes.len();
        let deadline_ms = millis(self.node.settings.upgrade.health);
        self.call(to, Command::Health { generation, probes, deadline_ms }).await?;
        Ok((asked > 0).then(|| format!("{asked} probes")))
    }

    pub(super) async fn swap(&mut self, to: &Version) -> Result<Option<String>, OperationError> {
        let Some(generation) = self.candidate else { return Ok(None) };
        let patience = self.node.settings.upgrade.children_patience();
        if self.request.kind.replaces_host() {
            self.take_over(to, generation, patience).await?;
            return self.replace_host(to, generation).await;
        }
        if !self.changed {
            self.make_way(to, generation, None).await?;
        }
        self.call(to, Command::Accept).await?;
        // Not before the node's own endpoint has said the new version is the swap called done.
        if let Err(error) = hear_version(self.node, self.host.as_deref(), to).await {
            let node = self.node.clone();
            let _pointers = node.pointers.lock().await;
            self.swap_back().await;
            return Err(self.died(to).err().unwrap_or(error));
        }
        Ok(None)
    }

    /// The new host begins to serve. The children of the old one end before: no job runs in both.
    async fn take_over(
        &self,
        to: &Version,
        generation: u64,
        patience: Duration,
    ) -> Result<(), OperationError> {
        let old = self.node.host();
        if let (Some(old), Some(schema)) = (&old, self.state_to_keep()?) {
            self.lend(to, generation, old, schema, patience).await?;
        } else if let Some(old) = &old {
            let suspend = Command::Suspend { patience_ms: millis(patience) };
            // One that is too stuck to end them is replaced all the same: that may be why.
            let _ = tokio::time::timeout(patience + STUCK_SLACK, old.call(suspend)).await;
        }
        // In a host of its own there is nobody who makes way.
        let swapped =
            match self.call(to, Command::Swap { generation, patience_ms: 0, code_change: None }).await {
                Ok(_) => self.call(to, Command::Accept).await.map(drop),
                Err(error) => Err(error),
            };
        if let (Err(_), Some(old)) = (&swapped, old) {
            // Unless it has died meanwhile, it goes on as before.
            let _ = old.call(Command::Resume).await;
        }
        swapped
    }

    /// The new host serves: the old one finishes what it has begun and goes.
    async fn replace_host(
        &mut self,
        to: &Version,
        generation: u64,
    ) -> Result<Option<String>, OperationError> {
        let Some(host) = self.host.clone() else { return Err(OperationError::NoHost) };
        let old = self.node.with(|state| {
            state.current = Some(Serving { version: to.clone(), since: Utc::now() });
            state.in_force = self.in_force(to);
            state.host.replace(host.clone())
        });
        self.candidate = None;
        if let Some(effective) = &self.effective {
            super::super::conf::write_effective(self.node, to, effective);
        }
        super::super::boot::watch(self.node, host);
        let _ = self.call(to, Command::Commit { generation }).await;
        // Where none served, nothing was linked.
        let prev = self.node.facts().prev.filter(|prev| prev != to);
        if let Err(error) = self.node.tree.set_links(Some(to), prev.as_ref()) {
            self.warn(format!("the links are rebuilt at the next start: {error}"));
        }
        if let Some(old) = old {
            old.make_way(self.node.settings.upgrade.drain).await;
        }
        hear_version(self.node, self.host.as_deref(), to).await?;
        Ok(None)
    }

    /// The point of no return: from here on the node boots the new release, and nothing undoes that.
    pub(super) async fn commit(&mut self, to: &Version) -> Result<Option<String>, OperationError> {
        let Some(generation) = self.candidate else { return Ok(None) };
        let prev = self.from.clone().filter(|from| from != to);
        let node = self.node.clone();
        // A host that died since the swap is not brought up in between with the release that is permanent now.
        let _pointers = node.pointers.lock().await;
        if let Err(error) = self.died(to).and_then(|()| self.write_record(to, prev.as_ref())) {
            self.swap_back().await;
            return Err(error);
        }
        self.candidate = None;
        self.watch = None;
        if let Some(host) = &self.host {
            host.set_on_probation(false);
        }
        self.serves(to, None);
        if let Some(order) = self.order.take() {
            order.tell(Ok(()));
        }
        if let Err(error) = self.node.tree.set_links(Some(to), prev.as_ref()) {
            self.warn(format!("the links are rebuilt at the next start: {error}"));
        }
        if let Err(error) = self.call(to, Command::Commit { generation }).await {
            self.warn(format!("the host does not know that {to} is permanent: {}", error.describe()));
        }
        Ok(None)
    }

    /// On probation: what is told to people is the new release, what the node boots is the old one.
    pub(super) async fn record_probation(&mut self, to: &Version) -> Result<Option<String>, OperationError> {
        let node = self.node.clone();
        // As in `commit`.
        let _pointers = node.pointers.lock().await;
        let swapped_at = Utc::now();
        let recorded = self.died(to).and_then(|()| {
            self.write_configuration(to)?;
            Ok(node.change_record(|record| {
                if let Some(operation) = &mut record.operation {
                    operation.swapped_at = Some(swapped_at);
                }
            })?)
        });
        if let Err(error) = recorded {
            self.swap_back().await;
            return Err(error);
        }
        let on_probation = self.begin_probation(to);
        self.serves(to, on_probation);
        if let Err(error) = self.node.tree.set_links(Some(to), self.from.as_ref()) {
            self.warn(format!("the links are rebuilt at the next start: {error}"));
        }
        Ok(None)
    }

    /// Says that `to` serves; what served before may come back while `to` is on probation.
    fn serves(&self, to: &Version, on_probation: Option<OnProbation>) {
        self.node.with(|state| {
            let before = state.in_force.take();
            state.in_force_before = match &on_probation {
                Some(_) => before,
                None => None,
            };
            let since = match state.current.take() {
                // It has been serving since its probation began.
                Some(serving) if serving.version == *to => serving.since,
                _ => Utc::now(),
            };
            state.current = Some(Serving { version: to.clone(), since });
            state.in_force = self.in_force(to);
            state.probation = on_probation;
        });
    }

    fn write_configuration(&self, to: &Version) -> Result<(), OperationError> {
        let Some(effective) = &self.effective else { return Ok(()) };
        let path = self.node.home.release(to).join("app.conf");
        let written = atomic::write(&path, effective.to_conf_text().as_bytes(), 0o600);
        written.map_err(|source| OperationError::Io { path, what: "written", source })
    }

    fn write_record(&self, to: &Version, prev: Option<&Version>) -> Result<(), OperationError> {
        if !self.watched {
            self.write_configuration(to)?;
        }
        let now = Utc::now();
        Ok(self.node.change_record(|record| {
            supersede(record, to, now);
            record.prev = prev.cloned();
            record.permanent = Some(to.clone());
        })?)
    }

    pub(super) async fn drain(&mut self) -> Result<Option<String>, OperationError> {
        let (Some(generation), Some(host)) = (self.previous.take(), self.host.clone()) else {
            return Ok(None);
        };
        let from = self.from.as_ref().map(ToString::to_string).unwrap_or_default();
        let drain_ms = millis(self.node.settings.upgrade.drain);
        match host.call(Command::Retire { generation, drain_ms }).await {
            Ok(Answer::Retired { cut, stop_left_ms, pinned }) => {
                if cut > 0 {
                    self.warn(format!("{cut} requests on {from} were cut at the drain deadline"));
                }
                if let Some(patience) = stop_left_ms.map(Duration::from_millis) {
                    let patience = humantime::format_duration(patience);
                    self.warn(format!("the stop of {from} took longer than {patience} and was left"));
                }
                if !pinned.is_empty() {
                    let reasons = pinned.join("; ");
                    self.warn(format!(
                        "{from} is still in memory: {reasons}; it is tried again, see `relmgr status`"
                    ));
                }
                Ok(pinned.is_empty().then(|| format!("{from} unmapped")))
            }
            Ok(_) => Ok(None),
            // The new release is recorded: whatever happens to the old one undoes nothing.
            Err(error) => {
                self.warn(format!("{from} was not retired: {error}"));
                Ok(None)
            }
        }
    }

    /// What `to` was started with.
    fn in_force(&self, to: &Version) -> Option<InForce> {
        Some(InForce::new(to.clone(), self.effective.clone()?))
    }

    /// Whether the host that the release is loaded in has died, or another one serves.
    pub(super) fn died(&self, to: &Version) -> Result<(), OperationError> {
        let Some(host) = &self.host else { return Err(OperationError::NoHost) };
        match host.ended() {
            Some(how) => Err(self.failed(to, CallError::Died(how))),
            None => Ok(()),
        }
    }

    pub(super) async fn call(&self, to: &Version, command: Command) -> Result<Answer, OperationError> {
        let Some(host) = &self.host else { return Err(OperationError::NoHost) };
        host.call(command).await.map_err(|error| self.failed(to, error))
    }

    fn failed(&self, to: &Version, error: CallError) -> OperationError {
        match error {
            // Told to end, like everything else in the node.
            CallError::Died(_) if self.node.is_stopping() => OperationError::Stopped,
            error => {
                let error = self.effective.iter().fold(error, CallError::redacted);
                OperationError::Host { version: to.clone(), error }
            }
        }
    }
}

/// `to` becomes the permanent release, and the one that was it so far an old one.
pub fn supersede(record: &mut NodeRecord, to: &Version, now: DateTime<Utc>) {
    for (version, release) in &mut record.releases {
        let status = release.status.clone();
        let next = match (version == to, &status) {
            // After a start on the previous release `to` may be what is recorded already.
            (true, Status::Permanent) => continue,
            (true, _) => status.next(Event::Swapped).and_then(|status| status.next(Event::Committed)),
            (false, Status::Permanent) => status.next(Event::Superseded),
            (false, _) => continue,
        };
        match next {
            Ok(status) => {
                release.status = status;
                release.since = now;
            }
            // Its plan did not look at the status: the release serves all the same.
            Err(error) => tracing::error!(%version, "{error}"),
        }
    }
}

/// What the host is told of a release.
///
/// # Errors
/// [`OperationError::Tree`] when its manifest cannot be read.
pub fn load_request(
    node: &Node,
    version: &Version,
    library: std::path::PathBuf,
    effective: &relmgr_conf::Effective,
) -> Result<LoadRequest, OperationError> {
    let manifest = node.tree.manifest(version)?;
    let directory = node.home.release(version);
    let directory = std::path::absolute(&directory).map_err(|source| OperationError::Io {
        path: directory,
        what: "read",
        source,
    })?;
    let sha256 = manifest.files.get(&manifest.library).map(|digest| digest.sha256.clone());
    Ok(LoadRequest {
        version: version.clone(),
        directory,
        library,
        sha256: sha256.unwrap_or_default(),
        settings: effective.to_json(),
        conf_hash: effective.hash(),
        start_ms: millis(node.settings.upgrade.start),
        prev: node.facts().current.filter(|current| current != version).or_else(|| node.facts().prev),
    })
}

/// Asks the node's own version endpoint, as a client would.
async fn hear_version(
    node: &Node,
    host: Option<&HostProcess>,
    expected: &Version,
) -> Result<(), OperationError> {
    let path = node.settings.http.version_path.clone();
    let fault = |reason: String| OperationError::NotServing {
        path: path.clone(),
        expected: expected.clone(),
        reason,
    };
    // The listeners that speak TLS come last.
    let Some(listener) = node.listeners.first() else { return Ok(()) };
    let asked = tokio::time::timeout(ENDPOINT_PATIENCE, async {
        tokio::select! {
            heard = ask_version(listener, &path) => heard,
            heard = hear_when_full(host) => Ok(heard),
        }
    });
    match asked.await {
        Ok(Ok(heard)) if heard == expected.to_string() => Ok(()),
        Ok(Ok(heard)) => Err(fault(format!("it answers `{heard}`"))),
        Ok(Err(error)) => Err(fault(error.to_string())),
        Err(_) => Err(fault(format!("no answer within {}", humantime::format_duration(ENDPOINT_PATIENCE)))),
    }
}

/// What the endpoint answers within the host, once that has as many connections as it may have: a question over a
/// listener then waits in the backlog, behind clients, and says nothing about the release. Until then, and from a host
/// that does not know the question, nothing.
async fn hear_when_full(host: Option<&HostProcess>) -> String {
    let Some(host) = host else { return std::future::pending().await };
    loop {
        tokio::time::sleep(FULL_GLANCE).await;
        match host.call(Command::Hear).await {
            Ok(Answer::Heard { version, full: true }) => return version,
            Ok(_) => {}
            // How it died is for others to say.
            Err(_) => return std::future::pending().await,
        }
    }
}

async fn ask_version(listener: &Listener, path: &str) -> Result<String, AskError> {
    let address = listener.address;
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let stream = tokio::net::TcpStream::connect((ip, address.port())).await?;
    match listener.secure {
        false => endpoint::ask_version(stream, path).await,
        true => endpoint::ask_version(crate::tls::connect_to_ourselves(stream).await?, path).await,
    }
}

pub(super) fn unexpected(version: &Version, answer: &Answer) -> OperationError {
    let error = CallError::Refused(relmgr_model::host::HostError {
        message: format!("the host answered {answer:?}"),
    });
    OperationError::Host { version: version.clone(), error }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use relmgr_model::record::ReleaseRecord;

    fn record(releases: &[(&str, Status)]) -> NodeRecord {
        let mut record = NodeRecord::new("live-poll");
        let at = DateTime::UNIX_EPOCH;
        for (version, status) in releases {
            let release = ReleaseRecord { status: status.clone(), installed_at: at, since: at };
            record.releases.insert(version.parse().unwrap(), release);
        }
        record
    }

    fn statuses(record: &NodeRecord) -> String {
        let words = record.releases.iter().map(|(version, release)| {
            let moved = if release.since > DateTime::UNIX_EPOCH { "*" } else { "" };
            format!("{version} {}{moved}", release.status.name())
        });
        words.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn the_permanent_release_becomes_an_old_one() {
        let mut record =
            record(&[("1.0.0", Status::Old), ("2.0.0", Status::Permanent), ("3.0.0", Status::Unpacked)]);
        supersede(&mut record, &"3.0.0".parse().unwrap(), Utc::now());
        assert_eq!(statuses(&record), "1.0.0 old, 2.0.0 old*, 3.0.0 permanent*");
        supersede(&mut record, &"1.0.0".parse().unwrap(), Utc::now());
        assert_eq!(statuses(&record), "1.0.0 permanent*, 2.0.0 old*, 3.0.0 old*");
    }

    #[test]
    fn the_permanent_release_that_serves_again_after_a_fallback_stays_what_it_is() {
        let mut record = record(&[("1.0.0", Status::Old), ("2.0.0", Status::Permanent)]);
        supersede(&mut record, &"2.0.0".parse().unwrap(), Utc::now());
        assert_eq!(statuses(&record), "1.0.0 old, 2.0.0 permanent");
    }
}
