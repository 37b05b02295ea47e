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
