//! What there is to say of state tables. The names of tables are the application's, and there are 60 at most.

use prometheus::proto::{MetricFamily, MetricType};
use relmgr_model::tables::{TableStatus, TablesStatus};

use super::{family, gauge};

pub(super) fn families(tables: Option<&TablesStatus>) -> Vec<MetricFamily> {
    let of_all = |name, help, value: &dyn Fn(&TablesStatus) -> u64| {
        let value = tables.map(|tables| gauge(&[], value(tables) as f64));
        family(name, help, MetricType::GAUGE, value.into_iter().collect())
    };
    let of_each = |name, help, value: &dyn Fn(&TableStatus) -> u64| {
        let tables = tables.iter().flat_map(|tables| &tables.tables);
        let values = tables.map(|table| gauge(&[("table", &table.name)], value(table) as f64));
        family(name, help, MetricType::GAUGE, values.collect())
    };
    vec![
        of_all(
            "relmgr_tables_used_bytes",
            "What state tables have taken up at once at most, of relmgr_tables_size_bytes",
            &|tables| tables.used_bytes,
        ),
        of_all("relmgr_tables_size_bytes", "What state tables may take up (tables.max_bytes)", &|tables| {
            tables.max_bytes
        }),
        of_each("relmgr_table_records", "Records, by state table", &|table| table.records),
        of_each("relmgr_table_bytes", "Pages that a state table takes up", &|table| table.bytes),
        of_each(
            "relmgr_table_kept_aside_records",
            "Records that the release that serves cannot read, kept for one that can",
            &|table| table.kept_aside,
        ),
        of_each(
            "relmgr_table_sweep_left_records",
            "Records that the sweep has still to look at, or to migrate to the schema version of the release",
            &left,
        ),
    ]
}

/// What is older than the release that serves, or has not been looked at since that began to.
fn left(table: &TableStatus) -> u64 {
    let Some(sweep) = &table.sweep else { return table.records };
    let unseen = sweep.sweeping.map_or(0, |seen| table.records.saturating_sub(seen));
    let schema = table.opened.unwrap_or(table.schema);
    let older = sweep.schemas.iter().filter(|count| count.schema < schema);
    older.map(|count| count.records).sum::<u64>() + unseen
}

#[cfg(test)]
mod tests {
    use super::*;
    use relmgr_model::tables::{SchemaCount, SweepStatus};

    #[test]
    fn what_is_left_to_the_sweep() {
        let counts = |counts: &[(u32, u64)]| {
            counts
                .iter()
                .map(|(schema, records)| SchemaCount { schema: *schema, records: *records })
                .collect()
        };
        let table = |opened, sweep| TableStatus {
            name: "items".into(),
            key: "u64".into(),
            record: "item".into(),
            schema: 3,
            opened,
            records: 100,
            bytes: 8192,
            kept_aside: 0,
            sweep,
        };
        let swept = |schemas: &[(u32, u64)], sweeping| {
            Some(SweepStatus { schemas: counts(schemas), sweeping, ..SweepStatus::default() })
        };
        assert_eq!(left(&table(Some(2), None)), 100, "nobody has looked");
        assert_eq!(left(&table(Some(2), swept(&[(1, 100)], None))), 100, "the release before has");
        assert_eq!(left(&table(Some(2), swept(&[(2, 60)], Some(60)))), 40);
        assert_eq!(
            left(&table(Some(2), swept(&[(1, 10), (2, 50)], Some(60)))),
            50,
            "an older one may be asked"
        );
        assert_eq!(
            left(&table(Some(2), swept(&[(2, 70), (3, 30)], None))),
            0,
            "a newer one's have both forms"
        );
        assert_eq!(left(&table(None, swept(&[(2, 100)], None))), 100, "of nobody's: against the highest");
    }
}
