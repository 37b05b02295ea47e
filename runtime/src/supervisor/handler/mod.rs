//! The release handler: one operation at a time, from the request to its line in the history.
//!
//! The facts are gathered, `relmgr_model::plan` decides, [`walk`] carries out. What comes of it goes to whoever
//! waits, to the log, to `history.jsonl` and into `status`.

mod asker;
mod configure;
mod error;
mod follow;
mod install;
mod probation;
mod self_upgrade;
mod state;
mod switch;
mod trial;
mod undo;
mod walk;

use std::sync::Arc;
use std::time::Instant;

use chrono::Utc;
use relmgr_model::conf::ConfReport;
use relmgr_model::control::{Fault, Kind, Operation, OperationRequest, Outcome, Progress, StepTime};
use relmgr_model::plan::{Plan, Step, plan};
use relmgr_model::record::HistoryEntry;
use relmgr_store::journal::{self, JournalError};
use tokio::sync::mpsc;

pub use asker::{Asker, By, note_for_pull};
pub use configure::{configure, last_applied};
pub use error::OperationError;
pub use follow::channel_says;
pub use install::verify_installed;
pub use probation::OnProbation;
pub use self_upgrade::complete;
pub use switch::{load_request, supersede};
pub use walk::change_status;

use super::node::Node;
use super::tell;
use walk::Walk;

/// Where progress goes; nobody may be listening.
pub type Listener = mpsc::UnboundedSender<Progress>;

/// Begins an operation; its progress comes through the returned channel, [`Progress::Done`] last. It goes on when
/// nobody listens any more.
///
/// # Errors
/// A [`Fault`] when another one is under way.
pub fn begin(
    node: &Arc<Node>,
    request: OperationRequest,
    uid: u32,
) -> Result<mpsc::UnboundedReceiver<Progress>, Fault> {
    begin_for(node, request, Asker::User(uid))
}

/// As [`begin`], for whoever asks.
///
/// # Errors
/// As [`begin`].
pub fn begin_for(
    node: &Arc<Node>,
    request: OperationRequest,
    asker: Asker,
) -> Result<mpsc::UnboundedReceiver<Progress>, Fault> {
    let (tell, progress) = mpsc::unbounded_channel();
    let node = node.clone();
    let wanted = request.version.as_ref().map(|version| format!(" {version}")).unwrap_or_default();
    let name = format!("{}{wanted}", request.kind.name());
    // What a channel says ends no probation: that is for its verdict, or for people.
    if let Asker::User(uid) = asker
        && let Some(probation) =
            node.with(|state| state.probation.clone()).filter(|on| on.is_ended_by(&request))
    {
        tokio::spawn(async move { probation.end(&node, &request, uid, &tell).await });
        return Ok(progress);
    }
    // Taken here, so that two requests at the same instant are told apart at once.
    node.with(|state| match &state.running {
        Some(_) if state.probation.is_some() => {
            let on_probation = state.probation.as_ref().map(OnProbation::describe);
            let hint =
                "`relmgr commit` keeps it, `relmgr rollback` brings the release before it back; or wait";
            Err(Fault { error: on_probation.unwrap_or_default(), hint: Some(hint.into()) })
        }
        Some(running) => Err(Fault {
            error: format!("another operation is running: {running}"),
            hint: Some("wait for it; `relmgr status` shows how far it is".into()),
        }),
        None if state.stopped => Err(Fault { error: "the node is stopping".into(), hint: None }),
        None => {
            state.running = Some(name);
            Ok(())
        }
    })?;
    tokio::spawn(async move {
        let guard = node.operations.lock().await;
        // What serves is known when no host is being brought up.
        node.booted().await;
        let operation = run(&node, &request, &asker, &tell).await;
        end(&node, &request, &asker, &operation, &tell);
        drop(guard);
        node.rearm.notify_one();
        node.pull.wake();
        // Last, so that who has heard the end may ask for the next operation.
        let _ = tell.send(Progress::Done(Box::new(operation)));
    });
    Ok(progress)
}

/// Says that `operation` is over: until here a start after a death says what became of it.
fn end(node: &Node, request: &OperationRequest, asker: &Asker, operation: &Operation, tell: &Listener) {
    let over = node.change_record(|record| {
        record.operation = None;
        if !request.dry_run {
            let path = (operation.from.as_ref(), operation.to.as_ref());
            note_for_pull(record, asker.by(), operation.kind, path, operation.outcome);
        }
    });
    if let Err(error) = over {
        let error = OperationError::from(error).describe();
        let _ =
            tell.send(Progress::Warning { text: format!("state.json still names this operation: {error}") });
    }
    node.with(|state| {
        state.running = None;
        if matters(request.kind) && !request.dry_run {
            state.last_operation = Some(operation.clone());
        }
    });
}

/// Whether `status` shows it as the last operation: what changed, or tried to change, what serves.
fn matters(kind: Kind) -> bool {
    matches!(kind, Kind::Upgrade | Kind::Downgrade | Kind::Restart | Kind::SelfUpgrade)
}

async fn run(node: &Arc<Node>, request: &OperationRequest, asker: &Asker, tell: &Listener) -> Operation {
    let begun = Instant::now();
    let mut walk = Walk::new(node, request, asker, tell);
    let result = decide_and_do(&mut walk).await;
    conclude(walk, result, milliseconds(begun))
}

/// What an operation came to after `ms` milliseconds: into the log, the history and to the operator's hook.
fn conclude(mut walk: Walk<'_>, result: Result<Outcome, OperationError>, ms: f64) -> Operation {
    let (node, request, tell) = (walk.node, walk.request, walk.listener());
    let by = walk.asker.by();
    let from = walk.from.clone();
    let last_words = std::mem::take(&mut walk.last_words);
    let hint = result.as_ref().err().and_then(OperationError::hint);
    let (outcome, error) = match result {
        Ok(outcome) => (outcome, None),
        Err(error) => {
            let lost = walk.state_lost.take().map(|words| format!("; {words}")).unwrap_or_default();
            let because = walk.asker.why().map(|why| format!(" (it was to be done since {why})"));
            let words = format!("{}{lost}{}", error.describe(), because.unwrap_or_default());
            (if walk.rolled_back { Outcome::RolledBack } else { Outcome::Failed }, Some(words))
        }
    };
    let verdict = walk.verdict.take().or_else(|| walk.asker.why().map(str::to_owned));
    let operation = Operation {
        kind: request.kind,
        from,
        to: walk.to.clone(),
        outcome,
        error,
        hint,
        verdict: verdict.filter(|_| outcome == Outcome::Done),
        steps: walk.steps,
        removed: walk.removed,
        conf: walk.conf,
        relmgr: walk.relmgr,
    };
    let (kind, to) = (request.kind.name(), operation.to.as_ref().map(tracing::field::display));
    match &operation.error {
        None => tracing::info!(kind, to, ms, "operation done"),
        Some(error) => tracing::error!(kind, to, ms, "operation failed: {error}"),
    }
    if !request.dry_run
        && !matches!(outcome, Outcome::AlreadyDone)
        && let Err(error) = tell_history(node, &operation, by, ms, last_words)
    {
        let error = OperationError::from(error).describe();
        let _ = tell.send(Progress::Warning { text: format!("the history does not have this: {error}") });
    }
    operation
}

/// Writes an operation's line and tells who wants to know, with the last lines of a host that died of it. A
/// history that cannot be written undoes nothing; the log has it.
///
/// # Errors
/// [`JournalError::Io`], for whoever has somebody to tell.
pub fn tell_history(
    node: &Node,
    operation: &Operation,
    by: impl Into<By>,
    ms: f64,
    last_words: Vec<String>,
) -> Result<(), JournalError> {
    node.metrics.operation(operation.kind, operation.outcome, ms);
    let by = by.into();
    let entry = HistoryEntry {
        at: Utc::now(),
        kind: operation.kind,
        uid: by.uid,
        by: by.agent,
        from: operation.from.clone(),
        to: operation.to.clone(),
        outcome: operation.outcome,
        error: operation.error.clone(),
        verdict: operation.verdict.clone(),
        relmgr: operation.relmgr.clone(),
        last_words,
        ms,
        steps: operation.steps.clone(),
    };
    tell::ended(node, &entry, &operation.conf);
    let written = journal::append_history(&node.home, &entry);
    if let Err(error) = &written {
        tracing::error!(%error, "the history is not written");
    }
    written
}

async fn decide_and_do(walk: &mut Walk<'_>) -> Result<Outcome, OperationError> {
    let request = walk.request;
    let resolving = walk.begin(Step::Resolve);
    let mut facts = walk.node.facts();
    if request.version.is_none() && matches!(request.kind, Kind::Upgrade | Kind::Check | Kind::Fetch) {
        facts.channel = Some(walk.follow().await?);
    }
    facts.state = facts.current.as_ref().is_some_and(|current| walk.node.keeps_state(current));
    let plan = plan(request, &facts)?;
    if let Plan::Walk { to, .. } | Plan::AlreadyDone { version: to } = &plan {
        walk.to = Some(to.clone());
    }
    walk.end(resolving, walk.to.as_ref().map(ToString::to_string));
    match plan {
        Plan::AlreadyDone { .. } => Ok(Outcome::AlreadyDone),
        Plan::Reload { .. } if request.dry_run => Ok(Outcome::Done),
        Plan::Reload { version } => walk.reload(&version).await,
        Plan::SelfUpgrade { binary } => walk.self_upgrade(&binary).await,
        Plan::Remove { versions } => {
            walk.removed.clone_from(&versions);
            if !request.dry_run && !versions.is_empty() {
                walk.note(None, false)?;
                walk.removed = walk.remove(versions)?;
            }
            Ok(Outcome::Done)
        }
        Plan::Walk { to, steps } => {
            walk.tell(Progress::Started {
                kind: request.kind,
                from: walk.from.clone(),
                to: Some(to.clone()),
                steps: steps.clone(),
            });
            if request.dry_run {
                return Ok(Outcome::Done);
            }
            if matters(request.kind) {
                tell::started(walk.node, request.kind, walk.asker.by(), walk.from.as_ref(), &to);
            }
            walk.carry_out(&to, &steps).await?;
            Ok(Outcome::Done)
        }
    }
}

/// What the last operation came to, as `status` tells it, from before this supervisor. A history that cannot be read
/// keeps nothing from serving.
pub fn remember_last(node: &Node) {
    let history = match journal::read_history(&node.home) {
        Ok(history) => history,
        Err(error) => return tracing::error!("{}", OperationError::from(error).describe()),
    };
    let last = history.into_iter().rfind(|entry| matters(entry.kind));
    let operation = last.map(|entry| Operation {
        kind: entry.kind,
        from: entry.from,
        to: entry.to,
        outcome: entry.outcome,
        error: entry.error,
        hint: None,
        verdict: entry.verdict,
        steps: entry.steps,
        removed: vec![],
        conf: ConfReport::default(),
        relmgr: entry.relmgr,
    });
    node.with(|state| state.last_operation = operation);
}

/// To the microsecond.
fn milliseconds(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 1e6).round() / 1e3
}

/// A step that has begun.
struct Begun {
    step: Step,
    at: Instant,
}

impl Begun {
    fn time(&self) -> StepTime {
        StepTime { step: self.step, ms: milliseconds(self.at) }
    }
}
