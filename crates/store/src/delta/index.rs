//! A delta's first entry: what the others are.

use std::collections::BTreeSet;

use super::moves::{MAX_MOVES, Moves};
use relmgr_model::Version;
use relmgr_model::manifest::{self, Manifest};
use serde::{Deserialize, Serialize};

/// The format of delta that this relmgr writes and reads.
const FORMAT: u32 = 1;

/// The index's entry.
pub(super) const NAME: &str = "index.toml";

/// Limit on the index's text: it names no more files than a manifest, and says less of each.
pub(super) const MAX_BYTES: u64 = manifest::MAX_BYTES;

/// What a delta says of itself. Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Index {
    /// Format number, [`FORMAT`].
    format: u32,
    /// The application's name.
    name: String,
    /// The release that it starts from.
    from: Version,
    /// The release that it makes.
    to: Version,
    /// The target's files that are executable: a manifest does not say.
    pub(super) executable: BTreeSet<String>,
    /// What is in it, in the order of the entries.
    #[serde(default)]
    pub(super) files: Vec<Entry>,
}

/// One file of the target that the base does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// Where it lies in the target.
    pub(super) path: String,
    /// SHA-256 of the base's file that the patch starts from; absent: the entry is the whole content as gzip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) base: Option<String>,
    /// What moved in it, which is corrected before the patch is applied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) moves: Moves,
}

/// Why an index cannot be used.
#[derive(Debug)]
pub(super) enum IndexFault {
    /// It contradicts itself or the target's manifest.
    Damaged(String),
    /// It starts from something else.
    WrongBase(String),
}

impl Index {
    /// The index of a delta between two releases.
    pub(super) fn new(
        base: &Manifest,
        target: &Manifest,
        executable: BTreeSet<String>,
        files: Vec<Entry>,
    ) -> Self {
        Self {
            format: FORMAT,
            name: target.name.clone(),
            from: base.version.clone(),
            to: target.version.clone(),
            executable,
            files,
        }
    }

    /// The index as TOML.
    pub(super) fn to_toml(&self) -> String {
        // Every field has a TOML form; only a foreign `Serialize` could fail.
        toml::to_string(self).unwrap_or_else(|error| unreachable!("an index is always TOML: {error}"))
    }

    /// Reads an index and holds it against what is held and what is to be made.
    pub(super) fn parse(text: &str, base: &Manifest, target: &Manifest) -> Result<Self, IndexFault> {
        let damaged = |reason: String| Err(IndexFault::Damaged(reason));
        let index: Self = match toml::from_str(text) {
            Ok(index) => index,
            Err(error) => return damaged(format!("its index does not parse: {}", error.message())),
        };
        if index.format != FORMAT {
            return damaged(format!("it has format {}, this relmgr reads format {FORMAT}", index.format));
        }
        if index.name != target.name || index.to != target.version {
            return damaged(format!(
                "it makes {} {}, not {} {}",
                index.name, index.to, target.name, target.version
            ));
        }
        if index.from != base.version || base.name != target.name {
            return Err(IndexFault::WrongBase(format!("it starts from {} {}", index.name, index.from)));
        }
        let known = |path: &String| target.files.contains_key(path);
        let paths = || index.files.iter().map(|entry| &entry.path);
        if let Some(path) = index.executable.iter().chain(paths()).find(|path| !known(path)) {
            return damaged(format!("`{path}` in its index is no file of release {}", target.version));
        }
        // The order is fixed, so that a file that comes twice cannot hide.
        if let Some(entry) = index.files.windows(2).find(|pair| pair[0].path >= pair[1].path) {
            return damaged(format!("`{}` in its index is out of order or comes twice", entry[1].path));
        }
        let sorted = |moves: &Moves| moves.windows(2).all(|pair| pair[0].0 < pair[1].0);
        if let Some(entry) =
            index.files.iter().find(|entry| !sorted(&entry.moves) || entry.moves.len() > MAX_MOVES)
        {
            return damaged(format!("what moved in `{}` is too much or out of order", entry.path));
        }
        Ok(index)
    }
}
