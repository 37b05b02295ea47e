//! The host: the process that loads libraries and serves traffic.
//!
//! ```text
//! channel    commands of the supervisor
//!   └─ Host  generations: load, health, swap, retire
//! front      accepts, connections and their limits
//!   └─ service   one atomic load, one call into the current generation
//!        ├─ sessions  conversations that live across swaps
//!        └─ generation, body, measures, counter   what holds what, what is counted
//! loader     the room for unsafe: open, take over, unmap
//! ```

pub mod app;
#[allow(missing_docs, reason = "pin_project's enums cannot carry them on their fields")]
pub mod body;
pub mod channel;
mod children;
mod conf;
pub mod connection;
pub mod counter;
pub mod elf;
pub mod front;
pub mod generation;
pub mod loader;
pub mod measures;
pub mod preflight;
pub mod probe;
pub mod retire;
#[allow(missing_docs, reason = "pin_project's enums cannot carry them on their fields")]
pub mod service;
pub mod sessions;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use relmgr_model::Version;
use relmgr_model::control::GenerationState;
use relmgr_model::counts::{Counts, KEPT, ReleaseCounts};
use relmgr_model::host::{Answer, HostError, LoadRequest};
use relmgr_model::manifest::Probe;
use relmgr_model::probation::Sample;
use relmgr_model::sessions::TcpStart;
use relmgr_model::settings::Upgrade;
use tokio::net::TcpListener;

use front::Front;
use generation::{Facts, Generation, StartError};
use loader::threads;
use retire::{Retired, on_thread, retire};
use sessions::hub::HUB;

/// Locks without minding a panic under the lock: every value behind one is whole at every point.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A listening socket; with what it is for where that is no HTTP.
pub type Listening = (TcpListener, Option<Arc<TcpStart>>);

/// The host's generations.
pub struct Host {
    front: Arc<Front>,
    /// Taken when accepting begins.
    listeners: Mutex<Vec<Listening>>,
    next: AtomicU64,
    /// Generations that may become current, and the one that is.
    live: Mutex<BTreeMap<u64, Arc<Generation>>>,
    known: Mutex<Known>,
}

/// What is said of generations.
#[derive(Default)]
struct Known {
    /// Everything that is in memory.
    loaded: BTreeMap<u64, Arc<Facts>>,
    /// What those answered that are not, by release; the newest [`KEPT`].
    gone: BTreeMap<Version, Counts>,
}

impl Known {
    fn unload(&mut self, id: u64) {
        let Some(facts) = self.loaded.remove(&id) else { return };
        let counts = facts.counts();
        // A candidate that never served leaves nothing to remember.
        if counts != Counts::default() {
            self.gone.entry(facts.version.clone()).or_default().add(&counts);
        }
        while self.gone.len() > KEPT {
            self.gone.pop_first();
        }
    }

    fn counts(&self) -> Vec<ReleaseCounts> {
        let mut by_release: BTreeMap<_, _> =
            self.gone.iter().map(|(version, counts)| (version, (false, counts.clone()))).collect();
        for facts in self.loaded.values() {
            let (loaded, counts) = by_release.entry(&facts.version).or_default();
            *loaded = true;
            counts.add(&facts.counts());
        }
        let release = |(version, (loaded, counts)): (&Version, _)| ReleaseCounts {
            version: version.clone(),
            loaded,
            counts,
        };
        by_release.into_iter().map(release).collect()
    }
}

impl Host {
    fn new(front: Arc<Front>, listeners: Vec<Listening>) -> Arc<Self> {
        let (live, known) = (Mutex::default(), Mutex::default());
        Arc::new(Self { front, listeners: Mutex::new(listeners), next: AtomicU64::new(1), live, known })
    }

    /// Begins to accept, once.
    fn accept(&self) {
        for (listener, tcp) in std::mem::take(&mut *lock(&self.listeners)) {
            tokio::spawn(self.front.clone().accept(listener, tcp));
        }
    }

    /// Loads a library and starts the application in it.
    async fn load(self: &Arc<Self>, request: LoadRequest) -> Result<Answer, HostError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let deadline = Duration::from_millis(request.start_ms);
        let version = request.version.clone();
        let generation = match on_thread(move || Generation::begin(id, &request)).await {
            Ok(generation) => Arc::new(generation),
            Err((error, library)) => {
                if let Some(library) = library {
                    retire::discard(library, &version).await;
                }
                return Err(fault(&error));
            }
        };
        lock(&self.known).loaded.insert(id, generation.facts.clone());
        lock(&self.live).insert(id, generation.clone());
        match generation.started(deadline).await {
            Ok(()) => {
                // Asked for here, so that no request is the first to ask.
                generation.offer();
                Ok(Answer::Loaded { generation: id })
            }
            Err(error) => {
                drop(generation);
                self.retire(id, Duration::ZERO).await?;
                Err(fault(&error))
            }
        }
    }

    async fn health(&self, id: u64, probes: &[Probe], deadline: Duration) -> Result<Answer, HostError> {
        let generation = self.live(id)?;
        let examine = async {
            generation.health().await.map_err(|fault| format!("its health says: {fault}"))?;
            for probe in probes {
                probe::ask(&generation, probe).await?;
            }
            Ok(())
        };
        match tokio::time::timeout(deadline, examine).await {
            Ok(Ok(())) => Ok(Answer::Done),
            Ok(Err(words)) => Err(HostError { message: words }),
            Err(_) => {
                let limit = humantime::format_duration(deadline);
                Err(HostError { message: format!("it was not healthy within {limit} (upgrade.health)") })
            }
        }
    }

    /// Makes a candidate current: the old one's children end, one atomic store, the new one's children start.
    /// Children that have not ended within `patience` are dropped where they stand.
    async fn swap(&self, id: u64, patience: Duration) -> Result<Answer, HostError> {
        let generation = self.live(id)?;
        let previous = self.front.current.load_full();
        if let Some(previous) = &previous {
            previous.suspend(patience).await;
        }
        generation.facts.set_state(GenerationState::Current);
        self.front.current.store(Some(generation.clone()));
        generation.resume();
        if let Some(previous) = &previous {
            // It may be called back, until it is told to retire.
            previous.facts.set_state(GenerationState::Idle);
        }
        Ok(Answer::Swapped { previous: previous.map(|previous| previous.facts.id) })
    }

    /// Makes a generation current that was so before. Its children wait for the end of those that run, traffic
    /// does not: what serves may answer nothing any more.
    async fn swap_back(&self, id: u64, patience: Duration) -> Result<Answer, HostError> {
        let generation = self.live(id)?;
        generation.facts.set_state(GenerationState::Current);
        let given_up = self.front.current.swap(Some(generation.clone()));
        if let Some(given_up) = given_up.filter(|given_up| given_up.facts.id != id) {
            given_up.facts.set_state(GenerationState::Draining);
            given_up.suspend(patience).await;
        }
        generation.resume();
        Ok(Answer::Done)
    }

    /// Ends the children of the generation that serves.
    async fn suspend(&self, patience: Duration) {
        let current = self.front.current.load_full();
        if let Some(current) = current {
            current.suspend(patience).await;
        }
    }

    /// Starts the children of the generation that serves.
    fn resume(&self) {
        let current = self.front.current.load_full();
        if let Some(current) = current {
            current.resume();
        }
    }

    fn commit(&self, id: u64) -> Result<Answer, HostError> {
        self.live(id)?.facts.set_permanent();
        Ok(Answer::Done)
    }

    async fn retire(self: &Arc<Self>, id: u64, drain: Duration) -> Result<Answer, HostError> {
        let is_current = self.front.current.load().as_ref().is_some_and(|current| current.facts.id == id);
        if is_current {
            return Err(HostError { message: format!("generation {id} is current and cannot be retired") });
        }
        let generation = self.live(id)?;
        lock(&self.live).remove(&id);
        generation.wind_up();
        sessions::closing::end_strangers_of(self.front.clone(), drain);
        let host = self.clone();
        let gone = move || lock(&host.known).unload(id);
        let Retired { cut, stop_left, pinned } = retire(generation, drain, gone).await;
        let stop_left_ms = stop_left.map(|patience| u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
        Ok(Answer::Retired { cut, stop_left_ms, pinned })
    }

    /// The host works, and what its current generation has answered.
    fn pulse(&self) -> Answer {
        let current = self.front.current.load();
        match current.as_ref() {
            Some(current) => Answer::Pulse {
                generation: Some(current.facts.id),
                sample: current.facts.sample(),
                first_panic: current.facts.measures.first_panic(),
            },
            None => Answer::Pulse { generation: None, sample: Sample::default(), first_panic: None },
        }
    }

    fn counts(&self) -> Vec<ReleaseCounts> {
        lock(&self.known).counts()
    }

    fn live(&self, id: u64) -> Result<Arc<Generation>, HostError> {
        let found = lock(&self.live).get(&id).cloned();
        found.ok_or_else(|| HostError { message: format!("there is no generation {id} that could serve") })
    }

    /// Stops accepting, lets requests finish, stops the application.
    async fn stop(self: &Arc<Self>, drain: Duration) {
        let begun = Instant::now();
        self.front.stop_accepting();
        let current = self.front.current.load_full();
        if let Some(current) = current {
            current.wind_up();
        }
        self.front.connections.give_all(connection::Order::Finish);
        let closed = || self.front.connections.count() == 0;
        // The last sessions have a little time left for their last words.
        let ending = HUB.end_all(drain.mul_f64(0.9));
        let (all_closed, ()) = tokio::join!(retire::until(drain, closed), ending);
        if !all_closed {
            tracing::warn!(
                open = self.front.connections.count(),
                "connections are cut at the drain deadline"
            );
            self.front.connections.give_all(connection::Order::Abort);
        }
        let current = self.front.current.swap(None);
        if let Some(current) = current {
            current.suspend(drain.saturating_sub(begun.elapsed()).max(Upgrade::CHILDREN)).await;
            let id = current.facts.id;
            drop(current);
            if let Err(error) = self.retire(id, Duration::ZERO).await {
                tracing::warn!(%error, "the application was not stopped");
            }
        }
    }
}

fn fault(error: &StartError) -> HostError {
    HostError { message: error.to_string() }
}

/// How long a handler that blocks its worker can keep the other workers asleep.
const PULSE: Duration = Duration::from_millis(20);

/// Wakes a worker now and then. tokio wakes a second one only when there is a second task: a single handler that
/// blocks its thread would keep everyone else's requests from being seen until it returns.
fn pulse(handle: tokio::runtime::Handle) -> std::io::Result<()> {
    let beat = move || {
        loop {
            std::thread::sleep(PULSE);
            handle.spawn(async { threads::quiescent() });
        }
    };
    std::thread::Builder::new().name("pulse".into()).spawn(beat).map(drop)
}

/// `relmgr host`: serves until the supervisor says stop or is gone.
pub fn run() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("host")
        .enable_all()
        // The host's workers pass quiescent states where they begin and end their sleep.
        .on_thread_start(threads::enlist_worker)
        .on_thread_park(threads::quiescent)
        .on_thread_unpark(threads::quiescent)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime for the host");
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = pulse(runtime.handle().clone()) {
        tracing::error!(%error, "no thread for the host");
        return ExitCode::FAILURE;
    }
    // On a worker: the main thread has no quiescent states, so it never runs a library's code.
    let served = runtime.block_on(runtime.spawn(channel::serve()));
    let code = match served {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
        Err(error) => {
            tracing::error!(%error, "the host panicked");
            ExitCode::FAILURE
        }
    };
    runtime.shutdown_timeout(Duration::from_millis(200));
    code
}
