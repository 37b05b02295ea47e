//! Another relmgr in the place of this one: same process, same sockets, no request lost.
//!
//! 1. [`Candidate`]: the new binary is opened, and what was opened is asked whether it can take over. It reads the
//!    settings, the record and the configuration and tries the release; only its yes goes further.
//! 2. The operation is noted in `state.json`.
//! 3. [`hand_over`]: whoever asks the supervisor waits in the backlog; the host has answered everything; what goes on
//!    is described in a file in memory; `exec`.
//! 4. [`Received`]: the new image takes lock, sockets and host over. From here on a host that does not come up, or a
//!    configuration that has become wrong, leaves the old host serving.
//! 5. `handler::complete`: a host of the new binary takes the place of the old one, as in `relmgr restart`.
//!
//! What goes wrong up to `exec` changes nothing. A death after it is the death of a supervisor: the host ends by
//! itself, the next start boots the permanent release and says what was interrupted.

mod adopt;
mod candidate;
mod door;
mod hand_over;
mod received;

pub use adopt::adopt;
pub use candidate::{Candidate, CandidateError, answer};
pub use door::Door;
pub use hand_over::{HandOverError, hand_over};
pub use received::{Received, ReceivedError, await_children, hear_signals, received};
