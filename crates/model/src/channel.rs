//! A channel's signed document, `channels/<name>.toml`: which release its nodes are to run, until when that holds,
//! and in which order it was said.
//!
//! Signed releases behind an unsigned pointer would leave three attacks to whoever can write the repository (The
//! Update Framework's names): *rollback* of a node that remembers nothing, *freeze* of all nodes on what they have,
//! and *mix and match* of one channel's release into another. Each field below is against one of them.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::Version;
use crate::pull::Rollout;

/// The document format that this relmgr writes and reads.
pub const FORMAT: u32 = 1;

/// Limit on a document, before its signature is checked.
pub const MAX_BYTES: u64 = 64 * 1024;

/// Limit on a signature: minisign's are about 350 bytes.
pub const MAX_SIGNATURE_BYTES: u64 = 4 * 1024;

/// The name of the default channel, whose shadow is the file `VERSION`.
pub const DEFAULT: &str = "default";

/// Serials and versions may be so far ahead of a node's clock: more than clocks differ, less than what would lock
/// a node out of everything that follows (fast-forward).
pub const AHEAD: TimeDelta = TimeDelta::days(1);

/// A channel's document. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChannelDocument {
    /// Format number, [`FORMAT`].
    pub format: u32,
    /// The application, as in its manifests.
    pub application: String,
    /// The channel's name; [`DEFAULT`] for the one that `VERSION` shadows.
    pub channel: String,
    /// The release that nodes are to run.
    pub version: Version,
    /// SHA-256 of that release's manifest, as it lies in the repository.
    pub manifest_sha256: String,
    /// Grows with every document of the channel: the UTC second of its making, or one more than the last.
    pub serial: u64,
    /// When it was made.
    pub issued: DateTime<Utc>,
    /// From then on it starts no upgrade.
    pub expires: DateTime<Utc>,
    /// No node of the channel goes to an older release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_version: Option<Version>,
    /// Whether `version` is older than the one before it on purpose.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub going_back: bool,
    /// Releases that no node may go to any more, with the reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub yanked: BTreeMap<Version, String>,
    /// When which nodes go to `version` that follow the channel by themselves; absent: all at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
}

/// A document that is none.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// No TOML of a document's form.
    #[error("it does not parse: {0}")]
    Parse(Box<toml::de::Error>),
    /// Written by another relmgr.
    #[error("it has format {found}, this relmgr reads format {FORMAT}: update relmgr on this machine")]
    Format {
        /// The document's format number.
        found: u32,
    },
    /// A name or digest that cannot be.
    #[error("it is not well formed: {0}")]
    Content(String),
}

impl ChannelDocument {
    /// Reads a document.
    ///
    /// # Errors
    /// [`DocumentError::Format`] before any other fault.
    pub fn parse(text: &str) -> Result<Self, DocumentError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let parse = |error| DocumentError::Parse(Box::new(error));
        let head: Head = toml::from_str(text).map_err(parse)?;
        if head.format != FORMAT {
            return Err(DocumentError::Format { found: head.format });
        }
        let document: Self = toml::from_str(text).map_err(parse)?;
        if !is_name(&document.channel) {
            return Err(DocumentError::Content(format!("`{}` is no channel name", document.channel)));
        }
        if document.manifest_sha256.len() != 64
            || !document.manifest_sha256.bytes().all(|b| b.is_ascii_hexdigit())
        {
            return Err(DocumentError::Content(format!("`{}` is no SHA-256", document.manifest_sha256)));
        }
        Ok(document)
    }

    /// The document as it is published.
    pub fn to_toml(&self) -> String {
        // Every field has a TOML form.
        toml::to_string(self).unwrap_or_else(|error| unreachable!("a document is always TOML: {error}"))
    }

    /// What its signature's trusted comment says: a signature is of one document of one channel of one application.
    pub fn trusted_comment(&self) -> String {
        trusted_comment(&self.application, &self.channel, self.serial)
    }
}

/// The trusted comment of a channel document's signature.
pub fn trusted_comment(application: &str, channel: &str, serial: u64) -> String {
    format!("relmgr channel {application} {channel} {serial}")
}

/// The serial that a signature's trusted comment names. Before the signature is checked it is a hint and no more.
pub fn serial_of(trusted_comment: &str) -> Option<u64> {
    let mut words = trusted_comment.strip_prefix("relmgr channel ")?.split(' ');
    let (_, _, serial) = (words.next()?, words.next()?, words.next()?);
    serial.parse().ok().filter(|_| words.next().is_none())
}

/// The trusted comment of a release's signature.
pub fn release_comment(application: &str, version: &Version) -> String {
    format!("relmgr release {application} {version}")
}

/// Whether `name` can name a channel: what is safe in a key and on every command line.
pub fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    !name.is_empty() && name.len() <= 64 && name.bytes().all(plain)
}

/// What a node remembers of a channel; written after the document was verified in full, never before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// The highest serial.
    pub serial: u64,
    /// SHA-256 of its document.
    pub sha256: String,
    /// The public key that signed it, as relmgr.toml writes it.
    pub key: String,
    /// When it stops starting upgrades.
    pub expires: DateTime<Utc>,
    /// No node of the channel goes to an older release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_version: Option<Version>,
    /// What it said of releases that no node may go to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub yanked: BTreeMap<Version, String>,
}

impl Seen {
    /// Whether the channel lets a node upgrade to `version`, be it named by the channel or by an operator.
    ///
    /// # Errors
    /// [`Unfit::BelowMinimum`], [`Unfit::Yanked`].
    pub fn allows(&self, version: &Version) -> Result<(), Unfit> {
        if let Some(min) = self.min_version.as_ref().filter(|min| version < *min) {
            return Err(Unfit::BelowMinimum { version: version.clone(), min: min.clone() });
        }
        match self.yanked.get(version) {
            Some(reason) => Err(Unfit::Yanked { version: version.clone(), reason: reason.clone() }),
            None => Ok(()),
        }
    }
}

/// What a document is judged by, on one node.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    /// The node's application.
    pub application: &'a str,
    /// The channel that was asked for.
    pub channel: &'a str,
    /// The node's clock.
    pub now: DateTime<Utc>,
    /// What it remembers of the channel.
    pub seen: Option<&'a Seen>,
    /// The keys that it trusts for channels now.
    pub trusted: &'a [String],
}

/// A document that a node does not follow, with the fact and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it, the fields are the facts that they name")]
pub enum Unfit {
    #[error("it is of the application `{found}`, this node runs `{expected}`: check repository.url")]
    Application { found: String, expected: String },
    #[error(
        "it is of the channel `{found}`, asked for was `{expected}`: somebody has moved it; promote again"
    )]
    Channel { found: String, expected: String },
    #[error(
        "its serial {found} is lower than {seen}, which this node has seen: the repository shows an old document (a rollback attack, or a restored backup); issue a new one with `cargo relmgr channel renew`"
    )]
    Older { found: u64, seen: u64 },
    #[error(
        "it differs from the document of the same serial {serial} that this node has seen: two were issued at once; issue a new one with `cargo relmgr channel renew`"
    )]
    Equivocal { serial: u64 },
    #[error(
        "its {what} {found} is more than a day ahead of this machine's clock ({now}): correct the clock, or issue a new document"
    )]
    Ahead { what: &'static str, found: String, now: DateTime<Utc> },
    #[error(
        "it expired at {expires}: no upgrade starts from it; renew it with `cargo relmgr channel renew` (what serves goes on, and downgrades work)"
    )]
    Expired { expires: DateTime<Utc> },
    #[error("{version} is below the channel's min_version {min}: promote a newer release")]
    BelowMinimum { version: Version, min: Version },
    #[error("{version} was withdrawn ({reason}): promote another release")]
    Yanked { version: Version, reason: String },
}

/// Whether a node follows `document`, whose signature by `key` has been checked, and what it remembers from then
/// on. `sha256` is the document's.
///
/// # Errors
/// The first [`Unfit`], in the order of its variants.
pub fn judge(
    document: &ChannelDocument,
    sha256: &str,
    key: &str,
    reader: &Reader<'_>,
) -> Result<Seen, Unfit> {
    if document.application != reader.application {
        let (found, expected) = (document.application.clone(), reader.application.into());
        return Err(Unfit::Application { found, expected });
    }
    if document.channel != reader.channel {
        return Err(Unfit::Channel { found: document.channel.clone(), expected: reader.channel.into() });
    }
    // A key that is trusted no longer may have been used to push the serial far ahead: with it goes what it said.
    let seen = reader.seen.filter(|seen| reader.trusted.contains(&seen.key));
    if let Some(seen) = seen {
        if document.serial < seen.serial {
            return Err(Unfit::Older { found: document.serial, seen: seen.serial });
        }
        if document.serial == seen.serial && sha256 != seen.sha256 {
            return Err(Unfit::Equivocal { serial: document.serial });
        }
    }
    not_ahead(document, reader.now)?;
    if document.expires <= reader.now {
        return Err(Unfit::Expired { expires: document.expires });
    }
    let seen = Seen {
        serial: document.serial,
        sha256: sha256.into(),
        key: key.into(),
        expires: document.expires,
        min_version: document.min_version.clone(),
        yanked: document.yanked.clone(),
    };
    seen.allows(&document.version)?;
    Ok(seen)
}

fn not_ahead(document: &ChannelDocument, now: DateTime<Utc>) -> Result<(), Unfit> {
    let limit = now.checked_add_signed(AHEAD).unwrap_or(DateTime::<Utc>::MAX_UTC);
    let ahead = |what, found: String| Err(Unfit::Ahead { what, found, now });
    // Before 1970 no serial is right.
    if document.serial > u64::try_from(limit.timestamp()).unwrap_or(0) {
        return ahead("serial", document.serial.to_string());
    }
    match &document.version {
        version if looks_ahead(version, limit) => ahead("version", version.to_string()),
        _ => Ok(()),
    }
}

/// A version made of a time after `limit`. One that is no valid time (`9999.1231.990000`) is compared by its number,
/// so that it does not pass as somebody's own numbering.
fn looks_ahead(version: &Version, limit: DateTime<Utc>) -> bool {
    version.is_dated() && *version > Version::from_build_time(limit)
}

/// The serial of a channel's next document.
pub fn next_serial(last: Option<u64>, now: DateTime<Utc>) -> u64 {
    let clock = u64::try_from(now.timestamp()).unwrap_or(0);
    last.map_or(clock, |last| clock.max(last.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "RWQ-key";

    fn now() -> DateTime<Utc> {
        "2026-11-20T12:00:00Z".parse().unwrap()
    }

    fn document() -> ChannelDocument {
        ChannelDocument {
            format: FORMAT,
            application: "live-poll".into(),
            channel: "default".into(),
            version: "2026.1120.100000".parse().unwrap(),
            manifest_sha256: "0".repeat(64),
            serial: next_serial(None, now()),
            issued: now(),
            expires: now() + TimeDelta::days(90),
            min_version: None,
            going_back: false,
            yanked: BTreeMap::new(),
            rollout: None,
        }
    }

    fn judged(document: &ChannelDocument, seen: Option<&Seen>, trusted: &[&str]) -> Result<Seen, Unfit> {
        let trusted: Vec<String> = trusted.iter().map(|key| (*key).to_owned()).collect();
        let reader =
            Reader { application: "live-poll", channel: "default", now: now(), seen, trusted: &trusted };
        judge(document, "aa", KEY, &reader)
    }

    #[test]
    fn a_document_survives_its_text_and_unknown_keys_are_refused() {
        let mut document = document();
        document.yanked.insert("1.0.0".parse().unwrap(), "loses votes".into());
        document.min_version = Some("1.0.0".parse().unwrap());
        document.rollout = Some(Rollout {
            since: now(),
            windows: vec!["Mon 02:00-04:00".parse().unwrap()],
            waves: vec!["5%@0s".parse().unwrap(), "100%@4h".parse().unwrap()],
        });
        let text = document.to_toml();
        assert_eq!(ChannelDocument::parse(&text).unwrap(), document);
        let faults = [
            (text.replace("format = 1", "format = 2"), "format 2"),
            (text.replace("serial", "novelty = 1\nserial"), "novelty"),
            (text.replace("channel = \"default\"", "channel = \"../x\""), "no channel name"),
            (text.replace(&"0".repeat(64), "beef"), "SHA-256"),
        ];
        for (text, words) in faults {
            let error = ChannelDocument::parse(&text).unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    #[test]
    fn what_a_node_has_seen_only_grows_until_its_key_is_gone() {
        let first = document();
        let seen = judged(&first, None, &[KEY]).unwrap();
        assert_eq!(judged(&first, Some(&seen), &[KEY]).unwrap(), seen, "the same once more is fine");
        let newer = Seen { serial: first.serial + 1, ..seen.clone() };
        assert!(matches!(judged(&first, Some(&newer), &[KEY]), Err(Unfit::Older { .. })));
        let other = Seen { sha256: "bb".into(), ..seen.clone() };
        assert!(matches!(judged(&first, Some(&other), &[KEY]), Err(Unfit::Equivocal { .. })));
        // The key that pushed the serial ahead was revoked.
        let pushed = Seen { key: "RWQ-stolen".into(), ..newer };
        assert!(judged(&first, Some(&pushed), &[KEY]).is_ok());
        assert!(matches!(judged(&first, Some(&pushed), &[KEY, "RWQ-stolen"]), Err(Unfit::Older { .. })));
    }

    #[test]
    fn each_attack_has_its_refusal() {
        type Change = fn(&mut ChannelDocument);
        let cases: [(&str, Change); 8] = [
            ("of the application `other`", |d| d.application = "other".into()),
            ("of the channel `staging`", |d| d.channel = "staging".into()),
            ("serial 4102444800 is more than a day ahead", |d| d.serial = 4_102_444_800),
            ("version 9999.1231.0 is more than a day ahead", |d| d.version = "9999.1231.0".parse().unwrap()),
            ("version 9999.9999.999999 is more", |d| d.version = "9999.9999.999999".parse().unwrap()),
            ("it expired at 2026-11-20 12:00:00 UTC", |d| d.expires = now()),
            ("below the channel's min_version", |d| {
                d.min_version = Some("2026.1120.100001".parse().unwrap())
            }),
            ("was withdrawn (loses votes)", |d| {
                d.yanked.insert(d.version.clone(), "loses votes".into());
            }),
        ];
        for (words, change) in cases {
            let mut document = document();
            change(&mut document);
            let error = judged(&document, None, &[KEY]).unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
        // Times at the end of the calendar are compared, not added to.
        let mut forever = document();
        forever.expires = DateTime::<Utc>::MAX_UTC;
        assert!(judged(&forever, None, &[KEY]).is_ok());
        let mut numbered = document();
        numbered.version = "4.2.0".parse().unwrap();
        assert!(judged(&numbered, None, &[KEY]).is_ok(), "people's own numbers are no times");
    }

    #[test]
    fn serials_grow_also_when_the_clock_does_not() {
        let first = next_serial(None, now());
        assert_eq!(next_serial(Some(first), now()), first + 1);
        assert_eq!(next_serial(Some(first), now() - TimeDelta::days(2)), first + 1);
        assert_eq!(next_serial(Some(first), now() + TimeDelta::seconds(9)), first + 9);
        let comment = trusted_comment("live-poll", "default", first);
        assert_eq!(serial_of(&comment), Some(first));
        for text in
            ["", "relmgr channel a b", "relmgr channel a b c", "relmgr channel a b 1 2", "timestamp:1"]
        {
            assert_eq!(serial_of(text), None, "{text}");
        }
    }
}
