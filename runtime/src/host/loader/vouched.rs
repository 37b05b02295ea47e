//! That what is mapped is what was verified.
//!
//! Between a release's verification and its loading lie a trial and some milliseconds, in which somebody who can write
//! to the releases may exchange a file. So the file's digest is taken once more right before the linker opens it, and
//! afterwards the file has to be the same one still, with the same times.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use relmgr_store::digest;

/// A library that is not the one that was verified.
#[derive(Debug, thiserror::Error)]
pub enum ExchangedError {
    /// Its content is another.
    #[error(
        "{} is not the library that was verified (SHA-256 differs): somebody has exchanged it; remove the release and upgrade again",
        path.display()
    )]
    Content {
        /// The library.
        path: PathBuf,
    },
    /// It changed while it was being loaded.
    #[error("{} was exchanged while it was being loaded: remove the release and upgrade again", path.display())]
    Meanwhile {
        /// The library.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("{} cannot be read", path.display())]
    Io {
        /// The library.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A file with the digest that somebody vouches for.
#[derive(Debug)]
pub struct Vouched {
    path: PathBuf,
    identity: [i64; 7],
}

impl Vouched {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`ExchangedError`].
    pub fn check(path: &Path, sha256: &str) -> Result<Self, ExchangedError> {
        let vouched = Self { path: path.to_owned(), identity: identity(path)? };
        let found =
            digest::of_file(path).map_err(|source| ExchangedError::Io { path: path.to_owned(), source })?;
        match found.sha256 == sha256 {
            true => Ok(vouched),
            false => Err(ExchangedError::Content { path: path.to_owned() }),
        }
    }

    /// Looks whether it is the same file still.
    ///
    /// # Errors
    /// [`ExchangedError`].
    pub fn still(&self) -> Result<(), ExchangedError> {
        match identity(&self.path)? == self.identity {
            true => Ok(()),
            false => Err(ExchangedError::Meanwhile { path: self.path.clone() }),
        }
    }
}

/// What changes when a file is exchanged (inode) or written to (times; nobody can set the second).
fn identity(path: &Path) -> Result<[i64; 7], ExchangedError> {
    let data: Metadata =
        path.metadata().map_err(|source| ExchangedError::Io { path: path.to_owned(), source })?;
    let number = |number: u64| number.cast_signed();
    Ok([
        number(data.dev()),
        number(data.ino()),
        number(data.size()),
        data.mtime(),
        data.mtime_nsec(),
        data.ctime(),
        data.ctime_nsec(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_exchanged_or_written_to_is_seen() {
        let home = tempfile::tempdir().unwrap();
        let (path, other) = (home.path().join("lib.so"), home.path().join("other.so"));
        let write = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
        let sha256 = |text: &str| digest::of_bytes(text.as_bytes()).sha256;
        write(&path, "good");
        let vouched = Vouched::check(&path, &sha256("good")).unwrap();
        vouched.still().unwrap();
        assert!(matches!(Vouched::check(&path, &sha256("evil")), Err(ExchangedError::Content { .. })));
        // The same bytes in another file, renamed over it; and back again.
        let kept = home.path().join("kept.so");
        std::fs::hard_link(&path, &kept).unwrap();
        write(&other, "evil");
        std::fs::rename(&other, &path).unwrap();
        assert!(matches!(vouched.still(), Err(ExchangedError::Meanwhile { .. })));
        std::fs::rename(&kept, &path).unwrap();
        assert!(vouched.still().is_err(), "a rename leaves its time");
        write(&path, "good");
        let vouched = Vouched::check(&path, &sha256("good")).unwrap();
        write(&path, "evil");
        assert!(matches!(vouched.still(), Err(ExchangedError::Meanwhile { .. })));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(vouched.still(), Err(ExchangedError::Io { .. })));
    }
}
