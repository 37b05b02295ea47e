//! Applying a delta, on the node.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

use flate2::read::GzDecoder;
use relmgr_model::manifest::{Digest, Manifest};
use tar::{Archive, Entries, EntryType};

use super::index::{self, Index, IndexFault};
use super::moves;
use super::patch::{Patch, PatchFault};
use super::{DeltaError, MAX_PATCHED, io_error, tree_error};
use crate::digest::{self, CHUNK};
use crate::staged::{Broken, NewFile, Staged};

/// Makes the release that `target` describes as the directory `dest`, from the one in `base_dir` that `base`
/// describes and the delta at `delta`. Works in a temporary directory under `staging`, which must be on the same file
/// system. `target` must have been verified: it pins the delta, and everything that comes out.
///
/// # Errors
/// [`DeltaError`]; nothing is left behind then.
pub fn apply(
    delta: &Path,
    base_dir: &Path,
    base: &Manifest,
    target: &Manifest,
    staging: &Path,
    dest: &Path,
) -> Result<(), DeltaError> {
    let applied = Applied { delta, base_dir, base, target };
    // 1. Hash it, and only then look at it.
    let file = applied.open()?;
    let mut archive = Archive::new(BufReader::with_capacity(CHUNK, file));
    // Raw: no long names, no PAX headers, nothing that is read before its size was looked at.
    let mut entries = archive.entries().map_err(|error| applied.unreadable(error))?.raw(true);
    let index = applied.index(&mut entries)?;
    // 2. Make what is in it, then take from the base what is not.
    let staged = Staged::new(staging, "delta-").map_err(tree_error(delta))?;
    for (at, entry) in index.files.iter().enumerate() {
        let (size, data) = applied.next(&mut entries, &at.to_string())?;
        let file = applied.file(&staged, &index, &entry.path)?;
        if entry.base.is_some() {
            applied.patch(file, entry, size, data)?;
        } else {
            applied.whole(file, &entry.path, data)?;
        }
    }
    match entries.next() {
        None => {}
        Some(Ok(_)) => return Err(applied.damaged("it has entries that its index does not name")),
        Some(Err(error)) => return Err(applied.unreadable(error)),
    }
    applied.copy_unchanged(&staged, &index)?;
    // 3. As with a package: read it back, make it durable, give it its name.
    staged.write_manifest(target).map_err(tree_error(delta))?;
    staged.finish(dest, target).map_err(tree_error(delta))
}

/// One delta and what it is held against.
struct Applied<'a> {
    delta: &'a Path,
    base_dir: &'a Path,
    base: &'a Manifest,
    target: &'a Manifest,
}

impl Applied<'_> {
    /// The delta's file, at its start, when it is the one that the target's manifest pins.
    fn open(&self) -> Result<File, DeltaError> {
        let Some(expected) = self.target.deltas.get(&self.base.version) else {
            let reason = format!("release {} has no delta from it", self.target.version);
            return Err(self.wrong_base(reason));
        };
        let read = |error| io_error(self.delta, "read")(error);
        let mut file = File::open(self.delta).map_err(read)?;
        // A file that grows while it is read is not hashed for ever.
        let found = digest::of_reader((&mut file).take(expected.size.saturating_add(1))).map_err(read)?;
        if found != *expected {
            return Err(self.damaged("its size or SHA-256 is not its manifest's"));
        }
        file.rewind().map_err(read)?;
        Ok(file)
    }

    fn index<R: Read>(&self, entries: &mut Entries<'_, R>) -> Result<Index, DeltaError> {
        let (size, data) = self.next(entries, index::NAME)?;
        if size > index::MAX_BYTES {
            return Err(self.limit(format!("its index has {size} bytes, {} are allowed", index::MAX_BYTES)));
        }
        let mut text = String::new();
        data.take(size).read_to_string(&mut text).map_err(|error| self.unreadable(error))?;
        Index::parse(&text, self.base, self.target).map_err(|fault| match fault {
            IndexFault::Damaged(reason) => self.damaged(&reason),
            IndexFault::WrongBase(reason) => self.wrong_base(reason),
        })
    }

    /// The next entry, which must have this name.
    fn next<'e, R: Read>(
        &self,
        entries: &mut Entries<'e, R>,
        name: &str,
    ) -> Result<(u64, tar::Entry<'e, R>), DeltaError> {
        let entry = match entries.next() {
            Some(entry) => entry.map_err(|error| self.unreadable(error))?,
            None => return Err(self.damaged(&format!("entry {name} is missing"))),
        };
        if entry.header().entry_type() != EntryType::Regular || *entry.path_bytes() != *name.as_bytes() {
            return Err(self.damaged(&format!("another entry stands where {name} should")));
        }
        Ok((entry.size(), entry))
    }

    fn file(&self, staged: &Staged, index: &Index, path: &str) -> Result<NewFile, DeltaError> {
        let size = self.expected(path)?.size;
        staged.file(path, size, index.executable.contains(path)).map_err(tree_error(self.delta))
    }

    /// Makes a file from one of the base's.
    fn patch(
        &self,
        file: NewFile,
        entry: &index::Entry,
        size: u64,
        mut data: impl Read,
    ) -> Result<(), DeltaError> {
        let path = entry.path.as_str();
        let sha256 = entry.base.as_deref().unwrap_or_default();
        let Some((from, digest)) = self.base.files.iter().find(|(_, digest)| digest.sha256 == sha256) else {
            return Err(self.wrong_base(format!("it has no file with SHA-256 {sha256}")));
        };
        for size in [size, digest.size] {
            if size > MAX_PATCHED {
                return Err(self.limit(format!("`{path}` asks for {size} bytes of memory")));
            }
        }
        let mut base = self.read_base(from, digest)?;
        moves::correct(&mut base, &entry.moves);
        // The size is that of an entry, and a file ends where it ends: nothing is reserved for it beforehand.
        let mut bytes = vec![];
        data.by_ref().take(size).read_to_end(&mut bytes).map_err(|error| self.unreadable(error))?;
        let expected = self.expected(path)?;
        let patch = Patch::check(&bytes, expected.size).map_err(|fault| match fault {
            PatchFault::Limit(reason) => self.limit(format!("the patch for `{path}`: {reason}")),
            PatchFault::Damaged(reason, source) => DeltaError::Damaged {
                delta: self.delta.to_owned(),
                reason: format!("the patch for `{path}`: {reason}"),
                source,
            },
        })?;
        self.compare(path, file.fill_with(|file| patch.apply(&base, file)))
    }

    /// Unpacks a file that the delta carries whole.
    fn whole(&self, file: NewFile, path: &str, data: impl Read) -> Result<(), DeltaError> {
        self.compare(path, file.fill(GzDecoder::new(data)))
    }

    /// Holds what was written against the target's manifest.
    fn compare(&self, path: &str, written: Result<Digest, Broken>) -> Result<(), DeltaError> {
        let expected = self.expected(path)?;
        match written {
            Ok(found) if found == *expected => Ok(()),
            Ok(_) => Err(DeltaError::Differs { delta: self.delta.to_owned(), file: path.to_owned() }),
            Err(Broken::TooLong) => {
                Err(self.limit(format!("`{path}` would have more than {} bytes", expected.size)))
            }
            Err(Broken::Source(source)) => Err(DeltaError::Damaged {
                delta: self.delta.to_owned(),
                reason: format!("its content for `{path}` does not unpack"),
                source: Some(source),
            }),
            Err(Broken::Disk(error)) => Err(tree_error(self.delta)(error)),
        }
    }

    /// Copies the files whose content the base has, under the same name or another.
    fn copy_unchanged(&self, staged: &Staged, index: &Index) -> Result<(), DeltaError> {
        let mut held = BTreeMap::new();
        for (name, digest) in &self.base.files {
            held.entry(digest.sha256.as_str()).or_insert(name);
        }
        for (path, digest) in &self.target.files {
            if index.files.binary_search_by(|entry| entry.path.as_str().cmp(path)).is_ok() {
                continue;
            }
            let Some(from) = held.get(digest.sha256.as_str()) else {
                return Err(self.wrong_base(format!("`{path}` is neither in it nor in the delta")));
            };
            let file = self.file(staged, index, path)?;
            let (source, data) = self.open_base(from)?;
            match file.fill(data) {
                Ok(found) if found == *digest => {}
                Ok(_) | Err(Broken::TooLong) => return Err(self.altered(from)),
                Err(Broken::Source(error)) => return Err(io_error(&source, "read")(error)),
                Err(Broken::Disk(error)) => return Err(tree_error(self.delta)(error)),
            }
        }
        Ok(())
    }

    /// A file of the base, which must be what was installed.
    fn read_base(&self, name: &str, digest: &Digest) -> Result<Vec<u8>, DeltaError> {
        let (path, file) = self.open_base(name)?;
        let mut content = vec![];
        file.take(digest.size.saturating_add(1))
            .read_to_end(&mut content)
            .map_err(io_error(&path, "read"))?;
        if digest::of_bytes(&content) == *digest { Ok(content) } else { Err(self.altered(name)) }
    }

    fn open_base(&self, name: &str) -> Result<(std::path::PathBuf, File), DeltaError> {
        let path = self.base_dir.join(name);
        // No link that somebody has put there is followed, and no pipe waited for.
        match path.symlink_metadata() {
            Ok(data) if data.is_file() => {}
            Ok(_) => return Err(self.altered(name)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.altered(name)),
            Err(error) => return Err(io_error(&path, "read")(error)),
        }
        let file = File::open(&path).map_err(io_error(&path, "read"))?;
        Ok((path, file))
    }

    fn expected(&self, path: &str) -> Result<&Digest, DeltaError> {
        let unknown = || self.damaged(&format!("`{path}` is no file of release {}", self.target.version));
        self.target.files.get(path).ok_or_else(unknown)
    }

    fn altered(&self, name: &str) -> DeltaError {
        self.wrong_base(format!("its `{name}` on disk is not what was installed"))
    }

    fn wrong_base(&self, reason: String) -> DeltaError {
        DeltaError::WrongBase { delta: self.delta.to_owned(), base: self.base.version.clone(), reason }
    }

    fn damaged(&self, reason: &str) -> DeltaError {
        DeltaError::Damaged { delta: self.delta.to_owned(), reason: reason.to_owned(), source: None }
    }

    fn unreadable(&self, source: io::Error) -> DeltaError {
        let reason = "its archive does not read".to_owned();
        DeltaError::Damaged { delta: self.delta.to_owned(), reason, source: Some(source) }
    }

    fn limit(&self, reason: String) -> DeltaError {
        DeltaError::Limit { delta: self.delta.to_owned(), reason }
    }
}
