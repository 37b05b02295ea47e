//! A recording of what an application keeps: its state in memory and its state tables, in a directory.
//!
//! ```text
//! recording.json     what it holds; written last, so that a recording with it is whole
//! memory             the state in memory as it crosses from release to release
//! tables/data.mdb    the state tables, a copy of LMDB's file
//! ```

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Version;

/// The file that says what a recording holds.
pub const DESCRIPTION: &str = "recording.json";

/// The file of the state in memory.
pub const MEMORY: &str = "memory";

/// The directory of the state tables.
pub const TABLES: &str = "tables";

/// A request to make a recording, or to give the release that serves what one holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordingRequest {
    /// Its directory, absolute, as the node's user sees it. One that is made must not be there yet.
    pub directory: PathBuf,
}

/// What a recording holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recording {
    /// The application.
    pub app: String,
    /// The release that served.
    pub version: Version,
    /// Its state in memory; `None`: it keeps none.
    pub memory: Option<MemoryRecording>,
    /// Its state tables, by name; `None`: it has opened none.
    pub tables: Option<Vec<TableRecording>>,
}

/// A state in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryRecording {
    /// Its schema version.
    pub schema: u32,
    /// Hash of its shape, hexadecimal.
    pub shape: String,
    /// Its bytes.
    pub bytes: u64,
}

/// A state table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRecording {
    /// Its name.
    pub name: String,
    /// The schema version in which the release that served has its records.
    pub schema: u32,
    /// How many there were.
    pub records: u64,
    /// Those that the release could not read.
    pub kept_aside: u64,
}

/// The release that serves has what a recording holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// The release.
    pub version: Version,
    /// The schema version of the recording.
    pub schema: u32,
    /// Its bytes.
    pub bytes: u64,
}
