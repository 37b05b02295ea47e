//! Answers that a connection may still have bytes of when their bodies are over: hyper writes what its client reads,
//! and asks a body for nothing meanwhile. So whoever breaks off a generation's answers has to find their connections.

use std::sync::Arc;
use std::sync::Mutex;

use slab::Slab;

use super::connection::{Connection, Order};
use super::generation::RequestGuard;

/// So many lists share the answers of a generation, so that they do not share one lock.
const LISTS: usize = 16;

/// The connections of a generation's answers that are streams, or large.
#[derive(Default)]
pub struct Stakes([Mutex<Slab<Arc<Connection>>>; LISTS]);

impl Stakes {
    /// Has the connections come to their end: HTTP/1.1 at once, since nothing but this answer is on it; HTTP/2 is to
    /// finish what else it carries.
    pub fn end_connections(&self) {
        self.each(|connection| {
            connection.give(if connection.is_multiplexed() { Order::Finish } else { Order::Abort });
        });
    }

    /// Has the connections end now.
    pub fn abort_connections(&self) {
        self.each(|connection| connection.give(Order::Abort));
    }

    fn each(&self, tell: impl Fn(&Connection)) {
        for list in &self.0 {
            // Whoever is told may give its place up at once.
            let connections: Vec<_> =
                super::lock(list).iter().map(|(_, connection)| connection.clone()).collect();
            connections.iter().for_each(|connection| tell(connection));
        }
    }
}

/// An answer on its way to a client: in flight until the last byte of it has been written, or given up.
pub struct Stake {
    // Never `None` but while it is dropped or taken.
    guard: Option<RequestGuard>,
    list: usize,
    place: usize,
}

impl Stake {
    /// Notes that `connection` has the answer to the request of this number.
    pub fn new(guard: RequestGuard, connection: Arc<Connection>, request_id: u64) -> Arc<Self> {
        let list = request_id as usize % LISTS;
        let place = super::lock(&guard.generation().facts.stakes.0[list]).insert(connection);
        Arc::new(Self { guard: Some(guard), list, place })
    }

    /// What holds the generation.
    pub fn guard(&self) -> &RequestGuard {
        match &self.guard {
            Some(guard) => guard,
            None => unreachable!("a stake is made of a guard"),
        }
    }

    /// Gives it up for what it holds: the connection becomes something else.
    pub fn into_guard(mut self) -> Option<RequestGuard> {
        self.leave();
        self.guard.take()
    }

    fn leave(&self) {
        if let Some(guard) = &self.guard {
            super::lock(&guard.generation().facts.stakes.0[self.list]).try_remove(self.place);
        }
    }
}

impl Drop for Stake {
    fn drop(&mut self) {
        self.leave();
    }
}
