//! All sessions of the host, by number and by topic, and what is counted of them.
//!
//! There is one for the process: the functions that libraries reach it by carry no place for another.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use relmgr_abi::head::ConnectionFacts;
use relmgr_abi::session::{DONE, FULL, GONE, Kind};
use relmgr_model::sessions::{OpenSessions, SessionCounts, SessionLimits, SessionTotals};

use super::super::lock;
use super::end::End;
use super::session::{NotQueued, Out, Session};

/// So many parts share the sessions, so that those who look one up seldom meet.
const PARTS: usize = 16;

/// All sessions.
pub struct Hub {
    limits: OnceLock<SessionLimits>,
    next: AtomicU64,
    parts: [RwLock<HashMap<u64, Arc<Session>>>; PARTS],
    topics: RwLock<HashMap<String, Arc<Topic>>>,
    counts: Counts,
}

/// Whoever publishes holds it, so that a topic's messages reach all in the same order.
type Topic = Mutex<HashMap<u64, Arc<Session>>>;

#[derive(Default)]
struct Counts {
    websocket: AtomicU64,
    tcp: AtomicU64,
    upgraded: AtomicU64,
    begun: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    ended: Mutex<BTreeMap<&'static str, u64>>,
}

/// The process's sessions.
pub static HUB: LazyLock<Hub> = LazyLock::new(|| Hub {
    limits: OnceLock::new(),
    // Numbers are not given twice, by no later host either: no host begins so many sessions that it would get ahead of
    // the clock by one a microsecond.
    next: AtomicU64::new(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(1, |since| u64::try_from(since.as_micros()).unwrap_or(1)),
    ),
    parts: std::array::from_fn(|_| RwLock::default()),
    topics: RwLock::default(),
    counts: Counts::default(),
});

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A session that is in the hub for as long as this is.
pub struct Entered {
    /// The session.
    pub session: Arc<Session>,
    begun: bool,
}

impl Entered {
    /// It was accepted: it counts from now on.
    pub fn begin(&mut self) {
        self.begun = true;
        HUB.counts.begun.fetch_add(1, Ordering::Relaxed);
        HUB.open(self.session.kind).fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // Whatever ended it, nothing is queued for it any more.
        self.session.cut(End::Lost);
        HUB.remove(&self.session);
        if self.begun {
            HUB.open(self.session.kind).fetch_sub(1, Ordering::Relaxed);
            let end = self.session.ending().unwrap_or(End::Lost);
            *lock(&HUB.counts.ended).entry(end.name()).or_default() += 1;
        }
    }
}

/// A connection that a router took over, counted for as long as this is.
pub struct Taken(());

impl Taken {
    /// Counts one.
    pub fn count() -> Self {
        HUB.counts.upgraded.fetch_add(1, Ordering::Relaxed);
        Self(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        HUB.counts.upgraded.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hub {
    /// Sets what a session may take up; once, before there is one.
    pub fn set_limits(&self, limits: SessionLimits) {
        let _ = self.limits.set(limits);
    }

    /// What a session may take up.
    pub fn limits(&self) -> &SessionLimits {
        self.limits.get_or_init(SessionLimits::default)
    }

    /// A new session.
    pub fn enter(&self, kind: Kind, path: String, facts: ConnectionFacts) -> Entered {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let session = Arc::new(Session::new(id, kind, path, facts));
        write(self.part(id)).insert(id, session.clone());
        Entered { session, begun: false }
    }

    fn part(&self, id: u64) -> &RwLock<HashMap<u64, Arc<Session>>> {
        &self.parts[id as usize % PARTS]
    }

    fn open(&self, kind: Kind) -> &AtomicU64 {
        match kind {
            Kind::Websocket => &self.counts.websocket,
            Kind::Tcp => &self.counts.tcp,
        }
    }

    fn find(&self, id: u64) -> Option<Arc<Session>> {
        read(self.part(id)).get(&id).cloned()
    }

    /// All sessions.
    pub fn all(&self) -> Vec<Arc<Session>> {
        self.parts.iter().flat_map(|part| read(part).values().cloned().collect::<Vec<_>>()).collect()
    }

    fn remove(&self, session: &Session) {
        write(self.part(session.id)).remove(&session.id);
        // Under the lock that `subscribe` holds, so that nothing is subscribed behind its back.
        let mut topics = lock(&session.topics);
        for name in std::mem::take(&mut *topics) {
            self.leave(&name, session.id);
        }
    }

    fn leave(&self, name: &str, id: u64) {
        let mut topics = write(&self.topics);
        if let Some(topic) = topics.get(name) {
            let mut topic_sessions = lock(topic);
            topic_sessions.remove(&id);
            let empty = topic_sessions.is_empty();
            drop(topic_sessions);
            if empty {
                topics.remove(name);
            }
        }
    }

    /// Counts a message of a client.
    pub fn received(&self) {
        self.counts.received.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a message that went to a client.
    pub fn sent(&self) {
        self.counts.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// Queues a message.
    pub fn send(&self, id: u64, kind: u8, bytes: Bytes) -> u8 {
        let Some(session) = self.find(id) else { return GONE };
        match session.push(Out::Message(kind, bytes), self.limits().queue_bytes) {
            Ok(()) => DONE,
            Err(NotQueued::Gone) => GONE,
            Err(NotQueued::Full) => FULL,
        }
    }

    /// Ends a session for the application.
    pub fn end(&self, id: u64, code: u16, reason: &str) -> u8 {
        let Some(session) = self.find(id) else { return GONE };
        // Other codes may not be sent (RFC 6455, 7.4).
        let code = if matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) { code } else { 1000 };
        let reason = reason.to_owned();
        if session.end(End::Application { code, reason }) { DONE } else { GONE }
    }

    /// Subscribes a session to a topic, or no longer.
    pub fn subscribe(&self, id: u64, name: &str, subscribed: bool) -> u8 {
        let Some(session) = self.find(id) else { return GONE };
        let mut known = lock(&session.topics);
        let place = known.iter().position(|known| known == name);
        match (place, subscribed) {
            (None, true) => {
                // Looked up again under the lock: a session that was removed meanwhile subscribes to nothing.
                if self.find(id).is_none() {
                    return GONE;
                }
                known.push(name.to_owned());
                // The topic may be removed as long as nobody is in it: entered under the lock of all topics.
                let mut topics = write(&self.topics);
                lock(topics.entry(name.to_owned()).or_default()).insert(id, session.clone());
            }
            (Some(place), false) => {
                known.swap_remove(place);
                self.leave(name, id);
            }
            _ => {}
        }
        DONE
    }

    /// Queues a message for every session that is subscribed; for how many.
    pub fn publish(&self, name: &str, kind: u8, bytes: &Bytes) -> u64 {
        let Some(topic) = read(&self.topics).get(name).cloned() else { return 0 };
        let limit = self.limits().queue_bytes;
        let sessions = lock(&topic);
        let queued = sessions
            .values()
            .filter(|session| session.push(Out::Message(kind, bytes.clone()), limit).is_ok());
        queued.count() as u64
    }

    /// What there is and what there was.
    pub fn counts(&self) -> SessionCounts {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let ended = lock(&self.counts.ended).iter().map(|(end, count)| ((*end).to_owned(), *count)).collect();
        SessionCounts {
            open: OpenSessions {
                websocket: of(&self.counts.websocket),
                tcp: of(&self.counts.tcp),
                upgraded: of(&self.counts.upgraded),
            },
            totals: SessionTotals {
                begun: of(&self.counts.begun),
                received: of(&self.counts.received),
                sent: of(&self.counts.sent),
                ended,
            },
        }
    }
}
