//! What a repository does not give, or does not take.

use std::io;
use std::path::PathBuf;

use relmgr_model::Version;
use relmgr_model::channel::DocumentError;
use relmgr_model::manifest::ManifestError;
use relmgr_model::version::ParseVersionError;

use super::POINTER_BYTES;
use crate::delta::DeltaError;
use crate::package::PackageError;
use crate::signature::{KeyError, SignatureError};
use crate::storage::StorageError;

/// A repository that does not give what it should, or does not take it.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// An URL of another kind.
    #[error("`{url}` is no repository: it is file:///directory or s3://bucket/prefix")]
    Url {
        /// The URL.
        url: String,
    },
    /// An endpoint that would have a password printed in every error.
    #[error(
        "endpoint_url has a user or password in it: credentials come from the AWS variables, a profile or a role"
    )]
    Endpoint,
    /// What the repository lies on.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A key in the settings.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Nothing was published to the channel.
    #[error("{channel} does not exist in {url}: publish a release with `cargo relmgr publish`")]
    NoChannel {
        /// The channel's file.
        channel: String,
        /// The repository.
        url: String,
    },
    /// Not a name that a channel can have.
    #[error("`{name}` cannot name a channel: letters, digits, `-` and `_`, 64 at most")]
    ChannelName {
        /// The name.
        name: String,
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
    /// A channel's document cannot be read.
    #[error("{channel} in {url} cannot be used: promote again")]
    Document {
        /// The channel's file.
        channel: String,
        /// The repository.
        url: String,
        /// Why.
        #[source]
        source: DocumentError,
    },
    /// There is no signature.
    #[error(
        "{key} in {url} is not signed, and this node trusts signed releases only (repository.trusted_keys): publish with --key"
    )]
    Unsigned {
        /// The manifest or document.
        key: String,
        /// The repository.
        url: String,
    },
    /// The signature does not hold.
    #[error("{key} in {url} is refused")]
    Signature {
        /// The manifest or document.
        key: String,
        /// The repository.
        url: String,
        /// Why.
        #[source]
        source: SignatureError,
    },
    /// The channel pins another manifest.
    #[error(
        "the manifest of {version} in {url} is not the one that the channel names (SHA-256 differs): somebody has exchanged it; promote {version} again if it is the right one"
    )]
    OtherManifest {
        /// The version.
        version: Version,
        /// The repository.
        url: String,
    },
    /// Withdrawn.
    #[error("{version} was withdrawn from {url} ({reason}): take another release")]
    Yanked {
        /// The version.
        version: Version,
        /// The repository.
        url: String,
        /// The publisher's words.
        reason: String,
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
    /// The manifest is another release's.
    #[error("the manifest of {version} in {url} is that of {found}: it was published under a wrong name")]
    InnerVersion {
        /// The version asked for.
        version: Version,
        /// The one inside.
        found: Version,
        /// The repository.
        url: String,
    },
    /// The manifest is too large to be one.
    #[error("the manifest of {version} in {url} is larger than a manifest can be")]
    ManifestSize {
        /// The version.
        version: Version,
        /// The repository.
        url: String,
    },
    /// A manifest that does not say how large its package is.
    #[error(
        "the manifest of {version} in {url} does not pin its package: publish it with `cargo relmgr publish`"
    )]
    NoPackageDigest {
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
    /// It takes too long as a whole.
    #[error(
        "the package of {version} did not come within {limit} (repository.timeout): what came is kept, the next try goes on from there"
    )]
    TimedOut {
        /// The version.
        version: Version,
        /// The limit, as people write it.
        limit: String,
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
    /// Others write the pointer all the time.
    #[error(
        "{channel} in {url} is written by others at the same time: the package is published, the pointer is left; try again"
    )]
    PointerRaced {
        /// The channel's file.
        channel: String,
        /// The repository.
        url: String,
    },
    /// The channel is signed and nobody signs.
    #[error("the channel {channel} in {url} is signed: give the channel's key with --channel-key (or --key)")]
    ChannelSigned {
        /// The channel.
        channel: String,
        /// The repository.
        url: String,
    },
    /// A signed channel has no document to renew.
    #[error(
        "the channel {channel} in {url} has no signed document: `cargo relmgr promote` with a key writes one"
    )]
    NoDocument {
        /// The channel.
        channel: String,
        /// The repository.
        url: String,
    },
    /// The key does not sign.
    #[error("the key does not sign: {reason}")]
    Sign {
        /// Why.
        reason: String,
    },
    /// A channel names it.
    #[error("{version} is what the channel {channel} names: promote another release there first")]
    InUse {
        /// The version.
        version: Version,
        /// The channel.
        channel: String,
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
    /// A local file.
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
    /// The package inside cannot be used.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// The delta cannot be made.
    #[error(transparent)]
    Delta(#[from] DeltaError),
}
