//! Which package becomes a release, and what it asks for.

use std::path::{Path, PathBuf};

use cargo_metadata::{CargoOpt, CrateType, Metadata, MetadataCommand, Package, PackageId, TargetKind};
use relmgr_model::manifest::Probe;
use semver::VersionReq;
use serde::Deserialize;

use crate::build::compile::CargoOptions;
use crate::build::toolchain::Toolchain;
use crate::error::Error;

/// `[package.metadata.relmgr]` in a package's Cargo.toml. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ReleaseSettings {
    /// The application's name; by default the package's.
    pub(crate) name: Option<String>,
    /// Requests that a candidate must answer before it gets traffic.
    pub(crate) probes: Vec<Probe>,
    /// Which versions may be upgraded to the release.
    pub(crate) upgrade_from: Option<VersionReq>,
    /// Files and directories beside Cargo.toml that travel under `priv/`, as those in `priv/` itself do.
    pub(crate) assets: Vec<String>,
}

/// The package that becomes a release.
#[derive(Debug)]
pub(crate) struct Project {
    /// The application's name.
    pub(crate) name: String,
    /// cargo's name for the package.
    pub(crate) package: PackageId,
    /// Name of the library target.
    pub(crate) library: String,
    /// The directory of its Cargo.toml.
    pub(crate) directory: PathBuf,
    /// What it asks for.
    pub(crate) settings: ReleaseSettings,
    /// The whole workspace, its dependencies resolved.
    pub(crate) metadata: Metadata,
}

/// Where to look for the package.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    /// A Cargo.toml; by default the nearest one above the working directory.
    pub(crate) manifest_path: Option<PathBuf>,
    /// One package of its workspace.
    pub(crate) package: Option<String>,
}

impl Project {
    /// Finds the package, and its dependencies for `target`.
    ///
    /// # Errors
    /// cargo's own, no package or several to choose from, no library that can be loaded, bad settings.
    pub(crate) fn find(selection: &Selection, options: &CargoOptions, target: &str) -> Result<Self, Error> {
        let metadata = metadata(selection, options, target)?;
        let package = choose(&metadata, selection.package.as_deref())?.clone();
        let directory = package.manifest_path.parent().map(PathBuf::from).unwrap_or_default();
        let library = library(&package)?.to_owned();
        let settings = settings(&package)?;
        let name = settings.name.clone().unwrap_or_else(|| package.name.to_string());
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            return Err(Error::Name { name, manifest: package.manifest_path.into() });
        }
        Ok(Self { name, package: package.id, library, directory, settings, metadata })
    }

    /// The directory of the workspace's Cargo.toml.
    pub(crate) fn workspace_root(&self) -> &Path {
        self.metadata.workspace_root.as_std_path()
    }
}

/// The directory in which cargo is asked about a manifest, absolute.
pub(crate) fn directory_of(manifest_path: Option<&Path>) -> Result<PathBuf, Error> {
    let parent = manifest_path.and_then(Path::parent).filter(|parent| !parent.as_os_str().is_empty());
    let directory = parent.unwrap_or(Path::new("."));
    directory.canonicalize().map_err(|source| Error::Read { path: directory.into(), source })
}

fn metadata(selection: &Selection, options: &CargoOptions, target: &str) -> Result<Metadata, Error> {
    let directory = directory_of(selection.manifest_path.as_deref())?;
    let toolchain = Toolchain::new(directory);
    let mut command = MetadataCommand::new();
    command.cargo_path(toolchain.cargo_program()).current_dir(toolchain.directory());
    if toolchain.forgets_rustup_toolchain() {
        command.env_remove("RUSTUP_TOOLCHAIN");
    }
    if let Some(name) = selection.manifest_path.as_deref().and_then(Path::file_name) {
        command.manifest_path(toolchain.directory().join(name));
    }
    if !options.features.is_empty() {
        command.features(CargoOpt::SomeFeatures(options.features.clone()));
    }
    if options.no_default_features {
        command.features(CargoOpt::NoDefaultFeatures);
    }
    if options.all_features {
        command.features(CargoOpt::AllFeatures);
    }
    let mut others = vec!["--filter-platform".to_owned(), target.to_owned()];
    others.extend(options.lock_flags());
    command.other_options(others);
    command.exec().map_err(|source| Error::Metadata { source: Box::new(source) })
}

/// The package that was named, the one whose Cargo.toml it is, or the only one with a library to load.
fn choose<'a>(metadata: &'a Metadata, name: Option<&str>) -> Result<&'a Package, Error> {
    let members = metadata.workspace_packages();
    let names = |packages: &[&Package]| packages.iter().map(|package| package.name.to_string()).collect();
    if let Some(name) = name {
        let found = members.iter().find(|package| package.name == name);
        return found
            .copied()
            .ok_or_else(|| Error::NoPackage { name: name.into(), members: names(&members) });
    }
    if let Some(root) = metadata.root_package() {
        return Ok(root);
    }
    let loadable: Vec<_> = members.iter().copied().filter(|package| library(package).is_ok()).collect();
    match loadable.as_slice() {
        [only] => Ok(only),
        [] => Err(Error::NoPackages { workspace: metadata.workspace_root.clone().into() }),
        several => Err(Error::SeveralPackages { packages: names(several) }),
    }
}

/// The name of the package's library target, which has to be a cdylib.
fn library(package: &Package) -> Result<&str, Error> {
    let manifest = || PathBuf::from(&package.manifest_path);
    let is_library = |kinds: &[TargetKind]| {
        kinds.iter().any(|kind| {
            matches!(
                kind,
                TargetKind::Lib
                    | TargetKind::RLib
                    | TargetKind::DyLib
                    | TargetKind::CDyLib
                    | TargetKind::StaticLib
            )
        })
    };
    let target = package.targets.iter().find(|target| is_library(&target.kind));
    let target = target.ok_or_else(|| Error::NoLibrary { manifest: manifest() })?;
    match target.crate_types.contains(&CrateType::CDyLib) {
        true => Ok(&target.name),
        false => Err(Error::NoCdylib { manifest: manifest() }),
    }
}

fn settings(package: &Package) -> Result<ReleaseSettings, Error> {
    let value = package.metadata.get("relmgr").cloned().unwrap_or_else(|| serde_json::json!({}));
    serde_json::from_value(value)
        .map_err(|source| Error::Settings { manifest: package.manifest_path.clone().into(), source })
}
