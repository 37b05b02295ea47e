//! Iteration in batches, so that a long one keeps no old pages alive.

use std::collections::VecDeque;
use std::ops::{Bound, RangeBounds};

use relmgr_abi::tables::Span;

use super::key::{self, Key};
use super::record::Record;
use super::{Table, TableError, transaction};

/// So many records are read in one transaction.
const BATCH: usize = 256;

/// Where an iteration begins and ends, as bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limits {
    /// Inclusive; empty: from the beginning.
    pub(super) from: Vec<u8>,
    /// Exclusive; `None`: to the end.
    pub(super) to: Option<Vec<u8>>,
    pub(super) reverse: bool,
}

/// The next bytes after `key`. No key is the beginning of another one, so no key lies in between.
fn after(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}

impl Limits {
    pub(super) fn of<K: Key>(range: &impl RangeBounds<K>) -> Self {
        let from = match range.start_bound() {
            Bound::Included(key) => key::to_bytes(key),
            Bound::Excluded(key) => after(key::to_bytes(key)),
            Bound::Unbounded => vec![],
        };
        let to = match range.end_bound() {
            Bound::Included(key) => Some(after(key::to_bytes(key))),
            Bound::Excluded(key) => Some(key::to_bytes(key)),
            Bound::Unbounded => None,
        };
        Self { from, to, reverse: false }
    }

    pub(super) fn prefix(prefix: Vec<u8>) -> Self {
        let mut to = prefix.clone();
        // The first bytes that do not begin so: the last byte that can grow does.
        while to.last() == Some(&u8::MAX) {
            to.pop();
        }
        if let Some(last) = to.last_mut() {
            *last += 1;
        }
        Self { from: prefix, to: (!to.is_empty()).then_some(to), reverse: false }
    }

    pub(super) fn span(&self, table: u32) -> Span<'_> {
        let to = self.to.as_deref().map(Into::into).into();
        Span { table, from: self.from.as_slice().into(), to, reverse: self.reverse }
    }

    /// Nothing before `key`, which was the last, is of interest any more.
    pub(super) fn pass(&mut self, key: Vec<u8>) {
        match self.reverse {
            true => self.to = Some(key),
            false => self.from = after(key),
        }
    }
}

/// The records in a part of a table, in the order of their keys.
///
/// They are read in batches, each in a transaction of its own: what is written meanwhile may be seen or not. For one
/// moment's records there is [`Tables::read`](super::Tables::read).
pub struct Range<'a, K, V> {
    table: &'a Table<K, V>,
    limits: Limits,
    batch: VecDeque<(K, V)>,
    over: bool,
}

impl<'a, K: Key, V: Record> Range<'a, K, V> {
    pub(super) fn new(table: &'a Table<K, V>, limits: Limits) -> Self {
        Self { table, limits, batch: VecDeque::new(), over: false }
    }

    /// From the last record to the first; to be said before the first is taken.
    #[must_use]
    pub fn reversed(mut self) -> Self {
        self.limits.reverse = true;
        self
    }

    fn read_on(&mut self) -> Result<(), TableError> {
        let (tables, opened) = (&self.table.tables.0, &self.table.opened);
        let (mut seen, mut last, mut failed) = (0, None, None);
        let batch = &mut self.batch;
        let read = tables.store.read(|transaction| {
            transaction.scan(self.limits.span(opened.number), |bytes, record| {
                seen += 1;
                if let Some((value, _)) = transaction::value::<V>(tables, opened, record) {
                    match key::from_bytes(bytes) {
                        Ok(key) => batch.push_back((key, value)),
                        Err(error) => failed = Some(error),
                    }
                }
                let more = seen < BATCH && failed.is_none();
                if !more {
                    last = Some(bytes.to_vec());
                }
                more
            })
        });
        read??;
        match last {
            Some(last) => self.limits.pass(last),
            None => self.over = true,
        }
        failed.map_or(Ok(()), Err)
    }
}

impl<K: Key, V: Record> Iterator for Range<'_, K, V> {
    type Item = Result<(K, V), TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.batch.is_empty() && !self.over {
            if let Err(error) = self.read_on() {
                self.over = true;
                return Some(Err(error));
            }
        }
        self.batch.pop_front().map(Ok)
    }
}
