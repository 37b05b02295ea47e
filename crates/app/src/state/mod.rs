//! In-memory state that goes from one release to the next.
//!
//! ```
//! use std::sync::{Mutex, PoisonError};
//!
//! use relmgr_app::state::{CodeChange, Shape, State, Stateful};
//! use relmgr_app::{Application, Context, Error, NoSettings};
//! use serde::{Deserialize, Serialize};
//!
//! /// What the release before kept.
//! #[derive(Serialize, Deserialize, State)]
//! #[state(version = 1)]
//! struct Votes1 {
//!     count: u64,
//! }
//!
//! /// What this one keeps.
//! #[derive(Default, Serialize, Deserialize, State)]
//! #[state(version = 2)]
//! struct Votes {
//!     up: u64,
//!     down: u64,
//! }
//!
//! struct Poll(Mutex<Votes>);
//!
//! impl Stateful for Poll {
//!     type State = Votes;
//!
//!     fn code_change() -> CodeChange<Votes> {
//!         CodeChange::steps()
//!             .from(|old: Votes1| Ok(Votes { up: old.count, down: 0 }), |new: Votes| Ok(Votes1 { count: new.up }))
//!             .done()
//!     }
//!
//!     async fn suspend(&self) -> Result<Votes, Error> {
//!         Ok(std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)))
//!     }
//!
//!     async fn resume(&self, state: Votes) -> Result<(), Error> {
//!         *self.0.lock().unwrap_or_else(PoisonError::into_inner) = state;
//!         Ok(())
//!     }
//! }
//!
//! # impl Application for Poll {
//! #     type Settings = NoSettings;
//! #     type Router = axum::Router;
//! #     async fn start(_: Context, _: NoSettings) -> Result<Self, Error> { Ok(Poll(Mutex::default())) }
//! #     fn router(&self) -> axum::Router { axum::Router::new() }
//! # }
//! relmgr_app::export!(Poll, state);
//! ```
//!
//! # What happens at an upgrade
//! 1. The background children of the old release end.
//! 2. New requests wait; those whose handlers run are waited for. A handler is over when its future is: a response's
//!    body may go on streaming from the old release, and what it still does to the state after `suspend` is lost.
//! 3. The old release's [`suspend`](Stateful::suspend) gives the state. relmgr keeps it until the new release is
//!    permanent and writes it, while the new release reads it, changes it by way of
//!    [`code_change`](Stateful::code_change), and takes it over in its [`resume`](Stateful::resume).
//! 4. The new release serves, and requests go on.
//!
//! All of 2 to 4 within `upgrade.quiesce`. Whatever fails in it, the old release's `resume` gets what its `suspend`
//! gave, and serves on.
//!
//! A downgrade is the same with the roles exchanged: the *newer* release knows how to give the older one its form. It
//! changes a copy, so that its own state is untouched when that fails. A copy of a large state takes longer than all the
//! rest: [`from_ref`](Steps::from_ref) needs none, since its step down only looks at the state.
//!
//! # What changes the form
//! [`Shape`] is a description of the type with everything in it. When it differs from that of the release before,
//! `cargo relmgr release` wants a new schema version: two releases that mean different things by one schema version
//! would read each other's bytes wrongly. The state is written by position (MessagePack, structs as arrays), so the
//! derive refuses what makes positions vary: `flatten`, `untagged`, `tag`, `content`, `skip_serializing_if`.

mod change;
mod codec;
mod hand;
mod shape;
mod shared;
#[cfg(test)]
mod tests;
mod write;

use std::future::Future;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use change::{CodeChange, Steps};
pub use shape::{Outline, Shape, hash as shape_hash};

pub(crate) use hand::Kept;
#[doc(hidden)]
pub use hand::{Kind, Stateless, WithState};

/// `#[derive(State)]`: [`State`] and [`Shape`], with `#[state(version = 1)]`. `#[state(opaque)]` on a field takes its
/// type by its name, where that type has no [`Shape`].
pub use relmgr_app_derive::State;

/// `#[derive(Shape)]` for a type within a state.
pub use relmgr_app_derive::Shape;

use crate::{Application, Error};

/// A form of the state: a type and its schema version. Derived.
pub trait State: Shape + Serialize + DeserializeOwned + Send + 'static {
    /// Another one for each form that any release had.
    const SCHEMA: u32;
}

/// An application that keeps state in memory which the next release takes over. Exported by
/// `relmgr_app::export!(App, state)`.
pub trait Stateful: Application {
    /// The state in the form of this release.
    type State: State;

    /// How the state gets from older forms to this one, and back.
    fn code_change() -> CodeChange<Self::State> {
        CodeChange::none()
    }

    /// Gives the state away: no request is being handled, and no background child runs. Until
    /// [`resume`](Stateful::resume) the application need not have any. Take it out in the last step, with nothing to
    /// wait for after that: when it takes too long the future is dropped, and the application goes on with what it has.
    ///
    /// # Errors
    /// The application has kept its state, and goes on with it. One that panics is taken to have kept it too.
    fn suspend(&self) -> impl Future<Output = Result<Self::State, Error>> + Send;

    /// Takes the state: of the release before, or back what [`suspend`](Stateful::suspend) gave. Never called at the
    /// first start: what [`start`](Application::start) began with holds then.
    ///
    /// # Errors
    /// The release before goes on with its own state.
    fn resume(&self, state: Self::State) -> impl Future<Output = Result<(), Error>> + Send;
}
