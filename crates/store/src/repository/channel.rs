//! Channel documents: reading the one that is in force, and putting the next one in force.
//!
//! A document and its signature are two objects, and a reader may come between them, or a publisher end there. So
//! each document is also kept under its serial, and the signature, which names the serial in its trusted comment, is
//! what puts a document in force: who finds a document that its signature does not fit takes the one of that serial.
//! Until the new signature is written that is the old document, whole.

use chrono::{DateTime, TimeDelta, Utc};
use relmgr_model::Version;
use relmgr_model::channel::{self as channels, ChannelDocument, MAX_BYTES, MAX_SIGNATURE_BYTES};
use relmgr_model::pull::{Rollout, Wave, Window};

use super::{Repository, RepositoryError, parse_pointer};
use crate::digest;
use crate::signature::{self, Signer, TrustedKey};
use crate::storage::{Condition, Object, StorageError};

/// So often a publisher that loses a race for a pointer tries again.
const RACES: u32 = 5;

/// So many publishers may have been interrupted one after the other.
const SERIALS: u32 = 100;

/// The document that is in force in a channel.
#[derive(Debug, Clone)]
pub struct ChannelHead {
    /// The document.
    pub document: ChannelDocument,
    /// SHA-256 of its text.
    pub sha256: String,
    /// The key that signed it, as relmgr.toml writes it; `None`: nobody has, or nobody was to check.
    pub key: Option<String>,
    /// Whether there is a signature.
    pub signed: bool,
}

/// What is to be said of a channel.
#[derive(Debug, Clone, Default)]
pub struct ChannelChange {
    /// The release it names and the SHA-256 of its manifest; `None`: the one that it names already.
    pub to: Option<(Version, String)>,
    /// How long the document holds.
    pub lifetime: Option<TimeDelta>,
    /// No node goes below it from now on.
    pub min_version: Option<Version>,
    /// Whether it may name an older release than before.
    pub going_back: bool,
    /// A release that no node may go to any more, with the reason.
    pub yank: Option<(Version, String)>,
    /// Who goes when; `None`: as it was, for the release that it was for.
    pub rollout: Option<Waves>,
}

/// When which nodes go to a release that follow the channel by themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waves {
    /// Who goes when, from the document's making on; empty: all at once.
    pub waves: Vec<Wave>,
    /// Times of a week at which nodes may go; empty: always.
    pub windows: Vec<Window>,
}

impl Waves {
    /// The same from `since` on.
    pub(super) fn from(&self, since: DateTime<Utc>) -> Rollout {
        Rollout { since, windows: self.windows.clone(), waves: self.waves.clone() }
    }
}

/// A document holds so long where nothing else is said: long enough for a team that rests over the summer, short
/// enough that a frozen fleet is noticed.
pub(super) const LIFETIME: TimeDelta = TimeDelta::days(90);

fn document_key(name: &str) -> String {
    format!("channels/{name}.toml")
}

impl Repository {
    /// The document of the channel `name` that is in force, its signature by one of `keys` checked.
    ///
    /// # Errors
    /// [`RepositoryError::NoChannel`], [`RepositoryError::Unsigned`], [`RepositoryError::Signature`] and others.
    pub async fn document(&self, name: &str, keys: &[TrustedKey]) -> Result<ChannelHead, RepositoryError> {
        if !channels::is_name(name) {
            return Err(RepositoryError::ChannelName { name: name.into() });
        }
        let (key, url) = (document_key(name), self.url.clone());
        // 1. The signature: it says which document is in force.
        let Some(signed) = self.read_signature(&key).await? else {
            return Err(match self.storage.meta(&key).await? {
                Some(_) => RepositoryError::Unsigned { key, url },
                None => RepositoryError::NoChannel { channel: key, url },
            });
        };
        // 2. The document itself, or, while another one is being put in force, the one of the signature's serial.
        let serial = signature::trusted_comment(&signed).and_then(|comment| channels::serial_of(&comment));
        let kept = serial.map(|serial| format!("channels/{name}/{serial}.toml"));
        let mut refused = None;
        for place in [Some(key.clone()), kept].into_iter().flatten() {
            let Some(object) = self.read_document(&place).await? else { continue };
            match signature::verify_any(&object.bytes, &signed, keys) {
                // 3. Only now the content is looked at.
                Ok(signer) => return self.head(name, &object.bytes, Some((&signed, signer.text()))),
                Err(error) => refused = Some(error),
            }
        }
        Err(match refused {
            Some(source) => RepositoryError::Signature { key, url, source },
            None => RepositoryError::NoChannel { channel: key, url },
        })
    }

    /// Reads a document whose signature was checked. The signature must be that of this document as what it is.
    fn head(
        &self,
        name: &str,
        bytes: &[u8],
        signed: Option<(&str, &str)>,
    ) -> Result<ChannelHead, RepositoryError> {
        let (channel, url) = (document_key(name), self.url.clone());
        let document = ChannelDocument::parse(&String::from_utf8_lossy(bytes)).map_err(|source| {
            RepositoryError::Document { channel: channel.clone(), url: url.clone(), source }
        })?;
        if let Some((signature, _)) = signed {
            let (found, expected) =
                (signature::trusted_comment(signature).unwrap_or_default(), document.trusted_comment());
            if found != expected {
                let source = signature::SignatureError::Comment { found, expected };
                return Err(RepositoryError::Signature { key: channel, url, source });
            }
        }
        Ok(ChannelHead {
            sha256: digest::of_bytes(bytes).sha256,
            key: signed.map(|(_, key)| key.to_owned()),
            signed: signed.is_some(),
            document,
        })
    }

    async fn read_signature(&self, key: &str) -> Result<Option<String>, RepositoryError> {
        let object = self.storage.read(&format!("{key}.minisig"), MAX_SIGNATURE_BYTES).await?;
        Ok(object.map(|object| String::from_utf8_lossy(&object.bytes).into_owned()))
    }

    async fn read_document(&self, key: &str) -> Result<Option<Object>, RepositoryError> {
        Ok(self.storage.read(key, MAX_BYTES).await?)
    }

    /// A document that nobody has to have signed.
    pub(super) async fn unsigned_document(&self, name: &str) -> Result<ChannelDocument, RepositoryError> {
        if !channels::is_name(name) {
            return Err(RepositoryError::ChannelName { name: name.into() });
        }
        let (channel, url) = (document_key(name), self.url.clone());
        match self.read_document(&channel).await? {
            Some(object) => Ok(self.head(name, &object.bytes, None)?.document),
            None => Err(RepositoryError::NoChannel { channel, url }),
        }
    }

    /// The documents of every channel as they lie there, for people to look at: no signature is checked.
    ///
    /// # Errors
    /// [`RepositoryError`] of the listing; documents that cannot be read are left out.
    pub async fn heads(&self) -> Result<Vec<ChannelHead>, RepositoryError> {
        let entries = self.storage.list("channels/").await?;
        let mut heads = Vec::new();
        for entry in &entries {
            let name = entry.key.strip_prefix("channels/").and_then(|name| name.strip_suffix(".toml"));
            let Some(name) = name.filter(|name| channels::is_name(name)) else { continue };
            let signed = match self.read_signature(&entry.key).await? {
                Some(text) => {
                    signature::trusted_comment(&text).and_then(|comment| channels::serial_of(&comment))
                }
                None => None,
            };
            // While another document is being put in force, the signature's is the one.
            let kept = signed.map(|serial| format!("channels/{name}/{serial}.toml"));
            for place in kept.into_iter().chain([entry.key.clone()]) {
                let Some(object) = self.read_document(&place).await? else { continue };
                let Ok(head) = self.head(name, &object.bytes, None) else { continue };
                heads.push(ChannelHead { signed: signed.is_some(), ..head });
                break;
            }
        }
        Ok(heads)
    }

    /// Puts the next document of the channel `name` in force, signed by `signer`.
    ///
    /// # Errors
    /// [`RepositoryError::PointerMoved`] where it names a newer release already, [`RepositoryError::PointerRaced`]
    /// where others write it all the time; what was in force is then in force.
    pub async fn change_channel(
        &self,
        application: &str,
        name: &str,
        change: &ChannelChange,
        signer: &dyn Signer,
        now: DateTime<Utc>,
    ) -> Result<ChannelDocument, RepositoryError> {
        if !channels::is_name(name) {
            return Err(RepositoryError::ChannelName { name: name.into() });
        }
        let key = document_key(name);
        let signature_key = format!("{key}.minisig");
        for _ in 0..RACES {
            let read = self.storage.read(&signature_key, MAX_SIGNATURE_BYTES).await?;
            let last = match &read {
                // Whoever writes the next one has to be able to check the last one.
                Some(_) => Some(self.document(name, &self.signers(signer)).await?.document),
                None => None,
            };
            // 1. Under its serial, which only one can take.
            let next = self.next(application, name, last.as_ref(), change, now)?;
            let (document, text, kept) = self.take_serial(name, next).await?;
            let signed = signer.sign(text.as_bytes(), &document.trusted_comment());
            let signed = signed.map_err(|reason| RepositoryError::Sign { reason })?;
            self.storage.write(&format!("{kept}.minisig"), signed.as_bytes(), &Condition::Any).await?;
            // 2. Under the channel's name: readers still go by the old signature.
            self.storage.write(&key, text.as_bytes(), &Condition::Any).await?;
            // 3. The signature puts it in force.
            let condition = Condition::unchanged(read.as_ref());
            match self.storage.write(&signature_key, signed.as_bytes(), &condition).await {
                Err(StorageError::Conflict { .. }) => continue,
                other => other?,
            }
            // 4. Servers that ignore conditions let the last one win: see who it was.
            let found = self.storage.read(&signature_key, MAX_SIGNATURE_BYTES).await?;
            if found.is_some_and(|found| found.bytes == signed.as_bytes()) {
                return Ok(document);
            }
        }
        Err(RepositoryError::PointerRaced { channel: key, url: self.url.clone() })
    }

    /// Writes a document under the first serial from its own on that nobody has taken; whoever was interrupted has
    /// taken one, too. Returns the document, its text and the key.
    async fn take_serial(
        &self,
        name: &str,
        mut document: ChannelDocument,
    ) -> Result<(ChannelDocument, String, String), RepositoryError> {
        for _ in 0..SERIALS {
            let text = document.to_toml();
            let kept = format!("channels/{name}/{}.toml", document.serial);
            match self.write_new(&kept, text.as_bytes()).await {
                Err(StorageError::Conflict { .. }) => document.serial += 1,
                other => return other.map(|()| (document, text, kept)).map_err(Into::into),
            }
        }
        Err(RepositoryError::PointerRaced { channel: document_key(name), url: self.url.clone() })
    }

    /// Whom a publisher believes: itself, and whom it was told to trust.
    fn signers(&self, signer: &dyn Signer) -> Vec<TrustedKey> {
        let mut keys = self.trust.channel.clone();
        keys.push(signer.public_key().clone());
        keys
    }

    fn next(
        &self,
        application: &str,
        name: &str,
        last: Option<&ChannelDocument>,
        change: &ChannelChange,
        now: DateTime<Utc>,
    ) -> Result<ChannelDocument, RepositoryError> {
        let missing = || RepositoryError::NoDocument { channel: name.into(), url: self.url.clone() };
        let mut document = match (last, &change.to) {
            (Some(last), _) => last.clone(),
            (None, Some((version, manifest_sha256))) => ChannelDocument {
                format: channels::FORMAT,
                application: application.into(),
                channel: name.into(),
                version: version.clone(),
                manifest_sha256: manifest_sha256.clone(),
                serial: 0,
                issued: now,
                expires: now,
                min_version: None,
                going_back: false,
                yanked: Default::default(),
                rollout: None,
            },
            (None, None) => return Err(missing()),
        };
        document.serial = channels::next_serial(last.map(|last| last.serial), now);
        document.issued = DateTime::from_timestamp(now.timestamp(), 0).unwrap_or(now);
        let lifetime = change.lifetime.unwrap_or(LIFETIME);
        document.expires = document.issued.checked_add_signed(lifetime).unwrap_or(DateTime::<Utc>::MAX_UTC);
        if let Some((version, manifest_sha256)) = &change.to {
            let older = *version < document.version;
            if older && !change.going_back {
                let (channel, found) = (document_key(name), document.version);
                return Err(RepositoryError::PointerMoved { channel, found, version: version.clone() });
            }
            if *version != document.version {
                // It was made for another release.
                document.rollout = None;
            }
            document.going_back = older;
            document.version = version.clone();
            document.manifest_sha256 = manifest_sha256.clone();
        }
        if let Some(waves) = &change.rollout {
            document.rollout = Some(waves.from(document.issued));
        }
        if let Some(min) = &change.min_version {
            document.min_version = Some(min.clone());
        }
        if let Some((version, reason)) = &change.yank {
            document.yanked.insert(version.clone(), reason.clone());
        }
        Ok(document)
    }

    /// Writes an object that must not be there yet.
    pub(super) async fn write_new(&self, key: &str, bytes: &[u8]) -> Result<(), StorageError> {
        if self.storage.meta(key).await?.is_some() {
            return Err(StorageError::Conflict { key: key.into(), url: self.url.clone() });
        }
        self.storage.write(key, bytes, &Condition::Absent).await?;
        // Servers that ignore the condition let the last one win: see who it was.
        match self.storage.read(key, bytes.len() as u64).await {
            Ok(Some(found)) if found.bytes == bytes => Ok(()),
            Ok(_) | Err(StorageError::TooLarge { .. }) => {
                Err(StorageError::Conflict { key: key.into(), url: self.url.clone() })
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a pointer that nobody signs name `version`: the file `VERSION`, or a channel's document.
    pub(super) async fn set_unsigned(
        &self,
        key: &str,
        version: &Version,
        text: &str,
        going_back: bool,
    ) -> Result<(), RepositoryError> {
        for _ in 0..RACES {
            let read = self.read_pointer(key).await?;
            // A pointer that is missing or broken is what this repairs.
            let found = read.as_ref().and_then(|object| pointed(key, &object.bytes));
            if let Some(found) = found.filter(|found| found > version && !going_back) {
                return Err(RepositoryError::PointerMoved {
                    channel: key.into(),
                    found,
                    version: version.clone(),
                });
            }
            if read.as_ref().is_some_and(|object| object.bytes == text.as_bytes()) {
                return Ok(());
            }
            match self.storage.write(key, text.as_bytes(), &Condition::unchanged(read.as_ref())).await {
                Err(StorageError::Conflict { .. }) => continue,
                other => other?,
            }
            let found = self.read_pointer(key).await?;
            if found.is_some_and(|found| found.bytes == text.as_bytes()) {
                return Ok(());
            }
        }
        Err(RepositoryError::PointerRaced { channel: key.into(), url: self.url.clone() })
    }
}

/// The version that a pointer names.
fn pointed(key: &str, bytes: &[u8]) -> Option<Version> {
    if key == "VERSION" {
        return parse_pointer(bytes).ok();
    }
    ChannelDocument::parse(&String::from_utf8_lossy(bytes)).ok().map(|document| document.version)
}
