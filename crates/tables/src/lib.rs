//! The store behind state tables: LMDB, one environment for all tables of a node.
//!
//! ```text
//! store         opens the environment; tables, users, facts
//!   └─ handle       one generation's access, offered across the border
//!        └─ transaction   what a callback is lent
//! copy          copies, and what tells two of them apart
//! watch         who waits for changes
//! ```
//!
//! The environment holds a *directory* (which tables there are, and of which types), the records *kept aside*, and one
//! database for each table. LMDB is crash-safe as it is used here: a transaction's pages are written beside those in
//! use, and its last write, of one page, puts them in force. The map is read-only for the process, so that a stray
//! write of an application faults and changes no record; a process that is killed while it holds the write lock leaves
//! it to the next one (a robust mutex).

mod copy;
mod handle;
mod store;
mod transaction;
mod watch;

pub use handle::Handle;
pub use store::{Facts, MAX_TABLES, OpenError, Options, Store, Sync, TableFacts};
