//! A release's directory while it is made. Everything happens in a temporary directory under the staging one; only
//! what was read back from disk and compared gets its name, and a try that fails leaves nothing.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use relmgr_model::manifest::{Digest, Manifest};
use tempfile::TempDir;

use crate::atomic;
use crate::digest::{CHUNK, Hasher};
use crate::package::MANIFEST;
use crate::tree::{self, TreeError, io_error};

/// The directory; removed when dropped before [`Staged::finish`].
pub(crate) struct Staged {
    directory: TempDir,
}

impl Staged {
    /// A new directory under `staging`, named after what it is for.
    pub(crate) fn new(staging: &Path, prefix: &str) -> Result<Self, TreeError> {
        let made = tempfile::Builder::new().prefix(prefix).tempdir_in(staging);
        let directory = made.map_err(io_error(staging, "written"))?;
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755))
            .map_err(io_error(directory.path(), "written"))?;
        Ok(Self { directory })
    }

    /// Begins a file of at most `limit` bytes. `name` has been checked by the manifest that it stands in.
    pub(crate) fn file(&self, name: &str, limit: u64, executable: bool) -> Result<NewFile, TreeError> {
        let path = self.directory.path().join(name);
        let parent = atomic::parent(&path);
        if parent != self.directory.path() {
            let made = DirBuilder::new().recursive(true).mode(0o755).create(parent);
            made.map_err(io_error(parent, "written"))?;
        }
        let mode = if executable { 0o755 } else { 0o644 };
        let created = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        let file = created.map_err(io_error(&path, "written"))?;
        Ok(NewFile { path, file, hasher: Hasher::default(), limit, fault: None })
    }

    /// Writes the copy of `manifest` that lies in a release's directory.
    pub(crate) fn write_manifest(&self, manifest: &Manifest) -> Result<(), TreeError> {
        let text = manifest.for_package().to_toml();
        let mut file = self.file(MANIFEST, text.len() as u64, false)?;
        file.file.write_all(text.as_bytes()).map_err(io_error(&file.path, "written"))
    }

    /// Gives the directory its name, `dest`, on the same file system.
    pub(crate) fn finish(self, dest: &Path, manifest: &Manifest) -> Result<(), TreeError> {
        let root = self.directory.path();
        // 1. Read it back from disk: what will be mapped is what was hashed.
        tree::verify_files(root, manifest)?;
        // 2. Make it durable, then give it its name.
        sync_tree(root, manifest).map_err(io_error(root, "written"))?;
        std::fs::rename(root, dest).map_err(io_error(dest, "written"))?;
        // Renamed: nothing is left to remove.
        let _ = self.directory.keep();
        atomic::sync_dir(atomic::parent(dest)).map_err(io_error(dest, "written"))
    }
}

/// Makes every file and directory under `root` durable.
fn sync_tree(root: &Path, manifest: &Manifest) -> io::Result<()> {
    let mut directories = BTreeSet::from([root.to_owned()]);
    for name in manifest.files.keys().map(String::as_str).chain([MANIFEST]) {
        let path = root.join(name);
        File::open(&path)?.sync_all()?;
        directories
            .extend(path.ancestors().skip(1).take_while(|dir| dir.starts_with(root)).map(Path::to_owned));
    }
    directories.iter().try_for_each(|directory| atomic::sync_dir(directory))
}

/// A file that is written once, hashed on the way, and never longer than was announced.
pub(crate) struct NewFile {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    limit: u64,
    fault: Option<Broken>,
}

/// Why a file did not come to its end: whose fault it is decides what to do next.
#[derive(Debug)]
pub(crate) enum Broken {
    /// What it is made from cannot be read or decoded.
    Source(io::Error),
    /// It would be longer than was announced.
    TooLong,
    /// The system refused.
    Disk(TreeError),
}

impl NewFile {
    /// Copies all of `data` into the file.
    pub(crate) fn fill(self, mut data: impl Read) -> Result<Digest, Broken> {
        let mut chunk = vec![0; CHUNK];
        self.fill_with(|file| {
            loop {
                match data.read(&mut chunk) {
                    Ok(0) => return Ok(()),
                    Ok(len) => file.write_all(&chunk[..len])?,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        })
    }

    /// Has `write` write the file.
    pub(crate) fn fill_with(
        mut self,
        write: impl FnOnce(&mut Self) -> io::Result<()>,
    ) -> Result<Digest, Broken> {
        let written = write(&mut self);
        match (self.fault, written) {
            (Some(fault), _) => Err(fault),
            (None, Err(error)) => Err(Broken::Source(error)),
            (None, Ok(())) => Ok(self.hasher.finish()),
        }
    }
}

/// The file's own faults are kept apart from those of who writes: they pass through decoders that know one error type.
impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.limit - self.hasher.size() < bytes.len() as u64 {
            self.fault = Some(Broken::TooLong);
            return Err(io::Error::other("more than was announced"));
        }
        if let Err(error) = self.file.write_all(bytes) {
            let kind = error.kind();
            self.fault = Some(Broken::Disk(io_error(&self.path, "written")(error)));
            return Err(kind.into());
        }
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
