//! Secret keys: made, read, and used to sign. minisign's format, so that its own tool can read them too.

use std::io::{Cursor, IsTerminal};
use std::path::{Path, PathBuf};

use minisign::{KeyPair, SecretKey, SecretKeyBox};
use relmgr_store::atomic;
use relmgr_store::signature::{Signer, TrustedKey};

use crate::error::Error;

/// Which keys sign.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct KeyArgs {
    /// The secret key that signs releases, and channels too where --channel-key is not given. Instead of a file,
    /// RELMGR_KEY may hold the key's text; RELMGR_KEY_PASSWORD is its password
    #[arg(long, value_name = "FILE", env = "RELMGR_KEY_FILE")]
    pub(crate) key: Option<PathBuf>,
    /// The secret key that signs channels. Or RELMGR_CHANNEL_KEY; RELMGR_CHANNEL_KEY_PASSWORD is its password
    #[arg(long, value_name = "FILE", env = "RELMGR_CHANNEL_KEY_FILE")]
    pub(crate) channel_key: Option<PathBuf>,
}

/// A secret key, ready to sign.
pub(crate) struct Key {
    secret: SecretKey,
    public: TrustedKey,
}

/// The keys that a command signs with.
#[derive(Default)]
pub(crate) struct Keys {
    release: Option<Key>,
    channel: Option<Key>,
}

impl KeyArgs {
    /// Reads the keys. Asks for a password where one is needed and there is a terminal.
    pub(crate) fn read(&self) -> Result<Keys, Error> {
        Ok(Keys {
            release: read(self.key.as_deref(), "RELMGR_KEY")?,
            channel: read(self.channel_key.as_deref(), "RELMGR_CHANNEL_KEY")?,
        })
    }
}

impl Keys {
    /// Who signs releases.
    pub(crate) fn release(&self) -> Option<&dyn Signer> {
        self.release.as_ref().map(|key| key as &dyn Signer)
    }

    /// Who signs channels.
    pub(crate) fn channel(&self) -> Option<&dyn Signer> {
        self.channel.as_ref().or(self.release.as_ref()).map(|key| key as &dyn Signer)
    }
}

/// An environment variable that is there and not empty.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.trim().is_empty())
}

fn read(file: Option<&Path>, name: &str) -> Result<Option<Key>, Error> {
    let (text, place) = match (file, variable(name)) {
        (Some(path), _) => {
            let text = std::fs::read_to_string(path);
            (text.map_err(|source| Error::Read { path: path.into(), source })?, path.display().to_string())
        }
        (None, Some(text)) => (text, name.to_owned()),
        (None, None) => return Ok(None),
    };
    parse(&text, &place, &format!("{name}_PASSWORD")).map(Some)
}

fn parse(text: &str, place: &str, password_name: &str) -> Result<Key, Error> {
    let fault = |reason: String| Error::Key { place: place.into(), reason };
    // A variable in CI often has only the line itself, without the comment above it.
    let text = match text.trim().lines().count() {
        1 => format!("untrusted comment: relmgr secret key\n{}\n", text.trim()),
        _ => text.to_owned(),
    };
    let boxed = |text: &str| SecretKeyBox::from_string(text).map_err(|error| fault(error.to_string()));
    let secret = match boxed(&text)?.into_unencrypted_secret_key() {
        Ok(secret) => secret,
        Err(_) => {
            let password = match variable(password_name) {
                Some(password) => password,
                None if std::io::stdin().is_terminal() => {
                    rpassword::prompt_password(format!("Password of {place}: "))
                        .map_err(|error| fault(error.to_string()))?
                }
                None => return Err(fault(format!("it has a password, and {password_name} is not set"))),
            };
            boxed(&text)?.into_secret_key(Some(password)).map_err(|error| fault(error.to_string()))?
        }
    };
    let public = minisign::PublicKey::from_secret_key(&secret).map_err(|error| fault(error.to_string()))?;
    let public = TrustedKey::parse(&public.to_base64()).map_err(|error| fault(error.to_string()))?;
    Ok(Key { secret, public })
}

impl Signer for Key {
    fn public_key(&self) -> &TrustedKey {
        &self.public
    }

    fn sign(&self, content: &[u8], trusted_comment: &str) -> Result<String, String> {
        let comment = format!("signature by relmgr key {}", self.public.id());
        minisign::sign(None, &self.secret, Cursor::new(content), Some(trusted_comment), Some(&comment))
            .map(|signature| signature.into_string())
            .map_err(|error| error.to_string())
    }
}

/// Makes a key pair: the secret key into `file`, the public one beside it. Without a password the file alone signs.
pub(crate) fn generate(file: &Path, password: Option<String>) -> Result<(TrustedKey, PathBuf), Error> {
    let fault = |reason: String| Error::Key { place: file.display().to_string(), reason };
    let public_file = PathBuf::from(format!("{}.pub", file.with_extension("").display()));
    for path in [file, &public_file] {
        if path.exists() {
            return Err(Error::Exists { path: path.into() });
        }
    }
    let pair = match password {
        Some(password) => KeyPair::generate_encrypted_keypair(Some(password)),
        None => KeyPair::generate_unencrypted_keypair(),
    };
    let pair = pair.map_err(|error| fault(error.to_string()))?;
    let public = TrustedKey::parse(&pair.pk.to_base64()).map_err(|error| fault(error.to_string()))?;
    let secret = pair.sk.to_box(Some("relmgr secret key")).map_err(|error| fault(error.to_string()))?;
    let text = format!("untrusted comment: relmgr public key {}\n{}\n", public.id(), public.text());
    let write = |path: &Path, text: &str, mode| {
        atomic::write(path, text.as_bytes(), mode)
            .map_err(|source| Error::Write { path: path.into(), source })
    };
    write(file, &secret.into_string(), 0o600)?;
    write(&public_file, &text, 0o644)?;
    Ok((public, public_file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use relmgr_store::signature::verify;

    #[test]
    fn a_key_signs_with_and_without_a_password() {
        let home = tempfile::tempdir().unwrap();
        for (name, password) in [("open", None), ("closed", Some("horse".to_owned()))] {
            let file = home.path().join(format!("{name}.key"));
            let (public, public_file) = generate(&file, password.clone()).unwrap();
            assert_eq!(
                TrustedKey::parse(&std::fs::read_to_string(public_file).unwrap()).unwrap().text(),
                public.text()
            );
            let text = std::fs::read_to_string(&file).unwrap();
            let key = match password {
                None => parse(&text, name, "NOT_SET"),
                // Its password by hand: tests share the environment.
                Some(password) => {
                    let refused = parse(&text, name, "NOT_SET").err().unwrap().to_string();
                    assert!(refused.contains("NOT_SET") || refused.contains("password"), "{refused}");
                    let secret =
                        SecretKeyBox::from_string(&text).unwrap().into_secret_key(Some(password)).unwrap();
                    Ok(Key { secret, public: public.clone() })
                }
            };
            let signature = key.unwrap().sign(b"manifest", "purpose").unwrap();
            verify(b"manifest", &signature, &[public], "purpose").unwrap();
            assert!(
                matches!(generate(&file, None), Err(Error::Exists { .. })),
                "a key is never written over"
            );
        }
        let line = std::fs::read_to_string(home.path().join("open.key")).unwrap();
        parse(line.lines().nth(1).unwrap(), "the line alone", "NOT_SET").unwrap();
    }
}
