//! Steps 2 to 6: everything before the release touches the host.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::Utc;
use relmgr_model::Version;
use relmgr_model::control::{Kind, Progress};
use relmgr_model::manifest::{Digest, Manifest};
use relmgr_model::plan::{Step, admit};
use relmgr_model::record::ReleaseRecord;
use relmgr_model::state::way;
use relmgr_model::status::Status;
use relmgr_store::delta::worth;
use relmgr_store::package;
use relmgr_store::repository::{Fetch, forget};

use super::super::node::Node;
use super::super::preflight::{PreflightError, try_release};
use super::OperationError;
use super::trial::Copy;
use super::walk::{Fetched, Walk};

/// A trial that takes longer hangs: opening a library takes milliseconds, an application's check asks for nothing
/// that takes longer than its start.
pub(super) const PREFLIGHT_SLACK: Duration = Duration::from_secs(5);

/// Progress of a download is told about this often.
const TELL_EVERY: u64 = 1024 * 1024;

impl Walk<'_> {
    pub(super) async fn fetch(&mut self, to: &Version) -> Result<Option<String>, OperationError> {
        let repository = &self.node.repository;
        if repository.trust().is_empty() && !self.node.settings.repository.allow_unsigned {
            return Err(OperationError::Unsigned { version: to.clone() });
        }
        self.may_go_to(to).await?;
        self.node.tree.make_directories()?;
        let pinned =
            self.pinned.as_ref().filter(|(version, _)| version == to).map(|(_, sha256)| sha256.as_str());
        let manifest = repository.manifest(to, pinned).await?.map(|verified| verified.manifest);
        if let Some(manifest) = &manifest {
            // Before a byte of the package is fetched; again in `verify` with what the package says.
            self.admit(manifest, to)?;
        }
        let fetched = match &manifest {
            Some(manifest) => self.fetch_delta(manifest).await,
            None => None,
        };
        let (fetched, size, kind) = match fetched {
            Some((fetched, size)) => (fetched, size, ", a delta"),
            None => {
                let expected = manifest.as_ref().and_then(|manifest| manifest.package.as_ref());
                let (path, size) = self.fetch_package(to, expected).await?;
                (Fetched::Package(path), size, "")
            }
        };
        self.package = Some(fetched);
        self.manifest = manifest;
        Ok(Some(format!("{size} bytes{kind}")))
    }

    async fn fetch_package(
        &self,
        to: &Version,
        expected: Option<&Digest>,
    ) -> Result<(PathBuf, u64), OperationError> {
        // Under the version's name, so that a try after an interruption goes on with it.
        let into = self.node.home.fetch().join(format!("{to}.tar.gz"));
        let fetch = Fetch { version: to, expected, into: &into, progress: self.progress() };
        let found = self.node.repository.fetch_package(fetch).await?;
        Ok((into, found.size))
    }

    /// Fetches what makes the release of an installed one; `None`: there is none, or it is not to be had.
    async fn fetch_delta(&self, manifest: &Manifest) -> Option<(Fetched, u64)> {
        let to = &manifest.version;
        let installed = self.node.tree.versions().ok()?;
        let package = manifest.package.as_ref()?.size;
        let better =
            |version: &&Version| manifest.deltas.get(version).is_some_and(|delta| worth(delta.size, package));
        // The release that serves is the one most surely whole.
        let base = self.from.iter().chain(installed.iter().rev()).find(better)?.clone();
        let into = self.node.home.fetch().join(format!("{base}_{to}.delta"));
        let expected = manifest.deltas.get(&base);
        let fetch = Fetch { version: to, expected, into: &into, progress: self.progress() };
        match self.node.repository.fetch_delta(&base, fetch).await {
            Ok(found) => Some((Fetched::Delta { base, path: into }, found.size)),
            Err(error) => {
                let error = OperationError::from(error).describe();
                self.warn(format!("the delta from {base} is not to be had, the package is fetched: {error}"));
                forget(&into);
                None
            }
        }
    }

    /// Tells of a transfer now and then.
    fn progress(&self) -> relmgr_store::storage::Progress {
        let (tell, told) = (self.listener(), AtomicU64::new(0));
        Arc::new(move |bytes, total| {
            let last = told.load(Ordering::Relaxed);
            if bytes >= last + TELL_EVERY || Some(bytes) == total {
                told.store(bytes, Ordering::Relaxed);
                let _ = tell.send(Progress::StepProgress { step: Step::Fetch, bytes, total });
            }
        })
    }

    pub(super) async fn verify(&mut self, to: &Version) -> Result<Option<String>, OperationError> {
        let manifest = match (self.manifest.take(), &self.package) {
            (Some(manifest), _) => manifest,
            // Published without a manifest beside it: the one inside serves.
            (None, Some(fetched)) => {
                let path = fetched.path().to_owned();
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
        admitted.map_err(|misfit| OperationError::Misfit { version: to.clone(), misfit })?;
        self.way_for_state(manifest, to).map(drop)
    }

    /// The schema version in which the state of the release that serves goes to that of `manifest`; `None`: it does
    /// not.
    fn way_for_state(&self, manifest: &Manifest, to: &Version) -> Result<Option<u32>, OperationError> {
        let switching = matches!(self.request.kind, Kind::Upgrade | Kind::Downgrade | Kind::Check);
        let Some(from) =
            self.from.as_ref().filter(|from| switching && !self.request.lose_state && *from != to)
        else {
            return Ok(None);
        };
        let serving = self.node.tree.manifest(from)?;
        way(serving.state.as_ref(), manifest.state.as_ref()).map_err(|no_way| OperationError::NoWayForState {
            command: match self.request.kind {
                Kind::Check => Kind::Upgrade.name(),
                kind => kind.name(),
            },
            from: from.clone(),
            to: to.clone(),
            no_way,
        })
    }

    pub(super) async fn unpack(&mut self, to: &Version) -> Result<Option<String>, OperationError> {
        let (Some(fetched), Some(manifest)) = (self.package.take(), self.manifest.clone()) else {
            return Ok(None);
        };
        let package = match fetched {
            Fetched::Package(path) => path,
            Fetched::Delta { base, path } => match self.install_delta(to, &base, path, &manifest).await {
                Ok(()) => {
                    self.record_unpacked(to)?;
                    return Ok(Some(format!("from {base}")));
                }
                Err(error) => {
                    let error = error.describe();
                    self.warn(format!("the delta does not serve, the package is fetched: {error}"));
                    self.fetch_package(to, manifest.package.as_ref()).await?.0
                }
            },
        };
        let (tree, version) = (self.node.tree.clone(), to.clone());
        let installed = blocking(move || {
            let installed = tree.install(&version, &package, &manifest);
            // Installed or refused, it is of no use any more.
            forget(&package);
            Ok(installed?)
        });
        installed.await?;
        self.record_unpacked(to)?;
        Ok(None)
    }

    async fn install_delta(
        &self,
        to: &Version,
        base: &Version,
        delta: PathBuf,
        manifest: &Manifest,
    ) -> Result<(), OperationError> {
        let (tree, to, base, manifest) = (self.node.tree.clone(), to.clone(), base.clone(), manifest.clone());
        blocking(move || {
            let installed = tree.install_delta(&to, &base, &delta, &manifest);
            forget(&delta);
            Ok(installed?)
        })
        .await
    }

    fn record_unpacked(&self, to: &Version) -> Result<(), OperationError> {
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
        Ok(())
    }

    pub(super) async fn preflight(&mut self, to: &Version) -> Result<Option<String>, OperationError> {
        let library = self.library(to)?;
        let settings = self.effective.as_ref().map(relmgr_conf::Effective::to_json).unwrap_or_default();
        let deadline = self.node.settings.upgrade.start + PREFLIGHT_SLACK;
        let copy = self.copy_state(to).await?;
        let state = copy.as_ref().and_then(|copy| copy.to_read());
        let state = state.as_ref().map(|(path, schema)| (path.as_path(), *schema));
        let limits = self.node.settings.preflight.with_state(copy.as_ref().map_or(0, Copy::bytes));
        let tried = try_release(&library, &settings, state, &limits, deadline).await;
        self.forget_copy(copy.as_ref()).await;
        let redact = |error: PreflightError| self.effective.iter().fold(error, PreflightError::redacted);
        let said =
            tried.map_err(|error| OperationError::Preflight { version: to.clone(), error: redact(error) })?;
        Ok(copy.map(|copy| copy.describe(&said)))
    }

    /// The release's library, absolute: the dynamic linker knows a library by this path.
    pub(super) fn library(&self, to: &Version) -> Result<PathBuf, OperationError> {
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
