//! What a release says of itself: `manifest.toml`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use semver::VersionReq;
use serde::{Deserialize, Serialize};

use crate::Version;

/// The manifest format that this relmgr writes and reads.
pub const FORMAT: u32 = 1;

/// Limit on a manifest's text before anything in it is believed: a release of 5,000 files needs half of it.
pub const MAX_BYTES: u64 = 1024 * 1024;

/// The manifest of one release. Unknown keys are refused.
///
/// Two copies exist: inside the package, without [`Manifest::package`] (a file cannot hold its own digest), and
/// beside it in the repository, complete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format number, [`FORMAT`].
    pub format: u32,
    /// The application's name, as in `relmgr.toml`'s `app`.
    pub name: String,
    /// The release's version.
    pub version: Version,
    /// Target triple of the library.
    pub target: String,
    /// When the release was built.
    pub built_at: DateTime<Utc>,
    /// The library within the release's directory, such as `lib/liblive_poll.so`.
    pub library: String,
    /// `rustc --version` of the build.
    pub rustc: String,
    /// Version of the contract between host and application.
    pub abi: AbiVersion,
    /// Which versions may be upgraded to this one; absent: every older one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade_from: Option<VersionReq>,
    /// The commit that was built; absent outside of a git checkout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<Git>,
    /// What the library needs of the machine.
    pub needs: Needs,
    /// The application's state; absent: it hands none over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<StateSchema>,
    /// Size and digest of the package; absent in the copy inside the package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<Digest>,
    /// Requests that a candidate must answer before it gets traffic.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,
    /// Every file of the release but the manifest itself, by its path within the release's directory.
    pub files: BTreeMap<String, Digest>,
    /// Patches from older releases' content, by the version they start from.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub deltas: BTreeMap<Version, Digest>,
}

/// Version of the contract between host and application: equal majors fit, a host serves older minors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AbiVersion {
    /// Changes when old libraries no longer fit.
    pub major: u32,
    /// Grows when something is added at an end.
    pub minor: u32,
}

impl std::fmt::Display for AbiVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The commit of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Git {
    /// Full commit hash, hexadecimal.
    pub commit: String,
    /// Whether the work tree differed from the commit.
    pub dirty: bool,
}

/// What a library needs of the machine, read from its ELF.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Needs {
    /// The highest `GLIBC_x.y` symbol version that it refers to, as `2.34`; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub glibc: Option<GlibcVersion>,
    /// Its `DT_NEEDED` entries, in the file's order.
    pub libraries: Vec<String>,
}

/// A glibc version, `major.minor`, ordered by number (2.9 before 2.34).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GlibcVersion {
    /// 2 since 1997.
    pub major: u32,
    /// Two releases a year.
    pub minor: u32,
}

impl std::str::FromStr for GlibcVersion {
    type Err = String;

    /// Reads `2.34`, and `2.3.4` as 2.3: patch levels ended with 2.14 and name no symbols that newer ones lack.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, '.');
        let mut part = || parts.next().and_then(|part| part.parse().ok());
        match (part(), part()) {
            (Some(major), Some(minor)) => Ok(Self { major, minor }),
            _ => Err(format!("`{text}` is not a glibc version such as 2.34")),
        }
    }
}

impl std::fmt::Display for GlibcVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Serialize for GlibcVersion {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GlibcVersion {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The form of the application's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateSchema {
    /// Schema version of the state type.
    pub version: u32,
    /// Hash of the state type's shape, hexadecimal.
    pub shape: String,
    /// Older forms that this release can take over from, and hand back to; newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub older: Vec<OlderSchema>,
}

/// An older form of the state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OlderSchema {
    /// Its schema version.
    pub version: u32,
    /// Hash of its shape, hexadecimal.
    pub shape: String,
    /// Whether the state can also be handed back in this form.
    pub hands_back: bool,
}

/// Size and SHA-256 of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digest {
    /// In bytes.
    pub size: u64,
    /// SHA-256, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// A request that a candidate must answer before it gets traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Path and query, such as `/polls/health`; the method is GET.
    pub path: String,
    /// The status that passes, 200 by default.
    #[serde(default = "Probe::default_status")]
    pub status: u16,
}

impl Probe {
    fn default_status() -> u16 {
        200
    }
}

/// A manifest that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// No TOML of a manifest's form.
    #[error("the manifest does not parse: {0}")]
    Parse(Box<toml::de::Error>),
    /// Written by another relmgr.
    #[error(
        "the manifest has format {found}, this relmgr reads format {FORMAT}: update relmgr on this machine"
    )]
    Format {
        /// The manifest's format number.
        found: u32,
    },
    /// A digest that is no SHA-256, or a path that leaves the release's directory.
    #[error("the manifest is not well formed: {0}")]
    Content(String),
}

impl Manifest {
    /// Reads a manifest and checks what can be checked without anything else.
    ///
    /// # Errors
    /// [`ManifestError::Format`] before any other fault, so that a newer format is called by its name.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let parse = |error| ManifestError::Parse(Box::new(error));
        let head: Head = toml::from_str(text).map_err(parse)?;
        if head.format != FORMAT {
            return Err(ManifestError::Format { found: head.format });
        }
        let manifest: Self = toml::from_str(text).map_err(parse)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The manifest as TOML, as it is published.
    pub fn to_toml(&self) -> String {
        // Every field has a TOML form; only a foreign `Serialize` could fail.
        toml::to_string(self).unwrap_or_else(|error| unreachable!("a manifest is always TOML: {error}"))
    }

    /// The copy for inside the package: without what cannot stand there.
    pub fn for_package(&self) -> Self {
        Self { package: None, deltas: BTreeMap::new(), ..self.clone() }
    }

    fn check(&self) -> Result<(), ManifestError> {
        let content = |text| Err(ManifestError::Content(text));
        let name_fits = !self.name.is_empty()
            && self.name.len() <= 64
            && self.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !name_fits {
            return content(format!("`{}` is no application name", self.name));
        }
        if !self.files.contains_key(&self.library) {
            return content(format!("its library `{}` is not among its files", self.library));
        }
        for (path, digest) in &self.files {
            if !is_plain_path(path) {
                return content(format!("`{path}` is no path within a release"));
            }
            if RESERVED.contains(&path.as_str()) {
                return content(format!("`{path}` is relmgr's own file and cannot be a release's"));
            }
            digest.check(path)?;
        }
        for digest in self.package.iter().chain(self.deltas.values()) {
            digest.check("package")?;
        }
        Ok(())
    }
}

impl Digest {
    fn check(&self, what: &str) -> Result<(), ManifestError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if self.sha256.len() == 64 && self.sha256.bytes().all(hex) {
            Ok(())
        } else {
            Err(ManifestError::Content(format!("`{}` of {what} is no SHA-256", self.sha256)))
        }
    }
}

/// Files of a release's directory that relmgr writes itself.
const RESERVED: [&str; 2] = ["manifest.toml", "app.conf"];

/// Whether `path` is relative, made of normal parts only, and names the same file on every machine.
pub fn is_plain_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= 255
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
        && !path.bytes().any(|b| b == b'\\' || b == 0 || b.is_ascii_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let digest = Digest { size: 3, sha256: "0".repeat(64) };
        Manifest {
            format: FORMAT,
            name: "live-poll".into(),
            version: "2026.1120.192733".parse().unwrap(),
            target: "x86_64-unknown-linux-gnu".into(),
            built_at: "2026-11-20T19:27:33Z".parse().unwrap(),
            library: "lib/liblive_poll.so".into(),
            rustc: "rustc 1.95.0".into(),
            abi: AbiVersion { major: 1, minor: 0 },
            upgrade_from: Some(">=2026.1100.0".parse().unwrap()),
            git: Some(Git { commit: "ab".repeat(20), dirty: false }),
            needs: Needs {
                glibc: Some(GlibcVersion { major: 2, minor: 34 }),
                libraries: vec!["libc.so.6".into()],
            },
            state: None,
            package: Some(digest.clone()),
            probes: vec![Probe { path: "/polls/health".into(), status: 200 }],
            files: BTreeMap::from([
                ("lib/liblive_poll.so".into(), digest.clone()),
                ("VERSION".into(), digest),
            ]),
            deltas: BTreeMap::new(),
        }
    }

    #[test]
    fn a_manifest_survives_its_text() {
        let manifest = manifest();
        assert_eq!(Manifest::parse(&manifest.to_toml()).unwrap(), manifest);
        assert_eq!(Manifest::parse(&manifest.for_package().to_toml()).unwrap().package, None);
    }

    #[test]
    fn a_newer_format_is_named_before_its_unknown_keys() {
        let text = manifest().to_toml().replace("format = 1", "format = 2\nnovelty = true");
        let error = Manifest::parse(&text).unwrap_err().to_string();
        assert!(error.contains("format 2") && error.contains("update relmgr"), "{error}");
    }

    #[test]
    fn unknown_keys_and_bad_content_are_refused() {
        let good = manifest().to_toml();
        let cases = [
            (good.replace("name = ", "novelty = 1\nname = "), "novelty"),
            (good.replace("live-poll", "live/poll"), "application name"),
            (good.replace(&"0".repeat(64), "beef"), "SHA-256"),
            (good.replace("library = \"lib/", "library = \"bin/"), "not among its files"),
            (good.replace("files.VERSION", "files.\"../VERSION\""), "no path within a release"),
            (good.replace("files.VERSION", "files.\"app.conf\""), "relmgr's own file"),
        ];
        for (text, words) in cases {
            let error = Manifest::parse(&text).unwrap_err().to_string();
            assert!(error.contains(words), "{words}: {error}");
        }
    }

    #[test]
    fn glibc_versions_order_by_number() {
        let version = |text: &str| text.parse::<GlibcVersion>().unwrap();
        assert!(version("2.9") < version("2.34"));
        assert_eq!(version("2.3.4"), version("2.3"));
        assert!("two".parse::<GlibcVersion>().is_err());
    }
}
