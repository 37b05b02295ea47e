//! The host: the process that loads libraries and serves traffic.
//!
//! ```text
//! channel    commands of the supervisor
//!   └─ Host  generations: load, health, swap, retire
//! front      accepts, connections and their limits
//!   └─ service   one atomic load, one call into the current generation
//!        ├─ gate   where requests wait for a code change
//!        ├─ sessions  conversations that live across swaps
//!        └─ generation, body, stakes, measures, counter   what holds what, what is counted
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
pub mod gate;
pub mod generation;
pub mod keeper;
pub mod lend;
pub mod loader;
pub mod measures;
pub mod preflight;
pub mod probe;
pub mod retire;
#[allow(missing_docs, reason = "pin_project's enums cannot carry them on their fields")]
pub mod service;
pub mod sessions;
pub mod stakes;
pub mod state;
mod tables;
pub mod tls;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use relmgr_model::Version;
use relmgr_model::control::GenerationState;
use relmgr_model::counts::{Counts, KEPT, ReleaseCounts};
use relmgr_model::host::{Answer, CodeChange, HostError, LoadRequest};
use relmgr_model::manifest::Probe;
use relmgr_model::probation::Sample;
use relmgr_model::settings::Upgrade;
use relmgr_model::tls::CertificatePair;
use tokio::net::TcpListener;

use front::{Front, Speaks};
use generation::{Facts, Generation, StartError};
use lend::Lending;
use loader::{stray, threads};
use retire::{Retired, on_thread, retire};
use sessions::hub::HUB;

/// Locks without minding a panic under the lock: every value behind one is whole at every point.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A listening socket; with what it is for where that is no HTTP.
pub type Listening = (TcpListener, Speaks);

/// The host's generations.
pub struct Host {
    front: Arc<Front>,
    /// Taken when accepting begins.
    listeners: Mutex<Vec<Listening>>,
    next: AtomicU64,
    /// Generations that may become current, and the one that is.
    live: Mutex<BTreeMap<u64, Arc<Generation>>>,
    known: Mutex<Known>,
    /// The state that was lent to another process.
    lending: Mutex<Lending>,
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

    fn pinned(&self) -> u32 {
        let pinned = self.loaded.values().filter(|facts| facts.state() == GenerationState::Pinned);
        u32::try_from(pinned.count()).unwrap_or(u32::MAX)
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
        let (next, lending) = (AtomicU64::new(1), Mutex::default());
        Arc::new(Self { front, listeners: Mutex::new(listeners), next, live, known, lending })
    }

    /// Begins to accept, once.
    fn accept(&self) {
        for (listener, speaks) in std::mem::take(&mut *lock(&self.listeners)) {
            tokio::spawn(self.front.clone().accept(listener, speaks));
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
            Ok(()) => match self.hand_down(deadline).await {
                Ok(()) => {
                    // Asked for here, so that no request is the first to ask.
                    generation.offer();
                    Ok(Answer::Loaded { generation: id })
                }
                Err(error) => {
                    drop(generation);
                    self.retire(id, Duration::ZERO).await?;
                    Err(error)
                }
            },
            Err(error) => {
                drop(generation);
                self.retire(id, Duration::ZERO).await?;
                Err(fault(&error))
            }
        }
    }

    /// A release has been started that may know the records of the state tables in an older form only: the one that
    /// serves writes them in that form too. It goes on serving meanwhile, so that the swap waits for no record.
    async fn hand_down(&self, deadline: Duration) -> Result<(), HostError> {
        let current = self.front.current.load_full();
        let Some(current) = current else { return Ok(()) };
        let limit = humantime::format_duration(deadline);
        let words = |words: String| {
            let version = &current.facts.version;
            HostError { message: format!("the state tables of {version} could not be handed down: {words}") }
        };
        match tokio::time::timeout(deadline, current.hand_down()).await {
            Ok(Ok(0)) => Ok(()),
            Ok(Ok(records)) => {
                tracing::info!(version = %current.facts.version, records, "state tables handed down");
                Ok(())
            }
            Ok(Err(error)) => Err(words(error.to_string())),
            Err(_) => Err(words(format!("it took longer than {limit} (upgrade.start)"))),
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

    /// Makes a candidate current: the old one's children end, its state is handed over, one atomic store, the new
    /// one's children start. Children that have not ended within `patience` are dropped where they stand.
    async fn swap(
        &self,
        id: u64,
        patience: Duration,
        change: Option<CodeChange>,
    ) -> Result<Answer, HostError> {
        let generation = self.live(id)?;
        let previous = self.front.current.load_full();
        if let Some(previous) = &previous {
            previous.suspend(patience).await;
        }
        let mut handed = None;
        if let (Some(change), Some(previous)) = (change, &previous) {
            let hold = self.front.gate.shut();
            match state::hand_over(&hold, previous, &generation, &change).await {
                Ok(changed) => handed = Some((hold, changed)),
                Err(failed) => {
                    let failed = state::give_up(previous, failed, &change).await;
                    let state::Failed { reason, blames_taker, .. } = failed;
                    drop(hold);
                    previous.resume();
                    return Ok(Answer::NotSwapped { reason, blames_candidate: blames_taker });
                }
            }
        }
        generation.facts.set_state(GenerationState::Current);
        self.front.current.store(Some(generation.clone()));
        // Requests go on.
        let code_change = handed.map(|(_, changed)| changed);
        generation.resume();
        if let Some(previous) = &previous {
            // It may be called back, until it is told to retire.
            previous.facts.set_state(GenerationState::Idle);
        }
        Ok(Answer::Swapped { previous: previous.map(|previous| previous.facts.id), code_change })
    }

    /// Makes a generation current that was so before. Its children wait for the end of those that run, traffic
    /// does not: what serves may answer nothing any more. Where there is state, it is handed back first, or the
    /// generation goes on with what it had.
    async fn swap_back(
        &self,
        id: u64,
        patience: Duration,
        change: Option<CodeChange>,
    ) -> Result<Answer, HostError> {
        let generation = self.live(id)?;
        let serving = self.front.current.load_full().filter(|serving| serving.facts.id != id);
        let keeps_state = generation.facts.keeps_state();
        // Nothing happens to the state from here on but what follows.
        let hold = keeps_state.then(|| self.front.gate.shut());
        let quiesce = Duration::from_millis(change.as_ref().map_or(0, |change| change.quiesce_ms));
        let (mut code_change, mut lost) = (None, None);
        if let (Some(hold), Some(change), Some(serving)) = (&hold, &change, &serving) {
            // Its children hold state too.
            let suspended = serving.suspend(Duration::from_millis(change.quiesce_ms));
            let deadline = hold.since + Duration::from_millis(change.quiesce_ms);
            let suspended = gate::until(deadline, suspended).await;
            let handed = match suspended {
                Some(()) => state::hand_over(hold, serving, &generation, change).await,
                None => Err(state::Failed::late("its children did not end")),
            };
            match handed {
                Ok(changed) => code_change = Some(changed),
                Err(failed) => lost = Some(failed.reason),
            }
        }
        if keeps_state
            && code_change.is_none()
            && let Err(words) = state::back(&generation, quiesce).await
        {
            let version = &generation.facts.version;
            let words = format!("{version} did not go on with its own state: {words}");
            lost = Some(lost.map_or_else(|| words.clone(), |reason| format!("{reason}; {words}")));
        }
        generation.facts.set_state(GenerationState::Current);
        self.front.current.store(Some(generation.clone()));
        drop(hold);
        if let Some(given_up) = serving {
            given_up.facts.set_state(GenerationState::Draining);
            given_up.suspend(patience).await;
        }
        generation.resume();
        Ok(if change.is_some() { Answer::SwappedBack { code_change, lost } } else { Answer::Done })
    }

    /// Ends the children of the generation that serves.
    async fn suspend(&self, patience: Duration) {
        let current = self.front.current.load_full();
        if let Some(current) = current {
            current.suspend(patience).await;
        }
    }

    /// Serves other certificates from now on.
    fn certificates(&self, certificates: &[CertificatePair]) -> Result<Answer, HostError> {
        let fault = |message: String| HostError { message };
        let tls = self.front.tls.as_ref().ok_or_else(|| fault("no listener speaks TLS".into()))?;
        match tls.replace(certificates) {
            Ok(()) => Ok(Answer::Done),
            Err(error) => Err(fault(error.to_string())),
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
        let Retired { cut, stop_left, pinned } =
            retire(generation, &self.front.connections, drain, gone).await;
        let stop_left_ms = stop_left.map(|patience| u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
        Ok(Answer::Retired { cut, stop_left_ms, pinned })
    }

    /// The host works, and what its current generation has answered.
    fn pulse(&self) -> Answer {
        let current = self.front.current.load();
        let pinned = lock(&self.known).pinned();
        match current.as_ref() {
            Some(current) => Answer::Pulse {
                generation: Some(current.facts.id),
                sample: current.facts.sample(),
                first_panic: current.facts.measures.first_panic(),
                pinned,
            },
            None => Answer::Pulse { generation: None, sample: Sample::default(), first_panic: None, pinned },
        }
    }

    fn counts(&self) -> Vec<ReleaseCounts> {
        lock(&self.known).counts()
    }

    fn live(&self, id: u64) -> Result<Arc<Generation>, HostError> {
        let found = lock(&self.live).get(&id).cloned();
        found.ok_or_else(|| HostError { message: format!("there is no generation {id} that could serve") })
    }

    /// Stops accepting, lets requests finish, stops the application. Where another host serves (`linger`), clients
    /// that keep their connections are answered once more and told to open another; those that ask nothing lose
    /// theirs one after the other.
    async fn stop(self: &Arc<Self>, drain: Duration, linger: bool) {
        let begun = Instant::now();
        self.front.stop_accepting();
        if lock(&self.lending).is_lent() {
            // Before those who wait are turned away: on the same connection their next request would fare no better.
            self.front.connections.give_all(connection::Order::Finish);
        }
        let left = self.leave_state();
        let current = self.front.current.load_full();
        if let Some(current) = current.as_ref().or(left.as_ref()) {
            current.wind_up();
        }
        drop(current);
        let connections = &self.front.connections;
        let closed = || connections.count() == 0;
        let closing = async {
            // A state that is with the other host leaves nothing here that could answer.
            if linger && left.is_none() {
                connections.give_all(connection::Order::Last);
                if !retire::until(drain / 2, closed).await {
                    connections.finish_spread(drain * 2 / 5).await;
                }
            } else {
                connections.give_all(connection::Order::Finish);
            }
            retire::until(drain.saturating_sub(begun.elapsed()), closed).await
        };
        // The last sessions have a little time left for their last words.
        let (all_closed, ()) = tokio::join!(closing, HUB.end_all(drain.mul_f64(0.9)));
        if !all_closed {
            tracing::warn!(
                open = self.front.connections.count(),
                "connections are cut at the drain deadline"
            );
            self.front.connections.give_all(connection::Order::Abort);
        }
        let current = left.or_else(|| self.front.current.swap(None));
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
    stray::watch();
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
