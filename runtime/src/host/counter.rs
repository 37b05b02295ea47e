//! Counting on the way of every request: each thread in a place of its own, so that no cache line goes back and forth
//! between processors.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use relmgr_model::counts::ENDS;
use relmgr_model::probation::{CLASSES, Latencies};

/// So many threads count without getting in each other's way; more share places.
pub const PLACES: usize = 16;

thread_local! {
    /// The calling thread's place.
    static PLACE: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed) % PLACES
    };
}

/// The calling thread's place, below [`PLACES`].
pub fn place() -> usize {
    PLACE.with(|place| *place)
}

/// A value for each place, on cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Padded<T>(T);

/// A counter that every request counts up.
#[derive(Default)]
pub struct Counter([Padded<AtomicU64>; PLACES]);

impl Counter {
    /// Counts up. Sequentially consistent, which an increment is on this processor in any case: who shuts the gate
    /// and then counts has everybody who found it open.
    pub fn add(&self) {
        self.0[place()].0.fetch_add(1, Ordering::SeqCst);
    }

    /// How often it was counted up.
    pub fn get(&self) -> u64 {
        self.0.iter().map(|place| place.0.load(Ordering::SeqCst)).sum()
    }
}

/// How a request ended: the places of [`ENDS`], and one more for the host's own requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End(u8);

impl End {
    /// The client went away before there was an answer.
    pub const NONE: Self = Self(0);
    /// It was none of a client's.
    pub const PROBE: Self = Self(ENDS.len() as u8);

    /// It was an event of a session, which is counted there.
    pub const SESSION: Self = Self::PROBE;

    /// It was answered with `status`.
    pub fn of(status: u16) -> Self {
        Self(relmgr_model::counts::end_of(status) as u8)
    }
}

/// Requests that ended, by how. One increment a request, as if there were one counter.
#[derive(Default)]
pub struct Ended([Padded<[AtomicU64; ENDS.len() + 1]>; PLACES]);

impl Ended {
    /// Counts one.
    pub fn add(&self, end: End) {
        let ends = &self.0[place()].0;
        ends[usize::from(end.0) % ends.len()].fetch_add(1, Ordering::Release);
    }

    /// All of them, the host's own too.
    pub fn all(&self) -> u64 {
        let ends = self.0.iter().flat_map(|place| &place.0);
        ends.map(|count| count.load(Ordering::Acquire)).sum()
    }

    /// Those of clients.
    pub fn of_clients(&self) -> [u64; ENDS.len()] {
        std::array::from_fn(|end| self.0.iter().map(|place| place.0[end].load(Ordering::Acquire)).sum())
    }
}

/// Latencies, by class and all together.
pub struct Histogram(Box<[Padded<Shard>]>);

struct Shard {
    classes: [AtomicU64; CLASSES],
    nanoseconds: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        let shard = || {
            Padded(Shard { classes: [const { AtomicU64::new(0) }; CLASSES], nanoseconds: AtomicU64::new(0) })
        };
        Self((0..PLACES).map(|_| shard()).collect())
    }
}

impl Histogram {
    /// Counts one.
    pub fn add(&self, latency: Duration) {
        let shard = &self.0[place()].0;
        shard.classes[Latencies::class(latency)].fetch_add(1, Ordering::Relaxed);
        // Together they fit for 584 years.
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        shard.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// By class.
    pub fn latencies(&self) -> Latencies {
        let in_class =
            |class: usize| self.0.iter().map(|shard| shard.0.classes[class].load(Ordering::Relaxed)).sum();
        Latencies::new((0..CLASSES).map(in_class).collect())
    }

    /// All together, in nanoseconds.
    pub fn nanoseconds(&self) -> u64 {
        self.0.iter().map(|shard| shard.0.nanoseconds.load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_many_threads_count_adds_up() {
        let (ended, histogram) = (Ended::default(), Histogram::default());
        std::thread::scope(|scope| {
            for _ in 0..PLACES + 3 {
                scope.spawn(|| {
                    for end in [End::of(200), End::of(404), End::NONE, End::PROBE] {
                        ended.add(end);
                    }
                    histogram.add(Duration::from_micros(100));
                });
            }
        });
        let threads = PLACES as u64 + 3;
        assert_eq!(ended.all(), threads * 4);
        assert_eq!(ended.of_clients(), [threads, 0, threads, 0, threads, 0]);
        assert_eq!(histogram.latencies().count(), threads);
        assert_eq!(histogram.nanoseconds(), threads * 100_000);
    }
}
