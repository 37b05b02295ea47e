//! A repository in a directory: `file:///dir`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use relmgr_model::Version;
use relmgr_model::manifest::{self, Digest, Manifest};

use super::{BuiltRelease, POINTER_BYTES, Published, PublishedRelease, RepositoryError};
use crate::atomic;
use crate::digest::{self, CHUNK, Hasher};

/// A repository in a directory.
#[derive(Debug, Clone)]
pub(super) struct Directory {
    root: PathBuf,
    url: String,
}

impl Directory {
    pub(super) fn new(root: &str, url: &str) -> Self {
        Self { root: root.into(), url: url.into() }
    }

    fn package(&self, version: &Version) -> PathBuf {
        self.root.join(format!("{version}.tar.gz"))
    }

    fn manifest_path(&self, version: &Version) -> PathBuf {
        self.root.join(format!("{version}.toml"))
    }

    fn pointer(name: &str) -> String {
        if name.is_empty() { "VERSION".into() } else { format!("channels/{name}") }
    }

    /// A missing file in a repository that is missing altogether is the repository's fault.
    fn missing_or(&self, other: RepositoryError) -> RepositoryError {
        if self.root.is_dir() { other } else { RepositoryError::Missing { path: self.root.clone() } }
    }

    /// At most `limit` bytes; `None`: there is no such file.
    fn read(&self, path: &Path, limit: u64) -> Result<Option<Vec<u8>>, RepositoryError> {
        let failed = |source| RepositoryError::Io { path: path.to_owned(), what: "read", source };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
        Ok(Some(bytes))
    }

    pub(super) fn channel(&self, name: &str) -> Result<Version, RepositoryError> {
        let channel = Self::pointer(name);
        let url = self.url.clone();
        let Some(bytes) = self.read(&self.root.join(&channel), POINTER_BYTES)? else {
            return Err(self.missing_or(RepositoryError::NoChannel { channel, url }));
        };
        if bytes.len() as u64 > POINTER_BYTES {
            return Err(RepositoryError::PointerSize { channel, url });
        }
        // What people's editors and scripts add around a version is white space and a byte order mark.
        let text = String::from_utf8_lossy(&bytes);
        let text = text.trim_start_matches('\u{feff}').trim();
        text.parse().map_err(|source| RepositoryError::Pointer { channel, url, source })
    }

    pub(super) fn manifest(&self, version: &Version) -> Result<Option<Manifest>, RepositoryError> {
        let (of, url) = (version.clone(), self.url.clone());
        let Some(bytes) = self.read(&self.manifest_path(version), manifest::MAX_BYTES)? else {
            return match self.package(version).is_file() {
                true => Ok(None),
                false => Err(self.missing_or(RepositoryError::NoRelease { version: of, url })),
            };
        };
        if bytes.len() as u64 > manifest::MAX_BYTES {
            return Err(RepositoryError::ManifestSize { version: of, url });
        }
        let parsed = Manifest::parse(&String::from_utf8_lossy(&bytes));
        parsed.map(Some).map_err(|source| RepositoryError::Manifest { version: of, url, source })
    }

    pub(super) fn fetch(
        &self,
        version: &Version,
        expected: Option<&Digest>,
        limit: u64,
        into: &Path,
        progress: impl FnMut(u64, Option<u64>),
    ) -> Result<Digest, RepositoryError> {
        let path = self.package(version);
        let file = File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => self
                .missing_or(RepositoryError::NoRelease { version: version.clone(), url: self.url.clone() }),
            _ => RepositoryError::Io { path: path.clone(), what: "read", source },
        })?;
        let total =
            expected.map(|digest| digest.size).or_else(|| file.metadata().ok().map(|data| data.len()));
        let limit = expected.map_or(limit, |digest| digest.size);
        let copied = Copy { from: &path, into, version, limit, total }.run(file, progress);
        let checked = copied.and_then(|found| check(version, found, expected));
        if checked.is_err() {
            // It was cut, too long or another one: of no use for a second try.
            let _ = std::fs::remove_file(into);
        }
        checked
    }

    pub(super) fn list(&self) -> Result<Vec<PublishedRelease>, RepositoryError> {
        let failed = |source| RepositoryError::Io { path: self.root.clone(), what: "read", source };
        let current = match self.channel("") {
            Ok(version) => Some(version),
            Err(RepositoryError::Missing { path }) => return Err(RepositoryError::Missing { path }),
            // A broken pointer is no reason not to show what is there.
            Err(_) => None,
        };
        let mut releases = vec![];
        for entry in std::fs::read_dir(&self.root).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let version = name.to_str().and_then(|name| name.strip_suffix(".tar.gz"));
            let Some(version) = version.and_then(|text| text.parse::<Version>().ok()) else { continue };
            releases.push(PublishedRelease {
                size: entry.metadata().map_err(failed)?.len(),
                manifest: self.manifest(&version).ok().flatten(),
                current: current.as_ref() == Some(&version),
                version,
            });
        }
        releases.sort_by(|a, b| b.version.cmp(&a.version));
        Ok(releases)
    }

    pub(super) fn publish(
        &self,
        release: &BuiltRelease,
        set_channel: bool,
    ) -> Result<Published, RepositoryError> {
        if !self.root.is_dir() {
            return Err(RepositoryError::Missing { path: self.root.clone() });
        }
        let version = &release.manifest.version;
        // One publisher at a time, where the file system knows locks; each step is safe without it.
        let _lock = self.lock()?;
        // 1. The package, never over another one.
        let package_written = self.create(version, &release.package, &self.package(version))?;
        // 2. The manifest.
        self.create(version, &release.manifest_path, &self.manifest_path(version))?;
        if !set_channel {
            return Ok(Published { version: version.clone(), package_written, channel_set: false });
        }
        match self.channel("") {
            Ok(found) if found > *version => {
                let channel = Self::pointer("");
                return Err(RepositoryError::PointerMoved { channel, found, version: version.clone() });
            }
            // A pointer that is missing or broken is what this repairs.
            _ => {}
        }
        // 3. The same package under the name that people's scripts fetch.
        let latest = self.root.join("latest.tar.gz");
        self.replace(&release.package, &latest)?;
        // 4. The pointer, last.
        let pointer = self.root.join(Self::pointer(""));
        let written = atomic::write(&pointer, format!("{version}\n").as_bytes(), 0o644);
        written.map_err(|source| RepositoryError::Io { path: pointer, what: "written", source })?;
        Ok(Published { version: version.clone(), package_written, channel_set: true })
    }

    fn lock(&self) -> Result<Flock<File>, RepositoryError> {
        let path = self.root.join(".lock");
        let failed = |source| RepositoryError::Io { path: path.clone(), what: "written", source };
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| failed(errno.into()))
    }

    /// Copies `from` to the new file `to`. False: the same bytes were there already.
    fn create(&self, version: &Version, from: &Path, to: &Path) -> Result<bool, RepositoryError> {
        let failed = |source| RepositoryError::Io { path: to.to_owned(), what: "written", source };
        let temporary = self.copy_to_temporary(from).map_err(failed)?;
        // Fails where there is a file of that name, however it came there in the meantime.
        match temporary.persist_noclobber(to) {
            Ok(_) => {
                atomic::sync_dir(&self.root).map_err(failed)?;
                Ok(true)
            }
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => {
                let same = digest::of_file(from).map_err(failed)? == digest::of_file(to).map_err(failed)?;
                if same { Ok(false) } else { Err(RepositoryError::Immutable { version: version.clone() }) }
            }
            Err(error) => Err(failed(error.error)),
        }
    }

    fn replace(&self, from: &Path, to: &Path) -> Result<(), RepositoryError> {
        let failed = |source| RepositoryError::Io { path: to.to_owned(), what: "written", source };
        let temporary = self.copy_to_temporary(from).map_err(failed)?;
        temporary.persist(to).map_err(|error| failed(error.error))?;
        atomic::sync_dir(&self.root).map_err(failed)
    }

    fn copy_to_temporary(&self, from: &Path) -> io::Result<tempfile::NamedTempFile> {
        use std::os::unix::fs::PermissionsExt;

        let mut temporary = tempfile::Builder::new().prefix(atomic::TEMPORARY).tempfile_in(&self.root)?;
        io::copy(&mut File::open(from)?, temporary.as_file_mut())?;
        temporary.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        temporary.as_file().sync_all()?;
        Ok(temporary)
    }
}

/// One download.
struct Copy<'a> {
    from: &'a Path,
    into: &'a Path,
    version: &'a Version,
    limit: u64,
    total: Option<u64>,
}

impl Copy<'_> {
    /// Copies until the end or past the limit, whichever comes first.
    fn run(
        &self,
        mut file: File,
        mut progress: impl FnMut(u64, Option<u64>),
    ) -> Result<Digest, RepositoryError> {
        let local = |source| RepositoryError::Local { path: self.into.to_owned(), source };
        let mut out = File::create(self.into).map_err(local)?;
        let mut hasher = Hasher::default();
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = file.read(&mut chunk);
            let len = read.map_err(|source| RepositoryError::Io {
                path: self.from.to_owned(),
                what: "read",
                source,
            })?;
            if len == 0 {
                return Ok(hasher.finish());
            }
            hasher.update(&chunk[..len]);
            if hasher.size() > self.limit {
                return Err(RepositoryError::Oversized { version: self.version.clone(), limit: self.limit });
            }
            out.write_all(&chunk[..len]).map_err(local)?;
            progress(hasher.size(), self.total);
        }
    }
}

fn check(version: &Version, found: Digest, expected: Option<&Digest>) -> Result<Digest, RepositoryError> {
    let version = version.clone();
    match expected {
        Some(expected) if found.size < expected.size => {
            Err(RepositoryError::Truncated { version, found: found.size, expected: expected.size })
        }
        Some(expected) if found.sha256 != expected.sha256 => Err(RepositoryError::Corrupted { version }),
        _ => Ok(found),
    }
}
