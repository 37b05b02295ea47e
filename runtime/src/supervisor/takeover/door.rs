//! The way in to the supervisor: closed for the moment in which another image takes its place, so that nobody is in
//! the middle of a question then. Who comes meanwhile waits in the backlog, which the next image inherits.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// How often it is looked whether everybody has left.
const GLANCE: Duration = Duration::from_millis(1);

/// A connection that was accepted has sent its question by then, or waits with it.
const LAST_IN: Duration = Duration::from_millis(5);

/// Where questions to the supervisor come in.
#[derive(Debug)]
pub struct Door {
    open: watch::Sender<bool>,
    inside: Arc<()>,
}

impl Default for Door {
    fn default() -> Self {
        Self { open: watch::Sender::new(true), inside: Arc::default() }
    }
}

/// A question that is being answered.
#[derive(Debug)]
pub struct Visit {
    _inside: Arc<()>,
}

impl Door {
    /// What `accept` gives once the door is open; `None`: it was closed before somebody came.
    pub async fn let_in<T>(&self, accept: impl Future<Output = T>) -> Option<T> {
        let mut open = self.open.subscribe();
        // The sender lives as long as this.
        let _ = open.wait_for(|open| *open).await;
        tokio::select! {
            biased;
            _ = open.wait_for(|open| !open) => None,
            accepted = accept => Some(accepted),
        }
    }

    /// A question is being answered until this is dropped.
    pub fn visit(&self) -> Visit {
        Visit { _inside: self.inside.clone() }
    }

    /// Lets nobody in any more and waits until everybody has left, or for `patience`.
    pub async fn close(&self, patience: Duration) {
        self.open.send_replace(false);
        tokio::time::sleep(LAST_IN).await;
        let left = async {
            while Arc::strong_count(&self.inside) > 1 {
                tokio::time::sleep(GLANCE).await;
            }
        };
        // Who takes longer than that asks again.
        let _ = tokio::time::timeout(patience, left).await;
    }

    /// Lets people in again.
    pub fn reopen(&self) {
        self.open.send_replace(true);
    }
}
