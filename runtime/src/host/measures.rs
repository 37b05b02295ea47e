//! What probation and metrics look at, counted on the way of the requests.
//!
//! A request that is answered well touches nothing here, but for one in [`MEASURED`], whose latency is taken: the
//! clock costs as much as a hundredth of a small request.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use relmgr_model::counts::{Counts, ENDS};
use relmgr_model::probation::Sample;

use super::counter::Histogram;

/// The latency of one in so many requests of a connection is taken, the first one's always.
const MEASURED: u64 = 8;

/// What is counted of a generation's answers.
#[derive(Default)]
pub struct Measures {
    /// Handlers that panicked.
    pub panics: AtomicU64,
    /// Answers that were broken off at the end of the drain.
    pub cut: AtomicU64,
    errors: AtomicU64,
    first_panic: OnceLock<String>,
    latencies: Histogram,
}

impl Measures {
    /// When the request with this number began, where its latency is taken.
    pub fn begin(request_id: u64) -> Option<Instant> {
        request_id.is_multiple_of(MEASURED).then(Instant::now)
    }

    /// Takes the latency of a request that began at `begun`.
    pub fn answered(&self, begun: Instant) {
        self.latencies.add(begun.elapsed());
    }

    /// Counts an answer that is the application's fault: 5xx, a panic, a body that broke off.
    pub fn failed(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a handler that panicked.
    pub fn panicked(&self, words: &str) {
        self.panics.fetch_add(1, Ordering::Relaxed);
        self.first_panic.get_or_init(|| words.to_owned());
    }

    /// The words of the first panic.
    pub fn first_panic(&self) -> Option<String> {
        self.first_panic.get().cloned()
    }

    /// All of it, with the number of `requests` that were answered.
    pub fn sample(&self, requests: u64) -> Sample {
        Sample {
            requests,
            errors: self.errors.load(Ordering::Relaxed),
            panics: self.panics.load(Ordering::Relaxed),
            latencies: self.latencies.latencies(),
        }
    }

    /// All of it, with how clients' requests ended.
    pub fn counts(&self, ends: [u64; ENDS.len()]) -> Counts {
        Counts {
            ends,
            panics: self.panics.load(Ordering::Relaxed),
            cut: self.cut.load(Ordering::Relaxed),
            latencies: self.latencies.latencies(),
            latency_ns: self.latencies.nanoseconds(),
        }
    }
}
