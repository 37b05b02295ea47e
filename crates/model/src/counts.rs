//! What a release has answered, counted for whoever watches a node from outside.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Version;
use crate::probation::Latencies;

/// So many releases that are not loaded any more are remembered, the newest: what is older has long been scraped.
pub const KEPT: usize = 16;

/// How clients' requests ended, in the order of [`Counts::ends`].
pub const ENDS: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// The place in [`ENDS`] of an answer with `status`. What HTTP does not know is a server's error (RFC 9110, 15).
pub fn end_of(status: u16) -> usize {
    usize::from(status / 100).clamp(1, ENDS.len() - 1)
}

/// What a release has answered so far.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counts {
    /// Clients' requests by how they ended, see [`ENDS`]; the first: the client went away before there was an answer.
    pub ends: [u64; ENDS.len()],
    /// Handlers that panicked.
    pub panics: u64,
    /// Answers that were broken off at the end of a drain, streams among them.
    #[serde(default)]
    pub cut: u64,
    /// From the request's head to the answer's head, for some of the requests.
    pub latencies: Latencies,
    /// Of the same requests, all together, in nanoseconds.
    pub latency_ns: u64,
}

impl Counts {
    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, |mine, others| mine + others);
        self.latencies = self.latencies.plus(&other.latencies);
    }

    /// Takes over what is more in `later`, an account of the same requests: nothing goes back.
    pub fn advance(&mut self, later: &Self) {
        self.combine(later, u64::max);
        if later.latencies.count() > self.latencies.count() {
            self.latencies = later.latencies.clone();
        }
    }

    fn combine(&mut self, other: &Self, with: impl Fn(u64, u64) -> u64) {
        for (mine, others) in self.ends.iter_mut().zip(other.ends) {
            *mine = with(*mine, others);
        }
        self.panics = with(self.panics, other.panics);
        self.cut = with(self.cut, other.cut);
        self.latency_ns = with(self.latency_ns, other.latency_ns);
    }

    /// Clients' requests, however they ended.
    pub fn requests(&self) -> u64 {
        self.ends.iter().sum()
    }

    /// The latencies that were measured, all together.
    pub fn latency(&self) -> Duration {
        Duration::from_nanos(self.latency_ns)
    }
}

/// What one release has answered within one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseCounts {
    /// The release.
    pub version: Version,
    /// Whether it is in the host's memory.
    pub loaded: bool,
    /// All its generations together.
    pub counts: Counts,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(ok: u64, micros: &[u64]) -> Counts {
        let mut classes = vec![0; crate::probation::CLASSES];
        for micros in micros {
            classes[Latencies::class(Duration::from_micros(*micros))] += 1;
        }
        Counts {
            ends: [0, 0, ok, 0, 0, 1],
            panics: 1,
            cut: 2,
            latencies: Latencies::new(classes),
            latency_ns: micros.iter().sum::<u64>() * 1000,
        }
    }

    #[test]
    fn every_status_has_its_place() {
        for (status, end) in
            [(100, "1xx"), (200, "2xx"), (304, "3xx"), (404, "4xx"), (599, "5xx"), (999, "5xx")]
        {
            assert_eq!(ENDS[end_of(status)], end, "{status}");
        }
        assert_eq!(end_of(0), 1, "no status is never the place of no answer");
    }

    #[test]
    fn sums_are_sums_and_nothing_goes_back() {
        let mut sum = counts(3, &[100, 2000]);
        sum.add(&counts(4, &[50]));
        assert_eq!((sum.ends[2], sum.panics, sum.cut, sum.requests()), (7, 2, 4, 9));
        assert_eq!((sum.latencies.count(), sum.latency()), (3, Duration::from_micros(2150)));
        let (earlier, later) = (counts(3, &[100]), counts(5, &[100, 200]));
        let mut seen = later.clone();
        seen.advance(&earlier);
        assert_eq!(seen, later);
        let mut seen = earlier;
        seen.advance(&later);
        assert_eq!(seen, later);
    }
}
