//! Keys of other releases. One app.conf serves two releases across an upgrade: a key that the next one requires is
//! set before it runs, and is still there after a downgrade. Such a key is no mistake, it is ignored with a warning.

use std::cell::OnceCell;
use std::fmt;
use std::sync::Arc;

use crate::key::Key;
use crate::schema::{Found, Schema};

type Load = dyn Fn() -> Vec<(String, Schema)> + Send + Sync;

/// The schemas of other releases with their names; read only when a key is not one of the release's own.
#[derive(Clone)]
pub struct Others(Arc<Load>);

impl Others {
    /// `load` reads them.
    pub fn new(load: impl Fn() -> Vec<(String, Schema)> + Send + Sync + 'static) -> Self {
        Self(Arc::new(load))
    }
}

impl fmt::Debug for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Others")
    }
}

/// [`Others`], read at most once.
pub(crate) struct Elsewhere<'a> {
    others: Option<&'a Others>,
    schemas: OnceCell<Vec<(String, Schema)>>,
}

impl<'a> Elsewhere<'a> {
    pub(crate) fn new(others: Option<&'a Others>) -> Self {
        Self { others, schemas: OnceCell::new() }
    }

    /// The release that has `key`.
    pub(crate) fn owner(&self, key: &Key) -> Option<&str> {
        let others = self.others?;
        let has = |schema: &Schema| matches!(schema.find(key), Found::Key(_) | Found::Renamed(..));
        let schemas = self.schemas.get_or_init(|| (others.0)());
        schemas.iter().find(|(_, schema)| has(schema)).map(|(name, _)| name.as_str())
    }
}
