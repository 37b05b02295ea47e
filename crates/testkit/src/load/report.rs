//! What clients have seen, counted.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

/// Why a request has no complete answer of 2xx.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Failure {
    /// Nobody listens.
    Refused,
    /// The connection was not there in time.
    ConnectTimeout,
    /// The connection was reset.
    Reset,
    /// The connection ended before the answer began.
    EofBeforeResponse,
    /// The connection ended within the answer.
    EofInResponse,
    /// The answer was not complete in time.
    Timeout,
    /// A complete answer with this status.
    Status(u16),
    /// What came is no HTTP.
    BadResponse,
    /// More came than the answer says that it has.
    ExtraBytes,
    /// The kernel said something else.
    Other(ErrorKind),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::ConnectTimeout => f.write_str("connect_timeout"),
            Self::Reset => f.write_str("reset"),
            Self::EofBeforeResponse => f.write_str("eof_before_response"),
            Self::EofInResponse => f.write_str("eof_in_response"),
            Self::Timeout => f.write_str("timeout"),
            Self::Status(status) => write!(f, "status_{status}"),
            Self::BadResponse => f.write_str("bad_response"),
            Self::ExtraBytes => f.write_str("extra_bytes"),
            Self::Other(kind) => write!(f, "{kind}"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::ConnectionRefused => Self::Refused,
            ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => Self::Reset,
            ErrorKind::TimedOut => Self::Timeout,
            kind => Self::Other(kind),
        }
    }
}

/// How the server ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Closed {
    /// By an answer with `Connection: close`: harmless to every client.
    Announced,
    /// Between requests: harmless to clients that look before they send.
    Idle,
    /// With a request outstanding, which failed of it.
    InRequest,
}

/// What the clients have seen.
#[derive(Debug, Clone)]
pub struct Report {
    /// Complete answers with a status of 2xx.
    pub answers: u64,
    /// Requests without one, by reason.
    pub failed: BTreeMap<Failure, u64>,
    /// Connections that were opened.
    pub opened: u64,
    /// Connections that the server ended.
    pub closed: BTreeMap<Closed, u64>,
    /// The longest time without an answer on any connection, beginning and end included.
    pub longest_gap: Duration,
    /// When that began, from the start of the load.
    pub longest_gap_at: Duration,
    /// Time from request to answer, in nanoseconds; a connection that had to be opened first is part of it.
    pub latency: Histogram<u64>,
    /// Paced load: how late requests were sent, in nanoseconds. So long was this program itself kept from running;
    /// latencies and gaps of that size say nothing of the server.
    pub wake_lag: Histogram<u64>,
    /// Paced load: requests that were not sent because their connection waited for an answer.
    pub skipped: u64,
    /// How often each version answered.
    pub versions: BTreeMap<String, u64>,
    /// How long the load ran.
    pub elapsed: Duration,
}

impl Report {
    /// Requests: answered and failed.
    pub fn requests(&self) -> u64 {
        self.answers + self.failures()
    }

    /// Requests without a complete answer.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// The failures by kind, in one line; `none` where there are none.
    pub fn failures_by_kind(&self) -> String {
        let words: Vec<_> = self.failed.iter().map(|(failure, count)| format!("{count} {failure}")).collect();
        if words.is_empty() { "none".into() } else { words.join(", ") }
    }

    /// Connections that the server ended, in whatever way.
    pub fn closed_connections(&self) -> u64 {
        self.closed.values().sum()
    }

    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.answers as f64 / self.elapsed.as_secs_f64()
    }

    /// Adds what was seen in `later`, a lap of the same load.
    pub fn add(&mut self, later: &Self) {
        self.answers += later.answers;
        self.opened += later.opened;
        self.skipped += later.skipped;
        add_counts(&mut self.failed, &later.failed);
        add_counts(&mut self.closed, &later.closed);
        add_counts(&mut self.versions, &later.versions);
        if later.longest_gap > self.longest_gap {
            (self.longest_gap, self.longest_gap_at) =
                (later.longest_gap, self.elapsed + later.longest_gap_at);
        }
        // Histograms of the same bounds always fit.
        self.latency.add(&later.latency).unwrap();
        self.wake_lag.add(&later.wake_lag).unwrap();
        self.elapsed += later.elapsed;
    }

    /// The latency below which a share `quantile` of the answers came.
    pub fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_nanos(self.latency.value_at_quantile(quantile))
    }
}

/// A report in the making.
#[derive(Debug)]
pub(super) struct Tally {
    report: Report,
    begun: Instant,
    last_answer: Instant,
}

impl Tally {
    pub(super) fn new(begun: Instant) -> Self {
        // From a microsecond to a minute, what is beyond counts as that; to three digits.
        let histogram = || Histogram::new_with_bounds(1_000, 60_000_000_000, 3).unwrap();
        let report = Report {
            answers: 0,
            failed: BTreeMap::new(),
            opened: 0,
            closed: BTreeMap::new(),
            longest_gap: Duration::ZERO,
            longest_gap_at: Duration::ZERO,
            latency: histogram(),
            wake_lag: histogram(),
            skipped: 0,
            versions: BTreeMap::new(),
            elapsed: Duration::ZERO,
        };
        Self { report, begun, last_answer: begun }
    }

    /// The report as of `now`; the time since the last answer counts as a gap.
    pub(super) fn report(&mut self, now: Instant) -> Report {
        self.end_gap(now);
        self.report.elapsed = now - self.begun;
        self.report.clone()
    }

    /// As [`Tally::report`], and everything begins anew but the gap that is open.
    pub(super) fn lap(&mut self, now: Instant) -> Report {
        let report = self.report(now);
        *self = Self { last_answer: self.last_answer, ..Self::new(now) };
        report
    }

    pub(super) fn answers(&self) -> u64 {
        self.report.answers
    }

    pub(super) fn answer(&mut self, sent: Instant, now: Instant) {
        let latency = now - sent;
        self.report.answers += 1;
        self.report.latency.saturating_record(nanos(latency));
        self.end_gap(now);
        self.last_answer = now;
    }

    fn end_gap(&mut self, now: Instant) {
        let gap = now - self.last_answer;
        if gap > self.report.longest_gap {
            (self.report.longest_gap, self.report.longest_gap_at) = (gap, self.last_answer - self.begun);
        }
    }

    pub(super) fn version(&mut self, body: &[u8]) {
        let body = String::from_utf8_lossy(body);
        let version = version_in(&body);
        // Nearly always one that is known: no allocation.
        match self.report.versions.get_mut(&*version) {
            Some(count) => *count += 1,
            None => drop(self.report.versions.insert(version.into_owned(), 1)),
        }
    }

    pub(super) fn failed(&mut self, failure: Failure) {
        *self.report.failed.entry(failure).or_default() += 1;
    }

    pub(super) fn opened(&mut self) {
        self.report.opened += 1;
    }

    pub(super) fn closed(&mut self, how: Closed) {
        *self.report.closed.entry(how).or_default() += 1;
    }

    pub(super) fn woke(&mut self, lag: Duration) {
        self.report.wake_lag.saturating_record(nanos(lag));
    }

    pub(super) fn skipped(&mut self) {
        self.report.skipped += 1;
    }
}

fn add_counts<K: Ord + Clone>(to: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, count) in from {
        *to.entry(key.clone()).or_default() += count;
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The version that a body tells: plain text, or JSON's `version`.
fn version_in(body: &str) -> Cow<'_, str> {
    if !body.starts_with('{') {
        return Cow::Borrowed(body.trim());
    }
    let json = serde_json::from_str::<serde_json::Value>(body).unwrap_or_default();
    Cow::Owned(json["version"].as_str().unwrap_or("?").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_lasts_from_answer_to_answer_and_the_ends_count() {
        let begun = Instant::now();
        let at = |ms| begun + Duration::from_millis(ms);
        let mut tally = Tally::new(begun);
        tally.answer(at(0), at(5));
        let report = tally.report(at(5));
        assert_eq!(report.longest_gap, Duration::from_millis(5));
        assert_eq!(report.quantile(0.5).as_micros() / 10, 500, "latency is kept to three digits");
        tally.answer(at(5), at(40));
        tally.answer(at(40), at(41));
        let report = tally.report(at(50));
        assert_eq!((report.longest_gap, report.longest_gap_at), (at(35) - begun, at(5) - begun));
        assert_eq!(tally.report(at(100)).longest_gap, Duration::from_millis(59));
    }

    #[test]
    fn a_version_is_text_or_json() {
        assert_eq!(version_in("2026.1120.192733"), "2026.1120.192733");
        assert_eq!(version_in("1.0.0\n"), "1.0.0");
        assert_eq!(version_in(r#"{"status":"permanent","version":"1.0.0"}"#), "1.0.0");
        assert_eq!(version_in(r#"{"question":"which?"}"#), "?");
    }

    #[test]
    fn failures_have_the_names_that_reports_are_read_for() {
        let mut tally = Tally::new(Instant::now());
        for failure in [Failure::Status(503), Failure::EofBeforeResponse, Failure::Status(503)] {
            tally.failed(failure);
        }
        let report = tally.report(Instant::now());
        assert_eq!(report.failures_by_kind(), "1 eof_before_response, 2 status_503");
        assert_eq!((report.failures(), report.requests()), (3, 3));
    }
}
