//! Webhooks: for each a queue of its own and a task that empties it in order. A server that hangs holds up what comes
//! after it in its own queue and nothing else. What waits when another relmgr takes over goes along.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Uri;
use relmgr_model::home::Home;
use relmgr_model::notify::{Event, Notification};
use relmgr_model::settings::{Settings, SettingsError};
use relmgr_model::takeover::Untold;
use tokio::sync::{Notify, watch};

use super::super::lock;
use super::deliver::{Delivery, Server};

/// So many notifications wait for a server: a day's worth of a node that is upgraded often. What comes beyond is
/// dropped, counted and logged.
const QUEUE: usize = 256;

/// So much of what waits is handed over to another image of the supervisor, each webhook's share the same: full queues
/// of eight webhooks. In JSON once more it is twice that at worst, half of what the other image reads.
const HANDED_OVER: usize = 1024 * 1024;

/// The webhooks of a node.
#[derive(Debug)]
pub struct Webhooks {
    queues: Vec<Arc<Queue>>,
    counts: Arc<Mutex<Delivered>>,
    /// How many notifications are not at their end.
    pending: watch::Sender<usize>,
}

/// How many notifications came to what, by the server's host.
pub type Delivered = BTreeMap<(String, &'static str), u64>;

/// What waits for one server.
#[derive(Debug)]
struct Queue {
    url: String,
    events: Vec<Event>,
    server: Server,
    /// The first one is being tried, and stays until it is at its end.
    waiting: Mutex<VecDeque<Arc<Delivery>>>,
    more: Notify,
}

impl Queue {
    fn first(&self) -> Option<Arc<Delivery>> {
        lock(&self.waiting).front().cloned()
    }

    /// Whether there is room for it.
    fn push(&self, delivery: Delivery) -> bool {
        let mut waiting = lock(&self.waiting);
        let fits = waiting.len() < QUEUE;
        if fits {
            waiting.push_back(Arc::new(delivery));
            self.more.notify_one();
        }
        fits
    }

    /// The oldest that take `bytes` at most.
    fn untold(&self, bytes: usize) -> Untold {
        let waiting = lock(&self.waiting);
        let mut room = bytes;
        let fitting = waiting.iter().map_while(|delivery| {
            room = room.checked_sub(delivery.bytes())?;
            Some(delivery.left())
        });
        let deliveries: Vec<_> = fitting.collect();
        let rest = waiting.len() - deliveries.len();
        if rest > 0 {
            let webhook = self.server.host();
            tracing::error!(webhook, "the last {rest} notifications are too much to be handed over");
        }
        Untold { url: self.url.clone(), deliveries }
    }
}

impl Webhooks {
    /// The words in which deliveries are counted.
    pub const OUTCOMES: [&'static str; 3] = ["delivered", "failed", "dropped"];

    /// Those of `settings` of the node in `home`; each has its task from here on. `untold` waited for them in another
    /// image of the supervisor.
    ///
    /// # Errors
    /// [`SettingsError::Value`] for an address that is none.
    pub fn start(home: &Home, settings: &Settings, mut untold: Vec<Untold>) -> Result<Self, SettingsError> {
        let counts = Arc::new(Mutex::new(Delivered::new()));
        let pending = watch::Sender::new(0);
        let mut queues = vec![];
        for webhook in &settings.webhooks {
            let server = Server::new(home, webhook)?;
            for outcome in Self::OUTCOMES {
                lock(&counts).insert((server.host().to_owned(), outcome), 0);
            }
            let own = untold.iter().position(|other| other.url == webhook.url).map(|at| untold.remove(at));
            let deliveries = own.map(|own| own.deliveries).unwrap_or_default().into_iter();
            let waiting: VecDeque<_> = deliveries.map(|left| Arc::new(Delivery::received(left))).collect();
            pending.send_modify(|pending| *pending += waiting.len());
            let (url, events, waiting) = (webhook.url.clone(), webhook.events.clone(), Mutex::new(waiting));
            let queue = Arc::new(Queue { url, events, server, waiting, more: Notify::new() });
            tokio::spawn(empty(queue.clone(), counts.clone(), pending.clone()));
            queues.push(queue);
        }
        for Untold { url, deliveries } in untold.iter().filter(|untold| !untold.deliveries.is_empty()) {
            let (uri, dropped) = (url.parse::<Uri>().ok(), deliveries.len());
            let webhook = uri.as_ref().and_then(Uri::authority).map(tracing::field::display);
            tracing::error!(webhook, "it is no longer in relmgr.toml: {dropped} notifications are dropped");
        }
        Ok(Self { queues, counts, pending })
    }

    /// Tells all that want to know, and does not wait.
    pub fn tell(&self, notification: &Notification) {
        for queue in &self.queues {
            if !queue.events.is_empty() && !queue.events.contains(&notification.event) {
                continue;
            }
            self.pending.send_modify(|pending| *pending += 1);
            if !queue.push(Delivery::new(notification)) {
                self.pending.send_modify(|pending| *pending -= 1);
                let webhook = queue.server.host();
                tracing::error!(webhook, "{QUEUE} notifications wait: this one is dropped");
                count(&self.counts, webhook, "dropped");
            }
        }
    }

    /// What waits, for another image of the supervisor, in the order of the settings.
    pub fn untold(&self) -> Vec<Untold> {
        let share = HANDED_OVER / self.queues.len().max(1);
        self.queues.iter().map(|queue| queue.untold(share)).collect()
    }

    /// Waits until all of them are at their end, or `patience` is over.
    pub async fn settle(&self, patience: Duration) {
        let mut pending = self.pending.subscribe();
        let _ = tokio::time::timeout(patience, pending.wait_for(|pending| *pending == 0)).await;
    }

    /// How many notifications came to what.
    pub fn counts(&self) -> Delivered {
        lock(&self.counts).clone()
    }
}

async fn empty(queue: Arc<Queue>, counts: Arc<Mutex<Delivered>>, pending: watch::Sender<usize>) {
    let server = &queue.server;
    loop {
        let Some(delivery) = queue.first() else {
            queue.more.notified().await;
            continue;
        };
        let outcome = match server.deliver(&delivery).await {
            Ok(()) => "delivered",
            Err(error) => {
                let (event, id) = (&delivery.event, &delivery.id);
                tracing::error!(webhook = server.host(), event, id, "it is not told: {error}");
                "failed"
            }
        };
        lock(&queue.waiting).pop_front();
        count(&counts, server.host(), outcome);
        pending.send_modify(|pending| *pending -= 1);
    }
}

fn count(counts: &Mutex<Delivered>, host: &str, outcome: &'static str) {
    *lock(counts).entry((host.to_owned(), outcome)).or_default() += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: &str = "app = \"a\"\n[repository]\nurl = \"file:///x\"\n";

    fn settings(webhooks: &str) -> Settings {
        Settings::parse(&format!("{SETTINGS}{webhooks}")).unwrap()
    }

    /// A `[[webhooks]]` of this path, which is told of one event.
    fn webhook(path: &str, event: &str) -> String {
        format!("[[webhooks]]\nurl = \"http://127.0.0.1:1/{path}\"\nevents = [\"{event}\"]\n")
    }

    fn notification(event: &str, error: &str) -> Notification {
        let at = "2026-11-20T19:31:02Z";
        serde_json::from_value(serde_json::json!({
            "format": 1, "event": event, "at": at, "app": "a", "node": "", "home": "", "kind": "upgrade",
            "error": error,
        }))
        .unwrap()
    }

    fn ids(untold: &Untold) -> Vec<&str> {
        untold.deliveries.iter().map(|delivery| delivery.id.as_str()).collect()
    }

    // Nothing is awaited in these: no task of theirs runs, and nobody is asked anything.

    #[tokio::test]
    async fn what_is_handed_over_is_bounded_and_the_oldest() {
        let text = [webhook("a", "failed"), webhook("b", "committed")].concat();
        let webhooks = Webhooks::start(&Home::new("/x"), &settings(&text), vec![]).unwrap();
        // What JSON makes the most of.
        let long = "\"".repeat(5000);
        for at in 0..=QUEUE {
            webhooks.tell(&notification("failed", &format!("{at} {long}")));
        }
        webhooks.tell(&notification("committed", ""));
        assert_eq!(webhooks.counts()[&("127.0.0.1:1".to_owned(), "dropped")], 1);
        let untold = webhooks.untold();
        let (long, short) = (&untold[0].deliveries, &untold[1].deliveries);
        assert!(long.len() > 40 && long.len() < QUEUE, "{}", long.len());
        assert!(long.iter().enumerate().all(|(at, one)| one.body.contains(&format!("\"error\":\"{at} "))));
        assert_eq!(short.len(), 1, "one webhook's share is not another one's");
        let bytes = serde_json::to_vec(&untold).unwrap().len();
        assert!(bytes < 2 * HANDED_OVER, "{bytes}");
    }

    #[tokio::test]
    async fn each_webhook_gets_its_own_back() {
        let twice = [webhook("a", "failed"), webhook("a", "committed")].concat();
        let (home, events) = (Home::new("/x"), ["failed", "committed", "restarted", "failed"]);
        let before = [webhook("gone", "restarted"), twice.clone()].concat();
        let before = Webhooks::start(&home, &settings(&before), vec![]).unwrap();
        events.iter().for_each(|event| before.tell(&notification(event, "")));
        let untold = before.untold();
        assert_eq!(untold.iter().map(|one| one.deliveries.len()).collect::<Vec<_>>(), [1, 2, 1]);

        // One is gone, and one is new.
        let after = [webhook("new", "failed"), twice].concat();
        let after = Webhooks::start(&home, &settings(&after), untold.clone()).unwrap();
        after.tell(&notification("failed", ""));
        let now = after.untold();
        assert_eq!(now.iter().map(|one| one.deliveries.len()).collect::<Vec<_>>(), [1, 3, 1]);
        assert_eq!((&ids(&now[1])[..2], ids(&now[2])), (&ids(&untold[1])[..], ids(&untold[2])));
        assert_eq!(now[2].deliveries[0].body, untold[2].deliveries[0].body);
        assert_eq!(*after.pending.borrow(), 5, "a stop waits for what was handed over, too");
    }
}
