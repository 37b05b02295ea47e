//! Sessions: long conversations that live across swaps. The socket, the framing, the queue and the state are the
//! host's; a generation is held for the length of one event's handler.
//!
//! ```text
//! websocket   the handshake, frames            tcp   accept, lines, lengths, bytes
//!     └────────────── conversation ──────────────┘
//!                        reading: one message after the other, each to the current generation (deliver)
//!                        writing: the session's outbox
//! hearing     when the client was last heard: what is read passes it
//! hub         all sessions by number, topics, counts; what the library's functions for sessions reach
//! upgraded    connections that a router took over: pinned to their generation, ended with 1012 at its drain's end
//! ```

pub mod closing;
pub mod conversation;
mod deliver;
pub mod end;
mod frames;
mod hearing;
pub mod hub;
pub mod session;
pub mod tcp;
pub mod upgraded;
pub mod websocket;

use super::front::Front;
use super::generation::RequestGuard;

/// Takes the generation that serves, for one event of a session: the one place where sessions do. `None`: none
/// serves.
///
/// During a code change they wait, as requests do, but all of them: a session waits with one event at a time, so no more
/// wait than there are connections.
pub async fn enter(front: &Front) -> Option<RequestGuard> {
    loop {
        let guard = RequestGuard::of_session(front.current.load())?;
        // Counted in first, as in `Front::try_enter`.
        if !front.gate.is_shut() {
            return Some(guard);
        }
        guard.withdraw();
        front.gate.opened().await;
    }
}
