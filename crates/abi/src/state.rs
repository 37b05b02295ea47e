//! In-memory state on its way from one generation to the next.
//!
//! The bytes are the libraries' own affair: the one that gives writes them, the one that takes reads them, and the
//! host only passes them on, so that neither side has to know the other's types. What is said of a state, so that
//! somebody can decide whether there is a way, crosses as JSON.

use serde::{Deserialize, Serialize};

/// The form of a library's state, and the older forms that it knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// Schema version of the state's type.
    pub version: u32,
    /// Hash of the type's shape, 16 hexadecimal digits.
    pub shape: String,
    /// Newest first.
    pub older: Vec<Older>,
}

/// An older form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Older {
    /// Its schema version.
    pub version: u32,
    /// Hash of its shape, 16 hexadecimal digits.
    pub shape: String,
    /// Whether the library can also give its state in this form.
    pub hands_back: bool,
}

/// What the trial of a code change came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Bytes that were read.
    pub bytes: u64,
    /// How long reading and changing them took, in milliseconds.
    pub ms: f64,
}
