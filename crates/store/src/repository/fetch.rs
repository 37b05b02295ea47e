//! From the repository to a file on this machine.

use std::path::Path;

use relmgr_model::Version;
use relmgr_model::channel::{self as channels, MAX_SIGNATURE_BYTES};
use relmgr_model::manifest::{Digest, Manifest};

use super::{PACKAGE_BYTES, Repository, RepositoryError, forget};
use crate::digest;
use crate::signature::{self, SignatureError};
use crate::storage::{Download, Progress, StorageError};

/// A manifest that may be believed: its signature was checked where keys are trusted.
#[derive(Debug, Clone)]
pub struct VerifiedManifest {
    /// The manifest.
    pub manifest: Manifest,
    /// SHA-256 of its text in the repository.
    pub sha256: String,
    /// The key that signed it, as relmgr.toml writes it.
    pub key: Option<String>,
}

/// A large object to be fetched.
pub struct Fetch<'a> {
    /// The release.
    pub version: &'a Version,
    /// What a verified manifest says of the object; `None`: a package without a manifest beside it.
    pub expected: Option<&'a Digest>,
    /// The file. What an interrupted fetch left there is gone on with.
    pub into: &'a Path,
    /// Told of the bytes.
    pub progress: Progress,
}

impl Repository {
    /// The manifest of `version`; `None`: its package was published without one, and nobody is asked to have signed
    /// it. `pinned` is the SHA-256 that a channel's document names.
    ///
    /// # Errors
    /// [`RepositoryError`], before anything is parsed that nobody vouches for.
    pub async fn manifest(
        &self,
        version: &Version,
        pinned: Option<&str>,
    ) -> Result<Option<VerifiedManifest>, RepositoryError> {
        let url = || self.url.clone();
        // 1. Withdrawn releases are refused whatever vouches for them.
        if let Some(reason) = self.yanked(version).await? {
            return Err(RepositoryError::Yanked { version: version.clone(), url: url(), reason });
        }
        // 2. The bytes, at most as many as a manifest can have.
        let key = format!("{version}.toml");
        let Some(bytes) = self.manifest_bytes(version).await? else {
            return match self.storage.meta(&format!("{version}.tar.gz")).await? {
                None => Err(RepositoryError::NoRelease { version: version.clone(), url: url() }),
                Some(_) if !self.trust.is_empty() => Err(RepositoryError::Unsigned { key, url: url() }),
                Some(_) => Ok(None),
            };
        };
        // 3. Who vouches for them.
        let sha256 = digest::of_bytes(&bytes).sha256;
        let refused = |source| RepositoryError::Signature { key: key.clone(), url: url(), source };
        let signed = match self.trust.is_empty() {
            true => None,
            false => {
                let object = self.storage.read(&format!("{key}.minisig"), MAX_SIGNATURE_BYTES).await?;
                let object =
                    object.ok_or_else(|| RepositoryError::Unsigned { key: key.clone(), url: url() })?;
                let text = String::from_utf8_lossy(&object.bytes).into_owned();
                let signer = signature::verify_any(&bytes, &text, &self.trust.release).map_err(refused)?;
                Some((text, signer.text().to_owned()))
            }
        };
        if pinned.is_some_and(|pinned| pinned != sha256) {
            return Err(RepositoryError::OtherManifest { version: version.clone(), url: url() });
        }
        // 4. Now they are read.
        let manifest = self.parse_manifest(version, &bytes)?;
        if let Some((text, _)) = &signed {
            let found = signature::trusted_comment(text).unwrap_or_default();
            let expected = channels::release_comment(&manifest.name, version);
            if found != expected {
                return Err(refused(SignatureError::Comment { found, expected }));
            }
        }
        if manifest.package.is_none() {
            return Err(RepositoryError::NoPackageDigest { version: version.clone(), url: url() });
        }
        Ok(Some(VerifiedManifest { manifest, sha256, key: signed.map(|(_, key)| key) }))
    }

    /// Fetches a package, bounded and hashed. What came of an interrupted fetch stays beside `into` and is gone on
    /// with by the next one.
    ///
    /// # Errors
    /// [`RepositoryError`]; what is of no use for another try is removed then.
    pub async fn fetch_package(&self, fetch: Fetch<'_>) -> Result<Digest, RepositoryError> {
        let key = format!("{}.tar.gz", fetch.version);
        self.fetch(&key, fetch).await
    }

    /// Fetches what makes `fetch.version` of `from`.
    ///
    /// # Errors
    /// As [`Repository::fetch_package`].
    pub async fn fetch_delta(&self, from: &Version, fetch: Fetch<'_>) -> Result<Digest, RepositoryError> {
        let key = format!("{from}_{}.delta", fetch.version);
        self.fetch(&key, fetch).await
    }

    async fn fetch(&self, key: &str, fetch: Fetch<'_>) -> Result<Digest, RepositoryError> {
        let Fetch { version, expected, into, progress } = fetch;
        let size = expected.map(|digest| digest.size);
        let download = Download { key, size, limit: PACKAGE_BYTES, into, progress };
        let fetched = match tokio::time::timeout(self.timeout, self.storage.download(download)).await {
            Ok(fetched) => fetched.map_err(|error| self.about(version, error)),
            Err(_) => {
                let limit = format!("{} s", self.timeout.as_secs());
                Err(RepositoryError::TimedOut { version: version.clone(), limit })
            }
        };
        let checked = fetched.and_then(|found| match expected {
            Some(expected) if found.sha256 != expected.sha256 => {
                Err(RepositoryError::Corrupted { version: version.clone() })
            }
            _ => Ok(found),
        });
        let resumable = matches!(
            checked,
            Ok(_)
                | Err(
                    RepositoryError::TimedOut { .. } | RepositoryError::Storage(StorageError::Service { .. })
                )
        );
        if !resumable {
            // Cut, too long, another one, or no room for it: of no use for another try.
            forget(into);
        }
        checked
    }

    /// A storage's error as one about a release.
    fn about(&self, version: &Version, error: StorageError) -> RepositoryError {
        let version = version.clone();
        match error {
            StorageError::TooLarge { limit, .. } => RepositoryError::Oversized { version, limit },
            StorageError::Short { found, expected, .. } => {
                RepositoryError::Truncated { version, found, expected }
            }
            StorageError::Absent { url, .. } => RepositoryError::NoRelease { version, url },
            other => other.into(),
        }
    }
}
