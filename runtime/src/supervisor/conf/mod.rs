//! The application's configuration while the node runs.
//!
//! ```text
//! watch      sees that files changed (places: which ones; quiet: when the writers are done)
//!   └─ reload   evaluates anew, tells the application, keeps account
//! ```
//!
//! A reload and an operation never meet: both hold `Node::operations`. What the watch or SIGHUP asks for waits for
//! the operation that is under way; `relmgr reload` is refused like any second operation.

mod notices;
mod places;
mod quiet;
mod reload;
mod show;
mod watch;

pub use notices::{outdated, schema_notices};
pub use places::Places;
pub use reload::{Cause, ReloadError, Reloaded, reload, reload_by_itself, write_effective};
pub use show::{differences, effective};
pub use watch::{Watch, watch};
