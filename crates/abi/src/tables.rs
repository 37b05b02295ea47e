//! State tables: what the host keeps for an application, as bytes. Since contract 1.3. Long, since each function of
//! this part of the border stands here from both of its sides.
//!
//! The store is the host's, since a process must not open it twice. A transaction is lent for the length of a
//! callback: it cannot outlive its generation, it stays on its thread, and a value is read where it lies, without a
//! copy. What the bytes mean is the library's to know.
//!
//! Long, since what one side writes is read beside what the other side reads: each function and its caller.
//!
//! The types of this module that are no prefix types never change: they are not in the fingerprint, which libraries of
//! older contracts share.

use std::any::Any;
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use abi_stable::StableAbi;
use abi_stable::prefix_type::WithMetadata;
use abi_stable::std_types::{ROption, RResult, RSlice, RStr, RString, RVec};

use serde::{Deserialize, Serialize};

use crate::future::FfiFuture;

/// Set in a table's number: the records of that table that were kept aside.
pub const ASIDE: u32 = 1 << 31;

/// The longest key, in bytes: the store's own limit, less the table's number in front of keys kept aside.
pub const MAX_KEY: usize = 500;

/// What kind of fault a [`TableFault`] is. Numbers, since more may come.
pub mod kind {
    /// The store's own words.
    pub const OTHER: u8 = 0;
    /// Nothing more fits.
    pub const FULL: u8 = 1;
    /// The table holds something else.
    pub const TYPE: u8 = 2;
    /// The generation is over.
    pub const CLOSED: u8 = 3;
    /// A transaction within a transaction.
    pub const NESTED: u8 = 4;
    /// No key for a table.
    pub const KEY: u8 = 5;
}

/// Why the store did not do something.
#[repr(C)]
#[derive(StableAbi, Clone, Debug, PartialEq, Eq)]
pub struct TableFault {
    /// One of [`kind`].
    pub kind: u8,
    /// For people: what failed, and what to do.
    pub words: RString,
}

impl TableFault {
    /// A fault in words.
    pub fn new(kind: u8, words: impl Into<String>) -> Self {
        Self { kind, words: RString::from(words.into()) }
    }
}

/// A table as a release knows it.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct TableSpec<'a> {
    /// Its name.
    pub name: RStr<'a>,
    /// What its keys are, such as `u64` or `(string, u32)`.
    pub key: RStr<'a>,
    /// What its records are, by the name that the author gave them.
    pub record: RStr<'a>,
    /// Their schema version in this release.
    pub schema: u32,
}

/// Who else has a table open.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needed {
    /// The lowest schema version among those who have it open.
    pub lowest: u32,
    /// How many have it open.
    pub users: u32,
}

/// Part of a table.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct Span<'a> {
    /// The table, perhaps with [`ASIDE`].
    pub table: u32,
    /// The first key, inclusive; empty: from the beginning.
    pub from: RSlice<'a, u8>,
    /// The last key, exclusive; absent: to the end.
    pub to: ROption<RSlice<'a, u8>>,
    /// From the end to the beginning.
    pub reverse: bool,
}

/// What a release says of a table, as its sweep last saw it. Crosses as JSON, since it is for people only.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// How many records there were of each schema version that the release can read.
    pub schemas: BTreeMap<u32, u64>,
    /// A sweep is under way and has looked at so many records.
    pub sweeping: Option<u64>,
    /// Records that it has brought to its own schema version, or made readable for an older release.
    pub migrated: u64,
    /// Records that it has removed when their time was over.
    pub expired: u64,
    /// Records that it met and could not read; they are not lost.
    pub unreadable: u64,
    /// Records that an older release which may be asked cannot read.
    pub not_handed_down: u64,
}

/// What changed in a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// To be given the next time.
    pub seen: u64,
    /// More changed than is remembered: look at everything.
    pub lost: bool,
    /// The keys, in the order in which they changed.
    pub keys: Vec<Vec<u8>>,
}

impl Changes {
    /// For the border.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.seen.to_le_bytes().to_vec();
        bytes.push(u8::from(self.lost));
        for key in &self.keys {
            // Keys have 500 bytes at most.
            bytes.extend_from_slice(&(key.len() as u32).to_le_bytes());
            bytes.extend_from_slice(key);
        }
        bytes
    }

    /// From the border; what is cut short ends the list.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut changes = Self::default();
        let Some((seen, bytes)) = bytes.split_first_chunk() else { return changes };
        let Some((lost, mut bytes)) = bytes.split_first() else { return changes };
        (changes.seen, changes.lost) = (u64::from_le_bytes(*seen), *lost != 0);
        while let Some((len, rest)) = bytes.split_first_chunk() {
            let Some((key, rest)) = rest.split_at_checked(u32::from_le_bytes(*len) as usize) else { break };
            changes.keys.push(key.to_vec());
            bytes = rest;
        }
        changes
    }
}

/// A transaction, on the side of the store.
pub trait Transaction {
    /// A record, where it lies.
    ///
    /// # Errors
    /// The store's.
    fn get(&self, table: u32, key: &[u8]) -> Result<Option<&[u8]>, TableFault>;

    /// Writes a record.
    ///
    /// # Errors
    /// The store's; the transaction cannot be committed then.
    fn put(&mut self, table: u32, key: &[u8], value: &[u8]) -> Result<(), TableFault>;

    /// Removes a record; whether there was one.
    ///
    /// # Errors
    /// As for [`put`](Self::put).
    fn delete(&mut self, table: u32, key: &[u8]) -> Result<bool, TableFault>;

    /// Calls `each` with keys and records in their order, until it says `false`.
    ///
    /// # Errors
    /// The store's.
    fn scan(&self, span: &Span<'_>, each: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), TableFault>;

    /// How many records a table has, those that are out of date among them.
    ///
    /// # Errors
    /// The store's.
    fn len(&self, table: u32) -> Result<u64, TableFault>;
}

/// A store, on the side that has it: one generation's access to all tables.
pub trait TableStore: Send + Sync {
    /// Opens a table, making it when it is not there; its number within this store.
    ///
    /// # Errors
    /// [`kind::TYPE`], or the store's.
    fn open(&self, spec: &TableSpec<'_>) -> Result<u32, TableFault>;

    /// Calls `work` with a transaction that reads.
    ///
    /// # Errors
    /// The store's; `work` was not called then.
    fn read(&self, work: &mut dyn FnMut(&mut dyn Transaction)) -> Result<(), TableFault>;

    /// Calls `work` with the transaction that writes, when no other does, and commits when it says `true`.
    ///
    /// # Errors
    /// The store's; nothing has changed then.
    fn write(&self, work: &mut dyn FnMut(&mut dyn Transaction) -> bool) -> Result<(), TableFault>;

    /// Who else has `table` open.
    fn needed(&self, table: u32) -> Needed;

    /// Takes what the generation says of its table: JSON, for `status`.
    fn report(&self, table: u32, report: &[u8]);

    /// Waits for changes of `table` after those that were seen; [`Changes`] as bytes. `u64::MAX`: from now on.
    fn changes(&self, table: u32, seen: u64) -> FfiFuture<RVec<u8>>;

    /// The generation is over: everything else is refused from now on.
    fn close(&self);
}

type Told<T> = RResult<T, TableFault>;

/// The store's functions. Each takes its `data`.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = StoreFunctionsRef)))]
#[sabi(missing_field(option))]
pub struct StoreFunctions {
    open: unsafe extern "C" fn(*const (), TableSpec<'_>) -> Told<u32>,
    read: unsafe extern "C" fn(*const (), Work<'_>) -> Told<()>,
    write: unsafe extern "C" fn(*const (), Work<'_>) -> Told<()>,
    needed: unsafe extern "C" fn(*const (), u32) -> Needed,
    report: unsafe extern "C" fn(*const (), u32, RSlice<'_, u8>),
    changes: unsafe extern "C" fn(*const (), u32, u64) -> FfiFuture<RVec<u8>>,
    close: unsafe extern "C" fn(*const ()),
    #[sabi(last_prefix_field)]
    drop: unsafe extern "C" fn(*const ()),
}

/// A transaction's functions. Each takes its `data`.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = TransactionFunctionsRef)))]
#[sabi(missing_field(option))]
pub struct TransactionFunctions {
    get: unsafe extern "C" fn(*const (), u32, RSlice<'_, u8>) -> Told<ROption<Lent>>,
    put: unsafe extern "C" fn(*mut (), u32, RSlice<'_, u8>, RSlice<'_, u8>) -> Told<()>,
    delete: unsafe extern "C" fn(*mut (), u32, RSlice<'_, u8>) -> Told<bool>,
    scan: unsafe extern "C" fn(*const (), Span<'_>, Each<'_>) -> Told<()>,
    #[sabi(last_prefix_field)]
    len: unsafe extern "C" fn(*const (), u32) -> Told<u64>,
}

/// Bytes of the store's, lent until the transaction writes or ends.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct Lent {
    start: *const u8,
    len: usize,
}

type WorkFn<'a> = &'a mut dyn FnMut(&mut FfiTransaction<'_>) -> bool;
type EachFn<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> bool;

/// What is to be done in a transaction: a closure of the library's, lent for one call. It never panics.
#[repr(C)]
#[derive(StableAbi)]
pub struct Work<'a> {
    data: *mut (),
    call: unsafe extern "C" fn(*mut (), FfiTransaction<'_>) -> bool,
    lent: PhantomData<&'a mut ()>,
}

/// What is to be done with each record, as [`Work`].
#[repr(C)]
#[derive(StableAbi)]
pub struct Each<'a> {
    data: *mut (),
    call: unsafe extern "C" fn(*mut (), RSlice<'_, u8>, RSlice<'_, u8>) -> bool,
    lent: PhantomData<&'a mut ()>,
}

unsafe extern "C" fn call_work(data: *mut (), mut transaction: FfiTransaction<'_>) -> bool {
    // SAFETY: `data` is the `WorkFn` that `Work` was lent from, which outlives the call.
    let work = unsafe { &mut *data.cast::<WorkFn<'_>>() };
    work(&mut transaction)
}

unsafe extern "C" fn call_each(data: *mut (), key: RSlice<'_, u8>, value: RSlice<'_, u8>) -> bool {
    // SAFETY: `data` is the `EachFn` that `Each` was lent from, which outlives the call.
    let each = unsafe { &mut *data.cast::<EachFn<'_>>() };
    each(key.as_slice(), value.as_slice())
}

/// A transaction, on the side of the library: lent for one call.
#[repr(C)]
#[derive(StableAbi)]
pub struct FfiTransaction<'a> {
    data: *mut (),
    functions: TransactionFunctionsRef,
    lent: PhantomData<&'a mut ()>,
}

impl FfiTransaction<'_> {
    /// A record, where it lies.
    ///
    /// # Errors
    /// The store's.
    pub fn get(&self, table: u32, key: &[u8]) -> Result<Option<&[u8]>, TableFault> {
        // SAFETY: `data` is the store's for as long as `self` lives, and it is only read.
        let found = unsafe { self.functions.get()(self.data, table, key.into()) };
        let found = Option::from(found.into_result()?);
        // SAFETY: the store keeps the bytes until the transaction writes or ends; the borrow of `self` lasts no longer.
        Ok(found.map(|lent: Lent| unsafe { std::slice::from_raw_parts(lent.start, lent.len) }))
    }

    /// Writes a record.
    ///
    /// # Errors
    /// The store's.
    pub fn put(&mut self, table: u32, key: &[u8], value: &[u8]) -> Result<(), TableFault> {
        // SAFETY: as in `get`; `&mut self` makes this the only access.
        unsafe { self.functions.put()(self.data, table, key.into(), value.into()) }.into_result()
    }

    /// Removes a record; whether there was one.
    ///
    /// # Errors
    /// The store's.
    pub fn delete(&mut self, table: u32, key: &[u8]) -> Result<bool, TableFault> {
        // SAFETY: as in `put`.
        unsafe { self.functions.delete()(self.data, table, key.into()) }.into_result()
    }

    /// Calls `each` with keys and records in their order, until it says `false`.
    ///
    /// # Errors
    /// The store's.
    ///
    /// # Panics
    /// When `each` does.
    pub fn scan(&self, span: Span<'_>, mut each: impl FnMut(&[u8], &[u8]) -> bool) -> Result<(), TableFault> {
        let mut panicked: Option<Box<dyn Any + Send>> = None;
        let mut caught = |key: &[u8], value: &[u8]| {
            // A panic must not cross; it goes on when the call is over.
            catch_unwind(AssertUnwindSafe(|| each(key, value))).unwrap_or_else(|payload| {
                panicked = Some(payload);
                false
            })
        };
        let mut caught: EachFn<'_> = &mut caught;
        let lent = Each { data: (&raw mut caught).cast(), call: call_each, lent: PhantomData };
        // SAFETY: as in `get`.
        let done = unsafe { self.functions.scan()(self.data, span, lent) };
        match panicked {
            Some(payload) => resume_unwind(payload),
            None => done.into_result(),
        }
    }

    /// How many records a table has.
    ///
    /// # Errors
    /// The store's.
    pub fn count(&self, table: u32) -> Result<u64, TableFault> {
        // SAFETY: as in `get`.
        unsafe { self.functions.len()(self.data, table) }.into_result()
    }
}

/// A store, on the side of the library.
#[repr(C)]
#[derive(StableAbi)]
pub struct FfiStore {
    data: *const (),
    functions: StoreFunctionsRef,
}

// SAFETY: `FfiStore::new` takes only stores that are `Send` and `Sync`.
unsafe impl Send for FfiStore {}
// SAFETY: as above.
unsafe impl Sync for FfiStore {}

impl FfiStore {
    /// Makes `store` fit for the border.
    pub fn new<S: TableStore>(store: S) -> Self {
        Self { data: Box::into_raw(Box::new(store)).cast_const().cast(), functions: Tables::<S>::FUNCTIONS }
    }

    /// Opens a table, making it when it is not there; its number.
    ///
    /// # Errors
    /// The store's.
    pub fn open(&self, spec: TableSpec<'_>) -> Result<u32, TableFault> {
        // SAFETY: `data` is the store that the functions were made for, which lives as long as `self`.
        unsafe { self.functions.open()(self.data, spec) }.into_result()
    }

    /// Reads in one transaction.
    ///
    /// # Errors
    /// The store's; `work` was not called then.
    ///
    /// # Panics
    /// When `work` does.
    pub fn read<T>(&self, work: impl FnOnce(&FfiTransaction<'_>) -> T) -> Result<T, TableFault> {
        // SAFETY: as in `open`.
        run(|work| unsafe { self.functions.read()(self.data, work) }, |transaction| (true, work(transaction)))
    }

    /// Writes in one transaction, which is committed when `work` says `true`.
    ///
    /// # Errors
    /// The store's; nothing has changed then.
    ///
    /// # Panics
    /// When `work` does; nothing has changed then.
    pub fn write<T>(&self, work: impl FnOnce(&mut FfiTransaction<'_>) -> (bool, T)) -> Result<T, TableFault> {
        // SAFETY: as in `open`.
        run(|work| unsafe { self.functions.write()(self.data, work) }, work)
    }

    /// Who else has `table` open.
    pub fn needed(&self, table: u32) -> Needed {
        // SAFETY: as in `open`.
        unsafe { self.functions.needed()(self.data, table) }
    }

    /// Says something of a table, as JSON.
    pub fn report(&self, table: u32, report: &[u8]) {
        // SAFETY: as in `open`.
        unsafe { self.functions.report()(self.data, table, report.into()) }
    }

    /// Waits for changes after those that were seen; `u64::MAX`: from now on.
    pub fn changes(&self, table: u32, seen: u64) -> FfiFuture<RVec<u8>> {
        // SAFETY: as in `open`; the future keeps what it needs of the store, which is the host's.
        unsafe { self.functions.changes()(self.data, table, seen) }
    }

    /// The generation is over.
    pub fn close(&self) {
        // SAFETY: as in `open`.
        unsafe { self.functions.close()(self.data) }
    }
}

impl Drop for FfiStore {
    fn drop(&mut self) {
        // SAFETY: as in `open`, and it is not used again.
        unsafe { self.functions.drop()(self.data) }
    }
}

fn run<T>(
    lend: impl FnOnce(Work<'_>) -> Told<()>,
    work: impl FnOnce(&mut FfiTransaction<'_>) -> (bool, T),
) -> Result<T, TableFault> {
    let mut work = Some(work);
    let mut outcome = None;
    let mut caught = |transaction: &mut FfiTransaction<'_>| {
        let Some(work) = work.take() else { return false };
        // A panic must not cross; it goes on when the transaction is over.
        let done = catch_unwind(AssertUnwindSafe(|| work(transaction)));
        let commit = matches!(&done, Ok((true, _)));
        outcome = Some(done);
        commit
    };
    let mut caught: WorkFn<'_> = &mut caught;
    let ended = lend(Work { data: (&raw mut caught).cast(), call: call_work, lent: PhantomData });
    match (outcome, ended) {
        (Some(Err(payload)), _) => resume_unwind(payload),
        (Some(Ok((_, value))), RResult::ROk(())) => Ok(value),
        (_, RResult::RErr(fault)) => Err(fault),
        (None, RResult::ROk(())) => Err(TableFault::new(kind::OTHER, "the store did not call back")),
    }
}

type Dyn<'a> = &'a mut dyn Transaction;

fn lend(transaction: &mut dyn Transaction, work: &Work<'_>) -> bool {
    let mut transaction: Dyn<'_> = transaction;
    let data = (&raw mut transaction).cast();
    let lent = FfiTransaction { data, functions: TRANSACTION, lent: PhantomData };
    // SAFETY: `work` is lent to this call; what it is given points to `transaction`, which outlives the callback.
    unsafe { (work.call)(work.data, lent) }
}

const TRANSACTION: TransactionFunctionsRef = {
    const FIELDS: &WithMetadata<TransactionFunctions> = &WithMetadata::new(TransactionFunctions {
        get: ffi_get,
        put: ffi_put,
        delete: ffi_delete,
        scan: ffi_scan,
        len: ffi_len,
    });
    TransactionFunctionsRef(FIELDS.static_as_prefix())
};

/// The constant tables of one type of store.
struct Tables<S>(PhantomData<S>);

impl<S: TableStore> Tables<S> {
    const FIELDS: &'static WithMetadata<StoreFunctions> = &WithMetadata::new(StoreFunctions {
        open: ffi_open::<S>,
        read: ffi_read::<S>,
        write: ffi_write::<S>,
        needed: ffi_needed::<S>,
        report: ffi_report::<S>,
        changes: ffi_changes::<S>,
        close: ffi_close::<S>,
        drop: ffi_drop::<S>,
    });

    const FUNCTIONS: StoreFunctionsRef = StoreFunctionsRef(Self::FIELDS.static_as_prefix());
}

// ----------------------------------------------------------------------------------------------------------
// What the library calls. A panic of the store's ends the process, as `extern "C"` has it.

/// # Safety
/// `data` came from [`FfiStore::new`] for `S` and was not dropped.
unsafe fn store<'a, S: TableStore>(data: *const ()) -> &'a S {
    // SAFETY: the caller says so; shared references only.
    unsafe { &*data.cast::<S>() }
}

unsafe extern "C" fn ffi_open<S: TableStore>(data: *const (), spec: TableSpec<'_>) -> Told<u32> {
    // SAFETY: `FfiStore` calls this with its own `data`.
    unsafe { store::<S>(data) }.open(&spec).into()
}

unsafe extern "C" fn ffi_read<S: TableStore>(data: *const (), work: Work<'_>) -> Told<()> {
    // SAFETY: as above.
    let store = unsafe { store::<S>(data) };
    store
        .read(&mut |transaction| {
            // There is nothing to commit.
            let _ = lend(transaction, &work);
        })
        .into()
}

unsafe extern "C" fn ffi_write<S: TableStore>(data: *const (), work: Work<'_>) -> Told<()> {
    // SAFETY: as above.
    let store = unsafe { store::<S>(data) };
    store.write(&mut |transaction| lend(transaction, &work)).into()
}

unsafe extern "C" fn ffi_needed<S: TableStore>(data: *const (), table: u32) -> Needed {
    // SAFETY: as above.
    unsafe { store::<S>(data) }.needed(table)
}

unsafe extern "C" fn ffi_report<S: TableStore>(data: *const (), table: u32, report: RSlice<'_, u8>) {
    // SAFETY: as above.
    unsafe { store::<S>(data) }.report(table, report.as_slice());
}

unsafe extern "C" fn ffi_changes<S: TableStore>(
    data: *const (),
    table: u32,
    seen: u64,
) -> FfiFuture<RVec<u8>> {
    // SAFETY: as above.
    unsafe { store::<S>(data) }.changes(table, seen)
}

unsafe extern "C" fn ffi_close<S: TableStore>(data: *const ()) {
    // SAFETY: as above.
    unsafe { store::<S>(data) }.close();
}

unsafe extern "C" fn ffi_drop<S: TableStore>(data: *const ()) {
    // SAFETY: as above, and this is the last call.
    drop(unsafe { Box::from_raw(data.cast_mut().cast::<S>()) });
}

/// # Safety
/// `data` came from [`lend`], and its callback has not returned.
unsafe fn transaction<'a>(data: *const ()) -> &'a dyn Transaction {
    // SAFETY: the caller says so; shared while nothing is written.
    unsafe { &**data.cast::<Dyn<'a>>() }
}

unsafe extern "C" fn ffi_get(data: *const (), table: u32, key: RSlice<'_, u8>) -> Told<ROption<Lent>> {
    // SAFETY: `FfiTransaction` calls this with its own `data`, within the callback.
    let found = unsafe { transaction(data) }.get(table, key.as_slice());
    let lent = |bytes: &[u8]| Lent { start: bytes.as_ptr(), len: bytes.len() };
    found.map(|found| found.map(lent).into()).into()
}

unsafe extern "C" fn ffi_put(
    data: *mut (),
    table: u32,
    key: RSlice<'_, u8>,
    value: RSlice<'_, u8>,
) -> Told<()> {
    // SAFETY: as above; the library has the transaction for itself (`&mut`).
    unsafe { &mut *data.cast::<Dyn<'_>>() }.put(table, key.as_slice(), value.as_slice()).into()
}

unsafe extern "C" fn ffi_delete(data: *mut (), table: u32, key: RSlice<'_, u8>) -> Told<bool> {
    // SAFETY: as in `ffi_put`.
    unsafe { &mut *data.cast::<Dyn<'_>>() }.delete(table, key.as_slice()).into()
}

unsafe extern "C" fn ffi_scan(data: *const (), span: Span<'_>, each: Each<'_>) -> Told<()> {
    // SAFETY: as in `ffi_get`; `each` is lent to this call.
    let mut call = |key: &[u8], value: &[u8]| unsafe { (each.call)(each.data, key.into(), value.into()) };
    // SAFETY: as in `ffi_get`.
    unsafe { transaction(data) }.scan(&span, &mut call).into()
}

unsafe extern "C" fn ffi_len(data: *const (), table: u32) -> Told<u64> {
    // SAFETY: as in `ffi_get`.
    unsafe { transaction(data) }.len(table).into()
}

#[cfg(test)]
mod tests;
