//! Following a channel by itself: when it is asked, by whom, and what is told of it. What is decided stands in
//! `relmgr_model::pull`; [`check`] carries it out.

mod check;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use http::StatusCode;
use relmgr_model::control::Fault;
use relmgr_model::home::Home;
use relmgr_model::pull::{Checked, Ended, Outcome, Paused, PullLine, PullStatus, Schedule, Start, place};
use relmgr_model::record::NodeRecord;
use relmgr_model::settings::Settings;
use tokio::sync::{mpsc, oneshot};

use super::handler::OperationError;
use super::node::Node;
use super::{lock, systemd};

/// What of following a channel changes while the supervisor runs.
#[derive(Debug)]
pub struct Pull {
    /// The node's place in the waves.
    place: f64,
    known: Mutex<Known>,
    /// Held by the check that is under way.
    checking: tokio::sync::Mutex<()>,
    /// Notified when the next check is at another time, or something else serves.
    moved: tokio::sync::Notify,
}

#[derive(Debug)]
struct Known {
    schedule: Schedule,
    /// By a clock that only goes forward: setting the machine's moves no check.
    next: Option<Instant>,
    last: Option<Checked>,
    counts: BTreeMap<&'static str, u64>,
}

impl Pull {
    /// Of the node at `home`, which has asked nobody yet.
    pub fn new(home: &Home, settings: &Settings) -> Self {
        // Another one in every process: what the standard library's maps are seeded with.
        let seed = std::hash::RandomState::new().build_hasher().finish();
        let known = Known {
            schedule: Schedule::new(&settings.pull, seed),
            next: None,
            last: None,
            counts: BTreeMap::new(),
        };
        Self {
            place: settings.pull.wave.unwrap_or_else(|| place(&identity(home))),
            known: Mutex::new(known),
            checking: tokio::sync::Mutex::new(()),
            moved: tokio::sync::Notify::new(),
        }
    }

    /// Something else serves, or the next check is at another time.
    pub fn wake(&self) {
        self.moved.notify_one();
    }

    /// How many checks ended how.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.known).counts.clone()
    }
}

/// What tells this node from others: its machine, its name, and its home, for there may be several on one machine.
/// Machines that were cloned have different names at least; containers often have no id.
fn identity(home: &Home) -> String {
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let home = std::path::absolute(home.path()).unwrap_or_else(|_| home.path().to_owned());
    format!("{} {} {}", machine.trim(), name.trim(), home.display())
}

/// Asks the channel when it is time, for as long as the node lives. `ready` is told when the node has what it is to
/// serve, or is not to wait for it.
pub async fn run(node: Arc<Node>, ready: oneshot::Sender<()>) {
    let fetches_first = node.settings.pull.at_boot && node.facts().permanent.is_none();
    let mut ready = Some(ready);
    begin(&node);
    loop {
        let paused = node.with(|state| state.record.pull.paused.is_some());
        if (!fetches_first || paused || node.facts().current.is_some())
            && let Some(ready) = ready.take()
        {
            // Who waited may have gone.
            let _ = ready.send(());
        }
        if !is_time(&node).await {
            continue;
        }
        if node.with(|state| state.record.pull.paused.is_some()) {
            let next = lock(&node.pull.known).schedule.after(Ended::Settled, true);
            set_next(&node, next);
            continue;
        }
        if ready.is_some() {
            tell_starter(&node);
        }
        // One that somebody asked for is as good.
        let checking = node.pull.checking.lock().await;
        check_and_tell(&node, None).await;
        drop(checking);
    }
}

/// Waits for the time of the next check, or until something is different; whether it is time.
async fn is_time(node: &Node) -> bool {
    let next = lock(&node.pull.known).next;
    let time = async {
        match next {
            Some(next) => tokio::time::sleep_until(next.into()).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = time => true,
        () = node.pull.moved.notified() => false,
    }
}

/// As at a start.
fn begin(node: &Node) {
    let start = if node.facts().current.is_some() { Start::Serving } else { Start::Empty };
    let first = lock(&node.pull.known).schedule.first(start);
    set_next(node, first);
}

fn set_next(node: &Node, wait: Option<Duration>) {
    lock(&node.pull.known).next = wait.and_then(|wait| Instant::now().checked_add(wait));
    node.pull.wake();
}

/// systemd is not to give up on a node that fetches its first release.
fn tell_starter(node: &Node) {
    let settings = &node.settings;
    let patience = settings.repository.timeout + settings.upgrade.start + settings.upgrade.health;
    let patience = u32::try_from((patience + Duration::from_secs(60)).as_micros()).unwrap_or(u32::MAX);
    systemd::tell(&[
        sd_notify::NotifyState::Status("fetching the first release"),
        sd_notify::NotifyState::ExtendTimeoutUsec(patience),
    ]);
}

/// One check; the schedule goes on from its end.
async fn check_and_tell(node: &Arc<Node>, lines: Option<&mpsc::UnboundedSender<PullLine>>) {
    lock(&node.pull.known).next = None;
    let (checked, ended) = check::check(node, lines).await;
    let version = checked.version.as_ref().map(tracing::field::display);
    let outcome = checked.outcome.name();
    match (checked.outcome, checked.reason.as_deref()) {
        (Outcome::UpToDate, _) => tracing::debug!(version, "the channel names what serves"),
        (Outcome::Refused | Outcome::Failed, Some(reason)) => {
            tracing::error!(outcome, version, "pull: {reason}")
        }
        (Outcome::Unavailable, Some(reason)) => tracing::warn!(outcome, "pull: {reason}"),
        (_, reason) => tracing::info!(outcome, version, reason, "pull"),
    }
    let serves = node.facts().current.is_some();
    let wait = {
        let mut known = lock(&node.pull.known);
        *known.counts.entry(outcome).or_default() += 1;
        known.last = Some(Checked { operation: None, ..checked.clone() });
        known.schedule.after(ended, serves)
    };
    set_next(node, wait);
    if let Some(lines) = lines {
        // Nobody may be listening any more.
        let _ = lines.send(PullLine::Checked(checked));
    }
}

/// Checks now; what happens comes through the returned channel, how it ended last.
///
/// # Errors
/// A [`Fault`] and its status while another check is under way (409, as for every second operation), or where pull is
/// paused.
pub fn now(node: &Arc<Node>) -> Result<mpsc::UnboundedReceiver<PullLine>, (StatusCode, Fault)> {
    if let Some(paused) = node.with(|state| state.record.pull.paused.clone()) {
        let at = paused.at.format("%Y-%m-%d %H:%M:%S UTC");
        let fault = Fault {
            error: format!("pull is paused since {at}, by uid {}", paused.uid),
            hint: Some("`relmgr pull resume` lets it go on; `relmgr upgrade` upgrades once".into()),
        };
        return Err((StatusCode::UNPROCESSABLE_ENTITY, fault));
    }
    let fault = || {
        let error = "a check is under way".into();
        let hint = Some("wait for it; `relmgr pull status` says how it ended".into());
        (StatusCode::CONFLICT, Fault { error, hint })
    };
    drop(node.pull.checking.try_lock().map_err(|_| fault())?);
    let (tell, lines) = mpsc::unbounded_channel();
    let node = node.clone();
    tokio::spawn(async move {
        let _checking = node.pull.checking.lock().await;
        check_and_tell(&node, Some(&tell)).await;
    });
    Ok(lines)
}

/// Stops following the channel, until [`resume`]; an operation that is under way goes on.
///
/// # Errors
/// [`OperationError::Journal`].
pub fn pause(node: &Node, uid: u32) -> Result<PullStatus, OperationError> {
    tracing::info!(uid, "pull is paused");
    node.change_record(|record| {
        record.pull.paused.get_or_insert(Paused { at: Utc::now(), uid });
    })?;
    node.pull.wake();
    Ok(told(node))
}

/// Goes on following the channel, also to what an operator has left.
///
/// # Errors
/// [`OperationError::Journal`].
pub fn resume(node: &Node, uid: u32) -> Result<PullStatus, OperationError> {
    tracing::info!(uid, "pull goes on");
    node.change_record(|record| {
        record.pull.paused = None;
        record.pull.left = None;
    })?;
    // Where it only asks at its boot, the boot's check may not have been.
    begin(node);
    Ok(told(node))
}

fn told(node: &Node) -> PullStatus {
    let record = node.with(|state| state.record.clone());
    describe(node, &record)
}

/// What `status` tells; `None`: the node does not follow its channel, and never has.
pub fn status(node: &Node, record: &NodeRecord) -> Option<PullStatus> {
    let settings = &node.settings.pull;
    let follows = settings.at_boot || !settings.interval.is_zero();
    let has_something_to_say = record.pull.paused.is_some() || lock(&node.pull.known).last.is_some();
    (follows || has_something_to_say).then(|| describe(node, record))
}

fn describe(node: &Node, record: &NodeRecord) -> PullStatus {
    let settings = &node.settings.pull;
    let known = lock(&node.pull.known);
    let paused = record.pull.paused.clone();
    let next = known.next.filter(|_| paused.is_none());
    let wait = next.map(|next| next.saturating_duration_since(Instant::now()));
    PullStatus {
        channel: node.settings.repository.channel_name(settings.channel.as_deref()).to_owned(),
        at_boot: settings.at_boot,
        interval_ms: u64::try_from(settings.interval.as_millis()).unwrap_or(u64::MAX),
        place: node.pull.place,
        paused,
        left: record.pull.left.clone(),
        next_check_at: wait.and_then(|wait| Utc::now().checked_add_signed(TimeDelta::from_std(wait).ok()?)),
        last: known.last.clone(),
    }
}
