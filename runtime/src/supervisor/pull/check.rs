//! One check: what the channel says, what that means for this node, and the operation that it leads to.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use relmgr_model::Version;
use relmgr_model::control::{self, Fault, Kind, Operation, OperationRequest, Progress};
use relmgr_model::pull::{Checked, Decision, Ended, Facts, Held, Outcome, PullLine, Said, decide};
use relmgr_model::status::Status;
use relmgr_store::repository::RepositoryError;
use tokio::sync::mpsc::UnboundedSender;

use super::super::handler::{self, Asker, OperationError};
use super::super::node::Node;

/// Where the steps of an operation go.
type Lines<'a> = Option<&'a UnboundedSender<PullLine>>;

/// Asks the channel and does what it says.
pub async fn check(node: &Arc<Node>, lines: Lines<'_>) -> (Checked, Ended) {
    let settings = &node.settings;
    let name = settings.repository.channel_name(settings.pull.channel.as_deref());
    let said = match handler::channel_says(node, name).await {
        Ok(said) => said,
        Err(error) => {
            let (outcome, ended) = match is_refusal(&error) {
                // People renew documents and correct clocks: that is seen at the next check.
                true => (Outcome::Refused, Ended::Settled),
                false => (Outcome::Unavailable, Ended::Unavailable),
            };
            return (checked(outcome, None, Some(error.describe())), ended);
        }
    };
    let version = said.version.clone();
    match decided(node, &said) {
        Decision::UpToDate => {
            remember_followed(node, &version);
            (checked(Outcome::UpToDate, Some(version), None), Ended::Settled)
        }
        Decision::Hold(held) => {
            let ended = Ended::Held { opens_in: opens_in(&held), open_for: open_for(&held) };
            (checked(Outcome::Held, Some(version), Some(held.to_string())), ended)
        }
        Decision::Go => carry_out(node, &said, Kind::Upgrade, lines).await,
        Decision::GoBack => go_back(node, &said, lines).await,
    }
}

/// Whether it was heard and is not to be followed, rather than not heard.
fn is_refusal(error: &OperationError) -> bool {
    match error {
        // A repository to which nothing was published may be being filled.
        OperationError::Repository(RepositoryError::Storage(_) | RepositoryError::NoChannel { .. }) => false,
        OperationError::Repository(_) => true,
        OperationError::Channel { .. } => true,
        _ => false,
    }
}

fn checked(outcome: Outcome, version: Option<Version>, reason: Option<String>) -> Checked {
    Checked { at: Utc::now(), outcome, version, reason, operation: None }
}

fn decided(node: &Node, said: &Said) -> Decision {
    let facts = node.facts();
    let record = node.with(|state| state.record.pull.clone());
    decide(
        said,
        &Facts {
            now: Utc::now(),
            current: facts.current.as_ref(),
            releases: &facts.releases,
            record: &record,
            windows: &node.settings.pull.windows,
            place: node.pull.place,
        },
    )
}

fn opens_in(held: &Held) -> Option<std::time::Duration> {
    let until: DateTime<Utc> = held.until()?;
    (until - Utc::now()).max(TimeDelta::zero()).to_std().ok()
}

fn open_for(held: &Held) -> Option<std::time::Duration> {
    match held {
        Held::Window { length, .. } => length.to_std().ok(),
        _ => None,
    }
}

/// What serves is what the channel names: from here on it may lead the node back.
fn remember_followed(node: &Node, version: &Version) {
    let remembered = node.change_record(|record| record.pull.followed = Some(version.clone()));
    if let Err(error) = remembered {
        tracing::error!(%error, "that the channel names {version} is not recorded");
    }
}

/// The release is fetched first: a downgrade is between installed ones.
async fn go_back(node: &Arc<Node>, said: &Said, lines: Lines<'_>) -> (Checked, Ended) {
    if !node.facts().releases.contains_key(&said.version) {
        let (fetched, ended) = carry_out(node, said, Kind::Fetch, lines).await;
        if fetched.outcome != Outcome::Upgraded {
            return (fetched, ended);
        }
    }
    let (gone, ended) = carry_out(node, said, Kind::Downgrade, lines).await;
    let outcome = if gone.outcome == Outcome::Upgraded { Outcome::WentBack } else { gone.outcome };
    (Checked { outcome, ..gone }, ended)
}

/// An operation like anybody's.
async fn carry_out(node: &Arc<Node>, said: &Said, kind: Kind, lines: Lines<'_>) -> (Checked, Ended) {
    let version = said.version.clone();
    let pinned = said.manifest_sha256.clone().map(|sha256| (version.clone(), sha256));
    let channel = node.settings.pull.channel.clone();
    let request = OperationRequest { version: Some(version.clone()), channel, ..OperationRequest::new(kind) };
    let mut progress = match handler::begin_for(node, request, Asker::Pull(pinned)) {
        Ok(progress) => progress,
        Err(Fault { error, .. }) => return (checked(Outcome::Busy, Some(version), Some(error)), Ended::Busy),
    };
    let mut operation = None;
    while let Some(progress) = progress.recv().await {
        match progress {
            Progress::Done(done) => operation = Some(done),
            step => {
                if let Some(lines) = lines {
                    let _ = lines.send(PullLine::Progress(step));
                }
            }
        }
    }
    let Some(operation) = operation else {
        let lost = "the operation was lost: the log says more".to_owned();
        return (checked(Outcome::Failed, Some(version), Some(lost)), Ended::Failed);
    };
    concluded(node, version, operation)
}

fn concluded(node: &Node, version: Version, operation: Box<Operation>) -> (Checked, Ended) {
    let done = matches!(operation.outcome, control::Outcome::Done | control::Outcome::AlreadyDone);
    let (outcome, ended) = match done {
        true => (Outcome::Upgraded, Ended::Settled),
        // A release that is to blame is not tried again; anything else may have passed.
        false if matches!(node.facts().releases.get(&version), Some(Status::Failed { .. })) => {
            (Outcome::Failed, Ended::Settled)
        }
        false => (Outcome::Failed, Ended::Failed),
    };
    let reason = operation.error.clone();
    (Checked { operation: Some(operation), ..checked(outcome, Some(version), reason) }, ended)
}
