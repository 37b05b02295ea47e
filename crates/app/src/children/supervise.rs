//! A supervisor while it runs: carries out what [`decide`](super::decide) says.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use relmgr_abi::children::State;
use relmgr_abi::future::panic_message;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::context::{ChildContext, IsReady, Order};
use super::decide::{Children, Decision, Phase, Rule};
use super::spec::{Exit, Fault, Shutdown, Supervisor, Work};
use super::status::Status;
use crate::log;

/// Starts the children of `spec` and keeps them as it says, until the context says stop or it gives up. When this
/// is over, none of them is left.
pub(super) fn supervise(
    spec: Supervisor,
    status: Arc<Status>,
    context: ChildContext,
) -> Pin<Box<dyn Future<Output = Exit> + Send>> {
    // Boxed, since supervisors are among its children.
    Box::pin(async move {
        for child in &status.children {
            child.waits();
        }
        Running::new(spec, status, context).run().await
    })
}

struct Running {
    spec: Supervisor,
    status: Arc<Status>,
    context: ChildContext,
    children: Children,
    tasks: JoinSet<Exit>,
    /// The child's task, while it runs.
    slots: Vec<Option<Task>>,
    /// Ends that came while another child was being ended.
    ends: VecDeque<(usize, Exit)>,
    tell_ready: mpsc::UnboundedSender<IsReady>,
    hear_ready: mpsc::UnboundedReceiver<IsReady>,
    begun: Instant,
    /// How many children were started.
    starts: u64,
}

struct Task {
    id: Id,
    abort: AbortHandle,
    order: watch::Sender<Order>,
    start: u64,
    /// When it is dropped because it has not said that it is ready.
    ready_by: Option<Instant>,
    /// Why it was dropped.
    dropped: Option<String>,
}

impl Task {
    fn drop_for(&mut self, why: String) {
        self.ready_by = None;
        self.dropped = Some(why);
        self.abort.abort();
    }
}

/// How an end is told to people.
fn told(exit: &Exit) -> String {
    exit.as_ref().map_or_else(ToString::to_string, |()| ENDED.into())
}

/// How an end is told to the log.
fn logged(exit: &Exit) -> &str {
    exit.as_ref().map_or_else(|fault| fault.what.as_str(), |()| ENDED)
}

const ENDED: &str = "ended";

fn exit(joined: Result<Exit, JoinError>, dropped: Option<String>) -> Exit {
    match joined {
        Ok(exit) => exit,
        Err(error) => Err(match error.try_into_panic() {
            Ok(payload) => Fault::with_words("panicked", panic_message(payload)),
            Err(_) => Fault::new(dropped.unwrap_or_else(|| "was cancelled".into())),
        }),
    }
}

/// Waits until `at`; for ever, where there is no such time.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The earlier one.
fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    [one, other].into_iter().flatten().min()
}

/// The next child that ended; none does where none runs.
async fn next_end(tasks: &mut JoinSet<Exit>, slots: &mut [Option<Task>]) -> (usize, Exit) {
    while let Some(joined) = tasks.join_next_with_id().await {
        let (id, joined) = match joined {
            Ok((id, exit)) => (id, Ok(exit)),
            Err(error) => (error.id(), Err(error)),
        };
        let index = slots.iter().position(|slot| slot.as_ref().is_some_and(|task| task.id == id));
        if let Some(index) = index {
            let dropped = slots[index].take().and_then(|task| task.dropped);
            return (index, exit(joined, dropped));
        }
    }
    std::future::pending().await
}

impl Running {
    fn new(spec: Supervisor, status: Arc<Status>, context: ChildContext) -> Self {
        let rules = spec
            .children
            .iter()
            .map(|child| Rule { restart: child.restart, waited_for: child.is_waited_for() });
        let children = Children::new(spec.strategy, spec.intensity, spec.period, rules.collect());
        let slots = spec.children.iter().map(|_| None).collect();
        let (tell_ready, hear_ready) = mpsc::unbounded_channel();
        Self {
            spec,
            status,
            context,
            children,
            tasks: JoinSet::new(),
            slots,
            ends: VecDeque::new(),
            tell_ready,
            hear_ready,
            begun: Instant::now(),
            starts: 0,
        }
    }

    async fn run(mut self) -> Exit {
        let mut said_ready = false;
        loop {
            // Looked at first: it may have come while a group was being ended, which is not to start again then.
            if self.context.is_told_to_stop() {
                self.end_all().await;
                return Ok(());
            }
            if let Some((index, exit)) = self.ends.pop_front() {
                if let Err(reason) = self.ended(index, &exit).await {
                    self.end_all().await;
                    return Err(reason);
                }
                continue;
            }
            while let Some(index) = self.children.next() {
                self.start(index);
            }
            if !said_ready && self.children.are_settled() {
                said_ready = true;
                self.context.ready();
            }
            let ready_by = self.slots.iter().flatten().filter_map(|task| task.ready_by).min();
            tokio::select! {
                biased;
                () = self.context.stopping() => {}
                Some(is_ready) = self.hear_ready.recv() => self.ready(is_ready),
                end = next_end(&mut self.tasks, &mut self.slots) => self.ends.push_back(end),
                () = until(ready_by) => self.drop_overdue(),
            }
        }
    }

    fn start(&mut self, index: usize) {
        let child = &self.spec.children[index];
        let status = &self.status.children[index];
        let (order, told) = watch::channel(Order::Run);
        self.starts += 1;
        let is_ready = IsReady { index, start: self.starts };
        let context = ChildContext { order: told, ready: Some((self.tell_ready.clone(), is_ready)) };
        status.started(!child.is_waited_for());
        let abort = match &child.work {
            Work::Worker(start) => {
                let start = start.clone();
                // Called within its task: what it does before its first await may panic too.
                self.tasks.spawn(async move { start(context).await })
            }
            Work::Supervisor(spec) => self.tasks.spawn(supervise(spec.clone(), status.clone(), context)),
        };
        self.slots[index] = Some(Task {
            id: abort.id(),
            abort,
            order,
            start: self.starts,
            ready_by: child.ready_within.and_then(|limit| Instant::now().checked_add(limit)),
            dropped: None,
        });
    }

    fn ready(&mut self, is_ready: IsReady) {
        let IsReady { index, start } = is_ready;
        // One that has ended meanwhile, or was started again, is not who said it.
        let Some(task) = self.slots[index].as_mut().filter(|task| task.start == start) else { return };
        task.ready_by = None;
        if self.children.ready(index) {
            self.status.children[index].is_ready();
        }
    }

    /// Drops the children that are not ready in time; their ends come as any other.
    fn drop_overdue(&mut self) {
        let now = Instant::now();
        for (task, child) in self.slots.iter_mut().zip(&self.spec.children) {
            let Some(task) = task else { continue };
            if let (Some(by), Some(limit)) = (task.ready_by, child.ready_within)
                && by <= now
            {
                task.drop_for(format!("was not ready within {limit:?}"));
            }
        }
    }

    /// Does what a child's end leads to; a fault: it gives up.
    async fn ended(&mut self, index: usize, exit: &Exit) -> Exit {
        let (child, status) = (&self.spec.children[index], self.status.children[index].clone());
        let (words, short) = (told(exit), logged(exit));
        let level = if exit.is_err() { 2 } else { 3 };
        match self.children.ended(index, exit.is_err(), self.begun.elapsed()) {
            Decision::Leave => {
                let state = if exit.is_err() { State::Failed } else { State::Stopped };
                status.ended(&words, state);
                log::send(level, "relmgr_app", &format!("child {} {short}: it stays down", child.name));
                Ok(())
            }
            Decision::Restart { end } => {
                status.ended(&words, State::Restarting);
                log::send(level, "relmgr_app", &format!("child {} {short}: it is started again", child.name));
                for other in end {
                    self.end(other).await;
                }
                Ok(())
            }
            Decision::GiveUp => {
                status.ended(&words, if exit.is_err() { State::Failed } else { State::Stopped });
                let Supervisor { intensity, period, .. } = self.spec;
                let times = if intensity == 1 { "time" } else { "times" };
                let what = format!(
                    "gave up after starting children again {intensity} {times} within {period:?}: {} {short}",
                    child.name
                );
                Err(Fault { what, words: exit.as_ref().err().and_then(|fault| fault.words.clone()) })
            }
        }
    }

    async fn end_all(&mut self) {
        for index in (0..self.slots.len()).rev() {
            self.end(index).await;
        }
    }

    /// Ends a child and waits until it is gone, at most as long as it or the supervisor may take.
    async fn end(&mut self, index: usize) {
        let child = &self.spec.children[index];
        let status = self.status.children[index].clone();
        // Of one whose end has come meanwhile nothing is to be decided any more.
        let found = self.ends.iter().position(|(ended, _)| *ended == index);
        let mut exit = found.and_then(|at| self.ends.remove(at)).map(|(_, exit)| exit);
        let limit = match child.shutdown {
            Shutdown::BrutalKill => Some(Duration::ZERO),
            Shutdown::Within(limit) => Some(limit),
            Shutdown::Infinity => None,
        };
        let own_by = limit.and_then(|limit| Instant::now().checked_add(limit));
        while let Some(task) = self.slots[index].as_mut() {
            task.ready_by = None;
            let by = earlier(own_by, self.context.stop_by());
            if by.is_some_and(|by| by <= Instant::now()) && task.dropped.is_none() && !child.is_supervisor() {
                if child.shutdown != Shutdown::BrutalKill {
                    let text = format!("child {} did not end in time and is dropped", child.name);
                    log::send(2, "relmgr_app", &text);
                }
                task.drop_for("was dropped, since it did not end in time".into());
            }
            // A supervisor drops its own children at that time, and is never dropped before them.
            let by = by.filter(|_| task.dropped.is_none() && !child.is_supervisor());
            task.order.send_replace(Order::Stop { by: earlier(own_by, self.context.stop_by()) });
            tokio::select! {
                (ended, how) = next_end(&mut self.tasks, &mut self.slots) => {
                    if ended == index {
                        exit = Some(how);
                    } else {
                        self.ends.push_back((ended, how));
                    }
                }
                () = until(by) => {}
                () = self.context.told_anew() => {}
            }
        }
        if let Some(exit) = exit {
            let state =
                if self.children.phase(index) == Phase::Pending { State::Restarting } else { State::Stopped };
            status.ended(&told(&exit), state);
        } else if self.children.phase(index) != Phase::Down {
            // It had not been started, and is not going to be.
            status.withdrawn();
        }
    }
}
