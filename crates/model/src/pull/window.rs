//! Maintenance windows: `Mon-Fri 22:00-02:00`, in UTC. Local time goes back once a year.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, TimeDelta, Timelike, Utc};
use serde::{Deserialize, Serialize};

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const DAY_MINUTES: u16 = 24 * 60;

/// A time of day on some days of the week. One that ends before it begins ends on the next day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Window {
    /// The days on which it begins; bit 0 is Monday.
    days: u8,
    /// Minutes from midnight.
    from: u16,
    /// Minutes from midnight, at most 24:00.
    to: u16,
}

/// A window that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no window: write `02:00-04:00` or `Mon-Fri 22:00-02:00`, in UTC, days as Mon Tue Wed Thu Fri Sat Sun"
)]
pub struct WindowError(String);

impl FromStr for Window {
    type Err = WindowError;

    fn from_str(text: &str) -> Result<Self, WindowError> {
        let fault = || WindowError(text.into());
        let mut words = text.split_whitespace();
        let (days, hours) = match (words.next(), words.next(), words.next()) {
            (Some(hours), None, None) => (0x7f, hours),
            (Some(days), Some(hours), None) => (parse_days(days).ok_or_else(fault)?, hours),
            _ => return Err(fault()),
        };
        let (from, to) = hours.split_once('-').ok_or_else(fault)?;
        let (from, to) = (parse_time(from).ok_or_else(fault)?, parse_time(to).ok_or_else(fault)?);
        if from == to || from == DAY_MINUTES {
            return Err(fault());
        }
        Ok(Self { days, from, to })
    }
}

fn parse_days(text: &str) -> Option<u8> {
    let day = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
    text.split(',').try_fold(0, |days, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        // `Fri-Mon` goes over the week's end.
        let count = (last + 7 - first) % 7;
        Some((0..=count).fold(days, |days, at| days | 1 << ((first + at) % 7)))
    })
}

fn parse_time(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two_digits = |text: &str| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
    if !two_digits(hours) || !two_digits(minutes) {
        return None;
    }
    let (hours, minutes): (u16, u16) = (hours.parse().ok()?, minutes.parse().ok()?);
    let time = hours * 60 + minutes;
    (minutes < 60 && time <= DAY_MINUTES).then_some(time)
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days != 0x7f {
            let days: Vec<_> = (0..7).filter(|day| self.days & 1 << day != 0).map(|day| DAYS[day]).collect();
            write!(f, "{} ", days.join(","))?;
        }
        let (from, to) = (self.from, self.to);
        write!(f, "{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, to / 60, to % 60)
    }
}

impl TryFrom<String> for Window {
    type Error = WindowError;

    fn try_from(text: String) -> Result<Self, WindowError> {
        text.parse()
    }
}

impl From<Window> for String {
    fn from(window: Window) -> Self {
        window.to_string()
    }
}

impl Window {
    /// How long it is.
    pub fn length(&self) -> TimeDelta {
        let minutes =
            if self.to > self.from { self.to - self.from } else { DAY_MINUTES - self.from + self.to };
        TimeDelta::minutes(i64::from(minutes))
    }

    /// Whether `at` is in it.
    pub fn contains(&self, at: DateTime<Utc>) -> bool {
        // It may have begun on the day before.
        [0, 1].into_iter().any(|days| {
            self.begins_on(at, -days).is_some_and(|begin| begin <= at && at < begin + self.length())
        })
    }

    /// When it begins the next time after `at`.
    pub fn opens_after(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        (0..=7).filter_map(|days| self.begins_on(at, days)).find(|begin| *begin > at)
    }

    /// Its beginning on the day so many days from `at`'s, if it has one there.
    fn begins_on(&self, at: DateTime<Utc>, days: i64) -> Option<DateTime<Utc>> {
        let midnight = at.with_hour(0)?.with_minute(0)?.with_second(0)?.with_nanosecond(0)?;
        let midnight = midnight.checked_add_signed(TimeDelta::days(days))?;
        let wanted = self.days & 1 << midnight.weekday().num_days_from_monday() != 0;
        wanted.then(|| midnight.checked_add_signed(TimeDelta::minutes(i64::from(self.from)))).flatten()
    }
}

/// When one of `windows` is open: `None` is now, at `at`. Without windows it always is.
pub fn opens(windows: &[Window], at: DateTime<Utc>) -> Option<DateTime<Utc>> {
    if windows.is_empty() || windows.iter().any(|window| window.contains(at)) {
        return None;
    }
    windows.iter().filter_map(|window| window.opens_after(at)).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn window(text: &str) -> Window {
        text.parse().unwrap()
    }

    #[test]
    fn a_window_survives_its_text() {
        for text in ["02:00-04:00", "Mon,Tue,Wed,Thu,Fri 22:00-02:00", "Sat,Sun 00:00-24:00"] {
            assert_eq!(window(text).to_string(), text);
        }
        assert_eq!(window("Mon-Fri 22:00-02:00"), window("Mon,Tue,Wed,Thu,Fri 22:00-02:00"));
        assert_eq!(
            window("fri-mon 1:00-2:00".replace("1:", "01:").replace("2:", "02:").as_str()).to_string(),
            "Mon,Fri,Sat,Sun 01:00-02:00"
        );
        for wrong in [
            "",
            "02:00",
            "2:00-4:00",
            "02:00-02:00",
            "24:00-02:00",
            "Mon",
            "Mon 25:00-26:00",
            "Xyz 01:00-02:00",
            "01:60-02:00",
            "Mon 01:00-02:00 UTC",
        ] {
            let error = wrong.parse::<Window>().unwrap_err().to_string();
            assert!(error.contains("is no window"), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_on_which_it_begins() {
        // 2026-11-20 is a Friday.
        let nights = window("Fri 22:00-02:00");
        assert!(nights.contains(at("2026-11-20T22:00:00Z")));
        assert!(nights.contains(at("2026-11-21T01:59:59Z")), "Saturday morning is Friday's night");
        assert!(!nights.contains(at("2026-11-21T02:00:00Z")));
        assert!(!nights.contains(at("2026-11-20T01:00:00Z")), "Thursday's night has none");
        assert_eq!(nights.opens_after(at("2026-11-20T22:00:00Z")), Some(at("2026-11-27T22:00:00Z")));
        let all_day = window("Sat 00:00-24:00");
        assert!(
            all_day.contains(at("2026-11-21T23:59:59Z")) && !all_day.contains(at("2026-11-22T00:00:00Z"))
        );
    }

    #[test]
    fn the_next_opening_is_the_nearest_of_all() {
        let windows = [window("Mon 02:00-04:00"), window("Sat 06:00-07:00")];
        assert_eq!(opens(&windows, at("2026-11-20T12:00:00Z")), Some(at("2026-11-21T06:00:00Z")));
        assert_eq!(opens(&windows, at("2026-11-21T06:30:00Z")), None);
        assert_eq!(opens(&windows, at("2026-11-21T07:00:00Z")), Some(at("2026-11-23T02:00:00Z")));
        assert_eq!(opens(&[], at("2026-11-20T12:00:00Z")), None);
    }
}
