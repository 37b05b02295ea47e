//! What `cargo relmgr release` leaves: `VERSION`, `<version>.tar.gz`, `<version>.toml`, and where it was signed
//! `<version>.toml.minisig`.

use std::path::{Path, PathBuf};

use relmgr_model::Version;
use relmgr_model::manifest::Manifest;

use super::RepositoryError;
use crate::digest;

/// A release that was built and not published yet.
#[derive(Debug, Clone)]
pub struct BuiltRelease {
    /// Its complete manifest.
    pub manifest: Manifest,
    /// Its package.
    pub package: PathBuf,
    /// The manifest's file.
    pub manifest_path: PathBuf,
    /// Its signature's file, where it was signed when it was built.
    pub signature: Option<PathBuf>,
}

impl BuiltRelease {
    /// Reads what `VERSION` in `directory` names, and checks that the package is the manifest's.
    ///
    /// # Errors
    /// [`RepositoryError::NoBuild`] and [`RepositoryError::BadBuild`].
    pub fn read(directory: &Path) -> Result<Self, RepositoryError> {
        let no_build = |source| RepositoryError::NoBuild { path: directory.to_owned(), source };
        let pointer = directory.join("VERSION");
        let text = std::fs::read_to_string(&pointer).map_err(no_build)?;
        let bad = |path: &Path, reason: String| RepositoryError::BadBuild { path: path.to_owned(), reason };
        let version: Version = text.trim_end().parse().map_err(|error| bad(&pointer, format!("{error}")))?;

        let manifest_path = directory.join(format!("{version}.toml"));
        let text = std::fs::read_to_string(&manifest_path).map_err(no_build)?;
        let manifest = Manifest::parse(&text).map_err(|error| bad(&manifest_path, error.to_string()))?;
        if manifest.version != version {
            return Err(bad(&manifest_path, format!("it is of version {}", manifest.version)));
        }
        let package = directory.join(format!("{version}.tar.gz"));
        let found = digest::of_file(&package).map_err(no_build)?;
        if manifest.package.as_ref() != Some(&found) {
            return Err(bad(&package, "its digest is not its manifest's".into()));
        }
        let signature = directory.join(format!("{version}.toml.minisig"));
        let signature = signature.is_file().then_some(signature);
        Ok(Self { manifest, package, manifest_path, signature })
    }
}
