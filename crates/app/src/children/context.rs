//! What a child knows of its supervisor.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// What a child has been told.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    /// Nothing yet.
    Run,
    /// To end; at this time it is dropped where it stands.
    Stop { by: Option<Instant> },
}

/// Which start of which child is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IsReady {
    pub(super) index: usize,
    pub(super) start: u64,
}

/// What a child knows of its supervisor.
#[derive(Debug, Clone)]
pub struct ChildContext {
    pub(super) order: watch::Receiver<Order>,
    /// The supervisor at the top has nobody who waits for it.
    pub(super) ready: Option<(mpsc::UnboundedSender<IsReady>, IsReady)>,
}

impl ChildContext {
    /// Resolves when the child has to end: its generation is no longer current, or its supervisor starts it again
    /// together with a sibling that ended.
    pub async fn stopping(&mut self) {
        // An error means that the supervisor is gone, which says the same.
        let _ = self.order.wait_for(|order| matches!(order, Order::Stop { .. })).await;
    }

    /// Waits for `time`, or less when the child has to end; true: end now. For periodic work.
    pub async fn stopping_within(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.stopping()).await.is_ok()
    }

    /// Says that the child is up: the children after it are started, where they
    /// [wait](super::Child::ready_within) for it.
    pub fn ready(&self) {
        if let Some((supervisor, is_ready)) = &self.ready {
            // A supervisor that is gone waits for nobody.
            let _ = supervisor.send(*is_ready);
        }
    }

    /// Whether it has to end.
    pub(super) fn is_told_to_stop(&self) -> bool {
        matches!(*self.order.borrow(), Order::Stop { .. }) || self.order.has_changed().is_err()
    }

    /// When the child is dropped where it stands; `None`: not yet known, or never.
    pub(super) fn stop_by(&self) -> Option<Instant> {
        match *self.order.borrow() {
            Order::Run => None,
            Order::Stop { by } => by,
        }
    }

    /// Resolves when the order is another one.
    pub(super) async fn told_anew(&mut self) {
        if self.order.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
