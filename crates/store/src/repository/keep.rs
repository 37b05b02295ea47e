//! Keeping a repository: withdrawing a release, checking what is there, removing what nobody needs.

use std::collections::BTreeSet;

use relmgr_model::Version;
use relmgr_model::channel as channels;

use super::channel::ChannelChange;
use super::{Pointer, Publisher, Repository, RepositoryError};
use crate::storage::Condition;

/// One thing that was checked, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// A version, a channel, or a file.
    pub what: String,
    /// What is wrong; `None`: nothing.
    pub fault: Option<String>,
}

/// What a collection removed, or would.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Releases, oldest first.
    pub versions: Vec<Version>,
    /// Objects that belonged to no release.
    pub strays: Vec<String>,
    /// Interrupted uploads that were ended.
    pub uploads: usize,
}

impl Repository {
    /// Withdraws `version`: no node goes to it any more. Every signed channel says so too, so that nobody can take the
    /// mark away.
    ///
    /// # Errors
    /// [`RepositoryError::InUse`] while a channel names it, and others.
    pub async fn yank(
        &self,
        version: &Version,
        reason: &str,
        publisher: &Publisher<'_>,
    ) -> Result<Vec<String>, RepositoryError> {
        if self.storage.meta(&format!("{version}.tar.gz")).await?.is_none() {
            return Err(RepositoryError::NoRelease { version: version.clone(), url: self.url.clone() });
        }
        let heads = self.heads().await?;
        let named = heads.iter().find(|head| head.document.version == *version);
        if let Some(head) = named {
            return Err(RepositoryError::InUse {
                version: version.clone(),
                channel: head.document.channel.clone(),
            });
        }
        if self.version_file().await.is_ok_and(|found| found == *version) {
            return Err(RepositoryError::InUse { version: version.clone(), channel: "VERSION".into() });
        }
        if let Some(head) = heads.iter().find(|head| head.signed && publisher.channel.is_none()) {
            return Err(RepositoryError::ChannelSigned {
                channel: head.document.channel.clone(),
                url: self.url.clone(),
            });
        }
        self.storage
            .write(&format!("{version}.yanked"), format!("{reason}\n").as_bytes(), &Condition::Any)
            .await?;
        let mut told = Vec::new();
        for head in heads.iter().filter(|head| head.signed) {
            let Some(signer) = publisher.channel else { continue };
            let change = ChannelChange {
                yank: Some((version.clone(), reason.to_owned())),
                lifetime: publisher.lifetime,
                ..ChannelChange::default()
            };
            let (application, name) = (&head.document.application, &head.document.channel);
            self.change_channel(application, name, &change, signer, publisher.now).await?;
            told.push(name.clone());
        }
        Ok(told)
    }

    /// Checks every digest and, where keys are trusted, every signature. `seen` is told each finding as it is made.
    ///
    /// # Errors
    /// [`RepositoryError`] of the listing; what is wrong with one thing is a [`Finding`].
    pub async fn verify(&self, mut seen: impl FnMut(&Finding)) -> Result<Vec<Finding>, RepositoryError> {
        let mut findings = Vec::new();
        let mut note = |what: String, result: Result<(), RepositoryError>| {
            let finding = Finding { what, fault: result.err().map(|error| super::describe(&error)) };
            seen(&finding);
            findings.push(finding);
        };
        for release in self.list().await? {
            let result = match release.yanked {
                // Nobody goes there.
                Some(_) => Ok(()),
                None => self.verify_release(&release.version).await,
            };
            note(release.version.to_string(), result);
        }
        let mut names: Vec<String> =
            self.heads().await?.into_iter().map(|head| head.document.channel).collect();
        if !names.iter().any(|name| name == channels::DEFAULT) {
            names.push(String::new());
        }
        for name in names {
            let result = self.verify_channel(&name).await;
            let what = if name.is_empty() { "VERSION".into() } else { format!("channel {name}") };
            note(what, result);
        }
        Ok(findings)
    }

    async fn verify_release(&self, version: &Version) -> Result<(), RepositoryError> {
        let Some(verified) = self.manifest(version, None).await? else { return Ok(()) };
        let deltas =
            verified.manifest.deltas.iter().map(|(from, digest)| (format!("{from}_{version}.delta"), digest));
        let package = verified.manifest.package.as_ref().map(|digest| (format!("{version}.tar.gz"), digest));
        for (key, digest) in package.into_iter().chain(deltas) {
            let found = self.hash(&key, digest.size).await?;
            if found != *digest {
                return Err(RepositoryError::Corrupted { version: version.clone() });
            }
        }
        Ok(())
    }

    async fn verify_channel(&self, name: &str) -> Result<(), RepositoryError> {
        match self.channel(name).await? {
            Pointer::Plain(version) => self.manifest(&version, None).await.map(drop),
            Pointer::Signed { document, .. } => {
                self.manifest(&document.version, Some(&document.manifest_sha256)).await.map(drop)
            }
        }
    }

    /// Removes all but the newest `keep` releases and those that a channel names, and what belongs to no release.
    /// With `dry_run` it only tells.
    ///
    /// # Errors
    /// [`RepositoryError`]; the same call again goes on.
    pub async fn collect(&self, keep: usize, dry_run: bool) -> Result<Collected, RepositoryError> {
        let releases = self.list().await?;
        let (mut versions, mut kept) = (Vec::new(), BTreeSet::new());
        for (place, release) in releases.iter().enumerate() {
            if place < keep || !release.channels.is_empty() {
                kept.insert(release.version.clone());
            } else {
                versions.push(release.version.clone());
            }
        }
        versions.reverse();
        let entries = self.storage.list("").await?;
        // A release whose package is gone is none: what is left of it may go, in any order. A package comes first
        // when it is published, so nothing of a publish that is under way is taken for a stray.
        let owner = |key: &str| -> Option<Version> {
            let stem = ["toml.minisig", "toml", "yanked", "tar.gz"]
                .iter()
                .find_map(|ending| key.strip_suffix(ending)?.strip_suffix('.'))
                .or_else(|| key.strip_suffix(".delta")?.split_once('_').map(|(_, to)| to))?;
            stem.parse().ok()
        };
        let has_package = |version: &Version| releases.iter().any(|release| release.version == *version);
        let mut removable: Vec<&str> = Vec::new();
        let mut collected = Collected { versions: versions.clone(), ..Collected::default() };
        for entry in &entries {
            let Some(version) = owner(&entry.key) else { continue };
            if versions.contains(&version) {
                removable.push(&entry.key);
            } else if !has_package(&version) && !entry.key.ends_with(".yanked") {
                collected.strays.push(entry.key.clone());
            }
        }
        if dry_run {
            return Ok(collected);
        }
        // Packages first: from then on the release is not listed, and nobody takes its manifest for one to follow.
        removable.sort_by_key(|key| !key.ends_with(".tar.gz"));
        for key in removable.into_iter().chain(collected.strays.iter().map(String::as_str)) {
            self.storage.remove(key).await?;
        }
        collected.uploads = self.storage.sweep().await?;
        Ok(collected)
    }
}
