//! One loaded and started instance of a release.
//!
//! Two counts keep it in being, and the end of each is a type's proof, not a guess:
//!
//! * A request holds the [`Generation`] until its response's body has been dropped, and a stream's or a large one's
//!   last byte has been written. Who can unwrap its `Arc` may
//!   end the application's instance.
//! * Whatever else came from the library (bytes that hyper has yet to write, a waker that hyper keeps) holds the
//!   mapped [`Library`]. Who can unwrap that `Arc` may unmap it.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use chrono::{DateTime, Utc};
use http::StatusCode;
use relmgr_abi::abi_stable::std_types::{ROption, RResult, RStr, RString};
use relmgr_abi::body::FfiBody;
use relmgr_abi::buffer::FfiBytes;
use relmgr_abi::children::Node;
use relmgr_abi::future::{FfiFuture, Poll as FfiPoll};
use relmgr_abi::head::{RequestHead, Response};
use relmgr_abi::root::{Instance, StartArgs};
use relmgr_abi::session::{Offer, SessionOpening, SessionOutcome, SessionView};
use relmgr_model::Version;
use relmgr_model::control::{GenerationState, GenerationStatus};
use relmgr_model::counts::Counts;
use relmgr_model::host::LoadRequest;
use relmgr_model::probation::Sample;
use tokio::sync::Notify;

use super::app::{self, Fault};
use super::counter::{Counter, End, Ended, PLACES, place};
use super::loader::library::{Library, LoadError};
use super::loader::vouched::{ExchangedError, Vouched};
use super::measures::Measures;

/// So many notifications share the requests of a generation, so that they do not share one lock.
const PURGES: usize = 16;

/// A generation whose library is mapped.
pub struct Generation {
    instance: Instance,
    library: Arc<Library>,
    mappings: [Arc<Mapping>; PLACES],
    /// Whether it understands fields of the border (since contract 1.3); others would take them for a client's.
    pub knows_border_fields: bool,
    /// What is said of it to people.
    pub facts: Arc<Facts>,
    purged: AtomicBool,
    purges: [Arc<Notify>; PURGES],
    offer: OnceLock<Offer>,
}

/// What is said of a generation, also when it is gone.
pub struct Facts {
    /// Its number within this host, from 1.
    pub id: u64,
    /// Its release.
    pub version: Version,
    /// SHA-256 of its library, hexadecimal.
    pub sha256: String,
    /// The library's build id, hexadecimal; empty: it has none.
    pub build_id: String,
    /// The release that served before it.
    pub prev: Option<Version>,
    /// Requests that it began to answer.
    pub begun: Counter,
    /// Requests whose handlers are over; counted where there is state to hand over.
    handled: Option<Counter>,
    /// Requests that it answered to the end, by how they ended.
    pub ended: Ended,
    /// What probation looks at.
    pub measures: Measures,
    permanent: AtomicBool,
    conf_hash: std::sync::Mutex<String>,
    state: AtomicU8,
    since: std::sync::Mutex<DateTime<Utc>>,
    reasons: std::sync::Mutex<Vec<String>>,
    stop_left: AtomicBool,
    threads: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// A share of a library's mapping, for values that need it longer than the request that they came with. Each
/// thread takes its own, so that their counts do not go back and forth between processors either.
#[repr(align(128))]
pub struct Mapping {
    _library: Arc<Library>,
}

const STATES: [GenerationState; 6] = GenerationState::ALL;

impl Facts {
    /// What it is doing.
    pub fn state(&self) -> GenerationState {
        STATES[usize::from(self.state.load(Ordering::Acquire)) % STATES.len()]
    }

    /// Says what it is doing from now on.
    pub fn set_state(&self, state: GenerationState) {
        let at = STATES.iter().position(|known| *known == state).unwrap_or(0);
        self.state.store(at as u8, Ordering::Release);
        *super::lock(&self.since) = Utc::now();
    }

    /// Says why it cannot be unmapped.
    pub fn set_reasons(&self, reasons: Vec<String>) {
        *super::lock(&self.reasons) = reasons;
    }

    /// Says that its application's stop did not end in time.
    pub fn set_stop_left(&self) {
        self.stop_left.store(true, Ordering::Release);
    }

    /// Whether its application's stop did not end in time.
    pub fn is_stop_left(&self) -> bool {
        self.stop_left.load(Ordering::Acquire)
    }

    /// Says that the node boots its release from now on.
    pub fn set_permanent(&self) {
        self.permanent.store(true, Ordering::Release);
    }

    /// Whether the node boots its release.
    pub fn is_permanent(&self) -> bool {
        self.permanent.load(Ordering::Acquire)
    }

    /// Hash of the configuration that it runs with.
    pub fn conf_hash(&self) -> String {
        super::lock(&self.conf_hash).clone()
    }

    /// Says with which configuration it runs from now on.
    pub fn set_conf_hash(&self, hash: String) {
        *super::lock(&self.conf_hash) = hash;
    }

    /// Since when it has been doing what it is doing.
    pub fn since(&self) -> DateTime<Utc> {
        *super::lock(&self.since)
    }

    /// Requests that it is answering.
    pub fn in_flight(&self) -> u64 {
        // The end first: a request that begins and ends in between makes it too many for a moment, never too few.
        let ended = self.ended.all();
        self.begun.get().saturating_sub(ended)
    }

    /// Whether its application keeps state that is handed over.
    pub fn keeps_state(&self) -> bool {
        self.handled.is_some()
    }

    /// Requests whose handlers run. Their bodies may stream on when they do not any more.
    pub fn running(&self) -> u64 {
        // Those that are over first, as above: none is missed.
        let Some(handled) = self.handled.as_ref().map(Counter::get) else { return self.in_flight() };
        self.begun.get().saturating_sub(handled)
    }

    /// What clients have been answered.
    pub fn sample(&self) -> Sample {
        self.measures.sample(self.ended.of_clients().iter().sum())
    }

    /// The same, for whoever watches the node from outside.
    pub fn counts(&self) -> Counts {
        self.measures.counts(self.ended.of_clients())
    }

    /// What `status` says of it.
    pub fn status(&self) -> GenerationStatus {
        GenerationStatus {
            id: self.id,
            version: self.version.clone(),
            state: self.state(),
            in_flight: self.in_flight(),
            requests: self.ended.all(),
            panics: self.measures.panics.load(Ordering::Relaxed),
            threads: (self.threads)(),
            reasons: super::lock(&self.reasons).clone(),
            supervisor: None,
            children: vec![],
        }
    }
}

/// A generation's application is up to no good, or none at all.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The library does not load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The library is not the one that was verified.
    #[error(transparent)]
    Exchanged(#[from] ExchangedError),
    /// The application's start failed.
    #[error("its start failed: {0}")]
    Start(String),
    /// It took too long.
    #[error("its start took longer than {} (upgrade.start)", humantime::format_duration(*.0))]
    Deadline(Duration),
    /// It called `exit`.
    #[error("it called exit({0}) during its start")]
    Exit(i32),
}

impl Generation {
    /// Opens the library and begins the application's start. Runs the library's code on the calling thread,
    /// which should end soon.
    ///
    /// # Errors
    /// [`LoadError`], and [`StartError::Start`] where no instance can be made.
    pub fn begin(id: u64, request: &LoadRequest) -> Result<Self, (StartError, Option<Library>)> {
        // 1. What is opened is what was verified …
        let vouched =
            Vouched::check(&request.library, &request.sha256).map_err(|error| (error.into(), None))?;
        let library = Library::open(&request.library).map_err(|error| (error.into(), None))?;
        // … and was so while it was opened.
        if let Err(error) = vouched.still() {
            return Err((error.into(), Some(library)));
        }
        let (root, minor) = match library.root() {
            Ok(root) => root,
            Err(error) => return Err((error.into(), Some(library))),
        };
        let settings = request.settings.to_string();
        let args = StartArgs {
            version: request.version.to_string().into(),
            directory: request.directory.to_string_lossy().as_ref().into(),
            settings: settings.as_bytes().into(),
            host: app::host_functions(),
        };
        let instance = match root.start()(args) {
            RResult::ROk(instance) => instance,
            // A copy, since the words lie in the library.
            RResult::RErr(words) => {
                let words = words.as_str().to_owned();
                return Err((StartError::Start(words), Some(library)));
            }
        };
        let record = library.record().clone();
        let keeps_state = root.state().is_some_and(|state| state().as_slice() != b"null");
        let facts = Facts {
            id,
            version: request.version.clone(),
            sha256: request.sha256.clone(),
            build_id: super::elf::build_id(&request.library).unwrap_or_default(),
            prev: request.prev.clone(),
            begun: Counter::default(),
            handled: keeps_state.then(Counter::default),
            ended: Ended::default(),
            measures: Measures::default(),
            permanent: AtomicBool::new(false),
            conf_hash: std::sync::Mutex::new(request.conf_hash.clone()),
            state: AtomicU8::new(0),
            since: std::sync::Mutex::new(Utc::now()),
            reasons: std::sync::Mutex::new(Vec::new()),
            stop_left: AtomicBool::new(false),
            threads: Box::new(move || record.threads.load(Ordering::Acquire) as u64),
        };
        let purges = std::array::from_fn(|_| Arc::new(Notify::new()));
        let library = Arc::new(library);
        let mappings = std::array::from_fn(|_| Arc::new(Mapping { _library: library.clone() }));
        Ok(Self {
            instance,
            library,
            mappings,
            knows_border_fields: minor >= 3,
            facts: Arc::new(facts),
            purged: AtomicBool::new(false),
            purges,
            offer: OnceLock::new(),
        })
    }

    /// Waits for the application's start, which [`Generation::begin`] began.
    ///
    /// # Errors
    /// Its own error, its panic, [`StartError::Deadline`], [`StartError::Exit`].
    pub async fn started(&self, deadline: Duration) -> Result<(), StartError> {
        let record = self.library.record();
        let exited = async {
            // Polled, since the thread that called `exit` cannot tell.
            let mut tick = tokio::time::interval(Duration::from_millis(5));
            loop {
                tick.tick().await;
                if let Some(code) = record.exit_code() {
                    return code;
                }
            }
        };
        tokio::select! {
            result = app::told(app::ask(&self.instance, self.instance.functions.started())) => result.map_err(|fault| StartError::Start(fault.0)),
            code = exited => Err(StartError::Exit(code)),
            () = tokio::time::sleep(deadline) => Err(StartError::Deadline(deadline)),
        }
    }

    /// The application's own health.
    ///
    /// # Errors
    /// Its words.
    pub async fn health(&self) -> Result<(), Fault> {
        app::told(app::ask(&self.instance, self.instance.functions.health())).await
    }

    /// Tells the application of changed settings; `None`: it cannot be told.
    pub fn conf_change(&self, change: &[u8]) -> Option<FfiFuture<RResult<bool, RString>>> {
        app::conf_change(&self.instance, change)
    }

    /// Answers a request.
    pub fn call(&self, head: RequestHead<'_>, body: ROption<FfiBody>) -> FfiFuture<Response> {
        app::call(&self.instance, head, body)
    }

    /// Which long conversations it takes. To be asked for first when it has started.
    pub fn offer(&self) -> &Offer {
        self.offer.get_or_init(|| {
            let Some(offer) = app::sessions(&self.instance) else { return Offer::default() };
            serde_json::from_slice(&offer).unwrap_or_else(|error| {
                tracing::warn!(version = %self.facts.version, %error, "its sessions are told in no form that is known");
                Offer::default()
            })
        })
    }

    /// Begins a session; `None`: its library is of a contract without sessions.
    pub fn session_open(&self, opening: SessionOpening<'_>) -> Option<FfiFuture<SessionOutcome>> {
        app::session_open(&self.instance, opening)
    }

    /// Hands over a session's message; `None`: its library is of a contract without sessions.
    pub fn session_message(
        &self,
        session: SessionView<'_>,
        kind: u8,
        bytes: FfiBytes,
    ) -> Option<FfiFuture<SessionOutcome>> {
        app::session_message(&self.instance, session, kind, bytes)
    }

    /// Tells of a session's end; `None`: its library is of a contract without sessions.
    pub fn session_close(
        &self,
        session: SessionView<'_>,
        code: u16,
        reason: RStr<'_>,
    ) -> Option<FfiFuture<SessionOutcome>> {
        app::session_close(&self.instance, session, code, reason)
    }

    /// Tells the application that its drain begins.
    pub fn wind_up(&self) {
        app::wind_up(&self.instance);
    }

    /// Starts the background children.
    pub fn resume(&self) {
        app::resume(&self.instance);
        self.library.record().holds_exit.store(false, Ordering::Release);
    }

    /// Stops the background children and waits for their ends; those that are left after `patience` are dropped.
    pub async fn suspend(&self, patience: Duration) {
        self.library.record().holds_exit.store(true, Ordering::Release);
        app::done(app::suspend(&self.instance, patience)).await;
    }

    /// Suspends the holder of the state and has it give the state in the form of `schema`; `None`: there is none.
    pub fn state_out(&self, schema: u32) -> Option<FfiFuture<RResult<FfiBody, RString>>> {
        app::state_out(&self.instance, schema)
    }

    /// Has it take a state over; `None`: it keeps none.
    pub fn state_in(&self, schema: u32, state: FfiBody) -> Option<FfiFuture<RResult<(), RString>>> {
        app::state_in(&self.instance, schema, state)
    }

    /// Has it go on with the state that it was asked for; `None`: there is none.
    pub fn state_back(&self) -> Option<FfiFuture<RResult<(), RString>>> {
        app::state_back(&self.instance)
    }

    /// The background children as they are; `None`: there are none, or its library cannot tell.
    pub fn children(&self) -> Option<Node> {
        let tree = app::children(&self.instance)?;
        match serde_json::from_slice::<Option<Node>>(&tree) {
            Ok(tree) => tree,
            Err(error) => {
                tracing::warn!(version = %self.facts.version, %error, "its children are told in no form that is known");
                None
            }
        }
    }

    /// Has it make its tables' records readable for an older release that is about to take over; how many it wrote.
    ///
    /// # Errors
    /// Its words.
    pub async fn hand_down(&self) -> Result<u64, Fault> {
        match app::hand_down(&self.instance) {
            Some(asked) => app::told(asked).await,
            None => Ok(0),
        }
    }

    /// The application's own stop.
    pub async fn stop(&self) {
        app::done(app::ask(&self.instance, self.instance.functions.stop())).await;
    }

    /// Breaks off every request that waits for something.
    pub fn purge(&self) {
        self.purged.store(true, Ordering::SeqCst);
        for purge in &self.purges {
            purge.notify_waiters();
        }
    }

    /// Whether requests are broken off.
    pub fn is_purged(&self) -> bool {
        self.purged.load(Ordering::SeqCst)
    }

    /// Notified when requests are broken off.
    pub fn purge_notice(&self, request_id: u64) -> Arc<Notify> {
        self.purges[request_id as usize % PURGES].clone()
    }

    /// The mapping that values of the library need.
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.mappings[place()]
    }

    /// Ends the application's threads and frees the instance; what is left is to be unmapped. To be called from
    /// a thread that may block and that ends soon.
    pub fn destroy(self, patience: Duration) -> Arc<Library> {
        let Self { instance, library, mappings, .. } = self;
        app::destroy(instance, patience);
        drop(mappings);
        library
    }
}

/// The generation that serves; `None`: none does.
///
/// What a request takes out is a debt in its thread's own list, not a count that every processor writes to. Who
/// replaces the generation turns the debts of the old one into counts first (arc-swap's promise), so that an `Arc`
/// of a generation that serves no longer is alone when nobody holds one.
pub type Current = ArcSwapOption<Generation>;

/// Holds a generation for one request, and counts it.
pub struct RequestGuard {
    // Never `None`: those who make it look.
    generation: Guard<Option<Arc<Generation>>>,
    end: End,
    /// Its handler is over, and counted as that.
    handled: bool,
}

impl RequestGuard {
    /// Counts in a request of the host's own, to a generation that may not be current.
    pub fn of_probe(generation: Arc<Generation>) -> Self {
        generation.facts.begun.add();
        Self { generation: Guard::from_inner(Some(generation)), end: End::PROBE, handled: false }
    }

    /// Counts in a session's event, which is no request; `None`: no generation serves.
    pub fn of_session(generation: Guard<Option<Arc<Generation>>>) -> Option<Self> {
        generation.as_ref()?.facts.begun.add();
        Some(Self { generation, end: End::SESSION, handled: false })
    }

    /// Counts a request in; `None`: no generation serves.
    pub fn new(generation: Guard<Option<Arc<Generation>>>) -> Option<Self> {
        generation.as_ref()?.facts.begun.add();
        Some(Self { generation, end: End::NONE, handled: false })
    }

    /// It was none of this generation's: it has to wait, and nobody is to see that it was here.
    pub fn withdraw(mut self) {
        self.end = End::PROBE;
    }

    /// Says with which status the request is answered. Its handler is over, and dropped.
    pub fn answered(&mut self, status: StatusCode) {
        self.end = End::of(status.as_u16());
        self.handled();
    }

    fn handled(&mut self) {
        if !std::mem::replace(&mut self.handled, true)
            && let Some(handled) = &self.generation().facts.handled
        {
            handled.add();
        }
    }

    /// What answers the request.
    pub fn generation(&self) -> &Generation {
        match &*self.generation {
            Some(generation) => generation,
            None => unreachable!("a guard is made of a generation"),
        }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.handled();
        self.generation().facts.ended.add(self.end);
    }
}

/// A future of the library with the generation that it needs; the future goes first.
pub struct Held<T> {
    future: FfiFuture<T>,
    guard: RequestGuard,
}

impl<T> Held<T> {
    /// `future` came from the generation of `guard`.
    pub fn new(future: FfiFuture<T>, guard: RequestGuard) -> Self {
        Self { future, guard }
    }

    /// Polls the library's future; a panic is counted.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, String>> {
        match self.future.poll(cx.waker()) {
            FfiPoll::Pending => Poll::Pending,
            FfiPoll::Ready(value) => Poll::Ready(Ok(value)),
            FfiPoll::Panicked(words) => {
                let words = words.as_str().to_owned();
                self.guard.generation().facts.measures.panicked(&words);
                Poll::Ready(Err(words))
            }
        }
    }

    /// What it holds.
    pub fn guard(&self) -> &RequestGuard {
        &self.guard
    }

    /// Gives the future up and keeps the generation.
    pub fn into_guard(self) -> RequestGuard {
        let Self { future, guard } = self;
        drop(future);
        guard
    }
}

/// A waker that came from the library, with the mapping that it needs; the waker goes first.
pub struct HeldWaker {
    waker: std::task::Waker,
    _mapping: Arc<Mapping>,
}

impl HeldWaker {
    /// A waker of the host's that wakes the library's `waker` and holds `mapping`.
    pub fn wrap(waker: &std::task::Waker, mapping: &Arc<Mapping>) -> std::task::Waker {
        Arc::new(Self { waker: waker.clone(), _mapping: mapping.clone() }).into()
    }
}

impl std::task::Wake for HeldWaker {
    fn wake(self: Arc<Self>) {
        self.waker.wake_by_ref();
    }
}
