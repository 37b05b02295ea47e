//! From a save to a release that the node can fetch.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{TimeDelta, Utc};
use relmgr_model::Version;
use relmgr_model::manifest::Manifest;
use relmgr_store::digest;
use relmgr_store::package::Packing;

use crate::build::compile::{CargoOptions, Compiler, Purpose};
use crate::build::output::{self, Parts};
use crate::build::prepared::Prepared;
use crate::build::project::Selection;
use crate::build::{assets, debug, elf, schema};
use crate::error::Error;
use crate::group::Group;

/// As many libraries are kept for backtraces, beside the newest: what serves is rarely older than this.
const SYMBOLS: usize = 8;

/// What makes releases, one after the other.
#[derive(Debug)]
pub(super) struct Maker {
    pub(super) selection: Selection,
    pub(super) options: CargoOptions,
    pub(super) prepared: Prepared,
    /// Where they are put.
    pub(super) packages: PathBuf,
    /// Where whole libraries are kept for backtraces and debuggers.
    pub(super) symbols: PathBuf,
    /// The newest there is.
    pub(super) last: Option<Version>,
    /// What cargo runs in.
    pub(super) group: Arc<Group>,
}

/// A release, and how long it took.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) manifest: Manifest,
    pub(super) build: Duration,
    pub(super) package: Duration,
}

impl Maker {
    /// Reads the package's manifest again, which was saved.
    ///
    /// # Errors
    /// As of [`Prepared::new`]; what was read before is kept.
    pub(super) fn prepare(&mut self) -> Result<(), Error> {
        self.prepared = Prepared::new(&self.selection, &self.options)?;
        Ok(())
    }

    /// Builds the library and makes a release of it.
    ///
    /// # Errors
    /// As of `cargo relmgr release`.
    pub(super) fn make(&mut self) -> Result<Made, Error> {
        let begun = Instant::now();
        let Prepared { project, rustc, triple, .. } = &self.prepared;
        let compiler = self.prepared.compiler(&self.options, Purpose::Development);
        let library = Compiler { group: Some(&self.group), ..compiler }.compile()?;
        let build = begun.elapsed();

        let files = assets::collect(&project.directory, &project.settings.assets)?;
        let read = |source| Error::Read { path: library.clone(), source };
        let mut bytes = std::fs::read(&library).map_err(read)?;
        let mut facts =
            elf::read(&bytes, triple).map_err(|source| Error::Library { path: library.clone(), source })?;
        facts.clear_nodelete(&mut bytes);
        let version = next(self.last.as_ref());
        if let Some(less) = self.without_symbols(&library, &bytes) {
            bytes = less;
        }
        let schema = schema::find(project, &library, facts.abi, triple)?;
        let file_name = library.file_name().unwrap_or_default().to_string_lossy();
        let parts = Parts {
            project,
            rustc,
            triple,
            // Nobody asks which commit it was, and git takes its time.
            git: None,
            facts: &facts,
            library: format!("lib/{file_name}"),
            library_bytes: &bytes,
            schema: schema.derived.as_deref(),
            state: schema.state.as_ref(),
            files: &files,
            packing: Packing::Local,
        };
        let built = output::write(&self.packages, &parts, Some(version.clone()))?;
        // Whatever serves is installed; what was not taken is of no use.
        output::clean(&self.packages, &version)?;
        self.last = Some(version);
        Ok(Made { manifest: built.manifest, build, package: begun.elapsed() - build })
    }
}

impl Maker {
    /// The library without what debuggers read, which is kept beside the releases. `None`: it has none, or lies on
    /// another file system, or on one without links.
    fn without_symbols(&self, library: &Path, bytes: &[u8]) -> Option<Vec<u8>> {
        std::fs::create_dir_all(&self.symbols).ok()?;
        let modified = |path: &PathBuf| std::fs::metadata(path).and_then(|data| data.modified()).ok();
        let entries = std::fs::read_dir(&self.symbols).ok()?;
        let mut before: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        before.sort_by_key(modified);
        for old in before.iter().rev().skip(SYMBOLS) {
            // One that stays is in nobody's way.
            let _ = std::fs::remove_file(old);
        }
        // Named by the code that it belongs to: what is linked again and is the same stays the same release.
        let whole = |name: &str| self.symbols.join(format!("{name}.so"));
        let code = digest::of_bytes(&debug::set_apart(bytes, &whole("-"))?).sha256;
        match std::fs::hard_link(library, whole(&code)) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => None,
            // A link costs nothing and keeps what it names: cargo and linkers write a new file each time.
            _ => debug::set_apart(bytes, &whole(&code)),
        }
    }
}

/// The clock's version, or the second after `last`: two saves within one second are two versions, and nobody waits for
/// the clock.
fn next(last: Option<&Version>) -> Version {
    let now = Version::from_build_time(Utc::now());
    match last.filter(|last| **last >= now).and_then(Version::built_at) {
        Some(at) => Version::from_build_time(at + TimeDelta::seconds(1)),
        None => now,
    }
}

/// Whether two releases are the same but for their versions.
pub(super) fn same(one: &Manifest, other: &Manifest) -> bool {
    let plain = |manifest: &Manifest| {
        let mut plain = Manifest {
            version: other.version.clone(),
            built_at: other.built_at,
            package: None,
            ..manifest.clone()
        };
        plain.files.remove(output::VERSION);
        plain
    };
    plain(one) == plain(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_saves_in_one_second_are_two_versions() {
        let first = next(None);
        let second = next(Some(&first));
        let third = next(Some(&second));
        assert!(first < second && second < third, "{first} {second} {third}");
        let ahead = Version::from_build_time(Utc::now() + TimeDelta::hours(1));
        assert_eq!(next(Some(&ahead)).built_at(), ahead.built_at().map(|at| at + TimeDelta::seconds(1)));
        let old = "2020.101.0".parse().unwrap();
        assert!(next(Some(&old)) >= first);
    }
}
