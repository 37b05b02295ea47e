//! Packages: `<version>.tar.gz`.
//!
//! A package is packed so that the same files give the same bytes, and unpacked as if an enemy had packed it:
//! nothing is written that the manifest does not name, nothing larger than it says, nothing but regular files,
//! and what is on disk in the end is read back and compared before it gets its name.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use relmgr_model::manifest::{self, Digest, Manifest, ManifestError, is_plain_path};
use tar::{Archive, Builder, Entry, EntryType, Header};

use crate::atomic;
use crate::digest::{self, CHUNK};
use crate::staged::{Broken, Staged};
use crate::tree::TreeError;

/// The first entry of every package.
pub const MANIFEST: &str = "manifest.toml";

/// What one entry may take beside its content: a header, padding, and both again for a name of up to 255 bytes as
/// GNU tar writes it; twice that, for the tars of others.
const ENTRY_OVERHEAD: u64 = 4096;

/// The manifest's own entry, and the padding of up to 10 KiB at an archive's end.
const MANIFEST_LIMIT: u64 = manifest::MAX_BYTES + 4 * ENTRY_OVERHEAD;

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

/// What a package is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Packing {
    /// To be published: as small as it gets, and on the disk before it has its name.
    #[default]
    Shipped,
    /// For a node on the same machine that fetches it at once, while somebody waits: neither compressed nor synced.
    Local,
}

/// Packs the release in `directory`, which holds `manifest.toml` and the files that it names, into `out`.
/// The same files give the same bytes, whenever and wherever.
///
/// # Errors
/// [`PackageError`]; `out` is not there then.
pub fn pack(directory: &Path, out: &Path) -> Result<Digest, PackageError> {
    pack_as(Packing::Shipped, directory, out)
}

/// As [`pack`], for what `packing` says.
///
/// # Errors
/// As [`pack`].
pub fn pack_as(packing: Packing, directory: &Path, out: &Path) -> Result<Digest, PackageError> {
    let manifest_path = directory.join(MANIFEST);
    let text = std::fs::read_to_string(&manifest_path).map_err(io_error(&manifest_path, "read"))?;
    let manifest =
        Manifest::parse(&text).map_err(|source| PackageError::Manifest { path: manifest_path, source })?;
    let written = |error| io_error(out, "written")(error);

    let temporary = tempfile::Builder::new().prefix(atomic::TEMPORARY).tempfile_in(atomic::parent(out));
    let temporary = temporary.map_err(written)?;
    // flate2's header has no time and no name unless it is given one.
    let compression = match packing {
        Packing::Shipped => Compression::best(),
        Packing::Local => Compression::none(),
    };
    let mut archive = Builder::new(GzEncoder::new(temporary.as_file(), compression));
    append(&mut archive, MANIFEST, text.as_bytes(), text.len() as u64, 0o644).map_err(written)?;
    for (name, digest) in &manifest.files {
        let path = directory.join(name);
        let file = File::open(&path).map_err(io_error(&path, "read"))?;
        let executable = file.metadata().is_ok_and(|data| data.permissions().mode() & 0o100 != 0);
        let mode = if executable { 0o755 } else { 0o644 };
        append(&mut archive, name, file, digest.size, mode).map_err(io_error(&path, "packed"))?;
    }
    let finish = || match packing {
        Packing::Shipped => archive.into_inner()?.finish()?.sync_all(),
        Packing::Local => archive.into_inner()?.finish().map(drop),
    };
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
    let mut archive = open(path, MANIFEST_LIMIT)?;
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

/// The archive, which ends after `limit` unpacked bytes whatever comes then.
fn open(path: &Path, limit: u64) -> Result<Archive<impl Read>, PackageError> {
    let file = File::open(path).map_err(io_error(path, "read"))?;
    Ok(Archive::new(GzDecoder::new(BufReader::with_capacity(CHUNK, file)).take(limit)))
}

fn entry_name<R: Read>(entry: &Entry<'_, R>) -> Result<String, String> {
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
    let staged = Staged::new(staging, "unpack-").map_err(tree_error(package))?;
    // Write what the manifest names, and nothing else; then have it read back and named.
    write_entries(package, &staged, manifest)?;
    staged.finish(dest, manifest).map_err(tree_error(package))
}

/// A fault of the directory that is made, in a package's words.
fn tree_error(package: &Path) -> impl Fn(TreeError) -> PackageError {
    move |error| match error {
        TreeError::Io { path, what, source } => PackageError::Io { path, what, source },
        other => PackageError::Refused { path: package.to_owned(), reason: other.to_string() },
    }
}

/// The most that an honest package of this manifest unpacks to, headers, long names and padding included. Names are
/// read into memory before anybody can look at them, so what an archive may unpack to is bounded as a whole too.
fn unpacked_limit(manifest: &Manifest) -> u64 {
    let files = manifest.files.values().fold(0u64, |sum, digest| sum.saturating_add(digest.size));
    files.saturating_add((manifest.files.len() as u64 + 1) * ENTRY_OVERHEAD).saturating_add(MANIFEST_LIMIT)
}

fn write_entries(package: &Path, staged: &Staged, manifest: &Manifest) -> Result<(), PackageError> {
    let damaged = |source| PackageError::Damaged { path: package.to_owned(), source };
    let refused = |reason: String| PackageError::Refused { path: package.to_owned(), reason };
    let mut archive = open(package, unpacked_limit(manifest))?;
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
            staged.write_manifest(manifest).map_err(tree_error(package))?;
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
        let file = staged.file(&name, digest.size, executable).map_err(tree_error(package))?;
        let found = file.fill(&mut entry).map_err(|broken| match broken {
            Broken::Source(source) => damaged(source),
            Broken::TooLong => refused(format!("`{name}` is longer than announced")),
            Broken::Disk(error) => tree_error(package)(error),
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
