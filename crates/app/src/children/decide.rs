//! What becomes of a supervisor's children, decided without tasks or a clock.
//!
//! | restart type | ended well | ended by a fault | ended together with another one |
//! | --- | --- | --- | --- |
//! | permanent | started again | started again | started again |
//! | transient | stays down | started again | started again |
//! | temporary | stays down | stays down | stays down |
//!
//! | strategy | who is ended, in reverse order, and started again with the one that ended |
//! | --- | --- |
//! | one_for_one | nobody |
//! | one_for_all | all others |
//! | rest_for_one | those after it |
//!
//! As in OTP, a group that starts again starts its transient children too, also those that had ended well.

use std::collections::VecDeque;
use std::time::Duration;

use relmgr_abi::children::{Restart, Strategy};

/// Where a child stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// To be started when those before it are up.
    Pending,
    /// Started; those after it wait until it is ready.
    Starting,
    /// Started, and nobody waits for it.
    Up,
    /// Ended, and to stay so.
    Down,
}

/// What is known of a child before it runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    pub(super) restart: Restart,
    /// Whether those after it wait until it is ready.
    pub(super) waited_for: bool,
}

/// What an end leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// The child stays down, and nothing else changes.
    Leave,
    /// These, in this order, are to be ended; then [`Children::next`] says who starts.
    Restart { end: Vec<usize> },
    /// Once too often: all are to be ended, and the supervisor with them.
    GiveUp,
}

/// A supervisor's children.
#[derive(Debug)]
pub(super) struct Children {
    strategy: Strategy,
    intensity: usize,
    period: Duration,
    rules: Vec<Rule>,
    phases: Vec<Phase>,
    /// When children were started again, as far back as the period.
    restarts: VecDeque<Duration>,
}

impl Children {
    pub(super) fn new(strategy: Strategy, intensity: usize, period: Duration, rules: Vec<Rule>) -> Self {
        let phases = vec![Phase::Pending; rules.len()];
        Self { strategy, intensity, period, rules, phases, restarts: VecDeque::new() }
    }

    /// Who is to be started now; `None`: nobody, or somebody is waited for.
    pub(super) fn next(&mut self) -> Option<usize> {
        let unsettled = |phase: &Phase| matches!(phase, Phase::Pending | Phase::Starting);
        let index = self.phases.iter().position(unsettled)?;
        if self.phases[index] == Phase::Starting {
            return None;
        }
        self.phases[index] = if self.rules[index].waited_for { Phase::Starting } else { Phase::Up };
        Some(index)
    }

    /// A child says that it is up. Says whether it was waited for.
    pub(super) fn ready(&mut self, index: usize) -> bool {
        let was_waited_for = self.phases[index] == Phase::Starting;
        if was_waited_for {
            self.phases[index] = Phase::Up;
        }
        was_waited_for
    }

    /// Nobody is to be started, and nobody is waited for.
    pub(super) fn are_settled(&self) -> bool {
        self.phases.iter().all(|phase| matches!(phase, Phase::Up | Phase::Down))
    }

    /// Where a child stands.
    pub(super) fn phase(&self, index: usize) -> Phase {
        self.phases[index]
    }

    /// A child ended by itself at `now`, counted from the supervisor's start.
    pub(super) fn ended(&mut self, index: usize, by_fault: bool, now: Duration) -> Decision {
        self.phases[index] = Phase::Down;
        let again = match self.rules[index].restart {
            Restart::Permanent => true,
            Restart::Transient => by_fault,
            Restart::Temporary => false,
        };
        if !again {
            return Decision::Leave;
        }
        self.restarts.retain(|at| now.saturating_sub(*at) <= self.period);
        self.restarts.push_back(now);
        if self.restarts.len() > self.intensity {
            return Decision::GiveUp;
        }
        let group = match self.strategy {
            Strategy::OneForOne => index..index + 1,
            Strategy::OneForAll => 0..self.phases.len(),
            Strategy::RestForOne => index..self.phases.len(),
        };
        let runs = |phase: Phase| matches!(phase, Phase::Up | Phase::Starting);
        let end = group.clone().rev().filter(|other| runs(self.phases[*other])).collect();
        for other in group {
            // Who has not been started yet still waits for its turn, whatever its type.
            if self.phases[other] != Phase::Pending {
                let stays_down = self.rules[other].restart == Restart::Temporary;
                self.phases[other] = if stays_down { Phase::Down } else { Phase::Pending };
            }
        }
        Decision::Restart { end }
    }
}
