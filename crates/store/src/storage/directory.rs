//! Objects in a directory: `file:///dir`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use nix::fcntl::{Flock, FlockArg};
use relmgr_model::manifest::Digest;

use super::{Condition, Download, Entry, Meta, Object, Progress, Result, StorageError, Tag};
use crate::atomic;
use crate::digest::{self, CHUNK, Hasher};

/// Objects in a directory.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    root: PathBuf,
}

impl Directory {
    pub(super) fn new(root: &str) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    fn io(&self, key: &str, what: &'static str) -> impl FnOnce(io::Error) -> StorageError + use<> {
        let path = self.path(key);
        move |source| StorageError::Io { path, what, source }
    }

    fn url(&self) -> String {
        format!("file://{}", self.root.display())
    }

    /// A missing file in a repository that is missing altogether is the repository's fault.
    fn is_there(&self) -> Result<()> {
        if self.root.is_dir() { Ok(()) } else { Err(StorageError::Missing { path: self.root.clone() }) }
    }

    fn open(&self, key: &str) -> Result<Option<File>> {
        match File::open(self.path(key)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.is_there().map(|()| None),
            Err(error) => Err(self.io(key, "read")(error)),
        }
    }

    pub(super) fn read(&self, key: &str, limit: u64) -> Result<Option<Object>> {
        let Some(file) = self.open(key)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).map_err(self.io(key, "read"))?;
        if bytes.len() as u64 > limit {
            return Err(StorageError::TooLarge { key: key.into(), url: self.url(), limit });
        }
        let tag = Tag(digest::of_bytes(&bytes).sha256);
        Ok(Some(Object { bytes, tag }))
    }

    pub(super) fn meta(&self, key: &str) -> Result<Option<Meta>> {
        let Some(file) = self.open(key)? else { return Ok(None) };
        let data = file.metadata().map_err(self.io(key, "read"))?;
        let tag = Tag(format!("{}-{:?}", data.len(), data.modified().ok()));
        Ok(Some(Meta { size: data.len(), tag, sha256: None }))
    }

    pub(super) fn write(&self, key: &str, bytes: &[u8], condition: &Condition) -> Result<()> {
        self.place(key, condition, |file| file.write_all(bytes))
    }

    pub(super) fn upload(
        &self,
        key: &str,
        from: &Path,
        condition: &Condition,
        progress: &Progress,
    ) -> Result<()> {
        let local = |source| StorageError::Local { path: from.to_owned(), what: "read", source };
        let mut source = File::open(from).map_err(local)?;
        let total = source.metadata().map_err(local)?.len();
        self.place(key, condition, |file| {
            let mut chunk = vec![0; CHUNK];
            let mut done = 0;
            loop {
                let len = source.read(&mut chunk)?;
                if len == 0 {
                    return Ok(());
                }
                file.write_all(&chunk[..len])?;
                done += len as u64;
                progress(done, Some(total));
            }
        })
    }

    pub(super) fn copy(&self, from: &str, to: &str) -> Result<()> {
        let mut source = self.open(from)?.ok_or_else(|| self.absent(from))?;
        self.place(to, &Condition::Any, |file| io::copy(&mut source, file).map(drop))
    }

    fn absent(&self, key: &str) -> StorageError {
        StorageError::Absent { key: key.into(), url: self.url() }
    }

    /// Fills a temporary file and gives it its name: at once, whole, and only if `condition` holds.
    fn place(
        &self,
        key: &str,
        condition: &Condition,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;

        self.is_there()?;
        let path = self.path(key);
        let directory = atomic::parent(&path);
        std::fs::create_dir_all(directory).map_err(self.io(key, "written"))?;
        let fill_temporary = || {
            let mut temporary = tempfile::Builder::new().prefix(atomic::TEMPORARY).tempfile_in(directory)?;
            fill(temporary.as_file_mut())?;
            temporary.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
            temporary.as_file().sync_all()?;
            Ok(temporary)
        };
        let temporary = fill_temporary().map_err(self.io(key, "written"))?;
        // Between the look at what is there and the rename nobody else may write: those who look take turns.
        let _turn = self.turn()?;
        let conflict = || StorageError::Conflict { key: key.into(), url: self.url() };
        if let Condition::Is(tag) = condition {
            let found = digest::of_file(&path).ok().map(|digest| digest.sha256);
            if found.as_ref() != Some(&tag.0) {
                return Err(conflict());
            }
        }
        let placed = match condition {
            // Fails where there is a file of that name, however it came there in the meantime.
            Condition::Absent => temporary.persist_noclobber(&path).map(drop),
            _ => temporary.persist(&path).map(drop),
        };
        placed.map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => conflict(),
            _ => self.io(key, "written")(error.error),
        })?;
        atomic::sync_dir(directory).map_err(self.io(key, "written"))
    }

    fn turn(&self) -> Result<Flock<File>> {
        let path = self.path(".lock");
        let opened = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = opened.map_err(self.io(".lock", "written"))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| self.io(".lock", "written")(errno.into()))
    }

    /// Copies until the end or past the limit, whichever comes first.
    pub(super) fn download(&self, download: &Download<'_>) -> Result<Digest> {
        let Download { key, size, limit, into, progress } = download;
        let mut file = self.open(key)?.ok_or_else(|| self.absent(key))?;
        let found = file.metadata().map_err(self.io(key, "read"))?.len();
        let (url, key) = (self.url(), (*key).to_owned());
        match size {
            _ if found > size.unwrap_or(*limit) => {
                return Err(StorageError::TooLarge { key, url, limit: size.unwrap_or(*limit) });
            }
            Some(expected) if found < *expected => {
                return Err(StorageError::Short { key, url, found, expected: *expected });
            }
            _ => {}
        }
        let local = |source| StorageError::Local { path: into.to_path_buf(), what: "written", source };
        let mut out = File::create(into).map_err(local)?;
        let mut hasher = Hasher::default();
        let mut chunk = vec![0; CHUNK];
        loop {
            let len = file.read(&mut chunk).map_err(self.io(&key, "read"))?;
            if len == 0 {
                return Ok(hasher.finish());
            }
            hasher.update(&chunk[..len]);
            if hasher.size() > found {
                // It grows while it is read.
                return Err(StorageError::Changed { key, url });
            }
            out.write_all(&chunk[..len]).map_err(local)?;
            progress(hasher.size(), Some(found));
        }
    }

    pub(super) fn list(&self, prefix: &str) -> Result<Vec<Entry>> {
        self.is_there()?;
        let failed = |error| self.io(prefix, "read")(error);
        let entries = match std::fs::read_dir(self.root.join(prefix)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let data = entry.metadata().map_err(failed)?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if !data.is_file() || name == ".lock" || name.starts_with(atomic::TEMPORARY) {
                continue;
            }
            let modified = data.modified().ok().map(DateTime::<Utc>::from);
            found.push(Entry { key: format!("{prefix}{name}"), size: data.len(), modified });
        }
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    pub(super) fn remove(&self, key: &str) -> Result<()> {
        atomic::remove(&self.path(key)).map_err(self.io(key, "removed"))
    }
}
