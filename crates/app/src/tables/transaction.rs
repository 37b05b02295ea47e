//! Several operations as one.

use std::ops::RangeBounds;
use std::time::Duration;

use relmgr_abi::tables::{ASIDE, FfiTransaction};

use super::key::{self, Key};
use super::range::Limits;
use super::record::{self, Found, Parts, Record};
use super::{Inner, Opened, Table, TableError};

/// A transaction that reads: all that it sees is of one moment.
pub struct Read<'t> {
    pub(super) transaction: &'t FfiTransaction<'t>,
    pub(super) tables: &'t Inner,
}

/// The transaction that writes; there is one at a time.
pub struct Write<'t, 's> {
    pub(super) transaction: &'t mut FfiTransaction<'s>,
    pub(super) tables: &'t Inner,
}

/// A number that can be counted with.
pub trait Counter: Record + Copy + Default {
    /// The sum; `None`: it passes the limit of its type.
    fn plus(self, by: Self) -> Option<Self>;
}

impl Counter for u64 {
    fn plus(self, by: Self) -> Option<Self> {
        self.checked_add(by)
    }
}

impl Counter for i64 {
    fn plus(self, by: Self) -> Option<Self> {
        self.checked_add(by)
    }
}

/// Reads a record; one that cannot be read, or whose time is over, is not there.
fn get<V: Record>(
    transaction: &FfiTransaction<'_>,
    tables: &Inner,
    table: &Opened,
    key: &[u8],
) -> Result<Option<(V, Option<u64>)>, TableError> {
    let Some(bytes) = transaction.get(table.number, key)? else { return Ok(None) };
    Ok(value(tables, table, bytes))
}

pub(super) fn value<V: Record>(tables: &Inner, table: &Opened, bytes: &[u8]) -> Option<(V, Option<u64>)> {
    match record::read(bytes) {
        Found::Value(value, expires) => Some((value, expires)),
        Found::Expired => None,
        Found::Unreadable(why) => {
            tables.met_unreadable(table, &why);
            None
        }
    }
}

/// Calls `each` with the records within `limits`, until it says `false`.
fn scan<K: Key, V: Record>(
    transaction: &FfiTransaction<'_>,
    tables: &Inner,
    table: &Opened,
    limits: &Limits,
    mut each: impl FnMut(K, V) -> bool,
) -> Result<(), TableError> {
    let mut failed = None;
    transaction.scan(limits.span(table.number), |key, bytes| {
        let Some((value, _)) = value(tables, table, bytes) else { return true };
        match key::from_bytes(key) {
            Ok(key) => each(key, value),
            Err(error) => {
                failed = Some(error);
                false
            }
        }
    })?;
    failed.map_or(Ok(()), Err)
}

impl Read<'_> {
    /// A record.
    ///
    /// # Errors
    /// The store's.
    pub fn get<K: Key, V: Record>(&self, table: &Table<K, V>, key: &K) -> Result<Option<V>, TableError> {
        let found = get(self.transaction, self.tables, &table.opened, &key::to_bytes(key))?;
        Ok(found.map(|(value, _)| value))
    }

    /// Calls `each` with the records whose keys lie in `range`, in their order, until it says `false`.
    ///
    /// # Errors
    /// The store's.
    pub fn range<K: Key, V: Record>(
        &self,
        table: &Table<K, V>,
        range: impl RangeBounds<K>,
        each: impl FnMut(K, V) -> bool,
    ) -> Result<(), TableError> {
        scan(self.transaction, self.tables, &table.opened, &Limits::of(&range), each)
    }

    /// The same for the keys that begin with `prefix`, such as `(7,)` for those of `(u64, u32)`.
    ///
    /// # Errors
    /// The store's.
    pub fn prefix<K: Key, V: Record>(
        &self,
        table: &Table<K, V>,
        prefix: &impl Prefix,
        each: impl FnMut(K, V) -> bool,
    ) -> Result<(), TableError> {
        scan(self.transaction, self.tables, &table.opened, &Limits::prefix(prefix.start()), each)
    }

    /// How many records there are; those whose time is over count until the sweep comes by.
    ///
    /// # Errors
    /// The store's.
    pub fn len<K: Key, V: Record>(&self, table: &Table<K, V>) -> Result<u64, TableError> {
        Ok(self.transaction.count(table.opened.number)?)
    }
}

impl Write<'_, '_> {
    /// A record, as this transaction has left it.
    ///
    /// # Errors
    /// The store's.
    pub fn get<K: Key, V: Record>(&self, table: &Table<K, V>, key: &K) -> Result<Option<V>, TableError> {
        let found = get(self.transaction, self.tables, &table.opened, &key::to_bytes(key))?;
        Ok(found.map(|(value, _)| value))
    }

    /// As [`Read::range`].
    ///
    /// # Errors
    /// The store's.
    pub fn range<K: Key, V: Record>(
        &self,
        table: &Table<K, V>,
        range: impl RangeBounds<K>,
        each: impl FnMut(K, V) -> bool,
    ) -> Result<(), TableError> {
        scan(self.transaction, self.tables, &table.opened, &Limits::of(&range), each)
    }

    /// As [`Read::prefix`].
    ///
    /// # Errors
    /// The store's.
    pub fn prefix<K: Key, V: Record>(
        &self,
        table: &Table<K, V>,
        prefix: &impl Prefix,
        each: impl FnMut(K, V) -> bool,
    ) -> Result<(), TableError> {
        scan(self.transaction, self.tables, &table.opened, &Limits::prefix(prefix.start()), each)
    }

    /// Writes a record, without an end.
    ///
    /// # Errors
    /// [`TableError::Full`], [`TableError::Key`], [`TableError::Encode`], or the store's.
    pub fn put<K: Key, V: Record>(
        &mut self,
        table: &Table<K, V>,
        key: &K,
        value: &V,
    ) -> Result<(), TableError> {
        self.put_raw(&table.opened, &key::to_bytes(key), value, None)
    }

    /// Writes a record that is not there any more after `time`.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    pub fn put_for<K: Key, V: Record>(
        &mut self,
        table: &Table<K, V>,
        key: &K,
        value: &V,
        time: Duration,
    ) -> Result<(), TableError> {
        let expires = record::now_ms().saturating_add(record::millis(time));
        self.put_raw(&table.opened, &key::to_bytes(key), value, Some(expires))
    }

    /// Changes a record in place: `None` is one that is not there, before and after. It keeps its time.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    pub fn update<K: Key, V: Record, T>(
        &mut self,
        table: &Table<K, V>,
        key: &K,
        change: impl FnOnce(&mut Option<V>) -> T,
    ) -> Result<T, TableError> {
        let key = key::to_bytes(key);
        let found = get(self.transaction, self.tables, &table.opened, &key)?;
        let was_there = found.is_some();
        let (mut value, expires) = match found {
            Some((value, expires)) => (Some(value), expires),
            None => (None, None),
        };
        let told = change(&mut value);
        match &value {
            Some(value) => self.put_raw(&table.opened, &key, value, expires)?,
            None if was_there => drop(self.delete_raw(&table.opened, &key)?),
            None => {}
        }
        Ok(told)
    }

    /// Adds to a counter, which begins at 0; what it is then.
    ///
    /// # Errors
    /// [`TableError::Overflow`], or as for [`put`](Self::put).
    pub fn add<K: Key, V: Counter>(&mut self, table: &Table<K, V>, key: &K, by: V) -> Result<V, TableError> {
        self.update(table, key, |count| {
            let sum = count.unwrap_or_default().plus(by).ok_or(TableError::Overflow)?;
            *count = Some(sum);
            Ok(sum)
        })?
    }

    /// Removes a record; whether there was one.
    ///
    /// # Errors
    /// The store's.
    pub fn delete<K: Key, V: Record>(&mut self, table: &Table<K, V>, key: &K) -> Result<bool, TableError> {
        self.delete_raw(&table.opened, &key::to_bytes(key))
    }

    fn put_raw<V: Record>(
        &mut self,
        table: &Opened,
        key: &[u8],
        value: &V,
        expires: Option<u64>,
    ) -> Result<(), TableError> {
        // Within the transaction: whoever opens the table after it finds what was written before, and sees to it.
        let needed = self.tables.store.needed(table.number);
        let written = record::write(value, expires, needed.lowest);
        let written = written.map_err(|error| TableError::Encode(error.to_string()))?;
        if expires.is_some() {
            table.expires.store(true, std::sync::atomic::Ordering::Relaxed);
        }
        if needed.users > 1 || !table.clean.load(std::sync::atomic::Ordering::Acquire) {
            self.save(table, key)?;
        }
        Ok(self.transaction.put(table.number, key, &written.bytes)?)
    }

    fn delete_raw(&mut self, table: &Opened, key: &[u8]) -> Result<bool, TableError> {
        let Some(bytes) = self.transaction.get(table.number, key)? else { return Ok(false) };
        let was_there = match table.swept.is_readable(bytes) {
            true => !Parts::of(bytes).is_some_and(|parts| parts.is_expired()),
            false => {
                set_aside(self.transaction, table, key)?;
                false
            }
        };
        self.transaction.delete(table.number, key)?;
        Ok(was_there)
    }

    /// Keeps what is about to be overwritten aside, if it cannot be read.
    fn save(&mut self, table: &Opened, key: &[u8]) -> Result<(), TableError> {
        match self.transaction.get(table.number, key)? {
            Some(bytes) if !table.swept.is_readable(bytes) => set_aside(self.transaction, table, key),
            _ => Ok(()),
        }
    }
}

/// Keeps a copy of a record aside. Several of one key have different last bytes.
pub(super) fn set_aside(
    transaction: &mut FfiTransaction<'_>,
    table: &Opened,
    key: &[u8],
) -> Result<(), TableError> {
    let Some(bytes) = transaction.get(table.number, key)?.map(<[u8]>::to_vec) else { return Ok(()) };
    let aside = table.number | ASIDE;
    for number in 0..=u8::MAX {
        let key = [key, &[number]].concat();
        match transaction.get(aside, &key)? {
            Some(same) if same == bytes => return Ok(()),
            Some(_) => {}
            None => return Ok(transaction.put(aside, &key, &bytes)?),
        }
    }
    let words = format!("256 records of one key of table `{}` are kept aside already", table.name);
    Err(TableError::Store(words))
}

/// The beginning of a key.
pub trait Prefix {
    /// Its bytes.
    fn start(&self) -> Vec<u8>;
}

/// The keys that begin with this text: a part of a string.
impl Prefix for str {
    fn start(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        key::write_open(self.as_bytes(), &mut bytes);
        bytes
    }
}

impl Prefix for &str {
    fn start(&self) -> Vec<u8> {
        (**self).start()
    }
}

impl<A: Key> Prefix for (A,) {
    fn start(&self) -> Vec<u8> {
        key::to_bytes(&self.0)
    }
}

macro_rules! prefix {
    ($($name:ident),*) => {
        impl<$($name: Key),*> Prefix for ($($name,)*) {
            fn start(&self) -> Vec<u8> {
                key::to_bytes(self)
            }
        }
    };
}

prefix!(A, B);
prefix!(A, B, C);
