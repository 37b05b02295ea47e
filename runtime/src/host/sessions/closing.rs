//! Ending many sessions, with a spread in time: thousands of clients must not come back in the same second.

use std::sync::Arc;
use std::time::Duration;

use super::super::front::Front;
use super::end::End;
use super::hub::{HUB, Hub};
use super::session::Session;

/// So much time for each, where there is enough: 200 clients a second come back.
const EACH: Duration = Duration::from_millis(5);

/// Ends `sessions` one after the other, all of them within `time`.
async fn end(sessions: Vec<Arc<Session>>, end: End, time: Duration) {
    let count = u32::try_from(sessions.len()).unwrap_or(u32::MAX);
    let spread = time.min(EACH * count);
    let begun = tokio::time::Instant::now();
    for (number, session) in (0..count).zip(sessions) {
        let due = spread * number / count;
        // A timer has a millisecond at best.
        if due > begun.elapsed() + Duration::from_millis(1) {
            tokio::time::sleep_until(begun + due).await;
        }
        session.end(end.clone());
    }
}

impl Hub {
    /// Ends all sessions within `time`: the host stops.
    pub async fn end_all(&self, time: Duration) {
        end(self.all(), End::Restart, time).await;
    }

    /// Ends, within `time`, the sessions that the release that serves does not take.
    pub async fn end_strangers(&self, front: &Front, time: Duration) {
        let strangers = {
            let current = front.current.load();
            let Some(current) = current.as_deref() else { return };
            let is_stranger =
                |session: &Arc<Session>| current.offer().find(session.kind, &session.path).is_none();
            self.all().into_iter().filter(is_stranger).collect()
        };
        end(strangers, End::NotServed, time).await;
    }
}

/// As [`Hub::end_strangers`], in the background: whoever waits for a retirement does not wait for that.
pub fn end_strangers_of(front: Arc<Front>, time: Duration) {
    tokio::spawn(async move { HUB.end_strangers(&front, time).await });
}
