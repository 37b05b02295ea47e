//! Whose schema: a crate's, a built release's, a published one's.

use std::path::{Path, PathBuf};

use relmgr_conf::Schema;
use relmgr_model::Version;
use relmgr_store::package;
use relmgr_store::repository::{BuiltRelease, Pointer};

use crate::build::assets::SCHEMA;
use crate::build::compile::{CargoOptions, Purpose};
use crate::build::elf;
use crate::build::prepared::Prepared;
use crate::build::project::Selection;
use crate::build::schema;
use crate::commands::{RepositoryArgs, block_on, previous};
use crate::error::Error;
use crate::ui;

/// Where schemas come from.
#[derive(Debug, clap::Args)]
pub(super) struct SourceArgs {
    #[command(flatten)]
    pub(super) repository: RepositoryArgs,
    /// The Cargo.toml of the crate or workspace
    #[arg(long, value_name = "PATH", help_heading = "Building the crate")]
    manifest_path: Option<PathBuf>,
    /// The package to build, where the workspace has several
    #[arg(long, short, value_name = "NAME", help_heading = "Building the crate")]
    package: Option<String>,
    #[command(flatten, next_help_heading = "Building the crate")]
    cargo: CargoOptions,
}

/// A release's schema.
#[derive(Debug)]
pub(super) struct Named {
    /// Whose it is, for people.
    pub(super) name: String,
    /// `None`: the release has no settings.
    pub(super) schema: Option<Schema>,
}

impl Named {
    /// Its keys; none if the release has no settings.
    pub(super) fn keys(&self) -> Schema {
        self.schema.clone().unwrap_or_else(|| {
            Schema::new([]).unwrap_or_else(|faults| unreachable!("no keys contradict each other: {faults}"))
        })
    }
}

/// What the help says of a release's name.
pub(super) const RELEASES: &str = "\
A release is named by what there is of it: a crate's directory (which is built), an
output directory of `cargo relmgr release`, a release's own directory, a schema.toml,
or a version in the repository.";

impl SourceArgs {
    /// The schema of what `name` names; without a name of the crate here.
    ///
    /// # Errors
    /// There is no such release, or its schema cannot be read.
    pub(super) fn find(&self, name: Option<&str>) -> Result<Named, Error> {
        let Some(name) = name else { return self.of_crate(self.manifest_path.clone()) };
        let path = Path::new(name);
        let named = |schema| Named { name: name.to_owned(), schema };
        if path.is_file() {
            return schema::read(path).map(named);
        }
        if path.is_dir() {
            if path.join("Cargo.toml").is_file() {
                return self.of_crate(Some(path.join("Cargo.toml")));
            }
            if path.join(package::MANIFEST).is_file() {
                return schema::read(&path.join(SCHEMA)).map(named);
            }
            if path.join("VERSION").is_file() {
                return of_built(path);
            }
            return Err(Error::NoRelease { name: name.into(), reason: "the directory holds none" });
        }
        match name.parse() {
            Ok(version) => self.of_version(&version, None),
            Err(_) => {
                Err(Error::NoRelease { name: name.into(), reason: "it is no file, directory or version" })
            }
        }
    }

    fn of_crate(&self, manifest_path: Option<PathBuf>) -> Result<Named, Error> {
        let selection = Selection { manifest_path, package: self.package.clone() };
        let prepared = Prepared::new(&selection, &self.cargo)?;
        let library = prepared.compiler(&self.cargo, Purpose::Release).compile()?;
        let bytes = std::fs::read(&library);
        let bytes = bytes.map_err(|source| Error::Read { path: library.clone(), source })?;
        let facts = elf::read(&bytes, &prepared.triple);
        let facts = facts.map_err(|source| Error::Library { path: library.clone(), source })?;
        let found = schema::find(&prepared.project, &library, facts.abi, &prepared.triple)?;
        if let Some(warning) = &found.warning {
            ui::warning(warning);
        }
        Ok(Named { name: format!("the crate {}", prepared.project.name), schema: found.schema })
    }

    /// The version that `channel` of the repository names.
    ///
    /// # Errors
    /// The repository's.
    pub(super) fn of_channel(&self, channel: &str) -> Result<Named, Error> {
        let repository = self.repository.open()?;
        match block_on(async { Ok(repository.channel(channel).await?) })? {
            Pointer::Plain(version) => self.of_version(&version, None),
            Pointer::Signed { document, .. } => {
                self.of_version(&document.version, Some(&document.manifest_sha256))
            }
        }
    }

    /// `pinned` is the SHA-256 of the manifest, where a channel names it.
    fn of_version(&self, version: &Version, pinned: Option<&str>) -> Result<Named, Error> {
        let repository = self.repository.open()?;
        let place = temporary()?;
        let directory = block_on(previous::fetch_version(&repository, version, pinned, place.path()))?;
        Ok(Named { name: version.to_string(), schema: schema::read(&directory.join(SCHEMA))? })
    }
}

fn of_built(directory: &Path) -> Result<Named, Error> {
    let built = BuiltRelease::read(directory)?;
    let version = &built.manifest.version;
    let place = temporary()?;
    let unpacked = place.path().join(version.to_string());
    package::unpack(&built.package, place.path(), &unpacked, &built.manifest).map_err(|source| {
        Error::Fetched { version: version.clone(), directory: directory.into(), source: Box::new(source) }
    })?;
    Ok(Named { name: version.to_string(), schema: schema::read(&unpacked.join(SCHEMA))? })
}

fn temporary() -> Result<tempfile::TempDir, Error> {
    tempfile::tempdir().map_err(|source| Error::Write { path: std::env::temp_dir(), source })
}
