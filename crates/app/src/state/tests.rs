//! Shapes, chains and the bytes, without a host.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};

use bytes::Bytes;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::codec::{self, Sink, Source};
use super::{CodeChange, Shape, State, shape_hash};
use crate::Error;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, State)]
#[state(version = 0)]
struct Zero {
    many: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, State)]
#[state(version = 1)]
struct One {
    count: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, State)]
#[state(version = 2)]
struct Two {
    counts: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, State)]
#[state(version = 3)]
struct Three {
    counts: BTreeMap<String, u64>,
    kind: Kind<u8>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Shape)]
enum Kind<T> {
    Plain,
    Of(T),
    Tree { left: Box<Kind<T>>, right: Option<Box<Kind<T>>> },
}

fn chain() -> CodeChange<Three> {
    CodeChange::steps()
        .from(
            |old: Two| {
                let counts = old.counts.iter().enumerate().map(|(at, count)| (at.to_string(), *count));
                Ok(Three { counts: counts.collect(), kind: Kind::Plain })
            },
            |new: Three| Ok(Two { counts: new.counts.into_values().collect() }),
        )
        .from(
            |old: One| Ok(Two { counts: vec![old.count] }),
            |new: Two| match new.counts.as_slice() {
                [count] => Ok(One { count: *count }),
                counts => Err(format!("{} counts are not one", counts.len()).into()),
            },
        )
        .done()
}

fn written(write: impl FnOnce(&mut Sink<'_>), schema: u32, shape: u64) -> Vec<u8> {
    let mut bytes = vec![];
    let send = |chunk| {
        bytes.extend(chunk);
        Ok(())
    };
    let mut chunks = codec::sink(schema, shape, send).unwrap();
    write(&mut chunks);
    chunks.finish().unwrap();
    bytes
}

fn give<S: State>(change: &CodeChange<S>, state: S, schema: u32, into: &mut Sink<'_>) -> Result<(), Error> {
    change.giving(schema)?.give(state, into).map(drop)
}

/// A reader of `bytes` that get them in pieces of `size`.
fn reader(bytes: &[u8], size: usize, schema: u32, shape: u64) -> io::Result<Source<'static>> {
    let mut pieces: Vec<_> = bytes.chunks(size.max(1)).map(Bytes::copy_from_slice).rev().collect();
    codec::source(schema, shape, move || Ok(pieces.pop()))
}

#[test]
fn a_chain_goes_up_and_down_over_several_forms() {
    let change = chain();
    let one = written(|into| codec::encode(&One { count: 7 }, into).unwrap(), 1, shape_hash::<One>());
    let three = change.take(1, &mut reader(&one, 5, 1, change.shape(1).unwrap()).unwrap()).unwrap();
    assert_eq!(three.counts, BTreeMap::from([("0".into(), 7)]));

    let down = written(|into| give(&change, three.clone(), 1, into).unwrap(), 1, shape_hash::<One>());
    assert_eq!(down, one, "down is what up came from");
    let two = written(|into| give(&change, three, 2, into).unwrap(), 2, shape_hash::<Two>());
    let change_of_two: CodeChange<Two> = CodeChange::none();
    let two = change_of_two.take(2, &mut reader(&two, 3, 2, shape_hash::<Two>()).unwrap()).unwrap();
    assert_eq!(two, Two { counts: vec![7] });
}

#[test]
fn a_first_step_by_reference_gives_what_one_on_a_copy_gives_and_so_does_what_follows_it() {
    let looks: CodeChange<Two> = CodeChange::steps()
        .from_ref(
            |old: One| Ok(Two { counts: vec![old.count] }),
            |new: &Two| Ok(One { count: new.counts.iter().sum() }),
        )
        .from(|old: Zero| Ok(One { count: u64::from(old.many) }), |new: One| Ok(Zero { many: new.count > 1 }))
        .done();
    for (schema, shape, value) in [(1, shape_hash::<One>(), 5), (0, shape_hash::<Zero>(), 0xc3)] {
        let way = looks.giving(schema).unwrap();
        assert!(matches!(way, super::change::Give::Look(..)), "no copy is made for schema {schema}");
        let two = Two { counts: vec![2, 3] };
        let down = written(|into| drop(way.give(two, into).unwrap()), schema, shape);
        let mut from = reader(&down, 7, schema, shape).unwrap();
        let mut bytes = vec![];
        from.read_to_end(&mut bytes).unwrap();
        // A struct of one field: the array's head, then the value.
        assert_eq!(bytes, [0x91, value], "schema {schema}");
        let up = looks.take(schema, &mut reader(&down, 7, schema, shape).unwrap()).unwrap();
        assert_eq!(up.counts, [if schema == 1 { 5 } else { 1 }]);
    }
    assert!(looks.describe().older.iter().all(|older| older.hands_back));
}

#[test]
fn what_a_change_refuses_and_what_has_no_way_is_an_error() {
    let change = chain();
    let two = Three { counts: BTreeMap::from([("a".into(), 1), ("b".into(), 2)]), kind: Kind::Plain };
    let error = give(&change, two, 1, &mut codec::sink(1, 0, |_| Ok(())).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), "2 counts are not one");
    assert!(change.shape(9).unwrap_err().contains("schema 9"));
    let one_way: CodeChange<Two> =
        CodeChange::steps().from_only(|old: One| Ok(Two { counts: vec![old.count] })).done();
    assert!(one_way.gives(2).is_ok());
    assert!(one_way.gives(1).unwrap_err().contains("no way back"));
    let said = one_way.describe();
    assert_eq!((said.version, said.older.len(), said.older[0].hands_back), (2, 1, false));
}

#[test]
fn a_form_that_changed_has_another_hash() {
    mod was {
        use super::*;
        #[derive(Serialize, Deserialize, Shape)]
        pub struct Same {
            pub(super) a: u32,
            pub(super) list: Vec<Option<String>>,
        }
    }
    mod is {
        use super::*;
        #[derive(Serialize, Deserialize, Shape)]
        pub struct Renamed {
            #[serde(skip)]
            pub(super) _cache: u8,
            pub(super) a: u32,
            pub(super) list: std::collections::VecDeque<Option<String>>,
        }
    }
    macro_rules! shape {
        ($($form:tt)*) => {{
            #[derive(Serialize, Deserialize, Shape)]
            #[allow(dead_code, reason = "looked at, not used")]
            $($form)*
            shape_hash::<S>()
        }};
    }
    assert_eq!(
        shape_hash::<was::Same>(),
        shape_hash::<is::Renamed>(),
        "names of types are nobody's business"
    );
    let forms = [
        shape!(
            struct S {
                a: u32,
            }
        ),
        shape!(
            struct S {
                a: u64,
            }
        ),
        shape!(
            struct S {
                b: u32,
            }
        ),
        shape!(
            struct S {
                a: u32,
                b: u32,
            }
        ),
        shape!(
            struct S {
                b: u32,
                a: u32,
            }
        ),
        shape!(
            struct S {
                a: Option<u32>,
            }
        ),
        shape!(
            struct S {
                a: Box<Option<(u32, u32)>>,
            }
        ),
        shape!(
            struct S {
                a: Kind<u32>,
            }
        ),
        shape!(
            struct S {
                a: Kind<u64>,
            }
        ),
        shape!(
            struct S {
                a: HashMap<u32, u64>,
            }
        ),
        shape!(
            struct S {
                a: HashMap<u64, u32>,
            }
        ),
        shape!(
            struct S {
                a: [u32; 2],
            }
        ),
        shape!(
            struct S {
                a: [u32; 3],
            }
        ),
        shape!(
            enum S {
                A,
                B,
            }
        ),
        shape!(
            enum S {
                B,
                A,
            }
        ),
        shape!(
            enum S {
                A(u32),
                B,
            }
        ),
        shape!(
            enum S {
                A { a: u32 },
                B,
            }
        ),
        shape!(
            struct S {
                #[serde(with = "crate::settings::duration")]
                a: std::time::Duration,
            }
        ),
        shape!(
            struct S {
                a: std::time::Duration,
            }
        ),
        shape!(
            struct S {
                #[state(opaque)]
                a: std::time::Duration,
            }
        ),
    ];
    for (at, form) in forms.iter().enumerate() {
        assert_eq!(forms.iter().position(|other| other == form), Some(at), "form {at}");
    }
}

#[test]
fn another_schema_and_another_shape_are_refused() {
    let bytes = written(|into| into.write_all(b"x").unwrap(), 3, 0xab);
    let error = reader(&bytes, 64, 4, 0xab).err().unwrap().to_string();
    assert!(error.contains("is of schema 3") && error.contains("expected was schema 4"), "{error}");
    assert!(reader(&bytes, 64, 3, 0xac).is_err());
    assert!(reader(b"nonsense, and more of it, and more", 64, 3, 0xab).is_err());
    assert!(reader(b"", 64, 3, 0xab).is_err());
}

#[test]
fn what_is_left_over_is_an_error() {
    let bytes = written(|into| into.write_all(&[1, 2]).unwrap(), 1, 2);
    let mut from = reader(&bytes, 64, 1, 2).unwrap();
    assert_eq!(codec::decode::<u8>(&mut from).unwrap(), 1);
    assert!(from.finish().unwrap_err().to_string().contains("goes on after its end"));
}

proptest! {
    #[test]
    fn bytes_arrive_whole_or_not_at_all(
        len in 0_usize..600_000,
        size in 1_usize..300_000,
        hit in any::<prop::sample::Index>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let content: Vec<u8> = (0..len).map(|at| (at * 31 % 251) as u8).collect();
        let bytes = written(|into| into.write_all(&content).unwrap(), 1, 2);
        let read = |bytes: &[u8]| -> io::Result<Vec<u8>> {
            let mut from = reader(bytes, size, 1, 2)?;
            let mut found = vec![];
            from.read_to_end(&mut found)?;
            from.finish()?;
            Ok(found)
        };
        prop_assert!(read(&bytes).unwrap() == content);
        // One byte that is wrong, or an end that is missing.
        let mut damaged = bytes.clone();
        damaged[hit.index(bytes.len())] ^= 0x10;
        prop_assert!(read(&damaged).is_err());
        prop_assert!(read(&bytes[..cut.index(bytes.len())]).is_err());
    }
}
