//! Deltas: `<from>_<to>.delta`, what makes one release's files of another's.
//!
//! A tar archive of the target's files that the base does not have, in the manifest's order:
//!
//! ```text
//! patch/<path>    a BSDIFF40 patch (bzip2 inside) from the base's file of the same path
//! new/<path>      the file itself, gzipped, where there is none or a patch would be larger
//! ```
//!
//! A file whose digest some file of the base has is not in it: it is copied. Patches are made between unpacked files,
//! since a changed byte changes all of an archive that follows it. Making one takes about nine times the larger file in
//! memory (bsdiff's suffix array); applying one takes both files' sizes.
//!
//! The delta's own size and digest stand in the target's signed manifest and are checked before a byte of it is parsed.
//! Nothing in it is believed all the same: no result may be larger than the manifest says, and each has its digest
//! checked while it is written, and again when it is read back from disk.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use qbsdiff::{Bsdiff, Bspatch, ParallelScheme};
use relmgr_model::manifest::{Digest, Manifest};
use tar::{Archive, Builder, EntryType, Header};

use crate::digest::{self, CHUNK};
use crate::package::{self, PackageError};
use crate::{atomic, tree};

/// A delta larger than this part of the package is not worth its while: the package is fetched instead.
const WORTH: f64 = 0.5;

/// Files larger than this are not patched: the suffix array of a larger one does not fit a build machine.
const PATCHED_BYTES: u64 = 256 * 1024 * 1024;

/// A delta that cannot be made, or not be applied.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// The system refused.
    #[error("{} cannot be {what}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The base is not what the delta was made from.
    #[error("the delta {} does not fit the release on this node: {reason}", path.display())]
    Base {
        /// The delta.
        path: PathBuf,
        /// Which file, and how it differs.
        reason: String,
    },
    /// The delta is damaged, or does not make what the manifest describes.
    #[error("the delta {} cannot be used: {reason}", path.display())]
    Damaged {
        /// The delta.
        path: PathBuf,
        /// Which entry, and why.
        reason: String,
    },
    /// The release that it makes cannot be put in its place.
    #[error(transparent)]
    Package(#[from] PackageError),
}

fn io_error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> DeltaError + use<> {
    let path = path.to_owned();
    move |source| DeltaError::Io { path, what, source }
}

/// Whether a delta of `delta` bytes is better than a package of `package` bytes.
pub fn is_worth_it(delta: u64, package: u64) -> bool {
    (delta as f64) <= package as f64 * WORTH
}

/// An unpacked release.
#[derive(Debug, Clone, Copy)]
pub struct Unpacked<'a> {
    /// Its directory.
    pub root: &'a Path,
    /// Its manifest.
    pub manifest: &'a Manifest,
}

impl Unpacked<'_> {
    /// A file, checked against the manifest.
    fn read(&self, name: &str, delta: &Path) -> Result<Vec<u8>, DeltaError> {
        let path = self.root.join(name);
        let bytes = std::fs::read(&path).map_err(io_error(&path, "read"))?;
        if self.manifest.files.get(name) == Some(&digest::of_bytes(&bytes)) {
            return Ok(bytes);
        }
        let reason = format!("its `{name}` is not what its manifest describes");
        Err(DeltaError::Base { path: delta.to_owned(), reason })
    }

    /// The name of a file with this digest.
    fn same_as(&self, digest: &Digest) -> Option<&str> {
        self.manifest.files.iter().find(|(_, found)| *found == digest).map(|(name, _)| name.as_str())
    }
}

fn is_executable(path: &Path) -> Result<bool, DeltaError> {
    let data = std::fs::metadata(path).map_err(io_error(path, "read"))?;
    Ok(data.permissions().mode() & 0o100 != 0)
}

fn mode(executable: bool) -> u32 {
    if executable { 0o755 } else { 0o644 }
}

/// Writes what makes `target` of `base` into `out`. The same releases give the same bytes.
///
/// # Errors
/// [`DeltaError`]; `out` is not there then.
pub fn make(base: Unpacked<'_>, target: Unpacked<'_>, out: &Path) -> Result<Digest, DeltaError> {
    let written = |error| io_error(out, "written")(error);
    let temporary = tempfile::Builder::new().prefix(atomic::TEMPORARY).tempfile_in(atomic::parent(out));
    let temporary = temporary.map_err(written)?;
    let mut archive = Builder::new(temporary.as_file());
    for (name, digest) in &target.manifest.files {
        let path = target.root.join(name);
        let executable = is_executable(&path)?;
        // A copy has the mode of what it was copied from.
        if let Some(same) = base.same_as(digest)
            && is_executable(&base.root.join(same))? == executable
        {
            continue;
        }
        let bytes = target.read(name, out)?;
        let whole = compress(&bytes).map_err(written)?;
        let patch = match base.manifest.files.get(name) {
            Some(old) if old.size.max(digest.size) <= PATCHED_BYTES && digest.size > 0 => {
                Some(diff(&base.read(name, out)?, &bytes).map_err(written)?)
            }
            _ => None,
        };
        let (kind, data) = match patch.filter(|patch| patch.len() < whole.len()) {
            Some(patch) => ("patch", patch),
            None => ("new", whole),
        };
        append(&mut archive, &format!("{kind}/{name}"), &data, mode(executable)).map_err(written)?;
    }
    archive.into_inner().and_then(|file| file.sync_all()).map_err(written)?;
    temporary.persist(out).map_err(|error| written(error.error))?;
    std::fs::set_permissions(out, PermissionsExt::from_mode(0o644)).map_err(written)?;
    atomic::sync_dir(atomic::parent(out)).map_err(written)?;
    digest::of_file(out).map_err(io_error(out, "read"))
}

fn append(archive: &mut Builder<&File>, name: &str, data: &[u8], mode: u32) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(data.len() as u64);
    header.set_mode(mode);
    header.set_mtime(0);
    archive.append_data(&mut header, name, data)
}

fn compress(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn diff(base: &[u8], target: &[u8]) -> io::Result<Vec<u8>> {
    let mut patch = Vec::new();
    // In one thread: how it is divided would show in the bytes.
    let bsdiff = Bsdiff::new(base, target).parallel_scheme(ParallelScheme::Never).compression_level(9);
    bsdiff.compare(Cursor::new(&mut patch))?;
    Ok(patch)
}

/// Makes `manifest`'s release of `base` and the delta at `delta`, as the directory `dest`. Works in a temporary
/// directory under `staging`, which must be on the same file system.
///
/// # Errors
/// [`DeltaError`]; nothing is left behind then.
pub fn apply(
    delta: &Path,
    base: Unpacked<'_>,
    manifest: &Manifest,
    staging: &Path,
    dest: &Path,
) -> Result<(), DeltaError> {
    package::place(staging, dest, manifest, |root| {
        let changed = write_entries(delta, base, manifest, root)?;
        copy_same(delta, base, manifest, root, &changed)?;
        // What is on disk is what will be mapped.
        tree::verify_files(root, manifest)
            .map_err(|error| DeltaError::Damaged { path: delta.to_owned(), reason: error.to_string() })
    })
}

/// Writes the files that are in the delta; returns their names.
fn write_entries(
    delta: &Path,
    base: Unpacked<'_>,
    manifest: &Manifest,
    root: &Path,
) -> Result<BTreeSet<String>, DeltaError> {
    let damaged = |reason: String| DeltaError::Damaged { path: delta.to_owned(), reason };
    let broken = |error: io::Error| damaged(format!("it is damaged or cut short ({error})"));
    let file = File::open(delta).map_err(io_error(delta, "read"))?;
    // An entry is read into memory, and none can be larger than all of it.
    let limit = file.metadata().map_err(io_error(delta, "read"))?.len();
    let mut archive = Archive::new(BufReader::with_capacity(CHUNK, file));
    let mut changed = BTreeSet::new();
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = package::entry_name(&entry).map_err(damaged)?;
        if entry.header().entry_type() != EntryType::Regular || entry.size() > limit {
            return Err(damaged(format!("`{name}` is no regular file, or larger than the delta")));
        }
        let (kind, name) =
            name.split_once('/').ok_or_else(|| damaged(format!("`{name}` is no entry of a delta")))?;
        let name = name.to_owned();
        let expected =
            manifest.files.get(&name).ok_or_else(|| damaged(format!("`{name}` is not in the manifest")))?;
        if !changed.insert(name.clone()) {
            return Err(damaged(format!("`{name}` is in it twice")));
        }
        let executable = entry.header().mode().is_ok_and(|mode| mode & 0o100 != 0);
        let mut data = Vec::new();
        entry.read_to_end(&mut data).map_err(broken)?;
        let kind = match kind {
            "patch" => Kind::Patch { base: base.read(&name, delta)? },
            "new" => Kind::New,
            _ => return Err(damaged(format!("`{kind}/{name}` is no entry of a delta"))),
        };
        let path = root.join(&name);
        package::make_parents(root, &path)?;
        let made = kind.write(&data, &path, expected.size, mode(executable));
        let found = made.map_err(|fault| match fault {
            Fault::Local(source) => io_error(&path, "written")(source),
            Fault::Data(reason) => damaged(format!("`{name}`: {reason}")),
        })?;
        if found != *expected {
            return Err(damaged(format!("`{name}` does not become the file that the manifest describes")));
        }
    }
    Ok(changed)
}

/// Copies what the base has as it is.
fn copy_same(
    delta: &Path,
    base: Unpacked<'_>,
    manifest: &Manifest,
    root: &Path,
    changed: &BTreeSet<String>,
) -> Result<(), DeltaError> {
    for (name, digest) in manifest.files.iter().filter(|(name, _)| !changed.contains(*name)) {
        let same = base.same_as(digest).ok_or_else(|| DeltaError::Base {
            path: delta.to_owned(),
            reason: format!("neither it nor the delta has `{name}`"),
        })?;
        let (from, path) = (base.root.join(same), root.join(name));
        package::make_parents(root, &path)?;
        let file = File::open(&from).map_err(io_error(&from, "read"))?;
        let found = package::write_file(&path, file, digest.size, mode(is_executable(&from)?))?;
        if found != *digest {
            let reason = format!("its `{same}` is not what its manifest describes");
            return Err(DeltaError::Base { path: delta.to_owned(), reason });
        }
    }
    Ok(())
}

enum Kind {
    Patch { base: Vec<u8> },
    New,
}

enum Fault {
    Local(io::Error),
    Data(String),
}

impl Kind {
    /// Writes what `data` makes to the new file `path`: `size` bytes at most.
    fn write(&self, data: &[u8], path: &Path, size: u64, mode: u32) -> Result<Digest, Fault> {
        let mut out = package::NewFile::create(path, size, mode).map_err(Fault::Local)?;
        match self {
            Self::New => {
                // One byte more than may come is enough to see that it is too much.
                let mut bounded = GzDecoder::new(data).take(size.saturating_add(1));
                io::copy(&mut bounded, &mut out).map_err(|error| out.fault(error))?;
            }
            Self::Patch { base } => {
                check_header(data, size).map_err(Fault::Data)?;
                // The patch crate was not written for enemies: what it panics over is damage like any other.
                let applied = catch_unwind(AssertUnwindSafe(|| Bspatch::new(data)?.apply(base, &mut out)));
                match applied {
                    Ok(applied) => applied.map_err(|error| out.fault(error))?,
                    Err(_) => return Err(Fault::Data("the patch is damaged".into())),
                };
            }
        }
        Ok(out.finish())
    }
}

impl package::NewFile {
    /// Whether an error came from the disk or from the data.
    fn fault(&self, error: io::Error) -> Fault {
        if self.failed() { Fault::Local(error) } else { Fault::Data(error.to_string()) }
    }
}

/// BSDIFF40's header (bsdiff 4.3, bspatch.c): magic, length of the control block, length of the difference block, size
/// of the result; 8 bytes each, the numbers little-endian with the sign in the highest bit.
fn check_header(patch: &[u8], size: u64) -> Result<(), String> {
    let number = |at: usize| -> Option<u64> {
        let bytes: [u8; 8] = patch.get(at..at + 8)?.try_into().ok()?;
        Some(u64::from_le_bytes(bytes)).filter(|number| number >> 63 == 0)
    };
    let header = (|| Some((number(8)?, number(16)?, number(24)?)))();
    let Some((control, difference, result)) = header.filter(|_| patch.starts_with(b"BSDIFF40")) else {
        return Err("it is no BSDIFF40 patch".into());
    };
    if result != size {
        return Err(format!("the patch makes {result} bytes, the manifest says {size}"));
    }
    let blocks = control.checked_add(difference).and_then(|sum| sum.checked_add(32));
    match blocks {
        Some(end) if end <= patch.len() as u64 => Ok(()),
        _ => Err("the patch is cut short".into()),
    }
}
