//! The records of state tables as bytes: which schema version they have, until when they hold, and the form in which
//! an older release reads them.
//!
//! ```text
//! flags u8 | schema u32 | [expires u64, ms since the epoch] | [older schema u32, length u32, older form] | form
//! ```
//! Numbers are little-endian; a form is what serde and postcard make of the value.

use std::time::{Duration, SystemTime};

/// The record has a time.
pub const EXPIRES: u8 = 1;
/// The record has an older form beside its own.
pub const OLDER: u8 = 2;

/// A record's parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts<'a> {
    /// The schema version of its own form.
    pub schema: u32,
    /// Milliseconds since the epoch.
    pub expires: Option<u64>,
    /// An older form, and its schema version.
    pub older: Option<(u32, &'a [u8])>,
    /// Its own form.
    pub form: &'a [u8],
}

impl<'a> Parts<'a> {
    /// The parts of a record; `None`: it is none.
    pub fn of(bytes: &'a [u8]) -> Option<Self> {
        let (flags, bytes) = bytes.split_first()?;
        if flags & !(EXPIRES | OLDER) != 0 {
            return None;
        }
        let (schema, mut bytes) = bytes.split_first_chunk()?;
        let (mut expires, mut older) = (None, None);
        if flags & EXPIRES != 0 {
            let (found, rest) = bytes.split_first_chunk()?;
            (expires, bytes) = (Some(u64::from_le_bytes(*found)), rest);
        }
        if flags & OLDER != 0 {
            let (schema, rest) = bytes.split_first_chunk()?;
            let (len, rest) = rest.split_first_chunk()?;
            let (form, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
            (older, bytes) = (Some((u32::from_le_bytes(*schema), form)), rest);
        }
        Some(Self { schema: u32::from_le_bytes(*schema), expires, older, form: bytes })
    }

    /// Whether its time is over.
    pub fn is_expired(&self) -> bool {
        // The clock is asked only for records that have a time.
        self.expires.is_some_and(|expires| expires <= now_ms())
    }

    /// The form that a release of `schema` reads, and which schema version that is; `None`: it has none.
    pub fn for_schema(&self, schema: u32) -> Option<(u32, &'a [u8])> {
        let own = (self.schema, self.form);
        std::iter::once(own).chain(self.older).find(|(of, _)| *of <= schema)
    }
}

/// Milliseconds since the epoch.
pub fn now_ms() -> u64 {
    millis(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

/// A duration in milliseconds, as records have it.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
