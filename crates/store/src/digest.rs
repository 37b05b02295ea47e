//! Sizes and SHA-256 of what is on disk.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use relmgr_model::manifest::Digest;
use sha2::{Digest as _, Sha256};

/// One read of a file: large enough that the call costs nothing beside the hash.
pub(crate) const CHUNK: usize = 64 * 1024;

/// Size and SHA-256 of the file at `path`.
///
/// # Errors
/// What the system says.
pub fn of_file(path: &Path) -> io::Result<Digest> {
    of_reader(File::open(path)?)
}

/// Size and SHA-256 of all that `data` gives.
pub(crate) fn of_reader(mut data: impl Read) -> io::Result<Digest> {
    let mut hasher = Hasher::default();
    let mut chunk = vec![0; CHUNK];
    loop {
        match data.read(&mut chunk)? {
            0 => return Ok(hasher.finish()),
            len => hasher.update(&chunk[..len]),
        }
    }
}

/// Size and SHA-256 of `bytes`.
pub fn of_bytes(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher.finish()
}

/// Hashes what streams by.
#[derive(Default)]
pub struct Hasher {
    size: u64,
    sha256: Sha256,
}

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.sha256.update(bytes);
    }

    /// Bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The digest of all that came.
    pub fn finish(self) -> Digest {
        Digest { size: self.size, sha256: hex::encode(self.sha256.finalize()) }
    }
}
