//! One table.

use std::marker::PhantomData;
use std::ops::RangeBounds;
use std::sync::Arc;
use std::time::Duration;

use super::range::{Limits, Range};
use super::transaction::{Counter, Prefix};
use super::{Key, Opened, Record, TableError, Tables, Watch};

/// A table of records by their keys. Cheap to clone. Each call is a transaction of its own.
pub struct Table<K, V> {
    pub(super) tables: Tables,
    pub(super) opened: Arc<Opened>,
    types: PhantomData<fn(K) -> V>,
}

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        Self { tables: self.tables.clone(), opened: self.opened.clone(), types: PhantomData }
    }
}

impl<K, V> std::fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Table").field(&self.opened.name).finish()
    }
}

impl<K: Key, V: Record> Table<K, V> {
    pub(super) fn new(tables: Tables, opened: Arc<Opened>) -> Self {
        Self { tables, opened, types: PhantomData }
    }

    /// A record.
    ///
    /// # Errors
    /// The store's.
    pub fn get(&self, key: &K) -> Result<Option<V>, TableError> {
        self.tables.read(|transaction| transaction.get(self, key))
    }

    /// Writes a record, without an end.
    ///
    /// # Errors
    /// [`TableError::Full`], [`TableError::Key`], [`TableError::Encode`], or the store's.
    pub fn put(&self, key: &K, value: &V) -> Result<(), TableError> {
        self.tables.write(|transaction| transaction.put(self, key, value))
    }

    /// Writes a record that is not there any more after `time`, by the system's clock.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    pub fn put_for(&self, key: &K, value: &V, time: Duration) -> Result<(), TableError> {
        self.tables.write(|transaction| transaction.put_for(self, key, value, time))
    }

    /// Changes a record in place, with nobody in between: `None` is one that is not there, before and after. It keeps
    /// its time.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    pub fn update<T>(&self, key: &K, change: impl FnOnce(&mut Option<V>) -> T) -> Result<T, TableError> {
        self.tables.write(|transaction| transaction.update(self, key, change))
    }

    /// Removes a record; whether there was one.
    ///
    /// # Errors
    /// The store's.
    pub fn delete(&self, key: &K) -> Result<bool, TableError> {
        self.tables.write(|transaction| transaction.delete(self, key))
    }

    /// The records whose keys lie in `range`, in their order; `..` for all.
    pub fn range(&self, range: impl RangeBounds<K>) -> Range<'_, K, V> {
        Range::new(self, Limits::of(&range))
    }

    /// The records whose keys begin with `prefix`: `(7,)` for those of `(u64, u32)`, `"ab"` for those of `String`.
    pub fn prefix(&self, prefix: &impl Prefix) -> Range<'_, K, V> {
        Range::new(self, Limits::prefix(prefix.start()))
    }

    /// How many records there are; those whose time is over count until the sweep comes by.
    ///
    /// # Errors
    /// The store's.
    pub fn len(&self) -> Result<u64, TableError> {
        self.tables.read(|transaction| transaction.len(self))
    }

    /// Whether there is no record.
    ///
    /// # Errors
    /// The store's.
    pub fn is_empty(&self) -> Result<bool, TableError> {
        Ok(self.len()? == 0)
    }

    /// What changes from now on, whichever generation changes it.
    ///
    /// # Errors
    /// The store's.
    pub fn watch(&self) -> Result<Watch<K>, TableError> {
        Watch::new(self.tables.clone(), self.opened.number)
    }
}

impl<K: Key, V: Counter> Table<K, V> {
    /// Adds to a counter, which begins at 0; what it is then. No addition is lost, however many there are at once.
    ///
    /// # Errors
    /// [`TableError::Overflow`], or as for [`put`](Self::put).
    pub fn add(&self, key: &K, by: V) -> Result<V, TableError> {
        self.tables.write(|transaction| transaction.add(self, key, by))
    }
}
