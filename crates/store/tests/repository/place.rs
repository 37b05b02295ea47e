//! A repository to test with: in a directory, or in a bucket of a real S3 server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use relmgr_model::Version;
use relmgr_model::manifest::{AbiVersion, FORMAT, Manifest, Needs};
use relmgr_store::repository::{BuiltRelease, Options, Pointer, Publisher, Repository};
use relmgr_store::signature::{Signer, Trust, TrustedKey};
use relmgr_store::storage::{S3Credentials, S3Options};
use relmgr_store::{digest, package};
use relmgr_testkit::s3::{ACCESS_KEY, S3Server, SECRET_KEY};

/// Where the repository lies.
pub enum Place {
    Directory(tempfile::TempDir),
    S3(S3Server),
}

/// Runs a test on both kinds of places.
macro_rules! on_both {
    ($($(#[$doc:meta])* async fn $name:ident($place:ident: &Place) $body:block)*) => {$(
        mod $name {
            use super::*;

            async fn test($place: &Place) $body

            #[tokio::test]
            async fn directory() {
                test(&Place::directory()).await;
            }

            #[tokio::test]
            async fn s3() {
                test(&Place::s3()).await;
            }
        }
    )*};
}
pub(crate) use on_both;

impl Place {
    pub fn directory() -> Self {
        Self::Directory(tempfile::tempdir().unwrap())
    }

    pub fn s3() -> Self {
        Self::S3(S3Server::start())
    }

    /// The server; only where there is one.
    pub fn server(&self) -> &S3Server {
        match self {
            Self::S3(server) => server,
            Self::Directory(_) => panic!("a directory has no server"),
        }
    }

    fn options(&self) -> S3Options {
        match self {
            Self::Directory(_) => S3Options::default(),
            Self::S3(server) => S3Options {
                endpoint_url: Some(server.endpoint()),
                region: Some("us-east-1".into()),
                credentials: Some(S3Credentials {
                    access_key: ACCESS_KEY.into(),
                    secret_key: SECRET_KEY.into(),
                }),
                ..S3Options::default()
            },
        }
    }

    pub fn open(&self) -> Repository {
        self.open_trusting(&[])
    }

    /// Opened by somebody who trusts these keys.
    pub fn open_trusting(&self, keys: &[&Key]) -> Repository {
        let keys: Vec<_> = keys.iter().map(|key| key.public.text().to_owned()).collect();
        let trust = Trust::new(&keys, &[]).unwrap();
        let options = Options { s3: self.options(), trust, ..Options::default() };
        Repository::open(&self.url(), options).unwrap()
    }

    pub fn url(&self) -> String {
        match self {
            Self::Directory(root) => format!("file://{}", root.path().display()),
            Self::S3(server) => server.url(),
        }
    }

    /// Where the objects lie as files: for an attacker who can write there.
    pub fn path(&self, key: &str) -> PathBuf {
        let root = match self {
            Self::Directory(root) => root.path().to_owned(),
            Self::S3(server) => server.directory(),
        };
        std::fs::create_dir_all(root.join(key).parent().unwrap()).unwrap();
        root.join(key)
    }

    pub fn read(&self, key: &str) -> Vec<u8> {
        std::fs::read(self.path(key)).unwrap()
    }

    pub fn put(&self, key: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(key), bytes).unwrap();
    }

    pub fn remove(&self, key: &str) {
        std::fs::remove_file(self.path(key)).unwrap();
    }

    /// The keys of what is there, in order.
    pub fn keys(&self) -> Vec<String> {
        fn walk(directory: &Path, above: &str, found: &mut Vec<String>) {
            for entry in std::fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                let name = format!("{above}{}", entry.file_name().to_string_lossy());
                match entry.file_type().unwrap().is_dir() {
                    true => walk(&entry.path(), &format!("{name}/"), found),
                    false => found.push(name),
                }
            }
        }
        let mut found = Vec::new();
        walk(self.path("x").parent().unwrap(), "", &mut found);
        found.retain(|key| key != ".lock");
        found.sort();
        found
    }
}

/// A key pair that signs.
pub struct Key {
    pair: minisign::KeyPair,
    pub public: TrustedKey,
}

impl Key {
    pub fn new() -> Self {
        let pair = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
        let public = TrustedKey::parse(&pair.pk.to_base64()).unwrap();
        Self { pair, public }
    }
}

impl Signer for Key {
    fn public_key(&self) -> &TrustedKey {
        &self.public
    }

    fn sign(&self, content: &[u8], trusted_comment: &str) -> Result<String, String> {
        minisign::sign(None, &self.pair.sk, content, Some(trusted_comment), None)
            .map(|signature| signature.into_string())
            .map_err(|error| error.to_string())
    }
}

/// A publisher who signs everything with `key`, a moment after the one before.
pub fn signing(key: &Key) -> Publisher<'_> {
    Publisher { release: Some(key), channel: Some(key), ..Publisher::default() }
}

/// What `cargo relmgr release` leaves, with `content` for a library.
pub fn build(out: &Path, version: &str, content: &[u8]) -> BuiltRelease {
    build_of("app", out, version, content)
}

pub fn build_of(name: &str, out: &Path, version: &str, content: &[u8]) -> BuiltRelease {
    let source = tempfile::tempdir().unwrap();
    let library = "lib/libapp.so";
    std::fs::create_dir(source.path().join("lib")).unwrap();
    std::fs::write(source.path().join(library), content).unwrap();
    let mut manifest = Manifest {
        format: FORMAT,
        name: name.into(),
        version: version.parse().unwrap(),
        target: "x86_64-unknown-linux-gnu".into(),
        built_at: chrono::DateTime::UNIX_EPOCH,
        library: library.into(),
        rustc: "rustc".into(),
        abi: AbiVersion { major: 1, minor: 0 },
        upgrade_from: None,
        git: None,
        needs: Needs::default(),
        state: None,
        package: None,
        probes: vec![],
        files: BTreeMap::from([(library.to_owned(), digest::of_bytes(content))]),
        deltas: BTreeMap::new(),
    };
    std::fs::write(source.path().join("manifest.toml"), manifest.to_toml()).unwrap();
    let package = out.join(format!("{version}.tar.gz"));
    manifest.package = Some(package::pack(source.path(), &package).unwrap());
    std::fs::write(out.join(format!("{version}.toml")), manifest.to_toml()).unwrap();
    std::fs::write(out.join("VERSION"), format!("{version}\n")).unwrap();
    BuiltRelease::read(out).unwrap()
}

/// Bytes that no compression makes smaller, always the same.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| next()).collect();
    bytes.truncate(len);
    bytes
}

pub fn v(text: &str) -> Version {
    text.parse().unwrap()
}

/// The version that the default channel names, whoever says so.
pub async fn current(repository: &Repository) -> Version {
    match repository.channel("").await.unwrap() {
        Pointer::Plain(version) => version,
        Pointer::Signed { document, .. } => document.version,
    }
}

/// An error with its causes.
pub fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
