//! Where releases are published and fetched from.
//!
//! ```text
//! VERSION             the default channel: a version and a newline
//! <version>.tar.gz    the package, immutable
//! latest.tar.gz       the same bytes as VERSION's package
//! <version>.toml      the manifest, immutable
//! ```
//!
//! Written in the order package, manifest, `latest.tar.gz`, `VERSION`, so that no reader ever follows a pointer to
//! something missing; a publish that dies half way is repeated and completes.

mod built;
mod directory;

use std::io;
use std::path::{Path, PathBuf};

use relmgr_model::Version;
use relmgr_model::manifest::{Digest, Manifest, ManifestError};
use relmgr_model::version::ParseVersionError;

pub use built::BuiltRelease;
use directory::Directory;

use crate::package::PackageError;

/// A pointer is one version; this is room for a mistake, not for an attack.
pub const POINTER_BYTES: u64 = 64 * 1024;

/// Where releases are published and fetched from.
#[derive(Debug, Clone)]
pub struct Repository {
    url: String,
    directory: Directory,
}

/// A repository that does not give what it should, or does not take it.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// An URL of another kind.
    #[error("`{url}` is no repository that this relmgr can use: it reads file:///directory")]
    Url {
        /// The URL.
        url: String,
    },
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
    /// A local file cannot be written.
    #[error("{} cannot be written", path.display())]
    Local {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nothing was published to the channel.
    #[error("{channel} does not exist in {url}: publish a release with `cargo relmgr publish`")]
    NoChannel {
        /// The channel's file.
        channel: String,
        /// The repository.
        url: String,
    },
    /// The pointer is no version.
    #[error("{channel} in {url} names no version: publish or promote again")]
    Pointer {
        /// The channel's file.
        channel: String,
        /// The repository.
        url: String,
        /// Why.
        #[source]
        source: ParseVersionError,
    },
    /// The pointer is far too large.
    #[error("{channel} in {url} is larger than {POINTER_BYTES} bytes: publish or promote again")]
    PointerSize {
        /// The channel's file.
        channel: String,
        /// The repository.
        url: String,
    },
    /// No such release.
    #[error("{version} is not in {url}: `cargo relmgr list` shows what is")]
    NoRelease {
        /// The version.
        version: Version,
        /// The repository.
        url: String,
    },
    /// The manifest cannot be used.
    #[error("the manifest of {version} in {url} cannot be used")]
    Manifest {
        /// The version.
        version: Version,
        /// The repository.
        url: String,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// The manifest is too large to be one.
    #[error("the manifest of {version} in {url} is larger than a manifest can be")]
    ManifestSize {
        /// The version.
        version: Version,
        /// The repository.
        url: String,
    },
    /// The package ends early.
    #[error(
        "the package of {version} has {found} bytes, its manifest says {expected}: it is cut short; publish it again"
    )]
    Truncated {
        /// The version.
        version: Version,
        /// Bytes that came.
        found: u64,
        /// Bytes that were announced.
        expected: u64,
    },
    /// The package goes on after its end.
    #[error("the package of {version} is larger than the {limit} bytes that it may have: publish it again")]
    Oversized {
        /// The version.
        version: Version,
        /// What was announced, or the limit where nothing was.
        limit: u64,
    },
    /// The package is another one.
    #[error(
        "the package of {version} is not the one that its manifest describes (SHA-256 differs): publish it again"
    )]
    Corrupted {
        /// The version.
        version: Version,
    },
    /// Published before with other content.
    #[error(
        "{version} was published before with other content, and a version is never overwritten: build a new one"
    )]
    Immutable {
        /// The version.
        version: Version,
    },
    /// The pointer has gone further.
    #[error(
        "{channel} names {found}, which is newer than {version}: the package is published, the pointer is left"
    )]
    PointerMoved {
        /// The channel's file.
        channel: String,
        /// What it names.
        found: Version,
        /// What was to be published.
        version: Version,
    },
    /// What was built cannot be used.
    #[error("{} holds no built release: build one with `cargo relmgr release`", path.display())]
    NoBuild {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What was built contradicts itself.
    #[error("{} is not what `cargo relmgr release` made: {reason}; build it again", path.display())]
    BadBuild {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The package inside cannot be used.
    #[error(transparent)]
    Package(#[from] PackageError),
}

/// One release in a repository.
#[derive(Debug, Clone, PartialEq)]
pub struct PublishedRelease {
    /// Its version.
    pub version: Version,
    /// Size of its package in bytes.
    pub size: u64,
    /// Its manifest; `None`: published without one beside it, or it cannot be read.
    pub manifest: Option<Manifest>,
    /// Whether `VERSION` names it.
    pub current: bool,
}

/// What a publish changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The release.
    pub version: Version,
    /// False: the same package was there already.
    pub package_written: bool,
    /// Whether the pointer was set (or named this version already).
    pub channel_set: bool,
}

impl Repository {
    /// The repository at `url`.
    ///
    /// # Errors
    /// [`RepositoryError::Url`].
    pub fn open(url: &str) -> Result<Self, RepositoryError> {
        match url.strip_prefix("file://").filter(|path| path.starts_with('/')) {
            Some(path) => Ok(Self { url: url.into(), directory: Directory::new(path, url) }),
            None => Err(RepositoryError::Url { url: url.into() }),
        }
    }

    /// The repository's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The version that the channel `name` names; `""` is the file `VERSION`.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub async fn channel(&self, name: &str) -> Result<Version, RepositoryError> {
        let name = name.to_owned();
        self.run(move |directory| directory.channel(&name)).await
    }

    /// The manifest beside the package; `None`: there is a package and no manifest.
    ///
    /// # Errors
    /// [`RepositoryError::NoRelease`] where there is no package either.
    pub async fn manifest(&self, version: &Version) -> Result<Option<Manifest>, RepositoryError> {
        let version = version.clone();
        self.run(move |directory| directory.manifest(&version)).await
    }

    /// Fetches a package into `into`, hashed and bounded while it streams. `progress` is told the bytes so far and
    /// in all.
    ///
    /// # Errors
    /// [`RepositoryError`]; `into` is not there then.
    pub async fn fetch_package(
        &self,
        version: &Version,
        expected: Option<&Digest>,
        limit: u64,
        into: &Path,
        progress: impl FnMut(u64, Option<u64>) + Send + 'static,
    ) -> Result<Digest, RepositoryError> {
        let (version, expected, into) = (version.clone(), expected.cloned(), into.to_owned());
        self.run(move |directory| directory.fetch(&version, expected.as_ref(), limit, &into, progress)).await
    }

    /// Every release, newest first.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub async fn list(&self) -> Result<Vec<PublishedRelease>, RepositoryError> {
        self.run(|directory| directory.list()).await
    }

    /// Publishes what was built; with `set_channel` the default channel names it afterwards.
    ///
    /// # Errors
    /// [`RepositoryError`]; readers see what they saw before, and the same call again completes what it can.
    pub async fn publish(
        &self,
        release: &BuiltRelease,
        set_channel: bool,
    ) -> Result<Published, RepositoryError> {
        let release = release.clone();
        self.run(move |directory| directory.publish(&release, set_channel)).await
    }

    /// Runs blocking work where it holds up nobody.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Directory) -> Result<T, RepositoryError> + Send + 'static,
    ) -> Result<T, RepositoryError> {
        let directory = self.directory.clone();
        match tokio::task::spawn_blocking(move || work(&directory)).await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
