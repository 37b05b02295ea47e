//! Waves: which share of a channel's nodes goes when.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::window::{self, Window};

/// A node's place in every rollout: from 0 to below 100, the same for the same `id` for ever, and evenly spread over
/// different ones however alike they look.
pub fn place(id: &str) -> f64 {
    let digest = Sha256::digest(id.as_bytes());
    let bytes = digest.first_chunk::<8>().copied().unwrap_or_default();
    // 53 bits are what an f64 holds exactly.
    (u64::from_be_bytes(bytes) >> 11) as f64 / (1_u64 << 53) as f64 * 100.0
}

/// A share of the nodes, and when it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wave {
    /// So many of a hundred nodes, from 1 to 100, those of the waves before it among them.
    pub percent: u8,
    /// How long after the rollout's beginning.
    #[serde(with = "humantime_serde")]
    pub after: Duration,
}

/// A wave that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no wave: write `5%@0s` for five of a hundred nodes at once, `100%@4h` for all after four hours"
)]
pub struct WaveError(String);

impl FromStr for Wave {
    type Err = WaveError;

    fn from_str(text: &str) -> Result<Self, WaveError> {
        let parsed = text.split_once("%@").and_then(|(percent, after)| {
            Some(Self {
                percent: percent.parse().ok()?,
                after: humantime_serde::re::humantime::parse_duration(after).ok()?,
            })
        });
        parsed.filter(|wave| (1..=100).contains(&wave.percent)).ok_or_else(|| WaveError(text.into()))
    }
}

impl fmt::Display for Wave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%@{}", self.percent, humantime_serde::re::humantime::format_duration(self.after))
    }
}

/// How nodes that follow a channel come to its release. Without waves all go at once, without windows at any time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// When the channel began to name the release.
    pub since: DateTime<Utc>,
    /// Times of a week at which nodes may go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    /// Who goes when; who is in none of them does not go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waves: Vec<Wave>,
}

/// When a node's turn is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It is, or was.
    Now,
    /// Then.
    At(DateTime<Utc>),
    /// In none of the waves.
    Never,
}

impl Rollout {
    /// When the turn of the node at `place` is, at `now`.
    pub fn turn(&self, place: f64, now: DateTime<Utc>) -> Turn {
        if self.waves.is_empty() {
            return Turn::Now;
        }
        let of_it = self.waves.iter().filter(|wave| place < f64::from(wave.percent));
        let due = of_it.map(|wave| {
            let after = TimeDelta::from_std(wave.after).unwrap_or(TimeDelta::MAX);
            self.since.checked_add_signed(after).unwrap_or(DateTime::<Utc>::MAX_UTC)
        });
        match due.min() {
            None => Turn::Never,
            Some(due) if due <= now => Turn::Now,
            Some(due) => Turn::At(due),
        }
    }

    /// When one of its windows is open; `None`: at `now`.
    pub fn opens(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        window::opens(&self.windows, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// How many of `ids` are in each of `parts` equal shares.
    fn shares(ids: impl Iterator<Item = String>, parts: usize) -> Vec<u32> {
        let mut counts = vec![0; parts];
        for id in ids {
            let place = place(&id);
            assert!((0.0..100.0).contains(&place), "{id}: {place}");
            counts[(place / 100.0 * parts as f64) as usize] += 1;
        }
        counts
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Names of a fleet differ in a digit or two, and must not end up in the same wave. With 2,000 names in 20
        /// shares chi-squared has 19 degrees of freedom: above 60 once in three million.
        #[test]
        fn names_that_look_alike_are_spread_evenly(
            prefix in "[a-z]{0,12}(-[a-z0-9]{1,8}){0,3}",
            suffix in "(\\.[a-z]{2,8}){0,3}",
            first in 0_u32..1_000_000,
        ) {
            let ids = (first..first + 2000).map(|at| format!("{prefix}{at}{suffix}"));
            let expected = 100.0;
            let chi: f64 = shares(ids, 20).iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
            prop_assert!(chi < 60.0, "{chi}");
        }
    }

    #[test]
    fn a_place_is_for_ever() {
        // What nodes in the field have computed must not move with a release of relmgr.
        let places = ["web-1.example.com", "web-2.example.com", ""].map(|id| format!("{:.4}", place(id)));
        assert_eq!(places, ["45.4491", "24.4801", "88.9416"]);
    }

    #[test]
    fn waves_take_their_turns() {
        let since: DateTime<Utc> = "2026-11-20T12:00:00Z".parse().unwrap();
        let waves = ["5%@0s", "50%@1h", "90%@4h"].map(|text| text.parse().unwrap()).to_vec();
        let rollout = Rollout { since, windows: vec![], waves };
        let at = |hours| since + TimeDelta::hours(hours);
        assert_eq!(rollout.turn(4.9, at(0)), Turn::Now);
        assert_eq!(rollout.turn(5.0, at(0)), Turn::At(at(1)));
        assert_eq!(rollout.turn(49.9, at(1)), Turn::Now);
        assert_eq!(rollout.turn(89.0, at(1)), Turn::At(at(4)));
        assert_eq!(rollout.turn(90.0, at(400)), Turn::Never);
        assert_eq!(Rollout { waves: vec![], ..rollout }.turn(99.9, at(0)), Turn::Now);
        assert_eq!("50%@1h".parse::<Wave>().unwrap().to_string(), "50%@1h");
        for wrong in ["0%@1h", "101%@1h", "50@1h", "50%", "50%@soon"] {
            assert!(wrong.parse::<Wave>().is_err(), "{wrong}");
        }
    }
}
