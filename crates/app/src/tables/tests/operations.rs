//! What a table does for one release.

use std::time::Duration;

use crate::tables::{TableError, testing::Alone};

#[test]
fn records_are_put_read_changed_and_removed() {
    let alone = Alone::new().unwrap();
    let context = alone.context("1.0.0");
    let table = context.table::<String, u64>("numbers").unwrap();
    let key = |text: &str| text.to_owned();
    assert_eq!(table.get(&key("a")).unwrap(), None);
    table.put(&key("a"), &1).unwrap();
    table.put(&key(""), &0).unwrap();
    assert_eq!((table.get(&key("a")).unwrap(), table.get(&key("")).unwrap()), (Some(1), Some(0)));
    assert_eq!(table.add(&key("a"), 41).unwrap(), 42);
    let told = table.update(&key("a"), |number| number.replace(7)).unwrap();
    assert_eq!((told, table.get(&key("a")).unwrap()), (Some(42), Some(7)));
    table.update(&key("a"), |number| *number = None).unwrap();
    assert_eq!((table.get(&key("a")).unwrap(), table.len().unwrap()), (None, 1));
    assert!(table.delete(&key("")).unwrap() && !table.delete(&key("")).unwrap() && table.is_empty().unwrap());
}

#[test]
fn ranges_and_prefixes_come_in_order_in_batches_of_any_size() {
    let alone = Alone::new().unwrap();
    let table = alone.context("1.0.0").table::<(u32, String), u64>("pairs").unwrap();
    table
        .tables
        .write(|txn| {
            for number in 0..2_000_u64 {
                txn.put(&table, &((number % 2) as u32, format!("{number:04}")), &number)?;
            }
            Ok::<_, TableError>(())
        })
        .unwrap();
    let numbers = |range: crate::tables::Range<'_, (u32, String), u64>| {
        range.map(|record| record.unwrap().1).collect::<Vec<_>>()
    };
    let even: Vec<u64> = (0..2_000).step_by(2).collect();
    assert_eq!(numbers(table.prefix(&(0_u32,))), even);
    let backwards: Vec<u64> = even.iter().rev().copied().collect();
    assert_eq!(numbers(table.prefix(&(0_u32,)).reversed()), backwards);
    assert_eq!(numbers(table.range(..)).len(), 2_000);
    let key = |number: u64| (0_u32, format!("{number:04}"));
    assert_eq!(numbers(table.range(key(4)..key(8))), [4, 6]);
    assert_eq!(numbers(table.range(key(4)..=key(8)).reversed()), [8, 6, 4]);
    let after = (std::ops::Bound::Excluded(key(1_996)), std::ops::Bound::Excluded((1, String::new())));
    assert_eq!(numbers(table.range(after)), [1_998]);
    let mut first = vec![];
    let some = |_, number| {
        first.push(number);
        first.len() < 3
    };
    table.tables.read(|txn| txn.prefix(&table, &(1_u32,), some)).unwrap();
    assert_eq!(first, [1, 3, 5]);

    let names = alone.context("1.0.0").table::<String, u64>("names").unwrap();
    for (at, name) in ["a", "ab", "ab\0c", "abc", "b"].into_iter().enumerate() {
        names.put(&name.to_owned(), &(at as u64)).unwrap();
    }
    let found: Vec<_> = names.prefix(&"ab").map(|record| record.unwrap().1).collect();
    assert_eq!(found, [1, 2, 3]);
}

#[test]
fn a_transaction_is_whole_or_nothing() {
    let alone = Alone::new().unwrap();
    let context = alone.context("1.0.0");
    let tables = context.tables().unwrap();
    let (a, b) = (context.table::<u8, i64>("a").unwrap(), context.table::<u8, i64>("b").unwrap());
    let transfer = |amount: i64| {
        tables.write(|txn| {
            txn.add(&a, &1, -amount)?;
            txn.add(&b, &1, amount)?;
            if txn.get(&a, &1)? < Some(-10) { Err(TableError::Overflow) } else { Ok(()) }
        })
    };
    transfer(10).unwrap();
    assert_eq!(transfer(1), Err(TableError::Overflow));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        tables.write::<(), TableError>(|txn| {
            txn.put(&a, &1, &0)?;
            panic!("on purpose")
        })
    }));
    assert!(panicked.is_err());
    assert_eq!((a.get(&1).unwrap(), b.get(&1).unwrap()), (Some(-10), Some(10)));
    a.put(&2, &i64::MAX).unwrap();
    assert_eq!(a.add(&2, 1), Err(TableError::Overflow));
    assert_eq!(a.get(&2).unwrap(), Some(i64::MAX));
}

#[test]
fn counters_of_many_threads_add_up() {
    let alone = Alone::new().unwrap();
    let table = alone.context("1.0.0").table::<u8, u64>("counters").unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let table = &table;
            scope.spawn(move || {
                for _ in 0..1_000 {
                    table.add(&(thread % 2), 1).unwrap();
                }
            });
        }
    });
    assert_eq!((table.get(&0).unwrap(), table.get(&1).unwrap()), (Some(2_000), Some(2_000)));
}

#[test]
fn tables_are_opened_in_start_or_not_at_all() {
    let alone = Alone::new().unwrap();
    let context = alone.context("1.0.0");
    context.table::<u8, u64>("early").unwrap().put(&1, &1).unwrap();
    let tables = context.tables().unwrap();
    context.settle_tables();
    assert_eq!(tables.table::<u8, u64>("early").unwrap().get(&1).unwrap(), Some(1));
    assert_eq!(tables.table::<u8, u64>("late").unwrap_err(), TableError::Late("late".into()));
    insta::assert_snapshot!(context.table::<u8, u64>("late").unwrap_err().to_string(), @"table `late` was not opened in `start`: open it there, or a downgrade would not hand its records down, and nothing would migrate or expire them");
    assert_eq!(alone.facts().unwrap().tables.len(), 1, "it was not made");
}

#[test]
fn what_cannot_be_is_refused_in_words() {
    let alone = Alone::new().unwrap();
    let context = alone.context("1.0.0");
    let table = context.table::<String, u64>("numbers").unwrap();
    let refused = |error: TableError| error.to_string();
    let error = context.table::<u64, u64>("numbers").unwrap_err();
    assert!(matches!(error, TableError::Type(_)));
    insta::assert_snapshot!(refused(error), @"table `numbers` holds u64 by string, and this release opens it for u64 by u64: give the new records a table of another name");
    let error = context.table::<String, i64>("numbers").unwrap_err();
    assert!(matches!(error, TableError::Type(_)), "{error}");
    insta::assert_snapshot!(refused(context.table::<u64, u64>("a b").unwrap_err()), @"`a b` is no name for a table: 1 to 64 of a-z, A-Z, 0-9, `-`, `_`, `.`, `/`");
    insta::assert_snapshot!(refused(table.put(&"x".repeat(500), &1).unwrap_err()), @"a key of 502 bytes: a table's keys have 1 to 500");
    let nested = table.tables.write(|_| table.get(&"a".into()));
    insta::assert_snapshot!(refused(nested.unwrap_err()), @"a transaction was begun within another one: use the one that the closure was given");
    for number in 0..59 {
        context.table::<u8, u8>(&format!("t{number}")).unwrap();
    }
    insta::assert_snapshot!(refused(context.table::<u8, u8>("one-more").unwrap_err()), @"there are 60 tables already, as many as there may be");
    context.close_tables();
    insta::assert_snapshot!(refused(table.get(&"a".into()).unwrap_err()), @"the release has stopped: its tables are closed to it");
    assert!(matches!(context.table::<u8, u8>("t1"), Err(TableError::Closed(_))));
}

#[test]
fn a_full_map_refuses_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let alone = Alone::in_directory(directory.path(), 1 << 20).unwrap();
    let table = alone.context("1.0.0").table::<u64, Vec<u8>>("blobs").unwrap();
    let mut written = 0;
    let error = loop {
        match table.put(&written, &vec![7; 10_000]) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, TableError::Full(_)), "{error}");
    insta::assert_snapshot!(error.to_string(), @"the tables are full (1048576 bytes, tables.max_bytes): delete records, or set a greater value in relmgr.toml and start the node again");
    assert_eq!(table.len().unwrap(), written);
    assert_eq!(table.get(&(written - 1)).unwrap(), Some(vec![7; 10_000]));
    assert!(table.delete(&0).unwrap() && table.delete(&1).unwrap());
    table.put(&written, &vec![8; 10_000]).unwrap();
}

#[test]
fn records_with_a_time_are_gone_when_it_is_over() {
    let alone = Alone::new().unwrap();
    let context = alone.context("1.0.0");
    let table = context.table::<u8, u64>("sessions").unwrap();
    table.put_for(&1, &1, Duration::ZERO).unwrap();
    table.put_for(&2, &2, Duration::from_secs(3600)).unwrap();
    table.put(&3, &3).unwrap();
    assert_eq!((table.get(&1).unwrap(), table.get(&2).unwrap()), (None, Some(2)));
    assert_eq!(table.range(..).map(|record| record.unwrap().0).collect::<Vec<_>>(), [2, 3]);
    assert_eq!(table.len().unwrap(), 3);
    super::super::testing::sweep(&context).unwrap();
    assert_eq!(table.len().unwrap(), 2);
    table.add(&2, 1).unwrap();
    table.put_for(&1, &1, Duration::ZERO).unwrap();
    assert!(!table.delete(&1).unwrap(), "what is over is not there");
    let report = alone.facts().unwrap().tables[0].report.clone().unwrap();
    assert_eq!((report.expired, report.sweeping), (1, None));
}

#[tokio::test]
async fn a_watch_hears_every_generation() {
    let alone = Alone::new().unwrap();
    let (old, new) = (alone.context("1.0.0"), alone.context("2.0.0"));
    let here = old.table::<u8, u64>("numbers").unwrap();
    let there = new.table::<u8, u64>("numbers").unwrap();
    here.put(&9, &9).unwrap();
    let mut watch = here.watch().unwrap();
    there.put(&1, &1).unwrap();
    here.delete(&9).unwrap();
    here.delete(&9).unwrap();
    let heard = watch.changed().await;
    assert_eq!((heard.keys, heard.lost), (vec![1, 9], false));
    let waiting = tokio::spawn(async move { watch.changed().await.keys });
    tokio::task::yield_now().await;
    there.put(&2, &2).unwrap();
    assert_eq!(waiting.await.unwrap(), [2]);
}

#[test]
fn another_process_finds_everything_again() {
    let directory = tempfile::tempdir().unwrap();
    {
        let alone = Alone::in_directory(directory.path(), 1 << 20).unwrap();
        let table = alone.context("1.0.0").table::<u8, u64>("numbers").unwrap();
        table.put(&1, &1).unwrap();
    }
    let alone = Alone::in_directory(directory.path(), 1 << 20).unwrap();
    let facts = alone.facts().unwrap();
    let table = &facts.tables[0];
    assert_eq!((table.name.as_str(), table.key.as_str(), table.records), ("numbers", "u8", 1));
    assert!(facts.used_bytes > 0 && facts.used_bytes <= facts.max_bytes);
    assert_eq!(alone.context("1.0.0").table::<u8, u64>("numbers").unwrap().get(&1).unwrap(), Some(1));
}
