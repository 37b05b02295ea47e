//! Copies of all tables, and what tells two of them apart.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use heed::CompactionOption;

use crate::store::{FILE, Facts, OpenError, Store, Table};

impl Store {
    /// Copies all tables as they are at one moment into `directory`, which is there; nobody waits meanwhile. The copy is
    /// on disk then, and its owner's alone.
    ///
    /// # Errors
    /// LMDB's, and the system's.
    pub fn copy(&self, directory: &Path) -> Result<(), OpenError> {
        let path = directory.join(FILE);
        let words = |source| OpenError::Environment { path: path.clone(), source };
        let file = self.0.env.copy_to_path(&path, CompactionOption::Enabled).map_err(words)?;
        let kept = || {
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.sync_all()?;
            File::open(directory)?.sync_all()
        };
        kept().map_err(|source: std::io::Error| words(source.into()))
    }

    /// Gives `each` every record of the table `name`: its key, its bytes here, and those that `other` has of it.
    ///
    /// # Errors
    /// LMDB's.
    pub fn beside(
        &self,
        other: &Self,
        name: &str,
        mut each: impl FnMut(&[u8], &[u8], Option<&[u8]>),
    ) -> Result<(), OpenError> {
        let Some((path, table)) = self.find(name)? else { return Ok(()) };
        let beside = other.find(name)?;
        let words = |source| OpenError::Environment { path: path.clone(), source };
        let (txn, txn_of_other) = (self.0.env.read_txn().map_err(words)?, other.0.env.read_txn());
        let txn_of_other = txn_of_other.map_err(words)?;
        for record in table.db.iter(&txn).map_err(words)? {
            let (key, bytes) = record.map_err(words)?;
            let found = match &beside {
                Some((_, table)) => table.db.get(&txn_of_other, key).map_err(words)?,
                None => None,
            };
            each(key, bytes, found);
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Result<Option<(PathBuf, &Table)>, OpenError> {
        let Facts { path, .. } = self.facts()?;
        Ok(self.0.named(name)?.map(|table| (path, table)))
    }
}
