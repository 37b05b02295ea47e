//! Steps 2 to 6: everything before the release touches the host.

use std::time::Duration;

use chrono::Utc;
use relmgr_model::Version;
use relmgr_model::control::{Kind, Progress};
use relmgr_model::manifest::Manifest;
use relmgr_model::plan::{Step, admit};
use relmgr_model::record::ReleaseRecord;
use relmgr_model::status::Status;
use relmgr_store::package;

use super::super::node::Node;
use super::super::preflight::try_release;
use super::OperationError;
use super::walk::Walk;

/// The largest package that is fetched where no manifest beside it says a size.
const PACKAGE_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// A trial that takes longer hangs: opening a library takes milliseconds, an application's check asks for nothing
/// that takes longer than its start.
const PREFLIGHT_SLACK: Duration = Duration::from_secs(5);

/// Progress of a download is told about this often.
const TELL_EVERY: u64 = 1024 * 1024;

impl Walk<'_> {
    pub(super) async fn fetch(&mut self, to: &Version) -> Result<Option<String>, OperationError> {
        let manifest = self.node.repository.manifest(to).await?;
        if !self.node.settings.repository.allow_unsigned {
            return Err(OperationError::Unsigned { version: to.clone() });
        }
        if let Some(manifest) = &manifest {
            // Before a byte of the package is fetched; again in `verify` with what the package says.
            self.admit(manifest, to)?;
        }
        let staging = self.node.home.staging();
        let file = tempfile::Builder::new().prefix("fetch-").tempfile_in(&staging);
        let path = file.map_err(|source| OperationError::Io { path: staging, what: "written", source })?;
        let path = path.into_temp_path();
        let expected = manifest.as_ref().and_then(|manifest| manifest.package.clone());
        let tell = self.listener();
        let mut told = 0;
        let progress = move |bytes, total| {
            if bytes >= told + TELL_EVERY {
                told = bytes;
                let _ = tell.send(Progress::StepProgress { step: Step::Fetch, bytes, total });
            }
        };
        let fetched =
            self.node.repository.fetch_package(to, expected.as_ref(), PACKAGE_BYTES, &path, progress).await?;
        self.package = Some(path);
        self.manifest = manifest;
        Ok(Some(format!("{} bytes", fetched.size)))
    }

    pub(super) async fn verify(&mut self, to: &Version) -> Result<Option<String>, OperationError> {
        let manifest = match (self.manifest.take(), &self.package) {
            (Some(manifest), _) => manifest,
            // Published without a manifest beside it: the one inside serves.
            (None, Some(package)) => {
                let path = package.to_path_buf();
                blocking(move || Ok(package::read_manifest(&path)?)).await?
            }
            // Installed before: what lies on disk must still be what was installed.
            (None, None) => verify_installed(self.node, to).await?,
        };
        self.admit(&manifest, to)?;
        let files = manifest.files.len();
        self.manifest = Some(manifest);
        Ok(Some(format!("{files} files")))
    }

    fn admit(&self, manifest: &Manifest, to: &Version) -> Result<(), OperationError> {
        let upgrading = matches!(self.request.kind, Kind::Upgrade | Kind::Check);
        let from = self.from.as_ref().filter(|from| upgrading && *from < to);
        let admitted = admit(manifest, to, &self.node.machine, from);
        admitted.map_err(|misfit| OperationError::Misfit { version: to.clone(), misfit })
    }

    pub(super) async fn unpack(&mut self, to: &Version) -> Result<Option<String>, OperationError> {
        let (Some(package), Some(manifest)) = (self.package.take(), self.manifest.clone()) else {
            return Ok(None);
        };
        let (tree, version) = (self.node.tree.clone(), to.clone());
        blocking(move || {
            tree.install(&version, &package, &manifest)?;
            Ok(())
        })
        .await?;
        let now = Utc::now();
        let release = ReleaseRecord { status: Status::Unpacked, installed_at: now, since: now };
        let recorded = self.node.change_record(|record| {
            record.releases.insert(to.clone(), release);
        });
        if let Err(error) = recorded {
            // What is not recorded is not installed.
            self.node.tree.remove(to)?;
            return Err(error.into());
        }
        Ok(None)
    }

    pub(super) async fn preflight(&mut self, to: &Version) -> Result<Option<String>, OperationError> {
        let library = self.library(to)?;
        let settings = self.effective.as_ref().map(relmgr_conf::Effective::to_json).unwrap_or_default();
        let deadline = self.node.settings.upgrade.start + PREFLIGHT_SLACK;
        let tried = try_release(&library, &settings, &self.node.settings.preflight, deadline).await;
        tried.map_err(|error| OperationError::Preflight { version: to.clone(), error })?;
        Ok(None)
    }

    /// The release's library, absolute: the dynamic linker knows a library by this path.
    pub(super) fn library(&self, to: &Version) -> Result<std::path::PathBuf, OperationError> {
        let manifest = match &self.manifest {
            Some(manifest) => manifest.clone(),
            None => self.node.tree.manifest(to)?,
        };
        let path = self.node.home.release(to).join(&manifest.library);
        std::path::absolute(&path).map_err(|source| OperationError::Io { path, what: "read", source })
    }
}

/// Reads every file of an installed release and compares it with its manifest.
///
/// # Errors
/// [`OperationError::Tree`] with the file that differs.
pub async fn verify_installed(node: &Node, version: &Version) -> Result<Manifest, OperationError> {
    let (tree, version) = (node.tree.clone(), version.clone());
    blocking(move || Ok(tree.verify(&version)?)).await
}

/// Runs work that waits for the disk where it holds up nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OperationError> + Send + 'static,
) -> Result<T, OperationError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(OperationError::Cut(error.to_string())),
    }
}
