//! State tables without a host, for an application's tests.

use std::path::Path;

use relmgr_tables::{Options, Store, Sync};

use super::{TableError, Tables, sweep};
use crate::Context;

/// As much as any test needs; it is taken up only when it is used.
const MAX_BYTES: u64 = 1 << 30;

/// A store of tables in a directory, as a host has it. Each [`context`](Alone::context) is one generation.
pub struct Alone {
    store: Store,
    // Removed when it is dropped, where it is ours; after the store.
    _directory: Option<tempfile::TempDir>,
}

impl Alone {
    /// A store in a temporary directory of its own.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> Result<Self, crate::Error> {
        let directory = tempfile::tempdir()?;
        let store = Store::open(directory.path(), options(MAX_BYTES))?;
        Ok(Self { store, _directory: Some(directory) })
    }

    /// The store in `directory`, which may grow to `max_bytes`: another process may have it open too.
    ///
    /// # Errors
    /// The system's.
    pub fn in_directory(directory: &Path, max_bytes: u64) -> Result<Self, crate::Error> {
        Ok(Self { store: Store::open(directory, options(max_bytes))?, _directory: None })
    }

    /// The context of a generation of the release `version`, with access to the tables. It is over when the last
    /// copy of it, and the last table that it opened, are dropped.
    pub fn context(&self, version: &str) -> Context {
        Context::alone(version, Tables::new(self.store.lend()))
    }

    /// What there is to say of the tables.
    ///
    /// # Errors
    /// The store's.
    pub fn facts(&self) -> Result<relmgr_tables::Facts, crate::Error> {
        Ok(self.store.facts()?)
    }
}

fn options(max_bytes: u64) -> Options {
    Options { max_bytes, sync: Sync::Never }
}

/// Sweeps all tables that the generation of `context` has open, as it does in the background while it is current.
///
/// # Errors
/// The store's.
pub fn sweep(context: &Context) -> Result<(), TableError> {
    sweep::all(&context.tables()?.0)
}

/// Makes every record readable for an older release, as the generation of `context` does before one takes over; how
/// many were written.
///
/// # Errors
/// The store's.
pub fn hand_down(context: &Context) -> Result<u64, TableError> {
    context.tables()?.hand_down()
}
