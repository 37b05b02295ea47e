//! The version of a release: a SemVer made of the build's UTC time.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, TimeZone, Timelike, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longer than any timestamp and short enough for every file name that carries a version.
const MAX_LEN: usize = 64;

/// A release's version: a SemVer, by default `YYYY.MMDD.HHMMSS` in UTC without leading zeros.
///
/// Any SemVer is accepted, so that people may number their releases themselves; what relmgr builds from the
/// clock also answers [`Version::built_at`]. The text is safe as a file name: SemVer allows letters, digits,
/// `.`, `+` and `-` only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(semver::Version);

/// A text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a version: {reason} (a version is a SemVer such as 2026.1120.192733)")]
pub struct ParseVersionError {
    text: String,
    reason: String,
}

impl Version {
    /// The version of a build made at `time`.
    ///
    /// `2026-11-20 19:27:33` is `2026.1120.192733`, `2027-01-05 00:00:10` is `2027.105.10`. Times before the
    /// year 1 have no version and are taken as the year 0.
    pub fn from_build_time(time: DateTime<Utc>) -> Self {
        let year = u64::try_from(time.year()).unwrap_or(0);
        let month_day = u64::from(time.month()) * 100 + u64::from(time.day());
        let clock =
            u64::from(time.hour()) * 10_000 + u64::from(time.minute()) * 100 + u64::from(time.second());
        Self(semver::Version::new(year, month_day, clock))
    }

    /// The build time that the version tells, or `None` where it is no timestamp.
    pub fn built_at(&self) -> Option<DateTime<Utc>> {
        if !self.0.pre.is_empty() || !self.0.build.is_empty() {
            return None;
        }
        let year = i32::try_from(self.0.major).ok().filter(|year| (1970..=9999).contains(year))?;
        let month_day = u32::try_from(self.0.minor).ok()?;
        let clock = u32::try_from(self.0.patch).ok()?;
        let (hour, minute, second) = (clock / 10_000, clock / 100 % 100, clock % 100);
        Utc.with_ymd_and_hms(year, month_day / 100, month_day % 100, hour, minute, second).single()
    }

    /// Whether its numbers have the form of a build time (a year of four digits first), be it a valid one or not.
    pub fn is_dated(&self) -> bool {
        (1970..=9999).contains(&self.0.major)
    }

    /// Whether `requirement` allows this version.
    pub fn matches(&self, requirement: &semver::VersionReq) -> bool {
        requirement.matches(&self.0)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Through `pad`, so that a table may give a width.
        f.pad(&self.0.to_string())
    }
}

impl FromStr for Version {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fault = |reason: String| ParseVersionError { text: text.chars().take(80).collect(), reason };
        if text.len() > MAX_LEN {
            return Err(fault(format!("it is longer than {MAX_LEN} characters")));
        }
        semver::Version::parse(text).map(Self).map_err(|error| fault(error.to_string()))
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().expect("a test's time")
    }

    #[test]
    fn a_build_time_becomes_a_version_without_leading_zeros() {
        let cases = [
            ("2026-11-20T19:27:33Z", "2026.1120.192733"),
            ("2027-01-05T00:00:10Z", "2027.105.10"),
            ("2026-11-19T08:01:12Z", "2026.1119.80112"),
            ("2026-12-31T23:59:59Z", "2026.1231.235959"),
            ("2026-10-01T00:00:00Z", "2026.1001.0"),
        ];
        for (at, version) in cases {
            assert_eq!(Version::from_build_time(time(at)).to_string(), version);
            assert_eq!(version.parse::<Version>().unwrap().built_at(), Some(time(at)), "{version}");
        }
    }

    #[test]
    fn what_is_no_version_is_refused_with_a_reason() {
        for text in
            ["", "1", "1.2", "2026.0105.1", "1.2.3.4", "../etc", "1.2.3/4", " 1.2.3", "1.2.3\n", "v1.2.3"]
        {
            let error = text.parse::<Version>().unwrap_err().to_string();
            assert!(error.contains("is not a version"), "{text}: {error}");
        }
        assert!(format!("1.2.{}", "3".repeat(80)).parse::<Version>().is_err());
    }

    #[test]
    fn a_version_that_is_no_timestamp_has_no_build_time() {
        for text in ["1.2.3", "2026.1399.0", "2026.1120.246000", "2026.1120.192733-rc1", "2026.0.0"] {
            assert_eq!(text.parse::<Version>().unwrap().built_at(), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn versions_order_as_their_build_times(a in 0i64..253_402_300_799, b in 0i64..253_402_300_799) {
            let (a, b) = (DateTime::from_timestamp(a, 0).unwrap(), DateTime::from_timestamp(b, 0).unwrap());
            prop_assert_eq!(a.cmp(&b), Version::from_build_time(a).cmp(&Version::from_build_time(b)));
            prop_assert_eq!(Version::from_build_time(a).built_at(), Some(a));
        }
    }
}
