//! Another relmgr in the place of the one that runs. The operation begins in one image of the process and ends in the
//! next.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use relmgr_model::control::{Kind, OperationRequest, Outcome, Progress, RelmgrChange};
use relmgr_model::host::{Command, PROTOCOL};
use relmgr_model::plan::Step;
use relmgr_model::takeover::{FORMAT, Offer, Operation as Half};
use tokio::sync::mpsc;

use super::super::node::Node;
use super::super::takeover::{Candidate, CandidateError, hand_over};
use super::walk::Walk;
use super::{Asker, OperationError};

/// What comes after the check, in the new image.
const REPLACE_HOST: [Step; 4] = [Step::Configure, Step::Start, Step::Health, Step::Swap];

impl Walk<'_> {
    /// Asks the relmgr at `binary` whether it can take over, and lets it. Returns only when it does not: then nothing
    /// has changed.
    pub(super) async fn self_upgrade(&mut self, binary: &Path) -> Result<Outcome, OperationError> {
        let started_at = Utc::now();
        // It will run as the node's user, and what it runs is not signed by anybody.
        let uid = self.asker.recorded_uid();
        if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
            return Err(OperationError::NotAllowed { uid });
        }
        self.to.clone_from(&self.from);
        let steps = [&[Step::Preflight], &REPLACE_HOST[..]].concat();
        let (from, to) = (self.from.clone(), self.to.clone());
        self.tell(Progress::Started { kind: Kind::SelfUpgrade, from, to, steps });
        let begun = self.begin(Step::Preflight);
        let settings = self.read_settings()?;
        let offer = Offer {
            format: FORMAT,
            host_protocol: PROTOCOL,
            settings,
            listen: self.node.settings.listen.clone(),
        };
        let trial = self.node.settings.upgrade.start;
        let candidate = Candidate::examine(&self.node.home, binary, &offer, trial).await?;
        if self.read_settings()? != offer.settings {
            return Err(CandidateError::Changed { path: self.node.home.settings() }.into());
        }
        let change = RelmgrChange { from: crate::VERSION.into(), to: candidate.relmgr.clone() };
        tracing::info!(from = change.from, to = change.to, binary = %binary.display(), "relmgr is upgraded");
        self.end(begun, Some(format!("relmgr {}", change.to)));
        self.relmgr = Some(change);
        self.journal(Some(Step::Preflight))?;
        let node = self.node.clone();
        // A host that dies now is not brought up in between.
        let _pointers = node.pointers.lock().await;
        let half = Half { uid, started_at, steps: self.steps.clone() };
        Err(hand_over(&node, &candidate, offer.settings, half).await.into())
    }

    fn read_settings(&self) -> Result<String, OperationError> {
        let path = self.node.home.settings();
        std::fs::read_to_string(&path).map_err(|source| OperationError::Io { path, what: "read", source })
    }

    /// A host of this relmgr takes the place of the one that was taken over.
    async fn replace_adopted(&mut self) -> Result<Outcome, OperationError> {
        match self.from.clone() {
            Some(to) => {
                self.to = Some(to.clone());
                self.carry_out(&to, &REPLACE_HOST).await?;
            }
            None => self.replace_empty_host().await?,
        }
        Ok(Outcome::Done)
    }

    /// The same where no release serves: what answers says so as before.
    async fn replace_empty_host(&mut self) -> Result<(), OperationError> {
        let host = self.node.start_host().await?;
        // One that has died meanwhile is seen by `watch`.
        let _ = host.call(Command::Accept).await;
        let old = self.node.with(|state| state.host.replace(host.clone()));
        super::super::boot::watch(self.node, host);
        if let Some(old) = old {
            old.make_way(self.node.settings.upgrade.drain).await;
        }
        Ok(())
    }
}

/// The second half of a self-upgrade, in the new image; `half` is the first, `from` the version of relmgr that it was
/// begun in. `state.running` is set, so that no other operation comes in between.
pub async fn complete(node: &Arc<Node>, half: Half, from: String) {
    let guard = node.operations.lock().await;
    let request = OperationRequest::new(Kind::SelfUpgrade);
    // Whoever asked has lost the connection and asks for the status.
    let (tell, _) = mpsc::unbounded_channel();
    let asker = Asker::User(half.uid);
    let mut walk = Walk::new(node, &request, &asker, &tell);
    walk.steps = half.steps;
    walk.relmgr = Some(RelmgrChange { from, to: crate::VERSION.into() });
    let result = match walk.replace_adopted().await {
        Ok(outcome) => Ok(outcome),
        Err(error) => Err(OperationError::OldHost {
            relmgr: crate::VERSION,
            serves: node.host().is_some(),
            reason: error.describe(),
        }),
    };
    let operation = super::conclude(walk, result, since(half.started_at));
    super::end(node, &request, &asker, &operation, &tell);
    drop(guard);
    node.rearm.notify_one();
}

/// In milliseconds; a clock that was set back meanwhile gives none.
fn since(started_at: DateTime<Utc>) -> f64 {
    let passed = (Utc::now() - started_at).to_std().unwrap_or(Duration::ZERO);
    (passed.as_secs_f64() * 1e6).round() / 1e3
}
