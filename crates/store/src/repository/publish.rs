//! Publishing that cannot half-happen.
//!
//! In this order: package, delta, manifest, signature, `latest.tar.gz`, the channel's document and its signature, and
//! `VERSION` last, so that no reader ever follows a pointer to something missing. Nothing that was published is ever
//! written over, and what is there already is left, so that the same command again completes what a broken one began.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use relmgr_model::Version;
use relmgr_model::channel::{self as channels, ChannelDocument, MAX_SIGNATURE_BYTES};
use relmgr_model::manifest::{Digest, Manifest};

use super::channel::{ChannelChange, LIFETIME, Waves};
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
    /// Whether a delta from the channel's release is made. A manifest that was signed when it was built has none: it
    /// would have to name it.
    pub delta: bool,
    /// No node of the channel goes below it from now on.
    pub min_version: Option<Version>,
    /// Whether the channel may name an older release than before.
    pub going_back: bool,
    /// Who goes when of the nodes that follow the channel by themselves.
    pub rollout: Option<Waves>,
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
            delta: true,
            min_version: None,
            going_back: false,
            rollout: None,
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
    /// The deltas that its manifest names, with their sizes in bytes.
    pub deltas: BTreeMap<Version, u64>,
    /// Why no delta could be made; nodes fetch the package then.
    pub delta_fault: Option<String>,
    /// Whether its manifest is signed.
    pub signed: bool,
    /// Whether the channel names it now (or did already).
    pub channel_set: bool,
    /// The channel's document, where it is signed.
    pub document: Option<ChannelDocument>,
}

/// A manifest as it is published.
struct Written {
    manifest: Manifest,
    text: Vec<u8>,
    signed: bool,
    delta_fault: Option<String>,
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
        // 2. The delta, the manifest that names it, and its signature; or what is there from an earlier try.
        let Written { manifest, text, signed, delta_fault } =
            self.create_manifest(release, publisher).await?;
        let mut published = Published {
            version: version.clone(),
            package_written,
            deltas: manifest.deltas.iter().map(|(from, digest)| (from.clone(), digest.size)).collect(),
            delta_fault,
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

    async fn create_manifest(
        &self,
        release: &BuiltRelease,
        publisher: &Publisher<'_>,
    ) -> Result<Written, RepositoryError> {
        let version = &release.manifest.version;
        let immutable = || RepositoryError::Immutable { version: version.clone() };
        let (manifest, text, delta_fault) = match self.manifest_bytes(version).await? {
            Some(found) => {
                let manifest = self.parse_manifest(version, &found).map_err(|_| immutable())?;
                // Deltas depend on what the channel named at the time.
                let same = Manifest { deltas: BTreeMap::new(), ..manifest.clone() }
                    == Manifest { deltas: BTreeMap::new(), ..release.manifest.clone() };
                if !same {
                    return Err(immutable());
                }
                (manifest, found, None)
            }
            None => {
                let (manifest, text, fault) = self.with_delta(release, publisher).await?;
                match self.write_new(&format!("{version}.toml"), &text).await {
                    Err(StorageError::Conflict { .. }) => return Err(immutable()),
                    other => other?,
                }
                (manifest, text, fault)
            }
        };
        let key = format!("{version}.toml.minisig");
        let signed = match (publisher.release, &release.signature) {
            (Some(signer), _) => {
                let comment = channels::release_comment(&release.manifest.name, version);
                Some(signer.sign(&text, &comment).map_err(|reason| RepositoryError::Sign { reason })?)
            }
            // Of the manifest as it was built, which is the one that is there.
            (None, Some(path)) => {
                let local = |source| RepositoryError::Local { path: path.clone(), what: "read", source };
                Some(std::fs::read_to_string(path).map_err(local)?)
            }
            (None, None) => None,
        };
        let Some(signed) = signed else {
            let signed = self.storage.meta(&key).await?.is_some();
            return Ok(Written { manifest, text, signed, delta_fault });
        };
        // Another signature of the same manifest may take its place: a key was rotated.
        let found = self.storage.read(&key, MAX_SIGNATURE_BYTES).await?;
        if found.is_none_or(|found| found.bytes != signed.as_bytes()) {
            self.storage.write(&key, signed.as_bytes(), &Condition::Any).await?;
        }
        Ok(Written { manifest, text, signed: true, delta_fault })
    }

    /// The manifest to be published, with the delta that was made for it.
    async fn with_delta(
        &self,
        release: &BuiltRelease,
        publisher: &Publisher<'_>,
    ) -> Result<(Manifest, Vec<u8>, Option<String>), RepositoryError> {
        let mut manifest = release.manifest.clone();
        let local =
            |source| RepositoryError::Local { path: release.manifest_path.clone(), what: "read", source };
        let built = std::fs::read(&release.manifest_path).map_err(local)?;
        // Signed at build, and nobody to sign it again.
        let fixed = release.signature.is_some() && publisher.release.is_none();
        let (true, Some(channel), false) = (publisher.delta, publisher.to, fixed) else {
            return Ok((manifest, built, None));
        };
        match self.create_delta(release, channel).await {
            Ok(Some((from, digest))) => {
                manifest.deltas.insert(from, digest);
                let text = manifest.to_toml().into_bytes();
                Ok((manifest, text, None))
            }
            Ok(None) => Ok((manifest, built, None)),
            // Nodes fetch the package instead.
            Err(error) => Ok((manifest, built, Some(super::describe(&error)))),
        }
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
                    rollout: publisher.rollout.clone(),
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
            rollout: publisher.rollout.as_ref().map(|waves| waves.from(issued)),
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
