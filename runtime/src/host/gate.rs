//! What holds requests back while the state of one generation goes to another.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::Notify;

/// The gate before the generations. While it is open, a request looks at it once.
pub struct Gate {
    held: AtomicBool,
    /// So many may wait.
    room: usize,
    waiting: AtomicUsize,
    /// Those that have waited since it was last shut.
    waited: AtomicU64,
    /// Those that found no room since then.
    refused: AtomicU64,
    opened: Notify,
}

/// There is no room for more that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRoom;

impl Gate {
    /// An open one before which `room` requests may wait when it is shut.
    pub fn new(room: usize) -> Self {
        Self {
            held: AtomicBool::new(false),
            room,
            waiting: AtomicUsize::new(0),
            waited: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            opened: Notify::new(),
        }
    }

    /// Whether requests are held back. Who has counted itself in before it asks is seen by whoever shuts the gate
    /// and counts then: both are sequentially consistent.
    #[inline]
    pub fn is_shut(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }

    /// Shuts it. One at a time: the supervisor has one operation at a time.
    pub fn shut(self: &Arc<Self>) -> Hold {
        self.waited.store(0, Ordering::Relaxed);
        self.refused.store(0, Ordering::Relaxed);
        self.held.store(true, Ordering::SeqCst);
        Hold { gate: self.clone(), since: Instant::now() }
    }

    /// Waits until the gate is open.
    pub async fn opened(&self) {
        let mut opened = pin!(self.opened.notified());
        // In the queue first: an opening in between is seen by one of the two.
        opened.as_mut().enable();
        if self.is_shut() {
            opened.await;
        }
    }

    /// A place among those that wait.
    ///
    /// # Errors
    /// [`NoRoom`], which is counted.
    pub fn place(&self) -> Result<Place<'_>, NoRoom> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.room {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(NoRoom);
        }
        self.waited.fetch_add(1, Ordering::Relaxed);
        Ok(Place(self))
    }
}

/// A request that waits.
pub struct Place<'a>(&'a Gate);

impl Place<'_> {
    /// Waits until the gate is open.
    pub async fn opened(&self) {
        self.0.opened().await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The gate is shut as long as this lives.
pub struct Hold {
    gate: Arc<Gate>,
    /// Since when.
    pub since: Instant,
}

impl Hold {
    /// How many have waited so far, and how many were refused.
    pub fn counts(&self) -> (u64, u64) {
        (self.gate.waited.load(Ordering::Relaxed), self.gate.refused.load(Ordering::Relaxed))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.gate.held.store(false, Ordering::SeqCst);
        self.gate.opened.notify_waiters();
    }
}

/// Waits for `condition` without a pause at first: mostly it is a matter of microseconds.
pub async fn soon(condition: impl Fn() -> bool) {
    const TURNS: u32 = 200;
    const GLANCE: std::time::Duration = std::time::Duration::from_millis(1);
    let mut turns = 0;
    while !condition() {
        match turns < TURNS {
            true => tokio::task::yield_now().await,
            false => tokio::time::sleep(GLANCE).await,
        }
        turns += 1;
    }
}

/// The outcome of `work`, unless it is over only after `deadline`.
pub async fn until<T>(deadline: Instant, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout_at(deadline.into(), work).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_goes_on_when_it_opens_and_who_has_no_room_is_counted() {
        let gate = Arc::new(Gate::new(2));
        let hold = gate.shut();
        let wait = |gate: Arc<Gate>| async move {
            let place = gate.place()?;
            place.opened().await;
            Ok::<_, NoRoom>(())
        };
        let waiting = [tokio::spawn(wait(gate.clone())), tokio::spawn(wait(gate.clone()))];
        soon(|| gate.waiting.load(Ordering::Relaxed) == 2).await;
        assert_eq!(gate.place().err(), Some(NoRoom));
        assert_eq!(hold.counts(), (2, 1));
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
        drop(hold);
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap(), Ok(()));
        }
        assert!(!gate.is_shut());
        assert_eq!(gate.waiting.load(Ordering::Relaxed), 0);
        // Counted anew each time.
        assert_eq!(gate.shut().counts(), (0, 0));
    }

    #[tokio::test]
    async fn one_that_gives_up_leaves_its_room() {
        let gate = Arc::new(Gate::new(1));
        let _hold = gate.shut();
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.place().unwrap().opened().await }
        });
        soon(|| gate.waiting.load(Ordering::Relaxed) == 1).await;
        waiting.abort();
        assert!(waiting.await.is_err());
        assert!(gate.place().is_ok());
    }
}
