//! How long to wait for the next check.
//!
//! Everything here is a length of time and none a moment: whoever waits does so by a clock that only goes forward, so
//! that a clock that is set, in whichever direction, moves no check.
//!
//! Thousands of nodes that start in the same second are to ask evenly spread. So the first check comes anywhere within
//! the first interval, and each later one an interval after the last, give or take some jitter, by which also those
//! part that were brought together by something else.

use std::time::Duration;

use crate::settings::Pull;

/// The first wait after a check that got no answer; twice as long after each further one.
const BACKOFF: Duration = Duration::from_secs(1);

/// A node that serves nothing waits no longer than this for a repository that is away.
const BACKOFF_EMPTY: Duration = Duration::from_secs(30);

/// A node that only asks at its boot waits no longer than this for a repository that is away.
const BACKOFF_AT_BOOT: Duration = Duration::from_secs(5 * 60);

/// An upgrade that fails for the same reason every few minutes tells nobody more than once an hour.
const BACKOFF_FAILED: Duration = Duration::from_secs(60 * 60);

/// Another operation is under way: most of them are over soon, and a probation's end is waited for in such steps.
const BUSY: Duration = Duration::from_secs(10);

/// Nodes that serve and boot in the same second ask within this time where nothing says otherwise: 5,000 of them are 83
/// a second, and what is new to a fleet may come a minute later.
const BOOT: Duration = Duration::from_secs(60);

/// The same for nodes that serve nothing, whose clients are waiting. A second is what the boots of their machines differ
/// by all the same; it parts those that were restarted by one command. A repository that is still asked too often says
/// so, and then they part by their backoff.
const BOOT_EMPTY: Duration = Duration::from_secs(1);

/// What a node has when its supervisor starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Nothing that serves.
    Empty,
    /// A release that serves.
    Serving,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The node runs what it is to run, or the channel's word is not for it: nothing is gained by asking again soon.
    Settled,
    /// The channel's release waits.
    Held {
        /// Until it may go; `None`: that is for people to say.
        opens_in: Option<Duration>,
        /// How long it may go then; `None`: for ever.
        open_for: Option<Duration>,
    },
    /// The repository did not answer.
    Unavailable,
    /// The upgrade failed, and the release is not to blame.
    Failed,
    /// Another operation was under way.
    Busy,
}

/// When a node asks its channel.
#[derive(Debug, Clone)]
pub struct Schedule {
    at_boot: bool,
    interval: Option<Duration>,
    jitter: Duration,
    /// In which time nodes ask that serve and boot together.
    boot: Duration,
    dice: Dice,
    failures: u32,
}

impl Schedule {
    /// A node's schedule. `seed` makes it another one than its neighbours'.
    pub fn new(pull: &Pull, seed: u64) -> Self {
        let interval = Some(pull.interval).filter(|interval| !interval.is_zero());
        let jitter = pull.jitter();
        // No wider than the interval in which they ask anyway.
        let boot =
            pull.jitter.unwrap_or_else(|| interval.map_or(BOOT, |interval| jitter.max(interval.min(BOOT))));
        Self { at_boot: pull.at_boot, interval, jitter, boot, dice: Dice(seed), failures: 0 }
    }

    /// How long to wait for the first check; `None`: none comes by itself.
    pub fn first(&mut self, start: Start) -> Option<Duration> {
        match (start, self.at_boot) {
            (Start::Empty, true) => Some(self.dice.below(self.boot.min(BOOT_EMPTY))),
            // It serves: what is new can wait for the others that boot in the same second.
            (Start::Serving, true) => Some(self.dice.below(self.boot)),
            (_, false) => self.interval.map(|interval| self.rest_of(interval)),
        }
    }

    /// How long to wait after a check that ended so; `None`: no other one comes by itself. `serves`: whether the node
    /// has a release that serves.
    pub fn after(&mut self, ended: Ended, serves: bool) -> Option<Duration> {
        // What the boot was to bring is not there: that is tried until it is, whatever kept it.
        let boots = self.at_boot && !serves;
        self.failures = match ended {
            Ended::Unavailable | Ended::Failed => self.failures.saturating_add(1),
            // Says nothing of what failed before.
            Ended::Busy => self.failures,
            Ended::Settled | Ended::Held { .. } if boots => self.failures.saturating_add(1),
            Ended::Settled | Ended::Held { .. } => 0,
        };
        let interval = self.interval;
        match ended {
            Ended::Busy => {
                Some(self.dice.between(BUSY / 10, interval.map_or(BUSY, |interval| interval.min(BUSY))))
            }
            // A failed operation is told in the history and to whoever listens: not as often.
            Ended::Failed if boots => Some(self.backoff(BACKOFF_AT_BOOT)),
            _ if boots => Some(self.backoff(BACKOFF_EMPTY)),
            Ended::Settled => interval.map(|interval| self.around(interval)),
            Ended::Held { opens_in, open_for } => self.held(opens_in, open_for),
            Ended::Unavailable => Some(self.backoff(interval.unwrap_or(BACKOFF_AT_BOOT))),
            Ended::Failed => Some(self.backoff(interval.unwrap_or(BACKOFF_FAILED).max(BACKOFF_FAILED))),
        }
    }

    /// The interval, give or take half of the jitter.
    fn around(&mut self, interval: Duration) -> Duration {
        interval.saturating_sub(self.jitter / 2) + self.dice.below(self.jitter)
    }

    /// What is left of a wait in the middle of which one comes: as if the node had been asking for ever. A moment of the
    /// interval would be near it, and make the second round meet the first.
    fn rest_of(&mut self, interval: Duration) -> Duration {
        loop {
            let passed = self.dice.below(interval + self.jitter / 2);
            // No wait is shorter than half of the interval, so this ends soon.
            if passed < self.around(interval) {
                return passed;
            }
        }
    }

    /// As always, but no later than what it waits for; not all in the second in which a window opens.
    fn held(&mut self, opens_in: Option<Duration>, open_for: Option<Duration>) -> Option<Duration> {
        let interval = self.interval?;
        let usual = self.around(interval);
        let spread = open_for.map_or(interval, |open_for| open_for.min(interval));
        let opening = opens_in.map(|opens_in| opens_in + self.dice.below(spread));
        Some(opening.map_or(usual, |opening| opening.min(usual)))
    }

    /// Twice as long after each failure, up to `cap`, and between a half of it and the whole: those that failed
    /// together do not come back together.
    fn backoff(&mut self, cap: Duration) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(20);
        let whole = BACKOFF.saturating_mul(1 << doublings).min(cap);
        self.dice.between(whole / 2, whole)
    }
}

/// Random numbers that are the same for the same seed (SplitMix64).
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From nothing to below `limit`, each as likely.
    fn below(&mut self, limit: Duration) -> Duration {
        let share = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        limit.mul_f64(share)
    }

    fn between(&mut self, low: Duration, high: Duration) -> Duration {
        low + self.below(high.saturating_sub(low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pull(interval: u64, at_boot: bool) -> Pull {
        Pull { interval: Duration::from_secs(interval), at_boot, ..Pull::default() }
    }

    /// How many of the checks come in each second, from `from` to before `to`.
    fn arrivals(checks: &[f64], from: usize, to: usize) -> Vec<u32> {
        let mut seconds = vec![0; to - from];
        for check in checks {
            if let Some(second) = (*check as usize).checked_sub(from).and_then(|at| seconds.get_mut(at)) {
                *second += 1;
            }
        }
        seconds
    }

    /// The moments, in seconds, at which `nodes` that start at 0 ask until `until`, each check ending as `ended` says.
    fn fleet(pull: &Pull, nodes: u64, seed: u64, until: f64, ended: impl Fn(f64) -> Ended) -> Vec<f64> {
        fleet_of(Start::Serving, pull, nodes, seed, until, ended)
    }

    /// The same for nodes that have `start`; one that has nothing serves after its first answer.
    fn fleet_of(
        start: Start,
        pull: &Pull,
        nodes: u64,
        seed: u64,
        until: f64,
        ended: impl Fn(f64) -> Ended,
    ) -> Vec<f64> {
        let mut checks = vec![];
        for node in 0..nodes {
            let mut schedule = Schedule::new(pull, seed.wrapping_add(node));
            let mut serves = start == Start::Serving;
            let mut at = schedule.first(start).map_or(f64::MAX, |wait| wait.as_secs_f64());
            while at < until {
                checks.push(at);
                let ended = ended(at);
                serves |= ended == Ended::Settled;
                at += schedule.after(ended, serves).map_or(f64::MAX, |wait| wait.as_secs_f64());
            }
        }
        checks
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        /// 5,000 nodes get their power back in the same second. In a minute's interval 83 of them ask in a second on
        /// average; by chance alone no second of ten minutes sees 140 (6 standard deviations).
        #[test]
        fn nodes_that_start_together_do_not_arrive_together(seed in any::<u64>()) {
            let checks = fleet(&pull(60, false), 5000, seed, 600.0, |_| Ended::Settled);
            let seconds = arrivals(&checks, 0, 600);
            let most = seconds.iter().max().copied().unwrap();
            prop_assert!(most < 140, "{most} in one second");
            // And they go on asking as often as they are told to.
            let in_the_last_minutes: u32 = seconds[300..].iter().sum();
            prop_assert!((24_000..26_000).contains(&in_the_last_minutes), "{in_the_last_minutes}");
        }

        /// The repository is away for ten minutes: what comes in the seconds after it is back is no more than twice
        /// what comes always.
        #[test]
        fn nodes_do_not_arrive_together_when_the_repository_is_back(seed in any::<u64>()) {
            let away = |at: f64| if (300.0..900.0).contains(&at) { Ended::Unavailable } else { Ended::Settled };
            let checks = fleet(&pull(60, false), 5000, seed, 1200.0, away);
            let most = arrivals(&checks, 890, 1200).into_iter().max().unwrap();
            prop_assert!(most < 240, "{most} in one second");
        }

        /// Nodes that ask at their boot and never again (the interval is 0) boot in the same second, with what they
        /// served before: they are spread like those that ask in an interval, and each asks once.
        #[test]
        fn nodes_that_boot_together_do_not_arrive_together(
            seed in any::<u64>(), interval in prop_oneof![Just(0), 30_u64..300]
        ) {
            let checks = fleet(&pull(interval, true), 5000, seed, 900.0, |_| Ended::Settled);
            let average = 5000 / if interval == 0 { 60 } else { interval.min(60) } as u32;
            let most = arrivals(&checks, 0, 900).into_iter().max().unwrap();
            prop_assert!(most < 2 * average + 60, "{most} in one second, {average} on average");
            prop_assert!(interval > 0 || checks.len() == 5000, "{} checks", checks.len());
        }

        /// Nodes with nothing to serve boot in the same second. With the repository there none waits longer than a
        /// second, and they do not ask in the same instant; where it is away for ten minutes they are there half a
        /// minute after it is back, spread over that time.
        #[test]
        fn empty_nodes_do_not_arrive_together_and_do_not_wait_long(seed in any::<u64>(), away in 60.0..600.0_f64) {
            let there = fleet_of(Start::Empty, &pull(0, true), 5000, seed, 3600.0, |_| Ended::Settled);
            prop_assert!(there.len() == 5000 && there.iter().all(|at| *at < 1.0), "{} checks", there.len());
            let tenths: Vec<f64> = there.iter().map(|at| at * 10.0).collect();
            let most = arrivals(&tenths, 0, 10).into_iter().max().unwrap();
            prop_assert!(most < 650, "{most} of 5,000 in a tenth of the second");
            let ended = |at: f64| if at < away { Ended::Unavailable } else { Ended::Settled };
            let checks = fleet_of(Start::Empty, &pull(0, true), 5000, seed, 3600.0, ended);
            let back: Vec<f64> = checks.into_iter().filter(|at| *at >= away).collect();
            prop_assert!(back.len() == 5000 && back.iter().all(|at| *at < away + 30.0), "{} checks", back.len());
            let most = arrivals(&back, away as usize, away as usize + 31).into_iter().max().unwrap();
            prop_assert!(most < 600, "{most} in one second, 222 on average");
        }

        /// All wait for the same window: they do not come in its first second.
        #[test]
        fn nodes_do_not_arrive_together_when_a_window_opens(seed in any::<u64>(), length in 60_u64..3600) {
            let open_for = Some(Duration::from_secs(length));
            let held = |at: f64| {
                let opens_in = 1000.0 - at;
                match opens_in > 0.0 {
                    true => Ended::Held { opens_in: Some(Duration::from_secs_f64(opens_in)), open_for },
                    false => Ended::Settled,
                }
            };
            let checks = fleet(&pull(300, false), 5000, seed, 1400.0, held);
            let average = 5000 / length.min(300) as u32;
            let most = arrivals(&checks, 1000, 1400).into_iter().max().unwrap();
            prop_assert!(most < 2 * average + 60, "{most} in one second, {average} on average");
            // A window shorter than the interval is not missed by those who knew of it.
            let in_it = arrivals(&checks, 1000, 1000 + length.min(400) as usize).into_iter().sum::<u32>();
            prop_assert!(in_it >= 4990, "{in_it}");
        }

        /// No answer leads to a check in no time, or to none for longer than its cap.
        #[test]
        fn every_wait_is_within_its_bounds(seed in any::<u64>(), failures in 1_usize..60, serves in any::<bool>()) {
            for ended in [Ended::Unavailable, Ended::Failed] {
                let mut schedule = Schedule::new(&pull(60, true), seed);
                let waits: Vec<_> = (0..failures).map(|_| schedule.after(ended, serves).unwrap()).collect();
                let cap = match (ended, serves) {
                    (Ended::Failed, false) => 300,
                    (_, false) => 30,
                    (Ended::Failed, true) => 3600,
                    _ => 60,
                };
                for wait in &waits {
                    prop_assert!(*wait >= Duration::from_millis(500) && *wait <= Duration::from_secs(cap), "{wait:?}");
                }
                prop_assert!(waits[0] <= Duration::from_secs(1), "a short absence costs little");
                // What was is forgotten with the first answer.
                schedule.after(Ended::Settled, true);
                prop_assert!(schedule.after(ended, serves).unwrap() <= Duration::from_secs(1));
            }
        }
    }

    /// Each wait is between a half of the whole and the whole, which doubles up to its cap.
    #[test]
    fn a_repository_that_stays_away_is_asked_less_and_less_often() {
        let whole = |interval, serves: bool, expected: &[u64]| {
            for seed in 0..50 {
                let mut schedule = Schedule::new(&pull(interval, true), seed);
                for seconds in expected {
                    let wait = schedule.after(Ended::Unavailable, serves).unwrap();
                    let whole = Duration::from_secs(*seconds);
                    assert!((whole / 2..=whole).contains(&wait), "{wait:?}, not up to {whole:?}");
                }
            }
        };
        whole(300, true, &[1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        whole(0, true, &[1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        whole(300, false, &[1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn who_is_not_told_to_ask_does_not() {
        let mut never = Schedule::new(&pull(0, false), 1);
        assert_eq!(never.first(Start::Empty), None);
        assert_eq!(never.after(Ended::Settled, true), None, "`relmgr pull now` is no interval");
        let mut at_boot = Schedule::new(&pull(0, true), 1);
        assert!(at_boot.first(Start::Empty).is_some());
        let at_once = Pull { jitter: Some(Duration::ZERO), ..pull(0, true) };
        let mut at_once = Schedule::new(&at_once, 1);
        let waits = [Start::Empty, Start::Serving].map(|start| at_once.first(start));
        assert_eq!(waits, [Some(Duration::ZERO); 2], "an operator's word on the jitter is the last one");
        for ended in [Ended::Unavailable, Ended::Settled, Ended::Failed] {
            assert!(at_boot.after(ended, false).is_some(), "it is tried until it is there");
        }
        assert_eq!(at_boot.after(Ended::Settled, true), None);
    }
}
