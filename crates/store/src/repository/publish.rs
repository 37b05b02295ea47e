//! Publishing that cannot half-happen.
//!
//! In this order: package, manifest, signature, `latest.tar.gz`, the channel's document and its signature, and
//! `VERSION` last, so that no reader ever follows a pointer to something missing. Nothing that was published is ever
//! written over, and what is there already is left, so that the same command again completes what a broken one began.

use chrono::{DateTime, TimeDelta, Utc};
use relmgr_model::Version;
use relmgr_model::channel::{self as channels, ChannelDocument, MAX_SIGNATURE_BYTES};
use relmgr_model::manifest::{Digest, Manifest};

use super::channel::{ChannelChange, LIFETIME};
use super::{BuiltRelease, Repository, RepositoryError};
use crate::digest;
use crate::signature::{self, Signer};
use crate::storage::{Condition, Progress, StorageError, unseen};

/// Who publishes, and where to.
pub struct Publisher<'a> {
    /// Signs the manifest; `None`: what `cargo relmgr release` has signed, or nobody.
    pub release: Option<&'a dyn Signer>,
    /// Signs the channel's document.
    pub channel: Option<&'a dyn Signer>,
    /// The channel that names the release afterwards; `""` is the default one, `None` leaves all as they are.
    pub to: Option<&'a str>,
    /// How long the channel's document holds; `None`: 90 days.
    pub lifetime: Option<TimeDelta>,
    /// No node of the channel goes below it from now on.
    pub min_version: Option<Version>,
    /// Whether the channel may name an older release than before.
    pub going_back: bool,
    /// The clock.
    pub now: DateTime<Utc>,
    /// Told of the package's bytes.
    pub progress: Progress,
}

impl Default for Publisher<'_> {
    fn default() -> Self {
        Self {
            release: None,
            channel: None,
            to: Some(""),
            lifetime: None,
            min_version: None,
            going_back: false,
            now: Utc::now(),
            progress: unseen(),
        }
    }
}

/// What a publish changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The release.
    pub version: Version,
    /// False: the same package was there already.
    pub package_written: bool,
    /// Whether its manifest is signed.
    pub signed: bool,
    /// Whether the channel names it now (or did already).
    pub channel_set: bool,
    /// The channel's document, where it is signed.
    pub document: Option<ChannelDocument>,
}

impl Repository {
    /// Publishes what was built.
    ///
    /// # Errors
    /// [`RepositoryError`]; readers see what they saw before, and the same call again completes what it can.
    pub async fn publish(
        &self,
        release: &BuiltRelease,
        publisher: &Publisher<'_>,
    ) -> Result<Published, RepositoryError> {
        let version = &release.manifest.version;
        let expected = release.manifest.package.as_ref().ok_or_else(|| RepositoryError::NoPackageDigest {
            version: version.clone(),
            url: self.url.clone(),
        })?;
        // 1. The package, never over another one.
        let package_written = self.create_package(version, release, expected, &publisher.progress).await?;
        // 2. The manifest and 3. its signature; or what is there of the same package, from an earlier try.
        let (text, signed) = self.create_manifest(release, publisher).await?;
        let mut published = Published {
            version: version.clone(),
            package_written,
            signed,
            channel_set: false,
            document: None,
        };
        if let Some(channel) = publisher.to {
            let sha256 = digest::of_bytes(&text).sha256;
            published.document = self.point(&release.manifest, &sha256, channel, publisher).await?;
            published.channel_set = true;
        }
        Ok(published)
    }

    /// Has a channel name a release that is published already.
    ///
    /// # Errors
    /// As [`Repository::publish`].
    pub async fn promote(
        &self,
        version: &Version,
        channel: &str,
        publisher: &Publisher<'_>,
    ) -> Result<Option<ChannelDocument>, RepositoryError> {
        let verified = self.manifest(version, None).await?;
        let verified = verified.ok_or_else(|| RepositoryError::NoPackageDigest {
            version: version.clone(),
            url: self.url.clone(),
        })?;
        self.point(&verified.manifest, &verified.sha256, channel, publisher).await
    }

    async fn create_package(
        &self,
        version: &Version,
        release: &BuiltRelease,
        expected: &Digest,
        progress: &Progress,
    ) -> Result<bool, RepositoryError> {
        let key = format!("{version}.tar.gz");
        if self.is_same(&key, expected).await?.is_some_and(|same| same) {
            return Ok(false);
        }
        let uploaded =
            self.storage.upload(&key, &release.package, expected, &Condition::Absent, progress.clone()).await;
        match uploaded {
            // Somebody else's, or ours of a try before.
            Err(StorageError::Conflict { .. }) => {}
            other => other?,
        }
        match self.is_same(&key, expected).await? {
            Some(true) => Ok(true),
            _ => Err(RepositoryError::Immutable { version: version.clone() }),
        }
    }

    /// Whether the object at `key` is what `expected` says; `None`: there is none. Reads it where its writer has not
    /// said its digest.
    async fn is_same(&self, key: &str, expected: &Digest) -> Result<Option<bool>, RepositoryError> {
        let Some(meta) = self.storage.meta(key).await? else { return Ok(None) };
        let same = match meta.sha256 {
            _ if meta.size != expected.size => false,
            Some(sha256) => sha256 == expected.sha256,
            None => self.hash(key, meta.size).await?.sha256 == expected.sha256,
        };
        // Another content is no reason to go on: a version is never written over.
        if same { Ok(Some(true)) } else { Ok(Some(false)) }
    }

    /// Size and SHA-256 of a large object.
    pub(super) async fn hash(&self, key: &str, size: u64) -> Result<Digest, RepositoryError> {
        let local = |source| RepositoryError::Local { path: std::env::temp_dir(), what: "written", source };
        let directory = tempfile::tempdir().map_err(local)?;
        let into = directory.path().join("object");
        let download =
            crate::storage::Download { key, size: Some(size), limit: size, into: &into, progress: unseen() };
        Ok(self.storage.download(download).await?)
    }

    /// Returns the manifest's text as it is published, and whether it is signed.
    async fn create_manifest(
        &self,
        release: &BuiltRelease,
        publisher: &Publisher<'_>,
    ) -> Result<(Vec<u8>, bool), RepositoryError> {
        let version = &release.manifest.version;
        let local =
            |source| RepositoryError::Local { path: release.manifest_path.clone(), what: "read", source };
        let ours = std::fs::read(&release.manifest_path).map_err(local)?;
        let text = match self.manifest_bytes(version).await? {
            Some(found)
                if self.parse_manifest(version, &found).is_ok_and(|found| found == release.manifest) =>
            {
                found
            }
            Some(_) => return Err(RepositoryError::Immutable { version: version.clone() }),
            None => {
                match self.write_new(&format!("{version}.toml"), &ours).await {
                    Err(StorageError::Conflict { .. }) => {
                        return Err(RepositoryError::Immutable { version: version.clone() });
                    }
                    other => other?,
                }
                ours
            }
        };
        let key = format!("{version}.toml.minisig");
        let signed = match (publisher.release, &release.signature) {
            (Some(signer), _) => {
                let comment = channels::release_comment(&release.manifest.name, version);
                Some(signer.sign(&text, &comment).map_err(|reason| RepositoryError::Sign { reason })?)
            }
            (None, Some(path)) => {
                let local = |source| RepositoryError::Local { path: path.clone(), what: "read", source };
                Some(std::fs::read_to_string(path).map_err(local)?)
            }
            (None, None) => None,
        };
        let Some(signed) = signed else {
            return Ok((text, self.storage.meta(&key).await?.is_some()));
        };
        // Another signature of the same manifest may take its place: a key was rotated.
        let found = self.storage.read(&key, MAX_SIGNATURE_BYTES).await?;
        if found.is_none_or(|found| found.bytes != signed.as_bytes()) {
            self.storage.write(&key, signed.as_bytes(), &Condition::Any).await?;
        }
        Ok((text, true))
    }

    /// Has `channel` name the release of `manifest`.
    async fn point(
        &self,
        manifest: &Manifest,
        sha256: &str,
        channel: &str,
        publisher: &Publisher<'_>,
    ) -> Result<Option<ChannelDocument>, RepositoryError> {
        let version = &manifest.version;
        let name = if channel.is_empty() { channels::DEFAULT } else { channel };
        if !channels::is_name(name) {
            return Err(RepositoryError::ChannelName { name: name.into() });
        }
        let default = name == channels::DEFAULT;
        self.may_point(name, publisher).await?;
        if default {
            if !publisher.going_back {
                self.not_newer("VERSION", version).await?;
            }
            // 4. The same package under the name that people's scripts fetch.
            self.settle_latest(manifest).await?;
        }
        let set = self.set_pointers(manifest, sha256, name, publisher).await;
        if let Err(RepositoryError::PointerMoved { found, .. }) = &set
            && default
        {
            // Somebody with a newer release was faster: the pointer is theirs, and so is this name.
            self.storage.copy(&format!("{found}.tar.gz"), "latest.tar.gz").await?;
        }
        set
    }

    async fn set_pointers(
        &self,
        manifest: &Manifest,
        sha256: &str,
        name: &str,
        publisher: &Publisher<'_>,
    ) -> Result<Option<ChannelDocument>, RepositoryError> {
        let (version, default) = (&manifest.version, name == channels::DEFAULT);
        // 5. The channel's document and its signature.
        let document = match publisher.channel {
            Some(signer) => {
                let change = ChannelChange {
                    to: Some((version.clone(), sha256.to_owned())),
                    lifetime: publisher.lifetime,
                    min_version: publisher.min_version.clone(),
                    going_back: publisher.going_back,
                    yank: None,
                };
                Some(self.change_channel(&manifest.name, name, &change, signer, publisher.now).await?)
            }
            None if !default => {
                let text = self.unsigned_text(manifest, sha256, name, publisher);
                self.set_unsigned(&format!("channels/{name}.toml"), version, &text, publisher.going_back)
                    .await?;
                None
            }
            None => None,
        };
        // 6. Its shadow for people's scripts, last.
        if default {
            self.set_unsigned("VERSION", version, &format!("{version}\n"), publisher.going_back).await?;
        }
        Ok(document)
    }

    fn unsigned_text(
        &self,
        manifest: &Manifest,
        sha256: &str,
        name: &str,
        publisher: &Publisher<'_>,
    ) -> String {
        let issued = DateTime::from_timestamp(publisher.now.timestamp(), 0).unwrap_or(publisher.now);
        let lifetime = publisher.lifetime.unwrap_or(LIFETIME);
        let document = ChannelDocument {
            format: channels::FORMAT,
            application: manifest.name.clone(),
            channel: name.into(),
            version: manifest.version.clone(),
            manifest_sha256: sha256.into(),
            serial: channels::next_serial(None, publisher.now),
            issued,
            expires: issued.checked_add_signed(lifetime).unwrap_or(DateTime::<Utc>::MAX_UTC),
            min_version: publisher.min_version.clone(),
            going_back: publisher.going_back,
            yanked: Default::default(),
        };
        document.to_toml()
    }

    /// A channel that is signed stays so: nodes that trust keys would not see what an unsigned publish says.
    async fn may_point(&self, name: &str, publisher: &Publisher<'_>) -> Result<(), RepositoryError> {
        if publisher.channel.is_some() {
            return Ok(());
        }
        match self.storage.meta(&format!("channels/{name}.toml.minisig")).await? {
            Some(_) => Err(RepositoryError::ChannelSigned { channel: name.into(), url: self.url.clone() }),
            None => Ok(()),
        }
    }

    async fn not_newer(&self, key: &str, version: &Version) -> Result<(), RepositoryError> {
        match self.version_file().await {
            Ok(found) if found > *version => {
                Err(RepositoryError::PointerMoved { channel: key.into(), found, version: version.clone() })
            }
            // Missing or broken: about to be written.
            _ => Ok(()),
        }
    }

    async fn settle_latest(&self, manifest: &Manifest) -> Result<(), RepositoryError> {
        let Some(expected) = &manifest.package else { return Ok(()) };
        let latest = self.storage.meta("latest.tar.gz").await?;
        let same = latest
            .is_some_and(|meta| meta.size == expected.size && meta.sha256.as_ref() == Some(&expected.sha256));
        if !same {
            self.storage.copy(&format!("{}.tar.gz", manifest.version), "latest.tar.gz").await?;
        }
        Ok(())
    }

    /// Checks that a `.minisig` beside a built manifest is of it, before anything is uploaded.
    ///
    /// # Errors
    /// [`RepositoryError::BadBuild`].
    pub fn check_signature(&self, release: &BuiltRelease) -> Result<(), RepositoryError> {
        let Some(path) = &release.signature else { return Ok(()) };
        let bad = |reason: String| RepositoryError::BadBuild { path: path.clone(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        let comment = signature::trusted_comment(&text).ok_or_else(|| bad("it is no signature".into()))?;
        let expected = channels::release_comment(&release.manifest.name, &release.manifest.version);
        if comment != expected {
            return Err(bad(format!("it is signed as `{comment}`, not as `{expected}`")));
        }
        Ok(())
    }
}
