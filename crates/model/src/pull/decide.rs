//! Whether a node that follows a channel goes to what the channel names.
//!
//! | what the channel names | what the node does |
//! | --- | --- |
//! | what serves | nothing |
//! | a newer release | goes, in its wave and in the windows; at once where nothing serves |
//! | a newer release that failed here | never; `relmgr upgrade --retry` is for people |
//! | what an operator has left by a downgrade, or an older one | waits until it names one that is newer than that |
//! | an older release, on purpose (`--going-back`, signed) | goes back at once, where the channel has brought it here |
//! | an older release, otherwise | nothing: an old pointer and a decision look the same |

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::report::PullRecord;
use super::wave::{Rollout, Turn};
use super::window::{self, Window};
use crate::Version;
use crate::status::Status;

/// What a channel says, its signature checked where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The release that its nodes are to run.
    pub version: Version,
    /// SHA-256 of its manifest; `None`: the pointer is unsigned.
    pub manifest_sha256: Option<String>,
    /// Whether it is older than the one before it on purpose.
    pub going_back: bool,
    /// Who goes when; `None`: all at once.
    pub rollout: Option<Rollout>,
}

/// What the decision is made from.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// The node's clock.
    pub now: DateTime<Utc>,
    /// The release that serves.
    pub current: Option<&'a Version>,
    /// The installed releases.
    pub releases: &'a BTreeMap<Version, Status>,
    /// What it remembers.
    pub record: &'a PullRecord,
    /// Its own windows.
    pub windows: &'a [Window],
    /// Its place in the waves.
    pub place: f64,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing: it serves.
    UpToDate,
    /// Upgrade to it.
    Go,
    /// Go back to it.
    GoBack,
    /// Nothing for now.
    Hold(Held),
}

/// Why a node does not go to what its channel names, in words for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it, the fields are the facts that they name")]
pub enum Held {
    #[error("it failed on this node ({reason}): `relmgr upgrade VERSION --retry` tries it again")]
    FailedHere { reason: String },
    #[error("an operator has left {left}: only what is newer is taken; `relmgr pull resume` forgets that")]
    Left { left: Version },
    #[error("it is older than what serves, and the channel does not say that this is on purpose")]
    Older,
    #[error(
        "it is older than what serves, to which an operator has brought the node: `relmgr downgrade` goes back"
    )]
    OperatorsChoice,
    #[error("its wave begins at {}", at.format("%Y-%m-%d %H:%M:%S UTC"))]
    Wave { at: DateTime<Utc> },
    #[error("it is in none of the channel's waves")]
    NoWave,
    #[error("the maintenance window opens at {}", at.format("%Y-%m-%d %H:%M:%S UTC"))]
    Window { at: DateTime<Utc>, length: TimeDelta },
}

impl Held {
    /// When it may go by itself.
    pub fn until(&self) -> Option<DateTime<Utc>> {
        match self {
            Self::Wave { at } | Self::Window { at, .. } => Some(*at),
            _ => None,
        }
    }
}

/// Decides what a node does on which `facts` hold when its channel has `said` so.
pub fn decide(said: &Said, facts: &Facts<'_>) -> Decision {
    let to = &said.version;
    // 1. What serves, serves.
    if facts.current == Some(to) {
        return Decision::UpToDate;
    }
    // 2. What failed here stays failed, wherever the channel has been meanwhile.
    let failed = match facts.releases.get(to) {
        Some(Status::Failed { reason, .. }) => Some(reason),
        _ => facts.record.failed.get(to),
    };
    if let Some(reason) = failed {
        return Decision::Hold(Held::FailedHere { reason: reason.clone() });
    }
    // 3. A node that serves nothing has nothing to lose by going at once.
    let Some(current) = facts.current else { return Decision::Go };
    // 4. Back: never by waves and windows, for who goes back wants out of something.
    if to < current {
        return match (said.going_back, facts.record.followed.as_ref() == Some(current)) {
            (false, _) => Decision::Hold(Held::Older),
            (true, false) => Decision::Hold(Held::OperatorsChoice),
            (true, true) => Decision::GoBack,
        };
    }
    // 5. What an operator has left.
    if let Some(left) = facts.record.left.as_ref().filter(|left| *to <= left.version) {
        return Decision::Hold(Held::Left { left: left.version.clone() });
    }
    // 6. Its turn, then the hour.
    let rollout = said.rollout.as_ref();
    match rollout.map(|rollout| rollout.turn(facts.place, facts.now)) {
        Some(Turn::At(at)) => return Decision::Hold(Held::Wave { at }),
        Some(Turn::Never) => return Decision::Hold(Held::NoWave),
        Some(Turn::Now) | None => {}
    }
    for windows in [facts.windows, rollout.map_or(&[][..], |rollout| &rollout.windows)] {
        if let Some(at) = window::opens(windows, facts.now) {
            let opening = windows.iter().filter(|window| window.contains(at));
            let length = opening.map(Window::length).min().unwrap_or_default();
            return Decision::Hold(Held::Window { at, length });
        }
    }
    Decision::Go
}

#[cfg(test)]
mod tests {
    use super::super::report::Left;
    use super::*;
    use proptest::prelude::*;

    fn v(text: &str) -> Version {
        text.parse().unwrap()
    }

    fn now() -> DateTime<Utc> {
        "2026-11-20T12:00:00Z".parse().unwrap()
    }

    fn said(version: &str) -> Said {
        Said { version: v(version), manifest_sha256: None, going_back: false, rollout: None }
    }

    /// A node that serves 2.0.0, to which its channel has brought it.
    fn decided(
        said: &Said,
        change: impl FnOnce(&mut PullRecord, &mut BTreeMap<Version, Status>),
        windows: &[Window],
        now: DateTime<Utc>,
    ) -> Decision {
        let current = v("2.0.0");
        let mut record = PullRecord { followed: Some(current.clone()), ..PullRecord::default() };
        let mut releases = BTreeMap::from([(current.clone(), Status::Permanent)]);
        change(&mut record, &mut releases);
        decide(
            said,
            &Facts {
                now,
                current: Some(&current),
                releases: &releases,
                record: &record,
                windows,
                place: 30.0,
            },
        )
    }

    #[test]
    fn what_failed_here_is_not_tried_again_even_when_it_is_gone() {
        let failed = Status::Failed { reason: "panics".into(), at: now() };
        let held = Decision::Hold(Held::FailedHere { reason: "panics".into() });
        assert_eq!(
            decided(&said("3.0.0"), |_, releases| _ = releases.insert(v("3.0.0"), failed), &[], now()),
            held
        );
        assert_eq!(
            decided(
                &said("3.0.0"),
                |record, _| _ = record.failed.insert(v("3.0.0"), "panics".into()),
                &[],
                now()
            ),
            held
        );
        assert_eq!(
            decided(
                &said("3.0.1"),
                |record, _| _ = record.failed.insert(v("3.0.0"), "panics".into()),
                &[],
                now()
            ),
            Decision::Go
        );
    }

    #[test]
    fn a_downgrade_by_hand_holds_until_something_newer_comes() {
        let left = |record: &mut PullRecord, _: &mut BTreeMap<Version, Status>| {
            record.left = Some(Left { version: v("3.0.0"), at: now(), uid: 0 });
        };
        for version in ["2.5.0", "3.0.0"] {
            let held = Decision::Hold(Held::Left { left: v("3.0.0") });
            assert_eq!(decided(&said(version), left, &[], now()), held);
        }
        assert_eq!(decided(&said("3.0.1"), left, &[], now()), Decision::Go);
    }

    #[test]
    fn a_channel_leads_back_on_purpose_only_and_only_whom_it_has_led() {
        let back = Said { going_back: true, ..said("1.0.0") };
        assert_eq!(decided(&said("1.0.0"), |_, _| {}, &[], now()), Decision::Hold(Held::Older));
        // Neither a window nor a wave holds up who goes back.
        let closed = ["Sat 02:00-04:00".parse().unwrap()];
        assert_eq!(decided(&back, |_, _| {}, &closed, now()), Decision::GoBack);
        let by_hand =
            |record: &mut PullRecord, _: &mut BTreeMap<Version, Status>| record.followed = Some(v("1.5.0"));
        assert_eq!(decided(&back, by_hand, &[], now()), Decision::Hold(Held::OperatorsChoice));
    }

    #[test]
    fn an_empty_node_waits_for_nothing() {
        let rollout = Rollout {
            since: now(),
            windows: vec!["Sat 02:00-04:00".parse().unwrap()],
            waves: vec!["1%@0s".parse().unwrap()],
        };
        let said = Said { rollout: Some(rollout), ..said("3.0.0") };
        let facts = Facts {
            now: now(),
            current: None,
            releases: &BTreeMap::new(),
            record: &PullRecord::default(),
            windows: &[],
            place: 99.0,
        };
        assert_eq!(decide(&said, &facts), Decision::Go);
    }

    proptest! {
        /// Whatever the clock is set to, a node with a wave and a window goes exactly while both are open, by the
        /// clock of that moment: an hour that was passed over is caught up with in the next window, and a clock that
        /// goes back closes what was open.
        #[test]
        fn steps_of_the_clock_open_and_close(steps in proptest::collection::vec(-200_000_i64..200_000, 1..20)) {
            let since = now();
            let waves = vec!["20%@0s".parse().unwrap(), "100%@6h".parse().unwrap()];
            let rollout = Rollout { since, windows: vec![], waves };
            let said = Said { rollout: Some(rollout), ..said("3.0.0") };
            let windows = ["22:00-04:00".parse().unwrap()];
            let mut clock = since;
            for step in steps {
                clock += TimeDelta::seconds(step);
                let hour = clock.format("%H").to_string().parse::<u32>().unwrap();
                let open = clock >= since + TimeDelta::hours(6) && !(4..22).contains(&hour);
                let decision = decided(&said, |_, _| {}, &windows, clock);
                prop_assert_eq!(decision == Decision::Go, open, "{} {:?}", clock, decision);
                if let Decision::Hold(held) = decision {
                    let until = held.until().unwrap();
                    prop_assert!(until > clock);
                }
            }
        }
    }
}
