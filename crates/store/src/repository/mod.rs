//! Where releases are published and fetched from.
//!
//! ```text
//! VERSION                             the default channel for people's scripts: a version and a newline
//! <version>.tar.gz                    the package, immutable
//! latest.tar.gz                       the same bytes as VERSION's package
//! <version>.toml                      the manifest, immutable
//! <version>.toml.minisig              its signature
//! <version>.yanked                    withdrawn: the publisher's words
//! <from>_<to>.delta                   what makes <to> of <from>; size and SHA-256 stand in <to>'s manifest
//! channels/<name>.toml                a channel's document; the default channel's name is `default`
//! channels/<name>.toml.minisig        its signature; with it a new document is in force
//! channels/<name>/<serial>.toml       each document, immutable
//! ```
//!
//! Everything that comes from here is bounded before it is read, and believed after its signature or its digest was
//! checked. [`publish`](Repository::publish) says in which order things are written.

mod built;
mod channel;
mod delta;
mod error;
mod fetch;
mod keep;
mod publish;

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use relmgr_model::Version;
use relmgr_model::channel::{self as channels, ChannelDocument};
use relmgr_model::manifest::{self, Manifest};

pub use built::BuiltRelease;
pub use channel::{ChannelChange, ChannelHead, Waves};
pub use error::RepositoryError;
pub use fetch::{Fetch, VerifiedManifest};
pub use keep::{Collected, Finding};
pub use publish::{Published, Publisher};

use crate::signature::Trust;
use crate::storage::{Object, S3Options, Storage, StorageError};

/// A pointer is one version; this is room for a mistake, not for an attack.
pub const POINTER_BYTES: u64 = 64 * 1024;

/// The largest package that is fetched where no manifest beside it says a size.
const PACKAGE_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// A fetch as a whole may take so long where nothing else is said: 100 MB at 1 Mbit/s.
pub const TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Where releases are published and fetched from.
#[derive(Debug, Clone)]
pub struct Repository {
    url: String,
    storage: Storage,
    trust: Trust,
    timeout: Duration,
}

/// How a repository is reached, and whom it is believed from.
#[derive(Debug, Clone)]
pub struct Options {
    /// For `s3://`.
    pub s3: S3Options,
    /// Whose releases and channels are accepted; nobody: unsigned ones too, which is for the caller to allow.
    pub trust: Trust,
    /// A fetch as a whole may take so long.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { s3: S3Options::default(), trust: Trust::default(), timeout: TIMEOUT }
    }
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
    /// Whether there is a signature; not whether it holds.
    pub signed: bool,
    /// The channels that name it: `VERSION`, or a document's name.
    pub channels: Vec<String>,
    /// When its package was written.
    pub modified: Option<DateTime<Utc>>,
    /// The publisher's words, where it was withdrawn.
    pub yanked: Option<String>,
}

/// What a channel says.
#[derive(Debug, Clone)]
pub enum Pointer {
    /// The version in the file `VERSION`, or in a document that nobody signed.
    Plain(Version),
    /// A document whose signature was checked. Whether it is to be followed is for
    /// [`relmgr_model::channel::judge`].
    Signed {
        /// The document.
        document: Box<ChannelDocument>,
        /// SHA-256 of its text.
        sha256: String,
        /// The key that signed it, as relmgr.toml writes it.
        key: String,
    },
}

impl Repository {
    /// The repository at `url`. No server is asked yet.
    ///
    /// # Errors
    /// [`RepositoryError::Url`], [`RepositoryError::Endpoint`].
    pub fn open(url: &str, options: Options) -> Result<Self, RepositoryError> {
        let Options { s3, trust, timeout } = options;
        if s3.endpoint_url.as_deref().is_some_and(|endpoint| endpoint.contains('@')) {
            return Err(RepositoryError::Endpoint);
        }
        let storage = match (url.strip_prefix("file://"), url.strip_prefix("s3://")) {
            (Some(path), _) if path.starts_with('/') => Storage::directory(path),
            (_, Some(bucket)) if !bucket.is_empty() && !bucket.starts_with('/') => Storage::s3(s3, url),
            _ => return Err(RepositoryError::Url { url: url.into() }),
        };
        Ok(Self { url: url.into(), storage, trust, timeout })
    }

    /// The repository's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whose releases and channels are accepted.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// What the channel `name` says; `""` is the default one. Where keys are trusted that is its signed document and
    /// nothing else.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub async fn channel(&self, name: &str) -> Result<Pointer, RepositoryError> {
        if self.trust.is_empty() {
            return Ok(Pointer::Plain(match name {
                "" | channels::DEFAULT => self.version_file().await?,
                name => self.unsigned_document(name).await?.version,
            }));
        }
        let name = if name.is_empty() { channels::DEFAULT } else { name };
        let head = self.document(name, &self.trust.channel).await?;
        Ok(Pointer::Signed {
            document: Box::new(head.document),
            sha256: head.sha256,
            key: head.key.unwrap_or_default(),
        })
    }

    /// The version in the file `VERSION`.
    async fn version_file(&self) -> Result<Version, RepositoryError> {
        let (channel, url) = ("VERSION".to_owned(), self.url.clone());
        match self.read_pointer(&channel).await? {
            Some(object) => parse_pointer(&object.bytes).map_err(|source| RepositoryError::Pointer {
                channel,
                url,
                source,
            }),
            None => Err(RepositoryError::NoChannel { channel, url }),
        }
    }

    async fn read_pointer(&self, key: &str) -> Result<Option<Object>, RepositoryError> {
        match self.storage.read(key, POINTER_BYTES).await {
            Err(StorageError::TooLarge { .. }) => {
                Err(RepositoryError::PointerSize { channel: key.into(), url: self.url.clone() })
            }
            other => Ok(other?),
        }
    }

    /// Every release, newest first.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub async fn list(&self) -> Result<Vec<PublishedRelease>, RepositoryError> {
        let entries = self.storage.list("").await?;
        let has = |key: String| entries.iter().any(|entry| entry.key == key);
        // A broken pointer is no reason not to show what is there.
        let mut named = vec![("VERSION".to_owned(), self.version_file().await.ok())];
        for head in self.heads().await? {
            named.push((head.document.channel, Some(head.document.version)));
        }
        let mut releases = vec![];
        for entry in &entries {
            let version = entry.key.strip_suffix(".tar.gz").and_then(|text| text.parse::<Version>().ok());
            let Some(version) = version else { continue };
            let manifest = match has(format!("{version}.toml")) {
                true => self.unverified_manifest(&version).await.ok().flatten(),
                false => None,
            };
            let yanked = match has(format!("{version}.yanked")) {
                true => self.yanked(&version).await?,
                false => None,
            };
            let names = named.iter().filter(|(_, names)| names.as_ref() == Some(&version));
            releases.push(PublishedRelease {
                size: entry.size,
                signed: has(format!("{version}.toml.minisig")),
                channels: names.map(|(name, _)| name.clone()).collect(),
                modified: entry.modified,
                manifest,
                yanked,
                version,
            });
        }
        releases.sort_by(|a, b| b.version.cmp(&a.version));
        Ok(releases)
    }

    /// Why `version` was withdrawn; `None`: it was not.
    ///
    /// # Errors
    /// [`RepositoryError`].
    pub async fn yanked(&self, version: &Version) -> Result<Option<String>, RepositoryError> {
        let object = self.storage.read(&format!("{version}.yanked"), POINTER_BYTES).await?;
        Ok(object.map(|object| String::from_utf8_lossy(&object.bytes).trim().to_owned()))
    }

    /// The manifest's bytes; `None`: there is none.
    async fn manifest_bytes(&self, version: &Version) -> Result<Option<Vec<u8>>, RepositoryError> {
        match self.storage.read(&format!("{version}.toml"), manifest::MAX_BYTES).await {
            Err(StorageError::TooLarge { .. }) => {
                Err(RepositoryError::ManifestSize { version: version.clone(), url: self.url.clone() })
            }
            other => Ok(other?.map(|object| object.bytes)),
        }
    }

    /// The manifest as it lies there, for people to look at.
    async fn unverified_manifest(&self, version: &Version) -> Result<Option<Manifest>, RepositoryError> {
        let bytes = self.manifest_bytes(version).await?;
        bytes.map(|bytes| self.parse_manifest(version, &bytes)).transpose()
    }

    /// Reads a manifest whose signature was checked, or that nobody signs.
    fn parse_manifest(&self, version: &Version, bytes: &[u8]) -> Result<Manifest, RepositoryError> {
        let (of, url) = (version.clone(), self.url.clone());
        let manifest = Manifest::parse(&String::from_utf8_lossy(bytes))
            .map_err(|source| RepositoryError::Manifest { version: of.clone(), url: url.clone(), source })?;
        if manifest.version != of {
            return Err(RepositoryError::InnerVersion { version: of, found: manifest.version, url });
        }
        Ok(manifest)
    }
}

/// What people's editors and scripts add around a version is white space and a byte order mark.
fn parse_pointer(bytes: &[u8]) -> Result<Version, relmgr_model::version::ParseVersionError> {
    String::from_utf8_lossy(bytes).trim_start_matches('\u{feff}').trim().parse()
}

/// Removes what an interrupted fetch into `file` has left.
pub fn forget(file: &Path) {
    crate::storage::forget(file);
}

/// An error with its causes, one after the other.
fn describe(error: &RepositoryError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
