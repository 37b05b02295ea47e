//! The delta of a release that is being published: from the release that its channel names until then.

use relmgr_model::Version;
use relmgr_model::channel as channels;
use relmgr_model::manifest::Digest;

use super::{BuiltRelease, Fetch, Repository, RepositoryError};
use crate::delta;
use crate::package;
use crate::storage::{Condition, blocking, unseen};

impl Repository {
    /// Makes and uploads the delta from what the channel `name` names to `release`; `None`: there is nothing to start
    /// from, or the package is better.
    pub(super) async fn create_delta(
        &self,
        release: &BuiltRelease,
        name: &str,
    ) -> Result<Option<(Version, Digest)>, RepositoryError> {
        let version = &release.manifest.version;
        let Some(from) = self.named(name).await.filter(|from| from < version) else { return Ok(None) };
        let Ok(Some(verified)) = self.manifest(&from, None).await else { return Ok(None) };
        let base = verified.manifest;
        let local = |source| RepositoryError::Local { path: std::env::temp_dir(), what: "written", source };
        let work = tempfile::tempdir().map_err(local)?;
        // 1. Both releases, unpacked.
        let package_path = work.path().join("base.tar.gz");
        let fetch = Fetch {
            version: &from,
            expected: base.package.as_ref(),
            into: &package_path,
            progress: unseen(),
        };
        self.fetch_package(fetch).await?;
        let (ours, target, root) =
            (release.package.clone(), release.manifest.clone(), work.path().to_owned());
        let made = blocking(move || -> Result<Digest, RepositoryError> {
            let (base_root, target_root) = (root.join("base"), root.join("target"));
            package::unpack(&root.join("base.tar.gz"), &root, &base_root, &base)?;
            package::unpack(&ours, &root, &target_root, &target)?;
            // 2. What makes one of the other.
            Ok(delta::make(&base_root, &base, &target_root, &target, &root.join("delta"))?)
        });
        let digest = made.await?;
        let package_size = release.manifest.package.as_ref().map_or(0, |digest| digest.size);
        if !delta::worth(digest.size, package_size) {
            return Ok(None);
        }
        // 3. Under a name that only this pair has. One that is there is of a try that ended before its manifest.
        let key = format!("{from}_{version}.delta");
        let path = work.path().join("delta");
        self.storage.upload(&key, &path, &digest, &Condition::Any, unseen()).await?;
        Ok(Some((from, digest)))
    }

    /// What a channel names, as it lies there: a delta's base needs nobody's word but its own manifest's.
    async fn named(&self, name: &str) -> Option<Version> {
        if name.is_empty() || name == channels::DEFAULT {
            return self.version_file().await.ok();
        }
        let heads = self.heads().await.ok()?;
        heads.into_iter().find(|head| head.document.channel == name).map(|head| head.document.version)
    }
}
