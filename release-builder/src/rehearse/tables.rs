//! Whether two copies of state tables have the same records, as the release that has been shipped reads them.

use std::path::Path;

use relmgr_abi::record::Parts;
use relmgr_model::recording::{Recording, TABLES, TableRecording};
use relmgr_tables::{OpenError, Options, Store, Sync};

/// Room for what LMDB writes when it opens a copy.
const ROOM: u64 = 16 * 1024 * 1024;

/// What became of a table's records.
#[derive(Debug, Default, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct Compared {
    pub(super) name: String,
    /// So many there were.
    pub(super) records: u64,
    /// Not there any more, or kept aside.
    pub(super) missing: u64,
    /// There, in no form that the release reads.
    pub(super) unreadable: u64,
    /// With another content.
    pub(super) changed: u64,
    /// Whether they change by themselves.
    pub(super) moving: bool,
    /// Whether that was said, and not only found.
    #[serde(skip)]
    pub(super) named: bool,
    #[serde(skip)]
    first: Option<String>,
}

impl Compared {
    /// The loss in words; `None`: there is none.
    pub(super) fn loss(&self) -> Option<String> {
        let Self { missing, unreadable, changed, .. } = self;
        // What changes by itself may also go by itself; what cannot be read is lost all the same, and so is what is all
        // gone where only some of it was seen to change.
        let emptied = self.records > 0 && *missing == self.records && !self.named;
        let (missing, changed) = if self.moving && !emptied { (&0, &0) } else { (missing, changed) };
        let counts = [(missing, "missing"), (unreadable, "unreadable for it"), (changed, "changed")];
        let words: Vec<_> = counts
            .into_iter()
            .filter(|(count, _)| **count > 0)
            .map(|(count, word)| format!("{count} {word}"))
            .collect();
        if words.is_empty() {
            return None;
        }
        let first = self.first.as_deref().unwrap_or_default();
        Some(format!(
            "of {} records of table `{}` {}; the first one is {first}",
            self.records,
            self.name,
            words.join(", ")
        ))
    }

    /// Whether nothing happened to it.
    pub(super) fn is_same(&self) -> bool {
        (self.missing, self.unreadable, self.changed) == (0, 0, 0)
    }
}

/// Compares what two recordings of one release have in tables.
///
/// # Errors
/// One of them cannot be opened.
pub(super) fn compare((before, held): (&Path, &Recording), after: &Path) -> Result<Vec<Compared>, OpenError> {
    let after = match held.tables.as_ref().is_some_and(|_| after.join(TABLES).is_dir()) {
        true => after,
        // Nobody has opened a table since: all of them are as they were.
        false => return Ok(vec![]),
    };
    compare_all(before, (after, held), Content::Same)
}

/// What of the records of one recording the release of the other one, which came after it, cannot read. Their content
/// is not looked at: the release that wrote them was another.
///
/// # Errors
/// One of them cannot be opened.
pub(super) fn unreadable(
    made: &Path,
    (after, held): (&Path, &Recording),
) -> Result<Vec<Compared>, OpenError> {
    compare_all(made, (after, held), Content::OfAnother)
}

/// Whether the records before are those of the same release.
#[derive(Clone, Copy, PartialEq)]
enum Content {
    Same,
    OfAnother,
}

fn compare_all(
    before: &Path,
    (after, held): (&Path, &Recording),
    content: Content,
) -> Result<Vec<Compared>, OpenError> {
    let Some(tables) = held.tables.as_ref().filter(|tables| !tables.is_empty()) else { return Ok(vec![]) };
    let (before, after) = (open(before)?, open(after)?);
    tables.iter().map(|table| compare_one(table, &before, &after, content)).collect()
}

fn open(recording: &Path) -> Result<Store, OpenError> {
    let directory = recording.join(TABLES);
    let size = std::fs::metadata(directory.join("data.mdb")).map_or(0, |file| file.len());
    // A copy that is thrown away.
    Store::open(&directory, Options { max_bytes: size + ROOM, sync: Sync::Never })
}

fn compare_one(
    table: &TableRecording,
    before: &Store,
    after: &Store,
    content: Content,
) -> Result<Compared, OpenError> {
    let TableRecording { name, schema, .. } = table;
    let mut compared = Compared { name: name.clone(), ..Compared::default() };
    before.beside(after, name, |key, record, found| {
        let Some(parts) = Parts::of(record) else { return };
        let known = parts.for_schema(*schema);
        // What the release could not read before is not lost now.
        if parts.is_expired() || (known.is_none() && content == Content::Same) {
            return;
        }
        compared.records += 1;
        let count = match found.map(|found| Parts::of(found).and_then(|parts| parts.for_schema(*schema))) {
            None => &mut compared.missing,
            Some(None) => &mut compared.unreadable,
            Some(Some(_)) if content == Content::OfAnother => return,
            // One that was migrated in between cannot be told from its older form here.
            Some(Some(found)) if Some(found) == known || Some(found.0) > known.map(|known| known.0) => return,
            Some(Some(_)) => &mut compared.changed,
        };
        *count += 1;
        compared.first.get_or_insert_with(|| shown(key));
    })?;
    Ok(compared)
}

/// A key for people.
fn shown(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if text.chars().all(|c| !c.is_control()) => format!("`{text}`"),
        _ => key.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
