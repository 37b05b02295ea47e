//! Who waits for changes of a table.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use relmgr_abi::tables::Changes;
use tokio::sync::watch;

/// So many changed keys are remembered: a watcher that is further behind is told to look at everything.
const REMEMBERED: usize = 1024;

/// The changes of one table. Nothing is remembered before somebody has asked.
#[derive(Default)]
pub struct Watched {
    asked: AtomicBool,
    recent: Mutex<Recent>,
    /// The number of the last change.
    last: watch::Sender<u64>,
}

#[derive(Default)]
struct Recent {
    /// The number of the last change; those before it stand in `keys`.
    last: u64,
    keys: VecDeque<Vec<u8>>,
}

impl Watched {
    /// Whether anybody has asked for changes.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transaction that changed these keys was committed. Who waits is to be told by [`announce`](Self::announce).
    pub fn changed(&self, keys: impl IntoIterator<Item = Vec<u8>>) {
        let mut recent = self.recent();
        for key in keys {
            recent.last += 1;
            recent.keys.push_back(key);
        }
        let surplus = recent.keys.len().saturating_sub(REMEMBERED);
        recent.keys.drain(..surplus);
    }

    /// Wakes those who wait for what has changed since the last time, on the calling thread.
    pub fn announce(&self) {
        let last = self.recent().last;
        self.last.send_if_modified(|told| {
            let is_news = *told < last;
            *told = last.max(*told);
            is_news
        });
    }

    /// From now on changes are remembered; the number of the last one so far.
    pub fn begin(&self) -> Changes {
        self.asked.store(true, Ordering::Release);
        Changes { seen: self.recent().last, ..Changes::default() }
    }

    /// What changed after the change number `seen`; waits for the first.
    pub async fn after(&self, seen: u64) -> Changes {
        let mut last = self.last.subscribe();
        loop {
            if let Some(changes) = self.since(seen) {
                return changes;
            }
            // The sender is `self`'s.
            if last.changed().await.is_err() {
                return Changes { seen, lost: true, keys: vec![] };
            }
        }
    }

    fn since(&self, seen: u64) -> Option<Changes> {
        let recent = self.recent();
        let new = recent.last.checked_sub(seen).filter(|new| *new > 0)?;
        let new = usize::try_from(new).unwrap_or(usize::MAX);
        let lost = new > recent.keys.len();
        let keys = recent.keys.iter().skip(recent.keys.len().saturating_sub(new));
        Some(Changes { seen: recent.last, lost, keys: if lost { vec![] } else { keys.cloned().collect() } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(numbers: std::ops::Range<u32>) -> Vec<Vec<u8>> {
        numbers.map(|number| number.to_be_bytes().to_vec()).collect()
    }

    #[test]
    fn a_watcher_hears_what_came_after_and_when_it_missed_something() {
        let watched = Watched::default();
        assert!(!watched.is_asked());
        let begun = watched.begin();
        assert!(watched.is_asked() && watched.since(begun.seen).is_none());
        watched.changed(keys(0..2));
        assert_eq!(watched.since(0).unwrap(), Changes { seen: 2, lost: false, keys: keys(0..2) });
        assert_eq!(watched.since(1).unwrap().keys, keys(1..2));
        assert!(watched.since(2).is_none());
        watched.changed(keys(2..1026));
        let late = watched.since(1).unwrap();
        assert!(late.lost && late.keys.is_empty() && late.seen == 1026);
        assert_eq!(watched.since(2).unwrap().keys, keys(2..1026));
    }
}
