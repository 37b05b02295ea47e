//! The decisions, without tasks.

use std::time::Duration;

use proptest::prelude::{Just, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as Strategy_;

use crate::children::decide::{Children, Decision, Phase, Rule};
use crate::children::{Restart, Strategy};

const PERIOD: Duration = Duration::from_secs(5);
const STRATEGIES: [Strategy; 3] = [Strategy::OneForOne, Strategy::OneForAll, Strategy::RestForOne];

fn rule(restart: Restart) -> Rule {
    Rule { restart, waited_for: false }
}

/// All are up.
fn up(strategy: Strategy, intensity: usize, rules: &[Rule]) -> Children {
    let mut children = Children::new(strategy, intensity, PERIOD, rules.to_vec());
    while children.next().is_some() {}
    children
}

fn starts(children: &mut Children) -> Vec<usize> {
    std::iter::from_fn(|| children.next()).collect()
}

#[test]
fn the_restart_type_decides_who_is_started_again() {
    let cases = [
        (Restart::Permanent, false, true),
        (Restart::Permanent, true, true),
        (Restart::Transient, false, false),
        (Restart::Transient, true, true),
        (Restart::Temporary, false, false),
        (Restart::Temporary, true, false),
    ];
    for strategy in STRATEGIES {
        for (restart, by_fault, again) in cases {
            let mut children = up(strategy, 1, &[rule(restart)]);
            let expected = if again { Decision::Restart { end: vec![] } } else { Decision::Leave };
            assert_eq!(children.ended(0, by_fault, PERIOD), expected, "{strategy:?} {restart:?} {by_fault}");
            assert_eq!(starts(&mut children), if again { vec![0] } else { vec![] });
        }
    }
}

#[test]
fn the_strategy_decides_who_goes_along() {
    let cases = [
        (Strategy::OneForOne, vec![], vec![1]),
        (Strategy::OneForAll, vec![3, 2, 0], vec![0, 1, 2]),
        (Strategy::RestForOne, vec![3, 2], vec![1, 2]),
    ];
    for (strategy, end, again) in cases {
        let (permanent, transient) = (rule(Restart::Permanent), rule(Restart::Transient));
        // What is temporary is ended with the others and does not come back.
        let mut children = up(strategy, 1, &[permanent, permanent, transient, rule(Restart::Temporary)]);
        assert_eq!(children.ended(1, true, PERIOD), Decision::Restart { end }, "{strategy:?}");
        assert_eq!(starts(&mut children), again, "{strategy:?}");
    }
}

#[test]
fn a_transient_child_that_was_done_comes_back_with_its_group() {
    let mut children = up(Strategy::OneForAll, 1, &[rule(Restart::Permanent), rule(Restart::Transient)]);
    assert_eq!(children.ended(1, false, PERIOD), Decision::Leave);
    assert_eq!(children.ended(0, true, PERIOD), Decision::Restart { end: vec![] });
    assert_eq!(starts(&mut children), [0, 1]);
}

#[test]
fn one_restart_more_than_the_intensity_within_the_period_is_the_end() {
    let again = Decision::Restart { end: vec![] };
    let seconds = Duration::from_secs;
    let mut children = up(Strategy::OneForOne, 2, &[rule(Restart::Permanent), rule(Restart::Permanent)]);
    // Of whichever child; what lies back further than the period does not count.
    for (index, at) in [(0, 0), (1, 3), (0, 6), (1, 9)] {
        assert_eq!(children.ended(index, true, seconds(at)), again, "at {at} s");
        assert_eq!(starts(&mut children), [index]);
    }
    assert_eq!(children.ended(0, true, seconds(11)), Decision::GiveUp);
    let mut never = up(Strategy::OneForOne, 0, &[rule(Restart::Permanent)]);
    assert_eq!(never.ended(0, true, PERIOD), Decision::GiveUp);
}

#[test]
fn those_after_a_child_wait_until_it_is_ready_and_those_before_it_do_not() {
    let permanent = rule(Restart::Permanent);
    let waited_for = Rule { waited_for: true, ..permanent };
    let mut children = Children::new(Strategy::OneForOne, 9, PERIOD, vec![permanent, waited_for, permanent]);
    assert_eq!(starts(&mut children), [0, 1]);
    assert!(!children.are_settled());
    children.ended(0, true, PERIOD);
    assert_eq!(starts(&mut children), [0], "it comes before the one that is waited for");
    children.ended(1, true, PERIOD);
    assert_eq!(starts(&mut children), [1], "it died before it was ready");
    assert!(children.ready(1));
    assert!(!children.ready(1), "once is enough");
    assert_eq!(starts(&mut children), [2]);
    assert!(children.are_settled());
}

/// What may happen to a supervisor.
#[derive(Debug, Clone)]
enum Event {
    Ends { index: usize, by_fault: bool },
    IsReady { index: usize },
    Passes { ms: u64 },
}

fn rules() -> impl Strategy_<Value = Vec<Rule>> {
    let restart = prop_oneof![Just(Restart::Permanent), Just(Restart::Transient), Just(Restart::Temporary)];
    let rule = (restart, any::<bool>()).prop_map(|(restart, waited_for)| Rule { restart, waited_for });
    proptest::collection::vec(rule, 1..6)
}

fn events() -> impl Strategy_<Value = Vec<Event>> {
    let event = prop_oneof![
        3 => (0..6_usize, any::<bool>()).prop_map(|(index, by_fault)| Event::Ends { index, by_fault }),
        3 => (0..6_usize).prop_map(|index| Event::IsReady { index }),
        2 => (0..4000_u64).prop_map(|ms| Event::Passes { ms }),
    ];
    proptest::collection::vec(event, 0..60)
}

/// What really runs, as the one who carries out knows it.
struct World {
    rules: Vec<Rule>,
    runs: Vec<bool>,
    ready: Vec<bool>,
    starts: Vec<u32>,
}

impl World {
    fn start_all(&mut self, children: &mut Children) {
        while let Some(index) = children.next() {
            assert!(!self.runs[index], "{index} runs already");
            for before in 0..index {
                let awaited = self.runs[before] && self.rules[before].waited_for && !self.ready[before];
                assert!(!awaited, "{index} was started before {before} was ready");
            }
            (self.runs[index], self.ready[index]) = (true, false);
            self.starts[index] += 1;
        }
    }

    fn check(&self, children: &Children) {
        for (index, rule) in self.rules.iter().enumerate() {
            if rule.restart == Restart::Temporary {
                assert!(self.starts[index] <= 1, "{index} is temporary");
            }
            let runs = matches!(children.phase(index), Phase::Up | Phase::Starting);
            assert_eq!(runs, self.runs[index], "{index} is known as what it is");
            if rule.restart == Restart::Permanent && children.are_settled() {
                assert!(runs, "{index} is permanent");
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happens_order_types_and_intensity_hold(
        which in 0..3_usize, intensity in 0..4_usize, rules in rules(), events in events(),
    ) {
        let (strategy, count) = (STRATEGIES[which], rules.len());
        let mut children = Children::new(strategy, intensity, PERIOD, rules.clone());
        let mut world = World { rules, runs: vec![false; count], ready: vec![false; count], starts: vec![0; count] };
        let (mut now, mut restarts) = (Duration::ZERO, vec![]);
        world.start_all(&mut children);
        for event in events {
            match event {
                Event::Passes { ms } => now += Duration::from_millis(ms),
                Event::IsReady { index } if index < count && world.runs[index] => {
                    children.ready(index);
                    world.ready[index] = true;
                }
                Event::Ends { index, by_fault } if index < count && world.runs[index] => {
                    world.runs[index] = false;
                    let decision = children.ended(index, by_fault, now);
                    let recent = restarts.iter().filter(|at| now - **at <= PERIOD).count();
                    match decision {
                        Decision::Leave => {}
                        Decision::GiveUp => {
                            prop_assert!(recent >= intensity, "it gave up after {recent} of {intensity}");
                            return Ok(());
                        }
                        Decision::Restart { end } => {
                            prop_assert!(recent < intensity, "{recent} of {intensity} were enough");
                            restarts.push(now);
                            let goes = |other: usize| match strategy {
                                Strategy::OneForOne => false,
                                Strategy::OneForAll => true,
                                Strategy::RestForOne => other > index,
                            };
                            let expected: Vec<_> =
                                (0..count).rev().filter(|other| world.runs[*other] && goes(*other)).collect();
                            prop_assert_eq!(&end, &expected);
                            for other in end {
                                world.runs[other] = false;
                            }
                        }
                    }
                }
                _ => {}
            }
            world.start_all(&mut children);
            world.check(&children);
        }
    }
}
