//! Polls and votes, kept in state tables: they outlive every release, and a death of the process.
//!
//! | table | what | by |
//! | --- | --- | --- |
//! | `polls` | [`Poll`] | number |
//! | `votes` | how many | number, option |
//! | `closing` | polls that close by themselves | time, number |
//! | `next` | the last number given out | |

use std::sync::atomic::{AtomicUsize, Ordering};

use chrono::{DateTime, Utc};
use relmgr_app::Context;
use relmgr_app::tables::{Read, Record, Table, TableError, Tables};
use serde::{Deserialize, Serialize};

/// All polls.
pub struct Polls {
    max_options: AtomicUsize,
    tables: Tables,
    polls: Table<u64, Poll>,
    votes: Table<(u64, u32), u64>,
    closing: Table<(i64, u64), ()>,
    next: Table<u8, u64>,
}

/// The one key of `next`.
const NEXT: u8 = 0;

/// One poll, without its votes: those change all the time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Poll {
    question: String,
    options: Vec<String>,
    /// Milliseconds since the epoch.
    closes_at: Option<i64>,
    open: bool,
}

impl Record for Poll {
    const NAME: &'static str = "poll";
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
    /// It could not be read or written.
    Tables(TableError),
}

impl From<TableError> for PollError {
    fn from(error: TableError) -> Self {
        Self::Tables(error)
    }
}

impl Polls {
    /// The polls that there are; new ones may have `max_options` options.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn open(context: &Context, max_options: usize) -> Result<Self, TableError> {
        Ok(Self {
            max_options: AtomicUsize::new(max_options),
            tables: context.tables()?,
            polls: context.table("polls")?,
            votes: context.table("votes")?,
            closing: context.table("closing")?,
            next: context.table("next")?,
        })
    }

    /// New polls may have `max_options` options; those that are there stay as they are.
    pub fn set_max_options(&self, max_options: usize) {
        self.max_options.store(max_options, Ordering::Relaxed);
    }

    /// Makes a poll; its number, from 1.
    ///
    /// # Errors
    /// [`PollError::Invalid`], [`PollError::Tables`].
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
        let closes_at = new.closes_at.map(|at| at.timestamp_millis());
        let poll = Poll { question: new.question, options: new.options, closes_at, open: true };
        self.tables.write(|txn| {
            let id = txn.add(&self.next, &NEXT, 1)?;
            txn.put(&self.polls, &id, &poll)?;
            if let Some(closes_at) = closes_at {
                txn.put(&self.closing, &(closes_at, id), &())?;
            }
            Ok(id)
        })
    }

    /// Counts a vote for the option at `option`, from 0.
    ///
    /// # Errors
    /// [`PollError::Unknown`], [`PollError::Closed`], [`PollError::NoOption`], [`PollError::Tables`].
    pub fn vote(&self, id: u64, option: usize, now: DateTime<Utc>) -> Result<(), PollError> {
        self.tables.write(|txn| {
            let poll = txn.get(&self.polls, &id)?.ok_or(PollError::Unknown)?;
            if !poll.is_open(now) {
                return Err(PollError::Closed);
            }
            let option = u32::try_from(option).ok().filter(|_| option < poll.options.len());
            txn.add(&self.votes, &(id, option.ok_or(PollError::NoOption)?), 1)?;
            Ok(())
        })
    }

    /// A poll as it stands.
    ///
    /// # Errors
    /// [`PollError::Unknown`], [`PollError::Tables`].
    pub fn results(&self, id: u64, now: DateTime<Utc>) -> Result<Results, PollError> {
        self.tables.read(|txn| {
            let poll = txn.get(&self.polls, &id)?.ok_or(PollError::Unknown)?;
            let votes = self.votes(txn, id, poll.options.len())?;
            let (total, open) = (votes.iter().sum(), poll.is_open(now));
            let options = poll.options.into_iter().zip(votes);
            let options = options.map(|(text, votes)| PollOption { text, votes }).collect();
            Ok(Results { question: poll.question, options, total, open })
        })
    }

    /// The votes for each of a poll's options; one that nobody voted for has no record.
    fn votes(&self, txn: &Read<'_>, id: u64, options: usize) -> Result<Vec<u64>, TableError> {
        let mut votes = vec![0; options];
        txn.prefix(&self.votes, &(id,), |(_, option), count| {
            if let Some(place) = votes.get_mut(option as usize) {
                *place = count;
            }
            true
        })?;
        Ok(votes)
    }

    /// The newest polls: number and question.
    ///
    /// # Errors
    /// [`PollError::Tables`].
    pub fn newest(&self, count: usize) -> Result<Vec<(u64, String)>, PollError> {
        let newest = self.polls.range(..).reversed().take(count);
        Ok(newest.map(|poll| poll.map(|(id, poll)| (id, poll.question))).collect::<Result<_, _>>()?)
    }

    /// How many there are.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn count(&self) -> Result<u64, TableError> {
        self.polls.len()
    }

    /// Closes the polls whose time is over; which they were.
    ///
    /// # Errors
    /// [`TableError`].
    pub fn close_expired(&self, now: DateTime<Utc>) -> Result<Vec<u64>, TableError> {
        // Read first: most of the time there is nothing to do, and nobody is to wait for that.
        let over = self.closing.range(..=(now.timestamp_millis(), u64::MAX));
        let over = over.map(|record| record.map(|(key, ())| key)).collect::<Result<Vec<_>, _>>()?;
        for key in &over {
            self.tables.write(|txn| {
                txn.update(&self.polls, &key.1, |poll| {
                    if let Some(poll) = poll {
                        poll.open = false;
                    }
                })?;
                txn.delete(&self.closing, key)
            })?;
        }
        Ok(over.into_iter().map(|(_, id)| id).collect())
    }
}

impl Poll {
    fn is_open(&self, now: DateTime<Utc>) -> bool {
        self.open && self.closes_at.is_none_or(|closes_at| now.timestamp_millis() < closes_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use relmgr_app::testing::Alone;

    fn polls(max_options: usize) -> (Polls, Alone) {
        let alone = Alone::new().unwrap();
        (Polls::open(&alone.context("1.0.0"), max_options).unwrap(), alone)
    }

    fn new_poll(options: &[&str]) -> NewPoll {
        let options = options.iter().map(ToString::to_string).collect();
        NewPoll { question: "Tea?".into(), options, closes_at: None }
    }

    #[test]
    fn votes_are_counted() {
        let ((polls, _alone), now) = (polls(20), Utc::now());
        let id = polls.create(new_poll(&["yes", "no"])).unwrap();
        for option in [0, 1, 0] {
            polls.vote(id, option, now).unwrap();
        }
        let results = polls.results(id, now).unwrap();
        assert_eq!((results.total, results.options[0].votes, results.open), (3, 2, true));
        assert_eq!(polls.vote(id, 2, now), Err(PollError::NoOption));
        assert_eq!(polls.vote(id + 1, 0, now), Err(PollError::Unknown));
        assert_eq!(polls.newest(5).unwrap(), [(id, "Tea?".to_owned())]);
    }

    #[test]
    fn polls_that_are_none_are_refused() {
        let (polls, _alone) = polls(3);
        for options in [&["one"][..], &["a", " "], &["a", "b", "c", "d"], &[]] {
            assert!(matches!(polls.create(new_poll(options)), Err(PollError::Invalid(_))), "{options:?}");
        }
        let silent = NewPoll { question: " ".into(), ..new_poll(&["a", "b"]) };
        assert!(matches!(polls.create(silent), Err(PollError::Invalid(_))));
        assert_eq!(polls.count(), Ok(0));
    }

    #[test]
    fn a_poll_closes_at_its_time() {
        let ((polls, _alone), now) = (polls(20), Utc::now());
        let closes_at = Some(now + chrono::TimeDelta::seconds(10));
        let id = polls.create(NewPoll { closes_at, ..new_poll(&["yes", "no"]) }).unwrap();
        assert!(polls.close_expired(now).unwrap().is_empty());
        let later = now + chrono::TimeDelta::seconds(10);
        assert_eq!(polls.vote(id, 0, later), Err(PollError::Closed), "also before the child comes by");
        assert_eq!(polls.close_expired(later).unwrap(), [id]);
        assert!(polls.close_expired(later).unwrap().is_empty());
        assert!(!polls.results(id, now).unwrap().open);
    }
}
