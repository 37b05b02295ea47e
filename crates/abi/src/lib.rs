//! The contract between the host and an application's library.
//!
//! Both sides are compiled apart, perhaps by different compilers, and each has its own copy of every crate. So
//! nothing crosses here but `#[repr(C)]` types of this crate and of abi_stable, and every value that owns
//! something carries the function that frees it: what one side allocated, that side frees.
//!
//! | module | what crosses |
//! | --- | --- |
//! | [`entry`] | the one symbol by which a library is recognised: fixed header, fingerprint, root |
//! | [`root`] | the application's functions, and the host's for it; these types may grow at their ends |
//! | [`head`] | a request's head, borrowed for one call; a response |
//! | [`conf`] | settings that change while the application runs |
//! | [`children`] | the background children, as the application shows them |
//! | [`tables`] | state tables, which the host keeps |
//! | [`body`] | a body that streams, in either direction |
//! | [`session`] | long conversations whose socket is the host's |
//! | [`future`] | what is asynchronous |
//! | [`waker`] | how the one who waits is woken |
//! | [`buffer`] | bytes without a copy |
//! | [`fields`] | header and trailer fields as bytes |
//! | [`state`] | what is said of in-memory state that goes from one generation to the next |
//! | [`chunks`] | the bytes of such a state |
//! | [`record`] | the bytes of a record in a state table |
//! | [`library`] | for tools: what a built library says of itself |
//!
//! # What each side upholds
//! * A function of the library is called only while the host holds the generation, and every value that came
//!   from the library is dropped before the library is unmapped.
//! * The host is never unmapped, so the library may keep what came from the host for as long as it likes.
//! * No panic crosses: the library catches its own on its side ([`future::Poll::Panicked`]), and a panic in one
//!   of the host's functions ends the process, as `extern "C"` has it.
//! * Nothing that is borrowed outlives the call that it was lent to; lifetimes in the types hold that.

#![allow(unsafe_code, reason = "this crate is the border; every block says who upholds what")]

pub mod body;
pub mod buffer;
pub mod children;
pub mod chunks;
pub mod conf;
pub mod entry;
pub mod fields;
pub mod future;
pub mod head;
pub mod library;
pub mod record;
pub mod root;
pub mod session;
pub mod state;
pub mod tables;
pub mod waker;

/// For the export macro of `relmgr-app`.
#[doc(hidden)]
pub use abi_stable;

/// Changes when old libraries no longer fit.
pub const ABI_MAJOR: u32 = 1;

/// Grows when something is added at an end of a type of [`root`].
pub const ABI_MINOR: u32 = 3;
