//! What a repository lies on: a directory or a bucket, behind the same few verbs.
//!
//! An object is named by its key (`VERSION`, `channels/default.toml`), has a tag that changes with its content, and
//! is there whole or not at all. Whatever order and conditions make of these verbs stands in [`crate::repository`],
//! once for both.

mod directory;
mod s3;
mod s3_fault;
mod s3_transfer;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use relmgr_model::manifest::Digest;

use directory::Directory;
use s3::S3;
pub use s3::{S3Credentials, S3Options};
pub(crate) use s3_transfer::forget;

/// Told of a transfer: bytes so far, and in all where that is known.
pub type Progress = Arc<dyn Fn(u64, Option<u64>) + Send + Sync>;

/// A [`Progress`] that nobody looks at.
pub fn unseen() -> Progress {
    Arc::new(|_, _| {})
}

/// Where objects lie.
#[derive(Debug, Clone)]
pub(crate) enum Storage {
    Directory(Directory),
    S3(Arc<S3>),
}

/// What changes when an object does.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Tag(pub(crate) String);

/// A small object, read whole.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) bytes: Vec<u8>,
    pub(crate) tag: Tag,
}

/// What is known of an object without reading it.
#[derive(Debug, Clone)]
pub(crate) struct Meta {
    pub(crate) size: u64,
    pub(crate) tag: Tag,
    /// SHA-256, hexadecimal, where whoever wrote it has said so: a hint for comparisons, never proof.
    pub(crate) sha256: Option<String>,
}

/// An entry of a listing.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) size: u64,
    pub(crate) modified: Option<DateTime<Utc>>,
}

/// What has to be true of an object for it to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Nothing.
    Any,
    /// There is none of that key.
    Absent,
    /// It is the one with this tag.
    Is(Tag),
}

impl Condition {
    /// That the object is still what was read.
    pub(crate) fn unchanged(read: Option<&Object>) -> Self {
        read.map_or(Self::Absent, |object| Self::Is(object.tag.clone()))
    }
}

/// The storage refuses or fails.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The directory is missing.
    #[error("the repository {} does not exist: create it, or correct repository.url", path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{} in the repository cannot be {what}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A local file cannot be read or written.
    #[error("{} cannot be {what}", path.display())]
    Local {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The S3 server refused, failed or was not reached.
    #[error("{key} in {url} cannot be {what}: {reason}")]
    Service {
        /// The object, or `the bucket`.
        key: String,
        /// The repository.
        url: String,
        /// `read`, `written`, …
        what: &'static str,
        /// What the server or the connection said, and the remedy.
        reason: String,
        /// Whether an answer that had begun broke off.
        broken: bool,
    },
    /// There is no such object.
    #[error("{key} is not in {url}")]
    Absent {
        /// The object.
        key: String,
        /// The repository.
        url: String,
    },
    /// An object is larger than it may be.
    #[error("{key} in {url} is larger than the {limit} bytes that it may have")]
    TooLarge {
        /// The object.
        key: String,
        /// The repository.
        url: String,
        /// The limit.
        limit: u64,
    },
    /// An object ends before its announced end.
    #[error("{key} in {url} has {found} bytes, {expected} were announced: it is cut short; publish it again")]
    Short {
        /// The object.
        key: String,
        /// The repository.
        url: String,
        /// What it has.
        found: u64,
        /// What was announced.
        expected: u64,
    },
    /// An object changed while it was read.
    #[error("{key} in {url} changed while it was read: try again")]
    Changed {
        /// The object.
        key: String,
        /// The repository.
        url: String,
    },
    /// A [`Condition`] did not hold.
    #[error("{key} in {url} was written by somebody else at the same time")]
    Conflict {
        /// The object.
        key: String,
        /// The repository.
        url: String,
    },
}

/// A transfer of a large object into a file.
pub(crate) struct Download<'a> {
    pub(crate) key: &'a str,
    /// Its size, where a verified manifest has said it.
    pub(crate) size: Option<u64>,
    /// It may not be larger.
    pub(crate) limit: u64,
    /// The file. What an interrupted download left there is gone on with.
    pub(crate) into: &'a Path,
    pub(crate) progress: Progress,
}

/// Runs blocking work where it holds up nobody.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

type Result<T> = std::result::Result<T, StorageError>;

/// Each verb on whatever it is, off the async threads where it is the file system.
macro_rules! verb {
    ($self:ident, $name:ident($($arg:ident),*)) => {
        match $self {
            Storage::S3(s3) => s3.$name($($arg),*).await,
            Storage::Directory(directory) => {
                let directory = directory.clone();
                $(let $arg = $arg.to_owned();)*
                blocking(move || directory.$name($(&$arg),*)).await
            }
        }
    };
}

impl Storage {
    pub(crate) fn directory(path: &str) -> Self {
        Self::Directory(Directory::new(path))
    }

    pub(crate) fn s3(options: S3Options, url: &str) -> Self {
        Self::S3(Arc::new(S3::new(options, url)))
    }

    /// A small object; `None`: there is none.
    pub(crate) async fn read(&self, key: &str, limit: u64) -> Result<Option<Object>> {
        match self {
            Self::S3(s3) => s3.read(key, limit).await,
            Self::Directory(directory) => {
                let (directory, key) = (directory.clone(), key.to_owned());
                blocking(move || directory.read(&key, limit)).await
            }
        }
    }

    pub(crate) async fn meta(&self, key: &str) -> Result<Option<Meta>> {
        verb!(self, meta(key))
    }

    /// Writes a small object. [`StorageError::Conflict`] where the condition does not hold and the storage says so;
    /// some servers do not, so who depends on it reads back.
    pub(crate) async fn write(&self, key: &str, bytes: &[u8], condition: &Condition) -> Result<()> {
        verb!(self, write(key, bytes, condition))
    }

    /// Writes the file `from`, whose digest is `digest`.
    pub(crate) async fn upload(
        &self,
        key: &str,
        from: &Path,
        digest: &Digest,
        condition: &Condition,
        progress: Progress,
    ) -> Result<()> {
        match self {
            Self::S3(s3) => s3.upload(key, from, digest, condition, progress).await,
            Self::Directory(directory) => {
                let (directory, key, from, condition) =
                    (directory.clone(), key.to_owned(), from.to_owned(), condition.clone());
                blocking(move || directory.upload(&key, &from, &condition, &progress)).await
            }
        }
    }

    /// Makes the object `to` the same bytes as `from`.
    pub(crate) async fn copy(&self, from: &str, to: &str) -> Result<()> {
        verb!(self, copy(from, to))
    }

    pub(crate) async fn download(&self, download: Download<'_>) -> Result<Digest> {
        match self {
            Self::S3(s3) => s3.download(download).await,
            Self::Directory(directory) => {
                let Download { key, size, limit, into, progress } = download;
                let (directory, key, into) = (directory.clone(), key.to_owned(), into.to_owned());
                blocking(move || {
                    directory.download(&Download { key: &key, size, limit, into: &into, progress })
                })
                .await
            }
        }
    }

    /// The objects whose keys are `prefix` and a name without a slash; `""` lists the repository itself.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        verb!(self, list(prefix))
    }

    /// Removes an object; that there is none is no error.
    pub(crate) async fn remove(&self, key: &str) -> Result<()> {
        verb!(self, remove(key))
    }

    /// Ends uploads that were interrupted long ago.
    pub(crate) async fn sweep(&self) -> Result<usize> {
        match self {
            Self::S3(s3) => s3.sweep().await,
            Self::Directory(_) => Ok(0),
        }
    }
}
