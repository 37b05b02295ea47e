//! What is counted over the lives of several hosts: each of them begins at nothing, and what it said last is added up.
//!
//! A host is asked every second and whenever someone looks, and one that stops has a last word. So nothing that is
//! counted here ever goes back, and what a host that is killed answered in its last second may be missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relmgr_model::Version;
use relmgr_model::control::{Kind, Outcome};
use relmgr_model::counts::{Counts, KEPT, ReleaseCounts};
use relmgr_model::host::{Answer, Command};
use relmgr_model::sessions::SessionTotals;

use super::super::host_process::HostProcess;
use super::super::lock;
use super::super::node::Node;

/// How often a host is asked what it has answered.
const EVERY: Duration = Duration::from_secs(1);

/// The upper bounds of the operations' durations, in seconds: from a swap of what is loaded to a slow download with an
/// hour's probation.
pub const BOUNDS: [f64; 14] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0];

/// What the supervisor counts for whoever watches.
#[derive(Debug, Default)]
pub struct Metrics {
    answers: Mutex<Answers>,
    sessions: Mutex<Sessions>,
    operations: Mutex<Operations>,
}

/// Operations that ended.
#[derive(Debug, Clone, Default)]
pub struct Operations {
    /// By kind and outcome.
    pub ended: BTreeMap<(&'static str, &'static str), u64>,
    /// By kind.
    pub durations: BTreeMap<&'static str, Durations>,
}

/// How long operations took.
#[derive(Debug, Clone, Default)]
pub struct Durations {
    /// How many took at most as long as the bound of the same place in [`BOUNDS`], and longer than the one before.
    pub within: [u64; BOUNDS.len()],
    /// How many there were.
    pub count: u64,
    /// All together, in seconds.
    pub sum: f64,
}

impl Operations {
    fn add(&mut self, kind: Kind, outcome: Outcome, seconds: f64) {
        *self.ended.entry((kind.name(), outcome.name())).or_default() += 1;
        let durations = self.durations.entry(kind.name()).or_default();
        if let Some(bound) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            durations.within[bound] += 1;
        }
        durations.count += 1;
        durations.sum += seconds;
    }
}

/// What was answered, by release.
#[derive(Debug, Default)]
struct Answers {
    /// In hosts that have ended.
    before: BTreeMap<Version, Counts>,
    /// In each host that lives, by its process.
    hosts: BTreeMap<u32, BTreeMap<Version, Counts>>,
    /// The releases that were loaded when they were last heard of.
    loaded: BTreeSet<Version>,
}

impl Answers {
    fn note(&mut self, pid: u32, releases: &[ReleaseCounts]) {
        // An answer that comes after its host's end has been counted.
        let Some(known) = self.hosts.get_mut(&pid) else { return };
        for ReleaseCounts { version, loaded, counts } in releases {
            known.entry(version.clone()).or_default().advance(counts);
            if *loaded {
                self.loaded.insert(version.clone())
            } else {
                self.loaded.remove(version)
            };
        }
        self.forget();
    }

    fn end(&mut self, pid: u32) {
        for (version, counts) in self.hosts.remove(&pid).unwrap_or_default() {
            self.before.entry(version).or_default().add(&counts);
        }
    }

    fn totals(&self) -> BTreeMap<Version, Counts> {
        let mut totals = self.before.clone();
        for (version, counts) in self.hosts.values().flatten() {
            totals.entry(version.clone()).or_default().add(counts);
        }
        totals
    }

    /// Forgets the oldest of the releases that are not loaded, as hosts do.
    fn forget(&mut self) {
        let known: BTreeSet<_> =
            self.before.keys().chain(self.hosts.values().flat_map(BTreeMap::keys)).collect();
        let gone: Vec<_> =
            known.into_iter().filter(|version| !self.loaded.contains(version)).cloned().collect();
        for version in &gone[..gone.len().saturating_sub(KEPT)] {
            self.before.remove(version);
            for host in self.hosts.values_mut() {
                host.remove(version);
            }
        }
    }
}

/// What became of sessions.
#[derive(Debug, Default)]
struct Sessions {
    /// In hosts that have ended.
    before: SessionTotals,
    /// In each host that lives, by its process.
    hosts: BTreeMap<u32, SessionTotals>,
}

impl Sessions {
    fn note(&mut self, pid: u32, totals: &SessionTotals) {
        if let Some(known) = self.hosts.get_mut(&pid) {
            known.advance(totals);
        }
    }

    fn end(&mut self, pid: u32) {
        if let Some(totals) = self.hosts.remove(&pid) {
            self.before.add(&totals);
        }
    }
}

impl Metrics {
    /// What became of sessions since the supervisor started.
    pub fn sessions(&self) -> SessionTotals {
        let known = lock(&self.sessions);
        known.hosts.values().fold(known.before.clone(), |mut sum, totals| {
            sum.add(totals);
            sum
        })
    }

    /// Counts an operation that ended after `ms` milliseconds.
    pub fn operation(&self, kind: Kind, outcome: Outcome, ms: f64) {
        lock(&self.operations).add(kind, outcome, ms / 1e3);
    }

    /// The operations that ended since the supervisor started.
    pub fn operations(&self) -> Operations {
        lock(&self.operations).clone()
    }

    /// What hosts that have ended had answered: those that live say themselves what they have.
    pub fn answered_before(&self) -> Vec<ReleaseCounts> {
        let answers = lock(&self.answers);
        let release = |(version, counts): (&Version, &Counts)| ReleaseCounts {
            version: version.clone(),
            loaded: answers.loaded.contains(version),
            counts: counts.clone(),
        };
        answers.before.iter().map(release).collect()
    }

    /// Goes on from what another image of the supervisor had counted.
    pub fn go_on_from(&self, before: &[ReleaseCounts]) {
        let mut answers = lock(&self.answers);
        for ReleaseCounts { version, loaded, counts } in before {
            answers.before.insert(version.clone(), counts.clone());
            if *loaded {
                answers.loaded.insert(version.clone());
            }
        }
    }

    /// What was answered since the supervisor started.
    pub fn answers(&self) -> BTreeMap<Version, Counts> {
        lock(&self.answers).totals()
    }
}

/// Asks `host` for as long as it lives what it has answered; where nobody watches, not at all.
pub fn count(node: &Arc<Node>, host: Arc<HostProcess>) {
    if node.admin.is_none() {
        return;
    }
    lock(&node.metrics.answers).hosts.insert(host.pid, BTreeMap::new());
    lock(&node.metrics.sessions).hosts.insert(host.pid, SessionTotals::default());
    let node = node.clone();
    tokio::spawn(async move {
        while host.ended().is_none() {
            ask(&node, &host).await;
            tokio::select! {
                _ = host.wait() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
        }
        let mut answers = lock(&node.metrics.answers);
        let (releases, sessions) = host.farewell().unwrap_or_default();
        answers.note(host.pid, &releases);
        answers.end(host.pid);
        drop(answers);
        let mut known = lock(&node.metrics.sessions);
        known.note(host.pid, &sessions.totals);
        known.end(host.pid);
    });
}

/// Asks `host` once.
pub async fn ask(node: &Node, host: &HostProcess) {
    if let Ok(Answer::Counts { releases, sessions }) = host.call(Command::Counts).await {
        lock(&node.metrics.answers).note(host.pid, &releases);
        lock(&node.metrics.sessions).note(host.pid, &sessions.totals);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(version: &str, loaded: bool, ok: u64) -> ReleaseCounts {
        let counts = Counts { ends: [0, 0, ok, 0, 0, 0], ..Counts::default() };
        ReleaseCounts { version: version.parse().unwrap(), loaded, counts }
    }

    fn total(answers: &Answers, version: &str) -> u64 {
        answers.totals().get(&version.parse().unwrap()).map_or(0, Counts::requests)
    }

    #[test]
    fn counters_go_on_over_hosts_and_never_back() {
        let mut answers = Answers::default();
        answers.hosts.insert(1, BTreeMap::new());
        answers.note(1, &[release("1.0.0", true, 10)]);
        // Of two that asked at once the first may be told last.
        answers.note(1, &[release("1.0.0", true, 7)]);
        assert_eq!(total(&answers, "1.0.0"), 10);
        // The next host begins while the first one still ends.
        answers.hosts.insert(2, BTreeMap::new());
        answers.note(2, &[release("1.0.0", true, 5)]);
        assert_eq!(total(&answers, "1.0.0"), 15);
        answers.note(1, &[release("1.0.0", true, 12)]);
        answers.end(1);
        answers.note(1, &[release("1.0.0", true, 12)]);
        assert_eq!(total(&answers, "1.0.0"), 17, "what comes after the end is not counted twice");
    }

    #[test]
    fn only_the_newest_of_those_that_are_gone_are_remembered() {
        let mut answers = Answers::default();
        answers.hosts.insert(1, BTreeMap::new());
        answers.note(1, &[release("1.0.0", true, 1)]);
        for patch in 1..=100 {
            answers.note(1, &[release(&format!("1.0.{patch}"), false, 1)]);
        }
        let totals = answers.totals();
        assert_eq!(totals.len(), KEPT + 1);
        assert!(totals.contains_key(&"1.0.0".parse().unwrap()), "it is loaded");
        assert!(!totals.contains_key(&"1.0.84".parse().unwrap()));
    }

    #[test]
    fn an_operation_is_counted_in_its_bound() {
        let mut operations = Operations::default();
        for seconds in [0.0, 0.01, 0.02, 7200.0] {
            operations.add(Kind::Upgrade, Outcome::Done, seconds);
        }
        let durations = &operations.durations["upgrade"];
        assert_eq!((durations.within[0], durations.within[1], durations.count), (2, 1, 4));
        assert_eq!(operations.ended[&("upgrade", "done")], 4);
    }
}
