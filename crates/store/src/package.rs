//! Packages: `<version>.tar.gz`.
//!
//! A package is packed so that the same files give the same bytes, and unpacked as if an enemy had packed it:
//! nothing is written that the manifest does not name, nothing larger than it says, nothing but regular files,
//! and what is on disk in the end is read back and compared before it gets its name.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use relmgr_model::manifest::{self, Digest, Manifest, ManifestError, is_plain_path};
use tar::{Archive, Builder, Entry, EntryType, Header};

use crate::digest::{self, CHUNK, Hasher};
use crate::{atomic, tree};

/// The first entry of every package.
pub const MANIFEST: &str = "manifest.toml";

/// A package that cannot be used, or not be made.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// The system refused.
    #[error("{} cannot be {what}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read`, `written`, …
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The archive ends early or is none.
    #[error("package {} is damaged or cut short: fetch or publish it again", path.display())]
    Damaged {
        /// The package.
        path: PathBuf,
        /// The decoder's words.
        #[source]
        source: io::Error,
    },
    /// An entry that a package may not have.
    #[error("package {} is refused: {reason}; build the release with `cargo relmgr release`", path.display())]
    Refused {
        /// The package.
        path: PathBuf,
        /// Which entry, and why.
        reason: String,
    },
    /// The manifest inside cannot be used.
    #[error("package {} holds a manifest that cannot be used", path.display())]
    Manifest {
        /// The package.
        path: PathBuf,
        /// Why.
        #[source]
        source: ManifestError,
    },
}

fn io_error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> PackageError + use<> {
    let path = path.to_owned();
    move |source| PackageError::Io { path, what, source }
}

/// Packs the release in `directory`, which holds `manifest.toml` and the files that it names, into `out`.
/// The same files give the same bytes, whenever and wherever.
///
/// # Errors
/// [`PackageError`]; `out` is not there then.
pub fn pack(directory: &Path, out: &Path) -> Result<Digest, PackageError> {
    let manifest_path = directory.join(MANIFEST);
    let text = std::fs::read_to_string(&manifest_path).map_err(io_error(&manifest_path, "read"))?;
    let manifest =
        Manifest::parse(&text).map_err(|source| PackageError::Manifest { path: manifest_path, source })?;
    let written = |error| io_error(out, "written")(error);

    let temporary = tempfile::Builder::new().prefix(atomic::TEMPORARY).tempfile_in(atomic::parent(out));
    let temporary = temporary.map_err(written)?;
    // flate2's header has no time and no name unless it is given one.
    let mut archive = Builder::new(GzEncoder::new(temporary.as_file(), Compression::best()));
    append(&mut archive, MANIFEST, text.as_bytes(), text.len() as u64, 0o644).map_err(written)?;
    for (name, digest) in &manifest.files {
        let path = directory.join(name);
        let file = File::open(&path).map_err(io_error(&path, "read"))?;
        let executable = file.metadata().is_ok_and(|data| data.permissions().mode() & 0o100 != 0);
        let mode = if executable { 0o755 } else { 0o644 };
        append(&mut archive, name, file, digest.size, mode).map_err(io_error(&path, "packed"))?;
    }
    let finish = || archive.into_inner()?.finish()?.sync_all();
    finish().map_err(written)?;
    temporary.persist(out).map_err(|error| written(error.error))?;
    std::fs::set_permissions(out, PermissionsExt::from_mode(0o644)).map_err(written)?;
    atomic::sync_dir(atomic::parent(out)).map_err(written)?;
    digest::of_file(out).map_err(io_error(out, "read"))
}

fn append(
    archive: &mut Builder<impl Write>,
    name: &str,
    data: impl Read,
    size: u64,
    mode: u32,
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    let mut counted = data.take(size);
    archive.append_data(&mut header, name, &mut counted)?;
    if counted.limit() == 0 {
        Ok(())
    } else {
        Err(io::Error::other("the file is shorter than its manifest says"))
    }
}

/// The manifest inside the package at `path`.
///
/// # Errors
/// [`PackageError`]; at most [`manifest::MAX_BYTES`] are unpacked.
pub fn read_manifest(path: &Path) -> Result<Manifest, PackageError> {
    let damaged = |source| PackageError::Damaged { path: path.to_owned(), source };
    let refused = |reason: String| PackageError::Refused { path: path.to_owned(), reason };
    let mut archive = open(path)?;
    let mut entries = archive.entries().map_err(damaged)?;
    let mut entry = match entries.next() {
        Some(entry) => entry.map_err(damaged)?,
        None => return Err(refused("it is empty".into())),
    };
    let name = entry_name(&entry).map_err(refused)?;
    if name != MANIFEST || entry.header().entry_type() != EntryType::Regular {
        return Err(refused(format!("its first entry is `{name}`, not {MANIFEST}")));
    }
    if entry.size() > manifest::MAX_BYTES {
        return Err(refused(format!("its manifest is larger than {} bytes", manifest::MAX_BYTES)));
    }
    let mut text = String::new();
    (&mut entry).take(manifest::MAX_BYTES).read_to_string(&mut text).map_err(damaged)?;
    Manifest::parse(&text).map_err(|source| PackageError::Manifest { path: path.to_owned(), source })
}

fn open(path: &Path) -> Result<Archive<GzDecoder<BufReader<File>>>, PackageError> {
    let file = File::open(path).map_err(io_error(path, "read"))?;
    Ok(Archive::new(GzDecoder::new(BufReader::with_capacity(CHUNK, file))))
}

pub(crate) fn entry_name<R: Read>(entry: &Entry<'_, R>) -> Result<String, String> {
    let bytes = entry.path_bytes();
    let name =
        String::from_utf8(bytes.into_owned()).map_err(|_| "an entry's name is not UTF-8".to_owned())?;
    if is_plain_path(&name) { Ok(name) } else { Err(format!("`{name}` is no path within a release")) }
}

/// Unpacks the package at `package`, whose manifest is `manifest`, as the directory `dest`. Works in a temporary
/// directory under `staging`, which must be on the same file system.
///
/// # Errors
/// [`PackageError`]; nothing is left behind then.
pub fn unpack(package: &Path, staging: &Path, dest: &Path, manifest: &Manifest) -> Result<(), PackageError> {
    place(staging, dest, manifest, |root| {
        // 1. Write what the manifest names, and nothing else.
        write_entries(package, root, manifest)?;
        // 2. Read it back from disk: what will be mapped is what was hashed.
        tree::verify_files(root, manifest)
            .map_err(|error| PackageError::Refused { path: package.to_owned(), reason: error.to_string() })
    })
}

/// Has `fill` make a release's directory out of sight, makes it durable, and gives it its name.
pub(crate) fn place<E: From<PackageError>>(
    staging: &Path,
    dest: &Path,
    manifest: &Manifest,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let temporary = tempfile::Builder::new().prefix("unpack-").tempdir_in(staging);
    let temporary = temporary.map_err(io_error(staging, "written"))?;
    let root = temporary.path();
    std::fs::set_permissions(root, PermissionsExt::from_mode(0o755)).map_err(io_error(root, "written"))?;
    fill(root)?;
    let text = manifest.for_package().to_toml();
    write_file(&root.join(MANIFEST), text.as_bytes(), text.len() as u64, 0o644)?;
    sync_tree(root, manifest).map_err(io_error(root, "written"))?;
    std::fs::rename(root, dest).map_err(io_error(dest, "written"))?;
    // Renamed: nothing is left to remove.
    let _ = temporary.keep();
    Ok(atomic::sync_dir(atomic::parent(dest)).map_err(io_error(dest, "written"))?)
}

fn write_entries(package: &Path, root: &Path, manifest: &Manifest) -> Result<(), PackageError> {
    let damaged = |source| PackageError::Damaged { path: package.to_owned(), source };
    let refused = |reason: String| PackageError::Refused { path: package.to_owned(), reason };
    let mut archive = open(package)?;
    let mut seen = BTreeSet::new();
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let name = entry_name(&entry).map_err(refused)?;
        let kind = entry.header().entry_type();
        if kind != EntryType::Regular {
            return Err(refused(format!("`{name}` is {}, not a regular file", kind_name(kind))));
        }
        if !seen.insert(name.clone()) {
            return Err(refused(format!("`{name}` is in it twice")));
        }
        if name == MANIFEST {
            let mut inside = String::new();
            (&mut entry).take(manifest::MAX_BYTES).read_to_string(&mut inside).map_err(damaged)?;
            let same = Manifest::parse(&inside).is_ok_and(|inside| inside == manifest.for_package());
            if !same {
                return Err(refused("the manifest inside differs from the one beside it".into()));
            }
            continue;
        }
        let Some(digest) = manifest.files.get(&name) else {
            return Err(refused(format!("`{name}` is not in its manifest")));
        };
        if entry.size() != digest.size {
            let (found, expected) = (entry.size(), digest.size);
            return Err(refused(format!("`{name}` has {found} bytes, its manifest says {expected}")));
        }
        let executable = entry.header().mode().is_ok_and(|mode| mode & 0o100 != 0);
        let path = root.join(&name);
        make_parents(root, &path)?;
        let mode = if executable { 0o755 } else { 0o644 };
        let found = write_file(&path, &mut entry, digest.size, mode).map_err(|error| match error {
            // Reading the archive and writing the file are told apart by the file's own errors.
            PackageError::Damaged { source, .. } => damaged(source),
            other => other,
        })?;
        if found.sha256 != digest.sha256 {
            return Err(refused(format!(
                "`{name}` is not the file that its manifest describes (SHA-256 differs)"
            )));
        }
    }
    let missing = manifest.files.keys().find(|name| !seen.contains(*name));
    match missing {
        Some(name) => Err(refused(format!("`{name}` is in its manifest and not in it"))),
        None if !seen.contains(MANIFEST) => Err(refused(format!("it has no {MANIFEST}"))),
        None => Ok(()),
    }
}

fn kind_name(kind: EntryType) -> &'static str {
    match kind {
        EntryType::Symlink => "a symbolic link",
        EntryType::Link => "a hard link",
        EntryType::Char | EntryType::Block => "a device",
        EntryType::Fifo => "a pipe",
        EntryType::Directory => "a directory",
        _ => "an unusual entry",
    }
}

pub(crate) fn make_parents(root: &Path, path: &Path) -> Result<(), PackageError> {
    let parent = atomic::parent(path);
    if parent != root {
        let made = DirBuilder::new().recursive(true).mode(0o755).create(parent);
        made.map_err(io_error(parent, "written"))?;
    }
    Ok(())
}

/// Writes at most `size` bytes of `data` to a new file.
pub(crate) fn write_file(
    path: &Path,
    mut data: impl Read,
    size: u64,
    mode: u32,
) -> Result<Digest, PackageError> {
    let mut file = NewFile::create(path, size, mode).map_err(io_error(path, "written"))?;
    match io::copy(&mut data, &mut file) {
        Ok(_) => Ok(file.finish()),
        Err(source) if file.failed() => Err(io_error(path, "written")(source)),
        Err(source) => Err(PackageError::Damaged { path: path.to_owned(), source }),
    }
}

/// A new file that grows to a limit and is hashed on the way.
pub(crate) struct NewFile {
    file: File,
    hasher: Hasher,
    limit: u64,
    failed: bool,
}

impl NewFile {
    /// Creates the file, which must not be there.
    pub(crate) fn create(path: &Path, limit: u64, mode: u32) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        Ok(Self { file, hasher: Hasher::default(), limit, failed: false })
    }

    /// Whether an error of a write was the disk's. (The others are the limit's, or whoever was read from.)
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }

    /// The digest of what was written.
    pub(crate) fn finish(self) -> Digest {
        self.hasher.finish()
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.hasher.size() + bytes.len() as u64 > self.limit {
            return Err(io::Error::other(format!("more than the {} bytes that were announced", self.limit)));
        }
        let written = self.file.write(bytes).inspect_err(|_| self.failed = true)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
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
