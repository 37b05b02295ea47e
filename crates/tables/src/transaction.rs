//! What a callback is lent: a transaction of LMDB, with the tables by their numbers.

use std::borrow::Cow;
use std::cell::Cell;
use std::ops::Bound;

use heed::types::Bytes;
use heed::{AnyTls, Database, RoTxn, RwTxn, WithTls};
use relmgr_abi::tables::{ASIDE, MAX_KEY, Span, TableFault, Transaction, kind};

use crate::store::{Inner, fault};

thread_local! {
    /// Whether this thread is in a transaction. LMDB has one reader's place for each thread, and a second write
    /// transaction would wait for the first for ever.
    static WITHIN: Cell<bool> = const { Cell::new(false) };
}

/// This thread is in a transaction.
pub struct Within(());

impl Within {
    /// # Errors
    /// [`kind::NESTED`].
    pub fn enter() -> Result<Self, TableFault> {
        if WITHIN.replace(true) {
            let words = "a transaction was begun within another one: use the one that the closure was given";
            return Err(TableFault::new(kind::NESTED, words));
        }
        Ok(Self(()))
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        WITHIN.set(false);
    }
}

/// A transaction that reads.
pub struct Reading<'a> {
    pub store: &'a Inner,
    pub txn: RoTxn<'a, WithTls>,
}

/// The transaction that writes.
pub struct Writing<'a> {
    pub store: &'a Inner,
    pub txn: RwTxn<'a>,
    /// What to tell those who watch.
    pub changed: Vec<(u32, Vec<u8>)>,
    /// Why it cannot be committed any more.
    pub failed: Option<TableFault>,
}

type Place = (Database<Bytes, Bytes>, Option<[u8; 4]>);

/// Where a table's records lie, and what stands before their keys there.
fn place(store: &Inner, table: u32) -> Result<Place, TableFault> {
    let number = table & !ASIDE;
    let found = store.table(number)?;
    Ok(match table & ASIDE {
        0 => (found.db, None),
        _ => (store.aside, Some(number.to_be_bytes())),
    })
}

fn full_key(prefix: Option<[u8; 4]>, key: &[u8]) -> Cow<'_, [u8]> {
    match prefix {
        None => key.into(),
        Some(prefix) => [&prefix, key].concat().into(),
    }
}

fn check_key(table: u32, key: &[u8]) -> Result<(), TableFault> {
    // Those that are kept aside have a byte more: several may have been kept of one key.
    let most = if table & ASIDE == 0 { MAX_KEY } else { MAX_KEY + 1 };
    match key.len() {
        len if (1..=most).contains(&len) => Ok(()),
        len => {
            let words = format!("a key of {len} bytes: a table's keys have 1 to {MAX_KEY}");
            Err(TableFault::new(kind::KEY, words))
        }
    }
}

fn get<'a>(
    store: &Inner,
    txn: &'a RoTxn<'_, AnyTls>,
    table: u32,
    key: &[u8],
) -> Result<Option<&'a [u8]>, TableFault> {
    let (db, prefix) = place(store, table)?;
    check_key(table, key)?;
    db.get(txn, &full_key(prefix, key)).map_err(|error| fault(store, &error))
}

fn scan(
    store: &Inner,
    txn: &RoTxn<'_, AnyTls>,
    span: &Span<'_>,
    each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<(), TableFault> {
    let (db, prefix) = place(store, span.table)?;
    let from = full_key(prefix, &span.from);
    let to = span.to.as_ref().map(|to| full_key(prefix, to.as_slice())).into_option();
    // Those that were kept aside end where the next table's begin.
    let after = prefix.map(|number| (u32::from_be_bytes(number) + 1).to_be_bytes());
    let from = if from.is_empty() { Bound::Unbounded } else { Bound::Included(&*from) };
    let to = match (&to, &after) {
        (Some(to), _) => Bound::Excluded(&**to),
        (None, Some(after)) => Bound::Excluded(&after[..]),
        (None, None) => Bound::Unbounded,
    };
    let skip = prefix.map_or(0, |prefix| prefix.len());
    let words = |error| fault(store, &error);
    let mut give = |record: heed::Result<(&[u8], &[u8])>| {
        let (key, value) = record.map_err(words)?;
        Ok::<_, TableFault>(each(&key[skip..], value))
    };
    if span.reverse {
        for record in db.rev_range(txn, &(from, to)).map_err(words)? {
            if !give(record)? {
                break;
            }
        }
    } else {
        for record in db.range(txn, &(from, to)).map_err(words)? {
            if !give(record)? {
                break;
            }
        }
    }
    Ok(())
}

fn len(store: &Inner, txn: &RoTxn<'_, AnyTls>, table: u32) -> Result<u64, TableFault> {
    if table & ASIDE == 0 {
        return store.table(table)?.db.len(txn).map_err(|error| fault(store, &error));
    }
    let mut found = 0;
    let all = Span { table, from: (&[][..]).into(), to: None.into(), reverse: false };
    scan(store, txn, &all, &mut |_, _| {
        found += 1;
        true
    })?;
    Ok(found)
}

impl Transaction for Reading<'_> {
    fn get(&self, table: u32, key: &[u8]) -> Result<Option<&[u8]>, TableFault> {
        get(self.store, &self.txn, table, key)
    }

    fn put(&mut self, _table: u32, _key: &[u8], _value: &[u8]) -> Result<(), TableFault> {
        Err(TableFault::new(kind::OTHER, "a transaction that reads cannot write"))
    }

    fn delete(&mut self, _table: u32, _key: &[u8]) -> Result<bool, TableFault> {
        Err(TableFault::new(kind::OTHER, "a transaction that reads cannot write"))
    }

    fn scan(&self, span: &Span<'_>, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), TableFault> {
        scan(self.store, &self.txn, span, each)
    }

    fn len(&self, table: u32) -> Result<u64, TableFault> {
        len(self.store, &self.txn, table)
    }
}

impl Writing<'_> {
    fn note(&mut self, table: u32, key: &[u8]) -> Result<(), TableFault> {
        if table & ASIDE == 0 && self.store.table(table)?.watched.is_asked() {
            self.changed.push((table, key.to_vec()));
        }
        Ok(())
    }

    /// Tells those who watch what was committed.
    pub fn tell(store: &Inner, mut changed: Vec<(u32, Vec<u8>)>) {
        // Mostly nobody watches.
        if changed.is_empty() {
            return;
        }
        while let Some((table, _)) = changed.first() {
            let table = *table;
            let (here, others) = changed.into_iter().partition(|(of, _)| *of == table);
            let here: Vec<(u32, Vec<u8>)> = here;
            if let Ok(table) = store.table(table) {
                table.watched.changed(here.into_iter().map(|(_, key)| key));
            }
            changed = others;
        }
        store.tell();
    }
}

impl Transaction for Writing<'_> {
    fn get(&self, table: u32, key: &[u8]) -> Result<Option<&[u8]>, TableFault> {
        get(self.store, &self.txn, table, key)
    }

    fn put(&mut self, table: u32, key: &[u8], value: &[u8]) -> Result<(), TableFault> {
        let (db, prefix) = place(self.store, table)?;
        check_key(table, key)?;
        if let Err(error) = db.put(&mut self.txn, &full_key(prefix, key), value) {
            let fault = fault(self.store, &error);
            self.failed = Some(fault.clone());
            return Err(fault);
        }
        self.note(table, key)
    }

    fn delete(&mut self, table: u32, key: &[u8]) -> Result<bool, TableFault> {
        let (db, prefix) = place(self.store, table)?;
        check_key(table, key)?;
        match db.delete(&mut self.txn, &full_key(prefix, key)) {
            Ok(was_there) => {
                if was_there {
                    self.note(table, key)?;
                }
                Ok(was_there)
            }
            Err(error) => {
                let fault = fault(self.store, &error);
                self.failed = Some(fault.clone());
                Err(fault)
            }
        }
    }

    fn scan(&self, span: &Span<'_>, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), TableFault> {
        scan(self.store, &self.txn, span, each)
    }

    fn len(&self, table: u32) -> Result<u64, TableFault> {
        len(self.store, &self.txn, table)
    }
}
