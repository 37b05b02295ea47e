//! State tables: named tables of records that the host keeps for the application. They outlive releases, and deaths of
//! the host.
//!
//! ```no_run
//! use relmgr_app::tables::{Record, Table};
//! use relmgr_app::{Context, Error};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Poll {
//!     question: String,
//! }
//!
//! impl Record for Poll {
//!     const NAME: &'static str = "poll";
//! }
//!
//! fn open(context: &Context) -> Result<(), Error> {
//!     let polls: Table<u64, Poll> = context.table("polls")?;
//!     let votes: Table<(u64, u32), u64> = context.table("votes")?;
//!     polls.put(&7, &Poll { question: "Tea?".into() })?;
//!     votes.add(&(7, 0), 1)?;
//!     for vote in votes.prefix(&(7_u64,)) {
//!         let ((_, option), count) = vote?;
//!         println!("{option}: {count}");
//!     }
//!     Ok(())
//! }
//! ```
//!
//! * **Each call is a transaction** of its own; [`Tables::read`] and [`Tables::write`] make one of several. A
//!   transaction that writes has all tables to itself: do in it what must be done together, and nothing that waits.
//!   When the closure fails or panics, nothing has changed. Where the node has its tables on disk with
//!   `tables.sync = "commit"`, a commit waits for the disk: call from `tokio::task::spawn_blocking`.
//! * **Tables are opened in [`start`](crate::Application::start)**, all of them: what a release has open when it begins
//!   to serve is what is swept, and what is made readable for an older release that takes over.
//! * **Schema versions.** A [`Record`] says its [`SCHEMA`](Record::SCHEMA). A record of an older one is migrated on
//!   the way when it is read ([`Record::up`]); a sweep in the background rewrites what is left. While an older release
//!   may be asked again (in a drain, on probation), what is written has its form too ([`Record::down`]).
//! * **A record that cannot be read** is not there for the reader. It is never dropped: the sweep keeps it aside, and
//!   a release that can read it gets it back. `relmgr status` counts.
//!
//! | module | what |
//! | --- | --- |
//! | `key`, `record` | values as bytes |
//! | `transaction` | several operations as one |
//! | `table`, `range` | one operation; iteration in batches |
//! | `watch` | waiting for changes |
//! | `sweep` | migration, expiry, what is kept aside |

mod key;
mod range;
mod record;
mod sweep;
mod table;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod transaction;
mod watch;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use relmgr_abi::root::HostRef;
use relmgr_abi::tables::{FfiStore, TableFault, TableSpec, kind};
use tokio::sync::Notify;

pub use key::Key;
pub use range::Range;
pub use record::{Form, Older, Record};
pub use table::Table;
pub use transaction::{Counter, Read, Write};
pub use watch::{Changed, Watch};

pub(crate) use sweep::Sweeper;

/// Why something in a table was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The host is older than this library's relmgr-app.
    #[error("this host has no state tables: it is older than contract 1.3, update relmgr on this machine")]
    None,
    /// The store's own words.
    #[error("{0}")]
    Store(String),
    /// Nothing more fits.
    #[error("{0}")]
    Full(String),
    /// The table holds something else.
    #[error("{0}")]
    Type(String),
    /// The release has stopped.
    #[error("{0}")]
    Closed(String),
    /// The table of this name was not opened in `start`.
    #[error(
        "table `{0}` was not opened in `start`: open it there, or a downgrade would not hand its records down, and \
         nothing would migrate or expire them"
    )]
    Late(String),
    /// A transaction within a transaction.
    #[error("{0}")]
    Nested(String),
    /// No key for a table.
    #[error("{0}")]
    Key(String),
    /// The value cannot be encoded.
    #[error("the record cannot be encoded: {0}")]
    Encode(String),
    /// A counter would pass its type's limit.
    #[error("the counter would pass the limit of its type")]
    Overflow,
}

impl From<TableFault> for TableError {
    fn from(fault: TableFault) -> Self {
        let words = fault.words.into_string();
        match fault.kind {
            kind::FULL => Self::Full(words),
            kind::TYPE => Self::Type(words),
            kind::CLOSED => Self::Closed(words),
            kind::NESTED => Self::Nested(words),
            kind::KEY => Self::Key(words),
            _ => Self::Store(words),
        }
    }
}

/// The node's tables, as one generation has them open. Cheap to clone.
#[derive(Clone)]
pub struct Tables(Arc<Inner>);

pub(crate) struct Inner {
    store: FfiStore,
    open: Mutex<BTreeMap<u32, Arc<Opened>>>,
    /// The application has started: what is not open now stays so.
    settled: AtomicBool,
    /// There is something for the sweep to do.
    due: Notify,
}

/// What is known of an open table.
pub(crate) struct Opened {
    name: String,
    number: u32,
    /// A sweep has read every record: what is overwritten need not be looked at.
    clean: AtomicBool,
    /// Some records have a time.
    expires: AtomicBool,
    /// Records that could not be read, as far as this generation has met them.
    unreadable: AtomicU64,
    swept: Box<dyn sweep::Swept>,
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables").finish_non_exhaustive()
    }
}

impl Tables {
    /// # Errors
    /// [`TableError::None`], or why the host cannot open them.
    pub(crate) fn of(host: HostRef, version: &str) -> Result<Self, TableError> {
        let tables = host.tables().ok_or(TableError::None)?;
        Ok(Self::new(tables(version.into()).into_result()?))
    }

    pub(crate) fn new(store: FfiStore) -> Self {
        let (open, settled) = (Mutex::default(), AtomicBool::new(false));
        Self(Arc::new(Inner { store, open, settled, due: Notify::new() }))
    }

    /// Opens a table, making it when it is not there. After [`start`](crate::Application::start) only one that was
    /// opened in it.
    ///
    /// # Errors
    /// [`TableError::Type`] where it holds other keys or records, [`TableError::Late`], or the store's.
    pub fn table<K: Key, V: Record>(&self, name: &str) -> Result<Table<K, V>, TableError> {
        if self.0.settled.load(Ordering::Acquire) && !self.0.open().values().any(|open| open.name == name) {
            return Err(TableError::Late(name.to_owned()));
        }
        let kind = K::kind();
        let spec = TableSpec {
            name: name.into(),
            key: kind.as_str().into(),
            record: V::NAME.into(),
            schema: V::SCHEMA,
        };
        let number = self.0.store.open(spec)?;
        let opened = || {
            Arc::new(Opened {
                name: name.to_owned(),
                number,
                clean: AtomicBool::new(false),
                expires: AtomicBool::new(false),
                unreadable: AtomicU64::new(0),
                swept: sweep::of::<V>(),
            })
        };
        let opened = self.0.open().entry(number).or_insert_with(opened).clone();
        self.0.due.notify_one();
        Ok(Table::new(self.clone(), opened))
    }

    /// Reads in one transaction: all that it sees is of one moment. What is read stays in memory as it was for as
    /// long as the closure takes, so keep it short; [`Table::range`] reads a large table in batches.
    ///
    /// # Errors
    /// The closure's, or the store's.
    pub fn read<T, E: From<TableError>>(&self, work: impl FnOnce(&Read<'_>) -> Result<T, E>) -> Result<T, E> {
        let done = self.0.store.read(|transaction| work(&Read { transaction, tables: &self.0 }));
        done.map_err(TableError::from)?
    }

    /// Writes in one transaction, which is committed when the closure succeeds. When it fails or panics, nothing has
    /// changed.
    ///
    /// # Errors
    /// The closure's, or the store's.
    pub fn write<T, E: From<TableError>>(
        &self,
        work: impl FnOnce(&mut Write<'_, '_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let done = self.0.store.write(|transaction| {
            let done = work(&mut Write { transaction, tables: &self.0 });
            (done.is_ok(), done)
        });
        done.map_err(TableError::from)?
    }

    /// Makes all records readable for all who have them open; how many were written.
    pub(crate) fn hand_down(&self) -> Result<u64, TableError> {
        sweep::hand_down(&self.0)
    }

    /// The application has started: what is not open now stays so.
    pub(crate) fn settle(&self) {
        self.0.settled.store(true, Ordering::Release);
    }

    pub(crate) fn close(&self) {
        self.0.store.close();
    }
}

impl Inner {
    fn open(&self) -> MutexGuard<'_, BTreeMap<u32, Arc<Opened>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reader met a record that it cannot read.
    fn met_unreadable(&self, table: &Opened, why: &str) {
        table.clean.store(false, Ordering::Release);
        if table.unreadable.fetch_add(1, Ordering::Relaxed) == 0 {
            let words = format!(
                "table `{}` has a record that cannot be read and is treated as not there: {why}",
                table.name
            );
            crate::log::send(2, "relmgr_app", &words);
            self.due.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
