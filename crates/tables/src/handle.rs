//! One generation's access to the tables.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use relmgr_abi::abi_stable::std_types::RVec;
use relmgr_abi::future::FfiFuture;
use relmgr_abi::tables::{Changes, FfiStore, Needed, TableFault, TableSpec, TableStore, Transaction, kind};

use crate::store::{Inner, Store, fault, lock};
use crate::transaction::{Reading, Within, Writing};

/// One generation's access to the tables. While it lives, what is written stays readable for it.
pub struct Handle {
    store: Arc<Inner>,
    user: u64,
    closed: AtomicBool,
}

impl Store {
    /// Access for one generation more.
    pub fn handle(&self) -> Handle {
        Handle { store: self.0.clone(), user: self.0.new_user(), closed: AtomicBool::new(false) }
    }

    /// The same, fit for the border.
    pub fn lend(&self) -> FfiStore {
        FfiStore::new(self.handle())
    }
}

impl Handle {
    fn check_open(&self) -> Result<(), TableFault> {
        if self.closed.load(Ordering::Acquire) {
            return Err(TableFault::new(
                kind::CLOSED,
                "the release has stopped: its tables are closed to it",
            ));
        }
        Ok(())
    }
}

impl TableStore for Handle {
    fn open(&self, spec: &TableSpec<'_>) -> Result<u32, TableFault> {
        self.check_open()?;
        let _within = Within::enter()?;
        self.store.open(self.user, spec)
    }

    fn read(&self, work: &mut dyn FnMut(&mut dyn Transaction)) -> Result<(), TableFault> {
        self.check_open()?;
        let _within = Within::enter()?;
        let txn = self.store.env.read_txn().map_err(|error| fault(&self.store, &error))?;
        work(&mut Reading { store: &self.store, txn });
        Ok(())
    }

    fn write(&self, work: &mut dyn FnMut(&mut dyn Transaction) -> bool) -> Result<(), TableFault> {
        self.check_open()?;
        let _within = Within::enter()?;
        let txn = self.store.env.write_txn().map_err(|error| fault(&self.store, &error))?;
        let mut writing = Writing { store: &self.store, txn, changed: vec![], failed: None };
        let commit = work(&mut writing);
        let Writing { txn, changed, failed, .. } = writing;
        if !commit {
            return Ok(());
        }
        if let Some(failed) = failed {
            return Err(failed);
        }
        txn.commit().map_err(|error| fault(&self.store, &error))?;
        if !changed.is_empty() {
            Writing::tell(&self.store, changed);
        }
        Ok(())
    }

    fn needed(&self, table: u32) -> Needed {
        match self.store.table(table) {
            Ok(table) => Needed {
                lowest: table.lowest.load(Ordering::Acquire),
                users: table.users.load(Ordering::Acquire),
            },
            Err(_) => Needed { lowest: u32::MAX, users: 0 },
        }
    }

    fn report(&self, table: u32, report: &[u8]) {
        if let (Ok(table), Ok(report)) = (self.store.table(table), serde_json::from_slice(report)) {
            *lock(&table.report) = Some(report);
        }
    }

    fn changes(&self, table: u32, seen: u64) -> FfiFuture<RVec<u8>> {
        let store = self.store.clone();
        FfiFuture::new(async move {
            let changes = match store.table(table) {
                Ok(table) if seen == u64::MAX => table.watched.begin(),
                Ok(table) => table.watched.after(seen).await,
                Err(_) => Changes { seen, lost: true, keys: vec![] },
            };
            changes.to_bytes().into()
        })
    }

    fn close(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.store.close(self.user);
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        TableStore::close(self);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Waker;

    use futures_test::task::new_count_waker;
    use relmgr_abi::future::Poll;

    use super::*;
    use crate::{Options, Sync};

    static NEWS: AtomicUsize = AtomicUsize::new(0);

    fn ready(poll: Poll<RVec<u8>>) -> Changes {
        match poll {
            Poll::Ready(bytes) => Changes::from_bytes(&bytes),
            Poll::Pending => panic!("it waits"),
            Poll::Panicked(words) => panic!("{words}"),
        }
    }

    #[test]
    fn who_writes_wakes_nobody_where_changes_are_announced_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options { max_bytes: 1 << 20, sync: Sync::Never };
        let store = Store::open(directory.path(), options).unwrap();
        store.announce_by(|| {
            NEWS.fetch_add(1, Ordering::SeqCst);
        });
        let handle = store.handle();
        let spec = TableSpec { name: "names".into(), key: "string".into(), record: "u64".into(), schema: 1 };
        let table = handle.open(&spec).unwrap();
        let begun = ready(handle.changes(table, u64::MAX).poll(Waker::noop()));
        let (waker, woken) = new_count_waker();
        let mut changes = handle.changes(table, begun.seen);
        assert!(matches!(changes.poll(&waker), Poll::Pending));
        handle.write(&mut |transaction| transaction.put(table, b"one", b"1").is_ok()).unwrap();
        let counts = || (NEWS.load(Ordering::SeqCst), woken.get());
        assert_eq!(counts(), (1, 0));
        store.announce();
        assert_eq!(counts(), (1, 1));
        assert_eq!(ready(changes.poll(&waker)).keys, [b"one".to_vec()]);
        // There is no news in what was told.
        let mut changes = handle.changes(table, begun.seen + 1);
        assert!(matches!(changes.poll(&waker), Poll::Pending));
        store.announce();
        assert_eq!(counts(), (1, 1));
    }
}
