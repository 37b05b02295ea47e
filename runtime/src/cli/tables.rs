//! The state tables as `relmgr status` shows them.

use std::fmt::Write;

use relmgr_model::tables::{TableStatus, TablesStatus};

use super::output;

pub(super) fn text(status: &TablesStatus) -> String {
    let used = status.used_bytes as f64 * 100.0 / status.max_bytes.max(1) as f64;
    let mut text = format!(
        "  tables      {} ({}), {used:.1} % of {} used\n",
        status.path.display(),
        status.durability.name(),
        output::size(status.max_bytes)
    );
    let head = ["", "TABLE", "HOLDS", "RECORDS", "BYTES", "SCHEMA", "KEPT ASIDE", "SWEEP"];
    text.push_str(&output::table(&head, &status.tables.iter().map(row).collect::<Vec<_>>()));
    for table in &status.tables {
        if table.kept_aside > 0 {
            // Writing to a `String` cannot fail.
            let _ = writeln!(
                text,
                "  {} records of {} cannot be read by the release that serves: they come back with one that reads them",
                table.kept_aside, table.name
            );
        }
    }
    text
}

fn row(table: &TableStatus) -> Vec<String> {
    vec![
        String::new(),
        table.name.clone(),
        format!("{} by {}", table.record, table.key),
        table.records.to_string(),
        output::size(table.bytes),
        schemas(table),
        table.kept_aside.to_string(),
        sweep(table),
    ]
}

/// `2`, or `1: 400, 2: 100` while there are records of several.
fn schemas(table: &TableStatus) -> String {
    let counted = table.sweep.as_ref().map(|sweep| &sweep.schemas).filter(|schemas| !schemas.is_empty());
    match counted {
        Some(schemas) if schemas.iter().any(|count| count.schema != table.schema) => {
            let counts = schemas.iter().map(|count| format!("{}: {}", count.schema, count.records));
            counts.collect::<Vec<_>>().join(", ")
        }
        _ => table.schema.to_string(),
    }
}

fn sweep(table: &TableStatus) -> String {
    let Some(sweep) = &table.sweep else { return "-".into() };
    let mut words = vec![];
    if let Some(seen) = sweep.sweeping {
        words.push(format!("at {seen} of {}", table.records));
    }
    for (count, what) in [
        (sweep.migrated, "migrated"),
        (sweep.expired, "expired"),
        (sweep.unreadable, "unreadable"),
        (sweep.not_handed_down, "not handed down"),
    ] {
        if count > 0 {
            words.push(format!("{count} {what}"));
        }
    }
    if words.is_empty() { "done".into() } else { words.join(", ") }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use relmgr_model::tables::{Durability, SchemaCount, SweepStatus};

    pub fn example() -> TablesStatus {
        let table = |name: &str, record: &str, records, sweep| TableStatus {
            name: name.into(),
            key: "u64".into(),
            record: record.into(),
            schema: 2,
            opened: Some(2),
            records,
            bytes: records * 64,
            kept_aside: 0,
            sweep,
        };
        let count = |schema, records| SchemaCount { schema, records };
        let migrating = SweepStatus {
            schemas: vec![count(1, 400), count(2, 200)],
            sweeping: Some(600),
            migrated: 200,
            ..SweepStatus::default()
        };
        let done = SweepStatus { schemas: vec![count(2, 7)], unreadable: 1, ..SweepStatus::default() };
        TablesStatus {
            durability: Durability::Process,
            path: "/dev/shm/relmgr-00c0ffee00c0ffee".into(),
            used_bytes: 128 << 20,
            max_bytes: 1 << 30,
            tables: vec![
                table("polls", "poll", 1_000, Some(migrating)),
                TableStatus { kept_aside: 1, ..table("sessions", "session", 7, Some(done)) },
                table("votes", "u64", 0, None),
            ],
        }
    }
}
