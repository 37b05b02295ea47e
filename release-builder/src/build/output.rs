//! `target/relmgr/`: what a build leaves for `publish`.
//!
//! ```text
//! VERSION             the version that was built last, and a newline
//! <version>.tar.gz    its package
//! <version>.toml      its manifest
//! <version>.toml.minisig  the manifest's signature, where a key was given
//! ```
//!
//! Written in the order package, manifest, `VERSION`: a build that dies half way leaves the one before it. Releases
//! built earlier stay.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use relmgr_model::Version;
use relmgr_model::channel::release_comment;
use relmgr_model::manifest::{Digest, FORMAT, Git, Manifest, StateSchema};
use relmgr_store::package::Packing;
use relmgr_store::repository::{BuiltRelease, RepositoryError};
use relmgr_store::signature::Signer;
use relmgr_store::{atomic, digest, package};

use crate::build::assets::SCHEMA;
use crate::build::elf::Facts;
use crate::build::project::Project;
use crate::build::toolchain::Rustc;
use crate::error::Error;

/// The version's file within a release.
pub(crate) const VERSION: &str = "VERSION";

/// Builds in one directory wait for each other while they write; the file stays.
const LOCK: &str = ".lock";

/// What a release is made of.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) project: &'a Project,
    pub(crate) rustc: &'a Rustc,
    pub(crate) triple: &'a str,
    pub(crate) git: Option<Git>,
    pub(crate) facts: &'a Facts,
    /// The library's path within the release, such as `lib/liblive_poll.so`.
    pub(crate) library: String,
    /// The library itself.
    pub(crate) library_bytes: &'a [u8],
    /// The schema that the library gave, where no file has it.
    pub(crate) schema: Option<&'a str>,
    /// The form of the application's state.
    pub(crate) state: Option<&'a StateSchema>,
    /// Other files by their path within the release.
    pub(crate) files: &'a BTreeMap<String, PathBuf>,
    /// What the package is made for.
    pub(crate) packing: Packing,
}

/// Writes the release into `out`, as `version` or as the clock has it.
///
/// # Errors
/// The system's; a version that was built before with other content.
pub(crate) fn write(out: &Path, parts: &Parts<'_>, version: Option<Version>) -> Result<BuiltRelease, Error> {
    std::fs::create_dir_all(out).map_err(|source| Error::Write { path: out.into(), source })?;
    let _locked = lock(out)?;
    sweep(out)?;
    let places =
        |version: &Version| (out.join(format!("{version}.tar.gz")), out.join(format!("{version}.toml")));
    let version = version.unwrap_or_else(|| {
        free_version(|version| {
            let (package, manifest) = places(version);
            package.exists() || manifest.exists()
        })
    });
    let (package_path, manifest_path) = places(&version);

    // 1. The release's directory as it will be on a node, but for its place.
    let temporary = tempfile::Builder::new().prefix(atomic::TEMPORARY).tempdir_in(out);
    let temporary = temporary.map_err(|source| Error::Write { path: out.into(), source })?;
    let directory = temporary.path().join(version.to_string());
    let files = fill(&directory, parts, &version)?;
    let built_at = built_at(&version, &manifest_path)?;
    let mut manifest = manifest(parts, version, built_at, files);
    put(&directory, package::MANIFEST, manifest.for_package().to_toml().as_bytes())?;

    // 2. Its package, which gets its name only when nothing else has it.
    let packed = temporary.path().join("package.tar.gz");
    let found = package::pack_as(parts.packing, &directory, &packed)
        .map_err(|source| Error::Pack { source: Box::new(source) })?;
    match digest::of_file(&package_path) {
        Ok(before) if before == found => {}
        Ok(_) => return Err(Error::VersionTaken { version: manifest.version, directory: out.into() }),
        Err(_) => std::fs::rename(&packed, &package_path)
            .and_then(|()| atomic::sync_dir(out))
            .map_err(|source| Error::Write { path: package_path.clone(), source })?,
    }
    manifest.package = Some(found);

    // 3. The manifest, and the pointer last.
    replace(&manifest_path, &manifest.to_toml())?;
    replace(&out.join(VERSION), &format!("{}\n", manifest.version))?;
    Ok(BuiltRelease { manifest, package: package_path, manifest_path, signature: None })
}

/// Removes the releases in `out` that are not `keep`; answers which.
///
/// # Errors
/// The system's.
pub(crate) fn clean(out: &Path, keep: &Version) -> Result<Vec<Version>, Error> {
    let _locked = lock(out)?;
    let read = |source| Error::Read { path: out.into(), source };
    let mut removed = BTreeSet::new();
    for entry in std::fs::read_dir(out).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let stem = [".tar.gz", ".toml", ".toml.minisig"].iter().find_map(|ending| name.strip_suffix(ending));
        let Some(version) = stem.and_then(|stem| stem.parse::<Version>().ok()) else { continue };
        if version != *keep {
            std::fs::remove_file(&path).map_err(|source| Error::Write { path, source })?;
            removed.insert(version);
        }
    }
    Ok(removed.into_iter().collect())
}

/// Removes what a build that was killed left: nobody else writes here while the lock is held.
fn sweep(out: &Path) -> Result<(), Error> {
    let read = |source| Error::Read { path: out.into(), source };
    for entry in std::fs::read_dir(out).map_err(read)? {
        let entry = entry.map_err(read)?;
        if !entry.file_name().to_string_lossy().starts_with(atomic::TEMPORARY) {
            continue;
        }
        let path = entry.path();
        let removed = match entry.file_type().map_err(read)?.is_dir() {
            true => std::fs::remove_dir_all(&path),
            false => std::fs::remove_file(&path),
        };
        removed.map_err(|source| Error::Write { path, source })?;
    }
    Ok(())
}

fn lock(out: &Path) -> Result<File, Error> {
    let path = out.join(LOCK);
    let file = File::options().create(true).append(true).open(&path);
    let locked = file.and_then(|file| file.lock().map(|()| file));
    locked.map_err(|source| Error::Write { path, source })
}

/// The clock's version, waiting for the next second while it is taken.
fn free_version(taken: impl Fn(&Version) -> bool) -> Version {
    loop {
        let now = Utc::now();
        let version = Version::from_build_time(now);
        if !taken(&version) {
            return version;
        }
        let into_second = u64::from(now.timestamp_subsec_millis());
        std::thread::sleep(Duration::from_millis(1000_u64.saturating_sub(into_second).max(1)));
    }
}

/// When the release was built: what its version tells, what `SOURCE_DATE_EPOCH` says, what the same version's
/// manifest said before, or now. So the same source under the same version gives the same package.
fn built_at(version: &Version, manifest: &Path) -> Result<DateTime<Utc>, Error> {
    if let Some(time) = version.built_at() {
        return Ok(time);
    }
    if let Ok(text) = std::env::var("SOURCE_DATE_EPOCH") {
        let time = text.parse().ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
        return time.ok_or(Error::SourceDate { text });
    }
    let before = std::fs::read_to_string(manifest).ok().and_then(|text| Manifest::parse(&text).ok());
    let now = Utc::now();
    let now = now.duration_trunc(TimeDelta::seconds(1)).unwrap_or(now);
    Ok(before.map_or(now, |manifest| manifest.built_at))
}

/// Puts every file of the release into `directory`, and answers their digests.
fn fill(directory: &Path, parts: &Parts<'_>, version: &Version) -> Result<BTreeMap<String, Digest>, Error> {
    let mut digests = BTreeMap::new();
    let version = format!("{version}\n");
    let made = [(VERSION, version.as_bytes()), (parts.library.as_str(), parts.library_bytes)];
    let schema = parts.schema.map(|text| (SCHEMA, text.as_bytes()));
    for (name, bytes) in made.into_iter().chain(schema) {
        put(directory, name, bytes)?;
        digests.insert(name.to_owned(), digest::of_bytes(bytes));
    }
    for (name, source) in parts.files {
        let path = place(directory, name)?;
        std::fs::copy(source, &path).map_err(|error| Error::Read { path: source.clone(), source: error })?;
        // Of the copy: the file may have changed since.
        let digest = digest::of_file(&path).map_err(|source| Error::Read { path, source })?;
        digests.insert(name.clone(), digest);
    }
    Ok(digests)
}

fn manifest(
    parts: &Parts<'_>,
    version: Version,
    built_at: DateTime<Utc>,
    files: BTreeMap<String, Digest>,
) -> Manifest {
    let settings = &parts.project.settings;
    Manifest {
        format: FORMAT,
        name: parts.project.name.clone(),
        version,
        target: parts.triple.into(),
        built_at,
        library: parts.library.clone(),
        rustc: parts.rustc.version.clone(),
        abi: parts.facts.abi,
        upgrade_from: settings.upgrade_from.clone(),
        git: parts.git.clone(),
        needs: parts.facts.needs.clone(),
        state: parts.state.cloned(),
        package: None,
        probes: settings.probes.clone(),
        files,
        deltas: BTreeMap::new(),
    }
}

/// The path of `name` under `directory`, whose own directories are made.
fn place(directory: &Path, name: &str) -> Result<PathBuf, Error> {
    let path = directory.join(name);
    let parent = path.parent().unwrap_or(directory);
    std::fs::create_dir_all(parent).map_err(|source| Error::Write { path: parent.into(), source })?;
    Ok(path)
}

/// Writes a file of the directory that is packed and then removed.
fn put(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), Error> {
    let path = place(directory, name)?;
    std::fs::write(&path, bytes).map_err(|source| Error::Write { path, source })
}

/// Signs a release that was just written: its manifest, and with it all that the manifest pins.
pub(crate) fn sign(built: &mut BuiltRelease, signer: &dyn Signer) -> Result<(), Error> {
    let content = std::fs::read(&built.manifest_path)
        .map_err(|source| Error::Read { path: built.manifest_path.clone(), source })?;
    let comment = release_comment(&built.manifest.name, &built.manifest.version);
    let signature = signer.sign(&content, &comment).map_err(|reason| RepositoryError::Sign { reason })?;
    let mut path = built.manifest_path.clone().into_os_string();
    path.push(".minisig");
    let path = PathBuf::from(path);
    replace(&path, &signature)?;
    built.signature = Some(path);
    Ok(())
}

fn replace(path: &Path, text: &str) -> Result<(), Error> {
    atomic::write(path, text.as_bytes(), 0o644).map_err(|source| Error::Write { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn a_taken_second_is_waited_out() {
        let seen = RefCell::new(Vec::new());
        let version = free_version(|version| {
            seen.borrow_mut().push(version.clone());
            seen.borrow().first() == Some(version)
        });
        assert!(version > seen.borrow()[0]);
    }

    #[test]
    fn clean_removes_other_releases_and_nothing_else() {
        let out = tempfile::tempdir().unwrap();
        let names =
            ["1.0.0.toml", "1.0.0.tar.gz", "1.0.1.toml", "1.0.1.tar.gz", "VERSION", "notes.toml", "x.tar.gz"];
        for name in names {
            std::fs::write(out.path().join(name), "").unwrap();
        }
        let removed = clean(out.path(), &"1.0.1".parse().unwrap()).unwrap();
        assert_eq!(removed, ["1.0.0".parse().unwrap()]);
        let left: Vec<_> = names[2..].iter().filter(|name| out.path().join(name).exists()).collect();
        assert_eq!(left.len(), 5);
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 6, "those and the lock");
    }
}
