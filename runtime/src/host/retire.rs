//! The end of a generation: drain, stop, end its threads, unmap.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use relmgr_model::control::GenerationState;
use tokio::sync::oneshot;

use super::connection::Connections;
use super::generation::{Facts, Generation};
use super::loader::library::Library;
use super::loader::threads;

/// A request that was broken off may take so long to notice: it is woken, so more means that it is blocked, or that
/// its client does not read.
const NOTICE: Duration = Duration::from_millis(250);

/// What else a connection carries whose client does not read an answer that was broken off may take so long.
const PURGE_PATIENCE: Duration = Duration::from_secs(2);

/// The application's own stop may take so long.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Blocking threads of the application's runtime may take so long to end.
const THREADS_PATIENCE: Duration = Duration::from_secs(2);

/// Values, threads and destructors may take so long to go before the library is called pinned. Under load it is
/// a matter of milliseconds.
const UNMAP_PATIENCE: Duration = Duration::from_secs(3);

/// A pinned library is tried again this often …
const RETRY: Duration = Duration::from_secs(1);

/// … and for so long: what pins it may do so for months, and must not cost anything.
const RETRY_PATIENCE: Duration = Duration::from_millis(20);

/// How often a count is looked at while it should go to nothing. tokio's timers have this granularity.
const GLANCE: Duration = Duration::from_millis(1);

/// How often the connections are looked at where there was an unread answer.
const LOOK_FOR_UNREAD: Duration = Duration::from_millis(10);

/// How far the end of a generation has come.
enum Stage {
    /// Requests may still be in flight.
    Serving(Arc<Generation>),
    /// The application was told to stop.
    Stopped(Arc<Generation>),
    /// The instance is gone, values of the library may be left.
    Ended(Arc<Library>),
    /// Nothing of it is in use.
    Unused(Library),
    /// Unmapped, or closed for good though glibc keeps it.
    Over,
}

/// What came of a retirement.
#[derive(Debug, Default)]
pub struct Retired {
    /// Requests that were broken off at the deadline.
    pub cut: u64,
    /// The application's stop took longer than this and was left; `None`: it ended.
    pub stop_left: Option<Duration>,
    /// Why the library is still mapped; empty: it is gone.
    pub pinned: Vec<String>,
}

/// Retires `generation`, which is not current. When its library cannot be unmapped, that is tried again in the
/// background for as long as the host lives, and `gone` is called when it succeeds.
pub async fn retire(
    generation: Arc<Generation>,
    connections: &Arc<Connections>,
    drain: Duration,
    gone: impl FnOnce() + Send + 'static,
) -> Retired {
    let facts = generation.facts.clone();
    facts.set_state(GenerationState::Draining);
    let cut = drain_requests(&generation, connections, drain).await;
    let (stage, pinned) = advance(Stage::Serving(generation), &facts, UNMAP_PATIENCE).await;
    let stop_left = facts.is_stop_left().then_some(STOP_PATIENCE);
    if pinned.is_empty() {
        gone();
        return Retired { cut, stop_left, pinned };
    }
    facts.set_reasons(pinned.clone());
    facts.set_state(GenerationState::Pinned);
    tracing::warn!(version = %facts.version, "release cannot be unmapped: {}", pinned.join("; "));
    tokio::spawn(keep_trying(stage, connections.clone(), facts, gone));
    Retired { cut, stop_left, pinned }
}

async fn keep_trying(
    mut stage: Stage,
    connections: Arc<Connections>,
    facts: Arc<Facts>,
    gone: impl FnOnce(),
) {
    let mut unread = false;
    while !matches!(stage, Stage::Over) {
        tokio::time::sleep(RETRY).await;
        // An answer that came after the drain has had this long to be read.
        if unread {
            connections.abort_staked(facts.id);
            connections.abort_keepers_of(facts.id);
        }
        unread = connections.owe_bytes_of(facts.id);
        let (next, reasons) = advance(stage, &facts, RETRY_PATIENCE).await;
        stage = next;
        if reasons.is_empty() {
            tracing::info!(version = %facts.version, "release is unmapped at last");
            return gone();
        }
        facts.set_reasons(reasons);
    }
}

/// Waits until no request is in flight and no answer unread, at most `drain`; then breaks off those that are left.
/// Returns how many requests were in flight.
async fn drain_requests(generation: &Generation, connections: &Connections, drain: Duration) -> u64 {
    let facts = &generation.facts;
    // Whether there are unread answers is asked less often: it means a look at every connection.
    let mut seen = None::<Instant>;
    let mut over = || {
        if facts.in_flight() > 0 || seen.is_some_and(|at| at.elapsed() < LOOK_FOR_UNREAD) {
            return false;
        }
        seen = connections.keep_bytes_of(facts.id).then(Instant::now);
        seen.is_none()
    };
    if until(drain, &mut over).await {
        return 0;
    }
    let cut = facts.in_flight();
    facts.measures.cut.store(cut, Ordering::Relaxed);
    // 1. Handlers and bodies are told, and end.
    generation.purge();
    if until(NOTICE, &mut over).await {
        return cut;
    }
    // 2. hyper asks a body for nothing while its client takes nothing: such a connection ends, and so does one whose
    //    client takes no small answers. One of HTTP/2 takes nothing new and has a little time for its other streams.
    connections.end_staked(facts.id);
    let unread = connections.abort_keepers_of(facts.id);
    if unread > 0 {
        tracing::warn!(version = %facts.version, "{unread} connections ended with the drain: their clients did not read");
    }
    if until(PURGE_PATIENCE, &mut over).await {
        return cut;
    }
    connections.abort_staked(facts.id);
    until(PURGE_PATIENCE, &mut over).await;
    cut
}

/// Goes as far as it can. An empty list of reasons means that the library is gone.
async fn advance(mut stage: Stage, facts: &Facts, patience: Duration) -> (Stage, Vec<String>) {
    loop {
        stage = match stage {
            Stage::Serving(generation) => {
                let in_flight = facts.in_flight();
                if in_flight > 0 {
                    let reason =
                        format!("{in_flight} requests on it cannot be broken off: their handlers block");
                    return (Stage::Serving(generation), vec![reason]);
                }
                facts.set_state(GenerationState::Retiring);
                stop(&generation).await;
                Stage::Stopped(generation)
            }
            Stage::Stopped(generation) => match unwrap(generation, patience).await {
                // On a thread of its own, which ends and so takes along what the library leaves on it.
                Ok(owned) => Stage::Ended(on_thread(move || owned.destroy(THREADS_PATIENCE)).await),
                Err(generation) => {
                    let reason = "the host still uses it".to_owned();
                    return (Stage::Stopped(generation), vec![reason]);
                }
            },
            Stage::Ended(library) => match unwrap(library, patience).await {
                Ok(library) => Stage::Unused(library),
                Err(library) => {
                    let values = Arc::strong_count(&library) - 1;
                    let reason = format!("{values} of its values are still in the host's hands");
                    return (Stage::Ended(library), vec![reason]);
                }
            },
            Stage::Unused(library) => match library.unmap(patience, rouse).await {
                Ok(()) => return (Stage::Over, vec![]),
                Err((Some(library), reasons)) => return (Stage::Unused(library), reasons),
                Err((None, reasons)) => return (Stage::Over, reasons),
            },
            Stage::Over => return (Stage::Over, vec![]),
        };
    }
}

/// Runs the application's own stop.
async fn stop(generation: &Generation) {
    if tokio::time::timeout(STOP_PATIENCE, generation.stop()).await.is_err() {
        generation.facts.set_stop_left();
        tracing::warn!(version = %generation.facts.version, "the application's stop took too long and was left");
    }
}

/// Runs the library's code on a new thread.
pub async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (finished, result) = oneshot::channel();
    let run = move || drop(finished.send(work()));
    if let Err(error) = std::thread::Builder::new().name("loader".into()).spawn(run) {
        tracing::error!(%error, "no thread for the loader");
    }
    match result.await {
        Ok(value) => value,
        // The thread did not start or panicked; the library cannot be in a known state.
        Err(_) => std::process::abort(),
    }
}

/// Waits until `shared` has no other holder.
async fn unwrap<T>(shared: Arc<T>, patience: Duration) -> Result<T, Arc<T>> {
    until(patience, || Arc::strong_count(&shared) == 1).await;
    Arc::try_unwrap(shared)
}

/// Waits until `condition` holds, at most `patience`; whether it does.
pub async fn until(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// Brings every worker of the host past a quiescent state: the top of a task is one. A worker that sleeps is
/// woken when there is more to do than those that are awake have taken, so each task takes a little while.
async fn rouse() {
    let workers = tokio::runtime::Handle::current().metrics().num_workers();
    for _ in 0..workers * 2 {
        tokio::spawn(async {
            threads::quiescent();
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_micros(50) {
                std::hint::spin_loop();
            }
        });
    }
    tokio::time::sleep(GLANCE).await;
}

/// Unmaps a library of which no instance was made. Should that fail, it is said in the log and stays.
pub async fn discard(library: Library, version: &relmgr_model::Version) {
    if let Err((_, reasons)) = library.unmap(UNMAP_PATIENCE, rouse).await {
        tracing::warn!(%version, "release cannot be unmapped: {}", reasons.join("; "));
    }
}
