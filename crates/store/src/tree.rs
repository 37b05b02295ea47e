//! A node's `releases/` directory.

use std::fs::DirEntry;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use relmgr_model::Version;
use relmgr_model::home::Home;
use relmgr_model::manifest::{Manifest, ManifestError};
use relmgr_model::record::NodeRecord;

use crate::delta::{self, DeltaError};
use crate::package::{self, PackageError};
use crate::{atomic, digest};

/// A release's directory that cannot be used or changed.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The system refused.
    #[error("{} cannot be {what}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// `read`, `written`, `removed`, `cleared`.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The release's manifest cannot be used.
    #[error("{} cannot be used: remove the release and fetch it again", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// A file is not what was installed.
    #[error("{} is damaged ({reason}): remove the release and fetch it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What differs.
        reason: &'static str,
    },
}

pub(crate) fn io_error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> TreeError + use<> {
    let path = path.to_owned();
    move |source| TreeError::Io { path, what, source }
}

/// A node's installed releases on disk.
#[derive(Debug, Clone)]
pub struct ReleaseTree {
    home: Home,
}

impl ReleaseTree {
    /// The releases of the node at `home`.
    pub fn new(home: Home) -> Self {
        Self { home }
    }

    /// Makes the directories that fetching and unpacking need.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn make_directories(&self) -> Result<(), TreeError> {
        [self.home.releases(), self.home.staging(), self.home.fetch()].iter().try_for_each(|directory| {
            std::fs::create_dir_all(directory).map_err(io_error(directory, "written"))
        })
    }

    /// Clears what a death or a power loss left, where the releases of `record` are all that is installed; without a
    /// record (there was no `state.json`) releases stay, for nothing says that they are of no use.
    ///
    /// What cannot be cleared is only in the way: the rest is cleared all the same.
    ///
    /// # Errors
    /// [`TreeError::Io`], the first one.
    pub fn tidy(&self, record: Option<&NodeRecord>) -> Result<(), TreeError> {
        let (releases, staging, fetch) = (self.home.releases(), self.home.staging(), self.home.fetch());
        let mut results: Vec<Result<(), TreeError>> = vec![];
        for directory in [self.home.path(), &self.home.bin(), &releases, &fetch] {
            results.push(clear(directory, is_temporary).map_err(io_error(directory, "cleared")));
        }
        let emptied = match std::fs::remove_dir_all(&staging) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        results.push(emptied.map_err(io_error(&staging, "removed")));
        results.push(self.make_directories());
        // A release's configuration is replaced beside its files.
        results.push(self.versions().and_then(|versions| {
            let mut directories = versions.iter().map(|version| self.home.release(version));
            directories.try_for_each(|directory| {
                clear(&directory, is_temporary).map_err(io_error(&directory, "cleared"))
            })
        }));
        results.push(clear(&fetch, is_forgotten).map_err(io_error(&fetch, "cleared")));
        if let Some(record) = record {
            let installed = |entry: &DirEntry| Ok(is_of_any(entry, record.releases.keys()));
            results.push(clear(&fetch, installed).map_err(io_error(&fetch, "cleared")));
            results.push(self.versions().and_then(|versions| {
                let mut unknown = versions.iter().filter(|version| !record.releases.contains_key(version));
                unknown.try_for_each(|version| self.remove(version))
            }));
        }
        results.into_iter().collect()
    }

    /// The versions that have a directory, whole or not.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn versions(&self) -> Result<Vec<Version>, TreeError> {
        let releases = self.home.releases();
        let read = || -> io::Result<Vec<Version>> {
            let mut versions = vec![];
            for entry in std::fs::read_dir(&releases)? {
                let entry = entry?;
                if entry.file_type()?.is_dir()
                    && let Some(version) = entry.file_name().to_str().and_then(|name| name.parse().ok())
                {
                    versions.push(version);
                }
            }
            versions.sort();
            Ok(versions)
        };
        read().map_err(io_error(&releases, "read"))
    }

    /// Unpacks `package` as `version`. A directory that nobody knows of (half made by hand, or by an older
    /// relmgr) makes way.
    ///
    /// # Errors
    /// [`PackageError`]; nothing is left behind then.
    pub fn install(
        &self,
        version: &Version,
        package: &Path,
        manifest: &Manifest,
    ) -> Result<(), PackageError> {
        let dest = self.make_way(version).map_err(|(path, source)| PackageError::Io {
            path,
            what: "replaced",
            source,
        })?;
        package::unpack(package, &self.home.staging(), &dest, manifest)
    }

    /// Makes `version` from the installed release `base` and the `delta` between them, which the verified `manifest`
    /// pins. A directory that nobody knows of makes way as with [`ReleaseTree::install`].
    ///
    /// # Errors
    /// [`DeltaError`]; nothing is left behind then, and the whole package serves.
    pub fn install_delta(
        &self,
        version: &Version,
        base: &Version,
        delta: &Path,
        manifest: &Manifest,
    ) -> Result<(), DeltaError> {
        let wrong_base =
            |reason| DeltaError::WrongBase { delta: delta.to_owned(), base: base.clone(), reason };
        if version == base {
            return Err(wrong_base("it is the release that is to be made".into()));
        }
        let held = self.manifest(base).map_err(|error| wrong_base(error.to_string()))?;
        let dest = self.make_way(version).map_err(|(path, source)| DeltaError::Io {
            path,
            what: "replaced",
            source,
        })?;
        delta::apply(delta, &self.home.release(base), &held, manifest, &self.home.staging(), &dest)
    }

    /// The directory that `version` will be, with nothing there.
    fn make_way(&self, version: &Version) -> Result<PathBuf, (PathBuf, io::Error)> {
        let dest = self.home.release(version);
        if dest.symlink_metadata().is_ok() {
            self.remove(version).map_err(|error| (dest.clone(), io::Error::other(error)))?;
        }
        Ok(dest)
    }

    /// The manifest of an installed release.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn manifest(&self, version: &Version) -> Result<Manifest, TreeError> {
        let path = self.home.release(version).join(package::MANIFEST);
        let text = std::fs::read_to_string(&path).map_err(io_error(&path, "read"))?;
        Manifest::parse(&text).map_err(|source| TreeError::Manifest { path, source })
    }

    /// Reads every file of an installed release and compares it with the release's manifest.
    ///
    /// # Errors
    /// [`TreeError`] with the file that differs.
    pub fn verify(&self, version: &Version) -> Result<Manifest, TreeError> {
        let manifest = self.manifest(version)?;
        verify_files(&self.home.release(version), &manifest)?;
        Ok(manifest)
    }

    /// Removes a release's directory: out of sight first, in one step, then file by file. What an earlier try left of
    /// one of this version is not in its way; the next start clears it.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn remove(&self, version: &Version) -> Result<(), TreeError> {
        let directory = self.home.release(version);
        let staging = self.home.staging();
        let trash = tempfile::Builder::new().prefix(&format!("removed-{version}-")).tempdir_in(&staging);
        let trash = trash.map_err(io_error(&staging, "written"))?;
        // Onto an empty directory: the two change in one step.
        match std::fs::rename(&directory, trash.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(io_error(&directory, "removed"))?,
        }
        atomic::sync_dir(&self.home.releases()).map_err(io_error(&directory, "removed"))?;
        let path = trash.path().to_owned();
        trash.close().map_err(io_error(&path, "removed"))
    }

    /// Points `releases/current` and `releases/prev` at these versions.
    ///
    /// # Errors
    /// [`TreeError::Io`].
    pub fn set_links(&self, current: Option<&Version>, prev: Option<&Version>) -> Result<(), TreeError> {
        for (link, version) in [(self.home.current(), current), (self.home.prev(), prev)] {
            let target = version.map(|version| PathBuf::from(version.to_string()));
            if std::fs::read_link(&link).ok() == target {
                continue;
            }
            let set = match &target {
                Some(target) => atomic::symlink(target, &link),
                None => atomic::remove(&link),
            };
            set.map_err(io_error(&link, "written"))?;
        }
        Ok(())
    }
}

/// Compares the files under `root` with `manifest`.
pub(crate) fn verify_files(root: &Path, manifest: &Manifest) -> Result<(), TreeError> {
    for (name, expected) in &manifest.files {
        let path = root.join(name);
        let regular = path.symlink_metadata().map_err(io_error(&path, "read"))?.is_file();
        if !regular {
            return Err(TreeError::Damaged { path, reason: "it is no regular file" });
        }
        let found = digest::of_file(&path).map_err(io_error(&path, "read"))?;
        if found.size != expected.size {
            return Err(TreeError::Damaged { path, reason: "its size is not its manifest's" });
        }
        if found.sha256 != expected.sha256 {
            return Err(TreeError::Damaged { path, reason: "its SHA-256 is not its manifest's" });
        }
    }
    Ok(())
}

/// Removes the files of `directory` that are `useless`.
fn clear(directory: &Path, useless: impl Fn(&DirEntry) -> io::Result<bool>) -> io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if useless(&entry)? {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn is_temporary(entry: &DirEntry) -> io::Result<bool> {
    Ok(entry.file_name().to_string_lossy().starts_with(atomic::TEMPORARY))
}

/// What was being fetched and was not gone on with for so long is not waited for any more.
const FORGOTTEN: Duration = Duration::from_secs(7 * 24 * 60 * 60);

fn is_forgotten(entry: &DirEntry) -> io::Result<bool> {
    // A clock that was set back makes it young, which costs room and nothing else.
    Ok(entry.metadata()?.modified()?.elapsed().is_ok_and(|age| age > FORGOTTEN))
}

/// Whether what was fetched makes one of these releases: a power loss can bring back a package that was removed after
/// it was unpacked. Beside it may lie a note of which of its ranges are done.
fn is_of_any<'a>(entry: &DirEntry, mut versions: impl Iterator<Item = &'a Version>) -> bool {
    let name = entry.file_name();
    let name = name.to_string_lossy();
    versions.any(|version| {
        name.starts_with(&format!("{version}.tar.gz")) || name.contains(&format!("_{version}.delta"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use relmgr_model::record::ReleaseRecord;
    use relmgr_model::status::Status;
    use std::collections::BTreeSet;

    /// A home with nothing in it, for as long as its directory lives.
    fn empty() -> (tempfile::TempDir, Home, ReleaseTree) {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::new(directory.path());
        let tree = ReleaseTree::new(home.clone());
        tree.make_directories().unwrap();
        (directory, home, tree)
    }

    fn names(directory: &Path) -> BTreeSet<String> {
        let names = std::fs::read_dir(directory).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn what_an_earlier_removal_left_is_in_nobodys_way() {
        let (_directory, home, tree) = empty();
        let version = "1.0.0".parse().unwrap();
        // As a removal leaves it whose disk failed half-way.
        std::fs::create_dir_all(home.staging().join("removed-1.0.0/lib")).unwrap();
        for _ in 0..2 {
            std::fs::create_dir_all(home.release(&version).join("lib")).unwrap();
            tree.remove(&version).unwrap();
            assert_eq!(tree.versions().unwrap(), vec![]);
        }
        tree.remove(&version).unwrap();
        assert_eq!(names(&home.staging()), BTreeSet::from(["removed-1.0.0".to_owned()]));
    }

    #[test]
    fn a_home_that_nothing_ran_in_yet_is_tidy() {
        let directory = tempfile::tempdir().unwrap();
        let tree = ReleaseTree::new(Home::new(directory.path()));
        tree.tidy(None).unwrap();
        assert_eq!(tree.versions().unwrap(), vec![]);
    }

    #[test]
    fn what_a_death_left_of_a_file_that_was_being_replaced_goes() {
        let (_directory, home, tree) = empty();
        let release = home.release(&"1.0.0".parse().unwrap());
        std::fs::create_dir_all(&release).unwrap();
        std::fs::write(release.join("app.conf"), "a = 1").unwrap();
        for directory in [home.path(), &home.releases(), &home.fetch(), &release] {
            std::fs::write(directory.join(format!("{}x", atomic::TEMPORARY)), "a = ").unwrap();
        }
        tree.tidy(None).unwrap();
        assert_eq!(names(&release), BTreeSet::from(["app.conf".to_owned()]));
        let known = [".fetch", ".staging", "1.0.0"].map(str::to_owned);
        assert_eq!(names(&home.releases()), BTreeSet::from(known));
        assert_eq!(names(home.path()), BTreeSet::from(["releases".to_owned()]));
    }

    #[test]
    fn what_is_of_no_release_of_the_record_goes_and_the_rest_stays() {
        let (_directory, home, tree) = empty();
        let lie = |record| {
            for name in [
                "1.0.1.tar.gz",
                "1.0.1.tar.gz.ranges",
                "1.0.0_1.0.1.delta",
                "1.0.10.tar.gz",
                "1.0.1_2.0.0.delta",
            ] {
                std::fs::write(home.fetch().join(name), "bytes").unwrap();
            }
            for release in ["1.0.1", "2.0.0"] {
                std::fs::create_dir_all(home.release(&release.parse().unwrap())).unwrap();
            }
            std::fs::write(home.staging().join("half"), "bytes").unwrap();
            tree.tidy(record).unwrap();
            assert_eq!(names(&home.staging()), BTreeSet::new());
        };
        lie(None);
        assert_eq!(names(&home.fetch()).len(), 5);
        assert!(names(&home.releases()).contains("2.0.0"));
        let (installed_at, since) = (DateTime::UNIX_EPOCH, DateTime::UNIX_EPOCH);
        let release = ReleaseRecord { status: Status::Unpacked, installed_at, since };
        let mut record = NodeRecord::new("live-poll");
        record.releases.insert("1.0.1".parse().unwrap(), release);
        lie(Some(&record));
        assert_eq!(names(&home.fetch()), ["1.0.10.tar.gz".into(), "1.0.1_2.0.0.delta".into()].into());
        assert_eq!(names(&home.releases()), [".fetch".into(), ".staging".into(), "1.0.1".into()].into());
    }
}
