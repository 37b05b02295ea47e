//! Making a delta, where the target is published.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use relmgr_model::manifest::{Digest, Manifest};
use tar::{Builder, EntryType, Header};

use super::index::{self, Entry, Index};
use super::moves::{self, Moves};
use super::{DeltaError, MAX_PATCHED, io_error, patch};
use crate::{atomic, digest};

/// Writes to `out` the delta that makes the release in `target_dir` from the one in `base_dir`. The same releases
/// give the same bytes. For its memory see the module's page.
///
/// # Errors
/// [`DeltaError`]: [`DeltaError::WrongBase`] when `base_dir` is not what `base` describes, [`DeltaError::Differs`]
/// when `target_dir` is not what `target` describes; `out` is not there then.
pub fn make(
    base_dir: &Path,
    base: &Manifest,
    target_dir: &Path,
    target: &Manifest,
    out: &Path,
) -> Result<Digest, DeltaError> {
    let made = Made { base_dir, base, target_dir, target, out };
    let spooled = io_error(out, "written");
    let mut spool = tempfile::tempfile_in(atomic::parent(out)).map_err(spooled)?;
    let mut lengths = vec![];
    let mut files = vec![];
    for (path, digest) in made.changed() {
        let (entry, content) = made.entry(path, digest)?;
        spool.write_all(&content).map_err(io_error(out, "written"))?;
        lengths.push(content.len() as u64);
        files.push(entry);
    }
    let index = Index::new(base, target, made.executable()?, files).to_toml();
    if index.len() as u64 > index::MAX_BYTES {
        return Err(made.limit(format!("its index would be larger than {} bytes", index::MAX_BYTES)));
    }
    assemble(&index, spool, &lengths, out).map_err(io_error(out, "written"))?;
    digest::of_file(out).map_err(io_error(out, "read"))
}

/// One delta on its way.
struct Made<'a> {
    base_dir: &'a Path,
    base: &'a Manifest,
    target_dir: &'a Path,
    target: &'a Manifest,
    out: &'a Path,
}

impl Made<'_> {
    /// The target's files whose content the base has nowhere.
    fn changed(&self) -> impl Iterator<Item = (&String, &Digest)> {
        let held: BTreeSet<&str> = self.base.files.values().map(|digest| digest.sha256.as_str()).collect();
        self.target.files.iter().filter(move |(_, digest)| !held.contains(digest.sha256.as_str()))
    }

    /// One file as a patch, or whole where that is smaller or there is nothing to start from.
    fn entry(&self, path: &str, expected: &Digest) -> Result<(Entry, Vec<u8>), DeltaError> {
        let target = self
            .read(self.target_dir, path, expected)?
            .ok_or_else(|| DeltaError::Differs { delta: self.out.to_owned(), file: path.to_owned() })?;
        let patch = match self.counterpart(path, expected) {
            Some((from, digest)) => {
                let base = self.read(self.base_dir, from, digest)?.ok_or_else(|| DeltaError::WrongBase {
                    delta: self.out.to_owned(),
                    base: self.base.version.clone(),
                    reason: format!("`{from}` is not the file that its manifest describes"),
                })?;
                let (moves, patch) = patched(base, &target).map_err(io_error(self.out, "written"))?;
                Some((Entry { path: path.to_owned(), base: Some(digest.sha256.clone()), moves }, patch))
            }
            None => None,
        };
        match patch {
            // A patch below an eighth of its file needs no comparison: libraries compress to a third.
            Some(patch) if patch.1.len() < target.len() / 8 => Ok(patch),
            patch => {
                let whole = gzip(&target).map_err(io_error(self.out, "written"))?;
                let entry = Entry { path: path.to_owned(), base: None, moves: vec![] };
                Ok(patch.filter(|(_, patch)| patch.len() < whole.len()).unwrap_or((entry, whole)))
            }
        }
    }

    /// The base's file that a patch for `path` starts from: the one of the same name; for a new name, of those that
    /// are gone, the one with the same extension that is nearest in size (assets carry hashes in their names).
    fn counterpart(&self, path: &str, target: &Digest) -> Option<(&String, &Digest)> {
        let extension = Path::new(path).extension();
        let gone = self.base.files.iter().filter(|(from, _)| !self.target.files.contains_key(*from));
        let alike = gone.filter(|(from, _)| extension.is_some() && Path::new(from).extension() == extension);
        let nearest = || alike.min_by_key(|(_, digest)| digest.size.abs_diff(target.size));
        let found = self.base.files.get_key_value(path).or_else(nearest);
        found.filter(|(_, base)| base.size.max(target.size) <= MAX_PATCHED)
    }

    /// The file, when it is what its manifest says.
    fn read(&self, root: &Path, name: &str, expected: &Digest) -> Result<Option<Vec<u8>>, DeltaError> {
        let path = root.join(name);
        let content = std::fs::read(&path).map_err(io_error(&path, "read"))?;
        Ok((digest::of_bytes(&content) == *expected).then_some(content))
    }

    fn executable(&self) -> Result<BTreeSet<String>, DeltaError> {
        let mut executable = BTreeSet::new();
        for name in self.target.files.keys() {
            let path = self.target_dir.join(name);
            let data = path.metadata().map_err(io_error(&path, "read"))?;
            if data.permissions().mode() & 0o100 != 0 {
                executable.insert(name.clone());
            }
        }
        Ok(executable)
    }

    fn limit(&self, reason: String) -> DeltaError {
        DeltaError::Limit { delta: self.out.to_owned(), reason }
    }
}

/// The smaller of a plain patch and of one from the base with its addresses corrected.
fn patched(mut base: Vec<u8>, target: &[u8]) -> io::Result<(Moves, Vec<u8>)> {
    let plain = patch::make(&base, target)?;
    // Of a patch that we have just made there are always runs.
    let runs = patch::runs(&plain).unwrap_or_default();
    let moves = moves::find(&base, target, &runs);
    if moves.is_empty() {
        return Ok((moves, plain));
    }
    moves::correct(&mut base, &moves);
    let corrected = patch::make(&base, target)?;
    Ok(if corrected.len() < plain.len() { (moves, corrected) } else { (vec![], plain) })
}

fn gzip(content: &[u8]) -> io::Result<Vec<u8>> {
    // flate2's header has no time and no name unless it is given one.
    let mut encoder = GzEncoder::new(vec![], Compression::best());
    encoder.write_all(content)?;
    encoder.finish()
}

/// Puts the index before the entries.
fn assemble(index: &str, mut spool: File, lengths: &[u64], out: &Path) -> io::Result<()> {
    let temporary = tempfile::Builder::new().prefix(atomic::TEMPORARY).tempfile_in(atomic::parent(out))?;
    let mut archive = Builder::new(io::BufWriter::new(temporary.as_file()));
    append(&mut archive, index::NAME, index.as_bytes(), index.len() as u64)?;
    spool.rewind()?;
    for (at, length) in lengths.iter().enumerate() {
        append(&mut archive, &at.to_string(), io::Read::take(&mut spool, *length), *length)?;
    }
    archive.into_inner()?.flush()?;
    temporary.as_file().set_permissions(PermissionsExt::from_mode(0o644))?;
    temporary.as_file().sync_all()?;
    temporary.persist(out)?;
    atomic::sync_dir(atomic::parent(out))
}

fn append(archive: &mut Builder<impl Write>, name: &str, data: impl io::Read, size: u64) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    archive.append_data(&mut header, name, data)
}
