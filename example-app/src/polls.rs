//! Polls and votes, kept in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// All polls.
pub struct Polls {
    max_options: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    polls: BTreeMap<u64, Poll>,
}

/// One poll.
struct Poll {
    question: String,
    options: Vec<PollOption>,
    closes_at: Option<DateTime<Utc>>,
    open: bool,
}

/// One option and its votes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PollOption {
    /// What can be voted for.
    pub text: String,
    /// How many did.
    pub votes: u64,
}

/// What a poll is made from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewPoll {
    /// What is asked.
    pub question: String,
    /// What can be voted for, at least two.
    pub options: Vec<String>,
    /// When it closes by itself.
    pub closes_at: Option<DateTime<Utc>>,
}

/// A poll as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Results {
    /// What is asked.
    pub question: String,
    /// The options in their order.
    pub options: Vec<PollOption>,
    /// All votes together.
    pub total: u64,
    /// Whether it takes votes.
    pub open: bool,
}

/// What cannot be done with polls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PollError {
    /// There is no such poll.
    Unknown,
    /// It takes no votes any more.
    Closed,
    /// There is no such option.
    NoOption,
    /// It cannot be made.
    Invalid(String),
}

impl Polls {
    /// No polls yet; each may have `max_options` options.
    pub fn new(max_options: usize) -> Self {
        Self { max_options: AtomicUsize::new(max_options), inner: Mutex::default() }
    }

    /// New polls may have `max_options` options; those that are there stay as they are.
    pub fn set_max_options(&self, max_options: usize) {
        self.max_options.store(max_options, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change below is whole: a panic under the lock leaves nothing half done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a poll; its number, from 1.
    ///
    /// # Errors
    /// [`PollError::Invalid`].
    pub fn create(&self, new: NewPoll) -> Result<u64, PollError> {
        let invalid = |reason: &str| Err(PollError::Invalid(reason.into()));
        if new.question.trim().is_empty() {
            return invalid("a poll needs a question");
        }
        if new.options.len() < 2 || new.options.iter().any(|option| option.trim().is_empty()) {
            return invalid("a poll needs two options or more, none of them empty");
        }
        let most = self.max_options.load(Ordering::Relaxed);
        if new.options.len() > most {
            return invalid(&format!("a poll has {most} options at most"));
        }
        let options = new.options.into_iter().map(|text| PollOption { text, votes: 0 }).collect();
        let poll = Poll { question: new.question, options, closes_at: new.closes_at, open: true };
        let mut inner = self.lock();
        inner.next += 1;
        let id = inner.next;
        inner.polls.insert(id, poll);
        Ok(id)
    }

    /// Counts a vote for the option at `option`, from 0.
    ///
    /// # Errors
    /// [`PollError::Unknown`], [`PollError::Closed`], [`PollError::NoOption`].
    pub fn vote(&self, id: u64, option: usize, now: DateTime<Utc>) -> Result<(), PollError> {
        let mut inner = self.lock();
        let poll = inner.polls.get_mut(&id).ok_or(PollError::Unknown)?;
        if !poll.is_open(now) {
            return Err(PollError::Closed);
        }
        let option = poll.options.get_mut(option).ok_or(PollError::NoOption)?;
        option.votes += 1;
        Ok(())
    }

    /// A poll as it stands.
    ///
    /// # Errors
    /// [`PollError::Unknown`].
    pub fn results(&self, id: u64, now: DateTime<Utc>) -> Result<Results, PollError> {
        let inner = self.lock();
        let poll = inner.polls.get(&id).ok_or(PollError::Unknown)?;
        Ok(Results {
            question: poll.question.clone(),
            options: poll.options.clone(),
            total: poll.options.iter().map(|option| option.votes).sum(),
            open: poll.is_open(now),
        })
    }

    /// The newest polls: number and question.
    pub fn newest(&self, count: usize) -> Vec<(u64, String)> {
        let inner = self.lock();
        inner.polls.iter().rev().take(count).map(|(id, poll)| (*id, poll.question.clone())).collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().polls.len()
    }

    /// Closes the polls whose time is over; which they were.
    pub fn close_expired(&self, now: DateTime<Utc>) -> Vec<u64> {
        let mut inner = self.lock();
        let expired = inner.polls.iter_mut().filter(|(_, poll)| poll.open && !poll.is_open(now));
        expired
            .map(|(id, poll)| {
                poll.open = false;
                *id
            })
            .collect()
    }
}

impl Poll {
    fn is_open(&self, now: DateTime<Utc>) -> bool {
        self.open && self.closes_at.is_none_or(|closes_at| now < closes_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new_poll(options: &[&str]) -> NewPoll {
        let options = options.iter().map(ToString::to_string).collect();
        NewPoll { question: "Tea?".into(), options, closes_at: None }
    }

    #[test]
    fn votes_are_counted() {
        let (polls, now) = (Polls::new(20), Utc::now());
        let id = polls.create(new_poll(&["yes", "no"])).unwrap();
        for option in [0, 1, 0] {
            polls.vote(id, option, now).unwrap();
        }
        let results = polls.results(id, now).unwrap();
        assert_eq!((results.total, results.options[0].votes, results.open), (3, 2, true));
        assert_eq!(polls.vote(id, 2, now), Err(PollError::NoOption));
        assert_eq!(polls.vote(id + 1, 0, now), Err(PollError::Unknown));
        assert_eq!(polls.newest(5), [(id, "Tea?".to_owned())]);
    }

    #[test]
    fn polls_that_are_none_are_refused() {
        let polls = Polls::new(3);
        for options in [&["one"][..], &["a", " "], &["a", "b", "c", "d"], &[]] {
            assert!(matches!(polls.create(new_poll(options)), Err(PollError::Invalid(_))), "{options:?}");
        }
        let silent = NewPoll { question: " ".into(), ..new_poll(&["a", "b"]) };
        assert!(matches!(polls.create(silent), Err(PollError::Invalid(_))));
        assert_eq!(polls.count(), 0);
    }

    #[test]
    fn a_poll_closes_at_its_time() {
        let (polls, now) = (Polls::new(20), Utc::now());
        let closes_at = Some(now + chrono::TimeDelta::seconds(10));
        let id = polls.create(NewPoll { closes_at, ..new_poll(&["yes", "no"]) }).unwrap();
        assert!(polls.close_expired(now).is_empty());
        let later = now + chrono::TimeDelta::seconds(10);
        assert_eq!(polls.vote(id, 0, later), Err(PollError::Closed), "also before the child comes by");
        assert_eq!(polls.close_expired(later), [id]);
        assert!(polls.close_expired(later).is_empty());
        assert!(!polls.results(id, now).unwrap().open);
    }
}
