//! Deltas: `<from>_<to>.delta`, what a node that holds one release needs to make another from it.
//!
//! Patches are made between *unpacked* files: one byte changed in a library changes everything after it in a
//! compressed archive, and a few hundred bytes in the library itself.
//!
//! # The container
//! A plain tar. Its entries are numbered, so that nothing in the archive names a file; the first one says what the
//! others are, in their order:
//! ```toml
//! # index.toml
//! format = 1
//! name = "live-poll"                  # the application
//! from = "2026.1119.80112"            # the release that is held
//! to = "2026.1120.192733"             # the release that is made
//! executable = ["priv/tool"]          # all files of `to` that are; every other one is not
//! [[files]]                           # entry 0: a patch, since it says what it starts from
//! path = "lib/liblive_poll.so"
//! base = "1f3c…"                      # SHA-256 of a file of `from`, wherever it lies there
//! moves = [[2527792, 16], [8193328, 0]]  # what is corrected in it first: from an address on, by how much
//! [[files]]                           # entry 1: the whole content, as gzip
//! path = "priv/new.html"
//! ```
//! * A patch is bsdiff's own format, `BSDIFF40`, with bzip2 inside (crate qbsdiff; `bspatch` applies it by hand).
//! * A file whose digest some file of `from` has, under whatever name, is not in the delta: it is copied.
//! * The same two releases give the same bytes: no times, no owners, a fixed order, and a search that is cut into
//!   pieces by the file's length, never by the number of processors.
//!
//! # What is trusted
//! Only the target's manifest, whose signature the caller has checked, and which pins the delta's own digest, the
//! paths, the sizes and the digests of what comes out. So [`apply`] looks at a delta's first byte only after all of
//! them were hashed, and even then believes no size, count or path in it.
//!
//! # Memory
//! Making takes about 8 times the larger file of a pair at its peak (bsdiff's suffix array is 4 bytes for each byte
//! of the base, its construction and the two files are the rest); files are taken one after the other. Applying
//! takes the base file, its patch and 12 MB of bzip2's tables; the output streams. Files of more than
//! [`MAX_PATCHED`] bytes are carried whole.

mod apply;
mod index;
mod make;
mod moves;
mod patch;

use std::io;
use std::path::{Path, PathBuf};

use relmgr_model::Version;

use crate::tree::TreeError;

pub use apply::apply;
pub use make::make;

/// Files above this size are carried whole: making a patch for one of this size takes about 1 GiB of memory, which
/// CI still has, and applying it 128 MiB beside what the node serves.
pub const MAX_PATCHED: u64 = 128 * 1024 * 1024;

/// A delta that cannot be used, or not be made. Whatever it is, the whole package serves instead.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// It starts from something else than what is held, or the base is no longer what was installed.
    #[error("delta {} does not start from release {base} as it is here: {reason}; take the whole package", delta.display())]
    WrongBase {
        /// The delta.
        delta: PathBuf,
        /// The release that is held.
        base: Version,
        /// What does not fit.
        reason: String,
    },
    /// Its bytes are not those that were published, or make no sense.
    #[error("delta {} is damaged: {reason}; fetch it again or take the whole package", delta.display())]
    Damaged {
        /// The delta.
        delta: PathBuf,
        /// What, and where.
        reason: String,
        /// The decoder's words, where it has any.
        #[source]
        source: Option<io::Error>,
    },
    /// What it makes is not the file that the target's manifest describes.
    #[error("`{file}` made with {} is not the file that its manifest describes; take the whole package", delta.display())]
    Differs {
        /// The delta.
        delta: PathBuf,
        /// The file, by its path within the release.
        file: String,
    },
    /// It asks for more than the target's manifest or relmgr allows: it was made to do harm.
    #[error("delta {} is refused: {reason}; take the whole package", delta.display())]
    Limit {
        /// The delta.
        delta: PathBuf,
        /// Of what, and how much.
        reason: String,
    },
    /// The system refused.
    #[error("{} cannot be {what}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read`, `written`.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

fn io_error(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> DeltaError + use<> {
    let path = path.to_owned();
    move |source| DeltaError::Io { path, what, source }
}

/// A fault of a release's directory, in a delta's words.
fn tree_error(delta: &Path) -> impl Fn(TreeError) -> DeltaError {
    move |error| match error {
        TreeError::Io { path, what, source } => DeltaError::Io { path, what, source },
        other => DeltaError::Damaged { delta: delta.to_owned(), reason: other.to_string(), source: None },
    }
}

/// Whether a delta of `delta_size` bytes is worth it beside a package of `package_size`: past half of it the package
/// is taken, which needs no base, and is there for everybody anyway.
pub fn worth(delta_size: u64, package_size: u64) -> bool {
    delta_size <= package_size / 2
}
