//! Loading a library, and getting really rid of it again.
//!
//! `dlclose` alone unmaps nothing: a Rust library that touched a thread-local with a destructor on a thread that
//! lives on is pinned by glibc. So this executable stands in for the few functions of libc by which a library
//! leaves something behind (see [`takeover`]), keeps what they are told per thread and per library, and runs it
//! itself when a generation retires:
//!
//! 1. The library is *condemned*: nothing of it is in use any more, its own threads have ended.
//! 2. Each thread of the host passes a *quiescent state*, a point at which no code of any library is on its
//!    stack (tokio's park and unpark, and the top of a task), and runs there what the library left on that
//!    thread, last registered first, until nothing is left. This is RCU's grace period with work at its end.
//! 3. `dlclose`, and a look at the process's maps whether the library is gone.
//! 4. Its address range stays reserved without access until a later retirement, so that a stray pointer faults
//!    at once, with the release's name in the host's last words, and never runs somebody else's code.
//!
//! What makes it unsafe to unmap is counted, never hoped for: registrations, living threads, signal handlers.
//! Values that the host still holds are the caller's to count ([`super::generation`]).
//!
//! | file | what |
//! | --- | --- |
//! | [`takeover`] | the functions that stand in for libc's |
//! | [`registry`] | which library an address belongs to, and what it left where |
//! | [`threads`] | a thread's own record: its registrations, its quiescent states, its end |
//! | [`library`] | one library: open, symbols, close, proof |
//! | [`stray`] | whose addresses a fault met |
//! | [`vouched`] | that what is opened is what was verified |
//! | [`sys`] | the remaining system calls that have no safe form |

#![allow(unsafe_code, reason = "the loader is one of the rooms for it; each block says who upholds what")]

pub mod library;
pub mod registry;
pub mod stray;
pub mod sys;
pub mod takeover;
pub mod threads;
pub mod vouched;
