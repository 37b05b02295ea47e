//! The home of the development's node: its settings, made anew at each start, and a repository of its own.
//!
//! ```text
//! relmgr.toml    of node/relmgr.toml beside Cargo.toml, where there is one, with what development needs
//! app.conf       a link to node/app.conf beside Cargo.toml, where there is one
//! packages/      the release that was built last
//! symbols/       libraries with all that debuggers read, which releases are without
//! …              as in any node's home
//! ```

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use relmgr_model::Version;
use relmgr_model::home::Home;
use relmgr_model::manifest::Manifest;
use relmgr_model::settings::{LogFormat, Settings};
use relmgr_store::{atomic, package};

use crate::build::project::Project;
use crate::error::Error;

/// How the settings of a node begin that is ours to set up.
const OURS: &str = "# Written by `cargo relmgr dev` at each start";

/// Where its releases are published.
const PACKAGES: &str = "packages";

/// Locked for as long as it runs.
const LOCK: &str = "dev.lock";

/// What streams to a client may go on for so long in the old code: whoever develops waits for it with the next save.
const DRAIN: Duration = Duration::from_millis(500);

/// Releases that stay installed: the one before may be asked for by `relmgr downgrade`.
const KEPT: usize = 2;

/// A Unix socket's path is no longer than this.
const SOCKET: usize = 107;

/// The home, which is nobody else's while this lives.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) home: Home,
    /// Where releases are put for the node.
    pub(super) packages: PathBuf,
    /// Where whole libraries are kept.
    pub(super) symbols: PathBuf,
    /// The node that the package brings along for trying things out.
    pub(super) example: PathBuf,
    _lock: File,
}

impl Place {
    /// Sets up the home at `path`, or below the target directory, for `project`.
    ///
    /// # Errors
    /// Somebody else's home, another `cargo relmgr dev`, settings that cannot be used, the system's.
    pub(super) fn new(
        path: Option<&Path>,
        project: &Project,
        target: &Path,
        listen: &[SocketAddr],
    ) -> Result<Self, Error> {
        let path = path.map_or_else(|| target.join("relmgr-dev").join(&project.name), Path::to_owned);
        let path = std::path::absolute(&path).map_err(|source| Error::Read { path, source })?;
        let home = Home::new(&path);
        if home.control_socket().as_os_str().len() > SOCKET {
            return Err(Error::LongHome { path });
        }
        let settings_path = home.settings();
        if !is_ours(&path, &settings_path) {
            return Err(Error::ForeignHome { path });
        }
        let packages = path.join(PACKAGES);
        std::fs::create_dir_all(&packages).map_err(written(&packages))?;
        let lock = lock(&path)?;

        let example = project.directory.join("node");
        let settings = settings(project, &example, &packages, listen)?;
        let text = toml::to_string(&settings)
            .unwrap_or_else(|error| unreachable!("settings that were read can be written: {error}"));
        let text = format!("{OURS}: changes belong into {}.\n{text}", example.join("relmgr.toml").display());
        atomic::write(&settings_path, text.as_bytes(), 0o644).map_err(written(&settings_path))?;
        link(&example.join("app.conf"), &home.app_conf())?;
        let symbols = path.join("symbols");
        Ok(Self { home, packages, symbols, example, _lock: lock })
    }

    /// The newest version that was built for the node.
    pub(super) fn newest(&self) -> Option<Version> {
        let names = |directory: &Path| {
            let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect::<Vec<_>>()
        };
        let built = names(&self.packages);
        let built = built.iter().filter_map(|name| name.strip_suffix(".toml")).map(str::to_owned);
        let versions = built.chain(names(&self.home.releases()));
        versions.filter_map(|name| name.parse().ok()).max()
    }

    /// The manifest of the release that serves.
    pub(super) fn serving(&self) -> Option<Manifest> {
        let text = std::fs::read_to_string(self.home.current().join(package::MANIFEST)).ok()?;
        Manifest::parse(&text).ok()
    }
}

fn written(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Write { path, source }
}

/// Whether a home was made by `cargo relmgr dev`, or is to be: packages and releases that it does not know are removed
/// from it.
fn is_ours(home: &Path, settings: &Path) -> bool {
    match std::fs::read_to_string(settings) {
        Ok(text) => text.starts_with(OURS),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // Nothing, or what a first start of ours leaves that was interrupted.
            let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
            entries(home).all(|entry| {
                let name = entry.file_name();
                name == LOCK || (name == PACKAGES && entries(&entry.path()).next().is_none())
            })
        }
        Err(_) => false,
    }
}

fn lock(home: &Path) -> Result<File, Error> {
    let path = home.join(LOCK);
    let file = File::options().create(true).append(true).open(&path).map_err(written(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::DevRuns { home: home.into() }),
        Err(TryLockError::Error(source)) => Err(Error::Write { path, source }),
    }
}

/// The settings in `example` as far as they say how the application is served, and what development needs.
fn settings(
    project: &Project,
    example: &Path,
    packages: &Path,
    listen: &[SocketAddr],
) -> Result<Settings, Error> {
    let path = example.join("relmgr.toml");
    let minimal = || format!("app = \"{}\"\n[repository]\nurl = \"file:///\"\n", project.name);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => minimal(),
        Err(source) => return Err(Error::Read { path, source }),
    };
    let parsed = |text: &str| {
        let settings = Settings::parse(text);
        settings.map_err(|source| Error::NodeSettings { path: path.clone(), source: Box::new(source) })
    };
    let (mut settings, plain) = (parsed(&text)?, parsed(&minimal())?);
    settings.app.clone_from(&project.name);
    // What is served, not for whom: no certificates, no other machines that are told or asked.
    (settings.listen.https, settings.listen.admin, settings.tls) = (vec![], None, vec![]);
    (settings.pull, settings.hooks, settings.webhooks) = (plain.pull, plain.hooks, plain.webhooks);
    if !listen.is_empty() {
        settings.listen.http = listen.to_owned();
    } else if settings.listen.http.is_empty() {
        settings.listen.http = plain.listen.http;
    }
    settings.log.format = LogFormat::Text;
    settings.repository = plain.repository;
    settings.repository.url = format!("file://{}", packages.display());
    settings.repository.allow_unsigned = true;
    settings.upgrade.probation = Duration::ZERO;
    settings.upgrade.drain = DRAIN;
    settings.upgrade.keep_releases = KEPT;
    Ok(settings)
}

/// Has the node read the package's own `app.conf`; one that stands in the home itself stays.
fn link(target: &Path, link: &Path) -> Result<(), Error> {
    let ours = link.symlink_metadata().is_ok_and(|data| data.is_symlink());
    let done = match (target.exists(), ours || !link.exists()) {
        (true, true) => atomic::symlink(target, link),
        (false, true) => atomic::remove(link),
        (_, false) => Ok(()),
    };
    done.map_err(written(link))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> (tempfile::TempDir, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        let settings = place.path().join("relmgr.toml");
        (place, settings)
    }

    #[test]
    fn a_home_is_ours_by_its_settings_alone() {
        let (place, settings) = home();
        std::fs::create_dir_all(place.path().join("releases/1.0.0")).unwrap();
        std::fs::write(&settings, format!("{OURS}: changes belong elsewhere.\napp = \"a\"\n")).unwrap();
        assert!(is_ours(place.path(), &settings));
        for foreign in ["", "app = \"a\"\n", &format!("\n{OURS}\n"), &OURS[..OURS.len() - 1]] {
            std::fs::write(&settings, foreign).unwrap();
            assert!(!is_ours(place.path(), &settings), "{foreign:?}");
        }
        // What cannot be read is nobody's to take.
        std::fs::remove_file(&settings).unwrap();
        std::fs::create_dir(&settings).unwrap();
        assert!(!is_ours(place.path(), &settings));
    }

    #[test]
    fn without_settings_a_home_is_ours_that_holds_nothing_or_what_our_first_start_leaves() {
        let (place, settings) = home();
        assert!(is_ours(&place.path().join("not-there"), &settings));
        assert!(is_ours(place.path(), &settings), "nothing");
        std::fs::create_dir(place.path().join(PACKAGES)).unwrap();
        std::fs::write(place.path().join(LOCK), "").unwrap();
        assert!(is_ours(place.path(), &settings), "killed between the lock and the settings");
        let package = place.path().join(PACKAGES).join("1.0.0.tar.gz");
        std::fs::write(&package, "").unwrap();
        assert!(!is_ours(place.path(), &settings), "somebody's packages");
        std::fs::remove_file(package).unwrap();
        std::fs::write(place.path().join("notes.txt"), "").unwrap();
        assert!(!is_ours(place.path(), &settings), "somebody's notes");
    }
}
