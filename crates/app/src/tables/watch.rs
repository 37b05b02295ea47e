//! Waiting for changes of a table.

use std::future::poll_fn;
use std::marker::PhantomData;
use std::task::{Poll, Waker};

use relmgr_abi::abi_stable::std_types::RVec;
use relmgr_abi::future::{FfiFuture, Poll as FfiPoll};
use relmgr_abi::tables::Changes;

use super::key::{self, Key};
use super::{TableError, Tables};

/// Waits for changes of a table, whichever generation of this host makes them.
pub struct Watch<K> {
    tables: Tables,
    number: u32,
    seen: u64,
    keys: PhantomData<fn() -> K>,
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed<K> {
    /// The keys that were written or removed, in their order in time; one may stand there more than once.
    pub keys: Vec<K>,
    /// The watcher was more than 1,024 changes behind: any record may have changed.
    pub lost: bool,
}

impl<K: Key> Watch<K> {
    pub(super) fn new(tables: Tables, number: u32) -> Result<Self, TableError> {
        // Ready at once: it only asks where things stand.
        let mut begun = tables.0.store.changes(number, u64::MAX);
        let FfiPoll::Ready(begun) = begun.poll(Waker::noop()) else {
            return Err(TableError::Store("the host does not say what changes".into()));
        };
        let seen = Changes::from_bytes(&begun).seen;
        Ok(Self { tables, number, seen, keys: PhantomData })
    }

    /// Waits for the next changes. Nothing is missed when it is dropped and called again.
    pub async fn changed(&mut self) -> Changed<K> {
        let changes = wait(self.tables.0.store.changes(self.number, self.seen)).await;
        self.seen = changes.seen;
        // A key of another form is none of this table's.
        let keys = changes.keys.iter().filter_map(|bytes| key::from_bytes(bytes).ok());
        Changed { keys: keys.collect(), lost: changes.lost }
    }
}

async fn wait(mut future: FfiFuture<RVec<u8>>) -> Changes {
    poll_fn(|cx| match future.poll(cx.waker()) {
        FfiPoll::Pending => Poll::Pending,
        FfiPoll::Ready(bytes) => Poll::Ready(Changes::from_bytes(&bytes)),
        FfiPoll::Panicked(_) => Poll::Ready(Changes { seen: 0, lost: true, keys: vec![] }),
    })
    .await
}
