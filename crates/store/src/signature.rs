//! Signatures in minisign's format, so that the public `minisign` tool checks them too:
//!
//! ```text
//! minisign -Vm 2026.1120.192733.toml -P RWQ…
//! ```
//!
//! Keys have roles: a release key signs manifests, a channel key signs channel documents. The trusted comment, which
//! is signed along, names the application and the version (or the channel and the serial), so that no signature is
//! good for anything else than what it was made for.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use minisign_verify::{PublicKey, Signature};

/// A public key that a node trusts.
#[derive(Debug, Clone)]
pub struct TrustedKey {
    text: String,
    key: PublicKey,
}

/// Whom a node believes.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    /// Who signs manifests.
    pub release: Vec<TrustedKey>,
    /// Who signs channel documents.
    pub channel: Vec<TrustedKey>,
}

/// A text that is no public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no minisign public key: give the line of the .pub file that starts with RW, as `cargo relmgr keygen` prints it"
)]
pub struct KeyError {
    text: String,
}

/// A signature that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not minisign's format.
    #[error("its signature is no minisign signature: sign it with `cargo relmgr publish --key`, or minisign")]
    Format,
    /// Signed by somebody else.
    #[error(
        "it is signed by the key {found}, which is not trusted (trusted: {trusted}): publish it with a trusted key, or add that key to relmgr.toml"
    )]
    UnknownKey {
        /// The key's number, as minisign prints it.
        found: String,
        /// The numbers of the trusted keys.
        trusted: String,
    },
    /// The content is not what was signed.
    #[error(
        "its signature by the key {key} does not fit its content: it was altered, or signed for another file"
    )]
    Altered {
        /// The key's number.
        key: String,
    },
    /// Signed, but as something else.
    #[error(
        "it is signed as `{found}`, expected was `{expected}`: it is another release's or channel's signature"
    )]
    Comment {
        /// The trusted comment.
        found: String,
        /// What it has to be.
        expected: String,
    },
}

impl TrustedKey {
    /// Reads a public key: the line of minisign's `.pub` file that starts with `RW`, or the whole file.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("");
        let key = PublicKey::from_base64(line);
        key.map(|key| Self { text: line.to_owned(), key })
            .map_err(|_| KeyError { text: line.chars().take(80).collect() })
    }

    /// The key as relmgr.toml writes it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its number, as minisign prints it.
    pub fn id(&self) -> String {
        key_id(&self.text).unwrap_or_default()
    }
}

/// The number of the key in minisign's base64 of a public key or of a signature: bytes 2 to 9 of both, the least
/// significant first (minisign's README, "Signature format").
fn key_id(base64: &str) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(base64).ok()?;
    let number: [u8; 8] = bytes.get(2..10)?.try_into().ok()?;
    Some(format!("{:016X}", u64::from_le_bytes(number)))
}

impl Trust {
    /// Those who sign; where no channel key is named, release keys sign channels as well.
    ///
    /// # Errors
    /// [`KeyError`] of the first text that is no key.
    pub fn new(release: &[String], channel: &[String]) -> Result<Self, KeyError> {
        let parse = |texts: &[String]| {
            texts.iter().map(|text| TrustedKey::parse(text)).collect::<Result<Vec<_>, _>>()
        };
        let release = parse(release)?;
        let channel = if channel.is_empty() { release.clone() } else { parse(channel)? };
        Ok(Self { release, channel })
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.release.is_empty() && self.channel.is_empty()
    }
}

/// Checks that one of `keys` signed `content` as `comment`, and tells which. Nothing of the content has to be
/// understood before.
///
/// # Errors
/// [`SignatureError`].
pub fn verify<'a>(
    content: &[u8],
    signature: &str,
    keys: &'a [TrustedKey],
    comment: &str,
) -> Result<&'a TrustedKey, SignatureError> {
    let key = verify_any(content, signature, keys)?;
    let found = trusted_comment(signature).unwrap_or_default();
    if found != comment {
        return Err(SignatureError::Comment { found, expected: comment.into() });
    }
    Ok(key)
}

/// Checks that one of `keys` signed `content`, whatever as.
///
/// # Errors
/// [`SignatureError`].
pub fn verify_any<'a>(
    content: &[u8],
    signature: &str,
    keys: &'a [TrustedKey],
) -> Result<&'a TrustedKey, SignatureError> {
    let decoded = Signature::decode(signature).map_err(|_| SignatureError::Format)?;
    let found = signature.lines().nth(1).and_then(key_id).ok_or(SignatureError::Format)?;
    let Some(key) = keys.iter().find(|key| key.id() == found) else {
        let ids: Vec<_> = keys.iter().map(TrustedKey::id).collect();
        let trusted = if ids.is_empty() { "none".into() } else { ids.join(", ") };
        return Err(SignatureError::UnknownKey { found, trusted });
    };
    // The older form (the content itself is signed, not its hash) is as good, and still what some tools write.
    match key.key.verify(content, &decoded, true) {
        Ok(()) => Ok(key),
        Err(_) => Err(SignatureError::Altered { key: found }),
    }
}

/// What a signature says that it is of. To be believed after [`verify_any`] only.
pub fn trusted_comment(signature: &str) -> Option<String> {
    Signature::decode(signature).ok().map(|signature| signature.trusted_comment().to_owned())
}

/// Who signs. The secret key is with whoever publishes; a node has none.
pub trait Signer: Send + Sync {
    /// The public key, as relmgr.toml writes it.
    fn public_key(&self) -> &TrustedKey;

    /// The text of a `.minisig` file for `content`.
    ///
    /// # Errors
    /// Why the key does not sign.
    fn sign(&self, content: &[u8], trusted_comment: &str) -> Result<String, String>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (minisign::KeyPair, TrustedKey) {
        let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
        let key = TrustedKey::parse(&pair.pk.to_box().unwrap().to_string()).unwrap();
        (pair, key)
    }

    fn sign(pair: &minisign::KeyPair, content: &[u8], comment: &str) -> String {
        minisign::sign(Some(&pair.pk), &pair.sk, content, Some(comment), None).unwrap().into_string()
    }

    #[test]
    fn a_signature_holds_for_its_content_its_key_and_its_purpose() {
        let ((pair, key), (_, other)) = (pair(), pair());
        let keys = [other.clone(), key.clone()];
        let comment = "relmgr release live-poll 1.0.0";
        let signature = sign(&pair, b"manifest", comment);
        assert_eq!(verify(b"manifest", &signature, &keys, comment).unwrap().text(), key.text());
        assert_eq!(key.id().len(), 16);

        let altered = verify(b"manifesu", &signature, &keys, comment).unwrap_err();
        assert_eq!(altered, SignatureError::Altered { key: key.id() });
        let unknown = verify(b"manifest", &signature, &[other], comment).unwrap_err().to_string();
        assert!(unknown.contains(&key.id()) && unknown.contains("not trusted"), "{unknown}");
        let purpose = verify(b"manifest", &signature, &keys, "relmgr release live-poll 1.0.1").unwrap_err();
        assert!(matches!(purpose, SignatureError::Comment { .. }));
        let swapped = signature.replace("live-poll 1.0.0", "live-poll 1.0.1");
        assert!(matches!(
            verify(b"manifest", &swapped, &keys, "relmgr release live-poll 1.0.1"),
            Err(SignatureError::Altered { .. })
        ));
        for text in ["", "no signature", "a\nb\nc\nd", &signature[..signature.len() / 2]] {
            assert_eq!(
                verify(b"manifest", text, &keys, comment).unwrap_err(),
                SignatureError::Format,
                "{text}"
            );
        }
    }

    #[test]
    fn every_changed_character_of_a_signature_is_refused() {
        let (pair, key) = pair();
        let signature = sign(&pair, b"manifest", "purpose");
        let first_line = signature.find('\n').unwrap();
        // The untrusted comment and the line ends are not signed: they say nothing.
        for at in first_line + 1..signature.trim_end().len() {
            let mut bytes = signature.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(verify(b"manifest", &changed, std::slice::from_ref(&key), "purpose").is_err(), "at {at}");
        }
    }

    #[test]
    fn keys_are_read_from_a_line_or_a_file() {
        let (pair, key) = pair();
        let file = pair.pk.to_box().unwrap().to_string();
        assert!(file.lines().count() > 1);
        assert_eq!(TrustedKey::parse(key.text()).unwrap().text(), key.text());
        assert!(TrustedKey::parse("RWQ").unwrap_err().to_string().contains("keygen"));
        let texts = [key.text().to_owned()];
        let trust = Trust::new(&texts, &[]).unwrap();
        assert_eq!(trust.channel.len(), 1, "a release key signs channels where no other does");
        assert!(!trust.is_empty() && Trust::default().is_empty());
    }
}
