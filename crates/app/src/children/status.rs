//! What is said of children to people.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use relmgr_abi::children::{Node, Restart, State, Strategy};

use super::spec::{Child, Supervisor, Work};

/// A child, or the supervisor at the top, as it is now.
pub(super) struct Status {
    name: String,
    restart: Restart,
    strategy: Option<Strategy>,
    pub(super) children: Vec<Arc<Status>>,
    now: Mutex<Now>,
}

struct Now {
    state: State,
    /// How often it was started.
    starts: u64,
    last_exit: Option<String>,
    since: SystemTime,
}

impl Status {
    /// The supervisor at the top, before it starts.
    pub(super) fn top(supervisor: &Supervisor) -> Arc<Self> {
        Self::new(String::new(), Restart::Temporary, Some(supervisor))
    }

    fn of(child: &Child) -> Arc<Self> {
        let supervisor = match &child.work {
            Work::Worker(_) => None,
            Work::Supervisor(supervisor) => Some(supervisor),
        };
        Self::new(child.name.to_string(), child.restart, supervisor)
    }

    fn new(name: String, restart: Restart, supervisor: Option<&Supervisor>) -> Arc<Self> {
        let children = supervisor.iter().flat_map(|supervisor| &supervisor.children).map(Self::of);
        let now = Now { state: State::Starting, starts: 0, last_exit: None, since: SystemTime::now() };
        Arc::new(Self {
            name,
            restart,
            strategy: supervisor.map(|supervisor| supervisor.strategy),
            children: children.collect(),
            now: Mutex::new(now),
        })
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(now: &mut Now, state: State) {
        if now.state != state {
            (now.state, now.since) = (state, SystemTime::now());
        }
    }

    /// It waits to be started, for the first time or again.
    pub(super) fn waits(&self) {
        let mut now = self.now();
        let state = if now.starts == 0 { State::Starting } else { State::Restarting };
        Self::set(&mut now, state);
    }

    /// It was started; `ready`: nobody waits for it.
    pub(super) fn started(&self, ready: bool) {
        let mut now = self.now();
        now.starts += 1;
        let state = match now.starts {
            _ if ready => State::Running,
            1 => State::Starting,
            _ => State::Restarting,
        };
        Self::set(&mut now, state);
        // A new start is a new time, also where the state is the same.
        now.since = SystemTime::now();
    }

    /// It is up.
    pub(super) fn is_ready(&self) {
        Self::set(&mut self.now(), State::Running);
    }

    /// It ended in these words, and is `Stopped`, `Failed` or `Restarting`.
    pub(super) fn ended(&self, words: &str, state: State) {
        let mut now = self.now();
        now.last_exit = Some(words.to_owned());
        Self::set(&mut now, state);
    }

    /// It waited to be started, and is not going to be.
    pub(super) fn withdrawn(&self) {
        Self::set(&mut self.now(), State::Stopped);
    }

    /// How it failed.
    pub(super) fn failure(&self) -> Option<String> {
        let now = self.now();
        (now.state == State::Failed).then(|| now.last_exit.clone()).flatten()
    }

    /// It and its children, for the host.
    pub(super) fn node(&self) -> Node {
        let children = self.children.iter().map(|child| child.node()).collect();
        let now = self.now();
        let since = now.since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Node {
            name: self.name.clone(),
            restart: self.restart,
            strategy: self.strategy,
            state: now.state,
            restarts: now.starts.saturating_sub(1),
            last_exit: now.last_exit.clone(),
            since_ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            children,
        }
    }
}
