//! Step 13: a release that serves, and is watched until it is committed or goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use relmgr_model::Version;
use relmgr_model::conf::ConfReport;
use relmgr_model::control::{Kind, Operation, OperationRequest, Outcome, Progress, StepTime};
use relmgr_model::host::{Answer, Command};
use relmgr_model::manifest::Probe;
use relmgr_model::plan::Step;
use relmgr_model::probation::{Observed, Reason, Sample, Verdict, judge};
use relmgr_model::settings::Inconclusive;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::super::host_process::{CallError, HostProcess};
use super::super::node::Node;
use super::switch::millis;
use super::walk::Walk;
use super::{Listener, OperationError, milliseconds, tell_history};

/// How often the host is asked what was answered: half of it is what a fault waits for to be seen, on average, and
/// it costs two processes a wake-up each.
const LOOK: Duration = Duration::from_millis(20);

/// A release on probation, as the rest of the supervisor sees it.
#[derive(Debug, Clone)]
pub struct OnProbation {
    /// The release.
    pub version: Version,
    /// The one before it, which comes back if need be.
    pub from: Version,
    /// When it ends by itself.
    pub ends_at: DateTime<Utc>,
    orders: mpsc::UnboundedSender<Order>,
}

/// Someone ends a probation by hand.
#[derive(Debug)]
pub struct Order {
    /// [`Kind::Commit`] or [`Kind::Rollback`].
    kind: Kind,
    uid: u32,
    done: oneshot::Sender<Result<(), String>>,
}

impl Order {
    /// Whether the release before it is to come back.
    pub fn is_rollback(&self) -> bool {
        self.kind == Kind::Rollback
    }

    /// Says what came of it to who gave it.
    pub fn tell(self, result: Result<(), String>) {
        // Who gave it may have gone.
        let _ = self.done.send(result);
    }
}

impl OnProbation {
    /// Whether `request` ends this probation. Going back to the release before it is a rollback.
    pub fn is_ended_by(&self, request: &OperationRequest) -> bool {
        match request.kind {
            Kind::Commit | Kind::Rollback => true,
            Kind::Downgrade => request.version.as_ref().is_none_or(|version| *version == self.from),
            _ => false,
        }
    }

    /// For the one who is refused meanwhile.
    pub fn describe(&self) -> String {
        let ends_at = self.ends_at.format("%H:%M:%S UTC");
        format!("{} is on probation until {ends_at}", self.version)
    }

    /// Ends it as `request` asks, and tells how that went: when the operation that it was part of is over, so that
    /// who has heard the end may ask for the next one.
    pub async fn end(self, node: &Node, request: &OperationRequest, uid: u32, tell: &Listener) {
        let begun = Instant::now();
        let commits = request.kind == Kind::Commit;
        let kind = if commits { Kind::Commit } else { Kind::Rollback };
        let (to, step) =
            if commits { (self.version.clone(), Step::Commit) } else { (self.from.clone(), Step::Swap) };
        let (from, to) = (Some(self.version.clone()), Some(to));
        let steps = vec![step, Step::Drain];
        let _ =
            tell.send(Progress::Started { kind: request.kind, from: from.clone(), to: to.clone(), steps });
        if !request.dry_run {
            let _ = tell.send(Progress::StepStarted { step });
        }
        let result = if request.dry_run { Ok(()) } else { self.order(kind, uid).await };
        let (outcome, error) = match result {
            Ok(()) => (Outcome::Done, None),
            Err(error) => (Outcome::Failed, Some(error)),
        };
        let mut operation = Operation {
            kind: request.kind,
            from,
            to,
            outcome,
            error,
            hint: None,
            verdict: None,
            steps: vec![],
            removed: vec![],
            conf: ConfReport::default(),
            relmgr: None,
        };
        if !request.dry_run {
            let _ = tell_history(node, &operation, Some(uid), milliseconds(begun), vec![]);
        }
        if !request.dry_run && outcome == Outcome::Done {
            self.see_off(node, (step, begun), &mut operation, tell).await;
        }
        let _ = tell.send(Progress::Done(Box::new(operation)));
    }

    /// What made way finishes its requests; the operation ends with that.
    async fn see_off(
        &self,
        node: &Node,
        (step, begun): (Step, Instant),
        operation: &mut Operation,
        tell: &Listener,
    ) {
        let ms = milliseconds(begun);
        let _ = tell.send(Progress::StepDone { step, ms, detail: None });
        let _ = tell.send(Progress::StepStarted { step: Step::Drain });
        let drained = Instant::now();
        // The operation has it until who asks next is not refused any more.
        drop(node.operations.lock().await);
        let drain = StepTime { step: Step::Drain, ms: milliseconds(drained) };
        let _ = tell.send(Progress::StepDone { step: drain.step, ms: drain.ms, detail: None });
        operation.steps = vec![StepTime { step, ms }, drain];
    }

    async fn order(&self, kind: Kind, uid: u32) -> Result<(), String> {
        let over = || "the probation has just ended: `relmgr history` says how".to_owned();
        let (done, result) = oneshot::channel();
        self.orders.send(Order { kind, uid, done }).map_err(|_| over())?;
        result.await.unwrap_or_else(|_| Err(over()))
    }
}

/// A probation under way, as its operation sees it.
pub struct Watch {
    begun: Instant,
    ends_at: DateTime<Utc>,
    orders: mpsc::UnboundedReceiver<Order>,
}

/// What is seen of the release.
enum Seen {
    Pulse { sample: Sample, first_panic: Option<String> },
    Health(Result<(), String>),
}

/// How a probation ended.
enum End {
    Judged(Verdict),
    Ordered(Order),
    Stopped,
}

impl Walk<'_> {
    /// What the release that is about to make way has answered lately.
    pub(super) async fn take_before(&mut self, to: &Version) -> Result<(), OperationError> {
        if let Answer::Pulse { generation: Some(generation), sample, .. } =
            self.call(to, Command::Pulse).await?
        {
            self.before = self.node.with(|state| state.lately.until(generation, &sample));
        }
        if let Some(host) = &self.host {
            host.set_on_probation(true);
        }
        Ok(())
    }

    /// Begins to take orders.
    pub(super) fn begin_probation(&mut self, to: &Version) -> Option<OnProbation> {
        let (orders, taken) = mpsc::unbounded_channel();
        let length = TimeDelta::from_std(self.node.settings.upgrade.probation).unwrap_or(TimeDelta::MAX);
        let ends_at = Utc::now().checked_add_signed(length).unwrap_or(DateTime::<Utc>::MAX_UTC);
        self.watch = Some(Watch { begun: Instant::now(), ends_at, orders: taken });
        Some(OnProbation { version: to.clone(), from: self.from.clone()?, ends_at, orders })
    }

    /// Watches the release until its time is over, it shows a fault, or somebody decides.
    pub(super) async fn probation(&mut self, to: &Version) -> Result<Option<String>, OperationError> {
        let (Some(mut watch), Some(host)) = (self.watch.take(), self.host.clone()) else { return Ok(None) };
        self.tell(Progress::Probation { version: to.clone(), ends_at: watch.ends_at });
        let probes = match &self.manifest {
            Some(manifest) => manifest.probes.clone(),
            None => self.node.tree.manifest(to).map(|manifest| manifest.probes).unwrap_or_default(),
        };
        let mut requests = 0;
        let end =
            observe(self.node, &host, &mut watch, self.candidate, probes, &self.before, &mut requests).await;
        let after = watch.begun.elapsed().as_secs_f64();
        let reason = match end {
            // Words of the application's own may be in it.
            End::Judged(Verdict::Fail(reason)) => self.node.redact(&reason.to_string()),
            End::Judged(Verdict::Inconclusive { requests, enough }) => {
                let words =
                    format!("inconclusive: {requests} requests in {after:.1} s, {enough} would have told");
                match self.node.settings.upgrade.inconclusive {
                    Inconclusive::Commit => {
                        self.warn(format!(
                            "the probation of {to} was {words} (upgrade.inconclusive = \"commit\")"
                        ));
                        return Ok(self.passed(words));
                    }
                    Inconclusive::Rollback => format!("{words} (upgrade.inconclusive = \"rollback\")"),
                }
            }
            End::Judged(_) => return Ok(self.passed(format!("passed: {requests} requests in {after:.1} s"))),
            End::Ordered(order) if order.kind == Kind::Commit => {
                let words = format!("committed by uid {} after {after:.1} s", order.uid);
                self.order = Some(order);
                return Ok(self.passed(words));
            }
            End::Ordered(order) => {
                let words = format!("asked for by uid {} after {after:.1} s", order.uid);
                self.order = Some(order);
                words
            }
            End::Stopped => {
                // Its host ends with the node, which boots the release before it.
                (self.rolled_back, self.candidate) = (true, None);
                self.node.with(|state| state.probation = None);
                return Err(OperationError::Stopped);
            }
        };
        tracing::error!(version = %to, "the probation failed: {reason}");
        let node = self.node.clone();
        let _pointers = node.pointers.lock().await;
        self.swap_back().await;
        Err(OperationError::Probation { version: to.clone(), reason })
    }

    fn passed(&mut self, words: String) -> Option<String> {
        self.verdict = Some(words.clone());
        Some(words)
    }
}

/// Looks at the release until there is something to decide.
async fn observe(
    node: &Arc<Node>,
    host: &Arc<HostProcess>,
    watch: &mut Watch,
    generation: Option<u64>,
    probes: Vec<Probe>,
    before: &Sample,
    requests: &mut u64,
) -> End {
    let upgrade = &node.settings.upgrade;
    let (tell, mut heard) = mpsc::channel(1);
    // They end with this function.
    let mut watchers = JoinSet::new();
    watchers.spawn(look(host.clone(), tell.clone()));
    if let Some(generation) = generation {
        let health = Command::Health { generation, probes, deadline_ms: millis(upgrade.health) };
        watchers.spawn(ask_health(host.clone(), health, upgrade.thresholds.health_every, tell));
    }
    let mut end = node.end.subscribe();
    let (mut after, mut first_panic) = (Sample::default(), None);
    let (mut unhealthy, mut ailment) = (0, String::new());
    loop {
        let mut died = None;
        let left = upgrade.probation.saturating_sub(watch.begun.elapsed());
        tokio::select! {
            biased;
            _ = end.wait_for(Option::is_some) => return End::Stopped,
            how = host.wait() => died = Some(how),
            Some(order) = watch.orders.recv() => return End::Ordered(order),
            Some(seen) = heard.recv() => match seen {
                Seen::Pulse { sample, first_panic: words } => (after, first_panic) = (sample, words),
                Seen::Health(Ok(())) => unhealthy = 0,
                Seen::Health(Err(words)) => {
                    let words = node.redact(&words);
                    tracing::warn!("on probation: {words}");
                    (unhealthy, ailment) = (unhealthy + 1, words);
                }
            },
            () = tokio::time::sleep(left) => {}
        }
        *requests = after.requests;
        let seen = Observed {
            elapsed: watch.begun.elapsed(),
            before,
            after: &after,
            died: died.as_deref(),
            unhealthy,
            ailment: &ailment,
            first_panic: first_panic.as_deref(),
        };
        match judge(&seen, &upgrade.thresholds, upgrade.probation) {
            Verdict::NotYet => {}
            Verdict::Fail(Reason::Died { .. }) if node.is_stopping() => return End::Stopped,
            verdict => return End::Judged(verdict),
        }
    }
}

/// Asks again and again what was answered.
async fn look(host: Arc<HostProcess>, tell: mpsc::Sender<Seen>) {
    loop {
        // One that is dead is told of by its end.
        let Ok(Answer::Pulse { sample, first_panic, .. }) = host.call(Command::Pulse).await else { return };
        if tell.send(Seen::Pulse { sample, first_panic }).await.is_err() {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Asks again and again how the release is.
async fn ask_health(host: Arc<HostProcess>, health: Command, every: Duration, tell: mpsc::Sender<Seen>) {
    loop {
        tokio::time::sleep(every).await;
        let told = match host.call(health.clone()).await {
            Ok(_) => Ok(()),
            Err(CallError::Refused(error)) => Err(error.message),
            Err(CallError::Died(_)) => return,
        };
        if tell.send(Seen::Health(told)).await.is_err() {
            return;
        }
    }
}
