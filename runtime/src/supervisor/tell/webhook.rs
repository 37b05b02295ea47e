//! Webhooks: for each a queue of its own and a task that empties it in order. A server that hangs holds up what comes
//! after it in its own queue and nothing else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relmgr_model::home::Home;
use relmgr_model::notify::{Event, Notification};
use relmgr_model::settings::{Settings, SettingsError};
use tokio::sync::{mpsc, watch};

use super::super::lock;
use super::deliver::{Delivery, Server};

/// So many notifications wait for a server: a day's worth of a node that is upgraded often. What comes beyond is
/// dropped, counted and logged.
const QUEUE: usize = 256;

/// The webhooks of a node.
#[derive(Debug)]
pub struct Webhooks {
    servers: Vec<Queue>,
    counts: Arc<Mutex<Delivered>>,
    /// How many notifications are not at their end.
    pending: watch::Sender<usize>,
}

/// How many notifications came to what, by the server's host.
pub type Delivered = BTreeMap<(String, &'static str), u64>;

#[derive(Debug)]
struct Queue {
    host: String,
    events: Vec<Event>,
    waiting: mpsc::Sender<Delivery>,
}

impl Webhooks {
    /// The words in which deliveries are counted.
    pub const OUTCOMES: [&'static str; 3] = ["delivered", "failed", "dropped"];

    /// Those of `settings` of the node in `home`; each has its task from here on.
    ///
    /// # Errors
    /// [`SettingsError::Value`] for an address that is none.
    pub fn start(home: &Home, settings: &Settings) -> Result<Self, SettingsError> {
        let counts = Arc::new(Mutex::new(Delivered::new()));
        let pending = watch::Sender::new(0);
        let mut servers = vec![];
        for webhook in &settings.webhooks {
            let server = Server::new(home, webhook)?;
            let host = server.host().to_owned();
            for outcome in Self::OUTCOMES {
                lock(&counts).insert((host.clone(), outcome), 0);
            }
            let (waiting, deliveries) = mpsc::channel(QUEUE);
            tokio::spawn(empty(server, deliveries, counts.clone(), pending.clone()));
            servers.push(Queue { host, events: webhook.events.clone(), waiting });
        }
        Ok(Self { servers, counts, pending })
    }

    /// Tells all that want to know, and does not wait.
    pub fn tell(&self, notification: &Notification) {
        for server in &self.servers {
            if !server.events.is_empty() && !server.events.contains(&notification.event) {
                continue;
            }
            self.pending.send_modify(|pending| *pending += 1);
            if server.waiting.try_send(Delivery::new(notification)).is_err() {
                self.pending.send_modify(|pending| *pending -= 1);
                tracing::error!(webhook = server.host, "{QUEUE} notifications wait: this one is dropped");
                count(&self.counts, &server.host, "dropped");
            }
        }
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

async fn empty(
    server: Server,
    mut deliveries: mpsc::Receiver<Delivery>,
    counts: Arc<Mutex<Delivered>>,
    pending: watch::Sender<usize>,
) {
    while let Some(delivery) = deliveries.recv().await {
        let outcome = match server.deliver(&delivery).await {
            Ok(()) => "delivered",
            Err(error) => {
                let (event, id) = (delivery.event.name(), &delivery.id);
                tracing::error!(webhook = server.host(), event, id, "it is not told: {error}");
                "failed"
            }
        };
        count(&counts, server.host(), outcome);
        pending.send_modify(|pending| *pending -= 1);
    }
}

fn count(counts: &Mutex<Delivered>, host: &str, outcome: &'static str) {
    *lock(counts).entry((host.to_owned(), outcome)).or_default() += 1;
}
