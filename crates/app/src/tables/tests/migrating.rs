//! Records of several schema versions: read on the way, swept, handed down, kept aside.

use super::releases::{First, Item, ONLY_THIRD, POISON, Second, Third};
use crate::Context;
use crate::tables::testing::{Alone, hand_down, sweep};
use crate::tables::{Record, Table};

fn open<V: Record>(context: &Context) -> Table<u64, V> {
    context.table("items").unwrap()
}

fn numbers<V: Item>(table: &Table<u64, V>) -> Vec<(u64, i128)> {
    table.range(..).map(|record| record.map(|(key, item)| (key, item.number())).unwrap()).collect()
}

fn schemas(alone: &Alone) -> Vec<(u32, u64)> {
    alone.facts().unwrap().tables[0].report.clone().unwrap().schemas.into_iter().collect()
}

fn aside(alone: &Alone) -> u64 {
    alone.facts().unwrap().tables[0].aside
}

#[test]
fn old_records_are_migrated_on_the_way_and_by_the_sweep() {
    let alone = Alone::new().unwrap();
    let old = alone.context("1.0.0");
    let first = open::<First>(&old);
    for number in 0..1_500 {
        first.put(&number, &First { number }).unwrap();
    }
    let new = alone.context("2.0.0");
    let second = open::<Second>(&new);
    assert_eq!(second.get(&7).unwrap().unwrap().label, "up from 7");
    assert_eq!(numbers(&second).len(), 1_500);

    // On probation: the old release may be asked again, so nothing is rewritten …
    second.put(&7, &Second { number: 70, label: "kept".into() }).unwrap();
    sweep(&new).unwrap();
    assert_eq!(schemas(&alone), [(1, 1_499), (2, 1)]);
    // … and it reads what the new one wrote, which has lost nothing itself.
    assert_eq!(first.get(&7).unwrap(), Some(First { number: 70 }));
    assert_eq!(second.get(&7).unwrap().unwrap().label, "kept");
    first.put(&8, &First { number: 80 }).unwrap();
    assert_eq!(second.get(&8).unwrap().unwrap().number, 80);

    // After the commit.
    old.close_tables();
    sweep(&new).unwrap();
    assert_eq!(schemas(&alone), [(2, 1_500)]);
    let report = alone.facts().unwrap().tables[0].report.clone().unwrap();
    assert_eq!((report.migrated, report.unreadable), (1_500, 0));
    assert_eq!(second.get(&7).unwrap().unwrap().label, "kept");
    assert_eq!(alone.facts().unwrap().tables[0].schema, 2);
}

#[test]
fn an_older_release_that_takes_over_finds_every_record() {
    let alone = Alone::new().unwrap();
    let new = alone.context("3.0.0");
    let third = open::<Third>(&new);
    for number in 0..1_500 {
        third.put(&number, &Third::of(number)).unwrap();
    }
    let old = alone.context("1.0.0");
    let first = open::<First>(&old);
    assert_eq!(numbers(&first), [], "they were written when nobody older was there");
    third.put(&7, &Third::of(70)).unwrap();
    assert_eq!(first.get(&7).unwrap(), Some(First { number: 70 }), "and from now on for both");
    assert_eq!(hand_down(&new).unwrap(), 1_499);
    assert_eq!(hand_down(&new).unwrap(), 0);
    assert_eq!(numbers(&first).len(), 1_500);
    new.close_tables();
    first.put(&9, &First { number: 90 }).unwrap();
    sweep(&old).unwrap();
    assert_eq!((aside(&alone), numbers(&first).len()), (0, 1_500));

    // And forward again: what only the newer release knew was kept where the older one wrote nothing.
    let again = alone.context("3.0.0");
    let third = open::<Third>(&again);
    assert_eq!(third.get(&8).unwrap().unwrap().label, "third 8");
    assert_eq!(third.get(&9).unwrap().unwrap().label, "up from 90");
}

#[test]
fn records_that_only_the_newer_release_reads_are_kept_aside_and_come_back() {
    let alone = Alone::new().unwrap();
    let new = alone.context("3.0.0");
    let third = open::<Third>(&new);
    third.put(&1, &Third::of(1)).unwrap();
    third.put(&2, &Third { number: ONLY_THIRD, label: "only".into() }).unwrap();
    let old = alone.context("1.0.0");
    let first = open::<First>(&old);
    assert_eq!(hand_down(&new).unwrap(), 1);
    let report = alone.facts().unwrap().tables[0].report.clone().unwrap();
    assert_eq!(report.not_handed_down, 1);
    sweep(&old).unwrap();
    assert_eq!(aside(&alone), 0, "the newer one has the table open and reads it");
    new.close_tables();
    sweep(&old).unwrap();
    assert_eq!((aside(&alone), numbers(&first)), (1, vec![(1, 1)]));
    sweep(&old).unwrap();
    assert_eq!(aside(&alone), 1);

    let again = alone.context("3.0.0");
    let third = open::<Third>(&again);
    old.close_tables();
    sweep(&again).unwrap();
    assert_eq!((aside(&alone), numbers(&third)), (0, vec![(1, 1), (2, ONLY_THIRD)]));
}

#[test]
fn what_an_older_release_writes_over_is_kept_aside() {
    let alone = Alone::new().unwrap();
    let new = alone.context("3.0.0");
    for key in [1, 2, 3] {
        let only = Third { number: ONLY_THIRD, label: format!("only {key}") };
        open::<Third>(&new).put(&key, &only).unwrap();
    }
    new.close_tables();
    let old = alone.context("1.0.0");
    let first = open::<First>(&old);
    first.put(&1, &First { number: 10 }).unwrap();
    assert!(!first.delete(&2).unwrap(), "for this release it is not there");
    assert_eq!(first.update(&3, |item| item.take()).unwrap(), None);
    first.put(&3, &First { number: 30 }).unwrap();
    assert_eq!((aside(&alone), numbers(&first)), (3, vec![(1, 10), (3, 30)]));
    old.close_tables();

    let again = alone.context("3.0.0");
    let third = open::<Third>(&again);
    sweep(&again).unwrap();
    assert_eq!(third.get(&2).unwrap().unwrap().label, "only 2", "its place was free");
    assert_eq!(third.get(&1).unwrap().unwrap().number, 10, "a place that was taken stays so");
    assert_eq!(aside(&alone), 2);
}

#[test]
fn a_record_that_does_not_decode_harms_no_other() {
    let alone = Alone::new().unwrap();
    let old = alone.context("1.0.0");
    let first = open::<First>(&old);
    for number in [1, POISON, 3] {
        first.put(&number, &First { number }).unwrap();
    }
    let broken = |table: &Table<u64, First>| {
        let key = crate::tables::key::to_bytes(&4_u64);
        let put = table.tables.0.store.write(|txn| (true, txn.put(table.opened.number, &key, b"\xffbroken")));
        put.unwrap().unwrap();
    };
    broken(&first);
    old.close_tables();
    let new = alone.context("2.0.0");
    let second = open::<Second>(&new);
    assert_eq!(second.get(&4).unwrap(), None);
    sweep(&new).unwrap();
    assert_eq!((aside(&alone), numbers(&second)), (2, vec![(1, 1), (3, 3)]));
    let report = alone.facts().unwrap().tables[0].report.clone().unwrap();
    assert_eq!((report.unreadable, report.migrated), (2, 2));

    let back = alone.context("1.0.0");
    let first = open::<First>(&back);
    assert_eq!(hand_down(&new).unwrap(), 2);
    new.close_tables();
    sweep(&back).unwrap();
    assert_eq!(first.get(&POISON).unwrap(), Some(First { number: POISON }), "it can be read again");
    assert_eq!(aside(&alone), 1, "the other one never can");
}

/// What the model's test found: a record of two forms, neither of which a third release reads.
#[test]
fn a_record_is_handed_down_twice() {
    let alone = Alone::new().unwrap();
    let second = alone.context("2.0.0");
    let items = open::<Second>(&second);
    let third = alone.context("3.0.0");
    open::<Third>(&third).put(&1, &Third::of(1)).unwrap();
    third.close_tables();
    sweep(&second).unwrap();
    assert_eq!(items.get(&1).unwrap(), Some(Second { number: 1, label: "third 1".into() }));
    let first = alone.context("1.0.0");
    let oldest = open::<First>(&first);
    assert_eq!((hand_down(&second).unwrap(), oldest.get(&1).unwrap()), (1, Some(First { number: 1 })));
    assert_eq!(items.get(&1).unwrap().unwrap().label, "third 1");
}
