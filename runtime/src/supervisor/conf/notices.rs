//! What the operator is told of the configuration before a release runs.

use relmgr_conf::{Effective, Schema, SchemaDiff, What};
use relmgr_model::Version;
use relmgr_model::conf::{Notice, NoticeKind};
use relmgr_model::home::Home;

use crate::conf::read_schema;

/// What the schema of `to` changes against that of `from`.
pub fn schema_notices(home: &Home, from: &Version, to: &Version) -> Vec<Notice> {
    let schema = |version| match read_schema(home, version) {
        Ok(schema) => schema.or_else(|| Schema::parse("").ok()),
        Err(error) => {
            // A schema of the new release that cannot be used ends the operation a moment later.
            tracing::warn!(%error, "the schemas are not compared");
            None
        }
    };
    let (Some(old), Some(new)) = (schema(from), schema(to)) else { return vec![] };
    let notes = SchemaDiff::between(&old, &new).notes();
    notes.into_iter().map(|note| Notice { what: kind(note.what), key: note.key, text: note.text }).collect()
}

fn kind(what: What) -> NoticeKind {
    match what {
        What::Added => NoticeKind::Added,
        What::Dropped => NoticeKind::Dropped,
        What::Renamed => NoticeKind::Renamed,
        What::Retyped => NoticeKind::Retyped,
        What::Default => NoticeKind::Default,
        What::Required => NoticeKind::Required,
    }
}

/// What the operator's files use that is deprecated, renamed or removed.
pub fn outdated(effective: &Effective) -> Vec<Notice> {
    let notice = |fault: &relmgr_conf::Fault| Notice {
        what: NoticeKind::Outdated,
        key: fault.key.clone().unwrap_or_default(),
        text: fault.to_string(),
    };
    effective.warnings().iter().map(notice).collect()
}
