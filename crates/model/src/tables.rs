//! State tables: the node's settings for them, and what `status` says.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// `[tables]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tables {
    /// What they outlive.
    pub durability: Durability,
    /// When a commit reaches the disk, where they lie there.
    pub sync: Sync,
    /// All of them together may take up so many bytes.
    pub max_bytes: u64,
    /// Where memory that processes share is mounted, for those that lie there.
    pub memory: PathBuf,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            sync: Sync::default(),
            max_bytes: 1024 * 1024 * 1024,
            memory: "/dev/shm".into(),
        }
    }
}

/// What state tables outlive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// Processes: in shared memory. They are gone after a reboot.
    #[default]
    Process,
    /// The machine: in the home directory.
    Disk,
}

impl Durability {
    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Process => "process",
            Self::Disk => "disk",
        }
    }
}

/// When a commit reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Sync {
    /// Before it returns.
    #[default]
    Commit,
    /// Its records before it returns, its last step with the next commit or within a second.
    Relaxed,
}

/// What there is to say of the state tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablesStatus {
    /// What they outlive.
    pub durability: Durability,
    /// Where they lie.
    pub path: PathBuf,
    /// So many bytes were ever taken up at once, of [`TablesStatus::max_bytes`].
    pub used_bytes: u64,
    /// All of them together may take up so many.
    pub max_bytes: u64,
    /// By name.
    pub tables: Vec<TableStatus>,
}

/// What there is to say of one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    /// Its name.
    pub name: String,
    /// What its keys are.
    pub key: String,
    /// What its records are.
    pub record: String,
    /// Their highest schema version so far.
    pub schema: u32,
    /// The lowest schema version of the releases that have it open; absent: none has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<u32>,
    /// How many there are.
    pub records: u64,
    /// Pages that they take up, in bytes.
    pub bytes: u64,
    /// Records that no release could read so far: they come back with one that can.
    pub kept_aside: u64,
    /// What the release that serves last counted; absent: it has not looked yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep: Option<SweepStatus>,
}

/// What a sweep has seen of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SweepStatus {
    /// Records by schema version, oldest first.
    pub schemas: Vec<SchemaCount>,
    /// It is under way and has looked at so many; absent: it is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sweeping: Option<u64>,
    /// Records that it has rewritten.
    pub migrated: u64,
    /// Records that it has removed when their time was over.
    pub expired: u64,
    /// Records that it could not read.
    pub unreadable: u64,
    /// Records that an older release which may be asked cannot read.
    pub not_handed_down: u64,
}

/// How many records have a schema version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaCount {
    /// The version.
    pub schema: u32,
    /// How many.
    pub records: u64,
}
