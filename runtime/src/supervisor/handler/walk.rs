//! An operation being carried out: what it has learnt so far, and the order of its steps.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use chrono::Utc;
use relmgr_conf::Effective;
use relmgr_model::Version;
use relmgr_model::conf::ConfReport;
use relmgr_model::control::{Kind, OperationRequest, Progress, RelmgrChange, StepTime};
use relmgr_model::manifest::Manifest;
use relmgr_model::plan::Step;
use relmgr_model::probation::Sample;
use relmgr_model::record::{NodeRecord, OperationRecord};
use relmgr_model::status::{Event, Status};

use super::super::host_process::HostProcess;
use super::super::node::Node;
use super::probation::{Order, Watch};
use super::{Asker, Begun, Listener, OperationError};

/// What was fetched of a release.
pub(super) enum Fetched {
    /// All of it.
    Package(PathBuf),
    /// What makes it of an installed release.
    Delta {
        /// That release.
        base: Version,
        /// The delta.
        path: PathBuf,
    },
}

impl Fetched {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Package(path) | Self::Delta { path, .. } => path,
        }
    }
}

/// An operation being carried out.
pub(super) struct Walk<'a> {
    pub(super) node: &'a Arc<Node>,
    pub(super) request: &'a OperationRequest,
    pub(super) asker: &'a Asker,
    tell: &'a Listener,
    /// The release that served at its start.
    pub(super) from: Option<Version>,
    /// The release that it goes to.
    pub(super) to: Option<Version>,
    /// The steps that are over.
    pub(super) steps: Vec<StepTime>,
    /// Releases whose directories are gone.
    pub(super) removed: Vec<Version>,
    /// Whether the new release served and the old one serves again.
    pub(super) rolled_back: bool,
    /// The release's manifest, from `verify` on.
    pub(super) manifest: Option<Manifest>,
    /// The release that the channel names, and the SHA-256 of its manifest.
    pub(super) pinned: Option<(Version, String)>,
    /// What was fetched, from `fetch` on.
    pub(super) package: Option<Fetched>,
    /// What the operation has to do with the configuration.
    pub(super) conf: ConfReport,
    /// The release's configuration, from `configure` on.
    pub(super) effective: Option<Effective>,
    /// The host that the release is loaded in, from `start` on.
    pub(super) host: Option<Arc<HostProcess>>,
    /// The release's generation there.
    pub(super) candidate: Option<u64>,
    /// The generation that served before, from `swap` on.
    pub(super) previous: Option<u64>,
    /// Whether the state was handed over, and with it what serves.
    pub(super) changed: bool,
    /// What became of the state, where it is not what was hoped for.
    pub(super) state_lost: Option<String>,
    /// Whether the release serves on probation before it is committed.
    pub(super) watched: bool,
    /// The probation, from `record` on.
    pub(super) watch: Option<Watch>,
    /// What was answered in the time before the swap.
    pub(super) before: Sample,
    /// Who ended the probation by hand, until it is told what came of it.
    pub(super) order: Option<Order>,
    /// Why the release was committed.
    pub(super) verdict: Option<String>,
    /// The last lines of a host that died of the release.
    pub(super) last_words: Vec<String>,
    /// From which relmgr to which.
    pub(super) relmgr: Option<RelmgrChange>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        node: &'a Arc<Node>,
        request: &'a OperationRequest,
        asker: &'a Asker,
        tell: &'a Listener,
    ) -> Self {
        let from = node.facts().current;
        Self {
            node,
            request,
            asker,
            tell,
            from,
            to: request.version.clone(),
            steps: vec![],
            removed: vec![],
            rolled_back: false,
            manifest: None,
            pinned: asker.pinned(),
            package: None,
            conf: ConfReport::default(),
            effective: None,
            host: None,
            candidate: None,
            previous: None,
            changed: false,
            state_lost: None,
            watched: false,
            watch: None,
            before: Sample::default(),
            order: None,
            verdict: None,
            last_words: vec![],
            relmgr: None,
        }
    }

    pub(super) fn tell(&self, progress: Progress) {
        // Nobody may be listening, which changes nothing.
        let _ = self.tell.send(progress);
    }

    /// A copy of where progress goes, for work on another thread.
    pub(super) fn listener(&self) -> Listener {
        self.tell.clone()
    }

    pub(super) fn warn(&self, text: String) {
        tracing::warn!("{text}");
        self.tell(Progress::Warning { text });
    }

    pub(super) fn begin(&self, step: Step) -> Begun {
        self.tell(Progress::StepStarted { step });
        Begun { step, at: Instant::now() }
    }

    pub(super) fn end(&mut self, begun: Begun, detail: Option<String>) {
        let time = begun.time();
        tracing::info!(step = time.step.name(), ms = time.ms, detail = detail.as_deref(), "step done");
        self.tell(Progress::StepDone { step: time.step, ms: time.ms, detail });
        self.steps.push(time);
    }

    /// Takes the steps in their order. When one fails, what the ones before it have done is undone.
    pub(super) async fn carry_out(&mut self, to: &Version, steps: &[Step]) -> Result<(), OperationError> {
        let switches = steps.contains(&Step::Swap) && !self.request.kind.replaces_host();
        let has_failed = matches!(self.node.facts().releases.get(to), Some(Status::Failed { .. }));
        if self.request.retry && has_failed {
            self.change_status(to, Event::Retried)?;
        }
        self.note(steps.first().copied(), switches)?;
        self.watched = steps.contains(&Step::Probation);
        let mut result = Ok(());
        for step in steps {
            let begun = self.begin(*step);
            // Told with the next write, not written for its own sake.
            self.node.with(|state| {
                if let Some(operation) = &mut state.record.operation {
                    operation.step = Some(*step);
                }
            });
            match self.take(*step, to).await {
                Ok(detail) => self.end(begun, detail),
                Err(error) => {
                    self.steps.push(begun.time());
                    result = Err(error);
                    break;
                }
            }
        }
        if let Err(error) = &result {
            self.undo(to, error).await;
        }
        if switches && result.is_ok() {
            self.prune();
        }
        result
    }

    async fn take(&mut self, step: Step, to: &Version) -> Result<Option<String>, OperationError> {
        match step {
            Step::Resolve => Ok(None),
            Step::Fetch => self.fetch(to).await,
            Step::Verify => self.verify(to).await,
            Step::Unpack => self.unpack(to).await,
            Step::Configure => self.configure(to),
            Step::Preflight => self.preflight(to).await,
            Step::Start => self.start(to).await,
            Step::Health => self.health(to).await,
            Step::CodeChange => self.code_change(to).await,
            Step::Swap => self.swap(to).await,
            Step::Record if self.watched => self.record_probation(to).await,
            Step::Record => self.commit(to).await,
            Step::Probation => self.probation(to).await,
            Step::Commit => self.commit(to).await,
            Step::Drain => self.drain().await,
        }
    }

    /// Notes an operation before its first effect. What does not change which release boots goes on without a note
    /// where none can be written: a full disk must not keep people from making room, or from another host.
    pub(super) fn note(&self, first: Option<Step>, needed: bool) -> Result<(), OperationError> {
        if self.request.kind == Kind::SelfUpgrade && first.is_some() {
            // By the image in which it began.
            return Ok(());
        }
        match self.journal(first) {
            Err(error) if !needed => {
                self.warn(format!("a start after a death could not tell of this: {}", error.describe()));
                Ok(())
            }
            noted => noted,
        }
    }

    /// Notes what is under way, so that a start after a death can say what became of it.
    pub(super) fn journal(&self, first: Option<Step>) -> Result<(), OperationError> {
        let operation = OperationRecord {
            kind: self.request.kind,
            from: self.from.clone(),
            to: self.to.clone(),
            step: first,
            started_at: Utc::now(),
            uid: self.asker.recorded_uid(),
            by: self.asker.by().agent,
            swapped_at: None,
            relmgr: self.relmgr.clone(),
        };
        Ok(self.node.change_record(|record| record.operation = Some(operation))?)
    }

    /// Takes a step of the status table for an installed release.
    fn change_status(&self, version: &Version, event: Event) -> Result<(), OperationError> {
        Ok(self.node.change_record(|record| change_status(record, version, event))?)
    }

    /// Brings everything back to what it was before the operation.
    async fn undo(&mut self, to: &Version, error: &OperationError) {
        if let Some(package) = self.package.take() {
            // It came whole and is of no use: another try is to fetch it anew.
            relmgr_store::repository::forget(package.path());
        }
        let failed = Event::Failed { reason: error.describe(), at: Utc::now() };
        let (blamed, kind) = (error.blames_release(), self.request.kind);
        if let Some(host) = self.host.clone().filter(|host| host.ended().is_some()) {
            self.last_words = host.last_words();
            self.lost_with_host();
            // Who waits for the operation is to find the old release serving again.
            self.node.recovered(&host).await;
        }
        if let Some(host) = self.host.as_ref().filter(|host| host.ended().is_none()) {
            // What serves in it is the release before.
            host.set_on_probation(false);
        }
        let cleared = self.node.change_record(|record| {
            if blamed && kind != Kind::Check && !kind.replaces_host() {
                // A release that has served well stays what it is: the table has a dash there.
                change_status(record, to, failed);
            }
        });
        if let Err(error) = &cleared {
            tracing::error!(%error, "the failed operation is not recorded");
        }
        if let Some(order) = self.order.take() {
            let told = match self.rolled_back {
                true if order.is_rollback() => Ok(()),
                true => Err(format!("{}; what served before serves again", error.describe())),
                false => Err(error.describe()),
            };
            order.tell(told);
        }
        self.give_up_candidate().await;
    }

    /// Removes releases; the record first, so that it never names what is gone.
    pub(super) fn remove(&self, versions: Vec<Version>) -> Result<Vec<Version>, OperationError> {
        for version in &versions {
            self.node.change_record(|record| {
                record.releases.remove(version);
            })?;
            self.node.tree.remove(version)?;
        }
        Ok(versions)
    }

    /// After an operation that succeeded, keeps the newest releases. A failure is said and changes nothing.
    fn prune(&self) {
        let keep = OperationRequest {
            keep: Some(self.node.settings.upgrade.keep_releases),
            ..OperationRequest::new(Kind::Prune)
        };
        let pruned = match relmgr_model::plan::plan(&keep, &self.node.facts()) {
            Ok(relmgr_model::plan::Plan::Remove { versions }) => self.remove(versions).map(drop),
            Ok(_) => Ok(()),
            Err(refusal) => Err(refusal.into()),
        };
        if let Err(error) = pruned {
            self.warn(format!("old releases are not removed: {}", error.describe()));
        }
    }
}

/// Takes a step of the status table for an installed release; one that the table does not have is told and left out.
pub fn change_status(record: &mut NodeRecord, version: &Version, event: Event) {
    let Some(release) = record.releases.get_mut(version) else { return };
    match release.status.clone().next(event) {
        Ok(next) => {
            release.status = next;
            release.since = Utc::now();
        }
        Err(error) => tracing::error!(%version, "{error}"),
    }
}
