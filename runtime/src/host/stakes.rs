//! Answers that a connection may still have bytes of when their bodies are over: hyper writes what its client reads,
//! and asks a body for nothing meanwhile. So whoever breaks off a generation's answers has to find their connections.

use std::sync::Arc;

use super::connection::Connection;
use super::generation::RequestGuard;

/// An answer on its way to a client: in flight until the last byte of it has been written, or given up.
pub struct Stake {
    // Never `None` but while it is dropped or taken.
    guard: Option<RequestGuard>,
    connection: Arc<Connection>,
}

impl Stake {
    /// Notes that `connection` has an answer of `guard`'s generation.
    pub fn new(guard: RequestGuard, connection: Arc<Connection>) -> Self {
        connection.stake(guard.generation().facts.id);
        Self { guard: Some(guard), connection }
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
            self.connection.unstake(guard.generation().facts.id);
        }
    }
}

impl Drop for Stake {
    fn drop(&mut self) {
        self.leave();
    }
}
