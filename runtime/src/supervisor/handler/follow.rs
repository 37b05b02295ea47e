//! What a channel says, and whether this node follows it.

use chrono::Utc;
use relmgr_model::Version;
use relmgr_model::channel::{ChannelDocument, Reader, judge};
use relmgr_model::pull::Said;
use relmgr_store::repository::Pointer;
use relmgr_store::signature::TrustedKey;

use super::super::node::Node;
use super::OperationError;
use super::walk::Walk;

/// What the channel `name` says to this node.
///
/// # Errors
/// [`OperationError::Repository`], and [`OperationError::Channel`] for a document that is not to be followed.
pub async fn channel_says(node: &Node, name: &str) -> Result<Said, OperationError> {
    // 1. The document, its signature checked.
    let (document, sha256, key) = match node.repository.channel(name).await? {
        Pointer::Plain(version) => {
            return Ok(Said { version, manifest_sha256: None, going_back: false, rollout: None });
        }
        Pointer::Signed { document, sha256, key } => (document, sha256, key),
    };
    // 2. Whether it is for this node, in force, and newer than what this node has seen.
    let trusted: Vec<String> =
        node.repository.trust().channel.iter().map(|key| TrustedKey::text(key).to_owned()).collect();
    let remembered = node.with(|state| state.record.channels.get(name).cloned());
    let reader = Reader {
        application: &node.settings.app,
        channel: name,
        now: Utc::now(),
        seen: remembered.as_ref(),
        trusted: &trusted,
    };
    let seen = judge(&document, &sha256, &key, &reader)
        .map_err(|unfit| OperationError::Channel { channel: name.to_owned(), unfit })?;
    // 3. Only now it is remembered: what is refused leaves no trace that could refuse the next one.
    if remembered.as_ref() != Some(&seen) {
        node.change_record(|record| {
            record.channels.insert(name.to_owned(), seen);
        })?;
    }
    let ChannelDocument { version, manifest_sha256, going_back, rollout, .. } = *document;
    Ok(Said { version, manifest_sha256: Some(manifest_sha256), going_back, rollout })
}

impl Walk<'_> {
    /// The release that the channel names.
    pub(super) async fn follow(&mut self) -> Result<Version, OperationError> {
        let settings = &self.node.settings.repository;
        let name = settings.channel_name(self.request.channel.as_deref()).to_owned();
        let said = channel_says(self.node, &name).await?;
        if let Some(sha256) = said.manifest_sha256 {
            self.pinned = Some((said.version.clone(), sha256));
        }
        Ok(said.version)
    }

    /// Whether the channel lets this node go to `to`, which an operator has named.
    ///
    /// The channel is asked anew where it can be: a release may have been withdrawn since. That it does not answer,
    /// or has expired, is no reason to refuse what a person has decided; what it has said before is.
    pub(super) async fn may_go_to(&mut self, to: &Version) -> Result<(), OperationError> {
        if self.pinned.is_some() || self.node.repository.trust().is_empty() {
            return Ok(());
        }
        if let Err(error) = self.follow().await {
            self.warn(format!("the channel does not tell whether {to} was withdrawn: {}", error.describe()));
        }
        // It pins the release that it names, not the one that was asked for.
        self.pinned = self.pinned.take().filter(|(version, _)| version == to);
        let name = self.node.settings.repository.channel_name(self.request.channel.as_deref()).to_owned();
        let seen = self.node.with(|state| state.record.channels.get(&name).cloned());
        match seen.map(|seen| seen.allows(to)) {
            Some(Err(unfit)) => Err(OperationError::Channel { channel: name, unfit }),
            _ => Ok(()),
        }
    }
}
