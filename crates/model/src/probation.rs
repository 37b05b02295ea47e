//! Whether a release on probation stays: a pure verdict from what was seen before and after the swap.
//!
//! | what is seen | verdict |
//! | --- | --- |
//! | the host died, or its workers are stuck | fail, at once |
//! | `health_failures` health checks in a row failed | fail, at once |
//! | `panics` handlers panicked, more often than before | fail, at once |
//! | after `requests` answers: 5xx more often than before, by more than `errors` | fail, at once |
//! | after `requests` measured answers: slower than before by `latency_factor` and by `latency` | fail, at once |
//! | the time is over, `requests` answers or more | pass |
//! | the time is over, fewer answers | inconclusive |

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::settings::Thresholds;

/// So many classes of latency: from 1 µs to over a minute, four to each doubling.
pub const CLASSES: usize = 106;

/// Latencies by class: each class is at most a quarter wider than where it begins.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Latencies(Vec<u64>);

impl Latencies {
    /// Counts by class, shortest first; what is missing at the end is 0.
    pub fn new(mut counts: Vec<u64>) -> Self {
        counts.truncate(CLASSES);
        while counts.last() == Some(&0) {
            counts.pop();
        }
        Self(counts)
    }

    /// The class of a latency.
    pub fn class(latency: Duration) -> usize {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        if micros < 4 {
            return micros as usize;
        }
        let doubling = micros.ilog2() as usize;
        let quarter = (micros >> (doubling - 2)) & 3;
        (doubling * 4 - 4 + quarter as usize).min(CLASSES - 1)
    }

    /// Where a class ends: no latency in it is longer, but for the last class.
    fn end(class: usize) -> Duration {
        let micros = if class < 4 {
            class as u64 + 1
        } else {
            let (doubling, quarter) = ((class + 4) / 4, (class + 4) % 4);
            (5 + quarter as u64) << (doubling - 2)
        };
        Duration::from_micros(micros)
    }

    /// How many were measured.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The latency that 95 of 100 requests stay below; `None`: nothing was measured.
    pub fn p95(&self) -> Option<Duration> {
        let count = self.count();
        let rank = (count - count / 20).max(1);
        let mut seen = 0;
        let class = self.0.iter().position(|in_class| {
            seen += in_class;
            seen >= rank
        })?;
        Some(Self::end(class))
    }

    /// How many were shorter than `bound`; exact where it is the end of a class, as all powers of two of a
    /// microsecond are.
    pub fn below(&self, bound: Duration) -> u64 {
        self.0
            .iter()
            .enumerate()
            .filter(|(class, _)| Self::end(*class) <= bound)
            .map(|(_, count)| count)
            .sum()
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let at = |latencies: &Self, class: usize| latencies.0.get(class).copied().unwrap_or(0);
        let classes = 0..self.0.len().max(other.0.len());
        Self::new(classes.map(|class| at(self, class) + at(other, class)).collect())
    }

    fn since(&self, earlier: &Self) -> Self {
        let before = |class: usize| earlier.0.get(class).copied().unwrap_or(0);
        let counts = self.0.iter().enumerate();
        Self::new(counts.map(|(class, count)| count.saturating_sub(before(class))).collect())
    }
}

/// What a generation has answered so far.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sample {
    /// Clients' requests that it answered to the end.
    pub requests: u64,
    /// Of those: 5xx, panics among them, and bodies that broke off.
    pub errors: u64,
    /// Handlers that panicked.
    pub panics: u64,
    /// From the request's head to the answer's head, for some of the requests.
    pub latencies: Latencies,
}

impl Sample {
    /// What was answered since `earlier`, a sample of the same generation.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            errors: self.errors.saturating_sub(earlier.errors),
            panics: self.panics.saturating_sub(earlier.panics),
            latencies: self.latencies.since(&earlier.latencies),
        }
    }

    fn error_ratio(&self) -> f64 {
        ratio(self.errors, self.requests)
    }
}

fn ratio(part: u64, of: u64) -> f64 {
    // Requests that have not ended may have failed already.
    if of == 0 { 0.0 } else { (part as f64 / of as f64).min(1.0) }
}

/// What is known of a release on probation.
#[derive(Debug, Clone, Default)]
pub struct Observed<'a> {
    /// Since the swap.
    pub elapsed: Duration,
    /// What the release before it answered in as much time before the swap.
    pub before: &'a Sample,
    /// What it answered since the swap.
    pub after: &'a Sample,
    /// How the host died, if it did.
    pub died: Option<&'a str>,
    /// Health checks in a row that failed.
    pub unhealthy: u32,
    /// What the last of them said.
    pub ailment: &'a str,
    /// The words of the first panic.
    pub first_panic: Option<&'a str>,
}

impl Default for &Sample {
    fn default() -> Self {
        static NONE: Sample = Sample { requests: 0, errors: 0, panics: 0, latencies: Latencies(Vec::new()) };
        &NONE
    }
}

/// What becomes of a release on probation.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The time is not over, and nothing speaks against it.
    NotYet,
    /// It stays.
    Pass,
    /// It goes.
    Fail(Reason),
    /// The time is over with too little traffic to tell.
    Inconclusive {
        /// Requests that were answered.
        requests: u64,
        /// So many would have been enough.
        enough: u64,
    },
}

/// Why a release goes.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the words say it, the fields are the numbers in them")]
pub enum Reason {
    /// The host died.
    Died { how: String, after: Duration },
    /// Its health, or a probe, failed.
    Unhealthy { times: u32, words: String, after: Duration },
    /// Handlers panicked.
    Panics { count: u64, first: Option<String>, after: Duration },
    /// 5xx more often than before.
    Errors { errors: u64, requests: u64, before: f64, after: Duration },
    /// Slower than before.
    Slow { p95: Duration, before: Duration, after: Duration },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Died { how, after } => write!(f, "the host died of {how} {} after the swap", Secs(*after)),
            Self::Unhealthy { times, words, after } => {
                write!(f, "unhealthy {times} times in a row, {} after the swap: {words}", Secs(*after))
            }
            Self::Panics { count, first, after } => {
                write!(f, "{count} panics in {}", Secs(*after))?;
                first.as_ref().map_or(Ok(()), |first| write!(f, ", first: {first}"))
            }
            Self::Errors { errors, requests, before, after } => write!(
                f,
                "{errors} of {requests} requests answered 5xx in {}, before the swap {:.1} %",
                Secs(*after),
                before * 100.0
            ),
            Self::Slow { p95, before, after } => write!(
                f,
                "95 % of the requests answered within {} in {}, before the swap within {}",
                Millis(*p95),
                Secs(*after),
                Millis(*before)
            ),
        }
    }
}

/// A time in seconds, to a tenth; a shorter one in milliseconds.
struct Secs(Duration);

impl fmt::Display for Secs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0 => write!(f, "{} ms", self.0.as_millis()),
            _ => write!(f, "{:.1} s", self.0.as_secs_f64()),
        }
    }
}

/// A time in milliseconds, to a tenth.
struct Millis(Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ms", self.0.as_secs_f64() * 1e3)
    }
}

/// Judges a release that is on probation for `probation` in all.
pub fn judge(seen: &Observed<'_>, thresholds: &Thresholds, probation: Duration) -> Verdict {
    if let Some(reason) = fault(seen, thresholds) {
        return Verdict::Fail(reason);
    }
    let (requests, enough) = (seen.after.requests, thresholds.requests);
    if seen.elapsed < probation {
        Verdict::NotYet
    } else if requests >= enough {
        Verdict::Pass
    } else {
        Verdict::Inconclusive { requests, enough }
    }
}

/// What speaks against the release, the gravest first.
fn fault(seen: &Observed<'_>, thresholds: &Thresholds) -> Option<Reason> {
    let (before, now, after) = (seen.before, seen.after, seen.elapsed);
    if let Some(how) = seen.died {
        return Some(Reason::Died { how: how.into(), after });
    }
    if thresholds.health_failures > 0 && seen.unhealthy >= thresholds.health_failures {
        return Some(Reason::Unhealthy { times: seen.unhealthy, words: seen.ailment.into(), after });
    }
    // A fault that both releases have is no reason to go back.
    let more_often = ratio(now.panics, now.requests.max(1)) > ratio(before.panics, before.requests);
    if thresholds.panics > 0 && now.panics >= thresholds.panics && more_often {
        let first = seen.first_panic.map(str::to_owned);
        return Some(Reason::Panics { count: now.panics, first, after });
    }
    let (errors, requests) = (now.errors, now.requests);
    if requests >= thresholds.requests && now.error_ratio() > before.error_ratio() + thresholds.errors {
        return Some(Reason::Errors { errors, requests, before: before.error_ratio(), after });
    }
    slower(seen, thresholds)
}

fn slower(seen: &Observed<'_>, thresholds: &Thresholds) -> Option<Reason> {
    let enough = |sample: &Sample| sample.latencies.count() >= thresholds.requests.max(1);
    if thresholds.latency_factor <= 0.0 || !enough(seen.before) || !enough(seen.after) {
        return None;
    }
    let (p95, before) = (seen.after.latencies.p95()?, seen.before.latencies.p95()?);
    let by_factor = p95.as_secs_f64() > before.as_secs_f64() * thresholds.latency_factor;
    let by_time = p95 > before + thresholds.latency;
    (by_factor && by_time).then_some(Reason::Slow { p95, before, after: seen.elapsed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn sample(requests: u64, errors: u64, panics: u64) -> Sample {
        Sample { requests, errors, panics, latencies: Latencies::default() }
    }

    fn all_at(latency: Duration, count: u64) -> Latencies {
        let mut counts = vec![0; CLASSES];
        counts[Latencies::class(latency)] = count;
        Latencies::new(counts)
    }

    fn verdict(before: &Sample, after: &Sample, elapsed: Duration) -> Verdict {
        let seen = Observed { elapsed, before, after, ..Observed::default() };
        judge(&seen, &Thresholds::default(), MINUTE)
    }

    fn words(verdict: Verdict) -> String {
        match verdict {
            Verdict::Fail(reason) => reason.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn the_time_and_the_traffic_decide_between_the_verdicts() {
        let (before, second) = (sample(1000, 0, 0), Duration::from_secs(1));
        assert_eq!(verdict(&before, &sample(500, 0, 0), second), Verdict::NotYet);
        assert_eq!(verdict(&before, &sample(500, 0, 0), MINUTE), Verdict::Pass);
        let too_few = Verdict::Inconclusive { requests: 19, enough: 20 };
        assert_eq!(verdict(&before, &sample(19, 0, 0), MINUTE), too_few);
    }

    #[test]
    fn one_error_in_two_does_not_count_and_one_in_ten_of_a_hundred_does() {
        let before = sample(1000, 10, 0);
        let elapsed = Duration::from_millis(4100);
        assert_eq!(verdict(&before, &sample(2, 1, 0), elapsed), Verdict::NotYet);
        assert_eq!(verdict(&before, &sample(20, 1, 0), elapsed), Verdict::NotYet, "a single one of 20");
        assert_eq!(
            words(verdict(&before, &sample(100, 10, 0), elapsed)),
            "10 of 100 requests answered 5xx in 4.1 s, before the swap 1.0 %"
        );
        let as_bad = sample(1000, 100, 0);
        assert_eq!(verdict(&as_bad, &sample(100, 12, 0), elapsed), Verdict::NotYet, "so it was before");
    }

    #[test]
    fn panics_count_at_once_unless_they_were_as_frequent_before() {
        let after = sample(30, 3, 3);
        let seen = Observed {
            elapsed: Duration::from_millis(4100),
            after: &after,
            first_panic: Some("index out of bounds"),
            ..Observed::default()
        };
        let judged = judge(&seen, &Thresholds::default(), MINUTE);
        assert_eq!(words(judged), "3 panics in 4.1 s, first: index out of bounds");
        assert_eq!(verdict(&sample(100, 10, 10), &after, Duration::ZERO), Verdict::NotYet);
        assert_eq!(verdict(&sample(0, 0, 0), &sample(10, 0, 2), Duration::ZERO), Verdict::NotYet);
    }

    #[test]
    fn a_dead_host_and_failing_health_need_no_traffic() {
        let seen = Observed {
            elapsed: Duration::from_millis(2300),
            died: Some("signal 11 SIGSEGV"),
            ..Observed::default()
        };
        let judged = judge(&seen, &Thresholds::default(), MINUTE);
        assert_eq!(words(judged), "the host died of signal 11 SIGSEGV 2.3 s after the swap");
        let seen = Observed { unhealthy: 2, ailment: "no database", ..Observed::default() };
        let judged = judge(&seen, &Thresholds::default(), MINUTE);
        assert_eq!(words(judged), "unhealthy 2 times in a row, 0 ms after the swap: no database");
    }

    #[test]
    fn slower_counts_by_factor_and_by_time_together() {
        let at = |ms| Sample { latencies: all_at(Duration::from_millis(ms), 100), ..sample(800, 0, 0) };
        let elapsed = Duration::from_secs(5);
        assert_eq!(verdict(&at(1), &at(50), elapsed), Verdict::NotYet, "50 times, and nobody notices");
        assert_eq!(verdict(&at(1000), &at(1500), elapsed), Verdict::NotYet, "half a second of one more");
        assert!(words(verdict(&at(10), &at(400), elapsed)).contains("before the swap within"));
        let few = Sample { latencies: all_at(Duration::from_secs(1), 5), ..sample(40, 0, 0) };
        assert_eq!(verdict(&at(10), &few, elapsed), Verdict::NotYet, "too few were measured");
    }

    proptest! {
        #[test]
        fn a_class_holds_what_is_put_into_it(micros in 0u64..60_000_000) {
            let latency = Duration::from_micros(micros);
            let class = Latencies::class(latency);
            prop_assert!(latency < Latencies::end(class));
            prop_assert!(class == 0 || latency >= Latencies::end(class - 1));
            let p95 = all_at(latency, 1).p95().unwrap();
            prop_assert!(p95.as_secs_f64() <= latency.as_secs_f64() * 1.25 + 1e-6);
        }

        #[test]
        fn a_release_that_does_as_before_never_fails(
            requests in 0u64..100_000, per_mille in 0u64..1000, seconds in 0u64..120, ms in 0u64..5000,
        ) {
            let latencies = all_at(Duration::from_millis(ms), requests);
            let errors = requests * per_mille / 1000;
            let same = Sample { requests, errors, panics: errors / 2, latencies };
            let judged = verdict(&same, &same, Duration::from_secs(seconds));
            prop_assert!(!matches!(judged, Verdict::Fail(_)), "{judged:?}");
        }

        #[test]
        fn more_errors_never_make_a_verdict_better(
            requests in 0u64..10_000, errors in 0u64..10_000, more in 0u64..1000, seconds in 0u64..120,
        ) {
            let elapsed = Duration::from_secs(seconds);
            let before = sample(1000, 5, 0);
            let errors = errors.min(requests);
            let fails = |errors| matches!(verdict(&before, &sample(requests, errors, 0), elapsed), Verdict::Fail(_));
            prop_assert!(!fails(errors) || fails(errors + more));
        }

        #[test]
        fn when_the_time_is_over_there_is_a_verdict(
            requests in 0u64..1000, errors in 0u64..1000, panics in 0u64..10,
        ) {
            let judged = verdict(&sample(500, 3, 1), &sample(requests, errors, panics), MINUTE);
            prop_assert!(judged != Verdict::NotYet);
        }
    }
}
